"DMIN and the tails against slow formulas."
import math

import pytest
import torch
import torch.nn.functional as F

from micacl.nn.tails import DMIN, ConvTail, DMINTail, MeanTail, NormTail

# ---- DMIN

def slow_dmin(x, m):
    "Loops over one bag after another."
    a, b, out = m.mean_mix.softmax(0).tolist(), m.var_mix.softmax(0).tolist(), torch.empty_like(x)
    B, N, D = x.shape
    for k in range(B):
        everything = [x[k, n, f].item() for n in range(N) for f in range(D)]
        mu_bag = sum(everything) / (N * D)
        v_bag = sum((v - mu_bag)**2 for v in everything) / (N * D)
        for f in range(D):
            column = [x[k, n, f].item() for n in range(N)]
            mu_in = sum(column) / N
            v_in = sum((v - mu_in)**2 for v in column) / N
            mu, v = a[0] * mu_in + a[1] * mu_bag, b[0] * v_in + b[1] * v_bag
            for n in range(N): out[k, n, f] = (column[n] - mu) / math.sqrt(v + m.eps) * m.gamma[f] + m.beta[f]
    return out

def random_dmin(dim):
    m = DMIN(dim).double()
    with torch.no_grad():
        for p in m.parameters(): p.copy_(torch.randn(p.shape))
    return m

def test_dmin_against_loops():
    torch.manual_seed(0)
    m, x = random_dmin(6), torch.randn(3, 4, 6).double() * 3 + 2
    assert torch.allclose(m(x), slow_dmin(x, m).detach())

@pytest.mark.parametrize("mean_branch", [0, 1])
@pytest.mark.parametrize("var_branch", [0, 1])
def test_dmin_limits(mean_branch, var_branch):
    m, x = DMIN(8).double(), torch.randn(3, 4, 8).double() * 3 + 2
    with torch.no_grad():
        m.mean_mix[mean_branch] = 100.; m.var_mix[var_branch] = 100.
    dims = {0: 1, 1: (1, 2)}
    v = x.var(dims[var_branch], correction=0, keepdim=True)
    want = (x - x.mean(dims[mean_branch], keepdim=True)) / (v + 1e-5).sqrt()
    assert torch.allclose(m(x), want)
    if mean_branch == var_branch == 0: assert torch.allclose(m(x), F.instance_norm(x.mT).mT)
    if mean_branch == var_branch == 1: assert torch.allclose(m(x), F.layer_norm(x, (4, 8)))

def test_dmin_one_instance_equal_instances_and_order():
    m = random_dmin(6)
    assert m(torch.randn(2, 1, 6).double()).isfinite().all()
    assert m(torch.ones(2, 4, 6).double()).isfinite().all()
    x, order = torch.randn(2, 4, 6).double(), torch.tensor([2, 0, 3, 1])
    assert torch.allclose(m(x)[:, order], m(x[:, order]))
    assert torch.allclose(m(x)[:1], m(x[:1]))  # bags don't hear each other

def test_dmin_gradcheck():
    m, x = random_dmin(4), torch.randn(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: m(x), (x, *m.parameters()))

# ---- tail

def test_dmin_tail_against_its_equations():
    torch.manual_seed(0)
    tail, H = DMINTail(8, 3, heads=2).double(), torch.randn(2, 3, 8).double()
    bag, attention = tail(H)
    at = tail.attention
    q, k, v = (H @ at.in_proj_weight.T + at.in_proj_bias).chunk(3, -1)
    heads, maps = [], []
    for j in (0, 1):
        c = slice(4 * j, 4 * j + 4)
        maps.append((q[..., c] @ k[..., c].mT / 2).softmax(-1))  # sqrt(4) = 2
        heads.append(maps[-1] @ v[..., c])
    M = at.out_proj(torch.cat(heads, -1))
    x = slow_dmin(M.detach(), tail.norm).detach().sigmoid() * H
    want = tail.conv.bias.repeat(2, 8)
    for f in range(8):
        for n in range(3):
            for t in (-1, 0, 1):
                if 0 <= f + t < 8: want[:, f] = want[:, f] + tail.conv.weight[0, n, t + 1] * x[:, n, f + t]
    assert torch.allclose(bag, want)
    assert torch.allclose(attention, sum(maps) / 2)

def test_tail_gate_closed_leaves_the_bias():
    tail, H = DMINTail(8, 3, heads=2), torch.randn(2, 3, 8)
    with torch.no_grad(): tail.norm.beta.fill_(-100.)
    assert torch.allclose(tail(H)[0], tail.conv.bias.expand(2, 8), atol=1e-6)

def test_norm_tail_against_its_equations():
    torch.manual_seed(0)
    tail, H, w = NormTail(8, 3, heads=2).double(), torch.randn(2, 3, 8).double(), torch.rand(2, 3).double().softmax(1)
    with torch.no_grad():
        for p in tail.parameters(): p.copy_(torch.randn(p.shape))
    M, want = tail.attention(H, H, H)[0], tail.conv.bias.repeat(2, 8)
    for b in range(2):
        for n in range(3):
            h = H[b, n] + M[b, n]
            h = (h - h.mean()) / (h.var(correction=0) + tail.norm.eps).sqrt() * tail.norm.weight + tail.norm.bias
            for f in range(8):
                for t in (-1, 0, 1):
                    if 0 <= f + t < 8: want[b, f] = want[b, f] + tail.conv.weight[0, n, t + 1] * 3 * w[b, n] * h[f + t]
    assert torch.allclose(tail(H, w)[0], want)

def test_norm_tail_starts_as_the_weighted_mean():
    tail, H, w = NormTail(8, 3, heads=2), torch.randn(2, 3, 8), torch.rand(2, 3).softmax(1)
    H_hat = tail.norm(H + tail.attention(H, H, H)[0])
    assert torch.allclose(tail(H, w)[0], (w[..., None] * H_hat).sum(1), atol=1e-6)
    assert torch.autograd.gradcheck(lambda H, w: tail.double()(H, w)[0],
                                    (H.double().requires_grad_(), w.double().requires_grad_()))

def test_without_attention_norm_is_conv_and_without_its_convolution_mean():
    torch.manual_seed(0)
    norm, conv, mean = NormTail(8, 3, heads=2).double(), ConvTail(8, 3).double(), MeanTail(8).double()
    H, w = torch.randn(2, 3, 8).double(), torch.rand(2, 3).double().softmax(1)
    with torch.no_grad():
        for p in norm.parameters(): p.copy_(torch.randn(p.shape))
        for p in norm.attention.out_proj.parameters(): p.zero_()       # attention answers 0
    conv.load_state_dict({k: v for k, v in norm.state_dict().items() if not k.startswith("attention")})
    assert torch.allclose(conv(H, w)[0], norm(H, w)[0]) and conv(H, w)[1] is None
    mean.norm.load_state_dict(norm.norm.state_dict())
    want = torch.stack([sum(w[b, n] * mean.norm(H[b, n]) for n in range(3)) for b in range(2)])
    assert torch.allclose(mean(H, w)[0], want) and mean(H, w)[1] is None
    assert not torch.allclose(mean(H, w)[0], conv(H, w)[0])
    fresh = ConvTail(8, 3).double()
    fresh.norm.load_state_dict(norm.norm.state_dict())
    assert torch.allclose(fresh(H, w)[0], want)                         # starts as the mean
