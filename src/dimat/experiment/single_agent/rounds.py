"""The rounds of one agent among others that may be missing."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dimat.agent.membership import Membership, MembershipStatus, most_bytes
from dimat.errors import ConfigError, ExchangeError, StructureError, TrainingError
from dimat.exchange import Traffic
from dimat.exchange.network.link import Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.rendezvous import Directory
from dimat.exchange.tree import pack, unpack
from dimat.experiment.evaluation.evaluate import line_of, merge_costs
from dimat.experiment.handshake import terms
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.incident_log import IncidentLog
from dimat.experiment.record.lines import digest_name
from dimat.experiment.record.results import SingleAgentResult
from dimat.experiment.record.run_folder import OVERWRITE, RunFolder
from dimat.experiment.running.pretrain import one_epoch
from dimat.experiment.setup import Setup
from dimat.experiment.single_agent.faults import Faults, Rehearsal
from dimat.methods import Method, RoundContext, RoundResult
from dimat.state import State, num_bytes, state_of
from dimat.topology import near
from dimat.training.round import merge_round
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

_BETWEEN_S = 20.0  # a killed pre-training loses no more than about this, and an epoch
_LOOK_S = 3.0  # how long an agent looks around, before it pre-trains, for others that are ahead


@dataclass(frozen=True)
class Rendezvous:
    """Where an agent finds the others.

    Args:
        host: Of the store.
        port: Of the store.
        name: Of the run: runs that share a store have different ones.
    """

    host: str
    port: int
    name: str = "dimat"


@dataclass(frozen=True)
class _Present:
    """The agent in a merge whose neighbors may miss it.

    Args:
        trainer: Its model, optimizer and shard.
        membership: What it is to its neighbors.
        life: A number that no other start of this agent has.
    """

    trainer: LocalTrainer
    membership: Membership
    life: int

    @property
    def index(self) -> int:
        """Its number."""
        return self.trainer.index

    @property
    def traffic(self) -> Traffic:
        """Counters of the bytes that it sent and received."""
        return self.trainer.traffic

    def context(self, number: int) -> RoundContext:
        """What it brings to the merge, by what it is to its neighbors."""
        me = replace(self.trainer.context(number), life=self.life)
        return self.membership.member(me)

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load, move the optimizer along, recalibrate: seconds that it took."""
        return self.trainer.take_over(me, result)


@dataclass
class SingleAgentRun:
    """One agent, and where it is up to.

    Args:
        setup: What all agents have in common.
        method: That does without lost messages.
        index: The agent's number.
        folder: Its own.
        observer: Told how it goes.
        done: The last round that it has done.
        exchanged: How often an exchange with each neighbor counted.
        state: What is reported of it: merged, if its last round began with a merge.
    """

    setup: Setup
    method: Method
    index: int
    folder: RunFolder
    observer: Progress
    done: int = 0
    exchanged: Counter[int] = field(default_factory=Counter)
    state: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.setup.config
        self.terms = terms(self.setup, matches=self.method.matches)
        self.store = CheckpointFolder(
            self.folder.path / "checkpoints", "round", config.checkpoint.keep
        )
        self.log = IncidentLog(self.folder, self.observer.note)

    def run(self, meeting: Rendezvous, faults: Faults) -> SingleAgentResult:
        """From where it is to the last round."""
        config = self.setup.config
        own = config.exchange
        board = Directory(meeting.host, meeting.port, f"dimat/{meeting.name}")
        size = num_bytes(state_of(self.setup.new_model(self.index)))
        rules = Rules(self.terms, own.timeout_s, limit_bytes=most_bytes(size))
        self.hood = Neighborhood(
            self.index,
            board,
            own.interface,
            rules,
            patience_s=own.patience_s,
            device=config.device,
        )
        self._look_for(board)
        log = self.folder.path / "faults.jsonl"
        self.rehearsal = Rehearsal(faults, self.index, log, self.hood)
        self.presence = Membership(self.hood, rounds=config.rounds)
        self.life = secrets.randbits(62)
        try:
            agent = self._set_out()
            self.observer.stage(f"agent {self.index}", config.rounds)
            self.observer.advance(self.done)
            while self.done < config.rounds:
                self._round(agent)
                self.observer.advance()
        finally:
            self.hood.close()
        return self._finish()

    def _look_for(self, board: Directory) -> None:
        """Say so if the store does not answer: the agent then begins by itself."""
        try:
            board.local_address()
        except ExchangeError as error:
            self.observer.note(f"{error}; it is asked again and again: start 'dimat store' there")

    # --- a round -----------------------------------------------------------------------------

    def _round(self, agent: LocalTrainer) -> None:
        before, config = self.done, self.setup.config
        self.done = self.presence.catch_up(self.done, agent.gauge)
        self.observer.advance(self.done - before)
        number = min(self.done + 1, config.rounds)
        self.rehearsal.strike(number)
        self.presence.speak(self.done, agent.gauge)
        (merged,) = merge_round(
            [_Present(agent, self.presence, self.life)],
            self.method,
            self.hood,
            number,
            precision=config.exchange.precision,
            where=f"{config.method}, round {number}, in the merge",
            observe=self._note,
        )
        self.presence.speak(number, agent.gauge)  # whoever comes meanwhile knows that it is late
        met = merged.disagreement is not None and self.presence.standing is not MembershipStatus.NEW
        if met:
            self._write(agent, number, "merged", merge_costs(merged))
            self.state = agent.state()
        self._train(agent, number)
        if not met:
            self.state = agent.state()
        self.done = number
        if self.done == config.rounds:  # before the checkpoint that says that all is done
            self.folder.write_state(self.index, self.state)
        self._keep(agent)

    def _note(self, contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
        """What became of the exchange with each neighbor, and of this agent among them."""
        self.presence.after(results[0])
        if self.method.exchanges != "rounds":
            return
        failed = {incident.agent for incident in self.hood.incidents if incident.uncounted}
        self.exchanged.update(j for j in contexts[0].neighbors if j not in failed)
        self.log.add(contexts[0].round, self.hood.incidents)

    def _train(self, agent: LocalTrainer, number: int) -> None:
        start = time.perf_counter()
        for _ in range(self.setup.round_steps(self.index)):
            agent.topology = self.setup.topology.at(agent.steps)
            agent.update(agent.gradient())
        spent = time.perf_counter() - start
        agent.traffic.busy_s += spent
        try:
            loss = agent.loss()
        except TrainingError as error:
            raise TrainingError(f"{self.setup.config.method}, round {number}, {error}") from error
        self._write(agent, number, "trained", {"train_loss": loss, "train_s": spent})

    def _write(
        self, agent: LocalTrainer, number: int, phase: str, measured: Mapping[str, float | None]
    ) -> None:
        config = self.setup.config
        if number % config.eval_every and number != config.rounds:
            return
        line = self.folder.append(
            {
                **line_of(self.setup, agent, number, phase, measured),
                "standing": self.presence.standing.value,
                "exchanged": {str(j): n for j, n in sorted(self.exchanged.items())},
            }
        )
        accuracy = 100 * (line["test_accuracy"] or float("nan"))
        self.observer.note(f"round {number:3d}  {phase} {accuracy:5.1f} %")

    # --- beginning, going on, and end -----------------------------------------------------------

    def _set_out(self) -> LocalTrainer:
        """As it was when it stopped; else as a neighbor is that is ahead; else pre-trained."""
        config = self.setup.config
        others = near(self.setup.topology, self.index)
        found = self.store.latest(self.observer.note, self._check)
        agent = self.setup.new_agent(self.index, pretraining=False)
        if found:
            self._restore(agent, found)
        else:
            self.folder.rewind({})
        self.presence.speak(self.done, agent.gauge)
        if not found:
            self.hood.await_neighbors(others, min(_LOOK_S, config.exchange.timeout_s))
            self.done = self.presence.catch_up(0, None, empty_handed=True)
            if not self.done:
                self._pretrain(agent)
        missing = self.hood.await_neighbors(others, config.exchange.timeout_s)
        if found and not missing:
            self._go_back(agent)
        for j in missing:
            self.observer.note(f"agent {j} is not there yet; it is not waited for any longer")
        if not config.rounds:
            self.folder.write_state(self.index, agent.state())
        return agent

    def _restore(self, agent: LocalTrainer, found: Checkpoint) -> None:
        self.folder.rewind(found.meta["sizes"])
        Snapshot.of_tree(unpack(found.meta["agent"], found.tensors)).restore(agent)
        self.done = found.number
        self.exchanged = Counter({int(j): n for j, n in found.meta["exchanged"].items()})
        self.presence.restore(found.meta["presence"])
        self.log.restore(found.meta.get("incidents"))

    def _go_back(self, agent: LocalTrainer) -> None:
        """To the last round that all have done, if all were stopped and it is still there."""
        if self.method.exchanges == "never" or self.method.merges_once:
            return  # it would be the same alone
        network, kept = self.setup.topology, self._readable()
        common = self.presence.common_round(self.index, network, self.done, kept)
        if common < self.done:
            self._restore(agent, self.store.read(common))
            self.presence.speak(self.done, agent.gauge)
            self.observer.note(f"all were stopped: on from round {common}, which all have done")

    def _readable(self) -> list[int]:
        """Rounds that it can go back to."""
        found = []
        for number in self.store.numbers():
            with contextlib.suppress(StructureError):
                self._check(self.store.read(number))
                found.append(number)
        return found

    def _pretrain(self, agent: LocalTrainer) -> None:
        """Local epochs before the first merge; the agent then is as after them."""
        epochs = self.setup.config.pretrain_epochs
        store = CheckpointFolder(self.store.path / "pretrained", "epoch", 1)
        learner, found = self.setup.new_agent(self.index, pretraining=True), None
        if (found := store.latest(self.observer.note, self._check)) is not None:
            Snapshot.of_tree(unpack(found.meta["agent"], found.tensors)).restore(learner)
        self.observer.stage("pre-training", max(epochs, 1))
        self.observer.advance(learner.epochs)
        written = time.monotonic()
        while learner.epochs < epochs:
            one_epoch(learner)
            self.observer.advance()
            if time.monotonic() - written > _BETWEEN_S:
                store.write(self._checkpoint(learner, learner.epochs))
                written = time.monotonic()
        try:
            loss = learner.loss()
        except TrainingError as error:
            raise TrainingError(f"round 0 (pre-training), {error}") from error
        Snapshot.of(learner).restore(agent, new_shard=True)
        spent = agent.traffic.busy_s
        self._write(agent, 0, "trained", {"train_loss": loss, "train_s": spent})
        self._keep(agent)

    def _keep(self, agent: LocalTrainer) -> None:
        config = self.setup.config
        every = config.checkpoint.every
        if self.presence.standing is MembershipStatus.NEW:
            return  # it is still to take over a state: its own is not one to go on from
        if every and (self.done % every == 0 or self.done == config.rounds):
            self.folder.flush()
            self.store.write(self._checkpoint(agent, self.done))

    def _checkpoint(self, agent: LocalTrainer, number: int) -> Checkpoint:
        tensors: dict[str, Tensor] = {}
        packed = pack(Snapshot.of(agent).tree(), "agent", tensors)
        meta = {
            "terms": dict(self.terms),
            "agent": packed,
            **self.folder.moment(),
            "exchanged": {str(j): n for j, n in self.exchanged.items()},
            "presence": self.presence.kept(),
            "incidents": self.log.kept(),
        }
        return Checkpoint(number, meta, tensors)

    def _check(self, checkpoint: Checkpoint) -> None:
        if checkpoint.meta["terms"] != self.terms:
            raise ConfigError(
                f"the checkpoints in {self.store.path} are of other settings or other data than "
                f"this agent's: undo the change, or start again with {OVERWRITE}"
            )
        self.folder.check_lines(checkpoint.meta)

    def _finish(self) -> SingleAgentResult:
        lines = self.folder.lines()
        last = {
            phase: [x["test_accuracy"] for x in lines if x["phase"] == phase]
            for phase in ("trained", "merged")
        }
        self.log.end(self.done)
        result = SingleAgentResult(
            self.index,
            self.folder.path,
            len({x["round"] for x in lines if x["round"]}),
            last["trained"][-1] if last["trained"] else float("nan"),
            last["merged"][-1] if last["merged"] else None,
            dict(self.exchanged),
            {j: dict(own) for j, own in self.log.counts.items()},
        )
        self.folder.write_json(
            "summary",
            {
                **dataclasses.asdict(result),
                "folder": str(result.folder),
                **{digest_name(file): own for file, own in self.folder.digests().items()},
            },
        )
        return result
