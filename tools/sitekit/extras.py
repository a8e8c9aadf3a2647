"Pages that no notebook holds: the reference, the gallery, the glossary, the bibliography, how to cite."
import html
import json
import re

import yaml

from .api import source_of
from .book import API, PARTS, REFERENCE, REPO, ROOT, Page
from .cells import Entries
from .text import code_html

def made(**kw): return Page(**{"part": REFERENCE, "kind": "page", "colab": "nbs/index.ipynb", **kw})


def plan(modules, chapters):
    "The pages themselves; their bodies are filled in later."
    home = {p.module: p for p in chapters if p.module}
    pages = [made(source="nbs/glossary.md", url="glossary.html", title="Glossary",
                  lead="The signs of the equations, the names in the code, and the words of the field, side by side."),
             made(source="nbs/references.md", url="references.html", title="References",
                  lead="The works that this book cites, and the pages that cite them."),
             made(source="results", url="gallery.html", title="Gallery",
                  lead="The figures of the book, and the files that its numbers come from."),
             made(source="CITATION.cff", url="cite.html", title="How to cite",
                  lead="The paper, and this book about it."),
             made(source="micacl", url="api/index.html", title="API reference",
                  lead="Every public name of the library, package by package, with what its parameters mean.")]
    for m in modules:
        chapter = home.get(m)
        pages.append(made(source=source_of(m), url=f"api/{m}.html", title=f"micacl.{m}", lead=modules[m].lead,
                          module="", part=API, data=dict(module=m, chapter=chapter),
                          colab=chapter.source if chapter else "nbs/index.ipynb"))
    return pages


def module_page(page, text, module):
    entries, chapter = Entries(text), page.data["chapter"]
    text.ids.update(text.links.anchor(s) for s in module.symbols)
    out, md = [], []
    if chapter:
        out.append(f'<p>Explained in the chapter <a '
                   f'href="{text.root}{chapter.url}">{html.escape(chapter.title)}</a>.</p>')
    names = [s.name for s in module.symbols] + [n for n, _ in module.others]
    code = f"from micacl.{module.name} import " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    out.append(f'<pre class="code"><code>{code_html(code, "python")}</code></pre>' if names
               else "<p>This module has no public names.</p>")
    if module.others:
        shown = elsewhere(text, module)
        out.append(f"<p>Also importable from here: {', '.join(h for h, _ in shown)}.</p>")
        md.append(f"Also importable from here: {', '.join(m for _, m in shown)}.")
    for s in module.symbols:
        text.ids.discard(text.links.anchor(s))
        out.append(entries.entry(s, heading="h2"))
        text.toc.append((2, text.links.anchor(s), f"<code>{html.escape(s.name)}</code>"))
        md.append(f"## {s.name}\n\n{entries.markdown(s)}")
    page.body, page.markdown = "\n".join(out), "\n\n".join(md)


def elsewhere(text, module):
    "(HTML, markdown) of each name that a module hands on, with a link to its entry."
    out = []
    for name, home in module.others:
        symbol = next((s for s in text.links.names.get(name, []) if s.module == home), None)
        code, url = f"<code>{html.escape(name)}</code>", symbol and f"api/{home}.html#{text.links.anchor(symbol)}"
        out.append((f'<a class="name" href="{text.root}{url}">{code}</a>' if url else code,
                    f"[`{name}`]({text.root}{url})" if url else f"`{name}`"))
    return out


def api_index(page, text, pages, modules):
    "The modules in the order of imports, those of a package together."
    rows, md, package = "", [], None
    for p in pages:
        if p.part != API: continue
        m = modules[p.data["module"]]
        if m.package != package:
            rows += "</div></section>" if package else ""
            package, anchor = m.package, text.unique(m.package)
            text.toc.append((2, anchor, f"<code>micacl.{package}</code>"))
            title = f"<code>micacl.{package}</code>"
            if m.name == package: title = f'<a href="{text.root}{p.url}">{title}</a>'
            rows += f'<section class="package"><h2 id="{anchor}">{title}</h2><div class="modules">'
            md.append(f"\n## micacl.{package}\n")
        names = ", ".join([*(f'<a href="{text.root}{p.url}#{text.links.anchor(s)}"><code>{html.escape(s.name)}</code>'
                             "</a>" for s in m.symbols), *(h for h, _ in elsewhere(text, m))])
        heading = (f'<h3 id="{text.unique("module-" + m.name)}"><a href="{text.root}{p.url}"><code>micacl.{m.name}'
                   "</code></a></h3>") if m.name != package else ""
        rows += (f'<div class="module">{heading}<p>{html.escape(p.lead)}</p><p class="names">{names}</p></div>')
        md.append(f"- [micacl.{m.name}]({text.root}{p.url}.md): {p.lead}")
    page.body, page.markdown = rows + "</div></section>", "\n".join(md).strip()


def results_table():
    "What stands in results/: file, how it was made, at which commit, on what machine."
    rows, md = "", ["| file | made by | commit | machine |", "|---|---|---|---|"]
    for path in sorted((ROOT / "results").glob("*.json")):
        d = json.loads(path.read_text(encoding="utf-8"))
        machine = d.get("machine", "")
        if isinstance(machine, dict):
            machine = ", ".join(str(x) for x in (f"{machine['cpu_cores']} CPU cores" if "cpu_cores" in machine else "",
                                                 machine.get("gpu", ""), machine.get("system", ""),
                                                 f"torch {machine['torch']}" if "torch" in machine else "") if x)
        cells = [d.get("command", ""), d.get("commit", ""), machine]
        commit = f'<a href="{REPO}/commit/{cells[1]}"><code>{cells[1]}</code></a>' if cells[1] else ""
        rows += (f'<tr><th scope="row"><a '
                 f'href="{REPO}/blob/main/results/{path.name}">{path.stem}</a></th><td><code>{html.escape(cells[0])}</code></td><td>{commit}</td><td>{html.escape(machine)}</td></tr>')
        md.append("| " + " | ".join([path.stem, *cells]) + " |")
    return ('<div class="scroll"><table><thead><tr><th scope="col">file</th><th scope="col">made by</th><th '
            'scope="col">commit</th><th scope="col">machine</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"), "\n".join(md)


def gallery(page, text, figures):
    "Findings first, then every other figure, each with what there is to notice."
    table, table_md = results_table()
    found = [f for f in figures if f["page"].part == PARTS["findings"] or "bakeoff" in f["page"].source]
    rest = [f for f in figures if f not in found]
    out, md = [], []
    for title, some in (("What was found", found), ("From the chapters", rest)):
        anchor = text.unique(re.sub(r"\W+", "-", title.lower()))
        text.toc.append((2, anchor, title))
        out.append(f'<h2 id="{anchor}">{title}</h2><ul class="gallery">')
        for f in some:
            # one link is enough: to the page itself
            f["notice"] = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", f["notice"] or f["alt"])
            line = text.line(f["notice"])
            out.append(f'<li><a href="{f["page"].url}#{f["anchor"]}"><img src="{f["url"]}" '
                       f'alt="{html.escape(f["alt"])}" width="{f["width"]}" height="{f["height"]}" loading="lazy" '
                       'decoding="async"></a>'
                       f'<p><a href="{f["page"].url}#{f["anchor"]}">{html.escape(f["page"].title)}</a>'
                       f'{": " + line if line else ""}</p></li>')
            said = "" if f["notice"] == f["alt"] else f': {f["notice"]}'      # the description is read already
            md.append(f'![{f["alt"]}]({f["url"]})\n\n[{f["page"].title}]({f["page"].url}#{f["anchor"]}){said}')
        out.append("</ul>")
    anchor = text.unique("numbers")
    text.toc.append((2, anchor, "The numbers"))
    out.append(f'<h2 id="{anchor}">The numbers</h2><p>Every figure that compares methods is read from a file in '
               f'<code>results/</code>. Each file says how it was made.</p>{table}')
    page.body, page.markdown = "\n".join(out), "\n\n".join([*md, table_md])


def cite(page, text):
    "The paper and the book, from CITATION.cff."
    paper, book = bibtex((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    bibs = [("The paper", "What this book reproduces is the authors' work. If you use the method, cite them.", paper),
            ("This book", "If you use the library, SynFEW, the lab sheets or the measurements, name this book too.",
             book)]
    page.markdown = "\n\n".join(f"## {t}\n\n{s}\n\n```bibtex\n{b}\n```" for t, s, b in bibs)
    page.body = text.render(page.markdown)


def bibtex(source):
    "CITATION.cff -> BibTeX of the paper it refers to, and of itself."
    d = yaml.safe_load(source)
    paper, = d["references"]
    names = lambda authors: " and ".join(f"{{{a['name']}}}" if "name" in a else a["family-names"] for a in authors)
    entry = lambda key, **fields: f"@{key},\n" + ",\n".join(f"  {k:9} = {{{v}}}" for k,
                                                            v in fields.items() if v) + "\n}"
    return (entry("inproceedings{cui2025micacl", title=paper["title"], author=names(paper["authors"]),
                  booktitle=paper["collection-title"], year=paper["year"], note=paper["identifiers"][0]["value"],
                  url=paper["url"]),
            entry("software{micacl", title=d["title"], author=names(d["authors"]), version=d["version"],
                  year=str(d.get("date-released", ""))[:4], url=d["repository-code"]))


def from_markdown(page, text):
    "A page that is a markdown file of nbs/."
    source = (ROOT / page.source).read_text(encoding="utf-8")
    source = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.S)
    page.markdown = re.sub(r"\A\s*# [^\n]+\n+(> [^\n]+\n+)?", "", source)
    page.body = text.render(page.markdown)
