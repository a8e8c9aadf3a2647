"""What carries over from drawn faces to real ones? On anybody's clips: a linear probe of several encoders, and what the
network that names emotions says without any training on them. Nothing about a person goes into the file.

    python benchmarks/real_faces.py FOLDER_OR_CSV --name "the data set, in words" --out results/real-faces.json

FOLDER_OR_CSV is read as `micacl train` reads it: path,label and a column `group` that says who is seen in a clip.
Faces have to fill the frame (`micacl faces` cuts them out). With a column `split` (train, test) the probe is trained on
the one and tested on the other; without it, five folds by person, three times. Several data sets share a file: each run
adds its own part, by name. Zero-shot scores come as they are, and with the mean scores of the set subtracted, which
needs a set and no labels. `--weights` compares other weights of res_faces, a file for each seed of its training.
`--encoder face-expression DIR` adds a row for the network that `micacl get face-expression DIR` fetches; its author
does not say on which public data sets he trained it, so its scores are upper limits.
"""
import argparse
import shlex
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import ROOT, commit, machine

SIZE = 64                        # pixels
SEEDS = (0, 1, 2)                # of the folds, and of networks without training
REFERENCE = "r3d_small"          # what the others are compared with
DRAWS = 2000                     # of the bootstrap


class Method(NamedTuple):
    "An encoder, once for each of its seeds."
    networks: list               # of (M,3,L,size,size) in 0..1 -> (M,D)
    length: int = 1              # L
    named: int = 0               # the last columns of D are scores of so many emotions, and no features
    before: object = None        # fitted on training clips before the classifier


# ---- encoders

def small(seed=None):
    "r3d_small with the weights of the package, or untrained."
    import torch
    from micacl.nn.backbone import build_backbone
    if seed is not None: torch.manual_seed(seed)
    return build_backbone("r3d_small", seed is None).eval()


def reader(path=None, several=False):
    "res_faces: features, and behind them the scores of the emotions; `several`: means over six views of a picture."
    import torch
    from micacl.train.encoder import load_reader, six_views
    network = load_reader(path).eval()

    def encode(x):
        x = x[:, :, 0]
        read = network((six_views(x) if several else x[None]).flatten(0, 1))
        return torch.cat([read.features, read.emotion], 1).unflatten(0, (-1, len(x))).mean(0)
    return encode


def expression(folder):
    "face-expression: features, and behind them the scores of the emotions."
    import torch
    from micacl.nn.expression import load_expression
    network = load_expression(folder)

    def encode(x):
        features = network(x[:, :, 0])
        return torch.cat([features, network.scores(features)], 1)
    return encode


FOREIGN = {"face-expression": expression}        # networks of other people, by name: folder -> encoder
WARNING = ("trained by others on public data sets that they do not name, and on pictures from the web; "
           "these clips may be among them")


def pixels(x):
    "Grey pixels of 32 x 32."
    from torch.nn.functional import adaptive_avg_pool2d
    return adaptive_avg_pool2d(x.mean(1)[:, 0], 32).flatten(1)


def methods(weights=(), n=10**6, foreign=()):
    "{name: Method}; `n`: clips, of which there have to be more than components; `foreign`: pairs (name, folder)."
    from micacl.core import EMOTIONS
    from sklearn.decomposition import PCA
    return {REFERENCE: Method([small()], 4),
            "r3d_small, untrained": Method([small(seed) for seed in SEEDS], 4),
            "res_faces": Method([reader(w) for w in weights or [None]], named=len(EMOTIONS)),
            "res_faces, six views": Method([reader(w, True) for w in weights or [None]], named=len(EMOTIONS)),
            "pixels": Method([pixels], before=PCA(min(40, n // 4), random_state=0)),
            **{name: Method([FOREIGN[name](folder)], named=len(EMOTIONS)) for name, folder in foreign}}


# ---- the data set

def read(data, folder):
    "-> (table of the clips that can be decoded, their frames, whether the list itself says train and test)"
    from micacl.data.cache import build_cache
    from micacl.data.load import load_table
    table = load_table(data)
    cache = build_cache(table, folder, SIZE, 64, progress=False)
    divided = not table.folds and not any(note.startswith("no split column") for note in table.notes)
    return cache.readable(table), cache, divided


def parts(table):
    "(train, test) as positions, if the table has both; None: folds."
    import numpy as np
    train, test = (np.flatnonzero([c.split == s for c in table]) for s in ("train", "test"))
    return (train, test) if len(train) and len(test) else None


def about(table, people, unknown, split):
    "What a reader has to know of the data set."
    from micacl.data.table import divided_groups
    by_class = {name: len({p for p, y in zip(people, table.labels) if y == c}) for c, name in enumerate(table.classes)}
    return dict(clips=len(table), people=len(set(people)) - unknown, clips_without_a_person=unknown,
                clips_by_class=dict(zip(table.classes, table.counts.tolist())), people_by_class=by_class,
                classes_without_clips=[c for c, n in by_class.items() if not n],
                classes_of_fewer_people_than_folds=[c for c, n in by_class.items() if 0 < n < 5],
                who="the list names a person for each clip" if not unknown else
                f"{unknown} clips name no person: each of them counts as a person of its own",
                protocol=f"five folds by person, cut {len(SEEDS)} times" if split is None else
                f"column split: {len(split[0])} clips to train, {len(split[1])} to test",
                people_in_both_parts=0 if split is None else len(divided_groups(table)))


# ---- scores

def probed(x, y, people, split, before=None):
    "-> predictions (R,n) of the clips that are tested, values of C."
    from micacl.train.probe import fit_probe, linear_probe
    if split is None:
        found = linear_probe(x, y, people, seeds=SEEDS, before=before)
        return found.predicted, found.C.tolist()
    train, test = split
    found = fit_probe(x[train], y[train], people[train], before=before)
    return found.predict(x[test])[None], [[found.best_params_["linear__C"]]]


def scored(y, predicted, people, classes):
    "Scores over people of predictions (S,R,n): S networks, R repetitions, all of the same clips."
    import numpy as np
    from micacl.data.crowd import people_scores
    from micacl.metrics import uar
    S, R, n = predicted.shape
    s = people_scores(np.tile(y, S * R), predicted.ravel(), np.tile(people, S * R), classes, DRAWS)
    return dict(s, clips=n, uar_by_network=[uar(np.tile(y, R), p.ravel(), len(classes)) for p in predicted])


def compared(y, a, b, people, classes):
    """Difference in UAR of predictions (S,R,n) and (T,R,n), people and networks drawn. A method with one network meets
    each of the other's; repetitions are more clips of the same people."""
    import numpy as np
    from micacl.metrics import paired_difference
    S, (_, R, n) = max(len(a), len(b)), a.shape
    a, b = (np.broadcast_to(p, (S, R, n)).reshape(S, R * n) for p in (a, b))
    d = paired_difference(np.tile(y, R), a, b, len(classes), draws=DRAWS, people=np.tile(people, R))
    return {k: d[k] for k in ("difference", "interval", "p")}


def named(scores, y, people, classes):
    "What networks say by the names of the classes: scores (S,n,K) of the emotions."
    import numpy as np
    from micacl.core import EMOTIONS
    from micacl.train.probe import zero_shot
    said = [zero_shot(s, EMOTIONS, y, classes) for s in scores]
    readable = said[0].predicted >= 0
    predicted = np.stack([z.predicted[readable] for z in said])[:, None]
    return dict(scored(y[readable], predicted, people[readable], classes), candidates=said[0].candidates,
                unread=said[0].unread, unused=said[0].unused)


def rounded(x):
    "Four decimals are more than the intervals deserve."
    if isinstance(x, dict): return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [rounded(v) for v in x]
    return round(x, 4) if isinstance(x, float) else x


def measure(data, weights=(), report=print, foreign=()):
    "-> dict: what the data set is, `probe` and `zero_shot` by method, seconds of each."
    import numpy as np
    from micacl.core import EMOTIONS, MicaclError
    from micacl.train.machine import memory_kept
    from micacl.train.probe import clip_features, people_of
    with tempfile.TemporaryDirectory() as folder, memory_kept():
        table, cache, divided = read(data, folder)
        (people, unknown), split = people_of(table), parts(table) if divided else None
        people, y, classes = np.array(people), table.labels, table.classes
        tested = np.arange(len(y)) if split is None else split[1]
        out = dict(about(table, people, unknown, split), probe={}, zero_shot={}, seconds={})
        if foreign: out["foreign"] = {name: dict(sha256=sha256(folder), warning=WARNING) for name, folder in foreign}
        said = {}
        for name, m in methods(weights, len(y) if split is None else len(split[0]), foreign).items():
            begin = time.perf_counter()
            x = np.stack([clip_features(table, cache, net, m.length, SIZE) for net in m.networks])       # (S,n,D)
            if m.named: x, scores = x[..., :-m.named], x[..., -m.named:]
            found = [probed(f, y, people, split, m.before) for f in x]
            said[name] = np.stack([p for p, _ in found])
            s = out["probe"][name] = scored(y[tested], said[name], people[tested], classes)
            s.update(C=dict(Counter(str(c) for _, values in found for row in values for c in row)))
            if name != REFERENCE:
                s["against"] = compared(y[tested], said[name], said[REFERENCE], people[tested], classes)
            if m.named:
                scores = scores[:, tested]
                both = {name: scores, f"{name}, mean of the set subtracted": scores - scores.mean(1, keepdims=True)}
                try: out["zero_shot"] |= {k: named(s, y[tested], people[tested], classes) for k, s in both.items()}
                except MicaclError as e: out["no_zero_shot"] = str(e)       # too few classes that both have
            out["seconds"][name] = round(time.perf_counter() - begin)
            report(line(name, s))
        for name, s in out["zero_shot"].items(): report(line(f"{name}, zero-shot", s))
    return rounded(dict(out, reference=REFERENCE, chance=1 / sum(n > 0 for n in out["clips_by_class"].values()),
                        emotions=EMOTIONS))


def sha256(folder):
    from micacl.nn.expression import read_expression_tensors
    return read_expression_tensors(folder)[1]


def line(name, s):
    box = "" if s["people"] < 2 else f" [{100 * s['interval'][0]:.1f}, {100 * s['interval'][1]:.1f}]"
    d = s.get("against")
    more = f", {100 * d['difference']:+.1f} [{100 * d['interval'][0]:.1f}, {100 * d['interval'][1]:.1f}]" if d else ""
    return (f"{name}: UAR {100 * s['uar']:.1f}{box}{more}; "
            + ", ".join(f"{c} {100 * r:.0f}" for c, r in s["recall"].items()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, help="folder or CSV file")
    p.add_argument("--name", required=True, help="the data set in words, as it stands in the file")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "real-faces.json")
    p.add_argument("--weights", nargs="+", type=Path, default=[], help="of res_faces, one file a seed")
    p.add_argument("--encoder", nargs=2, action="append", default=[], metavar=("NAME", "DIR"),
                   help=f"one more network, {' or '.join(FOREIGN)}, from the folder that micacl get has filled")
    args = p.parse_args()
    if unknown := [name for name, _ in args.encoder if name not in FOREIGN]:
        p.error(f"--encoder: expected {' or '.join(FOREIGN)}, found {unknown[0]}")
    from micacl.core import read_json, write_json
    found = measure(args.data, args.weights, partial(print, flush=True), args.encoder)
    words = ["python", "benchmarks/real_faces.py", "FOLDER", "--name", args.name]
    words += ["--weights", *(f"SEED-{k}" for k in range(len(args.weights)))] if args.weights else []
    words += [w for name, _ in args.encoder for w in ("--encoder", name, "DIR")]
    old = read_json(args.out)["sets"] if args.out.is_file() else {}
    part = dict(command=shlex.join(words), commit=commit(), machine=machine(), seeds=SEEDS, draws=DRAWS, **found)
    write_json(args.out, dict(about="Linear probe and zero-shot reading of encoders trained on drawn faces (and, named "
                                    "in `foreign`, by others), on real clips; shares of 1, 95 % intervals over people",
                              sets={**old, args.name: part}))


if __name__ == "__main__": main()
