"Kinds, bounds and choices stand beside the fields of `Config`, and hold wherever a value comes from."

import copy
import dataclasses
import itertools
import json
import math
import inspect
import random
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from micacl import cli
from micacl.geiim import GEIIM
from micacl.mccl import MCCL
from micacl.models import MICACL
from micacl.train import experiments
from micacl.train.specification import SPEC_KEYS
from micacl.train.config import (
    ARGS, CHOICES, FEATURES, MOVED, OPTIONAL, PLACE, PRESETS, SETTINGS, Config, MCCLArgs, ModelArgs, check_config,
    check_value,
    config_from_dict, merge
)
from micacl.core import MicaclError, read_json, write_json
from micacl.train.specification import configuration, grid_points, read_spec
from micacl.train.experiments import run_experiment
from micacl.longtail.losses import LDAM
from micacl.train.objective import build_model
from micacl.train.run import load_run, open_run, read_config, settle
from micacl.train.objective import Objective
from micacl.train.loop import train

INFO = dict(classes=["a", "b"], dataset="csv", data="/x", fold=None, train_counts=[1, 1], train_clips="0")
TINY = dict(mixed_precision="no", pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=1,
            batch_size=8,
            mccl_args=dict(out_dim=16))
KINDS = {
    **{name: kind for name, kind in SETTINGS.items() if name not in ARGS},
    **{f"{place}.{name}": ARGS[place][name] for name, place in PLACE.items()},
}
NUMBERS = {name: kind for name, kind in KINDS.items() if kind[0] in (int, float)}
LISTS = ("model_args.kernels", "mccl_args.scales")
WORDS = {name: get_args(kind) for name, (kind, _) in KINDS.items() if get_origin(kind) is Literal}


def of(d):
    "A Config from names with a point: mccl_args.tau0."
    return Config(**merge(d))


def sources(tmp_path):
    "Every way by which a value comes into a Config."

    def of_a_run(d):
        write_json(tmp_path / "config.json", dict(INFO, config={**Config().to_dict(), **d}))
        return read_config(tmp_path)[0]

    def of_a_spec(d):
        return configuration(read_spec(dict(data="d", methods=dict(m=d), seeds=[1])), "m", 1)

    def set_later(d):
        config = Config()
        for name, v in d.items():
            setattr(config, name, v)
        return settle(config)[0]

    return [
        lambda d: Config(**d),
        lambda d: dataclasses.replace(Config(), **d),
        lambda d: config_from_dict({**Config().to_dict(), **d}),
        of_a_spec,
        set_later,
        of_a_run,
    ]


# ---- one value


def test_every_field_has_a_kind_and_every_number_finite_bounds():
    assert list(SETTINGS) == [f.name for f in dataclasses.fields(Config)] and {
        **NUMBERS,
        **dict.fromkeys(LISTS),
    }.keys() | WORDS.keys() == {n for n in KINDS if KINDS[n][0] is not bool}
    assert len(SETTINGS) <= 28 and len(Config().flat()) == len(KINDS)  # no name is in two places
    for name, (_, bounds) in KINDS.items():
        if name in NUMBERS or name in LISTS:
            assert math.isfinite(max(bounds.least, bounds.above)) and math.isfinite(min(bounds.most, bounds.below))
    for name in SETTINGS:
        assert check_value(name, getattr(Config(), name)) == getattr(Config(), name)


def test_names_and_defaults_of_arguments_are_those_of_the_modules():
    parameters = lambda f: {k: p.default for k, p in inspect.signature(f).parameters.items()}
    taken = {**parameters(GEIIM), **parameters(MICACL)}
    for name, default in dataclasses.asdict(ModelArgs()).items():
        assert taken[name] == default, name
    assert {"n_classes", "backbone", "pretrained", "hidden", "head"} >= {
        k for k in parameters(MICACL) if k not in ("graph", "n_instances", "instance_length")
    } - ARGS["model_args"].keys()
    own = {k: v for k, v in dataclasses.asdict(MCCLArgs()).items() if k not in ("on", "warmup")}
    assert own == {**{k: v for k, v in parameters(MCCL).items() if k not in ("class_counts", "dim")}, "memory": 0}


def test_a_dict_of_arguments_holds_what_is_not_default():
    c = Config(model_args=dict(hops=1, kernels=[3]), mccl_args=dict(tau0=np.float32(0.25), centres=True))
    assert c.to_dict()["model_args"] == dict(kernels=(3,)) and c.mccl_args == dict(tau0=0.25)
    assert c.micacl.kernels == (3,) and c.mccl.tau0 == 0.25 and c.flat()["hops"] == 1
    assert Config().model_args is not Config().model_args
    for place, bad in (("model_args", 3), ("mccl_args", None), ("augment_args", ["flip"]), ("optim_args", "min_lr")):
        with pytest.raises(MicaclError, match=f"^{place}: expected arguments by name, found"):
            Config(**{place: bad})
    for bad in ("hop", "tau0", 3, None):
        with pytest.raises(MicaclError, match=f"^model_args: unknown name {bad}; known are geiim, wian, adjacency"):
            Config(model_args={bad: 1})


def test_settings_from_several_places_are_merged_name_by_name():
    a, b = dict(lr=1.0, model_args=dict(hops=2, gate="none")), {"model_args": dict(hops=3), "mccl_args.tau0": 0.2}
    assert merge(a, b, dict(tau0=0.3, epochs=2)) == dict(
        lr=1.0, epochs=2, model_args=dict(hops=3, gate="none"), mccl_args=dict(tau0=0.3)
    )
    assert a["model_args"] == dict(hops=2, gate="none") and merge({3: 4, "a.b": 1}) == {3: 4, "a.b": 1}


FIRST = dict(  # config.json of a run of the first edition
    model="micacl", backbone="r3d_small", pretrained=False, n_instances=2, instance_length=4, image_size=32, geiim=True,
    adjacency="both", neighbours_only=False, graph_over="instances", hops=2, kernels=[1, 3], dilation=1, wian=True,
    dependency_over="instances", gate="product", wian_layers=1, tail="norm", mccl_weight=1.0, mccl_warmup=0.0,
    mccl_on="bag", mccl_scales=[1, 2], mccl_form="log", mccl_dim=128, mccl_class_weight="effective",
    mccl_temperature="printed", mccl_self_pairs=False, mccl_centres=True, tau0=0.1, contrast="mccl", loss="ce",
    head="linear", stage2="none", sampler="natural", label_smoothing=0.1, epochs=2, batch_size=8, lr=0.003,
    backbone_lr=0.3, weight_decay=0.05, warmup_epochs=1.0, warmup_lr=1e-05, min_lr=1e-05, clip_norm=1.0,
    mixed_precision="no", flip=False, jitter=0.4, crop=0.8, val_fraction=0.1, workers=0, on_bad_clip="skip", seed=42,
)  # fmt: skip


def test_files_of_the_first_edition_are_read(data, tmp_path):
    now = Config(
        mixed_precision="no", pretrained=False, n_instances=2, image_size=32, epochs=2, batch_size=8,
        augment_args=dict(flip=False),
        model_args=dict(adjacency="both", hops=2, kernels=(1, 3)), mccl_args=dict(scales=(1, 2), tau0=0.1),
        optim_args=dict(clip_norm=1.0),
    )  # fmt: skip
    assert config_from_dict(FIRST) == now and len(FIRST) == 52 and MOVED.keys() < FIRST.keys()
    spec = dict(data="d", methods={"A": {k: v for k, v in FIRST.items() if k != "seed"}})
    assert configuration(read_spec(spec), "A", 42) == now
    with pytest.raises(MicaclError, match="wian_layers|layers: expected a whole number from 1 to 64, found 65"):
        config_from_dict(dict(FIRST, wian_layers=65))
    train(data, tmp_path / "whole", now, quiet=True)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(MicaclError, match="1 finished epoch"):
        train(data, tmp_path / "run", now, quiet=True, on_epoch=stop)
    write_json(tmp_path / "run/config.json", dict(read_json(tmp_path / "run/config.json"), config=FIRST))
    with pytest.raises(MicaclError, match="has model_args = .*'hops': 2.* this call has .*'hops': 3"):
        other = dataclasses.replace(now, model_args=dict(now.model_args, hops=3))
        train(data, tmp_path / "run", other, quiet=True, resume=True)
    train(data, tmp_path / "run", quiet=True, resume=True)
    whole, run = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run"))
    assert whole == run and load_run(tmp_path / "run")[1] == now


WRONG = (
    [
        ("epochs", v)
        for v in (
            2.5,
            2.0,
            "3",
            True,
            math.nan,
            math.inf,
            [3],
            {},
            b"3",
            10**5 + 1,
            10**5000,
            0,
            -1,
            np.float64(3),
            np.array([3, 4]),
        )
    ]
    + [
        ("lr", v)
        for v in (
            "fast",
            True,
            None,
            math.nan,
            math.inf,
            -math.inf,
            0,
            -1,
            1e31,
            10**400,
            1j,
            [0.1],
            np.float32(np.nan),
        )
    ]
    + [("augment_args.flip", v) for v in (1, 0, "no", None, 1.0, [True])]
    + [("model", v) for v in ("vit", "", "MICACL", None, 3, ["micacl"], {}, True)]
    + [
        ("model_args.kernels", v)
        for v in (
            (),
            [],
            (2,),
            (0,),
            (-1,),
            (1, 2),
            (65,),
            3,
            "135",
            None,
            (1.0,),
            ("1",),
            (True,),
            [[1]],
            (1,) * 17,
            {1, 3},
            np.eye(2, dtype=int),
        )
    ]
    + [("mccl_args.scales", v) for v in ((), (0,), (3,), (-1,), (1, 2.0), (10**9,), None)]
    + [("seed", v) for v in (-1, 2**63, 1.5, "1", False, np.uint64(2**63))]
    + [
        (name, v)
        for name in (
            "optim_args.min_lr",
            "optim_args.warmup_lr",
            "weight_decay",
            "optim_args.clip_norm",
            "backbone_lr",
            "warmup_epochs",
            "mccl_weight",
            "mccl_args.warmup",
            "augment_args.jitter",
        )
        for v in (-1, -1e-9, math.nan, math.inf, "0")
    ]
    + [
        ("model_args.hops", 65),
        ("model_args.layers", 65),
        ("batch_size", 1000001),
        ("image_size", 0),
        ("image_size", 10**4),
        ("workers", -1),
        ("workers", 10**6),
        ("mccl_args.tau0", 0),
        ("mccl_args.tau0", 1e-320),
        ("mccl_args.out_dim", 0),
        ("mccl_args.out_dim", 10**6),
        ("n_instances", 10**12),
        ("instance_length", 0),
        ("model_args.dilation", 0),
        ("model_args.dilation", 10**6),
        ("label_smoothing", 1),
        ("val_fraction", 1.0),
        ("augment_args.crop", 0),
        ("augment_args.crop", 1.01),
    ]
)


def test_a_value_that_no_run_can_have_is_one_line_wherever_it_comes_from(tmp_path):
    for name, v in WRONG:
        for k, make in enumerate(sources(tmp_path)):
            if (k == 3 and name == "seed") or (k == 5 and not json_can(v)):
                continue  # a spec has its own seeds
            if k == 5 and name in OPTIONAL and v == math.inf: continue      # a file holds null for it: not given
            with pytest.raises(MicaclError, match=f"{name.replace('.', ': ')}: expected .*found ") as e:
                make(merge({name: v}))
            assert "\n" not in str(e.value) and len(str(e.value)) < 500 + len(str(tmp_path)), (name, v)


def json_can(v):
    try:
        return json.loads(json.dumps(v)) == v
    except (TypeError, ValueError):
        return False


def test_a_message_names_the_bound_or_the_choices_and_what_was_found():
    for d, words in (
        (dict(lr=-1), "lr: expected a number above 0 and up to 1e+30, found -1"),
        (dict(label_smoothing=1), "label_smoothing: expected a number from 0 to below 1, found 1"),
        ({"model_args.hops": 65}, "model_args: hops: expected a whole number from 1 to 64, found 65"),
        (dict(epochs=2.5), "epochs: expected a whole number, found 2.5"),
        ({"model_args.kernels": (1, 2)}, "kernels: expected a list of whole numbers from 1 to 63, odd, found (1, 2)"),
        ({"model_args.kernels": []}, "kernels: expected a list of whole numbers, 1 to 16 of them, found []"),
        ({"mccl_args.form": "exp"}, "mccl_args: form: expected one of log, printed, found 'exp'"),
        ({"augment_args.flip": "no"}, "augment_args: flip: expected true or false, found 'no'"),
        (
            {"mccl_args.scales": (3,)},
            "mccl_args: scales: expected divisors of out_dim, 128, and of the length of the feature, 256, found 3",
        ),
        (
            dict(n_instances=1000, instance_length=1000, image_size=64),
            "a batch of at most 16 GiB, found 32 clips of 1000000 frames of 64 pixels, 366 GiB",
        ),
    ):
        with pytest.raises(MicaclError) as e:
            of(d)
        assert words in str(e.value)


@pytest.mark.parametrize("d", [3, None, [], "lr", [("lr", 1)], {3: 4}, {None: 1}, {"x" * 10**5: 1}, {"taux": 1}])
def test_settings_of_another_shape_are_one_line(d):
    with pytest.raises(MicaclError, match="config: expected settings by name|config: unknown name") as e:
        config_from_dict(d)
    assert len(str(e.value)) < 1500
    with pytest.raises(MicaclError, match="expected a Config, found a dict"):
        settle({"lr": 1})


def test_numbers_of_numpy_and_lists_become_plain():
    c = Config(
        lr=np.float32(0.5),
        epochs=np.int64(3),
        augment_args=dict(flip=np.bool_(False), crop=1),
        model_args=dict(kernels=[1, np.int8(3)]),
        mccl_args=dict(scales=np.array([1, 2]), tau0=torch.tensor(0.25)),
        model=np.str_("mean"),
    )
    assert c == Config(
        lr=0.5, epochs=3, augment_args=dict(flip=False, crop=1.0), model_args=dict(kernels=(1, 3)), model="mean",
        mccl_args=dict(scales=(1, 2), tau0=0.25),
    )  # fmt: skip
    plain(c)


def plain(c):
    for name, (kind, _) in KINDS.items():
        v = c.flat()[name.rpartition(".")[2]]
        if name in OPTIONAL and v is None: continue
        assert type(v) is (str if name in WORDS else tuple if name in LISTS else kind), name
        if name in LISTS:
            assert {type(i) for i in v} == {int}


def test_fields_that_were_set_later_are_checked_again():
    c = Config()
    c.lr, c.model_args["kernels"] = 1, [1, 3]
    assert check_config(c) is c and c == Config(lr=1.0, model_args=dict(kernels=(1, 3))) and type(c.lr) is float
    c.optim_args = dict(min_lr=-1)
    with pytest.raises(MicaclError, match="min_lr: expected a number from 0"):
        check_config(c)


# ---- what is written can be read


def values(name):
    kind, b = KINDS[name]
    if name in WORDS:
        return st.sampled_from(WORDS[name])
    if kind is bool:
        return st.booleans()
    whole = st.integers(int(b.least), int(b.most)) if name not in NUMBERS or kind is int else st.nothing()
    edges = st.sampled_from([v for v in (b.least, b.most, b.above, b.below) if math.isfinite(v)])
    numpy = whole.map(np.int64) | whole
    if name in LISTS:
        return st.lists(numpy, min_size=1, max_size=17)
    return (
        numpy | edges
        if kind is int
        else st.floats(max(b.least, b.above), min(b.most, b.below)) | edges | st.floats(0, 1, width=32).map(np.float32)
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional={name: values(name) for name in KINDS}))
def test_every_config_that_can_be_made_is_read_back(tmp_path_factory, d):
    try:
        c = of(d)
    except MicaclError:
        return
    plain(c)
    again = config_from_dict(json.loads(json.dumps(c.to_dict())))
    assert again == c and again.to_dict() == c.to_dict() and config_from_dict(c.to_dict()) == c
    write_json((run := tmp_path_factory.getbasetemp()) / "config.json", dict(INFO, config=c.to_dict()))
    assert read_config(run)[0] == c
    try:
        settled, _ = settle(c)
    except MicaclError:
        return
    assert settle(settled) == (settled, [])


@pytest.mark.parametrize(
    "d",
    [
        dict(seed=10**18),
        dict(seed=1795895194723989303),
        dict(seed=2**63 - 1),
        dict(model_args=dict(hops=64)),
        dict(model_args=dict(layers=64)),
        dict(batch_size=2**14),
        dict(lr=1e30),
        dict(optim_args=dict(min_lr=0)),
        dict(optim_args=dict(warmup_lr=0)),
    ],
)
def test_the_largest_and_smallest_values_are_read_back(tmp_path, d):
    write_json(tmp_path / "config.json", dict(INFO, config=Config(**d).to_dict()))
    assert read_config(tmp_path)[0] == open_run(tmp_path, None, True) == Config(**d)


def test_presets_and_defaults_go_together():
    for make in PRESETS.values():
        assert settle(make(), [*SETTINGS, *PLACE]) == (make(), [])


# ---- what goes together


@pytest.mark.parametrize(
    "asked, changed, note",
    [
        (
            dict(loss="focal"),
            dict(label_smoothing=0.0),
            "loss focal is defined for one true class: label_smoothing 0.1 -> 0",
        ),
        (dict(loss="ldam"), dict(head="cosine"), "loss ldam has margins between cosines: head linear -> cosine"),
        (
            dict(loss="ldam_drw"),
            dict(head="cosine"),
            "loss ldam_drw has margins between cosines: head linear -> cosine",
        ),
        (
            dict(lr=1e-6),
            {"optim_args.min_lr": 1e-6, "optim_args.warmup_lr": 1e-6},
            "lr 1e-06 is the highest rate: min_lr 1e-05 -> 1e-06",
        ),
        (
            dict(backbone="swin3d_t"),
            dict(image_size=224),
            "backbone swin3d_t was trained on larger frames: image_size 64 -> 224",
        ),
        (
            dict(backbone="mc3_18"),
            dict(image_size=112),
            "backbone mc3_18 was trained on larger frames: image_size 64 -> 112",
        ),
    ],
)
def test_a_choice_brings_along_what_it_needs_and_says_so(tmp_path, capsys, asked, changed, note):
    before = Config(**asked)
    config, notes = settle(before)
    assert (
        config == of({**asked, **changed})
        and note in notes
        and len(notes) == len(changed)
        and before == Config(**asked)
    )
    named = {name.rpartition(".")[2] for name in (*asked, *changed)}
    assert settle(of({**asked, **changed}), named)[1] == []
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert (
        open_run(tmp_path / "a", Config(**asked), False, quiet=False) == config
        and f"note: {note}\n" in capsys.readouterr().out
    )
    assert open_run(tmp_path / "b", Config(**asked), False) == config and capsys.readouterr().out == ""
    with pytest.raises(MicaclError, match=next(iter(changed)).rpartition(".")[2]) as e:
        settle(before, asked=named)
    assert str(e.value).endswith("change one of the two")


@pytest.mark.parametrize(
    "d, words",
    [
        (dict(loss="focal", label_smoothing=0.2), "loss focal .* expected label_smoothing 0 with it, found 0.2"),
        (dict(loss="ldam", stage2="crt"), "stage2 crt .*loss ldam, which needs head cosine; choose one of the two"),
        (dict(loss="ldam_drw", stage2="lws", head="cosine"), "choose one of the two"),
        (dict(stage2="tau_norm", head="cosine"), "stage2 tau_norm .*expected head linear with it, found cosine"),
        (dict(model_args=dict(dependency_over="features", geiim=False)), "expected geiim True"),
        (dict(model_args=dict(dependency_over="features", wian=False)), "expected wian True"),
        (dict(model_args=dict(graph_over="channels", adjacency="data")), "expected adjacency learned"),
        (dict(model_args=dict(graph_over="channels", neighbours_only=True)), "expected neighbours_only False"),
        (dict(optim_args=dict(min_lr=0.1)), "lr 0.003 is the highest rate: expected min_lr 0.003"),
        (dict(optim_args=dict(warmup_lr=1)), "expected warmup_lr 0.003"),
    ],
)
def test_two_choices_that_contradict_each_other_are_one_line(d, words):
    with pytest.raises(MicaclError, match=words) as e:
        settle(Config(**d))
    assert "\n" not in str(e.value)


def test_a_backbone_takes_other_sizes_that_are_asked_for():
    for c in (Config(backbone="swin3d_t", image_size=112), Config(backbone="r3d_18"), Config()):
        assert settle(c, {"backbone", "image_size"}) == (c, [])


def test_what_is_not_used_contradicts_nothing():
    for d in (
        dict(model="mean", model_args=dict(dependency_over="features", wian=False, heads=7)),
        dict(model_args=dict(geiim=False, graph_over="channels", adjacency="data")),
        dict(mccl_weight=0, mccl_args=dict(scales=(3,))),
        dict(contrast="bcl", mccl_args=dict(scales=(3,))),
        dict(epochs=1, warmup_epochs=20, mccl_args=dict(warmup=30)),
    ):
        assert settle(Config(**d)) == (Config(**d), [])


def test_what_is_settled_can_be_built_and_what_is_refused_could_not():
    "Over all choices that have a say in each other."
    fields = {
        "model": ("micacl", "m3dfel", "mean"),
        "model_args.geiim": (True, False),
        "model_args.wian": (True, False),
        "model_args.dependency_over": WORDS["model_args.dependency_over"],
        "model_args.graph_over": WORDS["model_args.graph_over"],
        "model_args.adjacency": ("learned", "data"),
        "model_args.neighbours_only": (False, True),
        "loss": ("ce", "focal", "ldam"),
        "head": CHOICES["head"],
        "stage2": ("none", "crt"),
        "mccl_args.on": WORDS["mccl_args.on"],
        "mccl_args.scales": ((1, 2), (256,)),
        "mccl_args.out_dim": (256,),
    }
    draw, refused = random.Random(0), 0
    for _ in range(250):
        d = {name: draw.choice(v) for name, v in fields.items()}
        try:
            config = of({"pretrained": False, **d})
        except MicaclError as e:
            assert d["mccl_args.scales"] == (256,) and "mccl_args: scales" in str(e)
            continue
        try:
            config, _ = settle(config)
        except MicaclError as e:
            refused += 1
            if "geiim" in str(e) or "wian" in str(e) or "graph_over" in str(e):
                with pytest.raises(MicaclError), torch.device("meta"):
                    build_model(config, 7)
            elif "head centres" in str(e):
                with pytest.raises(MicaclError):       # or another choice is refused first
                    with torch.device("meta"):
                        model = build_model(config, 7)
                    Objective(config, [5, 4, 3, 2, 1, 1, 1], model.bag_dim, model.backbone.dim, head=model.fc)
            else:
                assert "stage2" in str(e) or "found centres" in str(e) or "found prototypes" in str(e)
            continue
        with torch.device("meta"):
            model = build_model(config, 7)
        objective = Objective(config, [5, 4, 3, 2, 1, 1, 1], model.bag_dim, model.backbone.dim, head=model.fc)
        assert (
            FEATURES[config.backbone] == model.backbone.dim
            and (type(objective.ce) is LDAM) <= (config.head == "cosine")
            and (config.stage2 != "none") <= isinstance(model.fc, torch.nn.Linear)
        )
    assert 60 < refused < 200


def test_lengths_of_features_are_those_of_the_backbones():
    assert FEATURES.keys() == set(CHOICES["backbone"])
    for name, dim in FEATURES.items():
        with torch.device("meta"):
            assert build_model(Config(backbone=name, pretrained=False), 7).backbone.dim == dim


# ---- the command line


def parse(line):
    return cli._parse(line.split())


def test_help_lists_the_choices(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    for name, words in CHOICES.items():
        assert f"--{name.replace('_', '-')} {{{','.join(words)}}}" in out


@pytest.mark.parametrize(
    "option",
    [
        "--loss hinge",
        "--loss=hinge",
        "--loss",
        "--lr nan",
        "--lr inf",
        "--model-args kernels=2",
        "--model-args kernels=",
        "--model-args kernels",
        "--model-args hop=2",
        "--model-args hops=65",
        "--model-args hops=two",
        "--model-args geiim=no",
        "--model-args adjacency=word",
        "--model-args heads=7",
        "--mccl-args scales=3",
        "--mccl_args scales=3",
        "--mccl-args tau0=nan",
        "--optim-args min_lr=-1",
        "--seed 9223372036854775808",
        "--batch-size 1000001",
        "--loss focal --label-smoothing 0.1",
        "--loss ldam --head linear",
        "--loss=ldam --head=linear",
        "--loss ldam --stage2 crt",
    ],
)
def test_a_wrong_setting_on_the_command_line_is_one_line(capsys, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "nowhere", "--out", "run", *option.split()]) == 1
    err = capsys.readouterr().err
    assert (
        err.startswith("micacl: ")
        and err.count("\n") == 1
        and option.split()[0].split("=")[0][2:].replace("no-", "").replace("-", "_") in err
        and not (tmp_path / "run").exists()
    )


def test_what_holds_for_a_preset_or_a_run_is_not_measured_by_the_defaults(tmp_path):
    assert (parse("train D --out R --preset paper --warmup-epochs 50 --optim-args min_lr=5e-4").config.optim.min_lr
            == 5e-4)
    write_json(tmp_path / "config.json", dict(INFO, config=Config(mccl_args=dict(out_dim=96), lr=0.5).to_dict()))
    config = parse(
        f"train D --out {tmp_path} --resume --mccl-args scales=32 --optim-args min_lr=0.1"
    ).config  # 32 divides 96, and 0.1 is below 0.5
    assert (config.mccl_args, config.optim.min_lr, config.lr) == (dict(scales=(32,), out_dim=96), 0.1, 0.5)


def test_arguments_on_the_command_line():
    command = parse("train D --out R --preset paper --optim-args clip_norm=1 --lr 1e-3 --mccl-args scales=1,2 tau0=0.1 "
                    "--model-args adjacency=data hops=2 kernels=1,3 geiim=True gate=product")  # fmt: skip
    assert command.config == dataclasses.replace(
        PRESETS["paper"](), lr=1e-3, optim_args=dict(min_lr=3e-6, clip_norm=1.0),
        mccl_args=dict(scales=(1, 2), tau0=0.1),
        model_args=dict(adjacency="data", hops=2, kernels=(1, 3)),
    )  # fmt: skip
    assert {"gate", "tau0", "lr", "model_args"} <= command.given and "layers" not in command.given
    assert parse("train D --out R --model-args").config == Config()


def test_arguments_that_contradict_each_other_on_the_command_line(capsys):
    for words, said in (
        ("--model-args wian=false dependency_over=features", "dependency_over features"),
        ("--model-args graph_over=channels adjacency=data", "graph_over channels"),
        ("--lr 1e-6 --optim-args min_lr=1e-5", "expected min_lr 1e-06 with it, found 1e-05"),
    ):
        assert cli.main(["train", "nowhere", "--out", "run", *words.split()]) == 1
        assert said in (err := capsys.readouterr().err) and err.count("\n") == 1


@pytest.mark.parametrize("old", MOVED)
def test_an_option_of_the_first_edition_says_where_it_is_now(capsys, old):
    place, own = MOVED[old].split(".")
    option = f"--{place.replace('_', '-')} {own}=..."
    for word in (f"--{old.replace('_', '-')}", f"--{old}=1", f"--no-{old.replace('_', '-')}"):
        assert cli.main(["train", "D", "--out", "R", word, "x"]) == 2
        err = capsys.readouterr().err
        assert (err.startswith(f"micacl: {word.partition('=')[0]}: now an argument of the ")
                and err.endswith(option + "\n"))
    assert cli.main(["train", "D", "--out", "R", "--model-args", "hops=2", "--model-args", "gate=none"]) == 2
    assert "--model-args: given twice" in capsys.readouterr().err


def test_help_has_groups_and_tells_the_arguments(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    at = [out.find(f" {name} options ") for name in ("clips", "network", "loss", "training", "computing")]
    assert 0 < at[0] and at == sorted(at)
    told = " ".join(out.replace("│", " ").replace("|", " ").split())
    for name in PLACE:
        assert f" {name}=" in told.replace("(default: ", " "), name
    assert "kernels=1,3,5" in told and "geiim=true" in told


def test_train_prints_and_writes_what_was_brought_along(data, tmp_path, capsys):
    config = Config(**TINY, model="mean", loss="focal", mccl_weight=0, seed=2**63 - 1)
    train(data, tmp_path / "run", config)
    assert (
        capsys.readouterr().out.splitlines()[0]
        == "note: loss focal is defined for one true class: label_smoothing 0.1 -> 0"
    )
    assert load_run(tmp_path / "run")[1] == dataclasses.replace(config, label_smoothing=0)
    train(data, tmp_path / "run", config, resume=True, quiet=True)
    assert capsys.readouterr().out == ""


# ---- the file of an experiment

SPECS = [
    dict(
        data="d",
        methods={"A": dict(model="mean"), "B": dict(like="A", lr=0.1)},
        compare=[["A", "B"]],
        tune=dict(data="t", grid={"lr": [0.1, 0.2], "mccl_args.tau0": [0.1]}, seeds=[1], folds=[1, 2]),
        base=dict(epochs=2, model_args=dict(kernels=[1, 3])),
        seeds=[1, 2],
        folds=[1, 2],
        frozen=True,
        test="test",
    ),
    dict(
        synfew=dict(
            n_train=20,
            n_test=7,
            seed=0,
            apex=[0.1, 0.5],
            strength=[0.1, 0.2],
            imbalance=3,
            tail="step",
            profile="dfew",
            workers=1,
            size=32,
            n_frames=8,
        ),
        methods={"A": {}, "B": dict(loss="focal")},
        tune=dict(synfew=dict(n_train=14), grid=dict(loss=["ce", "ldam"])),
    ),
]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(methods={"A": dict(like="B"), "B": 3}), "B: expected the fields in which it differs, found 3"),
        (dict(methods={"A": dict(like="A")}), "A: like: expected a method that is tuned itself, found 'A'"),
        (dict(methods={"A": dict(like={})}), "A: like: expected"),
        (dict(methods={3: {}}), "methods: expected a name, found 3"),
        (dict(methods=[["A"]]), "methods: expected a dict"),
        (dict(base=None), "base: expected a dict"),
        (dict(seeds=[1, 2**63]), "seed: expected a whole number from 0"),
        (dict(seeds=[1, 10**5000]), "seed: expected"),
        (
            dict(
                tune=dict(
                    data="t",
                    grid={f: [1, 2, 3] for f in ("lr", "model_args.hops", "epochs", "mccl_weight", "seed", "batch_size",
                                                 "workers")},
                )
            ),
            "at most 1000 points, .*found 2187",
        ),
        (
            dict(methods={"A": dict(loss="focal", label_smoothing=0.1)}),
            "method A: loss focal .*label_smoothing 0 with it, found 0.1",
        ),
        (dict(methods={"A": dict(loss="ldam", head="linear")}), "method A: loss ldam"),
        (dict(methods={"A": dict(loss="ldam")}, base=dict(stage2="crt")), "method A: stage2 crt"),
        (dict(methods={"A": {3: 4}}), "unknown name 3"),
    ],
)
def test_a_wrong_shape_in_a_spec_is_one_line(change, words):
    for where in (dict(data="d"), dict(data="d", seeds=[1])):
        with pytest.raises(MicaclError, match=words) as e:
            read_spec({**dict(where, methods={"A": {}}), **change})
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "d, words",
    [
        (dict(n_train="20"), "n_train: expected a whole number, found '20'"),
        (dict(n_train=20.0), "n_train: expected a whole number"),
        (dict(n_train=True), "n_train"),
        (dict(n_train=3), "n_train: expected 14 clips"),
        (dict(apex=3), "apex: expected two numbers, found 3"),
        (dict(apex=[0.1]), "apex: expected two numbers"),
        (dict(apex=[0.5, 0.1]), "apex: expected two shares"),
        (dict(apex=[None, 1]), "apex"),
        (dict(strength=[0, 1]), "strength"),
        (dict(imbalance="x"), "imbalance: expected a number"),
        (dict(imbalance=0.5), "imbalance"),
        (dict(imbalance=math.nan), "imbalance"),
        (dict(profile=[]), "profile: expected a word"),
        (dict(profile="rare"), "profile: expected one of"),
        (dict(tail="step"), "tail"),
        (dict(size=33), "size"),
        (dict(seed=-1), "seed"),
        (dict(seed=None), "seed"),
        (dict(workers=0), "workers"),
        (dict(workers="2"), "workers"),
        (dict(out="x"), "unknown name out"),
    ],
)
def test_what_a_spec_says_of_a_drawn_set_is_checked_before_it_is_drawn(d, words):
    for spec, where in (
        (dict(synfew=d, methods={"A": {}}), "^experiment: synfew: "),
        (dict(data="d", methods={"A": {}}, tune=dict(synfew=d, grid=dict(lr=[1e-3]))), "^experiment, tune: synfew: "),
    ):
        with pytest.raises(MicaclError, match=where + words):
            read_spec(spec)
    read_spec(dict(synfew=dict(n_train=np.int64(20), imbalance=None, workers=None, apex=(0.1, 1)), methods={"A": {}}))


JUNK = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2.5,
    1e308,
    math.nan,
    10**18,
    2**63,
    10**30,
    "",
    "x",
    "lr",
    "A",
    [],
    [None],
    [1],
    [1, 1],
    ["A"],
    [["A", "B"]],
    {},
    dict(like="A"),
    dict(like={}),
    dict(like="B"),
    dict(lr=[]),
    dict(lr=[1e-3]),
    dict(lr=1),
    dict(a=dict(b=[1, dict(c=2)])),
    [[[[]]]],
    {"": {}},
    dict(seed=3),
    "é\n\0",
]
NAMES = [
    *SPEC_KEYS,
    "like",
    "lr",
    "model",
    "kernels",
    "grid",
    "n_train",
    "apex",
    "x",
    "loss",
    "head",
    "stage2",
    "mccl_scales",
    "model_args",
    "mccl_args",
    "mccl_args.tau0",
    "epochs",
    "seed",
    "",
]


def places(x, path=()):
    yield path
    for k, v in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
        yield from places(v, (*path, k))


def mutated(draw, spec):
    spec = copy.deepcopy(spec)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        *path, last = draw.choice([p for p in places(spec) if p])
        node = spec
        for k in path:
            node = node[k]
        what = draw.random()
        if what < 0.6:
            node[last] = copy.deepcopy(draw.choice(JUNK))
        elif what < 0.75:
            del node[last]
        elif isinstance(node, dict):
            node[draw.choice(NAMES)] = copy.deepcopy(draw.choice(JUNK))
        else:
            node.append(copy.deepcopy(draw.choice(JUNK)))
        if not spec:
            break
    return spec


def test_a_spec_that_was_changed_at_random_is_read_or_one_line(tmp_path):
    draw, read = random.Random(0), 0
    for spec in SPECS:
        read_spec(spec)
    for k in range(600):
        spec = mutated(draw, draw.choice(SPECS))
        if k % 20 == 0:
            (tmp_path / "s.json").write_text(json.dumps(spec, default=str))
        try:
            got = read_spec(spec if k % 20 else tmp_path / "s.json")
            for m, seed, point in itertools.product(got["methods"], got["seeds"], grid_points(got)):
                configuration(got, m, seed, point)
            read += 1
        except MicaclError as e:
            assert "\n" not in str(e)
    assert read > 30


@pytest.mark.parametrize("what", [3, None, [], b"{}", 2.5])
def test_a_spec_that_is_neither_a_dict_nor_a_file(what):
    with pytest.raises(MicaclError, match="experiment: expected a dict or a JSON file"):
        read_spec(what)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    for file in (tmp_path / "a.json", tmp_path / "b.json"):
        file.write_bytes(
            (b"\xef\xbb\xbf" if file.stem == "a" else b"")
            + json.dumps(dict(data="dé", methods={"A": {}}), ensure_ascii=False).encode()
        )
    assert (
        read_spec(tmp_path / "a.json") == read_spec(tmp_path / "b.json")
        and read_json(tmp_path / "a.json")["data"] == "dé"
    )


def spec_of(data, **kw):
    return {
        **dict(
            data=str(data),
            base=dict(TINY, mccl_weight=0.0),
            seeds=[1],
            test="test_balanced",
            methods={"mean": dict(model="mean"), "max": dict(model="max"), "like max": dict(like="max", model="max")},
            tune=dict(data=str(data), grid=dict(lr=[1e-3]), seeds=[5]),
            compare=[["mean", "max"], ["mean", "like max"]],
        ),
        **kw,
    }


def failing(monkeypatch, *models):
    def fails(data, out, config, *args, **kw):
        if config.model in models:
            raise RuntimeError(f"the disk is full at lr {config.lr}")
        return train(data, out, config, *args, **kw)

    monkeypatch.setattr(experiments, "train", fails)


def test_a_method_whose_tuning_failed_is_left_out_and_the_others_go_on(data, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, "max")
    summary = run_experiment(spec_of(data), tmp_path / "x", 1, costs=False)
    assert (
        "max is left out: every run of its tuning failed, the first with RuntimeError: the disk is full at lr 0.001"
        in capsys.readouterr().out
    )
    assert list(summary["methods"]) == ["mean"] and summary["failed"] == 2 and summary["comparisons"] == []
    monkeypatch.setattr(experiments, "train", train)
    again = run_experiment(spec_of(data), tmp_path / "x", 1, True, False)
    assert (
        list(again["methods"]) == ["mean", "max", "like max"]
        and again["failed"] == 0
        and len(again["comparisons"]) == 2
    )


def test_a_tuning_in_which_everything_failed_is_one_line(data, tmp_path, monkeypatch):
    failing(monkeypatch, "max", "mean")
    with pytest.raises(
        MicaclError,
        match="tune: .*every run of every method failed, the first of mean with RuntimeError: the disk is full",
    ) as e:
        run_experiment(spec_of(data), tmp_path / "x", 1, True, False)
    assert "\n" not in str(e.value)


def test_an_experiment_says_what_was_brought_along(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiments, "_run", lambda jobs, *a, **k: {})
    run_experiment(
        dict(
            data=str(data),
            base=dict(TINY, model="mean"),
            seeds=[1, 2],
            methods={"plain": {}, "focal": dict(loss="focal")},
        ),
        tmp_path / "x",
        1,
        costs=False,
    )
    assert capsys.readouterr().out.splitlines() == [
        "note: focal: loss focal is defined for one true class: label_smoothing 0.1 -> 0",
        "arithmetic: 32 bits: as asked",
    ]
