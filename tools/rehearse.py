"""Rehearse the plans of nbs/teach/index.ipynb: run all code of their sessions in order. That is pages and solved
sheets, or, where a session has no sheet, the solutions of its pages' exercises; each notebook in a kernel of its own,
all in one environment and one fresh copy of the repository. Seconds go into results/plans.json.

    python tools/rehearse.py                 # all plans; an hour on two cores
    python tools/rehearse.py --plans 4       # only that of four sessions; the others keep what they have

A notebook that fails fails the command, and nothing is written.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import run
from slidekit.source import NBS, plans

ROOT = NBS.parent
RESULTS = ROOT / "results" / "plans.json"


def notebooks_of(pages, sheet):
    "Paths from the root, in the order of the session."
    lab = [f"lab/{sheet}"] if sheet else [f"solutions/{p}" for p in pages if (NBS / f"solutions/{p}.ipynb").exists()]
    return [f"nbs/{p}.ipynb" for p in (*pages, *lab)]


def copy_of_tree(folder):
    "The files that git knows, as they are now."
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if not (ROOT / name).is_file(): continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())


def rehearse(sessions, folder):
    "Run one plan in `folder`; returns [{title, seconds, notebooks}] and the number of notebooks that failed."
    done, failed = [], 0
    for k, (title, pages, sheet) in enumerate(sessions, 1):
        seconds = {}
        for name in notebooks_of(pages, sheet):
            _, took, error = run(folder / name, save=False)
            seconds[name] = round(took, 1)
            print(f"{'FAILED' if error else 'ok    '} {took:6.1f} s  session {k}: {name}", flush=True)
            if error: print(error, flush=True)
            failed += bool(error)
        done.append(dict(title=title, seconds=round(sum(seconds.values())), notebooks=seconds))
    return done, failed


def keep(found):
    "Write the plans that were rehearsed, beside the others."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import commit, machine
    about = dict(command="python tools/rehearse.py", commit=commit(parts=("micacl", "nbs")), machine=machine())
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else dict(plans={})
    same = all(old.get("machine", {}).get(k) == about["machine"].get(k) for k in ("processor", "cpu_cores"))
    plans_ = old["plans"] | {str(n): dict(commit=about["commit"], **({} if same or not old["plans"] else
                                                                     dict(machine=about["machine"])), sessions=s)
                             for n, s in found.items()}
    head = about if same or not old["plans"] else {k: old[k] for k in about}
    ordered = {n: plans_[n] for n in sorted(plans_, key=int)}
    RESULTS.write_text(json.dumps(dict(head, plans=ordered), indent=1) + "\n", encoding="utf-8", newline="\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--plans", nargs="+", type=int, choices=list(plans()), default=list(plans()))
    args = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found, failed = {}, 0
    for n in args.plans:
        with tempfile.TemporaryDirectory() as folder:
            copy_of_tree(Path(folder))
            os.environ["PYTHONPATH"] = folder      # the kernels import the package of the copy
            found[n], wrong = rehearse(plans()[n], Path(folder))
        print(f"plan of {n}: {sum(s['seconds'] for s in found[n])} s, {wrong} failed", flush=True)
        failed += wrong
    if not failed: keep(found)
    sys.exit(failed > 0)


if __name__ == "__main__": main()
