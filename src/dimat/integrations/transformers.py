"""``MergeCallback``: an agent in the ``Trainer`` of Hugging Face's transformers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load, save

from dimat.errors import ConfigError
from dimat.integrations.merging import Merging, refuse_more_processes
from dimat.state import tensors_of

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"dimat.integrations.transformers needs the package 'transformers': {error}; "
        'pip install "dimat[transformers]"'
    ) from error

_NAME = "MergeCallback"


class MergeCallback(Merging, TrainerCallback, ExportableState):
    """A callback by which a ``Trainer`` merges with its neighbors, as :class:`dimat.Agent` does.

    Each agent is a process with a ``Trainer`` of its own, on its own data. Optimizer steps are
    counted, so gradient accumulation changes nothing. The agent's state is in every checkpoint
    (``trainer_state.json``), and ``trainer.train(resume_from_checkpoint=...)`` goes on from it.

    Args:
        calibration: Batches of the agent's own data, as for :class:`dimat.Agent`; None: samples of
            the training data, without their labels.
        part: Name of the submodule that merges, such as ``bert``; None: the whole model. What is
            outside of it stays this agent's own.
        settings: Other settings of :class:`dimat.Agent`: ``id``, ``agents``, ``peers``,
            ``certificates``, ``every``, ``topology``, …

    Attributes:
        agent: The agent, with its ``history``; None before training.

    Raises:
        ConfigError: If a setting is unknown; when training begins, as :class:`dimat.Agent` does.
    """

    def __init__(
        self,
        *,
        calibration: Iterable[Any] | None = None,
        part: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(calibration, part, settings)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the agent, as the checkpoint has it if the trainer resumes from one."""
        refuse_more_processes(args.world_size)
        if args.restore_callback_states_from_checkpoint:
            raise ConfigError(
                "'restore_callback_states_from_checkpoint' makes callbacks anew from what a "
                "checkpoint says, and where an agent's neighbors are is not in it: leave it False; "
                "the agent's own state is restored all the same"
            )
        # A trainer that resumes from a checkpoint without this callback expects its entry.
        kept = state.stateful_callbacks.setdefault(_NAME, self.state())
        if isinstance(kept, list):
            raise ConfigError("a trainer has one agent: give it one MergeCallback")
        saved = kept["attributes"]["saved"]
        self._begin(
            given["model"],
            given["optimizer"],
            given["train_dataloader"],
            None if saved is None else _read(saved),
            args.label_names or ["labels", "label", "label_ids"],
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Count an optimizer step; exchange if it is due."""
        if self.agent is not None:
            self.agent.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Say goodbye to the neighbors."""
        self._end()

    def state(self) -> dict[str, Any]:
        """The agent's state as the trainer keeps it: JSON."""
        saved = None if self.agent is None else _written(self.agent.state_dict())
        return {"args": {}, "attributes": {"saved": saved}}


def _written(state: Mapping[str, Any]) -> dict[str, Any]:
    """An agent's state as JSON; what its method keeps as safetensors in base64."""
    kept = {
        name: base64.b64encode(save({k: x.contiguous() for k, x in tensors_of(own).items()}))
        for name, own in state["kept"].items()
    }
    return {**state, "kept": {name: text.decode("ascii") for name, text in kept.items()}}


def _read(state: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's state that :func:`_written` was given."""
    kept = {name: load(base64.b64decode(text)) for name, text in state["kept"].items()}
    return {**state, "kept": kept}
