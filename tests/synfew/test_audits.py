"""The frozen edition, its calibration, and the search for shortcuts: what was recorded, and what can be asked again in
seconds."""
import hashlib, json
from pathlib import Path
import audits, calibrate
import numpy as np, pytest
from micacl.data.synfew import labels
from micacl.core import EMOTIONS
from micacl.data.synfew.generate import VERSION, digest, draw_act, generate, label_counts, plan_split, sample_clip

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "results" / "synfew-audits.json").read_text())
CALIBRATION = json.loads((ROOT / "results" / "calibration.json").read_text())

def short(x): return hashlib.sha256(x).hexdigest()[:16]

# --- frozen
# ------------------------------------------------------------------------------------------------------------

def test_frozen_pixels():
    "SynFEW-1.0. If one of these fails, the seed gives another set: that needs a new version, not a new hash."
    assert VERSION == "SynFEW-1.0"
    assert short(b"".join(sample_clip(0, i, i).frames().tobytes() for i in range(7))) == "8162bd2755a33879"
    assert short(b"".join(sample_clip(7, i, i, n_frames=8).frames(112).tobytes()
                          for i in range(7))) == "5ebaef35296c7ddc"

def test_frozen_labels_votes_people_and_truth_up_to_the_size_of_dfew():
    def plan(n_c, *key):
        return [(r.clip, r.label, r.identity, r.fold, r.index) for r in plan_split(0, *key[:1], n_c, *key[1:])]
    full = [plan(label_counts(9356), "train"), plan(label_counts(2341, least=1), "test", 9357),
            plan(label_counts(2341, "balanced", least=1), "test_balanced", 11698)]
    assert sum(map(len, full)) == 14038 and short(repr(full).encode()) == "be53b0cc8be6539b"
    acts = [draw_act(0, r[4], r[1]) for r in full[0][::13]]
    assert short(repr(acts).encode()) == "2c92db195e197472"
    units = [sample_clip(0, r[4], a.emotion, a.strength, a.second, a.blend, r[2]) for r, a in zip(full[0][::13], acts)]
    assert short(b"".join(c.units.tobytes() + c.apex.tobytes() + c.pose.tobytes() + repr(c.factors).encode()
                          for c in units)) == "633acb4f6c2e6e31"

def test_frozen_videos(tmp_path):
    """Decoded frames of a small set.
    They may change with a future x264; results/hashes.json says with which versions they did not."""
    tried = json.loads((ROOT / "results" / "hashes.json").read_text())
    generate(tmp_path / "x", n_train=21, n_test=7, n_frames=6, size=32, progress=False, workers=1, imbalance=7,
             tail="pareto")
    assert {e["hashes"][f"decoded set, {n}"] for e in tried["environments"]
            for n in ("1 process", "2 processes")} == {digest(tmp_path / "x")[:16]}
    assert (len({json.dumps(e["hashes"]) for e in tried["environments"]}) == 1
            and {e["python"].rsplit(".", 1)[0] for e in tried["environments"]} >= {"3.10", "3.11", "3.12", "3.13"})

# --- calibrated to the baseline
# ----------------------------------------------------------------------------------------

def test_the_code_has_the_dials_of_the_last_step():
    last = CALIBRATION["steps"][-1]
    assert (last["dials"] == calibrate.dials() and len(last["runs"]) == 9
            and last["result"]["recall_sd"]["happy"] is not None)
    assert CALIBRATION["baseline"]["model"] == "mean" and CALIBRATION["baseline"]["mccl_weight"] == 0

def test_a_step_chooses_its_rate_on_validation_alone_and_is_summed_up_rightly():
    for s in CALIBRATION["steps"]:
        by_rate = {}
        for r in s["runs"]: by_rate.setdefault(r["lr"], []).append(r)
        assert s["lr"] == max(by_rate, key=lambda lr: np.mean([r["val_uar"] for r in by_rate[lr]]))
        assert calibrate.summary(by_rate[s["lr"]])["recall"] == s["result"]["recall"]

def test_published_recalls_and_scores_agree():
    assert CALIBRATION["target"] == calibrate.TARGET
    t, share = CALIBRATION["target"], np.array(labels.PROFILES["dfew"]) / sum(labels.PROFILES["dfew"])
    assert (abs(np.mean(list(t["recall"].values())) - t["uar"]) < 0.01
            and abs(share @ list(t["recall"].values()) - t["war"]) < 0.3)
    assert list(t["recall"]) == list(EMOTIONS)

def test_the_profile_is_near_the_published_one():
    r, t = CALIBRATION["steps"][-1]["result"], CALIBRATION["target"]
    assert (abs(r["uar"] - t["uar"]) < 4 and abs(r["war"] - t["war"]) < 5 and r["recall"]["disgust"] < 10
            and r["recall"]["fear"] < 40)

# --- shortcuts
# ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def clips(): return audits.draw_clips(1400)

def test_nothing_but_the_face_tells_the_label(clips):
    y, fold = np.array([r.label for r, _, _ in clips]), np.array([r.fold for r, _, _ in clips])
    x = np.array([c.units.max(0) for _, _, c in clips])
    score, se = audits.probe(x, y, fold)
    assert score > 1 / 7 + 20 * se                                  # what the probe finds in the units themselves
    first = {name: s["by_seed"][0] for name, s in RECORDED["shortcuts"].items()}
    # the record can be made again; what it says is tested below
    assert audits.shortcuts(0) == pytest.approx(first, abs=0.003)

def test_the_probe_finds_a_shortcut_that_is_planted(clips):
    y, fold = np.array([r.label for r, _, _ in clips]), np.array([r.fold for r, _, _ in clips])
    x = audits.shortcut_features(clips)["brightness and contrast of the first frame"]
    score, se = audits.probe(x + 0.05 * (y == 0)[:, None], y, fold)      # happy clips a twentieth brighter
    assert score > 1 / 7 + 3 * se

def test_recorded_probes_are_at_chance():
    assert RECORDED["version"] == VERSION
    for name, s in RECORDED["shortcuts"].items():
        assert abs(np.mean(s["by_seed"])
                   - 1 / 7) < 2 * np.sqrt(6 / 49 / s["n"]) and s["n"] == 4200 * len(s["seeds"]) >= 16800, name

def test_an_oracle_loses_what_it_is_not_told():
    o = audits.oracle(1400, 700)
    assert o["one"]["uar"] + 0.05 < o["all"]["uar"] < o["clean_label"]["uar"] < 1
    r = RECORDED["oracle"]
    assert (r["one"]["uar"] + 0.1 < min(r["mean"]["uar"], r["all"]["uar"])
            and max(r["mean"]["uar"], r["all"]["uar"]) < r["clean_label"]["uar"])
    for kind in ("all", "mean", "one", "clean_label"):
        table = np.array(r[kind]["confusion"])
        assert abs((table.diagonal() / table.sum(1)).mean() - r[kind]["uar"]) < 1e-3 and table.sum() == r["n_test"]

# --- networks
# ------------------------------------------------------------------------------------------------------------

UAR = {(n["edition"], n["model"], n["frames"]): n for n in RECORDED["networks"]}

def test_recorded_means_are_those_of_the_runs():
    for n in RECORDED["networks"]:
        assert abs(np.mean(n["uar"]) - n["mean"]) < 1e-4 and len(n["uar"]) == len(n["seeds"]) >= 3

def test_frames_shown_are_changed_as_said():
    import common, torch
    from micacl.data import bags as video
    own = video.frame_indices
    try:
        plain = torch.as_tensor(own(40, 4, 4, None))
        common._change_frames("shuffled"); mixed = video.frame_indices(40, 4, 4, None)
        common._change_frames("single"); one = video.frame_indices(40, 4, 4, None)
        common._change_frames(None); back = video.frame_indices
    finally: video.frame_indices = own
    assert (sorted(mixed.tolist()) == plain.tolist() != mixed.tolist() and len(set(one.tolist())) == 1
            and one[0] in plain and len(one) == 16 and back is own)

def test_one_frame_is_below_video():
    assert UAR["standard", "attention", "single"]["mean"] < UAR["standard", "attention", "in order"]["mean"]

def test_shuffled_frames_are_below_video():
    assert UAR["standard", "attention", "shuffled"]["mean"] < UAR["standard", "attention", "in order"]["mean"]

def test_mean_pooling_is_below_attention_when_the_apex_is_brief():
    brief = [np.array(UAR["brief", m, "in order"]["uar"]) for m in ("mean", "attention")]
    usual = [np.array(UAR["standard", m, "in order"]["uar"]) for m in ("mean", "attention")]
    assert (brief[1] > brief[0]).all() and (brief[1] - brief[0]).mean() > (usual[1] - usual[0]).mean() > 0

def test_units_can_be_read_from_strangers():
    assert (min(u["auc"] for u in RECORDED["units"].values()) > 0.55
            and np.median([u["auc"] for u in RECORDED["units"].values()]) > 0.9)
    assert all(u["on"] > 100 for k, u in RECORDED["units"].items() if k != "AU45")      # blinks are short
