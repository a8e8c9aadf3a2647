"Samplers, loaders, and features that replace videos without changing a number."
import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler, WeightedRandomSampler

from micacl.data.augment import augment
from micacl.core import MicaclError, read_json
from micacl.train.config import Config
from micacl.longtail.samplers import EpochOrder
from micacl.train.loaders import FeatureDataset, InstanceFeatures, make_loader, set_epoch
from micacl.train.objective import build_model
from micacl.train.run import prepare_data
from micacl.train.checkpoint import read_tensors
from micacl.train.loop import Interrupted, train

TINY = Config(mixed_precision="no", model="attention", n_instances=2, instance_length=4, image_size=32, epochs=3,
              batch_size=8,
              mccl_args=dict(out_dim=16),
              backbone_lr=0.0)
N_C = [400, 100, 4]
LABELS = [0] * 400 + [1] * 100 + [2] * 4


def test_order_is_a_function_of_seed_and_epoch():
    for sampler in ("natural", "sqrt", "balanced"):
        order, again, other = (EpochOrder(LABELS, s, sampler) for s in (1, 1, 2))
        first = list(order); order.set_epoch(1); second = list(order)
        assert len(first) == len(LABELS) and first != second and list(again) == first and list(other) != first
        again.set_epoch(1)
        assert list(again) == second
    assert sorted(EpochOrder(LABELS, 1)) == list(range(len(LABELS)))


@pytest.mark.parametrize("sampler, q", [("sqrt", .5), ("balanced", 0.)])
def test_classes_are_drawn_as_often_as_the_formula_says(sampler, q):
    order, counts = EpochOrder(LABELS, 0, sampler), np.zeros(3)
    for epoch in range(40): order.set_epoch(epoch); counts += np.bincount(np.array(LABELS)[list(order)], minlength=3)
    p = np.array(N_C) ** q / (np.array(N_C) ** q).sum()
    sd = np.sqrt(p * (1 - p) / counts.sum())
    assert (np.abs(counts / counts.sum() - p) < 4 * sd).all()


def test_within_a_class_all_clips_are_alike():
    order, seen = EpochOrder(LABELS, 0, "balanced"), np.zeros(len(LABELS))
    for epoch in range(60): order.set_epoch(epoch); seen += np.bincount(list(order), minlength=len(LABELS))
    rare = seen[500:]
    assert np.abs(rare - rare.mean()).max() < 4 * np.sqrt(rare.mean())


def test_a_class_without_clips_is_no_trouble():
    assert set(EpochOrder([0, 0, 2], 0, "balanced")) <= {0, 1, 2}


def test_loaders(data, tmp_path):
    d = prepare_data(data, tmp_path, TINY, quiet=True)
    parts = [{c.id for c in t} for t in (d.train, d.validation, *d.tests.values())]
    assert sum(map(len, parts)) == len(set.union(*parts)) and d.skipped == []
    assert {c.group for c in d.train}.isdisjoint(c.group for c in d.validation)
    n = len(d.train)
    batches = list(make_loader(d.train, TINY, True, d.cache))
    assert ([len(y) for _, y, *_ in batches] == [8] * (n // 8) and batches[0][0].dtype == torch.uint8
            and batches[0][3].shape == (8, 11))
    assert [i for *_, index in make_loader(d.train, TINY, False, d.cache) for i in index.tolist()] == list(range(n))
    # a small set is one batch
    assert len(make_loader(d.train, dataclasses.replace(TINY, batch_size=64), True, d.cache)) == 1


def test_any_sampler_takes_the_place_of_the_named_one(data, tmp_path):
    d = prepare_data(data, tmp_path, TINY, quiet=True)
    n, balanced = len(d.train), dataclasses.replace(TINY, sampler="balanced")
    index = lambda loader: [i for _, _, batch, _ in loader for i in batch.tolist()]
    named = index(make_loader(d.train, balanced, True, d.cache))
    own = EpochOrder([c.label for c in d.train], TINY.seed, "balanced", TINY.epochs)
    assert index(make_loader(d.train, TINY, True, d.cache, sampler="balanced")) == named
    assert index(make_loader(d.train, TINY, True, d.cache, sampler=own)) == named
    assert index(make_loader(d.train, TINY, True, d.cache)) != named
    in_order = SequentialSampler(range(n))
    assert index(make_loader(d.train, TINY, True, d.cache, sampler=in_order)) == list(range(n // 8 * 8))
    # three draws are less than a batch, and a batch
    few = WeightedRandomSampler([1.0] + [0.0] * (n - 1), 3)
    assert index(make_loader(d.train, TINY, True, d.cache, sampler=few)) == [0, 0, 0]
    loader = make_loader(d.train, TINY, True, d.cache, sampler=own)
    set_epoch(loader, 1); assert own.epoch == 1 and index(loader) != named
    with pytest.raises(MicaclError, match="sampler: expected one of natural"):
        make_loader(d.train, TINY, True, d.cache, sampler="fair")


@pytest.mark.parametrize("views", [1, 2])
def test_features_are_those_of_the_videos(data, tmp_path, views):
    config = dataclasses.replace(TINY, augment_args=dict(views=views))
    d, model = prepare_data(data, tmp_path, config, quiet=True), build_model(config, 7)
    features = InstanceFeatures(tmp_path / "f", model, config, d.cache)
    for training in (True, False):
        slow, fast = (make_loader(d.train, config, training, d.cache, f) for f in (None, features))
        for loader in (slow, fast): set_epoch(loader, 2)
        for (video, y, i, *draws), (x, y2, i2) in zip(slow, fast, strict=True):
            assert torch.equal(y, y2) and torch.equal(i, i2)
            if training: video = augment(video, *draws, TINY.image_size)
            with torch.no_grad(): torch.testing.assert_close(model.eval().encode(video), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_views_are_the_drawings_of_two_epochs(data, tmp_path, workers):
    "Each batch has the clips of one view, each twice, and as many steps make an epoch."
    config = dataclasses.replace(TINY, augment_args=dict(views=2), workers=workers)
    d = prepare_data(data, tmp_path, config, quiet=True)
    drawn = {}
    for epoch in (3, 4):
        single = dataclasses.replace(TINY, batch_size=1)
        loader = make_loader(d.train, single, True, d.cache, sampler=SequentialSampler(d.train))
        set_epoch(loader, epoch)
        drawn[epoch] = {int(i): (v, r) for video, _, index, draws in loader for v, i, r in zip(video, index, draws)}
    both, one = (make_loader(d.train, c, True, d.cache) for c in (config, TINY))
    for loader in (both, one): set_epoch(loader, 3)
    assert len(both) == len(one)
    for (video, y, index, draws), (_, y1, index1, _) in zip(both, one, strict=True):
        assert torch.equal(y, y1.repeat_interleave(2)) and torch.equal(index, index1.repeat_interleave(2))
        for k, i in enumerate(index.tolist()):
            v, r = drawn[3 + k % 2][i]
            assert torch.equal(video[k], v) and torch.equal(draws[k], r)
    assert [len(y) for _, y, _ in make_loader(d.validation, config, False, d.cache)][0] <= 8      # a test has one view


def test_views_and_a_memory_are_there_again_after_an_interruption(data, tmp_path):
    config = dataclasses.replace(TINY, augment_args=dict(views=2), mccl_args=dict(out_dim=16, memory=3))
    def stop(record): raise KeyboardInterrupt
    train(data, tmp_path / "whole", config, quiet=True, features=tmp_path / "f")
    with pytest.raises(Interrupted): train(data, tmp_path / "run", config, quiet=True, features=tmp_path / "f",
                                           on_epoch=stop)
    kept = read_tensors(tmp_path / "run" / "checkpoint" / "objective.safetensors")
    assert kept["mccl.memory.n"].sum() > 0
    train(data, tmp_path / "run", config, quiet=True, features=tmp_path / "f", resume=True)
    a, b = (read_tensors(tmp_path / r / "model.safetensors") for r in ("whole", "run"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    plain = dataclasses.replace(config, mccl_args=dict(out_dim=16))
    train(data, tmp_path / "plain", plain, quiet=True, features=tmp_path / "f")
    c = read_tensors(tmp_path / "plain" / "model.safetensors")
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_run_on_features_is_the_run_with_a_frozen_backbone(data, tmp_path):
    slow, fast = train(data, tmp_path / "slow", TINY, quiet=True), train(data, tmp_path / "fast", TINY, quiet=True,
        features=tmp_path / "f")
    a, b = (read_tensors(tmp_path / r / "model.safetensors") for r in ("slow", "fast"))
    start = build_model(TINY, 7).state_dict()
    for k in a:
        torch.testing.assert_close(a[k], b[k], atol=1e-4, rtol=1e-3)
        if k.startswith("backbone."):
            assert torch.equal(a[k], b[k]) and torch.equal(a[k], start[k]), k      # norms' statistics too
    assert slow["confusion"] == fast["confusion"]
    assert not torch.equal(a["fc.weight"], start["fc.weight"])
    assert (read_json(tmp_path / "slow" / "config.json")["config"]
            == read_json(tmp_path / "fast" / "config.json")["config"])


def test_files_are_found_again_and_never_mixed_up(data, tmp_path):
    d, model = prepare_data(data, tmp_path, TINY, quiet=True), build_model(TINY, 7)
    make = lambda m=model, **kw: InstanceFeatures(tmp_path / "f", m, dataclasses.replace(TINY, **kw), d.cache)
    first = make().of(d.train, 0)
    assert torch.equal(make().of(d.train, 0), first) and len(list((tmp_path / "f").iterdir())) == 1
    torch.manual_seed(3)
    others = [make(seed=9).of(d.train, 0), make().of(d.train, 1), make().of(d.train),
              make(augment_args=dict(crop=.5)).of(d.train, 0),
              make(build_model(dataclasses.replace(TINY, pretrained=False), 7)).of(d.train, 0)]
    assert len(list((tmp_path / "f").iterdir())) == 1 + len(others) and not any(torch.equal(o, first) for o in others)
    assert make().of(d.validation).shape[0] == len(d.validation)


def test_a_backbone_that_learns_has_no_features_to_keep(data, tmp_path):
    with pytest.raises(MicaclError, match="expected a frozen backbone") as e:
        train(data, tmp_path / "run", dataclasses.replace(TINY, backbone_lr=.1), quiet=True, features=tmp_path / "f")
    assert "\n" not in str(e.value)


def test_feature_dataset_without_set_epoch(data, tmp_path):
    d, model = prepare_data(data, tmp_path, TINY, quiet=True), build_model(TINY, 7)
    features = InstanceFeatures(tmp_path / "f", model, TINY, d.cache)
    x, y, i = FeatureDataset(d.validation, features, False)[1]
    assert x.shape == (2, 128) and y == d.validation[1].label and i == 1
