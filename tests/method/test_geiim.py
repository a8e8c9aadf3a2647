"""GEIIM against truth: hand cases, limits, invariants, and PyTorch Geometric as an oracle."""
import math
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import DenseGraphConv
from helpers import ragged_mask
from micacl.core import MicaclError
from micacl.geiim import (
    GEIIM, AdaptiveGraph, ChannelGraph, MultiscaleConv, allowed_links, data_adjacency, learned_adjacency,
    propagate, propagate_channels, start_embedding
)
from micacl.nn.pools import masked_softmax

KINDS = ("learned", "data", "both")
FORMS = ([dict(adjacency=kind) for kind in KINDS] + [dict(graph_over="channels"), dict(dilation=2),
                                                     dict(graph_over="channels", dilation=2, hops=2)])
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


def shake(module):
    "Give every parameter a value away from its start, so that zero initialisation hides nothing."
    with torch.no_grad():
        for p in module.parameters(): p.add_(0.3 * torch.randn_like(p))
    return module


def slow_geiim(m, x, mask):
    "The whole module as loops over bags and instances, float64, written from the equations."
    B, N, D = x.shape
    E1, E2 = m.graph.E1, m.graph.E2
    channels = m.graph_over == "channels"
    out, adjacency = torch.zeros_like(x), torch.zeros(B, N, N, dtype=x.dtype)
    A_hat = torch.zeros(D, D, dtype=x.dtype)
    for p in range(D if channels else 0):
        e = [math.exp(max(0., float(E1[p] @ E2[:, q]))) for q in range(D)]
        row = [e[q]/sum(e) + (p == q) for q in range(D)]                         # A + I, then row-normalised
        for q in range(D): A_hat[p, q] = row[q]/sum(row)
    for b in range(B):
        for i in range(0 if channels else N):
            links = [j for j in range(N) if (mask[b, j] or j == i) and (not m.graph.neighbours_only or abs(i - j) <= 1)]
            e = {j: math.exp(max(0., float(E1[i] @ E2[:, j]))) for j in links}
            for j in links: adjacency[b, i, j] = e[j] / sum(e.values())
        xb = torch.stack([x[b, n] if mask[b, n] else torch.zeros(D, dtype=x.dtype) for n in range(N)])
        hops = [xb]
        for _ in range(m.hops):
            if channels:
                hops.append(torch.stack([m.alpha*xb[i] + (1 - m.alpha)*sum(A_hat[:, q]*hops[-1][i, q] for q in range(D))
                                         for i in range(N)]))
            else:
                hops.append(torch.stack([m.alpha*xb[i] + (1 - m.alpha)
                                         *sum(adjacency[b, i, j]*hops[-1][j] for j in range(N)) for i in range(N)]))
        h = [m.mix.weight @ torch.cat([hop[n] for hop in hops]) + m.mix.bias for n in range(N)]
        for n in range(N):
            if not mask[b, n]: continue
            scales = []
            for conv in m.scales.branches:
                k, r = conv.kernel_size[0], conv.bias.clone()
                for tap in range(k):
                    t = n + (tap - k // 2)*conv.dilation[0]
                    if 0 <= t < N and mask[b, t]: r = r + conv.weight[:, :, tap] @ h[t]
                scales.append(0.5 * r * (1 + torch.erf(r / 2**.5)))              # GELU
            y = x[b, n] + m.out.weight @ torch.cat(scales) + m.out.bias
            y = (y - y.mean()) / (y.var(unbiased=False) + m.norm.eps).sqrt()
            out[b, n] = y * m.norm.weight + m.norm.bias
    return out, A_hat if channels else adjacency


@pytest.mark.parametrize("neighbours_only", [False, True])
@pytest.mark.parametrize("hops", [1, 2])
def test_equals_slow_loops(neighbours_only, hops):
    m = shake(GEIIM(4, 5, embed_dim=3, hops=hops, neighbours_only=neighbours_only)).double()
    x, mask = torch.randn(4, 5, 4).double(), ragged_mask(4, 5)
    with torch.no_grad():
        features, A = m(x, mask)
        slow, slow_A = slow_geiim(m, x, mask)
    torch.testing.assert_close(features, slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(A, slow_A, rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph_over", ["instances", "channels"])
@pytest.mark.parametrize("hops, dilation", [(1, 1), (2, 2), (1, 3)])
def test_channels_and_dilation_equal_slow_loops(graph_over, hops, dilation):
    m = shake(GEIIM(4, 5, embed_dim=3, hops=hops, dilation=dilation, graph_over=graph_over)).double()
    x, mask = torch.randn(4, 5, 4).double(), ragged_mask(4, 5)
    with torch.no_grad():
        features, A = m(x, mask)
        slow, slow_A = slow_geiim(m, x, mask)
    torch.testing.assert_close(features, slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(A, slow_A, rtol=0, atol=1e-12)


# ---- the graph over channels

def test_options_of_the_graph_reach_it():
    assert GEIIM(8, 4, graph_over="channels", embed_dim=5).graph.E1.shape == (8, 5)
    assert GEIIM(8, 4, embed_dim=5).graph.E1.shape == (4, 5)
    A = shake(GEIIM(8, 5, neighbours_only=True)).graph(torch.randn(1, 5, 8))
    far = (torch.arange(5)[:, None] - torch.arange(5)).abs() > 1
    assert (A.squeeze()[far] == 0).all() and (A.squeeze()[~far] > 0).all()
    with pytest.raises(MicaclError, match="graph: expected adjacency, neighbours_only and graph_over at"):
        GEIIM(8, 4, neighbours_only=True, graph=nn.Identity())

def test_channel_graph_by_hand():
    g = ChannelGraph(2, 1)
    with torch.no_grad(): g.E1.copy_(torch.tensor([[1.], [-1.]])); g.E2.copy_(torch.tensor([[math.log(3.), -2.]]))
    far = math.e**2/(1 + math.e**2)                               # A = [[3/4, 1/4], [1-far, far]]
    torch.testing.assert_close(g(), torch.tensor([[7/8, 1/8], [(1 - far)/2, (1 + far)/2]]))
    assert [tuple(p.shape) for p in ChannelGraph(6, 3).parameters()] == [(6, 3), (3, 6)]


def test_rows_of_channel_graph_sum_to_one_and_its_gradient_arrives():
    m = shake(GEIIM(16, 4, graph_over="channels"))
    f, A = m(torch.randn(8, 4, 16))
    assert A.shape == (16, 16) and (A >= 0).all() and (A.diagonal() >= 1/2).all()
    torch.testing.assert_close(A.sum(-1), torch.ones(16))
    f.mul(torch.randn(8, 4, 16)).sum().backward()
    assert m.graph.E1.grad.abs().max() > 0 and m.graph.E2.grad.abs().max() > 0


def test_propagate_channels_limits():
    x, A = torch.randn(2, 4, 3).double(), torch.rand(3, 3).double().softmax(-1)
    for h in propagate_channels(x, torch.eye(3).double(), 0.7, 3): torch.testing.assert_close(h, x)
    for h in propagate_channels(x, A, 1., 3): torch.testing.assert_close(h, x)
    torch.testing.assert_close(propagate_channels(x, A, 0., 2)[2], x @ A.T @ A.T)
    # an instance whose features are all equal stays as it is
    same = torch.randn(2, 4, 1).double().expand(2, 4, 3)
    for h in propagate_channels(same, A, 0.3, 4): torch.testing.assert_close(h, same)
    for h, g in zip(propagate_channels(x, A, 0.6, 2), propagate(x.mT, A, 0.6, 2)): torch.testing.assert_close(h, g.mT)


def test_instances_do_not_hear_each_other_through_channels():
    m, x = shake(GEIIM(8, 6, kernels=(1,), graph_over="channels")).double(), torch.randn(2, 6, 8).double()
    y = x.clone()
    y[:, 2] += torch.randn(8).double()             # a shift of all features alike would vanish in the norm
    moved = (m(y)[0] - m(x)[0]).abs().sum(-1) > 1e-9
    assert moved.tolist() == [[n == 2 for n in range(6)]]*2
    z = x.clone(); z[:, 2, 3] += 1
    (_, a), (_, b) = (propagate_channels(v, m.graph(), m.alpha) for v in (x, z))
    assert ((a - b)[:, 2].abs() > 1e-9).all() and torch.equal(a[:, :2], b[:, :2]) and torch.equal(a[:, 3:], b[:, 3:])


def test_channel_graph_and_mix_are_one_linear_layer():
    m, x = shake(GEIIM(6, 4, graph_over="channels", hops=2, kernels=(1,))).double(), torch.randn(2, 4, 6).double()
    A, eye = m.graph(), torch.eye(6).double()
    M1 = m.alpha*eye + (1 - m.alpha)*A; M2 = m.alpha*eye + (1 - m.alpha)*A @ M1
    W0, W1, W2 = m.mix.weight.chunk(3, 1)
    h = F.linear(x, W0 + W1 @ M1 + W2 @ M2, m.mix.bias)
    torch.testing.assert_close(m.responses(x)[0][0], m.scales(h)[0])


def test_channel_graph_takes_any_number_and_any_order():
    m, x = shake(GEIIM(8, 4, kernels=(1,), graph_over="channels")).double(), torch.randn(3, 6, 8).double()
    for n in (1, 2, 7): assert m(torch.randn(2, n, 8).double())[0].shape == (2, n, 8)
    perm = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(m(x[:, perm])[0], m(x)[0][:, perm])
    short, mask = m(x[:, :4])[0], torch.arange(6).expand(3, 6) < 4
    torch.testing.assert_close(m(x, mask)[0][:, :4], short)


# ---- adjacency

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("neighbours_only", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_adjacency_sum_to_one(kind, neighbours_only, masked):
    g = shake(AdaptiveGraph(8, 6, kind, neighbours_only=neighbours_only)).double()
    mask = ragged_mask(4, 6) if masked else None
    A = g(torch.randn(4, 6, 8).double(), mask)
    assert A.shape == ((6, 6) if kind == "learned" and not masked else (4, 6, 6)) and (A >= 0).all()
    torch.testing.assert_close(A.sum(-1), torch.ones(A.shape[:-1]).double())
    if masked:                                                    # a real instance hears no padding
        assert (A.masked_select(mask[:, :, None] & ~mask[:, None, :]) == 0).all()
    far = (torch.arange(6)[:, None] - torch.arange(6)).abs() > 1
    assert ((A[..., far] == 0).all()) == neighbours_only


def test_learned_adjacency_by_hand():
    E1, E2 = torch.tensor([[1.], [-1.]]), torch.tensor([[math.log(3.), -2.]])
    # products: [[ln 3, -2], [-ln 3, 2]] -> relu [[ln 3, 0], [0, 2]]
    A = learned_adjacency(E1, E2)
    torch.testing.assert_close(A, torch.tensor([[3/4, 1/4], [1/(1 + math.e**2), math.e**2/(1 + math.e**2)]]))


def test_data_adjacency_by_hand():
    theta, phi = torch.tensor([[[2., 0., 0., 0.], [0., 0., 0., 0.]]]), torch.tensor([[[math.log(5.), 0., 0., 0.],
        [0., 1., 0., 0.]]])
    # 2 ln5 / sqrt(4) = ln5
    torch.testing.assert_close(data_adjacency(theta, phi), torch.tensor([[[5/6, 1/6], [1/2, 1/2]]]))


def test_both_is_the_mean_of_the_two():
    g = shake(AdaptiveGraph(8, 4, "both"))
    x = torch.randn(3, 4, 8)
    expected = (learned_adjacency(g.E1, g.E2) + data_adjacency(g.theta(x), g.phi(x)))/2
    torch.testing.assert_close(g(x), expected)


def test_links_by_hand():
    mask = torch.tensor([[True, False, True]])
    assert allowed_links(3, mask)[0].int().tolist() == [[1, 0, 1], [1, 1, 1], [1, 0, 1]]
    assert allowed_links(3, mask, True)[0].int().tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert allowed_links(3).all() and allowed_links(4, None, True).sum() == 10


def test_start_is_alive_and_nearly_uniform():
    for seed in range(20):
        torch.manual_seed(seed)
        g = AdaptiveGraph(8, 4)
        assert (g.E1 @ g.E2 > 2).all()
        assert g(torch.randn(1, 4, 8)).sub(1/4).abs().max() < 0.2
    assert start_embedding(3, 5, d=5).shape == (3, 5)


def test_gradient_reaches_the_graph():
    for kind, names in (("learned", ("E1", "E2")), ("data", ("theta.weight", "phi.weight")),
                        ("both", ("E1", "E2", "theta.weight", "phi.weight"))):
        m = GEIIM(16, 4, kind)
        m(torch.randn(8, 4, 16))[0].mul(torch.randn(8, 4, 16)).sum().backward()
        grads = dict(m.graph.named_parameters())
        assert set(grads) == set(names)
        for name in names: assert grads[name].grad.abs().max() > 0, name


# ---- propagation

def test_propagate_equals_dense_graph_conv():
    x, A, alpha = torch.randn(3, 5, 7), torch.rand(3, 5, 5).softmax(-1), 0.6
    oracle = DenseGraphConv(7, 7)                                 # W_rel (A X) + W_root X
    with torch.no_grad():
        oracle.lin_rel.weight.copy_((1 - alpha)*torch.eye(7))
        oracle.lin_rel.bias.zero_()
        oracle.lin_root.weight.copy_(alpha*torch.eye(7))
        torch.testing.assert_close(propagate(x, A, alpha, 1)[1], oracle(x, A))
        torch.testing.assert_close(propagate(x, A[0], alpha, 1)[1], oracle(x, A[0]))          # one graph for all bags


def test_mixed_hop_of_the_module_equals_dense_graph_conv():
    # h = mix[x, Ax]: the two halves of mix are W_root and W_rel
    m = GEIIM(6, 4, alpha=0.)
    x, oracle = torch.randn(2, 4, 6), DenseGraphConv(6, 6)
    with torch.no_grad():
        oracle.lin_root.weight.copy_(m.mix.weight[:, :6])
        oracle.lin_rel.weight.copy_(m.mix.weight[:, 6:])
        oracle.lin_rel.bias.copy_(m.mix.bias)
        responses, A = m.responses(x)
        h = oracle(x, A)
        for r, conv in zip(responses, m.scales.branches):
            torch.testing.assert_close(r, F.conv1d(h.mT, conv.weight, conv.bias, padding=conv.kernel_size[0]//2).mT)


def test_propagate_limits():
    x, A = torch.randn(2, 4, 3), torch.rand(4, 4).softmax(-1)
    for h in propagate(x, torch.eye(4), 0.7, 3): torch.testing.assert_close(h, x)             # A = I
    for h in propagate(x, A, 1., 3): torch.testing.assert_close(h, x)                         # graph off
    torch.testing.assert_close(propagate(x, A, 0., 2)[2], A @ A @ x)                          # pure powers
    constant = torch.full((1, 4, 3), 2.5)
    for h in propagate(constant, A, 0.3, 4): torch.testing.assert_close(h, constant)          # rows sum to 1
    assert len(propagate(x, A, hops=3)) == 4


# ---- convolutions

@pytest.mark.parametrize("k", [1, 3, 5])
def test_receptive_field_of_each_kernel(k):
    conv, x = MultiscaleConv(4, (k,)).double(), torch.randn(1, 9, 4).double()
    for place in (0, 4, 8):
        y = x.clone(); y[0, place] += 1
        moved = (conv(y)[0] - conv(x)[0]).abs().sum(-1)[0] > 1e-9
        assert moved.nonzero().flatten().tolist() == [n for n in range(9) if abs(n - place) <= k//2]


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_receptive_field_with_dilation(k, dilation):
    conv, x = MultiscaleConv(4, (k,), dilation).double(), torch.randn(1, 15, 4).double()
    for place in (0, 7, 14):
        y = x.clone(); y[0, place] += 1
        moved = ((conv(y)[0] - conv(x)[0]).abs().sum(-1)[0] > 1e-9).nonzero().flatten().tolist()
        assert moved == [n for n in range(15) if abs(n - place) <= dilation*(k//2) and (n - place) % dilation == 0]
        if place == 7: assert moved[-1] - moved[0] + 1 == 1 + dilation*(k - 1)


def test_scales_are_separate_and_visible():
    m = GEIIM(8, 4, kernels=(1, 3, 5))
    r, A = m.responses(torch.randn(2, 4, 8))
    assert [c.kernel_size[0] for c in m.scales.branches] == [1, 3, 5] and [tuple(a.shape) for a in r] == [(2, 4, 8)]*3
    x = torch.randn(2, 4, 8)
    for gone in range(3):                                         # every scale has a say in the features
        n = shake(GEIIM(8, 4)); before = n(x)[0].detach().clone()
        with torch.no_grad(): n.scales.branches[gone].weight.zero_()
        assert (n(x)[0] - before).abs().max() > 1e-3


def test_reach_of_the_module():
    "Without a graph kernel 3 lets a nudge reach the neighbours only; with it, everybody."
    x = torch.randn(1, 7, 8).double(); y = x.clone(); y[0, 3] += 1
    for alpha, reach in ((1., [2, 3, 4]), (.7, list(range(7)))):
        m = GEIIM(8, 7, kernels=(3,), alpha=alpha).double()
        assert ((m(y)[0] - m(x)[0]).abs().sum(-1)[0] > 1e-9).nonzero().flatten().tolist() == reach


# ---- invariants of the module

@every_form
@pytest.mark.parametrize("junk", [0., 1e6, float("nan"), float("inf")])
def test_padding_changes_nothing_to_the_last_bit(form, junk):
    m, x, mask = shake(GEIIM(8, 5, **form)), torch.randn(4, 5, 8), ragged_mask(4, 5)
    dirty = torch.where(mask[..., None], x, torch.tensor(junk))
    f1, A1 = m(x, mask); f2, A2 = m(dirty, mask)
    assert torch.equal(f1, f2) and torch.equal(A1, A2) and (f1[~mask] == 0).all()
    for over in ("instances", "features"):
        assert torch.equal(m.dependency(x, mask, over), m.dependency(dirty, mask, over))
    grads = []
    for z in (x, dirty):
        m.zero_grad(); f, _ = m(z, mask); (f.square().sum() + m.dependency(z, mask)[:, 0].sum()).backward()
        grads.append([p.grad.clone() for p in m.parameters()])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*grads))


def test_padded_bag_equals_short_bag():
    m, x = shake(GEIIM(8, 5, "data")).double(), torch.randn(2, 5, 8).double()
    mask = torch.tensor([[True]*3 + [False]*2]*2)
    torch.testing.assert_close(m(x, mask)[0][:, :3], m(x[:, :3])[0])
    torch.testing.assert_close(m(x, mask)[1][:, :3, :3], m(x[:, :3])[1])


@every_form
def test_full_mask_equals_no_mask(form):
    m, x = shake(GEIIM(8, 4, **form)).double(), torch.randn(3, 4, 8).double()
    full = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(m(x)[0], m(x, full)[0])
    for over in ("instances", "features"):
        torch.testing.assert_close(m.dependency(x, None, over), m.dependency(x, full, over))


def test_permutation_equivariance_of_the_data_graph_alone():
    x, perm = torch.randn(3, 6, 8).double(), torch.tensor([3, 5, 0, 1, 4, 2])
    def error(**kw):
        m = shake(GEIIM(8, 6, **kw)).double()
        f, A = m(x); g, B = m(x[:, perm])
        return (g - f[:, perm]).abs().max()
    assert error(kernels=(1,), adjacency="data") < 1e-12
    assert error(kernels=(1,), adjacency="learned") > 1e-4        # places have names
    assert error(kernels=(3,), adjacency="data") > 1e-4           # neighbours are known
    m = shake(GEIIM(8, 6, "data", kernels=(1,))).double()
    torch.testing.assert_close(m(x[:, perm])[1], m(x)[1][:, perm][:, :, perm])
    torch.testing.assert_close(m.dependency(x[:, perm]), m.dependency(x)[:, perm])


@every_form
def test_batch_of_one_equals_batch_of_many(form):
    m, x, mask = shake(GEIIM(8, 5, **form)).double(), torch.randn(4, 5, 8).double(), ragged_mask(4, 5)
    together = m(x, mask)[0]
    for b in range(4):
        alone, A = m(x[b:b + 1], mask[b:b + 1])
        assert alone.shape == (1, 5, 8); torch.testing.assert_close(alone[0], together[b])


def test_one_instance():
    m = GEIIM(8, 1); f, A = m(torch.randn(3, 1, 8))
    assert f.shape == (3, 1, 8) and A.tolist() == [[1.]] and (m.dependency(f) == 1).all()


@every_form
def test_gradcheck(form):
    m, mask = shake(GEIIM(3, 4, **dict(embed_dim=2, hops=2) | form)).double(), torch.tensor([[True]*4,
        [True, True, False, False]])
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = list(dict(m.named_parameters()))
    def f(x, *params):
        out, A = torch.func.functional_call(m, dict(zip(names, params)), (x, mask))
        w = masked_softmax(out @ params[names.index("score.weight")][0], mask)
        return out, A, w, m.dependency(out, mask, "features")
    assert torch.autograd.gradcheck(f, (x, *m.parameters()))


def test_dependency_uniform_at_start_then_learns():
    m, x, mask = GEIIM(8, 5), torch.randn(4, 5, 8), ragged_mask(4, 5)
    f, _ = m(x, mask)
    w = m.dependency(f, mask)
    torch.testing.assert_close(w, mask / mask.sum(1, keepdim=True))
    w[:, 0].sum().backward()
    assert m.score.weight.grad.abs().max() > 0
    with torch.no_grad(): m.score.weight.copy_(torch.eye(8)[:1]*50)
    assert (m.dependency(f, mask).argmax(1) == f[..., 0].masked_fill(~mask, -9e9).argmax(1)).all()


def test_dependency_over_features():
    m, x, mask = shake(GEIIM(8, 5)).double(), torch.randn(4, 5, 8).double(), ragged_mask(4, 5)
    w = m.dependency(x, mask, over="features")
    assert w.shape == (4, 5, 8) and (w[~mask] == 0).all()
    torch.testing.assert_close(w.sum(-1), mask.double())
    for b, n in mask.nonzero().tolist():
        e = [math.exp(float(v)) for v in x[b, n]]
        torch.testing.assert_close(w[b, n], torch.tensor([v/sum(e) for v in e]).double())
    assert torch.equal(m.dependency(x, mask), m.dependency(x, mask, "instances"))
    before = w.clone(); torch.nn.init.normal_(m.score.weight)
    assert torch.equal(m.dependency(x, mask, "features"), before)                # the score has no part in it
    assert m.dependency(x[:1, :1], over="features").shape == (1, 1, 8)


@every_form
def test_bfloat16_autocast(form):
    m, x, mask = GEIIM(16, 4, **form), torch.randn(4, 4, 16), torch.tensor([[True]*4, [True]*3 + [False],
        [True]*2 + [False]*2, [True]*4])
    exact = m(x, mask)[0]
    with torch.autocast("cpu", torch.bfloat16):
        f, A = m(x, mask); w = m.dependency(f, mask)
        (f.float().square().sum() + w.float()[:, 0].sum()).backward()
    assert f.isfinite().all() and (f.float() - exact).abs().max() < 0.1
    torch.testing.assert_close(w.float().sum(1), torch.ones(4), atol=1e-2, rtol=0); assert (w[~mask] == 0).all()
    assert all(p.grad.isfinite().all() for p in m.parameters())


def test_dropout_only_in_training():
    m, x = GEIIM(16, 4, dropout=.5), torch.randn(2, 4, 16)
    assert not torch.equal(m(x)[0], m(x)[0])
    m.eval(); assert torch.equal(m(x)[0], m(x)[0])


@every_form
def test_state_dict_round_trip(form, tmp_path):
    from safetensors.torch import load_file, save_file
    a, b, x = shake(GEIIM(8, 4, **form)), GEIIM(8, 4, **form), torch.randn(2, 4, 8)
    save_file(a.state_dict(), tmp_path/"m.safetensors"); b.load_state_dict(load_file(tmp_path/"m.safetensors"))
    assert torch.equal(a(x)[0], b(x)[0]) and torch.equal(a.dependency(x), b.dependency(x))


# ---- defaults, the start, types and devices

def test_defaults_are_those_of_the_method():
    torch.manual_seed(1); short = GEIIM(8, 4)
    torch.manual_seed(1)
    said = GEIIM(8, 4, adjacency="learned", embed_dim=32, kernels=(1, 3, 5), hops=1, alpha=.7, dropout=0.,
                 neighbours_only=False, dilation=1, graph_over="instances", graph=None)
    x = torch.randn(2, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(short.state_dict().values(), said.state_dict().values(), strict=True))
    assert torch.equal(short(x)[0], said(x)[0]) and torch.equal(short(x)[1], said(x)[1])
    assert AdaptiveGraph(8, 4).E1.shape == (4, 32) and AdaptiveGraph(8, 4, "data").phi.weight.shape == (32, 8)
    assert ChannelGraph(8).E1.shape == (8, 32)
    assert [(c.kernel_size, c.dilation) for c in MultiscaleConv(8).branches] == [((k,), (1,)) for k in (1, 3, 5)]
    A = torch.rand(4, 4).softmax(-1); h = propagate(x, A)
    assert len(h) == 2; torch.testing.assert_close(h[1], .7*x + .3*A @ x)
    A = torch.rand(8, 8).softmax(-1); h = propagate_channels(x, A)
    assert len(h) == 2; torch.testing.assert_close(h[1], .7*x + .3*x @ A.T)


@pytest.mark.parametrize("d", [4, 100])
def test_start_lies_around_2_over_the_root_of_d(d):
    "Between 1 and 3 over sqrt(d), 2 on average, so that two rows have a product of about 4."
    e = start_embedding(200, d, d=d)*d**.5
    assert 1 <= e.min() < 1.1 and 2.9 < e.max() <= 3 and abs(e.mean() - 2) < .1
    assert abs((e @ start_embedding(d, 200, d=d)).mean()/d**.5 - 4) < .2


def test_the_score_has_no_bias():
    assert [n for n, _ in GEIIM(8, 4).named_parameters() if n.startswith("score")] == ["score.weight"]


@every_form
def test_the_type_and_the_device_of_the_input_are_kept(form):
    "A meta tensor has a device and no numbers: whatever is made on another device can't be added to it."
    m, x, mask = GEIIM(8, 5, **form), torch.randn(4, 5, 8), ragged_mask(4, 5)
    for f in m.bfloat16()(x.bfloat16(), mask): assert f.dtype == torch.bfloat16
    m, x, mask = m.float().to("meta"), x.to("meta"), mask.to("meta")
    assert all(f.is_meta for given in (None, mask) for f in m(x, given)) and m.dependency(x, mask).is_meta
    assert allowed_links(3, device="meta").is_meta


# ---- errors say what to do, in one line

@pytest.mark.parametrize("make, words", [
    (lambda: GEIIM(8, 4)(torch.randn(2, 6, 8)), ("4 instances", "found 6", 'adjacency="data"')),
    (lambda: GEIIM(8, 4, "both")(torch.randn(2, 3, 8)), ("found 3", "mask")),
    (lambda: GEIIM(8, 4, "random"), ("learned", "both", "'random'")),
    (lambda: GEIIM(8, 4, kernels=(1, 2)), ("odd", "(1, 2)")),
    (lambda: GEIIM(8, 4, kernels=()), ("odd",)),
    (lambda: GEIIM(8, 4, dilation=0), ("dilation", "1 or more", "found 0")),
    (lambda: GEIIM(8, 4, graph_over="features"), ("graph_over", "channels", "'features'")),
    (lambda: GEIIM(8, 4, "data", graph_over="channels"), ('adjacency="learned"', "'data'")),
    (lambda: GEIIM(8, 4, graph_over="channels", neighbours_only=True), ("neighbours_only=False", "True")),
    (lambda: GEIIM(8, 4).dependency(torch.randn(2, 4, 8), over="channels"), ("over", "features", "'channels'")),
    (lambda: GEIIM(8, 4, alpha=1.5), ("alpha", "1.5")),
    (lambda: GEIIM(8, 4, alpha=-.1), ("alpha", "-0.1")),
    (lambda: GEIIM(8, 4, hops=0), ("hops", "0")),
    (lambda: GEIIM(8, 4)(torch.randn(2, 4, 7)), ("(B, N, 8)", "(2, 4, 7)")),
    (lambda: GEIIM(8, 4)(torch.randn(4, 8)), ("(4, 8)",)),
    (lambda: GEIIM(8, 4)(torch.randn(2, 4, 8), torch.ones(2, 4)), ("bool", "float32")),
    (lambda: GEIIM(8, 4)(torch.randn(2, 4, 8), torch.ones(2, 3, dtype=torch.bool)), ("(2, 4)", "(2, 3)")),
])
def test_errors(make, words):
    with pytest.raises(MicaclError) as e: make()
    assert "\n" not in str(e.value)
    for word in words: assert word in str(e.value), str(e.value)


@pytest.mark.parametrize("call", ["responses", "forward", "dependency"])
def test_every_door_checks_what_comes_in(call):
    m, x = GEIIM(8, 4), torch.randn(2, 4, 8)
    for args in ((x[..., :7],), (x, torch.ones(2, 4))):
        with pytest.raises(MicaclError, match="^GEIIM: expected "): getattr(m, call)(*args)
    if call != "dependency":
        with pytest.raises(MicaclError, match="^GEIIM: expected instance features in torch.float32"):
            getattr(m, call)(x.double())


def test_data_graph_takes_any_number():
    m = GEIIM(8, 4, "data")
    for n in (1, 2, 7): assert m(torch.randn(2, n, 8))[0].shape == (2, n, 8)


# ---- it learns what it is for

def test_learns_who_the_neighbours_are():
    N, D = 5, 12
    truth = torch.diag(torch.ones(N - 1), 1) + torch.diag(torch.ones(N - 1), -1); truth /= truth.sum(1, keepdim=True)
    direction = torch.randn(D)
    def left(**kw):
        torch.manual_seed(1)
        m, head = GEIIM(D, N, kernels=(1,), **kw), torch.nn.Linear(D, 1)
        opt = torch.optim.Adam([*m.parameters(), *head.parameters()], lr=2e-2)
        for _ in range(150):
            v = torch.rand(64, N, 1)*2 - 1; f, A = m(v*direction)
            loss = F.mse_loss(head(f), truth @ v); opt.zero_grad(); loss.backward(); opt.step()
        return loss.item() / (truth @ v).var().item(), A.detach()
    error, A = left()
    assert error < 0.05 and (A - truth).abs().max() < 0.15
    assert left(alpha=1.)[0] > 0.8
