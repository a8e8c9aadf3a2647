"""What the package `fer` says of pictures: run by an environment of its own, which needs nothing of this library.

    python -m venv FER; FER/bin/pip install fer "setuptools<81" "opencv-contrib-python<5"
    FER/bin/python benchmarks/fer_scores.py PICTURES.npz SCORES.npz

PICTURES.npz: `pictures` (n,H,W,3) uint8 RGB; `faces`: whether they are faces that fill the frame (then no detector is
asked). SCORES.npz: `scores` (n,7), not-a-number where no face was found, `names` (7,), `version`. Of several faces the
largest counts, as in `micacl predict`. Its network was trained on FER2013: there it is no stranger.
"""
import os
import sys

import numpy as np

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def main(source, out):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import fer
    from fer.fer import FER
    data = np.load(source)
    faces, whole = bool(data["faces"]), [(0, 0, *data["pictures"].shape[2:0:-1])]
    judge, scores = FER(use_tflite=False, **(dict(offsets=(0, 0)) if faces else {})), []
    for picture in data["pictures"]:
        found = judge.detect_emotions(np.ascontiguousarray(picture[:, :, ::-1]), whole if faces else None)
        if not found: scores.append([np.nan] * len(NAMES)); continue
        largest = max(found, key=lambda f: f["box"][2] * f["box"][3])
        scores.append([largest["emotions"][name] for name in NAMES])
    np.savez(out, scores=np.array(scores), names=np.array(NAMES), version=fer.__version__)


if __name__ == "__main__": main(*sys.argv[1:])
