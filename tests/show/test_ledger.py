"The ledger names options and ablations that exist, and turns signs the right way."
import json
from pathlib import Path

import pytest

from micacl.train.config import ARGS, PLACE, SETTINGS, Config, merge
from micacl.train.specification import configuration, grid_points, read_spec
from micacl.show.ledger import LEDGER, ledger_rows

ROOT = Path(__file__).parents[2]
CHOICES = [c for part in LEDGER.values() for c in part]
SPECS = sorted(p for p in (ROOT / "benchmarks").glob("*.json"))


@pytest.mark.parametrize("file", SPECS, ids=lambda p: p.stem)
def test_specifications_are_valid_and_their_results_are_of_them(file):
    spec = read_spec(file)
    for m in spec["methods"]: configuration(spec, m, 1, grid_points(spec)[-1])
    result = ROOT / "results" / file.name
    assert result.exists(), f"{result} is missing: run {file}"
    made = json.loads(result.read_text())
    assert made["failed"] == 0 and made["methods"].keys() == spec["methods"].keys() and "+changes" not in made["commit"]
    for name in ("seeds", "synfew", "tune", "frozen", "test"): assert made["spec"].get(name) == spec.get(name), name
    # where nothing is asked for, the experiment chooses the arithmetic once and writes it down
    assert {"mixed_precision": made["spec"]["base"].get("mixed_precision"), **spec["base"]} == {
        "mixed_precision": None, **made["spec"]["base"]}
    assert {m: merge(d) for m, d in made["spec"]["methods"].items()} == spec["methods"]     # of either edition


# MICACL as it is, by its name in the experiment
AS_IT_IS = dict(ablations="MICACL", deciding="CE, linear + MCCL", partners="linear + MCCL")
MEASURED = {name: read_spec(ROOT / "benchmarks" / f"{name}.json") for name in AS_IT_IS}


def test_every_option_is_a_field_and_every_row_an_ablation():
    assert {o for c in CHOICES for o in c.options} <= SETTINGS.keys() | {f"{at}.{k}" for k, at in PLACE.items()}
    compared = {a for name, spec in MEASURED.items() for a, b in spec["compare"] if b == AS_IT_IS[name]}
    assert {r for c in CHOICES for r in c.rows} <= compared
    assert all(not MEASURED[name]["methods"][m] for name, m in AS_IT_IS.items())


def test_each_row_changes_only_the_options_of_its_choice():
    defaults = Config().flat()
    methods = {m: fields for spec in MEASURED.values() for m, fields in spec["methods"].items()}
    for c in CHOICES:
        for row in c.rows:
            fields = {k: v for k, v in methods[row].items() if k != "like"}
            changed = {f"{PLACE[k]}.{k}" if k in PLACE else k for k, v in Config(**fields).flat().items()
                       if v != defaults[k]}
            assert changed and changed <= set(c.options), (row, changed)


def test_every_choice_of_the_method_is_in_the_ledger():
    "An argument of the model or the loss that the ledger forgets would be an undocumented choice."
    sizes = ("geiim", "wian", "embed_dim", "heads", "dropout")
    about_the_method = ["mccl_weight", "sampler", *(f"{at}.{name}" for at in ("model_args", "mccl_args")
                                                    for name in ARGS[at] if name not in sizes)]
    assert set(about_the_method) <= {o for c in CHOICES for o in c.options}


def test_costs_have_the_sign_of_the_other_reading():
    d = dict(difference=-.02, interval=[-.03, -.01])
    rows = ledger_rows("GEIIM", [dict(a="two hops", b="MICACL", uar=d)])
    assert "two hops: -2.0 [-3.0, -1.0]" in [r[-1] for r in rows]
    rows = ledger_rows("GEIIM", [dict(a="MICACL", b="two hops", uar=d)])
    assert "two hops: +2.0 [+1.0, +3.0]" in [r[-1] for r in rows]
    assert all("not measured" in r[-1] for r in ledger_rows("WIAN", []))
    assert all(len(r) == 6 for part in LEDGER for r in ledger_rows(part, []))
