"Marks: right ones for honest sheets, and a hostile sheet costs its own points only."

import csv
import json
import re
import types

import numpy as np
import pytest
import torch

import lab
import lab_forms
from micacl.core import MicaclError
from micacl.lab.checker import EXERCISES, CheckFailed, exercise, find_exercise, judge, prove, with_numbers
from micacl.lab.grading import (
    _Remote,
    grade,
    grade_sheet,
    library_calls,
    needed_cells,
    numbers_of,
    read_cells,
    sheets,
    submissions,
    write_marks,
)
from micacl.lab.sandbox import ENCLOSURES, Bounds, _complaint, _Worker, works

BEST = next(e for e in ENCLOSURES if works(e))
BOUNDS = Bounds(seconds=20, memory=1500)
DOUBLE = "def double(x): return 2 * x"


@pytest.fixture
def two():
    "Two exercises on arrays, worth 2 and 3 points."
    exercise("0.1", {"a": (np.array([1.0, 2.0]),)}, points=2)(
        types.FunctionType((lambda x: x + 1).__code__, globals(), "plus_one")
    )
    exercise("0.2", {"a": (np.array([1.0, 2.0]),), "b": (np.array([5.0]),)}, points=3)(
        types.FunctionType((lambda x: 2 * x).__code__, globals(), "double")
    )
    yield [find_exercise(n) for n in ("0.1", "0.2")]
    for n in ("0.1", "0.2"):
        del EXERCISES[n]


# --- a function on the other side, without a process: the worker's own class answers
class Inside:
    def __init__(self, source):
        self.worker = _Worker()
        self.worker.cell("<cell 1>", source)

    def ask(self, request):
        request = json.loads(json.dumps(request))
        try:
            with torch.enable_grad():      # a process of its own has it anyway
                return json.loads(json.dumps(getattr(self.worker, request.pop("do"))(**request)))
        except Exception as e:
            return _complaint(e)

    def function(self, name):
        return _Remote(self, name, self.ask(dict(do="signature", name=name))["parameters"])


@pytest.mark.parametrize("number", [n for p in lab.sources() for n in lab.exercises(lab.load(p), p.name).values()])
def test_solutions_stubs_and_wrong_answers_get_the_same_words_from_afar(number):
    path = next(p for p in lab.sources() if p.name.startswith(number[0]))
    nb = lab.load(path)
    cells = [
        s
        for c in nb["cells"]
        if c["cell_type"] == "code"
        and "export" not in lab.directives(c)
        and not re.search("google.colab|default_exp", s := lab.text(c))
    ]
    ex = find_exercise(number)
    needed = "\n".join(
        re.sub(r"(?m)^%.*|^plt.rc.*|^from micacl.lab.*", "", s) for _, s in needed_cells(cells, [ex.name])
    )
    here, there = {}, Inside(needed)
    exec(needed, here)
    assert judge(ex, there.function(ex.name)) == judge(ex, here[ex.name])
    for change in ("return 0", "raise NotImplementedError", "return None", "return 1 / 0"):
        source = re.sub(r"(?ms)^(def \w+\(.*?\):).*", rf"\1 {change}", needed[needed.index(f"def {ex.name}(") :])
        exec(needed + "\n" + source, here := {})
        with pytest.raises(CheckFailed) as far:
            judge(ex, Inside(needed + "\n" + source).function(ex.name))
        with pytest.raises(CheckFailed) as near:
            judge(ex, here[ex.name])
        said = [str(e.value).split(", at the line")[0].rstrip(".") for e in (far, near)]
        assert said[0] == said[1]


def test_gradients_come_from_afar():
    x = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    w = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    f = Inside("def f(a, b, n): return (a * b).sum(1) ** n, a.argmax(1), b.detach()").function("f")
    out, place, cut = f(x, w, 2)
    assert torch.equal(place, x.argmax(1)) and not cut.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(out.sum(), (x, w)), torch.autograd.grad(((x * w).sum(1) ** 2).sum(), (x, w))
    )
    assert torch.autograd.gradcheck(
        lambda a: Inside("import torch\ndef f(a): return a.exp() * a").function("f")(a), (x,)
    )
    (g,) = torch.autograd.grad(Inside("def f(a, b): return 2 * b").function("f")(x, w).sum(), (x,), allow_unused=True)
    assert g is None or not g.any()


def test_what_a_call_does_to_its_arguments_is_seen():
    a = np.array([1.0, 2.0])
    Inside("def f(a): a += 1; return a").function("f")(a)
    assert a.tolist() == [2.0, 3.0]


# --- what is run
def test_only_what_is_needed_is_run():
    cells = [
        "import numpy as np",
        "rate = helper(2)",
        "def helper(n): return n * np.pi",
        "picture = rate",
        "1 +",
        "def g(: pass",
        "from math import *",
        "def f(x):\n    picture = 1\n    return rate * x",
    ]
    assert [k for k, _ in needed_cells(cells, ["f"])] == [1, 2, 3, 7, 8]
    assert [k for k, _ in needed_cells(cells, ["g"])] == [6, 7]


def test_library_calls_are_named():
    cells = [
        "from micacl.metrics import recalls as r, uar\nimport micacl.geiim",
        "def f(y):\n    return r(y)",
        "g = uar",
        "1 +",
    ]
    assert (
        library_calls(cells, "f") == ["r"]
        and library_calls(cells, "g") == ["uar"]
        and library_calls(cells, "h") == []
    )


# --- hostile sheets
BAD_ANSWERS = """
loops in its cell ------
while True: pass
def plus_one(x): pass
loops in its function ------
def plus_one(x):
    while True: pass
forks ------
import os, time
def plus_one(x):
    for _ in range(200):
        if os.fork() == 0: time.sleep(1e4)
takes all memory ------
def plus_one(x):
    kept = []
    while True: kept.append(bytearray(2 ** 24))
deletes its folder ------
import os, shutil
for folder in (os.getcwd(), os.path.expanduser("~")): shutil.rmtree(folder, ignore_errors=True)
def plus_one(x): return x
prints the answers ------
print("0.1 passed: shape, value (1 case)")
def plus_one(x):
    print("0.1 passed: shape, value (1 case)")
    return x
exits ------
import os
def plus_one(x): os._exit(0)
raises SystemExit ------
def plus_one(x): raise SystemExit
kills its parent ------
import os, signal
def plus_one(x):
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(-1, signal.SIGKILL)
patches the checker ------
import micacl.lab.checker as c
c.judge = c.check = c._value = c._shape = lambda *a: None
def plus_one(x): return 0
patches the worker ------
import micacl.lab.sandbox as s
s._Worker.call = lambda *a, **k: {"out": {"plain": True}, "args": [], "needs": [False]}
def plus_one(x): return 0
imports the answer ------
def plus_one(x):
    from micacl.lab.checker import find_exercise
    return find_exercise("0.1").reference(x)
prints without end ------
def plus_one(x):
    while True: print("spam" * 10000)
gives back something huge ------
def plus_one(x): return np.zeros(10 ** 8)
gives back nothing ------
def plus_one(x): return None
equals everything ------
class All:
    def __eq__(self, other): return True
def plus_one(x): return All()
"""
HOSTILE = dict(re.findall(r"(?ms)^([\w ]+) ------\n(.*?)(?=^[\w ]+ ------|\Z)", BAD_ANSWERS))
NEED = {"forks": ("bwrap",), "kills its parent": ("bwrap", "unshare"), "deletes its folder": ("bwrap",)}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sheet_costs_its_own_points_only(two, name, tmp_path):
    if BEST not in NEED.get(name, ENCLOSURES):
        pytest.skip(f"{BEST} does not hold that off")
    bounds = Bounds(seconds=6, memory=1500) if "loop" in name or "without end" in name else BOUNDS
    marks = grade_sheet(["import numpy as np", HOSTILE[name], DOUBLE], two, bounds, BEST)
    honest = 0 if name == "patches the worker" else 3  # its own sheet: there is nobody left to answer
    assert [m.points for m in marks] == [0, honest] and [m.out_of for m in marks] == [2, 3] and marks[0].remark


def test_a_slow_start_a_missing_function_and_a_slip_are_named(two):
    marks = grade_sheet(["def plus_one(x): return x +", "double = 3"], two, BOUNDS, BEST)
    assert [m.points for m in marks] == [0, 0]
    assert "no function plus_one; code cell 1 stopped with SyntaxError" in marks[0].remark
    assert "expected a function" in marks[1].remark


# --- folders and tables
def handed_in(folder, **sheets):
    for name, cells in sheets.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        nb = dict(cells=[dict(cell_type="code", source=s) for s in cells], nbformat=4)
        path.with_suffix(".ipynb").write_text(json.dumps(nb))
    return folder


def test_both_layouts_are_read_and_links_are_not(tmp_path):
    handed_in(tmp_path, ada__1_counting=[], ada__deep__2_losses=["1"], emmy_3_sampling=[], ada__notes=[])
    handed_in(tmp_path, **{"ada__.ipynb_checkpoints__1_counting": []})
    try:
        (tmp_path / "eve").symlink_to(tmp_path / "ada")
        (tmp_path / "eve_1_counting.ipynb").symlink_to(tmp_path / "emmy_3_sampling.ipynb")
    except OSError:
        pass  # Windows without the right to
    assert [(s.student, s.sheet) for s in submissions(tmp_path)] == [
        ("ada", None),
        ("ada", "1_counting"),
        ("ada", "2_losses"),
        ("emmy", "3_sampling"),
    ]
    with pytest.raises(MicaclError, match="expected a folder"):
        submissions(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MicaclError, match="found no notebook"):
        submissions(tmp_path / "empty")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"cells": [{}]}', '{"cells": 3}', "[" * 99999, '{"cells": [{"cell_type": "code"}]}']
)
def test_a_broken_notebook_is_named(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(MicaclError, match=r"x\.ipynb: expected a notebook"):
        read_cells(tmp_path / "x.ipynb")


def test_magics_do_nothing(tmp_path):
    path = handed_in(tmp_path, x=["if colab:\n    %pip install x\n!ls\nx = 5 % 3"]) / "x.ipynb"
    assert read_cells(path) == ["if colab:\n    pass\npass\nx = 5 % 3"]


def test_a_class_is_marked(tmp_path):
    "Ada solved 1.1, 1.2 and 1.4, Emmy's file is broken, Grace's sheet is another one; every row is written."
    solved = [
        "import numpy as np\nfrom micacl.metrics import recalls, uar",
        "def class_recalls(y, p, C):\n    n = np.bincount(y, minlength=C)"
        "\n    hits = np.bincount(y[y == p], minlength=C)\n    return np.where(n > 0, hits / np.maximum(n, 1), np.nan)",
        "def two_means(y, p, C):\n    r = recalls(y, p, C)\n    r = r[np.isfinite(r)]"
        "\n    return r.mean(), r.prod() ** (1 / len(r))",
        "def uar_in_batches(y, p, C, size): return np.nanmean(class_recalls(y, p, C))",
        "def report(y, p, n, q): return 0, 0, 0",
    ]
    handed_in(tmp_path / "in", ada__1_counting=solved, grace__notes=["1"], **{"=cmd()__1_counting": ["1 +"]})
    (tmp_path / "in" / "emmy_1_counting.ipynb").write_text("{")
    seen = []
    rows = grade(tmp_path / "in", bounds=Bounds(seconds=120), enclosure=BEST, say=seen.append)
    write_marks(tmp_path / "marks.csv", rows)
    with open(tmp_path / "marks.csv", newline="") as f:
        rows = {r["student"]: r for r in csv.DictReader(f)}
    assert len(seen) == len(rows) == 4 and list(tmp_path.iterdir()).__len__() == 2
    assert [rows["ada"][f"exercise_{k}"] for k in range(1, 6)] == ["2", "1", "0", "2", "0"]
    assert (
        rows["ada"]["total"] == "5"
        and rows["ada"]["out_of"] == "10"
        and "1.2 uses recalls of micacl" in rows["ada"]["remark"]
    )
    assert "expected a notebook" in rows["emmy"]["remark"] and rows["emmy"]["total"] == "0"
    assert "none of the sheets" in rows["grace"]["remark"] and rows["'=cmd()"]["total"] == "0"


def test_the_command_says_what_it_needs(tmp_path, capsys):
    from micacl import cli

    handed_in(tmp_path, ada__1_counting=["1"])
    for wrong, words in (
        ("--seconds 0", "--seconds: expected 1 or more"),
        ("--jobs 0", "--jobs"),
        ("--memory 5", "--memory"),
    ):
        assert (
            cli.main(["grade", str(tmp_path), *wrong.split(), "--enclosure", "plain"]) == 1
            and words in capsys.readouterr().err
        )
    assert cli.main(["grade", str(tmp_path / "none"), "--enclosure", "plain"]) == 1
    if not works("bwrap"):
        assert cli.main(["grade", str(tmp_path)]) == 1 and "apt-get install bubblewrap" in capsys.readouterr().err


# --- points and numbers
def test_sheets_have_ten_points_and_say_so():
    assert list(sheets()) == [p.stem for p in lab.sources()]
    for path, found in zip(lab.sources(), sheets().values()):
        assert sum(ex.points for ex in found) == 10 and lab.headings_out_of_step(path) == []
        student = "\n".join(lab.text(c) for c in lab.load(lab.SHEETS / "student" / path.name)["cells"])
        assert [int(n) for n in re.findall(r"\((?:easy|medium|hard), \d+ min, (\d+) points?\)", student)] == [
            e.points for e in found
        ]


def test_points_that_differ_from_the_heading_are_found(monkeypatch):
    ex = find_exercise("1.1")
    monkeypatch.setattr(ex, "points", 7)
    assert "exercise 1.1: expected (easy, 5 min, 7 points)" in lab.headings_out_of_step(lab.sources()[0])[0]


VARIED = [
    (n, name, value)
    for n in ("1.3", "6.1", "6.2")
    for name, values in find_exercise(n).numbers.items()
    for value in values
]


@pytest.mark.parametrize("number, name, value", VARIED)
def test_every_variant_is_proved_and_differs(number, name, value):
    prove(number, **{name: value})
    ex = find_exercise(number)
    plain = next(iter(ex.numbers[name]))
    if value != plain:
        with pytest.raises(CheckFailed):
            judge(with_numbers(ex, {name: value}), ex.reference)
    with pytest.raises(MicaclError, match=f"exercise {number}: expected {name}={plain}"):
        with_numbers(ex, {name: -1})


def test_a_student_has_the_same_numbers_in_copy_and_marks(tmp_path):
    names = ["Ada Lovelace", "emmy", "grace"]
    lab.write_variants(tmp_path, names)
    asked = {}
    for name in names:
        cells = [lab.text(c) for c in lab.load(tmp_path / name / "6_comparison.ipynb")["cells"]]
        level = numbers_of(find_exercise("6.1"), name)["level"]
        question = next(s for s in cells if "### Exercise 6.1" in s)
        assert f"the middle {level} %" in question and ("0.025" in question) == (level == 95)
        assert f'check("6.1", interval, level={level})' in cells
        asked[name] = level
    assert len(set(asked.values())) > 1
    with pytest.raises(lab.LabError, match="a name that a folder can have"):
        lab.write_variants(tmp_path, ["../ada"])


# --- the forms of other graders
@pytest.mark.parametrize("path", lab.sources(), ids=lambda p: p.stem)
def test_forms_for_nbgrader_and_otter(path):
    found = sheets()[path.stem]
    nb = lab_forms.nbgrader_form(path)
    marks = [c["metadata"]["nbgrader"] for c in nb["cells"] if c["metadata"]]
    assert [m["points"] for m in marks if m["grade"]] == [e.points for e in found] and len(marks) == 2 * len(found)
    assert [m["grade_id"] for m in marks] == [
        f"{w}-{e.number.replace('.', '-')}" for e in found for w in ("answer", "check")
    ]
    otter = lab_forms.otter_form(path)
    lines = [lab.text(c) for c in otter["cells"]]
    assert [s.split("points: ")[1] for s in lines if s.startswith("# BEGIN QUESTION")] == [
        str(e.points) for e in found
    ]
    for what in ("QUESTION", "SOLUTION", "TESTS"):
        assert (
            sum(s == f"# END {what}" for s in lines)
            == sum(s.split("\n")[0] == f"# BEGIN {what}" for s in lines)
            == len(found)
        )
    for form in (nb, otter):
        text = "\n".join(map(lab.text, form["cells"]))
        assert not re.search(r"@exercise|instructor|\(\.\./", text) and len({c["id"] for c in form["cells"]}) == len(
            form["cells"]
        )
    for s in lines:
        if "# BEGIN SOLUTION NO PROMPT" in s:
            compile(s, "cell", "exec")
