"""Who reads which file of results/: pages, tests and scripts, found in their code, so that no list has to be kept.

A path may stand there as it is, `"../results/errors.json"`, or be put together from names:
`f"../../results/{name}.json" for name in ("kills", "faults")`, or `results("edge")` with a function of the page. So
every path is tried that one of the f-strings of a file gives with one of its other strings. A page of questions reads
what the YAML files of its folder name (`file: ablations`).
"""
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def trees(file):
    "The code of a notebook, cell by cell, or of a script; a cell with a line for the shell is left out."
    cells = [text := file.read_text(encoding="utf-8")]
    if file.suffix == ".ipynb":
        cells = ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    for cell in cells if any("results" in c for c in cells) or file.with_suffix("").is_dir() else ():
        try: yield ast.parse(cell)
        except SyntaxError: pass


def paths(nodes):
    "Of code: (strings, patterns of the f-strings that end with .json, with {} for what is put in)."
    words, patterns = set(), set()
    for n in nodes:
        if isinstance(n, ast.Constant) and isinstance(n.value, str): words.add(n.value)
        if isinstance(n, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in n.values]
            patterns.add("".join(map(str, parts)))
    return words, {p for p in patterns if p.endswith(".json") and p.count("{}") == 1}


def reads(
    file,          # notebook or script
    names,         # of files of results/, without .json
) -> list:         # those that its code may read, in the order of `names`
    "What a file reads: it says `results`, and one of its strings, or an f-string with one of them, is the path."
    words, patterns = paths(n for t in trees(file) for n in ast.walk(t))
    if file.suffix == ".ipynb" and (quiz := file.with_suffix("")).is_dir():
        words |= {f"results/{n}.json" for f in quiz.glob("*.yml")
                  for n in re.findall(r"\bfile: ([\w-]+)", f.read_text(encoding="utf-8"))}
    if not any(re.search(r"(^|[/{}])results($|/)", w) for w in words | patterns): return []
    built = words | {p.replace("{}", w) for p in patterns for w in words if len(w) < 30}
    found = {m[1] for w in built if (m := re.search(r"(?:^|results/|[{}]/)([\w-]+)\.json$", w))}
    return [n for n in names if n in found]


def readers(
    names,         # of files of results/, without .json
    root=ROOT,
) -> dict:         # name -> (pages, other files), paths from the root
    "Everything in nbs/, tests/ and tools/ that reads a file; not the copies of the lab sheets for students."
    out = {n: ([], []) for n in names}
    for file in sorted(f for folder in ("nbs", "tests", "tools") for f in (root / folder).rglob("*")
                       if f.suffix in (".ipynb", ".py") and "student" not in f.parts):
        for n in reads(file, names): out[n][file.suffix == ".py"].append(file.relative_to(root).as_posix())
    return out
