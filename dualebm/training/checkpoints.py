"""States in `.npz` files, as `dualebm._internal.files` writes them."""

from typing import Any

from dualebm._internal import files
from dualebm._internal.files import PathLike
from dualebm.training.fingerprint import check_settings


def save_state(path: PathLike, state: Any, settings: dict | None = None) -> None:
    """Writes the arrays of a state to an `.npz` file by their path in the tree; typed keys as their data.

    `settings` (JSON, see `dualebm.training.fingerprint.describe`) say what the state is of; `load_state` compares them.
    """
    files.save(path, "state", state, {"settings": settings})


def load_state(path: PathLike, like: Any, settings: dict | None = None) -> Any:
    """The state in `path`, with the structure, shapes and dtypes of `like` (arrays, or `jax.ShapeDtypeStruct`).

    Raises ValueError for a file that is truncated, corrupt, of another format version, of other settings (where given)
    or of other shapes, naming what differs with both values.

    >>> import tempfile; from pathlib import Path
    >>> import jax.numpy as jnp
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save_state(path, {"x": jnp.arange(3)})
    >>> load_state(path, {"x": jnp.zeros(3, int)})["x"].tolist()
    [0, 1, 2]
    """
    header, arrays = files.load(path, "state")
    if settings is not None:
        check_settings(f"checkpoint {path}", header["settings"] or {}, settings)
    return files.fill(path, like, header, arrays)
