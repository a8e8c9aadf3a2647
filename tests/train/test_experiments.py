"The experiment machine: checked before it runs, resumed, tuned on other data, and honest about failures."
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from micacl.train import experiments
from micacl.core import MicaclError, read_json
from micacl.train.config import Config
from micacl.train.experiments import compare_runs, cost, one_run, run_experiment, run_path, summarise_runs
from micacl.train.specification import configuration, grid_points, read_spec
from micacl.metrics import paired_difference, uar
from micacl.train.objective import build_model
from micacl.train.summaries import pack_labels, unpack_labels
from micacl.train.loop import Interrupted, train

BASE = dict(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=2, batch_size=8, mccl_weight=0.0)


@pytest.fixture
def data(data): return str(data)      # as it stands in a specification


def spec(data, **kw):
    return {**dict(data=data, base=BASE, seeds=[1, 2], test="test_balanced",
                   methods={"mean": dict(model="mean"), "attention": dict(model="attention")},
                   compare=[["attention", "mean"]]), **kw}


@pytest.mark.parametrize("change, message", [
    (dict(seed=3), "unknown name seed"), (dict(methods={}), "expected methods, found none"),
    (dict(seeds=3), "seeds: expected a list, found 3"),
    (dict(synfew={}), "expected data or synfew, one of the two"),
    (dict(methods={"x": dict(model="vit")}, compare=[]), "method x: model: expected one of"),
    (dict(methods={"x": dict(learning_rate=1)}, compare=[]), "unknown name learning_rate"),
    (dict(compare=[["attention", "max"]]), "found 'max'"),
    (dict(tune=dict(data="d")), "expected a grid"), (dict(tune=dict(grid=dict(lr=[-1]), data="d")),
                                                     "lr: expected a number above 0"),
                                                     (dict(tune=dict(grid=dict(lr=[1]))),
                                                      "tune: expected data or synfew"),
    (dict(methods={"a": {}, "b": dict(like="c")}, compare=[]),
     "b: like: expected a method that is tuned itself, found 'c'"),
    (dict(methods={"a": {}, "b": dict(like="a"), "c": dict(like="b")}, compare=[]),
     "c: like: expected a method that is tuned itself"),
    (dict(seeds=[]), "seeds: expected different whole numbers, at least one; found \\[\\]"),
    (dict(seeds=[1, 1]), "seeds: expected different"), (dict(seeds=["1"]), "seeds: expected different whole numbers"),
    (dict(seeds=[[1]]), "seeds: expected"),
    (dict(folds=[]), "folds: expected different numbers from 1"), (dict(folds=[1, 2, 2]), "folds: expected different"),
    (dict(folds=[0, 1]), "folds: expected"), (dict(folds=[None, 1]), "folds: expected"),
    (dict(folds=[True]), "folds: expected"),
    (dict(compare=[["attention"]]), "compare: expected pairs of methods, found \\['attention'\\]"),
    (dict(compare=["attention"]), "compare: expected pairs"), (dict(compare=[["attention", 3]]), "compare: expected"),
    (dict(methods={"x": 3}, compare=[]), "x: expected the fields in which it differs, found 3"),
    (dict(tune=dict(data="d", grid=dict(lr=1))), "tune: grid: lr: expected a list of values, found 1"),
    (dict(tune=dict(data="d", grid=dict(lr=[]))), "lr: expected a list"),
    (dict(tune=dict(data="d", grid=dict(lr=[1]), seed=3)), "tune: unknown name seed"),
    (dict(tune=dict(data="d", grid=dict(lr=[1]), seeds=[])), "tune: seeds: expected"),
    (dict(methods={"//": dict(model="mean"), "": dict(model="max")}, compare=[]), "expected a name"),
    (dict(methods={"x": dict(model_args=dict(kernels=3))}, compare=[]),
     "^experiment: method x: model_args: kernels: expected a list of whole numbers, found 3"),
     (dict(base=dict(BASE, lr="fast")),
                                                           "lr: expected a number, found 'fast'"),
    (dict(tune=dict(data="d", grid=dict(epochs=[2.5]))), "epochs: expected a whole number"),
    (dict(tune=dict(synfew=dict(n_trian=20), grid=dict(lr=[1]))),
     "tune: synfew: unknown name n_trian; known are profile"),
    (dict(tune=dict(synfew=3, grid=dict(lr=[1]))), "tune: synfew: expected a dict, found 3"),
    (dict(tune=dict(synfew=dict(out="here"), grid=dict(lr=[1]))), "unknown name out"),
    (dict(compare=[[["attention"], "mean"]]), "compare: expected methods, found \\['attention'\\]"),
    (dict(methods={"a": {}, "b": dict(like=["a"])}, compare=[]), "like: expected a method"),
])
def test_a_mistake_is_found_before_anything_runs(data, tmp_path, change, message):
    with pytest.raises(MicaclError, match=message) as e: run_experiment(spec(data, **change), tmp_path / "x", 1, True)
    assert "\n" not in str(e.value) and not (tmp_path / "x").exists()


def test_a_slip_in_the_arguments_of_the_set_is_found_before_anything_is_drawn(tmp_path):
    with pytest.raises(MicaclError, match="^experiment: synfew: unknown name n_trian"):
        run_experiment(dict(synfew=dict(n_trian=20), methods={"a": {}}), tmp_path / "x", 1, True)
    assert not (tmp_path / "x").exists()


def test_a_file_that_holds_something_else(tmp_path):
    for text, words in (("[]", "expected an object"), ("3", "expected an object"), ("{", "JSON")):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(MicaclError, match=words): read_spec(tmp_path / "s.json")


@pytest.mark.parametrize("change, message", [
    (dict(folds=[1, 2, 9], test="test"), "fold 9"), (dict(folds=[1], test="test_balanced"),
                                                     "test: expected test; found 'test_balanced'"),
                                                     (dict(test="best"), "test: expected one of test, test_balanced; "
                                                      "found 'best'"),
    (dict(tune=dict(grid=dict(lr=[1e-3])), test="best"), "found 'best'"),
])
def test_what_the_data_do_not_have_is_found_before_anything_runs(data, tmp_path, change, message, monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *a, **k: pytest.fail("a run was started"))
    if "tune" in change: change["tune"]["data"] = data
    with pytest.raises(MicaclError, match=message): run_experiment(spec(data, **change), tmp_path / "x", 1, True, False)


def test_configuration_order():
    "base < tuned < method < seed; frozen wins."
    s = read_spec(dict(data="d", base=dict(lr=1.0, epochs=3), frozen=True, methods=dict(a=dict(epochs=4), b={}),
                       tune=dict(data="t", grid=dict(lr=[2.0, 3.0], epochs=[5]))))
    a, b = configuration(s, "a", 7, grid_points(s)[1]), configuration(s, "b", 7, grid_points(s)[1])
    assert (a.lr, a.epochs, a.seed, a.backbone_lr) == (3.0, 4, 7, 0.0) and b.epochs == 5 and len(grid_points(s)) == 2
    assert configuration(s, "a", 7).lr == 1.0


def test_a_run_is_what_train_gives(data, tmp_path):
    c = Config(**BASE, model="attention", seed=3)
    found = read_json(one_run(tmp_path, data, "attention", None, c))
    r = train(data, tmp_path / "direct", c, quiet=True)
    for name, t in r["tests"].items():
        mine = found["tests"][name]
        assert (mine["confusion"] == t["confusion"] and mine["uar"] == t["uar"]
                and mine["instance_auc"] == t["instance_auc"])
        y, p = ([int(d) for d in mine[k]] for k in ("y", "predicted"))
        assert uar(y, p) == pytest.approx(t["uar"])
    assert (found["seed"], found["model"], found["config"]["model"]) == (3, "attention", "attention")
    assert not (tmp_path / "unfinished" / "x").exists() and not list((tmp_path / "unfinished").iterdir())


def test_names_of_runs_follow_from_what_they_depend_on(tmp_path):
    c = Config()
    paths = {run_path(tmp_path, d, f, k) for d in ("x", "y") for f in (None, 1)
             for k in (c, dataclasses.replace(c, lr=1.0), dataclasses.replace(c, seed=1))}
    assert len(paths) == 12 and all(p.name.startswith("micacl-seed") for p in paths)


def test_an_interrupted_run_goes_on(data, tmp_path, monkeypatch):
    c, calls = Config(**BASE, model="mean", seed=1), []
    whole = read_json(one_run(tmp_path / "a", data, "mean", None, c))
    def stopped(*args, **kw):
        def press(record): calls.append(record["epoch"]); raise KeyboardInterrupt
        return train(*args, **kw, on_epoch=press)
    monkeypatch.setattr(experiments, "train", stopped)
    with pytest.raises(MicaclError, match="interrupted"): one_run(tmp_path / "b", data, "mean", None, c)
    monkeypatch.setattr(experiments, "train", lambda *a, **kw: train(*a, **kw,
        on_epoch=lambda r: calls.append(r["epoch"])))
    again = read_json(one_run(tmp_path / "b", data, "mean", None, c))
    assert calls == [1, 2] and {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_an_experiment_from_end_to_end_and_again(data, tmp_path, monkeypatch):
    s = spec(data, tune=dict(data=data, grid=dict(lr=[1e-3, 1e-2]), seeds=[5]),
             methods={"mean": dict(model="mean"), "attention": dict(model="attention"),
                      "max": dict(model="max", like="mean")})
    summary = run_experiment(s, tmp_path / "x", 2, True, costs=False)
    assert (summary["failed"] == 0 and len(list((tmp_path / "x" / "runs").iterdir())) == 6
            and len(list((tmp_path / "x" / "tune" / "runs").iterdir())) == 4)
    for m, r in summary["methods"].items():
        assert r["n_runs"] == 2 and len(r["tried"]) == (0 if m == "max" else 2)
        if m != "max": assert r["chosen"] == max(r["tried"], key=lambda p: p["uar"])["fields"]
    assert summary["methods"]["max"]["chosen"] == summary["methods"]["mean"]["chosen"]
    runs = {m: [read_json(p) for p in sorted((tmp_path / "x" / "runs").glob(f"{m}-*"))] for m in ("mean", "attention")}
    t = summary["methods"]["mean"]["tests"]["test_balanced"]
    uars = [r["tests"]["test_balanced"]["uar"] for r in runs["mean"]]
    assert t["uar"] == pytest.approx(dict(mean=np.mean(uars), sd=np.std(uars, ddof=1))) and t["n_test"] == 14
    by_hand = np.mean([b["tests"]["test_balanced"]["uar"] - a["tests"]["test_balanced"]["uar"] for a,
                       b in zip(runs["mean"], runs["attention"])])
    assert summary["comparisons"][0]["uar"]["difference"] == pytest.approx(by_hand)
    def never(*a, **k): raise AssertionError("nothing is left to be run")
    monkeypatch.setattr(experiments, "train", never)
    again = run_experiment(s, tmp_path / "x", 1, True, costs=False)
    assert json.dumps(again["methods"], sort_keys=True) == json.dumps(summary["methods"], sort_keys=True)


def test_frozen_gives_the_numbers_of_a_frozen_backbone(data, tmp_path):
    summary = run_experiment(spec(data, frozen=True), tmp_path / "x", 1, True, costs=False)
    slow = train(data, tmp_path / "slow", Config(**BASE, model="mean", seed=1, backbone_lr=0.0), quiet=True)
    assert (summary["methods"]["mean"]["tests"]["test_balanced"]["uars"][0]
            == pytest.approx(slow["tests"]["test_balanced"]["uar"]))
    assert list((tmp_path / "x" / "features").iterdir())


def test_a_failed_run_is_named_and_the_others_go_on(data, tmp_path, capsys):
    s = spec(data, methods={"mean": dict(model="mean"), "mad": dict(model="mean", lr=1e30, warmup_epochs=0.0,
        optim_args=dict(clip_norm=0.0))}, compare=[["mean", "mad"]])
    summary = run_experiment(s, tmp_path / "x", 2, costs=False)
    said = capsys.readouterr().out
    assert "FAILED: mad, seed 1" in said and "not finite" in said and "2 of 4 runs failed" in said
    assert summary["failed"] == 2 and list(summary["methods"]) == ["mean"] and summary["comparisons"] == []


def test_a_failed_fold_does_not_cost_the_summary(data, tmp_path, monkeypatch, capsys):
    """One fold of one method fails: the other runs are summed up, the comparison is made of what both have, and the
    same call fills the gap."""
    def fails(data, out, config, fold, **kw):
        if config.model == "mean" and fold == 2 and config.seed == 2: raise RuntimeError("the disk is full")
        return train(data, out, config, fold, **kw)
    s = spec(data, base={**BASE, "epochs": 1}, folds=[1, 2], test="test")
    monkeypatch.setattr(experiments, "train", fails)
    part = run_experiment(s, tmp_path / "x", 1, False, False)
    assert "FAILED: mean, fold 2, seed 2: RuntimeError: the disk is full" in capsys.readouterr().out
    # seed 1 is whole
    assert (part["failed"] == 1 and part["methods"]["mean"]["n_runs"] == 3
            and len(part["comparisons"][0]["uar"]["by_seed"]) == 1)
    assert (part["methods"]["mean"]["tests"]["test"]["pooled"]["n_seeds"] == 1
            and part["methods"]["attention"]["tests"]["test"]["pooled"]["n_seeds"] == 2)
    only = run_experiment(dict(s, seeds=[2]), tmp_path / "x", 1, True, False)           # not one seed is whole
    assert (only["failed"] == 1 and only["comparisons"] == []
            and only["methods"]["mean"]["tests"]["test"]["pooled"] is None)
    monkeypatch.setattr(experiments, "train", train)
    whole = run_experiment(s, tmp_path / "x", 1, True, False)
    assert whole["failed"] == 0 and len(whole["comparisons"][0]["uar"]["by_seed"]) == 2


def test_folds_are_resumed_and_summed_up(data, tmp_path, monkeypatch):
    """Stopped in fold 3, the same call goes on there: nothing that is finished runs again, and the summary is that
    of an experiment that was never stopped."""
    s = spec(data, seeds=[1], folds=[1, 2, 3, 4, 5], test="test", base=dict(BASE, epochs=2),
             methods={"mean": dict(model="mean")}, compare=[])
    calls = []
    def stopped(data, out, config, fold, **kw):
        calls.append(fold)
        def press(record):
            if fold == 3: raise KeyboardInterrupt
        return train(data, out, config, fold, on_epoch=press, **kw)
    monkeypatch.setattr(experiments, "train", stopped)
    with pytest.raises(Interrupted): run_experiment(s, tmp_path / "x", 1, True, False)
    assert calls == [1, 2, 3] and not (tmp_path / "x" / "summary.json").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "x" / "runs").iterdir()}
    epochs = []
    def again(data, out, config, fold, **kw):
        return train(data, out, config, fold, on_epoch=lambda r: epochs.append((fold, r["epoch"])), **kw)
    monkeypatch.setattr(experiments, "train", again)
    summary = run_experiment(s, tmp_path / "x", 1, True, False)
    # of fold 3 only what was missing
    assert epochs == [(3, 2), *((k, e) for k in (4, 5) for e in (1, 2))]
    assert len(before) == 2 and all(p.stat().st_mtime_ns == t for p, t in before.items())
    monkeypatch.setattr(experiments, "train", train)
    whole = run_experiment(s, tmp_path / "y", 1, True, False)
    plain = lambda m: {k: v for k, v in m.items() if k != "seconds"}
    assert json.dumps(plain(summary["methods"]["mean"])) == json.dumps(plain(whole["methods"]["mean"]))

    runs = sorted((read_json(p) for p in (tmp_path / "x" / "runs").iterdir()), key=lambda r: r["fold"])
    assert [r["fold"] for r in runs] == [1, 2, 3, 4, 5] and {r["dataset"] for r in runs} == {"synfew"}
    y, said = (np.array([int(c) for r in runs for c in r["tests"]["test"][k]]) for k in ("y", "predicted"))
    t = summary["methods"]["mean"]["tests"]["test"]
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix
    # every training clip is tested once
    assert (t["pooled"]["confusion"] == confusion_matrix(y, said, labels=range(7)).tolist()
            and t["pooled"]["n_seeds"] == 1 and len(y) == 28)
    assert (t["pooled"]["uar"]["mean"] == pytest.approx(balanced_accuracy_score(y, said))
            and t["pooled"]["war"]["mean"] == pytest.approx((y == said).mean()))
    assert ([t["folds"][str(k)]["uar"]["mean"] for k in range(1, 6)] == [r["tests"]["test"]["uar"] for r in runs]
            and t["uar"]["mean"] == pytest.approx(np.mean([r["tests"]["test"]["uar"] for r in runs])))


def test_other_clips_in_the_same_list_are_not_mixed_with_old_runs(data, tmp_path):
    shutil.copytree(data, tmp_path / "d", ignore=shutil.ignore_patterns(".micacl-cache"))
    s = spec(str(tmp_path / "d"), seeds=[1], base=dict(BASE, epochs=1), methods={"mean": dict(model="mean")},
             compare=[])
    run_experiment(s, tmp_path / "x", 1, True, False)
    rows = (tmp_path / "d" / "clips.csv").read_text().splitlines()
    (tmp_path / "d" / "clips.csv").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(MicaclError, match="56|the clips of the runs that are there") as e:
        run_experiment(s, tmp_path / "x", 1, True, False)
    assert "new folder" in str(e.value)
    assert run_experiment(s, tmp_path / "y", 1, True, False)["failed"] == 0
    (tmp_path / "d" / "clips.csv").write_text("\n".join(rows) + "\n")
    assert run_experiment(s, tmp_path / "x", 1, True, False)["failed"] == 0


def test_predictions_of_any_number_of_classes_come_back():
    for C in (2, 10, 62, 63, 300):
        labels = np.arange(C)[::-1]
        text = json.loads(json.dumps(pack_labels(labels)))
        assert unpack_labels(text).tolist() == labels.tolist() and isinstance(text, str) == (C <= 62)
    assert unpack_labels(pack_labels(np.array([], dtype=int))).tolist() == []


def run_of(seed, y, predicted, fold=None, classes="abc"):
    return dict(seed=seed, fold=fold, classes=list(classes), train_counts=[9, 5, 1],
                tests=dict(test=dict(y=y, predicted=predicted)))


def test_folds_are_laid_end_to_end_and_seeds_are_paired():
    a = [run_of(s, y, p, f) for s, f, y, p in [(2, 1, "012", "010"), (1, 1, "012", "012"), (1, 2, "00", "01"),
                                               (2, 2, "00", "00")]]
    b = [run_of(s, y, p, f) for s, f, y, p in [(1, 1, "012", "000"), (1, 2, "00", "11"), (2, 1, "012", "012"),
                                               (2, 2, "00", "10")]]
    got = compare_runs(a, b, "test")
    want = paired_difference([0, 1, 2, 0, 0], [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]], [[0, 0, 0, 1, 1], [0, 1, 2, 1, 0]], 3)
    assert got["uar"] == want
    assert got["tail"]["by_seed"] == [1, -1]                # class c alone: right and wrong, wrong and right
    # seed 3 lacks fold 2 in both
    fewer = compare_runs([*a, run_of(3, "012", "012", 1)], [*b, run_of(3, "012", "012", 1)], "test")
    assert fewer == got
    with pytest.raises(MicaclError, match="same clips"):
        compare_runs([run_of(1, "01", "01")], [run_of(1, "10", "01")], "test")


def test_missing_scores_are_missing_in_the_mean():
    t = lambda tail: dict(tests=dict(test=dict(uar=.5, tail=tail, recall=dict(a=.5), n_test=3)), classes=["a"],
                          seconds=1)
    out = summarise_runs([t(None), t(.5)])["tests"]["test"]
    assert np.isnan(out["tail"]["mean"]) and out["uar"] == dict(mean=.5, sd=0.0) and "instance_auc" not in out


def test_cost_by_hand():
    c = Config(**BASE, model="mean")
    k, model = cost(c, steps=1), build_model(c, 7)
    assert k["parameters"] == sum(p.numel() for p in model.parameters()) and k["head_parameters"] == 128 * 7 + 7
    macs, px = 0, 32                                        # of the four convolutions, at each of their places
    for c_in, c_out, taps in ((3, 16, 9), (16, 32, 9), (32, 64, 27), (64, 128, 27)):
        px //= 2
        macs += c_in * c_out * taps * px * px * 8           # 8 frames in a clip of 2 x 4
    assert k["gflops"] * 1e9 == pytest.approx(2 * (macs + 128 * 7), rel=1e-6) and k["step_seconds"] > 0


@pytest.mark.parametrize("before", ["2", None])
def test_workers_get_one_thread_and_the_environment_is_put_back(monkeypatch, before):
    if before: monkeypatch.setenv("OMP_NUM_THREADS", before)
    else: monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with experiments._one_thread(): assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_command(data, tmp_path, capsys):
    from micacl.cli import main
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec(data, seeds=[1], methods={"mean": dict(model="mean")}, compare=[])))
    assert main(["experiment", str(file), "--out", str(tmp_path / "x"), "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "mean: UAR " in out and (tmp_path / "x" / "summary.json").exists()
    shutil.rmtree(tmp_path / "x")
    file.write_text("{}")
    assert main(["experiment", str(file), "--out", str(tmp_path / "x")]) == 1
    assert "expected methods, found none" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent the POSIX way")
def test_ctrl_c_ends_soon_in_one_line_and_leaves_no_process(data, tmp_path):
    file, out = tmp_path / "spec.json", tmp_path / "x"
    file.write_text(json.dumps(spec(data, base={**BASE, "epochs": 500}, seeds=[1, 2])))
    job = subprocess.Popen([sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, "
                                                  "signal.default_int_handler); from micacl.cli import main; "
                                                  "sys.exit(main(sys.argv[1:]))",
                            "experiment", str(file), "--out", str(out), "--processes", "2"], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.time() + 120
    while time.time() < until and not list(out.glob("unfinished/*/checkpoint/state.json")): time.sleep(0.2)
    os.killpg(job.pid, signal.SIGINT)                     # as a terminal does: to all of them
    said = job.communicate(timeout=60)[1].strip().splitlines()
    assert job.returncode == 130 and said == ["micacl: interrupted; the same command goes on where it stopped"]
    time.sleep(1)
    before = {p: p.read_text() for p in out.glob("unfinished/*/metrics.jsonl")}
    time.sleep(1.5)
    assert before and {p: p.read_text() for p in before} == before      # nobody goes on training


def test_ctrl_c_in_a_single_process_stops_the_experiment_and_not_only_the_run(data, tmp_path, monkeypatch):
    calls = []
    def stopped(*args, **kw):
        def press(record): calls.append(record["epoch"]); raise KeyboardInterrupt
        return train(*args, **kw, on_epoch=press)
    monkeypatch.setattr(experiments, "train", stopped)
    with pytest.raises(Interrupted): run_experiment(spec(data), tmp_path / "x", 1, True)
    assert calls == [1]
