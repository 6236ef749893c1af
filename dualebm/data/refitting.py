"""A fitted base measure fitted again to the same rows with other weights, as in a bootstrap, with all its settings kept."""

import numpy as np

from dualebm import row_weights
from dualebm.base_families import Normal, VonMisesFisher
from dualebm.base_kernels import KernelBase
from dualebm.base_measures import BaseMeasure
from dualebm.base_mixtures import MixtureBase
from dualebm.data.bases import Rows, fit_normal, improve_mixture
from dualebm.data.kernel_bases import points_of
from dualebm.data.spherical_bases import improve_directions
from dualebm.geometry import Space
from dualebm.row_weights import Shares
from dualebm.settings import checked

ROUNDS = 50
"""The largest number of rounds of expectation and maximisation, from the parameters of the first fit."""

TOLERANCE = 1e-6
"""The gain of the mean log likelihood, in nats, at which the rounds end."""

SAME = 1e-5
"""The largest difference of a coordinate of a centre and of its row. Rows may have been rounded to float32 after the fit."""


@checked
def refit(base: BaseMeasure, points, weights, space: Space) -> BaseMeasure:
    """Fits a base measure again to rows with other weights. The result has as many numbers, so that compiled programs are reused.

    - A normal distribution takes the weighted mean and covariance.
    - A mixture of normal or of von Mises-Fisher distributions takes up to 50 rounds of weighted expectation and maximisation from its
      parameters, so that each component stays near what it was.
    - A kernel density estimate of these rows takes the weights, and keeps the concentrations.
    - In a mixture of other measures each is fitted again, and the weights of the mixture are kept. On rows that the components have been
      fitted to, new weights would favour the components that follow these rows most closely.
    - Any other measure, such as the uniform one, stays as it is.

    Args:
        base: the base measure that was fitted to these rows.
        points: the rows, (n, d), as points of the space.
        weights: the non-negative weights of the rows, (n,), or None for equal weights. Weights of the first fit are replaced: give their
            product with those of a bootstrap.
        space: the space. Its base plays no part.

    Returns:
        The base measure, of the same kind.

    Raises:
        ValueError: when the rows are no points of the space, a weight is not allowed, or a kernel density estimate has other centres than
            the rows.

    >>> from dualebm.spaces import Euclidean
    >>> rows = np.array([[0.0], [2.0], [4.0]])
    >>> refit(fit_normal(rows), rows, [2, 1, 1], Euclidean(1)).mean
    (1.5,)
    """
    rows = points_of(points, space)
    return _again(base, rows, row_weights.shares_of("weights", weights, len(rows)))


def _again(base: BaseMeasure, rows: Rows, shares: Shares) -> BaseMeasure:
    if isinstance(base, Normal):
        return fit_normal(rows, shares)
    if isinstance(base, KernelBase):
        if np.shape(base.centres) != rows.shape or np.abs(np.asarray(base.centres) - rows).max() > SAME * max(1.0, np.abs(rows).max()):
            raise ValueError(f"base is {base!r}, whose centres are not the {len(rows)} rows of points; give the rows that it was fitted to")
        return KernelBase(base.centres, base.concentrations, shares)
    if not isinstance(base, MixtureBase):
        return base
    for kind, improve in ((Normal, improve_mixture), (VonMisesFisher, improve_directions)):
        if all(isinstance(component, kind) for component in base.components):
            return improve(base, rows, shares, ROUNDS, TOLERANCE)
    return MixtureBase(base.weights, [_again(component, rows, shares) for component in base.components])
