"""Data: their sources, and their partition among the agents."""

from dimat.data.augment import flip_and_crop
from dimat.data.options import SourceOptions
from dimat.data.partition import (
    OWN,
    SPLITS,
    Partition,
    are_skewed,
    hold_out,
    label_skew,
    own_images,
    partition,
    subset,
)
from dimat.data.seeding import generator
from dimat.data.shard import Shard, normalize, sample_batches
from dimat.data.sources import SOURCES, Dataset, load_dataset, load_inputs
from dimat.data.stored import Rows, StoredTensor, content, in_batches, joined, tensor_of

__all__ = [
    "OWN",
    "SOURCES",
    "SPLITS",
    "Dataset",
    "Partition",
    "Rows",
    "Shard",
    "SourceOptions",
    "StoredTensor",
    "are_skewed",
    "content",
    "flip_and_crop",
    "generator",
    "hold_out",
    "in_batches",
    "joined",
    "label_skew",
    "load_dataset",
    "load_inputs",
    "normalize",
    "own_images",
    "partition",
    "sample_batches",
    "subset",
    "tensor_of",
]
