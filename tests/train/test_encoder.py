"""Training on varied drawn faces: losses by hand, resuming, weights that can be read again and nothing else."""
import hashlib
import math
from pathlib import Path

import pytest
import torch

import micacl.train.encoder as module
from micacl.core import EMOTIONS, MicaclError, read_json
from micacl.data.synfew.generate import UNITS
from micacl.data.synfew.stream import LANDMARKS, MIRRORED, Pictures, draw_people
from micacl.nn.backbone import build_backbone, read_weights, save_weights, weights_path
from micacl.train.encoder import (
    SPREAD, emotion_loss, encoder_card, landmark_loss, learning_rate, load_reader, new_optimiser, new_reader,
    read_pictures, train_encoder)
from micacl.train.machine import choose_arithmetic
from micacl.train.pretrain import r_squared
from micacl.train.randomise import random_warp

SMALL = dict(n=24, n_held_out=4, batch_size=32, workers=1, quiet=True, mixed_precision="no")


def test_learning_rate_by_hand():
    assert learning_rate(0, 60, 2.0) == 0 and learning_rate(10, 60, 2.0) == pytest.approx(2.0)
    assert learning_rate(5, 60, 2.0) == pytest.approx(1.0) and learning_rate(35, 60, 2.0) == pytest.approx(1.0)
    assert learning_rate(60, 60, 2.0) == pytest.approx(0)


def test_emotion_loss_by_hand():
    logits = torch.zeros(4, 7)
    logits[1, 2] = math.log(6)                                   # class 2 has 6/12, the others 1/12
    emotion, strength = torch.tensor([3, 2, -1, 0]), torch.tensor([0.5, 2.0, 9.0, 0.0])
    assert emotion_loss(logits, emotion, strength).item() == pytest.approx((0.5*math.log(7) + 2*math.log(2))/2.5)
    assert emotion_loss(logits, torch.full((4,), -1), strength).item() == 0
    # weak expressions together weigh no more than they are
    assert emotion_loss(logits, emotion, strength/10).item() == pytest.approx(0.05*math.log(7) + 0.2*math.log(2))


def test_landmarks_outside_the_picture_do_not_count():
    truth, said = torch.zeros(1, 24, 2), torch.zeros(1, 24, 2, requires_grad=True)
    truth[0, 0], truth[0, 1], truth[0, 2] = torch.tensor([0.3, 0.4]), torch.tensor([5.0, 0.0]), torch.nan
    loss = landmark_loss(said, truth)
    assert loss.item() == pytest.approx(0.25/22/SPREAD)
    loss.backward()
    assert said.grad.isfinite().all() and (said.grad[0, 1:] == 0).all()


def test_a_hidden_landmark_has_no_influence():
    "NaN in the truth, also in a mirror: loss and gradient are finite, and the same whatever is said there."
    people = draw_people(3, 3, size=16)
    points, hidden = torch.from_numpy(people.landmarks), LANDMARKS.index("left brow outer end")
    points[:, hidden] = torch.nan
    warp = random_warp(len(points), torch.Generator().manual_seed(0))
    assert 0 < warp.mirrored.sum() < len(points)
    moved, place = warp.points(points), torch.where(warp.mirrored, MIRRORED[hidden], hidden)
    rows = torch.arange(len(points))
    assert moved[rows, place].isnan().all() and moved.isnan().sum() == points.isnan().sum()
    results = []
    for guess in (0.0, 7.0):
        said = torch.zeros_like(moved); said[rows, place] = guess
        loss = landmark_loss(said.requires_grad_(), moved)
        loss.backward(); results.append((loss.item(), said.grad))
    (a, grad), (b, other) = results
    assert a == b > 0 and math.isfinite(a) and grad.isfinite().all() and torch.equal(grad, other)
    assert (grad[rows, place] == 0).all() and (grad != 0).any()


def test_scores_leave_a_hidden_landmark_out():
    held_out = Pictures(*map(torch.from_numpy, draw_people(4, 2, size=64)))
    model = new_reader(held_out.units, width=2)
    whole = module.held_out_scores(model, held_out, "no")["landmark_distance"]
    held_out.landmarks[:, 1:] = torch.nan                                  # only the first is left
    read = read_pictures(model, held_out.frames).landmarks[:, 0]
    first = held_out.landmarks[:, 0]
    inside = (first.abs() < 1).all(-1)
    by_hand = (read - first).norm(dim=-1)[inside].mean().item()
    found = module.held_out_scores(model, held_out, "no")["landmark_distance"]
    assert math.isfinite(whole) and found == pytest.approx(by_hand, abs=1e-4) and found != whole


def test_biases_and_scales_are_not_decayed():
    model = new_reader(width=4)
    decayed, others = new_optimiser(model, 1e-3, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert all(p.ndim <= 1 for p in others["params"])


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    whole = train_encoder(tmp_path/"whole", epochs=2, **SMALL)
    fit = module.fit_epoch

    def stopped(model, pictures, optimiser, epoch, settings):
        if epoch == 2: raise KeyboardInterrupt
        return fit(model, pictures, optimiser, epoch, settings)
    monkeypatch.setattr(module, "fit_epoch", stopped)
    with pytest.raises(KeyboardInterrupt): train_encoder(tmp_path/"cut", epochs=2, **SMALL)
    assert not (tmp_path/"cut"/"res_faces.safetensors").exists()
    monkeypatch.setattr(module, "fit_epoch", fit)
    cut = train_encoder(tmp_path/"cut", epochs=2, **SMALL)
    a, b = (read_weights(tmp_path/name/"res_faces.safetensors", "res_faces")[0] for name in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    times = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in times} for r in cut["history"]] == \
        [{k: v for k, v in r.items() if k not in times} for r in whole["history"]]
    assert (tmp_path/"cut"/"res_faces.md").read_text(encoding="utf-8") == encoder_card(cut)
    again = load_reader(tmp_path/"cut"/"res_faces.safetensors")
    frames = torch.from_numpy(draw_people(5, 2).frames)
    encoder = build_backbone("res_faces", tmp_path/"cut"/"res_faces.safetensors").eval()
    x = torch.rand(2, 3, 3, 64, 64)
    with torch.no_grad(): each = torch.stack([again.net(x[:, :, t]) for t in range(3)])
    torch.testing.assert_close(encoder(x).detach(), each.mean(0))
    assert read_pictures(again, frames).emotion.shape == (8, len(EMOTIONS))


def test_a_folder_of_another_training_is_refused(tmp_path):
    train_encoder(tmp_path/"a", epochs=1, **SMALL)
    with pytest.raises(MicaclError, match="same settings"): train_encoder(tmp_path/"a", epochs=2, **SMALL)
    (tmp_path/"a"/"settings.json").unlink()
    with pytest.raises(MicaclError, match="another run"): train_encoder(tmp_path/"a", epochs=1, **SMALL)
    (tmp_path/"file").touch()
    with pytest.raises(MicaclError, match="expected a folder"): train_encoder(tmp_path/"file", epochs=1, **SMALL)


@pytest.mark.parametrize("name", ["n", "epochs", "batch_size", "n_held_out"])
def test_impossible_numbers_are_named(name, tmp_path):
    with pytest.raises(MicaclError, match=f"{name}: expected 1 or more"):
        train_encoder(tmp_path, **{**SMALL, "epochs": 1, name: 0})
    with pytest.raises(MicaclError, match="at least one batch"): train_encoder(tmp_path, epochs=1, **{**SMALL, "n": 7})


def test_weights_for_something_else_are_refused(tmp_path):
    state, header = new_reader(width=4).state_dict(), dict(units="AU1", emotions=",".join(EMOTIONS))
    save_weights(tmp_path/"w", state, "res_faces", **header)
    with pytest.raises(MicaclError, match="expected readings of AU1, AU2"): load_reader(tmp_path/"w")
    with pytest.raises(MicaclError, match="res_faces"): load_reader(weights_path("r3d_small"))
    header["units"] = ",".join(UNITS)
    nameless = {k: v for k, v in state.items() if "emotion" not in k}
    for tensors in ({}, {"net.1.0.weight": torch.zeros(4, 1, 3, 3)}, nameless):
        save_weights(tmp_path/"w", {"x": torch.zeros(1), **tensors}, "res_faces", **header)
        with pytest.raises(MicaclError, match="w: the tensors don't fit res_faces"): load_reader(tmp_path/"w")


def test_a_stopped_training_goes_on_in_its_own_arithmetic(tmp_path, monkeypatch):
    "What is fastest is measured anew each time, and may come out otherwise."
    train_encoder(tmp_path, epochs=1, **SMALL)
    settings = dict(SMALL, mixed_precision="auto")
    monkeypatch.setattr(module, "choose_arithmetic", lambda name: choose_arithmetic("bf16" if name == "auto" else name))
    assert train_encoder(tmp_path, epochs=1, **settings)["mixed_precision"] == "no"
    assert train_encoder(tmp_path/"new", epochs=1, **settings)["mixed_precision"] == "bf16"


def test_shipped_weights_read_drawn_people_they_have_not_met():
    path = weights_path("res_faces")
    assert path.stat().st_size <= 5e6
    people = draw_people(20260101, 40)
    read = read_pictures(load_reader(), torch.from_numpy(people.frames))
    assert r_squared(read.units, torch.from_numpy(people.units)).mean() > 0.3
    clear = (people.emotion >= 0) & (people.strength > 0.5)
    assert (read.emotion.argmax(1).numpy() == people.emotion)[clear].mean() > 0.6
    log = read_json(Path(__file__).parents[2]/"results"/"pretrain-res_faces.json")
    assert log["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and log["bytes"] == path.stat().st_size
    assert encoder_card(log) == path.with_suffix(".md").read_text(encoding="utf-8")
