"""Is SynFEW the same everywhere? Prints short hashes of pictures, labels, truth and decoded videos; needs NumPy, PyAV
and filelock, not PyTorch.

    # compare with results/hashes.json, which holds one run for each environment that was tried
    python benchmarks/hashes.py
"""
import hashlib
import tempfile
from pathlib import Path

from micacl.data.synfew.generate import digest, draw_act, generate, label_counts, plan_split, sample_clip


def short(x): return hashlib.sha256(x).hexdigest()[:16]


def plan(n_c, split, first=1):
    return [(r.clip, r.label, r.identity, r.fold, r.index) for r in plan_split(0, split, n_c, first)]


def main():
    print("pixels", short(b"".join(sample_clip(0, i, i).frames().tobytes() for i in range(7))))
    print("large", short(b"".join(sample_clip(7, i, i, n_frames=8).frames(112).tobytes() for i in range(7))))
    full = [plan(label_counts(9356), "train"), plan(label_counts(2341, least=1), "test", 9357),
            plan(label_counts(2341, "balanced", least=1), "test_balanced", 11698)]
    print("plan", sum(map(len, full)), short(repr(full).encode()))
    acts = [draw_act(0, r[4], r[1]) for r in full[0][::13]]
    print("acts", short(repr(acts).encode()))
    units = [sample_clip(0, r[4], a.emotion, a.strength, a.second, a.blend, r[2]) for r, a in zip(full[0][::13], acts)]
    print("truth", short(b"".join(c.units.tobytes() + c.apex.tobytes() + c.pose.tobytes() + repr(c.factors).encode()
                                  for c in units)))
    for w in (1, 2):
        with tempfile.TemporaryDirectory() as d:
            generate(Path(d) / "x", n_train=21, n_test=7, n_frames=6, size=32, progress=False, workers=w, imbalance=7,
                     tail="pareto")
            print("set with", w, digest(Path(d) / "x")[:16])
    labels = short(repr([(r.label, r.identity, r.fold, draw_act(0, r.index, r.label))
                         for r in plan_split(0, "train", label_counts(1200))]).encode())
    print("labels1200", labels)


if __name__ == "__main__": main()
