"""Predict: windows against a slow loop, streaming against decoding at once, memory, faces, broken files, what is
written."""
import csv
import dataclasses
import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers import CLASSES
from micacl.deploy import predict as P
from micacl.deploy import prediction as Q
from micacl.deploy import tracking as T
from micacl.core import MicaclError
from micacl.train.config import Config
from micacl.data.load import load_table
from micacl.train.loaders import make_loader
from micacl.train.objective import build_model
from micacl.train.loop import make_accelerator, predict
from micacl.data.frames import ClipError, read_frames
from micacl.data.bags import frame_indices

MINI = Path(__file__).parents[2] / "data" / "synfew-mini"


def write(path, frames, fps=10, codec="libx264", pts=None):
    with av.open(str(path), "w") as box:
        v = box.add_stream(codec, rate=fps, options={} if codec == "png"
                           else {"crf": "18", "preset": "ultrafast", "bf": "0"})
        for i, x in enumerate(frames):
            if not i: v.height, v.width, v.pix_fmt = *x.shape[:2], "rgb24" if codec == "png" else "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(x), format="rgb24")
            if pts is not None: frame.pts = pts[i]
            box.mux(v.encode(frame))
        box.mux(v.encode())
    return path


def noise(n, h=48, w=64, seed=0):
    rng = np.random.default_rng(seed)
    return [np.kron(rng.integers(0, 255, (h // 8, w // 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
            for _ in range(n)]


def ticks(n, fps): return [(i / fps, 1 / fps, i) for i in range(n)]


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    config = Config(model="attention", pretrained=False)
    return build_model(config, 7).eval(), config, dict(classes=CLASSES, dataset="synfew", epoch=1)


# ---- windows

@pytest.mark.parametrize("n, fps, window, stride, starts, counts", [
    (1, 10, 2.5, 1.25, [0], [1]),
    (12, 10, 2.5, 1.25, [0], [12]),
    (25, 10, 2.5, 1.25, [0], [25]),
    (26, 10, 2.5, 1.25, [0, .1], [25, 25]),
    (50, 10, 2.5, 1.25, [0, 1.25, 2.5], [25, 25, 25]),
    (60, 10, 2.5, 1.25, [0, 1.25, 2.5, 3.5], [25, 25, 25, 25]),
    (40, 10, 2, 2, [0, 2], [20, 20]),
    (10, 10, float("inf"), float("inf"), [0], [10]),
    (120, 24000 / 1001, 2.5, 1.25, [0, 1.25, 2.505], [60, 60, 59]),
])
def test_windows_by_hand(n, fps, window, stride, starts, counts):
    got = list(T.slide(ticks(n, fps), window, stride))
    assert np.allclose([a for a, *_ in got], starts, atol=1e-6)
    assert [len(part) for *_, part in got] == counts


@pytest.mark.parametrize("n, fps", list(itertools.product((7, 31, 77, 200, 333), (7, 12.5, 29.97, 60))))
@pytest.mark.parametrize("window, stride", [(2.5, 1.25), (1, .3), (2, 2)])
def test_windows_hold_the_frames_of_their_time_and_cover_all(n, fps, window, stride):
    frames = ticks(n, fps)
    got = list(T.slide(frames, window, stride))
    seen = set()
    for a, b, part in got:
        assert [i for _, i in part] == [i for t, _, i in frames if a - 1e-6 <= t < b - 1e-6]
        seen |= {i for _, i in part}
    assert seen == set(range(n)) and got[-1][1] == pytest.approx(n / fps)
    assert len({a for a, *_ in got}) == len(got)


def test_a_gap_in_the_recording_makes_no_empty_windows():
    frames = [(t, .1, t) for t in (*np.arange(0, 3, .1), *np.arange(5000, 5003, .1))]
    got = list(T.slide(frames, 2, 1))
    assert len(got) < 12 and all(part for *_, part in got)
    assert {t for *_, part in got for _, t in part} == {t for t, *_ in frames}


def test_slide_holds_one_window_and_no_more():
    alive, most = set(), 0

    class Thing:
        def __init__(self, i): self.i = i; alive.add(i)
        def __del__(self): alive.discard(self.i)

    def frames():
        nonlocal most
        for i in range(3000):
            yield i / 10, .1, Thing(i)
            most = max(most, len(alive))
    for _ in T.slide(frames(), 2, 1): pass
    assert most < 60


# ---- decoding

def test_streaming_is_decoding_at_once(tmp_path):
    video = write(tmp_path / "a.mp4", noise(40))
    frames = list(T.stream_frames(video))
    assert np.array_equal(np.stack([x for *_, x in frames]), read_frames(video).numpy())
    assert np.allclose([t for t, *_ in frames], np.arange(40) / 10)


def test_times_come_from_the_file_where_the_rate_varies(tmp_path):
    pts = [0, 1, 2, 10, 11, 30]
    times = [t for t, *_ in T.stream_frames(write(tmp_path / "v.mkv", noise(6), pts=pts))]
    assert np.allclose(times, np.array(pts) / 10, atol=2e-3)


def test_large_pictures_are_made_smaller(tmp_path):
    _, _, x = next(T.stream_frames(write(tmp_path / "l.mp4", noise(2, 720, 1280))))
    assert x.shape == (360, 640, 3)


@pytest.mark.parametrize("matrix, turns", [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_phone_video_is_upright_and_its_faces_are_where_they_are_seen(run, tmp_path, matrix, turns):
    video = write(tmp_path / "a.mp4", noise(8))
    upright, data = np.stack([x for *_, x in T.stream_frames(video)]), bytearray(video.read_bytes())
    at = data.find(b"tkhd") + 44                                       # the display matrix of a version 0 track header
    a, b, c, d = (65536 * m for m in matrix)
    data[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    got = np.stack([x for *_, x in T.stream_frames(tmp_path / "turned.mp4")])
    assert np.array_equal(got, np.rot90(upright, turns, (1, 2)))
    p, H = P.predict_video(run, tmp_path / "turned.mp4", detect=fixed((5, 10, 20, 20))), got.shape[1]
    assert np.allclose(p.boxes[0], [15 / got.shape[2], 20 / H, 20 / got.shape[2]])
    whole = write(tmp_path / "whole.mkv", list(got), codec="ffv1")       # the same pixels, stored upright
    assert np.allclose(p.probabilities, P.predict_video(run, whole, detect=fixed((5, 10, 20, 20))).probabilities,
                       atol=0.02)


def test_the_chosen_frames_are_those_of_a_test_clip(run, tmp_path):
    video = write(tmp_path / "a.mp4", noise(37), fps=5)
    p = P.predict_video(run, video, crop=False, window=0)
    assert np.allclose(p.times[0] * 5, frame_indices(37).numpy())


@pytest.mark.parametrize("model", ["attention", "micacl"])
def test_one_window_is_the_evaluation(model):
    torch.manual_seed(1)
    config = Config(model=model, pretrained=False)
    table = load_table(MINI).select(split="train")[:4]
    net = build_model(config, 7).eval()
    truth = predict(net, make_loader(table, config), make_accelerator(config))
    for i, clip in enumerate(table):
        p = P.predict_video((net, config, dict(classes=CLASSES, dataset="synfew", epoch=1)), clip.path, crop=False,
                            window=0)
        assert np.allclose(p.probabilities[0], torch.from_numpy(truth["logits"][i]).softmax(0), atol=1e-5)
        assert np.allclose(p.weights[0], truth["weights"][i], atol=1e-5)


def test_memory_does_not_grow_with_length(tmp_path):
    short, long = (write(tmp_path / f"{n}.mp4", itertools.islice(itertools.cycle(noise(20, 240, 320)), n), fps=2)
                   for n in (40, 400))
    code = '''
import resource, sys, torch
from micacl.train.config import Config
from micacl.train.objective import build_model
from micacl.deploy.predict import predict_video
torch.set_num_threads(1); c = Config(model="mean", pretrained=False)
run = build_model(c, 7).eval(), c, dict(classes=list("abcdefg"), dataset="synfew", epoch=1)
detect = lambda x: [(100, 60, 90, 90)]
for video in sys.argv[1:]:
    p = predict_video(run, video, detect=detect, window=10, stride=10)
    print(p.n_frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20))
'''
    out = subprocess.run([sys.executable, "-c", code, str(short), str(long)], capture_output=True, text=True,
                         check=True).stdout.split()
    assert [int(n) for n in out[::2]] == [40, 400]
    assert float(out[3]) - float(out[1]) < 12       # MiB; all frames would be 88


# ---- faces

def fixed(*boxes): return lambda picture: list(boxes)


def test_no_face_no_score(run, tmp_path):
    p = P.predict_video(run, write(tmp_path / "a.mp4", noise(60)), detect=fixed())
    assert np.isnan(p.probabilities).all() and set(p.labels) == {None} and (p.faces == 0).all()
    assert "no face was found" in p.notes[0] and "no face" in Q.prediction_text(p)
    assert Q.timeline(p) == [(0, 6, None, None)]
    Q.plot_prediction(p).canvas.draw()


def test_a_face_that_comes_late_is_scored_late(run, tmp_path):
    looks = itertools.count()
    # a look every 0.3 s at 10 fps
    p = P.predict_video(run, write(tmp_path / "a.mp4", noise(80)),
                        detect=lambda x: [(10, 10, 24, 24)] if next(looks) >= 16 else [])
    there = np.array([label is not None for label in p.labels])
    assert (not there[0] and there[-1] and np.array_equal(there, ~np.isnan(p.probabilities[:, 0]))
            and np.array_equal(there, p.faces >= .5))
    assert "have no scores" in p.notes[0]
    d = Q.to_dict(p)["windows"]
    assert d[0]["probabilities"] is None and d[-1]["label"] == p.labels[-1]


def test_several_faces_the_largest_and_a_note(run, tmp_path):
    p = P.predict_video(run, write(tmp_path / "a.mp4", noise(30)), detect=fixed((0, 0, 10, 10), (30, 10, 24, 24)))
    assert (np.allclose(p.boxes[..., 0], 42 / 64) and np.allclose(p.boxes[..., 1], 22 / 48)
            and np.allclose(p.boxes[..., 2], 24 / 64))
    assert any("several faces" in n for n in p.notes)


def test_the_face_that_is_followed_stays():
    turns = itertools.cycle([[(0, 0, 20, 20), (60, 0, 21, 21)], [(0, 0, 21, 21), (60, 0, 20, 20)]])
    boxes = [b for *_, b in T.follow_face(((i / 4, .25, None) for i in range(20)), lambda x: next(turns))]
    assert all(b[0] > 50 for b in boxes)


def test_boxes_between_two_looks_lie_on_a_line():
    where = iter([0, 4, 8])
    boxes = [b for *_, b in T.follow_face(((i / 10, .1, None) for i in range(11)), lambda x: [(next(where), 0, 20, 20)],
                                          every=.5)]
    x = [b[0] - 10 for b in boxes]
    # half of the way: 0, 2, 5
    assert np.allclose(x[:6], np.linspace(0, 2, 6)) and np.allclose(x[5:], np.linspace(2, 5, 6))


def test_a_jump_is_not_averaged_and_a_short_miss_is_bridged():
    where = iter([[(0, 0, 20, 20)], [], [(200, 0, 20, 20)], [], [], [], []])
    boxes = [b for *_, b in T.follow_face(((i, 1, None) for i in range(7)), lambda x: next(where), every=1)]
    assert [None if b is None else b[0] for b in boxes] == [10, 10, 210, 210, 210, None, None]


def test_crop_is_the_square_around_the_face_and_repeats_the_edge():
    picture = np.arange(100 * 120, dtype=np.int64).reshape(100, 120, 1).repeat(3, 2).astype(np.uint8)
    assert np.array_equal(T.crop_face(picture, (60, 50, 40), 40, wider=1, lower=0), picture[30:70, 40:80])
    edge = T.crop_face(picture, (0, 50, 40), 40, wider=1, lower=0)
    assert (np.array_equal(edge[:, 20:], picture[30:70, :20])
            and np.array_equal(edge[:, :20], picture[30:70, :1].repeat(20, 1)))


def test_dlib_finds_drawn_faces():
    pytest.importorskip("dlib")
    clips = load_table(MINI).select(split="train")[:12]
    found = [T.find_faces(read_frames(c.path, [5])[0].numpy()) for c in clips]
    assert sum(map(bool, found)) >= 8
    assert T.find_faces(np.full((90, 160, 3), 110, np.uint8)) == []


def test_a_missing_detector_is_named(run, tmp_path, monkeypatch):
    T.dlib_detector.cache_clear(); monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MicaclError, match=r'pip install "micacl\[predict\]".*--no-crop'):
        P.predict_video(run, write(tmp_path / "a.mp4", noise(3)))
    T.dlib_detector.cache_clear()


# ---- what is no video, or no honest one

def test_a_folder_of_pictures_and_a_picture_are_clips(run, tmp_path):
    from PIL import Image
    folder = tmp_path / "00001"; folder.mkdir()
    for i, x in enumerate(noise(30)): Image.fromarray(x).save(folder / f"{i + 1}.png")
    frames = list(T.stream_frames(folder, notes := []))
    assert (np.array_equal([x for *_, x in frames], noise(30))
            and np.allclose([t for t, *_ in frames], np.arange(30) / 25) and "25 a second" in notes[0])
    p = P.predict_video(run, folder, crop=False)
    assert p.n_frames == 30 and p.duration == pytest.approx(1.2) and len(p.spans) == 1 and "25 a second" in p.notes[0]
    one = P.predict_video(run, folder / "1.png", crop=False)
    assert one.n_frames == 1 and np.isfinite(one.probabilities).all() and np.allclose(one.probabilities.sum(1), 1)


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    from PIL import Image
    exif = Image.Exif(); exif[0x0112] = 6                              # stored lying on its side
    Image.fromarray(noise(1)[0]).save(tmp_path / "p.png", exif=exif)
    (_, _, x), = T.stream_frames(tmp_path / "p.png")
    assert np.array_equal(x, np.rot90(noise(1)[0], 3))


@pytest.mark.parametrize("name", ["x.jpg", "videos"])
def test_no_picture_and_no_pictures(tmp_path, name):
    if name == "x.jpg": (tmp_path / name).write_bytes(b"\xff\xd8\xff nothing")
    else: (tmp_path / name).mkdir(); (tmp_path / name / "a.mp4").write_bytes(b"x")
    with pytest.raises(ClipError, match="no readable picture" if name == "x.jpg" else "found a folder without "
                       "pictures; name the videos in it") as e:
        list(T.stream_frames(tmp_path / name))
    assert "\n" not in str(e.value) and name in str(e.value)


def test_slow_motion_is_thinned_and_keeps_its_time(tmp_path):
    notes = []
    times = [t for t, *_ in T.stream_frames(write(tmp_path / "a.mp4", noise(96), fps=240), notes)]
    assert (len(times) == 48 and np.allclose(np.diff(times), 1 / 120, atol=1e-3)
            and any("passed over" in n for n in notes))
    assert (len(list(T.stream_frames(write(tmp_path / "b.mp4", noise(60), fps=60)))) == 60
            and len(list(T.stream_frames(write(tmp_path / "c.mkv", noise(60), fps=120)))) == 60)


def test_frames_without_number_in_no_time_do_not_fill_the_memory(run, tmp_path):
    video = write(tmp_path / "a.mp4", noise(300), fps=100_000)           # 300 frames in three thousandths of a second
    assert P.predict_video(run, video, crop=False).n_frames <= 2


def claims(path, width, height):
    "A small GIF whose header claims to be large."
    from PIL import Image
    pictures = [Image.fromarray(x) for x in noise(6)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    data = bytearray(path.read_bytes()); data[6:10] = struct.pack("<HH", width, height)
    path.write_bytes(data)
    return path


def avi_claims(path, size):
    "A small AVI in which the header, and the picture in it, claim to be large."
    import zlib
    write(path, noise(6), codec="png")
    data = bytearray(path.read_bytes())
    at = data.find(b"strf") + 12; data[at:at + 8] = struct.pack("<ii", size, size)
    at = -1
    while (at := data.find(b"IHDR", at + 1)) >= 0:
        data[at + 4:at + 12] = struct.pack(">II", size, size)
        data[at + 17:at + 21] = struct.pack(">I", zlib.crc32(data[at:at + 17]))
    path.write_bytes(data)
    return path


HOSTILE = '''
import resource, sys, time
from micacl.core import MicaclError
from micacl.deploy.tracking import stream_frames
import av, PIL.Image
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for video in sys.argv[1:]:
    try: list(stream_frames(video))
    except MicaclError as e: assert "\\n" not in str(e) and video in str(e), e
    else: raise SystemExit("taken: " + video)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(used / (1024 if sys.platform == "linux" else 2**20), time.process_time() - start)
'''


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_a_header_that_claims_a_huge_picture_costs_neither_memory_nor_time(tmp_path):
    # without a limit: 8 s and 2 GiB for the first
    videos = [claims(tmp_path / "screen.gif", 16_000, 16_000), claims(tmp_path / "most.gif", 65_535, 65_535)]
    videos += [avi_claims(tmp_path / f"png{n}.avi", n) for n in (12_000, 100_000)]
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 100_000,
        100_000) + b"\x08\x02\0\0\0" + b"\0" * 40)
    done = subprocess.run([sys.executable, "-c", HOSTILE, *map(str, videos), str(photo)], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    mib, seconds = map(float, done.stdout.split())
    assert mib < 100 and seconds < 3, done.stdout


def test_a_header_of_no_frames(tmp_path):
    video = write(tmp_path / "a.avi", noise(2), codec="mpeg4")
    data = video.read_bytes(); at = data.find(b"movi")
    video.write_bytes(data[:at - 4] + struct.pack("<I", 4) + b"movi")    # the list of frames, empty
    with pytest.raises(ClipError, match="a.avi: expected a video file, found no") as e: list(T.stream_frames(video))
    assert "\n" not in str(e.value)


# ---- broken files

@pytest.mark.parametrize("name, content, found", [("a.mp4", b"", "an empty file"),
                                                  ("b.mp4", b"Dear model", "no readable video"),
                                                  ("c.mp4", None, "nothing there")])
def test_a_broken_file_is_one_line_with_its_name(tmp_path, name, content, found):
    if content is not None: (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError) as e: list(T.stream_frames(tmp_path / name))
    assert name in str(e.value) and found in str(e.value) and "\n" not in str(e.value)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "s.mp4"), "w") as box:
        s = box.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        box.mux(s.encode(frame)); box.mux(s.encode())
    with pytest.raises(ClipError, match="a file without a picture track"): list(T.stream_frames(tmp_path / "s.mp4"))


def test_a_broken_tail_is_scored_as_far_as_it_goes(run, tmp_path):
    video = write(tmp_path / "t.avi", noise(80), codec="mpeg4")
    video.write_bytes(video.read_bytes()[:video.stat().st_size * 6 // 10])
    p = P.predict_video(run, video, crop=False)
    assert 20 < p.n_frames < 80 and p.duration < 7 and p.notes, p.notes


def test_a_wrong_extension_does_not_matter(run, tmp_path):
    video = write(tmp_path / "a.mkv", noise(12)).rename(tmp_path / "a.txt")
    assert P.predict_video(run, video, crop=False).n_frames == 12


def test_nonsense_settings(run, tmp_path):
    video = write(tmp_path / "a.mp4", noise(3))
    for options in (dict(window=-1), dict(stride=0), dict(window=1, stride=2)):
        with pytest.raises(MicaclError, match="predict: expected a window"):
            P.predict_video(run, video, crop=False, **options)


# ---- what is written

def test_files_say_what_the_prediction_says(run, tmp_path):
    p = P.predict_video(run, write(tmp_path / "Größe ё.mp4", noise(60)), detect=fixed((10, 10, 24, 24)))
    files = Q.write_prediction(p, tmp_path, "Größe ё")
    assert [f.name for f in files] == ["Größe ё.json", "Größe ё.csv", "Größe ё.png"]
    d = json.loads(files[0].read_text(encoding="utf-8"))
    assert np.allclose([[w["probabilities"][c] for c in d["classes"]] for w in d["windows"]], p.probabilities)
    assert np.allclose([[i["weight"] for i in w["instances"]] for w in d["windows"]], p.weights)
    assert np.allclose([[t for i in w["instances"] for t in i["times"]] for w in d["windows"]], p.times, atol=1e-3)
    assert np.allclose([[b for i in w["instances"] for b in i["boxes"]] for w in d["windows"]], p.boxes, atol=1e-4)
    with open(files[1], encoding="utf-8", newline="") as f: rows = list(csv.DictReader(f))
    assert np.allclose([[float(r[f"p_{c}"]) for c in p.classes] for r in rows], p.probabilities, atol=1e-6)
    assert np.allclose([[float(r["start"]), float(r["stop"])] for r in rows], p.spans, atol=1e-3)
    from PIL import Image
    with Image.open(files[2]) as picture: said = picture.text["Description"]
    for text in (d["note"], rows[0]["note"], Q.prediction_text(p), said):
        assert ("trained on drawn faces" in text and "a demonstration, not a measurement" in text and "does not say "
                "what a person feels" in text)


def test_the_caveat_follows_the_training_data():
    assert "drawn" not in Q.caveat("dfew") and "trained on dfew" in Q.caveat("dfew") and "feels" in Q.caveat("dfew")


def test_timeline_joins_neighbours_without_gaps():
    spans = np.array([[0, 2], [1, 3], [2, 4], [3, 5]], float)
    q = np.array([[.9, .1], [.7, .3], [np.nan, np.nan], [.2, .8]])
    p = Q.Prediction("v", ["a", "b"], spans, q, np.ones((4, 1)), np.ones((4, 1)), np.ones((4, 1, 3)), np.ones(4), [],
                     50, dict(dataset="synfew"), [])
    got = Q.timeline(p)
    assert [g[:3] for g in got] == [(0, 2.5, "a"), (2.5, 3.5, None), (3.5, 5, "b")]
    assert got[0][3] == pytest.approx(.8) and got[1][3] is None and got[2][3] == pytest.approx(.8)


@pytest.fixture
def run_folder(run, tmp_path):
    from micacl.core import write_json
    from micacl.train.checkpoint import write_tensors
    model, config, info = run
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", dict(info, config=config.to_dict(), data="", fold=None,
                                                      train_counts=[1] * 7, train_clips=""))
    write_tensors(tmp_path / "run" / "model.safetensors", model.state_dict())
    return tmp_path / "run"


def test_one_broken_video_does_not_stop_the_others(run_folder, tmp_path, capsys):
    good = write(tmp_path / "a.mp4", noise(12)); (tmp_path / "sub").mkdir()
    same = write(tmp_path / "sub" / "a.mp4", noise(12)); bad = tmp_path / "bad.mp4"; bad.write_bytes(b"x")
    done, problems = P.predict_videos(run_folder, [bad, good, same], tmp_path / "out", crop=False)
    assert ([p.video for p in done] == [str(good), str(same)] and len(problems) == 1
            and str(problems[0]).startswith(f"{bad}: expected a video file"))
    assert sorted(f.name for f in (tmp_path / "out").glob("*.json")) == ["a.json", "a.mp4.json"]
    assert done[0].about["run"] == str(run_folder) and "a demonstration, not a measurement" in capsys.readouterr().out


def test_json_for_programs_has_every_video(run_folder, tmp_path):
    good, bad = write(tmp_path / "a.mp4", noise(12)), tmp_path / "bad.mp4"; bad.write_bytes(b"x")
    done, problems = P.predict_videos(run_folder, [good, bad], tmp_path / "out", crop=False, quiet=True)
    said = json.loads(Q.to_json(done, problems))
    assert ([v["video"] for v in said] == [str(good), str(bad)]
            and said[0] == json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8")))
    assert said[1]["error"].startswith("expected a video file") and set(said[1]) == {"video", "error"}


@pytest.mark.parametrize("name, begins", [("my plot.png", b"\x89PNG"), ("deep/plot.SVG", b"<?xml")])
def test_the_picture_where_one_wants_it(run_folder, tmp_path, name, begins):
    P.predict_videos(run_folder, [write(tmp_path / "a.mp4", noise(12))], tmp_path / "out", crop=False, quiet=True,
                     plot=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins) and (tmp_path / "out" / "a.png").exists()


def test_a_picture_for_one_video_only_and_of_a_known_kind(run_folder, tmp_path):
    good = write(tmp_path / "a.mp4", noise(12))
    for videos, plot, says in (([good, good], "p.png", "expected one VIDEO, found 2"),
                               ([good], "p.gif", "ends in .png or .svg, found"),
                               ([good], "a.mp4/p.png", "expected a folder that can be written to")):
        with pytest.raises(MicaclError, match=says):
            P.predict_videos(run_folder, videos, tmp_path / "out", crop=False, quiet=True, plot=tmp_path / plot)
        assert not list((tmp_path / "out").glob("*.json"))


def test_names_that_differ_in_case_do_not_overwrite_each_other(run_folder, tmp_path):
    (tmp_path / "sub").mkdir()
    videos = [write(tmp_path / "a.mp4", noise(12)), write(tmp_path / "sub" / "A.mp4", noise(12))]
    P.predict_videos(run_folder, videos, tmp_path / "out", crop=False, quiet=True)
    assert len({f.name.casefold() for f in (tmp_path / "out").glob("*.json")}) == 2


def test_a_folder_that_cannot_be_written_to(run_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MicaclError, match="expected a folder that can be written to"):
        P.predict_videos(run_folder, [], tmp_path / "file" / "out", crop=False)
    if os.name == "posix" and os.getuid():
        (tmp_path / "ro").mkdir(mode=0o500)
        with pytest.raises(MicaclError, match="expected a folder that can be written to"):
            P.predict_videos(run_folder, [], tmp_path / "ro", crop=False)


def test_upload_and_widget(run, tmp_path, capsys):
    pytest.importorskip("ipywidgets")
    video = write(tmp_path / "a.mp4", noise(12))
    item = dict(name="Größe.mp4", type="video/mp4", size=1, content=memoryview(video.read_bytes()))
    p = P.predict_upload(run, item, crop=False)
    assert (p.video == "Größe.mp4" and np.array_equal(p.probabilities,
                                                      P.predict_video(run, video, crop=False).probabilities))
    with pytest.raises(MicaclError, match="^Größe.mp4: "): P.predict_upload(run, dict(item, content=b"x"), crop=False)
    button, place = P.upload_widget(run, crop=False).children
    assert button.accept == "video/*"
    from datetime import datetime, timezone
    now = dict(last_modified=datetime.now(timezone.utc))
    button.value = (dict(item, **now),)                    # as the browser does it
    assert "Größe.mp4: 1.2 s, 1 window\n" in capsys.readouterr().out
    button.value = (dict(item, content=memoryview(b"x"), **now),)
    assert "Größe.mp4: expected a video file" in capsys.readouterr().out


def test_many_windows_keep_few_pictures(run, tmp_path):
    p = P.predict_video(run, write(tmp_path / "a.mp4", noise(90)), crop=False, window=.5, stride=.1)
    assert (len(p.spans) > 80 and 8 <= len(p.pictures) <= 32
            and [t for t, _ in p.pictures] == sorted(t for t, _ in p.pictures))
    Q.plot_prediction(dataclasses.replace(p, classes=[f"$c_{i}$" for i in range(7)])).canvas.draw()
