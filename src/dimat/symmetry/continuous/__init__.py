"""Continuous symmetries: where nothing nonlinear stands between two weights, matrices act."""

from dimat.symmetry.continuous.find import continuous_symmetry, find_continuous_symmetry
from dimat.symmetry.continuous.group import ContinuousGroup, ContinuousSymmetry, Transformation

__all__ = [
    "ContinuousGroup",
    "ContinuousSymmetry",
    "Transformation",
    "continuous_symmetry",
    "find_continuous_symmetry",
]
