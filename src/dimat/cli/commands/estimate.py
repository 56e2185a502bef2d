"""``dimat estimate``: estimate the costs of a run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import SettingsLater
from dimat.errors import ConfigError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path
from dimat.experiment.config.validate import validate

if TYPE_CHECKING:
    from dimat.experiment.setup import Setup

SUMMARY = "foresee what a run costs: FLOP, bytes, memory, time"
_OWN = ("config", "assume", "json", "no-calibrate", "help")


def parser() -> Parser:
    """The parser of ``dimat estimate``."""
    own = SettingsLater(
        _OWN,
        usage="dimat estimate [FILE.yaml | --config FILE.yaml] [--SETTING VALUE ...] "
        "[--OPTION VALUE ...]",
        description="Say what 'dimat run' with the same settings will cost in one process, all its "
        "controls included: arithmetic, bytes sent, memory, and the time on this device, on which "
        "some training, merging and evaluation is timed. Nothing is written. Of a file for 'dimat "
        "compare' it is the first run.",
        epilog="'dimat run --help all' explains every setting.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("base", nargs="?", type=str | None, default=None, help="a YAML file of settings")
    add("--config", type=str | None, default=None, metavar="FILE.yaml", help="the same")
    known = "cifar10, cifar100, tiny-imagenet, or TRAIN,TEST,HEIGHT,WIDTH,CHANNELS,CLASSES"
    add("--assume", type=str | None, default=None, help=f"images as if they were there: {known}")
    timed = "do not time this device, about 15 s; expected times are left out then"
    add("--no-calibrate", action="store_true", help=timed)
    add("--json", action="store_true", help="print all of it as JSON, for programs")
    add("--given", type=dict, default={}, help=argparse.SUPPRESS)
    return own


def execute(options: Namespace) -> None:
    """Estimate the costs of a run, and print them."""
    config, cells = _config(options)
    if options.no_calibrate:
        config = dataclasses.replace(config, device="cpu")  # no device is timed
    with importing():
        validate(config)
        from rich.console import Console

        from dimat.experiment.progress import LiveProgress
        from dimat.tools.estimate.forecast import forecast
        from dimat.tools.estimate.show import as_json, estimate_tables

    progress = LiveProgress()
    try:
        start = time.perf_counter()
        setup = _setup(config, options.assume)
        read_s = time.perf_counter() - start
        found = forecast(setup, read_s, progress, calibrate=not options.no_calibrate)
    finally:
        progress.close()
    if options.json:
        print(json.dumps({**as_json(found), "runs": cells}, indent=2))
    else:
        Console().print(estimate_tables(found, cells))


def _config(options: Namespace) -> tuple[RunConfig, int]:
    """The settings of the run to estimate, and the number of runs of its comparison."""
    from dimat.experiment.config.access import typed, with_setting
    from dimat.tools.compare.read import read_spec

    if options.base and options.config:
        raise ConfigError(f"unexpected '{options.base}': setting 'config' names a file already")
    config, cells, file = RunConfig(), 1, options.base or options.config
    if file:
        spec = read_spec(check_path("config", file))
        config, cells = spec.first, spec.num_cells
    if options.given["grid"]:
        raise ConfigError("setting 'grid' is for 'dimat compare': one run is estimated")
    for name, text in options.given["settings"].items():
        config = with_setting(config, name, typed(name, text))
    return config, cells


def _setup(config: RunConfig, assume: str | None) -> Setup:
    from dimat.errors import DataError
    from dimat.experiment.setup import make_setup
    from dimat.tasks import TASKS
    from dimat.tools.estimate.assume import assumed

    if assume is not None:
        return make_setup(config, dataset=assumed(assume, TASKS[config.task]))
    try:
        return make_setup(config)
    except DataError as error:
        raise DataError(f"{error}; --assume cifar100 does without the images") from error
