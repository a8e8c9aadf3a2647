"""What must hold for any input: list files full of rubbish, every number of frames, every order of clips, damaged
videos. Hypothesis makes the inputs, the same ones every time."""
import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Effort
from hypothesis import HealthCheck, example, given, settings, strategies as st

from micacl.data.table import Clip, ClipTable, carve_validation, divided_groups, make_folds
from micacl.core import MicaclError
from micacl.data.load import check_dataset, load_table
from micacl.longtail.samplers import SAMPLERS, EpochOrder, clip_shares
from micacl.data.bags import frame_indices

ROOT = Path(__file__).parents[2]
SHELL = dict(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow,
    HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])


# ---------------------------------------------------------------- list files

LISTS = dict(csv="clips.csv", dfew="EmoLabel_DataSplit/train(single-labeled)/set_1.csv",
             others="annotation/DFEW_set_1_test.txt",
             ferv39k="4_setups/All_scenes/train_All.csv", mafw="Train & Test Set/single/no_caption/set_2/test.txt")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    "A data folder of each kind, with clips 1 to 5."
    out = {}
    for kind, file in LISTS.items():
        root = tmp_path_factory.mktemp(kind)
        homes = dict(csv="clips/{}.mp4", dfew="Clip/clip_224x224/{:05d}/1.jpg", others="Clip/clip_224x224/{:05d}/1.jpg",
                     ferv39k="2_ClipsforFaceCrop/Action/Sad/{:04d}/1.jpg", mafw="data/clips/{:05d}.mp4")
        for i in range(1, 6):
            (p := root / homes[kind].format(i)).parent.mkdir(parents=True, exist_ok=True)
            p.write_bytes(b"x")
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        out[kind] = root
    return out


def read(root, file, content, seconds=3):
    "A table, or a MicaclError of one line, within some time; anything else is an error of the reader."
    (root / file).write_bytes(content)
    try:
        with Effort() as effort: table, error = load_table(root), None
        assert len(table) and all(0 <= c.label < len(table.classes) and c.path.exists() for c in table)
        assert len({c.id for c in table}) == len(table)
        for p in table.problems: assert len(str(p).splitlines()) == 1 and len(p.message) < 600
    except MicaclError as e: table, error = None, e
    assert effort.seconds < seconds
    if error: assert len(str(error).splitlines()) == 1 and len(str(error)) < 1500
    try: load_table(root, on_bad="stop")
    except MicaclError: pass
    report = check_dataset(root)
    assert json.loads(json.dumps(report.to_dict()))["ok"] == report.ok and str(report)
    return table or error


WORDS = ["path", "label", "split", "fold", "group", "video_name", ",", ";", "\t", " ", "\n", "\r\n", "\r", '"', '""',
         "'", "\0", "\ufeff", "\x85", "\u2028", "clips/1.mp4", "clips/2.mp4", "clips\\3.mp4", "../4.mp4", "/etc/passwd",
         "1", "2", "00003", "4.0", "1e9", "-1", "9" * 30, "٣", "²", "happy", "Sad", "anger", "hapy", "test", "train",
         "Action/Sad/0001", "Action/Sad/0002.mp4", "/x y/00004 77 3", "🙂", "\ud7ff", "a" * 300, "//", ".", "..",
         "%s{}"]
rubbish = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)),
                   max_size=40).map(lambda w: "".join(w).encode("utf-8", "surrogatepass"))
lines = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), max_size=12)


@settings(max_examples=40, **SHELL)
@given(st.sampled_from(sorted(LISTS)), st.one_of(rubbish, st.binary(max_size=80)))
@example("csv", b"path,label\n\"clips/1.mp4,happy")
@example("csv", "path,label\nclips/1.mp4,happy\n".encode("utf-16"))
def test_any_bytes(roots, kind, content): read(roots[kind], LISTS[kind], content)


@settings(max_examples=40, **SHELL)
@given(st.sampled_from(sorted(LISTS)), lines, st.sampled_from([",", ";", "\t", " "]), st.sampled_from(["", "\ufeff"]),
       st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_any_cells(roots, kind, cells, sep, bom, end, header):
    head = [["path", "label", "split", "fold", "group"]] if header else []
    text = bom + end.join(sep.join(row) for row in head + cells)
    read(roots[kind], LISTS[kind], text.encode("utf-8", "surrogatepass"))


@settings(max_examples=25, **SHELL)
@given(st.lists(st.tuples(st.integers(1, 5), st.text(st.characters(blacklist_categories=("Cs",)), min_size=1,
                                                     max_size=8), st.sampled_from(["train", "test", ""])), min_size=1,
                                                     max_size=5, unique_by=lambda r: r[0]))
def test_any_class_names_come_back(roots, rows):
    "What a CSV writer writes is read as it was meant, whatever the names."
    import csv
    import io
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["path", "label", "split"], *((f"clips/{i}.mp4", y, s) for i, y, s in rows)])
    table = read(roots["csv"], LISTS["csv"], buffer.getvalue().encode())
    if isinstance(table, MicaclError): return
    named = {c.id: table.classes[c.label] for c in table}
    for i, *_ in rows:
        if (id := f"clips/{i}.mp4") in named: assert named[id] in table.classes
    same = {(named[f"clips/{i}.mp4"], y) for i, y, _ in rows if f"clips/{i}.mp4" in named}
    # two names may be one class, one name is never two
    assert len({a for a, _ in same}) <= len({y for _, y in same})


LONG = {
    "a million cells": ("ferv39k", "Action/Sad/0001 " * 10**6 + "Sad\nAction/Sad/0002 Sad"),
    "a long line": ("csv", "path,label\nclips/1.mp4,happy\n" + "x" * 10**7),
    "a long label": ("csv", "path,label\nclips/1.mp4," + "y" * 10**5 + "\nclips/2.mp4,happy\nclips/3.mp4," + "z"
                     * 10**5),
    "a long number": ("others", "1" * 10**6 + " 3\n/x/00001 3\n" + "1" * 10**6 + "x 3\n"),
    "a long number as label": ("others", "/x/00001 " + "1" * 10**6 + "\n/x/00002 3\n"),
    "a long number as label of DFEW": ("dfew", "video_name,label\n1," + "1" * 10**5 + ".0\n2,3\n"),
    "a long number as fold": ("csv", "path,label,fold\nclips/1.mp4,happy," + "1" * 10**5 + "\nclips/2.mp4,happy,1\n"),
    "a deep path": ("csv", "path,label\n" + "a/" * 60_000 + "b.mp4,happy\nclips/1.mp4,happy\n"),
    "many ways up": ("ferv39k", "../" * 10**6 + "Action/Sad/0001 Sad\nAction/Sad/0002 Sad\n"),
    "a label for each clip": ("csv", "path,label\n" + "\n".join(f"clips/{i}.mp4,name {i}" for i in range(20_000))),
    "no labels": ("csv", "path,label\nclips/1.mp4,a\nclips/2.mp4,b\n"
                  + "\n".join(f"clips/{i}.mp4," for i in range(3, 20_000))),
    "an open quote": ("csv", 'path,label\n"' + "clips/1.mp4,happy\n" * 40_000),
    "nothing but zeros": ("mafw", "\0" * 10**6), "nothing but line ends": ("dfew", "\n" * 10**6),
}


@pytest.mark.parametrize("name", LONG)
def test_long_lists_are_read_or_refused_soon(roots, name):
    kind, text = LONG[name]
    root = roots[kind]
    (root / LISTS[kind]).write_text(text, encoding="utf-8")
    with Effort() as effort:
        try: table = load_table(root)
        except MicaclError as e: table = e
    assert effort.seconds < 4
    if name.startswith("a long number") or name in ("a deep path", "many ways up"):
        assert len(table) >= 1, table      # the good line is kept


HOSTILE = {
    "a million columns": (",".join(["path", "label", *(f"c{i}" for i in range(10**6))]) + "\nclips/1.mp4,happy" + ","
                          * 10**6 + "\nclips/2.mp4,sad\n", "clips.csv:1: expected a line of at most 1,000,000 letters",
                          None),
    "two thousand columns": ("path,label" + ",x" * 2000 + "\nclips/1.mp4,happy\n",
                             "clips.csv:1: expected at most 1,000 cells, found 2002", None),
    "a long line": ("path,label\nclips/1.mp4,happy\n" + "x" * (60 << 20) + "\nclips/2.mp4,sad\n",
                    "clips.csv:3: expected a line of at most 1,000,000 letters, found 62914560", 2),
    "a long line of cells": ("path,label\nclips/1.mp4,happy\n" + "a," * (30 << 20) + "\nclips/2.mp4,sad\n",
                             "clips.csv:3: expected a line", 2),
    "long lines of cells": ("path,label\n" + ("a," * 450_000 + "\n") * 60 + "clips/2.mp4,sad\n",
                            "clips.csv:2: expected at most 1,000 cells", 1),
    "100 MB": ("path,label\n" + "x" * 100_000_000, "expected a list of at most 64 MB and 2,000,000 lines, found 100 MB",
               None),
    "a quote and millions of lines": ('path,label\n"' + "x,y\n" * 12_500_000,
                                      "found 50 MB and 12,500,001 lines; is this the list?", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lists_take_bounded_time_and_memory(roots, name):
    text, words, n = HOSTILE[name]
    (file := roots["csv"] / "clips.csv").write_text(text)
    with Effort() as effort:
        tracemalloc.start()
        try: result = load_table(roots["csv"])
        except MicaclError as e: result = e
        finally: peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop(); file.unlink()
    assert peak < 500e6 and effort.seconds < 8, f"{peak / 1e6:.0f} MB, {effort.seconds:.1f} s"
    said = str(result) if n is None else "\n".join(map(str, result.problems))
    assert words in said and (n is None or len(result) == n), said[:500]


def test_a_folder_called_like_a_list(tmp_path):
    (tmp_path / "clips.csv").mkdir()
    with pytest.raises(MicaclError, match="found none that can be read"): load_table(tmp_path)
    assert not check_dataset(tmp_path).ok


# ---------------------------------------------------------------- dividing clips

tables = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=2, max_size=60).map(
    lambda rows: ClipTable([Clip(f"{i:03d}", Path("x"), y, group=f"p{g}" if g < 8 else "") for i,
                            (y, g) in enumerate(rows)]))


@settings(max_examples=60, **SHELL)
@given(tables, st.integers(2, 6), st.integers(0, 99))
def test_folds_and_validation_divide_every_table(table, k, seed):
    n = len({c.group or c.id for c in table})
    if k > n:
        with pytest.raises(MicaclError): make_folds(table, k, seed)
    else:
        folds = make_folds(table, k, seed)
        assert (divided_groups(folds) == [] and [c.id for c in folds] == [c.id for c in table]
                and set(folds.folds) <= set(range(1, k + 1)))
        assert make_folds(table, k, seed).clips == folds.clips
        assert sum(len(folds.select(fold=j)) for j in folds.folds) == len(table)
    train, validation = carve_validation(table, 0.3, seed)
    assert sorted(c.id for c in [*train, *validation]) == [c.id for c in table]
    assert not {c.group for c in train if c.group} & {c.group for c in validation}
    assert all((train.counts > 0) == (table.counts > 0))


# ---------------------------------------------------------------- frames and orders

@settings(max_examples=150, **SHELL)
@given(st.integers(1, 3000), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
@example(1, 4, 4, 0)
@example(15, 4, 4, 0)
@example(2**40, 9, 9, 1)
def test_frame_indices(n, N, L, seed):
    T = N * L
    for draw in (None, torch.Generator().manual_seed(seed)):
        i = frame_indices(n, N, L, draw)
        assert i.dtype == torch.int64 and i.shape == (T,) and 0 <= i.min() and i.max() < n and (i.diff() >= 0).all()
    again = frame_indices(n, N, L, torch.Generator().manual_seed(seed))
    assert torch.equal(i, again)
    test = frame_indices(n, N, L)
    assert test.tolist() == [(2 * k + 1) * n // (2 * T) for k in range(T)]       # exact, in Python's whole numbers
    edges = np.arange(T + 1) * n / T
    # each from its own segment
    assert all(np.floor(edges[:-1] - 1e-9) <= i.numpy()) and all(i.numpy() <= np.ceil(edges[1:]))
    if n <= T: assert set(test.tolist()) == set(range(n))                        # a short clip is used whole, evenly
    if n >= T: assert len(set(test.tolist())) == T


labels = st.lists(st.integers(0, 6), min_size=1, max_size=80)


@settings(max_examples=80, **SHELL)
@given(labels, st.sampled_from(SAMPLERS), st.integers(0, 2**40), st.integers(0, 5))
@example([3], "per_class", 0, 0)
@example([0, 6], "balanced", 0, 0)
def test_every_order(y, sampler, seed, epoch):
    order = EpochOrder(y, seed, sampler, epochs=6)
    order.set_epoch(epoch)
    first, second = list(order), list(order)
    assert first == second and len(first) == len(order) == len(y) and set(first) <= set(range(len(y)))
    if sampler == "natural": assert sorted(first) == list(range(len(y)))
    if sampler == "per_class":
        classes = sorted(set(y))
        # a round: four clips of a class, then of the next
        head = [y[i] for i in first[:4 * len(classes)]]
        runs = [c for c, _ in itertools.groupby(head)]
        assert len(runs) == len(set(runs)) and (len(y) < 4 * len(classes) or sorted(runs) == classes)


@settings(max_examples=60, **SHELL)
@given(labels, st.sampled_from(["natural", "sqrt", "balanced", "progressive"]), st.floats(0, 1))
def test_shares_of_every_table(y, sampler, t):
    y = torch.tensor(y)
    p = clip_shares(y, sampler, t)
    assert p.shape == y.shape and (p > 0).all() and abs(p.sum() - 1) < 1e-12
    by_class = torch.stack([p[y == c].sum() for c in y.unique()])
    n_c = torch.stack([(y == c).sum() for c in y.unique()]).double()
    truth = dict(natural=n_c / n_c.sum(), sqrt=n_c.sqrt() / n_c.sqrt().sum(),
                 balanced=torch.full_like(n_c, 1 / len(n_c)))
    truth["progressive"] = (1 - t) * truth["natural"] + t * truth["balanced"]
    assert torch.allclose(by_class, truth[sampler], atol=1e-12)


# ---------------------------------------------------------------- damaged clips

DECODE = '''
import json, sys, time
from pathlib import Path
from micacl.data import bags as video
from micacl.core import MicaclError
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(json.dumps(dict(started=path.name)), flush=True)      # if the process dies, this names the file
    start = time.perf_counter()
    try: result = list(video.read_frames(path).shape)
    except MicaclError as e: result = str(e)
    print(json.dumps(dict(name=path.name, result=result, seconds=time.perf_counter() - start)), flush=True)
'''


def damaged(data, rng):
    """One of the things that happen to files: bits flip, blocks are zeroed, the end or a piece of the middle is
    lost, rubbish is inserted."""
    out, n = bytearray(data), len(data)
    kind = rng.integers(6)
    a, b = sorted(rng.integers(0, n, 2).tolist())
    if kind == 0:
        for i in rng.integers(0, n, 1 + rng.integers(20)): out[i] ^= 1 << int(rng.integers(8))
    elif kind == 1: out[a:min(a + 512, n)] = bytes(min(a + 512, n) - a)
    elif kind == 2: del out[max(a, 1):]
    elif kind == 3: del out[a:a + (b - a) // 4]
    elif kind == 4: out[a:a] = rng.bytes(64)
    else:
        # a length or a count that lies
        out[a:a + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
    return bytes(out)


def test_damaged_clips_are_read_or_named(tmp_path):
    import io
    from PIL import Image
    (home := tmp_path / "clips").mkdir()
    rng = np.random.default_rng(7)
    clip = sorted((ROOT / "data" / "synfew-mini" / "clips").glob("*.mp4"))[0].read_bytes()
    pictures = {}
    for ending in ("jpg", "png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer := io.BytesIO(),
            {"jpg": "JPEG"}.get(ending, "PNG"))
        pictures[ending] = buffer.getvalue()
    for i in range(60): (home / f"{i:03d}.mp4").write_bytes(damaged(clip, rng))
    for i, ending in enumerate(["jpg", "png"] * 10):
        (d := home / f"pictures {i:02d}").mkdir()
        (d / f"1.{ending}").write_bytes(pictures[ending])
        (d / f"2.{ending}").write_bytes(damaged(pictures[ending], rng))
    (home / "whole.mp4").write_bytes(clip)
    done = subprocess.run([sys.executable, "-c", DECODE, home], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"status {done.returncode} at {done.stdout.splitlines()[-1:]}\n{done.stderr[-2000:]}"
    results = [r for r in map(json.loads, done.stdout.splitlines()) if "name" in r]
    assert len(results) == 81 and all(isinstance(r["result"], list) for r in results if r["name"] == "whole.mp4")
    for r in results:
        assert r["seconds"] < 5, r
        if isinstance(r["result"], str):
            assert r["name"] in r["result"] and "expected" in r["result"] and "\n" not in r["result"], r
        else: assert len(r["result"]) == 4 and r["result"][0] >= 1 and r["result"][3] == 3, r
    # most damage is noticed, not all of it can be
    assert 15 < sum(isinstance(r["result"], str) for r in results) < 81
