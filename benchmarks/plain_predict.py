"""Scores of a video by a plain loop: what one would write with PyAV, dlib and torchvision, without this library.

It has the settings of `micacl predict`: pictures of at most 640 pixels, the same detector at the same times, the same
smoothing, crop and windows. So its answers can be compared with those of the library, and its time too.
"""
import math

import av
import dlib
import numpy as np
import torch
from torchvision.transforms import v2


detector = dlib.get_frontal_face_detector()


def read(path, side=640):
    "Every picture of a video with its time, made smaller by PyAV."
    with av.open(str(path)) as box:
        for frame in box.decode(video=0):
            scale = min(1, side / max(frame.width, frame.height))
            yield frame.time, frame.to_ndarray(format="rgb24", width=round(frame.width * scale),
                                               height=round(frame.height * scale), interpolation="AREA")


def near(a, b): return a is not None and b is not None and math.hypot(*(a - b)[:2]) < 0.5 * max(a[2], b[2])


def follow(pictures, every=0.25):
    "(time, picture, box): a look at the times of the library, boxes smoothed, a line between two looks."
    held, old, then, missed = [], None, None, 0
    for t, x in pictures:
        held.append((t, x))
        if then is not None and t < then + every - 1e-6: continue
        found = [np.array((r.left() + r.width() / 2, r.top() + r.height() / 2, max(r.width(), r.height())), float)
                 for r in detector(x, int(max(x.shape) < 320))]
        new = max(found, key=lambda f: f[2] ** 2 * (2 if near(f, old) else 1), default=None)
        missed = 0 if found else missed + 1
        if near(new, old): new = old + 0.5 * (new - old)
        if new is None and missed <= 2: new = old
        for u, y in held:
            share = 1.0 if then is None or t <= then else (u - then) / (t - then)
            yield u, y, old + share * (new - old) if near(new, old) else new if share > 0.5 else old
        held, old, then = [], new, t
    for u, y in held: yield u, y, old


def crop(x, box, size):
    "The square around a face, resized by torchvision."
    n = max(2, round(1.33 * box[2]))
    rows = np.clip(np.arange(n) + round(box[1] - 0.05 * box[2] - n / 2), 0, x.shape[0] - 1)
    columns = np.clip(np.arange(n) + round(box[0] - n / 2), 0, x.shape[1] - 1)
    return v2.functional.resize(torch.from_numpy(x[rows[:, None], columns]).permute(2, 0, 1), [size, size],
                                antialias=True)


def square(x, size):
    x = v2.functional.center_crop(torch.from_numpy(x).permute(2, 0, 1), [min(x.shape[:2])] * 2)
    return v2.functional.resize(x, [size, size], antialias=True)


@torch.inference_mode()
def plain_predict(model, path, search, size=64, length=16, window=2.5, stride=1.25):
    "(spans (n,2), probabilities (n,C)): a crop of every frame, then window after window."
    if search: crops = [(t, None if b is None else crop(x, b, size)) for t, x, b in follow(read(path))]
    else: crops = [(t, square(x, size)) for t, x in read(path)]
    end = crops[-1][0] + crops[1][0] - crops[0][0]
    starts = list(np.arange(0, end - window + 1e-6, stride)) or [0.0]
    if starts[-1] + window < end - 1e-6: starts.append(max(0.0, end - window))
    spans, scores = [], []
    for a in starts:
        inside = [x for t, x in crops if a - 1e-6 <= t < a + window - 1e-6]
        faces = [x for x in inside if x is not None]
        spans.append((a, min(a + window, end)))
        if 2 * len(faces) < len(inside) or not faces: scores.append(None); continue
        taken = [faces[(2 * k + 1) * len(faces) // (2 * length)] for k in range(length)]
        scores.append(model(torch.stack(taken)[None]).logits.softmax(1)[0].numpy())
    n_classes = max((len(s) for s in scores if s is not None), default=1)
    return np.array(spans), np.array([np.full(n_classes, np.nan) if s is None else s for s in scores])
