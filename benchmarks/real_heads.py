"""Which head helps on real clips? MICACL, the same deciding by its class centres or without its contrastive loss,
gated attention and mean pooling, each tuned alike, tested on people whom neither training nor tuning has seen. Nothing
about a person goes into the file.

    python benchmarks/real_heads.py FOLDER_OR_CSV WORK --name "the data set, in words" --instances 3 --length 1

FOLDER_OR_CSV is read as `real_faces.py` reads it: path,label and a column `group` that says who is seen in a clip.
Five folds by person. For the tuning two folds are left out at a time, and each of them is scored: so the learning rate
for a test fold is chosen by clips of its training part alone, scored by networks that have seen neither. The chosen one
is trained on the whole training part, with several seeds. In two regimes two heads are also trained for fewer and for
more steps, at the learning rate chosen for each fold. WORK keeps every run: stopped, the same command goes on.
"""
import argparse
import functools
import itertools
import math
import shlex
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import ROOT, commit, machine

SEEDS, TUNE_SEED, FOLDS = (0, 1, 2), 0, 5      # of the networks; one cut into folds
# what is tried for every head, where the encoder learns too and where it doesn't; the steps of a training
LRS, FROZEN_LRS, STEPS = (0.001, 0.003, 0.01, 0.03), (0.003, 0.01, 0.03, 0.1), 320
CURVE = (80, 160, 320, 640)                    # steps, in the regime that is looked at more closely
BATCH = 16                                     # clips a step
HEADS = {"MICACL": {}, "GEIIM + WIAN": dict(mccl_weight=0.0),
         "gated attention": dict(model="attention", mccl_weight=0.0),
         "mean pooling": dict(model="mean", mccl_weight=0.0),
         "MICACL, decided by centres": dict(head="centres")}
FIRST = next(iter(HEADS))
PLAIN = tuple(h for h in HEADS if "centres" not in h)
CURVE_HEADS = (FIRST, "mean pooling")


class Regime(NamedTuple):
    "Where the features come from, and which heads are compared."
    fields: dict                       # of `Config`
    heads: tuple = PLAIN


REGIMES = {"r3d_small, frozen": Regime(dict(backbone="r3d_small", backbone_lr=0.0), tuple(HEADS)),
           "r3d_small, fine-tuned": Regime(dict(backbone="r3d_small"), tuple(HEADS)),
           "res_faces, frozen": Regime(dict(backbone="res_faces", backbone_lr=0.0)),
           "r3d_small, from scratch": Regime(dict(backbone="r3d_small", pretrained=False)),
           "res_faces, fine-tuned": Regime(dict(backbone="res_faces"), (FIRST, "gated attention", "mean pooling"))}
CLOSER = ("r3d_small, frozen", "r3d_small, fine-tuned")      # where the steps are varied


# ---- one network

class Kept:
    "Features of a frozen encoder for clips of a table; training pictures are not changed."
    def __init__(self, table, x): self.x, self.at = x, {c.id: i for i, c in enumerate(table)}
    def of(self, table, epoch=None): return self.x[[self.at[c.id] for c in table]]


def fit(train, test, config, steps, cache=None, features=None):
    "Train for so many steps, to a whole epoch, and look at the clips of `test` once -> dict."
    from micacl.core import derive_seed, seed_everything
    from micacl.train.loaders import make_loader
    from micacl.train.loop import make_accelerator, predict, train_epoch
    from micacl.train.machine import memory_kept
    from micacl.train.objective import Objective, build_model, make_optimizer
    begin, each = time.process_time(), config.steps_per_epoch(len(train))
    config, accelerator = replace(config, epochs=math.ceil(steps / each)), make_accelerator(config)
    seed_everything(derive_seed(config.seed, "weights"))
    model = build_model(config, len(train.classes))
    objective = Objective(config, train.counts, model.bag_dim, model.backbone.dim, head=model.fc)
    model, objective, optimizer, loader, tests = accelerator.prepare(
        model, objective, make_optimizer(model, objective, config), make_loader(train, config, True, cache, features),
        make_loader(test, config, False, cache, features))
    with memory_kept():
        for epoch in range(config.epochs): train_epoch(model, objective, loader, optimizer, epoch, config, accelerator)
        said = predict(model, tests, accelerator)
    return dict(said, predicted=said["logits"].argmax(1), steps=config.epochs * each,
                seconds=time.process_time() - begin)


# ---- the data set

class Data(NamedTuple):
    table: object        # `ClipTable` of the classes that have clips
    cache: object        # its frames
    people: object       # (n,) who is seen
    unknown: int         # clips that name nobody
    fold: object         # (n,) in which fold a clip is tested, from 0
    key: str             # changes with the clips, their labels and the folds


@functools.lru_cache(1)
def opened(data, work):
    "Once in a process."
    import numpy as np
    from micacl.core import MicaclError, derive_seed
    from micacl.data.cache import fingerprint
    from micacl.data.table import ClipTable
    from micacl.train.probe import people_folds, people_of
    from real_faces import read
    table, cache, _ = read(data, Path(work) / "frames")
    there = np.flatnonzero(table.counts).tolist()
    clips = [replace(c, label=there.index(c.label)) for c in table]
    table = ClipTable(clips, [table.classes[c] for c in there], table.root, table.dataset, source=table.source)
    people, unknown = people_of(table)
    fold = np.zeros(len(table), int)
    for k, (_, test) in enumerate(people_folds(table.labels, people, FOLDS)): fold[test] = k
    for a, b in itertools.combinations(range(FOLDS), 2):
        seen = table[(fold != a) & (fold != b)].counts
        if not seen.all():
            raise MicaclError(f"{data}: expected clips of {table.classes[int(seen.argmin())]} of more people: two of "
                              f"{FOLDS} folds leave none to train on; leave this class out")
    return Data(table, cache, np.array(people), unknown, fold, f"{derive_seed(fingerprint(cache, table), *fold):016x}")


def features(data, work, config):
    "Of a frozen encoder, computed once for all runs; None for one that learns."
    if config.backbone_lr: return None
    from micacl.train.loaders import InstanceFeatures
    from micacl.train.objective import build_model
    model = build_model(replace(config, model="mean"), 2)
    return Kept(data.table, InstanceFeatures(Path(work) / "features", model, config, data.cache).of(data.table))


def weights_key(config):
    "Changes with the weights that a network begins with."
    import hashlib
    from micacl.nn.backbone import weights_path
    if not config.pretrained: return "none"
    return hashlib.sha256(weights_path(config.backbone).read_bytes()).hexdigest()[:16]


def run_file(work, key, config, steps, leave):
    import json
    from micacl.core import derive_seed
    parts = json.dumps(config.to_dict(), sort_keys=True), weights_key(config), str(steps), str(leave)
    return Path(work) / "runs" / f"{derive_seed('real heads', key, *parts):016x}.json"


def one(work, data, label, fold, config, steps, leave):
    "Train without the folds in `leave`, and read their clips; or find the file of an earlier call."
    import numpy as np
    from micacl.core import write_json
    from micacl.train.summaries import pack_labels
    d = opened(data, work)
    file = run_file(work, d.key, config, steps, leave)
    if file.exists(): return file
    out = np.isin(d.fold, leave)
    r = fit(d.table[~out], d.table[out], config, steps, d.cache, features(d, work, config))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(predicted=pack_labels(r["predicted"]), steps=r["steps"], seconds=round(r["seconds"], 2)))
    return file


# ---- many networks

PAIRS = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]      # folds that are left out together: each is in two of them


def points(data, work, processes, say, base, regime, each):
    "Results of a network for each (head, lr, steps, seed, folds left out) of `each`. `MicaclError` if one failed."
    from micacl.core import MicaclError, read_json
    from micacl.train.config import config_from_dict, merge
    from micacl.train.experiments import run_all
    from micacl.train.summaries import unpack_labels
    settle = lambda *parts: config_from_dict(merge(base, REGIMES[regime].fields, *parts))
    jobs = [(work, data, f"{regime}: {head}, lr {lr:g}, {steps} steps", "+".join(str(k + 1) for k in leave),
             settle(HEADS[head], dict(lr=lr, seed=seed)), steps, leave) for head, lr, steps, seed, leave in each]
    errors = {}
    done = run_all(jobs, processes, say, one, errors)
    if errors: raise MicaclError(f"{jobs[min(errors)][2]}: {errors[min(errors)]}")
    return [dict(r, predicted=unpack_labels(r["predicted"])) for k in range(len(jobs)) for r in [read_json(done[k])]]


def rates(regime): return FROZEN_LRS if REGIMES[regime].fields.get("backbone_lr") == 0 else LRS


def choose(d, results):
    """-> UAR (FOLDS, lrs) of every learning rate, for each test fold: on the other fold of the two pairs that it is in.
    `results` in order of (lr, pair)."""
    import numpy as np
    from micacl.metrics import uar
    of = len(PAIRS)
    scores = np.zeros((FOLDS, len(results) // of))
    for k, p in itertools.product(range(FOLDS), range(scores.shape[1])):
        y, said = [], []
        for leave, r in zip(PAIRS, results[p * of:(p + 1) * of]):
            if k not in leave: continue
            out = np.isin(d.fold, leave)
            here = d.fold[out] != k
            y.append(d.table.labels[out][here]); said.append(r["predicted"][here])
        scores[k, p] = uar(np.concatenate(y), np.concatenate(said), len(d.table.classes))
    return scores


def tested(d, results):
    "Predictions (S,1,n) of the clips in order of the table, each by the network that was trained without its person."
    import numpy as np
    said = np.full((len(SEEDS), 1, len(d.table)), -1)
    for (s, k), r in zip(itertools.product(range(len(SEEDS)), range(FOLDS)), results):
        said[s, 0, d.fold == k] = r["predicted"]
    return said


def in_parts(results, n):
    "n equal parts of a list, in order."
    return [results[i * len(results) // n:(i + 1) * len(results) // n] for i in range(n)]


def compared_heads(d, heads, results):
    "Scores of each head over people, what it took, and the first head minus each other one."
    import numpy as np
    from real_faces import compared, scored
    said, found = {}, {}
    for head, rs in zip(heads, in_parts(results, len(heads))):
        said[head], steps = tested(d, rs), [r["steps"] for r in rs]
        s = found[head] = scored(d.table.labels, said[head], d.people, d.table.classes)
        s.update(steps=[min(steps), max(steps)], seconds_a_network=float(np.median([r["seconds"] for r in rs])))
    return dict(heads=found, differences={b: compared(d.table.labels, said[FIRST], said[b], d.people, d.table.classes)
                                          for b in heads if b != FIRST})


def measure_regime(d, run, name):
    "-> scores and differences, {head: learning rate of each fold}; `run` as `points` with its first arguments given."
    heads = REGIMES[name].heads
    tried = run(name, [(h, lr, STEPS, TUNE_SEED, leave) for h in heads for lr in rates(name) for leave in PAIRS])
    scores = {h: choose(d, rs) for h, rs in zip(heads, in_parts(tried, len(heads)))}
    lrs = {h: [rates(name)[p] for p in s.argmax(1)] for h, s in scores.items()}
    results = run(name, [(h, lrs[h][k], STEPS, s, (k,)) for h in heads for s in SEEDS for k in range(FOLDS)])
    out = compared_heads(d, heads, results)
    for h in heads: out["heads"][h].update(lrs=lrs[h], tuning_uar=scores[h].mean(0).tolist())
    return dict(out, seconds=round(sum(r["seconds"] for r in (*tried, *results)))), lrs


def measure_steps(d, run, name, lrs, steps):
    "Some heads after so many steps, each fold at the learning rate that was chosen for it."
    each = [(h, lrs[h][k], steps, s, (k,)) for h in CURVE_HEADS for s in SEEDS for k in range(FOLDS)]
    return compared_heads(d, CURVE_HEADS, run(name, each))


def measure(data, work, instances=4, length=4, processes=None, say=print, keep=lambda found: None):
    "-> dict: what the data set is, `regimes`, `steps`; `keep` is given what there is after each part of it."
    from micacl.core import read_json, write_json
    from micacl.train.machine import choose_arithmetic
    from real_faces import about, rounded
    data, work = str(Path(data).absolute()), str(Path(work).absolute())
    d, kept = opened(data, work), Path(work) / "arithmetic.json"
    if not kept.exists(): write_json(kept, dict(precision=choose_arithmetic().precision))      # one for all runs
    shape = dict(n_instances=instances, instance_length=length, batch_size=BATCH)
    out = dict(about(d.table, d.people.tolist(), d.unknown, None), **shape, learning_rates={}, tuning_seed=TUNE_SEED,
               mixed_precision={}, regimes={}, steps={})
    out["protocol"] = f"{FOLDS} folds by person, the same for all"
    for name, regime in REGIMES.items():
        half = "no" if regime.fields.get("backbone_lr") == 0 else read_json(kept)["precision"]
        run = partial(points, data, work, processes, say, dict(shape, mixed_precision=half))
        out["mixed_precision"][name], out["learning_rates"][name] = half, rates(name)
        out["regimes"][name], lrs = measure_regime(d, run, name)
        keep(rounded(out))
        for steps in CURVE if name in CLOSER else ():
            out["steps"].setdefault(name, {})[str(steps)] = measure_steps(d, run, name, lrs, steps)
            keep(rounded(out))
    return rounded(out)


def lines(found):
    "The result as plain lines."
    box = lambda s: f"[{100 * s['interval'][0]:.1f}, {100 * s['interval'][1]:.1f}]"
    steps = ((f"{name}, {n} steps", r) for name, rs in found["steps"].items() for n, r in rs.items())
    for name, r in [*found["regimes"].items(), *steps]:
        for head, s in r["heads"].items(): yield f"{name}: {head} {100 * s['uar']:.1f} {box(s)}"
        for head, s in r["differences"].items(): yield f"    {FIRST} - {head}: {100 * s['difference']:+.1f} {box(s)}"


def keep(out, name, words, before, found):
    "The part of one data set in the file; other parts stay."
    from micacl.core import read_json, write_json
    old = read_json(out)["sets"] if out.is_file() else {}
    part = dict(command=shlex.join(words), commit=before, machine=machine(), seeds=SEEDS, **found)
    write_json(out, dict(about="Heads on real clips, tuned alike, tested on people who were not seen; shares of 1, 95 "
                               "% intervals over people; seconds of one core", sets={**old, name: part}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, help="folder or CSV file")
    p.add_argument("work", type=Path, help="folder for the single runs")
    p.add_argument("--name", required=True, help="the data set in words, as it stands in the file")
    p.add_argument("--instances", type=int, default=4, help="N, instances of a clip")
    p.add_argument("--length", type=int, default=4, help="L, frames of an instance")
    p.add_argument("--processes", type=int, help="side by side; default: one a core")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "real-heads.json")
    args = p.parse_args()
    words = ["python", "benchmarks/real_heads.py", "FOLDER", "WORK", "--name", args.name,
             "--instances", str(args.instances), "--length", str(args.length)]
    found = measure(args.data, args.work, args.instances, args.length, args.processes, partial(print, flush=True),
                    partial(keep, args.out, args.name, words, commit()))
    print("\n".join(lines(found)))


if __name__ == "__main__": main()
