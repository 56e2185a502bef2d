"""Draw docs/demo.svg, the README's run as its user sees it: .venv/bin/python docs/picture.py."""

import tempfile
from pathlib import Path

from rich.console import Console

import dimat
from dimat.experiment.progress import Silent
from dimat.experiment.tables import results_table


class Notes(Silent):
    """Keeps every line of news."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


def main() -> None:
    """Run it, and draw it."""
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        result = dimat.run({"data.split": "by-class"}, notes, out=f"{folder}/demo")
    console = Console(record=True, width=80, force_terminal=True, highlight=False)
    console.print("[bold]$ dimat run --data.split by-class[/]")
    rounds = len(notes.lines) // 3
    for method in range(3):
        own = notes.lines[method * rounds : (method + 1) * rounds]
        console.print("\n".join([*own[:3], "…", own[-1]]))
    console.print(results_table(result))
    console.print("run folder: runs/2026-11-24-131500-dimat")
    console.save_svg(str(Path(__file__).with_name("demo.svg")), title="dimat")


if __name__ == "__main__":
    main()
