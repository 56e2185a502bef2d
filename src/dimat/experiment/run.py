"""``dimat run``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path

import torch

from dimat.experiment.config import RunConfig
from dimat.experiment.display import Observer, Silent
from dimat.experiment.record import RunFolder, check_out
from dimat.experiment.result import RunResult
from dimat.experiment.rounds import Rounds
from dimat.experiment.setup import make_setup, pretrain
from dimat.experiment.validate import validate


def run(config: RunConfig, observer: Observer | None = None) -> RunResult:
    """Train, match, merge and evaluate; the same as the command ``dimat run``.

    Agents are pre-trained once; the method and every control set out from the same pre-trained
    agents, with the same batches in the same order. Nothing is written unless the settings, the
    data, the model and the graph are all usable.

    Args:
        config: Every setting.
        observer: Told how the run goes; by default nobody.

    Returns:
        Accuracies per agent and method, and where the run folder is.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If something cannot be used.
        TrainingError: If a loss is not finite; what was written until then is kept.
    """
    validate(config)
    observer = observer or Silent()
    out = None if config.out is None else Path(config.out)
    if out is not None:
        check_out(out, overwrite=config.overwrite)
    torch.set_num_threads(config.threads)
    setup = make_setup(config)
    if "dimat" in (config.method, *config.controls):
        observer.stage("proving the model's symmetry", 1)
        _ = setup.analysis  # before anything is trained: a model that cannot be exported ends here
        observer.advance()
    folder = RunFolder.create(out, config, config.method)
    try:
        snapshots = pretrain(setup, observer)
        main = Rounds(setup, config.method, folder, observer).run(snapshots)
        controls = tuple(
            Rounds(setup, name, folder.control(name), observer).run(snapshots)
            for name in config.controls
            if name != config.method
        )
    finally:
        observer.close()
    return RunResult(config, folder.path, main, controls)
