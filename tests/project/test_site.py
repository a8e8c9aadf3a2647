"""The documentation site: built once, then read page by page without a browser (tools/site_browser.py has one).

Every link and anchor leads somewhere, every picture exists and says what it shows, nothing is loaded from elsewhere, every equation of the
sources arrives, nbdev's directives are honoured, and the entries say what fastcore's docments say of the live objects."""
import html.parser
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest

for needed in ("jinja2", "markdown_it", "mdit_py_plugins", "math_core", "nbdev"): pytest.importorskip(needed)
from sitekit import api, book, cells, links, text      # noqa: E402
from sitekit.assets import Assets                      # noqa: E402
from sitekit.book import DOCS, ROOT                    # noqa: E402
from sitekit.build import build                        # noqa: E402

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Document(html.parser.HTMLParser):
    "What is in a page, and whether every tag that opens also closes, in order."
    def __init__(self, source):
        super().__init__()
        self.open, self.wrong, self.ids, self.links, self.images, self.loads, self.headings, self.count, self.words = [], [], [], [], [], [], [], {}, []
        # equations of the text, not of API entries; how deep the entries are that are open
        self.equations, self.entries = 0, []
        self.feed(source)
        self.close()
        if self.open: self.wrong.append(f"not closed: {self.open}")

    def handle_starttag(self, tag, attrs, closed=False):
        attrs = dict(attrs)
        self.count[tag] = self.count.get(tag, 0) + 1
        if "id" in attrs: self.ids.append(attrs["id"])
        if tag == "a" and "href" in attrs: self.links.append(attrs)
        if tag == "img": self.images.append(attrs)
        if re.fullmatch(r"h[1-6]", tag): self.headings.append(int(tag[1]))
        if tag in ("script", "img", "source", "iframe", "video", "audio", "embed",
                   "object") or (tag == "link" and attrs.get("rel") in ("stylesheet", "icon", "preload")):
            self.loads += [v for k, v in attrs.items() if k in ("src", "srcset", "href", "data", "poster")]
        if tag == "math" and "main" in self.open and not self.entries and not {"header", "figcaption"} & set(self.open):
            self.equations += 1
        if tag not in VOID and not closed:
            self.open.append(tag)
            if set(attrs.get("class", "").split()) & {"entry", "method"}: self.entries.append(len(self.open))

    def handle_startendtag(self, tag, attrs): self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag):
        if tag in VOID: return
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}, open: {self.open[-3:]}")
        if tag in self.open: del self.open[len(self.open) - 1 - self.open[::-1].index(tag):]
        while self.entries and self.entries[-1] > len(self.open): self.entries.pop()

    def handle_data(self, data): self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "_docs"
    found, problems, _ = build(out)
    pages = {p.relative_to(out).as_posix(): p.read_text(encoding="utf-8") for p in sorted(out.rglob("*.html"))
             if p.name != "404.html"}
    return dict(out=out, found=found, problems=problems, html=pages, pages={u: Document(s) for u, s in pages.items()})


def notebooks():
    return [ROOT / "nbs/index.ipynb", *sorted((ROOT / "nbs").glob("[0-9]*.ipynb")),
            *sorted((ROOT / "nbs/lab/student").glob("*.ipynb"))]


def cells_of(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell): return "".join(cell["source"])


def test_every_notebook_and_module_has_a_page(site):
    assert not site["problems"]
    for path in notebooks():
        url = f"{'lab/' if 'lab' in path.parts else ''}{re.sub(r'^[0-9]+[a-z]*_', '', path.stem)}.html"
        assert url in site["pages"], url
    for path in (ROOT / "micacl").glob("[a-z]*.py"): assert f"api/{path.stem}.html" in site["pages"]
    assert {"gallery.html", "glossary.html", "cite.html", "api/index.html", "ledger.html",
            "teaching.html"} <= site["pages"].keys()
    assert len(site["pages"]) == site["found"]["pages"]


def test_tags_close_in_order_and_ids_are_unique(site):
    for url, d in site["pages"].items():
        assert not d.wrong, (url, d.wrong[:3])
        twice = {i for i in d.ids if d.ids.count(i) > 1}
        assert not twice, (url, twice)


def test_an_independent_parser_finds_no_error(site):
    html5lib = pytest.importorskip("html5lib")
    for url in ("index.html", "cite.html", "lab/counting.html"):
        html5lib.HTMLParser(strict=True).parse(site["html"][url])


def test_every_link_and_anchor_leads_somewhere(site):
    n = 0
    for url, d in site["pages"].items():
        for a in d.links:
            parts = urlsplit(a["href"])
            if parts.scheme in ("http", "https"): continue
            assert not parts.scheme, (url, a)
            target = os.path.normpath(os.path.join(os.path.dirname(url), unquote(parts.path))) if parts.path else url
            assert (site["out"] / target).is_file(), (url, a["href"])
            if parts.fragment:
                assert unquote(parts.fragment) in site["pages"][target.replace(os.sep, "/")].ids, (url, a["href"])
            n += 1
    assert n > 2000


def test_the_page_for_lost_readers_works_at_any_address(site):
    "It is served under every address that does not exist, so nothing in it may be relative."
    d = Document((site["out"] / "404.html").read_text(encoding="utf-8"))
    assert not d.wrong and not d.loads and len(d.links) == 3
    for a in d.links:
        assert a["href"].startswith(DOCS) and (a["href"].removeprefix(DOCS) or "index.html") in site["pages"], a


def test_links_to_the_repository_name_files_that_exist(site):
    for url, d in site["pages"].items():
        for a in d.links:
            m = re.match(r"https://(?:github\.com|colab\.research\.google\.com/github)/micacl/micacl/(?:blob|tree)/main/([^#]+)(?:#L(\d+)-L(\d+))?", a["href"])
            if not m: continue
            assert (ROOT / m[1]).exists(), (url, a["href"])
            if m[2]:    # a source link hits the line on which the name is defined
                line, name = (ROOT / m[1]).read_text(encoding="utf-8").splitlines()[int(m[2])
                    - 1], re.match(r"Source of (.+) on GitHub", a.get("aria-label", ""))
                assert name and re.search(rf"\b{name[1].split('.')[-1]}\b", line), (url, a, line)


def test_every_picture_exists_and_says_what_it_shows(site):
    for url, d in site["pages"].items():
        for i in d.images:
            assert (site["out"] / os.path.dirname(url) / i["src"]).is_file(), (url, i)
            assert len(i.get("alt", "")) > 3, (url, i)
    used = {name for h in site["html"].values() for name in re.findall(r"\bimg/([0-9a-f]{12}\.\w+)", h)}
    assert used == {p.name for p in (site["out"] / "img").iterdir()}     # and none lies there unused


def test_alt_texts_are_those_of_the_notebook(site):
    said = {m[1].strip() for p in notebooks()[:-6] for c in cells_of(p) if c["cell_type"] == "code"
            and any("image/png" in o.get("data", {}) for o in c["outputs"])
            and (m := re.search(r"#\| fig-alt: (.+)", source(c))) and "#| hide\n" not in source(c)}
    shown = {i["alt"] for d in site["pages"].values() for i in d.images}
    assert len(said) > 80 and said <= shown, sorted(said - shown)[:3]


def test_nothing_is_loaded_from_elsewhere(site):
    for url, d in site["pages"].items():
        assert d.loads and not [s for s in d.loads if re.match(r"(https?:)?//", s)], url
        assert not any("@import" in s for s in re.findall(r"<style.*?</style>", site["html"][url], re.S))
    css = (site["out"] / "static/site.css").read_text(encoding="utf-8")
    assert not re.search(r"url\([\"']?(https?:)?//|@import", css)
    assert not re.search(r"https?://", (site["out"] / "static/site.js").read_text(encoding="utf-8"))


def test_every_page_has_its_frame(site):
    for url, d in site["pages"].items():
        h = site["html"][url]
        assert d.count.get("h1") == 1 and re.search(r"<title>[^<]{3,}</title>",
                                                    h) and '<a class="skip" href="#top-of-text">' in h and "top-of-text" in d.ids, url
        assert 'class="colab" href="https://colab.research.google.com/github/micacl/micacl/blob/main/nbs/' in h and 'class="source" href="https://github.com/micacl/micacl/' in h, url
        assert all(b <= a + 1 for a, b in zip(d.headings, d.headings[1:])), (url, d.headings)
        assert h.count("aria-current") == 1, url


def test_pages_can_be_read_in_one_go(site):
    "From the first page, `next` leads through all of them once, and `previous` back."
    seen, url = [], "index.html"
    while url:
        assert url not in seen
        seen.append(url)
        turn = {a["rel"]: os.path.normpath(os.path.join(os.path.dirname(url), a["href"]))
                for a in site["pages"][url].links if a.get("rel") in ("next", "prev")}
        assert turn.get("prev") == (seen[-2] if len(seen) > 1 else None)
        url = turn.get("next")
    assert sorted(seen) == sorted(site["pages"])
    assert (seen.index("core.html") < seen.index("paint.html") < seen.index("parts.html") < seen.index("faces.html")
            < seen.index("geiim.html") < seen.index("losses.html") < seen.index("models.html"))


def dollars(md):
    "Equations of a markdown text, counted without its parser."
    md = re.sub(r"^(`{3,})[^\n]*\n.*?^\1\s*$", "", md, flags=re.S | re.M)
    md = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", md, flags=re.S)
    blocks = re.findall(r"\$\$.+?\$\$", md, re.S)
    return (len(blocks) + len(re.findall(r"(?<![\\$])\$(?![\s$])(?:[^$\\]|\\.)+?(?<!\s)\$(?![\d$])",
                                         re.sub(r"\$\$.+?\$\$", "", md, flags=re.S), re.S)))


def test_every_equation_arrives_and_none_is_broken(site):
    total = 0
    for path in notebooks():
        url = f"{'lab/' if 'lab' in path.parts else ''}{re.sub(r'^[0-9]+[a-z]*_', '', path.stem)}.html"
        want = sum(dollars(source(c)) for c in cells_of(path) if c["cell_type"] == "markdown")
        printed = sum(dollars("".join(o["data"]["text/markdown"])) for c in cells_of(path) if c["cell_type"] == "code"
                      and "#| hide\n" not in source(c)
                      for o in c["outputs"] if "text/markdown" in o.get("data", {}) and "text/html" not in o["data"])
        assert site["pages"][url].equations == want + printed, url
        total += want
    assert total > 800
    assert not [u for u, h in site["html"].items() if "merror" in h or 'class="math' in h
                and "$$" in re.sub(r"<(pre|code|samp)\b.*?</\1>", "", h, flags=re.S)]


def test_mathml_has_what_the_tex_says():
    m = text.mathml(r"\hat A = \mathrm{softmax}\big(\tfrac{1}{\sqrt d} \sum_{i=1}^{N} x_i\big)", True)
    assert ('display="block"' in m and all(f"<{t}" in m for t in ("mover", "mfrac", "msqrt", "munderover", "msub"))
            and "softmax" in m and "\u2211" in m)
    for tex in (r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
                r"f = \begin{cases} 1 & x < 0 \\[2ex] 2 & x \ge 0 \end{cases}"):
        assert text.mathml(tex, True).count("<mtr") == 2
    with pytest.raises(text.MathError, match="expected an equation"): text.mathml(r"\frac{1}{")


def test_hidden_cells_are_hidden(site):
    n = 0
    for path in notebooks()[:-6]:
        url = re.sub(r"^[0-9]+[a-z]*_", "", path.stem) + ".html"
        words = "".join(site["pages"][url].words)
        assert "google.colab" not in words or path.stem == "12a_pages", url
        assert not re.search(r"(?m)^#\|\s*(hide|export|exports|default_exp|fig-alt|echo)\b", words), url
        for c in cells_of(path):
            if c["cell_type"] == "code" and re.match(r"#\| *hide\s*\n", source(c)):
                assert f'id="cell-{c["id"]}"' not in site["html"][url]
                n += 1
    assert n > 60


def page_of(tmp_path, *sources):
    out = [dict(cell_type="markdown", id="t", metadata={}, source="# T\n\n> A line.")]
    for k, s in enumerate(sources):
        printed = [dict(output_type="stream", name="stdout", text="printed\nnoise: 1\n")]
        out.append(dict(cell_type="code", id=f"c{k}", metadata={}, source=s, outputs=printed, execution_count=None))
    path = tmp_path / "05_t.ipynb"
    path.write_text(json.dumps(dict(cells=out, metadata={}, nbformat=4, nbformat_minor=5)))
    return book.read_page(path, "t.html")


@pytest.mark.parametrize(("directive", "code", "outputs"), [
    ("#| echo: false", False, True), ("#| hide_input", False, True), ("#| output: false", True, False),
    ("#| hide_output", True, False), ("#| eval: false", True, True), ("", True, True)])
def test_directives_show_and_hide(tmp_path, directive, code, outputs):
    _, cell = page_of(tmp_path, f"{directive}\nx = 1".strip()).cells
    assert (cell.show_code, cell.show_outputs) == (code, outputs)


def test_directives_that_remove_fold_filter_and_export(tmp_path):
    page = page_of(tmp_path, "#| hide\nx = 1", "#| include: false\nx = 1", "#| default_exp t",
                   '#| code-fold: true\n#| code-summary: "Plumbing"\nx = 1', "x = 1\ny = 2 #| hide_line",
                   "#| filter_stream noise\nx = 1", "#| export\ndef f(\n    a: int = 1, # how many\n) -> int: # "
                                                    "twice\n    'Doubles.'\n    return 2 * a",
                                                    "#| exports\ndef g(): 'Nothing.'", "%matplotlib inline\nx = 1",
                                                    "show_doc(g)")
    assert page.module == "t" and page.chapter == "05" and page.title == "T" and page.lead == "A line."
    cells_ = page.cells[1:]
    assert [c.id for c in cells_] == [f"c{k}" for k in (3, 4, 5, 6, 7, 8, 9)]
    folded, lined, filtered, export, exports, magic, shown = cells_
    assert folded.fold == "Plumbing" and lined.source == "x = 1" and magic.source == "x = 1"
    assert "noise" not in "".join(filtered.outputs[0]["text"]) and "printed" in "".join(filtered.outputs[0]["text"])
    assert ((export.symbols, export.show_code) == (["f"], False)
            and (exports.symbols, exports.show_code) == (["g"], True))
    assert (shown.symbols, shown.show_code) == (["g"], False)


def test_an_export_becomes_an_entry(tmp_path):
    page = page_of(tmp_path, "#| default_exp t", "#| export\ndef f(\n    a: int = 1, # how many\n    *, b=None, # `T`, "
                                                 "or nothing\n) -> int: # twice $a$\n    'Doubles.'\n    return 2 * a")
    symbols = api.read_source(page.cells[1].source, "t")
    out = text.Text(page, links.Links([page], {}), Assets(tmp_path), "")
    cells.Cells(page, out, symbols).render()
    for want in ('id="f"', "Doubles.", "how many", "returns", "<math>",
                 "https://github.com/micacl/micacl/blob/main/micacl/t.py#L1-L6"):
        assert want in page.body, want
    assert re.sub(r"<[^>]+>", "", re.search(r'<pre class="signature">(.*?)</pre>', page.body,
                                            re.S)[1]) == "f(a: int = 1, *, b=None) -&gt; int"
    assert "return 2" not in page.body and "f(a: int = 1, *, b=None) -> int" in page.markdown


@pytest.mark.parametrize("name", ["core", "geiim", "mccl"])
def test_entries_say_what_docments_says_of_the_live_objects(name):
    import importlib
    from fastcore.docments import docments
    live, module, n = importlib.import_module(f"micacl.{name}"), api.modules()[name], 0
    assert {s.name for s in module.symbols} == set(live.__all__)
    for s in module.symbols:
        thing = getattr(live, s.name)
        if s.kind not in ("function", "class") or not (inspect.isfunction(thing) or "__init__" in vars(thing)): continue
        want = {k: v for k, v in docments(thing, full=True, args_kwargs=True).items() if k not in ("self", "return")}
        assert [p.name for p in s.params] == list(want), s.name
        for p in s.params:
            w = want[p.name]
            if w.docment: assert p.doc == w.docment, (s.name, p)
            assert bool(p.default) == (w.default is not inspect.Parameter.empty), (s.name, p)
            n += bool(p.doc)
    assert n > 5


def test_docments_are_rendered(site):
    row = '<th scope="row"><code>neighbours_only</code></th><td><code>bool</code></td><td><code>False</code></td><td>keep only links'
    for url in ("geiim.html", "api/geiim.html"): assert row in site["html"][url], url
    for m in api.modules().values():
        d = site["pages"][f"api/{m.name}.html"]
        for s in m.symbols: assert s.anchor in d.ids or f"{s.anchor}-2" in d.ids, (m.name, s.name)


def test_names_in_the_prose_lead_to_their_entries(site):
    assert any(a["href"] == "losses.html#balancedsoftmax" for a in site["pages"]["longtail.html"].links)
    modidx = {}
    exec((ROOT / "micacl/_modidx.py").read_text(encoding="utf-8"), modidx)
    for module, names in modidx["d"]["syms"].items():     # nbdev's own addresses work
        for name, (url, _) in names.items():
            short = name.removeprefix(module + ".")
            page, _, anchor = url.partition("#")
            if re.search(r"(^|\.)_", short) or "." in short or page.startswith("lab/"):
                continue      # the lab's modules hold its solutions: no page shows them
            assert anchor in site["pages"][page].ids or anchor in site["pages"][f"api/{page}"].ids, (name, url)


def test_search_knows_geiim(site):
    js = (site["out"] / "search.js").read_text(encoding="utf-8")
    rows = json.loads(js.removeprefix("window.SEARCH="))
    assert ["geiim.html#geiim", "class, micacl.geiim", "GEIIM"] in [r[:3] for r in rows] and len(js) < 900_000
    assert not [r for r in rows if "\\" in r[2]], "TeX in a heading"
    for url, *_ in rows:
        page, _, anchor = url.partition("#")
        assert not anchor or anchor in site["pages"][page].ids, url
    assert {u for u, *_ in rows if "#" not in u} >= set(site["pages"]) - {"index.html"}


def test_programs_that_read_find_every_page(site):
    llms = (site["out"] / "llms.txt").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(https://micacl\.github\.io/micacl/(\S+?)\.md\)", llms)
    assert sorted(listed) == sorted(site["pages"]) and llms.startswith("# MICACL\n\n> ")
    for url in site["pages"]: assert (site["out"] / f"{url}.md").stat().st_size > 100, url
    for path in (ROOT / "micacl").glob("[a-z]*.py"):      # the address in the docstring of each module
        for url in re.findall(r"^Docs: https://micacl\.github\.io/micacl/(\S+?)\"*$", path.read_text(encoding="utf-8"),
                              re.M):
            assert (site["out"] / url).is_file(), path
    md = (site["out"] / "geiim.html.md").read_text(encoding="utf-8")
    assert md.startswith("# GEIIM\n\n> ") and "```python\ndef allowed_links(" in md and "google.colab" not in md


def test_lab_sheets_are_the_students_copies(site):
    for path in sorted((ROOT / "nbs/lab/student").glob("*.ipynb")):
        url = f"lab/{re.sub(r'^[0-9]+_', '', path.stem)}.html"
        assert (site["out"] / "lab" / path.name).read_bytes() == path.read_bytes()
        assert {"href": path.name, "download": None, "class": "download"} in site["pages"][url].links
        assert "BEGIN SOLUTION" not in site["html"][url] and "not written yet" not in site["html"][url]


def test_the_glossary_speaks_of_names_that_exist(site):
    md, known = (ROOT / "nbs/glossary.md").read_text(encoding="utf-8"), {s.name for m in api.modules().values()
        for s in m.symbols}
    words = {w for p in (ROOT / "micacl").glob("[a-z]*.py") for w in re.findall(r"\w+", p.read_text(encoding="utf-8"))}
    names = set(re.findall(r"`([^`]+)`", md))
    for n in names: assert re.split(r"[. ]", n)[-1] in words, n
    assert len(names & known) > 15


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    page = page_of(tmp_path, "x = 1")
    known = links.Links([page], {})
    text.Text(page, known, Assets(tmp_path), "").render("[here](99_nowhere.ipynb) and [there](https://example.org)")
    assert len(known.problems) == 1 and "99_nowhere.ipynb" in known.problems[0]


def test_the_same_input_makes_the_same_bytes(site, tmp_path):
    only = {"index.html", "pages.html", "ledger.html", "lab/bags.html", "cite.html", "api/wian.html"}
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); from sitekit.build import build; "
            f"build({str(tmp_path / 's')!r}, only={only!r})")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=tmp_path)
    # the version of the search index, which is of all pages
    plain = lambda s: re.sub(r"\?[0-9a-f]{8}|data-version=\"\w+\"", "", s)
    for url in only:
        assert plain((tmp_path / "s" / url).read_text(encoding="utf-8")) == plain(site["html"][url]), url
        assert (tmp_path / "s" / f"{url}.md").read_bytes() == (site["out"] / f"{url}.md").read_bytes()
    for p in (tmp_path / "s/img").iterdir(): assert p.read_bytes() == (site["out"] / "img" / p.name).read_bytes()


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    r = subprocess.run([sys.executable, str(ROOT / "tools/site.py"), "--out", str(tmp_path)], capture_output=True,
                       text=True)
    assert (r.returncode and "expected an empty folder or an older site" in r.stderr
            and (tmp_path / "mine.txt").read_text() == "keep")


def test_stills_belong_to_cells_with_sliders(site):
    n = 0
    for index in (ROOT / "tools/sitekit/stills").glob("*.json"):
        path = ROOT / f"nbs/{index.stem}.ipynb"
        widgets = {c["id"] for c in cells_of(path) if c["cell_type"] == "code"
                   and any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in c["outputs"])}
        for cell, name in json.loads(index.read_text(encoding="utf-8")).items():
            if cell == "code": continue
            assert cell in widgets and (index.parent / name).is_file(), (index, cell)
            assert re.search(rf'id="cell-{cell}".*?<figure class="plot"><img .*?<figcaption><p>Interactive',
                             site["html"][re.sub(r"^[0-9]+[a-z]*_", "", index.stem) + ".html"], re.S)
            n += 1
    assert n > 8


def test_the_site_is_small(site): assert site["found"]["megabytes"] < 20 and site["found"]["pictures"] > 100


PREPARE = """
from nbdev.serve import proc_nbs
if __name__ == "__main__": print(proc_nbs(force=True, n_workers=1))
"""


def test_nbdev_docs_can_prepare_every_page(tmp_path):
    """What `nbdev-docs` does before it calls Quarto: it runs every shown cell that imports something, and nothing
    of what comes before it."""
    for name in ("nbs", "micacl", "results", "settings.ini", "pyproject.toml", "setup.py", "README.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__",
                ".ipynb_checkpoints"))
        else: shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "prepare.py").write_text(PREPARE)
    r = subprocess.run([sys.executable, "-W", "ignore", "prepare.py"], cwd=tmp_path, capture_output=True, text=True,
                       env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert not r.returncode, r.stderr[-2000:]
    made = {p.relative_to(tmp_path / "_proc").as_posix() for p in (tmp_path / "_proc").rglob("*.ipynb")}
    assert {p.relative_to(ROOT / "nbs").as_posix() for p in notebooks()} <= made
