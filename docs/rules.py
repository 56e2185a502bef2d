"""Write the table of operator rules into docs/symmetry.md. Run: .venv/bin/python docs/rules.py"""

from __future__ import annotations

from pathlib import Path

from dimat.symmetry.rules import RULES

PAGE = Path(__file__).with_name("symmetry.md")
START, END = "<!-- rules -->\n", "<!-- /rules -->"


def table() -> str:
    """One row a rule: its operators, and the first line of what it says."""
    by_rule: dict[str, list[str]] = {}
    said: dict[str, str] = {}
    for name, rule in RULES.items():
        key = f"{rule.__module__}.{rule.__name__}"
        by_rule.setdefault(key, []).append(f"`{name.removeprefix('aten.')}`")
        first = (rule.__doc__ or "").strip().partition("\n")[0]
        said[key] = first.replace("|", "\\|").replace(":func:", "")
    rows = [
        f"| {', '.join(names)} | {said[key]} | `{key.rsplit('.', 2)[-2]}.py` |"
        for key, names in sorted(by_rule.items())
    ]
    return "\n".join(["| operators | rule | file |", "|---|---|---|", *rows]) + "\n"


def main() -> None:
    """Put the table between its marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    PAGE.write_text(before + START + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
