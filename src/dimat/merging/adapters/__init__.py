"""Low-rank adapters (LoRA): their factors in a state, and ways to combine them."""

from dimat.merging.adapters.combine import (
    WAYS,
    Way,
    aligned,
    frozen_a,
    naive,
    product,
    product_error,
    stacked,
)
from dimat.merging.adapters.combiners import AdapterCombiner, AlignedAdapters, ProductAdapters
from dimat.merging.adapters.factors import FactorKeys, Factors, find_factors

__all__ = [
    "WAYS",
    "AdapterCombiner",
    "AlignedAdapters",
    "FactorKeys",
    "Factors",
    "ProductAdapters",
    "Way",
    "aligned",
    "find_factors",
    "frozen_a",
    "naive",
    "product",
    "product_error",
    "stacked",
]
