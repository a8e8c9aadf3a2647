"Metrics against hand cases, scikit-learn, and slow loops."
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from micacl.core import EMOTIONS, MicaclError
from micacl.metrics import (
    _person_weights, bootstrap_interval, class_counts, confusion, ece, frequency_groups, group_recall, instance_auc,
    paired_difference, recalls, reliability, summarise, uar, war
)

DFEW = [489, 379, 534, 435, 294, 29, 181]
DFEW_TRAIN = [1956, 1515, 2135, 1738, 1175, 116, 721]
FERV39K_TRAIN = [5854, 5523, 7790, 5906, 2502, 1833, 1680]
labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1,
                  max_size=60).map(lambda pairs: np.array(pairs).T)


def test_class_counts_by_hand():
    assert class_counts([0, 0, 2], 4).tolist() == [2, 0, 1, 0]
    assert class_counts([], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [[7], [-1], [0, 9]])
def test_class_counts_names_a_wrong_label(bad):
    with pytest.raises(MicaclError, match="expected 0..6"): class_counts(bad, 7)


def test_groups_of_the_published_counts():
    assert frequency_groups(DFEW_TRAIN) == dict(head=[0, 2, 3], medium=[1, 4], tail=[5, 6])
    assert frequency_groups(FERV39K_TRAIN) == dict(head=[0, 2, 3], medium=[1, 4], tail=[5, 6])


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_groups_partition_the_classes(n_c):
    g = frequency_groups(n_c)
    assert sorted(g["head"] + g["medium"] + g["tail"]) == list(range(len(n_c)))
    if g["tail"]: assert max(n_c[c] for c in g["tail"]) <= min(n_c[c] for c in g["head"])
    if len(set(n_c)) == 1: assert not g["head"] and not g["tail"]


def test_hand_case():
    y, p = [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]
    assert confusion(y, p, 3).tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert recalls(y, p, 3)[:2].tolist() == [0.75, 0.5] and np.isnan(recalls(y, p, 3)[2])
    assert uar(y, p, 3) == 0.625 and war(y, p) == pytest.approx(4 / 6)


def test_majority_classifier_on_dfew():
    y, p = np.repeat(np.arange(7), DFEW), np.full(sum(DFEW), 2)
    assert uar(y, p) == pytest.approx(1 / 7) and war(y, p) == pytest.approx(534 / 2341)


@given(labels)
@settings(max_examples=40, deadline=None)
def test_against_scikit_learn(pair):
    y, p = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # sklearn warns of predicted classes that do not occur
        assert uar(y, p, 5) == pytest.approx(balanced_accuracy_score(y, p))
        each = recall_score(y, p, labels=range(5), average=None, zero_division=np.nan)
    assert war(y, p) == pytest.approx(accuracy_score(y, p))
    np.testing.assert_allclose(recalls(y, p, 5), each)
    assert confusion(y, p, 5).sum() == len(y)
    assert (np.isnan(recalls(y, p, 5)) == (np.bincount(y, minlength=5) == 0)).all()


@given(labels, st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_renaming_classes_changes_nothing(pair, names):
    y, p = pair
    names = np.array(names)
    assert uar(names[y], names[p], 5) == pytest.approx(uar(y, p, 5))
    np.testing.assert_allclose(recalls(names[y], names[p], 5)[names], recalls(y, p, 5))


def test_no_clips_are_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(war([], [])) and np.isnan(uar([], [])) and np.isnan(ece([], np.zeros((0, 7))))


def test_nothing_is_not_zero():
    assert np.isnan(uar([], [], 3)) and np.isnan(war([], [])) and np.isnan(recalls([], [], 3)).all()
    assert np.isnan(ece([], np.zeros((0, 3))))
    assert np.isnan(bootstrap_interval([], [], 3)["uar"]).all()
    box = bootstrap_interval([0, 0], [0, 1], 3)["recall"]
    assert np.isfinite(box[0]).all() and np.isnan(box[1:]).all()


@pytest.mark.parametrize("y, p, n", [([0, 3], [0, 0], 3), ([0, 0], [0, -1], 3), ([0, 1], [0], 2)])
def test_impossible_labels_are_refused(y, p, n):
    with pytest.raises(MicaclError): confusion(y, p, n)


def test_groups():
    r = np.array([.9, .8, .7, .6, .5, .1, .3])
    g = group_recall(r, DFEW)     # head: neutral, happy, angry; tail: disgust, fear
    assert g == pytest.approx(dict(head=(.7 + .9 + .6) / 3, medium=(.8 + .5) / 2, tail=(.1 + .3) / 2))
    r[5] = np.nan
    assert group_recall(r, DFEW)["tail"] == pytest.approx(.3)
    r[6] = np.nan
    assert np.isnan(group_recall(r, DFEW)["tail"])
    equal = group_recall([.1, .2, .3], [5, 5, 5])
    assert np.isnan(equal["head"]) and np.isnan(equal["tail"]) and equal["medium"] == pytest.approx(.2)


# ---- bootstrap

def _loop_interval(y, p, C, draws, seed):
    "Stratified bootstrap that really draws clips."
    rng, got = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = [rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in range(C)]
        r = [(p[i] == c).mean() for c, i in enumerate(drawn)]
        got.append([np.mean(r), (p[np.concatenate(drawn)] == y[np.concatenate(drawn)]).mean(), *r])
    return np.quantile(got, [.025, .975], axis=0).T


def test_bootstrap_equals_drawing_clips():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [120, 40, 12])
    p = np.where(rng.random(len(y)) < .6, y, rng.integers(0, 3, len(y)))
    fast, slow = bootstrap_interval(y, p, 3, draws=20000), _loop_interval(y, p, 3, 2000, 1)
    np.testing.assert_allclose(np.vstack([fast["uar"], fast["war"], fast["recall"]]), slow, atol=.025)


def test_bootstrap_is_seeded_and_holds_the_estimate():
    rng = np.random.default_rng(3)
    y, p = np.repeat(np.arange(7), DFEW), rng.integers(0, 7, sum(DFEW))
    a, b, c = (bootstrap_interval(y, p, seed=s) for s in (0, 0, 1))
    assert (a["uar"] == b["uar"]).all() and (a["uar"] != c["uar"]).any()
    assert a["uar"][0] < uar(y, p) < a["uar"][1] and a["war"][0] < war(y, p) < a["war"][1]
    narrow = bootstrap_interval(y, p, level=.5)
    assert np.diff(narrow["uar"]) < np.diff(a["uar"])


def test_bootstrap_of_a_perfect_classifier_is_a_point():
    y = np.repeat(np.arange(7), DFEW)
    box = bootstrap_interval(y, y)
    assert box["uar"].tolist() == [1, 1] and box["war"].tolist() == [1, 1]


@pytest.mark.parametrize("n, expected", [(100, 2 * 1.96 * np.sqrt(.25 / 100)),
                                         (10000, 2 * 1.96 * np.sqrt(.25 / 10000))])
def test_width_is_the_binomial_one(n, expected):
    box = bootstrap_interval(np.zeros(n, int), np.arange(n) % 2, 2, draws=5000)
    assert np.diff(box["recall"][0]).item() == pytest.approx(expected, rel=.1)


# ---- calibration

def test_ece_by_hand():
    p = np.array([[.9, .1], [.9, .1], [.9, .1], [.4, .6]])
    assert ece([0, 0, 1, 1], p) == pytest.approx(.75 * abs(2 / 3 - .9) + .25 * .4)
    assert ece([0, 1], np.eye(2)) == 0 and ece([1, 0], np.eye(2)) == 1


def test_bin_edges_belong_to_the_lower_bin():
    count, *_ = reliability([0], [[.6, .4]], bins=5)       # (0.4, 0.6]
    assert count.tolist() == [0, 0, 1, 0, 0]


@given(st.integers(1, 80), st.integers(0, 10**6), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_ece_against_a_loop(n, seed, bins):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 4, n), softmax(rng.normal(size=(n, 4)) * 3, 1)
    conf, right, expected = p.max(1), p.argmax(1) == y, 0.
    for m in range(bins):
        inside = (conf > m / bins) & (conf <= (m + 1) / bins)
        if inside.any(): expected += inside.mean() * abs(right[inside].mean() - conf[inside].mean())
    assert ece(y, p, bins) == pytest.approx(expected)
    assert 0 <= ece(y, p, bins) <= 1


# ---- instance AUC

@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_instance_auc_against_scikit_learn(n, N, seed):
    rng = np.random.default_rng(seed)
    w, pos = rng.integers(0, 4, (n, N)) / 4, rng.random((n, N)) < .4      # few values, so that ties occur
    each = [roc_auc_score(p, v) for v, p in zip(w, pos) if 0 < p.sum() < N]
    auc, used = instance_auc(w, pos)
    assert used == len(each)
    assert auc == pytest.approx(np.mean(each)) if each else np.isnan(auc)


def test_instance_auc_limits():
    pos = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool)
    assert instance_auc(pos, pos) == (1.0, 2) and instance_auc(~pos, pos) == (0.0, 2)
    assert instance_auc(np.full((2, 4), .25), pos) == (0.5, 2)
    assert instance_auc(np.ones((0, 4)), np.ones((0, 4), bool))[1] == 0
    with pytest.raises(MicaclError): instance_auc(np.ones((2, 4)), np.ones((2, 3), bool))


def test_instance_auc_compares_within_a_clip_only():
    w, pos = np.array([[.9, .8], [.2, .1]]), np.array([[0, 1], [1, 0]], bool)
    assert instance_auc(w, pos)[0] == .5                       # one right, one wrong
    assert instance_auc(w * [[1], [100]], pos)[0] == .5        # the scale of a clip is nothing


# ---- everything at once

def test_summary():
    rng = np.random.default_rng(5)
    y, logits = np.repeat(np.arange(7), DFEW), rng.normal(size=(sum(DFEW), 7))
    s = summarise(y, logits, EMOTIONS, DFEW)
    p = logits.argmax(1)
    assert s["uar"] == uar(y, p) and s["war"] == war(y, p) and s["n_test"] == 2341
    assert list(s["recall"]) == list(EMOTIONS) and s["n_per_class"]["disgust"] == 29
    assert s["recall"][s["worst"]] == min(s["recall"].values())
    assert s["ece"] == pytest.approx(ece(y, softmax(logits, 1))) and np.array(s["confusion"]).sum() == 2341
    assert {"head", "medium", "tail"} <= s.keys() and s["intervals"]["uar"][0] < s["uar"] < s["intervals"]["uar"][1]
    assert summarise(y, logits, EMOTIONS, DFEW) == s
    assert summarise(y, logits, EMOTIONS, DFEW, seed=1)["intervals"] != s["intervals"]


def test_summary_refuses_broken_scores_and_survives_absent_classes():
    with pytest.raises(MicaclError, match="NaN"): summarise([0], [[np.nan, 0.]], ("a", "b"), [1, 1])
    s = summarise([0, 1], [[2., 1., 0.], [0., 1., 0.]], ("a", "b", "c"), [9, 5, 1])
    assert np.isnan(s["recall"]["c"]) and np.isnan(s["tail"]) and s["uar"] == 1
    empty = summarise([], np.zeros((0, 3)), ("a", "b", "c"), [9, 5, 1])
    assert empty["n_test"] == 0 and empty["worst"] is None and np.isnan(empty["uar"])


# ---- paired differences

def pair(seed, S=5, n=420, C=7, a=.6, b=.5):
    "Labels, and the predictions of two methods that are right with chances a and b."
    rng, y = np.random.default_rng(seed), np.arange(n) % C
    right = lambda p: np.where(rng.random((S, n)) < p, y, (y + 1) % C)
    return y, right(a), right(b)


def test_paired_difference_is_the_difference_of_the_mean_uars():
    y, a, b = pair(0)
    r = paired_difference(y, a, b)
    per_seed = [uar(y, p) - uar(y, q) for p, q in zip(a, b)]
    assert r["by_seed"] == pytest.approx(per_seed) and r["difference"] == pytest.approx(np.mean(per_seed))
    from scipy.stats import ttest_rel
    assert r["p_seeds"] == pytest.approx(ttest_rel([uar(y, p) for p in a], [uar(y, q) for q in b]).pvalue)
    some = paired_difference(y, a, b, classes=[5, 6])
    assert some["difference"] == pytest.approx(np.mean([recalls(y, p)[5:].mean() - recalls(y, q)[5:].mean() for p,
                                                        q in zip(a, b)]))


def test_paired_difference_of_a_method_with_itself_is_exactly_zero():
    y, a, _ = pair(1)
    r = paired_difference(y, a, a)
    assert r["difference"] == 0 and r["interval"] == [0, 0] and r["p"] == 1 and np.isnan(r["p_seeds"])
    y, a, b = pair(1)
    one, other = paired_difference(y, a, b), paired_difference(y, b, a)
    assert (one["difference"] == -other["difference"] and one["interval"]
            == pytest.approx([-v for v in other["interval"][::-1]]) and one["p"] == other["p"])


def test_paired_interval_against_a_loop_over_resamples():
    "The same bootstrap, drawn the slow way: indices of clips in every class, and of seeds."
    y, a, b = pair(2, S=4, n=84)
    rng, draws = np.random.default_rng(0), []
    for _ in range(800):
        s = rng.integers(4, size=4)
        i = np.concatenate([rng.choice(np.flatnonzero(y == c), 12) for c in range(7)])
        gain = {k: recalls(y[i], a[k][i]).mean() - recalls(y[i], b[k][i]).mean() for k in set(s)}
        draws.append(np.mean([gain[k] for k in s]))
    assert paired_difference(y, a, b)["interval"] == pytest.approx(np.quantile(draws, [.025, .975]), abs=.015)


def test_paired_interval_covers_the_truth():
    """True difference 0.1; five seeds whose luck varies.
    A bootstrap over five seeds is a little too narrow, so 85 % is asked for and not 95."""
    inside = []
    for seed in range(60):
        y, a, b = pair(seed + 10, n=210)
        low, high = paired_difference(y, a, b, draws=500)["interval"]
        inside.append(low <= .1 <= high)
    assert np.mean(inside) > .85


def test_paired_difference_errors():
    for args, message in [(([0, 1], [[0, 1]], [[0, 1], [0, 1]]), "expected predictions"),
                          (([0, 1], [[0]], [[0]]), "expected predictions"),
                          (([0, 1], [0, 1], [0, 1], 3, [2]), "found none")]:
        with pytest.raises(MicaclError, match=message) as e: paired_difference(*args)
        assert "\n" not in str(e.value)


# ---- people instead of clips

def test_people_by_hand():
    """Three people with two clips each: all right, one right, none. Of the 27 equally likely draws of three, UAR (of
    one class) is k/6 for k right clips; 1/27 of the draws have none right, and 1/27 have all."""
    y, p, who = np.zeros(6, int), np.array([0, 0, 0, 1, 1, 1]), list("aabbcc")
    r = bootstrap_interval(y, p, 2, draws=60_000, level=1 - 2 / 28, people=who)     # 1/27 of the draws at either end
    assert r["uar"].tolist() == [0, 1] and r["recall"][0].tolist() == [0, 1] and np.isnan(r["recall"][1]).all()
    r = bootstrap_interval(y, p, 2, draws=60_000, level=1 - 2 / 26, people=who)     # beyond it: one clip of six
    assert r["uar"] == pytest.approx([1 / 6, 5 / 6]) and r["war"] == pytest.approx([1 / 6, 5 / 6])


def test_people_equals_drawing_people():
    rng = np.random.default_rng(0)
    who = rng.integers(0, 12, 300)
    y = rng.integers(0, 3, 300)
    p = np.where(rng.random(300) < rng.random(12)[who], y, (y + 1) % 3)
    got = []
    for _ in range(4000):
        i = np.concatenate([np.flatnonzero(who == k) for k in rng.integers(0, 12, 12)])
        got.append([uar(y[i], p[i], 3), war(y[i], p[i]), *recalls(y[i], p[i], 3)])
    fast = bootstrap_interval(y, p, 3, draws=20_000, people=who)
    np.testing.assert_allclose(np.vstack([fast["uar"], fast["war"], fast["recall"]]),
                               np.quantile(got, [.025, .975], axis=0).T, atol=.025)
    assert np.diff(fast["uar"]) > 1.5 * np.diff(bootstrap_interval(y, p, 3)["uar"])      # people differ here


def test_clips_of_their_own_people_are_as_clips():
    "Where nobody is seen twice, the two bootstraps agree but for the sizes of the classes, which vary here."
    rng, y = np.random.default_rng(1), np.repeat([0, 1], [400, 200])
    p = np.where(rng.random(600) < .7, y, 1 - y)
    a, b = bootstrap_interval(y, p, 2, draws=5000), bootstrap_interval(y, p, 2, draws=5000, people=range(600))
    np.testing.assert_allclose(a["uar"], b["uar"], atol=.01)


def test_a_class_may_be_missing_in_a_draw():
    "Class 1 is shown by one person of two: in a quarter of the draws UAR is the recall of class 0."
    r = bootstrap_interval([0, 0, 1], [0, 0, 0], 2, people=["a", "b", "b"])
    assert r["uar"].tolist() == [.5, 1] and r["recall"].tolist() == [[1, 1], [0, 0]]


def test_one_person_says_nothing_about_others():
    r = bootstrap_interval([0, 0, 1], [0, 1, 1], 2, people=[7, 7, 7])
    assert np.isnan(r["uar"]).all() and np.isnan(r["war"]).all() and r["recall"].shape == (2, 2)
    d = paired_difference([0, 1], [0, 1], [1, 1], 2, people=["a", "a"])
    assert d["difference"] == .5 and np.isnan(d["interval"]).all() and np.isnan(d["p"])


@pytest.mark.parametrize("people, words", [
    (["a", "b"], "found 2 names"), (["a", "", "b"], "none for number 1"), (["a", "b", None], "none for number 2"),
    ([1., np.nan, 2.], "none for number 1"), (["a", np.nan, "b"], "none for number 1")])
def test_clips_without_a_person_are_named(people, words):
    with pytest.raises(MicaclError, match=words): bootstrap_interval([0, 1, 1], [0, 1, 0], 2, people=people)
    with pytest.raises(MicaclError, match=words): paired_difference([0, 1, 1], [0, 1, 0], [0, 1, 1], 2, people=people)


def test_paired_difference_over_people_by_hand():
    """Person a: A right on both clips, B on none; person b: the reverse on one clip of two. Draws aa, ab, ba, bb give
    1, 1/4, 1/4 and -1/2."""
    y, who = [0, 0, 0, 0], list("aabb")
    a, b = [0, 0, 1, 1], [1, 1, 0, 1]
    r = paired_difference(y, a, b, 2, people=who)
    assert r["difference"] == .25 and r["interval"] == [-.5, 1] and r["p"] == pytest.approx(.5, abs=.05)
    many = paired_difference(np.tile(y, 30), np.tile(a, 30), np.tile(b, 30), 2, people=who * 30)
    assert many["interval"] == [-.5, 1]                                     # more clips of the same two tell nothing
    clips = paired_difference(np.tile(y, 30), np.tile(a, 30), np.tile(b, 30), 2)["interval"]
    assert -.5 < clips[0] < .25 < clips[1] < 1


def test_paired_difference_over_people_counts_the_seeds_too():
    "Two seeds, everybody alike: in a quarter of the draws the better seed twice, in a quarter the worse."
    y, a, b = [0, 1] * 8, [[0, 1] * 8, [1, 0] * 8], [[1, 0] * 8] * 2
    r = paired_difference(y, a, b, 2, people=np.repeat(range(8), 2))
    assert r["difference"] == .5 and r["interval"] == [0, 1] and r["by_seed"] == [1, 0]


# ---- what is refused, and in what words

WHOLE = "expected a whole number from 1 to below"
P2 = [[.5, .5]]


@pytest.mark.parametrize("call, said", [
    (lambda: class_counts([0], 0), f"n_classes: {WHOLE} 2.14748e+09, found 0"),
    (lambda: class_counts([], 2**31), f"n_classes: {WHOLE} 2.14748e+09, found 2147483648"),
    (lambda: confusion([0], [0], 0), f"n_classes: {WHOLE} 32768, found 0"),
    (lambda: confusion([], [], 2**15), f"n_classes: {WHOLE} 32768, found 32768"),
    (lambda: confusion([3], [0], 3), "labels: expected 0..2, found 3..3"),
    (lambda: confusion([0], [3], 3), "predictions: expected 0..2, found 3..3"),
    (lambda: war([0], [-1]), "predictions: expected 0 or more, found -1..-1"),
    (lambda: group_recall([[.5]], [1]), "group_recall: recalls: expected numbers of 1 dimensions, found shape (1, 1)"),
    (lambda: group_recall([.5], [1, 2]), "train_counts: expected 1 class counts, found 2"),
    (lambda: group_recall([.5], groups=dict(rare=[1])), "group rare: expected 0..0, found 1..1"),
    (lambda: bootstrap_interval([], [], draws=0), f"draws: {WHOLE} 1e+07, found 0"),
    (lambda: bootstrap_interval([], [], draws=10**7), f"draws: {WHOLE} 1e+07, found 10000000"),
    (lambda: bootstrap_interval([], [], draws=2.), f"draws: {WHOLE} 1e+07, found 2.0"),
    (lambda: bootstrap_interval([], [], level=1.), "level: expected a number from 0 to below 1, found 1.0"),
    (lambda: paired_difference([], [[]], [[]], draws=0), f"draws: {WHOLE} 1e+07, found 0"),
    (lambda: paired_difference([], [[]], [[]], draws=10**7), f"draws: {WHOLE} 1e+07, found 10000000"),
    (lambda: paired_difference([], [[]], [[]], draws=2.), f"draws: {WHOLE} 1e+07, found 2.0"),
    (lambda: paired_difference([], [[]], [[]], level=1.), "level: expected a number from 0 to below 1, found 1.0"),
    (lambda: paired_difference([0], [0], [0], 0), f"n_classes: {WHOLE} 32768, found 0"),
    (lambda: paired_difference([0], [0], [0], 2**15), f"n_classes: {WHOLE} 32768, found 32768"),
    (lambda: paired_difference([0], [2], [0], 2), "predictions: expected 0..1, found 2..2"),
    (lambda: paired_difference([0], [0], [0], 2, [2]), "classes: expected 0..1, found 2..2"),
    (lambda: reliability([0], P2, 0), f"bins: {WHOLE} 1e+07, found 0"),
    (lambda: reliability([0], P2, 10**7), f"bins: {WHOLE} 1e+07, found 10000000"),
    (lambda: reliability([0], [.5, .5]), "probabilities: expected a row of numbers for each clip (n, C), found (2,)"),
    (lambda: reliability([0], None), "probabilities: expected a row of numbers for each clip (n, C), found None"),
    (lambda: reliability([0, 0], P2), "probabilities: expected a row for each of 2 labels, found 1"),
    (lambda: reliability([2], P2), "labels: expected 0..1, found 2..2"),
    (lambda: instance_auc([.5], [[1]]), "instance_auc: weights: expected numbers of 2 dimensions, found shape (1,)"),
    (lambda: instance_auc([[.5]], [[2]]), "positive: expected 0..1, found 2..2"),
    (lambda: instance_auc([[.5]], [1]), "instance_auc: expected two (n, N) arrays, found (1, 1) and (1,)"),
    (lambda: summarise([0], [1., 2.], "ab", [1, 1]), "scores: expected a row of numbers for each clip (n, C), found"),
    (lambda: summarise([2], [[1., 2.]], "ab", [1, 1]), "labels: expected 0..1, found 2..2"),
    (lambda: summarise([], None, "ab", [1, 1]), "scores: expected a row of numbers for each clip (n, C), found None")])
def test_an_error_names_the_argument_its_bounds_and_what_was_found(call, said):
    with pytest.raises(MicaclError) as e: call()
    assert str(e.value).startswith(said)


@pytest.mark.filterwarnings("ignore:A single label")
def test_the_smallest_and_the_default_sizes():
    assert class_counts([0, 0], 1).tolist() == [2] and class_counts([99], 100)[99] == 1
    assert confusion([0], [0], 1).tolist() == [[1]] and confusion([40], [40], 41)[40, 40] == 1
    empty = confusion([], [])
    assert empty.shape == (7, 7) and empty.dtype == np.int64 and not empty.any()
    assert recalls([], []).shape == (7,) and bootstrap_interval([], [])["recall"].shape == (7, 2)
    assert all(v.dtype == float and np.isnan(v).all() for v in bootstrap_interval([], []).values())
    assert {k: v.shape for k, v in bootstrap_interval([], []).items()} == dict(uar=(2,), war=(2,), recall=(7, 2))
    assert uar([6], [6]) == 1 and len(paired_difference([6], [6], [6])["by_seed"]) == 1
    count, confidence, accuracy = reliability([0], [[.6, .4]], bins=1)
    assert (count.tolist(), confidence.tolist(), accuracy.tolist()) == ([1], [.6], [1])
    assert len(reliability([0], P2)[0]) == 15 and bootstrap_interval([0], [0], 1, draws=1)["uar"].tolist() == [1, 1]


def test_without_training_clips_all_classes_are_medium():
    g = group_recall([.1, .2, .6], [0, 0, 0])
    assert g["medium"] == pytest.approx(.3) and np.isnan(g["head"]) and np.isnan(g["tail"])


def test_classes_of_equal_counts_are_ranked_by_their_number():
    n_c = [5] * 59 + [6]
    assert frequency_groups(n_c) == dict(head=[*range(19), 59], medium=[*range(19, 39)], tail=[*range(39, 59)])
    assert frequency_groups([5, 6]) == dict(head=[], medium=[0, 1], tail=[])
    assert frequency_groups([5, 6, 1]) == dict(head=[1], medium=[0], tail=[2])


# ---- numbers that published results rest on

def test_what_is_drawn_when_nothing_is_said():
    y, a, b = pair(4, S=3, n=70)
    said = dict(n_classes=7, level=.95, seed=0)
    one, same = bootstrap_interval(y, a[0]), bootstrap_interval(y, a[0], draws=1000, **said)
    for key in one: np.testing.assert_array_equal(one[key], same[key])
    assert paired_difference(y, a, b) == paired_difference(y, a, b, draws=4000, **said)
    scores = np.eye(7)[a[0]]
    assert summarise(y, scores, EMOTIONS, DFEW) == summarise(y, scores, EMOTIONS, DFEW, seed=0)
    p = softmax(np.random.default_rng(0).normal(size=(70, 7)), 1)
    assert ece(y, p) == ece(y, p, 15) != ece(y, p, 16)


def test_the_seeds_of_the_draws_stay_what_they_were(monkeypatch):
    "The numbers belong to seed 3 for good; clips and people, alone and in pairs, have seeds of their own."
    seeds, make = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seeds.append(seed), make(seed))[1])
    y, a, b, who = [0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1], list("abab")
    clips, people = 862480919942718076, 4356936473418382715
    bootstrap_interval(y, a, 2, draws=9, seed=3), bootstrap_interval(y, a, 2, draws=9, seed=3, people=who)
    assert seeds == [clips, people]
    seeds.clear()
    paired_difference(y, a, b, 2, draws=9, seed=3)
    assert set(seeds) == {7832470264559638975}
    paired_difference(y, a, b, 2, draws=9, seed=3, people=who)
    assert set(seeds) == {7832470264559638975, 6692609034639108166}


# ---- edges

def test_rows_may_be_off_by_what_rounding_to_16_bits_does():
    for total, fine in ((.981, True), (1.019, True), (.979, False), (1.021, False)):
        p = [[total - .4, .4]]
        if fine:
            assert reliability([0], p)[0].sum() == 1
            assert reliability([0], [[total, 0]])[0].tolist() == [0] * 14 + [1]       # more than all is the last bin
        else:
            with pytest.raises(MicaclError, match="probabilities: expected rows of 0 to 1 that sum to 1"):
                reliability([0], p)
    with pytest.raises(MicaclError, match="found -0.1 to 1.1, sums of 1 to 1; pass softmax"):
        reliability([0], [[1.1, -.1]])


def test_a_bin_without_clips_has_no_accuracy():
    assert reliability([0], np.full((1, 20), .05))[0].tolist() == [1] + [0] * 14
    count, confidence, accuracy = reliability([0, 1], [[.9, .1], [.7, .3]], bins=5)
    assert count.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(confidence, [np.nan] * 3 + [.7, .9])
    np.testing.assert_array_equal(accuracy, [np.nan] * 3 + [0, 1])


def test_a_summary_of_other_than_seven_classes():
    names = list("abcdefghi")
    y = np.arange(18) % 9
    s = summarise(y, np.eye(9)[y], names, [9] * 9)
    assert s["uar"] == s["war"] == 1 and s["n_per_class"] == dict.fromkeys(names, 2) and s["absent"] == []
    assert s["intervals"]["uar"] == s["intervals"]["war"] == [1, 1] and summarise([], [], "ab", [1, 1])["n_test"] == 0
    assert s["intervals"]["recall"] == dict.fromkeys(names, [1, 1]) and np.shape(s["confusion"]) == (9, 9)


def test_a_class_of_one_drawn_clip_counts():
    """Each of two people shows one class, and A is better on one. Draws aa, ab, ba, bb give 0, 1/2, 1/2 and 1, or the
    reverse: the middle of them is 1/2. A class that nobody shows has no say."""
    for y, a, b in (([0, 1], [0, 1], [0, 0]), ([0, 1], [0, 0], [1, 0])):
        r = paired_difference(y, a, b, 2, level=.4, people=["a", "b"])
        assert r["difference"] == .5 and r["interval"] == [.5, .5]
        assert paired_difference(y, a, b, 2, people=["a", "b"])["interval"] == [0, 1]


def test_the_smallest_p_is_that_of_one_draw():
    "A always right, B never: no draw lies on the other side."
    y = np.arange(70) % 7
    r = paired_difference(y, [y] * 3, [(y + 1) % 7] * 3, draws=200)
    assert r["difference"] == pytest.approx(1) and r["interval"] == pytest.approx([1, 1])
    assert r["p"] == 1 / 200 and np.isnan(r["p_seeds"])


def test_a_level_of_nothing_is_the_median():
    y, a, b = pair(5, S=3, n=70)
    low, high = paired_difference(y, a, b, level=0)["interval"]
    assert low == high and abs(low - paired_difference(y, a, b)["difference"]) < .05
    assert np.ptp(bootstrap_interval(y, a[0], level=0)["uar"]) == 0


def test_people_are_drawn_in_blocks_of_bounded_size():
    "Each draw has as many people as there are, all alike; blocks are as one after the other."
    P = 2**18
    blocks = list(_person_weights(P, 35, 0, "any"))
    assert [b.shape for b in blocks] == [(16, P), (16, P), (3, P)] and all((b.sum(1) == P).all() for b in blocks)
    assert abs(np.concatenate(blocks).mean(0).std() - 35**-.5) < .01
    assert [b.shape for b in _person_weights(3, 10, 0, "any")] == [(10, 3)]
