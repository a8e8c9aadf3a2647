"""Read chapters and work through the sheets of the lab in JupyterLab, in a real browser, as a new student would.

    python tools/lab_browser.py                         # all sheets and chapters with sliders; needs playwright and
                                                        # Chromium (https://playwright.dev/python)
    python tools/lab_browser.py 2_losses 07_geiim --shots FOLDER # one sheet and one chapter, with photographs
    ... --chromium /usr/bin/chromium --server .venv/bin/python   # the system's browser; the Python that has JupyterLab
    and micacl

Each sheet is opened as students get it. Run All stops at the first exercise, with a message that helps. Then, exercise
by exercise, the solution of the source is typed in, its check passes, and the sheet runs on to the next one. A chapter
runs to its end without an error. At the end every slider is moved, and its picture has to change.
"""
import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from lab import ROOT, SHEETS, exercises, load, sources, text
from sitekit.book import NBS, notebooks

SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings":
                dict(windowingMode="none"),      # every cell is there, seen or not
            "@jupyterlab/apputils-extension/notification.jupyterlab-settings":
                dict(fetchNews="false", checkForUpdates=False)}


@contextlib.contextmanager
def server(python, folder):
    "JupyterLab on `folder`, with settings of its own; yields its address."
    settings = folder / ".settings"
    for name, values in SETTINGS.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(json.dumps(values))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER_{k}_DIR": str(folder / f".{k.lower()}") for k in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **own, "JUPYTERLAB_SETTINGS_DIR": str(settings),
           "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces")}
    with open(folder / ".log", "w") as log:
        process = subprocess.Popen([python, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
                                    f"--port={port}", "--ServerApp.port_retries=0",
                                    f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
                                    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
                                   env=env, stdout=log, stderr=log)
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2)
                    break
                time.sleep(.25)
            else: sys.exit(f"lab_browser: JupyterLab did not start:\n{(folder / '.log').read_text()[-2000:]}")
            yield lambda name: (f"http://127.0.0.1:{port}/lab/workspaces/"
                                f"{name.removesuffix('.ipynb').replace('/', '-')}/tree/{name}?token={token}")
        finally:
            process.terminate()
            try: process.wait(15)
            except subprocess.TimeoutExpired: process.kill()


class Sheet:
    "A sheet or a chapter in the browser."
    def __init__(self, page, address, n_cells):
        self.page, self.cells = page, page.locator(".jp-Notebook .jp-Cell")
        page.goto(address, timeout=120_000)
        self.cells.nth(n_cells - 1).wait_for(timeout=60_000)
        # before that, running raises a question about kernels
        page.get_by_text(re.compile(r"\| Idle$")).first.wait_for(timeout=60_000)

    def menu(self, name):
        self.page.get_by_role("menubar").get_by_text("Run", exact=True).click()
        self.page.get_by_role("menuitem", name=re.compile(f"^{name}")).first.click()
        self.idle()

    def idle(self):
        self.page.wait_for_timeout(400)
        self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=120_000)
        self.page.wait_for_timeout(400)

    def prompt(self, index): return self.cells.nth(index).locator(".jp-InputPrompt").first.inner_text().strip()

    def errors(self):      # JupyterLab draws an error as it draws the error stream
        return self.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').filter(
            has_text="Traceback (most recent call last)").count()

    def said(self, index): return self.cells.nth(index).locator(".jp-OutputArea-output").all_inner_texts()

    def write(self, index, code):
        editor = self.cells.nth(index).locator(".cm-content")
        editor.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(code)
        assert "\n".join(s.rstrip() for s in editor.inner_text().split("\n")).strip() == "\n".join(s.rstrip()
            for s in code.split("\n")).strip(), "the editor holds something else than was typed"
        self.page.keyboard.press("Shift+Enter")
        self.idle()

    def sliders(self):   # -> number of sliders that changed their picture
        moved = 0
        for handle in self.page.locator(".jp-OutputArea .noUi-handle").all():
            picture = (handle.locator("xpath=ancestor::div[contains(concat(' ', @class, ' '), ' widget-interact ')]")
                       .locator("img").last)
            handle.scroll_into_view_if_needed()
            picture.wait_for(timeout=20_000)
            before = picture.get_attribute("src")
            handle.focus()
            for key in ("ArrowRight",) * 3 + ("ArrowLeft",) * 5:
                handle.press(key)
                self.page.wait_for_timeout(600)
                self.idle()
                if picture.get_attribute("src") != before: moved += 1; break
            else: raise AssertionError("a slider was moved and its picture did not change")
        return moved


def place(source):
    "Where a page lies in the folder that JupyterLab shows: a chapter as in nbs/, a sheet at the top."
    return source.name if source.parent == SHEETS else source.relative_to(NBS).as_posix()


def name_of(source): return place(source).removesuffix(".ipynb")


def work_through(page, address, source, shots):
    "One sheet from top to bottom; returns a line about it."
    student, start = load(SHEETS / "student" / source.name), time.time()
    sheet, todo = Sheet(page, address(place(source)), len(student["cells"])), exercises(load(source), source.name)
    solutions = {number: "\n".join(s for s in text(load(source)["cells"][i]).splitlines()
                                   if not re.match(r"\s*### (BEGIN|END) SOLUTION", s)) for i, number in todo.items()}
    places = {m[1]: i for i, c in enumerate(student["cells"]) if c["cell_type"] == "code"
              and (m := re.fullmatch(r'check\("(\d+\.\d+)", \w+\)', text(c).strip()))}
    assert places.keys() == solutions.keys() and places, "the students' copy has other exercises than the source"
    sheet.menu("Run All Cells")
    for number, check in places.items():
        stub = next(i for i in range(check - 1, -1, -1) if student["cells"][i]["cell_type"] == "code")
        message = " ".join(sheet.said(check))
        assert "is not written yet" in message and "Traceback" not in message, (
            f"{number}: expected a message that helps, found {message!r}")
        sheet.cells.nth(check).scroll_into_view_if_needed()
        if shots and number.endswith(".1"): page.screenshot(path=shots / f"{source.stem}-stub.png")
        sheet.write(stub, solutions[number])
        sheet.page.keyboard.press("Shift+Enter")      # the check, which is now selected
        sheet.idle()
        assert f"{number} passed" in " ".join(sheet.said(check)), (
            f"{number}: the solution was typed in, and the check says {sheet.said(check)}")
        sheet.menu("Run Selected Cell and All Below")
    return (f"{len(places)} stubs failed with help, {len(places)} solutions passed, "
            f"{at_the_end(sheet, source, shots)}, {time.time() - start:.0f} s")


def read_chapter(page, address, source, shots):
    "One chapter, run from top to bottom; returns a line about it."
    cells, start = load(source)["cells"], time.time()
    chapter = Sheet(page, address(place(source)), len(cells))
    chapter.menu("Run All Cells")
    code = [i for i, c in enumerate(cells) if c["cell_type"] == "code" and text(c).strip()]
    def late(): return [i for i in code if not re.fullmatch(r"\[\d+\]:", chapter.prompt(i))]
    # between two cells the kernel is idle too, and a busy browser may show it for long
    while late() and not chapter.errors() and time.time() - start < 300: page.wait_for_timeout(1000)
    assert not late(), f"cells {late()} were not run in {time.time() - start:.0f} s"
    chapter.idle()
    return f"{len(code)} cells ran, {at_the_end(chapter, source, shots)}, {time.time() - start:.0f} s"


def trial(page, address, folder):
    "An error is noticed: without this, `at_the_end` could be blind and nobody would know."
    cell = dict(cell_type="code", id="wrong", metadata={}, source=["1/0"], outputs=[], execution_count=None)
    kernel = dict(name="python3", display_name="Python 3", language="python")
    (folder / "wrong.ipynb").write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4,
                                                        nbformat_minor=5)))
    sheet = Sheet(page, address("wrong.ipynb"), 1)
    sheet.menu("Run All Cells")
    assert sheet.errors() == 1, "a cell divided by zero, and no error was seen"


def at_the_end(sheet, source, shots):
    "No error is left, and every slider changes its picture."
    moved = sheet.sliders()
    errors = sheet.errors()
    assert moved and not errors, f"{moved} sliders, {errors} errors left"
    if shots: sheet.page.screenshot(path=shots / f"{source.stem}-done.png")
    return f"{moved} sliders moved their pictures"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="sheets and chapters, such as 2_losses 07_geiim longtail/losses; all "
                                            "without any")
    p.add_argument("--shots", type=Path, help="folder for photographs")
    p.add_argument("--chromium", help="the browser's program; without it, Playwright's own")
    p.add_argument("--server", default=sys.executable, help="the Python that has JupyterLab and micacl")
    args = p.parse_args()
    from playwright.sync_api import sync_playwright
    chapters = [p for p in notebooks() if any(re.search(r"(?m)^(@?interact\()", text(c))
                                              for c in load(p)["cells"] if c["cell_type"] == "code")]
    wanted = [(p, f) for some, f in ((sources(), work_through), (chapters, read_chapter)) for p in some
              if not args.names or name_of(p) in args.names]
    if unknown := set(args.names) - {name_of(p) for p, _ in wanted}:
        sys.exit(f"lab_browser: no sheet and no chapter with sliders: {', '.join(sorted(unknown))}")
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as pw:
        folder = Path(tmp) / "nbs"      # chapters read ../results
        folder.mkdir()
        shutil.copytree(ROOT / "results", Path(tmp) / "results")
        for s, f in wanted:
            (folder / place(s)).parent.mkdir(exist_ok=True)
            shutil.copy(SHEETS / "student" / s.name if f is work_through else s, folder / place(s))
        browser = pw.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        with server(str(ROOT / args.server) if (ROOT / args.server).exists() else args.server, folder) as address:
            trial(browser.new_page(), address, folder)
            for s, f in wanted:
                page, problems = browser.new_page(viewport=dict(width=1280, height=1400)), []
                page.on("pageerror", lambda e, to=problems: to.append(str(e)[:200]))
                print(f"{name_of(s)}: {f(page, address, s, args.shots)}", flush=True)
                assert not problems, problems
                page.close()
        browser.close()


if __name__ == "__main__": main()
