"""The page and its folder: all is said, nothing that came from a file is run, nothing is lost."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from tests.experiment import report_folders as folders
from tests.experiment.report_folders import make_comparison, make_run

import dimat
from dimat.cli import main
from dimat.errors import ConfigError, RecordError
from dimat.experiment.record.results import MethodResult
from dimat.tools.records.sources import read_sources
from dimat.tools.report import write
from dimat.tools.report.compared import compare
from dimat.tools.report.page import page
from dimat.tools.report.write import report

FILES = {"index.html", "data.csv", "plotly.min.js", "report.css", "report.js"}
EVIL = '"><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


class Tags(HTMLParser):
    """All elements of a page with their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(*paths: Path) -> Tags:
    return Tags(page(compare(read_sources([str(path) for path in paths]))))


def words_of(found: Tags) -> str:
    return " ".join(found.words.split())


def hostile(folder: Path) -> Path:
    """A run in which every name is markup."""
    config = {"topology": {"path": EVIL, "name": EVIL}, "model": EVIL, EVIL: EVIL}
    make_run(folder, EVIL, 0, settings=config, topology={**folders.ring(5), "name": EVIL})
    shards = {**folders.shards(5), "classes": [f"{EVIL}{i}" for i in range(10)]}
    (folder / "shards.json").write_text(json.dumps(shards))
    (folder / "environment.json").write_text(json.dumps({EVIL: EVIL}))
    lines = [{"round": r, "units_moved": {EVIL: 0.5}} for r in (1, 2)]
    folders.write_lines(folder / "diagnostics.jsonl", lines)
    return folder


def test_what_was_compared_is_said_at_the_top(tmp_path: Path) -> None:
    found = page_of(make_comparison(tmp_path / "c"))
    words = words_of(found)
    assert "dimat, wa and local" in words
    assert "9 runs, seeds 0, 1 and 2" in words
    assert "topology: ring" in words
    assert "9 finished" in words
    assert "unfinished" not in words.partition("Accuracy")[0]


def test_the_table_has_mean_spread_and_number_of_every_method(tmp_path: Path) -> None:
    found = compare(read_sources([str(make_comparison(tmp_path / "c"))]))
    rows = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", page(found), re.DOTALL)
    from dimat.tools.report.totals import total

    for series, row in zip(found.series, rows, strict=False):
        own = total(series)
        assert own.mean is not None
        assert own.sd is not None
        assert f"<strong>{100 * own.mean:.1f} ± {100 * own.sd:.1f}</strong>" in row
        assert 'data-label="n">3</td>' in row


def test_an_unfinished_run_is_shown_as_such(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "wa", 0)
    make_run(tmp_path / "b", "wa", 1, recorded=2)
    found = page_of(tmp_path / "a", tmp_path / "b")
    words = words_of(found)
    assert "1 finished 1 unfinished" in words.replace("finished1", "finished 1")
    assert "1 of 2" in words
    assert f"wa, seed 1: unfinished, recorded up to round 2 of 4 ({tmp_path / 'b'})" in words
    badges = [x for x in found.of("span") if x.get("class") == "badge unfinished"]
    assert len(badges) == 2  # at the top, and in the table of results


def test_a_run_that_has_only_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: wa\ncontrols: [local]\n")
    words = words_of(page_of(tmp_path))
    assert "wa, seed 0: unfinished, nothing recorded yet of 20" in words
    assert "local, seed 0: not begun" in words
    assert words.count("Not recorded") >= 7


def test_a_half_written_line_is_said_in_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", recorded=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round"')
    assert "is half written and was left out." in words_of(page_of(folder))


def test_every_section_says_so_if_nothing_was_recorded(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    whole = words_of(page_of(folder))
    assert "Not recorded" not in whole
    for name in ("topology.json", "shards.json", "diagnostics.jsonl", "environment.json"):
        (folder / name).unlink()
    assert words_of(page_of(folder)).count("Not recorded") == 5


def test_a_setting_that_was_left_to_dimat_has_what_it_came_to(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"loss": {"logits": "auto", "distill": None}, "merging": {"combine": "auto"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    chosen = {"loss.logits": "adjusted", "loss.distill": 0.1}
    (folder / "chosen.json").write_text(json.dumps(chosen))
    text = page(compare(read_sources([str(folder)])))
    assert "  logits: auto<em> → adjusted</em>\n  distill: null<em> → 0.1</em>\n" in text
    assert "  combine: auto\n" in text  # nothing is known of it


def test_settings_that_differ_are_marked(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"], "batch_size": [16, 32]}
    text = page(compare(read_sources([str(make_comparison(tmp_path / "c", grid=grid))])))
    marked = re.findall(r"<mark>(.*?)</mark>", text, re.DOTALL)
    assert {"ring, full", "16, 32", "  name: ring", "batch_size: 32"} <= set(marked)
    assert not any("rounds" in line for line in marked)
    assert text.count("<details>") == 4  # one config a grid point


def test_where_environments_differ_they_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0)
    other = make_run(tmp_path / "b", seed=1)
    (other / "environment.json").write_text('{"torch": "2.10.0", "python": "3.11.7"}')
    words = words_of(page_of(tmp_path / "a", other))
    assert "2.13.0 (1 run); 2.10.0 (1 run)" in words


def test_the_commands_to_run_it_again_are_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run")
    comparison = make_comparison(tmp_path / "c", methods=("wa",))
    words = words_of(page_of(run, comparison))
    assert f"dimat run --config '{run}/config.yaml'" in words
    assert f"dimat compare {comparison}/comparison.yaml --out again" in words


def test_no_name_of_a_file_becomes_markup(tmp_path: Path) -> None:
    found = page_of(hostile(tmp_path / "<b>run"))
    assert [x for x in found.tags if x[0] in ("img", "b") and "/" in str(x[1])] == []
    assert found.of("img") == []
    assert [x.get("src") or x.get("type") for x in found.of("script")] == [
        "application/json",
        "plotly.min.js",
        "report.js",
    ]
    assert not [x for _, x in found.tags if any(name.startswith("on") for name in x)]
    assert found.words.count("<script>window.hacked") > 10  # it is there, as text


def test_the_templates_are_in_the_package_and_let_no_text_through_as_markup() -> None:
    folder = files("dimat.tools.report") / "templates"
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert {"page.html", "results.html", "panel.html", "settings.html"} <= found.keys()
    assert not [name for name, text in found.items() if re.search(r"\bsafe\b|autoescape", text)]


def figures_of(text: str) -> Mapping[str, Sequence[Sequence[Mapping[str, object]]]]:
    found = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    figures: Mapping[str, Sequence[Sequence[Mapping[str, object]]]] = json.loads(found[1])
    return figures


def unpacked(text: str, name: str) -> str:
    """What a page of one file holds as base64 of a gzip."""
    found = re.search(rf'id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return gzip.decompress(b64decode(found[1])).decode()


def strings(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return strings(list(value.values()))
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_no_name_of_a_file_becomes_markup_in_a_figure(tmp_path: Path) -> None:
    text = page(compare(read_sources([str(hostile(tmp_path / "a"))])))
    found = strings(figures_of(text))
    assert any("&lt;script&gt;" in words for words in found)
    assert not any("<script" in words or "<img" in words for words in found)


def test_everything_is_loaded_from_the_folder(tmp_path: Path) -> None:
    index = report([str(make_run(tmp_path / "a"))], tmp_path / "out")
    found = Tags(index.read_text())
    links = [x[name] for _, x in found.tags for name in ("src", "href") if name in x]
    local = {str(link) for link in links if not str(link).startswith("#")}
    assert local == FILES - {"index.html"}
    assert {path.name for path in index.parent.iterdir()} == FILES
    for name in ("report.css", "report.js", "index.html"):
        assert "http" not in (index.parent / name).read_text().replace("http-equiv", "")
    assert "plotly.js" in (index.parent / "plotly.min.js").read_text()[:100]


def test_a_page_of_one_file_has_all_that_the_folder_has(tmp_path: Path) -> None:
    run = str(hostile(tmp_path / "a"))
    index = report([run], tmp_path / "folder")
    alone = report([run], tmp_path / "alone.html")
    found = Tags(alone.read_text())
    links = [str(x[name]) for _, x in found.tags for name in ("src", "href") if name in x]
    [data] = [link for link in links if not link.startswith("#")]
    start = "data:text/csv;base64,"
    assert data.startswith(start)
    assert b64decode(data.removeprefix(start)) == (index.parent / "data.csv").read_bytes()
    types = [x.get("type") for x in found.of("script")]
    assert types == ["text/plain", "text/plain", None]  # figures, plotly, report.js
    text = alone.read_text()
    assert unpacked(text, "plotly") == (index.parent / "plotly.min.js").read_text()
    assert json.loads(unpacked(text, "figures")) == figures_of(index.read_text())
    for name in ("report.css", "report.js"):
        content = (index.parent / name).read_text()
        assert text.count(content) == 1
        assert "</" not in content  # which would end it early
    assert len(text) < 3_000_000


def test_every_plot_has_words_for_those_who_cannot_see_it(tmp_path: Path) -> None:
    found = page_of(make_run(tmp_path / "a"))
    plots = [x for x in found.of("div") if x.get("class") == "plot"]
    assert len(plots) == 14
    assert all(x["role"] == "img" and len(str(x["aria-label"])) > 40 for x in plots)
    assert len(found.of("figcaption")) == len(found.of("figure")) == 11
    names = {x.get("id") for x in found.of("section")}
    assert {str(x["href"])[1:] for x in found.of("a") if str(x["href"]).startswith("#")} <= names


def test_the_same_input_gives_the_same_report(tmp_path: Path) -> None:
    folder = str(make_comparison(tmp_path / "c"))
    first, second = (report([folder], tmp_path / x) for x in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()


def test_the_command_writes_a_report_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_run(tmp_path / "a"), tmp_path / "new" / "report"
    assert main(["report", str(folder), f"--out={out}/"]) == 0
    assert capsys.readouterr().out == f"report: {out}/index.html\n"
    assert {path.name for path in out.iterdir()} == FILES
    assert main(["report", str(folder), "--out", str(out)]) == 2
    assert "exists: use another, or --overwrite" in capsys.readouterr().err
    assert main(["report", str(folder), "--out", str(out), "--overwrite"]) == 0
    assert [x.name for x in out.parent.iterdir()] == ["report"]


def test_from_python_runs_are_folders_results_or_a_list_of_both(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    none = MethodResult("wa", (), {})
    result = dimat.RunResult(dimat.RunConfig(), run, none, ())
    assert main(["report", str(run), "--out", str(tmp_path / "command.html")]) == 0
    expected = (tmp_path / "command.html").read_bytes()
    for k, given in enumerate((str(run), run, result, [run], (result,))):
        page = dimat.report(given, out=str(tmp_path / f"{k}.html"))
        assert page == tmp_path / f"{k}.html"
        assert page.read_bytes() == expected
    with pytest.raises(ConfigError, match=r"--overwrite \(in Python overwrite=True\)"):
        dimat.report(run, tmp_path / "0.html")
    with pytest.raises(ConfigError, match="'runs' is an empty list: must be the path of a run"):
        dimat.report([], tmp_path / "x.html")
    for wrong in (3, [run, None]):
        with pytest.raises(ConfigError, match="'runs' is (3|None): must be the path of a run"):
            dimat.report(wrong, tmp_path / "x.html")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'out' is 3: must be the path of a folder"):
        dimat.report(run, 3)  # type: ignore[arg-type]


def test_a_path_that_ends_in_html_is_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_run(tmp_path / "a"), tmp_path / "new" / "page.html"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    first = out.read_bytes()
    assert main(["report", str(folder), "--out", str(out)]) == 2
    assert "exists: use another, or --overwrite" in capsys.readouterr().err
    assert main(["report", str(folder), "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes() == first
    assert [x.name for x in out.parent.iterdir()] == ["page.html"]


def test_only_the_page_of_a_report_is_replaced(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "a"))
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my thesis</html>")
    (tmp_path / "folder.html").mkdir()
    for name in ("mine.html", "folder.html"):
        with pytest.raises(ConfigError, match="is not the page of a report and is not replaced"):
            report([run], tmp_path / name, overwrite=True)
    with pytest.raises(ConfigError, match="page.html cannot be written"):
        report([run], mine / "page.html")
    assert mine.read_text() == "<html>my thesis</html>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder.html", "mine.html"]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dimat: error: ")
    assert "no config.yaml" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "index.html").write_text("<html>my thesis</html>")
    for overwrite, message in ((False, "exists: use another"), (True, "is not a report")):
        with pytest.raises(ConfigError, match=message):
            report([str(run)], out, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is not a report"):
        report([str(run)], run, overwrite=True)
    assert (out / "index.html").read_text() == "<html>my thesis</html>"


def test_a_report_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "a"))
    index = report([run], tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'notes.txt', which is not of a report"):
        report([run], tmp_path / "out", overwrite=True)
    assert index.is_file()


def test_a_file_is_no_folder_to_write(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a report"):
        report([run], tmp_path / "file", overwrite=True)
    with pytest.raises(ConfigError, match="cannot be written"):
        report([run], tmp_path / "file" / "out")


@pytest.mark.parametrize("name", ["out", "out.html"])
def test_a_report_that_fails_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = make_run(tmp_path / "a")
    index = report([str(run)], tmp_path / name)
    before = index.read_bytes()
    with pytest.raises(RecordError):
        report([str(run), "nowhere"], tmp_path / name, overwrite=True)

    def full(self: Path, *_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    replace = Path.replace

    def stuck(self: Path, target: Path) -> Path:
        return full(self) if ".new-" in self.name else replace(self, target)

    for step, broken in (("write_text", full), ("replace", stuck)):
        with monkeypatch.context() as patched:
            patched.setattr(write.Path, step, broken)
            with pytest.raises(ConfigError, match="cannot be written: No space left"):
                report([str(run)], tmp_path / name, overwrite=True)
        assert index.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", name]


def test_a_config_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", settings={"data": {"split": "iid"}})
    text = yaml.safe_dump(yaml.safe_load((folder / "config.yaml").read_text()), sort_keys=False)
    assert text in page_of(folder).words
