"What is prepared for a GPU: the plan, the budget, the files, and batches that come out of a device's memory."
import json
import time
from pathlib import Path

import gpu
import gpu_runs as runs
import pytest
import torch

from micacl.train.loaders import make_loader, set_epoch
from micacl.train.run import read_clips

ROOT = Path(__file__).parents[2]


def well(scale, work): return dict(found=1)
def badly(scale, work): raise ValueError(f"{work}/there: no such thing")
def for_ever(scale, work): time.sleep(600)


def files_in(folder, scale=gpu.TINY):
    return gpu.Files(folder / "out", scale, 60, "abc", [], folder / "work")


def record(method, seed, uar):
    tests = {t: dict(uar=uar, war=uar + 0.1) for t in ("test", "test_balanced")}
    return dict(name=runs.name_of(method, seed), method=method, seed=seed, seconds=1.0, tests=tests)


@pytest.fixture
def three(monkeypatch):
    "Three rows in place of the real ones; the worker gets them as they are, since it imports the script itself."
    rows = [gpu.Row("step", "a", 1, well), gpu.Row("loader", "b", 1, well, True), gpu.Row("loss", "c", 1, well)]
    monkeypatch.setattr(gpu, "rows_of", lambda scale: rows)
    return rows


class Here:
    "In place of a worker: answers at once, in this process; a job that lasts for ever is not answered."
    made = []
    def __init__(self, threads):
        self.alive = True
        self.process = type("P", (), dict(is_alive=lambda p: self.alive))(); self.made.append(self)

    def send(self, job, scale, work, name, part):
        row, = (r for r in gpu.rows_of(scale) if r.name == name)
        try: self.answer = None if row.work is for_ever else (dict(row.work(scale, work), took=0.1), None)
        except Exception as e: self.answer = None, runs.error_line(e)

    def receive(self, until): return self.answer
    def end(self): self.alive = False


# ---- the plan

def test_the_plan_names_every_part_in_order_and_what_is_there(tmp_path, capsys):
    files = files_in(tmp_path)
    files.write("loss", ["64", "128"], dict(name="128", took=1.0))
    gpu.main(["--device", "cpu", "--plan", "--out", str(tmp_path / "out")])
    assert "128                     about" in capsys.readouterr().out        # of another folder: nothing is there
    lines = list(gpu.plan_lines(gpu.TINY, files, gpu.PARTS))
    assert list(dict.fromkeys(line.split()[0] for line in lines)) == list(gpu.PARTS)
    assert [line.split()[-1] for line in lines if line.startswith("loss")] == ["s", "there"]
    assert "9 runs of 2 epochs, 0 there, next: MICACL, seed 1" in next(x for x in lines if x.startswith("synfew"))


def test_seeds_take_turns_and_ten_methods_have_the_settings_that_were_chosen():
    study = gpu.FULL.synfew
    jobs = study.jobs()
    assert [s for _, s in jobs[:11]] == [1] * 10 + [2] and len({m for m, _ in jobs}) == 10
    chosen = json.loads((ROOT / runs.CHOSEN).read_text())["methods"]
    for method, there in runs.METHODS.items():
        c = study.config(method, 3)
        assert c.lr == chosen[there]["chosen"]["lr"] and c.lr * c.backbone_lr == pytest.approx(0.001, rel=1e-3)
        assert (c.epochs, c.seed, c.loss) == (30, 3, "balanced_softmax" if "softmax" in method else "ce")
        assert bool(c.mccl_weight) == method.startswith("MICACL")
        large = gpu.FULL.r3d18.config(method, 1)
        assert (large.backbone, large.image_size, large.batch_size, large.pretrained) == ("r3d_18", 112, 128, False)
        assert large.lr == 5e-4 and large.mccl_weight == (30.0 if method.startswith("MICACL") else 0.0)


# ---- the budget

def test_a_row_that_wants_quiet_waits_while_clips_are_drawn_and_none_is_begun_that_does_not_fit(three):
    step, loader, loss = three
    assert gpu.next_row([loader, loss], 10, drawing=True) is loss
    assert gpu.next_row([loader, loss], 10, drawing=False) is loader
    assert gpu.next_row([loader], 10, drawing=True) is loader
    assert gpu.next_row([step._replace(seconds=11), loss], 10, False) is loss
    assert gpu.next_row([step], 0.5, False) is None


def test_the_number_of_runs_at_once_is_the_one_that_ends_most():
    study = gpu.FULL.synfew
    # 30 epochs of 263 steps; ten at once: each step takes three times as long
    seconds = {1: 0.008, 5: 0.012, 10: 0.024}
    counts = runs.runs_that_end(seconds, study, 263, 300, 50)
    assert counts == {1: 4, 5: 10, 10: 10} and runs.choose(seconds, counts) == 5
    assert runs.choose(seconds, runs.runs_that_end(seconds, study, 263, 20, 50)) == 1      # none ends: the furthest


def test_an_error_is_a_row_and_the_next_call_tries_it_again_at_last(three, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "Worker", Here)
    files, later = files_in(tmp_path), time.time() + 60
    three[0] = three[0]._replace(work=badly)
    gpu.measure_rows(gpu.TINY, files, str(tmp_path / "work"), list(three[:2]), later, lambda: False, 1)
    assert files.rows("step")["a"]["failed"] == "ValueError: WORK/there: no such thing"
    assert [r.name for r in gpu.missing_rows(gpu.TINY, files, gpu.PARTS)] == ["c", "a"]
    assert gpu.left_over(gpu.TINY, files, gpu.PARTS)[:2] == ["loss / c", "step / a"]
    three[0] = three[0]._replace(work=well)
    gpu.measure_rows(gpu.TINY, files, str(tmp_path / "work"), gpu.missing_rows(gpu.TINY, files, gpu.PARTS), later,
                     lambda: False, 1)
    assert files.rows("step")["a"]["found"] == 1 and not gpu.missing_rows(gpu.TINY, files, gpu.PARTS)
    assert "step / a: FAILED" in capsys.readouterr().out


def test_what_takes_too_long_is_ended_and_the_rest_goes_on_elsewhere(three, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "Worker", Here); Here.made.clear()
    files = files_in(tmp_path)
    three[0] = three[0]._replace(work=for_ever, limit=5)
    gpu.measure_rows(gpu.TINY, files, "work", list(three), time.time() + 60, lambda: False, 1)
    assert files.rows("step")["a"]["failed"] == "took longer than 5 s" and files.done("loss") == {"c"}
    assert [w.alive for w in Here.made] == [False, False]


def test_a_real_worker_is_killed_in_time_and_says_what_went_wrong():
    w = runs.Worker()
    try:
        w.send(json.loads, "[1"); answer = w.receive(time.time() + 60)
        assert answer[0] is None and answer[1].startswith("JSONDecodeError: ")
        w.send(time.sleep, 600); assert w.receive(time.time() + 0.1) is None
    finally: start = time.time(); w.end()
    assert time.time() - start < 5 and not w.process.is_alive()


# ---- files

def test_rows_stand_in_order_and_say_how_they_came_about(tmp_path):
    files = files_in(tmp_path)
    for n in ("128", "64"): files.write("loss", ["64", "128"], dict(name=n, took=1.5, seconds=dict(MCCL=2.0)))
    d = json.loads(files.path("loss").read_text())
    assert [r["name"] for r in d["rows"]] == ["64", "128"] and d["seconds"] == 3 and d["miniature"] is True
    assert d["command"] == "python benchmarks/gpu.py --device cpu --budget 60" and d["rounds"] and d["seeds"]
    assert all(x["commit"] == "abc" and x["machine"]["torch"] == torch.__version__ for x in (d, *d["rows"]))
    full = files_in(tmp_path / "full", gpu.FULL)
    full.write("loss", [], dict(name="256", took=1.0))
    assert "miniature" not in json.loads(full.path("loss").read_text())


def test_the_summary_has_an_interval_from_three_seeds_on():
    rows = [record("MICACL", s, u) for s, u in ((1, 0.5), (2, 0.6), (3, 0.7))]
    found = runs.summary([*rows, record("M3DFEL", 1, 0.4)])
    assert found["M3DFEL"]["UAR"] == dict(mean=0.4, sd=None, interval=None) and found["MICACL"]["seeds"] == [1, 2, 3]
    low, high = found["MICACL"]["balanced UAR"]["interval"]
    assert (low, high) == pytest.approx((0.6 - 4.3027 * 0.1 / 3**0.5, 0.6 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert found["MICACL"]["WAR"]["mean"] == pytest.approx(0.7)


# ---- batches from the memory of a device, and a run that the budget cuts

@pytest.fixture
def study(data):
    "The small set that the tests share, as a study that trains for two epochs."
    return runs.Study("synfew", str(data), (("n_train", 28),), (("epochs", 2), ("image_size", 32), ("batch_size", 4),
                      ("mixed_precision", "no")), seeds=1, methods=1)


def test_batches_from_memory_are_those_of_the_loader_bit_for_bit(study, data, tmp_path):
    config = study.config("MICACL", 1)
    table, cache, _ = read_clips(data, data, config, quiet=True)
    resident, some = runs.Resident(tmp_path, study, "cpu"), table.select(split="train")[:18]
    for train in (True, False):
        mine, theirs = (f(some, config, train, cache) for f in (resident.loader, make_loader))
        assert len(mine) == len(theirs) == (4 if train else 5)
        for epoch in (1, 0):
            for loader in (mine, theirs): set_epoch(loader, epoch)
            for a, b in zip(mine, theirs, strict=True):
                assert len(a) == len(b) == (4 if train else 3)
                assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b))


def test_a_run_that_was_cut_goes_on_at_the_next_call(study, tmp_path, monkeypatch):
    from micacl.train import evaluation, loop
    for module in (loop, evaluation): monkeypatch.setattr(module, "make_loader", module.make_loader)      # put back
    runs.load(tmp_path, study, "cpu")
    assert runs.run(tmp_path, study, "MICACL", 1, stop=0) is None            # no time for a second epoch
    assert (tmp_path / "synfew" / "unfinished" / "micacl--seed-1" / "checkpoint").is_dir()
    found = runs.run(tmp_path, study, "MICACL", 1, stop=0)                   # the second is the last
    assert found["epochs"] == 2 and set(found["tests"]) == {"test", "test_balanced"}
    assert not list((tmp_path / "synfew" / "unfinished").iterdir())
    files = files_in(tmp_path)
    assert [r["name"] for r in gpu.finished_elsewhere(files, tmp_path, study)] == ["MICACL, seed 1"]


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("gpu-*.json")), ids=lambda p: p.stem)
def test_results_are_no_miniatures(file):
    d = json.loads(file.read_text())
    assert "miniature" not in d and d["commit"] and d["command"].startswith("python benchmarks/gpu.py --budget")
    assert "/tmp" not in file.read_text() and "/work" not in file.read_text()
