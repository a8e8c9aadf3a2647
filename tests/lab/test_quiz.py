"""The quiz bank: every number is computed, every figure is read from its file, every claim that code can check is run;
form does not give an answer away; and what goes to Moodle comes back.

The expressions in nbs/teach/quiz/*.yml know NumPy as np, torch, F and math, the functions below, `fact(name)`, which is
a figure of the question, and `result(file)`, which is a file of results/."""
import ast
import functools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from micacl import geiim, mccl, metrics, wian
from micacl.core import MicaclError, read_json
from micacl.data import bags
from micacl.lab import quiz
from micacl.lab.quiz import Answer, Question, as_html, as_source, as_text, kept_by_moodle, moodle_xml, read_moodle
from micacl.longtail import losses
from micacl.nn import contrast, pools

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "nbs" / "teach" / "quiz").glob("*.yml"))
BANK = {path.stem: quiz.read_questions(path) for path in FILES}
ALL = [q for some in BANK.values() for q in some]
SPINE = sorted(p.stem for p in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
CHOICES = [q for q in ALL if q.kind == "one"]
# what Moodle 4 lets a fraction be, in per cent; others are refused at the import
FRACTIONS = {0, 100, 90, 83.33333, 80, 75, 70, 66.66667, 60, 50, 40, 33.33333, 30, 25, 20, 16.66667, 14.28571, 12.5,
             11.11111, 10, 5}
name_of = lambda q: q.id
each = pytest.mark.parametrize("q", ALL, ids=name_of)
result = functools.cache(lambda name: read_json(ROOT / "results" / f"{name}.json"))


def names(q):
    "What the expressions of a question know."
    known = {k: getattr(m, k) for m in (metrics, contrast, mccl, pools, geiim, wian, losses, bags) for k in m.__all__}
    known |= dict(np=np, torch=torch, F=F, math=math, result=result, fact=q.facts.__getitem__)
    exec(q.setup, known)
    return known


def computed(q, answer):
    torch.manual_seed(0)
    return float(eval(answer.compute, names(q)))


@functools.cache
def objectives(page):
    "How many objectives stand at the top of a page."
    cells = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    block = "".join(cells[0]["source"]).partition("**Objectives.**")[2].partition("*Prerequisites:*")[0]
    return len(re.findall(r"^- ", block, re.M))


# --- the bank as a whole
def test_the_bank_covers_the_book():
    assert len(ALL) >= 60 and all(len(BANK[chapter]) >= 4 for chapter in SPINE)
    assert set(BANK) == {*SPINE, "longtail", "synfew", "findings"}
    assert len({q.id for q in ALL}) == len(ALL), Counter(q.id for q in ALL).most_common(1)
    assert {q.kind for q in ALL} == {"one", "several", "number"}
    assert min(Counter(q.difficulty for q in ALL).values()) >= 10
    for chapter, some in BANK.items():       # a file holds questions of its own chapter or part
        assert all(q.chapter == chapter or q.chapter.startswith(f"{chapter}/") for q in some)


def test_objectives_of_a_chapter_are_asked():
    "Not all of them can be, but most of each chapter of the spine."
    for chapter in SPINE:
        asked = {q.objective for q in BANK[chapter]}
        assert len(asked) >= objectives(chapter) / 2, f"{chapter}: only the objectives {sorted(asked)}"


def test_form_does_not_give_the_answer_away():
    n, guess = len(CHOICES), np.mean([1 / len(q.answers) for q in CHOICES])
    room = 2 * math.sqrt(guess * (1 - guess) / n)
    for pick in (max, min):      # of the longest and of the shortest
        share = np.mean([pick(q.answers, key=lambda a: len(a.text)).right for q in CHOICES])
        assert abs(share - guess) < room, f"{pick.__name__}: {share:.2f}"
    lengths = [(np.mean([len(a.text) for a in q.answers if a.right]),
                np.mean([len(a.text) for a in q.answers if not a.right])) for q in ALL if q.kind != "number"]
    assert .9 < np.mean([r / w for r, w in lengths]) < 1.1
    places = Counter(next(k for k, a in enumerate(q.answers) if a.right) for q in CHOICES)
    assert set(places) == set(range(4)) and all(abs(k / n - guess) < room for k in places.values()), places
    for a, b, c in zip(CHOICES, CHOICES[1:], CHOICES[2:]):       # not the same letter three times in a chapter
        letters = {next(k for k, x in enumerate(q.answers) if x.right) for q in (a, b, c)}
        assert len(letters) > 1 or a.chapter != c.chapter, f"{a.id}, {b.id}, {c.id}"


# --- each question
@each
def test_a_question_is_complete(q):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", q.id) and len(q.id) <= 40
    assert q.difficulty in ("easy", "medium", "hard") and 1 <= q.minutes <= 8
    assert (ROOT / "nbs" / f"{q.chapter}.ipynb").is_file() and 1 <= q.objective <= objectives(q.chapter)
    assert len(q.explain) >= 10 and (q.ask.rstrip(")").endswith("?") or "?" in q.ask)
    right, wrong = ([a for a in q.answers if a.right == r] for r in (True, False))
    assert len(right) == 1 if q.kind != "several" else 2 <= len(right) < len(q.answers)
    assert len(wrong) == 3 if q.kind == "one" else len(wrong) >= (2 if q.kind == "several" else 1)
    assert all(len(a.why) >= 15 and len(a.thinks) >= 15 for a in wrong), "a wrong answer without its reason"
    assert len({a.text for a in q.answers}) == len(q.answers)
    assert not any(re.match(r"(all|none|both) of (the above|these)", a.text.lower()) for a in q.answers)


@each
def test_texts_are_in_the_small_language(q):
    "Paragraphs, *emphasis*, `code` and $equations$: what pages, buttons and Moodle can all show."
    for text in (q.ask, q.explain, *(t for a in q.answers for t in (a.text, a.why, a.thinks))):
        assert text.count("$") % 2 == 0 and text.count("`") % 2 == 0 and text == text.strip()
        prose = re.sub(r"\$[^$]+\$|`[^`]+`", "", text)
        assert not re.search(r"\]\(|<|^#|\*\*|\\\(|\{\w+\}", prose), prose
        assert prose.count("*") % 2 == 0
    assert all(len(line) <= 90 for line in q.code.splitlines())
    assert not re.search(r"(?<!\w)\{[a-z_]+\}", q.code), "a figure that was not filled in"


@each
def test_numbers_are_computed(q):
    if q.kind != "number": return
    first, *slips = q.answers
    value = float(first.text)
    assert first.compute and abs(computed(q, first) - value) <= max(q.within, 1e-6) / 2 + 1e-9, computed(q, first)
    for a in slips:
        assert abs(float(a.text) - value) > 2 * q.within, f"{a.text} would be taken for {first.text}"
        digits = len(a.text.partition(".")[2])
        if a.compute: assert abs(computed(q, a) - float(a.text)) <= .51 * 10**-digits, computed(q, a)
    assert len({a.text for a in q.answers}) == len(q.answers)


@each
def test_what_a_question_says_is_so(q):
    try: code = bool(q.code) and bool(ast.parse(q.code))
    except SyntaxError: code = False
    # a bug is run, and what is said of a figure is checked against it
    assert q.check or not code, "expected lines that show the mistake"
    assert q.check or q.kind == "number" or not q.facts, "expected lines that check what is said of the figures"
    torch.manual_seed(0)
    exec(q.check, names(q))


# --- what is made of a question
@each
def test_text_of_a_page(q):
    text = as_text(q, 3)
    assert text.startswith("**3.** (") and text.count("<details>") == text.count("</details>") == 1
    assert all(a.text in text for a in q.answers) and q.explain in text
    seen = text.partition("<details>")[0]
    assert not any(a.why in seen for a in q.answers if len(a.why) > 20), "a reason before the answer is opened"


def test_the_page_shows_the_bank_of_today():
    page = json.loads((ROOT / "nbs" / "teach" / "quiz.ipynb").read_text(encoding="utf-8"))
    shown = "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for c in page["cells"]
                      for o in c.get("outputs", ()))
    for some in BANK.values():
        for k, q in enumerate(some, 1):
            assert as_text(q, k) in shown, f"{q.id}: python tools/pages.py --save nbs/teach/quiz.ipynb"


AWKWARD = Question("an-id", "longtail/losses", "several", "Is $a < b$ & `x<y>` *so*?\n\nSecond ]]> paragraph",
                   [Answer("yes & $p > q$", True, "w"), Answer("`no`", True),
                    Answer("ä € 'q' \"r\"", False, "why", "th")],
                   "e", "hard", 2, 1, "if a < b and c > 0:\n    print('&amp; ]]>')", check="pass")


def texts(node, name): return [c.text or "" for c in node.findall(f"{name}/text")]


def test_moodle_gets_what_it_expects():
    xml = moodle_xml(ALL)
    root = ET.fromstring(xml.encode())
    assert xml.startswith('<?xml version="1.0" encoding="UTF-8"?>') and root.tag == "quiz"
    kinds = Counter(q.get("type") for q in root)
    assert set(kinds) == {"category", "multichoice", "numerical"}
    assert kinds["multichoice"] + kinds["numerical"] == len(ALL)
    categories = [c for q in root for c in texts(q, "category")]
    assert categories[0] == "$course$/top/micacl/00_tour" and len(set(categories)) == len({q.chapter for q in ALL})
    assert xml.count("<![CDATA[") == xml.count("]]>") > 5 * len(ALL)
    ids = [q.findtext("idnumber") for q in root if q.get("type") != "category"]
    assert ids == [q.id for q in ALL]
    for node, q in zip((q for q in root if q.get("type") != "category"), ALL):
        assert all(texts(node, k) for k in ("name", "questiontext", "generalfeedback"))
        assert node.find("questiontext").get("format") == "html" and len(texts(node, "tags/tag")) == 4
        answers = node.findall("answer")
        fractions = [float(a.get("fraction")) for a in answers]
        assert abs(sum(f for f in fractions if f > 0) - 100) < 1e-3 and len(answers) == len(q.answers)
        assert all(min(abs(abs(f) - allowed) for allowed in FRACTIONS) < 1e-5 for f in fractions)
        if q.kind == "number":
            assert node.get("type") == "numerical" and all(float(a.findtext("tolerance")) >= 0 for a in answers)
            assert [float(a.findtext("text")) for a in answers] == [float(a.text) for a in q.answers]
        else:
            assert node.findtext("single") == str(q.kind == "one").lower() and node.findtext("shuffleanswers") == "true"
            assert all(a.get("format") == "html" for a in answers)
            if q.kind == "several": assert abs(sum(fractions)) < 1e-3       # everything ticked: nothing
        for text in (*texts(node, "questiontext"), *texts(node, "answer"), *texts(node, "answer/feedback")):
            ET.fromstring(f"<div>{text}</div>")         # HTML that is closed and escaped
            assert text.count(r"\(") == text.count(r"\)") and "$" not in text


def test_moodle_reads_back_to_the_same_bank():
    assert read_moodle(moodle_xml(ALL)) == [kept_by_moodle(q) for q in ALL]
    assert read_moodle(moodle_xml([AWKWARD, *ALL[:2]])) == [kept_by_moodle(q) for q in (AWKWARD, *ALL[:2])]
    changed = moodle_xml(ALL).replace('fraction="100.00000"', 'fraction="0"', 1)
    assert read_moodle(changed) != [kept_by_moodle(q) for q in ALL]


def test_html_and_back():
    for text in (AWKWARD.ask, r"$\frac{1}{2} < x$ and *so*", "`a*b*c` & more"): assert as_source(as_html(text)) == text
    assert as_html("a < b", paragraphs=False) == "a &lt; b" and as_html("$n_c$") == r"<p>\(n_c\)</p>"


@each
def test_buttons_of_jupyterquiz(q):
    pytest.importorskip("math_core")
    d, = quiz.for_jupyterquiz([q])
    assert d["type"] == dict(one="multiple_choice", several="many_choice", number="numeric")[q.kind]
    answers = [a for a in d["answers"] if a.get("type") != "default"]
    assert [a["correct"] for a in answers] == [a.right for a in q.answers]
    assert not re.search(r"\$|\\\(|\]\(", json.dumps({**d, "code": ""}).replace("\\\\", "")), "an equation is left over"
    if q.kind != "number": return
    low, high = answers[0]["range"]
    assert low <= float(q.answers[0].text) < high
    assert not any(low < a["range"][1] and a["range"][0] < high for a in answers[1:]), "a slip within the right range"


def shown(questions):
    "What a notebook is given to show, output by output."
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    InteractiveShell.instance()
    with capture_output() as got: quiz.show_quiz(questions)
    return [o.data for o in got.outputs]


def test_a_page_has_text_and_buttons():
    pytest.importorskip("jupyterquiz")
    pytest.importorskip("math_core")
    box, script = shown(BANK["00_tour"][:2])
    assert box["text/markdown"].count("<details>") == 2 and set(box) == {"text/markdown", "text/html"}
    place = re.search(r'<div id="(\w+)"', box["text/html"])[1]
    assert f"questions{place}=" in script["application/javascript"]


def test_without_jupyterquiz_the_text_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterquiz", None)
    assert [set(data) for data in shown(BANK["00_tour"][:2])] == [{"text/markdown"}]


# --- files that are not as they must be
GOOD = """
- id: one-two
  objective: 1
  difficulty: easy
  minutes: 2
  ask: Is it {v}?
  facts: {v: {file: numbers, key: [rows, {a: x}, v], as: percent}}
  answers: [{right: yes indeed}, {wrong: by no means, thinks: no way, why: because}]
  explain: So it is.
"""


def write(folder, text):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "numbers.json").write_text(json.dumps(dict(rows=[dict(a="y", v=0), dict(a="x", v=.256)])))
    (folder / "part.yml").write_text(text, encoding="utf-8")
    return folder / "part.yml"


def test_a_file_is_read(tmp_path):
    q, = quiz.read_questions(write(tmp_path, GOOD))
    assert (q.ask, q.chapter, q.kind, q.facts) == ("Is it 25.6?", "part", "one", dict(v=.256))
    assert q.answers[1].thinks == "no way"


@pytest.mark.parametrize("old, new, said", [
    ("minutes: 2\n", "\n", "one-two.*no 'minutes'"),
    ("{right: yes indeed}", "{right: yes indeed}, {right: maybe}", "expected 1 right answers, found 2"),
    (", why: because", "", "no 'why'"),
    ("{a: x}", "{a: z}", "one-two"),
    ("file: numbers", "file: none", "none.json: expected a JSON file"),
    ("as: percent", "as: '{:d}'", "one-two.*ValueError"),
    ("- id: one-two", "- id: [", "expected a list of questions in YAML"),
])
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(MicaclError, match=said) as e: quiz.read_questions(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(e.value)


# --- the command
def command(*args):
    return subprocess.run([sys.executable, ROOT / "tools" / "quiz.py", *map(str, args)], capture_output=True, text=True)


def test_the_command_writes_moodle(tmp_path):
    r = command("--moodle", tmp_path / "bank.xml")
    assert r.returncode == 0 and f"{len(ALL)} questions" in r.stdout, r.stderr
    assert read_moodle((tmp_path / "bank.xml").read_text(encoding="utf-8")) == [kept_by_moodle(q) for q in ALL]
    r = command("--moodle", tmp_path / "some.xml", "--chapters", "06_pooling", "synfew", "--minutes", 10)
    some = read_moodle((tmp_path / "some.xml").read_text(encoding="utf-8"))
    assert {q.chapter.split("/")[0] for q in some} == {"06_pooling", "synfew"}
    assert 8 <= sum(q.minutes for q in some) <= 10
    r = command("--chapters", "99_none")
    assert r.returncode == 1 and "expected chapters" in r.stderr and "Traceback" not in r.stderr
    paper = tmp_path / "paper.md"
    command("--text", paper, "--chapters", "00_tour", "--answers")
    assert paper.read_text(encoding="utf-8").count("<details>") == len(BANK["00_tour"])
    command("--text", paper, "--chapters", "00_tour")
    assert "details" not in paper.read_text(encoding="utf-8")
