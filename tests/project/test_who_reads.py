"Who reads a file of results/ is found in the code, and every file is read by somebody."
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
from entries import ENTRIES  # noqa: E402
from readers import readers, reads  # noqa: E402


def page(path, *cells, words=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    all_cells = [("markdown", words), *(("code", c) for c in cells)]
    path.write_text(json.dumps(dict(cells=[dict(cell_type=kind, source=[text]) for kind, text in all_cells])))
    return path


@pytest.mark.parametrize("cells, found", [
    (['read_json("../results/errors.json")'], ["errors"]),
    (['R = Path("../../results")', 'read_json(R / "errors.json")'], ["errors"]),
    (['A, B = (read(f"../../results/{n}.json") for n in ("kills", "errors"))'], ["errors", "kills"]),
    (['def results(name): return read(f"../../results/{name}.json")', 'x = results("kills")'], ["kills"]),
    (['{k: Path(f"../results/bench-{k}.json") for k in ("cpu", "cuda")}'], ["bench-cpu"]),
    (['%cd results', 'read_json("../results/kills.json")'], ["kills"]),
    (['title = "errors"; read_json("../results/kills.json")'], ["kills"]),          # a word is no path
    (['write(folder / "errors.json")', 'kind = "kills"'], []),                      # of another folder
    (['read("results/mccl-errors.json")', 'print("../results/errors.json is old")'], []),
    (['# ../results/errors.json'], [])])
def test_a_path_is_found_as_it_is_or_put_together(tmp_path, cells, found):
    names = ["errors", "kills", "bench-cpu"]
    assert reads(page(tmp_path / "p.ipynb", *cells, words="`results/errors.json`"), names) == found
    if "%" not in cells[0]:
        (tmp_path / "s.py").write_text("\n".join(cells))
        assert reads(tmp_path / "s.py", names) == found


def test_pages_and_others_apart_and_a_quiz_by_its_questions(tmp_path):
    page(tmp_path / "nbs/part/a.ipynb", 'open("../../results/kills.json")')
    page(tmp_path / "nbs/quiz.ipynb", "1")
    (tmp_path / "nbs/quiz").mkdir()
    (tmp_path / "nbs/quiz/one.yml").write_text("facts:\n  n: {file: kills, key: [n]}\n")
    page(tmp_path / "nbs/lab/student/a.ipynb", 'open("../results/kills.json")')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text('open(ROOT / "results" / "kills.json")')
    assert readers(["kills", "errors"], tmp_path) == {
        "kills": (["nbs/part/a.ipynb", "nbs/quiz.ipynb"], ["tests/test_it.py"]), "errors": ([], [])}


def test_every_file_of_results_is_on_a_page():
    assert [n for n, (pages, _) in readers(ENTRIES).items() if not pages] == []
