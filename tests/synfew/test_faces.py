"Faces: what each unit moves and where, left and right, size, determinism, independence of who, how and what."
import hashlib
from dataclasses import asdict, replace

import numpy as np
import pytest

from micacl.core import MicaclError, Stream
from micacl.data.synfew.faces import (BEARDS, GLASSES, HAIR_STYLES, UNIT_NAMES, UNITS, Face, Scene, geometry,
                                      random_face, random_scene, render)
from micacl.data.synfew.paint import blur, bump, cover, grain_offsets, grain_tile, lambert, outline, ramp, sincos

PLAIN = Face(hair_style="bald", eye_tilt=0.0)
LIGHT = Scene(light=(0.0, -0.6, 0.8))
TURN = np.zeros((1, 3))
#          rows and columns (of 64) in which a unit may change much, symmetric about the middle: top, bottom, half width
REGION = {"AU1": (4, 25, 26), "AU2": (4, 25, 26), "AU4": (6, 28, 26), "AU5": (14, 30, 22), "AU6": (18, 48, 28),
          "AU7": (16, 34, 22), "AU9": (6, 56, 24),
          "AU12": (24, 56, 28), "AU15": (32, 60, 22), "AU16": (42, 60, 20), "AU20": (32, 56, 24), "AU23": (42, 58, 20),
          "AU25": (42, 60, 18),
          "AU26": (36, 64, 32), "AU45": (12, 30, 22)}


def row(strength=1.0, **units):
    u = np.zeros((1, len(UNITS)), np.float32)
    for name, s in units.items(): u[0, UNITS.index(name)] = s*strength
    return u


def draw(units=None, face=PLAIN, pose=(0, 0, 0), scene=LIGHT, size=64, asymmetry=None):
    return render(face, row() if units is None else units, np.float32([pose]), scene, size, asymmetry)[0]


def random_clip(k, n=6):
    s = Stream("test faces", k)
    units = s.uniform(0, 1, (n, len(UNITS)))*(s.uniform(0, 1, (n, len(UNITS))) < 0.5)
    pose = s.uniform(-1, 1, (n, 3))*np.array([44, 30, 25])
    return random_face(Stream("test who", k)), units, pose, random_scene(Stream("test how", k)), (s.uniform(-1, 1,
        len(UNITS)) if k % 2 else None)


# ---- units

@pytest.mark.parametrize("name", UNITS)
def test_a_unit_changes_its_own_region_and_hardly_anything_else(name):
    change = np.abs(draw(row(**{name: 1})).astype(int) - draw()).max(-1)
    top, bottom, half = REGION[name]
    inside = np.zeros((64, 64), bool); inside[top:bottom, 32 - half:32 + half] = True
    assert (change[inside] > 16).sum() >= 20, "not visible"
    assert change[~inside].max(initial=0) <= 8 and change[~inside].sum() < 0.02*change.sum()


@pytest.mark.parametrize("name", UNITS)
def test_a_stronger_unit_changes_more(name):
    amounts = [np.abs(draw(row(s, **{name: 1})).astype(float) - draw()).sum() for s in (0, 0.25, 0.5, 0.75, 1)]
    assert amounts[0] == 0 and (np.diff(amounts) > 0).all()


def test_mouth_corner_goes_up_with_au12_and_down_with_au15_in_the_pixels():
    def corner(units, size=224):       # the lips are redder than the skin: the outermost red pixels of the mouth
        p = draw(units, face=replace(PLAIN, lip_red=1.0, skin=(0.8, 0.7, 0.65), age=0.0), size=size).astype(float)
        red = p[..., 0]/(p[..., 1] + 1)
        mouth = red[int(size*.60):int(size*.95), :size//2]
        ys, xs = np.nonzero(mouth > 1.45)
        return ys[xs <= xs.min() + size//56].mean(), xs.min()
    heights = [corner(row(AU12=s))[0] for s in (0, 0.4, 0.7, 1)]
    assert (np.diff(heights) < -1).all()
    assert corner(row(AU15=1))[0] > heights[0] + 5
    width = {n: corner(row(**{n: 1}))[1] for n in ("AU12", "AU20", "AU23")}
    assert (width["AU20"] < corner(row())[1] - 2 and width["AU23"] > corner(row())[1] + 5
            and width["AU12"] < corner(row())[1])


def test_white_of_the_eye_grows_with_au5_and_is_gone_in_a_blink():
    def white(units):                            # bright and colourless pixels of one eye, without its highlight
        p = draw(units, face=replace(PLAIN, skin=(0.55, 0.38, 0.28)), size=224)[60:110, 50:105].astype(int)
        return int(((p.min(-1) > 110) & (p.max(-1) - p.min(-1) < 40)).sum())
    rest = white(row())
    assert white(row(AU5=1)) > white(row(AU5=0.5)) > rest > 50
    assert rest > white(row(AU7=1)) and rest > white(row(AU6=1))
    assert white(row(AU45=1)) == 0


def test_geometry_by_hand():
    f = Face(mouth_y=0.6, mouth_rest=0.01, mouth_width=0.3, eye_open=0.06, brow_y=-0.2)
    g = geometry(f, row(AU12=1))
    assert (g.corner == pytest.approx(np.full((2, 1), 0.6 + 0.01 - 0.12))
            and g.mouth_w == pytest.approx(np.full((2, 1), 0.3*1.22)))
    g = geometry(f, row(AU45=1))
    # the upper lid's edge lies on the lower lid's, just inside it
    assert g.lid_up == pytest.approx(-0.85*g.lid_low)
    assert (geometry(f, row(AU1=1)).brow_in[0, 0] == pytest.approx(-0.315)
            and geometry(f, row(AU4=1)).brow_in[0, 0] == pytest.approx(-0.105))
    rest = geometry(f, row())
    assert not rest.jaw.any() and not rest.gap_low.any() and rest.corner[0, 0] == pytest.approx(0.61)


def test_every_unit_moves_something_and_is_named():
    rest = vars(geometry(Face(), row()))
    for name in UNITS:
        g = vars(geometry(Face(), row(**{name: 1})))
        moved = [k for k in g if not k.startswith(("au", "mid")) and not np.allclose(g[k], rest[k])]
        assert moved and UNIT_NAMES[name], name
    assert len(UNITS) == 15 and UNITS[0] == "AU1" and UNITS[-1] == "AU45"


# ---- left and right

def test_symmetric_face_is_its_own_mirror_image():
    for units in (row(), row(AU12=1, AU6=1), row(AU4=1, AU26=0.5)):
        d = np.abs(draw(units).astype(int) - draw(units)[:, ::-1])
        # the highlights in the eyes come from one lamp
        assert (d.max(-1) > 3).sum() <= 12
        d[14:30] = 0
        assert d.max() <= 2


def test_asymmetry_strengthens_one_side_and_mirrors():
    a = np.zeros(len(UNITS)); a[UNITS.index("AU12")] = 0.8
    units = row(AU12=0.5)
    one, other, none = draw(units, asymmetry=a).astype(int), draw(units, asymmetry=-a).astype(int), draw(units,
        asymmetry=0*a)
    rest, even = draw().astype(int), draw(units)
    change = np.abs(one - rest).sum(-1)[30:58]
    assert change[:, 32:].sum() > 2*change[:, :32].sum()                    # + is the right half of the picture
    d = np.abs(one - other[:, ::-1]); d[14:30] = 0
    assert d.max() <= 2
    # no asymmetry and an asymmetry of zero are the same picture
    assert np.abs(none.astype(int) - even).max() <= 1
    g = geometry(Face(), row(AU6=0.8), np.full(len(UNITS), 0.5))
    assert g.au6[:, 0] == pytest.approx([0.4, 1.0]) and g.mid6[:, 0] == pytest.approx([0.7, 0.7])


def test_turning_left_is_the_mirror_image_of_turning_right():
    for yaw, roll in ((25, 0), (0, 15), (30, -10)):
        d = np.abs(draw(pose=(yaw, 0, roll)).astype(int) - draw(pose=(-yaw, 0, -roll))[:, ::-1])
        assert (d.max(-1) > 8).mean() < 0.01


def test_pose_moves_the_features_the_way_it_says():
    def dark(pose):                                # centre of the two eyes: the darkest pixels
        p = draw(pose=pose, face=replace(PLAIN, skin=(0.9, 0.74, 0.63), hair=(0.7, 0.7, 0.7), age=0.0),
                 size=112).sum(-1)[20:70, 15:97]
        ys, xs = np.nonzero(p < 200)
        return xs.mean() + 15, ys.mean() + 20
    x0, y0 = dark((0, 0, 0))
    assert abs(x0 - 55.5) < 1
    # moved, and followed by the crop
    assert x0 + 3 < dark((20, 0, 0))[0] < x0 + 14 and x0 - 14 < dark((-20, 0, 0))[0] < x0 - 3
    assert dark((0, 15, 0))[1] < y0 - 1 and dark((0, -15, 0))[1] > y0 + 1


# ---- size, bytes, frames

@pytest.mark.parametrize("k", range(4))
def test_a_large_picture_made_small_is_the_small_picture(k):
    face, units, pose, scene, a = random_clip(k)
    scene = replace(scene, noise=0.0, blur=0.0)
    large, small = render(face, units[:2], pose[:2], scene, 128, a).astype(float), render(face, units[:2], pose[:2],
        scene, 64, a)
    d = np.abs(large.reshape(2, 64, 2, 64, 2, 3).mean((2, 4)) - small)
    assert d.mean() < 3 and (d.max(-1) > 40).mean() < 0.02


@pytest.mark.parametrize("k", range(6))
def test_a_frame_alone_is_the_frame_in_its_clip(k):
    face, units, pose, scene, a = random_clip(k)
    size = (64, 48, 112)[k % 3]
    clip = render(face, units, pose, scene, size, a)
    for f in (0, 3, 5): assert (render(face, units[f:f + 1], pose[f:f + 1], scene, size, a)[0] == clip[f]).all()


def test_long_clips_are_drawn_in_steps_without_a_seam():
    face, units, pose, scene, _ = random_clip(2, n=70)
    scene = replace(scene, noise=0.02)
    whole = render(face, units, pose, scene, 48)
    assert (render(face, units[50:], pose[50:], scene, 48) == whole[50:]).all()


def test_same_arguments_same_bytes_and_inputs_are_left_alone():
    face, units, pose, scene, a = random_clip(1)
    u, p = units.copy(), pose.copy()
    one = render(face, units, pose, scene, 48, a)
    assert one.dtype == np.uint8 and one.shape == (6, 48, 48, 3) and one.flags.c_contiguous
    assert (one == render(face, units, pose, scene, 48, a)).all() and (u == units).all() and (p == pose).all()
    assert render(face, units[:0], pose[:0], scene, 48).shape == (0, 48, 48, 3)


def test_the_pictures_are_pinned():
    "If this fails, drawn data sets change: raise the generator version of SynFEW before you pin again."
    h = hashlib.sha256()
    for k in range(24):
        face, units, pose, scene, a = random_clip(k, n=2)
        face = replace(face, hair_style=HAIR_STYLES[k % 9], beard=BEARDS[k % 5], glasses=GLASSES[k % 3])
        h.update(render(face, units, pose, scene, (64, 40)[k % 2], a).tobytes())
    assert h.hexdigest() == "3f229aa3aa827b2bff757b7b08e205ca9884e371239dc734635144cd7f4051f7"


# ---- who, how and what

def test_samplers_are_functions_of_their_stream():
    assert random_face(Stream(1, 2)) == random_face(Stream(1, 2)) != random_face(Stream(1, 3))
    assert random_scene(Stream(1, 2)) == random_scene(Stream(1, 2)) != random_scene(Stream(1, 3))
    hash(random_face(Stream(5))), hash(random_scene(Stream(5)))            # frozen, and made of plain values


def test_properties_of_people_are_independent():
    people = [asdict(random_face(Stream("independence", i))) for i in range(1500)]
    fixed = {k: v for k, v in asdict(Face()).items() if all(p[k] == v for p in people)}       # for the stream only
    assert set(fixed) == {"reach", "brow_reach", "sneer", "depth", "white", "socket", "teeth", "covered",
                          "lower_teeth", "lines"}
    people = [{k: v for k, v in p.items() if k not in fixed} for p in people]
    code = {"skin": lambda v: sum(v), "hair": lambda v: sum(v), "iris": lambda v: sum(v), "frame": lambda v: sum(v),
            "cloth": lambda v: sum(v),
            "hair_style": HAIR_STYLES.index, "beard": BEARDS.index, "glasses": GLASSES.index}
    table = np.array([[code.get(k, float)(v) for k, v in p.items()] for p in people])
    r = np.corrcoef(table.T) - np.eye(table.shape[1])
    assert np.abs(r).max() < 0.13                                           # five standard errors; 496 pairs
    assert {p["hair_style"] for p in people} == set(HAIR_STYLES) and {p["beard"] for p in people} == set(BEARDS)
    assert table.std(0).min() > 0


def test_a_unit_is_as_visible_on_dark_skin_as_on_light_skin():
    "Change relative to the brightness of the face, as an eye (or a normalised input) sees it."
    def seen(name, skin):
        f = replace(PLAIN, skin=skin)
        rest = draw(face=f).astype(float)
        return np.abs(draw(row(**{name: 1}), face=f) - rest).sum()/rest[20:58, 10:54].mean()
    for name in UNITS:
        light, dark = seen(name, (0.96, 0.83, 0.75)), seen(name, (0.33, 0.22, 0.17))
        assert dark > 0.8*light > 0, name


def test_scene_changes_the_picture_and_nothing_else_decides_it():
    base = draw()
    for change in (dict(light=(0.8, 0.0, 0.6)), dict(strength=0.2), dict(light_colour=(1.1, 1.0, 0.9)),
                   dict(background=((1, 0, 0), (0, 0, 1))),
                   dict(blobs=((-0.9, -0.8, 0.5, (0.0, 1.0, 0.0)),)), dict(blur=0.02), dict(noise=0.05),
                   dict(shift=(0.1, 0.0)), dict(scale=1.1),
                   dict(occluder=("hand", 0.6, 0.8, -0.4, -0.8, 1.0, (0.6, 0.4, 0.3)))):
        assert (draw(scene=replace(LIGHT, **change)) != base).any(), change
    assert (draw(scene=replace(LIGHT, seed=7)) == base).all()               # the seed of the grain, without grain
    a, b = (draw(scene=replace(LIGHT, noise=0.05, seed=s)).astype(float) - base for s in (1, 2))
    assert a.std() == pytest.approx(0.05*255, rel=0.15) and abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("kind", ("hand", "bar", "scarf", "microphone"))
def test_an_occluder_hides_the_same_pixels_of_every_face(kind):
    s = replace(LIGHT, occluder=(kind, 0.6, 0.8, -0.4, -0.8, 1.0, (0.1, 0.6, 0.1)))
    masks = [(np.abs(draw(face=f, scene=s).astype(int) - draw(face=f)).max(-1) > 25)
             for f in (PLAIN, replace(PLAIN, skin=(0.9, 0.3, 0.3)))]
    assert 20 < masks[0].sum() < 0.6*64*64 and (masks[0] ^ masks[1]).mean() < 0.05


# ---- errors

@pytest.mark.parametrize("change, message", [
    (dict(units=np.zeros((2, 12))), "units must have shape (frames, 15), found (2, 12)"),
    (dict(units=np.zeros(15)), "found (15,)"),
    (dict(pose=np.zeros((3, 3))), "pose must have shape (2, 3)"), (dict(units=np.full((2, 15), 1.5)), "0..1"),
    (dict(units=np.full((2, 15), np.nan)), "0..1"), (dict(pose=np.full((2, 3), 80.0)), "45 degrees"),
    (dict(pose=np.full((2, 3), np.nan)), "45 degrees"),
    (dict(size=8), "at least 16"), (dict(size=50.5), "whole number"), (dict(asymmetry=np.zeros(4)), "asymmetry"),
    (dict(asymmetry=np.full(15, 2.0)), "-1..1")])
def test_wrong_arguments_are_named_in_one_line(change, message):
    args = dict(face=PLAIN, units=np.zeros((2, 15)), pose=np.zeros((2, 3)), scene=LIGHT, size=32) | change
    with pytest.raises(MicaclError) as e: render(**args)
    assert message in str(e.value) and "\n" not in str(e.value)


# ---- painting

def test_curves_end_exactly():
    assert ((bump(np.float32([0, 1, 1.5, 9])) == [1, 0, 0, 0]).all()
            and (ramp(np.float32([-3, 0, 0.25, 0.5, 1, 8]), 0, 1) == [0, 0, 0.15625, 0.5, 1, 1]).all())
    assert (cover(np.float32([-1, -0.5, 0, 0.25, 0.5, 1]), 1) == [1, 1, 0.5, 0.25, 0, 0]).all()


def test_sine_and_cosine_of_the_poses():
    d = np.linspace(-45, 45, 1001, dtype=np.float32)
    s, c = sincos(d)
    assert (np.abs(s - np.sin(np.radians(d.astype(float)))).max() < 1e-6
            and np.abs(c - np.cos(np.radians(d.astype(float)))).max() < 1e-6)


def test_light_on_a_slope_follows_the_cosine_law():
    scene = Scene(light=(0.6, 0.0, 0.8), ambient=0.2, strength=0.5)
    x = np.linspace(0, 1, 11, dtype=np.float32)
    for slope in (0.0, -0.75, 1.0):
        z = (slope*x)[None, None].repeat(11, 1)
        n = np.array([-slope, 0, 1])/np.hypot(slope, 1)
        lit, _ = lambert(z, scene, 0.1)
        assert lit[0, 5, 5] == pytest.approx(0.2 + 0.5*max(0, n @ np.array(scene.light)), abs=1e-5)


def test_outline_is_a_circle_where_it_should_be():
    t = np.linspace(0, 2*np.pi, 50)
    assert np.abs(outline(0.7*np.cos(t), np.sin(t), 0.7, 1.0, square=0.0)).max() < 1e-5
    assert outline(np.array([0.0]), np.array([0.0]), 0.7, 1.0)[0] == pytest.approx(-0.7, abs=1e-3)


def test_blur_keeps_light_and_has_the_variance_it_is_asked_for():
    for sigma in (0.5, 1.3, 3.0):
        p = np.zeros((61, 61), np.float64); p[30, 30] = 1
        blur(p, sigma)
        x = np.arange(61) - 30.0
        assert (p.sum() == pytest.approx(1) and (p.sum(0)*x*x).sum() == pytest.approx(sigma**2, rel=1e-3)
                and p.min() >= 0)


def test_grain_is_white_and_a_function_of_seed_and_frame():
    a, b = grain_tile(128, 1), grain_tile(128, 2)
    assert (abs(a.mean()) < 0.03 and a.std() == pytest.approx(1, abs=0.03)
            and abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03)
    assert abs(np.corrcoef(a[1:].ravel(), a[:-1].ravel())[0, 1]) < 0.03
    rows = np.random.default_rng(0).random((400, 18))
    at = grain_offsets(rows)
    assert at.min() >= 0 and at.max() <= 63 and len(np.unique(at, axis=0)) > 350
    assert (at == grain_offsets(rows)).all() and (grain_offsets(rows[7:8])[0] == at[7]).all()
