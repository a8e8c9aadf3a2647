"The benchmarks of heads, on drawn lists: a planted signal is found, folds divide people, an interrupted one goes on."
import itertools
import json
import sys

import numpy as np
import pytest
from PIL import Image

import real_bags as G
import real_heads as B
from micacl.core import MicaclError
from test_real_faces import faces

BAG_NAMES = ("angry", "neutral", "happy")


@pytest.fixture
def small(monkeypatch):
    "Two heads on frozen features, and a few steps."
    monkeypatch.setattr(B, "SEEDS", (0, 1)); [monkeypatch.setattr(B, n, (0.001, 0.01)) for n in ("LRS", "FROZEN_LRS")]
    monkeypatch.setattr(B, "STEPS", 16); monkeypatch.setattr(B, "CURVE", (2, 16))
    name = "r3d_small, frozen"
    monkeypatch.setattr(B, "REGIMES", {name: B.REGIMES[name]._replace(heads=B.CURVE_HEADS)})
    monkeypatch.setattr(B, "CLOSER", (name,))


def test_a_planted_signal_is_found_and_nothing_about_a_person_is_kept(small, tmp_path, monkeypatch):
    data, out = faces(tmp_path / "secret"), tmp_path / "real-heads.json"
    monkeypatch.setattr(sys, "argv", ["real_heads.py", str(data), str(tmp_path / "work"), "--name", "drawn",
                                      "--instances", "2", "--length", "1", "--processes", "1", "--out", str(out)])
    B.main()
    text = out.read_text()
    assert not any(word in text for word in ("Jane", "secret", "clip1", "/tmp"))
    s = json.loads(text)["sets"]["drawn"]
    assert (s["clips"], s["people"], s["n_instances"], s["seeds"]) == (32, 8, 2, [0, 1])
    assert s["command"].startswith("python benchmarks/real_heads.py FOLDER WORK --name drawn")
    r, few = s["regimes"]["r3d_small, frozen"], s["steps"]["r3d_small, frozen"]["2"]
    for h in B.CURVE_HEADS:
        assert r["heads"][h]["uar"] > .9 and set(r["heads"][h]["recall"]) == {"happy", "contempt"}
        assert len(r["heads"][h]["lrs"]) == B.FOLDS and set(r["heads"][h]["lrs"]) <= set(B.FROZEN_LRS)
        assert few["heads"][h]["steps"][0] < r["heads"][h]["steps"][0]
    assert s["steps"]["r3d_small, frozen"]["16"]["heads"]["MICACL"]["uar"] == r["heads"]["MICACL"]["uar"]
    d = r["differences"]["mean pooling"]["difference"]
    assert d == pytest.approx(r["heads"]["MICACL"]["uar"] - r["heads"]["mean pooling"]["uar"], abs=1e-3)


def test_an_interrupted_benchmark_goes_on(small, tmp_path, monkeypatch):
    data, fit, calls = faces(tmp_path / "a"), B.fit, itertools.count()
    whole = B.measure(data, tmp_path / "whole", 2, 1, 1, lambda line: None)

    def broken(*args):
        if next(calls) % 25 == 24: raise MicaclError("the lights went out")
        return fit(*args)
    monkeypatch.setattr(B, "fit", broken)
    with pytest.raises(MicaclError, match="MICACL, lr .*lights went out"):
        B.measure(data, tmp_path / "work", 2, 1, 1, lambda line: None)
    there = {f.name: f.read_text() for f in (tmp_path / "work" / "runs").iterdir()}
    assert there
    monkeypatch.setattr(B, "fit", fit)
    again = B.measure(data, tmp_path / "work", 2, 1, 1, lambda line: None)
    assert all((tmp_path / "work" / "runs" / name).read_text() == text for name, text in there.items())
    monkeypatch.setattr(B, "fit", None)                             # nothing is left to train
    assert B.measure(data, tmp_path / "work", 2, 1, 1, lambda line: None) == again

    def without_seconds(x):
        if isinstance(x, dict): return {k: without_seconds(v) for k, v in x.items() if not k.startswith("seconds")}
        return x
    assert without_seconds(again) == without_seconds(whole)


def test_folds_divide_people_and_the_classes_without_clips_are_gone(tmp_path):
    d = B.opened(str(faces(tmp_path / "a")), str(tmp_path / "work"))
    assert sorted(set(d.fold)) == list(range(5)) and d.table.counts.tolist() == [16, 16]
    assert all(len(set(d.fold[d.people == p])) == 1 for p in d.people)


def test_a_fold_has_no_say_in_its_own_tuning():
    """The second learning rate is right on every clip but those of fold 0, the others are always wrong. So for fold 0,
    whose clips have no say, it is perfect, and for those beside it, one of two folds is wrong."""
    fold = np.repeat(np.arange(5), 4)
    labels = np.tile([0, 1], 10)

    class Table: pass
    table = Table(); table.labels, table.classes = labels, ("x", "y")
    d = B.Data(table, None, None, 0, fold, "")
    said = lambda p, leave: np.where((fold == 0) | (p != 1), 1 - labels, labels)[np.isin(fold, leave)]
    scores = B.choose(d, [dict(predicted=said(p, leave)) for p in range(len(B.LRS)) for leave in B.PAIRS])
    assert scores[:, 1].tolist() == [1, .5, 1, 1, .5] and (scores[:, [0, 2]] == 0).all()


def test_every_fold_is_in_two_pairs_with_two_others():
    assert all(sorted(len({*pair} & {k}) for pair in B.PAIRS) == [0, 0, 0, 1, 1] for k in range(B.FOLDS))
    assert len(set(B.PAIRS)) == len(B.PAIRS)


def test_predictions_come_back_to_their_clips(monkeypatch):
    monkeypatch.setattr(B, "SEEDS", (0, 1))
    fold = np.array([2, 0, 1, 4, 3, 0])

    class Table:
        def __len__(self): return 6
    d = B.Data(Table(), None, None, 0, fold, "")
    answers = [dict(predicted=10 * s + np.flatnonzero(fold == k)) for s in (0, 1) for k in range(5)]
    assert B.tested(d, answers).tolist() == [[[0, 1, 2, 3, 4, 5]], [[10, 11, 12, 13, 14, 15]]]


def test_a_class_that_two_folds_may_hold_alone_is_an_error(tmp_path):
    file = faces(tmp_path / "a") / "list.csv"
    rows = file.read_text().splitlines()
    rows[3], rows[7] = (r.replace("contempt", "sad") for r in (rows[3], rows[7]))
    file.write_text("\n".join(rows))
    with pytest.raises(MicaclError, match="expected clips of sad of more people"):
        B.opened(str(file), str(tmp_path / "work"))


# ---------------------------------------------------------------- constructed bags

def test_bags_hold_what_they_say():
    labels = np.repeat([0, 1, 2], [9, 30, 8])
    for shown in (1, 2, 4):
        b = G.make_bags(labels, 1, shown, 0)
        assert b.index.shape == (4, 8) and b.y.tolist() == [0, 0, 1, 1]
        assert (b.truth.sum(1) == shown).all() and (np.diff(np.where(b.truth)[1].reshape(4, shown)) == 1).all()
        own = b.index[b.truth]
        assert len(set(own)) == len(own)                                        # each picture in one bag
        assert (labels[own] == np.repeat([0, 0, 2, 2], shown)).all() and (labels[b.index[~b.truth]] == 1).all()
        assert all(len(set(row)) == 8 for row in b.index)
    assert (G.make_bags(labels, 1, 2, 0).index == G.make_bags(labels, 1, 2, 0).index).all()


def pictures(folder):
    "Three classes, told by a bright corner; 48 of each in both parts."
    rng, rows = np.random.default_rng(0), []
    folder.mkdir()
    for i in range(288):
        c, x = i % 3, rng.integers(40, 80, (24, 24))
        x[:8, 8 * c:8 * c + 8] += 150
        (folder / str(i)).mkdir()
        Image.fromarray(x.astype(np.uint8)).save(folder / str(i) / "0.png")
        rows.append(f"{i},{BAG_NAMES[c]},{'test' if i % 2 else 'train'}")
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    return folder


def test_a_planted_signal_is_found_where_the_instances_are_told(tmp_path, monkeypatch):
    for name, value in dict(SEEDS=(0,), LRS=(0.003,), STEPS=60, SHOWN=(2,), BATCH=8).items():
        monkeypatch.setattr(G, name, value)
    monkeypatch.setattr(G, "PLAIN", ("gated attention", "mean pooling"))
    data = pictures(tmp_path / "a")
    found = G.measure(data, tmp_path / "work", 1, lambda line: None)
    r = found["shown"]["2"]
    assert set(r["heads"]) == {"gated attention", "mean pooling", G.TOLD}
    assert r["bags_by_class"] == dict(angry=12, happy=12)
    assert set(r["differences"]) == {"gated attention - mean pooling"}
    assert r["heads"][G.TOLD]["uar"] > .9 and r["heads"]["mean pooling"]["instance_auc"] == .5
    monkeypatch.setattr(B, "fit", None)                             # nothing is left to train
    assert G.measure(data, tmp_path / "work", 1, lambda line: None) == found
    d = G.opened(str(data.absolute()), str((tmp_path / "work").absolute()))
    assert not set(d.parts["tune"]) & set(d.parts["fit"]) and not set(d.parts["train"]) & set(d.parts["test"])
    assert sorted([*d.parts["tune"], *d.parts["fit"]]) == sorted(d.parts["train"])


def test_bags_need_a_neutral_class_and_a_split(tmp_path):
    with pytest.raises(MicaclError, match="column split .* and a class neutral"):
        G.opened(str(faces(tmp_path / "a")), str(tmp_path / "work"))
