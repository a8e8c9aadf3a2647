"The stream for pre-training: bytes, people, units, and landmarks against the renderer and against the picture."
import hashlib
from dataclasses import asdict, replace

import numpy as np
import pytest

import micacl.data.synfew.faces as faces
from micacl.core import EMOTIONS, MicaclError, Stream
from micacl.data.synfew.acting import AU
from micacl.data.synfew.faces import UNITS, Face, Scene, geometry, random_face, random_scene, render
from micacl.data.synfew.paint import bump, outline, ramp, sincos
from micacl.data.synfew.stream import (LANDMARKS, MIRRORED, VARIANTS, WIDER, _head_points, _turned, draw_people,
                                       draw_person, landmarks, varied_face, varied_scene, varied_units)

REST, FRONT = np.zeros((1, len(UNITS)), np.float32), np.zeros((1, 3), np.float32)


def same(x, y): return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
def equal(a, b): return all(map(same, a, b))


def example(k, n=4, most=20):
    "A person, units, pose within `most` degrees, scene and asymmetry."
    s = Stream("test stream", k)
    units = s.uniform(0, 1, (n, len(UNITS)))*(s.uniform(0, 1, (n, len(UNITS))) < 0.4)
    return (varied_face(s), units.astype(np.float32), s.uniform(-most, most, (n, 3)), varied_scene(s),
            s.uniform(-1, 1, len(UNITS)))


# ---- people
def test_same_seed_same_bytes():
    assert equal(draw_person(1, 2, size=32), draw_person(1, 2, size=32))
    assert not equal(draw_person(1, 2, size=32), draw_person(1, 3, size=32))
    assert not equal(draw_person(1, 2, size=32), draw_person(2, 2, size=32))


def test_the_stream_is_pinned():
    "If this fails, the encoder's training can't be repeated: train it anew before you pin again."
    p, h = draw_people(11, 6, size=32), hashlib.sha256()
    for part, kind in zip(p[:4], (np.uint8, np.float32, np.int64, np.float32)): h.update(part.astype(kind).tobytes())
    assert h.hexdigest() == "018d498a04c5da4085642e819b7f388c63b8d154031918c55d3cad35f3bcffa0"


def test_people_do_not_depend_on_their_number_or_on_workers():
    many = draw_people(5, 18, size=16)
    assert equal(draw_people(5, 3, size=16), [part[:12] for part in many])
    assert equal(draw_person(5, 7, size=16), [part[28:32] for part in many])
    assert equal(draw_people(5, 18, size=16, workers=2), many)           # two chunks


def test_shapes_and_types():
    p = draw_people(0, 2, size=40)
    assert [(part.shape, part.dtype) for part in p] == [
        ((8, 40, 40, 3), np.uint8), ((8, 15), np.float32), ((8,), np.int64), ((8,), np.float32),
        ((8, 24, 2), np.float32)]
    assert draw_person(0, 0, size=16, n=1).landmarks.shape == (1, 24, 2)
    assert same(draw_person(0, 0, size=16).landmarks, draw_person(0, 0, size=64).landmarks)


@pytest.mark.parametrize("call, message", [
    (lambda: draw_people(0, 0), "draw_people: n: expected 1 person or more, found 0"),
    (lambda: draw_person(0, 0, n=0), "draw_person: n: expected 1 picture or more, found 0"),
    (lambda: landmarks(Face(), REST[0], FRONT, Scene()), "units must have shape (frames, 15), found (15,)"),
    (lambda: landmarks(Face(), REST[:, :3], FRONT, Scene()), "found (1, 3)"),
    (lambda: landmarks(Face(), REST, np.zeros((2, 3)), Scene()), "pose must have shape (1, 3)")])
def test_what_can_not_be_is_refused(call, message):
    with pytest.raises(MicaclError) as e: call()
    assert message in str(e.value) and "\n" not in str(e.value)


def test_a_person_keeps_face_and_light_and_changes_units_and_pose(monkeypatch):
    import micacl.data.synfew.stream as stream
    seen = []
    monkeypatch.setattr(stream, "render", lambda *a, **k: seen.append(a) or render(*a, **k))
    draw_person(0, 0, size=16, n=6)
    (face, units, pose, scene), = seen
    assert face == varied_face(Stream(0, "varied", 0, "face")) and scene == varied_scene(Stream(0, "varied", 0,
        "scene"))
    assert len(np.unique(units, axis=0)) > 3 and len(np.unique(pose, axis=0)) == 6 and np.abs(pose).max() <= 40


# ---- who and how
def test_the_data_set_keeps_its_faces():
    "SynFEW-1.0 is frozen: what the stream varies in addition stays at its default there."
    default = asdict(Face())
    kept = ("reach", "brow_reach", "sneer", "depth", "white", "socket", "teeth", "covered", "lower_teeth",
            "lines")
    for i in range(300):
        person = asdict(random_face(Stream("kept", i)))
        assert all(person[name] == default[name] for name in kept)
        assert all(lo <= person[name] <= hi for name, (lo, hi) in WIDER.items())


def test_varied_people_fill_wider_ranges():
    people = [asdict(varied_face(Stream("wide", i))) for i in range(400)]
    for name, (lo, hi) in WIDER.items():
        values = [p[name] for p in people]
        assert lo <= min(values) < lo + 0.05*(hi - lo) and hi - 0.05*(hi - lo) < max(values) <= hi, name
    assert all(0 <= line <= 0.5 for p in people for line in p["lines"]) and len(people[0]["lines"]) == 5
    assert 0 < min(p["age"] for p in people) and max(p["age"] for p in people) <= 1.3
    assert max(p["covered"] for p in people) > 0.95 and min(p["covered"] for p in people) < 0.05
    assert 0.5 < np.mean([p["lower_teeth"] > 0 for p in people]) < 0.75


def test_varied_properties_are_independent():
    people = [asdict(varied_face(Stream("apart", i))) for i in range(1500)]
    columns = [*WIDER, "age", "socket", "covered", "lower_teeth"]
    table = np.array([[*(p[c] for c in columns), *p["lines"], sum(p["skin"])] for p in people])
    assert np.abs(np.corrcoef(table.T) - np.eye(table.shape[1])).max() < 0.13          # five standard errors


def test_a_varied_scene_has_no_grain_and_keeps_the_rest():
    a, b = varied_scene(Stream("place", 1)), random_scene(Stream("place", 1))
    assert a.noise == 0 and (a.light, a.background, a.occluder) == (b.light, b.background, b.occluder)
    assert 0.9 <= a.scale <= 1.2 and 0.2 <= a.strength <= 1 and 0.25 <= a.ambient <= 0.85


# ---- what
def test_variants_name_units_that_exist():
    assert tuple(VARIANTS) == tuple(EMOTIONS)
    for name, sets in VARIANTS.items():
        assert len(set(map(frozenset, sets))) == len(sets), name
        assert all(number in AU and number != 45 for numbers in sets for number in numbers), name
        assert all(len(set(numbers)) == len(numbers) for numbers in sets), name


def test_units_of_the_stream():
    s = Stream("units of the stream")
    units, emotion, strength = map(np.array, zip(*(varied_units(s) for _ in range(3000))))
    assert units.shape == (3000, 15) and 0 <= units.min() and units.max() <= 1
    assert (units*256 == np.round(units*256)).all()                         # as in a data set's table
    assert set(emotion) == {-1, *range(len(EMOTIONS))} and abs((emotion < 0).mean() - 0.45) < 0.03
    assert (strength[emotion < 0] == 0).all()
    neutral = emotion == EMOTIONS.index("neutral")
    assert (strength[neutral] == 1).all()
    other = (emotion >= 0) & ~neutral
    assert 0.15 <= strength[other].min() and strength[other].max() < 1
    assert abs(units[:, AU[45]].astype(bool)[other].mean() - 0.1) < 0.06    # blinks, and a stray unit


def test_an_expression_shows_its_units():
    "A clear expression has at least one of the units of its variants or prototype, at half its strength or more."
    s, checked = Stream("shown"), 0
    for _ in range(1500):
        units, emotion, strength = varied_units(s)
        if emotion < 0 or EMOTIONS[emotion] == "neutral": continue
        own = {AU[n] for numbers in VARIANTS[EMOTIONS[emotion]] for n in numbers}
        assert max(units[k] for k in own) >= 0.5*strength - 1/256; checked += 1
    assert checked > 500


# ---- landmarks
def at(name, points): return points[LANDMARKS.index(name)]


def test_landmarks_of_a_face_from_the_front_by_hand():
    "Default face, no unit, no turn: head coordinates x, y are at (x, y - 0.16) / 0.92 of half a picture."
    found = landmarks(Face(), REST, FRONT, Scene())[0]
    head = {"right brow inner end": (0.115, -0.20), "right brow middle": (0.31625, -0.245),
            "right brow outer end": (0.5175, -0.18), "right eye inner corner": (0.165, 0.012),
            "right eye outer corner": (0.465, -0.012), "right upper lid": (0.315, -1.08*0.058*1.15),
            "right lower lid": (0.315, 0.058*0.8), "right mouth corner": (0.27, 0.60), "right nose wing": (0.14, 0.35),
            "upper lip top": (0, 0.60 - 0.72*0.055*0.85), "upper lip bottom": (0, 0.60), "lower lip top": (0, 0.60),
            "lower lip bottom": (0, 0.60 + 0.055*1.15), "nose tip": (0, 0.35), "chin": (0, 0.96)}
    for name, (x, y) in head.items():
        assert at(name, found) == pytest.approx((x/0.92, (y - 0.16)/0.92), abs=1e-6), name
        left = at(name.replace("right", "left"), found)
        assert left == pytest.approx((-x/0.92, (y - 0.16)/0.92), abs=1e-6), name
    near = landmarks(Face(), REST, FRONT, Scene(scale=2.0, shift=(0.1, -0.2)))[0]
    assert near == pytest.approx(2*found + np.float32([0.1, -0.2]), abs=1e-6)


def test_units_move_their_landmarks():
    def moved(number, name, **kw):
        one = REST.copy(); one[0, AU[number]] = 1
        return at(name, landmarks(Face(), one, FRONT, Scene(), **kw)[0] - landmarks(Face(), REST, FRONT, Scene())[0])
    for side, sign in (("left", -1), ("right", 1)):
        assert moved(12, f"{side} mouth corner")[0]*sign > 0.05 and moved(12, f"{side} mouth corner")[1] < -0.1
        assert moved(15, f"{side} mouth corner")[1] > 0.1 and moved(1, f"{side} brow inner end")[1] < -0.1
        assert moved(4, f"{side} brow inner end")[0]*sign < -0.05 and moved(45, f"{side} upper lid")[1] > 0.05
    assert moved(26, "chin")[1] > 0.1 and moved(25, "lower lip top")[1] > 0.04 > abs(moved(25, "nose tip")[1])
    one_sided = np.zeros(15); one_sided[AU[12]] = 1
    assert moved(12, "left mouth corner", asymmetry=one_sided) == pytest.approx([0, 0], abs=1e-6)


def shown_at(face, pose, scene, X, Y, monkeypatch):
    "Head coordinates x, y that `render` shows at places of the picture, and the sines of yaw and pitch."
    monkeypatch.setattr(faces, "grid", lambda size: (np.float32(X)[None, None], np.float32(Y)[None, None]))
    *_, x, y, (sy, sp), _, _ = faces._head(face, np.float32([pose]), scene, 64)
    return x[0, 0], y[0, 0], sy.item(), sp.item()


@pytest.mark.parametrize("most", [15, 40])
@pytest.mark.parametrize("k", range(6))
def test_render_shows_a_landmark_where_it_is_said_to_be(k, most, monkeypatch):
    "The renderer is asked which head coordinates it shows at the 23 places that are on the head."
    face, units, pose, scene, asymmetry = example(k, most=most)
    places = landmarks(face, units, pose, scene, asymmetry)[:, :-1]
    points, heights = _head_points(face, geometry(face, units, asymmetry))
    assert not np.isnan(places).any() or most > 15
    for f, place in enumerate(places):
        x, y, sy, sp = shown_at(face, pose[f], scene, *place.T, monkeypatch)
        off = np.stack([x - heights[:, 0]*sy, y + heights[:, 1]*sp], -1) - points[f]      # of a part at this height
        assert np.nanmax(np.abs(off)) < 0.01 and (np.isnan(off) == np.isnan(place)).all()


def outside(face, units, sy, X, Y):
    "Whether places of an unturned picture lie outside the outline of the head, as `render` draws it."
    jaw = geometry(face, units).jaw[0, 0]
    low = Y - jaw*ramp(Y, 0.4, 1.1)
    bone = 1 - 0.10*(face.cheek - 0.4)*bump((low - 0.36)*(low - 0.36)*4)
    return outline((X - 0.30*sy*ramp(Y, -0.1, 1.0))*bone, low, face.width, face.length, 0.15 + 0.65*face.jaw,
                   0.30 - 0.20*face.jaw) > 0


def test_what_no_pixel_shows_is_left_out_and_little_else(monkeypatch):
    """By brute force over a fine grid. What no place of the picture shows within 0.02 is NaN. What the head does
    show is NaN only close to the horizon: there the depth changes so fast that twelve rounds are too few."""
    scene, fine, hidden, left_out, still = Scene(), np.linspace(-1.4, 1.4, 201, dtype=np.float32), 0, 0, 0
    X, Y = np.meshgrid(fine, fine)
    for k in range(5):
        face, units, pose, *_ = example(k, most=40)
        pose[:, 2] = 0                                                     # a roll hides nothing
        places = landmarks(face, units, pose, scene)[:, :-1, 0]
        points, heights = _head_points(face, geometry(face, units))
        for f in range(len(pose)):
            sy, sp, _ = np.sin(np.deg2rad(pose[f]))
            U, V = (X - 0.30*sy)/0.92, (Y + 0.20*sp - 0.16)/0.92          # the crop follows the face
            x, y, sy, sp = shown_at(face, pose[f], scene, U, V, monkeypatch)
            head = ~outside(face, units[f:f + 1], sy, X, Y)
            off = np.stack([np.hypot(x - h*sy - px, y + v*sp - py) for (h, v), (px, py) in zip(heights, points[f])])
            nan, shown = np.isnan(places[f]), off[:, head].min(1) < 0.02
            assert nan[off.min((1, 2)) >= 0.02].all()
            (s, c) = sincos(np.float32(pose[f:f + 1]))
            later, _ = _turned(*points[f:f + 1].transpose(2, 0, 1), heights, face.width, s.T[:2, :, None],
                               c.T[:2, :, None], 400)
            hidden += (nan & ~shown).sum(); left_out += (nan & shown).sum(); still += (np.isnan(later[0]) & shown).sum()
    assert hidden > 10 and left_out < 2*hidden and still < 0.2*left_out, (hidden, left_out, still)


@pytest.mark.parametrize("pose", [(0, 0, 0), (30, 0, 0), (-20, 15, 0), (10, -12, 0)])
@pytest.mark.parametrize("drop", [0, 1])
def test_the_chin_is_at_the_lower_end_of_the_head_in_pixels(pose, drop):
    "A pale bald head with a narrow chin in even light: neck and clothes are darker, so its outline can be seen."
    units, size, scene = REST.copy(), 256, Scene(ambient=1.0, strength=0.0, scale=0.8)
    units[0, AU[26]] = drop
    face = replace(Face(), skin=(0.95, 0.9, 0.9), hair_style="bald", age=0.0, jaw=0.0)
    pale = render(face, units, np.float32([pose]), scene, size)[0].astype(float).mean(-1) > 200
    x, y = (at("chin", landmarks(face, units, [pose], scene)[0]) + 1)*size/2 - 0.5
    row, column = round(float(y)), round(float(x))
    assert pale[row, column] and not pale[row:, column].all()
    below = pale[row:, column].argmin()                                    # pixels to the edge
    assert abs(row + below - 0.5 - y - 0.04*0.8/0.92*size/2) < 2
    left, right = pale[row, :column + 1][::-1].argmin(), pale[row, column:].argmin()
    assert abs(right - left) < 6                                           # in the middle to three pixels
    assert 5 < right + left < 60


@pytest.mark.parametrize("height", [0.10, 0.32])
def test_nostrils_move_with_the_wings_of_a_nose_in_pixels(height):
    "The dark spots under the nose move to the side with the landmarks, further for a long nose than for a flat one."
    face = replace(Face(), skin=(0.95, 0.9, 0.9), hair_style="bald", age=0.0, nose_height=height, nose_width=0.16)
    size, found, told = 256, [], []
    for yaw in (0.0, 20.0):
        pose = np.float32([[yaw, 0, 0]])
        picture = render(face, REST, pose, Scene(ambient=1.0, strength=0.0), size)[0].astype(float).mean(-1)
        place = (landmarks(face, REST, pose, Scene())[0] + 1)*size/2 - 0.5
        x, y = at("nose tip", place)
        left, right = (int(at(f"{side} nose wing", place)[0]) for side in ("left", "right"))
        box = picture[int(y) - 3:int(y) + 5, left:right + 1].mean(0)
        weight = np.clip(np.median(box) - box, 0, None)
        found.append((weight*np.arange(left, right + 1)).sum()/weight.sum()); told.append(x)
    assert abs(found[0] - told[0]) < 1 and abs(found[1] - told[1]) < 3, (found, told)


@pytest.mark.parametrize("pose", [(0, 0, 0), (20, 0, 0), (-18, 8, 10), (5, -12, -20)])
def test_the_pupil_is_dark_between_the_corners_of_its_eye(pose):
    "Against pixels alone: a dark eye in a pale face, wide open."
    face = replace(Face(), skin=(0.95, 0.9, 0.9), hair=(0.9, 0.9, 0.9), hair_style="bald", iris=(0.05, 0.05, 0.05),
                   age=0.0, lashes=0.0, eye_open=0.12)
    size, pose = 256, np.float32([pose])
    picture = render(face, REST, pose, Scene(ambient=1.0, strength=0.0), size)[0].astype(float).mean(-1)
    points = (landmarks(face, REST, pose, Scene())[0] + 1)*size/2 - 0.5
    for side in ("left", "right"):
        x, y = (at(f"{side} upper lid", points) + at(f"{side} lower lid", points))/2
        r = int(np.abs(at(f"{side} upper lid", points) - at(f"{side} lower lid", points)).max()/2)
        rows, columns = np.mgrid[int(y) - r:int(y) + r + 1, int(x) - 2*r:int(x) + 2*r + 1]
        weight = np.clip(90 - picture[rows, columns], 0, None)
        centre = (weight*columns).sum()/weight.sum(), (weight*rows).sum()/weight.sum()
        assert weight.sum() > 1000 and np.hypot(centre[0] - x, centre[1] - y) < 4, side


def test_a_mirrored_head_has_mirrored_landmarks():
    face, units, pose, scene, asymmetry = example(9)
    a = landmarks(face, units, pose, scene, asymmetry)
    b = landmarks(face, units, pose*[-1, 1, -1], replace(scene, shift=(-scene.shift[0], scene.shift[1])), -asymmetry)
    assert b == pytest.approx(a[:, list(MIRRORED)]*np.float32([-1, 1]), abs=1e-5)


def test_names_and_their_mirror():
    assert len(LANDMARKS) == len(set(LANDMARKS)) == len(MIRRORED) == 24
    swap = lambda name: name.replace("left", "*").replace("right", "left").replace("*", "right")
    assert [LANDMARKS[k] for k in MIRRORED] == [swap(name) for name in LANDMARKS]
