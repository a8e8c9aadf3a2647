"""What do models that were trained on drawn faces say about a real one? A demonstration, not a measurement: one video,
one face.

    python benchmarks/predict_real.py results/predict-real.json --video VIDEO --acted sad:0:10 happy:10:19.7 \\
        --run MICACL=RUN --run "with balanced softmax"=RUN

`--acted` is what a person sees in the video, label:from:to in seconds. Only scores are kept, no picture of the video;
--plots FOLDER draws the timelines, to be looked at. The runs: `micacl demo` (its folder demo/micacl), and on the same
clips
    micacl train demo/synfew --out RUN --epochs 8 --loss balanced_softmax --label-smoothing 0 --lr 0.003 \\
        --backbone-lr 0.3333
"""
import argparse
import dataclasses
from pathlib import Path

from common import commit, machine

KEEP = ("model", "loss", "mccl_weight", "label_smoothing", "epochs", "lr", "backbone_lr", "seed")


def about_run(run):
    from micacl.core import read_json
    info, results = read_json(Path(run) / "config.json"), read_json(Path(run) / "results.json")
    test = results["tests"].get("test_balanced") or results["tests"]["test"]
    return dict(config={k: info["config"][k] for k in KEEP}, dataset=info["dataset"], n_train=info["n_train"],
                n_test=test["n_test"], uar=test["uar"], intervals=test["intervals"]["uar"])


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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="JSON file to write")
    p.add_argument("--video", type=Path, required=True)
    p.add_argument("--acted", nargs="+", required=True, metavar="LABEL:FROM:TO")
    p.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER")
    p.add_argument("--plots", type=Path, help="folder for pictures")
    args = p.parse_args()
    from micacl.core import write_json
    from micacl.deploy.predict import predict_video
    from micacl.deploy.prediction import save_plot
    acted, runs, said = [(label, float(a), float(b)) for label, a, b in (x.split(":") for x in args.acted)], {}, []
    for i, item in enumerate(args.run):
        name, folder = item.split("=", 1)
        said.append(f'--run "{name}"=RUN')
        q = dataclasses.replace(predict_video(folder, args.video), video="video")
        runs[name] = dict(about_run(folder), **about_video(q, acted))
        if args.plots: args.plots.mkdir(exist_ok=True); save_plot(q, args.plots / f"{i}.png")
        print(name, [(round(a, 1), round(b, 1), label, round(m, 2) if m else m) for a, b, label,
                     m in runs[name]["timeline"]], runs[name]["by_label"])
    write_json(args.out, dict(command=" ".join(["python benchmarks/predict_real.py results/predict-real.json --video "
                                                "VIDEO --acted", *args.acted, *said]), commit=commit(),
                                                machine=machine(),
                              acted=acted, seconds=q.duration, frames=q.n_frames, runs=runs))


if __name__ == "__main__": main()
