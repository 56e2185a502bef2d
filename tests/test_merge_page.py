"""The page of a merge: it says what the JSON says, needs no other file, and trusts no name."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiment.test_report_browser import CHROMIUM, look
from torch import nn

from dimat.cli import main
from dimat.models import build_model
from dimat.state import save_state, state_of
from dimat.tools.merge.settings import MergeConfig
from dimat.tools.report.merged import merge_page

MERGE = "merge a.safetensors b.safetensors --model cnn --width 0.1 --data digits --images 200"


class Reader(HTMLParser):
    """The elements of a page, and its text without styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(re.sub(r"\s+", " ", self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "style":
            self.text += f" {data}"


def net() -> nn.Module:
    return build_model("cnn", in_channels=1, num_classes=10, image_size=(8, 8), width=0.1)


@pytest.fixture(autouse=True)
def _in_a_folder_with_two_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name in "ab":
        save_state(state_of(net()), Path(f"{name}.safetensors"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a merge that was tested."""
    folder = tmp_path_factory.mktemp("told")
    torch.manual_seed(1)
    files = [str(folder / f"{name}.safetensors") for name in "ab"]
    for file in files:
        save_state(state_of(net()), Path(file))
    words = shlex.split(MERGE)
    assert main(["merge", *files, *words[3:], "--out", str(folder / "m.safetensors")]) == 0
    found: dict[str, Any] = json.loads((folder / "m.json").read_text())
    return found


def test_a_page_says_what_the_json_beside_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(MERGE), "--out", "m.safetensors", "--report", "page.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["report: m.json", "report: page.html"]
    told, page = json.loads(Path("m.json").read_text()), Reader(Path("page.html").read_text())
    for row in told["evaluation"]["networks"]:
        assert f"{row['name']}" in page.text
        assert f"{100 * row['accuracy']:.1f} {row['loss']:.3f}" in page.text
        if row["recalibrated"]:
            again = row["recalibrated"]
            assert f"{100 * again['accuracy']:.1f} {again['loss']:.3f}" in page.text
    for group in told["matching"]["parents"][0]["groups"]:
        assert f"{group['group']} {group['units']} {group['similarity']:.3f}" in page.text
    for file in told["inputs"]:
        assert file["sha256"][:16] in page.text
    assert f"is {told['evaluation']['path']['barrier']:.3f}." in page.text
    assert told["command"] in page.text
    assert "All entries were merged." in page.text


def test_a_page_needs_no_other_file_and_runs_nothing(told: dict[str, Any]) -> None:
    page = merge_page(told)
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in reader.tags}
    links = [own["href"] for _, own in reader.tags if own.get("href")]
    assert links
    assert all(str(link).startswith("#") for link in links)
    ids = {own["id"] for _, own in reader.tags if own.get("id")}
    assert {str(link)[1:] for link in links} <= ids
    assert "url(" not in page
    assert "@import" not in page


def test_what_files_say_is_text(told: dict[str, Any]) -> None:
    evil = '<script>alert("&")</script>'
    (fit,) = told["matching"]["parents"]
    bad = {
        **told,
        "settings": {**told["settings"], "out": evil, "model": evil, "parents": [evil, evil]},
        "notes": [evil],
        "kept": [evil],
        "command": evil,
        "inputs": [{"path": evil, "bytes": 3, "sha256": evil}],
        "matching": {
            **told["matching"],
            "pinned": [evil],
            "parents": [{**fit, "groups": [{**fit["groups"][0], "group": evil, "margin": -1.0}]}],
        },
    }
    page = merge_page(bad)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9
    assert f"parent 1: most units of {evil} would fit others" in Reader(page).text


LOOK = """
<body><iframe src="REPORT" style="width:WIDTHpx;height:800px;border:0"></iframe>
<pre id="seen"></pre>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => setTimeout(() => {
  const page = frame.contentWindow, doc = page.document, root = doc.documentElement;
  doc.querySelectorAll("details").forEach((own) => { own.open = true; });
  const shown = [...doc.querySelectorAll("th[scope=row], td, .bar, svg, pre, li")];
  document.getElementById("seen").textContent = JSON.stringify({
    sideways: root.scrollWidth - root.clientWidth,
    cut: shown.filter((own) => own.getBoundingClientRect().right > page.innerWidth).length,
    bars: [...doc.querySelectorAll(".bar")].filter((own) => own.offsetWidth < 60).length,
    hacked: page.hacked ?? null,
  });
}, 100));
</script></body>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with: install it")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_long_names_fits_every_screen(
    told: dict[str, Any], tmp_path: Path, width: int
) -> None:
    evil = "<script>window.hacked = 1</script>" + "layers.12.attention." * 12
    (fit,) = told["matching"]["parents"]
    groups = [{**own, "group": f"{evil}{k}"} for k, own in enumerate(fit["groups"])]
    bad = {
        **told,
        "settings": {**told["settings"], "parents": [evil, evil], "out": f"{evil}.safetensors"},
        "notes": [evil],
        "kept": [evil],
        "command": evil,
        "inputs": [{**own, "path": f"/a/{evil}"} for own in told["inputs"]],
        "matching": {**told["matching"], "pinned": [evil], "parents": [{**fit, "groups": groups}]},
    }
    (tmp_path / "page.html").write_text(merge_page(bad))
    script = LOOK.replace("WIDTH", str(width))
    seen, console = look(tmp_path / "page.html", tmp_path, script)
    assert console == ""
    assert seen == {"sideways": 0, "cut": 0, "bars": 0, "hacked": None}


def test_what_was_not_measured_is_said(told: dict[str, Any]) -> None:
    (fit,) = told["matching"]["parents"]
    none = {"similarity": None, "margin": None, "doubtful": None}
    groups = [{**own, **none} for own in fit["groups"]]
    matching = {**told["matching"], "parents": [{**fit, "groups": groups}]}
    text = Reader(merge_page({**told, "evaluation": None, "matching": matching})).text
    assert "Not tested." in text
    assert "nan" not in text.lower().replace("alert", "")
    empty = {**told["matching"], "parents": [{**fit, "groups": []}]}
    assert "Nothing can be permuted" in Reader(merge_page({**told, "matching": empty})).text


def test_parts_and_heads_are_on_the_page() -> None:
    options = "--no-evaluate --heads keep --only features.* --report p.html --out m.safetensors"
    assert main([*shlex.split(MERGE), *options.split()]) == 0
    text = Reader(Path("p.html").read_text()).text
    told = json.loads(Path("m.json").read_text())
    assert told["kept"]
    assert all(name in text for name in told["kept"])
    assert "m-0.safetensors" in text
    assert "m-1.safetensors" in text


def test_a_page_is_not_replaced_unless_asked_to() -> None:
    Path("page.html").write_text("mine")
    words = [
        *shlex.split(MERGE),
        "--no-evaluate",
        "--out",
        "m.safetensors",
        "--report",
        "page.html",
    ]
    assert main(words) == 2
    assert Path("page.html").read_text() == "mine"
    assert not Path("m.safetensors").exists()
    assert main([*words, "--overwrite"]) == 0
    assert "<!doctype html>" in Path("page.html").read_text()
    assert main([*words[:-1], "m.json.html"]) == 2  # m.json is there


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--weights 0.25,0.75 --only 'features.*' 'a b' --except *.bias --no-evaluate --seed 3",
        "--statistics a.st b.st --combine gram --method weights --classes 7 --imports x,y",
        "--normalize .4/.2 --batch-size 9 --recalibration none --report r.html --heads keep",
    ],
)
def test_the_command_gives_the_same_settings_again(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dimat.cli.commands import merge

    found: list[MergeConfig] = []

    class Enough(Exception):
        pass

    def take(config: MergeConfig) -> None:
        found.append(config)
        raise Enough

    monkeypatch.setattr(merge, "check", take)
    words = [*shlex.split(MERGE), "--out", "m.safetensors", *shlex.split(options)]
    for _ in range(2):
        with pytest.raises(Enough):
            main(words)
        words = shlex.split(found[-1].command)[1:]
    assert found[0] == found[1]
