"""The network trained on real faces, on weights drawn for the test: beside a reference written out in NumPy, and with
files that are cut, foreign or not there. Where the real file is, its answers to plain pictures."""
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import draw_expression, write_expression
from micacl.core import EMOTIONS, MicaclError
from micacl.models import MICACL
from micacl.nn.expression import (EXPRESSIONS, NAME, ExpressionNet, expected_tensors, load_expression,
                                  read_expression_tensors)
from micacl.nn.faces import PerFrame

MANIFEST, BLOCK = f"{NAME}-weights_manifest.json", f"{NAME}.bin"


def reference(x, w):
    "(112,112,3) in 0..255, tensors by name -> (256,), (7,) in the author's order: sums of shifted pictures, 64 bits."
    def shifted(x, i, j, s):     # what the kernel's place (i, j) sees; TensorFlow puts one more zero behind than before
        H, W, _ = x.shape
        before = 0 if s == 2 else 1
        y = np.zeros((H + 2, W + 2, x.shape[2])); y[before:before + H, before:before + W] = x
        return y[i:i + H:s, j:j + W:s]
    def separable(x, at, s=1):
        k = w[f"{at}/depthwise_filter"]
        y = sum(shifted(x, i, j, s)*k[i, j, :, 0] for i in range(3) for j in range(3))
        return y @ w[f"{at}/pointwise_filter"][0, 0] + w[f"{at}/bias"]
    x = (x - np.array([122.782, 117.001, 104.298]))/255
    for b in range(4):
        at = f"dense{b}/conv"
        if b: first = separable(x, f"{at}0", 2)
        else:
            k = w["dense0/conv0/filters"]
            first = sum(shifted(x, i, j, 2) @ k[i, j] for i in range(3) for j in range(3)) + w["dense0/conv0/bias"]
        total = np.maximum(first, 0)
        parts = [total]
        for j in (1, 2, 3):
            parts.append(separable(np.maximum(sum(parts), 0), f"{at}{j}"))
        x = np.maximum(sum(parts), 0)
    feature = x.mean((0, 1))
    return feature, feature @ w["fc/weights"] + w["fc/bias"]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_the_network_is_the_one_written_out(tmp_path, kind):
    stored = write_expression(tmp_path, draw_expression(), kind)
    net, pictures = load_expression(tmp_path), np.random.default_rng(1).integers(0, 256, (2, 112, 112, 3))
    with torch.no_grad():
        x = net(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()/255)
        said = net.scores(x)
    for k in range(2):
        feature, scores = reference(pictures[k], stored)
        assert feature.max() > .1                                    # the network is alive
        assert np.abs(x[k].numpy() - feature).max() < 1e-4*feature.max()
        ours = dict(zip(EMOTIONS, said[k].tolist()))
        assert [ours[e] for e in EXPRESSIONS] == pytest.approx(scores.tolist(), abs=1e-4*np.abs(scores).max())


def test_the_order_of_classes(tmp_path):
    "The author's names, in his order; only one bias is set at a time."
    theirs = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
    for k, name in enumerate(theirs):
        tensors = {n: np.zeros(s, np.float32) for n, s in expected_tensors().items()}
        tensors["fc/bias"][k] = 1
        write_expression(tmp_path, tensors, "float32")
        net = load_expression(tmp_path)
        with torch.no_grad(): best = EMOTIONS[net.scores(net(torch.rand(1, 3, 112, 112))).argmax()]
        assert name.startswith(best[:5])


def test_half_a_step_is_all_that_is_lost(tmp_path):
    exact = draw_expression(3)
    write_expression(tmp_path, exact)
    found, sha = read_expression_tensors(tmp_path)
    assert load_expression(tmp_path).sha256 == sha == hashlib.sha256((tmp_path/BLOCK).read_bytes()).hexdigest()
    for name, w in exact.items():
        step = 0 if name.endswith("bias") else (w.max() - w.min())/255
        assert np.abs(found[name].numpy() - w).max() <= .5001*step + 1e-7
    assert (tmp_path/BLOCK).stat().st_size == 329_468


def test_other_sizes_are_resampled_and_it_is_an_encoder(tmp_path):
    write_expression(tmp_path, draw_expression())
    net = load_expression(tmp_path)
    flat = torch.full((1, 3, 112, 112), .3)
    with torch.no_grad(): torch.testing.assert_close(net(flat), net(flat[..., :48, :48]))
    model = MICACL(backbone=PerFrame(net)).freeze_backbone().eval()
    video = torch.randint(256, (1, 16, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(): out = model(video)
    assert out.logits.shape == (1, 7) and model.backbone.dim == 256
    with torch.no_grad(): each = net(video[0, :4].float()/255).mean(0)
    torch.testing.assert_close(model.encode(video)[0, 0], each)


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 112, 112, dtype=torch.uint8), torch.zeros(3, 112, 112),
                               torch.zeros(1, 1, 112, 112)])
def test_other_input_is_refused(x):
    with pytest.raises(MicaclError, match="expected float pictures"): ExpressionNet()(x)


# ---------------------------------------------------------------- files

def one_line(folder, match):
    with pytest.raises(MicaclError, match=match) as e: load_expression(folder)
    assert "\n" not in str(e.value) and "micacl get face-expression" in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize("n", [0, 1, 1000, 329_467, 329_469])
def test_a_block_of_another_length(tmp_path, n):
    write_expression(tmp_path, draw_expression())
    (tmp_path/BLOCK).write_bytes(((tmp_path/BLOCK).read_bytes() + b"x")[:n])
    one_line(tmp_path, f"expected 329,468 bytes, as its manifest says, found {n:,}")


@pytest.mark.parametrize("name", [MANIFEST, BLOCK])
def test_files_that_are_not_there(tmp_path, name):
    write_expression(tmp_path, draw_expression())
    os.remove(tmp_path/name)
    one_line(tmp_path, f"found {name}")
    one_line(tmp_path/"nowhere", f"expected {MANIFEST} and {BLOCK}")


@pytest.mark.parametrize("text", ["", "{", "[]]", "[1]", "{}x", "[{\"weights\": 3}]", "[{\"weights\": [{}]}]", "\x00",
                                  "["*5000,
                                  "[{\"weights\": [{\"name\": 1, \"shape\": [\"a\"], \"dtype\": \"float32\"}]}]"])
def test_a_manifest_of_another_form(tmp_path, text):
    write_expression(tmp_path, draw_expression())
    (tmp_path/MANIFEST).write_text(text)
    one_line(tmp_path, "expected a manifest of TensorFlow.js")


def changed(folder, change):
    listed = json.loads((folder/MANIFEST).read_text())
    change(listed[0]["weights"])
    (folder/MANIFEST).write_text(json.dumps(listed))


@pytest.mark.parametrize("change, words", [
    (lambda w: w[3].update(shape=[3, 3, 1, 32]), "expected dense0/conv1/pointwise_filter of shape"),
    (lambda w: w[0].update(name="dense9/conv0/filters"), "dense0/conv0/filters of shape .3, 3, 3, 32., found none"),
    (lambda w: w.pop(), "expected fc/bias of shape .7,., found none"),
    (lambda w: w.append(dict(w[-1])), "expected each of 49 tensors once, found 50"),
    (lambda w: w[0].update(quantization=dict(dtype="int4", scale=1, min=0)), "TensorFlow.js"),
    (lambda w: w[0].update(quantization=dict(dtype="uint8", scale=math.inf, min=0)), "TensorFlow.js"),
    (lambda w: w[0].update(quantization=dict(dtype="uint8", scale=1)), "TensorFlow.js")])
def test_a_manifest_of_another_network(tmp_path, change, words):
    write_expression(tmp_path, draw_expression())
    changed(tmp_path, change)
    one_line(tmp_path, words)


def test_numbers_that_are_none(tmp_path):
    tensors = draw_expression()
    tensors["fc/bias"][2] = np.nan
    write_expression(tmp_path, tensors)
    one_line(tmp_path, "expected numbers in fc/bias")


def test_a_path_in_the_manifest_is_not_followed(tmp_path):
    write_expression(tmp_path/"a", draw_expression())
    listed = json.loads((tmp_path/"a"/MANIFEST).read_text())
    listed[0]["paths"] = ["../secret.bin"]
    (tmp_path/"a"/MANIFEST).write_text(json.dumps(listed))
    (tmp_path/"secret.bin").write_bytes(b"x")
    load_expression(tmp_path/"a")


REAL = Path(__file__).parents[2]/"data"/"face-expression"


@pytest.mark.skipif(not REAL.is_dir(), reason="micacl get face-expression data/face-expression")
def test_the_real_file():
    found, sha = read_expression_tensors(REAL)
    assert sha == "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d"
    x = np.full((112, 112, 3), 128.)
    x[40:44, 30:80] = 20
    feature, scores = reference(x, {n: t.double().numpy() for n, t in found.items()})
    net = load_expression(REAL)
    with torch.no_grad(): y = net(torch.from_numpy(x).permute(2, 0, 1)[None].float()/255)
    assert np.abs(y[0].numpy() - feature).max() < 1e-4*feature.max()
