"Puts the site together: reads everything, renders page by page, writes HTML, markdown, the search index and llms.txt."
import hashlib
import json
import posixpath
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jinja2

from . import api, extras
from .assets import Assets
from .book import API, COLAB, DOCS, REPO, ROOT, SPINE, chapters, read_page, sheets, unplaced
from .cells import Cells
from .exercises import answers, solution_of
from .links import Links
from .text import Text

HERE = Path(__file__).parent


def root_of(url): return "../" * url.count("/")


def text_of(page, links, assets): return Text(page, links, assets, root_of(page.url))


def render_notebook(page, text, modules):
    symbols = {s.name: s for s in modules[page.module].symbols} if page.module in modules else {}
    if page.module not in modules:      # not exported yet: read the names from the page itself
        source = "\n\n".join(c.source for c in page.cells if c.kind == "code" and c.symbols)
        symbols = api.read_source(source, page.module) if source else {}
    for name in {n for c in page.cells for n in c.symbols if "." in n}:
        owner = symbols.get(name.split(".")[0])
        symbols.update({m.name: m for m in owner.methods if m.name == name} if owner else {})
    cells = Cells(page, text, symbols)
    cells.render()
    return cells.figures


def fold_solutions(page, text):
    "Put the solution of each exercise under it, folded."
    path = solution_of(ROOT / page.source)
    if not path.exists(): return
    notebook = read_page(path, page.url)        # its links start from nbs/solutions, its anchors are those of the page
    told = Text(notebook, text.links, text.assets, text.root)
    told.ids, told.level = text.ids, 2
    items, found = re.search(r'(?<=id="exercises").*?</ol>', page.body, re.S), answers(notebook.cells)
    parts = items[0].split("</li>") if items else [""]
    if len(parts) != len(found) + 1:
        raise ValueError(f"{notebook.source}: expected a solution for each of the {len(parts) - 1} exercises of "
                         f"{page.source}, found {len(found)}")
    for k, (_, cells) in enumerate(found):
        one = replace(notebook, cells=cells)
        Cells(one, told, {}).render()
        parts[k] += f'<details class="solution"><summary>Solution</summary>{one.body}</details>'
    page.body = page.body[:items.start()] + "</li>".join(parts) + page.body[items.end():]
    page.markdown = page.markdown.replace(f"](solutions/{path.name})", f"]({REPO}/blob/main/{notebook.source})")


def site(pages):
    "The sidebar: parts with their pages, in reading order."
    parts = {}
    for p in pages:
        if p.part and p.part != API: parts.setdefault(p.part, []).append(p)
    return parts


def front(page, pages, text):
    "The front page: its opening words, the road, and the parts instead of its table of pages."
    first, *rest = page.cells
    page.data["words"], page.data["source"] = text.render(first.source), first.source
    moving = ROOT / "nbs/images/seven.webp"
    if moving.exists():
        page.data["moving"], page.data["still"] = text.assets.add(moving.read_bytes(),
            "image/webp"), text.assets.still(moving.read_bytes())
    page.cells = rest
    for c in rest:
        c.source = (re.sub(r"(?m)^\|\s*page\s*\|.*\n(?:\|.*\n?)+", "\n<!-- parts -->\n", c.source)
                    if c.kind == "markdown" else c.source)
    page.data["first"] = next((p for p in pages if p.kind == "chapter"), page)
    page.data["lab"] = next((p for p in pages if p.kind == "lab"), page)
    page.data["found"] = next((p for p in pages if p.source.startswith("nbs/findings/")), page)


def section_text(words, limit=540):
    s = " ".join(" ".join(w for w in words if w).split())
    return s if len(s) <= limit else s[:limit].rsplit(" ", 1)[0]


def search_index(texts):
    "[url, page, heading, words] for every section; names of the library are sections too."
    rows = []
    for page, text in texts:
        if page.part == API: rows.append([page.url, page.title, page.title, page.lead]); continue
        for anchor, heading, words, *kind in [*text.sections, *text.entries]:
            words = section_text([page.lead, *words] if not anchor else words)
            if heading or words:
                rows.append([page.url + (f"#{anchor}" if anchor else ""), kind[0] if kind else page.title, heading,
                             words])
    return rows


def llms(pages):
    home = next(p for p in pages if p.kind == "home")
    lines = [f"# {home.title}", "", f"> {home.lead}", ""]
    parts = {"Start": [home], **site(pages), API: [p for p in pages if p.part == API]}
    for part, some in parts.items():
        lines += [f"## {part}", "", *(f"- [{p.title}]({DOCS}{p.url}.md)" + (f": {p.lead}" if p.lead else "")
                                      for p in some), ""]
    return "\n".join(lines)


def build(out, only=None):
    """Write the site into the folder `out`, or `only` some of its pages; returns what it holds in numbers, and in
    words what is wrong and what is worth knowing."""
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / ".nojekyll").exists():
        raise FileExistsError(f"{out}: expected an empty folder or an older site, found something else; name another "
                              "folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    put(out / ".nojekyll", "")
    modules, book, lab = api.modules(), chapters(), sheets()
    made = extras.plan(modules, book)
    pages = [*book, *lab, *made]
    clash = {p.url for p in pages if sum(q.url == p.url for q in pages) > 1}
    if clash:
        raise ValueError(f"two pages have the same address: {', '.join(sorted(clash))}; rename one of the notebooks")
    links, assets, figures, texts = Links(pages, modules), Assets(out), [], []
    for page in pages:
        if only and page.url not in only: continue
        text = text_of(page, links, assets)
        texts.append((page, text))
        if page.kind == "home": front(page, pages, text)
        if page.kind in ("home", "chapter", "lab"):
            figures += render_notebook(page, text, modules)
            fold_solutions(page, text)
        elif page.part == API: extras.module_page(page, text, modules[page.data["module"]])
        elif page.source.endswith(".md"): extras.from_markdown(page, text)
        elif page.url == "gallery.html": extras.gallery(page, text, figures)
        elif page.url == "cite.html": extras.cite(page, text)
        elif page.url == "api/index.html": extras.api_index(page, text, pages, modules)
        page.toc = text.toc
    write(out, pages, texts)
    links.problems += [*unplaced(), *lead_on(out, pages)]
    files = [p for p in out.rglob("*") if p.is_file()]
    return dict(pages=len(texts), equations=sum(t.equations for _, t in texts), figures=len(figures),
                pictures=len(list((out / "img").iterdir())),
                megabytes=round(sum(p.stat().st_size for p in files) / 1e6, 2)), links.problems, links.notes


def templates():
    "They are read without the indentation of their lines, which every page would repeat."
    files = {f.name: re.sub(r"(?m)^ +", "", f.read_text(encoding="utf-8")) for f in (HERE / "templates").glob("*.html")}
    return jinja2.Environment(loader=jinja2.DictLoader(files), autoescape=True, trim_blocks=True,
                              undefined=jinja2.StrictUndefined)


def moved(pages):
    "{old address: page}, of the addresses in moved.json where no page stands now; and what is wrong with them."
    at = {p.url: p for p in pages}
    table = json.loads((HERE / "moved.json").read_text(encoding="utf-8"))
    found = {old: at.get(new) for old, new in table.items() if old not in at}
    return found, [f"tools/sitekit/moved.json: {old} leads to {table[old]}, and there is no such page"
                   for old, page in found.items() if page is None]


def lead_on(out, pages):
    "A small page at every address of the first edition, which leads to the new one; returns what is wrong."
    template, (found, wrong) = templates().get_template("moved.html"), moved(pages)
    for old, page in found.items():
        if page is None: continue
        new = root_of(old) + page.url
        put(out / old, template.render(page=page, new=new, docs=DOCS))
        put(out / f"{old}.md", f"This page has moved: [{page.title}]({new}.md)\n")
    return wrong


def write(out, pages, texts):
    env = templates()
    static = {p.name: p.read_bytes() for p in sorted((HERE / "static").iterdir()) if p.is_file()}
    index = json.dumps(search_index(texts), ensure_ascii=False, separators=(",", ":"))
    put(out / "search.js", f"window.SEARCH={index}")
    (out / "static").mkdir()
    for name, data in static.items(): (out / "static" / name).write_bytes(data)
    version = hashlib.sha256(b"".join(static.values()) + index.encode()).hexdigest()[:8]
    parts = site(pages)
    for page, text in texts:
        k = pages.index(page)
        around = dict(page=page, parts=parts, spine=SPINE, modules=[p for p in pages if p.part == API],
                      root=root_of(page.url), version=version, repo=REPO, colab=COLAB, docs=DOCS,
                      previous=pages[k - 1] if k else None, following=pages[k + 1] if k + 1 < len(pages) else None,
                      lead=text.line(page.lead))
        if page.kind == "home":
            page.body = page.body.replace("<!-- parts -->", env.get_template("parts.html").render(around))
        put(out / page.url, env.get_template("home.html" if page.kind == "home" else "page.html").render(around))
        put(out / (page.url + ".md"), for_programs(page, text.links, parts))
        if page.kind == "lab": shutil.copyfile(ROOT / page.source, out / "lab" / Path(page.source).name)
    put(out / "llms.txt", llms(pages))
    # shown at any address, so its links are absolute
    put(out / "404.html", env.get_template("404.html").render(docs=DOCS))


def for_programs(page, links, parts):
    "The page as markdown; links between pages lead to markdown too, and pictures to those of the repository."
    def swap(m):
        url = links.resolve(m[2], page)
        picture = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), m[2]))
        if picture.startswith("nbs/images/"): return f"{m[1]}({REPO}/raw/main/{picture})"
        if url is None: return m[0]
        target, _, anchor = url.partition("#")
        return f"{m[1]}({root_of(page.url)}{target}.md{'#' + anchor if anchor else ''})"
    body = page.markdown
    if page.kind == "home":
        listed = "\n".join(f"- **{part}**\n" + "\n".join(f"    - [{p.title}]({p.url}.md): {p.lead}" for p in some)
                           for part, some in parts.items())
        body = page.data["source"].strip() + "\n\n" + body.replace("<!-- parts -->", listed)
    body = re.sub(r"(\])\(([^()\s]+)\)", swap, body)
    return f"# {page.title}\n\n" + (f"> {page.lead}\n\n" if page.lead else "") + body.strip() + "\n"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
