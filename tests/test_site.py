"""The documentation as a site: every link of every page leads somewhere there, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests import fork_server

import dimat

DOCS = fork_server.ROOT / "docs"
API = DOCS / "api"


@pytest.mark.slow
def test_the_site_is_built_and_whatever_it_warns_of_is_an_error(tmp_path: Path) -> None:
    command = ["python", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = fork_server.run(command, cwd=fork_server.ROOT)
    assert done.returncode == 0, done.stderr

    home = (tmp_path / "index.html").read_text("utf-8")
    assert 'href="merging.html"' in home
    assert 'src="demo.svg"' in home
    assert "blob/main/examples/own_loop.py" in home

    agent = (tmp_path / "api" / "agent.html").read_text("utf-8")
    assert 'id="dimat.Agent"' in agent
    assert "patience_s" in agent

    method = (tmp_path / "methods" / "wa.html").read_text("utf-8")
    assert re.search(r'class="arithmatex">\\\[\s*\\theta_i', method)
    assert "blob/main/src/dimat/methods/rounds/averaging.py" in method
    assert not list(tmp_path.rglob("*.py"))


def test_every_public_name_is_in_the_api_pages() -> None:
    named = re.findall(r"^::: (\S+)$", "\n".join(x.read_text() for x in API.glob("*.md")), re.M)
    assert {f"dimat.{name}" for name in dimat.__all__} <= set(named)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (fork_server.ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(re.findall(r"\S+\.md", navigation)) == pages | {"index.md"}
