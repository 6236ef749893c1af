"""Other estimators of a density, each tuned on the rows that it is trained on: a normal distribution, kernels, a normal mixture, a flow."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dualebm._internal import checks
from dualebm.auto import split
from dualebm.data.kernel_bases import deal
from dualebm.radii import FEW
from experiments.densities import Rows, Scored, Values

NAMES = ("gaussian", "kernel", "mixture", "flow")

BANDWIDTHS = tuple(np.geomspace(0.02, 1.5, 30).round(5).tolist())
"""The bandwidths that are tried, in standard deviations of a column."""

RELATIVE: Any = 1e-6
"""The relative error of the sums of kernels."""

FOLDS = 5
"""The folds of the cross-validation of a bandwidth."""

COMPONENTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24)
"""The numbers of components that are tried, as long as each has at least `ROWS_A_COMPONENT` d rows in the mean."""

ROWS_A_COMPONENT = 5
SHAPES = ("full", "diag")
"""The covariances that are tried, as scikit-learn names them."""


class Flow(NamedTuple):
    """The settings of a normalising flow.

    Attributes:
        kind: "coupling" (Dinh et al. 2017) or "autoregressive" (Papamakarios et al. 2017).
        knots: The knots of the rational quadratic splines (Durkan et al. 2019), or 0 for affine maps.
        layers: The number of layers.
        width: The number of hidden units of a layer's network.
        rate: The learning rate of Adam.
    """

    kind: str
    knots: int
    layers: int
    width: int
    rate: float


FLOWS = (
    Flow("coupling", 8, 4, 32, 5e-3), Flow("autoregressive", 8, 4, 32, 3e-3), Flow("autoregressive", 0, 4, 16, 3e-3),
)  # fmt: skip
"""The settings of a flow that are tried."""

NEWEST = 0.03
"""The weight of the newest parameters in the running average."""

BATCH, PATIENCE = 128, 30
"""The rows of a batch, and the epochs without a better validation that end the training."""


def whitened(train: Rows) -> tuple[Callable[[Rows], Rows], float]:
    """Returns the linear map that gives rows mean 0 and covariance 1, and the logarithm of its determinant.

    Args:
        train: The rows, (n, d).

    >>> map, log_determinant = whitened(np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 2.0])
    >>> bool(abs(log_determinant + np.log(2)) < 0.1)
    True
    """
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(train.T)))
    return lambda x: np.linalg.solve(factor, (x - train.mean(axis=0)).T).T, -float(np.sum(np.log(np.diag(factor))))


def gaussian(train: Rows, held: Rows) -> Scored:
    """Scores rows by the normal distribution of the mean and the covariance of the training rows.

    >>> rows = np.random.default_rng(0).normal(size=(400, 1))
    >>> bool(abs(gaussian(rows, np.zeros((1, 1)))[0][0] + 0.92) < 0.05)
    True
    """
    map, log_determinant = whitened(train)
    z = map(held)
    return log_determinant - 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1), {}


def kernel(train: Rows, held: Rows) -> Scored:
    """Scores rows by a kernel density estimate, normal kernels of one bandwidth, which 5-fold cross-validation chooses.

    The kernels are round in the standardised columns, or have the covariance of the rows up to a factor, whichever validates better.

    Args:
        train: The rows of the fit, (n, d).
        held: The rows to score, (k, d).
    """
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KernelDensity

    best = None
    for shape, (map, log_determinant) in {"round": (lambda x: x, 0.0), "covariance": whitened(train)}.items():
        search = GridSearchCV(
            KernelDensity(rtol=RELATIVE), {"bandwidth": BANDWIDTHS}, cv=KFold(FOLDS, shuffle=True, random_state=0),
        ).fit(map(train))  # fmt: skip
        validated = search.best_score_ / (len(train) / FOLDS) + log_determinant
        if best is None or validated > best[0]:
            values = search.best_estimator_.score_samples(map(held)) + log_determinant
            best = validated, values, dict(shape=shape, bandwidth=float(search.best_params_["bandwidth"]))
    assert best
    return best[1:]


def mixture(train: Rows, held: Rows) -> Scored:
    """Scores rows by a mixture of normal distributions, whose number and kind of covariances have the smallest BIC.

    Args:
        train: The rows of the fit, (n, d).
        held: The rows to score, (k, d).

    >>> mixture(np.random.default_rng(0).normal(size=(60, 2)), np.zeros((1, 2)))[1]["components"]
    1
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    counts = [count for count in COMPONENTS if count == 1 or count * ROWS_A_COMPONENT * train.shape[1] <= len(train)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            GaussianMixture(count, covariance_type=shape, random_state=0, n_init=2).fit(train)  # pyright: ignore[reportArgumentType]
            for shape in SHAPES for count in counts
        ]  # fmt: skip
    best = min(fits, key=lambda fit: fit.bic(train))
    return best.score_samples(held), dict(components=best.n_components, shape=best.covariance_type)  # pyright: ignore[reportAttributeAccessIssue]


# -- The flow ----------------------------------------------------------------------------------------


def _start(key, dimension: int, flow: Flow) -> Any:
    """Returns a flow before its training. Raises ImportError where flowjax is missing."""
    checks.package("flowjax", "the flow", "'dualebm[experiments]'")
    from flowjax import bijections, distributions, flows

    build = dict(coupling=flows.coupling_flow, autoregressive=flows.masked_autoregressive_flow)[flow.kind]
    spline = bijections.RationalQuadraticSpline(knots=flow.knots, interval=4) if flow.knots else None
    return build(
        key, base_dist=distributions.Normal(jnp.zeros(dimension)), transformer=spline, flow_layers=flow.layers, nn_width=flow.width,
    )  # fmt: skip


def _mean(parameters, static, x):
    """Returns the mean log density of rows."""
    import paramax

    return paramax.unwrap(eqx.combine(parameters, static)).log_prob(x).mean()


def _adam(rate):
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate))


@eqx.filter_jit
def _epoch(keys, averages, parameters, states, static, rate, x, y, batch):
    """Moves each flow by an epoch on its rows x (k, n, d), and returns the mean log density of its rows y (k, m, d) by the average."""

    def moved(key, average, parameters, state, x, y):
        def step(carry, rows):
            average, parameters, state = carry
            gradient = jax.grad(lambda at: -_mean(at, static, rows))(parameters)
            updates, state = _adam(rate).update(gradient, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            return (optax.incremental_update(parameters, average, NEWEST), parameters, state), None

        order = jax.random.permutation(key, len(x))[: len(x) // batch * batch].reshape(-1, batch)
        (average, parameters, state), _ = jax.lax.scan(step, (average, parameters, state), x[order])
        return average, parameters, state, _mean(average, static, y)

    return jax.vmap(moved)(keys, averages, parameters, states, x, y)


def _trained(seed: int, flow: Flow, x, y, epochs: int, patience: int) -> tuple[Any, Values]:
    """Trains a flow on each group of rows x (k, n, d), and returns the first flow and the log density of y (k, m, d) by epochs.

    The flow is the running average of the parameters. The log density is the mean over rows and groups. The training ends after
    `epochs`, or `patience` of them without a larger log density.
    """
    import paramax

    is_leaf = lambda leaf: isinstance(leaf, paramax.NonTrainable)  # noqa: E731
    one = eqx.partition(_start(jax.random.key(seed), x.shape[2], flow), eqx.is_inexact_array, is_leaf=is_leaf)
    averages = parameters = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(x)), one[0])
    states, rate = jax.vmap(_adam(flow.rate).init)(parameters), jnp.float32(flow.rate)
    batch, values = min(BATCH, max(x.shape[1] // 4, 1)), []
    for number in range(epochs):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), len(x))
        averages, parameters, states, validated = _epoch(keys, averages, parameters, states, one[1], rate, x, y, batch)
        values.append(float(validated.mean()))
        if number - np.argmax(values) >= patience:
            break
    return eqx.combine(jax.tree.map(lambda leaf: leaf[0], averages), one[1]), np.array(values)


def flow(train: Rows, held: Rows, *, seed: int, epochs: int) -> Scored:
    """Scores rows by a normalising flow. Validation on rows of the fit chooses its settings and the number of its epochs.

    The rows are whitened and dealt to 5 folds. Where they are few, below 600, each fold validates, and else one, as in `auto.fit`. The
    chosen flow is trained on all rows, as many epochs.

    Args:
        train: The rows of the fit, (n, d), d at least 2.
        held: The rows to score, (k, d).
        seed: The seed of the starts, of the batches and of the folds.
        epochs: The largest number of epochs.
    """
    map, log_determinant = whitened(train)
    rows, fold = jnp.asarray(map(train), jnp.float32), deal(len(train), FOLDS, seed)
    pairs = [split(fold, number) for number in range(FOLDS if len(train) < FEW else 1)]
    x, y = (jnp.stack([rows[pair[i]] for pair in pairs]) for i in (0, 1))
    curves = [_trained(seed, setting, x, y, epochs, PATIENCE)[1] for setting in FLOWS]
    best = int(np.argmax([curve.max() for curve in curves]))
    count = int(np.argmax(curves[best])) + 1
    final, _ = _trained(seed, FLOWS[best], rows[None], y[:1], count, count)
    values = np.asarray(final.log_prob(jnp.asarray(map(held), jnp.float32)), float) + log_determinant
    return values, dict(setting=list(FLOWS[best]), epochs=count, validated=[float(curve.max()) + log_determinant for curve in curves])


def rival(name: str, seed: int, epochs: int) -> tuple[Callable[[Rows, Rows], Scored], dict[str, Any]]:
    """Returns a rival, a function of the rows of the fit and the rows to score, and what decides its numbers beside them, as JSON.

    >>> rival("mixture", 0, 10)[1]
    {'components': (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24), 'rows_a_component': 5, 'shapes': ('full', 'diag')}
    """
    match name:
        case "gaussian":
            return gaussian, {}
        case "kernel":
            return kernel, dict(bandwidths=BANDWIDTHS, folds=FOLDS)
        case "mixture":
            return mixture, dict(components=COMPONENTS, rows_a_component=ROWS_A_COMPONENT, shapes=SHAPES)
        case _:
            decides = dict(flows=FLOWS, epochs=epochs, batch=BATCH, newest=NEWEST, patience=PATIENCE, folds=FOLDS)
            return partial(flow, seed=seed, epochs=epochs), decides
