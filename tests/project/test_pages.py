"""Every page of the book keeps the same promises: how it opens and closes, Colab, a question before an answer, words
for every picture.

The notebooks are read as JSON; nothing is run but the Colab cell, in a shell in which `git` and `pip` only write down
what they were asked."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from sitekit.book import MINUTES, NBS, PARTS, notebooks, sources
from sitekit.exercises import solutions

ROOT = Path(__file__).parents[2]
name_of = lambda p: p.relative_to(NBS).with_suffix("").as_posix()      # 07_geiim, longtail/losses
PAGES = [p for p in notebooks() if p.stem != "index"]
OPENINGS = [p for p in notebooks() if p.stem == "index"]
SHEETS = sources()
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_notebook = pytest.mark.parametrize("page", [*PAGES, *solutions()], ids=name_of)

SETUP = '''#| hide
import sys
if "google.colab" in sys.modules:   # in Colab: fetch the book and install what its pages need
    !git clone -q --depth 1 https://github.com/micacl/micacl /content/micacl
    %cd -q /content/micacl/{}
    %pip install -q -e "{}[notebooks]"
    sys.path.insert(0, "/content/micacl")'''
def setup(page):
    "The set-up cell of a page: from its own folder."
    folder = page.parent.relative_to(ROOT)
    return SETUP.format(folder.as_posix(), "/".join([".."] * len(folder.parts)))


BADGE = ("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
         "(https://colab.research.google.com/github/micacl/micacl/blob/main/nbs/{}.ipynb)")
QUESTION = re.compile(r"\*\*Predict before you run\.?\*\*")


def source(cell): return "".join(cell["source"])
def text_of(x): return "".join(x) if isinstance(x, list) else x
def cells(page, kind=None):
    return [c for c in json.loads(page.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]
def prose(page): return "\n\n".join(source(c) for c in cells(page, "markdown"))
def outputs(cell): return [o.get("data", {}) for o in cell.get("outputs", [])]
def exported(cell): return bool(re.search(r"^#\| ?export", source(cell), re.M))


def directives(cell):
    "The `#|` lines at the top of a code cell."
    lines = source(cell).splitlines()
    return lines[:next((i for i, s in enumerate(lines) if not s.startswith("#|")), len(lines))]


def has_picture(cell):
    "Whether the saved output is something to look at: an image, a widget, or HTML with a drawing in it."
    for data in outputs(cell):
        if any(k.startswith(("image/", "video/")) or "widget-view" in k for k in data): return True
        if re.search(r"<(img|svg|video|canvas)\b", text_of(data.get("text/html", ""))): return True
    return False


@each_page
def test_opens_with_what_a_reader_needs_to_know(page):
    first, *_ = cells(page)
    assert first["cell_type"] == "markdown"
    lines = [s for s in source(first).splitlines() if s.strip()]
    assert lines[0].startswith("# ") and lines[1].startswith("> ") and len(lines[1]) > 20
    assert lines[2] == BADGE.format(name_of(page)), ("the Colab badge belongs right under the `>` line, with this "
                                                     "page's own address")
    assert re.search(r"\*\*Objectives\.?\*\*", source(first)) and len(re.findall(r"^- ", source(first), re.M)) >= 3
    assert re.search(r"\*Prerequisites:?\*", source(first)) and MINUTES.search(source(first))


@each_page
def test_second_cell_makes_it_run_in_colab(page):
    assert [c["cell_type"] for c in cells(page)[:2]] == ["markdown", "code"]
    assert source(cells(page)[1]) == setup(page)


# --- the order
def prerequisites(page):
    "The pages that a page names as its prerequisites; None without such a line. Links out of the book are left out."
    line = re.search(r"\*Prerequisites:?\*(.*?)(?=\*Minutes|\n\n|\Z)", source(cells(page)[0]), re.S)
    if not line: return None
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]+\.ipynb)", line[1])
    return [(page.parent / x).resolve() for x in links]


@pytest.mark.parametrize("page", [*PAGES, *OPENINGS, *SHEETS], ids=name_of)
def test_prerequisites_come_before(page):
    "By number in the spine, which never sends a reader to a part; then part by part as the opening pages have it."
    order, needs = [*notebooks(), *SHEETS], prerequisites(page)
    if page in OPENINGS and needs is None: return
    assert needs is not None, "expected a line *Prerequisites:*"
    assert needs or page in (order[0], *OPENINGS, *SHEETS), "the *Prerequisites:* line links to no page"
    for other in needs:
        assert other in order, f"{other} is no page of the book"
        assert page.parent != NBS or other.parent == NBS, f"a page of the spine asks for {name_of(other)}, of a part"
        assert order.index(other) < order.index(page), f"{name_of(other)} comes later"


@pytest.mark.parametrize("page", OPENINGS, ids=name_of)
def test_the_opening_page_of_a_part_is_a_table_of_contents(page):
    text, (first, *_) = prose(page), cells(page)
    lines = [s for s in source(first).splitlines() if s.strip()]
    assert lines[0].startswith("# ") and lines[1].startswith("> ") and len(lines[1]) > 20
    assert MINUTES.search(text)
    for p in page.parent.glob("*.ipynb"):       # a sentence with each link, on its line
        if p == page: continue
        found = re.findall(rf"(?m)^.*\]\({re.escape(p.name)}[)#].*$", text)
        assert found, f"no link to {p.name}"
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", "", max(found, key=len))
        assert len(re.findall(r"\w+", words)) >= 4, f"expected a sentence with the link to {p.name}"


def test_every_part_has_an_opening_page():
    assert [p.parent.name for p in OPENINGS] == list(PARTS)


@each_notebook
def test_every_picture_has_words(page):
    code = cells(page, "code")
    assert any(c["outputs"] for c in code), "no saved outputs: python tools/pages.py --save " + page.name
    for c in filter(has_picture, code):
        alt = [s for s in directives(c) if s.startswith("#| fig-alt:")]
        assert len(alt) == 1, f"expected one `#| fig-alt:` line at the top of the cell that begins\n{source(c)[:200]}"
        assert 60 <= len(alt[0].removeprefix("#| fig-alt:").strip()) <= 300, alt[0]
    for c in code:
        assert source(c).count("#| fig-alt:") == len([s for s in directives(c) if s.startswith("#| fig-alt:")]), (
            "fig-alt below the first line of code is not read")


@each_notebook
def test_outputs_name_no_folder_of_the_machine_that_ran_it(page):
    text = "\n".join(text_of(o.get("text", "")) + text_of(o.get("data", {}).get("text/plain", ""))
                     + text_of(o.get("data", {}).get("text/html", "")) for c in cells(page, "code")
                     for o in c["outputs"])
    assert not re.search(r"(?<![\w.:/])/(?:tmp|work|root|home/(?!x/|someone/))\w*/", text)


@each_notebook
def test_no_two_pictures_share_their_words(page):
    alts = re.findall(r"^#\| fig-alt:(.*)", "\n".join(source(c) for c in cells(page, "code")), re.M)
    assert len(alts) == len(set(alts))


@each_notebook
def test_images_in_text_and_html_have_words(page):
    html = [text_of(d.get("text/html", "")) for c in cells(page, "code") for d in outputs(c)]
    text = re.sub(r"```.*?```|`[^`\n]*`", "", prose(page), flags=re.S)        # tags that are only talked about
    assert not re.search(r"!\[\s*\]\(", text)
    for tag in re.findall(r"<img\b[^>]*>", "\n".join([text, *html])): assert re.search(r'\balt="[^"]+"', tag), tag[:80]
    for tag in re.findall(r"<svg\b[^>]*>", "\n".join(html)): assert re.search(r'\baria-label="[^"]+"', tag), tag[:80]


@each_page
def test_asks_before_it_answers(page):
    all_cells = cells(page)
    asked = [i for i, c in enumerate(all_cells) if c["cell_type"] == "markdown" and QUESTION.search(source(c))]
    assert asked, "expected a **Predict before you run.** question"
    for i in asked:
        question, answer = source(all_cells[i]).rstrip().split("\n\n")[-1], all_cells[i + 1]
        assert QUESTION.match(question), "the question belongs at the end of its cell, directly before the code"
        assert "?" in question and 60 <= len(question) <= 500
        assert answer["cell_type"] == "code" and not exported(answer), "the next cell has to show the answer"
        assert answer["outputs"] or re.search(r"\bassert |\btest_\w+\(|\bexpect_fail\(", source(answer)), (
            "the next cell shows nothing")


@each_page
def test_closes_with_a_summary_and_what_differs(page):
    last = [re.search(r"^(?:\*\*|#+ )" + title, prose(page), re.M)
            for title in ("Summary", "Exercises", "Where (?:this|it) differs")]
    assert all(last), "expected a summary, exercises and a section on where this differs"
    assert [m.start() for m in last] == sorted(m.start() for m in last)


@each_page
def test_widgets_have_a_picture_for_those_who_only_read(page):
    code = cells(page, "code")
    for i, c in enumerate(code):
        if re.search(r"\binteract\(", source(c)) and not exported(c):
            assert any(map(has_picture, code[max(i - 2, 0):i])), f"draw the figure once before\n{source(c)[:200]}"


SHELL = '''
import json, os, sys, types
from pathlib import Path
from urllib.parse import unquote
if sys.argv[2] == "colab": sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
path, done = list(sys.path), InteractiveShell.instance().run_cell(Path(sys.argv[1]).read_text())
done.raise_error()
print("SEEN", json.dumps(dict(cwd=os.getcwd(), added=[p for p in sys.path if p not in path],
                              micacl=__import__("micacl").__file__)))
'''
RECORD = '''
import json, os, sys
name = "pip" if sys.argv[0].endswith("__main__.py") else "git"
with open(os.environ["ASKED"], "a") as f: f.write(json.dumps([name, sys.argv[1:], os.getcwd()]) + "\\n")
if name == "git":      # what a clone would have left
    root = sys.argv[-1]
    for d in ("nbs/longtail", "micacl"): os.makedirs(os.path.join(root, d))
    open(os.path.join(root, "micacl", "__init__.py"), "w").close()
'''


def run_setup(tmp_path, where, page=NBS / "07_geiim.ipynb"):
    """Run the cell in a shell that starts in an empty folder -> what git and pip were asked, what the shell saw,
    /content there."""
    content, start, fake = (tmp_path / d for d in ("content", "start", "fake"))
    for d in (content, start, fake / "pip"): d.mkdir(parents=True)
    (tmp_path / "cell.py").write_text(setup(page).replace("/content", str(content)))
    (tmp_path / "shell.py").write_text(SHELL)
    (fake / "pip" / "__init__.py").write_text("")
    (fake / "pip" / "__main__.py").write_text(RECORD)
    (fake / "git").write_text(f"#!{sys.executable}\n{RECORD}"); (fake / "git").chmod(0o755)
    env = dict(os.environ, PATH=f"{fake}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(fake),
               ASKED=str(tmp_path / "asked"), IPYTHONDIR=str(tmp_path / "ipython"))
    done = subprocess.run([sys.executable, tmp_path / "shell.py", tmp_path / "cell.py", where], cwd=start, env=env,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    return [json.loads(s) for s in asked], json.loads(done.stdout.split("SEEN ")[1]), content, start


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for git is a script with a shebang")
@pytest.mark.parametrize("name, root", [("07_geiim", ".."), ("longtail/losses", "../..")])
def test_in_colab_the_book_is_fetched_and_installed(tmp_path, name, root):
    asked, seen, content, start = run_setup(tmp_path, "colab", page := NBS / f"{name}.ipynb")
    clone = str(content / "micacl")
    folder = f"{clone}/{page.parent.relative_to(ROOT).as_posix()}"
    assert asked == [["git", ["clone", "-q", "--depth", "1", "https://github.com/micacl/micacl", clone], str(start)],
                     ["pip", ["install", "-q", "-e", f"{root}[notebooks]"], folder]]      # from within
    assert os.path.samefile(os.path.join(folder, root), clone)
    assert seen["cwd"] == folder and seen["added"] == [clone]
    assert seen["micacl"] == f"{clone}/micacl/__init__.py"        # importable at once: no restart of the kernel


def test_outside_colab_nothing_happens(tmp_path):
    asked, seen, content, start = run_setup(tmp_path, "elsewhere")
    assert asked == [] and seen["added"] == [] and seen["cwd"] == str(start) and not any(content.iterdir())


def test_the_setup_cell_names_what_exists():
    from nbdev.config import get_config
    c = get_config(ROOT)
    assert (c.git_url == re.search(r"clone .* (https\S+) ", SETUP)[1]
            and BADGE.format("X").endswith(f"{c.user}/{c.repo}/blob/{c.branch}/nbs/X.ipynb)"))
    assert re.search(r"^notebooks_requirements *=", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)
    # cloned to .../micacl, with nbs/ and the package in it
    assert (ROOT / "nbs").is_dir() and (ROOT / "micacl" / "__init__.py").is_file()


def words_of(page):   # -> the texts of its Markdown cells
    return ["".join(c["source"]) for c in json.loads(page.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "markdown"]


@pytest.mark.parametrize("page", [*notebooks(), *solutions()], ids=name_of)
def test_anchors_lead_to_headings_in_jupyter_too(page):
    "JupyterLab and Colab name a heading by its words, as they are written; the site also takes small letters."
    link = r"\]\(([^()\s#]*\.ipynb)?#((?:[^()\s]|\([^()]*\))+)\)"
    for other, anchor in (found for text in words_of(page) for found in re.findall(link, text)):
        target = (page.parent / other).resolve() if other else page
        headings = {h.strip().replace(" ", "-") for text in words_of(target)
                    for h in re.findall(r"^#+ (.*)$", text, re.M)}
        assert unquote(anchor) in headings, (other, anchor)


@pytest.mark.parametrize("page", SHEETS, ids=name_of)
def test_words_of_a_sheet_s_pictures_are_as_short_as_elsewhere(page):
    for c in cells(page, "code"):
        for alt in (s.removeprefix("#| fig-alt:").strip() for s in directives(c) if s.startswith("#| fig-alt:")):
            assert 60 <= len(alt) <= 300, alt
