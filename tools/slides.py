"""Slides for the sessions of the plans in nbs/teach/index.ipynb, from nbs/teach/slides/PAGE.md and the saved outputs of
the pages. Nothing is run.

    python tools/slides.py                # into _slides/; open _slides/index.html
    python tools/slides.py --out FOLDER

A session's deck: an opening, the slides of its pages, the lab sheet or exercises, questions to discuss. In a source,

    exercises: 1 3, alone 4               the exercises of the page for class, where the session has no sheet; those
                                          behind `alone` where it has no other page
    ## Title {2 min}                      a slide, and how long one speaks to it
    ## Title {2 min, 1 page}              only in sessions of at most one page
    @figure CELL                          the picture of a cell, with its alt text (and: beside or below the text)
    @drawing NAME                         nbs/images/NAME.svg, with the alt text that the page gives it
    @code CELL "from" "to"                lines of a cell: from the first with these words to the next with those
    @output CELL "from" "to"              lines of what the cell printed
    ???                                   notes for the speaker, until the next slide
    # Discuss                             the last section: questions as a list, notes below ???

The rest is markdown; links and equations are written as on the pages. A cell that is no longer there, or a figure
without words, is an error.
"""
import argparse
import functools
import html
import re
import shutil
import sys
import textwrap
from pathlib import Path

import jinja2

sys.path.insert(0, str(Path(__file__).parent))
from sitekit.assets import KINDS, Assets, inlined
from sitekit.book import DOCS, NBS, ROOT, address, read_page
from sitekit.cells import joined, read_stills
from sitekit.stills import VIEW, index_of
from sitekit.text import Text, code_html
from slidekit.source import Slide, SlidesError, deck_of, in_class, plans, read_source, source_of, words

KIT = Path(__file__).parent / "slidekit"
COMMAND = re.compile(r'^@(?P<what>figure|drawing|code|output) (?P<name>\S+)(?: "(?P<begin>[^"]+)" "(?P<end>[^"]+)")?'
                     r"(?: (?P<place>beside|below))?$")
TALL = .8           # one narrower than this takes the whole height of the slide
BESIDE = 1.8        # a picture narrower than this (width by height) stands beside the text


@functools.lru_cache(None)
def notebook(page): return read_page(NBS / f"{page}.ipynb", f"{page}.html")


def between(lines, m, where):
    "From the first line that holds one text to the next that holds another; all of them where none is given."
    if not m["begin"]: return lines
    a = next((k for k, s in enumerate(lines) if m["begin"] in s), None)
    b = None if a is None else next((k for k in range(a, len(lines)) if m["end"] in lines[k]), None)
    if b is None: raise SlidesError(f"{where}: expected lines from {m['begin']!r} to {m['end']!r}, found none")
    return lines[a:b + 1]


def block(kind, lines):
    "Lines of code or of output, as large as they fit."
    lines = textwrap.dedent("\n".join(lines)).splitlines()
    if kind == "code": lines = [re.sub(r"(?<=\S) {3,}#", "  #", s) for s in lines]      # comments need not be aligned
    smallest = 16 if kind == "code" else 18      # what is printed may be wrapped
    size = next(px for px, long, many in ((24, 77, 9), (20, 92, 18), (18, 103, 22), (smallest, 999, 99))
                if max(map(len, lines)) <= long and len(lines) <= many)
    text = "\n".join(lines)
    inside = f"<code>{code_html(text)}</code>" if kind == "code" else f"<samp>{html.escape(text)}</samp>"
    return f'<pre class="{kind}" style="font-size:{size}px">{inside}</pre>'


def printed(cell):
    "What a cell printed, and the value that it ends in."
    return "".join(joined(o["text"]) if o["output_type"] == "stream" else
                   "" if {"text/markdown", *KINDS} & o.get("data", {}).keys() else
                   joined(o.get("data", {}).get("text/plain", ""))
                   for o in cell.outputs if o.get("name") != "stderr")


def table_of(cell):
    return next((joined(o["data"]["text/markdown"]) for o in cell.outputs if "text/markdown" in o.get("data", {})), "")


class Words(Text):
    "Markdown of slides: links lead to the published book, names in backquotes are code."
    def __init__(self, page, assets): super().__init__(notebook(page), None, assets, "")

    def link_open(self, tokens, i, options, env):
        target, _, anchor = tokens[i].attrGet("href").partition("#")
        path = (NBS / self.page.url).parent / target
        if target.endswith(".ipynb"):
            if not path.resolve().is_file(): raise SlidesError(f"slides of {self.page.source}: no page {target}")
            tokens[i].attrSet("href", DOCS + address(path.resolve()) + (f"#{anchor.lower()}" if anchor else ""))
        return self.md.renderer.renderToken(tokens, i, options, env)

    def code_inline(self, tokens, i, options, env): return f"<code>{html.escape(tokens[i].content)}</code>"


class Deck:
    def __init__(self, title, pages, sheet, assets):
        self.title, self.pages, self.sheet, self.assets = title, pages, sheet, assets
        self.sources = [read_source(p) for p in pages]
        self.file = deck_of(pages, sheet)
        self.slides, self.minutes, self.lab = [], 0, 0     # minutes of the talk, of the work in pairs

    # --- what a line with @ stands for: HTML, width by height (or None)
    def cell(self, page, name):
        found = next((c for c in notebook(page).cells if c.id == name), None)
        if found is None: raise SlidesError(f"slides of {page}: expected a cell {name} on the page, found none")
        return found

    def figure(self, page, name):
        cell = self.cell(page, name)
        if not cell.alt: raise SlidesError(f"slides of {page}: cell {name} has no '#| fig-alt:'")
        datas = [o["data"] for o in cell.outputs if "data" in o]
        if any(VIEW in d for d in datas):
            still = read_stills(notebook(page), []).get(name)
            if not still: raise SlidesError(f"slides of {page}: cell {name} has a widget and no still picture of it")
            data = (index_of(NBS / f"{page}.ipynb").parent / still).read_bytes()
            return self.picture(self.assets.add(data, "image/" + still.rsplit(".", 1)[1]), cell.alt)
        for d in datas:
            kind = next((t for t in KINDS if t in d), None)
            if kind: return self.picture(self.assets.add_base64(joined(d[kind]), kind), cell.alt)
            if re.search(r"<img\b|<svg\b", h := joined(d.get("text/html", ""))):
                size = re.search(r'width="(\d+)" height="(\d+)"', h)
                h = self.assets.move_data_uris(h, "").replace('<source media="', '<source media="print, ')
                return f'<div class="figure">{h}</div>', int(size[1]) / int(size[2]) if size else 1
        raise SlidesError(f"slides of {page}: cell {name} has no saved picture; run python tools/pages.py --save "
                          f"nbs/{page}.ipynb")

    def picture(self, asset, alt):
        url, w, h = asset
        return (f'<div class="figure"><img src="{url}" alt="{html.escape(alt)}" width="{w}" height="{h}"></div>', w / h)

    def drawing(self, page, name):
        m = re.search(rf"!\[([^\]]+)\]\([./]*images/{re.escape(name)}\.svg\)", words(page))
        if not m: raise SlidesError(f"slides of {page}: expected the drawing {name}.svg on the page, found none")
        drawing = inlined((NBS / "images" / f"{name}.svg").read_text(encoding="utf-8"), m[1])
        _, _, w, h = map(float, re.search(r'viewBox="([^"]+)"', drawing)[1].split())
        return f'<div class="figure">{drawing}</div>', w / h

    def command(self, page, m):
        where = f"slides of {page}: cell {m['name']}"
        if m["what"] in ("figure", "drawing"): return getattr(self, m["what"])(page, m["name"])
        cell = self.cell(page, m["name"])
        if m["what"] == "code":
            lines = [s for s in cell.source.splitlines() if not s.startswith("#|")]
            return block("code", between(lines, m, where)), None
        table = table_of(cell)
        said = printed(cell)
        if table:
            head, rows = table.splitlines()[:2], table.splitlines()[2:]
            return Words(page, self.assets).render("\n".join(head + between(rows, m, where))), None
        if not said.strip(): raise SlidesError(f"{where} has printed nothing")
        return block("output", between(said.strip("\n").splitlines(), m, where)), None

    # --- slides
    def add(self, page, slide, kind="", origin=""):
        text, parts, pictures, place, held = Words(page, self.assets), [], [], "", []
        def close():
            source = re.sub(r"(?<=\d) (?=%)", "\u00a0", "\n".join(held))
            if source.strip(): parts.append(f'<div class="text">{text.render(source)}</div>')
            held.clear()
        for line in slide.lines:
            if not line.startswith("@"): held.append(line); continue
            m = COMMAND.match(line)
            if not m: raise SlidesError(f"slides of {page}: no such command: {line!r}")
            close()
            body, shape = self.command(page, m)
            parts.append(body)
            if shape: pictures.append(shape)
            place = m["place"] or place
        close()
        others = [p for p in parts if not p.startswith('<div class="figure">')]
        narrow = len(pictures) == 1 and pictures[0] < BESIDE and len(others) == 1 and others[0].startswith("<div")
        beside = len(pictures) == 1 and others and (place or ("beside" if narrow else "")) == "beside"
        first = beside and parts[0].startswith('<div class="figure">')
        if beside:      # everything but the picture in one column
            column = f'<div class="column">{"".join(others)}</div>'
            parts = [p for p in parts if p not in others]
            parts.insert(len(parts) if first else 0, column)
        self.minutes += slide.minutes
        told = f"**{slide.minutes} min**, to minute {self.minutes}" if slide.minutes else ""
        self.slides.append(dict(
            title=text.line(slide.title), kind=kind or ("predict" if slide.title.startswith("Predict") else ""),
            body="\n".join(parts), layout="tall" if beside and pictures[0] < TALL else
            "beside" + " as-first" * first if beside else "two" if len(pictures) == 2 else
            "stack" if len(parts) > 1 or pictures else "words" if len(slide.lines) < 6 or kind != "discuss" else "many",
            notes=text.render("\n".join([told, "", *slide.notes])), **{"from": origin}))

    def build(self):
        said = [re.sub(r"^(\d\d)_.*", r"\1 ", p) if p[:2].isdigit() else "" for p in self.pages]
        names = [f"{n}{notebook(p).title}" for n, p in zip(said, self.pages)]
        links = [f"[{n}]({self.up(self.pages[0])}{p}.ipynb)" for n, p in zip(names, self.pages)]
        plan = [f"session {k} of {n}" for n, sessions in plans().items()
                for k, (_, pages, sheet) in enumerate(sessions, 1) if (pages, sheet) == (self.pages, self.sheet)]
        self.add(self.pages[0], Slide(self.title, [f"Read before: {', '.join(links)}", "", f"*{'; '.join(plan)}*"],
                                      ["Ten minutes first on the questions of the last sheet."]), "opening")
        for source, name in zip(self.sources, names):
            for slide in source.slides:
                if len(self.pages) <= slide.most: self.add(source.page, slide, origin=name)
        self.lab, lines, notes = in_class(self.pages, self.sheet, self.sources)
        what = f"sheet {self.sheet[0]}" if self.sheet else "exercises"
        self.add(self.pages[0], Slide(f"In pairs: {what}", lines, notes), "lab")
        questions, notes = [], []
        for s in self.sources: questions += s.discuss.lines; notes += s.discuss.notes
        self.add(self.pages[0], Slide("Questions to discuss", questions, notes), "discuss")
        return self

    @staticmethod
    def up(page): return "../" * page.count("/")


def decks(assets):
    "{file: deck} of all sessions whose pages have slides."
    found = {}
    for sessions in plans().values():
        for title, pages, sheet in sessions:
            if all(source_of(p).exists() for p in pages):
                deck = Deck(title, pages, sheet, assets)
                found.setdefault(deck.file, deck)
    return {file: deck.build() for file, deck in found.items()}


def build(out):
    "Write all decks into the folder `out`; returns them."
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "static" / "reveal.js").exists():
        raise SlidesError(f"{out}: expected an empty folder or older slides, found something else; name another --out")
    shutil.rmtree(out, ignore_errors=True)
    (out / "static").mkdir(parents=True)
    for p in [*(KIT / "reveal").iterdir(), KIT / "slides.css", KIT.parent / "sitekit" / "static" / "math.woff2"]:
        shutil.copy(p, out / "static" / p.name)
    made = decks(Assets(out))
    env = jinja2.Environment(loader=jinja2.FileSystemLoader(KIT), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                             undefined=jinja2.StrictUndefined)
    for file, d in made.items():
        (out / file).write_text(env.get_template("deck.html").render(deck=d, slides=d.slides), encoding="utf-8",
                                newline="\n")
    by_pages = {(tuple(d.pages), d.sheet): d for d in made.values()}
    listed = {n: [dict(title=t, file=d.file, count=len(d.slides), minutes=d.minutes) for t, pages, sheet in sessions
                  if (d := by_pages.get((tuple(pages), sheet)))] for n, sessions in plans().items()}
    (out / "index.html").write_text(env.get_template("index.html").render(plans=listed), encoding="utf-8", newline="\n")
    return made


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=ROOT / "_slides", metavar="FOLDER", help="default: _slides")
    args = p.parse_args()
    try: made = build(args.out)
    except SlidesError as e: sys.exit(f"slides: {e}")
    for d in made.values(): print(f"{d.file:40} {len(d.slides):2} slides, {d.minutes:2} minutes  {d.title}")
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file()) / 1e6
    print(f"slides: {args.out}: {len(made)} decks, {size:.1f} MB")


if __name__ == "__main__": main()
