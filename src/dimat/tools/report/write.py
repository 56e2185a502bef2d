"""``dimat report``: write a folder or one file that opens in a browser, whole or not at all."""

from __future__ import annotations

import os
import shutil
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from markupsafe import Markup

from dimat.errors import ConfigError, check_kind
from dimat.experiment.config.places import check_path
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import compare
from dimat.tools.report.numbers import numbers
from dimat.tools.report.page import MARKER, packed, page

if TYPE_CHECKING:
    from dimat.experiment.record.results import RunResult

Run: TypeAlias = "str | os.PathLike[str] | RunResult"
OVERWRITE = "--overwrite (in Python overwrite=True)"  # in messages
_ASSETS = ("report.css", "report.js")
_CONTENTS = {"index.html", "data.csv", "plotly.min.js", *_ASSETS}
_SIGN = f'<meta name="generator" content="{MARKER}">'


def report(
    runs: Run | Sequence[Run], out: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a page of plots and tables on runs and comparisons; the same as ``dimat report``.

    Args:
        runs: A folder of a run or a comparison, or what :func:`dimat.run` returned; or several, in
            the order to show them.
        out: The folder to write, missing or empty; or a missing file that ends in ``.html``, which
            then needs no other.
        overwrite: Whether an earlier report in ``out`` is replaced, if nothing else is in there.

    Returns:
        Path of the page: ``out/index.html``, or ``out`` if that is one file.

    Raises:
        RecordError: If an input cannot be read; nothing is written then.
        ConfigError: If ``out`` exists and must not be replaced, or cannot be written, or one of
            ``runs`` is something else.
    """
    paths = _folders(runs)
    check_kind("out", out, (str, os.PathLike), "the path of a folder or of an .html file")
    out = check_path("out", os.fspath(out), spare=16)
    alone = out.suffix.lower() == ".html"
    if alone:
        _check_file(out, overwrite=overwrite)
    else:
        _check_folder(out, overwrite=overwrite)
    compared = compare(read_sources(paths))
    from plotly.offline import get_plotlyjs

    own = files("dimat.tools.report") / "assets"
    texts = {name: (own / name).read_text(encoding="utf-8") for name in _ASSETS}
    texts |= {"data.csv": numbers(compared), "plotly.min.js": str(get_plotlyjs())}
    if alone:
        _write_file(out, page(compared, _inlined(texts)))
        return out
    _write_folder(out, texts | {"index.html": page(compared)})
    return out / "index.html"


def _folders(runs: object) -> list[str]:
    """The folders of runs, which may be given as results, and one alone without a list."""
    paths: list[Any] = [
        getattr(own, "folder", own) for own in (runs if isinstance(runs, list | tuple) else [runs])
    ]
    rule = "the path of a run or a comparison, or what dimat.run returned, or a list of those"
    if not paths:
        raise ConfigError(f"'runs' is an empty list: must be {rule}")
    for path in paths:
        check_kind("runs", path, (str, os.PathLike), rule)
    return [str(check_path("runs", os.fspath(path))) for path in paths]


def _inlined(texts: Mapping[str, str]) -> dict[str, str]:
    """The files beside a page as it holds them itself: data as base64, and plotly packed."""
    return {
        **{name: Markup(texts[name]) for name in _ASSETS},  # ours, and not of a user
        "data.csv": b64encode(texts["data.csv"].encode()).decode(),
        "plotly.min.js": packed(texts["plotly.min.js"]),
    }


def _check_file(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists, unless it is an earlier report and may be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"setting 'out': {out} exists: use another, or {OVERWRITE}")
    if not _is_report(out):
        raise ConfigError(
            f"setting 'out': {out} is not the page of a report and is not replaced: use another"
        )


def _check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is not empty, unless it is an earlier report and may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"setting 'out': {out} exists: use another, or {OVERWRITE}")
    if not _is_report(out / "index.html"):
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


def _is_report(page: Path) -> bool:
    return page.is_file() and _SIGN in page.read_text(encoding="utf-8", errors="replace")


def _write_file(out: Path, text: str) -> None:
    """Write a page to a file beside ``out``, then rename that one to ``out``."""
    out = out.resolve()
    partial = out.with_name(f".{out.name}.new-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise _unwritten(out, error) from error
    finally:
        with suppress(OSError):  # the disk may have become read-only
            partial.unlink(missing_ok=True)


def _write_folder(out: Path, texts: Mapping[str, str]) -> None:
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
        raise _unwritten(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _unwritten(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"setting 'out': {out} cannot be written: {error.strerror}")
