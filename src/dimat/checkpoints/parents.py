"""The parents of a merge: several trained states of one model, ready to be matched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from dimat.checkpoints.batches import Calls, ModelCall
from dimat.checkpoints.formats.files import StateLike, entries_of
from dimat.checkpoints.forward import Forward, bound
from dimat.checkpoints.partial import (
    blank,
    check_heads,
    differing_entries,
    heads_among,
    move_like,
    resized,
)
from dimat.checkpoints.reading import made_up, read_calls
from dimat.checkpoints.states import as_in, completed, validate_state, working_copy
from dimat.checkpoints.unwrapped import fitted, unwrapped
from dimat.checkpoints.widths import Padding, Widths, filled, is_narrower, pad_states
from dimat.compat import BatchNorm
from dimat.errors import ConfigError, DataError, StructureError, check_kind, quoted
from dimat.graph.inside import Seen, alike, exposed, look_inside, submodule
from dimat.graph.trace import flatten_inputs
from dimat.matching import MATCHERS, Matcher, Matching, Problem
from dimat.matching.procrustes import procrustes, rotated_note
from dimat.merging import Combiner, StatisticsCombiner, calibrated_norms, predicted_statistics
from dimat.state import (
    State,
    check_same_structure,
    extras_of,
    put_into,
    state_of,
    tensors_of,
)
from dimat.symmetry import Analysis, Symmetry, analyze_within
from dimat.symmetry.continuous import continuous_symmetry
from dimat.symmetry.labels.units import UNREAD
from dimat.symmetry.symmetry import nothing_moves
from dimat.text import brief


@dataclass(frozen=True)
class Parents:
    """The states of one model that are merged, and the inputs on which they are compared.

    All steps return new states, in at least float32.

    Args:
        model: A working copy of the model.
        forward: The forward in place of the model's own; None: its own.
        originals: The parents as they were given, completed.
        extras: Entries of every parent that are no tensors, which stay as they are.
        states: The parents in at least float32, on the model's device.
        calls: The inputs.
        symmetry: A symmetry given by hand; None: it is found.
        notes: What the reading of the states had to decide, a sentence each.
        differing: Entries of heads that every parent has of its own, which are blank in the states.
        models: For every parent a working copy with its own head, if heads differ.
        whole: The parents with their own heads, if heads differ.
        at: Name of the submodule that alone has its units permuted; None: the whole model has.
        paddings: The padding of every parent that was narrower than the model, None for others;
            empty if none was.
    """

    model: nn.Module
    forward: Forward | None
    originals: tuple[State, ...]
    extras: tuple[Mapping[str, Any], ...]
    states: tuple[State, ...]
    calls: Calls
    symmetry: Symmetry | None = None
    notes: tuple[str, ...] = ()
    differing: frozenset[str] = frozenset()
    models: tuple[nn.Module, ...] = ()
    whole: tuple[State, ...] = ()
    at: str | None = None
    paddings: tuple[Padding | None, ...] = ()

    __repr__ = brief

    @staticmethod
    def of(
        model: nn.Module,
        states: Sequence[StateLike],
        batches: Iterable[Any],
        *,
        forward: Forward | None,
        images: int,
        names: Sequence[str] = (),
        symmetry: Symmetry | None = None,
        shapes: Sequence[Sequence[int]] = (),
        key: str | None = None,
        heads: bool = False,
        at: str | None = None,
        widths: Widths = "same",
    ) -> Parents:
        """The parents made of the arguments of :func:`dimat.merge`, all of which are checked.

        Args:
            model: As :func:`dimat.merge` takes it.
            states: As :func:`dimat.merge` takes them.
            batches: As :func:`dimat.merge` takes them.
            forward: As :func:`dimat.merge` takes it.
            images: As :func:`dimat.merge` takes it.
            names: Names of the states, for messages; if empty, their numbers and files.
            symmetry: As :func:`dimat.merge` takes it.
            shapes: Shapes of inputs that may be made up, if there are no batches.
            key: As :func:`dimat.merge` takes it.
            heads: Whether heads may have shapes of their own.
            at: As :func:`dimat.merge` takes it.
            widths: As :func:`dimat.merge` takes it.

        Raises:
            ConfigError, DataError, ModelError, StructureError: As :func:`dimat.merge`.
        """
        model = unwrapped(model)
        _check_kinds(forward, symmetry, key)
        if widths == "pad":
            _check_alone(symmetry=symmetry, statistics=shapes, heads=heads, at=at)
        if at is not None:
            _check_at(model, at, symmetry)
        twin = working_copy(model)
        names = names or [_named(number, own) for number, own in enumerate(states)]
        notes: list[str] = []
        entries = [
            _entries(model, own, who, key, notes) for own, who in zip(states, names, strict=True)
        ]
        originals = tuple(completed(model, s, who) for s, who in zip(entries, names, strict=True))
        device = next(
            (x.device for x in tensors_of(twin.state_dict()).values()), torch.device("cpu")
        )
        calls, paddings = None, tuple[Padding | None, ...]()
        if widths == "pad" and any(is_narrower(twin, own) for own in originals):
            calls = read_calls(batches, images, device)
            networks = [own if isinstance(own, nn.Module) else None for own in states]
            pairs = pad_states(twin, forward, originals, networks, names, calls)
            originals, paddings = (tuple(own) for own in zip(*pairs, strict=True))
            notes += [f"{n}: {p.note}" for n, p in zip(names, paddings, strict=True) if p]
        differing = differing_entries(originals)
        models = tuple(resized(twin, own, differing) for own in originals if differing and heads)
        twin = models[0] if models else twin
        each = models or (twin,) * len(names)
        alike = all(own.keys() == originals[0].keys() for own in originals)
        hint = "; heads may differ by heads='keep' (--heads keep)" if differing and alike else ""
        if widths == "pad" and differing:
            hint = "; with widths='pad' (--widths pad) the model is that of the widest parent"
        elif any(is_narrower(twin, own) for own in originals):
            hint = (
                f"{hint}; a network that is narrower in all its layers is padded by widths='pad' "
                "(--widths pad)"
            )
        with _hinted(hint):
            wide = whole = tuple(map(validate_state, each, originals, names))
        if differing:
            wide = tuple(blank(state, whole[0], differing) for state in whole)
        extras = tuple(extras_of(own) for own in entries)
        needed = symmetry is None and not shapes
        calls = calls or read_calls(batches, images, device, needed=needed)
        if shapes and not calls.calls:
            example = made_up(shapes, next(_float_types(twin), torch.float32))
            calls = replace(calls, made_up=example.map(lambda x: x.to(device)))
        return Parents(
            twin,
            forward,
            originals,
            extras,
            wide,
            calls,
            symmetry,
            tuple(notes),
            differing,
            models,
            whole if differing else (),
            at,
            paddings,
        )

    @cached_property
    def analysis(self) -> Analysis:
        """The analysis of the model: its graph and its symmetry."""
        with self._blamed() as model:
            if self.symmetry is not None:
                return self.calls.by_hand(self.symmetry, model)
            found = self._analyze(model)
            check_heads(found, self.differing)
            return found

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, with those on a model where nothing moves, and on entries not read."""
        symmetry = self.analysis.symmetry
        notes = self.notes if symmetry.groups else (*self.notes, nothing_moves(symmetry))
        unread = [key for key, why in symmetry.reasons.items() if UNREAD in why]
        return (*notes, _unread_note(unread)) if unread else notes

    def _analyze(self, model: nn.Module) -> Analysis:
        """The analysis of a model that differs from that of the parents in its head only."""
        if self.at is None:
            return self.calls.analyze(model, self._shared)
        call, calls = self.calls.example(model), self._inside
        own = calls.example(exposed(submodule(model, self.at), self._seen.outside))
        outer, inner = ((x.args, x.kwargs) for x in (call, own))
        return analyze_within(model, self.at, outer, inner, self._seen.outside, self._shared)

    @cached_property
    def _seen(self) -> Seen:
        """What the submodule of the first parent is called with."""
        assert self.at is not None
        put_into(self.model, (self.whole or self.states)[0])
        with self._blamed() as model:
            return look_inside(model, self.at, [(own.args, own.kwargs) for own in self.calls.calls])

    @cached_property
    def _inside(self) -> Calls:
        """The calls of the submodule, of those that are like the first but for their size."""
        first = self._seen.calls[0]
        found = [ModelCall(*own) for own in self._seen.calls if alike(first, own)]
        filled = tuple(own for own in found if own.samples)
        if not filled:
            raise DataError(
                f"'{self.at}' is called with no sample of the batches: give others, or another 'at'"
            )
        return Calls(filled)

    @property
    def _shared(self) -> State:
        """The entries that all parents have alike."""
        first, *others = self.states
        return {
            key: value
            for key, value in first.items()
            if key not in self.differing and all(torch.equal(value, own[key]) for own in others)
        }

    @cached_property
    def batches(self) -> list[tuple[Any, ...]]:
        """The inputs in the sizes that the graph takes."""
        calls = self.calls if self.at is None else self._inside
        return calls.pieces(self.analysis.trace)

    @cached_property
    def example(self) -> ModelCall:
        """A small batch that the model takes; without data, if there are none."""
        with self._blamed() as model:
            return self.calls.example(model)

    def match(self, matcher: Matcher, weights: Sequence[float]) -> list[Matching]:
        """For every parent its permutation into the first one's unit order.

        Args:
            matcher: The matcher.
            weights: Weight of each parent in the merge.

        Raises:
            ConfigError: If it compares units on inputs, and there are none.
        """
        if self.calls.made_up is not None and getattr(matcher, "needs_batches", True):
            others = [name for name, own in MATCHERS.items() if not own.needs_batches]
            raise ConfigError(
                "there are no batches, on which this matching compares units: give some, or "
                f"another 'method': {' or '.join(others)}"
            )
        problem = Problem(self.analysis, self.states, weights, self.batches)
        with self._blamed():
            found = matcher.match(problem)
        given = found if isinstance(found, Sequence) else []
        if [isinstance(own, Matching) for own in given] != [True] * len(self.states):
            raise ConfigError(
                f"matcher {type(matcher).__name__} gives what is {quoted(found)}: must be a list "
                f"of {len(self.states)} dimat.matching.Matching, one for every state"
            )
        return found

    def align(self, matchings: Sequence[Matching]) -> list[State]:
        """The parents with their units permuted.

        Args:
            matchings: One matching per parent.
        """
        apply = self.analysis.symmetry.apply
        return [apply(m.permutation, s) for m, s in zip(matchings, self.states, strict=True)]

    def filled(
        self, matchings: Sequence[Matching], own: Sequence[State], weights: Sequence[float]
    ) -> list[State]:
        """Aligned parents whose silent units read what the same units of wider parents read.

        Args:
            matchings: One matching per parent.
            own: The aligned parents.
            weights: Weight of each parent in the merge.
        """
        if not any(self.paddings):
            return list(own)
        symmetry = self.analysis.symmetry
        moved = [
            padding and padding.map(partial(symmetry.apply, m.permutation))
            for m, padding in zip(matchings, self.paddings, strict=True)
        ]
        return filled(own, moved, weights)

    def rotate(self, aligned: Sequence[State]) -> tuple[list[State], str]:
        """Parents in one unit order after the matrices that bring each nearest to the first.

        Args:
            aligned: The parents with their units permuted.

        Returns:
            The parents, and a sentence on what was done.

        Raises:
            ConfigError: If there are no batches, or not the whole model has its graph.
            StructureError: If a norm's gain is zero somewhere.
        """
        if self.symmetry is not None or self.at is not None or self.differing:
            raise ConfigError(
                "'continuous' needs the graph of a whole model that all parents have: give no "
                "'symmetry', no 'at' and no 'heads'"
            )
        first, *others = aligned
        example = flatten_inputs(self.example.args, self.example.kwargs)
        with self._blamed():
            symmetry = continuous_symmetry(self.analysis, first, example)
        found = [procrustes(symmetry, first, other) for other in others]
        return [first, *(own.state for own in found)], rotated_note(symmetry, found)

    def without_heads(self, names: Iterable[str]) -> Parents:
        """The parents with what of some entries are heads blank, so that no match depends on it.

        Args:
            names: Entries that are not merged.
        """
        if self.symmetry is not None:
            return self
        heads = self.differing | heads_among(self.analysis, names)
        whole = self.whole or self.states
        return replace(
            self,
            states=tuple(blank(state, whole[0], heads) for state in whole),
            differing=heads,
            models=self.models or (self.model,) * len(whole),
            whole=whole,
        )

    def own(self, matchings: Sequence[Matching], aligned: Sequence[State]) -> list[State]:
        """The aligned parents with their own heads, whose symmetry is proved for each.

        Args:
            matchings: One matching per parent.
            aligned: The aligned parents.
        """
        if not self.differing:
            return list(aligned)
        found = []
        for number, (matching, trunk) in enumerate(zip(matchings, aligned, strict=True)):
            twin = bound(self.models[number], self.forward)
            with self.calls.blamed(twin):
                symmetry = self._analyze(twin).symmetry
            moved = {key: value for key, value in trunk.items() if key not in self.differing}
            found.append(move_like(matching.permutation, symmetry, self.whole[number], moved))
        return found

    def measure(self, combiner: StatisticsCombiner, budget: float) -> State:
        """The statistics of the first parent on the inputs.

        Args:
            combiner: The combiner that they are for.
            budget: Numbers of statistics for each number of the weights, at most, about.
        """
        with self._blamed():
            return combiner.statistics(self.analysis, self.states[0], self.batches, budget)

    def combine(
        self,
        combiner: Combiner,
        aligned: Sequence[State],
        weights: Sequence[float],
        statistics: Sequence[State] = (),
    ) -> State:
        """One state out of aligned parents.

        Args:
            combiner: The combiner.
            aligned: The aligned parents.
            weights: Weight of each.
            statistics: The statistics of each, aligned as it is, instead of any on the inputs.
        """
        with self._blamed():
            if statistics and isinstance(combiner, StatisticsCombiner):
                merged = combiner.fit(self.analysis, aligned, weights, statistics)
            else:
                merged = combiner.combine(self.analysis, aligned, weights, self.batches)
        if not isinstance(merged, dict):
            raise ConfigError(
                f"combiner {type(combiner).__name__} gives what is {quoted(merged)}: must be a "
                "dict of the entries of a state by name"
            )
        for alias, first in self.analysis.trace.aliases.items():
            if isinstance(merged.get(first), Tensor):  # else it is told what it lacks
                merged[alias] = merged[first].clone()
        check_same_structure(aligned[0], merged, f"what {type(combiner).__name__} gives")
        return merged

    def combine_part(
        self,
        combiner: Combiner,
        own: Sequence[State],
        weights: Sequence[float],
        kept: frozenset[str],
        statistics: Sequence[State] = (),
    ) -> tuple[State, list[State]]:
        """One state of which some entries are the first parent's, and what was combined for it.

        These are the parents as they would be with the first one's entries there, so that a
        combiner that fits layers fits them to what they will get.

        Args:
            combiner: The combiner.
            own: The aligned parents, with their own heads.
            weights: Weight of each.
            kept: The entries that are not merged.
            statistics: As :meth:`combine` takes them.
        """
        first = {key: own[0][key] for key in kept}
        parts = [{**state, **first} for state in own]
        merged = self.combine(combiner, parts, weights, statistics)
        return {**merged, **{key: value.clone() for key, value in first.items()}}, parts

    def with_heads(
        self, merged: State, own: Sequence[State], kept: frozenset[str], *, again: bool
    ) -> list[State]:
        """For every parent the merged state with that parent's entries where nothing is merged.

        Args:
            merged: The merged state, with the first parent's.
            own: The aligned parents, with their own heads.
            kept: The entries that are not merged.
            again: Whether BatchNorm statistics are recomputed.
        """
        found = []
        for number, state in enumerate(own):
            whole = {**merged, **{key: state[key] for key in kept}}
            if again:
                model = self.models[number] if self.models else self.model
                whole = replace(self, model=model).recalibrate(whole) or whole
            found.append(whole)
        return found

    def recalibrate(self, state: State) -> State | None:
        """A state with the BatchNorm statistics of the inputs; None if the model has none.

        Args:
            state: Not changed.

        Raises:
            DataError: If a BatchNorm gets one value a channel only, which has no variance.
        """
        put_into(self.model, state)
        with self._blamed() as model:
            found = self.calls.recalibrate(self.model, model)
        return state_of(self.model) if found else None

    def expect(self, merged: State, aligned: Sequence[State], weights: Sequence[float]) -> State:
        """A merged state with the BatchNorm statistics predicted from those of its parents.

        Args:
            merged: The merged state.
            aligned: The aligned parents.
            weights: Weight of each.
        """
        expected = predicted_statistics(self.analysis, aligned, weights, merged)
        free = set(calibrated_norms(self.model))
        for prefix, module in self.model.named_modules():  # frozen ones stay as they are
            if isinstance(module, BatchNorm) and module not in free:
                own = {f"{prefix}.{name}".removeprefix(".") for name, _ in module.named_buffers()}
                expected.update({key: merged[key] for key in own if key in merged})
        return expected

    def rounded(self, state: State, parent: int = 0) -> State:
        """A state in the dtypes and on the devices of a parent, with that parent's extras.

        Args:
            state: The state.
            parent: Number of the parent.
        """
        return {**as_in(state, self.originals[parent]), **self.extras[parent]}

    @contextmanager
    def _blamed(self) -> Iterator[nn.Module]:
        model = bound(self.model, self.forward)
        with self.calls.blamed(model):
            yield model


def _float_types(model: nn.Module) -> Iterator[torch.dtype]:
    return (x.dtype for x in model.parameters() if x.is_floating_point())


@contextmanager
def _hinted(hint: str) -> Iterator[None]:
    """Add a way out to what is said of a state that does not fit."""
    try:
        yield
    except StructureError as error:
        raise StructureError(f"{error}{hint}") from error


def _entries(
    model: nn.Module, given: StateLike, who: str, key: str | None, notes: list[str]
) -> dict[str, Any]:
    """The entries of a state under the model's names; notes are added."""

    def say(text: str) -> None:
        notes.append(f"{who}: {text}")

    return fitted(model, entries_of(given, who, key, say), who, say)


def _named(number: int, given: StateLike) -> str:
    """Name of a parent for messages: its number, and the path if it is a file."""
    path = f" ({os.fspath(given)})" if isinstance(given, (str, os.PathLike)) else ""
    return f"state {number}{path}"


def _check_alone(**others: object) -> None:
    """Refuse what parents of other widths cannot be merged with."""
    for setting, given in others.items():
        if given:
            raise ConfigError(
                f"'widths' is 'pad', and '{setting}' is given: parents of other widths are padded "
                "by the symmetry of the whole model, on batches; leave one of both out"
            )


def _check_at(model: nn.Module, at: str, symmetry: object) -> None:
    submodule(model, at)
    if symmetry is not None:
        raise ConfigError(
            f"'at' is '{at}', where a symmetry is to be found, and 'symmetry' is one: give either"
        )


def _check_kinds(forward: object, symmetry: object, key: object) -> None:
    if forward is not None and not callable(forward):
        rule = "a function, called as forward(model, *inputs)"
        raise ConfigError(f"'forward' is {quoted(forward)}: must be {rule}")
    if symmetry is not None:
        check_kind("symmetry", symmetry, Symmetry, "what dimat.Symmetry.from_axes gave")
    if key is not None:
        check_kind("key", key, str, "the name of an entry, or None")


def _unread_note(keys: Sequence[str]) -> str:
    """The note on entries that the model's forward pass does not read."""
    some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return (
        f"forward does not read {some}: nothing says which units belong together there, so they "
        "stay in their places"
    )
