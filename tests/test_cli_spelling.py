"""Settings as people write them: dashes or underscores, a group by what it is known by; help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dimat import RunConfig
from dimat.cli import _COMMANDS, main
from dimat.cli.options import SettingsLater
from dimat.errors import ConfigError
from dimat.experiment.callbacks import LOGS
from dimat.experiment.config.access import typed, with_setting
from dimat.experiment.config.config import TopologyConfig
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.parse import Parser, config_of, load_config, settings_parser
from dimat.experiment.config.spelling import KNOWN_BY, is_list
from dimat.methods import METHODS
from dimat.tools.compare.read import Overrides, read_spec

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(*words: str) -> RunConfig:
    return config_of(settings_parser().parse_args(words))


def other(name: str) -> str:
    """The other spelling: underscores as dashes, or dashes as underscores."""
    return name.replace("_", "-") if "_" in name else name.replace("-", "_")


@pytest.mark.parametrize("name", [name for name in setting_types() if "_" in name])
def test_a_setting_with_dashes_is_the_one_with_underscores(name: str) -> None:
    value = {"optimizer.on_merge": "mix", "method_options": "keep=3"}.get(name, "3")
    words = [f"--{name}={value}"], [f"--{other(name)}={value}"], [f"--{other(name)}", value]
    found = [config(*own) for own in words]
    assert found[0] == found[1] == found[2] != RunConfig()


def test_every_option_of_every_command_has_both_spellings() -> None:
    """It is known: what is refused is the missing value, or it lies elsewhere."""
    tried = 0
    for command in _COMMANDS.values():
        parser: Parser = command.parser()
        own = [s for action in parser._actions for s in action.option_strings]
        for option in (s for s in own if other(s[2:]) != s[2:]):
            if isinstance(parser, SettingsLater):
                assert option[2:] in parser._own
            with pytest.raises((ConfigError, SystemExit)) as caught:
                parser.parse_args(["--" + other(option[2:]), "--zzz"])
            assert other(option[2:]) not in str(caught.value)
            tried += 1
    assert tried > 30


@pytest.mark.parametrize(("group", "setting"), KNOWN_BY.items())
def test_a_group_is_known_by_one_of_its_settings(group: str, setting: str) -> None:
    value = {"topology": "star", "data": "npz:a.npz", "optimizer": "sgd", "merging": "repair"}[
        group
    ]
    expected = config(f"--{setting}", value)
    assert config(f"--{group}", value) == config(f"--{group}={value}") == expected != RunConfig()
    Path("c.yaml").write_text(yaml.safe_dump({group: value}))
    assert load_config(Path("c.yaml")) == expected


def test_a_file_may_have_dashes_at_every_depth() -> None:
    Path("c.yaml").write_text("pretrain-epochs: 3\noptimizer:\n  weight-decay: 1e-3\n")
    expected = config("--pretrain_epochs=3", "--optimizer.weight_decay=0.001")
    assert load_config(Path("c.yaml")) == expected == read_spec(Path("c.yaml")).base
    Path("c.yaml").write_text("pretrain-epochs: 3\npretrain_epochs: 4\n")
    with pytest.raises(ConfigError, match="setting 'pretrain_epochs' is given twice"):
        load_config(Path("c.yaml"))


def test_a_comparison_takes_both_spellings_in_file_and_options() -> None:
    Path("c.yaml").write_text(
        "compare:\n  grid:\n    topology: [ring, full]\n    local-epochs: 1\n"
    )
    spec = read_spec(Path("c.yaml"), Overrides(grid={"matching.sweeps": "0,1"}))
    assert [*spec.grid] == ["topology.name", "local_epochs", "matching.sweeps"]
    words = ["c.yaml", "--grid.batch-size", "8,16", "--topology=star", "--eval-every", "2"]
    given = _COMMANDS["compare"].parser().parse_args(words)["given"]
    assert given["grid"] == {"batch_size": "8,16"}
    assert given["settings"] == {"topology.name": "star", "eval_every": "2"}
    assert _COMMANDS["estimate"].parser().parse_args(["--no_calibrate"]).no_calibrate


def test_a_value_is_not_respelled() -> None:
    assert config("--out", "a-b_c").out == "a-b_c"
    assert config("--topology", "random-regular").topology == TopologyConfig("random-regular")


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_helps(capsys: pytest.CaptureFixture[str], command: str) -> None:
    told = []
    for words in (["help", command], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != ""


def test_help_without_a_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help"])
    told = capsys.readouterr().out
    assert all(name in told for name in ("dimat help", "run", "compare"))
    assert main(["help", "rn"]) == 2
    assert "unknown command 'rn': did you mean 'run'?" in capsys.readouterr().err


LISTS = [name for name in setting_types() if is_list(name)]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(("text", "items"), [("none", ()), ("[]", ()), ("wa,wm", ("wa", "wm"))])
def test_a_list_is_written_alike_everywhere_and_without_brackets(
    name: str, text: str, items: tuple[str, ...]
) -> None:
    Path("c.yaml").write_text(f"{name}: {text}\n")
    found = config(f"--{name}", text), config(f"--{name}={text}"), load_config(Path("c.yaml"))
    assert typed(name, text) == items
    assert found[0] == found[1] == found[2] == read_spec(Path("c.yaml")).base
    assert found[0] == with_setting(RunConfig(), name, items)


def test_no_name_that_may_be_in_a_list_is_none() -> None:
    assert len(LISTS) >= 3
    assert "none" not in {*METHODS, *LOGS, "all"}


# What bash or zsh takes a word apart for, or reads as something else than a word.
SPECIAL = re.compile(r"[][*?{}()<>!#&;|]|(?<!\S)[~=]")


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_no_documented_command_needs_quotes_in_a_shell(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    blocks = re.findall(r"^```(?:sh|console|text)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    words = r"(?:\$ )?((?:dimat|torchrun|python -m|pip) .*)"
    lines = [line for block in blocks for line in block.splitlines()] + [
        " ".join(span.split()) for span in spans
    ]
    for command in (found[1] for line in lines if (found := re.fullmatch(words, line))):
        assert not SPECIAL.search(re.sub(r"\"[^\"]*\"|'[^']*'", "", command)), command
