"""The trace of a model: a pure graph of ATen operators, which the rules read and matching runs.

``torch.export`` captures the model; where an operator writes, ``run_decompositions`` with an empty
table then makes the graph functional, so in-place operators and aliases cannot hide a change, while
convolution, linear, attention and LSTM stay whole. Parameters and buffers are inputs of the graph:
one graph serves every state.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from dimat.compat import OpOverload, arguments_of, size_hint, tree_leaves
from dimat.errors import ConfigError, ModelError, shown
from dimat.graph.calls import RecordedCalls
from dimat.graph.capture import capture, copied
from dimat.graph.inside import way_out
from dimat.graph.rewrite import rewrite
from dimat.state import tensors_of
from dimat.text import brief


@dataclass(frozen=True)
class Trace:
    """One exported graph of a model.

    Args:
        module: The functional ATen graph, as a module.
        states: State key of each placeholder that is a parameter or persistent buffer.
        constants: Value of each placeholder that is a constant.
        inputs: Names of the placeholders that are user inputs, in the order of ``flat_args``.
        outputs: Names of the nodes that are outputs of the model.
        mutated: (node name, state key) of entries that the forward pass writes.
        aliases: State keys that share storage with an earlier one, and that one.
        training: Whether the model was in training mode.
        parameters: State keys that are parameters, not buffers.
        draws: For each node of independent random numbers a key. In a proof draws are entries of
            the state: to move independent draws changes no distribution.
        frozen: Entries by state key that states may lack, as they are alike for all.
    """

    module: fx.GraphModule
    states: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    mutated: tuple[tuple[str, str], ...]
    aliases: Mapping[str, str]
    training: bool
    parameters: frozenset[str] = frozenset()
    draws: Mapping[str, str] = field(default_factory=dict)
    frozen: Mapping[str, Tensor] = field(default_factory=dict)

    __repr__ = brief

    @cached_property
    def read(self) -> frozenset[str]:
        """State keys that the forward pass reads or writes; others it could do without."""
        own = {node.name for node in self.graph.nodes if node.users}
        read = {key for name, key in self.states.items() if name in own}
        return frozenset(read | {key for _, key in self.mutated})

    @property
    def batch_size(self) -> int | None:
        """The batch size that the graph is bound to; None if it takes any."""
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if node.name in self.inputs and isinstance(value, Tensor) and value.dim() > 0:
                return value.shape[0] if isinstance(value.shape[0], int) else None
        return None

    @property
    def sizes(self) -> list[tuple[int | None, ...]]:
        """For each tensor input the sizes that the graph is bound to, None where it takes any."""
        values = [n.meta.get("val") for n in self.graph.nodes if n.name in self.inputs]
        return [
            tuple(int(n) if str(n).isdecimal() else None for n in value.shape)  # no symbol
            for value in values
            if isinstance(value, Tensor)
        ]

    @property
    def graph(self) -> fx.Graph:
        """The graph, whose nodes are in the order in which they run."""
        return self.module.graph

    @property
    def writes(self) -> bool:
        """Whether some operator writes one of its operands, so that a value changes later on."""
        return any(_written(node) for node in self.graph.nodes)

    def arguments(self, state: Mapping[str, Tensor], flat_args: Sequence[Any]) -> dict[str, Any]:
        """The value of every placeholder that is no entry of the state, and of draws, by name.

        Args:
            state: The state, on the CPU, which is asked for draws only.
            flat_args: User inputs, as :func:`flatten_inputs` gives them.
        """
        values: dict[str, Any] = {name: value.cpu() for name, value in self.constants.items()}
        values.update(zip(self.inputs, flat_args, strict=True))
        values.update({name: state[key] for name, key in self.draws.items() if key in state})
        return values

    def example_draws(self) -> dict[str, Tensor]:
        """Random numbers of the shapes that the graph draws for the example inputs, by key."""
        found, generator = {}, torch.Generator().manual_seed(0)
        for node in self.graph.nodes:
            if node.name in self.draws:
                draw = torch.randn if operator_name(node.target) in NORMAL else torch.rand
                shape = [size_hint(n) for n in node.meta["val"].shape]
                found[self.draws[node.name]] = draw(shape, generator=generator)
        return found

    def digest(self) -> str:
        """SHA-256 of operators, shapes, names and constants: equal for one architecture."""
        text = hashlib.sha256()
        for part in self._content():
            text.update(part)
        text.update(f"{self.mutated}{sorted(self.aliases.items())}{self.training}".encode())
        return text.hexdigest()

    def same_values(self, other: Trace) -> bool:
        """Whether every node has, on equal states and inputs, the value of the other's of its name.

        Args:
            other: Another graph of the same model. Of graphs that draw random numbers, or that hold
                values or graphs in attributes, it is said of none.
        """
        if self.inputs != other.inputs or self.draws or other.draws:
            return False
        if any(n.op not in _IN_DIGEST for t in (self, other) for n in t.graph.nodes):
            return False
        return all(a == b for a, b in zip_longest(self._content(), other._content()))

    def _content(self) -> Iterator[bytes]:
        """Operators, shapes, names and constants as bytes."""
        for node in self.graph.nodes:
            value = node.meta.get("val")
            shape = tuple(str(n) for n in value.shape) if isinstance(value, Tensor) else ()
            call = f"{node.op}|{node.name}|{node.target}|{node.args}|{dict(node.kwargs)}"
            yield f"{call}|{shape}\n".encode()
        for name, key in self.states.items():
            yield f"{name}={key}\n".encode()
        for name, tensor in self.constants.items():
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            yield name.encode() + data.tobytes()


def flatten_inputs(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """The tensors and other leaves of a model's inputs, in the order of the graph's inputs.

    Args:
        args: Positional inputs.
        kwargs: Keyword inputs.
    """
    return tree_leaves((tuple(args), dict(kwargs or {})))


def as_args(args: object) -> tuple[Any, ...]:
    """Positional inputs as a tuple.

    Args:
        args: A tensor, which is the only input, or a tuple or list of inputs.

    Raises:
        ConfigError: If they are anything else.
    """
    if isinstance(args, Tensor):
        return (args,)
    if not isinstance(args, tuple | list):
        raise ConfigError(
            f"'args' is {shown(args)}: must be the example inputs, such as (inputs,); those that "
            "have names are 'kwargs'"
        )
    return tuple(args)


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool = False,
) -> Trace:
    """Export the model in eval or training mode, the batch dimension free if the model allows it.

    Outputs are the tensors that are returned, alone or in lists, tuples, dicts and dataclasses; of
    other objects nothing is known.

    Args:
        model: Not changed; its mode is restored.
        args: Example inputs.
        kwargs: Example keyword inputs.
        training: Whether the graph is that of training mode.

    Raises:
        ModelError: If the example inputs do not fit, or ``torch.export`` cannot capture the model.
    """
    program, _ = _captured(model, args, kwargs, training=training)
    assert program is not None, "there was no other run to be like"
    return _read(program, model, training)


def trace_modes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[Trace, Trace]:
    """Export the model in eval and in training mode, as :func:`trace` does.

    Where the model calls the same operators in both modes (it has no dropout and no batch norm),
    they have one graph, which is exported once. If that draws random numbers there are two, as
    draws are named after the mode.

    Args:
        model: Not changed; its mode is restored.
        args: Example inputs.
        kwargs: Example keyword inputs.

    Raises:
        ModelError: If the example inputs do not fit, or ``torch.export`` cannot capture the model.
    """
    before = copied(model)
    program, calls = _captured(model, args, kwargs, training=False, before=before)
    assert program is not None, "there was no other run to be like"
    first = _read(program, model, False)
    known = None if first.draws else calls
    other, _ = _captured(model, args, kwargs, training=True, unless=known, before=before)
    second = replace(first, training=True) if other is None else _read(other, model, True)
    return first, second


def _captured(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    training: bool,
    unless: RecordedCalls | None = None,
    before: Mapping[str, Tensor] | None = None,
) -> tuple[ExportedProgram | None, RecordedCalls]:
    """The export, with an error that says which submodules could be captured."""
    own = kwargs or {}
    inside = partial(way_out, model, args, own)
    return capture(
        model, args, own, training=training, way_out=inside, unless=unless, before=before
    )


def _read(program: ExportedProgram, model: nn.Module, training: bool) -> Trace:
    """The trace of an exported program, its placeholders and outputs sorted by what they are."""
    signature = program.graph_signature
    own_keys = set(model.state_dict(keep_vars=True))
    aliases = tied_keys(model)
    states: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    inputs: list[str] = []
    for spec in signature.input_specs:
        name = spec.arg.name
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(name)
        elif spec.target in own_keys:
            states[name] = aliases.get(spec.target, spec.target)
        else:
            constants[name] = _constant(program, spec.target)
    mutated, outputs = [], []
    for out in signature.output_specs:
        name = getattr(out.arg, "name", None)
        if out.kind in STATE_WRITES and name and out.target in own_keys:
            mutated.append((name, aliases.get(out.target, out.target)))
        elif name:
            outputs.append(name)
    module = program.graph_module
    # These nodes only assert the dtypes of the export, and a proof runs the graph in float64.
    for node in list(module.graph.nodes):
        if node.op == "call_function" and "_assert_tensor_metadata" in str(node.target):
            module.graph.erase_node(node)
    renamed = rewrite(module.graph)
    outputs = [renamed.get(name, name) for name in outputs]
    mutated = [(renamed.get(name, name), key) for name, key in mutated]
    mutated.extend(_write_into_copies(module.graph, states).items())
    module.recompile()
    parameters = frozenset(own_keys & {name for name, _ in model.named_parameters()})
    drawing = [n.name for n in module.graph.nodes if operator_name(n.target) in DRAWN]
    mode = "training" if training else "eval"
    return Trace(
        module,
        states,
        constants,
        tuple(inputs),
        tuple(outputs),
        tuple(mutated),
        aliases,
        training,
        parameters,
        {name: f"{name} (drawn in {mode})" for name in drawing},
    )


def _write_into_copies(graph: fx.Graph, states: Mapping[str, str]) -> dict[str, str]:
    """Put a copy in place of every operand that an operator writes; later operators read the copy.

    Then a run of the graph does not change the state that it is given, and an update of the state
    is the value of a node.

    Returns:
        The state key of each copy that is a state entry's final value.
    """
    keys: dict[str, str] = {}
    for node in list(graph.nodes):
        for operand in _written(node):
            with graph.inserting_before(node):
                copy = graph.call_function(torch.ops.aten.clone.default, (operand,))
            copy.meta = dict(operand.meta)
            operand.replace_all_uses_with(copy, delete_user_cb=node.__le__)
            key = keys.pop(operand.name, states.get(operand.name))
            if key is not None:
                keys[copy.name] = key
    return keys


def _written(node: fx.Node) -> list[fx.Node]:
    """The operands that an operator writes in place."""
    unsaid = WRITES_UNSAID.get(operator_name(node.target), ())
    found = []
    for i, argument in enumerate(arguments_of(node.target)):
        alias = argument.alias_info
        if argument.name in unsaid or (alias is not None and alias.is_write):
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += [value] if isinstance(value, fx.Node) else []
    return found


def _constant(program: ExportedProgram, target: str) -> Tensor:
    """The value of a placeholder that is no entry of the state."""
    value = program.constants.get(target)
    if value is None:
        value = program.state_dict.get(target)
    if not isinstance(value, Tensor):
        raise ModelError(f"the graph needs '{target}', which is no tensor")
    return value.detach()


def tied_keys(model: nn.Module) -> dict[str, str]:
    """State keys that name the same tensor as an earlier key, and that key.

    Args:
        model: Not changed.
    """
    first: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], str] = {}
    aliases: dict[str, str] = {}
    for key, value in tensors_of(model.state_dict(keep_vars=True)).items():
        if value.numel() == 0:
            continue
        storage = value.untyped_storage().data_ptr()
        identity = (storage, int(value.storage_offset()), tuple(value.shape), value.stride())
        if identity in first:
            aliases[key] = first[identity]
        else:
            first[identity] = key
    return aliases


# Operators of independent draws: from a distribution around zero, and of positive numbers.
NORMAL = ("aten.randn", "aten.randn_like", "aten.normal_functional", "aten.cauchy")
POSITIVE = ("aten.rand", "aten.rand_like", "aten.uniform", "aten.exponential", "aten.log_normal")
DRAWN = (*NORMAL, *POSITIVE, "aten.bernoulli")
# Operators that return values along an axis in the order of size, and the position of each.
RANKED = frozenset(
    {"aten.sort", "aten.topk", "aten.kthvalue", "aten.median", "aten.nanmedian", "aten.mode",
     "aten.max", "aten.min"}
)  # fmt: skip
# Kinds of nodes of which the text says all: what "get_attr" reads is no part of it.
_IN_DIGEST = frozenset({"placeholder", "call_function", "output"})
STATE_WRITES = frozenset(
    kind for kind in OutputKind if kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION")
)
# Operands that an operator writes although its schema does not say so.
WRITES_UNSAID = {"aten.instance_norm": ("running_mean", "running_var")}


def operator_name(target: Any) -> str:
    """The name of an operator without its overload: ``aten.add`` for ``aten.add.Tensor``.

    Args:
        target: The target of a node; a Python function such as ``getitem`` has its own name.
    """
    if isinstance(target, OpOverload):
        return str(target).rsplit(".", 1)[0]
    if target is operator.getitem:
        return "getitem"
    return str(getattr(target, "__name__", target))
