"""An energy whose law, log Z and samples are known, for trainings of the tests."""

from typing import Any

import jax
import jax.numpy as jnp

from dualebm.energies.base import Energy


class Normal(Energy):
    """precision (x - mean)^2 / 2 in each coordinate, of the flat measure."""

    mean: Any
    precision: Any

    def __call__(self, x):
        return 0.5 * self.precision * jnp.sum((x - self.mean) ** 2, axis=1)

    def log_partition(self, space):
        return 0.5 * space.dimension * jnp.log(2 * jnp.pi / self.precision)

    def sample(self, key, space, count):
        return jax.random.normal(key, (count, space.dimension), self.mean.dtype) / jnp.sqrt(self.precision) + self.mean


def at_rest(key, space, dtype):
    return Normal(jnp.zeros((), dtype), jnp.ones((), dtype))
