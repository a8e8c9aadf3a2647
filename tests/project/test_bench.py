"Measuring: the stop-watch, the counters and the command. Nothing here asks how fast the machine is."
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from micacl.train import speed as B
from micacl import cli
from micacl.core import MicaclError
from micacl.train.config import PRESETS
from micacl.train.machine import machine

ROOT = Path(__file__).parents[2]


def tiny(**changes):
    config = PRESETS["small"]()
    for k, v in dict(batch_size=4, image_size=32, **changes).items(): setattr(config, k, v)
    return config


@pytest.fixture(scope="module")
def desk(tmp_path_factory): return B.Workbench(tiny(), tmp_path_factory.mktemp("bench") / "faces")


# ---- the stop-watch

def test_functions_take_turns_and_every_second_round_goes_backwards():
    called = []
    t = B.alternate({c: lambda c=c: called.append(c) for c in "abc"}, 3)
    assert "".join(called) == "abc" + "abc" + "cba" + "abc"               # once without the clock, then three rounds
    assert t.keys() == set("abc") and all(x.shape == (3,) and (x >= 0).all() for x in t.values())


def test_a_ratio_is_taken_round_by_round(monkeypatch):
    # the machine was ten times slower in the second round
    r = B.ratio(dict(a=np.array([2., 20., 9.]), b=np.array([1., 10., 3.])), "a", "b")
    assert r == dict(ratio=2.0, low=2.0, high=3.0)


# ---- counters, against numbers worked out by hand

def test_operations_and_bytes_of_a_product_there_and_back():
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 4)
    n = B.count(lambda: (a @ b).sum().backward())
    assert n["flops"] == 2 * (2 * 8 * 16 * 4)                             # forward, and the gradient of a
    assert n["bytes"] >= 4 * (2 * (8 * 16 + 16 * 4 + 8 * 4))


def test_views_and_empty_tensors_move_nothing_and_in_place_reads_and_writes():
    x = torch.ones(1000)
    assert B.count(lambda: (x.view(10, 100).T[2:], x.expand(50, 1000), torch.empty(10**6), x.detach(),
                            torch.ops.aten._unsafe_view(x, [10, 100])))["bytes"] == 0
    assert B.count(lambda: x.add_(1))["bytes"] == 2 * 4000
    # an expanded tensor is as large as what lies behind it
    assert B.count(lambda: x.expand(50, 1000).sum())["bytes"] == 4000 + 4


def test_the_roof_is_the_slower_of_the_two():
    top = dict(flops=100., bytes=10.)
    assert B.fastest(dict(flops=1000, bytes=10), top) == 10 and B.fastest(dict(flops=10, bytes=1000), top) == 100


def test_peak_memory_counts_what_is_alive_together():
    def chain(n):
        x = torch.ones(250_000)                                           # a megabyte
        for _ in range(n): x = x + 1
        return x
    assert abs(B.peak_bytes(lambda: chain(5)) / 1e6 - 2) < 0.01
    assert abs(B.peak_bytes(lambda: [chain(1) for _ in range(5)]) / 1e6 - 6) < 0.01


def test_a_ceiling_has_positive_rates_and_takes_the_best():
    top = B.ceiling(rounds=1)
    assert (all(v > 0 for v in top.values()) and top["flops"] == max(top["matmul"], top["conv3d"])
            and top["bytes"] == top["copy"])


# ---- a step, taken apart

@pytest.mark.parametrize("model, names", [("micacl", ["backbone", "GEIIM", "WIAN", "tail", "loss"]),
                                          ("m3dfel", ["backbone", "aggregation", "loss"]),
                                          ("mean", ["backbone", "aggregation", "loss"])])
@pytest.mark.parametrize("over", ["instances", "features"])
def test_the_pieces_one_after_the_other_are_the_whole_step(desk, model, names, over):
    "Value and gradients of the chain of stages are those of the model and its objective."
    batch = next(iter(desk.loader()))
    t = desk.trainee(model=model, model_args=dict(dependency_over=over))
    model, objective = t.raw
    found = B.stages(model, objective, batch, t.accelerator.autocast)
    assert list(found) == names
    x = (batch[0],)
    for f in found.values(): x = f(*x)
    expected = objective(model(batch[0]), batch[1])["loss"]
    assert torch.allclose(x[0], expected, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, model.parameters(), allow_unused=True, retain_graph=True)
                    for loss in (x[0], expected))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(ours, theirs) if b is not None)


def test_a_piece_goes_back_to_its_inputs_and_weights_but_no_further(desk):
    layer, before = torch.nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    out = B.there_and_back(lambda x: (layer(x),), (before * 2,))
    assert out[0].shape == (4, 2) and before.grad is None
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 8.)) and torch.equal(layer.bias.grad, torch.full((2,), 4.))


def test_parts_are_all_there_and_operations_add_up(desk):
    p = B.parts(desk, dict(flops=1e9, bytes=1e9), 1)
    names = [r["part"] for r in p["rows"]]
    assert names == ["data", "augmentation", "backbone", "GEIIM", "WIAN", "tail", "loss", "optimiser"]
    assert all(r["seconds"] > 0 and r["low"] <= r["seconds"] <= r["high"] for r in [*p["rows"], p["step"]])
    assert sum(r["flops"] for r in p["rows"]) == p["step"]["flops"] > 0
    assert p["sum"] == pytest.approx(sum(r["seconds"] for r in p["rows"] if r["part"] != "data"))


def test_the_timed_optimiser_leaves_the_weights_where_they_are(desk):
    t = desk.trainee()
    work = B.pieces(desk, t)
    before = [p.clone() for p in t.raw[0].parameters()]
    work["optimiser"]()
    assert all(torch.equal(a, b) for a, b in zip(before, t.raw[0].parameters()))


# ---- the loss that is compared, and the plain model

def test_the_two_losses_are_one_function():
    from bench import same_loss
    pytest.importorskip("pytorch_metric_learning")
    (a, da), (b, db) = (f() for f in same_loss(64, "cpu").values())
    assert torch.allclose(a, b, rtol=1e-5) and torch.allclose(da, db, rtol=1e-3, atol=1e-7) and da.abs().max() > 0


def test_the_plain_model_says_what_ours_says():
    from plain_m3dfel import PlainM3DFEL, names_in_micacl
    from micacl.models import M3DFEL
    torch.manual_seed(0)
    ours, plain = M3DFEL(7, "r3d_18").eval(), PlainM3DFEL().eval()
    with torch.no_grad():
        for p in ours.tail.norm.parameters():
            p.add_(torch.randn_like(p) / 3)        # so that no mix and no scale is the start's
    names = names_in_micacl()
    plain.load_state_dict({here: ours.state_dict()[there] for here, there in names.items()})
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    video = torch.randint(0, 256, (2, 16, 3, 32, 32), dtype=torch.uint8)
    mean, std = (v.view(3, 1, 1) for v in (ours.backbone.mean, ours.backbone.std))
    with torch.no_grad(): assert torch.allclose(plain((video / 255 - mean) / std), ours(video).logits, atol=1e-4)


# ---- the command

def test_the_command_prints_parts_and_ratios_and_writes_them(capsys, tmp_path):
    assert cli.main(["bench", "--batch-size", "2", "--rounds", "1", "--json", str(tmp_path / "bench.json")]) == 0
    out, d = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert "ceiling, measured:" in out and "clips/s" in out and "whole step" in out
    assert all(f"{name}: {r['ratio']:.2f}" in out and 0 < r["low"] <= r["ratio"] <= r["high"] for name,
               r in d["ratios"].items())
    wanted = ("training from the cache : training on batches in memory",
              "an epoch that decodes : an epoch from the cache", "a step of micacl : m3dfel", "a step of micacl : mean",
              "a step of m3dfel : mean")
    assert (set(wanted) <= d["ratios"].keys() and d["parts"]["batch_size"] == 2
            and d["machine"]["torch"] == torch.__version__)
    assert [r["part"] for r in d["parts"]["rows"]][0] == "data" and d["batch_sizes"] == [] or torch.cuda.is_available()


def test_nonsense_is_refused(tmp_path):
    for bad in (dict(rounds=0), dict(batch_size=0), dict(batch_size=-3)):
        with pytest.raises(MicaclError, match="1 or more"): B.bench(tmp_path / "faces", **bad)


# ---- the script and its results

def test_the_script_runs_a_part_and_keeps_the_others(tmp_path, monkeypatch):
    import bench as script
    pytest.importorskip("pytorch_metric_learning")
    out, loss = tmp_path / "bench.json", script.loss
    here = {k: machine()[k] for k in script.KIND}
    there = dict(data=dict(kept=True), roofline=[dict(commit="abc",
                                                      command="python benchmarks/bench.py WORK roofline "
                                                              "--checkout OTHER")])
    other = dict(here, processor="another", parts=there)
    out.write_text(json.dumps(dict(machines=[other, dict(here, parts=there)])))
    monkeypatch.setitem(script.PARTS, "loss", lambda work, rounds: loss(work, rounds, (64,)))
    monkeypatch.setitem(script.PARTS, "roofline", lambda work, rounds: dict(rows=[1]))
    for part in ("loss", "roofline", "roofline"):
        monkeypatch.setattr(sys, "argv", ["bench.py", str(tmp_path / "work"), part, "--rounds", "1", "--out", str(out)])
        script.main()
    first, last = json.loads(out.read_text())["machines"]
    assert first == other and {k: last[k] for k in script.KIND} == here
    d = last["parts"]
    assert list(d) == ["roofline", "data", "loss"] and d["data"] == dict(kept=True)
    # of another commit: kept; of the same: replaced
    assert [m["commit"] for m in d["roofline"]][0] == "abc" and len(d["roofline"]) == 2
    row, = d["loss"]["rows"]
    assert (d["loss"]["command"] == "python benchmarks/bench.py WORK loss --rounds 1"
            and row["gradient_difference"] < 1e-4 and min(row["bytes"].values()) > 0)


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("bench-*.json")), ids=lambda p: p.stem)
def test_results_say_how_they_came_about(file):
    import bench as script
    machines = json.loads(file.read_text())["machines"]
    assert len({m["processor"] + str(m["instructions"]) + m["gpu"] for m in machines}) == len(machines)
    for d in (m["parts"] for m in machines): assert list(d) == [k for k in script.PARTS if k in d]
    for part in [p for m in machines for v in m["parts"].values() for p in (v if isinstance(v, list) else [v])]:
        assert (part["command"].startswith("python benchmarks/bench.py WORK") and part["commit"]
                and part["machine"]["torch"] and part["machine"]["threads"] and part["rounds"])
    assert "/tmp" not in file.read_text() and "/work" not in file.read_text()
