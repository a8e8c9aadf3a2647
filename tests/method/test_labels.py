"""Labels, class counts and videos that are none, in every loss, metric, second stage, sampler and model:
the right number, or one line."""
import copy
import math
from collections import Counter
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from micacl import longtail as lt
from micacl.nn.backbone import build_backbone
from micacl.longtail.bcl import bcl, bcl_terms
from micacl.longtail.parametric import CONTRASTS
from micacl.nn.contrast import supcon
from micacl.core import MicaclError, check_counts, check_labels
from micacl.metrics import class_counts, frequency_groups
from micacl.geiim import GEIIM
from micacl.longtail.classifiers import learn_scales, nearest_mean, retrain, second_stage
from micacl.longtail.samplers import SAMPLERS, EpochOrder, clip_shares, m_per_class
from micacl.longtail.losses import LOSSES, Focal, adjust_logits, build_loss, log_prior
from micacl.mccl import MCCL, Scales, category_weights, class_temperatures, log_form_in_blocks, temperature
from micacl.nn.contrast import label_tensor, pairs
from micacl.metrics import (bootstrap_interval, confusion, ece, group_recall, instance_auc, paired_difference, recalls,
                            reliability, summarise, uar, war)
from micacl.models import MODELS, prepare_video
from micacl.train.summaries import pack_labels, unpack_labels
from micacl.show.tables import row_of
from micacl.wian import WIAN
from micacl.nn.pools import GatedAttentionPool, MaxPool, MeanPool, TransformerPool

C, Y = 5, [0, 1, 1, 4]
N_C = [5, 4, 3, 2, 6]
NAN = math.nan


def dice(): return torch.Generator().manual_seed(0)
def tensor(*shape): return torch.randn(*shape, generator=dice())


def refused(call, *words):
    "One line of MicaclError, and no warning before it."
    with pytest.raises(MicaclError) as e: call()
    text = str(e.value)
    assert "expected" in text and "found" in text or "metrics:" in text, text
    assert len(text) < 400 and all(w in text for w in words), text


# ---- everything that takes labels

def contrast(name, **options):
    torch.manual_seed(0)
    return CONTRASTS[name](N_C, 16, **options)


def stage(kind, y):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, C)
    second_stage(kind, head, tensor(4, 16), y, N_C)
    return torch.cat([head.weight.detach().flatten(), head.bias.detach()])


PRINTED = dict(form="printed", class_weight="none", temperature="class")
PROBABILITIES = [[.6, .1, .1, .1, .1]] * 4
Z, PROTOTYPES = F.normalize(tensor(4, 8), dim=1), F.normalize(torch.randn(C, 8, generator=dice()), dim=1)

TORCH = {**{f"loss {n}": lambda y, n=n: build_loss(n, N_C)(tensor(4, C), y) for n in LOSSES},
         **{f"contrast {n}": lambda y, n=n: contrast(n)(tensor(4, 16), y) for n in CONTRASTS},
         "mccl printed": lambda y: contrast("mccl", **PRINTED)(tensor(4, 16), y),
         "bcl": lambda y: bcl(Z, y, PROTOTYPES), "bcl_terms": lambda y: bcl_terms(Z, y, PROTOTYPES)}
UNLIMITED = {"supcon": lambda y: supcon(Z, y), "pairs": lambda y: torch.stack(pairs(y)),   # C is not known
             "columns": lambda y: torch.stack(pairs(torch.tensor(Y), y)),
             "blocks": lambda y: log_form_in_blocks(Z, Z, y, y, torch.ones(4, 1), torch.ones(4)),
             "bcl classes": lambda y: bcl(Z, [0, 1, 1, 0], PROTOTYPES[:4], classes=y)}
STAGE = {"nearest_mean": lambda y: torch.cat([v.flatten() for v in nearest_mean(tensor(4, 16), y, C)]),
         "retrain": lambda y: retrain(tensor(4, 16), y, C)[0],
         "learn_scales": lambda y: learn_scales(tensor(C, 16), torch.zeros(C), tensor(4, 16), y)[0],
         **{f"stage {k}": lambda y, k=k: stage(k, y) for k in ("crt", "lws", "nearest_mean")}}
METRICS = {"confusion": lambda y: confusion(y, Y, C), "confusion predicted": lambda y: confusion(Y, y, C),
           "recalls": lambda y: recalls(y, Y, C), "uar": lambda y: uar(Y, y, C),
           "class_counts": lambda y: class_counts(y, C),
           "bootstrap": lambda y: bootstrap_interval(y, Y, C, draws=9)["recall"],
           "paired": lambda y: paired_difference(y, [Y], [Y], C, draws=9)["by_seed"],
           "paired predicted": lambda y: paired_difference(Y, y, Y, C, draws=9)["by_seed"],
           "ece": lambda y: ece(y, PROBABILITIES), "reliability": lambda y: reliability(y, PROBABILITIES)[2],
           "summarise": lambda y: summarise(y, np.eye(C)[Y], list("abcde"), N_C)["war"],
           "angles": lambda y: lt.mean_angles(tensor(4, 3), y, C)}
FREE = {"war": lambda y: war(y, Y), "war predicted": lambda y: war(Y, y),
        "alignment": lambda y: lt.alignment(tensor(4, 3), y),
        "clip_shares": lambda y: clip_shares(y, "sqrt"), "m_per_class": lambda y: m_per_class(y, 2, dice()),
        **{f"sampler {s}": lambda y, s=s: list(EpochOrder(y, 0, s)) for s in SAMPLERS}}
LIMITED = {**TORCH, **STAGE, **METRICS}
ALL = {**LIMITED, **UNLIMITED, **FREE}

NO_LABELS = {"minus one": [0, -1, 1, 4], "ignored": [0, -100, 1, 4], "a fraction": [0., 1.5, 1., 4.],
             "nan": [0., NAN, 1., 4.], "infinite": [0., math.inf, 1., 4.], "a column": [[0], [1], [1], [4]],
             "a row": [[0, 1, 1, 4]], "text": ["a", "b", "b", "e"], "none": None, "objects": [0, None, 1, 4],
             "ragged": [[0], [1, 1], [4], [2]], "a number": 3, "complex": [0j, 1j, 1j, 4j]}


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_label_is_refused(name):
    for kind, y in NO_LABELS.items():
        if kind == "a row" and name.startswith("paired pred"): continue            # (S, n) is right there
        if kind == "none" and name in ("columns", "bcl classes"): continue         # their default
        for make in (lambda v: v, np.array, torch.tensor):
            try: value = make(y)
            except (TypeError, ValueError, RuntimeError): continue                  # no such array or tensor
            refused(lambda value=value: ALL[name](value))


@pytest.mark.parametrize("name", LIMITED)
def test_a_label_of_c_or_more_is_refused(name):
    for y in ([0, 5, 1, 4], [0, 1, 1, 2**40]):
        refused(lambda y=y: LIMITED[name](torch.tensor(y)), f"0..{C - 1}, found 0..")
        refused(lambda y=y: LIMITED[name](y), f"0..{C - 1}")


@pytest.mark.parametrize("name", ALL)
def test_a_missing_label_says_what_to_do(name):
    if "classes" in name: return
    refused(lambda: ALL[name]([0, -100, 1, 4]), "-100..", "leave out clips without a label (keep = y >= 0)")


TYPES = (torch.int32, torch.int16, torch.int8, torch.uint8, torch.float32)
SAME = {"floats": lambda: [float(v) for v in Y], "list": lambda: Y,
        **{str(t): lambda t=t: torch.tensor(Y, dtype=t) for t in TYPES},
        "tuple": lambda: tuple(Y), "numpy": lambda: np.array(Y), "uint8 array": lambda: np.array(Y, np.uint8),
        "big-endian": lambda: np.array(Y, ">i4"), "strided": lambda: torch.tensor([v for v in Y for _ in "ab"])[::2],
        "reversed": lambda: np.array(Y[::-1])[::-1], "tensors": lambda: [torch.tensor(v) for v in Y]}
SLOW = ("retrain", "learn_scales", "stage crt", "stage lws")     # 300 steps each


@pytest.mark.parametrize("name", ALL)
def test_whole_numbers_of_any_type_give_the_same_bits(name):
    want = torch.as_tensor(ALL[name](torch.tensor(Y)))
    for kind in list(SAME)[:3 if name in SLOW else None]:
        got = torch.as_tensor(ALL[name](SAME[kind]()))
        assert got.dtype == want.dtype and torch.equal(got.nan_to_num(9), want.nan_to_num(9)), kind


@pytest.mark.parametrize("name", ALL)
def test_labels_of_another_length_are_refused(name):
    if name in ("class_counts", "pairs", "clip_shares", "m_per_class") or "sampler" in name: return
    for y in ([0, 1, 1], [1], [0, 1, 1, 4, 2]):
        if (name, len(y)) != ("columns", 5): refused(lambda y=y: ALL[name](torch.tensor(y)))


def test_a_read_only_array_is_no_reason_to_warn(recwarn):
    y = np.array(Y)
    y.flags.writeable = False
    for name in ("loss ce", "contrast bcl", "sampler balanced", "nearest_mean"): ALL[name](y)
    assert not recwarn.list
    torch_y = torch.tensor(Y)
    label_tensor(torch_y, C)[0] = 3                        # a copy: the caller's labels stay
    assert torch_y[0] == 0


def test_no_labels_at_all():
    for name in STAGE: refused(lambda name=name: STAGE[name]([]))
    for name in LOSSES: refused(lambda name=name: build_loss(name, N_C)(tensor(0, C), []))
    for sampler in SAMPLERS[1:]: refused(lambda sampler=sampler: list(EpochOrder([], 0, sampler)), "at least one")
    assert list(EpochOrder([], 0)) == [] and math.isnan(war([], [])) and class_counts([], 2).tolist() == [0, 0]
    for name in CONTRASTS: assert contrast(name)(tensor(0, 16), []).item() == 0
    refused(lambda: lt.long_tailed([], 2))


def test_labels_on_a_device_are_checked_without_reading_them():
    "The meta device has no values: whatever would read one fails there, as it would wait on a GPU."
    for name in LOSSES:
        loss, f = build_loss(name, N_C).to("meta"), torch.empty(4, C, device="meta")
        assert loss(f, torch.empty(4, dtype=torch.int32, device="meta")).device.type == "meta"
    z, y = torch.empty(4, 8, device="meta"), torch.empty(4, dtype=torch.uint8, device="meta")
    values = supcon(z, y), bcl(z, y, z[:3]), bcl(z, y, z, classes=y), *pairs(y), label_tensor(y, C)
    assert all(v.is_meta for v in values)
    for bad in (z[:, 0], y[:, None]): refused(lambda bad=bad: label_tensor(bad, C))
    with pytest.raises(RuntimeError, match="index"):                    # what refuses on a GPU
        torch.zeros(C).gather(0, torch.tensor([-1]))


def test_alone_or_ambiguous():
    refused(lambda: confusion(Y, np.eye(C), C), "argmax")
    for y in ([0, 1, 10**12], [0, -1], [0, .5], [[0], [1]], [1, 2]): refused(lambda y=y: lt.long_tailed(y, 2))
    for c in ([-1], [7], [.5]): refused(lambda c=c: paired_difference(Y, [Y], [Y], C, classes=c))
    for a in ([[0, NAN, 1, 4]], [[0, 1], [0]], [[[0, 1, 1, 4]]]): refused(lambda a=a: paired_difference(Y, a, [Y], C))
    refused(lambda: clip_shares(torch.tensor(Y), "per_class"), "sampler")
    assert clip_shares([0, 10**15, 10**15], "balanced").tolist() == [.5, .25, .25]   # no table up to the largest label
    refused(lambda: pairs(torch.tensor(Y), torch.tensor([0, 1])), "begin with the 4 anchors")
    refused(lambda: bcl(Z, Y, PROTOTYPES, classes=[0, 1]), "classes")
    refused(lambda: supcon(Z, Y[:3])); refused(lambda: bcl(Z[0], Y, PROTOTYPES))


# ---- counts

COUNTS = {"MCCL": lambda n: MCCL(n, 16).W, "Scales": lambda n: Scales(n, 16, (1,), 8, True).classes,
          **{n: lambda c, n=n: CONTRASTS[n](c, 16).n_classes for n in ("supcon", "bcl")},
          **{f"loss {n}": lambda c, n=n: build_loss(n, c)(tensor(4, 3), [0, 1, 1, 2]) for n in LOSSES},
          "temperature": temperature, "class_temperatures": lambda n: class_temperatures(n, kind="class"),
          **{f"weights {k}": lambda n, k=k: category_weights(n, k) for k in ("effective", "inverse", "none")},
          "log_prior": log_prior, "adjust_logits": lambda n: adjust_logits(tensor(4, 3), n),
          "reversed": lt.reversed_shares,
          "stage2": lambda n: second_stage("logit_adjusted", torch.nn.Linear(4, 3), tensor(4, 4), [0, 1, 1, 2], n)}
RANKS = {"groups": lambda n: str(frequency_groups(n)), "class_groups": lambda n: str(lt.class_groups(n)),
         "class_groups, thresholds": lambda n: str(lt.class_groups(n, (4, 2))),
         "group_recall": lambda n: group_recall([.5, .6, .7], n)["tail"],
         "summarise": lambda n: summarise([0, 1], np.eye(3)[:2], "abc", n)["tail"]}
SHARES = {"target": lambda q: adjust_logits(tensor(4, 3), [5, 4, 3], target=q),
          "shifted": lambda q: lt.shifted_accuracy([.5, .6, .7], q),
          "alpha": lambda q: Focal([5, 4, 3], alpha=q)(tensor(4, 3), [0, 1, 1, 2])}
NO_COUNTS = {"nan": [NAN, 4, 3], "infinite": [math.inf, 4, 3], "negative": [-1, 4, 3], "no classes": [],
             "nothing": None, "a number": 5, "text": ["5", "4", "3"], "a table": [[5, 4, 3]], "ragged": [[5], [4, 3]],
             "named": {"happy": 5, "sad": 4, "fear": 3}, "with a gap": Counter({0: 5, 1: 4, 3: 3}),
             "of tensors": Counter(torch.tensor([0, 1, 2])), "a set": {5, 4, 3}, "values": {0: 5}.values()}


@pytest.mark.parametrize("name", [*COUNTS, *RANKS, *SHARES])
def test_what_is_no_count_is_refused(name):
    call = {**COUNTS, **RANKS, **SHARES}[name]
    for n in NO_COUNTS.values():
        if n is None and name in ("target", "alpha"): continue         # their default
        refused(lambda n=n: call(n), "found")
    if name in SHARES: return
    for n in ([.7, .2, .1], [True, True, False]): refused(lambda n=n: call(n), "whole numbers")
    if name in COUNTS: refused(lambda: call([0, 0, 0]), "not all 0")


@pytest.mark.parametrize("name", [*COUNTS, *RANKS, *SHARES])
def test_counts_of_any_kind_give_the_same(name):
    call, n = {**COUNTS, **RANKS, **SHARES}[name], [2, 5, 3]
    def same(v):
        torch.manual_seed(0)
        v = call(v)
        return v if isinstance(v, str) or v is None else torch.as_tensor(v)
    want = same(n)
    for v in (tuple(n), np.array(n), np.array(n, np.uint8), torch.tensor(n), torch.tensor(n).float(), [2., 5., 3.],
              {2: 3, 0: 2, 1: 5}, Counter({1: 5, 2: 3, 0: 2}), Counter([0] * 2 + [1] * 5 + [2] * 3)):
        got = same(v)
        assert got == want if isinstance(want, str) or want is None else torch.equal(got, want)


def test_value_counts_are_read_by_class():
    pandas = pytest.importorskip("pandas")                 # sorted by frequency, like a Counter's most_common()
    assert check_counts(pandas.Series([1] * 5 + [2] * 3 + [0] * 2).value_counts()).tolist() == [2, 5, 3]


def test_counts_of_another_number_of_classes():
    for n in ([5, 4], [5, 4, 3, 2]):
        for name, call in {**COUNTS, **RANKS, **SHARES}.items():
            if name in ("adjust_logits", "stage2", "group_recall", "summarise", *SHARES) or name.startswith("loss"):
                refused(lambda n=n, call=call: call(n))
    refused(lambda: MCCL([5, 4], 16)(tensor(4, 16), [0, 1, 1, 2]), "0..1, found 0..2")
    for g in (dict(head=[0], tail=[-1]), dict(head=[2]), None): refused(lambda g=g: group_recall([.5, .6], groups=g))


def test_weights_sum_as_they_say():
    n = [10, 0, 30]
    for kind in ("effective", "inverse"):
        W = category_weights(n, kind)
        assert W[1] == 0 and W.sum().item() == pytest.approx(2)
    assert category_weights(n, "none").tolist() == [1, 1, 1]


# ---- a clip of a class whose count is 0

ABSENT = [5, 4, 0, 2, 0]


@pytest.mark.parametrize("y", [[2, 0, 1, 3], [2, 2, 0, 1], [2, 4, 0, 0], [2, 2, 2, 2], [2, 4, 2, 4]])
def test_a_clip_of_a_class_without_training_clips_leaves_every_loss_finite(y):
    options = {}, PRINTED, dict(form="printed"), dict(centres=False), dict(class_weight="none"), dict(self_pairs=True)
    for make in (*(lambda n=n: build_loss(n, ABSENT) for n in LOSSES),
                 *(lambda n=n: CONTRASTS[n](ABSENT, C) for n in ("supcon", "bcl")),
                 *(lambda o=o: MCCL(ABSENT, C, (1,), out_dim=None, **o) for o in options)):
        torch.manual_seed(0)
        loss, x = make(), tensor(4, C).requires_grad_()
        value = loss(x, torch.tensor(y))
        value.backward()
        grads = [x.grad, *(p.grad for p in loss.parameters() if p.grad is not None)]
        assert value.isfinite() and all(g.isfinite().all() for g in grads)


def test_bcl_of_such_a_clip():
    "As an anchor it counts 0; for the others it is one more negative of a class of its own."
    z, y = F.normalize(tensor(4, 8), dim=1), [2, 0, 0, 1]
    terms = bcl_terms(z, y, PROTOTYPES[[0, 1]], .5, [0, 1])
    assert terms[0] == 0 and (terms[1:] > 0).all()
    without = bcl_terms(z[1:], y[1:], PROTOTYPES[[0, 1]], .5, [0, 1])
    assert (terms[1:] > without).all()
    assert bcl(z[:1], [2], PROTOTYPES[[0, 1]], .5, [0, 1]) == 0
    assert bcl_terms(z, [2, 2, 0, 1], PROTOTYPES[[0, 1]], .5, [0, 1])[0] > 0            # two of them are partners


# ---- metrics

def test_war_compares_clip_with_clip():
    refused(lambda: war([[0], [1]], [0, 1]), "(2, 1)")
    refused(lambda: war([0, 1, 2], [1]), "3 labels but 1 predictions")
    refused(lambda: war([0, 1], [0, NAN])); refused(lambda: war([0, 1], [[.9, .1], [.2, .8]]))
    assert war(torch.tensor([0, 1]), np.array([0., 1.])) == 1 and war([0, 1], [0, 0]) == .5


@pytest.mark.parametrize("p", [[[3., -1.], [2., 5.]], [[.5, .2], [.5, .5]], [[1.2, -.2], [.5, .5]],
                               [[NAN, NAN], [.5, .5]], [[.5, .5]], [.5, .5], [[.5], [.5]], [[.5, .5], [.5]], None,
                               [["a", "b"]] * 2, np.zeros((2, 0)), [[.5, .5], [.5, .5], [.5, .5]]])
def test_scores_are_no_probabilities(p):
    for f in (ece, reliability): refused(lambda f=f: f([0, 1], p))


def test_probabilities_in_few_bits_are_probabilities():
    f = 5 * torch.randn(500, 7, generator=dice())
    y = f.argmax(1)
    exact = ece(y, f.double().softmax(1))
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        p = f.softmax(1).to(kind)
        assert ece(y, p.float()) == pytest.approx(exact, abs=.01)
        if kind != torch.bfloat16: assert ece(y, p) == ece(y, p.float())
    assert ece(y, f.softmax(1).numpy().round(2)) == pytest.approx(exact, abs=.01)
    refused(lambda: ece([0, 1], [[9., -9], [3., 4]]), "softmax")


def test_summarise_never_folds_scores():
    refused(lambda: summarise([0] * 6, np.zeros((7, 6)), "abcdefg", [1] * 7), "(6, 7)")   # 42 numbers, not 6 rows of 7
    for y, f in (([0, 1], [[1., 2.]]), ([[0], [1]], np.eye(2)), ([0, 1], [["x", "y"]] * 2), ([0, 1], [1., 2., 3., 4.])):
        refused(lambda y=y, f=f: summarise(y, f, "ab", [1, 1]))
    for f in ([], np.zeros((0, 2)), np.zeros(0)): assert summarise([], f, "ab", [1, 1])["n_test"] == 0
    for f in (np.zeros((3, 2)), None, [[1.], [1., 2.]]): refused(lambda f=f: summarise([], f, "ab", [1, 1]))


def test_instance_auc_wants_yes_or_no():
    w = [[.1, .9], [.5, .5]]
    for p in ([[0, 2], [1, 0]], [[0, -1], [1, 0]], [[0, .5], [1, 0]], [[0, NAN], [1, 0]], [0, 1]):
        refused(lambda p=p: instance_auc(w, p))
    with pytest.raises(MicaclError, match="NaN"): instance_auc([[NAN, .9], [.5, .5]], [[0, 1], [1, 0]])
    assert instance_auc(w, [[0, 1], [1, 0]]) == instance_auc(w, [[False, True], [True, False]]) == (.75, 2)


def test_recalls_and_shares():
    for r in ([90., 80.], [-.1, .5], [[.5, .5]], .5): refused(lambda r=r: lt.g_mean(r))
    for r in ([[.5, .5]], .5): refused(lambda r=r: group_recall(r, [2, 1]))
    refused(lambda: lt.simplex_angle(1)); refused(lambda: lt.uniformity(tensor(1, 4)))
    assert lt.shifted_accuracy([NAN, .5], [0, 1]) == .5 and math.isnan(lt.shifted_accuracy([NAN, .5], [1, 1]))
    assert lt.shifted_accuracy([[.5, 1], [0, 1]], [1, 3]).tolist() == [.875, .75]


def test_features_and_scores_are_tensors():
    x = np.ones((4, 16))
    for name in LOSSES: refused(lambda name=name: build_loss(name, N_C)(np.zeros((4, C)), Y), "tensor")
    for name in CONTRASTS: refused(lambda name=name: contrast(name)(x, Y), "found ndarray")
    refused(lambda: nearest_mean(x, Y, C), "torch.as_tensor"); refused(lambda: retrain([[1.]], [0], 1), "tensor")
    refused(lambda: category_weights([4, 2], beta=1.)); refused(lambda: category_weights([4, 2], beta=NAN))


def test_files_of_runs():
    for y in ([0, -1], [0, .5], [[0]]): refused(lambda y=y: pack_labels(y))
    for y in ([0, 10, 3], np.array([0, 99]), []): assert unpack_labels(pack_labels(y)).tolist() == list(y)
    for text in ("01ä", [0, -1], [0, 1.5]): refused(lambda text=text: unpack_labels(text))
    for M in ([[1, 2]], [[1, -1], [0, 1]], [[.5, 1], [0, 1]], [[1, 2], [3]], np.eye(3)):
        refused(lambda M=M: row_of(M, "ab", "x"))
    assert row_of([[1, 1], [0, 2]], "ab", "x").uar == 75


# ---- models

def movie(B=2): return torch.randint(0, 256, (B, 8, 3, 32, 32), dtype=torch.uint8, generator=dice())


def model(name="micacl", **options):
    torch.manual_seed(0)
    return MODELS[name](7, "r3d_small", n_instances=2, instance_length=4, **options).eval()


@pytest.fixture(scope="module")
def scored():
    with torch.inference_mode(): return {name: (m := model(name), m(movie()).logits) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind, eps", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 3e-4)])
def test_a_model_in_any_type_takes_any_video(scored, name, kind, eps):
    m, want = scored[name]
    m, v = copy.deepcopy(m).to(kind), movie()
    for video in (v, *((v / 255).to(t) for t in (torch.float16, torch.float32, torch.float64))):
        with torch.inference_mode(): out = m(video)
        assert out.logits.dtype == kind and (out.logits.double() - want).abs().max() < eps


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_32_bits_takes_any_video(scored, name):
    (m, want), v = scored[name], movie()
    with torch.inference_mode():
        assert torch.equal(m(v / 255).logits, want)
        for kind in (torch.float64, torch.float16): assert (m((v / 255).to(kind)).logits - want).abs().max() < 1e-3
        x = m.encode(v)
        assert torch.equal(m(x.double()).logits, m(x).logits)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = m(v).logits
            for kind in (torch.float64, torch.float32): assert torch.equal(m((v / 255).to(kind)).logits, low)
        assert (low.float() - want).abs().max() < 2e-2


def test_a_model_in_half_learns():
    m = model("mean").bfloat16().train()
    F.cross_entropy(m(movie()).logits.float(), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("name", ["micacl", "m3dfel", "mean"])
def test_floats_that_are_no_pixels_are_refused(scored, name):
    m, v = scored[name][0], movie()
    x = v / 255
    damaged = [x.masked_fill(v == 7, b) for b in (NAN, math.inf)]
    for video in (v.float(), v.half(), v.double(), 2 * x - 1, (x - .5) / .25, *damaged):
        refused(lambda video=video: m(video), "float video of 0 to 1", "uint8")
        with torch.inference_mode(): refused(lambda video=video: m(video), "float video")
    for o in (copy.deepcopy(m).half(), copy.deepcopy(m).train()): refused(lambda o=o: o(v.float()), "float video")


def test_overshoot_of_resampling_is_no_mistake():
    "Bicubic at the sharpest corner there is."
    x = torch.zeros(8, 3, 32, 32)
    x[..., 16:, 16:] = 1
    for size in (24, 50, 64, 112):
        for antialias in (False, True):
            y = F.interpolate(x, size=(size, size), mode="bicubic", antialias=antialias)[None]
            assert torch.equal(prepare_video(y, 8), y)
    assert y.min() < 0 or y.max() > 1
    assert prepare_video(torch.zeros(0, 8, 3, 32, 32), 8).shape[0] == 0


def test_bytes_are_never_looked_at(monkeypatch):
    "The training path costs nothing: no pass over the pixels, nothing read."
    def never(*_): raise AssertionError("looked at")
    for name in ("aminmax", "amin", "amax", "min", "max", "isnan"): monkeypatch.setattr(torch.Tensor, name, never)
    prepare_video(movie(), 8)
    with pytest.raises(AssertionError, match="looked at"): prepare_video(movie() / 255, 8)
    assert prepare_video(torch.rand(1, 8, 3, 8, 8, device="meta"), 8).is_meta


WRONG = {"numpy": (lambda v: v.numpy(), "torch.as_tensor"), "list": (lambda v: v.tolist(), "torch.as_tensor"),
         "None": (lambda v: None, "torch.as_tensor"), "int64": (lambda v: v.long(), "video.to(torch.uint8)"),
         "bool": (lambda v: v > 9, "video.to(torch.uint8)"), "one video": (lambda v: v[0], "video[None]"),
         "channels last": (lambda v: v.movedim(2, -1), "video.permute(0, 1, 4, 2, 3)"),
         "channels before frames": (lambda v: v.transpose(1, 2), "video.transpose(1, 2)"),
         "grey": (lambda v: v[:, :, :1], "(2, 8, 1, 32, 32)"),
         "too few frames": (lambda v: v[:, :6], "sample that many frames"),
         "a picture": (lambda v: v[0, 0], "videos have 5 axes"),
         "a float picture": (lambda v: v[0, 0] / 255, "videos have 5 axes"),
         "features of another length": (lambda v: torch.rand(2, 2, 64), "(2, 2, 64)"),
         "features of other instances": (lambda v: torch.rand(2, 3, 128), "instances, found 3"),
         "whole features": (lambda v: torch.ones(2, 2, 128).long(), "float tensor"),
         "array of features": (lambda v: np.ones((2, 2, 128)), "torch.as_tensor")}


@pytest.mark.parametrize("name", ["micacl", "m3dfel", "max", "attention"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_video_is_refused(scored, name, kind):
    make, words = WRONG[kind]
    if "other instances" in kind and name in ("max", "attention"): return        # they pool any number
    refused(lambda: scored[name][0](make(movie())), words)


def test_a_backbone_takes_floats_of_any_type():
    net = build_backbone("r3d_small").eval()
    x = torch.rand(2, 3, 4, 32, 32, generator=dice())
    with torch.inference_mode():
        want = net(x)
        assert net(x.double()).dtype == torch.float32 and torch.allclose(net(x.double()), want, atol=1e-5)
        low = copy.deepcopy(net).half()
        assert low(x).dtype == torch.float16 and torch.allclose(low(x).float(), want, atol=5e-3)


# ---- modules by themselves

POOLS = {"GEIIM": lambda: GEIIM(16, 4), "GEIIM, channels": lambda: GEIIM(16, 4, graph_over="channels"),
         "MeanPool": MeanPool, "MaxPool": MaxPool,
         "attention": lambda: GatedAttentionPool(16), "transformer": lambda: TransformerPool(16, 4),
         "WIAN": lambda: (lambda w: lambda x, mask=None: w(x, torch.full((3, 4), .25), mask))(WIAN(16))}


@pytest.mark.parametrize("name", POOLS)
def test_bags_of_the_wrong_kind_are_refused(name):
    x, module = tensor(3, 4, 16), POOLS[name]()
    bad = [x.numpy(), x.long(), x[0], x[None], None]
    if name not in ("MeanPool", "MaxPool"): bad += [x.double(), x.half(), x[..., :8]]
    for value in bad: refused(lambda value=value: module(value))
    ones = torch.ones(3, 4)
    for mask in (ones, ones * NAN, ones.long(), torch.ones(3, 5).bool(), ones[0].bool(), ones[..., None].bool(),
                 np.ones((3, 4), bool), [[True] * 4] * 3):
        refused(lambda mask=mask: module(x, mask), "bool mask")
    module(x, torch.ones(3, 4).bool())
    with torch.autocast("cpu", dtype=torch.bfloat16): module(x.bfloat16())        # mixed types are right there


def test_dependency_checks_what_it_is_given():
    g = GEIIM(16, 4)
    refused(lambda: g.dependency(tensor(3, 4, 8)))
    refused(lambda: g.dependency(tensor(3, 4, 16), torch.ones(3, 4)), "bool mask")


def test_labels_and_counts_by_hand():
    assert check_labels([True, False], 2).tolist() == [1, 0] and check_labels(range(3)).tolist() == [0, 1, 2]
    assert check_labels([[0, 1]], ndim=None).shape == (1, 2) and check_labels([]).dtype == np.int64
    assert check_counts([0, 0], zeros=True).tolist() == [0, 0]
    assert check_counts([.5, .5], whole=False).tolist() == [.5, .5]
    assert label_tensor([0, 1], 2).dtype == torch.int64


NO_NUMBERS = ["a", None, [0.1], NAN, math.inf, True]


@pytest.mark.parametrize("v", NO_NUMBERS + [0, -1, 1e-300])
def test_a_temperature_that_is_none_is_refused(v):
    z, y = F.normalize(torch.randn(4, 16), dim=1), [0, 1, 1, 2]
    n = [5, 4, 3]
    for make in (lambda: MCCL(n, 16, tau0=v), lambda: MCCL(n, 16, tau0=v, temperature="class"),
                 lambda: temperature(n, v),
                 lambda: class_temperatures(n, v, "fixed"), lambda: CONTRASTS["bcl"](n, 16, temperature=v),
                 lambda: CONTRASTS["supcon"](n, 16, temperature=v), lambda: supcon(z, y, v),
                 lambda: bcl(z, y, z[:3], v),
                 lambda: lt.CosineLinear(16, 3, v)):
        with pytest.raises(MicaclError, match="expected a number"): make()


@pytest.mark.parametrize("v", NO_NUMBERS)
def test_a_setting_of_a_loss_that_is_no_number_is_refused(v):
    n, s = [5, 4, 3], torch.randn(4, 3)
    makes = [lambda: lt.LDAM(n, scale=v), lambda: lt.LDAM(n, max_margin=v), lambda: lt.LDAM(n, beta=v),
             lambda: lt.ClassBalanced(n, beta=v), lambda: Focal(n, gamma=v), lambda: lt.LogitAdjusted(n, tau=v),
             lambda: lt.CrossEntropy(n, v), lambda: category_weights(n, "effective", v), lambda: adjust_logits(s, n, v),
             lambda: lt.tau_normalise(s, v), lambda: lt.uniformity(s, v)]
    if v is not None: makes.append(lambda: lt.LDAM(n, deferred=v))
    for make in makes:
        with pytest.raises(MicaclError, match="expected a number"): make()


@pytest.mark.parametrize("v", [0, -1, "a", 16.5, None, True])
def test_a_length_that_is_none_is_refused(v):
    for make in (lambda: MCCL([3, 2], v), lambda: CONTRASTS["bcl"]([3, 2], v), lambda: CONTRASTS["supcon"]([3, 2], v),
                 lambda: CONTRASTS["bcl"]([3, 2], 16, out_dim=v), lambda: lt.CosineLinear(16, v)):
        with pytest.raises(MicaclError, match="expected a whole number"): make()
    for scales in (v, (v,), "12", ()):
        with pytest.raises(MicaclError, match="MCCL"): MCCL([3, 2], 16, scales=scales)


@pytest.mark.parametrize("v", [0, -1, 1.5, "a", None, NAN, True])
def test_counts_of_bins_draws_and_classes_are_checked(v):
    y, p = [0, 1, 1, 2], np.full((4, 3), 1 / 3)
    for make in (lambda: ece(y, p, v), lambda: reliability(y, p, v), lambda: recalls(y, y, v),
                 lambda: class_counts(y, v),
                 lambda: bootstrap_interval(y, y, 3, draws=v), lambda: paired_difference(y, y, y, v),
                 lambda: lt.mean_angles(p, y, v), lambda: lt.simplex_angle(v), lambda: confusion(y, y, 2**40)):
        with pytest.raises(MicaclError, match="expected a whole number"): make()


@pytest.mark.parametrize("change", ["long", "bool", "complex", "sparse", "list"])
def test_scores_and_features_of_another_kind_are_refused(change):
    kind = dict(long=lambda x: x.long(), bool=lambda x: x > 0, complex=lambda x: x + 0j, sparse=lambda x: x.to_sparse(),
                list=lambda x: x.tolist())[change]
    x, y, n = torch.randn(4, 16), [0, 1, 1, 2], [5, 4, 3]
    for name in LOSSES:
        with pytest.raises(MicaclError): build_loss(name, n)(kind(x[:, :3]), y)
    for make in CONTRASTS.values():
        with pytest.raises(MicaclError): make(n, 16)(kind(x), y)
    with pytest.raises(MicaclError): supcon(kind(x), y)
    with pytest.raises(MicaclError): bcl(x, y, kind(x[:3]))


def test_labels_of_small_types_without_an_upper_limit():
    y = torch.tensor([0, 1, 1, 0])
    for kind in (torch.bool, torch.half, torch.bfloat16, torch.int8): assert war(y.to(kind), y) == 1
    with pytest.raises(MicaclError): war(y.to("meta"), y)
    with pytest.raises(MicaclError): check_counts(torch.tensor([1, 2], device="meta"))


def test_measures_read_tensors_of_every_type():
    r = torch.tensor([.5, .25, 1.], requires_grad=True)
    for v in (r, r.detach().bfloat16(), r.detach().half(), r.detach().numpy(), r.tolist()):
        assert lt.g_mean(v) == pytest.approx(.5) and lt.shifted_accuracy(v, [1, 1, 1]) == pytest.approx(1.75 / 3)
        assert group_recall(v, [9, 5, 1])["head"] == .5
        assert instance_auc([v] if isinstance(v, list) else v[None], [[0, 0, 1]]) == (1, 1)
    for measure in (lt.g_mean, lt.uniformity, lambda v: lt.shifted_accuracy(v, [1]), lambda v: group_recall(v, [1]),
                    lambda v: instance_auc(v, [[1]]), lambda v: lt.alignment(v, [0]), lambda v: adjust_logits(v, [1])):
        for v in ("a", None, [[1], [2, 3]]):
            with pytest.raises(MicaclError): measure(v)


@pytest.mark.parametrize("rule", ["ab", (1,), (1, 2, 3), 3, (5, 10), {"head": 0}, {"head": ["a"]}, {"head": [0]},
                                  {"x": [0, 1, 2]}])
def test_groups_of_classes_that_are_none(rule):
    with pytest.raises(MicaclError): lt.class_groups([9, 5, 1], rule)


def test_plots_take_counts_as_a_dict_and_names_that_are_no_text():
    from micacl.show.plots import plot_long_tail
    figure = plot_long_tail({1: 3, 0: 9}, ["a\udce9", "$b$"])
    figure.canvas.draw()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a?", r"\$b\$"]
    with pytest.raises(MicaclError): plot_long_tail([NAN, 1], ["a", "b"])
    with pytest.raises(MicaclError): plot_long_tail([1, 2, 3], ["a", "b"])


def test_a_number_that_python_refuses_to_write_is_one_line():
    from micacl.core import MicaclError, check_number
    with pytest.raises(MicaclError, match="thousands of digits"): check_number(10**5000, "x", below=10)
