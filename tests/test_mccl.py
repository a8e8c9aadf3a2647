"MCCL against slow float64 loops, hand values, and SupCon of pytorch-metric-learning."
import math
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pytorch_metric_learning.losses import SupConLoss
from micacl.core import MicaclError
from micacl.mccl import MCCL, category_weights, log_form, pairs, printed_form, temperature, unit_groups

DFEW_ALL = [2445, 1894, 2669, 2173, 1469, 145, 902]
DFEW_FOLD1 = [1956, 1515, 2135, 1738, 1175, 116, 721]
FERV39K = [5854, 5523, 7790, 5906, 2502, 1833, 1680]
COUNTS = [40, 12, 4]

def batch(n=12, dim=16, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=torch.float64), torch.randint(classes, (n,), generator=g)

def slow(x, y, counts, scales, tau0, form, kind, projections=None):
    "The equations as loops over plain Python floats."
    C, big = len(counts), max(counts)
    tau = tau0 / C * sum(1 + n / big for n in counts)
    raw = {"none": [1.] * C, "inverse": [1 / n for n in counts], "effective": [.001 / (1 - .999**n) for n in counts]}[kind]
    W = raw if kind == "none" else [C * r / sum(raw) for r in raw]
    x, y, B, total = x.tolist(), y.tolist(), len(x), 0.
    for s in scales:
        def groups(row, s=s):
            out, d = [], len(row) // s
            for g in range(s):
                part = row[g*d:(g + 1)*d]
                if projections is not None:
                    rows = projections[s].tolist()  # (out, dim/s); group g owns rows g*out/s ...
                    o = len(rows) // s
                    part = [sum(r * v for r, v in zip(rows[g*o + k], part)) for k in range(o)]
                norm = math.sqrt(sum(v * v for v in part))
                out.append([v / norm for v in part])
            return out
        z = [groups(row) for row in x]
        S = [[sum(sum(a * b for a, b in zip(zi[g], zj[g])) for g in range(s)) / s / tau for zj in z] for zi in z]
        terms = []
        for i in range(B):
            P = [j for j in range(B) if j != i and y[j] == y[i]]
            down = sum(math.exp(S[i][k]) for k in range(B) if k != i)
            if form == "printed": terms.append(-sum(W[y[j]] * math.exp(S[i][j]) for j in P) / down if P else 0.)
            elif P: terms.append(-sum(W[y[j]] * math.log(math.exp(S[i][j]) / down) for j in P) / len(P))
        total += sum(terms) / len(terms) if terms else 0.
    return total / len(scales)

# ---- temperature and weights

@pytest.mark.parametrize("n_c, tau", [(FERV39K, .1099), (DFEW_ALL, .1138), (DFEW_FOLD1, .1138)])
def test_temperature_of_the_real_sets(n_c, tau):
    assert round(temperature(n_c, .07), 4) == tau
    assert MCCL(n_c, 8).tau == pytest.approx(tau, abs=5e-5)

def test_temperature_limits():
    assert temperature([5] * 4, .1) == pytest.approx(.2)
    assert temperature([10**12, 1, 1, 1], .1) == pytest.approx(.1 * 1.25)
    assert temperature([10, 5]) == pytest.approx(.07 * 1.75)

@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_temperature_range_and_weights_sum(n_c):
    C = len(n_c)
    assert .07 * (1 + 1 / C) - 1e-9 <= temperature(n_c) <= .14 + 1e-9
    for kind in ("effective", "inverse", "none"):
        w = category_weights(n_c, kind)
        assert w.sum().item() == pytest.approx(C)
        if kind != "none": assert all(w[i] >= w[j] - 1e-12 for i in range(C) for j in range(C) if n_c[i] <= n_c[j])

def test_weights_by_hand():
    assert category_weights([1, 3], "inverse").tolist() == pytest.approx([1.5, .5])
    w = category_weights(DFEW_FOLD1)  # published check values, beta .999
    assert w.tolist() == pytest.approx([.47, .52, .46, .49, .59, 3.69, .79], abs=.01)
    w = category_weights(DFEW_FOLD1, beta=.9999)
    assert w.tolist() == pytest.approx([.29, .37, .27, .33, .47, 4.52, .75], abs=.01)

def test_a_class_without_clips_weighs_nothing_and_changes_nothing():
    for kind in ("effective", "inverse"):
        w = category_weights([8, 0, 2], kind)
        assert w[1] == 0 and w[[0, 2]].tolist() == pytest.approx(category_weights([8, 2], kind).tolist())
    assert math.isfinite(MCCL([8, 0, 2], 8)(torch.randn(4, 8), torch.tensor([0, 0, 1, 1])).item())

# ---- the two forms

def test_hand_values_at_known_angles():
    t = torch.tensor([0., 60, 90], dtype=torch.float64).deg2rad()
    z = torch.stack([t.cos(), t.sin()], 1)
    y, w = torch.tensor([0, 0, 1]), torch.tensor([2., 2, 5], dtype=torch.float64)
    e = math.exp
    p0, p1 = e(.5) / (e(.5) + 1), e(.5) / (e(.5) + e(math.sqrt(3) / 2))
    assert printed_form(z @ z.T, y, w).item() == pytest.approx(-2 * (p0 + p1) / 3)
    assert log_form(z @ z.T, y, w).item() == pytest.approx(-(math.log(p0) + math.log(p1)))

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("kind", ["none", "inverse", "effective"])
@pytest.mark.parametrize("scales", [(1,), (2,), (1, 2, 4)])
@pytest.mark.parametrize("out_dim", [None, 8])
def test_against_loops(form, kind, scales, out_dim):
    torch.manual_seed(1)
    loss = MCCL(COUNTS, 16, scales, .07, form, out_dim, kind).double()
    W = {s: loss.projections[str(s)].weight.detach()[:, :, 0] for s in scales} if out_dim else None
    for seed in (0, 1):
        x, y = batch(seed=seed)
        y[0] = 2; y[1:] = y[1:] % 2 if seed else y[1:]  # with seed 1, the first is the only one of its class
        w_slow = slow(x, y, COUNTS, scales, .07, form, kind, W)
        # class weights are kept in float32 by construction, hence 1e-6
        assert loss(x, y).item() == pytest.approx(w_slow, rel=1e-6)

def test_the_anchor_is_not_its_own_partner():
    P, A = pairs(torch.tensor([0, 0, 1]))
    assert P.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert A.int().tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    S = torch.randn(3, 3, dtype=torch.float64); w = torch.ones(3, dtype=torch.float64)
    for form in (log_form, printed_form):
        assert torch.equal(form(S, torch.tensor([0, 0, 1]), w), form(S + 50 * torch.eye(3), torch.tensor([0, 0, 1]), w))

def test_printed_form_is_bounded_and_reaches_its_bounds():
    y, w = torch.tensor([0, 0, 1, 1]), torch.tensor([3., 3, 1, 1])
    same = (y[:, None] == y).float()
    assert printed_form(1000 * same, y, w).item() == pytest.approx(-2.)
    assert printed_form(-1000 * same, y, w).item() == pytest.approx(0.)
    assert log_form(1000 * same, y, w).item() == pytest.approx(0.)
    assert log_form(-1000 * same, y, w).item() == pytest.approx((3 + 1) / 2 * (1000 + math.log(2)), rel=1e-5)

def test_gradient_of_both_forms_with_one_partner_and_one_stranger():
    for u in (-3., 0., 2.):
        S = torch.zeros(3, 3, dtype=torch.float64); S[0, 1] = u; S.requires_grad_()
        y, w = torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.float64)
        p = 1 / (1 + math.exp(-u))
        assert torch.autograd.grad(printed_form(S, y, w), S)[0][0, 1].item() == pytest.approx(-p * (1 - p) / 3)
        assert torch.autograd.grad(log_form(S, y, w), S)[0][0, 1].item() == pytest.approx(-(1 - p) / 2)

# ---- SupCon is a special case

@pytest.mark.parametrize("out_dim", [None, 8])
@pytest.mark.parametrize("seed", range(4))
def test_supcon_of_pytorch_metric_learning(out_dim, seed):
    torch.manual_seed(seed)
    loss = MCCL(COUNTS, 16, (1,), .07, "log", out_dim, "none").double()
    x, y = batch(20, classes=5, seed=seed)
    y = y.clamp(max=2); y[3] = 0
    want = SupConLoss(temperature=loss.tau)(loss.project(x, 1), y)
    assert loss(x, y).item() == pytest.approx(want.item(), abs=1e-6)

def test_supcon_at_every_scale_and_with_lonely_anchors():
    loss = MCCL([5, 5, 5], 16, (1, 2, 4), class_weight="none").double()
    x, _ = batch(7)
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2])  # the last has no partner
    want = [SupConLoss(temperature=loss.tau)(loss.project(x, s), y).item() for s in (1, 2, 4)]
    assert loss(x, y).item() == pytest.approx(sum(want) / 3, abs=1e-6)

# ---- scales

def test_unit_groups_is_the_mean_cosine_over_groups():
    x, _ = batch(5)
    for s in (1, 2, 4, 8):
        z = unit_groups(x, s)
        assert torch.allclose(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
        cos = [torch.nn.functional.cosine_similarity(x[0, g*16//s:(g+1)*16//s], x[1, g*16//s:(g+1)*16//s], dim=0) for g in range(s)]
        assert (z[0] @ z[1]).item() == pytest.approx(sum(cos).item() / s)

def test_each_group_has_a_projection_of_its_own():
    loss = MCCL(COUNTS, 16, (4,), out_dim=8).double()
    x, _ = batch(3)
    moved = x.clone(); moved[:, 4:8] += 1  # second of four groups
    changed = (loss.project(x, 4) - loss.project(moved, 4)).abs().amax(0) > 1e-9
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4

# ---- invariances

@pytest.mark.parametrize("form", ["log", "printed"])
def test_invariances(form):
    torch.manual_seed(0)
    loss = MCCL(COUNTS, 16, form=form, out_dim=8).double()
    x, y = batch()
    base = loss(x, y).item()
    order = torch.randperm(12)
    assert loss(x[order], y[order]).item() == pytest.approx(base)  # order of the batch
    assert loss(x * torch.rand(12, 1).double().add(.1), y).item() == pytest.approx(base)  # length of a feature
    Q = torch.linalg.qr(torch.randn(16, 16).double())[0]
    assert abs(loss(x @ Q, y).item() - base) > 1e-6  # a rotation before the projection is felt ...
    z, w = loss.project(x, 1), loss.W[y]
    Q = torch.linalg.qr(torch.randn(8, 8).double())[0]
    f = log_form if form == "log" else printed_form
    assert f(z @ Q @ (z @ Q).T / .1, y, w).item() == pytest.approx(f(z @ z.T / .1, y, w).item())  # ... after it, it is not

def test_weights_make_the_tail_louder():
    share = {}
    for kind in ("none", "effective", "inverse"):
        x, y = batch(23, 32, seed=3)
        x.requires_grad_(); y = torch.tensor([0] * 7 + [1] * 7 + [2] * 7 + [5] * 2)
        MCCL(DFEW_FOLD1, 32, class_weight=kind, out_dim=None).double()(x, y).backward()
        g = x.grad.norm(dim=1)
        share[kind] = (g[-2:].sum() / g.sum()).item()
    assert share["none"] + .1 < share["effective"] < share["inverse"]

# ---- awkward batches, precision, state

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("y", [[], [5], [0, 1, 2, 3]])
def test_no_pairs_gives_exact_zero_with_a_gradient_path(form, y):
    loss, x = MCCL(DFEW_ALL, 16, form=form, out_dim=8), torch.randn(len(y), 16, requires_grad=True)
    value = loss(x, torch.tensor(y, dtype=torch.long))
    assert value.item() == 0 and value.requires_grad
    value.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in loss.parameters())

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("y", [[5, 5], [0] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 1, 2, 3]])
def test_awkward_batches_are_finite(form, y):
    x = torch.randn(len(y), 16, requires_grad=True)
    value = MCCL(DFEW_ALL, 16, form=form, out_dim=8)(x, torch.tensor(y))
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    assert (value == 0) == (form == "log" and len(y) == 2)  # a pair alone in the world: all of the softmax is its own, -log 1 = 0

@pytest.mark.parametrize("form", ["log", "printed"])
def test_extreme_features_stay_finite(form):
    loss, y = MCCL(DFEW_ALL, 16, form=form, out_dim=8, tau0=.001), torch.tensor([0, 0, 1, 1])
    for x in (torch.zeros(4, 16), torch.ones(4, 16), 1e18 * torch.randn(4, 16), torch.randn(4, 16).sign() * torch.tensor([1., -1, 1, -1])[:, None]):
        x = x.requires_grad_()
        value = loss(x, y); value.backward()
        assert value.isfinite() and x.grad.isfinite().all()

@pytest.mark.parametrize("form", ["log", "printed"])
def test_gradcheck(form):
    torch.manual_seed(0)
    loss = MCCL(COUNTS, 8, (1, 2), form=form, out_dim=4).double()
    x, y = batch(5, 8)
    y = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x, *p: loss(x, y), (x.requires_grad_(), *loss.parameters()))

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_in_float32_out(dtype):
    loss, (x, y) = MCCL(DFEW_ALL, 16), batch()
    x = x.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16): low = loss(x, y)
    assert low.dtype == torch.float32
    assert torch.equal(low, loss(x.float(), y))  # nothing inside was done in 16 bits
    low.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in loss.parameters())

def test_projections_are_registered_and_kept():
    loss, (x, y) = MCCL(DFEW_ALL, 16), batch()
    assert {k: tuple(v.shape) for k, v in loss.state_dict().items()} == {f"projections.{s}.weight": (128, 16 // s, 1) for s in (1, 2, 4)}
    x = x.float()
    assert torch.equal(loss(x, y), loss(x, y))
    loss(x, y).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    other = MCCL(DFEW_ALL, 16)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(x, y), other(x, y))

def test_it_learns_to_separate():
    torch.manual_seed(0)
    x = torch.randn(30, 16, requires_grad=True)
    y = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
    for form in ("log", "printed"):
        loss, start = MCCL([20, 7, 3], 16, form=form, out_dim=None), None
        opt = torch.optim.Adam([x], lr=.05)
        for _ in range(25):
            value = loss(x, y); start = value.item() if start is None else start
            opt.zero_grad(); value.backward(); opt.step()
        assert value.item() < start

@pytest.mark.parametrize("options, message", [
    (dict(dim=250), "scale 4 does not divide dim 250"), (dict(out_dim=6), "scale 4 does not divide out_dim 6"),
    (dict(form="ln"), "found 'ln'"), (dict(class_weight="big"), "found 'big'"), (dict(scales=()), "at least one scale"),
    (dict(class_counts=[0, 0]), "not all 0"), (dict(class_counts=[3, -1]), "not negative"), (dict(scales=(0,)), "scale 0")])
def test_errors_are_one_line(options, message):
    with pytest.raises(MicaclError) as e: MCCL(**{"class_counts": DFEW_ALL, "dim": 16, **options})
    assert message in str(e.value) and "\n" not in str(e.value)

def test_wrong_shapes_are_one_line():
    loss = MCCL(DFEW_ALL, 16)
    for x, y in ((torch.randn(4, 8), torch.zeros(4).long()), (torch.randn(4, 16), torch.zeros(3).long()), (torch.randn(4, 2, 8), torch.zeros(4).long())):
        with pytest.raises(MicaclError, match=r"expected bag \(B, 16\)"): loss(x, y)
