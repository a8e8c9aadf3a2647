"""Does it help to weigh instances, where only some of them show the emotion? Bags that are put together from real
pictures: most instances are neutral faces, the others, side by side, show one emotion. The encoder is frozen, the heads
are tuned alike. Constructed: the faces of a bag belong to different people, and nobody moves.

    python benchmarks/real_bags.py FOLDER_OR_CSV WORK --name "the data set, in words"

FOLDER_OR_CSV lists single pictures with split train and test, neutral among the classes; no picture of a test bag is
in a training bag. The learning rate is chosen on bags of a quarter of the training pictures. WORK keeps every run:
stopped, the same command goes on.
"""
import argparse
import functools
import itertools
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import real_heads
from common import ROOT, commit, machine
from real_heads import HEADS, PLAIN

SEEDS, TUNE_SEED = (0, 1, 2), 0
LRS, STEPS, BATCH = (0.003, 0.01, 0.03), 320, 32
INSTANCES, SHOWN = 8, (2, 1, 4)      # N; how many of them show the emotion
TOLD = "told which"                  # mean pooling of these alone: what perfect weights would give


class Bags(NamedTuple):
    "Bags as positions among pictures."
    index: object     # (B,N)
    y: object         # (B,)
    truth: object     # (B,N) bool, shows the emotion


def make_bags(labels, neutral, shown, seed, n=INSTANCES, most=max(SHOWN)):
    """As many bags for any `shown`: each picture of a class is in one bag at most, neutral ones come again. Labels are
    numbered without the neutral class."""
    import numpy as np
    rng, index, y, truth = np.random.default_rng(seed), [], [], []
    background = np.flatnonzero(labels == neutral)
    for c in range(labels.max() + 1):
        if c == neutral: continue
        pictures = rng.permutation(np.flatnonzero(labels == c))
        for own in pictures[:len(pictures) // most * most].reshape(-1, most):
            bag, first = rng.choice(background, n, replace=False), rng.integers(n - shown + 1)
            bag[first:first + shown] = own[:shown]
            index.append(bag); y.append(c - (c > neutral))
            truth.append((np.arange(n) >= first) & (np.arange(n) < first + shown))
    return Bags(np.array(index), np.array(y), np.array(truth))


class Pictures(NamedTuple):
    x: object          # (n,D) features
    labels: object     # (n,)
    parts: dict        # name -> positions
    classes: tuple
    neutral: int
    key: str


@functools.lru_cache(1)
def opened(data, work):
    "Once in a process."
    import numpy as np
    from micacl.core import MicaclError, derive_seed
    from micacl.data.cache import fingerprint
    from micacl.train.config import Config
    from real_faces import parts, read
    table, cache, divided = read(data, Path(work) / "frames")
    split = parts(table) if divided else None
    if split is None or "neutral" not in [table.classes[c] for c in set(table.labels)]:
        raise MicaclError(f"{data}: expected pictures with a column split (train, test) and a class neutral, found "
                          f"{', '.join(table.classes)}; add what is missing")
    base = Config(backbone="res_faces", backbone_lr=0.0, n_instances=1, instance_length=1, mixed_precision="no")
    train, test = (np.random.default_rng(0).permutation(p) for p in split)
    cut, there = len(train) // 4, np.flatnonzero(table.counts).tolist()      # classes that have pictures
    labels, classes = np.searchsorted(there, table.labels), tuple(table.classes[c] for c in there)
    return Pictures(real_heads.features(real_heads.Data(table, cache, None, 0, None, ""), work, base).x[:, 0],
                    labels, dict(tune=train[:cut], fit=train[cut:], train=train, test=test), classes,
                    classes.index("neutral"), f"{derive_seed(fingerprint(cache, table)):016x}")


def table_of(d, part, shown, told):
    "-> (`ClipTable` of bags, their features (B,N,D), truth)."
    import torch
    from micacl.core import derive_seed
    from micacl.data.table import Clip, ClipTable
    at = d.parts[part]
    b = make_bags(d.labels[at], d.neutral, shown, derive_seed("bags", part))
    x = d.x[at][torch.from_numpy(b.index)]
    if told:
        truth = torch.from_numpy(b.truth)[..., None]
        x = ((x * truth).sum(1, keepdim=True) / truth.sum(1, keepdim=True)).expand_as(x)
    names = [f"{part} {i}" for i in range(len(x))]
    clips = [Clip(name, Path(name), c) for name, c in zip(names, b.y.tolist())]
    return ClipTable(clips, [c for k, c in enumerate(d.classes) if k != d.neutral]), x, b.truth


def one(work, data, label, fold, config, shown, told, parts):
    "Train on bags of one part and read those of another; or find the file of an earlier call."
    import torch
    from micacl.core import write_json
    from micacl.data.table import ClipTable
    from micacl.metrics import instance_auc, uar
    from micacl.train.summaries import pack_labels
    d = opened(data, work)
    file = real_heads.run_file(work, d.key, config, STEPS, ("bags", shown, told, *parts))
    if file.exists(): return file
    (train, x, _), (test, z, truth) = (table_of(d, part, shown, told) for part in parts)
    kept = real_heads.Kept(ClipTable([*train, *test], train.classes), torch.cat([x, z]))
    r = real_heads.fit(train, test, config, STEPS, features=kept)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(predicted=pack_labels(r["predicted"]), y=pack_labels(r["y"]), n_train=len(train),
                          uar=uar(r["y"], r["predicted"], len(test.classes)), steps=r["steps"],
                          instance_auc=instance_auc(r["weights"], truth)[0], seconds=round(r["seconds"], 2)))
    return file


def results_of(data, work, processes, say, shown, parts, each):
    "Result of a network for each (head, lr, seed) of `each`. `MicaclError` if one failed."
    from micacl.core import MicaclError, read_json
    from micacl.train.config import config_from_dict, merge
    from micacl.train.experiments import run_all
    base = dict(backbone="res_faces", backbone_lr=0.0, mixed_precision="no", n_instances=INSTANCES, instance_length=1,
                batch_size=BATCH)
    jobs = [(work, data, f"{shown} of {INSTANCES}: {head}, lr {lr:g}, {parts[1]}", None, config_from_dict(merge(
        base, HEADS["mean pooling" if head == TOLD else head], dict(lr=lr, seed=seed))), shown, head == TOLD, parts)
        for head, lr, seed in each]
    errors = {}
    done = run_all(jobs, processes, say, one, errors)
    if errors: raise MicaclError(f"{jobs[min(errors)][2]}: {errors[min(errors)]}")
    return [read_json(done[k]) for k in range(len(jobs))]


def measure_share(data, work, shown, processes, say):
    "-> heads and differences for bags of which `shown` instances show the emotion."
    import numpy as np
    from micacl.train.summaries import unpack_labels
    from real_faces import compared, scored
    d, heads, said, found = opened(data, work), [*PLAIN, TOLD], {}, {}
    run = partial(results_of, data, work, processes, say, shown)
    tried = run(("fit", "tune"), [(h, lr, TUNE_SEED) for h in heads for lr in LRS])
    uars = np.array([r["uar"] for r in tried]).reshape(len(heads), len(LRS))
    best = [LRS[p] for p in uars.argmax(1)]
    results = run(("train", "test"), [(h, lr, seed) for h, lr in zip(heads, best) for seed in SEEDS])
    y, classes = unpack_labels(results[0]["y"]), [c for k, c in enumerate(d.classes) if k != d.neutral]
    alone = np.arange(len(y))                              # each bag for itself
    for k, h in enumerate(heads):
        rs = results[k * len(SEEDS):(k + 1) * len(SEEDS)]
        said[h] = np.stack([unpack_labels(r["predicted"]) for r in rs])[:, None]
        s = scored(y, said[h], alone, classes)
        found[h] = dict({key: s[key] for key in ("uar", "interval", "recall", "intervals", "uar_by_network")},
                        instance_auc=float(np.mean([r["instance_auc"] for r in rs])), lr=best[k], steps=rs[0]["steps"],
                        tuning_uar=uars[k].tolist())
    return dict(heads=found, bags=len(y), training_bags=results[0]["n_train"],
                bags_by_class=dict(zip(classes, np.bincount(y, minlength=len(classes)).tolist())),
                differences={f"{a} - {b}": compared(y, said[a], said[b], alone, classes)
                             for a, b in itertools.combinations(PLAIN, 2)},
                seconds=round(sum(r["seconds"] for r in (*tried, *results))))


def measure(data, work, processes=None, say=print, keep=lambda found: None):
    "-> dict: `shown` -> scores and differences of the heads; `keep` is given what there is after each share."
    from real_faces import rounded
    data, work = str(Path(data).absolute()), str(Path(work).absolute())
    d = opened(data, work)
    out = dict(pictures={name: len(at) for name, at in d.parts.items()}, instances=INSTANCES, batch_size=BATCH,
               learning_rates=LRS, tuning_seed=TUNE_SEED, encoder="res_faces, frozen", shown={})
    for shown in SHOWN:
        out["shown"][str(shown)] = measure_share(data, work, shown, processes, say)
        keep(rounded(out))
    return rounded(out)


def lines(found):
    "The result as plain lines."
    box = lambda s: f"[{100 * s['interval'][0]:.1f}, {100 * s['interval'][1]:.1f}]"
    for shown, r in found["shown"].items():
        for h, s in r["heads"].items():
            yield f"{shown} of {INSTANCES}: {h} {100 * s['uar']:.1f} {box(s)}, instances {s['instance_auc']:.2f}"
        for h, s in r["differences"].items(): yield f"    {h}: {100 * s['difference']:+.1f} {box(s)}"


def keep(out, name, words, before, found):
    from micacl.core import write_json
    write_json(out, dict(about="Constructed bags of real pictures: heads on frozen features, tuned alike; shares of 1, "
                               "95 % intervals over bags, which share neutral pictures; seconds of one core",
                         name=name, command=shlex.join(words), commit=before, machine=machine(), seeds=SEEDS, **found))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, help="folder or CSV file")
    p.add_argument("work", type=Path, help="folder for the single runs")
    p.add_argument("--name", required=True, help="the data set in words, as it stands in the file")
    p.add_argument("--processes", type=int, help="side by side; default: one a core")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "real-bags.json")
    args = p.parse_args()
    words = ["python", "benchmarks/real_bags.py", "FOLDER", "WORK", "--name", args.name]
    found = measure(args.data, args.work, args.processes, partial(print, flush=True),
                    partial(keep, args.out, args.name, words, commit()))
    print("\n".join(lines(found)))


if __name__ == "__main__": main()
