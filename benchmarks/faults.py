"""Everything that can go wrong, one after the other: what was done, what the command said, what it cost, what was lost.

    python benchmarks/faults.py --out results/faults.json       # all of them
    python benchmarks/faults.py --only disk                      # those whose name contains a word
    # those that take a second or two each, which the tests run
    python benchmarks/faults.py --quick

Each fault is a function below. It prepares a folder, runs `micacl` in a child process while something goes wrong, and
where a run can go on, lets it go on and compares what it made with an undisturbed run, to the bit. Expected are an exit
status, words in the message, no traceback, bounds for time and memory, and that no file around the folder has changed.
tests/project/test_faults.py asserts the same expectations.
"""
import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from kills import COMMANDS, SPEC, differences, kill, made, no_report, start

TRAIN = COMMANDS["train"][0]
GO_ON = COMMANDS["train"][1]
SCENARIOS = []


def fault(group, name, what, status=1, says=(), lost="nothing", seconds=30, memory=250, long=False):
    "Register a fault: what was done, and what is expected to happen."
    def take(f):
        SCENARIOS.append(SimpleNamespace(group=group, name=name, what=what, status=status,
                                         says=[says] if isinstance(says, str) else list(says), lost=lost,
                                         seconds=seconds, memory=memory, long=long, run=f))
        return f
    return take


# ---- the ground on which a fault happens

class Room:
    "A folder to work in, a frame of files around it that nobody may touch, and commands in child processes."
    shared = None       # data, references, the memory of an empty child

    def __init__(self, root, name):
        self.around = Path(root) / re.sub(r"\W+", "-", name)
        self.folder = self.around / "inside" / "work"
        self.folder.mkdir(parents=True)
        for p in (self.around / "secret.txt", self.around / "inside" / "neighbour" / "clip.mp4"):
            p.parent.mkdir(exist_ok=True); p.write_bytes(p.name.encode() * 9)
        self.outcome, self.notes, self.cost = None, [], dict(seconds=0.0, memory=0.0)

    def outside(self):
        files = [p for p in self.around.rglob("*") if not p.is_relative_to(self.folder)]
        return {p.relative_to(self.around).as_posix(): (p.lstat().st_mode, p.lstat().st_mtime_ns if p.is_file() else 0,
                                                        p.read_bytes() if p.is_file() else b"") for p in files}

    def data(self, cached=True, name="data"):
        "The tiny SynFEW set; hard links, so copies of it are to be changed by writing new files only."
        return Path(shutil.copytree(self.shared.data, self.folder / name, copy_function=os.link,
                                    ignore=None if cached else shutil.ignore_patterns(".micacl-cache")))

    def own(self, path):
        "A file that may be changed without changing what it is linked to."
        data = path.read_bytes(); path.unlink(); path.write_bytes(data)
        return path

    def go(self, argv, before=None, during=None, limit=90):
        "Run a command to its end -> status, words; `before` in the child, `during(pid)` here while it runs."
        says = self.around / f"says-{len(self.notes)}.txt"; self.notes.append(argv)
        pid, begin = start(argv, self.folder, says, lambda: (no_report(), before and before())), time.monotonic()
        status = usage = None
        if during:
            with contextlib.suppress(ProcessLookupError): during(pid)
        while status is None:
            got, code, usage = os.wait4(pid, os.WNOHANG)
            if got: status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() - begin > limit: kill(pid, True); status = "did not end"
            else: time.sleep(0.005)
        said = says.read_text(errors="replace"); says.unlink()
        seconds, memory = time.monotonic() - begin, (usage.ru_maxrss / 1024 - self.shared.memory) if usage else 0
        outcome = SimpleNamespace(status=status, said=said, seconds=seconds, memory=memory, argv=argv)
        if self.outcome is None: self.outcome = outcome
        return outcome

    def until(self, pid, ready, limit=40):
        "Wait until something is there, or the process is gone."
        end = time.monotonic() + limit
        def alive():
            stat = Path(f"/proc/{pid}/stat")
            return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        while not ready() and time.monotonic() < end and alive():
            time.sleep(0.002)

    def goes_on(self, argv, job, skip=()):
        "The command again: it must end well and have made what an undisturbed one makes."
        again = self.go(argv)
        assert again.status == 0, f"{argv}: status {again.status}: {again.said}"
        d = [n for n in differences(self.shared.reference(job), made(self.folder)) if not any(s in n for s in skip)]
        assert not d, f"differs from an undisturbed run: {d}"


def epochs(n):
    return lambda room: lambda: (room.folder / "run" / "checkpoint" / "state.json").exists() and len(lines(room)) >= n
def lines(room):
    return ((room.folder / "run" / "metrics.jsonl").read_text().splitlines()
            if (room.folder / "run" / "metrics.jsonl").exists() else [])
def after_epoch(room, act): return lambda pid: (room.until(pid, epochs(1)(room)), act(pid))
def small_files(n): return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
def shrink(pid, n): resource.prlimit(pid, resource.RLIMIT_FSIZE, (n, n))
def nobody():
    if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)


# ---- disks and folders

# what the system says in place of 'No space left on device' when the limit of a process, not of a disk, is met
FULL = "File too large"


@fault("disk and folders", "disk full: train", "after the first epoch no file can grow any more, so a checkpoint "
                                               "breaks off", says=[FULL, "finished epochs are kept", "--resume"],
                                               lost="the epoch under way")
def _(r):
    r.data()
    r.go(TRAIN, during=after_epoch(r, lambda pid: shrink(pid, 20_000)))
    assert not (r.folder / "run" / "checkpoint.new").exists()
    r.goes_on(GO_ON, "train")


@fault("disk and folders", "disk full: cache", "no file can grow beyond 30 kB, and the frames of a clip need more",
       says=[FULL, "make room"], lost="the clip under way")
def _(r):
    r.data(cached=False)
    r.go("cache data --size 32", before=small_files(30_000))
    assert not list((r.folder / "data" / ".micacl-cache").rglob("*.tmp"))
    r.goes_on("cache data --size 32", "cache")


@fault("disk and folders", "disk full: synfew, a clip", "no file can grow beyond 2 kB, and a clip needs more",
       says=[FULL, "goes on where it stopped"], lost="the clip under way")
def _(r):
    r.go(COMMANDS["synfew"][0], before=small_files(2000))
    r.goes_on(COMMANDS["synfew"][0], "synfew")


@fault("disk and folders", "disk full: synfew, the tables",
       "no file can grow beyond 5 kB: the clips are drawn, their table breaks off",
       says=[FULL, "goes on where it stopped"])
def _(r):
    r.go(COMMANDS["synfew"][0], before=small_files(5000))
    r.goes_on(COMMANDS["synfew"][0], "synfew")


@fault("disk and folders", "disk full: experiment", "no file can grow beyond 300 kB: no run of the experiment can "
                                                    "write a checkpoint", says=[FULL, "2 of 2 runs failed"],
                                                    lost="the epochs under way", long=True)
def _(r):
    r.data(); (r.folder / "spec.json").write_text(json.dumps(SPEC))
    r.go(COMMANDS["experiment"][0], before=small_files(300_000))
    r.goes_on(COMMANDS["experiment"][0], "experiment")


@fault("disk and folders", "run folder that cannot be written", "the folder for runs belongs to somebody else",
       says=["Permission denied", "choose another"])
def _(r):
    data = r.data()
    (locked := r.folder / "runs").mkdir(); locked.chmod(0o555)
    r.go(TRAIN.replace("--out run", "--out runs/run"), before=nobody)
    assert not any(locked.iterdir()) and data.exists()


@fault("disk and folders", "data folder that cannot be written",
       "the data are read-only and nothing is cached: the cache goes into the run folder", status=0, says="test: UAR",
       long=True)
def _(r):
    data = r.data(cached=False)
    (home := r.folder / "mine").mkdir(); home.chmod(0o777); data.chmod(0o555)
    r.go(TRAIN.replace("--out run", "--out mine/run"), before=nobody)
    assert not (data / ".micacl-cache").exists() and list((home / "run" / ".micacl-cache").rglob("*.u8"))
    data.chmod(0o755)


@fault("disk and folders", "a file where the run folder should be", "RUN is a file", says=["run", "choose another"])
def _(r):
    r.data(); (r.folder / "run").write_text("notes"); r.go(TRAIN); assert (r.folder / "run").read_text() == "notes"


@fault("disk and folders", "a file where SynFEW should be", "OUT is a file", says=["expected a folder, found a file"])
def _(r):
    (r.folder / "out").write_text("notes")
    r.go(COMMANDS["synfew"][0])
    assert (r.folder / "out").read_text() == "notes"


@fault("disk and folders", "a folder that holds something else", "RUN holds a file of another kind",
       says=["expected an empty folder, found thesis.tex"])
def _(r):
    r.data()
    (r.folder / "run").mkdir()
    (r.folder / "run" / "thesis.tex").write_text("x")
    r.go(TRAIN)
    assert os.listdir(r.folder / "run").count("thesis.tex") == 1


@fault("disk and folders", "two runs into one folder", "a second run is started while the first one trains",
       says=["another run (process", "choose another folder"], long=True)
def _(r):
    r.data()
    def second(pid):
        r.until(pid, epochs(1)(r))
        r.outcome = None; r.go(GO_ON)
    r.outcome = SimpleNamespace()
    first = r.go(TRAIN, during=second)
    assert first.status == 0 and not differences(r.shared.reference("train"), made(r.folder))


@fault("disk and folders", "two builds of one cache", "the cache is built twice at the same time: one waits for "
                                                      "the other", status=0, says="28 clips cached")
def _(r):
    r.data(cached=False)
    other = []
    r.go("cache data --size 32", during=lambda pid: other.append(r.go("cache data --size 32")))
    assert other[0].status == 0 and not differences(r.shared.reference("cache"), made(r.folder))


@fault("disk and folders", "SynFEW drawn twice at the same time", "two processes draw the same set into one folder",
       status=0, says="Next: micacl train")
def _(r):
    other = []
    first = r.go(COMMANDS["synfew"][0], during=lambda pid: other.append(r.go(COMMANDS["synfew"][0])))
    assert first.status == other[0].status == 0, (first.said, other[0].said)
    assert not differences(r.shared.reference("synfew"), made(r.folder))


# ---- the cache

def cache_fault(name, what, says, change, status=0, again="cache data --size 32"):
    @fault("the cache", name, what, status=status, says=says)
    def _(r):
        home = r.data() / ".micacl-cache" / "32px"
        change(r, home)
        r.go(again)
        r.goes_on("cache data --size 32", "cache")


def frames_of(home): return sorted(home.rglob("*.u8"))


def flip(r, home):
    file = r.own(frames_of(home)[0])
    data = bytearray(file.read_bytes()); data[3 * len(data) // 4] ^= 16; file.write_bytes(data)


def cut(r, file, share=0.5): data = r.own(file).read_bytes(); file.write_bytes(data[:int(len(data) * share)])


def first_format(home):
    for name in ("index.json", "frames-0123456789abcdef.u8"): (home / name).write_text("{}")


def promise(home):
    "A name that promises a billion frames."
    file = frames_of(home)[0]
    parts = file.name.split("-")
    parts[3] = str(10**9)
    file.rename(file.with_name("-".join(parts)))


ONE = "1 of 28 clips were decoded"
cache_fault("of the first format", "an index.json and a file of all frames, as version 0.1 wrote them, lie in the "
                                   "folder, and a clip is missing", [ONE], lambda r,
                                   h: (first_format(h), frames_of(h)[0].unlink()))
cache_fault("cut off", "the frames of one clip are half as long", [ONE], lambda r, h: cut(r, frames_of(h)[0]))
cache_fault("empty after a power cut", "the file of one clip has its name and no bytes", [ONE], lambda r,
            h: cut(r, frames_of(h)[0], 0))
cache_fault("a name that nobody wrote", "the name of a file promises a billion frames", [ONE], lambda r, h: promise(h))


@fault("the cache", "a changed byte among the frames",
       "one bit of one frame is flipped; found by the checksum when the clip is read",
       says=["as it was decoded, found other bytes", "decodes the clip again"])
def _(r):
    flip(r, r.data() / ".micacl-cache" / "32px")
    r.go(TRAIN)
    r.goes_on(GO_ON, "train")


@fault("the cache", "a changed byte, loader processes",
       "the same with two loader processes, whose errors travel between processes",
       says=["as it was decoded, found other bytes", "decodes the clip again"], long=True)
def _(r):
    flip(r, r.data() / ".micacl-cache" / "32px")
    r.go(f"{TRAIN} --workers 2")
    r.goes_on(f"{GO_ON} --workers 2", "train, 2 loader processes")


# ---- while it trains

@fault("training", "a loss that is not finite", "a learning rate of 1e30", says=["not finite any more", "Lower lr"],
       lost="the epoch under way")
def _(r): r.data(); r.go(f"{TRAIN} --lr 1e30 --warmup-epochs 0 --optim-args clip_norm=0")


@fault("training", "a loader process is killed", "SIGKILL to a loader process, as when memory runs out",
       says=["loader process", "--resume"], lost="the epoch under way")
def _(r):
    r.data()
    def shoot(pid):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[:1]:
            os.kill(int(child), signal.SIGKILL)
    r.go(f"{TRAIN} --workers 2 --epochs 300", during=after_epoch(r, shoot), limit=60)
    assert re.search(r"[1-9]\d* finished epochs are kept", r.outcome.said)
    for name in ("config.json", "metrics.jsonl", "model.safetensors", "results.json"):
        assert (r.folder / "run" / name).exists() == (name in ("config.json", "metrics.jsonl"))


@fault("training", "only the main process is killed", "SIGKILL to the main process; its loader processes live on for "
                                                      "seconds, and the run is resumed at once", status=-9,
                                                      lost="the epoch under way", long=True)
def _(r):
    r.data()
    r.go(f"{TRAIN} --workers 2", during=after_epoch(r, lambda pid: os.kill(pid, signal.SIGKILL)))
    r.goes_on(f"{GO_ON} --workers 2", "train, 2 loader processes")


@fault("training", "Ctrl-C: train", "SIGINT after the first epoch", status=130,
       says=["interrupted", "finished epochs are kept", "--resume"], lost="the epoch under way", long=True)
def _(r):
    r.data(); r.go(TRAIN, during=after_epoch(r, lambda pid: os.kill(pid, signal.SIGINT))); r.goes_on(GO_ON, "train")


@fault("training", "Ctrl-C: cache", "SIGINT while clips are decoded", status=130, says="goes on where it stopped",
       lost="the cache under way")
def _(r):
    data = r.data(cached=False)
    r.go("cache data --size 32", during=lambda pid: (r.until(pid, lambda: (data / ".micacl-cache" / "32px").exists()),
                                                     os.kill(pid, signal.SIGINT)))
    r.goes_on("cache data --size 32", "cache")


@fault("training", "Ctrl-C: synfew", "SIGINT after ten clips", status=130, says="goes on where it stopped",
       lost="the clip under way")
def _(r):
    r.go(COMMANDS["synfew"][0], during=lambda pid: (r.until(pid,
                                                            lambda: len(list(r.folder.glob("out/clips/*.mp4"))) > 9),
                                                            os.kill(pid, signal.SIGINT)))
    r.goes_on(COMMANDS["synfew"][0], "synfew")


@fault("training", "Ctrl-C: experiment", "SIGINT in the second run", status=130, says="goes on where it stopped",
       lost="the epoch under way", long=True)
def _(r):
    r.data(); (r.folder / "spec.json").write_text(json.dumps(SPEC))
    r.go(COMMANDS["experiment"][0], during=lambda pid: (r.until(pid, lambda: list(r.folder.glob("x/runs/[!.]*.json"))),
                                                        os.kill(pid, signal.SIGINT)))
    r.goes_on(COMMANDS["experiment"][0], "experiment")


@fault("training", "the job's time is over", "SIGTERM after the first epoch: the process ends at once, as with SIGKILL",
       status=-15, lost="the epoch under way", long=True)
def _(r):
    r.data(); r.go(TRAIN, during=after_epoch(r, lambda pid: os.kill(pid, signal.SIGTERM))); r.goes_on(GO_ON, "train")


@fault("training", "half a line in metrics.jsonl", "the last line of metrics.jsonl ends in the middle; the run is "
                                                   "resumed", status=0, says="test: UAR", long=True)
def _(r):
    r.data()
    r.go(TRAIN, during=after_epoch(r, lambda pid: kill_quietly(pid)))
    with (r.folder / "run" / "metrics.jsonl").open("a") as f: f.write('{"epoch": 2, "lo')
    r.outcome = None
    r.goes_on(GO_ON, "train")


def kill_quietly(pid): os.kill(pid, signal.SIGKILL)


def finished(r):
    "A finished run, from the reference."
    shutil.copytree(r.shared.run, r.folder / "run")
    r.data()
    return r.folder / "run"


for _file in ("model.safetensors", "objective.safetensors", "optimizer.safetensors", "state.json"):
    for _how in ("cut off", "missing"):
        @fault("training", f"checkpoint: {_file} {_how}", f"{_file} of the checkpoint is {_how}; the run is resumed",
               says=["checkpoint", "damaged", _file, "starts again from the first epoch"],
               lost="the run's epochs, if there is no copy", long=(_file, _how) != ("optimizer.safetensors", "cut off"))
        def _(r, file=_file, how=_how):
            run = finished(r)
            for name in ("results.json", "predictions.npz", "model.safetensors"): (run / name).unlink()
            if how == "cut off": cut(r, run / "checkpoint" / file)
            else: (run / "checkpoint" / file).unlink()
            r.go(GO_ON)
            shutil.rmtree(run / "checkpoint")       # what the message says
            r.goes_on(GO_ON, "train")


@fault("training", "another setting on resume", "a run is resumed with another learning rate",
       says=["the run to resume has lr = 0.003", "new folder"])
def _(r): finished(r); r.go(f"{GO_ON} --lr 0.5")


@fault("training", "a clip changes while it trains", "a training clip is replaced by another video after the first "
                                                     "epoch, and the run is killed and resumed",
                                                     says=["the run to resume has", "train into a new folder"],
                                                     lost="the run: with another clip it would be another run",
                                                     long=True)
def _(r):
    data = r.data()
    r.go(TRAIN, during=after_epoch(r, kill_quietly))
    a, b = sorted((data / "clips").iterdir())[:2]
    text = b.read_bytes(); a.unlink(); a.write_bytes(text)
    r.outcome = None
    r.go(GO_ON)


@fault("training", "the data folder disappears", "the data are moved away after the first epoch",
       says=["--resume", "data"], lost="the epochs since", long=True)
def _(r):
    data = r.data()
    first = r.go(f"{TRAIN} --epochs 6", during=after_epoch(r, lambda pid: data.rename(r.folder / "gone")))
    assert first.status == 1
    (r.folder / "gone").rename(data)
    assert r.go(f"{GO_ON} --epochs 6").status == 0


# ---- terminals, names, and files that cannot be written

def clips(r, *names):
    "Videos in the working folder, and a finished run to predict them with."
    finished(r)
    for name in names: video(r.folder / name)


TERMINAL = "terminals and names"


@fault(TERMINAL, "a terminal that is not UTF-8", "classes with Chinese names, and an output that knows 256 characters",
       status=0, says=["usable, 6 clips", "??"])
def _(r):
    rows(r, "x.mp4,快乐,train", "y.mp4,快乐,train")
    for name in ("x.mp4", "y.mp4"): video(r.folder / "d" / name)
    r.go("check d", before=lambda: sys.stdout.reconfigure(encoding="cp1252"))


@fault(TERMINAL, "an output that is closed", "standard output is closed before the start, as >&- does", status=0)
def _(r):
    def close(): os.close(1); sys.stdout = None
    rows(r); r.go("check d", before=close)


@fault(TERMINAL, "a terminal of five columns", "COLUMNS=5, and help is asked for",
       status=0, says="--batch-size", seconds=15)
def _(r): r.go("train --help", before=lambda: os.environ.update(COLUMNS="5"))


@fault(TERMINAL, "ranks that are empty", "RANK and LOCAL_RANK are set to nothing", status=0, says="test: UAR")
def _(r): finished(r); r.go("evaluate run data", before=lambda: os.environ.update(RANK="", LOCAL_RANK=""))


@fault(TERMINAL, "a name too long for its results", "a video whose name has 255 bytes, and a second one",
       status=0, says=["too long for them", "written: out/b.json"])
def _(r):
    clips(r, long := "喜" * 83 + "ab.mp4", "b.mp4")
    r.go(f"predict run {long} b.mp4 --no-crop --out out")
    assert len(list((r.folder / "out").iterdir())) == 6


@fault(TERMINAL, "a name that is not UTF-8", "a video whose name is the byte E9, and a second one",
       status=0, says=["not allowed on every system", "written: out/b.json"])
def _(r):
    clips(r, odd := os.fsdecode(b"\xe9.mp4"), "b.mp4")
    r.go(f"predict run {odd} b.mp4 --no-crop --out out")
    assert (r.folder / "out" / "%E9.json").exists()


@fault(TERMINAL, "a folder in the way of a prediction", "the scores of the first of two videos have no place",
       says=["a.mp4: expected to read it and to write its files", "a.csv"], lost="the scores of this video")
def _(r):
    clips(r, "a.mp4", "b.mp4"); (r.folder / "out" / "a.csv" / "x").mkdir(parents=True)
    r.go("predict run a.mp4 b.mp4 --no-crop --out out")
    assert (r.folder / "out" / "b.csv").is_file()


@fault(TERMINAL, "disk full: predict", "no file can grow beyond 1 kB: the scores of the first of two videos break off",
       says=["out/a.json", FULL], lost="the scores of the video under way")
def _(r):
    clips(r, "a.mp4", "b.mp4"); (r.folder / "out").mkdir()
    r.go("predict run a.mp4 b.mp4 --no-crop --out out", before=small_files(1000))
    assert not list((r.folder / "out").iterdir())


# ---- hostile files

@fault("hostile files", "a model file with code in it",
       "model.safetensors is a pickle that writes a file when it is opened",
       says=["model.safetensors", "expected safetensors"])
def _(r):
    import pickle
    class Bomb:
        def __reduce__(self): return os.system, (f"touch {r.folder / 'hacked'} {r.around / 'hacked'}",)
    run = finished(r)
    (run / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    r.go("evaluate run data")
    assert not (r.folder / "hacked").exists()


@fault("hostile files", "a safetensors header without end", "the file says that its header is 2^60 bytes long",
       says=["model.safetensors", "expected safetensors"])
def _(r):
    (finished(r) / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}" * 99); r.go("evaluate run data")


for _k, _v in dict(n_instances=10**9, wian_layers=10**8, epochs="many", kernels=[10**12], lr=None, model={"a": 1},
                   image_size=1e99, classes=7, nothing={}).items():
    @fault("hostile files", f"config.json: {_k} = {json.dumps(_v)}",
           f"config.json of a run says {_k} = {json.dumps(_v)}", says=["config.json", "expected"])
    def _(r, k=_k, v=_v):
        run = finished(r)
        info = json.loads((run / "config.json").read_text())
        if k == "classes": info["classes"] = v
        elif k == "nothing": info = v
        else: info["config"][k] = v
        (run / "config.json").write_text(json.dumps(info))
        r.go("evaluate run data")


@fault("hostile files", "config.json nested without end", "config.json is a hundred thousand opening brackets",
       says=["config.json", "expected"])
def _(r): (finished(r) / "config.json").write_text("[" * 100_000); r.go("evaluate run data")


@fault("hostile files", "another data set is scored", "evaluate with data that the run was not trained on: its own "
                                                      "results stay", status=0, says="test: UAR", long=True)
def _(r):
    run = finished(r); (r.folder / "data").rename(r.folder / "other")
    before = (run / "results.json").read_bytes()
    file = r.own(r.folder / "other" / "clips.csv")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")          # one test clip less
    r.go("evaluate run other")
    assert ((run / "results.json").read_bytes() == before
            and len(list(run.glob("evaluations/other-*/results.json"))) == 1)


# ---- hostile data

def video(path, n=12, size=64, codec="libx264", long=False):
    import av
    y, x = np.mgrid[:size, :size] / size
    with av.open(str(path), "w") as box:
        s = box.add_stream(codec, rate=25, width=size, height=size, pix_fmt="yuv420p")
        for t in range(n):
            box.mux(s.encode(av.VideoFrame.from_ndarray(np.stack([128 + 99 * np.sin(6 * x + t / 3), 255 * y,
                0 * x + t % 250], -1).astype(np.uint8), format="rgb24")))
        box.mux(s.encode(None))
    return path


def rows(r, *more, head="path,label,split"):
    "A folder `d` with four good clips in a list, and the rows of a fault."
    d = r.folder / "d"; d.mkdir(exist_ok=True)
    good = []
    for i, (label, split) in enumerate((("happy", "train"), ("sad", "train"), ("happy", "test"), ("sad", "test"))):
        if not (d / f"good{i}.mp4").exists(): video(d / f"good{i}.mp4")
        good.append(f"good{i}.mp4,{label},{split}")
    (d / "list.csv").write_text("\n".join([head, *good, *more]) + "\n", encoding="utf-8")
    return d


def data_fault(name, what, make, says, status=0, command="cache d --size 32", **bounds):
    @fault("hostile data", name, what, status=status, says=says, lost="the clip" if "1 skipped" in says else "nothing",
           **bounds)
    def _(r): make(r); r.go(command)


def named(name, content):
    def make(r):
        d = rows(r, f"{name},happy,train")
        content(d / name)
    return make


def bomb_png(folder, side):
    from PIL import Image
    folder.mkdir(); Image.new("RGB", (8, 8)).save(folder / "1.png")
    png = bytearray((folder / "1.png").read_bytes())
    png[16:24] = struct.pack(">II", side, side); png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    (folder / "1.png").write_bytes(png)


def patched(suffix, codec, change):
    def content(path):
        tmp = path.with_name(f"tmp{suffix}"); video(tmp, codec=codec)
        data = bytearray(tmp.read_bytes()); tmp.unlink()
        change(data); path.write_bytes(data)
    return content


def mp4_size(data):
    "65,535 pixels, the most that fits, in the track header and in the sample description."
    at = data.find(b"tkhd") - 4; end = at + struct.unpack(">I", data[at:at + 4])[0]
    data[end - 8:end] = struct.pack(">II", 65535 << 16, 65535 << 16)
    at = data.find(b"avc1", data.find(b"stsd")); data[at + 28:at + 32] = b"\xff\xff\xff\xff"


def mp4_sps(data):
    "Remove the picture parameters too, so that the sizes above are all that is known."
    mp4_size(data)
    at = data.find(b"avcC"); data[at:at + 4] = b"free"


def avi_size(data):
    at = data.find(b"avih") + 8; data[at + 32:at + 40] = struct.pack("<II", 100_000, 100_000)
    at = data.find(b"strf") + 8; data[at + 4:at + 12] = struct.pack("<ii", 100_000, 100_000)


def mp4_count(data):
    for box, where in ((b"stsz", 12), (b"stts", 12)):
        at = data.find(box)
        data[at + where - 4 + (4 if box == b"stsz" else 0):at + where
             + (4 if box == b"stsz" else 0)] = struct.pack(">I", 2**31 - 1)


def true_bomb(path):
    "A real video of 8,320 x 8,320 black pixels in some ten kilobytes."
    import av
    with av.open(str(path), "w", format="mov") as box:
        s = box.add_stream("png", rate=25, width=8320, height=8320, pix_fmt="gray")
        frame = av.VideoFrame(8320, 8320, "gray")
        for plane in frame.planes: plane.update(bytes(plane.buffer_size))
        box.mux(s.encode(frame)); box.mux(s.encode(None))


data_fault("a path with ..", "the list names ../../secret.txt and ../neighbour/clip.mp4",
           lambda r: rows(r, "../../secret.txt,happy,train", "../../neighbour/clip.mp4,happy,train"),
           ["leaves the data folder", "2 skipped"])
data_fault("a path from the root", "the list names /etc/hostname; a list may name clips on another disk, so it is "
                                   "read, as a video only", lambda r: rows(r, "/etc/hostname,happy,train"),
                                   ["outside the data folder", "1 skipped"])
data_fault("a link out of the data set", "a clip is a symbolic link to a file elsewhere",
           named("link.mp4", lambda p: p.symlink_to("../../neighbour/clip.mp4")),
           ["leads out of the data folder", "1 skipped"])
data_fault("a folder that is a link out of the data set", "a folder of clips is a symbolic link to a folder elsewhere",
           lambda r: (rows(r, "far/clip.mp4,happy,train"), (r.folder / "d" / "far").symlink_to("../../neighbour")),
           ["where a link in the data folder leads", "1 skipped"])
data_fault("links in a circle", "a clip is a symbolic link to itself",
           named("loop.mp4", lambda p: p.symlink_to("loop.mp4")), "1 skipped")
data_fault("a pipe as a clip", "a clip is a named pipe that nobody writes to", named("pipe.mp4", os.mkfifo),
           ["neither a file nor a folder", "1 skipped"], seconds=15)
data_fault("a pipe among the pictures", "a picture of a clip is a named pipe",
           lambda r: (rows(r, "p,happy,train"), (r.folder / "d" / "p").mkdir(),
                      os.mkfifo(r.folder / "d" / "p" / "1.jpg")), ["1 skipped"], seconds=15)
data_fault("a device as a clip", "a clip is a link to /dev/zero, which has no end",
           named("zero.mp4", lambda p: p.symlink_to("/dev/zero")), ["leads out of the data folder", "1 skipped"],
           seconds=15)
data_fault("a pipe as the list", "the CSV file is a named pipe", lambda r: os.mkfifo(r.folder / "list.csv"),
           ["list.csv"], status=1, command="check list.csv", seconds=15)
data_fault("a web page as a clip", "an HTML page saved as .mp4",
           named("page.mp4", lambda p: p.write_text("<html><body>404</body></html>" * 50)),
           ["no readable video", "1 skipped"])
data_fault("a play list as a clip", "a play list, named .mp4, that points at a file elsewhere",
           named("list.mp4", lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")),
           ["no readable video", "1 skipped"])
data_fault("mp4: header of 65,535 x 65,535 pixels", "sizes in the header of an mp4 are changed; the stream itself "
                                                    "tells the truth", named("x.mp4",
                                                        patched(".mp4", "libx264", mp4_size)), "clips cached",
                                                        memory=400)
data_fault("mp4: header alone tells the size", "the same, and the stream's own description is taken away",
           named("x.mp4", patched(".mp4", "libx264", mp4_sps)), "1 skipped", memory=400)
data_fault("avi: header of 100,000 x 100,000 pixels", "sizes in the header of an avi are changed",
           named("x.avi", patched(".avi", "mpeg4", avi_size)), "clips cached", memory=400)
data_fault("mp4: 2^31 frames", "the header of an mp4 promises 2^31 frames",
           named("x.mp4", patched(".mp4", "libx264", mp4_count)), "1 skipped", memory=400)
data_fault("a true bomb", "a video of 8,320 x 8,320 pixels in a small file", named("x.mov", true_bomb),
           ["damaged data", "1 skipped"], memory=400)
data_fault("a picture that claims 30,000 x 30,000 pixels", "a PNG of a hundred bytes with that size in its header",
           lambda r: (rows(r, "p,happy,train"), bomb_png(r.folder / "d" / "p", 30_000)), ["1 skipped"])
data_fault("a long clip", "a video of 5,000 frames among the clips; all of them are kept, decoded in portions",
           named("long.mp4", lambda p: video(p, 5000, 128)), ["5 clips cached"], seconds=60, memory=300, long=True)
data_fault("a folder without pictures", "a clip is a folder that holds a text file",
           lambda r: (rows(r, "p,happy,train"), (r.folder / "d" / "p").mkdir(),
                      (r.folder / "d" / "p" / "readme.txt").write_text("x")), ["without pictures", "1 skipped"])


def zoo(r):
    from PIL import Image
    d = rows(r, "zoo,happy,train", "bad,happy,train")
    (d / "zoo").mkdir(); (d / "bad").mkdir()
    Image.new("RGB", (40, 30), (9, 9, 9)).save(d / "zoo" / "1.jpg")
    Image.new("RGB", (3000, 10), (9, 9, 9)).save(d / "zoo" / "2.jpg")
    Image.new("RGB", (1, 1)).save(d / "zoo" / "3.png")
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(d / "zoo" / "4.png")
    Image.new("CMYK", (20, 20), (9, 9, 9, 9)).save(d / "zoo" / "5.jpg")
    Image.new("P", (20, 20)).save(d / "zoo" / "6.png")
    Image.new("LA", (20, 20)).save(d / "zoo" / "7.png"); Image.new("1", (20, 20)).save(d / "zoo" / "8.png")
    Image.new("RGB", (20, 20)).save(d / "zoo" / "9.webp", save_all=True,
                                    append_images=[Image.new("RGB", (20, 20), (200, 0, 0))])
    Image.new("RGB", (20, 20)).save(d / "bad" / "1.jpg")
    (d / "bad" / "1.jpg").write_bytes((d / "bad" / "1.jpg").read_bytes()[:300])


data_fault("pictures of all kinds", "one clip of pictures of many sizes, 16 bits, CMYK, palettes, animated; and one "
                                    "with a broken picture", zoo, ["5 clips cached", "no readable picture",
                                        "1 skipped"])
data_fault("names that nobody likes", "file names with an emoji, a line break, accents, quotes and spaces",
           lambda r: (rows(r, '"😀 clip.mp4",happy,train', '"two\nlines.mp4",happy,train', '"é è.mp4",happy,train',
                           "\"it's.mp4\",happy,train"),
           [video(r.folder / "d" / n) for n in ("😀 clip.mp4", "two\nlines.mp4", "é è.mp4", "it's.mp4")]),
           ["8 clips cached", "0 skipped"])
data_fault("a table of a million columns", "the first line of the CSV has a million columns, and so has a second",
           lambda r: rows(r, "x.mp4,happy,train" + "," * 10**6,
                          head="path,label,split," + ",".join(f"c{i}" for i in range(10**6))),
                          ["list.csv:1", "expected a line of at most"], status=1, seconds=30, memory=700)
data_fault("a line of 50 MB", "a line of 50 million letters in the CSV",
           lambda r: rows(r, "x" * 50_000_000 + ",happy,train"), ["1 skipped"], seconds=30, memory=700)
data_fault("a quote that never ends", "a quotation mark is opened and 50 million letters follow",
           lambda r: rows(r, '"' + "x,y\n" * 12_500_000), "lines; is this the list?", status=1, seconds=40, memory=1200,
           long=True)
data_fault("zero bytes in the table", "a path with a zero byte in it", lambda r: rows(r, "a\0b.mp4,happy,train"),
           "1 skipped")


# ---- running them

def clean(text, room):
    "Names relative to the folder, without what changes from run to run."
    for p in (room.folder, room.around):
        text = text.replace(f"{os.path.realpath(p)}/", "").replace(f"{p}/", "").replace(str(p), ".")
    return re.sub(r"process \d+", "process N", text)


def message(said):
    "The lines that tell what happened, without those of normal progress."
    kept = ([line for line in said.splitlines() if re.match(r"(micacl|skipped|note): |.*FAILED|.*runs failed", line)]
            or said.strip().splitlines()[-1:])
    return [line if len(line) < 600 else f"{line[:400]} ... {line[-150:]}" for line in kept[:4]]


def try_out(s, root):
    "One fault -> what happened, and what of it was not expected."
    room, wrong = Room(root, f"{s.group} {s.name}"), []
    before = None
    try:
        before = room.outside()
        s.run(room)
    except AssertionError as e: wrong.append(str(e) or f"an assertion in line {e.__traceback__.tb_next.tb_lineno}")
    o = room.outcome
    if o is None or not hasattr(o, "status"):
        return dict(group=s.group, name=s.name, what=s.what, wrong=[*wrong, "nothing was run"])
    said = clean(o.said, room)
    after = {k: v for k, v in room.outside().items() if not k.startswith("says-")}
    wrong += judge(s, o, said, before, after)
    shutil.rmtree(room.around, ignore_errors=True)
    return dict(group=s.group, name=s.name, what=s.what, command=f"micacl {shlex.join(shlex.split(o.argv))}"[:160],
                status=o.status, message=message(said), lost=s.lost,
                seconds=round(o.seconds, 1), memory_mb=round(max(o.memory, 0)), outside_changed=before != after,
                wrong=wrong)


def judge(s, o, said, before, after):
    "What of an outcome was not expected."
    wrong = []
    if o.status not in (s.status if isinstance(s.status, tuple) else (s.status,)):
        wrong.append(f"status {o.status}, expected {s.status}: {said[-500:]}")
    wrong += [f"{w!r} is not said: {said[-500:]}" for w in s.says if w not in said]
    if "Traceback" in said: wrong.append(f"a traceback: {said[-1500:]}")
    if o.seconds > s.seconds: wrong.append(f"{o.seconds:.1f} s, expected at most {s.seconds}")
    if o.memory > s.memory: wrong.append(f"{o.memory:.0f} MB, expected at most {s.memory}")
    if before != after:
        wrong.append(f"files outside the folder changed: "
                     f"{sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))}")
    return wrong


def prepare(root):
    "What all faults share."
    from kills import Ground
    ground = Ground(root)
    pid = os.fork()
    if not pid: os._exit(0)
    empty = os.wait4(pid, 0)[2].ru_maxrss / 1024
    run = Path(root) / "finished"
    if os.waitpid(start(f"{TRAIN.replace('--out run', f'--out {run}')}", ground.root, ground.root / "setup.txt",
                        no_report), 0)[1]:
        sys.exit((ground.root / "setup.txt").read_text())
    (run / ".lock").unlink(missing_ok=True)
    Room.shared = SimpleNamespace(data=ground.data, reference=ground.reference, memory=empty, run=run)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="results as JSON")
    p.add_argument("--quick", action="store_true", help="leave out the long ones")
    p.add_argument("--only", default="", help="faults whose group or name contains this word")
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from common import commit, machine
    from kills import load
    load()
    begin, here, results = time.time(), commit(), []
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        prepare(root)
        for s in SCENARIOS:
            if a.only not in f"{s.group}: {s.name}" or (a.quick and s.long): continue
            results.append(r := try_out(s, root))
            print(f"{'WRONG' if r['wrong'] else 'ok   '} {r['group']}: {r['name']}: {r.get('status')}, "
                  f"{r.get('seconds')} s, {r.get('memory_mb')} MB, {r.get('message')}", flush=True)
            for w in r["wrong"]: print(f"      {w}", flush=True)
    report = dict(command="python benchmarks/faults.py", commit=here, machine=machine(),
                  seconds=round(time.time() - begin), n=len(results), as_expected=sum(not r["wrong"] for r in results),
                  faults=results)
    if a.out:
        from micacl.core import write_json
        write_json(a.out, report)
    print(f"{report['as_expected']} of {report['n']} as expected")
    return report["as_expected"] < report["n"]


if __name__ == "__main__": sys.exit(main())
