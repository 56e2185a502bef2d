"""The agent inside a trainer's callback: made when training begins, closed when it ends."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from dimat.agent.agent import Agent
from dimat.errors import ConfigError, DataError, check_kind, check_known

_OWN = {"model", "optimizer", "calibration", "hook"}  # given by the callback
_SETTINGS = tuple(name for name in inspect.signature(Agent).parameters if name not in _OWN)


class Merging:
    """The agent of a callback, which lives as long as the training.

    Args:
        calibration: Batches as for :class:`dimat.Agent`; None: samples of the training data.
        part: Name of the submodule that merges; None: the whole model.
        settings: Other settings of :class:`dimat.Agent`.

    Attributes:
        agent: The agent; None before training.
    """

    def __init__(
        self, calibration: Iterable[Any] | None, part: str | None, settings: Mapping[str, Any]
    ) -> None:
        for name in settings:
            check_known("a setting of MergeCallback", name, _SETTINGS)
        if part is not None:
            check_kind("part", part, str, "the name of a submodule, such as 'model'")
        self.agent: Agent | None = None
        self._calibration, self._part, self._settings = calibration, part, dict(settings)

    def _begin(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Any,
        saved: Mapping[str, Any] | None,
        labels: Collection[str] = (),
    ) -> None:
        """Make the agent, as it was when a checkpoint was written if there is one.

        Args:
            model: The model that the trainer trains, as the checkpoint has it.
            optimizer: Its optimizer.
            loader: The trainer's loader of training data.
            saved: What :meth:`dimat.Agent.state_dict` returned at the checkpoint; None: no such.
            labels: Names of entries of a batch that are no inputs.
        """
        self._end()  # of a training before this one
        calibration = self._calibration
        if calibration is None:
            calibration = samples(loader, labels)
        while hasattr(optimizer, "optimizer"):  # in Accelerate's wrapper
            optimizer = optimizer.optimizer
        model = _part(model, self._part)
        self.agent = Agent(model, optimizer, calibration=calibration, **self._settings)
        if saved is not None:
            try:
                self.agent.load_state_dict(saved)
            except BaseException:
                self.agent.close()
                raise

    def _end(self) -> None:
        """Say goodbye to the neighbors."""
        if self.agent is not None:
            self.agent.close()


def samples(loader: Any, labels: Collection[str] = ()) -> Iterator[Any]:
    """Batches of a loader's data, drawn without touching the order in which the loader draws.

    Args:
        loader: A loader with a data set, as PyTorch's has.
        labels: Names of entries of a batch that are left out, if it is a mapping.

    Raises:
        DataError: If it has no data set.
    """
    data = getattr(loader, "dataset", None)
    if data is None:
        raise DataError(
            f"no calibration batches: the trainer's loader is a {type(loader).__name__}, which has "
            "no 'dataset'; give 'calibration', such as a data loader of your own"
        )
    mixed = None if isinstance(data, IterableDataset) else True
    batches: Iterable[Any] = DataLoader(
        data,
        batch_size=getattr(loader, "batch_size", None) or 32,
        shuffle=mixed,
        collate_fn=getattr(loader, "collate_fn", None),
        generator=torch.Generator().manual_seed(0),
    )
    for batch in batches:
        if isinstance(batch, Mapping):
            yield {name: value for name, value in batch.items() if name not in labels}
        else:
            yield batch


def refuse_more_processes(processes: int) -> None:
    """Require that the trainer trains in this process alone.

    Args:
        processes: Number of the trainer's processes.

    Raises:
        ConfigError: If there are more, which train one model together.
    """
    if processes > 1:
        raise ConfigError(
            f"the trainer runs on {processes} processes, which train one model together, and each "
            "agent has a model of its own: start each agent's script by itself, without torchrun "
            "and on one device, and give MergeCallback 'id', 'agents' and 'peers'"
        )


def _part(model: nn.Module, name: str | None) -> nn.Module:
    if name is None:
        return model
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = ", ".join(key for key, _ in model.named_children()) or "none"
        raise ConfigError(
            f"'part' is '{name}', and the model has no such submodule; its parts: {known}"
        ) from None
