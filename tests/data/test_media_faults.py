"A clip that is broken, odd, joined or cut: both readers name it, or read it and agree on what it holds."
import errno, os, random, signal, socket, struct, traceback
from fractions import Fraction
from pathlib import Path

import av, numpy as np, pytest, torch
from PIL import Image

from micacl.data import cache as C
from micacl.data import frames as F
from micacl.core import MicaclError
from micacl.data.load import Clip, ClipTable, check_dataset
from micacl.data.frames import ClipError, count_frames, read_frames, read_portions
from micacl.deploy.tracking import stream_frames
from micacl.data.cache import FrameCache

ROOT = Path(__file__).parents[2]


def pictures(n, height=48, width=64, start=0):
    "(n,height,width,3) uint8. Four coloured quarters, so that turns and mirrors show, and a grey middle that changes."
    x = np.zeros((n, height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    x[:, :h, :w], x[:, :h, w:], x[:, h:, :w], x[:, h:, w:] = (220, 0, 0), (0, 200, 0), (0, 0, 220), (255, 255, 255)
    for i in range(n): x[i, h // 2:h + h // 2, w // 2:w + w // 2] = 8 * (start + i) % 256
    return x


def write(path, frames, codec="libx264", times=None, fmt=None, rate=25, codec_options=None, **options):
    with av.open(str(path), "w", format=fmt, options=options) as box:
        s = box.add_stream(codec, rate=rate, options=codec_options or {})
        s.width, s.height, s.pix_fmt = frames.shape[2], frames.shape[1], "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i, x in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(x, format="rgb24")
            if times: frame.pts, frame.time_base = times[i], Fraction(1, rate)
            box.mux(s.encode(frame))
        box.mux(s.encode(None))
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    return path


READERS = dict(count=count_frames, read=read_frames, portions=lambda p: [*read_portions(p, range)],
               stream=lambda p: [*stream_frames(p)])

def refused(path, *words):
    "Every reader names the clip in one line."
    for read in READERS.values():
        with pytest.raises(ClipError) as e: read(path)
        text = str(e.value)
        assert str(path) in text and "\n" not in text and any(w in text for w in words), text


def agree(path, n=None, notes=False):
    "How many frames all readers find."
    said = []
    times = [t for t, *_ in stream_frames(path, said)]
    total, *parts = read_portions(path, range)
    found = {count_frames(path), len(read_frames(path)), len(times), total, sum(map(len, parts))}
    assert len(found) == 1 and (n is None or found == {n}), (found, said)
    assert bool(said) == notes and np.isfinite(times).all() and (np.diff(times) > 0).all(), said
    return total


# ---------------------------------------------------------------- any error of a library

def unknown_codec(path):
    write(path, pictures(4))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    return path


def header_only(path):
    codec = dict(mkv="libx264", webm="libvpx", ogg="libvpx")[path.suffix[1:]]
    data = write(path, pictures(4), codec).read_bytes()
    if path.suffix == ".ogg": end = data.find(b"OggS", data.find(b"OggS") + 4)          # the second page
    else: end = data.find(b"\x1fC\xb6u")                                               # the first cluster
    path.write_bytes(data[:end])
    return path


def test_a_video_that_no_decoder_knows(tmp_path): refused(unknown_codec(tmp_path / "x.mp4"), "without a decoder here")


@pytest.mark.parametrize("name", ["x.mkv", "x.webm", "x.ogg"])
def test_a_header_and_no_frame(tmp_path, name):
    refused(header_only(tmp_path / name), "no readable video", "0 whole frames", "no frame that can be decoded")


def test_the_other_clips_of_a_set_are_read(tmp_path):
    good = write(tmp_path / "good.mp4", pictures(4))
    odd = [unknown_codec(tmp_path / "odd.mp4"), header_only(tmp_path / "odd.webm")]
    table = ClipTable([Clip(p.name, p, 0) for p in (odd[0], good, odd[1])], root=tmp_path)
    cache = FrameCache.build(table, tmp_path / "c", 32, progress=False)
    assert [c.id for c in cache.readable(table)] == ["good.mp4"]
    assert [str(p).split(": expected")[0] for p in cache.problems] == [str(p) for p in odd]


ERRORS = [av.error.EOFError(1, "End of file"), av.error.PatchWelcomeError(1, "Not yet implemented"),
          av.error.MemoryError(12, "Cannot allocate memory"), av.error.ExternalError(1, "external"),
          UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), OverflowError("too large"),
          ZeroDivisionError("division"), struct.error("unpack"), AssertionError(), IndexError("list"),
          PermissionError(13, "Permission denied"), OSError(errno.EIO, "Input/output error"),
          RuntimeError("a\nlong\nstory")]

@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__module__ + "." + type(e).__name__)
def test_every_error_of_a_library_names_the_clip(tmp_path, monkeypatch, error):
    def fail(*a, **k): raise error
    p = write(tmp_path / "x.mp4", pictures(6))
    (tmp_path / "y").mkdir(); Image.new("RGB", (8, 8)).save(tmp_path / "y" / "1.png")
    with monkeypatch.context() as m:
        m.setattr(av, "open", fail); refused(p, "no readable video")
    for name in ("_view", "_rgb"):                                     # when a frame is there already
        with monkeypatch.context() as m:
            m.setattr(F, name, fail)
            for read in ("read", "portions", "stream"):
                with pytest.raises(ClipError, match="x.mp4: expected .*no readable video"): READERS[read](p)
    with monkeypatch.context() as m:
        m.setattr(Image, "open", fail)
        for read in ("read", "portions", "stream"):
            with pytest.raises(ClipError, match="1.png: expected a picture, found no readable picture"):
                READERS[read](tmp_path / "y")


def test_an_error_in_the_middle_of_a_stream_names_the_clip(tmp_path, monkeypatch):
    p, rgb, n = write(tmp_path / "x.mp4", pictures(6)), F._rgb, 0
    def third(*a, **k):
        nonlocal n; n += 1
        if n == 3: raise AssertionError("in the library")
        return rgb(*a, **k)
    monkeypatch.setattr(F, "_rgb", third)
    frames = stream_frames(p)
    assert len([next(frames), next(frames)]) == 2
    with pytest.raises(ClipError, match="x.mp4: .*in the library"): next(frames)


OURS = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOSPC, "No space left on device"),
        MemoryError("Unable to allocate 3.20 GiB")]

@pytest.mark.parametrize("error", OURS, ids=str)
def test_a_computer_at_its_limit_is_not_the_fault_of_a_clip(tmp_path, monkeypatch, error):
    def fail(*a, **k): raise error
    p = write(tmp_path / "x.mp4", pictures(3)); Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    monkeypatch.setattr(av, "open", fail); monkeypatch.setattr(Image, "open", fail)
    for path, reads in ((p, READERS.values()), (tmp_path / "1.png", [READERS["stream"]])):
        for read in reads:
            words = f"{path.name}: expected to read it, found this computer at a limit .{error.args[-1]}"
            with pytest.raises(MicaclError, match=words) as e: read(path)
            assert not isinstance(e.value, ClipError) and "\n" not in str(e.value)


SLIPS = [ImportError("no such library"), NameError("a slip of ours"), KeyboardInterrupt()]

@pytest.mark.parametrize("error", SLIPS, ids=lambda e: type(e).__name__)
def test_our_slips_and_missing_libraries_are_not_the_fault_of_a_clip(tmp_path, monkeypatch, error):
    def fail(*a, **k): raise error
    p = write(tmp_path / "x.mp4", pictures(3))
    monkeypatch.setattr(av, "open", fail)
    for read in READERS.values():
        with pytest.raises(type(error)): read(p)


def test_what_the_caller_does_between_two_frames_is_not_the_fault_of_the_clip(tmp_path):
    def wrong(n): raise ValueError("of the caller")
    p = write(tmp_path / "x.mp4", pictures(3))
    with pytest.raises(ValueError, match="of the caller"): list(read_portions(p, wrong))


def test_a_title_in_another_alphabet_does_not_matter(tmp_path):
    p = write(tmp_path / "x.avi", pictures(5), "mjpeg")
    with av.open(str(p)) as a, av.open(str(tmp_path / "y.avi"), "w") as b:
        b.metadata["title"] = "AAAA"; out = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.size: packet.stream = out; b.mux(packet)
    p.write_bytes((tmp_path / "y.avi").read_bytes().replace(b"AAAA", b"\xe9\xff\xe0A"))
    agree(p, 5)


def test_options_are_kept_from_older_pyav_where_they_crash_it(tmp_path, monkeypatch):
    given, real = {}, av.open
    newest = int(av.__version__.split(".")[0]) >= 19
    def look(path, **k):
        given[Path(path).suffix] = k["options"]
        return real(path, **{name: v for name, v in k.items() if not (newest and name == "metadata_errors")})
    files = [write(tmp_path / name, pictures(4), codec) for name, codec in (("x.flv", "flv"), ("x.ts", "libx264"),
             ("x.mp4", "libx264"), ("x.avi", "mjpeg"), ("x.mkv", "libx264"))]
    monkeypatch.setattr(av, "open", look); monkeypatch.setattr(av, "__version__", "14.1.0")
    for p in files: agree(p, 4)
    assert {s for s, o in given.items() if o} == {".mp4", ".avi", ".mkv"}


def test_a_pyav_that_knows_no_metadata_errors(tmp_path, monkeypatch):
    "From 19.0 on, titles in another code are read by themselves, and the option is gone."
    real = av.open
    def newer(path, *, container_options, options): return real(path, container_options=container_options,
                                                                options=options)
    p = write(tmp_path / "x.mp4", pictures(4))
    monkeypatch.setattr(av, "open", newer); monkeypatch.setattr(av, "__version__", "19.0.2")
    agree(p, 4)


def test_a_library_of_another_version_is_not_the_fault_of_the_clips(tmp_path, monkeypatch):
    "One line that stops, and not a data set full of broken clips."
    def other(path): "A reader that takes nothing else."
    p = write(tmp_path / "x.mp4", pictures(4))
    monkeypatch.setattr(av, "open", other)
    with pytest.raises(MicaclError, match="found a library that takes other arguments .*got an unexpected") as e:
        count_frames(p)
    assert not isinstance(e.value, ClipError) and "\n" not in str(e.value)


def test_the_oldest_pyav_that_is_right_is_asked_for():
    "14.1 is the first that tells a cover from a film. 12.0 dies of a codec that it does not know."
    assert "    av>=14.1\n" in (ROOT / "settings.ini").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the display matrix

def with_matrix(path, a, b, c, d):
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44                                       # of a version 0 track header
    data[at:at + 36] = struct.pack(">9i", *(round(65536 * v) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    return path


r, s = 3**0.5 / 2, 0.5
def right(x): return np.rot90(x, -1)
def same(x): return x

MATRICES = {(1, 0, 0, 1): same, (0, 1, -1, 0): right, (-1, 0, 0, -1): lambda x: np.rot90(x, 2), (0, -1, 1, 0): np.rot90,
            (-1, 0, 0, 1): np.fliplr, (1, 0, 0, -1): np.flipud, (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
            (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1), (r, s, -s, r): same, (s, r, -r, s): right,
            (s, -r, r, s): np.rot90, (.7, .7, -.7, .7): same, (-2, 0, 0, 2): np.fliplr, (0, 0, 0, 0): same}

@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_a_video_is_turned_and_mirrored_as_its_file_says(tmp_path, matrix):
    "Turns and mirrors, and the nearest of them where a matrix is between two (30, 60, 300 and 45 degrees)."
    p = write(tmp_path / "x.mp4", pictures(5))
    plain = read_frames(p).numpy()
    with_matrix(p, *matrix)
    want = np.stack([MATRICES[matrix](x) for x in plain])
    assert np.array_equal(read_frames(p), want) and np.array_equal(read_frames(p, [4, 1]), want[[4, 1]])
    assert np.array_equal(torch.cat([*read_portions(p, range)][1:]), want)
    assert np.array_equal([x for *_, x in stream_frames(p)], want)


def test_a_large_video_is_turned_too(tmp_path):
    p = with_matrix(write(tmp_path / "x.mp4", pictures(3, 480, 800)), 0, 1, 1, 0)
    small = next(stream_frames(p, side=100))[2]
    assert small.shape == (100, 60, 3)
    assert [small[y, x].argmax() for y, x in ((5, 5), (90, 5), (5, 55))] == [0, 1, 2]     # green below red


# ---------------------------------------------------------------- what a clip holds

@pytest.mark.parametrize("more", [-1, 1, 1000])
@pytest.mark.parametrize("where", ["strh", "both"])
def test_an_avi_is_not_believed_about_its_number_of_frames(tmp_path, more, where):
    data = bytearray(write(tmp_path / "x.avi", pictures(12), "mjpeg").read_bytes())
    for at in [data.find(b"strh") + 40] + [data.find(b"avih") + 24] * (where == "both"):
        struct.pack_into("<I", data, at, 12 + more)
    (tmp_path / "x.avi").write_bytes(data)
    agree(tmp_path / "x.avi", 12)


def test_an_avi_that_was_written_to_a_pipe(tmp_path):
    data = bytearray(write(tmp_path / "x.avi", pictures(12), "mjpeg").read_bytes())
    for at, n in ((4, 2**32 - 1), (data.find(b"strh") + 40, 2**30), (data.find(b"avih") + 24, 2**30)):
        struct.pack_into("<I", data, at, n)
    (tmp_path / "x.avi").write_bytes(data)
    agree(tmp_path / "x.avi", 12)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
def test_an_avi_with_empty_packets_for_repeated_frames(tmp_path, codec):
    p = write(tmp_path / "x.avi", pictures(12), codec, times=[2 * i for i in range(12)], codec_options=dict(bf="0"))
    with av.open(str(p)) as box: assert box.streams.video[0].frames > 20
    agree(p, 12)


def noise(n): return np.random.default_rng(0).integers(0, 256, (n, 48, 64, 3), dtype=np.uint8)


CUTS = [("x.mp4", "libx264", dict(movflags="faststart")), ("x.mov", "mpeg4", dict(movflags="faststart")),
        ("x.mp4", "libx264", dict(movflags="frag_keyframe+empty_moov")), ("x.mkv", "libx264", {}),
        ("x.webm", "libvpx-vp9", {}), ("x.avi", "mpeg4", {}), ("x.avi", "mjpeg", {})]

@pytest.mark.parametrize("name, codec, options", CUTS, ids=lambda v: v if isinstance(v, str) else v.get("movflags", ""))
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_cut_file_is_named_in_training_and_read_in_part_in_prediction(tmp_path, name, codec, options, share):
    p = cut(write(tmp_path / name, noise(30), codec, codec_options=dict(g="5"), **options), share)
    for read in (count_frames, read_frames, lambda p: [*read_portions(p, range)]):
        with pytest.raises(ClipError, match="cut off or damaged"): read(p)
    n = len(list(stream_frames(p, notes := [])))
    said = [note for note in notes if note.startswith("cut off: it ends at ") and "nan" not in note]
    assert 0 < n < 30 and len(said) == 1, (n, notes)


def test_an_edit_list_that_shows_a_part_is_no_cut(tmp_path):
    data = bytearray(write(tmp_path / "x.mp4", pictures(20), rate=10).read_bytes())
    at = data.find(b"elst") + 12
    struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] // 2)
    (tmp_path / "x.mp4").write_bytes(data)
    agree(tmp_path / "x.mp4", 10)


JOINS = [("libx264", "mpegts"), ("mpeg2video", "mpegts"), ("mpeg2video", "mpeg"), ("mjpeg", "avi"), ("libx264", "h264"),
         ("libvpx", "ogg")]

@pytest.mark.parametrize("codec, fmt", JOINS)
def test_recordings_joined_one_behind_the_other(tmp_path, codec, fmt):
    a, b = (write(tmp_path / str(k), pictures(k), codec, fmt=fmt, codec_options=dict(g="6")) for k in (20, 9))
    (tmp_path / "ab").write_bytes(a.read_bytes() + b.read_bytes())
    agree(tmp_path / "ab", 29)


def test_joined_recordings_of_different_sizes_have_the_size_of_the_first(tmp_path):
    a, b = write(tmp_path / "a.ts", pictures(20)), write(tmp_path / "b.ts", pictures(9, 96, 96))
    (tmp_path / "ab.ts").write_bytes(a.read_bytes() + b.read_bytes())
    assert agree(tmp_path / "ab.ts", 29) and read_frames(tmp_path / "ab.ts", [25]).shape == (1, 48, 64, 3)
    assert abs(read_frames(tmp_path / "ab.ts", [25])[0, 4, 4].int() - torch.tensor([220, 0, 0])).max() < 20


def test_a_packet_that_was_lost_between_is_no_join(tmp_path):
    data = write(tmp_path / "x.ts", noise(20)).read_bytes()
    pieces = [data[i:i + 188] for i in range(0, len(data), 188)]
    film = [i for i, p in enumerate(pieces) if int.from_bytes(p[1:3], "big") & 0x1fff == 0x100]
    del pieces[film[len(film) // 2]]
    (tmp_path / "x.ts").write_bytes(b"".join(pieces))
    with pytest.raises(ClipError, match="damaged"): read_frames(tmp_path / "x.ts")
    assert len(list(stream_frames(tmp_path / "x.ts", notes := []))) < 21 and notes


OPEN = "open-gop=1:keyint=8:min-keyint=8:bframes=3"
EXCERPTS = [("x.ts", "libx264", {}), ("x.ts", "mpeg2video", {}), ("x.mkv", "libx264", {"x264-params": OPEN}),
            ("x.mkv", "libx265", {"x265-params": OPEN + ":log-level=none"})]

@pytest.mark.parametrize("name, codec, options", EXCERPTS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_film_that_was_cut_out_of_a_longer_one(tmp_path, name, codec, options):
    "It begins with pictures that need one which is gone; no reader can have them, and none counts them."
    if name == "x.mkv" and int(av.__version__.split(".")[0]) < 15: pytest.skip("this PyAV loses the header")
    whole = write(tmp_path / f"whole.{name[2:]}", pictures(30), codec, codec_options={"g": "8", **options})
    with av.open(str(whole)) as a, av.open(str(tmp_path / name), "w") as b:
        out = b.add_stream_from_template(a.streams.video[0])
        packets = [p for p in a.demux(video=0) if p.size]
        start = next(i for i, p in enumerate(packets) if i and p.is_keyframe)
        for p in packets[start - 3 * (name == "x.ts"):]: p.stream = out; b.mux(p)
    n = agree(tmp_path / name)
    assert 10 < n < 30 - start + 3


def test_pictures_that_are_not_shown_are_not_counted(tmp_path):
    data = bytearray(write(tmp_path / "x.webm", pictures(12), "libvpx").read_bytes())
    with av.open(str(tmp_path / "x.webm")) as box: packets = [bytes(p) for p in box.demux(video=0) if p.size]
    for k in (4, 8):
        at = data.find(packets[k][:20]); assert data[at] & 0x10
        data[at] &= ~0x10                                              # the bit that says: show it
    (tmp_path / "x.webm").write_bytes(data)
    agree(tmp_path / "x.webm", 10)


class Packet(bytes):
    size = property(len); is_keyframe = is_corrupt = False

class Box:
    def __init__(self, packets): self.packets = packets
    def demux(self, film): yield from self.packets


MARKS = [("K..c.K..", 0), ("K...cK..", 0), ("K..c...K", 1), ("K......c", 1), ("K.....c.", 1), ("Kc..c...", 2),
         ("K...c.K.c", 1), ("K.0.h..", 0)]

@pytest.mark.parametrize("kinds, lost", MARKS)
def test_which_marks_say_that_something_is_missing(tmp_path, kinds, lost):
    "K: a key frame, c: marked as incomplete, 0: empty, h: the second header of an Ogg Theora file."
    p = write(tmp_path / "x.mp4", pictures(1))
    packets = []
    for k in kinds:
        packets.append(Packet({"0": b"", "h": b"\x81theora"}.get(k, b"data")))
        packets[-1].is_keyframe, packets[-1].is_corrupt = k == "K", k == "c"
    with av.open(str(p)) as box:
        got = [*F._packets(Box(packets), box.streams.video[0], p, found := [])]
    assert len(found) == lost and [bytes(x) for x in got] == [b"data"] * sum(k not in "0h" for k in kinds) + [b""]


def test_the_frames_that_a_decoder_holds_back_have_their_times(tmp_path):
    p = write(tmp_path / "x.mp4", pictures(30), codec_options=dict(bf="3", preset="slow"))
    assert np.allclose([t for t, *_ in stream_frames(p)], np.arange(30) / 25)


# ---------------------------------------------------------------- a cover is no film

def boxes(data, at, end):
    while at + 8 <= end: n = struct.unpack_from(">I", data, at)[0]; yield data[at + 4:at + 8], at, n; at += n

def cover_first(path):
    "The box with the cover goes before the tracks, which makes the cover stream 0."
    data = path.read_bytes()
    _, at, n = next(b for b in boxes(data, 0, len(data)) if b[0] == b"moov")
    inner = sorted(boxes(data, at + 8, at + n), key=lambda b: {b"mvhd": 0, b"udta": 1}.get(b[0], 2))
    path.write_bytes(data[:at + 8] + b"".join(data[a:a + k] for _, a, k in inner) + data[at + n:])
    return path


def with_cover(path, film=True, sound=False):
    import io
    from av.stream import Disposition
    Image.fromarray(pictures(1, 200, 200, 9)[0]).save(file := io.BytesIO(), "PNG")
    with av.open(str(path), "w") as box:
        cover = box.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 200, 200, "rgb24", Disposition.attached_pic.value
        s = box.add_stream("libx264", rate=25) if film else None
        if s: s.width, s.height, s.pix_fmt = 64, 48, "yuv420p"
        a = box.add_stream("aac", rate=16000, layout="mono") if sound else None
        p = av.Packet(file.getvalue()); p.stream, p.pts, p.dts, p.time_base = cover, 0, 0, Fraction(1, 25)
        box.mux(p)
        if s:
            for x in pictures(12): box.mux(s.encode(av.VideoFrame.from_ndarray(x, format="rgb24")))
            box.mux(s.encode(None))
        if a:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            tone.sample_rate, tone.pts = 16000, 0
            box.mux([*a.encode(tone), *a.encode(None)])
    return path


@pytest.mark.parametrize("name", ["x.mp4", "first.mp4"])
def test_the_film_is_read_and_not_its_cover(tmp_path, name):
    p = with_cover(tmp_path / name)
    if name == "first.mp4": cover_first(p)
    with av.open(str(p)) as box:
        covers = [s.disposition & av.stream.Disposition.attached_pic for s in box.streams.video]
        assert len(covers) == 2 and (name != "first.mp4" or covers[0])
    agree(p, 12)
    assert read_frames(p).shape == (12, 48, 64, 3) and next(stream_frames(p))[2].shape == (48, 64, 3)


def test_a_sound_with_a_cover_has_no_picture_track(tmp_path):
    p = with_cover(tmp_path / "x.mp4", film=False, sound=True).rename(tmp_path / "x.m4a")
    refused(p, "a file without a picture track")


# ---------------------------------------------------------------- folders and single pictures

def denied(*a, **k): raise PermissionError(errno.EACCES, "Permission denied", str(a[0]))

def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    scan, root = os.scandir, tmp_path
    for name in "ab": (root / name).mkdir(); Image.new("RGB", (8, 8)).save(root / name / "1.png")
    monkeypatch.setattr(os, "scandir", lambda p: denied(p) if Path(p).name == "a" else scan(p))
    refused(root / "a", "found no readable folder (Permission denied); allow it to be read")
    table = ClipTable([Clip(n, root / n, 0) for n in "ab"], root=root)
    cache = FrameCache.build(table, root / "c", 32, progress=False)
    assert [c.id for c in cache.readable(table)] == ["b"] and "Permission denied" in str(cache.problems[0])


def test_a_clip_in_a_folder_that_may_not_be_entered(tmp_path, monkeypatch):
    p, look = write(tmp_path / "x.mp4", pictures(2)), os.stat
    monkeypatch.setattr(os, "stat", lambda f, *a, **k: denied(f) if Path(f).name == "x.mp4" else look(f, *a, **k))
    refused(p, "found no readable file or folder (Permission denied)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="whoever may read everything can't try it")
def test_without_the_right_to_read(tmp_path):
    p, d = write(tmp_path / "x.mp4", pictures(2)), tmp_path / "d"
    d.mkdir(); Image.new("RGB", (8, 8)).save(d / "1.png")
    for x in (p, d): x.chmod(0); refused(x, "Permission denied"); x.chmod(0o700)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.webp"])
@pytest.mark.parametrize("called", [None, "x.mp4"])
def test_one_picture_is_no_clip_to_train_on_and_one_to_predict(tmp_path, name, called):
    x = pictures(1)[0]
    Image.fromarray(x).save(tmp_path / name)
    p = (tmp_path / name).rename(tmp_path / (called or name))
    for read in ("count", "read", "portions"):
        with pytest.raises(ClipError, match="found a single picture; put the pictures of a clip into"): READERS[read](p)
    (_, _, got), = stream_frames(p)
    assert got.shape == x.shape and np.abs(got.astype(int) - x).mean() < 8


def test_a_postscript_program_is_not_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps"); (tmp_path / "d").mkdir()
    p = (tmp_path / "x.eps").rename(tmp_path / "d" / "1.png")
    for read in (lambda: read_frames(tmp_path / "d"), lambda: list(stream_frames(p))):
        with pytest.raises(ClipError, match="1.png: expected a picture, found a PostScript program"): read()


def in_a_child(work, *files, seconds=60):
    "How a process of its own ends: one that waits for ever, or that a library kills, takes nobody with it."
    child = os.fork()
    if not child:
        try: signal.alarm(seconds); work(*files); os._exit(0)
        except BaseException: traceback.print_exc()
        finally: os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no pipes in folders")
def test_pipes_sockets_devices_and_links_keep_no_reader_waiting(tmp_path):
    names = ("pipe.mp4", "pipe.png", "socket.png", "device.jpg", "loop.png", "nowhere.mp4", "folder.png", "pipes")
    odd = [tmp_path / n for n in names]
    os.mkfifo(odd[0]); os.mkfifo(odd[1]); odd[6].mkdir()
    odd[7].mkdir(); os.mkfifo(odd[7] / "1.png"); (odd[7] / "2.png").mkdir()
    odd[3].symlink_to("/dev/zero"); odd[4].symlink_to(odd[4]); odd[5].symlink_to(tmp_path / "gone")
    odd += [tmp_path / ("long" * 80), tmp_path / "not utf-8 \udcff.mp4"]
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)
        try: listener.bind("socket.png")                               # its whole path may be too long
        finally: os.chdir(here)
        def work(*files):
            for p in files: refused(p, "found")
        assert in_a_child(work, *odd) == 0


def test_a_name_with_a_null(tmp_path): refused(f"{tmp_path}/a\0b.mp4", "no readable file or folder")


# ---------------------------------------------------------------- files that were changed at random

def mutate(data, dice):
    data, n = bytearray(data), len(data)
    a = dice.randrange(n)
    match dice.randrange(6):
        case 0:
            for _ in range(dice.choice((1, 5, 30))): data[dice.randrange(n)] ^= 1 << dice.randrange(8)
        case 1: data[dice.randrange(min(n, 500))] = dice.choice((0, 127, 255))
        case 2: del data[a:]
        case 3: data[a:a + 200] = bytes(min(200, n - a))
        case 4: del data[a:a + dice.choice((1, 9, 300))]
        case 5: data[a:a] = dice.randbytes(dice.choice((1, 40)))
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a second process")
def test_sixty_damaged_files_are_read_or_named(tmp_path):
    seeds = dict(mp4="libx264", mov="mpeg4", webm="libvpx", mkv="libx264", avi="mjpeg", ts="mpeg2video", flv="flv",
                 hevc="libx265", gif=None, png=None, jpg=None, bmp=None)
    dice, files = random.Random(20), []
    for ending, codec in seeds.items():
        seed = tmp_path / f"seed.{ending}"
        quiet = {"x265-params": "log-level=none"} if ending == "hevc" else {}
        if codec: write(seed, pictures(6, 32, 32), codec, codec_options=quiet)
        else:
            film = dict(save_all=True, append_images=[*map(Image.fromarray, pictures(4))]) if ending == "gif" else {}
            Image.fromarray(pictures(1)[0]).save(seed, **film)
        for i in range(5):
            files.append(tmp_path / f"{i}.{ending}")
            if codec is None and ending != "gif": files[-1].mkdir()
            file = files[-1] / f"1.{ending}" if files[-1].is_dir() else files[-1]
            file.write_bytes(mutate(seed.read_bytes(), dice))
    def got(read, path):
        try: return len(read(path))
        except ClipError as e: assert "\n" not in str(e) and str(path) in str(e)
    def work(*files):
        for p in files:
            n = got(read_frames, p)
            assert n is None or n == count_frames(p) == got(READERS["stream"], p), p
            assert n is None or n == sum(map(len, [*read_portions(p, range)][1:])), p
            for read in (lambda p: [0] * count_frames(p), READERS["portions"], READERS["stream"]): got(read, p)
    assert in_a_child(work, *files) == 0


# ---------------------------------------------------------------- a film that is called a picture

@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.webp"])
def test_a_film_called_a_picture_is_the_film_everywhere(tmp_path, name):
    file = write(tmp_path / name, pictures(6), fmt="mp4")
    notes = []
    assert len(read_frames(file)) == len([*stream_frames(file, notes)]) == 6 and not notes
    (tmp_path / "clips.csv").write_text(f"path,label\n{name},happy\n", encoding="utf-8")
    for decode in (None, count_frames): assert not check_dataset(tmp_path, decode=decode, progress=False).problems


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, recwarn):
    p = Image.fromarray(pictures(1)[0]).convert("P")
    p.save(tmp_path / "0.png", transparency=b"\x00\x80")
    assert read_frames(tmp_path).shape == (1, 48, 64, 3) and not recwarn.list


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_does_not_keep_the_cache_waiting(tmp_path):
    "Its bytes have no end: it is looked at, not opened."
    write(tmp_path / "0.mp4", pictures(4))
    os.mkfifo(tmp_path / "1.mp4")
    (tmp_path / "2").mkdir(); os.mkfifo(tmp_path / "2" / "0.png")
    table = ClipTable([Clip(n, tmp_path / n, 0) for n in ("0.mp4", "1.mp4", "2", "gone.mp4")], root=tmp_path)
    def late(*_): raise TimeoutError
    before = signal.signal(signal.SIGALRM, late); signal.alarm(10)
    try: cache = FrameCache.build(table, tmp_path / "cache", 16, progress=False)
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)
    assert [*cache.names] == ["0.mp4"] and len(cache.problems) == 3
    assert "neither a file nor a folder" in str(cache.problems[0])


def test_a_clip_that_may_be_read_again_is_decoded(tmp_path, monkeypatch):
    "Permissions change without a trace in a file's size and time; what is damaged is not tried again."
    for n in ("0.mp4", "1.mp4", "2.mp4"): write(tmp_path / n, pictures(4))
    cut(tmp_path / "2.mp4", 0.5)
    table = ClipTable([Clip(n, tmp_path / n, 0) for n in ("0.mp4", "1.mp4", "2.mp4")], root=tmp_path)
    build, read = lambda: FrameCache.build(table, tmp_path / "cache", 16, progress=False), C._bytes_of
    def closed(path):
        if Path(path).name == "1.mp4": raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)
    with monkeypatch.context() as m:
        m.setattr(C, "_bytes_of", closed)
        for cache in (build(), FrameCache.open(tmp_path / "cache", table, 16)):
            assert [*cache.names] == ["0.mp4"] and len(cache.problems) == 2
    cache = build()
    assert [*cache.names] == ["0.mp4", "1.mp4"] and len(cache.problems) == cache.decoded == 1
