"""What does MCCL do to the bag features, and why does the classifier not profit? Frozen backbone, five seeds, several
weights of the loss.

    # WORK: as for `experiment.py ablations`, whose data and features are used; writes results/mccl-why.json
    python benchmarks/why_mccl.py WORK

For each run: UAR and tail recall of the trained classifier; of the nearest class mean and of the nearest class centre
of MCCL, which have no preference for frequent classes; how alike bags of one class and of two classes are; and whether
the two losses pull the features the same way. The rates are those that benchmarks/ablations.json chose.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, commit, machine

SEEDS = (1, 2, 3, 4, 5)
METHODS = {"gated attention": dict(model="attention", lr=1e-2, mccl_weight=0.0),
           **{f"MICACL, lambda {w:g}": dict(lr=3e-3, mccl_weight=w) for w in (0.0, 0.3, 1.0, 3.0)}}
COMPARE = [("MICACL, lambda 0.3", "MICACL, lambda 0"), ("MICACL, lambda 1", "MICACL, lambda 0"),
           ("MICACL, lambda 3", "MICACL, lambda 0"), ("MICACL, lambda 1", "gated attention")]
HEADS = ("classifier", "nearest_mean", "nearest_centre")


def measure(run, features, data):
    "Everything about one finished run."
    import torch
    import torch.nn.functional as F
    from micacl.train.loaders import InstanceFeatures
    from micacl.metrics import recalls, uar
    from micacl.train.run import load_run, prepare_data
    from micacl.train.checkpoint import read_tensors
    from micacl.train.objective import Objective
    model, config, info = load_run(run)
    model.freeze_backbone().eval()
    d = prepare_data(data, run, config, quiet=True)
    store, objective = InstanceFeatures(features, model, config, d.cache), Objective(config, info["train_counts"],
        model.bag_dim)
    objective.load_state_dict(read_tensors(Path(run) / "checkpoint" / "objective.safetensors"))
    test, y, yt = d.tests["test_balanced"], torch.tensor([c.label for c in d.train]), np.array([c.label
        for c in d.tests["test_balanced"]])
    with torch.no_grad(): train, tested = model(store.of(d.train)), model(store.of(test))
    def score(said): return dict(uar=uar(yt, said), tail=float(recalls(yt, said)[5:].mean()), said=said)
    z, zt = F.normalize(train.bag), F.normalize(tested.bag)
    means = F.normalize(torch.stack([z[y == c].mean(0) for c in range(7)]))
    S, same = zt @ zt.T, torch.tensor(yt)[:, None] == torch.tensor(yt)
    off = ~torch.eye(len(yt), dtype=torch.bool)
    out = dict(y=yt, classifier=score(tested.logits.argmax(1).numpy()),
               nearest_mean=score((zt @ means.T).argmax(1).numpy()),
               cos_same=float(S[same & off].mean()), cos_other=float(S[~same].mean()))
    if objective.mccl is not None:
        out["nearest_centre"] = score(objective.mccl.nearest(tested.bag).argmax(1).numpy())
        out["gradient_cosine"] = pull(model.fc, objective, train, y)
    return out


def pull(fc, objective, out, y, batch=32):
    "Mean cosine between the gradients of cross entropy and of MCCL on the bag features of a batch."
    import torch
    cosines, dice = [], torch.Generator().manual_seed(0)
    for _ in range(30):
        i = torch.randperm(len(y), generator=dice)[:batch]
        bag = out.bag[i].clone().requires_grad_()
        logits = out.logits[i] + (bag - out.bag[i]) @ fc.weight.T
        a, = torch.autograd.grad(objective.ce(logits, y[i]), bag)
        b, = torch.autograd.grad(objective.mccl(bag, y[i]), bag)
        cosines.append(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item())
    return float(np.mean(cosines))


def compare(runs, a, b, head_a, head_b):
    "Two methods, each with one way to decide, paired over clips and seeds; UAR, and the tail."
    from micacl.metrics import paired_difference
    pa, pb = ([r[h]["said"] for r in runs if r["method"] == m] for m, h in ((a, head_a), (b, head_b)))
    y = runs[0]["y"]
    return dict(a=a, head_a=head_a, b=b, head_b=head_b, uar=paired_difference(y, pa, pb),
                tail=paired_difference(y, pa, pb, classes=[5, 6]))


def main(work):
    from micacl.core import read_json, write_json
    from micacl.data.synfew.generate import generate
    from micacl.train.config import Config
    from micacl.train.experiments import shared_set
    from micacl.train.loop import train
    before = commit()
    spec, runs = read_json(ROOT / "benchmarks" / "ablations.json"), []
    generate(data := shared_set(work, spec["synfew"]), progress=False, **spec["synfew"])
    for method, fields in METHODS.items():
        for seed in SEEDS:
            config = Config(**spec["base"], backbone_lr=0.0, seed=seed, **fields)
            with tempfile.TemporaryDirectory() as folder:
                train(data, Path(folder) / "run", config, quiet=True, features=work / "features")
                runs.append(dict(method=method, mccl_weight=config.mccl_weight, seed=seed,
                                 **measure(Path(folder) / "run", work / "features", data)))
            print(method, seed, {h: (round(runs[-1][h]["uar"], 3), round(runs[-1][h]["tail"], 3)) for h in HEADS
                                 if h in runs[-1]}, flush=True)
    pairs = [compare(runs, a, b, h, h) for a, b in COMPARE for h in HEADS[:2]]
    pairs += [compare(runs, m, m, h, "classifier") for m,
              f in METHODS.items() for h in HEADS[1:] if h == "nearest_mean" or f["mccl_weight"]]
    for r in runs:
        del r["y"]
        for h in HEADS: r.get(h, {}).pop("said", None)
    write_json(ROOT / "results" / "mccl-why.json", dict(command="python benchmarks/why_mccl.py WORK", commit=before,
                                                        machine=machine(), epochs=spec["base"]["epochs"],
                                                        methods=METHODS, runs=runs, comparisons=pairs))


if __name__ == "__main__": main(Path(sys.argv[1]))
