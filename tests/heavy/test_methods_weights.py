"""The weights of data have a part in every method, and methods whose particles are copies of the data refuse them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.energies.networks import MLP
from dualebm.measures import Samples
from dualebm.methods import registry
from dualebm.spaces import Sphere
from dualebm.training.simulate import start, step

pytestmark = pytest.mark.heavy

SMALL = dict(
    neurons=8, features=8, particles=20, walkers=20, chains=20, draws=64, batch=32, cells=64, neuron_cells=64, critics=4, start=MLP(width=8)
)
COPIES = ("particles", "walkers")


def made(kind, **changes):
    names = {field.name for field in dataclasses.fields(kind)}
    settings = {name: value for name, value in SMALL.items() if name in names} | changes
    return kind(Sphere(2), **settings)


@pytest.mark.parametrize("name", sorted(registry.by_name()))
def test_the_weights_of_data_have_a_part(name):
    kind = registry.by_name()[name]
    points = np.random.default_rng(0).normal(size=(40, 2))
    points = jnp.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), "float32")
    heavy = jnp.where(points[:, 0] > 0, 0.0, -8.0)
    method, energies = made(kind), []
    for data in (Samples(points), Samples(points, heavy)):
        rates = method.rates_for(data)
        method.check(rates, data)
        state = start(jax.random.key(1), method, rates, data)
        for number in range(2):
            state, _ = step(jax.random.key(number), method, state, rates, data)
        energies.append(np.asarray(method.energy(state, rates, data)(points)))
    assert np.isfinite(energies).all() and np.abs(energies[0] - energies[1]).max() > 1e-6


@pytest.mark.parametrize("name", sorted(registry.by_name()))
def test_copies_of_weighted_data_are_refused(name):
    kind, data = registry.by_name()[name], Samples(jnp.eye(2), jnp.array([0.0, 1.0]))
    copied = [field.name for field in dataclasses.fields(kind) if field.name in COPIES and field.default is None]
    for setting in copied:
        method = made(kind, **{setting: None})
        with pytest.raises(ValueError, match=f"{setting} is None, which is copies of the data, and the data have weights"):
            method.check(method.rates, data)
