"What a clip is, and frames that are decoded once: nothing stale is ever served, nothing is decoded twice."
import ntpath, os, shutil, threading, weakref
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np, pytest
from PIL import Image

from micacl.data import cache as K
from micacl.data import frames as D
from micacl.data.cache import FrameCache, clip_content, clip_stamp, fingerprint
from micacl.core import MicaclError
from micacl.train.config import Config
from micacl.data.load import Clip, ClipTable
from micacl.data.bags import ClipDataset, ClipError, frame_indices, read_frames
from test_bags import picture_frames, write_video

CONFIG = Config(image_size=32)


def write_pictures(folder, frames):
    folder.mkdir(exist_ok=True)
    for i, x in enumerate(frames, 1): Image.fromarray(x).save(folder / f"{i}.png")
    return folder


def build(table, folder, size=32, **options): return FrameCache.build(table, folder, size, progress=False, **options)
def files(folder): return sorted(p.name for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock")


@pytest.fixture
def clips(tmp_path):
    root = tmp_path / "clips"; root.mkdir()
    for name, n in dict(a=40, b=5, c=1, d=17).items(): write_video(root / f"{name}.mp4", picture_frames(n, seed=n))
    write_pictures(root / "e", picture_frames(12, seed=9))
    return ClipTable([Clip(n, root / (n if n == "e" else f"{n}.mp4"), i) for i, n in enumerate("abcde")], root=root)


# ---- what a clip is

def test_a_stamp_sees_every_touch_and_the_content_only_other_bytes(tmp_path):
    p = tmp_path / "x.mp4"; p.write_bytes(b"abc")
    stamp, content = clip_stamp(p), clip_content(p)
    os.utime(p, ns=(0, 12345))
    assert clip_stamp(p) != stamp and clip_content(p) == content
    other = tmp_path / "sub"; other.mkdir(); other = other / "y.avi"; other.write_bytes(b"abc")
    assert clip_content(other) == content
    p.write_bytes(b"abd")
    assert clip_content(p) != content


def test_a_picture_overwritten_inside_a_folder_changes_both(tmp_path):
    folder = write_pictures(tmp_path / "f", picture_frames(3))
    stamp, content, when = clip_stamp(folder), clip_content(folder), folder.stat().st_mtime_ns
    same = folder / "2.png"; data, t = same.read_bytes(), same.stat()
    same.write_bytes(data[:-1] + bytes([data[-1] ^ 1])); os.utime(same, ns=(t.st_atime_ns, t.st_mtime_ns + 1))
    assert folder.stat().st_mtime_ns == when and clip_stamp(folder) != stamp and clip_content(folder) != content
    (folder / "notes.txt").write_text("no picture"); (folder / "._1.png").write_bytes(b"hidden")
    before = clip_stamp(folder)
    (folder / "notes.txt").write_text("still no picture")
    assert clip_stamp(folder) == before


def test_where_a_picture_ends_belongs_to_the_content(tmp_path):
    for name, parts in dict(a=(b"12", b"3"), b=(b"1", b"23")).items():
        (tmp_path / name).mkdir()
        for i, x in enumerate(parts): (tmp_path / name / f"{i}.png").write_bytes(x)
    assert clip_content(tmp_path / "a") != clip_content(tmp_path / "b")


def test_a_fingerprint_is_that_of_a_copy_and_of_nothing_else(clips, tmp_path):
    cache = build(clips, tmp_path / "c")
    root = shutil.copytree(clips.root, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = ClipTable([replace(c, path=root / c.path.name) for c in clips], root=root)
    there = build(copy, tmp_path / "d")
    known = fingerprint(cache, clips)
    assert fingerprint(there, copy) == known == fingerprint(cache, clips)
    relabelled = ClipTable([replace(c, label=0) for c in clips], root=clips.root)
    renamed = ClipTable([replace(c, id=c.id * 2) for c in clips], root=clips.root)
    others = [fingerprint(cache, clips[:4]), fingerprint(cache, clips[::-1]), fingerprint(cache, relabelled),
              fingerprint(cache, clips[:2], clips[2:]),
              fingerprint(build(renamed, tmp_path / "c"), renamed),
              fingerprint(build(clips, tmp_path / "c", max_frames=4), clips)]
    assert len({known, *others}) == 7


# ---- what is stored

def test_cache_equals_decoding(clips, tmp_path):
    cache = build(clips, tmp_path / "c", 64)
    assert len(cache) == 5 and not cache.problems and [cache.n_frames(c.id) for c in clips] == [40, 5, 1, 17, 12]
    for i, c in enumerate(clips):
        assert (np.array_equal(cache.frames(c.id), read_frames(c.path).numpy())
                and np.array_equal(cache[i], cache.frames(c.id)))
        assert cache.content(c.id) == clip_content(c.path)
    with pytest.raises(ValueError): cache.frames("a")[0] = 0             # read-only
    for train in (True, False):
        with_cache, without = (ClipDataset(clips, replace(CONFIG, image_size=64), train, c) for c in (cache, None))
        for i in range(5):
            assert (with_cache[i][0] == without[i][0]).all() and with_cache[i][1:] == without[i][1:] == (i, i)


def test_sizes_and_frame_limits_live_side_by_side(tmp_path):
    frames = np.zeros((8, 20, 40, 3), np.uint8); frames[:, :, 10:30] = 200; frames[:, :, :10] = 50
    t = ClipTable([Clip("x", write_pictures(tmp_path / "x", frames), 0)], root=tmp_path)
    for size in (20, 10): assert (build(t, tmp_path / "c", size)[0] == 200).all()      # the middle square
    few = build(t, tmp_path / "c", 10, max_frames=4)
    assert few.n_frames("x") == 4 and np.array_equal(few[0], build(t, tmp_path / "c", 10)[0][frame_indices(8, 4, 1)])
    assert len(files(tmp_path / "c")) == 3 and build(t, tmp_path / "c", 20).decoded == 0


def test_a_changed_clip_costs_one_decoding(clips, tmp_path):
    assert build(clips, tmp_path / "c").decoded == 5 and build(clips, tmp_path / "c").decoded == 0
    write_video(clips[1].path, picture_frames(6))
    with pytest.raises(MicaclError, match="found none of 1 of 5 .the first: b."):
        FrameCache.open(tmp_path / "c", clips, 32)
    cache = build(clips, tmp_path / "c")
    # the old frames are gone
    assert cache.decoded == 1 and cache.n_frames("b") == 6 and len(files(tmp_path / "c")) == 5


def test_a_picture_overwritten_inside_a_folder_is_decoded_again(clips, tmp_path):
    build(clips, tmp_path / "c")
    Image.new("RGB", (64, 64), "white").save(clips[4].path / "3.png")
    cache = build(clips, tmp_path / "c")
    assert cache.decoded == 1 and (cache.frames("e")[2] == 255).all()


def test_two_lists_share_what_they_share_and_do_not_disturb_each_other(clips, tmp_path):
    # c is in both, under two ids
    one, two = clips[:3], ClipTable([replace(c, id=f"other {c.id}") for c in clips[2:]], root=clips.root)
    first = build(one, tmp_path / "c")
    second = build(two, tmp_path / "c")
    assert (first.decoded, second.decoded) == (3, 2)
    # the first reader still has its frames
    assert np.array_equal(first.frames("c"), second.frames("other c")) and first.frames("a").any()
    assert build(one, tmp_path / "c").decoded == build(two, tmp_path / "c").decoded == 0


def test_a_data_set_that_is_moved_keeps_its_cache(clips, tmp_path):
    build(clips, clips.root / ".cache")
    root = clips.root.rename(tmp_path / "elsewhere")
    moved = ClipTable([replace(c, path=root / c.path.name) for c in clips], root=root)
    assert build(moved, root / ".cache").decoded == 0


def test_opening_wants_every_clip(clips, tmp_path):
    with pytest.raises(MicaclError, match="none of 5 of 5 .*micacl cache"):
        FrameCache.open(tmp_path / "nothing", clips, 32)
    build(clips, tmp_path / "c")
    assert len(FrameCache.open(tmp_path / "c", clips[1:3], 32)) == 2
    with pytest.raises(MicaclError, match="frames of 16 px"): FrameCache.open(tmp_path / "c", clips, 16)
    # the same id, another file
    other = ClipTable([Clip("a", clips[1].path, 0), Clip("z", tmp_path / "z.mp4", 0)], root=clips.root)
    with pytest.raises(MicaclError, match="none of 1 of 2 .the first: z."): FrameCache.open(tmp_path / "c", other, 32)
    assert np.array_equal(FrameCache.open(tmp_path / "c", other[:1], 32).frames("a"),
                          FrameCache.open(tmp_path / "c", clips, 32).frames("b"))


# ---- what goes wrong

def test_broken_clips_are_named_once_and_remembered(clips, tmp_path, monkeypatch):
    (tmp_path / "half.mp4").write_bytes(clips[0].path.read_bytes()[:900])
    t = ClipTable([clips[1], Clip("half", tmp_path / "half.mp4", 1), clips[2]], root=clips.root)
    for decoded in (3, 0):                                               # built, then opened
        cache = build(t, tmp_path / "c")
        assert cache.decoded == decoded and [c.id for c in cache.readable(t)] == ["b", "c"] and "half" not in cache
        assert (len(cache.problems) == 1 and str(cache.problems[0]).startswith(f"{tmp_path}/half.mp4: expected")
                and str(cache.problems[0]).count("half.mp4") == 1)
    data = ClipDataset(t, CONFIG, True, cache)
    assert len(data) == 2 and data[1][1:] == (2, 1) and data.table[1].id == "c"
    for folder in "cd":                                                  # whether it is known to be broken or not
        with pytest.raises(ClipError, match="half.mp4"): build(t, tmp_path / folder, on_bad="stop")
    with pytest.raises(MicaclError, match="none among 1; the first: .*half"): build(t[1:2], tmp_path / "e")


def test_a_broken_clip_that_is_mended_is_read(clips, tmp_path):
    good = clips[0].path.read_bytes()
    clips[0].path.write_bytes(good[:900])
    assert len(build(clips, tmp_path / "c").problems) == 1
    clips[0].path.write_bytes(good)
    cache = build(clips, tmp_path / "c")
    assert cache.decoded == 1 and not cache.problems and len(files(tmp_path / "c")) == 5


def test_one_failure_that_has_passed_is_forgotten_when_no_clip_may_be_missing(clips, tmp_path, monkeypatch):
    load = K.read_portions
    def fails(path, choose):
        if path == clips[0].path: raise ClipError(path, "a network that is away")
        return load(path, choose)
    monkeypatch.setattr(K, "read_portions", fails)
    assert len(build(clips, tmp_path / "c").problems) == 1
    monkeypatch.undo()
    assert len(build(clips, tmp_path / "c").problems) == 1 and len(build(clips, tmp_path / "c", on_bad="stop")) == 5
    assert not build(clips, tmp_path / "c").problems and not [n for n in files(tmp_path / "c") if n.endswith(".bad")]


def test_an_interrupted_build_keeps_what_was_decoded(clips, tmp_path):
    root = tmp_path / "many"; root.mkdir()
    many = ClipTable([Clip(str(i), Path(shutil.copyfile(clips[1].path, root / f"{i}.mp4")), 0) for i in range(60)],
                     root=root)
    child = os.fork()
    # dies in the middle of a file, as if it were killed
    if not child:
        count, write = [], K.zlib.crc32
        def dying(*a):
            count.append(1)
            if len(count) > 40: os._exit(9)
            return write(*a)
        K.zlib = type("zlib", (), dict(crc32=staticmethod(dying)))
        build(many, tmp_path / "c")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = files(tmp_path / "c")
    assert sum(n.endswith(".u8") for n in left) == 40 and sum(n.endswith(".tmp") for n in left) == 1
    cache = build(many, tmp_path / "c")
    assert cache.decoded == 20 and len(cache) == 60 and len(files(tmp_path / "c")) == 60


def test_a_cache_that_cannot_be_written_is_one_line(clips, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MicaclError, match="choose another folder") as e: build(clips, tmp_path / "file")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", [lambda b: b[:77] + bytes([b[77] ^ 1]) + b[78:], lambda b: b[:-1], lambda b: b""])
def test_a_changed_byte_is_noticed_and_costs_one_clip(clips, tmp_path, damage):
    cache = build(clips, tmp_path / "c")
    file = cache.file("d"); whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.raises(MicaclError, match="clip d as it was decoded, found other bytes") as e: cache.frames("d")
    assert "\n" not in str(e.value) and not file.exists() and cache.frames("a").any()
    again = build(clips, tmp_path / "c")
    assert again.decoded == 1 and file.read_bytes() == whole and again.frames("d").any()


def test_a_file_cut_by_a_power_failure_is_decoded_before_anybody_reads_it(clips, tmp_path):
    file = build(clips, tmp_path / "c").file("d")
    file.write_bytes(b"")
    cache = build(clips, tmp_path / "c")
    assert cache.decoded == 1 and cache.frames("d").any()


def test_files_that_nobody_wrote_are_left_alone_and_ignored(clips, tmp_path):
    cache = build(clips, tmp_path / "c")
    name = cache.file("a").name
    for wrong in (f"{name[:33]}-x.u8", f"{name[:33]}-x-y-z.u8", "README.u8", f"{name[:33]}-0-0-0.u8", ".u8", "x"):
        (cache.file("a").parent / wrong).write_bytes(b"?")
    (tmp_path / "c" / "zz").mkdir(); (tmp_path / "c" / "notes").write_text("mine")
    again = build(clips, tmp_path / "c")
    assert again.decoded == 0 and again.file("a").name == name and (tmp_path / "c" / "notes").exists()


def test_the_first_format_of_the_cache_is_cleared_away(clips, tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("index.json", "frames-0123456789abcdef.u8"): (tmp_path / "c" / name).write_bytes(b"{}")
    build(clips, tmp_path / "c")
    assert all(len(n) > 50 for n in files(tmp_path / "c"))


def test_a_long_clip_is_decoded_in_portions(clips, tmp_path, monkeypatch):
    whole, seen, square = build(clips, tmp_path / "a", 64), [], K.resize_square
    monkeypatch.setattr(D, "_PORTION", 64 * 64 * 3 * 7)
    monkeypatch.setattr(K, "_LONG", 64 * 64 * 3 * 15)       # 7 frames at a time; a, d are long
    monkeypatch.setattr(K, "resize_square", lambda x, size: seen.append(len(x)) or square(x, size))
    parts = build(clips, tmp_path / "b", 64)
    assert parts.names == whole.names and files(tmp_path / "a") == files(tmp_path / "b")
    for c in clips: assert parts.file(c.id).read_bytes() == whole.file(c.id).read_bytes()
    assert max(seen) == 7 and sum(seen) == 75 and not isinstance(K._load_small(clips[0].path, 64, None)[1], list)


def test_a_long_clip_that_breaks_off_leaves_no_frames(clips, tmp_path, monkeypatch):
    def torn():
        yield np.zeros((3, 32, 32, 3), np.uint8)
        raise ClipError(clips[3].path, "damaged data")
    load = K._load_small
    monkeypatch.setattr(K, "_load_small", lambda path, *a,
                        **k: ("0" * 16, torn()) if path == clips[3].path else load(path, *a, **k))
    cache = build(clips, tmp_path / "c")
    assert "d" not in cache and len(cache.problems) == 1 and len(cache) == 4
    assert (sum(n.endswith(".u8") for n in files(tmp_path / "c")) == 4
            and not [n for n in files(tmp_path / "c") if n.endswith(".tmp")])


def test_two_builds_at_the_same_time_both_end_right_and_decode_once(clips, tmp_path):
    root = tmp_path / "many"; root.mkdir()
    many = ClipTable([Clip(str(i), Path(shutil.copyfile(clips[0].path, root / f"{i}.mp4")), 0) for i in range(30)],
                     root=root)
    children = []
    for k in range(3):
        child = os.fork()
        if not child:
            try:
                cache = build(many, tmp_path / "c")
                (tmp_path / f"decoded{k}").write_text(str(cache.decoded))
                os._exit(0 if len(cache) == 30 else 1)
            except BaseException: os._exit(2)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0, 0]
    assert sum(int((tmp_path / f"decoded{k}").read_text()) for k in range(3)) == 30
    cache = FrameCache.open(tmp_path / "c", many, 32)
    assert all(np.array_equal(cache[i], cache[0]) for i in range(30))


def test_many_clips_may_be_open_at_once(clips, tmp_path):
    "Arrays keep their map alive and nothing else: no file handles are left."
    cache = build(clips, tmp_path / "c")
    n = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(300): cache.frames("a")
    assert not n or len(os.listdir("/proc/self/fd")) <= n + 2
    results = []
    threads = [threading.Thread(target=lambda: results.append(cache.frames("d").sum())) for _ in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert len(set(results)) == 1 and len(results) == 8


# ---- what changes meanwhile

def test_a_clip_that_changes_while_it_is_decoded_is_named_and_decoded_again(clips, tmp_path, monkeypatch):
    content = K.clip_content
    def changing(path):
        found = content(path)
        if path == clips[1].path:
            shutil.copyfile(clips[3].path, path)       # after its bytes were read, before its frames are
        return found
    monkeypatch.setattr(K, "clip_content", changing)
    with pytest.raises(MicaclError, match="b.mp4: expected a clip that stays as it is") as e:
        build(clips, tmp_path / "c")
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    cache = build(clips, tmp_path / "c")
    assert (all(cache.content(c.id) == clip_content(c.path) for c in clips) and cache.n_frames("b") == 17
            and len(files(tmp_path / "c")) == 5)


def test_a_process_that_looked_earlier_does_not_remove_newer_frames(clips, tmp_path, monkeypatch):
    earlier = K._places(clips, 32, None)
    write_video(clips[1].path, picture_frames(6))
    newer = build(clips, tmp_path / "c")
    monkeypatch.setattr(K, "_places", lambda *a: earlier)
    with pytest.raises(MicaclError, match="stays as it is"): build(clips, tmp_path / "c")
    assert newer.file("b").exists() and len(files(tmp_path / "c")) == 5


def test_a_cache_that_was_removed_meanwhile_is_said_to_be_missing(clips, tmp_path):
    cache = build(clips, tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(MicaclError, match="expected clip a as it was decoded, found no such file"): cache.frames("a")


def test_no_map_is_open_when_a_damaged_file_is_removed(clips, tmp_path, monkeypatch):
    "Windows removes no file that is mapped, and a file that stays would be believed by the next build."
    cache, maps, mapped, unlink = build(clips, tmp_path / "c"), [], K._mapped, Path.unlink
    cache.file("a").write_bytes(b"\0" * cache.file("a").stat().st_size)
    def watched(*a):
        x = mapped(*a); maps.append(weakref.ref(x))
        return x
    def removed(path, **options):
        assert maps[-1]() is None
        return unlink(path, **options)
    monkeypatch.setattr(K, "_mapped", watched); monkeypatch.setattr(Path, "unlink", removed)
    with pytest.raises(MicaclError, match="found other bytes, and removed them"): cache.frames("a")
    assert not cache.file("a").exists()


# ---- whose files, which paths

def test_only_files_of_a_cache_are_cleared_away(clips, tmp_path):
    own = [tmp_path / "c" / "index.json", tmp_path / "c" / "notes" / "x.tmp", tmp_path / "c" / "ff"]
    own[1].parent.mkdir(parents=True)
    for p in own: p.write_text("mine")
    build(clips[:1], tmp_path / "c")
    assert all(p.read_text() == "mine" for p in own) and len(FrameCache.open(tmp_path / "c", clips[:1], 32)) == 1


def test_a_place_is_the_same_for_relative_and_absolute_paths(clips, tmp_path, monkeypatch):
    build(clips, tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    forms = [("clips", clips.root), (clips.root, Path("clips")), ("clips", Path("clips")),
             ("clips/../clips", clips.root)]
    for root, where in forms:
        table = ClipTable([replace(c, path=where / c.path.name) for c in clips], root=root)
        assert build(table, tmp_path / "c").decoded == 0


def test_a_place_is_the_same_on_windows(clips, monkeypatch):
    here = K._places(ClipTable([Clip("a", Path("/data/sub/x.mp4"), 0)], root="/data"), 32, None)
    nt = type("os", (), dict(path=ntpath, sep="\\", fspath=staticmethod(os.fspath)))
    monkeypatch.setattr(K, "os", nt); monkeypatch.setattr(K, "clip_stamp", lambda path: "0" * 16)
    for root, path in ((r"C:\data", r"C:\data\sub\x.mp4"), ("D:\\", r"D:\sub\x.mp4"),
                       (r"\\host\share", r"\\host\share\sub\x.mp4")):
        table = ClipTable([Clip("a", PureWindowsPath(path), 0)])
        table.root = PureWindowsPath(root)
        assert K._places(table, 32, None)["a"][:16] == here["a"][:16]
