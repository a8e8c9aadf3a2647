"""The written part of teaching: syllabus, rubric, briefs and reading list say what the repository has.

The pages compute most of it themselves; here their saved outputs and their commands are held to the files."""
import json
import os
import re
import subprocess
import sys

import pytest

from references import BIB, read_bib
from sitekit.book import NBS, ROOT, notebooks

TEACH = NBS / "teach"


def cells(name): return json.loads((TEACH / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])
def shown(name):
    "All that a page says: its text and what its cells have printed."
    out = []
    for c in cells(name):
        if c["cell_type"] == "markdown": out.append(source(c))
        out += ["".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/markdown", ""))
                for o in c.get("outputs", [])]
    return "\n\n".join(out)


@pytest.mark.parametrize("name", ["syllabus", "rubric", "projects", "ethics"])
def test_links_lead_to_files(name):
    for address in re.findall(r"\]\((?!https?:)([^)#\s]+)", shown(name)):
        if "{" not in address: assert (TEACH / address).resolve().exists(), address


# --- the syllabus
def objectives():
    return re.findall(r"^(\d+)\. (\*\*.+?)\n    - taught: (.+)\n    - practised: (.+)\n    - examined: (.+)$",
                      shown("syllabus"), re.M)


def test_every_objective_of_the_course_has_pages_practice_and_questions():
    import yaml
    bank = {q["id"] for p in (TEACH / "quiz").glob("*.yml") for q in yaml.safe_load(p.read_text(encoding="utf-8"))}
    found = objectives()
    assert [int(n) for n, *_ in found] == list(range(1, len(found) + 1)) and 8 <= len(found) <= 12
    for _, text, taught, practised, examined in found:
        ids = re.findall(r"`([\w-]+)`", examined)
        assert len(ids) >= 2 and set(ids) <= bank, text
        assert "](../" in taught and ("](../lab/student/" in practised or "exercises of these pages" in practised)


def test_every_sheet_and_every_exercise_of_the_lab_is_in_the_syllabus():
    text = shown("syllabus")
    for path in (NBS / "lab").glob("[0-9]_*.ipynb"):
        for number in re.findall(r"^### Exercise (\d\.\d)", "\n".join(map(source, json.loads(path.read_text(
                encoding="utf-8"))["cells"])), re.M):
            assert f"[{number}](../lab/student/{path.name})" in text, (
                f"{number}: run python tools/pages.py --save nbs/teach/syllabus.ipynb")


def pages_in(table): return re.findall(r"\]\(\.\./((?!lab/)[\w/]+)\.ipynb\)", table)
def schedule(): return re.search(r"\*\*8 sessions\*\*.*?(?=\n## )", shown("syllabus"), re.S)[0]


def test_the_schedule_is_that_of_the_plans():
    "The pages of the plan of eight sessions on the opening page stand in the syllabus, in the same order."
    tables = ["".join(o.get("data", {}).get("text/markdown", "")) for c in cells("index") for o in c.get("outputs", [])]
    plan = next(t for t in tables if re.search(r"^\| 8 \|", t, re.M) and not re.search(r"^\| 9 \|", t, re.M))
    assert len(pages_in(plan)) > 10 and pages_in(schedule()) == pages_in(plan)
    sheets = lambda t: re.findall(r"lab/student/(\w+)\.ipynb", t)
    assert sheets(schedule()) == sheets(plan)


def test_the_workload_is_the_sum_of_what_the_pages_say():
    total = [0, 0]
    for p in pages_in(schedule()):
        first = source(json.loads((NBS / f"{p}.ipynb").read_text(encoding="utf-8"))["cells"][0])
        read, run, exercises = map(int, re.search(r"(\d+) to read, (\d+) to run, (\d+) for the ex", first).groups())
        total = [total[0] + read + run, total[1] + exercises]
    row = re.search(r"^\| 8 \| (\d+) \| (\d+) \|", shown("syllabus"), re.M)
    assert [int(row[1]), int(row[2])] == [round(total[0] / 60), round(total[1] / 60)]


def test_the_weights_are_a_whole():
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+) \|$", shown("syllabus").partition("## Assessment")[2], re.M)
    assert len(rows) == 4 and [sum(map(int, column)) for column in zip(*rows)] == [100, 100]


# --- the rubric
def test_every_criterion_has_four_levels_and_two_examples():
    text = shown("rubric")
    levels = dict(re.findall(r"^\| \d \| ([^|]+) \|(.+\|.+\|.+\|.+)\|$", text, re.M))
    examples = {a: (b, c) for a, b, c in re.findall(r"^\| \d \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.M)}
    assert len(levels) == 9 and levels.keys() == examples.keys()
    for name, row in levels.items():
        cells_ = [x.strip() for x in row.split("|")]
        assert len(cells_) == 4 and len(set(cells_)) == 4 and all(cells_), name
    assert all(good and bad for good, bad in examples.values())


# --- the briefs
def test_six_briefs_have_one_form():
    text = shown("projects")
    briefs = re.findall(r"^## \d\. .+?\(.+?\)\n(.+?)(?=^## )", text, re.S | re.M)
    assert len(briefs) == 6
    for b in briefs:
        for part in ("Question", "Data", "Start", "Cost", "Pitfalls", "A good one", "Marked by"):
            assert len(re.findall(rf"^- \*\*{part}", b, re.M)) == 1, (part, b[:80])
        assert re.search(r"^- \*\*To compare with\.\*\*.*\d", b, re.M) and "results/" in b, b[:80]


def test_baselines_are_in_the_files():
    r = json.loads((ROOT / "results/bakeoff.json").read_text(encoding="utf-8"))["methods"]
    u = {m: v["tests"]["test_balanced"]["uar"] for m, v in r.items()}
    best = max(u, key=lambda m: u[m]["mean"])
    assert f"the best row, {best}, {100 * u[best]['mean']:.1f} ± {100 * u[best]['sd']:.1f}" in shown("projects")
    demo = json.loads((ROOT / "results/demo.json").read_text(encoding="utf-8"))["runs"][0]
    assert f"UAR {100 * demo['tests']['test_balanced']['uar']:.1f} [" in shown("projects")


def commands(name):
    "Commands in backquotes -> {command of micacl: options used with it}."
    out = {}
    for line in re.findall(r"`(micacl [^`]+)`", shown(name)):
        out.setdefault(line.split()[1], set()).update(re.findall(r"--[\w-]+", line))
    return out


def test_the_commands_of_the_briefs_have_these_options():
    found = commands("projects")
    assert {"train", "synfew", "experiment", "get", "faces", "tail"} <= found.keys()
    for command, options in found.items():
        env = dict(os.environ, COLUMNS="300")
        said = subprocess.run([sys.executable, "-m", "micacl.cli", command, "--help"], cwd=ROOT, env=env, text=True,
                              capture_output=True, timeout=300).stdout
        assert said and all(o in said for o in options - {"--help"}), (command, options)


def test_scripts_and_files_of_the_briefs_exist():
    for path in re.findall(r"`(?:python )?((?:benchmarks|results|tools|nbs)/[\w./-]+)", shown("projects")):
        assert (ROOT / path).exists(), path


def test_the_line_of_the_first_project_runs():
    line = re.search(r'`python -c "(from micacl\.core .+?)"`', shown("projects"))[1]
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0 and "balanced softmax" in done.stdout, done.stderr


# --- the reading list
def test_the_reading_list_is_from_the_bibliography():
    entries = read_bib(BIB.read_text(encoding="utf-8"))
    rows = re.findall(r"^- \[([^\]]+)\]\(\.\./references\.md#(\w+)\): \*(.+?)[.?]\*? ?(.*)$", shown("syllabus"), re.M)
    assert len(rows) > 30 and len({k for _, k, *_ in rows}) == len(rows)
    for label, key, _, line in rows:
        assert key in entries and entries[key]["year"] in label, key
        assert len(line.split()) >= 4, f"{key}: expected a line on the work"


# --- the opening page
def test_the_opening_page_hands_on_and_does_not_repeat():
    text = "\n".join(source(c) for c in cells("index") if c["cell_type"] == "markdown")
    for name in ("syllabus", "rubric", "projects", "ethics"): assert f"]({name}.ipynb)" in text
    ethics = re.split(r"(?<=[.:])\s", "\n".join(source(c) for c in cells("ethics") if c["cell_type"] == "markdown"))
    faces = re.search(r"## Faces and people\n(.+?)(?=\n## )", text, re.S)[1]
    long = {s.strip() for s in ethics if len(s) > 120}
    assert not [s for s in long if s in faces]
    assert all(p.parent != TEACH or p.name == "index.ipynb" or f"]({p.name})" in text for p in notebooks())
