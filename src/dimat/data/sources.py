"""The sources of images, each with a file of its own and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dimat.data.dataset import Dataset, Part, Tell, quiet
from dimat.data.digits import digits
from dimat.data.folder import folder
from dimat.data.huggingface import huggingface
from dimat.data.npz import npz, npz_images
from dimat.errors import look_up
from dimat.registry import Registry, a_function

__all__ = ["SOURCES", "Dataset", "load_dataset", "load_images"]

SOURCES: Registry[Callable[[str, Tell], Dataset]] = Registry(
    "data.source",
    "dimat.sources",
    {"digits": digits, "npz": npz, "folder": folder, "hf": huggingface},
    a_function,
)


def load_dataset(
    source: str,
    tell: Tell = quiet,
    *,
    classes: Sequence[str] = (),
    needs: Sequence[Part] = ("train", "test"),
) -> Dataset:
    """The data set of a source.

    Args:
        source: ``"digits"``, ``"npz:PATH"``, ``"folder:PATH"`` or ``"hf:NAME"``.
        tell: Listener to the decoding of images, if they are encoded: ``tell(0, total)``, then
            ``tell(new, total)`` whenever ``new`` more are decoded.
        classes: Names of all classes, in the order of their labels, of which some may have no image
            here; empty: the classes of the source, each with a training image.
        needs: The parts that must have images.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images or labels cannot be used, with file, array and rule.
    """
    name, _, path = source.partition(":")
    data = look_up("data.source", name, SOURCES)(path, tell)
    data.check_usable(source, needs, counted=not classes)
    return data.with_classes(classes, source) if classes else data


def load_images(source: str) -> Tensor:
    """The training images of a source, (n, height, width, channels); labels may be missing.

    Args:
        source: As :func:`load_dataset` takes it.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images cannot be used.
    """
    name, _, path = source.partition(":")
    return npz_images(path) if name == "npz" else load_dataset(source).train_x
