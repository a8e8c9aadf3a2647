"Groups, shifted tests and geometry, against hand values, other libraries and slow loops."
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import gmean
from sklearn.metrics import accuracy_score

import micacl.longtail as lt
from micacl.core import MicaclError
from micacl.metrics import frequency_groups

DFEW = [1956, 1515, 2135, 1738, 1175, 116, 721]


def test_one_import_brings_every_method():
    namespace = {}
    exec("from micacl.longtail import *", namespace)
    for kind in (*lt.LOSSES.values(), *lt.CONTRASTS.values(),
                 *(h for h in lt.HEADS.values() if h is not torch.nn.Linear)):
        assert namespace[kind.__name__] is kind
    for name in ("EpochOrder", "adjust_logits", "second_stage", "long_tailed", "class_groups", "mean_angles",
                 "alignment", "uniformity", "uar", "ece"):
        assert name in namespace


@pytest.mark.parametrize("imbalance", [1, 10, 50])
def test_long_tailed_has_the_profile_it_was_asked_for(imbalance):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 200))
    keep = lt.long_tailed(y, imbalance)
    n_c = np.bincount(y[keep])
    assert len(set(keep)) == len(keep) and (np.diff(keep) > 0).all()
    assert n_c.tolist() == [round(200 * imbalance ** (-c / 4)) for c in range(5)]
    assert (np.array_equal(keep, lt.long_tailed(y, imbalance))
            and (imbalance == 1 or not np.array_equal(keep, lt.long_tailed(y, imbalance, seed=1))))


def test_long_tailed_keeps_one_and_refuses_what_it_cannot_do():
    assert np.bincount(np.repeat([0, 1], 5)[lt.long_tailed(np.repeat([0, 1], 5), 1000)]).tolist() == [5, 1]
    assert len(lt.long_tailed([0, 0, 0], 10)) == 3      # one class
    for y, imbalance in (([0, 0, 2], 2), ([0, 1], .5), ([0, 1], math.nan)):
        with pytest.raises(MicaclError, match="long_tailed: "): lt.long_tailed(y, imbalance)


def test_groups_by_rank_by_thresholds_and_by_name():
    assert lt.class_groups(DFEW) == frequency_groups(DFEW)
    assert lt.class_groups(DFEW, (100, 20)) == dict(head=list(range(7)), medium=[], tail=[])
    # the borders belong to the middle
    assert lt.class_groups([100, 101, 20, 19], (100, 20)) == dict(head=[1], medium=[0, 2], tail=[3])
    assert lt.class_groups(DFEW, dict(tail=[6, 5], head=[0, 1, 2, 3, 4])) == dict(head=[0, 1, 2, 3, 4], medium=[],
        tail=[5, 6])
    for rule in (dict(head=[0]), dict(head=[0, 0, 1, 2, 3, 4, 5, 6]), dict(head=list(range(8))),
                 dict(head=[0, 1, 2], middle=[3, 4], tail=[5, 6])):
        with pytest.raises(MicaclError, match="each of the 7 classes in one group"): lt.class_groups(DFEW, rule)
    with pytest.raises(MicaclError, match="many at least as large"): lt.class_groups(DFEW, (20, 100))


def test_an_empty_group_is_not_a_number():
    scores = lt.group_recall([.5, math.nan, 1., 0., 0., 0., 0.], groups=dict(head=[0, 1, 2], medium=[1], tail=[]))
    assert scores["head"] == .75 and math.isnan(scores["medium"]) and math.isnan(scores["tail"])


def test_g_mean_is_scipys():
    r = np.random.default_rng(0).uniform(.1, 1, 9)
    assert lt.g_mean(r) == pytest.approx(gmean(r)) and lt.g_mean([*r, math.nan]) == pytest.approx(gmean(r))
    assert lt.g_mean([1, 1, 0]) == 0 and math.isnan(lt.g_mean([math.nan]))


def test_reversed_shares_turn_the_ranks_round():
    q = lt.reversed_shares(DFEW)
    assert q.sum() == pytest.approx(1) and np.argsort(q).tolist() == np.argsort(DFEW)[::-1].tolist()
    assert sorted(q) == pytest.approx(sorted(np.array(DFEW) / sum(DFEW)))
    assert lt.reversed_shares([4, 4, 4]) == pytest.approx([1 / 3] * 3)


def test_shifted_accuracy_is_the_accuracy_of_such_a_test():
    "Clips are repeated until the classes have the wanted shares, and scikit-learn counts."
    rng = np.random.default_rng(0)
    y, predicted = np.repeat(np.arange(3), 10), rng.integers(0, 3, 30)
    times = np.array([5, 1, 2])
    shifted = accuracy_score(np.repeat(y, times[y]), np.repeat(predicted, times[y]))
    assert lt.shifted_accuracy(lt.recalls(y, predicted, 3), times) == pytest.approx(shifted)
    assert lt.shifted_accuracy(lt.recalls(y, predicted, 3), [1, 1, 1]) == pytest.approx(lt.uar(y, predicted, 3))
    assert lt.shifted_accuracy([[1, 0, 0], [0, 1, 1]], [2, 1, 1]) == pytest.approx([.5, .5])


@pytest.mark.parametrize("C", [2, 3, 7])
def test_a_simplex_has_the_angles_of_a_simplex(C):
    """The corners of the unit cube that lie on the axes are a simplex around their mean; position and scale do not
    matter."""
    y = torch.arange(C).repeat(3)
    x = torch.eye(C)[y] * 5 + 2
    angles = lt.mean_angles(x, y, C)
    assert (np.allclose(angles[~np.eye(C, dtype=bool)], lt.simplex_angle(C))
            and np.allclose(np.diag(angles), 0, atol=1e-3))


def test_a_class_without_examples_has_no_angle():
    angles = lt.mean_angles(torch.eye(3), [0, 1, 3], 4)
    assert np.isnan(angles[2]).all() and np.isfinite(angles[np.ix_([0, 1, 3], [0, 1, 3])]).all()
    assert angles[0, 1] == pytest.approx(lt.simplex_angle(3))


def test_alignment_and_uniformity_are_the_slow_loops():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 5, generator=g), torch.tensor([0] * 6 + [1] * 5 + [2])
    z = (x / x.norm(dim=1, keepdim=True)).double()
    d = {c: [float((z[i] - z[j]).square().sum()) for i, j in itertools.combinations((y == c).nonzero()[:, 0].tolist(),
        2)] for c in (0, 1)}
    assert lt.alignment(x, y) == pytest.approx(np.mean([np.mean(d[0]), np.mean(d[1])]), rel=1e-5)
    pairs = [math.exp(-2 * float((z[i] - z[j]).square().sum())) for i, j in itertools.combinations(range(12), 2)]
    assert lt.uniformity(x) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    assert math.isnan(lt.alignment(x[:2], [0, 1]))
