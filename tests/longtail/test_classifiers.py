"Heads and second stages against scikit-learn, hand values, limits and invariants."
import copy
import math
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import nn
from micacl.core import MicaclError
from micacl.longtail.classifiers import (HEADS, STAGES, CentreHead, CosineLinear, PrototypeHead, learn_scales,
                                         nearest_mean, retrain, second_stage, tau_normalise)
from micacl.mccl import MCCL
from micacl.longtail.bcl import BCL
from micacl.longtail.losses import adjust_logits, build_loss
from micacl.longtail.parametric import PaCo
from micacl.nn.contrast import SupCon

COUNTS = [300, 80, 20]

def blobs(counts=COUNTS, seed=0, dim=4, spread=1.2):
    g, y = torch.Generator().manual_seed(seed), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return 2 * torch.eye(len(counts), dim)[y] + spread * torch.randn(len(y), dim, generator=g), y

def trained(x, y, C=3, seed=0):
    torch.manual_seed(seed)
    head = nn.Linear(x.shape[1], C)
    opt = torch.optim.Adam(head.parameters(), lr=.05)
    for _ in range(200): opt.zero_grad(); F.cross_entropy(head(x), y).backward(); opt.step()
    opt.zero_grad()
    return head

def recalls(calls, y): return torch.stack([(calls[y == c] == c).double().mean() for c in y.unique()])

def rng(): return torch.get_rng_state()

# ---- cosine head

def test_cosine_head_is_the_cosine():
    torch.manual_seed(0)
    head, x = CosineLinear(6, 4, scale=8.).double(), torch.randn(5, 6, dtype=torch.float64)
    want = 8 * F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    assert torch.allclose(head(x), want) and head(x).abs().max() <= 8
    assert torch.allclose(head(x * torch.rand(5, 1).double().add(.1)), want)          # length of a feature
    with torch.no_grad(): head.weight.mul_(torch.tensor([[.1], [1], [5], [30]]))
    assert torch.allclose(head(x), want)                                              # length of a weight
    assert torch.allclose(head(x[:, None]), want[:, None])                            # leading axes
    assert head(3 * head.weight[:1])[0, 0].item() == pytest.approx(8)
    assert head(torch.zeros(1, 6).double()).abs().max() == 0

def test_cosine_head_starts_as_a_linear_one_and_has_no_bias():
    torch.manual_seed(3); a = CosineLinear(6, 4)
    torch.manual_seed(3); b = nn.Linear(6, 4)
    assert torch.equal(a.weight, b.weight) and list(a.state_dict()) == ["weight"] and a.scale == 30
    assert HEADS == dict(linear=nn.Linear, cosine=CosineLinear, centres=CentreHead, prototypes=PrototypeHead)
    assert all(kind(8, 4)(torch.randn(2, 8)).shape == (2, 4) for kind in HEADS.values())

def test_cosine_head_gradient():
    torch.manual_seed(0)
    head = CosineLinear(4, 3, scale=2.).double()
    x, w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), head.weight
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(head, {"weight": w}, (x,)), (x, w))
    head(x)[:, 0].sum().backward()
    assert (x.grad * x).sum(1).abs().max() < 1e-12                                    # nothing to gain from a length

@pytest.mark.parametrize("scale", [0., -1., float("nan")])
def test_cosine_head_errors(scale):
    with pytest.raises(MicaclError, match="scale: expected a number"): CosineLinear(4, 3, scale=scale)

# ---- class centres

def test_centres_are_mean_cosines_by_hand():
    torch.manual_seed(0)
    head, x = CentreHead(8, 3, scale=7.).double(), torch.randn(5, 8, dtype=torch.float64)
    want = 0
    for s in (1, 2, 4):
        z = head.projections[str(s)](x[:, :, None])[:, :, 0].unflatten(1, (s, -1))      # (B, s, 128/s)
        mu = head.centres[str(s)].unflatten(1, (s, -1))                                 # (C, s, 128/s)
        want = want + F.cosine_similarity(z[:, None], mu[None], dim=3).mean(2) / 3
    assert torch.allclose(head(x), 7 * want) and head(x).abs().max() <= 7
    assert torch.allclose(head(x * torch.rand(5, 1).double().add(.1)), 7 * want)        # length of a feature
    assert torch.autograd.gradcheck(head, (torch.randn(2, 8, dtype=torch.float64, requires_grad=True),))

def test_a_shared_centre_is_one_parameter():
    head, loss = CentreHead(8, 3), MCCL([9, 5, 2], 8)
    head.share(loss)
    assert {id(p) for p in loss.parameters()} < {id(p) for p in head.parameters()}
    assert [n for n, _ in nn.ModuleList([head, loss]).named_parameters() if n.startswith("1.")] == []
    x = torch.randn(4, 8)
    assert torch.allclose(head(x).argsort(1), loss.nearest(x).argsort(1))
    one, alone = CentreHead(8, 3, scales=(1,)), MCCL([9, 5, 2], 8, scales=(1,))
    one.share(alone)
    assert {id(p) for p in alone.parameters()} < {id(p) for p in one.parameters()} and one(x).shape == (4, 3)
    head.share(other := nn.Linear(8, 3))                                                # no loss of centres: as it was
    assert isinstance(other, nn.Linear)

# ---- prototypes

def test_prototypes_are_cosines_by_hand():
    torch.manual_seed(0)
    head, x = PrototypeHead(8, 3, scale=7.).double(), torch.randn(5, 8, dtype=torch.float64)
    z = head.project[2](head.project[0](x).clamp(min=0))
    assert torch.allclose(head(x), 7 * F.cosine_similarity(z[:, None], head.prototypes[None], dim=2))
    assert torch.autograd.gradcheck(head, (torch.randn(2, 8, dtype=torch.float64, requires_grad=True),))

@pytest.mark.parametrize("kind", [PaCo, BCL])
def test_shared_prototypes_are_one_parameter_and_paco_alone_in_its_batch_is_balanced_softmax_on_the_head(kind):
    torch.manual_seed(0)
    head, loss = PrototypeHead(8, 3, scale=10.), kind([9, 5, 2], 8, temperature=.1)
    head.share(loss)
    assert {id(p) for p in loss.parameters()} < {id(p) for p in head.parameters()}
    if kind is PaCo:
        x, y = torch.randn(1, 8), torch.tensor([2])
        by_head = build_loss("balanced_softmax", [9, 5, 2])(head(x), y)
        assert loss(x, y).item() == pytest.approx(by_head.item(), abs=1e-5)

def test_a_loss_without_prototypes_shares_the_projection_alone():
    head, loss, mccl = PrototypeHead(8, 3), SupCon([9, 5, 2], 8), MCCL([9, 5, 2], 8)
    head.share(loss); head.share(mccl)
    assert loss.project is head.project and mccl.projections is not head.project
    with pytest.raises(MicaclError, match="head prototypes: expected a loss with the projection"):
        head.share(SupCon([9, 5, 2], 8, out_dim=16))

def test_every_head_can_be_made_without_memory():
    with torch.device("meta"): made = [kind(8, 3) for kind in HEADS.values()]
    assert all(p.is_meta for head in made for p in head.parameters())

@pytest.mark.parametrize("made, text", [
    (lambda: CentreHead(6, 3), "centres: expected features whose length 4 divides, found 6"),
    (lambda: CentreHead(8, 0), "centres: n_classes: expected"),
    (lambda: CentreHead(8, 3, scale=0), "centres: scale: expected a number"),
    (lambda: CentreHead(512, 3, scales=(256,)), "centres: expected scales that divide 128, found 256"),
    (lambda: CentreHead(8, 3, scales=(1, 3)), "centres: expected features whose length 3 divides, found 8"),
    (lambda: CentreHead(8, 3, scales=(1,)).share(MCCL([2, 2, 2], 8)), r"expected MCCL with its own scales \(1,\)"),
    *((lambda kw=kw: CentreHead(8, 3).share(MCCL([2, 2, 2], 8, **kw)), "head centres: expected MCCL with its own")
      for kw in (dict(scales=(1, 2)), dict(out_dim=64), dict(out_dim=None), dict(centres=False)))])
def test_centre_head_errors(made, text):
    with pytest.raises(MicaclError, match=text): made()

# ---- nearest mean

def test_nearest_mean_is_that_of_scikit_learn():
    for seed in range(3):
        x, y = blobs(seed=seed)
        t, _ = blobs([200] * 3, seed=10 + seed)
        W, b = nearest_mean(x, y, 3)
        theirs = NearestCentroid().fit(x.numpy(), y.numpy())
        assert torch.equal((t @ W.T + b).argmax(1), torch.as_tensor(theirs.predict(t.numpy())))
        assert torch.allclose(W / 2, torch.as_tensor(theirs.centroids_).float(), atol=1e-5)

def test_nearest_mean_by_hand():
    x, y = torch.tensor([[0., 0], [2, 0], [4, 3]]), torch.tensor([0, 0, 2])
    W, b = nearest_mean(x, y, 3)
    assert W.tolist() == [[2, 0], [0, 0], [8, 6]] and b[[0, 2]].tolist() == [-1, -25]
    scores, mu = x @ W.T + b, torch.tensor([[1., 0], [4, 3]])
    d = (x[:, None] - mu[None]).square().sum(2)
    assert torch.allclose(scores[:, [0, 2]], x.square().sum(1, keepdim=True) - d)     # |x|^2 - |x - mu|^2
    far = torch.tensor([[-1e4, 1e4]])
    assert ((far @ W.T + b).argmax(1) != 1 and F.cross_entropy((far @ W.T + b).expand(9, -1),
                                                               torch.ones(9, dtype=torch.long)).isfinite()
                                                               and b.bfloat16().isfinite().all())
    for dtype in (torch.float64, torch.bfloat16): assert nearest_mean(x.to(dtype), y, 3)[1].isfinite().all()

def test_nearest_mean_does_not_count():
    x, y = blobs()
    often = torch.cat([x, x[y == 0], x[y == 0]]), torch.cat([y, y[y == 0], y[y == 0]])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(nearest_mean(x, y, 3), nearest_mean(*often, 3)))

# ---- tau-normalisation

def test_tau_normalise_limits_and_between():
    torch.manual_seed(0)
    W = torch.randn(4, 6)
    assert torch.equal(tau_normalise(W, 0.)[0], W)
    assert torch.allclose(tau_normalise(W, 1.)[0].norm(dim=1), torch.ones(4))
    for tau in (.3, .7, 2.):
        V, b = tau_normalise(W, tau)
        assert torch.allclose(V.norm(dim=1), W.norm(dim=1) ** (1 - tau)) and torch.equal(b, torch.zeros(4))
        assert torch.allclose(F.cosine_similarity(V, W, dim=1), torch.ones(4))
    assert torch.equal(tau_normalise(W)[0], tau_normalise(W, .7)[0])
    assert tau_normalise(torch.zeros(2, 3), 1.)[0].abs().max() == 0                   # a weight of 0 stays 0
    x = torch.randn(50, 6)
    assert torch.equal((x @ tau_normalise(W, 1.)[0].T).argmax(1),
                       F.cosine_similarity(x[:, None], W[None], dim=2).argmax(1))

# ---- learning again

def test_retrain_is_close_to_balanced_logistic_regression():
    for seed in range(3):
        x, y = blobs(seed=seed)
        t, yt = blobs([2000] * 3, seed=20 + seed)
        W, b = retrain(x, y, 3, seed)
        mine = recalls((t @ W.T + b).argmax(1), yt)
        theirs = recalls(torch.as_tensor(LogisticRegression(class_weight="balanced", C=1e4, max_iter=2000).fit(x,
            y).predict(t)), yt)
        first = recalls(trained(x, y)(t).argmax(1), yt)
        assert (mine - theirs).abs().max() < .06 and mine.mean() > first.mean() + .05 and mine[2] > first[2] + .2

def test_retrain_learns_from_few_clips():
    x, y = blobs([30, 8, 4], spread=.2)
    W, b = retrain(x, y, 3)
    assert ((x @ W.T + b).argmax(1) == y).all()

def test_learn_scales_leaves_directions_and_balances():
    x, y = blobs()
    head = trained(x, y)
    t, yt = blobs([2000] * 3, seed=30)
    W, b = learn_scales(head.weight, head.bias, x, y)
    assert torch.allclose(F.cosine_similarity(W, head.weight.detach(), dim=1), torch.ones(3), atol=1e-6)
    assert torch.equal(b, head.bias.detach()) and not b.requires_grad and not W.requires_grad
    before, after = recalls(head(t).argmax(1), yt), recalls((t @ W.T + b).argmax(1), yt)
    assert after[2] > before[2] + .1 and after.mean() > before.mean()
    f = W.norm(dim=1) / head.weight.detach().norm(dim=1)
    balanced = lambda f: sum(F.cross_entropy((x @ head.weight.detach().T * f + b)[y == c], y[y == c]).item()
                             for c in range(3))
    assert balanced(f) < balanced(torch.ones(3))
    # near the bottom: a step in any length makes it worse
    for c in range(3):
        for step in (.7, 1.4): assert balanced(f * torch.where(torch.arange(3) == c, step, 1.)) > balanced(f)

@pytest.mark.parametrize("fit", [lambda x, y, s: retrain(x, y, 3, s), lambda x, y,
                                 s: learn_scales(torch.eye(3, 4), torch.zeros(3), x, y, s)])
def test_learning_is_a_function_of_the_seed_alone(fit):
    x, y = blobs()
    torch.manual_seed(1); before = rng(); a = fit(x, y, 7); assert torch.equal(before, rng())
    torch.manual_seed(2); b, c = fit(x, y, 7), fit(x, y, 8)
    assert all(torch.equal(p, q) for p, q in zip(a, b)) and not torch.equal(a[0], c[0])
    with torch.no_grad(): assert torch.equal(fit(x, y, 7)[0], a[0])
    grown = (x * 1).requires_grad_()
    assert torch.equal(fit(grown, y, 7)[0], a[0]) and grown.grad is None

# ---- one function for all

def test_second_stage_puts_the_right_numbers_into_the_head():
    x, y = blobs()
    head = trained(x, y)
    W, b = head.weight.detach().clone(), head.bias.detach().clone()
    want = dict(none=(W, b), crt=retrain(x, y, 3, 4), lws=learn_scales(W, b, x, y, 4), tau_norm=tau_normalise(W),
                nearest_mean=nearest_mean(x, y, 3),
                logit_adjusted=(W, b - torch.tensor([math.log(n / 400) for n in COUNTS])))
    assert tuple(want) == STAGES
    for kind, (V, c) in want.items():
        h = copy.deepcopy(head)
        parameters = list(h.parameters())
        assert second_stage(kind, h, x, y, COUNTS, seed=4) is None
        # in place: an optimizer still holds them
        assert all(p is q for p, q in zip(parameters, h.parameters()))
        assert (torch.allclose(h.weight, V, atol=1e-6) and torch.allclose(h.bias, c, atol=1e-6)
                and h.weight.requires_grad and h.bias.requires_grad)
        F.cross_entropy(h(x), y).backward()                                           # and can be trained on
    h = copy.deepcopy(head)
    second_stage("logit_adjusted", h, x, y, torch.tensor(COUNTS))
    assert torch.allclose(h(x), adjust_logits(head(x), COUNTS), atol=1e-5)

@pytest.mark.parametrize("kind", STAGES)
def test_second_stage_is_deterministic_and_leaves_the_generator_alone(kind):
    x, y = blobs()
    head, got = trained(x, y), []
    for k in range(2):
        torch.manual_seed(k); before, h = rng(), copy.deepcopy(head)
        second_stage(kind, h, x, y, COUNTS, seed=3)
        assert torch.equal(before, rng())
        got.append(h)
    assert torch.equal(got[0].weight, got[1].weight) and torch.equal(got[0].bias, got[1].bias)
    other = copy.deepcopy(head); second_stage(kind, other, x, y, COUNTS, seed=4)
    assert torch.equal(other.weight, got[0].weight) == (kind not in ("crt", "lws"))

@pytest.mark.parametrize("kind", STAGES[1:])
def test_second_stage_helps_the_tail(kind):
    x, y = blobs()
    t, yt = blobs([2000] * 3, seed=40)
    head = trained(x, y)
    before = recalls(head(t).argmax(1), yt)
    second_stage(kind, head, x, y, COUNTS)
    after = recalls(head(t).argmax(1), yt)
    assert after[2] > before[2] + .1 and after.mean() > before.mean()

@pytest.mark.parametrize("kind", STAGES)
def test_second_stage_in_any_state_of_the_head(kind):
    x, y = blobs()
    model = nn.Sequential(trained(x, y)).eval().requires_grad_(False)
    plain = copy.deepcopy(model)
    with torch.no_grad(): second_stage(kind, model[0], (x * 1).requires_grad_(), y, COUNTS)
    assert not model.training and not model[0].weight.requires_grad and model[0].weight.grad is None
    assert torch.equal(model[0].weight, plain[0].weight) == (kind in ("none", "logit_adjusted"))
    wide = copy.deepcopy(plain[0]).double(); second_stage(kind, wide, x, y, COUNTS)   # features in another type
    assert wide.weight.dtype == torch.float64 and torch.allclose(wide.weight.float(), model[0].weight, atol=1e-3)
    with torch.inference_mode(): features = x * 1                                     # as an evaluation makes them
    late = copy.deepcopy(plain[0]); second_stage(kind, late, features, y, COUNTS)
    assert torch.equal(late.weight, model[0].weight)

@pytest.mark.parametrize("kind", STAGES)
def test_a_class_without_clips(kind):
    x, y = blobs([300, 80, 20, 20])
    x, y = x[y != 2], y[y != 2]
    head = trained(x, y, 4)
    alone = copy.deepcopy(head)
    second_stage(kind, head, x, y, [300, 80, 0, 20])
    assert head.weight.isfinite().all() and head.bias.isfinite().all() and torch.isfinite(F.cross_entropy(head(x), y))
    if kind in ("crt", "nearest_mean", "logit_adjusted"): assert (head(x).argmax(1) != 2).all()
    if kind == "logit_adjusted":
        assert head.bias[2] == alone.bias[2] and (head.bias[[0, 1, 3]] > alone.bias[[0, 1, 3]]).all()

@pytest.mark.parametrize("call, message", [
    (lambda h, x, y: second_stage("best", h, x, y, COUNTS),
     "stage2: expected one of none, crt, lws, tau_norm, nearest_mean, logit_adjusted, found 'best'"),
    (lambda h, x, y: second_stage("crt", CosineLinear(4, 3), x, y, COUNTS),
     "expected a linear head with a bias, found CosineLinear"),
    (lambda h, x, y: second_stage("lws", nn.Linear(4, 3, bias=False), x, y, COUNTS),
     "expected a linear head with a bias"),
    (lambda h, x, y: second_stage("logit_adjusted", h, x, y, COUNTS[:2]), "expected 3 class counts, found 2"),
    (lambda h, x, y: second_stage("crt", h, x, y + 1, COUNTS),
     "retrain: labels: expected 0..2, found 1..3; check n_classes"),
    (lambda h, x, y: second_stage("nearest_mean", h, x[:9], y, COUNTS), "found (9, 4) and (400,)"),
    (lambda h, x, y: nearest_mean(x[:0], y[:0], 3), "found (0, 4) and (0,)"),
    (lambda h, x, y: retrain(x[:, 0], y, 3), "expected features (n,D)"),
    (lambda h, x, y: learn_scales(h.weight, h.bias, x, y - 1),
     "learn_scales: labels: expected 0..2, found -1..1; leave out")])
def test_errors_are_one_line_and_change_nothing(call, message):
    x, y = blobs()
    head = nn.Linear(4, 3)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(MicaclError) as e: call(head, x, y)
    assert message in str(e.value) and "\n" not in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
