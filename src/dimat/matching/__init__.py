"""Matching: the permutation of their units that agrees best with ours, found in several ways."""

from __future__ import annotations

from dimat.matching.activations import Activations
from dimat.matching.assignment import add_scores, assign, permute_scores, solve_assignment
from dimat.matching.consistent import Consistent
from dimat.matching.fit import Matching, matching_of
from dimat.matching.identity import IdentityMatcher
from dimat.matching.protocol import Matcher, Problem
from dimat.matching.ties import match_units
from dimat.matching.weights import Weights
from dimat.registry import Registry, an_object

# The matchers, by name: a matcher is a value.
MATCHERS: Registry[Matcher] = Registry(
    "method",
    "dimat.matchers",
    {
        "activations": Activations(),
        "consistent": Consistent(),
        "covariance": Activations("covariance"),
        "cosine": Activations("cosine"),
        "identity": IdentityMatcher(),
        "weights": Weights(),
    },
    an_object("match"),
)

__all__ = [
    "MATCHERS",
    "Activations",
    "Consistent",
    "IdentityMatcher",
    "Matcher",
    "Matching",
    "Problem",
    "Weights",
    "add_scores",
    "assign",
    "match_units",
    "matching_of",
    "permute_scores",
    "solve_assignment",
]
