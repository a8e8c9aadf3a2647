"The network for pictures against hand cases and frames taken one by one."
import numpy as np
import pytest
import torch
from torch import nn

from micacl.core import MicaclError
from micacl.nn.backbone import face_backbone, save_weights
from micacl.nn.faces import FaceNetwork, PerFrame, Residual, Standardise


@pytest.fixture(autouse=True)
def _seed(): torch.manual_seed(0)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    net = FaceNetwork(8)
    net(torch.rand(16, 3, 64, 64)); return net.eval()          # with statistics of its own


def close(a, b, eps=1e-5): return torch.allclose(a, b, atol=eps)


# ---- brightness
def test_standardise_by_hand():
    x = torch.rand(4, 3, 12, 10)
    grey = np.tensordot(x.double().numpy(), [0.299, 0.587, 0.114], (1, 0))
    mean, var = grey.mean((1, 2), keepdims=True), grey.var((1, 2), keepdims=True)
    y = Standardise()(x)
    assert y.shape == (4, 1, 12, 10) and close(y[:, 0].double(), torch.from_numpy((grey - mean)/np.sqrt(var + 1e-3)))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("a, b", [(1.0, 0.3), (0.5, 0.0), (0.6, 0.4), (3.0, -1.0)])
def test_exposure_is_gone(a, b):
    "Up to the constant in the variance, which a contrast of a fifth or more does not mind."
    x = (torch.rand(8, 1, 16, 16) > 0.5).float()
    assert (Standardise()(a*x + b) - Standardise()(x)).abs().max() < 0.01
    assert close(Standardise()(x + b), Standardise()(x), 1e-4)                  # exact where there is only a shift


def test_the_order_of_colours_does_not_matter_in_a_grey_picture():
    grey = torch.rand(4, 1, 16, 16)
    three = grey.expand(-1, 3, -1, -1)
    assert close(Standardise()(three), Standardise()(grey)) and close(Standardise()(three.flip(1)), Standardise()(grey))
    red = torch.zeros(1, 3, 8, 8); red[:, 0, :4] = red[:, 2, 4:] = 0.5        # in colour it does
    assert (Standardise()(red) - Standardise()(red.flip(1))).abs().max() > 0.5


def test_an_even_picture_is_zero():
    assert not Standardise()(torch.full((2, 3, 8, 8), 0.7)).abs().gt(1e-4).any()


@pytest.mark.parametrize("bad", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8),
                                 torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 1, 8, 8)])
def test_other_input_is_refused(bad):
    for f in (Standardise(), FaceNetwork(4)):
        with pytest.raises(MicaclError, match="face network: expected float pictures") as e: f(bad)
        assert "\n" not in str(e.value)


# ---- blocks
def test_too_few_channels_are_refused():
    with pytest.raises(MicaclError, match="width: expected 2 channels or more, found 1"): FaceNetwork(1)


def test_every_norm_is_batch_norm():
    norms = [m for m in FaceNetwork(4).modules() if "Norm" in type(m).__name__]
    assert len(norms) == 7 and all(type(m) is nn.BatchNorm2d for m in norms)


def test_a_residual_block_that_changes_nothing_is_relu():
    block, x = Residual(4).eval(), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.change[0].weight)
    assert close(block(x.clone()), x.relu()) and block(x).min() >= 0


# ---- the network
@pytest.mark.parametrize("width, size, channels", [(24, 64, 3), (8, 64, 1), (8, 48, 3), (8, 96, 3), (4, 32, 1)])
def test_shape(width, size, channels):
    net = FaceNetwork(width).eval()
    with torch.no_grad(): assert net(torch.rand(3, channels, size, size)).shape == (3, net.dim) == (3, 8*width)


def test_every_parameter_learns():
    net = FaceNetwork(4)
    net(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_names_of_its_tensors_are_those_of_the_weights_file():
    names = FaceNetwork(4).state_dict().keys()
    assert {"1.0.weight", "1.1.weight", "1.1.running_var", "5.change.0.weight", "12.weight"} <= names
    assert not [n for n in names if n.startswith("0.")]            # the colours' weights are no parameters
    assert sum(v.numel() for v in FaceNetwork().state_dict().values())*4 < 5e6


def test_pictures_do_not_depend_on_each_other_in_eval(net):
    x = torch.rand(5, 3, 64, 64)
    with torch.no_grad(): assert close(net(x)[2:3], net(x[2:3]), 1e-4)


def test_exposure_hardly_reaches_the_features(net):
    x = (torch.rand(4, 1, 8, 8) > 0.5).float().repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
    with torch.no_grad(): a, b = net(x), net(0.5*x + 0.2)
    assert (b - a).norm()/a.norm() < 0.02


# ---- clips
@pytest.mark.parametrize("L", [1, 4, 16])
def test_per_frame_is_the_mean_over_frames(net, L):
    x, encoder = torch.rand(2, 3, L, 64, 64), PerFrame(net)
    with torch.no_grad():
        y = encoder(x)
        one_by_one = torch.stack([torch.cat([net(x[m:m + 1, :, t]) for t in range(L)]).mean(0) for m in range(2)])
    assert y.shape == (2, net.dim) and close(y, one_by_one, 1e-4)
    with torch.no_grad(): assert close(encoder(x.flip(2)), y, 1e-4)


def test_layout_in_memory_does_not_matter(net):
    x, encoder = torch.rand(2, 3, 4, 64, 64), PerFrame(net)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    from_bytes = x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)        # as frames of a video are
    with torch.no_grad(): y = encoder(x); assert close(encoder(last), y, 1e-4) and close(encoder(from_bytes), y, 1e-4)


def test_any_network_for_pictures_will_do():
    class Mean(nn.Module):
        def forward(self, x): return x.mean((2, 3))
    x = torch.rand(3, 3, 5, 8, 8)
    encoder = PerFrame(Mean(), dim=3)
    assert encoder.dim == 3 and encoder.image_size is None and close(encoder(x), x.mean((2, 3, 4)))
    assert PerFrame(FaceNetwork(4)).image_size == 64 and PerFrame(FaceNetwork(4)).dim == 32
    assert PerFrame(FaceNetwork(4), image_size=48).image_size == 48
    with pytest.raises(MicaclError, match="PerFrame: expected dim = D, .* for a Mean"): PerFrame(Mean())
    with pytest.raises(MicaclError, match="expected float instances"): encoder(x[0])


def test_weights_are_read_back(tmp_path):
    encoder = PerFrame(FaceNetwork(4)).eval()
    save_weights(tmp_path / "w.safetensors", {**encoder.state_dict(), "units.bias": torch.zeros(3)}, "res_faces")
    again = face_backbone(tmp_path / "w.safetensors").eval()
    x = torch.rand(1, 3, 2, 64, 64)
    with torch.no_grad(): assert torch.equal(again(x), encoder(x)) and again.dim == 32
    assert isinstance(face_backbone(), PerFrame) and face_backbone().dim == 192
    with pytest.raises(MicaclError, match="expected weights of res_faces, found no such file"):
        face_backbone(tmp_path / "none.safetensors")
    save_weights(tmp_path / "half.safetensors", {"net.1.0.weight": torch.zeros(24, 1, 3, 3)}, "res_faces")
    with pytest.raises(MicaclError, match="half.safetensors: the tensors don't fit res_faces"):
        face_backbone(tmp_path / "half.safetensors")
    save_weights(tmp_path / "other.safetensors", {"head.weight": torch.zeros(1)}, "res_faces")
    with pytest.raises(MicaclError, match="other.safetensors: the tensors don't fit res_faces"):
        face_backbone(tmp_path / "other.safetensors")
