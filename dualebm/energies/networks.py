"""Networks as energies: perceptrons, and convolutional networks for images.

`MLP` and `ConvNet` are the frozen settings with which they start. They are called as `start(key, space, dtype)`.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dualebm import settings
from dualebm._internal.blocks import block_columns, map_blocks, product
from dualebm._internal.keys import check_key
from dualebm.energies.base import Energy
from dualebm.geometry import Space
from dualebm.settings import Count, CountOrZero

Activation = Literal["softplus", "relu", "silu", "tanh"]
"""The names of the activations."""

ACTIVATIONS: dict[str, Callable] = {"softplus": jax.nn.softplus, "relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}
"""The activations of networks, by name."""


def _dense(x, weights, biases, activation):
    """Returns A_L^T s(... s(A_1^T x + b_1) ...) + b_L at the columns of x, (d, B), as an array (B,)."""
    for a, b in zip(weights[:-1], biases[:-1], strict=True):
        x = ACTIVATIONS[activation](product(a.T, x) + b[:, None])
    return product(weights[-1][:, 0], x) + biases[-1]


class Perceptron(Energy):
    """A perceptron: U(x) = x_L with x_l = A_l^T s(x_{l-1}) + b_l for l = 2, ..., L, and x_1 = A_1^T x + b_1.

    The settings `MLP`, called with (key, space, dtype), return a perceptron with random weights. Calling a perceptron with points
    (N, d) returns their energies, (N,), in units of temperature.

    Args:
        weights: the matrices A_1, ..., A_L, each (fan in, fan out). The first has fan in d, the last fan out 1.
        biases: the vectors b_1, ..., b_L, each (fan out,).
        activation: the activation s: "softplus", "relu", "silu" or "tanh". It is not checked here.

    >>> Perceptron([jnp.eye(2), jnp.ones((2, 1))], [jnp.zeros(2), jnp.ones(1)], "relu")(jnp.array([[2.0, -3.0]])).tolist()
    [3.0]
    """

    weights: list[Float[Array, "_ _"]]
    biases: list[Float[Array, " _"]]
    activation: Activation = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        return block_columns(max(a.shape[1] for a in self.weights))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        return map_blocks(lambda x: _dense(x, self.weights, self.biases, self.activation), x.T, self.width)


@dataclasses.dataclass(frozen=True)
class MLP:
    """The settings with which a `Perceptron` starts. The weights are normal of variance 2 / fan in, and the biases are 0.

    The weights of the last layer are 0, so that U = 0. Calling it with (key, space, dtype) returns the energy.

    Args:
        width: the width of the hidden layers.
        depth: the number of hidden layers.
        activation: the activation, "softplus", "relu", "silu" or "tanh".

    Raises:
        ValueError: when a setting is not allowed.

    >>> from dualebm.spaces import Euclidean
    >>> MLP(width=8)(jax.random.key(0), Euclidean(3), jnp.float32)(jnp.eye(3)).tolist()
    [0.0, 0.0, 0.0]
    """

    width: Count = 64
    depth: Count = 2
    activation: Activation = "softplus"

    def __post_init__(self):
        settings.check(self)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> Perceptron:
        """Returns the network at the start of training.

        Args:
            key: a random key.
            space: the space of the points.
            dtype: the floating dtype of the network.

        Returns:
            The network, with U = 0.
        """
        check_key(key)
        sizes = [space.dimension, *[self.width] * self.depth, 1]
        keys = jax.random.split(key, self.depth + 1)
        pairs = list(itertools.pairwise(sizes))
        weights = [math.sqrt(2 / a) * jax.random.normal(k, (a, b), dtype) for k, (a, b) in zip(keys, pairs, strict=True)]
        return Perceptron([*weights[:-1], jnp.zeros_like(weights[-1])], [jnp.zeros(b, dtype) for _, b in pairs], self.activation)


def _image_shapes(shape, kernels, strides, paddings):
    """Returns the (height, width) of the image and of the output of each convolution."""
    shapes = [tuple(shape)]
    for k, stride, padding in zip(kernels, strides, paddings, strict=True):
        shapes.append(tuple((size + 2 * padding - k) // stride + 1 for size in shapes[-1]))
    return shapes


def _convolution(images, kernel, stride, padding):
    """Convolves images (channels, height, width, B) with a kernel (k, k, channels, out), as one product with all their patches.

    On CPUs XLA has no fast program for the derivatives of a strided convolution. In the images they take 2 times as long, in the
    kernel 30 times.
    """
    k, _, channels, out = kernel.shape
    images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((size - k) // stride + 1 for size in images.shape[1:3])
    at = lambda i, j: images[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]  # noqa: E731
    patches = jnp.stack([at(i, j) for i in range(k) for j in range(k)]).reshape(k * k * channels, -1)
    return product(kernel.reshape(k * k * channels, out).T, patches).reshape(out, height, width, -1)


class Convolutional(Energy):
    """A convolutional network on images of one channel: convolutions, then dense layers, with an activation between all layers.

    A point x holds the height * width numbers of an image, row after row. The settings `ConvNet`, called with (key, space, dtype),
    return such a network with random weights.

    Args:
        kernels: the kernels of the convolutions, each (k, k, channels in, channels out).
        kernel_biases: the biases of the convolutions, each (channels out,).
        weights: the matrices of the dense layers, each (fan in, fan out). The first takes images as (row, column, channel).
        biases: the biases of the dense layers, each (fan out,).
        shape: (height, width) of the images.
        strides: the stride of each convolution.
        paddings: the padding of each convolution on all sides.
        activation: the activation, "softplus", "relu", "silu" or "tanh".

    >>> one = jnp.ones((2, 2, 1, 1))
    >>> network = Convolutional([one], [jnp.zeros(1)], [jnp.ones((1, 1))], [jnp.zeros(1)], (2, 2), (1,), (0,), "relu")
    >>> network(jnp.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [10.0]
    """

    kernels: list[Float[Array, "_ _ _ _"]]
    kernel_biases: list[Float[Array, " _"]]
    weights: list[Float[Array, "_ _"]]
    biases: list[Float[Array, " _"]]
    shape: tuple[int, int] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    paddings: tuple[int, ...] = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Returns the number of points that are evaluated at a time."""
        _, *made = _image_shapes(self.shape, [a.shape[0] for a in self.kernels], self.strides, self.paddings)
        patches = [math.prod(shape) * math.prod(a.shape[:3]) for shape, a in zip(made, self.kernels, strict=True)]
        return block_columns(max(*patches, *(a.shape[1] for a in self.weights)))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """Returns U(x), in units of temperature, (N,)."""
        return map_blocks(self._value, x.T, self.width)

    def _value(self, x):
        images = x.reshape(1, *self.shape, -1)
        for kernel, bias, stride, padding in zip(self.kernels, self.kernel_biases, self.strides, self.paddings, strict=True):
            images = ACTIVATIONS[self.activation](_convolution(images, kernel, stride, padding) + bias[:, None, None, None])
        flat = jnp.moveaxis(images, 0, 2).reshape(-1, x.shape[1])
        return _dense(flat, self.weights, self.biases, self.activation)


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """The settings with which a `Convolutional` energy starts. The weights are normal of variance 2 / fan in, and the biases are 0.

    The weights of the last layer are 0, so that U = 0. The defaults are the network of the MNIST experiment of arXiv 2305.19414:
    images of 16 x 16 x 16, 8 x 8 x 32, 4 x 4 x 64 and 2 x 2 x 64, then dense layers 256-64-1. Calling it with (key, space,
    dtype) returns the energy.

    Args:
        shape: (height, width) of the images.
        channels: the number of output channels of each convolution.
        kernels: the size k of each convolution's kernel.
        strides: the stride of each convolution.
        paddings: the padding of each convolution on all sides.
        width: the width of the hidden dense layer.
        activation: the activation, "softplus", "relu", "silu" or "tanh".

    Raises:
        ValueError: when a setting is not allowed, when a layer's images are empty, or on the call when the dimension of the
            space is not height * width.

    >>> from dualebm.spaces import Euclidean
    >>> energy = jax.eval_shape(lambda key: ConvNet()(key, Euclidean(784), jnp.float32), jax.random.key(0))
    >>> [a.shape for a in energy.weights]
    [(256, 64), (64, 1)]
    """

    shape: tuple[Count, Count] = (28, 28)
    channels: tuple[Count, ...] = (16, 32, 64, 64)
    kernels: tuple[Count, ...] = (5, 3, 3, 3)
    strides: tuple[Count, ...] = (2, 2, 2, 2)
    paddings: tuple[CountOrZero, ...] = (4, 1, 1, 1)
    width: Count = 64
    activation: Activation = "silu"

    def __post_init__(self):
        settings.check(self)
        for name in ("shape", "channels", "kernels", "strides", "paddings"):
            values, length = getattr(self, name), 2 if name == "shape" else max(len(self.channels), 1)
            if len(values) != length:
                raise ValueError(f"{name} is {values}; it must be a tuple of {length} integers, with channels={self.channels}")
        for i, (height, width) in enumerate(self.images):
            if min(height, width) < 1:
                raise ValueError(
                    f"kernels[{i - 1}] is {self.kernels[i - 1]}; it must be at most the padded image, "
                    f"{' x '.join(str(n + 2 * self.paddings[i - 1]) for n in self.images[i - 1])}"
                )

    @property
    def images(self) -> list[tuple[int, ...]]:
        """Returns the (height, width) of the image and of the output of each convolution."""
        return _image_shapes(self.shape, self.kernels, self.strides, self.paddings)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> Convolutional:
        """Returns the network at the start of training.

        Args:
            key: a random key.
            space: the space of the points, whose dimension is that of the image.
            dtype: the floating dtype of the network.

        Returns:
            The network, with U = 0.

        Raises:
            ValueError: the dimension is another.
        """
        check_key(key)
        if space.dimension != math.prod(self.shape):
            raise ValueError(f"space is {space}; its dimension must be {math.prod(self.shape)}, for shape={self.shape}")
        *conv_keys, dense_key = jax.random.split(key, len(self.channels) + 1)
        normal = lambda key, shape: math.sqrt(2 / math.prod(shape[:-1])) * jax.random.normal(key, shape, dtype)  # noqa: E731
        pairs = itertools.pairwise((1, *self.channels))
        kernels = [normal(key, (k, k, a, b)) for key, k, (a, b) in zip(conv_keys, self.kernels, pairs, strict=True)]
        weights = [normal(dense_key, (math.prod(self.images[-1]) * self.channels[-1], self.width)), jnp.zeros((self.width, 1), dtype)]
        zeros = lambda arrays: [jnp.zeros(a.shape[-1], dtype) for a in arrays]  # noqa: E731
        return Convolutional(
            kernels, zeros(kernels), weights, zeros(weights), self.shape, self.strides, self.paddings, self.activation
        )
