"Linear probes and readings by name, on features made here; what must not leak is planted, and looked for."
import numpy as np
import pytest
import torch
from PIL import Image

from micacl.core import EMOTIONS, MicaclError
from micacl.data.cache import build_cache
from micacl.data.load import load_table
from micacl.metrics import uar
from micacl.train import probe as P


def study(people=20, each=6, seed=0, signal=0.0, dim=8):
    "Features, labels and people; `signal` is how far apart the classes lie in the last feature."
    rng = np.random.default_rng(seed)
    who, y = np.repeat(np.arange(people), each), rng.permutation(np.arange(people * each) % 2)
    x = rng.normal(size=(len(y), dim))
    x[:, -1] += signal * (y - .5)
    return x, y, who


# ---- folds

@pytest.mark.parametrize("people, each", [(20, 6), (7, 15), (60, 1)])
def test_nobody_is_in_training_and_test(people, each):
    _, y, who = study(people, each)
    folds = P.people_folds(y, who, 5, seed=3)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(y)))
    for train, test in folds:
        assert not {*who[train]} & {*who[test]} and len(train) + len(test) == len(y)
    assert any((a[1] != b[1]).any() for a, b in zip(folds, P.people_folds(y, who, 5, seed=4)) if len(a[1]) == len(b[1]))


def test_the_probe_sees_nobody_whom_it_judges(monkeypatch):
    "Neither the outer classifier nor the choice of C."
    x, y, who = study()
    x[:, 0], seen, fit = who, [], P.fit_probe

    def spy(x, y, people, *rest):
        assert (x[:, 0] == people).all()
        seen.append(({*people}, [({*people[a]}, {*people[b]}) for a, b in P.people_folds(y, people, 3, rest[-1])]))
        return fit(x, y, people, *rest)
    monkeypatch.setattr(P, "fit_probe", spy)
    found = P.linear_probe(x, y, who, k=4, seeds=(0, 1))
    assert len(seen) == 8 and found.predicted.shape == found.fold.shape == (2, 120) and found.C.shape == (2, 4)
    for r in range(2):
        for j in range(4):
            trained, inner = seen[4 * r + j]
            assert trained | {*who[found.fold[r] == j]} == {*range(20)} and not trained & {*who[found.fold[r] == j]}
            assert all(not a & b for a, b in inner)


def test_a_leak_in_the_features_of_a_person_is_worth_nothing():
    "Each person shows one class, and the features name the person: a lot by clips, by person nothing."
    rng, who = np.random.default_rng(0), np.repeat(np.arange(30), 8)
    y = rng.permutation(np.arange(30) % 2)[who]
    x = np.eye(30)[who] + .1 * rng.normal(size=(240, 30))
    by_person, by_clip = (P.linear_probe(x, y, p, seeds=(0,), grid=(.1,)).predicted[0] for p in (who, np.arange(240)))
    assert uar(y, by_clip, 2) > .9 and uar(y, by_person, 2) < .75


def test_c_is_not_chosen_on_the_test_clips(monkeypatch):
    """A leak, planted: with the last value of C, and no other, the classifier is right on those whom it never saw in
    fitting, if they are the test fold, and wrong on everybody else. Only a choice on the test fold would take it."""
    from sklearn import linear_model
    x, y, who = study(signal=2.0)
    x[:, 0] = np.arange(len(y))                                     # which clip it is
    outside = {}

    class Planted(linear_model.LogisticRegression):
        def predict(self, x):
            said = super().predict(x)
            if self.C != 1.0: return said
            clips = np.rint(x[:, 0] * outside["std"] + outside["mean"]).astype(int).clip(0, len(y) - 1)
            return np.where(np.isin(clips, outside["test"]), y[clips], 1 - y[clips])
    monkeypatch.setattr(linear_model, "LogisticRegression", Planted)
    folds, fit, fitted = iter(P.people_folds(y, who, 5, 0)), P.fit_probe, []

    def spy(*args):
        # as the scaler of the whole training part has it; inside, clips are named a little wrongly, which is no help
        train, test = next(folds)
        outside.update(mean=x[train, 0].mean(), std=x[train, 0].std(), test=test)
        fitted.append(fit(*args))
        # the leak is there to be found: on the test fold the last value of C is the best
        score = {C: (fitted[-1].best_estimator_.set_params(linear__C=C).predict(x[test]) == y[test]).mean()
                 for C in (1.0, .01)}
        assert score[1.0] == 1 > score[.01]
        return fitted[-1]
    monkeypatch.setattr(P, "fit_probe", spy)
    assert (P.linear_probe(x, y, who, seeds=(0,), grid=(.01, 1.0)).C == .01).all() and len(fitted) == 5


def test_a_probe_finds_what_is_there():
    x, y, who = study(40, 6, signal=3.0)
    found = P.linear_probe(x, y, who, seeds=(0, 1))
    assert all(uar(y, p, 2) > .85 for p in found.predicted) and {*found.C.ravel()} <= {*P.GRID}
    noise = P.linear_probe(*study(40, 6), seeds=(0,)).predicted[0]
    assert .35 < uar(study(40, 6)[1], noise, 2) < .65
    again = P.linear_probe(x, y, who, seeds=(0, 1))
    assert (again.predicted == found.predicted).all() and (again.C == found.C).all()


def test_rare_classes_count_as_much():
    "Ten to one, and classes that overlap: without weights nobody would ever be called rare."
    rng, who = np.random.default_rng(1), np.arange(440)
    y = (np.arange(440) % 11 == 0).astype(int)
    x = rng.normal(size=(440, 1)) + y[:, None]
    said = P.linear_probe(x, y, who, seeds=(0,)).predicted[0]
    assert (said[y == 1] == 1).mean() > .5


def test_a_transformer_is_fitted_on_training_clips_only():
    from sklearn.decomposition import PCA
    sizes = []

    class Spy(PCA):
        def fit_transform(self, x, y=None): sizes.append(len(x)); return super().fit_transform(x, y)
    x, y, who = study(signal=4.0)
    found = P.linear_probe(x, y, who, seeds=(0,), grid=(.1,), before=Spy(4))
    assert max(sizes) == 96 and (found.predicted >= 0).all()


@pytest.mark.parametrize("change, words", [
    (lambda x, y, who: (x[:5], y, who), "feature vector for each"), (lambda x, y, who: (x, y, who[:5]), "for each of"),
    (lambda x, y, who: (x, y, who * 0), "found 120 names of 1 people"),
    (lambda x, y, who: (x, y * 0, who), "at least two classes")])
def test_errors_of_the_probe(change, words):
    with pytest.raises(MicaclError, match=words): P.linear_probe(*change(*study()))


# ---- features of clips

def clips(folder, lengths, group=None):
    for i, n in enumerate(lengths):
        (folder / f"c{i}").mkdir()
        for k in range(n): Image.new("L", (20, 20), 10 * i + k).save(folder / f"c{i}" / f"{k}.png")
    rows = [f"c{i},{EMOTIONS[i % 2]}" + ("" if group is None else f",{group[i]}") for i in range(len(lengths))]
    (folder / "list.csv").write_text("\n".join(["path,label" + ("" if group is None else ",group"), *rows]))
    table = load_table(folder)
    return table, build_cache(table, folder / "cache", 32, progress=False)


@pytest.mark.parametrize("length, sizes", [(1, [1, 2, 7, 16]), (4, [4, 4, 8, 16])])
def test_frames_that_are_used(tmp_path, length, sizes):
    "One instance at least, no frame twice if there are enough, 16 at most; the mean over what was used."
    table, cache = clips(tmp_path, [1, 2, 7, 40])
    shapes = []

    def encode(x):
        shapes.append(tuple(x.shape))
        return 255 * x.mean((1, 2, 3, 4))[:, None]
    x = P.clip_features(table, cache, encode, length=length, size=16, batch=1)
    assert [s[0] * s[2] for s in shapes] == sizes and {s[1:] for s in shapes} == {(3, length, 16, 16)}
    np.testing.assert_allclose(x.ravel(), [0, 10.5, 23, 49.5], atol=.6)
    np.testing.assert_allclose(P.clip_features(table, cache, encode, length=length, size=16), x, rtol=1e-6)


def test_features_are_those_of_the_network(tmp_path):
    table, cache = clips(tmp_path, [3, 1])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5)).eval()
    x = P.clip_features(table, cache, net, size=16)
    frames = torch.tensor([0., 1., 2.]) / 255
    want = net(frames[:, None, None, None, None].expand(3, 3, 1, 16, 16)).mean(0)
    np.testing.assert_allclose(x[0], want.detach().numpy(), rtol=1e-5)


def test_who_is_seen(tmp_path):
    table, _ = clips(tmp_path, [1, 1, 1, 1], ["ann", "", "nan", "ann"])
    assert P.people_of(table) == (["person ann", "clip c1", "clip c2", "person ann"], 2)


# ---- readings by name

def test_classes_are_matched_by_name():
    y = [0, 1, 2, 3, 3]
    scores = np.array([[.9, .1, 0, 0], [.9, .1, 0, 0], [.1, .2, .7, 0], [.2, .5, .3, 0], [0, .1, .2, .7]])
    said = P.zero_shot(scores, ("happy", "angry", "sad", "neutral"), y, ("Anger", "contempt", "sadness", "happiness"))
    # neutral is no candidate, contempt can't be read
    assert said.predicted.tolist() == [3, -1, 2, 0, 2]
    assert said[1:] == (("Anger", "sadness", "happiness"), ("contempt",), ("neutral",))


def test_only_classes_with_clips_are_candidates():
    "The seven emotions are the classes of a list, but it has clips of two."
    scores = np.eye(7)[[2, 0, 1]] + .5 * np.eye(7)[[0, 1, 0]]
    said = P.zero_shot(scores, EMOTIONS, [0, 1, 1], EMOTIONS)
    assert said.predicted.tolist() == [0, 0, 1] and said.candidates == EMOTIONS[:2] and said.unused == EMOTIONS[2:]


def test_errors_of_readings():
    with pytest.raises(MicaclError, match="expected scores .2, 3."): P.zero_shot(np.eye(2), "abc", [0, 1], "ab")
    with pytest.raises(MicaclError, match="found 1: .*knows a, x; the clips show a, b"):
        P.zero_shot(np.eye(2), ("a", "x"), [0, 1], ("a", "b"))
