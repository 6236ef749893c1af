"""What the methods that train any energy share: checks of their settings, noise, batches, and a warning of collapsed weights."""

import equinox as eqx
from jaxtyping import Array, Float, Key

from dualebm._internal import collectives
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.flows import jarzynski, likelihood
from dualebm.flows.jarzynski import Weights
from dualebm.flows.noise import Draw, drawn
from dualebm.measures import Samples, draw_indices
from dualebm.methods.base import Info


def check_walkers(method) -> None:
    """Check that the number of particles is even (or None, for copies of the data), and that the integrator goes with the space.

    Args:
        method: the method, with the settings `walkers`, `integrator` and `space`.

    Raises:
        ValueError: the number is odd, or the space does not allow the integrator.

    >>> from dualebm.energies.networks import MLP; from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> check_walkers(Jarzynski(Sphere(3), MLP()))
    """
    if method.walkers is not None and method.walkers % 2:
        raise ValueError(f"walkers is {method.walkers}; it must be even: particles i and i + N/2 are a pair")
    jarzynski.check_integrator(method.integrator, method.space)


def check_training(method, data: Samples) -> None:
    """Check that a method can train its energy on the data, and that the energy has the move that the integrator needs.

    Args:
        method: the method, with the settings `space`, `start`, `fixed` and `integrator`.
        data: the training data, points (n, d).

    Raises:
        ValueError: the energy is not allowed.

    >>> from dualebm.energies.networks import MLP; from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> import jax, jax.numpy as jnp
    >>> check_training(Jarzynski(Sphere(3), MLP()), Samples(jnp.eye(3)))
    """
    likelihood.check(method, data)
    if method.integrator == "gibbs":
        energy = eqx.filter_eval_shape(method.start, key_of_seed(0), method.space, data.points.dtype)
        if not hasattr(energy, "gibbs"):
            allowed = "allowed: 'geodesic', 'mala', 'independence'"
            raise ValueError(f"integrator is 'gibbs' and {type(energy).__name__} has no such move; {allowed}")


def noise_of(method, key: Key[Array, ""], energy, x: Float[Array, "d N"]) -> Draw:
    """Return the noise of the particles of a method for one iteration.

    Where several devices share the particles, a move takes the part of this device by `flows.noise.sharded`.

    Args:
        method: a method with the settings `integrator` and `noise`.
        key: the random key of the noise.
        energy: the energy under which the particles move. It says how many uniform numbers a Gibbs move needs.
        x: the particles as columns, (d, N).

    Returns:
        A `flows.noise.Draw`.

    >>> from dualebm.energies.networks import MLP; from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> import jax, jax.numpy as jnp
    >>> method = Jarzynski(Sphere(3), MLP(width=8))
    >>> draw = noise_of(method, jax.random.key(0), method.start(jax.random.key(1), method.space, jnp.float32), jnp.zeros((3, 10)))
    >>> first, second = draw(None, 0, 5)
    >>> first.normal.shape
    (3, 5)
    """
    check_key(key)
    uniforms = energy.uniforms if method.integrator == "gibbs" else None
    return drawn(key, x.shape[0], x.dtype, method.noise, uniforms)


def batch_of(key: Key[Array, ""], data: Samples, size: int | None) -> Samples:
    """Draw a batch of the data, with replacement and with the weights of the data.

    Where several devices share the data, the batch is drawn from all of it and is the same on every device.

    Args:
        key: the random key of the draw.
        data: the data points (n, d) of this device.
        size: the number of points to draw. None returns `data` as it is.

    Returns:
        `size` points with equal weights, (size, d), or `data`.

    >>> import jax, jax.numpy as jnp
    >>> batch_of(jax.random.key(0), Samples(jnp.ones((5, 2))), 3).points.shape
    (3, 2)
    """
    check_key(key)
    if size is None:
        return data
    index = draw_indices(key, collectives.whole(data), (size,))
    return Samples(collectives.pick(data.points, index))


def warning_of_weights(weights: Weights, info: Info, advice: str) -> str | None:
    """Return a warning where the weights have collapsed to one particle, or all particles descend from a few, else None.

    Args:
        weights: of the N particles. Their effective number of families is small below `jarzynski.FEW_FAMILIES`, and below N / 10.
        info: its `effective_fraction` times N is the effective sample size, which has collapsed below 2.
        advice: what follows from the collapse, and what to change.

    Returns:
        The warning, or None.

    >>> import jax, jax.numpy as jnp
    >>> weights = Weights(jnp.zeros(10), jnp.zeros(()), jnp.arange(10), jnp.int32(0))
    >>> warning_of_weights(weights, Info(effective_fraction=jnp.array(0.1)), "give more particles")
    'the weights have collapsed to one particle: the effective sample size is 1 of 10; give more particles'
    """
    count = weights.log_weights.shape[-1]
    effective = count if info.effective_fraction is None else count * float(info.effective_fraction)
    if effective < 2:
        return f"the weights have collapsed to one particle: the effective sample size is {effective:.3g} of {count}; {advice}"
    first = float(jarzynski.families(weights))
    if first < min(jarzynski.FEW_FAMILIES, count / 10):
        descent = f"after {int(weights.resamplings)} resamplings the {count} particles descend from {first:.3g} of the first"
        return f"{descent}; log Z is then an estimate from these. Lower particle_step, or the steps of the training"
    return None
