"""The partition of the training images among the agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import DataError, look_up, quoted
from dimat.registry import Registry, a_function
from dimat.text import brief

Indices = NDArray[np.int64]
OWN = "own"  # the split that deals nothing out: every agent has a source of its own
_NONE = 1e-300  # for a division by the number of labels, where there are none
_MUCH_SKEW = 0.1  # dirichlet parts with alpha 10 have about that, with alpha 1 three times it


@dataclass(frozen=True)
class Partition:
    """The training images of each agent, in pre-training and in the rounds.

    Args:
        pretrain: For every agent the indices of the images used before the first merge.
        rounds: For every agent the indices of the images used after it; often the same.
    """

    pretrain: list[Indices]
    rounds: list[Indices]

    __repr__ = brief


def partition(
    name: str, labels: Tensor, agents: int, *, seed: int, alpha: float, batch_size: int
) -> Partition:
    """The partition by one of :data:`SPLITS`, in which every agent has at least one full batch.

    Args:
        name: Name of the split, one of :data:`SPLITS`, such as iid.
        labels: (n,) labels of the training images; one and the same where there are no classes.
        agents: Number of agents, >= 1.
        seed: Seed of the random choices.
        alpha: Concentration of the dirichlet split, > 0.
        batch_size: Number of images in a training step.

    Raises:
        ConfigError: If no such split is known.
        DataError: If an agent has less than a batch, or the split gives no partition of these
            images.
    """
    deal = look_up("data.split", name, SPLITS)
    random = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    dealt = as_partition(deal(labels.numpy(), agents, alpha, random), name, agents, len(labels))
    for parts in (dealt.pretrain, dealt.rounds):
        check_batches(parts, name, batch_size)
    return dealt


def as_partition(found: object, name: str, agents: int, count: int) -> Partition:
    """What a split gave, as a partition: indices may be arrays, tensors or lists.

    Args:
        found: What it gave.
        name: Of the split, for the message.
        agents: Number of agents.
        count: Number of training images.

    Raises:
        DataError: If it is no partition, has another number of parts, or a part is not of indices
            in [0, count).
    """
    if not isinstance(found, Partition):
        raise DataError(
            f"split '{name}' gives what is {quoted(found)}: must be a dimat.data.Partition("
            "pretrain, rounds), each with the indices of every agent"
        )
    pretrain = _as_indices(found.pretrain, name, agents, count)
    if found.rounds is found.pretrain:
        return Partition(pretrain, pretrain)
    return Partition(pretrain, _as_indices(found.rounds, name, agents, count))


def _as_indices(parts: Sequence[object], name: str, agents: int, count: int) -> list[Indices]:
    """The parts of all agents as arrays of indices."""
    if not isinstance(parts, Sequence) or len(parts) != agents:
        has = f"{len(parts)} parts" if isinstance(parts, Sequence) else f"what is {quoted(parts)}"
        raise DataError(
            f"split '{name}' gives {has}: must be a list of {agents} parts, one for every agent"
        )
    found = []
    for agent, part in enumerate(parts):
        own = np.asarray(part)
        if own.ndim != 1 or (own.size and not np.issubdtype(own.dtype, np.integer)):
            raise DataError(
                f"split '{name}' gives agent {agent} an array of shape {own.shape} of {own.dtype}: "
                "must be (n,) indices of training samples, whole numbers"
            )
        if own.size and not 0 <= int(own.min()) <= int(own.max()) < count:
            raise DataError(
                f"split '{name}' gives agent {agent} indices from {own.min()} to {own.max()}: "
                f"there are {count} training samples, 0 to {count - 1}"
            )
        found.append(own.astype(np.int64, copy=False))
    return found


def own_images(labels: Tensor, agent: int, *, batch_size: int) -> Partition:
    """The partition of one agent whose training images are all its own, as its only entry.

    Args:
        labels: (n,) labels of the training images.
        agent: The agent's number, for the message.
        batch_size: Number of images in a training step.

    Raises:
        DataError: If there is less than a batch.
    """
    if len(labels) < batch_size:
        raise DataError(
            f"agent {agent} has {len(labels)} training samples of its own: it needs a full batch "
            f"of {batch_size}; use a smaller batch_size, or more samples"
        )
    every = [np.arange(len(labels), dtype=np.int64)]
    return Partition(every, every)


def are_skewed(parts: Sequence[Indices], labels: Tensor) -> bool:
    """Whether agents' class shares differ by more than those of random parts, and by much.

    Args:
        parts: The images of each agent.
        labels: (n,) labels of all training images; or (n, classes) the share of every class in each
            of them, where a sample has several (0 of all: it has none).
    """
    return label_skew(parts, labels) > drawn_skew(parts, labels) + _MUCH_SKEW


def label_skew(parts: Sequence[Indices], labels: Tensor) -> float:
    """The difference of the agents' class shares, in [0, 1); 0 if all have those of all images.

    The total variation distance between an agent's class shares and those of all parts together,
    in the mean over agents: the share of its images that would have to be of another class.

    Args:
        parts: The images of each agent.
        labels: As :func:`are_skewed` takes them.

    >>> import torch
    >>> halves = [np.arange(4), np.arange(4, 8)]
    >>> label_skew(halves, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    0.5
    """
    counts = np.array([_class_counts(labels, own) for own in parts])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), _NONE)
    return float(np.abs(shares - counts.sum(0) / max(counts.sum(), _NONE)).sum(1).mean() / 2)


def drawn_skew(parts: Sequence[Indices], labels: Tensor) -> float:
    r"""The label skew to expect of parts of these sizes that are drawn at random, whatever class.

    .. math:: \frac1N \sum_i \frac12 \sum_c \sqrt{\frac{2 p_c (1 - p_c)}{\pi n_i}}

    for shares :math:`p_c` of the classes and sizes :math:`n_i`: the mean distance of a normal
    variable from its mean, so too large where a class has few images. Where samples have several
    classes, :math:`p_c (1 - p_c)` is the variance of the share of class c over samples.

    Args:
        parts: The images of each agent.
        labels: As :func:`are_skewed` takes them.
    """
    every = np.concatenate(parts)
    counts = _class_counts(labels, every)
    shares = counts / max(counts.sum(), _NONE)
    variance = shares * (1 - shares) if labels.dim() == 1 else labels[every].numpy().var(0)
    sizes = np.array([len(own) for own in parts])
    spread = np.sqrt(2 * variance / (np.pi * sizes[:, None]))
    return float(spread.sum(1).mean() / 2)


def _class_counts(labels: Tensor, part: Indices) -> NDArray[np.generic]:
    """Samples of every class in a part, or the sums of the classes' shares in them."""
    own = labels[part]
    if labels.dim() > 1:
        return own.sum(0).numpy()
    return np.bincount(own.numpy(), minlength=int(labels.max()) + 1)


# Ways out of a part without a batch, beside fewer agents and smaller batches.
_OTHER_WAYS = {"iid": "", "given": "", "own": "", "dirichlet": ", or a larger data.alpha"}


def check_batches(parts: Sequence[Indices], name: str, batch_size: int) -> None:
    """Refuse parts that have less than a batch.

    Args:
        parts: The samples of each agent.
        name: Of the split, for the message.
        batch_size: Number of samples in a training step.

    Raises:
        DataError: For the first agent that has less.
    """
    for agent, part in enumerate(parts):
        if len(part) < batch_size:
            raise DataError(
                f"split '{name}' gives agent {agent} {len(part)} training samples: it needs a full "
                f"batch of {batch_size}; use fewer agents (now {len(parts)}), a smaller batch_size"
                + _OTHER_WAYS.get(name, ", or data.split iid, which deals out equal shares")
            )


def _by_label(labels: NDArray[np.int64], random: np.random.Generator) -> list[Indices]:
    """The indices of every class, shuffled."""
    classes = range(int(labels.max()) + 1)
    return [random.permutation(np.flatnonzero(labels == c)).astype(np.int64) for c in classes]


def _deal_iid(labels: Indices, agents: int, random: np.random.Generator) -> list[Indices]:
    """Equal stratified shares: the images of one class after another are dealt in turn."""
    order = np.concatenate(_by_label(labels, random))
    return [np.sort(order[agent::agents]) for agent in range(agents)]


def _deal_by_class(labels: Indices, agents: int, random: np.random.Generator) -> list[Indices]:
    """Shares of whole classes; with more agents than classes, agents of one class share it."""
    classes = int(labels.max()) + 1
    if agents <= classes:  # nothing is drawn
        owner = labels % agents
        return [np.flatnonzero(owner == agent).astype(np.int64) for agent in range(agents)]
    dealt = [np.empty(0, np.int64)] * agents
    for c, images in enumerate(_by_label(labels, random)):
        sharing = range(c, agents, classes)
        for k, agent in enumerate(sharing):
            dealt[agent] = np.sort(images[k :: len(sharing)])
    return dealt


def iid(labels: Indices, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    """The iid split: equal stratified shares."""
    parts = _deal_iid(labels, agents, random)
    return Partition(parts, parts)


def by_class(labels: Indices, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    """The split by class: class c is agent c mod N's; of N > C agents, i shares class i mod C."""
    parts = _deal_by_class(labels, agents, random)
    return Partition(parts, parts)


def dirichlet(labels: Indices, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    """The dirichlet split: the agents' shares of every class have a Dirichlet distribution."""
    parts: list[list[Indices]] = [[] for _ in range(agents)]
    for own in _by_label(labels, random):
        shares = random.dirichlet(np.full(agents, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(own)).astype(np.int64)
        for agent, piece in enumerate(np.split(own, cuts)):
            parts[agent].append(piece)
    dealt = [np.sort(np.concatenate(pieces)) for pieces in parts]
    return Partition(dealt, dealt)


def iid_then_by_class(
    labels: Indices, agents: int, alpha: float, random: np.random.Generator
) -> Partition:
    """The split in which a stratified half is iid, to pre-train, and the rest by class."""
    first, second = _deal_iid(labels, 2, random)
    return Partition(
        [first[part] for part in _deal_iid(labels[first], agents, random)],
        [second[part] for part in _deal_by_class(labels[second], agents, random)],
    )


SPLITS: Registry[Callable[[Indices, int, float, np.random.Generator], Partition]] = Registry(
    "data.split",
    "dimat.splits",
    {
        "iid": iid,
        "by-class": by_class,
        "dirichlet": dirichlet,
        "iid-then-by-class": iid_then_by_class,
    },
    a_function("labels", "agents", "alpha", "random"),
)


# The splits that deal out whole classes, or shares of them.
BY_CLASS = ("by-class", "dirichlet", "iid-then-by-class")


def hold_out(
    dealt: Partition, labels: Tensor, share: float, *, batch_size: int, seed: int
) -> Partition:
    """The validation images of every agent, which it does not train on.

    Args:
        dealt: The partition of the training images.
        labels: (n,) labels of the training images.
        share: Share of an agent's images, in [0, 0.5], stratified; a full batch is always left to
            train.
        batch_size: Number of images in a training step.
        seed: Seed of the choice.
    """
    own = labels.numpy()

    def held(parts: Sequence[Indices]) -> list[Indices]:
        return [part[held_out(own[part], share, batch_size, seed)] for part in parts]

    pretrain = held(dealt.pretrain)
    return Partition(pretrain, pretrain if dealt.rounds is dealt.pretrain else held(dealt.rounds))


def held_out(labels: Indices, share: float, batch_size: int, seed: int) -> NDArray[np.bool_]:
    """The stratified mask of one agent's validation images.

    Args:
        labels: (n,) labels of the agent's images.
        share: As :func:`hold_out` takes it.
        batch_size: Number of images in a training step.
        seed: Seed of the choice.
    """
    random = np.random.default_rng(np.random.SeedSequence([seed, 79]))
    shuffled = random.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    count = max(0, min(round(share * len(labels)), len(labels) - batch_size))
    held = np.zeros(len(labels), np.bool_)
    if count:
        picked = np.floor((np.arange(count) + 0.5) * (len(labels) / count)).astype(np.int64)
        held[order[picked]] = True
    return held


def subset(labels: Tensor, num: int, seed: int) -> Indices:
    """The indices of a random subset of images, stratified by class.

    Args:
        labels: (n,) labels of the images.
        num: Number of indices.
        seed: Seed of the choice.

    Raises:
        DataError: If there are fewer images.
    """
    if num > len(labels):
        raise DataError(f"setting 'data.train_images' is {num}: there are only {len(labels)}")
    random = np.random.default_rng(np.random.SeedSequence([seed, 78]))
    own = labels.numpy()
    order = np.concatenate(_by_label(own, random))
    picked = order[np.floor(np.arange(num) * (len(order) / num)).astype(np.int64)]
    return np.sort(picked)
