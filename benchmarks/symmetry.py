"""How long it takes to find, prove and apply symmetries, as ratios measured side by side.

    .venv/bin/python -m benchmarks.symmetry                # everything
    .venv/bin/python -m benchmarks.symmetry --find         # seconds to find those of four
    .venv/bin/python -m benchmarks.symmetry --apply        # the column of applying only, in seconds
    .venv/bin/python -m benchmarks.symmetry --small        # ViT-B/16 and VGG16, beside their aims
    .venv/bin/python -m benchmarks.symmetry --continuous   # matrices too, against permutations

Finding is compared with a plain forward pass of the same model on the same images, applying with
cloning the state. Seconds are of processor time, on one thread, as others may use the machine too.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from benchmarks.aims import beside_aim
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dimat import find_continuous_symmetry, find_symmetry
from dimat.graph.trace import trace_modes
from dimat.models import build_model
from dimat.symmetry import Symmetry, find

FIND_S, APPLY = 10, 2  # aims: seconds, and a ratio to cloning the state


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Sequential()
        if stride != 1 or inputs != out:
            conv = nn.Conv2d(inputs, out, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.down(x)).relu()


def resnet50() -> nn.Module:
    """25.6 M parameters, as ResNet-50."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(count):
            layers.append(Bottleneck(inputs, width, stride if k == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Layer(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, size = x.shape
        y = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, size // self.heads)
        q, k, v = y.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, size))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """86 M parameters, as ViT-B/16."""

    def __init__(self, size: int = 768, heads: int = 12, depth: int = 12, side: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, size))
        self.positions = nn.Parameter(torch.zeros(1, side * side + 1, size))
        self.layers = nn.Sequential(*(Layer(size, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median processor time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(model: nn.Module, images: Tensor) -> list[str]:
    model.eval()
    with torch.no_grad():
        model(images)
        forward = seconds(lambda: model(images))
    first = seconds(lambda: find_symmetry(model, (images,)), 1)
    traces = trace_modes(model, (images,))
    with mock.patch.object(find, "trace_modes", return_value=traces):
        again = seconds(lambda: find_symmetry(model, (images,)))
    symmetry = find_symmetry(model, (images,))
    p = symmetry.random(torch.Generator().manual_seed(0))
    plan = seconds(lambda: symmetry.plan(p), 3)
    return [
        f"{first:.1f} s",
        f"{first / forward:.0f} x",
        f"{1000 * again:.0f} ms",
        f"{applied(symmetry, model):.2f} x",
        f"{plan:.2f} s",
        f"{symmetry.coverage:.4f}",
    ]


def applied(symmetry: Symmetry, model: nn.Module) -> float:
    """Processor time of applying a random element, relative to that of cloning the state."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    p = symmetry.random(torch.Generator().manual_seed(0))
    clone, apply = [], []
    for _ in range(15):  # interleaved
        clone.append(seconds(lambda: {k: v.clone() for k, v in state.items()}, 1))
        apply.append(seconds(lambda: symmetry.apply(p, state), 1))
    return statistics.median(apply) / statistics.median(clone)


def continuous_only() -> None:
    """The time to find permutations and matrices, relative to permutations alone."""
    for name, model in (("ViT-S/16", ViT(384, 6)), ("ViT-B/16", ViT())):
        own, images = model.eval(), torch.randn(2, 3, 64, 64)
        alone = seconds(partial(find_symmetry, own, images), 1)
        both = seconds(partial(find_continuous_symmetry, own, images), 1)
        print(f"{name}: {alone:.1f} s, and matrices {both:.1f} s: {both / alone:.2f} x", flush=True)


def find_only() -> None:
    """The time to find the symmetry of four networks, without that of imports."""
    find_symmetry(nn.Linear(2, 2), torch.zeros(2, 2))
    nets: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "mlp": (built("mlp", 1, 28), torch.randn(2, 1, 28, 28)),
        "resnet20": (built("resnet20", 3, 32), torch.randn(2, 3, 32, 32)),
        "ViT-S/16": (partial(ViT, 384, 6), torch.randn(2, 3, 64, 64)),
        "ViT-B/16": (ViT, torch.randn(2, 3, 64, 64)),
    }
    for name, (build, images) in nets.items():
        model = build().eval()
        start = time.process_time()
        symmetry = find_symmetry(model, images)
        print(f"{name}: {time.process_time() - start:.2f} s, {symmetry.digest[:12]}", flush=True)


def built(kind: str, channels: int, side: int) -> Callable[[], nn.Module]:
    """A function that builds one of the built-in networks."""
    size = (side, side)
    return partial(build_model, kind, in_channels=channels, num_classes=10, image_size=size)


def apply_only() -> None:
    """The ratios of applying for three networks."""
    built = (("vgg16", 1.0), ("resnet20", 2.0))
    nets = {f"{kind} x{width:g}": build_model(kind, in_channels=3, num_classes=10,
            image_size=(32, 32), width=width) for kind, width in built}  # fmt: skip
    nets["ViT-S/16"] = ViT(384, 6)
    for name, model in nets.items():
        side = 64 if isinstance(model, ViT) else 32
        symmetry = find_symmetry(model, (torch.randn(2, 3, side, side),))
        print(f"{name}: apply / clone {applied(symmetry, model):.2f} x", flush=True)


def beside_aims() -> None:
    """The time to find the symmetry of a ViT-B/16, and the ratio of applying that of a VGG16."""
    find_symmetry(nn.Linear(2, 2), torch.zeros(2, 2))  # without the imports of the first
    vit, vgg = ViT().eval(), built("vgg16", 3, 32)()
    images = torch.randn(2, 3, 64, 64)
    found = seconds(lambda: find_symmetry(vit, (images,)), 1)
    print(f"ViT-B/16: found in {found:.1f} s ({beside_aim(found, FIND_S)})", flush=True)
    ratio = applied(find_symmetry(vgg, (torch.randn(2, 3, 32, 32),)), vgg)
    print(f"vgg16: apply / clone {ratio:.2f} ({beside_aim(ratio, APPLY)})", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    parts = {
        "--small": beside_aims,
        "--find": find_only,
        "--apply": apply_only,
        "--continuous": continuous_only,
    }
    if sys.argv[1:]:
        parts[sys.argv[1]]()
        return
    table = Table(title=f"torch {torch.__version__}, 1 thread, {platform.processor() or 'CPU'}")
    for column in ("model", "find and prove", "/ forward", "again, beyond export", "apply / clone",
                   "plan", "coverage"):  # fmt: skip
        table.add_column(column)
    table.add_row("resnet50, 2x3x64x64", *measure(resnet50(), torch.randn(2, 3, 64, 64)))
    table.add_row("ViT-B/16, 2x3x64x64", *measure(ViT(), torch.randn(2, 3, 64, 64)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
