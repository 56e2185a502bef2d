"""What the site has in another way than GitHub: see mkdocs.yml.

The README is the first page; links that lead out of docs/ lead to the repository; formulas and
titles of code blocks are written as the site's Markdown wants them, in docstrings too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_SPHINX_BLOCK = re.compile(r"^\.\. math::[ ]*(.*)\n((?:\n?[ ]+.*(?:\n|$))*)", re.MULTILINE)
_EXAMPLE = re.compile(
    r"^(?P<block>```.*?^```$)|^(?P<bare>>>> [^\n]*(?:\n[^\n]+)*)", re.MULTILINE | re.DOTALL
)
_FORMS = (
    (re.compile(r"^```(\w+) title=(\S+)$", re.MULTILINE), r'```\1 title="\2"'),
    (re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL), r"\\[\n\1\\]"),
    (re.compile(r"\$`([^`]+)`\$|:math:`([^`]+)`"), r"\\(\1\2\\)"),
    (re.compile(r":\w+:`~?([\w.]+)`"), r"`\1`"),  # :class:`dimat.Agent`
)


def on_config(config: MkDocsConfig) -> None:
    """Have every text, docstrings too, written as the site's Markdown wants it."""
    config.markdown_extensions.append(Dialect())  # type: ignore[arg-type]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make the README the first page."""
    from mkdocs.structure.files import File

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where they lead in the repository."""
    own = page.file.src_uri
    source = "README.md" if own == "index.md" else f"docs/{own}"
    return relinked(markdown, source, own, f"{(config.repo_url or '').rstrip('/')}/blob/main")


def relinked(text: str, source: str, page: str, repository: str) -> str:
    """A page's text with links as the site has them.

    Args:
        text: As the repository has it.
        source: Its file there.
        page: Its place in the site.
        repository: Where files that are no pages can be seen.

    >>> relinked("[a](docs/a.md#x) [b](LICENSE)", "README.md", "index.md", "https://r")
    '[a](a.md#x) [b](https://r/LICENSE)'
    >>> relinked("[a](../../README.md)", "docs/methods/wa.md", "methods/wa.md", "https://r")
    '[a](../index.md)'
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if target == "README.md":
            target = "docs/index.md"
        inside = target.removeprefix("docs/")
        if inside == target:
            return f"]({repository}/{target}{found[2] or ''})"
        return f"]({posixpath.relpath(inside, posixpath.dirname(page) or '.')}{found[2] or ''})"

    return _LINK.sub(link, text)


def plain(text: str) -> str:
    r"""A text with the formulas and titles of GitHub and Sphinx as the site's Markdown has them.

    >>> plain("as $`x`$ and :math:`y` of :class:`~dimat.Agent`")
    'as \\(x\\) and \\(y\\) of `dimat.Agent`'
    >>> plain(".. math:: a\n    + b\n\nthen")
    '\\[\na\n+ b\n\\]\n\nthen'
    >>> plain(">>> 1 + 1\n2\n\nthen")
    '```python\n>>> 1 + 1\n2\n```\n\nthen'
    """
    text = _SPHINX_BLOCK.sub(_formula, text)
    for form, site in _FORMS:
        text = form.sub(site, text)
    return _EXAMPLE.sub(_fenced, text)


def _fenced(found: re.Match[str]) -> str:
    """An example as a block of code; what is one already stays."""
    return found["block"] or f"```python\n{found['bare']}\n```"


def _formula(found: re.Match[str]) -> str:
    lines = [line.strip() for line in (found[1], *found[2].splitlines())]
    return "\n".join(["\\[", *filter(None, lines), "\\]", ""])


class Dialect(Extension):
    """Markdown as GitHub and Sphinx write it."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Translate before anything else is read."""
        md.preprocessors.register(_Translate(md), "dialect", 28)


class _Translate(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return plain("\n".join(lines)).split("\n")
