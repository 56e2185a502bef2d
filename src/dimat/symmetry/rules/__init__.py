"""One rule per ATen operator: which units its result has, and what it ties together.

A rule takes a :class:`~dimat.symmetry.labels.operator_call.Call` and returns the labels of the
result (or a tuple of labels, for operators with several results). It is registered under the
operator's name without overload; operators that PyTorch itself tags as pointwise need no entry.
**An operator without a rule pins everything it touches**: unknown means no symmetry.
"""

from dimat.symmetry.rules.registry import RULES, Rule, rule, rule_for

from dimat.symmetry.rules import attention, contract, norm, recurrent, reduce, shape  # isort: skip

__all__ = ["RULES", "Rule", "attention", "contract", "norm", "recurrent", "reduce", "rule"]
__all__ += ["rule_for", "shape"]
