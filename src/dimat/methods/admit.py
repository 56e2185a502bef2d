"""Which messages a method can use, and what it does about those that it never got."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from dimat.errors import StructureError, TrainingError
from dimat.exchange import Inbox, Message, Step, Talk
from dimat.methods.protocol import RoundContext
from dimat.state import check_finite, check_same_structure, squared_norm

Admit = Callable[[int, Message], None]
MAX_NORM_RATIO = 10.0  # healthy agents: 2.2 at most, whatever their ages, docs/distributed.md
NORM_RULE = "by setting 'max_norm_ratio' (of 'exchange'; null: any) it must be at most {:.4g}"


def validate_structure(ours: Mapping[str, Tensor], what: str) -> Admit:
    """Refuses a message that is not of our structure.

    Args:
        ours: What a message has to be like.
        what: What it is, for the error: "state", "gradient".
    """
    return lambda j, message: check_same_structure(ours, message, f"{what} from agent {j}")


def validate_state(me: RoundContext, max_norm_ratio: float | None) -> Admit:
    """Refuses a state that is not of our structure, not finite, or of quite another norm.

    Who keeps nothing of its own, as it is new, was not trained: its norm is a coarse measure, and
    the ratio may be as large as the square.

    Args:
        me: Who we are.
        max_norm_ratio: How many times as large, or as small, the norm of its parameters may be as
            that of ours; None: any.
    """

    @functools.cache
    def our_norm() -> float:
        return norm(me.state, me.parameters)

    def admit(j: int, message: Message) -> None:
        who = f"state from agent {j}"
        check_same_structure(me.state, message, who)
        if max_norm_ratio is None:
            check_finite(message, who)
            return
        theirs = norm(message, me.parameters)
        seen = me.parameters if math.isfinite(theirs) else ()  # a finite norm has finite terms
        check_finite({key: own for key, own in message.items() if key not in seen}, who)
        ratio = max_norm_ratio if me.weights[0] > 0 else max_norm_ratio**2
        ours = our_norm()
        if not ours / ratio <= theirs <= ours * ratio:
            raise StructureError(
                f"{who}: its parameters have norm {theirs:.4g}, ours {ours:.4g}: "
                f"{NORM_RULE.format(ours * ratio)}, and at least {ours / ratio:.4g}"
            )

    return admit


def norm(state: Mapping[str, Tensor], parameters: Sequence[str]) -> float:
    """Euclidean norm of a state's parameters."""
    return math.sqrt(squared_norm(state[key] for key in parameters))


def require_all(agents: Collection[int], heard: Collection[int]) -> None:
    """Go on only if we heard everyone.

    Raises:
        TrainingError: Naming the first of those whom we did not hear.
    """
    lost = [j for j in agents if j not in heard]
    if lost:
        raise TrainingError(
            f"nothing from agent {lost[0]}, and this method needs to hear everyone: where messages "
            "can be lost use dimat with matching.gauge spread, wa, wm, final-merge or local"
        )


def require_inbox(step: Step) -> Talk[Inbox]:
    """One step of which no message may be missing.

    Raises:
        TrainingError: If one is.
    """
    inbox = yield step
    require_all(step.hear, inbox)
    return inbox
