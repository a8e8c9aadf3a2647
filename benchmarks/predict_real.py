"""What do models that were trained on drawn faces say about a real one? A demonstration, not a measurement: one video,
one face.

    python benchmarks/predict_real.py results/predict-real.json --video VIDEO --acted sad:0:10 happy:10:19.7 \\
        --run drawn=drawn --run MICACL=RUN --run "with balanced softmax"=RUN --fer FER/bin/python

`--acted` is what a person sees in the video, label:from:to in seconds. Only scores are kept, no picture of the video;
--plots FOLDER draws the timelines, to be looked at. The runs: `drawn`, which comes with the package; `micacl demo` (its
folder demo/micacl), and on the same clips
    micacl train demo/synfew --out RUN --epochs 8 --loss balanced_softmax --label-smoothing 0 --lr 0.003 \\
        --backbone-lr 0.3333
--fer: an environment with the package of that name (`fer_scores.py` says how to make one). It gets the frames that the
first run took, looks for faces itself, and a window says what its frames say on average.
"""
import argparse
import dataclasses
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from common import commit, machine

KEEP = ("model", "backbone", "loss", "mccl_weight", "label_smoothing", "epochs", "lr", "backbone_lr", "seed")
SCRIPT = Path(__file__).with_name("fer_scores.py")


def about_run(run):
    "What a run folder, or a model of the package, says of itself."
    from micacl.core import read_json
    from micacl.nn.cards import measured_text
    from micacl.nn.hub import packaged
    info = read_json(Path(packaged(run) or run) / "config.json")
    training = info.get("training") or info
    tests = (info.get("results") or read_json(Path(run) / "results.json"))["tests"]
    name = "test_balanced" if "test_balanced" in tests else next(iter(tests))
    test = tests[name]
    return dict(config={k: training["config"][k] for k in KEEP if k in training["config"]},
                dataset=training["dataset"], n_train=training["n_train"], n_test=test["n_test"], uar=test["uar"],
                intervals=test["intervals"]["uar"], measured=measured_text(info) if "format" in info else None)


def about_video(p, acted):
    """Windows and timeline; in how many of the windows that lie inside an acted stretch the first label is the
    acted one."""
    from micacl.deploy.prediction import timeline
    windows = [dict(start=a, stop=b, label=label, faces=share,
                    probabilities=None if label is None else dict(zip(p.classes, q)),
                    weights=None if label is None else w)
               for (a, b), label, share, q, w in zip(p.spans, p.labels, p.faces, p.probabilities, p.weights)]
    clear = [(w["label"], want) for w in windows for want, a,
             b in acted if a <= w["start"] and w["stop"] <= b and w["label"] is not None]
    return dict(timeline=timeline(p), clear=len(clear), agree=sum(x == y for x, y in clear),
                by_label={want: [sum(x == y == want for x, y in clear), sum(y == want for _, y in clear)] for want,
                          *_ in acted},
                notes=p.notes, note=p.caveat, windows=windows)


def fer_of(python, pictures, faces):
    "Scores (n,7) in the order of EMOTIONS of pictures (n,H,W,3), not-a-number without a face; the version of `fer`."
    from micacl.core import EMOTIONS
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "pictures.npz", Path(folder) / "scores.npz"
        np.savez(source, pictures=np.stack(pictures), faces=faces)
        subprocess.run([str(python), "-W", "ignore", str(SCRIPT), str(source), str(out)], check=True,
                       capture_output=True, env={"PATH": "", "HOME": folder})
        found = np.load(out)
        names = found["names"].tolist()
        return found["scores"][:, [names.index(e) for e in EMOTIONS]], str(found["version"])


def fer_prediction(python, video, p):
    "The windows and frames of a prediction, scored by `fer`."
    from micacl.core import EMOTIONS
    from micacl.deploy.tracking import stream_frames
    wanted = np.unique(p.times[np.isfinite(p.times)])
    pictures = {t: x for t, _, x in stream_frames(video) if np.isclose(wanted, t, atol=1e-4).any()}
    times = np.array(list(pictures))
    scores, version = fer_of(python, list(pictures.values()), False)
    nearest = lambda t: np.abs(times - t).argmin()
    each = np.stack([scores[[nearest(t) for t in row]] for row in p.times])                    # (n,T,7)
    found = np.isfinite(each[..., 0])
    mean = np.where(found[..., None], each, 0).sum(1) / np.maximum(found.sum(1), 1)[:, None]
    mean[2 * found.sum(1) < found.shape[1]] = np.nan                                           # as in `micacl predict`
    about = dict(run=None, dataset="FER2013", model="fer", window=p.about["window"], stride=p.about["stride"])
    alike = np.where(np.isnan(mean[:, :1]), np.nan, np.full_like(p.weights, 1 / p.weights.shape[1]))
    q = dataclasses.replace(p, classes=list(EMOTIONS), probabilities=mean, faces=found.mean(1), about=about, notes=[],
                            weights=alike)
    return q, dict(version=version, dataset="FER2013", about="the package fer, its network and its detector; the mean "
                                                             "over the frames that the first run took")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="JSON file to write")
    p.add_argument("--video", type=Path, required=True)
    p.add_argument("--acted", nargs="+", required=True, metavar="LABEL:FROM:TO")
    p.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER")
    p.add_argument("--fer", type=Path, metavar="PYTHON", help="of an environment with the package fer")
    p.add_argument("--plots", type=Path, help="folder for pictures")
    args = p.parse_args()
    from micacl.core import write_json
    from micacl.deploy.predict import predict_video
    from micacl.deploy.prediction import save_plot
    from micacl.nn.hub import packaged
    acted, runs, said, first = [(w, float(a), float(b)) for w, a, b in (x.split(":") for x in args.acted)], {}, [], None
    for i, item in enumerate(args.run):
        name, folder = item.split("=", 1)
        said.append(f'--run "{name}"={folder if packaged(folder) else "RUN"}')
        q = dataclasses.replace(predict_video(folder, args.video), video="video")
        first = first or q
        runs[name] = dict(about_run(folder), **about_video(q, acted))
        if args.plots: args.plots.mkdir(exist_ok=True); save_plot(q, args.plots / f"{i}.png")
    if args.fer:
        said.append("--fer FER/bin/python")
        q, about = fer_prediction(args.fer, args.video, first)
        runs["fer"] = dict(about, **about_video(q, acted))
    for name, r in runs.items():
        print(name, [(round(a, 1), round(b, 1), label, round(m, 2) if m else m) for a, b, label, m in r["timeline"]],
              r["by_label"])
    write_json(args.out, dict(command=" ".join(["python benchmarks/predict_real.py results/predict-real.json --video "
                                                "VIDEO --acted", *args.acted, *said]), commit=commit(),
                                                machine=machine(),
                              acted=acted, seconds=first.duration, frames=first.n_frames, runs=runs))


if __name__ == "__main__": main()
