"""What many processes and very many clips cost, as far as one machine without a GPU can tell.

    # about four minutes on two cores; a million empty files for a while
    python benchmarks/scale_out.py results/scale-out.json
    python benchmarks/scale_out.py small.json --clips 20000                   # quick

1. Decoding: clips a second on one core, drawn clips of 112 and 224 px, each read to 112 px, and the bytes they take in
the cache.
2. Very many clips: a CSV list of them read (the files are empty), a cache of them opened, an epoch put into order.
Seconds and
   memory of a fresh process.
3. Two processes: an epoch against one process on one core, and against one process on two cores, in turn; and the
gradients of the paper's model
   added up over gloo. Both on one machine: a network between two machines is slower.
"""
import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import commit, machine

DECODE = '''
import json, os, sys, time
import torch; torch.set_num_threads(1)
from micacl.data.load import load_table
from micacl.data.bags import _load_small
table = load_table(sys.argv[1])
def frames_of(c): return sum(map(len, _load_small(c.path, 112, None)))       # what filling the cache does with a clip
frames_of(table.clips[0])
start = time.perf_counter()
frames = sum(map(frames_of, table))
print(json.dumps(dict(seconds=time.perf_counter() - start, clips=len(table), frames=frames)))
'''

MANY = '''
import json, os, sys, time
from pathlib import Path
import psutil, torch; torch.set_num_threads(1)
from micacl.core import write_json
from micacl.data.load import load_table
from micacl.longtail.samplers import SAMPLERS, EpochOrder
from micacl.data.cache import open_cache
from micacl.data.cache import _file, _places
root, step, out = Path(sys.argv[1]), sys.argv[2], {}
def held(): return psutil.Process().memory_info().rss / 2**20
def measure(f):      # -> seconds it took, MiB that its result holds; the result
    before, start = held(), time.perf_counter()
    x = f()
    return dict(seconds=round(time.perf_counter() - start, 2), mib=round(held() - before, 1)), x
out["table"], table = measure(lambda: load_table(root))
if step == "order":
    for place in _places(table, 112, None).values():           # files with holes: they take no room
        file = _file(root / "cache", f"{place}-{0:016x}-24-00000000.u8")
        file.parent.mkdir(parents=True, exist_ok=True); file.touch(); os.truncate(file, 24 * 112**2 * 3)
    labels = torch.tensor([c.label for c in table])
    orders = {s: measure(lambda s=s: list(EpochOrder(labels, 0, s, 10))) for s in SAMPLERS}
    out["order"] = {s: found for s, (found, _) in orders.items()}
else:
    out["cache"], cache = measure(lambda: open_cache(root / "cache", table, 112))
print(json.dumps(out))
'''

EPOCHS = '''
import json, os, sys
from pathlib import Path
import torch; torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
from micacl.train.config import Config
from micacl.train.loop import train
train(sys.argv[1], sys.argv[2], Config(epochs=3, batch_size=32, val_fraction=0.0), quiet=True)
if int(os.environ.get("RANK", 0)) == 0:
    lines = Path(sys.argv[2], "metrics.jsonl").read_text().splitlines()
    print(json.dumps([json.loads(s)["seconds"] for s in lines]))
'''

REDUCE = '''
import json, os, sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1); dist.init_process_group("gloo")
x, seconds = torch.ones(int(sys.argv[1])), []
for _ in range(7):
    dist.barrier(); start = time.perf_counter()
    dist.all_reduce(x); seconds.append(time.perf_counter() - start)
if dist.get_rank() == 0: print(json.dumps(seconds[2:]))
'''


def ask(script, *args, processes=1, threads=1):
    "What the last line says that a script prints, in fresh processes."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.py"
        file.write_text(script)
        launch = ([sys.executable] if processes == 1 else [sys.executable, "-m", "torch.distributed.run",
                                                           "--standalone", f"--nproc_per_node={processes}"])
        done = subprocess.run([*launch, str(file), *map(str, args)],
                              env=dict(os.environ, OMP_NUM_THREADS=str(threads), ACCELERATE_USE_CPU="true"),
                              capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])      # torchrun writes to the other stream


def decoding(folder):
    from micacl.data.synfew.generate import generate
    rows = []
    for size in (112, 224):
        generate(folder / f"{size}", n_train=84, n_test=0, size=size, progress=False)
        r = ask(DECODE, folder / f"{size}")
        rows.append(dict(pixels=size, clips_per_second=round(r["clips"] / r["seconds"], 1),
                         frames_per_second=round(r["frames"] / r["seconds"]),
                         frames_per_clip=round(r["frames"] / r["clips"], 1),
                         cache_bytes_per_clip=round(r["frames"] / r["clips"] * 112**2 * 3)))
        print(rows[-1], flush=True)
    return rows


def many_clips(root, n):
    "A list of n clips in folders of a thousand."
    from micacl.core import EMOTIONS
    root.mkdir()
    with open(root / "clips.csv", "w") as f:
        f.write("path,label\n")
        for i in range(n):
            if i % 1000 == 0: (root / f"{i // 1000:04}").mkdir()
            name = f"{i // 1000:04}/{i:07}.mp4"
            os.close(os.open(root / name, os.O_CREAT))
            f.write(f"{name},{EMOTIONS[i % 7]}\n")
    found = {**ask(MANY, root, "order"), **ask(MANY, root, "open")}
    print(found, flush=True)
    return dict(clips=n, **found)


def two_processes(folder):
    from micacl.train.config import PRESETS
    from micacl.train.objective import build_model
    from micacl.data.synfew.generate import generate
    generate(folder / "faces", n_train=192, n_test=7, progress=False)
    ways, seconds = {"one process, one core": (1, 1), "one process, two cores": (1, 2),
                     "two processes, two cores": (2, 1)}, {}
    for turn in range(2):
        for name, (processes, threads) in ways.items():
            # the first epoch warms up
            seconds.setdefault(name, []).extend(ask(EPOCHS, folder / "faces", folder / f"{turn}-{processes}-{threads}",
                                                    processes=processes, threads=threads)[1:])
    median = {k: statistics.median(v) for k, v in seconds.items()}
    two = median.pop("two processes, two cores")
    parameters = sum(p.numel() for p in build_model(dataclasses.replace(PRESETS["paper"](), pretrained=False),
                                                    7).parameters())
    reduce = ask(REDUCE, parameters, processes=2)
    found = dict(epochs=len(seconds["one process, one core"]), ratio={k: round(two / v, 3) for k, v in median.items()},
                 gradient_bytes=4 * parameters, all_reduce_seconds=round(statistics.median(reduce), 3))
    print(found, flush=True)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="JSON file to write")
    p.add_argument("--clips", type=int, default=1_000_000, help="how many are very many")
    args = p.parse_args()
    from micacl.core import write_json
    about = dict(command="python benchmarks/scale_out.py results/scale-out.json"
                 + (f" --clips {args.clips}" if args.clips != 1_000_000 else ""), commit=commit(), machine=machine())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        found = dict(two_processes=two_processes(folder), decode=decoding(folder),
                     many=many_clips(folder / "many", args.clips))
        write_json(args.out, dict(about, **found))      # before so many files are removed


if __name__ == "__main__": main()
