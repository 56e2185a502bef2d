"""Tables for the terminal: how agents are, and whether one could run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from dimat.errors import shown
from dimat.exchange.network.status import Answer
from dimat.experiment.single_agent.check import Finding
from dimat.tools.format import NOTHING

_COLUMNS = ("agent", "address", "round", "acc %", "standing", "heard", "since", "last incident")
_RIGHT = {"agent", "round", "acc %", "heard"}
_GRADES = {"ok": "OK", "note": "note", "mend": "MEND"}
_WIDE = 100  # columns of a terminal


def status_table(run: str, answers: Sequence[Answer], width: int) -> Table:
    """Table of agents: a row for each that was asked, and the reason if it did not answer.

    Args:
        run: Name of the run.
        answers: What each said.
        width: Columns of the terminal: what they leave to the last incident is cut to fit.
    """
    gap = int(width >= _WIDE)  # beside the one that a box has
    here = sum(answer.status is not None for answer in answers)
    table = Table(
        title=f"Run {run} · {here} of {len(answers)} agents answer",
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )
    rows = [
        (Text(str(x.agent)), Text(x.address or NOTHING), *_cells(x, wide=gap > 0)) for x in answers
    ]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    widths[1] = min(widths[1], 30 if gap else 21)
    widths[-1] = max(width - sum(widths[:-1]) - (1 + gap) * len(widths) - 1, 10)
    for name, own in zip(_COLUMNS, widths, strict=True):
        table.add_column(
            name,
            width=own + gap,
            justify="right" if name in _RIGHT else "left",
            overflow="fold" if name == "address" else "ellipsis",
            no_wrap=name != "address",
        )
    for row in rows:
        table.add_row(*row)
    return table


def check_table(agent: int, found: Sequence[Finding]) -> Table:
    """Table of what was looked at before a run: whether all is well, or what to mend.

    Args:
        agent: The agent's number.
        found: What was found, one by one.
    """
    table = Table(
        title=f"Agent {agent} before a run",
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True, width=5)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for own in found:
        mark = Text(_GRADES[own.grade], style="bold" if own.grade == "mend" else "")
        table.add_row(mark, Text(own.what), Text(own.found))
    return table


def _cells(answer: Answer, *, wide: bool) -> list[Text]:
    """What an agent says of itself; why it says nothing is told in full."""
    found = answer.status
    if found is None:
        why = Text(answer.why, style="bold" if answer.address else "", overflow="fold")
        why.no_wrap = False
        return [*[Text(NOTHING)] * 5, why]
    round_, rounds = (_text(found.get(name), ".0f") for name in ("round", "rounds"))
    standing = "checks" if found.get("check") is True else found.get("standing")
    heard, neighbors = found.get("heard"), found.get("neighbors")
    both = isinstance(heard, list) and isinstance(neighbors, dict)
    return [
        Text(round_ if rounds == NOTHING else f"{round_}/{rounds}"),
        Text(_text(found.get("accuracy"), ".1f", 100)),
        Text(shown(standing, 8) if isinstance(standing, str) else NOTHING),
        Text(f"{len(heard)}/{len(neighbors)}" if both else NOTHING),  # type: ignore[arg-type]
        Text(_time(found.get("since"))),
        Text(_incident(found.get("incident"), wide=wide)),
    ]


def _text(value: Any, form: str, times: float = 1) -> str:
    """A number that a peer said, if it is one."""
    known = isinstance(value, (int, float)) and abs(value) < 1e9
    return format(times * value, form) if known else NOTHING


def _time(value: Any) -> str:
    """A moment in the time of here: of today the hour, else the date."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1 << 35:
        return NOTHING
    moment = datetime.fromtimestamp(value)
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%b %d}"


def _incident(value: Any, *, wide: bool) -> str:
    """An incident in a line, its beginning first: the end may be cut."""
    if not isinstance(value, Mapping):
        return NOTHING
    when = f"round {value.get('round')}: agent " if wide else ""
    return f"{when}{value.get('agent')} {value.get('what')}: {value.get('why')}"
