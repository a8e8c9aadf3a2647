"Augmentation: torchvision's draws as distributions, its pictures up to rounding, hand cases, layout, the GPU's way."
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, chi2_contingency, ks_2samp
from torchvision.transforms import v2

from micacl.data import augment as A
from micacl.data.augment import augment, augment_batch, augment_clip, draw, resampling
from micacl.data.bags import to_bags
from micacl.train.config import Config

CONFIG = Config(image_size=32)


def with_(**args): return replace(CONFIG, augment_args=args)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(B, T, H, W):
    y, x, t = torch.linspace(0, 6, H)[:, None], torch.linspace(0, 5, W), torch.arange(B * T).view(B, T, 1, 1) / 5
    return torch.stack([127 + 120 * (x + t).sin() * y.cos(), 127 + 120 * (y + x - t).cos(),
                        20 * (y + t).clamp(max=12) + 0 * x], 2).clamp(0, 255).to(torch.uint8)


COLOURS = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)


def by_library(x, d, size):
    "The plain version: torchvision's functions, one after the other."
    (top, left, height, width, mirrored), factors, order = d[:5].int().tolist(), d[5:8].tolist(), d[8:].int().tolist()
    x = v2.functional.resized_crop(x, top, left, height, width, [size, size], antialias=True).contiguous()
    if mirrored: x = v2.functional.horizontal_flip(x)
    for k in order: x = COLOURS[k](x, factors[k])
    return x


def channels_last(x): return x.movedim(2, -1).contiguous().movedim(-1, 2)


def library_draws(n, crop, jitter, height, width):
    "(n,10) draws of torchvision's transforms, without mirroring."
    crops, colours = v2.RandomResizedCrop(1, scale=(crop, 1.)), v2.ColorJitter(jitter, jitter, jitter)
    frame, state, rows = torch.empty(1, 3, height, width, device="meta"), torch.get_rng_state(), []
    torch.manual_seed(0)
    for _ in range(n):
        c, j = crops.make_params([frame]), colours.make_params([frame])
        rows.append([*c.values(), *(j[f"{k}_factor"] for k in ("brightness", "contrast", "saturation")),
                     *(k for k in j["fn_idx"].tolist() if k < 3)])
    torch.set_rng_state(state)
    return torch.tensor(rows)


def p_values(a, b):
    "Kolmogorov and Smirnov for crop and factors, chi square for the order."
    order = [torch.bincount((x[:, 7:9] @ torch.tensor([3., 1.])).int(), minlength=9)[[1, 2, 3, 5, 6, 7]].numpy()
             for x in (a, b)]
    return [*(ks_2samp(x, y).pvalue for x, y in zip(a[:, :7].T.numpy(), b[:, :7].T.numpy())),
            chi2_contingency(np.stack(order)).pvalue]


def our_draws(n, height=64, width=64, **how):
    d = torch.stack([draw(with_(**how), seed, height, width) for seed in range(n)])
    return d[:, [0, 1, 2, 3, *range(5, 11)]]


# ---- the numbers
# 8 tests a case at 1e-4: a false alarm in at most one of 1,250 cases; the seeds are fixed
@pytest.mark.parametrize("crop, jitter, height, width", [(.8, .4, 64, 64), (.3, 1.2, 40, 28), (.5, .1, 112, 112)])
def test_draws_have_the_distribution_of_torchvisions(crop, jitter, height, width):
    ours = our_draws(4000, height, width, crop=crop, jitter=jitter)
    assert min(p_values(ours, library_draws(4000, crop, jitter, height, width))) > 1e-4


def test_the_comparison_finds_a_wrong_scale_a_wrong_strength_and_a_fixed_order():
    ours = our_draws(4000, crop=.8, jitter=.4)
    scale, strength = (p_values(ours, library_draws(4000, *how, 64, 64)) for how in ((.75, .4), (.8, .45)))
    assert max(scale[:4]) < 1e-4 < min(scale[4:]) and max(strength[4:7]) < 1e-4 < min(strength[:4])
    fixed = ours.clone(); fixed[:, 7:] = torch.tensor([0., 1, 2])
    assert p_values(ours, fixed)[7] < 1e-4


def test_half_of_the_clips_are_mirrored():
    n = sum(draw(CONFIG, seed, 64, 64)[4].item() for seed in range(4000))
    assert binomtest(int(n), 4000).pvalue > 1e-4


@pytest.mark.parametrize("height, width", [(20, 200), (200, 20), (10, 12)])
def test_a_frame_that_no_crop_fits_gives_the_largest_centred_one(height, width):
    "An area above 1 never fits, so both fall back."
    how = v2.RandomResizedCrop(1, scale=(2., 2.))
    truth = how.make_params([torch.empty(1, 3, height, width, device="meta")])
    assert A._draw_crop(iter([.5] * 20), 2., height, width) == tuple(truth.values())


def test_draw_follows_from_its_seed_and_touches_no_other_generator():
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), draw(CONFIG, 2**62 + 5, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    draw(CONFIG, 6, 32, 32)
    assert torch.equal(draw(CONFIG, 2**62 + 5, 32, 32), first)


# ---- the pictures
@given(st.integers(0, 2**40), st.sampled_from([.3, .8, 1.]), st.booleans(),
       st.sampled_from([(32, 32), (40, 28), (64, 64)]))
@settings(max_examples=40, deadline=None)
def test_without_colours_it_is_torchvision_bit_for_bit(seed, crop, flip, shape):
    d = draw(with_(crop=crop, flip=flip, jitter=0.), seed, *shape)
    x = channels_last(noise(1, 3, 3, *shape, seed=seed % 97))
    assert torch.equal(augment(x, d[None], 32)[0], by_library(x[0], d, 32))


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("f", [.6, 1.4])
def test_one_colour_is_torchvisions_up_to_a_grey_level(k, f):
    x, d = smooth(1, 3, 32, 32)[0], torch.tensor([0, 0, 32, 32, 0, 1, 1, 1, 0, 1, 2.])
    d[5 + k] = f
    off = (augment_clip(x, d, 32).int() - by_library(x, d, 32)).abs()
    assert off.max() <= (k > 0) and (off > 0).float().mean() < .3


@pytest.mark.parametrize("video", [smooth(24, 7, 32, 32), smooth(24, 2, 48, 40), noise(24, 2, 3, 32, 32)],
                         ids=["smooth", "larger", "noise"])
def test_pictures_are_torchvisions_up_to_rounding(video):
    draws = torch.stack([draw(with_(crop=.5), seed, *video.shape[-2:]) for seed in range(24)])
    truth = torch.stack([by_library(x, d, 32) for x, d in zip(video, draws)])
    off = (augment(channels_last(video), draws, 32).int() - truth).abs().float()
    assert off.max() <= 4 and (off <= 1).float().mean() > .97 and (off == 0).float().mean() > .8


def test_pictures_of_many_draws_have_torchvisions_distribution():
    "Mean, spread and quantiles of 600 pictures each way, other seeds; and half the jitter is told apart."
    x = smooth(1, 1, 32, 32)

    def measures(use, seeds, **how):
        pictures = [use(x[0], draw(with_(**how), s, 32, 32), 32).float() for s in seeds]
        return torch.stack([torch.tensor([p.mean(), p.std(), *p.flatten().quantile(torch.tensor([.1, .5, .9]))])
                            for p in pictures]).T.numpy()
    ours, truth = measures(augment_clip, range(600)), measures(by_library, range(1000, 1600))
    assert min(ks_2samp(a, b).pvalue for a, b in zip(ours, truth)) > 1e-4
    weak = measures(augment_clip, range(600), jitter=.2)
    assert min(ks_2samp(a, b).pvalue for a, b in zip(weak, truth)) < 1e-4


@pytest.mark.parametrize("use", [augment, augment_batch])
@pytest.mark.parametrize("jitter", [0., .4])
def test_the_channels_stay_last_as_the_convolutions_want_them(use, jitter):
    draws = torch.stack([draw(with_(jitter=jitter), seed, 40, 40) for seed in range(3)])
    for video in (noise(3, 8, 3, 40, 40), channels_last(noise(3, 8, 3, 40, 40))):
        out = use(video, draws, 32)
        assert out.shape == (3, 8, 3, 32, 32) and out.movedim(2, -1).is_contiguous()
        assert to_bags(out, 2).is_contiguous(memory_format=torch.channels_last_3d)


def test_the_result_may_be_used_where_gradients_are_needed():
    weight = torch.ones(1, requires_grad=True)
    (augment(noise(1, 2, 3, 8, 8), draw(CONFIG, 0, 8, 8)[None], 8) * weight).sum().backward()
    assert weight.grad > 0


@pytest.mark.parametrize("frames, size", [(1, 7), (5, 96), (16, 112)])
def test_pieces_and_odd_sizes_change_nothing(frames, size, monkeypatch):
    x, d = noise(frames, 3, size, size), draw(CONFIG, 3, size, size)
    whole = augment_clip(x, d, size)
    monkeypatch.setattr(A, "_PIECE", 1)
    assert (augment_clip(x, d, size).int() - whole).abs().max() <= 1      # another order of summing


@pytest.mark.parametrize("value, truth", [(0, 0), (255, 255)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 1, 0)])
def test_black_stays_black_and_white_does_not_turn_over(value, truth, order):
    x = torch.full((2, 3, 8, 8), value, dtype=torch.uint8)
    for f in ((.6, .6, .6), (1.4, .6, .6), (1.4, 1.4, 1.4), (1., .6, 1.)):
        d = torch.tensor([0, 0, 8, 8, 0, *f, *order])
        assert (augment_clip(x, d, 8).int() - by_library(x, d, 8)).abs().max() <= 1


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
def test_all_at_once_is_torchvision_up_to_rounding(video):
    draws = torch.stack([draw(with_(crop=.5), seed, *video.shape[-2:]) for seed in range(24)])
    one, all_ = torch.stack([by_library(x, d, 32) for x, d in zip(video, draws)]), augment_batch(video, draws, 32)
    difference = (one.int() - all_.int()).abs().float()
    assert all_.dtype == torch.uint8 and difference.max() <= 6 and difference.mean() < .06
    assert (difference.mean((1, 2, 3, 4)) < .4).all()        # no clip is another one
    colours_only = draws.clone(); colours_only[:, :5] = torch.tensor([0, 0, *video.shape[-2:], 0])
    a = torch.stack([by_library(x, d, video.shape[-1]) for x, d in zip(video, colours_only)])
    b = augment_batch(video, colours_only, video.shape[-1])
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
    assert out.movedim(2, -1).is_contiguous()


def test_the_default_type_of_numbers_does_not_matter():
    video = torch.randint(0, 256, (2, 3, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([draw(CONFIG, k, 20, 24) for k in range(2)])
    expected, kept = augment(video, draws, 16), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(augment(video, draws, 16), expected)
        assert torch.equal(torch.stack([draw(CONFIG, k, 20, 24) for k in range(2)]), draws)
    finally: torch.set_default_dtype(kept)
