"""What processes of one run have to have alike, and what each may have its own of."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimat import RunConfig
from dimat.data.digits import digits
from dimat.experiment.handshake import _OWN, handshake
from dimat.experiment.setup import Setup, make_setup

OTHER: dict[str, Any] = {
    "out": "elsewhere",
    "overwrite": True,
    "device": "cuda",
    "threads": 7,
    "vectorize": 3,
    "eval_every": 5,
    "log": ("tensorboard",),
    "controls": (),
    "imports": ("json",),
    "exchange.timeout_s": 1.5,
    "exchange.patience_s": 2.5,
    "exchange.wait_s": 3.5,
    "checkpoint.every": 4,
    "checkpoint.keep": 9,
    "diagnostics.barrier_images": 10,
    "data.source": "npz:other.npz",
    "data.test_source": "npz:other.npz",
}


@pytest.fixture(scope="module")
def setup() -> Setup:
    return make_setup(RunConfig(agents=3, threads=1, width=0.1))


def with_setting(config: RunConfig, name: str, value: Any) -> RunConfig:
    *groups, last = name.split(".")
    if not groups:
        return replace(config, **{last: value})
    return replace(config, **{groups[0]: replace(getattr(config, groups[0]), **{last: value})})


@pytest.mark.parametrize("name", _OWN)
def test_what_is_each_machines_own_is_no_reason_to_refuse_another(setup: Setup, name: str) -> None:
    other = with_setting(setup.config, name, OTHER[name])
    assert reduce(getattr, name.split("."), other) != reduce(getattr, name.split("."), setup.config)
    ours, theirs = (
        handshake(setup, matches=True),
        handshake(replace(setup, config=other), matches=True),
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "value"),
    [("rounds", 3), ("optimizer.lr", 0.5), ("seed", 1), ("exchange.robust", "clip")],
)
def test_what_is_not_is_said_by_its_name(setup: Setup, name: str, value: Any) -> None:
    other = replace(setup, config=with_setting(setup.config, name, value))
    ours, theirs = handshake(setup, matches=False), handshake(other, matches=False)
    assert {key for key in ours if ours[key] != theirs[key]} == {name}


def test_the_same_images_are_the_same_wherever_they_lie_and_others_are_not(
    setup: Setup, tmp_path: Path
) -> None:
    whole = digits()
    arrays = {
        name: getattr(whole, name).numpy() for name in ("train_x", "train_y", "test_x", "test_y")
    }
    np.savez(tmp_path / "same.npz", **arrays)
    arrays["train_x"] = arrays["train_x"].copy()
    arrays["train_x"][5, 3, 3] += 1
    np.savez(tmp_path / "other.npz", **arrays)

    def digest(name: str) -> str:
        source = replace(setup.config.data, source=f"npz:{tmp_path}/{name}.npz")
        return handshake(make_setup(replace(setup.config, data=source)), matches=False)["data"]

    assert digest("same") == handshake(setup, matches=False)["data"] != digest("other")
