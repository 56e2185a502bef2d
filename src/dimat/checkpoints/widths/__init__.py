"""Parents of other widths: a narrower network as a wider one with silent units."""

from dimat.checkpoints.widths.filling import filled
from dimat.checkpoints.widths.padding import Padding
from dimat.checkpoints.widths.widen import WIDTHS, Widths, is_narrower, pad_states, widen

__all__ = ["WIDTHS", "Padding", "Widths", "filled", "is_narrower", "pad_states", "widen"]
