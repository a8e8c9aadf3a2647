"""The instance encoders against torchvision, hand cases and broken files."""
import pickle
import urllib.error
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.models.video import R3D_18_Weights, r3d_18
from torch import nn
from torchvision.models import get_model, get_model_weights
from micacl.core import MicaclError
from micacl.nn.backbone import (BACKBONES, KINETICS, LONGER, Backbone, PlacePool, as_backbone, build_backbone,
                                conv_block,
                                read_weights, save_weights, weights_path)
from micacl.train.config import CHOICES, FEATURES, IMAGE_SIZES

TORCHVISION = [name for name in BACKBONES if name not in ("r3d_small", "res_faces")]


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(1)
    return r3d_18(weights=None).eval()


def one_line(error): return "\n" not in str(error.value)


# ---- shapes and contracts
@pytest.mark.parametrize("name,dim,L,size", [("r3d_small", 128, 4, 64), ("r3d_small", 128, 1, 32),
                                             ("r3d_small", 128, 5, 112), ("r3d_18", 512, 4, 32),
                                             ("mc3_18", 512, 4, 32), ("r2plus1d_18", 512, 4, 32),
                                             ("swin3d_t", 768, 4, 32), ("swin3d_t", 768, 1, 48)])
def test_shape_and_dim(name, dim, L, size):
    encoder = build_backbone(name, pretrained=False).eval()
    assert encoder.dim == dim
    with torch.no_grad(): assert encoder(torch.rand(2, 3, L, size, size)).shape == (2, dim)


def test_small_keeps_time_and_halves_space():
    assert conv_block(3, 8, (3, 3, 3))(torch.rand(2, 3, 4, 16, 12)).shape == (2, 8, 4, 8, 6)
    x = torch.rand(1, 3, 4, 64, 64)
    for block in list(build_backbone("r3d_small").net)[:-1]: x = block(x)
    assert x.shape == (1, 128, 4, 4, 4)


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 4, 8, 8),
                                 torch.zeros(1, 4, 3, 8, 8)])
def test_wrong_input_is_refused(bad):
    with pytest.raises(MicaclError, match="expected float instances") as e: build_backbone("r3d_small")(bad)
    assert one_line(e)


def test_unknown_name():
    with pytest.raises(MicaclError, match="expected one of r3d_small, res_faces, r3d_18, .*found 'resnet'"):
        build_backbone("resnet")


# ---- normalisation
def test_normalisation_values():
    seen = Backbone(torch.nn.Identity(), 1, [.5, .4, .3], [.25, .2, .1])(torch.full((1, 3, 1, 1, 1), .5)).flatten()
    assert torch.allclose(seen, torch.tensor([0., .5, 2.]))


def test_kinetics_normalisation_is_torchvisions():
    preset = R3D_18_Weights.KINETICS400_V1.transforms()
    assert KINETICS["mean"] == list(preset.mean) and KINETICS["std"] == list(preset.std)
    encoder = build_backbone("r3d_18")
    assert encoder.mean.flatten().tolist() == pytest.approx(preset.mean) and "std" in encoder.state_dict()


# ---- an instance does not depend on its company
@pytest.mark.parametrize("name", ["r3d_small", "r3d_18"])
def test_batch_equals_items_in_eval(name):
    encoder = build_backbone(name).eval()
    if name == "r3d_small":
        encoder.train()(torch.rand(8, 3, 4, 32, 32)); encoder.eval()   # running statistics away from 0 and 1
    x = torch.rand(3, 3, 4, 32, 32)
    with torch.no_grad(): together, alone = encoder(x), torch.cat([encoder(x[i:i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5, rtol=1e-4) and together.std(0).max() > 1e-4


def test_a_step_with_one_bag_is_finite():
    encoder = build_backbone("r3d_small").train()
    encoder(torch.rand(4, 3, 4, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


# ---- the small network's parts against slow loops
def test_small_equals_functional_forward():
    "The same forward, written out with torch.nn.functional in float64 and no memory format."
    encoder = build_backbone("r3d_small").eval()
    with torch.no_grad():
        for p in encoder.parameters(): p.add_(0.05 * torch.randn_like(p))
        for name, b in encoder.named_buffers():
            if "running" in name: b.add_(0.1 * torch.rand_like(b))
        x = torch.rand(2, 3, 4, 64, 64)
        h, s = (x.double() - 0.5) / 0.25, {k: v.double() for k, v in encoder.state_dict().items()}
        for i in range(1, 5):
            w = s[f"net.{i}.0.weight"]
            h = F.conv3d(h, w, stride=(1, 2, 2), padding=(w.shape[2] // 2, 1, 1))
            h = F.batch_norm(h, s[f"net.{i}.1.running_mean"], s[f"net.{i}.1.running_var"], s[f"net.{i}.1.weight"],
                             s[f"net.{i}.1.bias"])
            h = h.clamp(min=0)
        expected = torch.einsum("mclij,cij->mc", h, s["net.5.weight"]) / 4
        assert torch.allclose(encoder(x).double(), expected, atol=1e-4, rtol=1e-4)
    assert [tuple(encoder.net[i][0].kernel_size) for i in range(1, 5)] == [(1, 3, 3)] * 2 + [(3, 3, 3)] * 2


def test_place_pool_limits():
    pool, x = PlacePool(3), torch.rand(2, 3, 4, 8, 8)
    with torch.no_grad(): pool.weight.fill_(1 / 16)
    assert torch.allclose(pool(x), x.mean((2, 3, 4)), atol=1e-6)
    with torch.no_grad(): pool.weight.zero_(); pool.weight[1, 3, 0] = 2
    assert (torch.allclose(pool(x)[:, 1], 2 * x[:, 1, :, 6:, :2].mean((1, 2, 3)), atol=1e-6)
            and pool(x)[:, 0].abs().max() == 0)


def test_order_of_frames_matters():
    encoder, x = build_backbone("r3d_small").eval(), torch.rand(1, 3, 4, 64, 64)
    with torch.no_grad(): assert not torch.allclose(encoder(x), encoder(x.flip(2)), atol=1e-5)


# ---- R3D-18 against torchvision
def test_r3d_18_is_torchvisions_up_to_the_head(reference):
    encoder = build_backbone("r3d_18").eval()
    encoder.net.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    x = torch.rand(2, 3, 4, 32, 32)
    mean, std = (torch.tensor(KINETICS[k]).view(1, 3, 1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        features = encoder(x)
        assert torch.allclose(reference.fc(features), reference((x - mean) / std), atol=1e-4, rtol=1e-4)


def test_kinetics_from_the_hub_cache(reference, tmp_path, monkeypatch):
    "The way without a network that the error message names: the file in torch's cache."
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / R3D_18_Weights.KINETICS400_V1.url.rsplit("/", 1)[1]
    torch.save(reference.state_dict(), file)
    encoder = build_backbone("r3d_18", pretrained=True)
    assert torch.equal(encoder.net.stem[0].weight, reference.stem[0].weight)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MicaclError, match="replace a broken file") as e: build_backbone("r3d_18", pretrained=True)
    assert one_line(e)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self): return (open, (str(tmp_path / "ran"), "w"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"stem.0.weight": Trap()}, tmp_path / "checkpoints" / R3D_18_Weights.KINETICS400_V1.url.rsplit("/",
        1)[1])
    with pytest.raises(MicaclError): build_backbone("r3d_18", pretrained=True)
    assert not (tmp_path / "ran").exists()


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    def refuse(*args, **kwargs): raise urllib.error.URLError("no\nnetwork")
    monkeypatch.setattr("urllib.request.urlopen", refuse); monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(MicaclError, match="connect to the internet once.*r3d_18-b3b3357e.pth.*pretrained=False") as e:
        build_backbone("r3d_18", pretrained=True)
    assert one_line(e) and str(tmp_path) in str(e.value)


# ---- the other networks of torchvision
def test_what_the_configuration_says_of_backbones_is_true():
    assert set(CHOICES["backbone"]) == FEATURES.keys() == IMAGE_SIZES.keys() == BACKBONES.keys()
    for name, make in BACKBONES.items():
        with torch.device("meta"):
            encoder = make(pretrained=False).eval()
            size = IMAGE_SIZES[name]
            assert encoder(torch.rand(2, 3, 4, size, size)).shape == (2, FEATURES[name]) == (2, encoder.dim)
        assert encoder.image_size == size


@pytest.mark.parametrize("name", TORCHVISION)
def test_each_is_torchvisions_up_to_the_head_with_its_own_normalisation(name, tmp_path, monkeypatch):
    "The weights come by torchvision's way, from a file in the hub's cache."
    torch.manual_seed(1)
    reference, weights = get_model(name, weights=None).eval(), get_model_weights(name).KINETICS400_V1
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(reference.state_dict(), tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[1])
    encoder, preset = build_backbone(name, pretrained=True).eval(), weights.transforms()
    assert encoder.mean.flatten().tolist() == pytest.approx(preset.mean)
    assert encoder.std.flatten().tolist() == pytest.approx(preset.std) and encoder.image_size == preset.crop_size[0]
    x = torch.rand(2, 3, 4, 32, 32)
    scaled = torch.stack([(x[:, c] - preset.mean[c]) / preset.std[c] for c in range(3)], 1)
    last = reference.fc if hasattr(reference, "fc") else reference.head
    with torch.no_grad():
        torch.testing.assert_close(last(encoder(x)), reference(scaled), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*TORCHVISION, "res_faces"])
def test_a_gradient_reaches_the_input_and_every_parameter(name):
    encoder, x = build_backbone(name).train(), torch.rand(2, 3, 4, 32, 32, requires_grad=True)
    encoder(x).mul(torch.randn(2, encoder.dim)).sum().backward()
    assert x.grad.isfinite().all() and (x.grad.abs().sum((0, 1, 3, 4)) > 0).all()           # every frame
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_that_cannot_be_had_are_named(name, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    def refuse(*args, **kwargs): raise urllib.error.URLError("no network")
    monkeypatch.setattr("urllib.request.urlopen", refuse); monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(MicaclError, match=f"^{name}: .*connect to the internet once.*{name}-.*pretrained=False") as e:
        build_backbone(name, pretrained=True)
    assert one_line(e)
    with pytest.raises(MicaclError, match="weights files are for r3d_small"): build_backbone(name, tmp_path / "w")


@pytest.mark.parametrize("name", LONGER)
def test_a_network_that_needs_more_frames_says_how_many(name):
    assert LONGER[name] == get_model_weights(name).DEFAULT.meta["min_temporal_size"]
    with pytest.raises(MicaclError, match=f"needs instances of {LONGER[name]} frames") as e: build_backbone(name)
    assert one_line(e)
    with pytest.raises(MicaclError, match="at least 6 frames, found 4; set instance_length=6"):
        Backbone(nn.Flatten(), 1, [0.] * 3, [1.] * 3, frames=6)(torch.rand(1, 3, 4, 8, 8))


# ---- a network of one's own
def test_the_length_of_a_feature_is_found_and_nothing_changes():
    net = nn.Sequential(nn.Conv3d(3, 7, 3), nn.BatchNorm3d(7), nn.Dropout(.5), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    net[1].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    torch.manual_seed(5); drawn = torch.rand(1)
    torch.manual_seed(5); encoder = as_backbone(net, 4)
    assert torch.equal(torch.rand(1), drawn) and [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    x = torch.rand(2, 3, 4, 16, 16)
    # pixels as they are
    assert encoder.dim == 7 and encoder.net is net and torch.equal(encoder.eval()(x), net.eval()(x))


def test_a_network_that_says_its_dim_is_not_asked():
    class Mine(nn.Module):
        dim = 5
        def forward(self, x): raise AssertionError("it was run")
    net = Mine()
    assert as_backbone(net, 4) is net


@pytest.mark.parametrize("net, found", [(nn.Conv3d(3, 7, 3), "(1, 7, 2, 30, 30)"), (nn.Identity(), "(1, 3, 4, 32, 32)"),
                                        (nn.Linear(5, 5), "RuntimeError"), (nn.LSTM(32, 4), "Error")])
def test_a_network_that_makes_no_vectors_is_asked_for_its_dim(net, found):
    with pytest.raises(MicaclError, match="attribute dim = D") as e: as_backbone(net, 4)
    assert found in str(e.value) and one_line(e)


def test_a_network_for_one_size_only():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 112 * 112, 3))
    assert as_backbone(net, 2).dim == 3


# ---- weights files
def saved(tmp_path, architecture="r3d_small", **header):
    encoder, path = build_backbone("r3d_small"), tmp_path / "w.safetensors"
    save_weights(path, {**encoder.state_dict(), "head.linear.weight": torch.ones(2, 128)}, architecture, **header)
    return encoder, path


def test_round_trip(tmp_path):
    encoder, path = saved(tmp_path, seed=3)
    again = build_backbone("r3d_small", pretrained=path)
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), again.state_dict().values()))
    assert read_weights(path, "r3d_small")[1] == dict(format="1", architecture="r3d_small", seed="3")
    with pytest.raises(pickle.UnpicklingError): pickle.loads(path.read_bytes()[:64])     # nothing of a pickle in it


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b"", lambda b: b"PK\3\4" + b, lambda b: b[:-1]])
def test_broken_file(tmp_path, damage):
    _, path = saved(tmp_path); path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MicaclError, match="w.safetensors: expected a safetensors file") as e:
        build_backbone("r3d_small", path)
    assert one_line(e)


def test_wrong_architecture_missing_file_and_misfit(tmp_path):
    _, path = saved(tmp_path, architecture="r3d_34")
    with pytest.raises(MicaclError, match="expected weights of r3d_small in format 1, found r3d_34"):
        build_backbone("r3d_small", path)
    with pytest.raises(MicaclError, match="found no such file"):
        build_backbone("r3d_small", tmp_path / "none.safetensors")
    with pytest.raises(MicaclError, match="weights files are for r3d_small"): build_backbone("r3d_18", path)
    save_weights(path, {"mean": torch.zeros(1)}, "r3d_small")
    with pytest.raises(MicaclError, match="don't fit r3d_small") as e: build_backbone("r3d_small", path)
    assert one_line(e)


def test_shipped_weights_are_small_and_used():
    assert weights_path().stat().st_size <= 2_000_000
    encoder, tensors = build_backbone("r3d_small", pretrained=True), load_file(weights_path())
    assert torch.equal(encoder.net[1][0].weight, tensors["net.1.0.weight"])
    assert {"architecture", "generator", "seed", "format"} <= read_weights(weights_path(), "r3d_small")[1].keys()
