"The tests of the tests: the tool on a module of five lines, and what results/mutants.json says."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not hasattr(os, "fork"): pytest.skip("mutants are tried in copies of a process", allow_module_level=True)

import mutants  # noqa: E402

TOY = '''"A text."
LIMIT = 3

def grow(n: int = 0):
    "It grows."
    if n < 0: raise ValueError("less than " + str(0))
    while n < LIMIT: n += 1
    return n

class Box:
    def same(self, n): return n * 1

class Lid(Box):
    def same(self, n):
        below = super().same(n)
        return below
'''
TESTS = '''import pytest
import toy
from toy import Box, Lid, grow
def test_grow(): assert [grow(), grow(2), grow(7)] == [3, 3, 7]
def test_same(): assert Box().same(2) == Lid().same(2) == 2
def test_error():
    with pytest.raises(ValueError): grow(-1)
'''
SCRIPT = '''import json, sys, mutants
found, left_out = mutants.mutants_of(open("toy.py").read(), "toy")
ends = []
code = mutants.try_all([m for m in found if m["key"][3] in sys.argv[1:]], ["test_toy.py"], ends.append, "", "", 1)
print("\\n" + json.dumps([[m["key"][1:4] for m in found], left_out, [(e["key"][3], e["end"], e["by"]) for e in ends]]))
'''
ENDS = {"while n <= LIMIT: n += 1": ("killed", "test_toy.py::test_grow"),
        "while n < LIMIT: n -= 1": ("timed out", ""),
        "def same(self, n): return n / 1": ("survived", ""),                    # 2 / 1 == 2
        "def same(self, n): return n * 2": ("killed", "test_toy.py::test_same"),
        "below = None": ("killed", "test_toy.py::test_same"),                   # the function no longer holds its class
        "LIMIT = 4": ("killed", "test_toy.py::test_grow"),
        "if n < 1: raise ValueError(\"less than \" + str(0))": ("killed", "test_toy.py::test_grow")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "In a process of its own, for one that has computed may not be copied: mutants, what was left out, and ends."
    for name in ("mutmut", "libcst", "coverage"): pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    (folder / "test_toy.py").write_text(TESTS)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT / "tools"), *sys.path]))
    done = subprocess.run([sys.executable, "-c", SCRIPT, *ENDS], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_survived_and_endless(toy):
    assert {after: (end, by) for after, end, by in toy[2]} == ENDS


def test_what_is_a_mutant_and_what_is_left_out(toy):
    found, left_out, _ = toy
    assert ["grow", "def grow(n: int = 0):", "def grow(n: int = 1):"] in found
    assert ["Box.same", "def same(self, n): return n * 1", "def same(self, n): return n / 1"] in found
    assert ["", "LIMIT = 3", "LIMIT = 4"] in found
    assert not [m for m in found if "text" in m[1] or "grows" in m[1].lower()]
    assert left_out["docstrings"] >= 4 and left_out["errors that are raised, with their texts"] >= 3


def test_lines_that_differ():
    assert mutants.changed_lines("a\n  b   # c\nd\n", "a\n  e   # c\nd\n") == ("b", "e")
    assert mutants.changed_lines("a(\n  b,\n  c)\n", "a(\n  b)\n") == ("b, c)", "b)")
    assert mutants.changed_lines('x = "#"\n', 'x = ""\n') == ('x = "#"', 'x = ""')


def test_scores_count_what_survived_and_what_no_test_can_kill():
    found = [dict(key=["toy", "f", "a", str(n), 1], line=n) for n in range(10)]
    ends = {tuple(m["key"]): dict(end=end, seconds=.5) for m, end in zip(found, ["killed"]*6 + ["timed out"]
                                                                         + ["survived"]*3)}
    s = mutants.summary(found, ends, {("toy", "f", "a", "8"): "no input tells"})
    assert (s["mutants"], s["killed"], s["timed_out"], s["survived"], s["equivalent"], s["open"]) == (10, 6, 1, 3, 1, 2)
    assert s["score"] == 70.0 and s["score_without_equivalent"] == 77.8                       # 7/10, 7/9
    assert [v["reason"] for v in s["survivors"]] == ["open", "no input tells", "open"]


# ---- what is published

def test_every_reason_says_something_of_a_known_module():
    for (module, _, before, after), reason in mutants.reasons().items():
        assert module in mutants.MODULES and before != after and len(reason.split()) >= 5, (module, before, after)


def test_tests_of_a_module_exist():
    for files in mutants.MODULES.values():
        for name in files: assert (ROOT / "tests" / name).is_file(), name


def test_the_published_file_adds_up():
    file = ROOT / "results" / "mutants.json"
    if not file.exists(): pytest.skip("not measured yet: python tools/mutants.py --out results/mutants.json")
    report = json.loads(file.read_text(encoding="utf-8"))["modules"]
    assert report and set(report) <= set(mutants.MODULES)
    for name, m in report.items():
        assert re.fullmatch("[0-9a-f]{7,}", m["commit"]) and m["command"].startswith(f"python tools/mutants.py {name}")
        assert m["killed"] + m["timed_out"] + m["survived"] == m["mutants"] <= m["found"] and m["seconds"] > 0
        assert m["equivalent"] + m["open"] == m["survived"] == len(m["survivors"])
        assert m["open"] == sum(s["reason"] == "open" for s in m["survivors"])
