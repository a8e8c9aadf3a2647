"""The public names of the modules, read from their source with their docments. Nothing is imported, so the site can be
built where torch is not."""
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field

from .book import REPO, ROOT

# the packages in the order in which they import each other; tests/project/test_packaging.py holds the code to it
ORDER = ("core", "metrics", "nn", "mccl", "longtail", "data", "geiim", "wian", "models", "train", "show", "deploy",
         "lab", "cli")


def source_of(module):
    "Path of a module from the root of the repository: train.loop -> micacl/train/loop.py"
    path = f"micacl/{module.replace('.', '/')}"
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


@dataclass
class Param:
    name: str
    type: str = ""
    default: str = ""
    doc: str = ""
    lead: str = ""          # "*" or "**"


@dataclass
class Symbol:
    name: str               # "GEIIM", "GEIIM.forward"
    module: str
    kind: str               # function, class, dataclass, method, property, constant
    doc: str = ""
    params: list = field(default_factory=list)
    returns: Param = None
    methods: list = field(default_factory=list)
    bases: str = ""
    code: str = ""          # constants only
    line: int = 0
    end: int = 0
    keyword_from: int = -1  # index of the first parameter that must be named

    @property
    def anchor(self): return self.name.lower()    # as nbdev writes them in _modidx.py
    @property
    def url(self):
        return f"{REPO}/blob/main/{source_of(self.module)}" + (f"#L{self.line}-L{self.end}" if self.line else "")
    @property
    def short(self): return self.name.rsplit(".", 1)[-1]

    def signature(self, width=88):
        "The call as Python would write it, one parameter a line where it is long."
        if self.kind in ("constant", "property"): return self.code or self.short
        parts = [f"{p.lead}{p.name}{f': {p.type}' if p.type else ''}{(f' = {p.default}' if p.type else f'={p.default}') if p.default else ''}" for p in self.params]
        if 0 <= self.keyword_from < len(parts) and not any(p.lead == "*" for p in self.params):
            parts.insert(self.keyword_from, "*")
        back = f" -> {self.returns.type}" if self.returns and self.returns.type else ""
        one = f"{self.short}({', '.join(parts)}){back}"
        return one if len(one) <= width else f"{self.short}(\n    " + ",\n    ".join(parts) + f",\n){back}"


def comments_of(source):   # {line: text} of all comments, and the lines that hold nothing else
    lines, found = source.splitlines(), {}
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.COMMENT: found[t.start[0]] = t.string.lstrip("#").strip()
    return found, {n for n in found if lines[n - 1].lstrip().startswith("#")}


def docment(line, comments, alone):
    "The comment at the end of a line, or else the ones that stand above it."
    if line in comments: return comments[line]
    above = []
    while line - 1 in alone: line -= 1; above.insert(0, comments[line])
    return " ".join(above)


def text(node): return "" if node is None else ast.unparse(node).removeprefix("typing.")


def parameters(node, comments, alone):
    "Parameters of a function, and from which one on they must be named. Two on one line share its comment."
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    rows = [(x, d, "") for x, d in zip(positional, defaults)]
    if a.vararg: rows.append((a.vararg, None, "*"))
    keyword_from = len(rows) if a.kwonlyargs else -1
    rows += [(x, d, "") for x, d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: rows.append((a.kwarg, None, "**"))
    params = [Param(x.arg, text(x.annotation), text(d), docment(x.end_lineno if d is None else d.end_lineno, comments,
                                                                alone), lead) for x, d, lead in rows]
    if params and params[0].name in ("self", "cls") and not params[0].lead:
        params, keyword_from = params[1:], max(keyword_from - 1, -1)
    return params, keyword_from


def read_function(node, module, comments, alone, prefix=""):
    params, keyword_from = parameters(node, comments, alone)
    marks = [text(d) for d in node.decorator_list]
    first = node.body[0].lineno
    # a signature on one line has no room for comments: one there belongs to the body
    for p in params:
        if node.lineno == first: p.doc = ""
    back = (docment(node.returns.end_lineno, comments, set()) if node.returns is not None and node.lineno != first
            else "")
    kind = ("property" if any(m in ("property", "functools.cached_property", "cached_property") for m in marks)
            else "method" if prefix else "function")
    returns = Param("returns", text(node.returns), "", back) if node.returns is not None else None
    return Symbol(prefix + node.name, module, kind, ast.get_docstring(node) or "", params, returns, line=node.lineno,
                  end=node.end_lineno, keyword_from=keyword_from)


def read_class(node, module, comments, alone):
    s = Symbol(node.name, module, "class", ast.get_docstring(node) or "", bases=", ".join(text(b) for b in node.bases),
               line=node.lineno, end=node.end_lineno)
    marks = [text(d) for d in node.decorator_list]
    if any(m.startswith(("dataclass", "dataclasses.dataclass")) for m in marks) or s.bases in ("NamedTuple",
        "typing.NamedTuple"):
        s.kind = "dataclass"
        s.params = [Param(n.target.id, text(n.annotation), text(n.value), docment(n.end_lineno, comments, alone))
                    for n in node.body
                    if isinstance(n, ast.AnnAssign) and not text(n.annotation).startswith("ClassVar")]
    for n in node.body:
        if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        m = read_function(n, module, comments, alone, f"{node.name}.")
        if n.name == "__init__": s.params, s.keyword_from, s.doc = m.params, m.keyword_from, s.doc or m.doc
        elif (not n.name.startswith("_") or n.name == "__call__") and m.doc: s.methods.append(m)
    return s


def read_source(source, module):
    "All top-level names of a source text -> {name: Symbol}"
    comments, alone = comments_of(source)
    lines, out = source.splitlines(), {}
    for n in ast.parse(source).body:
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)):
            out[n.name] = read_function(n, module, comments, alone)
        elif isinstance(n, ast.ClassDef): out[n.name] = read_class(n, module, comments, alone)
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            for target in n.targets if isinstance(n, ast.Assign) else [n.target]:
                for t in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(t, ast.Name) and not t.id.startswith("_"):
                        code = "\n".join(lines[n.lineno - 1:n.end_lineno])
                        above = " ".join(comments[k] for k in sorted(alone) if k == n.lineno - 1
                                         and not comments[k].startswith(("%%", "|")))
                        out[t.id] = Symbol(t.id, module, "constant", comments.get(n.end_lineno, above), code=code,
                                           line=n.lineno, end=n.end_lineno)
    return out


@dataclass
class Module:
    name: str               # "geiim", "train.loop"; "longtail" for micacl/longtail/__init__.py
    doc: str
    symbols: list           # public ones, in the order of the source
    others: list            # (name, module) of public names that are defined elsewhere in the package

    @property
    def lead(self): return re.sub(r"\s*Docs: https://\S+\s*$", "", self.doc).strip()
    @property
    def package(self): return self.name.split(".")[0]


def public_names(tree):
    "What stands in `__all__`; None where there is none."
    return next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                 and text(n.targets[0]) == "__all__"), None)


def imported(tree, package):
    "{name: module of micacl} of what is imported from the package; relative imports made absolute."
    out = {}
    for n in tree.body:
        if not isinstance(n, ast.ImportFrom): continue
        base = package[:len(package) - n.level + 1] if n.level else []
        module = ".".join([*base, *([n.module] if n.module else [])])
        if module.startswith("micacl."): out |= {a.asname or a.name: module.removeprefix("micacl.") for a in n.names}
    return out


def modules(folder=ROOT / "micacl"):
    """Every module that exports names (`__all__`), in the order of the packages. The modules of the lab sheets hold
    their solutions, and are no reading matter."""
    out = {}
    for path in sorted(folder.rglob("*.py")):
        source, (*package, name) = path.read_text(encoding="utf-8"), path.relative_to(folder).with_suffix("").parts
        tree = ast.parse(source)
        public = public_names(tree)
        if public is None or (name.startswith("_") and name != "__init__"): continue
        if re.search(r"^# AUTOGENERATED!.*nbs/lab/", source, re.M): continue
        module = ".".join([*package, name] if name != "__init__" else package)
        found, elsewhere = read_source(source, module), imported(tree, ["micacl", *package])
        symbols = [s for n, s in found.items() if n != "__all__" and n in public]
        others = [(n, elsewhere[n]) for n in public if n not in found and n in elsewhere]
        out[module] = Module(module, ast.get_docstring(tree) or "", symbols, others)
    place = {name: k for k, name in enumerate(ORDER)}
    return dict(sorted(out.items(), key=lambda m: (place.get(m[1].package, len(ORDER)), m[0])))
