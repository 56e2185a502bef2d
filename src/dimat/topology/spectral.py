"""The speed at which a network that varies in time mixes disagreement away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from dimat.topology.mixing import Matrix

_NOTHING = 1e-12  # what rounding leaves of an exact average
_POWERS = 30


def shrinkage(periods: Sequence[Sequence[Matrix]], *, doubly_stochastic: bool) -> float:
    """The mean factor by which disagreement shrinks at every time, in [0, 1].

    Args:
        periods: (n, n) mixing matrices in the order of time: one period, or samples of one.
        doubly_stochastic: Whether all matrices are. If not, one period may raise disagreement, and
            the factor is that of the long run.
    """
    if len(periods[0][0]) == 1:
        return 0.0
    products = period_products(periods)
    factor = worst_shrinkage(products) if doubly_stochastic else long_run_shrinkage(products)
    return float(min(factor, 1.0) ** (1 / len(periods[0])))


def on_differences(pi: Matrix) -> Matrix:
    """A mixing matrix restricted to the differences between agents.

    Args:
        pi: (n, n) mixing matrix.

    Returns:
        (n-1, n-1); it has the eigenvalues of ``pi`` but the one that is 1, and the singular values
        but one where ``pi`` is doubly stochastic. That of a product is the product.
    """
    from scipy.linalg import helmert  # slow to import, and only for networks that vary

    basis = helmert(len(pi))
    return np.asarray(basis @ pi @ basis.T, np.float64)


def period_products(periods: Sequence[Sequence[Matrix]]) -> Matrix:
    """The product of each period's mixing matrices, restricted to differences.

    Args:
        periods: Mixing matrices in the order of time, as many in each.

    Returns:
        (number of periods, n-1, n-1), for two agents or more.
    """

    def product(period: Sequence[Matrix]) -> Matrix:
        return reduce(lambda before, pi: pi @ before, map(on_differences, period))

    return np.stack([product(period) for period in periods])


def worst_shrinkage(products: Matrix) -> float:
    r"""The factor by which one period shrinks the worst disagreement, root mean squared.

    .. math:: \sigma_2(P), \quad\text{or}\quad \sqrt{\lambda_2(E[P^\top P])} \text{ if random}

    Args:
        products: As :func:`period_products` gives them.
    """
    squares = products.transpose(0, 2, 1) @ products
    return _cleaned(float(np.sqrt(np.linalg.norm(squares.mean(0), 2))))


def long_run_shrinkage(products: Matrix) -> float:
    r"""The factor by which a period shrinks disagreement in the long run, root mean squared.

    .. math:: |\lambda_2(P)|, \quad\text{or}\quad \sqrt{\rho(X \mapsto E[PXP^\top])}
        \text{ if random}

    Args:
        products: As :func:`period_products` gives them.
    """
    if len(products) == 1:
        return _cleaned(float(np.abs(np.linalg.eigvals(products[0])).max()))
    spread, growth = np.eye(products.shape[1]), []
    for _ in range(2 * _POWERS):
        spread = (products @ spread @ products.transpose(0, 2, 1)).mean(0)
        growth.append(max(float(np.linalg.norm(spread, 2)), _NOTHING**2))
        spread /= growth[-1]
    return _cleaned(float(np.exp(np.log(growth[_POWERS:]).mean() / 2)))


def _cleaned(factor: float) -> float:
    return factor if factor > _NOTHING else 0.0
