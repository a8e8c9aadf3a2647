"Losses and samplers in a plain loop over pictures: torchvision's folders and networks, timm's networks, both's mixing."
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms import v2

from micacl.core import MicaclError
from micacl.longtail import LOSSES, SAMPLERS, EpochOrder, build_loss, recalls
from micacl.longtail.samplers import clip_shares

N_C = [40, 12, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder a class: noisy pictures whose red, green or blue is lighter."
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for c, n in enumerate(N_C):
        (root / f"class{c}").mkdir()
        for k in range(n):
            picture = rng.integers(0, 120, (32, 32, 3))
            picture[..., c] += 110
            Image.fromarray(picture.astype("uint8")).save(root / f"class{c}" / f"{k:02d}.png")
    return root


@pytest.fixture(scope="module")
def pictures(folder):
    return torchvision.datasets.ImageFolder(folder, v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, True)]))


def test_a_folder_of_torchvision_says_its_labels(pictures):
    assert isinstance(pictures.targets, list) and np.bincount(pictures.targets).tolist() == N_C


# ---- shares

@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", ["balanced"])
def test_the_loop_sees_the_classes_in_the_expected_shares_with_workers(pictures, sampler, workers):
    check_shares(pictures, sampler, epochs=8, workers=workers)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ("progressive", "per_class")])
def test_the_loop_sees_the_classes_in_the_expected_shares(pictures, sampler): check_shares(pictures, sampler, epochs=20)


def check_shares(pictures, sampler, epochs, workers=0):
    y = torch.tensor(pictures.targets)
    wanted = torch.tensor([clip_shares(y, sampler)[y == c].sum() for c in range(3)])
    order = EpochOrder(pictures.targets, 0, sampler)
    loader, seen = DataLoader(pictures, 16, sampler=order, num_workers=workers), []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        seen += [labels for _, labels in loader]
    drawn = torch.cat(seen).bincount(minlength=3)
    assert drawn.sum() == epochs * len(y)
    if sampler == "natural": assert drawn.tolist() == [epochs * n for n in N_C]
    sd = (wanted * (1 - wanted) / drawn.sum()).sqrt()
    assert ((drawn / drawn.sum() - wanted).abs() < 5 * sd).all()


def test_balanced_shares_are_those_of_pytorchs_own_weighted_sampler(pictures):
    "One over the class count as a weight: what a plain loop would write."
    y = torch.tensor(pictures.targets)
    weights = 1 / y.bincount()[y].double()
    assert torch.allclose(clip_shares(y, "balanced"), weights / weights.sum())


# ---- networks

@pytest.mark.parametrize("make", [lambda: timm.create_model("test_resnet", num_classes=3),
                                  lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)],
                         ids=["timm", "torchvision"])
def test_a_network_learns_the_tail_in_a_plain_loop(pictures, make):
    torch.manual_seed(0)
    net, loss, order = make(), build_loss("balanced_softmax", N_C), EpochOrder(pictures.targets, 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for epoch in range(12):
        order.set_epoch(epoch)
        for x, y in DataLoader(pictures, 8, sampler=order):
            optimizer.zero_grad(); loss(net(x), y).backward(); optimizer.step()
    net.eval()
    with torch.no_grad(): scores = torch.cat([net(x) for x, _ in DataLoader(pictures, 56)])
    assert recalls(pictures.targets, scores.argmax(1), 3).min() > .7


# ---- what is mixed has no single label

@pytest.mark.parametrize("mix", [
    lambda x, y: v2.MixUp(num_classes=3)(x, y),
    lambda x, y: timm.data.Mixup(num_classes=3, label_smoothing=0.)(x, y)], ids=["torchvision", "timm"])
def test_mixed_labels_are_refused_and_two_losses_stand_for_them(mix):
    "The way out that the page gives: the loss of both labels, weighted by their shares."
    torch.manual_seed(0)
    x, y = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    mixed, soft = mix(x.clone(), y)
    assert soft.shape == (6, 3) and torch.allclose(soft.sum(1), torch.ones(6))
    for name in LOSSES:
        with pytest.raises(MicaclError, match=r"^labels: "): build_loss(name, N_C)(net(mixed), soft)
    loss, scores = build_loss("balanced_softmax", N_C), net(mixed)
    shares = [soft[:, c] for c in range(3)]
    each = torch.stack([torch.stack([loss(scores[i:i + 1], [c]) for i in range(6)]) * shares[c] for c in range(3)])
    want = nn.functional.cross_entropy(scores + torch.tensor(N_C).log(), soft)
    assert each.sum(0).mean().item() == pytest.approx(want.item(), abs=1e-6)
