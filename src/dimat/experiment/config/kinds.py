"""Types of settings: each has the range of its numbers, or the rule of its text, in it."""

from __future__ import annotations

from math import inf
from typing import Annotated, Literal

from dimat.experiment.config.places import check_device, check_path, check_source
from dimat.experiment.config.rules import Range

# The end of all that is counted or measured: more is a slip of the hand.
MOST = Range(le=10**9, slip=True)
_FLOAT32 = Range(le=1e38, why="a float32", slip=True)

Count = Annotated[int, Range(ge=0), MOST]
PositiveCount = Annotated[int, Range(ge=1), MOST]
Seed = Annotated[int, Range(ge=0), Range(lt=2**63)]
Agents = Annotated[
    int, Range(ge=1), Range(le=5000, why="as the graph has up to agents x agents edges")
]
Threads = Annotated[int, Range(ge=1), Range(le=1024, why="and best the number of cores")]
Classes = Annotated[int, Range(ge=1), Range(le=10**6)]
Pixels = Annotated[int, Range(ge=1), Range(le=10**5)]  # along a side

Finite = Annotated[float, Range(gt=-inf, lt=inf), _FLOAT32]
Positive = Annotated[float, Range(gt=0, lt=inf), MOST]
Scale = Annotated[float, Range(gt=0, lt=inf), _FLOAT32]
Ratio = Annotated[float, Range(ge=1), MOST]
Fraction = Annotated[float, Range(ge=0, lt=1)]
Decay = Annotated[float, Range(gt=0, lt=1)]
PositiveFraction = Annotated[float, Range(gt=0, le=1)]
UpToHalf = Annotated[float, Range(ge=0, le=0.5)]
LearningRate = Annotated[float, Range(gt=0, lt=inf), _FLOAT32]
WeightDecay = Annotated[float, Range(ge=0, lt=inf), _FLOAT32]
LossWeight = Annotated[float, Range(ge=0, lt=inf), MOST]
Seconds = Annotated[float, Range(gt=0, lt=inf), Range(le=10**6, why="which are 11 days")]
Width = Annotated[
    float, Range(gt=0, lt=inf), Range(le=1000, why="times the channels of the model as it is")
]

Device = Annotated[str, check_device]
FilePath = Annotated[str, check_path]
Source = Annotated[str, check_source]

Norm = Literal["batch", "group"]
Shortcut = Literal["conv3", "conv1", "pad"]
