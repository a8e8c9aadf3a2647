"""Which data set is this? What features, runs, evaluations and experiments decide by the clips themselves, wherever
they lie and whatever they are called."""
import csv, dataclasses, os, shutil

import numpy as np
import pytest

from micacl.data.cache import fingerprint
from micacl.core import MicaclError, read_json, write_json
from micacl.train.config import Config
from micacl.train.experiments import run_experiment
from micacl.train.loaders import InstanceFeatures
from micacl.train.objective import build_model
from micacl.show.report import write_report
from micacl.train.evaluation import trained_on
from micacl.train.run import prepare_data
from micacl.train.summaries import compare_runs
from micacl.data.synfew.generate import generate
from micacl.show.tables import read_results
from micacl.train.loop import evaluate, train

TINY = Config(mixed_precision="no", model="mean", n_instances=2, image_size=32, pretrained=False, batch_size=8,
              epochs=1, warmup_epochs=0.0,
              mccl_weight=0.0, seed=7)
FROZEN = dataclasses.replace(TINY, backbone_lr=0.0)


def copy_of(data, where):
    return shutil.copytree(data, where, ignore=shutil.ignore_patterns(".micacl-cache"), copy_function=shutil.copyfile)
def rows_of(file): return list(csv.DictReader(file.open(encoding="utf-8")))
def write_rows(file, rows):
    with file.open("w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, rows[0]); out.writeheader(); out.writerows(rows)
    return file


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("identity") / "run"
    return run, train(data, run, TINY, quiet=True)


# ---- features

def test_two_data_sets_with_the_same_names_share_no_features(tmp_path):
    model = build_model(FROZEN, 7)
    x = {}
    for seed in (0, 1):
        generate(tmp_path / str(seed), n_train=14, n_test=7, n_frames=8, size=32, seed=seed, workers=1, progress=False)
        d = prepare_data(tmp_path / str(seed), tmp_path, FROZEN, quiet=True)
        x[seed] = InstanceFeatures(tmp_path / "features", model, FROZEN, d.cache).of(d.tests["test"])
    assert x[0].shape == x[1].shape and not (x[0] == x[1]).all()


def test_features_follow_the_clips_and_not_their_place(data, tmp_path):
    model, home = build_model(FROZEN, 7), copy_of(data, tmp_path / "d")
    def features(root):
        d = prepare_data(root, tmp_path, FROZEN, quiet=True)
        return InstanceFeatures(tmp_path / "features", model, FROZEN, d.cache).of(d.tests["test"])
    before = features(data)
    assert (features(home) == before).all() and len(list((tmp_path / "features").glob("*.npy"))) == 1      # a copy
    tested, other = [r["path"] for r in rows_of(home / "clips.csv") if r["split"].startswith("test")][:2]
    # one clip has changed
    shutil.copyfile(home / other, home / tested)
    assert not (features(home) == before).all() and len(list((tmp_path / "features").glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:-1], lambda b: b""])
def test_damaged_features_are_computed_again(data, tmp_path, damage):
    model, d = build_model(FROZEN, 7), prepare_data(data, tmp_path, FROZEN, quiet=True)
    features = InstanceFeatures(tmp_path / "features", model, FROZEN, d.cache)
    x = features.of(d.tests["test"])
    file, = (tmp_path / "features").glob("*.npy"); whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert (features.of(d.tests["test"]) == x).all() and file.read_bytes() == whole


# ---- resume

def test_a_run_is_resumed_on_a_copy_and_refused_when_a_clip_has_changed(data, tmp_path):
    home = copy_of(data, tmp_path / "d")
    results = train(home, tmp_path / "run", TINY, quiet=True)
    moved = home.rename(tmp_path / "moved")
    assert train(moved, tmp_path / "run", TINY, resume=True, quiet=True)["uar"] == results["uar"]
    a, b = [r["path"] for r in rows_of(moved / "clips.csv") if r["split"] == "train"][:2]
    shutil.copyfile(moved / a, moved / b)
    with pytest.raises(MicaclError, match="train_clips"): train(moved, tmp_path / "run", TINY, resume=True, quiet=True)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_run_is_not_resumed_when_a_clip_has_changed_that_it_is_judged_by(whole, data, tmp_path, part):
    home = copy_of(data, tmp_path / "d")
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    path = {r["clip"]: r["path"] for r in rows_of(home / "clips.csv")}
    for r in path.values(): os.utime(home / r, ns=(0, 0))                                         # touched only
    assert train(home, run, resume=True, quiet=True)["uar"] == whole[1]["uar"]
    before = (run / "results.json").read_bytes()
    a, b = [path[r["id"]] for r in rows_of(run / "clips.csv") if r["part"] == part][:2]
    shutil.copyfile(home / a, home / b)
    with pytest.raises(MicaclError, match=f"{part}_clips"): train(home, run, resume=True, quiet=True)
    assert (run / "results.json").read_bytes() == before


def test_a_run_of_an_earlier_version_is_not_resumed_and_says_why(whole, data, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    info = read_json(run / "config.json")
    del info["test_clips"]
    write_json(run / "config.json", dict(info, train_clips="0" * 16))
    with pytest.raises(MicaclError, match="earlier version.*new folder") as e: train(data, run, resume=True, quiet=True)
    assert "\n" not in str(e.value)


# ---- read-only data

def test_a_complete_cache_beside_read_only_data_is_used(data, tmp_path, monkeypatch):
    home, access = copy_of(data, tmp_path / "d"), os.access
    prepare_data(home, tmp_path, TINY, quiet=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False if str(path).startswith(str(home)) and mode == os.W_OK
                        else access(path, mode))
    assert prepare_data(home, tmp_path / "run", TINY, quiet=True).cache.decoded == 0 and not (tmp_path / "run").exists()
    # it is complete no longer
    os.utime(home / rows_of(home / "clips.csv")[0]["path"], ns=(0, 0))
    before = sorted(home.rglob("*"))
    assert prepare_data(home, tmp_path / "run", TINY, quiet=True).cache.decoded == 56
    assert sorted(home.rglob("*")) == before and list((tmp_path / "run").rglob("*.u8"))


# ---- evaluation

def test_a_run_records_its_clips(whole, data):
    run, results = whole
    rows, info = rows_of(run / "clips.csv"), read_json(run / "config.json")
    assert (sum(r["part"] == "train" for r in rows) == info["n_train"]
            and sum(r["part"] == "test" for r in rows) == results["tests"]["test"]["n_test"])
    d = prepare_data(data, run, TINY, quiet=True)
    assert trained_on(run) == {d.cache.content(c.id) for c in d.train} and len(trained_on(run)) == info["n_train"]
    assert info["test_clips"] == results["test_clips"] == fingerprint(d.cache, *d.tests.values())
    assert [t["trained_on"] for t in results["tests"].values()] == [0, 0]
    assert not any("were trained on" in n for n in results["notes"])


def test_training_clips_in_another_list_are_counted_and_named(whole, data, tmp_path, capsys):
    rows = rows_of(data / "clips.csv")
    seen = {r["id"] for r in rows_of(whole[0] / "clips.csv") if r["part"] == "train"}
    mixed = [r for r in rows if r["clip"] in seen][:3] + [r for r in rows if r["split"] == "test"]
    for i, r in enumerate(mixed):
        shutil.copyfile(data / r["path"], tmp_path / f"new{i}.mp4")       # other names, other times
    write_rows(tmp_path / "mine.csv", [dict(path=f"new{i}.mp4", label=r["label"], split="test") for i,
                                       r in enumerate(mixed)])
    results = evaluate(whole[0], tmp_path / "mine.csv", quiet=False)
    assert results["trained_on"] == results["tests"]["test"]["trained_on"] == 3
    line = f"3 of {len(mixed)} clips of test were trained on: its scores are too good"
    assert [n for n in results["notes"] if "trained on" in n] == [line] and line in capsys.readouterr().out


def test_a_test_of_nothing_but_training_clips_is_refused(whole, data, tmp_path):
    seen = [r for r in rows_of(whole[0] / "clips.csv") if r["part"] == "train"]
    path = {r["clip"]: r["path"] for r in rows_of(data / "clips.csv")}
    home = copy_of(data, tmp_path / "d")
    write_rows(home / "again.csv", [dict(path=path[r["id"]], label=r["label"], split="test") for r in seen])
    with pytest.raises(MicaclError, match=f"seen all {len(seen)} clips of test"): evaluate(whole[0], home / "again.csv")


def test_another_fold_of_another_list_is_no_way_around(data, tmp_path):
    "Trained on one list of a folder with fold 1, tested on the folder, which names another list, with fold 2."
    home = copy_of(data, tmp_path / "d")
    rows = [r for r in rows_of(home / "clips.csv") if r["split"] == "train"]
    for name in ("clips.csv", "same.csv"):
        write_rows(home / name, [dict(path=r["path"], label=r["label"], fold=r["fold"]) for r in rows])
    (home / "synfew.json").unlink()
    results = train(home / "clips.csv", tmp_path / "run", dataclasses.replace(TINY, val_fraction=0.0), fold=1,
                    quiet=True)
    for place in (home, home / "same.csv", home / "clips.csv"):
        with pytest.raises(MicaclError, match="trained with fold 1, it has seen all"):
            evaluate(tmp_path / "run", place, fold=2)
    assert evaluate(tmp_path / "run", home)["uar"] == results["uar"] == evaluate(tmp_path / "run", home / "same.csv",
        fold=1)["uar"]


def test_other_clips_never_overwrite_results(whole, data, tmp_path):
    home = copy_of(data, tmp_path / "d")
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    before = (run / "results.json").read_bytes()
    rows = rows_of(home / "clips.csv")
    # another list in the very same folder
    write_rows(home / "other.csv", [r for r in rows if r["split"] != "test"])
    first = evaluate(run, home / "other.csv")
    write_rows(home / "other.csv", [r for r in rows if r["split"] != "test"][1:])               # and it changes
    write_rows(home / "other.csv", [r for r in rows if r["split"] != "test" and r["clip"] != rows[-1]["clip"]])
    second = evaluate(run, home / "other.csv")
    assert (run / "results.json").read_bytes() == before and first["n_test"] != second["n_test"]
    assert len(list(run.glob("evaluations/other-*/results.json"))) == 2
    # named by hand, it is refused
    for where in (run, next(run.glob("evaluations/other-*"))):
        kept = (where / "results.json").read_bytes()
        if read_json(where / "results.json")["test_clips"] == second["test_clips"]: continue
        with pytest.raises(MicaclError, match="no results of other clips"): evaluate(run, home / "other.csv", out=where)
        assert (where / "results.json").read_bytes() == kept
    # a copy of the run's own data
    assert evaluate(run, home) == whole[1] and (run / "results.json").read_bytes() == before


def test_a_run_that_did_not_record_its_clips_says_so(whole, data, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    (run / "clips.csv").unlink()
    info = read_json(run / "config.json"); del info["test_clips"]; write_json(run / "config.json", info)
    before = (run / "results.json").read_bytes()
    results = evaluate(run, data)
    assert results["trained_on"] is None and any("does not say which clips" in n for n in results["notes"])
    assert (run / "results.json").read_bytes() == before and list(run.glob("evaluations/*/results.json"))


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"part,id\ntrain," + b"x" * 200_000])
def test_a_damaged_list_of_clips_is_one_line(whole, data, tmp_path, text):
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    (run / "clips.csv").write_bytes(text)
    with pytest.raises(MicaclError, match="clips.csv: expected the list of clips") as e: trained_on(run)
    assert "\n" not in str(e.value)


# ---- experiments

def test_runs_on_changed_clips_are_not_mixed_with_old_ones(data, tmp_path):
    home = copy_of(data, tmp_path / "d")
    s = dict(data=str(home), base={k: v for k, v in TINY.to_dict().items() if k != "seed"}, methods={"mean": {}},
             seeds=[1])
    run_experiment(s, tmp_path / "x", 1, True, False)
    a, b = [r["path"] for r in rows_of(home / "clips.csv") if r["split"] == "train"][:2]
    shutil.copyfile(home / a, home / b)                      # the list is what it was, a film is not
    with pytest.raises(MicaclError, match="the clips of the runs that are there"):
        run_experiment(s, tmp_path / "x", 1, True, False)


def test_a_table_of_an_experiment_shows_the_runs_of_its_summary(data, tmp_path):
    "Two data sets, one after the other in one folder, and one set by two names."
    s = dict(data=str(data), base={k: v for k, v in TINY.to_dict().items() if k != "seed"}, methods={"mean": {}},
             seeds=[1])
    other = copy_of(data, tmp_path / "d")
    write_rows(other / "clips.csv", rows_of(other / "clips.csv")[:-1])
    for name in (data, f"{data}/.", other):
        run_experiment(dict(s, data=str(name)), tmp_path / "x", 1, True, False)
        found, = read_results(tmp_path / "x")
        assert found.clips == fingerprint((d := prepare_data(name, tmp_path, TINY, quiet=True)).cache, d.tests["test"])
    assert len(list((tmp_path / "x" / "runs").glob("*.json"))) == 3


def test_two_methods_are_compared_on_the_same_clips_not_on_the_same_labels():
    run = lambda clips, predicted: dict(seed=1, fold=None, classes=["a", "b"], train_counts=[9, 5],
                                        tests=dict(test=dict(y="0011", predicted=predicted, clips=clips)))
    assert compare_runs([run("x", "0011")], [run("x", "0000")], "test")["uar"]["difference"] == 0.5
    with pytest.raises(MicaclError, match="same clips of test"):
        compare_runs([run("x", "0011")], [run("y", "0000")], "test")


def test_a_table_of_runs_on_different_clips_is_refused(whole, data, tmp_path):
    rows, home = rows_of(data / "clips.csv"), copy_of(data, tmp_path / "d")
    write_rows(home / "clips.csv", [r for r in rows if r["clip"] != next(r["clip"] for r in rows
        if r["split"] == "test")])
    evaluate(whole[0], home, out=tmp_path / "fewer")
    assert len(read_results(f"a={whole[0]}", f"b={whole[0]}")) == 2
    with pytest.raises(MicaclError, match="expected the test clips of a, found others"):
        read_results(f"a={whole[0]}", f"b={tmp_path / 'fewer'}")


# ---- reports

def test_a_report_shows_no_other_clips_and_compares_no_other_clips(whole, data, tmp_path):
    "Names and labels are what they were; every film is another one."
    home = copy_of(data, tmp_path / "d")
    one, two = (shutil.copytree(whole[0], tmp_path / n, ignore=shutil.ignore_patterns(".lock")) for n in ("one", "two"))
    page = write_report(one, home, two, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "paired over" in page and "of the training set, labelled" in page
    for r in rows_of(home / "clips.csv"):
        (home / r["path"]).write_bytes((home / r["path"]).read_bytes() + b"0")       # other bytes
    results = read_json(two / "results.json")
    for t in results["tests"].values(): t["clips"] = "0" * 16
    write_json(two / "results.json", results)
    page = write_report(one, home, two, tmp_path / "b.html").read_text(encoding="utf-8")
    assert "tested on other clips" in page and "of the training set, labelled" not in page


# ---- classes of the run

def test_a_test_list_may_lack_a_class_and_one_of_another_class_is_named(data, tmp_path):
    home = copy_of(data, tmp_path / "d")
    rows = [dict(path=r["path"], label=dict(happy="a", sad="b").get(r["label"], "c"), split=r["split"])
            for r in rows_of(home / "clips.csv") if r["split"] != "test_balanced"]
    (home / "synfew.json").unlink()
    write_rows(home / "clips.csv", rows)
    train(home, tmp_path / "run", TINY, quiet=True)
    assert read_json(tmp_path / "run" / "config.json")["classes"] == ["a", "b", "c"]
    tests = [r for r in rows if r["split"] == "test"]
    write_rows(home / "sub.csv", [r for r in tests if r["label"] != "a"])
    results = evaluate(tmp_path / "run", home / "sub.csv")
    assert (list(results["recall"]) == ["a", "b", "c"] and np.isnan(results["recall"]["a"])
            and results["n_test"] == sum(r["label"] != "a" for r in tests))
    write_rows(home / "more.csv", [dict(tests[0], label="d"), *tests[1:]])
    results = evaluate(tmp_path / "run", home / "more.csv")
    assert results["n_test"] == len(tests) - 1 and len(results["skipped"]) == 1 and "d" in results["skipped"][0]


def test_names_of_clips_may_hold_any_sign(tmp_path):
    from micacl.train.evaluation import recorded_clips
    names = ["a\u2028b", "c\x85d", 'e"f,g', "h\ni"]
    with open(tmp_path / "clips.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([["part", "id", "label", "content"],
                                                      *(["train", n, "x", str(i)] for i, n in enumerate(names))])
    assert [r["id"] for r in recorded_clips(tmp_path)] == names and trained_on(tmp_path) == {"0", "1", "2", "3"}
