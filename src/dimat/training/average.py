"""The exponential moving average of an agent's weights, which is evaluated in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dimat.exchange.tree import Tree
from dimat.state import State, clone, is_number
from dimat.text import brief


@dataclass
class WeightAverage:
    r"""Moving average of a state over the steps since it began, and the number of these.

    .. math:: \bar\theta_1 = \theta_1, \qquad
        \bar\theta_t = d_t\,\bar\theta_{t-1} + (1 - d_t)\,\theta_t, \qquad
        d_t = \min\Bigl(d, \frac{t - 1}{t + 8}\Bigr)

    The rate rises, since the first networks of a short training are the worst: at first the average
    is of about the last tenth of the steps. Running statistics are averaged, too; what is no real
    or complex number (counters) is that of the last step.

    A merge ends the average, and the next step begins another one, of the merged network. An
    average from before is of networks that the merge did not see: the rules that methods merge by
    (fits of layers, outer steps, bounds on liars) say nothing of it. Mixed like the state it would
    double the bytes and be right for plain averages only; moved with the agent's own units alone it
    would be that of a network without neighbors. And the merge itself averages over agents.

    Args:
        state: The average.
        steps: Number of steps that it is of, >= 1.

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
        Control Optim. 1992.
    """

    state: State
    steps: int = 1

    __repr__ = brief

    @classmethod
    def begun(cls, state: Mapping[str, Tensor]) -> WeightAverage:
        """The average of one step.

        Args:
            state: The state after it; copied.
        """
        return cls(clone({key: value.detach() for key, value in state.items()}))

    def add(self, state: Mapping[str, Tensor], most: float) -> None:
        """Take a step into the average, in place.

        Args:
            state: The state after it; not changed.
            most: The decay d, in (0, 1).
        """
        decay = min(most, self.steps / (self.steps + 9))
        self.steps += 1
        numbers = [key for key, value in self.state.items() if is_number(value)]
        if numbers:
            there = [state[key].detach() for key in numbers]
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            average([self.state[key] for key in numbers], there, self.steps)
        for key in self.state.keys() - set(numbers):
            self.state[key].copy_(state[key])

    def move(self, function: Callable[[State], State]) -> None:
        """Move the average with the units of its network.

        Args:
            function: Permutes a state.
        """
        self.state = function(self.state)

    def tree(self) -> Tree:
        """The average as a tree."""
        return {"state": self.state, "steps": self.steps}
