"""The methods, by name: a method is a value, made from settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dimat.methods.averaging import Averaging
from dimat.methods.cdmsgd import MomentumConsensus
from dimat.methods.centralized import Centralized
from dimat.methods.cga import CrossGradients
from dimat.methods.consensus import Consensus
from dimat.methods.diloco import DiLoCo
from dimat.methods.dimat import Dimat
from dimat.methods.fedavg import FedAvg
from dimat.methods.final_merge import FinalMerge
from dimat.methods.gradient_tracking import GradientTracking
from dimat.methods.ldsgd import LocalDecentralized
from dimat.methods.local import Local
from dimat.methods.needs import check_needs
from dimat.methods.protocol import Learner, Member, Merged, Method
from dimat.methods.settings import MAX_NORM_RATIO, Settings
from dimat.methods.sgp import StochasticGradientPush
from dimat.methods.swarm import Swarm
from dimat.methods.weight_matching import WeightMatching

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
    "Learner",
    "Local",
    "LocalDecentralized",
    "Member",
    "Merged",
    "Method",
    "MomentumConsensus",
    "Settings",
    "StochasticGradientPush",
    "Swarm",
    "WeightMatching",
    "check_needs",
]
