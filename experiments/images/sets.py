"""The images of a seed: what is read, reduced and chosen, the noise, and the coordinates in which walkers move."""

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dualebm.base_families import Normal
from dualebm.energies.networks import ConvNet
from dualebm.measures import Samples
from experiments import idx_images
from experiments.digit_classifier import Classifier

NETWORKS: dict[tuple[int, int], Any] = {
    (8, 8): ConvNet(shape=(8, 8), channels=(16,), kernels=(3,), strides=(2,), paddings=(1,)),
    (14, 14): ConvNet(shape=(14, 14), channels=(16,), kernels=(3,), strides=(2,), paddings=(1,), width=32),
    (28, 28): ConvNet(),
}
"""The energies by the shape of the images; that of 28 x 28 is the paper's."""

HELD_OUT = 0.2
"""The fraction of each class that no method sees."""


class Frame(eqx.Module):
    """Coordinates y of images x = mean + root y, in which a normal distribution of images is the standard one.

    >>> Frame.of(Normal([1.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])).pixels(jnp.array([[1.0, 2.0]])).tolist()
    [[3.0, 2.0]]
    """

    mean: Float[Array, " d"]
    root: Float[Array, "d d"]

    @classmethod
    def of(cls, normal: Normal, dtype: Any = jnp.float32) -> "Frame":
        """Returns the coordinates of a normal distribution."""
        return cls(jnp.asarray(np.asarray(normal.mean), dtype), jnp.asarray(normal.factor, dtype))

    def pixels(self, y: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the images, as rows, of coordinates."""
        return y @ self.root.T + self.mean[None]

    def seen(self, classifier: Classifier) -> Classifier:
        """Returns the classifier of coordinates that gives the logits of a classifier of images."""
        first, biases = self.root.T @ classifier.first, classifier.first_biases + self.mean @ classifier.first
        return Classifier(first, biases, classifier.second, classifier.second_biases)


class Images(NamedTuple):
    """The images of a seed.

    Attributes:
        train: The images to train with their noise, in the coordinates of the training; `copies` of each.
        held_out: The images that are held out with their noise, in the same coordinates.
        clean: The images to train without noise, (n, pixels).
        labels: Their labels, by the place in `classes`.
        held_out_labels: Those of the held-out images.
        shape: Of an image.
        normal: The normal distribution of the images to train with their noise.
        fitted: Whether the coordinates are those in which this distribution is the standard one; otherwise they are the pixels.
    """

    train: Samples
    held_out: Samples
    clean: Float[Array, "n d"]
    labels: Int[Array, " n"]
    held_out_labels: Int[Array, " m"]
    shape: tuple[int, int]
    normal: Normal
    fitted: bool

    def pixels(self, points: Any) -> Any:
        """Returns points of the training as images, (n, pixels)."""
        return Frame.of(self.normal).pixels(points) if self.fitted else points

    def seen(self, classifier: Classifier) -> Classifier:
        """Returns a classifier of images as one of points of the training."""
        return Frame.of(self.normal).seen(classifier) if self.fitted else classifier

    @property
    def log_volume(self) -> float:
        """Returns the log of the volume in pixels of a unit volume of points."""
        return float(np.sum(np.log(np.diag(self.normal.factor)))) if self.fitted else 0.0


def reduced(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images (n, h, w) of another size, `side` pixels high and wide, each the mean of a block of pixels.

    Raises:
        ValueError: `side` does not divide the height and the width.

    >>> reduced(np.array([[[0, 4], [8, 0]]]), 1).tolist()
    [[[3.0]]]
    """
    n, height, width = images.shape
    if height % side or width % side:
        raise ValueError(f"side is {side}; it must divide the size of the images, which is {height} x {width}")
    return images.reshape(n, side, height // side, side, width // side).mean((2, 4))


def read(folder: Path | None, side: int | None = None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Reads all images.

    Args:
        folder: Where the idx files are; None for the digits of scikit-learn.
        side: The height and width to which images are reduced; None for that of the files.

    Returns:
        The images as rows in [-1, 1], (n, pixels), their labels, (n,), and the shape of one.

    Raises:
        ValueError: The files are not as `experiments.idx_images` expects them, hold images of several shapes, or cannot be reduced so.
        OSError: The folder or a file cannot be read.

    >>> x, labels, shape = read(None)
    >>> x.shape, shape
    ((1797, 64), (8, 8))
    """
    parts = [idx_images.digits()] if folder is None else [idx_images.load_idx(*pair) for pair in idx_images.find_idx(folder)]
    if len({x.shape[1:] for x, _ in parts}) > 1:
        raise ValueError(f"{folder} holds images of the shapes {[x.shape[1:] for x, _ in parts]}; they must be of one shape")
    if side is not None:
        parts = [(reduced(x, side), labels) for x, labels in parts]
    x = np.concatenate([idx_images.to_unit(x, 16 if folder is None else 255) for x, _ in parts])
    return x, np.concatenate([labels for _, labels in parts]), parts[0][0].shape[1:]


def normal_of(clean: Float[np.ndarray, "n d"], noise: float) -> Normal:
    """Returns the normal distribution with the mean and covariance of images to which noise of a standard deviation is added.

    >>> normal_of(np.array([[-1.0], [1.0]]), 0.5).covariance
    ((1.25,),)
    """
    centred = clean.astype(np.float64) - clean.mean(0, dtype=np.float64)
    return Normal(clean.mean(0, dtype=np.float64), centred.T @ centred / len(clean) + noise**2 * np.eye(clean.shape[1]))


def data(settings: Any, seed: int) -> Images:
    """Returns the images of a seed, with noise.

    Raises:
        ValueError: The classes, the masses or the images are not allowed.
    """
    x, labels, shape = read(settings.data, settings.side)
    if shape not in NETWORKS:
        allowed = ", ".join(f"{h} x {w}" for h, w in NETWORKS)
        raise ValueError(f"data has images of {shape[0]} x {shape[1]}; there are networks for {allowed}")
    parts = idx_images.split(*idx_images.chosen(x, labels, settings.classes, settings.masses, seed), HELD_OUT, seed)
    idx_images.check_range("data", parts[0])
    random = np.random.default_rng([seed, 1])
    noisy = lambda x: x + settings.data_noise * random.standard_normal(x.shape)  # noqa: E731
    train, held_out = noisy(np.tile(parts[0], (settings.copies, 1))), noisy(parts[2])
    normal, fitted = normal_of(parts[0], settings.data_noise), settings.base == "fitted"
    if fitted:
        train, held_out = (np.linalg.solve(normal.factor, (x - np.asarray(normal.mean)).T).T for x in (train, held_out))
    kept, held = (jnp.asarray([settings.classes.index(label) for label in part], jnp.int32) for part in parts[1::2])
    points, others = (Samples(jnp.asarray(x, jnp.float32)) for x in (train, held_out))
    return Images(points, others, jnp.asarray(parts[0]), kept, held, shape, normal, fitted)
