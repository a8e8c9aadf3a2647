"`make quick`: which tests belong to a changed file, and that the time is kept."
import subprocess
import sys
import time

import pytest

import quick

pytest_plugins = "pytester"


@pytest.mark.parametrize("name, want", [
    ("micacl/longtail/losses.py", ["tests/longtail/test_losses.py"]),
    ("micacl/train/loop.py", ["tests/train/test_loop.py"]),
    ("nbs/07_geiim.ipynb", ["tests/method/test_geiim.py", *quick.BOOK]),
    ("nbs/longtail/losses.ipynb", ["tests/longtail/test_losses.py", *quick.BOOK]),
    ("nbs/lab/2_losses.ipynb", ["tests/lab/test_sheets.py", *quick.BOOK]),
    ("nbs/solutions/06_pooling.ipynb", [*quick.BOOK]), ("nbs/references.bib", [*quick.BOOK]),
    ("tests/data/test_load.py", ["tests/data/test_load.py"]), ("tests/helpers.py", []), ("README.md", []),
    ("tools/sitekit/book.py", ["tests/project/test_site.py"]),
    ("tools/lab.py", ["tests/lab/test_graders.py", "tests/lab/test_grading.py", "tests/lab/test_sheets.py"]),
    ("benchmarks/kills.py", ["tests/project/test_faults.py"])])
def test_a_changed_file_has_its_tests(name, want):
    assert [p.relative_to(quick.ROOT).as_posix() for p in dict.fromkeys(quick.tests_for(name))] == want


def test_every_module_of_the_package_has_tests():
    missing = [p for p in (quick.ROOT / "micacl").rglob("[a-z]*.py")
               if not quick.tests_for(p.relative_to(quick.ROOT).as_posix())]
    assert not missing


def test_own_tests_come_first_and_once():
    found, left_out = quick.select(["micacl/longtail/losses.py", "micacl/geiim.py", "nbs/07_geiim.ipynb"])
    assert found[:3] == ["tests/longtail/test_losses.py", "tests/method/test_geiim.py", "tests/project/test_pages.py"]
    assert len(found) == len(set(found)) and set(quick.ALWAYS) <= set(found)
    assert all((quick.ROOT / f).is_file() for f in found)
    assert left_out == [*quick.LONG] and quick.select(["nbs/10_mccl.ipynb"])[1] == []
    for name in quick.LONG:
        path, test = name.split("::")
        assert f"def {test}(" in (quick.ROOT / path).read_text(encoding="utf-8")


def test_git_is_asked_for_what_differs(tmp_path, monkeypatch):
    git = lambda *a: subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *a], cwd=tmp_path, check=True,
                                    capture_output=True)
    git("init", "-q", "-b", "main")
    for name in ("old", "gone", "edited", "branch"): (tmp_path / name).write_text("1")
    git("add", "-A"), git("commit", "-qm", "1"), git("checkout", "-qb", "work")
    (tmp_path / "branch").write_text("2")
    git("commit", "-qam", "2")
    (tmp_path / "edited").write_text("2"), (tmp_path / "new").write_text("1"), (tmp_path / "gone").unlink()
    monkeypatch.setattr(quick, "ROOT", tmp_path)
    assert quick.changed() == ["edited", "new", "branch"]


@pytest.mark.skipif(sys.platform == "win32", reason="no timer that interrupts a test")
def test_the_time_is_kept(pytester):
    conftest = (quick.ROOT / "tests/conftest.py").read_text(encoding="utf-8")
    assert "LEAST = 20 " in conftest
    pytester.makeconftest(conftest.replace("LEAST = 20 ", "LEAST = 4 "))
    pytester.makepyfile("""
        import time, pytest
        def test_short(): pass
        @pytest.fixture
        def slow(): time.sleep(120)
        def test_fails(): assert 0
        def test_long(slow): pass
        def test_late(): assert 0
    """)
    start = time.time()
    result = pytester.runpytest_subprocess("--until", str(start), "-p", "no:randomly", "-rs")
    result.assert_outcomes(passed=1, failed=1, skipped=2)
    result.stdout.fnmatch_lines(["2 tests were out of time: `make test` runs them"])
    assert time.time() - start < 60
    assert pytester.runpytest_subprocess("-k", "short").ret == 0
