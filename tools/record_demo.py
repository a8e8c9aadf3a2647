"""Repeat the demo's two trainings over several seeds and keep the figures; README.md and the pages read the file.

    python tools/record_demo.py --seeds 42 43 44 45 46     # writes results/demo.json; a few minutes a seed on 2 cores
"""
import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEEP = ("uar", "war", "recall", "head", "medium", "tail", "ece", "intervals", "instance_auc", "n_test")


def machine():
    "What the figures depend on, without naming anybody's computer."
    import torch
    import torchvision
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return dict(cpu_cores=os.cpu_count(), gpu=gpu, system=platform.system(), architecture=platform.machine(),
                python=platform.python_version(), torch=torch.__version__, torchvision=torchvision.__version__)


def main():
    from micacl.core import write_json
    from micacl.report import DEMO, demo_config
    from micacl.synfew import generate
    from micacl.training import train
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    p.add_argument("--models", nargs="+", default=["micacl", "mean"])
    p.add_argument("--work", type=Path, default=ROOT / "runs" / "demo-seeds")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "demo.json")
    a = p.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    start = time.time()
    generate(a.work / "synfew", progress=False, **DEMO["data"])
    seconds = dict(data=round(time.time() - start, 1))
    runs = []
    for seed in a.seeds:
        for model in a.models:
            start = time.time()
            results = train(a.work / "synfew", a.work / f"{model}-{seed}", demo_config(model, seed=seed), resume=True, quiet=True)
            runs.append(dict(model=model, seed=seed, seconds=round(time.time() - start, 1),
                             tests={name: {k: t[k] for k in KEEP if k in t} for name, t in results["tests"].items()}))
            print(model, seed, runs[-1]["seconds"], "s", {n: round(t["uar"], 3) for n, t in runs[-1]["tests"].items()}, flush=True)
    write_json(a.out, dict(command=f"python tools/record_demo.py --seeds {' '.join(map(str, a.seeds))}", commit=commit, machine=machine(),
                           settings=DEMO, seeds=a.seeds, seconds=seconds, runs=runs))


if __name__ == "__main__": sys.exit(main())
