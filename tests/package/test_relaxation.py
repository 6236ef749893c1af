"""The change of the mean energy of samples under moves: its error beside its spread, and the warning of `certify`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data import targets
from dualebm.duality_gap import certify
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import mean_energy
from dualebm.measures import Samples
from dualebm.relaxation import DOUBTFUL, relaxation


@pytest.fixture(scope="module")
def known():
    """A teacher, data, an energy of 0.7 of its charges, samples that are of the base measure, and the energy's mean over them and under its
    own measure."""
    teacher = targets.teacher("s2_bimodal")
    data, _ = targets.sample(jax.random.key(0), teacher, 500)
    energy = Shallow(ReLU(), teacher.energy.positions, jnp.array(0.7 * np.asarray(teacher.energy.coefficients)))

    @jax.jit
    def of(key):
        base = teacher.space.sample_base(key, 4000, jnp.float32)
        return base, jnp.mean(energy(base)), mean_energy(energy, teacher.quadrature())

    base, *means = of(jax.random.key(1))
    return teacher, data, energy, Samples(base), [float(mean) for mean in means]


def test_the_change_of_the_mean_energy_of_samples_of_the_model_is_within_its_error(known):
    """Over 128 keys: mean 0 and variance 1 within 5 sigma, with samples of their own for each."""
    teacher = known[0]

    def one(key):
        first, second = jax.random.split(key)
        base = teacher.space.sample_base(first, 1000, jnp.float32)
        found = relaxation(second, teacher.energy, teacher.space, Samples(base, -teacher.energy(base)), moves=10)
        return (found.after - found.before) / found.error

    scores = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(4), 128)))
    assert abs(scores.mean()) < 5 / np.sqrt(128) and abs(scores.var() - 1) < 5 * np.sqrt(2 / 128)


@pytest.mark.heavy
def test_samples_that_are_not_relaxed_are_warned_of(known):
    """With both means; not under jit, where they are not known."""
    teacher, data, energy, model, means = known
    arguments = (jax.random.key(3), energy, teacher.space, data, 10.0)
    with pytest.warns(UserWarning, match="model is not relaxed") as caught:
        found = certify(*arguments, model=model, starts=4, steps=4)
    change = eqx.filter_jit(relaxation)(jax.random.key(5), energy, teacher.space, model)
    before, after = (float(word) for word in str(caught[0].message).split("from ")[1].split(" under")[0].split(" to "))
    assert before == pytest.approx(means[0], abs=1e-3)
    assert after == pytest.approx(float(change.after), abs=5 * float(change.error)) and abs(after - before) > DOUBTFUL * float(change.error)
    assert after == pytest.approx(means[1], abs=0.1)
    jitted = jax.jit(lambda key: certify(key, *arguments[1:], model=model, starts=4, steps=4).gap)(jax.random.key(3))  # without a warning
    assert float(jitted) == pytest.approx(float(found.gap), abs=3 * float(found.error))  # rounding moves a short search to other maxima
