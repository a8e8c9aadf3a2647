"Core: seeds, streams, safe files, configuration."
import dataclasses
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

from micacl.train.config import PRESETS, Config, check_config, config_from_dict
from micacl.core import MicaclError, Stream, atomic_write, counted, derive_seed, read_json, seed_everything, write_json


def test_error_is_one_line():
    assert str(MicaclError("two\n  lines")) == "two lines"


def test_derived_seeds_are_pinned():
    # other machines, Pythons and days must give these; a change would silently change every data set and every run
    assert derive_seed(42, "augment", 3, "00017") == 96144020233497996
    assert derive_seed(0) == derive_seed(np.int32(0)) != derive_seed("0")


@given(st.lists(st.one_of(st.integers(0, 99), st.text(max_size=3)), max_size=4),
       st.lists(st.one_of(st.integers(0, 99), st.text(max_size=3)), max_size=4))
def test_derived_seeds_differ(a, b):
    clean = [[p for p in x if not (isinstance(p, str) and "\x1f" in p)] for x in (a, b)]
    assert (derive_seed(*clean[0]) == derive_seed(*clean[1])) == (clean[0] == clean[1])
    assert 0 <= derive_seed(*a) < 2**63


def test_derive_seed_does_not_depend_on_the_process():
    out = subprocess.run([sys.executable, "-c", "from micacl.core import derive_seed; print(derive_seed(1, 'x'))"],
                         capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True).stdout
    assert int(out) == derive_seed(1, "x")


def test_seed_everything():
    import random
    import torch
    def draw(): return random.random(), np.random.rand(), torch.rand(1).item()
    seed_everything(3); a = draw()
    seed_everything(3); b = draw()
    seed_everything(4); c = draw()
    assert a == b and all(x != y for x, y in zip(a, c)) and len(set(a)) == 3


def test_stream_is_pinned():
    assert Stream(0, "lesson").uniform(size=2).tolist() == [0.18951180894987052, 0.6381485123477805]
    assert Stream(5).normal() == -0.6153925757647425


def test_stream_distributions():
    s = Stream(1, "test")
    u, k, z = s.uniform(-2, 3, 40_000), s.integers(2, 5, 30_000), s.normal(1, 2, 40_000)
    assert -2 <= u.min() and u.max() < 3 and abs(u.mean() - .5) < .03 and abs(u.var() - 25 / 12) < .05
    assert sorted(set(k.tolist())) == [2, 3, 4] and abs((k == 3).mean() - 1 / 3) < .01
    assert abs(z.mean() - 1) < .04 and abs(z.std() - 2) < .04
    picks = np.array([s.choice([1, 0, 3]) for _ in range(4000)])
    assert not (picks == 1).any() and abs((picks == 2).mean() - .75) < .03
    assert sorted(s.permutation(9).tolist()) == list(range(9)) and len(s.permutation(0)) == 0
    assert isinstance(s.uniform(), float) and isinstance(s.integers(0, 3), int) and isinstance(s.normal(), float)


def test_stream_shapes_and_independence():
    assert Stream(1).uniform(size=(2, 3)).shape == (2, 3)
    assert (Stream(1).uniform(size=6) == Stream(1).uniform(size=(2, 3)).ravel()).all()
    assert abs(np.corrcoef(Stream(1).uniform(size=5000), Stream(2).uniform(size=5000))[0, 1]) < .05


def test_atomic_write_keeps_the_old_file(tmp_path):
    p = tmp_path / "a.txt"
    with atomic_write(p) as f: f.write("old")
    with pytest.raises(RuntimeError):
        with atomic_write(p) as f: f.write("new"); raise RuntimeError
    assert p.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with atomic_write(p, "wb") as f: f.write(b"\x00")
    assert p.read_bytes() == b"\x00"


@pytest.mark.skipif(os.name == "nt", reason="POSIX file modes")
def test_atomic_write_respects_the_umask(tmp_path):
    with atomic_write(tmp_path / "a") as f: f.write("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_round_trip(tmp_path):
    p = tmp_path / "r.json"
    write_json(p, {"a": np.float32(.5), "b": [np.nan, np.int64(3)], "c": {1: (True, None)}, "d": np.arange(3),
                   "e": float("inf"), "p": p})
    assert read_json(p) == {"a": .5, "b": [None, 3], "c": {"1": [True, None]}, "d": [0, 1, 2], "e": None, "p": str(p)}


def test_json_errors_are_one_line(tmp_path):
    (tmp_path / "bad.json").write_text("{,")
    for name in ("bad.json", "none.json"):
        with pytest.raises(MicaclError, match=name) as e: read_json(tmp_path / name)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"lr": 1, "x": 2, "lr": 1}}]'])
def test_a_name_given_twice_is_no_value_lost(text, tmp_path):
    (p := tmp_path / "twice.json").write_text(text)
    with pytest.raises(MicaclError, match=r"twice\.json: expected each name once in an object, found '(a|lr)' twice"):
        read_json(p)


def test_an_object_with_many_names_is_read_at_once(tmp_path):
    "Seconds where each name is looked for among all others; a tenth of one where it is not."
    write_json(tmp_path / "many.json", many := {f"clip {i}": i for i in range(100_000)})
    start = time.perf_counter()
    assert read_json(tmp_path / "many.json") == many
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("n, text", [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (9356, "9356 clips")])
def test_a_number_and_its_noun(n, text): assert counted(n, "clip") == text


def test_config_round_trip_through_json(tmp_path):
    for make in PRESETS.values():
        write_json(tmp_path / "c.json", make().to_dict())
        assert config_from_dict(read_json(tmp_path / "c.json")) == make() == check_config(make())
    assert Config().n_frames == 16 and PRESETS["small"]() == Config()


def test_config_follows_the_recipes():
    p, m = PRESETS["paper"](), PRESETS["m3dfel"]()
    assert (p.backbone, p.image_size, p.batch_size, p.epochs, p.lr, p.weight_decay, p.mccl.tau0, p.seed) == ("r3d_18",
        112,
        128, 300, 5e-4, .05, .07, 42)
    assert (m.model, m.mccl_weight, m.batch_size, m.warmup_epochs, m.optim.min_lr) == ("m3dfel", 0, 256, 20, 5e-6)


@pytest.mark.parametrize("bad", [dict(model="x"), dict(epochs=0), dict(lr=-1), dict(mccl_args=dict(tau0=0)),
                                 dict(augment_args=dict(crop=1.5)), dict(val_fraction=1.0),
                                 dict(label_smoothing=-.1), dict(lr=float("nan")), dict(on_bad_clip="ask"),
                                 dict(workers=-1)])
def test_config_refuses(bad):
    name = next(iter(bad))
    with pytest.raises(MicaclError, match=name): check_config(dataclasses.replace(Config(), **bad))


def test_config_refuses_unknown_names():
    with pytest.raises(MicaclError, match="unknown name taux"): config_from_dict({"taux": 1})


@pytest.mark.parametrize("bad, words", [(dict(kernels=3), "kernels: expected a list of whole numbers, found 3"),
                                        (dict(mccl_args=dict(scales=["1"])),
                                         "scales: expected a list of whole numbers"),
                                        (dict(lr="fast"), "lr: expected a number, found 'fast'"),
                                        (dict(lr=None), "lr: expected a number"),
                                        (dict(epochs=2.5), "epochs: expected a whole number, found 2.5"),
                                        (dict(batch_size=True), "batch_size: expected a whole number"),
                                        (dict(flip="no"), "flip: expected true or false, found 'no'")])
def test_config_refuses_values_of_another_kind(bad, words):
    with pytest.raises(MicaclError, match=words): config_from_dict(bad)


def test_config_takes_numbers_of_numpy():
    assert config_from_dict(dict(lr=np.float64(.5), seed=np.int64(3), augment_args=dict(crop=1),
                                 model_args=dict(kernels=[1, np.int64(3)]))) == Config(
        lr=.5, seed=3, augment_args=dict(crop=1.), model_args=dict(kernels=(1, 3)))
