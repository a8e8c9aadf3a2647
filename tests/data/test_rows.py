"One line, one cell, one path at a time: what each small reader makes of it, by hand."
import errno
import os
import types
import unicodedata

import pytest

from micacl.core import EMOTIONS
from micacl.data import rows
from micacl.data.rows import (Place, cell_text, class_places, is_header, is_hidden, is_missing, is_number, label_reader,
                              parse_label, plain_label, read_rows, split_line, whole_number)
from micacl.data.table import Intake


@pytest.fixture
def take(tmp_path):
    "A data folder with three clips, and what is told about it."
    for name in ("a.mp4", "b.mp4", "sub/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return Intake(tmp_path, "skip")


def rows_of(take, content, header=False):
    "(rows, [(where, message)]) of a list with this content."
    file = os.path.join(take.root, "list.csv")
    with open(file, "wb") as f: f.write(content if isinstance(content, bytes) else content.encode())
    del take.problems[:]
    rows = read_rows(file, take, header) if header else read_rows(file, take)
    assert all(p.kind == "row" for p in take.problems)
    return rows, [(p.where, p.message) for p in take.problems]


# ---------------------------------------------------------------- cells

@pytest.mark.parametrize("text, whole, cell, plain", [
    ("1", 1, "1", "1"), ("1.0", 1, "1", "1"), ("1.", 1, "1", "1"), ("1,00", 1, "1", "1"), ("-2", -2, "-2", "-2"),
    ("+3.0", 3, "+3", "+3"), ("007", 7, "007", "007"), ("1.5", None, "1.5", "1.5"), ("1.05", None, "1.05", "1.05"),
    ("123456789", 123456789, "123456789", "123456789"), ("1234567890", None, "1234567890", "1234567890"),
    ("1.000000e+00", 1, "1", "1"), ("-5.0E+01", -50, "-50", "-50"),
    ("9.99999999e+08", 999999999, "999999999", "999999999"),
    ("1.0e+09", None, "1.0e+09", "1.0e+09"), ("1.5e+00", None, "1.5e+00", "1.5e+00"), ("1e5", None, "1e5", "1e5"),
    ("٣", None, "٣", "٣"), ("1 2", None, "1 2", "1 2"), ("x1", None, "x1", "x1"), ("1.0x", None, "1.0x", "1.0x"),
    ("nan", None, "", "nan"), ("", None, "", ""), ("Anna", None, "Anna", "anna"),
    ("Happiness", None, "Happiness", "happy"),
    ("SADNESS", None, "SADNESS", "sad"), ("anger", None, "anger", "angry"),
    ("Surprised", None, "Surprised", "surprise"),
    ("disgusted", None, "disgusted", "disgust"), ("fearful", None, "fearful", "fear"),
    ("very \t happy", None, "very \t happy", "very happy")])
def test_what_a_cell_says(text, whole, cell, plain):
    assert whole_number(text) == whole and cell_text(text) == cell and plain_label(text) == plain


def test_cells_with_space_around_and_signs_without_width():
    assert whole_number(" 4.0\t") == 4 and plain_label("  Sad ") == "sad" and plain_label("1\u200b.0") == "1"
    for sign in "\u00ad\u200b\u200e\u200f\u2060\ufeff": assert plain_label(f"ha{sign}ppy{sign}") == "happy"
    assert plain_label(unicodedata.normalize("NFD", "Café")) == "café"
    for text in ("0", "-12", "+7", "123456789"): assert is_number(text)
    for text in ("1234567890", "1.0", "", "x", "1 "): assert not is_number(text)


@pytest.mark.parametrize("nothing", ["", "nan", "-nan", "none", "null", "na", "n/a", "<na>", "#n/a", "#na", "nat"])
def test_every_word_for_a_missing_value(nothing):
    for text in (nothing, nothing.upper(), f" {nothing} "): assert is_missing(text) and cell_text(text) == ""
    assert is_missing(None) and not is_missing("0") and not is_missing(0) and not is_missing(f"{nothing}x")


@pytest.mark.parametrize("line, sep, want", [
    ("a, b ,c", ",", ["a", "b", "c"]), ('"a, b",c', ",", ["a, b", "c"]), ('x, "y"', ",", ["x", "y"]),
    ("a\tb  c", None, ["a", "b", "c"]), ("a;;", ";", ["a", "", ""]), ("", ",", []), ("", None, []),
    ('"a""b"|c', "|", ['a"b', "c"]), ("a," + "y" * 200_000, ",", [])])
def test_cells_of_a_line(line, sep, want): assert split_line(line, sep) == want


def test_a_header_names_path_and_label():
    for cells in (["path", "label"], ["Label", "x", "PATH"]): assert is_header(cells)
    for cells in (["path"], ["label"], ["path label"], []): assert not is_header(cells)


# ---------------------------------------------------------------- labels

def test_names_and_positions_of_classes():
    places = class_places(["Angry", "anger", "1.0", "b"])
    assert places == {"Angry": 0, "anger": 1, "1.0": 2, "b": 3, "angry": 0, "1": 2}
    read = label_reader(["Angry", "anger", "b"])
    assert [read(t) for t in ("Angry", "anger", "ANGER", "B", "2", "1.0")] == [(k, None) for k in (0, 1, 0, 2, 2, 1)]
    assert parse_label("007", ["7", "8"]) == (0, None)
    assert [parse_label(t, ["7", "8"])[0] for t in "0128"] == [0, 1, None, 1]


@pytest.mark.parametrize("text, said", [
    ("7", "label 7 is out of range, expected 0..6 (0 = happy)"), ("-1", "label -1 is out of range, expected 0..6"),
    ("7.0", "label 7.0 is out of range"),
    ("hapy", f"unknown label 'hapy', expected one of {', '.join(EMOTIONS)}; did you mean happy?"),
    ("nan", "unknown label 'nan', a missing value, expected one of"),
    ("", "unknown label '', expected one of happy, sad"),
    ("zzz", f"unknown label 'zzz', expected one of {', '.join(EMOTIONS)}")])
def test_what_is_said_about_a_label(text, said):
    label, fault = parse_label(text, EMOTIONS)
    assert label is None and fault.startswith(said) and (fault == said or not said.endswith(("fear", "?")))


def test_how_many_names_a_message_lists_and_when_it_guesses():
    few, many = [f"class {chr(97 + i)}" for i in range(12)], [f"name {i:04d}x" for i in range(1000)]
    assert parse_label("q", few)[1] == f"unknown label 'q', expected one of {', '.join(few)}"
    assert parse_label("q", many[:13])[1].endswith(f"expected one of {', '.join(many[:12])} ... (13 in all)")
    near = lambda text, names: parse_label(text, names)[1].partition("; did you mean ")[2].rstrip("?")
    assert near("name 0001", many[:999]) == "name 0001x" and near("name 0001", many) == ""
    long = "y" * 99
    assert near(long[:-1] + "z", [long]) == long and near(long + "z", [long]) == ""
    read = label_reader(many[:50])                # so many names: the first thousand texts get a guess, no more
    for i in range(999): read(f"q{i}")
    assert "did you mean name 0001x?" in read("name 0001")[1] and "did you mean" not in read("name 0002")[1]
    read = label_reader(many[:49])
    for i in range(1001): read(f"q{i}")
    assert "did you mean name 0002x?" in read("name 0002")[1]


def test_a_label_is_read_once(monkeypatch):
    "What is known is forgotten after ten thousand texts."
    asked, real = [], rows._read_label
    monkeypatch.setattr(rows, "_read_label", lambda text, *more, **k: (asked.append(text), real(text, *more, **k))[1])
    read = label_reader(["a", "b"])
    for text in ("a", "b", "a", "a"): read(text)
    assert asked == ["a", "b"]
    for i in range(9_998): read(str(i))
    read("a")
    assert asked.count("a") == 1
    read("new"), read("a")
    assert asked.count("a") == 2


# ---------------------------------------------------------------- paths

def test_hidden_names():
    for name in (".a", "._a.mp4", "~$a.xlsx", "__MACOSX", "Thumbs.db", "ehthumbs.db", "Desktop.ini", "@eaDir",
                 "#recycle", "$RECYCLE.BIN", "System Volume Information"): assert is_hidden(name), name
    for name in ("a.mp4", "~a", "$a", "thumbs", "macosx", "a.ini"): assert not is_hidden(name), name


@pytest.mark.parametrize("rel, want", [
    ("a.mp4", "a.mp4"), (" a.mp4\n", "a.mp4"), ("sub\\c.mp4", "sub/c.mp4"), ("./sub/../b.mp4", "b.mp4"), ("sub", "sub"),
    ("sub/", "sub"),
    ("gone.mp4", ("missing", "expected gone.mp4, found no such file or folder; unpack the clips or correct the path")),
    ("a.mp4/x", ("missing", "expected a.mp4/x, found no such file or folder")),
    ("gone/x.mp4", ("missing", "expected gone/x")),
    (".", ("row", "expected a clip, found '.', the data folder itself; name a clip in it")),
    ("", ("row", "expected a clip, found '', the data folder itself")),
    ("..", ("outside", "path '..' leaves the data folder; move the clip into ")),
    ("../x.mp4", ("outside", "path '../x.mp4' leaves the data folder")),
    ("/etc/passwd", ("outside", "path '/etc/passwd' leaves the data folder")),
    (".a.mp4", ("row", "expected a clip, found .a.mp4, the name of a hidden file; remove its row")),
    ("y" * 4096, ("missing", "expected yyy")), ("x\0y/z", ("missing", "expected x")),
    ("y" * 4097, ("row", "expected a path, found 4097 letters; check for a missing line break or a stray quote"))])
def test_paths_by_hand(take, rel, want):
    path, fault = take.locate(rel)
    if isinstance(want, str): assert (path, fault) == (os.path.join(take.root, *want.split("/")), None)
    else: assert path is None and fault[1] == want[0] and fault[0].startswith(want[1])


def test_absolute_paths_lead_out_only_where_that_is_allowed(tmp_path):
    for name in ("data/a.mp4", "other/b.mp4"):
        (tmp_path / name).parent.mkdir(); (tmp_path / name).touch()
    inside, outside = str(tmp_path / "data/a.mp4"), str(tmp_path / "other/b.mp4")
    for anywhere in (False, True):
        place = Place(tmp_path / "data", anywhere)
        assert place.locate(inside) == (inside, None)
        assert place.locate(outside)[0] == (outside if anywhere else None) and place.locate("../other/b.mp4")[0] is None
        assert place.relative(inside) == "a.mp4" and place.relative(outside) == outside


@pytest.mark.parametrize("stored, asked", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_an_accent_is_one_sign_or_two(take, stored, asked):
    name, text = (unicodedata.normalize(form, "é.mp4") for form in (stored, asked))
    open(os.path.join(take.root, name), "w").close()
    path, fault = take.locate(text)
    assert fault is None and os.path.basename(path) == name
    gone = unicodedata.normalize(asked, "è.mp4")
    fault = take.locate(gone)[1]
    assert fault[1] == "missing" and fault[0].startswith(f"expected {gone}, found")        # as the list writes it


def test_links_that_stay_and_links_that_leave(take, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "x.mp4"; other.touch()
    os.symlink(os.path.join(take.root, "a.mp4"), os.path.join(take.root, "stays.mp4"))
    os.symlink(other, os.path.join(take.root, "leaves.mp4"))
    assert take.locate("stays.mp4") == (os.path.join(take.root, "stays.mp4"), None)
    path, fault = take.locate("leaves.mp4")
    assert path is None and fault[1] == "outside"
    assert fault[0] == ("expected leaves.mp4 in the data folder, found a link that leads out of the data folder; "
                        "link the folder above it, or copy the clip")


@pytest.mark.parametrize("number, kind", [(errno.EACCES, "unreadable"), (errno.EIO, "unreadable"),
                                          *[(n, "missing") for n in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG,
                                                                     errno.ELOOP, errno.EINVAL)]])
def test_a_folder_that_cannot_be_listed(take, monkeypatch, number, kind):
    asked = []
    def refuse(folder): asked.append(folder); raise OSError(number, os.strerror(number))
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=os.path, scandir=refuse))
    for _ in range(2): path, fault = take.locate("sub/c.mp4")
    assert path is None and fault[1] == kind and len(asked) == 1                     # each folder is listed once
    if kind == "unreadable":
        assert fault[0] == (f"expected sub/c.mp4, found a folder that cannot be read ({os.strerror(number)}); "
                            "check who may read it")


def test_what_lies_outside_is_not_looked_at(take, monkeypatch):
    asked = []
    look = lambda folder: (asked.append(folder), os.scandir(folder))[1]
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=os.path, scandir=look))
    assert take.locate("../x.mp4")[1][1] == take.locate("/etc/passwd")[1][1] == "outside" and asked == []
    assert take.locate("a.mp4")[0] and asked == [take.root]


def test_a_folder_that_gives_no_reason(take, monkeypatch):
    def refuse(folder): raise PermissionError
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=os.path, scandir=refuse))
    assert "cannot be read (PermissionError)" in take.locate("sub/c.mp4")[1][0]


def test_videos_where_a_list_means_folders(take):
    for rel, want in (("sub", "sub"), ("sub/c", "sub/c.mp4"), ("a", "a.mp4"), ("gone", "gone"), ("a.mp4", "a.mp4")):
        assert take.ended(rel) == want
    for end in (".avi", ".mov", ".mkv", ".webm"):
        open(os.path.join(take.root, f"v{end[1:]}{end}"), "w").close()
        for endings in ((), (rows.ENDINGS,)):
            assert Intake(take.root, "skip").ended(f"v{end[1:]}", *endings) == f"v{end[1:]}{end}"
    assert take.ended("a", (".avi",)) == "a" and take.ended("a", rows.ENDINGS) == "a.mp4"


# ---------------------------------------------------------------- lines

QUOTE = "expected a row of cells, found a quote without a partner, or a cell without an end; correct it"
TWO = [(1, ["a.mp4", "happy"]), (2, ["b.mp4", "sad"])]


@pytest.mark.parametrize("content", [
    "a.mp4,happy\nb.mp4,sad", "a.mp4;happy\nb.mp4;sad\n", "a.mp4\thappy\r\nb.mp4\tsad\r\n", "a.mp4 happy\rb.mp4  sad\r",
    "\ufeffa.mp4,happy\n\ufeffb.mp4,sad", "a.mp4,happy\nb.mp4,sad\n\n\n" + "\0" * 9,
    "a.mp4,happy\nb.mp4,sad".encode("utf-16"), b"\xfe\xff" + "a.mp4,happy\nb.mp4,sad".encode("utf-16-be")])
def test_two_rows_in_many_ways(take, content):
    assert rows_of(take, content) == (TWO, [])
    if isinstance(content, str): assert rows_of(take, content, header=True) == (TWO, [])


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("form", ["sep={}", '"sep={}"', " SEP={} "])
def test_a_first_line_may_name_the_sign(take, sign, form):
    text = form.format(sign) + f"\na.mp4{sign}happy\nb.mp4{sign}sad"
    assert rows_of(take, text, header=True) == ([(n + 1, cells) for n, cells in TWO], [])


def test_the_sign_of_a_list_of_ones_own_is_told_by_its_header_or_its_clips(take):
    for sign in ",;\t|":
        got, faults = rows_of(take, f"path{sign}label\na.mp4{sign}x, y; z\n", header=True)
        assert got[0] == (1, ["path", "label"]) and not faults
    assert rows_of(take, "path label\na.mp4 happy\n", True)[0] == [(1, ["path", "label"]), (2, ["a.mp4", "happy"])]
    assert rows_of(take, "x;a,b\na.mp4;c,d\n", True)[0][1] == (2, ["a.mp4", "c,d"])         # of a row that names a clip
    assert rows_of(take, "x,y;z\na.mp4;1\nb.mp4\n", True)[0][1] == (2, ["a.mp4", "1"])       # a cell alone is no row
    assert rows_of(take, "x,1\ny,2\n", True)[0] == [(1, ["x", "1"]), (2, ["y", "2"])]       # none does: the first sign


def test_how_far_a_sign_is_looked_for(take):
    "Among the first hundred lines, the first twenty that are not empty."
    assert rows_of(take, "\n" * 99 + "a;1\n")[0] == [(100, ["a", "1"])]
    assert rows_of(take, "\n" * 100 + "a;1\n")[0] == [(101, ["a;1"])]
    assert rows_of(take, "x;a,b\n" * 19 + "a.mp4;c,d\n", True)[0][-1] == (20, ["a.mp4", "c,d"])
    assert rows_of(take, "x;a,b\n" * 20 + "a.mp4;c,d\n", True)[0][-1] == (21, ["a.mp4;c", "d"])


def test_letters_are_no_signs(take):
    assert rows_of(take, "aXb.mp4 1\n")[0] == [(1, ["aXb.mp4", "1"])]
    assert rows_of(take, "pathXlabel\na.mp4X1\n", True)[0] == [(1, ["pathXlabel"]), (2, ["a.mp4X1"])]


def test_a_path_with_signs_in_it_is_no_row_of_cells(take):
    "Published lists without a header: where the last cell would hold a slash, white space stands between the cells."
    assert rows_of(take, "/x,y/00001 3\n")[0] == [(1, ["/x,y/00001", "3"])]
    assert rows_of(take, "D:\\x;y\\1 3\n")[0] == [(1, ["D:\\x;y\\1", "3"])]
    assert rows_of(take, "/x/00001,3\n")[0] == [(1, ["/x/00001", "3"])]
    assert rows_of(take, "7;a/b;3\n")[0] == [(1, ["7", "a/b", "3"])]


def test_what_is_no_list_is_told(take, tmp_path, monkeypatch):
    file = tmp_path / "l.csv"
    def said(path=file):
        del take.problems[:]
        assert read_rows(str(path), take) == [] and len(take.problems) == 1 and take.problems[0].kind == "list"
        assert take.problems[0].where == str(path)
        return take.problems[0].message
    assert said() == ("expected a list file, found none that can be read (No such file or directory); check the path "
                      "and who may read it")
    assert "(a folder)" in said(tmp_path / "sub")
    os.mkfifo(tmp_path / "pipe"); assert "(a pipe or a device)" in said(tmp_path / "pipe")
    for data in (b"caf\xe9,1\n", "a,b\n".encode("utf-16-le"), "a,b\n".encode("utf-32"), b"a\0\0b\0"):
        file.write_bytes(data)
        assert said() == "expected UTF-8 text, found another encoding; save it as 'CSV UTF-8'"
    monkeypatch.setattr(rows, "MAX_FILE", 3 << 20), monkeypatch.setattr(rows, "MAX_LINES", 5)
    file.write_bytes(b"x" * (3 << 20)); take.problems.clear()
    assert read_rows(str(file), take) == [] and [p.kind for p in take.problems] == ["row"]       # one line, too long
    file.write_bytes(b"x" * (3 << 20) + b"y")
    assert said() == "expected a list of at most 3 MB and 5 lines, found 3 MB; is this the list?"
    file.write_bytes(5 * b"\n" + b"x" * (3 << 20))
    assert said() == "expected a list of at most 3 MB and 5 lines, found 3 MB; is this the list?"
    for end in (b"\n", b"\r"):
        file.write_bytes(b"x" + 5 * end)
        assert read_rows(str(file), take) == [(1, ["x"])]
        file.write_bytes(b"x" + 6 * end)
        assert said() == "expected a list of at most 3 MB and 5 lines, found 0 MB and 6 lines; is this the list?"


def test_long_lines_and_zero_bytes_are_named(take, monkeypatch):
    monkeypatch.setattr(rows, "MAX_LINE", 20)
    fits, long = "x" * 20, "x" * 21
    assert rows_of(take, f"a.mp4,1\n{fits}\n")[1] == []
    got, faults = rows_of(take, f"a.mp4,1\n{long}\nb\0,2\nb.mp4,2\n")
    assert got == [(1, ["a.mp4", "1"]), (4, ["b.mp4", "2"])] and faults == [
        ("list.csv:2", "expected a line of at most 20 letters, found 21; check for missing line breaks"),
        ("list.csv:3", "expected text, found a zero byte; write the line again")]
    zero = [("list.csv:1", "expected text, found a zero byte; write the line again")]
    assert rows_of(take, b"a.mp4,XX\0\0")[0] == [(1, ["a.mp4", "XX"])]
    assert rows_of(take, b"a\0bc") == ([], zero)                            # a quarter may be zeros
    assert rows_of(take, "a,1\n\ufeffX.mp4,2\n")[0] == [(1, ["a", "1"]), (2, ["X.mp4", "2"])]
    assert rows_of(take, f"\n{long}\na.mp4,1\n", True)[0] == []             # in place of a header: nothing can be read
    assert rows_of(take, f"a,1\n{long}\na.mp4,1\n", True)[0] == [(1, ["a", "1"]), (3, ["a.mp4", "1"])]
    assert rows_of(take, f"{long}\na.mp4,1\n")[0] == [(2, ["a.mp4", "1"])]


def test_rows_of_too_many_cells_and_quotes_without_a_partner(take):
    thousand = ",".join("x" * 1000)
    assert len(rows_of(take, thousand)[0][0][1]) == 1000
    got, faults = rows_of(take, f"a.mp4,1\n{thousand},y\nb.mp4,2\n")
    assert [n for n, _ in got] == [1, 3] and faults == [
        ("list.csv:2", "expected at most 1,000 cells, found 1001; check what stands between them")]
    got = rows_of(take, 'a.mp4,1\n"b.mp4,2\na.mp4,3\n')
    assert got == ([(1, ["a.mp4", "1"]), (3, ["a.mp4", "3"])], [("list.csv:2", QUOTE)])
    assert rows_of(take, 'a.mp4,1\nb.mp4,"2') == ([(1, ["a.mp4", "1"])], [("list.csv:2", QUOTE)])        # at the end
    assert rows_of(take, f"{thousand},y\na.mp4,1\n", True)[0] == []        # the header itself: the rest means nothing
    assert rows_of(take, "a.mp4,1\n,\n  ,\nb.mp4,2\n")[0] == [(1, ["a.mp4", "1"]), (4, ["b.mp4", "2"])]


def test_a_quote_behind_a_space_and_a_line_break_without_a_header(take):
    assert rows_of(take, 'a.mp4, "ha, ppy"\n') == ([(1, ["a.mp4", "ha, ppy"])], [])
    assert rows_of(take, '"q,\nx",happy\nb.mp4,sad\n') == ([(2, ['x"', "happy"]), (3, ["b.mp4", "sad"])],
                                                         [("list.csv:1", QUOTE)])


def test_a_quote_that_ends_in_the_middle_of_a_cell(take):
    for cell, want in (('"sa"d', "sad"), ('sa"d"', 'sa"d"')):
        assert rows_of(take, f"a.mp4,{cell}\nb.mp4,1\n") == ([(1, ["a.mp4", want]), (2, ["b.mp4", "1"])], [])


@pytest.mark.parametrize("column", ["path", "label", "split", "fold", "group", "clip", " Label "])
def test_cells_that_mean_something_hold_no_line_break(take, column):
    got, faults = rows_of(take, f'{column},note,path,label\n"x\ny",z,gone.mp4,sad\n', True)
    assert faults == [("list.csv:2", QUOTE)]
    assert rows_of(take, f'path,{column},split\na.mp4,"x\ny"\n', True)[1] == [("list.csv:2", QUOTE)]      # a short row
    got, faults = rows_of(take, f'{column},note,path,label\nx,"y\nz",gone.mp4,sad\n', True)
    assert not faults and got[1] == (2, ["x", "y\nz", "gone.mp4", "sad"])


def test_cells_over_several_lines(take):
    text = 'path,label,note\na.mp4,happy,"one\ntwo"\nb.mp4,sad,x\n'
    assert rows_of(take, text, True) == ([(1, ["path", "label", "note"]), (2, ["a.mp4", "happy", "one\ntwo"]),
                                          (4, ["b.mp4", "sad", "x"])], [])
    fault = [("list.csv:2", QUOTE)]
    text = 'path,label,note\na.mp4,happy,"one\nb.mp4,sad,x"\n'                # an open quote would swallow the next row
    assert rows_of(take, text, True) == ([(1, ["path", "label", "note"]), (3, ["b.mp4", "sad", 'x"'])], fault)
    text = 'path,label\n"a.mp4\nx",happy\nb.mp4,sad\n'                          # no clip has such a name
    got = rows_of(take, text, True)
    assert got == ([(1, ["path", "label"]), (3, ['x"', "happy"]), (4, ["b.mp4", "sad"])], fault)
    text = 'path,label\n"a.mp4\n",happy\nb.mp4,sad\n'                           # a clip has it
    assert rows_of(take, text, True) == ([(1, ["path", "label"]), (2, ["a.mp4", "happy"]), (4, ["b.mp4", "sad"])], [])
