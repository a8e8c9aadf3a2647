"Pages that no notebook holds: the reference, the gallery, the glossary, how to cite."
import html
import json
import re

from .book import REPO, ROOT, Page
from .cells import Entries
from .text import code_html

PAPER = """@misc{cui2025micacl,
  title         = {{MICACL}: Multi-Instance Category-Aware Contrastive Learning for Long-Tailed Dynamic Facial Expression Recognition},
  author        = {Cui and others},
  year          = {2025},
  eprint        = {2509.04344},
  archivePrefix = {arXiv},
  url           = {https://arxiv.org/abs/2509.04344}
}"""
BOOK = """@software{micacl_book,
  title  = {{micacl}: long-tailed facial expression recognition in video, as a book whose chapters are a library},
  author = {{micacl contributors}},
  url    = {https://github.com/micacl/micacl}
}"""


def made(**kw): return Page(**{"part": "Reference", "kind": "page", "colab": "nbs/index.ipynb", **kw})


def plan(modules, chapters):
    "The pages themselves; their bodies are filled in later."
    home = {p.module: p for p in chapters if p.module}
    pages = [made(source="nbs/98_glossary.md", url="glossary.html", title="Glossary", lead="The signs of the equations, the names in the code, and the words of the field, side by side.")] if (ROOT / "nbs/98_glossary.md").exists() else []
    pages += [made(source="results", url="gallery.html", title="Gallery", lead="The figures of the book, and the files that its numbers come from."),
              made(source="CITATION.cff" if (ROOT / "CITATION.cff").exists() else "README.md", url="cite.html", title="How to cite", lead="The paper, and this book about it."),
              made(source="micacl", url="api/index.html", title="API reference", lead="Every public name of the library, module by module, with what its parameters mean.")]
    keys = sorted(modules, key=lambda m: [p.module for p in chapters].index(m) if m in home else 10 ** 6)
    for m in keys:
        chapter = home.get(m)
        pages.append(made(source=f"micacl/{m}.py", url=f"api/{m}.html", title=f"micacl.{m}", lead=modules[m].lead, module="", part="API reference", data=dict(module=m, chapter=chapter),
                          colab=chapter.source if chapter else "nbs/index.ipynb"))
    return pages


def module_page(page, text, module):
    entries, chapter = Entries(text), page.data["chapter"]
    text.ids.update(text.links.anchor(s) for s in module.symbols)
    out, md = [], []
    if chapter: out.append(f'<p>Explained in the chapter <a href="{text.root}{chapter.url}">{html.escape(chapter.title)}</a>.</p>')
    out.append(f'<pre class="code"><code>{code_html(f"from micacl.{module.name} import " + ", ".join(s.name for s in module.symbols[:3]) + (", ..." if len(module.symbols) > 3 else ""), "python")}</code></pre>' if module.symbols else "<p>This module has no public names.</p>")
    for s in module.symbols:
        text.ids.discard(text.links.anchor(s))
        out.append(entries.entry(s, heading="h2"))
        text.toc.append((2, text.links.anchor(s), f"<code>{html.escape(s.name)}</code>"))
        md.append(f"## {s.name}\n\n{entries.markdown(s)}")
    page.body, page.markdown = "\n".join(out), "\n\n".join(md)


def api_index(page, text, pages, modules):
    rows, md = "", []
    for p in pages:
        if p.part != "API reference": continue
        m = modules[p.data["module"]]
        names = ", ".join(f'<a href="{text.root}{p.url}#{text.links.anchor(s)}"><code>{html.escape(s.name)}</code></a>' for s in m.symbols)
        rows += f'<section class="module"><h2 id="{text.unique(m.name)}"><a href="{text.root}{p.url}"><code>micacl.{m.name}</code></a></h2><p>{html.escape(p.lead)}</p><p class="names">{names}</p></section>'
        md.append(f"- [micacl.{m.name}]({text.root}{p.url}.md): {p.lead}")
    page.body, page.markdown = f'<div class="modules">{rows}</div>', "\n".join(md)


def results_table():
    "What stands in results/: file, how it was made, at which commit, on what machine."
    rows, md = "", ["| file | made by | commit | machine |", "|---|---|---|---|"]
    for path in sorted((ROOT / "results").glob("*.json")):
        d = json.loads(path.read_text(encoding="utf-8"))
        machine = d.get("machine", "")
        if isinstance(machine, dict): machine = ", ".join(str(x) for x in (f"{machine['cpu_cores']} CPU cores" if "cpu_cores" in machine else "", machine.get("gpu", ""), machine.get("system", ""), f"torch {machine['torch']}" if "torch" in machine else "") if x)
        cells = [d.get("command", ""), d.get("commit", ""), machine]
        commit = f'<a href="{REPO}/commit/{cells[1]}"><code>{cells[1]}</code></a>' if cells[1] else ""
        rows += f'<tr><th scope="row"><a href="{REPO}/blob/main/results/{path.name}">{path.stem}</a></th><td><code>{html.escape(cells[0])}</code></td><td>{commit}</td><td>{html.escape(machine)}</td></tr>'
        md.append("| " + " | ".join([path.stem, *cells]) + " |")
    return ('<div class="scroll"><table><thead><tr><th scope="col">file</th><th scope="col">made by</th><th scope="col">commit</th><th scope="col">machine</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"), "\n".join(md)


def gallery(page, text, figures):
    "Findings first, then every other figure, each with what there is to notice."
    table, table_md = results_table()
    found = [f for f in figures if f["page"].part in ("What was found",) or f["page"].module in ("bakeoff",) or "bakeoff" in f["page"].source]
    rest = [f for f in figures if f not in found]
    out, md = [], []
    for title, some in (("What was found", found), ("From the chapters", rest)):
        anchor = text.unique(re.sub(r"\W+", "-", title.lower()))
        text.toc.append((2, anchor, title))
        out.append(f'<h2 id="{anchor}">{title}</h2><ul class="gallery">')
        for f in some:
            f["notice"] = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", f["notice"] or "")      # one link is enough: to the page itself
            line = text.line(f["notice"])
            out.append(f'<li><a href="{f["page"].url}#{f["anchor"]}"><img src="{f["url"]}" alt="{html.escape(f["alt"])}" width="{f["width"]}" height="{f["height"]}" loading="lazy" decoding="async"></a>'
                       f'<p><a href="{f["page"].url}#{f["anchor"]}">{html.escape(f["page"].title)}</a>{": " + line if line else ""}</p></li>')
            md.append(f'![{f["alt"]}]({f["url"]})\n\n[{f["page"].title}]({f["page"].url}#{f["anchor"]}): {f["notice"]}')
        out.append("</ul>")
    anchor = text.unique("numbers")
    text.toc.append((2, anchor, "The numbers"))
    out.append(f'<h2 id="{anchor}">The numbers</h2><p>Every figure that compares methods is read from a file in <code>results/</code>. Each file says how it was made.</p>{table}')
    page.body, page.markdown = "\n".join(out), "\n\n".join([*md, table_md])


def cite(page, text):
    "CITATION.cff where there is one; the paper in any case."
    bibs = [("The paper", "What this book reproduces is the authors' work. If you use the method, cite them.", PAPER),
            ("This book", "If you use the library, SynFEW, the lab sheets or the measurements, name this book too.", BOOK)]
    if (ROOT / "CITATION.cff").exists():
        bibs = [*bibs[:1], ("This book", "If you use the library, SynFEW, the lab sheets or the measurements, name this book too. In BibTeX:", bibtex((ROOT / "CITATION.cff").read_text(encoding="utf-8")))]
    page.markdown = "\n\n".join(f"## {t}\n\n{s}\n\n```bibtex\n{b}\n```" for t, s, b in bibs)
    page.body = text.render(page.markdown)


def bibtex(source):
    "CITATION.cff -> BibTeX, the fields that it has."
    import yaml
    d = yaml.safe_load(source)
    names = " and ".join(a.get("name") and f"{{{a['name']}}}" or f"{a.get('family-names', '')}, {a.get('given-names', '')}".strip(", ") for a in d.get("authors", []))
    fields = dict(title=d.get("title"), author=names, version=d.get("version"), year=str(d.get("date-released", ""))[:4], doi=d.get("doi"), url=d.get("repository-code") or d.get("url"))
    return "@software{micacl,\n" + ",\n".join(f"  {k:7} = {{{v}}}" for k, v in fields.items() if v) + "\n}"


def glossary(page, text):
    source = (ROOT / page.source).read_text(encoding="utf-8")
    source = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.S)
    page.markdown = re.sub(r"\A\s*# [^\n]+\n+(> [^\n]+\n+)?", "", source)
    page.body = text.render(page.markdown)


