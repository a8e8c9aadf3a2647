"The second opinion of predict: the same crops, scored by another network, beside the model's own label."
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import draw_expression, write_expression
from micacl.cli import main
from micacl.core import EMOTIONS, MicaclError
from micacl.deploy import predict as P
from micacl.deploy import prediction as Q
from micacl.nn.expression import ExpressionNet
from micacl.train.config import Config
from micacl.train.objective import build_model


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    config = Config(model="attention", pretrained=False, image_size=32, n_instances=2, instance_length=2)
    return build_model(config, 7).eval(), config, dict(classes=list(EMOTIONS), dataset="synfew", epoch=1)


@pytest.fixture
def folder(tmp_path):
    write_expression(tmp_path/"network", draw_expression())
    return tmp_path/"network"


@pytest.fixture
def film(tmp_path):
    "A folder of pictures: 1 s at 10 pictures a second takes ten of them."
    rng = np.random.default_rng(0)
    (tmp_path/"film").mkdir()
    for k in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path/"film"/f"{k:02d}.png")
    return tmp_path/"film"


def test_it_scores_the_frames_that_the_model_saw(run, film, folder):
    plain = P.predict_video(run, film, crop=False, window=0)
    p = P.predict_video(run, film, crop=False, window=0, second=folder)
    np.testing.assert_array_equal(plain.probabilities, p.probabilities)       # the model's own scores stay
    np.testing.assert_array_equal(plain.times, p.times)
    assert plain.second is None and "second" not in Q.to_dict(plain)
    net, pictures = P.load_expression(folder), sorted(film.iterdir())
    step = (p.times[0, 1] - p.times[0, 0])/3                                  # four of twelve pictures, three apart
    seen = [np.asarray(Image.open(pictures[round(t/step)])) for t in p.times[0]]
    x = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float()/255
    with torch.no_grad(): each = net.scores(net(x)).softmax(1)
    np.testing.assert_allclose(p.second.probabilities[0], each.mean(0).numpy(), atol=1e-5)
    assert p.second.labels == [EMOTIONS[int(each.mean(0).argmax())]] and p.second.sha256 == net.sha256


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_and_batches(run, film, folder, batch):
    p = P.predict_video(run, film, crop=False, window=.3, stride=.1, second=P.load_expression(folder), batch=batch)
    assert len(p.spans) > 2 and p.second.probabilities.shape == (len(p.spans), 7)
    np.testing.assert_allclose(p.second.probabilities.sum(1), 1, rtol=1e-5)
    assert p.times.shape == (len(p.spans), 4) and p.boxes.shape == (len(p.spans), 4, 3)


def test_a_window_without_a_face_has_no_second_opinion(run, film, folder):
    p = P.predict_video(run, film, window=0, detect=lambda _: [], second=folder)
    assert np.isnan(p.second.probabilities).all() and p.second.labels == [None]
    assert "no window to compare" in p.notes[-1] and Q.to_dict(p)["windows"][0]["second"] is None
    assert "no face" in Q.prediction_text(p)


def by_hand(own=("happy", "happy", "sad", None), other=("happy", "sad", "sad", None), classes=EMOTIONS):
    def rows(said, names): return np.array([[np.nan]*len(names) if s is None else [.1 + .5*(c == s) for c in names]
                                            for s in said])
    n = len(own)
    spans = np.stack([np.arange(n), np.arange(n) + 1.], 1)
    one = np.ones((n, 1))
    p = Q.Prediction("v", list(classes), spans, rows(own, classes), one, one, one[..., None], one[:, 0], [], 9,
                     dict(dataset="synfew"), [])
    p.second = Q.SecondOpinion("face-expression", "abc", list(EMOTIONS), rows(other, EMOTIONS))
    return p


def said(*how):
    p = by_hand(*how)
    return Q.agreement(p, p.second)


def test_how_often_both_agree():
    assert "the same label in 2 of 3 windows with a face." in said()
    assert "may both be wrong" in said()
    partly = said(("happy", "bored"), ("happy", "sad"), ("happy", "bored"))
    assert "the same label in 1 of 2 windows with a face; it has no bored." in partly
    none = said(("calm", "bored"), ("happy", "sad"), ("calm", "bored"))
    assert "no class of the same name, so nothing was compared." in none


def test_the_text_has_it_beside_each_stretch():
    text = Q.prediction_text(by_hand()).splitlines()
    assert text[1].endswith("happy (0.60); face-expression: happy in 1 of 2 windows")
    assert text[2].endswith("sad (0.60); face-expression: sad") and text[3].endswith("no face")


def test_json_and_csv_have_it_beside_each_window(tmp_path):
    p = by_hand()
    d = json.loads(Q.to_json([p]))[0]
    assert d["second"] == dict(name="face-expression", sha256="abc", classes=list(EMOTIONS))
    assert [w["second"] and w["second"]["label"] for w in d["windows"]] == ["happy", "sad", "sad", None]
    second = d["windows"][1]
    assert second["second"]["probabilities"]["sad"] == pytest.approx(.6) and second["label"] == "happy"
    Q.write_csv(tmp_path/"x.csv", p)
    rows = list(csv.DictReader(open(tmp_path/"x.csv", encoding="utf-8")))
    assert [r["second_label"] for r in rows] == ["happy", "sad", "sad", ""] and rows[3]["second_p_sad"] == ""
    assert rows[0]["label"] == "happy" and float(rows[0]["second_p_happy"]) == pytest.approx(.6)
    assert rows[0]["note"].startswith("trained on drawn faces")
    p.second = None
    Q.write_csv(tmp_path/"y.csv", p)
    assert "second" not in (tmp_path/"y.csv").read_text()


def test_a_folder_without_the_network_is_one_line(run, film, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(P, "load_model", lambda _: run)
    with pytest.raises(MicaclError, match="micacl get face-expression"):
        P.predict_video(run, film, crop=False, second=tmp_path/"nowhere")
    out = tmp_path/"out"
    assert main(["predict", str(film), "--no-crop", "--out", str(out), "--second", str(tmp_path/"nowhere")]) == 1
    printed = capsys.readouterr()
    assert "micacl get face-expression" in printed.err and printed.err.count("\n") == 1


def test_the_command(run, film, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(P, "load_model", lambda _: run)
    assert main(["predict", str(film), "--no-crop", "--out", str(tmp_path/"out"), "--second", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "; face-expression: " in printed
    assert "note: second opinion (face-expression): the same label in " in printed
    d = json.loads((tmp_path/"out"/"film.json").read_text())
    assert d["second"]["name"] == "face-expression" and any("second opinion" in n for n in d["notes"])


def test_the_network_is_read_once_for_many_videos(run, film, folder, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(P, "load_expression", lambda f: read.append(f) or ExpressionNet())
    done, problems = P.predict_videos(run, [film, film], tmp_path/"out", quiet=True, crop=False, second=folder)
    assert len(done) == 2 and not problems and read == [folder]
