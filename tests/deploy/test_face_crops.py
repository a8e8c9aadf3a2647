"""The face tracker over a whole data set: the crops of predict, the list of the old set, clips without a face and
broken ones by name, an interrupted call that goes on; and `micacl check`, which says when faces are small."""
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import CLASSES
from micacl import cli
from micacl.core import MicaclError, read_json
from micacl.data.bags import frame_indices
from micacl.data.custom import further_columns
from micacl.data.frames import ClipError, read_frames
from micacl.data.load import check_dataset, load_table
from micacl.data.synfew.generate import encode
from micacl.deploy import faces as F
from micacl.deploy import predict as P
from micacl.deploy import tracking as T
from micacl.deploy.faces import about_small_faces, crop_clip, crop_faces, face_heights
from micacl.train.config import Config
from micacl.train.objective import build_model
from micacl.train.run import prepare_data

MINI = Path(__file__).parents[2] / "data" / "synfew-mini"
HEAD = ["path", "label", "split", "fold", "group", "clip", "votes"]


def inside(picture):
    "A detector that finds the pasted face by its colour, a little off the grey wall."
    off = (np.abs(picture.astype(int) - 110).max(2) > 40)
    rows, columns = np.flatnonzero(off.any(1)), np.flatnonzero(off.any(0))
    if len(rows) < 20: return []
    n = int(rows[-1] - rows[0]) * 3 // 4
    return [(int(columns.mean()) - n // 2, int(rows.mean()) - n // 2, n, n)]


def room(frame, x=100, n=72, width=240, height=180):
    wall = np.full((height, width, 3), 110, np.uint8)
    wall[60:60 + n, x:x + n] = T.fit_picture(frame, n)
    return wall


def write_rooms(home, wall=room):
    """Nine clips: faces small in their frames, in folds and groups, with votes; one without a face, one with a face in
    a few of its frames, one that broke off."""
    home.mkdir(parents=True)
    clips = load_table(MINI).select(split="train").clips[:6]
    rows = []
    for i, c in enumerate(clips):
        frames = np.stack([wall(x, 90 + i) for x in read_frames(c.path).numpy()[:12]])
        (home / f"Clip {i}.mp4").write_bytes(encode(frames, 18, 12))
        rows.append([f"Clip {i}.mp4", "xyz"[i % 3], "", i % 2 + 1, f"person {i // 2}", f"id/{i}", f"{i}:{9 - i}"])
    empty = np.full((36, *frames.shape[1:]), 110, np.uint8)
    part = np.concatenate([frames[:4], empty[:20]])
    for name, x in (("empty", empty), ("part", part)): (home / f"{name}.mp4").write_bytes(encode(x, 18, 12))
    (home / "cut.mp4").write_bytes((home / "Clip 1.mp4").read_bytes()[:-900])
    rows += [[f"{name}.mp4", "x", "", 1, "", name, ""] for name in ("empty", "part", "cut")]
    with open(home / "clips.csv", "w", newline="") as f: csv.writer(f).writerows([HEAD, *rows])
    return home


@pytest.fixture(scope="module")
def rooms(tmp_path_factory): return write_rooms(tmp_path_factory.mktemp("rooms") / "rooms")


@pytest.fixture(scope="module")
def whole(rooms):
    out = rooms.parent / "whole"
    return out, crop_faces(rooms, out, workers=1, detect=inside)


def content(out): return {p.name: p.read_bytes() for p in (out / "clips").iterdir()}


# ---- the crops are those of predict

def test_training_sees_what_predict_shows_to_the_model(rooms, monkeypatch):
    config, shown = Config(model="mean", pretrained=False), []
    run = build_model(config, 7).eval(), config, dict(classes=CLASSES, dataset="csv", epoch=1)
    score = P._score
    monkeypatch.setattr(P, "_score", lambda model, second, crops, device:
                        shown.extend(crops) or score(model, second, crops, device))
    for detect in (inside, lambda p: [(40, 60, 60, 60), (150, 20, 90, 90)]):
        shown.clear()
        P.predict_video(run, rooms / "Clip 2.mp4", window=0, detect=detect)
        clip = crop_clip(rooms / "Clip 2.mp4", config.image_size, detect=detect)
        assert np.array_equal(shown[0], clip.frames[frame_indices(len(clip.frames), 4, 4)])
    assert clip.several


def test_the_file_differs_little_from_the_crop(rooms, whole):
    clip, new = crop_clip(rooms / "Clip 0.mp4", detect=inside), load_table(whole[0])[0]
    stored = read_frames(new.path).numpy()
    assert new.id == "id/0" and stored.shape == clip.frames.shape == (12, 96, 96, 3)
    assert np.abs(stored.astype(int) - clip.frames).mean() < 2


def test_frames_without_a_face_are_left_out_and_half_of_them_is_enough(tmp_path):
    frames = [np.full((96, 128, 3), 110, np.uint8)] * 12
    (tmp_path / "x.mp4").write_bytes(encode(np.stack(frames), 18, 4))
    for n, is_whole in ((4, True), (3, False)):
        looks = iter(range(12))
        c = crop_clip(tmp_path / "x.mp4", 32, 0.01, lambda p, n=n, looks=looks: [(40, 30, 40, 40)] * (next(looks) < n))
        assert (len(c.frames), c.share, c.whole) == (n + 2, (n + 2) / 12, is_whole)      # two misses are bridged
    none = crop_clip(tmp_path / "x.mp4", 32, detect=lambda picture: [])
    assert none.frames.shape == (0, 32, 32, 3) and none.share == 0 and np.isnan(none.side) and not none.whole


def test_rate_size_and_height_are_those_of_the_clip(rooms):
    c = crop_clip(rooms / "Clip 0.mp4", 64, detect=lambda p: [(100, 60, 45, 45)])
    assert (c.rate, c.side, c.height, c.share, c.several) == (12, 45, 45 / 180, 1, False)


def test_a_damaged_clip_is_refused_as_in_training(rooms):
    with pytest.raises(ClipError): read_frames(rooms / "cut.mp4")
    with pytest.raises(ClipError, match="cut.mp4"): crop_clip(rooms / "cut.mp4", detect=inside)
    whole = (rooms / "Clip 1.mp4").read_bytes()
    hurt = rooms.parent / "hurt.mp4"
    hurt.write_bytes(whole[:3000] + bytes(b ^ 0x5A for b in whole[3000:4000]) + whole[4000:])
    with pytest.raises(ClipError): read_frames(hurt)
    with pytest.raises(ClipError, match="expected a complete video"): crop_clip(hurt, detect=inside)
    assert len(list(T.stream_frames(hurt))) > 0                              # predict reads what there is


def test_a_clip_that_would_fill_the_memory_is_named(rooms, monkeypatch):
    monkeypatch.setattr(F, "_MOST", 5 * 96 * 96 * 3)
    with pytest.raises(ClipError, match="at most 5 frames at 96 pixels"): crop_clip(rooms / "Clip 0.mp4", detect=inside)


# ---- the new set is the old one

def test_ids_labels_folds_groups_classes_and_columns_are_kept(rooms, whole):
    old, (out, _) = load_table(rooms), whole
    new = load_table(out)
    want = {c.id: (old.classes[c.label], c.split, c.fold, c.group) for c in old if c.id.startswith("id/")}
    assert {c.id: (new.classes[c.label], c.split, c.fold, c.group) for c in new} == want and len(want) == 6
    assert new.classes == old.classes == ("x", "y", "z") and not new.problems and new.dataset == "csv"
    columns = {k: v for k, v in further_columns(old)["votes"].items() if k in want}
    assert further_columns(new) == dict(votes=columns) and columns["id/4"] == "4:5"
    check = check_dataset(out, decode=read_frames)
    assert check.ok and not check.problems


def test_a_training_divides_it_as_it_divides_the_old_one(tmp_path):
    home = write_rooms(tmp_path / "home")
    for name in ("empty", "part", "cut"): (home / f"{name}.mp4").unlink()
    crop_faces(home, tmp_path / "out", workers=1, detect=inside, size=32)
    config = Config(image_size=32, val_fraction=0.3)
    parts = [prepare_data(d, tmp_path, config, 1, quiet=True) for d in (home, tmp_path / "out")]
    ids = [[[c.id for c in part] for part in (d.train, d.validation, *d.tests.values())] for d in parts]
    assert ids[0] == ids[1] and ids[0][0] and ids[0][2]


def test_a_list_without_a_split_keeps_the_one_it_was_given(tmp_path):
    home = write_rooms(tmp_path / "home")
    rows = [f"Clip {i}.mp4,{'ab'[i % 2]}" for i in range(6)]
    (home / "clips.csv").write_text("\n".join(["path,label", *rows]))
    crop_faces(home, tmp_path / "out", workers=1, detect=inside, size=32)
    assert [(c.id, c.split) for c in load_table(tmp_path / "out")] == [(c.id, c.split) for c in load_table(home)]


def test_a_drawn_set_becomes_a_list_with_its_votes(data, tmp_path):
    crop_faces(data, tmp_path / "out", workers=1, size=32, detect=lambda p: [(6, 6, 22, 22)])
    old, new = load_table(data), load_table(tmp_path / "out")
    assert [(c.id, c.label, c.split, c.fold, c.group) for c in new] == [(c.id, c.label, c.split, c.fold, c.group)
                                                                        for c in old]
    assert (tmp_path / "out/votes.csv").read_bytes() == (data / "votes.csv").read_bytes()
    strength = further_columns(new)["strength"]
    assert strength == further_columns(old)["strength"] and len(set(strength.values())) > 5
    assert (new.dataset, "clean_label" in further_columns(new)) == ("csv", False)


# ---- what is said

def test_clips_without_a_face_and_broken_ones_are_named(whole):
    out, r = whole
    assert list(r.without_face) == ["empty", "part"] and list(r.broken) == ["cut"] and (r.clips, r.written) == (9, 6)
    text = str(r)
    assert "no face: empty: a face in 0 % of its frames; left out" in text and "broken: cut: expected" in text
    assert f"{out}: 6 of 9 clips at 96 pixels; 2 without a face, left out; 1 broken, left out" in text
    assert f"{r.side:.0f} pixels wide in the median" in text and f"{100 * r.height:.0f} % of the frame's height" in text
    assert 0.2 < r.height < 0.45 and r.side == pytest.approx(180 * r.height, abs=1)
    assert read_json(out / "faces.json") == r.to_dict()


def test_clips_without_a_face_are_kept_where_that_is_asked_for(rooms, whole, tmp_path):
    r = crop_faces(rooms, tmp_path / "out", without_face="keep", workers=1, detect=inside, size=64)
    assert r.written == 8 and r.kept and "kept uncut" in str(r)
    kept = next(c for c in load_table(tmp_path / "out") if c.id == "part")
    want = np.stack([T.fit_picture(x, 64) for x in read_frames(rooms / "part.mp4").numpy()])
    assert np.abs(read_frames(kept.path).numpy().astype(int) - want).mean() < 2


def test_skipped_clips_can_be_asked_for_later(rooms, tmp_path):
    crop_faces(rooms, tmp_path / "out", workers=1, detect=inside, size=32)
    r = crop_faces(rooms, tmp_path / "out", without_face="keep", workers=1, detect=inside, size=32)
    assert (r.done, r.written) == (2, 8) and len(load_table(tmp_path / "out")) == 8
    r = crop_faces(rooms, tmp_path / "out", workers=1, detect=inside, size=32)
    assert (r.done, r.written) == (0, 6) and len(load_table(tmp_path / "out")) == 6


def test_a_set_without_a_single_face_is_an_error(rooms, tmp_path):
    with pytest.raises(MicaclError, match="expected a face in some clips, found none in 9.*faces already"):
        crop_faces(rooms, tmp_path / "out", workers=1, detect=lambda p: [], size=32)


# ---- stopped, and gone on with

class Stop:
    "A detector that is interrupted at its n-th look."
    def __init__(self, n): self.n = n
    def __call__(self, picture):
        self.n -= 1
        if self.n < 0: raise KeyboardInterrupt
        return inside(picture)


def test_an_interrupted_call_goes_on_and_gives_the_same_files(rooms, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): crop_faces(rooms, tmp_path / "out", workers=1, detect=Stop(13))
    half = content(tmp_path / "out")
    assert 1 <= len(half) < 6 and not (tmp_path / "out/clips.csv").exists()      # no data set before all is there
    r = crop_faces(rooms, tmp_path / "out", workers=1, detect=inside)
    assert r.done == 9 - len(half) and content(tmp_path / "out") == content(whole[0])
    assert (tmp_path / "out/clips.csv").read_bytes() == (whole[0] / "clips.csv").read_bytes()
    assert {**r.to_dict(), "done": 0, "out": ""} == {**whole[1].to_dict(), "done": 0, "out": ""}


def test_a_call_that_was_stopped_before_the_first_clip_goes_on(rooms, tmp_path):
    with pytest.raises(KeyboardInterrupt): crop_faces(rooms, tmp_path / "out", workers=1, detect=Stop(0), size=32)
    assert crop_faces(rooms, tmp_path / "out", workers=1, detect=inside, size=32).written == 6


def test_what_is_there_is_not_done_again_and_what_is_not_is(rooms, tmp_path):
    out = tmp_path / "out"
    home = write_rooms(tmp_path / "home")
    def again(): return crop_faces(home, out, workers=1, detect=inside, size=32).done
    assert (again(), again()) == (9, 0)
    journal = out / "faces.jsonl"
    text = journal.read_text(); journal.write_text(text[:text.rindex("{") + 40])                 # a torn line
    assert (again(), again()) == (1, 0)
    before = content(out)
    next((out / "clips").glob("*.mp4")).unlink()
    assert again() == 1 and content(out) == before
    (home / "Clip 3.mp4").write_bytes((home / "Clip 4.mp4").read_bytes())                      # another recording
    assert (again(), again()) == (1, 0) and content(out) != before


def test_a_file_is_whole_or_not_there(rooms, tmp_path, monkeypatch):
    def full(frames, crf, fps): raise OSError(28, "No space left on device")
    monkeypatch.setattr(F, "encode", full)
    with pytest.raises(MicaclError, match="No space left on device.*same command again"):
        crop_faces(rooms, tmp_path / "out", workers=1, detect=inside)
    assert not content(tmp_path / "out")
    monkeypatch.undo()
    assert crop_faces(rooms, tmp_path / "out", workers=1, detect=inside).written == 6


@pytest.mark.parametrize("options, says", [
    (dict(size=64), "cut differently.*size=96 there and 64 here"), (dict(every=1.0), "every=0.25 there and 1.0 here"),
    (dict(size=50), "size: expected a multiple of 4"), (dict(size=2000), "size: expected"),
    (dict(without_face="ask"), "without_face: expected skip or keep, found 'ask'")])
def test_other_settings_are_refused(rooms, whole, options, says):
    before = content(whole[0])
    with pytest.raises(MicaclError, match=says) as e: crop_faces(rooms, whole[0], detect=inside, **options)
    assert content(whole[0]) == before and "\n" not in str(e.value)


def test_a_folder_of_something_else_is_left_alone(rooms, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(MicaclError, match="expected an empty folder.*letter.txt"):
        crop_faces(rooms, tmp_path, detect=inside)
    for inner in (rooms, rooms / "faces"):
        with pytest.raises(MicaclError, match="outside the data"): crop_faces(rooms, inner, detect=inside)
    assert not (rooms / "faces").exists()


def test_names_of_files_are_never_shared(tmp_path):
    ids = ["a/b", "a_b", "A_b", "a b.mp4", "é", "e", "." * 3, "x" * 300, "x" * 301, "快", "con"]
    table = [type("C", (), dict(id=i))() for i in ids]
    names = F._file_names(table)
    assert len({n.lower() for n in names.values()}) == len(ids) and names["a_b"] == "a_b.mp4"
    assert all(n.isascii() and len(n) < 90 and n[0] not in ".-" for n in names.values())


def test_several_processes_give_the_same_files(rooms, tmp_path):
    pytest.importorskip("dlib")
    one, two = (crop_faces(rooms, tmp_path / str(n), workers=n, size=32, without_face="keep") for n in (1, 2))
    assert content(tmp_path / "1") == content(tmp_path / "2") and one.written == two.written == 8
    assert one.side == two.side


def test_a_missing_detector_is_named(rooms, tmp_path, monkeypatch):
    T.dlib_detector.cache_clear(); monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MicaclError, match=r'faces: expected dlib.*pip install "micacl\[predict\]"'):
        crop_faces(rooms, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    T.dlib_detector.cache_clear()


# ---- the commands

def wide(frame, x=0): return room(frame, 2 * x, 150, 480, 360)


def test_check_says_when_faces_are_small_and_faces_mends_it(tmp_path, capsys):
    pytest.importorskip("dlib")
    home = write_rooms(tmp_path / "home", wide)
    for name in ("part", "cut"): (home / f"{name}.mp4").unlink()
    assert cli.main(["check", str(home)]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "of the frame's height" in x)
    assert line.startswith("note: the face fills ") and f"micacl faces {home} OUT" in line
    share = int(line.split("fills ")[1].split(" %")[0])
    assert 25 <= share <= 42          # 150 of 360 rows, of which the detector's box is three quarters
    assert cli.main(["faces", str(home), str(tmp_path / "out"), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "no face: empty" in out and "of the frame's height" in out
    assert f"Next: micacl check {tmp_path / 'out'}" in out
    assert cli.main(["check", str(tmp_path / "out")]) == 0 and "micacl faces" not in capsys.readouterr().out
    assert cli.main(["check", str(home), "--json"]) == 0
    assert any("micacl faces" in n for n in json.loads(capsys.readouterr().out)["notes"])
    assert cli.main(["faces", str(home), str(tmp_path / "out"), "--size", "64"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "cut differently" in err


def test_check_says_nothing_of_faces_that_fill_the_frame_or_without_a_detector(rooms, capsys, monkeypatch):
    pytest.importorskip("dlib")
    assert not about_small_faces(load_table(MINI))
    T.dlib_detector.cache_clear(); monkeypatch.setitem(sys.modules, "dlib", None)
    assert about_small_faces(load_table(rooms)) == [] and cli.main(["check", str(rooms)]) == 0
    out = capsys.readouterr().out
    assert "micacl faces" not in out and "usable" in out
    T.dlib_detector.cache_clear()


def test_the_look_is_short_and_passes_over_what_is_broken(rooms):
    table = load_table(rooms)
    found = face_heights(table, detect=inside)
    assert len(found) == 6 and all(0.2 < h < 0.45 for h in found)    # empty, part, cut: no face there, or no frame
    assert face_heights(table, n=3, detect=inside) == face_heights(table, n=3, detect=inside)
    start = time.perf_counter()
    def slow(picture): time.sleep(0.2); return [(0, 0, 9, 9)]
    assert 1 <= len(face_heights(table, seconds=0.3, detect=slow)) < 5 and time.perf_counter() - start < 3


def test_torch_gets_its_threads_back(rooms):
    torch.set_num_threads(2)
    try:
        F._record(F._Job(32, 0.25, False, inside), ("x", rooms / "Clip 0.mp4", rooms.parent / "x.mp4"))
        assert torch.get_num_threads() == 2
    finally: torch.set_num_threads(1)
