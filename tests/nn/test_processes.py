"""A run is the same on one process and on two: loss, weights, scores, clips; and each file has one writer.

The two processes are one job through torch.distributed.run on the CPU (gloo); the tests look at what it left behind.
Its numbers are of 64 bits, so that what still differs is rounding far behind the point, and anything that depends on
the number of processes stands out."""
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn

from micacl.core import MicaclError, read_json
from micacl.train.config import Config
from micacl.data.load import load_table
from micacl.longtail.classifiers import STAGES
from micacl.longtail.samplers import SAMPLERS, EpochOrder
from micacl.train.loaders import InstanceFeatures, make_loader, set_epoch
from micacl.models import MODELS
from micacl.train.objective import build_model
from micacl.nn.distributed import WholeBatchNorm, check_batch, sync_norms
from micacl.train.checkpoint import find_checkpoint, read_tensors
from micacl.train.run import prepare_data
from micacl.data.synfew.generate import generate
from micacl.train.loop import Interrupted, evaluate, train
from micacl.train.objective import Objective

TINY = Config(mixed_precision="no", pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=3,
              batch_size=8,
              mccl_args=dict(out_dim=16),
              val_fraction=0.25)
FROZEN = dataclasses.replace(TINY, epochs=2, backbone_lr=0.0, stage2="crt", sampler="balanced")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = dict(os.environ, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")

JOB = '''
import os, sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1); torch.set_default_dtype(torch.float64)
from micacl.train import loaders
from micacl.train import run as runs
from micacl.train import loop as training
from micacl.core import MicaclError, read_json, write_json
from micacl.train.config import config_from_dict
from micacl.nn.distributed import sync_norms

data, home, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"])
tiny, frozen = (config_from_dict(read_json(home / f"{name}.json")) for name in ("tiny", "frozen"))
seen = dict(writes=[], computed=0)

def watched(name, f):
    def g(*args, **kw): seen["writes"].append(name); return f(*args, **kw)
    return g
for name in ("save_checkpoint", "write_tensors", "write_json", "atomic_write"):
    setattr(training, name, watched(name, getattr(training, name)))
compute = loaders.InstanceFeatures._compute
def counted(self, *args): seen["computed"] += 1; return compute(self, *args)
loaders.InstanceFeatures._compute = counted
def stop(record): raise KeyboardInterrupt

seen["whole"] = training.train(data, home / "two", tiny, quiet=True)
try: training.train(data, home / "stopped", tiny, quiet=True, on_epoch=stop)
except training.Interrupted as e: seen["interrupted"] = str(e)
seen["resumed"] = training.train(data, home / "from_one", resume=True, quiet=True)
torch.set_default_dtype(torch.float32)         # features are kept in 32 bits
seen["frozen"] = training.train(data, home / "frozen_two", frozen, quiet=True, features=home / "features_two")
torch.set_default_dtype(torch.float64)
for name, options in (("uneven", dict(batch_size=9)), ("large", dict(batch_size=64))):
    try: training.train(data, home / name, config_from_dict({**tiny.to_dict(), **options}), quiet=True)
    except Exception as e: seen[name] = str(e)
seen["evaluated"] = training.evaluate(home / "two", data, out=home / "again")

cases = torch.load(home / "norms.pt", weights_only=True)
for name, (options, steps) in cases.items():
    norm = nn.BatchNorm3d(5, **options) if steps[0][0].ndim == 5 else nn.BatchNorm1d(5, **options)
    if norm.affine:
        norm.load_state_dict({**norm.state_dict(), "weight": torch.linspace(.5, 2, 5),
                              "bias": torch.linspace(-1, 1, 5)})
    norm, kept = sync_norms(nn.Sequential(norm), torch.device("cpu")), []
    for x, pull, cut in steps:
        x, pull = (t[:cut] if rank == 0 else t[cut:] for t in (x, pull))
        x = x.clone().requires_grad_()
        out = norm(x)
        norm.zero_grad(); (out * pull).sum().backward()
        for p in norm.parameters(): torch.distributed.all_reduce(p.grad)
        kept.append(dict(out=out.detach(), x_grad=x.grad,
                         **{f"grad.{k}": p.grad.clone() for k, p in norm.named_parameters()}))
    norm.eval()
    state = {k: v.clone() for k, v in norm.state_dict().items()}
    cases[name] = dict(steps=kept, state=state, calm=norm(steps[0][0]).detach())
torch.save(cases, home / f"norms-{rank}.pt")
write_json(home / f"seen-{rank}.json", seen)
'''


def run_job(script, *args):
    done = subprocess.run([*LAUNCH, *map(str, (script, *args))], env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("synfew")
    generate(root, n_train=37, n_test=13, n_frames=10, size=32, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def wide():
    "Numbers of 64 bits, as in the job."
    torch.set_num_threads(1); torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def norm_cases():
    "name -> (options, [(x, what the loss pulls at, where process 0 ends)])"
    torch.manual_seed(0)
    def steps(*shape, cut): return [(3 * torch.randn(shape) + 2, torch.randn(shape), cut) for _ in range(3)]
    return dict(plain=({}, steps(6, 5, 2, 3, 3, cut=3)), cumulative=(dict(momentum=None), steps(6, 5, 2, 3, 3, cut=3)),
                uneven=({}, steps(7, 5, 2, 3, 3, cut=2)),
                flat=({}, steps(8, 5, cut=4)), bare=(dict(affine=False, track_running_stats=False),
                                                     steps(6, 5, 2, 3, 3, cut=3)))


@pytest.fixture(scope="module")
def home(data, wide, tmp_path_factory):
    "What one process (here) and two (in the job) have left behind."
    home = tmp_path_factory.mktemp("home")
    (home / "job.py").write_text(JOB)
    for name, c in (("tiny", TINY), ("frozen", FROZEN)): (home / f"{name}.json").write_text(json.dumps(c.to_dict()))
    torch.save(norm_cases(), home / "norms.pt")
    def stop(record): raise KeyboardInterrupt
    train(data, home / "one", TINY, quiet=True)
    with pytest.raises(Interrupted): train(data, home / "from_one", TINY, quiet=True, on_epoch=stop)
    run_job(home / "job.py", data, home)
    train(data, home / "stopped", resume=True, quiet=True)
    torch.set_default_dtype(torch.float32)
    train(data, home / "frozen_one", FROZEN, quiet=True, features=home / "features_one")
    torch.set_default_dtype(torch.float64)
    return home


def seen(home, rank): return read_json(home / f"seen-{rank}.json")


def curve(run):
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_run(a, b, digits=9):
    ca, cb = curve(a), curve(b)
    for x, y in zip(ca, cb, strict=True): assert x == pytest.approx(y, rel=10.0 ** -digits)
    wa, wb = (read_tensors(r / "model.safetensors") for r in (a, b))
    assert wa.keys() == wb.keys()
    for k in wa:
        torch.testing.assert_close(wa[k], wb[k], rtol=10.0 ** -(digits - 2), atol=10.0 ** -(digits - 1), msg=lambda m,
                                   k=k: f"{k}: {m}")
    ra, rb = (read_json(r / "results.json") for r in (a, b))
    assert (all(ra["tests"][t]["confusion"] == rb["tests"][t]["confusion"] for t in ra["tests"])
            and ra["uar"] == rb["uar"])


# ---- the same run

def test_the_sets_are_awkward(data, home):
    "Or the tests below would show less: no set is a multiple of the batch, nor of two."
    d = prepare_data(data, home, TINY, quiet=True)
    assert len(d.train) % 8 and len(d.validation) % 2 and all(len(t) % 2 and len(t) % 8 for t in d.tests.values())


def test_the_whole_model_learns_the_same_on_two_processes(home):
    """With a backbone that learns: its batch norms have to see the batch of all processes, and so has the
    contrastive loss."""
    assert curve(home / "one")[-1]["mccl"] > 0 and len(curve(home / "one")) == 3
    assert_same_run(home / "one", home / "two")


def test_each_test_clip_is_scored_once(home, data):
    table = load_table(data)
    want = sorted(c.id for c in table if c.split.startswith("test"))
    for run in ("one", "two", "again"):
        with np.load(home / run / "predictions.npz") as z:
            assert sorted(z["id"]) == want and len(z["logits"]) == len(want)
    a, b = (np.load(home / run / "predictions.npz") for run in ("one", "two"))
    for k in ("id", "y", "split"): assert (a[k] == b[k]).all()
    for k in ("logits", "weights"): np.testing.assert_allclose(a[k], b[k], atol=2e-6)       # kept in 32 bits


def test_all_processes_get_the_same_results(home):
    one, a, b = read_json(home / "one" / "results.json"), seen(home, 0), seen(home, 1)
    for k in ("whole", "resumed", "evaluated"):
        assert a[k]["confusion"] == b[k]["confusion"] == one["confusion"] and a[k]["n_test"] == one["n_test"] == 13


@pytest.mark.parametrize("run", ["stopped", "from_one"])
def test_resumed_with_another_number_of_processes(home, run):
    "Stopped: two processes, then one. From one: one process, then two."
    assert ("1 finished epochs are kept" in seen(home, 0)["interrupted"]
            and find_checkpoint(home / run).name == "checkpoint")
    assert_same_run(home / run, home / "one")


def test_a_frozen_backbone_a_sampler_and_a_second_stage(home):
    """Features from a shared folder, rare classes drawn more often, and the classifier made anew from features that
    both processes have gathered."""
    assert_same_run(home / "frozen_one", home / "frozen_two", digits=5)        # 32 bits
    assert FROZEN.stage2 in STAGES and FROZEN.sampler in SAMPLERS


# ---- one writer

def test_one_process_writes(home):
    assert seen(home, 1)["writes"] == [] and seen(home, 0)["writes"].count("save_checkpoint") == 3 + 1 + 2 + 2


def test_each_file_of_features_is_computed_once(home):
    "One process computes, whichever comes first; the other waits and reads."
    files = [p.name for p in (home / "features_two").iterdir()]
    assert sum(seen(home, r)["computed"] for r in (0, 1)) == len(files) and all(f.endswith(".npy") for f in files)
    assert sorted(files) == sorted(p.name for p in (home / "features_one").iterdir())


# ---- the batch

def test_a_batch_that_cannot_be_dealt_out_is_refused_before_anything_is_read(home):
    for r in (0, 1):
        assert seen(home, r)["uneven"] == ("batch_size: expected a multiple of 2, the number of processes that "
                                           "share it, "
                                           "found 9; take 8 or 10")
    assert not [p for p in (home / "uneven").iterdir() if not p.name.startswith(".")]
    for r in (0, 1): assert "batch_size: expected at most" in seen(home, r)["large"]
    for size in (2, 4, 8, 128): check_batch(size, 2)
    check_batch(7, 1, 3)
    with pytest.raises(MicaclError, match="found 2; take 8$"): check_batch(2, 8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_parts_of_two_processes_are_the_batch_of_one(data, home, sampler):
    table, config = prepare_data(data, home, TINY, quiet=True).train, dataclasses.replace(TINY, sampler=sampler)
    class Features:     # instead of videos
        def of(self, table, epoch=None): return torch.zeros(len(table), 2, 4)
    def batches(n, rank, epoch):
        loader = prepare_data_loader(make_loader(table, config, True, features=Features()), num_processes=n,
                                     process_index=rank, split_batches=True, put_on_device=False, rng_types=[])
        set_epoch(loader, epoch)
        return [index.tolist() for _, _, index in loader]
    for epoch in range(3):
        order, one = EpochOrder([c.label for c in table], config.seed, sampler, config.epochs), batches(1, 0, epoch)
        order.set_epoch(epoch)
        assert sum(one, []) == list(order)[:len(table) // 8 * 8]
        for n in (2, 4):
            parts = [batches(n, r, epoch) for r in range(n)]
            assert ([sum(p, []) for p in zip(*parts, strict=True)] == one
                    and all(len(b) == 8 // n for p in parts for b in p))


# ---- norms

@pytest.mark.parametrize("name", list(norm_cases()))
def test_a_norm_over_two_processes_is_batch_norm_of_the_whole_batch(home, name):
    "Output, gradients, running statistics; with a part of 2 and one of 5 as well."
    options, steps = torch.load(home / "norms.pt", weights_only=True)[name]
    norm = nn.BatchNorm3d(5, **options) if steps[0][0].ndim == 5 else nn.BatchNorm1d(5, **options)
    if norm.affine:
        norm.load_state_dict({**norm.state_dict(), "weight": torch.linspace(.5, 2, 5),
                              "bias": torch.linspace(-1, 1, 5)})
    norm = nn.Sequential(norm)
    found = [torch.load(home / f"norms-{r}.pt", weights_only=True)[name] for r in (0, 1)]
    def close(a, b): torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    for i, (x, pull, cut) in enumerate(steps):
        x = x.clone().requires_grad_()
        out = norm(x)
        norm.zero_grad(); (out * pull).sum().backward()
        a, b = (f["steps"][i] for f in found)
        assert len(a["out"]) == cut
        close(torch.cat([a["out"], b["out"]]), out.detach()); close(torch.cat([a["x_grad"], b["x_grad"]]), x.grad)
        for k, p in norm.named_parameters():
            for part in (a, b): close(part[f"grad.{k}"], p.grad)
    norm.eval()
    for f in found:
        assert f["state"].keys() == norm.state_dict().keys()
        for k, v in norm.state_dict().items(): close(f["state"][k], v)
        close(f["calm"], norm(steps[0][0]).detach())


def test_alone_nothing_is_changed():
    model = build_model(TINY, 7)
    before = dict(model.named_modules())
    assert sync_norms(model, torch.device("cpu")) is model and dict(model.named_modules()) == before


def test_the_state_keeps_its_names_and_its_tensors(monkeypatch):
    """Both kinds of norm: parameters are the same objects, keys and order are those of one process, and a frozen
    backbone stays frozen."""
    monkeypatch.setattr("micacl.nn.distributed.n_processes", lambda: 2)
    for kind, device in ((WholeBatchNorm, "cpu"), (nn.SyncBatchNorm, "cuda")):
        model = build_model(dataclasses.replace(TINY, backbone_lr=0.0), 7).train()
        keys, parameters = list(model.state_dict()), list(model.parameters())
        converted = sync_norms(model, torch.device(device))
        norms = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == 4 and all(type(m) is kind and not m.training for m in norms)
        assert (list(converted.state_dict()) == keys and all(a is b for a,
                                                             b in zip(converted.parameters(), parameters, strict=True)))
        assert (not any(m.training for m in converted.train().backbone.modules())
                and not any(p.requires_grad for p in converted.backbone.parameters()))


# ---- what else two processes need

@pytest.mark.parametrize("options", [
    *(dict(model=m) for m in MODELS),
    *(dict(model_args=a) for a in (
        dict(geiim=False), dict(wian=False), dict(geiim=False, wian=False), dict(tail="dmin"), dict(gate="weight"),
        dict(gate="none"), dict(dependency_over="features"), dict(adjacency="data"), dict(adjacency="both"),
        dict(graph_over="channels"), dict(neighbours_only=True), dict(layers=2))),
    dict(contrast="supcon"), dict(contrast="bcl"), dict(mccl_args=dict(on="instances", out_dim=16)),
    dict(mccl_args=dict(centres=False, out_dim=16)), dict(mccl_weight=0.0), dict(head="cosine", loss="ldam")], ids=str)
def test_every_parameter_gets_a_gradient(options):
    """DistributedDataParallel waits for the gradient of each parameter; one that is never asked would end the run
    at its second step."""
    config = dataclasses.replace(TINY, **{"mccl_weight": 1.0, **options})
    model = build_model(config, 3).train()
    objective = Objective(config, [6, 4, 2], model.bag_dim, model.backbone.dim)
    y = torch.tensor([0, 0, 1, 1])
    objective(model(torch.randint(0, 256, (4, 8, 3, 32, 32), dtype=torch.uint8)), y)["loss"].backward()
    assert not [n for m in (model, objective) for n, p in m.named_parameters() if p.requires_grad and p.grad is None]


def test_a_file_of_features_has_one_author(data, home, monkeypatch):
    "Whoever finds it being written waits, and reads it; a file that is there is not computed again."
    from concurrent.futures import ThreadPoolExecutor
    d, config = prepare_data(data, home, TINY, quiet=True), dataclasses.replace(TINY, backbone_lr=0.0)
    model, calls = build_model(config, 7), []
    compute = InstanceFeatures._compute
    monkeypatch.setattr(InstanceFeatures, "_compute", lambda *a: calls.append(1) or compute(*a))
    features = [InstanceFeatures(home / "shared", model, config, d.cache) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool: a, *others = pool.map(lambda f: f.of(d.validation), features)
    assert len(calls) == 1 and all(torch.equal(a, b) for b in others)
    assert [p.suffix for p in (home / "shared").iterdir()] == [".npy"]


CLI = ["-m", "micacl.cli", "train"]
SMALL = "--epochs 1 --batch-size 8 --image-size 32 --n-instances 2 --no-pretrained --mccl-args out_dim=16".split()


def test_the_command_line_says_everything_once(data, tmp_path):
    done = run_job(*CLI, data, "--out", tmp_path / "run", *SMALL)
    said = done.stdout.splitlines()
    assert [s.split(":")[0].split()[0] for s in said] == ["arithmetic", "note", "epoch", "note", "note", "test",
                                                             "test_balanced", "report"], done.stdout
    assert (tmp_path / "run" / "report.html").exists()
    assert evaluate(tmp_path / "run", data)["n_test"] == 13
