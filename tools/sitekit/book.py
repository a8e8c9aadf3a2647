"""What the notebooks hold: pages in reading order, parts, and cells as nbdev's directives leave them. Nothing is run."""
import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from nbdev.process import NBProcessor
from nbdev.processors import filter_stream_, hide_line, rm_header_dash, strip_ansi

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
REPO = "https://github.com/micacl/micacl"
DOCS = "https://micacl.github.io/micacl/"
COLAB = "https://colab.research.google.com/github/micacl/micacl/blob/main/"
# name of the part, and the first chapter that belongs to it
PARTS = [("The data", "00"), ("The input", "01a"), ("The network", "04"), ("Losses and heads", "07a"),
         ("Models and training", "08"), ("The long tail", "11"),
         ("Pictures and reports", "12"), ("In use", "13"), ("What was found", "19"), ("Teaching", "30")]
OPENING = re.compile(r"\A\s*#\s+(?P<title>[^\n]+)\n*(?:>\s*(?P<lead>[^\n]+)\n*)?(?:\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\s*)?")


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
    module: str = ""        # the module it exports, "geiim"
    kind: str = "chapter"   # chapter, lab, home, or page (made by the builder)
    chapter: str = ""       # "05", "07a"
    minutes: str = ""
    colab: str = ""         # the notebook that the Colab button opens
    data: dict = field(default_factory=dict)    # for the template
    body: str = ""          # HTML
    markdown: str = ""      # the same for readers of text
    toc: list = field(default_factory=list)     # (level, id, title)


def stem(name): return re.sub(r"^\d+[a-zA-Z0-9]*_", "", name)    # as nbdev names pages: 05_geiim -> geiim


def order(name):   # "07b_contrast" -> (7, "b"): 00 before 00a before 00ab before 00b
    m = re.match(r"(\d+)([a-z]*)_", name)
    return (int(m[1]), m[2]) if m else (10 ** 6, name)


def part_of(name):
    key, found = order(name), PARTS[0][0]
    for title, first in PARTS:
        if order(first + "_") <= key: found = title
    return found


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


def read_page(path, url, **kw):
    "A notebook as a page."
    nb = NBProcessor(path, procs=[strip_ansi, hide_line, filter_stream_, rm_header_dash], process=True).nb
    module = next((c.directives_["default_exp"].strip() for c in nb.cells if c.cell_type == "code"
                   and "default_exp" in c.directives_), "")
    cells = [x for c in nb.cells if (x := read_cell(c))]
    opening = OPENING.match(cells[0].source) if cells else None
    title, lead = (opening["title"].strip(), (opening["lead"] or "").strip()) if opening else (path.stem, "")
    if opening: cells[0].source = cells[0].source[opening.end():]
    source = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    chapter = m[1] if (m := re.match(r"(\d+[a-z]*)_", path.stem)) else ""
    minutes = next((m[1] for c in cells[:6] if c.kind == "markdown"
                    and (m := re.search(r"\*Minutes:?\*:?\s*(?:about\s*)?(\d+)", c.source))), "")
    return Page(source, url, title, lead, cells=cells, module=module, minutes=minutes, colab=source,
                **{"chapter": chapter, **kw})


def chapters(nbs=NBS):
    "Front page, then all numbered notebooks in order, whatever there are."
    pages = [read_page(nbs / "index.ipynb", "index.html", kind="home", part="")]
    for path in sorted((p for p in nbs.glob("*.ipynb") if p.stem != "index"), key=lambda p: order(p.name)):
        pages.append(read_page(path, f"{stem(path.stem)}.html", part=part_of(path.name)))
    return pages


def sheets(nbs=NBS):
    "The students' copies of the lab sheets."
    return [read_page(p, f"lab/{stem(p.stem)}.html", kind="lab", part="Lab sheets", chapter="")
            for p in sorted((nbs / "lab" / "student").glob("*.ipynb"))]
