"""What a command imports: no more than it needs, so that it answers soon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.exchange.threads import HOST
from tests.experiment.report_folders import make_comparison, make_run

from dimat.cli.commands.topology import DEFAULT_BYTES, parser
from dimat.models import build_model
from dimat.state import num_bytes, state_of

SLOW = "torch scipy sklearn pandas plotly datasets grpc jinja2 cryptography prometheus_client"
SMALL_RUN = (
    "run --agents 2 --rounds 1 --pretrain_epochs 0 --local_steps 1 --width 0.25 --controls [] "
    "--threads 1 --out"
)


def leave_out(command: str, modules: str, after: str = "", code: int = 0) -> None:
    """Run a command in a process of its own, and look at the modules that it has imported."""
    script = (
        "import sys, dimat.cli\n"
        f"try: assert dimat.cli.main(sys.argv[1:]) == {code}\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"found = {{*{modules.split()!r}}} & {{*sys.modules}}\n"
        "assert not found, found\n" + after
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr if code == 2 else done.stdout


@pytest.mark.parametrize("command", ["--help", "--version", "run --help", "certificates --help"])
def test_help_imports_nothing_that_only_its_command_needs(command: str) -> None:
    leave_out(command, f"{SLOW} numpy networkx rich")


@pytest.mark.parametrize("graph", ["ring", "full --agents 50", "directed-ring"])
def test_a_graph_is_printed_with_its_costs_and_without_pytorch(graph: str) -> None:
    leave_out(f"topology {graph}", SLOW)


def test_runs_and_comparisons_are_reported_without_pytorch(tmp_path: Path) -> None:
    run, several = make_run(tmp_path / "run"), make_comparison(tmp_path / "several")
    for page in ("folder", "page.html"):
        leave_out(f"report {run} {several} --out {tmp_path / page}", "torch sklearn pandas grpc")


def test_agents_are_asked_and_certificates_are_shown_without_pytorch(tmp_path: Path) -> None:
    peers, ca = tmp_path / "peers.yaml", tmp_path / "ca"
    peers.write_text(f'0: {{address: "{HOST}:1"}}\n')  # nobody listens there
    leave_out(f"status {peers} --insecure", "torch scipy numpy plotly", code=1)
    leave_out(f"certificates init --run r --out {ca}", "torch scipy numpy grpc")
    leave_out(f"certificates show {ca}", "torch scipy numpy grpc")


@pytest.mark.parametrize("site", ["--insecure --peers none", "--peers all", "--certificates no"])
def test_an_agent_looks_at_its_site_before_pytorch_is_there(tmp_path: Path, site: str) -> None:
    all_peers = tmp_path / "all"
    all_peers.write_text(f'0: {{address: "{HOST}:1"}}\n1: {{}}\n')
    known = "" if "--peers" in site else f"--peers {all_peers}"
    own = site.replace("--peers all", f"--peers {all_peers}")
    leave_out(f"agent --agents 2 --id 0 {own} {known}", "torch", code=2)


def test_a_run_on_digits_imports_no_reports_agents_apart_or_scikit_learn(tmp_path: Path) -> None:
    needed = {"torch", "scipy"}
    others = " ".join(name for name in SLOW.split() if name not in needed)
    collected = "import gc; assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
    leave_out(f"{SMALL_RUN} {tmp_path / 'demo'}", others, collected)


def test_the_bytes_that_are_known_of_the_default_model_are_those_of_its_state() -> None:
    options = parser().parse_args(["ring"])
    channels, *size = options.image
    model = build_model(
        options.model,
        in_channels=channels,
        num_classes=options.classes,
        image_size=(size[0], size[1]),
        width=options.width,
    )
    assert num_bytes(state_of(model)) == DEFAULT_BYTES
