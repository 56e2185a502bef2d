"""What travels at half the size, and what may change when a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dimat
from dimat.errors import ConfigError
from dimat.experiment.config.config import (
    CheckpointConfig,
    ExchangeConfig,
    MatchingConfig,
    MergingConfig,
    RunConfig,
)
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.validate import validate
from dimat.experiment.digests import run_digest
from dimat.experiment.record.run_folder import RunFolder, check_same_settings
from dimat.experiment.setup import make_setup

SMALL = RunConfig(
    agents=3, rounds=2, pretrain_epochs=0, local_steps=1, method="wa", controls=(), threads=1
)
LINKS = ExchangeConfig(timeout_s=1.0, patience_s=2.0)


@pytest.mark.parametrize("method", ["wa", "cdsgd"])
def test_bfloat16_halves_the_bytes_of_a_run(tmp_path: Path, method: str) -> None:
    sent = {}
    for precision in ("float32", "bfloat16"):
        exchange = ExchangeConfig(precision=precision)  # type: ignore[arg-type]
        own = replace(SMALL, method=method, exchange=exchange, out=str(tmp_path / precision))
        sent[precision] = dimat.run(own).main.summary["sent_bytes"]
    assert sent["float32"] == 2 * sent["bfloat16"] > 0  # type: ignore[operator]


def test_an_order_that_spreads_costs_24_bytes_a_message(tmp_path: Path) -> None:
    sent = {}
    for name in ("wa", "dimat"):
        own = replace(SMALL, method=name, matching=MatchingConfig(gauge="spread", images=50))
        own = replace(own, merging=MergingConfig("average"))
        sent[name] = dimat.run(replace(own, out=str(tmp_path / name))).main.summary["sent_bytes"]
    assert sent["dimat"] == sent["wa"] + 2 * 3 * 2 * 24  # type: ignore[operator]


@pytest.mark.parametrize(
    "own",
    [
        {"exchange": LINKS},
        {"checkpoint": CheckpointConfig(3, keep=1)},
        {"vectorize": 1},
        {"max_wall_s": 60.0, "overwrite": True},
    ],
)
def test_what_changes_no_result_may_change_when_a_run_goes_on(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    folder = RunFolder.create(tmp_path / "run", SMALL, "wa")
    check_same_settings(folder.path, replace(SMALL, **own))
    setup = make_setup(SMALL)
    assert run_digest(setup, SMALL) == run_digest(setup, replace(SMALL, **own))


@pytest.mark.parametrize(
    "exchange",
    [
        ExchangeConfig(precision="bfloat16"),
        ExchangeConfig(max_norm_ratio=2.0),
        ExchangeConfig(robust="clip"),
    ],
)
def test_what_is_sent_and_taken_may_not(tmp_path: Path, exchange: ExchangeConfig) -> None:
    folder = RunFolder.create(tmp_path / "run", SMALL, "wa")
    with pytest.raises(ConfigError, match="was begun with 'exchange"):
        check_same_settings(folder.path, replace(SMALL, exchange=exchange))
    setup = make_setup(SMALL)
    assert run_digest(setup, SMALL) != run_digest(setup, replace(SMALL, exchange=exchange))


@pytest.mark.parametrize(
    ("exchange", "complaint"),
    [
        (ExchangeConfig(timeout_s=0.0), "'exchange.timeout_s' .*must be > 0"),
        (ExchangeConfig(patience_s=-1.0), "'exchange.patience_s' .*must be > 0"),
        (ExchangeConfig(max_norm_ratio=0.5), "'exchange.max_norm_ratio' .*must be >= 1, or null"),
        (ExchangeConfig(precision="float16"), "'exchange.precision'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_out_of_range_is_refused(exchange: ExchangeConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(replace(SMALL, exchange=exchange))


@pytest.mark.parametrize(
    ("matching", "apart", "gauge", "once"),
    [
        (MatchingConfig(), False, "spread", "tree"),
        (MatchingConfig(), True, "spread", "pairwise"),  # one merge: an order has no time to spread
        (MatchingConfig(statistics="pooled"), False, "tree", "tree"),
        (MatchingConfig(every=3), False, "tree", "tree"),
        (MatchingConfig(gauge="tree"), False, "tree", "tree"),
        (MatchingConfig(gauge="pairwise"), True, "pairwise", "pairwise"),
    ],
)
def test_how_agents_come_into_one_order_follows_from_what_is_asked_for(
    matching: MatchingConfig, apart: bool, gauge: str, once: str
) -> None:
    config = replace(SMALL, matching=matching)
    found = [make_method(config, name, apart=apart) for name in ("dimat", "final-merge")]
    assert [vars(own)["gauge"] for own in found] == [gauge, once]


def test_a_spreading_order_with_what_takes_all_agents_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="'matching.every' .*matching.gauge spread"):
        validate(replace(SMALL, matching=MatchingConfig(gauge="spread", every=2)))
