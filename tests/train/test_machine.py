"Which arithmetic is chosen and written down, memory that is kept, and the record of a machine."
import ctypes
import dataclasses
import json
import platform
import subprocess
import sys
import time

import pytest
import torch

from micacl.core import read_json, write_json
from micacl.data.synfew.generate import generate
from micacl.train import evaluation, experiments, machine as M
from micacl.train.config import Config
from micacl.train.evaluation import evaluate, make_accelerator, settle_arithmetic
from micacl.train.experiments import run_experiment
from micacl.train.loop import train
from micacl.train.machine import (Arithmetic, choose_arithmetic, instructions, machine, machine_line, memory_kept,
                                  speed_up)
from micacl.models import MODELS

TINY = Config(model="mean", pretrained=False, n_instances=2, image_size=32, epochs=1, batch_size=8, warmup_epochs=0.0,
              mccl_weight=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arithmetic") / "synfew"
    generate(folder, n_train=28, n_test=14, n_frames=9, size=32, seed=3, workers=1, progress=False)
    return folder


@pytest.fixture
def measured(monkeypatch):
    "Sets what the measurement says: instructions, and how many times as fast 16 bits are."
    def set_to(found, times):
        M._measured.cache_clear()
        monkeypatch.setattr(M, "instructions", lambda: found)
        def speed_up(*_):
            if isinstance(times, Exception): raise times
            return times
        monkeypatch.setattr(M, "speed_up", speed_up)
    yield set_to
    M._measured.cache_clear()


# ---- the choice

@pytest.mark.parametrize("found, times, precision, words", [
    (("avx2",), 99.0, "no", "no instructions for bfloat16"),
    (("avx2", "avx512_f"), 99.0, "no", "no instructions for bfloat16"),
    (("avx512_bf16", "amx_bf16"), 2.7, "bf16", "AMX BF16 is faster"),
    (("avx512_bf16",), 1.29, "no", "AVX512 BF16, but not much faster"),
    (("neon", "bf16"), 0.03, "no", "BF16, but not much faster"),
    (("amx_bf16",), RuntimeError("could not create a primitive\nmore"), "no", "a convolution fails (could not create")])
def test_a_processor_is_asked_and_then_measured(measured, found, times, precision, words):
    measured(found, times)
    choice = choose_arithmetic("auto", "cpu")
    assert choice.precision == precision and words in choice.why and "\n" not in str(choice)
    assert str(choice).startswith("bf16: " if precision == "bf16" else "32 bits: ")


def test_what_is_recorded_does_not_change_with_the_measurement(measured):
    said = []
    for times in (2.7, 5.1):
        measured(("amx_bf16",), times); said.append(choose_arithmetic())
    assert said[0].record == said[1].record and "2.7 times" in str(said[0]) and "5.1 times" in str(said[1])


def test_what_is_asked_for_is_not_measured(measured):
    measured(("amx_bf16",), AssertionError("measured"))
    assert choose_arithmetic("no", "cpu").precision == "no" and choose_arithmetic("bf16", "cpu").precision == "bf16"
    assert choose_arithmetic("fp16", "cpu").precision == "no" and choose_arithmetic("fp16", "cuda").precision == "fp16"
    assert choose_arithmetic("auto", "mps").precision == "no"


def test_the_measurement_is_made_once_and_leaves_dice_and_threads_alone():
    M._measured.cache_clear()
    torch.manual_seed(1); dice, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode(): first = choose_arithmetic()
    assert torch.equal(dice, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert choose_arithmetic() is first and first.precision in ("no", "bf16")
    assert first.precision == "no" or any("bf16" in i for i in instructions())


# ---- in a run

@pytest.mark.parametrize("times, precision", [(3.0, "bf16"), (0.5, "no")])
def test_a_run_writes_its_choice_and_keeps_it(data, tmp_path, measured, capsys, times, precision):
    measured(("amx_bf16",), times)
    results = train(data, tmp_path / "run", TINY)
    assert capsys.readouterr().out.splitlines()[0] == f"arithmetic: {choose_arithmetic()}"
    info = read_json(tmp_path / "run" / "config.json")
    assert info["config"]["mixed_precision"] == precision and info["arithmetic"] == choose_arithmetic().record
    assert (info["machine"] == machine() and results["mixed_precision"] == precision
            and not any(n.startswith("trained in") for n in results["notes"]))
    # resumed where the other one is faster
    measured(("amx_bf16",), 1.5 / times)
    assert choose_arithmetic().precision != precision
    train(data, tmp_path / "run", TINY, resume=True)
    assert "as the run began" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "results.json")["mixed_precision"] == precision


def test_an_interrupted_run_in_bf16_is_resumed_to_the_bit(data, tmp_path, measured):
    two = dataclasses.replace(TINY, epochs=2)
    measured(("amx_bf16",), 3.0)
    train(data, tmp_path / "whole", two, quiet=True)
    def stop(record): raise KeyboardInterrupt
    with pytest.raises(evaluation.MicaclError): train(data, tmp_path / "cut", two, quiet=True, on_epoch=stop)
    measured((), 0.0)          # another machine
    train(data, tmp_path / "cut", two, resume=True, quiet=True)
    a, b = ((tmp_path / r / "model.safetensors").read_bytes() for r in ("whole", "cut"))
    assert a == b


def test_a_run_in_bf16_is_tested_in_32_bits_where_bf16_is_slow_and_says_so(data, tmp_path, measured):
    measured(("amx_bf16",), 3.0)
    train(data, tmp_path / "run", TINY, quiet=True)
    assert evaluate(tmp_path / "run", data, out=tmp_path / "a")["mixed_precision"] == "bf16"
    measured((), 0.0)
    again = evaluate(tmp_path / "run", data, out=tmp_path / "b")
    assert again["mixed_precision"] == "no" and "trained in bf16" in again["notes"][-1]
    assert json.loads((tmp_path / "b" / "results.json").read_text())["mixed_precision"] == "no"


def test_cached_features_leave_nothing_to_gain(measured):
    measured(("amx_bf16",), 3.0)
    frozen = dataclasses.replace(TINY, backbone_lr=0.0)
    assert settle_arithmetic(frozen, cached=True)[0].mixed_precision == "no"
    assert {settle_arithmetic(frozen)[0].mixed_precision,
            settle_arithmetic(TINY, cached=True)[0].mixed_precision} == {"bf16"}


@pytest.mark.parametrize("name", MODELS)
def test_behind_the_backbone_everything_is_in_32_bits(name):
    torch.manual_seed(0)
    model = MODELS[name](7, "r3d_small", 2, 2).eval()
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoded, out = model.encode(video), model(video)
    assert out.logits.dtype == out.weights.dtype == out.bag.dtype == torch.float32
    torch.testing.assert_close(out.weights.sum(1), torch.ones(2), atol=1e-6, rtol=0)
    with torch.no_grad(): torch.testing.assert_close(model(encoded.float()).logits, out.logits, atol=0, rtol=0)


def test_an_experiment_has_one_arithmetic(data, tmp_path, measured, monkeypatch):
    jobs = []
    monkeypatch.setattr(experiments, "_run", lambda made, *a, **k: jobs.extend(made) or {})
    spec = dict(data=str(data), base=dict(TINY.to_dict(), mixed_precision="auto"), seeds=[1],
                methods={"a": {}, "b": dict(mixed_precision="auto"), "c": dict(mixed_precision="no")})
    del spec["base"]["seed"]
    for times in (3.0, 0.5):          # the second call is made on another machine
        jobs.clear(); measured(("amx_bf16",), times)
        run_experiment(spec, tmp_path / "x", 1, quiet=True, costs=False)
        assert [(j[2], j[4].mixed_precision) for j in jobs] == [("a", "bf16"), ("b", "bf16"), ("c", "no")]
    assert read_json(tmp_path / "x" / "arithmetic.json")["precision"] == "bf16"
    assert spec["base"]["mixed_precision"] == "auto"            # not changed for the caller
    (tmp_path / "old" / "runs").mkdir(parents=True)              # runs of a version that knew 32 bits only
    jobs.clear(); measured(("amx_bf16",), 3.0)
    run_experiment(spec, tmp_path / "old", 1, quiet=True, costs=False)
    assert {j[4].mixed_precision for j in jobs} == {"no"}


def test_make_accelerator_chooses_too(measured):
    measured(("amx_bf16",), 3.0)
    assert make_accelerator(TINY).mixed_precision == "bf16"
    assert make_accelerator(dataclasses.replace(TINY, mixed_precision="no")).mixed_precision == "no"


# ---- memory and the record

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")

@glibc
def test_memory_is_kept_in_the_block_and_given_back_after_it():
    "What glibc says of itself, in a process of its own: bytes in blocks of the system, free bytes that it keeps."
    script = """if True:
        import ctypes, torch
        from micacl.train.machine import memory_kept
        names = "arena ordblks smblks hblks mapped usmblks fsmblks uordblks free keepcost".split()
        class Info(ctypes.Structure): _fields_ = [(n, ctypes.c_int) for n in names]
        ask = ctypes.CDLL(None).mallinfo; ask.restype = Info
        def mapped(): x = torch.ones(4_000_000); return ask().mapped
        empty = ask().mapped
        with memory_kept():
            with memory_kept(): pass
            print(mapped() - empty, ask().free)
        print(mapped() - empty)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    inside, kept, outside = map(int, done.stdout.split())
    assert inside == 0 and kept >= 16_000_000 and outside >= 16_000_000, (inside, kept, outside)


def test_memory_kept_is_nothing_where_there_is_no_glibc(monkeypatch):
    monkeypatch.setattr(M.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked for a library"))
    with memory_kept(): assert (torch.ones(3) + 1).sum() == 6


def test_a_machine_is_described_without_a_name():
    m = machine()
    assert m["threads"] == torch.get_num_threads() and m["processor"] and set(m["instructions"]) <= set(M.VECTORS)
    assert platform.node() not in json.dumps(m) or len(platform.node()) < 4
    assert m["processor"] in machine_line(m) and "\n" not in machine_line(m)
    old = {k: v for k, v in m.items() if k not in ("processor", "instructions", "threads")}
    assert "processor not recorded" in machine_line(old)


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="flags as Linux writes them")
def test_pytorch_and_linux_agree_about_instructions():
    if hasattr(torch.cpu, "get_capabilities"): assert {v for v in M.VECTORS if v in M._flags()} == set(instructions())


def test_the_arithmetic_survives_its_file(tmp_path):
    choice = Arithmetic("bf16", "AMX BF16 is faster", "2.7 times")
    write_json(tmp_path / "a.json", choice._asdict())
    assert Arithmetic(**read_json(tmp_path / "a.json")) == choice


@pytest.mark.skipif(time.get_clock_info("thread_time").resolution > 1e-6, reason="coarse times of threads here")
def test_other_programs_do_not_decide_the_arithmetic(monkeypatch):
    "A process that has to wait, here in every convolution of 32 bits, is not a slower one."
    convolve = torch.nn.functional.conv3d
    def interrupted(x, *a, **k):
        if x.dtype == torch.float32: time.sleep(.05)
        return convolve(x, *a, **k)
    quiet = speed_up(torch.bfloat16, rounds=4)
    monkeypatch.setattr(torch.nn.functional, "conv3d", interrupted)
    assert speed_up(torch.bfloat16, rounds=4) < 4 * quiet
