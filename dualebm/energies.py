"""Energies of data in R^d that any method trains, and their starts: frozen settings that make the energy before training.

A start is called as `start(key, space, dtype)`; `STARTS` has them by name.
"""

import dataclasses
import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from dualebm import checks
from dualebm.columns import block_columns, map_blocks
from dualebm.energy import Energy, Located
from dualebm.spaces import Euclidean, Space

ACTIVATIONS = {"softplus": jax.nn.softplus, "relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}

LARGEST_ENUMERATION = 20
"""Hidden units of a Boltzmann machine whose 2^m states are still enumerated."""


def _product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _flat(space: Space, dimension: int) -> None:
    """Raises ValueError unless the space is R^d with the flat measure."""
    allowed = Euclidean(dimension, scale=None)
    if space != allowed:
        raise ValueError(f"space is {space}; a Gaussian mixture needs the flat measure, {allowed}")


def _gaussian(space: Space, dimension: int) -> float:
    """s where the space is R^d with the base measure N(0, s^2 I); raises ValueError elsewhere."""
    if not isinstance(space, Euclidean) or space.scale is None or space.dimension != dimension:
        raise ValueError(f"space is {space}; a Boltzmann machine needs a Gaussian base measure, Euclidean({dimension}, scale=s)")
    return space.scale


# -- Gaussian mixtures -----------------------------------------------------------------------------


class GaussianMixture(Energy):
    """U(x) = -log sum_i exp(-|R_i (x - a_i)|^2 / 2 - z_i), with z_1 = 0 and z_{i+1} = offsets_i.

    means a (k, d), offsets (k - 1,), roots R (k, d, d) of the inverse covariances R_i^T R_i, or None for the identity. On the
    flat `Euclidean(d, scale=None)` the model is a Gaussian mixture with masses exp(-z_i) / |det R_i|, up to a factor.

    >>> energy = GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.zeros(1), None)
    >>> [round(float(u), 4) for u in energy(jnp.array([[0.0], [1.0]]))]  # 1/2 - log 2 and -log(1 + exp(-2))
    [-0.1931, -0.1269]
    >>> round(float(energy.log_partition(Euclidean(1, scale=None))), 4)  # log 2 + log(2 pi) / 2
    1.6121
    """

    means: Float[Array, "k d"]
    offsets: Float[Array, " k-1"]
    roots: Float[Array, "k d d"] | None

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        k, d = self.means.shape
        return block_columns(max(k, d) if self.roots is None else k * d)

    def _levels(self) -> Float[Array, " k"]:
        return jnp.concatenate([jnp.zeros(1, self.offsets.dtype), self.offsets])

    def _value_and_forces(self, x):
        """U (B,) and its gradient (d, B) at columns x. Nothing here is kept by `once`: its product would cost more than the rest."""
        k, d = self.means.shape
        if self.roots is None:
            # |x - a_i|^2 from the centre c of the means: |x - c|^2 - 2 <b_i, x - c> + |b_i|^2, b_i = a_i - c. Digits are lost to the
            # distances between the means alone, not to their distance from 0, and no (k, d, B) array is made.
            # U does not depend on c: its derivative is left out, which would be a product as large as the others.
            centre = jax.lax.stop_gradient(jnp.sum(self.means, axis=0) / k)
            apart, y = self.means - centre[None], x - centre[:, None]
            logits = _product(apart, y) - (0.5 * jnp.sum(apart**2, axis=1) + self._levels())[:, None]
            total = logsumexp(logits, axis=0)
            return 0.5 * jnp.sum(y * y, axis=0) - total, y - _product(apart.T, jnp.exp(logits - total[None]))
        y = _product(self.roots, x[None] - self.means[:, :, None])
        logits = -0.5 * jnp.sum(y * y, axis=1) - self._levels()[:, None]
        total = logsumexp(logits, axis=0)
        forces = jnp.exp(logits - total[None])[:, None] * y
        return -total, _product(self.roots.reshape(k * d, d).T, forces.reshape(k * d, -1))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        return map_blocks(lambda x: self._value_and_forces(x)[0], x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient sum_i r_i R_i^T R_i (x - a_i) at points that are columns, r_i the share of component i at x."""
        return Located(x, *self._value_and_forces(x), None)

    def _log_weights(self):
        """log of the integrals of the components over R^d, up to (d/2) log 2 pi."""
        return -self._levels() if self.roots is None else -self._levels() - jnp.linalg.slogdet(self.roots)[1]

    def log_masses(self) -> Float[Array, " k"]:
        """log of the masses of the components, which sum to 1, in the flat space."""
        return jax.nn.log_softmax(self._log_weights())

    def log_partition(self, space: Space) -> Float[Array, ""]:
        """log sum_i exp(-z_i - log |det R_i|) + (d/2) log 2 pi; raises ValueError for a space that is not flat R^d."""
        _flat(space, self.means.shape[1])
        return logsumexp(self._log_weights()) + 0.5 * self.means.shape[1] * math.log(2 * math.pi)

    def sample(self, key: Key[Array, ""], space: Space, count: int) -> Float[Array, "count d"]:
        """`count` independent draws of the model; raises ValueError for a space that is not flat R^d."""
        k, d = self.means.shape
        _flat(space, d)
        component_key, normal_key = jax.random.split(key)
        component = jax.random.categorical(component_key, self.log_masses(), shape=(count,))
        x = jax.random.normal(normal_key, (d, count), self.means.dtype)
        if self.roots is not None:

            def coloured(result, part):
                i, inverse = part
                return jnp.where((component == i)[None], _product(inverse, x), result), None

            x, _ = jax.lax.scan(coloured, x, (jnp.arange(k), jnp.linalg.inv(self.roots)))
        return self.means[component] + x.T


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Start of a `GaussianMixture` of equal masses and unit covariances.

    Args:
        components: k. spread: the means are spread * N(0, I) ...
        separation: ... but for their first coordinates, equally spaced from -separation to separation (0 where k = 1).
        covariances: "unit", which stay the identity, or "full", which are trained.

    Raises ValueError for a setting that is not allowed, and for a space that is not flat R^d.

    >>> energy = Mixture()(jax.random.key(0), Euclidean(3, scale=None), jnp.float32)
    >>> energy.means.shape, [round(float(a), 3) for a in energy.means[:, 0]], energy.offsets.tolist(), energy.roots
    ((2, 3), [-0.1, 0.1], [0.0], None)
    """

    components: int = 2
    spread: float = 0.01
    separation: float = 0.1
    covariances: str = "unit"

    def __post_init__(self):
        checks.count("components", self.components)
        checks.number("spread", self.spread)
        checks.number("separation", self.separation)
        checks.choice("covariances", self.covariances, ("unit", "full"))

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> GaussianMixture:
        """The mixture at the start of training."""
        k, d = self.components, space.dimension
        _flat(space, d)
        first = jnp.linspace(-self.separation, self.separation, k, dtype=dtype) if k > 1 else jnp.zeros(1, dtype)
        means = (self.spread * jax.random.normal(key, (k, d), dtype)).at[:, 0].set(first)
        roots = None if self.covariances == "unit" else jnp.broadcast_to(jnp.eye(d, dtype=dtype), (k, d, d))
        return GaussianMixture(means, jnp.zeros(k - 1, dtype), roots)


# -- Restricted Boltzmann machines -----------------------------------------------------------------


class BoltzmannMachine(Energy):
    """U(x) = -<b, x> - sum_j log(1 + exp(c_j + <w_j, x>)): a Gaussian-Bernoulli restricted Boltzmann machine, hidden units summed out.

    weights w (m, d), visible b (d,), hidden c (m,). On `Euclidean(d, scale=s)`, whose base measure is N(0, s^2 I),
    x given h is N(s^2 (b + W^T h), s^2 I), and h_j given x is 1 with probability sigmoid(c_j + <w_j, x>), else 0.

    >>> energy = BoltzmannMachine(jnp.array([[1.0, 0.0]]), jnp.array([0.0, 2.0]), jnp.zeros(1))
    >>> [round(float(u), 4) for u in energy(jnp.array([[0.0, 0.0], [0.0, 1.0]]))]  # -log 2 and -2 - log 2
    [-0.6931, -2.6931]
    >>> round(float(energy.log_partition(Euclidean(2))), 4)  # log(exp(4 / 2) + exp(5 / 2))
    2.9741
    """

    weights: Float[Array, "m d"]
    visible: Float[Array, " d"]
    hidden: Float[Array, " m"]

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(max(self.weights.shape))

    @property
    def uniforms(self) -> int:
        """Uniform numbers that a Gibbs move needs for each particle: m."""
        return self.weights.shape[0]

    def _fields(self, x):
        """c_j + <w_j, x>, (m, B)."""
        return _product(self.weights, x) + self.hidden[:, None]

    def _value(self, x, fields):
        return -_product(self.visible, x) - jnp.sum(jax.nn.softplus(fields), axis=0)

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        return map_blocks(lambda x: self._value(x, self._fields(x)), x.T, self.width)

    def locate(self, x: Float[Array, "d B"]) -> Located:
        """U and its gradient -b - W^T sigmoid(c + W x) at points that are columns."""
        fields = self._fields(x)
        gradient = -self.visible[:, None] - _product(self.weights.T, jax.nn.sigmoid(fields))
        return Located(x, self._value(x, fields), gradient, None)

    def _drives(self, h):
        """b + W^T h, (d, B), for hidden states that are columns."""
        return self.visible[:, None] + _product(self.weights.T, h)

    def gibbs(self, space: Space, noise: Any, x: Float[Array, "d B"]) -> Float[Array, "d B"]:
        """One block Gibbs move of columns: all h_j = [uniform_j < sigmoid(c_j + <w_j, x>)], then x = s^2 (b + W^T h) + s normal.

        noise: what a `Noise` has: `normal` (d, B), and `uniform` in [0, 1), here (m, B). Leaves the model invariant. Raises
        ValueError for a space without a Gaussian base measure.
        """
        s = _gaussian(space, self.weights.shape[1])
        h = (noise.uniform < jax.nn.sigmoid(self._fields(x))).astype(x.dtype)
        return s**2 * self._drives(h) + s * noise.normal

    def _states(self, index):
        """Hidden states (m, B) by number: h_1 is the highest of the m bits."""
        place = jnp.arange(self.uniforms - 1, -1, -1)
        return ((index[None] >> place[:, None]) & 1).astype(self.weights.dtype)

    def _log_weights(self, scale):
        """<c, h> + s^2 |b + W^T h|^2 / 2 of all 2^m hidden states h, by number, in blocks."""
        if self.uniforms > LARGEST_ENUMERATION:
            raise ValueError(f"the machine has {self.uniforms} hidden units; the enumeration allows at most {LARGEST_ENUMERATION}")

        def block(index):
            h = self._states(index)
            return _product(self.hidden, h) + 0.5 * scale**2 * jnp.sum(self._drives(h) ** 2, axis=0)

        return map_blocks(block, jnp.arange(2**self.uniforms), self.width)

    def log_partition(self, space: Space) -> Float[Array, ""]:
        """log Z with respect to N(0, s^2 I): log sum_h exp(<c, h> + s^2 |b + W^T h|^2 / 2), over the 2^m hidden states.

        Raises ValueError for more than 20 hidden units, and for a space without a Gaussian base measure.
        """
        return logsumexp(self._log_weights(_gaussian(space, self.weights.shape[1])))

    def sample(self, key: Key[Array, ""], space: Space, count: int) -> Float[Array, "count d"]:
        """`count` independent draws of the model: hidden states by their exact masses, then x; errors as of `log_partition`."""
        m, d = self.weights.shape
        scale = _gaussian(space, d)
        # One unit after the other given those before it: the cumulative sum of 2^m masses would leave few digits to each.
        levels = [self._log_weights(scale)]
        while levels[-1].size > 1:
            levels.append(jnp.logaddexp(*levels[-1].reshape(-1, 2).T))
        unit_key, normal_key = jax.random.split(key)
        uniform = jax.random.uniform(unit_key, (m, count), self.weights.dtype)
        state = jnp.zeros(count, int)
        for u, above, below in zip(uniform, levels[:0:-1], levels[-2::-1], strict=True):
            state = 2 * state + (u < jnp.exp(below[2 * state + 1] - above[state]))
        normal = jax.random.normal(normal_key, (d, count), self.weights.dtype)
        return (scale**2 * self._drives(self._states(state)) + scale * normal).T


@dataclasses.dataclass(frozen=True)
class Boltzmann:
    """Start of a `BoltzmannMachine`: weights spread * N(0, 1), biases 0.

    Args:
        hidden: m, the hidden units. spread: of the weights.

    Raises ValueError for a setting that is not allowed, and for a space without a Gaussian base measure.

    >>> Boltzmann(hidden=4)(jax.random.key(0), Euclidean(3, scale=1.0), jnp.float32).weights.shape
    (4, 3)
    """

    hidden: int = 16
    spread: float = 0.01

    def __post_init__(self):
        checks.count("hidden", self.hidden)
        checks.number("spread", self.spread)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> BoltzmannMachine:
        """The machine at the start of training."""
        _gaussian(space, space.dimension)
        weights = self.spread * jax.random.normal(key, (self.hidden, space.dimension), dtype)
        return BoltzmannMachine(weights, jnp.zeros(space.dimension, dtype), jnp.zeros(self.hidden, dtype))


# -- Networks --------------------------------------------------------------------------------------


def _dense(x, weights, biases, activation):
    """A_L s(A_{L-1} ... s(A_1 x + b_1) ...) + b_L of rows, (N,)."""
    for a, b in zip(weights[:-1], biases[:-1], strict=True):
        x = ACTIVATIONS[activation](_product(x, a) + b[None])
    return (_product(x, weights[-1]) + biases[-1][None])[:, 0]


class Perceptron(Energy):
    """U(x) = A_L s(A_{L-1} ... s(A_1 x + b_1) ...) + b_L, of products of whole batches; for its start see `MLP`.

    >>> Perceptron([jnp.eye(2), jnp.ones((2, 1))], [jnp.zeros(2), jnp.ones(1)], "relu")(jnp.array([[2.0, -3.0]])).tolist()
    [3.0]
    """

    weights: list[Float[Array, "_ _"]]
    biases: list[Float[Array, " _"]]
    activation: str = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        return block_columns(max(a.shape[1] for a in self.weights))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        return _dense(x, self.weights, self.biases, self.activation)


@dataclasses.dataclass(frozen=True)
class MLP:
    """Start of a `Perceptron`: weights normal of variance 2 / fan in, biases 0, the weights of the last layer 0, so that U = 0.

    Args:
        width, depth: of the hidden layers, and their number. activation: of `ACTIVATIONS`.

    Raises ValueError for a setting that is not allowed.

    >>> MLP(width=8)(jax.random.key(0), Euclidean(3), jnp.float32)(jnp.eye(3)).tolist()
    [0.0, 0.0, 0.0]
    """

    width: int = 64
    depth: int = 2
    activation: str = "softplus"

    def __post_init__(self):
        checks.count("width", self.width)
        checks.count("depth", self.depth)
        checks.choice("activation", self.activation, ACTIVATIONS)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> Perceptron:
        """The network at the start of training."""
        sizes = [space.dimension, *[self.width] * self.depth, 1]
        keys = jax.random.split(key, self.depth + 1)
        pairs = list(itertools.pairwise(sizes))
        weights = [math.sqrt(2 / a) * jax.random.normal(k, (a, b), dtype) for k, (a, b) in zip(keys, pairs, strict=True)]
        return Perceptron([*weights[:-1], jnp.zeros_like(weights[-1])], [jnp.zeros(b, dtype) for _, b in pairs], self.activation)


def _image_shapes(shape, kernels, strides, paddings):
    """(height, width) of the image and of what each convolution makes of it."""
    shapes = [tuple(shape)]
    for k, stride, padding in zip(kernels, strides, paddings, strict=True):
        shapes.append(tuple((size + 2 * padding - k) // stride + 1 for size in shapes[-1]))
    return shapes


class Convolutional(Energy):
    """U of images of one channel, x = rows of height * width numbers, row after row: convolutions, then dense layers.

    kernels (k, k, in, out) with kernel_biases (out,); weights (a, b) with biases (b,), the first for an image as (row, column,
    channel); shape (height, width); strides and paddings, on all sides, of the convolutions. The activation, of `ACTIVATIONS`,
    is between all layers. For its start see `ConvNet`.

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
    activation: str = eqx.field(static=True)

    @property
    def width(self) -> int:
        """Points that are evaluated at a time."""
        shapes = _image_shapes(self.shape, [a.shape[0] for a in self.kernels], self.strides, self.paddings)
        channels = [1, *(a.shape[3] for a in self.kernels)]
        images = [math.prod(shape) * count for shape, count in zip(shapes, channels, strict=True)]
        return block_columns(max(*images, *(a.shape[1] for a in self.weights)))

    def __call__(self, x: Float[Array, "N d"]) -> Float[Array, " N"]:
        """U(x), in units of temperature."""
        return map_blocks(self._value, x.T, self.width)

    def _value(self, x):
        images = x.T.reshape(-1, *self.shape, 1)
        for kernel, bias, stride, padding in zip(self.kernels, self.kernel_biases, self.strides, self.paddings, strict=True):
            images = jax.lax.conv_general_dilated(
                images, kernel, (stride, stride), [(padding, padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST,
            )  # fmt: skip
            images = ACTIVATIONS[self.activation](images + bias[None, None, None])
        return _dense(images.reshape(images.shape[0], -1), self.weights, self.biases, self.activation)


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """Start of a `Convolutional` energy: weights normal of variance 2 / fan in, biases 0, the weights of the last layer 0, so that U = 0.

    The defaults are the network of the MNIST experiment of arXiv 2305.19414: images of 16 x 16 x 16, 8 x 8 x 32, 4 x 4 x 64 and
    2 x 2 x 64, then dense layers 256-64-1.

    Args:
        shape: height and width of the images. channels, kernels, strides, paddings: of each convolution.
        width: of the hidden dense layer. activation: of `ACTIVATIONS`.

    Raises ValueError for a setting that is not allowed, for a layer whose images are empty, and for a space whose dimension is
    not height * width.

    >>> energy = ConvNet()(jax.random.key(0), Euclidean(784), jnp.float32)
    >>> energy(jnp.ones((3, 784))).tolist(), [a.shape for a in energy.weights]
    ([0.0, 0.0, 0.0], [(256, 64), (64, 1)])
    """

    shape: tuple[int, int] = (28, 28)
    channels: tuple[int, ...] = (16, 32, 64, 64)
    kernels: tuple[int, ...] = (5, 3, 3, 3)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    paddings: tuple[int, ...] = (4, 1, 1, 1)
    width: int = 64
    activation: str = "silu"

    def __post_init__(self):
        for name in ("shape", "channels", "kernels", "strides", "paddings"):
            values, length = getattr(self, name), 2 if name == "shape" else max(len(self.channels), 1)
            if not isinstance(values, tuple) or len(values) != length:
                raise ValueError(f"{name} is {values}; it must be a tuple of {length} integers, with channels={self.channels}")
            for i, value in enumerate(values):
                checks.count(f"{name}[{i}]", value, 0 if name == "paddings" else 1)
        checks.count("width", self.width)
        checks.choice("activation", self.activation, ACTIVATIONS)
        for i, (height, width) in enumerate(self.images):
            if min(height, width) < 1:
                raise ValueError(
                    f"kernels[{i - 1}] is {self.kernels[i - 1]}; it must be at most the padded image, "
                    f"{' x '.join(str(n + 2 * self.paddings[i - 1]) for n in self.images[i - 1])}"
                )

    @property
    def images(self) -> list[tuple[int, ...]]:
        """(height, width) of the image and of what each convolution makes of it."""
        return _image_shapes(self.shape, self.kernels, self.strides, self.paddings)

    def __call__(self, key: Key[Array, ""], space: Space, dtype: Any) -> Convolutional:
        """The network at the start of training."""
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


STARTS: dict[str, type] = {"mixture": Mixture, "boltzmann": Boltzmann, "mlp": MLP, "convnet": ConvNet}
"""Starts by name."""
