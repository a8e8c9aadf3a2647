"Exported models say the same as the original, stand alone, and are not written where they differ."
import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from helpers import CLASSES, make, movie as longer
from micacl.deploy import export as E
from micacl.core import MicaclError
from micacl.deploy.export import export
from micacl.models import MODELS
from micacl.deploy.sharing import from_pretrained, save_pretrained

# in both formats; of the two that differ least, mean is exported as torch and max as onnx below
BOTH = ("attention", "m3dfel", "micacl", "transformer")

def movie(B=2, px=32, seed=0, T=4): return longer(B, px, seed, T)


needs_onnx = pytest.mark.skipif(not all(importlib.util.find_spec(m) for m in E.EXTRA),
                                reason="onnx is an extra: pip install 'micacl[export]'")


@pytest.fixture(scope="module")
def traced():
    "Every model and its trace, made once for both formats."
    kept = {}
    def get(name):
        if name not in kept:
            model = make(name, 1, n_instances=2, instance_length=2); kept[name] = model, E.trace(model, movie())
        return kept[name]
    return get


def answers(exported, model, B):
    "Exported and eager outputs for a batch of B videos."
    N = model.n_instances
    v = movie(B, seed=B, T=N * model.instance_length)
    with torch.no_grad(): got, out = exported(v), model(v)
    assert [tuple(x.shape) for x in got] == [(B, 7), (B, N)]
    return zip(got, (out.logits, out.weights))


@pytest.mark.parametrize("name", BOTH)
def test_torch_export_says_the_same(name, traced):
    model, program = traced(name)
    data, exported = E._torch_file(program, {})
    for B in (1, 2, 5):
        for p, q in answers(exported, model, B): assert torch.allclose(p, q, rtol=0, atol=1e-5)


@needs_onnx
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOTH)
def test_onnx_says_the_same(name, traced):
    model, program = traced(name)
    data, exported = E._onnx_file(program, {})
    for B in (1, 2, 5):
        for p, q in answers(exported, model, B): assert torch.allclose(p, q, rtol=0, atol=1e-4)


def test_every_model_is_exported_here(): assert {*BOTH, "mean", "max"} == set(MODELS)


def test_export_writes_a_file_that_stands_alone(tmp_path):
    run = save_pretrained(make("mean", n_instances=2, instance_length=2), tmp_path / "shared", CLASSES, image_size=32)
    said = export(run, tmp_path / "m.pt2", "torch")
    extra = {"micacl.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    for p, q in answers(program.module(), from_pretrained(run), 3): assert torch.allclose(p, q, atol=1e-5)
    assert json.loads(extra["micacl.json"])["classes"] == CLASSES
    assert said["bytes"] == (tmp_path / "m.pt2").stat().st_size and said["difference"] <= 1e-5 < said["largest"]


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_runs_without_torch_and_says_what_it_is(tmp_path):
    import onnx
    export(save_pretrained(make("max", n_instances=2, instance_length=2), tmp_path / "shared", CLASSES, image_size=32),
           tmp_path / "m.onnx")
    made = onnx.load(tmp_path / "m.onnx"); onnx.checker.check_model(made)
    assert json.loads({p.key: p.value for p in made.metadata_props}["classes"]) == CLASSES
    code = ("import sys, numpy as np, onnxruntime as o; s = o.InferenceSession(sys.argv[1]); a, w = s.run(None, "
            "dict(video=np.zeros((3, 4, 3, 32, 32), np.uint8)));"
            "assert a.shape == (3, 7) and w.shape == (3, 2) and 'torch' not in sys.modules and 'micacl' not in "
            "sys.modules")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], cwd=tmp_path).returncode == 0


def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch):
    model = make("mean", n_instances=2, instance_length=2)
    monkeypatch.setattr(E, "trace", lambda *a: None)
    # the last one is right
    for wrong in (lambda x: x + 2e-4, lambda x: x * float("nan"), lambda x: x[:1], lambda x: x):
        monkeypatch.setitem(E.WRITERS, "torch", lambda *a, wrong=wrong: (b"file",
            lambda v: [wrong(x) for x in E.Scores(model)(v)]))
        if torch.equal(wrong(torch.ones(2)), torch.ones(2)): break
        with pytest.raises(MicaclError, match="nothing was written"):
            export(model, tmp_path / "m.pt2", "torch", image_size=32)
        assert list(tmp_path.iterdir()) == []
    assert (export(model, tmp_path / "m.pt2", "torch", image_size=32)["difference"] == 0
            and (tmp_path / "m.pt2").read_bytes() == b"file")


def test_export_leaves_the_model_as_it_was(tmp_path):
    model = make("mean", n_instances=2, instance_length=2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export(model, tmp_path / "m.pt2", "torch", image_size=32)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_export_explains_itself(tmp_path, monkeypatch):
    with pytest.raises(MicaclError, match="expected one of onnx, torch, found 'tflite'"):
        export(make(), tmp_path / "m", "tflite")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m, *a: None if m.startswith("onnx") else real(m, *a))
    monkeypatch.setattr(E, "trace", lambda *a: None)
    with pytest.raises(MicaclError, match=r'pip install "micacl\[export\]", or export to torch'):
        export(make("mean", n_instances=2, instance_length=2), tmp_path / "m.onnx", image_size=32)
    assert list(tmp_path.iterdir()) == []
