"""Clips of people who are in no data set, drawn from the stream that the encoder learns from, changed at random, and
what the encoder makes of their frames. A part of `drawn.py`."""
import json
from functools import partial

import numpy as np

CLIPS = dict(
    frames=16, size=72, seconds=2.5,
    held=0.35,                            # share of the clips that show an expression from the first frame to the last
    weakest=0.3,                          # strength of an expression, at least
    apex=(0.25, 0.8), onset=(0.2, 0.9),   # shares of a clip; seconds
    hidden=0.2)                           # share of the clips in which something is before the face for a while


def expression(stream, label):
    "-> (15,) units of a person's own way to show an emotion."
    from micacl.core import EMOTIONS
    from micacl.data.synfew.stream import varied_units
    while True:
        units, emotion, strength = varied_units(stream)
        if emotion == label and (EMOTIONS[label] == "neutral" or strength >= CLIPS["weakest"]): return units


def draw_clip(seed, index):
    "-> frames (F,size,size,3) uint8, envelope (F,); the label is index % 7."
    from micacl.core import EMOTIONS, Stream
    from micacl.data.synfew.acting import add_nuisance, draw_peaks, draw_pose, envelope
    from micacl.data.synfew.faces import UNITS, render
    from micacl.data.synfew.stream import varied_face, varied_scene
    streams, label = (lambda name: Stream(seed, "drawn clip", index, name)), index % len(EMOTIONS)
    F, seconds, held, apex, onset = (CLIPS[k] for k in ("frames", "seconds", "held", "apex", "onset"))
    t = (np.arange(F) + 0.5) * seconds / F
    e = (np.ones(F) if streams("kind").uniform() < held else
         envelope(t, draw_peaks(streams("timing"), seconds, apex, onset, seconds / F)))
    units = e[:, None] * expression(streams("units"), label)
    add_nuisance(units, streams, t, e)
    pose = np.round(np.clip(1.3 * draw_pose(streams("pose"), np.arange(F) + 0.5), -40, 40) * 64) / 64
    asymmetry = streams("asymmetry").normal(0, 0.25, len(UNITS)).clip(-1, 1)
    units = np.round(np.clip(units, 0, 1) * 256) / 256
    who, where = varied_face(streams("face")), varied_scene(streams("scene"))
    return render(who, units, pose, where, CLIPS["size"], asymmetry), e


def drawn(folder, seed, n, workers=2):
    "-> frames (n,F,size,size,3) uint8 on disk, envelopes (n,F), labels (n,). Drawn once."
    from micacl.core import EMOTIONS, write_json
    from micacl.data.synfew.generate import side_by_side
    folder.mkdir(parents=True, exist_ok=True)
    stem, shape = folder / f"clips-{seed}-{n}", (n, CLIPS["frames"], CLIPS["size"], CLIPS["size"], 3)
    file, done = stem.with_suffix(".bin"), stem.with_suffix(".json")
    if not done.exists():
        frames, curves = np.memmap(file, np.uint8, "w+", shape=shape), []
        for k, (x, e) in enumerate(side_by_side(partial(draw_clip, seed), range(n), workers, 32)):
            frames[k] = x
            curves.append(e.round(4).tolist())
        frames.flush()
        write_json(done, curves)
    y = np.arange(n) % len(EMOTIONS)
    return np.memmap(file, np.uint8, "r", shape=shape), np.array(json.loads(done.read_text())), y


def hide(x, generator):
    "A rectangle of noise before some frames in a row of some clips (M,F,1,S,S)."
    import torch
    M, F, _, S, _ = x.shape
    some = torch.rand(M, generator=generator) < CLIPS["hidden"]
    first, length = torch.rand(2, M, generator=generator)
    when = torch.arange(F)[None] / F
    when = some[:, None] & (when >= first[:, None]) & (when < (first + 0.15 + 0.4 * length)[:, None])     # (M,F)
    middle, half = torch.rand(2, M, 1, generator=generator), 0.15 + 0.2 * torch.rand(2, M, 1, generator=generator)
    place = (torch.arange(S)[None] + 0.5) / S
    down, right = ((place - m).abs() < h for m, h in zip(middle, half))                                   # (M,S)
    mask = when[:, :, None, None] & (down[:, :, None] & right[:, None])[:, None]                          # (M,F,S,S)
    noise = torch.rand(M, 1, 1, 1, generator=generator) + 0.1 * torch.randn(M, 1, S, S, generator=generator)
    return torch.where(mask, noise, x[:, :, 0])[:, :, None]


def changed(frames, seed):
    "Frames (M,F,H,W,3) uint8, each clip changed in one way of its own -> (M,F,1,64,64)."
    import torch
    from micacl.train.randomise import randomise
    new = [randomise(x, torch.Generator().manual_seed(seed))[0] for x in frames.unbind(1)]
    return hide(torch.stack(new, 1), torch.Generator().manual_seed(seed + 1))


def features(net, frames, seed, batch=64):
    "-> (n,F,D): what an encoder of pictures makes of frames (n,F,H,W,3) on disk, each clip changed at random."
    import torch
    from micacl.core import derive_seed
    parts = []
    with torch.inference_mode():
        for k in range(0, len(frames), batch):
            x = changed(torch.from_numpy(frames[k:k + batch].copy()), derive_seed(seed, "changes", k) % 2**31)
            parts.append(net(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
    return torch.cat(parts)
