"""`micacl get`, against a server on the loopback address that truncates, lies, sleeps, fails and forgets, and archives
that are damaged or want to leave their folder."""
import errno
import hashlib
import http.server
import io
import json
import shutil
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter, namedtuple
from pathlib import Path

import pytest

from micacl.cli import main
from micacl.core import MicaclError
from micacl.data import download
from micacl.data.download import (Remote, accept_licence, check_room, crema_remotes, fetch_all, get_set,
                                  ravdess_remotes, unpack)
from micacl.data.load import load_table
from micacl.data.open_sets import crema_clips, ravdess_clips

pooch = pytest.importorskip("pooch")
pytest.importorskip("tqdm")
QUICK = dict(progress=False, timeout=5)


class Server(http.server.ThreadingHTTPServer):
    "Files by path; `faults`: path -> list of what the next answers are like (then they are right), or one for ever."
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.awake = {}, {}, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()

    def handle_error(self, *_): pass      # a client that hangs up

    def put(self, path, content): self.files[path] = content; return remote(path, content, self)
    def close(self): self.awake.set(); self.shutdown(); self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def do_GET(self):
        path, s = self.path.lstrip("/"), self.server
        s.asked.append(path)
        fault = s.faults.get(path)
        if isinstance(fault, list): fault = fault.pop(0) if fault else None
        content = s.files.get(path)
        if content is None or fault in (404, 403, 429, 500): return self.send_error(fault or 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "wrong": content = bytes(len(content))
        if fault == "cut": content = content[:len(content) // 2]
        if fault == "slow": s.awake.wait(10)
        if callable(fault): fault()
        self.wfile.write(content)


def remote(path, content, *servers, hash=None):
    urls = tuple(f"{s.url}/{path}" for s in servers)
    return Remote(path, len(content), hash or f"sha256:{hashlib.sha256(content).hexdigest()}", urls)


@pytest.fixture
def servers():
    made = []
    yield lambda: made.append(Server()) or made[-1]
    for s in made: s.close()


@pytest.fixture
def server(servers): return servers()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    "What is waited between two tries, in seconds; nobody waits here."
    found = []
    monkeypatch.setattr(pooch.core.time, "sleep", found.append)
    return found


def left_over(folder): return [p.name for p in Path(folder).rglob("*") if p.is_file() and p.name.startswith("tmp")]


def one(server, content=b"film" * 9000): return server.put("VideoFlash/a.flv", content)


# ---------------------------------------------------------------- one file and its faults

def test_a_file_is_fetched_once_and_never_again(server, tmp_path):
    r = one(server)
    for _ in range(2): fetch_all([r], tmp_path, **QUICK)
    assert (tmp_path / r.path).read_bytes() == server.files[r.path] and server.asked == [r.path]


@pytest.mark.parametrize("fault", ["cut", "wrong", 500, 429])
def test_a_server_that_fails_twice_and_then_works(server, tmp_path, waits, fault):
    r = one(server)
    server.faults[r.path] = [fault, fault]
    fetch_all([r], tmp_path, **QUICK)
    assert (tmp_path / r.path).read_bytes() == server.files[r.path]
    assert len(server.asked) == 3 and waits == [1, 2] and not left_over(tmp_path)


@pytest.mark.parametrize("fault,words", [("cut", "the transfer broke off|no connection"), (500, "says 500"),
                                         ("wrong", "other bytes than were published"), (404, "says 404 Not Found")])
def test_a_file_that_never_comes_whole_is_not_there(server, tmp_path, waits, fault, words):
    r = one(server)
    server.faults[r.path] = fault
    with pytest.raises(MicaclError, match=words) as e: fetch_all([r], tmp_path, **QUICK)
    assert r.path in str(e.value) and "\n" not in str(e.value) and "tries again" in str(e.value)
    assert not (tmp_path / r.path).exists() and not left_over(tmp_path)
    assert len(server.asked) == 4 and waits == [1, 2, 3]                       # waits grow


def test_a_server_that_does_not_answer(server, tmp_path):
    r = one(server)
    server.faults[r.path] = "slow"
    start = time.monotonic()
    with pytest.raises(MicaclError, match="no answer in time|no connection"):
        fetch_all([r], tmp_path, retries=1, timeout=.2, progress=False)
    assert time.monotonic() - start < 5 and len(server.asked) == 2 and not (tmp_path / r.path).exists()


def test_nobody_at_the_address(servers, tmp_path):
    s = servers()
    r = one(s)
    s.shutdown(); s.server_close()
    with pytest.raises(MicaclError, match="no connection .ConnectionError"): fetch_all([r], tmp_path, **QUICK)
    s.shutdown = s.server_close = lambda: None


@pytest.mark.parametrize("there", [b"", b"film", b"film" * 8999 + b"fil!"])
def test_a_damaged_or_partial_file_is_fetched_again(server, tmp_path, there):
    r = one(server)
    (tmp_path / "VideoFlash").mkdir()
    (tmp_path / r.path).write_bytes(there)
    fetch_all([r], tmp_path, **QUICK)
    assert (tmp_path / r.path).read_bytes() == server.files[r.path]


def test_a_damaged_file_stays_as_it_is_while_nothing_better_comes(server, tmp_path):
    r = one(server)
    (tmp_path / "VideoFlash").mkdir()
    (tmp_path / r.path).write_bytes(b"half")
    server.faults[r.path] = "cut"
    with pytest.raises(MicaclError): fetch_all([r], tmp_path, **QUICK)
    assert (tmp_path / r.path).read_bytes() == b"half"


def test_the_pointer_of_git_lfs_is_not_taken_for_a_video(server, tmp_path):
    r = one(server)
    server.files[r.path] = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 36000\n"
    with pytest.raises(MicaclError, match="other bytes"): fetch_all([r], tmp_path, **QUICK)


# ---------------------------------------------------------------- servers in order

def test_the_next_server_is_asked_and_then_asked_first(servers, tmp_path):
    first, second = servers(), servers()
    files = {f"{i}.flv": bytes([i]) * 5000 for i in range(6)}
    second.files = files
    fetch_all([remote(p, c, first, second) for p, c in files.items()], tmp_path, connections=1, **QUICK)
    assert {p: (tmp_path / p).read_bytes() for p in files} == files
    assert first.asked == ["0.flv"] * 4 and second.asked == list(files)         # only the first file asked in vain


def test_it_turns_back_when_the_second_one_fails(servers, tmp_path):
    first, second = servers(), servers()
    a, b = b"a" * 500, b"b" * 500
    second.files, first.files = {"a": a}, {"b": b}
    both = [remote("a", a, first, second), remote("b", b, first, second)]
    fetch_all(both, tmp_path, connections=1, retries=0, **QUICK)
    assert (first.asked, second.asked) == (["a", "b"], ["a", "b"]) and (tmp_path / "b").read_bytes() == b


# ---------------------------------------------------------------- many files

def many(server, n=12): return [server.put(f"VideoFlash/{i:02d}.flv", bytes([i]) * 3000) for i in range(n)]


def test_one_lost_file_keeps_no_other(server, tmp_path):
    files = many(server)
    server.faults[files[5].path] = 404
    with pytest.raises(MicaclError, match="expected 12 files, found 1 that no server had .first: VideoFlash/05.flv"):
        fetch_all(files, tmp_path, **QUICK)
    assert len(list((tmp_path / "VideoFlash").iterdir())) == 11
    del server.faults[files[5].path]
    server.asked.clear()
    fetch_all(files, tmp_path, **QUICK)
    assert server.asked == [files[5].path]                                     # it resumes with what is missing


def test_it_gives_up_when_the_network_is_gone(server, tmp_path):
    files = many(server, 40)
    for f in files[4:]: server.faults[f.path] = 500
    with pytest.raises(MicaclError, match="and gave up"): fetch_all(files, tmp_path, retries=0, connections=1, **QUICK)
    assert len(server.asked) == 7                                   # four that came, three in a row that did not


def test_an_interrupted_run_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    files, real = many(server), pooch.Pooch.fetch

    def fetch(self, name, **kw):
        if name.endswith("07.flv"): raise KeyboardInterrupt
        return real(self, name, **kw)
    monkeypatch.setattr(pooch.Pooch, "fetch", fetch)
    with pytest.raises(KeyboardInterrupt): fetch_all(files, tmp_path, connections=1, **QUICK)
    there = {p.name for p in (tmp_path / "VideoFlash").iterdir()}
    assert there == {f"{i:02d}.flv" for i in range(7)} and not left_over(tmp_path)
    monkeypatch.setattr(pooch.Pooch, "fetch", real)
    server.asked.clear()
    fetch_all(files, tmp_path, **QUICK)
    assert sorted(server.asked) == [f.path for f in files[7:]]


def test_a_transfer_under_way_is_broken_off_too(server, tmp_path, monkeypatch):
    "Ctrl-C while a large file comes: nobody waits for its end."
    big, small = server.put("big", bytes(30_000_000)), server.put("small", b"x")
    slowly, real = threading.Event(), download._Bar.update

    def update(self, n):
        slowly.wait(.02)
        return real(self, n)
    monkeypatch.setattr(download._Bar, "update", update)
    begun, fetch = [], pooch.Pooch.fetch

    def stop(self, name, **kw):
        if name == "small":
            time.monotonic(); slowly.wait(.3)
            raise KeyboardInterrupt
        begun.append(name)
        return fetch(self, name, **kw)
    monkeypatch.setattr(pooch.Pooch, "fetch", stop)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt): fetch_all([small, big], tmp_path, connections=2, **QUICK)
    assert begun == ["big"] and time.monotonic() - start < 5                     # 458 portions of .02 s would be 9
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_says_so_before_the_first_byte(server, tmp_path, monkeypatch):
    files = many(server)
    (tmp_path / "VideoFlash").mkdir()
    (tmp_path / files[0].path).write_bytes(server.files[files[0].path])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 32_999, 32_999))
    with pytest.raises(MicaclError, match="GB of room"): fetch_all(files, tmp_path, **QUICK)
    assert not server.asked
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 33_000, 33_000))
    fetch_all(files, tmp_path, **QUICK)                                        # what is there needs no room
    assert len(server.asked) == 11


def test_a_disk_that_fills_up_on_the_way_stops_everything(server, tmp_path, monkeypatch):
    files = many(server)

    def full(*_, **__): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(OSError, match="No space left"): fetch_all(files, tmp_path, connections=1, **QUICK)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_room_is_asked_of_the_disk_that_will_hold_a_new_folder(tmp_path):
    check_room(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(MicaclError, match="expected 1000000.00 GB of room"): check_room(tmp_path / "not", 10**15)


def test_the_bar_ends_at_the_size_of_all_files(server, tmp_path, monkeypatch):
    import tqdm
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *a, **k): super().__init__(*a, **k, file=io.StringIO()); bars.append(self)
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    files = many(server, 5)
    server.faults[files[1].path] = ["cut", "wrong"]
    fetch_all(files[:2], tmp_path, timeout=5)
    fetch_all(files, tmp_path, timeout=5)                                      # two of them are there
    assert [(b.n, b.total) for b in bars] == [(6000, 6000), (15000, 15000)]
    long = server.put("long", bytes(400_000))                                  # of several portions
    server.faults["long"] = "cut"
    with pytest.raises(MicaclError): fetch_all([long, files[1]], tmp_path / "other", timeout=5)
    assert bars[-1].n == 3000                                                  # halves that came in vain do not count


# ---------------------------------------------------------------- the sets

def test_crema_d_is_asked_for_at_its_mirror_and_at_its_source():
    remotes = {r.path: r for r in crema_remotes()}
    assert len(remotes) == 7446 and sum(r.size for r in remotes.values()) == 2_447_532_487
    r = remotes["VideoFlash/1001_DFA_ANG_XX.flv"]
    assert (r.size, r.hash) == (265922, "sha256:10dc3fd1f2bc8203657431598bd7dc9312462008f93d08fda786043ae6a8d2f4")
    assert r.urls == (
        "https://gitlab.com/cs-cooper-lab/crema-d-mirror/-/raw/master/VideoFlash/1001_DFA_ANG_XX.flv",
        "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master/VideoFlash/1001_DFA_ANG_XX.flv")
    assert remotes["VideoDemographics.csv"].urls[1] == (
        "https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master/VideoDemographics.csv")
    assert {p for p in remotes if not p.endswith(".flv")} == {
        "LICENSE.txt", "VideoDemographics.csv", "processedResults/summaryTable.csv",
        "processedResults/tabulatedVotes.csv"}


def test_what_is_fetched_can_be_read(server, tmp_path, monkeypatch):
    remotes = [server.put(f"VideoFlash/{c}.flv", c.encode()) for c in crema_clips()[:20]]
    monkeypatch.setattr(download, "crema_remotes", lambda: remotes)
    assert get_set("crema-d", tmp_path / "new" / "CREMA-D", accepted=True, **QUICK) == 20
    t = load_table(tmp_path / "new" / "CREMA-D")
    assert t.dataset == "crema-d" and [c.id for c in t] == crema_clips()[:20]


def archive(actor, files=None, sound=True):
    f, clips = io.BytesIO(), [c for c in ravdess_clips() if c.endswith(f"-{actor:02d}")]
    with zipfile.ZipFile(f, "w") as z:
        for name, content in (files or {f"Actor_{actor:02d}/{kind}{c[2:]}.mp4": f"{kind} {c}" * 9 for c in clips
                                        for kind in (("01", "02") if sound else ("02",))}).items():
            z.writestr(name, content)
    return f.getvalue()


def zenodo(server, archives):
    "A record in the form of Zenodo's interface."
    files = []
    for actor, content in archives.items():
        key = f"Video_Speech_Actor_{actor:02d}.zip"
        server.files[f"files/{key}/content"] = content
        files.append(dict(key=key, size=len(content), checksum=f"md5:{hashlib.md5(content).hexdigest()}",
                          links=dict(self=f"{server.url}/files/{key}/content")))
    files.append(dict(key="Audio_Speech_Actors_01-24.zip", size=1, checksum="md5:0", links=dict(self="x")))
    server.files["record"] = json.dumps(dict(id=1188976, files=files)).encode()
    return f"{server.url}/record"


def test_ravdess_from_the_record_to_a_table(server, tmp_path):
    record, folder = zenodo(server, {a: archive(a) for a in (1, 2)}), tmp_path / "RAVDESS"
    assert get_set("ravdess", folder, accepted=True, record=record, **QUICK) == 120
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert Counter(n.rpartition("/")[2][:5] for n in names) == {"02-01": 120, ".mica": 1}       # no sound, no archive
    t = load_table(folder)
    assert t.dataset == "ravdess" and len(t) == 104 and len(server.asked) == 3
    assert get_set("ravdess", folder, accepted=True, record=record, **QUICK) == 120
    assert server.asked[3:] == ["record"]                                      # what is there is not fetched again
    (folder / "Actor_02" / names[-1].rpartition("/")[2]).unlink(missing_ok=True)
    next((folder / "Actor_02").iterdir()).unlink()
    get_set("ravdess", folder, accepted=True, record=record, **QUICK)
    assert server.asked[4:] == ["record", "files/Video_Speech_Actor_02.zip/content"] and len(load_table(folder)) == 104


def test_an_archive_that_changed_on_zenodo_is_fetched_again(server, tmp_path):
    get_set("ravdess", tmp_path, accepted=True, record=zenodo(server, {1: archive(1)}), **QUICK)
    record = zenodo(server, {1: archive(1, sound=False)})
    server.asked.clear()
    get_set("ravdess", tmp_path, accepted=True, record=record, **QUICK)
    assert len(server.asked) == 2


def test_a_wrong_archive_is_not_unpacked(server, tmp_path):
    record = zenodo(server, {1: archive(1), 2: archive(2)})
    server.faults["files/Video_Speech_Actor_02.zip/content"] = "wrong"
    with pytest.raises(MicaclError, match="Video_Speech_Actor_02.zip: other bytes"):
        get_set("ravdess", tmp_path, accepted=True, record=record, **QUICK)
    assert (tmp_path / "Actor_01").is_dir() and not (tmp_path / "Actor_02").exists()
    assert not list(tmp_path.glob("*.zip"))


def test_ravdess_asks_for_room_for_the_archives_and_what_comes_out(server, tmp_path, monkeypatch):
    content = archive(1)
    record = zenodo(server, {1: content, 2: content})
    free = 3 * len(content) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("u", "total used free")(free, 0, free))
    with pytest.raises(MicaclError, match="GB of room"):
        get_set("ravdess", tmp_path, accepted=True, record=record, **QUICK)
    assert server.asked == ["record"]


@pytest.mark.parametrize("text,words", [(b"{}", "another form"), (b"not json", "expected JSON"),
                                        (b'{"files": [{"key": "Video_Speech_Actor_01.zip"}]}', "another form")])
def test_a_record_of_another_form(server, tmp_path, text, words):
    server.files["record"] = text
    with pytest.raises(MicaclError, match=words) as e:
        get_set("ravdess", tmp_path, accepted=True, record=f"{server.url}/record", **QUICK)
    assert "\n" not in str(e.value)


def test_only_archives_of_speech_are_taken():
    f = lambda key: dict(key=key, size=1, checksum="md5:1", links=dict(self="u"))
    keys = ["Video_Speech_Actor_01.zip", "Video_Song_Actor_01.zip", "../Video_Speech_Actor_01.zip", "x.zip"]
    assert [r.path for r in ravdess_remotes(dict(files=[*map(f, keys)]))] == keys[:1]


# ---------------------------------------------------------------- archives

def zipped(path, members):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in members: z.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../stolen.txt", "a/../../stolen.txt", "/etc/stolen.txt", "..\\stolen.txt",
                                  "C:/stolen.txt", "C:\\stolen.txt"])
def test_an_archive_that_leaves_its_folder_is_refused_as_a_whole(tmp_path, name):
    info = zipfile.ZipInfo("x"); info.filename = name
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z: z.writestr("good.txt", "good"); z.writestr(info, "bad")
    (tmp_path / "out").mkdir()
    with pytest.raises(MicaclError, match="nothing was unpacked"): unpack(tmp_path / "a.zip", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    info = zipfile.ZipInfo("link"); info.external_attr = 0o120777 << 16
    zipped(tmp_path / "a.zip", [(info, "/etc"), ("link/passwd", "x")])
    (tmp_path / "out").mkdir()
    with pytest.raises(MicaclError, match="found 'link'"): unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b.replace(b"last" * 50, b"l0st" * 50, 1),
                                    lambda b: b"", lambda b: b"<html>quota</html>"])
def test_a_damaged_archive_leaves_nothing(tmp_path, damage):
    whole = zipped(tmp_path / "a.zip", [("A/first.mp4", "first" * 50), ("A/last.mp4", "last" * 50)]).read_bytes()
    (tmp_path / "a.zip").write_bytes(damage(whole))
    (tmp_path / "out").mkdir()
    with pytest.raises(MicaclError, match="damaged one") as e: unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()) and "\n" not in str(e.value)


def test_unpack_takes_what_is_wanted(tmp_path):
    zipped(tmp_path / "a.zip", [("A/", ""), ("A/1.mp4", "one"), ("A/2.txt", "two")])
    (tmp_path / "out" / "A").mkdir(parents=True)
    (tmp_path / "out" / "A" / "mine.txt").write_text("stays")
    assert unpack(tmp_path / "a.zip", tmp_path / "out", lambda n: n.endswith(".mp4")) == {"A/1.mp4": 3}
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["1.mp4", "A", "mine.txt"]


# ---------------------------------------------------------------- a network out of an npm package

NETWORK = {"package/model/face_expression_model.bin": b"weights" * 999, "package/LICENSE": b"MIT"}


def package(server, monkeypatch, members=None, path="face-api.tgz"):
    "An archive with other files and traps beside those that are wanted."
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w:gz") as t:
        for name, content in [("../stolen.txt", b"outside"), *(NETWORK if members is None else members).items(),
                              ("package/model/face_recognition_model.bin", b"other")]:
            m = tarfile.TarInfo(name)
            m.size = len(content)
            t.addfile(m, io.BytesIO(content))
        link = tarfile.TarInfo("package/LICENSE/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(link)
    r = server.put(path, f.getvalue())
    monkeypatch.setattr(download, "expression_remote", lambda: r)
    monkeypatch.setattr(download, "EXPRESSION_FILES", {n: (len(c), hashlib.sha256(c).hexdigest())
                                                       for n, c in NETWORK.items()})
    return r


def names(folder): return sorted(p.name for p in folder.rglob("*"))


def test_three_files_are_kept_of_the_package_and_fetched_once(server, tmp_path, monkeypatch):
    r, folder = package(server, monkeypatch), tmp_path / "net"
    for _ in range(2): assert get_set("face-expression", folder, accepted=True, **QUICK) == 2
    assert server.asked == [r.path] and names(folder) == ["LICENSE", "face_expression_model.bin"]
    assert (folder / "face_expression_model.bin").read_bytes() == b"weights" * 999
    assert names(tmp_path) == ["LICENSE", "face_expression_model.bin", "net"]              # and nothing outside
    (folder / "face_expression_model.bin").write_bytes(b"weights" * 998 + b"weighty")
    get_set("face-expression", folder, accepted=True, **QUICK)               # damaged: fetched again
    assert len(server.asked) == 2 and (folder / "face_expression_model.bin").read_bytes() == b"weights" * 999


@pytest.mark.parametrize("members, words", [
    ({}, "holds package/model/face_expression_model.bin, found none of that name and size"),
    ({**NETWORK, "package/LICENSE": b"MIX"}, "holds package/LICENSE, found other bytes"),
    ({**NETWORK, "package/LICENSE": b"longer"}, "holds package/LICENSE, found none of that name and size")])
def test_a_package_with_other_files_leaves_nothing(server, tmp_path, monkeypatch, members, words):
    package(server, monkeypatch, members)
    with pytest.raises(MicaclError, match=words) as e:
        get_set("face-expression", tmp_path / "{x}", accepted=True, **QUICK)
    assert "\n" not in str(e.value) and names(tmp_path / "{x}") == ["face-api.tgz"]


@pytest.mark.parametrize("damage", [lambda c: c[:200], lambda c: b"", lambda c: b"text",
                                    lambda c: c[:100] + bytes(60) + c[160:]])
def test_a_damaged_package_is_one_line(server, tmp_path, monkeypatch, damage):
    r = package(server, monkeypatch)
    server.put(r.path, damage(server.files[r.path]))
    monkeypatch.setattr(download, "expression_remote", lambda: remote(r.path, server.files[r.path], server))
    with pytest.raises(MicaclError, match="expected a whole .tgz file") as e:
        get_set("face-expression", tmp_path / "x", accepted=True, **QUICK)
    assert "\n" not in str(e.value) and names(tmp_path / "x") == ["face-api.tgz"]


def test_other_bytes_than_the_package_was_published_with(server, tmp_path, monkeypatch):
    r = package(server, monkeypatch)
    server.faults[r.path] = "wrong"
    with pytest.raises(MicaclError, match="other bytes than were published"):
        get_set("face-expression", tmp_path / "x", accepted=True, **QUICK)
    assert names(tmp_path / "x") == []


def test_where_the_network_is_asked_for():
    r = download.expression_remote()
    assert r.urls == ("https://registry.npmjs.org/@vladmandic/face-api/-/face-api-1.7.15.tgz",)
    assert (r.size, r.hash[:15]) == (12_677_476, "sha256:0d77fffe")
    assert {n.rpartition("/")[2] for n in download.EXPRESSION_FILES} == {
        "face_expression_model.bin", "face_expression_model-weights_manifest.json", "LICENSE"}


def test_the_command_for_the_network_says_what_to_do_with_it(server, tmp_path, monkeypatch, capsys):
    package(server, monkeypatch)
    assert main(["get", "face-expression", str(tmp_path / "net"), "--accept-licence"]) == 0
    said = capsys.readouterr().out
    assert "MIT" in said and "scraped from\nthe web" in said and f"--second {tmp_path / 'net'}" in said


# ---------------------------------------------------------------- the licence, and the command

class Terminal(io.StringIO):
    def isatty(self): return True


@pytest.mark.parametrize("name,words", [("crema-d", "Open Database License"), ("ravdess", "NonCommercial"),
                                        ("face-expression", "MIT")])
def test_the_licence_is_shown_and_nothing_is_fetched_without_it(server, tmp_path, monkeypatch, capsys, name, words):
    monkeypatch.setattr(download, "crema_remotes", lambda: [one(server)])
    monkeypatch.setattr(download, "expression_remote", lambda: one(server))
    how = dict(record=f"{server.url}/record", **QUICK)
    monkeypatch.setattr(sys, "stdin", Terminal())
    for answer in ("", "no", "y"):
        with pytest.raises(MicaclError, match="found another answer; nothing was fetched"):
            get_set(name, tmp_path / "x", ask=lambda _, a=answer: a, **how)
    assert words in capsys.readouterr().out and not server.asked and not (tmp_path / "x").exists()
    for stdin in (io.StringIO("yes\n"), None):                                 # a pipe is nobody who reads
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(MicaclError, match="--accept-licence"):
            get_set(name, tmp_path / "x", ask=lambda _: "yes", **how)
    assert not server.asked


def test_yes_is_asked_for_before_the_first_byte(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "crema_remotes", lambda: [one(server)])
    monkeypatch.setattr(sys, "stdin", Terminal())
    seen = []

    def ask(question): seen.append((list(server.asked), capsys.readouterr().out)); return " Yes "
    get_set("crema-d", tmp_path, ask=ask, **QUICK)
    assert seen[0][0] == [] and "Open Database License" in seen[0][1] and len(server.asked) == 1


def test_an_accepted_licence_is_shown_all_the_same(capsys):
    accept_licence("ravdess", accepted=True)
    assert "Livingstone" in capsys.readouterr().out


def test_the_command(server, tmp_path, monkeypatch, capsys):
    r = one(server)
    monkeypatch.setattr(download, "crema_remotes", lambda: [r])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    folder = tmp_path / "CREMA-D"
    assert main(["get", "crema-d", str(folder)]) == 1
    said = capsys.readouterr()
    assert "--accept-licence" in said.err and said.err.count("\n") == 1 and not server.asked
    assert main(["get", "crema-d", str(folder), "--accept-licence"]) == 0
    assert f"Next: micacl check {folder}" in capsys.readouterr().out and (folder / r.path).is_file()
    server.faults[r.path], server.files[r.path] = 404, b""
    (folder / r.path).unlink()
    assert main(["get", "crema-d", str(folder), "--accept-licence"]) == 1
    assert "404" in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    def stop(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr(download, "fetch_all", stop)
    assert main(["get", "crema-d", str(tmp_path), "--accept-licence"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pooch", "tqdm"])
def test_without_the_extra_it_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MicaclError, match=r"pip install \"micacl\[get\]\""): get_set("crema-d", tmp_path, accepted=True)


def test_an_unknown_set_is_an_error(tmp_path):
    with pytest.raises(MicaclError, match="expected one of crema-d, ravdess, face-expression; found 'dfew'"):
        get_set("dfew", tmp_path)
