"Our losses and samplers in a Lightning Trainer: the numbers of a plain loop, and what Lightning does with a sampler."
import logging

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from micacl.longtail import LDAM, CosineLinear, EpochOrder, build_loss

N_C, EPOCHS = [48, 16, 4], 4


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def data(seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(N_C))
    return torch.randn(len(y), 6, generator=g) + 2 * F.one_hot(y, 6), y


def network(last=nn.Linear):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), last(16, 3))


class Recogniser(pl.LightningModule):
    "As on the page."
    def __init__(self, net, loss): super().__init__(); self.net, self.loss = net, loss
    def configure_optimizers(self): return torch.optim.AdamW(self.net.parameters(), lr=1e-2)
    def on_train_epoch_start(self): self.loss.progress = self.current_epoch / self.trainer.max_epochs
    def training_step(self, batch, _):
        x, y = batch
        return self.loss(self.net(x), y)


def trainer(epochs=EPOCHS, **options):
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **{**quiet, **options})


def order_of(sampler): return EpochOrder(data()[1], 7, sampler, epochs=EPOCHS)
def loader(order): return DataLoader(TensorDataset(*data()), 8, sampler=order)


def plain(net, loss, order, epochs=EPOCHS):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for epoch in range(epochs):
        order.set_epoch(epoch); loss.progress = epoch / epochs
        for x, y in loader(order): optimizer.zero_grad(); loss(net(x), y).backward(); optimizer.step()
    return net


def same(a, b): return all(torch.allclose(p, q, rtol=0, atol=1e-6) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
@pytest.mark.parametrize("name, sampler, last", [
    ("balanced_softmax", "natural", nn.Linear), ("ce", "balanced", nn.Linear), ("ce", "progressive", nn.Linear),
    ("ldam_drw", "natural", CosineLinear)])
def test_the_trainer_ends_where_a_plain_loop_ends(name, sampler, last):
    nets = [network(last) for _ in range(2)]
    assert same(*nets)
    trainer().fit(Recogniser(nets[0], build_loss(name, N_C)), loader(order_of(sampler)))
    plain(nets[1], build_loss(name, N_C), order_of(sampler))
    assert same(*nets)
    x, y = data()
    assert F.cross_entropy(nets[0](x), y) < .8 * F.cross_entropy(network(last)(x), y)
    other = plain(network(last), build_loss("weighted", N_C), order_of(sampler))
    assert not same(nets[0], other)                        # another loss would have been seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
def test_it_tells_our_sampler_the_epoch():
    told, seen, net = [], [], network()
    class Spy(EpochOrder):
        def set_epoch(self, epoch): told.append(epoch); super().set_epoch(epoch)
        def __iter__(self): seen.append(list(super().__iter__())); return iter(seen[-1])
    trainer().fit(Recogniser(net, build_loss("ce", N_C)), loader(Spy(data()[1], 7, "balanced")))
    order, wanted = order_of("balanced"), []
    for epoch in range(EPOCHS): order.set_epoch(epoch); wanted.append(list(order))
    assert sorted(set(told)) == list(range(EPOCHS)) and seen == wanted


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*")
def test_a_run_that_was_stopped_and_resumed_ends_where_the_other_ends(tmp_path):
    "The order of an epoch follows from the seed and the epoch, so nothing of it has to be in the checkpoint."
    whole = plain(network(), build_loss("balanced_softmax", N_C), order_of("balanced"))
    first = trainer(2)
    first.fit(Recogniser(network(), build_loss("balanced_softmax", N_C)), loader(order_of("balanced")))
    first.save_checkpoint(tmp_path / "half.ckpt")
    net = network()
    trainer().fit(Recogniser(net, build_loss("balanced_softmax", N_C)), loader(order_of("balanced")),
                  ckpt_path=tmp_path / "half.ckpt")
    assert same(net, whole)
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    assert saved and all(name.startswith("net.") for name in saved)           # class counts belong to the data


# ---- on several processes Lightning wraps the sampler

def shards(make, epochs):
    "What two processes draw in each epoch, as Lightning deals it out -> [epoch][process] rows."
    wrapped = [DistributedSamplerWrapper(make(), num_replicas=2, rank=k, shuffle=True) for k in range(2)]
    out = []
    for epoch in range(epochs):
        for w in wrapped: w.set_epoch(epoch)               # all that Lightning calls
        out.append([list(w) for w in wrapped])
    return out


@pytest.mark.parametrize("sampler", ["natural", "balanced", "progressive"])
def test_several_processes_share_the_draws_of_each_epoch(sampler):
    one, epochs = order_of(sampler), shards(lambda: order_of(sampler), EPOCHS)
    for k, epoch in enumerate(epochs):
        one.set_epoch(k)
        assert sorted(epoch[0] + epoch[1]) == sorted(one)      # together the draws of one process, none twice
        assert len(epoch[0]) == len(epoch[1]) == len(one) // 2
    assert sampler == "natural" or len({tuple(sorted(e[0] + e[1])) for e in epochs}) == EPOCHS


def test_several_processes_shuffle_the_batches_of_per_class():
    "Told on the page; if this fails, the page can be shortened."
    y, make = torch.tensor([0] * 48 + [1] * 48), lambda: EpochOrder([0] * 48 + [1] * 48, 7, "per_class")
    even = lambda rows: [(y[r].bincount(minlength=2) == 4).all().item() for r in torch.tensor(rows).split(8)]
    assert all(even(list(make()))) and not all(even(shards(make, 1)[0][0]))


def test_ldam_without_the_hook_would_weigh_from_the_start():
    "Why the page's module sets `progress`."
    f, y = torch.randn(8, 3), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    late, never = LDAM(N_C, deferred=.8), LDAM(N_C)
    assert late(f, y) != never(f, y)
    late.progress = .5
    assert late(f, y) == never(f, y)
