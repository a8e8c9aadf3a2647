"""Exercises state how hard they are and how long they take, and every exercise of the spine has a solution that runs.

The solutions are in nbs/solutions/, a notebook for each page, under the same name. tools/pages.py runs them; here their
text and their saved outputs are read."""
import ast
import re

import pytest

from sitekit.book import NBS, notebooks, read_page
from sitekit.exercises import answers, exercises, solution_of, solutions
from test_pages import BADGE, cells, name_of, prose, setup, source

SPINE = [p for p in notebooks() if p.parent == NBS]
PAGES = [p for p in notebooks() if p.stem != "index"]
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_solved = pytest.mark.parametrize("page", SPINE, ids=name_of)


def plain(text):
    "An exercise without what may differ between a page and its solutions: the addresses of links."
    return re.sub(r"\]\([^)\s]*\)", "]", text)


@each_page
def test_an_exercise_says_how_hard_it_is_and_how_long_it_takes(page):
    found = exercises(prose(page))
    assert 3 <= len(found) <= 5 and [e.number for e in found] == list(range(1, len(found) + 1))
    for e in found:
        assert e.difficulty, f"exercise {e.number}: expected `{e.number}. (easy, 5 min) Text`, found {e.text[:40]!r}"
        assert 5 <= e.minutes <= 60 and e.minutes % 5 == 0, f"exercise {e.number}: {e.minutes} min"


def test_every_page_of_the_spine_has_its_solutions():
    assert all(solution_of(p).exists() for p in SPINE)
    assert set(solutions()) <= {solution_of(p) for p in SPINE}, "solutions of no page"


@each_solved
def test_every_exercise_has_a_solution(page):
    asked = exercises(prose(page))
    found = answers(read_page(solution_of(page), "x.html").cells)
    assert [plain(e.text) for e, _ in found] == [plain(e.text) for e in asked]
    for (e, answer), a in zip(found, asked):
        assert (e.number, e.difficulty, e.minutes) == (a.number, a.difficulty, a.minutes)
        assert sum(len(c.source.split()) for c in answer) >= 15, f"exercise {e.number}: expected an answer"
    section = prose(page).partition("## Exercises")[2]
    assert f"](solutions/{page.name})" in section.partition("\n1. ")[0], "expected a link to them above exercise 1"


@each_solved
def test_a_notebook_of_solutions_opens_and_was_run(page):
    path = solution_of(page)
    first, second, *_ = cells(path)
    lines = [s for s in source(first).splitlines() if s.strip()]
    assert lines[0].startswith("# Solutions: ") and lines[1].startswith("> ") and f"](../{page.name})" in lines[1]
    assert lines[2] == BADGE.format(f"solutions/{page.stem}") and source(second) == setup(path)
    code = cells(path, "code")
    assert any(c["outputs"] for c in code), f"no saved outputs: python tools/pages.py --save {path}"
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]


@each_solved
def test_what_is_said_to_stand_on_the_page_stands_there(page):
    "A cell with the comment `# as on the page` repeats definitions of the page, so that the notebook runs by itself."
    theirs = "\n".join(source(c) for c in cells(page, "code"))
    for c in cells(solution_of(page), "code"):
        if not re.search(r"^# as on the page$", source(c), re.M): continue
        for statement in ast.parse(source(c)).body:
            own = ast.get_source_segment(source(c), statement)
            assert own in theirs, f"not on the page: {own[:60]}"


def test_what_is_no_exercise_is_noticed():
    text = "## Exercises\n\nTry.\n\n1. (easy, 5 min) Why?\n2. Show\n   it.\n\n## Other\n\n1. (hard, 20 min) No."
    one, two = exercises(text)
    assert (one.difficulty, one.minutes, one.text) == ("easy", 5, "Why?")
    assert (two.difficulty, two.minutes, two.text) == ("", 0, "Show it.")
