"Results tables: reading runs, pooling folds, escaping, and published rows that agree with themselves."
import csv
import html.parser
import json
import re

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from micacl.core import EMOTIONS, MicaclError, write_json
from micacl.train.config import Config
from micacl.metrics import summarise
from micacl.show.published import CAUTION, OWN_LIST, PUBLISHED, Row, published_rows
from micacl.show.tables import (
    Result, fold_rows, matrix_table, mean_row, method_rows, pooled, read_results, results_table, row_of
)

CLASSES = ("a", "b", "c")


def predictions(rng, n=60, C=3):
    y = np.concatenate([np.arange(C), rng.integers(0, C, n - C)])
    return y, np.where(rng.random(n) < 0.6, y, rng.integers(0, C, n))


def run_folder(root, y, said, classes=CLASSES, **more):
    s = summarise(y, np.eye(len(classes))[said], classes, np.bincount(y, minlength=len(classes)))
    root.mkdir(parents=True)
    write_json(root / "results.json", {**dict(model="micacl", dataset="csv", fold=None, seed=1, **s,
                                              tests=dict(test=s, test_balanced=s)), **more})
    return root


@pytest.fixture
def folds(tmp_path):
    rng = np.random.default_rng(0)
    data = {k: predictions(rng, 40 + 10 * k) for k in range(1, 6)}
    return data, [run_folder(tmp_path / f"fold{k}", *d, fold=k, dataset="dfew") for k, d in data.items()]


# ---------------------------------------------------------------- reading

def test_reads_run_folders_files_and_names(folds, tmp_path):
    data, paths = folds
    rs = read_results(paths[0], paths[1] / "results.json", f"other={paths[0]}")
    assert [(r.method, r.fold, r.seed, r.dataset) for r in rs] == [("micacl", 1, 1, "dfew"), ("micacl", 2, 1, "dfew"),
        ("other", 1, 1, "dfew")]
    for r, k in zip(rs, (1, 2, 1)):
        y, said = data[k]
        assert r.classes == CLASSES and (r.matrix == np.histogram2d(y, said, bins=(range(4), range(4)))[0]).all()
    odd = run_folder(tmp_path / "a=b", *data[1])
    assert read_results(odd)[0].method == "micacl" and read_results(odd, test="test_balanced")
    with pytest.raises(MicaclError, match="two|expected one run of fold 1 with seed 1, found 2"):
        read_results(paths[0], paths[0])
    with pytest.raises(MicaclError, match="test_hard, found test, test_balanced"):
        read_results(paths[0], test="test_hard")
    with pytest.raises(MicaclError, match="found nothing there"): read_results(tmp_path / "nowhere")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(MicaclError, match="expected the results of a run"): read_results(tmp_path / "list.json")
    other = run_folder(tmp_path / "classes", *data[1], classes=("x", "y", "z"))
    with pytest.raises(MicaclError, match="expected the classes of micacl"): read_results(paths[0], f"n={other}")


def test_reads_an_experiment_and_only_what_belongs_to_it(tmp_path):
    spec = dict(data="d", base=dict(epochs=2), methods=dict(one={}, two=dict(mccl_weight=0.0)), seeds=[1, 2],
                folds=[1, 2], frozen=False, test="test", compare=[])
    write_json(tmp_path / "summary.json", dict(spec=spec,
                                               methods=dict(one=dict(chosen=dict(lr=0.01)), two=dict(chosen={}))))
    rng = np.random.default_rng(0)
    runs = tmp_path / "runs"
    runs.mkdir()

    def write(name, method, seed, fold, config):
        y, said = predictions(rng)
        s = summarise(y, np.eye(3)[said], CLASSES, [1, 1, 1])
        write_json(runs / f"{name}.json", dict(method=method, seed=seed, fold=fold, classes=CLASSES,
                                               config=config.to_dict(), tests=dict(test={k: v for k,
                                                   v in s.items() if k not in ("intervals", "n_per_class")})))
    for seed in (1, 2):
        for fold in (1, 2):
            write(f"one-{seed}-{fold}", "one", seed, fold, Config(epochs=2, lr=0.01, seed=seed))
            write(f"two-{seed}-{fold}", "two", seed, fold, Config(epochs=2, mccl_weight=0.0, seed=seed))
    write("old", "one", 1, 1, Config(epochs=2, lr=0.5, seed=1))                # of an earlier specification
    write("gone", "three", 1, 1, Config(epochs=2, seed=1))
    rs = read_results(tmp_path)
    assert sorted((r.method, r.seed, r.fold) for r in rs) == [(m, s, f) for m in ("one", "two") for s in (1, 2)
                                                              for f in (1, 2)]
    named = read_results(f"A={tmp_path}", f"B={tmp_path}")
    assert ({r.method for r in named} == {"A one", "A two", "B one", "B two"}
            and [r.matrix.tolist() for r in named] == 2 * [r.matrix.tolist() for r in rs])
    rows = method_rows(rs)
    assert [r.name for r in rows] == ["one", "two"] and "pooled over 2 folds, 120 clips, 2 seeds, UAR ±" in rows[0].note
    for f in runs.glob("t*.json"): f.unlink()
    for f in runs.glob("o*.json"): f.unlink()
    with pytest.raises(MicaclError, match="run micacl experiment again"): read_results(tmp_path)


# ---------------------------------------------------------------- folds

def test_pooled_and_mean_against_scikit_learn(folds):
    data, paths = folds
    rows = {r.name: r for r in fold_rows(read_results(*paths))}
    assert list(rows) == [*(f"fold {k}" for k in range(1, 6)), "mean of 5 folds", "pooled"]
    y, said = (np.concatenate([d[i] for d in data.values()]) for i in (0, 1))
    want = lambda y, said: (100 * balanced_accuracy_score(y, said), 100 * (y == said).mean())
    for k in data: np.testing.assert_allclose((rows[f"fold {k}"].uar, rows[f"fold {k}"].war), want(*data[k]))
    np.testing.assert_allclose((rows["pooled"].uar, rows["pooled"].war), want(y, said))
    np.testing.assert_allclose(list(rows["pooled"].recall.values()), 100 * recall_score(y, said, average=None))
    np.testing.assert_allclose((rows["mean of 5 folds"].uar, rows["mean of 5 folds"].war),
                               np.mean([want(*d) for d in data.values()], axis=0))
    assert abs(rows["pooled"].uar - rows["mean of 5 folds"].uar) > 1e-3
    assert method_rows(read_results(*paths))[0].uar == pytest.approx(rows["pooled"].uar)
    assert method_rows(read_results(*paths), "mean")[0].uar == pytest.approx(rows["mean of 5 folds"].uar)
    with pytest.raises(MicaclError, match="pooled or mean"): method_rows(read_results(*paths), "median")


def test_pooled_is_not_the_mean_by_hand():
    rs = [Result("m", ("A", "B"), np.array(M), k) for k, M in ((1, [[10, 0], [1, 0]]), (2, [[10, 0], [0, 9]]))]
    rows = {r.name: r for r in fold_rows(rs)}
    assert rows["pooled"].uar == 95 and rows["mean of 2 folds"].uar == 75 and (pooled(rs) == [[20, 0], [1, 9]]).all()
    assert rows["pooled"].war == pytest.approx(2900 / 30) and rows["pooled"].recall == dict(A=100, B=90)


def test_classes_without_clips_are_left_out_of_their_mean():
    r = row_of([[2, 2], [0, 0]], ("A", "B"), "x")
    assert r.recall["A"] == 50 and np.isnan(r.recall["B"]) and r.uar == 50
    m = mean_row([r, row_of([[4, 0], [0, 1]], ("A", "B"), "y")], "m")
    assert m.recall == dict(A=75, B=100) and m.uar == 75
    assert np.isnan(mean_row([], "none").uar)


def test_incomplete_folds_are_said_to_be_so(folds):
    _, paths = folds
    assert "published protocol" not in method_rows(read_results(*paths))[0].note
    assert "folds 1, 3 of 5, which is not the published protocol" in method_rows(read_results(paths[0],
        paths[2]))[0].note
    rs = read_results(*paths)
    with pytest.raises(MicaclError, match="the same folds for every seed"):
        method_rows([*rs, Result("micacl", CLASSES, rs[0].matrix, 1, 2, "dfew")])


# ---------------------------------------------------------------- published rows

def test_published_rows_agree_with_themselves_and_have_an_owner():
    for which in ("dfew", "ferv39k"):
        rows = published_rows(which)
        assert len(rows) >= 9 and len({r.name for r in rows}) == len(rows)
        for r in rows:
            assert len(r.source) > 8 and r.war > 30 and (np.isnan(r.uar) or 20 < r.uar < r.war)
            if r.recall:
                assert (tuple(r.recall) == EMOTIONS and abs(np.mean(list(r.recall.values())) - r.uar)
                        < (0.2 if r.name == "M3DFEL" else 0.01))
    # accuracy is the recalls weighted by the clips of the test folds
    n_c = np.array([2445, 1894, 2669, 2173, 1469, 145, 902])
    for r in published_rows("dfew"):
        if r.recall: assert abs(np.array(list(r.recall.values())) @ n_c / n_c.sum() - r.war) < 0.3, r.name
    assert {p["name"] for p in PUBLISHED} >= {"M3DFEL", "MAE-DFER"}
    # who, where, when
    assert all(re.search(r"\b20[12]\d\b", p["source"])
               and re.search(r"ACM MM|CVPR|AAAI|BMVC|ICME|IEEE|arXiv \d{4}\.\d{5}", p["source"]) for p in PUBLISHED)
    assert ([r.name for r in published_rows("mafw")] == ["Former-DFER", "T-ESFL", "DFER-CLIP", "MAE-DFER", "S2D"]
            and all(20 < r.uar < r.war < 60 for r in published_rows("mafw")))


def test_rows_of_another_data_set_are_refused(folds):
    results = read_results(*folds[1])
    assert [r.name for r in published_rows("dfew", results)] == [r.name for r in published_rows("dfew")]
    with pytest.raises(MicaclError, match="two data sets"): published_rows("ferv39k", results)
    for rows in (method_rows(results), fold_rows(results), method_rows(results, "mean")):
        assert "M3DFEL" in results_table(rows, published="dfew")
        with pytest.raises(MicaclError, match="expected rows of dfew"): results_table(rows, published="ferv39k")
    # a list of one's own may be of any data set
    assert published_rows("dfew", [Result("m", CLASSES, results[0].matrix, dataset="csv")])
    own = method_rows([Result("m", CLASSES, results[0].matrix, dataset="csv")])
    assert (OWN_LIST in results_table(own, published="dfew") and OWN_LIST not in results_table(own)
            and OWN_LIST not in results_table(method_rows(results), published="dfew"))
    # unknown: the reader's business
    assert len(published_rows("ferv39k", [Result("m", CLASSES, results[0].matrix)])) == len(published_rows("ferv39k"))


def test_rows_of_ones_own(tmp_path):
    f = tmp_path / "rows.csv"
    f.write_text("\ufeffname,source,uar,war,Happy\nx,me,50.5,,-\ny,you,,60,0\n", encoding="utf-8")
    a, b = published_rows(f)
    assert ((a.name, a.source, a.uar) == ("x", "me", 50.5) and np.isnan(a.war) and np.isnan(a.recall["happy"])
            and b.recall["happy"] == 0)
    (tmp_path / "rows.json").write_text(json.dumps([dict(name="x", source="me", uar=1, war=2)]))
    assert published_rows(tmp_path / "rows.json") == [Row("x", 1.0, 2.0, {}, "me")]
    for text, words in [("name,source,uar,war\nx,,1,2\n", "row 1: expected a source"),
                        ("name,source,uar,war\n,me,1,2\n", "expected a name"),
                        ("name,source,uar,war\nx,me,101,2\n", "uar: expected per cent"),
                        ("name,source,uar,war\nx,me,1,inf\n", "war: expected per cent"),
                        ("name,source,uar,war\nx,me,ha,2\n", "found 'ha'"), ("", "expected rows"),
                        ("name\n", "expected rows")]:
        f.write_text(text)
        with pytest.raises(MicaclError, match=words): published_rows(f)
    f.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MicaclError, match="UTF-8"): published_rows(f)
    (tmp_path / "rows.json").write_text('{"name": "x"}')
    with pytest.raises(MicaclError, match="expected rows"): published_rows(tmp_path / "rows.json")
    with pytest.raises(MicaclError, match="expected dfew, ferv39k"): published_rows("afew")


# ---------------------------------------------------------------- the matrix

def test_matrix_is_that_of_all_clips(folds):
    from sklearn.metrics import confusion_matrix
    data, paths = folds
    y, said = (np.concatenate([d[i] for d in data.values()]) for i in (0, 1))
    lines = matrix_table(read_results(*paths), caption="All of it").splitlines()
    assert (lines[0] == "All of it" and lines[1].split() == ["true,", "predicted", "a", "b", "c", "clips", "recall"]
            and "micacl: added over 5 test sets and 1 seed." in lines[-1])
    table = [x.split() for x in lines[3:6]]
    assert ([[int(v) for v in r[1:4]] for r in table] == confusion_matrix(y, said).tolist()
            and [int(r[4]) for r in table] == np.bincount(y).tolist())
    np.testing.assert_allclose([float(r[5]) for r in table], 100 * recall_score(y, said, average=None), atol=0.005)
    both = [Result("m", ("<b>", "|"), np.array([[2, 1], [0, 0]]), None, s) for s in (1, 2)]
    assert ("&lt;b&gt;" in matrix_table(both, "html") and r"\|" in matrix_table(both, "markdown")
            and "4" in matrix_table(both) and "–" in matrix_table(both) and r"\textbar" in matrix_table(both, "latex"))
    with pytest.raises(MicaclError, match="one method, found m, n"):
        matrix_table([both[0], Result("n", ("<b>", "|"), both[0].matrix)])
    with pytest.raises(MicaclError, match="found none"): matrix_table([])


# ---------------------------------------------------------------- formats

EVIL = ['<script>alert(1)</script>', 'A&B_50% #1 $x$ {y} ~^\\end{tabular}', 'a | b `c` *d* [e](f) ![g](h)',
        '"quoted" <&>', '[x', '*', 'two\nlines']
ROWS = [Row(n, 50 + i, 60 + i, {"<b>|&_": 1.0, "ok": float("nan")}, note=n) for i, n in enumerate(EVIL)]


def test_text_is_aligned_and_complete():
    t = results_table([Row("ours", 50, 60, dict(a=1.0))],
                      published=[Row("theirs", 40.005, float("nan"), {}, "Them, 2020")], caption="A caption")
    lines = t.splitlines()
    assert (lines[0] == "A caption" and lines[1].split() == ["method", "a", "UAR", "WAR"]
            and set(lines[2]) == set(lines[4]) == {"-"})
    assert (lines[3].split() == ["theirs", "[1]", "–", "40.01", "–"]
            or lines[3].split() == ["theirs", "[1]", "–", "40.00", "–"])
    assert lines[5].split() == ["ours", "1.00", "50.00", "60.00"] and len(lines[3]) == len(lines[5]) == len(lines[1])
    assert "[1] Them, 2020" in t and CAUTION in t and CAUTION not in results_table([Row("ours", 1, 2)])
    with pytest.raises(MicaclError, match="text, markdown, latex, html"): results_table([], "docx")


def test_html_is_well_formed_and_nothing_leaks():
    class Reader(html.parser.HTMLParser):
        open, seen, cells = [], [], []
        def handle_starttag(self, tag, attrs):
            self.open.append(tag); self.seen.append(tag); self.cells.append("") if tag in ("th", "td") else None
        def handle_endtag(self, tag): assert self.open.pop() == tag
        def handle_data(self, data):
            if self.open and self.open[-1] in ("th", "td"): self.cells[-1] += data
    p = Reader()
    p.feed(results_table(ROWS, "html", published=[Row("<i>", 1, 2, {}, "<s>")], caption="<u>"))
    assert not p.open and set(p.seen) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert (p.cells[:5] == ["method", "<b>|&_", "ok", "UAR", "WAR"] and p.cells[5] == "<i> [1]"
            and [" ".join(n.split()) for n in EVIL] == p.cells[10::5])
    assert p.seen.count("tbody") == 2


def test_latex_has_no_live_signs():
    t = results_table(ROWS, "latex", published=[Row("50%", 1, 2, {}, "P&Q")], caption="a_b")
    allowed = {"begin", "end", "centering", "caption", "hline", "par", "footnotesize", "textbackslash",
               "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "pm"}
    assert set(re.findall(r"\\([a-z]+)", t)) <= allowed
    assert re.findall(r"\\(?:begin|end)\{(\w+)\}", t) == ["table", "tabular", "tabular", "table"]
    body = t.split(r"\begin{tabular}")[1].split(r"\end{tabular}")[0].splitlines()[2:-1]
    # five cells each
    assert len(body) == len(EVIL) + 2 and all(len(re.findall(r"(?<!\\)&", b)) == 4 for b in body)
    assert not re.search(r"(?<!\\)[%$#_](?!\\pm)", t.replace(r"$\pm$", "")) and not any(b.startswith(("[", "*"))
        for b in body)
    depth = 0
    for i, c in enumerate(t):
        if c in "{}" and t[i - 1] != "\\": depth += 1 if c == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_markdown_keeps_its_columns():
    t = results_table(ROWS, "markdown", published="dfew")
    table = [line for line in t.splitlines() if line.startswith("|")]
    assert (len(table) == 2 + len(EVIL) + len(published_rows("dfew"))
            and all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in table))
    assert "<script>" not in t.replace("\\<script\\>", "") and "](f)" not in t


@pytest.mark.parametrize("format", ["text", "markdown", "latex", "html"])
def test_no_rows_only_rows_and_no_recalls(format):
    assert "method" in results_table([], format) and "M3DFEL" in results_table([], format, published="ferv39k")
    assert ("50.0" in results_table([Row("x", 50, 60, dict(a=1.0))], format, per_class=False, decimals=1)
            and "nan" not in results_table([Row("x")], format))


def test_an_experiment_over_folds_becomes_a_row_and_goes_on_where_it_stopped(tmp_path):
    from micacl.train.experiments import run_experiment
    from micacl.data.synfew.generate import generate
    generate(tmp_path / "data", n_train=42, n_test=7, n_frames=8, size=32, workers=1, progress=False)
    spec = dict(data=str(tmp_path / "data"), methods=dict(plain=dict(mccl_weight=0.0)), seeds=[1], folds=[1, 2],
                base=dict(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=1, batch_size=16))
    run_experiment(dict(spec, folds=[1]), tmp_path / "out", 1, True, False)
    first, = (tmp_path / "out" / "runs").glob("*.json")
    before = first.stat().st_mtime_ns
    s = run_experiment(spec, tmp_path / "out", 1, True, False)                  # fold 1 is there already
    assert first.stat().st_mtime_ns == before and s["failed"] == 0 and s["methods"]["plain"]["n_runs"] == 2
    results = read_results(tmp_path / "out")
    assert [(r.method, r.fold, r.dataset) for r in sorted(results, key=lambda r: r.fold)] == [("plain", 1, "synfew"),
        ("plain", 2, "synfew")]
    row, = method_rows(results)
    runs = [json.loads(f.read_text()) for f in (tmp_path / "out" / "runs").glob("*.json")]
    y, said = ([int(c) for r in runs for c in r["tests"]["test"][k]] for k in ("y", "predicted"))
    assert (row.uar == pytest.approx(100 * balanced_accuracy_score(y, said))
            and row.war == pytest.approx(100 * np.mean(np.equal(y, said))) and tuple(row.recall) == EMOTIONS)
    with open(tmp_path / "t.csv", "w", newline="") as f:
        csv.writer(f).writerows([["name", "source", "uar", "war"], [row.name, "this test", row.uar, row.war]])
    assert published_rows(tmp_path / "t.csv")[0].uar == pytest.approx(row.uar)
