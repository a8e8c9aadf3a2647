"Losses that know the counts: slow float64 loops, limits, invariants, scikit-learn and PyTorch as oracles."
import math
import warnings
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from sklearn.utils.class_weight import compute_class_weight
from micacl.core import MicaclError
from micacl.longtail.losses import (LDAM, LOSSES, BalancedSoftmax, ClassBalanced, CrossEntropy, Focal, LogitAdjusted,
                                    WeightedCE, adjust_logits,
                           build_loss, log_prior)

DFEW = [1956, 1515, 2135, 1738, 1175, 116, 721]   # fold 1
COUNTS = [40, 7, 1, 12]
WITHOUT = [40, 0, 1, 12]                          # class 1 does not occur
EVERY = [(name, cls) for name, cls in LOSSES.items() if name != "ldam_drw"]

@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

def batch(n=17, C=4, seed=0, scale=3.):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, C, generator=g), torch.randint(C, (n,), generator=g)

# ---- the formulas as loops over Python floats

def softmax(f):
    e = [math.exp(v - max(f)) for v in f]
    return [v / sum(e) for v in e]

def smoothed_ce(f, y, eps):
    return -sum(((1 - eps) * (c == y) + eps / len(f)) * math.log(p) for c, p in enumerate(softmax(f)))

def scaled(raw): return [w * sum(r > 0 for r in raw) / sum(raw) for w in raw]

def slow(name, logits, y, n, eps=0., beta=.999, gamma=2., alpha=None, margin=.5, s=30., tau=1., drw=False):
    total = 0.
    rarest = min(k for k in n if k)
    inverse, effective = scaled([1 / k if k else 0. for k in n]), lambda b: scaled([(1 - b) / (1 - b**k) if k else 0.
        for k in n])
    w = ({"weighted": inverse, "class_balanced": effective(beta), "ldam": effective(.9999) if drw else None}.get(name)
         or [1.] * len(n))
    for f, c in zip(logits.tolist(), y.tolist()):
        if name == "focal":
            p = softmax(f)[c]
            total += -(alpha[c] if alpha else 1.) * (1 - p)**gamma * math.log(p)
            continue
        if name == "ldam":
            f = [v - s * margin * (rarest / n[c])**.25 * (k == c) if n[c] else v for k, v in enumerate(f)]
        if name == "logit_adjusted":
            f = [v + tau * math.log(max(k, 1) / sum(max(m, 1) for m in n)) for v, k in zip(f, n)]
        if name == "balanced_softmax": f = [v + math.log(max(k, 1)) for v, k in zip(f, n)]
        total += w[c] * smoothed_ce(f, c, eps)
    return total / len(y)

@pytest.mark.parametrize("n", [COUNTS, WITHOUT])
@pytest.mark.parametrize("name, cls", EVERY)
def test_formula(name, cls, n):
    f, y = batch()
    assert cls(n)(f, y).item() == pytest.approx(slow(name, f, y, n), rel=1e-12)
    if name != "focal": assert cls(n, .15)(f, y).item() == pytest.approx(slow(name, f, y, n, eps=.15), rel=1e-12)

@pytest.mark.parametrize("name, options", [("class_balanced", dict(beta=.7)),
                                           ("focal", dict(gamma=.5, alpha=[.2, 1., 3., .5])), ("focal", dict(gamma=5.)),
                                           ("logit_adjusted", dict(tau=.3)), ("logit_adjusted", dict(tau=2.))])
def test_formula_with_options(name, options):
    f, y = batch()
    assert LOSSES[name](COUNTS, **options)(f, y).item() == pytest.approx(slow(name, f, y, COUNTS, **options), rel=1e-12)

def test_ldam_options_and_deferred_weights():
    f, y = batch()
    loss = LDAM(COUNTS, max_margin=.2, scale=7., deferred=.8)
    for progress, drw in ((0., False), (.799, False), (.8, True), (1., True)):
        loss.progress = progress
        assert loss(f, y).item() == pytest.approx(slow("ldam", f, y, COUNTS, margin=.2, s=7., drw=drw), rel=1e-12)
    never = LDAM(COUNTS)
    assert never.progress == 1 and never.weights() is None

# ---- check values of DFEW fold 1

@pytest.mark.parametrize("found, expected", [
    (lambda: ClassBalanced(DFEW, beta=.999).W, [.47, .52, .46, .49, .58, 3.69, .79]),
    (lambda: ClassBalanced(DFEW, beta=.9999).W, [.29, .37, .27, .33, .47, 4.52, .75]),
    (lambda: LDAM(DFEW).margins, [.25, .26, .24, .25, .28, .50, .32]),
    (lambda: log_prior(DFEW), [-1.57, -1.82, -1.48, -1.68, -2.07, -4.39, -2.56])])
def test_dfew(found, expected): assert found().tolist() == pytest.approx(expected, abs=.0051)

# ---- limits

@pytest.mark.parametrize("loss", [ClassBalanced(COUNTS, beta=0), Focal(COUNTS, gamma=0),
                                  Focal(COUNTS, gamma=0, alpha=[1] * 4), LogitAdjusted(COUNTS, tau=0),
                                  LDAM(COUNTS, max_margin=0), LDAM(COUNTS, scale=0), WeightedCE([9] * 4),
                                  LogitAdjusted([9] * 4), BalancedSoftmax([9] * 4)])
def test_becomes_cross_entropy(loss):
    f, y = batch()
    # class-level buffers are made in 32 bits here
    assert loss(f, y).item() == pytest.approx(F.cross_entropy(f, y).item(), rel=1e-7)

@pytest.mark.parametrize("n", [COUNTS, WITHOUT, [10**6, 1, 3, 50]])
@pytest.mark.parametrize("smoothing", [0., .2])
def test_tau_1_is_balanced_softmax(n, smoothing):
    f, y = batch()
    assert LogitAdjusted(n, smoothing)(f, y).item() == pytest.approx(BalancedSoftmax(n, smoothing)(f, y).item(),
        rel=1e-12)

def test_beta_towards_1_is_inverse():
    assert ClassBalanced(DFEW, beta=1 - 1e-10).W.tolist() == pytest.approx(WeightedCE(DFEW).W.tolist(), rel=1e-5)

@pytest.mark.parametrize("smoothing", [0., .1, .5])
def test_smoothing_is_pytorchs(smoothing):
    f, y = batch()
    assert CrossEntropy(COUNTS, smoothing)(f, y).item() == pytest.approx(F.cross_entropy(f, y,
        label_smoothing=smoothing).item(), rel=1e-12)

# ---- other libraries

def test_weights_are_scikit_learns_balanced():
    y = np.repeat(np.arange(7), DFEW)
    w = compute_class_weight("balanced", classes=np.arange(7), y=y)
    assert WeightedCE(DFEW).W.tolist() == pytest.approx((7 * w / w.sum()).tolist())

@pytest.mark.parametrize("cls", [WeightedCE, ClassBalanced])
def test_mean_divides_by_the_clips(cls):
    f, y = batch()
    loss = cls(COUNTS)
    assert loss(f, y).item() == pytest.approx(F.cross_entropy(f, y, weight=loss.W, reduction="sum").item() / len(y))
    assert loss(f, y).item() == pytest.approx((F.cross_entropy(f, y, weight=loss.W) * loss.W[y].mean()).item())
    rare = torch.full((5,), 2)
    # PyTorch's mean would lose the weight
    assert loss(f[:5], rare).item() == pytest.approx((loss.W[2] * F.cross_entropy(f[:5], rare)).item())

def test_halves_of_a_batch_average_to_the_whole():
    f, y = batch(16)
    for name in LOSSES:
        loss = build_loss(name, COUNTS)
        assert (loss(f[:8], y[:8]) + loss(f[8:], y[8:])).item() / 2 == pytest.approx(loss(f, y).item())

# ---- gradients

@pytest.mark.parametrize("loss", [WeightedCE(COUNTS, .1), Focal(COUNTS, gamma=.5, alpha=[.2, 1, 3, .5]),
                                  Focal(COUNTS, gamma=2), LDAM(COUNTS, scale=5., deferred=.8),
                                  LogitAdjusted(COUNTS, .1, tau=1.5), BalancedSoftmax(COUNTS)])
def test_gradcheck(loss):
    f, y = batch(5)
    assert torch.autograd.gradcheck(lambda f: loss(f, y), f.requires_grad_())

@pytest.mark.parametrize("gamma", [0., .1, .5, 1., 2.])
@pytest.mark.parametrize("true", [50., 20., -50., 1e4])
def test_focal_gradient_is_finite_and_right_at_extreme_scores(true, gamma):
    """In 32 bits, against a difference quotient's limit written out: dL/df_y = p(1-p)^gamma gamma log p -
    (1-p)^(gamma+1)."""
    f = torch.tensor([[true, -true, -true]], dtype=torch.float32, requires_grad=True)
    loss = Focal([5, 5, 5], gamma=gamma)(f, torch.tensor([0]))
    loss.backward()
    assert loss.isfinite() and f.grad.isfinite().all()
    e = math.exp(-2 * true) if true < 300 else 0.
    others = 2 * e / (1 + 2 * e) if true > -300 else 1.
    p = 1 / (1 + 2 * e)
    expected = gamma * p * others**gamma * math.log(p) - others**(gamma + 1)
    assert f.grad[0, 0].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)

def test_focal_takes_p_from_the_scores():
    f, y, alpha = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([.25, 1.])
    ce = F.cross_entropy(f, y, weight=alpha, reduction="none")
    wrong = ((1 - (-ce).exp())**2 * ce).item()
    right = Focal([1, 1], alpha=alpha)(f, y).item()
    assert right == pytest.approx(.25 * .25 * math.log(2)) and right > 9 * wrong

@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_scores_in_few_bits(name, dtype):
    f = torch.tensor([[50., -50, 50, 0], [-50, 50, 50, 50], [50, 50, -50, -50]], dtype=dtype, requires_grad=True)
    loss = build_loss(name, COUNTS)(f, torch.tensor([0, 0, 2]))
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and f.grad.isfinite().all() and f.grad.dtype == dtype

def test_autocast_gives_32_bits():
    f, y = batch()
    low = f.bfloat16()
    for name in LOSSES:
        with torch.autocast("cpu", dtype=torch.bfloat16): loss = build_loss(name, COUNTS)(low, y)
        assert (loss.dtype == torch.float32 and loss.item()
                == pytest.approx(build_loss(name, COUNTS)(low.double(), y).item(), rel=1e-5))

# ---- invariants

@pytest.mark.parametrize("name", LOSSES)
def test_a_permutation_of_classes_changes_nothing(name):
    f, y = batch()
    order = torch.tensor([2, 0, 3, 1])                      # new class k is old class order[k]
    place = order.argsort()
    loss, other = build_loss(name, COUNTS), build_loss(name, torch.tensor(COUNTS)[order])
    assert other(f[:, order], place[y]).item() == pytest.approx(loss(f, y).item(), rel=1e-12)

@pytest.mark.parametrize("name", LOSSES)
def test_a_common_number_on_all_scores_changes_nothing(name):
    f, y = batch()
    assert build_loss(name, COUNTS)(f + 3, y).item() == pytest.approx(build_loss(name, COUNTS)(f, y).item(), rel=1e-9)

@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=12).filter(any), st.floats(0, .99999))
@settings(max_examples=50, deadline=None)
def test_weights_and_margins(n, beta):
    seen = [k > 0 for k in n]
    for W in (WeightedCE(n).W, ClassBalanced(n, beta=beta).W):
        assert W.sum().item() == pytest.approx(sum(seen)) and (W > 0).tolist() == seen
        assert all(W[i] >= W[j] - 1e-9 for i in range(len(n)) for j in range(len(n)) if 0 < n[i] <= n[j])
    m = LDAM(n).margins
    assert m.max().item() == pytest.approx(.5) and (m > 0).tolist() == seen
    assert (m[torch.tensor(seen)] * torch.tensor([float(k) for k in n if k])**.25).std(correction=0).item() < 1e-9
    assert log_prior(n).exp().sum().item() == pytest.approx(1)

# ---- classes that do not occur

@pytest.mark.parametrize("name", LOSSES)
def test_absent_class_stays_finite_and_never_gets_weight(name):
    f, _ = batch(4)
    f.requires_grad_()
    loss = build_loss(name, WITHOUT)
    value = loss(f, torch.tensor([0, 1, 2, 3]))             # a clip of it turns up
    value.backward()
    assert value.isfinite() and f.grad.isfinite().all()
    w = loss.weights()
    assert w is None or (w[1] == 0 and (f.grad[1] == 0).all())

def test_absent_class_leaves_the_others_alone():
    "What the others get is what they get in a data set without that class."
    for make in (lambda n: WeightedCE(n).W, lambda n: ClassBalanced(n).W, lambda n: LDAM(n).margins):
        full, rest = make(WITHOUT), make([40, 1, 12])
        assert full[1] == 0 and full[[0, 2, 3]].tolist() == pytest.approx(rest.tolist())

# ---- post hoc

def test_adjust_is_the_inverse_of_the_change_in_training():
    f, y = batch()
    for tau in (.5, 1., 2.):
        assert torch.allclose(adjust_logits(LogitAdjusted(COUNTS, tau=tau).change(f, y), COUNTS, tau), f)
    assert torch.allclose(adjust_logits(f, COUNTS).softmax(1), (f - torch.tensor(COUNTS).log()).softmax(1))

def test_adjust_is_bayes_rule():
    "Exact posteriors under the training shares become exact posteriors under the target's."
    g = torch.Generator().manual_seed(1)
    density, pi = torch.rand(30, 4, generator=g), torch.tensor(COUNTS) / sum(COUNTS)   # p(x|c)
    for rho in (torch.full((4,), .25), torch.tensor([.1, .2, .3, .4]), torch.tensor([.5, 0., .5, 0.])):
        found = adjust_logits((pi * density).log(), COUNTS, target=rho).softmax(1)
        assert torch.allclose(found, rho * density / (rho * density).sum(1, keepdim=True))
    assert torch.allclose(adjust_logits((pi * density).log(), COUNTS, target=[3, 3, 3, 3]).softmax(1),
                          adjust_logits((pi * density).log(), COUNTS).softmax(1))

def test_adjust_limits_and_shapes():
    f, _ = batch()
    assert torch.equal(adjust_logits(f, COUNTS, tau=0), f)
    assert torch.equal(adjust_logits(f, COUNTS, tau=0, target=[1, 0, 1, 1]), f)        # not 0 times infinity
    assert torch.allclose(adjust_logits(f, COUNTS, target=COUNTS), f)
    assert torch.allclose(adjust_logits(f.view(1, 17, 4), COUNTS)[0], adjust_logits(f, COUNTS))
    assert adjust_logits(f.bfloat16(), COUNTS).dtype == torch.float32
    assert adjust_logits(torch.zeros(1, 4), WITHOUT, target=[k > 0 for k in WITHOUT])[0, 1] == -math.inf

def test_training_with_adjustment_finds_the_balanced_boundary():
    "Two Gaussians at 50 : 1, a linear model fitted by each loss: log(50)/2 or 0."
    q = torch.distributions.Normal(0., 1.)
    n = (5000, 100)
    x = torch.cat([q.icdf((torch.arange(k) + .5) / k) + m for k, m in zip(n, (-1, 1))])
    X, y = torch.stack([x, torch.ones_like(x)], 1), torch.tensor([0, 1]).repeat_interleave(torch.tensor(n))
    for name, expected in dict(ce=math.log(50) / 2, focal=math.log(50) / 2, weighted=0., balanced_softmax=0.,
                               logit_adjusted=0.).items():
        W, loss = torch.zeros(2, 2, requires_grad=True), build_loss(name, n)
        opt = torch.optim.LBFGS([W], max_iter=100, line_search_fn="strong_wolfe")
        def closure(W=W, loss=loss, opt=opt):
            opt.zero_grad(); v = loss(X @ W, y); v.backward()
            return v
        opt.step(closure)
        slope, offset = (W[:, 1] - W[:, 0]).tolist()
        assert -offset / slope == pytest.approx(expected, abs=.05), name

# ---- by name, state, errors

def test_build_loss():
    assert set(LOSSES) == {"ce", "weighted", "class_balanced", "focal", "ldam", "ldam_drw", "balanced_softmax",
                           "logit_adjusted"}
    assert build_loss("ldam_drw", COUNTS).deferred == .8 and build_loss("ldam", COUNTS).deferred is None
    for name, cls in LOSSES.items(): assert type(build_loss(name, COUNTS)) is cls
    assert build_loss("ce", COUNTS, .1).smoothing == .1

@pytest.mark.parametrize("counts", [COUNTS, tuple(COUNTS), np.array(COUNTS), torch.tensor(COUNTS),
                                    torch.tensor(COUNTS).float()])
def test_counts_of_any_kind(counts):
    f, y = batch()
    assert WeightedCE(counts)(f, y).item() == pytest.approx(slow("weighted", f, y, COUNTS))

def test_nothing_goes_into_a_checkpoint_but_everything_moves():
    for name in LOSSES:
        loss = build_loss(name, COUNTS)
        assert not loss.state_dict() and not list(loss.parameters())
        assert all(b.device.type == "meta" and b.dtype == torch.float16
                   for b in loss.to("meta", torch.float16).buffers() if b is not None)
    assert {k for k, b in LDAM(COUNTS).named_buffers() if b is not None} == {"W", "margins"}

@pytest.mark.parametrize("make, text", [
    (lambda: build_loss("magic", COUNTS), "loss: expected one of ce"),
    (lambda: CrossEntropy([]), "class_counts"), (lambda: CrossEntropy([0, 0]), "class_counts"),
    (lambda: CrossEntropy([3, -1]), "class_counts"),
    (lambda: CrossEntropy([3, math.nan]), "class_counts"), (lambda: CrossEntropy([3, math.inf]), "class_counts"),
    (lambda: CrossEntropy([[3, 1]]), "class_counts"),
    (lambda: CrossEntropy([.9, .1]), "whole numbers"), (lambda: log_prior([.9, .1]), "whole numbers"),
    (lambda: CrossEntropy(5), "class_counts"),
    (lambda: CrossEntropy(COUNTS, 1.), "smoothing"), (lambda: CrossEntropy(COUNTS, -.1), "smoothing"),
    (lambda: CrossEntropy(COUNTS, math.nan), "smoothing"),
    (lambda: ClassBalanced(COUNTS, beta=1.), "beta"), (lambda: ClassBalanced(COUNTS, beta=-.1), "beta"),
    (lambda: LDAM(COUNTS, beta=1.), "beta"),
    (lambda: Focal(COUNTS, smoothing=.1), "label_smoothing=0"),
    (lambda: Focal(COUNTS, gamma=-1), "gamma: expected a number of 0 or more"),
    (lambda: Focal(COUNTS, alpha=[1, 2]), "alpha: expected 4"), (lambda: Focal(COUNTS, alpha=[1, 2, 3, -1]), "alpha"),
    (lambda: LDAM(COUNTS, max_margin=-.5), "max_margin"), (lambda: LDAM(COUNTS, scale=-1), "scale"),
    (lambda: LDAM(COUNTS, deferred=1.5), "deferred"),
    (lambda: LogitAdjusted(COUNTS, tau=-1), "tau"),
    (lambda: adjust_logits(torch.zeros(2, 3), COUNTS), "4 classes"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, target=[1, 1]), "target"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, target=[0] * 4), "target"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, target=[1, 1, 1, -1]), "target"),
    (lambda: CrossEntropy(COUNTS)(torch.zeros(2, 3), torch.tensor([0, 1])), r"CrossEntropy: expected scores \(B, 4\)"),
    (lambda: Focal(COUNTS)(torch.zeros(2, 4), torch.tensor([0])), "Focal: expected scores"),
    (lambda: LDAM(COUNTS)(torch.zeros(4), torch.tensor(0)), "LDAM: expected scores"),
    (lambda: WeightedCE(COUNTS)(torch.zeros(0, 4), torch.tensor([], dtype=torch.long)), "B above 0")])
def test_errors_say_what_to_mend(make, text):
    with pytest.raises(MicaclError, match=text) as e: make()
    assert "\n" not in str(e.value)

@pytest.mark.parametrize("make, said", [
    *[(lambda cls=cls: cls(COUNTS, None), "smoothing: expected a number from 0 to below 1, found None")
      for cls in set(LOSSES.values())],
    (lambda: Focal(COUNTS, gamma=-1), "gamma: expected a number of 0 or more, found -1"),
    (lambda: LDAM(COUNTS, max_margin=-1), "max_margin: expected a number of 0 or more, found -1"),
    (lambda: LDAM(COUNTS, scale=-1), "scale: expected a number of 0 or more, found -1"),
    (lambda: LDAM(COUNTS, deferred=1.), "deferred: expected a number from 0 to below 1, found 1.0"),
    (lambda: LogitAdjusted(COUNTS, tau=-1), "tau: expected a number of 0 or more, found -1"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, 1e6), "tau: expected a number from -1e[+]06 to below 1e[+]06"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, -1000000.5), "tau: expected a number from -1e[+]06 to below"),
    (lambda: adjust_logits(torch.zeros(2, 4), COUNTS, target=[1, 1]), "target: expected 4 class numbers, found 2"),
    (lambda: CrossEntropy(COUNTS)(torch.zeros(2, 3), [0, 1]), r".* as a tensor, found Tensor \(2, 3\)$"),
    (lambda: CrossEntropy(COUNTS)([[0., 0, 0, 0]], [0]), r".* as a tensor, found list \(\)$")])
def test_an_error_names_the_argument_and_what_was_found(make, said):
    with pytest.raises(MicaclError, match=f"^{said}"): make()

def test_post_hoc_adjustment_goes_both_ways():
    "A negative tau undoes a positive one, up to the largest that is allowed."
    f, _ = batch()
    for tau in (.5, 1000., 1e6 - 1):
        assert torch.allclose(adjust_logits(adjust_logits(f, COUNTS, tau), COUNTS, -tau), f)
    assert adjust_logits(f, COUNTS, -1e6).isfinite().all()

# ---- where a loss lives, and in what type

@pytest.mark.parametrize("name", LOSSES)
def test_labels_go_where_the_scores_are(name):
    "The device meta keeps shapes and no numbers, and refuses what lies elsewhere."
    loss = build_loss(name, COUNTS).to("meta")
    assert loss(torch.zeros(4, 4, device="meta"), [0, 1, 2, 3]).shape == ()

def test_what_a_loss_keeps_has_the_default_type():
    torch.set_default_dtype(torch.float32)      # some accelerators have no 64 bits
    for name in LOSSES:
        assert all(b.dtype == torch.float32 for b in build_loss(name, COUNTS).buffers() if b is not None), name

def test_weights_set_by_hand_are_used_and_not_saved():
    (f, y), loss, W = batch(), CrossEntropy(COUNTS), torch.tensor([1., 2, 5, 0])
    loss.W = W
    assert loss(f, y).item() == pytest.approx((W[y] * F.cross_entropy(f, y, reduction="none")).mean().item())
    assert not loss.state_dict()

@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_warns(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_loss(name, COUNTS)(*batch())
