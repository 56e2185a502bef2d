"""The rounds of one agent in a process of its own, among neighbors that may be missing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from dimat.agent.membership import Membership, MembershipStatus, most_bytes
from dimat.errors import ConfigError, StructureError, TrainingError
from dimat.exchange import Traffic
from dimat.exchange.network.link import NOT_YET, Rules
from dimat.exchange.network.metrics import serve_metrics
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.rpc import NOBODY
from dimat.exchange.network.site import AgentSite
from dimat.exchange.tree import pack, unpack
from dimat.experiment.callbacks import Callback
from dimat.experiment.digests import data_digest
from dimat.experiment.evaluation.evaluate import evaluated, merge_costs
from dimat.experiment.handshake import handshake
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.class_records import ClassRecords
from dimat.experiment.record.incident_log import IncidentLog
from dimat.experiment.record.lines import digest_name
from dimat.experiment.record.results import SingleAgentResult
from dimat.experiment.record.run_folder import OVERWRITE, RunFolder
from dimat.experiment.running.pretrain import one_epoch
from dimat.experiment.setup import Setup
from dimat.methods import Method, RoundContext, RoundResult
from dimat.state import State, num_bytes, state_of
from dimat.topology import near
from dimat.training.round import merge_round
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

_BETWEEN_S = 20.0  # seconds between checkpoints: a kill loses this and an epoch, at most
_JUST_AWAY = (NOT_YET, NOBODY)  # of an edge to an agent that has not begun, perhaps
_LOOK_S = 3.0  # seconds that an agent waits, before pre-training, for neighbors that are ahead

# Prepares planned faults, from the agent's number, the file of those that have struck, and the
# agent's transport; what it returns is called with the number of each round as it begins.
Rehearse = Callable[[int, Path, Neighborhood], Callable[[int], None]]


@dataclass(frozen=True)
class _RoundAgent:
    """The agent in a round, with a context that depends on its membership.

    Args:
        trainer: The agent's model, optimizer and shard.
        membership: The agent's membership among its neighbors.
        life: A random number that tells this start of the agent from all others.
    """

    trainer: LocalTrainer
    membership: Membership
    life: int

    @property
    def index(self) -> int:
        """The agent's number."""
        return self.trainer.index

    @property
    def traffic(self) -> Traffic:
        """Counters of the agent's bytes, sent and received, and of its busy seconds."""
        return self.trainer.traffic

    def context(self, number: int) -> RoundContext:
        """The context of a merge, adapted to the agent's membership status."""
        me = replace(self.trainer.context(number), life=self.life)
        return self.membership.context(me)

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, move the optimizer along, recalibrate; returns the seconds."""
        return self.trainer.take_over(me, result)


@dataclass
class SingleAgentRun:
    """The run of one agent, from pre-training or its last checkpoint to the last round.

    Args:
        setup: Data, graph and settings that all agents share.
        method: The method, which must tolerate lost messages.
        index: The agent's number.
        folder: The agent's run folder.
        progress: Receives the progress of the agent.
        callbacks: Receive the measurements.
        done: The last round that the agent has done.
        exchanged: Number of exchanges that counted, by neighbor.
        state: The state that is reported: after the merge of the last round, or after its training
            if there was no merge.

    Attributes:
        handshake: Settings and digests that neighbors must have alike.
        terms: The same and the digest of the data, which the agent's checkpoints must have alike.
        store: The folder of the checkpoints.
        log: The log of incidents.
        neighborhood: The transport between the agent and its neighbors; made by :meth:`run`.
        connections: What has protected the connections to them; made by :meth:`run`.
        strike: Called with the number of each round as it begins; made by :meth:`run`.
        membership: The agent's membership among its neighbors; made by :meth:`run`.
    """

    setup: Setup
    method: Method
    index: int
    folder: RunFolder
    progress: Progress
    callbacks: Sequence[Callback] = ()
    done: int = 0
    exchanged: Counter[int] = field(default_factory=Counter)
    state: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.setup.config
        self.handshake = handshake(self.setup, matches=self.method.matches)
        self.terms = dict(self.handshake)
        if "data" not in self.terms:  # no neighbor's business, but they must not change
            self.terms["data"] = data_digest(self.setup)[:16]
        self.store = CheckpointFolder(
            self.folder.path / "checkpoints", "round", config.checkpoint.keep
        )
        self.log = IncidentLog(self.folder, self.progress.note)
        self.classes = ClassRecords(self.folder)
        self.event: Callable[..., object] = lambda kind, **facts: None
        self._away: Mapping[int, str] = {}  # why neighbors have not come, as was last seen
        self._said: set[tuple[int, str]] = set()

    def run(
        self,
        site: AgentSite,
        rehearse: Rehearse | None = None,
        *,
        metrics: str | None = None,
        event: Callable[..., object] | None = None,
    ) -> SingleAgentResult:
        """Run the agent to the last round.

        Args:
            site: Where the agent and its neighbors are, and what protects their connections.
            rehearse: Prepares the faults that are to strike the agent; None: none are planned.
            metrics: HOST:PORT where Prometheus reads the agent's status; None: nowhere.
            event: Called with the kind and the facts of each event; None: nobody is told.

        Returns:
            The results of the agent.
        """
        if event is not None:
            self.event = self.log.event = event
        config = self.setup.config
        own = config.exchange
        size = num_bytes(state_of(self.setup.new_model(self.index), self.setup.exchanged))
        rules = Rules(self.handshake, own.timeout_s, limit_bytes=most_bytes(size, self.method))
        others = near(self.setup.topology, self.index)
        self.neighborhood = site.neighborhood(
            self.index, others, rules, patience_s=own.patience_s, device=config.device
        )
        self.neighborhood.tell(self._hear)
        self.strike = (
            rehearse(self.index, self.folder.path / "faults.jsonl", self.neighborhood)
            if rehearse
            else lambda number: None
        )
        self.membership = Membership(self.neighborhood, rounds=config.rounds)
        self.life = secrets.randbits(62)
        end_metrics: Callable[[], None] = lambda: None  # noqa: E731
        try:
            if metrics is not None:
                end_metrics = serve_metrics(metrics, lambda: self.neighborhood.status)
            self.connections = self.folder.note_connections(self.neighborhood.connections)
            self._tell()
            agent = self._set_out()
            self.progress.stage(f"agent {self.index}", config.rounds)
            self.progress.advance(self.done)
            while self.done < config.rounds:
                self._round(agent)
                self.progress.advance()
        finally:
            end_metrics()
            self.neighborhood.close()
        return self._finish()

    def _hear(self, kind: str, **facts: object) -> None:
        """Pass an event of the transport on; an alarm is said to the user too."""
        self.event(kind, **facts)
        if kind == "alarm":
            with contextlib.suppress(SystemExit):  # as rich ends a program whose output is closed
                self.progress.note(f"ATTENTION: {facts['why']}")

    # --- a round -----------------------------------------------------------------------------

    def _round(self, agent: LocalTrainer) -> None:
        """Catch up with the neighbors, merge, train, and write a checkpoint if it is due."""
        before, config = self.done, self.setup.config
        self.done = self.membership.catch_up(self.done, agent.gauge)
        self._say_skipped(before)
        self.progress.advance(self.done - before)
        number = min(self.done + 1, config.rounds)
        self.strike(number)
        self.membership.speak(self.done, agent.gauge)
        (result,) = merge_round(
            [_RoundAgent(agent, self.membership, self.life)],
            self.method,
            self.neighborhood,
            number,
            precision=config.exchange.precision,
            where=f"{config.method}, round {number}, in the merge",
            observe=self._note,
        )
        self.membership.speak(number, agent.gauge)  # agents that join now see the new round
        met = result.mixed and self.membership.status is not MembershipStatus.NEW
        self._tell(agent, **merge_costs(result))
        if met:
            self._write(agent, number, "merged", merge_costs(result))
            self.state = agent.evaluated_state()
        self._train(agent, number)
        if not met:
            self.state = agent.evaluated_state()
        self.done = number
        self._tell(agent)
        if self.done == config.rounds:  # before the checkpoint of the last round
            self.folder.write_state(self.index, self.state)
        self._keep(agent)

    def _note(self, contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
        """Update the membership, count the exchanges that counted, and log the incidents."""
        self.membership.after(results[0])
        if self.method.exchanges != "rounds":
            return
        number, asked = contexts[0].round, self.neighborhood.asked
        neighbors = [j for j in contexts[0].neighbors if j in asked]
        incidents = self.neighborhood.incidents
        failed = {incident.agent for incident in incidents if incident.uncounted}
        self.exchanged.update(j for j in neighbors if j not in failed)
        self.neighborhood.report.note(number, neighbors, incidents)
        self.log.add(number, incidents)

    def _train(self, agent: LocalTrainer, number: int) -> None:
        """Take the local steps of a round, and evaluate."""
        start = time.perf_counter()
        agent.begin_training()
        for _ in range(self.setup.round_steps(self.index)):
            agent.topology = self.setup.topology.at(agent.steps)
            agent.update(agent.gradient())
            agent.note_step()
        spent = time.perf_counter() - start
        agent.traffic.busy_s += spent
        try:
            loss = agent.loss()
        except TrainingError as error:
            raise TrainingError(f"{self.setup.config.method}, round {number}, {error}") from error
        self._tell(agent, train_s=spent)
        self._write(agent, number, "trained", {"train_loss": loss, "train_s": spent})

    def _tell(self, agent: LocalTrainer | None = None, **more: float | str | None) -> None:
        """Keep up what those who ask how the agent is are told."""
        if agent is not None:
            own = agent.traffic
            more |= {"sent_bytes": own.sent_bytes, "received_bytes": own.received_bytes}
        self.neighborhood.report.tell(
            round=self.done,
            rounds=self.setup.config.rounds,
            standing=self.membership.status.value,
            **more,
        )

    def _write(
        self, agent: LocalTrainer, number: int, phase: str, measured: Mapping[str, float | None]
    ) -> None:
        """Evaluate the agent and write lines of metrics and classes, if the round is measured."""
        config = self.setup.config
        if number % config.eval_every and number != config.rounds:
            return
        own, classes = evaluated(self.setup, agent, number, phase, measured)
        line = self.folder.append(
            {
                **own,
                "standing": self.membership.status.value,
                "exchanged": {str(j): n for j, n in sorted(self.exchanged.items())},
            }
        )
        self.classes.write(number, phase, {self.index: classes})
        for callback in self.callbacks:
            callback.measured(config.method, copy.deepcopy(line))
        metric = self.setup.metric
        found = line[f"test_{metric.name}"]
        told = {"accuracy": found}
        self._tell(
            **(told if metric.name == "accuracy" else {"metric": metric.name, "score": found})
        )
        self.event(phase, round=number, **{metric.name: found})
        self.progress.note(f"round {number:3d}  {phase} {metric.note(found)}")

    def _say_skipped(self, before: int) -> None:
        """Say which rounds the neighbors did without the agent, if it leaves some out."""
        if self.done == before:
            return
        which = f"rounds {before + 1} to {self.done}"
        if self.done == before + 1:
            which = f"round {self.done}"
        standing = self.membership.status.value
        self.progress.note(
            f"its neighbors are ahead: on from round {self.done + 1} without {which}, {standing}"
        )
        self.event("skipped", since=before + 1, last=self.done, standing=standing)

    # --- beginning, going on, and end -----------------------------------------------------------

    def _set_out(self) -> LocalTrainer:
        """The agent from its checkpoint; else new, if neighbors are ahead; else pre-trained."""
        config = self.setup.config
        others = near(self.setup.topology, self.index)
        own = config.exchange
        wait_s = own.timeout_s if own.wait_s is None else own.wait_s
        found = self.last_checkpoint(self.progress.note)
        agent = self.setup.new_agent(self.index, pretraining=False)
        if found:
            self._restore(agent, found)
            self._tell(agent)
            self.progress.note(f"goes on from round {self.done} of {config.rounds}")
        else:
            self.folder.rewind({})
        self.membership.speak(self.done, agent.gauge)
        if not found:
            self._await(others, min(_LOOK_S, wait_s), quietly=True)
            self.done = self.membership.catch_up(0, None, empty_handed=True)
            self._say_skipped(0)
            self._begin_logs(-1)
            if not self.done:
                self._pretrain(agent)
        missing = self._await(others, wait_s)
        if found and not missing:
            self._go_back(agent)
        if found:
            self._begin_logs(self.done)
        self._tell(agent)
        for j in missing:
            why = self._away[j]
            told = f": {why}" if why in _JUST_AWAY else ""  # of others it was said why
            self.progress.note(f"agent {j} is not waited for any longer{told}")
        if not config.rounds:
            self.folder.write_state(self.index, agent.evaluated_state())
        return agent

    def _await(self, others: Sequence[int], wait_s: float, *, quietly: bool = False) -> list[int]:
        """Wait for neighbors, and say what keeps them away as soon as that is known.

        Args:
            others: Their numbers.
            wait_s: Seconds.
            quietly: Whether it is not said that, and for whom, the agent waits.

        Returns:
            Those who have not come.
        """
        told = quietly or wait_s < 1

        def heed(why: Mapping[int, str]) -> None:
            nonlocal told
            if why and not told:
                who = f"{'agent' if len(why) == 1 else 'agents'} {', '.join(map(str, why))}"
                self.progress.note(f"waiting up to {wait_s:g} s for {who}")
                told = True
            for j, reason in why.items():
                if reason not in _JUST_AWAY and (j, reason) not in self._said:
                    who = "" if reason.startswith(f"agent {j} ") else f"agent {j}: "
                    self.progress.note(f"{who}{reason}")
                    self._said.add((j, reason))
            self._away = why

        return self.neighborhood.await_neighbors(others, wait_s, heed)

    def last_checkpoint(self, refused: Callable[[str], None]) -> Checkpoint | None:
        """The checkpoint that the run goes on from; None if there is none that can be used.

        Args:
            refused: Called with a message for each later checkpoint that cannot be used.

        Raises:
            ConfigError: If it is of other settings or other data.
        """
        return self.store.latest(refused, self._check)

    def _begin_logs(self, after_round: int) -> None:
        """Tell the callbacks that the agent begins, or goes on after a round."""
        for callback in self.callbacks:
            callback.started(
                self.setup.config.method, self.folder.config, self.folder.path, after_round
            )

    def _restore(self, agent: LocalTrainer, found: Checkpoint) -> None:
        """Restore the agent, and the run with it, from a checkpoint."""
        self.folder.rewind(found.meta["sizes"])
        Snapshot.of_tree(unpack(found.meta["agent"], found.tensors)).restore(agent)
        self.done = found.number
        self.exchanged = Counter({int(j): n for j, n in found.meta["exchanged"].items()})
        self.membership.restore(found.meta["presence"])
        self.log.restore(found.meta.get("incidents"))

    def _go_back(self, agent: LocalTrainer) -> None:
        """Go back to the last round that all agents have done, if all were stopped."""
        if self.method.exchanges == "never" or self.method.merges_once:
            return  # its training does not depend on its neighbors
        network, kept = self.setup.topology, self._readable()
        common = self.membership.common_round(self.index, network, self.done, kept)
        if common < self.done:
            self._restore(agent, self.store.read(common))
            self.membership.speak(self.done, agent.gauge)
            self.progress.note(f"all were stopped: on from round {common}, which all have done")

    def _readable(self) -> list[int]:
        """Rounds whose checkpoints can be used."""
        found = []
        for number in self.store.numbers():
            with contextlib.suppress(StructureError):
                self._check(self.store.read(number))
                found.append(number)
        return found

    def _pretrain(self, agent: LocalTrainer) -> None:
        """Pre-train a separate agent, and restore its snapshot into the agent of the rounds."""
        epochs = self.setup.config.pretrain_epochs
        store = CheckpointFolder(self.store.path / "pretrained", "epoch", 1)
        trainer, found = self.setup.new_agent(self.index, pretraining=True), None
        if (found := store.latest(self.progress.note, self._check)) is not None:
            Snapshot.of_tree(unpack(found.meta["agent"], found.tensors)).restore(trainer)
        self.progress.stage("pre-training", max(epochs, 1))
        self.progress.advance(trainer.epochs)
        written = time.monotonic()
        while trainer.epochs < epochs:
            one_epoch(trainer)
            self.progress.advance()
            if time.monotonic() - written > _BETWEEN_S:
                store.write(self._checkpoint(trainer, trainer.epochs))
                written = time.monotonic()
        try:
            loss = trainer.loss()
        except TrainingError as error:
            raise TrainingError(f"round 0 (pre-training), {error}") from error
        Snapshot.of(trainer).restore(agent, new_shard=True)
        spent = agent.traffic.busy_s
        self._write(agent, 0, "trained", {"train_loss": loss, "train_s": spent})
        self._keep(agent)

    def _keep(self, agent: LocalTrainer) -> None:
        """Write a checkpoint, if it is due."""
        config = self.setup.config
        every = 1 if config.checkpoint.every is None else config.checkpoint.every
        if self.membership.status is MembershipStatus.NEW:
            return  # it has not taken over a state yet, and its own is untrained
        if every and (self.done % every == 0 or self.done == config.rounds):
            self.folder.flush()
            self.store.write(self._checkpoint(agent, self.done))

    def _checkpoint(self, agent: LocalTrainer, number: int) -> Checkpoint:
        """A checkpoint of the agent, its membership and its log."""
        tensors: dict[str, Tensor] = {}
        packed = pack(Snapshot.of(agent).tree(), "agent", tensors)
        meta = {
            "terms": self.terms,
            "agent": packed,
            **self.folder.moment(),
            "exchanged": {str(j): n for j, n in self.exchanged.items()},
            "presence": self.membership.kept(),
            "incidents": self.log.kept(),
        }
        return Checkpoint(number, meta, tensors)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of another run, or one whose lines are missing or changed."""
        if checkpoint.meta["terms"] != self.terms:
            raise ConfigError(
                f"the checkpoints in {self.store.path} are of other settings or other data than "
                f"this agent's: undo the change, or start again with {OVERWRITE}"
            )
        self.folder.check_lines(checkpoint.meta)

    def _finish(self) -> SingleAgentResult:
        """Write the summary of the agent; returns its results."""
        rounds, last, at = set(), {}, dict[str, int]()
        for line in self.folder.lines():
            rounds.add(line["round"])
            last[line["phase"]] = line[f"test_{self.setup.metric.name}"]
            at[line["phase"]] = line["round"]
        self.log.end(self.done)
        result = SingleAgentResult(
            self.index,
            self.folder.path,
            len(rounds - {0}),
            last.get("trained", float("nan")),
            last.get("merged"),
            dict(self.exchanged),
            {j: dict(own) for j, own in self.log.counts.items()},
            self.setup.metric,
            at.get("merged"),
            at.get("trained"),
        )
        found = dataclasses.asdict(result)
        del found["metric"]  # task.json has it
        summary = {
            **found,
            "folder": str(result.folder),
            "connections": self.connections,
            **{digest_name(file): own for file, own in self.folder.digests().items()},
        }
        self.folder.write_json("summary", summary)
        for callback in self.callbacks:
            callback.finished(self.setup.config.method, copy.deepcopy(summary))
        return result
