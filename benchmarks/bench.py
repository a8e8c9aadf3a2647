"""Figures of the page on speed: a roofline, the loader, decoders, options of the computation, a plain implementation
beside ours, the loss, growth.

    python benchmarks/bench.py WORK                    # all parts -> results/bench-cpu.json (bench-cuda.json on a GPU)
    python benchmarks/bench.py WORK data loss          # some parts; the others in the file stay
    python benchmarks/bench.py WORK roofline --checkout OTHER    # one more row, of another checkout (before a change)

Each part runs in a process of its own and writes its command, commit, machine and rounds beside its rows. Times are
medians of interleaved rounds (`micacl.train.speed.alternate`), ratios are medians over the rounds with the smallest and
the largest. torchcodec is compared where it can be imported; it needs FFmpeg's libraries:
`pip install --no-deps --target FOLDER torchcodec` and PYTHONPATH=FOLDER are enough, the project itself does not use it.
Clips are drawn into WORK and used again.
"""
import argparse
import contextlib
import copy
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import ROOT, commit, machine

os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def config_of(preset, **changes):
    from micacl.train.config import PRESETS
    return dataclasses.replace(PRESETS[preset](), **changes)


def paper_batch():
    import torch
    return 64 if torch.cuda.is_available() else 2


def bench_of(work, config, n_clips=None):
    from micacl.train.speed import Workbench
    return Workbench(config, work / f"faces-{config.image_size}-{n_clips or 2 * config.batch_size}", n_clips)


def device_name():
    import torch
    return "cuda" if torch.cuda.is_available() else "cpu"


# ---- where a step's time goes, under which ceiling

def roofline(work, rounds):
    from micacl.train.speed import ceiling, parts
    rows = []
    for config, n in ((config_of("small"), rounds), (config_of("paper", batch_size=paper_batch()),
                                                     max(2, rounds // 2))):
        desk = bench_of(work, config)
        rows.append(parts(desk, ceiling(desk.device, desk.dtype, 2 * rounds), n))
    return dict(rows=rows)


# ---- a step before and after, in one run

def _one_by_one(video, draws, size):
    "The augmentation as one writes it first: clip by clip, operation by operation, with torchvision."
    import torch
    from torchvision.transforms.v2 import functional as V
    colours, done = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation), []
    for x, d in zip(video, draws.tolist()):
        top, left, height, width, mirrored = map(int, d[:5])
        x = V.resized_crop(x, top, left, height, width, [size, size], antialias=True).contiguous()
        if mirrored: x = V.horizontal_flip(x)
        for k in map(int, d[8:]): x = colours[k](x, d[5 + k])
        done.append(x)
    return torch.stack(done)


class _Ahead:
    """A loader of frames and draws as one of augmented clips: a thread of its own augments each batch while the network
    is busy with the one before."""
    def __init__(self, batches, size): self.batches, self.size = batches, size
    def __len__(self): return len(self.batches)
    def __iter__(self):
        import torch
        from concurrent.futures import ThreadPoolExecutor
        from micacl.data.augment import augment
        def of(x, y, i, d): return augment(x, d, self.size), y, i
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(1) as other:
            other.submit(torch.set_num_threads, 1).result()
            torch.set_num_threads(threads)      # for threads to come; that one keeps its own number
            coming = [other.submit(of, *b) for b in self.batches[:1]]
            for batch in self.batches[1:]:
                coming.append(other.submit(of, *batch))
                yield coming.pop(0).result()
            yield coming.pop().result()


def step(work, rounds, steps=6):
    """A step of training with the draws of its batch: what each change is worth, one after the other; and a change that
    was tried and not made, augmentation by a thread of its own."""
    import torch
    from micacl.train import loop
    from micacl.train.machine import choose_arithmetic, memory_kept
    from micacl.train.speed import alternate, ratio
    half, kept, rows = choose_arithmetic().precision, loop.augment, []
    def run(trainee, batches, size, augment, memory):      # augment None: ahead of the network
        loop.augment = augment
        try:
            with memory(): trainee.train(_Ahead(batches, size) if augment is None else batches)
        finally: loop.augment = kept
    for config in (config_of("small"), config_of("paper", batch_size=paper_batch())):
        desks = {p: bench_of(work, dataclasses.replace(config, mixed_precision=p)) for p in dict.fromkeys(("no", half))}
        trainees = {p: d.trainee() for p, d in desks.items()}
        desk = desks["no"]
        batches = [next(iter(desk.loader()))] * (steps if config.backbone == "r3d_small" else 1)
        plain = contextlib.nullcontext
        variants = {"32 bits, clip by clip": ("no", _one_by_one, plain),
                    "memory kept": ("no", _one_by_one, memory_kept),
                    "and augmented together": ("no", kept, memory_kept)}
        if half != "no": variants[f"and in {half}"] = (half, kept, memory_kept)
        if len(batches) > 1: variants["not made: one batch ahead"] = (half, None, memory_kept)
        for threads in dict.fromkeys((1, os.cpu_count() or 1)):
            torch.set_num_threads(threads)
            runs = {v: partial(run, trainees[p], batches, config.image_size, f, m)
                    for v, (p, f, m) in variants.items()}
            t = alternate(runs, rounds, desk.device)
            first = next(iter(t))
            rows.append(dict(backbone=config.backbone, batch_size=len(batches[0][1]), pixels=config.image_size,
                             threads=threads, steps=len(batches), seconds={v: float(sorted(x)[len(x) // 2])
                                                                           / len(batches) for v, x in t.items()},
                             times_as_fast={v: ratio(t, first, v) for v in t if v != first}))
    return dict(rows=rows, arithmetic=str(choose_arithmetic()),
                note="each change includes those before it, the one that was not made as well; seconds are of one step")


# ---- the loader

def data(work, rounds):
    from micacl.train.speed import loading
    return dict(rows=[dict(preset="small", batch_size=32, clips=128, workers=w,
                           ratios=loading(bench_of(work, config_of("small", workers=w), 128), rounds)) for w in (0, 2)])


# ---- decoders

PACKETS = "the look at the packets alone"       # what read_frames does before it decodes


def _decoders():
    "name -> function of path and indices -> (T,H,W,3) uint8."
    import numpy as np
    import torch
    from micacl.data.frames import read_frames
    def pyav(path, take, threads=None):      # None: as many as it likes
        import av
        with av.open(str(path)) as box:
            if threads: box.streams.video[0].thread_count = threads
            last, want, own = max(take), set(take), dict(threads=threads) if threads else {}
            found = {i: f.to_ndarray(format="rgb24", **own) for i,
                     f in zip(range(last + 1), box.decode(video=0)) if i in want}
        return torch.from_numpy(np.stack([found[i] for i in take]))
    found = {"read_frames": read_frames, "PyAV, its own threads": pyav, "PyAV, one thread": partial(pyav, threads=1)}
    if importlib.util.find_spec("decord"):
        import decord
        decord.logging.set_level(decord.logging.QUIET)
        found["decord"] = lambda path, take: torch.from_numpy(decord.VideoReader(str(path),
            num_threads=1).get_batch(take).asnumpy())
    if importlib.util.find_spec("torchcodec"):
        from torchcodec.decoders import VideoDecoder
        def torchcodec(path, take):
            return VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC",
                                seek_mode="approximate").get_frames_at(take).data
        def torchcodec_exact(path, take):
            return VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC").get_frames_at(take).data
        found |= {"torchcodec, approximate": torchcodec, "torchcodec, exact": torchcodec_exact}
    return found


def decoders(work, rounds):
    from micacl.train.speed import alternate, ratio
    from micacl.data.load import load_table
    from micacl.data.frames import _probe, count_frames, read_frames
    from micacl.data.synfew.generate import generate
    from micacl.data.bags import frame_indices
    rows, found = [], _decoders()
    for size, frames in ((64, 24), (224, 64)):
        generate(work / f"videos-{size}", n_train=16, n_test=0, n_frames=frames, size=size, progress=False)
        paths = [c.path for c in load_table(work / f"videos-{size}")]
        for name, choose in (("16 frames", lambda n: frame_indices(n).tolist()),
                             ("all frames", lambda n: list(range(n)))):
            takes = [choose(count_frames(p)) for p in paths]
            same = {d: all((f(p, t) == read_frames(p, t)).all().item() for p, t in zip(paths, takes)) for d,
                    f in found.items()}
            def all_by(f, pairs=tuple(zip(paths, takes))): return [f(p, t) for p, t in pairs]
            t = alternate({**{d: partial(all_by, f) for d, f in found.items()},
                           PACKETS: partial(all_by, lambda p, t: _probe(p))}, rounds)
            rows.append(dict(pixels=size, frames=frames, read=name, clips=len(paths), same_pixels=same,
                             milliseconds={d: 1000 * float(sorted(x)[len(x) // 2]) / len(paths) for d, x in t.items()},
                             to_read_frames={d: ratio(t, d, "read_frames") for d in t}))
    return dict(rows=rows)


# ---- memory over very many clips

KINDS = ("empty", "text", "half a file", "holes in the pictures", "nothing there", "a folder without pictures",
         "a picture that says it is a video", "no picture track")


def _broken(folder, good):
    "A broken file of each kind."
    data = bytearray(good.read_bytes())
    where = {kind: folder / f"{i}.mp4" for i, kind in enumerate(KINDS)}
    where["empty"].write_bytes(b""); where["text"].write_text("no video " * 1000)
    where["half a file"].write_bytes(data[:len(data) // 2])
    at = data.find(b"mdat")
    holes = bytearray(data)
    holes[at + 40:at + 40 + 600] = bytes(600)
    where["holes in the pictures"].write_bytes(holes)
    where["a folder without pictures"].mkdir(exist_ok=True)
    from PIL import Image
    Image.new("RGB", (64, 64)).save(where["a picture that says it is a video"], "PNG")
    import av
    import numpy as np
    with av.open(str(where["no picture track"]), "w") as box:
        sound = box.add_stream("aac", rate=16000, layout="mono")
        note = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono"); note.sample_rate = 16000
        box.mux(sound.encode(note)); box.mux(sound.encode(None))
    return [where[k] for k in KINDS]


@contextlib.contextmanager
def _silenced():
    "decord says each failed open on the error output, past Python."
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try: yield
    finally: os.dup2(kept, 2); os.close(kept); os.close(nowhere)


def memory20k(work, rounds, n=20_000):
    "One process reads very many clips, three good ones and then a broken one, again and again."
    import psutil
    import numpy as np
    from micacl.data import frames
    from micacl.data.load import load_table
    from micacl.data.synfew.generate import generate
    generate(work / "videos-64", n_train=16, n_test=0, n_frames=24, size=64, progress=False)
    good = [c.path for c in load_table(work / "videos-64")]
    with tempfile.TemporaryDirectory() as folder:
        broken = _broken(Path(folder), good[0])
        names, me, rows, said = {str(p): k for p, k in zip(broken, KINDS)}, psutil.Process(), [], {k: None
            for k in KINDS}
        for i in range(n):
            if i % (n // 20) == 0: rows.append(dict(clips=i, rss=me.memory_info().rss))
            path = broken[(i // 4) % len(broken)] if i % 4 == 3 else good[i % len(good)]
            try: frames.read_frames(path)
            except frames.ClipError as e:
                said[names[str(path)]] = str(e).partition("found ")[2].partition(";")[0].replace(str(path), "FILE")
        rows.append(dict(clips=n, rss=me.memory_info().rss))
        alone = None
        if importlib.util.find_spec("decord"):        # what decord, which is not used, does at failed opens
            import decord
            tries, before = 5000, me.memory_info().rss
            with _silenced():
                for _ in range(tries):
                    try: decord.VideoReader(str(broken[1]), num_threads=1)
                    except Exception: pass
            alone = (me.memory_info().rss - before) / tries
    half = rows[len(rows) // 2:]
    slope = float(np.polyfit([r["clips"] for r in half], [r["rss"] for r in half], 1)[0])
    return dict(clips=n, broken_share=0.25, kinds=said, rows=rows, bytes_per_clip_second_half=slope,
                decord_alone_bytes_per_failed_open=alone)


# ---- options of the computation

def _variants(name):
    """name -> (network, how its input is laid out, autocast dtype, is compiled); all of them start from the same
    weights."""
    import torch
    from micacl.nn.backbone import _ChannelsLast, build_backbone
    torch.manual_seed(0)
    net, last = build_backbone(name), torch.channels_last_3d
    off = copy.deepcopy(net)
    if name == "r3d_small": off.net[0] = torch.nn.Identity()
    on = copy.deepcopy(net) if name == "r3d_small" else copy.deepcopy(net).to(memory_format=last)
    assert name != "r3d_small" or isinstance(net.net[0], _ChannelsLast)
    return {"channels first": (off, torch.contiguous_format, None, False), "channels last": (on, last, None, False),
            "as shipped": (copy.deepcopy(net), torch.contiguous_format, None, False),
            "as shipped, clips in another order": (copy.deepcopy(net), torch.contiguous_format, None, False),
            "bf16": (copy.deepcopy(net), torch.contiguous_format, torch.bfloat16, False),
            "compiled": (copy.deepcopy(net), torch.contiguous_format, None, True)}


def compute(work, rounds):
    "The same training steps with one option changed; all start from the same weights and see the same batch."
    import torch
    from micacl.train.speed import _wait
    device, rows = device_name(), []
    for name, M, S in (("r3d_small", 64, 64), ("r3d_18", 2, 64) if device == "cpu" else ("r3d_18", 256, 112)):
        dice = torch.Generator().manual_seed(0)
        x, y, order = torch.rand(M, 3, 4, S, S, generator=dice).to(device), torch.randint(7, (M,),
            generator=dice).to(device), torch.randperm(M, generator=dice).to(device)
        state, out = {}, {}
        for variant, (net, layout, half, compiled) in _variants(name).items():
            torch.manual_seed(1)
            whole = torch.nn.Sequential(net, torch.nn.Linear(net.dim, 7)).to(device).train()
            run = torch.compile(whole) if compiled else whole
            perm = order if "order" in variant else slice(None)
            state[variant] = dict(run=run, x=x[perm].contiguous(memory_format=layout), y=y[perm], half=half, perm=perm,
                                  optimizer=torch.optim.AdamW(whole.parameters(), lr=1e-3), seconds=[])

        def step(s):
            _wait(device); start = time.perf_counter()
            with torch.autocast(device, s["half"], enabled=s["half"] is not None): logits = s["run"](s["x"])
            loss = torch.nn.functional.cross_entropy(logits.float(), s["y"])
            loss.backward(); s["optimizer"].step(); s["optimizer"].zero_grad()
            _wait(device); s["seconds"].append(time.perf_counter() - start)
            s["loss"], s["logits"] = loss.item(), logits.detach().float()
            if isinstance(s["perm"], torch.Tensor):
                s["logits"] = torch.empty_like(s["logits"]).index_copy_(0, s["perm"], s["logits"])

        for k in range(rounds + 1):      # the first is not timed; what is very slow is not repeated
            for s in state.values():
                if (k < 1 or s["half"] is None or device == "cuda"
                        or s["seconds"][0] < 20 * state["as shipped"]["seconds"][0]):
                    step(s)
        mine = state["as shipped"]
        for variant, s in state.items():
            n = len(s["seconds"])
            pairs = [a / b for a, b in zip(s["seconds"], mine["seconds"])][min(1, n - 1):]
            out[variant] = dict(steps=n, ratio=sorted(pairs)[len(pairs) // 2], low=min(pairs), high=max(pairs),
                                first=s["seconds"][0], loss=s["loss"],
                                loss_difference=abs(s["loss"] - mine["loss"]) if n == len(mine["seconds"]) else None,
                                logit_difference=(s["logits"] - mine["logits"]).abs().max().item()
                                if n == len(mine["seconds"]) else None)
        rows.append(dict(backbone=name, instances=M, pixels=S, largest_logit=mine["logits"].abs().max().item(),
                         variants=out))
    return dict(rows=rows, note="first: seconds of the first step, compilation included; differences are those after "
                                "all steps, none where a variant was too slow to repeat")


# ---- a plain implementation beside ours

def baseline(work, rounds):
    device = device_name()
    halves = ("no", "fp16", "bf16") if device == "cuda" else ("no", "bf16")
    rows = []
    for name in halves:
        # see the part `compute`: a smaller batch, fewer pixels, no repetition
        slow = device == "cpu" and name != "no"
        desk = bench_of(work, config_of("paper", batch_size=1 if slow else paper_batch(), mixed_precision=name,
                                        image_size=32 if slow else 112))
        rows.append(baseline_row(desk, 1 if slow else rounds))
    return dict(rows=rows)


def baseline_row(desk, rounds):
    "A step of the plain M3DFEL, of ours and of MICACL in turn, on the same batch, in the arithmetic of the workbench."
    import torch
    from micacl.train.speed import alternate, ratio
    from plain_m3dfel import PlainM3DFEL, PlainTraining
    c, device = desk.config, desk.device.type
    batch = next(iter(desk.loader()))[:3]            # without draws: frames are not augmented here
    about = dict(mixed_precision=c.mixed_precision, batch_size=len(batch[1]), pixels=c.image_size)
    video = batch[0] / 255
    half = dict(fp16=torch.float16, bf16=torch.bfloat16).get(c.mixed_precision)
    plain = PlainTraining(PlainM3DFEL(), device, half)
    ready = (video - video.new_tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)) / video.new_tensor([0.22803,
        0.22145, 0.216989]).view(3, 1, 1)
    try: plain.step(ready, batch[1])
    except RuntimeError as e:                        # PyTorch's LSTM in bf16, on a CPU without it
        return dict(about, plain_fails=" ".join(str(e).split())[:120])
    ours = {m: desk.trainee(model=m, mccl_weight=30.0 if m == "micacl" else 0.0) for m in ("m3dfel", "micacl")}
    t = alternate({"plain M3DFEL": partial(plain.step, ready, batch[1]),
                   **{m: partial(x.train, [batch]) for m, x in ours.items()}}, rounds, device)
    return dict(about, seconds={k: float(sorted(v)[len(v) // 2]) for k, v in t.items()},
                ratios={f"{m} : plain M3DFEL": ratio(t, m, "plain M3DFEL") for m in ours})


# ---- the contrastive loss

SUPCON = "SupCon of pytorch-metric-learning"


def same_loss(B, device, temperature=0.1, dim=128, alone=False):
    """MCCL set up to be SupCon, and SupCon as pytorch-metric-learning computes it: name -> function, which gives
    value and gradient. Without that library {}, or MCCL `alone`."""
    there = importlib.util.find_spec("pytorch_metric_learning") is not None
    if not there and not alone: return {}
    import torch
    from micacl.mccl import MCCL
    dice = torch.Generator().manual_seed(0)
    x, y = torch.randn(B, dim, generator=dice).to(device).requires_grad_(), torch.randint(7, (B,),
        generator=dice).to(device)
    one = MCCL([1] * 7, dim, scales=(1,), tau0=temperature, out_dim=None, class_weight="none", temperature="fixed",
               centres=False).to(device)
    def learn(loss): value = loss(x, y); return value.detach(), torch.autograd.grad(value, x)[0]
    found = {"MCCL": lambda: learn(one)}
    if there:
        from pytorch_metric_learning.losses import SupConLoss
        found[SUPCON] = lambda: learn(SupConLoss(temperature))
    return found


def loss_row(B, device, rounds):
    "Time and memory of the losses at one batch size; the ratios and differences need pytorch-metric-learning."
    import torch
    from micacl.train.speed import alternate, peak_bytes, ratio
    from micacl.mccl import MCCL
    work = same_loss(B, device, alone=True)
    dice = torch.Generator().manual_seed(0)
    x, y, own = torch.randn(B, 256, generator=dice).to(device).requires_grad_(), torch.randint(7, (B,),
        generator=dice).to(device), MCCL([1] * 7, 256).to(device)
    def full(): return torch.autograd.grad(own(x, y), [x, *own.parameters()])
    work["MCCL as it is by default (three scales, projections, centres)"] = full
    t = alternate(work, rounds, device)
    peak = {k: peak_bytes(f, device) for k, f in work.items()}
    row = dict(batch_size=B, seconds={k: float(sorted(s)[len(s) // 2]) for k, s in t.items()}, bytes=peak)
    if SUPCON not in work: return row
    (v, dv), (w, dw) = work["MCCL"](), work[SUPCON]()
    return dict(row, time={k: ratio(t, k, SUPCON) for k in work if k != SUPCON},
                memory={k: peak[k] / peak[SUPCON] for k in work if k != SUPCON},
                value_difference=abs(v - w).item(), gradient_difference=((dv - dw).abs().max() / dw.abs().max()).item())


def loss(work, rounds, sizes=(256, 1024, 4096)):
    if importlib.util.find_spec("pytorch_metric_learning") is None: sys.exit("loss: needs pytorch-metric-learning")
    return dict(rows=[loss_row(B, device_name(), rounds) for B in sizes],
                note="bytes: the most that PyTorch's allocator had handed out at once during value and "
                     "gradient; gradient_difference: largest, as a share of the largest gradient")


# ---- growth

def _exponent(xs, ys):
    import numpy as np
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def growth(work, rounds):
    """Seconds against one quantity after the other, on the small preset, and the slope of the line in double
    logarithmic axes."""
    from micacl.train.speed import alternate, pieces
    desk, rows = bench_of(work, config_of("small", batch_size=16), 128), []

    def add(what, xs, functions):
        xs = list(xs)
        t = alternate(dict(zip(map(str, xs), functions)), rounds, desk.device)
        ys = [float(sorted(t[str(x)])[len(t[str(x)]) // 2]) for x in xs]
        rows.append(dict(cost=what[0], against=what[1], x=xs, seconds=ys, exponent=_exponent(xs, ys)))

    from micacl.train.loaders import make_loader
    trainee, loaders = desk.trainee(), {n: desk.accelerator.prepare(make_loader(desk.table[:n], desk.config, True,
        desk.cache)) for n in (16, 32, 64, 128)}
    add(("an epoch", "clips"), loaders, [lambda x=x: trainee.train(x) for x in loaders.values()])
    for what, sizes in (("instance_length", (2, 4, 8, 16)), ("n_instances", (2, 4, 8, 16)),
                        ("batch_size", (4, 8, 16, 32, 64))):
        steps, heads = [], []
        for n in sizes:
            config = dataclasses.replace(desk.config, **{what: n})
            other = copy.copy(desk); other.config = config
            batch, own = next(iter(other.loader())), other.trainee()
            steps.append(lambda own=own, batch=batch: own.train([batch]))
            p = pieces(other, other.trainee())
            heads.append(lambda p=p: [p[k]() for k in ("GEIIM", "WIAN", "tail")])
        against = dict(instance_length="frames of an instance", n_instances="instances", batch_size="batch size")[what]
        add(("a step", against), sizes, steps)
        if what != "instance_length": add(("GEIIM, WIAN and tail", against), sizes, heads)
    sizes = (512, 1024, 2048, 4096)
    made = [same_loss(B, desk.device) for B in sizes]
    if all(made):
        for name in made[0]: add((name, "batch size of the loss"), sizes, [m[name] for m in made])
    return dict(rows=rows)


PARTS = dict(step=step, roofline=roofline, data=data, decoders=decoders, memory20k=memory20k, compute=compute,
             baseline=baseline,
             loss=loss, growth=growth)


KIND = ("processor", "instructions", "gpu")      # machines that agree in these share an entry of the file


def use_library(folder):
    """Import `micacl` from another checkout, which may be older than the stop-watch here; that module is always the
    one of this checkout."""
    sys.path.insert(0, str(folder))
    import micacl
    if Path(micacl.__file__).parent != folder / "micacl" or not (folder / "micacl" / "train").is_dir():
        sys.exit(f"{folder}: expected a checkout with micacl/train in it")
    spec = importlib.util.spec_from_file_location("micacl.train.speed", ROOT / "micacl" / "train" / "speed.py")
    sys.modules["micacl.train.speed"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def measure(part, args):
    "Run one part here and put its figures into the file."
    if args.checkout: use_library(args.checkout.resolve())
    from micacl.core import read_json, write_json
    from micacl.train.machine import memory_kept
    started = time.time()
    with contextlib.nullcontext() if part in ("step", "memory20k") else memory_kept():     # as in training
        found = PARTS[part](args.work, args.rounds)
    command = (f"python benchmarks/bench.py WORK {part} --rounds {args.rounds}"
               + (" --checkout OTHER" if args.checkout else ""))
    about = dict(command=command, machine=machine(),
                 commit=commit(args.checkout, ["micacl"]) if args.checkout else commit(), rounds=args.rounds,
                 seconds=round(time.time() - started))
    mine = {k: about["machine"][k] for k in KIND}
    there = read_json(args.out)["machines"] if args.out.exists() else []
    entry = next((m for m in there if {k: m[k] for k in KIND} == mine), None) or dict(mine, parts={})
    parts = entry["parts"]
    if part == "roofline":      # a row a commit: before and after
        parts[part] = ([m for m in parts.get(part, [])
                        if m["commit"].removesuffix("+changes") != about["commit"].removesuffix("+changes")]
                       + [dict(about, **found)])
        parts[part].sort(key=lambda m: not m["command"].endswith("OTHER"))
    else: parts[part] = dict(about, **found)
    entry["parts"] = {k: parts[k] for k in PARTS if k in parts}
    write_json(args.out, dict(machines=[*(m for m in there if {k: m[k] for k in KIND} != mine), entry]))
    print(f"{part}: {about['seconds']} s", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path, help="folder for clips that are drawn")
    p.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    p.add_argument("--rounds", type=int, default=5, help="how often each thing is timed")
    p.add_argument("--checkout", type=Path, help="measure the library in this checkout of the project")
    p.add_argument("--out", type=Path, help="JSON file (default: results/bench-cpu.json or bench-cuda.json)")
    args = p.parse_args()
    if wrong := set(args.parts) - set(PARTS): p.error(f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    args.out = args.out or ROOT / "results" / f"bench-{device_name()}.json"
    args.work.mkdir(parents=True, exist_ok=True)
    if len(args.parts) == 1: return measure(args.parts[0], args)
    for part in args.parts or PARTS:      # a process each: memory and threads of one do not disturb the next
        again = [sys.executable, __file__, args.work, part, "--rounds", args.rounds, "--out", args.out,
                 *(["--checkout", args.checkout] if args.checkout else [])]
        if subprocess.run([str(w) for w in again], check=False).returncode: sys.exit(f"{part} failed")


if __name__ == "__main__": main()
