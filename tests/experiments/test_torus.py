"""The experiment on a circle: F2 solved beside its optimality conditions, the errors beside sums, and all methods from end to end."""


import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest

from dualebm.kernels import BumpKernel
from experiments.torus import exact, reading
from experiments.torus.__main__ import main
from experiments.torus.exact import best_on, density, errors, nodes, sample, teacher
from experiments.torus.runs import Settings, completed, rates_of


def test_errors_beside_integrals():
    """Of another energy, by adaptive quadrature."""
    f = lambda x: 0.5 * np.cos(2 * np.pi * x) + 0.2 * np.sin(4 * np.pi * x)  # noqa: E731
    integral = lambda g: quad(g, 0, 1, limit=200)[0]  # noqa: E731
    theirs = lambda x: float(teacher(np.array([x]))[0])  # noqa: E731
    ours_z, z = integral(lambda x: np.exp(-f(x))), integral(lambda x: np.exp(-theirs(x)))
    middle = integral(lambda x: f(x) - theirs(x))
    found = errors(np.stack([f(nodes()), teacher(nodes())]))
    ours, p = lambda x: np.exp(-f(x)) / ours_z, lambda x: np.exp(-theirs(x)) / z
    expected = {
        "energy": np.sqrt(integral(lambda x: (f(x) - theirs(x) - middle) ** 2)),
        "density": integral(lambda x: abs(ours(x) - p(x))),
        "kl": integral(lambda x: p(x) * np.log(p(x) / ours(x))),
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=2e-3 if name == "density" else 1e-6)  # |p - q| has kinks
        assert found[name][1] == pytest.approx(0, abs=1e-12)


def test_samples_are_of_the_teacher():
    x = np.asarray(sample(3, 20_000).points)[:, 0]
    fine = nodes(4096)
    cumulative = np.append(0, np.cumsum(density(teacher(fine)))) / density(teacher(fine)).sum()
    assert kstest(x, lambda y: np.interp(y, np.append(fine, 1), cumulative)).pvalue > 1e-3
    assert np.array_equal(x, np.asarray(sample(3, 20_000).points)[:, 0])


@pytest.mark.parametrize(("radius", "data"), [(10.0, None), (10.0, 400), (3.0, 400)])
def test_the_best_of_the_ball_is_optimal(radius, data):
    """Its energy is R (E_model k - E_data k) / MMD: the fixed point of the flow, with the kernel in place of features."""
    samples = None if data is None else sample(0, data)
    found = best_on(samples, radius)
    x, kernel = nodes(), BumpKernel(exact.SPACE, exact.CONCENTRATION)
    gram = lambda a, b: np.asarray(kernel(jnp.float32(a[:, None]), jnp.float32(b[:, None])), float)  # noqa: E731
    points, weights = x, density(teacher(x)) / len(x)
    if samples is not None:
        points = np.asarray(samples.points)[:, 0]
        weights = np.full(len(points), 1 / len(points))
    model = density(found.energy) / len(x)
    inner = [model @ gram(x, x) @ model, weights @ gram(points, points) @ weights, model @ gram(x, points) @ weights]
    assert np.sqrt(inner[0] + inner[1] - 2 * inner[2]) == pytest.approx(found.discrepancy, rel=1e-3)
    fixed = radius * (gram(x, x) @ model - gram(x, points) @ weights) / found.discrepancy
    np.testing.assert_allclose(fixed, found.energy, atol=5e-3)


def test_the_squared_penalty_has_the_same_optimum():
    assert rates_of("squared").radius == pytest.approx(exact.BETA / best_on().discrepancy)
    assert sum(map(abs, exact.CHARGES)) == exact.BETA
    assert exact.bumps(nodes(), [0.5]).mean() == pytest.approx(float(np.exp(-10.0) * np.i0(10.0)), rel=1e-12)




def test_medians():
    assert reading.medians_of([{"kl": 3.0}, {"kl": 1.0}, {"kl": 2.0}]) == {"kl": 2.0, "least_kl": 1.0, "largest_kl": 3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "preset is 'papr'"),
        (dict(steps=15), "steps is 15; it must be a multiple of 10"),
        (dict(n=0), "n is 0"),
        (dict(seeds=0), "seeds is 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        completed(Settings(**changes))


def test_odd_particles_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="particles is 5; it must be even"):
        main(Settings(particles=5, out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
