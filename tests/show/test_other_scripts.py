"Names in scripts that the font of the figures does not have: pictures without warnings, and words that can be read."
import re
import warnings

import numpy as np
import pytest

from micacl.core import read_json
from micacl.deploy import predict
from micacl.deploy.prediction import Prediction, save_plot
from micacl.show.html import inline_svg
from micacl.show.plots import missing_letters, plot_confusion


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def said(video, classes):
    return Prediction(video, classes, np.array([[0., 1], [1, 2]]), np.array([[.7, .3], [.2, .8]]), np.ones((2, 1)),
                      np.ones((2, 1)), np.ones((2, 1, 3)), np.ones(2), [], 2, dict(dataset="csv"), [])


def test_letters_that_are_missing_are_named_once():
    assert missing_letters("happy Ärger é ж") == "" and missing_letters("快乐, 快 and 脸\n") == "快乐脸"


def test_a_report_has_such_names_as_text():
    svg = str(inline_svg(plot_confusion(np.eye(2), ["快乐", "sad"]), "alt", "x"))
    assert "快乐" in re.sub("<!--.*?-->", "", svg) and re.search("<text[^>]*>快乐</text>", svg)


def test_other_names_are_drawn_as_before():
    assert "<text" not in inline_svg(plot_confusion(np.eye(2), ["Ärger", "sad"]), "alt", "x")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_such_names_is_written_without_warnings(tmp_path, ending):
    save_plot(said("快乐.mp4", ["快乐", "sad"]), tmp_path / f"p.{ending}")
    data = (tmp_path / f"p.{ending}").read_bytes()
    assert data.startswith(b"\x89PNG") if ending == "png" else ">快乐</text>".encode() in data


def test_prediction_says_that_its_picture_shows_boxes(tmp_path, monkeypatch, capsys):
    for classes, lacking in ((["快乐", "sad"], "快乐"), (["happy", "sad"], "")):
        monkeypatch.setattr(predict, "predict_video", lambda run, video, c=classes, **_: said("v", c))
        done, problems = predict.predict_videos((None, None, None), ["快/v.mp4"], tmp_path, quiet=False, crop=False)
        notes = read_json(tmp_path / "v.json")["notes"]
        assert not problems and any(lacking in n and "boxes" in n for n in notes) == bool(lacking)
        assert ("boxes" in capsys.readouterr().out) == bool(lacking)
