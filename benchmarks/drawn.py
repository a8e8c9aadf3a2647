"""Make the network that `micacl predict` uses where none is named, `MICACL.from_pretrained("drawn")`, and write down
how it was chosen and how often it is right on real pictures.

    python benchmarks/drawn.py WORK --real FER2013=FOLDER --real CK+=FOLDER
    # -> micacl/nn/weights/drawn/, results/drawn.json

It learns from drawn faces only. A temperature and a bias for each class are then set on the training part of the first
set of real pictures that has one; everything that is reported is measured on other pictures. FOLDER: as `micacl train`
reads it (faces that fill the frame), with a column split (train, test) where something is to be set on them, and a
column group for people. Candidates: the encoder's own reading of emotions, MICACL on clips of SynFEW, MICACL and mean
pooling on clips of the stream; with `--fer FER/bin/python` the package fer too (`fer_scores.py` says how to get it), on
the sets that nothing is set on, for it was trained on FER2013. `--encoder FILE` takes other weights of res_faces.
Drawings and features stay in WORK and are made once for each encoder. Minutes: about 15 on two cores.
"""
import argparse
import hashlib
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from common import ROOT, commit, machine
from drawn_clips import CLIPS, drawn, features
from drawn_scores import DRAWS, brief, compared, fold, measured, scored

WEIGHTS = ROOT / "micacl" / "nn" / "weights" / "drawn"
SEEDS = (0, 1, 2)
TRAIN, TEST, ROUNDS = dict(seed=1, n=2100), dict(seed=2, n=420), 2      # clips; how often each is changed anew
FIT = dict(steps=400, batch_size=64, lr=1e-3, weight_decay=0.05, label_smoothing=0.1, still=0.25)
HIDDEN = 96                                                             # of WIAN: half of what it would be
SYNFEW = dict(n_train=700, n_test=7, seed=0)
READING, OTHER = "reading of emotions", "MICACL, SynFEW"                # the encoder's own; on clips of SynFEW
# the share of the loss that asks for what the encoder's reading says at the apex
HEADS = {"MICACL": ("MICACL", 0.0), "MICACL, distilled": ("MICACL", 0.5), "mean pooling": ("MeanMIL", 0.0),
         OTHER: ("MICACL", 0.0)}


# ---- features

def reader(path):
    "`load_reader`, its numbers rounded to 16 bits: so they are stored in the end."
    import torch
    from micacl.train.encoder import load_reader
    network = load_reader(path)
    with torch.no_grad():
        for v in network.state_dict().values():
            if v.is_floating_point(): v.copy_(v.half())
    return network.eval()


def real_frames(data):
    "-> clips that show one of the emotions, their frames in a row, how many each has, whether the list is divided."
    from micacl.data.bags import frame_indices
    from real_faces import read
    with tempfile.TemporaryDirectory() as folder:
        table, cache, divided = read(data, folder)
        clips, frames, n = [(c, y) for c in table if (y := emotion_of(table.classes[c.label])) is not None], [], []
        for c, _ in clips:
            F = cache.n_frames(c.id)
            n.append(min(F, CLIPS["frames"]))
            frames += list(cache.frames(c.id)[frame_indices(F, n[-1], 1).numpy()])
    return clips, frames, n, divided


def emotion_of(name):
    "Index in EMOTIONS of a class of a data set, or None."
    from micacl.core import EMOTIONS
    from micacl.data.rows import class_places, plain_label
    column = class_places(EMOTIONS)
    return column.get(name, column.get(plain_label(name)))


def real_set(data, net):
    "-> dict of a set of real pictures: features x (n,T,D), emotions y (n,), who (n,) or None, train (n,) bool, what."
    import torch
    from micacl.data.bags import frame_indices
    from micacl.data.rows import is_missing
    parts = []
    clips, frames, n, divided = real_frames(data)
    with torch.inference_mode():
        for x in torch.from_numpy(np.stack(frames)).split(256): parts.append(net(x.permute(0, 3, 1, 2).float() / 255))
    each = torch.cat(parts).split(n)
    x = torch.stack([f[frame_indices(len(f), CLIPS["frames"], 1)] for f in each])
    who = None if any(is_missing(c.group) for c, _ in clips) else np.array([str(c.group) for c, _ in clips])
    return dict(x=x, y=np.array([y for _, y in clips]), who=who, what="pictures" if max(n) == 1 else "sequences",
                train=np.array([divided and c.split == "train" for c, _ in clips]))


def kept(file, make):
    "What `make()` gives, made once."
    import torch
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), new := file.with_suffix(".new"))
        new.replace(file)
    return torch.load(file, weights_only=False)


def named(encoder): return hashlib.sha256(Path(encoder).read_bytes()).hexdigest()[:12]


def clips_of(work, network, folder, kind, rounds):
    "Drawn clips: features x (R,n,F,D), envelopes e (n,F), labels y (n,)."
    import torch
    frames, envelopes, y = drawn(work, **kind)
    seed = lambda r: derived(kind["seed"], r)
    x = [kept(folder / f"clips-{kind['seed']}-{r}.pt", lambda r=r: features(network.net, frames, seed(r)).half())
         for r in range(rounds)]
    return dict(x=torch.stack(x).float(), e=envelopes, y=y)


def derived(*parts):
    from micacl.core import derive_seed
    return derive_seed("drawn", *parts) % 2**31


def all_features(work, encoder, sets):
    "-> (network, clips to train on, clips to test, {name: real set}); kept in WORK."
    network, folder = reader(encoder), work / f"features-{named(encoder)}"
    real = {n: kept(folder / f"real-{k}.pt", lambda d=d: real_set(d, network.net))
            for k, (n, d) in enumerate(sets.items())}
    return network, *(clips_of(work, network, folder, *p) for p in ((TRAIN, ROUNDS), (TEST, 1))), real


# ---- heads

def instances(x, model):
    "Features of frames (n,T,D) -> of instances (n,N,D)."
    return x.unflatten(1, (model.n_instances, model.instance_length)).mean(2)


def said(model, x):
    "-> BagOutput of features of frames."
    import torch
    with torch.inference_mode(): return model.eval()(instances(x, model))


def new_head(kind, network, seed):
    "An untrained model around the encoder."
    import torch
    from micacl import models
    torch.manual_seed(seed)
    model = getattr(models, kind)(7, "res_faces", **(dict(hidden=HIDDEN) if kind == "MICACL" else {}))
    model.backbone.net.load_state_dict(network.net.state_dict())
    return model.freeze_backbone()


def readings(network, x):
    "Logits of the encoder's reading of emotions: features (...,D) -> (...,7)."
    return x @ network.emotion.weight.detach().T + network.emotion.bias.detach()


def head_of(work, network, encoder, clips, seed, name):
    "A trained model; kept in WORK under all that it depends on."
    kind, distilled = HEADS[name]
    model, told = new_head(kind, network, seed), repr((name, HEADS[name], FIT, HIDDEN, TRAIN, ROUNDS, SYNFEW, CLIPS))
    file = f"head-{seed}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.pt"
    model.load_state_dict(kept(work / f"features-{named(encoder)}" / file,
                               lambda: fit(model, network, clips, seed, distilled).state_dict()))
    return model.eval()


def fit(model, network, clips, seed, distilled):
    "Train what lies behind the backbone; in `still` of the clips all frames are the one at the apex."
    import torch
    import torch.nn.functional as F
    x, y, p = clips["x"], torch.from_numpy(clips["y"]), FIT
    if known := clips["e"] is not None:
        e = torch.from_numpy(clips["e"])
        apex = (e > 0.6 * e.max(1, keepdim=True).values)[None, ..., None]                       # (1,n,T,1)
        taught = ((readings(network, x) * apex).sum(2) / apex.sum(2)).softmax(-1)               # (R,n,7)
    free = [q for q in model.parameters() if q.requires_grad]
    optimiser = torch.optim.AdamW([dict(params=[q for q in free if q.ndim > 1], weight_decay=p["weight_decay"]),
                                   dict(params=[q for q in free if q.ndim <= 1], weight_decay=0.0)], lr=p["lr"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, p["lr"], p["steps"], pct_start=0.1)
    dice, model = torch.Generator().manual_seed(seed), model.train()
    for _ in range(p["steps"]):
        r, i = (torch.randint(n, (p["batch_size"],), generator=dice) for n in x.shape[:2])
        still, frames = torch.rand(len(i), generator=dice) < p["still"], x[r, i]
        if known: frames = torch.where(still[:, None, None], x[r, i, e[i].argmax(1)][:, None], frames)
        logits = model(instances(frames, model)).logits
        loss = (1 - distilled) * F.cross_entropy(logits, y[i], label_smoothing=p["label_smoothing"])
        if distilled: loss = loss + distilled * F.cross_entropy(logits, taught[r, i])
        optimiser.zero_grad(); loss.backward(); optimiser.step(); schedule.step()
    return model.eval()


# ---- candidates

def synfew_clips(work, network, encoder):
    "The clips of a SynFEW set, as they are: nobody says where their apex is."
    from micacl.data.synfew.generate import generate
    data = work / "synfew"
    if not (data / "clips.csv").exists(): generate(data, **SYNFEW, progress=False)
    s = kept(work / f"features-{named(encoder)}" / "synfew.pt", lambda: real_set(data, network.net))
    return dict(x=s["x"][None], y=s["y"], e=None)


def fer_said(python, sets, real):
    "-> {name: scores} of the package fer, of the sets that have no training part."
    import torch
    from predict_real import fer_of
    out = {}
    for name, data in sets.items():
        if real[name]["train"].any(): continue
        _, pictures, n, _ = real_frames(data)
        scores, version = fer_of(python, pictures, True)
        mean = torch.stack([s.mean(0) for s in torch.from_numpy(scores).split(n)]).clamp(min=1e-9).log().numpy()
        s = scored(mean, real[name], ~real[name]["train"])
        out[name] = dict(s, before=brief(s), version=version)
    return out


def candidates(work, encoder, sets, report, fer=None):
    "-> ({name: [scores of each seed]}, the trained models, test clips, real sets)"
    network, train, test, real = all_features(work, encoder, sets)
    found, trained = {}, {}
    z = {n: readings(network, s["x"]).softmax(-1).mean(1).clamp(min=1e-9).log() for n, s in real.items()}
    found[READING] = [measured(z, real)[2]]
    synfew = synfew_clips(work, network, encoder)
    for name in HEADS:
        clips = synfew if name == OTHER else train
        trained[name] = [head_of(work, network, encoder, clips, seed, name) for seed in SEEDS]
        found[name] = [measured({n: said(m, s["x"]).logits for n, s in real.items()}, real)[2] for m in trained[name]]
        for s in found[name]: report(line(name, s))
    if fer: found["fer"] = [fer_said(fer, sets, real)]
    for name, seeds in found.items():
        if name not in HEADS: report(line(name, seeds[0]))
    return found, trained, test, real


def best(found):
    "The MICACL of the highest UAR over real sets and seeds."
    mean = {name: np.mean([t["uar"] for s in found[name] for t in s.values()]) for name, h in HEADS.items()
            if h[0] == "MICACL"}
    return max(mean, key=mean.get)


def line(name, s):
    return f"{name}: " + "; ".join(f"{n} UAR {100 * t['before']['uar']:.1f}, set {100 * t['uar']:.1f}, ECE "
                                   f"{100 * t['before']['ece']:.1f}, set {100 * t['ece']:.1f}" for n, t in s.items())


# ---- the folder

def ship(model, shipped, real, test, encoder, fitted):
    "Round, calibrate, measure what is left, and write the folder -> its description."
    import micacl
    import torch
    from micacl.core import EMOTIONS, read_json
    from micacl.metrics import instance_auc, summarise
    from micacl.models import MICACL
    with torch.no_grad():
        for v in model.state_dict().values(): v.copy_(v.half()) if v.is_floating_point() else None
    temperature, biases, before = measured({n: said(model, s["x"]).logits for n, s in real.items()}, real, DRAWS)
    fold(model, temperature, biases)
    with torch.no_grad():
        for v in model.fc.state_dict().values(): v.copy_(v.half())
    on_real = {n: {k: v for k, v in scored(said(model, s["x"]).logits.numpy(), s, ~s["train"], DRAWS).items()
                   if k != "predicted"} | dict(before=before[n]["before"]) for n, s in real.items()}
    out, counts = said(model, test["x"][0]), np.bincount(np.arange(TRAIN["n"]) % 7)
    moving = (test["e"].min(1) < 0.3) & (test["y"] != EMOTIONS.index("neutral"))
    apex = (test["e"] > 0.6).reshape(len(test["e"]), model.n_instances, -1).any(2)
    auc, n_auc = instance_auc(out.weights.numpy()[moving], apex[moving])
    keep = ("uar", "war", "recall", "n_test", "n_per_class", "intervals")
    tests = {"drawn clips": {k: v for k, v in summarise(test["y"], out.logits.numpy(), EMOTIONS, counts).items()
                             if k in keep} | dict(instance_auc=auc, instance_auc_clips=n_auc)}
    part = real[fitted]["train"]
    training = dict(
        config=dict(FIT, model="micacl", backbone="res_faces", pretrained=True, hidden=HIDDEN, seed=SEEDS[0],
                    distilled=HEADS[shipped][1], clips=CLIPS, rounds=ROUNDS, stream_seed=TRAIN["seed"]),
        dataset="drawn faces", chosen_by_them=True,     # the pictures below: the drawing and the head were
        fold=None, train_counts=counts.tolist(), n_train=TRAIN["n"], n_validation=0,
        epoch=round(FIT["steps"] * FIT["batch_size"] / TRAIN["n"]), version=micacl.__version__, machine=machine(),
        encoder=hashlib.sha256(Path(encoder).read_bytes()).hexdigest(),
        calibration=dict(data=f"training part of {fitted}", n=int(part.sum()), what=real[fitted]["what"],
                         temperature=temperature, biases=dict(zip(EMOTIONS, biases.tolist()))))
    results = dict(dataset="drawn faces", fold=None, seed=SEEDS[0], epoch=training["epoch"], tests=tests, real=on_real)
    with tempfile.TemporaryDirectory() as folder:
        done = MICACL.from_pretrained(model.save_pretrained(Path(folder) / "m", EMOTIONS, 64, "apache-2.0"))
    done.about.update(training=training, results=results)
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    done.save_pretrained(WEIGHTS)
    about = "The network that scores videos where no other is named: MICACL trained on drawn faces, and its card."
    (WEIGHTS / "__init__.py").write_text(f'"{about}"\n', encoding="utf-8")      # a folder of the package has one
    return read_json(WEIGHTS / "config.json")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path)
    p.add_argument("--real", action="append", required=True, metavar="NAME=FOLDER")
    p.add_argument("--encoder", type=Path, default=ROOT / "micacl" / "nn" / "weights" / "res_faces.safetensors")
    p.add_argument("--fer", type=Path, metavar="PYTHON", help="of an environment with the package fer")
    args, start = p.parse_args(), time.perf_counter()
    from micacl.core import write_json
    args.work.mkdir(parents=True, exist_ok=True)
    sets, before = dict(item.split("=", 1) for item in args.real), commit()
    found, trained, test, real = candidates(args.work, args.encoder, sets, lambda s: print(s, flush=True),
                                                args.fer)
    fitted = next(n for n, s in real.items() if s["train"].any())
    shipped = best(found)
    differences = compared(found, real, shipped)
    info = ship(trained[shipped][0], shipped, real, test, args.encoder, fitted)
    keep = ("uar", "war", "recall", "ece", "n_test", "n_per_class", "people", "before")
    plain = lambda t: dict({k: t[k] for k in keep}, interval=t["intervals"]["uar"])
    write_json(ROOT / "results" / "drawn.json", dict(
        command=" ".join(["python benchmarks/drawn.py WORK", *(f"--real {n}=FOLDER" for n in sets),
                          *["--fer FER/bin/python"] * bool(args.fer)]), commit=before,
        machine=machine(), seeds=SEEDS, train=TRAIN, test=TEST, rounds=ROUNDS, clips=CLIPS, fit=FIT, synfew=SYNFEW,
        heads=HEADS, shipped=shipped, encoder=info["training"]["encoder"], seconds=round(time.perf_counter() - start),
        calibrated_on=info["training"]["calibration"],
        candidates={name: [{n: plain(t) for n, t in s.items()} for s in seeds] for name, seeds in found.items()},
        shipped_minus=differences, packaged=info["results"]))


if __name__ == "__main__": main()
