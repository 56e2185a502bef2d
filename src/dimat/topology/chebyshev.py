r"""Chebyshev acceleration of repeated mixing.

Of all polynomials of degree k with :math:`p(1) = 1` that of Chebyshev is the smallest on
:math:`[-\lambda, \lambda]`, where a symmetric mixing matrix has all its eigenvalues but the 1:

.. math::
    p_k(\Pi) = \frac{T_k(\Pi/\lambda)}{T_k(1/\lambda)}, \qquad
    |p_k| \le \frac{1}{T_k(1/\lambda)} = \frac{2q^k}{1 + q^{2k}}, \quad
    q = \frac{1 - \sqrt{1-\lambda^2}}{\lambda}

It is computed with one product by :math:`\Pi` for each degree:

.. math:: x_{k+1} = x_{k-1} + \omega_{k+1}\,(\Pi x_k - x_{k-1}), \qquad x_1 = \Pi x_0

References:
    Golub and Varga, "Chebyshev Semi-Iterative Methods", Numer. Math. 1961; Scaman et al., "Optimal
    Algorithms for Smooth and Strongly Convex Distributed Optimization in Networks", ICML 2017.
"""

from __future__ import annotations

_ROUNDING = 1e-9  # a graph that is not connected has a second eigenvalue of 1 but for rounding


def chebyshev_factors(contraction: float, steps: int) -> list[float]:
    r"""The factors :math:`\omega_2, \dots, \omega_k` of the steps after the first.

    Args:
        contraction: The second largest modulus :math:`\lambda` of an eigenvalue, in [0, 1]. At 1,
            where the graph is not connected, no polynomial shrinks all disagreement: the factors
            are those of plain steps.
        steps: Number of mixing steps, k >= 1.

    Returns:
        k - 1 factors in [1, 2); all 1 means plain steps.

    >>> chebyshev_factors(0.0, 3), chebyshev_factors(1.0, 3)
    ([1.0, 1.0], [1.0, 1.0])
    >>> [round(factor, 4) for factor in chebyshev_factors(0.8, 4)]
    [1.4706, 1.3077, 1.2646]
    """
    square = contraction**2 if contraction < 1 - _ROUNDING else 0.0
    factors, last = [], 2.0
    for _ in range(steps - 1):
        last = 1.0 / (1.0 - square * last / 4.0)
        factors.append(last)
    return factors
