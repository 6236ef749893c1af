"""The twelve tables: seven that are drawn, and five of real rows that scikit-learn brings along."""

from typing import Any, NamedTuple

import numpy as np

from experiments.densities import Rows

DRAWN = ("moons", "rings", "eight", "circles", "student", "pinwheel", "spirals")
REAL = ("iris", "wine5", "wine13", "cancer5", "diabetes")
NAMES = (*DRAWN, *REAL)
COUNT = 2000
"""The number of rows of a drawn table."""

TRAINED = 0.75
"""The fraction of rows that are trained on."""

DIABETES = [0, 2, 3, 4, 5, 6, 8, 9]
"""The columns of the table of diabetes patients that have many values: not sex, and not a ratio of two others."""


class Split(NamedTuple):
    """The rows of a split, in columns whose training rows have mean 0 and variance 1.

    Attributes:
        train: The rows of the fit, (n, d).
        held: The rows that are held out, (k, d).
        indices: The places of the rows in their table, those of the fit first, (n + k,).
    """

    train: Rows
    held: Rows
    indices: np.ndarray


def rows_of(name: str, seed: int) -> Rows:
    """Returns the rows of a table, (n, d). A drawn table has other rows for each seed, and a real one the same.

    moons and circles are those of scikit-learn, of noise 0.1 and 0.06. rings are four circles of the radii 1 to 4, eight are eight
    normal clusters on a circle of radius 2, each of noise 0.1. student has two independent columns of Student's t with 3 degrees of
    freedom. pinwheel has five bent arms, and spirals two arms of one and a half turns. iris has 4 columns, wine5 and wine13 the first 5
    and all 13 of the wines, cancer5 the first 5 of the breast cancers, and diabetes 8 of the patients.

    Args:
        name: The name of the table.
        seed: The seed of a drawn table.

    >>> rows_of("rings", 0).shape, rows_of("wine5", 0).shape
    ((2000, 2), (178, 5))
    """
    import sklearn.datasets

    rng, n = np.random.default_rng(1000 + seed), COUNT
    turned = lambda angle: np.stack([np.cos(angle), np.sin(angle)], 1)  # noqa: E731
    load: Any = sklearn.datasets  # its functions return one of several types
    match name:
        case "moons":
            return load.make_moons(n, noise=0.1, random_state=seed)[0]
        case "circles":
            return load.make_circles(n, noise=0.06, factor=0.5, random_state=seed)[0]
        case "rings":
            radius, angle = rng.integers(4, size=n) + 1, rng.random(n) * 2 * np.pi
            return radius[:, None] * turned(angle) + 0.1 * rng.normal(size=(n, 2))
        case "eight":
            return 2 * turned(rng.integers(8, size=n) * np.pi / 4) + 0.1 * rng.normal(size=(n, 2))
        case "student":
            return rng.standard_t(3, size=(n, 2))
        case "pinwheel":
            arm, (x, y) = rng.integers(5, size=n), (rng.normal(size=(n, 2)) * np.array([0.3, 0.1]) + np.array([1.0, 0.0])).T
            angle = arm * 2 * np.pi / 5 + 0.6 * np.exp(x)
            return 2 * np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], 1)
        case "spirals":
            length, start = np.sqrt(rng.random(n)) * 3 * np.pi, rng.integers(2, size=n) * np.pi
            return length[:, None] * turned(length + start) / 3 + 0.1 * rng.normal(size=(n, 2))
        case "iris":
            return load.load_iris().data
        case "cancer5":
            return load.load_breast_cancer().data[:, :5]
        case "diabetes":
            return load.load_diabetes(scaled=False).data[:, DIABETES]
        case _:
            wines = load.load_wine().data
            return wines[:, :5] if name == "wine5" else wines


def split(name: str, seed: int) -> Split:
    """Returns a random split of a table: 75% of the rows to train on, and the others, in columns standardised by the former.

    Args:
        name: The name of the table.
        seed: The seed of the split, and of a drawn table.

    >>> train, held, _ = split("iris", 0)
    >>> train.shape, held.shape, train.std(axis=0).round(6).tolist()
    ((112, 4), (38, 4), [1.0, 1.0, 1.0, 1.0])
    """
    rows = rows_of(name, seed)
    indices = np.random.default_rng(77 + seed).permutation(len(rows))
    count = int(TRAINED * len(rows))
    train, held = rows[indices[:count]], rows[indices[count:]]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    return Split((train - mean) / scale, (held - mean) / scale, indices)
