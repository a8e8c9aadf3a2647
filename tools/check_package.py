"""Look into the built package and use it as a newcomer would; called by tools/check.py.

    python tools/check_package.py files WHEEL SDIST   # what is in them, and what must not be
    python tools/check_package.py use PAGE.ipynb      # run in an empty folder by an environment that has only the wheel
    python tools/check_package.py speed               # how long importing and asking for help take there
"""
import json
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def files(wheel, sdist):
    names = zipfile.ZipFile(wheel).namelist()
    need = ["micacl/core.py", "micacl/models.py", "micacl/cli.py", "micacl/py.typed",
            "micacl/nn/weights/__init__.py", "micacl/nn/weights/r3d_small.safetensors",
            "micacl/nn/weights/r3d_small.md", "micacl/nn/weights/res_faces.safetensors",
            "micacl/nn/weights/res_faces.md", "micacl/nn/weights/synfew/config.json",
            "micacl/nn/weights/synfew/model.safetensors", "micacl/nn/weights/drawn/config.json",
            "micacl/nn/weights/drawn/model.safetensors", "micacl/show/templates/report.html",
            "micacl/show/templates/page.css"]
    missing = [n for n in need if n not in names]
    strange = [n for n in names if not n.startswith("micacl") or n.endswith(".ipynb")]
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    assert not missing and not strange, f"wheel: missing {missing}, unexpected {strange}"
    assert "micacl=micacl.cli:main" in zipfile.ZipFile(wheel).read(entry).decode().replace(" ", "")
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("/METADATA"))).decode()
    links, of_readme = (re.findall(r"\]\(([^)\s]+)\)", text) for text in (metadata, README.read_text(encoding="utf-8")))
    nowhere = [u for u in links if not u.startswith("https://")]
    assert len(links) == len(of_readme) > 0 and not nowhere, f"README on PyPI: links that lead nowhere: {nowhere}"
    source = ["/".join(n.split("/")[1:]) for n in tarfile.open(sdist).getnames()]
    assert ("settings.ini" in source and "LICENSE" in source and "README.md" in source
            and not [n for n in source if n.endswith(".ipynb")])
    print(f"package: {len(names)} files in the wheel, {len(source)} in the sdist, no notebooks")


def use(page):
    cells = json.loads(Path(page).read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    code = [s for s in code if not s.startswith("#| hide")]
    assert len(code) > 1, f"{page}: expected examples in Python, found none"
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True)
    import micacl
    assert Path.cwd() not in Path(micacl.__file__).parents
    command = Path(sys.executable).with_name("micacl")
    for args in (["--version"], ["synfew", "tiny", "--train", "14", "--test", "7", "--frames", "8"], ["check", "tiny"],
                 ["train", "tiny", "--out", "run", "--epochs", "1"], ["evaluate", "run", "tiny"]):
        subprocess.run([str(command), *args], check=True)
    assert Path("run/results.json").exists() and Path("run/report.html").exists()
    print(f"package: the examples of {Path(page).name} and the commands work from the wheel")


IMPORTS = """
import time
spent = []
def took(): spent.append(time.process_time())
import torch
took()
import micacl.longtail
took()
import micacl.models
took()
import micacl.train.loop
took()
import micacl.show.report
took()
print(*spent)
"""


def speed():
    """The library, all of it together, adds less than two thirds to the time that torch takes, and the command answers
    within a second."""
    names, rounds, wait = ("longtail", "models", "train.loop", "show.report"), [], float("inf")
    for _ in range(3):      # the least of it: what else the machine does hardly counts
        done = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True)
        rounds.append([float(s) for s in done.stdout.split()])
        for _ in range(4):
            start = time.perf_counter()
            subprocess.run([str(Path(sys.executable).with_name("micacl")), "--help"], check=True, capture_output=True)
            wait = min(wait, time.perf_counter() - start)
    base, *steps = (min(r[0] for r in rounds), *(min(r[k + 1] - r[k] for r in rounds) for k in range(len(names))))
    said = ", ".join(f"micacl.{n} {s:.1f} s" for n, s in zip(names, steps))
    assert sum(steps) < 2 / 3 * base, (f"imports: expected below two thirds of the {base:.1f} s that torch takes, "
                                       f"found {sum(steps):.1f} s: {said}")
    assert wait < 1, f"micacl --help: expected an answer within a second, it took {wait:.2f} s"
    print(f"package: import of torch {base:.1f} s; on top of it {said}; micacl --help {wait:.2f} s")


if __name__ == "__main__": {"files": files, "use": use, "speed": speed}[sys.argv[1]](*sys.argv[2:])
