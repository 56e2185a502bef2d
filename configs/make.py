"""Writes ``configs/paper/``: the published experiments of DIMAT, as files for ``dimat compare``.

And the one that is run first, the headline, as a file for ``dimat run``.

    python configs/make.py

One table, below, says what there is; a test checks that the files are what this writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "paper"
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny ImageNet"}
MODELS = {"resnet20": {"model": "resnet20", "width": 8.0}, "vgg16": {"model": "vgg16"}}
MODEL_NAMES = {"resnet20": "ResNet-20 of 8 times the width", "vgg16": "VGG16 with BatchNorm"}
SPLITS = {
    "iid": "IID",
    "by-class": "class c is agent c mod N's",
    "iid-then-by-class": "pre-trained on an IID half, then by class on the other half",
}
TOPOLOGIES = ["full", "ring", "bipartite"]
METHODS = ["dimat", "wa", "wm", "cdsgd", "sgp", "cga", "ldsgd", "swarm", "local", "centralized"]
MOMENTUM_METHODS = ["dimat", "wa", "cdmsgd", "sgp", "local"]


@dataclass(frozen=True)
class Experiment:
    """One file: a data set, a model and a split, over graphs and numbers of agents.

    Args:
        data: One of DATA.
        model: One of MODELS.
        split: One of SPLITS.
        momentum: Whether agents train by momentum SGD instead of Adam.
    """

    data: str
    model: str
    split: str
    momentum: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        end = "-momentum" if self.momentum else ""
        return f"{self.data}-{self.model}-{self.split}{end}.yaml"

    @property
    def agents(self) -> list[int]:
        """Numbers of agents; by class ten at most share out ten classes."""
        return [5, 10] if self.data == "cifar10" and self.split != "iid" else [5, 10, 20]

    def settings(self) -> dict[str, object]:
        """What the file holds."""
        adam = {"name": "adam", "lr": 0.001, "on_merge": "reset"}
        msgd = {"name": "msgd", "lr": 0.05, "momentum": 0.9, "on_merge": "reset"}
        source = {"source": f"npz:{self.data}.npz", "split": self.split}
        return {
            **MODELS[self.model],
            "rounds": 100,
            "pretrain_epochs": 100,
            "local_epochs": 2,
            "batch_size": 100,
            "data": {**source, "validation": 0.0, "augment": True},
            "optimizer": msgd if self.momentum else adam,
            "matching": {"gauge": "pairwise", "null_margin": None},
            "merging": {"combine": "average"},
            "loss": {"logits": "plain"},
            "compare": {
                "methods": MOMENTUM_METHODS if self.momentum else METHODS,
                "seeds": "0..2",
                "grid": {"agents": self.agents, "topology.name": TOPOLOGIES},
            },
        }

    def text(self) -> str:
        """The file."""
        cells = 3 * len(self.agents) * len(TOPOLOGIES)
        command = f"dimat compare configs/paper/{self.name} --device cuda"
        lines = [
            f"{DATA[self.data]}, {MODEL_NAMES[self.model]}, {SPLITS[self.split]}; "
            f"{'momentum SGD' if self.momentum else 'Adam'}.",
            "",
            f"All {cells} runs, each of all methods, or one of them:",
            "",
            f"  {command}",
            f"  {command} --seeds 0 \\",
            "    --grid.agents 5 --grid.topology.name ring",
            "",
            "Written by configs/make.py: change it there.",
        ]
        head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
        return head + yaml.safe_dump(self.settings(), sort_keys=False, default_flow_style=None)


EXPERIMENTS = [
    *(Experiment(*each) for each in product(DATA, MODELS, SPLITS)),
    *(Experiment("cifar100", "resnet20", split, momentum=True) for split in SPLITS),
]


HEADLINE = "cifar100-resnet20x8-ring5-iid.yaml"
_HEADLINE_TEXT = f"""\
# The paper's headline: CIFAR-100, ResNet-20 of 8 times the width, 5 agents on a ring, IID; Adam.
#
#   dimat run --config configs/paper/{HEADLINE} --device cuda --out runs/headline \\
#     --max_wall_s 3000
#   until dimat resume runs/headline --max_wall_s 3000; do [ $? = 3 ] || break; done
#
#   dimat estimate configs/paper/{HEADLINE} --device cuda --assume cifar100
#
# Published: 67.12 +- 0.22 % after 100 epochs of pre-training and 100 rounds of 2 epochs. Controls
# are left to the command line: --controls wa,local; --matching.gauge spread.
#
# Written by configs/make.py: change it there.
"""


def headline() -> str:
    """The headline's file: one cell of the table, in bfloat16, and not measured in every round."""
    settings = Experiment("cifar100", "resnet20", "iid").settings()
    del settings["compare"]
    own = {"agents": 5, "topology": {"name": "ring"}, "method": "dimat", "controls": []}
    cheap = {"precision": "bfloat16", "eval_every": 5}
    return _HEADLINE_TEXT + yaml.safe_dump(
        {**own, **settings, **cheap}, sort_keys=False, default_flow_style=None
    )


def files() -> dict[str, str]:
    """The text of every file, by its name."""
    return {HEADLINE: headline()} | {own.name: own.text() for own in EXPERIMENTS}


def main() -> None:
    """Write them, and remove those that are no more."""
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
