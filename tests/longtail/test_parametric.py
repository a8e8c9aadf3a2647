"PaCo, KCL, TSC and ProCo against slow float64 loops, hand values, limits and scipy's Bessel functions."
import math
import pytest
import torch
import torch.nn.functional as F
from helpers import dot, needs_gloo, on_two_processes
from micacl.core import MicaclError
from micacl.longtail.losses import log_prior
from micacl.longtail.parametric import (CONTRASTS, KCL, TSC, PaCo, ProCo, expected_partner, log_bessel, paco_terms,
                                        simplex, some_partners)
from micacl.nn.contrast import SupCon, pairs, supcon

COUNTS, KINDS = [6, 4, 2], (PaCo, KCL, TSC, ProCo)


def batch(n=12, dim=6, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1)
    return z, torch.randint(classes, (n,), generator=g), F.normalize(torch.randn(classes, dim, generator=g,
        dtype=torch.float64), dim=1)


def slow_paco(z, y, c, prior, alpha, tau):
    z, y, c, terms = z.tolist(), y.tolist(), c.tolist(), []
    for i in range(len(z)):
        others = [(dot(z[i], z[k]) / tau, alpha if y[k] == y[i] else 0) for k in range(len(z)) if k != i]
        others += [(dot(z[i], c[j]) / tau + prior[j], float(j == y[i])) for j in range(len(c)) if prior[j] > -math.inf]
        below, weight = sum(math.exp(s) for s, _ in others), sum(w for _, w in others)
        terms.append(-sum(w * math.log(math.exp(s) / below) for s, w in others) / weight if weight else 0)
    return terms


# ---- PaCo

@pytest.mark.parametrize("alpha", [0., .05, 1.])
@pytest.mark.parametrize("prior", [[0, 0, 0], [-.3, -1.5, -4], [-.3, -1.5, -math.inf]])
def test_paco_against_slow_loops(alpha, prior):
    z, y, c = batch()
    got = paco_terms(z, y, c, torch.tensor(prior, dtype=torch.float64), alpha, .3)
    assert got.tolist() == pytest.approx(slow_paco(z, y, c, prior, alpha, .3), abs=1e-9)


def test_paco_by_hand():
    "One clip at 0 degrees, its centre at 60, another centre at 180: log(1 + e^(-1 - 1/2))."
    at = lambda *d: torch.stack([torch.tensor(d).deg2rad().cos(), torch.tensor(d).deg2rad().sin()], 1).double()
    got = paco_terms(at(0.), torch.tensor([0]), at(60., 180.), temperature=1.)
    assert got.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)


def test_paco_between_its_limits():
    z, y, c = batch()
    prior = log_prior([6, 4, 2])
    nobody = torch.full((3,), -torch.inf, dtype=torch.float64)
    for i in range(12):
        alone = paco_terms(z[[i]], y[[i]], c, prior, temperature=.2)
        assert alone.item() == pytest.approx(F.cross_entropy(z[[i]] @ c.T / .2 + prior, y[[i]]).item())
    for alpha in (.05, 3.):
        assert paco_terms(z, y, c, nobody, alpha, .2).mean().item() == pytest.approx(supcon(z, y, .2).item())


# ---- KCL and TSC

def test_some_partners_are_partners_and_drawn_evenly():
    torch.manual_seed(0)
    P = torch.tensor([[False, True, True, True, True], [True, False, False, False, False], [False] * 5])
    drawn = torch.stack([some_partners(P, 2) for _ in range(4000)])
    assert (drawn.sum(2) == torch.tensor([2, 1, 0])).all() and not (drawn & ~P).any()
    assert drawn.float().mean(0)[0].tolist() == pytest.approx([0, .5, .5, .5, .5], abs=.03)
    assert torch.equal(some_partners(P, 4), P) and torch.equal(some_partners(P, 99), P)
    assert some_partners(P[:0], 2).shape == (0, 5)


def test_kcl_is_supcon_on_average_and_where_there_are_few_partners():
    torch.manual_seed(0)
    z, y, _ = batch()
    loss = KCL(COUNTS, 6, temperature=.2, k=2)
    drawn = torch.stack([loss.loss(z, y) for _ in range(3000)])
    assert drawn.mean().item() == pytest.approx(supcon(z, y, .2).item(), abs=.02) and drawn.std() > .02
    assert KCL(COUNTS, 6, temperature=.2, k=12).loss(z, y).item() == pytest.approx(supcon(z, y, .2).item())


@pytest.mark.parametrize("C, D", [(1, 1), (2, 1), (3, 2), (7, 6), (7, 128)])
def test_simplex(C, D):
    x = simplex(C, D).double()
    off = -1 / (C - 1) if C > 1 else 0.
    want = torch.full((C, C), off, dtype=torch.float64).fill_diagonal_(1)
    assert x.shape == (C, D) and torch.allclose(x @ x.T, want, atol=1e-6)


def test_tsc_against_a_slow_loop():
    z, y, _ = batch(dim=6)
    loss = TSC([6, 4, 0, 2], 6, out_dim=6, temperature=.4, k=99).double()
    y = torch.tensor([0, 1, 3])[y]
    targets = {c: t for c, t in zip(loss.classes.tolist(), loss.targets.tolist())}
    assert list(targets) == [0, 1, 3]                                 # a class without clips holds no corner
    terms = []
    for i, zi in enumerate(z.tolist()):
        others = [(dot(zi, zk) / .4, y[k] == y[i]) for k, zk in enumerate(z.tolist()) if k != i]
        others += [(dot(zi, t) / .4, c == y[i]) for c, t in targets.items()]
        below = sum(math.exp(s) for s, _ in others)
        own = [-math.log(math.exp(s) / below) for s, partner in others if partner]
        terms.append(sum(own) / len(own))
    assert loss.loss(z, y).item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


# ---- ProCo

@pytest.mark.parametrize("nu, eps", [(3, 1e-4), (7, 1e-5), (31, 1e-6), (63, 1e-6), (511, 1e-6)])
def test_bessel_against_scipy(nu, eps):
    special, np = pytest.importorskip("scipy.special"), pytest.importorskip("numpy")
    x = torch.tensor([.5, 5., 60., 1000., 1e5] if nu < 500 else [1000., 1e5], dtype=torch.float64, requires_grad=True)
    at = x.detach().numpy()
    got = log_bessel(nu, x); got.sum().backward()
    assert got.detach().numpy() == pytest.approx(np.log(special.ive(nu, at)) + at, abs=eps)
    ratio = special.ive(nu + 1, at) / special.ive(nu, at)                # I'_nu = I_{nu+1} + nu/x I_nu
    assert x.grad.numpy() == pytest.approx(ratio + nu / at, rel=1e-4)


@pytest.mark.parametrize("kappa, tau", [(.5, 1.), (4., .5), (12., 1.)])
def test_expected_partner_against_draws(kappa, tau):
    torch.manual_seed(0)
    x = F.normalize(torch.randn(400_000, 8, dtype=torch.float64), dim=1)
    z, mu = F.normalize(torch.randn(2, 8, dtype=torch.float64), dim=1)
    w = (kappa * x @ mu).exp()
    want = ((w * (x @ z / tau).exp()).sum() / w.sum()).log().item()
    assert expected_partner(z[None], mu[None], torch.tensor([kappa]), tau).item() == pytest.approx(want, abs=.03)


def test_a_sharp_class_is_a_centre_and_an_unknown_one_says_nothing():
    z, _, c = batch(dim=64)
    sharp = expected_partner(z, c, torch.full((3,), 1e9), .1)
    assert torch.allclose(sharp, z @ c.T / .1, atol=1e-3)
    blunt = expected_partner(z, c, torch.full((3,), 1e-3), .1)
    assert (blunt - blunt[0, 0]).abs().max() < 1e-2


def test_proco_counts_over_as_many_clips_as_a_class_has():
    torch.manual_seed(0)
    loss, bags = ProCo([4, 1000], 16), torch.randn(30, 1, 16)
    z = torch.stack([loss.embed(b)[0] for b in bags]).detach()
    mean, n = torch.zeros(128), 0
    for k in range(30):
        loss(bags[k], torch.tensor([0]))
        n = min(n, 4) + 1
        mean = mean + (z[k] - mean) / n                      # after the first four clips each counts a fifth
        assert torch.allclose(loss.mean[0], mean, atol=1e-5)
    assert loss.n.tolist() == [5, 0] and loss.mean[1].norm().item() == pytest.approx(.9, abs=1e-5)
    kept = loss.mean.clone(); loss.eval()(bags[0], torch.tensor([1]))
    assert torch.equal(loss.mean, kept)


def test_proco_by_its_equation():
    torch.manual_seed(0)
    loss = ProCo([30, 10, 0], 16, out_dim=32, temperature=.2).double()
    z, y, _ = batch(dim=32, classes=2)
    R = loss.mean.norm(dim=1)
    scores = expected_partner(z, F.normalize(loss.mean, dim=1), R * 32 / (1 - R ** 2), .2)[:, :2]
    want = F.cross_entropy(scores + torch.tensor([.75, .25]).log(), y).item()
    assert loss.eval().loss(z, y).item() == pytest.approx(want, abs=1e-4)
    assert loss.loss(z[:1], torch.tensor([2])).item() == 0                # a class without clips: no term


def test_what_proco_has_counted_is_kept():
    torch.manual_seed(0)
    a, b, x, y = ProCo(COUNTS, 8), ProCo(COUNTS, 8), torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    a(x, y); b.load_state_dict(a.state_dict())
    assert torch.equal(a(x, y), b(x, y)) and {"mean", "n"} <= a.state_dict().keys()


# ---- all of them

@pytest.mark.parametrize("kind", KINDS)
def test_names_of_the_classes_and_rotations_do_not_matter(kind):
    torch.manual_seed(0)
    x, y = torch.randn(10, 8), torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    loss = kind(COUNTS, 8, **dict(k=99) if issubclass(kind, KCL) else {}).eval()
    order = torch.randperm(10)
    assert loss(x[order], y[order]).item() == pytest.approx(loss(x, y).item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_inside_is_done_in_16_bits(kind):
    torch.manual_seed(0)
    loss, x, y = kind(COUNTS, 8).eval(), torch.randn(10, 8).bfloat16(), torch.randint(3, (10,))
    draw = lambda f: (torch.manual_seed(1), f())[1]
    with torch.autocast("cpu", dtype=torch.bfloat16): low = draw(lambda: loss(x, y))
    assert low.dtype == torch.float32 and torch.equal(low, draw(lambda: loss(x.float(), y)))
    assert loss.double()(x, y).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_they_learn(kind):
    torch.manual_seed(0)
    loss, x, y = kind(COUNTS, 8), torch.randn(12, 8, requires_grad=True), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    opt, start = torch.optim.Adam([x, *loss.parameters()], lr=.02), loss(x, y).item()
    for _ in range(60): opt.zero_grad(); loss(x, y).backward(); opt.step()
    assert loss.eval()(x, y).item() < start - .4


def test_by_name():
    assert list(CONTRASTS) == ["mccl", "supcon", "bcl", "paco", "kcl", "tsc", "proco"] and CONTRASTS["supcon"] is SupCon


@pytest.mark.parametrize("make, message", [
    (lambda: PaCo([3, 1], 8, alpha=-1), "PaCo: alpha: expected a number"),
    (lambda: PaCo([0, 0], 8), "not all 0"),
    (lambda: KCL([3, 1], 8, k=0), "KCL: k: expected a whole number"),
    (lambda: TSC([3, 1], 8, k=1.5), "TSC: k: expected a whole number"),
    (lambda: TSC([1] * 9, 16, out_dim=4), "simplex: expected at least 8 dimensions for 9 classes, found 4"),
    (lambda: ProCo([3, 1], 8, out_dim=4), "ProCo: out_dim: expected a whole number"),
    (lambda: log_bessel(1, torch.ones(2)), "log_bessel: nu: expected a number"),
    (lambda: paco_terms(torch.randn(4, 7), torch.zeros(4).long(), torch.randn(2, 6)), "paco: expected features"),
    (lambda: ProCo([1, 2], 8)(torch.randn(4, 7), torch.zeros(4).long()), "ProCo: expected bag (B, 8)")])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(MicaclError) as e: make()
    assert message in str(e.value) and "\n" not in str(e.value)


# ---- several processes

def case():
    torch.manual_seed(3)
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 1, 0, 2, 2])
    return x, y, {k.__name__: k([3, 2, 3], 6, out_dim=8, **dict(k=99) if k is TSC else {}).double()
                  for k in (PaCo, TSC, ProCo)}


def half(rank):
    x, y, losses = case()
    out, x, y = {}, x.chunk(2)[rank].requires_grad_(), y.chunk(2)[rank]
    for name, loss in losses.items():
        x.grad = None
        value = torch.nn.parallel.DistributedDataParallel(loss)(x, y); value.backward()
        out[name] = value.detach(), x.grad / 2, loss.mean if name == "ProCo" else None
    return out


@needs_gloo
def test_two_processes_are_one(tmp_path):
    got = on_two_processes(half, tmp_path)
    x, y, losses = case()
    for name, loss in losses.items():
        x = x.detach().requires_grad_()
        value = loss(x, y); value.backward()
        for r in got: assert r[name][0].item() == pytest.approx(value.item())
        assert torch.allclose(torch.cat([r[name][1] for r in got]), x.grad, atol=1e-9)
        if name == "ProCo":
            for r in got: assert torch.allclose(r[name][2], loss.mean)


def test_pairs_know_columns_that_are_no_clips():
    P, A = pairs(torch.tensor([0, 1]), torch.tensor([0, 1, 0, 1]))
    assert P.tolist() == [[False, False, True, False], [False, False, False, True]] and A[0].tolist() == [
        False, True, True, True]
