"""How often a network is right on real pictures, how far its probabilities can be believed, and a temperature and
biases that make them more so. A part of `drawn.py`."""
import numpy as np

DRAWS = 200        # of the bootstrap of an error of calibration


# ---- probabilities that can be believed

def calibrate(logits, y):
    "-> (temperature, biases (7,)): least cross-entropy of logits / temperature + biases, classes weighing the same."
    import torch
    import torch.nn.functional as F
    y = torch.as_tensor(y)
    weight = 1 / torch.bincount(y, minlength=logits.shape[1]).clamp(min=1)
    scale, biases = torch.ones(1, requires_grad=True), torch.zeros(logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([scale, biases], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        value = F.cross_entropy(logits * scale + biases, y, weight=weight)
        value.backward()
        return value
    search.step(loss)
    return 1 / scale.item(), (biases - biases.mean()).detach()


def fold(model, temperature, biases):
    "Calibration as a part of the last layer."
    import torch
    with torch.no_grad():
        model.fc.weight /= temperature
        model.fc.bias.copy_(model.fc.bias / temperature + biases)
    return model


# ---- scores

def evenly(y):
    "Positions of clips, those of rare classes again and again: every class weighs the same."
    rows = [np.flatnonzero(y == c) for c in np.unique(y)]
    return np.concatenate([np.resize(r, max(map(len, rows))) for r in rows])


def balanced_ece(y, p):
    from micacl.metrics import ece
    take = evenly(y)
    return ece(y[take], p[take])


def ece_interval(y, p, who=None, draws=DRAWS):
    "95 % interval over clips, or over people."
    rng, found = np.random.default_rng(0), []
    names, number = (np.arange(len(y)),) * 2 if who is None else np.unique(who, return_inverse=True)
    mine = np.argsort(number, kind="stable")
    parts = np.split(mine, np.cumsum(np.bincount(number))[:-1])
    for _ in range(draws):
        take = np.concatenate([parts[k] for k in rng.integers(len(names), size=len(names))])
        found.append(balanced_ece(y[take], p[take]))
    return np.quantile(found, [0.025, 0.975]).tolist()


def scored(logits, s, test, draws=0):
    "Scores of a real set among the classes that it shows; `test`: which of its clips; draws: of the interval of ECE."
    from micacl.core import EMOTIONS
    from micacl.metrics import bootstrap_interval, confusion, recalls, uar, war
    y, who = s["y"][test], None if s["who"] is None else s["who"][test]
    z = np.where(np.isin(np.arange(7), y), logits[test], -np.inf)
    p = np.exp(z - z.max(1, keepdims=True))
    p, predicted = p / p.sum(1, keepdims=True), z.argmax(1)
    box = bootstrap_interval(y, predicted, 7, people=who)
    by_name = lambda v: {c: x for c, x, there in zip(EMOTIONS, np.asarray(v).tolist(), np.isin(range(7), y)) if there}
    return dict(what=s["what"], n_test=len(y), people=None if who is None else len(set(who)),
                uar=uar(y, predicted), war=war(y, predicted), recall=by_name(recalls(y, predicted)),
                n_per_class=by_name(confusion(y, predicted).sum(1)), ece=balanced_ece(y, p),
                ece_interval=ece_interval(y, p, who, draws) if draws else None, predicted=predicted,
                intervals=dict(uar=box["uar"].tolist(), war=box["war"].tolist(), recall=by_name(box["recall"])))


def brief(s): return {k: s[k] for k in ("uar", "intervals", "recall", "ece", "ece_interval")}


def measured(logits, real, draws=0):
    "{name: logits (n,7)} of the real sets -> (temperature, biases, {name: scores with `before`})."
    fitted = next(n for n, s in real.items() if s["train"].any())
    part = real[fitted]["train"]
    temperature, biases = calibrate(logits[fitted][part], real[fitted]["y"][part])
    out = {}
    for name, s in real.items():
        z, test = logits[name], ~s["train"]
        before, after = (scored(v.numpy(), s, test, draws) for v in (z, z / temperature + biases))
        out[name] = dict(after, before=brief(before))
    return temperature, biases, out


def compared(found, real, shipped):
    "What ships against every other candidate, by real set: difference in UAR after calibration, 95 % interval."
    from micacl.metrics import paired_difference
    out = {}
    for name in found:
        if name == shipped: continue
        for n, s in real.items():
            if n not in found[name][0]: continue
            test = ~s["train"]
            a, b = (np.stack([t[n]["predicted"] for t in found[k]]) for k in (shipped, name))
            b = np.broadcast_to(b, a.shape)
            d = paired_difference(s["y"][test], a, b, 7, draws=1000,
                                  people=None if s["who"] is None else s["who"][test])
            out.setdefault(name, {})[n] = {k: d[k] for k in ("difference", "interval", "p")}
    return out
