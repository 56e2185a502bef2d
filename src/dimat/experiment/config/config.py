"""Every setting of a run, in one frozen value.

YAML file and command line are two ways to fill it; :func:`dimat.run` takes it as it is. A group of
settings may be given by what names it (``topology="ring"``) or by a dict of its parts. The range of
a setting stands in its type, and is a part of its help; that of the type, and names that a registry
knows, are checked by :func:`dimat.experiment.config.validate.validate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dimat.experiment.config import kinds
from dimat.experiment.config.forms import tidy
from dimat.experiment.config.method_options import name_method
from dimat.experiment.config.task import name_task

OPTIMIZERS: tuple[str, ...] = ("sgd", "msgd", "adam", "adamw")


@dataclass(frozen=True)
class TopologyConfig:
    """Graph that agents merge over, and its mixing matrix.

    Args:
        name: ring, full, star, torus, exponential, bipartite; random-regular, erdos-renyi;
            directed-ring, directed-exponential; varying from time to time: one-peer-exponential,
            alternating-matchings; or edges (see path).
        path: File with one edge "i j" a line, for name=edges.
        directed: In that file, "i j" means only that j hears i.
        degree: Neighbors of every agent, for name=random-regular.
        probability: Probability of every edge, for name=erdos-renyi.
        mixing: auto (push on directed graphs, metropolis on others), metropolis (any undirected
            graph), uniform (regular graphs), shard-size (the mean is weighted by the number of
            training images), or push (everyone splits what it has equally: keeps the sum).
        dropout: Probability that an edge is missing at a time.
        seed: Seed of random graphs and of dropout; not the run's, so that runs that are compared
            share the graph.
    """

    name: str = "ring"
    path: kinds.FilePath | None = None
    directed: bool = False
    degree: kinds.PositiveCount = 3
    probability: kinds.PositiveFraction = 0.5
    mixing: Literal["auto", "metropolis", "uniform", "shard-size", "push"] = "auto"
    dropout: kinds.Fraction = 0.0
    seed: kinds.Seed = 0

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class DataConfig:
    """Data, and their split among the agents.

    Args:
        source: digits; npz:PATH with train_x, train_y, test_x, test_y (NHWC images, int labels; or
            arrays of any rank); folder:PATH with train/CLASS/*.png or *.jpg and the same in test or
            val, or CLASS/*.png alone; csv:PATH, jsonl:PATH or parquet:PATH with a table (see
            target); or hf:NAME of the Hugging Face Hub. {agent} in it is the number of the agent
            whose own it is, with split own.
        kind: Whether inputs are images (normalized, and augmented if set so), or arrays that models
            get as they are; auto: as the source finds them (of npz those of 3 or 4 axes are
            images).
        split: iid, by-class (class c to agent c mod N; of more agents than classes, those of one
            class share it), dirichlet, iid-then-by-class (pre-train on an IID half, continue by
            class on the other), own (of dimat agent, or with {agent} in the source: the source is
            this agent's own, and others have theirs), or auto (own with {agent} in the source,
            iid-then-by-class of the digits, iid of all else).
        alpha: Concentration of the dirichlet split; smaller is more skewed.
        validation: Share of every shard held out for validation.
        augment: Random flip and crop of training images; off where mirrored images mean another
            class (digits).
        storage: Where the samples of data sets and loaders stay that dimat.run(data=…) is given:
            memory; source (every batch is read by index, so they may be larger than memory); or
            auto (memory, if all together take a GiB at most and are the same when read again).
        train_images: Use only this many training images (a stratified subset); all if null.
        classes: Names of all classes, in the order of the labels; none: those of the source. Needed
            with split own, where no agent need have images of all. Labels that have no names at the
            source are numbers of this list.
        test_source: A source whose test images are those that agents are tested on, in place of the
            test images of source; null: these. Of a table all rows.
        test_share: Share of the samples that agents are tested on, of sources that do not say which
            (tables, folders of classes alone): stratified, and the same with every seed.
        target: Columns of a table that are to be learned: of classification one, whose values are
            the classes; of other tasks numbers.
        target_mean: Number that is taken off the targets of regression in training, the same at
            all agents; metrics are in the targets' own units.
        target_scale: Number that targets are divided by then, best their standard deviation.
        leave_out: Columns of a table that are no inputs either.
        categories: Columns of a table that have categories, with all of them in their order, as
            color=red|blue; columns of text that are not named have those that occur.
        fill: The number in place of missing ones in a table, where a missing category then is none
            of its column's; null: what is missing is refused.
        text: The column of a table whose texts are the inputs; null: numbers and categories are.
        tokenizer: Name on the Hugging Face Hub, or folder, of the tokenizer of those texts.
        max_length: Tokens of a text that are kept; shorter ones are filled up.
    """

    source: kinds.Source = "digits"
    kind: Literal["auto", "images", "arrays"] = "auto"
    split: str = "auto"
    alpha: kinds.Positive = 0.5
    validation: kinds.UpToHalf = 0.1
    augment: bool = False
    storage: Literal["auto", "memory", "source"] = "auto"
    train_images: kinds.PositiveCount | None = None
    classes: tuple[str, ...] = ()
    test_source: kinds.Source | None = None
    test_share: kinds.Fraction = 0.2
    target: tuple[str, ...] = ()
    target_mean: kinds.Finite = 0.0
    target_scale: kinds.Scale = 1.0
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fill: kinds.Finite | None = None
    text: str | None = None
    tokenizer: str | None = None
    max_length: kinds.PositiveCount = 128

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class OptimizerConfig:
    """Local training, the same for every method.

    Args:
        name: sgd, msgd (momentum SGD), adam or adamw.
        lr: Learning rate.
        momentum: Momentum of msgd, and of qg-momentum.
        weight_decay: L2 penalty (decoupled for adamw).
        schedule: constant, or cosine down to zero over the whole run, pre-training included.
        warmup_steps: Steps over which the learning rate rises linearly to that of the schedule,
            from the first one of pre-training on.
        clip_norm: The gradient of a step is scaled down to this norm, over all parameters, if it is
            larger; null: never.
        accumulate: Pieces in which a batch is run, one after another, so that a step takes less
            memory; BatchNorm normalizes by each piece.
        on_merge: An agent's optimizer state in a merge that begins a round: keep it, mix it
            (average it with the neighbors', aligned as their units are; with Adam that is three
            times the bytes; dimat, wa, wm and final-merge do), or reset it.
        ema: Decay of an exponential moving average of the weights over the steps since the last
            merge, which is evaluated and saved in their place; null: there is none. Training and
            merges are of the weights themselves.
    """

    name: str = "adam"
    lr: kinds.LearningRate = 1e-3
    momentum: kinds.Fraction = 0.9
    weight_decay: kinds.WeightDecay = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: kinds.Count = 0
    clip_norm: kinds.Positive | None = None
    accumulate: kinds.PositiveCount = 1
    on_merge: Literal["keep", "mix", "reset"] = "keep"
    ema: kinds.Decay | None = None

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class LossConfig:
    """The loss of local training, the same for every method and control.

    Args:
        logits: What an agent's own class shares do to the softmax: plain (nothing), own-classes
            (absent classes are left out), adjusted (the logarithm of the shares is added), or auto
            (adjusted where the agents' shards differ in their classes, else plain).
        distill: Weight of not-true distillation: what the network that a round's training began
            with says of all classes but the true one is kept; 0: none. null: 0.1 where the
            agents' shards differ in their classes, else 0.
        label_smoothing: Share of every label that is spread over all classes, or over the agent's
            own with own-classes and adjusted.
    """

    logits: Literal["auto", "plain", "own-classes", "adjusted"] = "auto"
    distill: kinds.LossWeight | None = None
    label_smoothing: kinds.Fraction = 0.0

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class MatchingConfig:
    """Matching of units before a merge.

    Args:
        images: Local training images that activations are measured on.
        gauge: spread (one unit order that neighbors take over from each other), tree (one unit
            order over the whole graph, in one round), pairwise (the paper: every agent aligns each
            neighbor to itself, every round), or auto (spread; tree where pooled statistics, every
            or final-merge need all agents at once).
        statistics: What units are compared on: local (an agent's own images) or pooled (both ends
            of an edge sum their moments, never images; a C x C matrix for every layer).
        sweeps: Refinement sweeps after the tree is composed.
        every: With gauge=tree, match all agents again every this many rounds; 0: only those who
            are not in one unit order yet, which is in round 1.
        null_margin: With spread and tree, the share by which matching must bring together what the
            agents' outputs make of like units on local images; else units stay as they are, as of
            agents that have nothing in common. null: any matching is kept.
        continuous: Whether each neighbor is aligned by matrices too, where nothing nonlinear stands
            between two weights: in heads of attention, on normed residual streams, in adapters.
    """

    images: kinds.PositiveCount = 1000
    gauge: Literal["auto", "tree", "spread", "pairwise"] = "auto"
    statistics: Literal["local", "pooled"] = "local"
    sweeps: kinds.Count = 3
    every: kinds.Count = 0
    null_margin: kinds.Fraction | None = 0.5
    continuous: bool = False

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class MergingConfig:
    """Combination of aligned states, in dimat; wa has an option of its own for it.

    Args:
        combine: average (the paper's), repair, regression, gram (least squares over what every
            agent's layers answer on its own images; second moments travel beside the weights),
            fisher (every parameter counts as much as its agent's outputs depend on it),
            lora-aligned (low-rank factors averaged after a rotation onto the own ones),
            lora-product (the average of their products, factored again), or auto (gram where the
            agents' shards differ in their classes, else average; average with exchange.robust,
            exchange.what trainable, or matching.continuous).
        statistics_budget: With gram, numbers of second moments for each number of the weights, at
            most; where all would be more, means, mean squares and leading directions travel.
    """

    combine: str = "auto"
    statistics_budget: kinds.Positive = 5.0

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class MixingConfig:
    """Averages of a round, in wa, dimat and final-merge.

    Args:
        steps: Times that states are exchanged and averaged in a round, each time with what the
            neighbors have become; bytes grow with it. In dimat the first one aligns and combines,
            and all must be in one unit order (matching.gauge spread or tree).
        chebyshev: The averages after the first are accelerated, for symmetric mixing matrices
            (topology.mixing metropolis or uniform) and where no message is lost.
        final_steps: The same in the last round, for one merge of all agents after sparse gossip;
            null: as many as in the others.
    """

    steps: kinds.PositiveCount = 1
    chebyshev: bool = False
    final_steps: kinds.PositiveCount | None = None

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class ConsensusConfig:
    """Methods that exchange while they train: cdsgd, ldsgd, gradient-tracking, k-gt, swarm, ….

    Args:
        order: combine (average, then step along the gradient taken before) or adapt (step, then
            average), for cdsgd, cdmsgd, ldsgd and gradient-tracking.
        quiet_steps: Steps without exchange between two meetings of swarm, two exchanges of k-gt, or
            two periods of ldsgd.
        mixing_steps: Consecutive steps with exchange in a period of ldsgd.
    """

    order: Literal["combine", "adapt"] = "combine"
    quiet_steps: kinds.Count = 4
    mixing_steps: kinds.PositiveCount = 1

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class OuterConfig:
    """The outer step of diloco, and of noloco.

    Args:
        lr: Outer learning rate.
        momentum: Outer Nesterov momentum of diloco; that of noloco is a parameter of its own.
    """

    lr: kinds.LearningRate = 0.7
    momentum: kinds.Fraction = 0.9

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class RecalibrationConfig:
    """BatchNorm statistics after a merge, from the agent's own shard.

    A step of every round whether that is evaluated or not, after the merge; of methods that
    exchange while they train, after the training. Its time counts.

    Args:
        methods: Methods whose averaged models are recalibrated; all: every one that averages.
        images: Local training images used.
    """

    methods: tuple[str, ...] = ("all",)
    images: kinds.PositiveCount = 2000

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints, from which a stopped run goes on; see ``dimat resume``.

    Args:
        every: Rounds between checkpoints; 0: none; None: a round ends with one if none was written
            for 10 seconds, or 20 times what the last one took; at an agent of ``dimat agent``,
            which others count on, always.
        keep: Number of last checkpoints that are kept.
    """

    every: kinds.Count | None = None
    keep: kinds.PositiveCount = 2

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class DiagnosticsConfig:
    """Measurements beside accuracy, by an observer of all agents, in every evaluated round.

    Args:
        barrier_images: Test images for the loss barrier between neighbors; 0: not measured, as it
            costs an evaluation for each edge.
    """

    barrier_images: kinds.Count = 0

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class ExchangeConfig:
    """Transport of messages, and what becomes of neighbors that are silent or wrong.

    Args:
        precision: float32, or bfloat16: float32 entries of messages travel as bfloat16, at half
            the bytes; an agent's own state stays as it is.
        timeout_s: A neighbor that gives no sign of life for so many seconds is lost.
        wait_s: Seconds that an agent of dimat agent waits for its neighbors when it begins or comes
            back; null: timeout_s.
        patience_s: Seconds that a living but silent neighbor is waited for, at most; under
            torchrun, a process that never comes.
        max_norm_ratio: A neighbor's state is refused if the norm of its parameters is more than
            this many times our own, or less than our own divided by it; null: any. In one
            process, and under torchrun, such a state ends the run. For dimat, wa, wm and
            final-merge.
        robust: How states are mixed where a third of a neighborhood may lie: none (weighted
            average), clip (no neighbor is farther away than another one) or trimmed (the mean of
            each number without the extremes). For dimat, wa, wm and final-merge, with
            merging.combine average; every agent needs two neighbors.
        what: all entries of the model, or trainable: parameters that require a gradient, and
            buffers that training writes. The rest is then never sent: it must be alike at all
            agents, which is checked by digest before anything is trained. For methods that exchange
            once a round.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    timeout_s: kinds.Seconds = 30.0
    wait_s: kinds.Seconds | None = None
    patience_s: kinds.Seconds = 600.0
    max_norm_ratio: kinds.Ratio | None = 10.0
    robust: Literal["none", "clip", "trimmed"] = "none"
    what: Literal["all", "trainable"] = "all"

    def __post_init__(self) -> None:
        tidy(self)


@dataclass(frozen=True)
class RunConfig:
    """One run: agents train, match, merge, recalibrate and are evaluated, round by round.

    Args:
        agents: Number of agents.
        rounds: Merges after pre-training.
        pretrain_epochs: Local epochs before the first merge.
        local_epochs: Local epochs after every merge.
        local_steps: Local optimizer steps after every merge; replaces local_epochs if given.
        batch_size: Images per training step.
        method: Once a round: dimat, wa (plain average), wm (weight matching), final-merge, fedavg,
            diloco, noloco; at training steps: cdsgd, cdmsgd, qg-momentum, sgp, cga,
            gradient-tracking, k-gt, swarm, ldsgd; local (no exchange), centralized (one model on
            all data).
        controls: Methods run beside it from the same pre-trained agents, for comparison, or none;
            the method itself is left out.
        method_options: Parameters of methods that are no settings, as NAME=VALUE: of methods of
            your own.
        imports: Modules that register methods and the like of your own, imported before anything
            else is looked up.
        seed: Seed of everything random.
        out: Run folder; a new one under runs/, named after the time, if null.
        overwrite: Replace an existing run folder.
        task: What agents learn: classification, regression, multilabel, segmentation or
            language-modeling: loss, metrics, and what targets are; or package.module:factory of
            your own.
        model: mlp, cnn, resnet20|32|44|56, resnet50, vgg11|13|16; unet (an output for each pixel);
            transformer (of tokens); timm:NAME or hf:NAME (an architecture of those packages, with
            random weights); or package.module:factory of your own (called with those of
            in_channels, image_size, num_classes, num_outputs, input_shape, in_features, num_tokens
            and padding that it asks for).
        width: Multiplier of the built-in models' channels.
        shortcut: Shortcuts of ResNets where the shape changes: conv3, conv1 or pad; of resnet50
            always conv1.
        norm: Normalization of ResNets and unet: batch or group.
        init: per-agent (independent random inits) or shared.
        device: cpu, cuda, or cuda:N.
        threads: Threads PyTorch may use on the CPU; part of what makes a run repeatable, as another
            number gives other roundings.
        precision: Arithmetic of forward and backward passes: float32, or bfloat16 by autocast.
        vectorize: How many agents of a process train at once, side by side in one stack, where
            they do not talk meanwhile and have taken equally many steps (Adam, cosine); 1: one
            after another; null: as many as pays where nothing but time depends on it, which is for
            small networks of linear layers on a CPU, and else 1. On a CPU more pays for the
            smallest networks only, and is refused with bfloat16. With other networks another
            number, or more processes, give other roundings.
        eval_every: Evaluate every this many rounds (always in the last).
        max_wall_s: Stop where the run can go on, after the first round, or epoch of pre-training,
            that ends when this many seconds have passed since the run was begun or gone on
            with; null: never. The exit code then is 3, and 'dimat resume RUN' goes on.
        topology: The graph and its mixing matrix.
        data: Inputs and targets, and how they are dealt out.
        optimizer: Local training.
        loss: What local training minimizes.
        matching: How units are matched.
        merging: How aligned states are combined.
        mixing: How often states are averaged in a round.
        consensus: How methods exchange while they train.
        outer: The outer step of diloco, and of noloco.
        recalibration: BatchNorm statistics after a merge.
        exchange: How messages travel.
        checkpoint: What a stopped run goes on from.
        diagnostics: What is measured beside accuracy.
        log: Other forms of the metrics, beside the run folder's own: csv, mlflow, tensorboard,
            wandb.
    """

    agents: kinds.Agents = 5
    rounds: kinds.Count = 20
    pretrain_epochs: kinds.Count = 40
    local_epochs: kinds.Count = 1
    local_steps: kinds.PositiveCount | None = None
    batch_size: kinds.PositiveCount = 32
    method: str = "dimat"
    controls: tuple[str, ...] = ("wa", "local")
    method_options: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    seed: kinds.Seed = 0
    out: kinds.FilePath | None = None
    overwrite: bool = False
    task: str = "classification"
    model: str = "mlp"
    width: kinds.Width = 1.0
    shortcut: kinds.Shortcut = "conv3"
    norm: kinds.Norm = "batch"
    init: Literal["per-agent", "shared"] = "per-agent"
    device: kinds.Device = "cpu"
    threads: kinds.Threads = 2
    precision: Literal["float32", "bfloat16"] = "float32"
    vectorize: kinds.PositiveCount | None = None
    eval_every: kinds.PositiveCount = 1
    max_wall_s: kinds.Positive | None = None
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    merging: MergingConfig = field(default_factory=MergingConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    consensus: ConsensusConfig = field(default_factory=ConsensusConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    recalibration: RecalibrationConfig = field(default_factory=RecalibrationConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    log: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tidy(self)
        name_method(self)
        name_task(self)
