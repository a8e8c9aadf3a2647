"""Paths by the rules of Windows and of other systems: Windows is played with `ntpath` on a disk that lies below the
current folder."""
import ntpath
import os
import posixpath
import types

import pytest

from micacl.data import table as clips
from micacl.data import custom
from micacl.data import load as datasets
from micacl.data import readers as lists
from micacl.data import rows
from micacl.data.table import Clip, ClipTable, Intake, Place, write_clips
from micacl.core import EMOTIONS, MicaclError, atomic_write
from micacl.data.load import check_dataset, load_table
from micacl.data.rows import slashed, within
from test_load import FOLD, LABELS, dfew_clips, dfew_lists, ferv_clips, ferv_lists, mafw_clips, mafw_lists, write


def there(path):
    "Where Windows' path lies on the disk that is played: C:\\Data is ./C:/data, in letters of any size."
    at = "."
    for part in os.fspath(path).replace("\\", "/").split("/"):
        names = os.listdir(at) if os.path.isdir(at) else []
        at = f"{at}/{next((n for n in names if n.lower() == part.lower()), part)}"
    return at


@pytest.fixture
def windows(monkeypatch, tmp_path):
    "The modules see Windows' rules for paths; `C:` is a folder of the current folder. Gives that folder."
    played = types.SimpleNamespace(path=ntpath, R_OK=os.R_OK, access=lambda p, mode: os.access(there(p), mode),
                                   stat=lambda p: os.stat(there(p)), scandir=lambda p: os.scandir(there(p)))
    for module in (rows, clips, lists, custom, datasets): monkeypatch.setattr(module, "os", played)
    monkeypatch.setattr(clips, "atomic_write", lambda p, *mode: atomic_write(there(p), *mode))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(**folders):
    "A Place-like stub for disks that cannot be played: {folder: names}."
    return lambda self, folder: {ntpath.normcase(n): False
                                 for n in {ntpath.normcase(k): v for k, v
                                           in folders.items()}.get(ntpath.normcase(folder), ())}


# ---------------------------------------------------------------- the two helpers

@pytest.mark.parametrize("system, path, folder, want", [
    (ntpath, r"C:\data\a.mp4", r"C:\data", True), (ntpath, r"c:\DATA\A.mp4", r"C:\data", True),
    (ntpath, "C:/data/a.mp4", r"C:\data", True),
    (ntpath, r"C:\data", r"C:\data", True), (ntpath, r"C:\data2\a.mp4", r"C:\data", False),
    (ntpath, r"D:\data\a.mp4", r"C:\data", False),
    (ntpath, r"C:\a.mp4", "C:\\", True), (ntpath, r"D:\a.mp4", "C:\\", False),
    (ntpath, r"\\server\share\data\a.mp4", r"\\SERVER\Share\data", True),
    (ntpath, r"\\server\other\a.mp4", r"\\server\share", False), (ntpath, r"C:\data\a.mp4", r"\\server\share", False),
    (posixpath, "/data/a.mp4", "/data", True), (posixpath, "/DATA/a.mp4", "/data", False),
    (posixpath, "/data2", "/data", False), (posixpath, "/a", "/", True),
    (posixpath, "/data", "/data", True), (posixpath, "/data/a\\b", "/data", True)])
def test_within(monkeypatch, system, path, folder, want):
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=system))
    assert within(path, folder) is want


def test_slashed(monkeypatch):
    for system, want in ((ntpath, "a/b/c"), (posixpath, r"a\b/c")):
        monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=system))
        assert slashed(r"a\b/c") == want


# ---------------------------------------------------------------- one path of a list

@pytest.mark.parametrize("rel, want", [
    ("a.mp4", r"C:\data\a.mp4"), ("A.MP4", r"C:\data\A.MP4"), (r"sub\b.mp4", r"C:\data\sub\b.mp4"),
    ("sub/b.mp4", r"C:\data\sub\b.mp4"),
    (r"sub\../sub/b.mp4", r"C:\data\sub\b.mp4"), (r"C:\data\a.mp4", r"C:\data\a.mp4"),
    ("c:/Data/sub/B.mp4", r"c:\Data\sub\B.mp4"), (r".\a.mp4", r"C:\data\a.mp4"),
    (r"D:\clips\x.mp4", "outside"), (r"..\secret.mp4", "outside"), (r"sub\..\..\secret.mp4", "outside"),
    (r"\secret.mp4", "outside"), ("/data/a.mp4", r"C:\data\a.mp4"),
    ("C:a.mp4", "outside"), ("c:sub/b.mp4", "outside"), ("D:x.mp4", "outside"), ("C:", "outside"),
    (r"\\server\share\x.mp4", "outside"), (r"C:\data2\a.mp4", "outside"),
    ("gone.mp4", "missing"), ("a.mp4:stream", "missing"), ("NUL.mp4", "missing"), ("a.mp4.", "missing"),
    ("sub", r"C:\data\sub")])
def test_paths_of_a_list_on_windows(windows, rel, want):
    write(windows, {"C:/data/a.mp4": b"x", "C:/data/sub/b.mp4": b"x", "C:/secret.mp4": b"x", "C:/data2/a.mp4": b"x",
                    "D:/clips/x.mp4": b"x", "D:/x.mp4": b"x"})
    path, fault = Place("C:/data").locate(rel)
    assert (path or fault[1]) == want and (path is None) == (fault is not None)


@pytest.mark.parametrize("rel, want", [(r"D:\clips\x.mp4", r"D:\clips\x.mp4"), ("d:/clips/X.mp4", r"d:\clips\X.mp4"),
                                       (r"\secret.mp4", r"C:\secret.mp4"),
                                       ("D:x.mp4", "outside"), ("C:secret.mp4", "outside"),
                                       (r"..\secret.mp4", "outside")])
def test_a_list_of_ones_own_may_name_another_drive(windows, rel, want):
    write(windows, {"C:/data/a.mp4": b"x", "C:/secret.mp4": b"x", "D:/clips/x.mp4": b"x", "D:/x.mp4": b"x"})
    path, fault = Place("C:/data", anywhere=True).locate(rel)
    assert (path or fault[1]) == want


@pytest.mark.parametrize("rel, anywhere, want", [
    ("a.mp4", False, r"\\server\share\data\a.mp4"), (r"\\SERVER\share\data\sub\b.mp4", False,
                                                     r"\\SERVER\share\data\sub\b.mp4"),
                                                     (r"\\server\share\x.mp4", False, "outside"),
    ("//server/share/data/a.mp4", False, r"\\server\share\data\a.mp4"),
    (r"\\other\share\x.mp4", True, r"\\other\share\x.mp4"), (r"..\..\..\x.mp4", False, "outside"),
    ("C:\\x.mp4", False, "outside")])
def test_the_data_folder_on_a_server(monkeypatch, rel, anywhere, want):
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=ntpath))
    monkeypatch.setattr(Place, "names", listed(**{r"\\server\share\data": ["a.mp4"],
                                                  r"\\server\share\data\sub": ["b.mp4"], r"\\other\share": ["x.mp4"],
                                                  "\\\\other\\share\\": ["x.mp4"], "C:\\": ["x.mp4"]}))
    path, fault = Place(r"\\server\share\data", anywhere).locate(rel)
    assert (path or fault[1]) == want


def test_the_data_folder_is_a_whole_drive(monkeypatch):
    monkeypatch.setattr(rows, "os", types.SimpleNamespace(path=ntpath))
    monkeypatch.setattr(Place, "names", listed(**{"E:\\": ["a.mp4"], "E:\\sub": ["b.mp4"]}))
    place = Place("E:\\")
    assert (place.locate("A.mp4")[0] == r"E:\A.mp4" and place.locate(r"sub\b.mp4")[0] == r"E:\sub\b.mp4"
            and place.locate("D:/a.mp4")[1][1] == "outside")


@pytest.mark.parametrize("rel, want", [("sub\\a.mp4", "/sub/a.mp4"), ("C:a.mp4", "/C:a.mp4"), ("..\\a.mp4", "outside"),
                                       ("C:\\data\\a.mp4", "missing"), ("A.mp4", "missing"), ("sub/A.mp4", "missing")])
def test_the_same_rows_elsewhere(tmp_path, rel, want):
    "Backslashes separate on every system; a drive is a drive on Windows only, and names differ by their letters' size."
    write(tmp_path, {"sub/a.mp4": b"x", "C:a.mp4": b"x", "a.mp4": b"x"})
    path, fault = Place(tmp_path).locate(rel)
    assert (path or fault[1]) == (f"{tmp_path}{want}" if want[0] == "/" else want)


def test_a_junction_is_a_link(tmp_path):
    entry = types.SimpleNamespace(is_symlink=lambda: False, is_junction=lambda: True)
    assert rows._is_link(entry) is True
    def refused(): raise PermissionError
    assert rows._is_link(types.SimpleNamespace(is_symlink=refused)) is True
    (tmp_path / "a.mp4").touch()
    assert Place(tmp_path).names(str(tmp_path)) == {"a.mp4": False}


# ---------------------------------------------------------------- whole lists

def test_a_csv_on_windows(windows):
    text = ("path,label,split\na.mp4,happy,train\nsub\\b.mp4,sad,train\nSUB/B.MP4,sad,train\nC:\\Data\\c.mp4,sad,test\n"
            "D:\\more\\d.mp4,happy,test\n..\\e.mp4,sad,train\nC:a.mp4,sad,train\ngone.mp4,sad,train\n")
    write(windows, {"C:/data/clips.csv": text, **{f"C:/data/{n}": b"x" for n in ("a.mp4", "sub/b.mp4", "c.mp4")},
                    "D:/more/d.mp4": b"x", "C:/e.mp4": b"x"})
    for root in ("C:/data", "C:/data/clips.csv", "C:/data/"):
        t = load_table(root)
        assert [(c.id, str(c.path)) for c in t] == [("a.mp4", r"C:\data\a.mp4"), ("sub/b.mp4", r"C:\data\sub\b.mp4"),
                                                    ("C:/Data/c.mp4", r"C:\Data\c.mp4"),
                                                    ("D:/more/d.mp4", r"D:\more\d.mp4")]
        assert ([p.kind for p in t.problems] == ["duplicate", "outside", "outside", "missing"]
                and t.notes == ["1 clip lies outside the data folder, where the list names them"])
    report = check_dataset("C:/data")
    assert report.ok and report.kinds == dict(outside=2, duplicate=1, missing=1), str(report)


def test_lists_are_written_on_windows_as_elsewhere(windows):
    "Relative below the folder, whole paths on another drive, and ids that are the same on every system."
    write(windows, {"C:/data/sub/a.mp4": b"x", "C:/data/b.mp4": b"x", "D:/c.mp4": b"x"})
    t = ClipTable([Clip("sub/a.mp4", r"C:\Data\sub\a.mp4", 0, "train"), Clip("b.mp4", "c:/data/b.mp4", 1, "train"),
                   Clip("D:/c.mp4", r"D:\c.mp4", 1, "test")], root="C:/data")
    write_clips(t, r"c:\data\folds.csv")
    lines = (windows / "C:/data/folds.csv").read_text().splitlines()
    assert lines == ["path,label,split,fold,group", "sub/a.mp4,happy,train,,", "b.mp4,sad,train,,",
                     "D:/c.mp4,sad,test,,"]
    with pytest.raises(MicaclError, match="paths in it are relative"): write_clips(t, r"D:\data\folds.csv")
    with pytest.raises(MicaclError, match="paths in it are relative"): write_clips(t, r"C:\data\sub\folds.csv")


@pytest.mark.parametrize("files, dataset, n", [
    ({**dfew_clips("C:/set/Clip/Clip_224x224/clip_224x224/{i:05d}/1.jpg"),
      **{"C:/set/" + k: v for k, v in dfew_lists().items()}}, "dfew", 35),
    ({**dfew_clips("C:/set/Clip/clip_224x224/{i:05d}/1.jpg"),
      **{f"C:/set/DFEW_set_{k}_{p}.txt": "\n".join(f"D:\\x\\{i:05d} 9 {LABELS[i] - 1}" for i in LABELS
                                                   if (FOLD[i] == k) == (p == "test")) for k in range(1, 6)
                                                   for p in ("train", "test")}}, "dfew", 35),
    ({**ferv_clips("C:/set/2_ClipsforFaceCrop/ACTION/{e}/{i:04d}/1.jpg"),
      **{"C:/set/" + k: v for k, v in ferv_lists("D:\\my data\\Action\\{e}\\{i:04d} {e}").items()}}, "ferv39k", 7),
    ({**ferv_clips("C:/set/2_ClipsforFaceCrop/Action/{e}/{i:04d}.MP4"),
      **{"C:/set/" + k: v for k, v in ferv_lists().items()}}, "ferv39k", 7),
    ({**mafw_clips("C:/set/data/clips/{i:05d}.mp4"), **{"C:/set/" + k: v for k, v in mafw_lists().items()}}, "mafw",
     20)])
def test_published_sets_on_windows(windows, files, dataset, n):
    write(windows, files)
    t = load_table("C:/set")
    assert ((t.dataset, len(t), [str(p) for p in t.problems]) == (dataset, n, [])
            and all(str(c.path).startswith("C:\\set\\") for c in t))
    assert t.folds == ([] if dataset == "ferv39k" else [1, 2, 3, 4, 5])


def test_folders_are_walked_with_forward_slashes(windows):
    write(windows, {"C:/set/part2/Clip/Clip_224x224/00007/1.jpg": b"", "C:/set/dfew/split_01/train.csv": "",
                    "C:/set/a.zip": b""})
    walk = lists.walk_folders("C:\\set")
    assert ("C:/set/part2/Clip", ["Clip_224x224"]) in walk and "\\" not in str(walk)
    assert [str(f) for f in lists.find_lists(walk, lists.DFEW_LISTS).values()] == ["C:/set/dfew/split_01/train.csv"]
    assert (lists.numbered_clips(walk, lists.DFEW_CLIPS)[1] == {7: "00007"}
            and lists._why_none(walk, ()) == "; unpack a.zip")


def test_one_file_has_one_row(tmp_path):
    "Under two ids as well: it would be trained on and tested."
    write(tmp_path,
          {"clips.csv": f"path,label,split\na.mp4,happy,train\n{tmp_path}/a.mp4,happy,test\nb.mp4,sad,train\n",
           "a.mp4": b"x", "b.mp4": b"x"})
    t = load_table(tmp_path)
    assert ([c.id for c in t] == ["a.mp4", "b.mp4"] and [(p.kind, p.where) for p in t.problems]
            == [("duplicate", "clips.csv:3")])
    take = Intake(tmp_path, "skip")
    take.add("x:1", "1", "a.mp4", 0); take.add("x:2", "2", "a.mp4", 0)
    assert [c.id for c in take.clips] == ["1"] and "stands at x:1 already" in str(take.problems[0])


def test_clips_of_the_current_folder_are_written_relative(tmp_path, monkeypatch):
    write(tmp_path, {"a.mp4": b"x", "s/b.mp4": b"x"})
    monkeypatch.chdir(tmp_path)
    write_clips(ClipTable([Clip("a.mp4", "a.mp4", 0, "train"), Clip("s/b.mp4", "s/b.mp4", 1, "train")]), "l.csv")
    t = load_table("l.csv")
    assert ([(c.id, c.path) for c in t] == [("a.mp4", tmp_path / "a.mp4"), ("s/b.mp4", tmp_path / "s/b.mp4")]
            and t.classes == EMOTIONS)
