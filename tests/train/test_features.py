"Instance features in a file: the numbers of the slow way, and every mismatch refused in one line."
import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision import models as tv
from torchvision.transforms import v2

from micacl.core import MicaclError
from micacl.data.table import Clip, ClipTable
from micacl.models import MICACL, AttentionMIL
from micacl.nn.faces import PerFrame
from micacl.train.config import Config
from micacl.train.features import SavedFeatures, save_features
from micacl.train.loaders import InstanceFeatures, encoder_hash, make_loader
from micacl.train.loop import make_accelerator, predict, train_epoch
from micacl.train.objective import Objective, make_optimizer
from micacl.train.run import read_clips

CONFIG = Config(n_instances=2, instance_length=2, image_size=32, batch_size=8, epochs=2, backbone_lr=0.0,
                mixed_precision="no", mccl_args=dict(out_dim=16))


def picture(seed=0, mean=.5):
    torch.manual_seed(seed)
    return nn.Sequential(v2.Normalize([mean]*3, [.25]*3), nn.Conv2d(3, 12, 5, 4), nn.BatchNorm2d(12), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network(**how): return AttentionMIL(7, PerFrame(picture(**how), 12), 2, 2).freeze_backbone()


@pytest.fixture(scope="module")
def clips(data, tmp_path_factory): return read_clips(data, tmp_path_factory.mktemp("home"), CONFIG, quiet=True)[:2]


@pytest.fixture
def file(clips, tmp_path):
    save_features(tmp_path/"x.safetensors", network(), *clips, CONFIG)
    return tmp_path/"x.safetensors"


def test_the_features_are_those_of_the_encoder(clips, file):
    table, cache = clips
    model, saved = network(), SavedFeatures(file, network(), cache)
    assert saved.x.shape == (len(table), 2, 12) and saved.table.classes == table.classes
    row = lambda c: (c.id, c.label, c.split, c.fold, c.group)
    assert [*map(row, saved.table)] == [*map(row, table)]
    exact = InstanceFeatures(file.parent/"folder", model, CONFIG, cache).of(table)
    torch.testing.assert_close(saved.of(table), exact)
    some = table[[3, 1]]
    torch.testing.assert_close(saved.of(some, epoch=5), exact[[3, 1]])
    video, y, index = next(iter(make_loader(table, CONFIG, cache=cache)))
    x, y2, index2 = next(iter(make_loader(table, CONFIG, features=saved)))
    assert (y == y2).all() and (index == index2).all()
    with torch.no_grad(): torch.testing.assert_close(model.eval()(video).logits, model(x).logits)


def test_a_head_learns_from_the_file_alone(file):
    model, saved = network(), SavedFeatures(file)
    saved.x = saved.x + 2*nn.functional.one_hot(torch.tensor(saved.table.labels), 12)[:, None]      # something to learn
    train, tests = saved.table.protocol(None)
    config = dataclasses.replace(CONFIG, epochs=30, lr=0.02, warmup_epochs=0, mccl_weight=0.0)
    accelerator = make_accelerator(config)
    objective = Objective(config, train.counts, model.bag_dim, model.backbone.dim)
    parts = accelerator.prepare(model, objective, make_loader(train, config, True, features=saved),
                                make_optimizer(model, objective, config))
    before = model.backbone.net[1].weight.clone()
    losses = [train_epoch(*parts, epoch, config, accelerator)["loss"] for epoch in range(config.epochs)]
    assert losses[-1] < .5*losses[0] and (model.backbone.net[1].weight == before).all()
    said = predict(parts[0], make_loader(tests["test"], CONFIG, features=saved), accelerator)
    assert said["y"].tolist() == tests["test"].labels.tolist()


def test_nothing_of_the_model_changes(clips, tmp_path):
    model = network()
    model.backbone.requires_grad_(True)
    model.frozen = False
    model.train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    save_features(tmp_path/"x.safetensors", model, *clips, CONFIG)
    assert model.training and model.backbone.training
    assert all((t == before[n]).all() for n, t in model.state_dict().items())       # batch norms too


# ---------------------------------------------------------------- which encoder

def test_settings_are_part_of_the_encoder():
    assert encoder_hash(picture()) == encoder_hash(picture())
    assert len({encoder_hash(e) for e in (picture(), picture(seed=1), picture(mean=.4), picture().double(),
                                          nn.Sequential(picture()))}) == 5


@pytest.mark.parametrize("how", [dict(seed=1), dict(mean=.4)])
def test_another_encoder_is_refused(file, how):
    with pytest.raises(MicaclError, match="expected features with encoder") as e: SavedFeatures(file, network(**how))
    assert "\n" not in str(e.value)


def test_folders_of_features_tell_encoders_apart_by_their_settings_too(clips, tmp_path):
    table, cache = clips
    a, b = (InstanceFeatures(tmp_path, network(mean=m), CONFIG, cache).of(table[[0, 1]]) for m in (.5, .4))
    assert not torch.equal(a, b)


def test_another_bag_is_refused(file, clips):
    model = AttentionMIL(7, PerFrame(picture(), 12), 4, 1)
    with pytest.raises(MicaclError, match=r"features with bag \[4, 1\], .* found \[2, 2\]"): SavedFeatures(file, model)
    with pytest.raises(MicaclError, match=r"expected n_instances and instance_length of the model, \[4, 1\]"):
        save_features(file, model, *clips, CONFIG)
    SavedFeatures(file, network())                       # what was there is there


# ---------------------------------------------------------------- which clips

def one_line(saved, table, words):
    with pytest.raises(MicaclError, match=words) as e: saved.of(table)
    assert "\n" not in str(e.value) and "save the features" in str(e.value)


def test_other_clips_are_refused(clips, file):
    table, cache = clips
    saved = SavedFeatures(file, cache=cache)
    new = ClipTable([Clip("new", "new", 0)], table.classes)
    one_line(saved, new, "new: expected a clip that it has features of, found none")
    c = table[2]
    moved = ClipTable([dataclasses.replace(c, label=(c.label + 1) % 7)], table.classes)
    one_line(saved, moved, f"expected label {c.label} of")
    one_line(saved, ClipTable([c], table.classes[::-1]), "expected label")
    saved.content = dict(saved.content, **{c.id: "another"})
    one_line(saved, table, "expected the clip whose features were saved, found other content")


# ---------------------------------------------------------------- the file

@pytest.mark.parametrize("n", [0, 7, 100, -1])
def test_a_file_that_was_cut(file, n):
    data = file.read_bytes()
    file.write_bytes(data[:n])
    with pytest.raises(MicaclError, match="or half of one") as e: SavedFeatures(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("change", [
    dict(format="0"), dict(about="{}"), dict(about="[]"), dict(clips="["), dict(clips="[]"), dict(clips="[1]"),
    dict(clips='[["a"]]'), dict(classes="3"), dict(about='{"encoder": "x", "bag": [1], "dim": 12, "image_size": 3}')])
def test_a_file_of_something_else(file, change):
    with safe_open(file, framework="pt") as f: header, x = f.metadata(), f.get_tensor("features")
    save_file({"features": x}, file, {**header, **change})
    with pytest.raises(MicaclError, match="expected features by save_features") as e: SavedFeatures(file)
    assert "\n" not in str(e.value)
    save_file({"weights": x}, file, header)
    with pytest.raises(MicaclError, match="expected features by save_features"): SavedFeatures(file)
    with pytest.raises(MicaclError, match="found no such file"): SavedFeatures(file.parent/"nowhere")


def test_written_whole_or_not_at_all(clips, file, monkeypatch):
    before, model = file.read_bytes(), network(seed=1)

    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(model, "encode", stop)
    with pytest.raises(KeyboardInterrupt): save_features(file, model, *clips, CONFIG)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_header_is_json(file):
    with safe_open(file, framework="pt") as f: header = f.metadata()
    about = json.loads(header["about"])
    assert about["encoder"] == encoder_hash(network().backbone) and (about["bag"], about["dim"]) == ([2, 2], 12)


# ---------------------------------------------------------------- the recipes of the page

def test_a_picture_network_of_torchvision():
    net = tv.mobilenet_v3_small(weights=None)
    net.classifier = nn.Identity()
    encoder = PerFrame(nn.Sequential(v2.Resize((64, 64), antialias=True), v2.Normalize([.5]*3, [.25]*3), net), 576, 64)
    model, video = MICACL(backbone=encoder).eval(), torch.randint(256, (1, 16, 3, 32, 32), dtype=torch.uint8)
    frames = (v2.Resize((64, 64))(video[0].float()/255) - .5)/.25
    with torch.no_grad():
        x, each = model.encode(video), net.eval()(frames).unflatten(0, (4, 4)).mean(1)
    torch.testing.assert_close(x[0], each, rtol=1e-3, atol=1e-4)


def test_a_picture_network_of_timm():
    timm = pytest.importorskip("timm", reason="pip install 'micacl[timm]'")
    net = timm.create_model("resnet18", pretrained=False, num_classes=0)
    pixels = timm.data.resolve_model_data_config(net)
    encoder = PerFrame(nn.Sequential(v2.Normalize(pixels["mean"], pixels["std"]), net), net.num_features)
    with torch.no_grad():
        out = MICACL(backbone=encoder).eval()(torch.randint(256, (1, 16, 3, 64, 64), dtype=torch.uint8))
    assert out.instances.shape == (1, 4, 512) and pixels["input_size"] == (3, 224, 224)
