"Beside a name, a module: each part of the network, the loss and the second stage, held against the named one."
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import r3d_18

from helpers import movie
from micacl.core import MicaclError
from micacl.nn.hub import made_with
from micacl.geiim import GEIIM, AdaptiveGraph
from micacl.longtail.classifiers import HEADS, SECOND_STAGES, build_head, second_stage, tau_normalise
from micacl.longtail.losses import LOSSES
from micacl.mccl import MCCL
from micacl.models import M3DFEL, MICACL, AttentionMIL, MaxMIL, MeanMIL, PoolMIL, TransformerMIL
from micacl.nn.backbone import KINETICS, Backbone, build_backbone
from micacl.nn.pools import POOLS, MeanPool
from micacl.nn.tails import TAILS, build_tail
from micacl.train.config import Config
from micacl.train.objective import Objective


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


def small(**options): return MICACL(backbone="r3d_small", **options).eval()
def one_line(e): return "\n" not in str(e.value)


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- backbone

def test_a_backbone_that_equals_the_named_one():
    named = small()
    passed = MICACL(backbone=copy.deepcopy(named.backbone)).eval()
    assert passed.state_dict().keys() == named.state_dict().keys()
    passed.load_state_dict(named.state_dict())
    with torch.no_grad(): assert same(passed(movie()), named(movie()))


def test_torchvisions_network_as_a_module():
    "The whole network, its last layer of 400 included, without our normalisation; by hand beside it."
    net, x = r3d_18(weights=None).eval(), movie(1, px=32)
    model = MeanMIL(backbone=net).eval()
    assert model.backbone.dim == 400 and model.bag_dim == 400
    with torch.no_grad():
        bags = (x / 255).unflatten(1, (4, 4)).flatten(0, 1).movedim(2, 1)
        torch.testing.assert_close(model(x).bag, net(bags).unflatten(0, (1, 4)).mean(1))
    net.fc = nn.Identity()
    wrapped, named = Backbone(net, 512, **KINETICS), MeanMIL(backbone="r3d_18").eval()
    named.backbone.load_state_dict(wrapped.state_dict())
    other = MeanMIL(backbone=wrapped).eval(); other.fc.load_state_dict(named.fc.state_dict())
    with torch.no_grad(): assert same(other(x), named(x))


def test_weights_of_a_name_are_not_asked_for_beside_a_module():
    with pytest.raises(MicaclError, match="expected False beside a backbone of one's own") as e:
        MICACL(backbone=build_backbone("r3d_small"), pretrained=True)
    assert one_line(e)


def test_a_backbone_that_lies_about_its_dim():
    net = build_backbone("r3d_small"); net.dim = 64
    with pytest.raises(MicaclError, match=r"backbone: expected features \(8, 64\), found \(8, 128\)"):
        MeanMIL(backbone=net)(movie(px=32))


# ---- graph

class Alone(nn.Module):
    def forward(self, x, mask=None): return torch.eye(x.shape[1], dtype=x.dtype)


class Given(nn.Module):
    def __init__(self, A): super().__init__(); self.register_buffer("A", A)
    def forward(self, x): return self.A


@pytest.mark.parametrize("kind", ["learned", "data", "both"])
def test_a_graph_that_equals_the_named_one(kind):
    x, mask = torch.randn(3, 4, 16), torch.tensor([[True] * 4, [True] * 3 + [False], [True] + [False] * 3])
    named = GEIIM(16, 4, kind)
    passed = GEIIM(16, 4, graph=AdaptiveGraph(16, 4, kind))
    passed.load_state_dict(named.state_dict())
    for m in (None, mask): assert same(passed(x, m), named(x, m))
    assert not same(GEIIM(16, 4, kind)(x), named(x))              # other weights: the comparison can fail


def test_identity_is_no_propagation():
    x = torch.randn(3, 4, 16)
    for hops in (1, 3):
        m = GEIIM(16, 4, hops=hops, alpha=.3, graph=Alone())
        r, A = m.responses(x)
        h = m.mix(torch.cat([x] * (hops + 1), -1)).mT                       # every hop is x itself
        for got, conv in zip(r, m.scales.branches):
            want = F.conv1d(h, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2).mT
            torch.testing.assert_close(got, want)
        assert torch.equal(A, torch.eye(4))


def test_a_graph_by_hand():
    "Everybody hears instance 0 alone: one hop is alpha x + (1 - alpha) x_0; a matrix for each bag, too."
    A, x = torch.zeros(4, 4), torch.randn(3, 4, 16); A[:, 0] = 1
    for given in (A, A.expand(3, 4, 4)):
        m = GEIIM(16, 4, graph=Given(given))
        want = m.scales(m.mix(torch.cat([x, .7 * x + .3 * x[:, :1]], -1)))
        for a, b in zip(m.responses(x)[0], want): torch.testing.assert_close(a, b)


def test_a_graph_is_learned_with_the_rest():
    class Scores(nn.Module):
        def __init__(self): super().__init__(); self.s = nn.Parameter(torch.randn(4, 4))
        def forward(self, x, mask=None): return self.s.softmax(-1)
    model = small(graph=Scores()).train()
    assert "geiim.graph.s" in model.state_dict()
    out = model(torch.randn(2, 4, 128)); out.logits.square().sum().backward()
    assert model.geiim.graph.s.grad.abs().sum() > 0 and torch.equal(out.adjacency, model.geiim.graph.s.softmax(-1))


@pytest.mark.parametrize("make, words", [
    (lambda: GEIIM(8, 4, graph=torch.eye(4)), "graph: expected a module"),
    (lambda: GEIIM(8, 4, "data", graph=Alone()), "takes their place"),
    (lambda: GEIIM(8, 4, graph_over="channels", graph=Alone()), "takes their place"),
    (lambda: GEIIM(8, 4, graph=Given(torch.eye(3)))(torch.randn(2, 4, 8)), r"\(4, 4\) or \(2, 4, 4\) .*found \(3, 3\)"),
    (lambda: GEIIM(8, 4, graph=Given(torch.eye(4)))(torch.randn(2, 4, 8), torch.ones(2, 4).bool()), "takes x alone"),
])
def test_a_graph_that_is_none(make, words):
    with pytest.raises(MicaclError, match=words) as e: make()
    assert one_line(e)


# ---- pool, tail, head

@pytest.mark.parametrize("name, Named", [("mean", MeanMIL), ("max", MaxMIL), ("attention", AttentionMIL),
                                         ("transformer", TransformerMIL)])
def test_a_pool_that_equals_the_named_one(name, Named):
    x = torch.randn(3, 4, 128)
    models = []
    for pool in (None, name, POOLS[name]):
        torch.manual_seed(1)
        models.append(PoolMIL(backbone="r3d_small", pool=pool) if pool else Named(backbone="r3d_small"))
    models.append(PoolMIL(backbone=models[0].backbone, pool=models[0].pool, head=models[0].fc))
    want = models[0].state_dict()
    for m in models:
        assert list(m.state_dict()) == list(want) and all(torch.equal(v, want[k]) for k, v in m.state_dict().items())
        assert same(m(x), models[0](x))


def test_a_pool_of_another_length():
    class MeanAndMax(nn.Module):
        bag_dim = 256
        def forward(self, x): return torch.cat([x.mean(1), x.amax(1)], 1), x.new_full(x.shape[:2], 1 / x.shape[1])
    x = torch.randn(3, 4, 128)
    out = PoolMIL(backbone="r3d_small", pool=MeanAndMax())(x)
    assert torch.equal(out.bag, torch.cat([x.mean(1), x.amax(1)], 1)) and out.logits.shape == (3, 7)
    MeanAndMax.bag_dim = 100
    with pytest.raises(MicaclError, match=r"bag feature: expected \(3, 100\), found \(3, 256\)"):
        PoolMIL(backbone="r3d_small", pool=MeanAndMax())(x)


@pytest.mark.parametrize("name", TAILS)
def test_a_tail_that_equals_the_named_one(name):
    x, models = torch.randn(3, 4, 128), []
    for tail in (name, TAILS[name], lambda *sizes: build_tail(name, *sizes)):
        torch.manual_seed(1); models.append(small(tail=tail))
    models.append(small(tail=models[0].tail)); models[-1].load_state_dict(models[0].state_dict())
    for m in models: assert same(m(x), models[0](x))
    with pytest.raises(MicaclError, match="tail: expected one of norm, dmin"): small(tail="x")


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("make", [small, lambda **o: M3DFEL(backbone="r3d_small", **o).eval(),
                                  lambda **o: MeanMIL(backbone="r3d_small", **o).eval()])
def test_a_head_that_equals_the_named_one(name, make):
    x = torch.randn(3, 4, 128)
    torch.manual_seed(1); named = make(head=name)
    torch.manual_seed(1); changed = make().change_head(name)
    torch.manual_seed(1); by_class = make(head=HEADS[name])
    passed = make(head=copy.deepcopy(named.fc)); passed.load_state_dict(named.state_dict())
    assert same(passed(x), named(x)) and (name == "linear" or same(changed(x), named(x)))     # linear: drawn again
    for m in (changed, passed): assert type(m.fc) is HEADS[name]
    assert type(by_class.fc) is HEADS[name] and by_class(x).logits.shape == (3, 7)
    with pytest.raises(MicaclError, match="head: expected one of linear, cosine, centres"): build_head("x", 4, 2)


def test_a_head_without_weights_and_one_of_layers():
    x = torch.randn(3, 4, 128)
    deep = MeanMIL(backbone="r3d_small", head=nn.Sequential(nn.Linear(128, 9), nn.ReLU(), nn.Linear(9, 7)))
    assert (deep(x).logits.shape == (3, 7) and M3DFEL(backbone="r3d_small", head=nn.Identity())(x).logits.shape == (3,
        256))


# ---- loss, contrast, second stage

COUNTS = [30, 10, 5]

def test_a_loss_that_equals_the_named_one():
    config, y = Config(loss="balanced_softmax"), torch.tensor([0, 1, 2, 0, 1, 2])
    model = MICACL(3, "r3d_small")
    out = model(torch.randn(6, 4, 128))
    torch.manual_seed(2); named = Objective(config, COUNTS, 256, 128)
    torch.manual_seed(2)
    passed = Objective(Config(), COUNTS, 256, 128, ce=LOSSES["balanced_softmax"](COUNTS, .1),
                       contrast=MCCL(COUNTS, 256))
    a, b = named(out, y), passed(out, y)
    assert all(torch.equal(a[k], b[k]) for k in a) and list(named.state_dict()) == list(passed.state_dict())
    plain = Objective(Config(mccl_weight=0.), COUNTS, 256, ce=nn.CrossEntropyLoss())
    assert torch.equal(plain(out, y)["loss"], F.cross_entropy(out.logits, y)) and plain.mccl is None


def test_a_contrast_of_ones_own_is_weighed_and_trained():
    class Spread(nn.Module):
        def __init__(self): super().__init__(); self.a = nn.Parameter(torch.ones(()))
        def forward(self, bag, y): return self.a * bag.square().mean()
    y, out = torch.tensor([0, 1, 2]), MICACL(3, "r3d_small")(torch.randn(3, 4, 128))
    objective = Objective(Config(mccl_weight=2.), COUNTS, 256, contrast=Spread())
    terms = objective(out, y, ramp=.5)
    torch.testing.assert_close(terms["loss"], terms["ce"] + out.bag.square().mean())
    terms["loss"].backward(); assert objective.mccl.a.grad.abs() > 0


def test_a_second_stage_is_a_function():
    x, y = torch.randn(45, 6), torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    a = nn.Linear(6, 3); b, c = copy.deepcopy(a), copy.deepcopy(a)
    second_stage("tau_norm", a, x, y, COUNTS)
    second_stage(SECOND_STAGES["tau_norm"], b, x, y, COUNTS)
    second_stage(lambda W, b, x, y, n_c, seed: tau_normalise(W, 0.7), c, x, y, COUNTS)
    assert torch.equal(a.weight, b.weight) and torch.equal(a.weight, c.weight) and (a.bias == 0).all()


# ---- what cannot be described

@pytest.mark.parametrize("make, part", [
    (lambda: MICACL(backbone=build_backbone("r3d_small")), "backbone"), (lambda: small(graph=Alone()), "graph"),
    (lambda: small(tail=build_tail("norm", 256, 4, 8)), "tail"), (lambda: small(head=nn.Linear(256, 7)), "head"),
    (lambda: PoolMIL(backbone="r3d_small", pool=MeanPool), "pool"),
    (lambda: small().change_head(nn.Sequential(nn.Linear(256, 7))), "head")])
def test_a_description_holds_names_only(make, part, tmp_path):
    from safetensors.torch import load_model, save_model
    model = make()
    for call in (lambda: made_with(model), lambda: model.save_pretrained(tmp_path / "m")):
        with pytest.raises(MicaclError, match=f"{part}: expected a name.*save_model") as e: call()
        assert one_line(e) and not list(tmp_path.iterdir())
    save_model(model, str(tmp_path / "w.safetensors"))                     # what the message says
    other = make(); load_model(other, str(tmp_path / "w.safetensors"))
    x = torch.randn(2, 4, 128)
    assert same(other.eval()(x), model.eval()(x))


def test_names_are_described_as_before():
    assert made_with(small(head="cosine", tail="dmin"))["tail"] == "dmin" and "head" not in made_with(small())
    assert made_with(PoolMIL(3, "r3d_small", pool="max"))["pool"] == "max"
    assert made_with(MeanMIL(3, "r3d_small")) == dict(n_classes=3, backbone="r3d_small", n_instances=4,
                                                      instance_length=4,
                                                      dropout=0.)
