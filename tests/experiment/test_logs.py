"""Each log holds the numbers of the run folder, every round once, wherever the run was stopped."""

from __future__ import annotations

import json
import logging
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.exchange.threads import peers_file
from tests.experiment.test_resume import StopAfter, Stopped
from tests.experiment.test_run import SMALL, lines

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, RecordError
from dimat.experiment.callbacks import LOGS, CsvFiles
from dimat.experiment.callbacks.tracker import Tracker
from dimat.experiment.config.config import ExchangeConfig
from dimat.experiment.single_agent.run import AgentSite, run_agent

ONE = replace(SMALL, rounds=3, pretrain_epochs=1, controls=())
Rows = dict[str, dict[int, list[float]]]  # all values of a metric by its name, then by round


# --- what the services were told -----------------------------------------------------------------


def told_mlflow(folder: Path) -> Rows:
    from mlflow import MlflowClient

    client, found = MlflowClient(), Rows()
    run = client.get_run(json.loads((folder / "mlflow.json").read_text())["run"])
    for name in run.data.metrics:
        if not name.startswith("summary/"):
            for own in client.get_metric_history(run.info.run_id, name):
                found.setdefault(name, {}).setdefault(own.step, []).append(own.value)
    return found


def status(folder: Path) -> str:
    from mlflow import MlflowClient

    run = json.loads((folder / "mlflow.json").read_text())["run"]
    return str(MlflowClient().get_run(run).info.status)


def told_wandb(folder: Path) -> Rows:
    """The rows of all parts of a run, which W&B's server would put together by its id."""
    found = Rows()
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        assert json.loads((folder / "wandb.json").read_text())["run"] in file.name
        for record in wandb_records(file.read_bytes()):
            if record.WhichOneof("record_type") == "history":
                row = {
                    own.key or "/".join(own.nested_key): json.loads(own.value_json)
                    for own in record.history.item
                }
                for name, value in row.items():
                    if not name.startswith("_") and name != "round":
                        found.setdefault(name, {}).setdefault(row["round"], []).append(value)
    return found


def wandb_records(content: bytes) -> list[Any]:
    """The records of a file in LevelDB's format of logs: blocks of 32 KiB, chunks with headers."""
    from wandb.proto import wandb_internal_pb2

    at, whole, found = 7, b"", []
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


TOLD: Mapping[str, Callable[[Path], Rows]] = {"mlflow": told_mlflow, "wandb": told_wandb}


def told_csv(folder: Path) -> Rows:
    found = Rows()
    for row in pd.read_csv(folder / "metrics.csv").to_dict("records"):
        name = f"test_accuracy/{row['phase']}/agent-{row['agent']:03d}"
        found.setdefault(name, {}).setdefault(row["round"], []).append(row["test_accuracy"])
    return found


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def expected(folder: Path) -> Rows:
    found = Rows()
    for line in lines(folder):
        name = f"test_accuracy/{line['phase']}/agent-{line['agent']:03d}"
        found.setdefault(name, {})[line["round"]] = [line["test_accuracy"]]
    return found


def check_told(folder: Path, log: str) -> None:
    """Every accuracy of the folder is there once; and, at services, means and diagnostics."""
    found, due = TOLD.get(log, told_csv)(folder), expected(folder)
    assert {name: found.get(name) for name in due} == due
    if log == "csv":
        return
    means = {round: sum(own[round][0] for own in of(due, "merged")) / 4 for round in (1, 2, 3)}
    assert {r: v for r, (v,) in found["test_accuracy/merged/mean"].items()} == pytest.approx(means)
    text = (folder / "diagnostics.jsonl").read_text()
    seen = [json.loads(line) for line in text.splitlines()]
    assert found["consensus_after"] == {x["round"]: [x["consensus_after"]] for x in seen}
    assert found["units_moved/hidden1"] == {
        x["round"]: [x["units_moved"]["hidden1"]] for x in seen if x["units_moved"]
    }


def of(rows: Rows, phase: str) -> list[dict[int, list[float]]]:
    return [own for name, own in rows.items() if f"/{phase}/" in name]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("log", ["csv", *TOLD])
def test_a_log_has_every_round_once_wherever_the_run_was_stopped(tmp_path: Path, log: str) -> None:
    """Lines of agents at the end of a phase, in the middle of one, and after a checkpoint."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        dimat.run(replace(ONE, log=(log,), out=str(out)), callbacks=[StopAfter(15)])
    for count in (4, 7):
        with pytest.raises(Stopped):
            dimat.resume(out, callbacks=[StopAfter(count)])
    if log == "mlflow":
        assert status(out) == "KILLED"
    dimat.resume(out)
    check_told(out, log)


@pytest.mark.usefixtures("offline")
def test_every_method_is_a_run_with_its_settings_and_its_end(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config = replace(ONE, rounds=1, controls=("local",), log=("mlflow",), out=str(tmp_path / "run"))
    folder = dimat.run(config).folder
    client = MlflowClient()
    (experiment,) = (own for own in client.search_experiments() if own.name == "dimat")
    runs = client.search_runs([experiment.experiment_id])
    assert {own.info.run_name for own in runs} == {str(folder), f"{folder}/controls/local"}
    for own in runs:
        assert own.info.status == "FINISHED"
        control = own.info.run_name.endswith("local")
        assert own.data.params["method"] == ("local" if control else "dimat")
        assert own.data.params["optimizer.lr"] == "0.001"
        where = folder / "controls" / "local" if control else folder
        summary = json.loads((where / "summary.json").read_text())
        assert own.data.metrics["summary/test_accuracy_mean"] == summary["test_accuracy_mean"]


@pytest.mark.usefixtures("offline")
def test_a_run_that_replaces_another_is_another_at_the_service(tmp_path: Path) -> None:
    config = replace(ONE, rounds=0, log=("mlflow", "csv"), out=str(tmp_path / "run"))
    found = []
    for agents in (4, 3):
        folder = dimat.run(replace(config, agents=agents, overwrite=True)).folder
        found.append(json.loads((folder / "mlflow.json").read_text())["run"])
        assert len(pd.read_csv(folder / "metrics.csv")) == agents
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("log", "module"),
    [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")],
)
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    config = replace(ONE, log=(log,), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=rf"'{log}', which is not .* \"dimat\[{log}\]\""):
        dimat.run(config)
    assert not (tmp_path / "run").exists()


# --- tables --------------------------------------------------------------------------------------


def test_a_table_is_what_pandas_would_make_of_the_lines(tmp_path: Path) -> None:
    folder = dimat.run(replace(ONE, log=("csv",), out=str(tmp_path / "run"))).folder
    found = pd.read_csv(folder / "metrics.csv")
    pd.testing.assert_frame_equal(found, pd.DataFrame(lines(folder)), check_dtype=False)
    seen = pd.read_csv(folder / "diagnostics.csv")
    assert list(seen["round"]) == [1, 2, 3]
    assert "units_moved/hidden2" in seen


def test_a_value_of_a_new_name_is_a_column_of_the_whole_table(tmp_path: Path) -> None:
    table, log = tmp_path / "metrics.csv", CsvFiles()
    given: list[dict[str, object]] = [
        {"round": 0, "phase": "trained", "loss": 0.1},
        {"round": 1, "phase": "trained", "loss": None, "heard": {"2": 1, "10": 3}},
        {"round": 2, "phase": 'a,"b"\né'},
    ]
    log.started("wa", ONE, tmp_path, -1)
    assert not table.exists()
    for line in given:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.measured("wa", line)
    found = pd.read_csv(table)
    assert list(found) == ["round", "phase", "loss", "heard/2", "heard/10"]
    assert found["phase"][2] == given[2]["phase"]
    assert list(found["heard/10"].dropna()) == [3]
    assert found["loss"].isna().tolist() == [False, True, True]
    assert not list(tmp_path.glob("*.partial"))


# --- services that fail -------------------------------------------------------------------------


class Service(Tracker):
    """A service in memory, which fails in some of its calls."""

    name = "service"

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.fails, self.left = False, 0
        self.runs: list[str | None] = []
        self.ended: Mapping[str, float] | None = None

    def begin(self, method: str, config: RunConfig, folder: Path, run: str | None) -> str:
        self._check()
        self.runs.append(run)
        return run or "first"

    def send(self, number: int, row: Mapping[str, float]) -> None:
        self._check()
        self.rows.append((number, dict(row)))

    def end(self, summary: Mapping[str, float]) -> None:
        self._check()
        self.ended = summary

    def leave(self) -> None:
        self._check()
        self.left += 1

    def _check(self) -> None:
        if self.fails:
            raise TimeoutError("nobody answers")


def line(number: int, phase: str = "trained") -> dict[str, object]:
    return {"round": number, "agent": 0, "phase": phase, "loss": number / 2}


def test_what_a_service_missed_is_sent_after_the_next_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    service.started("wa", ONE, tmp_path, -1)
    service.measured("wa", line(0))
    service.fails = True
    with caplog.at_level(logging.WARNING, "dimat"):
        for phase in ("merged", "trained"):  # asked once a round, however many lines it has
            service.measured("wa", line(1, phase))
    assert [r.getMessage().count("nobody answers") for r in caplog.records] == [1]
    service.fails = False
    service.measured("wa", line(2))
    service.finished("wa", {"rounds": 2, "method": "wa"})
    assert [number for number, _ in service.rows] == [0, 1, 2]
    assert set(service.rows[1][1]) == {"loss/merged/agent-000", "loss/trained/agent-000"}
    assert service.ended == {"rounds": 2.0}


def test_a_service_that_is_away_at_the_end_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    service.started("wa", ONE, tmp_path, -1)
    service.measured("wa", line(0))
    service.fails = True
    service.finished("wa", {"rounds": 0})
    assert service.ended is None
    assert "round 0 was not sent" in caplog.text


def test_a_service_that_is_away_at_the_beginning_is_said(tmp_path: Path) -> None:
    service = Service()
    service.fails = True
    with pytest.raises(ConfigError, match="log 'service': beginning failed: .*nobody answers$"):
        service.started("wa", ONE, tmp_path, -1)
    service.fails = False
    service.started("wa", ONE, tmp_path, -1)
    service.fails = True
    with pytest.raises(ConfigError, match=r"without .*service.json it begins another run there"):
        service.started("wa", ONE, tmp_path, -1)
    assert service.runs == [None]


def test_a_run_that_is_stopped_is_left_and_one_that_is_finished_is_not(tmp_path: Path) -> None:
    for finished in (False, True):
        service = Service()
        service.close()  # before it has begun
        service.started("wa", ONE, tmp_path, -1)
        if finished:
            service.finished("wa", {})
        service.close()
        assert service.left == (not finished)


@pytest.mark.parametrize("text", ["", "[]", '{"run": 3, "round": 1}', '{"run": "a"}', "[" * 9999])
def test_a_note_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "service.json").write_text(text)
    with pytest.raises(RecordError, match=r"service.json' cannot be read"):
        Service().started("wa", ONE, tmp_path, -1)


# --- logs of one's own, and of an agent by itself -------------------------------------------------


def test_a_log_of_ones_own_is_one_among_dimats(tmp_path: Path) -> None:
    services: list[Service] = []

    @dimat.LOGS.register("mine")
    def mine() -> Service:
        services.append(Service())
        return services[-1]

    try:
        dimat.run(replace(ONE, rounds=1, log=("mine", "csv"), out=str(tmp_path / "run")))
    finally:
        del LOGS["mine"]
    assert [number for number, _ in services[0].rows] == [0, 1]
    with pytest.raises(ConfigError, match="'mine', which is unknown"):
        dimat.run(replace(ONE, log=("mine",)))


@pytest.mark.parametrize(
    ("thing", "message"),
    [(dict, "has no 'started'"), (3, "is 3, which has no"), (Service(), "which is an object")],
)
def test_what_makes_no_callback_is_not_registered(thing: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOGS.register("mine", thing)


@pytest.mark.usefixtures("offline")
def test_an_agent_by_itself_has_logs_too(tmp_path: Path) -> None:
    soon = ExchangeConfig(timeout_s=0.01)  # nobody else ever comes
    config = replace(ONE, agents=2, exchange=soon, out=str(tmp_path), log=("csv", "mlflow"))
    site = AgentSite(peers_file(tmp_path, 2), insecure=True)
    run_agent(replace(config, pretrain_epochs=0, local_steps=1), 0, site)
    folder = tmp_path / "agent-000"
    for told in (told_csv, told_mlflow):
        assert {name: told(folder)[name] for name in expected(folder)} == expected(folder)
    whole = (folder / "metrics.csv").read_text()
    run_agent(replace(config, pretrain_epochs=0, local_steps=1), 0, site)  # there is nothing to do
    assert (folder / "metrics.csv").read_text() == whole
    assert {len(own) for rows in told_mlflow(folder).values() for own in rows.values()} == {1}


@pytest.mark.usefixtures("offline")
def test_an_agent_that_is_stopped_goes_on_in_its_logs(tmp_path: Path) -> None:
    lasts = iter((4, 2, 99))  # lines until it is stopped, once in the middle of a round
    soon = ExchangeConfig(timeout_s=0.01)
    own = {"pretrain_epochs": 0, "local_steps": 1, "rounds": 5}
    config = replace(ONE, agents=2, exchange=soon, out=str(tmp_path), **own)  # type: ignore[arg-type]
    site = AgentSite(peers_file(tmp_path, 2), insecure=True)
    LOGS.register("stop", lambda: StopAfter(next(lasts)))
    try:
        for stops in (True, True, False):
            with pytest.raises(Stopped) if stops else nullcontext():
                run_agent(replace(config, log=("stop", "csv", "mlflow")), 0, site)
    finally:
        del LOGS["stop"]
    folder = tmp_path / "agent-000"
    assert max(line["round"] for line in lines(folder)) == 5
    for told in (told_csv, told_mlflow):
        assert {name: told(folder)[name] for name in expected(folder)} == expected(folder)
