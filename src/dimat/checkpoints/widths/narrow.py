"""A copy of a model in the shapes of a narrower state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dimat.checkpoints.partial import resized

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def narrowed(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with the shapes of a narrower state, and the sizes that layers remember.

    Args:
        model: The wider model; not changed.
        state: The narrower state.
    """
    own = {key: value.shape for key, value in model.state_dict().items()}
    twin = resized(model, state, [key for key in own if state[key].shape != own[key]])
    wide = dict(model.named_modules())
    for name, module in twin.named_modules():
        if isinstance(module, _CONVOLUTIONS):
            before = wide[name].weight
            assert isinstance(before, Tensor)
            module.groups = _groups(module.groups, module.weight, before)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.RNNBase):
            module.input_size = int(state[f"{name}.weight_ih_l0".lstrip(".")].shape[1])
            module.hidden_size = int(state[f"{name}.weight_hh_l0".lstrip(".")].shape[1])
    return twin


def _groups(groups: int, weight: Tensor, before: Tensor) -> int:
    """The number of groups of a grouped convolution: fewer, unless each is thinner."""
    if groups == 1 or weight.shape[1] != before.shape[1]:
        return groups
    return max(1, groups * len(weight) // len(before))
