"""How hard should SynFEW be? As hard for the plain baseline as DFEW is for 3D-R18; nothing else is looked at.

    python benchmarks/calibrate.py WORK "what was changed since the last step"
    python benchmarks/calibrate.py WORK "a first look" --rates 0.01 --seeds 1 --try '{"strength": [0.3, 0.9]}' \\
        --try '{"keep": 0.7}'

Trains the baseline (3D CNN, mean over the instances, cross entropy without smoothing, no contrastive loss) at several
learning rates with several seeds, takes the rate with the best mean UAR on the validation clips, and appends the step
to results/calibration.json. Nine runs take a quarter of an hour on 2 cores. With --try, settings of the dials that
differ from the code are tried, a step each. WORK keeps the data sets.
"""
import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from common import ROOT, commit, machine, run_many

TARGET = dict(what="3D R18 on DFEW as the literature quotes it, per cent. One row gives recalls; its UAR and WAR "
                   "follow from them and the class sizes. Another row gives UAR and WAR alone.",
              recall=dict(happy=73.13, sad=48.26, neutral=50.51, angry=64.75, surprise=50.10, disgust=0.00, fear=26.39),
              uar=44.73, war=54.98,
              other_row=dict(uar=46.52, war=58.27))
DATA = dict(n_train=1200, n_test=700, seed=0)
BASE = dict(model="mean", mccl_weight=0.0, label_smoothing=0.0, epochs=8)
RATES, SEEDS = (3e-3, 1e-2, 3e-2), (1, 2, 3)


def summary(runs):
    """Means over the seeds, per cent: recalls from the balanced test set (100 clips of every class), UAR and WAR
    from the natural one."""
    import numpy as np
    def mean(f): return round(100 * float(np.mean([f(r["tests"]) for r in runs])), 1)
    def sd(f): return round(100 * float(np.std([f(r["tests"]) for r in runs], ddof=1)), 1) if len(runs) > 1 else None
    out = dict(uar=mean(lambda t: t["test"]["uar"]), uar_sd=sd(lambda t: t["test"]["uar"]),
               war=mean(lambda t: t["test"]["war"]), war_sd=sd(lambda t: t["test"]["war"]),
               uar_balanced=mean(lambda t: t["test_balanced"]["uar"]),
               uar_balanced_sd=sd(lambda t: t["test_balanced"]["uar"]),
               recall={c: mean(lambda t, c=c: t["test_balanced"]["recall"][c]) for c in TARGET["recall"]},
               recall_sd={c: sd(lambda t, c=c: t["test_balanced"]["recall"][c]) for c in TARGET["recall"]})
    out["distance"] = round(float(np.sqrt(np.mean([(out["recall"][c] - v) ** 2 for c, v in TARGET["recall"].items()]))),
                            1)
    return out


def dials(tried=None):
    "The dials as the code has them, or as they are tried: strength, keep, apex."
    from micacl.data.synfew import acting
    return dict(dict(strength=list(acting.STRENGTH), keep=acting.KEEP, apex=[0.3, 0.6]), **(tried or {}))


def make_set(folder, d):
    "The data set of a step, in one process: the dials are set here and nowhere else."
    from common import fill_cache
    from micacl.data.synfew import acting
    from micacl.data.synfew.generate import generate
    usual, acting.KEEP = acting.KEEP, d["keep"]
    try: info = generate(folder, progress=False, workers=1, strength=d["strength"], apex=d["apex"], **DATA)
    finally: acting.KEEP = usual
    fill_cache(folder)
    return info["label_noise"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path); parser.add_argument("change")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--try", dest="tries", type=json.loads, action="append")
    args = parser.parse_args()
    from micacl.core import read_json, write_json
    file = ROOT / "results" / "calibration.json"
    log = (read_json(file) if file.exists() else dict(command="python benchmarks/calibrate.py WORK CHANGE",
                                                      target=TARGET, data=DATA, baseline=BASE, steps=[]))
    first = len(log["steps"])
    settings = [(args.work / f"step{first + k}", dials(t)) for k, t in enumerate(args.tries or [None])]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        noise = list(pool.map(make_set, *zip(*settings)))
    jobs = [dict(data=str(folder), config=dict(BASE, lr=lr, seed=seed)) for folder,
            _ in settings for lr in args.rates for seed in args.seeds]
    runs, each = run_many(jobs), len(args.rates) * len(args.seeds)
    for k, (_, d) in enumerate(settings):
        log["steps"].append(step(first + k, args.change, d, noise[k], runs[k * each:(k + 1) * each]))
        print(f"step {first + k}", d, log["steps"][-1]["result"])
    write_json(file, log)


def step(number, change, d, noise, runs):
    "What is kept of a step."
    by_rate = {}
    for r in runs: by_rate.setdefault(r["config"]["lr"], []).append(r)
    validation = {lr: sum(r["val_uar"] for r in rs) / len(rs) for lr, rs in by_rate.items()}
    best = max(validation, key=validation.get)
    return dict(step=number, change=change, commit=commit(), machine=machine(), dials=d, label_noise=noise,
                validation={f"{k:g}": round(100 * v, 1) for k, v in validation.items()},
                lr=best, result=summary(by_rate[best]), other_rates={f"{lr:g}": summary(rs) for lr,
                    rs in by_rate.items() if lr != best},
                runs=[dict(lr=r["config"]["lr"], seed=r["config"]["seed"], val_uar=r["val_uar"], seconds=r["seconds"],
                           tests=r["tests"]) for r in runs])


if __name__ == "__main__": sys.exit(main())
