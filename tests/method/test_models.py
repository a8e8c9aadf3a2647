"The models: shapes, and wiring of all six."
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from micacl.core import MicaclError
from micacl.train.config import Config
from micacl.mccl import MCCL
from micacl.models import M3DFEL, MICACL, MODELS, BagOutput, PoolMIL, prepare_video
from micacl.nn.backbone import read_weights, weights_path
from micacl.nn.pools import GatedAttentionPool
from micacl.nn.tails import DMINTail, NormTail
from micacl.train.objective import build_model

NAMES = list(MODELS)

def make(name, seed=0, **options):
    torch.manual_seed(seed)
    return MODELS[name](**{"backbone": "r3d_small", **options})

def movie(B=2, T=16, px=32, seed=0):
    return torch.randint(0, 256, (B, T, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

@pytest.fixture(params=NAMES)
def model(request): return make(request.param)

# ---- parts that can be left out

PARTS = [dict(), dict(geiim=False), dict(wian=False), dict(geiim=False, wian=False)]

@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_micacl(parts):
    model, x = make("micacl", **parts).eval(), torch.randn(3, 4, 128)
    out = model(x)
    names = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert ("geiim" in names, "wian" in names, "tail" in names) == (parts.get("geiim", True), parts.get("wian", True),
        parts.get("wian", True))
    assert ((out.adjacency is None) == (not parts.get("geiim", True))
            and torch.equal(out.weights, torch.full((3, 4), .25)))
    if parts == dict(geiim=False, wian=False): assert torch.allclose(out.bag, x.mean(1), atol=1e-6)
    with torch.no_grad(): (model.score if model.geiim is None else model.geiim.score).weight.normal_()
    out = model(x)
    assert (torch.allclose(out.weights.sum(1), torch.ones(3))
            and not torch.allclose(out.weights, torch.full((3, 4), .25), atol=.01))
    if not parts.get("wian", True):
        assert torch.allclose(out.bag, torch.einsum("bn,bnd->bd", out.weights, out.instances), atol=1e-5)

OPTIONS = [dict(dependency_over="features"), dict(gate="weight"), dict(gate="none"), dict(tail="dmin"),
           dict(tail="conv"), dict(tail="mean"), dict(graph_over="channels"), dict(dilation=2), dict(kernels=(3,)),
           dict(adjacency="both"), dict(hops=2), dict(layers=2)]

@pytest.mark.parametrize("options", OPTIONS + PARTS[1:], ids=str)
def test_every_option_learns_with_every_parameter(options):
    model, x, y = make("micacl", **options), torch.randn(8, 4, 128), torch.tensor([0, 1, 2, 3] * 2)
    model.freeze_backbone()
    head = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    opt, first = torch.optim.AdamW([p for _, p in head], lr=3e-3), None
    for _ in range(12):
        out = model.train()(x); loss = F.cross_entropy(out.logits, y)
        assert torch.allclose(out.weights.sum(1), torch.ones(8), atol=1e-5)
        opt.zero_grad(); loss.backward(); opt.step(); first = first or loss.item()
    assert loss.item() < first / 2
    assert [n for n, p in head if p.grad is None or not p.grad.isfinite().all()] == []
    dead = [n for n, p in head if p.grad.abs().sum() == 0]
    assert dead == (["geiim.score.weight"] if options == dict(gate="none", tail="dmin") else [])

def test_channel_graph_reports_its_own_matrix():
    A = make("micacl", graph_over="channels")(torch.randn(2, 4, 128)).adjacency
    assert A.shape == (128, 128) and torch.allclose(A.sum(-1), torch.ones(128), atol=1e-5)

def test_a_frozen_backbone_stays():
    model, before = build_model(Config(model="mean", pretrained=False, backbone_lr=0.0), 7), None
    assert model.frozen and not any(p.requires_grad for p in model.backbone.parameters())
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    F.cross_entropy(model.train()(movie(4)).logits, torch.tensor([0, 1, 2, 3])).backward()
    assert not model.backbone.training and model.training and model.fc.weight.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    free = build_model(Config(model="mean", pretrained=False), 7).train()
    assert not free.frozen and free.backbone.training

def test_features_and_videos_are_told_apart(model):
    model.eval(); v = movie()
    with torch.no_grad(): torch.testing.assert_close(model(model.encode(v)).logits, model(v).logits)

# ---- all models

@pytest.mark.parametrize("B", [1, 3])
def test_shapes_and_rows(model, B):
    out = model(movie(B))
    assert isinstance(out, BagOutput) and BagOutput._fields == ("logits", "bag", "instances", "weights", "adjacency")
    assert out.logits.shape == (B, 7) and out.bag.shape == (B, model.bag_dim)
    assert out.instances.shape == (B, 4, 128) and out.weights.shape == (B, 4)
    assert model.bag_dim == (256 if isinstance(model, (MICACL, M3DFEL)) else 128)
    assert torch.allclose(out.weights.sum(1), torch.ones(B)) and (out.weights >= 0).all()
    assert (out.adjacency is None) == (not isinstance(model, MICACL))
    if out.adjacency is not None:
        assert torch.allclose(out.adjacency.sum(-1), torch.ones(4)) and (out.adjacency >= 0).all()
    assert torch.allclose(out.logits, model.fc(out.bag))

@pytest.mark.parametrize("name", NAMES)
def test_other_bags_and_class_numbers(name):
    out = make(name, n_classes=11, n_instances=2, instance_length=3)(movie(2, 6))
    assert out.logits.shape == (2, 11) and out.weights.shape == (2, 2)
    assert make(name, n_instances=1, instance_length=2)(movie(2, 2)).logits.isfinite().all()

def test_r3d_18_once():
    model = make("micacl", backbone="r3d_18").eval()
    with torch.no_grad(): out = model(movie(1, px=48))
    assert out.logits.shape == (1, 7) and out.bag.shape == (1, 1024) and out.instances.shape == (1, 4, 512)

def test_bytes_equal_floats(model):
    model.eval(); v = movie()
    with torch.no_grad(): assert torch.equal(model(v).logits, model(v.float() / 255).logits)

def test_eval_mode_clips_do_not_hear_each_other(model):
    model.eval(); v = movie(3)
    with torch.no_grad():
        whole = model(v)
        for b in range(3):
            alone = model(v[b:b+1])
            assert torch.allclose(alone.logits, whole.logits[b:b+1], atol=1e-5)
            assert torch.allclose(alone.weights, whole.weights[b:b+1], atol=1e-5)

def test_instances_are_consecutive_frames(model):
    "Instance n is made of frames nL .. nL+L-1 and of no others."
    model.eval(); v = movie(1); changed = v.clone()
    changed[:, 4:8] = 255 - changed[:, 4:8]
    with torch.no_grad(): moved = (model.encode(v) - model.encode(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, True, False, False]

def test_gradient_reaches_every_parameter(model):
    model.train(); v, y = movie(4), torch.tensor([0, 1, 0, 1])
    opt, mccl = torch.optim.SGD(model.parameters(), lr=.1), MCCL([2] * 7, model.bag_dim)
    for _ in range(2):  # twice: GEIIM's score starts at zero and passes gradient on only after a step
        opt.zero_grad()
        out = model(v); (F.cross_entropy(out.logits, y) + mccl(out.bag, y)).backward()
        opt.step()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
            or p.grad.abs().sum() == 0]
    assert dead == []

def test_dependency_weights_get_a_gradient_at_the_first_step():
    model = make("micacl"); x = torch.randn(4, 4, 128)
    F.cross_entropy(model.from_instances(x).logits, torch.tensor([0, 1, 2, 3])).backward()
    assert model.geiim.score.weight.grad.abs().sum() > 0

def test_weights_matter_to_the_scores():
    "Closing WIAN for all but one instance changes the bag: the weights aren't decoration."
    model = make("micacl").eval(); x = torch.randn(2, 4, 128)
    with torch.no_grad():
        G, _ = model.geiim(x)
        bags = [model.tail(*model.wian(G, w.expand(2, 4)))[0] - model.tail.conv.bias
                for w in (torch.full((4,), .25), torch.eye(4)[0], torch.eye(4)[3])]
        assert torch.equal(model.from_instances(x).weights, torch.full((2, 4), .25))  # untrained: uniform
    assert all((bags[i] - bags[j]).norm() > .5 * bags[0].norm() for i, j in ((0, 1), (0, 2), (1, 2)))

def test_same_seed_same_model(model):
    name = next(n for n, M in MODELS.items() if type(model) is M)
    again, other = make(name).state_dict(), make(name, seed=1).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, other[k]) for k, v in model.state_dict().items())

def test_safetensors_round_trip(model, tmp_path):
    name = next(n for n, M in MODELS.items() if type(model) is M)
    model(movie())  # moves the running statistics
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = make(name, seed=1)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad(): a, b = model.eval()(movie(seed=5)), other.eval()(movie(seed=5))
    assert torch.equal(a.logits, b.logits) and torch.equal(a.weights, b.weights)

def test_mixed_precision_is_finite(model):
    v = movie(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(v)
        loss = (F.cross_entropy(out.logits, torch.tensor([0, 1, 2, 3])) + MCCL([1] * 7, model.bag_dim)(out.bag,
            torch.tensor([0, 0, 1, 1])))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

@pytest.mark.parametrize("name", ["mean", "max", "attention"])
def test_pools_do_not_mind_the_order_of_instances(name):
    model, x, order = make(name).eval(), torch.randn(2, 4, 128), torch.tensor([3, 1, 0, 2])
    a, b = model.from_instances(x), model.from_instances(x[:, order])
    assert torch.allclose(a.logits, b.logits, atol=1e-6) and torch.allclose(a.weights[:, order], b.weights, atol=1e-6)

def test_baselines_by_hand():
    x = torch.randn(2, 4, 128)
    assert torch.allclose(make("mean").from_instances(x).bag, x.mean(1), atol=1e-6)
    assert torch.equal(make("max").from_instances(x).bag, x.amax(1))

def test_m3dfel_is_bilstm_then_tail():
    model, x = make("m3dfel").eval(), torch.randn(2, 4, 128)
    lstm = nn.LSTM(128, 128, 2, batch_first=True, bidirectional=True)
    lstm.load_state_dict(model.lstm.state_dict())
    H = lstm(x)[0]
    bag, attention = model.tail(H)
    out = model.from_instances(x)
    assert torch.allclose(out.bag, bag) and torch.allclose(out.instances, x)
    want = torch.stack([attention[:, :, k].sum(1) / 4 for k in range(4)], 1)  # what instance k receives from the four
    assert torch.allclose(out.weights, want)

def test_geiim_options_are_passed_on():
    assert make("micacl", adjacency="data").from_instances(torch.randn(3, 4, 128)).adjacency.shape == (3, 4, 4)
    A = make("micacl", neighbours_only=True).from_instances(torch.randn(3, 4, 128)).adjacency
    assert A[0, 2] == A[0, 3] == A[3, 0] == 0
    assert make("micacl", hidden=32, heads=4).bag_dim == 64
    c = Config(pretrained=False, model_args=dict(kernels=(1, 3), hops=2, gate="weight", layers=2, tail="dmin",
                                                 adjacency="both", dilation=2, alpha=0.5))
    model = build_model(c, 7)
    assert (len(model.geiim.scales.branches), model.geiim.hops, len(model.wian.layers), type(model.tail)) == (2, 2, 2,
        DMINTail)
    assert (model.geiim.graph.kind == "both" and build_model(Config(pretrained=False, model_args=dict(geiim=False)),
                                                             7).geiim is None)

def test_dropout_is_off_in_eval_mode_and_by_default():
    x = torch.randn(2, 4, 128)
    assert all(m.p == 0 for m in make("micacl").modules() if isinstance(m, nn.Dropout))
    model = make("micacl", dropout=.5)
    assert not torch.equal(model.from_instances(x).logits, model.from_instances(x).logits)
    model.eval()
    assert torch.equal(model.from_instances(x).logits, model.from_instances(x).logits)

def test_learns_eight_noisy_clips_by_heart():
    model, y = make("micacl"), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])
    v, losses = torch.rand(8, 16, 3, 32, 32), []
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(15):
        loss = F.cross_entropy(model(v).logits, y)
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(loss.item())
    assert losses[-1] < losses[0] / 4

def test_options_of_size_and_dropout_reach_every_part():
    x = torch.randn(2, 4, 128)
    narrow = make("micacl", hidden=32, heads=4).eval()
    assert narrow(x).bag.shape == (2, 64) and narrow.wian(narrow.geiim(x)[0], torch.full((2, 4), .25))[0].shape[2] == 64
    assert narrow.tail.attention.num_heads == 4
    for gate in ("product", "weight", "none"): assert make("micacl", gate=gate).wian.layers[0].gate == gate
    model = make("micacl", dropout=.3, layers=2)
    assert [m.p for m in model.geiim.modules() if isinstance(m, nn.Dropout)] == [.3] and model.drop.p == .3
    old = make("m3dfel", dropout=.3, hidden=16, layers=1, heads=4)
    assert (old.lstm.hidden_size, old.lstm.num_layers, old.lstm.dropout, old.drop.p) == (16, 1, 0, .3)
    assert make("m3dfel", dropout=.3).lstm.dropout == .3 and old(x).bag.shape == (2, 32)
    assert old.tail.attention.num_heads == 4

def test_a_tail_of_another_length():
    class Twice(nn.Module):
        bag_dim = 512
        def forward(self, H, w): return torch.cat([H.mean(1), H.amax(1)], 1), None
    out = make("micacl", tail=Twice())(torch.randn(3, 4, 128))
    assert out.bag.shape == (3, 512) and out.logits.shape == (3, 7)

def test_without_geiim_a_score_has_no_constant_that_a_softmax_would_drop():
    assert [n for n, _ in make("micacl", geiim=False).score.named_parameters()] == ["weight"]

@pytest.mark.parametrize("name", NAMES + ["pool"])
def test_without_options_a_model_is_that_of_the_paper(name):
    "R3D-18, seven emotions, four instances of four frames; no weights from elsewhere and no dropout."
    M = PoolMIL if name == "pool" else MODELS[name]
    model = M()
    assert (model.n_classes, model.n_instances, model.instance_length) == (7, 4, 4) and not model.frozen
    assert model.backbone.dim == 512 and type(model.backbone.net).__name__ == "VideoResNet"
    assert model.drop.p == 0 and model.fc.weight.shape == (7, 1024 if name in ("micacl", "m3dfel") else 512)
    if name == "pool": assert type(model.pool) is GatedAttentionPool
    if name == "micacl":
        assert len(model.wian.layers) == 1 and model.tail.attention.num_heads == 8 and type(model.tail) is NormTail
    if name == "m3dfel": assert model.lstm.num_layers == 2 and model.tail.attention.num_heads == 8

@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_backbone_are_loaded_if_they_are_asked_for(name):
    state = make(name, pretrained=True).backbone.state_dict()
    saved = {k: v for k, v in read_weights(weights_path(), "r3d_small")[0].items() if not k.startswith("head.")}
    assert all(torch.equal(state[k], v) for k, v in saved.items()) and len(saved) > 10
    assert not torch.equal(make(name).backbone.state_dict()["net.1.0.weight"], saved["net.1.0.weight"])

# ---- number types

def test_behind_the_backbone_autocast_changes_nothing(model):
    "Weights that sum to 1 in 32 bits, and scores as without it."
    x = torch.randn(2, 4, 128)
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16): low = model(x)
    assert torch.equal(low.logits, model(x).logits) and torch.equal(low.weights, model(x).weights)

def test_a_model_without_numbers_says_the_shapes(model):
    out = model.to("meta")(torch.zeros(2, 4, 128, device="meta"))
    assert out.logits.shape == (2, 7) and out.logits.device.type == "meta"
    with torch.no_grad(): assert prepare_video(torch.zeros(2, 8, 3, 32, 32, device="meta"), 8).is_meta

def test_without_a_last_layer_features_come_in_the_default_type():
    model, x = make("mean", head=nn.Identity()), torch.randn(2, 4, 128, dtype=torch.float64)
    assert model(x).logits.dtype == torch.float32 and torch.equal(model(x).logits, x.float().mean(1))

# ---- configuration and errors

@pytest.mark.parametrize("name", NAMES)
def test_build_model(name):
    model = build_model(Config(model=name, pretrained=False, n_instances=2, instance_length=3), 5)
    assert type(model) is MODELS[name] and model.n_instances == 2 and model.fc.out_features == 5
    assert model(movie(1, 6)).logits.shape == (1, 5)

def test_errors_are_one_line():
    model = make("mean")
    cases = [(lambda: model(movie(2, 12)), "found (2, 12, 3, 32, 32)"),
             (lambda: model(movie()[0]), "expected video (B, 16, 3, H, W)"),
             (lambda: model(movie().movedim(2, -1)), "expected video (B, 16, 3, H, W)"),
             (lambda: prepare_video(movie().int(), 16), "uint8 or float"),
             (lambda: make("micacl", hidden=30), "8 heads do not divide"),
             (lambda: make("micacl", tail="x"), "tail: expected one of norm, dmin"),
             (lambda: make("micacl", dependency_over="features", geiim=False), "needs GEIIM, WIAN and hidden=128"),
             (lambda: make("micacl", dependency_over="features", hidden=64), "hidden=64"),
             (lambda: build_model(Config(model="vit"), 7), "found 'vit'")]
    for call, message in cases:
        with pytest.raises(MicaclError) as e: call()
        assert message in str(e.value) and "\n" not in str(e.value)

@pytest.mark.parametrize("shape, advice", [
    ((8, 3, 32, 32), "video[None]"), ((2, 8, 32, 32, 3), "permute"), ((2, 8, 4, 5, 3), "permute"),
    ((2, 8, 32, 3, 3), "permute"), ((2, 3, 8, 32, 32), "transpose"), ((2, 3, 4, 32, 32), "transpose"),
    ((2, 3, 8, 3, 32), "transpose"), ((2, 3, 3, 32, 32), "sample"), ((2, 6, 3, 32, 3), "sample"),
    ((2, 8, 1, 32, 32), "sample"), ((8, 32, 32), "sample"), ((1, 2, 8, 3, 32, 32), "sample")])
def test_the_advice_fits_the_shape(shape, advice):
    advice = {"permute": "video.permute(0, 1, 4, 2, 3)", "transpose": "video.transpose(1, 2)",
              "sample": "sample that many frames"}.get(advice, advice)
    with pytest.raises(MicaclError) as e: prepare_video(torch.zeros(shape), 8)
    assert str(e.value).endswith(advice) and f"found {shape}" in str(e.value)

@pytest.mark.parametrize("low, high, fine", [(-.3, 1.3, True), (0, 1, True), (-.31, 1, False), (0, 1.31, False)])
def test_how_far_floats_may_lie_outside_of_0_to_1(low, high, fine):
    video = torch.full((1, 2, 3, 4, 4), .5, dtype=torch.float64)
    video[0, 0, 0, 0, 0], video[0, 1, 2, 3, 3] = low, high
    if fine: assert prepare_video(video, 2) is video
    else:
        with pytest.raises(MicaclError, match=f"of 0 to 1, found {low:.4g} to {high:.4g};"): prepare_video(video, 2)
