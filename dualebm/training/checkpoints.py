"""States in `.npz` files, as `dualebm._internal.files` writes them."""

from pathlib import Path
from typing import Any

from dualebm._internal import files, folders
from dualebm._internal.files import PathLike
from dualebm.training.fingerprint import check_settings


def save_state(path: PathLike, state: Any, settings: dict | None = None) -> None:
    """Write the arrays of a state to an `.npz` file, each under its path in the tree.

    Typed PRNG keys are written as their data.

    Args:
        path: The file.
        state: A pytree of arrays and numbers.
        settings: The settings of the run, as JSON (see `dualebm.training.descriptions.describe`). `load_state` compares
            them.

    Raises:
        OSError: When the file cannot be written.
    """
    files.save(path, "state", state, {"settings": settings})


def load_state(path: PathLike, like: Any, settings: dict | None = None) -> Any:
    """Return the state in a file.

    Args:
        path: A file that `save_state` wrote.
        like: A pytree with the structure, shapes and dtypes of the state: arrays, or `jax.ShapeDtypeStruct`.
        settings: The settings that the file must have, as JSON; None to accept any.

    Returns:
        The state, a pytree of the structure of `like`.

    Raises:
        OSError: When there is no such file, or a link in its place.
        ValueError: When the file is truncated or corrupt, or of another format version, other settings or other shapes.
            The message names what differs, with both values.

    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save_state(path, {"x": jnp.arange(3)})
    >>> load_state(path, {"x": jnp.zeros(3, int)})["x"].tolist()
    [0, 1, 2]
    """
    folders.refuse_link(Path(path))
    header, arrays = files.load(path, "state")
    if settings is not None:
        check_settings(f"checkpoint {path}", header["settings"] or {}, settings)
    return files.fill(path, like, header, arrays)
