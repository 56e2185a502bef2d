"""Values that nobody means: numbers too high for any machine, text that is no place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from dimat import RunConfig
from dimat.cli import main
from dimat.errors import ConfigError, ModelError
from dimat.experiment.config.access import with_setting
from dimat.experiment.config.config import TopologyConfig
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.places import check_path, endpoint
from dimat.experiment.config.validate import validate
from dimat.models import build_model
from dimat.tools.compare.spec import Spec

NUMBERS = {n: k for n, k in setting_types().items() if {int, float} & {k, *get_args(k)}}
LONG = "x" * 300
NO_PATHS = ["", "a\0b", LONG, f"{LONG}/a", f"a/{LONG}", "é" * 128, "abc/" * 1_100, "\ud800"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 250
    return str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_highest(name: str) -> None:
    kind = int if int in {NUMBERS[name], *get_args(NUMBERS[name])} else float
    config = with_setting(RunConfig(), name, kind(10**300))
    assert refused(config).startswith(f"setting '{name}' is 1")


@pytest.mark.parametrize(
    ("name", "highest"), [("agents", 5000), ("threads", 1024), ("rounds", 10**9), ("width", 1000)]
)
def test_the_highest_is_taken_and_one_more_is_not(name: str, highest: int) -> None:
    validate(with_setting(RunConfig(), name, highest))
    found = refused(with_setting(RunConfig(), name, highest + 1))
    assert f"'{name}' is {highest + 1}: must be <= {highest:,}" in found


@pytest.mark.parametrize("path", NO_PATHS)
def test_a_path_is_one_that_a_file_system_can_have(path: str) -> None:
    graph = TopologyConfig("edges", path=path)
    assert refused(RunConfig(out=path)).startswith("setting 'out' is ")
    assert refused(RunConfig(topology=graph)).startswith("setting 'topology.path' is ")
    for kind in ("npz", "folder"):
        config = with_setting(RunConfig(), "data.source", f"{kind}:{path}")
        assert refused(config).startswith("setting 'data.source' is ")


def test_the_longest_name_of_a_file_is_a_path(tmp_path: Path) -> None:
    check_path("out", str(tmp_path / ("x" * 255))).touch()
    with pytest.raises(ConfigError, match="at most 247 bytes"):
        check_path("out", "x" * 255, spare=8)


@pytest.mark.parametrize(
    "text", ["http://x", "x/y", "a b", "", "a..b", ".a", "-a", "[x]", "é", "1:2", "x" * 64]
)
def test_an_address_is_no_url(text: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT, such as"):
        endpoint("listen", f"{text}:29400")


@pytest.mark.parametrize("text", ["10.0.0.1", "localhost", "a-b.c_d.example.", "::1", "fe80::1%e0"])
def test_an_address_is_taken_as_it_is(text: str) -> None:
    bracketed = f"[{text}]" if ":" in text else text
    assert endpoint("listen", f"{bracketed}:29400") == (text, 29400)


def test_port_0_is_for_listening_alone() -> None:
    assert endpoint("listen", "x:0", any_port=True) == ("x", 0)
    for port in ("0", "65536", "99999"):
        with pytest.raises(ConfigError, match=r"with a port in 1 … 65535"):
            endpoint("listen", f"x:{port}")


def test_of_a_value_that_is_long_a_message_has_the_beginning() -> None:
    assert len(refused(RunConfig(controls=("x",) * 500, out="y" * 5_000))) < 250
    assert "is a number of thousands of digits" in refused(RunConfig(rounds=10**5_000))


DEEP = "[" * 10_000
SOUND_MERGE = "merge a b --model mlp --data digits --out o.safetensors"
CALLS = [
    (f"run --out {LONG}", "'out' is 'xxxx"),
    ("run --threads 1000000", "'threads' is 1000000: must be <= 1,024"),
    ("run --agents 10000000", "'agents' is 10000000: must be <= 5,000"),
    ("agent --id 0 --peers=", "'peers' is ''"),
    (f"agent --id 0 --peers {LONG}", "'peers' is 'xxxx"),
    ("agent --id 0 --peers x --certificates=", "'certificates' is ''"),
    ("agent --id 0 --peers x --name=", "'name' is '': must be 1 to 40 of a-z"),
    ("agent --id 0 --peers x --name a/b", "'name' is 'a/b'"),
    (f"agent --id 0 --peers x --name {'x' * 41}", "'name' is 'xxx"),
    ("agent --id 5 --peers x", "'id' is 5: must be in 0 … 4"),
    ("agent --id 0 --peers x --faults=", "'faults' is ''"),
    ("agent --id 0 --peers x --listen http://x", "'listen' is 'http://x'"),
    (f"resume {LONG}", "'run' is 'xxxx"),
    (f"report a --out {LONG}", "'out' is 'xxxx"),
    (f"report {LONG} --out a", "'folders' is 'xxxx"),
    (f"compare {LONG}", "'base' is 'xxxx"),
    ("compare c.yaml --jobs 100000000", "'jobs' is 100000000: must be <= 1,000"),
    (f"compare c.yaml --out {LONG}", "'out' is 'xxxx"),
    ("compare c.yaml --grid.agents [3", "'grid.agents' is '[3': must be values with commas"),
    (f"compare c.yaml --grid.agents {DEEP}", "'grid.agents' is '[[["),
    (f"run --agents {DEEP}", "'agents' is '[[["),
    (f"run --controls {DEEP}", "'controls' is '[[["),
    (f"estimate {LONG}", "'config' is 'xxxx"),
    ("estimate --agents 10000000", "'agents' is 10000000: must be <= 5,000"),
    (SOUND_MERGE.replace("o.safe", f"{LONG}.safe"), "'out' is 'xxxx"),
    (SOUND_MERGE.replace("o.safetensors", "/"), "'out' is '/': must be a file that ends in"),
    (SOUND_MERGE.replace(" a ", f" {LONG} "), "'parents' is 'xxxx"),
    (SOUND_MERGE + " --classes 1000000000", "'classes' is 1000000000: must be <= 1,000,000"),
    (SOUND_MERGE + " --threads 1000000", "'threads' is 1000000: must be <= 1,024"),
    (SOUND_MERGE + f" --report {LONG}", "'report' is 'xxxx"),
    ("symmetry --classes 1000000000", "'classes' is 1000000000: must be <= 1,000,000"),
    ("symmetry --input 2,3,1000000000,1", "'input' is 1000000000: must be <= 100,000"),
    ("symmetry --width 1e9", "'width' is 1000000000.0: must be <= 1,000"),
    ("topology ring --classes 1000000000", "'classes' is 1000000000: must be <= 1,000,000"),
    ("topology ring --image 3,1000000000,1", "'image' is 1000000000: must be <= 100,000"),
    ("topology full --agents 100000", "'agents' is 100000: must be <= 5,000"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_a_call_that_nobody_means_is_refused_in_a_line(
    call: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text("agents: 3\n")
    assert main(call.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dimat: error: setting {message}")
    assert len(err.splitlines()) == 1
    assert len(err) < 300
    assert [path.name for path in Path().iterdir()] == ["c.yaml"]


def test_those_calls_are_refused_before_pytorch_is_imported() -> None:
    Path("c.yaml").write_text("agents: 3\n")
    one_of_each = {call.split()[0]: call for call, _ in CALLS}
    code = (
        "import sys, dimat.cli\n"
        f"for call in {[*one_of_each.values()]!r}:\n"
        "    assert dimat.cli.main(call.split()) == 2\n"
        "    assert not {'torch', 'scipy', 'sklearn', 'networkx'} & {*sys.modules}, call\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_images_that_no_memory_holds_are_not_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    calls = {
        "estimate --assume 999999999,1,9999,9999,3,10": "must be smaller: these images are ",
        "estimate --assume 2000000,1,1,1,1,1000001": "is 1000001: must be <= 1,000,000, in CLASSES",
        "symmetry --input 2,3,100000,100000": "must be smaller: that is 240 GB",
    }
    for call, message in calls.items():
        assert main(call.split()) == 2
        assert message in capsys.readouterr().err


def test_a_model_that_no_memory_holds_is_not_built() -> None:
    sizes: dict[str, Any] = {"in_channels": 3, "image_size": (1000, 1000), "width": 1000}
    for name in ("mlp", "vgg16"):
        with pytest.raises(ModelError, match=rf"model '{name}' of width 1000 .* use a smaller"):
            build_model(name, num_classes=10**6, **sizes)


def test_the_first_run_of_a_huge_grid_is_known_without_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = {name: tuple(range(1, 101)) for name in ("rounds", "agents", "local_epochs", "threads")}
    spec = Spec(RunConfig(), ("dimat",), (3,), grid)
    monkeypatch.setattr(Spec, "points", property(lambda own: pytest.fail("all were looked at")))
    assert spec.num_cells == 100**4
    assert (spec.first.seed, spec.first.agents, spec.first.threads) == (3, 1, 1)
