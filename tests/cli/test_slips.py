"""Slips of the hand that cost something: a file that is written over a clip or over the list it is made from, a place
that can't be written to and is found out at the end, a run that is not there, runs of two data sets in one row."""
import runpy
import sys

import numpy as np
import pytest

from micacl import cli
from micacl.core import MicaclError, write_json
from micacl.data.load import load_table
from micacl.deploy.export import export
from micacl.deploy.filenames import check_target
from micacl.metrics import summarise
from micacl.models import MICACL
from micacl.show.tables import Result, read_results

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(40)
LIST = "path,label\n" + "".join(f"c{i}.mp4,{('happy', 'sad')[i % 2]}\n" for i in range(8))


@pytest.fixture
def clips(tmp_path):
    "Eight files that begin as videos do, in a list of their own."
    for i in range(8): (tmp_path / f"c{i}.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes([i] * 40))
    (tmp_path / "clips.csv").write_text(LIST)
    return tmp_path


def refused(capsys, *argv):
    "The one line of a command that ends with status 1."
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("micacl: ") and err.count("\n") == 1, err
    return err


# ---- files that are written

def test_a_clip_is_no_place_for_a_file(clips):
    (clips / "picture").write_bytes(PICTURE)
    for name in ("c0.mp4", "picture"):
        before = (clips / name).read_bytes()
        with pytest.raises(MicaclError, match=f"{name}: .*found a video or a picture there"): check_target(clips / name)
        assert (clips / name).read_bytes() == before


def test_neither_is_a_folder_nor_one_that_is_missing(clips):
    with pytest.raises(MicaclError, match="found a folder"): check_target(clips)
    with pytest.raises(MicaclError, match="found no folder .*gone"): check_target(clips / "gone" / "scores.json")
    with pytest.raises(MicaclError, match="found no folder"): check_target(clips / "clips.csv" / "scores.json")


def test_other_files_are_replaced(clips, monkeypatch):
    (clips / "empty").touch()
    monkeypatch.chdir(clips)
    for name in ("clips.csv", "empty", "new.onnx"): check_target(name)


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev")
def test_a_device_is_a_place_for_a_file():
    for name in ("/dev/null", "/dev/stdout"): check_target(name)


@pytest.mark.parametrize("command", ["folds DATA --k 2 --out CLIP", "tail DATA --out CLIP",
                                     "evaluate RUN DATA --json CLIP", "export RUN CLIP",
                                     "export RUN CLIP --format torch", "bench --json CLIP"])
def test_no_command_writes_over_a_clip(clips, capsys, command):
    clip = clips / "c0.mp4"
    before = clip.read_bytes()
    words = {"DATA": clips, "CLIP": clip, "RUN": clips / "no-run"}
    assert "found a video or a picture there" in refused(capsys, *(words.get(w, w) for w in command.split()))
    assert clip.read_bytes() == before


def test_export_says_at_once_that_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("micacl.deploy.export.trace", lambda *_: pytest.fail("the model was traced first"))
    with pytest.raises(MicaclError, match="found no folder"):
        export(MICACL(3, "r3d_small", pretrained=False), tmp_path / "gone" / "m.onnx")


@pytest.mark.parametrize("command", ["folds", "tail"])
@pytest.mark.parametrize("named", ["folder", "list", "other"])
def test_a_list_is_not_written_over_the_one_it_is_made_from(clips, capsys, command, named):
    if named == "other": (clips / "clips.csv").rename(clips / "mine.csv")
    file = clips / ("mine.csv" if named == "other" else "clips.csv")
    data = file if named == "list" else clips
    err = refused(capsys, command, data, "--out", file)
    assert f"{file.name}: expected a new list, found the one" in err and "--out" in err
    assert file.read_text() == LIST


def test_a_list_that_was_made_is_made_again(clips, capsys):
    for seed in (0, 1, 1):
        assert cli.main(["folds", str(clips), "--k", "2", "--seed", str(seed), "--out", str(clips / "folds.csv")]) == 0
    assert len(load_table(clips / "folds.csv")) == 8 and (clips / "clips.csv").read_text() == LIST


# ---- runs that are not there, or may not be written to

@pytest.mark.parametrize("command", ["evaluate", "table"])
def test_a_run_that_is_not_there(clips, capsys, command):
    err = refused(capsys, *(command, clips / "gone", *[clips] * (command == "evaluate")))
    assert "gone: expected a run folder, found nothing there; check the path" in err


def test_a_run_to_predict_with_that_is_not_there(clips, capsys):
    err = refused(capsys, "predict", clips / "gone", clips / "c0.mp4", "--no-crop", "--out", clips / "out")
    assert "gone: expected a run folder, a shared model or the name of one of the package, found nothing there" in err


def test_a_folder_that_is_no_run(clips, capsys):
    assert "expected a run folder, found one without config.json" in refused(capsys, "evaluate", clips, clips)


@pytest.mark.parametrize("out", [(), ("--out", "OUT")])
def test_a_run_folder_that_is_read_only_is_named_before_the_evaluation(clips, capsys, monkeypatch, out):
    write_json(clips / "config.json", {})
    monkeypatch.setattr("micacl.deploy.commands.os.access", lambda path, mode: str(path) != str(clips))
    monkeypatch.setattr("micacl.train.loop.evaluate", lambda *_, **__: pytest.fail("it was evaluated first"))
    err = refused(capsys, "evaluate", clips, clips, *(str(clips) if w == "OUT" else w for w in out))
    assert "expected a folder that can be written to, found none" in err and "--out FOLDER" in err


# ---- rows of a table

def results_of(folder, dataset, fold, seed=1):
    y = np.array([0, 1, 1, 2])
    s = summarise(y, np.eye(3)[[0, 1, 2, 2]], ("a", "b", "c"), np.array([1, 2, 1]))
    folder.mkdir()
    write_json(folder / "results.json", dict(model="micacl", dataset=dataset, fold=fold, seed=seed, tests=dict(test=s)))
    return folder


def test_runs_of_two_data_sets_are_no_folds_of_one_method(tmp_path):
    a, b = results_of(tmp_path / "a", "csv", None), results_of(tmp_path / "b", "dfew", 1)
    for paths in ((a, b), (f"A={a}", f"B={b}")):
        with pytest.raises(MicaclError, match="expected runs on csv.*found one on dfew; make a table for each"):
            read_results(*paths)


def test_a_fixed_test_set_is_no_fold(tmp_path):
    a, b = results_of(tmp_path / "a", "csv", None), results_of(tmp_path / "b", "csv", 1)
    with pytest.raises(MicaclError, match="micacl: expected folds or a fixed test set, found both; .*NAME=PATH"):
        read_results(a, b)
    assert [r.fold for r in read_results(f"A={a}", f"B={b}")] == [None, 1]


def test_a_file_that_does_not_name_its_data_set_goes_with_any(tmp_path):
    a, b = results_of(tmp_path / "a", "", 1), results_of(tmp_path / "b", "dfew", 2)
    assert [type(r) for r in read_results(a, b)] == [Result, Result]


# ---- help and the name of the program

def test_options_have_their_comments_in_every_python():
    import inspect
    from micacl.train.config import ClipSettings
    from micacl.train.options import option_group
    made = option_group(ClipSettings).constructor_factory()
    assert inspect.getsource(made) == inspect.getsource(ClipSettings)


def test_the_package_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["micacl", "--version"])
    with pytest.raises(SystemExit) as e: runpy.run_module("micacl", run_name="__main__")
    assert e.value.code == 0 and capsys.readouterr().out.startswith("micacl ")
