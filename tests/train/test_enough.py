"Enough steps, and enough test clips: what is said of a short training, of a class of three clips and of one of none."
import csv
import dataclasses
import shutil

import numpy as np
import pytest

from micacl import cli
from micacl.core import MicaclError, read_json, write_json
from micacl.data.load import load_table
from micacl.longtail.samplers import EpochOrder
from micacl.metrics import summarise
from micacl.show.report import write_report
from micacl.train import experiments
from micacl.train.config import EPOCHS, LEAST_STEPS, PRESETS, Config, config_from_dict
from micacl.train.evaluation import about_counts, evaluate
from micacl.train.experiments import one_run
from micacl.train.loaders import make_loader
from micacl.train.loop import train
from micacl.train.objective import lr_at
from micacl.train.run import few_steps, read_config, settle_epochs

TINY = Config(mixed_precision="no", model="mean", mccl_weight=0.0, pretrained=False, n_instances=2, instance_length=2,
              image_size=32, epochs=3, batch_size=8)
NONE = dataclasses.replace(TINY, epochs=None)


@pytest.fixture
def fast(monkeypatch):
    "Four steps are enough, so that a run by the defaults takes seconds."
    monkeypatch.setattr("micacl.train.config.EPOCHS", 1); monkeypatch.setattr("micacl.train.run.EPOCHS", 1)
    for module in ("config", "run"): monkeypatch.setattr(f"micacl.train.{module}.LEAST_STEPS", 7)


# ---- how many epochs

@pytest.mark.parametrize("n, batch, epochs", [(1080, 32, 10), (961, 32, 10), (959, 32, 11), (261, 32, 38),
                                              (32, 32, 300),
                                              (7, 32, 300), (64, 32, 150), (9356, 32, 10)])
def test_by_default_ten_epochs_and_as_many_as_make_300_steps(n, batch, epochs):
    c = Config(batch_size=batch)
    assert c.epochs is None and c.epochs_for(c.steps_per_epoch(n)) == epochs
    assert epochs == EPOCHS or epochs * c.steps_per_epoch(n) >= LEAST_STEPS > (epochs - 1) * c.steps_per_epoch(n)


def test_what_is_asked_for_is_what_is_done():
    assert Config(epochs=1).epochs_for(1) == 1 and Config(epochs=300).epochs_for(1000) == 300
    assert PRESETS["paper"]().epochs == 300 and settle_epochs(TINY, 5) == TINY
    assert config_from_dict(Config().to_dict()) == Config() and config_from_dict(dict(epochs=None)).epochs is None


@pytest.mark.parametrize("n", [1, 7, 8, 9, 15, 16, 28])
def test_steps_are_the_batches_of_the_loader(data, n):
    table = load_table(data).select(split="train")[:n]
    assert len(make_loader(table, NONE, True)) == NONE.steps_per_epoch(n)
    order = make_loader(table, dataclasses.replace(NONE, sampler="progressive"), True).sampler
    assert isinstance(order, EpochOrder) and order.epochs == NONE.epochs_for(NONE.steps_per_epoch(n))


def test_the_schedule_ends_with_the_last_step_of_the_default():
    c = Config()
    assert lr_at(8 * 38 - 1, 8, c) == pytest.approx(c.optim.min_lr) and lr_at(8 * 38 - 2, 8, c) > c.optim.min_lr
    assert [lr_at(t, 8, c) for t in range(304)] == [lr_at(t, 8, Config(epochs=38)) for t in range(304)]


def test_the_command_line_knows_the_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli._parse("train D --out R".split()).config.epochs is None
    assert cli._parse("train D --out R --epochs 3".split()).config.epochs == 3
    with pytest.raises(SystemExit): cli.main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split()).partition("--epochs ")[2][:200]
    assert words.startswith("N ") and "by default 10" in words and "300 steps" in words and "None" not in words[:130]


# ---- what is said, and what a run records

def test_a_short_training_is_named_with_the_epochs_that_would_do(data, tmp_path, capsys):
    results = train(data, tmp_path / "run", TINY)
    out, info = capsys.readouterr().out, read_json(tmp_path / "run/config.json")
    each = info["n_train"] // 8
    line = next(x for x in out.splitlines() if "steps" in x)
    assert (line.startswith(f"note: {3 * each} steps (3 epochs of {each}) are few")
            and f"--epochs {300 // each})" in line)
    assert out.count(line) == 1 and out.index(line) < out.index("epoch 1")       # once, before the first epoch
    assert info["steps_per_epoch"] == each and line.removeprefix("note: ") in results["notes"]
    assert line.removeprefix("note: ") in evaluate(tmp_path / "run", data, out=tmp_path / "again")["notes"]
    assert line.removeprefix("note: ").split(" (")[0] in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_enough_steps_are_not_worth_a_line():
    info = dict(steps_per_epoch=30, n_train=960, config=dict(epochs=10))
    assert few_steps(info) == [] and len(few_steps(dict(info, steps_per_epoch=29))) == 1
    assert few_steps(dict(n_train=9, config=dict(epochs=1))) == []               # of an earlier version: nobody knows


def test_a_small_set_is_trained_longer_and_that_is_said_and_recorded(data, tmp_path, capsys, fast):
    train(data, tmp_path / "run", NONE)
    out, info = capsys.readouterr().out, read_json(tmp_path / "run/config.json")
    epochs = -(-7 // info["steps_per_epoch"])
    assert epochs > 1 and info["config"]["epochs"] == epochs == read_json(tmp_path / "run/results.json")["epoch"]
    assert f"epochs: {epochs}, as 1 of {info['steps_per_epoch']} steps" in out and "are few" not in out
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert f"epochs = {epochs}" not in page          # a default that follows from the data is no changed setting


def test_a_run_keeps_its_number_when_it_goes_on(data, tmp_path, monkeypatch, fast):
    def stop(record): raise KeyboardInterrupt
    whole = train(data, tmp_path / "whole", NONE, quiet=True)
    with pytest.raises(MicaclError, match="1 finished"): train(data, tmp_path / "run", NONE, quiet=True, on_epoch=stop)
    monkeypatch.setattr("micacl.train.config.LEAST_STEPS", 70)                          # another version
    again = train(data, tmp_path / "run", NONE, quiet=True, resume=True)
    assert again == whole
    a, b = ((tmp_path / r / "model.safetensors").read_bytes() for r in ("whole", "run"))
    assert a == b


def test_a_run_of_an_earlier_version_goes_on_with_its_epochs(data, tmp_path):
    def stop(record): raise KeyboardInterrupt
    with pytest.raises(MicaclError, match="1 finished"): train(data, tmp_path / "run", TINY, quiet=True, on_epoch=stop)
    info = read_json(tmp_path / "run/config.json"); del info["steps_per_epoch"]
    write_json(tmp_path / "run/config.json", info)
    for config in (NONE, None):
        results = train(data, tmp_path / "run", config, quiet=True, resume=True)
        assert results["epoch"] == 3 and read_config(tmp_path / "run")[0] == TINY


def test_features_of_a_frozen_backbone_are_computed_for_every_epoch_of_the_default(data, tmp_path, fast):
    frozen = dataclasses.replace(NONE, backbone_lr=0.0, pretrained=True)
    experiments._features(tmp_path, data, "mean", None, frozen)
    there = set((tmp_path / "features").glob("*.npy"))
    r = read_json(one_run(tmp_path, data, "mean", None, frozen))
    assert set((tmp_path / "features").glob("*.npy")) == there
    assert r["epochs"] > 1 and len(there) == r["epochs"] + 3 and r["config"]["epochs"] is None


# ---- few test clips

def scored(n_c, classes="abcd"):
    "Predictions that are right for one clip of each class."
    y = np.repeat(np.arange(len(n_c)), n_c)
    return dict(test=summarise(y, np.eye(len(n_c))[np.r_[y[1:], y[:1]]], classes[:len(n_c)], [9] * len(n_c)))


def test_a_class_of_few_test_clips_is_named_with_the_recalls_that_it_can_have():
    lines = about_counts(scored([30, 3, 1, 10]))
    assert lines == ["test: few clips. c: 1 test clip; its recall can be 0 or 100 %. "
                     "b: 3 test clips; its recall can be 0, 33, 67 or 100 %"]
    assert about_counts(scored([2, 3, 2])) == ["test: few clips. a, c: 2 test clips each; their recall can be 0, 50 or "
                                               "100 %. b: 3 test clips; its recall can be 0, 33, 67 or 100 %"]
    assert "b: 7 test clips; its recall can be a multiple of 14 %" in about_counts(scored([30, 7]))[0]
    assert about_counts(scored([10, 10, 10, 10])) == []


def test_a_class_without_test_clips_is_named_and_uar_says_over_how_many_it_is():
    s = scored([30, 0, 12, 0])
    assert s["test"]["absent"] == ["b", "d"] and scored([1, 1])["test"]["absent"] == []
    assert about_counts(s) == ["test: no clips of b, d; UAR is the mean over the other 2 classes"]


def test_evaluate_says_it_of_a_list_that_has_only_a_test_split(data, tmp_path, capsys):
    train(data, tmp_path / "run", dataclasses.replace(TINY, epochs=1), quiet=True)
    with open(data / "clips.csv", newline="") as f: rows = [r for r in csv.DictReader(f) if r["split"] == "test"]
    home = tmp_path / "mine"; home.mkdir()
    for r in rows: shutil.copyfile(data / r["path"], home / f"{r['clip']}.mp4")
    kept = [r for r in rows if r["label"] != "fear"]
    with open(home / "list.csv", "w", newline="") as f:
        csv.writer(f).writerows([("path", "label", "split"), *((f"{r['clip']}.mp4", r["label"], "test") for r in kept)])
    assert cli.main(["check", str(home)]) == 0 and "usable to test only" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "run"), str(home)]) == 0
    out = capsys.readouterr().out
    assert "note: test: no clips of fear; UAR is the mean over the other 6 classes" in out
    assert "disgust: 1 test clip; its recall can be 0 or 100 %" in out
