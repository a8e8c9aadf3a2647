"torchmil's models on our bags, and MICACL's head in torchmil's loop."
import pytest
import torch
import torchmetrics
from tensordict import TensorDict
from torch import nn
from torch.utils.data import DataLoader
from torchmil.data import collate_fn
from torchmil.models import ABMIL, DSMIL, MILModel, TransformerABMIL
from torchmil.utils import Trainer

from micacl.core import MicaclError
from micacl.data.bags import to_bags
from micacl.geiim import GEIIM
from micacl.longtail import EpochOrder, build_loss
from micacl.models import MICACL
from micacl.wian import WIAN

N_C, N, D = [24, 12, 6], 4, 12


def our_bags(seed=0, counts=N_C):
    "Videos of N*2 frames of 1x2 pixels whose class shows in one instance -> features (B,N,12) by `to_bags`, labels."
    g = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    video = .3 * torch.randn(len(y), 2 * N, 3, 1, 2, generator=g)
    for v, c in zip(video, y):
        k = 2 * torch.randint(N, (1,), generator=g)
        v[k:k + 2, c] += 1.5
    return to_bags(video, N).flatten(1).unflatten(0, (len(y), N)), y


class Bags(torch.utils.data.Dataset):
    "Bags as torchmil's datasets give them; `lengths` cuts them short."
    def __init__(self, X, y, lengths=None): self.X, self.y, self.lengths = X, y, lengths or [N] * len(y)
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return TensorDict(dict(X=self.X[i][:self.lengths[i]], Y=self.y[i]))


class Head(MILModel):
    "GEIIM and WIAN on instance features, as on the page."
    def __init__(self, dim, n_instances, class_counts, **graph):
        super().__init__()
        self.geiim, self.wian = GEIIM(dim, n_instances, **graph), WIAN(dim)
        self.fc, self.criterion = nn.Linear(2 * dim, len(class_counts)), build_loss("balanced_softmax", class_counts)
    def forward(self, X, mask=None):
        mask = None if mask is None else mask.bool()
        G, _ = self.geiim(X, mask)
        H, w = self.wian(G, self.geiim.dependency(G, mask), mask)
        return self.fc((w[..., None] * H).sum(1))
    def compute_loss(self, Y, X, mask=None):
        scores = self(X, mask)
        return scores, {"balanced softmax": self.criterion(scores, Y)}


class Log(list):
    "Their logger, which keeps what it is told."
    def log(self, metrics): self.append(metrics)
    def of(self, name): return [m[name] for m in self if name in m]


def torchmil_run(model, loader, validation, epochs, lr=1e-2, classes=None):
    task = dict(task="binary") if classes is None else dict(task="multiclass", num_classes=classes)
    log = Log()
    trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr), {"accuracy": torchmetrics.Accuracy(**task)},
                      device="cpu", logger=log, disable_pbar=True, verbose=False)
    trainer.train(epochs, loader, validation)
    return log


def loader(data, sampler=None): return DataLoader(data, 8, sampler=sampler, collate_fn=collate_fn)


# ---- their models on our bags

@pytest.mark.parametrize("make", [lambda: ABMIL((D,), att_dim=8, gated=True), lambda: DSMIL((D,), att_dim=8),
                                  lambda: TransformerABMIL((D,), pool_att_dim=8, transf_att_dim=8, transf_n_heads=2)],
                         ids=["ABMIL", "DSMIL", "TransformerABMIL"])
def test_their_models_learn_our_bags_with_our_sampler(make):
    "Is it the rarest class, or not? Balanced draws, new bags to test."
    (X, y), (X_test, y_test) = our_bags(0, [40, 20, 20]), our_bags(1, [20, 20, 40])
    torch.manual_seed(0)
    model, rare = make(), (y == 2).long()
    order = EpochOrder(rare, 0, "balanced", advance=True)
    log = torchmil_run(model, loader(Bags(X, rare), order), loader(Bags(X, rare)), 12)
    loss = log.of("train/loss")
    assert loss[-1] < .7 * loss[0]
    with torch.no_grad(): found = model.eval().predict(X_test, return_inst_pred=False) > 0
    assert (found == (y_test == 2)).float().mean() > .75


def test_our_loss_is_a_criterion_of_theirs_and_makes_it_a_network_of_many_classes():
    "Their models hand over labels as floats."
    (X, y), (X_test, y_test) = our_bags(0), our_bags(1, [30, 30, 30])
    torch.manual_seed(0)
    model = ABMIL((D,), att_dim=8, gated=True, criterion=build_loss("balanced_softmax", N_C))
    model.classifier = nn.Linear(D, 3)
    scores, terms = model.compute_loss(y, X)
    by_hand = nn.functional.cross_entropy(scores + torch.tensor(N_C).log(), y)
    assert list(terms) == ["BalancedSoftmax"] and terms["BalancedSoftmax"].item() == pytest.approx(by_hand.item())
    torchmil_run(model, loader(Bags(X, y), EpochOrder(y, 0, advance=True)), loader(Bags(X, y)), 15, classes=3)
    with torch.no_grad(): assert (model.eval()(X_test).argmax(1) == y_test).float().mean() > .8


# ---- our head in their loop

def plain_run(model, data, order, epochs, lr=1e-2):
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for batch in loader(data, order):
            optimizer.zero_grad()
            model.criterion(model(batch["X"], batch["mask"]), batch["Y"]).backward()
            optimizer.step()


@pytest.mark.parametrize("lengths", [None, [1 + i % N for i in range(sum(N_C))]], ids=["full", "padded"])
def test_our_head_in_their_loop_is_our_head_in_a_plain_one(lengths):
    X, y = our_bags()
    ends = []
    for theirs in (True, False):
        torch.manual_seed(3)
        # they pad to the longest bag of the batch, so a graph for N places does not fit bags of all lengths
        model, data = Head(D, N, N_C, adjacency="data" if lengths else "learned"), Bags(X, y, lengths)
        start = [p.detach().clone() for p in model.parameters()]
        if theirs:
            order = EpochOrder(y, 5, "balanced", advance=True)
            log = torchmil_run(model, loader(data, order), loader(data), 5, classes=3)
        else: plain_run(model, data, EpochOrder(y, 5, "balanced"), 5)
        ends.append([p.detach() for p in model.parameters()])
    assert log.of("train/loss")[-1] < .8 * log.of("train/loss")[0]
    assert any((a - b).abs().max() > .01 for a, b in zip(start, ends[0]))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(*ends))


def test_padding_by_their_collate_changes_no_score():
    X, y = our_bags()
    lengths = [1 + i % N for i in range(len(y))]
    torch.manual_seed(0)
    model = Head(D, N, N_C, adjacency="data").eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1 * torch.randn(p.shape))
        for batch in loader(Bags(X, y, lengths)):
            assert batch["mask"].dtype == torch.uint8
            dirty = torch.where(batch["mask"].bool()[..., None], batch["X"], torch.tensor(7.))
            assert torch.equal(model(dirty, batch["mask"]), model(batch["X"], batch["mask"]))
            assert not torch.allclose(model(dirty), model(batch["X"]))         # without the mask it would


def test_what_a_learned_graph_asks_of_their_batches_is_said_in_a_line():
    X, mask = torch.randn(2, N, D), torch.ones(2, N, dtype=torch.uint8)
    with pytest.raises(MicaclError, match="bool"): GEIIM(D, N)(X, mask)
    with pytest.raises(MicaclError, match="expected 4 instances, found 3"): GEIIM(D, N)(X[:, :3], mask[:, :3].bool())


def test_the_whole_network_behind_an_encoder_of_its_own_takes_their_bags():
    "`MICACL` reads instance features (B,N,D), so it stands in their loop too."
    X, y = our_bags()
    encoder = nn.Identity(); encoder.dim = D
    torch.manual_seed(0)
    class Whole(MILModel):
        def __init__(self):
            super().__init__()
            self.net, self.criterion = MICACL(3, encoder, n_instances=N, heads=2), build_loss("balanced_softmax", N_C)
        def forward(self, X): return self.net(X).logits
        def compute_loss(self, Y, X): scores = self(X); return scores, {"loss": self.criterion(scores, Y)}
    log = torchmil_run(Whole(), loader(Bags(X, y), EpochOrder(y, 0, advance=True)), loader(Bags(X, y)), 6, classes=3)
    assert log.of("train/loss")[-1] < .7 * log.of("train/loss")[0]


# ---- what their loop does that a reader has to know

def test_their_loop_validates_in_training_mode_and_says_no_epoch():
    "Both are told on the page; if this fails, the page can be shortened."
    modes, epochs = [], []
    class Spy(Head):
        def compute_loss(self, Y, X, mask=None): modes.append(self.training); return super().compute_loss(Y, X, mask)
    class Told(EpochOrder):
        def set_epoch(self, epoch): epochs.append(epoch)
    X, y = our_bags(counts=[3, 3, 2])
    data = Bags(X, y)
    torchmil_run(Spy(D, N, [3, 3, 2]), loader(data, Told(y, 0)), loader(data), 2, classes=3)
    assert modes == [True] * 4 and epochs == []
