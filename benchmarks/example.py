"""Train the network that the book shows, `MICACL.from_pretrained("synfew")`, and write down what it says of the book's
clip while it learns.

    python benchmarks/example.py WORK      # -> micacl/nn/weights/synfew/ and results/example.json

Stopped, it goes on where it was. Minutes: about 10 on two cores that are fast in bf16, 20 on others.
"""
import shutil
import sys
from pathlib import Path

from common import ROOT, commit, machine

DATA = dict(n_train=4800, n_test=1400, seed=2510)      # other people than in any set or clip of the book
CONFIG = dict(epochs=16, lr=3e-3, backbone_lr=1 / 3, val_fraction=0.1)
WEIGHTS = ROOT / "micacl" / "nn" / "weights" / "synfew"


def looked_at(model, video):
    "What a network says of one clip."
    import torch
    with torch.no_grad(): out = model.eval()(video)
    return dict(adjacency=out.adjacency.tolist(), weights=out.weights[0].tolist(),
                probabilities=out.logits.softmax(1)[0].tolist())


def main(work):
    from micacl.core import read_json, seed_everything, write_json
    from micacl.data.synfew.example import example_bag
    from micacl.data.synfew.generate import generate
    from micacl.deploy.sharing import save_pretrained
    from micacl.train.checkpoint import read_tensors
    from micacl.train.config import Config
    from micacl.train.loop import train
    from micacl.train.objective import build_model
    config, before, video = Config(**CONFIG), commit(), example_bag()
    generate(work / "data", **DATA, progress=False)
    seed_everything(0)
    model = build_model(config, 7)
    log = work / "log.json"
    seen = read_json(log) if log.exists() else [looked_at(model, video)]

    def look(record):
        model.load_state_dict(read_tensors(work / "run" / "checkpoint" / "model.safetensors"))
        del seen[record["epoch"]:]
        seen.append(looked_at(model, video))
        write_json(log, seen)

    results = train(work / "data", work / "run", config, resume=(work / "run").exists(), on_epoch=look)
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    save_pretrained(work / "run", WEIGHTS)
    about = "The network of the book: MICACL trained on drawn clips, and its card."
    (WEIGHTS / "__init__.py").write_text(f'"{about}"\n', encoding="utf-8")      # a folder of the package has one
    keep = ("n_test", "uar", "war", "recall", "confusion", "intervals", "instance_auc", "instance_auc_clips")
    write_json(ROOT / "results" / "example.json", dict(
        command="python benchmarks/example.py WORK", commit=before, machine=machine(), data=DATA,
        config=config.to_dict(), counts=read_json(work / "run" / "config.json")["train_counts"],
        tests={name: {k: t[k] for k in keep if k in t} for name, t in results["tests"].items()}, epochs=seen))


if __name__ == "__main__": main(Path(sys.argv[1]))
