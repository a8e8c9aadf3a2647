"""How hard should SynFEW be? As hard for the plain baseline as DFEW is for 3D-R18; nothing else is looked at.

    python benchmarks/calibrate.py WORK "what was changed since the last step"

Trains the baseline (3D CNN, mean over the instances, cross entropy without smoothing, no contrastive loss) at three learning rates with three
seeds, takes the rate with the best mean UAR on the validation clips, and appends the step to results/calibration.json. 9 runs, a quarter of an
hour on 2 cores. The folder WORK keeps the data set of the step.
"""
import argparse
import sys
from pathlib import Path

from common import ROOT, commit, fill_cache, machine, run_many

TARGET = dict(what="3D R18 on DFEW, per cent; UAR and WAR from Former-DFER (Zhao and Liu 2021), recalls as quoted there", uar=46.52, war=58.27,
              recall=dict(happy=73.13, sad=48.26, neutral=50.51, angry=64.75, surprise=50.10, disgust=0.00, fear=26.39))
DATA = dict(n_train=1200, n_test=700, seed=0)
BASE = dict(model="mean", mccl_weight=0.0, label_smoothing=0.0, epochs=8)
RATES, SEEDS = (1e-3, 3e-3, 1e-2), (1, 2, 3)


def summary(runs):
    "Means over the seeds, per cent: recalls from the balanced test set (100 clips of every class), UAR and WAR from the natural one."
    import numpy as np
    def mean(f): return round(100 * float(np.mean([f(r["tests"]) for r in runs])), 1)
    def sd(f): return round(100 * float(np.std([f(r["tests"]) for r in runs], ddof=1)), 1)
    out = dict(uar=mean(lambda t: t["test"]["uar"]), uar_sd=sd(lambda t: t["test"]["uar"]), war=mean(lambda t: t["test"]["war"]), war_sd=sd(lambda t: t["test"]["war"]),
               uar_balanced=mean(lambda t: t["test_balanced"]["uar"]), uar_balanced_sd=sd(lambda t: t["test_balanced"]["uar"]),
               recall={c: mean(lambda t, c=c: t["test_balanced"]["recall"][c]) for c in TARGET["recall"]},
               recall_sd={c: sd(lambda t, c=c: t["test_balanced"]["recall"][c]) for c in TARGET["recall"]})
    out["distance"] = round(float(np.sqrt(np.mean([(out["recall"][c] - v) ** 2 for c, v in TARGET["recall"].items()]))), 1)
    return out


def difficulty():
    "The dials, as they stand."
    from micacl import acting, labels
    return dict(strength=acting.STRENGTH, keep=acting.KEEP, confusion=labels.CONFUSION.tolist(), apex=(0.3, 0.6), generator=__import__("micacl.synfew").synfew.GENERATOR)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path); parser.add_argument("change")
    args = parser.parse_args()
    from micacl.core import read_json, write_json
    from micacl.synfew import generate
    file = ROOT / "results" / "calibration.json"
    log = read_json(file) if file.exists() else dict(command="python benchmarks/calibrate.py WORK CHANGE", target=TARGET, data=DATA, baseline=BASE, rates=RATES, seeds=SEEDS, steps=[])
    at = len(log["steps"])
    folder = args.work / f"step{at}"
    info = generate(folder, progress=False, **DATA)
    fill_cache(folder)
    runs = run_many([dict(data=str(folder), config=dict(BASE, lr=lr, seed=seed)) for lr in RATES for seed in SEEDS])
    by_rate = {lr: [r for r in runs if r["config"]["lr"] == lr] for lr in RATES}
    validation = {lr: sum(r["val_uar"] for r in rs) / len(rs) for lr, rs in by_rate.items()}
    best = max(validation, key=validation.get)
    step = dict(step=at, change=args.change, commit=commit(), machine=machine(), difficulty=difficulty(), label_noise=info["label_noise"],
                validation={f"{k:g}": round(100 * v, 1) for k, v in validation.items()}, lr=best, result=summary(by_rate[best]),
                other_rates={f"{lr:g}": summary(rs) for lr, rs in by_rate.items() if lr != best},
                runs=[dict(lr=r["config"]["lr"], seed=r["config"]["seed"], val_uar=r["val_uar"], seconds=r["seconds"], tests=r["tests"]) for r in runs])
    log["steps"].append(step)
    write_json(file, log)
    print(f"step {at}, lr {best:g}:", step["result"])


if __name__ == "__main__": sys.exit(main())
