"""Does SynFEW measure what it says? Probes for shortcuts, an oracle that knows the truth, and networks that are shown
too little.

    # everything, about half an hour on 2 cores: writes results/synfew-audits.json
    python benchmarks/audits.py WORK
    # without the trained networks, three minutes; prints and writes nothing
    python benchmarks/audits.py WORK --quick
    # the same, and written beside the networks of the last full run
    python benchmarks/audits.py WORK --keep-networks

The functions without training are those that tests/synfew/test_audits.py and the page on audits call.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from common import ROOT, commit, fill_cache, machine, run_many

SEEDS, LR = (1, 2, 3), 1e-2       # the rate that the plain baseline prefers, for everybody
EDITIONS = dict(standard=dict(apex=(0.3, 0.6)), brief=dict(apex=(0.1, 0.2)))
DATA = dict(n_train=1200, n_test=700, seed=0)
CONFIG = dict(mccl_weight=0.0, label_smoothing=0.0, epochs=8, lr=LR)


# --- what has nothing to do with the expression -----------------------------------------------------------------------

def draw_clips(n, seed=0, profile="balanced", **kw):
    "Plan, acts and clips of a training part, undrawn: [(row, act, clip)]."
    from micacl.data.synfew.generate import draw_act, label_counts, plan_split, sample_clip
    out = []
    for row in plan_split(seed, "train", label_counts(n, profile)):
        act = draw_act(seed, row.index, row.label)
        out.append((row, act, sample_clip(seed, row.index, act.emotion, act.strength, act.second, act.blend,
                                          row.identity, **kw)))
    return out


def shortcut_features(clips):
    """Name -> (n, d) features that should say nothing about the label; brightness and background are measured on a
    drawn frame."""
    def column(*names): return np.array([[float(c.factors[k]) for k in names] for _, _, c in clips])
    def kind(name):
        values = np.array([c.factors[name] for _, _, c in clips])
        return (values[:, None] == np.unique(values)).astype(float)
    frames = np.stack([c.frames(64, [0])[0] for _, _, c in clips]).astype(float) / 255
    corners = np.concatenate([frames[:, y:y + 6, x:x + 6].mean((1, 2)) for y in (0, 58) for x in (0, 58)], 1)
    return {"background (four corners of the first frame)": corners,
            "brightness and contrast of the first frame": np.stack([frames.mean((1, 2, 3)), frames.std((1, 2, 3))], 1),
            "who (skin, shape, age, hair, glasses, beard)": np.concatenate([column("skin", "face_width", "jaw", "age"),
                kind("hair_style"), kind("glasses"), kind("beard")], 1),
            "clip length": np.array([[c.n_frames, c.n_frames**2] for _, _, c in clips], float),
            "head pose (mean, first and last)": np.array([np.concatenate([c.pose.mean(0), c.pose[0], c.pose[-1]]) for _,
                                                          _, c in clips]),
            "scene (light, blur, noise, occluder, compression)": np.concatenate([column("light", "ambient", "blur",
                "noise", "crf"), kind("occluder")], 1),
            "other actions (talking, blinks, distractors, peaks)": column("talking", "blinks", "distractors", "peaks")}


def probe(x, y, group):
    "Balanced accuracy of a linear probe that is tested on people it has not seen, and its standard error at chance."
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    said = cross_val_predict(model, x, y, groups=group, cv=GroupKFold(5))
    return float(balanced_accuracy_score(y, said)), float(np.sqrt(1 / 7 * 6 / 7 / len(y)))


def shortcuts(seed, n=4200):
    "Name of a probe -> balanced accuracy on `n` clips of a balanced set with this seed."
    clips = draw_clips(n, seed)
    y, fold = np.array([r.label for r, _, _ in clips]), np.array([r.fold for r, _, _ in clips])
    return {name: round(probe(x, y, fold)[0], 4) for name, x in shortcut_features(clips).items()}


def pooled_shortcuts(seeds=(0, 1, 2, 3), n=4200):
    "Every probe over several sets: mean, standard error at chance, and how many of these it is from chance."
    found, se = [shortcuts(s, n) for s in seeds], float(np.sqrt(1 / 7 * 6 / 7 / (n * len(seeds))))
    by_probe = {name: [f[name] for f in found] for name in found[0]}
    return {name: dict(balanced_accuracy=round(float(np.mean(v)), 4), chance=round(1 / 7, 4), se=round(se, 4),
                       z=round((float(np.mean(v)) - 1 / 7) / se, 2),
                       n=n * len(seeds), seeds=list(seeds), by_seed=v) for name, v in by_probe.items()}


# --- who knows the truth
# -----------------------------------------------------------------------------------------------

def unit_features(clips, frames="all"):
    """What an oracle is told of each clip: strongest, mean and fastest rise of every unit; or one frame at random;
    or the apex alone."""
    rng, out = np.random.default_rng(0), []
    for _, _, c in clips:
        u = c.units
        if frames == "one": out.append(u[rng.integers(len(u))]); continue
        if frames == "mean": out.append(u.mean(0)); continue
        speed = np.diff(u, axis=0) * float(c.fps)
        out.append(np.concatenate([u.max(0), u.mean(0), np.quantile(u, 0.75, 0), speed.max(0), speed.min(0)]))
    return np.array(out)


def oracle(n_train=7000, n_test=2100):
    """Forests that are told the true units of every frame, trained on noisy labels of a balanced set: the ceiling
    for any network."""
    from sklearn.ensemble import ExtraTreesClassifier
    from micacl.metrics import confusion, uar
    def score(y, said): return round(uar(y, said), 4)
    train, test = draw_clips(n_train, 0), draw_clips(n_test, 1)
    y, y_test, clean = (np.array([r.label for r, _, _ in train]), np.array([r.label for r, _, _ in test]),
                        np.array([a.emotion for _, a, _ in test]))
    out = dict(n_train=n_train, n_test=n_test)
    for kind in ("all", "mean", "one"):
        forest = ExtraTreesClassifier(500, min_samples_leaf=3, random_state=0,
                                      n_jobs=-1).fit(unit_features(train, kind), y)
        said = forest.predict(unit_features(test, kind))
        out[kind] = dict(uar=score(y_test, said), uar_clean=score(clean, said),
                         confusion=confusion(y_test, said).tolist())
    # whoever always names what the face shows
    out["clean_label"] = dict(uar=score(y_test, clean), confusion=confusion(y_test, clean).tolist())
    return out


def units_seen(root):
    """Area under the ROC curve of the pre-trained regressor for every unit, on instances of the balanced test
    clips: is the unit on (above 0.3) or not (below 0.05)?"""
    import torch
    from sklearn.metrics import roc_auc_score
    from micacl.train.config import Config
    from micacl.train.pretrain import load_regressor, predict_units
    from micacl.train.run import read_clips
    from micacl.data.synfew.generate import UNITS, read_truth
    from micacl.data.bags import frame_indices
    table, cache, _ = read_clips(root, root, Config(), quiet=True)
    model, truth, said, true = load_regressor(), read_truth(root), [], []
    for clip in table.select(split="test_balanced"):
        frames = cache.frames(clip.id)
        at = np.asarray(frame_indices(len(frames), 4, 4)).reshape(4, 4)
        said.append(predict_units(model, torch.from_numpy(frames[at])).numpy())
        true.append(truth[clip.id].units[at].mean(1))
    said, true = np.concatenate(said), np.concatenate(true)
    out = {}
    for k, u in enumerate(UNITS):
        keep = (true[:, k] > 0.3) | (true[:, k] < 0.05)
        out[u] = dict(auc=round(float(roc_auc_score(true[keep, k] > 0.3, said[keep, k])), 3),
                      on=int((true[:, k] > 0.3).sum()), off=int((true[:, k] < 0.05).sum()))
    return out


# --- networks
# ------------------------------------------------------------------------------------------------------------

def networks(work):
    """Train with all frames in order, in random order, with one frame; mean and attention pooling with a long and a
    brief apex."""
    from micacl.data.synfew.generate import generate
    folders = {name: work / name for name in EDITIONS}
    for name, kw in EDITIONS.items():
        generate(folders[name], progress=False, **DATA, **kw); fill_cache(folders[name])
    cells = [("standard", "attention", None), ("standard", "attention", "shuffled"),
             ("standard", "attention", "single"), ("brief", "mean", None), ("brief", "attention", None)]
    jobs = [dict(data=str(folders[e]), edition=e, frames=f, config=dict(CONFIG, model=m, seed=s)) for e, m,
            f in cells for s in SEEDS]
    runs = run_many(jobs)
    runs = ([(cell, runs[k * len(SEEDS):(k + 1) * len(SEEDS)]) for k,
             cell in enumerate(cells)] + [(("standard", "mean", None), calibrated())])
    out = []
    for (edition, model, frames), some in runs:
        tests = [r["tests"]["test_balanced"] for r in some]
        scores = [t["uar"] for t in tests]
        out.append(dict(edition=edition, model=model, frames=frames or "in order", seeds=SEEDS, uar=scores,
                        mean=round(float(np.mean(scores)), 4),
                        sd=round(float(np.std(scores, ddof=1)), 4), instance_auc=None if frames
                        else [t.get("instance_auc") for t in tests]))
    return out


def calibrated():
    """The runs of the last calibration step at the same rate: the same data, settings and seeds, so they are not
    repeated."""
    import calibrate
    from micacl.core import read_json
    log = read_json(ROOT / "results" / "calibration.json")
    assert (log["data"] == DATA and log["steps"][-1]["dials"] == calibrate.dials()
            and {**log["baseline"], "lr": LR} == {**CONFIG, "model": "mean"})
    return sorted((r for r in log["steps"][-1]["runs"] if r["lr"] == LR and r["seed"] in SEEDS),
                  key=lambda r: r["seed"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep-networks", action="store_true")
    args = parser.parse_args()
    from micacl.core import read_json, write_json
    from micacl.data.synfew.generate import VERSION
    found = dict(command="python benchmarks/audits.py WORK", version=VERSION, commit=commit(), machine=machine(),
                 shortcuts=pooled_shortcuts(), oracle=oracle())
    for name, s in found["shortcuts"].items():
        print(f"{name}: {s['balanced_accuracy']:.3f}, chance {s['chance']:.3f}, z {s['z']:+.1f}")
    print({k: (v["uar"], v.get("uar_clean")) for k, v in found["oracle"].items() if isinstance(v, dict)}, flush=True)
    file = ROOT / "results" / "synfew-audits.json"
    if args.quick: return
    if args.keep_networks:
        old = read_json(file)
        return write_json(file, found | {k: old[k] for k in ("data", "editions", "config", "networks", "units")}
                          | dict(networks_commit=old.get("networks_commit", old["commit"])))
    found |= dict(data=DATA, editions=EDITIONS, config=CONFIG, networks=networks(args.work),
                  units=units_seen(args.work / "standard"))
    for r in found["networks"]:
        print(f"{r['edition']:9} {r['model']:10} {r['frames']:9} UAR {r['mean']:.3f} ± {r['sd']:.3f}")
    print({u: v["auc"] for u, v in found["units"].items()})
    write_json(file, found)


if __name__ == "__main__": sys.exit(main())
