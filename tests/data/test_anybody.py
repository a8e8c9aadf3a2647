"""Anybody's data, from the list to the printed table: made-up classes, videos and folders of pictures, one frame
and many, people in groups, folds."""
import csv
import json

import numpy as np
import pytest

from micacl.core import MicaclError, read_json
from micacl.train.config import Config
from micacl.data.load import check_dataset, load_table, make_folds, write_clips
from micacl.data.table import divided_groups
from micacl.show.tables import fold_rows, matrix_table, method_rows, read_results, results_table

FIVE = ["Bored", "left, then right", "Łódź ☂", "笑顔", "50 %"]
SEVENTY = [f"класс №{i} 🙂" if i % 3 else f"mood <{i}> & more_{i}" for i in range(70)]
TINY = dict(pretrained=False, n_instances=2, instance_length=4, image_size=32, epochs=2, batch_size=16,
            mccl_args=dict(out_dim=16))


def video(path, n, shade, codec="mpeg4"):
    import av
    with av.open(str(path), "w") as box:
        v = box.add_stream(codec, rate=25)
        v.width, v.height, v.pix_fmt = 48, 32, "yuv420p"
        for i in range(n):
            frame = np.full((32, 48, 3), shade, np.uint8)
            frame[:, (4 * i) % 48] = 255
            for packet in v.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")): box.mux(packet)
        for packet in v.encode(None): box.mux(packet)


def pictures(path, n, shade):
    from PIL import Image
    path.mkdir(parents=True)
    for k in range(n):
        Image.fromarray(np.full((30, 30, 3), (shade + 5 * k) % 256,
                                np.uint8)).save(path / f"{k + 1}.{'png' if k % 2 else 'jpg'}")


def own_data(root, names, per_class, people=12):
    "Clips of 1, 2, 5 and 12 frames in turn; every other one a folder of pictures; rows written with either slash."
    home = root / "my clips" / "day 1"
    home.mkdir(parents=True)
    rows = []
    for i in range(len(names) * per_class):
        y, n = i % len(names), (1, 2, 5, 12)[i // 2 % 4]
        shade = 20 + 200 * y // len(names)
        if i % 2: pictures(home / f"clip {i}", n, shade)
        else: video(home / f"clip {i}.{'avi' if i % 4 else 'mp4'}", n, shade)
        name = f"clip {i}" if i % 2 else f"clip {i}.{'avi' if i % 4 else 'mp4'}"
        rows.append([f"my clips\\day 1\\{name}" if i % 3 else f"my clips/day 1/{name}", names[y],
                     f"person {i // len(names) % people}"])
    with open(root / "everything.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([["path", "label", "group"], *rows])
    return root / "everything.csv"


@pytest.fixture(scope="module", params=[(FIVE, 12, 12), (SEVENTY, 3, 3)], ids=["5 classes", "70 classes"])
def folds(request, tmp_path_factory):
    "A data set of its own and its three folds."
    names, per_class, people = request.param
    root = tmp_path_factory.mktemp("somebody's data")
    table = load_table(own_data(root, names, per_class, people))
    assert not table.problems and len(table) == len(names) * per_class and (table.counts == per_class).all()
    assert sorted(table.classes) == sorted(n.lower() for n in names)
    dealt = make_folds(table, 3)
    write_clips(dealt, root / "folds.csv")
    return root / "folds.csv", dealt


def test_what_the_list_says_is_what_is_read(folds):
    file, dealt = folds
    table = load_table(file)
    assert table.source == file and table.select(fold=1).source == file and table.root == file.parent
    assert table.clips == dealt.clips and table.classes == dealt.classes and not table.problems and not table.notes
    assert divided_groups(table) == [] and table.folds == [1, 2, 3] and all(c.path.exists() for c in table)
    assert {c.path.is_dir() for c in table} == {True, False}
    from micacl.data.bags import read_frames
    report = check_dataset(file, decode=read_frames, progress=False)
    assert (report.ok and not report.problems and report.verdict == f"usable, {len(table)} clips"
            and sum(report.counts["fold 2"]) == len(table.select(fold=2)))
    assert json.loads(json.dumps(report.to_dict()))["classes"] == list(table.classes)
    with pytest.raises(MicaclError, match=r'--fold 1; in an experiment "folds": \[1, 2, 3\]'): table.protocol()


def test_trains_with_mccl_tests_every_class_and_reports(folds, tmp_path):
    from micacl.show.report import write_report
    from micacl.train.loop import evaluate, train
    file, dealt = folds
    C = len(dealt.classes)
    with np.errstate(invalid="raise"):
        r = train(file, tmp_path / "run", Config(**TINY, mccl_weight=1.0, seed=3), fold=2, quiet=True)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["epoch"] for x in lines] == [1, 2] and all(np.isfinite(x["mccl"]) and x["mccl"] > 0 for x in lines)
    tested = dealt.select(fold=2)
    # the last epoch, not the best
    assert (r["epoch"] == 2 and r["skipped"] == [] and list(r["recall"]) == list(dealt.classes)
            and np.shape(r["confusion"]) == (C, C))
    assert np.sum(r["confusion"], 1).tolist() == tested.counts.tolist() and r["n_test"] == len(tested)
    z = np.load(tmp_path / "run" / "predictions.npz")
    assert z["id"].tolist() == [c.id for c in tested] and z["logits"].shape == (len(tested), C)
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    assert (r["uar"] == pytest.approx(balanced_accuracy_score(z["y"], z["logits"].argmax(1)), abs=1e-9)
            and r["war"] == pytest.approx(accuracy_score(z["y"], z["logits"].argmax(1))))
    info = read_json(tmp_path / "run" / "config.json")
    assert info["n_train"] + info["n_validation"] + r["n_test"] == len(dealt) and info["classes"] == list(dealt.classes)
    assert evaluate(tmp_path / "run", file)["confusion"] == r["confusion"]
    page = write_report(tmp_path / "run", file).read_text(encoding="utf-8")
    assert ("<script>alert" not in page and all(name.replace("&", "&amp;").replace("<", "&lt;").replace(">",
        "&gt;") in page for name in dealt.classes))


def test_the_command_ends_well_where_two_lists_lie_side_by_side(folds, tmp_path, capsys):
    "The report looks for the clips again: in the list that was trained on, not in the folder with its two lists."
    from micacl.cli import main
    file, _ = folds
    written = lambda v: [f"{name}={x}" for name, x in v.items()] if isinstance(v, dict) else [str(v)]
    options = [x for k, v in dict(TINY, epochs=1).items() if k != "pretrained"
               for x in ("--" + k.replace("_", "-"), *written(v))]
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--fold", "1", "--quiet", "--no-pretrained",
                 *options]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").exists()


def test_experiment_over_folds_and_the_table(folds, tmp_path, capsys):
    from micacl.cli import main
    file, dealt = folds
    C = len(dealt.classes)
    (tmp_path / "spec.json").write_text(json.dumps(dict(data=str(file), folds=[1, 2, 3], seeds=[1],
                                                        base=dict(TINY, epochs=1), methods={"MICACL": {},
                                                            "mean & co_1": dict(model="mean", mccl_weight=0.0)},
                                                            compare=[["MICACL", "mean & co_1"]])))
    assert main(["experiment", str(tmp_path / "spec.json"), "--out", str(tmp_path / "x"), "--processes", "1"]) == 0
    assert "FAILED" not in capsys.readouterr().out
    s = read_json(tmp_path / "x" / "summary.json")
    assert s["failed"] == 0 and len(s["comparisons"]) == 1
    for m in s["methods"].values():
        pooled = m["tests"]["test"]["pooled"]
        # every clip once
        assert np.sum(pooled["confusion"], 1).tolist() == dealt.counts.tolist() and pooled["n_test"] == len(dealt)
    results = read_results(tmp_path / "x")
    rows = {r.name: r for r in method_rows(results)}
    assert (rows["MICACL"].uar == pytest.approx(100 * s["methods"]["MICACL"]["tests"]["test"]["pooled"]["uar"]["mean"])
            and list(rows["MICACL"].recall) == list(dealt.classes))
    assert [r.name for r in fold_rows([r for r in results if r.method == "MICACL"])] == ["fold 1", "fold 2", "fold 3",
        "mean of 3 folds", "pooled"]
    for format in ("text", "latex", "html", "markdown"):
        table = results_table(rows.values(), format)
        assert len(table.splitlines()) >= 3 and "nan" not in table
        assert len(matrix_table([r for r in results if r.method == "MICACL"], format).splitlines()) >= C
    assert r"mean \& co\_1" in results_table(rows.values(), "latex")
    assert (main(["table", str(tmp_path / "x"), "--format", "latex"]) == 0
            and r"\begin{tabular}" in capsys.readouterr().out)
