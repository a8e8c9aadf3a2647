"""What the choices inside r3d_small cost and bring: `python benchmarks/backbone_trials.py` writes results/backbone-trials.json.

Each variant learns action units from the same single frames with the same settings (a small part of the recipe of
micacl.pretrain), and is measured on the same clips of other people. The cost is processor time of forward and backward
for 64 instances of 4 frames at 64 px on one thread, the best of five. About 10 minutes on one core."""
import os
import platform
import time
from pathlib import Path
import torch
from torch import nn
from micacl.backbone import build_backbone, conv_block
from micacl.core import derive_seed, seed_everything, write_json
from micacl.pretrain import UnitHead, fit, forget_time, predict_units, r_squared, render_stream

N, EPOCHS, LR, SEED = 8000, 5, 4e-3, 0


def shipped(): return build_backbone("r3d_small")

def group_norm():
    b = shipped()
    for i in range(1, 5): b.net[i][1] = nn.GroupNorm(b.net[i][1].num_features // 8, b.net[i][1].num_features)
    return b

def global_average():
    b = shipped(); b.net[5] = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return b

def time_everywhere():
    b = shipped(); b.net[1], b.net[2] = conv_block(3, 16, (3, 3, 3)), conv_block(16, 32, (3, 3, 3))
    return b

def factorised():
    "1x3x3 then 3x1x1 in each block, as in R(2+1)D."
    b = shipped()
    for i, (c_in, c) in enumerate(((3, 16), (16, 32), (32, 64), (64, 128)), 1):
        b.net[i] = nn.Sequential(*conv_block(c_in, c, (1, 3, 3)), nn.Conv3d(c, c, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(c), nn.ReLU())
    return b

def channels_first():
    b = shipped(); b.net[0] = nn.Identity()
    return b


def step_ms(b):
    x, best = torch.rand(64, 3, 4, 64, 64), float("inf")
    for _ in range(5):
        start = time.process_time(); b(x).square().mean().backward(); best = min(best, time.process_time() - start)
    return round(1000 * best)

def learn(make, pictures, held_out):
    seed_everything(SEED)
    model = nn.Sequential(forget_time(make()), UnitHead(128))
    model[1].mean.copy_(pictures[1].mean(0)); model[1].std.copy_(pictures[1].std(0))
    fit(model, pictures, held_out, EPOCHS, 32, LR, 0.01, SEED)
    return round(r_squared(predict_units(model, held_out[0]), held_out[1]).mean().item(), 3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = dict(command="python benchmarks/backbone_trials.py", n=N, epochs=EPOCHS, lr=LR, seed=SEED, torch=torch.__version__,
               machine=f"{os.cpu_count()} CPU cores, no GPU ({platform.system()} {platform.machine()}), one thread", variants={})
    pictures = render_stream(derive_seed(SEED, "trial pictures"), N, n_frames=1)
    held_out = render_stream(derive_seed(SEED, "trial held out"), 512)
    for make in (shipped, group_norm, global_average, time_everywhere, factorised, channels_first):
        name = make.__name__.replace("_", " ")
        result = dict(step_ms=step_ms(make()), parameters=sum(p.numel() for p in make().parameters()))
        if make in (shipped, group_norm, global_average): result["mean_r2"] = learn(make, pictures, held_out)
        out["variants"][name] = result
        print(name, result, flush=True)
    write_json(Path(__file__).parent.parent / "results" / "backbone-trials.json", out)
