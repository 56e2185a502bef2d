"""The runner of a whole run, in this process alone or in each of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dimat.errors import ConfigError, Stopped, if_interrupted
from dimat.exchange.collectives import Collectives
from dimat.exchange.world import SINGLE_PROCESS, World
from dimat.experiment.callbacks import Callback, logs
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.digests import pretrain_digest
from dimat.experiment.given import NOTHING, Given, way_to_resume
from dimat.experiment.handshake import handshake
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
from dimat.experiment.running.vectorized import tried
from dimat.experiment.setup import Setup, make_setup
from dimat.methods import METHODS, check_needs
from dimat.symmetry import Symmetry
from dimat.symmetry.symmetry import nothing_moves

_TIMES = 64  # times of a randomly varying graph that are checked before training


@dataclass
class Runner:
    """A run of a method and its controls, at the agents of this process.

    Every process has a runner; in that of agent 0 alone it has the run folder, the progress and the
    callbacks.

    Args:
        config: Settings of the run, validated.
        progress: Receives the progress of the run; nobody if None.
        callbacks: Receive the measurements.
        world: The processes that agents are spread over.
        pretrained: Folder of pre-trained agents that runs share; None for one of this run's own.
        symmetry: The symmetry of the model, given by hand; None to find it.
        given: Data and model that the caller has as objects.
    """

    config: RunConfig
    progress: Progress | None
    callbacks: Sequence[Callback] = ()
    world: World = SINGLE_PROCESS
    pretrained: Path | None = None
    symmetry: Symmetry | None = None
    given: Given = NOTHING

    def __post_init__(self) -> None:
        self._path: Path | None = None  # run folder, once it is chosen
        self._progress: Progress = Silent()
        self._collectives: dict[int, Collectives] = {}
        self._time_limit = TimeLimit(self.config.max_wall_s)
        if self.world.rank == 0:
            self._progress = self.progress or Silent()

    def run(self, *, fresh: bool) -> RunResult:
        """Run the method and its controls, as far as they are not done.

        Args:
            fresh: Whether the run folder must be new; else a run that was begun there is resumed.

        Returns:
            The results of all methods, in every process.

        Raises:
            Interrupted: On Ctrl-C; says how to resume.
        """
        config = self.config
        if not fresh and config.out is not None:
            self._path = Path(config.out)
        with (
            if_interrupted(lambda: way_on(self._path, self._again)),
            closing(self._progress),
            borrowed(config.threads, config.device),
            logs(config.log if self.world.rank == 0 else ()) as own,
        ):
            self._check_world()
            self.callbacks = [*self.callbacks, *own]
            setup = make_setup(config, self._progress, given=self.given)
            setup = tried(replace(setup, symmetry=self.symmetry))
            self._check_methods(setup)
            self.world.agree(self._handshake(setup))
            names = [config.method, *(name for name in config.controls if name != config.method)]
            results = []
            with self._home(fresh=fresh) as home:
                for name in names:
                    folder = home if name == config.method else home and home.control(name)
                    with self._may_stop(name, folder, home, last=name == names[-1]):
                        results.append(self._method(setup, name, folder, home))
                if home:
                    home.finish()
                return self._everywhere(home, results)

    def _check_world(self) -> None:
        """Refuse more processes than agents."""
        size, agents = self.world.size, self.config.agents
        if size > agents:
            raise ConfigError(
                f"setting 'agents' is {agents}, and {size} processes were started: start at most "
                f"one for each agent (torchrun --nproc-per-node {agents}), or set more agents"
            )

    def _handshake(self, setup: Setup) -> Mapping[str, str]:
        """The settings that all processes must have alike to send the same messages in order."""
        config = self.config
        names = (config.method, *config.controls)
        return {
            **handshake(setup, matches=any(METHODS[name].matches for name in names)),
            "controls": str(config.controls),
            "eval_every": str(config.eval_every),
            "checkpoint.every": str(config.checkpoint.every),
            "diagnostics.barrier_images": str(config.diagnostics.barrier_images),
        }

    def _again(self, folder: Path) -> str:
        """What resumes the run in a folder, with the objects that it was begun with."""
        by_hand = () if self.symmetry is None else ("symmetry",)
        return way_to_resume(folder, self.config, by_hand)

    @contextmanager
    def _home(self, *, fresh: bool) -> Iterator[RunFolder | None]:
        """The run folder, locked against other runs; None but in agent 0's process."""
        if self.world.rank != 0:
            yield None
            return
        config = self.config
        out = None if config.out is None else Path(config.out)
        self._path = out
        by = "runs or resumes the run"
        with RunFolder.held(
            out, config, fresh=fresh or out is None, by=by, resumed=self._again
        ) as folder:
            self._path = folder.path
            if out is None:  # so that a user who stops the run can resume it
                self._progress.note(f"run folder: {folder.path}")
            yield folder

    @contextmanager
    def _may_stop(
        self, name: str, folder: RunFolder | None, home: RunFolder | None, *, last: bool
    ) -> Iterator[None]:
        """Stop all processes if time is up in a method, after agent 0's has a checkpoint.

        Raises:
            Stopped: If time is up; says how far the run is and how to resume it.
        """
        was_done = folder is not None and folder.summary() is not None
        reached = None
        try:
            yield
            if not was_done and not last and self._time_limit.is_up:
                reached = f"{name}, all rounds"
        except Stopped as stopped:
            reached = str(stopped)
        if self._time_limit.limits and (end := self._stop_message(home, reached)):
            raise Stopped(end)

    def _stop_message(self, home: RunFolder | None, reached: str | None) -> str | None:
        """The message with which the run stops, from agent 0's process; None if it goes on."""
        end = home and reached and self._time_limit.end(reached, self._again(home.path))
        heard = self._collectives_of(self.config.agents).tell(end)
        return None if heard is None else str(heard)

    def _everywhere(
        self, home: RunFolder | None, results: Sequence[MethodResult | None]
    ) -> RunResult:
        """Broadcast the results from agent 0's process to every process."""
        found = [asdict(own) for own in results if own] if home else []
        told = {"folder": home and str(home.path), "results": found}
        heard = self._collectives_of(self.config.agents).tell(told)
        main, *controls = [MethodResult.of_tree(own) for own in heard["results"]]
        return RunResult(self.config, Path(heard["folder"]), main, tuple(controls))

    def _collectives_of(self, agents: int) -> Collectives:
        """The collectives of so many agents over the processes of the run; made once."""
        if agents not in self._collectives:
            self._collectives[agents] = Collectives(self.world.transport(agents), agents)
        return self._collectives[agents]

    def _check_methods(self, setup: Setup) -> None:
        """Refuse a graph or model that a method cannot use, before anything is trained."""
        names = (self.config.method, *self.config.controls)
        methods = {name: make_method(self.config, name) for name in names}
        for name, method in methods.items():
            setup.check_exchange(name, method)
            for time in range(min(setup.topology.period or _TIMES, _TIMES)):
                check_needs(name, method, setup.topology.at(time))
        blind = [name for name, method in methods.items() if method.needs_graph]
        if self.symmetry is not None and blind:
            raise ConfigError(
                f"'symmetry' is given by hand, which comes without the model's graph, and method "
                f"'{blind[0]}' compares what units compute on that: use wm (and controls that do "
                "without it)"
            )
        if any(method.needs_analysis for method in methods.values()):
            self._progress.stage("proving the model's symmetry", 1)
            symmetry = setup.analysis.symmetry  # raises for a model that cannot be exported
            self._progress.advance()
            if not symmetry.groups:
                self._progress.note(nothing_moves(symmetry))

    def _method(
        self, setup: Setup, name: str, folder: RunFolder | None, home: RunFolder | None
    ) -> MethodResult | None:
        """Run one method unless it is done; its results in agent 0's process, None in others."""
        own = setup.pooled() if METHODS[name].scope == "pooled" else setup
        collectives = self._collectives_of(own.config.agents)
        if not collectives.transport.agents:
            return None
        summary = None if folder is None else folder.summary()
        if collectives.tell(summary is not None):
            if folder is None or summary is None:
                return None
            check_finished(folder.path, summary)
            self._progress.note(f"{name} was done: its results are read from {folder.path}")
            if own.build is not None:  # else it is of the settings, which are those of the folder
                folder.check_model(own.new_model(0))
            last = self.config.rounds
            ends = [line for line in folder.lines() if line["round"] == last]
            return MethodResult(name, results_of(ends, last, own.metric), summary)
        writer = (
            None if folder is None else RunWriter(own, name, folder, self._progress, self.callbacks)
        )
        rounds = Rounds(own, name, collectives, self._progress, writer, self._time_limit)
        result = rounds.run(self._pretrain(own, collectives, home))
        if folder is not None and folder is not home:
            folder.finish()  # the main method's stays open: its pre-training serves the controls
        return result

    def _pretrain(
        self, setup: Setup, collectives: Collectives, home: RunFolder | None
    ) -> dict[int, Pretrained]:
        """The pre-trained agents of this process: trained now, or read from checkpoints."""
        store = None
        if home:
            shared = self.pretrained or home.path / "checkpoints" / "pretrained"
            store = CheckpointFolder(shared / pretrain_digest(setup)[:16], "epoch", 1)
        return Pretraining(setup, collectives, self._progress, store, self._time_limit).run()
