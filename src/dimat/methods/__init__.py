"""The methods, by name: a method is a value, made from settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dimat.methods.protocol import Method, RoundContext, RoundResult, StepContext
from dimat.methods.requirements import check_needs
from dimat.methods.rounds.averaging import Averaging
from dimat.methods.rounds.centralized import Centralized
from dimat.methods.rounds.diloco import DiLoCo
from dimat.methods.rounds.dimat import Dimat
from dimat.methods.rounds.fedavg import FedAvg
from dimat.methods.rounds.final_merge import FinalMerge
from dimat.methods.rounds.local import Local
from dimat.methods.rounds.weight_matching import WeightMatching
from dimat.methods.settings import MAX_NORM_RATIO, Settings
from dimat.methods.steps.cdmsgd import MomentumConsensus
from dimat.methods.steps.cga import CrossGradients
from dimat.methods.steps.consensus import Consensus
from dimat.methods.steps.gradient_tracking import GradientTracking
from dimat.methods.steps.ldsgd import LocalDecentralized
from dimat.methods.steps.sgp import StochasticGradientPush
from dimat.methods.steps.swarm import Swarm

METHODS: dict[str, Callable[[Settings], Method]] = {
    "dimat": Dimat,
    "wa": lambda own: Averaging(own.mix_memory, own.max_norm_ratio),
    "wm": lambda own: WeightMatching(own.mix_memory, own.max_norm_ratio),
    "local": lambda own: Local(),
    "final-merge": lambda own: FinalMerge(Dimat(replace(own, gauge=own.once or own.gauge))),
    "fedavg": lambda own: FedAvg(),
    "diloco": lambda own: DiLoCo(own.outer_lr, own.outer_momentum),
    "cdsgd": lambda own: Consensus(own.order),
    "cdmsgd": lambda own: MomentumConsensus(own.order),
    "sgp": lambda own: StochasticGradientPush(),
    "cga": lambda own: CrossGradients(),
    "gradient-tracking": lambda own: GradientTracking(own.order),
    "swarm": lambda own: Swarm(own.quiet_steps, own.seed),
    "ldsgd": lambda own: LocalDecentralized(own.order, own.quiet_steps, own.mixing_steps),
    "centralized": lambda own: Centralized(),
}

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
    "Method",
    "MomentumConsensus",
    "RoundContext",
    "RoundResult",
    "Settings",
    "StepContext",
    "StochasticGradientPush",
    "Swarm",
    "WeightMatching",
    "check_needs",
]
