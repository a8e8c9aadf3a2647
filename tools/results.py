"""Make every file of results/ from one commit: what is not there, or rests on code, weights or notebooks that have
changed since it was made.

    python tools/results.py --plan               # what would run, why, how long it takes
    python tools/results.py                      # run it; stopped, the same command goes on
    python tools/results.py ablations errors     # these only
    python tools/results.py --all                # everything that is not of this commit and this machine
    python tools/results.py --fer2013 FOLDER     # also what needs FER2013

The table of the files is benchmarks/entries.py. Scripts run one at a time in a checkout of the last commit
(WORK/checkout), and each file is copied here when it is made; results/made.json says how long it took. WORK keeps
clips, features and training runs, and experiments share them. What a file rests on is found by `rests.py`.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]
from entries import ENTRIES, NEEDS  # noqa: E402
from estimate import clock, here, is_experiment, read, seconds, sharing  # noqa: E402
from readers import readers  # noqa: E402
from rests import changed, git, rests_on  # noqa: E402

MADE = "made.json"
PARTS = ("micacl", "benchmarks", "tools", "nbs", "data", "settings.ini", "setup.py", "pyproject.toml", "Makefile")


def head(root): return (git(root, "rev-parse", "--short", "HEAD") or b"").decode().strip()


def digest(file): return sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else ""


# ---- the state of a file

def records(d, key=""):
    """[(commit, names)] of a file's parts, names of notebooks among them. A head over parts with commits of their own
    doesn't count, nor a row of another checkout."""
    if isinstance(d, list): return [r for x in d for r in records(x, key)]
    if not isinstance(d, dict) or "--checkout OTHER" in d.get("command", "") and "other_commit" not in d: return []
    inner = [(c, names | {key}) for k, v in d.items() for c, names in records(v, k)]
    own = [(d[k], {key} | _keys(d)) for k in ("commit", "networks_commit") if isinstance(d.get(k), str)]
    return inner or own


def _keys(d):
    if isinstance(d, dict): return set(d).union(*map(_keys, d.values()))
    return set().union(*map(_keys, d)) if isinstance(d, list) else set()


class State(NamedTuple):
    word: str           # fresh, stale, missing or kept
    why: str = ""


def state(root, name, entry, made, everything=False):
    "What a file of results/ is, taken alone."
    if not (file := root / "results" / f"{name}.json").exists(): return State("missing")
    parts, now = records(here(read(file))), head(root)
    if not parts: return State("stale", "it names no commit")
    if everything:
        known, machine = made.get(name, {}), machine_here()
        done = {c for c, _ in parts} == {now} and known.get("machine") == machine
        return State("fresh") if done else State("stale", "not made at this commit on this machine")
    notebooks = {p.relative_to(root).as_posix() for pattern in entry.rests for p in root.glob(pattern)}
    for commit, names in parts:
        mine = {p for p in notebooks if {p, Path(p).stem, _module(p)} & names}
        paths = mine if entry.rests else rests_on(root, " ".join(entry.run or (entry.command,)))
        if commit.endswith("+changes"): return State("stale", f"made with uncommitted changes ({commit})")
        if why := changed(root, commit, paths): return State("stale", why)
    for other, was in made.get(name, {}).get("after", {}).items():
        if digest(root / "results" / f"{other}.json") != was: return State("stale", f"{other}.json is another one now")
    return State("fresh")


def _module(path): return path.removeprefix("micacl/").removesuffix(".py").replace("/", ".")


def states(root, entries, made, everything=False):
    "{name: State} in order; what comes after a file that will be made again is stale too."
    out = {}
    for name, e in entries.items():
        s = state(root, name, e, made, everything)
        again = [a for a in e.after if a in out and out[a].word in ("stale", "missing")]
        if s.word == "fresh" and again: s = State("stale", f"comes after {again[0]}")
        out[name] = State("kept", "; ".join(filter(None, (e.kept, s.why)))) if e.kept else s
    return out


def machine_here():
    from micacl.train.machine import machine
    m = machine()
    return f"{m.get('processor', 'unknown')}, {m['cpu_cores']} cores, torch {m['torch'].split('+')[0]}"


# ---- running

def calls(entry, work, name, have):
    "The commands of an entry as lists of words; KeyError names what is missing."
    fill = {"work": str(work), "own": str(work / name), **{k: str(v) for k, v in have.items() if v}}
    run = entry.run or (entry.command.replace("WORK", "{work}"),)
    words = [[re.sub(r"\{([\w-]+)\}", lambda m: fill[m[1]], w) for w in shlex.split(c)] for c in run]
    return [[sys.executable if w[0] == "python" else w[0], *w[1:]] for w in words]


def lacking(entry, have):
    wanted = {k for c in entry.run for k in re.findall(r"\{([\w-]+)\}", c)} - {"work", "own"}
    return [k for k in NEEDS if k in wanted and not have.get(k)]


def checkout(root, work):
    "The last commit in a folder of its own."
    place = work / "checkout"
    if not (place / ".git").exists():
        git(root, "worktree", "prune")
        if git(root, "worktree", "add", "--detach", "--force", place, "HEAD") is None:
            sys.exit(f"results: {place}: expected room for a checkout, git could not make one; remove it")
    same = [p for p in PARTS if (root / p).exists()]          # at the same commit results/ stays as it was left
    to = ("HEAD", "--", *same) if head(place) == head(root) else ("--detach", head(root))
    if git(place, "checkout", "--quiet", "--force", *to) is None:
        sys.exit(f"results: {place}: expected a checkout, git could not bring it to {head(root)}; remove the folder")
    return place


def make(root, tree, work, name, entry, have, made):
    "Run one entry; -> a word on what went wrong, or nothing."
    file, start = tree / "results" / f"{name}.json", time.time()
    spent_file = work / "seconds.json"
    spent = read(spent_file) if spent_file.exists() else {}
    mark = f"{name} at {head(tree)}"
    begun = entry.anew and mark in spent                 # then the rows that are there are kept
    if tree != root:
        shutil.copytree(root / "results", tree / "results", dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns(file.name) if begun else None)
    if entry.anew and not begun: file.unlink(missing_ok=True)
    before = file.stat().st_mtime_ns if file.exists() else None
    env = dict(os.environ, PYTHONPATH=str(tree))
    try:
        for words in calls(entry, work, name, have):
            print(f"$ {shlex.join(words)}", flush=True)
            if (code := subprocess.run(words, cwd=tree, env=env).returncode): return f"ended with status {code}"
    except OSError as e: return f"could not be started: {e}"
    finally:
        spent[mark] = spent.get(mark, 0) + time.time() - start
        spent_file.write_text(json.dumps(spent))
    if not file.exists() or file.stat().st_mtime_ns == before: return f"wrote no results/{name}.json"
    if tree != root:
        shutil.copy(file, root / "results" / file.name)
        for p in entry.also: shutil.copytree(tree / p, root / p, dirs_exist_ok=True)
    made[name] = dict(seconds=round(spent.pop(mark)), commit=head(tree), machine=machine_here(),
                      after={a: digest(root / "results" / f"{a}.json") for a in entry.after})
    spent_file.write_text(json.dumps(spent))
    about = dict(command="python tools/results.py", files=dict(sorted(made.items())))
    (root / "results" / MADE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n")
    return ""


def pages_of(root, names):
    "Pages that read one of the files, or whose text names it."
    reading = {p for pages, _ in readers(names, root).values() for p in pages}
    hit = re.compile("|".join(rf"\b{re.escape(n)}\.json" for n in names))
    named = {p.relative_to(root).as_posix() for p in (root / "nbs").rglob("*.ipynb")
             if any(hit.search("".join(c["source"])) for c in read(p)["cells"])}
    return sorted(reading | named)


def plan(root, entries, found, todo, have, made):
    "The table, and the sum of what would run."
    seen, total, unknown, order, lack = {}, 0.0, [], 0, []
    for name, e in entries.items():
        s, needs = found[name], lacking(e, have)
        took, how = (None, "") if e.kept else seconds(root, name, e, made, seen if name in todo else dict(seen))
        if name in todo:
            order += 1; total += took or 0
            if took is None: unknown.append(name)
        lack += needs
        why = "; ".join(filter(None, (s.why, needs and f"needs {', '.join(f'--{n}' for n in needs)}",
                                      "makes weights: only when named" if e.also and name not in todo else "")))
        number = f"{order}." if name in todo else ""
        print(f"{number:>3} {name:18} {s.word:7} {clock(took):>7}  {how:29} {why}".rstrip())
    for n in dict.fromkeys(lack): print(f"--{n}: {NEEDS[n]}")
    if len(several := [n for n in todo if is_experiment(entries[n])]) > 1: print(sharing(root, several))
    print(f"{order} to run, about {clock(total)} in all" + (f"; not measured: {', '.join(unknown)}" if unknown else ""))


def run(root, args, entries, found, todo, have, made):
    "One after the other; -> {name: what went wrong}."
    args.work.mkdir(parents=True, exist_ok=True)
    work, failed = args.work.resolve(), {}
    tree = root if args.changes else checkout(root, work)
    for n, name in enumerate(todo, 1):
        if stuck := [a for a in entries[name].after if a in failed]:
            failed[name] = f"comes after {stuck[0]}"; continue
        print(f"=== {n}/{len(todo)} {name} ({': '.join(filter(None, found[name]))})", flush=True)
        if why := make(root, tree, work, name, entries[name], have, made): failed[name] = why
        print(f"=== {name}: {failed.get(name) or clock(made[name]['seconds'])}", flush=True)
        if entries[name].also and git(tree, "status", "--porcelain", "--", *entries[name].also):
            print("the weights have changed: look at them, commit them, and call again"); break
    if (done := [n for n in todo if n not in failed and n in made]) and (pages := pages_of(root, done)):
        print(f"Pages that show what was made: python tools/pages.py --save {' '.join(pages)}\n"
              "Tables of the README: python tools/record_demo.py")
    return failed


def refuse_changes(root):
    "A file would name a commit that lacks what made it."
    if dirty := git(root, "status", "--porcelain", "--untracked-files=no", "--", *PARTS):
        sys.exit(f"results: {dirty.decode().splitlines()[0].split()[-1]} has uncommitted changes, and the files would "
                 "name a commit that lacks them: commit first, or give --changes")


def arguments(argv, root, entries):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="NAME", help="files of results/ without .json (default: all)")
    p.add_argument("--plan", action="store_true", help="print what would run, and end")
    p.add_argument("--all", action="store_true", help="all that is not of this commit and this machine")
    p.add_argument("--work", type=Path, default=root / "_results", help="folder to work in (default: _results)")
    p.add_argument("--changes", action="store_true", help="run the tree as it is, with uncommitted changes")
    for k, words in NEEDS.items(): p.add_argument(f"--{k}", type=Path, metavar="PATH", help=words)
    args = p.parse_args(argv)
    if unknown := [n for n in args.names if n not in entries]: p.error(f"unknown name {', '.join(unknown)}")
    return args, {k: v.expanduser().absolute() for k in NEEDS if (v := getattr(args, k.replace("-", "_")))}


def chosen(args, entries, found, have):
    "The names that will run, in order; says why one that was asked for will not."
    def wanted(n): return n in args.names if args.names or entries[n].also else True
    for n in args.names:
        if entries[n].kept: print(f"{n} is not made here: {entries[n].kept}")
        elif lack := lacking(entries[n], have): print(f"{n} needs {', '.join(f'--{k}' for k in lack)}")
        elif found[n].word == "fresh": print(f"{n} is fresh")
    return [n for n in entries if found[n].word in ("stale", "missing") and wanted(n) and not lacking(entries[n], have)]


def main(argv=None, root=ROOT, entries=None):
    entries = ENTRIES if entries is None else entries
    args, have = arguments(argv, root, entries)
    made = read(file)["files"] if (file := root / "results" / MADE).exists() else {}
    if args.names:
        near = {*args.names, *(a for n in args.names for a in entries[n].after)}
        entries = {n: e for n, e in entries.items() if n in near}
    found = states(root, entries, made, args.all)
    todo = chosen(args, entries, found, have)
    if args.plan: return plan(root, entries, found, todo, have, made)
    if not args.changes: refuse_changes(root)
    if failed := run(root, args, entries, found, todo, have, made):
        sys.exit("results: " + "; ".join(f"{n}: {why}" for n, why in failed.items()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("results: ended; the same command goes on"))
    try: main()
    except KeyboardInterrupt: sys.exit("results: interrupted; the same command goes on where it stopped")
