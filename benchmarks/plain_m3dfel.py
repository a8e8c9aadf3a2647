"""M3DFEL as one would write it down from its description, with nothing of this library: what `benchmarks/bench.py`
compares the library's steps with.

R3D-18 without its classifier on four instances of four frames, a bidirectional LSTM of two layers, self-attention,
normalisation over instances and bag (DMIN), a sigmoid gate on the states, a convolution from four instances to one, and
a classifier. The video arrives as floats, normalised.
"""
import torch
from torch import nn
from torchvision.models.video import r3d_18


class DMIN(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.mean_weight, self.var_weight = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x):                                       # (B, N, D)
        x = x.float()
        mean_in, var_in = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        mean_bag, var_bag = x.mean((1, 2), keepdim=True), x.var((1, 2), unbiased=False, keepdim=True)
        a, b = torch.softmax(self.mean_weight, 0), torch.softmax(self.var_weight, 0)
        mean, var = a[0] * mean_in + a[1] * mean_bag, b[0] * var_in + b[1] * var_bag
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class PlainM3DFEL(nn.Module):
    def __init__(self, n_classes=7, n_instances=4):
        super().__init__()
        self.n_instances, self.r3d = n_instances, r3d_18(weights=None)
        self.r3d.fc = nn.Identity()
        self.lstm = nn.LSTM(512, 512, num_layers=2, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(1024, 8, batch_first=True)
        self.norm = DMIN(1024)
        self.conv = nn.Conv1d(n_instances, 1, kernel_size=3, padding=1)
        self.fc = nn.Linear(1024, n_classes)

    def forward(self, video):                                   # (B, T, 3, H, W), normalised
        B, T, C, H, W = video.shape
        x = video.reshape(B * self.n_instances, T // self.n_instances, C, H, W).transpose(1, 2)
        x = self.r3d(x).reshape(B, self.n_instances, 512)
        h, _ = self.lstm(x)
        m, _ = self.attention(h, h, h)
        x = self.conv(torch.sigmoid(self.norm(m)) * h).squeeze(1)
        return self.fc(x)


class PlainTraining:
    "Cross entropy with label smoothing, AdamW, and mixed precision if a dtype is given."
    def __init__(self, model, device, half=None):
        self.model, self.device, self.half = model.to(device).train(), device, half
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)

    def step(self, video, y):
        with torch.autocast(self.device, self.half, enabled=self.half is not None):
            loss = nn.functional.cross_entropy(self.model(video), y, label_smoothing=0.1)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.item()


def names_in_micacl():
    "name here -> name in micacl.models.M3DFEL, for a test that compares the two."
    ours = {"r3d.": "backbone.net.", "attention.": "tail.attention.", "conv.": "tail.conv.",
            "norm.weight": "tail.norm.gamma", "norm.bias": "tail.norm.beta",
            "norm.mean_weight": "tail.norm.mean_mix", "norm.var_weight": "tail.norm.var_mix"}
    def translate(name): return next((b + name[len(a):] for a, b in ours.items() if name.startswith(a)), name)
    return {name: translate(name) for name in PlainM3DFEL().state_dict()}
