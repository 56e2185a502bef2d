"""What dimat uses of PyTorch that its documentation does not promise, all in this module.

Names with an underscore may change in any release, and so may the operators that ``torch.export``
gives out, which ``symmetry/rules`` reads. That is the one reason for the cap on torch's version in
``pyproject.toml``: a new release is let in once the whole suite was run on it. What is said of the
names below was verified on torch 2.13.0, by ``tests/test_compat.py`` among others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

# The kinds of target that a node of an exported graph may have: an operator with a schema, and one
# that takes graphs as arguments (cond, scan). Neither class has a public name.
from torch._ops import HigherOrderOperator, OpOverload

# The common bases of the BatchNorm layers (1d, 2d, 3d, synchronized and lazy) and of the dropout
# layers: the public classes have no public ancestor that says what they have in common.
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.optim.lr_scheduler import LRScheduler

# A context that sees every operator that runs in it, as the documentation of extending PyTorch uses
# it; and a mapping from tensors by identity that does not keep them alive.
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode

# Nested containers as a flat list of leaves. It must be the flattening of torch.export itself:
# the inputs of a graph are in its order, and it knows containers that others registered with it.
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary as TensorKeys

__all__ = [
    "BatchNorm",
    "DispatchMode",
    "Dropout",
    "HigherOrderOperator",
    "OpOverload",
    "TensorKeys",
    "arguments_of",
    "compiled_from",
    "has_schema",
    "lacks_bfloat16",
    "note_steps",
    "share_entries",
    "size_hint",
    "storage_of",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "writes_of",
    "writes_operands",
]


def has_schema(node: fx.Node) -> bool:
    """Whether the target of a node is an operator, which declares its arguments."""
    return hasattr(node.target, "_schema")


def arguments_of(target: Any) -> list[Any]:
    """The declared arguments of an operator, in order; none of a target that is no operator.

    Each has ``name``, ``default_value``, ``has_default_value()`` and ``alias_info``. Only the
    schema names the arguments that a node gives by position.

    Args:
        target: The target of a node.
    """
    schema = getattr(target, "_schema", None)
    return [] if schema is None else list(schema.arguments)


def writes_operands(operator: OpOverload) -> bool:
    """Whether an operator writes to some operand, by its schema: ``add_`` does, ``add`` does not.

    Args:
        operator: The target of a node.
    """
    return bool(operator._schema.is_mutable)


def size_hint(size: int | torch.SymInt) -> int:
    """The size in the example inputs of an axis whose size the graph leaves free.

    ``int(size)`` would bind the graph to that size.

    Args:
        size: One entry of the shape of a node's ``meta["val"]``.
    """
    return size if isinstance(size, int) else int(size.node.hint)


def share_entries(module: nn.Module, model: nn.Module) -> None:
    """Give a module the submodules, parameters and buffers of a model, under the same names.

    Registering the model as a submodule would put a prefix before every state key; PyTorch has no
    public way to wrap a model without that.

    Args:
        module: The wrapper; changed.
        model: Not changed.
    """
    module._modules, module._parameters = model._modules, model._parameters
    module._buffers = model._buffers
    module._non_persistent_buffers_set = model._non_persistent_buffers_set
    module.training = model.training


def compiled_from(model: nn.Module) -> nn.Module | None:
    """The model that ``torch.compile`` wraps; None if the model is not compiled.

    Its class is recognized by its name, since ``torch._dynamo`` is slow to import.

    Args:
        model: Not changed.
    """
    compiled = type(model).__name__ == "OptimizedModule"
    return model._modules.get("_orig_mod") if compiled else None


def note_steps(schedule: LRScheduler, place: int, rates: list[float | Tensor]) -> None:
    """Have a schedule that was set to a place know it as if it had taken the steps.

    Its ``state_dict`` has the rates and the count, and the next ``step`` compares them.

    Args:
        schedule: The schedule; changed.
        place: Number of steps, >= 0.
        rates: The learning rate of each group there.
    """
    schedule._last_lr = rates
    schedule._step_count = place + 1


def writes_of(value: Tensor) -> int:
    """The number of times that a tensor was written in place, which autograd counts."""
    return value._version


def storage_of(value: Tensor) -> int:
    """A number of the memory behind a tensor, the same for all its views.

    Not ``data_ptr``, which is 0 for all tensors that have shapes only.
    """
    place: int = value.untyped_storage()._cdata
    return place


def lacks_bfloat16() -> bool:
    """Whether PyTorch says that this CPU has no instructions for bfloat16.

    Convolutions and products in it are then computed by a kernel that is ten times slower than
    that of float32. False where PyTorch does not say, as on builds without oneDNN.
    """
    try:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # no such operator, or none for this CPU
        return False
