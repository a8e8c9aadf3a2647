"""What the experiments share: many training runs side by side, the machine, files that say how they came about."""
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))      # worker processes look for the modules of the experiments here


def machine():
    "What the figures depend on; imported late, for `bench.py --checkout` chooses the library first."
    from micacl.train.machine import machine
    return machine()


def commit(folder=ROOT, parts=("micacl", "benchmarks")):
    "The commit the figures belong to; one with changes in these parts of the tree is marked."
    def git(*words): return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True).stdout.strip()
    return (git("rev-parse", "--short", "HEAD") + ("+changes"
                                                   if git("status", "--porcelain", "--untracked-files=no", "--", *parts)
                                                   else ""))


def one_run(job):
    "Train and test once. `job`: data, config (overrides of Config), frames (None, 'shuffled' or 'single')."
    import torch
    from micacl.core import read_json
    from micacl.train.config import Config
    from micacl.train.loop import train
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _change_frames(job.get("frames"))
    config = dataclasses.replace(Config(), **job["config"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        results = train(job["data"], Path(folder) / "run", config, quiet=True)
        history = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        info = read_json(Path(folder) / "run" / "config.json")
    keep = ("n_test", "uar", "war", "recall", "confusion", "instance_auc")
    return dict(**{k: v for k, v in job.items() if k != "data"}, n_train=info["n_train"],
                val_uar=history[-1]["val_uar"], loss=history[-1]["loss"],
                seconds=round(time.time() - started), tests={n: {k: t[k] for k in keep if k in t} for n,
                                                             t in results["tests"].items()})


_kept = []      # the library's own function, so that a worker can put it back


def _change_frames(how):
    """Show the network other frames than those chosen: in random order, or one of them again and again; in training
    and in tests."""
    import torch
    from micacl.data import bags as video
    if not _kept: _kept.append(video.frame_indices)
    chosen = _kept[0]

    def other(n, n_instances, length, draw=None):
        take = chosen(n, n_instances, length, draw)
        # tests: fixed, but another order for each length
        dice = draw if draw is not None else torch.Generator().manual_seed(n)
        if how == "shuffled": return take[torch.randperm(len(take), generator=dice)]
        return take[torch.randint(len(take), (1,), generator=dice)].expand(len(take))

    video.frame_indices = other if how else chosen


def run_many(jobs, processes=None):
    "All jobs, some side by side, results in order; a line each as they come."
    # for the processes to come: two runs side by side beat one with two threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = processes or max(1, (os.cpu_count() or 2) // int(os.environ["OMP_NUM_THREADS"]))
    from micacl.train.machine import choose_arithmetic
    # one arithmetic for all, written into each result with the rest of its configuration
    jobs = [dict(j, config=dict(mixed_precision=choose_arithmetic().precision) | j["config"]) for j in jobs]
    results = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for r in pool.map(one_run, jobs):
            results.append(r)
            print(f"{r['config']} {r.get('frames') or ''}: validation UAR {r['val_uar']:.3f}, "
                  + ", ".join(f"{n} UAR {t['uar']:.3f} WAR {t['war']:.3f}" for n,
                              t in r["tests"].items()) + f", {r['seconds']} s", flush=True)
    return results


def fill_cache(folder):
    "Decode a set once, before several runs want it at the same time."
    from micacl.train.config import Config
    from micacl.train.run import read_clips
    read_clips(folder, folder, Config(), quiet=True)
