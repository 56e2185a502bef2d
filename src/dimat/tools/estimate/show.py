"""An estimate as tables, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from rich import box
from rich.console import Group
from rich.table import Table

from dimat.text import counted
from dimat.tools.estimate.forecast import Cost, Forecast

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def as_json(own: Forecast) -> dict[str, object]:
    """The forecast as JSON: FLOP, bytes and seconds as plain numbers."""
    facts, memory = own.facts, own.memory
    return {
        "model": own.config.model,
        "parameters": facts.parameters,
        "state_bytes": facts.state_bytes,
        "flops_per_image": {"forward": facts.forward_flops, "training": facts.training_flops},
        "costs": {name: _cost(cost) for name, cost in own.costs.items()},
        "memory_bytes": {
            "agent": {**memory.agent, "total": memory.per_agent},
            "shared": memory.shared,
            "total": memory.total,
        },
        "flops": own.flops,
        "start_s": own.start_s,
        "wall_s": own.wall_s,
        "calibrated_s": own.calibrated_s if own.start_s is not None else None,
    }


def _cost(cost: Cost) -> dict[str, object]:
    sent = {"total": sum(cost.sent_bytes), "agents": list(cost.sent_bytes)}
    own = asdict(cost)
    return {"flops": own["flops"], "sent_bytes": sent, "wall_s": own["wall_s"] or None}


def estimate_tables(own: Forecast, cells: int = 1) -> Group:
    """Tables for a terminal.

    Args:
        own: The estimate.
        cells: Runs of the comparison that it is the first of.
    """
    notes = [f"{cells} runs like this one make the comparison."] if cells > 1 else []
    if own.start_s is None:
        notes.append("No device was timed: expected times are left out (--no-calibrate).")
    return Group(_methods(own), _parts(own), _memory(own), *notes)


def _methods(own: Forecast) -> Table:
    config, facts = own.config, own.facts
    table = _table(
        f"{config.model}, {facts.parameters:,} parameters, {facts.forward_flops:.3g} FLOP an image "
        f"forward, {facts.training_flops:.3g} in training; {config.agents} agents, "
        f"{config.topology.name}, {config.rounds} rounds",
        ("", "FLOP", "training", "an agent sends", "all send", "time"),
    )
    for name, cost in own.costs.items():
        flops, sent = sum(cost.flops.values()), cost.sent_bytes
        table.add_row(
            name,
            f"{flops:.3g}",
            f"{100 * cost.flops['training'] / flops:.0f} %" if flops else "–",
            nbytes(max(sent)),
            nbytes(sum(sent)),
            duration(sum(cost.wall_s.values())) if cost.wall_s else "–",
        )
    table.add_section()
    total = nbytes(sum(sum(cost.sent_bytes) for cost in own.costs.values()))
    table.add_row("all", f"{own.flops:.3g}", "", "", total, duration(own.wall_s))
    return table


def _parts(own: Forecast) -> Table:
    """The table of time and arithmetic by purpose."""
    names = {part: None for cost in own.costs.values() for part in (*cost.wall_s, *cost.flops)}
    flops = _sums([cost.flops for cost in own.costs.values()])
    spent = _sums([cost.wall_s for cost in own.costs.values()])
    device = torch.cuda.get_device_name(own.config.device) if own.config.device != "cpu" else "CPU"
    title = f"What for, on this {device}, {counted(own.config.threads, 'thread')}"
    table = _table(title, ("", "FLOP", "time"))
    if own.start_s is not None:
        table.add_row("to begin with", "", duration(own.start_s))
    for name in names:
        table.add_row(
            name,
            f"{flops[name]:.3g}" if name in flops else "",
            duration(spent[name]) if name in spent else "–",
        )
    return table


def _memory(own: Forecast) -> Table:
    memory = own.memory
    table = _table("Memory in one process, beside Python and PyTorch", ("", "an agent", "once"))
    for name in {**memory.agent, **memory.shared}:
        pair = [part.get(name) for part in (memory.agent, memory.shared)]
        table.add_row(name, *(nbytes(x) if x is not None else "" for x in pair))
    table.add_section()
    table.add_row("together", nbytes(memory.per_agent), nbytes(sum(memory.shared.values())))
    table.add_row(f"all {memory.agents} agents", "", nbytes(memory.total))
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, min_width=74)
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k else "left", no_wrap=True)
    return table


def _sums(parts: list[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for own in parts for name in own}
    return {name: sum(own.get(name, 0.0) for own in parts) for name in names}


def nbytes(count: float) -> str:
    """Bytes in the unit that suits them.

    >>> nbytes(0), nbytes(1500), nbytes(2.5e9)
    ('0 B', '1.5 kB', '2.5 GB')
    """
    power = 0
    while count >= 1000 and power < len(_BYTES) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} B" if power == 0 else f"{count:.1f} {_BYTES[power]}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them; a dash if they are not known.

    >>> duration(0.25), duration(75), duration(5400), duration(2e6), duration(None)
    ('0.25 s', '75 s', '1.5 h', '23.1 days', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 1000:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 1:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.1f} days"
