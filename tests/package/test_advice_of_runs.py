"""A run that diverges says what to change, and what cannot run is refused before anything is written."""

import dataclasses
import inspect
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from dualebm.base_families import VonMisesFisher
from dualebm.base_measures import Gaussian
from dualebm.energies.base import Energy
from dualebm.energies.networks import MLP
from dualebm.features import FeatureMap
from dualebm.measures import Samples
from dualebm.methods.base import Divergence
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.dual import Dual
from dualebm.methods.jarzynski import FIXED
from dualebm.metrics import Acceptance
from dualebm.spaces import Euclidean, Sphere, Torus
from dualebm.training import run as runs
from dualebm.training.run import Diverged

SPHERE, KEY = Sphere(3), jax.random.key(0)
DATA = Samples(jnp.array([[1.0, 0, 0], [0, 0.6, 0.8], [0, 1.0, 0], [0.6, 0, -0.8]]))
BARE_RUN = inspect.unwrap(runs.run)  # without the tests' own check of annotations, which comes first


def run(method, rates=None, data=DATA, **changes):
    rates = method.rates if rates is None else rates
    return BARE_RUN(KEY, method, rates, data, **dict(steps=4, every=2, metrics={}, progress=False) | changes)


DUAL = Dual(SPHERE, neurons=4)


def fails(*arguments):
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: Dual("sphere"), "space is 'sphere'; it must be an object of Space"),
        (lambda out: Dual([3]), "space is [3]; it must be an object of Space"),
        (lambda out: Gaussian("wide"), "scale is 'wide'; it must be a positive number"),
        (lambda out: Torus(1, "x"), "period is 'x'; it must be a positive number"),
        (lambda out: VonMisesFisher([1.0, 0.0], None), "concentration is None; it must be a finite number of at least 0"),
        (lambda out: Dual(Sphere), "space is the class Sphere; it must be an object of Space, such as Sphere(...)"),
        (lambda out: Contrastive(SPHERE, MLP), "start is the class MLP; it must be an object of MLP, ConvNet, Boltzmann"),
        (lambda out: BARE_RUN(KEY, Dual, 3, DATA, steps=4, every=2, metrics={}), "method is <class 'dualebm.methods.dual.Dual'>"),
        (lambda out: run(DUAL, folder=out, metrics=["kl"]), "metrics is ['kl']; it must be a dictionary of functions"),
        (lambda out: run(DUAL, folder=out, metrics={1: Acceptance()}), "metrics has the name 1; it must be an identifier"),
        (lambda out: run(DUAL, folder=out, metrics={"kl": "kl"}), "metrics['kl'] is 'kl'; it must be a function metric(key, iterate)"),
        (lambda out: run(DUAL, folder=out, metrics={"kl": Acceptance}), "metrics['kl'] is <class"),
        (lambda out: run(DUAL, folder=out, metrics={"kl": fails}), "fails at a key and an `Iterate`, which it must take (KeyError"),
        (lambda out: run(DUAL, folder=out, metrics={"kl": lambda key, iterate: "x"}), "returns a str; it must return an array of numbers"),
        (lambda out: run(DUAL, folder=out, schedule="slow"), "schedule is 'slow'; it must be a function (step, rates) -> rates, or None"),
        (lambda out: run(DUAL, folder=out, schedule=fails), "schedule fails at a step and the rates, which it must take as"),
        (lambda out: run(DUAL, folder=out, schedule=lambda step, rates: 0.1), "it must return DualRates of numbers"),
        (
            lambda out: run(DUAL, folder=out, schedule=lambda step, rates: rates._replace(radius=jnp.ones(2))),
            "'radius': (2,)}; it must return DualRates of numbers",
        ),
        (lambda out: run(DUAL, folder=out, callback=3), "callback is 3; it must be a function callback(results), or None"),
        (lambda out: run(DUAL, folder=3), "folder is 3; it must be a path, or None"),
        (lambda out: run(DUAL, folder=out, state=3), "state is 3; it must be a state of Dual"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(tmp_path / "run")
    assert not list(tmp_path.iterdir())


@dataclasses.dataclass(frozen=True)
class Mine(FeatureMap):
    """A feature of a user's, of one point and one parameter."""

    function: Callable

    def parameter_space(self, space):
        return space

    def __call__(self, x, theta):
        return jax.vmap(jax.vmap(self.function, (None, 0)), (0, None))(x, theta)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, theta: jnp.where(x[0] > 0.9, jnp.nan, x @ theta), "feature is nan or its gradient is not finite at the point [1."),
        (lambda x, theta: jnp.sqrt(jnp.abs(x[0])) + x @ theta, "or its gradient is not finite at the point [0.0, 0.6"),
        (lambda x, theta: x * theta, "which returns float32 of shape (4, 4, 3) at points (4, 3)"),
        (lambda x, theta: (x @ theta > 0).astype(int), "which returns int32 of shape (4, 4)"),
        (fails, "which fails at points (4, 3) of Sphere(dimension=3, base=Uniform()) (KeyError: 'mine')"),
    ],
)  # fmt: skip
def test_a_feature_that_is_not_allowed_is_refused(tmp_path, function, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(Dual(SPHERE, feature=Mine(function), neurons=4), folder=tmp_path / "run")
    assert not list(tmp_path.iterdir())


class Wall(Energy):
    """U(x) = w x_1, and NaN where x_1 > 0.9. Data beyond the first four, which are checked, may lie there."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.where(x[:, 0] > 0.9, jnp.nan, self.weight * x[:, 0])


def wall(key, space, dtype):
    return Wall(jnp.ones((), dtype))


def test_a_particle_that_stays_where_the_energy_is_nan_is_a_divergence():
    data = Samples(jnp.concatenate([DATA.points[1:], DATA.points[1:2], jnp.array([[1.0, 0, 0]])]))
    method = Contrastive(SPHERE, wall, **FIXED)
    with pytest.raises(Diverged, match="the energy is not finite at a particle; smaller steps do not help: the energy") as caught:
        run(method, data=data)
    assert caught.value.code == Divergence.ENERGY


def test_advice_fits_the_cause():
    method = Contrastive(Euclidean(3), MLP(width=4), moves=3, **FIXED)
    with pytest.raises(Diverged, match="; lower learning_rate, by which the energy has become too steep"):
        run(method, method.rates._replace(learning_rate=300.0), steps=12, every=4)
    with pytest.raises(Diverged, match=r"accepted; lower particle_step \(rates"):
        run(method, method.rates._replace(particle_step=1e4), steps=12, every=4)
