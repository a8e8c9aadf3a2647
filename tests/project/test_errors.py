"results/errors.json says of the clips what the generator says, and repeats the runs of the ablations of its length."
import json
from pathlib import Path

import numpy as np

from micacl.train.summaries import unpack_labels
from micacl.data.synfew.generate import VERSION, draw_act, label_counts, plan_split

FILE = Path(__file__).parents[2] / "results" / "errors.json"
R = json.loads(FILE.read_text())
ABLATIONS = json.loads((FILE.parent / "ablations.json").read_text())


def test_made_from_a_clean_tree_of_this_edition():
    assert R["version"] == VERSION and "+changes" not in R["commit"] and FILE.stat().st_size < 300_000


def test_clips_are_those_that_the_seed_draws():
    seed, y = R["synfew"]["seed"], unpack_labels(R["clips"]["label"])
    rows = plan_split(seed, R["test"], label_counts(len(y), "balanced", None, 1), R["first"])
    acts = [draw_act(seed, r.index, r.label) for r in rows]
    np.testing.assert_array_equal(y, [r.label for r in rows])
    np.testing.assert_array_equal(unpack_labels(R["clips"]["clean"]), [a.emotion for a in acts])
    np.testing.assert_array_equal(unpack_labels(R["clips"]["votes"]).reshape(-1, 7), [a.votes for a in acts])
    np.testing.assert_allclose(R["clips"]["strength"], [a.strength for a in acts], atol=1e-3)


def test_runs_are_those_of_the_ablations():
    "The score of every seed, and the score that the kept predictions give."
    y = unpack_labels(R["clips"]["label"])
    assert R["synfew"] == ABLATIONS["spec"]["synfew"]
    for r in R["methods"].values():
        said = np.stack([unpack_labels(s) for s in r["predicted"]])
        assert said.shape == (len(r["seeds"]), len(y))
        np.testing.assert_allclose((said == y).mean(1), r["uars"])       # equal classes: accuracy and UAR are the same
    assert R["epochs"] == ABLATIONS["spec"]["base"]["epochs"]
    for m in ("mean pooling", "M3DFEL", "MICACL"):      # rounding differs a little from machine to machine
        there = ABLATIONS["methods"][m]["tests"][R["test"]]["uars"]
        np.testing.assert_allclose(R["methods"][m]["uars"], there, atol=.01)
