"""Match: find the permutation of their units that best agrees with ours."""

from dimat.matching.activations import activation_scores, observations
from dimat.matching.assignment import (
    Matching,
    add_scores,
    assign,
    matching,
    permute_scores,
    solve_assignment,
)

__all__ = [
    "Matching",
    "activation_scores",
    "add_scores",
    "assign",
    "matching",
    "observations",
    "permute_scores",
    "solve_assignment",
]
