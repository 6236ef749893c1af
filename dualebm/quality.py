"""How near samples of a fitted model are to data: what `dualebm score --quality` says."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import stein
from dualebm.distances import energy_distance, median_distance, sliced_wasserstein
from dualebm.flows import langevin
from dualebm.kernels import RBF, squared_mmd
from dualebm.measures import Samples
from dualebm.model import Model

ROWS = 20_000
"""Rows that are compared, drawn at random of more: the time goes with rows times samples."""

PROJECTIONS = 500
"""Directions of the sliced Wasserstein distance."""

LABELS = {
    "mmd": "MMD (RBF kernel, bandwidth {bandwidth:.4g}, the median distance of the rows)",
    "energy_distance": "energy distance",
    "sliced_wasserstein": "sliced Wasserstein distance of order 2",
    "p_value": "kernel Stein test that the rows are of the model: KSD^2 {ksd:.3g}, p-value",
}
"""What is told, a line each, of the keys of `quality`; the last of spaces that have it."""

TESTED = 5000
"""Rows of the kernel Stein test, whose time goes with their square."""


def quality(
    key: Key[Array, ""], model: Model, points: Float[Array, "n d"], count: int, *, steps: int = 1000, name: str = "points"
) -> dict[str, float]:
    """Distances of `count` samples of the model to points of its space (`model.to_space`), at most 20 000 of them drawn at random.

    `mmd`, of a Gaussian kernel of the `bandwidth`; `energy_distance`; `sliced_wasserstein`, of order 2; all V-statistics, above 0 also
    where the laws agree; on spheres and in R^d the `ksd` (squared) of at most 5000 of the points from the model, with the kernel of the
    bandwidth, and the `p_value` of `stein.goodness_of_fit`, for which the points must be independent and not those trained on. The
    samples are those of `langevin.sample`, `steps` moves of the fit's particle step, with their `acceptance`;
    `samples` and `rows` are the counts. Raises ValueError where all points are equal.

    >>> from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU; from dualebm.spaces import Sphere
    >>> free = Model(Shallow(ReLU(), jnp.eye(3), jnp.zeros(3)), Sphere(3), False, None, None, None, 0.1)
    >>> found = quality(jax.random.key(0), free, Sphere(3).sample_base(jax.random.key(1), 500), 500, steps=10)
    >>> found["rows"], found["energy_distance"] < 0.02
    (500.0, True)
    """
    draw_key, chain_key, direction_key, sign_key = jax.random.split(key, 4)
    if points.shape[0] > ROWS:
        points = points[jax.random.choice(draw_key, points.shape[0], (ROWS,), replace=False)]
    rows = model.space.ambient(points)
    bandwidth = median_distance(rows, name=name)
    drawn, acceptance = langevin.sample(chain_key, model.energy, model.space, count, steps=steps, step=model.particle_step)

    @eqx.filter_jit
    def compare(drawn, rows):
        drawn, rows = Samples(drawn), Samples(rows)
        return {
            "mmd": jnp.sqrt(jnp.maximum(squared_mmd(RBF(bandwidth), drawn, rows), 0)),
            "energy_distance": energy_distance(drawn, rows),
            "sliced_wasserstein": sliced_wasserstein(direction_key, drawn, rows, projections=PROJECTIONS),
        }

    centre = jnp.mean(rows, axis=0, keepdims=True)  # what is common to all has no part in distances, but in their rounding
    found = compare(model.space.ambient(drawn) - centre, rows - centre) | {"acceptance": acceptance}
    told = {"samples": count, "rows": len(rows), "bandwidth": bandwidth, **found}
    if not model.space.periodic and len(points) > 1:
        test = stein.goodness_of_fit(sign_key, RBF(bandwidth), model.space, model.energy, points[:TESTED])
        told |= {"ksd": test.statistic, "p_value": test.p_value}
    return {name: float(value) for name, value in told.items()}


def told(found: dict[str, float]) -> list[str]:
    """Lines of what `quality` found.

    >>> found = dict(samples=10.0, rows=20.0, acceptance=0.5, mmd=0.1, bandwidth=1.0, energy_distance=0.2, sliced_wasserstein=0.3)
    >>> told(found)[0]
    '10 samples of the model (acceptance 0.500) beside 20 rows:'
    """
    head = "{samples:.0f} samples of the model (acceptance {acceptance:.3f}) beside {rows:.0f} rows:".format(**found)
    return [head, *(f"{label.format(**found)} = {found[name]:.4g}" for name, label in LABELS.items() if name in found)]
