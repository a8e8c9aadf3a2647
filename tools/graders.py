"""Do nbgrader, otter-grader and `micacl grade` give the same marks? The sheets are handed in three times: solved,
partly wrong and not begun; each tool releases, collects and grades in its own way. In an environment of its own:

    python -m venv /tmp/graders
    /tmp/graders/bin/pip install -e ".[notebooks]" nbgrader otter-grader
    /tmp/graders/bin/python tools/graders.py --out results/graders.json
    /tmp/graders/bin/python tools/graders.py 1_counting         # one sheet; prints, writes nothing
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import lab
import lab_forms

ROOT = Path(__file__).parents[1]
SECONDS = 900      # a busy machine must not cost points in one tool and not in the other
KINDS = ("solved", "partly wrong", "not begun")


def answers(path, kind):
    "{function: source of its cell, or None for what a student leaves as it is}."
    nb, found = lab.load(path), {}
    for k, (i, _) in enumerate(lab.exercises(nb, path.name).items()):
        source = "\n".join(s for s in lab.text(nb["cells"][i]).splitlines() if s.strip() not in (lab.BEGIN, lab.END))
        name = re.search(r"def (\w+)\(", source)[1]
        if kind == "not begun" or kind == "partly wrong" and k == 2:
            source = None
        elif kind == "partly wrong" and k == 1:
            source = source[: source.index("\n")] + "\n    return 0"
        found[name] = source
    return found


def hand_in(nb, path, kind):
    "Write the answers into what a student was given."
    mine = answers(path, kind)
    for cell in nb["cells"]:
        source = lab.text(cell)
        name = (re.search(r"def (\w+)\(", source) or [None, None])[1]
        if cell["cell_type"] == "code" and mine.get(name) and "raise NotImplementedError" in source:
            cell["source"] = mine[name].splitlines(keepends=True)
    return nb


def sh(*cmd, cwd):
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MPLBACKEND": "Agg",
    }
    r = subprocess.run([str(c) for c in cmd], cwd=cwd, capture_output=True, text=True, env=env)
    if r.returncode:
        sys.exit(f"graders: {' '.join(map(str, cmd))} failed\n{r.stdout[-3000:]}{r.stderr[-3000:]}")


def with_micacl(folder, path, kind):
    "{exercise: points} of our own grader."
    from micacl.lab.grading import Bounds, Submission, grade_one, sheets

    (folder / "micacl").mkdir(exist_ok=True)
    (at := folder / "micacl" / path.name).write_text(
        lab.dump(hand_in(lab.make_copy(path, "student"), path, kind)), encoding="utf-8"
    )
    row = grade_one(Submission(kind, path.stem, at), bounds=Bounds(seconds=SECONDS))
    return {ex.number: row[f"exercise_{k}"] for k, ex in enumerate(sheets()[path.stem], 1)}


def with_nbgrader(folder, path, kind):
    "{exercise: points} of nbgrader: generate_assignment, submitted/, autograde, its database."
    from nbgrader.api import Gradebook

    student, course = kind.replace(" ", "-"), folder / "course"
    if not (course / "release" / path.stem).exists():
        lab_forms.write_nbgrader(course, [path])
        sh(sys.executable, "-m", "nbgrader", "generate_assignment", path.stem, "--create", cwd=course)
    given = lab.load(course / "release" / path.stem / path.name)
    (at := course / "submitted" / student / path.stem).mkdir(parents=True)
    (at / path.name).write_text(lab.dump(hand_in(given, path, kind)), encoding="utf-8")
    sh(sys.executable, "-m", "nbgrader", "autograde", path.stem, "--create", "--student", student,
       f"--ExecutePreprocessor.timeout={SECONDS}", cwd=course)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        (notebook,) = book.find_submission(path.stem, student).notebooks
        return {g.name.removeprefix("check-").replace("-", "."): g.score for g in notebook.grades}


def with_otter(folder, path, kind):
    "{exercise: points} of otter-grader: otter assign, otter run."
    from otter.run import main as otter_run

    at = folder / "otter" / path.stem
    if not at.exists():
        lab_forms.write_otter(folder / "masters", [path])
        sh("otter", "assign", folder / "masters" / path.name, at, "--no-pdfs", "--no-run-tests", cwd=folder)
    given = lab.load(at / "student" / path.name)
    (mine := at / kind.replace(" ", "_")).mkdir()
    (mine / path.name).write_text(lab.dump(hand_in(given, path, kind)), encoding="utf-8")
    (bundle,) = (at / "autograder").glob("*.zip")
    found = otter_run(str(mine / path.name), autograder=str(bundle), output_dir=str(mine), no_logo=True)
    return {name.removeprefix("q").replace("_", "."): r.score for name, r in found.results.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sheets", nargs="*", help="names of sheets (default: all)")
    p.add_argument("--out", type=Path, metavar="FILE", help="file for the result")
    args = p.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import commit, machine

    paths = [p for p in lab.sources() if not args.sheets or p.stem in args.sheets]
    tools, rows, start = dict(micacl=with_micacl, nbgrader=with_nbgrader, otter=with_otter), [], time.time()
    folder = Path(tempfile.mkdtemp(prefix="graders-"))
    try:
        for path in paths:
            for kind in KINDS:
                points = {name: tool(folder, path, kind) for name, tool in tools.items()}
                rows.append(
                    dict(
                        sheet=path.stem,
                        answers=kind,
                        **{n: sum(v.values()) for n, v in points.items()},
                        exercises=points["micacl"],
                        equal=points["micacl"] == points["nbgrader"] == points["otter"],
                    )
                )
                print(json.dumps(rows[-1]), flush=True)
                if not rows[-1]["equal"]:
                    print("graders: they differ:", json.dumps(points), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.out:
        from micacl.core import write_json

        write_json(
            args.out,
            dict(
                command=" ".join(["python tools/graders.py", *sys.argv[1:]]),
                commit=commit(parts=("micacl", "nbs", "tools")),
                machine=machine(),
                seconds=round(time.time() - start),
                versions={n: version(n) for n in ("nbgrader", "otter-grader")},
                marks=rows,
            ),
        )
    sys.exit(not all(r["equal"] for r in rows))


if __name__ == "__main__":
    main()
