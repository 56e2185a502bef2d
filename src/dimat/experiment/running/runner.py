"""A run from setting out to the result: in this process alone, or in one of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dimat.errors import ConfigError, Stopped, if_interrupted
from dimat.exchange.collectives import Collectives
from dimat.exchange.world import SINGLE_PROCESS, World
from dimat.experiment.callbacks.callback import LOGS, Callback
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.digests import pretrain_digest
from dimat.experiment.handshake import terms
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.record.checkpoint import CheckpointFolder
from dimat.experiment.record.lines import check_finished
from dimat.experiment.record.results import MethodResult, RunResult, results_of
from dimat.experiment.record.run_folder import RunFolder, way_on
from dimat.experiment.record.writer import RunWriter
from dimat.experiment.running.pretrain import Pretrained, Pretraining
from dimat.experiment.running.process import borrowed
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.running.time_limit import TimeLimit
from dimat.experiment.running.vectorized import check_trains_at_once
from dimat.experiment.setup import Setup, make_setup
from dimat.methods import METHODS, check_needs
from dimat.symmetry import Symmetry

_TIMES = 64  # of a graph that varies at random: how many are looked at before it is trained on


@dataclass
class Runner:
    """A run, and where it is up to.

    Every process has one. That of agent 0 alone has the run folder, the observer and the callbacks.
    """

    config: RunConfig
    observer: Progress | None
    callbacks: Sequence[Callback] = ()
    world: World = SINGLE_PROCESS
    pretrained: Path | None = None
    symmetry: Symmetry | None = None

    def __post_init__(self) -> None:
        self._path: Path | None = None  # of the run folder, once there is one
        self._watch: Progress = Silent()
        self._assemblies: dict[int, Collectives] = {}
        self._time_limit = TimeLimit(self.config.max_wall_s)
        if self.world.rank == 0:
            self._watch = self.observer or Silent()

    def run(self, *, fresh: bool) -> RunResult:
        """All methods that are not done, in a new folder or in the one that was begun.

        Raises:
            Interrupted: If it is, saying how to go on.
        """
        if not fresh and self.config.out is not None:
            self._path = Path(self.config.out)
        with if_interrupted(lambda: way_on(self._path)):
            return self._run(fresh=fresh)

    def _run(self, *, fresh: bool) -> RunResult:
        self._check_world()
        if self.world.rank == 0:
            self.callbacks = [*self.callbacks, *(LOGS[name]() for name in self.config.log)]
        try:
            with borrowed(self.config.threads, self.config.device):
                setup = replace(make_setup(self.config, self._watch), symmetry=self.symmetry)
                self._check_methods(setup)
                self.world.agree(self._terms(setup))
                with self._home(fresh=fresh) as home:
                    return self._methods(setup, home)
        finally:
            self._watch.close()

    def _check_world(self) -> None:
        """Every process has an agent."""
        size, agents = self.world.size, self.config.agents
        if size > agents:
            raise ConfigError(
                f"setting 'agents' is {agents}, and {size} processes were started: start at most "
                f"one for each agent (torchrun --nproc-per-node {agents}), or set more agents"
            )

    def _terms(self, setup: Setup) -> Mapping[str, str]:
        """What all processes must have alike: what decides when they talk, and about what."""
        config = self.config
        names = (config.method, *config.controls)
        return {
            **terms(setup, matches=any(METHODS[name].matches for name in names)),
            "controls": str(config.controls),
            "eval_every": str(config.eval_every),
            "checkpoint.every": str(config.checkpoint.every),
            "diagnostics.barrier_images": str(config.diagnostics.barrier_images),
        }

    @contextmanager
    def _home(self, *, fresh: bool) -> Iterator[RunFolder | None]:
        """The run folder, in which no other run is; only where agent 0 lives."""
        if self.world.rank != 0:
            yield None
            return
        config = self.config
        out = None if config.out is None else Path(config.out)
        self._path = out
        by, resumed = "runs or resumes the run", "'dimat resume {}'"
        with RunFolder.held(
            out, config, fresh=fresh or out is None, by=by, resumed=resumed
        ) as folder:
            self._path = folder.path
            if out is None:  # whoever stops it should know where it is
                self._watch.note(f"run folder: {folder.path}")
            yield folder

    def _methods(self, setup: Setup, home: RunFolder | None) -> RunResult:
        """The method and its controls, one after another."""
        own = self.config.method
        names = [own, *(name for name in self.config.controls if name != own)]
        found = []
        for k, name in enumerate(names):
            folder = home if k == 0 else home and home.control(name)
            found.append(self._method_or_stop(setup, name, folder, home, last=name == names[-1]))
        if home:
            home.finish()
        return self._everywhere(home, found)

    def _method_or_stop(
        self,
        setup: Setup,
        name: str,
        folder: RunFolder | None,
        home: RunFolder | None,
        *,
        last: bool,
    ) -> MethodResult | None:
        """One method. If time is up all processes stop, when agent 0's has written what it keeps.

        Raises:
            Stopped: If so; says how far the run is and how to go on.
        """
        before = None if folder is None else folder.summary()
        result, reached = None, None
        try:
            result = self._method(setup, name, folder, home)
            if before is None and not last and self._time_limit.is_up:
                reached = f"{name}, all rounds"  # of a method that was not done before
        except Stopped as stopped:
            reached = str(stopped)
        if self._time_limit.limits and (end := self._told(home, reached)):
            raise Stopped(end)
        return result

    def _told(self, home: RunFolder | None, reached: str | None) -> str | None:
        """What agent 0's process says of where the run stops; None if it does not."""
        end = home and reached and self._time_limit.end(reached, home.path)
        heard = self._assembly(self.config.agents).tell(end)
        return None if heard is None else str(heard)

    def _everywhere(
        self, home: RunFolder | None, results: Sequence[MethodResult | None]
    ) -> RunResult:
        """The result, in every process."""
        found = [asdict(own) for own in results if own] if home else []
        told = {"folder": home and str(home.path), "results": found}
        heard = self._assembly(self.config.agents).tell(told)
        main, *controls = [MethodResult.of_tree(own) for own in heard["results"]]
        return RunResult(self.config, Path(heard["folder"]), main, tuple(controls))

    def _assembly(self, agents: int) -> Collectives:
        """So many agents in this job's processes; made once."""
        if agents not in self._assemblies:
            self._assemblies[agents] = Collectives(self.world.transport(agents), agents)
        return self._assemblies[agents]

    def _check_methods(self, setup: Setup) -> None:
        """That graph and model suit all methods, before anything is trained."""
        names = (self.config.method, *self.config.controls)
        methods = {name: make_method(self.config, name) for name in names}
        for name, method in methods.items():
            for time in range(min(setup.topology.period or _TIMES, _TIMES)):
                check_needs(name, method, setup.topology.at(time))
        blind = [name for name, method in methods.items() if method.needs_graph]
        if self.symmetry is not None and blind:
            raise ConfigError(
                f"'symmetry' is given by hand, which comes without the model's graph, and method "
                f"'{blind[0]}' compares what units compute on that: use wm (and controls that do "
                "without it)"
            )
        if any(method.matches for method in methods.values()):
            self._watch.stage("proving the model's symmetry", 1)
            _ = setup.analysis  # a model that cannot be exported ends here
            self._watch.advance()
        check_trains_at_once(setup)

    def _method(
        self, setup: Setup, name: str, folder: RunFolder | None, home: RunFolder | None
    ) -> MethodResult | None:
        """One method, unless its folder says that it is done; its result where agent 0 lives."""
        own = setup.pooled() if METHODS[name].scope == "pooled" else setup
        collectives = self._assembly(own.config.agents)
        if not collectives.transport.agents:
            return None
        summary = None if folder is None else folder.summary()
        if collectives.tell(summary is not None):
            if folder is None or summary is None:
                return None
            check_finished(folder.path, summary)
            return MethodResult(name, results_of(folder.lines(), self.config.rounds), summary)
        writer = (
            None if folder is None else RunWriter(own, name, folder, self._watch, self.callbacks)
        )
        pretrained = self._pretrain(own, collectives, home)
        result = Rounds(own, name, collectives, self._watch, writer, self._time_limit).run(
            pretrained
        )
        if folder is not None and folder is not home:  # that one's pre-training serves the controls
            folder.finish()
        return result

    def _pretrain(
        self, setup: Setup, collectives: Collectives, home: RunFolder | None
    ) -> dict[int, Pretrained]:
        """Agents after pre-training: trained now, or taken from where they are kept."""
        store = None
        if home:
            shared = self.pretrained or home.path / "checkpoints" / "pretrained"
            store = CheckpointFolder(shared / pretrain_digest(setup)[:16], "epoch", 1)
        return Pretraining(setup, collectives, self._watch, store, self._time_limit).run()
