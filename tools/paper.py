"""The paper about the course: paper/paper.md from paper/paper.in.md, with figures from the repository.

    python tools/paper.py      # writes paper/paper.md

In the text stands {gain}; here stands where it comes from.
"""
import json
import re
from functools import cache

import numpy as np

from sitekit.book import MINUTES, NBS, ROOT, notebooks, sources
from sitekit.exercises import exercises

PAPER = ROOT / "paper"
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@cache
def results(name): return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def prose(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def word(n): return WORDS[n] if n < len(WORDS) else f"{n:,}"
def first(n): return word(n)[0].upper() + word(n)[1:]


def difference(name, a, b):
    "A paired difference in UAR with its interval, in points."
    found = next(c for c in results(name)["comparisons"] if (c["a"], c["b"]) == (a, b))["uar"]
    low, high = found["interval"]
    return f"{100 * found['difference']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def recall_by_skin(method="MICACL"):
    "Recall over six expressions of the darkest and of the lightest third, as nbs/teach/ethics.ipynb has it."
    from micacl.train.summaries import unpack_labels
    r = results("errors")
    y, clean, skin = (unpack_labels(r["clips"]["label"]), unpack_labels(r["clips"]["clean"]),
                      np.array(r["clips"]["skin"]))
    neutral = r["classes"].index("neutral")
    shows = (y == clean) & (y != neutral)
    third = np.searchsorted(np.quantile(skin[shows], [1 / 3, 2 / 3]), skin)
    right = np.mean([unpack_labels(s) == y for s in r["methods"][method]["predicted"]], 0)
    return [100 * np.mean([right[shows & (third == g) & (y == c)].mean() for c in range(7) if c != neutral])
            for g in (0, 2)]


def plans():
    "How many sessions the plans of nbs/teach have."
    found = re.findall(r"^ {4}(\d+): \[\(", "".join("".join(c["source"]) for c in json.loads(
        (NBS / "teach/index.ipynb").read_text(encoding="utf-8"))["cells"]), re.M)
    return f"{', '.join(found[:-1])} and {found[-1]}"


def facts():
    "{name in the text: its value}"
    pages = [p for p in notebooks() if p.stem != "index"]
    spine = [p for p in pages if p.parent == NBS]
    said = [MINUTES.search(prose(p)) for p in spine]
    asked = sum(len(re.findall(r"^- id:", p.read_text(encoding="utf-8"), re.M)) for p in NBS.glob("teach/quiz/*.yml"))
    dark, light = recall_by_skin()
    epochs, = {results(file)["spec"]["base"]["epochs"] for file in ("ablations", "bakeoff")}   # the text says them once
    return dict(
        spine=first(len(spine)), other_pages=first(len(pages) - len(spine)), sheets=first(len(sources())),
        sheet_exercises=word(sum(len(re.findall(r"^### Exercise \d", prose(p), re.M)) for p in sources())),
        questions=word(asked), plans=plans(), exercises=first(sum(len(exercises(prose(p))) for p in pages)),
        hours=round(sum(int(m["read"]) + int(m["run"]) for m in said) / 60),
        n_test=f"{results('ablations')['methods']['MICACL']['tests']['test_balanced']['n_test']:,}",
        gain=difference("ablations", "MICACL", "mean pooling"), mccl=difference("ablations", "MICACL", "GEIIM + WIAN"),
        balanced=difference("bakeoff", "balanced softmax", "cross entropy"),
        epochs=epochs, dark=f"{dark:.0f}", light=f"{light:.0f}")


def filled(text, values):
    "The text with its figures; a name that nobody knows, or that the text doesn't use, is an error."
    used = set(re.findall(r"\{(\w+)\}", text))
    if used != set(values):
        raise ValueError(f"paper.in.md: expected the names {sorted(values)}, found {sorted(used)}")
    return re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]), text)


def written(): return filled((PAPER / "paper.in.md").read_text(encoding="utf-8"), facts())


def words():
    "How many words the paper has, its header apart."
    return len(re.findall(r"[\w'-]+", written().partition("# Summary")[2]))


if __name__ == "__main__":
    (PAPER / "paper.md").write_text(written(), encoding="utf-8", newline="\n")
    print(f"wrote paper/paper.md, {words()} words")
