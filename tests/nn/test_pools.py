"""The pools against truth: torchmil, PyTorch's encoder layer, hand cases and invariants."""
import math

import pytest
import torch
from torch import nn
from torchmil.nn.attention import AttentionPool

from helpers import ragged_mask
from micacl.core import MicaclError
from micacl.nn.pools import (
    POOLS, GatedAttentionPool, MaxPool, MeanPool, TransformerPool, build_pool, check_bag, masked_softmax, zero_padding,
)

WITHOUT_ORDER = [MeanPool, MaxPool, lambda: GatedAttentionPool(8, 5)]


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


def test_masked_softmax_ignores_what_it_masks():
    mask = torch.tensor([True, False, True])
    for junk in (float("nan"), float("inf"), -float("inf"), 1e38):
        p = masked_softmax(torch.tensor([0., junk, math.log(3.)]), mask)
        torch.testing.assert_close(p, torch.tensor([.25, 0., .75])); assert p[1] == 0


@pytest.mark.parametrize("make", [*WITHOUT_ORDER, lambda: TransformerPool(8, 6)])
@pytest.mark.parametrize("junk", [1e6, -1e6, float("nan"), float("inf")])
def test_poolings_ignore_padding(make, junk):
    pool, x, mask = make(), torch.randn(4, 5, 8), ragged_mask(4, 5)
    dirty, results = torch.where(mask[..., None], x, torch.tensor(junk)), []
    for z in (x, dirty):
        z = z.clone().requires_grad_(); pool.zero_grad(); bag, w = pool(z, mask); bag.square().sum().backward()
        results.append([bag, w, z.grad] + [p.grad.clone() for p in pool.parameters()])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*results))
    w = results[0][1]
    torch.testing.assert_close(w.sum(1), torch.ones(4)); assert (w[~mask] == 0).all()


def test_gated_attention_equals_torchmil():
    ours, theirs = GatedAttentionPool(8, 5).double(), AttentionPool(8, 5, act="tanh", gated=True).double()
    with torch.no_grad():
        theirs.fc1.module.weight.copy_(ours.V.weight)
        theirs.fc1.module.bias.copy_(ours.V.bias)
        theirs.fc2.weight.copy_(ours.a.weight)
        theirs.fc_gated.module.weight.copy_(ours.U.weight); theirs.fc_gated.module.bias.copy_(ours.U.bias)
    x, mask = torch.randn(4, 5, 8).double(), ragged_mask(4, 5)
    for m in (None, mask):
        bag, w = ours(x, m); z, f = theirs(x, None if m is None else m.double(), return_att=True)
        torch.testing.assert_close(bag, z)
        if m is not None: f = f.masked_fill(~m, -math.inf)
        torch.testing.assert_close(w, f.softmax(1))


def test_mean_and_max_by_hand():
    x = torch.tensor([[[1., 0., 0., 3.], [0., 2., 5., 7.], [-1., -2., -3., 4.]]])
    bag, w = MeanPool()(x)
    torch.testing.assert_close(bag, x.mean(1))
    torch.testing.assert_close(w, torch.full((1, 3), 1/3))
    bag, w = MaxPool()(x)
    torch.testing.assert_close(bag, torch.tensor([[1., 2., 5., 7.]]))
    assert w.tolist() == [[.25, .75, 0.]]
    mask = torch.tensor([[True, False, True]])
    bag, w = MaxPool()(x, mask)
    torch.testing.assert_close(bag, torch.tensor([[1., 0., 0., 4.]]))
    assert w.tolist() == [[.75, 0., .25]]
    # padding must not win with a 0
    negative = -x.abs() - 1
    assert (MaxPool()(negative, mask)[0] < 0).all()


def transformer_with_weights_of(pool, dim, heads):
    "PyTorch's encoder layer and final norm with our parameters; the class token and the places are put in front of it."
    layer = nn.TransformerEncoderLayer(dim, heads, 2*dim, dropout=0., activation="gelu", batch_first=True,
                                       norm_first=True).double()
    layer.self_attn.load_state_dict(pool.attention.state_dict())
    for theirs, ours in ((layer.linear1, pool.mlp[0]), (layer.linear2, pool.mlp[2]), (layer.norm1, pool.norm1),
                         (layer.norm2, pool.norm2)):
        theirs.load_state_dict(ours.state_dict())
    def run(x, mask):
        tokens = torch.cat([pool.token.expand(len(x), 1, dim), x + pool.place[:x.shape[1]]], 1)
        ignore = torch.cat([torch.zeros(len(x), 1, dtype=torch.bool), ~mask], 1)
        return nn.functional.layer_norm(layer(tokens, src_key_padding_mask=ignore)[:, 0], (dim,), pool.norm.weight,
                                        pool.norm.bias)
    return run


def shaken_transformer(*args):
    pool = TransformerPool(*args).double()
    with torch.no_grad():
        for p in pool.parameters(): p.add_(0.3*torch.randn_like(p))
    return pool


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_transformer_pool_equals_encoder_layer(heads):
    pool, mask = shaken_transformer(8, 6, heads), ragged_mask(4, 5)
    x, oracle = torch.randn(4, 5, 8, dtype=torch.float64, requires_grad=True), transformer_with_weights_of(pool, 8,
        heads)
    for m in (mask, torch.ones_like(mask)):
        ours, theirs = pool(x, m)[0], oracle(x, m)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        a, b = (torch.autograd.grad(bag.square().mul(torch.arange(8)).sum(), x)[0] for bag in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(pool(x)[0], pool(x, torch.ones_like(mask))[0])


def test_transformer_weights_are_the_attention_of_the_token():
    pool, mask = shaken_transformer(8, 5, 2), ragged_mask(4, 5)
    x = torch.randn(4, 5, 8).double()
    w = pool(x, mask)[1]
    torch.testing.assert_close(w.sum(1), torch.ones(4).double()); assert (w[~mask] == 0).all()
    Wq, Wk, _ = pool.attention.in_proj_weight.chunk(3); bq, bk, _ = pool.attention.in_proj_bias.chunk(3)
    for b in range(4):                                            # one bag at a time, real instances only, head by head
        real = mask[b].nonzero().flatten()
        z = pool.norm1(torch.cat([pool.token[0], x[b, real] + pool.place[real]]))
        q, k = Wq @ z[0] + bq, z @ Wk.T + bk
        share = sum((k[:, h] @ q[h] / 4**.5).softmax(0) for h in (slice(0, 4), slice(4, 8)))/2
        torch.testing.assert_close(w[b, real], share[1:]/share[1:].sum())


def test_transformer_pool_padding_batches_and_order():
    pool, x, mask = shaken_transformer(8, 6), torch.randn(4, 5, 8).double(), ragged_mask(4, 5)
    bag, w = pool(x, mask)
    for b in range(4): torch.testing.assert_close(pool(x[b:b + 1], mask[b:b + 1])[0][0], bag[b])
    torch.testing.assert_close(pool(x[:, :3])[0], pool(x, (torch.arange(5) < 3).expand(4, 5))[0])
    perm = torch.tensor([3, 0, 4, 1, 2])
    assert (pool(x[:, perm])[0] - pool(x)[0]).abs().max() > 1e-3
    with torch.no_grad(): pool.place.zero_()
    (bag, w), (bag2, w2) = pool(x), pool(x[:, perm])
    torch.testing.assert_close(bag, bag2); torch.testing.assert_close(w[:, perm], w2)
    assert pool(x[:1, :1])[1].tolist() == [[1.]]


def test_transformer_pool_starts_small_and_learns_everywhere():
    pool = TransformerPool(64, 8)
    for p in (pool.token, pool.place): assert 0.01 < p.std() < 0.03
    bag, w = pool(torch.randn(4, 8, 64)); (bag*torch.randn(4, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pool.parameters())


def test_transformer_pool_gradcheck():
    pool, mask = shaken_transformer(4, 3, 2), torch.tensor([[True]*3, [True, True, False]])
    x, names = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True), [n for n, _ in pool.named_parameters()]
    f = lambda x, *p: torch.func.functional_call(pool, dict(zip(names, p)), (x, mask))
    assert torch.autograd.gradcheck(f, (x, *pool.parameters()))


@pytest.mark.parametrize("make", WITHOUT_ORDER)
def test_poolings_do_not_see_the_order(make):
    pool, x, perm = make().double(), torch.randn(3, 5, 8).double(), torch.tensor([3, 0, 4, 1, 2])
    bag, w = pool(x); bag2, w2 = pool(x[:, perm])
    torch.testing.assert_close(bag, bag2); torch.testing.assert_close(w[:, perm], w2)


@pytest.mark.parametrize("make, words", [
    (lambda: TransformerPool(8, 4)(torch.randn(2, 5, 8)), ("at most 4", "found 5", "n_instances=5")),
    (lambda: TransformerPool(8, 4)(torch.randn(2, 4, 7)), ("TransformerPool", "(B, N, 8)", "(2, 4, 7)")),
    (lambda: TransformerPool(8, 4)(torch.randn(2, 4, 8), torch.ones(2, 4)), ("bool", "float32")),
    (lambda: TransformerPool(6, 4), ("heads", "dim=6", "found 4")),
])
def test_errors(make, words):
    with pytest.raises(MicaclError) as e: make()
    assert "\n" not in str(e.value)
    for word in words: assert word in str(e.value), str(e.value)


def test_padding_is_zero_and_the_rest_as_it_was():
    x, mask = torch.randn(4, 5, 8), ragged_mask(4, 5)
    dirty = torch.where(mask[..., None], x, torch.tensor(float("nan")))
    clean = zero_padding(dirty, mask)
    assert torch.equal(clean[mask], x[mask]) and (clean[~mask] == 0).all() and zero_padding(x) is x


def test_bfloat16_autocast():
    x, mask = torch.randn(2, 4, 16), torch.tensor([[True] * 4, [True, True, False, False]])
    for pool in (MeanPool(), MaxPool(), GatedAttentionPool(16), TransformerPool(16, 4)):
        with torch.autocast("cpu", torch.bfloat16): bag, w = pool(x, mask)
        assert bag.isfinite().all() and (bag.float() - pool(x, mask)[0]).abs().max() < 0.1


# ---- by name, or one's own

@pytest.mark.parametrize("name", POOLS)
def test_a_class_a_module_and_a_name_are_the_same_pool(name):
    pools, x = [], torch.randn(3, 5, 8)
    for given in (name, POOLS[name], None):
        torch.manual_seed(1)
        pools.append(build_pool(given, 8, 5) if given else build_pool(pools[0], 8, 5))
    assert pools[2] is pools[0] and all(type(p) is POOLS[name] for p in pools)
    assert all(torch.equal(a, b) for p in pools for a, b in zip(p(x), pools[0](x)))


def test_a_class_gets_what_it_asks_for():
    class Wants(nn.Module):
        def __init__(self, n_instances, other=3, dim=None): super().__init__(); self.got = n_instances, other, dim
    assert build_pool(Wants, 8, 5).got == (5, 3, 8) and build_pool(lambda dim: nn.Linear(dim, 2), 8, 5).in_features == 8
    for bad in ("median", None, 3):
        with pytest.raises(MicaclError, match="pool: expected one of mean, max, attention, transformer, a module"):
            build_pool(bad, 8, 5)


def test_who_complains_is_named():
    with pytest.raises(MicaclError, match="^bag: expected instance features"): check_bag(torch.ones(2, 3), 3)
    with pytest.raises(MicaclError, match="^me: expected a bool mask"):
        check_bag(torch.ones(2, 3, 4), 4, torch.ones(2, 3), "me")
