"""The command line: what it prints, what it refuses and how, its exit codes.

Nothing here trains: where ``dimat run`` gets that far, a fake takes the place of the run.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests import fork_server

from dimat import Symmetry
from dimat.cli import main
from dimat.errors import TrainingError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.parse import config_to_yaml
from dimat.experiment.record.results import AgentResult, MethodResult, RunResult


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., RunResult]], None]:
    def install(run: Callable[..., RunResult]) -> None:
        module = ModuleType("dimat.experiment.run")
        module.run = lambda config, observer, *, world: run(config, observer)  # type: ignore[attr-defined]
        module.run_or_resume = module.run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dimat.experiment.run", module)

    return install


def files() -> list[Path]:
    """All in the working folder, but what Python keeps of modules that it has read."""
    return sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message that ``argv`` is refused with: short, exit code 2, nothing written."""
    before = files()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dimat: error: ")
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert files() == before
    return err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("run --agens 3", "unknown setting 'agens': did you mean 'agents'?"),
        ("run --lr 0.1", "unknown setting 'lr': did you mean 'optimizer.lr'?"),
        (
            "run --topology.nam ring",
            "unknown setting 'topology.nam': did you mean 'topology.name'?",
        ),
        ("run --topolgy.name ring", "did you mean 'topology.name'?"),
        ("run --zzz 3", "unknown setting 'zzz': see --help"),
        ("run --pretrain-epoch 3", "did you mean 'pretrain_epochs'?"),
        ("run --method dimta", "'method' is 'dimta', which is unknown: did you mean 'dimat'?"),
        ("run --controls wa,locl", "'controls' is 'locl', which is unknown: did you mean 'local'?"),
        ("run --model resnet21", "'model' is 'resnet21', which is unknown: did you mean 'resnet"),
        ("run --topology.name rnig", "'topology.name' is 'rnig', which is unknown: did you mean"),
        ("run --data.split idd", "'data.split' is 'idd', which is unknown: did you mean 'iid'?"),
        ("run --agents five", "setting 'agents' is 'five': must be a whole number"),
        ("run --agents 2.5", "setting 'agents' is '2.5': must be a whole number"),
        ("run --optimizer.lr fast", "setting 'optimizer.lr' is 'fast': must be a number"),
        ("run --local_steps x", "setting 'local_steps' is 'x': must be a whole number or null"),
        ("run --overwrite maybe", "setting 'overwrite' is 'maybe': must be true or false"),
        ("run --norm bach", "must be 'batch' or 'group'; did you mean 'batch'?"),
        ("run --agents", "setting 'agents' has no value: must be a whole number"),
        ("run --agents 0", "setting 'agents' is 0: must be >= 1"),
        ("run --optimizer.lr=-1e-3", "setting 'optimizer.lr' is -0.001: must be > 0"),
        (
            "run --topology rnig",
            "'topology.name' is 'rnig', which is unknown: did you mean 'ring'?",
        ),
        (
            "run --matching x",
            "setting 'matching' is 'x': must be set by its parts: matching.images",
        ),
        ("run ring", "unexpected 'ring': a setting is written --NAME VALUE"),
        ("run ring.yml", "unexpected 'ring.yml': a setting is written --config ring.yml"),
        ("--rounds 3", "no command before '--rounds': such as 'dimat run --rounds …'"),
        ("run --config none.yaml", "setting 'config': File does not exist"),
        ("rn", "unknown command 'rn': did you mean 'run'?"),
        (
            "",
            "no command: one of run, resume, agent, status, estimate, compare, report, finish, ",
        ),
        ("topology", "setting 'name' is missing, as in: dimat topology NAME [--agents N]"),
        ("certificates sign", "'request' is missing, as in: dimat certificates sign REQUEST --ca"),
        ("certificates ca", "unknown command 'ca': there are init, request, revoke, show, sign"),
        ("topology rnig", "did you mean 'ring'?"),
        ("topology ring --agens 3", "unknown setting 'agens': did you mean 'agents'?"),
        ("topology ring --agents 0", "setting 'agents' is 0: must be >= 1"),
        ("topology ring --mixing metropolitan", "did you mean 'metropolis'?"),
        ("topology ring --model resnet21", "did you mean 'resnet"),
        ("topology ring --image 3,32", "setting 'image' is (3, 32): must be channels,height,width"),
        ("topology ring --classes 0", "setting 'classes' is 0: must be >= 1"),
        ("topology ring --width 0", "setting 'width' is 0.0: must be > 0"),
        ("topology edges", "'topology.path' is null: must be a file if topology.name is 'edges'"),
        ("topology edges --path none.txt", "none.txt"),
    ],
)
def test_a_bad_command_is_refused(
    capsys: pytest.CaptureFixture[str], argv: str, message: str
) -> None:
    assert message in refusal(capsys, *argv.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents: 5\nrounds: [1\n", "'c.yaml': broken YAML in line"),
        ("agents: 5: 6\n", "'c.yaml': broken YAML in line 1"),
        ("agens: 5\n", "'c.yaml': unknown setting 'agens': did you mean 'agents'?"),
        (
            "topology:\n  nam: ring\n",
            "unknown setting 'topology.nam': did you mean 'topology.name'?",
        ),
        ("agents: five\n", "'c.yaml': setting 'agents' is 'five': must be a whole number"),
        ("agents: null\n", "setting 'agents' is null: must be a whole number"),
        ("agents: 0\n", "setting 'agents' is 0: must be >= 1"),
        ("controls: 3\n", "'c.yaml': setting 'controls' is '3': must be a list, such as a,b"),
        ("topology: rnig\n", "setting 'topology.name' is 'rnig', which is unknown"),
        ("matching: x\n", "setting 'matching' is 'x': must be set by its parts"),
        ("topology: null\n", "setting 'topology' is null: must be set by its parts"),
        ("", "'c.yaml': no settings in it"),
        ("- agents\n", "'c.yaml': no settings in it"),
        ("1: 2\n", "'c.yaml': "),
    ],
)
def test_a_bad_config_file_is_refused(
    capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("c.yaml").write_text(text)
    assert message in refusal(capsys, "run", "--config", "c.yaml")


def test_a_config_file_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_bytes(b"\xff\xfe\x00")
    assert "'c.yaml': not YAML text" in refusal(capsys, "run", "--config", "c.yaml")


def test_a_graph_that_is_not_connected_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edges.txt").write_text("0 1\n2 3\n")
    command = ["topology", "edges", "--path", "edges.txt", "--agents", "4"]
    assert "connected" in refusal(capsys, *command)


def result_of(config: RunConfig) -> RunResult:
    agents = tuple(AgentResult(i, 0.5, 0.75) for i in range(config.agents))
    return RunResult(config, Path("runs/here"), MethodResult(config.method, agents, {}), ())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", RunConfig()),
        ("--controls []", RunConfig(controls=())),
        ("--controls local", RunConfig(controls=("local",))),
        ("--controls=wa,local", RunConfig()),
        ("--controls [local,wa]", RunConfig(controls=("local", "wa"))),
        ("--overwrite --seed 3", RunConfig(overwrite=True, seed=3)),
        ("--overwrite false", RunConfig()),
        ("--seed 1 --config c.yaml", RunConfig(agents=3, seed=2)),
        ("--config c.yaml --seed 1", RunConfig(agents=3, seed=1)),
    ],
)
def test_file_and_options_fill_the_config_and_the_later_wins(
    fake_run: Callable[[Callable[..., RunResult]], None], options: str, expected: RunConfig
) -> None:
    configs = []

    def run(config: RunConfig, observer: object) -> RunResult:
        configs.append(config)
        return result_of(config)

    fake_run(run)
    Path("c.yaml").write_text("agents: 3\nseed: 2\n")
    assert main(["run", *options.split()]) == 0
    assert configs == [expected]


def test_a_run_ends_with_a_table_and_where_the_folder_is(
    fake_run: Callable[[Callable[..., RunResult]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run(lambda config, observer: result_of(config))
    assert main(["run"]) == 0
    out = capsys.readouterr().out
    assert "75.0" in out
    assert out.splitlines()[-1] == "run folder: runs/here"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            TrainingError("agent 3, round 2: the loss is nan"),
            1,
            "agent 3, round 2: the loss is nan",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_run_that_ends_early_says_why_in_one_line(
    fake_run: Callable[[Callable[..., RunResult]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def run(config: RunConfig, observer: object) -> RunResult:
        raise error

    fake_run(run)
    assert main(["run"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_print_config_prints_the_complete_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--seed", "3", "--print_config"])
    assert caught.value.code == 0
    expected = config_to_yaml(RunConfig(seed=3))  # but what follows from other settings
    expected = expected.replace("split: iid-then-by-class", "split: auto")
    assert capsys.readouterr().out == expected


def test_help_and_version_need_no_torch() -> None:
    script = (
        "import sys\nfrom dimat.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    for argv, expected in (["run", "--help"], "--agents 5"), (["--version"], "dimat 0."):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_help_mentions_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help", "all"])
    out = capsys.readouterr().out
    assert all(f"--{name} " in out for name in setting_types())


def test_the_process_exits_with_the_code_and_no_traceback() -> None:
    done = fork_server.run(["dimat", "run", "--agens", "3"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dimat: error: unknown setting 'agens': did you mean 'agents'?\n"


def test_a_topology_is_printed_with_matrix_gap_and_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["topology", "ring", "--agents", "8"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["edges", "8"] in lines
    assert ["|λ₂|", "0.8047"] in lines  # (1 + 2 cos(π/4)) / 3
    assert ["spectral", "gap", "0.1953"] in lines
    assert ["0", ".33", ".33", "·", "·", "·", "·", "·", ".33"] in lines
    assert max(map(len, out.splitlines())) <= 80


def test_of_a_large_topology_the_middle_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "full", "--agents", "50", "--model", "mlp"]) == 0
    out = capsys.readouterr().out
    assert "…" in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) < 60


def test_symmetry_prints_groups_and_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["symmetry", "--model", "cnn", "--input", "2,3,8,8"]) == 0
    printed = capsys.readouterr().out
    assert "features.0" in printed
    assert "coverage" in printed


def test_symmetry_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["symmetry", "--model=torch.nn:ReLU", "--input", "2,3", "--json"]) == 0
    assert Symmetry.from_json(capsys.readouterr().out).groups == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "cnm"], "did you mean 'cnn'"),
        (["--model", "cnn", "--input", "3,32,32"], "batch,channels,height,width"),
        (["--model", "cnn", "--input", "0,3,8,8"], "each >= 1"),
        (["--model", "torch.nn:Nope"], "cannot be imported"),
        (["--model", "vgg11", "--input", "2,3,8,8"], "too deep for images of 8x8"),
    ],
)
def test_a_bad_symmetry_command_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["symmetry", *options]) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
