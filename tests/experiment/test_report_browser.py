"""A report in a real browser, from disk and without a network: headless Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.experiment.report_folders import make_comparison, make_run, one_peer
from tests.experiment.test_report_page import hostile

from dimat.tools.report.write import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with: install it"),
    pytest.mark.slow,
]
Seen = Mapping[str, object]

# What a reader does on a page 390 pixels wide, and what is there afterwards.
LOOK = """
<body><iframe src="REPORT" style="width:390px;height:800px;border:0"></iframe>
<pre id="seen"></pre>
<script>
const frame = document.querySelector("iframe");
const drawn = () => Object.keys(frame.contentDocument.documentElement.dataset).length;
const once = (then) => drawn() ? setTimeout(then, 500) : setTimeout(() => once(then), 50);
frame.addEventListener("load", () => once(() => {
  const page = frame.contentWindow, doc = page.document, seen = {};
  const plots = () => [...doc.querySelectorAll(".plot:not([hidden])")];
  const hidden = () => plots().map((p) => p.data.filter((t) => t.visible === false).length);
  const all = (choose) => [...doc.querySelectorAll(choose)];
  seen.drawn = plots().map((p) => [p.data.length, p.querySelectorAll("svg.main-svg").length,
    p.querySelectorAll(".trace, .point, .hm, .annotation").length]);
  seen.error = doc.documentElement.dataset.error ?? null;
  seen.hacked = page.hacked ?? null;
  seen.sideways = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  seen.cut = plots().filter((p) => p.getBoundingClientRect().right > page.innerWidth).length;
  seen.buttons = [...new Set(all(".modebar-btn").map((b) => b.dataset.title))];
  const button = doc.querySelector(".legend button");
  button.click();
  seen.afterClick = hidden();
  seen.pressed = all("[data-series='0']").map((b) => b.getAttribute("aria-pressed"));
  button.click();
  seen.afterAgain = hidden();
  button.dispatchEvent(new page.MouseEvent("dblclick"));
  seen.only = all("[aria-pressed=true]").map((b) => b.dataset.series);
  seen.chosen = all("select.choose, input.choose").map((choose) => {
    const figure = choose.closest("figure"), plot = figure.querySelector(".plot");
    const before = JSON.stringify([plot.data, plot.layout.annotations, plot.layout.xaxis.title]);
    choose.value = 1;
    choose.dispatchEvent(new page.Event("input"));
    const after = JSON.stringify([plot.data, plot.layout.annotations, plot.layout.xaxis.title]);
    return [figure.id, before !== after, figure.querySelector("output")?.textContent ?? null];
  });
  page.dispatchEvent(new page.Event("beforeprint"));
  seen.printed = plots().map((p) => p.layout.width);
  page.dispatchEvent(new page.Event("afterprint"));
  seen.screen = plots().map((p) => p.layout.width ?? null);
  document.getElementById("seen").textContent = JSON.stringify(seen);
}));
</script></body>
"""


def look(index: Path, folder: Path, script: str = LOOK) -> tuple[Seen, str]:
    """What is seen of a page, and what the console said."""
    (folder / "look.html").write_text(script.replace("REPORT", index.as_uri()))
    options = "--headless=new --no-sandbox --disable-gpu --virtual-time-budget=30000 --dump-dom"
    files = "--allow-file-access-from-files --enable-logging=stderr --v=0"
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    own = [f"--user-data-dir={folder / 'profile'}", offline, (folder / "look.html").as_uri()]
    command = [str(CHROMIUM), *options.split(), *files.split(), *own]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    seen: Seen = json.loads(html.unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return seen, "\n".join(console)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Seen, str]]:
    """What is seen of a report on several methods, as one file too, and of one of hostile names."""
    base = tmp_path_factory.mktemp("pages")
    comparison = make_comparison(base / "c", seeds=(0, 1))
    varying = make_run(base / "peer", "sgp", 0, topology=one_peer(8))
    half = make_run(base / "half", "wa", 2, recorded=2)
    several = [str(folder) for folder in (comparison, varying, half)]
    found = {}
    for name, inputs, out in [
        ("several", several, "report several"),
        ("alone", several, "alone/page #1.html"),
        ("hostile", [str(hostile(base / "h"))], "report hostile"),
    ]:
        (base / name).mkdir()
        index = report(inputs, base / out)
        found[name] = look(index, base / name)
    return found


@pytest.mark.parametrize("name", ["several", "alone", "hostile"])
def test_every_plot_is_drawn_and_nothing_goes_wrong(
    pages: Mapping[str, tuple[Seen, str]], name: str
) -> None:
    seen, console = pages[name]
    assert console == ""
    assert seen["error"] is None
    drawn = seen["drawn"]
    assert isinstance(drawn, list)
    assert len(drawn) >= 10
    assert all(traces >= 1 and svgs >= 2 and marks >= 1 for traces, svgs, marks in drawn), drawn


def test_a_name_that_is_a_script_is_not_run(pages: Mapping[str, tuple[Seen, str]]) -> None:
    assert pages["hostile"][0]["hacked"] is None


@pytest.mark.parametrize("name", ["several", "alone", "hostile"])
def test_a_phone_does_not_scroll_sideways(pages: Mapping[str, tuple[Seen, str]], name: str) -> None:
    assert (pages[name][0]["sideways"], pages[name][0]["cut"]) == (0, 0)


def test_no_button_sends_anything_away(pages: Mapping[str, tuple[Seen, str]]) -> None:
    assert pages["several"][0]["buttons"] == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_the_legend_hides_a_method_in_all_plots_of_methods(
    pages: Mapping[str, tuple[Seen, str]],
) -> None:
    seen, _ = pages["several"]
    hidden = seen["afterClick"]
    assert isinstance(hidden, list)
    # Differences; line and band by round and by bytes; agents; three of classes; consensus.
    assert hidden[:8] == [0, 2, 2, 0, 0, 0, 0, 1]
    assert not any(hidden[8:])
    assert seen["pressed"] == ["false"] * 3
    assert not any(seen["afterAgain"])  # type: ignore[arg-type]
    assert set(seen["only"]) == {"0"}  # type: ignore[call-overload]


def test_a_page_of_one_file_does_what_the_folder_does(
    pages: Mapping[str, tuple[Seen, str]],
) -> None:
    assert pages["alone"][0] == pages["several"][0]


def test_another_choice_draws_something_else(pages: Mapping[str, tuple[Seen, str]]) -> None:
    chosen = pages["several"][0]["chosen"]
    assert isinstance(chosen, list)
    assert {name: said for name, _, said in chosen} == {
        "panel-differences": None,
        "panel-by-cost": None,
        "panel-by-agent": None,
        "panel-recall": None,
        "panel-gains": None,
        "panel-confusion": None,
        "panel-consensus": None,
        "panel-units": None,
        "panel-topology-1": "1",
    }
    assert all(changed for _, changed, _ in chosen)


def test_plots_fit_the_paper_while_it_is_printed(pages: Mapping[str, tuple[Seen, str]]) -> None:
    seen, _ = pages["several"]
    assert set(seen["printed"]) == {680, 330}  # type: ignore[call-overload]
    assert set(seen["screen"]) == {None}  # type: ignore[call-overload]
