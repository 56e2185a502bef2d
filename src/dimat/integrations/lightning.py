"""``MergeCallback``: an agent in the ``Trainer`` of Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dimat.errors import ConfigError
from dimat.integrations.merging import Merging, refuse_more_processes

try:
    from lightning.pytorch import Callback
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"dimat.integrations.lightning needs the package 'lightning': {error}; "
        'pip install "dimat[lightning]"'
    ) from error


class MergeCallback(Merging, Callback):
    """A callback by which a ``Trainer`` merges with its neighbors, as :class:`dimat.Agent` does.

    Each agent is a process with a ``Trainer`` of its own, on one device and its own data. Optimizer
    steps are counted, so gradient accumulation changes nothing. The agent's state is in every
    checkpoint, and ``trainer.fit(..., ckpt_path=...)`` goes on from it; so does a second ``fit``.

    Args:
        calibration: Batches of the agent's own data, as for :class:`dimat.Agent`; None: samples of
            the training data, whose batches are then inputs, or begin with them.
        part: Name of the submodule that merges, such as ``model``; None: the whole module, whose
            ``forward`` must then be the network.
        settings: Other settings of :class:`dimat.Agent`: ``id``, ``agents``, ``peers``,
            ``certificates``, ``every``, ``topology``, …

    Attributes:
        agent: The agent, with its ``history``; None before training.

    Raises:
        ConfigError: If a setting is unknown; when training begins, as :class:`dimat.Agent` does, or
            if the module has several optimizers.
    """

    def __init__(
        self,
        *,
        calibration: Iterable[Any] | None = None,
        part: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(calibration, part, settings)
        self._saved: Mapping[str, Any] = {}
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the agent, as the checkpoint has it if the trainer resumes from one."""
        refuse_more_processes(trainer.world_size)
        if len(trainer.optimizers) != 1:
            raise ConfigError(
                f"the module has {len(trainer.optimizers)} optimizers, and an agent follows one: "
                "put their parameters in one, as groups, or use dimat.Agent in your own loop"
            )
        saved = self.state_dict() or None
        self._begin(pl_module, trainer.optimizers[0], trainer.train_dataloader, saved)
        self._saved = {}
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        """Count the batch's optimizer step, if it made one; exchange if it is due."""
        if self.agent is not None and trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.agent.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say goodbye to the neighbors."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Say goodbye to the neighbors, which are not kept waiting."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """The agent's state, for the trainer's checkpoint."""
        if self._saved or self.agent is None:
            return dict(self._saved)
        return self.agent.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the agent's state of a checkpoint until the agent is made."""
        self._saved = state_dict
