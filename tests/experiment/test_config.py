"""The config: what is refused, in which words; YAML and config are two forms of one thing."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dimat.errors import ConfigError
from dimat.experiment.config.config import (
    DataConfig,
    MatchingConfig,
    OptimizerConfig,
    RecalibrationConfig,
    RunConfig,
    TopologyConfig,
)
from dimat.experiment.config.messages import annotated_types, setting_types
from dimat.experiment.config.parse import bare_parser, config_to_yaml, load_config, settings_parser
from dimat.experiment.config.rules import Range, check, range_of, rules_in
from dimat.experiment.config.validate import validate


def with_setting(name: str, value: Any) -> RunConfig:
    group, _, part = name.rpartition(".")
    if not group:
        return dataclasses.replace(RunConfig(), **{name: value})
    changed = dataclasses.replace(getattr(RunConfig(), group), **{part: value})
    return dataclasses.replace(RunConfig(), **{group: changed})


OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("agents", 0, "must be >= 1"),
    ("agents", -3, "must be >= 1"),
    ("rounds", -1, "must be >= 0"),
    ("pretrain_epochs", -1, "must be >= 0"),
    ("local_epochs", -1, "must be >= 0"),
    ("local_steps", 0, "must be >= 1"),
    ("consensus.quiet_steps", -1, "must be >= 0"),
    ("consensus.mixing_steps", 0, "must be >= 1"),
    ("outer.lr", 0.0, "must be > 0 and finite"),
    ("outer.momentum", 1.0, "must be in [0, 1)"),
    ("checkpoint.every", -1, "must be >= 0"),
    ("checkpoint.keep", 0, "must be >= 1"),
    ("diagnostics.barrier_images", -1, "must be >= 0"),
    ("batch_size", 0, "must be >= 1"),
    ("seed", -1, "must be >= 0"),
    ("seed", 2**63, "must be < 2^63"),
    ("threads", 0, "must be >= 1"),
    ("vectorize", 0, "must be >= 1"),
    ("eval_every", 0, "must be >= 1"),
    ("width", 0.0, "must be > 0 and finite"),
    ("data.alpha", 0.0, "must be > 0 and finite"),
    ("data.validation", 0.6, "must be in [0, 0.5]"),
    ("data.train_images", 0, "must be >= 1"),
    ("optimizer.lr", 0.0, "must be > 0 and finite"),
    ("optimizer.lr", math.inf, "must be > 0 and finite"),
    ("optimizer.lr", math.nan, "must be > 0 and finite"),
    ("optimizer.momentum", 1.0, "must be in [0, 1)"),
    ("optimizer.weight_decay", -0.1, "must be >= 0 and finite"),
    ("matching.images", 0, "must be >= 1"),
    ("matching.sweeps", -1, "must be >= 0"),
    ("matching.every", -1, "must be >= 0"),
    ("recalibration.images", 0, "must be >= 1"),
]

WRONG_TYPE: list[tuple[str, Any, str]] = [
    ("agents", True, "must be a whole number"),
    ("agents", 2.5, "must be a whole number"),
    ("agents", None, "is null: must be a whole number"),
    ("rounds", "ten", "is 'ten': must be a whole number"),
    ("overwrite", 1, "must be true or false"),
    ("local_steps", "x", "must be a whole number or null"),
    ("method", 3, "must be text"),
    ("controls", 5, "must be a list"),
    ("norm", "bach", "must be 'batch' or 'group'; did you mean 'batch'?"),
    ("topology.mixing", "metropolitan", "did you mean 'metropolis'?"),
    ("matching.statistics", "pool", "must be 'local' or 'pooled'; did you mean 'pooled'?"),
    ("optimizer.on_merge", "mixed", "must be 'keep' or 'mix' or 'reset'; did you mean 'mix'?"),
]

UNKNOWN_NAME: list[tuple[str, Any, str]] = [
    ("method", "dimta", "did you mean 'dimat'?"),
    ("controls", ("locl",), "did you mean 'local'?"),
    ("method", "cdmsdg", "did you mean 'cdmsgd'?"),
    ("consensus.order", "adopt", "did you mean 'adapt'?"),
    ("log", ("tensorbord",), "did you mean 'tensorboard'?"),
    ("recalibration.methods", ("waa",), "did you mean 'wa'?"),
    ("model", "resnet21", "did you mean 'resnet"),
    ("topology.name", "rnig", "did you mean 'ring'?"),
    ("data.split", "idd", "did you mean 'iid'?"),
    ("data.source", "digit", "did you mean 'digits'?"),
    ("optimizer.name", "adm", "did you mean 'ada"),
    ("merging.combine", "avrage", "did you mean 'average'?"),
]


@pytest.mark.parametrize(("name", "value", "message"), OUT_OF_RANGE + WRONG_TYPE + UNKNOWN_NAME)
def test_a_bad_value_is_refused_with_setting_value_and_rule(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(with_setting(name, value))
    assert str(caught.value).startswith(f"setting '{name}' is ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_valid() -> None:
    validate(RunConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "package.module:factory"),
        ("data.source", "npz:some/where.npz"),
        ("optimizer.lr", 1),
        ("controls", ()),
        ("local_steps", 5),
    ],
)
def test_a_name_of_a_users_own_is_left_to_those_who_build_it(name: str, value: Any) -> None:
    validate(with_setting(name, value))


def test_a_method_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'controls' has 'wa' twice"):
        validate(RunConfig(controls=("wa", "wa")))


@pytest.mark.parametrize("topology", [TopologyConfig("edges"), TopologyConfig("ring", path="x")])
def test_a_path_belongs_to_an_edge_list(topology: TopologyConfig) -> None:
    with pytest.raises(ConfigError, match=r"'topology.path' is .*: must be a file if"):
        validate(RunConfig(topology=topology))


def test_on_a_cpu_a_stack_is_no_place_for_bfloat16() -> None:
    validate(RunConfig(vectorize=2))
    validate(RunConfig(precision="bfloat16"))
    with pytest.raises(ConfigError, match=r"'vectorize' is 2: must be 1 with precision bfloat16"):
        validate(RunConfig(vectorize=2, precision="bfloat16"))


def test_batches_in_pieces_are_not_for_stacks() -> None:
    pieces = OptimizerConfig(accumulate=4)
    validate(RunConfig(optimizer=pieces))
    with pytest.raises(ConfigError, match=r"'optimizer.accumulate' is 4: must be 1 with vectorize"):
        validate(RunConfig(vectorize=2, optimizer=pieces))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU"])
def test_a_device_of_another_kind_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="must be cpu, cuda or cuda:N"):
        validate(RunConfig(device=device))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"'device' is 'cuda'.* 0 CUDA devices.*use 'cpu'"):
        validate(RunConfig(device="cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    validate(RunConfig(device="cuda:1"))
    with pytest.raises(ConfigError, match="up to 'cuda:1'"):
        validate(RunConfig(device="cuda:2"))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
METHODS = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
CONFIGS = st.builds(
    RunConfig,
    agents=st.integers(),
    local_steps=st.none() | st.integers(),
    method=TEXT,
    controls=METHODS,
    out=st.none() | st.from_regex(r"[a-z0-9._-]+/[A-Za-z0-9 ._:=,-]+", fullmatch=True),
    overwrite=st.booleans(),
    width=NUMBER,
    norm=st.sampled_from(["batch", "group"]),
    topology=st.builds(TopologyConfig, name=TEXT),
    data=st.builds(DataConfig, split=TEXT, alpha=NUMBER),
    optimizer=st.builds(OptimizerConfig, lr=NUMBER),
    matching=st.builds(MatchingConfig, gauge=st.sampled_from(["tree", "pairwise"])),
    recalibration=st.builds(RecalibrationConfig, methods=METHODS),
)


@example(config=RunConfig(method="0E0"))  # a number to one reader of YAML, text to another
@given(config=CONFIGS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_config_survives_yaml(tmp_path: Path, config: RunConfig) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


def test_the_yaml_names_every_setting_in_order() -> None:
    text = config_to_yaml(RunConfig())
    assert [line.split(":")[0] for line in text.splitlines() if line[0].isalpha()] == [
        field.name for field in dataclasses.fields(RunConfig)
    ]


def test_a_setting_that_is_gone_is_passed_over_where_it_changed_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = config_to_yaml(RunConfig(agents=3))
    text = text.replace("  every: 0\n", "  every: 2\n  drift: null\n")
    path.write_text(text, encoding="utf-8")
    assert load_config(path) == RunConfig(agents=3, matching=MatchingConfig(every=2))
    path.write_text(text.replace("drift: null", "drift: 0.5"), encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown setting 'matching.drift'"):
        load_config(path)


def test_settings_a_file_leaves_out_keep_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("agents: 3\noptimizer:\n  lr: 1e-2\n")
    expected = RunConfig(agents=3, optimizer=OptimizerConfig(lr=0.01))
    assert load_config(path) == expected


NUMBERS = {
    name: annotated_types()[name]
    for name, kind in setting_types().items()
    if {int, float} & {kind, *get_args(kind)}
}


@pytest.mark.parametrize("name", NUMBERS)
def test_help_says_the_range_that_the_type_of_a_number_has(name: str) -> None:
    assert any(isinstance(rule, Range) for rule in rules_in(NUMBERS[name]))
    text = " ".join(bare_parser().format_help().split())
    said = re.search(rf"--{re.escape(name)} .*? Must be (.*?)\. \(type: ([\w ]+),", text)
    assert said
    assert said[1] == range_of(NUMBERS[name])
    assert said[2].removesuffix(" or null") in ("a whole number", "a number")


@pytest.mark.parametrize(
    ("ends", "words", "inside", "outside"),
    [
        ({"ge": 0, "lt": 1}, "in [0, 1)", [0, 0.5], [-1, 1, math.nan]),
        ({"gt": 0, "le": 1}, "in (0, 1]", [0.5, 1], [0, 2, math.nan]),
        ({"ge": 0, "lt": math.inf}, ">= 0 and finite", [0, 1e300], [-1, math.inf, math.nan]),
        ({"gt": -math.inf, "lt": math.inf}, "finite", [0, -1e300], [-math.inf, math.inf, math.nan]),
        ({"gt": 0}, "> 0", [1, 10**5_000], [0, math.nan]),
        ({"lt": 2**63}, "< 2^63", [-1, 2**63 - 1], [2**63]),
        ({"le": 10**9}, "<= 1,000,000,000", [10**9], [10**9 + 1, 10**5_000]),
        ({"le": 1e38}, "<= 1e+38", [1e38], [1.1e38, math.inf, math.nan]),
    ],
)
def test_a_range_holds_and_says_which_numbers_are_in_it(
    ends: dict[str, float], words: str, inside: list[float], outside: list[float]
) -> None:
    own = Range(**ends)
    assert str(own) == words
    assert [value in own for value in inside] == [True] * len(inside)
    assert [value in own for value in outside] == [False] * len(outside)


def test_the_rule_of_a_type_is_that_of_its_parts() -> None:
    kind = Annotated[int, Range(ge=1), Range(le=9, why="as it is small")]
    check("x", None, kind | None)
    check("x", (1, 9), tuple[kind, ...])
    with pytest.raises(ConfigError, match="'x' is 0: must be >= 1, or null$"):
        check("x", 0, kind | None)
    with pytest.raises(ConfigError, match="'x' is 10: must be <= 9, as it is small$"):
        check("x", (1, 10), tuple[kind, ...])
    with pytest.raises(ConfigError, match="'x' is 1.5: must be a whole number$"):
        check("x", 1.5, kind)


def test_help_explains_every_setting_with_its_default() -> None:
    text = " ".join(settings_parser().format_help().split())
    for name in setting_types():
        after = text[text.index(f"--{name} ") :]
        assert after.index("default:") < 600, name
    assert text.count("default:") == len(setting_types())
