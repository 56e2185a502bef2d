"""The permutation symmetry of a model, found from its graph and proved by execution."""

from dimat.symmetry.find import Analysis, analyze, analyze_within, find_symmetry
from dimat.symmetry.given import given_analysis
from dimat.symmetry.permutation import Group, Permutation
from dimat.symmetry.proof.check import check_symmetry
from dimat.symmetry.symmetry import Symmetry

__all__ = [
    "Analysis",
    "Group",
    "Permutation",
    "Symmetry",
    "analyze",
    "analyze_within",
    "check_symmetry",
    "find_symmetry",
    "given_analysis",
]
