"The minutes that a page states are those that tools/minutes.py computes."
import json

import pytest

import pages
from minutes import TIMES, corrected, fives, lines, read, reading, seconds_of, words
from sitekit.book import NBS, ROOT, notebooks
from sitekit.exercises import solutions

SECONDS = seconds_of()
name_of = lambda p: p.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.relative_to(NBS).with_suffix("").as_posix())
def test_a_page_states_its_minutes(path):
    assert name_of(path) in SECONDS, f"run python tools/pages.py --times {name_of(path)}"
    right = corrected(path, SECONDS[name_of(path)]) == read(path)
    assert right, "run python tools/minutes.py --write"


def test_every_page_was_measured():
    measured = json.loads(TIMES.read_text(encoding="utf-8"))
    assert measured["command"].startswith("python tools/pages.py --times") and measured["machine"]["cpu_cores"]
    pages = {name_of(p) for p in (NBS / "index.ipynb", *notebooks(), *solutions())}
    assert set(SECONDS) == pages, "run python tools/pages.py --times with the pages that are missing"
    assert all(m["seconds"] > 0 and m["commit"] for m in measured["pages"].values())


def test_new_times_replace_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "TIMES", tmp_path / "pages.json")
    read_times = lambda: json.loads(pages.TIMES.read_text(encoding="utf-8"))
    first, second = NBS / "00_tour.ipynb", NBS / "index.ipynb"
    pages.keep_times({first: 1.26, second: 2, NBS / "gone.ipynb": 3}, "python tools/pages.py --times")
    pages.keep_times({second: 4}, "python tools/pages.py --times --jobs 1")
    seconds = {name: m["seconds"] for name, m in read_times()["pages"].items()}
    assert seconds == {"nbs/00_tour.ipynb": 1.3, "nbs/index.ipynb": 4}
    other = read_times() | dict(machine=dict(processor="another", cpu_cores=2))
    pages.TIMES.write_text(json.dumps(other))
    pages.keep_times({second: 5}, "python tools/pages.py --times")
    now = read_times()          # measured elsewhere: the time says where, the others are still the file's machine's
    assert now["machine"]["processor"] == "another" and now["pages"]["nbs/00_tour.ipynb"]["seconds"] == 1.3
    assert "machine" not in now["pages"]["nbs/00_tour.ipynb"]
    assert now["pages"]["nbs/index.ipynb"]["seconds"] == 5
    assert now["pages"]["nbs/index.ipynb"]["machine"]["processor"] != "another"


def test_words_and_lines_are_what_a_reader_reads():
    assert words("Two *words*, an equation $a + b_c$ and a [link of four](a/long/address.html).") == 10
    assert words("*Minutes:* 20 to read, 1 to run, 30 for the exercises.") == 0
    assert words("| a | b |\n|---|---|\n| c | d |") == 4
    code = lambda s: lines(dict(cell_type="code", source=s))
    assert code("#| exports\nx = 1   # one\n\n# a comment\ny = 2") == 2
    assert code("#| hide\nx = 1") == code("#| default_exp geiim") == 0 and code("#| hide_input\nx = 1") == 1
    assert [fives(m) for m in (0.2, 8.1, 9, 9.1, 10, 10.1)] == [1, 9, 9, 10, 10, 15]


def test_exercises_are_not_read_twice():
    cell = lambda s: dict(cell_type="markdown", source=s)
    text, tasks = cell("word " * 1000), cell("## Exercises\n\n1. (easy, 5 min) " + "word " * 1000)
    assert reading([text]) == reading([text, tasks]) == 5
