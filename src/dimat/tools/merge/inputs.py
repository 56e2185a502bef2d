"""The inputs of a merge: checkpoints, samples, statistics and a model, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dimat.checkpoints import Parents, Statistics, read_statistics
from dimat.checkpoints.formats.files import read_checkpoint
from dimat.checkpoints.unwrapped import fitted
from dimat.data import Dataset, Rows, SourceOptions, load_dataset, load_inputs, tensor_of
from dimat.errors import DataError
from dimat.experiment.config.rules import broken_rule
from dimat.merging import combiner_for
from dimat.models import build_for_input, check_outputs
from dimat.state import State
from dimat.tasks import TASKS, Regression, Task, scaled
from dimat.tools.merge.samples import Normalization, Samples, as_they_are
from dimat.tools.merge.settings import AlignConfig, MergeConfig, ParentsConfig

_FAR = 10.0  # times the size of 1: far from standard units


@dataclass(frozen=True)
class Inputs:
    """The inputs of a merge.

    Args:
        states: The states of the parents, by file.
        model: A model of the parents' architecture.
        train: Training samples, for matching and recalibration; None if there are no data.
        test: Test samples and their targets; None if nothing is tested.
        statistics: Statistics of all parents by a name for messages; empty if none are given.
        notes: What the reading of the checkpoints had to decide, a sentence each.
    """

    states: Mapping[str, State]
    model: nn.Module
    train: Samples | None
    test: tuple[Samples, Tensor] | None
    statistics: Mapping[str, Statistics]
    notes: tuple[str, ...]

    def parents(self, config: ParentsConfig) -> Parents:
        """The parents with their model and calibration samples.

        Args:
            config: Settings of the merge.

        Raises:
            StructureError: If a checkpoint does not fit the model; names the file and the model.
        """
        return Parents.of(
            self.model,
            [self.states[parent] for parent in config.parents],
            [] if self.train is None else self.train.sample(config.images, config.seed),
            forward=None,
            images=config.images,
            names=[f"{parent} (read as '{config.model}')" for parent in config.parents],
            shapes=_shapes(self.statistics),
            heads=isinstance(config, MergeConfig) and config.heads == "keep",
            at=config.at if isinstance(config, AlignConfig) else None,
            widths=config.widths if isinstance(config, MergeConfig) else "same",
        )

    def in_layout(self, state: State, layout: str | None) -> State:
        """A state as it is written: in a folder under the names that the one like it has.

        Entries of that folder that are none of the model's stay as they are there.

        Args:
            state: Under the model's names.
            layout: The parent that is a folder like it; None: a file is written.
        """
        if layout is None:
            return state
        like = self.states[layout]
        names = fitted(self.model, {name: name for name in like}, layout)
        moved = {name: state[own] for own, name in names.items() if own in state}
        return {**like, **moved}


def read_inputs(config: ParentsConfig) -> Inputs:
    """Read the parents, the samples and the statistics, and build the model.

    Args:
        config: Settings of the merge.

    Raises:
        ConfigError: If ``normalize`` does not fit the inputs, or the number of classes is unknown.
        DataError, ModelError, StructureError: If a file or the model cannot be used.
    """
    notes: list[str] = []
    states = {parent: _read_parent(parent, config.key, notes) for parent in config.parents}
    statistics: Mapping[str, Statistics] = {}
    if isinstance(config, MergeConfig) and config.statistics:
        combiner = combiner_for(config.combine, task_of(config))
        statistics = read_statistics(config.statistics, combiner, len(config.parents))
    if config.data is None:
        assert config.classes is not None
        model = _built(config, _input_shape(statistics), config.classes)
        return Inputs(states, model, None, None, statistics, tuple(notes))
    data, prepare = _read_data(config, config.data)
    notes += _scale_notes(config, data)
    model = _model_for(config, data)

    def samples(own: Rows) -> Samples:
        return Samples(tensor_of(own), prepare, config.batch_size, config.device)

    test = (samples(data.test_x), tensor_of(data.test_y)) if config.labeled else None
    return Inputs(states, model, samples(data.train_x), test, statistics, tuple(notes))


def _read_parent(parent: str, key: str | None, notes: list[str]) -> State:
    """The state in a checkpoint; notes are added."""
    return read_checkpoint(Path(parent), key, lambda text: notes.append(f"{parent}: {text}"))


def _model_for(config: ParentsConfig, data: Dataset) -> nn.Module:
    """The model for a data set; its outputs are checked where there are targets to compare with."""
    task = task_of(config)
    outputs = config.classes or data.num_outputs(task)
    expected = task.output_shape(tensor_of(data.train_y[:1]).repeat_interleave(2, 0), outputs)
    own = {"num_tokens": data.num_tokens, "padding": data.padding}
    model = _built(config, data.input_shape, outputs, places=len(expected) > 2, **own)
    if config.labeled:
        rule = "its output width must be the number of classes"
        if not task.has_classes:
            rule = f"as task '{config.task}' has them"
        example = data.example(2).to(config.device)
        check_outputs(config.model, model, example, expected, rule)
    return model


def _built(
    config: ParentsConfig, shape: tuple[int, ...], outputs: int, **of_texts: Any
) -> nn.Module:
    """The model for inputs of a shape, that of one sample as the model gets it."""
    return build_for_input(
        config.model,
        (2, *shape),
        outputs,
        width=config.width,
        shortcut=config.shortcut,
        norm=config.norm,
        **of_texts,
    ).to(config.device)


def _shapes(statistics: Mapping[str, Statistics]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the inputs that statistics were measured on; empty if there are none."""
    return next((own.inputs for own in statistics.values()), ())


def _input_shape(statistics: Mapping[str, Statistics]) -> tuple[int, ...]:
    """Shape of a sample of those that statistics were measured on."""
    shapes = _shapes(statistics)
    if len(shapes) != 1 or len(shapes[0]) < 2:
        raise DataError(
            f"{next(iter(statistics))} were measured on inputs of shapes {list(shapes)}, which are "
            "no batch of images or other numbers: merge from Python, by dimat.merge"
        )
    return shapes[0][1:]


def _read_data(config: ParentsConfig, source: str) -> tuple[Dataset, Callable[[Tensor], Tensor]]:
    """The data set, whose targets mean nothing where none are needed, and what models get of it."""
    task, options = task_of(config), _options(config)
    if not config.labeled and config.classes is not None:
        data = load_inputs(source, options)
    else:
        try:
            data = load_dataset(source, task=task, options=options)
        except DataError as error:
            if config.labeled:
                raise
            raise DataError(f"{error}; where there are no labels, give --classes") from error
        _check_width(config, data)
    if not data.images and config.normalize is not None:
        rule = "left out where inputs are no images, which networks get as they are"
        raise broken_rule("normalize", config.normalize, rule)
    if not data.images:
        return data, as_they_are
    return data, Normalization.parse(config.normalize, data.in_channels)


def _check_width(config: ParentsConfig, data: Dataset) -> None:
    """Refuse fewer outputs than the targets need."""
    task, given = task_of(config), config.classes
    needed = data.num_outputs(task)
    if given is None or needed <= given:
        return
    what = f"the targets need {needed} outputs, but 'classes' is {given}"
    if task.has_classes:
        what = f"the labels go up to {needed - 1}, but there are {given} classes"
    raise DataError(f"{config.data}: {what}: give another --classes")


def _scale_notes(config: ParentsConfig, data: Dataset) -> list[str]:
    """A note on targets that networks hardly give as they are, where no scale is set."""
    task = task_of(config)
    if not config.labeled or not isinstance(task, Regression) or task != Regression():
        return []
    y = tensor_of(data.train_y).double()
    mean, sd = float(y.mean()), float(y.std(correction=0))
    if max(abs(mean), sd) <= _FAR:
        return []
    return [
        f"targets have mean {mean:.3g} and standard deviation {sd:.3g}: if the checkpoints were "
        "trained with data.target_mean and data.target_scale, give the same by --target-mean and "
        "--target-scale"
    ]


def task_of(config: ParentsConfig) -> Task:
    """The task of the checkpoints, with what settings say of the targets' scale."""
    return scaled(TASKS[config.task], config.target_mean, config.target_scale)


def _options(config: ParentsConfig) -> SourceOptions:
    """What sources may ask for."""
    return SourceOptions(
        kind=config.kind,
        task=task_of(config),
        target=config.target,
        leave_out=config.leave_out,
        categories=config.categories,
        fill=config.fill,
        text=config.text or "",
        tokenizer=config.tokenizer or "",
        max_length=config.max_length,
        test_share=config.test_share,
    )
