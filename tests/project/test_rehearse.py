"A rehearsal runs a plan's notebooks in order in a copy of the repository, and keeps their seconds."
import json
import subprocess
from pathlib import Path

import nbformat
import pytest

import rehearse
from rehearse import copy_of_tree, keep, notebooks_of
from slidekit.source import NBS, plans


def notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)


def test_a_session_runs_its_sheet_or_the_solutions_of_its_pages():
    for sessions in plans().values():
        for _, pages, sheet in sessions:
            names = notebooks_of(pages, sheet)
            assert names[:len(pages)] == [f"nbs/{p}.ipynb" for p in pages] and len(names) > len(pages)
            assert all((NBS.parent / name).exists() for name in names)
            assert (f"nbs/lab/{sheet}.ipynb" in names) == bool(sheet)


def test_a_plan_is_run_in_order_and_in_one_folder(tmp_path, capsys):
    notebook(tmp_path / "nbs/00_a.ipynb", "open('left', 'w').write('here')", "x = 1")
    notebook(tmp_path / "nbs/lab/1_b.ipynb", "assert open('../left').read() == 'here'",
             "try: x\nexcept NameError: pass\nelse: raise SystemExit('not a kernel of its own')")
    notebook(tmp_path / "nbs/lab/2_c.ipynb", "raise ValueError('no such clip')")
    done, failed = rehearse.rehearse([("One", ["00_a"], "1_b"), ("Two", [], "2_c")], tmp_path)
    assert failed == 1 and "no such clip" in capsys.readouterr().out
    assert [list(s["notebooks"]) for s in done] == [["nbs/00_a.ipynb", "nbs/lab/1_b.ipynb"], ["nbs/lab/2_c.ipynb"]]
    assert all(s["seconds"] == round(sum(s["notebooks"].values())) for s in done)
    assert all(t > 0 for s in done for t in s["notebooks"].values())


def test_the_copy_has_what_git_knows(tmp_path, monkeypatch):
    there, copy = tmp_path / "there", tmp_path / "copy"
    (there / "nbs").mkdir(parents=True)
    (there / "nbs/page.md").write_text("old")
    (there / "kept out").write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=there, check=True)
    subprocess.run(["git", "add", "nbs"], cwd=there, check=True)
    (there / "nbs/page.md").write_text("new")
    monkeypatch.setattr(rehearse, "ROOT", there)
    copy_of_tree(copy)
    assert (copy / "nbs/page.md").read_text() == "new" and not (copy / "kept out").exists()


def test_a_plan_that_was_rehearsed_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "RESULTS", tmp_path / "plans.json")
    one = [dict(title="One", seconds=3, notebooks={"nbs/a.ipynb": 3.0})]
    keep({8: one}); keep({4: one})
    found = json.loads(rehearse.RESULTS.read_text(encoding="utf-8"))
    assert list(found["plans"]) == ["4", "8"] and found["plans"]["8"]["sessions"] == one
    assert found["command"].startswith("python tools/rehearse.py") and found["machine"]["cpu_cores"]
    rehearse.RESULTS.write_text(json.dumps(found | dict(machine=dict(processor="another", cpu_cores=1))))
    keep({4: one})
    now = json.loads(rehearse.RESULTS.read_text(encoding="utf-8"))      # of another machine: the plan says of which
    assert now["machine"]["processor"] == "another" and now["plans"]["4"]["machine"]["cpu_cores"]
    assert "machine" not in now["plans"]["8"]


RECORD = Path(rehearse.RESULTS)


@pytest.mark.skipif(not RECORD.exists(), reason="the plans were not rehearsed on this machine")
def test_what_was_rehearsed_is_the_plan():
    for n, plan in json.loads(RECORD.read_text(encoding="utf-8"))["plans"].items():
        names = [list(s["notebooks"]) for s in plan["sessions"]]
        assert names == [notebooks_of(p, s) for _, p, s in plans()[int(n)]], f"run python tools/rehearse.py --plans {n}"
        assert plan["commit"] and all(s["seconds"] > 0 for s in plan["sessions"])
