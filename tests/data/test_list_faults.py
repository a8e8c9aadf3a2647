"""What other people's lists and folders bring along: rows that are lost, labels as floats, hidden files, pipes,
quotes; and tables that come back as they were written."""
import contextlib
import os
import random
import signal
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from micacl.data import table as clips
from micacl.data import custom
from micacl.data import load as datasets
from micacl.data import readers as lists
from micacl.data.table import (PROBLEM_KINDS, Clip, ClipTable, Intake, Problem, carve_validation, declared_classes,
                               divided_groups, make_folds, parse_label, plain_label, write_clips)
from micacl.core import EMOTIONS, MicaclError
from micacl.data.load import check_dataset, load_table
from micacl.data.rows import cell_text, is_missing
from test_load import FOLD, LABELS, dfew_clips, dfew_lists, ferv_clips, ferv_lists, mafw_clips, mafw_lists, write

SHELL = dict(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow,
    HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])


def own(root, text, n=12, name="clips.csv"):
    "A folder with clips 0.mp4 ... and a list."
    return write(root, {name: text, **{f"{i}.mp4": b"x" for i in range(n)}})


def rows(n=12, labels=("happy", "sad"), head="path,label\n"):
    return head + "".join(f"{i}.mp4,{labels[i % len(labels)]}\n" for i in range(n))


@contextlib.contextmanager
def soon(seconds=5):
    "Whatever hangs is an error."
    def late(*_): raise TimeoutError(f"more than {seconds} s")
    before = signal.signal(signal.SIGALRM, late); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------- a refused row makes no class, and is named

@pytest.mark.parametrize("more, kinds", [
    ("path,label\n", ["row"]), ("PATH , Label\n", ["row"]), ("label,path\nsad,1.mp4\n", ["row", "duplicate"]),
    ("a,b.mp4,happy\n", ["row"]), ("0.mp4,happy,extra\n", ["row"]),
    ("gone.mp4,contempt\n", ["missing"]), ("0.mp4,contempt\n", ["label"]), ("0.mp4,sad\n", ["duplicate"]),
    ("../x.mp4,contempt\n", ["outside"]), ("0.mp4\n", ["label"]), (",contempt\n", ["row"]),
    ("gone.mp4,contempt\n" * 3, ["missing"] * 3), ("gone.mp4,7\ngone.mp4,8\n", ["missing"] * 2),
    ("0.mp4,happy,,,\n", ["duplicate"]), ("._0.mp4,contempt\n", ["row"])])
def test_a_refused_row_makes_no_class(tmp_path, more, kinds):
    t = load_table(own(tmp_path, rows() + more))
    assert t.classes == EMOTIONS and len(t) == 12 and t.counts[:2].tolist() == [6, 6]
    assert [p.kind for p in t.problems] == kinds and t.problems[0].where == "clips.csv:14"
    assert check_dataset(tmp_path).kinds == {k: kinds.count(k) for k in kinds}


def test_rows_of_a_second_list_are_read_by_its_header(tmp_path):
    t = load_table(own(tmp_path,
                       "path,label,split\n0.mp4,happy,train\n1.mp4,sad,test\n\ufefflabel,path,split\nsad,2.mp4,train\n"
                       "happy,3.mp4,test\n"))
    assert [(c.id, c.label, c.split) for c in t] == [("0.mp4", 0, "train"), ("1.mp4", 1, "test"), ("2.mp4", 1, "train"),
                                                     ("3.mp4", 0, "test")]
    assert [(p.where, p.kind) for p in t.problems] == [("clips.csv:4", "row")] and "header" in t.problems[0].message


def test_a_slip_is_counted_in_usable_rows_only(tmp_path):
    "Three rows and a tenth of the emotion make a class of a name that is almost one; rows without a clip do not count."
    t = load_table(own(tmp_path / "a", rows() + "gone1.mp4,hapy\ngone2.mp4,hapy\ngone3.mp4,hapy\n12.mp4,hapy\n", 13))
    assert (t.classes == EMOTIONS and [p.kind for p in t.problems] == ["missing"] * 3 + ["label"]
            and "did you mean happy" in t.problems[-1].message)
    t = load_table(own(tmp_path / "b", rows() + "12.mp4,hapy\n13.mp4,hapy\n14.mp4,hapy\n", 15))
    assert t.classes == ("happy", "hapy", "sad") and not t.problems and "class of its own" in t.notes[0]
    # the refused row does not stand in the way
    t = load_table(own(tmp_path / "c", "path,label\n0.mp4,hapy\n0.mp4,happy\n1.mp4,sad\n"))
    assert [(c.id, c.label) for c in t] == [("0.mp4", 0), ("1.mp4", 1)] and [p.kind for p in t.problems] == ["label"]


@pytest.mark.parametrize("more, n, kinds", [
    ("a,b.mp4,happy\n", 12, ["missing"]), ("11.mp4,happy,more\n", 11, ["row"]),
    ("gone.mp4,contempt\n", 12, ["missing"]), ("gone.mp4,contempt,train,1,a,b,c\n", 12, ["row"])])
def test_one_bad_row_does_not_change_the_columns_of_a_list_without_a_header(tmp_path, more, n, kinds):
    t = load_table(own(tmp_path, rows(n, head="") + more))
    assert (len(t) == n and t.classes == EMOTIONS and "taken as path,label" in t.notes[0]
            and "path,label,split" not in t.notes[0])
    assert {c.split for c in t} == {"train", "test"} and len(t.problems) == 1, [str(p) for p in t.problems]


def test_columns_of_a_list_without_a_header(tmp_path):
    t = load_table(own(tmp_path / "a", "0.mp4,happy\n1.mp4,sad,test\n2.mp4,sad,train\n"))
    assert [c.split for c in t] == ["", "test", "train"] and "path,label,split" in t.notes[0]
    t = load_table(own(tmp_path / "b", "0.mp4 30 0\n1.mp4 30 1\ngone.mp4 happy\n2.mp4 sad\n3.mp4 30 1 1\n"))
    assert (t.labels.tolist() == [0, 1] and "path,frames,label" in t.notes[0]
            and [p.kind for p in t.problems] == ["missing", "label", "row"])


@pytest.mark.parametrize("line, names", [
    ('2.mp4,"sad', ["3"]), ('"2.mp4,sad', ["3"]), ('2.mp4,"sad\n3.mp4,sad"', ["3", "4"]), ('2.mp4,"sa"d', None),
    ('2.mp4,"sad" ', None), ('2.mp4, "sad"', None), ('"2.mp4"x,sad', None)])
def test_a_quote_swallows_no_rows(tmp_path, line, names):
    lines = ["path,label", "0.mp4,happy", *line.split("\n"), "4.mp4,happy", '5.mp4,"sad"', "6.mp4,happy"]
    t = load_table(own(tmp_path, "\n".join(lines)))
    assert {"0.mp4", "4.mp4", "5.mp4", "6.mp4"} <= {c.id for c in t} and t.classes == EMOTIONS
    assert len(t) + len(t.problems) == len(lines) - 1, [str(p) for p in t.problems]
    if names:
        assert [p.where for p in t.problems] == [f"clips.csv:{n}" for n in names] and "quote" in t.problems[0].message


def test_cells_without_an_end_are_named(tmp_path):
    t = load_table(own(tmp_path, rows(2) + f"2.mp4,{'y' * 200_000}\n3.mp4,sa\0d\n4.mp4,sad\n"))
    assert ([c.id for c in t] == ["0.mp4", "1.mp4", "4.mp4"]
            and sorted(p.where for p in t.problems) == ["clips.csv:4", "clips.csv:5"])


def test_line_breaks_in_other_columns_are_read(tmp_path):
    t = load_table(own(tmp_path / "a", 'path,label,"notes\nof mine"\n0.mp4,happy,"dark, then\r\nlight"\n1.mp4,sad,"a '
                                       '""b"" c"\n2.mp4,sad,"x\n3.mp4,happy,y\n4.mp4,sad,z"\n5.mp4,sad\n'))
    assert ([c.id for c in t] == ["0.mp4", "1.mp4", "3.mp4", "4.mp4", "5.mp4"]
            or [c.id for c in t] == ["0.mp4", "1.mp4", "3.mp4", "5.mp4"])
    assert {p.kind for p in t.problems} == {"row"} and t.problems[0].where == "clips.csv:6"


def test_every_line_end(tmp_path):
    for i, end in enumerate(("\n", "\r\n", "\r")):
        t = load_table(own(tmp_path / str(i), rows().replace("\n", end) + f"gone.mp4,happy{end}"))
        assert len(t) == 12 and t.problems[0].where == "clips.csv:14"


@pytest.mark.parametrize("line", ["video_name,label", "", "99,1,", "99,1,2,3", "\"99,1", "99", "happy,99", "99,nan",
                                  "99,9", "99,,"])
def test_lost_rows_of_published_lists_are_named(tmp_path, line):
    for part in ("train", "test"):
        files = dfew_lists()
        name = next(k for k in files if part in k)
        files[name] += f"\n{line}"
        root = write(tmp_path / part, {**dfew_clips(), **files})
        t = load_table(root)
        assert t.classes == EMOTIONS and len(t) == 35
        assert [p.where for p in t.problems] == ([f"{name}:{files[name].count(chr(10)) + 1}"] if line else []), [str(p)
            for p in t.problems]


def test_lost_rows_of_the_other_sets_are_named(tmp_path):
    files = mafw_lists()
    name = next(iter(files))
    files[name] += "\npath label\n99999.mp4 joy\n00099.mp4\n00098.mp4 nan"
    t = load_table(write(tmp_path / "mafw", {**mafw_clips("data/clips/{i:05d}.mp4"), **files}))
    n = files[name].count("\n") + 1
    assert (len(t) == 20 and len(t.classes) == 11 and [(p.where, p.kind) for p in t.problems]
            == [(f"{name}:{n - i}", k) for i, k in ((3, "row"), (2, "label"), (1, "row"), (0, "label"))])
    files = ferv_lists()
    name = next(iter(files))
    files[name] = ("path label\n" + files[name] + "\npath label\nAction/Sad/0099 contempt\nAction/Sad "
                                                  "Sad\nAction/Sad/0098 Sad")
    t = load_table(write(tmp_path / "ferv", {**ferv_clips(), **files}))
    assert len(t) == 7 and t.classes == EMOTIONS and [p.kind for p in t.problems] == ["row", "label", "row", "missing"]
    assert [p.where for p in t.problems] == [f"train_All.csv:{n}" for n in (7, 8, 9, 10)]


# ---------------------------------------------------------------- labels that are floats, and missing ones

@pytest.mark.parametrize("labels, classes, want", [
    (["0", "1", "1.0"], EMOTIONS, [0, 1, 1]), (["0.0", "1.0", "6.0"], EMOTIONS, [0, 1, 6]),
    (["0,0", "6,00", "1"], EMOTIONS, [0, 6, 1]), (["7.0", "7", "12."], ("7", "12"), [0, 0, 1]),
    (["calm", "1.0", "1"], ("1", "calm"), [1, 0, 0]), (["calm", "01", "1"], ("1", "calm"), [1, 0, 0]),
    (["calm", "1.5", "1.50"], ("1.5", "1.50", "calm"), [2, 0, 1]),
    (["0.000000000000000000e+00", "1.000000e+00", "1"], EMOTIONS, [0, 1, 1]),
    (["calm", "1e5", "12e3"], ("12e3", "1e5", "calm"), [2, 1, 0]),
    (["happy", "happy\u200b", "\u200esad"], EMOTIONS, [0, 0, 1])])
def test_whole_numbers_written_as_floats(tmp_path, labels, classes, want):
    t = load_table(own(tmp_path, "path;label;split\n" + "".join(f"{i}.mp4;{y};train\n" for i, y in enumerate(labels)),
                       3))
    assert not t.problems and t.classes == classes and t.labels.tolist() == want


@pytest.mark.parametrize("nothing", ["nan", "NaN", "None", "null", "NULL", "<NA>", "n/a", "N/A", "NA", "#N/A", "",
                                     '" "', "NaT"])
def test_what_programs_write_for_a_missing_label(tmp_path, nothing):
    for labels, classes in ((("happy", "sad"), EMOTIONS), (("calm", "bored"), ("bored", "calm")),
                            (("0", "1.0"), EMOTIONS), (("7", "8.0"), ("7", "8"))):
        t = load_table(own(tmp_path / labels[0], rows(4, labels) + f"4.mp4,{nothing}\n5.mp4,{nothing}\n", 6))
        assert (t.classes == classes and len(t) == 4 and [p.kind for p in t.problems] == ["label"] * 2
                and "unknown label" in t.problems[0].message)


def test_missing_and_float_cells_of_split_fold_and_group(tmp_path):
    text = ("path,label,split,fold,group\n0.mp4,happy,nan,1.0,1.0\n1.mp4,sad,NaN,2.0,1\n2.mp4,sad,train,nan,nan\n"
            "3.mp4,sad,train,<NA>,None\n4.mp4,sad,train,\"3,0\",x\n5.mp4,sad,test,-1.0,x\n6.mp4,sad,holdout,1,x\n")
    t = load_table(own(tmp_path, text))
    assert [(c.split, c.fold, c.group) for c in t] == [("", 1, "1"), ("", 2, "1"), ("train", 0, ""), ("train", 0, ""),
                                                       ("train", 3, "x")]
    assert [p.kind for p in t.problems] == ["row", "row"] and divided_groups(t) == ["1"]


def test_float_labels_of_published_lists(tmp_path):
    files = {k: "\n".join(f"{line}.0" if line[0].isdigit() else line for line in v.splitlines()) for k,
             v in dfew_lists().items()}
    t = load_table(write(tmp_path / "dfew", {**dfew_clips(), **files}))
    assert not t.problems and t.labels.tolist() == [LABELS[i] - 1 for i in LABELS]
    files = {f"DFEW_set_{k}_{p}.txt": "\n".join(f"/x/{i:05d} 77.0 {LABELS[i] - 1}.0" for i in LABELS
                                                if (FOLD[i] == k) == (p == "test")) for k in range(1, 6)
                                                for p in ("train", "test")}
    t = load_table(write(tmp_path / "others", {**dfew_clips(), **files}))
    assert not t.problems and t.labels.tolist() == [LABELS[i] - 1 for i in LABELS]
    t = load_table(write(tmp_path / "ferv", {**ferv_clips(), **ferv_lists("/x/Action/{e}/{i:04d} 28.0 {y}.0")}))
    assert not t.problems and len(t) == 7
    t = load_table(write(tmp_path / "mafw", {**mafw_clips("data/clips/{i:05d}.mp4"),
                                             **mafw_lists(row="/x/{i:05d} 42.0 {y}.0")}))
    assert not t.problems and len(t) == 20


def test_small_readers():
    assert [parse_label(x, EMOTIONS)[0] for x in ("1.0", "6.", "7.0", "-1.0", "1.5", "nan", "inf")] == [1, 6, None,
        None, None, None, None]
    # who declares such a class means it
    assert [parse_label(x, ("none", "NA", "10"))[0] for x in ("None", "na", "10.0", "NA", "1")] == [0, 1, 2, 1, 1]
    assert parse_label("joy", ("None", "happy"))[0] is None and parse_label("007", ("7", "8"))[0] == 0
    assert [plain_label(x) for x in ("1.0", "+2.00", "Anger", "1.05", "v1.0")] == ["1", "+2", "angry", "1.05", "v1.0"]
    assert [cell_text(x) for x in ("1.0", "007.0", "anna 1.0", "NaN", "")] == ["1", "007", "anna 1.0", "", ""]
    assert [is_missing(x) for x in (None, float("nan"), np.nan, "", " nan", 0, "0", "nano")] == [True] * 5 + [False] * 3


# ---------------------------------------------------------------- hidden files

JUNK = b"\0\5\26\7\0\2\0\0Mac OS X\377\376"


def test_hidden_files_are_no_lists(tmp_path):
    for name in ("mine.csv", "clips.csv"):
        root = own(tmp_path / name, rows(), name=name)
        write(root, {f"._{name}": JUNK, ".other.csv": "path,label\n", "__MACOSX/._mine.csv": JUNK,
                     "__MACOSX/mine.csv": JUNK, ".DS_Store": JUNK, "Thumbs.db": JUNK, "~$mine.csv": JUNK})
        t = load_table(root)
        assert len(t) == 12 and not t.problems
    for name in ("._clips.csv", ".hidden.csv"):
        with pytest.raises(MicaclError, match="expected a data set.*an empty folder"):
            load_table(write(tmp_path / f"only {name}", {name: JUNK}))
    # somebody names it
    assert len(load_table(own(tmp_path / "asked for", rows(), name=".mine.csv") / ".mine.csv")) == 12


@pytest.mark.parametrize("clips, files, n", [
    (dfew_clips(), dfew_lists(), 35), (dfew_clips("Clip/original/{i:05d}.mp4"),
                                       dfew_lists("annotation/DFEW_set_{k}_{part}.txt", "", sep=" "), None),
    (mafw_clips("data/clips/{i:05d}.mp4"), mafw_lists(), 20), (ferv_clips(), ferv_lists(), 7)])
def test_hidden_files_beside_published_lists(tmp_path, clips, files, n):
    if n is None:
        files, n = {k: "\n".join(f"{i} {LABELS[i] - 1}" for i in LABELS
                                 if (FOLD[i] == int(k[-11 if "train" in k else -10])) == ("test" in k))
                                 for k in files}, 35
    plain = load_table(write(tmp_path / "plain", {**clips, **files}))
    beside = {f"{os.path.dirname(k)}/._{os.path.basename(k)}": JUNK for k in (*files, *clips)}
    copies = {f"__MACOSX/{k}": JUNK for k in (*files, *clips)}
    t = load_table(write(tmp_path / "mac", {**clips, **files, **beside, **copies, ".DS_Store": JUNK}))
    assert not plain.problems and not t.problems and len(t) == n
    assert [(c.id, c.label, c.split, c.fold, c.path.relative_to(tmp_path / "mac"))
            for c in t] == [(c.id, c.label, c.split, c.fold, c.path.relative_to(tmp_path / "plain")) for c in plain]
    assert check_dataset(tmp_path / "mac").kinds == {}


def test_notes_beside_numbered_clips(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips("Clip/original/{i:05d}.mp4"),
                                    **{f"Clip/original/{i:05d}.{e}": b"x" for i in LABELS
                                       for e in ("json", "txt", "aac", "wav")}, **dfew_lists()}))
    assert {c.path.suffix for c in t} == {".mp4"} and len(t) == 35


def test_hidden_files_are_no_clips(tmp_path):
    write(tmp_path, {"pictures/Thumbs.db": b"x", "pictures/.DS_Store": b"x", "._0.mp4": JUNK,
                     "clips.csv": rows(3) + "._0.mp4,sad\npictures,happy\n", **{f"{i}.mp4": b"x" for i in range(3)}})
    assert check_dataset(tmp_path).kinds == dict(row=1, empty=1)


# ---------------------------------------------------------------- folders, pipes, separators

def test_a_folder_called_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("~x", "~root", "~"):
        own(Path(name), rows())
        for form in (name, f"{name}/", Path(name), f"{name}/clips.csv"):
            assert len(load_table(form)) == 12 and check_dataset(form).ok
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    own(tmp_path / "home" / "set", rows(4))
    assert len(load_table("~/set")) == 4
    for name in ("~nobody-of-this-name", "~nobody-of-this-name/set", "x\0y", "a" * 5000):
        with pytest.raises(MicaclError, match="expected a data folder or a CSV file"): load_table(name)
        assert not check_dataset(name).ok


def test_a_trailing_slash_changes_nothing(tmp_path):
    root = own(tmp_path, rows())
    assert [c for c in load_table(f"{root}/")] == [c for c in load_table(root)] == [c for c in load_table(f"{root}//.")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_are_never_opened(tmp_path):
    with soon():
        root = own(tmp_path / "a", rows(), name="mine.csv")
        os.mkfifo(root / "x.csv"); os.mkfifo(root / "clip.mp4")
        assert len(load_table(root)) == 12
        (root / "mine.csv").write_text(rows() + "clip.mp4,sad\n")
        assert check_dataset(root).kinds == dict(unreadable=1) and "pipe" in str(check_dataset(root))
        (tmp_path / "b").mkdir(); os.mkfifo(tmp_path / "b" / "clips.csv")
        for where in (tmp_path / "b", tmp_path / "b" / "clips.csv"):
            with pytest.raises(MicaclError, match="pipe"): load_table(where)
            assert not check_dataset(where).ok
        files = dfew_lists()
        name = next(iter(files))
        root = write(tmp_path / "c", {**dfew_clips(), **{k: v for k, v in files.items() if k != name}})
        os.mkfifo(root / name)
        assert [p.kind for p in load_table(root).problems] == ["list"]


@pytest.mark.parametrize("text", [
    "sep=;\n" + rows().replace(",", ";"), "\ufeffsep=;\r\n" + rows().replace(",", ";"),
    '"sep=;"\n' + rows().replace(",", ";"), "SEP=,\n" + rows(), "sep=\t\n" + rows().replace(",", "\t"),
    "sep=;;\n" + rows().replace(",", ";"),
    "sep=|\n" + rows().replace(",", "|"), "path;label;note, more\n"
    + "".join(f"{i}.mp4;{EMOTIONS[i % 2]};x\n" for i in range(12)),
    "path,label,note; more\n" + "".join(f"{i}.mp4,{EMOTIONS[i % 2]},x\n" for i in range(12)),
    "note, more\tlabel\tpath\n" + "".join(f"a;b\t{EMOTIONS[i % 2]}\t{i}.mp4\n" for i in range(12)),
    rows().replace(",", "|"), rows().replace(",", " "), "\ufeff" + rows(), "\n\n" + rows(), "\ufeff\ufeff" + rows(),
    '"path";"label"\n' + "".join(f'"{i}.mp4";"{EMOTIONS[i % 2]}"\n' for i in range(12)),
    "path, label\n" + "".join(f'"{i}.mp4", "{EMOTIONS[i % 2]}"\n' for i in range(12))])
def test_separators(tmp_path, text):
    for i, data in enumerate((text.encode(), text.lstrip("\ufeff").encode("utf-16"))):
        t = load_table(own(tmp_path / str(i), data))
        assert len(t) == 12 and not t.problems and t.classes == EMOTIONS and t.labels.tolist() == [0, 1] * 6


def test_separators_in_paths(tmp_path):
    names = ["a, b.mp4", "c; d.mp4", "e f.mp4"]
    for i, sep in enumerate(",;\t"):
        good = [n for n in names if sep not in n]
        t = load_table(write(tmp_path / f"{i}", {"x.csv": "\n".join(f"{n}{sep}happy" for n in good),
                                                 **{n: b"x" for n in good}}))
        assert [c.id for c in t] == good and not t.problems
    files = {k: "\n".join(f"/home/x/my, set; 2/{i:05d} 77 {LABELS[i] - 1}" for i in LABELS
                          if (FOLD[i] == int(k[9])) == ("test" in k))
                          for k in [f"DFEW_set_{k}_{p}.txt" for k in range(1, 6) for p in ("train", "test")]}
    t = load_table(write(tmp_path / "dfew", {**dfew_clips(), **files}))
    assert len(t) == 35 and not t.problems


def test_one_picture_as_a_clip(tmp_path):
    root = own(tmp_path, rows() + "one.PNG,happy\ntwo.jpg,sad\n")
    write(root, {"one.PNG": b"\x89PNG\r\n\x1a\n", "two.jpg": b"\xff\xd8\xff\xe0"})
    report = check_dataset(root)
    assert (report.ok and report.kinds == dict(unreadable=2) and "expected a video or a folder of pictures, found one "
            "picture" in str(report))


# ---------------------------------------------------------------- what cannot be read

@pytest.fixture
def closed(monkeypatch):
    "Folders that nobody may list, and files that nobody may ask about; root may do everything, so it is played."
    names, scandir, stat = set(), os.scandir, os.stat
    def ask(path, f, *more, **options):
        if Path(os.fsdecode(path)).name in names: raise PermissionError(13, "Permission denied", str(path))
        return f(path, *more, **options)
    monkeypatch.setattr(os, "scandir", lambda path=".": ask(path, scandir))
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: stat(path, *a, **k) if isinstance(path, int)
                        else ask(path, stat, *a, **k))
    return names


def test_a_clip_that_cannot_be_read_is_named_and_left_out(tmp_path, closed, monkeypatch):
    root = own(tmp_path, rows() + "dir,happy\nsub/x.mp4,sad\n")
    write(root, {"dir/1.png": b"x", "sub/x.mp4": b"x"})
    assert check_dataset(root).ok and check_dataset(root).kinds == {}
    closed |= {"dir", "sub", "3.mp4"}
    monkeypatch.setattr(os, "access", lambda path, mode, access=os.access: Path(path).name != "4.mp4"
                        and access(path, mode))
    report = check_dataset(root)
    assert report.ok and report.kinds == dict(unreadable=4) and sum(report.counts["all"]) == 10, str(report)
    assert all("Permission denied" in p.message for p in report.problems) and "no such file" not in str(report)


def test_folders_that_cannot_be_listed(tmp_path, closed):
    root = own(tmp_path / "mine", rows())
    closed |= {"mine"}
    with pytest.raises(MicaclError, match="mine: expected .* that can be read.*Permission denied"): load_table(root)
    assert not check_dataset(root).ok
    closed.clear()
    dfew = write(tmp_path / "dfew", {**dfew_clips(), **dfew_lists()})
    closed |= {"clip_224x224"}
    with pytest.raises(MicaclError, match="Clip/clip_224x224 cannot be read .Permission denied."): load_table(dfew)
    closed.clear()
    ferv = write(tmp_path / "ferv", {**ferv_clips(), **ferv_lists()})
    closed |= {"Sad"}
    t = load_table(ferv)
    assert len(t) == 6 and [p.kind for p in t.problems] == ["unreadable"]


# ---------------------------------------------------------------- tables come back as they were written

def back(table, file):
    write_clips(table, file)
    got = load_table(file)
    assert not got.problems, [str(p) for p in got.problems]
    return got


def test_a_mafw_table_comes_back(tmp_path):
    table = load_table(write(tmp_path, {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists()}))
    for t in (table, make_folds(table, 3), table[:7]):
        got = back(t, tmp_path / "mine.csv")
        assert got.clips == t.clips and got.classes == t.classes
    head, first = (tmp_path / "mine.csv").read_text().splitlines()[:2]
    assert (head
            == "path,label,split,fold,group,clip,classes=anger|disgust|fear|happiness|neutral|sadness|surprise|"
               "contempt|anxiety|helplessness|disappointment")
    assert first == "data/clips/00001.mp4,contempt,,2,,00001,"
    rest = load_table(tmp_path / "mine.csv", classes=table.classes)
    assert rest.clips == got.clips
    (tmp_path / "one.csv").write_text(f"{head}\n{first}\n")                    # rows can be removed
    assert load_table(tmp_path / "one.csv").classes == table.classes


def test_seven_emotions_need_no_column(tmp_path):
    root = own(tmp_path, rows(head="path,label\n"))
    back(load_table(root), root / "again.csv")
    assert (root / "again.csv").read_text().splitlines()[0] == "path,label,split,fold,group"


def test_a_declared_list_and_labels_outside_it(tmp_path):
    t = load_table(own(tmp_path,
                       "path,label,split,classes=calm|bored|none|\"a|b\"\n0.mp4,bored,train\n1.mp4,BORED,train,\n"
                       "2.mp4,0,test,\n3.mp4,none,train,\n4.mp4,a|b,train\n5.mp4,happy,train\n6.mp4,,train\n"))
    assert (t.classes == ("calm", "bored", "none", "a|b") and t.labels.tolist() == [1, 1, 0, 2, 3]
            and [p.kind for p in t.problems] == ["label"] * 2)
    for cell in ("classes=", "classes=a|a", "classes=a||b"):
        t = load_table(own(tmp_path / cell, f"path,label,{cell}\n0.mp4,happy\n1.mp4,sad\n"))
        assert t.classes == EMOTIONS and [p.kind for p in t.problems] == ["list"]


@pytest.mark.parametrize("change, words", [
    (dict(path="a\\b.mp4"), "backslash"), (dict(path="a\nb.mp4"), "line break"), (dict(path=" a.mp4"), "outer space"),
    (dict(path="\udcff.mp4"), "no text"), (dict(id=""), "empty name"), (dict(split="holdout"), "split 'holdout'"),
    (dict(split="Test"), "split 'Test'"), (dict(fold=10**6), "fold 1000000"), (dict(group="a\nb"), "line break"),
    (dict(id=" x"), "outer space")])
def test_what_could_not_be_read_back_is_not_written(tmp_path, change, words):
    c = dict(id="1", path="a.mp4", label=0, split="train", group="g") | change
    table = ClipTable([Clip(**dict(c, path=tmp_path / c["path"]))], root=tmp_path)
    with pytest.raises(MicaclError, match=words) as e: write_clips(table, tmp_path / "l.csv")
    assert len(str(e.value).splitlines()) == 1 and not (tmp_path / "l.csv").exists()


def test_class_names_that_could_not_be_read_back(tmp_path):
    for name in ("", " a", "a\nb"):
        table = ClipTable([Clip("1", tmp_path / "a.mp4", 0)], classes=(name, "b"), root=tmp_path)
        with pytest.raises(MicaclError, match="written"): write_clips(table, tmp_path / "l.csv")
        with pytest.raises(MicaclError, match="written"):
            write_clips(ClipTable([Clip("1", tmp_path / "a.mp4", 1)], (name, "b"), tmp_path), tmp_path / "l.csv")


word = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029"), min_size=1,
               max_size=9).map(str.strip).filter(bool)
classes = st.one_of(st.lists(st.one_of(word, st.sampled_from(["happy", "Happy", "anger", "angry", "nan", "None", "1",
                                                              "1.0", "0", "a|b", 'say "hi"', "a,b", "a;b", "classes=x",
                                                              "path", "label"])), min_size=1, max_size=6, unique=True),
                                                              st.just(list(EMOTIONS)))
places = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "train", "val", "test", "test_balanced"]),
                            st.integers(0, 7), st.one_of(st.just(""), word), st.one_of(st.none(), word)), min_size=1,
                            max_size=6)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    "Six clips in a folder, and one elsewhere."
    root = tmp_path_factory.mktemp("stage")
    names = ["0.mp4", "1, one.mp4", "sub/2 'two'.mp4", "sub/é.mp4", "path", "sub/;5"]
    return write(root / "data", {n: b"x" for n in names}), names


@settings(max_examples=150, **SHELL)
@given(classes, places)
def test_every_table_comes_back(stage, classes, places):
    root, names = stage
    clips = [Clip(id or n, root / n, y % len(classes), s, k, "" if is_missing(g) else cell_text(g)) for n,
             (y, s, k, g, id) in zip(names, places)]
    assume(len({c.id for c in clips}) == len(clips))
    table = ClipTable(clips, classes, root)
    got = back(table, root / "mine.csv")
    assert got.clips == table.clips and got.classes == table.classes, (root / "mine.csv").read_text()


# ---------------------------------------------------------------- classes that somebody asks for; tests alone

def test_classes_that_a_run_has(tmp_path):
    root = own(tmp_path / "a",
               "path,label,split\n0.mp4,a,test\n1.mp4,b,test\n2.mp4,d,test\n3.mp4,2,test\n4.mp4,nan,test\n")
    t = load_table(root, classes=("c", "b", "a"))
    assert (t.classes == ("c", "b", "a") and t.labels.tolist() == [2, 1, 2]
            and [(p.where, p.kind) for p in t.problems] == [("clips.csv:4", "label"), ("clips.csv:6", "label")])
    with pytest.raises(MicaclError, match="unknown label 'd'"): load_table(root, classes=("c", "b", "a"), on_bad="stop")
    t = load_table(own(tmp_path / "b", rows(4)), classes=["sad", "happy"])
    assert t.classes == ("sad", "happy") and t.labels.tolist() == [1, 0, 1, 0]
    t = load_table(own(tmp_path / "c", rows(4, ("7", "8.0"))), classes=("7", "8", "9"))
    assert t.classes == ("7", "8", "9") and t.labels.tolist() == [0, 1, 0, 1]
    for bad in ((), "abc", ("a", "a"), ("a", 1), ("a", "")):
        with pytest.raises(MicaclError, match="classes: expected different names"): load_table(root, classes=bad)


def test_published_sets_are_read_into_the_classes_of_a_run(tmp_path):
    mafw = write(tmp_path / "mafw", {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists()})
    t = load_table(mafw, classes=("contempt", "angry"))
    assert (t.classes == ("contempt", "angry") and t.labels.tolist() == [0, 1] * 10 and t.folds == [1, 2, 3, 4, 5]
            and not t.problems)
    t = load_table(mafw, classes=("anger", "joy"))
    assert len(t) == 10 and [p.kind for p in t.problems] == ["label"] * 10 and "contempt" in str(t.problems[0])
    dfew = write(tmp_path / "dfew", {**dfew_clips(), **dfew_lists()})
    assert load_table(dfew, classes=EMOTIONS).clips == load_table(dfew).clips
    write_clips(t, mafw / "part.csv")
    assert [c.label for c in load_table(mafw / "part.csv", classes=("joy", "anger"))] == [1] * 10
    write_clips(ClipTable([Clip("1", mafw / "data/clips/00001.mp4", 0)], ("1", "0"), mafw), mafw / "numbers.csv")
    with pytest.raises(MicaclError, match="expected one of the classes a, b, found 1"):
        load_table(mafw / "numbers.csv", classes=("a", "b"))      # a name, no position


def test_a_list_of_tests_only(tmp_path):
    t = load_table(own(tmp_path / "a", "path,label,split\n"
                       + "".join(f"{i}.mp4,{EMOTIONS[i % 2]},test\n" for i in range(12))))
    report = check_dataset(tmp_path / "a")
    assert len(t) == 12 and report.ok and report.verdict == "usable to test only (no clips to train on), 12 clips"
    report = check_dataset(own(tmp_path / "b", "path,label,fold\n"
                       + "".join(f"{i}.mp4,{EMOTIONS[i % 2]},1\n" for i in range(12))))
    assert report.ok and report.verdict.startswith("usable to test only")
    report = check_dataset(write(tmp_path / "c", {**ferv_clips(),
                                                  **{k: v for k, v in ferv_lists().items() if "test" in k}}))
    assert report.ok and report.verdict.startswith("usable to test only (no clips to train on), 2 clips")
    for split in ("train", "val", ""):
        report = check_dataset(own(tmp_path / f"d{split}", "path,label,split\n"
                           + "".join(f"{i}.mp4,{EMOTIONS[i % 2]},{split}\n" for i in range(12))))
        assert not report.ok and report.verdict.startswith("unusable")


# ---------------------------------------------------------------- kinds

def test_every_problem_has_a_kind(tmp_path):
    assert Problem("a", "b").kind == "unreadable" and set(PROBLEM_KINDS) == set(datasets._ADVICE)
    assert typing.get_type_hints(Problem)["kind"] is str
    take = Intake(tmp_path, "skip")
    with pytest.raises(TypeError): take.bad("x", "y")
    take.bad("x", "y", "row")
    assert take.table(EMOTIONS, "csv").problems == [Problem("x", "y", "row")]
    root = own(tmp_path, rows() + "gone.mp4,happy\n0.mp4,happy\n12.mp4,hapy\n../x.mp4,happy\n1,2,3\n", 13)
    table = load_table(root)
    assert {p.kind for p in table.problems} == {"missing", "duplicate", "label", "outside", "row"}
    assert make_folds(table, 2).problems == table.problems
    assert [p["kind"] for p in check_dataset(root).to_dict()["problems"]] == [p.kind for p in table.problems]


def test_kinds_do_not_hang_on_words():
    "A file may be called as it likes."
    for module in (clips, lists, custom, datasets):
        assert not hasattr(module, "_KINDS") and not hasattr(module, "_kind")


# ---------------------------------------------------------------- tables made by hand

@pytest.mark.parametrize("label", [1.0, np.float32(1), np.int8(1), np.array(1), True, "torch"])
def test_labels_of_any_whole_type(label):
    if label == "torch": label = pytest.importorskip("torch").tensor(1)
    t = ClipTable([Clip("a", Path("a"), label), Clip("b", Path("b"), 0)])
    assert (t.labels.tolist() == [1, 0] and t.labels.dtype == np.int64 and type(t[0].label) is int
            and t.counts[:2].tolist() == [1, 1])
    train, validation = carve_validation(t, 0.5, 0)
    assert len(train) + len(validation) == 2 and len(make_folds(t, 2)) == 2


@pytest.mark.parametrize("label", [-1, 7, 1.5, float("nan"), float("inf"), "1", "happy", None, np.nan, 10**30])
def test_labels_that_are_no_positions(label):
    with pytest.raises(MicaclError, match="clip a: expected a label 0..6"):
        ClipTable([Clip("b", Path("b"), 0), Clip("a", Path("a"), label)])


def test_groups_of_odd_types():
    "None and nan are no group, the number 0 is one."
    def table(groups):
        return ClipTable([Clip(str(i), Path("x"), i % 2, "train" if i % 3 else "test", group=g) for i,
                          g in enumerate(groups)])
    for nothing in (None, float("nan"), np.nan, "nan", ""):
        t = table([nothing] * 12)
        assert carve_validation(t, 0.3, 1)[1].clips == tuple(t[int(c.id)]
                                                             for c in carve_validation(table([""] * 12), 0.3, 1)[1])
        assert divided_groups(t) == [] and len(make_folds(t, 3).folds) == 3
    t = table([0] * 6 + [1] * 6)
    train, validation = carve_validation(t, 0.3, 1)
    assert not {c.group for c in train} & {c.group for c in validation} and divided_groups(t) == [0, 1]
    assert divided_groups(table([0, "a", None, 1] * 3)) == [0, 1, "a"] and divided_groups(make_folds(t, 2)) == []


@pytest.mark.parametrize("call", [lambda t: carve_validation(t, "0.1", 0),
                                  lambda t: carve_validation(t, float("nan"), 0),
                                  lambda t: carve_validation(t, None, 0), lambda t: make_folds(t, 2.5),
                                  lambda t: make_folds(t, "2"), lambda t: make_folds(t, None)])
def test_odd_numbers_are_one_line(call):
    with pytest.raises(MicaclError, match="expected"): call(ClipTable([Clip(str(i), Path("x"), 0) for i in range(9)]))


# ---------------------------------------------------------------- any bytes

KINDS = dict(csv=("clips.csv", rows(5, EMOTIONS, "path,label,split,fold,group\n").encode()),
             own=("clips.csv", b'path;label;note\n"0.mp4";calm;"a, ""b"""\n1.mp4;2.0;\n'),
             plain=("clips.csv", b"0.mp4 12 0\n1.mp4 12 6\n"),
             column=("clips.csv", b'path,label,clip,"classes=calm|""a|b"""\n0.mp4,calm,x,\n1.mp4,a|b,y,\n'),
             dfew=("train(single-labeled)/set_1.csv", b"video_name,label\n1,1\n2,7.0\n"),
             others=("DFEW_set_1_test.txt", b"/x y/00001 77 3\n\\x\\00002 77 6\n"),
             mafw=("single/no_caption/set_2/test.txt", b"00001.mp4 anger\r\n00002.mp4 nan\r\n"),
             ferv=("4_setups/All_scenes/train_All.csv", b"Action/Sad/0001 Sad\nD:\\Action\\Sad\\0002 28 1\n"))
WORDS = [b",", b";", b"\t", b" ", b"|", b"\n", b"\r", b'"', b'""', b"'", b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
         b"sep=;\n", b"path,label\n", b"nan", b"1.0", b"-1", b"9" * 30, b"..", b"/", b"\\", b"C:", b"~", b"classes=",
         b"._", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"0.mp4", b"happy"]


def mutated(content, rng):
    "A list with some bytes changed, lost, repeated or put in."
    out = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        a = rng.randrange(len(out) + 1)
        b = min(len(out), a + rng.randint(0, 12))
        what = rng.randrange(4)
        if what == 0: out[a:a] = rng.choice(WORDS)
        elif what == 1: del out[a:b]
        elif what == 2: out[a:a] = out[max(0, a - 20):a] * rng.randint(1, 3)
        elif a < len(out): out[a] = rng.randrange(256)
    return bytes(out)


def fuzz(homes, n, seed=0):
    "Tables, refusals and kinds of problems of n lists; every other exception comes out."
    rng, seen = random.Random(seed), dict(tables=0, refused=0, problems=0)
    for _ in range(n):
        kind = rng.choice(sorted(KINDS))
        (homes[kind] / KINDS[kind][0]).write_bytes(mutated(KINDS[kind][1], rng))
        try: table = load_table(homes[kind]); seen["tables"] += 1
        except MicaclError as e: table = None; seen["refused"] += 1; assert len(str(e).splitlines()) == 1
        with contextlib.suppress(MicaclError): load_table(homes[kind], on_bad="stop")
        with contextlib.suppress(MicaclError): load_table(homes[kind], classes=("sad", "calm"))
        report = check_dataset(homes[kind])
        assert str(report) and {p.kind for p in report.problems} <= set(PROBLEM_KINDS)
        if table is None: continue
        seen["problems"] += len(table.problems)
        used = {table.classes[c.label] for c in table}
        assert (used <= set(table.classes) and len({c.path for c in table}) == len(table)
                and all(c.path.exists() for c in table))
        listed = kind in ("csv", "own", "plain") and table.classes != EMOTIONS
        if listed and b"classes=" not in (homes[kind] / "clips.csv").read_bytes():
            assert used == set(table.classes)      # no class without a clip
        if all(c.fold >= 0 for c in table):
            with contextlib.suppress(MicaclError):
                write_clips(table, homes[kind] / "again.csv")
                got = load_table(homes[kind] / "again.csv")
                assert got.clips == table.clips and got.classes == table.classes and not got.problems
            (homes[kind] / "again.csv").unlink(missing_ok=True)
    return seen


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    "A data folder of each kind."
    out = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, root in out.items():
        form = dict(dfew="Clip/clip_224x224/{:05d}/1.jpg", others="Clip/clip_224x224/{:05d}/1.jpg",
                    mafw="data/clips/{:05d}.mp4", ferv="2_ClipsforFaceCrop/Action/Sad/{:04d}/1.jpg").get(kind, "{}.mp4")
        write(root, {**{form.format(i): b"x" for i in range(5)}, KINDS[kind][0]: b""})
    return out


def test_any_bytes_in_a_list(homes):
    seen = fuzz(homes, 300)
    assert seen["tables"] > 80 and seen["refused"] > 80 and seen["problems"] > 100, seen


@settings(max_examples=60, **SHELL)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=120))
def test_any_bytes_alone(homes, kind, content):
    (homes[kind] / KINDS[kind][0]).write_bytes(content)
    with contextlib.suppress(MicaclError): load_table(homes[kind])
    assert check_dataset(homes[kind]).verdict


def test_declared_classes():
    assert (declared_classes(["path", "label"]) is None and declared_classes(["path", "Classes=a|B c|\"d|e\""]) == ("a",
        "B c", "d|e"))
    # damaged: no names
    assert declared_classes(['classes=a|"b\rc', "x"]) is not None and declared_classes(["classes=a\rb|c"]) == ()


# ---------------------------------------------------------------- zero bytes, signs that nobody sees, columns that
# stand twice

@pytest.mark.parametrize("labels", [("happy", "sad"), ("cat", "dog")])
def test_zero_bytes_behind_a_list_are_no_text(tmp_path, labels):
    t = load_table(own(tmp_path, rows(labels=labels).rstrip("\n").encode() + bytes(500)))
    assert len(t) == 12 and not t.problems and {t.classes[c.label] for c in t} == set(labels)


@pytest.mark.parametrize("line", ["11.mp4,dog\0", "1\0001.mp4,dog", "\0\0\0", "11.mp4\0,dog"])
def test_a_line_with_a_zero_byte_is_named_and_makes_no_class(tmp_path, line):
    t = load_table(own(tmp_path, rows(11, ("cat", "dog")) + line + "\n"))
    assert len(t) == 11 and t.classes == ("cat", "dog")
    assert [(p.where, p.kind) for p in t.problems] == [("clips.csv:13", "row")] and "zero byte" in t.problems[0].message


@pytest.mark.parametrize("code", ["utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_in_another_encoding_is_told_so(tmp_path, code):
    with pytest.raises(MicaclError, match="another encoding; save it as 'CSV UTF-8'"):
        load_table(own(tmp_path, rows().encode(code)))


def test_signs_without_width_make_no_class(tmp_path):
    t = load_table(own(tmp_path, rows(10, ("cat", "dog")) + "10.mp4,cat\u200b\n11.mp4,\ufeffdog\u2060\n"))
    assert (t.classes == ("cat", "dog") and t.counts.tolist() == [6, 6]
            and parse_label("happy\u200e", EMOTIONS) == (0, None))


def test_two_columns_of_one_name_must_say_the_same(tmp_path):
    t = load_table(own(tmp_path, "path,label,Label\n" + "".join(f"{i}.mp4,{a},{a}\n" for i,
                                                                a in enumerate(["happy", "sad"] * 4))
                                                                + "8.mp4,happy,sad\n9.mp4,,sad\n"))
    assert (len(t) == 8 and [(p.where, p.kind) for p in t.problems] == [("clips.csv:10", "contradiction"),
        ("clips.csv:11", "contradiction")])
    assert "column label" in t.problems[0].message


def test_a_list_with_capital_letters_in_its_name(tmp_path):
    assert len(load_table(own(tmp_path, rows(), name="CLIPS.CSV"))) == 12


@pytest.mark.parametrize("text", ["", "video_name,label\n", "\n \n", b"\0" * 40])
def test_a_list_without_a_row_is_named(tmp_path, text):
    "Otherwise a fold loses its test list without a word."
    write(tmp_path, {**dfew_clips(), **dfew_lists()})
    file = next(tmp_path.rglob("test*/set_1.csv"))
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    t = load_table(tmp_path)
    assert [p.kind for p in t.problems] == ["list"] and str(file.relative_to(tmp_path)) in t.problems[0].where


@pytest.mark.parametrize("head, row", [("label,video_name", "{y},{n}"), ("video_name,label,source", "{n},{y},web"),
                                       ("Label ,frames,Video_Name", "{y},16,{n}"), (",video_name,label", "7,{n},{y}")])
def test_columns_of_dfew_in_another_order(tmp_path, head, row):
    write(tmp_path, {**dfew_clips(), **dfew_lists()})
    before = {c.id: (c.label, c.fold) for c in load_table(tmp_path)}
    for file in tmp_path.rglob("set_?.csv"):
        pairs = [line.split(",") for line in file.read_text(encoding="utf-8-sig").split("\n")[1:] if line]
        file.write_text("\n".join([head, *(row.format(n=n, y=y) for n, y in pairs)]), encoding="utf-8")
    t = load_table(tmp_path)
    assert {c.id: (c.label, c.fold) for c in t} == before and not t.problems


def test_a_zero_byte_in_the_first_line_leaves_the_other_rows(tmp_path):
    t = load_table(own(tmp_path, "0\0.mp4,happy\n" + rows(head="").partition("\n")[2]))
    assert len(t) == 11 and [(p.where, p.kind) for p in t.problems] == [("clips.csv:1", "row")]
