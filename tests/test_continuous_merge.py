"""``--continuous`` on the command line: a turned copy is turned back, and the kinds are printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dimat
from dimat.cli import main
from dimat.state import State, save_state, state_of

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.wide = nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 12)
        self.back, self.last, self.head = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x.flatten(1))
        x = x + self.back(torch.nn.functional.gelu(self.wide(self.norm(x))))
        return self.head(self.last(x))
"""
DATA = ["--model", "turned_nets:Net", "--data", "digits", "--images", "200"]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> State:
    """The state of a net, which lies in a.safetensors; b.safetensors is a turned copy."""
    monkeypatch.chdir(tmp_path)
    Path("turned_nets.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    import turned_nets  # type: ignore[import-not-found]

    torch.manual_seed(0)
    build: Callable[[], nn.Module] = turned_nets.Net
    model = build()
    own = {k: v + 0.1 * torch.randn_like(v) for k, v in state_of(model).items()}
    found = dimat.find_continuous_symmetry(model, torch.zeros(2, 64))
    copy = found.apply(found.random(torch.Generator().manual_seed(1)), own)
    save_state(own, Path("a.safetensors"))
    save_state(copy, Path("b.safetensors"))
    return own


def test_a_turned_copy_is_merged_and_aligned(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("merge", "align"):
        words = [
            command,
            "a.safetensors",
            "b.safetensors",
            *DATA,
            "--out",
            f"{command}.safetensors",
        ]
        assert main([*words, "--continuous"]) == 0
        assert "aligned by matrices too (groups: 1 orthogonal with mean)" in " ".join(
            capsys.readouterr().out.split()
        )
        torch.testing.assert_close(load_file(f"{command}.safetensors"), state, rtol=1e-3, atol=1e-3)
    assert main(["merge", "a.safetensors", "b.safetensors", *DATA, "--out", "p.safetensors"]) == 0
    assert (load_file("p.safetensors")["stem.weight"] - state["stem.weight"]).abs().max() > 0.01


def test_heads_that_are_kept_are_refused(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "a.safetensors", "b.safetensors", *DATA, "--out", "m.safetensors"]
    kept = ["--heads", "keep", "--except", "head.*", "--no-evaluate"]
    assert main([*words, "--continuous", *kept]) == 2
    assert "'continuous' is True" in capsys.readouterr().err
    assert not Path("m.safetensors").exists()


def test_the_kinds_are_printed(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["symmetry", "--model", "turned_nets:Net", "--input", "2,1,8,8", "--continuous"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "orthogonal with mean" in out
    assert "norm.weight and 1 more" in out
    assert main([*words, "--json"]) == 2
    assert "leave 'json' out" in capsys.readouterr().err


def test_models_of_tokens_are_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["symmetry", "--model", "transformer", "--width", "0.25", "--tokens", "20"]
    assert main([*words, "--input", "2,6", "--continuous"]) == 0
    assert "blocks.0.norm1.weight and 4 more" in " ".join(capsys.readouterr().out.split())
