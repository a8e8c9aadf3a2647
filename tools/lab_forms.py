"""The sheets of the lab in the forms that nbgrader and otter-grader read; `python tools/lab.py --nbgrader FOLDER` and
`--otter FOLDER` write them. `tools/graders.py` shows that the marks are those of `micacl grade`."""

import copy
import re

import lab

CONFIG = """# Written by tools/lab.py. `nbgrader generate_assignment 1_counting` makes the students' version.
c = get_config()      # noqa: F821  nbgrader defines it
c.CourseDirectory.course_id = "micacl"
c.ExecutePreprocessor.timeout = 120
# `nbgrader zip_collect 1_counting` takes files of the form STUDENT_SHEET.ipynb from downloaded/1_counting/archive/
c.FileNameCollectorPlugin.named_regexp = r".*?(?P<student_id>[^/\\\\]+)_(?P<file_id>\\d+_[a-z]+)\\.ipynb$"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError('write your own lines here')"}
"""


def parts(path):
    "[(cell, given/answer/check, number)] of a source, without exported cells and teachers' notes."
    nb = copy.deepcopy(lab.load(path))
    solutions, out, number = lab.exercises(nb, path.name), [], None
    for i, cell in enumerate(nb["cells"]):
        source, marks = lab.text(cell), lab.directives(cell)
        if {"default_exp", "export"} & {*marks} or source.startswith(lab.NOTE):
            continue
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\]\(\.\./([\w./-]+\.(?:ipynb|md))", rf"]({lab.BOOK}\1", source)
        else:
            cell.update(outputs=[], execution_count=None)
        cell.update(metadata={}, source=source.splitlines(keepends=True))
        what = "answer" if i in solutions else "check" if number else "given"
        if what == "check" and cell["cell_type"] != "code":
            what = "given"  # prose between the two
        out.append((cell, what, number := solutions[i] if i in solutions else number))
        if what == "check":
            number = None
    return out


def notebook(cells):
    return dict(
        cells=cells,
        metadata=dict(kernelspec=dict(display_name="python3", language="python", name="python3")),
        nbformat=4,
        nbformat_minor=5,
    )


def nbgrader_form(path):
    "A source as nbgrader's source version: its answers are solution cells, its checks locked cells with points."
    from micacl.lab.checker import find_exercise

    cells = []
    for cell, what, number in parts(path):
        if what == "answer":
            mark = dict(grade=False, locked=False, solution=True, grade_id=f"answer-{number}")
        elif what == "check":
            mark = dict(
                grade=True,
                locked=True,
                solution=False,
                grade_id=f"check-{number}",
                points=find_exercise(number).points,
            )
        else:
            mark = None
        if mark:
            mark["grade_id"] = mark["grade_id"].replace(".", "-")
            cell["metadata"] = dict(nbgrader=dict(mark, task=False, schema_version=3, cell_type="code"))
        cells.append(cell)
    return notebook(cells)


def write_nbgrader(folder, paths):
    "A course: nbgrader_config.py, and an assignment for each sheet in source/."
    for path in paths:
        (at := folder / "source" / path.stem).mkdir(parents=True, exist_ok=True)
        (at / path.name).write_text(lab.dump(nbgrader_form(path)), encoding="utf-8", newline="\n")
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8", newline="\n")


def raw(i, *lines):
    return dict(cell_type="raw", id=i, metadata={}, source="\n".join(lines).splitlines(keepends=True))


def otter_solution(source, number):
    "A solution between the marks of otter, with the line that students get in its place."
    lines = []
    for line in source.splitlines():
        space = line[: len(line) - len(line.lstrip())]
        if line.strip() == lab.BEGIN:
            lines.append(f"{space}# BEGIN SOLUTION NO PROMPT")
        elif line.strip() == lab.END:
            lines += [
                f"{space}# END SOLUTION",
                f'{space}""" # BEGIN PROMPT',
                space + lab.STUB.format(number),
                f'{space}""" # END PROMPT',
            ]
        else:
            lines.append(line)
    return "\n".join(lines)


def otter_form(path):
    "A source as a master notebook of `otter assign`."
    from micacl.lab.checker import find_exercise

    cells = [
        raw(
            "config",
            "# ASSIGNMENT CONFIG",
            f"name: {path.stem}",
            "init_cell: false",
            "export_cell: false",
            "check_all_cell: false",
            "run_tests: false",
        )
    ]
    for cell, what, number in parts(path):
        q = number and "q" + number.replace(".", "_")
        if what == "answer":
            cell["source"] = otter_solution(lab.text(cell), number).splitlines(keepends=True)
            cells += [
                raw(f"{q}-begin", "# BEGIN QUESTION", f"name: {q}", f"points: {find_exercise(number).points}"),
                raw(f"{q}-solution", "# BEGIN SOLUTION"),
                cell,
                raw(f"{q}-solved", "# END SOLUTION"),
            ]
        elif what == "check":
            function = re.search(r", (\w+)\)", lab.text(cell))[1]
            cell["source"] = [f'_ = judge(find_exercise("{number}"), {function})']  # prints nothing, or raises
            cells += [
                raw(f"{q}-tests", "# BEGIN TESTS"),
                cell,
                raw(f"{q}-tested", "# END TESTS"),
                raw(f"{q}-end", "# END QUESTION"),
            ]
        else:
            if "from micacl.lab.checker import check" in lab.text(cell):
                cell["source"] = (
                    lab.text(cell)
                    .replace("checker import check", "checker import check, find_exercise, judge")
                    .splitlines(keepends=True)
                )
            cells.append(cell)
    return notebook(cells)


def write_otter(folder, paths):
    "A master notebook for each sheet."
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (folder / path.name).write_text(lab.dump(otter_form(path)), encoding="utf-8", newline="\n")
