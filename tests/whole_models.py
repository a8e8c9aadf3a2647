"Small models in which every tensor counts, and videos for them: what the tests of sharing and of exporting both need."
import torch

from micacl.models import MODELS

CLASSES = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]


def make(name="micacl", seed=0, **options):
    torch.manual_seed(seed)
    model = MODELS[name](**{"backbone": "r3d_small", **options})
    with torch.no_grad():                        # no zeros, no ones
        for p in model.parameters(): p.add_(0.05 * torch.randn(p.shape))
        for b in model.buffers():
            if b.is_floating_point() and b.numel() > 3: b.add_(0.05 * torch.rand(b.shape))
    return model.eval()


def movie(B=2, px=64, seed=0, T=16): return torch.randint(0, 256, (B, T, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
