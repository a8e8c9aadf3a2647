"""What makes `predict` fast changes nothing that it finds: batches of windows, looks in threads, crops made late."""
import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from helpers import CLASSES
from micacl.core import MicaclError
from micacl.data.bags import resize_square
from micacl.data.frames import read_frames
from micacl.data.load import load_table
from micacl.deploy import predict as P
from micacl.deploy import tracking as T
from micacl.train.config import Config
from micacl.train.objective import build_model
from test_predict import MINI, fixed, noise, write


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    config = Config(model="attention", pretrained=False)
    return build_model(config, 7).eval(), config, dict(classes=CLASSES, dataset="synfew", epoch=1)


def moving():
    "A detector whose answers depend on the picture alone: no face in dark ones, sometimes two."
    def detect(picture):
        n = int(picture.sum()) % 7
        return [] if n < 2 else [(n, n, 20, 20)] + [(30, 10, 24, 24)] * (n == 6)
    return detect


def same(p, q, **near):
    "Everything of two predictions is the same, probabilities and weights within `near`."
    assert np.array_equal(p.spans, q.spans) and p.labels == q.labels and p.notes == q.notes and p.n_frames == q.n_frames
    assert np.array_equal(p.times, q.times, equal_nan=True) and np.array_equal(p.boxes, q.boxes, equal_nan=True)
    assert np.array_equal(p.faces, q.faces) and [t for t, _ in p.pictures] == [t for t, _ in q.pictures]
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(p.pictures, q.pictures))
    for a, b in ((p.probabilities, q.probabilities), (p.weights, q.weights)):
        assert np.allclose(a, b, equal_nan=True, **near)


# ---- batches of windows

@pytest.mark.parametrize("model", ["micacl", "attention", "m3dfel", "mean"])
@pytest.mark.parametrize("batch", [2, 5, 64])
def test_a_batch_of_windows_is_one_by_one(tmp_path, model, batch):
    torch.manual_seed(3)
    config = Config(model=model, pretrained=False)
    net = build_model(config, 7).eval(), config, dict(classes=CLASSES, dataset="synfew", epoch=1)
    looks = itertools.count()
    def late(x): return [(10, 10, 24, 24)] if next(looks) % 40 >= 16 else []     # windows without a face between
    video, options = write(tmp_path / "a.mp4", noise(130)), dict(window=1, stride=.5)
    one = P.predict_video(net, video, detect=late, batch=1, **options); looks = itertools.count()
    many = P.predict_video(net, video, detect=late, batch=batch, **options)
    assert None in one.labels and len({*one.labels}) > 1 and len(one.spans) > 20
    same(one, many, rtol=1e-4, atol=1e-6)


def test_the_model_sees_that_many_windows(run, tmp_path):
    sizes, (model, *rest) = [], run
    hook = model.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    video = write(tmp_path / "a.mp4", noise(70))
    for batch, want in ((None, [1] * 13), (1, [1] * 13), (4, [4, 4, 4, 1]), (100, [13])):
        P.predict_video((model, *rest), video, crop=False, window=1, stride=.5, batch=batch)
        assert sorted(sizes) == sorted(want); sizes.clear()
    hook.remove()


def test_a_batch_without_a_face_asks_the_model_nothing(run, tmp_path):
    calls, (model, *rest) = [], run
    hook = model.register_forward_pre_hook(lambda _, x: calls.append(x))
    p = P.predict_video((model, *rest), write(tmp_path / "a.mp4", noise(60)), detect=fixed(), batch=4)
    hook.remove()
    assert not calls and set(p.labels) == {None} and len(p.spans) == 4


@pytest.mark.parametrize("batch", [1, 16])
def test_short_whole_and_broken_videos_in_batches(run, tmp_path, batch):
    short = P.predict_video(run, write(tmp_path / "s.mp4", noise(5)), crop=False, batch=batch)
    assert len(short.spans) == 1 and short.duration == pytest.approx(.5)
    whole = P.predict_video(run, write(tmp_path / "w.mp4", noise(77)), crop=False, window=0, batch=batch)
    assert len(whole.spans) == 1 and whole.duration == pytest.approx(7.7)
    video = write(tmp_path / "t.avi", noise(80), codec="mpeg4")
    video.write_bytes(video.read_bytes()[:video.stat().st_size * 6 // 10])
    broken = P.predict_video(run, video, detect=moving(), window=1, batch=batch)
    assert 20 < broken.n_frames < 80 and broken.notes and 3 < len(broken.spans)
    same(broken, P.predict_video(run, video, detect=moving(), window=1, batch=3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [0, -3])
def test_no_batch(run, tmp_path, batch):
    with pytest.raises(MicaclError, match="batch of at least 1 window"):
        P.predict_video(run, tmp_path / "a.mp4", crop=False, batch=batch)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_windows_are_scored_side_by_side_and_torch_gets_its_threads_back(run, tmp_path, threads):
    video, old, model = write(tmp_path / "a.mp4", noise(90)), torch.get_num_threads(), run[0]
    used = []
    hook = model.register_forward_pre_hook(lambda *_: used.append((torch.get_num_threads(), threading.get_ident())))
    one = P.predict_video(run, video, detect=moving(), window=1)
    used.clear()
    try:
        torch.set_num_threads(threads)
        same(one, P.predict_video(run, video, detect=moving(), window=1), rtol=1e-4, atol=1e-6)
        with pytest.raises(MicaclError): P.predict_video(run, tmp_path / "none.mp4", crop=False)
        assert torch.get_num_threads() == threads
    finally: torch.set_num_threads(old); hook.remove()
    assert {n for n, _ in used} == {1} and (threads > 1) == (threading.get_ident() not in {i for _, i in used})


# ---- looks in threads

@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("n, fps, every", [(0, 10, .25), (1, 10, .25), (60, 10, .25), (61, 30, .3), (20, 4, .01)])
def test_looks_in_threads_are_those_one_by_one(threads, n, fps, every):
    pictures = noise(n)
    def slow(x, detect=moving()): time.sleep(int(x.sum()) % 5 / 2000); return detect(x)   # answers out of order
    def boxes(threads):
        seen = {}
        got = [(t, dt, x, None if b is None else tuple(b)) for t, dt, x, b in
               T.follow_face(((i / fps, 1 / fps, x) for i, x in enumerate(pictures)), slow, every, seen, threads)]
        return [(t, dt, id(x), b) for t, dt, x, b in got], seen
    assert boxes(1) == boxes(threads) and len(boxes(threads)[0]) == n


def test_looks_run_side_by_side_and_no_more_than_asked():
    now, most, lock = 0, 0, threading.Lock()
    def detect(x):
        nonlocal now, most
        with lock: now += 1; most = max(most, now)
        time.sleep(.01)
        with lock: now -= 1
        return []
    list(T.follow_face(((i, 1, None) for i in range(20)), detect, 1, threads=3))
    assert 2 <= most <= 3


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_held_between_looks_are_few(threads):
    alive, most = weakref.WeakSet(), 0

    class Picture: pass

    def frames():
        nonlocal most
        for i in range(1000):
            alive.add(x := Picture()); yield i / 20, .05, x
            del x; gc.collect(0); most = max(most, len(alive))
    for _ in T.follow_face(frames(), lambda x: [], .25, threads=threads): pass
    assert most <= 5 * (threads + 3)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_detector_and_of_the_video_come_through_and_leave_no_thread(threads):
    def bad(x): raise ValueError("no light")
    def frames():
        yield 0, 1, None
        raise OSError("gone")
    before = threading.active_count()
    with pytest.raises(ValueError, match="no light"):
        list(T.follow_face(((i, 1, None) for i in range(9)), bad, 1, threads=threads))
    with pytest.raises(OSError, match="gone"): list(T.follow_face(frames(), lambda x: [], 1, threads=threads))
    stopped = T.follow_face(((i, 1, None) for i in range(9)), lambda x: [], 1, threads=threads)
    next(stopped); stopped.close()
    assert threading.active_count() == before


def test_a_detector_of_ones_own_is_called_one_picture_at_a_time_in_this_thread(run, tmp_path):
    who, old = set(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        P.predict_video(run, write(tmp_path / "a.mp4", noise(30)),
                        detect=lambda x: who.add(threading.get_ident()) or [])
    finally: torch.set_num_threads(old)
    assert who == {threading.get_ident()}


def test_dlib_in_threads_finds_what_it_finds_alone(run, tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    clips = load_table(MINI).select(split="train")[:6]
    room = []
    for i, x in enumerate(y for c in clips for y in read_frames(c.path).numpy()):
        wall = np.full((240, 320, 3), 110, np.uint8)
        wall[40:200, 20 + i:180 + i] = T.fit_picture(x, 160); room.append(wall)
    video, old, got, used = write(tmp_path / "room.mp4", room), torch.get_num_threads(), [], []
    def follow(frames, threads, **options):
        used.append(threads); return T.follow_face(frames, threads=threads, **options)
    monkeypatch.setattr(P, "follow_face", follow)
    try:
        for threads in (1, 2, 16): torch.set_num_threads(threads); got.append(P.predict_video(run, video))
    finally: torch.set_num_threads(old)
    assert used == [1, 2, P._THREADS] and got[0].labels[0] is not None
    for p in got[1:]: same(got[0], p, rtol=1e-4, atol=1e-6)


# ---- crops made late

def eager(picture, box, size, wider=1.33, lower=.05):
    "The crop, written out pixel by pixel."
    (x, y, s), (H, W) = box, picture.shape[:2]
    n = max(2, round(wider * s))
    rows, columns = ([min(max(k + round(c - n / 2), 0), most - 1) for k in range(n)]
                     for c, most in ((y - lower * s, H), (x, W)))
    cut = np.array([[picture[r, c] for c in columns] for r in rows])
    return resize_square(torch.from_numpy(cut)[None], size)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("box", [(32, 24, 20), (0, 0, 20), (63, 47, 30.6), (32, 24, 90), (-40, 24, 20), (200, -90, 8),
                                 (30.5, 20.5, 17.3), (32, 24, 0.1)])
def test_a_crop_inside_across_and_beyond_the_edge(box):
    picture = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    assert np.array_equal(T.crop_face(picture, box, 32), eager(picture, box, 32))
    assert np.array_equal(T.fit_picture(T.cut_face(picture, box), 32), eager(picture, box, 32))
    assert not np.shares_memory(T.cut_face(picture, box), picture)      # or the whole picture would be held


@pytest.mark.parametrize("crop, size", [(True, (48, 64)), (False, (48, 64)), (False, (64, 48)), (False, (47, 64)),
                                        (False, (48, 48))])
@pytest.mark.parametrize("waiting", [2**25, 0])
def test_late_crops_are_early_crops(run, tmp_path, monkeypatch, crop, size, waiting):
    monkeypatch.setattr(P, "_WAITING", waiting)
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(30)]
    config = Config(image_size=24)
    frames = [(i / 10, .1, x) for i, x in enumerate(pictures)]
    follow = (lambda frames: T.follow_face(frames, fixed((10, 5, 30, 30))))
    window = next(T.slide(P._cut(iter(frames), 24, crop, follow, 2.0), 2, 1))
    *_, seen, crops = P._take(window, config)
    indices = P.frame_indices(20)
    assert np.allclose(seen[:16] * 10, indices)
    for i, x in zip(indices, crops):
        truth = eager(pictures[i], (25, 20, 30), 24) if crop else T.fit_picture(pictures[i], 24)
        assert np.array_equal(x, truth)
    assert {len(x[0]) for _, x in window[2]} == {24 if waiting == 0 else 40 if crop else min(size)}


def test_only_the_frames_that_a_window_takes_are_resized(run, tmp_path, monkeypatch):
    calls, fit = [], P.fit_picture
    monkeypatch.setattr(P, "fit_picture", lambda x, size: calls.append(size) or fit(x, size))
    P.predict_video(run, write(tmp_path / "a.mp4", noise(200), fps=50), detect=fixed((10, 10, 24, 24)))
    assert calls == [64] * 3 * 16                                        # three windows of 125 frames


@pytest.mark.parametrize("window, fps", [(2.5, 25), (2.5, 120), (20, 25), (float("inf"), 25)])
def test_what_waits_for_a_window_is_bounded(window, fps):
    held = most = 0

    def count(n):
        nonlocal held, most
        held += n; most = max(most, held)

    picture = np.zeros((360, 640, 3), np.uint8)
    frames = ((i / fps, 1 / fps, picture) for i in range(int(40 * fps)))
    follow = (lambda frames: ((*f, np.array((320, 180, 200.))) for f in frames))
    def watched():
        for t, dt, (cut, _) in P._cut(frames, 64, True, follow, window):
            if (n := cut.nbytes) > 64 * 64 * 3: count(n); weakref.finalize(cut, count, -n)
            yield t, dt, cut
    for _ in T.slide(watched(), window, window / 2): pass
    assert most <= 1.1 * P._WAITING and (most > 0) == (266**2 * 3 * window * fps <= P._WAITING)


def test_a_rate_that_is_a_lie_does_not_fill_the_memory():
    picture = np.zeros((360, 640, 3), np.uint8)
    frames = ((i / 120, 1.0, picture) for i in range(600))              # says 1 frame a second, has 120
    follow = (lambda frames: ((*f, np.array((320, 180, 300.))) for f in frames))
    sizes = [cut.shape[0] for *_, (cut, _) in P._cut(frames, 64, True, follow, 2.5)]
    assert sizes[0] == 399 and set(sizes[1:]) == {64}
