"""The network that comes with the package: `micacl predict VIDEO` without a run, what it says of itself, and that its
calibration is in its last layer and nowhere else."""
import json
import shutil

import numpy as np
import pytest
import torch

from micacl import cli
from micacl.core import EMOTIONS, MicaclError, read_json
from micacl.data.synfew.example import example_bag, example_file
from micacl.deploy.commands import model_first
from micacl.deploy.predict import predict_upload, predict_video, predict_videos
from micacl.deploy.sharing import load_model
from micacl.models import MICACL
from micacl.nn import hub
from micacl.nn.cards import CHOSEN, DRAWN, measured_text, model_card
from micacl.nn.hub import DEFAULT, packaged

FOLDER = packaged(DEFAULT)


@pytest.fixture(scope="module")
def info(): return read_json(FOLDER / "config.json")


@pytest.fixture(scope="module")
def clip(tmp_path_factory): return example_file(tmp_path_factory.mktemp("clip"), 96)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    "Nothing is fetched."
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("it asked the hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("it opened a connection"))


def run(capsys, *words):
    capsys.readouterr()
    status = cli.main([str(w) for w in words])
    return status, *capsys.readouterr()


def one_line(err, *parts):
    assert err.startswith("micacl: ") and err.count("\n") == 1 and all(p in err for p in parts), err


# ---- the command

def test_a_video_is_scored_without_a_run(capsys, clip, tmp_path, info):
    status, out, err = run(capsys, "predict", clip, "--no-crop", "--window", "0", "--out", tmp_path)
    assert status == 0 and not err and "surprise (0." in out.splitlines()[1]
    said = read_json(tmp_path / "surprise.json")
    assert (said["run"], said["windows"][0]["label"]) == (DEFAULT, "surprise")
    assert said["note"] in out and said["measured"] == measured_text(info) and said["note"].startswith(said["measured"])
    assert (tmp_path / "surprise.csv").exists() and (tmp_path / "surprise.png").exists()


def test_the_line_of_trust_has_the_figures_of_the_description(info):
    text = measured_text(info)
    for name, s in info["results"]["real"].items():
        low, high = s["intervals"]["uar"]
        assert f"{100 * s['uar']:.1f} % [{100 * low:.1f} %, {100 * high:.1f} %] of {name}" in text
        assert f"({s['n_test']:,} " in text
    c = info["training"]["calibration"]
    assert f"7 biases and a temperature were set on {c['n']:,} real" in text and "trained on drawn faces;" in text
    changed = json.loads(json.dumps(info))
    for s in changed["results"]["real"].values(): s["uar"] = 0.123
    assert measured_text(changed).count("12.3 % [") == len(changed["results"]["real"])      # read, not typed
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card == str(model_card(info)) and DRAWN not in card and f"temperature ({c['temperature']:.2f})" in card
    assert DRAWN in (packaged("synfew") / "README.md").read_text(encoding="utf-8")
    assert "which also helped to choose it" in text and CHOSEN in card          # measured, and not independent
    changed["training"].pop("chosen_by_them")
    assert "helped to choose" not in measured_text(changed) + str(model_card(changed))


def test_a_run_still_comes_first(capsys, clip, tmp_path):
    for run_folder in ("synfew", packaged("synfew")):
        status, out, _ = run(capsys, "predict", run_folder, clip, "--no-crop", "--json", "--out", tmp_path)
        said, = json.loads(out)
        assert status == 0 and said["dataset"] == "synfew" and "not a measurement" in said["note"]
        assert said["measured"] is None


def test_which_word_is_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "party.mp4"                      # a run whose folder is named like a video
    shutil.copytree(FOLDER, odd)
    assert model_first((str(odd), "a.mp4")) == (str(odd), ("a.mp4",))
    assert model_first((str(odd),)) == (str(odd), ())
    assert model_first(("a.mp4", str(odd))) == (None, ("a.mp4", str(odd)))
    assert model_first(("drawn", "a.mp4")) == ("drawn", ("a.mp4",)) and model_first(()) == (None, ())
    assert model_first(("no-run", "a.mp4")) == ("no-run", ("a.mp4",)) and model_first(("clip",)) == (None, ("clip",))
    (tmp_path / "pictures").mkdir()
    assert model_first(("pictures", "a.mp4")) == (None, ("pictures", "a.mp4"))


def test_what_goes_wrong_is_one_line(capsys, clip, tmp_path):
    odd = tmp_path / "party.mp4"
    shutil.copytree(FOLDER, odd)
    options = ("--no-crop", "--out", tmp_path / "out")
    status, out, err = run(capsys, "predict", odd, clip, *options)
    assert status == 0 and not err and "surprise" in out
    status, _, err = run(capsys, "predict", odd, *options)
    assert status == 1; one_line(err, "expected at least one VIDEO", "micacl predict RUN VIDEO")
    status, _, err = run(capsys, "predict", *options)
    assert status == 1; one_line(err, "expected at least one VIDEO", "micacl predict VIDEO")
    status, _, err = run(capsys, "predict", tmp_path / "nothing.mp4", *options)
    assert status == 1; one_line(err, "nothing.mp4", "expected a video file")
    status, _, err = run(capsys, "predict", tmp_path / "no-run", clip, *options)
    assert status == 1; one_line(err, "no-run")
    status, out, err = run(capsys, "predict", clip, tmp_path / "nothing.mp4", *options)
    assert status == 1 and "surprise" in out; one_line(err, "nothing.mp4")


# ---- Python

def test_every_way_in_is_the_same_model(clip, tmp_path):
    options = dict(crop=False, window=0)
    p = predict_video(None, clip, **options)
    for other in (predict_video("drawn", clip, **options), predict_video(load_model(), clip, **options),
                  predict_upload(None, dict(name="a.mp4", content=clip.read_bytes()), **options),
                  predict_videos(None, [clip], tmp_path, quiet=True, **options)[0][0]):
        assert np.array_equal(other.probabilities, p.probabilities) and other.caveat == p.caveat
    assert p.labels == ["surprise"] and p.about["run"] == "drawn"
    model = MICACL.from_pretrained("drawn")
    with torch.inference_mode(): q = model(example_bag()).logits
    assert q.argmax().item() == EMOTIONS.index("surprise")


def test_the_widget_needs_no_run(monkeypatch):
    pytest.importorskip("ipywidgets")
    from micacl.deploy.predict import upload_widget
    assert len(upload_widget().children) == 2


def test_a_folder_of_ones_own_of_that_name_comes_first(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(packaged("synfew"), tmp_path / "drawn")
    assert packaged("drawn") is None and load_model("drawn")[2]["dataset"] == "synfew"
    assert load_model()[2]["dataset"] == "drawn faces" and predict_video(
        None, clip, crop=False, window=0).labels == ["surprise"]          # where nothing is named, it is the package's


# ---- numbers in 16 bits, and what calibration changes

def test_what_loses_nothing_is_stored_in_16_bits(tmp_path):
    assert FOLDER.joinpath("model.safetensors").stat().st_size < 4e6
    a = MICACL.from_pretrained("drawn")
    assert {v.dtype for v in a.state_dict().values() if v.is_floating_point()} == {torch.float32}
    again = a.save_pretrained(tmp_path / "again")
    for name in hub.FILES: assert (again / name).read_bytes() == (FOLDER / name).read_bytes()
    with torch.no_grad(): a.fc.bias += 1e-5              # no longer a number of 16 bits
    b = MICACL.from_pretrained(a.save_pretrained(tmp_path / "changed"))
    assert torch.equal(a.fc.bias, b.fc.bias) and b.about["changed"] and b.about["results"] is None
    assert (tmp_path / "changed" / "model.safetensors").stat().st_size > 4e6


def test_wrong_kinds_of_numbers_are_still_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    folder = MICACL.from_pretrained("drawn").save_pretrained(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    for kind in (torch.bfloat16, torch.float64, torch.int32):
        save_file({k: v.to(kind) if k == "fc.bias" else v for k, v in state.items()}, folder / "model.safetensors")
        with pytest.raises(MicaclError, match="expected .* float32, found"): hub.read_matching(
            folder / "model.safetensors", MICACL.from_pretrained("drawn"))


def test_calibration_is_in_the_last_layer_and_changes_nothing_else():
    import drawn_scores
    torch.manual_seed(0)
    model, biases, temperature = MICACL.from_pretrained("drawn"), torch.linspace(-1, 1, 7), 1.7
    x = torch.randn(5, 4, 192)
    with torch.inference_mode(): before = model(x)
    after_layer = {k: v.clone() for k, v in model.state_dict().items()}
    drawn_scores.fold(model, temperature, biases)
    with torch.inference_mode(): after = model(x)
    assert torch.allclose(after.logits, before.logits / temperature + biases, atol=1e-5)
    assert torch.equal(after.bag, before.bag) and torch.equal(after.weights, before.weights)
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, after_layer[k])} == {"fc.weight", "fc.bias"}


def test_calibration_finds_what_was_changed():
    import drawn_scores
    rng = np.random.default_rng(0)
    true = rng.normal(size=(40_000, 7)) * 1.5
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    y = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    biases = np.array([1.0, -1, 0.5, 0, -0.5, 0, 0])
    temperature, found = drawn_scores.calibrate(torch.from_numpy((true - biases) * 2).float(), y)
    even = np.log(np.bincount(y) / len(y))               # classes weigh the same: their shares are taken out again
    assert temperature == pytest.approx(2, rel=0.05)
    assert np.allclose(found.numpy(), biases - even - (biases - even).mean(), atol=0.1)


def test_errors_of_calibration_weigh_classes_alike():
    import drawn_scores
    y = np.array([0] * 90 + [1] * 10)
    p = np.tile([0.75, 0.25], (100, 1))                  # right for 90 % of the clips, and for half of the classes
    assert drawn_scores.balanced_ece(y, p) == pytest.approx(0.25)
    low, high = drawn_scores.ece_interval(y, p)
    assert low <= 0.25 <= high
