"""What the methods that train any energy share: checks of their settings, noise, batches, and warnings of collapsed weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dualebm._internal import collectives
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.energies.base import Energy
from dualebm.energies.networks import MLP, ConvNet
from dualebm.flows import adaptation, jarzynski, likelihood
from dualebm.flows.adaptation import Adapted
from dualebm.flows.jarzynski import Weights
from dualebm.flows.noise import Draw, drawn
from dualebm.measures import Samples, draw_indices, effective_sample_size
from dualebm.methods.base import AdaptedSteps, Info
from dualebm.rates import Scalar

PRIOR = 30.0
"""The number of rows that the penalty of a network counts like, where it is chosen by the data."""

LARGEST_PENALTY = 0.1
"""The largest penalty that is chosen. It leaves energies a range of 10."""


def rates_of_data(method, data: Samples) -> Any:
    """Return the default rates, with the penalty min(30 / n, 0.1) on E U^2 over n rows for a network, which has a constant of its own.

    The penalty of the mean loss of a row is then a prior of fixed strength, whatever the number of rows: it holds back a network that
    learns few rows by heart, and fades where rows are many. With the penalty a, the loss is least at U = (q - p) / (2 a (p + q)) for the
    densities p of the data and q of the model. So |U| is at most 1 / 2a, and a larger a could not follow columns that nearly depend on
    each other. Both numbers were chosen on tables of 96 to 1280 rows.

    Args:
        method: the method, with the setting `start` and default rates.
        data: the training data, points (n, d). n is Kish's effective number where they have weights.

    Returns:
        The rates.

    >>> from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> rates_of_data(Jarzynski(Sphere(3), MLP()), Samples(jnp.ones((600, 3)))).energy_penalty
    0.05
    """
    if not isinstance(method.start, MLP | ConvNet):
        return method.rates
    rows = len(data.points) if data.log_weights is None else float(effective_sample_size(jnp.asarray(data.log_weights)))
    return method.rates._replace(energy_penalty=min(PRIOR / rows, LARGEST_PENALTY))


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


def check_adaptation(method) -> None:
    """Check that the moves of a training that adapts leave the model invariant, and that the numbers of moves go together.

    Args:
        method: the method, with the settings `target`, `integrator`, `moves` and `largest_moves`.

    Raises:
        ValueError: a setting is not allowed.

    >>> from dualebm.energies.networks import MLP; from dualebm.methods.jarzynski import Jarzynski; from dualebm.spaces import Sphere
    >>> check_adaptation(Jarzynski(Sphere(3), MLP()))
    """
    if method.target is None:
        if method.largest_moves is not None:
            raise ValueError(f"largest_moves is {method.largest_moves} and target is None, by which moves are fixed; give both or neither")
        return
    if jarzynski.unadjusted(method.integrator):
        raise ValueError(
            f"integrator is {method.integrator!r}, whose moves are not adjusted, and target is {method.target}; give target None for fixed "
            "steps, or an adjusted move: 'mala', 'independence', 'gibbs'"
        )
    if method.largest_moves is not None and method.largest_moves < method.moves:
        raise ValueError(f"largest_moves is {method.largest_moves}; it must be at least moves, which is {method.moves}")


def adapted_moves(method, adapted: Adapted, step: Scalar) -> tuple[Scalar, Int[Array, ""]]:
    """Return the step size and the number of the moves of an iteration.

    Args:
        method: a method with the settings `space` and `integrator`, and with `range_of_moves`, the least and the largest number.
        adapted: what its training has adapted.
        step: the given particle step.

    Returns:
        The step size, which is adapted for "mala" alone, and the number of moves.
    """
    if method.integrator == "mala":
        longest = (1 - 1e-6) * method.space.largest_particle_step  # rounding stays within it
        step = jnp.minimum(step * jnp.exp(adapted.log_particle), longest)
    return step, adaptation.moves_of(adapted, *method.range_of_moves)


def adapted_step(method, adapted: Adapted, gradient, before, after, log_weights, x) -> tuple[Energy, Adapted]:
    """Return the energy after the step of the parameters whose length is adapted, and what is adapted.

    Args:
        method: a method with the settings `target`, `fixed` and `optimiser`. For an optimiser of the user, which has a learning rate of its
            own, the factor is at most 1.
        adapted: what was adapted before the iteration.
        gradient: the gradient of the loss.
        before: the energy before the step.
        after: the energy after a step of the given learning rate.
        log_weights: the log weights of the particles, (N,).
        x: the particles as columns, (d, N).

    Returns:
        The energy, and what is adapted, with the step and the factor of the learning rate.
    """
    largest = adaptation.LONGEST if isinstance(method.optimiser, str) else 1.0
    log_rate = adaptation.log_rate_of(adapted, gradient, largest)
    after = adaptation.part_of_step(before, after, jnp.exp(log_rate))
    share = adaptation.share_of_step(log_weights, adaptation.slopes(before, after, x), method.target)
    after = adaptation.part_of_step(before, after, share)
    new, old = (likelihood.partition(energy, method.fixed)[0] for energy in (after, before))
    log_rate = adaptation.clipped(log_rate + jnp.log(share), largest)
    return after, adapted._replace(log_rate=log_rate, change=jax.tree.map(jnp.subtract, new, old))


def adapted_info(method, adapted: Adapted, before, after, x, moved, moves, acceptance) -> tuple[Info, Adapted]:
    """Return the diagnostics of an iteration, and what is adapted after it.

    Args:
        method: the method, as in `adapted_moves`.
        adapted: what is adapted after the step of the parameters.
        before: the energy before it.
        after: the energy after it.
        x: the particles before their moves, as columns, (d, N).
        moved: the particles after them.
        moves: the number of moves.
        acceptance: the fraction of them that were accepted.

    Returns:
        The diagnostics, with the acceptance, and what is adapted.
    """
    acceptance = collectives.mean_over(acceptance)
    rho = adaptation.correlation(before, after, x, moved)
    rate, factor = jnp.exp(adapted.log_rate), jnp.exp(adapted.log_particle)
    shown = AdaptedSteps(rate, jnp.asarray(moves, x.dtype), factor if method.integrator == "mala" else jnp.ones_like(factor))
    return Info(acceptance, adapted=shown), adaptation.adapt(adapted, moves, rho, acceptance, *method.range_of_moves)


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


def warnings_of_weights(weights: Weights, info: Info, advice: str) -> dict[str, str]:
    """Return a warning where the weights have collapsed to few particles, or all particles descend from a few.

    Args:
        weights: of the N particles. Their effective number of families is small below `jarzynski.FEW_FAMILIES`, and below N / 10.
        info: its `effective_fraction` times N is the effective sample size. It is small below `jarzynski.FEW_EFFECTIVE`, and below N / 20.
        advice: what follows from the collapse, and what to change.

    Returns:
        The sentence "collapse" or "families", or nothing.

    >>> import jax, jax.numpy as jnp
    >>> weights = Weights(jnp.zeros(40), jnp.zeros(()), jnp.arange(40), jnp.int32(0))
    >>> warnings_of_weights(weights, Info(effective_fraction=jnp.array(0.025)), "give more particles")["collapse"]
    'the weights have collapsed to few particles: the effective sample size is 1 of 40; give more particles'
    """
    count = weights.log_weights.shape[-1]
    effective = count if info.effective_fraction is None else count * float(info.effective_fraction)
    if effective < max(2, min(jarzynski.FEW_EFFECTIVE, count / 20)):
        size = f"the effective sample size is {effective:.3g} of {count}"
        return {"collapse": f"the weights have collapsed to few particles: {size}; {advice}"}
    first = float(jarzynski.families(weights))
    if first < min(jarzynski.FEW_FAMILIES, count / 10):
        descent = f"after {int(weights.resamplings)} resamplings the {count} particles descend from {first:.3g} of the first"
        return {"families": f"{descent}; log Z is then an estimate from these. Lower particle_step, or the steps of the training"}
    return {}
