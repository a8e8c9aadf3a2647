"""Kill -9 at random moments of train, cache, synfew and experiment; start again with the same command; compare with a
run that nobody disturbed.

    python benchmarks/kills.py --kills 500 --out results/kills.json

One process imports PyTorch once and forks a child for each attempt, in a session of its own. The child runs
`micacl.cli.main` on a tiny SynFEW. After a random part of the time that an undisturbed attempt takes, it is killed:
mostly the whole group, sometimes the main process alone, as the kernel does when memory is short. One to four kills,
then the job is left alone until it ends, and everything it made is compared with the reference, to the bit. A kill
counts if the process was alive. A job fails if it ends with an error, says a traceback, leaves a temporary file, a lock
or a process, or made anything else than the reference.
"""
import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

SHARES = dict(train=0.4, cache=0.2, synfew=0.2, experiment=0.2)
TINY = "--no-pretrained --n-instances 2 --image-size 32 --epochs 3 --batch-size 8 --mccl-args out_dim=16"
SPEC = dict(data="data", base=dict(pretrained=False, n_instances=2, image_size=32, epochs=2, batch_size=8,
                                   mccl_weight=0.0), seeds=[1], test="test_balanced",
            methods=dict(mean=dict(model="mean"), attention=dict(model="attention")), compare=[["attention", "mean"]])
COMMANDS = {   # job: (command, command that goes on, needs the data, with a cache)
    "train": (f"train data --out run {TINY}", f"train data --out run {TINY} --resume", True, True),
    "train, with its report": (f"train data --out run {TINY}", f"train data --out run {TINY} --resume", True, True),
    "train, 2 loader processes": (f"train data --out run {TINY} --workers 2",
                                  f"train data --out run {TINY} --workers 2 --resume", True, True),
    "train, nothing cached": (f"train data --out run {TINY}", f"train data --out run {TINY} --resume", True, False),
    "cache": ("cache data --size 32", None, True, False),
    "synfew": ("synfew out --train 14 --test 7 --frames 10 --size 32 --workers 1", None, False, False),
    "synfew, 2 processes": ("synfew out --train 14 --test 7 --frames 10 --size 32 --workers 2", None, False, False),
    "experiment": ("experiment spec.json --out x --processes 1", None, True, True),
    "experiment, 2 processes": ("experiment spec.json --out x --processes 2", None, True, True)}
KINDS = dict(train=("train", "train, 2 loader processes", "train, nothing cached", "train", "train, with its report"),
             cache=("cache",), synfew=("synfew",) * 11 + ("synfew, 2 processes",),
             experiment=("experiment",) * 11 + ("experiment, 2 processes",))


# ---- one attempt in a child

def start(argv, folder, says, before=None):
    "Fork; the child runs the command in `folder`, its words go to the file `says`."
    sys.stdout.flush(); sys.stderr.flush()
    pid = os.fork()
    if pid: return pid
    status = 70
    try:
        os.setsid(); os.chdir(folder)
        for fd in (1, 2): os.dup2(os.open(says, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), fd)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from micacl.cli import main
        if before: before()
        status = main(shlex.split(argv))
    except SystemExit as e: status = e.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception): sys.stdout.flush(); sys.stderr.flush()
        os._exit(status)


def no_report():
    "Drawing the report takes three quarters of the time of a tiny run; it is drawn in one kind of job."
    import micacl.show.report
    micacl.show.report.write_report = lambda run: Path(run) / "report.html"


def before_of(job): return no_report if job.startswith("train") and "report" not in job else None


def wait(pid, seconds):
    "The status of the child if it ends within this time, else None."
    end = time.monotonic() + seconds
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got: return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end: return None
        time.sleep(min(0.005, max(end - time.monotonic(), 0)))


def kill(pid, whole):
    with contextlib.suppress(ProcessLookupError): (os.killpg if whole else os.kill)(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# ---- what is there

def phase(kind, folder):
    "What the command had got to when it was killed, read from the files."
    folder = Path(folder)
    if kind == "train":
        run = folder / "run"
        if (run / "results.json").exists(): return "results written, at the report"
        if (run / "model.safetensors").exists(): return "scoring the test clips"
        state = next((run / f"checkpoint{s}" / "state.json" for s in ("", ".new", ".old")
                      if (run / f"checkpoint{s}" / "state.json").exists()), None)
        if (run / "checkpoint.new").exists() or (run / "checkpoint.old").exists(): return "writing a checkpoint"
        if state is not None: return f"{json.loads(state.read_text())['epoch']} of 3 epochs done"
        return ("in the first epoch" if (run / "config.json").exists() else "before anything was written"
                if not run.exists() else "reading the data")
    if kind == "cache":
        home = folder / "data" / ".micacl-cache" / "32px"
        n = len(list(home.rglob("*.u8")))
        return (f"{n // 7 * 25} to {n // 7 * 25 + 25} % of the clips" if 0 < n < 28 else "all clips decoded" if n
                else "before a clip was decoded")
    if kind == "synfew":
        out = folder / "out"
        if not out.exists(): return "before anything was written"
        if (out / "synfew.json").exists(): return "description written"
        n = len(list(out.glob("clips/[!.]*.mp4")))
        return ("writing the tables" if (out / "clips.csv").exists() else f"{n // 7 * 25} to {n // 7 * 25 + 25} % of "
                "the clips" if n < 28 else "all clips drawn")
    x = folder / "x"
    if not x.exists(): return "before anything was written"
    if (x / "summary.json").exists(): return "summary written"
    n = len(list(x.glob("runs/[!.]*.json")))
    return "in run 1 of 2" if n == 0 else "in run 2 of 2" if n == 1 else "comparing"


def without(d, *names):
    return ({k: without(v, *names) if isinstance(v, dict) else v for k, v in d.items() if k not in names}
            if isinstance(d, dict) else d)


def content(path):
    "The bytes of a file, or what is in it but times and the command line."
    if path.name == "metrics.jsonl":
        return json.dumps([without(json.loads(line), "seconds") for line in path.read_text().splitlines()])
    if path.name in ("config.json", "state.json", "summary.json") or path.parent.name == "runs":
        d = json.loads(path.read_text())
        for h in d.get("history", []): h.pop("seconds", None)
        return json.dumps(without(d, "seconds", "step_seconds", "command", "data"), sort_keys=True)
    if path.name == "report.html": return "a report" if path.read_text().rstrip().endswith("</html>") else "cut off"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(folder):
    "{name: content} of everything in a job's folder, but what the harness put there."
    out = {}
    for p in sorted(Path(folder).rglob("*")):
        rel = p.relative_to(folder).as_posix()
        if p.is_file() and not (rel.startswith("data/") and ".micacl-cache" not in rel): out[rel] = content(p)
        elif p.is_dir() and not any(p.iterdir()): out[rel + "/"] = "an empty folder"
    return out


def locked(folder):
    "Locks that somebody still holds."
    import fcntl
    held = []
    for p in Path(folder).rglob(".lock"):
        with open(p) as f:
            try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError: held.append(p.relative_to(folder).as_posix())
    return held


def living(sessions, seconds=10):
    "Processes of these sessions that do not end by themselves within a few seconds."
    end = time.monotonic() + seconds
    while True:
        here = []
        for p in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = p.read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) in sessions and fields[0] != "Z": here.append(int(p.parent.name))
        if not here or time.monotonic() > end: return here
        time.sleep(0.05)


# ---- a job

class Ground:
    "Data, references and the time an undisturbed attempt takes."
    def __init__(self, root):
        self.root, self.numbers, self.references, self.took = Path(root), 0, {}, {}
        self.data = self.root / "data"
        say = self.root / "setup.txt"
        for argv in (COMMANDS["synfew"][0].replace(" out ", " data "), "cache data --size 32"):
            if wait(start(argv, self.root, say), 600): sys.exit(say.read_text())

    def folder(self, job):
        self.numbers += 1
        folder = self.root / f"job{self.numbers}"
        folder.mkdir()
        (self.root / f"job{self.numbers}.txt").touch()
        if COMMANDS[job][2]:   # hard links: the same files with the same time stamps
            shutil.copytree(self.data, folder / "data", copy_function=os.link,
                            ignore=None if COMMANDS[job][3] else shutil.ignore_patterns(".micacl-cache"))
        if "experiment" in job: (folder / "spec.json").write_text(json.dumps(SPEC))
        return folder, self.root / f"job{self.numbers}.txt"

    def reference(self, job):
        "Run it undisturbed, twice: what it makes is the same, and how long it takes."
        if job not in self.references:
            both = []
            for _ in range(2):
                folder, says = self.folder(job)
                begin = time.monotonic()
                if wait(start(COMMANDS[job][0], folder, says, before_of(job)), 600):
                    sys.exit(f"{job} fails undisturbed: {says.read_text()}")
                self.took[job] = min(self.took.get(job, 1e9), time.monotonic() - begin)
                both.append(made(folder)); shutil.rmtree(folder)
            if both[0] != both[1]: sys.exit(f"{job} does not repeat undisturbed: {differences(*both)}")
            self.references[job] = both[0]
        return self.references[job]


def differences(a, b):
    return sorted([f"- {n}" for n in a.keys() - b.keys()] + [f"+ {n}" for n in b.keys() - a.keys()]
                  + [f"~ {n}" for n in a.keys() & b.keys() if a[n] != b[n]])


def try_job(ground, kind, job, dice, most):
    "A few kills, then the end, then the comparison -> what happened."
    want, (folder, says), phases, finished = ground.reference(job), ground.folder(job), [], 0
    first, again, *_ = COMMANDS[job]
    argv, status, sessions = first, None, set()
    for _ in range(min(dice.choice((1, 2, 3, 4)), most)):
        whole, delay = dice.random() < 0.8, dice.random() * ground.took[job]
        pid = start(argv, folder, says, before_of(job))
        sessions.add(pid)
        status = wait(pid, delay)
        if status is not None: finished += 1; break           # done before its time: nothing was killed
        if kill(pid, whole): phases.append((phase(kind, folder), "the group" if whole else "the main process"))
        argv, status = again or first, None
        if again and not (folder / "run").exists(): argv = first
    if status is None:
        pid = start(argv, folder, says, before_of(job))
        status = wait(pid, 120)
        if status is None: kill(pid, True)
    said, faults = says.read_text(), []
    if status != 0: faults.append(f"ended with status {status}: {said.strip().splitlines()[-1:]}")
    if "Traceback" in said: faults.append("a traceback")
    got = made(folder)
    if d := differences(want, got): faults.append(f"differs: {', '.join(d)}")
    left = [n for n in got if n.endswith((".tmp", ".pid")) or ".new" in n or ".old" in n]
    if left: faults.append(f"left behind: {', '.join(left)}")
    if alive := living(sessions):
        faults.append(f"processes left: {len(alive)}"); [os.kill(p, signal.SIGKILL) for p in alive]
    if held := locked(folder): faults.append(f"still locked: {', '.join(held)}")
    shutil.rmtree(folder)
    if not faults: says.unlink()
    else: print(f"{job}: {faults}\n{said}", flush=True)
    return dict(job=job, phases=phases, finished_early=finished, faults=faults)


def load():
    "Import everything once, for all children; nothing is computed, so no thread is started."
    import codecs
    import torch
    torch.set_num_threads(1)
    for name in ("utf-8-sig", "cp437"): codecs.lookup(name)      # a child that is nobody may not be able to read them
    names = [f"micacl.{m}" for m in ("cli", "train.experiments", "data.frames", "show.html", "show.report")]
    late = ("torch._dynamo", "matplotlib.pyplot", "PIL.Image", "scipy.special", "scipy.stats", "sklearn.metrics")
    for name in (*names, *late):
        importlib.import_module(name)      # the last ones: what functions (and PyTorch's optimizers) import at need


def run(kills, seed, root, say=lambda line: None, short=False):
    "Jobs of every kind until each has had its share of the kills."
    load()
    ground, out = Ground(root), {}
    for kind, share in SHARES.items():
        want, records, n = round(kills * share), [], 0
        while sum(len(r["phases"]) for r in records) < want:
            dice = random.Random(f"{seed} {kind} {n}")
            done = sum(len(r["phases"]) for r in records)
            records.append(try_job(ground, kind, KINDS[kind][0 if short else n % len(KINDS[kind])], dice, want - done))
            n += 1
            if n % 10 == 0:
                say(f"{kind}: {n} jobs, {sum(len(r['phases']) for r in records)} of {want} kills, "
                    f"{sum(bool(r['faults']) for r in records)} jobs with faults")
        where = collections.Counter(p for r in records for p, _ in r["phases"])
        out[kind] = dict(kills=sum(where.values()), jobs=len(records), compared=len(records),
                         identical=sum(not r["faults"] for r in records), phases=dict(sorted(where.items())),
                         main_process_only=sum(w == "the main process" for r in records for _, w in r["phases"]),
                         by_command=dict(sorted(collections.Counter(r["job"] for r in records
                             for _ in r["phases"]).items())),
                         seconds_undisturbed={j: round(ground.took[j], 2) for j in sorted(set(KINDS[kind]))
                                              if j in ground.took}, faults=[dict(job=r["job"], faults=r["faults"])
                                                  for r in records if r["faults"]])
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=500)
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    p.add_argument("--out", type=Path, help="results as JSON")
    p.add_argument("--short", action="store_true", help="only the first command of each kind, for tests")
    p.add_argument("--work", type=Path, help="folder to work in (default: a temporary one)")
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from common import commit, machine
    begin, here = time.time(), commit()
    with tempfile.TemporaryDirectory(dir=a.work) as root:
        kinds = run(a.kills, a.seed, root, lambda line: print(line, flush=True), a.short)
    total = {k: sum(kinds[kind][k] for kind in kinds) for k in ("kills", "jobs", "compared", "identical",
                                                                "main_process_only")}
    report = dict(command=f"python benchmarks/kills.py --kills {a.kills} --seed {a.seed}", commit=here,
                  machine=machine(), seconds=round(time.time() - begin), **total, kinds=kinds)
    if a.out:
        from micacl.core import write_json
        write_json(a.out, report)
    print(json.dumps(total))
    return total["identical"] < total["jobs"]


if __name__ == "__main__": sys.exit(main())
