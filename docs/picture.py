"""Draw docs/demo.svg: the demo, as its user sees it. Run: .venv/bin/python docs/picture.py"""

import shutil
import tempfile
from pathlib import Path

from rich.console import Console

import dimat
from dimat.experiment.display import LiveProgress, results_table

folder = Path(tempfile.mkdtemp()) / "demo"
console = Console(record=True, width=80, force_terminal=True)
console.print("[bold]$ make demo[/]")
observer = LiveProgress(Console(force_terminal=False, width=80))
observer.note = lambda text: console.print(text, highlight=False)  # type: ignore[method-assign]
result = dimat.run(dimat.RunConfig(rounds=5, out=str(folder)), observer)
full = dimat.run(dimat.RunConfig(out=str(folder.with_name("full"))))
console.print("…")
console.print(results_table(full))
console.print("run folder: runs/2026-11-24-131500-dimat")
console.save_svg(str(Path(__file__).with_name("demo.svg")), title="dimat")
shutil.rmtree(folder.parent)
