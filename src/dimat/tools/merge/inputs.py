"""The inputs of a merge: checkpoints, images, statistics and a model, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dimat.checkpoints import Parents, Statistics, read_statistics
from dimat.checkpoints.formats.files import read_checkpoint
from dimat.checkpoints.unwrapped import fitted
from dimat.data import load_dataset, load_images, tensor_of
from dimat.errors import DataError
from dimat.merging import COMBINERS
from dimat.models import build_for_input, check_output
from dimat.state import State
from dimat.tools.merge.images import Images, Normalization
from dimat.tools.merge.settings import AlignConfig, MergeConfig, ParentsConfig


@dataclass(frozen=True)
class Inputs:
    """The inputs of a merge.

    Args:
        states: The states of the parents, by file.
        model: A model of the parents' architecture.
        train: Training images, for matching and recalibration; None if there are no data.
        test: Test images and their labels; None if nothing is tested.
        statistics: Statistics of all parents by a name for messages; empty if none are given.
        notes: What the reading of the checkpoints had to decide, a sentence each.
    """

    states: Mapping[str, State]
    model: nn.Module
    train: Images | None
    test: tuple[Images, Tensor] | None
    statistics: Mapping[str, Statistics]
    notes: tuple[str, ...]

    def parents(self, config: ParentsConfig) -> Parents:
        """The parents with their model and calibration images.

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
    """Read the parents, the images and the statistics, and build the model.

    Args:
        config: Settings of the merge.

    Raises:
        ConfigError: If ``normalize`` does not fit the images, or the number of classes is unknown.
        DataError, ModelError, StructureError: If a file or the model cannot be used.
    """
    notes: list[str] = []
    states = {parent: _read_parent(parent, config.key, notes) for parent in config.parents}
    statistics: Mapping[str, Statistics] = {}
    if isinstance(config, MergeConfig) and config.statistics:
        combiner = COMBINERS[config.combine]
        statistics = read_statistics(config.statistics, combiner, len(config.parents))
    if config.data is None:
        assert config.classes is not None
        size = _image_size(statistics)
        model = _built(config, size, config.classes)
        return Inputs(states, model, None, None, statistics, tuple(notes))
    pixels, test, classes = _read_data(config, config.data)
    _, height, width, channels = pixels.shape
    model = _built(config, (channels, height, width), classes)
    if test is not None:
        check_output(
            config.model,
            model,
            in_channels=channels,
            num_classes=classes,
            image_size=(height, width),
        )
    normalize = Normalization.parse(config.normalize, channels)

    def images(own: Tensor) -> Images:
        return Images(own, normalize, config.batch_size, config.device)

    own_test = None if test is None else (images(test[0]), test[1])
    return Inputs(states, model, images(pixels), own_test, statistics, tuple(notes))


def _read_parent(parent: str, key: str | None, notes: list[str]) -> State:
    """The state in a checkpoint; notes are added."""
    return read_checkpoint(Path(parent), key, lambda text: notes.append(f"{parent}: {text}"))


def _built(config: ParentsConfig, size: tuple[int, int, int], classes: int) -> nn.Module:
    """The model for images of (channels, height, width)."""
    return build_for_input(
        config.model,
        (2, *size),
        classes,
        width=config.width,
        shortcut=config.shortcut,
        norm=config.norm,
    ).to(config.device)


def _shapes(statistics: Mapping[str, Statistics]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the inputs that statistics were measured on; empty if there are none."""
    return next((own.inputs for own in statistics.values()), ())


def _image_size(statistics: Mapping[str, Statistics]) -> tuple[int, int, int]:
    """(channels, height, width) of the images that statistics were measured on."""
    shapes = _shapes(statistics)
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise DataError(
            f"{next(iter(statistics))} were measured on inputs of shapes {list(shapes)}, which are "
            "no images: merge from Python, by dimat.merge"
        )
    _, channels, height, width = shapes[0]
    return channels, height, width


def _read_data(
    config: ParentsConfig, source: str
) -> tuple[Tensor, tuple[Tensor, Tensor] | None, int]:
    """Training images, test images with labels (None if not needed), and number of classes."""
    if not config.labeled and config.classes is not None:
        return load_images(source), None, config.classes
    try:
        dataset = load_dataset(source)
    except DataError as error:
        if config.labeled:
            raise
        raise DataError(f"{error}; where there are no labels, give --classes") from error
    classes = config.classes or dataset.num_classes
    if dataset.num_classes > classes:
        raise DataError(
            f"{source}: the labels go up to {dataset.num_classes - 1}, but there are "
            f"{classes} classes: give another --classes"
        )
    train_x, *test = map(tensor_of, (dataset.train_x, dataset.test_x, dataset.test_y))
    return train_x, (test[0], test[1]) if config.labeled else None, classes
