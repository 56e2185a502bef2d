"""The inputs of a merge: checkpoints, images and a model, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dimat.checkpoints import Parents
from dimat.checkpoints.files import read_checkpoint
from dimat.data import load_dataset, load_images
from dimat.errors import DataError
from dimat.models import build_for_input, check_output
from dimat.state import State
from dimat.tools.merge.images import Images, Normalization
from dimat.tools.merge.settings import AlignConfig


@dataclass(frozen=True)
class Inputs:
    """The inputs of a merge.

    Args:
        states: The states of the parents, by file.
        model: A model of the parents' architecture.
        train: Training images, for matching and recalibration.
        test: Test images and their labels; None if nothing is tested.
    """

    states: Mapping[str, State]
    model: nn.Module
    train: Images
    test: tuple[Images, Tensor] | None

    def parents(self, config: AlignConfig) -> Parents:
        """The parents with their model and calibration images.

        Args:
            config: Settings of the merge.

        Raises:
            StructureError: If a checkpoint does not fit the model; names the file and the model.
        """
        return Parents.of(
            self.model,
            [self.states[parent] for parent in config.parents],
            self.train.sample(config.images, config.seed),
            forward=None,
            images=config.images,
            names=[f"{parent} (read as '{config.model}')" for parent in config.parents],
        )


def read_inputs(config: AlignConfig) -> Inputs:
    """Read the parents and the images, and build the model.

    Args:
        config: Settings of the merge.

    Raises:
        ConfigError: If ``normalize`` does not fit the images, or the number of classes is unknown.
        DataError, ModelError, StructureError: If a file or the model cannot be used.
    """
    states = {parent: read_checkpoint(Path(parent)) for parent in config.parents}
    pixels, test, classes = _read_data(config)
    _, height, width, channels = pixels.shape
    model = build_for_input(
        config.model,
        (2, channels, height, width),
        classes,
        width=config.width,
        shortcut=config.shortcut,
        norm=config.norm,
    )
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
    return Inputs(states, model.to(config.device), images(pixels), own_test)


def _read_data(config: AlignConfig) -> tuple[Tensor, tuple[Tensor, Tensor] | None, int]:
    """Training images, test images with labels (None if not needed), and number of classes."""
    if not config.labeled and config.classes is not None:
        return load_images(config.data), None, config.classes
    try:
        dataset = load_dataset(config.data)
    except DataError as error:
        if config.labeled:
            raise
        raise DataError(f"{error}; where there are no labels, give --classes") from error
    classes = config.classes or dataset.num_classes
    if dataset.num_classes > classes:
        raise DataError(
            f"{config.data}: the labels go up to {dataset.num_classes - 1}, but there are "
            f"{classes} classes: give another --classes"
        )
    return dataset.train_x, (dataset.test_x, dataset.test_y) if config.labeled else None, classes
