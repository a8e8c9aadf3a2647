"`make results`: every file has an entry, what has changed is noticed, and what was stopped goes on."
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
import results  # noqa: E402
from entries import ANSWERS, ENTRIES, NEEDS, Entry  # noqa: E402
from estimate import experiment_runs, inside, paces, planned_runs, sharing  # noqa: E402
from rests import rests_on  # noqa: E402

FILES = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "results").glob("*.json"))
         if p.name != results.MADE}


# ---- the table

def test_every_file_has_one_entry_and_every_entry_a_file():
    assert sorted(ENTRIES) == sorted(FILES)
    before = set()
    for name, e in ENTRIES.items():
        assert not [a for a in e.after if not ENTRIES[a].kept and a not in before], name       # they come earlier
        before.add(name)


def test_every_file_answers_one_short_question():
    said = [(name, words) for group in ANSWERS.values() for name, words in group.items()]
    assert sorted(n for n, _ in said) == sorted(FILES)                  # each once, and no other
    assert len({words for _, words in said}) == len(said)
    for name, words in said: assert words.endswith("?") and len(words) <= 60, name


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_says_what_the_file_says(name):
    e, d = ENTRIES[name], FILES[name]
    for command in (e.command, *e.run):
        for word in re.findall(r"\S+\.py", command): assert (ROOT / word).is_file(), word
        assert {w for w in re.findall(r"\{([\w-]+)\}", command)} <= {"work", "own", *NEEDS}
    if not e.run and not e.kept: assert not re.search(r"\b(OTHER|FOLDER|VIDEO)\b", e.command)
    def said(x):
        if isinstance(x, dict): return [v for k, v in x.items() if k == "command"] + said([*x.values()])
        return [c for v in x for c in said(v)] if isinstance(x, list) else []
    assert (found := said(d))
    own = [d["command"]] if "command" in d else found
    plain = [c.replace('"', "") for c in own]
    assert all(c.startswith(e.command.replace('"', "")) for c in plain), (plain, e.command)
    if "command" in d and not e.kept: assert d["command"].replace('"', "") == e.command.replace('"', "")


def test_files_of_the_project_rest_on_what_makes_them():
    on = rests_on(ROOT, "python benchmarks/errors.py WORK")
    assert {"benchmarks/errors.py", "benchmarks/ablations.json", "benchmarks/bakeoff.json", "micacl/wian.py",
            "micacl/data/synfew/acting.py", "micacl/nn/weights/r3d_small.safetensors"} <= on
    assert not [p for p in on if p.startswith(("micacl/lab/", "nbs/")) or "res_faces.s" in p]
    assert "micacl/nn/weights/res_faces.safetensors" in rests_on(ROOT, ENTRIES["encoders"].command)
    assert "micacl/show/demo.py" in rests_on(ROOT, ENTRIES["demo"].run[0])          # python -m micacl.cli
    assert "micacl/train/loaders.py" in rests_on(ROOT, ENTRIES["cache"].command)    # imported in a string


# ---- a small project

FIRST = """
import json, subprocess, sys
from pathlib import Path
from common import commit
from micacl.value import VALUE
out = Path("results") / f"{sys.argv[1]}.json"
if sys.argv[2:]: Path(sys.argv[2], "calls").open("a").write(sys.argv[1] + "\\n")
import micacl.nn.backbone
out.write_text(json.dumps(dict(command=f"python benchmarks/first.py {sys.argv[1]} WORK", commit=commit(), value=VALUE,
                               seconds=90)))
"""
COMMON = """
import subprocess
def commit():
    git = lambda *w: subprocess.run(["git", *w], capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + "+changes" * bool(git("status", "--porcelain", "-uno", "micacl"))
"""
SMALL = {
    "micacl/__init__.py": '__version__ = "1"\n', "micacl/nn/__init__.py": "", "micacl/nn/backbone.py": "DIM = 3\n",
    "micacl/value.py": '"The value."\nfrom .deep import more\n\ndef f(x: int) -> int:\n    "Twice."\n'
                       '    return 2 * x      # twice\n\nVALUE = f(more())\n',
    "micacl/deep.py": "def more(): return 4\n", "micacl/other.py": "A = 1\n",
    "micacl/nn/weights/r3d_small.safetensors": "weights", "micacl/nn/weights/res_faces.safetensors": "others",
    "benchmarks/first.py": FIRST, "benchmarks/common.py": COMMON, "benchmarks/one.json": '{"epochs": 8}',
    "results/.keep": "", "nbs/page.ipynb": json.dumps(dict(cells=[dict(cell_type="code", source=["one.json"])])),
    ".gitignore": "_results\n__pycache__\n"}
ENTRY = {n: Entry(f"python benchmarks/first.py {n} WORK", after=after)
         for n, after in (("one", ()), ("two", ("one",)), ("three", ()))}


def sh(root, *words): return subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout


def save(root, **files):
    for name, text in files.items():
        (file := root / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    sh(root, "git", "add", "-A")
    sh(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a step", "--allow-empty")
    return root


@pytest.fixture
def small(tmp_path):
    (root := tmp_path / "project").mkdir()
    sh(root, "git", "init", "-q")
    sh(root, "git", "config", "core.autocrlf", "false")
    return save(root, **SMALL)


def call(root, *argv, entries=ENTRY): results.main([str(a) for a in argv], root, entries)


def called(root): return (root / "_results" / "calls").read_text().split()


def now(root, entries=ENTRY):
    made = results.read(file)["files"] if (file := root / "results" / results.MADE).exists() else {}
    return {n: tuple(s) for n, s in results.states(root, entries, made).items()}


def test_made_once_from_a_checkout_and_then_fresh(small, capsys):
    assert {w for w, _ in now(small).values()} == {"missing"}
    call(small)
    assert called(small) == ["one", "two", "three"] and set(now(small).values()) == {("fresh", "")}
    one, made = results.read(small / "results" / "one.json"), results.read(small / "results" / "made.json")["files"]
    assert one["value"] == 8 and one["commit"] == results.head(small) == made["two"]["commit"]
    assert made["two"]["after"] == {"one": results.digest(small / "results" / "one.json")}
    assert "tools/pages.py --save nbs/page.ipynb" in capsys.readouterr().out
    call(small)
    assert len(called(small)) == 3
    save(small)                                            # the files are committed, as they would be
    assert set(now(small).values()) == {("fresh", "")}
    call(small, "one", "--all")                            # another commit
    assert called(small)[3:] == ["one"] and now(small)["two"] == ("stale", "one.json is another one now")


@pytest.mark.parametrize("path, old, new", [
    ("micacl/value.py", '"Twice."', '"Two times."'), ("micacl/value.py", "# twice", "# doubled"),
    ("micacl/value.py", "(x: int) -> int", "(x)"), ("micacl/value.py", '"The value."\n', '"A value."\n\n'),
    ("micacl/__init__.py", '"1"', '"2"'), ("micacl/other.py", "A = 1", "A = 2"),
    ("benchmarks/one.json", '{"epochs": 8}', '{\n "epochs": 8\n}'),
    ("micacl/nn/weights/res_faces.safetensors", "others", "new")])
def test_what_changes_no_figure_makes_nothing_stale(small, path, old, new):
    call(small, "one")
    text = (small / path).read_text()
    assert old in text
    save(small, **{path: text.replace(old, new)})
    assert now(small)["one"] == ("fresh", "")


@pytest.mark.parametrize("path, old, new", [
    ("micacl/value.py", "2 * x", "3 * x"), ("micacl/deep.py", "4", "5"), ("benchmarks/one.json", "8", "32"),
    ("micacl/nn/weights/r3d_small.safetensors", "weights", "trained again"), ("micacl/nn/backbone.py", "3", "4"),
    ("benchmarks/first.py", "seconds=90", "seconds=91"), ("micacl/deep.py", "def more()", "def more(x=1)")])
def test_what_may_change_a_figure_makes_it_stale_and_is_named(small, path, old, new):
    call(small, "one", "two")
    commit, text = results.head(small), (small / path).read_text()
    assert old in text
    save(small, **{path: text.replace(old, new)})
    assert now(small)["one"] == ("stale", f"{path} changed since {commit}")
    assert now(small)["two"][0] == "stale"
    call(small, "one")
    assert now(small)["one"] == ("fresh", "") and called(small) == ["one", "two", "one"]


def test_a_module_that_moved_and_a_commit_that_is_not_there(small):
    call(small, "one")
    commit = results.head(small)
    (small / "micacl" / "deep.py").rename(small / "micacl" / "deeper.py")
    save(small, **{"micacl/value.py": SMALL["micacl/value.py"]})
    (small / "micacl" / "value.py").write_text(SMALL["micacl/value.py"].replace(".deep", ".deeper"))
    assert now(small)["one"] == ("stale", f"micacl/value.py changed since {commit}, and 1 more")
    (small / "micacl" / "value.py").write_text(SMALL["micacl/value.py"])
    (small / "micacl" / "deep").mkdir()
    (small / "micacl" / "deep" / "__init__.py").write_text(SMALL["micacl/deep.py"])
    assert now(small)["one"] == ("stale", f"its code stood elsewhere at {commit} (micacl/deep/__init__.py was not "
                                          "there)")
    for said, why in (("1234567", "its commit 1234567 is not in this repository"),
                      (f"{commit}+changes", f"made with uncommitted changes ({commit}+changes)")):
        file = small / "results" / "one.json"
        file.write_text(json.dumps(dict(results.read(file), commit=said)))
        assert now(small)["one"] == ("stale", why)


def test_a_tree_with_changes_is_refused_unless_told_otherwise(small):
    (small / "micacl" / "deep.py").write_text("def more(): return 6\n")
    with pytest.raises(SystemExit, match="micacl/deep.py has uncommitted changes.*commit first, or give --changes"):
        call(small)
    assert not (small / "results" / "one.json").exists()
    call(small, "one", "--changes")
    one = results.read(small / "results" / "one.json")
    assert one["value"] == 12 and one["commit"].endswith("+changes") and now(small)["one"][0] == "stale"
    sh(small, "git", "checkout", "-q", "micacl")
    (small / "nbs" / "notes.txt").write_text("mine")          # what git does not know is in no checkout
    call(small, "one")
    assert results.read(small / "results" / "one.json")["value"] == 8


def test_a_command_that_fails_is_named_and_the_others_go_on(small, capfd):
    entries = {"one": Entry("python benchmarks/first.py one WORK", ("python -c 'raise ValueError(4)'",)),
               "two": ENTRY["two"], "silent": Entry("python benchmarks/first.py x", ("python -c pass",)),
               "gone": Entry("x", ("no-such-program",)), "three": ENTRY["three"]}
    with pytest.raises(SystemExit) as e: call(small, entries=entries)
    assert str(e.value).startswith("results: one: ended with status 1; two: comes after one; silent: wrote no "
                                   "results/silent.json; gone: could not be started: ")
    assert called(small) == ["three"] and "ValueError: 4" in capfd.readouterr().err
    assert [w for w, _ in now(small).values()] == ["missing", "missing", "fresh"]
    call(small)
    assert called(small) == ["three", "one", "two"]


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent the POSIX way")
def test_interrupted_and_called_again(small, request):
    # a shell starts background jobs with SIGINT ignored, and then Python has no handler of its own
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    stop = ("import os, signal, sys, time; from pathlib import Path; here = Path(sys.argv[1])\n"
            "if not here.exists(): here.write_text(''); os.kill(os.getppid(), signal.SIGINT); time.sleep(60)")
    save(small, **{"benchmarks/stop.py": stop})
    two = Entry("python benchmarks/first.py two WORK", ("python benchmarks/stop.py {work}/begun",
                                                        "python benchmarks/first.py two {work}"))
    entries = {**ENTRY, "two": two}
    with pytest.raises(KeyboardInterrupt): call(small, entries=entries)
    assert called(small) == ["one"] and now(small, entries)["one"][0] == "fresh"
    spent = results.read(small / "_results" / "seconds.json")[f"two at {results.head(small)}"]
    call(small, entries=entries)
    assert called(small) == ["one", "two", "three"]
    assert results.read(small / "results" / "made.json")["files"]["two"]["seconds"] >= round(spent)
    assert set(now(small, entries).values()) == {("fresh", "")}


def test_rows_of_an_earlier_commit_are_put_away_once(small):
    "A script that goes on with the rows it finds begins anew at a new commit, and goes on when it was stopped."
    script = ("import json, subprocess; from pathlib import Path; f = Path('results/rows.json')\n"
              "at = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout\n"
              "d = json.loads(f.read_text()) if f.exists() else dict(rows=[])\n"
              "f.write_text(json.dumps(dict(command='x', commit=at.strip(), rows=d['rows'] + [1])))\n"
              "raise SystemExit(len(d['rows']) == 0)")
    entries = {"rows": Entry("python benchmarks/rows.py", anew=True)}
    save(small, **{"benchmarks/rows.py": script, "results/rows.json": '{"rows": [7, 7], "commit": "x"}'})
    with pytest.raises(SystemExit, match="rows: ended with status 1"): call(small, entries=entries)
    call(small, entries=entries)
    assert results.read(small / "results" / "rows.json")["rows"] == [1, 1] and now(small, entries)["rows"][0] == "fresh"


def test_the_plan_has_order_reason_time_and_sum(small, capsys):
    call(small, "one", "three")
    save(small, **{"micacl/deep.py": "def more(): return 5\n"})
    (small / "results" / "made.json").unlink()
    entries = {**ENTRY, "four": Entry("python benchmarks/first.py four WORK", ("python x.py {ck}",)),
               "five": Entry("python benchmarks/first.py five WORK", also=("micacl/nn/weights",)),
               "log": Entry("none", kept="a record")}
    capsys.readouterr()
    call(small, "--plan", entries=entries)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r" 1\. one +stale +2 min +estimate: from the file +micacl/deep.py changed since", lines[0])
    assert re.match(r" 2\. two +missing +not measured$", lines[1]) and lines[2].startswith(" 3. three")
    assert re.match(r" +four +missing +not measured +needs --ck$", lines[3]) and "only when named" in lines[4]
    assert re.match(r" +log +kept +a record$", lines[5]) and lines[6] == f"--ck: {NEEDS['ck']}"
    assert lines[7] == "3 to run, about 3 min in all; not measured: two" and not (small / "_results" / "x").exists()
    call(small, "four", "log", "--plan", entries=entries)
    assert "four needs --ck" in (said := capsys.readouterr().out) and "log is not made here: a record" in said
    call(small, "--plan", "--ck", small, entries=entries)
    assert re.search(r" 4\. four ", capsys.readouterr().out)


def test_a_file_of_many_parts_is_as_old_as_its_oldest():
    pages = dict(command="c", commit="head", pages={"nbs/a.ipynb": dict(seconds=3, commit="x"),
                                                    "nbs/b.ipynb": dict(seconds=4, commit="y")})
    found = results.records(pages)
    assert [c for c, _ in found] == ["x", "y"] and "nbs/a.ipynb" in found[0][1] and "nbs/a.ipynb" not in found[1][1]
    assert results.records(dict(commit="a", networks_commit="b"))[1][0] == "b" and inside(pages) == 7
    other = dict(commit="old", command="bench --checkout OTHER", seconds=9)
    assert results.records([other, dict(commit="new", seconds=1)]) == [("new", {"", "commit", "seconds"})]
    assert inside([other, dict(seconds=1)]) == 1


def test_equal_runs_are_counted_once(tmp_path):
    (file := tmp_path / "s.json").write_text(json.dumps(dict(
        synfew=dict(n_train=64, n_test=14, seed=0), frozen=True, seeds=[1, 2], test="test", base=dict(epochs=3),
        tune=dict(synfew=dict(n_train=32, n_test=14, seed=9), grid=dict(lr=[0.01, 0.1]), seeds=[1]),
        methods={"a": dict(model="mean"), "b": dict(model="mean"), "c": dict(like="a", model="mean", epochs=6)})))
    known = dict(methods=dict(a=dict(step_seconds=0.5, chosen=dict(lr=0.1)), b=dict(step_seconds=1.0, chosen=dict(
        lr=0.1))))
    spec = dict(base=dict(epochs=4), frozen=True, methods=dict(x=dict(model="mean"), y=dict(model="mean"),
                                                               z=dict(model="max"), w=dict(model="mean", epochs=8)))
    pace = paces([dict(spec=spec, methods=dict(x=dict(seconds=12.0), y=dict(seconds=20.0), z=dict(seconds=4.0))),
                  dict(spec=spec, methods=dict(w=dict(seconds=16.0)))])
    assert sorted(pace.values()) == [1.0, 2.0]                  # seconds an epoch: the least of 3, 5 and 2; of max 1
    runs, features = planned_runs(file, known, pace)
    assert len(runs) == 2 * 2 + 3 * 2 and len(dict(runs)) == 2 + 2 + 2         # a and b are one, c trains longer
    assert sorted(s for _, s in runs) == [3 * 2] * 8 + [6 * 2] * 2
    assert len(features) == 2 * 3 - 3 + 2 * 6                                  # tuning; seeds of the main set, 6 epochs
    assert sum(s for _, s in features) == (3 * 32 + 12 * 64) / 32 * 0.5 * 2


def test_experiments_of_the_project_share_runs():
    "The longest trainings of the page on convergence are runs of the ablations too, those of the tuning among them."
    (a, _), (b, _) = (experiment_runs(ROOT, n) for n in ("ablations", "convergence"))
    both = set(dict(a)) & set(dict(b))
    assert {True, False} == {'"seed": 100' in k for k in both} and len(dict(b)) == len(b)
    words = sharing(ROOT, ["ablations", "convergence"])
    different = len(dict(a)) + len(b) - len(both)
    assert words.startswith(f"2 experiments ask for {len(a) + len(b)} runs, {different} of them")
