"""The four sets of places of natural disasters that Mathieu and Nickel (2020, arXiv 2006.10605) compiled, and published numbers on them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualebm.data import tables
from dualebm.spaces import Sphere
from experiments.densities import Rows

NAMES = ("volcano", "earthquake", "flood", "fire")
SPHERE = Sphere(3)
TRAINED = 0.9
"""The fraction of rows that are fitted to: the published splits have 80% to train on and 10% to choose settings."""

PUBLISHED: dict[str, tuple[str, str, str, str]] = {
    "mixture of Kent (De Bortoli et al. 2022)": ("-0.80 +- 0.47", "0.33 +- 0.05", "0.73 +- 0.07", "1.18 +- 0.06 (a minus may be missing)"),
    "Riemannian CNF (the same)": ("-6.05 +- 0.61", "0.14 +- 0.23", "1.11 +- 0.19", "-0.80 +- 0.54"),
    "Moser flow (the same)": ("-4.21 +- 0.17", "-0.16 +- 0.06", "0.57 +- 0.10", "-1.28 +- 0.05"),
    "stereographic score-based (the same)": ("-3.80 +- 0.27", "-0.19 +- 0.05", "0.59 +- 0.07", "-1.28 +- 0.12"),
    "Riemannian score-based (the same)": ("-4.92 +- 0.25", "-0.19 +- 0.07", "0.48 +- 0.09", "-1.33 +- 0.06"),
    "Riemannian diffusion mixture (2023)": ("-6.61", "-0.40", "0.43", "-1.38"),
    "Riemannian flow matching (2023)": ("-7.93", "-0.28", "0.42", "-1.86"),
    "best of four variants of a paper of 2026": ("-4.96", "-1.08", "-0.88", "-2.48"),
}
"""Published negative log-likelihoods in the order of `NAMES`, in nats, on random splits of 80, 10 and 10%."""


class Split(NamedTuple):
    """The rows of a split, points of the unit sphere: 90% to fit and choose settings on, (n, 3), and the others to score, (k, 3)."""

    train: Rows
    held: Rows


def rows_of(folder: Path, name: str, distinct: bool) -> Rows:
    """Returns the places of a set as points of the unit sphere, (n, 3).

    Args:
        folder: The folder of the files `NAME.csv`, of a latitude and a longitude in degrees.
        name: The name of the set.
        distinct: Whether each place counts once.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no places.
    """
    rows = tables.read(folder / f"{name}.csv").rows
    if rows.shape[1] != 2:
        raise ValueError(f"{folder / name}.csv has {rows.shape[1]} columns; it must have a latitude and a longitude")
    if distinct:
        rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    latitude, longitude = np.radians(rows).T
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1)


def split(rows: Rows, seed: int) -> Split:
    """Returns a random split of rows into 90 and 10%.

    Args:
        rows: The rows, (n, 3).
        seed: The seed of the split.

    >>> [len(part) for part in split(np.ones((50, 3)), 0)]
    [45, 5]
    """
    count = int(TRAINED * len(rows))
    mixed = rows[np.random.default_rng(77 + seed).permutation(len(rows))]
    return Split(mixed[:count], mixed[count:])
