"""A small classifier of noisy images, and the masses of the classes among walkers, for `experiments.images`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from dualebm import measures
from dualebm.metrics.base import Metric

ACCURACY = 0.97
"""Of the classifier on held-out images: with less its masses tell nothing."""

CLASSIFIER: dict[str, Any] = dict(width=64, steps=1000, batch=128, learning_rate=3e-3)

LARGER: dict[tuple[int, int], dict[str, Any]] = {(14, 14): dict(width=128, steps=3000)}
"""By the shape of the images: what differs from `CLASSIFIER`."""

CLASSIFIER_NOISE = {(8, 8): 1.0, (14, 14): 2.0, (28, 28): 3.0}
"""By the shape of the images: the noise on which the classifier is trained, over that of the data."""


class Classifier(eqx.Module):
    """A perceptron with one hidden layer; its value at points (n, d) are log probabilities (n, k) but for a constant.

    >>> Classifier(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2))(jnp.array([[2.0, -3.0]])).tolist()
    [[2.0, 0.0]]
    """

    first: Float[Array, "d w"]
    first_biases: Float[Array, " w"]
    second: Float[Array, "w k"]
    second_biases: Float[Array, " k"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """The logits."""
        return jax.nn.relu(x @ self.first + self.first_biases[None]) @ self.second + self.second_biases[None]


def untrained(key: Key[Array, ""], dimension: int, width: int, classes: int) -> Classifier:
    """Normal weights of variance 2 / fan in, and logits 0.

    >>> untrained(jax.random.key(0), 4, 8, 3)(jnp.ones((1, 4))).tolist()
    [[0.0, 0.0, 0.0]]
    """
    first = math.sqrt(2 / dimension) * jax.random.normal(key, (dimension, width))
    return Classifier(first, jnp.zeros(width), jnp.zeros((width, classes)), jnp.zeros(classes))


@eqx.filter_jit
def trained(
    key: Key[Array, ""], x: Float[Array, "n d"], labels: Int[Array, " n"], noise: Array, classes: int,
    width: int, steps: int, batch: int, learning_rate: float,
) -> Classifier:  # fmt: skip
    """A classifier trained on images with fresh noise of a standard deviation in each step (Adam, cosine decay).

    >>> x, labels = jnp.array([[-1.0], [1.0]]), jnp.array([0, 1])
    >>> classifier = trained(jax.random.key(0), x, labels, jnp.float32(0.1), 2, width=8, steps=100, batch=16, learning_rate=0.03)
    >>> accuracy(classifier, x, labels)
    1.0
    """
    start_key, step_key = jax.random.split(key)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    start = untrained(start_key, x.shape[1], width, classes)

    def loss(classifier, points, places):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(classifier(points), places))

    def step(carry, k):
        classifier, state = carry
        index_key, noise_key = jax.random.split(jax.random.fold_in(step_key, k))
        index = jax.random.randint(index_key, (batch,), 0, x.shape[0])
        points = x[index] + noise * jax.random.normal(noise_key, (batch, x.shape[1]))
        update, state = optimiser.update(jax.grad(loss)(classifier, points, labels[index]), state)
        return (eqx.apply_updates(classifier, update), state), None

    (classifier, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), jnp.arange(steps))  # type: ignore[arg-type]
    return classifier


def accuracy(classifier: Classifier, x: Float[Array, "n d"], labels: Int[Array, " n"]) -> float:
    """The fraction of points whose largest logit is that of their label.

    >>> accuracy(Classifier(jnp.eye(2), jnp.zeros(2), jnp.eye(2), jnp.zeros(2)), jnp.eye(2), jnp.array([0, 0]))
    0.5
    """
    return float(jnp.mean((jnp.argmax(classifier(x), axis=1) == labels).astype(x.dtype)))


class ClassMasses(Metric):
    """The share of each class among the walkers, (k,): their weights, added up by the class that the classifier gives them.

    >>> ClassMasses(untrained(jax.random.key(0), 4, 8, 3)).units
    '1'
    """

    classifier: Classifier
    long_name, units = "masses of the classes", "1"

    def __call__(self, key, iterate):
        """The masses."""
        del key
        particles, log_weights = iterate.samples
        logits = self.classifier(particles)
        if log_weights is None:
            log_weights = jnp.zeros_like(logits[:, 0])
        classes = logits.shape[1]
        return jax.ops.segment_sum(measures.shares(log_weights), jnp.argmax(logits, axis=1), classes)
