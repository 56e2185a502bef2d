"""Tables for the terminal: how agents are, and whether one could run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimat.errors import shown
from dimat.exchange.network.status import Answer
from dimat.tools.format import NOTHING

if TYPE_CHECKING:
    from dimat.experiment.single_agent.check import Finding

_COLUMNS = ("agent", "round", "acc %", "standing", "heard", "since", "address")
_RIGHT = {"agent", "round", "acc %", "heard"}
_DIALS = "none: it only dials"
_GRADES = {"ok": "OK", "note": "note", "mend": "MEND"}


def status_table(run: str, answers: Sequence[Answer]) -> RenderableType:
    """Tables of agents: a row for each that was asked, and below it in full what was last amiss.

    Args:
        run: Name of the run.
        answers: What each said.
    """
    here = sum(answer.status is not None for answer in answers)
    table = _table(f"Run {run} · {here} of {len(answers)} agents answer")
    for name in _COLUMNS:
        last = name == _COLUMNS[-1]
        justify: Literal["left", "right"] = "right" if name in _RIGHT else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not last)
    amiss = _table()
    amiss.add_column("agent", justify="right", no_wrap=True)
    amiss.add_column("last amiss", overflow="fold")
    for answer in answers:
        table.add_row(*map(Text, (str(answer.agent), *_cells(answer), answer.address or _DIALS)))
        if text := _amiss(answer):
            amiss.add_row(str(answer.agent), text)
    return Group(table, amiss) if amiss.row_count else table


def _table(title: str | None = None) -> Table:
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def check_table(agent: int, found: Sequence[Finding]) -> Table:
    """Table of what was looked at before a run: whether all is well, or what to mend.

    Args:
        agent: The agent's number.
        found: What was found, one by one.
    """
    table = _table(f"Agent {agent} before a run")
    table.add_column("", no_wrap=True, width=5)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for own in found:
        mark = Text(_GRADES[own.grade], style="bold" if own.grade == "mend" else "")
        table.add_row(mark, Text(own.what), Text(own.found))
    return table


def _cells(answer: Answer) -> list[str]:
    """What an agent says of itself, in a few characters each."""
    found = answer.status
    if found is None:
        return [NOTHING] * 5
    round_, rounds = (_text(found.get(name), ".0f") for name in ("round", "rounds"))
    standing = "checks" if found.get("check") is True else found.get("standing")
    heard, neighbors = found.get("heard"), found.get("neighbors")
    both = isinstance(heard, list) and isinstance(neighbors, dict)
    return [
        round_ if rounds == NOTHING else f"{round_}/{rounds}",
        _score(found),
        shown(standing, 8) if isinstance(standing, str) else NOTHING,
        f"{len(heard)}/{len(neighbors)}" if both else NOTHING,  # type: ignore[arg-type]
        _time(found.get("since")),
    ]


def _amiss(answer: Answer) -> Text | None:
    """Why an agent does not answer, or what was last amiss with its neighbors; None: nothing."""
    if answer.status is None:
        return Text(f"no answer: {answer.why}", style="bold") if answer.address else None
    own = answer.status.get("incident")
    if not isinstance(own, Mapping):
        return None
    when = f"in round {own.get('round')}"
    return Text(f"{when}, agent {own.get('agent')} {own.get('what')}: {own.get('why')}")


def _text(value: Any, form: str, times: float = 1) -> str:
    """A number that a peer said, if it is one."""
    known = isinstance(value, (int, float)) and abs(value) < 1e9
    return format(times * value, form) if known else NOTHING


def _score(found: Mapping[str, Any]) -> str:
    """Accuracy in percent, or the main metric of another task, by its name."""
    if isinstance(found.get("metric"), str):
        return f"{shown(found['metric'], 12)} {_text(found.get('score'), '.3g')}"
    return _text(found.get("accuracy"), ".1f", 100)


def _time(value: Any) -> str:
    """A moment in the time of here: of today the hour, else the date."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1 << 35:
        return NOTHING
    moment = datetime.fromtimestamp(value)
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%b %d}"
