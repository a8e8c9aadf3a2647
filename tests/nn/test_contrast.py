"SupCon and its masks: hand values, slow float64 loops, pytorch-metric-learning, free points, awkward batches."
import math
import warnings
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from helpers import circle, slow_supcon
from micacl.core import MicaclError
from micacl.nn.contrast import Contrast, SupCon, check_bags, check_embeddings, label_tensor, log_form, pairs, supcon

def batch(n=12, dim=6, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)
    return z, torch.randint(classes, (n,), generator=g)


# ---- masks

def test_the_anchor_is_not_its_own_partner():
    P, A = pairs(torch.tensor([0, 0, 1]))
    assert P.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert A.int().tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]

def test_masks_with_columns_and_self_pairs():
    y, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1, 0, 1, 2])
    P, A = pairs(y, columns)
    assert P.int().tolist() == [[0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert A.int().tolist() == [[0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]]
    P, A = pairs(y, columns, self_pairs=True)
    assert P.int().tolist() == [[1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0]] and A.all()
    for n in (0, 1):
        P, A = pairs(y[:n], torch.cat([y[:n], torch.arange(3)]))
        assert P.shape == A.shape == (n, n + 3) and P.sum() == n and A.sum() == 3 * n

def test_labels_of_any_whole_kind_and_no_other():
    want = torch.tensor([0, 2, 1])
    for y in (want, want.int(), want.tolist(), want.numpy()): assert torch.equal(label_tensor(y, 3), want)
    for y in ([0, 3], [-1, 0], [.5, 1], [[0, 1]]):
        with pytest.raises(MicaclError, match="^labels: "): label_tensor(y, 3)
    with pytest.raises(MicaclError, match="begin with the 3 anchors"): pairs(want, want[:2])

def test_labels_go_where_they_are_wanted():
    "The device meta keeps shapes and no numbers: it stands for every other device."
    there = label_tensor([0, 2, 1], 3, "meta")
    assert there.device.type == "meta" and there.dtype == torch.int64
    assert label_tensor(there, 3).device.type == label_tensor(there.int(), device="meta").device.type == "meta"
    with pytest.raises(NotImplementedError, match="meta"): label_tensor(there, device="cpu")   # nothing to bring back
    assert all(mask.device.type == "meta" and mask.shape == (3, 4) for mask in pairs(there, [0, 2, 1, 1]))

# ---- the loss

@pytest.mark.parametrize("tau", [.07, .5, 2.])
@pytest.mark.parametrize("seed", range(3))
def test_against_slow_loops(tau, seed):
    z, y = batch(seed=seed)
    assert supcon(z, y, tau).item() == pytest.approx(slow_supcon(z, y, tau), abs=1e-10)

@pytest.mark.parametrize("tau", [.1, .5])
def test_supcon_is_that_of_pytorch_metric_learning(tau):
    for seed in range(3):
        z, y = batch(16, 8, 4, seed=seed)
        y[-1] = 9                                        # one without a partner
        x = (3 * z).requires_grad_(); other = (3 * z).requires_grad_()
        mine, theirs = supcon(F.normalize(x, dim=1), y, tau), SupConLoss(temperature=tau)(other, y)
        mine.backward(); theirs.backward()
        assert mine.item() == pytest.approx(theirs.item(), abs=1e-8)
        assert torch.allclose(x.grad, other.grad, atol=1e-8) and x.grad.norm() > .01

def test_hand_values():
    y = torch.tensor([0, 0, 1])
    assert supcon(circle(0, 90, 180), y, 1.).item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)
    # a pair alone: the partner is the only answer
    assert supcon(circle(0, 60), y[:2], .1).item() == pytest.approx(0)

def test_a_weight_multiplies_the_whole_term_of_its_anchor():
    z, y = batch()
    S, (P, A) = z @ z.T / .3, pairs(y)
    w = torch.linspace(.5, 2, len(z), dtype=z.dtype)
    each = [log_form(S, P, A, F.one_hot(torch.tensor(i), len(z)).to(z.dtype)) for i in range(len(z))]
    assert log_form(S, P, A, w).item() == pytest.approx(sum(w_i * l for w_i, l in zip(w, each)).item())

def test_push_of_a_negative_is_its_softmax_share():
    s = circle(45, 40, 60, 90, 150)[:, 0].clone().requires_grad_()
    y, tau = torch.tensor([1, 1, 2, 3, 4, 5]), .2
    S = torch.cat([torch.zeros(1, dtype=s.dtype), s])[None].expand(6, -1)
    # the first anchor's loss, halved: two anchors have partners
    value = log_form(S / tau, *pairs(y), torch.tensor([1., 0, 0, 0, 0, 0], dtype=s.dtype))
    value.backward()
    q = F.softmax(s.detach() / tau, 0)
    assert torch.allclose(2 * s.grad, (q - torch.tensor([1., 0, 0, 0, 0], dtype=s.dtype)) / tau)

def test_no_loss_warns():
    z, y = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert supcon(z, y).item() == supcon(z, y, .1).item()

def test_gradcheck():
    z, y = batch(6, 4)[0], torch.tensor([0, 0, 1, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda z: supcon(F.normalize(z, dim=1), y, .3), (z.requires_grad_(),))

# ---- the module

def test_the_module_is_the_formula_on_its_projection():
    torch.manual_seed(0)
    x, y, loss = torch.randn(10, 8), torch.randint(3, (10,)), SupCon([6, 4, 2], 8, out_dim=4, temperature=.2)
    assert isinstance(loss, Contrast) and loss.embed(x).norm(dim=1).tolist() == pytest.approx([1.] * 10)
    assert loss(x, y).item() == pytest.approx(slow_supcon(loss.embed(x).double(), y, .2), abs=1e-5)

def test_what_a_contrastive_loss_refuses():
    loss = SupCon([1, 2], 8)
    assert torch.equal(check_bags(loss, torch.randn(3, 8), [0, 1, 1]), torch.tensor([0, 1, 1]))
    for bag, y in ((torch.randn(3, 7), [0, 1, 1]), (torch.randn(3, 8), [0, 1]), (None, [0]),
                   (torch.zeros(2, 8).long(), [0, 1])):
        with pytest.raises(MicaclError, match="^SupCon: expected bag"): check_bags(loss, bag, y)
    for z, c in ((torch.randn(3, 4), torch.randn(2, 5)), (torch.randn(3, 4), torch.randn(2, 4).double()), (None, None)):
        with pytest.raises(MicaclError, match="^bcl: expected features"): check_embeddings("bcl", .1, z, c)
    with pytest.raises(MicaclError, match="temperature"): check_embeddings("bcl", 0., torch.randn(3, 4))

def test_bounds_of_a_temperature():
    z, y = batch()
    for tau in (1e-6, 1e6 - .5): assert supcon(z, y, tau).isfinite()
    for tau in (0, 9e-7, 1e6):
        with pytest.raises(MicaclError, match="^supcon: temperature: expected a number from 1e-06 to below 1e[+]06"):
            supcon(z, y, tau)

@pytest.mark.parametrize("call, said", [
    (lambda: SupCon([1, 2], 0), "SupCon: dim: expected a whole number of 1 or more, found 0"),
    (lambda: SupCon([1, 2], 8, out_dim=0), "SupCon: out_dim: expected a whole number of 1 or more, found 0"),
    (lambda: SupCon([1, 2], 8, temperature=1e6), "SupCon: temperature: expected a number from 1e-06 to below 1e+06"),
    (lambda: supcon([[1.]], [0]), "found list"),
    (lambda: supcon(torch.ones(2, 3).int(), [0, 1]), "found torch.int32 (2, 3)")])
def test_an_error_names_the_loss_the_argument_and_what_was_found(call, said):
    with pytest.raises(MicaclError) as e: call()
    assert str(e.value).startswith("SupCon" if "SupCon" in said else "supcon: expected") and said in str(e.value)

def test_a_module_with_the_smallest_sizes_and_with_those_it_has_by_itself():
    assert SupCon([1, 2], 1, out_dim=1)(torch.tensor([[2.], [1.]]), [0, 0]).item() == 0        # a pair alone
    own = SupCon([1, 2], 8)
    assert own.temperature == .1 and own.embed(torch.randn(3, 8)).shape == (3, 128)

def test_a_module_brings_labels_to_its_features():
    loss, x = SupCon([1, 2], 8), torch.randn(4, 8)
    assert check_bags(loss, x.to("meta"), [0, 1, 1, 0]).device.type == "meta"
    assert supcon(x.to("meta"), [0, 1, 1, 0]).device.type == "meta"
