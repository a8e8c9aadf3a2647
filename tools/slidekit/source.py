"""What the sessions of the plans consist of: pages, slides, sheets and minutes. Reads files, and needs nothing but
Python, so that the teacher's page can import it too."""
import ast
import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

NBS = Path(__file__).resolve().parents[2] / "nbs"
SOURCES = NBS / "teach" / "slides"
AROUND = 15     # minutes of a session for the questions of the last sheet, and for one pair's surprise at the end
HEAD = re.compile(r"^## (?P<title>.*?) \{(?P<minutes>\d+) min(?:, (?P<most>\d) pages?)?\}$")
EXERCISE = re.compile(r"^(\d+)\. \((\w+), (\d+) min\) (.*)$", re.M)
TASK = re.compile(r"^### Exercise ([\d.]+) (.*)\n+\*\((\w+), (\d+) min, (\d+) points?\)\*", re.M)


class SlidesError(ValueError):
    "A source asks for something that is not there."


@dataclass
class Slide:
    title: str                          # markdown
    lines: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    minutes: int = 0
    most: int = 9                       # shown in sessions of at most so many pages


@dataclass
class Source:
    page: str                           # "06_pooling"
    slides: list = field(default_factory=list)
    discuss: Slide = None
    exercises: list = field(default_factory=list)      # for class, where the session has no sheet
    alone: list = field(default_factory=list)          # these too, where it has no other page


def plans():
    "{number of sessions: [(title, pages, sheet)]}, as the teacher's page has them."
    cells = json.loads((NBS / "teach" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next(s for c in cells if (s := "".join(c["source"])) and re.search(r"^PLANS = ", s, re.M))
    tree = next(n for n in ast.parse(source).body if isinstance(n, ast.Assign) and n.targets[0].id == "PLANS")
    return ast.literal_eval(tree.value)


def source_of(page): return SOURCES / f"{page}.md"


def read_source(page):
    "nbs/teach/slides/PAGE.md as slides."
    path, found, slide, notes = source_of(page), Source(page), None, False
    for k, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if m := re.match(r"exercises: ([\d ]+)(?:, alone ([\d ]+))?$", line):
            found.exercises, found.alone = ([int(x) for x in (part or "").split()] for part in m.groups())
        elif line == "# Discuss": slide, notes = Slide("Questions to discuss"), False; found.discuss = slide
        elif line.startswith("#"):
            m = HEAD.match(line)
            if not m: raise SlidesError(f"{path.name}, line {k}: expected '## Title {{2 min}}', found {line!r}")
            slide, notes = Slide(m["title"], minutes=int(m["minutes"]), most=int(m["most"] or 9)), False
            found.slides.append(slide)
        elif line == "???": notes = True
        elif slide: (slide.notes if notes else slide.lines).append(line)
        elif line.strip(): raise SlidesError(f"{path.name}, line {k}: expected a slide first, found {line!r}")
    if found.discuss is None: raise SlidesError(f"{path.name}: expected a last section '# Discuss', found none")
    return found


@functools.lru_cache(None)
def words(page):
    "The markdown of a page, or of a sheet."
    cells = json.loads((NBS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def title_of(page): return re.search(r"^# (.*)", words(page), re.M)[1]


def reading(page): return int(re.search(r"\*Minutes:?\*:?\s*(?:about\s*)?(\d+)", words(page))[1])


def deck_of(pages, sheet):
    "The file of a deck; sessions with the same pages and the same sheet share it."
    names = [re.sub(r"^\d+_", "", p.split("/")[-1]) for p in pages]
    return "-".join([*names, *([f"sheet{sheet[0]}"] if sheet else [])]) + ".html"


def in_class(pages, sheet, sources):
    "Minutes, lines and notes of the slide about the lab sheet, or about the exercises that the sources choose."
    if sheet:
        text = words(f"lab/{sheet}")
        tasks = TASK.findall(text)
        rows = [f"| {n} | {name} | {level} | {m} min | {p} |" for n, name, level, m, p in tasks]
        notes = [t.strip() + "\n" for t in re.findall(r"^<!-- instructor -->(.*?)(?=\n\n#|\n\n<!--|\Z)", text,
                                                        re.S | re.M)]
        minutes = sum(int(m) for *_, m, _ in tasks)
        table = ["| | exercise | level | time | points |", "|--|--|--|--|--|", *rows]
        return minutes, [f"`nbs/lab/student/{sheet}.ipynb`", "", *table, "",
                         "Wait five minutes before you open the first hint."], notes
    lines, minutes = [], 0
    for page, source in zip(pages, sources):
        there = {int(n): (level, m, t) for n, level, m, t in EXERCISE.findall(words(page))}
        for n in sorted(source.exercises + (source.alone if len(pages) == 1 else [])):
            if n not in there: raise SlidesError(f"slides of {page}: the page has no exercise {n}")
            level, m, t = there[n]
            minutes += int(m)
            lines.append(f"- **{title_of(page)} {n}** ({level}, {m} min) {t}")
    return minutes, lines, ["The solutions stand on the site under each exercise, and in `nbs/solutions`."]


def minutes(pages, sheet):
    "{read, talk, lab, class}: minutes of a session; read is before it."
    sources = [read_source(p) for p in pages]
    talk = sum(s.minutes for source in sources for s in source.slides if len(pages) <= s.most)
    lab, *_ = in_class(pages, sheet, sources)
    return dict(read=sum(map(reading, pages)), talk=talk, lab=lab, total=AROUND + talk + lab)
