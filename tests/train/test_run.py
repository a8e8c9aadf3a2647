"Run folders: data in, checkpoints that survive, one run a folder."
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from micacl.train import run as runs
from micacl.core import MicaclError, write_json
from micacl.train.config import Config
from micacl.train.run import check_same, hold_folder, load_run, open_run, read_config
from micacl.train.checkpoint import (
    find_checkpoint, resume_hint, load_checkpoint, read_tensors, save_checkpoint, write_tensors
)


def parts(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    loss = nn.Linear(2, 2)
    return net, loss, torch.optim.AdamW([dict(params=net.parameters(), weight_decay=.1),
                                         dict(params=loss.parameters())], lr=1e-2)


def step(net, loss, optimizer, seed):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad(); loss(net(x)).square().mean().backward(); optimizer.step()


def same(a, b):
    return all(torch.equal(p, q) for m, n in zip(a[:2], b[:2]) for p,
               q in zip(m.state_dict().values(), n.state_dict().values()))


def test_a_resumed_optimiser_continues_to_the_bit(tmp_path):
    a, b = parts(), parts(1)
    for i in range(3): step(*a, i)
    save_checkpoint(tmp_path, *a, dict(epoch=3, history=[dict(loss=0.1 + 0.2)], scaler=None))
    state = load_checkpoint(tmp_path, *b)
    assert state == dict(epoch=3, history=[dict(loss=0.1 + 0.2)], scaler=None) and same(a, b)
    for i in range(3, 6): step(*a, i); step(*b, i)
    assert same(a, b)


def test_the_records_of_a_run_and_a_line_that_was_cut(tmp_path):
    assert runs.read_history(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": null}\n')
    assert runs.read_history(tmp_path) == [dict(epoch=1, loss=.5), dict(epoch=2, loss=None)]
    for text in ('{"epoch": 1}\n{"epoch": 2, "lo', "[1]\n", "\xff"):
        (tmp_path / "metrics.jsonl").write_text(text, encoding="latin-1")
        with pytest.raises(MicaclError,
                           match="metrics.jsonl: expected a record .* for each epoch, found something else") as e:
            runs.read_history(tmp_path)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("classes, found", [
    (["sad", "happy", "sad"], r"different names, found \['sad', 'happy', 'sad'\]"), ([], "a list of names"),
    ("sad", "a list of names"), ([1], "a list of names")])
def test_the_classes_of_a_run_are_different_names(tmp_path, classes, found):
    info = dict(config=Config().to_dict(), classes=classes, dataset="own", data=".", fold=None, train_counts=[],
                train_clips=[])
    write_json(tmp_path / "config.json", dict(info, classes=["sad", "happy"]))
    assert read_config(tmp_path)[1]["classes"] == ["sad", "happy"]
    write_json(tmp_path / "config.json", info)
    with pytest.raises(MicaclError, match=f"config.json: .*classes: expected {found}"): read_config(tmp_path)


def test_without_a_checkpoint_nothing_changes(tmp_path):
    a, b = parts(), parts()
    assert load_checkpoint(tmp_path, *a)["epoch"] == 0 and same(a, b)


class Killed(BaseException): pass


@pytest.mark.parametrize("when", range(11))
def test_a_kill_at_any_step_of_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, when):
    "Every file-system call of `save_checkpoint` in turn is where the process dies."
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))
    first = {k: v.clone() for k, v in a[0].state_dict().items()}
    step(*a, 1)
    second = a[0].state_dict()
    calls = iter(range(100))
    def deadly(f):
        def g(*args, **kwargs):
            if next(calls) == when: raise Killed
            return f(*args, **kwargs)
        return g
    with monkeypatch.context() as m:
        m.setattr(runs.shutil, "rmtree", deadly(runs.shutil.rmtree)); m.setattr(Path, "rename", deadly(Path.rename))
        m.setattr(Path, "mkdir", deadly(Path.mkdir)); m.setattr(os, "replace", deadly(os.replace))
        try: save_checkpoint(tmp_path, *a, dict(epoch=2, history=[], scaler=None)); died = False
        except Killed: died = True
    # 3 rmtree, 1 mkdir, 4 files, 2 renames
    assert died == (when < 10), "the list of steps has changed: adapt the range"
    for _ in range(2):      # and again after the next save, which has to clean up
        b = parts(1)
        epoch = load_checkpoint(tmp_path, *b)["epoch"]
        expected = first if epoch == 1 else second
        assert all(torch.equal(v, expected[k]) for k, v in b[0].state_dict().items())
        save_checkpoint(tmp_path, *b, dict(epoch=epoch, history=[], scaler=None))
        assert find_checkpoint(tmp_path).name == "checkpoint"


def test_safetensors_files_are_read_by_the_library_itself(tmp_path):
    tensors = dict(a=torch.arange(6.).view(2, 3).t(), b=torch.tensor(3), c=torch.zeros(0))
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())
    assert all(torch.equal(v, tensors[k]) for k, v in read_tensors(tmp_path / "x.safetensors").items())


@pytest.mark.parametrize("content", [None, b"", b"x", b"\x80\x04not a tensor" * 100])
def test_damaged_weights_are_named_in_one_line(tmp_path, content):
    f = tmp_path / "model.safetensors"
    if content is not None: f.write_bytes(content)
    with pytest.raises(MicaclError) as e: read_tensors(f)
    assert str(f) in str(e.value) and "\n" not in str(e.value)


# ---- the folder

HOLD = ("import sys, time; from pathlib import Path; from micacl.train.run import hold_folder\nwith "
        "hold_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)")


def test_a_killed_process_leaves_no_lock(tmp_path):
    p = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == "held\n"
        with pytest.raises(MicaclError, match=f"process {p.pid}"):
            with hold_folder(tmp_path): pass
    finally: p.kill(); p.wait()
    with hold_folder(tmp_path): pass


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(MicaclError, match="expected a folder"):
        with hold_folder(tmp_path / "f"): pass


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / ".lock").touch()
    assert open_run(tmp_path, None, False) == Config()
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(MicaclError, match="metrics.jsonl.*resume"): open_run(tmp_path, Config(), False)
    write_json(tmp_path / "config.json", dict(config=Config(lr=0.5).to_dict(), classes=["a"], dataset="csv", data="/x",
                                              fold=None, train_counts=[1], train_clips="0"))
    assert open_run(tmp_path, None, True) == Config(lr=0.5)
    with pytest.raises(MicaclError, match="epochs"): open_run(tmp_path, Config(epochs=0), True)


@pytest.mark.parametrize("change", [dict(lr=0.1), dict(seed=1), dict(epochs=11), dict(mccl_args=dict(scales=(1, 2)))])
def test_only_the_same_run_is_resumed(change):
    describe = lambda config, **kw: dict(dict(config=config.to_dict(), dataset="csv", fold=1, classes=["a"],
                                              train_clips="0"), **kw)
    check_same("run", describe(Config()), describe(Config(workers=3)))
    # JSON knows no tuples, and the first edition had all arguments among the fields
    check_same("run", dict(describe(Config()), config=dict(Config().to_dict(), mccl_args=dict(scales=[1, 2, 4]))),
               describe(Config()))
    check_same("run", dict(describe(Config()), config=dict(hops=1, mccl_scales=[1, 4], wian_layers=2)),
               describe(Config(mccl_args=dict(scales=(1, 4)), model_args=dict(layers=2))))
    with pytest.raises(MicaclError, match=next(iter(change))):
        check_same("run", describe(Config()), describe(dataclasses.replace(Config(), **change)))
    for kw in (dict(fold=2), dict(train_clips="1"), dict(classes=["b"]), dict(dataset="dfew")):
        with pytest.raises(MicaclError, match=next(iter(kw))):
            check_same("run", describe(Config()), describe(Config(), **kw))


def test_nothing_to_load(tmp_path):
    with pytest.raises(MicaclError, match="config.json"): load_run(tmp_path)


@pytest.mark.parametrize("when", range(9))
def test_a_second_kill_after_a_first_one_between_the_renamings(tmp_path, monkeypatch, when):
    "The first kill left `checkpoint.old` and a whole `checkpoint.new`; the next save starts by removing the latter."
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))
    first = {k: v.clone() for k, v in a[0].state_dict().items()}
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    calls = iter(range(100))
    def deadly(f):
        def g(*args, **kwargs):
            if next(calls) == when: raise Killed
            return f(*args, **kwargs)
        return g
    step(*a, 1)
    with monkeypatch.context() as m:
        m.setattr(runs.shutil, "rmtree", deadly(runs.shutil.rmtree)); m.setattr(Path, "rename", deadly(Path.rename))
        m.setattr(Path, "mkdir", deadly(Path.mkdir)); m.setattr(os, "replace", deadly(os.replace))
        try: save_checkpoint(tmp_path, *a, dict(epoch=2, history=[], scaler=None))
        except Killed: pass
    b = parts(1)
    epoch = load_checkpoint(tmp_path, *b)["epoch"]
    expected = first if epoch == 1 else a[0].state_dict()
    assert epoch in (1, 2) and all(torch.equal(v, expected[k]) for k, v in b[0].state_dict().items())


# ---- what a kill or a stranger leaves

INFO = dict(config=Config().to_dict(), classes=["a", "b"], dataset="csv", data="/x", fold=None, train_counts=[1, 1],
            train_clips="0")


def test_what_a_killed_run_left_is_swept_and_the_rest_is_not(tmp_path):
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()      # killed between the renamings of an unfinished save
    for name in (".model.safetensors.abc.tmp", ".results.json.abc.tmp", ".mine.tmp", "notes.tmp"):
        (tmp_path / name).touch()
    write_json(tmp_path / "config.json", INFO)
    open_run(tmp_path, None, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.tmp", "checkpoint", "config.json", "notes.tmp"]
    assert load_checkpoint(tmp_path, *parts(1))["epoch"] == 1


ORPHAN = """
import fcntl, os, sys, time
from pathlib import Path
run = Path(sys.argv[1]); run.mkdir()
f = open(run / ".lock", "w"); fcntl.flock(f, fcntl.LOCK_EX)
(run / ".pid").write_text(str(os.getpid()))
if not os.fork():     # a loader process: it has a copy of the lock (newer versions of filelock take it away)
    time.sleep(float(sys.argv[2])); os._exit(0)
print("held", flush=True); os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name != "posix", reason="no fork on this system")
def test_a_dead_runs_loader_processes_are_waited_for(tmp_path):
    import time
    p = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "run"), "1.5"], stdout=subprocess.PIPE)
    p.stdout.readline(); p.wait()
    begin = time.monotonic()
    with hold_folder(tmp_path / "run"): pass
    assert 0.3 < time.monotonic() - begin < 20


def test_a_checkpoint_without_its_state_is_not_taken_for_none(tmp_path):
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=2, history=[], scaler=None))
    assert resume_hint(tmp_path).startswith("2 finished epochs are kept")
    (tmp_path / "checkpoint" / "state.json").unlink()
    with pytest.raises(MicaclError, match="state.json.*starts again from the first epoch"):
        load_checkpoint(tmp_path, *parts())


@pytest.mark.parametrize("state", [[], dict(epoch=1), dict(epoch="1", history=[], scaler=None),
                                   dict(epoch=True, history=[], scaler=None), dict(epoch=-1, history=[], scaler=None),
                                   dict(epoch=1, history={}, scaler=None)])
def test_a_state_that_nobody_saved(tmp_path, state):
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, state)
    with pytest.raises(MicaclError, match="found a damaged one"): load_checkpoint(tmp_path, *parts())


def test_weights_of_another_model_are_one_line(tmp_path):
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))
    for file, tensors in (("model.safetensors", {"x": torch.ones(3)}),
                          ("optimizer.safetensors", {"many.words.here": torch.ones(1)}),
                          ("optimizer.safetensors", {"x": torch.ones(1)})):
        write_tensors(tmp_path / "checkpoint" / file, tensors)
        with pytest.raises(MicaclError, match="found a damaged one") as e: load_checkpoint(tmp_path, *parts())
        assert "\n" not in str(e.value) and len(str(e.value)) < 500 + len(str(tmp_path))
        save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))


def test_a_full_disk_gives_its_room_back(tmp_path, monkeypatch):
    a = parts(); step(*a, 0)
    save_checkpoint(tmp_path, *a, dict(epoch=1, history=[], scaler=None))
    def full(*args): raise OSError(28, "No space left on device")
    monkeypatch.setattr("micacl.train.checkpoint.write_json", full)
    with pytest.raises(OSError): save_checkpoint(tmp_path, *a, dict(epoch=2, history=[], scaler=None))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"] and load_checkpoint(tmp_path, *parts())["epoch"] == 1


def test_a_configuration_that_runs_write_is_read(tmp_path):
    config = Config(lr=1e30, seed=10**15, mccl_args=dict(scales=(1, 2)), workers=0, warmup_epochs=3)
    write_json(tmp_path / "config.json", {**INFO, "config": config.to_dict()})
    assert read_config(tmp_path)[0] == config and read_config(tmp_path)[1]["classes"] == ["a", "b"]


@pytest.mark.parametrize("change", [dict(n_instances=10**9), dict(n_instances=4.5), dict(n_instances=True),
                                    dict(model_args=dict(layers=10**6)), dict(model_args=[]),
                                    dict(mccl_args=dict(nobody=1)), dict(epochs="3"), dict(pretrained=1), dict(lr=None),
                                    dict(lr="fast"),
                                    dict(kernels=[10**9]), dict(kernels=3), dict(kernels=[1] * 99),
                                    dict(mccl_args=dict(scales=["a"])), dict(model=["micacl"]), dict(model="vit"),
                                    dict(seed=-1),
                                    dict(nobody=1)])
def test_a_configuration_that_no_run_writes_is_one_line(tmp_path, change):
    write_json(tmp_path / "config.json", {**INFO, "config": {**Config().to_dict(), **change}})
    with pytest.raises(MicaclError, match="config.json: expected") as e: read_config(tmp_path)
    assert next(iter(change)) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("info", [[], 3, {}, {**INFO, "classes": 3}, {**INFO, "classes": []},
                                  {**INFO, "classes": [1, 2]}, {**INFO, "config": []},
                                  {k: v for k, v in INFO.items() if k != "train_clips"}])
def test_a_description_that_no_run_writes_is_one_line(tmp_path, info):
    write_json(tmp_path / "config.json", info)
    with pytest.raises(MicaclError, match="config.json: expected") as e: read_config(tmp_path)
    assert "\n" not in str(e.value)
