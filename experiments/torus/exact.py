"""The circle, on which everything is computed: the teacher, the errors of an energy, and the best of the F2 ball."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dualebm.measures import Samples
from dualebm.spaces import Torus

SPACE, CONCENTRATION, BETA = Torus(1), 10.0, 10.0
POSITIONS, CHARGES = (0.1, 0.3, 0.55, 0.8), (-4.0, -3.0, -2.0, 1.0)
GRID = 256
"""Points on which energies are recorded, and F2 is solved: at the 128 waves that they hold, bumps have no weight left."""

ERRORS = {"energy": "L2 error of the energy", "density": "L1 error of the density", "kl": "KL(teacher ∥ student) (nat)"}

def nodes(count: int = GRID) -> np.ndarray:
    """Returns equally spaced points, (count,)."""
    return np.arange(count) / count


def bumps(x: np.ndarray, centres) -> np.ndarray:
    """Returns exp(a cos 2 pi (x_i - c_j) - a), (n, m).

    >>> bumps(np.array([0.25]), [0.25]).tolist()
    [[1.0]]
    """
    return np.exp(CONCENTRATION * (np.cos(2 * np.pi * (np.asarray(x)[:, None] - np.asarray(centres)[None])) - 1))


def teacher(x: np.ndarray) -> np.ndarray:
    """Returns f* at points (n,)."""
    return bumps(x, POSITIONS) @ np.array(CHARGES)


def density(energy: np.ndarray) -> np.ndarray:
    """Returns exp(-f) / Z at equally spaced points, along the last axis."""
    weights = np.exp(energy.min(axis=-1, keepdims=True) - energy)
    return weights / weights.mean(axis=-1, keepdims=True)


def sample(seed: int = 0, n: int = 1000) -> Samples:
    """Draws n points of the teacher, by its distribution function at 65536 points."""
    p = density(teacher((np.arange(2**16) + 0.5) / 2**16))
    below = np.append(0, np.cumsum(p)) / p.sum()
    drawn = np.interp(np.random.default_rng(seed).uniform(size=n), below, np.arange(2**16 + 1) / 2**16)
    return Samples(jnp.asarray(drawn[:, None] % 1, jnp.float32))


def errors(energy: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the errors, by the names of `ERRORS`, of energies at `nodes()` along the last axis.

    >>> {name: float(value.round(6)) for name, value in errors(teacher(nodes()) + 3).items()}
    {'energy': 0.0, 'density': 0.0, 'kl': 0.0}
    """
    energy = np.asarray(energy, np.float64)
    theirs = teacher(nodes(energy.shape[-1]))
    difference = energy - theirs
    difference = difference - difference.mean(axis=-1, keepdims=True)
    p, ours = density(theirs), density(energy)
    with np.errstate(divide="ignore"):
        kl = np.mean(p * np.log(p / ours), axis=-1)
    return {"energy": np.sqrt(np.mean(difference**2, axis=-1)), "density": np.mean(np.abs(p - ours), axis=-1), "kl": kl}


class Best(NamedTuple):
    """Of the F2 ball: the energy at `nodes()`, and the MMD of its model to the data."""

    energy: np.ndarray
    discrepancy: float


def best_of_ball(observed: np.ndarray, radius: float, iterations: int = 3000) -> Best:
    """Returns the energy of the F2 ball that is likeliest on data of which E_data phi at `nodes()` is `observed`.

    Projected ascent of -(h, observed) - log mean exp(-f), f = phi h / K, with the momentum of Nesterov, which starts afresh where it points
    the other way; its step is 1 / k(x, x), the largest curvature.
    """
    x = nodes(len(observed))
    phi = bumps(x, x)
    step = 1 / np.mean(phi[0] ** 2)
    h, ahead, t = np.zeros(len(x)), np.zeros(len(x)), 1.0
    witness = lambda h: phi.T @ density(phi @ h / len(x)) / len(x) - observed  # noqa: E731
    for _ in range(iterations):
        moved = ahead + step * witness(ahead)
        moved *= min(1, radius / np.sqrt(np.mean(moved**2)))
        if (ahead - moved) @ (moved - h) > 0:
            t = 1.0
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        ahead, h = moved + (before - 1) / t * (moved - h), moved
    return Best(phi @ h / len(x), float(np.sqrt(np.mean(witness(h) ** 2))))


def best_on(data: Samples | None = None, radius: float = BETA) -> Best:
    """Returns `best_of_ball` for data, or for the teacher itself."""
    x = nodes()
    observed = bumps(x, x).T @ density(teacher(x)) / len(x) if data is None else bumps(np.asarray(data.points)[:, 0], x).mean(axis=0)
    return best_of_ball(observed, radius)
