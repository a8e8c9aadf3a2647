"""Where a link leads: notebooks become pages, names of the library their entries, files of the repository their
place on GitHub."""
import posixpath
import re
from urllib.parse import unquote

from .book import DOCS, REPO, ROOT


def slug(text): return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") or "section"


class Links:
    def __init__(self, pages, modules):
        self.pages = {p.source: p.url for p in pages}
        for p in pages:
            if p.kind == "lab": self.pages[p.source.replace("lab/student/", "lab/")] = p.url
        self.urls = {p.url for p in pages}
        self.home = {p.module: p.url for p in pages if p.module}
        self.shown = {(p.module, n) for p in pages if p.module for c in p.cells for n in c.symbols}
        self.modules, self.names, self.problems, self.notes = modules, {}, [], []
        for m in modules.values():
            for s in m.symbols:
                for x in (s, *s.methods): self.names.setdefault(x.name, []).append(x)

    def entry(self, symbol):
        "The API entry of a symbol: in its chapter, as nbdev has it, or in the reference."
        in_chapter = (symbol.module, symbol.name.split(".")[0]) in self.shown
        return f'{self.home[symbol.module] if in_chapter else f"api/{symbol.module}.html"}#{self.anchor(symbol)}'

    def anchor(self, symbol):
        "Lower case as in _modidx.py; a second name that differs in case alone gets a 2."
        m = self.modules.get(symbol.module)
        same = [x.name for s in (m.symbols if m else []) for x in (s, *s.methods) if x.anchor == symbol.anchor]
        return symbol.anchor + (f"-{same.index(symbol.name) + 1}" if symbol.name in same[1:] else "")

    def find(self, code, page):
        "`name` in the prose -> its symbol, if there is no doubt which."
        name = re.sub(r"\(\.*\)$", "", code.strip())
        if re.fullmatch(r"micacl\.\w+(\.\w+)*", name):
            module, rest = self.split(name.removeprefix("micacl."))
            home = dict(self.modules[module].others).get(rest, module) if module else ""
            return next((s for s in self.names.get(rest, []) if s.module == home), None)
        found = [s for s in self.names.get(name, []) if not name.islower() or len(name) > 3]
        here = [s for s in found if s.module == page.module]
        return here[0] if here else found[0] if len(found) == 1 else None

    def split(self, name):
        "train.loop.train -> (train.loop, train); the longest module that there is, or an empty one."
        parts = name.split(".")
        return next(((".".join(parts[:k]), ".".join(parts[k:])) for k in range(len(parts), 0, -1)
                     if ".".join(parts[:k]) in self.modules), ("", name))

    def module_of(self, code):
        name = code.strip()
        return (name.removeprefix("micacl.") if name.removeprefix("micacl.") in self.modules
                and name.startswith("micacl.") else None)

    def resolve(self, href, page):
        "A link as it stands in a source -> as it stands in the site (from the root), or None if it leads outside."
        target, _, anchor = href.partition("#")
        anchor = f"#{slug(unquote(anchor))}" if anchor and not re.fullmatch(r"[\w.\-]+",
            anchor) else f"#{anchor.lower()}" if anchor else ""
        if not target: return page.url + anchor if anchor else page.url
        if target.startswith(DOCS):
            url = target.removeprefix(DOCS).removesuffix(".md") or "index.html"
            return url + anchor if url in self.urls else None
        prefix = next((x for x in (f"{REPO}/blob/main/", f"{REPO}/tree/main/") if target.startswith(x)), None)
        if prefix and not target.startswith(prefix + "nbs/"): return None
        if prefix: path = target.removeprefix(prefix)
        elif re.match(r"[a-z]+:", target): return None
        else: path = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), target))
        return self.pages[path] + anchor if path in self.pages else None

    def external(self, href, page):
        "Files of the repository that are no pages."
        if re.match(r"[a-z]+:", href): return href
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), href.partition("#")[0]))
        if not (ROOT / path).exists():
            self.problems.append(f"{page.source}: the link to {href!r} leads nowhere; expected a notebook or a file of "
                                 "the repository")
        return f"{REPO}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
