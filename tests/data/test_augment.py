"Augmentation: torchvision's pipeline bit for bit, PyTorch's resizing, hand cases, and no look at the numbers on a GPU."
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.transforms import v2

from micacl.data import augment as A
from micacl.data.augment import augment, augment_batch, augment_clip, draw, resampling
from micacl.train.config import Config

CONFIG = Config(image_size=32)


def with_(**args): return replace(CONFIG, augment_args=args)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(B, T, H, W):
    y, x, t = torch.linspace(0, 6, H)[:, None], torch.linspace(0, 5, W), torch.arange(B * T).view(B, T, 1, 1) / 5
    return torch.stack([127 + 120 * (x + t).sin() * y.cos(), 127 + 120 * (y + x - t).cos(),
                        20 * (y + t).clamp(max=12) + 0 * x], 2).clamp(0, 255).to(torch.uint8)


@given(st.integers(0, 2**40), st.sampled_from([.3, .8, 1.]), st.booleans(), st.sampled_from([0., .4]),
       st.sampled_from([(32, 32), (40, 28), (64, 64)]))
@settings(max_examples=60, deadline=None)
def test_it_is_torchvisions_pipeline_bit_for_bit(seed, crop, flip, jitter, shape):
    c, x = with_(crop=crop, flip=flip, jitter=jitter), noise(3, 3, *shape, seed=seed % 97)
    steps = ([v2.RandomResizedCrop(32, scale=(crop, 1.), antialias=True)] + [v2.RandomHorizontalFlip()] * flip
             + [v2.ColorJitter(jitter, jitter, jitter)] * (jitter > 0))
    with A._own_dice(seed): truth = v2.Compose(steps)(x)
    assert torch.equal(augment_clip(x, draw(c, seed, *shape), 32), truth)
    assert torch.equal(augment(x[None], draw(c, seed, *shape)[None], 32)[0], truth)


def test_a_clip_that_stands_still_stands_still():
    still, seen = smooth(1, 1, 64, 64)[0].expand(16, -1, -1, -1), set()
    for seed in range(12):
        for x in (augment_clip(still, d := draw(CONFIG, seed, 64, 64), 32), augment_batch(still[None], d[None], 32)[0]):
            assert x.shape == (16, 3, 32, 32) and x.dtype == torch.uint8 and (x == x[:1]).all()
        seen.add(x.float().mean().item())
    assert len(seen) == 12


@pytest.mark.parametrize("use", [lambda x, d: augment_clip(x, d, 32), lambda x,
                                 d: augment_batch(x[None], d[None], 32)[0]])
def test_flip_crop_and_jitter_can_be_switched_off(use):
    x = smooth(1, 3, 32, 32)[0]
    off = dict(flip=False, jitter=0., crop=1.)
    assert torch.equal(use(x, draw(with_(**off), 1, 32, 32)), x)
    mirrored = [torch.equal(use(x, draw(with_(**{**off, "flip": True}), s, 32, 32)), x.flip(-1)) for s in range(40)]
    same = [torch.equal(use(x, draw(with_(**{**off, "flip": True}), s, 32, 32)), x) for s in range(40)]
    assert 8 < sum(mirrored) < 32 and sum(mirrored) + sum(same) == 40
    areas = torch.stack([use(x, draw(with_(**{**off, "crop": .5}), s, 32, 32)).float() for s in range(20)])
    assert areas.var(0).max() > 0


@pytest.mark.parametrize("n, first, length, size", [(16, 0, 16, 16), (16, 3, 9, 16), (40, 5, 30, 12), (7, 6, 1, 5),
                                                    (112, 4, 100, 112), (20, 0, 20, 7)])
def test_the_matrix_is_pytorchs_resizing(n, first, length, size):
    x = torch.randn(1, 1, n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    truth = torch.nn.functional.interpolate(x[:, :, first:first + length], (size, 4), mode="bilinear", antialias=True)
    R = resampling(torch.tensor([first], dtype=torch.float64), torch.tensor([length], dtype=torch.float64), size, n)
    torch.testing.assert_close(R @ x[0], truth[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("video", [smooth(24, 2, 32, 32), smooth(24, 2, 48, 40), noise(24, 2, 3, 32, 32)],
                         ids=["smooth", "larger", "noise"])
def test_all_at_once_is_clip_by_clip_up_to_rounding(video):
    draws = torch.stack([draw(with_(crop=.5), seed, *video.shape[-2:]) for seed in range(24)])
    one, all_ = torch.stack([augment_clip(x, d, 32) for x, d in zip(video, draws)]), augment_batch(video, draws, 32)
    difference = (one.int() - all_.int()).abs().float()
    assert all_.dtype == torch.uint8 and difference.max() <= 6 and difference.mean() < .06
    assert (difference.mean((1, 2, 3, 4)) < .4).all()        # no clip is another one
    colours_only = draws.clone(); colours_only[:, :5] = torch.tensor([0, 0, *video.shape[-2:], 0])
    a, b = torch.stack([augment_clip(x, d, video.shape[-1]) for x, d in zip(video, colours_only)]), augment_batch(video,
        colours_only, video.shape[-1])
    if video.shape[-1] == video.shape[-2]:
        assert (a != b).float().mean() < 1e-3       # no resizing, no rounding before the colours


@pytest.mark.parametrize("k, truth", [(0, [50, 100, 25]), (1, [125, 175, 100]), (2, [126, 176, 101])])
def test_colours_by_hand(k, truth):
    """Half of pixels (100, 200, 50) and (150, 150, 150). Their greys are 152 (29.89 + 117.4 + 5.7 = 152.99, cut) and
    149 (149.985), so the mean grey is 150.5: (100 + 150.5) / 2 = 125. Brightness halves; saturation mixes with the
    pixel's own grey: (100 + 152) / 2 = 126."""
    # two rows alike
    x = torch.tensor([[100, 200, 50], [150, 150, 150]], dtype=torch.uint8).T.reshape(1, 1, 3, 1, 2).repeat(1, 1, 1, 2,
        1)
    d = torch.tensor([[0, 0, 2, 2, 0, 1, 1, 1, 0, 1, 2.]])
    d[0, 5 + k] = .5
    for out in (augment_batch(x, d, 2), augment(x, d, 2)): assert out[0, 0, :, 0, 0].tolist() == truth


def test_on_another_device_no_number_is_looked_at():
    "A meta tensor has no numbers, so whatever asks for one fails: nothing here makes a GPU wait for the CPU."
    video, draws = torch.empty(70, 4, 3, 40, 40, dtype=torch.uint8, device="meta"), torch.empty(70, 11, device="meta")
    out = augment(video, draws, 32)
    assert out.device.type == "meta" and out.shape == (70, 4, 3, 32, 32) and out.dtype == torch.uint8


def test_the_global_generator_is_put_back_after_an_error():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), A._own_dice(3): raise RuntimeError
    draw(CONFIG, 5, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)
