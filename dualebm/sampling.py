"""Samples of a fitted model, all at once or in blocks, so that more of them can be drawn than fit into memory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm._internal import checks, memory
from dualebm._internal.keys import check_key
from dualebm.flows import langevin, resampling
from dualebm.model import Model
from dualebm.settings import Count, Positive, checked

SMALLEST_FRACTION = 0.01
"""The effective fraction of draws of the base measure from which samples are weighted draws."""

MOVES = 1000
"""The number of moves of each chain where samples are ends of chains and no number is given."""

CHAINS = 2**14
"""The number of chains that move at a time. It is part of the definition of the samples."""


COPIES = 4
"""The number of float64 copies of samples that memory holds while they are drawn."""


class Drawn(NamedTuple):
    """Samples of a model.

    Args:
        points: the samples as points of the model's space, (count, d).
        fraction: the effective fraction of the draws of the base measure that the samples are chosen from. None for ends of chains.
        acceptance: the mean acceptance of the moves of the chains. None for weighted draws.
    """

    points: Float[Array, "count d"]
    fraction: float | None
    acceptance: float | None


def draw_blocks(
    key: Key[Array, ""], model: Model, count: int, *, steps: int | None = None, step: float | None = None
) -> Iterator[Drawn]:
    """Draw samples of a model, block by block.

    They are weighted draws of the base measure (`flows.resampling`), where log Z is trusted and at least 1% of the draws count. Otherwise,
    and where `steps` or `step` is given, each is the end of a chain of MALA moves from the base measure. The blocks are independent: each
    has draws or chains with a key of its own number. So memory holds one block, and with weighted draws more samples begin with the same
    ones.

    Args:
        key: the random key.
        model: the fitted model. A model of 64 bits needs x64.
        count: the number of samples.
        steps: the number of moves of each chain. None for weighted draws, or `MOVES` where there are none.
        step: the step of a move. None for the particle step of the model.

    Returns:
        An iterator over the blocks, which have `count` samples in all.

    Raises:
        ValueError: when an argument is not allowed, the base measure cannot be sampled, or the energy is not finite at its draws.

    >>> from dualebm.data.preparation import Preparation; from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> from dualebm.log_z.estimate import LogPartitionEstimate; from dualebm.spaces import Sphere
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> model = Model(energy, Preparation(Sphere(2)), log_z, 0.1)
    >>> [len(block.points) for block in draw_blocks(jax.random.key(0), model, 10_000)]
    [4096, 4096, 1808]
    """
    check_key(key)
    if not isinstance(model, Model):
        raise ValueError(f"model is {model!r:.200}; it must be a Model, as `model_files.load` returns it")
    checks.count("count", count)
    energy, space = model.energy, model.preparation.space
    if steps is not None:
        checks.count("steps", steps)
    if step is not None:
        checks.number("step", step, positive=True)
        checks.particle_step("step", step, space)
    if not space.base.proper:
        raise ValueError(f"space is {space}, whose base measure cannot be sampled; it must be a probability measure")
    if steps is None and step is None and model.log_partition.trusted:
        fraction = resampling.effective_fraction(key, energy, space)
        if fraction >= SMALLEST_FRACTION:
            return (Drawn(points, fraction, None) for points in resampling.resampled(key, energy, space, count, fraction))
    moves: dict[str, Any] = dict(steps=MOVES if steps is None else steps, step=model.particle_step if step is None else step)
    keys = (key if count <= CHAINS else jax.random.fold_in(key, first // CHAINS) for first in range(0, count, CHAINS))
    sizes = (min(CHAINS, count - first) for first in range(0, count, CHAINS))
    ends = (langevin.sample(key, energy, space, size, **moves) for key, size in zip(keys, sizes, strict=True))
    return (Drawn(points, None, float(acceptance)) for points, acceptance in ends)


def check_memory(name: str, count: int, columns: int) -> None:
    """Raise ValueError for samples that do not fit into the free memory. It checks nothing where that is not known.

    Args:
        name: the name of the count, for the error.
        count: the number of samples.
        columns: the number of their columns.

    Raises:
        ValueError: the samples do not fit. The message says how many do.

    >>> check_memory("count", 1000, 3)
    """
    free, needed = memory.free(), count * columns * COPIES * 8
    if free is not None and needed > free:
        raise ValueError(
            f"{name} is {count}, which takes about {needed / 1e9:.3g} GB of the {free / 1e9:.3g} GB of memory that are free; it must be at "
            f"most about {free // (columns * COPIES * 8)}, and dualebm sample MODEL --count {count} --out FILE writes more to a file"
        )


@checked
def draw(key: Key[Array, ""], model: Model, count: Count, *, steps: Count | None = None, step: Positive | None = None) -> Drawn:
    """Draw samples of a model, all at once. The samples are those of the blocks of `draw_blocks`.

    Args:
        key: a random key.
        model: the model.
        count: the number of samples.
        steps: the number of steps of a chain, as for `draw_blocks`.
        step: the time step of a chain, as for `draw_blocks`.

    Returns:
        The samples, points (count, d) of the space, with how they were drawn.

    Raises:
        ValueError: an argument is not allowed (see `draw_blocks`).

    >>> from dualebm.data.preparation import Preparation; from dualebm.energies.shallow import Shallow; from dualebm.features import ReLU
    >>> from dualebm.log_z.estimate import LogPartitionEstimate; from dualebm.spaces import Sphere
    >>> energy, log_z = Shallow(ReLU(), jnp.eye(2), jnp.zeros(2)), LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
    >>> drawn = draw(jax.random.key(0), Model(energy, Preparation(Sphere(2)), log_z, 0.1), 10)
    >>> drawn.points.shape, drawn.fraction, drawn.acceptance
    ((10, 2), 1.0, None)
    """
    check_key(key)
    blocks = list(draw_blocks(key, model, count, steps=steps, step=step))
    accepted = [block.acceptance * len(block.points) for block in blocks if block.acceptance is not None]
    acceptance = sum(accepted) / count if accepted else None
    return Drawn(jnp.concatenate([block.points for block in blocks]), blocks[0].fraction, acceptance)
