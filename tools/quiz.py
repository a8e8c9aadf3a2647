"""Questions of the quiz bank (nbs/teach/quiz) as a file for Moodle, or as text for paper.

    python tools/quiz.py                                   # how many questions there are
    python tools/quiz.py --moodle bank.xml                 # Moodle: Question bank, Import, Moodle XML format
    python tools/quiz.py --text paper.md --chapters 06_pooling 07_geiim --minutes 20      # markdown, without answers
    ... --answers                                          # with the answers and reasons

With --minutes, questions are taken from the chapters in turn as long as they fit into the time.
"""
import argparse
import sys
from itertools import zip_longest
from pathlib import Path

from micacl.core import MicaclError
from micacl.lab.quiz import as_text, moodle_xml, read_questions

BANK = Path(__file__).resolve().parents[1] / "nbs" / "teach" / "quiz"


def fitting(parts, minutes):
    "Of lists of questions, one of each in turn while there is time; in the order of the bank."
    taken, left = set(), minutes
    for row in zip_longest(*parts):
        for q in filter(None, row):
            if q.minutes <= left: taken.add(q.id); left -= q.minutes
    return [q for part in parts for q in part if q.id in taken]


def main():
    there = {path.stem: path for path in sorted(BANK.glob("*.yml"))}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--moodle", type=Path, metavar="FILE", help="write Moodle XML")
    p.add_argument("--text", type=Path, metavar="FILE", help="write markdown")
    p.add_argument("--answers", action="store_true", help="with answers and reasons in the markdown")
    p.add_argument("--chapters", nargs="+", metavar="NAME", default=list(there), help="only these: " + ", ".join(there))
    p.add_argument("--minutes", type=int, help="as many questions as fit into this time")
    args = p.parse_args()
    unknown = [c for c in args.chapters if c not in there]
    if unknown: sys.exit(f"quiz: expected chapters of {', '.join(there)}; found {', '.join(unknown)}")
    try: parts = [read_questions(there[c]) for c in args.chapters]
    except MicaclError as e: sys.exit(f"quiz: {e}")
    questions = [q for part in parts for q in part] if args.minutes is None else fitting(parts, args.minutes)
    print(f"quiz: {len(questions)} questions of {len(parts)} chapters, {sum(q.minutes for q in questions)} minutes")
    if args.moodle: args.moodle.write_text(moodle_xml(questions), encoding="utf-8", newline="\n")
    if args.text:
        text = [as_text(q, k) for k, q in enumerate(questions, 1)]
        if not args.answers: text = [t.partition("<details>")[0].rstrip() for t in text]
        args.text.write_text("\n\n".join(text) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__": main()
