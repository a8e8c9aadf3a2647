"The classroom: the checker says what is wrong, sheets and copies are in step, and students see no solution."
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lab
from micacl.lab.checker import EXERCISES, CheckFailed, check, exercise, find_exercise, prove
from micacl.core import MicaclError
from micacl.lab.grading import _names_of

ROOT = Path(__file__).parents[2]
SHEETS = lab.sources()
NUMBERS = [n for p in SHEETS for n in lab.exercises(lab.load(p), p.name).values()]
code = lambda nb: [lab.text(c) for c in nb["cells"] if c["cell_type"] == "code"]
prose = lambda nb: "\n".join(lab.text(c) for c in nb["cells"] if c["cell_type"] == "markdown")


# --- the checker
X = torch.tensor([[1., 2.], [3., 5.]])

@pytest.fixture
def toy():
    "An exercise: row sums, times a number."
    mistakes = [(lambda x, s: x.sum(0) * s, "These are the columns."),
                (lambda x, s: x.sum(1), "The number does not come in.")]
    exercise("0.9", {"times 1": (X, 1.), "times 2": (X, 2.)}, mistakes, gradient=[0])(lambda x, s: x.sum(1) * s)
    yield "0.9"
    del EXERCISES["0.9"]


def said(number, fn):
    with pytest.raises(CheckFailed) as e: check(number, fn)
    return str(e.value)


def stub(x, s): raise NotImplementedError("exercise 0.9")
def in_place(x, s):
    x *= s
    return x.sum(1)
def crash(x, s): return x.sum(1)[7]


@pytest.mark.parametrize("fn, stage, words", [
    (stub, "is", "not written yet"), (3, "call", "expected a function, found int"),
    (lambda x: x, "call", "expected a function of (x, s), found one of (x)"),
    (lambda x, s: None, "call", "`return ...`"), (crash, "call", "IndexError"),
    (crash, "call", "at the line `def crash(x, s): return x.sum(1)[7]`"),
    (in_place, "call", "changed its argument `x`"),
    (lambda x, s: x.sum() * s, "shape", "expected the shape (2,), found () (one number)"),
    (lambda x, s: (x.sum(1), s), "shape", "expected 1 value, found 2"),
    (lambda x, s: "7", "shape", "found something else"), (lambda x, s: [x.sum(1), x], "shape", "found something else"),
    (lambda x, s: x.sum(1) > 0, "shape", "found bool"),
    (lambda x, s: x.sum(1) / 0, "value", "found    [inf, inf]"),
    (lambda x, s: x.sum(1) * s + 1, "value", "expected [3., 8.]\n  found    [4., 9.]"),
    # right on the first case
    (lambda x, s: x.sum(1) * s ** 2, "value", '"times 2"'),
    (lambda x, s: x.detach().sum(1) * s, "gradient", "no gradient comes back to `x`"),
    (lambda x, s: [3. * s, 8. * s], "gradient", "no gradient comes back"),
    (lambda x, s: torch.tensor(x.numpy().sum(1) * s), "gradient", "RuntimeError"),
    (lambda x, s: x.sum(1) * s + (x - x.detach()).sum(1), "gradient", "the gradient is not"),
])
def test_each_stage_has_its_words(toy, fn, stage, words):
    text = said(toy, fn)
    assert text.split()[1].rstrip(":") == stage and words in text and text.startswith("0.9 ")


def test_a_known_mistake_gets_its_message_and_others_do_not(toy):
    assert "These are the columns." in said(toy, lambda x, s: s * (x[0] + x[1]))
    assert "does not come in" in said(toy, lambda x, s: x[:, 0] + x[:, 1])
    for other in (lambda x, s: x.sum(0) * s + 1, lambda x,
                  s: x.sum(1) + s - 1): assert "columns" not in (t := said(toy, other)) and "does not come in" not in t


def test_right_answers_pass_in_any_form(toy, capsys):
    for fn in (lambda x, s: x.sum(1) * s, lambda a, b=1.: torch.stack([b * row.sum() for row in a]),
               lambda *args: args[0].sum(1) * args[1]): check(toy, fn)
    assert capsys.readouterr().out.splitlines() == ["0.9 passed: shape, value (2 cases), gradient"] * 3


def test_notebooks_show_the_text_alone(toy):
    with pytest.raises(CheckFailed) as e: check(toy, lambda x, s: x.sum(1) * s + 1)
    lines = "\n".join(e.value._render_traceback_()).splitlines()
    assert len(lines) == 3 and all(len(s) <= 100 for s in lines) and "Traceback" not in "".join(lines)
    assert e.value.__suppress_context__ or e.value.__context__ is None
    assert issubclass(CheckFailed, AssertionError)


def test_nan_agrees_with_nan_only_where_it_is_expected():
    exercise("0.8", {"a": (np.array([1., np.nan]),)})(lambda r: r)
    check("0.8", lambda r: r.tolist())
    assert ("found    [1., 0.]" in said("0.8", lambda r: np.nan_to_num(r))
            and "found    [nan, nan]" in said("0.8", lambda r: r * np.nan))
    del EXERCISES["0.8"]


def test_large_results_name_the_worst_place():
    exercise("0.8", {"a": (torch.zeros(5, 5),)})(lambda x: x)
    bump = torch.zeros(5, 5)
    bump[3, 1], bump[0, 0] = 9, 1
    assert "at [3, 1]: expected 0, found 9; 2 of 25 numbers differ" in said("0.8", lambda x: x + bump)
    del EXERCISES["0.8"]


def test_unknown_number():
    with pytest.raises(MicaclError, match=r"expected the number of an exercise \(1\.1, .*found '9\.9'"):
        check("9.9", stub)


def test_prove_refuses_checks_that_prove_nothing(toy):
    right = find_exercise(toy).reference
    prove(toy)
    for mistakes, words in (([(lambda x, s: x.sum(1) * s, "no mistake at all")], "lets this mistake pass"),
                            ([(lambda x, s: x * 0, "first"), (lambda x, s: x * 0, "second")],
                             "Another mistake may give the same results")):
        exercise(toy, {"times 2": (X, 2.)}, mistakes)(right)
        with pytest.raises(MicaclError, match=words): prove(toy)
    calls = iter(range(99))
    exercise(toy, {"times 2": (X, 2.)})(lambda x, s: x.sum(1) * s + next(calls))        # never the same twice
    with pytest.raises(MicaclError, match="the reference fails its own check: 0.9 value"): prove(toy)


# --- the exercises
def test_every_exercise_is_registered_and_used_once():
    find_exercise("1.1")
    assert sorted(EXERCISES) == sorted(NUMBERS) and len(NUMBERS) == len(set(NUMBERS))


@pytest.mark.parametrize("number", NUMBERS)
def test_reference_passes_and_stub_and_mistakes_fail_with_their_words(number):
    prove(number)
    assert len(find_exercise(number).mistakes) >= 3


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_solutions_pass(path, capsys):
    "Imports, definitions and checks of a source, run here; the kernel run is tools/lab.py --check."
    import matplotlib
    matplotlib.use("Agg")
    nb, names = lab.load(path), {}
    wanted = lab.exercises(nb, path.name)
    for i, c in enumerate(nb["cells"]):
        if c["cell_type"] == "code" and "export" not in lab.directives(c) and (i in wanted
            or re.match(r"import |check\(", lab.text(c))) and "colab" not in lab.text(c):
            exec(lab.text(c), names)
    with_matplotlib = capsys.readouterr().out
    assert [line.split()[0] for line in with_matplotlib.splitlines()] == list(wanted.values())


def reference(number): return find_exercise(number).reference


def test_references_without_a_library_function_agree_with_values_by_hand():
    y, p = np.array([0, 0, 0, 0, 1]), np.array([0, 1, 1, 1, 1])
    assert np.allclose(reference("1.2")(y, p, 3), (.625, .5))
    assert np.allclose(reference("1.2")(y, np.ones(5, int), 3), (.5, 0))
    assert np.allclose(reference("1.4")(y, p, 2, 2), .625)
    assert np.allclose(reference("1.5")(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([10, 20, 30]),
                                        np.array([3, 1, 0])), (.75, .5, .625))
    f = torch.tensor([[0., 0.], [0., torch.log(torch.tensor(3.))]])
    weighted, adjusted = reference("2.2")(f, torch.tensor([0, 1]), torch.tensor([3, 1]), torch.tensor([2., 1.]), 1.)
    assert torch.isclose(weighted, (2 * torch.tensor(2.).log() + (4 / torch.tensor(3.)).log()) / 2)
    assert torch.isclose(adjusted, ((4 / torch.tensor(3.)).log() + torch.tensor(2.).log()) / 2)
    assert torch.isclose(reference("2.4")(f, torch.tensor([0, 1]), torch.tensor([1, 1]), 1., .5, 1, 0).float(),
                         (torch.tensor(2.).log() + (4 / torch.tensor(3.)).log()) / 2)
    p, times = reference("3.1")(torch.tensor([9, 0, 1]), .5)
    assert torch.allclose(p, torch.tensor([.75, 0, .25], dtype=torch.double))
    assert torch.allclose(times, torch.tensor([7.5 / 9, 0, 2.5], dtype=torch.double))
    u = torch.tensor([0., .25, .3, .5, .9]).double()
    assert reference("3.2")(torch.tensor([0, 0, 1]), torch.tensor([.5, .5]).double(), u).tolist() == [0, 1, 1, 2, 2]
    y, p = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    rows = np.array([[0, 0, 2, 2], [1, 1, 3, 3]])
    assert np.allclose(reference("6.1")(y, p, rows, 2), [.5 + .5 * .025, .5 + .5 * .975])
    assert np.allclose(reference("6.2")(y, p, y, rows, 2), [-.5 * .975, -.5 * .025])
    # the first setting is chosen
    honest, ends, optimism = reference("6.4")(y, np.array([y, p]), y, np.array([p, y]), rows, 2)
    assert np.allclose([honest, *ends, optimism], [.75, .5 + .5 * .025, .5 + .5 * .975, .25])


def test_the_recurrence_agrees_with_pytorch_and_with_values_by_hand():
    x, h, c, W, U, b, _ = find_exercise("7.1").cases["three bags"]
    cell, H = torch.nn.LSTMCell(4, 2), 2
    given = dict(weight_ih=W[:4 * H], weight_hh=U[:4 * H], bias_ih=b[:4 * H], bias_hh=0 * b[:4 * H])
    shut = [torch.cat([p[:4 * H], 0 * p[4 * H:]]) for p in (W, U, b)]            # the fifth gate is 1/2, times 2
    ours = reference("7.1")(x, h, c, *shut, torch.full((3, 1), 2.))
    theirs = torch.func.functional_call(cell, given, (x, (h, c)))
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(ours, theirs))
    assert reference("7.2")(*find_exercise("7.2").cases["half of it kept"]).flatten().tolist() == [1/8, 1/4, 1/2, 1]
    x, mask, v, *matrices = find_exercise("7.4").cases["one instance"]
    bag, w = reference("7.4")(x, mask, v, *matrices)
    step = reference("7.1")(x[:, 0], torch.zeros(3, 2), torch.zeros(3, 2), *matrices, torch.ones(3, 1))[0]
    assert torch.allclose(bag, step, atol=1e-6) and (w == 1).all()


def test_the_training_sheet_agrees_with_values_by_hand():
    rates = reference("8.3")(*find_exercise("8.3").cases["by hand"])
    assert torch.allclose(rates, torch.tensor([0, 2, 4, 6, 8, 4 + 4 * .5 ** .5, 4, 4 - 4 * .5 ** .5, 0]).double())
    x, views, y, part = find_exercise("8.4").cases["clips 1"]
    few = (part != 2) | (torch.arange(len(y)) < 30)
    epoch, scores = reference("8.4")(x, views, y, part)
    again, fewer = reference("8.4")(x[few], views[:, few], y[few], part[few])
    assert epoch == again and torch.allclose(scores[:len(fewer)], fewer)         # nobody depends on the clips beside
    for args in find_exercise("8.5").cases.values():
        losses, accuracy, score = reference("8.5")(*args)
        chance = 1 / len(args[1].unique())
        assert losses[-1] < .8 * losses[0] and accuracy > .5 and score > 1.5 * chance      # it learns


def test_class_probability_is_that_of_the_sampler():
    from micacl.longtail.samplers import POWERS, clip_shares
    n_c = torch.tensor([6, 3, 1])
    y = torch.repeat_interleave(torch.arange(3), n_c)
    for name, q in POWERS.items():
        assert torch.allclose(torch.zeros(3, dtype=torch.double).index_add(0, y, clip_shares(y, name)),
                              reference("3.1")(n_c, q)[0])
        assert torch.allclose(len(y) * clip_shares(y, name), reference("3.1")(n_c, q)[1][y])


def test_quick_uar_is_that_of_the_library():
    from micacl.lab.comparison import _uar
    from micacl.metrics import uar
    for seed in range(20):
        y, p = np.random.default_rng(seed).integers(0, 4, (2, 12))
        assert np.isclose(_uar(y, p, 5), uar(y, p, 5))


def test_gated_attention_is_the_formula():
    x, mask, V, U, a = find_exercise("4.1").cases["three bags"]
    bag, w = reference("4.1")(x, mask, V, U, a)
    for b in range(3):
        e = torch.stack([(a * (V @ n).tanh() * (U @ n).sigmoid()).sum() for n in x[b]]).exp()
        assert torch.allclose(w[b], e / e.sum(), atol=1e-6) and torch.allclose(bag[b], (e / e.sum()) @ x[b], atol=1e-6)


# --- copies
def test_student_copies_are_in_step(tmp_path):
    assert lab.out_of_step() == []
    for p in SHEETS: (tmp_path / p.name).write_bytes(p.read_bytes())
    assert len(lab.out_of_step(tmp_path)) == len(SHEETS)                    # missing
    lab.write(tmp_path / "student", "student", tmp_path)
    assert lab.out_of_step(tmp_path) == []
    for p, change in ((SHEETS[0], "{}\n"), (Path("7_left_over.ipynb"), "{}\n")):
        (tmp_path / "student" / p.name).write_text(change)
        assert p.name in lab.out_of_step(tmp_path)


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_students_see_no_solution(path):
    source, student = lab.load(path), lab.load(lab.SHEETS / "student" / path.name)
    seen = {line.strip() for cell in code(student) for line in cell.splitlines()}
    solutions = [s.strip() for cell in code(source) for part
                 in re.findall("### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", cell, re.S) for s in part.splitlines()]
    numbers = lab.exercises(source, path.name).values()
    assert len(solutions) >= len(numbers) and not seen & set(solutions)
    text = json.dumps(student)
    assert not re.search(r"(BEGIN|END) SOLUTION|instructor|For the teacher|@exercise|default_exp|#\| export|\(\.\./",
                         text)
    assert sorted(re.findall(r"raise NotImplementedError\(\"exercise ([\d.]+):",
                             "\n".join(code(student)))) == sorted(numbers)
    assert all(c.get("outputs") in (None, []) and c["metadata"] == {} for c in student["cells"])
    assert "students' copy" in prose(student) and f"nbs/lab/{path.name}" in prose(student)


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_teachers_see_all(path):
    source, mine = lab.load(path), lab.make_copy(path, "instructor")
    assert not re.search(r"(BEGIN|END) SOLUTION|default_exp|#\| *export",
                         json.dumps(mine)) and "NotImplementedError" not in "\n".join(code(mine))
    assert prose(mine).count("<!-- instructor -->") == prose(source).count("<!-- instructor -->") >= 3
    assert ("\n".join(code(mine)).count("@exercise(") == len(lab.exercises(source, path.name))
            and "teachers' copy" in prose(mine))


def test_cleaning_leaves_copies_as_they_are(tmp_path):
    for p in (*SHEETS, *lab.sources(lab.SHEETS / "student")):
        (tmp_path / f"{p.parent.name}_{p.name}").write_bytes(p.read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    run = f"from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__(fname={str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", run], cwd=ROOT, check=True)
    assert {p: p.read_bytes() for p in before} == before
    (spoilt := next(iter(before))).write_text(spoilt.read_text(encoding="utf-8").replace('"metadata": {}',
        '"metadata": {"x": 1}', 1), encoding="utf-8")
    subprocess.run([sys.executable, "-c", run], cwd=ROOT, check=True)
    assert spoilt.read_bytes() == before[spoilt]                             # so cleaning does look at this folder


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_sheet_is_complete(path):
    nb, student = lab.load(path), lab.load(lab.SHEETS / "student" / path.name)
    text, n = prose(student), len(lab.exercises(nb, path.name))
    for part in ("> ", "**Objectives.**", "*Prerequisites:*", "*Minutes:*", "**Predict before you run.**",
                 "*What to notice:*", "**Summary.**", "**To discuss.**"):
        assert part in text, part
    parts = ("<summary>Hint 1</summary>", "<summary>Hint 2</summary>", "### Exercise ")
    assert 3 <= n <= 5 and all(text.count(part) == n for part in parts)
    assert [m for m in re.findall(r"### Exercise ([\d.]+)", text)] == list(lab.exercises(nb, path.name).values())
    badge = ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
             f"(https://colab.research.google.com/github/micacl/micacl/blob/main/nbs/lab/student/{path.name})")
    assert badge in lab.text(student["cells"][0])
    assert (code(student)[0].startswith('import sys\nif "google.colab" in sys.modules:')
            and "%pip install" in code(student)[0])
    pictures = [c for c in code(student) if "plt.show()" in c]
    assert pictures and all(c.startswith("#| fig-alt: ") for c in pictures) and any("@interact(" in c for c in pictures)
    assert "../data" not in json.dumps(nb)
    for link in re.findall(r"\]\(([^)]+\.ipynb)", prose(nb)):
        if not link.startswith("http"): assert (path.parent / link).exists(), link


# --- the shape of a sheet
def questions(path):
    "{number: (kind, minutes, two hints, cell of the answer)}; kind is Debug, Together or nothing."
    nb, at = lab.load(path), {n: i for i, n in lab.exercises(lab.load(path), path.name).items()}
    cells, out = nb["cells"], {}
    for number, end in at.items():
        start = max(i for i, c in enumerate(cells[:end]) if f"### Exercise {number} " in lab.text(c))
        text = "\n".join(lab.text(c) for c in cells[start:end] if c["cell_type"] == "markdown")
        text = text[text.index(f"### Exercise {number} "):]
        opening = rf"### Exercise {number} (?:(Debug|Together): )?.*\n\n\*\(\w+, (\d+) min"
        kind, minutes = re.match(opening, text).groups()
        hints = re.findall(r"<summary>Hint [12]</summary>\s*(.*?)\s*</details>", text, re.S)
        out[number] = kind, int(minutes), hints, lab.text(cells[end])
    return out


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_a_sheet_has_a_task_to_debug_and_ends_with_one_that_ties_together(path):
    asked = questions(path)
    kinds = [kind for kind, *_ in asked.values()]
    assert kinds.count("Debug") == kinds.count("Together") == 1 and kinds[-1] == "Together"
    total = int(re.search(r"\*Minutes:\* (\d+)\.", prose(lab.load(path)))[1])
    assert total == 45 and 28 <= sum(minutes for _, minutes, *_ in asked.values()) <= 42     # the rest: pictures, talk


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_the_code_to_debug_runs_and_is_refused_with_words_of_its_own(path):
    number = next(n for n, (kind, *_) in questions(path).items() if kind == "Debug")
    given = next(s for s in code(lab.load(lab.SHEETS / "student" / path.name)) if s.startswith("def broken_"))
    exec(next(s for s in code(lab.load(path)) if s.startswith("import ") and "check" in s), names := {})
    exec(re.match(r"def broken_.*?(?=\n\S|\Z)", given, re.S)[0], names)
    broken = next(f for name, f in names.items() if name.startswith("broken_"))
    text = said(number, broken)
    assert text.split()[1] in ("value:", "shape:") and find_exercise(number).mistakes[0][1] in text


def bodies(spans):
    "What somebody would try who copies the code of a hint: each piece alone, and all of them in a row."
    for lines in (*([s] for s in spans), spans):
        last = lines[-1].strip() if lines else ""
        name, assigned, _ = last.partition(" = ")
        end = [last, f"return {name}"] if assigned else [last if "return" in last else f"return {last}"]
        yield [*lines[:-1], *end]


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_hints_are_partial_and_answers_are_no_one_liners(path):
    "No hint is the answer: pasted into the function, its code does not pass, and most lines of the answer are in none."
    exec(next(s for s in code(lab.load(path)) if s.startswith("import ") and "check" in s), names := {})
    plain = lambda s: re.sub(r"\s|^return ?", "", s.strip())
    for number, (_, _, hints, cell) in questions(path).items():
        solution = [s for s in re.search("BEGIN SOLUTION\n(.*?)\n *### END", cell, re.S)[1].splitlines() if s.strip()]
        assert len(solution) >= 2, f"{number} is a one-liner"
        assert len(hints) == 2 and all(len(h) > 40 for h in hints) and hints[0] != hints[1]
        head = re.search(r"(?m)^def \w+\(.*?\):", cell)[0]
        spans = [re.findall(r"`([^`]+)`", h) for h in hints]
        for lines in (*bodies(spans[0]), *bodies(spans[1]), *bodies([*spans[0], *spans[1]])):
            try: exec(head + "".join(f"\n    {s}" for s in lines), tried := dict(names))
            except SyntaxError: continue
            with pytest.raises(CheckFailed): check(number, tried[find_exercise(number).name])
        told = plain("".join(hints))
        assert sum(plain(s.split(" = ", 1)[-1]) in told for s in solution) <= len(solution) / 2, number
        exec(cell, names)                                                        # later hints may name it


@pytest.mark.parametrize("path", SHEETS, ids=lambda p: p.stem)
def test_what_a_slider_needs_is_not_overwritten_by_a_later_cell(path):
    "A slider is moved when the whole sheet has run, and calls its function with the names of that moment."
    cells = [s for s in code(lab.load(lab.SHEETS / "student" / path.name)) if "colab" not in s]
    found = [_names_of(s) for s in cells]
    for k, source in enumerate(cells):
        if "@interact(" not in source: continue
        want = set(found[k][1])
        for made, needs in reversed(found[:k]):
            if made & want: want |= needs
        assert not [(names & want, cells[j]) for j, (names, _) in enumerate(found) if j > k and names & want]


# --- the tool
def test_hide_keeps_indent_and_the_rest():
    source = "def f(x):\n    a = 1\n    " \
             "### BEGIN SOLUTION\n    if x:\n        return a\n    ### END SOLUTION\n\ndef g(): pass"
    hidden = lab.hide(source, "2.1")
    assert (hidden == 'def f(x):\n    a = 1\n    raise NotImplementedError("exercise 2.1: write your own lines '
                      'here")\n\ndef g(): pass')
    exec(hidden, names := {})
    with pytest.raises(NotImplementedError, match=r"2\.1"): names["f"](1)
    for bad in (source.replace("### END SOLUTION", ""), source.replace("### BEGIN SOLUTION", "### END SOLUTION"),
                source.replace("    if x:", "    ### BEGIN SOLUTION")):
        with pytest.raises(lab.LabError, match=r"2\.1"): lab.hide(bad, "2.1")


def cell(kind, source, i):
    return dict(cell_type=kind, id=i, metadata={}, source=source.splitlines(keepends=True),
                **(dict(outputs=[], execution_count=None) if kind == "code" else {}))


def small_sheet(folder, solution):
    cells = [cell("markdown", "# A small sheet", "a"), cell("code",
                                                            "import numpy as np\nfrom micacl.lab.checker import check",
                                                            "b"),
             cell("code", "def class_recalls(y, predicted, n_classes):\n    ### BEGIN SOLUTION\n"
                          "    hits = np.bincount(y[y == predicted], minlength=n_classes)\n"
                          f"    return {solution}\n    ### END SOLUTION", "c"),
             cell("code", 'check("1.1", class_recalls)', "d"),
             cell("code", "from ipywidgets import IntSlider, interact\n@interact(n=IntSlider(1, 0, 3))\ndef "
                          "picture(n): return 6 / n", "e")]
    (folder / "1_small.ipynb").write_text(lab.dump(dict(cells=cells,
                                                        metadata=dict(kernelspec=dict(display_name="python3",
                                                            language="python", name="python3")), nbformat=4,
                                                            nbformat_minor=5)))
    lab.write(folder / "student", "student", folder)
    return folder / "1_small.ipynb"


def test_a_solution_needs_its_check(tmp_path):
    path = small_sheet(tmp_path, "1")
    nb = lab.load(path)
    del nb["cells"][3]
    path.write_text(lab.dump(nb))
    with pytest.raises(lab.LabError, match="cell c holds a solution"): lab.make_copy(path, "student")


def test_a_broken_solution_and_a_broken_widget_are_found(tmp_path):
    path = small_sheet(tmp_path, "hits / len(y)")
    *_, wrong = lab.execute(path, "instructor")
    assert (any("check 1.1 stopped with CheckFailed: 1.1 value" in s and "by all clips" in s for s in wrong)
            and any("1.1: its solution does not pass" in s for s in wrong))
    # the slider at its lower end
    assert any("cell e stopped with ZeroDivisionError" in s for s in wrong)
    assert lab.leaks(path) == [] and lab.out_of_step(tmp_path) == []


def test_what_is_left_in_the_open_is_found(tmp_path):
    path = small_sheet(tmp_path, "hits / len(y)")
    nb = lab.load(path)
    shown = "hits = np.bincount(y[y == predicted], minlength=n_classes)"
    nb["cells"].append(cell("code", shown, "f"))
    path.write_text(lab.dump(nb))
    assert lab.leaks(path) == [shown] and lab.out_of_step(tmp_path) == ["1_small.ipynb"]


@pytest.mark.parametrize("source, made, needs", [
    ("few = {k: round(v) for k, v in x.items()}", {"few"}, {"round", "x"}),
    ("n = [w for w in [a for a in A] if w]", {"n"}, {"A"}), ("s = {f(u) for u in U}", {"s"}, {"f", "U"}),
    ("v = 1\nprint([v for v in V])", {"v"}, {"print", "V"}), ("[x for x in X]\nprint(x)", set(), {"X", "print", "x"}),
    ("def f(a): return [b + c for b in a]", {"f"}, {"c"}), ("import numpy as np", {"np"}, set())])
def test_names_in_comprehensions_are_not_those_of_a_cell(source, made, needs):
    assert _names_of(source) == (made, needs)
