"The loop, and what a run leaves behind: resumed, killed, interrupted, repeated, and on damaged data."
import csv
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from micacl.train import loop as training
from micacl.core import MicaclError, read_json
from micacl.metrics import class_counts
from micacl.train.config import Config
from micacl.metrics import instance_auc, summarise
from micacl.train.objective import build_model
from micacl.train.checkpoint import find_checkpoint, read_tensors
from micacl.train.run import hold_folder, load_run, prepare_data
from micacl.data.synfew.generate import read_truth
from micacl.longtail.samplers import EpochOrder
from micacl.train.loaders import make_loader
from micacl.train.loop import Interrupted, evaluate, instance_truth, make_accelerator, predict, train, train_epoch
from micacl.train.objective import Objective, lr_at, make_optimizer
from micacl.data.cache import FrameCache
from micacl.data.bags import frame_indices

TINY = Config(mixed_precision="no", pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=3,
              batch_size=8,
              mccl_args=dict(out_dim=16))


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory):
    "An uninterrupted run."
    run = tmp_path_factory.mktemp("runs") / "whole"
    return run, train(data, run, TINY, quiet=True)


def curve(run):
    "metrics.jsonl without the time it took."
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def same_run(a, b):
    "Equal to the bit: every epoch, every weight, every score."
    wa, wb = (read_tensors(Path(r) / "model.safetensors") for r in (a, b))
    ja, jb = (read_json(Path(r) / "results.json") for r in (a, b))
    return curve(a) == curve(b) and wa.keys() == wb.keys() and all(torch.equal(wa[k], wb[k]) for k in wa) and ja == jb


# ---- learning rate, loss, optimiser, order

def test_lr_by_hand():
    # 4 steps an epoch: W = 4, last step 11
    c = Config(epochs=3, warmup_epochs=1, lr=1.0, optim_args=dict(warmup_lr=0.0, min_lr=0.1))
    assert [lr_at(t, 4, c) for t in range(5)] == [0, .25, .5, .75, 1]
    assert lr_at(11, 4, c) == pytest.approx(.1)
    assert lr_at(7, 4, c) == pytest.approx(.1 + .9 * (1 + math.cos(math.pi * 3 / 7)) / 2)


@pytest.mark.parametrize("warm", [0, 0.5, 1, 3, 10])
@pytest.mark.parametrize("per_epoch", [1, 7])
def test_lr_rises_then_falls(warm, per_epoch):
    c = Config(epochs=3, warmup_epochs=warm)
    rates, W = np.array([lr_at(t, per_epoch, c) for t in range(3 * per_epoch)]), warm * per_epoch
    d = np.diff(rates)
    up = np.arange(1, 3 * per_epoch) <= W
    assert (d[up] > 0).all() and (d[~up & (np.arange(1, 3 * per_epoch) > W + 1)] < 0).all()
    assert c.optim.min_lr <= rates.min() and rates.max() <= c.lr
    if warm < 2: assert rates[-1] == pytest.approx(c.optim.min_lr)


def test_a_run_of_one_step_has_a_rate():
    assert lr_at(0, 1, Config(epochs=1, warmup_epochs=0)) == Config().lr


class Out(NamedTuple):
    logits: torch.Tensor
    bag: torch.Tensor


def test_objective():
    torch.manual_seed(0)
    y, out = torch.tensor([0, 0, 1, 1, 2, 2]), Out(torch.randn(6, 7), torch.randn(6, 16))
    loss = Objective(Config(mccl_weight=2.5, mccl_args=dict(out_dim=8)), [9, 8, 7, 6, 5, 4, 3], 16)
    t = loss(out, y)
    p = out.logits.double().log_softmax(1)
    ce = -(.9 * p[range(6), y] + .1 * p.mean(1)).mean()
    assert t["ce"].item() == pytest.approx(ce.item(), abs=1e-6) and t["mccl"] > 0
    assert t["loss"].item() == pytest.approx((t["ce"] + 2.5 * t["mccl"]).item())
    plain = Objective(Config(mccl_weight=0, label_smoothing=0), [1] * 7, 16)
    assert not list(plain.parameters()) and plain(out, y)["mccl"] == 0
    assert plain(out, y)["loss"].item() == pytest.approx(F.cross_entropy(out.logits, y).item())


def test_every_parameter_is_optimised_once_and_vectors_do_not_decay():
    model = build_model(TINY, 7)
    loss = Objective(TINY, [4] * 7, model.bag_dim)
    groups = make_optimizer(model, loss, TINY).param_groups
    got = [id(p) for g in groups for p in g["params"]]
    assert len(got) == len(set(got)) and set(got) == {id(p) for m in (model, loss) for p in m.parameters()}
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, p in model.named_parameters():
        assert (decays[id(p)] == 0) == (p.ndim <= 1), name


class Points(torch.utils.data.Dataset):
    "Twenty points that remember who was asked for, and in which epoch."
    def __init__(self): self.seen, self.epoch = [], None
    def set_epoch(self, epoch): self.epoch = epoch
    def __len__(self): return 20
    def __getitem__(self, i):
        self.seen.append((self.epoch, i))
        return torch.randn(3, 4, generator=torch.Generator().manual_seed(i)), i % 7, i


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = torch.nn.Linear(4, 7), torch.nn.Dropout(.5)
    def forward(self, video):
        bag = self.drop(video.mean(1))
        return Out(self.fc(bag), bag)


def one_epoch(epoch, noise):
    "An epoch of a fresh network with dropout, in a process whose random generator is in any state."
    torch.manual_seed(0)
    c, net, points = Config(epochs=4, batch_size=4, mccl_weight=0), Net(), Points()
    accelerator, objective = make_accelerator(c), Objective(c, [3] * 7, 4)
    loader = torch.utils.data.DataLoader(points, 4, sampler=EpochOrder([0] * 20, c.seed))
    model, loader, optimizer = accelerator.prepare(net, loader, make_optimizer(net, objective, c))
    torch.manual_seed(noise)
    record = train_epoch(model, objective, loader, optimizer, epoch, c, accelerator)
    return record, net.fc.weight.detach().clone(), points.seen


def test_an_epoch_depends_on_seed_and_epoch_only():
    "Dropout, order and augmentation of epoch 2 are those of epoch 2, whatever the process did before."
    (a, wa, seen_a), (b, wb, seen_b), (c, _, seen_c) = one_epoch(2, 11), one_epoch(2, 22), one_epoch(3, 11)
    order = EpochOrder([0] * 20, Config().seed)
    order.set_epoch(2)
    assert a == b and torch.equal(wa, wb) and seen_a == seen_b == [(2, i) for i in order]
    assert a != c and seen_c != [(3, i) for i in order] and {e for e, _ in seen_c} == {3}


def test_gradients_are_clipped_and_the_rate_is_set():
    torch.manual_seed(0)
    net, objective = Net(), Objective(Config(mccl_weight=0), [3] * 7, 4)
    norms = []
    for clip_norm in (0, 1e-3):
        c = Config(epochs=1, warmup_epochs=0, batch_size=20, mccl_weight=0, optim_args=dict(clip_norm=clip_norm))
        accelerator, optimizer = make_accelerator(c), torch.optim.SGD(net.parameters(), lr=99.)
        before = net.fc.weight.detach().clone()
        record = train_epoch(net, objective, [(torch.ones(7, 3, 4), torch.arange(7), None)],
                             accelerator.prepare(optimizer), 0, c, accelerator)
        norms.append((net.fc.weight - before).norm().item() / c.lr)      # one step of SGD: the gradient that was used
        assert record["lr"] == c.lr
    assert norms[0] > 1e-2 and norms[1] <= 1e-3 * 1.01


# ---- a run folder

def test_run_folder(whole, data):
    run, results = whole
    assert {p.name for p in run.iterdir()} == {".lock", "config.json", "clips.csv", "metrics.jsonl", "results.json",
                                               "predictions.npz", "model.safetensors", "checkpoint"}
    assert ([r["epoch"] for r in curve(run)] == [1, 2, 3]
            and all(r["loss"] == pytest.approx(r["ce"] + r["mccl"]) for r in curve(run)))
    info, d = read_json(run / "config.json"), prepare_data(data, run, TINY, quiet=True)
    assert (info["train_counts"] == class_counts(d.train.labels, 7).tolist()
            and info["n_train"] + info["n_validation"] == 28)
    assert results["epoch"] == 3 and results["skipped"] == [] and results["seed"] == 42
    assert results["uar"] == results["tests"]["test"]["uar"] and results["tests"].keys() == {"test", "test_balanced"}


def test_no_pickle_in_a_run_folder(whole):
    for f in whole[0].rglob("*"):
        if not f.is_file() or f.stat().st_size == 0: continue
        head = f.read_bytes()
        assert not (head[0] == 0x80 and head[1] in range(2, 6)) and b"data.pkl" not in head, f
        assert f.suffix in (".json", ".csv", ".jsonl", ".safetensors", ".npz"), f
    with np.load(whole[0] / "predictions.npz", allow_pickle=False) as z:
        assert all(z[k].dtype != object for k in z.files)


def test_results_follow_from_predictions(whole, data):
    run, results = whole
    info = read_json(run / "config.json")
    with np.load(run / "predictions.npz") as z: p = dict(z)
    for name, expected in results["tests"].items():
        i = p["split"] == name
        s = summarise(p["y"][i], p["logits"][i], info["classes"], info["train_counts"], 42)
        assert {k: expected[k] for k in s} == s
        assert expected["instance_auc"] == instance_auc(p["weights"][i], p["positive"][i])[0]
    np.testing.assert_allclose(p["weights"].sum(1), 1, atol=1e-5)


def test_instance_truth(data, tmp_path):
    table, truth = prepare_data(data, tmp_path, TINY, quiet=True).tests["test"], read_truth(data)
    expected = []
    for clip in table:
        apex = truth[clip.id][1]
        shown = [bool(apex[i]) for i in frame_indices(len(apex), 2, 4).tolist()]
        expected.append([sum(shown[:4]) >= 2, sum(shown[4:]) >= 2])
    assert instance_truth(table, TINY).tolist() == expected and np.any(expected) and not np.all(expected)


def test_evaluate_repeats_the_results_of_training(whole, data, tmp_path):
    run, results = whole
    assert evaluate(run, data, out=tmp_path / "again") == results
    assert read_json(tmp_path / "again" / "results.json") == read_json(run / "results.json")
    model, config, info = load_run(run)
    assert config == TINY and info["epoch"] == 3 and not model.training


def test_evaluate_on_other_data(whole, data, tmp_path):
    "A folder with test clips only, of another kind; the run folder is left alone."
    rows = [r for r in csv.DictReader((data / "clips.csv").open()) if r["split"] == "test_balanced"][:7]
    with (tmp_path / "mine.csv").open("w", newline="") as f:
        w = csv.writer(f); w.writerow(["path", "label", "split"])
        for r in rows:
            shutil.copy(data / r["path"], tmp_path / f"{r['clip']}.mp4")
            w.writerow([f"{r['clip']}.mp4", r["label"], "test"])
    before = (whole[0] / "results.json").read_bytes()
    results = evaluate(whole[0], tmp_path, out=tmp_path / "scores")
    assert results["dataset"] == "csv" and results["n_test"] == 7 and "instance_auc" not in results
    assert (whole[0] / "results.json").read_bytes() == before
    with np.load(whole[0] / "predictions.npz") as a, np.load(tmp_path / "scores" / "predictions.npz") as b:
        i = [list(a["id"]).index(r["clip"]) for r in rows]
        np.testing.assert_allclose(a["logits"][i], b["logits"], atol=1e-5)


# ---- the same run again

def test_a_run_repeats_to_the_bit_and_test_labels_are_not_looked_at(whole, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    rows = list(csv.DictReader((copy / "clips.csv").open()))
    for r in rows:
        if r["split"].startswith("test"): r["label"] = "happy"
    with (copy / "clips.csv").open("w", newline="") as f:
        w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)
    train(copy, tmp_path / "run", TINY, quiet=True)
    assert curve(tmp_path / "run") == curve(whole[0])
    a, b = (read_tensors(r / "model.safetensors") for r in (whole[0], tmp_path / "run"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert read_json(tmp_path / "run" / "results.json")["n_per_class"]["happy"] == 14


def test_another_seed_is_another_run(whole, data, tmp_path):
    train(data, tmp_path / "run", dataclasses.replace(TINY, seed=1), quiet=True)
    assert curve(tmp_path / "run")[0]["loss"] != curve(whole[0])[0]["loss"]


def test_interrupted_and_resumed_with_loader_processes(whole, data, tmp_path, monkeypatch, request):
    def stop(record): raise KeyboardInterrupt
    def ctrl_c(step, per_epoch, config):
        if step == per_epoch + 1: signal.raise_signal(signal.SIGINT)
        return lr_at(step, per_epoch, config)
    # a shell starts background jobs with SIGINT ignored, and then Python has no handler of its own
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with monkeypatch.context() as m:
        m.setattr(training, "lr_at", ctrl_c)
        with pytest.raises(Interrupted, match="1 finished epochs are kept.*resume"):
            train(data, tmp_path / "run", TINY, quiet=True)
    assert len(curve(tmp_path / "run")) == 1
    with pytest.raises(MicaclError, match="expected an empty folder"): train(data, tmp_path / "run", TINY, quiet=True)
    with pytest.raises(MicaclError, match="lr = 0.003"):
        train(data, tmp_path / "run", dataclasses.replace(TINY, lr=1.0), resume=True, quiet=True)
    train(data, tmp_path / "run", dataclasses.replace(TINY, workers=1), resume=True, quiet=True)
    assert same_run(tmp_path / "run", whole[0])
    train(data, tmp_path / "run", resume=True, quiet=True, on_epoch=stop)      # finished: no further epoch
    assert same_run(tmp_path / "run", whole[0])


KILL = """
import os, signal, sys, torch
from micacl.train import loop as training
torch.set_num_threads(1)
lr_at = training.lr_at
def deadly(step, per_epoch, config):
    if step == per_epoch + 1: os.kill(os.getpid(), signal.SIGKILL)
    return lr_at(step, per_epoch, config)
training.lr_at = deadly
training.train(sys.argv[1], sys.argv[2], training.Config(**eval(sys.argv[3])), quiet=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_in_the_middle_of_an_epoch_and_resumed(whole, data, tmp_path):
    run = tmp_path / "run"
    p = subprocess.run([sys.executable, "-c", KILL, str(data), str(run), repr(TINY.to_dict())],
                       env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (p.returncode == -signal.SIGKILL and [r["epoch"] for r in curve(run)] == [1]
            and not (run / "results.json").exists())
    assert load_run(run)[2]["epoch"] == 1
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lo')         # and the kill cut a line
    train(data, run, TINY, resume=True, quiet=True)
    assert same_run(run, whole[0])


# ---- things go wrong

def test_another_data_set_does_not_overwrite_the_runs_own_results(whole, data, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    other = shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns(".micacl-cache"))
    rows = (other / "clips.csv").read_text().splitlines()
    (other / "clips.csv").write_text("\n".join(r for r in rows if r != next(r for r in rows if ",test," in r)) + "\n")
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    results = evaluate(run, other)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    there, = run.glob("evaluations/other-*")
    assert (read_json(there / "results.json")["uar"] == results["uar"] and results["n_test"] == whole[1]["n_test"] - 1
            and (there / "predictions.npz").exists())
    evaluate(run, other)
    assert len(list((run / "evaluations").iterdir())) == 1
    evaluate(run, data)
    assert read_json(run / "results.json") == whole[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_clips_are_read_is_one_line_wherever_it_happens(data, tmp_path, monkeypatch, workers):
    def broken(self, clip_id): raise MicaclError(f"{clip_id}: expected frames, found none; mend it")
    monkeypatch.setattr(FrameCache, "frames", broken)
    with pytest.raises(MicaclError, match="expected frames, found none; mend it") as e:
        train(data, tmp_path / "run", dataclasses.replace(TINY, workers=workers), quiet=True)
    assert "Traceback" not in str(e.value) and "worker" not in str(e.value) and len(str(e.value)) < 200


def test_a_full_disk_says_what_is_kept(data, tmp_path, monkeypatch):
    save = training.save_checkpoint
    def full(run, *parts):
        if parts[-1]["epoch"] == 2: raise OSError(28, "No space left on device")
        save(run, *parts)
    monkeypatch.setattr(training, "save_checkpoint", full)
    with pytest.raises(MicaclError, match="No space left on device; 1 finished epochs are kept.*resume"):
        train(data, tmp_path / "run", TINY, quiet=True)


def test_two_runs_cannot_share_a_folder(data, tmp_path):
    with hold_folder(tmp_path / "run"):
        with pytest.raises(MicaclError, match=f"another run .process {os.getpid()}."):
            train(data, tmp_path / "run", TINY, quiet=True)


def test_a_run_is_not_scored_while_it_is_written(whole, data):
    with hold_folder(whole[0]):
        with pytest.raises(MicaclError, match="another run"): evaluate(whole[0], data)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "lr_at", lambda step, per_epoch, c: 1e-3 if step < per_epoch else 1e30)
    with pytest.raises(MicaclError, match="epoch 2, step 2: the (loss|gradient) is not finite") as e:
        train(data, tmp_path, TINY, quiet=True)
    assert "\n" not in str(e.value) and len(curve(tmp_path)) == 1
    kept = find_checkpoint(tmp_path)
    assert read_json(kept / "state.json")["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in read_tensors(kept / "model.safetensors").values())


def test_a_gradient_that_is_not_finite_stops_the_run():
    with pytest.raises(MicaclError, match="epoch 1, step 6: the gradient"):
        training._must_be_finite(torch.tensor([[1., 1., 1., 1.], [1., 1., 1., math.inf]]).unbind(), False, 0, 4)
    with pytest.raises(MicaclError, match="the loss"):
        training._must_be_finite(torch.tensor([[1., math.nan, 1., 1.], [1., 1., 1., math.inf]]).unbind(), False, 0, 5)
    assert training._must_be_finite(torch.ones(3, 4).unbind(), False, 0, 5).shape == (3, 4)
    training._must_be_finite([torch.tensor([1., 1., 1., math.inf])], True, 0, 5)      # fp16 takes a smaller scale


@pytest.fixture
def damaged(data, tmp_path):
    "A copy in which five training clips are broken, each in its own way."
    copy = shutil.copytree(data, tmp_path / "damaged", ignore=shutil.ignore_patterns(".micacl-cache"))
    text = (copy / "clips.csv").read_text().splitlines()
    rows = [r for r in csv.DictReader(text) if r["split"] == "train" and r["label"] == "neutral"]
    a, b, c, d, e = [r["clip"] for r in rows[:5]]
    (copy / "clips" / f"{a}.mp4").write_bytes((copy / "clips" / f"{a}.mp4").read_bytes()[:500])     # cut off
    (copy / "clips" / f"{b}.mp4").write_bytes(b"")                                                   # empty
    (copy / "clips" / f"{c}.mp4").write_text("not a video")
    (copy / "clips" / f"{d}.mp4").unlink()                                                           # missing
    (copy / "clips.csv").write_text("\n".join(line.replace("neutral", "neutrl") if line.startswith(f"{e},") else line
                                              for line in text) + "\n")
    return copy, (a, b, c, d, f"clips.csv:{text.index(next(t for t in text if t.startswith(e + ',')))  + 1}")


def test_bad_clips_are_named_counted_and_left_out(damaged, tmp_path, capsys):
    copy, bad = damaged
    results = train(copy, tmp_path / "run", dataclasses.replace(TINY, epochs=1))
    info, said = read_json(tmp_path / "run" / "config.json"), capsys.readouterr().out
    assert len(results["skipped"]) == 5 and info["n_train"] + info["n_validation"] == 28 - 5
    for name in bad: assert sum(name in s for s in results["skipped"]) == 1 and name in said
    assert all("\n" not in s for s in results["skipped"]) and said.count("skipped: ") == 5
    assert read_json(tmp_path / "run" / "results.json")["skipped"] == results["skipped"]


def test_or_the_first_one_stops_the_run(damaged, tmp_path):
    with pytest.raises(MicaclError) as e:
        train(damaged[0], tmp_path / "run", dataclasses.replace(TINY, on_bad_clip="stop"), quiet=True)
    assert "\n" not in str(e.value) and any(name in str(e.value) for name in damaged[1])


def test_a_fold_and_a_baseline(data, tmp_path):
    config = dataclasses.replace(TINY, epochs=1, model="mean", mccl_weight=0.0, val_fraction=0.0)
    results = train(data, tmp_path / "run", config, fold=1, quiet=True)
    held_out = [r for r in csv.DictReader((data / "clips.csv").open()) if r["fold"] == "1"]
    with np.load(tmp_path / "run" / "predictions.npz") as z:
        assert sorted(z["id"]) == sorted(r["clip"] for r in held_out)
    assert results["fold"] == 1 and results["tests"].keys() == {"test"} and results["instance_auc"] == 0.5
    record = curve(tmp_path / "run")[0]
    assert record["mccl"] == 0 and record["loss"] == record["ce"] and record["val_uar"] is None
    with pytest.raises(MicaclError, match="trained with fold 1, it has seen all"):
        evaluate(tmp_path / "run", data, fold=2)
    assert evaluate(tmp_path / "run", data)["uar"] == results["uar"]


def test_precision_can_change_within_a_process(data, tmp_path):
    results = train(data, tmp_path / "run", dataclasses.replace(TINY, epochs=1, mixed_precision="bf16"), quiet=True)
    assert np.isfinite(curve(tmp_path / "run")[0]["loss"]) and results["n_test"] == 14
    assert make_accelerator(TINY).mixed_precision == "no"
    if not torch.cuda.is_available():
        assert make_accelerator(dataclasses.replace(TINY, mixed_precision="fp16")).mixed_precision == "no"


def test_progress(whole, data, tmp_path, capsys, monkeypatch):
    "A line an epoch in a pipe, bars in a terminal, nothing when quiet."
    one = dataclasses.replace(TINY, epochs=1)
    train(data, tmp_path / "a", one, quiet=True)
    assert capsys.readouterr().out == ""
    # has to be decoded first
    fresh = shutil.copytree(data, tmp_path / "fresh", ignore=shutil.ignore_patterns(".micacl-cache"))
    train(fresh, tmp_path / "b", one)
    lines = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("note: ")]
    assert len(lines) == 2 and lines[0] == "arithmetic: 32 bits: as asked" and lines[1].startswith("epoch 1  loss ")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train(data, tmp_path / "c", one)
    said = capsys.readouterr().out
    assert "100.00% [2/2" in said and "epoch 1  loss " in said


def test_prediction_does_not_depend_on_the_batch(whole, data, tmp_path):
    model, config, _ = load_run(whole[0])
    d, accelerator = prepare_data(data, tmp_path, TINY, quiet=True), make_accelerator(TINY)
    a, b = (predict(model, accelerator.prepare(make_loader(d.tests["test"], dataclasses.replace(config, batch_size=n),
                                                           cache=d.cache)), accelerator) for n in (1, 14))
    assert a["index"].tolist() == list(range(14))
    np.testing.assert_allclose(a["logits"], b["logits"], atol=1e-5)


# ---- MCCL in the loss

def test_which_way_the_two_losses_pull_the_features():
    """benchmarks/why_mccl.py: a loss pulls its own way, and its negative the other; MCCL and cross entropy
    somewhere between."""
    from why_mccl import pull
    torch.manual_seed(0)
    fc, bag, y = torch.nn.Linear(16, 7), torch.randn(40, 16), torch.arange(40) % 7
    objective = Objective(Config(mccl_args=dict(out_dim=8)), [9, 8, 7, 6, 5, 4, 3], 16)
    with torch.no_grad(): out = Out(fc(bag), bag)
    assert -0.99 < pull(fc, objective, out, y) < 0.99
    del objective.mccl
    for sign in (1, -1):
        objective.mccl = lambda bag, y, sign=sign: sign * F.cross_entropy(fc(bag), y, label_smoothing=.1)
        assert pull(fc, objective, out, y) == pytest.approx(sign, abs=1e-5)


def test_a_finished_run_can_be_asked_why(whole, data, tmp_path):
    from why_mccl import HEADS, measure
    found = measure(whole[0], tmp_path / "features", data)
    assert all(len(found[h]["said"]) == 14 for h in HEADS) and abs(found["gradient_cosine"]) <= 1
    assert found["classifier"]["uar"] == pytest.approx(whole[1]["tests"]["test_balanced"]["uar"])


def test_lambda_rises_over_the_warm_up(monkeypatch):
    "Share of lambda at every step of three epochs of five steps: (epoch + step/5) / 2, up to 1."
    seen = []
    class Watch(Objective):
        def forward(self, out, y, ramp=1.0): seen.append(ramp); return super().forward(out, y, ramp)
    def ramps(**options):
        seen.clear()
        c, net = Config(epochs=3, batch_size=4, mccl_args=dict(out_dim=4, scales=(1,), **options)), Net()
        accelerator, objective = make_accelerator(c), Watch(c, [3] * 7, 4)
        loader = torch.utils.data.DataLoader(Points(), 4)
        for epoch in range(3):
            train_epoch(net, objective, loader, make_optimizer(net, objective, c), epoch, c, accelerator)
        return list(seen)
    assert ramps(warmup=2.0) == pytest.approx([min(1, k / 10) for k in range(15)])
    assert ramps() == [1.0] * 15


def test_options_reach_the_loss():
    c = Config(mccl_args=dict(scales=(1, 2), form="printed", out_dim=8, class_weight="none", temperature="class",
                              centres=False, tau0=.1))
    mccl = Objective(c, [8, 4], 16).mccl
    torch.testing.assert_close(mccl.W.double(), torch.ones(2).double())
    torch.testing.assert_close(mccl.tau.double(), torch.tensor([.1, .15]).double())
    assert (mccl.scales == (1, 2) and mccl.project(torch.randn(3, 16), 1).shape == (3, 8)
            and len(list(mccl.parameters())) == 2)
    assert len(list(Objective(dataclasses.replace(c, mccl_args=dict(c.mccl_args, centres=True)), [8, 4],
                              16).mccl.parameters())) == 4
    assert Objective(dataclasses.replace(c, mccl_weight=0.0), [8, 4], 16).mccl is None


def test_mccl_can_look_at_the_instances():
    class Whole(NamedTuple): logits: torch.Tensor; bag: torch.Tensor; instances: torch.Tensor; weights: torch.Tensor
    torch.manual_seed(0)
    out, y = Whole(torch.zeros(6, 2), torch.randn(6, 16), torch.randn(6, 4, 8),
                   torch.rand(6, 4).softmax(1)), torch.tensor([0, 0, 1, 1, 0, 1])
    loss = Objective(Config(mccl_args=dict(on="instances", out_dim=8)), [3, 3], 16, 8)
    mean = torch.stack([sum(out.weights[i, n] * out.instances[i, n] for n in range(4)) for i in range(6)])
    torch.testing.assert_close(loss(out, y)["mccl"], loss.mccl(mean, y))
