"""Losses, samplers, heads and second stages as a configuration asks for them: what they change in a run, and what
they must not."""
import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from micacl.core import MicaclError, read_json
from micacl.train.config import CHOICES, Config
from micacl.longtail.parametric import CONTRASTS
from micacl.longtail.classifiers import (HEADS, STAGES, CentreHead, CosineLinear, PrototypeHead, nearest_mean,
                                         second_stage)
from micacl.longtail.samplers import SAMPLERS, EpochOrder, clip_shares
from micacl.train.loaders import make_loader
from micacl.longtail.losses import LOSSES
from micacl.models import BagOutput
from micacl.train.objective import build_model
from micacl.train.run import load_run, prepare_data, settle
from micacl.train.checkpoint import read_tensors
from micacl.train.loop import Interrupted, bag_features, train
from micacl.train.objective import Objective

TINY = Config(mixed_precision="no", model="attention", n_instances=2, instance_length=4, image_size=32, epochs=3,
              batch_size=8,
              mccl_args=dict(out_dim=16),
              backbone_lr=0.0, label_smoothing=0.0)
LABELS = [0] * 90 + [1] * 30 + [2] * 5


def test_what_can_be_chosen_is_what_exists():
    assert (CHOICES["loss"] == tuple(LOSSES) and CHOICES["contrast"] == tuple(CONTRASTS)
            and CHOICES["head"] == tuple(HEADS))
    assert set(CHOICES["stage2"]) == set(STAGES) and CHOICES["sampler"] == SAMPLERS


@pytest.mark.parametrize("bad, says", [
    (dict(loss="ldam", head="linear"), "expected head cosine"),
    (dict(loss="ldam_drw", head="linear"), "expected head cosine"),
    (dict(loss="focal", label_smoothing=.1), "label_smoothing 0"),
    (dict(stage2="crt", head="cosine"), "expected head linear"),
    (dict(stage2="crt", head="centres"), "expected head linear"),
    (dict(head="centres", mccl_args=dict(out_dim=16)), "head centres shares what MCCL learns: expected out_dim 128"),
    (dict(head="centres", mccl_args=dict(on="instances")), "expected on bag"),
    (dict(head="centres", mccl_args=dict(centres=False)), "expected centres True"),
    (dict(loss="hinge"), "expected one of ce"), (dict(sampler="x"), "natural, sqrt")])
def test_what_does_not_go_together_is_refused(bad, says):
    with pytest.raises(MicaclError, match=says): settle(dataclasses.replace(TINY, **bad), asked=bad)


@pytest.mark.parametrize("loss, contrast", list(itertools.product(LOSSES, CONTRASTS)))
def test_every_loss_goes_with_every_contrast(loss, contrast):
    objective = Objective(dataclasses.replace(TINY, loss=loss, contrast=contrast, mccl_weight=.5),
                          [9, 5, 3, 1, 1, 1, 0], 16)
    g = torch.Generator().manual_seed(0)
    logits, bag, y = torch.randn(8, 7, generator=g, requires_grad=True), torch.randn(8, 16, generator=g,
        requires_grad=True), torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])
    terms = objective(BagOutput(logits, bag, bag[:, None], torch.ones(8, 1), None), y)
    assert (terms["loss"].item() == pytest.approx((terms["ce"] + .5 * terms["mccl"]).item())
            and type(objective.ce) is LOSSES[loss] and type(objective.mccl) is CONTRASTS[contrast])
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any()
               for p in (logits, bag, *objective.parameters()) if p.requires_grad)
    # counts belong to the data, not to the checkpoint; what ProCo has seen of each class belongs to the training
    seen = {"mccl.mean", "mccl.n"} if contrast == "proco" else set()
    assert objective.state_dict().keys() == dict(objective.named_parameters()).keys() | seen


def test_a_head_of_centres_has_to_be_given_to_the_loss():
    "Without it the loss would learn centres of its own, and the head's would be those it began with."
    config = Config(head="centres", mccl_weight=.5)
    with pytest.raises(MicaclError, match="head: expected the model's last layer, a CentreHead, found None: "
                                          r"Objective\(..., head=model.fc\)"):
        Objective(config, [9, 5, 3, 1, 1, 1, 1], 16)
    with pytest.raises(MicaclError, match="the model's last layer, a PrototypeHead, found None"):
        Objective(dataclasses.replace(config, head="prototypes", contrast="paco"), [9, 5, 3, 1, 1, 1, 1], 16)
    other = PrototypeHead(16, 7)
    paco = Objective(dataclasses.replace(config, head="prototypes", contrast="paco"), [9, 5, 3, 1, 1, 1, 1], 16,
                     head=other).mccl
    assert paco.centres is other.prototypes and paco.project is other.project
    Objective(dataclasses.replace(config, head="prototypes"), [9, 5, 3, 1, 1, 1, 1], 16)     # MCCL: nothing to share
    head = CentreHead(16, 7)
    assert Objective(config, [9, 5, 3, 1, 1, 1, 1], 16, head=head).mccl.centres is head.centres
    Objective(dataclasses.replace(config, mccl_weight=0.), [9, 5, 3, 1, 1, 1, 1], 16)      # nothing to share
    Objective(dataclasses.replace(config, contrast="bcl"), [9, 5, 3, 1, 1, 1, 1], 16)


def test_the_head_of_centres_has_the_scales_of_the_loss():
    config = dataclasses.replace(TINY, head="centres", mccl_weight=.5, mccl_args=dict(scales=(1,)))
    for weight in (.5, 0.):
        model = build_model(dataclasses.replace(config, mccl_weight=weight), 7)
        assert model.fc.scales == (1,) and model.head_kind() is None       # no name in a description makes this one
    loss = Objective(config, [9, 5, 3, 1, 1, 1, 1], model.bag_dim, head=model.fc).mccl
    assert loss.centres is model.fc.centres and list(loss.projections) == ["1"]
    usual = build_model(dataclasses.replace(config, mccl_args={}), 7)
    assert usual.fc.scales == (1, 2, 4) and usual.head_kind() == "centres"


def test_the_default_is_the_cross_entropy_it_was():
    objective = Objective(Config(mccl_weight=0.), [9, 5, 3, 1, 1, 1, 1], 16)
    logits, y = torch.randn(8, 7), torch.arange(8) % 7
    assert objective(BagOutput(logits, torch.zeros(8, 16), None, None, None),
                     y)["loss"].item() == pytest.approx(F.cross_entropy(logits, y, label_smoothing=.1).item())


def test_progressive_moves_from_natural_to_balanced():
    y = torch.tensor(LABELS)
    by_class = lambda t: torch.stack([clip_shares(y, "progressive", t)[y == c].sum() for c in range(3)])
    natural, balanced = torch.tensor([90., 30., 5.]) / 125, torch.full((3,), 1 / 3)
    for t in (0., .25, 1.): assert torch.allclose(by_class(t).float(), (1 - t) * natural + t * balanced)
    drawn = []
    for epoch in (0, 2, 4):
        order = EpochOrder(LABELS, 0, "progressive", epochs=5)
        n = np.zeros(3)
        for seed in range(40):
            order.seed = seed; order.set_epoch(epoch)
            n += np.bincount(y[list(order)], minlength=3)
        drawn.append(n / n.sum())
    assert np.allclose(drawn, [natural, (natural + balanced) / 2, balanced], atol=.02)
    assert list(EpochOrder(LABELS, 0, "progressive", epochs=1))      # one epoch: no division by zero


@pytest.mark.parametrize("m", [1, 4, 7])
def test_per_class_gives_m_of_each_and_wastes_no_clip(m):
    y = torch.tensor(LABELS)
    order = EpochOrder(LABELS, 3, "per_class", m=m)
    rows = torch.tensor(list(order))
    assert len(rows) == len(LABELS) == len(order) and list(order) == rows.tolist()
    for block in y[rows].split(3 * m)[:-1]: assert block.bincount(minlength=3).tolist() == [m] * 3
    of_tail = rows[y[rows] == 2].bincount(minlength=125)[120:]
    assert of_tail.max() - of_tail.min() <= 1                        # all used before one comes again
    order.set_epoch(1)
    assert list(order) != rows.tolist()


def test_a_missing_class_is_no_trouble():
    for sampler in SAMPLERS:
        assert set(torch.tensor([0, 0, 3])[list(EpochOrder([0, 0, 3], 0, sampler))].tolist()) <= {0, 3}


@pytest.mark.parametrize("own", [dict(loss="ldam_drw", head="cosine", sampler="progressive", contrast="bcl",
                                      mccl_weight=1.), dict(stage2="crt", mccl_weight=0., sampler="per_class"),
                                 dict(head="centres", mccl_weight=1., mccl_args={}),
                                 dict(head="prototypes", contrast="paco", mccl_weight=1.)],
                                      ids=["late losses", "second stage", "shared centres", "shared prototypes"])
def test_interrupted_and_resumed_to_the_bit(data, tmp_path, own):
    config = dataclasses.replace(TINY, **own)
    whole = train(data, tmp_path / "whole", config, quiet=True, features=tmp_path / "features")
    def stop(record):
        if record["epoch"] == 2: raise KeyboardInterrupt
    with pytest.raises(Interrupted):
        train(data, tmp_path / "halves", config, quiet=True, on_epoch=stop, features=tmp_path / "features")
    halves = train(data, tmp_path / "halves", resume=True, quiet=True, features=tmp_path / "features")
    a, b = (read_tensors(tmp_path / run / "model.safetensors") for run in ("whole", "halves"))
    assert (a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
            and whole["confusion"] == halves["confusion"])
    # a finished run, asked once more
    again = train(data, tmp_path / "whole", resume=True, quiet=True, features=tmp_path / "features")
    c = read_tensors(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(a[k], c[k]) for k in a) and again["confusion"] == whole["confusion"]


def test_late_weights_come_late(data, tmp_path, monkeypatch):
    seen = []
    original = LOSSES["ldam_drw"].weights
    monkeypatch.setattr(LOSSES["ldam_drw"], "weights", lambda self: seen.append((self.progress, w := original(self)))
                        or w)
    train(data, tmp_path / "run", dataclasses.replace(TINY, epochs=5, loss="ldam_drw", head="cosine", mccl_weight=0.),
          quiet=True, features=tmp_path / "features")
    assert {round(p, 2) for p, _ in seen} == {0, .2, .4, .6, .8} and all((w is not None) == (p >= .8) for p, w in seen)


@pytest.mark.parametrize("stage2", [s for s in STAGES if s != "none"])
def test_a_second_stage_changes_the_last_layer_only(data, tmp_path, stage2):
    plain, other = (dataclasses.replace(TINY, mccl_weight=0., stage2=s) for s in ("none", stage2))
    for name, config in (("plain", plain), ("other", other)):
        train(data, tmp_path / name, config, quiet=True, features=tmp_path / "features")
    a, b = (read_tensors(tmp_path / run / "model.safetensors") for run in ("plain", "other"))
    assert ({k for k in a if not torch.equal(a[k], b[k])} <= {"fc.weight", "fc.bias"}
            and not (torch.equal(a["fc.bias"], b["fc.bias"]) and torch.equal(a["fc.weight"], b["fc.weight"])))
    model, config, _ = load_run(tmp_path / "plain")
    d = prepare_data(data, tmp_path, config, quiet=True)
    x, y = bag_features(model, make_loader(d.train, config, False, d.cache))
    second_stage(stage2, model.fc, x, y, d.train.counts, config.seed)
    assert (torch.allclose(model.fc.weight, b["fc.weight"], atol=1e-4)
            and torch.allclose(model.fc.bias, b["fc.bias"], atol=1e-4))


def test_bag_features_are_what_the_last_layer_sees(data, tmp_path):
    d = prepare_data(data, tmp_path, TINY, quiet=True)
    model = build_model(dataclasses.replace(TINY, mccl_weight=0.), 7).train()
    loader = make_loader(d.train, TINY, False, d.cache)
    x, y = bag_features(model, loader)
    assert (y.tolist() == [c.label for c in d.train] and x.shape == (len(d.train), model.bag_dim)
            and not x.requires_grad and not model.training)
    with torch.no_grad(): logits = torch.cat([model(video).logits for video, *_ in loader])
    assert torch.allclose(model.fc(x), logits, atol=1e-5)
    W, b = nearest_mean(x, y, 7)
    assert (x @ W.T + b).argmax(1).eq(y).float().mean() > 1 / 7


def test_a_model_with_a_cosine_head_can_be_loaded_again(data, tmp_path):
    train(data, tmp_path / "run", dataclasses.replace(TINY, head="cosine", model="m3dfel", mccl_weight=0., epochs=1),
          quiet=True)
    model, config, _ = load_run(tmp_path / "run")
    assert isinstance(model.fc, CosineLinear) and config.head == "cosine"
    assert model(torch.rand(2, 8, 3, 32, 32)).logits.abs().max() <= model.fc.scale + 1e-4
    assert read_json(tmp_path / "run" / "config.json")["config"]["head"] == "cosine"
