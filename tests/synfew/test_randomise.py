"Random changes of pictures: repeatable, in range, one picture at a time, and landmarks that move along."
import pytest
import torch
import torch.nn.functional as F

import micacl.train.randomise as module
from micacl.core import MicaclError
from micacl.data.synfew.stream import LANDMARKS, MIRRORED, draw_people
from micacl.train.randomise import (Warp, random_camera, random_filter, random_grey, random_light, random_patch,
                                    random_warp, randomise)

CHANGES = (random_filter, random_light, random_camera, random_patch)
seeded = lambda seed=0: torch.Generator().manual_seed(seed)
named = pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)


@pytest.fixture(scope="module")
def people(): return draw_people(2, 6, size=40)


@pytest.fixture(scope="module")
def frames(people): return torch.from_numpy(people.frames)


@pytest.fixture()
def grey(frames): return random_grey(frames, seeded(1))


def affected(a, b): return (a != b).flatten(1).any(1)


# ---- all together
def test_same_generator_same_picture(frames):
    (a, u), (b, v), (c, w) = (randomise(frames, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(a, b) and torch.equal(u.matrix, v.matrix)
    assert affected(a, c).all() and not torch.equal(u.matrix, w.matrix)


@pytest.mark.parametrize("size", [64, 24])
def test_shape_and_range(frames, size):
    before = frames.clone()
    x, warp = randomise(frames, seeded(5), size)
    assert x.shape == (24, 1, size, size) and x.dtype == torch.float32 and warp.matrix.shape == (24, 2, 3)
    assert x.isfinite().all() and ((x > -0.3) & (x < 1.3)).float().mean() > 0.99
    assert torch.equal(frames, before)


def test_one_picture_alone():
    x, warp = randomise(torch.zeros(1, 20, 20, 3, dtype=torch.uint8), seeded(), 16)
    assert x.shape == (1, 1, 16, 16) and x.isfinite().all()


@pytest.mark.parametrize("bad", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
                                 torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_other_pictures_are_refused(bad):
    with pytest.raises(MicaclError, match=r"randomise: expected uint8 pictures \(M,H,W,3\), found") as e:
        randomise(bad, seeded())
    assert "\n" not in str(e.value)


# ---- one by one
@named
def test_a_change_is_repeatable_and_leaves_its_input_alone(change, grey):
    before = grey.clone()
    a, b = change(grey, seeded(2)), change(grey, seeded(2))
    assert torch.equal(a, b) and torch.equal(grey, before) and a.shape == grey.shape
    assert affected(a, before).any() and not torch.equal(a, change(grey, seeded(3)))


@pytest.mark.parametrize("change", [random_filter, random_patch], ids=lambda c: c.__name__)
def test_a_share_of_none_and_of_all(change, grey):
    assert torch.equal(change(grey, seeded(), share=0.0), grey)
    many = torch.rand(600, 1, 24, 24, generator=seeded())
    assert affected(change(many, seeded(), share=1.0), many).float().mean() > 0.99
    assert abs(affected(change(many, seeded()), many).float().mean() - 0.3) < 0.06


def test_grey_is_a_mixture_of_the_three_colours():
    colours = torch.zeros(500, 2, 2, 3, dtype=torch.uint8)
    shares = []
    for c in range(3):
        one = colours.clone(); one[..., c] = 255
        shares.append(random_grey(one, seeded())[:, 0, 0, 0])
    shares = torch.stack(shares, 1)
    assert torch.allclose(shares.sum(1), torch.ones(500), atol=1e-5) and shares.min() > 0.15/2.45 - 1e-6
    assert shares.std(0).min() > 0.08                      # another mixture for each picture
    assert torch.equal(random_grey(torch.full((3, 4, 4, 3), 51, dtype=torch.uint8), seeded()).round(decimals=5),
                       torch.full((3, 1, 4, 4), 0.2))


def test_kernels_add_up_to_one_and_differ():
    kernels = module._random_kernels(200, seeded())
    assert kernels.shape == (200, 1, 5, 5) and torch.allclose(kernels.sum((1, 2, 3)), torch.ones(200), atol=1e-5)
    assert kernels[:, 0, 2, 2].mean() > 0.7 and kernels.std(0).min() > 0.1


def test_every_picture_is_filtered_by_its_own_kernel(monkeypatch, grey):
    kernels = module._random_kernels(len(grey), seeded(7))
    monkeypatch.setattr(module, "_random_kernels", lambda n, generator: kernels)
    found = random_filter(grey, seeded(), share=1.1)
    for x, k, y in zip(grey, kernels, found):
        expected = F.conv2d(F.pad(x[None], (2,)*4, mode="reflect"), k[None])[0]
        assert torch.allclose(y, expected, atol=1e-5)


def test_light_stays_in_range_and_keeps_order_where_it_is_even(monkeypatch, grey):
    y = random_light(grey, seeded(4))
    assert 0 <= y.min() and y.max() <= 1 and random_light(grey*3 - 1, seeded(4)).max() <= 1
    even = lambda x, size, **kw: x.new_zeros(*x.shape[:2], *size)          # no light from the side
    monkeypatch.setattr(module.F, "interpolate", even)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(20, 1, 8, 8)
    assert (random_light(ramp, seeded(4)).flatten(1).diff() >= 0).all()


def test_half_of_the_pictures_lose_resolution():
    "A chequered picture of single pixels is grey afterwards, whatever the noise."
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(400, 1, 64, 64)
    y = random_camera(board, seeded())
    lost = y.std((1, 2, 3)) < 0.4
    assert abs(lost.float().mean() - 0.5) < 0.08
    assert (y - board)[~lost].std((1, 2, 3)).max() < 0.075                  # what is left is noise


def test_a_patch_is_one_rectangle():
    x = torch.rand(60, 1, 40, 40, generator=seeded())
    y = random_patch(x, seeded(), share=1.0)
    for hit in (x != y)[:, 0]:
        rows, columns = hit.any(1), hit.any(0)
        assert torch.equal(hit, rows[:, None] & columns) and hit.float().mean() <= 0.4**2 + 0.03
        for line in (rows, columns):       # without a gap
            k = line.nonzero()[:, 0]
            assert len(k) == 0 or len(k) == k[-1] - k[0] + 1


# ---- geometry
def test_sizes_sides_and_angles_of_a_warp():
    warp = random_warp(2000, seeded(), smallest=0.6, largest=1.05, turn=6.0)
    A = warp.matrix[:, :, :2]
    size = torch.linalg.det(A).abs().sqrt()
    assert 0.6 - 1e-5 < size.min() < 0.62 and 1.03 < size.max() < 1.05 + 1e-5
    assert torch.equal(warp.mirrored, torch.linalg.det(A) < 0) and abs(warp.mirrored.float().mean() - 0.5) < 0.04
    angle = torch.atan2(-A[:, 0, 1], A[:, 1, 1]).rad2deg()
    assert abs(angle.std() - 6) < 0.4 and abs(angle.mean()) < 0.5
    assert (warp.matrix[:, :, 2].abs() <= (1 - size).clamp(min=0)[:, None]*0.6 + 0.05 + 1e-5).all()


def test_a_mirror_exchanges_left_and_right(people):
    points = torch.from_numpy(people.landmarks)
    mirror = Warp(torch.tensor([[-1., 0, 0], [0, 1, 0]]).expand(24, 2, 3))
    assert mirror.mirrored.all()
    moved = mirror.points(points)
    for k, name in enumerate(LANDMARKS):
        other = LANDMARKS.index(name.replace("left", "*").replace("right", "left").replace("*", "right"))
        assert torch.allclose(moved[:, k], points[:, other]*torch.tensor([-1., 1.]), atol=1e-6,
                              equal_nan=True), name
    assert torch.allclose(mirror.points(moved), points, atol=1e-6, equal_nan=True)
    still = Warp(torch.tensor([[1., 0, 0], [0, 1, 0]]).expand(24, 2, 3))
    assert not still.mirrored.any() and torch.allclose(still.points(points), points, atol=1e-6,
                                                             equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_points_are_where_grid_sample_puts_a_bright_pixel(seed):
    n, size, out = 40, 65, 131
    i, j = torch.randint(20, 45, (2, n), generator=seeded(seed))
    x = torch.zeros(n, 1, size, size)
    x[torch.arange(n), 0, i, j] = 1.0
    warp = random_warp(n, seeded(seed))
    grid = F.affine_grid(warp.matrix, [n, 1, out, out], align_corners=False)
    y = F.grid_sample(x, grid, align_corners=False)[:, 0]
    place = torch.stack([(2*j + 1)/size - 1, (2*i + 1)/size - 1], -1)
    told = warp.points(place[:, None].expand(n, 24, 2))[:, 0]                # all 24 in one place
    inside = (told.abs() < 0.9).all(-1)
    at = torch.linspace(1/out - 1, 1 - 1/out, out)
    seen = torch.stack([(y*at).sum((1, 2)), (y*at[:, None]).sum((1, 2))], -1)/y.sum((1, 2))[:, None]
    assert inside.sum() > 20 and warp.mirrored[inside].any()
    assert (seen - told)[inside].abs().max() < 2/size                        # a pixel of the old picture


def test_landmarks_follow_a_whole_randomised_picture(people):
    "The dots of a picture with dots at its landmarks come out where the warp says, left and right exchanged."
    points, n, size = torch.from_numpy(people.landmarks), 24, 96
    k = LANDMARKS.index("left mouth corner")
    frames = torch.zeros(n, size, size, 3, dtype=torch.uint8)
    points = torch.where(points.isnan(), 0, points)                        # a hidden one gets a dot in the middle
    j, i = ((points[:, k] + 1)*size/2).long().clamp(0, size - 1).T
    frames[torch.arange(n), i, j] = 255
    _, warp = randomise(frames, seeded(6), 64)
    told = warp.points(points)
    which = torch.where(warp.mirrored, MIRRORED[k], k)
    ours = told[torch.arange(n), which]
    back = torch.einsum("mij,mj->mi", warp.matrix[:, :, :2], ours) + warp.matrix[:, :, 2]
    assert torch.allclose(back, points[:, k], atol=1e-5) and 4 < warp.mirrored.sum() < 20


@pytest.mark.parametrize("shape", [(3, 24, 2), (4, 23, 2), (4, 24), (4, 24, 3)])
def test_other_landmarks_are_refused(shape):
    with pytest.raises(MicaclError, match=r"Warp.points: expected landmarks \(4,24,2\)"):
        random_warp(4, seeded()).points(torch.zeros(shape))
