"Any terminal, any file name, any environment: what the command prints and writes, and that one failure stays one."
import codecs
import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import huggingface_hub
import numpy as np
import pytest
import torch

import micacl
from helpers import CLASSES
from micacl import cli
from micacl.deploy import predict as P
from micacl.deploy import prediction as Q
from micacl.core import MicaclError, atomic_write, derive_seed, read_json, write_json
from micacl.train.config import Config
from micacl.data.frames import ClipError
from micacl.metrics import summarise
from micacl.train.objective import build_model
from micacl.deploy.filenames import FreeNames, safe_name
from micacl.show.report import _still_there, write_report
from micacl.train.run import is_shared, load_run
from micacl.train.checkpoint import write_tensors
from micacl.deploy.sharing import load_model, save_pretrained
from micacl.nn.hub import fetch
from micacl.show.tables import read_results

ENV = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(micacl.__file__))}
LATIN = os.fsdecode(b"caf\xe9")                      # a name whose last byte is not UTF-8
posix = pytest.mark.skipif(os.name != "posix", reason="names and descriptors of POSIX")


def takes(folder, name):
    "Whether the file system accepts a name."
    try: (Path(folder) / name).touch(); (Path(folder) / name).unlink()
    except (OSError, ValueError): return False
    return True


def video(path, n=6):
    with av.open(str(path), "w", format="mp4") as box:
        v = box.add_stream("mpeg4", rate=10); v.width = v.height = 32; v.pix_fmt = "yuv420p"
        for i in range(n):
            frame = np.full((32, 32, 3), 30 * i, np.uint8)
            box.mux(v.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        box.mux(v.encode())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder as `micacl train` leaves it, with weights that were never trained."
    folder, names = tmp_path_factory.mktemp("run") / "run", ["快乐", *CLASSES[1:]]
    folder.mkdir(); torch.manual_seed(0)
    config = Config(model="mean", pretrained=False, image_size=32, n_instances=2, instance_length=2, epochs=1)
    info = dict(config=config.to_dict(), dataset="csv", data="/nowhere", fold=None, classes=names, n_train=42,
                n_validation=5, train_counts=[9, 5, 11, 7, 4, 3, 3], train_clips="00ff", version="0.1.0",
                command=f"micacl train {LATIN}")
    write_json(folder / "config.json", info)
    write_tensors(folder / "model.safetensors", build_model(config, 7).state_dict())
    y, logits = np.arange(28) % 7, np.eye(7)[np.arange(28) % 7 // 2]
    scores = summarise(y, logits, names, info["train_counts"])
    write_json(folder / "results.json", dict(model="mean", dataset="csv", fold=None, seed=42, epoch=1, **scores,
                                             tests=dict(test=scores), skipped=[f"/data/{LATIN}/x.mp4: broken"]))
    ids, weights = np.array([f"c{i}" for i in range(28)]), np.full((28, 2), .5)
    np.savez(folder / "predictions.npz", id=ids, split=np.array(["test"] * 28), y=y, logits=logits, weights=weights)
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory): return save_pretrained(str(run), tmp_path_factory.mktemp("hub") / "model")


@pytest.fixture
def quick(monkeypatch):
    "A stand-in for the picture, which takes half a second to draw."
    def save(p, file):
        with atomic_write(file, "wb") as f: f.write(b"x")
    for module in (P, Q): monkeypatch.setattr(module, "save_plot", save)


def said(monkeypatch, encoding, *argv, errors="strict"):
    "Exit status and what a standard output of this encoding receives."
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors=errors) as out:
        monkeypatch.setattr(sys, "stdout", out)
        status = cli.main([str(a) for a in argv])
        assert sys.stdout is out and out.errors == errors            # as it was
        return status, raw.getvalue().decode(encoding)


# ---- standard output and error

@pytest.fixture
def chinese(tmp_path):
    "A data set whose classes have Chinese names, in a folder with a name like that."
    folder = tmp_path / "数据"; folder.mkdir()
    for i in range(4): video(folder / f"{i}.mp4")
    rows = [f"{i}.mp4,{('快乐', '😀')[i % 2]}" for i in range(4)]
    (folder / "clips.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
def test_every_command_prints_to_every_encoding(quick, monkeypatch, encoding, chinese, run, tmp_path):
    status, out = said(monkeypatch, encoding, "check", chinese)
    assert status == 0 and "?? (csv): usable, 4 clips" in out
    status, out = said(monkeypatch, encoding, "check", chinese, "--json")
    assert status == 0 and json.loads(out)["classes"] == ["快乐", "😀"]
    status, out = said(monkeypatch, encoding, "cache", chinese, "--size", "32")
    assert status == 0 and "??: 4 clips cached" in out
    status, out = said(monkeypatch, encoding, "table", run, "--caption", "±–")
    assert status == 0 and "??" in out and "UAR" in out
    clips, options = [chinese / "0.mp4", chinese / "1.mp4"], ["--no-crop", "--out", tmp_path / "快"]
    status, out = said(monkeypatch, encoding, "predict", run, *clips, *options)
    assert status == 0 and out.count("written: ") == 2 and len(list((tmp_path / "快").glob("*.json"))) == 2
    status, out = said(monkeypatch, encoding, "predict", run, clips[0], "--json", *options)
    assert json.loads(out)[0]["video"] == str(chinese / "0.mp4") and json.loads(out)[0]["classes"][0] == "快乐"


def test_a_choice_of_another_replacement_is_kept(monkeypatch, chinese):
    assert "\\u5feb\\u4e50" in said(monkeypatch, "ascii", "check", chinese, errors="backslashreplace")[1]


class Small:
    "A stream that can be told nothing: it has an encoding, and refuses what is not in it."
    encoding = "ascii"
    def __init__(self): self.text = ""
    def write(self, text): text.encode("ascii"); self.text += text
    def flush(self): pass
    def isatty(self): return False


def test_streams_of_other_kinds(monkeypatch, chinese):
    monkeypatch.setattr(sys, "stdout", small := Small())
    assert cli.main(["check", str(chinese)]) == 0 and "?? (csv): usable" in small.text
    monkeypatch.setattr(sys, "stdout", codecs.getwriter("cp1252")(raw := io.BytesIO()))
    assert cli.main(["check", str(chinese)]) == 0 and b"?? (csv): usable" in raw.getvalue()
    monkeypatch.setattr(sys, "stdout", text := io.StringIO())
    assert cli.main(["check", str(chinese)]) == 0 and "数据 (csv): usable" in text.getvalue()


@pytest.mark.parametrize("stream", ["none", "closed", "bad descriptor"])
def test_outputs_that_are_closed(monkeypatch, chinese, stream):
    read, write = os.pipe(); os.close(read)
    out = None if stream == "none" else open(write, "w", closefd=False)
    if stream == "closed": out.close()
    os.close(write)
    for name in ("stdout", "stderr"): monkeypatch.setattr(sys, name, out)
    assert cli.main(["check", str(chinese)]) == 0 and sys.stdout is out
    assert cli.main(["predict", "no-run", "x.mp4"]) == 1


@posix
@pytest.mark.parametrize("how, status", [
    (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), ("</dev/null >&0", 0), (">/dev/full", 1)])
def test_a_shell_that_closes_outputs(how, status):
    "The numbers of closed outputs are not given to files: what is printed would end in one of them."
    if "full" in how and not os.path.exists("/dev/full"): pytest.skip("no such device")
    code = ("import os, sys; from micacl.cli import main; status = main(['--version'])\n"
            "sys.exit(status or os.open(os.devnull, os.O_RDONLY) < 3)")
    shell = ["sh", "-c", f'"$0" -c "$1" {how}', sys.executable, code]
    done = subprocess.run(shell, env=ENV, capture_output=True, text=True)
    assert done.returncode == status and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stderr.count("\n") == status                         # micacl: ...: No space left on device


@posix
def test_nobody_reads_the_errors():
    read, write = os.pipe(); os.close(read)
    code = "import sys; from micacl.cli import main; sys.exit(main(['synfew', '/dev/null/x', '--workers', '1']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=write, env=ENV)
    os.close(write)
    assert done.returncode == 1


# ---- the environment

@pytest.mark.parametrize("value", ["", " ", "none", "1.5"])
def test_ranks_that_are_no_numbers_count_as_not_set(monkeypatch, capsys, value):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"): monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    assert cli._first_process()
    assert cli.main(["--version"]) == 0
    left = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU"} & set(os.environ)
    assert not left                                      # Accelerate would stop at them


@pytest.mark.parametrize("rank, size, first", [("0", "2", True), ("1", "2", False), ("1", None, True), ("1", "", True),
                                               (None, "2", True)])
def test_one_of_the_processes_prints(monkeypatch, rank, size, first):
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.delenv(name, raising=False)
        if value is not None: monkeypatch.setenv(name, value)
    assert cli._first_process() == first


@pytest.mark.parametrize("columns", ["0", "1", "5", "-3", "x"])
def test_help_in_a_narrow_terminal_ends(columns):
    code = "import sys; from micacl.cli import main; sys.exit(main(['train', '--help']))"
    env = {**ENV, "COLUMNS": columns}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, env=env)
    assert done.returncode == 0 and b"--batch-size" in done.stdout


# ---- names

@pytest.mark.parametrize("name, safe", [
    ("a", "a"), ("喜.v1", "喜.v1"), ("12:30", "12%3A30"), ('<>:"/\\|?*', "%3C%3E%3A%22%2F%5C%7C%3F%2A"),
    ("a\nb\x7f", "a%0Ab%7F"), ("dots. .", "dots"), ("", "_"), ("..", "_"),
    ("con", "_con"), ("NUL.tar", "_NUL.tar"), ("com1", "_com1"), ("lpt³ .x", "_lpt³ .x"),
    ("console", "console"), ("com10", "com10"), ("a\udce9", "a%E9"), ("a\ud800", "a%ED%A0%80")])
def test_safe_names(name, safe): assert safe_name(name) == safe and safe_name(safe) == safe


def test_long_names_stay_different_and_recognisable():
    a, b = (safe_name("喜" * 90 + end, 143) for end in ("a", "b"))
    assert a != b and all(n.startswith("喜" * 40) and len(n.encode()) <= 143 for n in (a, b))
    assert a == safe_name("喜" * 90 + "a", 143)


@posix
def test_temporary_names_are_short_and_of_the_same_family(tmp_path):
    usual = ("config.json", "metrics.jsonl", "model.safetensors", "predictions.npz", "results.json", "report.html")
    for name in ("喜" * 80 + ".jsonl", "x" * 250 + ".json", *usual):
        with atomic_write(tmp_path / name) as f:
            f.write("x")
            left = [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
            assert len(left) == 1 and len(os.fsencode(left[0])) < 140
            if name in usual: assert [p.name for p in tmp_path.glob(f".{name}.*.tmp")] == left       # see `_tidy`
            elif name.endswith(".json"): assert [p.name for p in tmp_path.glob(".*.json.*.tmp")] == left
        assert (tmp_path / name).read_text() == "x" and not list(tmp_path.glob(".*.tmp"))


def test_writing_needs_no_mask_of_the_process(tmp_path, monkeypatch):
    def no(mask): raise AssertionError("other threads would create files while the mask is another")
    monkeypatch.setattr(os, "umask", no)
    def write(k):
        for i in range(5):
            with atomic_write(tmp_path / f"{k}-{i}") as f: f.write("x")
    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    (tmp_path / "plain").write_text("x")
    assert len(list(tmp_path.iterdir())) == 21 and len({p.stat().st_mode for p in tmp_path.iterdir()}) == 1


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    with pytest.raises(FileNotFoundError) as e:
        with atomic_write(tmp_path / "nowhere" / "a.json"): pass
    assert e.value.filename == str(tmp_path / "nowhere" / "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as e:
        with atomic_write(tmp_path / "folder"): pass
    assert e.value.filename == str(tmp_path / "folder") and os.listdir(tmp_path) == ["folder"]
    full, other = OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "no", "clip.mp4")
    for error, name in ((full, "a.json"), (other, "clip.mp4"), (OSError("odd"), None)):
        with pytest.raises(OSError) as e:
            with atomic_write(tmp_path / "a.json"): raise error
        assert (e.value.filename and Path(e.value.filename).name) == name


def test_bytes_of_names_that_are_no_text_are_written_escaped(tmp_path):
    with atomic_write(tmp_path / "a.txt") as f: f.write("caf\udce9 \ud800")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\udce9 \\ud800"
    write_json(tmp_path / "a.json", {"caf\udce9": "caf\udce9"})
    assert b'"caf\\udce9": "caf\\udce9"' in (tmp_path / "a.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"caf\udce9": "caf\udce9"}
    assert derive_seed("café") == derive_seed("caf" + "é") and derive_seed("caf\udce9") != derive_seed("caf?")


# ---- the files of a prediction

def outputs(folder): return sorted(p.name for p in Path(folder).iterdir())


def predicted(run, videos, out, **options):
    done, problems = P.predict_videos(run, videos, out, quiet=True, crop=False, **options)
    assert len(done) + len(problems) == len(videos)
    return done, problems


@posix
def test_a_long_name_is_shortened_and_said_so(quick, run, tmp_path, capsys):
    long, good = video(tmp_path / ("喜" * 83 + "ab.mp4")), video(tmp_path / "a.mp4")
    done, problems = predicted(run, [long, good], tmp_path / "out")
    names = outputs(tmp_path / "out")
    assert not problems and len(names) == 6 and all(len(os.fsencode(n)) <= 255 for n in names)
    assert names[:3] == ["a.csv", "a.json", "a.png"]
    stem = names[4].removesuffix(".json")
    assert stem.startswith("喜" * 70) and not any("are named" in n for n in done[1].notes)
    assert f"the files are named {stem}: the video's own name is too long" in done[0].notes[-1]
    said = json.loads((tmp_path / "out" / f"{stem}.json").read_text(encoding="utf-8"))
    assert said["video"] == str(long) and said["notes"] == done[0].notes


def test_a_file_system_with_shorter_names(quick, run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pathconf", lambda folder, name: 60, raising=False)
    predicted(run, [video(tmp_path / f"{'x' * 80}{i}.mp4") for i in range(2)], tmp_path / "out")
    assert len(outputs(tmp_path / "out")) == 6 and all(len(n) <= 60 for n in outputs(tmp_path / "out"))
    monkeypatch.setattr(os, "pathconf", lambda folder, name: -1)
    assert FreeNames(tmp_path, (".json",)).most == 250


@posix
def test_a_name_that_is_not_utf8(run, tmp_path, capsys):
    if not takes(tmp_path, LATIN): pytest.skip("the file system has UTF-8 names only")
    folder = tmp_path / LATIN; folder.mkdir()
    odd, good = video(folder / f"{LATIN}.mp4"), video(tmp_path / "a.mp4")
    assert cli.main(["predict", str(run), str(odd), str(good), "--no-crop", "--out", str(folder / "out")]) == 0
    assert outputs(folder / "out") == sorted(f"{n}.{e}" for n in ("a", "caf%E9") for e in ("csv", "json", "png"))
    found = read_json(folder / "out" / "caf%E9.json")
    assert os.fsencode(found["video"]) == os.fsencode(odd) and "not allowed on every system" in found["notes"][-1]
    capsys.readouterr()
    assert cli.main(["predict", str(run), str(odd), "--no-crop", "--json", "--out", str(folder / "out")]) == 0
    assert json.loads(capsys.readouterr().out)[0]["video"] == str(odd)
    assert cli.main(["check", str(folder)]) == 1 and cli.main(["table", f"{LATIN}={run}"]) == 0


@posix
def test_names_that_windows_refuses(quick, run, tmp_path):
    (tmp_path / "12:30").mkdir(); (tmp_path / "12:30" / "clip ").mkdir()
    from PIL import Image
    Image.new("RGB", (32, 32)).save(tmp_path / "12:30" / "clip " / "1.png")
    videos = [video(tmp_path / n) for n in ("con.mp4", "a:b.mp4", "a?b.mp4", "end..mp4", "two\nlines.mp4")]
    done, _ = predicted(run, [*videos, tmp_path / "12:30" / "clip "], tmp_path / "out")
    stems = [n.removesuffix(".json") for n in outputs(tmp_path / "out") if n.endswith(".json")]
    assert stems == sorted(["_con", "a%3Ab", "a%3Fb", "end", "two%0Alines", "clip"])
    assert all("not allowed on every system" in p.notes[-1] for p in done)


def test_folders_called_dot_have_names_all_the_same(quick, run, tmp_path, monkeypatch):
    from PIL import Image
    (tmp_path / "clip" / "deep").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "clip" / "1.png")
    monkeypatch.chdir(tmp_path / "clip" / "deep")
    predicted(run, [Path("..")], tmp_path / "out")
    monkeypatch.chdir(tmp_path / "clip")
    predicted(run, [Path(".")], tmp_path / "out2")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "out2") == ["clip.csv", "clip.json", "clip.png"]


def test_a_picture_is_not_replaced_by_that_of_its_scores(quick, run, tmp_path):
    from PIL import Image
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png"); before = (tmp_path / "a.png").read_bytes()
    predicted(run, [tmp_path / "a.png"], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before and {"a.png.png", "a.png.json"} <= set(outputs(tmp_path))
    with pytest.raises(MicaclError, match="--plot: expected a new file, found the VIDEO"):
        predicted(run, [tmp_path / "a.png"], tmp_path, plot=tmp_path / "a.png")


def test_accents_in_two_spellings_are_one_name(quick, run, tmp_path):
    (tmp_path / "sub").mkdir()
    predicted(run, [video(tmp_path / "é.mp4"), video(tmp_path / "sub" / "e\u0301.mp4")], tmp_path / "out")
    assert len(outputs(tmp_path / "out")) == 6 and "e\u0301.json" not in outputs(tmp_path / "out")


# ---- one failure, and the others

def test_files_that_cannot_be_written_do_not_stop_the_next_video(quick, run, tmp_path, capsys):
    a, b = video(tmp_path / "a.mp4"), video(tmp_path / "b.mp4")
    (tmp_path / "out" / "a.csv" / "in the way").mkdir(parents=True)
    assert cli.main(["predict", str(run), str(a), str(b), "--no-crop", "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"micacl: {a}: expected to read it and to write its files")
    assert err.count("\n") == 1 and "a.csv" in err
    assert {"b.csv", "b.json", "b.png"} <= set(outputs(tmp_path / "out"))


@pytest.mark.parametrize("error, says", [
    (MicaclError("x: odd"), "x: odd"), (PermissionError(13, "Permission denied", "v"), "v: Permission denied"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "v"), "v: File name too long"),
    (ClipError("a.mp4", "a page of text"), "expected a video or a folder of pictures, found a page of text")])
def test_what_concerns_one_video(quick, run, tmp_path, monkeypatch, error, says):
    real = P.predict_video
    def fails(run, video, **options):
        if video.name == "a.mp4": raise error
        return real(run, video, **options)
    monkeypatch.setattr(P, "predict_video", fails)
    done, problems = predicted(run, [Path("a.mp4"), video(tmp_path / "b.mp4")], tmp_path / "out")
    assert len(done) == 1 and says in problems[0].message and not problems[0].message.startswith("a.mp4")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_concerns_all(run, tmp_path, monkeypatch, capsys, number):
    def full(*a): raise OSError(number, os.strerror(number), "out/a.json")
    monkeypatch.setattr(Q, "write_json", full)
    videos = [str(video(tmp_path / f"{n}.mp4")) for n in "ab"]
    assert cli.main(["predict", str(run), *videos, "--no-crop", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"micacl: out/a.json: {os.strerror(number)}\n"


def test_a_folder_that_is_locked_meanwhile_concerns_all(run, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MicaclError, match="expected a folder that can be written to"):
        P._problem("a.mp4", PermissionError(13, "Permission denied", "out/a.json"), tmp_path / "out")


def test_settings_that_no_video_can_have_are_said_once(run, tmp_path):
    with pytest.raises(MicaclError, match="predict: expected a window above 0"):
        predicted(run, [tmp_path / "nowhere.mp4"], tmp_path / "out", window=1, stride=2)


# ---- shared models

def test_a_shared_model_predicts_what_its_run_predicts(quick, run, shared, tmp_path, capsys):
    clip = video(tmp_path / "a.mp4")
    a, b = (P.predict_video(folder, clip, crop=False) for folder in (run, shared))
    assert np.array_equal(a.probabilities, b.probabilities) and (a.classes, a.caveat) == (b.classes, b.caveat)
    assert {**a.about, "run": ""} == {**b.about, "run": ""}
    assert cli.main(["predict", str(shared), str(clip), "--no-crop", "--out", str(tmp_path / "out")]) == 0
    assert read_json(tmp_path / "out" / "a.json")["run"] == str(shared)


def test_a_shared_model_of_unknown_training(shared, tmp_path):
    info = read_json(shared / "config.json")
    folder = tmp_path / "m"; folder.mkdir()
    (folder / "model.safetensors").write_bytes((shared / "model.safetensors").read_bytes())
    write_json(folder / "config.json", dict(info, training=None, results=None))
    p = P.predict_video(folder, video(tmp_path / "a.mp4"), crop=False)
    assert p.about["dataset"] is None and p.caveat.startswith("trained on unknown data. A score says")
    write_json(folder / "config.json", dict(info, input=dict(info["input"], image_size=0)))
    with pytest.raises(MicaclError, match="image_size above 0"): load_model(folder)


def test_names_of_classes_that_are_no_text_can_be_drawn(shared, tmp_path):
    info = read_json(shared / "config.json")
    folder = tmp_path / "m"; folder.mkdir()
    (folder / "model.safetensors").write_bytes((shared / "model.safetensors").read_bytes())
    write_json(folder / "config.json", dict(info, classes=["\ud800", *info["classes"][1:]]))
    done, _ = predicted(folder, [video(tmp_path / "a.mp4")], tmp_path / "out")
    assert len(outputs(tmp_path / "out")) == 3
    assert "p_\\ud800" in (tmp_path / "out" / "a.csv").read_text(encoding="utf-8")
    again = save_pretrained(str(folder), tmp_path / ("n" * 250))
    assert "\\ud800" in (again / "README.md").read_text(encoding="utf-8")
    assert read_json(again / "config.json")["classes"][0] == "\ud800"
    assert outputs(tmp_path) == ["a.mp4", "m", "n" * 250, "out"]


def test_commands_that_need_the_run_say_so(shared, run, tmp_path, capsys):
    assert is_shared(shared) and not is_shared(run) and not is_shared(tmp_path)
    with pytest.raises(MicaclError, match="shared model, which only predict and export can use"): load_run(shared)
    with pytest.raises(MicaclError, match="for a shared model give the run that it was made"): read_results(shared)
    assert cli.main(["evaluate", str(shared), str(tmp_path)]) == 1
    assert "found a shared model" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["C:\\models\\x", "models\\x", ".\\run", "C:/models", "./run", "../x", "~/x",
                                   "модель/один", Path("user/name"), "user/name/", "user\\name"])
def test_what_looks_like_a_path_is_never_sent_to_the_hub(where, monkeypatch):
    def asked(*a, **k): raise AssertionError("sent to the hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    with pytest.raises(MicaclError, match="check the path"): fetch(where)


def test_an_id_reaches_the_hub_as_it_was_typed(monkeypatch, tmp_path, capsys):
    asked = []
    def download(where, name, revision=None): asked.append(where); raise OSError("no hub here")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert cli.main(["export", "user/name", str(tmp_path / "m.pt2"), "--format", "torch"]) == 1
    assert asked == ["user/name"] and "user/name" in capsys.readouterr().err


# ---- uploads

def test_uploads_of_both_forms(run, tmp_path):
    data, loaded = video(tmp_path / "a.mp4").read_bytes(), load_model(run)
    new = P.predict_upload(loaded, dict(name="é.mp4", content=memoryview(data)), crop=False)
    old = P.predict_upload(loaded, dict(metadata=dict(name="é.mp4", size=1), content=data), crop=False)
    assert new.video == old.video == "é.mp4" and np.array_equal(new.probabilities, old.probabilities)
    for name in (f"a.{'x' * 300}", "a.b:c", "no ending", "a.m\np4"):
        assert P.predict_upload(loaded, dict(name=name, content=data), crop=False).video == name


def test_the_widget_of_either_version(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("IPython")
    class FileUpload:
        def __init__(self, **options): pass
        def observe(self, call, name): self.call = call
    class Output:
        def clear_output(self): pass
        def __enter__(self): return self
        def __exit__(self, *error): return False
    fake = ModuleType("ipywidgets"); fake.FileUpload, fake.Output = FileUpload, Output
    fake.VBox = lambda children: SimpleNamespace(children=children)
    monkeypatch.setitem(sys.modules, "ipywidgets", fake)
    button, _ = P.upload_widget(run, crop=False).children
    data = video(tmp_path / "a.mp4").read_bytes()
    of_7 = {"a.mp4": dict(metadata=dict(name="a.mp4"), content=data)}
    for value in (of_7, (dict(name="a.mp4", content=memoryview(data)),)):
        button.call(dict(new=value))
        assert "a.mp4: 0.6 s, 1 window\n" in capsys.readouterr().out
    button.call(dict(new={"b.mp4": dict(metadata=dict(name="b.mp4"), content=b"x")}))
    assert "b.mp4: expected a video file" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ipywidgets", ModuleType("ipywidgets"))      # so old that it has no such button
    with pytest.raises(MicaclError, match="expected ipywidgets 8"): P.upload_widget(run)


# ---- reports and tables

def test_a_report_of_paths_that_are_no_text(run, tmp_path):
    page = write_report(run, out=tmp_path / "r.html").read_text(encoding="utf-8")
    if os.name == "posix": assert "micacl train caf\\udce9" in page and "/data/caf\\udce9/x.mp4: broken" in page
    assert "The data folder is not here" in page


def test_data_that_have_changed_since_are_left_out_of_the_report(chinese):
    now = dict(dataset="csv", fold=None, classes=["快乐", "😀"])
    assert len(_still_there(chinese, now)) == 4
    for other in (dict(classes=["happy", "sad"]), dict(fold=3)):
        assert _still_there(chinese, dict(now, **other)) is None
    (chinese / "clips.csv").write_text("path,label,split\n0.mp4,快乐,test\n1.mp4,😀,test\n", encoding="utf-8")
    assert _still_there(chinese, now) is None            # nothing to train on


def test_a_table_of_a_folder_with_a_tilde(run, tmp_path, monkeypatch):
    import shutil
    monkeypatch.chdir(tmp_path); shutil.copytree(run, tmp_path / "~x")
    assert read_results("~x")[0].method == "mean"
    with pytest.raises(MicaclError, match="~nobody-of-this-name"): read_results("~nobody-of-this-name")


def test_what_lies_among_the_runs_of_an_experiment(run, tmp_path):
    spec = dict(methods=dict(one={}), base=dict(epochs=1), seeds=[1], folds=[None], frozen=False)
    write_json(tmp_path / "summary.json", dict(spec=spec, methods=dict(one=dict(chosen={}))))
    write_json(tmp_path / "runs.json", {}); (tmp_path / "runs").mkdir()
    one = dict(read_json(run / "results.json"), method="one", seed=1, config=Config(epochs=1, seed=1).to_dict())
    write_json(tmp_path / "runs" / "one.json", one)
    (tmp_path / "runs" / "._one.json").write_bytes(b"\0\5\26\7\xff")      # as macOS leaves it beside a copy
    assert [x.method for x in read_results(tmp_path)] == ["one"]
    write_json(tmp_path / "runs" / "notes.json", ["mine"])
    with pytest.raises(MicaclError, match="notes.json: expected a file of an experiment"): read_results(tmp_path)
    write_json(tmp_path / "summary.json", dict(n=1))
    with pytest.raises(MicaclError, match="summary.json: expected a file of an experiment"): read_results(tmp_path)


@pytest.mark.parametrize("tests", [[1], dict(test={}), dict(test=dict(recall={"a": 1}, confusion="x")), dict(test=[1])])
def test_results_that_are_damaged_are_one_line(tmp_path, tests):
    write_json(tmp_path / "results.json", dict(tests=tests))
    with pytest.raises(MicaclError, match="expected the re"): read_results(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names of files are text on Windows")
def test_frames_are_read_from_a_folder_whose_name_is_no_text(tmp_path):
    from micacl.data.cache import _mapped
    folder = tmp_path / "d\udce9"
    try: folder.mkdir()
    except OSError: pytest.skip("this file system takes names in UTF-8 only")
    (folder / "x.u8").write_bytes(b"abc")
    assert bytes(_mapped(folder / "x.u8", 3)) == b"abc"
    assert _mapped(folder / "x.u8", 4) is None and _mapped(folder / "y.u8", 3) is None


@pytest.mark.skipif(os.name == "nt", reason="there are no devices in folders on Windows")
def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    from micacl.core import write_json
    import threading
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_json(pipe, [1])
    reader.join(10)
    assert got == ["[\n 1\n]\n"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_very_long_name_of_a_method_is_in_no_file_name(tmp_path):
    from micacl.train.config import Config
    from micacl.train.experiments import run_path
    (file := run_path(tmp_path, "d", None, Config())).parent.mkdir()
    file.write_text("{}")
    assert len(file.name.encode()) < 100
