"""The paper about the course and the checklist of its journal: figures from their files, keys in the bibliography,
links to files that exist."""
import json
import re

import pytest

import paper
from references import BIB, families, link, read_bib
from sitekit.book import NBS, ROOT

TEXT = (ROOT / "paper" / "paper.md").read_text(encoding="utf-8")
ENTRIES = read_bib((ROOT / "paper" / "paper.bib").read_text(encoding="utf-8"))


def cells(name): return json.loads((NBS / "teach" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])


def test_the_figures_of_the_paper_are_those_of_the_repository():
    assert TEXT == paper.written(), "run python tools/paper.py"


def test_figures_by_another_way():
    "Read off the files here, and not through tools/paper.py."
    a = json.loads((ROOT / "results/ablations.json").read_text(encoding="utf-8"))
    gain = 100 * (a["methods"]["MICACL"]["tests"]["test_balanced"]["uar"]["mean"]
                  - a["methods"]["mean pooling"]["tests"]["test_balanced"]["uar"]["mean"])
    assert f"MICACL is {gain:.1f} [" in TEXT
    sheets = len(list((NBS / "lab").glob("[0-9]_*.ipynb")))
    assert f"{paper.WORDS[sheets].capitalize()} lab sheets with " in TEXT
    dark, light = map(int, re.search(r"skins is (\d+) %, on the lightest (\d+) %", TEXT).groups())
    shown = next("".join(o["data"]["text/markdown"]) for c in cells("ethics") for o in c.get("outputs", [])
                 if "darkest third |" in "".join(o.get("data", {}).get("text/markdown", "")))
    row = re.search(r"^\| MICACL \| ([\d.]+) \[.*?\| ([\d.]+) \[.*?\| ([\d.]+) \[", shown, re.M)
    assert abs(float(row[1]) - dark) <= .5 and abs(float(row[3]) - light) <= .5      # the page shows the same


def test_a_name_without_a_figure_is_told():
    with pytest.raises(ValueError, match="expected the names"): paper.filled("{a} {b}", dict(a=1))
    with pytest.raises(ValueError, match="expected the names"): paper.filled("{a}", dict(a=1, b=2))
    assert paper.filled("{a} of {b}", dict(a=1, b="two")) == "1 of two"


def test_the_header_is_the_journals():
    import yaml
    head = yaml.safe_load(TEXT.split("---")[1])
    assert head.keys() == {"title", "tags", "authors", "affiliations", "date", "bibliography"}
    assert head["bibliography"] == "paper.bib" and len(head["tags"]) >= 3
    known = {str(a["index"]) for a in head["affiliations"]}
    assert all(a["name"] and set(str(a["affiliation"]).split(", ")) <= known for a in head["authors"])


def test_the_paper_has_the_parts_that_the_journal_asks_for():
    parts = re.findall(r"^# (.+)", TEXT, re.M)
    assert parts == ["Summary", "Statement of need", "Learning objectives", "Content", "Instructional design",
                     "Experience of use", "Story", "Acknowledgements", "References"]
    assert paper.words() <= 1000


def test_keys_are_those_of_the_bibliography():
    used = set(re.findall(r"@([a-z]+\d{4})", TEXT.split("---", 2)[2]))
    assert used == set(ENTRIES) and list(ENTRIES) == sorted(ENTRIES)
    ours = read_bib(BIB.read_text(encoding="utf-8"))
    for key, e in ENTRIES.items():
        assert re.fullmatch(r"10\.\d{4,}/\S+", e["doi"]) and link(e) and e["year"] in key
        if key in ours:
            assert (e["title"], e["author"]) == (ours[key]["title"], ours[key]["author"]), key
            if e["doi"].startswith("10.48550/arXiv."): assert e["doi"] == f"10.48550/arXiv.{ours[key]['eprint']}"
            else: assert e["doi"] == ours[key]["doi"]
        else: assert families(e)[0]


def test_links_of_the_paper_lead_to_files():
    found = re.findall(r"\]\((\.\./[^)]+)\)", TEXT)
    assert len(found) >= 4
    for path in found: assert (ROOT / "paper" / path).is_file(), path


def checklist():
    "[(section, item, state, evidence)] of paper/checklist.md."
    text = (ROOT / "paper" / "checklist.md").read_text(encoding="utf-8")
    return [(part.partition("\n")[0], *(c.strip().strip("*") if k < 2 else c for k, c in enumerate(row)))
            for part in text.split("\n## ")[1:]
            for row in re.findall(r"^\| (?!item)([^|]+) \| ([^|]+) \| ([^|]+) \|$", part, re.M)]


def test_the_checklist_has_every_item_and_its_evidence():
    items = checklist()
    sections = [s for s, *_ in items]
    assert [sections.count(s) for s in dict.fromkeys(sections)] == [2, 4, 4, 5, 7]      # as the journal's template
    assert {state for _, _, state, _ in items} == {"met", "in part", "not met", "reviewer"}
    for _, item, state, why in items:
        links = re.findall(r"\]\(([^)]+)\)", why)
        assert links or state in ("not met", "reviewer"), f"{item}: expected a link to the evidence"
        for path in links: assert (ROOT / "paper" / path).is_file(), f"{item}: {path}"


def test_what_is_missing_is_not_called_met():
    "While the paper names nobody and no course was taught, the checklist may not say otherwise."
    state = {item: s for _, item, s, _ in checklist()}
    if "name: The micacl authors" in TEXT: assert state["Authors with affiliations"] == state["Authorship"] == "not met"
    if "None yet." in TEXT: assert state["How it was used in a classroom, and how to adopt it"] != "met"
    if "Creative Commons" not in (ROOT / "LICENSE").read_text(encoding="utf-8"):
        assert state["Licence: a plain-text LICENSE, OSI-approved for code, Creative Commons for content"] != "met"
