"""Export of a model by ``torch.export``: in one mode, in silence, and leaving it as it was."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from dimat.compat import (
    HigherOrderOperator,
    OpOverload,
    arguments_of,
    share_entries,
    tree_leaves,
    tree_map,
    writes_operands,
)
from dimat.errors import ModelError, first_line
from dimat.graph.calls import RecordedCalls, entries

_PLAIN_VALUES = (type(None), bool, int, float, str)  # that torch.export takes as outputs


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers, by name.

    Args:
        model: Not changed.
    """
    return {name: value.detach().clone() for name, value in entries(model).items()}


@contextmanager
def in_mode(
    model: nn.Module, training: bool, before: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """A context in which a model is in eval or training mode.

    Afterwards the modes of its modules, its parameters and buffers, and the random state are as
    they were before.

    Args:
        model: Restored at the end.
        training: Whether the mode is that of training.
        before: Copies of its parameters and buffers, as :func:`copied` makes them; None to make
            some, which takes longer than a run of a large model on few inputs.
    """
    modes = {module: module.training for module in model.modules()}
    before = copied(model) if before is None else before
    devices = {x.device for x in (*model.parameters(), *model.buffers()) if x.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        model.train(training)
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for name, value in entries(model).items():
                    if not torch.equal(value, before[name]):
                        value.copy_(before[name])


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    training: bool,
    way_out: Callable[[], str] = lambda: "",
    unless: RecordedCalls | None = None,
    before: Mapping[str, Tensor] | None = None,
) -> tuple[ExportedProgram | None, RecordedCalls]:
    """Export a model, its batch dimension free if it allows that; only tensors are outputs.

    Where the inputs differ in their leading sizes there is no batch dimension: then every size is
    free that the model does not fix.

    Args:
        model: Not changed.
        args: Example inputs.
        kwargs: Example keyword inputs.
        training: Whether the model is exported in training mode.
        way_out: What the error says can be done if the model cannot be captured; then called.
        unless: A run in the other mode; if this one calls the same operators, nothing is exported.
        before: Copies of its parameters and buffers, as :func:`in_mode` takes them.

    Returns:
        The export, None if there is none; and what the model called on the example inputs.

    Raises:
        ModelError: If the example inputs do not fit, or ``torch.export`` cannot capture the model.
    """
    with in_mode(model, training, before), _silence():
        outputs, calls = _outputs(model, args, kwargs, training=training)
        dropped: list[str] = []
        if not list(_tensors(outputs, dropped)):
            raise ModelError(
                f"{type(model).__name__}.forward returns no tensor, alone or in a list, tuple, "
                f"dict or dataclass, but a {type(outputs).__name__}"
            )
        if unless is not None and calls.same_as(unless):
            return None, calls
        own = _TensorsOnly(model) if dropped or not _plain(outputs) else model
        return _export(model, own, args, dict(kwargs), dropped, way_out), calls


def _outputs(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool
) -> tuple[Any, RecordedCalls]:
    """The outputs of the model on its example inputs, and the operators that it calls."""
    calls = RecordedCalls(model, tree_leaves((args, kwargs)))
    with suppress(Exception), torch.no_grad():  # some operators cannot be seen: then all is run
        with calls:
            outputs = model(*args, **kwargs)
        calls.finish(_tensors(outputs, []))
        return outputs, calls
    try:
        with torch.no_grad():
            return model(*args, **kwargs), calls
    except Exception as error:  # the model's own code may raise anything
        shapes = ", ".join(_describe(x) for x in (*args, *kwargs.values()))
        mode = " in training mode" if training else ""
        hint = (
            " (the graph of training is looked at too, as what holds in eval mode alone would not "
            "survive it: give what forward takes there, such as targets, as further inputs)"
        )
        raise ModelError(
            f"the example inputs ({shapes}) do not fit {type(model).__name__}.forward{mode}: "
            f"{first_line(error)}{hint if training else ''}"
        ) from error


def _export(
    model: nn.Module,
    own: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dropped: Sequence[str],
    way_out: Callable[[], str],
) -> ExportedProgram:
    """The functional export, with free sizes if ``torch.export`` manages, else with fixed ones."""
    failures: list[str] = []
    for spec in (_free_sizes(args, kwargs), None):
        try:
            with redirect_stderr(StringIO()), _collected_later():  # what fails prints its graph
                program = torch.export.export(own, args, kwargs, dynamic_shapes=spec, strict=False)
                if _functional(program.graph):
                    program.graph.eliminate_dead_code()
                else:
                    program = program.run_decompositions({})
            return program
        except Exception as error:  # torch.export raises a zoo of types, all meaning "cannot"
            failures.append(first_line(error))
    cache = (
        f"let its forward make no {dropped[0]} (use_cache=False, if that is a cache), "
        if dropped
        else ""
    )
    raise ModelError(
        f"torch.export cannot capture {type(model).__name__}: {failures[-1]} ({cache}remove "
        f"data-dependent Python control flow from its forward{way_out()})"
    )


def _functional(graph: fx.Graph) -> bool:
    """Whether no operator writes to an operand.

    Then there is nothing to make functional, which would take longer than the export itself.
    """
    return not any(map(_may_write, graph.nodes))


def _may_write(node: fx.Node) -> bool:
    """Whether a node may write to an operand, or holds a graph that may."""
    if node.op == "get_attr" or isinstance(node.target, HigherOrderOperator):
        return True  # a graph inside the graph
    if not isinstance(node.target, OpOverload):
        return False
    names = (argument.name for argument in arguments_of(node.target))
    given = dict(zip(names, node.args, strict=False))
    # The schema of batch norm does not say that it writes its running statistics in training.
    updates_statistics = bool(given.get("running_mean") and given.get("training"))
    return writes_operands(node.target) or updates_statistics


@contextmanager
def _collected_later() -> Iterator[None]:
    """A context without garbage collection.

    The million small objects of an export would make it go through all that PyTorch has loaded,
    for up to a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _free_sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The free sizes of the inputs: the batch, if all lead with one size, else every size."""
    leading = {len(x) for x in tree_leaves((args, kwargs)) if _has_axes(x)}
    batch = Dim("batch", min=2)

    def spec(x: Any) -> Any:
        if not _has_axes(x):
            return None
        return {0: batch} if len(leading) == 1 else dict.fromkeys(range(x.dim()), Dim.AUTO)

    tree = tree_map(spec, (args, kwargs))
    return (*tree[0], *tree[1].values()) if kwargs else tree[0]


def _has_axes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _describe(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


# --- outputs ------------------------------------------------------------------------------------


class _TensorsOnly(nn.Module):
    """A model that returns only the tensors among its outputs; its entries keep their names.

    Tensors are found in lists, tuples, dicts and dataclasses. Anything else, such as a cache, is
    left out: nothing is promised of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        share_entries(self, model)

        def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return tuple(_tensors(model(*args, **kwargs), []))

        # torch.export names the inputs after the parameters of forward.
        forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
        self.__dict__["forward"] = forward


def _tensors(value: Any, dropped: list[str]) -> Iterator[Tensor]:
    """The tensors in the usual containers; the types of other objects are added to ``dropped``."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for own in value.values():
            yield from _tensors(own, dropped)
    elif isinstance(value, (list, tuple)):
        for own in value:
            yield from _tensors(own, dropped)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), dropped)
    elif not isinstance(value, _PLAIN_VALUES):
        dropped.append(type(value).__name__)


def _plain(value: Any) -> bool:
    """Whether torch.export takes an output as it is."""
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    if type(value) is dict:
        return all(map(_plain, value.values()))
    return isinstance(value, (Tensor, *_PLAIN_VALUES))


# --- silence ------------------------------------------------------------------------------------


@contextmanager
def _silence() -> Iterator[None]:
    """A context that keeps PyTorch's warnings and logs in this thread from the user's terminal."""
    thread = threading.get_ident()

    def spoken(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.name.split(".")[0] != "torch"

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for handler in _handlers():
            handler.addFilter(spoken)
            undo.callback(handler.removeFilter, spoken)
        yield


def _handlers() -> set[logging.Handler]:
    """The handlers of PyTorch's log records: its own, the root logger's, that of last resort."""
    known = [x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger)]
    own = [x for x in known if x.name.split(".")[0] == "torch"]
    found = {handler for logger in (logging.root, *own) for handler in logger.handlers}
    return found | ({logging.lastResort} if logging.lastResort else set())
