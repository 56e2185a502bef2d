"""Layouts of checkpoints that other programs write: prefixes, folders, and merges of them."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dimat
from dimat.checkpoints.formats.files import read_checkpoint
from dimat.checkpoints.formats.folders import INDEX, WHOLE
from dimat.checkpoints.unwrapped import fitted
from dimat.cli import main
from dimat.errors import StructureError
from dimat.state import State, save_state, state_of


def net(width: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10)
    )


@pytest.fixture
def states() -> list[State]:
    torch.manual_seed(0)
    return [state_of(net()), state_of(net())]


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def batches() -> list[Tensor]:
    return list(torch.randn(60, 64, generator=torch.Generator().manual_seed(1)).split(20))


def lightning(state: State) -> dict[str, Any]:
    """A checkpoint as Lightning writes it, with the metric and the loss of a module beside."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**under("model.", state), "criterion.weight": torch.ones(10)},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1, "args": Namespace(width=6)},
    }


# --- names -----------------------------------------------------------------------------------


def test_lightning_and_deit_files_merge_like_plain_states(
    states: list[State], tmp_path: Path
) -> None:
    torch.save(lightning(states[0]), tmp_path / "a.ckpt")
    torch.save({"model": states[1], "args": Namespace(lr=1.0), "epoch": 2}, tmp_path / "b.pth")
    found = dimat.merge(net(), [tmp_path / "a.ckpt", tmp_path / "b.pth"], batches())
    expected = dimat.merge(net(), states, batches())
    torch.testing.assert_close(found.state, expected.state, rtol=0, atol=0)
    assert found.notes == (
        f"state 0 ({tmp_path / 'a.ckpt'}): 'model.' before its names is taken off; left out: "
        "'criterion.weight'",
    )
    assert expected.notes == ()


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "module.", "_orig_mod.", "module._orig_mod.", "a.b-c.0."]
)
def test_a_prefix_is_taken_off_where_only_then_the_names_fit(
    states: list[State], prefix: str
) -> None:
    said: list[str] = []
    assert fitted(net(), under(prefix, states[0]), "a", said.append).keys() == states[0].keys()
    assert said == [f"'{prefix}' before its names is taken off"]
    inner = nn.Sequential()
    inner.add_module("model", net())  # whose own names have a prefix
    own = under("model.", states[0])
    assert fitted(inner, own, "a", said.append) == own
    assert len(said) == 1


def test_a_prefix_that_a_wrapper_needs_is_put_before(states: list[State]) -> None:
    outer, said = nn.Sequential(), list[str]()
    outer.add_module("model", net())
    assert fitted(outer, states[0], "a", said.append) == under("model.", states[0])
    assert said == ["'model.' is put before its names"]


def test_tied_names_and_counters_that_are_left_out_do_not_hide_a_prefix() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.longest_name_of_all = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.b.weight = self.longest_name_of_all.weight

    whole = Tied().state_dict()
    for left_out in ("longest_name_of_all.weight", "b.weight"):
        state = {
            f"m.{name}": value
            for name, value in whole.items()
            if name not in (left_out, "norm.num_batches_tracked")
        }
        assert fitted(Tied(), state, "a").keys() == {name[2:] for name in state}


def test_names_behind_several_prefixes_are_not_guessed(states: list[State], tmp_path: Path) -> None:
    both = {**under("student.", states[0]), **under("teacher.", states[1])}
    torch.save({"state_dict": both}, tmp_path / "both.ckpt")
    with pytest.raises(StructureError, match=r"state 0 .*prefixes, 'student\.', 'teacher\.'"):
        dimat.merge(net(), [tmp_path / "both.ckpt"] * 2, batches())
    found = dimat.merge(net(), [tmp_path / "both.ckpt"] * 2, batches(), key="teacher")
    expected = dimat.merge(net(), [states[1]] * 2, batches())
    torch.testing.assert_close(found.state, expected.state, rtol=0, atol=0)


def test_names_that_no_prefix_makes_fit_stay(states: list[State]) -> None:
    partly = {**states[0], "module.x": torch.ones(1)}
    del partly["1.weight"]
    assert fitted(net(), partly, "a") == partly
    with pytest.raises(StructureError, match=r"state 1 does not fit: it lacks '1\.weight'"):
        dimat.merge(net(), [states[0], partly], batches())


# --- folders ---------------------------------------------------------------------------------


def hub_folder(path: Path, state: State, shards: int = 3) -> Path:
    """A folder as ``save_pretrained`` writes it."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "tiny"}')
    (path / "modeling.py").write_text("raise SystemExit")
    if shards == 1:
        save_state(state, path / WHOLE, {"format": "pt"})
        return path
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    index = {name: names[n % shards] for n, name in enumerate(state)}
    for name in names:
        save_state({k: v for k, v in state.items() if index[k] == name}, path / name)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_a_folder_is_its_shards_together(states: list[State], tmp_path: Path, shards: int) -> None:
    folder = hub_folder(tmp_path / "a", states[0], shards)
    torch.testing.assert_close(read_checkpoint(folder), states[0])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("prefix", ["", "body."])
def test_folders_merge_into_a_folder_of_the_first_ones_layout(
    states: list[State],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shards: int,
    prefix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("layout_nets.py").write_text(f"from torch import nn\n\n{inspect.getsource(net)}")
    monkeypatch.syspath_prepend(str(tmp_path))
    beside = {"other.weight": torch.ones(2).half()} if prefix else {}
    a = hub_folder(Path("a"), {**under(prefix, states[0]), **beside}, shards)
    hub_folder(Path("b"), states[1], 1)
    command = "merge a/ b --model layout_nets:net --data digits --images 60 --no-evaluate"
    assert main([*command.split(), "--threads", "1", "--out", "merged-v1.0"]) == 0
    plain = main([*command.split(), "--threads", "1", "--out", "plain.safetensors"])
    assert plain == 0
    merged = load_file("plain.safetensors")
    assert merged.keys() == states[0].keys()
    expected = {**under(prefix, merged), **beside}
    torch.testing.assert_close(read_checkpoint(Path("merged-v1.0")), expected, rtol=0, atol=0)
    names = {file.name for file in Path("merged-v1.0").iterdir()}
    assert names == {file.name for file in a.iterdir()} - {"modeling.py"}
    out = capsys.readouterr().out
    said = "a/ (read as 'layout_nets:net'): 'body.' before its names is taken off; left out: 'other"
    assert (said in " ".join(out.split())) == bool(prefix)
    told = json.loads(Path("merged-v1.0.json").read_text())
    assert [Path(file["path"]).name for file in told["inputs"]][-1] == WHOLE
    assert len(told["inputs"]) == (2 if shards == 1 else 2 + shards)
    assert main([*command.split(), "--out", "merged-v1.0", "--overwrite"]) == 2
    assert "merged-v1.0 exists: use another" in capsys.readouterr().err
    assert not list(Path().glob("*.partial"))


def test_a_folder_is_written_only_where_one_tells_the_layout(
    states: list[State], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(states[0], tmp_path / "a.safetensors")
    hub_folder(tmp_path / "b", states[0])
    given = [str(tmp_path / "a.safetensors"), str(tmp_path / "b")]
    rest = ["--model", "mlp", "--data", "digits", "--out", str(tmp_path / "out")]
    assert main(["merge", *given, *rest]) == 2
    assert (
        "a.safetensors were a Hugging Face folder, a new folder like it" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


HOSTILE: dict[str, tuple[Any, str]] = {
    "a path out of the folder": ({"w": "../secret.safetensors"}, "must be a .safetensors file in"),
    "an absolute path": ({"w": "/etc/secret.safetensors"}, "must be a .safetensors file in"),
    "a folder further in": ({"w": "x/y.safetensors"}, "must be a .safetensors file in"),
    "a pickle": ({"w": "pytorch_model.bin"}, "must be a .safetensors file in the folder"),
    "a letter no file has": ({"w": "a\0.safetensors"}, "must be a .safetensors file in"),
    "no text": ({"w": 3}, "names 'of type int'"),
    "no names": ([], "has no 'weight_map'"),
    "a missing shard": ({"w": "none.safetensors"}, "none.safetensors cannot be read"),
    "an entry too many": ({"w": "s.safetensors", "x": "s.safetensors"}, "lacks 'x'"),
    "an entry too few": ({"x": "s.safetensors"}, "(lacks 'x'|says, 'w')"),
    "many files": ({f"{n}": f"{n}.safetensors" for n in range(1001)}, "more than 1,000 files"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_that_cannot_be_followed_is_refused(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    folder = tmp_path / "model"
    folder.mkdir()
    save_state({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    save_state({"w": torch.ones(1)}, folder / "s.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": content}))
    with pytest.raises(StructureError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**6, b"\xff\xfe", b"{", b'{"weight_map": ' + b"1" * 10**5 + b"}", b" " * (2**24 + 1)],
    ids=["deep", "no text", "cut", "a number of many digits", "long"],
)
def test_an_index_that_is_no_small_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / INDEX).write_bytes(text)
    with pytest.raises(StructureError, match=r"index\.json(:| cannot be read as JSON)"):
        read_checkpoint(tmp_path)


def test_a_folder_of_pickles_tells_the_way_out(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(StructureError, match=r"a folder: .*name the \.bin file itself"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path / "pytorch_model.bin").keys() == {"w"}


def test_a_folder_that_transformers_wrote_is_read_and_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=9,
        max_position_embeddings=12,
    )
    from dimat.checkpoints.formats.folders import write_folder

    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "a", max_shard_size="2KB")
    state = read_checkpoint(tmp_path / "a")
    assert (tmp_path / "a" / INDEX).exists()
    torch.testing.assert_close(state, state_of(model))
    doubled = {name: 2 * value for name, value in state.items()}
    write_folder(doubled, tmp_path / "a", tmp_path / "b")
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "b")
    torch.testing.assert_close(state_of(again), doubled)
