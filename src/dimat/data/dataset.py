"""A data set, and the rules for the inputs of every source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.data.stored import Rows, StoredTensor, tensor_of
from dimat.errors import DataError
from dimat.tasks import Task
from dimat.tasks.finite import as_floats, check_finite
from dimat.text import brief

_MOST_CHANNELS = 4  # with a longer last axis and a second one this short, channels come second
# A listener to progress: called with (0, total) before the first image is decoded, and then with
# (new, total) for every ``new`` more.
Tell = Callable[[int, int], None]
Part = Literal["train", "test"]


def quiet(new: int, total: int) -> None:
    """The listener that ignores progress."""


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets: images and labels, or what another task has.

    They are in memory, but for data of a caller that are larger
    (:class:`dimat.data.stored.StoredTensor`).

    Args:
        name: Name of the source.
        train_x: Images (n, height, width, channels), uint8 or float32 in [0, 1]; or other arrays,
            samples first, float32 or int64 (ids of tokens), which models get as they are.
        train_y: Targets: (n,) int64 labels, 0 <= label < num_classes, or those of another task
            (:mod:`dimat.tasks`).
        test_x: Test inputs, of the same shape and dtype.
        test_y: Their targets.
        classes: Names of the classes, by label; empty where labels are only numbers. Of other tasks
            the names of the outputs (labels, classes of pixels, tokens), or empty.
        refused: Message for what cannot be used as it is, and need not be: ``train`` or ``test``
            where the source has no such images, ``labels`` where they leave out a class.
        images: Whether inputs are images; other arrays are neither normalized nor augmented.
        vocabulary: Number of tokens, where inputs are ids of those and the source knows it; 0: one
            more than the highest id that occurs.
        padding: The id that only fills a text up, and is no token of it; None: there is none.
        columns: What the inputs of a table are, ``age`` or ``color=blue|red``; empty of others.
        divided: Whether the source says what its training and its test samples are.
    """

    name: str
    train_x: Rows
    train_y: Rows
    test_x: Rows
    test_y: Rows
    classes: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    images: bool = True
    vocabulary: int = 0
    padding: int | None = None
    columns: tuple[str, ...] = ()
    divided: bool = True

    __repr__ = brief

    @classmethod
    def of_parts(
        cls,
        name: str,
        parts: Mapping[str, tuple[Tensor, Tensor]],
        classes: Sequence[str] = (),
        refused: Mapping[str, str] = MappingProxyType({}),
        *,
        images: bool = True,
    ) -> Dataset:
        """The data set of inputs and targets by part, of which one may be missing.

        Args:
            name: Name of the source.
            parts: Inputs and targets of ``train``, of ``test``, or of both.
            classes: As in the data set.
            refused: As in the data set.
            images: As in the data set.
        """
        x, y = next(iter(parts.values()))
        none = x[:0], y[:0]
        train, test = parts.get("train", none), parts.get("test", none)
        return cls(name, *train, *test, tuple(classes), refused, images)

    @property
    def num_classes(self) -> int:
        """Number of classes: of those that have names, or else in the training labels."""
        return len(self.classes) or int(tensor_of(self.train_y).max()) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label; numbers where they have none."""
        return self.classes or tuple(map(str, range(self.num_classes)))

    @property
    def in_channels(self) -> int:
        """Number of channels of an image."""
        return int(self.train_x.shape[3])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return int(self.train_x.shape[1]), int(self.train_x.shape[2])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as a model gets it: (channels, height, width) of an image."""
        if self.images:
            return self.in_channels, *self.image_size
        return tuple(self.train_x.shape[1:])

    @property
    def num_tokens(self) -> int:
        """Number of tokens that inputs are ids of; 0 if they are no ids."""
        if self.images or self.train_x.is_floating_point():
            return 0
        both = (self.train_x, self.test_x)
        return self.vocabulary or max(_highest(own) + 1 for own in both if len(own))

    def example(self, samples: int) -> Tensor:
        """Inputs of zeros, in the shape and the type that a model gets.

        Args:
            samples: Number of the inputs.
        """
        whole = not self.images and not self.train_x.is_floating_point()
        return torch.zeros(samples, *self.input_shape, dtype=torch.int64 if whole else None)

    def num_outputs(self, task: Task) -> int:
        """Width of a model's output: by the names of the outputs, or else the training targets.

        Args:
            task: The task.
        """
        return len(self.classes) or _num_outputs(task, self.train_y)

    def for_task(self, task: Task, where: str) -> Dataset:
        """The data set with its targets as a task takes them.

        Args:
            task: The task.
            where: The source, for the message.

        Raises:
            DataError: If targets are none of the task, or not one for each input.
        """
        found = {}
        for part in ("train", "test"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if len(x) or len(y):
                y = _targets(task, y, f"{where}: {part}_y")
            if len(x) != len(y):
                what = ("images", "labels") if self.images else ("inputs", "targets")
                raise DataError(
                    f"{where}: {part}_x has {len(x)} {what[0]}, {part}_y {len(y)} {what[1]}"
                )
            found[f"{part}_y"] = y
        data = replace(self, **found)
        if not task.has_classes and len(data.train_y) and len(data.test_y):
            data.check_alike(task, data, where)
        return data

    def check_alike(self, task: Task, other: Dataset, where: str) -> None:
        """Refuse test targets of another shape than training targets, or beyond them.

        Args:
            task: The task, of targets without classes.
            other: The data set that has the test targets.
            where: Its source, for the message.

        Raises:
            DataError: With both shapes, or both numbers of outputs.
        """
        shapes = [tuple(own.shape[1:]) for own in (self.train_y, other.test_y)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{where}: a training target has shape {shapes[0]}, and a test target {shapes[1]}: "
                "they must be alike"
            )
        known, needed = self.num_outputs(task), _num_outputs(task, other.test_y)
        if needed > known:
            raise DataError(
                f"{where}: test targets go up to {needed - 1}, and training targets only to "
                f"{known - 1}: have every class or token in the training data"
            )

    def only(self, index: NDArray[np.int64]) -> Dataset:
        """The data set with some of its training images only.

        Args:
            index: Indices of the training images to keep.
        """
        kept = torch.from_numpy(index)
        return replace(self, train_x=self.train_x[kept], train_y=self.train_y[kept])

    def with_test(self, held: NDArray[np.bool_]) -> Dataset:
        """The data set with some of its training samples as its test samples.

        Args:
            held: Mask of the training samples.
        """
        test = torch.from_numpy(held)
        return replace(
            self,
            train_x=self.train_x[~test],
            train_y=self.train_y[~test],
            test_x=self.train_x[test],
            test_y=self.train_y[test],
            divided=True,
        )

    def check_usable(self, source: str, needs: Sequence[Part], *, counted: bool) -> None:
        """Refuse a data set that lacks images, or whose labels leave out a class.

        Args:
            source: The source, for the message.
            needs: The parts that must have images.
            counted: Whether every class must have a training image.

        Raises:
            DataError: With what the source says of it.
        """
        for part, labels in (("train", self.train_y), ("test", self.test_y)):
            if part in needs and not len(labels):
                raise DataError(self.refused.get(part, f"{source}: has no {part} images"))
        if counted and self.refused.get("labels"):
            raise DataError(self.refused["labels"])

    def with_classes(self, classes: Sequence[str], source: str) -> Dataset:
        """The data set with labels that count given classes, some of which may have no image.

        Args:
            classes: Names of all classes. Label i becomes the place of its own name among them, or
                stays i where the data set has no names.
            source: The source, for the message.

        Raises:
            DataError: If there is an image of another class.
        """
        place = {name: i for i, name in enumerate(classes)}
        names = self.classes or tuple(classes)
        for part, labels in (("train", self.train_y), ("test", self.test_y)):
            for label in torch.unique(tensor_of(labels)).tolist():
                if label >= len(names) or names[label] not in place:
                    own = f"class '{names[label]}'" if self.classes else f"label {label}"
                    known = [*classes[:5], "…"] if len(classes) > 5 else classes
                    raise DataError(
                        f"{source}: {part} has {own}, which is none of the {len(classes)} classes "
                        f"({', '.join(known)}); name it as one of them, or name all classes in "
                        "data.classes, alike at all agents"
                    )
        labels = torch.tensor([place.get(name, -1) for name in names])
        return replace(
            self,
            train_y=labels[tensor_of(self.train_y)],
            test_y=labels[tensor_of(self.test_y)],
            classes=tuple(classes),
            refused={},
        )


def _highest(own: Rows) -> int:
    """The highest entry of all samples."""
    return own.most(_maximum) if isinstance(own, StoredTensor) else _maximum(own)


def _maximum(own: Tensor) -> int:
    return int(own.max())


def _targets(task: Task, own: Rows, where: str) -> Rows:
    """The targets of a task; of samples that are read by index, checked whenever they are read."""
    if isinstance(own, StoredTensor):
        return own.then(lambda read: task.targets(read.numpy(), where))
    return task.targets(own.numpy(), where)


def _num_outputs(task: Task, own: Rows) -> int:
    """The width of outputs, for which all targets are looked at."""
    if isinstance(own, StoredTensor):
        return own.most(task.num_outputs)
    return task.num_outputs(own)


def looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a shape of images looks as if their channels came before height and width."""
    return len(shape) == 4 and shape[3] > _MOST_CHANNELS >= shape[1]


def as_images(array: NDArray[np.generic], where: str) -> Tensor:
    """The images of an array, as a tensor (n, height, width, channels).

    Args:
        array: (n, height, width, channels), or (n, height, width) for one channel.
        where: Name of the array, for messages.

    Raises:
        DataError: If they are neither uint8 nor floats in [0, 1].
    """
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{where} has shape {array.shape}: images are (n, height, width, channels)")
    if looks_channels_first(array.shape):
        raise DataError(
            f"{where} has shape {array.shape}: images are (n, height, width, channels), and these "
            "look as if channels came first; np.transpose(x, (0, 2, 3, 1)) puts them last"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        way = "; divide by the highest value that there can be, or store uint8"
        raise DataError(
            f"{where} is {array.dtype}: images are uint8, or float in [0, 1]"
            f"{way if np.issubdtype(array.dtype, np.integer) else ''}"
        )
    check_finite(array, array, where)
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0 or highest > 1:
        raise DataError(
            f"{where} ranges over [{lowest:.3g}, {highest:.3g}]: float "
            "images must lie in [0, 1]; divide by the largest value, or store uint8"
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def as_arrays(array: NDArray[np.generic], where: str) -> Tensor:
    """Inputs that are no images, as a tensor of the same shape, float32 or int64.

    Args:
        array: Samples first; floats, or whole numbers >= 0, which are ids of tokens.
        where: Name of the array, for messages.

    Raises:
        DataError: If they are no numbers, not finite, negative ids, or there is none.
    """
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(
            f"{where} has shape {array.shape}: inputs have samples first, and something of each "
            "(a table is (rows, columns))"
        )
    if np.issubdtype(array.dtype, np.integer):
        if int(array.min()) < 0 or int(array.max()) >= 2**31:
            raise DataError(
                f"{where} is {array.dtype} with {int(array.min())} to {int(array.max())}: whole "
                "numbers are ids of tokens, from 0 on; store measurements as floats"
            )
        return torch.from_numpy(array.astype(np.int64))
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{where} is {array.dtype}: inputs are floats, or whole numbers (ids)")
    return torch.from_numpy(as_floats(array, where))


def why_not(check: Callable[[], None]) -> str:
    """The message with which a check refuses data; empty if it does not."""
    try:
        check()
    except DataError as error:
        return str(error)
    return ""
