"""On a page of the spine a letter means one thing, and the glossary says which.

The equations of the pages are read letter by letter; the tables of signs give a meaning to a letter on the pages that
their column *spine* names, and "Letters of one chapter" on the pages that it links to."""
import json
import re
from dataclasses import dataclass

import pytest

from sitekit.book import NBS, notebooks

SPINE = [p for p in notebooks() if p.parent == NBS]
EQUATION = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?![\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?![\d$])", re.S)
GREEK = set("alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi "
            "varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split())
TOKEN = re.compile(r"\\(hat|bar|tilde|mathcal|mathbb|mathbf|vec|dot)(?![A-Za-z])\s*\{?\s*(\\?[A-Za-z]+)|\\([A-Za-z]+)"
                   r"|([A-Za-z])")
WORDS = re.compile(r"\\(?:text|mathrm|operatorname)\*?\s*\{[^{}]*\}|\\(?:begin|end)\{\w+\}")


def equations(markdown):
    return [a or b for a, b in EQUATION.findall(re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S))]


def letters(tex):
    "The letters of an equation, indices included; one with a hat is a letter of its own."
    found = set()
    for accent, under, command, letter in TOKEN.findall(WORDS.sub(" ", tex)):
        if accent: found.add(f"\\{accent} {under}")
        elif letter or command in GREEK: found.add(letter or f"\\{command}")
    return found


def signs(tex):
    "The letters that a line of a table explains: without their indices."
    return letters(re.sub(r"[_^](?:\{[^{}]*\}|\\\w+|\w)", "", tex))


@dataclass
class Line:
    letters: set
    meaning: str
    pages: list         # "07"


def cells(line): return [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    "The lines of the glossary that explain letters on pages of the spine."
    signs_of, _, chapters = text.partition("\n## Letters of one chapter\n")
    out = []
    for table in re.findall(r"(?:^\|.*\n)+", signs_of, re.M):
        head, _, *rows = map(cells, table.splitlines())
        for row in (dict(zip(head, r)) for r in rows):
            found = set().union(*map(signs, equations(row["sign"])))
            meaning = next(v for k, v in row.items() if k.startswith("what"))
            if found: out.append(Line(found, meaning, row["spine"].split()))
    for row in map(cells, re.findall(r"^\| \[.*", chapters.partition("\n## ")[0], re.M)):
        pages = re.findall(r"\((\d\d)_\w+\.ipynb\)", row[0])
        if pages: out.append(Line(set().union(*map(signs, equations(row[1]))), row[1], pages))
    return out


def used(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    prose = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    return set().union(*(letters(e) for text in prose for e in equations(text)))


LINES = tables((NBS / "glossary.md").read_text(encoding="utf-8"))
each_page = pytest.mark.parametrize("path", SPINE, ids=lambda p: p.stem)


@each_page
def test_a_letter_has_one_meaning_on_a_page(path):
    here = [x for x in LINES if path.stem[:2] in x.pages]
    for letter in sorted(used(path)):
        said = [x.meaning for x in here if letter in x.letters]
        assert len(said) == 1, f"{letter} on page {path.stem}: expected one line of the glossary, found {said}"


@each_page
def test_the_tables_name_no_page_in_vain(path):
    for x in LINES:
        if path.stem[:2] in x.pages: assert x.letters & used(path), f"{path.stem} has none of {x.letters}: {x.meaning}"


def test_these_letters_mean_one_thing_in_the_whole_spine():
    for letter in ("C", "H", "N", "T", r"\tau", r"\gamma", r"\pi", r"\alpha"):
        assert len([x for x in LINES if letter in x.letters and x.pages]) == 1, letter


def test_letters_are_found():
    tex = r"\hat y_i = \mathrm{softmax}(\tau_0 \cdot W_c^{(k)}) \quad \text{for } \{c_1, \dots, c_C\}, \mathcal{L}"
    assert letters(tex) == {r"\hat y", "i", r"\tau", "W", "c", "k", "C", r"\mathcal L"}
    assert signs("n_c, E_{n_c}, S^s_{ij}, h^{(k)}") == {"n", "E", "S", "h"}
    assert equations("a $x$ and `$y$` for 5$\n\n$$\nz\n$$") == ["x", "\nz\n"]
    text = ("| sign | what it is | spine |\n|---|---|---|\n| $n_c$ | clips | 01 |\n\n## Letters of one chapter\n\n"
            "| chapter | letters |\n|---|---|\n| [X](01_x.ipynb) | $n$ |\n")
    assert [(x.letters, x.pages) for x in tables(text)] == [({"n"}, ["01"]), ({"n"}, ["01"])]
