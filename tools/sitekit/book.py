"""The one place that knows the pages and their reading order: the spine, the parts, the lab; and what a notebook holds,
with its cells as nbdev's directives leave them. Nothing is run."""
import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
REPO = "https://github.com/micacl/micacl"
DOCS = "https://micacl.github.io/micacl/"
COLAB = "https://colab.research.google.com/github/micacl/micacl/blob/main/"
# titles in the menu: the numbered pages, then the folders in reading order
SPINE, LAB, REFERENCE, API = "The book", "Lab sheets", "Reference", "API reference"
PARTS = {"synfew": "How SynFEW is drawn", "longtail": "The long tail", "library": "The library",
         "findings": "What was found", "teach": "Teaching"}
OPENING = re.compile(r"\A\s*#\s+(?P<title>[^\n]+)\n*(?:>\s*(?P<lead>[^\n]+)\n*)?"
                     r"(?:\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\s*)?")


@dataclass
class Cell:
    kind: str                                   # "markdown" or "code"
    id: str
    source: str
    outputs: list = field(default_factory=list)
    show_code: bool = True
    show_outputs: bool = True
    fold: str = ""                              # title of a fold around the code, "" for none
    alt: str = ""                               # what the picture shows, from `#| fig-alt:`
    symbols: list = field(default_factory=list) # public names this cell exports or shows: an API entry is due for each


@dataclass
class Page:
    source: str             # path of the source from the root of the repository
    url: str                # path in the site
    title: str
    lead: str = ""          # the line under the title
    part: str = ""
    cells: list = field(default_factory=list)
    module: str = ""        # the module it exports, "geiim", "longtail.losses"
    kind: str = "chapter"   # chapter, lab, home, or page (made by the builder)
    chapter: str = ""       # "07" in the spine
    minutes: str = ""       # in words
    colab: str = ""         # the notebook that the Colab button opens
    data: dict = field(default_factory=dict)    # for the template
    body: str = ""          # HTML
    markdown: str = ""      # the same for readers of text
    toc: list = field(default_factory=list)     # (level, id, title)


MINUTES = re.compile(r"\*Minutes:?\*:?\s*(?:about\s*)?(?P<read>\d+)"
                     r"(?: to read, (?P<run>\d+) to run, (?P<exercises>\d+) for the exercises)?\b")


# --- pages and their order
def stem(name): return re.sub(r"^\d+_", "", name)    # as nbdev names pages: 07_geiim -> geiim


def address(path, nbs=NBS):
    "Where a notebook stands in the site: the number is dropped, the folder of a part stays."
    folder = path.relative_to(nbs).parts[0] + "/" if path.parent != nbs else ""
    return f"{folder}{stem(path.stem)}.html"


def listed(opening):
    "Names of the pages of a part, in the order in which its opening page links to them."
    names = re.findall(r"\]\(([\w-]+)\.ipynb[)#]", opening.read_text(encoding="utf-8"))
    return list(dict.fromkeys(n for n in names if n != "index"))


def part(folder):
    "Pages of a part: the opening page, what it links to in that order, the rest by name."
    opening, there = folder / "index.ipynb", sorted(folder.glob("*.ipynb"))
    order = [opening, *(folder / f"{n}.ipynb" for n in listed(opening))] if opening.exists() else []
    return [*(p for p in order if p in there), *(p for p in there if p not in order)]


def notebooks(nbs=NBS):
    "All pages but the front page and the lab sheets, in reading order: the spine by number, then the parts."
    return [*sorted(nbs.glob("[0-9][0-9]_*.ipynb")), *(p for name in PARTS for p in part(nbs / name))]


def sources(folder=NBS / "lab"):
    "The lab sheets: the teachers' sources, or the students' copies."
    return sorted(folder.glob("*.ipynb"))


def unplaced(nbs=NBS):
    "What is wrong with the order, in words: pages that nothing leads to."
    known, found = set(notebooks(nbs)), []
    for p in sorted(nbs.rglob("*.ipynb")):
        place = p.relative_to(nbs).parts
        if place in (("index.ipynb",),) or place[0] in ("lab", "solutions") or ".ipynb_checkpoints" in place: continue
        if p not in known:
            found.append(f"nbs/{'/'.join(place)}: expected a number (nbs/07_name.ipynb) or the folder of a part "
                         f"({', '.join(PARTS)})")
        elif len(place) > 1 and p.stem != "index" and (p.parent / "index.ipynb").exists() \
                and p.stem not in listed(p.parent / "index.ipynb"):
            found.append(f"nbs/{'/'.join(place)}: its opening page nbs/{place[0]}/index.ipynb does not link to it")
    return found


# --- what a page holds
def truth(directives, name, default):
    v = directives.get(name)
    return default if v is None else v.strip().lower() not in ("false", "no", "0")


# as nbdev's clean_magics, which reads its settings anew for each cell
HOUSEKEEPING = re.compile(r"^\s*%(?:load_ext|autoreload|reload_ext|matplotlib|config)\b.*\n?", re.M)


def exported_names(source):
    "Top-level functions and classes with public names."
    try: body = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)).body
    except SyntaxError: return []
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and not n.name.startswith("_")]


def shown_doc(source):   # `show_doc(x.y, ...)` alone in a cell -> "x.y"
    m = re.match(r"\s*show_doc\(\s*([\w.]+)", source)
    return m[1] if m else None


def read_cell(c):
    "One cell after nbdev's processors, or None where its directives hide it."
    d = c.directives_ if c.cell_type == "code" else {}
    if c.cell_type not in ("code", "markdown") or {"hide", "default_exp"} & d.keys() or not truth(d, "include", True):
        return None
    cell = Cell(c.cell_type, c.get("id", ""), c.source.strip("\n"), c.get("outputs", []),
                alt=d.get("fig-alt", "").strip())
    if cell.kind == "markdown": return cell if cell.source.strip() else None
    cell.source = HOUSEKEEPING.sub("", cell.source).strip("\n")
    cell.show_code = truth(d, "echo", True) and not {"hide_input", "export", "exporti"} & d.keys()
    cell.show_outputs = truth(d, "output", True) and "hide_output" not in d
    if "code-fold" in d and truth(d, "code-fold", False):
        cell.fold = d.get("code-summary", "Show the code").strip("\"' ")
    if name := shown_doc(cell.source): cell.symbols, cell.show_code, cell.outputs = [name], False, []
    elif {"export", "exports"} & d.keys(): cell.symbols = exported_names(cell.source)
    if not cell.source.strip(): cell.show_code = False
    return cell if cell.show_code or cell.symbols or (cell.show_outputs and cell.outputs) else None


def spent(m):
    "A match of MINUTES in words."
    if m["run"] is None: return f"about {m['read']} minutes"
    return f"{m['read']} minutes to read, {m['run']} to run, {m['exercises']} for the exercises"


def read_page(path, url, **kw):
    "A notebook as a page."
    from nbdev.process import NBProcessor           # here: whoever only asks for the order need not wait for nbdev
    from nbdev.processors import filter_stream_, hide_line, rm_header_dash, strip_ansi
    nb = NBProcessor(path, procs=[strip_ansi, hide_line, filter_stream_, rm_header_dash], process=True).nb
    module = next((c.directives_["default_exp"].strip().removesuffix(".__init__") for c in nb.cells
                   if c.cell_type == "code" and "default_exp" in c.directives_), "")
    cells = [x for c in nb.cells if (x := read_cell(c))]
    opening = OPENING.match(cells[0].source) if cells else None
    title, lead = (opening["title"].strip(), (opening["lead"] or "").strip()) if opening else (path.stem, "")
    if opening: cells[0].source = cells[0].source[opening.end():]
    source = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    chapter = m[1] if (m := re.match(r"(\d+)_", path.stem)) else ""
    minutes = next((spent(m) for c in cells[:6] if c.kind == "markdown" and (m := MINUTES.search(c.source))), "")
    return Page(source, url, title, lead, cells=cells, module=module, minutes=minutes, colab=source,
                **{"chapter": chapter, **kw})


def chapters(nbs=NBS):
    "The front page, then all pages in reading order."
    return [read_page(nbs / "index.ipynb", "index.html", kind="home", part=""),
            *(read_page(p, address(p, nbs), part=SPINE if p.parent == nbs else PARTS[p.parent.name])
              for p in notebooks(nbs))]


def sheets(nbs=NBS):
    "The students' copies of the lab sheets."
    return [read_page(p, address(p, nbs), kind="lab", part=LAB, chapter="") for p in sources(nbs / "lab" / "student")]
