"""SupCon and MCCL beside pytorch-metric-learning: the cases of its own tests of SupConLoss, written down anew, and the
places where the two answer differently."""
import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners, samplers, trainers
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.reducers import ClassWeightedReducer
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import circle, slow_supcon
from micacl.longtail import MCCL, EpochOrder, SupCon
from micacl.nn.contrast import log_form, supcon

DTYPES = [torch.float16, torch.float32, torch.float64]
NEAR = {torch.float16: 1e-2, torch.float32: 1e-5, torch.float64: 1e-9}      # as its tests have them; tighter in 64 bits
ANGLES, LABELS = (0, 10, 20, 50, 60, 80), torch.tensor([0, 0, 0, 1, 1, 2])    # its case: the last has no partner
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def case(dtype): return circle(*ANGLES).to(dtype).requires_grad_()


def mccl(n_c, dim, dtype, **options):
    "An MCCL that is SupCon but for its weights: one scale, no projection, no centres, temperature 0.1."
    plain = dict(scales=(1,), tau0=.1, out_dim=None, class_weight="none", temperature="fixed", centres=False)
    torch.set_default_dtype(torch.float64)          # or its temperature would be 0.1 to 32 bits
    try: return MCCL(n_c, dim, **{**plain, **options}).to(dtype)
    finally: torch.set_default_dtype(torch.float32)


# ---- its own cases

@each_dtype
def test_its_case_of_six_points(dtype):
    want = slow_supcon(circle(*ANGLES), LABELS, .1)            # loops in 64 bits
    ours = dict(supcon=supcon(case(dtype), LABELS, .1), mccl=mccl([3, 2, 1], 2, dtype)(case(dtype), LABELS))
    theirs = losses.SupConLoss(temperature=.1)(case(dtype), LABELS)
    assert theirs.item() == pytest.approx(want, rel=NEAR[dtype])
    for name, value in ours.items():
        assert value.dtype == dtype and value.item() == pytest.approx(want, rel=NEAR[dtype]), name


@each_dtype
@pytest.mark.parametrize("angles, labels", [((0, 20, 40, 60, 80), (0, 0, 1, 1, 2)), (ANGLES, (0, 1, 0, 1, 0, 1))])
def test_its_case_of_a_gradient(dtype, angles, labels):
    y, points = torch.tensor(labels), [circle(*angles).to(dtype).requires_grad_() for _ in range(2)]
    # it normalises inside; here the points do it before
    supcon(F.normalize(points[0], dim=1), y, .1).backward(); losses.SupConLoss(temperature=.1)(points[1], y).backward()
    assert points[0].grad.norm() > .1
    assert torch.allclose(points[0].grad, points[1].grad, rtol=0, atol={torch.float16: .1}.get(dtype, 1e-4))


@each_dtype
@pytest.mark.parametrize("angles, labels", [((0,), (0,)), ((0, 40, 60), (1, 2, 3))])
def test_its_cases_without_a_pair_are_0(dtype, angles, labels):
    z, y = circle(*angles).to(dtype).requires_grad_(), torch.tensor(labels)
    for value in (supcon(z, y, .1), mccl([5] * 4, 2, dtype)(z, y), losses.SupConLoss(temperature=.1)(z, y)):
        z.grad = None; value.backward()
        assert value.item() == 0 and z.grad.abs().sum() == 0


def test_squared_distances_at_twice_the_temperature_are_cosines():
    "On the circle |a - b|^2 = 2 - 2ab; what is the same for all columns leaves a softmax as it is."
    theirs = losses.SupConLoss(temperature=.2, distance=LpDistance(power=2))
    assert theirs(case(torch.float64), LABELS).item() == pytest.approx(supcon(case(torch.float64), LABELS, .1).item())
    other = losses.SupConLoss(temperature=.1, distance=LpDistance())(case(torch.float64), LABELS)      # its other case
    assert abs(other.item() - supcon(case(torch.float64), LABELS, .1).item()) > .1


# ---- weights of classes

def batch(n=24, dim=8, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=torch.float64), torch.arange(n) % classes


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("kind", ["effective", "inverse", "none"])
def test_class_weights_are_those_of_its_reducer_where_everybody_has_a_partner(dtype, kind):
    x, y = batch()
    ours = mccl([400, 40, 4], 8, dtype, class_weight=kind)
    theirs = losses.SupConLoss(temperature=.1, reducer=ClassWeightedReducer(ours.W.clone()))
    value = ours(x.to(dtype), y).item()
    assert value == pytest.approx(theirs(x.to(dtype), y).item(), rel=NEAR[dtype])
    unweighted = mccl([400, 40, 4], 8, dtype)(x.to(dtype), y).item()
    assert (abs(value - unweighted) > 1e-3) == (kind != "none")


def test_its_reducer_counts_anchors_without_a_partner_and_ours_does_not():
    x, y = batch(9)
    y[-1] = 3                                                  # alone
    ours = mccl([400, 40, 4, 1], 8, torch.float64, class_weight="inverse")
    theirs = losses.SupConLoss(temperature=.1, reducer=ClassWeightedReducer(ours.W.clone()))
    assert ours(x, y).item() == pytest.approx(theirs(x, y).item() * 9 / 8, rel=1e-6)


# ---- where they answer differently

def test_a_batch_of_one_class_is_0_there_and_the_equation_here():
    z, y = circle(0, 10, 20), torch.zeros(3, dtype=torch.long)                 # the third of its cases without a pair
    assert losses.SupConLoss(temperature=.1)(z, y).item() == 0
    assert supcon(z, y, .1).item() == pytest.approx(slow_supcon(z, y, .1)) and supcon(z, y, .1).item() > .5


def test_an_anchor_whose_loss_rounds_to_0_is_left_out_there_and_counted_here():
    "Two pairs far apart and a third that is in between: in 32 bits the losses of the easy ones are 0."
    angles, y = (0, 0, 180, 180, 60, 120), torch.tensor([0, 0, 1, 1, 2, 2])
    z64 = circle(*angles)
    values = [supcon(z64.to(t), y, .02).item() for t in DTYPES[1:]]
    assert values[1] == pytest.approx(math.log(3) / 3, rel=1e-6)      # a partner at 60 degrees, two strangers at 60
    theirs = [losses.SupConLoss(temperature=.02)(z64.to(t), y).item() for t in DTYPES[1:]]
    assert values == pytest.approx([slow_supcon(z64, y, .02)] * 2, rel=1e-3)       # the equation, in 32 bits and in 64
    assert theirs[1] == pytest.approx(values[1]) and theirs[0] == pytest.approx(3 * values[0], rel=1e-3)


# ---- as a loss of that library: miners, reducers, samplers, trainers

class CategorySupCon(losses.BaseMetricLossFunction):
    "As on the page: `log_form` with the pairs that a miner found, and a weight for each class."
    def __init__(self, W, tau=.1): super().__init__(); self.W, self.tau = W, tau
    def get_default_distance(self): return CosineSimilarity()
    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        S = self.distance(embeddings, ref_emb) / self.tau
        P, N = (torch.zeros_like(S, dtype=torch.bool) for _ in range(2))
        a1, p, a2, n = convert_to_pairs(indices_tuple, labels, ref_labels)
        P[a1, p], N[a2, n] = True, True
        return {"loss": dict(losses=log_form(S, P, P | N, self.W.to(S)[labels]), indices=None,
                             reduction_type="already_reduced")}


@pytest.mark.parametrize("mined", [False, True])
def test_our_form_in_its_interface_takes_the_pairs_of_a_miner(mined):
    x, y = batch()
    pairs = miners.PairMarginMiner(pos_margin=.6, neg_margin=.2, distance=CosineSimilarity())(x, y) if mined else None
    ours, theirs = CategorySupCon(torch.ones(3))(x, y, pairs), losses.SupConLoss(temperature=.1)(x, y, pairs)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    everything = losses.SupConLoss(temperature=.1)(x, y).item()
    assert (abs(ours.item() - everything) > 1e-3) == mined


def test_it_is_mccl_with_one_scale():
    x, y = batch()
    loss = mccl([400, 40, 4], 8, torch.float64, class_weight="inverse")
    assert CategorySupCon(loss.W)(x, y).item() == pytest.approx(loss(x, y).item(), rel=1e-6)


class ThirdArgument(nn.Module):
    "Its trainers hand over a miner's pairs, here always None."
    def __init__(self, loss): super().__init__(); self.loss = loss
    def forward(self, embeddings, labels, indices_tuple): return self.loss(embeddings, labels)


@pytest.mark.parametrize("make, wrap", [(lambda: SupCon([32] * 3, 8, out_dim=4), ThirdArgument),
                                        (lambda: CategorySupCon(torch.ones(3)), lambda loss: loss)],
                         ids=["SupCon", "CategorySupCon"])
def test_our_loss_and_sampler_in_its_trainer_are_those_of_a_plain_loop(make, wrap):
    torch.manual_seed(0)
    x, y = torch.randn(96, 6), torch.arange(96) % 3
    x += 2 * F.one_hot(y, 6)
    ends = []
    for who in ("trainer", "loop"):
        torch.manual_seed(1)
        net, loss = nn.Linear(6, 8), make()
        order = EpochOrder(y, 0, "per_class", advance=True)
        before = loss(net(x), y).item()
        optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=.1)
        if who == "trainer":
            trainers.MetricLossOnly({"trunk": net}, {"trunk_optimizer": optimizer}, 24,
                                    {"metric_loss": wrap(loss)}, TensorDataset(x, y), data_device="cpu",
                                    sampler=order, dataloader_num_workers=0).train(num_epochs=3)
        else:
            for _ in range(3):
                for a, b in DataLoader(TensorDataset(x, y), 24, sampler=order, drop_last=True):
                    optimizer.zero_grad(); loss(net(a), b).backward(); optimizer.step()
        ends.append((loss(net(x), y).item(), net.weight.detach()))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-6) and ends[0][0] < before - .1
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-6)


def test_its_sampler_fills_batches_for_our_loss():
    y = torch.tensor([0] * 80 + [1] * 20 + [2] * 4)
    order = samplers.MPerClassSampler(y, m=4, batch_size=12, length_before_new_iter=96)
    for rows in torch.tensor(list(order)).split(12):
        assert y[rows].bincount(minlength=3).tolist() == [4, 4, 4]
        z = torch.randn(12, 8)
        assert math.isfinite(SupCon([80, 20, 4], 8)(z, y[rows]).item())
