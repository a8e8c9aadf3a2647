"""Run the pages of the book in a real Jupyter kernel, two at a time (--jobs), and say how long each took.

    python tools/pages.py                     # the front page, the spine, the parts, the solutions of the exercises;
                                              # tools/lab.py runs the lab's
    python tools/pages.py --save              # also keep the outputs, for readers who do not run anything
    python tools/pages.py --times             # also write the seconds into results/pages.json, for tools/minutes.py
    python tools/pages.py nbs/07_geiim.ipynb  # only these

A page that fails fails the command.
"""
import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from forked_kernels import forked_kernels
from sitekit.book import NBS, ROOT, notebooks
from sitekit.exercises import solutions

LIMIT = 120    # seconds a page may take on 2 cores
TIMES = ROOT / "results" / "pages.json"


def shrink(nb, least=60_000):
    "Pictures above `least` bytes (base64) are kept with 256 colours: the book stays small enough to clone."
    import base64
    import io
    from PIL import Image
    for data in (o["data"] for c in nb.cells if c.cell_type == "code" for o in c.outputs
                 if "image/png" in o.get("data", {})):
        if len(data["image/png"]) < least: continue
        small = io.BytesIO()
        Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB").quantize(256,
            method=Image.Quantize.MEDIANCUT).save(small, "PNG", optimize=True)
        if small.tell() < len(data["image/png"]) * 3 / 4:
            data["image/png"] = base64.b64encode(small.getvalue()).decode() + "\n"


def _is_widget(output): return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def run(path, save):
    "Execute one notebook; returns its name, its seconds and an error text or None."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    nb, start, error = nbformat.read(path, 4), time.time(), None
    skipped = [c for c in nb.cells if c.cell_type == "code"
               and any(s.replace(" ", "") == "#|eval:false" for s in c.source.splitlines())]
    for c in skipped: c.metadata.tags = ["skip-execution"]
    client = NotebookClient(nb, timeout=600, kernel_name="python3", extra_arguments=["--log-level=ERROR"],
                            resources={"metadata": {"path": str(path.parent)}})
    # nbclient plays the part of a browser for the picture inside `interact`, and answers the kernel in the middle of
    # waiting for it: now and then
    # the wake-up is lost, and a finished cell waits for its whole timeout (jupyter/nbclient issue 312). Nobody here
    # needs that picture.
    client.comm_open_handlers["jupyter.widget"] = lambda message: None
    try: client.execute()
    except CellExecutionError as e: error = str(e)
    for c in nb.cells:      # a widget's first picture stands in the cell before it already
        if c.cell_type == "code" and any(_is_widget(o) for o in c.outputs):
            c.outputs = [o for o in c.outputs if _is_widget(o) or o.output_type == "error"]
    for c in nb.cells:      # of a quiz its text is kept; the buttons are for a running notebook
        if c.cell_type != "code": continue
        c.outputs = [o for o in c.outputs if "application/javascript" not in o.get("data", {})]
        for data in (o.get("data", {}) for o in c.outputs):
            if "text/markdown" in data and "data-shufflequestions" in data.get("text/html", ""): del data["text/html"]
    for c in skipped: c.metadata.pop("tags", None)
    if save and not error:
        nb.metadata.pop("widgets", None)
        shrink(nb)
        nbformat.write(nb, path)
    return path, time.time() - start, error


def keep_times(seconds, command):
    "Write what pages took, {path: seconds}, beside what is known of the others."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import commit, machine
    now, here = commit(parts=("micacl", "nbs")), machine()
    before = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else dict(machine=here, pages={})
    same = all(before["machine"].get(k) == here.get(k) for k in ("processor", "cpu_cores"))
    other = {} if same else dict(machine=here)      # a time that is not of the file's machine says of which
    pages = before["pages"] | {p.relative_to(ROOT).as_posix(): dict(seconds=round(s, 1), commit=now, **other)
                               for p, s in seconds.items()}
    there = {name: pages[name] for name in sorted(pages) if (ROOT / name).exists()}
    about = dict(command=command, commit=now, machine=here) if same else {k: before[k] for k in ("command", "commit",
                                                                                                 "machine")}
    TIMES.write_text(json.dumps(dict(about, pages=there), indent=1) + "\n", encoding="utf-8", newline="\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("notebooks", nargs="*", type=Path)
    p.add_argument("--save", action="store_true", help="write the outputs into the notebooks")
    p.add_argument("--times", action="store_true", help="write the seconds into results/pages.json")
    p.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="pages at a time (default: 2)")
    args = p.parse_args()
    pages = args.notebooks or [NBS / "index.ipynb", *notebooks(), *solutions()]
    # one thread each: two pages share two cores without getting into each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed, times = 0, {}
    # where seconds or outputs are kept, a page starts as a reader's does
    begin = None if args.times or args.save else forked_kernels
    with ProcessPoolExecutor(args.jobs, initializer=begin) as pool:
        for path, seconds, error in pool.map(run, [q.resolve() for q in pages], [args.save] * len(pages)):
            slow = seconds > LIMIT
            print(f"{'FAILED' if error else 'SLOW  ' if slow else 'ok    '} {seconds:6.1f} s  {path.relative_to(ROOT)}",
                  flush=True)
            if error: print(error, flush=True)
            failed += bool(error)
            if not error: times[path] = seconds
    if args.times: keep_times(times, f"python tools/pages.py --times --jobs {args.jobs}")
    if args.save:
        import subprocess
        subprocess.run([Path(sys.executable).with_name("nbdev-clean")], cwd=ROOT, check=True)
    print(f"pages: {len(pages) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__": main()
