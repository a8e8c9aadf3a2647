"""The minutes that a page states: for reading, for running and for its exercises. Nobody guesses them.

    python tools/minutes.py            # what the pages say, and what they should say
    python tools/minutes.py --write    # write it into them

Reading: 200 words and 10 lines of code a minute; from ten minutes on in steps of five. Running: the seconds in
results/pages.json, which `python tools/pages.py --times` measures, in whole minutes. Exercises: the sum of their own
minutes. A page that opens a part states its reading minutes, or those of the part, and those of each page it links to.
"""
import argparse
import json
import math
import re

from pages import TIMES
from sitekit.book import MINUTES, ROOT, notebooks, part
from sitekit.exercises import SECTION, exercises

WORDS, LINES = 200, 10      # read in a minute
HIDDEN = re.compile(r"^#\|\s*(?:hide\s*$|default_exp|include:\s*false)", re.M)
LISTED = re.compile(r"(?P<link>\]\((?P<name>\w+)\.ipynb\).*, )\d+ minutes\.")    # a line of an opening page
WHOLE = " for the whole part"


def source(cell): return "".join(cell["source"])
def read(path): return json.loads(path.read_text(encoding="utf-8"))
def prose(cells): return "\n\n".join(source(c) for c in cells if c["cell_type"] == "markdown")


def words(markdown):
    "How many words there are to read; an equation counts as one, addresses and the minutes themselves as none."
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " x ", MINUTES.sub("", markdown), flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>\n]+>|^\|[-:| ]+\|$", r"\1", text, flags=re.M)
    return len(re.findall(r"[\w'’-]+", text))


def lines(cell):
    "How many lines of code there are to read in a cell: no blank ones, no comments alone."
    if cell["cell_type"] != "code" or HIDDEN.search(source(cell)): return 0
    return sum(bool(s.strip()) and not s.strip().startswith("#") for s in source(cell).splitlines())


def fives(minutes): return math.ceil(minutes) if minutes <= 9 else 5 * math.ceil(minutes / 5)


def reading(cells): return fives(words(SECTION.sub("", prose(cells))) / WORDS + sum(map(lines, cells)) / LINES)


def stated(path, seconds):
    "The words that belong behind *Minutes:*."
    cells = read(path)["cells"]
    if path.stem != "index": return (f"{reading(cells)} to read, {max(1, math.ceil(seconds / 60))} to run, "
                                     f"{sum(e.minutes for e in exercises(prose(cells)))} for the exercises")
    if WHOLE in prose(cells): return f"{fives(sum(reading(read(p)['cells']) for p in part(path.parent)))}{WHOLE}"
    return str(reading(cells))


def corrected(path, seconds):
    "The notebook as it should be."
    notebook, done = read(path), False
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown": continue
        text = source(cell)
        if path.stem == "index": text = LISTED.sub(
            lambda m: f"{m['link']}{reading(read(path.with_name(m['name'] + '.ipynb'))['cells'])} minutes.", text)
        if not done and (found := MINUTES.search(text)):
            done = True
            end = found.end() + len(WHOLE) * text[found.end():].startswith(WHOLE)
            text = f"{text[:found.start()]}*Minutes:* {stated(path, seconds)}{text[end:]}"
        cell["source"] = text.splitlines(keepends=True)
    if not done: raise ValueError(f"{path}: expected a line *Minutes:* N in the opening cell, found none")
    return notebook


def seconds_of():
    "{page: seconds}, as measured."
    return {name: m["seconds"] for name, m in json.loads(TIMES.read_text(encoding="utf-8"))["pages"].items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", action="store_true", help="write the minutes into the pages")
    args = p.parse_args()
    took = seconds_of()
    for path in notebooks():
        name = path.relative_to(ROOT).as_posix()
        if name not in took: p.exit(1, f"minutes: {name} was not measured; run python tools/pages.py --times {name}\n")
        old, new = read(path), corrected(path, took[name])
        said = [MINUTES.search(prose(n["cells"]))[0].removeprefix("*Minutes:*").strip() for n in (old, new)]
        print(f"{name:34} {said[1]}{'' if said[0] == said[1] else f'      was {said[0]}'}")
        if args.write and new != old:
            path.write_text(json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8",
                            newline="\n")


if __name__ == "__main__": main()
