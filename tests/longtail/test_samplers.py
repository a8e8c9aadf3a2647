"The order of an epoch in loops that say which epoch it is, and in loops that don't."
import pytest
import torch
from torch.utils.data import DataLoader

from micacl.longtail.samplers import SAMPLERS, EpochOrder

Y = [0] * 60 + [1] * 20 + [2] * 4


def of_epoch(epoch, **options):
    order = EpochOrder(Y, 0, epochs=3, **options)
    order.set_epoch(epoch)
    return list(order)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_loop_that_says_no_epoch_gets_them_one_after_the_other(sampler):
    wanted = [of_epoch(k, sampler=sampler) for k in range(3)]
    assert wanted[0] != wanted[1] != wanted[2] != wanted[0]
    order = EpochOrder(Y, 0, sampler, epochs=3, advance=True)
    loader = DataLoader(torch.arange(len(Y)), 16, sampler=order)
    assert len(loader) == 6 and [torch.cat(list(loader)).tolist() for _ in range(3)] == wanted


def test_a_loop_that_says_the_epoch_gets_that_one():
    order = EpochOrder(Y, 0, "balanced", advance=True)
    list(order), list(order)
    order.set_epoch(1)
    assert list(order) == of_epoch(1, sampler="balanced") and list(order) == of_epoch(2, sampler="balanced")


def test_without_being_told_an_order_stays_the_same():
    order = EpochOrder(Y, 0, "balanced")
    assert list(order) == list(order) == of_epoch(0, sampler="balanced")


def test_progressive_stays_balanced_when_there_are_more_passes_than_epochs():
    order, y = EpochOrder(Y, 0, "progressive", epochs=2, advance=True), torch.tensor(Y)
    drawn = sum(y[list(order)].bincount(minlength=3) for _ in range(51)) / (51 * len(Y))
    assert torch.allclose(drawn, torch.full((3,), 1 / 3), atol=.04)
