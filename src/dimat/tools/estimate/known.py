"""The methods whose cost can be foreseen: what is counted here is counted by their names."""

from __future__ import annotations

from dimat import methods
from dimat.errors import ConfigError
from dimat.methods import Method

KNOWN: dict[str, type[Method]] = {
    "dimat": methods.Dimat,
    "wa": methods.Averaging,
    "wm": methods.WeightMatching,
    "local": methods.Local,
    "final-merge": methods.FinalMerge,
    "fedavg": methods.FedAvg,
    "diloco": methods.DiLoCo,
    "cdsgd": methods.Consensus,
    "cdmsgd": methods.MomentumConsensus,
    "sgp": methods.StochasticGradientPush,
    "cga": methods.CrossGradients,
    "gradient-tracking": methods.GradientTracking,
    "swarm": methods.Swarm,
    "ldsgd": methods.LocalDecentralized,
    "centralized": methods.Centralized,
}


def check_known(name: str, method: Method) -> None:
    """Refuse a method that is registered by a user, under a name of its own or under one of these.

    Raises:
        ConfigError: Naming it, and how its cost is measured instead.
    """
    if type(method) is not KNOWN.get(name):
        raise ConfigError(
            f"method '{name}' is not one of dimat's own, and what it exchanges cannot be foreseen: "
            f"run it for two rounds (method '{name}', rounds 2) and read sent_bytes, busy_s and "
            "the seconds of every phase in metrics.jsonl, or estimate one that exchanges alike"
        )
