"""The simplest densities of the same images: a normal distribution, a mixture of normal distributions, and a kernel density estimate.

All three know the noise: they are fitted to the images without it, and their covariances grow by that of the noise. What they leave open is
chosen on a part of the images to train.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from experiments import idx_images
from experiments.digit_classifier import Classifier
from experiments.images.sets import Images

COMPONENTS = (2, 3, 4, 6, 8, 12, 16)
WIDTHS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0)
"""Of the kernels, over the standard deviation of the noise."""

VALIDATION = 0.2
"""The fraction of the images to train on which numbers of components and widths are chosen."""

DRAWS = 4096
"""Of a density, whose digits are counted."""

Rows = Float[np.ndarray, "n d"]


class Mixture:
    """Normal distributions with weights, as many as given; each covariance grows by that of the noise."""

    def __init__(self, clean: Rows, noise: float, components: int):
        from sklearn.mixture import GaussianMixture

        self.of = GaussianMixture(components, reg_covar=noise**2, random_state=0, max_iter=200).fit(clean)
        self.chosen = f"{components} components"

    def log_density(self, x: Rows) -> Float[np.ndarray, " m"]:
        """Returns the log density of rows."""
        return self.of.score_samples(x)

    def draws(self, random: np.random.Generator, count: int) -> Rows:
        """Returns draws."""
        self.of.random_state = int(random.integers(2**31))
        return self.of.sample(count)[0]


class Kernels:
    """A normal kernel at each image, of one width.

    >>> one = Kernels(np.zeros((2, 1)), 0.5, 2.0)
    >>> round(float(one.log_density(np.zeros((1, 1)))[0]), 4), one.draws(np.random.default_rng(0), 3).shape
    (-0.9189, (3, 1))
    """

    def __init__(self, clean: Rows, noise: float, factor: float):
        self.clean, self.width, self.chosen = clean, noise * factor, f"width {noise * factor:.2f}"

    def log_density(self, x: Rows) -> Float[np.ndarray, " m"]:
        """Returns the log density of rows."""
        square = (x**2).sum(1)[:, None] + (self.clean**2).sum(1)[None] - 2 * x @ self.clean.T
        constant = np.log(len(self.clean)) + x.shape[1] * np.log(np.sqrt(2 * np.pi) * self.width)
        return logsumexp(-0.5 * square / self.width**2, axis=1) - constant

    def draws(self, random: np.random.Generator, count: int) -> Rows:
        """Returns draws."""
        centres = self.clean[random.integers(len(self.clean), size=count)]
        return centres + self.width * random.standard_normal(centres.shape)


class Single:
    """The normal distribution of the images with their noise."""

    chosen = ""

    def __init__(self, images: Images):
        self.normal = images.normal

    def log_density(self, x: Rows) -> Float[np.ndarray, " m"]:
        """Returns the log density of rows."""
        factor = self.normal.factor
        white = np.linalg.solve(factor, (x - np.asarray(self.normal.mean)).T)
        return -0.5 * (white**2).sum(0) - np.log(np.diag(factor)).sum() - 0.5 * len(factor) * np.log(2 * np.pi)

    def draws(self, random: np.random.Generator, count: int) -> Rows:
        """Returns draws."""
        return np.asarray(self.normal.mean) + random.standard_normal((count, len(self.normal.mean))) @ self.normal.factor.T


def best_of(kind: type, candidates: tuple, clean: Rows, labels: np.ndarray, noise: float, seed: int) -> Any:
    """Returns the density of a kind that is best on validation rows with noise, fitted again to all rows."""
    kept, _, held, _ = idx_images.split(clean, labels, VALIDATION, seed)
    noisy = held + noise * np.random.default_rng([seed, 2]).standard_normal(held.shape)
    return kind(clean, noise, max(candidates, key=lambda candidate: kind(kept, noise, candidate).log_density(noisy).mean()))


def densities(images: Images, noise: float, seed: int) -> dict[str, Any]:
    """Returns the densities by their names.

    Args:
        images: The images of a seed.
        noise: Standard deviation of the noise of the data.
        seed: Decides the rows of validation.
    """
    clean, labels = np.asarray(images.clean, np.float64), np.asarray(images.labels)
    return {
        "normal": Single(images),
        "mixture": best_of(Mixture, COMPONENTS, clean, labels, noise, seed),
        "kernels": best_of(Kernels, WIDTHS, clean, labels, noise, seed),
    }


def scored(images: Images, density: Any, log_base: Float[np.ndarray, " m"], classifier: Classifier, seed: int) -> tuple[float, np.ndarray]:
    """Returns the cross-entropy of held-out images relative to the base measure (nat an image), and the masses of the digits among draws.

    Args:
        images: The images of a seed.
        density: One of `densities`.
        log_base: The log density of the base measure at the held-out images, to Lebesgue measure of the pixels.
        classifier: Of images.
        seed: Decides the draws.
    """
    held_out = np.asarray(images.pixels(images.held_out.points), np.float64)
    draws = density.draws(np.random.default_rng([seed, 3]), DRAWS)
    return float(np.mean(log_base - density.log_density(held_out))), masses_of(classifier, draws)


def masses_of(classifier: Classifier, rows: Any) -> np.ndarray:
    """Returns the shares of the classes among rows, as the classifier sees them.

    >>> masses_of(Classifier(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2)), np.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [0.5, 0.5]
    """
    logits = classifier(jnp.asarray(rows, jnp.float32))
    return np.asarray(jnp.mean(jax.nn.one_hot(jnp.argmax(logits, axis=1), logits.shape[1]), axis=0))
