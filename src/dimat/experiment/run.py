"""``dimat run`` and ``dimat resume``: the main job, end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from dimat.errors import ConfigError
from dimat.experiment.callbacks import LOGS, Callback
from dimat.experiment.checkpoint import Store
from dimat.experiment.config import RunConfig
from dimat.experiment.display import Observer, Silent
from dimat.experiment.facts import pretrain_digest
from dimat.experiment.locks import alone
from dimat.experiment.pretrain import Pretrained, Pretraining
from dimat.experiment.record import RunFolder, check_out, is_run_folder
from dimat.experiment.result import MethodResult, RunResult, results_of
from dimat.experiment.rounds import Rounds, method_settings
from dimat.experiment.settings import load_config
from dimat.experiment.setup import Setup, make_setup
from dimat.experiment.validate import validate
from dimat.methods import METHODS, check_needs


def run(
    config: RunConfig,
    observer: Observer | None = None,
    *,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train, match, merge and evaluate; the same as the command ``dimat run``.

    Agents are pre-trained once; the method and every control set out from the same pre-trained
    agents, with the same batches in the same order. Nothing is written unless the settings, the
    data, the model and the graph are all usable.

    Args:
        config: Every setting.
        observer: Told how the run goes; by default nobody.
        callbacks: Told what is measured.

    Returns:
        Accuracies per agent and method, and where the run folder is.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If something cannot be used.
        TrainingError: If a loss is not finite; what was written until then is kept.
    """
    validate(config)
    if config.out is not None:
        check_out(Path(config.out), overwrite=config.overwrite)
    return _Job(config, observer or Silent(), callbacks).run(fresh=True)


def resume(
    folder: Path, observer: Observer | None = None, *, callbacks: Sequence[Callback] = ()
) -> RunResult:
    """Go on with a run that was stopped, from its last checkpoint; the command ``dimat resume``.

    On the CPU the numbers and states are those of a run that was never stopped, to the last bit.

    Args:
        folder: The run folder.
        observer: Told how the run goes.
        callbacks: Told what is measured from here on.

    Raises:
        ConfigError: If it is no run folder, or lines of its metrics are missing.
        DataError, ModelError, TopologyError, TrainingError: As :func:`run` does.
    """
    if not is_run_folder(folder):
        raise ConfigError(f"{folder} is not a run folder: it lacks config.yaml or environment.json")
    config = dataclasses.replace(load_config(folder / "config.yaml"), out=str(folder))
    validate(config)
    return _Job(config, observer or Silent(), callbacks).run(fresh=False)


def run_or_resume(
    config: RunConfig,
    observer: Observer | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    pretrained: Path | None = None,
) -> RunResult:
    """Go on with the run in ``config.out`` if it was begun, else begin it; nothing if it is done.

    Args:
        config: Every setting; ``out`` must be given.
        observer: Told how the run goes.
        callbacks: Told what is measured.
        pretrained: A folder that runs share: agents that come out of pre-training alike are
            pre-trained once.

    Raises:
        ConfigError: If the folder is of a run with other settings; and as :func:`run` does.
    """
    validate(config)
    if config.out is None:
        raise ConfigError("setting 'out' is null: must be the folder to go on in")
    begun = is_run_folder(Path(config.out))
    if not begun:
        check_out(Path(config.out), overwrite=config.overwrite)
    return _Job(config, observer or Silent(), callbacks, pretrained).run(fresh=not begun)


_TIMES = 64  # of a graph that varies at random: how many are looked at before it is trained on


@dataclasses.dataclass
class _Job:
    """A run, and where it is up to."""

    config: RunConfig
    observer: Observer
    callbacks: Sequence[Callback] = ()
    pretrained: Path | None = None

    def run(self, *, fresh: bool) -> RunResult:
        """All methods that are not done, in a new folder or in the one that was begun."""
        torch.set_num_threads(self.config.threads)
        self.callbacks = [*self.callbacks, *(LOGS[name]() for name in self.config.log)]
        try:
            setup = make_setup(self.config, self.observer)
            self._check_methods(setup)
            folder = self._folder(fresh=fresh)
            if self.config.out is None:  # whoever stops it should know where it is
                self.observer.note(f"run folder: {folder.path}")
            inside = folder.path / "checkpoints"
            with (
                alone(inside, otherwise="another process runs or resumes the run"),
                torch.random.fork_rng(devices=[]),
            ):
                return self._methods(setup, folder)
        finally:
            self.observer.close()

    def _folder(self, *, fresh: bool) -> RunFolder:
        config = self.config
        out = None if config.out is None else Path(config.out)
        if fresh or out is None:
            return RunFolder.create(out, config, config.method)
        return RunFolder.open(out, config, config.method)

    def _methods(self, setup: Setup, folder: RunFolder) -> RunResult:
        """The method and its controls, one after another."""
        config = self.config
        main = self._method(setup, config.method, folder, folder)
        controls = tuple(
            self._method(setup, name, folder.control(name), folder)
            for name in config.controls
            if name != config.method
        )
        folder.finish()
        return RunResult(config, folder.path, main, controls)

    def _check_methods(self, setup: Setup) -> None:
        """That graph and model suit all methods, before anything is trained."""
        settings = method_settings(self.config)
        methods = {n: METHODS[n](settings) for n in (self.config.method, *self.config.controls)}
        for name, method in methods.items():
            for time in range(min(setup.topology.period or _TIMES, _TIMES)):
                check_needs(name, method, setup.topology.at(time))
        if any(method.matches for method in methods.values()):
            self.observer.stage("proving the model's symmetry", 1)
            _ = setup.analysis  # a model that cannot be exported ends here
            self.observer.advance()

    def _method(self, setup: Setup, name: str, folder: RunFolder, home: RunFolder) -> MethodResult:
        """One method, unless its folder says that it is done."""
        summary = folder.summary()
        if summary is not None:
            return MethodResult(name, results_of(folder.lines(), self.config.rounds), summary)
        own = setup.pooled() if name == "centralized" else setup
        result = Rounds(own, name, folder, self.observer, self.callbacks).run(
            self._pretrain(own, home)
        )
        if folder is not home:  # that one's pre-training serves the controls
            folder.finish()
        return result

    def _pretrain(self, setup: Setup, home: RunFolder) -> Sequence[Pretrained]:
        """Agents after pre-training: trained now, or taken from where they are kept."""
        shared = self.pretrained or home.path / "checkpoints" / "pretrained"
        store = Store(shared / pretrain_digest(setup)[:16], "epoch", 1)
        return Pretraining(setup, self.observer, store).run()
