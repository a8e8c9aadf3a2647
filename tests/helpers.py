"""What several test files need: small models in which every tensor counts, videos and masks for them, a job of two
processes."""
import json
import math
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from micacl.core import EMOTIONS
from micacl.models import MODELS
from micacl.nn import expression

CLASSES = list(EMOTIONS)
# the processes of a job begin as copies of one that has imported what they need and computed nothing
METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
if METHOD == "forkserver": mp.set_forkserver_preload(["torch._dynamo", "micacl.models"])
needs_gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")


class Effort:
    """CPU seconds of a block, in seconds of a core at rest: other programs and slower processors cancel out.
    A fixed piece of Python runs before and after it; on a 2023 server core it takes 0.016 s."""
    def reference(self):
        start = time.process_time()
        sum(len(str(i)) for i in range(200_000))
        return time.process_time() - start

    def __enter__(self):
        self.slow, self.start = self.reference(), time.process_time()
        return self

    def __exit__(self, *_):
        took = time.process_time() - self.start
        self.seconds = took / max(1, max(self.slow, self.reference()) / 0.016)


def make(name="micacl", seed=0, **options):
    torch.manual_seed(seed)
    model = MODELS[name](**{"backbone": "r3d_small", **options})
    with torch.no_grad():                        # no zeros, no ones
        for p in model.parameters(): p.add_(0.05 * torch.randn(p.shape))
        for b in model.buffers():
            if b.is_floating_point() and b.numel() > 3: b.add_(0.05 * torch.rand(b.shape))
    return model.eval()


def movie(B=2, px=64, seed=0, T=16):
    return torch.randint(0, 256, (B, T, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def ragged_mask(B, N):
    "Bags of different lengths, one full, and one with a hole in the middle."
    mask = torch.arange(N)[None] < torch.tensor([N, N - 1, 2, 1])[:B, None]
    mask[1] = True; mask[1, N // 2] = False
    return mask


def _one_of_two(rank, work, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try: torch.save(work(rank), f"{folder}/{rank}.pt")
    finally: dist.destroy_process_group()


def on_two_processes(work, folder):
    "What `work(rank)` gives in each of two processes that are one job."
    context = mp.start_processes(_one_of_two, (work, str(folder)), nprocs=2, join=False, start_method=METHOD)
    for _ in range(240):
        if context.join(timeout=.5): break
    else:
        for p in context.processes: p.kill()
        pytest.fail("the two processes did not finish")
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


# points on a circle, and SupCon as loops over them
def circle(*degrees):
    a = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([a.cos(), a.sin()], 1)


def dot(a, b): return sum(u * v for u, v in zip(a, b))


def slow_supcon(z, y, tau):
    "-1/|P| sum_p log(exp(z_i z_p/tau) / sum_a exp(z_i z_a/tau)), mean over the anchors with partners."
    z, y, terms = z.tolist(), y.tolist(), []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        partners = [k for k in others if y[k] == y[i]]
        below = sum(math.exp(dot(z[i], z[k]) / tau) for k in others)
        if partners:
            terms.append(-sum(math.log(math.exp(dot(z[i], z[p]) / tau) / below) for p in partners) / len(partners))
    return sum(terms) / len(terms) if terms else 0.


# ---- weights in the format of TensorFlow.js, for `micacl.nn.expression`

def draw_expression(seed=0):
    "{name: float32 array}, small enough that sixteen layers keep their size."
    rng = np.random.default_rng(seed)
    return {n: (rng.normal(size=s)/math.sqrt(np.prod(s[:3]) if len(s) > 1 else 25)).astype(np.float32)
            for n, s in expression.expected_tensors().items()}


def write_expression(folder, tensors, kind="uint8"):
    "As TensorFlow.js stores them -> the tensors as a reader has to find them."
    block = f"{expression.NAME}.bin"
    entries, data, found, levels = [], b"", {}, dict(uint8=255, uint16=65535).get(kind)
    for name, w in tensors.items():
        entry = dict(name=name, shape=list(w.shape), dtype="float32")
        if levels is None or name.endswith("bias"): data += w.astype("<f4").tobytes(); found[name] = w
        else:
            least, scale = float(w.min()), float(w.max() - w.min())/levels
            q = np.rint((w.astype(float) - least)/scale).astype(kind)
            entry["quantization"] = dict(dtype=kind, scale=scale, min=least)
            data += q.tobytes(); found[name] = q*scale + least
        entries.append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    (folder/f"{expression.NAME}-weights_manifest.json").write_text(json.dumps([dict(weights=entries, paths=[block])]))
    (folder/block).write_bytes(data)
    return found
