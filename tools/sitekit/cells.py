"Cells to HTML and to markdown: code, what it printed, pictures with words, sliders as stills, and API entries."
import html
import json
import re

from .assets import KINDS
from .book import COLAB, ROOT
from .stills import VIEW, index_of, print_of
from .text import code_html, mathml

PREDICT = re.compile(r"\*\*Predict before you run")
ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")


def joined(x): return "".join(x) if isinstance(x, list) else x


def read_stills(page, notes):
    "{cell: file}; says so where the page has changed since."
    index = index_of(ROOT / page.source)
    found = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    if found and found.pop("code", "") != print_of(ROOT / page.source):
        notes.append(f"{page.source} has changed since its stills were taken; run python tools/sitekit/stills.py "
                     f"{page.source}")
    return found


class Entries:
    "API entries as HTML and markdown."
    def __init__(self, text): self.text, self.links = text, text.links

    def doc(self, source): return self.text.line(" ".join(source.split())) if source else ""

    def table(self, s):
        rows = [*s.params, *([s.returns] if s.returns and (s.returns.doc or s.params) and s.returns.type != "None"
                             else [])]
        if not rows or s.kind == "property": return ""
        head = "".join(f'<th scope="col">{x}</th>' for x in ("field" if s.kind == "dataclass" else "parameter", "type",
                                                             "default", "meaning"))
        body = ""
        for p in rows:
            name = "<em>returns</em>" if p is s.returns else f"<code>{p.lead}{html.escape(p.name)}</code>"
            cell = lambda x: f"<code>{html.escape(x)}</code>" if x else ""
            body += (f'<tr><th scope="row">{name}</th><td>{cell(p.type)}</td><td>{cell(p.default)}</td>'
                     f'<td>{self.doc(p.doc)}</td></tr>')
        return (f'<div class="scroll"><table '
                f'class="params"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def entry(self, s, heading="", code=""):
        """One name: what it is, its signature, its meaning, its parameters, its methods.
        Where its `code` is shown, that says the first two; the rest is folded."""
        anchor, kind = self.text.unique(self.links.anchor(s)), s.kind + (f" ({s.bases})" if s.bases
            and s.kind == "class" else "")
        tag = heading or "p"
        more = (f' <a class="more" href="{self.text.root}api/{s.module}.html#{self.links.anchor(s)}">reference</a>'
                if not heading and s.module in self.links.modules else "")
        out = [f'<div class="entry-head"><{tag} class="entry-name" '
               f'id="{anchor}"><code>{html.escape(s.name)}</code></{tag}><span class="kind">{html.escape(kind)}</span>'
               f'<span class="where">{more} <a href="{s.url}" aria-label="Source of {html.escape(s.name)} on '
               'GitHub">source</a></span></div>']
        if not code: out.append(f'<pre class="signature"><code>{code_html(s.signature(), "python")}</code></pre>')
        if s.doc and not code: out.append("".join(f"<p>{self.doc(x)}</p>" for x in re.split(r"\n\s*\n", s.doc)))
        self.text.entries.append([anchor, s.name, [s.doc], f"{s.kind}, micacl.{s.module}"])
        table, methods = self.table(s), self.methods(s, "h3" if heading else "")
        if code: out.append(code)
        if table or methods:
            what = " and ".join(x for x, there in (("parameters", table), ("methods", methods)) if there).capitalize()
            out.append(f"<details><summary>{what}</summary>{table}{methods}</details>" if code else table + methods)
        return f'<div class="entry">{"".join(out)}</div>'

    def methods(self, s, heading):
        out = []
        for m in s.methods:
            anchor, tag = self.text.unique(self.links.anchor(m)), heading or "p"
            out.append(f'<div class="method"><{tag} class="entry-name" '
                       f'id="{anchor}"><code>{html.escape(m.name)}</code></{tag}>'
                       f'<pre class="signature"><code>{code_html(m.signature(), "python")}</code></pre>'
                       f'<p>{self.doc(m.doc)}</p>{self.table(m)}</div>')
        return "".join(out)

    def markdown(self, s):
        rows = ["| " + " | ".join(x.replace("|", "\\|") for x in (p.lead + p.name, p.type, p.default, p.doc)) + " |"
                for p in [*s.params, *([s.returns] if s.returns else [])]]
        table = "\n".join(["", "| parameter | type | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""
        methods = "".join(f"\n\n- `{m.name}{m.signature(10 ** 6).removeprefix(m.short)}`: {m.doc}" for m in s.methods)
        return (f"**{s.kind} `{s.name}`** "
                f"([source]({s.url}))\n\n```python\n{s.signature()}\n```\n\n{s.doc}\n{table}{methods}")


class Cells:
    "Renders the cells of a page into `page.body` and `page.markdown`."
    def __init__(self, page, text, symbols):
        self.page, self.text, self.symbols, self.entries = page, text, symbols, Entries(text)
        self.figures, self.shots = [], []       # for the gallery; pictures waiting for their "what to notice"
        self.stills, self.folder = read_stills(page, text.links.notes), index_of(ROOT / page.source).parent

    def render(self):
        out, md, fold, reserved = [], [], False, [self.text.links.anchor(s) for c in self.page.cells for n in c.symbols
                                                  if (s := self.symbols.get(n))]
        self.text.ids.update(reserved)      # names have the first right to their anchors; headings step aside
        for cell in self.page.cells:
            if cell.kind == "markdown":
                out.append(self.text.render(cell.source))
                md.append(cell.source)
                if PREDICT.search(cell.source): fold = True
                if m := re.search(r"\*What to notice:?\*:?\s*(.+?)(?:\n\n|\Z)", cell.source, re.S):
                    for f in self.shots:
                        # of a list, the first item
                        f["notice"] = " ".join(re.split(r"\n\s*[-*] ", m[1])[0].removeprefix("- ").split())
                self.shots = []         # what is to be noticed stands right under the figure
                continue
            parts, text, picture = self.code(cell)
            if fold and picture:
                picture = f'<details class="answer"><summary>Run it: what comes out</summary>{picture}</details>'
                fold = False
            out.append(f'<div class="cell" id="cell-{cell.id}">{parts}{picture}</div>')
            md.append(text)
        self.page.body, self.page.markdown = "\n".join(out), "\n\n".join(md)

    def code(self, cell):   # -> HTML of entries and code, markdown, HTML of outputs
        shown, md, code = [], [], ""
        known = [s for n in cell.symbols if (s := self.symbols.get(n))]
        if cell.show_code and cell.source.strip():
            code = f'<pre class="code"><code>{code_html(cell.source)}</code></pre>'
            if cell.fold: code = f"<details><summary>{html.escape(cell.fold)}</summary>{code}</details>"
            md.append(f"```python\n{cell.source}\n```")
        for k, s in enumerate(known):       # several names defined in one cell: the code stands under the last
            self.text.ids.discard(self.text.links.anchor(s))
            shown.append(self.entries.entry(s, code=code if k == len(known) - 1
                                            else ("<!-- below -->" if code else "")))
            if not code: md.append(self.entries.markdown(s))
        html_ = f'<div class="defined">{"".join(shown)}</div>' if known and code else "".join(shown) or code
        pictures, words = self.outputs(cell) if cell.show_outputs else ([], [])
        return html_, "\n\n".join([*md, *words]), "".join(pictures)

    def outputs(self, cell):
        out, md, k = [], [], 0
        printed = ""
        for o in [*cell.outputs, None]:
            if o is not None and o["output_type"] == "stream" and o.get("name") != "stderr":
                printed += joined(o["text"]); continue
            if printed.strip(): self.pre(printed, out, md)
            printed = ""
            if o is None: break
            if o["output_type"] == "stream": self.pre(joined(o["text"]), out, md, "stderr")
            elif o["output_type"] == "error":
                self.pre(ANSI.sub("", "\n".join(o.get("traceback", []))), out, md, "stderr")
            else:
                k += 1
                self.data(cell, {t: v if isinstance(v, dict) else joined(v) for t, v in o.get("data", {}).items()}, out,
                          md)
        return out, md

    def pre(self, text, out, md, kind=""):
        text = text.strip("\n")
        out.append(f'<pre class="output {kind}"><samp>{html.escape(text)}</samp></pre>'.replace("output \"", 'output"'))
        md.append(f"```text\n{text}\n```")

    def data(self, cell, data, out, md):
        "The richest form of an output that a page without a kernel can show."
        if VIEW in data: self.widget(cell, out, md)
        elif (h := data.get("text/html", "")).strip(): self.html(cell, h, data, out, md)
        elif "text/html" in data and not data["text/html"].strip(): return
        elif "text/markdown" in data:
            out.append(f'<div class="output-md">{self.text.render(data["text/markdown"])}</div>')
            md.append(data["text/markdown"])
        elif "text/latex" in data: out.append(mathml(data["text/latex"].strip("$ "), True))
        elif kind := next((t for t in KINDS if t in data), None):
            self.picture(cell, self.text.assets.add(data[kind].encode(), kind) if kind == "image/svg+xml"
                         else self.text.assets.add_base64(data[kind], kind), out, md)
        elif "text/plain" in data: self.pre(data["text/plain"], out, md)

    def picture(self, cell, asset, out, md, note=""):
        url, w, h = asset
        alt = cell.alt or f"Figure of the page {self.page.title}"
        size = f' width="{w}" height="{h}"' if w else ""
        out.append(f'<figure class="plot"><img src="{self.text.root}{url}" alt="{html.escape(alt)}"{size} '
                   f'loading="lazy" decoding="async">{note}</figure>')
        md.append(f"![{alt}]({self.text.root}{url})")
        self.text.sections[-1][2].append(alt)
        if not note:
            self.figures.append(dict(url=url, width=w, height=h, alt=alt, anchor=f"cell-{cell.id}", page=self.page,
                                     notice=""))
            self.shots.append(self.figures[-1])

    def widget(self, cell, out, md):
        """Sliders need a kernel: a still picture where there is one, what it shows in words, and the way to the
        live thing."""
        still = self.stills.get(cell.id)
        alt = "" if still else f"<p>{html.escape(cell.alt)}</p>"
        note = (f'<figcaption>{alt}<p>Interactive: move the controls in <a href="{COLAB}{self.page.colab}">Colab</a> '
                f'or in JupyterLab{"; this is a still picture" if still else ""}.</p></figcaption>')
        if still:
            data = (self.folder / still).read_bytes()
            self.picture(cell, self.text.assets.add(data, "image/" + still.rsplit(".", 1)[1]), out, md, note)
        else:
            out.append(f'<figure class="plot widget">{note}</figure>')
            md.append(f"*Interactive figure: {cell.alt}*")

    def html(self, cell, h, data, out, md):
        "HTML of an output, in a light box of its own: no heading, id or style of it touches the page."
        h = re.sub(r"<style\b(?![^>]*text/css).*?</style>|<script\b.*?</script>", "", h, flags=re.S)
        if not re.sub(r"<[^>]+>|\s", "", h) and "<svg" not in h and "<img" not in h: return
        h = self.text.assets.move_data_uris(h, self.text.root)
        h = re.sub(r"<(/?)h[1-6]\b", r"<\1p", h)
        h = re.sub(r"<(/?)(section|main|nav|header|footer|article|aside)\b", r"<\1div", h)
        for name in sorted(set(re.findall(r'\bid="([^"]+)"', h)), key=len, reverse=True):
            new = self.text.unique(f"out-{cell.id}-{name}")
            h = re.sub(rf'(\b(?:id|for|aria-labelledby|aria-describedby)="){re.escape(name)}"', rf'\g<1>{new}"', h)
            h = re.sub(rf'((?:href="|url\()#){re.escape(name)}(?=["\)])', rf"\g<1>{new}", h)
        h = re.sub(r'<img (?![^>]*\balt=)', f'<img alt="{html.escape(cell.alt or "Picture")}" ', h)
        h = re.sub(r"\s*tabindex=\"0\"", "", h)
        h = re.sub(r"(?<!<div class=\"scroll\">)(<table\b.*?</table>)", r'<div class="scroll">\1</div>', h, flags=re.S)
        out.append(f'<div class="output-html">{h}</div>')
        words = " ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", h, flags=re.S)).split())
        md.append(data.get("text/markdown") or words or f"*{cell.alt}*")
