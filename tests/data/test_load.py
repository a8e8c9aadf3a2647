"The clip table, the readers and the checker, against small folders in the shape of the real data sets."
import numpy as np, pytest
from pathlib import Path
from helpers import Effort
from hypothesis import given, settings, strategies as st
from micacl.core import EMOTIONS, MicaclError
from micacl.data.table import Intake, divided_groups, make_folds, parse_label, write_clips
from micacl.data.load import Clip, ClipTable, Problem, carve_validation, check_dataset, load_table, protocol


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


def dfew_lists(form="EmoLabel_DataSplit/{part}(single-labeled)/set_{k}.csv", head="video_name,label\n",
               folds=range(1, 6), sep=",", bom="", eol="\n"):
    return {form.format(part=part, k=k): bom + head + eol.join(f"{i}{sep}{LABELS[i]}" for i in LABELS
                                                               if (FOLD[i] == k) == (part == "test"))
            for k in folds for part in ("train", "test")}


def dfew_clips(form="Clip/clip_224x224/{i:05d}/1.jpg"): return {form.format(i=i): b"x" for i in LABELS}


# ---------------------------------------------------------------- the table

def test_table_indexing_and_counts():
    t = ClipTable([Clip(f"{i}", Path("x"), y) for i, y in enumerate([0, 0, 5, 6])], problems=[Problem("a:1", "b")])
    assert len(t) == 4 and t[2].label == 5 and t[-1].id == "3"
    assert [c.id for c in t[1:3]] == ["1", "2"] and [c.id for c in t[np.array([3, 0])]] == ["3", "0"]
    assert ([c.id for c in t[t.labels == 0]] == ["0", "1"]
            and [c.id for c in t[[True, False, False, True]]] == ["0", "3"])
    assert len(t[[]]) == 0 and t[[]].counts.tolist() == [0] * 7
    assert t.counts.tolist() == [2, 0, 0, 0, 0, 1, 1] and t.labels.dtype == np.int64
    assert str(t.problems[0]) == "a:1: b"
    with pytest.raises(AttributeError): t[0].label = 3


def test_protocol_by_hand():
    t = ClipTable([Clip("a", Path("x"), 0, fold=1), Clip("b", Path("x"), 0, fold=2), Clip("c", Path("x"), 0, fold=-1),
                   Clip("d", Path("x"), 0, "test", 0), Clip("e", Path("x"), 0, "test_balanced", 0),
                   Clip("f", Path("x"), 0, "train", 2)])
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
    return ClipTable([Clip(f"{i:04d}", Path("x"), int(min(rng.geometric(0.4) - 1, C - 1)),
                           group=f"p{rng.integers(persons)}") for i in range(n)])


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
    t = ClipTable([Clip(f"a{i}", Path("x"), 0, group=f"p{i}") for i in range(10)]
                  + [Clip(f"b{i}", Path("x"), 1, group="one person") for i in range(3)])
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
    {**dfew_clips("DFEW/Clip/clip_224x224/{i:05d}/00001_00001.jpg"),
     **{"DFEW/" + k: v for k, v in dfew_lists().items()}},
    {**dfew_clips(), **dfew_lists("EmoLabel_DataSplit/{part}_single_labeled/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists("EmoLabel_DataSplit/{part}(single_labeled)/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists("{part}(single-labeled)/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists(head="")},                                                               # no header
    {**dfew_clips(), **dfew_lists(bom="\ufeff")},
    {**dfew_clips(), **dfew_lists(bom="\ufeff", head="")},
    {**dfew_clips(), **dfew_lists(head="video_name;label\r\n", sep=";", eol="\r\n")},
    # no zero padding
    {**dfew_clips("Clip/clip_224x224/{i}/1.png"), **dfew_lists()},
    {**dfew_clips("Clip/clip_224x224/{i:07d}/1.png"), **dfew_lists()},
    {**dfew_clips("Clip/clip_224x224_avi/{i:05d}.avi"), **dfew_lists()},
    {**dfew_clips("Clip/jpg_256/{i:05d}/1.jpg"), **dfew_lists()},
    # of the 16,372 clips 12,059 have a label
    {**dfew_clips("Clip/original/{i}.mp4"), **dfew_lists(), "Clip/original/16372.mp4": b"no label"},
    {**dfew_clips("Clip/clip_224x224_16f/{i:05d}/1.jpg"), **dfew_lists()},
    # nested under a third name
    {**dfew_clips("Clip/clip_224x224/clip_224/{i:05d}/1.jpg"), **dfew_lists()},
    {**dfew_clips("Clip/Clip_224x224/{i:05d}/1.jpg"), **dfew_lists()},
    {**dfew_clips("DFEW-part2/Clip/clip_224x224/{i:05d}/1.jpg"),
     **dfew_lists("DFEW-part1/EmoLabel_DataSplit/{part}(single-labeled)/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists("EmoLabel_DataSplit/{part}/set_{k}.csv")},
    {**dfew_clips(), **dfew_lists(), **{f"EmoLabel_DataSplit/{part}(multi-labeled)/set_1.csv": "video_name,label\n1,9\n"
                                        for part in ("train", "test")}},
    # emptied columns of a spreadsheet
    {**dfew_clips(), **dfew_lists(eol=",,\n", head="video_name,label,,\n")},
    {**dfew_clips(), **{k: v.encode("utf-16") for k, v in dfew_lists(sep="\t", head="video_name\tlabel\n").items()}},
    {**dfew_clips(), **dfew_lists(), "annotation/MAFW_set_1_train.txt": "/data/MAFW/data/faces/00001 42 7\n",
     "annotation/FERV39K_test.txt": "/x/2_ClipsforFaceCrop/Action/Happy/0015 25 0\n"},
    {**dfew_clips(), **dfew_lists(), "clips.csv": "", **{f"part{i:03d}.zip": b"" for i in range(80)}},
], ids=lambda f: next(iter(f)) + " " + list(f)[-1])
def test_dfew_layouts(tmp_path, files):
    t = load_table(write(tmp_path, files))
    assert t.dataset == "dfew" and not t.problems and not t.notes
    assert [(c.id, c.label, c.fold) for c in t] == [(f"{i:05d}", LABELS[i] - 1, FOLD[i]) for i in LABELS]
    assert t.classes == EMOTIONS and all(c.path.exists() for c in t)


def test_dfew_prefers_aligned_faces(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips("Clip/original/{i}.mp4"),
                                    **dfew_clips("Clip/clip_224x224_16f/{i:05d}/1.jpg"), **dfew_clips(),
                                    **dfew_lists()}))
    assert {c.path.parent.name for c in t} == {"clip_224x224"}


def test_dfew_folds_partition(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips(), **dfew_lists()}))
    tested = []
    for k in range(1, 6):
        train, tests = t.protocol(k)
        assert sorted(c.id for c in [*train, *tests["test"]]) == sorted(c.id for c in t)
        tested += [c.id for c in tests["test"]]
    assert sorted(tested) == sorted(c.id for c in t)


@pytest.mark.parametrize("name, row", [
    ("annotation/DFEW_set_{k}_{part}.txt", "/home/x/DFEW/Clip/clip_224x224/{i:05d} 77 {y}"),
    ("annotation/DFEW_set_{k}_{part}.txt", "/home/x/My Data/DFEW (copy)/{i:05d} 77 {y}"),                  # spaces
    # without the number of frames
    ("annotation/DFEW_set_{k}_{part}.txt", "/home/x/DFEW 2/{i:05d} {y}"),
    ("annotation/DFEW_set_{k}_{part}.txt", "D:\\data\\DFEW\\Clip\\clip_224x224\\{i:05d} 77 {y}"),        # Windows
    ("annotation/DFEW_set_{k}_{part}(single-labeled).txt", "/x/DFEW_Frame_Face/{i:05d} 77 {y}"),
    ("lists/dfew/org/split0{k}/{part}.csv", "/mnt/AC/Dataset/DFEW/Clip/jpg_256/{i:05d} {y}"),
    ("lists/dfew/org/split0{k}/{part}.csv", "/mnt/Clip/original/{i}.mp4,{y}"),
])
def test_dfew_lists_of_other_projects_in_all_their_forms(tmp_path, name, row):
    lists = {name.format(k=k, part="val" if "split0" in name and part == "test" and k == 2
                         else part): "\n".join(row.format(i=i, y=LABELS[i] - 1) for i in LABELS
                                               if (FOLD[i] == k) == (part == "test"))
             for k in range(1, 6) for part in ("train", "test")}
    t = load_table(write(tmp_path / "my data", {**dfew_clips(), **lists}))
    assert (not t.problems and [(c.id, c.label, c.fold) for c in t]
            == [(f"{i:05d}", LABELS[i] - 1, FOLD[i]) for i in LABELS])


def test_dfew_some_sets_only(tmp_path):
    t = load_table(write(tmp_path, {**dfew_clips(), **dfew_lists(folds=[2])}))
    train, tests = t.protocol(2)
    assert (t.folds == [2] and {c.id for c in tests["test"]} == {f"{i:05d}" for i in FOLD if FOLD[i] == 2}
            and len(train) == 28)
    with pytest.raises(MicaclError, match="fold 1"): t.protocol(1)


def test_dfew_lists_of_other_projects(tmp_path):
    lists = {f"annotation/DFEW_set_{k}_{part}.txt": "\n".join(f"/home/x/DFEW/Clip/clip_224x224/{i:05d} 77 "
                                                              f"{LABELS[i] - 1}" for i in LABELS
                                                              if (FOLD[i] == k) == (part == "test"))
             for k in range(1, 6) for part in ("train", "test")}
    t = load_table(write(tmp_path, {**dfew_clips(), **lists}))
    assert (not t.problems and [(c.id, c.label, c.fold) for c in t]
            == [(f"{i:05d}", LABELS[i] - 1, FOLD[i]) for i in LABELS])


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
    assert not check_dataset(tmp_path).ok
    write(tmp_path, {"Clip/clip_224x224.zip": b"PK"})
    with pytest.raises(MicaclError, match="unpack Clip/clip_224x224.zip"): load_table(tmp_path)


def test_dfew_missing_folders_are_named_one_by_one(tmp_path):
    clips = dfew_clips()
    for i in (3, 20): del clips[f"Clip/clip_224x224/{i:05d}/1.jpg"]
    t = load_table(write(tmp_path, {**clips, **dfew_lists()}))
    assert (len(t) == 33 and len(t.problems) == 2 and all(f"clip_224x224/{i:05d}, found no such file or folder"
                                                          in "\n".join(map(str, t.problems)) for i in (3, 20)))


# ---------------------------------------------------------------- FERV39k, MAFW, SynFEW

FERV = ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
FERV_LISTS = "4_setups/All_scenes/{part}_All.csv"
def ferv_clips(form="2_ClipsforFaceCrop/Action/{e}/{i:04d}/1.jpg"):
    return {form.format(e=e, i=i): b"x" for i, e in enumerate(FERV)}
def ferv_lists(row="Action/{e}/{i:04d} {e}", form=FERV_LISTS, head=""):
    line = lambda i, e: row.format(e=e, i=i, y=EMOTIONS.index(e.lower()))
    return {form.format(part="train"): head + "\n".join(line(i, e) for i, e in enumerate(FERV[:5])),
            form.format(part="test"): head + "\n".join(line(i, e) for i, e in enumerate(FERV) if i > 4)}


@pytest.mark.parametrize("files", [
    {**ferv_clips(), **ferv_lists()},
    {**ferv_clips(), **ferv_lists(head="\ufeff")},
    {**ferv_clips(), **ferv_lists(row="Action/{e}/{i:04d},{e}")},
    {**ferv_clips(), **ferv_lists(row="Action/{e}/{i:04d} {e}\r")},
    {**ferv_clips(), **ferv_lists(row="D:\\my data\\Action\\{e}\\{i:04d} {e}")},
    {**ferv_clips(), **ferv_lists(row="/home/x/my data/2_ClipsforFaceCrop/Action/{e}/{i:04d} 28 {y}")},
    {**ferv_clips(), **ferv_lists("/data/FERV39K/2_ClipsforFaceCrop/Action/{e}/{i:04d} 28 {y}",
                                  "annotation/FERV39K_{part}.txt")},
    {**ferv_clips(), **ferv_lists("/mnt/Action/{e}/{i:04d} {y}", "lists/ferv39k/all_scenes/{part}.csv")},
    {**ferv_clips("2_ClipsforFaceCrop/2_ClipsforFaceCrop/Action/{e}/{i:04d}/1.jpg"), **ferv_lists()},         # nested
    {**ferv_clips("2_ClipsforFaceCrop-002/2_ClipsforFaceCrop/Action/{e}/{i:04d}/1.jpg"),
     **ferv_lists(form="drive-download-1-003/" + FERV_LISTS)},
    # the scenes lie in the root
    {**ferv_clips("Action/{e}/{i:04d}/1.jpg"), **ferv_lists()},
    {**ferv_clips("2_ClipsforFaceCrop/Action/{e}/{i:04d}.mp4"), **ferv_lists()},
    {**ferv_clips("2_ClipsforFaceCrop/Action/{e}/{i:04d}.avi"), **ferv_lists()},
    {**ferv_clips(), **ferv_lists(), **ferv_clips("1_Clips/Action/{e}/{i:04d}/1.jpg"),
     **ferv_lists(form="4_setups/22_scenes/{part}_Action.csv")},
], ids=lambda f: next(iter(f)) + " " + list(f)[-1])
def test_ferv39k_layouts(tmp_path, files):
    t = load_table(write(tmp_path / "a b", files))
    assert t.dataset == "ferv39k" and not t.problems
    assert [(c.id, EMOTIONS[c.label], c.split) for c in t] == [(f"Action/{e}/{i:04d}", e.lower(),
                                                                "train" if i < 5 else "test") for i,
                                                                e in enumerate(FERV)]
    assert all(c.path.exists() for c in t) and not any("1_Clips" in str(c.path) for c in t)
    train, tests = t.protocol()
    assert len(train) == 5 and len(tests["test"]) == 2


def test_ferv39k_faults(tmp_path):
    lists = ferv_lists("/x/Action/{e}/{i:04d} 28 {y}", "annotation/FERV39K_{part}.txt")
    # alphabetical numbering
    lists["annotation/FERV39K_train.txt"] = lists["annotation/FERV39K_train.txt"].replace("0003 28 0", "0003 28 3")
    t = load_table(write(tmp_path, {**ferv_clips(), **lists}))
    assert len(t) == 6
    one_problem(t, "FERV39K_train.txt:4", "label 3 is angry here, but the clip lies in Happy")
    write(tmp_path / "bare", ferv_lists())
    with pytest.raises(MicaclError, match="expected a folder 2_ClipsforFaceCrop") as e: load_table(tmp_path / "bare")
    assert "more problems" not in str(e.value)                   # one line, not one for each of 38,935 clips


def mafw_lists(form="Train & Test Set/single/no_caption/set_{k}/{part}.txt", row="{i:05d}.mp4 {e}"):
    name = lambda i: "contempt" if i % 2 else "anger"
    return {form.format(k=k, part=part): "\n".join(row.format(i=i, e=name(i), y=7 if i % 2 else 0) for i in range(1, 21)
                                                   if (i % 5 + 1 == k) == (part == "test"))
            for k in range(1, 6) for part in ("train", "test")}
def mafw_clips(form): return {form.format(i=i): b"x" for i in range(1, 21)}


@pytest.mark.parametrize("files", [
    {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists()},
    {**mafw_clips("data/clips/unzip/{i:05d}.mp4"), **mafw_lists()},
    {**mafw_clips("data/frames/{i:05d}/1.png"), **mafw_lists()},
    {**mafw_clips("data/faces/{i:05d}/1.png"), **mafw_lists(row="{i:05d}.mp4 {e}\r")},
    {**mafw_clips("clips_faces/{i:05d}/1.jpg"), **mafw_lists(row="D:\\MAFW\\{i:05d}.mp4 {e}")},
    {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists("anno/single/no_caption/set_{k}/{part}.csv",
                                                          "{i:05d}.mp4,{e}")},
    {**mafw_clips("data/faces/{i:05d}/1.png"), **mafw_lists("annotation/MAFW_set_{k}_{part}.txt",
                                                            "/data/MAFW/data/faces/{i:05d} 42 {y}")},
    {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists("saved/mafw/single/split0{k}/{part}.csv",
                                                          "/x/clips/{i:05d}.mp4 {y}")},
    {**mafw_clips("data/clips/{i:05d}.mp4"), **mafw_lists(),
     "annotation/DFEW_set_1_train.txt": "/x/clip_224x224/00001 77 3\n"},
], ids=lambda f: next(iter(f)) + " " + list(f)[-1])
def test_mafw_layouts(tmp_path, files):
    t = load_table(write(tmp_path, files))
    assert t.dataset == "mafw" and not t.problems and len(t.classes) == 11
    assert [(c.id, t.classes[c.label], c.fold) for c in t] == [(f"{i:05d}", "contempt" if i % 2 else "anger", i % 5 + 1)
                                                               for i in range(1, 21)]
    assert all(c.path.exists() for c in t)


def test_synfew_layout(tmp_path):
    csv = ("clip,path,label,clean_label,split,fold,identity,n_frames,seed,pose\n"
           "00001,clips/00001.mp4,happy,happy,train,2,17,16,5,0.1\n"
           "00002,clips/00002.mp4,fear,sad,test_balanced,0,18,16,6,0.2\n")
    write(tmp_path, {"clips.csv": csv, "clips/00001.mp4": b"x", "clips/00002.mp4": b"x"})
    with pytest.raises(MicaclError, match="incomplete"): load_table(tmp_path)
    write(tmp_path, {"synfew.json": "{}"})
    (tmp_path / "clips.csv").write_text(csv + f"00003,{Path(__file__).resolve()},fear,sad,train,0,18,16,6,0.2\n")
    # not a list of one's own
    assert "leaves the data folder" in str(load_table(tmp_path).problems[0])
    (tmp_path / "clips.csv").write_text(csv)
    t = load_table(tmp_path)
    assert (t.dataset, t[0].id, t[0].group, t[0].fold, t[1].split, t[1].label) == ("synfew", "00001", "17", 2,
        "test_balanced", 6)


def test_empty_lists_are_an_error_of_one_line(tmp_path):
    for name, files in dict(dfew={**dfew_clips(), **dict.fromkeys(dfew_lists(), "")},
                            ferv={**ferv_clips(), **dict.fromkeys(ferv_lists(), "\n")},
                            mafw={**mafw_clips("data/clips/{i:05d}.mp4"), **dict.fromkeys(mafw_lists(), "")}).items():
        with pytest.raises(MicaclError, match="a line for each clip|folder 2_Clips"):
            load_table(write(tmp_path / name, files))
        assert not check_dataset(tmp_path / name).ok


def test_ones_own_list_wins_where_only_the_names_are_dfews(tmp_path):
    t = load_table(write(tmp_path, {"clips.csv": "path,label,split\na.mp4,calm,train\nb.mp4,bored,test\n",
                                    "a.mp4": b"x", "b.mp4": b"x", "test/set_1.csv": "1,2\n"}))
    assert t.dataset == "csv" and len(t) == 2


# ---------------------------------------------------------------- CSV

def own(tmp_path, text, names=("a.mp4", "b.mp4", "c.mp4")):
    return write(tmp_path, {"clips.csv": text, **{n: b"x" for n in names}})


def test_csv_columns_and_order(tmp_path):
    t = load_table(own(tmp_path, "\ufeffLabel,Path,group,fold,split\nHappy,a.mp4,anna,1,Train\n6,b.mp4,ben,2,\n "
                                 "Sadness ,c.mp4,,,TEST\n"))
    assert not t.problems and t.classes == EMOTIONS
    assert [(c.id, c.label, c.group, c.fold, c.split) for c in t] == [("a.mp4", 0, "anna", 1, "train"),
        ("b.mp4", 6, "ben", 2, ""), ("c.mp4", 1, "", 0, "test")]


def test_csv_other_classes_and_the_file_itself(tmp_path):
    own(tmp_path, "path;label\na.mp4;calm\nb.mp4;happy\nc.mp4;Bored")
    t = load_table(tmp_path / "clips.csv")
    assert t.classes == ("bored", "calm", "happy") and [t.classes[c.label] for c in t] == ["calm", "happy", "bored"]


@pytest.mark.parametrize("row, words", [
    ("b.mp4,7", ["label 7", "0..6"]), ("b.mp4,-1", ["label -1"]), ("b.mp4,hapy", ["hapy", "did you mean happy"]),
    ("b.mp4,", ["unknown label ''"]),
    (",happy", ["expected a path"]), ("z.mp4,happy", ["z.mp4", "no such file"]),
    ("a.mp4,happy", ["clips.csv:2 already"]), ("./a.mp4,happy", ["clips.csv:2 already"]),
    ("../x.mp4,happy", ["leaves the data folder"]), ("sub/../../x.mp4,happy", ["leaves"]),
    ("sub\\..\\..\\x.mp4,sad", ["leaves"]), ("linked/../x.mp4,sad", ["linked/../x.mp4", "no such file"]),
    ("link.mp4,happy", ["link.mp4", "a link that leads out of the data folder"]),
    ("clip,happy", ["a link that leads out"]), ("a\0.mp4,happy", ["zero byte"]),
    ("/no/such/place/x.mp4,happy", ["no such file"]),
])
def test_csv_bad_rows(tmp_path, row, words):
    root = own(tmp_path / "data", "path,label,split\na.mp4,sad,train\n" + row + ",train\n")
    write(tmp_path, {"secret.mp4": b"x", "x.mp4": b"x", "pictures/1.jpg": b"x"})
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "clip").symlink_to(tmp_path / "pictures")
    (root / "linked").symlink_to(tmp_path / "pictures")
    t = load_table(root)
    assert [c.id for c in t] == ["a.mp4"] and not t.notes
    one_problem(t, "clips.csv:3:", *words)
    with pytest.raises(MicaclError): load_table(root, on_bad="stop")


def test_links_and_detours_inside_the_root_are_fine(tmp_path):
    root = own(tmp_path,
               f"path,label,split\nlink.mp4,sad,train\nsub/../b.mp4,sad,train\n{tmp_path}/c.mp4,sad,train\n"
               "sub/d.mp4,sad,train\n", ["a.mp4", "b.mp4", "c.mp4", "sub/d.mp4"])
    (root / "link.mp4").symlink_to(root / "a.mp4")
    t = load_table(root)
    assert not t.problems and not t.notes and all(c.path.exists() for c in t)


def test_clips_of_ones_own_may_be_anywhere_if_the_list_says_so(tmp_path):
    "An absolute path is meant; the table says how many there are, and a list written from it finds them again."
    write(tmp_path, {"elsewhere/a b.mp4": b"x", "elsewhere/c.mp4": b"x"})
    root = own(tmp_path / "data", f"path,label,split\na.mp4,sad,train\n{tmp_path}/elsewhere/a "
                                  f"b.mp4,sad,train\n{tmp_path}/data/../elsewhere/c.mp4,happy,test\n")
    t = load_table(root)
    assert (len(t) == 3 and not t.problems and all(c.path.is_file() for c in t)
            and t.notes == ["2 clips lie outside the data folder, where the list names them"])
    write_clips(t, root / "again.csv")
    assert [c.path for c in load_table(root / "again.csv")] == [c.path for c in t]
    # other people's lists can't point anywhere
    lists = ferv_lists("../../../../{e}/{i:04d} {y}")
    with pytest.raises(MicaclError): load_table(write(tmp_path / "ferv", {**ferv_clips(), **lists}))


def test_linked_folders_are_followed_and_named(tmp_path):
    "Data sets lie on shared disks: the root or a folder of clips is often a link."
    disk = write(tmp_path / "disk", {**dfew_clips(), **dfew_lists()})
    (tmp_path / "root").symlink_to(disk)
    t = load_table(tmp_path / "root")
    assert len(t) == 35 and not t.problems and not t.notes
    mine = write(tmp_path / "mine", dfew_lists())
    (mine / "Clip").symlink_to(disk / "Clip")
    t = load_table(mine)
    assert (len(t) == 35 and not t.problems and t.notes == [f"35 clips are read from {disk}/Clip/clip_224x224, where a "
                                                            "link in the data folder leads"])
    assert check_dataset(mine).notes == t.notes
    home = mine / "Clip2" / "clip_224x224"
    (mine / "Clip").unlink(); home.mkdir(parents=True)
    for d in (disk / "Clip" / "clip_224x224").iterdir():
        (home / d.name).symlink_to(d)        # a link for each clip: nobody can see where all of them lead
    with pytest.raises(MicaclError, match="a link that leads out of the data folder") as e: load_table(mine)
    assert "link the folder above" in str(e.value)


@pytest.mark.parametrize("split, fold, words", [("holdout", "1", ["split", "holdout"]), ("train", "x", ["fold", "x"]),
                                                ("train", "-1", ["fold"])])
def test_csv_bad_split_and_fold(tmp_path, split, fold, words):
    t = load_table(own(tmp_path, f"path,label,split,fold\na.mp4,sad,train,1\nb.mp4,sad,{split},{fold}\n"))
    one_problem(t, "clips.csv:3:", *words)


@pytest.mark.parametrize("text, want", [
    ("a.mp4,happy\nb.mp4,sad\n", [("a.mp4", 0), ("b.mp4", 1)]),
    ("\ufeffa.mp4;happy\r\nb.mp4;sad\r\n", [("a.mp4", 0), ("b.mp4", 1)]),
    ("./a.mp4\thappy\tTrain\nb.mp4\tsad\ttest\n", [("a.mp4", 0), ("b.mp4", 1)]),
    ("a.mp4 77 4\nb.mp4 12 6\n", [("a.mp4", 4), ("b.mp4", 6)]),
    ("a.mp4 4\nb.mp4 6\n", [("a.mp4", 4), ("b.mp4", 6)]),
    ("z.mp4,happy\na.mp4,happy\nb.mp4,sad", [("a.mp4", 0), ("b.mp4", 1)])])
def test_csv_without_a_header(tmp_path, text, want):
    t = load_table(own(tmp_path, text))
    assert ([(c.id, c.label) for c in t] == want and "no header" in t.notes[0]
            and len(t.problems) == text.startswith("z"))
    if "z.mp4" not in text: assert load_table(tmp_path, on_bad="stop").labels.tolist() == t.labels.tolist()
    if "test" in text: assert [c.split for c in t] == ["train", "test"]


@pytest.mark.parametrize("text, words", [("y.mp4,happy\nz.mp4,sad\n", ["path,label", "y.mp4,happy"]),
                                         ("video,emotion\na.mp4,happy\nb.mp4,sad\n", ["path,label", "video,emotion"]),
                                         ("", ["empty file"]), ("path,label\n", ["only the header"]),
                                         ("path,label\na.mp4,\xe4".encode("latin1"), ["UTF-8"])])
def test_csv_as_a_whole(tmp_path, text, words):
    own(tmp_path, text)
    for on_bad in ("skip", "stop"):
        with pytest.raises(MicaclError) as e: load_table(tmp_path, on_bad=on_bad)
        assert all(w in str(e.value) for w in words) and "\n" not in str(e.value)
    report = check_dataset(tmp_path)
    assert not report.ok and words[0] in str(report)


def listed(tmp_path, labels, more=""):
    "A CSV file with a clip for each label."
    names = [f"{i:03d}.mp4" for i in range(len(labels))]
    return load_table(own(tmp_path, f"path,label,split{more}\n" + "\n".join(f'{n},"{y}",train' for n,
        y in zip(names, labels)), names))


@pytest.mark.parametrize("labels, classes", [
    # commas, other scripts, stray spaces
    (["left, then right", "Łódź", "two  words", "two words"], ("left, then right", "two words", "łódź")),
    (["笑顔", "☹", "笑顔"], ("☹", "笑顔")), (["Caf\u00e9", "Cafe\u0301", "tea"], ("caf\u00e9", "tea")),
    # a number beside names is a name
    (["calm", "10", "9"], ("9", "10", "calm")), (["calm", "0", "calm"], ("0", "calm")),
    ([*map(str, range(30))], tuple(map(str, range(30)))), (["007", "7", "12"], ("7", "12")),
    ([f"class {i:03d}" for i in range(300)], tuple(f"class {i:03d}" for i in range(300))),
])
def test_csv_classes_of_any_name_and_number(tmp_path, labels, classes):
    t = listed(tmp_path, labels)
    assert not t.problems and len(t) == len(labels) and t.classes == classes
    plain = lambda x: " ".join(x.replace("e\u0301", "\u00e9").split()).lower().lstrip("0") or "0"
    assert [t.classes[c.label] for c in t] == [plain(y) for y in labels]


def test_csv_a_slip_or_a_class(tmp_path):
    t = listed(tmp_path / "a", ["happy"] * 20 + ["hapy"] * 2 + ["unhappy"] * 3)
    assert (t.classes == ("happy", "unhappy") and len(t) == 23 and len(t.problems) == 2
            and "did you mean happy" in str(t.problems[0]) and "unhappy" in t.notes[0])
    t = listed(tmp_path / "b", ["happy"] * 60 + ["hapy"] * 5)                # often, but not a tenth as often
    assert t.classes == EMOTIONS and len(t.problems) == 5


def test_csv_numbers_alone(tmp_path):
    t = listed(tmp_path / "a", [0, 1, 1])
    assert t.classes == EMOTIONS and t.labels.tolist() == [0, 1, 1] and "0 = happy" in t.notes[0]
    t = listed(tmp_path / "b", [1, 2, 7])
    assert t.classes == ("1", "2", "7") and "taken as names" in t.notes[0]
    t = listed(tmp_path / "c", [1, 8, -2])
    assert t.classes == ("1", "8") and len(t) == 2 and "label -2" in str(t.problems[0])
    t = listed(tmp_path / "d", ["9" * 5000, "happy"])                       # Python refuses to read such a number
    assert len(t) == 1 and "unknown label" in str(t.problems[0]) and len(str(t.problems[0])) < 600


def test_csv_paths_of_other_systems(tmp_path):
    t = load_table(own(tmp_path, 'path,label,split\n"my clips\\a, b.mp4",sad,train\n'
                       + "my clips/e\u0301.mp4,sad,train\nmy clips/a\\\\x.mp4,sad,train\n",
                       ["my clips/a, b.mp4", "my clips/\u00e9.mp4"]))
    assert ([c.id for c in t] == ["my clips/a, b.mp4", "my clips/e\u0301.mp4"] and all(c.path.exists() for c in t)
            and len(t.problems) == 1)
    t = load_table(own(tmp_path / "twice", "path,label\nx\\a.mp4,sad\nx/a.mp4,sad\n", ["x/a.mp4"]))
    one_problem(t, "stands at clips.csv:2 already")


def test_csv_notes_what_a_reader_of_scores_should_know(tmp_path):
    t = load_table(own(tmp_path,
                       "path,label,split,fold,group\na.mp4,sad,train,1.0,anna\nb.mp4,sad,train,2,anna\nc.mp4,sad\n"))
    assert [c.fold for c in t] == [1, 2, 0] and not t.problems
    assert t.notes == ["1 clip has neither a split nor a fold and is not used",
                       "1 group is trained on and tested (anna): scores will be too good; make_folds "
                       "(micacl folds) keeps groups whole"]
    t = load_table(own(tmp_path,
                       "path,label,split,group\na.mp4,sad,train,anna\nb.mp4,sad,val,anna\nc.mp4,sad,test,anna\n"))
    assert divided_groups(t) == ["anna"] and divided_groups(t.select(split="train")) == [] and "anna" in t.notes[0]


# ---------------------------------------------------------------- folds of one's own

def test_make_folds_by_hand():
    t = ClipTable([Clip(f"{i}", Path("x"), y, "test", group=g) for i,
                   (y, g) in enumerate([(0, "a"), (0, "a"), (1, "a"), (0, "b"), (0, "c"), (1, "c")])])
    f = make_folds(t, 2)             # a (3 clips) first; then c, the next largest, goes to the other; b fits beside c
    by = {g: {c.fold for c in f if c.group == g} for g in "abc"}
    assert (by["a"] != by["c"] and by["b"] == by["c"] and all(len(v) == 1 for v in by.values())
            and {c.split for c in f} == {""})
    assert [c.id for c in f] == [c.id for c in t] and f.folds == [1, 2]
    for k in (1, 4):
        with pytest.raises(MicaclError, match="expected 2 to 3 folds"): make_folds(t, k)


@pytest.mark.parametrize("seed", range(4))
def test_make_folds_keeps_groups_whole_and_is_as_even_as_scikit_learn(seed):
    from sklearn.model_selection import StratifiedGroupKFold
    t = people(n=600, persons=80, seed=seed)
    f = make_folds(t, 5, seed)
    assert divided_groups(f) == [] and f.folds == [1, 2, 3, 4, 5]
    mine = np.stack([f.select(fold=k).counts for k in f.folds])
    assert (mine.sum(0) == t.counts).all() and all((f.protocol(k)[0].counts > 0)[t.counts > 30].all() for k in f.folds)
    split = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(np.zeros(len(t)), t.labels,
        [c.group for c in t])
    theirs = np.stack([np.bincount(t.labels[test], minlength=7) for _, test in split])
    uneven = lambda v: (((v - t.counts / 5) / np.maximum(t.counts / 5, 0.5))**2).sum()
    assert uneven(mine) <= 1.1 * uneven(theirs)


def test_make_folds_without_groups_is_even_and_a_function_of_seed_and_ids():
    t = ClipTable([Clip(f"{i:05d}", Path("x"), int(y)) for i,
                   y in enumerate(np.repeat(np.arange(7), (301, 202, 103, 50, 26, 9, 2)))])
    f = make_folds(t, 5, 3)
    counts = np.stack([f.select(fold=k).counts for k in f.folds])
    assert (counts.max(0) - counts.min(0) <= 1).all() and counts.sum(1).max() - counts.sum(1).min() <= 7
    at = lambda x: {c.id: c.fold for c in x}
    assert (at(f) == at(make_folds(t[np.random.default_rng(0).permutation(len(t))], 5, 3))
            and at(f) != at(make_folds(t, 5, 4)))


def test_write_clips_and_read_back(tmp_path):
    names = [f"a, {i}/ü.mp4" for i in range(12)]
    t = load_table(own(tmp_path,
                       "path,label,group\n" + "\n".join(f'"{n}","{"left, right" if i % 3 else "up"}",p{i // 2}' for i,
                                                        n in enumerate(names)), names))
    f = make_folds(t, 3)
    write_clips(f, tmp_path / "folds.csv")
    back = load_table(tmp_path / "folds.csv")
    assert back.clips == f.clips and back.classes == t.classes and not back.notes and not back.problems
    with pytest.raises(MicaclError, match="paths in it are relative"): write_clips(f, tmp_path / "a, 1" / "folds.csv")
    with pytest.raises(MicaclError, match="make folds first"): t.protocol(2)


def test_no_split_column_sets_a_fifth_aside(tmp_path):
    names = [f"{i:03d}.mp4" for i in range(100)]
    own(tmp_path, "path,label\n" + "\n".join(f"{n},{EMOTIONS[i % 2]}" for i, n in enumerate(names)), names)
    t = load_table(tmp_path)
    train, tests = t.protocol()
    assert (train.counts[:2].tolist() == [40, 40] and tests["test"].counts[:2].tolist() == [10, 10]
            and "set aside" in t.notes[0])
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
    report = check_dataset(tmp_path)
    text = "\n".join(map(str, report.problems))
    assert report.ok and sum(report.counts["all"]) == 33 and len(report.problems) == 2
    assert "00003, found no such file" in text and "00005: expected pictures, found an empty folder" in text
    assert (report.published["all"] == (2445, 1894, 2669, 2173, 1469, 145, 902)
            and sum(report.published["fold 1"]) == 2341)
    assert "11697" in str(report) and "usable, 33 clips" in str(report)
    assert report.published["train of fold 1"] == (1956, 1515, 2135, 1738, 1175, 116, 721)
    d = report.to_dict()
    assert (d["problems"][0] == dict(kind="missing", where=report.problems[0].where, message=report.problems[0].message)
            and d["kinds"] == dict(missing=1, empty=1))
    assert (d["missing"]["all"] == [a - b for a, b in zip(report.published["all"], report.counts["all"])]
            and d["missing"]["fold 2"] == 2341 - sum(report.counts["fold 2"]))
    assert sum(report.counts["fold 2"]) + sum(report.counts["train of fold 2"]) == 33


JSON_KEYS = ["advice", "classes", "counts", "dataset", "kinds", "missing", "notes", "ok", "problems", "published",
             "root", "verdict"]


def test_check_says_what_kind_and_what_to_do(tmp_path):
    import json
    root = own(tmp_path / "own",
               "path,label,split,fold\na.mp4,sad,train,\nb.mp4,happy,train,\nc.mp4,fear,test,\nd.mp4,fear,test,\n"
               "e.mp4,fear,test,\n../x.mp4,fear,test,\na.mp4,sad,train,\nz.mp4,sad,train,\nb.mp4,17,train,\n"
               "c.mp4,sad,holdout,\n" + "".join(f"gone{i}.mp4,sad,train,\n" for i in range(30)),
               ["a.mp4", "b.mp4", "c.mp4", "e.mp4"])
    (root / "d.mp4").touch()
    def decode(path):
        if path.name == "e.mp4": raise MicaclError(f"{path}: expected a video, found tea")
    report = check_dataset(root, decode=decode, progress=False)
    assert report.kinds == dict(missing=31, outside=1, duplicate=1, label=1, row=1, empty=1, unreadable=1)
    assert (list(report.kinds)[0] == "missing" and set(report.advice) == set(report.kinds)
            and all(20 < len(a) < 200 for a in report.advice.values()))
    text = str(report)
    assert "what to do: 31 x missing: unpack the archives" in text and "and 17 more; --json lists them all" in text
    d = json.loads(json.dumps(report.to_dict()))
    assert (sorted(d) == JSON_KEYS and len(d["problems"]) == 37
            and {tuple(p) for p in d["problems"]} == {("kind", "where", "message")})
    assert (sorted(check_dataset(tmp_path / "nowhere").to_dict()) == JSON_KEYS
            and "classes" not in str(check_dataset(tmp_path / "nowhere")))

    lists = dfew_lists()
    lists[ONE] += "\n5,3\n"                                       # of another label, and tested in another fold
    report = check_dataset(write(tmp_path / "DFEW", {**dfew_clips(), **lists}))
    assert "contradiction" in report.kinds
    assert (check_dataset(write(tmp_path / "bare", dfew_lists())).kinds == dict(list=1)
            and check_dataset(own(tmp_path / "none", "a,b\n")).kinds == dict(list=1))


def test_check_of_a_whole_copy(tmp_path):
    clips = dict(enumerate(in_folds(*PUBLISHED["dfew"]), 1))
    write(tmp_path, {f"EmoLabel_DataSplit/{part}(single-labeled)/set_{k}.csv": "video_name,label\n"
                     + "\n".join(f"{i},{y + 1}" for i, (y, f) in clips.items() if (f == k) == (part == "test"))
                     for k in range(1, 6) for part in ("train", "test")})
    (home := tmp_path / "Clip" / "original").mkdir(parents=True)
    for i in clips: (home / f"{i:05d}.mp4").write_bytes(b"x")
    report = check_dataset(tmp_path)
    assert (report.verdict == "usable, 11697 clips; all published clips are there" and not report.problems
            and "missing" not in str(report))
    assert all(not np.any(v) for v in report.missing.values()) and len(report.missing) == 11
    gone = [i for i, (y, _) in clips.items() if y == 5][:4]
    for i in gone: (home / f"{i:05d}.mp4").unlink()
    report = check_dataset(tmp_path)
    assert (report.missing["all"] == [0, 0, 0, 0, 0, 4, 0]
            and "4 of the 11697 published clips are missing" in report.verdict and report.kinds == dict(missing=4))


def test_published_counts_add_up():
    from micacl.data.load import _PUBLISHED
    for k in range(1, 6):
        assert sum(np.sum(_PUBLISHED["dfew"][p]) for p in (f"fold {k}", f"train of fold {k}")) == 11697
    assert (sum(_PUBLISHED["dfew"]["all"]) == 11697 and sum(_PUBLISHED["dfew"][f"fold {k}"] if k > 1
                                                            else sum(_PUBLISHED["dfew"]["fold 1"]) for k in range(1, 6))
                                                            == 11697)
    assert (sum(_PUBLISHED["ferv39k"]["train"]) == 31088 and sum(_PUBLISHED["ferv39k"]["test"]) == 7847
            and sum(_PUBLISHED["mafw"]["all"]) == 9172)


def test_check_decodes_when_asked(tmp_path):
    root = own(tmp_path, "path,label,split\na.mp4,sad,train\nb.mp4,happy,train\nc.mp4,fear,test\n")
    def decode(path):
        if path.name == "b.mp4": raise MicaclError(f"{path}: expected a video, found tea")
    report = check_dataset(root, decode=decode, progress=False)
    assert [str(p) for p in report.problems] == [f"{root / 'b.mp4'}: expected a video, found tea"]
    assert not report.ok and "one class" in report.verdict
    assert check_dataset(root).ok


# ---------------------------------------------------------------- whole data sets: lists of full size, with the
# published counts

PUBLISHED = dict(dfew=((2445, 1894, 2669, 2173, 1469, 145, 902), (489, 379, 534, 435, 294, 29, 181),
                       (2341, 2341, 2340, 2339, 2336)),
                 ferv=((5854, 5523, 7790, 5906, 2502, 1833, 1680), (1473, 1393, 1958, 1487, 638, 467, 431)),
                 mafw=(1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182))


def in_folds(counts, first, sizes):
    "[(label, fold)] of clips: fold 1 has the counts `first`, the others the sizes."
    rest = np.repeat(np.arange(len(counts)), np.array(counts) - first)
    folds = np.repeat(np.arange(2, len(sizes) + 1), sizes[1:])
    return [*((int(y), 1) for y in np.repeat(np.arange(len(counts)), first)),
            *zip(rest.tolist(), np.random.default_rng(0).permutation(folds).tolist())]


def quick(f, *args):
    "Less than two seconds of one core at rest; whatever else runs can only add, so the quickest of three tries counts."
    for _ in range(3):
        with Effort() as effort: out = f(*args)
        if effort.seconds < 2: return out
    raise AssertionError(f"{effort.seconds:.1f} s")


def test_dfew_in_full(tmp_path):
    clips = dict(enumerate(in_folds(*PUBLISHED["dfew"]), 1))
    write(tmp_path, {f"EmoLabel_DataSplit/{part}(single-labeled)/set_{k}.csv": "video_name,label\n"
                     + "\n".join(f"{i},{y + 1}" for i, (y, f) in clips.items() if (f == k) == (part == "test"))
                     for k in range(1, 6) for part in ("train", "test")})
    (home := tmp_path / "Clip" / "original").mkdir(parents=True)
    for i in clips: (home / f"{i:05d}.mp4").touch()
    t = quick(load_table, tmp_path)
    assert len(t) == 11697 and not t.problems and not t.notes and t.counts.tolist() == list(PUBLISHED["dfew"][0])
    for k, (n_train, n_test) in enumerate(((9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)), 1):
        train, tests = t.protocol(k)
        assert (len(train), len(tests["test"])) == (n_train, n_test)
    assert (t.protocol(1)[0].counts.tolist() == [1956, 1515, 2135, 1738, 1175, 116, 721]
            and t.protocol(1)[1]["test"].counts.tolist() == list(PUBLISHED["dfew"][1]))


def test_ferv39k_in_full(tmp_path, monkeypatch):
    (home := tmp_path / "2_ClipsforFaceCrop").mkdir()
    scenes, at, names = [f"Scene{s:02d}" for s in range(22)], {}, {}
    for s in scenes: (home / s).mkdir()
    lists = {"train": [], "test": []}
    for part, counts in zip(lists, PUBLISHED["ferv"]):
        for y, n in enumerate(counts):
            for i in range(n):
                folder = f"{scenes[i % 22]}/{EMOTIONS[y].title()}"
                at[folder] = at.get(folder, -1) + 1
                names.setdefault(folder, {})[f"{at[folder]:04d}"] = False
                lists[part].append(f"{folder}/{at[folder]:04d} {EMOTIONS[y].title()}")
    write(tmp_path, {f"4_setups/All_scenes/{part}_All.csv": "\n".join(rows) for part, rows in lists.items()})
    asked = []
    monkeypatch.setattr(Intake, "names", lambda self, folder: asked.append(folder)
                        or names.get(folder.split("2_ClipsforFaceCrop/")[1], {}))
    t = quick(load_table, tmp_path)
    assert len(t) == 38935 and not t.problems and len(set(asked)) == 154
    train, tests = t.protocol()
    assert (len(train), len(tests["test"])) == (31088, 7847)
    assert (train.counts.tolist() == list(PUBLISHED["ferv"][0])
            and tests["test"].counts.tolist() == list(PUBLISHED["ferv"][1]))


def test_mafw_in_full(tmp_path):
    counts = PUBLISHED["mafw"]
    names = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety",
             "helplessness", "disappointment"]
    clips = {i: (y, i % 5 + 1) for i, y in enumerate(np.repeat(np.arange(11), counts).tolist(), 1)}
    write(tmp_path, {f"Train & Test Set/single/no_caption/set_{k}/{part}.txt": "\n".join(f"{i:05d}.mp4 {names[y]}"
        for i, (y, f) in clips.items() if (f == k) == (part == "test"))
                     for k in range(1, 6) for part in ("train", "test")})
    (home := tmp_path / "data" / "clips").mkdir(parents=True)
    for i in clips: (home / f"{i:05d}.mp4").touch()
    t = quick(load_table, tmp_path)
    assert len(t) == 9172 and not t.problems and list(t.classes) == names and t.counts.tolist() == list(counts)


# ---------------------------------------------------------------- anybody's data, from the list to the scores

ODD = ["left, then right", "Łódź", "笑顔", "<b>&</b>", "10", "unhappy", "50 %", "a/b", "emoji 🙂", 'say "hi"',
       *(f"class {i}" for i in range(20))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "Clips of one and of three frames, as folders of pictures; a video of one frame."
    import av
    from PIL import Image
    root, rng = tmp_path_factory.mktemp("odd data"), np.random.default_rng(0)
    for i in range(66):
        (d := root / "clips, cut" / f"{i}").mkdir(parents=True)
        for k in range(1 if i % 2 else 3):
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(d / f"{k + 1}.png")
    with av.open(str(root / "one.mp4"), "w") as box:
        v = box.add_stream("mpeg4", rate=25)
        v.width, v.height, v.pix_fmt = 32, 32, "yuv420p"
        for frame in (av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24"), None):
            for packet in v.encode(frame): box.mux(packet)
    return root


@pytest.mark.parametrize("C, options", [(2, {}), (3, dict(loss="ldam", head="cosine", sampler="per_class")),
                                        (30, dict(contrast="bcl", stage2="tau_norm", sampler="balanced"))])
def test_any_classes_train_and_test(pictures, tmp_path, C, options):
    import csv
    from micacl.core import read_json
    from micacl.train.config import Config
    from micacl.train.loop import evaluate, train
    config = Config(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=1, batch_size=16,
                    mccl_args=dict(out_dim=16), **options)
    names = ODD[:C]
    with open(pictures / f"list {C}.csv", "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f)
        out.writerows([["path", "label", "split", "group"], ["one.mp4", names[0], "train", "p"]])
        for i in range(66):      # the last class is tested, never trained on
            y, split = i % C, "test" if i % 6 == 5 or i % C == C - 1 else "train"
            out.writerow([f"clips, cut/{i}", names[y], split, f"{split} {i // 6}"])
    data = pictures / f"list {C}.csv"
    table = load_table(data)
    assert (len(table) == 67 and not table.problems and not [n for n in table.notes if "trained on and tested" in n]
            and len(table.classes) == C)
    never = table.classes.index(names[C - 1].lower())
    assert table.protocol()[0].counts[never] == 0 < table.protocol()[1]["test"].counts[never]
    with np.errstate(invalid="raise"): r = train(data, tmp_path / "run", config, quiet=True)
    assert (list(r["recall"]) == list(table.classes) and np.shape(r["confusion"]) == (C, C)
            and np.sum(r["confusion"]) == r["n_test"] and 0 <= r["uar"] <= 1)
    assert r["skipped"] == [] and all(np.isfinite(v) for v in (r["war"], r["ece"]))
    again = evaluate(tmp_path / "run", data)
    assert again["confusion"] == r["confusion"] and read_json(tmp_path / "run" / "results.json")["uar"] == r["uar"]
    assert [float(line.split('"loss": ')[1].split(",")[0]) > 0
            for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [True]


def test_folds_made_from_groups_train_and_test(pictures, tmp_path):
    from micacl.train.config import Config
    from micacl.train.loop import train
    names = ["left", "right", "up"]
    (pictures / "grouped.csv").write_text("path,label,group\n"
                                          + "\n".join(f'"clips, cut/{i}",{names[i % 3]},p{i // 6}' for i in range(66)))
    table = make_folds(load_table(pictures / "grouped.csv"), 3)
    write_clips(table, pictures / "folds.csv")
    config = Config(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=1, batch_size=16,
                    mccl_args=dict(out_dim=16))
    r = train(pictures / "folds.csv", tmp_path / "run", config, fold=2, quiet=True)
    assert r["n_test"] == len(table.select(fold=2)) and r["fold"] == 2 and np.sum(r["confusion"]) == r["n_test"]
