"""WIAN against truth: nn.LSTM, slow float64 loops, hand cases and invariants."""
import math
import pytest
import torch
from torch import nn
from helpers import ragged_mask
from micacl.core import MicaclError
from micacl.geiim import GEIIM
from micacl.wian import GatedLSTM, WIAN, gated_cell

GATES = ("product", "weight", "none")
OVER = ("instances", "features")


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


def weights(B, N, mask=None): # random dependency weights, rows sum to 1
    w = torch.rand(B, N, dtype=torch.float64) + 0.05
    if mask is not None: w = w * mask
    return w / w.sum(1, keepdim=True)


def feature_weights(B, N, H): # random weights over the features, rows sum to 1
    return torch.randn(B, N, H, dtype=torch.float64).softmax(-1)


def force_gate_open(layer):
    "W_s = U_s = 0 and a bias at which the sigmoid is exactly 1."
    H = layer.U.shape[1]
    with torch.no_grad():
        for d in (0, 1):
            s = slice(5*H*d + 4*H, 5*H*(d + 1))
            layer.W.weight[s] = 0; layer.W.bias[s] = 100; layer.U[d, :, 4*H:] = 0


def lstm_with_weights_of(layers, dim, hidden):
    "An nn.LSTM that holds the i, f, c_hat, o parameters of our layers."
    H, lstm = hidden, nn.LSTM(dim, hidden, num_layers=len(layers), batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for d, suffix in enumerate(("", "_reverse")):
                R = layer.U.shape[2]
                rows, name = slice(R*d, R*d + 4*H), f"_l{k}{suffix}"
                getattr(lstm, "weight_ih" + name).copy_(layer.W.weight[rows])
                getattr(lstm, "bias_ih" + name).copy_(layer.W.bias[rows])
                getattr(lstm, "weight_hh" + name).copy_(layer.U[d, :, :4*H].T); getattr(lstm, "bias_hh" + name).zero_()
    return lstm


def sigmoid(a): return 1/(1 + math.exp(-a))


def slow_layer(layer, x, w, mask):
    "One layer in plain Python numbers, bag by bag, unit by unit, over the real instances only."
    B, N, D = x.shape; H = layer.U.shape[1]; R = layer.U.shape[2]
    W, b, U, out = layer.W.weight.tolist(), layer.W.bias.tolist(), layer.U.tolist(), torch.zeros(B, N, 2*H,
        dtype=torch.float64)
    for i in range(B):
        real = [n for n in range(N) if mask[i, n]]
        total = sum(float(w[i, n]) for n in real) if w.ndim == 2 else None
        for d in (0, 1):
            h, c = [0.]*H, [0.]*H
            for n in (real if d == 0 else real[::-1]):
                pre = [b[r] + sum(W[r][a]*float(x[i, n, a]) for a in range(D))
                       + sum(U[d][a][r - R*d]*h[a] for a in range(H))
                       for r in range(R*d, R*(d + 1))]
                new_h, new_c = [0.]*H, [0.]*H
                for u in range(H):
                    ig, fg, cand, og = (pre[g*H + u] for g in range(4))
                    s = (1. if layer.gate == "none" else float(w[i, n, u]) if total is None
                         else len(real) * float(w[i, n]) / total)
                    if layer.gate == "product": s *= sigmoid(pre[4*H + u])
                    new_c[u] = sigmoid(fg)*c[u] + sigmoid(ig)*math.tanh(cand)*s
                    new_h[u] = sigmoid(og)*math.tanh(new_c[u])
                h, c = new_h, new_c
                out[i, n, d*H:(d + 1)*H] = torch.tensor(h, dtype=torch.float64)
    return out


# ---- the cell and the recurrence

def test_cell_by_hand():
    # i=f=o=1/2, c_hat=1/2, sigma(s)=3/4
    z = torch.tensor([[0., 0., math.atanh(.5), 0., math.log(3.)]], dtype=torch.float64)
    h, c, s = gated_cell(z, torch.tensor([[.8]]).double(), torch.tensor([[2.]]).double())
    torch.testing.assert_close(s.item(), 1.5)
    torch.testing.assert_close(c.item(), .5*.8 + .5*.5*1.5)
    torch.testing.assert_close(h.item(), .5*math.tanh(.775))


def test_no_weight_writes_nothing():
    z, c = torch.randn(3, 10).double(), torch.randn(3, 2).double()
    other = z.clone(); other[:, 4:6] += 5                                                    # another candidate
    other[:, :2] -= 3; other[:, 8:] += 1                                                     # other input gate and s
    a, b = gated_cell(z, c, torch.zeros(3, 1)), gated_cell(other, c, torch.zeros(3, 1))
    assert torch.equal(a[1], b[1]) and torch.equal(a[0], b[0])
    torch.testing.assert_close(a[1], z[:, 2:4].sigmoid()*c)


@pytest.mark.parametrize("layers", [1, 2])
def test_equals_lstm_when_the_gate_is_one(layers):
    wian = WIAN(6, 5, layers=layers).double()
    for layer in wian.layers: force_gate_open(layer)
    x = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    lstm = lstm_with_weights_of(wian.layers, 6, 5)
    states, w = wian(x, torch.full((3, 7), 1/7).double())
    torch.testing.assert_close(states, lstm(x)[0], rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(s.square().sum(), x)[0] for s in (states, lstm(x)[0]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_padded_bags_equal_packed_lstm():
    wian = WIAN(6, 5).double(); force_gate_open(wian.layers[0])
    lstm, x, lengths = lstm_with_weights_of(wian.layers, 6, 5), torch.randn(3, 6, 6).double(), torch.tensor([6, 4, 1])
    mask = torch.arange(6)[None] < lengths[:, None]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    expected = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(wian(x, mask/lengths[:, None], mask)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
def test_equals_slow_loops(gate, over):
    wian, mask = WIAN(3, 4, layers=2, gate=gate).double(), ragged_mask(4, 5)
    x, w = torch.randn(4, 5, 3).double(), weights(4, 5) if over == "instances" else feature_weights(4, 5, 4)
    with torch.no_grad(): states, _ = wian(x, w, mask)
    expected = slow_layer(wian.layers[1], slow_layer(wian.layers[0], x, w, mask), w, mask)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)


# ---- how much of the gate is kept

@pytest.mark.parametrize("layers", [1, 2])
def test_gate_none_is_the_lstm_forward_and_gradient(layers):
    wian = WIAN(6, 5, layers=layers, gate="none").double()
    lstm, w = lstm_with_weights_of(wian.layers, 6, 5), weights(3, 7).requires_grad_()
    x = torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    states, theirs = wian(x, w)[0], lstm(x)[0]
    torch.testing.assert_close(states, theirs, rtol=0, atol=1e-12)
    a = torch.autograd.grad(states.square().sum(), [x, *wian.parameters()])
    b = torch.autograd.grad(theirs.square().sum(), [x, *lstm.parameters()])
    theirs = dict(zip(["x"] + [n for n, _ in lstm.named_parameters()], b))
    torch.testing.assert_close(a[0], theirs["x"], rtol=0, atol=1e-12)
    for (name, _), grad in zip(wian.named_parameters(), a[1:]):
        k, what = name.split(".")[1], name.split(".", 2)[2]
        part = {"W.weight": "weight_ih", "W.bias": "bias_ih", "U": "weight_hh"}[what]
        pair = torch.stack([theirs[f"{part}_l{k}"], theirs[f"{part}_l{k}_reverse"]])          # (direction, gates, from)
        torch.testing.assert_close(grad, pair.mT if what == "U" else pair.flatten(0, 1), rtol=0, atol=1e-12)
    assert torch.equal(wian(x, weights(3, 7))[0], states)         # whatever the weights are


@pytest.mark.parametrize("layers", [1, 2])
def test_gate_none_equals_packed_lstm(layers):
    wian = WIAN(6, 5, layers=layers, gate="none").double()
    lstm, lengths = lstm_with_weights_of(wian.layers, 6, 5), torch.tensor([6, 4, 1])
    x = torch.randn(3, 6, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(6)[None] < lengths[:, None]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    expected = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
    states = wian(x, weights(3, 6), mask)[0]
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(s.square().sum(), x)[0] for s in (states, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_gate_weight_with_uniform_weights_is_gate_none():
    none, weight = WIAN(6, 5, layers=2, gate="none").double(), WIAN(6, 5, layers=2, gate="weight").double()
    weight.load_state_dict(none.state_dict())
    x, uniform = torch.randn(3, 4, 6).double(), torch.full((3, 4), .25).double()
    (a, _, gates), b = weight.gates(x, uniform), none(x, uniform)[0]
    assert torch.equal(a, b) and all((s == 1).all() and s.shape == (3, 4, 10) for s in gates)
    torch.testing.assert_close(a, lstm_with_weights_of(none.layers, 6, 5)(x)[0], rtol=0, atol=1e-12)
    mask = ragged_mask(3, 4)
    torch.testing.assert_close(weight(x, uniform, mask)[0], none(x, uniform, mask)[0], rtol=0, atol=1e-12)
    assert (weight(x, weights(3, 4))[0] - b).abs().max() > 1e-3


def test_parameters_of_each_gate():
    count = {gate: sum(p.numel() for p in WIAN(6, 5, gate=gate).parameters()) for gate in GATES}
    one_gate = 2*(6*5 + 5*5 + 5)
    assert count == dict(product=5*one_gate, weight=4*one_gate, none=4*one_gate)
    for gate in GATES:                                            # nothing lies unused
        wian = WIAN(6, 5, layers=2, gate=gate)
        wian(torch.randn(2, 4, 6), weights(2, 4).float())[0].square().sum().backward()
        for p in wian.parameters(): assert (p.grad != 0).all()


# ---- a weight over the features

@pytest.mark.parametrize("gate", ("product", "weight"))
def test_feature_weights_gate_every_layer_without_the_factor_n(gate):
    wian, mask = WIAN(4, 6, layers=2, gate=gate).double(), ragged_mask(4, 5)
    x, u = torch.randn(4, 5, 4).double(), feature_weights(4, 5, 6)
    _, importance, gates = wian.gates(x, u, mask)
    torch.testing.assert_close(importance, mask/mask.sum(1, keepdim=True).double())
    for s in gates:
        for half in s.chunk(2, -1):
            ceiling = torch.where(mask[..., None], u, 0)
            assert (half <= ceiling).all() if gate == "product" else torch.equal(half, ceiling)


def test_equal_feature_weights_are_one_scaled_gate():
    "u = 1 in every unit is what uniform weights over the instances do."
    wian, x = WIAN(4, 6, layers=2).double(), torch.randn(3, 5, 4).double()
    torch.testing.assert_close(wian(x, torch.ones(3, 5, 6).double())[0], wian(x, torch.full((3, 5), .2).double())[0])


def test_untrained_gate_over_features_is_half_of_one_over_h():
    geiim, wian, x = GEIIM(64, 4), WIAN(64), torch.randn(8, 4, 64)
    f, _ = geiim(x)
    mean = {over: wian.gates(f, geiim.dependency(f, over=over))[2][0].mean().item() for over in OVER}
    assert abs(mean["features"]*2*64 - 1) < 0.1 and abs(mean["instances"]*2 - 1) < 0.1


def test_reversing_time_swaps_the_directions():
    layer, x, w = GatedLSTM(4, 3).double(), torch.randn(2, 6, 4).double(), weights(2, 6)*6
    swapped, H, real = GatedLSTM(4, 3).double(), 3, torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        for ours, theirs in ((swapped.W.weight, layer.W.weight), (swapped.W.bias, layer.W.bias)):
            ours[:5*H].copy_(theirs[5*H:]); ours[5*H:].copy_(theirs[:5*H])
        swapped.U.copy_(layer.U.flip(0))
    out, s = layer(x, w, real); back, s_back = swapped(x.flip(1), w.flip(1), real)
    torch.testing.assert_close(back, torch.cat([out[..., H:], out[..., :H]], -1).flip(1), rtol=0, atol=1e-14)
    torch.testing.assert_close(s_back, torch.cat([s[..., H:], s[..., :H]], -1).flip(1), rtol=0, atol=1e-14)


def test_directions_read_as_they_say():
    "The forward half at t knows nothing of later instances, the backward half nothing of earlier ones."
    layer, x = GatedLSTM(4, 3).double(), torch.randn(1, 5, 4).double()
    one = torch.ones(1, 5).double(); y = x.clone(); y[0, 2] += 1
    moved = (layer(y, one, one.bool())[0] - layer(x, one, one.bool())[0])[0].abs() > 1e-12
    assert moved[:, :3].any(1).tolist() == [False, False, True, True, True]
    assert moved[:, 3:].any(1).tolist() == [True, True, True, False, False]


# ---- weights

def test_uniform_weights_mean_one_for_any_length():
    wian = WIAN(4, 3).double()
    for n in (1, 2, 5):
        x, mask = torch.randn(2, 5, 4).double(), (torch.arange(5) < n).expand(2, 5)
        _, w, (s,) = wian.gates(x, (mask/n).double(), mask)
        ungated = wian.layers[0](x.masked_fill(~mask[..., None], 0), torch.ones(2, 5).double(), mask)[1]
        torch.testing.assert_close(s, ungated)
        torch.testing.assert_close(w, (mask/n).double())


def test_weights_are_handed_on_and_sum_to_one():
    wian, x, mask = WIAN(4), torch.randn(4, 5, 4), ragged_mask(4, 5)
    w = weights(4, 5, mask).float()
    torch.testing.assert_close(wian(x, w, mask)[1], w)
    # weight spent on padding is shared out again
    raw = weights(4, 5).float()
    out = wian(x, raw, mask)[1]
    torch.testing.assert_close(out.sum(1), torch.ones(4)); assert (out[~mask] == 0).all()
    torch.testing.assert_close(out[0], raw[0])


def test_gate_is_bounded_by_its_weight():
    x, w = torch.randn(3, 5, 4), weights(3, 5).float()
    _, _, gates = WIAN(4, 6, layers=3).gates(x, w)
    assert [tuple(s.shape) for s in gates] == [(3, 5, 12)]*3
    for s in gates: assert (s > 0).all() and (s < 5*w[..., None]).all()


def test_gradient_reaches_the_weights():
    w = weights(2, 4).requires_grad_()
    WIAN(3).double()(torch.randn(2, 4, 3).double(), w)[0].square().sum().backward()
    assert (w.grad.abs() > 1e-9).all()


# ---- invariants

@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("junk", [0., 1e6, float("nan"), float("inf")])
def test_padding_changes_nothing_to_the_last_bit(junk, gate, over):
    wian, x, mask = WIAN(8, 5, layers=2, gate=gate), torch.randn(4, 5, 8), ragged_mask(4, 5)
    w = (weights(4, 5, mask) if over == "instances" else feature_weights(4, 5, 5)).float()
    dirty, dirty_w = (torch.where(mask.view(4, 5, *[1]*(a.ndim - 2)), a, torch.tensor(junk)) for a in (x, w))
    results = []
    for z, v in ((x, w), (dirty, dirty_w)):
        wian.zero_grad(); states, out = wian(z, v, mask); states.square().sum().backward()
        results.append([states, out] + [p.grad.clone() for p in wian.parameters()])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*results))
    assert (results[0][0][~mask] == 0).all()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
def test_padded_bag_equals_short_bag(gate, over):
    wian, x = WIAN(4, 3, layers=2, gate=gate).double(), torch.randn(2, 6, 4).double()
    mask = (torch.arange(6) < 4).expand(2, 6)
    w = weights(2, 6, mask) if over == "instances" else feature_weights(2, 6, 3)
    torch.testing.assert_close(wian(x, w, mask)[0][:, :4], wian(x[:, :4], w[:, :4])[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
def test_batch_of_one_equals_batch_of_many(gate, over):
    wian, x, mask = WIAN(4, 3, gate=gate).double(), torch.randn(4, 5, 4).double(), ragged_mask(4, 5)
    w = weights(4, 5, mask) if over == "instances" else feature_weights(4, 5, 3); together = wian(x, w, mask)[0]
    for b in range(4):
        alone, _ = wian(x[b:b + 1], w[b:b + 1], mask[b:b + 1])
        assert alone.shape == (1, 5, 6); torch.testing.assert_close(alone[0], together[b])


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
def test_gradcheck(gate, over):
    wian, mask = WIAN(2, 2, layers=2, gate=gate).double(), torch.tensor([[True]*3, [True, True, False]])
    x, w = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True), weights(2, 3,
        mask) if over == "instances" else feature_weights(2, 3, 2)
    w.requires_grad_()
    names = list(dict(wian.named_parameters()))
    f = lambda x, w, *p: torch.func.functional_call(wian, dict(zip(names, p)), (x, w, mask))
    assert torch.autograd.gradcheck(f, (x, w, *wian.parameters()))


def test_bfloat16_autocast():
    geiim, wian, mask = GEIIM(16, 4), WIAN(16, 8, layers=2), torch.tensor([[True]*4, [True, True, False, False]])
    x = torch.randn(2, 4, 16); f, _ = geiim(x, mask)
    exact = wian(f, geiim.dependency(f, mask), mask)[0]
    with torch.autocast("cpu", torch.bfloat16):
        f, _ = geiim(x, mask); states, w = wian(f, geiim.dependency(f, mask), mask)
        bags = [WIAN(16, gate=gate)(f, geiim.dependency(f, mask, "features"), mask)[0] for gate in GATES]
        (states.float().square().sum() + sum(b.float().square().sum() for b in bags)).backward()
    assert states.isfinite().all() and all(b.isfinite().all() for b in bags)
    assert (states.float() - exact).abs().max() < 0.05
    assert all(p.grad is None or p.grad.isfinite().all() for p in [*geiim.parameters(), *wian.parameters()])
    torch.testing.assert_close(w.float().sum(1), torch.ones(2), atol=1e-2, rtol=0)


def test_shapes_and_defaults():
    assert WIAN(6)(torch.randn(2, 4, 6), torch.full((2, 4), .25))[0].shape == (2, 4, 12)     # hidden = dim
    assert WIAN(6, 3, layers=3)(torch.randn(2, 4, 6), torch.full((2, 4), .25))[0].shape == (2, 4, 6)
    assert WIAN(6, 3)(torch.randn(1, 1, 6), torch.ones(1, 1))[0].shape == (1, 1, 6)
    hidden = 16; bound = hidden**-.5
    for p in GatedLSTM(8, hidden).parameters():                                              # the start of nn.LSTM
        assert -bound <= p.min() < -.9*bound and .9*bound < p.max() <= bound


def test_dropout_sits_between_layers():
    x, w = torch.randn(2, 4, 6), torch.full((2, 4), .25)
    one, two = WIAN(6, dropout=.5), WIAN(6, layers=2, dropout=.5)
    assert torch.equal(one(x, w)[0], one(x, w)[0]) and not torch.equal(two(x, w)[0], two(x, w)[0])
    two.eval(); assert torch.equal(two(x, w)[0], two(x, w)[0])


def test_state_dict_round_trip(tmp_path):
    from safetensors.torch import load_file, save_file
    a, b, x, w = WIAN(6, 4, layers=2), WIAN(6, 4, layers=2), torch.randn(2, 4, 6), torch.full((2, 4), .25)
    save_file(a.state_dict(), tmp_path/"m.safetensors"); b.load_state_dict(load_file(tmp_path/"m.safetensors"))
    assert torch.equal(a(x, w)[0], b(x, w)[0])


@pytest.mark.parametrize("make, words", [
    (lambda: WIAN(8, 6)(torch.randn(2, 4, 8), torch.rand(2, 4, 8)),
     ("(2, 4)", "one number for each instance", "(2, 4, 6)", "(2, 4, 8)", "hidden")),
    (lambda: WIAN(8)(torch.randn(2, 4, 8), torch.rand(2, 3, 8)), ("(2, 4, 8)", "(2, 3, 8)")),
    (lambda: WIAN(8, gate="open"), ("gate", "product", "weight", "none", "'open'")),
    (lambda: WIAN(8)(torch.randn(2, 4, 8), torch.rand(2, 3)), ("(2, 4)", "(2, 3)")),
    (lambda: WIAN(8)(torch.randn(2, 4, 7), torch.rand(2, 4)), ("WIAN", "(B, N, 8)", "(2, 4, 7)")),
    (lambda: WIAN(8)(torch.randn(2, 4, 8), torch.rand(2, 4), torch.ones(2, 4)), ("bool", "float32")),
    (lambda: WIAN(8, layers=0), ("layers", "0")),
])
def test_errors(make, words):
    with pytest.raises(MicaclError) as e: make()
    assert "\n" not in str(e.value)
    for word in words: assert word in str(e.value), str(e.value)


def test_what_comes_in_is_checked():
    wian, x, w = WIAN(8), torch.randn(2, 4, 8), torch.full((2, 4), .25)
    for args in ((x[..., :7], w), (x, w, torch.ones(2, 4)), (x, w[:, :3])):
        with pytest.raises(MicaclError, match="^WIAN: expected "): wian(*args)
    with pytest.raises(MicaclError, match="^WIAN: expected instance features in torch.float32"): wian(x.double(), w)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("over", OVER)
def test_the_type_and_the_device_of_the_input_are_kept(gate, over):
    "A meta tensor has a device and no numbers: whatever is made on another device can't be added to it."
    wian, x, mask = WIAN(8, 5, gate=gate), torch.randn(4, 5, 8), ragged_mask(4, 5)
    w = (weights(4, 5, mask) if over == "instances" else feature_weights(4, 5, 5)).float()
    assert {t.dtype for t in wian.bfloat16()(x.bfloat16(), w.bfloat16(), mask)} == {torch.bfloat16}
    wian, x, w, mask = wian.float().to("meta"), x.to("meta"), w.to("meta"), mask.to("meta")
    assert all(t.is_meta for given in (None, mask) for t in wian(x, w, given))


def test_wian_sees_the_order():
    wian, x, w = WIAN(8).double(), torch.randn(3, 5, 8).double(), weights(3, 5)
    perm = torch.tensor([3, 0, 4, 1, 2])
    assert (wian(x, w)[0].mean(1) - wian(x[:, perm], w[:, perm])[0].mean(1)).abs().max() > 1e-3


def test_finds_the_instance_that_matters():
    "One of five instances carries the class in its sign; the others carry random signs and no marker."
    g, N = torch.Generator().manual_seed(0), 5
    def bags(n):
        k, x = torch.randint(N, (n,), generator=g), 0.3*torch.randn(n, N, 4, generator=g)
        sign = torch.randint(2, (n, N), generator=g)*2. - 1
        x[..., 0] += sign; x[torch.arange(n), k, 1] += 2
        return x, (sign[torch.arange(n), k] > 0).long(), k
    wian, score, head = WIAN(4, 8), nn.Linear(4, 1, bias=False), nn.Linear(16, 2)
    nn.init.zeros_(score.weight)
    opt = torch.optim.Adam([*wian.parameters(), *score.parameters(), *head.parameters()], lr=2e-2)
    for _ in range(120):
        x, y, k = bags(64)
        states, w = wian(x, score(x).squeeze(-1).softmax(1))
        loss = nn.functional.cross_entropy(head(states.mean(1)), y); opt.zero_grad(); loss.backward(); opt.step()
    x, y, k = bags(500)
    with torch.no_grad(): states, w = wian(x, score(x).squeeze(-1).softmax(1))
    assert (head(states.mean(1)).argmax(1) == y).float().mean() > 0.9
    assert (w.argmax(1) == k).float().mean() > 0.9
