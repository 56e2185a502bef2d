"""What may be permuted in a model, found from its graph and proved by execution."""

from dimat.symmetry.check import check_symmetry
from dimat.symmetry.find import Analysis, analyze, find_symmetry
from dimat.symmetry.given import given_analysis
from dimat.symmetry.symmetry import Group, Permutation, Symmetry

__all__ = [
    "Analysis",
    "Group",
    "Permutation",
    "Symmetry",
    "analyze",
    "check_symmetry",
    "find_symmetry",
    "given_analysis",
]
