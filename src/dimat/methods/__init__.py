"""The methods, by name: a method is a value, its class has its parameters as fields."""

from __future__ import annotations

from dataclasses import MISSING, fields

from dimat.errors import ConfigError, quoted
from dimat.methods.admit import MAX_NORM_RATIO
from dimat.methods.combining import check_combiner
from dimat.methods.protocol import (
    Method,
    RoundContext,
    RoundReport,
    RoundResult,
    StepContext,
    setting,
)
from dimat.methods.requirements import check_needs
from dimat.methods.rounds.averaging import Averaging
from dimat.methods.rounds.centralized import Centralized
from dimat.methods.rounds.diloco import DiLoCo
from dimat.methods.rounds.dimat import Dimat
from dimat.methods.rounds.fedavg import FedAvg
from dimat.methods.rounds.final_merge import FinalMerge
from dimat.methods.rounds.local import Local
from dimat.methods.rounds.noloco import NoLoCo
from dimat.methods.rounds.weight_matching import WeightMatching
from dimat.methods.steps.cdmsgd import MomentumConsensus
from dimat.methods.steps.cga import CrossGradients
from dimat.methods.steps.consensus import Consensus
from dimat.methods.steps.gradient_tracking import GradientTracking
from dimat.methods.steps.k_gt import LocalGradientTracking
from dimat.methods.steps.ldsgd import LocalDecentralized
from dimat.methods.steps.qg_momentum import QuasiGlobalMomentum
from dimat.methods.steps.sgp import StochasticGradientPush
from dimat.methods.steps.swarm import Swarm
from dimat.registry import Registry


def _checked(name: str, kind: object) -> type[Method]:
    """A class of methods, if one can be made without arguments.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(kind, type) or not issubclass(kind, Method):
        raise ConfigError(
            f"method '{name}' is {quoted(kind)}: must be a class, with dimat.methods.Method as base"
        )
    for own in fields(kind):
        if own.init and own.default is MISSING and own.default_factory is MISSING:
            raise ConfigError(
                f"method '{name}': parameter '{own.name}' has no default, which every one must have"
            )
    _check_exchanges(name, kind)
    return kind


def _check_exchanges(name: str, kind: type[Method]) -> None:
    """Refuse a method whose ``merge`` or ``step`` would never be called, or is not there."""
    when = kind.exchanges
    own = {"merge": kind.merge is not Method.merge, "step": kind.step is not Method.step}
    if when not in ("never", "rounds", "steps"):
        rule = f"exchanges is {quoted(when)}: must be 'never', 'rounds' or 'steps'"
    elif when == "rounds" and not own["merge"]:
        rule = "it exchanges in rounds, and has no merge of its own"
    elif when == "steps" and not own["step"]:
        rule = "it exchanges in steps, and has no step of its own"
    elif when == "never" and own["merge"]:
        rule = 'it has a merge, which is never called: say exchanges = "rounds"'
    else:
        return
    raise ConfigError(f"method '{name}': {rule}")


METHODS: Registry[type[Method]] = Registry(
    "method",
    "dimat.methods",
    {
        "dimat": Dimat,
        "wa": Averaging,
        "wm": WeightMatching,
        "local": Local,
        "final-merge": FinalMerge,
        "fedavg": FedAvg,
        "diloco": DiLoCo,
        "noloco": NoLoCo,
        "cdsgd": Consensus,
        "cdmsgd": MomentumConsensus,
        "qg-momentum": QuasiGlobalMomentum,
        "sgp": StochasticGradientPush,
        "cga": CrossGradients,
        "gradient-tracking": GradientTracking,
        "k-gt": LocalGradientTracking,
        "swarm": Swarm,
        "ldsgd": LocalDecentralized,
        "centralized": Centralized,
    },
    _checked,
)

__all__ = [
    "MAX_NORM_RATIO",
    "METHODS",
    "Averaging",
    "Centralized",
    "Consensus",
    "CrossGradients",
    "DiLoCo",
    "Dimat",
    "FedAvg",
    "FinalMerge",
    "GradientTracking",
    "Local",
    "LocalDecentralized",
    "LocalGradientTracking",
    "Method",
    "MomentumConsensus",
    "NoLoCo",
    "QuasiGlobalMomentum",
    "RoundContext",
    "RoundReport",
    "RoundResult",
    "StepContext",
    "StochasticGradientPush",
    "Swarm",
    "WeightMatching",
    "check_combiner",
    "check_needs",
    "setting",
]
