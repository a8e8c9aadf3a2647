"""Which tests belong to what has changed, for `make quick`.

    python tools/quick.py       # names the changed files and their tests; python tools/check.py quick also runs them
"""
import ast
import functools
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 75    # that `make quick` may take on two cores; the tests get what the other steps leave
# run whatever has changed: the method and the rules of the layout
ALWAYS = ("tests/project/test_packaging.py", "tests/method/test_core.py", "tests/method/test_geiim.py",
          "tests/method/test_wian.py", "tests/method/test_mccl.py", "tests/method/test_models.py")
# of these, what takes longest, unless its own module has changed
LONG = ("tests/method/test_mccl.py::test_two_processes_are_exactly_one",)
# what every page of the book is held to
BOOK = tuple(f"tests/project/test_{x}.py" for x in ("pages", "exercises", "minutes", "references", "terms", "notation"))


def git(*args):
    "Lines of what git says; none where it fails."
    r = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    return r.stdout.splitlines() if r.returncode == 0 else []


def changed():
    "Files that differ from the main branch, the uncommitted ones first."
    base = next((b for name in ("origin/main", "main") for b in git("merge-base", "HEAD", name)), "HEAD")
    files = [*git("diff", "--name-only", "HEAD"), *git("ls-files", "--others", "--exclude-standard"),
             *git("diff", "--name-only", base)]
    return [f for f in dict.fromkeys(files) if (ROOT / f).is_file()]


@functools.cache
def imports(path):
    "Modules that a test file imports, by their full names."
    found = set()
    for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(n, ast.Import): found |= {a.name for a in n.names}
        elif isinstance(n, ast.ImportFrom) and n.module: found |= {n.module, *(f"{n.module}.{a.name}" for a in n.names)}
    return found


def tests_of(module):
    "Test files of a module: the ones named after it, or else those that import it, or else those of its folder."
    if module == "micacl.lab.quiz": return [ROOT / "tests/lab/test_quiz.py"]
    if module.startswith("micacl.lab."): return [ROOT / "tests/lab/test_sheets.py"]
    named = sorted((ROOT / "tests").rglob(f"test_{module.split('.')[-1]}.py"))
    folder = next((ROOT / "tests" / x for x in module.split(".")[-2::-1] if (ROOT / "tests" / x).is_dir()), None)
    return (named or [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if module in imports(p)]
            or (sorted(folder.glob("test_*.py")) if folder else []))


def exported(notebook):
    "The module that a notebook writes, or None."
    m = re.search(r"#\|\s*default_exp ([\w.]+)", notebook.read_text(encoding="utf-8"))
    return m and "micacl." + m[1].removesuffix(".__init__")


def tests_for(name):
    "Test files that belong to one changed file."
    path, top = ROOT / name, name.split("/")[0]
    if top == "tests": return [path] if path.name.startswith("test_") and path.suffix == ".py" else []
    if name.startswith("tools/sitekit/"): return [ROOT / "tests/project/test_site.py"]
    if name.startswith(("nbs/teach/slides/", "tools/slidekit/")): return [ROOT / "tests/project/test_slides.py"]
    if name.startswith("nbs/teach/quiz/"): return [ROOT / "tests/lab/test_quiz.py"]
    if top == "nbs" and path.suffix in (".md", ".bib"): return [ROOT / t for t in BOOK]
    if top == "nbs" and path.suffix == ".ipynb":
        module = exported(path)
        return [*(tests_of(module) if module else []), *(ROOT / t for t in BOOK),
                *([ROOT / "tests/lab/test_sheets.py"] if "/lab/" in name else [])]
    if path.suffix != ".py": return []
    if top == "micacl": return tests_of(name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    return tests_of(path.stem) if top in ("benchmarks", "tools") else []


def select(files):
    "Test files in the order in which they are to run: those of the changed files, then the fixed ones; tests left out."
    own = [p.relative_to(ROOT).as_posix() for f in files for p in tests_for(f)]
    return list(dict.fromkeys([*own, *ALWAYS])), [t for t in LONG if t.split("::")[0] not in own]


if __name__ == "__main__":
    files = changed()
    print(f"{len(files)} changed files:", *files, "tests:", *select(files)[0], sep="\n  ")
