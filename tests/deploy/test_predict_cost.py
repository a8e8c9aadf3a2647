"""The cost of predict: the plain loop it is compared with gives the same answers, and ratios are what they say."""
import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import CLASSES
from micacl.data.frames import read_frames
from micacl.data.load import load_table
from micacl.deploy.predict import predict_video
from micacl.deploy.tracking import fit_picture
from micacl.train.config import Config
from micacl.train.objective import build_model
from test_predict import MINI, noise, write

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import predict_cost
    return predict_cost


@pytest.mark.parametrize("search, length", [(True, 200), (False, 93), (False, 7)])
def test_the_plain_loop_and_the_library_say_the_same(tmp_path, benchmark, search, length):
    pytest.importorskip("dlib")
    from plain_predict import plain_predict
    torch.manual_seed(0)
    config = Config(pretrained=False)
    model = build_model(config, 7).eval()
    pictures = noise(length, 96, 128)
    if search:
        clips, pictures = load_table(MINI).select(split="train"), []
        for i, x in enumerate([y for c in clips for y in read_frames(c.path).numpy()][:length]):
            wall = np.full((240, 480, 3), 110, np.uint8)
            if not 60 <= i < 110: wall[40:200, i:160 + i] = fit_picture(x, 160)        # nobody there for a while
            pictures.append(wall)
    video = write(tmp_path / "a.mp4", pictures, fps=20 if search else 10)
    ours = predict_video((model, config, dict(classes=CLASSES, dataset="synfew", epoch=1)), video, crop=search)
    spans, p = plain_predict(model, video, search)
    assert np.allclose(spans, ours.spans, atol=1e-6) and (None in ours.labels) == search
    assert np.array_equal(np.isnan(p), np.isnan(ours.probabilities))
    assert np.allclose(p, ours.probabilities, atol=1e-5, equal_nan=True)
    assert length < 93 or np.nanstd(p, 0).max() > 1e-6                                  # windows differ


def test_ratios_pair_the_rounds(benchmark):
    def row(method, i, wall, cpu): return dict(method=method, height=720, minutes=1, crop=True, threads=1, round=i,
                                               seconds_per_minute=wall, cpu_seconds_per_minute=cpu)
    rows = [row("ours", 0, 2, 1), row("plain", 0, 4, 3), row("ours", 1, 10, 1), row("plain", 1, 10, 1),
            row("ours", 2, 1, 1), row("plain", 2, 5, 2), row("ours", 3, 1, 1), row("parts", 0, 9, 9)]
    (r,), = [benchmark.ratios(rows)]
    assert (r["rounds"], r["ratio"], r["least"], r["most"]) == (3, 2, 1, 5)
    assert (r["cpu_ratio"], r["cpu_least"], r["cpu_most"]) == (2, 1, 3)


def test_a_row_says_where_the_time_went(tmp_path, benchmark):
    pytest.importorskip("dlib")
    key = dict(method="parts", height=None, minutes=.1, crop=True, threads=1, round=0)
    row = benchmark.measure(write(tmp_path / "v.mp4", noise(30, 96, 128)), key, tmp_path)
    assert set(row["shares"]) >= {"decode", "colours and scaling", "detector"} and 0 < sum(row["shares"].values()) <= 1
    assert row["mib_above_start"] >= 0 and row["real_time_factor"] > 0 and row["windows"] == 2


def test_what_is_measured(benchmark):
    options = argparse.Namespace(video=None, minutes=[5, 1, 20], threads=[1, 2], rounds=3)
    keys = list(benchmark.plan(options))
    assert len({tuple(k.values()) for k in keys}) == len(keys)
    both = [[k for k in keys if k["method"] == m and k["minutes"] == 1] for m in ("ours", "plain")]
    assert [dict(k, method=0) for k in both[0]] == [dict(k, method=0) for k in both[1]] and len(both[0]) == 24
    assert {(k["height"], k["minutes"], k["crop"], k["threads"]) for k in keys if k["method"] == "ours"} == {
        *itertools.product((720, 360), (1, 5, 20), (True, False), (1, 2))}
