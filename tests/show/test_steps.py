"The table that grows with the spine: its rows are those of the experiments, as far as a page has come."
import json
from pathlib import Path

import pytest

from micacl.core import MicaclError
from micacl.show.steps import STEPS, read_steps, step_table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path):
    "Experiments in which the k-th step has the recalls k/10, (k+1)/10 and the tail k/100, each with its own epochs."
    files = {}
    for k, s in enumerate(STEPS):
        tests = dict(test_balanced=dict(uars=[k / 10, (k + 1) / 10], tail=dict(mean=k / 100)))
        files.setdefault(s.file, {})[s.method] = dict(tests=tests)
    for k, (name, methods) in enumerate(files.items()):
        (tmp_path / f"{name}.json").write_text(json.dumps(dict(methods=methods, spec=dict(base=dict(epochs=7 + k)))))
    return tmp_path


def test_a_row_by_hand(results):
    assert step_table(results, "06_pooling").splitlines()[2:] == [
        "| chance | 14.3 | | 14.3 | |", "| **mean pooling** | **5.0** | 0.0 to 10.0 | 0.0 | 7 |",
        "| **gated attention** | **15.0** | 10.0 to 20.0 | 1.0 | 7 |",
        "| **transformer** | **25.0** | 20.0 to 30.0 | 2.0 | 7 |"]
    assert step_table(results, "07_geiim").splitlines()[-2:] == [
        "| transformer | 25.0 | 20.0 to 30.0 | 2.0 | 7 |", "| **GEIIM** | **35.0** | 30.0 to 40.0 | 3.0 | 7 |"]
    assert step_table(results).splitlines()[-1].endswith("| 8 |")      # of another experiment, with its own epochs


def test_a_page_shows_its_rows_and_those_before(results):
    seen = [[s for s, *_ in read_steps(results, page)] for page in dict.fromkeys(s.page for s in STEPS)]
    assert seen[-1] == list(STEPS) == [s for s, *_ in read_steps(results)]
    for shown in seen: assert shown == list(STEPS[:len(shown)])
    with pytest.raises(MicaclError, match="expected one of 06_pooling.*found 05_backbone"):
        step_table(results, "05_backbone")


def test_the_steps_are_in_the_order_of_the_pages_and_measured_alike():
    assert [s.page for s in STEPS] == sorted(s.page for s in STEPS)
    for s in STEPS: assert (ROOT / "nbs" / f"{s.page}.ipynb").exists()
    specs = [json.loads((ROOT / "results" / f"{f}.json").read_text())["spec"] for f in {s.file for s in STEPS}]
    for name in ("synfew", "frozen", "test", "seeds"): assert all(x[name] == specs[0][name] for x in specs), name
    rows = read_steps(ROOT / "results")
    assert len(rows) == len(STEPS)
    assert len({epochs for *_, epochs in rows}) == 1        # else no row may be compared with another


def test_the_best_simple_pool_has_a_row_from_the_first_table_on():
    pools = ("mean pooling", "max pooling", "gated attention", "transformer")
    methods = json.loads((ROOT / "results" / "ablations.json").read_text())["methods"]
    best = max(pools, key=lambda m: methods[m]["tests"]["test_balanced"]["uar"]["mean"])
    assert best in [s.method for s, *_ in read_steps(ROOT / "results", "06_pooling")]
