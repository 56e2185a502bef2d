"""Entries that the forward pass does not read stay where they are, and are told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dimat


class WithUnread(nn.Module):
    """A network with a head, a norm and a buffer that ``forward`` leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.projector = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(16, 5)
        self.norm = nn.LayerNorm(16)
        self.register_buffer("centers", torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).relu())
        return out


def test_what_forward_does_not_read_stays_in_its_place_and_is_told() -> None:
    """It was taken to be free: each axis was permuted by itself, as nothing says otherwise."""
    torch.manual_seed(0)
    first, second = WithUnread(), WithUnread()
    merged = dimat.merge(WithUnread(), [first, second], [torch.randn(60, 4)])
    own, other = first.state_dict(), second.state_dict()
    for key in ("projector.weight", "projector.bias", "centers", "norm.weight"):
        assert torch.equal(merged.aligned[1][key], other[key]), key
        torch.testing.assert_close(merged.state[key], (own[key] + other[key]) / 2)
    assert not torch.equal(merged.aligned[1]["body.weight"], other["body.weight"])
    [note] = merged.notes
    assert note.startswith("forward does not read centers, projector.weight, projector.bias and 2")
    groups = dimat.find_symmetry(first, torch.randn(2, 4)).groups
    assert [{key for key, _ in own.members} for own in groups] == [
        {"body.weight", "body.bias", "head.weight"}
    ]


def test_what_only_training_writes_moves_with_the_units_that_it_is_of() -> None:
    groups = dimat.find_symmetry(BatchCounting(), torch.randn(2, 4)).groups
    assert [len(own.members) for own in groups] == [4]


class BatchCounting(WithUnread):
    """The same, with a mean over training batches in a buffer that evaluation does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        if self.training:
            self.means.mul_(0.9).add_(0.1 * hidden.mean(0).detach())
        out: Tensor = self.head(hidden)
        return out


class Wide(nn.Module):
    """A network of any width, with a projector that ``forward`` leaves alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.projector = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).relu())
        return out


def test_a_narrower_parent_with_unread_entries_is_padded() -> None:
    torch.manual_seed(0)
    narrow = Wide(6)
    wide = dimat.widen(Wide(8), narrow.state_dict(), torch.randn(9, 4))
    assert torch.equal(wide["projector.weight"][:, :6], narrow.projector.weight)
    assert not wide["projector.weight"][:, 6:].any()


class Around(nn.Module):
    """A network of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


def test_what_is_around_a_part_is_not_told_as_unread() -> None:
    model = Around()
    merged = dimat.merge(model, [model.state_dict()] * 2, [torch.randn(30, 4)], at="body")
    assert merged.notes == ()
