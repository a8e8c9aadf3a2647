"""What people see in CREMA-D's faces without the sound, as rows beside any result: one rating at a time, by majority,
and by who is seen. Needs CREMA-D's folder with tabulatedVotes.csv and VideoDemographics.csv; the videos are not read.

    python benchmarks/people.py data/CREMA-D
"""
import sys

from common import ROOT, commit

from micacl.core import write_json
from micacl.data.crowd import clip_groups, face_votes, human_rows


def by_group(votes, by, root):
    "{group: UAR of one rating, clips, people}"
    who, groups = clip_groups(votes, by, root)
    found = {}
    for g in sorted(set(groups)):
        clips = [c for c, group in zip(votes, groups) if group == g]
        people = len({p for p, group in zip(who, groups) if group == g})
        # a figure about a group of one is a figure about a person
        if people > 1: found[g] = dict(uar=human_rows(votes, clips)[0]["uar"], clips=len(clips), people=people)
    return found


def main(root, out=ROOT / "results" / "people.json"):
    votes = face_votes(root)
    write_json(out, dict(about="CREMA-D: recall of people who saw the face without the sound, in per cent",
                         command="python benchmarks/people.py CREMA-D", commit=commit(), clips=len(votes),
                         ratings=int(sum(v.sum() for v in votes.values())), rows=human_rows(votes),
                         groups={by: by_group(votes, by, root) for by in ("sex", "age", "race")}))


if __name__ == "__main__": main(*sys.argv[1:])
