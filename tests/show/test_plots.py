"""Figures: what is drawn equals what was given, nothing global changes, and text from files is only text."""
import os, subprocess, sys, threading
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from micacl.show import plots
from micacl.core import EMOTIONS, MicaclError

FRAMES = np.random.default_rng(0).integers(0, 256, (16, 12, 10, 3), dtype=np.uint8)   # (T,H,W,C)


def draw(fig):
    "Draw without a screen; returns the pixels."
    f = BytesIO()
    fig.savefig(f, format="png")
    return np.asarray(Image.open(f))


def titles(fig): return [ax.get_title(loc="left") for ax in fig.axes]


def test_import_changes_nothing_and_needs_no_screen(tmp_path):
    code = ("import matplotlib as m; now = lambda: [(k, m.rcParams[k]) for k in m.rcParams if k != 'backend'];"
            # asking for the backend loads pyplot
            "before = now(); import micacl.show.plots as p, sys; assert now() == before; "
            "assert 'matplotlib.pyplot' not in sys.modules; "
            "assert 'torch' not in sys.modules;"
            "p.plot_adjacency([[1, 0], [0, 1]]).savefig(sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules")
    path = tmp_path / "a.png"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True,
                   env={k: v for k, v in os.environ.items() if k != "DISPLAY"})
    assert Image.open(path).size[0] > 50


def test_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    with plots.style(): assert matplotlib.rcParams["axes.titleweight"] == "bold"
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("make", [
    lambda v: v, lambda v: v.transpose(0, 3, 1, 2), lambda v: torch.from_numpy(v), lambda v: v / 255,
    lambda v: torch.tensor(v.transpose(0, 3, 1, 2) / 255, dtype=torch.float32, requires_grad=True)])
def test_every_layout_gives_the_same_strip(make):
    shown = plots.show_clip(make(FRAMES)).axes[0].images[0].get_array()
    expected = np.concatenate([np.pad(f, ((0, 0), (0, 2), (0, 0))) for f in FRAMES], axis=1)
    assert np.array_equal(np.asarray(shown)[..., :3], expected)
    assert np.array_equal(np.asarray(shown)[0, :, 3], np.tile([255] * 10 + [0, 0], 16))     # gaps are transparent


def test_show_clip_every_names_the_frames_it_shows():
    ax = plots.show_clip(FRAMES, "title", every=5).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "5", "10", "15"]
    assert ax.get_title(loc="left") == "title" and ax.get_xlabel() == "frame"


def test_grey_frames_and_odd_floats_are_drawn():
    grey = np.array([[[[np.nan, -1, .5, 2]]]])                        # (T=1,C=1,H=1,W=4)
    assert plots._frames(grey)[0, 0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("bad", [FRAMES[None], FRAMES[..., :2], FRAMES[0], FRAMES[:0]])
def test_what_is_not_a_clip_is_named(bad):
    with pytest.raises(MicaclError, match="video: expected shape"): plots.show_clip(bad)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=12).filter(any))
@settings(max_examples=15, deadline=None)
def test_long_tail_bars_are_the_sorted_counts(n_c):
    names = [f"class {i}" for i in range(len(n_c))]
    fig = plots.plot_long_tail(n_c, names)
    ax = fig.axes[0]
    bars = ax.patches[:len(n_c)]
    assert [b.get_height() for b in bars] == sorted(n_c, reverse=True)
    shown = [int(t.get_text().split()[1]) for t in ax.get_xticklabels()]
    assert sorted(shown) == list(range(len(n_c))) and [n_c[i] for i in shown] == sorted(n_c, reverse=True)
    assert [t.get_text() for t in ax.texts] == [f"{n:,}" for n in sorted(n_c, reverse=True)]


def test_long_tail_ratio_and_groups():
    fig = plots.plot_long_tail([10, 100, 50], ["a", "b", "c"])
    assert "10.0" in titles(fig)[0] and fig.axes[0].get_ylabel() == "clips"
    colours = [matplotlib.colors.to_hex(b.get_facecolor()).upper() for b in fig.axes[0].patches[:3]]
    assert colours == [plots.GROUPS[g] for g in ("head", "medium", "tail")]
    assert {t.get_text() for t in fig.axes[0].get_legend().get_texts()} == {"head", "medium", "tail"}
    assert "no clip" in titles(plots.plot_long_tail([3, 0, 1], ["a", "b", "c"]))[0]


def test_curves_put_losses_left_and_scores_right():
    rows = [dict(epoch=1, train_loss=2.0, mccl=3.0, val_uar=.2, instance_auc=.5, lr=.1, seconds=4.0, done=True),
            dict(epoch=2, train_loss=1.0, mccl=2.5, val_uar=None, instance_auc=.5, lr=.1, seconds=4.0, done=True),
            dict(epoch=3, train_loss=0.5, mccl=2.0, val_uar=.4, val_war=.5)]
    left, right = plots.plot_curves(rows).axes
    drawn = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for ax in (left, right)
             for line in ax.lines}
    assert drawn == {"train loss": ([1, 2, 3], [2, 1, .5]), "mccl": ([1, 2, 3], [3, 2.5, 2]),
                     "val uar": ([1, 3], [20, 40]), "val war": ([3], [50])}
    assert left.get_xlabel() == right.get_xlabel() == "epoch" and right.get_ylabel() == "%"
    draw(plots.plot_curves([]))                                       # a run that was stopped before the first epoch


def test_confusion_shows_the_share_of_each_row():
    fig = plots.plot_confusion([[3, 1], [0, 0]], ["a", "b"])
    ax = fig.axes[0]
    values = np.asarray(ax.collections[0].get_array().filled(np.nan) if np.ma.isMA(ax.collections[0].get_array())
                        else ax.collections[0].get_array()).reshape(2, 2)
    assert np.allclose(values[0], [.75, .25]) and np.isnan(values[1]).all()
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [("75", (.5, .5)), ("25", (1.5, .5))]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a (4)", "b (0)"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]                        # first class on top
    assert ax.get_xlabel().startswith("predicted") and ax.get_ylabel().startswith("true")


def test_recalls_dots_whiskers_and_order():
    fig = plots.plot_recalls({"A": {"x": .5, "y": None, "z": 1.0}, "B": {"x": .25, "y": 0.0, "z": .75}},
                             {"A": {"x": (.4, .6)}}, order=["z", "x", "y"])
    ax = fig.axes[0]
    dots = {line.get_label(): line.get_xdata() for line in ax.lines if line.get_label() in ("A", "B")}
    assert np.allclose(dots["A"], [100, 50, np.nan], equal_nan=True) and np.allclose(dots["B"], [75, 25, 0])
    whiskers = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert len(whiskers) == 1 and np.allclose(whiskers[0], [40, 60])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["z", "x", "y"]
    chance = next(line for line in ax.lines if line.get_label() == "chance")
    assert np.allclose(chance.get_xdata(), 100 / 3)
    markers = {line.get_label(): line.get_marker() for line in ax.lines}
    assert markers["A"] != markers["B"]                               # not by colour alone


def test_adjacency_numbers():
    A = torch.tensor([[.25, .75], [1., 0.]], requires_grad=True)
    ax = plots.plot_adjacency(A).axes[0]
    assert [t.get_text() for t in ax.texts] == ["0.25", "0.75", "1.00", "0.00"]
    assert ax.get_xlabel() == "from instance j" and ax.get_ylabel() == "to instance i"
    with pytest.raises(MicaclError, match="of a batch"): plots.plot_adjacency(A[None])


def test_weights_bars_numbers_and_apex_band():
    w, apex = [.1, .2, .6, .1], np.zeros(16, bool)
    apex[[3, 4, 5, 9]] = True
    top, ax = plots.plot_weights(FRAMES, w, apex, "clip").axes
    assert [b.get_height() for b in ax.patches] == w
    assert [b.get_x() + b.get_width() / 2 for b in ax.patches] == [2, 6, 10, 14]            # centred under their frames
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"instance {i + 1}\n{v:.2f}" for i, v in enumerate(w)]
    bands = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 5]
    assert np.allclose(bands, [[3.1, 5.9], [9.1, 9.9]])
    assert top.get_title(loc="left") == "clip" and top.get_xlim() == ax.get_xlim()
    assert not [line for line in plots.plot_weights(FRAMES, w).axes[1].lines if line.get_linewidth() == 5]
    for bad in ([.5, .3, .2], [], [[1.0]]):
        with pytest.raises(MicaclError, match="weights: expected N"): plots.plot_weights(FRAMES, bad)


def test_apex_at_both_ends():
    _, ax = plots.plot_weights(FRAMES, [1.0], np.ones(16, bool)).axes
    assert np.allclose([line.get_xdata() for line in ax.lines if line.get_linewidth() == 5], [[.1, 15.9]])


def test_schedule():
    ax = plots.plot_schedule([1, 2, 3, 4], steps_per_epoch=2).axes[0]
    assert ax.lines[0].get_xdata().tolist() == [0, .5, 1, 1.5] and ax.lines[0].get_ydata().tolist() == [1, 2, 3, 4]
    assert ax.get_xlabel() == "epoch" and plots.plot_schedule([1, 2]).axes[0].get_xlabel() == "step"


HOSTILE = [r"$\frac{", "$$", "a_b^c", "<script>alert(1)</script>", "Ärger\n", r"\$", "脸"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_text_from_files_is_never_mathematics():
    C = len(HOSTILE)
    recall = dict.fromkeys(HOSTILE, .5)
    for fig in (plots.plot_long_tail(range(1, C + 1), HOSTILE, HOSTILE[0]),
                plots.plot_confusion(np.eye(C), HOSTILE, HOSTILE[0]),
                plots.plot_recalls({HOSTILE[0]: recall}, title=HOSTILE[0]), plots.show_clip(FRAMES, HOSTILE[0]),
                plots.plot_curves([{"epoch": 1, "loss_$\\x{": 1.0}]),
                plots.plot_weights(FRAMES, [1.0], title=HOSTILE[0])):
        assert draw(fig).std() > 1


def test_figures_can_be_drawn_in_threads():
    out = {}
    def work(k): out[k] = draw(plots.plot_confusion(np.eye(7) * (k + 1), EMOTIONS))
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(np.array_equal(out[k], draw(plots.plot_confusion(np.eye(7) * (k + 1), EMOTIONS))) for k in range(4))


def test_figures_show_themselves():
    png = plots.plot_schedule([0, 1])._repr_png_()
    assert Image.open(BytesIO(png)).format == "PNG"


def test_widget_turns_pages(monkeypatch):
    seen = {}
    monkeypatch.setattr(plots, "plot_weights", lambda *a: seen.setdefault("call", a))
    import ipywidgets
    monkeypatch.setattr(ipywidgets, "interact", lambda f, clip: (f(clip.max), seen.update(max=clip.max)))
    plots.explore_weights(["v0", "v1"], ["w0", "w1"], None, ["a", "b"])
    assert seen == {"call": ("v1", "w1", None, "b"), "max": 1}


def test_widget_without_ipywidgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(MicaclError, match=r"micacl\[notebooks\]"): plots.explore_weights([], [])
