"""Random keys: their check, and the key of a seed."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

IMPLEMENTATION = "threefry2x32"
"""The generator of random numbers. Others give other numbers under `vmap`."""


def key_of_seed(seed: int) -> Key[Array, ""]:
    """Returns the threefry key of a seed, whatever generator JAX has by default.

    Args:
        seed: the seed.

    >>> bool((jax.random.key_data(key_of_seed(3)) == jax.random.key_data(jax.random.key(3))).all())
    True
    """
    return jax.random.key(seed, impl=IMPLEMENTATION)


def check_key(key: Any, name: str = "key") -> None:
    """Raises ValueError unless a value is one typed threefry key. It costs nothing in a compiled program.

    Args:
        key: the value, which may be traced.
        name: the name of the argument in the error.

    Raises:
        ValueError: the value is a seed, the bare words of a key, an array of keys, or a key of another generator.

    >>> check_key(0)
    Traceback (most recent call last):
    ...
    ValueError: key is 0; it must be one typed threefry key, as jax.random.key(seed, impl="threefry2x32")
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    generator = str(jax.random.key_impl(key)) if typed else ""
    if not typed or key.shape != () or (generator != "fry" and "threefry" not in generator):
        shown = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array) else repr(key)
        raise ValueError(f'{name} is {shown}; it must be one typed threefry key, as jax.random.key(seed, impl="{IMPLEMENTATION}")')
