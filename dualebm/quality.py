"""How near samples of a fitted model are to data, as `dualebm score --quality` prints it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import stein
from dualebm._internal.keys import check_key
from dualebm.distances import energy_distance, median_distance, sliced_wasserstein
from dualebm.kernels import RBF, squared_mmd
from dualebm.measures import Samples
from dualebm.model import Model
from dualebm.sampling import draw
from dualebm.settings import Count, checked

ROWS = 20_000
"""The number of rows that are compared, drawn at random where more are given. The time grows with rows times samples."""

PROJECTIONS = 500
"""The number of directions of the sliced Wasserstein distance."""

LABELS = {
    "mmd": "MMD (RBF kernel, bandwidth {bandwidth:.4g}, the median distance of the rows)",
    "energy_distance": "energy distance",
    "sliced_wasserstein": "sliced Wasserstein distance of order 2",
    "p_value": "kernel Stein test that the rows are of the model: KSD^2 {ksd:.3g}, p-value",
}
"""One printed line per key of `quality`. The last key exists only for spaces with a Stein kernel."""

TESTED = 5000
"""The number of rows in the kernel Stein test. The time grows with its square."""


@checked
def quality(
    key: Key[Array, ""], model: Model, points: Float[Array, "n d"], count: Count, *, steps: Count | None = None, name: str = "points"
) -> dict[str, float]:
    """Measure how near samples of a model are to data, by distances between samples and by a test of fit.

    Args:
        key: the random key.
        model: the fitted model. Its samples are those of `sampling.draw`.
        points: the data as points of the model's space (see `preparation.to_space`), (n, d). At most 20 000 of them, drawn at random,
            are used.
        count: the number of samples of the model.
        steps: the number of moves of each sample. None for weighted draws where they suffice.
        name: the name of the points in the error.

    Returns:
        Numbers by name. `samples` and `rows` are the counts, and `bandwidth` the median distance of the rows. `acceptance`, where
        samples are ends of chains, is the mean acceptance rate of moves. `mmd`, of the Gaussian kernel of that bandwidth,
        `energy_distance` and `sliced_wasserstein`, of order 2, are V-statistics, above 0 also where the laws agree. On spheres and
        in R^d, `ksd` is KSD^2 of at most 5000 of the points from the model, with the same kernel, and `p_value` that of
        `stein.goodness_of_fit`. The p-value holds only for independent points that the model was not trained on.

    Raises:
        ValueError: when all points are equal, and when the base measure of the space cannot be sampled.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> from dualebm.data.preparation import Preparation
    >>> free = Model(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Preparation(Sphere(3)), None, 0.1)
    >>> results = quality(jax.random.key(0), free, Sphere(3).sample_base(jax.random.key(1), 500), 500, steps=10)
    >>> results["rows"], results["energy_distance"] < 0.02
    (500.0, True)
    """
    check_key(key)
    draw_key, chain_key, direction_key, sign_key = jax.random.split(key, 4)
    space = model.preparation.space
    if points.shape[0] > ROWS:
        points = points[jax.random.choice(draw_key, points.shape[0], (ROWS,), replace=False)]
    rows = space.ambient(points)
    bandwidth = median_distance(rows, name=name)
    drawn, _, acceptance = draw(chain_key, model, count, steps=steps)

    @eqx.filter_jit
    def compare(drawn, rows):
        drawn, rows = Samples(drawn), Samples(rows)
        return {
            "mmd": jnp.sqrt(jnp.maximum(squared_mmd(RBF(bandwidth), drawn, rows), 0)),
            "energy_distance": energy_distance(drawn, rows),
            "sliced_wasserstein": sliced_wasserstein(direction_key, drawn, rows, projections=PROJECTIONS),
        }

    centre = jnp.mean(rows, axis=0, keepdims=True)  # a common offset leaves distances as they are but adds to their rounding
    results = {"samples": count, "rows": len(rows), "bandwidth": bandwidth, **compare(space.ambient(drawn) - centre, rows - centre)}
    if acceptance is not None:
        results["acceptance"] = acceptance
    if not space.periodic and len(points) > 1:
        test = goodness_of_fit(sign_key, model, points, bandwidth)
        results |= {"ksd": test.statistic, "p_value": test.p_value}
    return {name: float(value) for name, value in results.items()}


@checked
def goodness_of_fit(key: Key[Array, ""], model: Model, points: Float[Array, "n d"], bandwidth: Any = None) -> stein.GoodnessOfFit:
    """Test whether rows are of a model, by `stein.goodness_of_fit` with the Gaussian kernel. It is for spheres and R^d.

    Args:
        key: the random key of the signs.
        model: the fitted model.
        points: rows that the model was not trained on, as points of its space, (n, d). The first 5000 are tested.
        bandwidth: the bandwidth of the kernel. None for the median distance of the rows.

    Returns:
        The statistic KSD^2 and its p-value.

    Raises:
        ValueError: when the rows are fewer than two or all equal, and on a torus.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> from dualebm.data.preparation import Preparation
    >>> free = Model(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Preparation(Sphere(3)), None, 0.1)
    >>> float(goodness_of_fit(jax.random.key(0), free, jnp.eye(3)[jnp.arange(60) % 2]).p_value) < 0.01
    True
    """
    check_key(key)
    space, points = model.preparation.space, points[:TESTED]
    if bandwidth is None:
        bandwidth = median_distance(space.ambient(points))
    return stein.goodness_of_fit(key, RBF(bandwidth), space, model.energy, points)


def summary(results: dict[str, float]) -> list[str]:
    """Return the results of `quality` as lines of text. The first has the counts, and each other line one distance or test.

    Args:
        results: the numbers by name.

    Returns:
        The lines.

    >>> results = dict(samples=10.0, rows=20.0, acceptance=0.5, mmd=0.1, bandwidth=1.0, energy_distance=0.2, sliced_wasserstein=0.3)
    >>> summary(results)[0]
    '10 samples of the model (acceptance 0.500) beside 20 rows:'
    """
    how = f"acceptance {results['acceptance']:.3f}" if "acceptance" in results else "weighted draws of the base measure"
    head = f"{results['samples']:.0f} samples of the model ({how}) beside {results['rows']:.0f} rows:"
    return [head, *(f"{label.format(**results)} = {results[name]:.4g}" for name, label in LABELS.items() if name in results)]
