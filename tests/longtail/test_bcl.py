"BCL, and SupCon beside it, against slow float64 loops, hand values and MCCL."
import math
import pytest
import torch
import torch.nn.functional as F
from helpers import circle, dot, needs_gloo, on_two_processes, slow_supcon
from micacl.longtail.bcl import BCL, bcl, bcl_terms
from micacl.core import MicaclError
from micacl.mccl import MCCL, category_weights
from micacl.nn.contrast import Contrast, SupCon, log_form, pairs, supcon

COUNTS = [6, 4, 2]

def batch(n=12, dim=6, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)
    return z, torch.randint(classes, (n,), generator=g), F.normalize(torch.randn(classes, dim, generator=g,
        dtype=torch.float64), dim=1)

def simplex(C): return F.normalize(torch.eye(C, dtype=torch.float64) - 1 / C, dim=1)

def slow_bcl(z, y, c, tau, classes=None):
    """-1/|S_y| sum_p log(exp(z_i z_p/tau) / sum_j 1/|S_j| sum_k exp(z_i z_k/tau)), S_j: class j and its prototype,
    without i."""
    z, y, c, terms = z.tolist(), y.tolist(), c.tolist(), []
    classes = list(range(len(c))) if classes is None else classes
    for i in range(len(z)):
        S = {j: [z[k] for k in range(len(z)) if k != i and y[k] == j] + [c[at]] for at, j in enumerate(classes)}
        below = sum(sum(math.exp(dot(z[i], f) / tau) for f in S[j]) / len(S[j]) for j in classes)
        terms.append(-sum(math.log(math.exp(dot(z[i], f) / tau) / below) for f in S[y[i]]) / len(S[y[i]]))
    return terms

# ---- the formulas

@pytest.mark.parametrize("tau", [.07, .5, 2.])
@pytest.mark.parametrize("seed", range(3))
def test_against_slow_loops(tau, seed):
    z, y, c = batch(seed=seed)
    assert supcon(z, y, tau).item() == pytest.approx(slow_supcon(z, y, tau), abs=1e-10)
    want = slow_bcl(z, y, c, tau)
    assert bcl_terms(z, y, c, tau).tolist() == pytest.approx(want, abs=1e-10)
    assert bcl(z, y, c, tau).item() == pytest.approx(sum(want) / 12, abs=1e-10)

def test_bcl_with_prototypes_of_some_classes():
    z, y, c = batch(classes=2)
    y = torch.tensor([1, 4])[y]                          # labels 1 and 4 of five
    got = bcl_terms(z, y, c, .3, torch.tensor([1, 4]))
    assert got.tolist() == pytest.approx(slow_bcl(z, y, c, .3, [1, 4]), abs=1e-10)

def test_a_temperature_of_a_tenth_if_none_is_given():
    z, y, c = batch()
    assert bcl_terms(z, y, c).tolist() == pytest.approx(slow_bcl(z, y, c, .1), abs=1e-10)
    assert bcl(z, y, c).item() == pytest.approx(sum(slow_bcl(z, y, c, .1)) / 12, abs=1e-10)

def test_the_loss_of_one_clip_is_its_term():
    z, y, c = batch(1)
    assert bcl(z, y, c, .5).item() == pytest.approx(slow_bcl(z, y, c, .5)[0], abs=1e-10)

def test_labels_and_classes_go_where_the_features_are():
    "The device meta keeps shapes and no numbers, and refuses what lies elsewhere."
    z = torch.zeros(3, 4, device="meta")
    for classes in (None, [0, 1, 4]): assert bcl_terms(z, [0, 1, 1], z, .1, classes).device.type == "meta"

def test_hand_values():
    y = torch.tensor([0, 0, 1])
    assert supcon(circle(0, 90, 180), y, 1.).item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)
    # a pair alone: the partner is the only answer
    assert supcon(circle(0, 60), y[:2], .1).item() == pytest.approx(0)
    one = bcl_terms(circle(0), y[:1], circle(60, 180), 1.)
    assert one.item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    many = bcl_terms(circle(0, 180, 180, 180), torch.tensor([0, 1, 1, 1]), circle(60, 180), 1.)
    # a class counts once, however many clips
    assert many[0].item() == pytest.approx(one.item())
    two = bcl_terms(circle(0, 120), torch.tensor([0, 1]), circle(60, 180), 1.)       # averages of cos 120 and cos 180
    assert two[0].item() == pytest.approx(-.5 + math.log(math.exp(.5) + (math.exp(-.5) + math.exp(-1)) / 2))

def test_bcl_sees_the_same_simplex_for_all_counts():
    for C in (2, 3, 7):
        y = torch.repeat_interleave(torch.arange(C), torch.arange(C) * 4 + 1)
        for tau in (.1, 1.):
            terms = bcl_terms(simplex(C)[y], y, simplex(C), tau)
            even = math.log1p((C - 1) * math.exp(-C / (C - 1) / tau))
            assert torch.allclose(terms, torch.full_like(terms, even), atol=1e-10)

@pytest.mark.parametrize("tau", [.1, 1.])
def test_bcl_bounds(tau):
    for seed in range(20):
        z, y, c = batch(9, 2 + seed % 4, seed=seed)
        terms = bcl_terms(z, y, c, tau)
        assert ((terms >= math.log1p(2 * math.exp(-2 / tau)) - 1e-9).all()
                and (terms <= 2 / tau + math.log(3) + 1e-9).all())
    z, y = circle(0, 0, 180), torch.tensor([0, 0, 1])                                # both bounds are reached
    assert bcl_terms(z, y, circle(0, 180, 180), tau)[0].item() == pytest.approx(math.log1p(2 * math.exp(-2 / tau)))
    worst = bcl_terms(circle(0), y[:1], circle(180, 0, 0), tau).item()
    assert worst == pytest.approx(1 / tau + math.log(2 * math.exp(1 / tau) + math.exp(-1 / tau)))

def test_repeating_a_clip_of_another_class_moves_supcon_and_not_bcl():
    z, y, c = batch(6)
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    # class 1: all members and the prototype at one place
    c = torch.cat([c[:1], z[3:4], c[2:]])
    more, ym = torch.cat([z, z[3:4].expand(10, -1)]), torch.cat([y, torch.ones(10, dtype=torch.long)])
    assert torch.allclose(bcl_terms(z, y, c, .5)[:3], bcl_terms(more, ym, c, .5)[:3])
    a, b = (log_form(v @ v.T / .5, *pairs(w), v.new_ones(len(v))) for v, w in ((z, y), (more, ym)))
    assert abs(a - b) > .1

@pytest.mark.parametrize("loss", ["supcon", "bcl"])
def test_invariances(loss):
    z, y, c = batch()
    f = (lambda z, y, c: supcon(z, y, .2)) if loss == "supcon" else (lambda z, y, c: bcl(z, y, c, .2))
    base, g = f(z, y, c).item(), torch.Generator().manual_seed(1)
    order = torch.randperm(12, generator=g)
    assert f(z[order], y[order], c).item() == pytest.approx(base)                    # order of the batch
    Q = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    assert f(z @ Q, y, c @ Q).item() == pytest.approx(base)                          # a rotation of everything
    names = torch.tensor([2, 0, 1])
    assert f(z, names[y], c[names.argsort()]).item() == pytest.approx(base)          # names of the classes
    if loss == "bcl": assert f(z, (y + 1) % 3, c).item() != pytest.approx(base)     # a prototype belongs to its class

@pytest.mark.parametrize("tau", [.1, .25, 1.])
def test_mccl_without_its_switches_is_supcon(tau):
    z, y, _ = batch(14, 8, 4, seed=2)
    m = MCCL([5, 4, 3, 2], 8, scales=(1,), tau0=tau, out_dim=None, class_weight="none", temperature="fixed",
             centres=False).double()
    m.tau.fill_(tau)
    assert m(z, y).item() == pytest.approx(supcon(z, y, tau).item(), abs=1e-12)
    assert MCCL([5, 4, 3, 2], 8, scales=(1, 2), tau0=tau, out_dim=None, class_weight="none", temperature="fixed",
                centres=False).double()(z, y).item() != pytest.approx(supcon(z, y, tau).item(), abs=1e-4)

def test_gradcheck():
    z, y, c = batch(6, 4)
    y = torch.tensor([0, 0, 1, 1, 2, 0])
    f = lambda z, c: bcl(F.normalize(z, dim=1), y, F.normalize(c, dim=1), .3)
    assert torch.autograd.gradcheck(f, (z.requires_grad_(), c.requires_grad_()))
    assert torch.autograd.gradcheck(lambda z: supcon(F.normalize(z, dim=1), y, .3), (z,))

# ---- what they do to free points

def settle(loss, counts, seed=0):
    torch.manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    x, c = torch.randn(len(y), 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    opt = torch.optim.Adam([x, c], lr=.05)
    for _ in range(150): opt.zero_grad(); loss(F.normalize(x, dim=1), y, F.normalize(c, dim=1)).backward(); opt.step()
    m = F.normalize(torch.stack([x.detach()[y == k].mean(0) for k in range(3)]), dim=1)
    return [(m[a] @ m[b]).acos().rad2deg().item() for a, b in ((0, 1), (0, 2), (1, 2))]

def test_imbalance_bends_supcon_more_than_bcl_and_weights_finish_the_job():
    counts = [50, 50, 5]
    w = category_weights(counts, "inverse").float()
    even = settle(lambda z, y, c: supcon(z, y, 1.), [20, 20, 20])
    bent = settle(lambda z, y, c: supcon(z, y, 1.), counts)
    less = settle(lambda z, y, c: bcl(z, y, c, 1.), counts)
    none = settle(lambda z, y, c: (w[y] * bcl_terms(z, y, c, 1.)).mean(), counts)
    spread = [max(a) - min(a) for a in (even, bent, less, none)]
    assert spread[0] < 3 and spread[1] > 50 and 10 < spread[2] < spread[1] / 2 and spread[3] < 5

# ---- awkward batches

@pytest.mark.parametrize("labels", [[], [2], [0, 1, 2], [1, 1, 1, 1], [0, 0, 2]])
@pytest.mark.parametrize("kind", [SupCon, BCL])
def test_awkward_batches(kind, labels):
    torch.manual_seed(0)
    loss, x = kind(COUNTS, 8, out_dim=5), torch.randn(len(labels), 8, requires_grad=True)
    value = loss(x, torch.tensor(labels, dtype=torch.long)); value.backward()
    grads = [x.grad, *(p.grad for p in loss.parameters())]
    assert value.isfinite() and all(g is not None and g.isfinite().all() for g in grads)
    says = len(set(labels)) < len(labels) if kind is SupCon else len(labels) > 0     # SupCon needs a pair, BCL a clip
    assert (value > 0) == says and bool(sum(g.abs().sum() for g in grads) > 0) == says

@pytest.mark.parametrize("kind", [SupCon, BCL])
def test_extreme_features_stay_finite(kind):
    torch.manual_seed(0)
    loss, y = kind(COUNTS, 8, temperature=.001), torch.tensor([0, 0, 1, 2])
    for x in (torch.zeros(4, 8), torch.ones(4, 8), 1e15 * torch.randn(4, 8)):
        x = x.requires_grad_()
        value = loss(x, y); value.backward()
        assert value.isfinite() and x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in loss.parameters())

def test_prototypes_of_absent_classes_learn_and_move_away():
    torch.manual_seed(0)
    loss, x = BCL(COUNTS, 8, out_dim=5, temperature=.5), torch.randn(4, 8)
    y = torch.tensor([0, 0, 1, 0])
    value = loss(x, y); value.backward()
    grad = loss.prototypes.grad
    assert (grad.norm(dim=1) > 1e-4).all()
    with torch.no_grad():
        before, z = F.normalize(loss.prototypes, dim=1), loss.embed(x)
        after = F.normalize(loss.prototypes - .01 * grad, dim=1)
        assert (((z @ after[2]).exp().mean() < (z @ before[2]).exp().mean())
                and (z[y == 0] @ (after[0] - before[0])).mean() > 0)

def test_classes_that_never_occur_have_no_say():
    torch.manual_seed(0)
    loss, x, y = BCL([5, 0, 3], 8, out_dim=5), torch.randn(4, 8), torch.tensor([0, 0, 2, 2])
    value = loss(x, y); value.backward()
    assert loss.prototypes.grad[1].abs().sum() == 0 and (loss.prototypes.grad[[0, 2]].norm(dim=1) > 0).all()
    with torch.no_grad(): loss.prototypes[1] += 1
    assert torch.equal(loss(x, y), value)
    z, c = loss.embed(x).double(), F.normalize(loss.prototypes[[0, 2]].double(), dim=1)
    assert value.item() == pytest.approx(sum(slow_bcl(z, y, c, .1, [0, 2])) / 4, abs=1e-4)

# ---- the modules

def test_modules_are_the_formulas_on_the_projection():
    torch.manual_seed(0)
    x, y = torch.randn(10, 8), torch.randint(3, (10,))
    s, b = SupCon(COUNTS, 8, out_dim=4, temperature=.2), BCL(COUNTS, 8, out_dim=4, temperature=.2)
    for m in (s, b):
        z = m.embed(x)
        hidden = F.relu(x @ m.project[0].weight.T + m.project[0].bias) @ m.project[2].weight.T + m.project[2].bias
        assert (z.shape == (10, 4) and torch.allclose(z, hidden / hidden.norm(dim=1, keepdim=True), atol=1e-6)
                and isinstance(m, Contrast))
    assert s(x, y).item() == pytest.approx(slow_supcon(s.embed(x).double(), y, .2), abs=1e-5)
    assert b(x, y).item() == pytest.approx(sum(slow_bcl(b.embed(x).double(), y,
                                                        F.normalize(b.prototypes.double(), dim=1), .2)) / 10, abs=1e-5)
    assert set(b.state_dict()) - set(s.state_dict()) == {"prototypes"}
    assert BCL(COUNTS, 8).project[2].out_features == 128 and BCL(COUNTS, 8).temperature == .1

@pytest.mark.parametrize("kind", [SupCon, BCL])
def test_precision(kind):
    torch.manual_seed(0)
    loss, x, y = kind(COUNTS, 8), torch.randn(10, 8).bfloat16(), torch.randint(3, (10,))
    with torch.autocast("cpu", dtype=torch.bfloat16): low = loss(x, y)
    # nothing inside was done in 16 bits
    assert low.dtype == torch.float32 and torch.equal(low, loss(x.float(), y))
    assert loss.double()(x, y).dtype == torch.float64

def test_they_can_be_exchanged_and_learn():
    kinds = dict(mccl=MCCL, supcon=SupCon, bcl=BCL)
    for name, kind in kinds.items():
        torch.manual_seed(0)
        loss, x, y = kind(COUNTS, 8), torch.randn(12, 8, requires_grad=True), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
        opt, start = torch.optim.Adam([x, *loss.parameters()], lr=.02), loss(x, y).item()
        for _ in range(30): opt.zero_grad(); loss(x, y).backward(); opt.step()
        assert loss(x, y).item() < start - .5, name

@pytest.mark.parametrize("make, message", [
    (lambda: SupCon([], 8), "one count per class"), (lambda: BCL([0, 0], 8), "not all 0"),
    (lambda: SupCon([3, -1], 8), "not negative"),
    (lambda: BCL([[1, 2]], 8), "one count per class"), (lambda: SupCon([1, 2], 8, temperature=0.),
                                                        "temperature: expected a number"),
    (lambda: BCL([1, 2], 8, temperature=float("nan")), "temperature: expected a number"),
    (lambda: SupCon([1, 2], 8)(torch.randn(4, 7), torch.zeros(4).long()),
     r"SupCon: expected bag (B, 8) and y (B,), found (4, 7) and (4,)"),
    (lambda: BCL([1, 2], 8)(torch.randn(4, 8), torch.zeros(3).long()), r"BCL: expected bag (B, 8)"),
    (lambda: BCL([1, 2], 8)(torch.randn(4, 2, 8), torch.zeros(4).long()), "found (4, 2, 8)"),
    (lambda: bcl_terms(*batch(), 0.), "bcl: temperature: expected a number from 1e-06 to below 1e+06, found 0.0"),
    (lambda: bcl_terms(batch()[0].float(), *batch()[1:]), "bcl: expected features (B,D) and prototypes (C,D), tensors"),
    (lambda: bcl_terms(None, *batch()[1:]), "found NoneType")])
def test_errors_are_one_line(make, message):
    with pytest.raises(MicaclError) as e: make()
    assert message in str(e.value) and "\n" not in str(e.value)

# ---- several processes

def case():
    torch.manual_seed(3)
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 1, 0, 2, 2])
    return x, y, {"supcon": SupCon([3, 2, 3], 6, out_dim=4).double(), "bcl": BCL([3, 2, 3], 6, out_dim=4).double()}

def half(rank):
    x, y, losses = case()
    out, x, y = {}, x.chunk(2)[rank].requires_grad_(), y.chunk(2)[rank]
    for name, loss in losses.items():
        x.grad, loss = None, torch.nn.parallel.DistributedDataParallel(loss)
        value = loss(x, y); value.backward()
        out[name] = value.detach(), x.grad / 2, [p.grad.clone() for p in loss.parameters()]
    return out

@needs_gloo
def test_two_processes_are_exactly_one(tmp_path):
    got = on_two_processes(half, tmp_path)
    x, y, losses = case()
    for name, loss in losses.items():
        x = x.detach().requires_grad_()
        value = loss(x, y); value.backward()
        for rank in range(2):
            there, x_grad, grads = got[rank][name]
            assert there.item() == pytest.approx(value.item(), abs=1e-12)
            assert torch.allclose(x_grad, x.grad.chunk(2)[rank], atol=1e-12)
            assert all(torch.allclose(a, p.grad, atol=1e-12) for a, p in zip(grads, loss.parameters(), strict=True))
