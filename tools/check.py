"""Everything that CI checks, in the order of speed; `make test` calls it.

    python tools/check.py            # all steps
    python tools/check.py tests pages  # only these
    python tools/check.py quick      # while you work: modules in step, lint, types, the tests of what has changed
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def sh(*cmd, cwd=ROOT, **env):
    "Run a command, or end the check with its exit status."
    r = subprocess.run([str(c) for c in cmd], cwd=cwd, env={**os.environ,
                                                            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **env})
    if r.returncode: sys.exit(f"check: failed with status {r.returncode}: {' '.join(map(str, cmd))}")


def sync():
    "The notebooks are clean and the modules are what the notebooks export (tried on a copy: nothing here is touched)."
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / "micacl"
        files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                               capture_output=True, check=True).stdout
        for name in filter(None, files.decode().split("\0")):
            if (ROOT / name).is_file() and name.split("/")[0] in ("nbs", "micacl", "settings.ini", "pyproject.toml",
                "setup.py", "README.md"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        before = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        sh("nbdev-clean", cwd=copy)
        sh("nbdev-export", cwd=copy)
        after = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()
                 and "__pycache__" not in p.parts}
        drift = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    if drift: sys.exit("check: notebooks and modules are not in step; run `make sync` and commit: " + ", ".join(drift))
    print(f"sync: {len(before)} files in step")


def lint():
    "Ruff finds nothing, and no package imports from a later one (pyproject.toml states the order)."
    sh("ruff", "check", ".")
    sh("lint-imports", "--no-logo", "--no-cache")


def types():
    "Mypy finds nothing: the package promises its types to whoever imports it (py.typed)."
    sh(sys.executable, "-m", "mypy")


def tests():
    """The tests outside the pages, two files at a time with one thread each: on two cores that is sooner than two
    threads for one file."""
    sh(sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--durations=8", "tests",
       OMP_NUM_THREADS="1")


def pages():
    "Every page runs from top to bottom."
    sh(sys.executable, "tools/pages.py")


def lab():
    "The sheets: students' copies in step, solutions pass, stubs and typical mistakes fail with the right words."
    sh(sys.executable, "tools/lab.py", "--check")


def package():
    "The wheel and the sdist hold the right files; the wheel works in an empty environment and an empty folder."
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        sh(sys.executable, "-m", "build", "--outdir", tmp / "dist", ".")
        wheel, = (tmp / "dist").glob("*.whl")
        sdist, = (tmp / "dist").glob("*.tar.gz")
        sh(sys.executable, "tools/check_package.py", "files", wheel, sdist)
        sh(sys.executable, "-m", "venv", tmp / "env")
        python = tmp / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        sh(python, "-m", "pip", "install", "--quiet", wheel)
        (tmp / "empty").mkdir()
        sh(python, ROOT / "tools" / "check_package.py", "use", ROOT / "README.md", cwd=tmp / "empty")
        sh(python, ROOT / "tools" / "check_package.py", "speed", cwd=tmp / "empty")


def site():
    "The site is built into _docs/ without a complaint."
    sh(sys.executable, "tools/site.py")


def chromium():
    "Path of a Chromium: the one that $CHROMIUM names, the system's, Playwright's own; None where there is none."
    if os.environ.get("CHROMIUM"): return os.environ["CHROMIUM"]
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play: own = play.chromium.executable_path
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", own))), None)


def browser():
    "Every page of the site is read in Chromium; a chapter and a sheet are worked through in JupyterLab."
    path = chromium()
    if not path:
        return print("browser: SKIPPED, no Chromium found; Debian: apt-get install chromium; elsewhere: "
                     ".venv/bin/playwright install chromium")
    sh(sys.executable, "tools/site_browser.py", "--chromium", path, "--log", "_docs/browser.md")
    sh(sys.executable, "tools/lab_browser.py", "07_geiim", "2_losses", "--chromium", path)


def quick():
    "In a minute and a half: modules in step, lint, types, and the tests of what has changed."
    from quick import SECONDS, changed, select
    until, files = time.time() + SECONDS, changed()
    for step in (sync, lint, types): step()
    selected, left_out = select(files)
    print(f"quick: {len(files)} changed files, tests: {' '.join(selected)}", flush=True)
    sh(sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--until", str(until),
       *(f"--deselect={t}" for t in left_out), *selected, OMP_NUM_THREADS="1")


STEPS = dict(sync=sync, lint=lint, types=types, tests=tests, pages=pages, lab=lab, package=package, site=site,
             browser=browser)


def main():
    for name in sys.argv[1:] or STEPS:
        step = quick if name == "quick" else STEPS[name]
        print(f"\n=== {name}: {step.__doc__}", flush=True)
        start = time.time()
        step()
        print(f"=== {name}: passed in {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__": main()
