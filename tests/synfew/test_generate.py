"""SynFEW: promised counts, honest votes, strangers in every fold, the same set every time."""
import csv, io, shutil, threading
from pathlib import Path
import av, numpy as np, pytest
from filelock import FileLock
from micacl.data.synfew import acting
from micacl.data.synfew import generate as synfew
from micacl.data.synfew.acting import (CORE, LEVEL, ONSET, PROTOTYPES, SECONDS, SLOWER, X60, AU, draw_peaks, ease,
                                       envelope, sample_clip, unit_stream)
from micacl.core import EMOTIONS, MicaclError, Stream, read_json
from micacl.metrics import class_counts
from micacl.data.synfew.faces import UNITS, random_face
from micacl.data.synfew.labels import TAIL_SHAPES
from micacl.data.synfew.generate import (
    CONFUSION, NEUTRAL, PROFILES, decode, digest, draw_act, encode, generate, label_counts, plan_split,
    read_clip_rows, read_truth, read_votes, vote_probabilities
)

SMALL = dict(n_train=21, n_test=7, n_frames=6, size=32, progress=False)   # 35 clips

@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "One small set, shared by the tests that only read."
    root = tmp_path_factory.mktemp("synfew") / "set"
    generate(root, workers=1, **SMALL)
    return root

@pytest.fixture
def copy(made, tmp_path):
    "A copy of the small set that a test may spoil."
    return Path(shutil.copytree(made, tmp_path / "set"))

def one_line(error): return "\n" not in str(error.value) and str(error.value)

# --- acting ----------------------------------------------------------------------------------------------------

def test_ease_by_hand():
    assert ease(np.array([-1, 0, 0.5, 1, 2])).tolist() == [0, 0, 0.5, 1, 1]
    assert ease(0.25) == 3 / 16 - 2 / 64 and abs(ease(X60) - LEVEL) < 1e-4

def test_envelope_is_above_the_level_exactly_inside_the_apex():
    t = np.arange(0, 60, 0.25) + 0.1
    e = envelope(t, [(10, 20, 6, 9, 1.0), (40, 50, 5, 5, 0.8)])
    assert ((e > LEVEL) == ((t > 10) & (t < 20)) | (e > LEVEL) & (t > 39)).all()
    assert (e.max() == 1 and e[(t > 42.2) & (t < 47.8)].min() == 0.8
            and e[t < 5].max() == 0 == e[(t > 30) & (t < 36)].max())

def test_envelope_stays_between_0_and_1_and_has_an_apex_for_every_length():
    for n in (2, 3, 5, 16, 77):
        for i in range(150):
            peaks = draw_peaks(Stream(5, n, i), SECONDS, (0.05, 1.0), ONSET[EMOTIONS[i % 7]], SECONDS / n)
            e = envelope((np.arange(n) + 0.5) * (SECONDS / n), peaks)
            assert 0 <= e.min() and 0 < e.max() <= 1 and (e > LEVEL * e.max()).any()

def test_the_apex_share_asked_for_is_the_share_that_comes():
    t = (np.arange(60) + 0.5) / 20
    for lo, hi in ((0.1, 0.1), (0.3, 0.6), (0.9, 0.9)):
        peaks = [draw_peaks(Stream(1, "share", i), 3.0, (lo, hi), step=0.05) for i in range(200)]
        e = [envelope(t, p) for p in peaks]
        assert abs(np.mean([(x > LEVEL * x.max()).mean() for x in e]) - (lo + hi) / 2) < 0.02
        assert 0.15 < np.mean([len(p) == 2 for p in peaks]) < 0.35

def test_onsets_and_offsets_keep_to_their_ranges():
    for name, (lo, hi) in ONSET.items():
        for i in range(100):
            for _, _, rise, fall, _ in draw_peaks(Stream(2, name, i), 9.0, (0.5, 0.5), (lo, hi)):
                assert lo <= rise <= hi and SLOWER[0] * rise <= fall <= SLOWER[1] * rise + 1e-12
    assert 0.2 <= min(lo for lo, _ in ONSET.values()) and max(hi for _, hi in ONSET.values()) <= 3.04
    assert ONSET["surprise"][1] <= ONSET["sad"][0]

def test_time_is_in_seconds_whatever_the_number_of_frames():
    for n in (12, 24, 75):
        clip = sample_clip(3, 4, 4, n_frames=n)
        assert clip.fps == n / SECONDS and 0.5 <= clip.n_frames / clip.fps / SECONDS <= 1.5
    fast, slow = (sample_clip(3, 11, EMOTIONS.index(e), 1.0, n_frames=300).envelope for e in ("surprise", "sad"))
    assert np.diff(fast).max() > 1.4 * np.diff(slow).max()

def test_blinks_are_as_frequent_as_people_blink():
    per_minute = np.mean([sample_clip(5, i, 2, n_frames=6).factors["blinks"] for i in range(400)]) * 60 / SECONDS
    assert 12 < per_minute < 22

def test_apex_is_where_the_expression_is():
    for c in range(7):
        for i in range(12):
            clip = sample_clip(3, i, c, strength=1.0)
            core = clip.units[:, [AU[u] for u in PROTOTYPES[EMOTIONS[c]][:CORE[EMOTIONS[c]]]]]
            if c == NEUTRAL: assert not clip.apex.any() and clip.envelope.max() == 0
            else: assert clip.apex.any() and (core[clip.apex].mean(0) > 0.4).all() and clip.apex[clip.envelope.argmax()]

def test_units_of_the_prototype_grow_with_strength():
    col = AU[12]
    peak = [sample_clip(3, 8, 0, strength=s).units[:, col].max() for s in (0.3, 0.6, 0.9)]
    assert peak[0] < peak[1] < peak[2] <= 0.9

def test_values_that_reach_the_renderer_are_on_the_grid():
    clip = sample_clip(0, 9, 6, 0.7, 1, 0.3)
    for x in (clip.units * 256, clip.pose * 64): assert (x == np.round(x)).all()
    assert (clip.units.min() >= 0 and clip.units.max() <= 1 and np.abs(clip.asymmetry).max() <= 1
            and (clip.units.astype(np.float32) == clip.units).all())

def test_a_clip_does_not_depend_on_the_clips_before_it():
    first = [sample_clip(2, i, i % 7) for i in (1, 2, 3)]
    again = [sample_clip(2, i, i % 7) for i in (3, 1, 2)]
    for a, b in zip(first, (again[1], again[2], again[0])):
        assert (a.units == b.units).all() and a.face == b.face and a.scene == b.scene and a.factors == b.factors
    assert first[0].seed != first[1].seed and sample_clip(3, 1, 1).scene != first[0].scene

def test_only_the_expression_depends_on_the_emotion():
    clips = [sample_clip(2, 17, c) for c in range(7)]
    assert all(c.face == clips[0].face and c.scene == clips[0].scene and c.factors == clips[0].factors
               and (c.pose == clips[0].pose).all() for c in clips)
    assert len({c.units.tobytes() for c in clips}) == 7

def test_unit_stream_shows_people_of_no_data_set(monkeypatch):
    people = {sample_clip(0, base + i, 0, identity=base + i).face for base in synfew.SPLITS.values()
              for i in range(1, 25)}
    people |= {random_face(Stream(0, "face", i)) for i in range(100)}
    assert len(people) == 2 * 24 + 100
    monkeypatch.setattr(acting, "render", lambda face, *rest, **kw: face)      # who would be drawn
    strangers = {unit_stream(0, i)[0] for i in range(100)}
    assert len(strangers) == 100 and not people & strangers

def test_unit_stream_is_a_function_of_its_arguments():
    frames, units = unit_stream(0, 5, size=32, n_frames=3)
    assert (frames.shape == (3, 32, 32, 3) and frames.dtype == np.uint8 and units.shape == (3, 15)
            and 0 <= units.min() <= units.max() <= 1)
    assert ((unit_stream(0, 5, size=32, n_frames=3)[0] == frames).all()
            and (unit_stream(0, 6, size=32, n_frames=3)[0] != frames).any())

def test_unit_stream_covers_every_unit_and_no_prototype_alone(monkeypatch):
    monkeypatch.setattr(acting, "render", lambda *args, **kw: None)
    active = np.stack([unit_stream(0, i, n_frames=1)[1][0] > 0.1 for i in range(300)])
    assert active.mean(0).min() > 0.15 and 2 < active.sum(1).mean() < 8
    assert np.abs(np.corrcoef(active.T.astype(float)) - np.eye(15)).max() < 0.35

# --- counts, votes, folds --------------------------------------------------------------------------------------

@pytest.mark.parametrize("profile", PROFILES)
def test_label_counts_follow_the_shares(profile):
    shares = np.array(PROFILES[profile]) / sum(PROFILES[profile])
    n_c = label_counts(9356, profile)
    assert n_c.sum() == 9356 and np.abs(n_c - 9356 * shares).max() < 1

def test_dfew_counts_are_those_of_its_first_fold():
    assert np.abs(label_counts(9356) - np.array([1956, 1515, 2135, 1738, 1175, 116, 721])).max() <= 8

def test_imbalance_is_the_ratio_asked_for():
    n_c = label_counts(100000, imbalance=50)
    assert (abs(n_c.max() / n_c.min() - 50) < 0.2 and n_c.argmax() == NEUTRAL
            and n_c.argmin() == EMOTIONS.index("disgust"))
    assert np.ptp(np.log(n_c[np.argsort(n_c)][1:] / n_c[np.argsort(n_c)][:-1])) < 0.01      # equal steps
    assert (label_counts(700, imbalance=1) == 100).all()

def test_tails_by_hand():
    order = np.argsort(-label_counts(10000))                     # the classes from frequent to rare
    assert label_counts(4300, imbalance=10, tail="step")[order].tolist() == [1000] * 4 + [100] * 3
    n_c = label_counts(10**6, imbalance=7, tail="pareto")[order]       # a = 1: 1, 1/2, ... 1/7
    assert np.allclose(n_c / n_c[0], 1 / np.arange(1, 8), atol=1e-4)
    for tail in TAIL_SHAPES:
        n_c = label_counts(10**6, imbalance=30, tail=tail)
        assert abs(n_c.max() / n_c.min() - 30) < 0.01 and n_c.sum() == 10**6 and (np.diff(n_c[order]) <= 1).all()

@pytest.mark.parametrize("n", [14, 15, 20, 50])
def test_every_class_has_two_clips_in_the_smallest_set(n):
    n_c = label_counts(n, imbalance=1000)
    assert n_c.sum() == n and n_c.min() >= 2

def test_votes_are_probabilities_and_weakness_turns_them_to_neutral():
    assert (CONFUSION.sum(1) == 100).all() and (CONFUSION.argmax(1) == np.arange(7)).all()
    for c in range(7):
        p = [vote_probabilities(c, s, second=0, blend=0.2) for s in (1.0, 0.7, 0.4)]
        assert np.allclose(np.sum(p, 1), 1)
        if c != NEUTRAL: assert p[0][NEUTRAL] < p[1][NEUTRAL] < p[2][NEUTRAL]
    assert np.allclose(vote_probabilities(6, 0.5, 3, 0.25),
                       0.8 * (0.75 * CONFUSION[6] + 0.25 * CONFUSION[3]) / 100 + 0.2 * (np.arange(7) == NEUTRAL))

def test_acts_keep_the_promised_label_and_a_tenth_is_wrong():
    acts = {(c, i): draw_act(4, 1000 * c + i, c) for c in range(7) for i in range(120)}
    for (c, _), a in acts.items():
        assert sum(a.votes) == 10 and a.votes[c] == max(a.votes) and a.votes.count(max(a.votes)) == 1
        assert (a.strength == 0) == (a.emotion == NEUTRAL) and a.second not in (a.emotion, NEUTRAL)
    wrong = np.array([np.mean([acts[c, i].emotion != c for i in range(120)]) for c in range(7)])
    assert 0.06 < wrong @ label_counts(10000) / 10000 < 0.13 and wrong.argmax() == NEUTRAL
    missed = [a.strength for (c, _), a in acts.items() if c == NEUTRAL and a.emotion != NEUTRAL]
    assert np.mean(missed) < 0.38      # the mean of all is 0.45

def test_plan_deals_classes_and_keeps_people_apart():
    rows = (plan_split(0, "train", label_counts(300)) + plan_split(0, "test", label_counts(70, least=1),
        301) + plan_split(0, "test_balanced", [10] * 7, 371))
    assert [r.clip for r in rows] == [f"{i:05d}" for i in range(1, 441)] and len({r.index for r in rows}) == 440
    people = {(r.split, r.fold): set() for r in rows}
    for r in rows: people[r.split, r.fold].add(r.identity)
    assert sorted(people) == [("test", 0), ("test_balanced", 0)] + [("train", k) for k in range(1, 6)]
    groups = list(people.values())
    assert sum(map(len, groups)) == len(set.union(*groups))
    table = np.array([class_counts([r.label for r in rows if r.fold == k], 7) for k in range(1, 6)])
    assert (np.ptp(table, 0) <= 1).all() and np.ptp(table.sum(1)) <= 1

def test_two_clips_of_a_class_fall_into_two_folds():
    rows = plan_split(0, "train", label_counts(30, imbalance=500))
    for c in range(7): assert len({r.fold for r in rows if r.label == c}) >= 2

def test_the_test_sets_do_not_depend_on_the_training_part():
    strip = lambda rows: [(r.index, r.identity, r.label) for r in rows]
    assert strip(plan_split(0, "test_balanced", [5] * 7, 101)) == strip(plan_split(0, "test_balanced", [5] * 7, 901))

def test_identity_says_nothing_about_the_label():
    rows = plan_split(1, "train", label_counts(3500, "balanced"))
    table = np.zeros((7, 700))
    for r in rows: table[r.label, r.identity % 700] += 1
    expected = table.sum(0) / 7
    chi2 = ((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = 6 * (table.sum(0) > 0).sum()
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)

# --- files -----------------------------------------------------------------------------------------------------

def test_colours_agree_with_ffmpeg():
    frames = np.stack([sample_clip(0, i, 0).frames(64, [3])[0] for i in range(3)])
    planes = synfew._yuv420(frames)
    ours = np.stack([av.VideoFrame.from_ndarray(p, format="yuv420p").to_ndarray(format="rgb24")
                     for p in planes]).astype(int)
    smooth = frames.astype(int).reshape(3, 32, 2, 32, 2, 3).mean((2, 4)) - ours.reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(smooth).mean() < 2
    grey = synfew._yuv420(np.full((1, 4, 4, 3), 255, np.uint8))
    assert (grey[0, :4] == 235).all() and (grey[0, 4:] == 128).all()      # white is Y 235, U = V = 128

def test_encoding_keeps_frames_and_counts():
    frames = sample_clip(0, 2, 4).frames(64)
    data = encode(frames, 18)
    back = decode(io.BytesIO(data))
    assert back.shape == (len(frames), 96, 64) and encode(frames, 18) == data and len(encode(frames, 31)) < len(data)
    assert np.abs(back.astype(int) - synfew._yuv420(frames).astype(int)).mean() < 4
    with av.open(io.BytesIO(data)) as box:
        assert box.streams.video[0].average_rate == 25 and box.streams.video[0].codec_context.name == "h264"

def test_layout_counts_votes_and_truth(made):
    info, clips = read_json(made / "synfew.json"), read_clip_rows(made)
    votes, truth = read_votes(made), read_truth(made)
    assert sorted(p.name for p in made.iterdir()) == [".lock", "DATASHEET.md", "README.md", "clips", "clips.csv",
                                                      "croissant.json", "synfew.json", "truth.npz", "votes.csv"]
    assert len(clips) == len(votes) == len(truth) == len(list((made / "clips").iterdir())) == 35
    label = {s: [EMOTIONS.index(r["label"]) for r in clips if r["split"] == s]
             for s in ("train", "test", "test_balanced")}
    assert ((class_counts(label["train"], 7) == label_counts(21)).all()
            and list(info["counts"]["train"].values()) == label_counts(21).tolist())
    assert (class_counts(label["test_balanced"], 7) == 1).all() and (class_counts(label["test"], 7) == 1).all()
    for r in clips:
        v, (units, apex, up, pose) = votes[r["clip"]], truth[r["clip"]]
        assert v.sum() == 10 and EMOTIONS[v.argmax()] == r["label"] and (v == v.max()).sum() == 1
        assert (len(decode(made / r["path"])) == len(units) == len(apex) == len(up) == len(pose) == int(r["n_frames"])
                and units.shape[1] == 15 and pose.shape[1] == 3)
        assert (units.dtype == up.dtype == pose.dtype == np.float32 and apex.dtype == bool
                and apex.any() == (r["clean_label"] != "neutral") == (up.max() > 0))
        assert (int(r["fold"]) in range(1, 6)) == (r["split"] == "train")
    with open(made / "votes.csv", newline="") as f: assert next(csv.reader(f)) == ["clip", *EMOTIONS, "label"]
    with np.load(made / "truth.npz", allow_pickle=False) as z:
        # what the card promises
        assert z.files == ["clip", "start", *UNITS, "apex", "envelope", "yaw", "pitch", "roll"]
        assert (z["start"].dtype == np.int64 and z["start"][0] == 0
                and all(z["start"][-1] == len(z[k]) and z[k].ndim == 1 for k in z.files[2:]))
    assert (info["format"] == 2 and info["version"] == synfew.VERSION and info["units"] == list(UNITS)
            and info["classes"] == list(EMOTIONS))
    columns = list(clips[0]); assert len(columns) == len(set(columns))

def test_truth_is_what_was_drawn(made):
    r = next(r for r in read_clip_rows(made) if r["split"] == "test" and r["clean_label"] != "neutral")
    row = next(q for q in plan_split(0, "test", label_counts(7, least=1), 22) if q.clip == r["clip"])
    act = draw_act(0, row.index, row.label)
    clip = sample_clip(0, row.index, act.emotion, act.strength, act.second, act.blend, row.identity, 6)
    true = read_truth(made)[r["clip"]]
    assert ((true.units == clip.units).all() and (true.pose == clip.pose).all() and (true.apex == clip.apex).all()
            and np.abs(true.envelope - clip.envelope).max() < 1e-3)
    assert str(clip.seed) == r["seed"] and EMOTIONS[act.emotion] == r["clean_label"]
    assert (decode(made / r["path"]) == decode(io.BytesIO(encode(clip.frames(32), clip.crf, clip.fps)))).all()
    with av.open(str(made / r["path"])) as box: assert box.streams.video[0].average_rate == clip.fps

def test_the_card_documents_every_column(made):
    card = (made / "README.md").read_text(encoding="utf-8")
    assert all(f"`{c}`" in card for c in read_clip_rows(made)[0])
    with np.load(made / "truth.npz") as z: assert all(f"`{c}`" in card for c in z.files)
    info = read_json(made / "synfew.json")
    assert (info["command"] in card and "{" not in card and all(f"| {s} | {' | '.join(map(str, c.values()))} | "
                                                                f"{sum(c.values())} |" in card for s,
                                                                c in info["counts"].items()))

def test_truth_of_an_older_edition_is_named(copy):
    np.savez_compressed(copy / "truth.npz", clip=np.array(["00001"]), start=np.array([0, 2]), units=np.zeros((2, 15)),
                        apex=np.zeros(2, bool), pose=np.zeros((2, 3)))
    with pytest.raises(MicaclError) as e: read_truth(copy)
    assert "older edition" in one_line(e)

def test_strength_and_apex_are_parameters(made, tmp_path):
    info = generate(tmp_path / "weak", workers=1, strength=(0.2, 0.4), apex=(0.1, 0.2), imbalance=5, tail="step",
                    **SMALL)
    clips, before = [r for r in read_clip_rows(tmp_path / "weak")
                     if r["clean_label"] != "neutral"], read_clip_rows(made)
    assert all(0.2 <= float(r["strength"]) <= 0.4 for r in clips) and max(float(r["apex_share"]) for r in clips) < 0.5
    assert (any(float(r["strength"]) > 0.4 for r in before) and "--tail step" in info["command"] and "--apex 0.1 0.2 "
            "--strength 0.2 0.4" in info["command"])

def test_two_processes_make_the_same_set(made, tmp_path):
    generate(tmp_path / "two", workers=2, **SMALL)
    assert digest(tmp_path / "two") == digest(made)
    for name in ("clips.csv", "votes.csv", "synfew.json", "README.md", "DATASHEET.md", "croissant.json"):
        assert (tmp_path / "two" / name).read_bytes() == (made / name).read_bytes()

def test_another_seed_is_another_set(made, tmp_path):
    generate(tmp_path / "other", workers=1, seed=1, **SMALL)
    assert digest(tmp_path / "other") != digest(made)

def test_deleted_clips_come_back_and_others_are_kept(made, copy):
    for name in ("00003", "00020", "00035"): (copy / "clips" / f"{name}.mp4").unlink()
    kept = (copy / "clips" / "00001.mp4").stat().st_mtime_ns
    generate(copy, workers=1, **SMALL)
    assert digest(copy) == digest(made) and (copy / "clips" / "00001.mp4").stat().st_mtime_ns == kept

def test_a_complete_set_is_left_alone(copy, monkeypatch):
    monkeypatch.setattr(synfew, "_make_clip", lambda task: pytest.fail("nothing was to do"))
    assert generate(copy, **SMALL) == read_json(copy / "synfew.json")

def test_a_failure_leaves_no_half_clip_and_can_be_resumed(made, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "set", synfew.atomic_write, []
    class Full:
        "A disk that is full after five clips: half of the sixth gets written."
        def __init__(self, f): self.f = f
        def write(self, data): self.f.write(data[:len(data) // 2]); raise OSError(28, "No space left on device")
    class Writer:
        def __init__(self, path, mode="w"): self.inner = real(path, mode); calls.append(str(path))
        def __enter__(self): f = self.inner.__enter__(); return Full(f) if calls[-1].endswith("00006.mp4") else f
        def __exit__(self, *error): return self.inner.__exit__(*error)
    monkeypatch.setattr(synfew, "atomic_write", Writer)
    with pytest.raises(MicaclError) as e: generate(out, workers=1, **SMALL)
    assert "No space left" in one_line(e) and "00006.mp4" in str(e.value)
    assert sorted(p.name for p in (out / "clips").iterdir()) == [f"{i:05d}.mp4" for i in range(1, 6)]
    assert ((out / "synfew.partial.json").exists() and not (out / "synfew.json").exists()
            and not (out / "clips.csv").exists())
    monkeypatch.undo()
    generate(out, workers=1, **SMALL)
    assert digest(out) == digest(made) and not (out / "synfew.partial.json").exists()

def test_rests_of_a_killed_run_are_swept(copy):
    (copy / "clips" / ".00004.mp4.x.tmp").write_bytes(b"half")
    (copy / ".clips.csv.x.tmp").write_bytes(b"half")
    (copy / "clips" / "00004.mp4").unlink()
    generate(copy, workers=1, **SMALL)
    assert len(list((copy / "clips").iterdir())) == 35 and not list(copy.glob(".*.tmp"))

def test_a_set_that_another_process_is_drawing_is_waited_for(made, tmp_path):
    "Whatever half a set looks like at the moment: it is judged when the other process has finished."
    out = tmp_path / "set"
    (out / "clips").mkdir(parents=True)
    said = []
    def second():
        try: said.append(generate(out, workers=1, **SMALL))
        except MicaclError as e: said.append(e)
    with FileLock(out / ".lock"):
        thread = threading.Thread(target=second); thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not said
        shutil.copytree(made, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
    thread.join(60)
    assert said == [read_json(made / "synfew.json")]

def test_a_folder_says_what_it_is_from_its_first_file_on(made, tmp_path, monkeypatch):
    "A run that is killed at its first file, or right after, leaves a folder that the same command goes on with."
    class Killed(BaseException): pass
    def killed(*_): raise Killed
    for name in ("write_json", "_write_tables"):
        out = tmp_path / name
        with monkeypatch.context() as m:
            m.setattr(synfew, name, killed)
            with pytest.raises(Killed): generate(out, workers=1, **SMALL)
        assert generate(out, workers=1, **SMALL) == read_json(made / "synfew.json")

def test_a_folder_with_something_else_is_refused(copy, tmp_path):
    with pytest.raises(MicaclError) as e: generate(copy, **{**SMALL, "seed": 5})
    assert "seed=0 there and 5 here" in one_line(e)
    other = tmp_path / "other"; other.mkdir(); (other / "notes.txt").write_text("mine")
    with pytest.raises(MicaclError) as e: generate(other, **SMALL)
    assert "notes.txt" in one_line(e) and [p.name for p in other.iterdir()] == ["notes.txt"]
    with pytest.raises(MicaclError) as e: generate(other / "notes.txt", **SMALL)
    assert "found a file" in one_line(e)

def test_the_command_line_has_the_dials_of_the_frozen_edition():
    import inspect
    from micacl.cli import Synfew
    usual = inspect.signature(generate).parameters
    assert (all(getattr(Synfew, k) == usual[k].default for k in ("apex", "strength", "tail"))
            and Synfew.strength == acting.STRENGTH)

@pytest.mark.parametrize("bad", [dict(profile="affectnet"), dict(imbalance=0.5), dict(n_train=13), dict(n_train=14.5),
                                 dict(n_test=3), dict(n_frames=2), dict(size=30),
                                 dict(size=16), dict(seed=-1), dict(apex=(0.6, 0.3)), dict(apex=(0.0, 0.3)),
                                 dict(strength=(0.0, 0.3)), dict(strength=(0.5, 1.1)), dict(tail="flat"),
                                 dict(tail="step"), dict(workers=0), dict(imbalance=float("nan"))])
def test_bad_arguments_are_one_line(tmp_path, bad):
    with pytest.raises(MicaclError) as e: generate(tmp_path / "x", **bad)
    assert one_line(e).startswith(next(iter(bad))) and not (tmp_path / "x").exists()

@pytest.mark.parametrize("read", [read_clip_rows, read_votes, read_truth])
def test_readers_name_the_file_that_is_missing(tmp_path, read):
    with pytest.raises(MicaclError) as e: read(tmp_path)
    assert str(tmp_path) in one_line(e)

def test_no_test_sets_when_none_are_wanted(tmp_path):
    info = generate(tmp_path / "x", workers=1, **{**SMALL, "n_train": 14, "n_test": 0})
    assert list(info["counts"]) == ["train"] and {r["split"] for r in read_clip_rows(tmp_path / "x")} == {"train"}

# --- the committed set -----------------------------------------------------------------------------------------

MINI = Path(__file__).parents[2] / "data" / "synfew-mini"

def test_the_committed_set_is_what_its_command_makes(tmp_path):
    p = read_json(MINI / "synfew.json")["parameters"]
    generate(tmp_path / "mini", workers=1, progress=False, **{k: v for k, v in p.items() if k != "generator"})
    for name in ("clips.csv", "votes.csv", "synfew.json"):
        assert (tmp_path / "mini" / name).read_text() == (MINI / name).read_text()
    old, new = read_truth(MINI), read_truth(tmp_path / "mini")
    assert old.keys() == new.keys() and all((old[c][k] == new[c][k]).all() for c in old for k in range(4))
    for r in read_clip_rows(MINI):        # another x264 may compress a little differently
        a, b = decode(MINI / r["path"]).astype(int), decode(tmp_path / "mini" / r["path"]).astype(int)
        assert a.shape == b.shape and np.abs(a - b).mean() < 1

def test_the_committed_set_is_small_and_has_three_clips_of_every_class():
    assert sum(f.stat().st_size for f in MINI.rglob("*") if f.is_file() and ".micacl-cache" not in f.parts) < 1_200_000
    assert class_counts([EMOTIONS.index(r["label"]) for r in read_clip_rows(MINI) if r["split"] == "train"],
                        7).min() >= 3
