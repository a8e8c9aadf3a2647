"MCCL against slow float64 loops, hand values, and SupCon of pytorch-metric-learning."
import math
import warnings
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pytorch_metric_learning.losses import SupConLoss
from helpers import needs_gloo, on_two_processes
from micacl.core import MicaclError
from micacl.mccl import (MCCL, category_weights, class_temperatures, log_form_in_blocks, printed_form, temperature,
                         unit_groups)
from micacl.nn.contrast import log_form, pairs
from micacl.nn.distributed import gather_batch

DFEW_ALL = [2445, 1894, 2669, 2173, 1469, 145, 902]
DFEW_FOLD1 = [1956, 1515, 2135, 1738, 1175, 116, 721]
FERV39K = [5854, 5523, 7790, 5906, 2502, 1833, 1680]
COUNTS = [40, 12, 4]

def batch(n=12, dim=16, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=torch.float64), torch.randint(classes, (n,), generator=g)

def make(*args, **options):
    "An MCCL whose weights, temperatures and parameters are float64 from the start."
    torch.set_default_dtype(torch.float64)
    try: return MCCL(*args, **options)
    finally: torch.set_default_dtype(torch.float32)

def slow(x, y, counts, scales, tau0, form, kind, projections=None, tau="printed", self_pairs=False, centres=None):
    "The equations as loops over plain Python floats; projections and centres: {scale: tensor}."
    C, big = len(counts), max(counts)
    taus = {"printed": [tau0 / C * sum(1 + n / big for n in counts)] * C, "fixed": [tau0] * C,
            "class": [tau0 * (2 - n / big) for n in counts]}[tau]
    raw = {"none": [1.] * C, "inverse": [1 / n if n else 0. for n in counts],
           "effective": [.001 / (1 - .999**n) if n else 0. for n in counts]}[kind]
    W = raw if kind == "none" else [sum(n > 0 for n in counts) * r / sum(raw) for r in raw]
    x, y, B, total = x.tolist(), y.tolist(), len(x), 0.
    for s in scales:
        def groups(row, project, s=s):
            out, d = [], len(row) // s
            for g in range(s):
                part = row[g*d:(g + 1)*d]
                if project:
                    rows = projections[s].tolist()  # (out, dim/s); group g owns rows g*out/s ...
                    o = len(rows) // s
                    part = [sum(r * v for r, v in zip(rows[g*o + k], part)) for k in range(o)]
                norm = math.sqrt(sum(v * v for v in part))
                out.append([v / norm for v in part])
            return out
        z = [groups(row, projections is not None) for row in x]
        to = [(z[k], y[k], k) for k in range(B)]   # feature, label, place in the batch
        if centres is not None:
            to += [(groups(row, False), c, None) for c, row in enumerate(centres[s].tolist()) if counts[c] > 0]
        terms = []
        for i in range(B):
            S = [sum(sum(a * b for a, b in zip(z[i][g], f[g])) for g in range(s)) / s / taus[y[i]] for f, _, _ in to]
            A = [k for k, (_, _, place) in enumerate(to) if self_pairs or place != i]
            P = [k for k in A if to[k][1] == y[i]]
            down = sum(math.exp(S[k]) for k in A)
            if form == "printed": terms.append(-sum(W[to[j][1]] * math.exp(S[j]) for j in P) / down if P else 0.)
            elif P: terms.append(-sum(W[to[j][1]] * math.log(math.exp(S[j]) / down) for j in P) / len(P))
        total += sum(terms) / len(terms) if terms else 0.
    return total / len(scales)

# ---- temperature and weights

@pytest.mark.parametrize("n_c, tau", [(FERV39K, .1099), (DFEW_ALL, .1138), (DFEW_FOLD1, .1138)])
def test_temperature_of_the_real_sets(n_c, tau):
    assert round(temperature(n_c, .07), 4) == tau
    assert MCCL(n_c, 8).tau.tolist() == pytest.approx([tau] * 7, abs=5e-5)

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

def test_class_temperatures():
    assert class_temperatures([10, 5, 0], .1, "class").tolist() == pytest.approx([.1, .15, .2])
    assert class_temperatures([10, 5, 0], .1, "fixed").tolist() == [.1] * 3
    assert class_temperatures([10, 5, 0], .1).tolist() == pytest.approx([.15] * 3)
    assert class_temperatures(DFEW_ALL, kind="class").dtype == torch.float64
    soft = class_temperatures(DFEW_ALL, kind="class").tolist()
    assert sorted(range(7), key=soft.__getitem__) == sorted(range(7), key=lambda c: -DFEW_ALL[c])  # reverse correlation
    with pytest.raises(MicaclError, match="found 'cold'"): class_temperatures([1, 2], kind="cold")

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
    for centres in (False, True):
        assert math.isfinite(MCCL([8, 0, 2], 8, centres=centres)(torch.randn(4, 8), torch.tensor([0, 0, 1, 1])).item())

# ---- the two forms

def test_hand_values_at_known_angles():
    t = torch.tensor([0., 60, 90], dtype=torch.float64).deg2rad()
    z = torch.stack([t.cos(), t.sin()], 1)
    y, w = torch.tensor([0, 0, 1]), torch.tensor([2., 2, 5], dtype=torch.float64)
    e = math.exp
    p0, p1 = e(.5) / (e(.5) + 1), e(.5) / (e(.5) + e(math.sqrt(3) / 2))
    assert printed_form(z @ z.T, *pairs(y), w).item() == pytest.approx(-2 * (p0 + p1) / 3)
    assert log_form(z @ z.T, *pairs(y), w).item() == pytest.approx(-(math.log(p0) + math.log(p1)))

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("kind", ["none", "inverse", "effective"])
@pytest.mark.parametrize("scales", [(1,), (2,), (1, 2, 4)])
@pytest.mark.parametrize("out_dim", [None, 8])
def test_against_loops(form, kind, scales, out_dim):
    torch.manual_seed(1)
    loss = make(COUNTS, 16, scales, .07, form, out_dim, kind, centres=False)
    W = {s: loss.projections[str(s)].weight.detach()[:, :, 0] for s in scales} if out_dim else None
    for seed in (0, 1):
        x, y = batch(seed=seed)
        y[0] = 2; y[1:] = y[1:] % 2 if seed else y[1:]  # with seed 1, the first is the only one of its class
        assert loss(x, y).item() == pytest.approx(slow(x, y, COUNTS, scales, .07, form, kind, W), rel=1e-12)

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("tau", ["printed", "fixed", "class"])
@pytest.mark.parametrize("self_pairs", [False, True])
@pytest.mark.parametrize("centres", [False, True])
@pytest.mark.parametrize("out_dim", [None, 8])
def test_options_against_loops(form, tau, self_pairs, centres, out_dim):
    torch.manual_seed(2)
    counts, scales = [40, 12, 0, 4], (1, 2, 4)   # nobody of class 2 is in training
    loss = make(counts, 16, scales, .2, form, out_dim, "inverse", tau, self_pairs, centres)
    W = {s: loss.projections[str(s)].weight.detach()[:, :, 0] for s in scales} if out_dim else None
    c = {s: loss.centres[str(s)].detach() for s in scales} if centres else None
    # lonely anchors, absent classes, one clip, an unknown class
    for y in ([0, 0, 0, 1, 1, 3], [0, 1, 3], [0, 0, 1, 1], [3], [0, 0, 2]):
        x, _ = batch(len(y))
        want = slow(x, torch.tensor(y), counts, scales, .2, form, "inverse", W, tau, self_pairs, c)
        assert loss(x, torch.tensor(y)).item() == pytest.approx(want, rel=1e-12, abs=1e-14)

def test_neither_form_looks_at_what_an_anchor_is_to_itself():
    P, A = pairs(torch.tensor([0, 0, 1]))
    S = torch.randn(3, 3, dtype=torch.float64); w = torch.ones(3, dtype=torch.float64)
    for form in (log_form, printed_form): assert torch.equal(form(S, P, A, w), form(S + 50 * torch.eye(3), P, A, w))

def test_printed_form_is_bounded_and_reaches_its_bounds():
    y, w = torch.tensor([0, 0, 1, 1]), torch.tensor([3., 3, 1, 1])
    same = (y[:, None] == y).float()
    assert printed_form(1000 * same, *pairs(y), w).item() == pytest.approx(-2.)
    assert printed_form(-1000 * same, *pairs(y), w).item() == pytest.approx(0.)
    assert log_form(1000 * same, *pairs(y), w).item() == pytest.approx(0.)
    assert log_form(-1000 * same, *pairs(y), w).item() == pytest.approx((3 + 1) / 2 * (1000 + math.log(2)), rel=1e-5)

def test_gradient_of_both_forms_with_one_partner_and_one_stranger():
    for u in (-3., 0., 2.):
        S = torch.zeros(3, 3, dtype=torch.float64); S[0, 1] = u; S.requires_grad_()
        y, w = torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.float64)
        p = 1 / (1 + math.exp(-u))
        assert torch.autograd.grad(printed_form(S, *pairs(y), w), S)[0][0, 1].item() == pytest.approx(-p * (1 - p) / 3)
        assert torch.autograd.grad(log_form(S, *pairs(y), w), S)[0][0, 1].item() == pytest.approx(-(1 - p) / 2)

# ---- SupCon is a special case

@pytest.mark.parametrize("out_dim", [None, 8])
@pytest.mark.parametrize("temperature", ["printed", "fixed"])
@pytest.mark.parametrize("seed", range(2))
def test_supcon_of_pytorch_metric_learning(out_dim, temperature, seed):
    torch.manual_seed(seed)
    loss = make(COUNTS, 16, (1,), .07, "log", out_dim, "none", temperature, centres=False)
    x, y = batch(20, classes=5, seed=seed)
    y = y.clamp(max=2); y[3] = 0
    want = SupConLoss(temperature=loss.tau[0].item())(loss.project(x, 1), y)
    assert loss(x, y).item() == pytest.approx(want.item(), abs=1e-6)

def test_supcon_at_every_scale_and_with_lonely_anchors():
    loss = make([5, 5, 5], 16, (1, 2, 4), class_weight="none", centres=False)
    x, _ = batch(7)
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2])  # the last has no partner
    want = [SupConLoss(temperature=loss.tau[0].item())(loss.project(x, s), y).item() for s in (1, 2, 4)]
    assert loss(x, y).item() == pytest.approx(sum(want) / 3, abs=1e-6)

@pytest.mark.parametrize("self_pairs", [False, True])
def test_supcon_with_centres_as_reference_points(self_pairs):
    torch.manual_seed(0)
    loss = make([5, 5, 5, 5], 16, (1,), out_dim=8, class_weight="none", temperature="fixed", self_pairs=self_pairs)
    x, _ = batch(7)
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2])   # 2 is lonely, 3 absent
    z, c = loss.project(x, 1), unit_groups(loss.centres["1"], 1)
    to, labels = torch.cat([z, c]), torch.cat([y, torch.arange(4)])
    # the oracle would compare an anchor with itself in ref_emb, so the pairs are named one by one
    P, A = pairs(y, labels, self_pairs)
    same = labels == y[:, None]
    assert torch.equal(P, same & A)
    named = (*P.nonzero(as_tuple=True), *(~same).nonzero(as_tuple=True))
    want = SupConLoss(temperature=.07)(z, y, indices_tuple=named, ref_emb=to, ref_labels=labels)
    assert loss(x, y).item() == pytest.approx(want.item(), abs=1e-6)
    if self_pairs:
        assert loss(x, y).item() == pytest.approx(SupConLoss(temperature=.07)(z, y, ref_emb=to,
            ref_labels=labels).item(), abs=1e-6)

# ---- what the options are for

@pytest.mark.parametrize("form", ["log", "printed"])
def test_a_lonely_anchor_moves_only_with_centres(form):
    y = torch.tensor([0, 1, 5])
    for centres in (False, True):
        torch.manual_seed(0)
        x = batch(3)[0].requires_grad_()
        make(DFEW_ALL, 16, form=form, out_dim=None, centres=centres)(x, y).backward()
        assert ((x.grad.abs().sum(1) > 1e-6).tolist() == [centres] * 3) and (centres or x.grad.abs().sum() == 0)

def test_pulled_to_the_own_centre_pushed_from_absent_classes():
    torch.manual_seed(0)
    loss = make(COUNTS, 16, (1,), out_dim=None)
    x, y = batch(2)[0].requires_grad_(), torch.tensor([2, 2])
    value = loss(x, y); value.backward()
    with torch.no_grad(): before, after = loss.cosines(x, 1), loss.cosines(x - .01 * x.grad, 1)
    assert (after[:, 2 + 2] > before[:, 2 + 2]).all()             # nearer to the own centre
    near = before[:, 2:4].argmax(1)                               # away from the nearer of the two absent classes
    assert all(after[i, 2 + k] < before[i, 2 + k] for i, k in enumerate(near.tolist()))

def test_centres_of_classes_without_clips_stay_out():
    torch.manual_seed(0)
    loss, (x, y) = make([8, 0, 2], 8, (1, 2), out_dim=None), batch(4, 8)
    y = torch.tensor([0, 0, 2, 2])
    value = loss(x, y); value.backward()
    assert all(p.grad[1].abs().sum() == 0 and p.grad[[0, 2]].abs().sum() > 0 for p in loss.centres.values())
    with torch.no_grad():
        for p in loss.centres.values(): p[1] += 1
    assert torch.equal(loss(x, y), value) and loss.cosines(x, 1).shape == (4, 4 + 2)

def test_centres_learn_where_their_class_is():
    torch.manual_seed(0)
    loss = MCCL([20, 7, 3], 16, out_dim=None)
    y = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
    x = 3 * torch.eye(16)[:3][y] + .1 * torch.randn(30, 16)
    opt = torch.optim.Adam(loss.parameters(), lr=.1)
    for _ in range(40): opt.zero_grad(); loss(x, y).backward(); opt.step()
    assert (loss.cosines(x, 1)[:, 30:].argmax(1) == y).all()

def test_temperature_of_a_class_belongs_to_the_anchor():
    loss = make([10, 5], 8, (1,), tau0=.1, form="printed", out_dim=None, class_weight="none", temperature="class",
                centres=False)
    x = torch.tensor([[1., 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]],
                     dtype=torch.float64)
    e, r = math.exp, math.sqrt(.5)
    p0, p2 = e(0 / .1) / (e(0 / .1) + e(r / .1)), e(r / .15) / (e(r / .15) + e(r / .15))
    got = loss(x, torch.tensor([0, 0, 1])).item(), loss(x, torch.tensor([0, 1, 1])).item()
    assert got[0] == pytest.approx(-(p0 + p0) / 3)                                      # two anchors of the large class
    assert got[1] == pytest.approx(-(e(r / .15) / (1 + e(r / .15)) + p2) / 3)           # two of the small one

def test_self_pairs_leave_the_printed_form_at_rest():
    x, y = batch(16, 32)
    norm = {}
    for self_pairs in (False, True):
        x = x.detach().requires_grad_()
        make(COUNTS, 32, (1,), form="printed", out_dim=None, self_pairs=self_pairs, centres=False)(x, y).backward()
        norm[self_pairs] = x.grad.norm().item()
    assert norm[True] < .2 * norm[False]

# ---- scales

def test_unit_groups_is_the_mean_cosine_over_groups():
    x, _ = batch(5)
    for s in (1, 2, 4, 8):
        z = unit_groups(x, s)
        assert torch.allclose(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
        cos = [torch.nn.functional.cosine_similarity(x[0, g*16//s:(g+1)*16//s], x[1, g*16//s:(g+1)*16//s], dim=0)
               for g in range(s)]
        assert (z[0] @ z[1]).item() == pytest.approx(sum(cos).item() / s)

def test_each_group_has_a_projection_of_its_own():
    loss = MCCL(COUNTS, 16, (4,), out_dim=8).double()
    x, _ = batch(3)
    moved = x.clone(); moved[:, 4:8] += 1  # second of four groups
    changed = (loss.project(x, 4) - loss.project(moved, 4)).abs().amax(0) > 1e-9
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4

# ---- invariances

OPTIONS = [dict(centres=False), dict(), dict(temperature="class"), dict(temperature="class", self_pairs=True),
           dict(temperature="fixed", self_pairs=True, centres=False)]

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_invariances(form, options):
    torch.manual_seed(0)
    loss = make(COUNTS, 16, form=form, out_dim=8, **options)
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
    # ... after it, it is not
    assert f(z @ Q @ (z @ Q).T / .1, *pairs(y), w).item() == pytest.approx(f(z @ z.T / .1, *pairs(y), w).item())

def test_weights_make_the_tail_louder():
    share = {}
    for kind in ("none", "effective", "inverse"):
        x, y = batch(23, 32, seed=3)
        x.requires_grad_(); y = torch.tensor([0] * 7 + [1] * 7 + [2] * 7 + [5] * 2)
        MCCL(DFEW_FOLD1, 32, class_weight=kind, out_dim=None, centres=False).double()(x, y).backward()
        g = x.grad.norm(dim=1)
        share[kind] = (g[-2:].sum() / g.sum()).item()
    assert share["none"] + .1 < share["effective"] < share["inverse"]

# ---- awkward batches, precision, state

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("y", [[], [5], [0, 1, 2, 3]])
def test_no_pairs_gives_exact_zero_with_a_gradient_path(form, y):
    loss, x = MCCL(DFEW_ALL, 16, form=form, out_dim=8, centres=False), torch.randn(len(y), 16, requires_grad=True)
    value = loss(x, torch.tensor(y, dtype=torch.long))
    assert value.item() == 0 and value.requires_grad
    value.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in loss.parameters())

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("self_pairs", [False, True])
@pytest.mark.parametrize("y", [[], [5], [0, 1, 2, 3]])
def test_no_pairs_with_centres(form, self_pairs, y):
    loss, x = MCCL(DFEW_ALL, 16, form=form, out_dim=8, self_pairs=self_pairs), torch.randn(len(y), 16,
        requires_grad=True)
    value = loss(x, torch.tensor(y, dtype=torch.long)); value.backward()
    assert (value.isfinite() and (value != 0) == bool(y) and x.grad.isfinite().all()
            and bool(x.grad.abs().sum() > 0) == bool(y))
    assert all(p.grad is not None and p.grad.isfinite().all() and bool(p.grad.abs().sum() > 0) == bool(y)
               for p in loss.parameters())

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("y", [[5, 5], [0] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 1, 2, 3]])
def test_awkward_batches_are_finite(form, options, y):
    x = torch.randn(len(y), 16, requires_grad=True)
    value = MCCL(DFEW_ALL, 16, form=form, out_dim=8, **options)(x, torch.tensor(y))
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    if options == dict(centres=False):
        assert (value == 0) == (form == "log" and len(y) == 2)  # a pair alone in the world: -log 1 = 0

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_extreme_features_stay_finite(form, options):
    loss, y = MCCL(DFEW_ALL, 16, form=form, out_dim=8, tau0=.001, **options), torch.tensor([0, 0, 1, 1])
    for x in (torch.zeros(4, 16), torch.ones(4, 16), 1e18 * torch.randn(4, 16),
              torch.randn(4, 16).sign() * torch.tensor([1., -1, 1, -1])[:, None]):
        x = x.requires_grad_()
        value = loss(x, y); value.backward()
        assert value.isfinite() and x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in loss.parameters())

@pytest.mark.parametrize("form", ["log", "printed"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(form, options):
    torch.manual_seed(0)
    loss = make(COUNTS, 8, (1, 2), form=form, out_dim=4, **options)
    x, y = batch(5, 8)
    y = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x, *p: loss(x, y), (x.requires_grad_(), *loss.parameters()))

@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_in_float32_out(dtype):
    loss, (x, y) = MCCL(DFEW_ALL, 16, temperature="class"), batch()
    x = x.to(dtype)
    with torch.autocast("cpu", dtype=dtype): low = loss(x, y)
    assert low.dtype == torch.float32
    assert torch.equal(low, loss(x.float(), y))  # nothing inside was done in 16 bits
    low.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in loss.parameters())

def test_projections_and_centres_are_registered_and_kept():
    loss, (x, y) = MCCL(DFEW_ALL, 16), batch()
    saved = {k: tuple(v.shape) for k, v in loss.state_dict().items()}
    assert saved == {f"projections.{s}.weight": (128, 16 // s, 1) for s in (1, 2, 4)} | {f"centres.{s}": (7, 128)
        for s in (1, 2, 4)}
    assert list(MCCL(DFEW_ALL, 16, out_dim=None).state_dict()) == ["centres.1", "centres.2", "centres.4"]
    assert not MCCL(DFEW_ALL, 16, out_dim=None, centres=False).state_dict()
    torch.manual_seed(5); a = MCCL(DFEW_ALL, 16)
    torch.manual_seed(5); b = MCCL(DFEW_ALL, 16, centres=False)
    # the option changes no other start
    assert all(torch.equal(p, q) for p, q in zip(a.projections.parameters(), b.parameters()))
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
    for form, centres in (("log", False), ("printed", False), ("log", True), ("printed", True)):
        loss, start = MCCL([20, 7, 3], 16, form=form, out_dim=None, centres=centres), None
        opt = torch.optim.Adam([x], lr=.05)
        for _ in range(25):
            value = loss(x, y); start = value.item() if start is None else start
            opt.zero_grad(); value.backward(); opt.step()
        assert value.item() < start

@pytest.mark.parametrize("options, message", [
    (dict(dim=250), "scale 4 does not divide dim 250"), (dict(out_dim=6), "scale 4 does not divide out_dim 6"),
    (dict(form="ln"), "found 'ln'"), (dict(class_weight="big"), "found 'big'"),
    (dict(temperature="warm"), "found 'warm'"), (dict(scales=()), "at least one scale"),
    (dict(class_counts=[0, 0]), "not all 0"), (dict(class_counts=[3, -1]), "not negative"),
    (dict(scales=(0,)), "a scale: expected a whole number of 1 or more, found 0")])
def test_errors_are_one_line(options, message):
    with pytest.raises(MicaclError) as e: MCCL(**{"class_counts": DFEW_ALL, "dim": 16, **options})
    assert message in str(e.value) and "\n" not in str(e.value)

def test_wrong_shapes_are_one_line():
    loss = MCCL(DFEW_ALL, 16)
    for x, y in ((torch.randn(4, 8), torch.zeros(4).long()), (torch.randn(4, 16), torch.zeros(3).long()),
                 (torch.randn(4, 2, 8), torch.zeros(4).long())):
        with pytest.raises(MicaclError, match=r"expected bag \(B, 16\)"): loss(x, y)

# ---- several processes

def distributed_case():
    """The same loss, encoder and batch of 8 on every process; class 2 has one member in each half, class 3 one
    member at all."""
    torch.manual_seed(3)
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 1, 0, 2, 3])
    return torch.nn.Linear(6, 16).double(), x, y

def losses():
    for form in ("log", "printed"):
        for options in (dict(), dict(centres=False, self_pairs=True, temperature="class")): yield form, options

def half(rank):
    ddp, out, (encoder, x, y) = torch.nn.parallel.DistributedDataParallel, [], distributed_case()
    encoder, x, y = ddp(encoder), x.chunk(2)[rank].requires_grad_(), y.chunk(2)[rank]
    assert torch.equal(gather_batch(y), distributed_case()[2])
    for form, options in losses():
        torch.manual_seed(4)
        loss = ddp(make([40, 12, 4, 2], 16, form=form, out_dim=8, **options))
        for m in (encoder, loss): m.zero_grad()
        x.grad = None
        value = loss(encoder(x), y); value.backward()
        out.append((value.detach(), x.grad / 2, [p.grad.clone() for m in (encoder, loss) for p in m.parameters()]))
    return out

@needs_gloo
def test_two_processes_are_exactly_one(tmp_path):
    got = on_two_processes(half, tmp_path)
    for k, (form, options) in enumerate(losses()):
        (encoder, x, y), _ = distributed_case(), torch.manual_seed(4)
        loss = make([40, 12, 4, 2], 16, form=form, out_dim=8, **options)
        value = loss(encoder(x.requires_grad_()), y); value.backward()
        params = [p.grad for m in (encoder, loss) for p in m.parameters()]
        assert len(params) == 2 + 3 + 3 * bool(loss.centres) and all(g.abs().sum() > 0 for g in params)
        for rank in range(2):
            there, x_grad, grads = got[rank][k]
            assert there.item() == pytest.approx(value.item(), abs=1e-12)
            assert torch.allclose(x_grad, x.grad.chunk(2)[rank], atol=1e-12, rtol=1e-9)
            assert all(torch.allclose(a, b, atol=1e-12, rtol=1e-9) for a, b in zip(grads, params, strict=True))

def test_one_process_gathers_nothing():
    x = torch.randn(3, 2)
    assert gather_batch(x) is x

# ---- the centres as a classifier

def test_nearest_centre_by_hand():
    torch.manual_seed(0)
    m, x = MCCL([5, 0, 3], 8, scales=(1, 2), out_dim=4), torch.randn(3, 8)
    near = m.nearest(x)
    for i in range(3):
        for c in (0, 2):
            want = 0.
            for s in (1, 2):
                z, k = m.projections[str(s)](x[i][None, :, None])[0, :, 0], m.centres[str(s)][c]
                for g in range(s):
                    a, b = z[g*4//s:(g + 1)*4//s], k[g*4//s:(g + 1)*4//s]
                    want += (a @ b / a.norm() / b.norm()).item() / s / 2
            assert near[i, c].item() == pytest.approx(want, abs=1e-5)
    assert (near[:, 1] == -1).all() and not near.requires_grad
    with pytest.raises(MicaclError, match="expected class centres"): MCCL([5, 3], 8, centres=False).nearest(x)

def test_trained_centres_sort_what_they_were_trained_on():
    torch.manual_seed(0)
    y = torch.tensor([0] * 40 + [1] * 12 + [2] * 4)
    x, m = torch.randn(56, 16) + 2 * torch.randn(3, 16)[y], MCCL([40, 12, 4], 16, out_dim=8)
    opt = torch.optim.Adam(m.parameters(), lr=.05)
    for _ in range(200): opt.zero_grad(); m(x, y).backward(); opt.step()
    assert (m.nearest(x).argmax(1) == y).float().mean() > .95

# ---- large batches

@pytest.mark.parametrize("options", [{}, dict(centres=False), dict(self_pairs=True),
                                     dict(temperature="class", class_weight="inverse"),
                                     dict(out_dim=None, scales=(1,))], ids=str)
def test_blocks_give_the_plain_form_and_its_gradient(options):
    counts = [900, 200, 3, 0, 1]
    mccl, (x, y) = make(counts, 16, **{"out_dim": 8, **options}), batch(1100, 16, 3)
    y[0] = 4                                                # alone in the batch
    columns = torch.cat([y, mccl.classes]) if mccl.centres else y
    P, A = pairs(y, columns, mccl.self_pairs)
    def plain(x):
        return sum(log_form(mccl.cosines(x, s) / mccl.tau[y, None], P, A, mccl.W[y])
                   for s in mccl.scales) / len(mccl.scales)
    out = []
    for loss in (plain, lambda x: mccl(x, y)):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        out.append([value.detach(), *torch.autograd.grad(value, [leaf, *mccl.parameters()])])
    for a, b in zip(*out): torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_large_batch_keeps_no_table():
    mccl, x, y = MCCL(COUNTS, 16, out_dim=8), torch.randn(1500, 16, requires_grad=True), torch.arange(1500) % 3
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t): mccl(x, y)
    assert max(sizes) < 1500 * 100


# ---- what the checks let through and what they refuse

@pytest.mark.parametrize("beta", [1., 1.5, -.1])
def test_beta_lies_between_nothing_and_one(beta):
    with pytest.raises(MicaclError, match="^beta: expected a number from 0 to below 1, found"):
        category_weights(COUNTS, "effective", beta)


@pytest.mark.parametrize("tau0", [0, 1e-7, 1e7])
@pytest.mark.parametrize("of", [temperature, class_temperatures, lambda n, t: class_temperatures(n, t, "fixed"),
                                lambda n, t: class_temperatures(n, t, "class")])
def test_a_base_temperature_can_be_divided_by(of, tau0):
    with pytest.raises(MicaclError, match="^tau0: expected a number from 1e-06 to below 1e[+]06, found"):
        of(COUNTS, tau0)


def test_the_base_temperature_is_that_of_the_loss():
    assert class_temperatures(COUNTS, kind="fixed").tolist() == [.07] * 3
    assert MCCL(COUNTS, 8, temperature="fixed").tau.tolist() == pytest.approx([.07] * 3)


def test_a_class_with_one_clip_has_a_centre_and_one_without_has_none():
    loss = MCCL([5, 1, 0], 8)
    assert loss.classes.tolist() == [0, 1] and loss.features(torch.randn(2, 8), 1)[1].shape[0] == 2 + 2


@pytest.mark.parametrize("options, said", [
    (dict(dim=0), "dim: expected a whole number of 1 or more, found 0"),
    (dict(dim=None), "dim: expected a whole number"),
    (dict(dim=8.), "dim: expected a whole number of 1 or more, found 8.0"),
    (dict(out_dim=0), "out_dim: expected a whole number of 1 or more, found 0"),
    (dict(out_dim=12.), "out_dim: expected a whole number"),
    (dict(dim=6), "scale 4 does not divide dim 6"), (dict(out_dim=6), "scale 4 does not divide out_dim 6")])
def test_widths_are_whole_and_divided_by_the_scales(options, said):
    with pytest.raises(MicaclError, match=f"^MCCL: {said}"): MCCL(COUNTS, **{"dim": 8, **options})


def test_the_smallest_loss_has_one_dimension():
    loss = MCCL(COUNTS, 1, scales=(1,), out_dim=1)
    assert loss(torch.tensor([[2.], [-1.], [3.]]), torch.tensor([0, 1, 0])).isfinite()


def test_the_printed_form_says_which_way_its_softmax_goes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        printed_form(torch.randn(3, 4), *pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1, 1])), torch.ones(3))


def test_in_blocks_an_anchor_is_no_partner_of_its_own_unless_asked():
    z, y = torch.nn.functional.normalize(torch.randn(5, 4), dim=1), torch.tensor([0, 0, 1, 1, 2])
    given = (z, z, y, y, torch.full((5, 1), .2), torch.ones(5))
    for self_pairs in (False, True):
        P, A = pairs(y, y, self_pairs)
        table = log_form(z @ z.T / .2, P, A, torch.ones(5))
        assert log_form_in_blocks(*given, self_pairs).item() == pytest.approx(table.item(), abs=1e-5)
    assert log_form_in_blocks(*given).item() == log_form_in_blocks(*given, False).item()


def test_in_blocks_one_anchor_with_a_partner_is_a_mean_over_one():
    z, columns = torch.tensor([[1., 0]]), torch.tensor([[1., 0], [0, 1.], [-1., 0]])
    got = log_form_in_blocks(z, columns, torch.tensor([0]), torch.tensor([0, 0, 1]), torch.ones(1, 1), torch.ones(1))
    assert got.item() == pytest.approx(math.log(math.exp(0) + math.exp(-1)) - 0)      # minus the log share of column 1


@pytest.mark.parametrize("labels, columns", [(2, 3), (3, 2)])
def test_in_blocks_every_row_and_column_has_a_label(labels, columns):
    z = torch.randn(3, 4)
    with pytest.raises(MicaclError, match="expected a label for each of 3 features and 3 columns, found"):
        log_form_in_blocks(z, z, torch.zeros(labels).long(), torch.zeros(columns).long(), torch.ones(3, 1),
                           torch.ones(3))
