"""Do nbgrader, otter-grader and `micacl grade` give the same marks? Three students hand in each sheet: one has solved
it, one has answered one exercise wrongly and left one as it was, one has not begun. Each tool releases the sheet,
collects what was handed in and grades it, and the marks are compared exercise by exercise. No release may show a line
of a solution. A fourth student calls the references in the installed package: who gives points for that?

    make graders                        # makes the environment (.venv-graders) and compares all sheets
    make graders SHEETS="1_counting"    # only these; the others stay in results/graders.json as they are

    .venv-graders/bin/python tools/graders.py 1_counting       # one sheet; prints, writes nothing

A sheet takes two to four minutes of CPU. The environment is one of its own: the graders bring many libraries along.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lab
import lab_forms

ROOT = Path(__file__).parents[1]
SECONDS = 900      # for a cell: a busy machine must not cost points in one tool and not in the other
STUDENTS = dict(ada="solved", emmy="partly wrong", grace="not begun", eve="looked up")
LOOKED_UP = '    return __import__("micacl.lab.checker").lab.checker.find_exercise("{}").reference(*locals().values())'
WRONG, LEFT = 1, 2      # exercises of a partly wrong sheet, counted from 0: answered wrongly, left as it was


def answers(path, kind):
    "{function: source of its cell} of what a student has written."
    nb, found = lab.load(path), {}
    for k, (i, number) in enumerate(lab.exercises(nb, path.name).items()):
        if kind == "not begun" or kind == "partly wrong" and k == LEFT: continue
        source = "\n".join(s for s in lab.text(nb["cells"][i]).splitlines() if s.strip() not in (lab.BEGIN, lab.END))
        name = re.search(r"def (\w+)\(", source)[1]
        other = LOOKED_UP.format(number) if kind == "looked up" else "    return 0"
        if kind == "looked up" or kind == "partly wrong" and k == WRONG:
            source = source[:source.index("\n", source.index(f"def {name}(")) + 1] + other
        found[name] = source
    return found


def hand_in(nb, path, kind):
    "Write the answers into a copy that students were given; an error if a place for one is missing."
    mine = answers(path, kind)
    for cell in nb["cells"]:
        found = re.search(r"def (\w+)\(", lab.text(cell))
        if cell["cell_type"] == "code" and found and "raise NotImplementedError" in lab.text(cell) and found[1] in mine:
            cell["source"] = mine.pop(found[1]).splitlines(keepends=True)
    if mine: raise lab.LabError(f"{path.name}: expected places for {', '.join(mine)} in the students' copy, found none")
    return nb


def texts(value):
    "All strings of what JSON holds."
    if isinstance(value, str): return [value]
    if isinstance(value, list): return ["".join(value)] if value and all(isinstance(v, str) for v in value) else [
        s for v in value for s in texts(v)]
    return [s for v in value.values() for s in texts(v)] if isinstance(value, dict) else []


def shown(path, folder):
    "Lines of the solutions that a folder which students get shows, its checks and metadata included."
    found = []
    for file in filter(Path.is_file, folder.rglob("*")):
        text = file.read_text(encoding="utf-8")
        found += texts(json.loads(text)) if file.suffix == ".ipynb" else [text]
    return sorted(lab.hidden_lines(path) & {line.strip() for text in found for line in text.splitlines()})


def write_all(folder, release, path):
    "FOLDER/STUDENT_SHEET.ipynb of each student, written into what they were given."
    if found := shown(path, release): raise lab.LabError(f"{path.name}: the students' copy shows {found}")
    given = lab.load(release / path.name)
    folder.mkdir(parents=True)
    for student, kind in STUDENTS.items():
        nb = hand_in(json.loads(json.dumps(given)), path, kind)
        (folder / f"{student}_{path.name}").write_text(lab.dump(nb), encoding="utf-8")


def sh(*cmd, cwd):
    "Run a command with this environment's programs and nobody's settings."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON"))} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_CONFIG_DIR": str(cwd), "JUPYTER_DATA_DIR": str(cwd), "IPYTHONDIR": str(cwd / "ipython"),
        "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT),
    }
    cmd = [str(c) for c in cmd]
    r = subprocess.run(cmd, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, timeout=3600)
    if r.returncode: raise lab.LabError(f"{' '.join(cmd)} ended with status {r.returncode}:\n{r.stdout[-3000:]}")


def with_micacl(folder, path):
    "{student: {exercise: points}}: the students' copy of the book, a folder of what was handed in, `micacl grade`."
    from micacl.lab.grading import sheets
    from micacl.lab.sandbox import ENCLOSURES, works

    (folder / "release").mkdir()
    (folder / "release" / path.name).write_text(lab.dump(lab.make_copy(path, "student")), encoding="utf-8")
    write_all(folder / "submissions", folder / "release", path)
    sh(sys.executable, "-m", "micacl.cli", "grade", "submissions", "--out", "marks.csv", "--seconds", SECONDS,
       "--enclosure", next(e for e in ENCLOSURES if works(e)), cwd=folder)
    numbers = [ex.number for ex in sheets()[path.stem]]
    with open(folder / "marks.csv", newline="", encoding="utf-8") as f:
        return {r["student"]: {n: float(r[f"exercise_{k}"]) for k, n in enumerate(numbers, 1)}
                for r in csv.DictReader(f)}


def with_nbgrader(folder, path):
    "The same of nbgrader: generate_assignment, zip_collect, autograde, its database."
    from nbgrader.api import Gradebook

    def nbgrader(*words): sh(sys.executable, "-m", "nbgrader", *words, cwd=folder)

    lab_forms.write_nbgrader(folder, [path])
    nbgrader("generate_assignment", path.stem, "--create")
    write_all(folder / "downloaded" / path.stem / "archive", folder / "release" / path.stem, path)
    nbgrader("zip_collect", path.stem)
    nbgrader("autograde", path.stem, "--create", f"--ExecutePreprocessor.timeout={SECONDS}")
    marks = {}
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for submission in book.assignment_submissions(path.stem):
            (notebook,) = submission.notebooks
            marks[submission.student_id] = {g.name.removeprefix("check-").replace("-", "."): g.score
                                            for g in notebook.grades}
    return marks


def with_otter(folder, path):
    "The same of otter-grader: otter assign, and `otter run` for each notebook."
    lab_forms.write_otter(folder, [path])
    sh("otter", "assign", path.name, "dist", "--no-pdfs", "--no-run-tests", cwd=folder)
    write_all(folder / "submissions", folder / "dist" / "student", path)
    (bundle,) = (folder / "dist" / "autograder").glob("*.zip")
    marks = {}
    for student in STUDENTS:
        (out := folder / student).mkdir()
        mine = folder / "submissions" / f"{student}_{path.name}"
        sh("otter", "run", mine, "-a", bundle, "-o", out, "--no-logo", cwd=folder)
        tests = json.loads((out / "results.json").read_text(encoding="utf-8"))["tests"]
        marks[student] = {t["name"].removeprefix("q").replace("_", "."): t["score"] for t in tests if "score" in t}
    return marks


GRADERS = ("nbgrader", "otter-grader")
TOOLS = dict(micacl=with_micacl, nbgrader=with_nbgrader, otter=with_otter)


def compare(path, say=print):
    "{kind of answers: {tool: {exercise: points}}} and {tool: seconds of CPU} of a sheet."
    marks, cpu = {}, {}
    with tempfile.TemporaryDirectory(prefix="graders-", ignore_cleanup_errors=True) as tmp:
        for name, tool in TOOLS.items():
            (folder := Path(tmp, name)).mkdir()
            start, before = time.time(), sum(os.times()[:4])
            found = {s: {n: int(v) if v == int(v) else v for n, v in m.items()} for s, m in tool(folder, path).items()}
            cpu[name] = round(sum(os.times()[:4]) - before)
            for student, points in found.items(): marks.setdefault(STUDENTS[student], {})[name] = points
            say(f"{path.stem}: {name:8} {time.time() - start:4.0f} s, {cpu[name]} s of CPU: "
                + ", ".join(f"{kind} {sum(m[name].values()):g}" for kind, m in marks.items() if name in m),
                flush=True)
    return {kind: marks.get(kind, {}) for kind in STUDENTS.values()}, cpu


def deserved(path):
    "{kind of answers: {exercise: points}}: what the answers are worth."
    from micacl.lab.grading import sheets

    points = {ex.number: ex.points for ex in sheets()[path.stem]}
    wrong, bad = [], []
    for k, (number, (name, source)) in enumerate(zip(points, answers(path, "solved").items())):
        rest = source.split("\n", 1)[1]                     # an answer that calls a wrong one is wrong too
        if k in (WRONG, LEFT) or any(re.search(rf"\b{b}\(", rest) for b in bad): wrong.append(number); bad.append(name)
    none = dict.fromkeys(points, 0)
    return {"solved": points, "partly wrong": points | dict.fromkeys(wrong, 0), "not begun": none, "looked up": none}


def differences(path, marks):
    "Where a tool gives other marks than the answers deserve, in words; nothing if all tools give the same ones."
    said = []
    for kind, points in deserved(path).items():
        tools = ["micacl"] if kind == "looked up" else TOOLS      # the others let it pass, and the page says so
        found = {name: marks.get(kind, {}).get(name, {}) for name in tools}
        for number in sorted({*points, *(n for m in found.values() for n in m)}):
            got = {name: m.get(number) for name, m in found.items()}
            if set(got.values()) != {points.get(number)}:
                said.append(f"exercise {number}, {kind}: expected {points.get(number)}, found "
                            + ", ".join(f"{v} ({name})" for name, v in got.items()))
    return said


def here():
    "The versions of the environment, if it is one in which the comparison can be made."
    import micacl

    if (other := Path(micacl.__file__).parents[1]) != ROOT:
        raise lab.LabError(f"expected micacl of {ROOT}, found that of {other}; run `make graders`")
    try: return {n: version(n) for n in GRADERS}
    except PackageNotFoundError as e:
        raise lab.LabError(f"expected {' and '.join(GRADERS)}, found no {e.name}; run `make graders`") from None


def chosen(names):
    "Paths of sheets that are named, or of all."
    paths = {p.stem: p for p in lab.sources()}
    if unknown := set(names) - set(paths):
        raise lab.LabError(f"expected sheets of {', '.join(paths)}; found {', '.join(sorted(unknown))}")
    return [p for name, p in paths.items() if not names or name in names]


def measure(path, versions):
    "What results/graders.json says of a sheet."
    from common import commit, machine

    start, made = time.time(), dict(command=f"python tools/graders.py {path.stem}",
                                    commit=commit(parts=("micacl", "nbs", "tools")), machine=machine())
    marks, cpu = compare(path)
    return dict(made, versions=versions, seconds=round(time.time() - start), cpu=cpu, marks=marks)


def keep(out, found):
    "Put a sheet into the file; sheets that are gone leave it."
    from micacl.core import write_json

    have = json.loads(out.read_text(encoding="utf-8"))["sheets"] if out.exists() else {}
    have |= found
    write_json(out, dict(students=STUDENTS, sheets={p.stem: have[p.stem] for p in lab.sources() if p.stem in have}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sheets", nargs="*", metavar="SHEET", help="names of sheets (default: all)")
    p.add_argument("--out", type=Path, metavar="FILE", help="file for the results; other sheets stay in it")
    args = p.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    wrong = []
    try:
        versions, paths = here(), chosen(args.sheets)
        for path in paths:
            found = measure(path, versions)
            wrong += differences(path, found["marks"])
            if args.out: keep(args.out, {path.stem: found})
    except (lab.LabError, subprocess.TimeoutExpired) as e: sys.exit(f"graders: {e}")
    for line in wrong: print(f"graders: {line}")
    if wrong: sys.exit(f"graders: {len(wrong)} marks are not what they must be")
    print(f"graders: equal marks in {len(paths)} sheets")


if __name__ == "__main__": main()
