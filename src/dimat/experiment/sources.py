"""The data that the settings of a run name: one source for all agents, or one of each agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.data import (
    Dataset,
    Partition,
    Rows,
    SourceOptions,
    in_batches,
    joined,
    load_dataset,
    own_images,
    subset,
    tensor_of,
)
from dimat.data.dataset import Part, Tell
from dimat.errors import DataError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.places import AGENT
from dimat.tasks import TASKS, LabelTask, Regression, Task, scaled

_FEW = 20  # different whole numbers that may be classes
_AT_ONCE = 4096  # targets of which labels are counted together
_FAR = 10.0  # times the size of 1: far from standard units


def source_options(config: RunConfig) -> SourceOptions:
    """The settings that sources may ask for; with a source of test samples, others have none."""
    data = config.data
    return SourceOptions(
        kind=data.kind,
        target=data.target,
        leave_out=data.leave_out,
        categories=data.categories,
        fill=data.fill,
        text=data.text or "",
        tokenizer=data.tokenizer or "",
        max_length=data.max_length,
        test_share=data.test_share if data.test_source is None else 0.0,
    )


def task_of(config: RunConfig) -> Task:
    """The task of a run, with what settings say of the targets' scale."""
    return scaled(TASKS[config.task], config.data.target_mean, config.data.target_scale)


def target_notes(task: Task, targets: Rows, *, own: bool) -> list[str]:
    """What a user should know of the targets of a regression; empty of another task.

    Args:
        task: The task, with its scale.
        targets: All training targets, (n, outputs).
        own: Whether they are those of one agent, and others have theirs.
    """
    if not isinstance(task, Regression) or not isinstance(targets, Tensor):
        return []  # those that stay in their source are not read for a note
    found = []
    each = torch.unique(targets)
    if targets.shape[1] == 1 and _may_be_classes(each):
        found.append(
            f"targets are the whole numbers {each[0]:g} to {each[-1]:g}: regression takes them for "
            "amounts, --task classification for classes"
        )
    y = targets.double()
    mean, sd = float(y.mean()), float(y.std(correction=0))
    shift, size = abs(mean - task.mean) / task.scale, sd / task.scale
    if sd and (max(shift, size) > _FAR or size < 1 / _FAR):
        alike = ", the same at all agents" if own else ""
        found.append(
            f"targets have mean {mean:.3g} and standard deviation {sd:.3g}: they are learned "
            f"better with --data.target_mean {mean:.3g} --data.target_scale {sd:.3g}{alike}"
        )
    return found


def _may_be_classes(each: Tensor) -> bool:
    """Whether the different values are a few whole numbers, counted from 0 or 1 without a gap."""
    counted = torch.arange(len(each)) + each[0]
    return 1 < len(each) <= _FEW and each[0] in (0, 1) and torch.equal(each, counted)


def load_source(
    config: RunConfig, tell: Tell, needs: Sequence[Part], agent: int | None = None
) -> Dataset:
    """The data set of ``data.source``, with ``data.train_images`` of its training samples.

    Args:
        config: Every setting.
        tell: Listener to the decoding of images.
        needs: The parts that must have samples.
        agent: The agent whose source it is; None: that of all.

    Raises:
        DataError: If the data cannot be used.
    """
    source, task = config.data.source, TASKS[config.task]
    if agent is not None:
        source = source.replace(AGENT, str(agent))
    found = load_dataset(
        source,
        tell,
        task=task,
        classes=config.data.classes,
        needs=needs,
        options=source_options(config),
    )
    return thinned(found, config, task)


def thinned(dataset: Dataset, config: RunConfig, task: Task) -> Dataset:
    """A data set with ``data.train_images`` of its training samples, stratified; null: all."""
    if config.data.train_images is None:
        return dataset
    labels = class_labels(dataset, task)
    return dataset.only(subset(labels, config.data.train_images, config.seed))


def class_labels(dataset: Dataset, task: Task) -> Tensor:
    """The class of every training sample, by which they are dealt out; 0 where there are none."""
    if task.has_classes:
        return tensor_of(dataset.train_y)
    return torch.zeros(len(dataset.train_y), dtype=torch.int64)


def label_distribution(dataset: Dataset, task: Task) -> Tensor:
    """Labels of the training samples, by which agents' data may differ.

    Returns:
        (n,) the class of each; (n, labels) the shares of each where a sample has several, as of
        pixels; (n,) of 0 where the task knows no labels.
    """
    if not task.has_classes and isinstance(task, LabelTask):
        y, width = dataset.train_y, dataset.num_outputs(task)
        each = [task.label_shares(own, width) for own, _ in in_batches(y, y, _AT_ONCE)]
        return torch.cat(each)  # of those that stay in their source, too
    return class_labels(dataset, task)


def load_each(config: RunConfig, tell: Tell) -> tuple[Dataset, Partition]:
    """The data sets of all agents as one, and the partition that gives each its own.

    Args:
        config: Every setting; ``data.source`` has a place for the agent's number.
        tell: Listener to the decoding of images.

    Raises:
        DataError: If the data of an agent cannot be used, are not like those of agent 0, or nobody
            has test samples.
    """
    each = [load_source(config, tell, ("train",), agent) for agent in range(config.agents)]
    parts: list[NDArray[np.int64]] = []
    start = 0
    for agent, own in enumerate(each):
        check_alike(each[0], own, agent)
        (mine,) = own_images(tensor_of(own.train_y), agent, batch_size=config.batch_size).rounds
        parts.append(mine + start)
        start += len(mine)
    whole = replace(
        each[0],
        train_x=joined([own.train_x for own in each]),
        train_y=joined([own.train_y for own in each]),
        test_x=joined([own.test_x for own in each]),
        test_y=joined([own.test_y for own in each]),
    )
    if config.data.test_source is None:
        whole.check_usable(config.data.source, ("test",), counted=False)
    return whole, Partition(parts, parts)


def check_alike(first: Dataset, own: Dataset, agent: int) -> None:
    """Refuse the data of an agent that are not like those of agent 0.

    Args:
        first: The data of agent 0.
        own: The data of the agent.
        agent: Its number.

    Raises:
        DataError: With the column, the shape or the number that differs.
    """
    for column, other in _differing(first.columns, own.columns):
        if column and other:
            what = f"'{other}' where agent 0 has '{column}': list its categories in data.categories"
        elif other:
            what = f"a column '{other}', which agent 0 has not: leave it out with data.leave_out"
        else:
            what = f"no column '{column}', which agent 0 has: add it, or leave it out at agent 0"
        raise DataError(f"the data of agent {agent} have {what}, so that inputs are alike")
    for what, one, two in (
        ("inputs of shape", first.input_shape, own.input_shape),
        ("inputs of", first.train_x.dtype, own.train_x.dtype),
        ("targets of shape", tuple(first.train_y.shape[1:]), tuple(own.train_y.shape[1:])),
        ("a vocabulary of", first.vocabulary, own.vocabulary),
    ):
        if one != two:
            raise DataError(
                f"the data of agent {agent} have {what} {two}, and those of agent 0 {one}: they "
                "must be alike"
            )


def _differing(first: Sequence[str], own: Sequence[str]) -> list[tuple[str, str]]:
    """What two tables say of each column where that differs; empty where one has no such column."""
    by_name = [{column.partition("=")[0]: column for column in of} for of in (first, own)]
    names = dict.fromkeys([*by_name[0], *by_name[1]])
    pairs = [(by_name[0].get(name, ""), by_name[1].get(name, "")) for name in names]
    found = [pair for pair in pairs if pair[0] != pair[1]]
    if not found and tuple(first) != tuple(own):  # the same ones in another order
        return [(a, b) for a, b in zip(first, own, strict=True) if a != b]
    return found
