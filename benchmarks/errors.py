"""Which clips go wrong? Some methods and training sets, several seeds, and for every clip of the balanced test set what
was said and what is true.

    # half an hour on 2 cores, less where WORK holds the clips and features of the ablations: writes results/errors.json
    python benchmarks/errors.py WORK

The first four methods are runs of the ablations over again, with the rates that these chose. Three training sets of
1,200 clips have the same test clips: *as it is*; *clean*, the same clips with the label of what the face shows;
*equal*, other clips, as many of each class. The backbone is frozen everywhere. nbs/findings/errors.ipynb reads the
file.
"""
import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, commit

# OTHER_SEEDS: of the training sets that are not the usual one
SEEDS, OTHER_SEEDS, TEST = (1, 2, 3, 4, 5), (1, 2, 3), "test_balanced"
METHODS = {"mean pooling": ("as it is", "ablations", "mean pooling"), "M3DFEL": ("as it is", "ablations", "M3DFEL"),
           "MICACL": ("as it is", "ablations", "MICACL"),
           "balanced sampler": ("as it is", "ablations", "MICACL, balanced sampler"),
           "balanced softmax": ("as it is", "bakeoff", "MICACL + balanced softmax"),
           "clean labels": ("clean", "ablations", "MICACL"), "equal classes": ("equal", "ablations", "MICACL")}
PAIRS = [("MICACL", "M3DFEL"), ("MICACL", "mean pooling"), ("M3DFEL", "mean pooling")]
# columns of clips.csv, and their digits
NUMBERS = dict(strength=3, blend=3, apex_share=3, blur=4, noise=4, light=3, ambient=3, skin=3, crf=0, talking=0)
NO_AUC, LOOKED_INTO = 25, ("MICACL", "balanced softmax")


def training_sets(work):
    "Draw what is missing -> {name of a training set: data}, a folder or a list file."
    from micacl.data.synfew.generate import generate, read_clip_rows
    from micacl.train.experiments import shared_set
    spec = read_spec("ablations")["synfew"]
    usual, equal = spec, {**spec, "profile": "balanced", "n_test": 0}
    for given in (usual, equal): generate(shared_set(work, given), progress=False, **given)
    usual, equal = shared_set(work, usual), shared_set(work, equal)
    rows = [dict(r, path=str(usual / r["path"])) for r in read_clip_rows(usual)]
    train, test = ([r for r in rows if r["split"] == s] for s in ("train", TEST))
    equal = [dict(r, clip=f"equal-{r['clip']}", path=str(equal / r["path"])) for r in read_clip_rows(equal)]
    own = {"clean": [dict(r, label=r["clean_label"]) for r in train], "equal": equal}
    return {"as it is": usual, **{name: write_list(work / "errors" / name / "clips.csv", part + test) for name,
                                          part in own.items()}}


def read_spec(name):
    from micacl.core import read_json
    return read_json(ROOT / "benchmarks" / f"{name}.json")


def write_list(file, rows, columns=("clip", "path", "label", "split", "fold", "identity")):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, columns, extrasaction="ignore", lineterminator="\n")
        out.writeheader(); out.writerows(rows)
    return file


def config_of(method, seed):
    "As in the experiment that the method comes from, with the rate that it chose."
    from micacl.core import read_json
    from micacl.train.specification import configuration
    _, experiment, name = METHODS[method]
    spec, chosen = read_spec(experiment), read_json(ROOT / "results" / f"{experiment}.json")["methods"][name]["chosen"]
    return configuration(spec, name, seed, chosen)


def one_run(work, data, method, fold, config):
    "Train and test once -> probabilities and weights of the test clips, and the counts of the training set."
    from scipy.special import softmax
    from micacl.core import read_json
    from micacl.train.loop import train
    with tempfile.TemporaryDirectory() as folder:
        train(data, Path(folder) / "run", config, fold, quiet=True, features=work / "features")
        info = read_json(Path(folder) / "run" / "config.json")
        with np.load(Path(folder) / "run" / "predictions.npz", allow_pickle=False) as z:
            p = {k: z[k] for k in ("split", "id", "logits", "weights")}
    own = p["split"] == TEST
    return dict(ids=p["id"][own].tolist(), p=softmax(p["logits"][own].astype(float), axis=1), weights=p["weights"][own],
                counts=info["train_counts"], classes=info["classes"])


def all_runs(work, data):
    "{method: [a run for each seed]}; the features of each training set and seed are computed first."
    from micacl.train.experiments import _features, run_all
    # a job for each training set
    first = list({METHODS[m][0]: (work, data[METHODS[m][0]], m, None, config_of(m, 1)) for m in METHODS}.values())
    run_all(first, 1, work=_caches)
    run_all([(*job[:4], config_of(job[2], seed)) for job in first for seed in seeds_of(job[2])], work=_features)
    jobs = [(work, data[METHODS[m][0]], m, None, config_of(m, seed)) for m in METHODS for seed in seeds_of(m)]
    done = run_all(jobs, work=one_run)
    if len(done) < len(jobs): sys.exit("some runs failed")
    return {m: [done[k] for k in range(len(jobs)) if jobs[k][2] == m] for m in METHODS}


def seeds_of(method): return SEEDS if METHODS[method][0] == "as it is" else OTHER_SEEDS


def _caches(work, data, method, fold, config):
    from micacl.train.run import prepare_data
    prepare_data(data, work, config, fold, quiet=True)


def truth_of(root):
    "What is true of each test clip -> columns, the votes, and which instances carry the expression."
    from micacl.core import EMOTIONS
    from micacl.train.config import Config
    from micacl.data.load import load_table
    from micacl.train.summaries import pack_labels
    from micacl.data.synfew.generate import read_clip_rows, read_truth, read_votes
    from micacl.train.loop import instance_truth
    rows, votes, truth = [r for r in read_clip_rows(root) if r["split"] == TEST], read_votes(root), read_truth(root)
    emotion = lambda column: pack_labels(np.array([EMOTIONS.index(r[column]) for r in rows]))
    numbers = {k: [round(float(r[k]), d) if d else int(r[k]) for r in rows] for k, d in NUMBERS.items()}
    # degrees away from the camera, mean over the frames
    turn = [round(float(np.hypot(*truth[r["clip"]].pose[:, :2].T).mean()), 1) for r in rows]
    kinds = {k: sorted({r[k] for r in rows}) for k in ("occluder", "glasses")}
    columns = dict(label=emotion("label"), clean=emotion("clean_label"),
                   votes="".join(pack_labels(votes[r["clip"]]) for r in rows), turn=turn, **numbers,
                   **{k: pack_labels(np.array([kinds[k].index(r[k]) for r in rows])) for k in kinds})
    return [r["clip"] for r in rows], columns, kinds, instance_truth(load_table(root).select(split=TEST), Config())


def auc_of(weights, positive):
    "Instance AUC of each clip, in 24ths; NO_AUC for a clip whose instances are all alike."
    from micacl.metrics import instance_auc
    one = [instance_auc(w[None], p[None])[0] for w, p in zip(weights, positive)]
    return np.array([NO_AUC if np.isnan(a) else round(24 * a) for a in one])


def training_noise(data):
    "Rows: label of a training clip; columns: what the face shows."
    from micacl.core import EMOTIONS
    from micacl.metrics import confusion
    from micacl.data.synfew.generate import read_clip_rows
    at = np.array([[EMOTIONS.index(r[k]) for k in ("label", "clean_label")] for r in read_clip_rows(data)
                   if r["split"] == "train"])
    return confusion(*at.T).tolist()


def main(work):
    from micacl.core import EMOTIONS, read_json, write_json
    from micacl.train.machine import machine
    from micacl.metrics import uar
    from micacl.train.summaries import pack_labels, unpack_labels
    from micacl.data.synfew.generate import VERSION
    before, start = commit(), time.perf_counter()
    work.mkdir(parents=True, exist_ok=True); work = work.resolve()
    data = training_sets(work)
    runs = all_runs(work, data)
    ids, columns, kinds, positive = truth_of(data["as it is"])
    y, methods = unpack_labels(columns["label"]), {}
    for m, rs in runs.items():
        assert all(r["ids"] == ids and r["classes"] == list(EMOTIONS) for r in rs), m
        said = np.stack([r["p"].argmax(1) for r in rs])
        methods[m] = dict(train=METHODS[m][0], seeds=seeds_of(m), train_counts=rs[0]["counts"], lr=config_of(m, 1).lr,
                          uars=[uar(y, s) for s in said], predicted=[pack_labels(s) for s in said])
        if m in LOOKED_INTO:
            # mean over seeds, in 61sts
            methods[m]["probability"] = pack_labels(np.round(61 * np.mean([r["p"] for r in rs], 0)).astype(int).ravel())
            methods[m]["auc"] = [pack_labels(auc_of(r["weights"], positive)) for r in rs]
    both = [dict(a=a, b=b, uars=[uar(y, (p["p"] + q["p"]).argmax(1)) for p, q in zip(runs[a], runs[b])]) for a,
            b in PAIRS]
    both += [dict(a=a, b=a, uars=[uar(y, (p["p"] + q["p"]).argmax(1)) for p,
                                  q in zip(runs[a], [*runs[a][1:], runs[a][0]])]) for a in ("MICACL", "M3DFEL")]
    weights = pack_labels(np.round(61 * np.mean([r["weights"] for r in runs["MICACL"]], 0)).astype(int).ravel())
    write_json(ROOT / "results" / "errors.json", dict(
        command="python benchmarks/errors.py WORK", commit=before, machine=machine(),
        seconds=round(time.perf_counter() - start), version=VERSION, test=TEST,
        epochs=read_spec("ablations")["base"]["epochs"], synfew=read_spec("ablations")["synfew"],
        classes=EMOTIONS, first=int(ids[0]), kinds=kinds,
        training_noise=training_noise(data["as it is"]), clips=columns,
        positive=pack_labels(positive @ [8, 4, 2, 1]), weights=weights, methods=methods, averaged=both))
    known = read_json(ROOT / "results" / "ablations.json")["methods"]
    for m, r in methods.items():
        print(f"{m:22} UAR {100 * np.mean(r['uars']):.1f}",
              "" if m not in known else f"(in the ablations: {100 * known[m]['tests'][TEST]['uar']['mean']:.1f})")


if __name__ == "__main__": main(Path(sys.argv[1]))
