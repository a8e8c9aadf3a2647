"""Ten minutes on one GPU, used whole: one command, a budget in seconds, the most important first.

    python benchmarks/gpu.py --plan                    # what would run, in which order, what is there already
    python benchmarks/gpu.py --budget 540              # -> gpu-PART.json in $OUT, or in results/ if that is not set
    python benchmarks/gpu.py --budget 540 synfew       # some parts only
    python benchmarks/gpu.py --device cpu --budget 60  # all of it in miniature, marked so, into a folder of its own

The same command goes on with what is missing: rows that are in the file, or in results/ of this checkout, are not
measured again, and a row that failed is tried again after all that are missing. Each row is written as it ends. Nothing
lasts longer than the budget: what is under way then is ended, and a training run goes on at the next call as long as
the work folder (--work) is still there; on a machine that starts bare it begins again.

Parts, in this order:
  step     a training step of MICACL on R3D-18 at 112 px in parts, against the measured ceiling: fp32, tf32, bf16,
           bf16 with torch.compile against without; clips a second and memory by batch size
  loader   training from the cache against batches in memory, clips decoded against cached; the share of `augment`
  loss     MCCL against pytorch-metric-learning's SupCon at 256 to 16,384; without that library MCCL alone
  m3dfel   our M3DFEL and MICACL against a plain M3DFEL, in fp32, fp16 and bf16
  synfew   SynFEW at DFEW's size (9,356 + 2 x 2,341 clips, drawn here while the first parts run), r3d_small end to end,
           30 epochs: ten methods, seed after seed, with the settings and learning rates of results/bakeoff.json
  r3d18    the same with R3D-18 at 112 px, batch 128, random weights, the learning rate of the preset `paper`

How much fits. The parts before synfew take about four minutes (estimates stand in the plan). A step of MICACL with
r3d_small launches about 1,250 kernels, M3DFEL 730, gated attention 430, mean pooling 360 (operators counted with
TorchDispatchMode, batch 32, augmentation included): at 6 to 8 microseconds each 2.5 to 10 ms, and 263 steps an epoch
make 20 to 80 s a run, 5 to 7 minutes for the ten methods of a seed in turn. The arithmetic of a step (27 GFLOP,
1.4 GB) is 1 to 2 ms, so runs side by side should gain two- to threefold: one seed in the five minutes that are left
of the first call, two or three in a call of its own. None of this has been measured on a GPU. The part begins with
a measurement: it times steps with 1, 5 and 10 runs at once, prints how many runs would end in the time that is left,
and takes the number that ends most. R3D-18 at 112 px takes about 120 GFLOP a clip, so 30 epochs are 30 PFLOP, 5
minutes a run at 100 TFLOP/s; drawing its clips takes two more.

Which wheels to carry. A Python 3.12 with torch, torchvision and what usually stands beside them (accelerate,
safetensors, scikit-learn, scipy, numpy, pillow, filelock, jinja2) lacks three packages, 34 MiB in all; tyro,
matplotlib and huggingface_hub are not needed here:

    pip download --python-version 3.12 --implementation cp --platform manylinux2014_x86_64 \\
        --platform manylinux_2_28_x86_64 --only-binary=:all: --no-deps -d wheels \\
        av 'fastprogress==1.0.3' pytorch-metric-learning
    python -m pip install --no-index --no-deps --target /tmp/site wheels/*.whl; export PYTHONPATH=/tmp/site

(fastprogress after 1.0 brings a web framework along. 14,038 clips of 64 px make 75 MB, more than 60 MiB: so they are
drawn there, 38 ms each on one core here.) Where there are torch and torchvision alone, `accelerate safetensors psutil
pyyaml packaging` in addition, 36 MiB in all, are enough for the parts step, loader, loss (MCCL alone) and m3dfel; the
rest needs scikit-learn and scipy as well (with joblib, threadpoolctl and tqdm, 80 MiB in all). The script says what
is missing before it begins. Nothing needs to be installed of this project. If the copy there has no .git, name the
commit: --commit $(git rev-parse --short HEAD).
"""
import argparse
import contextlib
import gc
import importlib.util
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

BEGIN = time.time()

from common import ROOT, commit, machine  # noqa: E402

sys.path.insert(0, str(ROOT))
from gpu_runs import Study, Worker, draw_data, name_of, study_runs, summary  # noqa: E402

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
PARTS = ("step", "loader", "loss", "m3dfel", "synfew", "r3d18")
NEEDS = dict(accelerate="accelerate", av="av", fastprogress="fastprogress", safetensors="safetensors",
             torchvision="torchvision")
RUNS_NEED = dict(sklearn="scikit-learn", scipy="scipy")      # parts 5 and 6


class Scale(NamedTuple):
    "How large everything is."
    device: str
    miniature: bool
    rounds: int
    pixels: int           # of R3D-18
    batch: int            # of R3D-18
    most: int             # largest batch that is tried
    clips: int            # that the loader reads
    workers: int          # of the loader
    sizes: tuple          # batch sizes of the loss
    compiler: str         # torch.compile's backend
    reserve: float        # seconds of the budget that nothing is planned into
    synfew: Study
    r3d18: Study


_R3D18 = (("backbone", "r3d_18"), ("pretrained", False), ("lr", 5e-4), ("backbone_lr", 1.0))

FULL = Scale("cuda", False, 5, 112, 64, 512, 512, 8, (256, 512, 1024, 2048, 4096, 8192, 16384), "inductor", 12,
             Study("synfew", "synfew-64", (("n_train", 9356), ("n_test", 2341), ("seed", 0)),
                   (("epochs", 30), ("mixed_precision", "no")), at_once=(1, 5, 10), steps=60),
             Study("r3d18", "synfew-112", (("n_train", 9356), ("n_test", 2341), ("seed", 0)),
                   (*_R3D18, ("image_size", 112), ("batch_size", 128), ("epochs", 30), ("warmup_epochs", 3.0),
                    ("mixed_precision", "bf16")), seeds=3, steps=10, chosen_rates=False))

TINY = Scale("cpu", True, 1, 32, 2, 2, 8, 0, (64, 128), "eager", 3,
             Study("synfew", "synfew-32", (("n_train", 28), ("n_test", 14), ("n_frames", 8), ("seed", 0)),
                   (("epochs", 2), ("image_size", 32), ("batch_size", 8), ("mixed_precision", "no")), seeds=3,
                   methods=3, at_once=(1, 2), steps=1),
             Study("r3d18", "synfew-tiny", (("n_train", 14), ("n_test", 7), ("n_frames", 8), ("seed", 0)),
                   (*_R3D18, ("image_size", 32), ("batch_size", 4), ("epochs", 1), ("mixed_precision", "no")),
                   seeds=1, methods=1, steps=1, chosen_rates=False))


# ---- parts 1 to 4: rows, each a function of (scale, work folder) that gives a dict

def desk_of(scale, work, preset, **changes):
    "A workbench with clips drawn for it; R3D-18 has the sizes of the scale."
    from bench import bench_of, config_of
    large = dict(image_size=scale.pixels, batch_size=scale.batch) if preset == "paper" else {}
    if scale.miniature and preset == "paper": large["backbone"] = "r3d_small"       # a twentieth of the work
    small = dict(image_size=32, batch_size=4) if scale.miniature and preset == "small" else {}
    n = changes.pop("clips", None)
    return bench_of(Path(work), config_of(preset, **{**large, **small, "workers": scale.workers, **changes}), n)


@contextlib.contextmanager
def matrix_units(tf32):
    "Whether fp32 products and convolutions may be computed in tf32; PyTorch's default is: convolutions only."
    import torch
    where = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [w.allow_tf32 for w in where]
    for w in where: w.allow_tf32 = tf32
    try: yield
    finally:
        for w, b in zip(where, before): w.allow_tf32 = b


def step(scale, work, arithmetic):
    "Where the time of a step goes, against the ceiling in the same arithmetic."
    from micacl.train.speed import ceiling, parts
    with matrix_units(arithmetic == "tf32"):
        desk = desk_of(scale, work, "paper", mixed_precision="bf16" if arithmetic == "bf16" else "no")
        found = parts(desk, ceiling(desk.device, desk.dtype, scale.rounds), scale.rounds)
    whole = found["step"]
    return dict(found, clips_per_second=found["batch_size"] / whole["seconds"],
                share_of_ceiling=whole["flops"] / whole["seconds"] / found["ceiling"]["flops"],
                times_fastest=whole["seconds"] / whole["fastest"])


def compiled(scale, work):
    "A step in bf16 with torch.compile and without, in turn, on the same batch."
    import torch
    from micacl.train.speed import _wait, alternate, ratio
    desk = desk_of(scale, work, "paper", mixed_precision="bf16", workers=0)
    batch, plain, other = next(iter(desk.loader())), desk.trainee(), desk.trainee()
    other.model = torch.compile(other.model, backend=scale.compiler)
    start = time.perf_counter()
    other.train([batch]); _wait(desk.device)
    first = time.perf_counter() - start
    t = alternate({"compiled": lambda: other.train([batch]), "as shipped": lambda: plain.train([batch])},
                  scale.rounds, desk.device)
    return dict(backend=scale.compiler, batch_size=len(batch[1]), first_step=first, seconds_a_step=medians(t),
                ratio=ratio(t, "compiled", "as shipped"))


def memory(scale, work, precision):
    """Clips a second and peak memory for 1, 2, 4, ... clips, until the memory is full. Without mixed precision:
    products in fp32, convolutions in tf32, as PyTorch does by itself."""
    from micacl.train.speed import batch_sizes
    desk = desk_of(scale, work, "paper", mixed_precision=precision, workers=0)
    return dict(mixed_precision=precision, pixels=scale.pixels,
                batch_sizes=batch_sizes(desk, min(2, scale.rounds), scale.most))


def medians(times): return {k: float(sorted(t)[len(t) // 2]) for k, t in times.items()}


def loading_row(scale, work, preset):
    "What clips cost that come from the cache or are decoded, and what the augmentation costs."
    from micacl.data.augment import augment
    from micacl.train.speed import alternate, loading, ratio
    desk = desk_of(scale, work, preset, mixed_precision="bf16" if preset == "paper" else "no", clips=scale.clips)
    found, trainee, c = loading(desk, max(1, scale.rounds - 2)), desk.trainee(), desk.config
    batches = list(desk.loader())
    video, *_, draws = batches[0]
    t = alternate(dict(augment=lambda: augment(video, draws, c.image_size), step=lambda: trainee.train(batches[:1])),
                  2 * scale.rounds, desk.device)
    found["the augmentation of a batch : its step"] = ratio(t, "augment", "step")
    return dict(preset=preset, pixels=c.image_size, batch_size=c.batch_size, clips=scale.clips, workers=c.workers,
                mixed_precision=c.mixed_precision, seconds_a_step=medians(t), ratios=found)


def loss_at(scale, work, size):
    from bench import SUPCON, loss_row
    row = loss_row(size, scale.device, scale.rounds)
    return row if SUPCON in row["seconds"] else dict(row, without="pytorch-metric-learning is not there: MCCL alone")


def m3dfel(scale, work, precision):
    from bench import baseline_row
    return baseline_row(desk_of(scale, work, "paper", mixed_precision=precision, workers=0, backbone="r3d_18"),
                        scale.rounds)


class Row(NamedTuple):
    part: str
    name: str
    seconds: float          # estimate; not begun if less is left
    work: object            # (scale, work folder) -> dict
    quiet: bool = False     # waits until no clips are drawn beside it
    limit: float = 60       # ended after as many seconds


def rows_of(scale) -> list:
    precisions = ("no",) if scale.miniature else ("no", "fp16", "bf16")
    rows = [*(Row("step", a, s, partial(step, arithmetic=a), limit=120)
              for a, s in (("fp32", 35), ("tf32", 12), ("bf16", 12))),
            Row("step", "bf16, compiled", 45, compiled, limit=90),
            Row("step", "memory in bf16", 15, partial(memory, precision="bf16")),
            Row("step", "memory in fp32 or tf32", 15, partial(memory, precision="no")),
            Row("loader", "r3d_small", 15, partial(loading_row, preset="small"), True),
            Row("loader", "r3d_18", 25, partial(loading_row, preset="paper"), True),
            *(Row("loss", str(n), 3, partial(loss_at, size=n)) for n in scale.sizes),
            *(Row("m3dfel", p, 8, partial(m3dfel, precision=p)) for p in precisions)]
    return [r._replace(seconds=2) for r in rows] if scale.miniature else rows


def measure(scale, work, name, part):   # in a worker
    "One row, by its name."
    import torch
    row, = (r for r in rows_of(scale) if (r.part, r.name) == (part, name))
    start = time.time()
    try: found = row.work(scale, work)
    finally:
        gc.collect()
        if torch.cuda.is_available(): torch.cuda.empty_cache()
    return dict(found, threads=torch.get_num_threads(), took=round(time.time() - start, 1))


# ---- files

class Files:
    "One JSON file a part; rows by name, written after each. `took`: seconds of a row, all in all."
    def __init__(self, out, scale, budget, commit, parts, work):
        self.out, self.scale, self.commit, self.work = Path(out), scale, commit, Path(work)
        self.command = " ".join(["python benchmarks/gpu.py", *(["--device cpu"] if scale.miniature else []),
                                 f"--budget {budget:g}", *parts])
        self.machine = None

    def path(self, part): return self.out / f"gpu-{part}.json"

    def read(self, part) -> dict:
        "What is there; what only results/ of this checkout has counts as well."
        from micacl.core import read_json
        places = [self.path(part)] + ([] if self.scale.miniature else [ROOT / "results" / f"gpu-{part}.json"])
        return next((read_json(p) for p in places if p.exists()), dict(rows=[]))

    def rows(self, part) -> dict: return {r["name"]: r for r in self.read(part)["rows"]}
    def done(self, part) -> set: return {n for n, r in self.rows(part).items() if "failed" not in r}

    def write(self, part, order, row, **more):
        "Put a row into the file of its part, whole or not at all."
        from micacl.core import write_json
        self.machine = self.machine or machine()
        before, mine = self.read(part), dict(commit=self.commit, machine=self.machine)
        rows = {r["name"]: r for r in before.pop("rows")}
        rows[row["name"]] = dict(row, **mine)
        rows = sorted(rows.values(), key=lambda r: order.index(r["name"]) if r["name"] in order else len(order))
        about = dict(command=self.command, **mine, seeds=[42], rounds=self.scale.rounds,
                     seconds=round(sum(r["took"] if "took" in r else r["seconds"] for r in rows), 1))
        if self.scale.miniature: about["miniature"] = True
        if all("method" in r for r in rows): more["summary"] = summary(rows)
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.path(part), {**before, **about, **more, "rows": rows})

    def plain(self, text):
        "Without the names of this machine's folders."
        for folder, name in ((self.work, "WORK"), (self.out, "OUT"), (ROOT, ".")):
            text = text.replace(str(folder.resolve()), name).replace(str(folder), name)
        return text


# ---- the budget

def say(line): print(f"{time.time() - BEGIN:6.1f} s  {line}", flush=True)


def missing_rows(scale, files, parts) -> list:
    "What is to be measured: first what is missing, then what failed."
    rows = [r for r in rows_of(scale) if r.part in parts]
    there = {p: files.rows(p) for p in {r.part for r in rows}}
    rows = [r for r in rows if "failed" in there[r.part].get(r.name, dict(failed=True))]
    return sorted(rows, key=lambda r: r.name in there[r.part])


def next_row(rows, left, drawing) -> Row | None:
    "The first that fits into the time that is left; while clips are drawn, one that may be disturbed."
    fits = [r for r in rows if r.seconds <= left]
    return next((r for r in fits if not (r.quiet and drawing)), fits[0] if fits else None)


def measure_rows(scale, files, work, rows, until, drawing, threads):
    "Parts 1 to 4 in a process of their own, which is ended if a row takes too long. `drawing`: () -> whether it lasts."
    worker, order = None, [r.name for r in rows_of(scale)]
    try:
        while row := next_row(rows, until - time.time(), drawing()):
            rows.remove(row)
            if row.quiet and drawing():        # nothing else is left to do meanwhile
                wait = min(until - row.seconds, time.time() + 60)
                while drawing() and time.time() < wait: time.sleep(0.2)
            beside, start = drawing(), time.time()
            worker = worker or Worker(threads)
            worker.send(measure, scale, work, row.name, row.part)
            limit = min(until, start + row.limit)
            answer = worker.receive(limit)
            took = round(time.time() - start, 1)
            if answer is None and time.time() >= until: say(f"{row.part} / {row.name}: cut by the budget"); break
            found, error = answer or (None, f"took longer than {limit - start:.0f} s")
            if answer is None or not worker.process.is_alive(): worker.end(); worker = None
            if error: found = dict(failed=files.plain(error), took=took)
            if beside: found["beside"] = "clips were drawn by other processes meanwhile"
            files.write(row.part, order, dict(name=row.name, **found))
            say(f"{row.part} / {row.name}: {'FAILED: ' + found['failed'] if error else f'{took:.0f} s'}")
    finally:
        if worker: worker.end()


def study_part(scale, files, work, study, until, processes):
    "Part 5 or 6."
    order = [name_of(*j) for j in study.jobs()]
    about = dict(seeds=list(range(1, study.seeds + 1)), synfew=dict(study.synfew), settings_from=study.chosen_rates
                 and "results/bakeoff.json, backbone_lr = 0.001 / lr" or "learning rates of the preset paper; the "
                 "rest from results/bakeoff.json; random weights, no Kinetics-400",
                 arithmetic="mixed_precision 'no': fp32, convolutions in tf32 where the device has it"
                 if dict(study.settings)["mixed_precision"] == "no" else dict(study.settings)["mixed_precision"],
                 settings={m: study.fields(m) for m in dict(study.jobs())})
    def finished(timing, record):
        known = files.read(study.part).get("timing", [])
        known = known if timing is None or timing in known else [*known, timing]
        files.write(study.part, order, record, timing=known, **about)
        scores = ", ".join(f"{n} UAR {t['uar']:.3f} WAR {t['war']:.3f}" for n, t in record["tests"].items())
        say(f"{study.part} / {record['name']}: {scores}, {record['seconds']:.0f} s")
    for record in finished_elsewhere(files, work, study): finished(None, record)
    for error in study_runs(study, work, scale.device, until, files.done(study.part), finished, say, processes):
        say(f"{study.part}: {files.plain(error)}")


def finished_elsewhere(files, work, study):
    "Records of runs that ended when nobody was there to put them into the file."
    from micacl.core import read_json
    there = files.done(study.part)
    found = [read_json(p) for p in sorted((Path(work) / study.part / "runs").glob("*.json"))]
    return [r for r in found if r["name"] not in there]


# ---- the command

def plan_lines(scale, files, parts):
    "What would run, in which order, and what is there."
    missing = [(r.part, r.name) for r in missing_rows(scale, files, parts)]
    for part in parts:
        for r in (r for r in rows_of(scale) if r.part == part):
            state = f"about {r.seconds:.0f} s" if (part, r.name) in missing else "there"
            yield f"{part:8}{r.name:24}{state}"
        if part in ("synfew", "r3d18"):
            study, done = getattr(scale, part), files.done(part)
            jobs, n = [name_of(*j) for j in study.jobs()], study.config("MICACL", 1).epochs
            following = [j for j in jobs if j not in done][:3]
            yield (f"{part:8}{len(jobs)} runs of {n} epoch{'s' * (n > 1)}, {sum(j in done for j in jobs)} there"
                   + (f", next: {'; '.join(following)} (how many fit is measured then)" if following else ""))


def left_over(scale, files, parts) -> list:
    "Names of what is missing, failed rows included."
    rows = [f"{r.part} / {r.name}" for r in missing_rows(scale, files, parts)]
    for part in (p for p in parts if p in ("synfew", "r3d18")):
        n = sum(name_of(*j) not in files.done(part) for j in getattr(scale, part).jobs())
        if n: rows.append(f"{part}: {n} runs")
    return rows


def spend(scale, files, work, parts, until):
    "All parts, as far as the time goes."
    cores = os.cpu_count() or 1
    processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores, cores)
    rows, studies = missing_rows(scale, files, parts), [getattr(scale, p) for p in ("synfew", "r3d18") if p in parts]
    studies = [s for s in studies if any(name_of(*j) not in files.done(s.part) for j in s.jobs())]
    with contextlib.ExitStack() as stack:
        pending, errors = {}, []
        def begin(study, processes):
            pending[study] = w = Worker()
            stack.callback(w.end)
            w.send(draw_data, work, study, processes, (1,))
        def drawing(until=0.0):
            for study, w in list(pending.items()):
                if (answer := w.receive(until)) is None: continue
                del pending[study]
                if answer[1]: errors.append(study); say(f"{study.part}: drawing FAILED: {files.plain(answer[1])}")
                else: say(f"{study.part}: clips are drawn and decoded")
            return bool(pending)
        if studies: begin(studies[0], max(1, processes - 4))      # the others measure
        measure_rows(scale, files, work, rows, until, drawing, max(1, min(4, processes // 4)))
        for i, study in enumerate(studies):
            if time.time() > until: break
            if i: begin(study, processes)
            if drawing(until): say(f"{study.part}: cut by the budget while its clips were drawn"); break
            if study not in errors: study_part(scale, files, work, study, until, processes)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    p.add_argument("--budget", type=float, default=540, help="seconds, from the start of the command (default: 540)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything in miniature")
    p.add_argument("--out", type=Path, help="folder for the files (default: $OUT, else results/ here)")
    p.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "micacl-gpu"),
                   help="folder for clips and unfinished runs (default: micacl-gpu in the temporary folder)")
    p.add_argument("--commit", help="of this copy, where git cannot tell")
    p.add_argument("--plan", action="store_true", help="print what would run, and end")
    args = p.parse_args(argv)
    if wrong := set(args.parts) - set(PARTS): p.error(f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    scale, parts = (FULL if args.device == "cuda" else TINY), [q for q in PARTS if q in (args.parts or PARTS)]
    needs = {**NEEDS, **(RUNS_NEED if {"synfew", "r3d18"} & set(parts) else {})}
    if lacking := [name for module, name in needs.items() if importlib.util.find_spec(module) is None]:
        sys.exit(f"gpu.py: expected {', '.join(lacking)}, found none; carry the wheels that its docstring names")
    out, work = args.out or Path(os.environ.get("OUT") or ROOT / "results"), args.work
    if scale.miniature:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # never among results
        work = work / "miniature"
        out = args.out / "miniature" if args.out else work / "files"
    files = Files(out, scale, args.budget, args.commit or known_commit(), args.parts, work)
    for line in plan_lines(scale, files, parts): print(line, flush=True)
    if args.plan: return
    if not scale.miniature and not has_gpu():
        sys.exit("gpu.py: expected a GPU that PyTorch can use, found none; --device cpu runs everything in miniature")
    work.mkdir(parents=True, exist_ok=True)
    try: spend(scale, files, str(work), parts, BEGIN + args.budget - scale.reserve)
    except KeyboardInterrupt: say("interrupted; the same command goes on")
    rest = left_over(scale, files, parts)
    say(f"{'left: ' + '; '.join(rest) if rest else 'nothing is left'}; files: "
        + ", ".join(files.path(q).name for q in parts if files.path(q).exists()))


def known_commit():
    try: return commit() or "unknown"
    except OSError: return "unknown"


def has_gpu():
    import torch
    return torch.cuda.is_available()


if __name__ == "__main__": main()
