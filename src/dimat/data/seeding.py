"""Random generators that depend on a key and nothing else."""

from __future__ import annotations

import numpy as np
import torch


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a whole key: streams of different keys are independent.

    Args:
        *key: Numbers such as seed, agent and round.
        device: Device of the generator.

    >>> generator(1, 2).initial_seed() == generator(1, 2).initial_seed()
    True
    >>> generator(1, 2).initial_seed() == generator(2, 1).initial_seed()
    False
    """
    seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device=device).manual_seed(seed)
