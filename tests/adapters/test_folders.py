"""``dimat merge --adapters``: folders of PEFT combined without their base, every way in a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.peft_folders import PREFIX, entries, folder
from torch import Tensor
from torch.testing import assert_close

from dimat.checkpoints.formats.adapter_folders import read_adapter
from dimat.cli import main
from dimat.errors import ConfigError, StructureError
from dimat.state import save_state
from dimat.tools.adapters.run import merge_adapters
from dimat.tools.adapters.settings import AdaptersConfig

QUERY = f"{PREFIX}query"


def delta(path: Path, module: str = QUERY) -> Tensor:
    """What an adapter adds to a weight, as PEFT scales it."""
    own = read_adapter(path)
    a, b = (own.state[f"{module}.lora_{side}.weight"].double() for side in "AB")
    config = json.loads((path / "adapter_config.json").read_text())
    name = module.removeprefix("base_model.model.")
    alpha = config["alpha_pattern"].get(name, config["lora_alpha"])
    root = config["use_rslora"]
    scale: Tensor = alpha / (len(a) ** 0.5 if root else len(a)) * b @ a
    return scale


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["merge", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_merge_of_folders_writes_one_and_compares_all_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder(tmp_path / f"{k}", k) for k in range(3)]
    out = tmp_path / "out"
    code, said, _ = command(capsys, "--adapters", *paths, "--out", out, "--combine", "stacked")
    assert code == 0
    for way in ("naive", "aligned", "product", "stacked", "frozen-a"):
        assert way in said
    assert ["stacked", "6"] in [line.split()[:2] for line in said.splitlines()]
    assert "factors A differ" in said
    assert "bases are not in these folders and were not compared: all name 'some/base'" in said
    assert sorted(x.name for x in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    mean = sum(delta(path) for path in paths) / 3
    assert_close(delta(out), mean, rtol=1e-5, atol=1e-5)
    head = sum(entries(k)["base_model.model.classifier.weight"] for k in range(3)) / 3
    assert_close(read_adapter(out).state["base_model.model.classifier.weight"], head)


@pytest.mark.parametrize("root", [False, True])
def test_scales_and_ranks_may_differ(tmp_path: Path, root: bool) -> None:
    """The average is of what adapters add: alpha / r of each, or alpha / sqrt(r)."""
    first = folder(tmp_path / "a", 0, lora_alpha=3, use_rslora=root)
    other = folder(tmp_path / "b", 1, 4, alpha_pattern={"query": 7})
    config = AdaptersConfig((str(first), str(other)), str(tmp_path / "out"), "product", 5)
    assert main(["merge", "--adapters", str(first), str(other), "--out", config.out, "--rank", "5",
                 "--weights", "0.25,0.75"]) == 0  # fmt: skip
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["r"] == 5
    own = read_adapter(other)
    scale = own.scale(own.factors[0])
    assert scale == 7 / 4
    a, b = (own.state[f"{QUERY}.lora_{side}.weight"].double() for side in "AB")
    assert_close(
        delta(tmp_path / "out"), 0.25 * delta(first) + 0.75 * scale * b @ a, rtol=1e-5, atol=1e-5
    )


def test_errors_are_those_of_dense_products(tmp_path: Path) -> None:
    paths = [folder(tmp_path / f"{k}", k) for k in range(3)]
    result = merge_adapters(AdaptersConfig(tuple(map(str, paths)), str(tmp_path / "out")))
    found = {own.name: own for own in result.ways}
    modules = (QUERY, f"{PREFIX}value")
    means = {m: torch.stack([delta(path, m) for path in paths]).mean(0) for m in modules}
    size = sum(x.square().sum() for x in means.values()) ** 0.5
    for name in ("naive", "aligned", "product", "stacked"):
        own = found[name].factors
        apart = sum((2 * own[m].b @ own[m].a - means[m]).square().sum() for m in modules) ** 0.5
        assert found[name].error == pytest.approx(float(apart / size), abs=1e-12)
    assert found["product"].error < found["aligned"].error < found["naive"].error
    assert found["stacked"].error < 1e-12


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_model_name_or_path": "other"}, "'base_model_name_or_path' is other there and some"),
        ({"task_type": None}, "'task_type' is None there"),
        ({"target_modules": ["key", "query"]}, "'target_modules' is"),
        ({"use_dora": True}, "has use_dora: the adapter adds more than B A"),
        ({"peft_type": "IA3"}, "is of peft_type 'IA3'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha' is nan: must be a number > 0"),
        ({"lora_alpha": "4"}, "'lora_alpha' is '4': must be a number > 0"),
        ({"rank_pattern": {"(a+)+$": 2}}, "only names are read"),
        ({"rank_pattern": {"query": 3}}, "query.lora_A.weight' has rank 2, and .* says 3"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    first, other = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1, **changes)
    with pytest.raises(StructureError, match=why):
        merge_adapters(AdaptersConfig((str(first), str(other)), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_order_of_target_modules_means_nothing(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", 0)
    other = folder(tmp_path / "b", 1, target_modules=["query", "value"])
    merge_adapters(AdaptersConfig((str(first), str(other)), str(tmp_path / "out")))


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    own = folder(tmp_path / "a", 0)
    (own / "adapter_model.safetensors").rename(own / "adapter_model.bin")
    with pytest.raises(StructureError, match="adapter_model.bin is a pickle, which is not read"):
        read_adapter(own)
    (own / "adapter_config.json").unlink()
    with pytest.raises(StructureError, match="adapter_config.json cannot be read as JSON"):
        read_adapter(own)
    with pytest.raises(StructureError, match="is no folder"):
        read_adapter(tmp_path / "none")


def test_entries_that_others_lack_are_named(tmp_path: Path) -> None:
    first, other = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1)
    less = {k: v for k, v in entries(1).items() if "value" not in k}
    save_state(less, other / "adapter_model.safetensors")
    with pytest.raises(StructureError, match=r"it lacks 'base_model.*value.lora_A.weight'"):
        merge_adapters(AdaptersConfig((str(first), str(other)), str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--combine", "stacked", "--rank", "3"], "'rank' is 3: must be null with combine stacked"),
        (["--rank", "0"], "'rank' is 0: must be >= 1"),
        (["--combine", "sum"], "'combine'"),
        (["--weights", "0.5,0.6"], "summing to 1"),
        (["--model", "mlp"], "model"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    paths = [folder(tmp_path / f"{k}", k) for k in range(2)]
    code, _, said = command(capsys, "--adapters", *paths, "--out", tmp_path / "out", *words)
    assert (code, why in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_folders_that_exist_are_not_replaced(tmp_path: Path) -> None:
    paths = tuple(str(folder(tmp_path / f"{k}", k)) for k in range(2))
    with pytest.raises(ConfigError, match="another folder than those read"):
        merge_adapters(AdaptersConfig(paths, paths[1]))
    folder(tmp_path / "out", 2)
    with pytest.raises(ConfigError, match="exists: use another; folders are not replaced"):
        merge_adapters(AdaptersConfig(paths, str(tmp_path / "out")))


def test_a_folder_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder(tmp_path / f"{k}", k) for k in range(2)]

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dimat.checkpoints.formats.adapter_folders.save_state", full)
        code, _, said = command(capsys, "--adapters", *paths, "--out", tmp_path / "out")
    assert (code, "No space left on device" in said) == (2, True)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["0", "1"]
    assert command(capsys, "--adapters", *paths, "--out", tmp_path / "out")[0] == 0
    assert sorted(x.name for x in tmp_path.iterdir()) == ["0", "1", "out"]


def test_the_help_of_adapters_is_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--adapters", "--help"])
    said = capsys.readouterr().out
    assert "--rank" in said
    assert "--model" not in said
