"""Architectures of other packages, with random weights: ``timm:NAME`` and ``hf:NAME``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from dimat.errors import ModelError, first_line

_ANY = (Exception,)  # whatever another package raises


@dataclass(frozen=True)
class Wanted:
    """What a model takes and gives.

    Args:
        sample: Shape of one input, as the model gets it.
        num_outputs: Width of the output.
        places: Whether every place of an input has an output, a token or a pixel.
        num_tokens: Number of tokens that inputs are ids of; 0: they are numbers.
        padding: The token that only fills a text up; None: there is none.
    """

    sample: tuple[int, ...]
    num_outputs: int
    places: bool = False
    num_tokens: int = 0
    padding: int | None = None


def timm_model(name: str, wanted: Wanted) -> nn.Module:
    """The architecture of timm, PyTorch Image Models, of a name; for images.

    Raises:
        ModelError: If timm is not installed, or has none for such inputs.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelError(
            f"model 'timm:{name}' needs pip install \"dimat[timm]\" ({error})"
        ) from error
    if wanted.num_tokens or len(wanted.sample) != 3 or wanted.places:
        raise ModelError(
            f"model 'timm:{name}' takes images, and gives one output of each: inputs here have "
            f"shape {wanted.sample}; give another model"
        )
    settings: dict[str, Any] = {"num_classes": wanted.num_outputs, "in_chans": wanted.sample[0]}
    try:
        try:
            model = timm.create_model(name, img_size=wanted.sample[1:], **settings)
        except TypeError:  # those that take images of any size have no such argument
            model = timm.create_model(name, **settings)
    except _ANY as error:
        way = f"{_alike(name, timm.list_models())}timm.list_models() names those that there are"
        raise _not_built(f"timm:{name}", error, way) from error
    return model  # type: ignore[no-any-return]


def _alike(name: str, known: Sequence[str]) -> str:
    """A hint for a name that is not known, from the closest ones; empty for one that is.

    >>> _alike("resnet81", ["resnet18", "vgg11"]), _alike("vgg11.tag", ["resnet18", "vgg11"])
    ("did you mean 'resnet18'? ", '')
    """
    own = name.partition(".")[0]  # behind the dot: of which pretrained weights, which are not taken
    close = [] if own in known else difflib.get_close_matches(own, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def hf_model(name: str, wanted: Wanted) -> nn.Module:
    """The architecture of transformers, by its type, a folder with its config.json, or on the Hub.

    Raises:
        ModelError: If transformers is not installed, or has none for such inputs and outputs.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"model 'hf:{name}' needs pip install \"dimat[transformers]\" ({error})"
        ) from error
    kinds = (
        ("AutoModelForSequenceClassification", "AutoModelForCausalLM")
        if wanted.num_tokens
        else ("AutoModelForImageClassification", "AutoModelForSemanticSegmentation")
    )
    try:
        known = transformers.CONFIG_MAPPING
        if name in known:
            config = known[name]()
        else:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        for setting, value in _settings(wanted).items():
            if setting == "num_labels" or hasattr(config, setting):
                setattr(config, setting, value)
        model = getattr(transformers, kinds[wanted.places]).from_config(config)
    except _ANY as error:
        way = "NAME is a type, as bert, a folder with a config.json, or a model on the Hub"
        raise _not_built(f"hf:{name}", error, way) from error
    return LogitsOf(model, wanted)


def _settings(wanted: Wanted) -> dict[str, Any]:
    """What a configuration says of inputs and outputs."""
    if wanted.num_tokens:
        texts = {"vocab_size": wanted.num_tokens, "pad_token_id": wanted.padding}
        return texts if wanted.places else {**texts, "num_labels": wanted.num_outputs}
    channels, *size = wanted.sample
    side = size[0] if len({*size}) == 1 else tuple(size)
    return {"num_labels": wanted.num_outputs, "num_channels": channels, "image_size": side}


def _not_built(name: str, error: Exception, way: str) -> ModelError:
    return ModelError(
        f"model '{name}' cannot be built: {type(error).__name__}: {first_line(error)} ({way})"
    )


class LogitsOf(nn.Module):
    """A model of transformers that takes one tensor and gives one, the logits.

    Args:
        model: The model.
        wanted: What it takes and gives.
    """

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        super().__init__()
        self.model = model
        self.images, self.places = not wanted.num_tokens, wanted.places
        self.padding = wanted.padding

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ids (batch, length), or of images (batch, channels, height, width)."""
        if self.images:
            logits: Tensor = self.model(pixel_values=x).logits
            if self.places:  # theirs are those of a smaller image
                logits = functional.interpolate(logits, size=x.shape[2:], mode="bilinear")
            return logits
        mask = None if self.padding is None else (x != self.padding).long()
        return self.model(input_ids=x, attention_mask=mask).logits  # type: ignore[no-any-return]


# The packages whose architectures have names, by what stands before the colon.
OUTSIDE: dict[str, Callable[[str, Wanted], nn.Module]] = {"timm": timm_model, "hf": hf_model}
