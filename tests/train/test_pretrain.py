"""Pre-training: the loss and the augmentation by hand, repeatability, and the shipped weights on people they never
saw."""
import json, os, signal, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from micacl.nn.backbone import build_backbone, read_weights, save_weights, weights_path
from micacl.core import MicaclError, derive_seed
from micacl.train.pretrain import (UnitHead, augment_instances, weights_card, fit, forget_time, load_regressor,
                                   new_model,
                                   predict_units,
                             pretrain, probe, r_squared, recolour, render_stream, to_instances, unit_loss)
from micacl.data.synfew.generate import GENERATOR, UNITS, unit_stream

LOG = json.loads((Path(__file__).parents[2] / "results" / "pretrain-r3d_small.json").read_text(encoding="utf-8"))
# two frames of 32 pixels leave bf16 a picture of so few places that oneDNN sums it in no fixed order on some machines
TINY = dict(n=24, epochs=1, n_clips=8, clip_epochs=1, size=32, n_frames=4, batch_size=8, n_held_out=8, workers=1,
            quiet=True)


# ---- loss and R²
def test_loss_by_hand():
    predicted, units, std = torch.tensor([[1., 0.], [0., 2.]]), torch.zeros(2, 2), torch.tensor([1., 2.])
    assert unit_loss(predicted, units, std).item() == pytest.approx((1 + 0 + 0 + 1) / 4)


def test_r_squared_is_sklearns():
    torch.manual_seed(0)
    y = torch.rand(50, 4); p = y + 0.3 * torch.randn(50, 4)
    assert r_squared(p, y).tolist() == pytest.approx(r2_score(y, p, multioutput="raw_values").tolist(), abs=1e-5)
    assert 1 - unit_loss(p, y, y.std(0, unbiased=False)).item() == pytest.approx(r_squared(p, y).mean().item(),
        abs=1e-5)


def test_head_starts_at_the_mean():
    head = UnitHead(3, 2)
    with torch.no_grad():
        head.linear.weight.zero_(); head.linear.bias.zero_(); head.mean += torch.tensor([.2, .4]); head.std *= .5
    assert head(torch.rand(1, 3)).tolist() == [pytest.approx([.2, .4])]
    with torch.no_grad(): head.linear.bias += 1
    assert head(torch.rand(1, 3)).tolist() == [pytest.approx([.7, .9])]


def test_probe_is_sklearns_ridge():
    frames, units = render_stream(3, 40, size=32, n_frames=1)
    encoder = build_backbone("r3d_small").eval()
    train, held = (frames[:30], units[:30]), (frames[30:], units[30:] + 0.01 * torch.rand(10, 15))
    Z = predict_units(encoder, frames).double()
    Z = ((Z - Z[:30].mean(0)) / Z[:30].std(0).clamp(min=1e-8)).numpy()   # some features are dead
    expected = Ridge(alpha=1e-2 * 30).fit(Z[:30], units[:30]).predict(Z[30:])
    assert probe(encoder, train, held).tolist() == pytest.approx(r2_score(held[1], expected,
        multioutput="raw_values").tolist(), rel=1e-3, abs=1e-3)


# ---- data
def test_targets_are_the_mean_over_frames():
    frames, units = render_stream(5, 3, size=32, n_frames=4)
    assert frames.shape == (3, 4, 32, 32, 3) and frames.dtype == torch.uint8 and units.shape == (3, 15)
    shown, truth = unit_stream(5, 2, 32, 4)
    assert (np.array_equal(frames[2].numpy(), shown) and units[2].tolist() == pytest.approx(truth.mean(0).tolist(),
        abs=1e-6))


def test_processes_change_nothing():
    alone, shared = render_stream(5, 40, size=32, n_frames=1), render_stream(5, 40, size=32, n_frames=1, workers=2)
    assert torch.equal(alone[0], shared[0]) and torch.equal(alone[1], shared[1])


def test_held_out_people_are_others():
    seen = {unit_stream(derive_seed(0, "pictures"), i, 32, 1)[0].tobytes() for i in range(30)}
    assert not seen & {unit_stream(derive_seed(0, "held out"), i, 32, 1)[0].tobytes() for i in range(30)}


# ---- pictures first, then clips
def test_without_time_a_clip_is_the_mean_of_its_frames():
    torch.manual_seed(0)
    encoder, x = build_backbone("r3d_small").eval(), torch.rand(2, 3, 4, 64, 64)
    mean_of_frames = lambda: torch.stack([encoder(x[:, :, t:t + 1]) for t in range(4)]).mean(0)
    with torch.no_grad():
        assert not torch.allclose(encoder(x), mean_of_frames(), atol=1e-4)
        forget_time(encoder)
        assert torch.allclose(encoder(x), mean_of_frames(), atol=1e-5)


def test_pictures_leave_time_alone_and_clips_do_not():
    torch.manual_seed(0)
    frames, units = render_stream(3, 8, size=32, n_frames=2)
    for L, used in ((1, False), (2, True)):
        model = new_model(units)
        fit(model, (frames[:, :L], units), (frames, units), epochs=2, batch_size=4, lr=1e-3, weight_decay=.01, seed=0,
            report=lambda line: None)
        outer = model[0].net[4][0].weight[:, :, 0::2]
        assert bool(outer.abs().max() > 0) == used


# ---- augmentation
def test_augmentation_off_is_the_picture_or_its_mirror():
    frames = torch.randint(0, 256, (16, 2, 8, 8, 3), dtype=torch.uint8)
    out, plain = augment_instances(frames, torch.Generator().manual_seed(0), crop=0., jitter=0.), to_instances(frames)
    assert out.shape == (16, 3, 2, 8, 8)
    same = torch.tensor([torch.allclose(o, p, atol=1e-4) for o, p in zip(out, plain)])
    mirrored = torch.tensor([torch.allclose(o.flip(-1), p, atol=1e-4) for o, p in zip(out, plain)])
    assert (same ^ mirrored).all() and 3 <= same.sum() <= 13


def test_frames_of_an_instance_are_changed_alike():
    frames = torch.randint(0, 256, (6, 1, 16, 16, 3), dtype=torch.uint8).expand(6, 4, 16, 16, 3)
    out = augment_instances(frames, torch.Generator().manual_seed(0))
    assert torch.equal(out[:, :, 0], out[:, :, 3]) and 0 <= out.min() and out.max() <= 1
    assert torch.equal(out, augment_instances(frames, torch.Generator().manual_seed(0)))
    assert not torch.equal(out, augment_instances(frames, torch.Generator().manual_seed(1)))


def step_by_step(frames, generator, crop=.05, jitter=.15):
    "The definition: one grid a frame, one colour after the other."
    M, L = frames.shape[:2]
    def draw(lo, hi): return lo + (hi - lo) * torch.rand(M, generator=generator)
    s, mirror = draw(1 - crop, 1.), torch.where(draw(0., 1.) < 0.5, -1., 1.)
    matrix = torch.zeros(M, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = mirror * s, s
    matrix[:, 0, 2], matrix[:, 1, 2] = draw(-1., 1.) * (1 - s), draw(-1., 1.) * (1 - s)
    x = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    grid = torch.nn.functional.affine_grid(matrix.repeat_interleave(L, 0), list(x.shape), align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False).unflatten(0, (M, L))
    brightness, contrast, saturation = (draw(1 - jitter, 1 + jitter).view(M, 1, 1, 1, 1) for _ in range(3))
    x = x * brightness
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    x = mean + contrast * (x - mean)
    grey = x.mean(2, keepdim=True)
    return (grey + saturation * (x - grey)).clamp(0, 1).transpose(1, 2)


@pytest.mark.parametrize("jitter", [0., .15, .8])
def test_augmentation_in_few_passes_is_that_of_the_definition(jitter):
    frames = torch.randint(0, 256, (6, 4, 20, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    before = frames.clone()
    out = augment_instances(frames, torch.Generator().manual_seed(5), crop=.3, jitter=jitter)
    truth = step_by_step(frames, torch.Generator().manual_seed(5), crop=.3, jitter=jitter)
    torch.testing.assert_close(out, truth, atol=2e-6, rtol=0)
    assert out.is_contiguous(memory_format=torch.channels_last_3d) and torch.equal(frames, before)


def test_crop_stays_inside_the_picture():
    "A picture whose rows are constant stays so, and no value from outside creeps in."
    ramp = torch.arange(16).mul(10).byte().view(1, 1, 16, 1, 1).expand(8, 1, 16, 16, 3)
    out = augment_instances(ramp, torch.Generator().manual_seed(0), jitter=0.)[:, 0, 0] * 255
    assert torch.allclose(out.std(-1), torch.zeros(8, 16), atol=1e-3) and (out.diff(dim=1) > 0).all()
    # 10 a row uncropped, 9 at the tightest crop
    steps = out.diff(dim=1).mean((1, 2))
    assert 8.9 <= steps.min() and steps.max() <= 10.01 and steps.std() > 0.05


def test_recolour_by_hand():
    x = torch.tensor([.2, .4, .6]).view(1, 1, 3, 1, 1); one = torch.ones(1, 1, 1, 1, 1)
    assert recolour(255 * x, 1.5 * one, one, one).flatten().tolist() == pytest.approx([.3, .6, .9])
    assert recolour(255 * x, one, .5 * one, one).flatten().tolist() == pytest.approx([.3, .4, .5])
    assert recolour(255 * x, one, one, 0 * one).flatten().tolist() == pytest.approx([.4, .4, .4])
    assert recolour(255 * x, 2 * one, one, one).flatten().tolist() == pytest.approx([.4, .8, 1.])


# ---- the run
def test_same_seed_same_bits(tmp_path):
    a, b = pretrain(tmp_path / "a", **TINY), pretrain(tmp_path / "b", **TINY)
    # the file's own hash may differ: safetensors writes the entries of its header in no fixed order
    first, second = (read_weights(tmp_path / x / "r3d_small.safetensors", "r3d_small")[0] for x in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert a["r2"] == b["r2"] and [e["loss"] for e in a["clips"]] == [e["loss"] for e in b["clips"]]
    pretrain(tmp_path / "c", **{**TINY, "seed": 1})
    other = read_weights(tmp_path / "c" / "r3d_small.safetensors", "r3d_small")[0]
    assert any(not torch.equal(first[k], other[k]) for k in first)
    written = json.loads((tmp_path / "a" / "pretrain-r3d_small.json").read_text(encoding="utf-8"))
    assert written["sha256"] == a["sha256"] and set(written["r2"]) == set(UNITS)
    assert build_backbone("r3d_small", tmp_path / "a" / "r3d_small.safetensors").dim == 128
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["pretrain-r3d_small.json", "r3d_small.md",
        "r3d_small.safetensors"]


def test_training_learns(tmp_path):
    log = pretrain(tmp_path, **{**TINY, "n": 64, "epochs": 8})
    assert log["pictures"][-1]["loss"] < 0.95 * log["pictures"][0]["loss"]


@pytest.mark.parametrize("change,line", [(dict(n=4), "at least one batch"),
                                         (dict(n_clips=7), "n_clips: expected at least"),
                                         (dict(epochs=0), "epochs: expected 1 or more")])
def test_impossible_parameters(tmp_path, change, line):
    with pytest.raises(MicaclError, match=line): pretrain(tmp_path / "x", **{**TINY, **change})
    assert not (tmp_path / "x").exists()


def test_head_of_other_units_is_refused(tmp_path, monkeypatch):
    pretrain(tmp_path, **TINY)
    monkeypatch.setattr("micacl.train.pretrain.UNITS", UNITS[:-1])
    with pytest.raises(MicaclError, match="expected a head for"): load_regressor(tmp_path / "r3d_small.safetensors")


KILLED = """
import multiprocessing, os, threading, time
def kill():
    while len(multiprocessing.active_children()) < 2: time.sleep(.1)
    time.sleep(3); os.kill(os.getpid(), 9)
if __name__ == "__main__":
    from micacl.train.pretrain import render_stream
    threading.Thread(target=kill, daemon=True).start()
    render_stream(0, 20_000, workers=2)
"""

@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_pretraining_leaves_no_process_behind(tmp_path):
    (tmp_path / "x.py").write_text(KILLED)
    p = subprocess.Popen([sys.executable, tmp_path / "x.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         start_new_session=True)
    try: out, _ = p.communicate(timeout=60)          # until the last process that holds the pipe has ended
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL); pytest.fail("drawing processes live on without their parent")
    assert p.returncode == -signal.SIGKILL, out


# ---- the shipped weights
def test_log_card_and_weights_belong_together():
    import hashlib
    _, header = read_weights(weights_path(), "r3d_small")
    assert hashlib.sha256(weights_path().read_bytes()).hexdigest() == LOG["sha256"]
    assert (header["generator"], header["seed"], header["n"]) == (str(GENERATOR), str(LOG["seed"]), str(LOG["n"]))
    assert weights_path().with_suffix(".md").read_text(encoding="utf-8") == weights_card(LOG)
    assert LOG["mean_r2"] == pytest.approx(np.mean(list(LOG["r2"].values())), abs=1e-3)


def test_shipped_weights_on_people_of_an_unseen_seed():
    frames, units = render_stream(777_000, 128)
    r2 = r_squared(predict_units(load_regressor(), frames), units)
    assert r2.mean() > LOG["mean_r2"] - 0.1          # 128 instances: a standard error of about 0.02
    assert r2.mean() > 0.55 and (r2 > 0).all()       # the floor that the package promises
    assert r2.mean() > LOG["random_r2"] + 0.3


def test_weights_with_half_a_head_are_refused_in_one_line(tmp_path):
    state, header = read_weights(weights_path(), "r3d_small")
    less = {k: v for k, v in state.items() if k != "head.linear.bias"}
    save_weights(tmp_path / "w", less, "r3d_small", units=header["units"])
    with pytest.raises(MicaclError, match="w: the head's tensors don't fit"): load_regressor(tmp_path / "w")
