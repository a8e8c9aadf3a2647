"""The bibliography: nbs/references.md from nbs/references.bib, with links back to the pages that cite each work.

    python tools/references.py      # writes nbs/references.md

A citation in a page is a link whose anchor is the key: [Tran et al., 2018](references.md#tran2018), or, where the
authors belong to the sentence, [Tran et al. (2018)](references.md#tran2018). The keys are headings: GitHub, JupyterLab
and the site all make the same anchor of them.
"""
import json
import re
from pathlib import Path

from sitekit.book import NBS, notebooks, sources
from sitekit.exercises import solutions

BIB, PAGE = NBS / "references.bib", NBS / "references.md"
ENTRY = re.compile(r"^@(?P<type>\w+)\{(?P<key>[a-z]+\d{4}[a-z]*),\n(?P<fields>(?:  \w+ = \{.*\},\n)+)\}\n", re.M)
CITATION = re.compile(r"\[(?P<label>[^\[\]]+)\]\((?P<way>[\w./]*references\.md)#(?P<key>[\w-]+)\)")
PLACES = ("booktitle", "journal", "publisher", "howpublished")
OPENING = """# References

> The works that this book cites, and the pages that cite them.

Made by `tools/references.py` from [references.bib](references.bib), which is there for your own use too.
"""


def read_bib(text):
    "BibTeX, with one field on each line -> {key: its fields, `type` and `key`}."
    entries = {m["key"]: dict(re.findall(r"^  (\w+) = \{(.*)\},$", m["fields"], re.M), type=m["type"], key=m["key"])
               for m in ENTRY.finditer(text)}
    left = ENTRY.sub("", text).strip()
    if left: raise ValueError(f"{BIB}: expected `@type{{key,`, a line for each field and `}}`, found {left[:60]!r}")
    return entries


def families(entry):
    "Family names of the authors."
    return [a.strip("{}").partition(",")[0] for a in entry["author"].split(" and ")]


def people(entry):
    "The authors with their given names in front."
    names = [" ".join(reversed(a.strip("{}").split(", "))) for a in entry["author"].split(" and ")]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def link(entry):
    "Where the work can be read."
    if "doi" in entry: return f"[doi:{entry['doi']}](https://doi.org/{entry['doi']})"
    if "eprint" in entry: return f"[arXiv:{entry['eprint']}](https://arxiv.org/abs/{entry['eprint']})"
    if "url" in entry: return f"[{entry['url'].split('/')[2]}]({entry['url']})"
    raise ValueError(f"{BIB.name}: {entry['key']}: expected a doi, an eprint or a url, found none")


def pages():
    "All that may cite: the pages, the sheets of the lab, the solutions, the glossary."
    return [NBS / "index.ipynb", *notebooks(), *sources(), *solutions(), NBS / "glossary.md"]


def prose(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md": return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def cited():
    "{key: pages that cite it, in reading order}"
    found = {}
    for path in pages():
        for m in CITATION.finditer(prose(path)):
            if path not in found.setdefault(m["key"], []): found[m["key"]].append(path)
    return found


def title(path): return re.search(r"^# (.+)", prose(path), re.M)[1]


def address(path):
    "From nbs/; of a sheet, that of the students' copy."
    return re.sub("^lab/", "lab/student/", path.relative_to(NBS).as_posix())


def written(entries, cited):
    "The text of nbs/references.md."
    out = [OPENING]
    for key, e in sorted(entries.items()):
        where = next((e[p] for p in PLACES if p in e), "")
        links = ", ".join(f"[{title(p)}]({address(p)})" for p in cited.get(key, []))
        work = f"*{e['title']}{'' if e['title'].endswith('?') else '.'}* {where + ', ' if where else ''}{e['year']}"
        out.append(f"## {key}\n\n{people(e)}: {work}. {link(e)}\n\nCited in {links}.\n")
    return "\n".join(out)


if __name__ == "__main__":
    PAGE.write_text(written(read_bib(BIB.read_text(encoding="utf-8")), cited()), encoding="utf-8", newline="\n")
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
