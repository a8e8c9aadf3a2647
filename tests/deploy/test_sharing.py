"Shared models: there and back to the bit, a card that says what was measured, no code from a file."
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from helpers import CLASSES, make, movie
from micacl.deploy import sharing
from micacl.nn import cards, hub as hub_module
from micacl.core import MicaclError, read_json, write_json
from micacl.train.config import Config
from micacl.metrics import summarise
from micacl.models import M3DFEL, MICACL, MODELS, BagModel, MeanMIL, PoolMIL
from micacl.nn.cards import model_card
from micacl.nn.hub import FILES, KEYS, HubModel, made_with
from micacl.train.objective import build_model
from micacl.train.checkpoint import save_checkpoint, write_tensors
from micacl.deploy.sharing import from_pretrained, load_model, save_pretrained


def same(a, b, video=None):
    with torch.no_grad(): pairs = zip(a(movie() if video is None else video), b(movie() if video is None else video))
    return all(p is q is None or torch.equal(p, q) for p, q in pairs)


def make_run(folder, dataset="synfew", finished=True, **settings):
    "A run folder as `micacl train` leaves it, with results whose values are known."
    config, folder = Config(epochs=3, seed=11, **settings), Path(folder)
    folder.mkdir()
    torch.manual_seed(0)
    model = build_model(config, 7)
    info = dict(config=config.to_dict(), dataset=dataset, data="/home/alice/secret", fold=None, classes=CLASSES,
                train_counts=[9, 5, 11, 7, 4, 3, 3], n_train=42,
                n_validation=5, train_clips="00ff", version="0.1.0",
                command="micacl train /home/alice/secret --out RUN")
    write_json(folder / "config.json", info)
    if not finished:
        save_checkpoint(folder, model, torch.nn.Linear(2, 2), torch.optim.AdamW(model.parameters()),
                        dict(epoch=2, history=[], scaler=None))
        return folder
    write_tensors(folder / "model.safetensors", model.state_dict())
    y, logits = np.arange(28) % 7, np.eye(7)[np.arange(28) % 7 // 2]
    scores = dict(test=summarise(y, logits, CLASSES, info["train_counts"]))
    write_json(folder / "results.json", dict(model=config.model, dataset=dataset, fold=None, seed=11, epoch=3,
                                             **scores["test"], tests=scores,
                                             skipped=["/home/alice/secret/x.mp4: broken"]))
    return folder


@pytest.fixture
def shared(tmp_path): return save_pretrained(make(), tmp_path / "shared", CLASSES)


def edit(folder, **changes):
    "Change the description, in place."
    info = read_json(folder / "config.json")
    write_json(folder / "config.json", {k: v for k, v in {**info, **changes}.items() if v is not None
                                        or k in KEYS})
    return folder


# ---- there and back

@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_back_to_the_bit(name, tmp_path):
    a = make(name, n_classes=5)
    folder = a.save_pretrained(tmp_path / "m")
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    for b in (type(a).from_pretrained(folder), BagModel.from_pretrained(str(folder))):
        assert type(b) is type(a) and not b.training and same(a, b)
        assert (made_with(b) == made_with(a) and all(p.requires_grad for p in b.parameters())
                and not any(p.is_meta for p in b.state_dict().values()))


@pytest.mark.parametrize("options", [dict(geiim=False), dict(wian=False), dict(tail="dmin", gate="none", layers=2),
                                     dict(adjacency="both", kernels=(1, 7), hops=2), dict(graph_over="channels"),
                                     dict(dependency_over="features"), dict(hidden=32, heads=4, dropout=0.3,
                                         n_instances=8, instance_length=2)])
def test_options_of_micacl_are_kept(options, tmp_path):
    a = make(**options)
    b = MICACL.from_pretrained(a.save_pretrained(tmp_path / "m"))
    assert same(a, b) and all(made_with(b)[k] == (list(v) if isinstance(v, tuple) else v) for k, v in options.items())


def test_a_cosine_head_positional_arguments_and_training_go_on(tmp_path):
    torch.manual_seed(0)
    a = MeanMIL(3, "r3d_small", 2, 8).change_head("cosine").eval()
    b = MeanMIL.from_pretrained(a.save_pretrained(tmp_path / "m"))
    assert (same(a, b) and made_with(b) == dict(n_classes=3, backbone="r3d_small", n_instances=2, instance_length=8,
                                                dropout=0.))
    b.train()(movie()).logits.square().sum().backward()
    assert all(p.grad is not None for p in b.parameters())


def test_saving_what_was_loaded_gives_the_same_files(tmp_path):
    first = save_pretrained(make_run(tmp_path / "run"), tmp_path / "a")
    second = from_pretrained(first).save_pretrained(tmp_path / "b")
    for name in FILES: assert (first / name).read_bytes() == (second / name).read_bytes()


def test_an_encoder_with_a_constant_that_no_file_holds_comes_back(tmp_path):
    "The weights with which res_faces mixes colours are no part of its state."
    a = make(backbone="res_faces")
    torch.manual_seed(5); before = torch.rand(3)
    torch.manual_seed(5); b = MICACL.from_pretrained(a.save_pretrained(tmp_path / "m"))
    assert same(a, b) and torch.equal(torch.rand(3), before) and not any(v.is_meta for v in b.buffers())
    c = from_pretrained(make_run(tmp_path / "run", backbone="res_faces", pretrained=False))
    assert not any(v.is_meta for v in c.buffers()) and c(movie()).logits.isfinite().all()


def test_loading_leaves_the_random_numbers_alone(shared):
    torch.manual_seed(5); before = torch.rand(3)
    torch.manual_seed(5); MICACL.from_pretrained(shared)
    assert torch.equal(torch.rand(3), before)


def test_loading_never_asks_for_other_weights(tmp_path, monkeypatch):
    a = MICACL(7, "r3d_small", pretrained=True).eval()
    folder = a.save_pretrained(tmp_path / "m")
    monkeypatch.setattr("micacl.nn.backbone.read_weights", lambda *a: pytest.fail("it read other weights"))
    assert (same(a, MICACL.from_pretrained(folder)) and "pretrained" not
            in read_json(folder / "config.json")["arguments"])


def test_a_subclass_of_ones_own(tmp_path):
    class Mine(MICACL): pass
    folder = Mine(4, "r3d_small").save_pretrained(tmp_path / "m")
    assert type(Mine.from_pretrained(folder)) is Mine
    with pytest.raises(MicaclError, match="expected one of MICACL, M3DFEL.*found model Mine"):
        MICACL.from_pretrained(folder)


def test_an_encoder_of_ones_own_is_refused_in_one_line(tmp_path):
    class Own(PoolMIL):
        def __init__(self, encoder=None): super().__init__(3, "r3d_small")
    with pytest.raises(MicaclError, match="Own: encoder: expected a name, found a module of one's own"):
        Own(torch.nn.Linear(2, 2)).save_pretrained(tmp_path / "m")
    model = Own(); model.backbone.image_size = None
    with pytest.raises(MicaclError, match="pass image_size="): model.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    assert Own.from_pretrained(model.save_pretrained(tmp_path / "m", image_size=96)).about["input"]["image_size"] == 96


# ---- folders that the first edition wrote

# as its config.json says it, but for the fingerprint, which the test works out
FIRST_INPUT = dict(
    frames=16, n_instances=4, instance_length=4, image_size=64, sampling="frame floor((2k+1)F/32) of F, for k = 0..15",
    crop="centre square, resized with antialiasing", tensor="(B, 16, 3, 64, 64) RGB, bytes 0..255 or floats 0..1")
FIRST_CONFIG = dict(
    model="micacl", backbone="r3d_small", pretrained=True, n_instances=4, instance_length=4, image_size=64, geiim=True,
    adjacency="learned", neighbours_only=False, graph_over="instances", hops=2, kernels=[1, 3, 5], dilation=1,
    wian=True,
    dependency_over="instances", gate="weight", wian_layers=1, tail="norm", mccl_weight=1.0, mccl_warmup=0.0,
    mccl_on="bag", mccl_scales=[1, 2, 4], mccl_form="log", mccl_dim=128, mccl_class_weight="effective",
    mccl_temperature="printed", mccl_self_pairs=False, mccl_centres=True, tau0=0.07, contrast="mccl", loss="ce",
    head="linear", stage2="none", sampler="natural", label_smoothing=0.1, epochs=3, batch_size=32, lr=0.003,
    backbone_lr=0.3, weight_decay=0.05, warmup_epochs=1.0, warmup_lr=1e-05, min_lr=1e-05, clip_norm=5.0,
    mixed_precision="no", flip=True, jitter=0.4, crop=0.8, val_fraction=0.1, workers=0, on_bad_clip="skip", seed=11)
FIRST_TEST = dict(
    uar=1 / 7, war=1 / 7, recall=dict(zip(CLASSES, [1.0] + [0.0] * 6)), n_test=28,
    n_per_class=dict.fromkeys(CLASSES, 4),
    intervals=dict(uar=[1 / 7, 1 / 7], war=[1 / 7, 1 / 7],
                   recall=dict(zip(CLASSES, [[1.0, 1.0]] + [[0.0, 0.0]] * 6))))
FIRST = dict(
    format="1", version="0.1.0", license="apache-2.0", model="MICACL", arguments=dict(
        n_classes=7, backbone="r3d_small", n_instances=4, instance_length=4, geiim=True, wian=True, hidden=None,
        layers=1,
        gate="weight", dependency_over="instances", tail="norm", heads=8, dropout=0.0, adjacency="learned",
        neighbours_only=False, graph_over="instances", hops=2, kernels=[1, 3, 5], dilation=1),
    head="linear", classes=CLASSES, input=FIRST_INPUT, changed=False, training=dict(
        config=FIRST_CONFIG, dataset="synfew", fold=None, train_counts=[9, 5, 11, 7, 4, 3, 3], n_train=42,
        n_validation=5,
        train_clips="00ff", version="0.1.0", epoch=3),
    results=dict(dataset="synfew", fold=None, seed=11, epoch=3, tests=dict(test=FIRST_TEST)))
FIRST_MEAN = dict(
    format="1", version="0.1.0", license="other", model="MeanMIL",
    arguments=dict(n_classes=3, backbone="r3d_small", n_instances=2, instance_length=8, dropout=0.0), head="cosine",
    classes=["class 0", "class 1", "class 2"], input=dict(FIRST_INPUT, n_instances=2, instance_length=8), changed=False,
    training=None, results=None)


def first_edition(folder, info, model):
    "The folder as the first edition wrote it, with the weights of a model."
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    write_json(folder / "config.json", dict(info, sha256=digest))
    return folder


def test_a_folder_of_the_first_edition_loads(tmp_path):
    a = make(gate="weight", hops=2)
    folder = first_edition(tmp_path / "m", FIRST, a)
    b = MICACL.from_pretrained(folder)
    assert same(a, b) and {k: b.about[k] for k in FIRST} == FIRST
    assert "**one** training run (seed 11)" in model_card(b.about).text
    again = read_json(b.save_pretrained(tmp_path / "again") / "config.json")
    assert {k: again[k] for k in FIRST if k != "version"} == {k: v for k, v in FIRST.items() if k != "version"}
    _, config, known = load_model(folder)
    assert config.image_size == 64 and known == dict(classes=CLASSES, dataset="synfew", epoch=3, measured=None)
    torch.manual_seed(0)
    a = MeanMIL(3, "r3d_small", 2, 8).change_head("cosine").eval()
    b = BagModel.from_pretrained(first_edition(tmp_path / "mean", FIRST_MEAN, a))
    assert same(a, b) and b.head_kind() == "cosine" and {k: b.about[k] for k in FIRST_MEAN} == FIRST_MEAN


# ---- runs

def test_a_run_is_loaded_and_described(tmp_path):
    run = make_run(tmp_path / "run", model="m3dfel")
    model = from_pretrained(run, M3DFEL)
    state = load_file(run / "model.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert (model.about["classes"] == CLASSES and model.about["input"]["image_size"] == 64
            and model.about["training"]["epoch"] == 3)
    with pytest.raises(MicaclError, match="expected a MICACL, found a M3DFEL; load it with M3DFEL.from_pretrained"):
        from_pretrained(run, MICACL)
    with pytest.raises(MicaclError, match="found a training run; micacl.deploy.sharing.from_pretrained reads one"):
        M3DFEL.from_pretrained(run)


def test_a_run_that_is_not_finished_has_no_results(tmp_path):
    about = from_pretrained(make_run(tmp_path / "run", finished=False)).about
    assert about["training"]["epoch"] == 2 and about["results"] is None and "None are known" in model_card(about).text


def test_results_of_other_weights_are_not_claimed(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run / "results.json", dict(read_json(run / "results.json"), epoch=1))
    assert from_pretrained(run).about["results"] is None


def test_no_path_of_the_owner_is_shared(tmp_path):
    folder = save_pretrained(make_run(tmp_path / "run"), tmp_path / "m")
    assert not any(word in (folder / n).read_text() for n in ("config.json", "README.md")
                   for word in ("alice", "secret", str(tmp_path)))


def test_a_run_without_weights(tmp_path):
    run = make_run(tmp_path / "run"); (run / "model.safetensors").unlink()
    with pytest.raises(MicaclError, match="has not finished an epoch, resume it"): from_pretrained(run)


# ---- the card

def front(card): return yaml.safe_load(str(card).split("\n---\n")[0].removeprefix("---\n"))


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    run = make_run(tmp_path / "run")
    folder, results = save_pretrained(run, tmp_path / "m"), read_json(run / "results.json")
    data = huggingface_hub.ModelCard.load(folder / "README.md").data
    assert (data.license == "apache-2.0" and data.library_name == "micacl" and data.datasets == ["synfew"]
            and "micacl" in data.tags)
    assert {(r.metric_name, r.metric_value, r.dataset_split)
            for r in data.eval_results} == {("UAR", results["uar"], "test"), ("WAR", results["war"], "test")}


def test_every_number_of_the_results_is_in_the_card(tmp_path):
    run = make_run(tmp_path / "run")
    card, t = model_card(from_pretrained(run).about).text, read_json(run / "results.json")["tests"]["test"]
    one = lambda x, box: f"{100 * x:.1f} % [{100 * box[0]:.1f} %, {100 * box[1]:.1f} %]"
    assert f"| test | {one(t['uar'], t['intervals']['uar'])} | {one(t['war'], t['intervals']['war'])} | 28 |" in card
    for c, n in zip(CLASSES, [9, 5, 11, 7, 4, 3, 3]):
        assert (f"| test | {c} | 4 | {one(t['recall'][c], t['intervals']['recall'][c])} |" in card
                and f"| {c} | {n} |" in card)
    assert "**one** training run (seed 11)" in card and "never seen a person" in card


def test_the_card_depends_on_the_data(tmp_path):
    card = model_card(from_pretrained(make_run(tmp_path / "run", dataset="dfew")).about)
    assert "drawn faces** and" not in card.text and "terms also bind" in card.text and front(card)["license"] == "other"
    unknown = model_card(from_pretrained(make().save_pretrained(tmp_path / "m", license="mit")).about)
    assert ("Nothing is known about the training" in unknown.text and front(unknown)["license"] == "mit"
            and "model-index" not in front(unknown))


@pytest.mark.parametrize("name", ["a: b", "- x", 'q"uo\\te', "naïve 😀", "a|b", "#c", "---", "new\nline"])
def test_odd_names_keep_the_card_whole(name, tmp_path):
    about = from_pretrained(make_run(tmp_path / "run", dataset=name)).about
    assert front(model_card(about))["datasets"] == [name]
    about["classes"] = [name, *CLASSES[1:]]
    row = next(s for s in model_card(about).text.splitlines() if s.endswith("| 9 |"))
    assert row.replace("\\|", "").count("|") == 3


def test_a_class_without_test_clips(tmp_path):
    run = make_run(tmp_path / "run"); r = read_json(run / "results.json")
    r["tests"]["test"]["recall"]["fear"] = None; r["tests"]["test"]["intervals"]["recall"]["fear"] = [None, None]
    write_json(run / "results.json", r)
    assert "| test | fear | 4 | – [–, –] |" in model_card(from_pretrained(run).about).text


def test_weights_that_changed_have_no_results(tmp_path):
    model = from_pretrained(save_pretrained(make_run(tmp_path / "run"), tmp_path / "a"))
    with torch.no_grad(): model.fc.bias[0] += 1
    b = model.save_pretrained(tmp_path / "b")
    again = from_pretrained(b).save_pretrained(tmp_path / "c")          # nor do they come back
    for folder in (b, again):
        info = read_json(folder / "config.json")
        assert (info["changed"] and info["results"] is None
                and "model-index" not in front((folder / "README.md").read_text()))


# ---- writing

def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "m").mkdir(); (tmp_path / "m" / "thesis.tex").write_text("x")
    with pytest.raises(MicaclError, match="expected a new or empty folder"): make().save_pretrained(tmp_path / "m")
    assert ([p.name for p in (tmp_path / "m").iterdir()] == ["thesis.tex"]
            and [p.name for p in tmp_path.iterdir()] == ["m"])
    (tmp_path / "empty").mkdir()
    assert make().save_pretrained(tmp_path / "empty") and make().save_pretrained(tmp_path / "new" / "deep")


@pytest.mark.parametrize("when", range(6))
def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, when):
    calls = [0]
    def dies(real):
        def f(*a, **k):
            calls[0] += 1
            if calls[0] == when + 1: raise KeyboardInterrupt
            return real(*a, **k)
        return f
    monkeypatch.setattr(os, "replace", dies(os.replace)); monkeypatch.setattr(os, "fsync", dies(os.fsync))
    with pytest.raises(KeyboardInterrupt): make().save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(fd): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MicaclError, match="No space left on device"): make().save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    with pytest.raises(MicaclError, match="expected 7 names, one for each score of the model, found 2"):
        make().save_pretrained(tmp_path / "m", classes=["a", "b"])
    with pytest.raises(MicaclError, match="expected .* float32, found .* float16"):
        make().half().save_pretrained(tmp_path / "m")
    other = make(); other.fc = torch.nn.Linear(256, 9)
    with pytest.raises(MicaclError, match=r"fc.bias: expected \[7\] float32, found \[9\] float32"):
        other.save_pretrained(tmp_path / "m")
    other.fc = torch.nn.Sequential()
    with pytest.raises(MicaclError, match="head: expected a name, found a module"):
        other.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---- files that are wrong

@pytest.mark.parametrize("changes, says", [
    (dict(surprise=1), "unknown: surprise"),
    (dict(format="9"), "expected format 1, found 9"),
    (dict(model="GPT"), "expected one of MICACL, M3DFEL.*found model GPT"),
    (dict(model=["MICACL"]), "found model"),
    (dict(model="MeanMIL", arguments=dict(backbone="r3d_small")),
     "expected a MICACL, found a MeanMIL; load it with MeanMIL.from_pretrained"),
    (dict(classes=["a", "b"]), "names, one for each of the model's 7 scores, found 2"),
    (dict(classes=7), "names, one for each of the model's 7 scores, found int"),
    (dict(classes=[1] * 7), "expected a list of different names"),
    (dict(classes=[*CLASSES[:6], CLASSES[0]]), "expected a list of different names"),
    (dict(arguments=dict(n_classes=5, backbone="r3d_small")), "5 scores, found 7"),
    (dict(arguments=dict(backbone="r3d_small", colour="red")), "unexpected keyword argument 'colour'"),
    (dict(arguments=dict(backbone="r3d_small", pretrained="/etc/passwd")), "argument pretrained: expected"),
    (dict(arguments=dict(backbone="r3d_small", heads=0)), "no model can be made"),
    (dict(arguments=dict(backbone="r3d_small", heads="many")), "no model can be made"),
    (dict(arguments=dict(backbone="r3d_small", hidden=10**9)), "argument hidden: expected a number from 0 to 4096"),
    (dict(arguments=dict(backbone="r3d_small", kernels=[1] * 100)), "argument kernels: expected"),
    (dict(arguments=dict(backbone="r3d_small", layers=-1)), "argument layers: expected"),
    (dict(arguments=[1, 2]), "expected named arguments, found list"),
    (dict(arguments=dict(backbone="r3d_small", hidden=64)),
     "expected the .* bytes of numbers that MICACL has|these are not the weights"),
    (dict(head="cosine"), "expected the .* bytes of numbers that MICACL has"),
    (dict(head="__class__"), "no model can be made"),
    (dict(sha256="0" * 64), "expected the fingerprint 000000000000"),
    (dict(input=dict(image_size=10**9)), "argument image_size"),
    (dict(input=dict()), "the description is not complete"),
    (dict(training=dict(dataset="synfew")), "the description is not complete"),
    (dict(results="great"), "the description is not complete"),
])
def test_a_wrong_description_is_one_plain_line(shared, changes, says):
    with pytest.raises(MicaclError, match=says) as e: MICACL.from_pretrained(edit(shared, **changes))
    assert "\n" not in str(e.value) and str(shared) in str(e.value)


def test_a_key_that_is_missing(shared):
    info = read_json(shared / "config.json"); del info["head"]
    write_json(shared / "config.json", info)
    with pytest.raises(MicaclError, match="missing: head"): MICACL.from_pretrained(shared)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 200_000, '{"a":' * 200_000, "\x00\xff",
                                  "!!python/object/apply:os.system ['true']", "1" * 10_000])
def test_a_description_that_is_no_description(shared, text):
    (shared / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(MicaclError): MICACL.from_pretrained(shared)


def test_a_run_that_is_wrong(tmp_path):
    run = make_run(tmp_path / "run"); info = read_json(run / "config.json")
    for changes in (dict(config=3), dict(config=dict(info["config"], layers_of_cake=2)),
                    dict(config=dict(info["config"], n_instances="4")), dict(classes=4), dict(classes=[]),
                    dict(config=dict(info["config"], wian_layers=10**9)),
                    dict(config=dict(info["config"], n_instances=10**12))):
        write_json(run / "config.json", {**info, **changes})
        with pytest.raises(MicaclError, match=str(run)): from_pretrained(run)
    write_json(run / "config.json", info); write_json(run / "results.json", dict(epoch=3))
    with pytest.raises(MicaclError, match="the description is not complete"): from_pretrained(run)


def test_weights_of_another_shape_kind_or_name(shared):
    good, path = load_file(shared / "model.safetensors"), shared / "model.safetensors"
    for change, says in ((lambda d: d.pop("fc.bias"), "fc.bias: expected .* found nothing"),
                         (lambda d: d.update({"zz": d.pop("fc.bias")}), "fc.bias: expected .* found nothing"),
                         (lambda d: d.update({"fc.bias": torch.zeros(6)}),
                          r"fc.bias: expected \[7\] float32, found \[6\] float32"),
                         (lambda d: d.update({"fc.bias": torch.zeros(7, dtype=torch.float16)}), "found .*float16"),
                         (lambda d: d.update({"extra": torch.zeros(9)}), "expected the .* bytes of numbers")):
        bad = dict(good); change(bad); save_file(bad, path)
        with pytest.raises(MicaclError, match=says): MICACL.from_pretrained(shared)


def test_every_damaged_byte_is_noticed(shared):
    path = shared / "model.safetensors"; data = path.read_bytes()
    for i in [*range(12), 100, 5_000, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1:])
        with pytest.raises(MicaclError): MICACL.from_pretrained(shared)
    for n in (0, 4, 8, 100, len(data) - 1):
        path.write_bytes(data[:n])
        with pytest.raises(MicaclError): MICACL.from_pretrained(shared)


# ---- files that are hostile

class Trap:
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return open, (self.marker, "w")


def test_no_file_runs_code(shared, tmp_path):
    marker = tmp_path / "marker"
    pickles = [pickle.dumps(Trap(str(marker)), p) for p in range(2, 6)]
    f = io.BytesIO(); torch.save(dict(weight=Trap(str(marker))), f); pickles.append(f.getvalue())
    pickle.loads(pickles[0]).close(); assert marker.exists(); marker.unlink()             # the trap is a trap
    weights, config = (shared / "model.safetensors").read_bytes(), (shared / "config.json").read_bytes()
    yaml_code = f"!!python/object/apply:builtins.open [{marker}, w]".encode()
    for content in [*pickles, yaml_code]:
        for name, good in (("model.safetensors", weights), ("config.json", config)):
            (shared / name).write_bytes(content)
            with pytest.raises(MicaclError): MICACL.from_pretrained(shared)
            (shared / name).write_bytes(good)
    (shared / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl"):
        (shared / name).write_bytes(pickles[0])
        with pytest.raises(MicaclError, match=f"{name}.*need unpickling; that can run code, so they are never read"):
            MICACL.from_pretrained(shared)
        (shared / name).unlink()
    assert not marker.exists()
    (shared / "model.safetensors").write_bytes(weights)
    (shared / "pytorch_model.bin").write_bytes(pickles[0])
    (shared / "modeling.py").write_text(f"open({str(marker)!r}, 'w')")
    # what lies beside is not looked at
    assert MICACL.from_pretrained(shared) and not marker.exists()


def test_nothing_here_imports_pickle_or_loads_with_torch():
    source = "".join(Path(m.__file__).read_text() for m in (sharing, hub_module, cards))
    assert ("torch.load(" not in source and "pickle.load" not in source and "import pickle" not in source
            and "weights_only" not in source and "eval(" not in source.replace(".eval(", ""))


HOSTILE = '''
import resource, sys, time
from micacl.core import MicaclError
from micacl.models import MICACL
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for folder in sys.argv[1:]:
    try: MICACL.from_pretrained(folder)
    except MicaclError: pass
    else: raise SystemExit("taken: " + folder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
'''


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units elsewhere, or missing")
def test_hostile_sizes_cost_neither_memory_nor_time(tmp_path):
    folders = []
    def variant(name, **changes):
        folders.append(edit(save_pretrained(make(), tmp_path / name, CLASSES), **changes)); return folders[-1]
    # a table that is said to be endless
    for k, head in enumerate((2**63 - 1, 2**64 - 1, 2**40, 99_000_000)):
        (variant(f"head{k}") / "model.safetensors").write_bytes(struct.pack("<Q", head) + b"{}")
    with open(variant("sparse") / "model.safetensors", "r+b") as f: f.truncate(1 << 40)         # a terabyte of holes
    with open(variant("text") / "config.json", "r+b") as f: f.truncate(1 << 40)
    table = json.dumps({"x": dict(dtype="F32", shape=[2**60], data_offsets=[0, 2**62])}).encode()
    # tensors of 2**62 bytes
    (variant("claim") / "model.safetensors").write_bytes(struct.pack("<Q", len(table)) + table)
    variant("wide", arguments=dict(backbone="r3d_small", hidden=4096, layers=64, n_classes=4096),
            classes=[str(i) for i in range(4096)])
    with open(folders[-1] / "model.safetensors", "r+b") as f: f.truncate(1 << 38)
    variant("deep", arguments=dict(backbone="r3d_small", hops=4096, kernels=[4095] * 64))
    env = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", HOSTILE, *map(str, folders)], env=env, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    kilobytes, seconds = map(float, done.stdout.split())
    assert kilobytes < 300_000 and seconds < 20, done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_file(shared):
    (shared / "model.safetensors").unlink(); os.mkfifo(shared / "model.safetensors")
    start = time.time()
    with pytest.raises(MicaclError, match="found no such file"): MICACL.from_pretrained(shared)
    assert time.time() - start < 5


# ---- the hub, by a stand-in

@pytest.fixture
def hub(monkeypatch):
    "Repositories as folders; what was asked for."
    repos, asked = {}, []
    def download(repo, name, revision=None, **options):
        asked.append((repo, name, revision))
        path = repos[repo] / name
        if not path.exists(): raise EntryNotFoundError(f"404: {name}")
        return str(path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return repos, asked


def test_from_the_hub(shared, hub):
    repos, asked = hub; repos["ann/micacl"] = shared
    (shared / "pytorch_model.bin").write_bytes(b"x")
    assert same(MICACL.from_pretrained("ann/micacl", revision="v1"), MICACL.from_pretrained(shared))
    assert asked == [("ann/micacl", n, "v1") for n in ("config.json", "model.safetensors")]


def test_only_a_pickle_on_the_hub_is_refused(shared, hub, tmp_path):
    repos, asked = hub; repos["eve/model"] = shared
    (shared / "model.safetensors").rename(shared / "pytorch_model.bin")
    with pytest.raises(MicaclError, match="may need unpickling, which can run code; they are never fetched"):
        MICACL.from_pretrained("eve/model")
    assert {n for _, n, _ in asked} <= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("where", ["nowhere", "no/such/folder", "../x/y", "/tmp/surely/not", "a b/c", "https://hub/x/y",
                                   "user/"])
def test_neither_folder_nor_id(where, hub):
    with pytest.raises(MicaclError, match="expected a folder, a model of the package"): MICACL.from_pretrained(where)
    assert hub[1] == []


def test_a_file_is_no_folder(shared):
    with pytest.raises(MicaclError, match="expected a folder"): MICACL.from_pretrained(shared / "config.json")


@pytest.mark.parametrize("error, says", [(LocalEntryNotFoundError("offline"), "can't be reached"),
                                         (ValueError("Repo not found"), "Repo not found"), (OSError("disk"), "disk")])
def test_a_hub_that_does_not_answer(error, says, monkeypatch):
    def download(*a, **k): raise error
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(MicaclError, match=says): MICACL.from_pretrained("ann/micacl")


def test_options_of_the_download_are_the_hubs(shared, monkeypatch):
    seen = []
    def download(repo, name, **options): seen.append(options); return str(shared / name)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    MICACL.from_pretrained("ann/micacl", token="t", cache_dir="c", local_files_only=True)
    assert seen == [dict(revision=None, token="t", cache_dir="c", force_download=False, local_files_only=True)] * 2


def test_a_model_is_pushed_whole_and_in_one_commit(shared, monkeypatch):
    "By the hub's own code; its API is a stand-in."
    from huggingface_hub import hub_mixin
    done = []
    class Api:
        def __init__(self, token=None): done.append(("token", token))
        def create_repo(self, repo_id, **options):
            done.append(("create", repo_id, options["private"]))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")
        def upload_folder(self, repo_id, folder_path, **options):
            files = sorted(p.name for p in Path(folder_path).iterdir())
            done.append(("upload", repo_id, files, options["commit_message"],
                         read_json(Path(folder_path) / "config.json")))
            return "commit"
    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model = MICACL.from_pretrained(shared)
    said = model.push_to_hub("ann/micacl", license="mit", private=True, token="t", commit_message="first")
    assert said == "commit" and done[:2] == [("token", "t"), ("create", "ann/micacl", True)] and len(done) == 3
    assert done[2][1:4] == ("ann/micacl", sorted(FILES), "first")
    assert {**model.about, "license": "mit"} == done[2][4]


def test_a_model_needs_the_hubs_library_only_when_it_meets_the_hub():
    code = ("import sys, micacl.models; print([m for m in sys.modules if m.startswith(('huggingface_hub', "
            "'micacl.train'))])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and issubclass(BagModel, HubModel)
