"""The report: one file without addresses, numbers equal to results.json, text from files never alive, and a run without
pictures, truth or baseline."""
import csv, json, re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from micacl import metrics
from micacl.show import html as pages
from micacl.show import demo as demo_module
from micacl.core import MicaclError, read_json, write_json
from micacl.train.config import Config
from micacl.data.load import load_table
from micacl.metrics import instance_auc, summarise
from micacl.show.plots import INK, plot_confusion
from micacl.show.demo import demo
from micacl.show.report import run_difference, write_report
from micacl.data.synfew.generate import generate
from micacl.train.loop import instance_truth

VOID = {"meta", "img", "source", "br", "link", "input"}
EVIL = [   # the reader of CSV files makes class names lower case
    "<script>alert(1)</script>", '"><img src=http://x.org/a onerror=alert(1)>', "a & b", "$\\frac{", "o'neill"]


class Page(HTMLParser):
    "Parses a page; fails on unbalanced tags."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.errors = [], [], [], []
        self.feed(text); self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID: self.open.append(tag)

    def handle_startendtag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.errors.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"): self.text.append(data)

    def all(self, name): return [a for t, a in self.tags if t == name]
    @property
    def words(self): return " ".join(" ".join(self.text).split())


def check_page(path):
    "What holds for every report."
    text = Path(path).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.errors and not page.open
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {t for t, _ in page.tags}
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert value.startswith(("data:image/", "#")), (tag, name, value[:60])
            if name == "style": assert "url(" not in value.replace("url(#", "")
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) and not re.findall(r'href="#([^"]*)"',
                                                        text) or set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    assert len(page.all("h1")) == 1 and page.all("caption") and page.all("html")[0]["lang"] == "en"
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "img-src data:;" in policy and "prefers-color-scheme:dark" in text
    assert Path(path).stat().st_size < 5e6
    return page


def make_run(run, data, dataset, classes, model="micacl", seed=0, skipped=(), weights=None):
    "A run folder without training: the scores are drawn at random."
    run.mkdir(parents=True)
    rng, table, config = np.random.default_rng(seed), load_table(data, dataset), Config(model=model, seed=seed,
        epochs=2, lr=.5)
    train, tests = table.protocol()
    write_json(run / "config.json", dict(config=config.to_dict(), dataset=dataset, data=str(data), fold=None,
                                         classes=list(classes), train_counts=train.counts,
                                         n_train=len(train), n_validation=0, version="1.2.3",
                                         command="micacl train <here> --lr 0.5"))
    scores, columns = {}, []
    for name, t in tests.items():
        y = t.labels
        logits = 2 * np.eye(len(classes))[y] + rng.normal(size=(len(y), len(classes))) * 1.5
        w = rng.dirichlet([1] * 4, len(y)) if weights is None else np.full((len(y), 4), weights)
        column = dict(id=np.array([c.id for c in t]), split=np.array([name] * len(t)), y=y, logits=logits, weights=w)
        scores[name] = summarise(y, logits, classes, train.counts)
        if dataset == "synfew":
            column["positive"] = instance_truth(t, config)
            scores[name]["instance_auc"], scores[name]["instance_auc_clips"] = instance_auc(w, column["positive"])
        columns.append(column)
    np.savez(run / "predictions.npz", **{k: np.concatenate([c[k] for c in columns]) for k in columns[0]})
    write_json(run / "results.json", dict(model=model, dataset=dataset, fold=None, seed=seed, epoch=2,
                                          **next(iter(scores.values())), tests=scores, skipped=list(skipped)))
    (run / "metrics.jsonl").write_text("".join(json.dumps(dict(epoch=e, loss=2 / e, ce=1 / e, mccl=1 / e, lr=.5,
                                                               val_uar=None, val_war=.1 * e, seconds=1.0)) + "\n"
                                                               for e in (1, 2)))
    return run


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "faces"
    generate(root, n_train=21, n_test=21, n_frames=16, size=32, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def runs(faces, tmp_path_factory):
    root, classes = tmp_path_factory.mktemp("runs"), load_table(faces).classes
    return make_run(root / "micacl", faces, "synfew", classes,
                    skipped=["clips/1.mp4: empty <file>"]), make_run(root / "mean", faces, "synfew", classes, "mean", 1,
                        weights=.25)


@pytest.fixture(scope="module")
def full(runs, faces):
    path = write_report(runs[0], faces, runs[1])
    return path, check_page(path)


def pct(x): return f"{100 * x:.1f}"


def test_the_file_lies_in_the_run_folder_or_where_it_is_wanted(runs, full, tmp_path):
    assert full[0] == runs[0] / "report.html"
    out = write_report(runs[0], baseline=runs[1], out=tmp_path / "r.html")     # without `data`: where the run found it
    assert out.read_text() == full[0].read_text()                              # and the same run gives the same report


def test_every_number_of_the_headline_is_that_of_results_json(runs, full):
    words = full[1].words
    for run in runs:
        for name, s in read_json(run / "results.json")["tests"].items():
            assert f"{name}: {s['n_test']} clips" in words
            for m in ("uar", "war"):
                low, high = s["intervals"][m]
                assert f"{pct(s[m])} [{pct(low)}, {pct(high)}]" in words
    assert "always “neutral” 14.3" in words or "always “happy” 14.3" in words


def test_recalls_confusion_counts_and_curves_are_in_tables(runs, full):
    words, (a, b) = full[1].words, (read_json(r / "results.json")["tests"]["test_balanced"] for r in runs)
    box = (lambda s, c: f"{pct(s['recall'][c])} [{pct(s['intervals']['recall'][c][0])}, "
                        f"{pct(s['intervals']['recall'][c][1])}]")
    for c, row in zip(a["recall"], a["confusion"]):
        assert f"{c} {box(a, c)} {box(b, c)}" in words
        assert f"{c} {' '.join(map(str, row))}" in words
    for g in ("head", "medium", "tail"): assert f"{g} {pct(a[g])} {pct(b[g])}" in words
    info = read_json(runs[0] / "config.json")
    for c, n in zip(info["classes"], info["train_counts"]): assert f"{c} {n} {pct(n / 21)}" in words
    # metrics.jsonl; what is null is a dash
    assert "1 2 1 1 0.5 – 0.1 1" in words and "2 1 0.5 0.5 0.5 – 0.2 1" in words
    assert (f"{pct(a['instance_auc'])} % of the cases" in words and f"On {a['instance_auc_clips']} clips of "
            "test_balanced" in words)


def test_what_was_run_and_the_limits(full):
    words = full[1].words
    for piece in ("epochs = 2", "lr = 0.5", "seed = 0", "micacl 1.2.3", "micacl train <here> --lr 0.5",
                  "SynFEW, 21 clips to train on", "mean pooling, r3d_small, 2 epochs, seed 1",
                  "clips/1.mp4: empty <file>", "never comparable", "has 3 test clips",
                  "One seed was trained"): assert piece in words, piece
    assert "batch_size =" not in words                                          # defaults are not listed


def test_moving_clips_one_a_class_and_still_for_reduced_motion(full):
    images = full[1].all("img")
    assert (len(images) == 7 and {a["alt"].rsplit(" ", 1)[1] for a in images} == {"happy", "sad", "neutral", "angry",
        "surprise", "disgust", "fear"})
    sources = full[1].all("source")
    assert len(sources) == 7 and all(a["media"] == "(prefers-reduced-motion: reduce)" for a in sources)


def test_weights_are_shown_for_right_and_wrong_clips(runs, full):
    with np.load(runs[0] / "predictions.npz") as z: p = {k: z[k] for k in z.files}
    shown = re.findall(r"(right|wrong) Clip (\d+): (\w+), named (\w+)\.", full[1].words)
    assert ({v for v, *_ in shown} == {"right", "wrong"} and len(shown) <= 6
            and [v for v, *_ in shown] == sorted(v for v, *_ in shown))
    classes = read_json(runs[0] / "config.json")["classes"]
    for verdict, clip, true, named in shown:
        k = int(np.flatnonzero(p["id"] == clip)[0])
        assert (p["split"][k] == "test_balanced" and classes[p["y"][k]] == true
                and classes[p["logits"][k].argmax()] == named)
        assert verdict == ("right" if true == named else "wrong") and 0 < p["positive"][k].sum() < 4
        label = next(a["aria-label"] for a in full[1].all("svg") if f"clip {clip} with" in a["aria-label"])
        assert ", ".join(f"{w:.2f}" for w in p["weights"][k]) in label and "apex covers" in label


def test_a_model_with_equal_weights_says_so(runs):
    assert "gives every instance the same weight" in check_page(write_report(runs[1])).words


def test_without_baseline_nothing_of_it_is_mentioned(runs, faces, tmp_path):
    words = check_page(write_report(runs[0], faces, out=tmp_path / "r.html")).words
    assert "baseline" not in words and "minus" not in words


def test_without_the_data_folder_the_numbers_remain(runs, tmp_path):
    info = read_json(runs[0] / "config.json")
    run = tmp_path / "moved"
    run.mkdir()
    for name in ("results.json", "predictions.npz"): (run / name).write_bytes((runs[0] / name).read_bytes())
    write_json(run / "config.json", {**info, "data": str(tmp_path / "gone")})       # and no metrics.jsonl either
    page = check_page(write_report(run))
    assert ("no pictures" in page.words and not page.all("img")
            and pct(read_json(run / "results.json")["tests"]["test"]["uar"]) in page.words)


def test_a_half_line_of_the_curves_is_one_line(runs, tmp_path):
    import shutil
    run = shutil.copytree(runs[0], tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lo')
    with pytest.raises(MicaclError, match="metrics.jsonl: expected a record"): write_report(run)


def test_a_broken_clip_is_passed_over(runs, faces, tmp_path):
    import shutil
    other = shutil.copytree(faces, tmp_path / "faces")
    for f in list((other / "clips").iterdir())[:14]: f.write_bytes(b"")
    page = check_page(write_report(runs[0], other, out=tmp_path / "r.html"))
    assert len(page.all("img")) <= 7


@pytest.fixture(scope="module")
def hostile(faces, tmp_path_factory):
    "A CSV data set without truth, whose classes and file names are HTML."
    root = tmp_path_factory.mktemp("csv")
    rows = []
    for i, clip in enumerate(sorted((faces / "clips").iterdir())[:20]):
        name = f"{i:02d} <b>&'.mp4"
        (root / name).write_bytes(clip.read_bytes())
        rows.append((name, EVIL[i % 5], "train" if i < 10 else "test"))
    with open(root / "clips.csv", "w", newline="") as f: csv.writer(f).writerows([("path", "label", "split"), *rows])
    return root


@pytest.mark.filterwarnings("ignore:Glyph")
def test_text_from_files_is_never_alive(hostile, tmp_path):
    classes = load_table(hostile).classes
    assert set(classes) == set(EVIL)
    run = make_run(tmp_path / "run", hostile, "csv", classes, skipped=EVIL)
    page = check_page(write_report(run, hostile))
    for name in EVIL: assert " ".join(name.split()) in page.words
    assert "<script" not in (run / "report.html").read_text() and len(page.all("img")) == 5
    assert "apex" not in page.words and "drawn by a program" not in page.words and "right Clip" in page.words


def test_unfinished_and_unlike_runs_are_refused_in_one_line(runs, hostile, tmp_path):
    with pytest.raises(MicaclError, match="config.json"): write_report(tmp_path / "nowhere")
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text((runs[0] / "config.json").read_text())
    with pytest.raises(MicaclError, match="found no results.json"): write_report(half)
    (half / "results.json").write_text((runs[0] / "results.json").read_text())
    (half / "predictions.npz").write_bytes(b"PK")
    with pytest.raises(MicaclError, match="predictions.npz"): write_report(half)
    other = make_run(tmp_path / "other", hostile, "csv", load_table(hostile).classes)
    with pytest.raises(MicaclError, match="expected the classes"): write_report(runs[0], baseline=other)


def test_paired_difference_by_hand_and_by_a_slow_bootstrap():
    y, a, b = [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]
    d, low, high = run_difference(y, a, b)
    assert d == pytest.approx((2 / 4 - 1 / 2) / 2) and low < 0 < high
    assert run_difference(y, a, a) == (0, 0, 0) and run_difference(y, b, a)[0] == -d
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 90); a, b = (np.where(rng.random(90) < q, y, (y + 1) % 3) for q in (.7, .5))
    r = metrics.paired_difference(y, [a], [b], 3, draws=2000)
    # one function, with one run of each
    assert run_difference(y, a, b) == (r["difference"], *r["interval"])
    slow = []
    for _ in range(2000):
        take = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in range(3)])
        slow.append(np.mean([np.mean((a[take] == c)[y[take] == c]) - np.mean((b[take] == c)[y[take] == c])
                             for c in range(3)]))
    assert np.allclose(run_difference(y, a, b)[1:], np.quantile(slow, [.025, .975]), atol=.02)


def test_demo_makes_everything_once_and_goes_on(tmp_path, monkeypatch, capsys):
    tiny = dict(data=dict(n_train=14, n_test=7, n_frames=8, size=32),
                run=dict(epochs=1, batch_size=7, image_size=32, pretrained=False, mccl_args=dict(out_dim=16)))
    real, calls = demo_module.train, []
    def stop(*args, **kwargs):
        calls.append(args[2].model)
        if calls == ["micacl", "mean"]: raise KeyboardInterrupt
        return real(*args, **kwargs)
    monkeypatch.setattr(demo_module, "train", stop)
    with pytest.raises(KeyboardInterrupt): demo(tmp_path, quiet=True, settings=tiny)
    path, ours, theirs = demo(tmp_path, quiet=True, settings=tiny)
    assert calls == ["micacl", "mean", "mean"] and capsys.readouterr().out == ""
    assert path == tmp_path / "report.html" and "minus UAR of mean pooling" in check_page(path).words
    assert ((ours["model"], theirs["model"]) == ("micacl", "mean")
            and ours == read_json(tmp_path / "micacl/results.json"))


# ---- pages

def test_svg_has_ink_of_the_page_and_ids_of_its_own():
    a, b = (pages.inline_svg(plot_confusion(np.eye(3), list("abc")), 'alt "text"', key) for key in "xy")
    assert (INK not in a and "currentColor" in a and "alt &#34;text&#34;" in a and "<metadata" not in a
            and "<!--" not in a)
    ids = [set(re.findall(r'\bid="([^"]+)"', s)) for s in (a, b)]
    assert ids[0] and not ids[0] & ids[1] and set(re.findall(r"url\(#([^)]+)\)", a)) <= ids[0]
    assert a == pages.inline_svg(plot_confusion(np.eye(3), list("abc")), 'alt "text"', "x")            # no random ids


def test_moving_picture_keeps_the_frames_and_thins_out_long_clips():
    import base64, io
    from PIL import Image
    frames = np.zeros((80, 40, 60, 3), np.uint8)
    for t in range(80): frames[t, :, :t * 60 // 80 + 1] = 255                               # a bar that grows
    uri = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', pages.moving_picture(frames, "x"))[0]
    im = Image.open(io.BytesIO(base64.b64decode(uri)))
    assert im.n_frames == 27 and im.size == (60, 40)                                        # every third of 80
    im.seek(10); assert abs(np.asarray(im.convert("L")).mean() / 255 * 60 - 23) < 1.5       # frame 30 of the clip
    still = Image.open(io.BytesIO(base64.b64decode(re.findall(r'srcset="data:image/webp;base64,([^"]+)"',
                                                              pages.moving_picture(frames[:1], "x"))[0])))
    assert getattr(still, "n_frames", 1) == 1
    big = Image.open(io.BytesIO(base64.b64decode(pages.webp(np.zeros((1, 300, 200, 3), np.uint8)).split(",")[1])))
    assert max(big.size) == 96


def test_escaping_of_text_attributes_and_cells():
    evil = '<i a="b">&\''
    shown = pages.render_template("clips.html", clips=dict(shown=[dict(picture=pages.Markup("<br>"), label=evil,
        id=evil)]))
    assert "<br>" in shown and "<i" not in shown and shown.count("&lt;i a=&#34;b&#34;&gt;&amp;&#39;") == 2
    assert evil in Page(pages.moving_picture(np.zeros((1, 8, 8, 3), np.uint8), evil)).all("img")[0]["alt"]
    table = pages.render_template("table.html", head=[evil], bodies=[[[evil, evil]]], notes=[evil], caption=evil)
    assert Page(table).text.count(evil) == 5 and not Page(table).all("i")
    parts = pages._templates().get_template("parts.html").module
    table = Page(parts.number_table("<c>", ("<h>", ""), [("<r>", "<d>", 3)]))
    assert not table.errors and [t for t, _ in table.tags if len(t) == 1] == [] and table.words == "<c> <h> <r> <d> 3"
    assert pages.percent(float("nan")) == pages.percent(None) == "–" and pages.percent(.0004) == "0.0"


def test_a_place_that_is_given_nothing_is_an_error():
    with pytest.raises(UndefinedError, match="'limits' is undefined"): pages.render_template("limits.html")


@pytest.mark.parametrize("file", sorted((Path(pages.__file__).parent / "templates").glob("*.html")),
                         ids=lambda p: p.stem)
def test_templates_load_nothing_and_switch_no_escaping_off(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|<script|<link|https?:|\bon\w+=", text)
    assert max(map(len, text.splitlines())) <= 120


def test_a_moving_figure_ends_with_its_last_picture_and_leaves_no_figure_open():
    import base64, io
    import matplotlib.pyplot as plt
    from PIL import Image
    def draw(k):
        fig = plt.figure(figsize=(4, 2), facecolor=(k / 2, 0, 0))
        return fig
    before = plt.get_fignums()
    html = pages.moving_figure(draw, 3, "three reds", ms=100, width=200)
    assert plt.get_fignums() == before
    img = Page(html).all("img")[0]
    assert (img["alt"], img["width"], img["height"]) == ("three reds", "200", "100")
    read = lambda name: Image.open(io.BytesIO(base64.b64decode(
        re.findall(rf'{name}="data:image/webp;base64,([^"]+)"', html)[0])))
    moving, still = read("src"), read("srcset")
    assert moving.n_frames == 3 and moving.size == still.size == (300, 150) and getattr(still, "n_frames", 1) == 1
    reds, durations = [], []
    for k in range(3):
        moving.seek(k); moving.load()
        reds.append(moving.convert("RGB").getpixel((150, 75))[0]); durations.append(moving.info["duration"])
    assert reds == sorted(reds) and reds[0] < 10 and reds[2] > 240 and durations == [100, 100, 1500]
    assert still.convert("RGB").getpixel((150, 75))[0] > 240
