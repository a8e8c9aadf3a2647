"""Training runs that a GPU is to be busy with: clips in its memory, what happens to them worked out before, several
runs at once. Used by `gpu.py`.

A step of `r3d_small` is 2 to 3 ms of arithmetic and several hundred kernels that one core has to launch, so one run
leaves the GPU idle most of the time. Runs side by side fill it only if each does nothing but launch: all frames of the
set lie in the GPU's memory (`Resident`), and the frames and draws of each epoch, the same for all methods of a seed,
are computed once, by other cores, into files. The batches are those of `make_loader`, bit for bit (a test).
"""
import contextlib
import dataclasses
import gc
import math
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np

from common import ROOT

# our name -> the method of results/bakeoff.json whose settings and learning rate it has
METHODS = {"MICACL": "MICACL", "GEIIM + WIAN": "GEIIM + WIAN", "M3DFEL": "M3DFEL", "gated attention": "cross entropy",
           "mean pooling": "mean pooling", "MICACL + balanced softmax": "MICACL + balanced softmax",
           "GEIIM + WIAN + balanced softmax": "GEIIM + WIAN + balanced softmax",
           "M3DFEL + balanced softmax": "M3DFEL + balanced softmax",
           "gated attention + balanced softmax": "balanced softmax",
           "mean pooling + balanced softmax": "mean pooling + balanced softmax"}
CHOSEN = "results/bakeoff.json"


@dataclasses.dataclass(frozen=True)
class Study:
    "What is trained on what. The settings of a method come from the committed results, these from here."
    part: str                # name of the part and of its folder
    data: str                # folder of SynFEW, in the work folder
    synfew: tuple            # arguments of `generate`, ((name, value), ...)
    settings: tuple          # of `Config`, for all methods, ((name, value), ...)
    seeds: int = 5           # 1, 2, ...
    methods: int = len(METHODS)              # the first of METHODS
    at_once: tuple = (1,)    # numbers of runs side by side that are tried
    steps: int = 40          # timed of each
    chosen_rates: bool = True                # learning rates of CHOSEN; False: those in `settings`

    def fields(self, method) -> dict:
        "Settings of a method by name."
        from micacl.core import read_json
        d = read_json(ROOT / CHOSEN)
        there, base = METHODS[method], {k: v for k, v in d["spec"]["base"].items() if k != "epochs"}
        rates = dict(d["methods"][there]["chosen"])
        # the backbone's own rate is 0.001 for all, as in results/bakeoff-end-to-end.json
        rates["backbone_lr"] = round(0.001 / rates["lr"], 4)
        found = {**base, **d["spec"]["methods"][there], **(rates if self.chosen_rates else {}), **dict(self.settings)}
        if not self.chosen_rates and found["mccl_weight"]: found["mccl_weight"] = 30.0       # of the preset `paper`
        return found

    def config(self, method, seed):
        from micacl.train.config import Config
        return Config(**self.fields(method), seed=seed)

    def jobs(self) -> list:
        "(method, seed): all methods with the first seed, then all with the second."
        return [(m, s) for s in range(1, self.seeds + 1) for m in list(METHODS)[:self.methods]]


def name_of(method, seed): return f"{method}, seed {seed}"
def stem_of(method, seed): return "".join(c if c.isalnum() else "-" for c in name_of(method, seed).lower())


# ---- processes

@contextlib.contextmanager
def _environment(**values):
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try: yield
    finally:
        for k, v in before.items(): os.environ.pop(k) if v is None else os.environ.update({k: v})


ENDED = "the process ended early"


class Worker:
    "A process that does one job after the other. It can be ended at any moment, and ends with this one."
    def __init__(self, threads=1):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.idle = True
        with _environment(OMP_NUM_THREADS=str(threads)):
            self.process = context.Process(target=_serve, args=(theirs,))
            self.process.start()
        theirs.close()

    def send(self, job, *args):
        "Begin a job, a function of a module."
        self.idle = False
        with contextlib.suppress(OSError): self.pipe.send((job, args))      # it has died: `receive` says so

    def receive(self, until):   # a time -> (result, None) or (None, error); None if it is not done by then
        "What came out of it."
        if not self.pipe.poll(max(0.0, until - time.time())): return None
        self.idle = True
        try: return self.pipe.recv()
        except (EOFError, OSError): return None, ENDED

    def end(self):
        "One that waits for a job goes by itself; one that is busy is killed."
        self.pipe.close()
        self.process.join(0.5 if self.idle else 0)
        if self.process.is_alive(): self.process.kill()
        self.process.join()


def _serve(pipe):
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # Ctrl-C is for the first process, which ends this one
    from micacl.data.synfew.generate import end_with_parent
    end_with_parent()
    with contextlib.suppress(EOFError, OSError):          # nobody listens any more
        while True:
            job, args = pipe.recv()
            try: answer = job(*args), None
            except Exception as e: answer = None, error_line(e)
            pipe.send(answer)


def error_line(e): return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


# ---- data: drawn, decoded, and what happens to each clip in each epoch

def draw_data(work, study, processes, seeds):
    "Draw the set, decode it, and plan the epochs of the first seeds; all goes on where it was."
    if hasattr(os, "nice"): os.nice(10)
    from micacl.data.synfew.generate import generate, side_by_side
    from micacl.train.run import read_clips
    config, folder = study.config("MICACL", 1), Path(work) / study.data
    generate(folder, **dict(study.synfew), size=config.image_size, workers=processes, progress=False)
    read_clips(folder, folder, config, quiet=True)
    tasks = [(work, study, seed, epoch) for seed in seeds for epoch in range(config.epochs)]
    for _ in side_by_side(_plan_epoch, tasks, processes, 1): pass


class WhichFrames:
    "Stands in for a frame cache; each frame holds its number, so a clip of it says which frames were taken."
    def __init__(self, cache): self.n_frames, self.readable, self.size = cache.n_frames, cache.readable, cache.size
    def frames(self, clip):
        n = self.n_frames(clip)
        return np.broadcast_to(np.arange(n, dtype=np.int16)[:, None, None, None], (n, self.size, self.size, 1))


def plan(table, config, train, cache, epoch=0) -> tuple:   # -> which frames (n,T) int16, draws (n,11) or None
    "What `ClipDataset` does with each clip of a table, without the pictures."
    import torch
    from micacl.data.bags import ClipDataset
    clips = ClipDataset(table, config, train, WhichFrames(cache), draws=train)
    clips.set_epoch(epoch)
    items = [clips[i] for i in range(len(clips))]
    return torch.stack([x[:, 0, 0, 0] for x, *_ in items]), torch.stack([i[3] for i in items]) if train else None


def _plan_file(work, study, config, epoch):
    from micacl.core import derive_seed
    c = config
    key = derive_seed("plan", c.n_instances, c.instance_length, c.image_size, str(c.augment), str(study.synfew))
    return Path(work) / "plans" / f"{key:016x}-{c.seed}-{epoch}.npz"


def _plan_epoch(task):
    "The plan of all training clips in one epoch, made if it is not there -> (ids, frames, draws)."
    work, study, seed, epoch = task
    from micacl.core import atomic_write
    config = study.config("MICACL", seed)
    if not (file := _plan_file(work, study, config, epoch)).exists():
        table, cache = clips_of(work, study)
        table = table.select(split="train")
        frames, draws = plan(table, config, True, cache, epoch)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, "wb") as f:
            np.savez(f, ids=np.array([c.id for c in table]), frames=frames.numpy(), draws=draws.numpy())
    with np.load(file, allow_pickle=False) as z: return z["ids"], z["frames"], z["draws"]


_open = {}       # in this process: (work, study) -> table and cache, or what lies in the GPU's memory


def clips_of(work, study):
    "(ClipTable, FrameCache)"
    if (key := ("clips", str(work), study)) not in _open:
        from micacl.train.run import read_clips
        folder = Path(work) / study.data
        _open[key] = read_clips(folder, folder, study.config("MICACL", 1), quiet=True)[:2]
    return _open[key]


# ---- the whole set in the memory of the device

class Resident:
    "All frames of a set on the device; `loader` stands in for `make_loader`."
    def __init__(self, work, study, device):
        import torch
        self.work, self.study, self.device = work, study, device
        table, cache = clips_of(work, study)
        n = [cache.n_frames(c.id) for c in table]
        self.first = dict(zip((c.id for c in table), np.cumsum([0, *n]).tolist()))
        self.frames = torch.empty(sum(n), cache.size, cache.size, 3, dtype=torch.uint8, device=device)
        for c, k in zip(table, n):
            at = self.first[c.id]
            self.frames[at:at + k].copy_(torch.tensor(cache.frames(c.id)))

    def plan(self, table, config, train, cache, epoch):
        if not train: return plan(table, config, False, cache)
        import torch
        ids, frames, draws = _plan_epoch((self.work, self.study, config.seed, epoch))
        place = {name: i for i, name in enumerate(ids.tolist())}
        rows = [place[c.id] for c in table]
        return torch.from_numpy(frames[rows]), torch.from_numpy(draws[rows])

    def loader(self, table, config, train=False, cache=None, features=None, sampler=None):
        return ResidentLoader(self, table, config, train, cache)


class ResidentLoader:
    "The batches that `make_loader` gives, gathered on the device."
    def __init__(self, resident, table, config, train, cache):
        import torch
        from micacl.longtail.samplers import EpochOrder
        self.resident, self.table, self.config, self.train, self.cache = resident, table, config, train, cache
        labels, self.epoch, self.kept = [c.label for c in table], 0, None
        self.order = EpochOrder(labels, config.seed, config.sampler, config.epochs)
        self.labels = torch.tensor(labels, device=resident.device)
        self.first = torch.tensor([resident.first[c.id] for c in table], device=resident.device)

    def set_epoch(self, epoch): self.epoch = epoch; self.order.set_epoch(epoch)

    def __len__(self):
        n, B = len(self.table), self.config.batch_size
        return n // B if self.train and n > B else math.ceil(n / B)

    def __iter__(self):
        import torch
        on, B, resident = self.resident.device, self.config.batch_size, self.resident
        if self.train or self.kept is None:
            frames, draws = resident.plan(self.table, self.config, self.train, self.cache, self.epoch)
            self.kept = (self.first[:, None] + frames.to(on)).contiguous(), None if draws is None else draws.to(on)
        frames, draws = self.kept
        order = torch.tensor(list(self.order) if self.train else range(len(self.table)), device=on)
        for k in range(len(self)):
            i = order[k * B:(k + 1) * B]
            # as they lie in the cache, channels last
            video = resident.frames[frames[i]].permute(0, 1, 4, 2, 3)
            yield [video, self.labels[i], i, *([draws[i]] if self.train else [])]


# ---- jobs of the workers

def load(work, study, device):
    "Bring the set into the device's memory, and make `train` read it from there."
    from micacl.train import evaluation, loop
    _open["resident"] = resident = Resident(work, study, device)
    for module in (loop, evaluation): module.make_loader = resident.loader


def time_steps(work, study, steps):   # -> seconds a step
    "MICACL's steps, of which there are the most kernels; each call after one that is not timed."
    from micacl.train.evaluation import make_accelerator
    from micacl.train.speed import Trainee, _wait
    config = study.config("MICACL", 1)
    table, cache = clips_of(work, study)
    table = table.select(split="train")
    if (key := ("trainee", study)) not in _open:
        _open[key] = Trainee(dataclasses.replace(config, pretrained=False), table.counts, make_accelerator(config))
    def epoch(n): _open[key].train(_open["resident"].loader(table[:n * config.batch_size], config, True, cache))
    steps = max(1, min(steps, len(table) // config.batch_size))
    epoch(min(5, steps))
    _wait(_open["resident"].device)
    start = time.perf_counter()
    epoch(steps)
    _wait(_open["resident"].device)
    return (time.perf_counter() - start) / steps


def run(work, study, method, seed, stop):   # -> the record of the run; None if it was stopped between two epochs
    "Train and test once, or go on; the record goes into a file. No epoch is begun that may not end before `stop`."
    from micacl.core import read_json, write_json
    from micacl.train.loop import Interrupted, train
    from micacl.train.run import read_history
    home, config = Path(work) / study.part, study.config(method, seed)
    file, folder = home / "runs" / f"{stem_of(method, seed)}.json", home / "unfinished" / stem_of(method, seed)
    def look(record):
        if record["epoch"] < config.epochs and time.time() + 1.1 * record["seconds"] > stop:
            raise Interrupted(f"{method}, seed {seed}: no time for another epoch")
    for d in (file.parent, folder): d.mkdir(parents=True, exist_ok=True)
    gc.collect()                                         # what the run before has left
    try: results = train(home.parent / study.data, folder, config, resume=True, quiet=True, on_epoch=look)
    except Interrupted: return None
    history, info = read_history(folder), read_json(folder / "config.json")
    keep = ("n_test", "uar", "war", "recall", "confusion", "instance_auc")
    record = dict(name=name_of(method, seed), method=method, seed=seed, epochs=config.epochs, n_train=info["n_train"],
                  seconds=round(sum(h["seconds"] for h in history), 1), val_uar=history[-1]["val_uar"],
                  loss=history[-1]["loss"],
                  tests={n: {k: t[k] for k in keep if k in t} for n, t in results["tests"].items()})
    write_json(file, record)
    shutil.rmtree(folder)
    return record


# ---- how many at once, and who does what

def runs_that_end(seconds, study, steps_an_epoch, left, n_jobs) -> dict:   # {runs at once: seconds a step} -> counts
    "How many runs end in the time that is left, for each number of runs at once; a run also reads, tests and writes."
    total = study.config("MICACL", 1).epochs * steps_an_epoch
    return {n: min(n_jobs, n * int(left // (s * total + 10))) for n, s in seconds.items()}


def choose(seconds, counts) -> int:
    "The number that ends most runs; where several do, or none, the one whose runs are shortest."
    return max(seconds, key=lambda n: (counts[n], -seconds[n]))


def calibrate(team, work, study, steps_an_epoch, until, n_jobs, say):   # -> number at once, what was found
    "Time some steps with one process, with several, and say what follows."
    seconds = {}
    for n in study.at_once:
        if n > len(team) or (seconds and time.time() > until - 20): continue
        for w in team[:n]: w.send(time_steps, work, study, study.steps)
        answers = [w.receive(until) for w in team[:n]]
        errors = [a[1] if a else "no time left" for a in answers if not a or a[1]]
        if errors: say(f"{study.part}: {n} at once: {errors[0]}"); break
        seconds[n] = max(a[0] for a in answers)
    if not seconds: return None, {}
    counts = runs_that_end(seconds, study, steps_an_epoch, until - time.time(), n_jobs)
    n = choose(seconds, counts)
    for k, s in seconds.items():
        say(f"{study.part}: {k} at once: {1000 * s:.1f} ms a step of MICACL, {k / s:.0f} steps/s in all, "
            f"{counts[k]} runs would end in the {until - time.time():.0f} s that are left")
    say(f"{study.part}: {n} at once")
    return n, dict(seconds_a_step={str(k): s for k, s in seconds.items()}, chosen=n,
                   runs_that_would_end={str(k): c for k, c in counts.items()})


def do_jobs(team, jobs, start, until, finished, say):
    "Give each worker the next job until the time is over; `finished` is given each record. -> errors, a line each."
    errors, busy, waiting = [], {}, list(jobs)
    def give(w):
        if waiting and time.time() < until: busy[w.pipe] = w, waiting.pop(0); start(w, *busy[w.pipe][1])
    for w in team: give(w)
    while busy and time.time() < until:
        for pipe in multiprocessing.connection.wait(list(busy), max(0.0, until - time.time())):
            w, job = busy.pop(pipe)
            record, error = w.receive(time.time() + 5) or (None, "no answer")
            if error: errors.append(f"{name_of(*job)}: {error}"); say(f"FAILED: {errors[-1]}")
            elif record: finished(record)
            if record or error not in (None, ENDED): give(w)
    return errors


def summary(rows) -> dict:
    "UAR, WAR and balanced UAR of each method over its seeds; an interval (95 %, Student's t) from three seeds on."
    from scipy.stats import t
    found = {}
    for method in METHODS:
        mine = [r for r in rows if r["method"] == method]
        if not mine: continue
        scores = {"UAR": ("test", "uar"), "WAR": ("test", "war"), "balanced UAR": ("test_balanced", "uar")}
        found[method] = dict(seeds=[r["seed"] for r in mine])
        for name, (test, score) in scores.items():
            v = np.array([r["tests"][test][score] for r in mine], dtype=float)
            spread = float(v.std(ddof=1)) if len(v) > 1 else None
            half = float(t.ppf(0.975, len(v) - 1)) * spread / math.sqrt(len(v)) if len(v) > 2 else None
            found[method][name] = dict(mean=float(v.mean()), sd=spread,
                                       interval=None if half is None else [v.mean() - half, v.mean() + half])
    return found


def study_runs(study, work, device, until, done, finished, say, processes):
    """Do what is missing of a study until the time is over. `done`: names of the runs that are there; `finished` is
    given each record and what was found by timing. -> errors."""
    jobs = [j for j in study.jobs() if name_of(*j) not in done]
    jobs.sort(key=lambda j: not (Path(work) / study.part / "unfinished" / stem_of(*j)).exists())
    config = study.config("MICACL", 1)
    n_train = dict(study.synfew)["n_train"]
    steps = max(1, int(n_train * (1 - config.val_fraction)) // config.batch_size)
    with contextlib.ExitStack() as stack:
        def hire(): w = Worker(); stack.callback(w.end); return w
        planner = hire()             # the epochs of later seeds, while the first are trained
        planner.send(draw_data, work, study, max(1, processes // 4), range(1, study.seeds + 1))
        team = [hire() for _ in range(min(max(study.at_once), len(jobs), processes))]
        for w in team: w.send(load, work, study, device)
        answers = [w.receive(until) for w in team]
        if bad := [a for a in answers if not a or a[1]]:
            return [bad[0][1] if bad[0] else "no time left when the clips had been loaded"]
        n, timing = calibrate(team, work, study, steps, until, len(jobs), say)
        if n is None: return ["no step could be timed"]
        return do_jobs(team[:n], jobs, lambda w, m, s: w.send(run, work, study, m, s, until - 5), until,
                       partial(finished, timing), say)
