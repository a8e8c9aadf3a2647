"""Exercises of a page, read from its markdown, and their solutions, which are in nbs/solutions/ in a notebook of the
same name."""
import re
from dataclasses import dataclass, replace

from .book import NBS

SECTION = re.compile(r"^(?:\*\*Exercises\.?\*\*\.?|#+ Exercises)\s*$(.*?)(?=^\*\*|^#+ |\Z)", re.M | re.S)
STATED = re.compile(r"\((easy|medium|hard), (\d+) min\) ")
HEADING = re.compile(r"\A## Exercise (\d+)\s*\n\s*((?:^>.*\n?)+)", re.M)       # and the exercise itself, as a quotation


@dataclass
class Exercise:
    number: int
    difficulty: str     # easy, medium, hard; empty where it is not stated
    minutes: int        # 0 where they are not stated
    text: str           # in one line


def exercise(number, source):
    "`(easy, 5 min) What is ...` -> its parts."
    line = " ".join(source.split())
    stated = STATED.match(line)
    return Exercise(int(number), stated[1], int(stated[2]), line[stated.end():]) if stated \
        else Exercise(int(number), "", 0, line)


def exercises(markdown):
    "The numbered exercises of a page."
    section = SECTION.search(markdown)
    items = re.split(r"^(\d+)\. ", section[1], flags=re.M)[1:] if section else []
    return [exercise(n, source) for n, source in zip(items[::2], items[1::2])]


def solution_of(page): return page.parent / "solutions" / page.name


def solutions(nbs=NBS):
    "The notebooks with solutions; they are pages of nothing, and stand in no reading order."
    return sorted((nbs / "solutions").glob("*.ipynb"))


def answers(cells):
    "Cells (with `source` and `kind`) of a notebook with solutions -> [(exercise, cells of its answer)]."
    out = []
    for cell in cells:
        found = HEADING.match(cell.source) if cell.kind == "markdown" else None
        if found:
            out.append((exercise(found[1], re.sub(r"^>", "", found[2], flags=re.M)), []))
            cell = replace(cell, source=cell.source[found.end():].strip())
        if out and cell.source: out[-1][1].append(cell)
    return out
