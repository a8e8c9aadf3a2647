"""What does it cost to score a video? Seconds for each minute of it, and memory, which must not grow with its length.

    # drawn faces that move, at 720p and 360p; 1, 5 and 20 minutes; about 30 minutes on two quiet cores
    python benchmarks/predict_cost.py results/predict-cost.json
    python benchmarks/predict_cost.py cost.json --minutes 1 3 --video VIDEO             # a video of your own, repeated

Each measurement is a fresh process: it loads the model, notes its memory, scores one video, and notes its highest
memory. The model is MICACL on r3d_small as in `micacl demo`, untrained: what the weights are makes no difference to
the cost. The shortest video is scored by a plain loop too (plain_predict.py), in turn with the library, `--rounds`
times; where the time goes is measured on it as well. Every row is written as soon as it is there; the same command goes
on with those that are missing. To measure anew, remove the file first.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, commit, machine

SECONDS, FPS, SIZES = 20, 25, {720: 1280, 360: 640}      # of the drawn piece that is repeated; width by height

PROBE = '''
import json, os, resource, sys, time
import av, av.video.reformatter, numpy as np, torch
sys.path.insert(0, sys.argv[1])
video, method, search, threads, answers = *sys.argv[2:4], sys.argv[4] == "search", int(sys.argv[5]), sys.argv[6]
torch.set_num_threads(threads); torch.manual_seed(0)
from micacl.train.config import Config
from micacl.train.objective import build_model
from micacl.deploy import predict as P, tracking as T
from micacl.data import frames as F
config = Config()
model = build_model(config, 7).eval()
run = model, config, dict(classes=list("abcdefg"), dataset="synfew", epoch=0)
if method == "plain": from plain_predict import plain_predict
elif search: T.dlib_detector()
spent, options = {}, {}
def timed(name, do):
    def wrapped(*a, **k):
        start = time.perf_counter()
        try: return do(*a, **k)
        finally: spent[name] = spent.get(name, 0) + time.perf_counter() - start
    return wrapped
def timed_steps(name, generator):
    def wrapped(*a):
        step = timed(name, iter(generator(*a)).__next__)
        while True:
            try: x = step()
            except StopIteration: return
            yield x
    return wrapped
if method == "batch": options["batch"] = 16
if method == "parts":
    F.VideoReader.__iter__ = timed_steps("decode", F.VideoReader.__iter__)
    F.VideoReader.rgb = timed("colours and scaling", F.VideoReader.rgb)
    options["detect"] = timed("detector", T.find_faces)
    P.cut_face, P.fit_picture = timed("crops", P.cut_face), timed("crops", P.fit_picture)
    P._score = timed("model", P._score)
def peak():
    try:
        with open("/proc/self/status") as f: return next(int(x.split()[1]) for x in f if x.startswith("VmHWM")) / 1024
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
try:
    with open("/proc/self/clear_refs", "w") as f: f.write("5")       # Linux: the highest memory is what it is now
except OSError: pass
before, start, cpu = peak(), time.perf_counter(), time.process_time()
if method == "plain": spans, p = plain_predict(model, video, search)
else:
    q = P.predict_video(run, video, crop=search, **options); spans, p = q.spans, q.probabilities
seconds, cpu, highest = time.perf_counter() - start, time.process_time() - cpu, peak()
np.savez(answers, spans=spans, p=p)
print(json.dumps(dict(seconds=seconds, cpu_seconds=cpu, start_mib=before, peak_mib=highest,
                      duration=float(spans[-1, 1]), windows=len(p), with_face=int(np.isfinite(p[:, 0]).sum()),
                      spent=spent, load=os.getloadavg()[0])))
'''


def draw_piece(path, height):
    "Drawn clips, one after the other, pasted on a wall and moving about."
    import av
    import numpy as np
    from micacl.data.bags import read_frames
    from micacl.data.load import load_table
    from micacl.deploy.tracking import crop_face
    clips, frames, k, width = load_table(ROOT / "data" / "synfew-mini"), [], height // 360, SIZES[height]
    for clip in clips:
        frames += list(read_frames(clip.path).numpy())
        if len(frames) >= SECONDS * FPS: break
    with av.open(str(path), "w") as box:
        v = box.add_stream("libx264", rate=FPS, width=width, height=height, pix_fmt="yuv420p",
                           options={"preset": "veryfast", "bf": "0"})
        wall = np.random.default_rng(0).integers(90, 130, (360, 640, 3), dtype=np.uint8).repeat(k, 0).repeat(k, 1)
        n = 180 * k
        for i in range(SECONDS * FPS):
            x, f = k * (220 + round(120 * math.sin(i / 90))), frames[i % len(frames)]
            picture = wall.copy()
            picture[90 * k:90 * k + n, x:x + n] = crop_face(f, (f.shape[1] / 2, f.shape[0] / 2, f.shape[0]), n, 1, 0)
            box.mux(v.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        box.mux(v.encode(None))
    return path


def repeat(piece, path, seconds):
    "The packets of a video again and again, without decoding them, until it lasts `seconds`."
    import av
    with av.open(str(path), "w") as out:
        to, shift = None, 0
        while True:
            with av.open(str(piece)) as box:
                v = box.streams.video[0]
                to, base = to or out.add_stream_from_template(v), v.time_base
                end = 0
                for packet in box.demux(v):
                    if packet.dts is None: continue
                    if (shift + packet.dts) * base >= seconds: return path
                    end = max(end, packet.dts + (packet.duration or 0))
                    packet.pts += shift; packet.dts += shift; packet.stream = to
                    out.mux(packet)
                shift += end


def measure(video, key, folder):
    "One row: a method on a video in a fresh process; its answers stay in `folder` for the comparison."
    answers = folder / f"{key['method']}.npz"
    probe = subprocess.run([sys.executable, "-c", PROBE, str(Path(__file__).parent), str(video), key["method"],
                            "search" if key["crop"] else "ready", str(key["threads"]), str(answers)],
                           env=dict(os.environ, OMP_NUM_THREADS=str(key["threads"])), capture_output=True, text=True)
    if probe.returncode: sys.exit(probe.stderr)
    r = json.loads(probe.stdout)
    row = dict(key, seconds_per_minute=round(60 * r["seconds"] / r["duration"], 2),
               cpu_seconds_per_minute=round(60 * r["cpu_seconds"] / r["duration"], 2),
               real_time_factor=round(r["duration"] / r["seconds"], 1),
               mib_above_start=round(r["peak_mib"] - r["start_mib"], 1), peak_mib=round(r["peak_mib"], 1),
               load=round(r["load"], 1), **{k: r[k] for k in ("windows", "with_face")})
    if r["spent"]: row["shares"] = {k: round(v / r["seconds"], 4) for k, v in r["spent"].items()}
    if key["method"] == "plain": row["answers"] = compare(answers, folder / "ours.npz")
    return row


def other_looks(piece):
    """What a cheaper look would find: the detector on pictures of half the size, and on grey ones, against that of the
    library, for the faces as they are and half as large. CPU milliseconds, share of the faces found, pixels to the box
    of the library where both find one."""
    import time
    import numpy as np
    from PIL import Image
    from micacl.deploy.tracking import dlib_detector, stream_frames
    def half(x): return np.asarray(Image.fromarray(x).resize((x.shape[1] // 2, x.shape[0] // 2), Image.Resampling.BOX))
    def on_wall(x): y = np.full_like(x, 110); y[90:270, 160:480] = half(x); return y
    ways = {"as it is": (lambda x: x, 1), "half the size": (half, 2), "grey": (lambda x: x.mean(2).astype(np.uint8), 1)}
    pictures, out = [x for *_, x in stream_frames(piece)][:360:6], []
    for faces, some in (("as they are", pictures), ("half as large", [on_wall(x) for x in pictures])):
        truth = [list(dlib_detector()(x, 0)) for x in some]
        for name, (change, scale) in ways.items():
            changed, start = [change(x) for x in some], time.process_time()
            found = [list(dlib_detector()(x, 0)) for x in changed]
            ms = 1000 * (time.process_time() - start) / len(some)
            far = [max(abs(scale * b.left() - a.left()), abs(scale * b.top() - a.top()))
                   for (a, *_), (b, *_) in ((t, f) for t, f in zip(truth, found) if t and f)]
            out.append(dict(faces=faces, picture=name, ms=round(ms, 1), pixels_off=max(far, default=None),
                            found=round(float(np.mean([len(x) > 0 for x in found])), 3)))
    return out


def compare(plain, ours):
    "How far the answers of the plain loop are from ours."
    import numpy as np
    a, b = np.load(plain), np.load(ours)
    if a["spans"].shape != b["spans"].shape or not np.allclose(a["spans"], b["spans"], atol=1e-3):
        return dict(same_windows=False)
    p, q = a["p"], b["p"]
    known = np.isfinite(p[:, 0]) & np.isfinite(q[:, 0])
    return dict(same_windows=bool((np.isfinite(p[:, 0]) == np.isfinite(q[:, 0])).all()),
                labels_agree=float((p[known].argmax(1) == q[known].argmax(1)).mean()) if known.any() else None,
                largest_difference=float(np.abs(p[known] - q[known]).max()) if known.any() else None)


def ratios(rows):
    "Seconds of the plain loop over ours, round by round: median, least and most."
    out = []
    def ratio(at, k):
        ours, plain = ({r["round"]: r[k] for r in rows if r["method"] == m and at.items() <= r.items()}
                       for m in ("ours", "plain"))
        return [plain[i] / ours[i] for i in sorted(plain.keys() & ours.keys())]
    for r in (r for r in rows if r["method"] == "plain" and r["round"] == 0):
        at = {k: r[k] for k in ("height", "minutes", "crop", "threads")}
        wall, cpu = ratio(at, "seconds_per_minute"), ratio(at, "cpu_seconds_per_minute")
        out.append(dict(at, rounds=len(wall), ratio=round(statistics.median(wall), 2), least=round(min(wall), 2),
                        most=round(max(wall), 2), cpu_ratio=round(statistics.median(cpu), 2),
                        cpu_least=round(min(cpu), 2), cpu_most=round(max(cpu), 2)))
    return out


def plan(args):
    "What is measured, most important first: keys of the rows."
    heights, short = [None] if args.video else list(SIZES), min(args.minutes)
    for height in heights:
        for i in range(args.rounds):
            for crop in (True, False):
                for threads in args.threads:
                    yield from (dict(method=m, height=height, minutes=short, crop=crop, threads=threads, round=i)
                                for m in ("ours", "plain", *["batch"] * (not crop and threads == 1)))
        for crop in (True, False):
            yield dict(method="parts", height=height, minutes=short, crop=crop, threads=1, round=0)
    for minutes in sorted(args.minutes)[1:]:
        yield from (dict(method="ours", height=h, minutes=minutes, crop=c, threads=t, round=0)
                    for h in heights for c in (True, False) for t in args.threads)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="JSON file to write")
    p.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--rounds", type=int, default=3, help="of the comparison with the plain loop")
    p.add_argument("--video", type=Path, help="a video to repeat instead of the drawn one")
    args = p.parse_args()
    from micacl.core import read_json, write_json
    source = "a video given with --video, repeated" if args.video else (
        f"drawn faces on a wall, {' and '.join(f'{w}x{h}' for h, w in SIZES.items())}, {FPS} frames a second, "
        f"{SECONDS} s repeated")
    command = ("python benchmarks/predict_cost.py results/predict-cost.json --minutes "
               + " ".join(f"{m:g}" for m in args.minutes) + " --threads " + " ".join(map(str, args.threads))
               + f" --rounds {args.rounds}" + (" --video VIDEO" if args.video else ""))
    about = dict(command=command, commit=commit(), machine=machine(), model="micacl, r3d_small", source=source)
    old = read_json(args.out) if args.out.exists() else {}
    rows = old.get("rows", [])
    names = ("method", "height", "minutes", "crop", "threads", "round")
    done = {tuple(r[k] for k in names) for r in rows}
    with tempfile.TemporaryDirectory() as folder:
        folder, videos = Path(folder), {}
        looks = old.get("looks") or other_looks(draw_piece(folder / "looks.mp4", 360))
        for key in plan(args):
            if tuple(key[k] for k in names) in done: continue
            at = (key["height"], key["minutes"])
            if at not in videos:
                piece = args.video or folder / f"{at[0]}.mp4"
                if not piece.exists(): draw_piece(piece, at[0])
                videos[at] = repeat(piece, folder / f"{at[0]}-{at[1]:g}.mp4", 60 * at[1])
            if key["method"] == "plain" and not (folder / "ours.npz").exists():
                measure(videos[at], dict(key, method="ours"), folder)      # answers to compare with, after a restart
            rows.append(measure(videos[at], key, folder))
            print(rows[-1], flush=True)
            write_json(args.out, dict(about, busy=busy(rows), plain_over_ours=ratios(rows), looks=looks, rows=rows))


def busy(rows):
    "Whether the machine had other work: the load while measuring was above what the measurement asks for."
    most = max(r["load"] for r in rows)
    return most > max(r["threads"] for r in rows) + 1.5 and (f"the machine had other work (load up to {most}): wall "
                                                             "seconds are too long, measure again when it is quiet")


if __name__ == "__main__": main()
