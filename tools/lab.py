"""The sheets of the lab: student and teacher copies from one source, and the proof that they work.

    python tools/lab.py                       # write nbs/lab/student/ from nbs/lab/
    python tools/lab.py --instructor FOLDER   # copies with solutions and teachers' notes
    python tools/lab.py --variant STUDENTS.txt FOLDER   # FOLDER/STUDENT/: copies with numbers of the student's own
    python tools/lab.py --nbgrader FOLDER     # the sheets as a course of nbgrader
    python tools/lab.py --otter FOLDER        # the sheets as sources for `otter assign`
    python tools/lab.py --check               # what CI runs; writes nothing

In a source, the lines between `### BEGIN SOLUTION` and `### END SOLUTION` are hidden from students, and so are
exported cells (the checks' own) and markdown cells that begin with `<!-- instructor -->`.
"""
import argparse
import copy
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from forked_kernels import forked_kernels

ROOT = Path(__file__).parents[1]
SHEETS = ROOT / "nbs" / "lab"
BOOK = "https://github.com/micacl/micacl/blob/main/nbs/"
BEGIN, END, NOTE = "### BEGIN SOLUTION", "### END SOLUTION", "<!-- instructor -->"
NOTICE = dict(student="*This is the students' copy, made from `nbs/lab/{}` by `tools/lab.py`. Work in it freely; "
                      "whoever wants to change the sheet changes the source.*",
              instructor="*This is the teachers' copy, with solutions and notes, made from `nbs/lab/{}` by "
                         "`tools/lab.py`. Whoever wants to change the sheet changes the source.*")
STUB = 'raise NotImplementedError("exercise {}: write your own lines here")'
# goes in front of a copy in the check: `interact` calls the picture at once, and at both ends of every slider. Errors
# then stop
# the cell itself, and nothing waits for a front end (nbclient now and then loses a reply where an Output widget is
# filled).
PRELUDE = """
def _():
    import ipywidgets
    def interact(**controls):
        def draw(f):
            sliders = ipywidgets.interactive(f, dict(manual=True), **controls).kwargs_widgets
            now = {s._kwarg: s.value for s in sliders}
            f(**now)
            for s in sliders if ENDS else ():
                for v in (s.min, s.max): f(**{**now, s._kwarg: v})
            ipywidgets.drawn = getattr(ipywidgets, "drawn", 0) + 1
            return f
        return draw
    ipywidgets.interact = interact
_()
"""


class LabError(Exception):
    "A sheet that is not as it must be."


def sources(folder=SHEETS): return sorted(folder.glob("*.ipynb"))


def load(path): return json.loads(path.read_text(encoding="utf-8"))


def dump(nb): return json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def text(cell): return "".join(cell["source"])


def directives(cell): return re.findall(r"^#\|\s*(\w+)", text(cell), re.M) if cell["cell_type"] == "code" else []


def exercises(nb, name):
    "{index of the cell with the function: number}: a solution is followed by the cell that checks it."
    cells = [(i, c) for i, c in enumerate(nb["cells"]) if c["cell_type"] == "code"]
    out = {}
    for (i, cell), (_, after) in zip(cells, [*cells[1:], (None, None)]):
        if BEGIN not in text(cell) and END not in text(cell): continue
        if (found := re.fullmatch(r'check\("(\d+\.\d+)", (\w+)\)',
                                  text(after).strip() if after
                                  else "")) is None or f"def {found[2]}(" not in text(cell):
            raise LabError(f'{name}: cell {cell["id"]} holds a solution; expected check("N.M", its function) alone in '
                           'the next code cell')
        out[i] = found[1]
    return out


def hide(source, number):
    "The lines between the marks become one line that says that the exercise is not written yet."
    lines, inside = [], False
    for line in source.splitlines():
        mark = line.strip()
        if mark == BEGIN and not inside:
            inside = True
            lines.append(line[:len(line) - len(line.lstrip())] + STUB.format(number))
        elif mark == END and inside: inside = False
        elif mark in (BEGIN, END): raise LabError(f"exercise {number}: {mark!r} out of order")
        elif not inside: lines.append(line)
    if inside: raise LabError(f"exercise {number}: expected {END!r}, found the end of the cell")
    return "\n".join(lines)


def heading(source): return (re.search(r"(?m)^### Exercise (\d+\.\d+) ", source) or [None, None])[1]


def put_numbers(cell, mine):
    "Write the numbers of a student, {exercise: {name: value}}, into a cell: into its question, or into its check."
    from micacl.lab.checker import find_exercise
    source = text(cell)
    if (found := re.fullmatch(r'check\("(\d+\.\d+)", (\w+)\)', source.strip())) and mine.get(found[1]):
        return source.rstrip()[:-1] + "".join(f", {k}={v}" for k, v in mine[found[1]].items()) + ")"
    if cell["cell_type"] != "markdown" or heading(source) not in mine: return source
    for name, value in mine[number := heading(source)].items():
        plain, *_ = words = find_exercise(number).numbers[name]
        before, _, question = source.rpartition(f"### Exercise {number} ")      # what stands above it is no part of it
        for old, new in zip(words[plain], words[value]): question = question.replace(old, new)
        source = before + f"### Exercise {number} " + question
    return source


def make_copy(path, kind, student=None):
    "The student's or the instructor's copy of a source, as a notebook; with a name, with that student's numbers."
    nb = copy.deepcopy(load(path))
    solutions, cells = exercises(nb, path.name), []
    if student is not None:
        from micacl.lab.grading import find_exercise, numbers_of
        mine = {n: numbers_of(find_exercise(n), student) for n in solutions.values()}
        for cell in nb["cells"]: cell["source"] = put_numbers(cell, mine).splitlines(keepends=True)
    for i, cell in enumerate(nb["cells"]):
        source, marks = text(cell), directives(cell)
        if "default_exp" in marks: continue
        if kind == "student" and ("export" in marks or source.startswith(NOTE)): continue
        if kind == "student" and i in solutions: source = hide(source, solutions[i])
        if kind == "instructor":
            source = "\n".join(s for s in source.splitlines() if s.strip() not in (BEGIN, END)
                               and not re.match(r"#\|\s*export", s))
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\]\(\.\./([\w./-]+\.(?:ipynb|md))", rf"]({BOOK}\1", source)      # a copy may lie anywhere
        if not cells: source += "\n\n" + NOTICE[kind].format(path.name)
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
        cells.append({**cell, "metadata": {}, "source": source.splitlines(keepends=True)})
    return dict(cells=cells, metadata=dict(kernelspec=dict(display_name="python3", language="python", name="python3")),
                nbformat=4, nbformat_minor=5)


def write(folder, kind, sheets=SHEETS):
    folder.mkdir(parents=True, exist_ok=True)
    for path in sources(sheets):
        (folder / path.name).write_text(dump(make_copy(path, kind)), encoding="utf-8", newline="\n")


def write_variants(folder, names, sheets=SHEETS):
    "Copies for each student of a list, with numbers of their own."
    for name in names:
        if not re.fullmatch(r"[^\W_][\w .@+-]*", name):
            raise LabError(f"{name!r}: expected a name that a folder can have, of letters, digits, spaces, . @ + - _")
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sources(sheets):
            mine = dump(make_copy(path, "student", name))
            (folder / name / path.name).write_text(mine, encoding="utf-8", newline="\n")


def headings_out_of_step(path):
    "What the questions of a source say otherwise than their exercises: points, and words that stand for numbers."
    from micacl.lab.checker import find_exercise
    wrong, said = [], {heading(text(c)): text(c) for c in load(path)["cells"] if c["cell_type"] == "markdown"}
    for number in exercises(load(path), path.name).values():
        ex, question = find_exercise(number), said.get(number, "").rpartition(f"### Exercise {number} ")[2]
        line = re.match(r".*\n\n\*\((easy|medium|hard), \d+ min, (\d+) points?\)\*\n", question)
        if not line or int(line[2]) != ex.points:
            wrong.append(f"exercise {number}: expected (easy, 5 min, {ex.points} points) or the like under its heading")
        wrong += [f"exercise {number}: its question lacks {w!r}, which stands for {name}" for name, words
                  in ex.numbers.items() for w in words[next(iter(words))] if w not in question]
    return wrong


def out_of_step(sheets=SHEETS):
    "Names of student copies that are missing, left over, or not what the sources make."
    student = sheets / "student"
    want = {p.name: dump(make_copy(p, "student")) for p in sources(sheets)}
    have = {p.name: p.read_text(encoding="utf-8") for p in sources(student)}
    return sorted(n for n in want.keys() | have.keys() if want.get(n) != have.get(n))


def hidden_lines(path):
    "Lines of the solutions."
    nb = load(path)
    return {s.strip() for i in exercises(nb, path.name)
            for part in re.findall(rf"{BEGIN}\n(.*?)\n\s*{END}", text(nb["cells"][i]), re.S)
            for s in part.splitlines()}


def leaks(path):
    "Lines of the solutions, marks or notes that a student would see."
    student = "\n".join(text(c) for c in make_copy(path, "student")["cells"] if c["cell_type"] == "code")
    everything = "\n".join(text(c) for c in make_copy(path, "student")["cells"])
    return (sorted(hidden_lines(path) & {line.strip() for line in student.splitlines()})
            + [m for m in (BEGIN, END, NOTE) if m in everything])


def execute(path, kind):
    "Run a copy in a kernel of its own; returns (name, kind, seconds, complaints)."
    import nbformat
    from nbclient import NotebookClient
    start, wrong = time.time(), []
    nb = make_copy(path, kind)
    numbers = exercises(load(path), path.name).values()
    code = lambda i, source: dict(cell_type="code", id=i, metadata={}, source=source, outputs=[], execution_count=None)
    nb["cells"] = [code("prelude", PRELUDE.replace("ENDS", str(kind == "instructor"))), *nb["cells"],
                   code("drawn", 'import ipywidgets; print("drawn", getattr(ipywidgets, "drawn", 0))')]
    nb = nbformat.reads(dump(nb), 4)
    NotebookClient(nb, timeout=300, kernel_name="python3", allow_errors=True,
                   extra_arguments=["--log-level=ERROR"]).execute()
    passed, stopped = [], []
    for cell in nb.cells:
        if cell.cell_type != "code": continue
        number = (re.match(r'check\("([\d.]+)"', cell.source) or [None, None])[1]
        for o in cell.outputs:
            if o.output_type == "error":
                if (kind == "student" and number and o.ename == "CheckFailed"
                        and f"{number} is not written yet" in o.evalue):
                    stopped.append(number)
                else:
                    wrong.append(f"{'check ' + number if number else 'cell ' + cell.id} stopped with {o.ename}: "
                                 f"{o.evalue}")
            elif number and f"{number} passed" in o.get("text", ""): passed.append(number)
    if not re.search(r"drawn [1-9]", "".join(o.get("text", "") for o in nb.cells[-1].outputs)):
        wrong.append("no picture with a slider was drawn")
    wrong += [f"exercise {n}: "
              f"{'its stub does not fail as not written' if kind == 'student' else 'its solution does not pass'}"
              for n in numbers if n not in (stopped if kind == "student" else passed)]
    return path.name, kind, time.time() - start, wrong


def check(sheets=SHEETS, at_once=2):
    "All that can be wrong with the lab, as a list of complaints."
    from micacl.lab.checker import find_exercise, prove
    wrong, numbers = [f"{n}: the student's copy is not what the source makes; run python tools/lab.py"
                      for n in out_of_step(sheets)], []
    for path in sources(sheets):
        wrong += [f"{path.name}: students can read {s!r}" for s in leaks(path)]
        wrong += [f"{path.name}: {s}" for s in headings_out_of_step(path)]
        numbers += exercises(load(path), path.name).values()
    mistakes = 0
    for number in numbers:
        try:
            prove(number)
            mistakes += len(find_exercise(number).mistakes)
            for name, values in find_exercise(number).numbers.items():
                for value in values: prove(number, **{name: value})
        except Exception as e: wrong.append(f"exercise {number}: {e}")
    print(f"{len(sources(sheets))} sheets, {len(numbers)} exercises: references pass, stubs and {mistakes} typical "
          "mistakes are refused with the right words", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    jobs = [(p, kind) for p in sources(sheets) for kind in ("instructor", "student")]
    with ProcessPoolExecutor(at_once, initializer=forked_kernels) as pool:
        for name, kind, seconds, complaints in pool.map(execute, *zip(*jobs)):
            print(f"{'FAILED' if complaints else 'ok    '} {seconds:6.1f} s  {kind:10} {name}", flush=True)
            wrong += [f"{name}, {kind}'s copy: {s}" for s in complaints]
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--instructor", type=Path, metavar="FOLDER", help="write teachers' copies there")
    p.add_argument("--variant", nargs=2, type=Path, metavar=("STUDENTS", "FOLDER"),
                   help="write copies for the students of a list, a name a line, with numbers of their own")
    p.add_argument("--nbgrader", type=Path, metavar="FOLDER", help="write a course of nbgrader there")
    p.add_argument("--otter", type=Path, metavar="FOLDER", help="write sources for `otter assign` there")
    p.add_argument("--check", action="store_true", help="prove that sources, copies and checks work; writes nothing")
    p.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="copies at a time (default: 2)")
    args = p.parse_args()
    try:
        if args.check:
            wrong = check(at_once=args.jobs)
            for s in wrong: print("lab:", s)
            print(f"lab: {len(wrong)} complaints" if wrong else "lab: all is well")
            sys.exit(bool(wrong))
        if args.nbgrader or args.otter:
            from lab_forms import write_nbgrader, write_otter
            if args.nbgrader: write_nbgrader(args.nbgrader, sources())
            if args.otter: write_otter(args.otter, sources())
        elif args.variant:
            names = args.variant[0].read_text(encoding="utf-8").splitlines()
            write_variants(args.variant[1], [n.strip() for n in names if n.strip()])
        elif args.instructor: write(args.instructor, "instructor")
        else: write(SHEETS / "student", "student")
    except LabError as e: sys.exit(f"lab: {e}")


if __name__ == "__main__": main()
