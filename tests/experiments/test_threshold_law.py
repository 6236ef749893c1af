"""The law beside means over Gaussian pairs and a toy measurement, and bad inputs."""

import math

import jax
import numpy as np
import pytest

from experiments import threshold_law as experiment
from experiments.threshold_law import (
    HALF,
    NEVER,
    PAPER,
    Settings,
    checked,
    crossing,
    fraction_after,
    noise_kept,
    populations,
)


@pytest.mark.parametrize(("k", "h"), [(1, 0.3), (3, 0.2), (math.inf, 0.3)])
def test_the_law_is_that_of_gaussian_pairs(k, h):
    """A_k = h/4 (x_0^2 - x_k^2) in one dimension, by two-dimensional Gauss-Hermite quadrature of the chain's own law."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    r = 0.0 if k == math.inf else (1 - h) ** k
    spread = 2 * h * sum((1 - h) ** (2 * i) for i in range(500 if k == math.inf else k))  # of the noise that X_k holds
    x, z = np.meshgrid(nodes, nodes)
    p = np.outer(weights, weights) / (2 * np.pi)
    a = h / 4 * (x**2 - (r * x + np.sqrt(spread) * z) ** 2)
    first, second = np.sum(p * np.exp(a)), np.sum(p * np.exp(2 * a))
    assert first == pytest.approx(1, abs=1e-6)  # log Z does not move
    assert fraction_after(k, 1, h) == pytest.approx(1 / second, rel=1e-5)
    assert fraction_after(k, 7, h) == pytest.approx(second**-7, rel=1e-4)


def test_the_first_order():
    """d h^2 is held and h falls."""
    assert fraction_after(math.inf, 10_000, 0.01) == pytest.approx(experiment.first_order(10_000, 0.01), rel=0.01)
    assert experiment.first_order(4, 1.0) == pytest.approx(math.exp(-1))
    assert fraction_after(math.inf, 1, 1.0) == 0


def test_crossings_and_what_they_keep():
    k = crossing(PAPER, 1000, 0.03, 60)
    assert k is not None and fraction_after(k, 1000, 0.03) < PAPER <= fraction_after(k - 1, 1000, 0.03)
    noise, count = noise_kept(PAPER, 1000, 0.03, 12 * k + 1)
    assert count == 12
    variance = 12 * (1 / fraction_after(k, 1000, 0.03) - 1) + 1 / fraction_after(1, 1000, 0.03) - 1
    assert noise == pytest.approx(math.sqrt(variance))
    assert noise_kept(HALF, 10, 0.1, 50) == (pytest.approx(math.sqrt(1 / fraction_after(50, 10, 0.1) - 1)), 0)


def test_a_toy_measurement():
    """In ten dimensions at h = 0.3: a threshold of 0.95 resamples in nearly every step, and 1e-30 never."""
    keys = jax.random.split(jax.random.key(0), 8)
    weights, off, never = populations(keys, 10, 500, 0.3, NEVER, 10)
    _, kept, often = populations(keys, 10, 500, 0.3, PAPER, 10)
    assert not np.any(never) and np.all(often >= 4)
    law = fraction_after(10, 10, 0.3)
    assert experiment.effective_fraction(np.asarray(weights, float).ravel()) == pytest.approx(law, abs=0.05)
    noise, _ = noise_kept(PAPER, 10, 0.3, 10)
    assert 0.3 < np.sqrt(np.mean(np.asarray(kept, float) ** 2) * 500) / noise < 2
    assert np.sqrt(np.mean(np.asarray(off, float) ** 2) * 500) < 2 * math.sqrt(1 / law - 1)


def test_the_figure():
    settings = checked(Settings(dimensions=(2,), steps=(0.1, 0.3)))
    row = dict(dimension=2, measured=0.9, paper_noise=0.1, paper_noise_law=0.1, half_noise=0.1, half_noise_law=0.1)
    panels = experiment.figure_of([row | dict(step=h) for h in (0.1, 0.3)], settings).axes
    assert [panel.get_title() for panel in panels] == ["", "threshold 1/1.05", "threshold 1/2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dimensions=(0,)), "dimensions is 0"),
        (dict(steps=(1.5,)), "steps is 1.5"),
        (dict(walkers=5), "walkers is 5; it must be a multiple of 2"),
        (dict(seeds=1), "seeds is 1"),
        (dict(time=0.0), "time is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        checked(Settings(**changes))
