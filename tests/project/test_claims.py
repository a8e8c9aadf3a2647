"What the README says was found holds in the files of results: each sentence, and what it rests on."
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = re.sub(r"\]\([^)]*\)", "]", (ROOT / "README.md").read_text(encoding="utf-8")).replace("[", "").replace("]", "")


def results(name): return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def between(name, a, b, score="uar"):   # -> difference, low, high
    c = next(c for c in results(name)["comparisons"] if (c["a"], c["b"]) == (a, b))[score]
    return c["difference"], *c["interval"]


def contains_zero(difference): return difference[1] <= 0 <= difference[2]


def said(sentence): assert README.count(sentence) == 1, f"the README no longer says: {sentence}"


def test_micacl_and_its_parts():
    said("MICACL is ahead of all six methods it was compared with")
    for other in ("mean pooling, plain CE", "mean pooling", "max pooling", "gated attention", "transformer", "M3DFEL"):
        assert between("ablations", "MICACL", other)[1] > 0
    said("Nearly all of its lead over mean pooling is due to GEIIM")
    lead, geiim = (between("ablations", m, "mean pooling")[0] for m in ("MICACL", "GEIIM alone"))
    assert .9 < geiim / lead < 1
    said("what WIAN adds to that shows best in the two rare classes")
    uar, tail = (between("ablations", "GEIIM + WIAN", "GEIIM alone", s) for s in ("uar", "tail"))
    assert contains_zero(uar) and tail[1] > 0 and tail[0] > uar[0]


def test_the_contrastive_loss():
    said("With a linear classifier MCCL adds nothing that shows to the two")
    assert all(contains_zero(between("ablations", "MICACL", "GEIIM + WIAN", s)) for s in ("uar", "tail"))
    said("where its own class centres decide, the rare classes are found more often than by SupCon, BCL and PaCo "
         "with such a head, or without MCCL")
    assert between("deciding", "CE, centres + MCCL", "CE, centres", "tail")[1] > 0
    for other in ("SupCon", "BCL", "PaCo"):
        assert all(between("partners", f"prototypes + {other}", "centres + MCCL", s)[2] < 0 for s in ("uar", "tail"))


def test_the_part_of_the_contrastive_loss_that_works():
    said("its class weight does that, its scales do not")
    for form in ("no class weight", "neither class weight nor temperature"):
        assert between("mccl-parts", form, "centres + MCCL", "tail")[2] < 0
    assert between("mccl-parts", "one scale", "one scale, without MCCL", "tail")[1] > 0
    for fewer in ("one scale", "two scales"):
        assert between("mccl-parts", fewer, "centres + MCCL", "tail")[0] > 0


def test_the_best_row_and_the_sampler():
    methods = results("bakeoff")["methods"]
    said(f"The best of {len(methods)} methods is GEIIM and WIAN with balanced softmax and without MCCL")
    uar = {m: v["tests"]["test_balanced"]["uar"]["mean"] for m, v in methods.items()}
    assert max(uar, key=uar.get) == "GEIIM + WIAN + balanced softmax"
    said("with a class-balanced sampler plain gated attention is ahead of MICACL")
    assert between("ablations", "MICACL, balanced sampler", "gated attention, balanced sampler")[2] < 0


def test_real_clips():
    said("no method is shown to be better behind a frozen encoder")
    said("mean pooling and gated attention end above MICACL, in part beyond chance")
    learnt = []
    for regime, r in next(iter(results("real-heads")["sets"].values()))["regimes"].items():
        found = {m: (d["difference"], *d["interval"]) for m, d in r["differences"].items()}
        if "frozen" in regime: assert all(map(contains_zero, found.values()))
        else: learnt += [found[m] for m in ("mean pooling", "gated attention")]
    assert learnt and all(d[0] < 0 for d in learnt) and 0 < sum(d[2] < 0 for d in learnt) < len(learnt)
