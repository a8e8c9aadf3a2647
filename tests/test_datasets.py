"The clip table, the readers and the checker, against small folders in the shape of the real data sets."
import os, time
import numpy as np, pytest
from pathlib import Path
from hypothesis import given, settings, strategies as st
from micacl.core import EMOTIONS, MicaclError
from micacl.clips import Intake, parse_label
from micacl.datasets import Clip, ClipTable, Problem, carve_validation, check, load_table, protocol


def write(root, files):
    for path, text in files.items():
        p = Path(root) / path
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Path(root)


def one_problem(table, *words):
    assert len(table.problems) == 1, [str(p) for p in table.problems]
    text = str(table.problems[0])
    assert "\n" not in text and all(w in text for w in words), text


LABELS = {i: i % 7 + 1 for i in range(1, 36)}
FOLD = {i: (i * 3) % 5 + 1 for i in LABELS}


def dfew_lists(form="EmoLabel_DataSplit/{part}(single-labeled)/set_{k}.csv", head="video_name,label\n", folds=range(1, 6), sep=",", bom="", eol="\n"):
    return {form.format(part=part, k=k): bom + head + eol.join(f"{i}{sep}{LABELS[i]}" for i in LABELS if (FOLD[i] == k) == (part == "test"))
            for k in folds for part in ("train", "test")}


def dfew_clips(form="Clip/clip_224x224/{i:05d}/1.jpg"): return {form.format(i=i): b"x" for i in LABELS}


# ---------------------------------------------------------------- the table

def test_table_indexing_and_counts():
    t = ClipTable([Clip(f"{i}", Path("x"), y) for i, y in enumerate([0, 0, 5, 6])], problems=[Problem("a:1", "b")])
    assert len(t) == 4 and t[2].label == 5 and t[-1].id == "3"
    assert [c.id for c in t[1:3]] == ["1", "2"] and [c.id for c in t[np.array([3, 0])]] == ["3", "0"]
    assert [c.id for c in t[t.labels == 0]] == ["0", "1"] and [c.id for c in t[[True, False, False, True]]] == ["0", "3"]
    assert len(t[[]]) == 0 and t[[]].counts.tolist() == [0] * 7
    assert t.counts.tolist() == [2, 0, 0, 0, 0, 1, 1] and t.labels.dtype == np.int64
    assert str(t.problems[0]) == "a:1: b"
    with pytest.raises(AttributeError): t[0].label = 3


def test_protocol_by_hand():
    t = ClipTable([Clip("a", Path("x"), 0, fold=1), Clip("b", Path("x"), 0, fold=2), Clip("c", Path("x"), 0, fold=-1),
                   Clip("d", Path("x"), 0, "test", 0), Clip("e", Path("x"), 0, "test_balanced", 0), Clip("f", Path("x"), 0, "train", 2)])
    ids = lambda t: [c.id for c in t]
    train, tests = t.protocol(1)
    assert ids(train) == ["b", "c", "f"] and list(tests) == ["test"] and ids(tests["test"]) == ["a"]
    train, tests = protocol(t)
    assert ids(train) == ["f"] and {n: ids(x) for n, x in tests.items()} == {"test": ["d"], "test_balanced": ["e"]}
    with pytest.raises(MicaclError, match="fold 3.*folds 1, 2"): t.protocol(3)
    with pytest.raises(MicaclError, match="name one"): t.select(fold=1).protocol()


# ---------------------------------------------------------------- validation

def people(n=300, persons=60, C=7, seed=0):
    rng = np.random.default_rng(seed)
    return ClipTable([Clip(f"{i:04d}", Path("x"), int(min(rng.geometric(0.4) - 1, C - 1)), group=f"p{rng.integers(persons)}") for i in range(n)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.5), st.lists(st.integers(1, 60), min_size=1, max_size=7))
def test_carve_is_stratified(seed, fraction, n_c):
    t = ClipTable([Clip(f"{c}-{i}", Path("x"), c) for c, n in enumerate(n_c) for i in range(n)])
    train, val = carve_validation(t, fraction, seed)
    assert sorted(c.id for c in [*train, *val]) == sorted(c.id for c in t)
    for n, v in zip(n_c, val.counts):
        want = 0 if n == 1 else min(max(round(fraction * n), 1), n - 1)
        assert v == want


def test_carve_keeps_groups_whole_and_is_fair():
    t = people()
    train, val = carve_validation(t, 0.2, seed=1)
    assert not {c.group for c in train} & {c.group for c in val}
    big = t.counts >= 20
    assert (abs(val.counts - 0.2 * t.counts)[big] <= 0.1 * t.counts[big]).all()
    assert (train.counts[t.counts > 0] > 0).all()


def test_carve_never_takes_the_last_clips_of_a_class():
    t = ClipTable([Clip(f"a{i}", Path("x"), 0, group=f"p{i}") for i in range(10)] + [Clip(f"b{i}", Path("x"), 1, group="one person") for i in range(3)])
    for seed in range(5):
        train, val = carve_validation(t, 0.5, seed)
        assert train.counts[:2].tolist() == [5, 3] and val.counts[:2].tolist() == [5, 0]


def test_carve_is_a_function_of_seed_and_ids():
    t = people()
    ids = lambda x: {c.id for c in x}
    a = ids(carve_validation(t, 0.2, 3)[1])
    assert a == ids(carve_validation(t[np.random.default_rng(1).permutation(len(t))], 0.2, 3)[1])
    assert a != ids(carve_validation(t, 0.2, 4)[1])
    train, val = carve_validation(t, 0, 3)
    assert len(val) == 0 and len(train) == len(t)
    with pytest.raises(MicaclError, match="val_fraction"): carve_validation(t, 1.0, 0)


# ---------------------------------------------------------------- DFEW

@pytest.mark.parametrize("files", [
    {**dfew_clips(), **dfew_lists()},
    {**dfew_clips("Clip/clip_224x224/clip_224x224/{i:05d}/1.jpg"), **dfew_lists()},                       # nested
    {**dfew_clips("DFEW/Clip/clip_224x224/{i:05d}/00001_00001.jpg"), **{"DFEW/" + k: v for k, v in dfew_lists().items()}},
    {**dfew_clips(), **dfew_lists("EmoLabel_DataSplit/{part}_single_labeled/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists("EmoLabel_DataSplit/{part}(single_labeled)/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists("{part}(single-labeled)/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists(head="")},                                                               # no header
    {**dfew_clips(), **dfew_lists(bom="\ufeff")},
    {**dfew_clips(), **dfew_lists(bom="\ufeff", head="")},
    {**dfew_clips(), **dfew_lists(head="video_name;label\r\n", sep=";", eol="\r\n")},
    {**dfew_clips("Clip/clip_224x224/{i}/1.png"), **dfew_lists()},                                         # no zero padding
    {**dfew_clips("Clip/clip_224x224/{i:07d}/1.png"), **dfew_lists()},
    {**dfew_clips("Clip/clip_224x224_avi/{i:05d}.avi"), **dfew_lists()},
    {**dfew_clips("Clip/jpg_256/{i:05d}/1.jpg"), **dfew_lists()},
    {**dfew_clips("Clip/original/{i}.mp4"), **dfew_lists()},
], ids=lambda f: next(iter(f)) + " " + list(f)[-1])
def test_dfew_layouts(tmp_path, files):
    t = load_table(write(tmp_path, files))
    assert t.dataset == "dfew" and not t.problems and not t.notes
    assert [(c.id, c.label, c.fold) for c in t] == [(f"{i:05d}", LABELS[i] - 1, FOLD[i]) for i in LABELS]
    assert t.classes == EMOTIONS and all(c.path.exists() for c in t)


def test_dfew_prefers_aligned_faces(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips("Clip/original/{i}.mp4"), **dfew_clips("Clip/clip_224x224_16f/{i:05d}/1.jpg"), **dfew_clips(), **dfew_lists()}))
    assert {c.path.parent.name for c in t} == {"clip_224x224"}


def test_dfew_folds_partition(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips(), **dfew_lists()}))
    tested = []
    for k in range(1, 6):
        train, tests = t.protocol(k)
        assert sorted(c.id for c in [*train, *tests["test"]]) == sorted(c.id for c in t)
        tested += [c.id for c in tests["test"]]
    assert sorted(tested) == sorted(c.id for c in t)


def test_dfew_some_sets_only(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips(), **dfew_lists(folds=[2])}))
    train, tests = t.protocol(2)
    assert t.folds == [2] and {c.id for c in tests["test"]} == {f"{i:05d}" for i in FOLD if FOLD[i] == 2} and len(train) == 28
    with pytest.raises(MicaclError, match="fold 1"): t.protocol(1)


def test_dfew_lists_of_other_projects(tmp_path):
    lists = {f"annotation/DFEW_set_{k}_{part}.txt": "\n".join(f"/home/x/DFEW/Clip/clip_224x224/{i:05d} 77 {LABELS[i] - 1}" for i in LABELS if (FOLD[i] == k) == (part == "test"))
             for k in range(1, 6) for part in ("train", "test")}
    t = load_table(write(tmp_path, {**dfew_clips(), **lists}))
    assert not t.problems and [(c.id, c.label, c.fold) for c in t] == [(f"{i:05d}", LABELS[i] - 1, FOLD[i]) for i in LABELS]


ONE = "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
@pytest.mark.parametrize("line, words", [
    ("99,0", ["label 0", "1..7"]), ("99,8", ["label 8"]), ("99,happy", ["label happy"]), ("99", ["label missing"]),
    ("notes: see mail", ["clip number"]), ("99,1", ["00099", "no such file"]),
])
def test_dfew_bad_rows(tmp_path, line, words):
    lists = dfew_lists()
    lists[ONE] += "\n" + line
    n = lists[ONE].count("\n") + 1
    write(tmp_path, {**dfew_clips(), **lists})
    t = load_table(tmp_path)
    assert len(t) == 35
    one_problem(t, f"{ONE}:{n}:", *words)
    with pytest.raises(MicaclError, match="set_1.csv"): load_table(tmp_path, on_bad="stop")


def test_dfew_contradictions(tmp_path):
    tested = next(i for i in FOLD if FOLD[i] == 1)
    other = next(i for i in FOLD if FOLD[i] == 2)
    lists = dfew_lists()
    lists[ONE] += f"\n{tested},{LABELS[tested]}\n{other},{LABELS[other]}"
    two = "EmoLabel_DataSplit/test(single-labeled)/set_3.csv"
    lists[two] += f"\n{other},{LABELS[other]}"
    text = "\n".join(map(str, load_table(write(tmp_path, {**dfew_clips(), **lists})).problems))
    assert f"fold 1: clip {tested:05d} stands in the train and the test list" in text
    assert f"clip {other:05d} stands in this list twice" in text
    assert f"clip {other:05d} is tested in fold 2 already" in text


def test_dfew_without_clips(tmp_path):
    write(tmp_path, dfew_lists())
    with pytest.raises(MicaclError, match="clip_224x224"): load_table(tmp_path)
    assert not check(tmp_path).ok


# ---------------------------------------------------------------- FERV39k, MAFW, SynFEW

def test_ferv39k(tmp_path):
    names = ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
    files = {f"2_ClipsforFaceCrop/Action/{e}/{i:04d}/1.jpg": b"x" for i, e in enumerate(names)}
    lists = {"4_setups/All_scenes/train_All.csv": "\n".join(f"Action/{e}/{i:04d} {e}" for i, e in enumerate(names[:5])),
             "4_setups/All_scenes/test_All.csv": "\n".join(f"D:\\data\\Action\\{e}\\{i:04d} {e}" for i, e in enumerate(names) if i > 4)}
    t = load_table(write(tmp_path, {**files, **lists}))
    assert t.dataset == "ferv39k" and not t.problems
    assert [(c.id, EMOTIONS[c.label], c.split) for c in t] == [(f"Action/{e}/{i:04d}", e.lower(), "train" if i < 5 else "test") for i, e in enumerate(names)]
    train, tests = t.protocol()
    assert len(train) == 5 and len(tests["test"]) == 2


def test_mafw(tmp_path):
    lists = {f"Train & Test Set/single/no_caption/set_{k}/{part}.txt": "\n".join(f"{i:05d}.mp4 {'contempt' if i % 2 else 'anger'}" for i in range(1, 21) if (i % 5 + 1 == k) == (part == "test"))
             for k in range(1, 6) for part in ("train", "test")}
    t = load_table(write(tmp_path, {**{f"data/clips/{i:05d}.mp4": b"x" for i in range(1, 21)}, **lists}))
    assert t.dataset == "mafw" and not t.problems and len(t.classes) == 11
    assert t.classes[t[0].label] == "contempt" and [c.fold for c in t[:5]] == [2, 3, 4, 5, 1] and t[0].path.suffix == ".mp4"


def test_synfew_layout(tmp_path):
    csv = "clip,path,label,clean_label,split,fold,identity,n_frames,seed,pose\n00001,clips/00001.mp4,happy,happy,train,2,17,16,5,0.1\n00002,clips/00002.mp4,fear,sad,test_balanced,0,18,16,6,0.2\n"
    write(tmp_path, {"clips.csv": csv, "clips/00001.mp4": b"x", "clips/00002.mp4": b"x"})
    with pytest.raises(MicaclError, match="incomplete"): load_table(tmp_path)
    write(tmp_path, {"synfew.json": "{}"})
    t = load_table(tmp_path)
    assert (t.dataset, t[0].id, t[0].group, t[0].fold, t[1].split, t[1].label) == ("synfew", "00001", "17", 2, "test_balanced", 6)


# ---------------------------------------------------------------- CSV

def own(tmp_path, text, names=("a.mp4", "b.mp4", "c.mp4")):
    return write(tmp_path, {"clips.csv": text, **{n: b"x" for n in names}})


def test_csv_columns_and_order(tmp_path):
    t = load_table(own(tmp_path, "\ufeffLabel,Path,group,fold,split\nHappy,a.mp4,anna,1,Train\n6,b.mp4,ben,2,\n Sadness ,c.mp4,,,TEST\n"))
    assert not t.problems and t.classes == EMOTIONS
    assert [(c.id, c.label, c.group, c.fold, c.split) for c in t] == [("a.mp4", 0, "anna", 1, "train"), ("b.mp4", 6, "ben", 2, ""), ("c.mp4", 1, "", 0, "test")]


def test_csv_other_classes_and_the_file_itself(tmp_path):
    own(tmp_path, "path;label\na.mp4;calm\nb.mp4;happy\nc.mp4;Bored")
    t = load_table(tmp_path / "clips.csv")
    assert t.classes == ("bored", "calm", "happy") and [t.classes[c.label] for c in t] == ["calm", "happy", "bored"]


@pytest.mark.parametrize("row, words", [
    ("b.mp4,7", ["label 7", "0..6"]), ("b.mp4,-1", ["label -1"]), ("b.mp4,hapy", ["hapy", "did you mean happy"]), ("b.mp4,", ["unknown label ''"]),
    (",happy", ["expected a path"]), ("z.mp4,happy", ["z.mp4", "no such file"]), ("a.mp4,happy", ["clips.csv:2 already"]), ("./a.mp4,happy", ["clips.csv:2 already"]),
    ("../x.mp4,happy", ["leaves the data folder"]), ("sub/../../x.mp4,happy", ["leaves"]), ("/etc/hostname,happy", ["leaves"]), ("sub\\..\\..\\x.mp4,sad", ["leaves"]),
    ("link.mp4,happy", ["leaves"]), ("linked/secret.mp4,happy", ["leaves"]), ("a\0.mp4,happy", ["no such file"]),
])
def test_csv_bad_rows(tmp_path, row, words):
    root = own(tmp_path / "data", "path,label,split\na.mp4,sad,train\n" + row + ",train\n")
    write(tmp_path, {"secret.mp4": b"x", "x.mp4": b"x"})
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "linked").symlink_to(tmp_path)
    t = load_table(root)
    assert [c.id for c in t] == ["a.mp4"]
    one_problem(t, "clips.csv:3:", *words)
    with pytest.raises(MicaclError): load_table(root, on_bad="stop")


def test_links_and_detours_inside_the_root_are_fine(tmp_path):
    root = own(tmp_path, f"path,label,split\nlink.mp4,sad,train\nsub/../b.mp4,sad,train\n{tmp_path}/c.mp4,sad,train\nsub/d.mp4,sad,train\n", ["a.mp4", "b.mp4", "c.mp4", "sub/d.mp4"])
    (root / "link.mp4").symlink_to(root / "a.mp4")
    assert not load_table(root).problems


@pytest.mark.parametrize("split, fold, words", [("holdout", "1", ["split", "holdout"]), ("train", "x", ["fold", "x"]), ("train", "-1", ["fold"])])
def test_csv_bad_split_and_fold(tmp_path, split, fold, words):
    t = load_table(own(tmp_path, f"path,label,split,fold\na.mp4,sad,train,1\nb.mp4,sad,{split},{fold}\n"))
    one_problem(t, "clips.csv:3:", *words)


@pytest.mark.parametrize("text, words", [("a.mp4,happy\nb.mp4,sad\n", ["path,label", "a.mp4,happy"]), ("", ["empty file"]), ("path,label\n", ["only the header"]),
                                         ("path,label\na.mp4,\xe4".encode("latin1"), ["UTF-8"])])
def test_csv_as_a_whole(tmp_path, text, words):
    own(tmp_path, text)
    for on_bad in ("skip", "stop"):
        with pytest.raises(MicaclError) as e: load_table(tmp_path, on_bad=on_bad)
        assert all(w in str(e.value) for w in words) and "\n" not in str(e.value)
    report = check(tmp_path)
    assert not report.ok and words[0] in str(report)


def test_no_split_column_sets_a_fifth_aside(tmp_path):
    names = [f"{i:03d}.mp4" for i in range(100)]
    own(tmp_path, "path,label\n" + "\n".join(f"{n},{EMOTIONS[i % 2]}" for i, n in enumerate(names)), names)
    t = load_table(tmp_path)
    train, tests = t.protocol()
    assert train.counts[:2].tolist() == [40, 40] and tests["test"].counts[:2].tolist() == [10, 10] and "set aside" in t.notes[0]
    assert [c.split for c in load_table(tmp_path)] == [c.split for c in t]


def test_nothing_known_and_nothing_there(tmp_path):
    with pytest.raises(MicaclError, match="found nothing there"): load_table(tmp_path / "nowhere")
    with pytest.raises(MicaclError, match="expected a data set.*empty folder"): load_table(tmp_path)
    with pytest.raises(MicaclError, match="expected one of dfew"): load_table(tmp_path, dataset="affectnet")
    with pytest.raises(MicaclError, match="on_bad"): load_table(own(tmp_path, "path,label\na.mp4,sad"), on_bad="ignore")


def test_parse_label():
    assert parse_label("ANGER", EMOTIONS) == (3, None) and parse_label("5", EMOTIONS) == (5, None)
    assert parse_label("5", ("a", "b"))[0] is None and parse_label("1.5", EMOTIONS)[0] is None


# ---------------------------------------------------------------- the checker, and speed

def test_check_counts_and_names(tmp_path):
    clips = dfew_clips()
    del clips["Clip/clip_224x224/00003/1.jpg"], clips["Clip/clip_224x224/00005/1.jpg"]
    write(tmp_path, {**clips, **dfew_lists()})
    (tmp_path / "Clip/clip_224x224/00005").mkdir()
    report = check(tmp_path)
    text = "\n".join(map(str, report.problems))
    assert report.ok and sum(report.counts["all"]) == 33 and len(report.problems) == 2
    assert "00003, found no such file" in text and "00005: expected pictures, found an empty folder" in text
    assert report.published["all"] == (2445, 1894, 2669, 2173, 1469, 145, 902) and sum(report.published["fold 1"]) == 2341
    assert "11697" in str(report) and "usable, 33 clips" in str(report)
    assert report.to_dict()["problems"][0] == str(report.problems[0])


def test_published_counts_add_up():
    from micacl.datasets import _PUBLISHED
    assert sum(_PUBLISHED["dfew"]["all"]) == 11697 and sum(_PUBLISHED["dfew"][f"fold {k}"] if k > 1 else sum(_PUBLISHED["dfew"]["fold 1"]) for k in range(1, 6)) == 11697
    assert sum(_PUBLISHED["ferv39k"]["train"]) == 31088 and sum(_PUBLISHED["ferv39k"]["test"]) == 7847 and sum(_PUBLISHED["mafw"]["all"]) == 9172


def test_check_decodes_when_asked(tmp_path):
    root = own(tmp_path, "path,label,split\na.mp4,sad,train\nb.mp4,happy,train\nc.mp4,fear,test\n")
    def decode(path):
        if path.name == "b.mp4": raise MicaclError(f"{path}: expected a video, found tea")
    report = check(root, decode=decode, progress=False)
    assert [str(p) for p in report.problems] == [f"{root / 'b.mp4'}: expected a video, found tea"]
    assert not report.ok and "one class" in report.verdict
    assert check(root).ok


def test_reads_ferv39k_size_without_asking_the_disk_for_each_file(tmp_path, monkeypatch):
    lists = {"train": [], "test": []}
    folders = [f"S{s}/{e}" for s in range(22) for e in ("Happy", "Sad", "Fear", "Angry", "Neutral", "Disgust", "Surprise")]
    for i in range(38935): lists["test" if i % 5 == 0 else "train"].append(f"{folders[i % 154]}/{i:05d} {folders[i % 154].split('/')[1]}")
    write(tmp_path, {f"4_setups/All_scenes/{k}_All.csv": "\n".join(v) for k, v in lists.items()})
    (tmp_path / "2_ClipsforFaceCrop").mkdir()
    names = {}
    for row in lists["train"] + lists["test"]: names.setdefault(os.path.dirname(row.split()[0]), {})[os.path.basename(row.split()[0])] = False
    asked = []
    monkeypatch.setattr(Intake, "names", lambda self, folder: asked.append(folder) or names.get(folder.split("2_ClipsforFaceCrop/")[1], {}))
    start = time.process_time()
    t = load_table(tmp_path)
    assert time.process_time() - start < 2 and len(t) == 38935 and not t.problems
    assert len(set(asked)) == 154
