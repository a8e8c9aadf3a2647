"""No page of the spine uses a term before it is defined. The glossary lists the terms, each with a link to the place
where it is defined; there it stands in bold.

A use is the term or its plural in the running text of a markdown cell. The opening cell of a page and its headings
announce, and a link leads to an explanation; code and equations are left out too."""
import functools
import json
import re
from dataclasses import dataclass

import pytest

from sitekit.book import NBS, notebooks
from sitekit.links import slug

SPINE = [p for p in notebooks() if p.parent == NBS]
BOLD = re.compile(r"\*\*([^*]+)\*\*")


@dataclass
class Paragraph:
    page: str
    section: str        # anchor of the heading above
    text: str


@dataclass
class Term:
    forms: list         # "adjacency matrix", "adjacency"
    page: str           # where it is defined; empty: in no page of the spine
    section: str

    def pattern(self):
        words = "|".join(re.escape(f).replace(r"\ ", r"[\s-]") for f in self.forms)
        return re.compile(rf"(?<![\w-])(?:{words})(?:s|es)?(?![\w-])", 0 if self.forms[0].isupper() else re.I)


def paragraphs(name, cells):
    "The paragraphs of the markdown cells of a page, but for the first cell and the headings."
    out, section = [], ""
    for cell in [c for c in cells if c["cell_type"] == "markdown"][1:]:
        for part in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", "".join(cell["source"]), flags=re.S)):
            heading = re.match(r"#+ (.+)", part)
            if heading: section, part = slug(heading[1]), part.partition("\n")[2]
            out.append(Paragraph(name, section, part))
    return out


@functools.cache
def spine():
    return [x for p in SPINE for x in paragraphs(p.name, json.loads(p.read_text(encoding="utf-8"))["cells"])]


def said(text):
    "Running text: no code, equations, links or emphasis."
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\[[^\]]*\]\([^)\s]*\)", " ", text, flags=re.S)
    return text.replace("*", "")


def terms(text):
    "Terms of the glossary: **Term, other form (short).** Meaning. [Page](page.ipynb#Section)."
    out = []
    for entry in re.findall(r"^\*\*.+", text.partition("\n## Words\n")[2], re.M):
        head = BOLD.match(entry)[1].rstrip(".")
        forms = [f.strip() for f in re.split(r"[,()]", head) if f.strip()]
        place = re.search(r"\]\((\d\d_\w+\.ipynb)#([^)\s]+)\)", entry)
        out.append(Term(forms, place[1] if place else "", slug(place[2].replace("-", " ")) if place else ""))
    return out


def stands(term, paragraph):
    return any(term.pattern().fullmatch(b.strip(" .:,?")) for b in BOLD.findall(paragraph.text))


def wrong(term, text):
    "What is wrong with a term, in words, or None."
    name, pattern = term.forms[0], term.pattern()
    first = next((k for k, p in enumerate(text) if pattern.search(said(p.text))), None)
    at = next((k for k, p in enumerate(text) if (p.page, p.section) == (term.page, term.section) and stands(term, p)),
              None)
    if term.page and at is None: return f"{name}: expected it in bold in {term.page}, section {term.section!r}"
    if first is not None and (at is None or first < at):
        use = pattern.search(said(text[first].text))
        around = " ".join(said(text[first].text)[max(0, use.start() - 40):use.end() + 40].split())
        return (f"{name}: used in {text[first].page}, section {text[first].section!r} (... {around} ...), before it is "
                f"defined in {term.page or 'no page of the spine'}")


TERMS = terms((NBS / "glossary.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.forms[0])
def test_a_term_is_defined_before_it_is_used(term): assert not (problem := wrong(term, spine())), problem


def test_the_glossary_is_in_order():
    names = [t.forms[0].lower() for t in TERMS]
    assert len(names) > 80 and names == sorted(names) and len(set(names)) == len(names)


def test_mistakes_are_found():
    sources = ("# T\n\nWe define the hop.", "## One hop\n\nSee [hop](x.ipynb), `hop`, $hop$.",
               "## Two\n\nA **hop** is a step. Hops add.")
    text = paragraphs("07_g.ipynb", [dict(cell_type="markdown", source=s) for s in sources])
    assert not wrong(Term(["Hop"], "07_g.ipynb", "two"), text)
    assert "in bold" in wrong(Term(["Hop"], "07_g.ipynb", "one-hop"), text)
    assert "no page of the spine" in wrong(Term(["Hop"], "", ""), text)
    assert "before it is defined" in wrong(Term(["step"], "07_h.ipynb", "x"), [
        *text, Paragraph("07_h.ipynb", "x", "a **step** is")])
    assert [t.forms for t in terms("\n## Words\n\n**Expected error (EE).** It. [A](01_a.ipynb#B-c).")] == [
        ["Expected error", "EE"]]
