"""Where images come from: a file and an entry here for each source."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dimat.data.dataset import Dataset, Tell, quiet
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


def load_dataset(source: str, tell: Tell = quiet) -> Dataset:
    """Load ``"digits"``, ``"npz:PATH"``, ``"folder:PATH"`` or ``"hf:NAME"``.

    Args:
        source: What to load.
        tell: Told how many images are decoded, if they are: ``tell(0, total)``, then
            ``tell(new, total)`` whenever ``new`` more are.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images or labels cannot be used; names file, array and rule.
    """
    name, _, path = source.partition(":")
    return look_up("data.source", name, SOURCES)(path, tell)


def load_images(source: str) -> Tensor:
    """The training images of a source alone, (n, height, width, channels); labels may be missing.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images cannot be used.
    """
    name, _, path = source.partition(":")
    return npz_images(path) if name == "npz" else load_dataset(source).train_x
