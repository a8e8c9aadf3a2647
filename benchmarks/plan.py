"""How long would an experiment take? Its runs and steps, and hours on two cores like those that made
results/end-to-end.json: an estimate, from the seconds of a step there, tests and reading included.

    python benchmarks/plan.py benchmarks/protocols/crema-d.json data/crema-faces
    python benchmarks/plan.py benchmarks/protocols/crema-d.json          # a whole copy that nobody has fetched

Without a folder, clips are counted as in a complete copy of the set.
"""
import itertools
import json
import sys
from pathlib import Path

from common import ROOT


def complete(data):
    "The clips of a complete copy, by the name of its folder, without their files; cut, if the name is that of a tail."
    from micacl.core import EMOTIONS
    from micacl.data.open_sets import (CREMA_CLASSES, CREMA_DEFECTS, asked_emotion, crema_clips, crema_fold, long_tail,
                                       ravdess_clips)
    from micacl.data.table import Clip, ClipTable
    if "crema" in data:
        clips = [Clip(c, Path(c), CREMA_CLASSES.index(asked_emotion(c)), "", crema_fold(int(c[:4])), c[:4])
                 for c in crema_clips() if c not in CREMA_DEFECTS]
        table = ClipTable(clips, CREMA_CLASSES, data, "crema-d")
    else:
        number = {1: 2, 3: 0, 4: 1, 5: 3, 6: 6, 7: 5, 8: 4}                # its emotions in the order of EMOTIONS
        clips = [Clip(c, Path(c), number[int(c[6:8])], "", (int(c[-2:]) + 3) // 4, c[-2:])
                 for c in ravdess_clips() if c[6:8] != "02"]
        table = ClipTable(clips, EMOTIONS, data, "ravdess")
    return long_tail(table, int(Path(data).stem[4:])) if Path(data).stem.startswith("tail") else table


def steps_of(spec, part, table, methods, seeds):
    "(runs, steps of all of them) on one data set."
    from micacl.data.table import carve_validation
    from micacl.train.specification import configuration, grid_points
    points = grid_points(spec) if part is not spec else [{}]
    runs = steps = 0
    for m, seed, fold, point in itertools.product(methods, seeds, part.get("folds", [None]), points):
        c = configuration(spec, m, seed, point)
        each = c.steps_per_epoch(len(carve_validation(table.protocol(fold)[0], c.val_fraction, seed)[0]))
        runs, steps = runs + 1, steps + each * c.epochs_for(each)
    return runs, steps


def second_a_step():
    "Of one run, two side by side: the mean over the methods in results/end-to-end.json."
    made = json.loads((ROOT / "results" / "end-to-end.json").read_text())
    from micacl.train.config import Config
    n = Config().steps_per_epoch(round(made["spec"]["synfew"]["n_train"] * (1 - Config.val_fraction)))
    each = [m["seconds"] / (made["spec"]["base"]["epochs"] * n) for m in made["methods"].values()]
    return sum(each) / len(each)


def plan(spec, tables):
    "-> runs, steps, hours of an experiment; `tables`: of its data and of the data of its tuning."
    from micacl.train.specification import read_spec
    spec = read_spec(spec)
    tuned = [m for m, fields in spec["methods"].items() if "like" not in fields]
    runs, steps = steps_of(spec, spec, tables[0], spec["methods"], spec["seeds"])
    if "tune" in spec:
        more = steps_of(spec, spec["tune"], tables[1], tuned, spec["tune"].get("seeds", [1]))
        runs, steps = runs + more[0], steps + more[1]
    return dict(runs=runs, steps=steps, hours=steps * second_a_step() / 2 / 3600)


def line(name, p):
    return f"{name}: {p['runs']} runs, {p['steps']:,} steps, about {p['hours']:.0f} hours on two cores (an estimate)"


if __name__ == "__main__":
    from micacl.data.load import load_table
    file, folders = Path(sys.argv[1]), sys.argv[2:]
    spec = json.loads(file.read_text())
    names = [part["data"] for part in (spec, spec.get("tune", {})) if "data" in part]
    print(line(file.stem, plan(spec, [load_table(folders[k]) if k < len(folders) else complete(name)
                                      for k, name in enumerate(names)])))
