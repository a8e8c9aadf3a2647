"Equal runs are trained once: under two names, in two experiments, in an older folder, by two processes at once."
import json
import os
import subprocess
import sys
import time

import pytest

from micacl.core import read_json, write_json
from micacl.show.tables import read_results
from micacl.train import experiments
from micacl.train.config import Config
from micacl.train.experiments import one_run, run_experiment, run_path
from micacl.train.loop import train
from micacl.train.machine import Arithmetic

BASE = dict(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=1, batch_size=8, mccl_weight=0.0)
DRAWN = dict(n_train=42, n_test=14, n_frames=8, size=32, workers=1)


@pytest.fixture
def trained(monkeypatch):
    "The models that were trained, one entry a run."
    calls = []
    def counted(data, out, config, *args, **kw):
        calls.append((config.model, config.seed))
        return train(data, out, config, *args, **kw)
    monkeypatch.setattr(experiments, "train", counted)
    return calls


def spec(data, **kw):
    return {**dict(data=str(data), base=BASE, seeds=[1, 2], test="test_balanced",
                   methods={"mean": dict(model="mean"), "the average": dict(model="mean"), "max": dict(model="max")},
                   compare=[["the average", "mean"]]), **kw}


def test_the_name_of_a_method_is_nothing_that_a_run_depends_on(data, tmp_path, trained, capsys):
    s = run_experiment(spec(data), tmp_path / "x", 1, costs=False)
    assert sorted(trained) == [("max", 1), ("max", 2), ("mean", 1), ("mean", 2)]
    assert len(s["runs"]) == 4 == len(list((tmp_path / "x" / "runs").iterdir())) and s["failed"] == 0
    assert s["methods"]["the average"] == s["methods"]["mean"]
    assert s["comparisons"][0]["uar"]["difference"] == 0 and s["methods"]["mean"]["n_runs"] == 2
    assert "mean, the average, seed 1" in capsys.readouterr().out
    for r in map(read_json, (tmp_path / "x" / "runs").iterdir()): assert "average" not in json.dumps(r)


def test_a_table_shows_one_run_under_each_of_its_names(data, tmp_path, trained):
    run_experiment(spec(data), tmp_path / "x", 1, True, False)
    found = read_results(tmp_path / "x", test="test_balanced")
    assert sorted((r.method, r.seed) for r in found) == [(m, s) for m in ("max", "mean", "the average") for s in (1, 2)]
    by = {(r.method, r.seed): r.matrix.tolist() for r in found}
    assert by["mean", 1] == by["the average", 1]


def test_a_failed_run_fails_all_its_names(data, tmp_path, monkeypatch):
    def fails(data, out, config, *args, **kw):
        if (config.model, config.seed) == ("mean", 1): raise RuntimeError("no room")
        return train(data, out, config, *args, **kw)
    monkeypatch.setattr(experiments, "train", fails)
    s = run_experiment(spec(data), tmp_path / "x", 1, True, False)
    assert s["failed"] == 2 and s["methods"]["the average"]["n_runs"] == 1 == s["methods"]["mean"]["n_runs"]


def test_runs_of_a_folder_that_an_older_version_left_are_found(data, tmp_path, trained):
    "There the method's name stood in the file's name and in the file, and two names had two files."
    s = spec(data, seeds=[1])
    run_experiment(s, tmp_path / "x", 1, True, False)
    runs, summary = tmp_path / "x" / "runs", read_json(tmp_path / "x" / "summary.json")
    mean, other = sorted(runs.glob("mean-*"))[0], sorted(runs.glob("max-*"))[0]
    ending = mean.name.removeprefix("mean-")
    for name in ("mean", "the average"):
        write_json(runs / f"{name.replace(' ', '-')}-of-old-{ending}", dict(read_json(mean), method=name))
    mean.unlink()
    write_json(tmp_path / "x" / "summary.json", dict(summary, runs=sorted(p.name for p in runs.iterdir())))
    found = read_results(tmp_path / "x", test="test_balanced")
    assert sorted(r.method for r in found) == ["max", "mean", "the average"]
    trained.clear()
    again = run_experiment(s, tmp_path / "x", 1, True, False)
    assert trained == [] and again["methods"] == summary["methods"] and other.exists()
    assert sorted(r.method for r in read_results(tmp_path / "x", test="test_balanced")) == ["max", "mean",
                                                                                            "the average"]


def test_an_unfinished_run_of_an_older_version_goes_on(data, tmp_path, monkeypatch):
    c, epochs = Config(**dict(BASE, epochs=2), model="mean", seed=1), []
    def stopped(*args, **kw):
        def press(record): raise KeyboardInterrupt
        return train(*args, **kw, on_epoch=press)
    monkeypatch.setattr(experiments, "train", stopped)
    with pytest.raises(Exception, match="interrupted"): one_run(tmp_path, str(data), "mean", None, c)
    folder = next(p for p in (tmp_path / "unfinished").iterdir() if p.is_dir())
    folder.rename(folder.with_name(folder.name.replace("mean-", "average-pooling-")))
    monkeypatch.setattr(experiments, "train", lambda *a, **kw: train(*a, **kw,
        on_epoch=lambda r: epochs.append(r["epoch"])))
    one_run(tmp_path, str(data), "mean", None, c)
    assert epochs == [2] and not list((tmp_path / "unfinished").iterdir())
    (tmp_path / "unfinished" / f"{experiments._key(data, None, c)}.lock").touch()      # killed before the last line
    one_run(tmp_path, str(data), "mean", None, c)
    assert epochs == [2] and not list((tmp_path / "unfinished").iterdir())


def test_experiments_share_clips_features_and_runs(tmp_path, trained):
    """Two experiments beside each other in one folder: what is drawn, decoded and trained for the first serves the
    second, whose own set is the first one's tuning set. Each keeps its summary."""
    grid = dict(lr=[1e-3, 1e-2])
    first = dict(synfew=dict(DRAWN, seed=0), frozen=True, base=BASE, seeds=[1], test="test_balanced",
                 methods={"mean": dict(model="mean"), "max": dict(model="max")},
                 tune=dict(synfew=dict(DRAWN, seed=100), grid=grid, seeds=[1]))
    second = dict(synfew=dict(DRAWN, seed=100), frozen=True, base=BASE, seeds=[1], test="test_balanced",
                  methods={"slow": dict(model="mean", lr=1e-3), "fast": dict(model="mean", lr=1e-2)})
    work = tmp_path / "work"
    a = run_experiment(first, work / "a", 1, True, False, shared=work)
    assert len(trained) == 2 * 2 + 2
    features = {p.name: p.stat().st_mtime_ns for p in (work / "features").glob("*.npy")}
    trained.clear()
    b = run_experiment(second, work / "b", 1, True, False, shared=work)
    assert trained == [] and b["failed"] == 0
    assert {p.name: p.stat().st_mtime_ns for p in (work / "features").glob("*.npy")} == features
    assert len(list((work / "data").iterdir())) == 2                       # one folder for each set
    tried = {p["fields"]["lr"]: p["uar"] for p in a["methods"]["mean"]["tried"]}
    for name, lr in (("slow", 1e-3), ("fast", 1e-2)):
        assert b["methods"][name]["tests"]["test_balanced"]["uars"] == [tried[lr]]
    assert read_json(work / "a" / "summary.json")["spec"] != read_json(work / "b" / "summary.json")["spec"]
    assert a["methods"].keys() == run_experiment(first, work / "a", 1, True, False, shared=work)["methods"].keys()
    shown = read_results(work / "b", test="test_balanced")
    assert trained == [] and sorted(r.method for r in shown) == ["fast", "slow"]
    alone = run_experiment(second, tmp_path / "alone", 1, True, False)
    assert alone["methods"]["fast"]["tests"] == b["methods"]["fast"]["tests"]          # sharing changes no figure


def test_experiments_that_train_the_backbone_share_their_arithmetic(data, tmp_path, monkeypatch):
    "It is measured, and a busy machine may find another one the next time."
    s, asked = spec(data, seeds=[1]), []
    def measured(config, **kw):
        asked.append(config)
        return config, Arithmetic("no" if len(asked) == 1 else "bf16", "a test", "")
    monkeypatch.setattr(experiments, "settle_arithmetic", measured)
    for name in "ab":
        e = run_experiment(s, tmp_path / name, 1, True, False, shared=tmp_path)
        assert e["spec"]["base"]["mixed_precision"] == "no"
    assert len(asked) == 1
    run_experiment(dict(s, frozen=True), tmp_path / "frozen", 1, True, False, shared=tmp_path)
    assert len(asked) == 2 and (tmp_path / "frozen" / "arithmetic.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="processes are told apart by their work folder the POSIX way")
def test_two_processes_that_want_the_same_run_train_it_once(data, tmp_path):
    code = ("import sys; from micacl.train import experiments as e; from micacl.train.config import Config; "
            "from micacl.train.loop import train\n"
            "def counted(*a, **k): print('trained', flush=True); return train(*a, **k)\n"
            "e.train = counted\n"
            f"print(e.one_run({str(tmp_path)!r}, {str(data)!r}, sys.argv[1], None, "
            f"Config(**{dict(BASE, epochs=6)!r}, model='mean', seed=1)))")
    start = time.time()
    jobs = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True) for name in ("a", "b")]
    said = [j.communicate(timeout=300) for j in jobs]
    assert [j.returncode for j in jobs] == [0, 0], said
    out = "".join(o for o, _ in said).splitlines()
    assert out.count("trained") == 1 and len(set(out) - {"trained"}) == 1, (out, time.time() - start)
    assert not list((tmp_path / "unfinished").iterdir())
    assert run_path(tmp_path, str(data), None, Config(**dict(BASE, epochs=6), model="mean", seed=1)).exists()
