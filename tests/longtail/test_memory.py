"Views of a clip and a memory of earlier features: against slow loops, limits, and in two processes."
import dataclasses
import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from helpers import dot, needs_gloo, on_two_processes
from torch.utils.data import DataLoader, Dataset, default_collate

from micacl.core import MicaclError
from micacl.longtail.memory import Memory, MemoryMCCL, Views
from micacl.mccl import MCCL, log_form_in_blocks
from micacl.train.config import Config
from micacl.train.objective import Objective

COUNTS = [6, 4, 2]
PLAIN = dict(scales=(1,), out_dim=None, class_weight="none")


class Drawn(Dataset):
    "Items that say which clip and which epoch they are."
    def __init__(self): self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
    def set_epoch(self, epoch): self.epoch.fill_(epoch)
    def __len__(self): return 5
    def __getitem__(self, i): return torch.tensor([i, int(self.epoch)]), i % 2, i


# ---- views

@pytest.mark.parametrize("workers", [0, 1])
def test_the_views_of_a_clip_follow_each_other_and_are_those_of_the_next_epochs(workers):
    clips = Views(Drawn() for _ in range(3))
    loader = DataLoader(clips, 2, collate_fn=clips.together(default_collate), num_workers=workers,
                        persistent_workers=workers > 0)
    for epoch in (0, 4):
        clips.set_epoch(epoch)
        x, y, index = next(iter(loader))
        assert x.tolist() == [[i, epoch + v] for i in (0, 1) for v in range(3)]
        assert y.tolist() == [0, 0, 0, 1, 1, 1] and index.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(clips) == 5 and [len(y) for _, y, _ in loader] == [6, 6, 3]


# ---- memory

@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_memory_is_a_queue_for_each_class(size):
    "Against Python's own queue, with batches that have more of a class than the memory, and none."
    memory, g = Memory(4, size, 2), torch.Generator().manual_seed(0)
    queues = [deque(maxlen=size) for _ in range(4)]
    for n in (0, 1, 9, 30, 5, 16):
        x, y = torch.randn(n, 2, generator=g), torch.randint(3, (n,), generator=g)     # of class 3 nothing comes
        memory.put(x, y)
        for row, c in zip(x.tolist(), y.tolist()): queues[c].append(row)
        kept, labels = memory.kept()
        got = [sorted(kept[labels == c].tolist()) for c in range(4)]
        assert got == [sorted(q) for q in queues] and len(kept) == len(labels) == sum(map(len, queues))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_memory_has_at_least_one_place(size):
    with pytest.raises(MicaclError, match="Memory: size: expected"): MemoryMCCL(COUNTS, 8, memory=size)


def slow(z, y, columns, labels, tau, w):
    "SupCon with weights, column by column; the first columns are the anchors themselves."
    terms = []
    for i in range(len(z)):
        s = [dot(z[i], c) / tau for c in columns]
        below = sum(math.exp(v) for k, v in enumerate(s) if k != i)
        partners = [v for k, v in enumerate(s) if k != i and labels[k] == y[i]]
        if partners: terms.append(w[y[i]] * sum(math.log(below) - v for v in partners) / len(partners))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("centres", [False, True])
@pytest.mark.parametrize("class_weight", ["none", "inverse"])
def test_the_loss_against_slow_loops(centres, class_weight):
    torch.manual_seed(0)
    loss = MemoryMCCL(COUNTS, 8, memory=3, scales=(1,), out_dim=4, centres=centres, class_weight=class_weight).double()
    earlier, before, bag, y = torch.randn(7, 8), [0, 0, 0, 0, 1, 2, 2], torch.randn(5, 8), [0, 0, 1, 2, 2]
    loss(earlier, torch.tensor(before))
    kept = [row for c in (0, 1, 2) for row in [e for e, b in zip(earlier, before) if b == c][-3:]]
    with torch.no_grad():
        z = [loss.project(x.double()[None], 1)[0].tolist() for x in bag]
        columns = list(z)
        if centres: columns += F.normalize(loss.centres["1"], dim=1).tolist()
        columns += [loss.project(x.double()[None], 1)[0].tolist() for x in kept]
    labels = y + ([0, 1, 2] if centres else []) + [0] * 3 + [1] + [2] * 2
    by_hand = slow(z, y, columns, labels, loss.tau[0].item(), loss.W.tolist())
    assert loss(bag, torch.tensor(y)).item() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("scales, out_dim, form", [((1, 2), 8, "log"), ((1,), None, "printed")])
def test_an_empty_memory_is_mccl(scales, out_dim, form):
    losses = []
    for kind in (MCCL, MemoryMCCL):
        torch.manual_seed(0)
        losses.append(kind(COUNTS, 8, scales=scales, out_dim=out_dim, form=form))
    bag, y = torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    assert losses[0](bag, y).item() == losses[1](bag, y).item()


def test_only_the_batch_has_a_gradient_and_a_test_keeps_nothing():
    torch.manual_seed(0)
    loss, y = MemoryMCCL(COUNTS, 8, memory=2, **PLAIN), torch.tensor([0, 0, 1, 2])
    first, second = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    loss(first, y)
    loss(second, y).backward()
    assert first.grad is None and second.grad.abs().sum(1).all()        # class 1 and 2 have one clip in the batch
    before = [b.clone() for b in (loss.memory.store, loss.memory.n)]
    loss.eval()(second, y)
    assert torch.equal(loss.memory.store, before[0]) and torch.equal(loss.memory.n, before[1])


def test_kept_features_are_projected_as_the_loss_projects_now():
    torch.manual_seed(0)
    loss = MemoryMCCL(COUNTS, 8, memory=2, scales=(1,), out_dim=4, centres=False)
    bag, y = torch.randn(3, 8), torch.tensor([0, 1, 2])
    loss(bag, y)
    with torch.no_grad(): loss.projections["1"].weight.mul_(-1)
    z, columns = loss.features(bag, 1)
    assert torch.allclose(columns[:3], columns[3:]) and torch.allclose(z, columns[3:])


def test_half_precision_features_are_kept_in_full():
    loss = MemoryMCCL(COUNTS, 8, memory=2, **PLAIN)
    bag = torch.randn(3, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16): loss(bag, torch.tensor([0, 1, 2]))
    assert loss.memory.store.dtype == torch.float32 and torch.equal(loss.memory.kept()[0], bag.float())


def test_more_than_a_thousand_rows_take_the_other_way_to_the_same_number():
    torch.manual_seed(0)
    loss, g = MemoryMCCL([500, 500, 500], 8, memory=5, scales=(1,), out_dim=None), torch.Generator().manual_seed(1)
    bag, y = torch.randn(1100, 8, generator=g), torch.randint(3, (1100,), generator=g)
    loss(bag[:40], y[:40]); loss.eval()
    z, columns = loss.features(bag, 1)
    P, A = y[:, None] == loss.column_labels(y), ~torch.eye(1100, len(columns), dtype=torch.bool)
    table = loss.loss(z @ columns.T / loss.tau[0], P & A, A, loss.W[y])
    assert len(columns) == 1100 + 3 + 15 and loss(bag, y).item() == pytest.approx(table.item(), rel=1e-5)
    blocks = log_form_in_blocks(z, columns, y, loss.column_labels(y), loss.tau[y, None], loss.W[y])
    assert blocks.item() == pytest.approx(table.item(), rel=1e-5)


def _remembered(rank):
    torch.manual_seed(0)
    loss, g = MemoryMCCL(COUNTS, 8, memory=3, **PLAIN), torch.Generator().manual_seed(1)
    values = []
    for _ in range(3):
        bag, y = torch.randn(8, 8, generator=g), torch.randint(3, (8,), generator=g)
        part = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        values.append(loss(bag[part], y[part]).item())
    return values, loss.memory.store


@needs_gloo
def test_in_two_processes_each_keeps_the_features_of_both(tmp_path):
    alone, store = _remembered(None)
    for values, kept in on_two_processes(_remembered, tmp_path):
        assert values == pytest.approx(alone, abs=1e-5) and torch.allclose(kept, store)


# ---- in training

def test_a_configuration_names_it_and_a_checkpoint_keeps_it():
    config = Config(mccl_args=dict(memory=4, out_dim=16))
    objective = Objective(config, [5] * 7, 16)
    assert isinstance(objective.mccl, MemoryMCCL) and objective.mccl.memory.store.shape == (7, 4, 16)
    assert {"mccl.memory.store", "mccl.memory.n"} <= objective.state_dict().keys()
    plain = Objective(dataclasses.replace(config, mccl_args=dict(out_dim=16)), [5] * 7, 16)
    assert type(plain.mccl) is MCCL and not any("memory" in k for k in plain.state_dict())
