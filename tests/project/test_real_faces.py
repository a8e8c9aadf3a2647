"The benchmark on real faces, on a list of drawn ones: what its file says, and that nothing about a person is in it."
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import real_faces as B
from helpers import draw_expression, write_expression
from micacl.core import EMOTIONS, MicaclError
from micacl.data.load import load_table
from micacl.nn.backbone import save_weights
from micacl.nn.expression import load_expression
from micacl.train.encoder import new_reader, six_views

PEOPLE, EACH = 8, 2          # of each of two classes
NAMES = ["happiness", "contempt"]


def faces(folder, columns=("group",), people=PEOPLE):
    "Pictures of two classes, told by a bright corner; people differ in brightness."
    rng, rows = np.random.default_rng(0), []
    for i in range(people * 2 * EACH):
        who, c = divmod(i // EACH, 2)
        x = np.full((24, 24), 40 + 8 * who) + rng.integers(0, 40, (24, 24))
        x[:8, 12 * c:12 * c + 8] += 90
        (folder / f"clip{i}").mkdir(parents=True)
        for k in range(1 + i % 2): Image.fromarray(x.astype(np.uint8)).save(folder / f"clip{i}" / f"{k}.png")
        row = dict(group=f"Jane Doe {who}", split="test" if who % 2 else "train")
        rows.append([f"clip{i}", NAMES[c], *(row[k] for k in columns)])
    (folder / "list.csv").write_text("\n".join(map(",".join, [["path", "label", *columns], *rows])))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "Two readers that have learnt nothing."
    out = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        reader, file = new_reader(), tmp_path_factory.mktemp("weights") / "res_faces.safetensors"
        from micacl.data.synfew.generate import UNITS
        save_weights(file, reader.state_dict(), "res_faces", units=",".join(UNITS), emotions=",".join(EMOTIONS))
        out.append(file)
    return out


@pytest.fixture(scope="module")
def measured(weights, tmp_path_factory):
    root, patch = tmp_path_factory.mktemp("real") / "secret", pytest.MonkeyPatch()
    out = root.parent / "real-faces.json"
    patch.setattr(B, "DRAWS", 200); patch.setattr(B, "SEEDS", (0, 1))
    for name, columns in (("by person", ("group",)), ("as listed", ("split",))):
        data = faces(root / name.replace(" ", "-"), columns)
        patch.setattr(sys, "argv", ["real_faces.py", str(data), "--name", name, "--out", str(out), "--weights",
                                    *map(str, weights)])
        B.main()
    patch.undo()
    return out.read_text()


def test_a_file_for_several_sets(measured):
    sets = json.loads(measured)["sets"]
    assert list(sets) == ["by person", "as listed"]
    a, b = sets["by person"], sets["as listed"]
    assert (a["clips"], a["people"], b["people"], b["clips_without_a_person"]) == (32, 8, 0, 32)
    assert "names a person for each clip" in a["who"] and "32 clips name no person" in b["who"]
    assert a["protocol"].startswith("five folds by person")
    assert b["protocol"] == "column split: 16 clips to train, 16 to test"
    assert a["command"] == "python benchmarks/real_faces.py FOLDER --name 'by person' --weights SEED-0 SEED-1"
    assert a["commit"] and a["machine"]["processor"] and a["seeds"] == [0, 1] and a["draws"] == 200


def test_nothing_about_a_person_and_no_path_is_in_the_file(measured):
    assert "Jane" not in measured and "secret" not in measured and "clip1" not in measured and "/tmp" not in measured


@pytest.mark.parametrize("name, tested", [("by person", 32), ("as listed", 16)])
def test_scores_of_every_encoder(measured, name, tested):
    found = json.loads(measured)["sets"][name]
    assert list(found["probe"]) == ["r3d_small", "r3d_small, untrained", "res_faces", "res_faces, six views", "pixels"]
    for method, n in zip(found["probe"], (1, 2, 2, 2, 1)):
        s = found["probe"][method]
        assert s["clips"] == tested and len(s["uar_by_network"]) == n and set(s["recall"]) == {"happy", "contempt"}
        assert s["uar"] == pytest.approx(np.mean(s["uar_by_network"]), abs=1e-3)
        assert s["interval"][0] <= s["uar"] <= s["interval"][1]
        if method != "r3d_small":
            d = s["against"]["difference"]
            assert d == pytest.approx(s["uar"] - found["probe"]["r3d_small"]["uar"], abs=1e-3)
    assert found["probe"]["pixels"]["uar"] > .9       # a bright corner is easy


def test_clips_of_classes_without_a_score_are_named(measured):
    "Of happiness and contempt one class is left, and one is no choice."
    for s in json.loads(measured)["sets"].values():
        assert s["zero_shot"] == {} and "expected two or more classes that both have, found 1" in s["no_zero_shot"]


def test_a_network_that_prefers_one_name_is_set_right_by_the_mean_of_the_set(tmp_path, monkeypatch):
    "Scores that tell both classes apart, and ten more for one of them in every clip."
    def encode(x):
        left, right = x[:, :, 0, :20, :20].mean((1, 2, 3)), x[:, :, 0, :20, -28:].mean((1, 2, 3))
        scores = torch.zeros(len(x), len(EMOTIONS))
        scores[:, EMOTIONS.index("happy")], scores[:, EMOTIONS.index("sad")] = 10 + 30 * (left - right), 0
        return torch.cat([torch.stack([left, right], 1), scores], 1)
    monkeypatch.setattr(B, "methods", lambda *_: {B.REFERENCE: B.Method([encode], named=len(EMOTIONS))})
    monkeypatch.setattr(B, "DRAWS", 50); monkeypatch.setattr(B, "SEEDS", (0,))
    file = faces(tmp_path / "a") / "list.csv"
    file.write_text(file.read_text().replace("contempt", "sad"))
    found = B.measure(file.parent, report=lambda _: None)["zero_shot"]
    assert list(found) == ["r3d_small", "r3d_small, mean of the set subtracted"]
    assert [z["uar"] for z in found.values()] == [.5, 1]


def test_six_views_of_a_picture():
    x = torch.rand(3, 1, 64, 64)
    views = six_views(x)
    assert views.shape == (6, 3, 1, 64, 64) and torch.equal(views[0], x)
    assert torch.equal(views[1::2], views[::2].flip(-1))                # each with its mirror image
    pattern = torch.zeros(1, 1, 40, 40); pattern[..., 4:36, 4:36] = 1    # fills 0.8 of the picture
    assert six_views(pattern)[4].min() == 1 and six_views(pattern)[2].min() == 0
    a, b = (six_views(v).mean((0, 2)) for v in (x, x.flip(-1)))
    assert a.mean(-1) == pytest.approx(b.mean(-1), abs=1e-6)            # the mean has no sides


def test_readings_are_judged_on_clips_that_can_be_read():
    y, people = np.array([0, 1, 2, 2]), np.array(list("abcd"))
    scores = np.eye(7)[[0, 1, 0, 0]]
    s = B.named([scores, scores], y, people, ("happy", "angry", "contempt"))
    assert (s["clips"], s["people"], s["unread"], s["uar"]) == (2, 2, ("contempt",), .5)
    assert s["candidates"] == ("happy", "angry") and s["recall"] == dict(happy=1, angry=0)


def test_a_difference_of_one_network_and_several():
    "Two people; A: both networks right on one of them, one right on the other; B: right on the first person only."
    y, people, classes = np.array([0, 0]), np.array(["a", "b"]), ("x", "y")
    a, b = np.array([[[0, 0]], [[0, 1]]]), np.array([[[0, 1]]])
    d = B.compared(y, a, b, people, classes)
    assert d["difference"] == .25 and d["interval"] == [0, 1]
    s = B.scored(y, a, people, classes)
    assert s["uar"] == .75 and s["uar_by_network"] == [1, .5] and s["interval"] == [.5, 1] and s["clips"] == 2


def test_repetitions_are_no_new_people():
    y, people, p = np.array([0, 0, 1, 1]), np.array(list("aabb")), np.array([[[0, 1, 1, 1]]])
    once, often = (B.scored(y, np.repeat(p, r, 1), people, ("x", "y")) for r in (1, 9))
    assert once["interval"] == often["interval"] and once["clips"] == often["clips"] == 4 and often["people"] == 2


def test_a_part_that_the_reader_set_aside_is_no_split_of_the_list(tmp_path):
    table, _, divided = B.read(faces(tmp_path / "a"), tmp_path / "cache")
    assert not divided and B.parts(table) is not None
    assert B.read(faces(tmp_path / "b", ("group", "split")), tmp_path / "cache")[2]


def test_classes_of_few_people_and_without_clips_are_named(tmp_path):
    file = faces(tmp_path / "a", people=3) / "list.csv"
    file.write_text(file.read_text().replace("contempt", "sad"))
    said = B.about(load_table(file.parent), ["x"] * 6 + ["y"] * 6, 2, None)
    assert said["people_by_class"]["happy"] == 2 and "neutral" in said["classes_without_clips"]
    assert said["classes_of_fewer_people_than_folds"] == ["happy", "sad"] and said["who"].startswith("2 clips name no")


def test_too_few_people_for_the_folds_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(B, "methods", lambda *_: {B.REFERENCE: B.Method([B.pixels])})
    with pytest.raises(MicaclError, match="at least 5 people"): B.measure(faces(tmp_path / "a", people=4))


def test_a_network_of_others_has_its_row_and_its_warning(tmp_path, monkeypatch):
    write_expression(tmp_path / "net", draw_expression())
    data, out, full = faces(tmp_path / "faces"), tmp_path / "out.json", B.methods
    monkeypatch.setattr(B, "DRAWS", 50); monkeypatch.setattr(B, "SEEDS", (0,))
    keep = ("pixels", "face-expression")
    monkeypatch.setattr(B, "methods", lambda *a: {k: m for k, m in full(*a).items() if k in keep})
    monkeypatch.setattr(B, "REFERENCE", "pixels")
    argv = ["real_faces.py", str(data), "--name", "a", "--out", str(out), "--encoder"]
    monkeypatch.setattr(sys, "argv", [*argv, "face-expression", str(tmp_path / "net")])
    B.main()
    text = out.read_text()
    a = json.loads(text)["sets"]["a"]
    assert a["command"] == "python benchmarks/real_faces.py FOLDER --name a --encoder face-expression DIR"
    assert list(a["probe"]) == list(keep) and a["probe"]["face-expression"]["against"] and str(tmp_path) not in text
    assert len(a["foreign"]["face-expression"]["sha256"]) == 64
    assert "these clips may be among them" in a["foreign"]["face-expression"]["warning"]
    monkeypatch.setattr(sys, "argv", [*argv, "facenet", "x"])
    with pytest.raises(SystemExit): B.main()


def test_features_and_scores_of_a_network_of_others(tmp_path):
    write_expression(tmp_path, draw_expression())
    x, net = torch.rand(2, 3, 1, 64, 64), load_expression(tmp_path)
    with torch.no_grad(): y, f = B.expression(tmp_path)(x), net(x[:, :, 0])
    torch.testing.assert_close(y, torch.cat([f, net.scores(f)], 1))
