"Markdown to HTML: equations as MathML, code coloured, links resolved, headings in order and with anchors."
import functools
import html
import re

import math_core
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from .assets import KINDS, inlined
from .book import ROOT
from .links import slug

FORMAT = HtmlFormatter(nowrap=True)
TEX = math_core.LatexToMathML()
NAMED = {"predict": r"Predict before you run", "notice": r"What to notice", "objectives": r"Objectives",
         "road": r"Where we are on the road", "summary": r"Summary",
         "exercises": r"Exercises", "differs": r"Where this differs[^<.:*]*", "prerequisites": r"Prerequisites"}
RUN_IN = re.compile(r"\A(?:<strong>|<em>)(" + "|".join(NAMED.values()) + r")[.:?]?")
IN_TOC = ("objectives", "summary", "exercises", "differs")


class MathError(Exception):
    "An equation that can't be shown."


def mathml(tex, block=False):
    try: return TEX.convert_with_local_state(tex.strip(), displaystyle=block)
    except math_core.LatexError as e: raise MathError(f"expected an equation, found {tex!r}: {e}") from None


# what the style sheet has no colour for needs no mark: most of the code of a page
PLAIN = re.compile(r'<span class="(?:w|n|nn|p|o|nb|bp|ne)">([^<]*)</span>')
# what has one colour has one class, and one mark where it stands side by side: an f-string has four kinds of pieces
COLOURS = dict.fromkeys(("kn", "ow", "kc", "kd", "kr"), "k") | dict.fromkeys(
    ("s1", "s2", "sd", "sa", "si", "sb", "se", "dl", "sr"), "s") | dict.fromkeys(
    ("mi", "mf", "mh", "il"), "m") | dict.fromkeys(("c1", "ch", "cm", "cs"), "c") | dict.fromkeys(("nc", "fm"), "nf")
MARK = re.compile(r'(?<=<span class=")\w+(?=">)')
SIDE_BY_SIDE = re.compile(r'<span class="(\w+)">[^<]*(?:</span><span class="\1">[^<]*)+')


@functools.lru_cache(None)
def code_html(source, language="ipython"):
    try: lexer = get_lexer_by_name(language or "text", stripnl=False)
    except ClassNotFound: lexer = get_lexer_by_name("python" if language == "ipython" else "text", stripnl=False)
    marked = PLAIN.sub(r"\1", highlight(source.rstrip("\n"), lexer, FORMAT)).rstrip("\n")
    marked = MARK.sub(lambda m: COLOURS.get(m[0], m[0]), marked)
    return SIDE_BY_SIDE.sub(lambda m: m[0].replace(f'</span><span class="{m[1]}">', ""), marked)


def said(tex):
    "An equation as one would type it into a search: log n_c for \\log n_c."
    return re.sub(r"[\\{}&]|\s+", lambda m: " " if m[0].isspace() else "",
                  re.sub(r"\\(?:mathrm|mathcal|mathbb|mathbf|text|operatorname|t?frac|dfrac|left|right|"
                         r"[bB]igg?[lr]?|qquad|quad|[,;!])(?![a-zA-Z])", " ", tex)).strip()


def plain(tokens):
    "The words of inline tokens."
    return "".join(t.content if t.type in ("text", "code_inline") else said(t.content) if t.type.startswith("math")
                   else " " if t.type == "softbreak" else plain(t.children) if t.children else "" for t in tokens)


class Text:
    "Renders the markdown of one page; remembers its headings, and what the search should know."
    def __init__(self, page, links, assets, root):
        self.page, self.links, self.assets, self.root = page, links, assets, root
        self.ids, self.toc, self.level, self.equations = set(), [], 1, 0
        self.sections, self.entries = [["", page.title, []]], []       # for the search: [anchor, heading, words]
        self.md = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        self.md.use(dollarmath_plugin, double_inline=True, renderer=self.math)
        for name in ("link_open", "code_inline", "fence", "image", "table_open", "table_close"):
            self.md.renderer.rules[name] = getattr(self, name)

    # --- parts of a text
    def math(self, content, options):
        self.equations += 1
        return mathml(content, options["display_mode"])

    def unique(self, want):
        name, k = want, 1
        while name in self.ids: k += 1; name = f"{want}-{k}"
        self.ids.add(name)
        return name

    def relative(self, url):   # from the root of the site -> from this page
        page, _, anchor = url.partition("#")
        return f"#{anchor}" if page == self.page.url and anchor else self.root + url

    def link_open(self, tokens, i, options, env):
        href = tokens[i].attrGet("href")
        inside = self.links.resolve(href, self.page)
        tokens[i].attrSet("href", self.relative(inside) if inside is not None else self.links.external(href, self.page))
        return self.md.renderer.renderToken(tokens, i, options, env)

    def code_inline(self, tokens, i, options, env):
        content = f"<code>{html.escape(tokens[i].content)}</code>"
        if env.get("plain") or sum({"link_open": 1, "link_close": -1}.get(t.type, 0) for t in tokens[:i]):
            return content
        symbol, module = self.links.find(tokens[i].content, self.page), self.links.module_of(tokens[i].content)
        url = self.links.entry(symbol) if symbol else f"api/{module}.html" if module else None
        return f'<a class="name" href="{self.relative(url)}">{content}</a>' if url else content

    def fence(self, tokens, i, options, env):
        return ('<pre class="code"><code>'
                f'{code_html(tokens[i].content, tokens[i].info.strip().split(" ")[0])}</code></pre>\n')

    def image(self, tokens, i, options, env):
        t = tokens[i]
        path = ((ROOT / self.page.source).parent / t.attrGet("src")).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"{self.page.source}: expected a picture at {t.attrGet('src')!r}, found no "
                                    "such file")
        if path.suffix == ".svg" and 'class="drawing"' in (drawing := path.read_text(encoding="utf-8")):
            return inlined(drawing, plain(t.children))
        url, w, h = self.assets.add(path.read_bytes(), next(k for k,
                                                            v in KINDS.items()
                                                            if v == path.suffix.lstrip(".").replace("jpeg", "jpg")))
        size = f' width="{w}" height="{h}"' if w else ""
        return f'<img src="{self.root}{url}" alt="{html.escape(plain(t.children))}"{size} loading="lazy">'

    def table_open(self, *args): return '<div class="scroll"><table>\n'
    def table_close(self, *args): return "</table></div>\n"

    # --- before rendering
    def prepare(self, tokens):
        """Headings get a level without gaps (one h1, made by the template) and an anchor; empty header cells are no
        headers; the search listens."""
        heading = False
        for k, t in enumerate(tokens):
            if t.type == "heading_open":
                heading, inline = True, tokens[k + 1]
                words = plain(inline.children)
                self.level = max(2, min(int(t.tag[1]), self.level + 1))
                t.tag = tokens[k + 2].tag = f"h{self.level}"
                anchor = self.unique(slug(words))
                t.attrSet("id", anchor)
                self.sections.append([anchor, words, []])
                if self.level <= 3:
                    children = [c for c in inline.children if not c.type.startswith("link")]
                    n, label = self.equations, self.md.renderer.renderInline(children, self.md.options, {"plain": True})
                    self.equations = n
                    self.toc.append((self.level, anchor, label))
                inline.children.append(Token("html_inline", "", 0,
                                             content=f'<a class="anchor" href="#{anchor}" aria-label="Link to this '
                                                     'section">#</a>'))
            elif t.type == "heading_close": heading = False
            elif t.type == "inline" and not heading: self.sections[-1][2].append(plain(t.children))
            elif t.type == "th_open" and not tokens[k + 1].content.strip(): t.tag = tokens[k + 2].tag = "td"

    def name_paragraph(self, m):
        found, tail = RUN_IN.match(m[1]), m[2] or ""
        if not found: return m[0]
        kind, anchor = next(k for k, v in NAMED.items() if re.fullmatch(v, found[1])), ""
        if kind in IN_TOC:
            anchor = f' id="{self.unique(kind)}"'
            self.toc.append((2, anchor[5:-1], found[1]))
        if kind == "objectives" and tail: tail += ' class="objectives"'
        return f'<p class="{kind}"{anchor}>{m[1]}</p>{tail}'

    # --- whole texts
    def render(self, source):
        "Markdown of a cell -> HTML; paragraphs that open with a name of ours get a class, and some an anchor."
        tokens = self.md.parse(source.replace(" ± ", "\u00a0±\u00a0"))
        self.prepare(tokens)
        return re.sub(r"<p>(?=<(?:strong|em)>)(.*?)</p>(\n<[uo]l)?", self.name_paragraph,
                      self.md.renderer.render(tokens, self.md.options, {}), flags=re.S)

    def line(self, source):
        "A line of markdown without a paragraph around it."
        return self.md.renderInline(source)
