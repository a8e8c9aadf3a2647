"""What a file of results/ rests on, and whether that has changed since its commit: the modules that its script imports,
in turn, its specification, and the weights it loads. Code is compared without docstrings, comments and annotations of
functions, JSON by its values, a notebook by its code, weights by their bytes."""
import ast
import functools
import hashlib
import json
import re
import subprocess

FOLDERS = ("benchmarks", "tools")      # scripts import their neighbours by their bare names


def git(root, *words):
    r = subprocess.run(["git", *map(str, words)], cwd=root, capture_output=True)
    return r.stdout if r.returncode == 0 else None


# ---- what a script imports

@functools.lru_cache(1024)
def read_in(content, package):
    "Of a module: (dotted names that may be modules, strings)."
    tree = ast.parse(content)
    return tuple(names_in(tree, package)), frozenset(strings(tree))


def strings(tree): return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def names_in(tree, package=""):
    "Every dotted name that may be a module: imports, wherever they stand, and those in programs that are strings."
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names)
        elif isinstance(n, ast.ImportFrom):
            up = package.split(".")[:len(package.split(".")) - n.level + 1] if n.level else []
            base = ".".join([*up, *([n.module] if n.module else [])])
            yield from (base, *(f"{base}.{a.name}" for a in n.names))
    for text in strings(tree):
        if text.startswith("micacl.") and " " not in text: yield text
        if "import micacl" in text or "from micacl" in text:
            try: yield from names_in(ast.parse(text))
            except SyntaxError: pass


def modules(root, name):
    "The files of a dotted name: its packages and itself; none, if it is not of this project."
    parts = name.split(".")
    for home in (root, *(root / f for f in FOLDERS)):
        found = [home.joinpath(*parts[:k], "__init__.py") for k in range(1, len(parts) + 1)]
        found.append(home.joinpath(*parts).with_suffix(".py"))
        if there := [f for f in found if f.is_file()]: return there
    return []


def closure(root, scripts):
    "The scripts and every module of the project that they import, in turn."
    todo, seen = list(scripts), set()
    while todo:
        if (file := todo.pop()) in seen: continue
        seen.add(file)
        package = ".".join(file.relative_to(root).parent.parts)
        todo += [m for name in read_in(file.read_bytes(), package)[0] for m in modules(root, name)]
    return seen


def values(x):
    if isinstance(x, dict): return set().union(*map(values, x.values()), set())
    if isinstance(x, list): return set().union(*map(values, x), set())
    return {x} if isinstance(x, str) else set()


def rests_on(root, command):
    "Paths from the root: of the modules, specifications and weights that a command uses."
    words = command.split()
    scripts = [root / w for w in words if w.endswith(".py") and (root / w).is_file()]
    scripts += [modules(root, b)[-1] for a, b in zip(words, words[1:]) if a == "-m" and modules(root, b)]
    files = closure(root, scripts)
    scripts = [f for f in files if f.parent == root / "benchmarks"]
    own = set().union(*(read_in(f.read_bytes(), "benchmarks")[1] for f in scripts), words)
    names = {w.removesuffix(".json") for w in own if re.fullmatch(r"[\w./-]{1,60}", w)}
    specs = {f for n in names if (f := root / "benchmarks" / f"{n}.json").is_file()}
    own |= set().union(*(values(json.loads(f.read_text(encoding="utf-8"))) for f in specs))
    home = root / "micacl" / "nn" / "weights"
    if home.parent / "backbone.py" in files: own.add("r3d_small")            # the default
    weights = {f for f in (*home.glob("*.safetensors"), *home.glob("*/model.safetensors"))
               if (f.parent.name if f.stem == "model" else f.stem) in own}
    return {f.relative_to(root).as_posix() for f in files | specs | weights}


# ---- whether it has changed

def bare(text):
    "Code as it runs: without docstrings, comments, annotations of functions and the number of the version."
    tree = ast.parse(text)
    for n in ast.walk(tree):
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)): n.returns = None
        if isinstance(n, ast.arg): n.annotation = None
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            n.body = [s for s in n.body if not _said(s)] or [ast.Pass()]
    return ast.dump(tree)


def _said(s):
    if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant): return True
    return isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") in ("__all__", "__version__")


@functools.lru_cache(4096)
def meaning(path, content):
    "What of a file has to be the same."
    if path.endswith(".py"): return bare(content)
    if path.endswith(".json"): return json.dumps(json.loads(content), sort_keys=True)
    if not path.endswith(".ipynb"): return content
    cells = ["".join(c["source"]) for c in json.loads(content)["cells"] if c["cell_type"] == "code"]
    return "\0".join(map(_cell, cells))


def _cell(text):
    try: return bare(text)
    except SyntaxError: return text                      # a line for the shell


@functools.cache
def tree_of(root, commit):
    "{path: blob} at a commit; None, if there is no such commit."
    out = git(root, "ls-tree", "-r", "-z", f"{commit}^{{commit}}")
    if out is None: return None
    return {(e := line.partition("\t"))[2]: e[0].split()[2] for line in out.decode().split("\0") if line}


def blobs(root, names):
    "{name: content}"
    out = subprocess.run(["git", "cat-file", "--batch"], cwd=root, input="\n".join(names).encode() + b"\n",
                         capture_output=True, check=True).stdout
    found, at = {}, 0
    for name in names:
        end = out.index(b"\n", at)
        size = int(out[at:end].split()[2])
        found[name] = out[end + 1:end + 1 + size]
        at = end + size + 2
    return found


def changed(root, commit, paths):
    "Why what stands at these paths is not what stood there at the commit; empty, if it is."
    then = tree_of(root, commit)
    if then is None: return f"its commit {commit} is not in this repository"
    now = {path: (root / path).read_bytes() for path in sorted(paths)}
    other = {p: c for p, c in now.items() if p not in then
             or hashlib.sha1(b"blob %d\0" % len(c) + c).hexdigest() != then[p]}
    was = blobs(root, sorted({then[p] for p in other if p in then}))
    news = [p for p, c in other.items() if p not in then or meaning(p, was[then[p]]) != meaning(p, c)]
    if not news: return ""
    gone = [p for p in news if p not in then]
    first = next((p for p in news if p in then), None)
    if first is None: return f"its code stood elsewhere at {commit} ({gone[0]} was not there)"
    return f"{first} changed since {commit}" + (f", and {len(news) - 1} more" if len(news) > 1 else "")
