"The same marks from three graders: results/graders.json is of today's sheets, and a class goes all the way to a table."
import csv
import json
import re
from pathlib import Path

import pytest

import graders
import lab
from micacl import cli
from micacl.lab.sandbox import ENCLOSURES, works

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "results" / "graders.json").read_text(encoding="utf-8"))["sheets"]
SHEETS = lab.sources()
by_name = pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)


# --- the published comparison
@by_name
def test_three_graders_gave_todays_points(path):
    again = f'run: make graders SHEETS="{path.stem}"'
    assert path.stem in RESULTS, f"results/graders.json lacks the sheet {path.stem}; {again}"
    differ = graders.differences(path, RESULTS[path.stem]["marks"])
    assert not differ, "\n".join([*differ, f"if the sheet has changed, {again}"])


def test_the_file_says_what_it_was_made_with():
    pinned = dict(s.split("==") for s in (ROOT / "tools" / "graders-requirements.txt").read_text().split() if "==" in s)
    assert set(RESULTS) <= {p.stem for p in SHEETS} and {*pinned} == {*graders.GRADERS}
    for name, r in RESULTS.items():
        assert r["versions"] == pinned, f'{name}: run: make graders SHEETS="{name}"'
        assert re.fullmatch("[0-9a-f]{7,}", r["commit"]) and r["command"] == f"python tools/graders.py {name}"
        assert {"processor", "cpu_cores", "python", "torch"} <= {*r["machine"]} and r["seconds"] > 0
        assert {*r["cpu"]} == {*graders.TOOLS}


# --- the comparison itself
PATH = SHEETS[0]
EQUAL = {kind: {name: points for name in graders.TOOLS} for kind, points in graders.deserved(PATH).items()}


def change(where, value):
    marks = json.loads(json.dumps(EQUAL))      # no two share a part
    *way, last = where
    place = marks
    for key in way: place = place[key]
    if value is None: del place[last]
    else: place[last] = value
    return marks


@pytest.mark.parametrize("where, value, words", [
    (["solved", "otter", "1.2"], 0, "exercise 1.2, solved: expected 1, found 1 (micacl), 1 (nbgrader), 0 (otter)"),
    (["partly wrong", "micacl", "1.3"], 3, "exercise 1.3, partly wrong: expected 0, found 3 (micacl)"),
    (["solved", "nbgrader", "1.5"], None, "exercise 1.5, solved: expected 2, found 2 (micacl), None (nbgrader)"),
    (["not begun", "otter"], None, "exercise 1.1, not begun: expected 0, found 0 (micacl), 0 (nbgrader), None (otter)"),
    (["not begun"], None, "exercise 1.1, not begun: expected 0, found None (micacl)"),
    (["solved", "otter", "1.9"], 1, "exercise 1.9, solved: expected None, found None (micacl)"),
    (["looked up", "micacl", "1.1"], 2, "exercise 1.1, looked up: expected 0, found 2 (micacl)")])
def test_every_difference_is_named(where, value, words):
    assert graders.differences(PATH, EQUAL) == []
    found = graders.differences(PATH, change(where, value))
    assert found and found[0].startswith(words)


def test_all_three_wrong_in_the_same_way_is_a_difference():
    marks = json.loads(json.dumps(EQUAL))
    for name in graders.TOOLS: marks["solved"][name] = marks["not begun"]["micacl"]
    assert len(graders.differences(PATH, marks)) == len(lab.exercises(lab.load(PATH), PATH.name))


def test_what_a_sheet_is_worth_changes_with_its_points(monkeypatch):
    from micacl.lab.checker import find_exercise
    assert graders.differences(PATH, EQUAL) == []
    monkeypatch.setattr(find_exercise("1.1"), "points", 7)
    assert "exercise 1.1, solved: expected 7, found 2 (micacl)" in graders.differences(PATH, EQUAL)[0]


@by_name
def test_a_solution_that_students_are_shown_is_found(path, tmp_path):
    nb, line = lab.make_copy(path, "student"), sorted(lab.hidden_lines(path))[0]
    at = tmp_path / "release" / path.name
    at.parent.mkdir()
    at.write_text(lab.dump(nb), encoding="utf-8")
    assert graders.shown(path, at.parent) == []
    nb["metadata"]["otter"] = dict(tests=dict(q1=f"def f():\n    {line}\n"))
    at.write_text(lab.dump(nb), encoding="utf-8")
    assert graders.shown(path, at.parent) == [line]
    with pytest.raises(lab.LabError, match="students' copy shows"):
        graders.write_all(tmp_path / "in", at.parent, path)
    at.write_text(lab.dump(lab.make_copy(path, "student")), encoding="utf-8")
    (at.parent / "test_q1.py").write_text(f"def f():\n    {line}\n", encoding="utf-8")
    assert graders.shown(path, at.parent) == [line]


def test_a_copy_without_a_place_for_an_answer_is_refused():
    nb = lab.make_copy(PATH, "student")
    nb["cells"] = [c for c in nb["cells"] if "exercise 1.2: write" not in lab.text(c)]
    with pytest.raises(lab.LabError, match=r"1_counting\.ipynb: expected places for .* found none"):
        graders.hand_in(nb, PATH, "solved")


def test_sheets_that_are_not_measured_again_stay_in_the_file(tmp_path):
    out, (a, b) = tmp_path / "g.json", [p.stem for p in SHEETS[:2]]
    graders.keep(out, {b: {"marks": 1}, "0_gone": {}})
    graders.keep(out, {a: {"marks": 2}})
    assert json.loads(out.read_text())["sheets"] == {a: {"marks": 2}, b: {"marks": 1}}
    with pytest.raises(lab.LabError, match="expected sheets of 1_counting, .*; found 9_none"):
        graders.chosen(["9_none"])


def test_a_command_that_fails_is_an_error(tmp_path):
    with pytest.raises(lab.LabError, match="(?s)ended with status 3:.*what went wrong"):
        graders.sh(graders.sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)", cwd=tmp_path)


def test_the_script_writes_what_it_found_and_fails_where_marks_differ(tmp_path, monkeypatch, capsys):
    worth = graders.deserved(PATH)
    def tool(change): return lambda folder, path: {s: worth[kind] | change for s, kind in graders.STUDENTS.items()}
    monkeypatch.setattr(graders, "here", lambda: dict(nbgrader="1", otter="2"))
    monkeypatch.setattr("sys.argv", ["graders.py", PATH.stem, "--out", str(tmp_path / "g.json")])
    monkeypatch.setattr(graders, "TOOLS", dict.fromkeys(graders.TOOLS, tool({})))
    graders.main()
    assert "graders: equal marks in 1 sheets" in capsys.readouterr().out
    monkeypatch.setitem(graders.TOOLS, "otter", tool({"1.2": 0}))
    with pytest.raises(SystemExit, match="1 marks are not what they must be"): graders.main()
    assert "1.2, solved: expected 1, found 1 (micacl), 1 (nbgrader), 0 (otter)" in capsys.readouterr().out
    kept = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))["sheets"][PATH.stem]
    assert list(kept["marks"]) == list(graders.STUDENTS.values()) and kept["marks"]["solved"]["otter"]["1.2"] == 0
    monkeypatch.setitem(graders.TOOLS, "nbgrader", lambda folder, path: {})      # collected nothing
    with pytest.raises(SystemExit): graders.main()
    assert "1.1, solved: expected 2, found 2 (micacl), None (nbgrader), 2 (otter)" in capsys.readouterr().out


# --- a class, from the students' copies to the table
BEST = next(e for e in ENCLOSURES if works(e))
HOSTILE = """
    import os, pathlib
    for file in pathlib.Path({!r}).glob("*"): file.write_text("mine")
    print("1.4 passed: value")
    os._exit(0)
"""


def test_a_class_with_a_hostile_student_becomes_a_table(tmp_path, capsys):
    "Five students: what each answer deserves, and the hostile sheet loses one exercise of its own."
    release, handed_in = tmp_path / "release", tmp_path / "submissions"
    lab.write(release, "student")
    graders.write_all(handed_in, release, PATH)
    source = (handed_in / f"ada_{PATH.name}").read_text(encoding="utf-8")
    nb = json.loads(source)
    answer = next(c for c in nb["cells"] if lab.text(c).startswith("def uar_in_batches"))
    answer["source"] = [lab.text(answer).split("\n")[0], HOSTILE.format(str(handed_in))]
    (handed_in / f"mallory_{PATH.name}").write_text(json.dumps(nb), encoding="utf-8")
    out = tmp_path / "marks.csv"
    assert cli.main(["grade", str(handed_in), "--out", str(out), "--enclosure", BEST, "--seconds", "120"]) == 0
    assert f"{out}: 5 sheets of 5 students" in capsys.readouterr().out
    with open(out, newline="", encoding="utf-8") as f: rows = {r["student"]: r for r in csv.DictReader(f)}
    want = {s: list(graders.deserved(PATH)[kind].values()) for s, kind in graders.STUDENTS.items()}
    want["mallory"] = [*want["ada"][:3], 0, *want["ada"][4:]]
    assert list(rows) == sorted(want)
    for student, points in want.items():
        row = rows[student]
        assert [int(row[f"exercise_{k}"]) for k in range(1, len(points) + 1)] == points, row["remark"]
        assert int(row["total"]) == sum(points) and row["out_of"] == "10" and row["sheet"] == PATH.stem
    assert rows["ada"]["remark"] == "" and "1.3: is not written yet" in rows["grace"]["remark"]
    assert rows["mallory"]["remark"] == "1.4: ended its process"
    if BEST == "bwrap": assert (handed_in / f"ada_{PATH.name}").read_text(encoding="utf-8") == source
