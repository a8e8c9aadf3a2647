"""The command: help without PyTorch, presets against options, one line for every error, and the whole road on a tiny
data set."""
import csv, json, os, re, shutil, subprocess, sys

import pytest

import micacl
from micacl import cli
from micacl.core import MicaclError, read_json
from micacl.train.config import PRESETS, Config

PACKAGE = os.path.dirname(os.path.dirname(micacl.__file__))
TINY = "--no-pretrained --epochs 1 --batch-size 7 --image-size 32 --mccl-args out_dim=16 --quiet".split()


@pytest.fixture(autouse=True)
def wide(monkeypatch): monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "28 training clips and two test sets of 7, 32 px."
    root = tmp_path_factory.mktemp("cli") / "faces"
    assert cli.main(["synfew", str(root),
                     *"--train 28 --test 7 --frames 8 --size 32 --workers 1 --seed 5".split()]) == 0
    return root


def run(capsys, *argv):
    "Exit status, stdout, stderr of the command, in this process."
    capsys.readouterr()
    try: status = cli.main([str(a) for a in argv])
    except SystemExit as e: status = e.code
    out = capsys.readouterr()
    return status, out.out, out.err


def one_line(err):
    "The error output is a single line of the form `micacl: …`."
    assert err.startswith("micacl: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
    return err


# ---- help and usage

def test_help_loads_neither_torch_nor_matplotlib():
    code = ("import sys\nfrom micacl.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: "
            "pass\nprint(sorted({'torch', 'matplotlib', 'sklearn', 'av', 'PIL'} & set(sys.modules)))")
    for argv in (["--help"], ["train", "--help"], ["--version"]):
        out = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": PACKAGE}).stdout
        assert out.splitlines()[-1] == "[]", out.splitlines()[-1]


def test_the_library_is_imported_without_what_few_need():
    "torchvision takes as long to import as torch; scikit-learn and matplotlib a second each."
    code = ("import sys, micacl.models, micacl.longtail, micacl.train.loop, micacl.train.experiments\n"
            "few = {'torchvision', 'torch._dynamo', 'sklearn', 'scipy', 'matplotlib', 'IPython'}\n"
            "print(sorted(few & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": PACKAGE}).stdout
    assert out.strip() == "[]"


def test_help_names_every_command_and_nothing_alone_is_help(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0 and all(f"• {name} " in out for name in cli.COMMANDS)
    assert run(capsys) == (0, out, "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    first = cli.COMMANDS[name].__doc__.split(".")[0]
    assert " ".join(first.split()) in " ".join(out.split())
    for field in cli.COMMANDS[name].__dataclass_fields__:
        if field not in ("clips", "network", "loss", "training", "computing", "data", "run_folder", "spec", "runs",
                         "videos", "folder") and not (field == "out" and name in ("synfew", "pretrain", "export", "get",
                                                                        "faces")):
            assert "--" + field.replace("_", "-") in out
    text = re.sub(r"[│╭╰─╮╯]", " ", out)
    # each has words of help behind it or under it
    for option in re.findall(r"(?m)^ +(--[a-z][a-z0-9-]*)(.*)$", text):
        after = text.split(option[0] + option[1], 1)[1].split("--", 1)[0]
        assert re.search(r"[a-z]{3,}.*\(default|[a-z]{3,} [a-z]+|required", option[1] + after), option


def test_train_help_has_every_setting_with_its_comment(capsys):
    out = " ".join(re.sub(r"[│╭╰─╮╯]", " ", run(capsys, "train", "--help")[1]).split())
    for field in Config.__dataclass_fields__: assert "--" + field.replace("_", "-") in out
    assert "highest learning rate (AdamW) (default: 0.003)" in out
    assert "arguments of MCCL: readings of the paper (default: on=bag warmup=0.0 scales=1,2,4 tau0=0.07" in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"micacl {micacl.__version__}\n", "")


@pytest.mark.parametrize("argv, word", [
    ("train D --out R --learning-rate 1", "--learning-rate"), ("train D --out R --preset big", "big"),
    ("train D --out R --epochs many", "many"),
    ("train D", "--out"), ("chek D", "chek"), ("check", "DATA"), ("synfew O --profile rare", "rare"),
    ("check D --dataset imagenet", "imagenet")])
def test_wrong_usage_is_status_2_and_names_the_word(capsys, argv, word):
    status, out, err = run(capsys, *argv.split())
    assert status == 2 and word in err and "Traceback" not in out + err


# ---- settings

def parse(line): return cli._parse(line.split())


def test_presets_give_defaults_and_options_override_them_wherever_they_stand():
    for name, make in PRESETS.items(): assert parse(f"train D --out R --preset {name}").config == make()
    for line in ("--epochs 3 --preset paper --lr 0.1", "--preset paper --lr 0.1 --epochs 3",
                 "--preset=paper --epochs=3 --lr=0.1"):
        config = parse(f"train D --out R {line}").config
        assert config == PRESETS["paper"]().__class__(**{**PRESETS["paper"]().to_dict(), "epochs": 3, "lr": .1})
    # the default of `small`, said aloud
    assert parse("train D --out R --preset paper --epochs 10").config.epochs == 10
    assert parse("train D --out R --preset m3dfel --mccl-weight 2 --augment-args flip=false").config.mccl_weight == 2


def test_dashes_underscores_tuples_and_switches():
    a = parse("train D --out R --batch-size 4 --mccl-args scales=1,8 --no-pretrained")
    b = parse("train D --out R --batch_size 4 --mccl_args scales=1,8 --no-pretrained")
    assert a == b and a.config.mccl.scales == (1, 8) and a.config.pretrained is False and a.config.augment.flip is True


def test_a_resumed_run_keeps_its_settings_but_says_what_is_asked(tmp_path):
    own = Config(epochs=7, lr=.5, mccl_args=dict(scales=(1,)))
    (tmp_path / "config.json").write_text(json.dumps(dict(config=own.to_dict(), classes=["a", "b"], dataset="csv",
                                                          data="D", fold=None, train_counts=[1, 1], train_clips="0")))
    assert parse(f"train D --out {tmp_path} --resume").config == own
    # then training refuses, and says why
    assert parse(f"train D --out {tmp_path} --resume --epochs 9").config.epochs == 9
    assert parse(f"train D --out {tmp_path}").config == Config()
    assert parse(f"train D --out {tmp_path / 'new'} --resume --preset paper").config == PRESETS["paper"]()


# ---- errors

@pytest.mark.parametrize("argv", ["train nowhere --out run", "cache nowhere", "evaluate nowhere nowhere",
                                  "synfew out --size 33", "synfew out --train 3",
                                  "train nowhere --out run --epochs 0", "train nowhere --out run --model resnet",
                                  "train nowhere --out run --mccl-args form=exp"])
def test_what_the_user_can_mend_is_one_line_and_status_1(capsys, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *argv.split())
    assert status == 1 and out == ""
    one_line(err)


def test_check_of_a_wrong_path_says_unusable(capsys, tmp_path):
    status, out, err = run(capsys, "check", tmp_path / "nowhere")
    assert status == 1 and "unusable" in out and "nowhere" in out and err == ""
    status, out, _ = run(capsys, "check", tmp_path / "nowhere", "--json")
    assert status == 1 and json.loads(out)["ok"] is False


@pytest.mark.parametrize("error, status, words", [
    (MicaclError("data: broken\nline"), 1, "data: broken line"),
    (OSError(28, "No space left on device", "/x/y.mp4"), 1, "/x/y.mp4: No space left on device"),
    (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
    (OSError("odd\nerror"), 1, "odd error"),
    (KeyboardInterrupt(), 130, "the same command goes on")])
def test_errors_become_one_line(capsys, monkeypatch, error, status, words):
    def fail(*a, **k): raise error
    monkeypatch.setattr("micacl.data.synfew.generate.generate", fail)
    code, _, err = run(capsys, "synfew", "out")
    assert code == status and words in one_line(err)


def test_a_stopped_training_says_how_to_go_on(capsys, monkeypatch, faces, tmp_path):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr("micacl.train.loop._train", stop)
    status, _, err = run(capsys, "train", faces, "--out", tmp_path / "run", *TINY)
    assert status == 130 and "--resume" in one_line(err)
    monkeypatch.setattr("micacl.show.demo.generate", lambda *a, **k: None)
    status, _, err = run(capsys, "demo", "--out", tmp_path / "demo")
    assert status == 130 and "the same command goes on" in one_line(err) and "--resume" not in err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*a, **k): raise ZeroDivisionError
    monkeypatch.setattr("micacl.data.synfew.generate.generate", fail)
    with pytest.raises(ZeroDivisionError): cli.main(["synfew", "out"])


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
def test_a_reader_that_has_seen_enough_is_no_error(faces):
    code = "import sys\nfrom micacl.cli import main\nsys.exit(main(sys.argv[1:]))"
    for argv in (["check", faces], ["--version"]):
        read, write = os.pipe()
        # gone before the first word, so that even a short output, kept back until the end, finds nobody
        os.close(read)
        done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], stdout=write, stderr=subprocess.PIPE,
                              text=True, env={**os.environ, "PYTHONPATH": PACKAGE})
        os.close(write)
        assert done.stderr == "" and done.returncode == 1


# ---- the whole road

def test_synfew_check_cache_train_evaluate(capsys, faces, tmp_path):
    assert len(read_json(faces / "synfew.json")["classes"]) == 7 and len(list((faces / "clips").iterdir())) == 42
    status, out, err = run(capsys, "check", faces, "--decode")
    assert status == 0 and "usable, 42 clips" in out and err == ""
    status, out, _ = run(capsys, "check", faces, "--json")
    assert (status == 0 and json.loads(out)["counts"]["train"]
            == list(read_json(faces / "synfew.json")["counts"]["train"].values()))
    status, out, _ = run(capsys, "cache", faces, "--size", "32")
    assert status == 0 and "42 clips cached at 32 px, 0 skipped" in out
    status, out, err = run(capsys, "train", faces, "--out", tmp_path / "run", *TINY)
    assert status == 0 and err == ""
    results = read_json(tmp_path / "run/results.json")
    for name in ("test", "test_balanced"):
        s = results["tests"][name]
        assert (f"{name}: UAR {100 * s['uar']:.1f} % [" in out and f"WAR {100 * s['war']:.1f} % [" in out
                and "7 clips" in out)
    saved = read_json(tmp_path / "run/config.json")["config"]
    assert saved["epochs"] == 1 and saved["pretrained"] is False and saved["lr"] == Config().lr
    status, out, _ = run(capsys, "evaluate", tmp_path / "run", faces, "--json", tmp_path / "scores.json", "--out",
                         tmp_path / "again")
    assert status == 0 and read_json(tmp_path / "scores.json")["tests"] == results["tests"]
    status, _, err = run(capsys, "train", faces, "--out", tmp_path / "run", *TINY)            # never over another run
    assert status == 1 and "--resume" in one_line(err)


def test_a_csv_of_one_s_own_with_every_kind_of_broken_clip(capsys, faces, tmp_path):
    good = sorted((faces / "clips").glob("*.mp4"))
    def put(name, data): (tmp_path / name).write_bytes(data); return name
    bad = {put("empty.mp4", b""): "empty", put("words.mp4", b"not a video\n" * 50): "words",
           put("half.mp4", good[0].read_bytes()[:900]): "half",
           "missing.mp4": "missing", "no_frames": "folder"}
    (tmp_path / "no_frames").mkdir()
    rows = [(os.path.relpath(shutil.copy(p, tmp_path / p.name), tmp_path), ("yes", "no")[i % 2],
             "test" if i % 4 > 1 else "train") for i, p in enumerate(good[:24])]
    with open(tmp_path / "clips.csv", "w", newline="") as f:
        csv.writer(f).writerows([("path", "label", "split"), *rows[:5], *((name, "yes", "train") for name in bad),
                                 *rows[5:]])
    status, out, _ = run(capsys, "check", tmp_path, "--decode")
    assert status == 0 and all(sum(name in line for line in out.splitlines()) == 1 for name in bad), out
    loud = [a for a in TINY if a != "--quiet"]
    status, out, err = run(capsys, "train", tmp_path, "--out", tmp_path / "run", *loud)
    assert status == 0 and err == ""
    named = [line for line in re.split(r"[\r\n]+", out) if line.startswith("skipped: ")]
    assert len(named) == len(bad) and all(sum(name in line for line in named) == 1 for name in bad), named
    assert sorted(read_json(tmp_path / "run/results.json")["skipped"]) == sorted(n.removeprefix("skipped: ")
        for n in named)
    status, _, err = run(capsys, "train", tmp_path, "--out", tmp_path / "strict", "--on-bad-clip", "stop", *TINY)
    assert status == 1 and any(name in one_line(err) for name in bad)


def test_folds_train_table_predict_export(capsys, faces, tmp_path, monkeypatch):
    good = sorted((faces / "clips").glob("*.mp4"))
    with open(tmp_path / "clips.csv", "w", newline="") as f:
        csv.writer(f).writerows([("path", "label", "group"),
                                 *((p, ("glad", "bored")[i % 2], f"person{i // 4}") for i, p in enumerate(good[:24]))])
    status, out, _ = run(capsys, "folds", tmp_path / "clips.csv", "--out", tmp_path / "folds.csv", "--k", "2")
    assert (status == 0 and "fold 1: bored " in out and "fold 2: " in out and f"micacl train {tmp_path / 'folds.csv'} "
            "--fold 1" in out)
    for k in "12":
        assert run(capsys, "train", tmp_path / "folds.csv", "--fold", k, "--out", tmp_path / f"run{k}", *TINY)[0] == 0
    rows = lambda text: [line.split() for line in text.splitlines()]
    status, out, _ = run(capsys, "table", tmp_path / "run1", tmp_path / "run2", "--folds")
    assert (status == 0 and rows(out)[0] == ["method", "bored", "glad", "UAR", "WAR"]
            and [r[:2] for r in rows(out)[2:4]] == [["fold", "1"], ["fold", "2"]])
    pooled = next(r for r in rows(out) if r[0] == "pooled")
    matrix = [[sum(n) for n in zip(*pair)] for pair in zip(*(read_json(tmp_path / f"run{k}/results.json")["confusion"]
                                                             for k in "12"))]
    assert sum(map(sum, matrix)) == 24                                               # every clip is tested once
    assert pooled[-1] == f"{100 * sum(matrix[i][i] for i in (0, 1)) / 24:.2f}"
    assert r"\begin{tabular}" in run(capsys, "table", tmp_path / "run1", tmp_path / "run2", "--format", "latex")[1]
    status, out, err = run(capsys, "predict", tmp_path / "run1", good[0], tmp_path / "nothing.mp4", "--no-crop",
                           "--json", "--out", tmp_path / "said")
    assert status == 1 and "nothing.mp4" in one_line(err)                            # named, and the others go on
    assert any(good[0].name in json.dumps(said) for said in json.loads(out)) and any((tmp_path / "said").iterdir())
    status, out, _ = run(capsys, "predict", tmp_path / "run1", good[0], "--no-crop", "--out", tmp_path / "said",
                         "--plot", tmp_path / "picture.png")
    assert status == 0 and (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    status, out, _ = run(capsys, "export", tmp_path / "run1", tmp_path / "shared", "--format", "hub")
    assert (status == 0 and {"model.safetensors", "config.json",
                             "README.md"} <= {p.name for p in (tmp_path / "shared").iterdir()})
    assert (run(capsys, "export", tmp_path / "run1", tmp_path / "model.pt2", "--format", "torch")[0] == 0
            and (tmp_path / "model.pt2").stat().st_size > 10**5)
