"""Loading from the frame cache of this checkout beside that of another one, in one run: an epoch of both in turn,
seconds and memory.

    python benchmarks/cache.py WORK --checkout OTHER      # a checkout with the cache as it was -> results/cache.json
    python benchmarks/cache.py WORK --clips 2000          # this checkout alone, quick

A set of drawn clips is linked under many names, decoded into a cache by each checkout, and read as training reads it,
in a new order each epoch. Each checkout has a process of its own; the rounds go A B, B A, ... The first epoch compares
the checksums; it is not in the ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, commit, machine

CHILD = '''
import dataclasses, json, sys, time
from pathlib import Path
import psutil, torch; torch.set_num_threads(1)
from micacl.train.config import Config
from micacl.train.loaders import make_loader, set_epoch
from micacl.train.run import read_clips
root, epoch = Path(sys.argv[1]), 0
def held(): return psutil.Process().memory_info()
def measure(f): start = time.perf_counter(); x = f(); return time.perf_counter() - start, x
def say(**d): print(json.dumps(d), flush=True)
config = dataclasses.replace(Config(), batch_size=32)
build, _ = measure(lambda: read_clips(root, root, config, quiet=True))
opened, (table, cache, _) = measure(lambda: read_clips(root, root, config, quiet=True))
loader = make_loader(table, config, True, cache)
say(clips=len(table), build=build, open=opened)
for line in sys.stdin:
    set_epoch(loader, epoch); epoch += 1
    seconds, _ = measure(lambda: sum(1 for _ in loader))
    memory = held()
    say(seconds=seconds, private=memory.rss - memory.shared, shared=memory.shared)
'''


def many_clips(work, name, n):
    "A folder with n names for 400 drawn clips, and their list."
    from micacl.data.synfew.generate import generate
    generate(work / "drawn", n_train=400, n_test=0, n_frames=24, size=64, progress=False)
    root, drawn = work / f"{name}-{n}", sorted((work / "drawn").glob("clips/*.mp4"))
    if (root / "clips.csv").exists(): return root
    (root / "clips").mkdir(parents=True, exist_ok=True)
    rows = ["path,label,split"]
    for i in range(n):
        file = root / "clips" / f"{i:06d}.mp4"
        if not file.exists(): os.link(drawn[i % len(drawn)], file)
        rows.append(f"clips/{file.name},{('happy', 'sad')[i % 2]},{'test' if i % 100 == 0 else 'train'}")
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return root


class Reader:
    "A process that loads with the library of one checkout."
    def __init__(self, checkout, root):
        environment = dict(os.environ, PYTHONPATH=str(checkout), OMP_NUM_THREADS="1")
        self.child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True, env=environment, cwd=root)
        self.about, self.epochs = json.loads(self.child.stdout.readline()), []

    def epoch(self):
        self.child.stdin.write("\n"); self.child.stdin.flush()
        self.epochs.append(json.loads(self.child.stdout.readline()))

    def figures(self):
        return dict(self.about, epochs=self.epochs, median=statistics.median(e["seconds"] for e in self.epochs[1:]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path, help="folder for clips and caches, 12 GB for 20,000 clips and two checkouts")
    p.add_argument("--clips", type=int, default=20_000, help="how many")
    p.add_argument("--rounds", type=int, default=7, help="epochs of each after the first")
    p.add_argument("--checkout", type=Path, help="another checkout of the project")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "cache.json", help="JSON file")
    args = p.parse_args()
    from micacl.core import write_json
    started, places = time.time(), {"this": ROOT} | ({"other": args.checkout.resolve()} if args.checkout else {})
    args.work.mkdir(parents=True, exist_ok=True)
    readers = {name: Reader(place, many_clips(args.work, name, args.clips)) for name, place in places.items()}
    for k in range(args.rounds + 1):
        for r in list(readers.values())[::1 if k % 2 else -1]: r.epoch()
    found = {name: r.figures() for name, r in readers.items()}
    about = dict(command=f"python benchmarks/cache.py WORK --clips {args.clips} --rounds {args.rounds}"
                 + (" --checkout OTHER" if args.checkout else ""),
                 commit=commit(), machine=machine(), seconds=round(time.time() - started))
    if args.checkout: about["other_commit"] = commit(args.checkout, ["micacl"])
    if "other" in found:
        pairs = [a["seconds"] / b["seconds"] for a, b in zip(found["this"]["epochs"][1:], found["other"]["epochs"][1:])]
        about["ratio"] = dict(ratio=statistics.median(pairs), low=min(pairs), high=max(pairs))
    write_json(args.out, dict(about, **found))
    print(json.dumps(about.get("ratio")), {n: round(f["median"], 2) for n, f in found.items()})


if __name__ == "__main__": main()
