"""HTML made of tags. Text is escaped unless it is markup, so a name from a file stays a name."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

_VOID = ("meta", "link", "input", "br")


class Html(str):
    """Markup; every other text is escaped where it is put into a tag."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str | int | bool) -> Html:
    """An element.

    Args:
        name: Of the tag.
        content: Text, which is escaped, and markup, which is not.
        attributes: By name, an underscore for a dash and one at the end for nothing: ``class_``,
            ``data_panel``. True is an attribute without a value, False is none.

    >>> tag("p", "a < b ", tag("b", "!"), class_="note", hidden=True)
    '<p class="note" hidden>a &lt; b <b>!</b></p>'
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is not False:
            parts.append(label if value is True else f'{label}="{html.escape(str(value))}"')
    start = f"<{' '.join(parts)}>"
    return Html(start if name in _VOID else f"{start}{join(content)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Text and markup one after the other.

    >>> join(["<", Html("<br>")])
    '&lt;<br>'
    """
    return Html(between.join(x if isinstance(x, Html) else html.escape(x) for x in parts))


def script_json(name: str, value: object) -> Html:
    """A value that a script of the page reads; nothing in it can end the element or begin another.

    >>> script_json("x", ["</script>"])
    '<script type="application/json" id="x">["\\\\u003c/script\\\\u003e"]</script>'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Html:
    """A table whose first column names its rows; on a phone every row is a block of its own.

    Args:
        heads: One a column.
        rows: Cells, text or markup.
        caption: What is in it, in a sentence.
    """
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = []
    for row in rows:
        first, *rest = row
        cells = [tag("td", x, data_label=h) for h, x in zip(heads[1:], rest, strict=True)]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body)),
        class_="table",
    )
