"""``dimat report``: write the report folder, which opens in a browser, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from dimat.errors import ConfigError
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import compare
from dimat.tools.report.numbers import numbers
from dimat.tools.report.page import MARKER, page

_ASSETS = ("report.css", "report.js")
_CONTENTS = {"index.html", "data.csv", "plotly.min.js", *_ASSETS}
_SIGN = f'<meta name="generator" content="{MARKER}">'


def write_report(paths: Sequence[str], out: Path, *, overwrite: bool = False) -> Path:
    """Read runs and comparisons, and write a report on them.

    Args:
        paths: Folders of runs and comparisons, at least one.
        out: The folder to write; it must be missing or empty.
        overwrite: Whether an earlier report in ``out`` is replaced, if nothing else is in there.

    Returns:
        Path of the page: ``out/index.html``.

    Raises:
        RecordError: If an input cannot be read; nothing is written then.
        ConfigError: If ``out`` exists and must not be replaced, or cannot be written.
    """
    _check_out(out, overwrite=overwrite)
    compared = compare(read_sources(paths))
    from plotly.offline import get_plotlyjs

    own = files("dimat.tools.report") / "assets"
    texts = {name: (own / name).read_text(encoding="utf-8") for name in _ASSETS}
    texts |= {"index.html": page(compared), "data.csv": numbers(compared)}
    _write(out, texts | {"plotly.min.js": str(get_plotlyjs())})
    return out / "index.html"


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not empty, unless it is an earlier report and may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"setting 'out': {out} exists: use another, or --overwrite")
    index = out / "index.html"
    if not index.is_file() or _SIGN not in index.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(
            f"setting 'out': {out} is not a report (no index.html of one is in it) and is not "
            "replaced: use another"
        )
    others = sorted({path.name for path in out.iterdir()} - _CONTENTS)
    if others:
        raise ConfigError(
            f"setting 'out': {out} holds '{others[0]}', which is not of a report: move it away, or "
            "use another folder"
        )


def _write(out: Path, texts: Mapping[str, str]) -> None:
    """Write all files to a folder beside ``out``, then rename that one to ``out``."""
    out = out.resolve()
    partial, old = (out.with_name(f".{out.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    try:
        partial.mkdir(parents=True)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        if out.exists():
            out.replace(old)
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            if old.exists() and not out.exists():
                old.replace(out)
        raise ConfigError(f"setting 'out': {out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
