"""Matching and merging of trained states: ``dimat.match`` and ``dimat.merge``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal, get_args

from torch import nn

from dimat.checkpoints.formats.files import StateLike
from dimat.checkpoints.formats.merged import Merge
from dimat.checkpoints.formats.statistics_file import Statistics
from dimat.checkpoints.forward import Forward
from dimat.checkpoints.measure import with_statistics
from dimat.checkpoints.parents import Parents
from dimat.checkpoints.partial import HEADS, Heads, Patterns, check_norms, kept_entries
from dimat.checkpoints.reading import IMAGES
from dimat.checkpoints.received import (
    StatisticsLike,
    fitting_values,
    moved_values,
    read_statistics,
)
from dimat.checkpoints.widths import WIDTHS, Widths
from dimat.errors import ConfigError, StructureError, check_known, chosen, in_words, quoted
from dimat.matching import MATCHERS, Matcher, Matching
from dimat.merging import COMBINERS, Combiner, calibrates
from dimat.registry import Registry
from dimat.state import State
from dimat.symmetry import Symmetry

Recalibration = Literal["auto", "batchnorm", "expected", "none"]
RECALIBRATIONS: tuple[str, ...] = get_args(Recalibration)


def match(
    model: nn.Module,
    ours: StateLike,
    theirs: StateLike,
    batches: Iterable[Any] = (),
    *,
    method: str | Matcher = "activations",
    forward: Forward | None = None,
    images: int = IMAGES,
    symmetry: Symmetry | None = None,
    key: str | None = None,
    at: str | None = None,
    widths: Widths = "same",
) -> Matching:
    """The permutation that puts the units of ``theirs`` in the order of ``ours``.

    Args:
        model: The architecture; its own weights and mode do not matter and are not changed.
        ours: The state whose unit order is the reference, in any form that :func:`merge` takes.
        theirs: Another state of the same model.
        batches: As in :func:`merge`.
        method: As in :func:`merge`.
        forward: As in :func:`merge`.
        images: The largest number of samples of the batches that are used.
        symmetry: As in :func:`merge`.
        key: As in :func:`merge`.
        at: As in :func:`merge`.
        widths: As in :func:`merge`. The permutation is one of the padded states.

    Raises:
        ConfigError, DataError, ModelError, StructureError: As in :func:`merge`.
    """
    matcher = _matcher(method)
    check_known("widths", widths, WIDTHS)
    with in_words("matching"):
        parents = Parents.of(
            model,
            [ours, theirs],
            batches,
            forward=forward,
            images=images,
            symmetry=symmetry,
            key=key,
            at=at,
            widths=widths,
        )
        return parents.match(matcher, (0.5, 0.5))[1]


def merge(
    model: nn.Module,
    states: Iterable[StateLike],
    batches: Iterable[Any] = (),
    weights: Sequence[float] | None = None,
    *,
    method: str | Matcher = "activations",
    combine: str | Combiner = "average",
    statistics: Sequence[StatisticsLike] | None = None,
    recalibration: Recalibration = "auto",
    forward: Forward | None = None,
    images: int = IMAGES,
    symmetry: Symmetry | None = None,
    key: str | None = None,
    only: Patterns = (),
    except_: Patterns = (),
    heads: Heads = "merge",
    at: str | None = None,
    continuous: bool = False,
    widths: Widths = "same",
) -> Merge:
    r"""Align several trained states of one model to the first, and combine them into one.

    .. math:: \theta = \sum_j w_j P_j \theta_j

    then BatchNorm statistics are recomputed, because those of an average of networks are not the
    average of theirs. Computations are in at least float32, on the device of the model.

    Args:
        model: The architecture; its own weights and mode do not matter and are not changed. A model
            in ``DistributedDataParallel``, ``DataParallel`` or ``torch.compile`` is taken out.
        states: ``n >= 1`` states of it, each a ``state_dict()``, a trained model, or the path of a
            checkpoint (safetensors, a Hugging Face folder, or tensors that ``torch.save`` wrote;
            nothing else is unpickled). The result is in the unit order of the first. A second name
            of a tied tensor and BatchNorm's batch counters may be left out.
        batches: Unlabeled inputs: any iterable of tensors, of tuples or lists whose first element
            is the input (the rest, such as labels, is left out), or of dicts of keyword arguments.
            The input itself may be a tuple of several arguments.
        weights: One per state, >= 0, summing to 1; equal if None.
        method: A matcher's name (``dimat.matching.MATCHERS``), or a ``dimat.matching.Matcher``.
        combine: A combiner's name (``dimat.merging.COMBINERS``), or a ``dimat.merging.Combiner``.
        statistics: For every state what its owner measured on data of its own, by
            :func:`dimat.statistics`, or the path of its file; None: measured here, on the batches.
            Batches may then be left out, if the ``method`` needs none.
        recalibration: batchnorm: recompute running statistics on the batches; expected: as the
            parents' statistics let one expect, without data; none: leave them as combined; auto:
            batchnorm, unless the combiner fits statistics itself.
        forward: A function that is called as ``forward(model, *inputs)`` instead of the model.
        images: The largest number of samples of the batches that are used.
        symmetry: A symmetry given by hand (``Symmetry.from_axes``), for a model that cannot be
            exported. It is proved on the batches if there are any; they may be left out. Without
            the model's graph no activations are compared and no layers are fitted, so that it needs
            ``method="weights"``.
        key: The entry of every checkpoint that is the state, or a prefix of the names in it; None:
            ``state_dict``, ``model_state_dict`` or ``model``, or the only one that holds tensors. A
            prefix that makes the names fit the model is taken off in any case.
        only: Patterns of names of entries (``"layer1.*"``) that are merged; the rest is the first
            parent's, but for BatchNorm statistics that are recomputed. Empty: all.
        except_: Patterns of names of entries that are not merged.
        heads: merge: parents differ in values only; keep: they may differ in the shape of their
            heads (in the number of classes), each of which goes with the merged trunk, as does
            all that ``only`` and ``except_`` leave alone (:attr:`Merge.heads`).
        at: Name of a submodule, such as ``"encoder"``, for a model that cannot be exported as a
            whole: its units are matched, on what the first parent calls it with; all around it is
            combined as it is, and so fits only if the parents have it in one unit order.
        continuous: Whether parents are aligned by matrices too, where nothing nonlinear stands
            between two weights (heads of attention, normed residual streams, LoRA): see
            :func:`dimat.find_continuous_symmetry`. The result has the gains of the first's norms.
        widths: same: all parents have the shapes of the model; pad: some may be narrower. They get
            silent units, as by :func:`dimat.widen`, and what a unit reads is averaged over those
            parents only that have the unit; the model is that of the widest.

    Returns:
        The merged state, in the dtypes of the first, and the matchings of the parents.

    Raises:
        ConfigError: If a name is unknown, an argument is of a kind that has no meaning here,
            ``images`` is not positive, a symmetry is given by hand and something needs the
            model's graph, or units are to be compared without batches.
        DataError: If there are no batches where they are needed, or they hold nothing to compare
            units on.
        ModelError: If a batch does not fit the model, or the model cannot be captured.
        StructureError: If a state lacks a key, has another shape, or holds NaN or infinity, a file
            cannot be read, statistics are not those of the states, or weights do not sum to 1.

    References:
        Saadati et al., "DIMAT", CVPR 2024; Jordan et al., "REPAIR", ICLR 2023.
    """
    matcher = _matcher(method)
    combiner = _combiner(combine, statistics)
    check_known("recalibration", recalibration, RECALIBRATIONS)
    check_known("heads", heads, HEADS)
    check_known("widths", widths, WIDTHS)
    with in_words("merging"):
        listed = _listed(states)
        weights = fair_weights(weights, len(listed))
        sent = read_statistics(statistics, combiner, len(listed))
        parents = Parents.of(
            model,
            listed,
            batches,
            forward=forward,
            images=images,
            symmetry=symmetry,
            shapes=next((own.inputs for own in sent.values()), ()),
            key=key,
            heads=heads == "keep",
            at=at,
            widths=widths,
        )
        kept = kept_of(parents, only, except_, heads, sent)
        check_norms(parents.model, kept, combiner)
        parents = parents.without_heads(kept) if heads == "keep" else parents
        check_continuous(continuous, sent, heads, padded=any(parents.paddings))
        found = _merge(
            parents, matcher, combiner, recalibration, weights, sent, kept, heads, continuous
        )
        return replace(
            found,
            settings={
                "method": _called(matcher, MATCHERS),
                "combine": _called(combiner, COMBINERS),
                "weights": [*weights],
                "statistics": bool(sent),
                "recalibration": recalibration,
                "images": images,
                "symmetry": "found" if symmetry is None else "given",
                "kept": sorted(kept),
                "heads": heads,
                "at": at,
                "continuous": continuous,
                "widths": widths,
                "version": version("dimat"),
            },
        )


def _matcher(method: str | Matcher) -> Matcher:
    return chosen("method", method, MATCHERS, ["match"])


def _combiner(combine: str | Combiner, statistics: object) -> Combiner:
    if statistics is not None:
        return with_statistics(combine)
    return chosen("combine", combine, COMBINERS, ["combine", "needs_batches"])


def _called(thing: object, registry: Registry[Any]) -> str:
    """The name that a matcher or combiner is registered by; else that of its class."""
    return registry.name_of(thing) or type(thing).__name__


def _listed(states: Iterable[StateLike]) -> list[StateLike]:
    """Several states as a list, from any iterable of states.

    Raises:
        ConfigError: If it is one state, whose entries could be taken for states, or no iterable.
    """
    alone = (str, os.PathLike, Mapping, nn.Module)
    if isinstance(states, alone) or not isinstance(states, Iterable):
        raise ConfigError(
            f"'states' is {quoted(states)}: must be a list of states, models or files, such as "
            "[a, b]"
        )
    return list(states)


def _merge(
    parents: Parents,
    matcher: Matcher,
    combiner: Combiner,
    recalibration: Recalibration,
    weights: Sequence[float],
    sent: Mapping[str, Statistics],
    kept: frozenset[str],
    heads: Heads,
    continuous: bool,
) -> Merge:
    values = fitting_values(parents, combiner, sent)
    matchings = parents.match(matcher, weights)
    aligned = parents.align(matchings)
    moved = moved_values(parents, combiner, values, matchings)
    notes = parents.all_notes
    if continuous:
        aligned, note = parents.rotate(aligned)
        notes = (*notes, note)
    own = parents.own(matchings, aligned)
    full = parents.filled(matchings, own, weights)
    merged, parts = parents.combine_part(combiner, full, weights, kept, moved)
    again = recalibration != "expected" and recalibrates(recalibration, combiner, parents.at)
    if recalibration == "expected":
        merged = parents.expect(merged, parts, weights)
    elif again:
        merged = parents.recalibrate(merged) or merged
    each = parents.with_heads(merged, own, kept, again=again) if heads == "keep" else []

    def rounded(states: Sequence[State]) -> tuple[State, ...]:
        return tuple(parents.rounded(state, number) for number, state in enumerate(states))

    return Merge(
        parents.rounded(merged),
        tuple(matchings),
        rounded(own),
        parents.analysis.symmetry,
        notes,
        rounded(each),
    )


def kept_of(
    parents: Parents,
    only: Patterns,
    except_: Patterns,
    heads: Heads,
    statistics: Mapping[str, Statistics],
) -> frozenset[str]:
    """The entries that a merge leaves alone.

    Args:
        parents: The parents.
        only: As :func:`merge` takes it.
        except_: As :func:`merge` takes it.
        heads: As :func:`merge` takes it.
        statistics: Statistics that were given.

    Raises:
        ConfigError: If a pattern fits nothing, nothing is left to merge or to keep, or heads of
            other shapes, or a submodule, come with what cannot be used with them.
    """
    kept = kept_entries(parents.model, only, except_) | parents.differing
    if heads == "keep" and not kept:
        raise ConfigError(
            "'heads' is 'keep', and nothing tells which entries are heads, as all have one shape: "
            "name them by 'except_' (--except 'fc.*')"
        )
    if parents.at is not None and statistics:
        raise ConfigError(
            f"'statistics' are of whole networks, and 'at' is '{parents.at}': give batches instead"
        )
    if any(parents.paddings) and statistics:
        raise ConfigError(
            "'statistics' are of networks of one width, and 'widths' is 'pad': give batches instead"
        )
    if parents.differing and statistics:
        raise ConfigError(
            "'statistics' are of whole networks, and the heads of these differ in their shape: "
            "give batches instead"
        )
    if parents.differing and parents.symmetry is not None:
        raise ConfigError(
            "'symmetry' is of one head, and the heads of these parents differ in their shape: "
            "leave it out, so that it is found for each"
        )
    return kept


def check_continuous(
    continuous: bool, statistics: Mapping[str, Statistics], heads: Heads, *, padded: bool
) -> None:
    """Refuse to align by matrices what they do not move.

    Args:
        continuous: As :func:`merge` takes it.
        statistics: Statistics that were given.
        heads: As :func:`merge` takes it.
        padded: Whether a parent was widened.

    Raises:
        ConfigError: If there is such a thing.
    """
    if continuous and (statistics or heads == "keep" or padded):
        raise ConfigError(
            "'continuous' is True, and matrices move neither 'statistics' that were sent nor heads "
            "of other shapes nor units that were added: leave one of both out"
        )


def recalibrates(recalibration: str, combiner: Combiner, at: str | None = None) -> bool:
    """Whether BatchNorm statistics are recomputed after a combiner.

    Args:
        recalibration: As :func:`merge` takes it.
        combiner: The combiner.
        at: As :func:`merge` takes it: a combiner does not fit the statistics around a submodule.
    """
    if recalibration == "auto":
        return not calibrates(combiner) or at is not None
    return recalibration in ("batchnorm", "expected")


def fair_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of some states.

    Args:
        weights: The weights as a user gave them; None for equal ones.
        count: Number of states.

    Raises:
        ConfigError: If they are no numbers.
        StructureError: If their number is another one, or they are not >= 0 with a sum of 1.
    """
    if not count:
        raise StructureError("no states: give at least one")
    try:
        own = [1 / count] * count if weights is None else [float(w) for w in weights]
    except (TypeError, ValueError) as error:
        rule = f"{count} numbers, one for each state, or None"
        raise ConfigError(f"'weights' is {quoted(weights)}: must be {rule}") from error
    if len(own) != count or any(not w >= 0 for w in own) or not abs(sum(own) - 1) <= 1e-6:
        raise StructureError(
            f"weights {[round(w, 6) for w in own]} for {count} states: give one each, >= 0, "
            "summing to 1"
        )
    return own
