"What the readers of published sets take for a list, a folder of clips and a row, by hand."
import os
import types
from pathlib import Path

import pytest

from micacl.core import MicaclError
from micacl.data import readers
from micacl.data.readers import (DFEW_CLIPS, DFEW_LISTS, FERV_CLIPS, MAFW_CLIPS, clip_homes, find_lists, numbered_clips,
                                 walk_folders)
from micacl.data.table import Intake
from test_load import write


# ---------------------------------------------------------------- folders

def test_folders_are_walked_to_a_depth_and_past_clips(tmp_path):
    write(tmp_path, {"1/2/x.txt": "", "a/b/c/d/e/f/x.txt": "", "a/.hidden/x.txt": "",
                     **{f"few/{i:02d}x/y.txt": "" for i in range(64)},
                     **{f"many/{i:02d}x/y.txt": "" for i in range(65)},
                     "next/in/x.txt": ""})
    below = [os.path.relpath(d, tmp_path).replace(os.sep, "/") for d, _ in walk_folders(tmp_path)]
    assert below[:5] == [".", "a", "few", "many", "next"] and "next/in" in below
    assert "1" not in below and "a/.hidden" not in below
    assert "a/b/c/d" in below and "a/b/c/d/e" not in below
    assert "few/63x" in below and not any(d.startswith("many/") for d in below)
    assert dict(walk_folders(tmp_path))[f"{tmp_path}/a/b"] == ["c"]
    assert len(walk_folders(tmp_path, depth=0)) == 1 and len(walk_folders(tmp_path, depth=1)) == 5


def test_the_top_folder_may_hold_a_thousand_entries_and_a_disk_is_not_searched(monkeypatch):
    asked = []
    def tree(*wide):
        def entries(folder):
            asked.append(folder)
            n = wide[folder.count("/") - 1] if folder.count("/") <= len(wide) else 0
            return [types.SimpleNamespace(name=f"d{i:04d}", is_dir=lambda: True) for i in range(n)]
        return entries
    monkeypatch.setattr(readers, "visible_entries", tree(1000))
    assert len(walk_folders("/r")) == 1001
    monkeypatch.setattr(readers, "visible_entries", tree(1001))
    assert len(walk_folders("/r")) == 1
    monkeypatch.setattr(readers, "visible_entries", tree(1, 65))
    assert len(walk_folders("/r")) == 2                            # no other folder may
    monkeypatch.setattr(readers, "visible_entries", tree(100, 60, 1))
    assert len(walk_folders("/r")) == 1 + 100 + 6000               # the folders below are not looked at
    monkeypatch.setattr(readers, "visible_entries", tree(100, 48, 1, 1))
    assert len(walk_folders("/r")) == 1 + 100 + 4800 + 4800        # 4901 are few enough to go on, 9701 are not
    for last, n in ((4, 5001), (3, 5000 + 3999)):                  # so are 5001, and 5000 are not
        wide = lambda d, last=last: {1: 1000, 2: last if d.endswith("d0999") else 4, 3: 1}.get(d.count("/"), 0)
        monkeypatch.setattr(readers, "visible_entries", lambda d, wide=wide: [
            types.SimpleNamespace(name=f"d{i:04d}", is_dir=lambda: True) for i in range(wide(d))])
        assert len(walk_folders("/r")) == n


def test_a_folder_that_cannot_be_listed_is_empty(monkeypatch, tmp_path):
    def refuse(folder): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(readers, "visible_entries", refuse)
    assert walk_folders(tmp_path) == [(str(tmp_path), [])]
    def is_dir(): raise OSError
    assert readers._is_dir(types.SimpleNamespace(is_dir=is_dir)) is False


# ---------------------------------------------------------------- lists

@pytest.mark.parametrize("patterns, file, key", [
    ("DFEW_LISTS", "Emo/train(single-labeled)/set_3.csv", ("train", 3)),
    ("DFEW_LISTS", "Emo/test_single/SET5.CSV", ("test", 5)),
    ("DFEW_LISTS", "Emo/train/set_1.csv", ("train", 1)), ("DFEW_LISTS", "test/set2.csv", ("test", 2)),
    ("DFEW_LISTS", "annotation/DFEW_set_2_test.txt", ("test", 2)),
    ("DFEW_LISTS", "set4_train(single).txt", ("train", 4)),
    ("DFEW_LISTS", "dfew/org/split_02/val.csv", ("test", 2)),
    ("DFEW_LISTS", "lists/DFEW/split5/train.csv", ("train", 5)),
    ("DFEW_LISTS", "dfew/split03/test.csv", ("test", 3)),
    ("DFEW_LISTS", "annotation/MAFW_set_1_train.txt", None), ("DFEW_LISTS", "train/set_6.csv", None),
    ("DFEW_LISTS", "train/set_1.xlsx", None), ("DFEW_LISTS", "train(multi-labeled)/set_1.csv", None),
    ("DFEW_LISTS", "mafw/split1/train.csv", None), ("DFEW_LISTS", "train/more/set_1.csv", None),
    ("MAFW_LISTS", "single/no_caption/set_2/train.txt", ("train", 2)),
    ("MAFW_LISTS", "x/Single/no_caption/set5/test.csv", ("test", 5)),
    ("MAFW_LISTS", "annotation/MAFW_set_1_test.txt", ("test", 1)),
    ("MAFW_LISTS", "mafw_x_set3_train_1.txt", ("train", 3)),
    ("MAFW_LISTS", "MAFW/split4/val.csv", ("test", 4)), ("MAFW_LISTS", "single/with_caption/set_2/train.txt", None),
    ("MAFW_LISTS", "dfew/split1/train.csv", None),
    ("FERV_LISTS", "4_setups/All_scenes/train_All.csv", ("train", 0)),
    ("FERV_LISTS", "all_SCENES/test_all.csv", ("test", 0)),
    ("FERV_LISTS", "annotation/FERV39K_test.txt", ("test", 0)), ("FERV_LISTS", "ferv39k_new_train_2.txt", ("train", 0)),
    ("FERV_LISTS", "lists/ferv39k/all_scenes/test.csv", ("test", 0)), ("FERV_LISTS", "all_scenes/test.csv", None),
    ("FERV_LISTS", "4_setups/Action/train_Action.csv", None)])
def test_which_files_are_lists(patterns, file, key):
    patterns, (folder, _, name) = getattr(readers, patterns), f"/r/{file}".rpartition("/")
    assert find_lists([(folder, ["readme.md", name])], patterns) == ({} if key is None else {key: Path(f"/r/{file}")})


def test_earlier_patterns_win_and_val_stands_in_for_test():
    walk = [("/r/dfew/split1", ["train.csv", "val.csv"]), ("/r/test", ["set_1.csv"]),
            ("/r/train_single", ["set_1.csv"])]
    assert find_lists(walk, DFEW_LISTS) == {("train", 1): Path("/r/train_single/set_1.csv"),
                                            ("test", 1): Path("/r/test/set_1.csv")}
    assert find_lists(walk[:1], DFEW_LISTS) == {("train", 1): Path("/r/dfew/split1/train.csv"),
                                                ("test", 1): Path("/r/dfew/split1/val.csv")}
    both = find_lists([("/r/dfew/split1", ["test.csv", "val.csv"])], DFEW_LISTS)
    assert both == {("test", 1): Path("/r/dfew/split1/test.csv")}


# ---------------------------------------------------------------- clips

@pytest.mark.parametrize("home", ["clip_224x224", "clip_224x224_avi", "jpg_256", "clip_224x224_16f", "original",
                                  "faces", "clips_faces", "frames", "clips", "2_ClipsforFaceCrop"])
def test_clips_lie_in_folders_of_known_names_and_those_inside_them(home):
    walk = [("/r", []), ("/r/x", []), (f"/r/x/{home.upper()}", []), (f"/r/x/{home}/in", []),
            (f"/r/x/{home}/in/deep", [])]
    known = next(k for k in (DFEW_CLIPS, MAFW_CLIPS, FERV_CLIPS) if home.lower() in map(str.lower, k))
    assert list(clip_homes(walk, known)) == [f"/r/x/{home.upper()}", f"/r/x/{home}/in"]
    assert list(clip_homes([(f"/{home.upper()}", [])], (home,))) == [f"/{home.upper()}"]        # the data folder itself


def test_numbered_clips_by_hand():
    walk = [("/r", []), ("/r/original", ["00002.mp4", "1.mp4"]), ("/r/clip_224x224", ["notes.txt"]),
            ("/r/jpg_256", ["00007", "7.txt", "008.avi", "8.txt", "x9.mp4", "9"])]
    assert numbered_clips(walk, DFEW_CLIPS) == (Path("/r/jpg_256"), {7: "00007", 8: "008.avi", 9: "9"})
    assert numbered_clips(walk[:3], DFEW_CLIPS) == (Path("/r/original"), {2: "00002.mp4", 1: "1.mp4"})
    assert numbered_clips(walk[:1], DFEW_CLIPS) == (None, {})


def test_what_to_do_where_no_clips_are():
    why = lambda *names: readers._why_none([("/r", []), ("/r/x", list(names))], ())
    assert why() == why("a.mp4") == "; unpack the clips there" and why("a.ZIP") == "; unpack x/a.ZIP"
    assert why("1.zip", "2.rar", "3.7z") == "; unpack x/1.zip, x/2.rar, x/3.7z"
    assert why("1.tar", "2.tar.gz", "3.zip", "4.zip") == "; unpack x/1.tar, x/2.tar.gz, x/3.zip ..."
    gone = readers._why_none([("/gone", []), ("/gone/original", [])], DFEW_CLIPS)
    assert gone == f"; original cannot be read ({os.strerror(2)}): check who may read it"


# ---------------------------------------------------------------- rows

@pytest.mark.parametrize("row, want", [
    (["x/1", "77", "3"], "x/1"), (["x/1", "3"], "x/1"), (["1.mp4", "3"], "1.mp4"), (["a", "b", "3"], ""),
    (["/x", "y/1", "3"], "/x y/1"), (["/x", "y/1", "77", "3"], "/x y/1"), (["D:\\my", "x\\1", "3"], "D:/my x/1"),
    (["1", "2"], "1"), (["a", "77.0", "3"], "a"), (["x"], "")])
def test_the_path_of_a_row(row, want): assert readers._path_of(row) == want


@pytest.mark.parametrize("path, want", [("00025.mp4", 25), ("/x/00001/", 1), ("clip12", 12),
                                        ("clipX7.mp4", 7), ("a/b7.x.mp4", 7),
                                        ("x", None),
                                        ("", None), ("7x", None), ("123456789", 123456789), ("1234567890", None),
                                        ("a.7", None), ("5/x", None), ("/my.data/00007.mp4", 7),
                                        ("/x/7X", None)])
def test_the_number_of_a_clip(path, want): assert readers._number(path) == want


@pytest.mark.parametrize("file, row, want", [
    ("a.csv", ["1", "1"], (1, 0)), ("a.CSV", ["00002", "7.0"], (2, 6)), ("a.txt", ["3", "0"], (3, 0)),
    ("a.txt", ["/x/3", "77", "6"], (3, 6)), ("a.csv", ["/x/3", "0"], (3, 0)), ("a.csv", ["/x/3", "6"], (3, 6)),
    ("a.txt", ["/my", "data/3", "77", "6"], (3, 6)), ("a.csv", ["D:\\x.y\\3", "0"], (3, 0)),
    ("a.csv", ["9", "0"], ("label 0, expected 1..7 (happy .. fear)", "label")),
    ("a.csv", ["9", "8"], ("label 8, expected 1..7 (happy .. fear)", "label")),
    ("a.txt", ["9", "7"], ("label 7, expected 0..6 (happy .. fear)", "label")),
    ("a.txt", ["9", "-1"], ("label -1, expected 0..6 (happy .. fear)", "label")),
    ("a.csv", ["9", "sad"], ("label sad, expected 1..7 (happy .. fear)", "label")),
    ("a.csv", ["9"], ("label missing, expected 1..7 (happy .. fear)", "label")),
    ("a.csv", ["x", "1"], ("expected a clip number and a label, found 'x 1'", "row")),
    ("a.csv", ["a", "b", "1"], ("expected a clip number and a label, found 'a b 1'", "row"))])
def test_rows_of_dfew(file, row, want):
    assert readers._dfew_row(Path(file), row) == ((*want, None) if isinstance(want[0], int) else (None, None, want))


@pytest.mark.parametrize("row, want", [
    (["00025.mp4", "anger"], (25, 0)), (["/x/7", "30", "10"], (7, 10)), (["3", "Disappointment"], (3, 10)),
    (["3", "happiness"], (3, 3)), (["3", "Happy"], (3, 3)),
    (["7"], ("expected '00025.mp4 anger', found '7'", "row")),
    (["x.mp4", "anger"], ("expected '00025.mp4 anger', found 'x.mp4 anger'", "row")),
    (["3", "11"], ("label 11 is out of range, expected 0..10 (0 = anger)", "label"))])
def test_rows_of_mafw(row, want):
    assert readers._mafw_row(None, row) == ((*want, None) if isinstance(want[0], int) else (None, None, want))


@pytest.mark.parametrize("row, id, label, fault", [
    (["Action/Sad/0010", "Sad"], ["Action", "Sad", "0010"], 1, None),
    (["/x/y/Action/Sad/0010/", "28", "1"], ["Action", "Sad", "0010"], 1, None),
    (["XAction/Sad/0010X", "Sad"], ["XAction", "Sad", "0010X"], 1, None),
    (["Action/other/0010", "3"], ["Action", "other", "0010"], 3, None),
    (["Sad/0010", "Sad"], ["Sad", "0010"], None, ("expected 'Action/Sad/0010 Sad', found 'Sad/0010 Sad'", "row")),
    (["Action/Sad/0010", "7"], ["Action", "Sad", "0010"], None,
     ("label 7 is out of range, expected 0..6 (0 = happy)", "label")),
    (["Action/Angry/0010", "0"], ["Action", "Angry", "0010"], None,
     ("label 0 is happy here, but the clip lies in Angry; numbers count happy, sad, neutral, angry, surprise, disgust, "
      "fear from 0", "contradiction")),
    (["Action/Angry/0010", "Happy"], ["Action", "Angry", "0010"], 0, None)])
def test_rows_of_ferv39k(row, id, label, fault): assert readers._ferv_row(row) == (id, label, fault)


@pytest.mark.parametrize("head, row, want", [
    (["label", "video_name"], ["3", "7"], ["7", "3"]), (["video_name", "label", "x"], ["7", "3", "web"], ["7", "3"]),
    (["", "frames", "name", "label"], ["0", "16", "7", "3"], ["7", "3"]), (["name", "label"], ["7"], ["7"]),
    (["name", "label"], ["7", "3", "x"], ["7", "3", "x"]), (["name", "y"], ["7", "3"], ["7", "3"]),
    (["label", "frames"], ["3", "16"], ["3", "3"]), (["name", "label", "x"], ["7", "3"], ["7", "3"])])
def test_columns_in_the_order_of_a_header(head, row, want): assert readers._in_order(head, row) == want


def listed(tmp_path, text):
    (tmp_path / "l.csv").write_text(text, encoding="utf-8")
    take = Intake(tmp_path, "skip")
    return readers._list_rows(tmp_path / "l.csv", take), [f"{p} ({p.kind})" for p in take.problems]


def test_rows_of_a_list_with_and_without_a_header(tmp_path):
    assert listed(tmp_path, "Label,Name\n3,7\n4,8\n") == ([(2, ["7", "3"]), (3, ["8", "4"])], [])
    assert listed(tmp_path, "7,3,,\n8,,,\n") == ([(1, ["7", "3"]), (2, ["8"])], [])
    empty = ["l.csv: expected a line for each clip, found none; copy the list again (list)"]
    assert listed(tmp_path, "") == listed(tmp_path, "name,label\n") == ([], empty)
    rows, said = listed(tmp_path, "a\0bcdefg")
    assert rows == [] and len(said) == 1 and "zero byte" in said[0]             # one fault is enough


# ---------------------------------------------------------------- folds

def folds(tmp_path, **lists):
    "train1='1 0;2 1' is the list to train on of fold 1 -> what `_folds` makes of all, problems, notes."
    files = {(k[:-1], int(k[-1])): tmp_path / f"{k}.txt" for k in lists}
    for (part, k), file in files.items(): file.write_text(lists[f"{part}{k}"].replace(";", "\n"), encoding="utf-8")
    take = Intake(tmp_path, "skip")
    first, fold = readers._folds(take, files, readers._dfew_row)
    said = [(p.where, p.message, p.kind) for p in take.problems]
    return {n: y for n, (_, y) in first.items()}, fold, said, take.notes


def test_folds_by_hand(tmp_path):
    assert folds(tmp_path, train1="1 0;2 1", test1="3 2", train2="3 2", test2="1 0;2 1") == (
        {1: 0, 2: 1, 3: 2}, {1: 2, 2: 2, 3: 1}, [], [])


def test_a_row_that_cannot_be_read_leaves_the_others(tmp_path):
    labels, fold, said, _ = folds(tmp_path, train1="1 0;x 9;2 1;3 7", test1="4 0")
    assert labels == {1: 0, 2: 1, 4: 0} and fold == {4: 1} and said == [
        ("train1.txt:2", "expected a clip number and a label, found 'x 9'", "row"),
        ("train1.txt:4", "label 7, expected 0..6 (happy .. fear)", "label")]


def test_what_does_not_fit_together_is_named(tmp_path):
    labels, fold, said, notes = folds(tmp_path, train1="1 0;1 0;2 1;3 2", test1="3 2;4 3", test2="2 5;4 3;1 0")
    assert labels == {1: 0, 2: 5, 3: 2, 4: 3} and fold == {1: 2, 2: 2, 3: 1, 4: 1}       # lists of tests come first
    assert sorted(said) == [
        ("fold 1", "clip 00003 stands in the train and the test list; it is only tested", "contradiction"),
        ("test2.txt:2", "clip 00004 is tested in fold 1 already; it stays there", "contradiction"),
        ("train1.txt:2", "clip 00001 stands in this list twice; remove one line", "duplicate"),
        ("train1.txt:3", "clip 00002 has another label at test2.txt:1; the label there is used", "contradiction")]
    assert notes == []
    *_, said, notes = folds(tmp_path, train1="1 0", test1="2 0", train2="2 0;3 0", test2="1 0", train3="1 0;2 0;3 0")
    assert said == [] and notes == ["fold 1: 1 clip stands in neither list of this fold and is trained on"]


def test_the_folder_with_the_scenes():
    walk = [("/r", ["a"]), ("/r/a", ["Action", "Crime"]), ("/r/2_ClipsforFaceCrop", ["Action"]),
            ("/r/x/2_ClipsforFaceCrop", ["Action", "Crime"])]
    assert readers._ferv_home(walk, {"Action", "Crime"}) == "x/2_ClipsforFaceCrop"
    assert readers._ferv_home(walk[:3], {"Action", "Crime"}) == "2_ClipsforFaceCrop"      # known names before others
    fewer = [("/r", []), ("/r/2_ClipsforFaceCrop", ["Action", "Crime"]), ("/r/x/2_ClipsforFaceCrop", ["Action"])]
    assert readers._ferv_home(fewer, {"Action", "Crime"}) == "2_ClipsforFaceCrop"
    assert readers._ferv_home(walk[:2], {"Action", "Crime"}) == "a" and readers._ferv_home(walk[:1], {"Action"}) is None


# ---------------------------------------------------------------- whole sets

def five_folds(root, read):
    take = Intake(root, "skip")
    table = read(root, take)
    return table, [(p.where, p.message, p.kind) for p in table.problems]


def test_lists_without_clips_are_one_problem(tmp_path):
    dfew = write(tmp_path / "dfew", {"train/set_1.csv": "1,1\n", "test/set_1.csv": "2,2\n"})
    table, said = five_folds(dfew, readers.read_dfew)
    assert len(table) == 0 and table.dataset == "dfew" and len(table.classes) == 7
    assert said == [(str(dfew), "expected a folder of clips named clip_224x224 or clip_224x224_avi or jpg_256 or "
                                "clip_224x224_16f or original, found none with numbered clips; unpack the clips there",
                     "list")]
    ferv = write(tmp_path / "ferv", {"All_scenes/train_All.csv": "Action/Sad/0001 Sad\n", "x.zip": "",
                                     "2_ClipsforFaceCrop/no.txt": ""})
    table, said = five_folds(ferv, readers.read_ferv39k)
    assert len(table) == 0 and table.dataset == "ferv39k" and len(table.classes) == 7
    assert said == [(str(ferv), "expected a folder 2_ClipsforFaceCrop with the scenes of the lists, found none; unpack "
                                "x.zip", "list")]


def test_a_clip_that_is_never_tested_has_no_fold_and_one_that_is_gone_is_named(tmp_path):
    root = write(tmp_path, {"train/set_1.csv": "1,1\n3,2\n4,4\n", "test/set_1.csv": "2,2\n", "original/1.mp4": "",
                            "original/00002.mp4": "", "original/00004": ""})
    table, said = five_folds(root, readers.read_dfew)
    assert [(c.id, c.path.name, c.label, c.split, c.fold) for c in table] == [
        ("00001", "1.mp4", 0, "", -1), ("00002", "00002.mp4", 1, "", 1), ("00004", "00004", 3, "", -1)]
    assert said == [("train/set_1.csv:2", "expected original/00003, found no such file or folder; unpack the clips or "
                                          "correct the path", "missing")]


def test_a_clip_of_both_lists_of_ferv39k_is_trained_on(tmp_path):
    root = write(tmp_path, {"All_scenes/train_All.csv": "Action/Sad/0001 Sad\nAction/Sad/0002 joy\n",
                            "All_scenes/test_All.csv": "Action/Sad/0001 Sad\nAction/Fear/0003 Fear\n",
                            "2_ClipsforFaceCrop/Action/Sad/0001/1.jpg": "",
                            "2_ClipsforFaceCrop/Action/Fear/0003.avi": ""})
    table, said = five_folds(root, readers.read_ferv39k)
    assert [(c.id, c.path.name, c.label, c.split) for c in table] == [("Action/Sad/0001", "0001", 1, "train"),
                                                                      ("Action/Fear/0003", "0003.avi", 6, "test")]
    assert [(where, kind) for where, _, kind in said] == [("train_All.csv:2", "label"), ("test_All.csv:1", "duplicate")]
    assert table.dataset == "ferv39k" and said[1][1] == ("clip Action/Sad/0001 stands at train_All.csv:1 already; "
                                                         "remove one of the two")


@pytest.mark.parametrize("read, said", [
    (readers.read_dfew, "expected dfew's list files (set_1 .. set_5), found none; see data/README.md for the layout"),
    (readers.read_mafw, "expected mafw's list files (set_1 .. set_5), found none; see data/README.md for the layout"),
    (readers.read_ferv39k, "expected 4_setups/All_scenes/train_All.csv and test_All.csv, found neither; see "
                           "data/README.md for the layout")])
def test_a_set_without_lists_is_refused(tmp_path, read, said):
    with pytest.raises(MicaclError) as e: read(tmp_path, Intake(tmp_path, "skip"))
    assert str(e.value) == f"{tmp_path}: {said}"


def test_the_classes_of_mafw(tmp_path):
    root = write(tmp_path, {"single/no_caption/set_1/train.txt": "1.mp4 contempt\n2.mp4 helplessness\n3.mp4 anxiety\n",
                            **{f"clips/{i:05d}.mp4": "" for i in (1, 2, 3)}})
    table, said = five_folds(root, readers.read_mafw)
    assert table.classes == ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt",
                             "anxiety", "helplessness", "disappointment") and table.dataset == "mafw"
    assert table.labels.tolist() == [7, 9, 8] and not said
