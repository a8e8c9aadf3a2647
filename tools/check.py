"""Everything that CI checks; `make test` calls it.

    python tools/check.py              # all steps, side by side: on two cores two of them
    python tools/check.py tests pages  # only these; a single one shows what it does as it goes
    python tools/check.py quick        # while you work: modules in step, lint, types, the tests of what has changed
"""
import argparse
import os
import signal
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Step, side_by_side

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CORES = os.cpu_count() or 1
JOBS = CORES      # processes of the step that runs; half of the cores where others run beside it


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
    """Ruff finds nothing, no package imports from a later one (pyproject.toml states the order), no word is misspelt,
    and the workflows are sound."""
    sh("ruff", "check", ".")
    sh("lint-imports", "--no-logo", "--no-cache")
    sh("codespell", "micacl", "nbs", "tests", "tools", "benchmarks", "paper", "data/synfew-mini", "data/README.md",
       "setup.py", "settings.ini", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    sh("zizmor", "--offline", "--quiet", ".github")


def types():
    "Mypy finds nothing: the package promises its types to whoever imports it (py.typed)."
    sh(sys.executable, "-m", "mypy")


def tests():
    """The tests outside the pages, with one thread each: on two cores two files at a time are sooner than two threads
    for one file."""
    several = ["-n", JOBS, "--dist", "loadfile"] if JOBS > 1 else []
    sh(sys.executable, "-m", "pytest", "-q", *several, "--durations=8", "tests", OMP_NUM_THREADS="1")


def pages():
    "Every page runs from top to bottom."
    sh(sys.executable, "tools/pages.py", "--jobs", JOBS)


def lab():
    "The sheets: students' copies in step, solutions pass, stubs and typical mistakes fail with the right words."
    sh(sys.executable, "tools/lab.py", "--check", "--jobs", JOBS)


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
        # bytecode of a gigabyte of libraries would be made here; Python makes that of the few it imports
        sh(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel)
        (tmp / "empty").mkdir()
        sh(python, ROOT / "tools" / "check_package.py", "use", ROOT / "nbs/library/start.ipynb", cwd=tmp / "empty")
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


def with_chromium(script, *args):
    path = chromium()
    if path: return sh(sys.executable, script, *args, "--chromium", path)
    print(f"{script}: SKIPPED, no Chromium found; Debian: apt-get install chromium; elsewhere: "
          ".venv/bin/playwright install chromium")


def browser():
    "Every page of the site is read in Chromium."
    with_chromium("tools/site_browser.py", "--jobs", JOBS, "--log", "_docs/browser.md")


def slides():
    "The decks of the teaching plans are built; in Chromium nothing sticks out, and they print."
    with tempfile.TemporaryDirectory() as tmp:
        sh(sys.executable, "tools/slides.py", "--out", f"{tmp}/slides")
        with_chromium("tools/slides_browser.py", "--slides", f"{tmp}/slides", "--pdf", f"{tmp}/pdf")


def jupyter():
    "A chapter and a sheet are worked through in JupyterLab, in Chromium."
    with_chromium("tools/lab_browser.py", "07_geiim", "2_losses")


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
             browser=browser, slides=slides, jupyter=jupyter)
# Side by side: what is quick and often fails first, then the longest. The tests read what Mypy has found out.
ORDER = ("sync", "lint", "types", "site", "pages", "tests", "browser", "package", "lab", "jupyter", "slides")
NEEDS = dict(tests=("types",), browser=("site",))
HALF = ("tests", "pages", "browser")      # take half of the cores, the others one


def one(name):
    step, start, before = quick if name == "quick" else STEPS[name], time.time(), os.times()
    print(f"\n=== {name}: {step.__doc__}", flush=True)
    step()
    cpu = sum(os.times()[:4]) - sum(before[:4])
    print(f"=== {name}: passed in {time.time() - start:.0f} s, {cpu:.0f} s of CPU", flush=True)


def several(names):
    "Run steps side by side, and say how long each took."
    half, start = max(1, CORES // 2), time.time()
    cores = {n: half if n in HALF else 1 for n in names}
    steps = {n: Step([sys.executable, __file__, n, "--jobs", str(cores[n])], cores[n], NEEDS.get(n, ()))
             for n in sorted(names, key=ORDER.index)}
    passed, failed = side_by_side(steps, CORES)
    print("".join(f"\n{n:8} {s:5.0f} s, {cpu:5.0f} s of CPU" for n, (s, cpu) in passed.items()))
    if failed:
        left = [n for n in steps if n not in passed and n != failed]
        sys.exit(f"check: {failed} failed" + (f"; stopped or not begun: {', '.join(left)}" if left else ""))
    print(f"check: all passed in {time.time() - start:.0f} s, {sum(c for _, c in passed.values()):.0f} s of CPU, "
          f"on {CORES} cores")


def main():
    global JOBS
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all); or quick")
    p.add_argument("--jobs", type=int, default=CORES, help="processes that a single step may use (default: the cores)")
    args = p.parse_args()
    if unknown := set(args.steps) - {*STEPS, "quick"}: p.error(f"unknown step {', '.join(sorted(unknown))}")
    if len(args.steps) > 1 and "quick" in args.steps: p.error("quick stands alone")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("check: ended"))      # and with it what it has started
    JOBS = args.jobs
    try: one(*args.steps) if len(args.steps) == 1 else several(list(dict.fromkeys(args.steps)) or list(STEPS))
    except KeyboardInterrupt: sys.exit("check: interrupted")


if __name__ == "__main__": main()
