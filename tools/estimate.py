"""How long a file of results/ takes on two cores: as it was measured, or computed from the seconds that the file holds.
"""
import json

CORES = 2


def read(file): return json.loads(file.read_text(encoding="utf-8"))


def here(d):
    "A file that has a part for each machine: that of this one, or the last."
    if "machines" not in d: return d
    from micacl.train.machine import machine
    own = [m for m in d["machines"] if m["processor"] == machine()["processor"]]
    return (own or d["machines"])[-1]


def inside(d):
    "The seconds that a file says its parts took; not those of another checkout."
    if isinstance(d, list): return sum(map(inside, d))
    if not isinstance(d, dict) or "--checkout OTHER" in d.get("command", "") and "other_commit" not in d: return 0
    s = d.get("seconds")
    if isinstance(s, dict): return sum(x for x in s.values() if isinstance(x, (int, float)))
    return s if isinstance(s, (int, float)) else sum(map(inside, d.values()))


def paces(files):
    """{network: seconds of one epoch on one core}, the least that any experiment found: others may have been
    disturbed. A network is what its time depends on most."""
    out = {}
    for d in files:
        for m, r in d["methods"].items():
            key, epochs = _network(d["spec"], m)
            pace = r["seconds"] / epochs
            out[key] = min(pace, out.get(key, pace))
    return out


def _network(spec, method):      # -> what the time of an epoch depends on most, epochs
    own = spec["methods"].get(method, {})
    fields = {**spec["base"], **own}
    contrast = fields.get("contrast", "mccl") if fields.get("mccl_weight", 1.0) else ""
    return (spec["frozen"], own.get("mixed_precision", ""), fields.get("backbone", ""), fields.get("model", "micacl"),
            contrast, fields.get("stage2", "none"), json.dumps(fields.get("model_args", {}), sort_keys=True)
            ), fields.get("epochs") or 10


def planned_runs(
    file,           # specification
    known: dict,    # the results file of last time: the rates that were chosen, seconds
    pace: dict,     # of `paces`
) -> list:          # [(key, seconds on one core)] of the runs, of which several may be the same; then of the features
    """What an experiment trains. A network that no experiment has trained takes the mean of the others. The features
    of a frozen backbone cost at most the cheapest step of training, for each clip, seed and epoch."""
    from micacl.train.specification import configuration, grid_points, read_spec
    spec, methods, runs, features = read_spec(file), known.get("methods", {}), [], {}
    usual = [s for k, s in pace.items() if k[0] == spec["frozen"]]
    usual = sum(usual) / max(1, len(usual))
    step = min((r["step_seconds"] for r in methods.values()), default=0)

    def add(part, m, seed, chosen):
        c, data = configuration(spec, m, seed, chosen), json.dumps(part.get("data", part.get("synfew")))
        each = pace.get(_network(spec, m)[0], usual)
        for fold in part.get("folds", [None]):
            runs.append((f"{data} {fold} {json.dumps(c.to_dict(), sort_keys=True)}", each * c.epochs))
        for e in range(c.epochs if spec["frozen"] and "synfew" in part else 0):
            features[f"{data} seed {seed} epoch {e}"] = step * CORES * part["synfew"]["n_train"] / c.batch_size
    for m, fields in spec["methods"].items():
        for seed in spec["tune"].get("seeds", [1]) if "tune" in spec and "like" not in fields else ():
            for point in grid_points(spec): add(spec["tune"], m, seed, point)
        for seed in spec["seeds"]: add(spec, m, seed, methods.get(m, {}).get("chosen") or grid_points(spec)[0])
    return runs, list(features.items())


def is_experiment(entry): return entry.command.startswith("python benchmarks/experiment.py")


def experiment_runs(root, name):
    "`planned_runs` of an experiment of the project."
    file = root / "results" / f"{name}.json"
    pace = paces(x for f in sorted((root / "results").glob("*.json")) if "spec" in (x := read(f)))
    return planned_runs(root / "benchmarks" / f"{name}.json", read(file) if file.exists() else {}, pace)


def sharing(root, names):
    "What it saves that equal runs and features of several experiments are made once, in words."
    runs, features = [], []
    for name in names:
        r, f = experiment_runs(root, name)
        runs += r; features += f
    alone = sum(s for _, s in (*runs, *features)) / CORES
    once = sum(dict((*runs, *features)).values()) / CORES
    return (f"{len(names)} experiments ask for {len(runs)} runs, {len(dict(runs))} of them different; with the "
            f"features of frozen backbones about {clock(alone)} apart, {clock(once)} in one folder")


def seconds(root, name, entry, made, seen):
    "(seconds or None, where they are from); `seen`: runs and features of the plan so far, to which this one adds."
    file = root / "results" / f"{name}.json"
    d = read(file) if file.exists() else {}
    if is_experiment(entry):
        runs, features = experiment_runs(root, name)
        new = {k: s for k, s in (*runs, *features) if k not in seen}
        seen.update(new)
        n = len(new.keys() & dict(runs).keys())
        if name not in made: return sum(new.values()) / CORES or None, f"estimate: {n} of {len(runs)} runs"
    if name in made: return made[name]["seconds"], "measured"
    found = inside(here(d)) / entry.cores if entry.timed else 0
    return (found, "estimate: from the file") if found else (None, "not measured")


def clock(s): return "" if s is None else f"{s / 3600:.1f} h" if s >= 5400 else f"{s / 60:.0f} min"
