"""What does it cost to score a video? Seconds for each minute of it, and memory, which must not grow with its length.

    # a drawn face that moves; 1, 5 and 20 minutes
    python benchmarks/predict_cost.py results/predict-cost.json
    python benchmarks/predict_cost.py cost.json --minutes 1 3 --video VIDEO             # a video of your own, repeated

Each measurement is a fresh process on one core: it loads the model, notes its memory, scores one video, and notes its
highest memory. The model is MICACL on r3d_small as in `micacl demo`, untrained: what the weights are makes no
difference to the cost. Every row is written as soon as it is there; the same command goes on with those that are
missing.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, commit, machine

SECONDS, FPS, WIDTH, HEIGHT = 20, 25, 640, 360      # of the drawn piece that is repeated

PROBE = '''
import json, resource, sys, time
import torch; torch.set_num_threads(1)
from micacl.train.config import Config
from micacl.train.objective import build_model
from micacl.deploy.predict import predict_video
config = Config()
run = build_model(config, 7).eval(), config, dict(classes=list("abcdefg"), dataset="synfew", epoch=0)
crop = sys.argv[2] == "crop"
if crop: from micacl.deploy.tracking import dlib_detector; dlib_detector()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
before, start, cpu = peak(), time.perf_counter(), time.process_time()
p = predict_video(run, sys.argv[1], crop=crop)
print(json.dumps(dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu,
                      start_mib=before, peak_mib=peak(), frames=p.n_frames, duration=p.duration, windows=len(p.spans),
                      with_face=sum(x is not None for x in p.labels))))
'''


def draw_piece(path):
    "Drawn clips, one after the other, pasted on a wall and moving about."
    import av
    import numpy as np
    from micacl.data.load import load_table
    from micacl.deploy.tracking import crop_face
    from micacl.data.bags import read_frames
    clips, frames = load_table(ROOT / "data" / "synfew-mini"), []
    for clip in clips:
        frames += list(read_frames(clip.path).numpy())
        if len(frames) >= SECONDS * FPS: break
    with av.open(str(path), "w") as box:
        v = box.add_stream("libx264", rate=FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p",
                           options={"preset": "veryfast", "bf": "0"})
        wall = np.random.default_rng(0).integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for i in range(SECONDS * FPS):
            x, f = 220 + round(120 * math.sin(i / 90)), frames[i % len(frames)]
            picture = wall.copy()
            picture[90:270, x:x + 180] = crop_face(f, (f.shape[1] / 2, f.shape[0] / 2, f.shape[0]), 180, 1, 0)
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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="JSON file to write")
    p.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    p.add_argument("--video", type=Path, help="a video to repeat instead of the drawn one")
    args = p.parse_args()
    from micacl.core import read_json, write_json
    source = ("a video given with --video, repeated" if args.video else f"drawn faces on a wall, {WIDTH}x{HEIGHT}, "
              f"{FPS} frames a second, {SECONDS} s repeated")
    about = dict(command="python benchmarks/predict_cost.py results/predict-cost.json --minutes "
                 + " ".join(f"{m:g}" for m in args.minutes) + (" --video VIDEO" if args.video else ""),
                 commit=commit(), machine=machine(), threads=1, model="micacl, r3d_small", source=source)
    rows = read_json(args.out)["rows"] if args.out.exists() else []
    done = {(r["minutes"], r["crop"]) for r in rows}
    with tempfile.TemporaryDirectory() as folder:
        piece = args.video or draw_piece(Path(folder) / "piece.mp4")
        for minutes, crop in [(m, c) for c in (False, True) for m in args.minutes if (m, c) not in done]:
            video = repeat(piece, Path(folder) / "video.mp4", 60 * minutes)
            probe = subprocess.run([sys.executable, "-c", PROBE, str(video), "crop" if crop else "ready"],
                                   env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True)
            if probe.returncode: sys.exit(probe.stderr)
            r = json.loads(probe.stdout)
            rows.append(dict(minutes=minutes, crop=crop, seconds_per_minute=round(60 * r["seconds"] / r["duration"], 2),
                             cpu_seconds_per_minute=round(60 * r["cpu_seconds"] / r["duration"], 2),
                             mib_above_start=round(r["peak_mib"] - r["start_mib"], 1), peak_mib=round(r["peak_mib"], 1),
                             **{k: r[k] for k in ("frames", "windows", "with_face")}))
            print(rows[-1], flush=True)
            write_json(args.out, dict(about, rows=sorted(rows, key=lambda r: (not r["crop"], r["minutes"]))))


if __name__ == "__main__": main()
