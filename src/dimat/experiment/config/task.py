"""The task of a run in its settings: its name, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dimat.errors import ConfigError, quoted
from dimat.experiment.config.places import AGENT
from dimat.experiment.config.rules import broken_rule

_DEFAULT, _DEMO = "classification", "digits"  # task and source


def default_split(config: Any) -> str:
    """What ``data.split`` auto is: with a source of each agent's own nothing is dealt out.

    Data of one's own are dealt out evenly; by class only those of the demo, as its point is that.
    """
    if AGENT in config.data.source:
        return "own"
    is_demo = config.data.source == _DEMO and config.task == _DEFAULT
    return "iid-then-by-class" if is_demo else "iid"


def has_default_split(config: Any, split: str) -> bool:
    """Whether a split is what ``data.split`` auto is, which follows task and source."""
    return split == default_split(config)


def name_task(config: Any) -> None:
    """Put a task that is given as an object into settings, and say what ``data.split`` auto is.

    Raises:
        ConfigError: If the object is not registered.
    """
    if not isinstance(config.model, str):
        raise broken_rule("model", config.model, "text; objects are given to dimat.run(model=…)")
    if not isinstance(config.task, str):
        object.__setattr__(config, "task", _name_of(config.task))
    if config.data.split == "auto":
        data = replace(config.data, split=default_split(config))
        object.__setattr__(config, "data", data)


def _name_of(given: Any) -> str:
    from dimat.tasks import TASKS

    own = given() if isinstance(given, type) and hasattr(given, "totals") else given
    for name in TASKS:
        if TASKS[name] == own:
            return name
    if not hasattr(own, "totals"):
        raise broken_rule("task", given, f"{', '.join(TASKS)}, or a task that is registered")
    raise ConfigError(
        f"setting 'task' is {quoted(given)}, which is not registered, and a run that goes on finds "
        "its task by the name: register it, as dimat.TASKS.register('my-task', task)"
    )


def check_scale(task: str, settings: Any, prefix: str = "") -> None:
    """Refuse ``target_mean`` and ``target_scale`` of a task that has no such targets.

    Args:
        task: Name of the task.
        settings: The settings, with both.
        prefix: What stands before their names in messages.

    Raises:
        ConfigError: If so.
    """
    from dimat.tasks import TASKS, Regression

    for name, default in (("target_mean", 0.0), ("target_scale", 1.0)):
        value = getattr(settings, name)
        if value != default and not isinstance(TASKS[task], Regression):
            rule = f"{default:g} with task '{task}': it is for targets of regression"
            raise broken_rule(f"{prefix}{name}", value, rule)


def check_task(config: Any) -> None:
    """Refuse settings that need classes, or a likelihood, of a task whose targets have none.

    Settings of regression are refused of others.

    Raises:
        ConfigError: With what the task can do.
    """
    from dimat.data.partition import BY_CLASS
    from dimat.merging import combiner_for
    from dimat.tasks import TASKS

    check_scale(config.task, config.data, "data.")
    if config.merging.combine != "auto":
        combiner_for(config.merging.combine, TASKS[config.task])
    if TASKS[config.task].has_classes:
        return
    without = f"with task '{config.task}', whose targets are no classes"
    if config.data.split in BY_CLASS:
        raise broken_rule("data.split", config.data.split, f"iid, or own, {without}")
    if config.loss.logits in ("own-classes", "adjusted"):
        raise broken_rule("loss.logits", config.loss.logits, f"auto or plain {without}")
    if config.loss.label_smoothing:
        raise broken_rule("loss.label_smoothing", config.loss.label_smoothing, f"0 {without}")
    if config.loss.distill:
        raise broken_rule("loss.distill", config.loss.distill, f"0 or null {without}")
    if config.data.classes:
        raise broken_rule("data.classes", config.data.classes, f"none {without}")
