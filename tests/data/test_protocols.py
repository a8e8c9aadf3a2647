"The protocols of the open sets: each is a specification, fits folders in the true shape, and takes as long as it says."
import json
from pathlib import Path

import pytest

import plan as P
from micacl.data.load import load_table
from micacl.data.open_sets import long_tail
from micacl.data.table import write_clips
from micacl.train.specification import configuration, grid_points, read_spec
from test_open_sets import crema, ravdess

PROTOCOLS = Path(__file__).parents[2] / "benchmarks" / "protocols"
FILES = sorted(PROTOCOLS.glob("*.json"), key=lambda p: p.stem)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Whole copies of both sets, of empty files, with the tail of fold 1 beside the clips."
    found = {}
    for name, make in (("crema-faces", crema), ("ravdess-faces", ravdess)):
        root = make(tmp_path_factory.mktemp("sets") / name)
        write_clips(long_tail(load_table(root), 1), root / "tail1.csv")
        found[name] = root
    return found


def tables(spec, folders):
    "What the specification names, read from these folders."
    names = [Path(part["data"]) for part in (spec, spec["tune"])]
    return [load_table(folders[p.parent.name] / p.name if p.suffix else folders[p.name]) for p in names]


def test_there_are_protocols_for_both_sets_natural_and_long_tailed():
    assert [f.stem for f in FILES] == ["crema-d", "crema-d-tail", "ravdess", "ravdess-tail"]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_a_protocol_fits_folders_in_the_true_shape(file, folders):
    spec = read_spec(file)
    own, other = tables(spec, folders)
    for m in spec["methods"]: configuration(spec, m, 1, grid_points(spec)[-1])
    assert own.dataset != other.dataset or "tail" in file.stem         # tuned on the other set
    people = {}
    for k in spec["folds"]:
        train, tests = own.protocol(k)
        assert spec["test"] in tests and min(train.counts) > 0
        tested = {c.group for t in tests.values() for c in t}
        assert not tested & {c.group for c in train}
        people[k] = tested
    if "tail" in file.stem:
        assert len(set(tests["test_balanced"].counts)) == 1 and max(train.counts) > 10 * min(train.counts)
    else: assert sum(map(len, people.values())) == len(set().union(*people.values())) == len({c.group for c in own})


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_the_readme_says_what_the_plan_says(file, folders):
    "Counted on files in folders and on the packaged names alike."
    spec = json.loads(file.read_text())
    planned = P.plan(spec, tables(spec, folders))
    assert planned == P.plan(spec, [P.complete(part["data"]) for part in (spec, spec["tune"])])
    assert f"    {P.line(file.stem, planned)}\n" in (PROTOCOLS / "README.md").read_text()


def test_a_plan_by_hand():
    """CREMA-D, fold 5: 7,438 clips less those of the 19 last actors, a tenth of them kept to validate, batches of 32;
    two learning rates tried with one seed on RAVDESS' fold 1."""
    spec = dict(data="crema", folds=[5], seeds=[1, 2], base=dict(epochs=3, val_fraction=0.0), methods={"mean": {}},
                tune=dict(data="ravdess", folds=[1], grid=dict(lr=[.1, .2])))
    own, other = P.complete("crema"), P.complete("ravdess")
    p = P.plan(spec, [own, other])
    n, m = (sum(c.fold != k for c in t) for t, k in ((own, 5), (other, 1)))
    assert (p["runs"], p["steps"]) == (2 + 2, 2 * 3 * (n // 32) + 2 * 3 * (m // 32)) and m == 1040
    assert p["hours"] == p["steps"] * P.second_a_step() / 7200
