"""Every check: what it lets pass, and that each error names the argument, its value and what is allowed."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm._internal import checks
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus

F32 = np.float32
ROWS = np.array([[0.6, 0.8], [0.0, -1.0], [1.0, 0.0]], F32)
NAN = np.array([[0.6, 0.8], [np.nan, 1.0]], F32)
INFINITE = np.array([[0.6, 0.8], [0.0, -np.inf]], F32)


def weighted(*log_weights):
    return Samples(ROWS, np.array(log_weights, F32))


def stretched(by):
    return ROWS * np.array([[1], [1 + by], [1]], F32)


ALLOWED = [
    lambda: checks.choice("signs", "half", ("random", "half")),
    lambda: checks.choice("signs", 2, (1, 2)),
    lambda: checks.count("n", 1),
    lambda: checks.count("n", np.int32(2), 2),
    lambda: checks.count("n", 0, 0),
    lambda: checks.seed("seed", 0),
    lambda: checks.seed("seed", np.uint32(2**32 - 1)),
    lambda: checks.number("h", 0),
    lambda: checks.number("h", 1e-30, positive=True),
    lambda: checks.number("h", jnp.float32(1), largest=1),
    lambda: checks.number("h", np.float64(3)),
    lambda: checks.points("x", ROWS, Sphere(2)),
    lambda: checks.points("x", jnp.array(ROWS), Sphere(2)),
    lambda: checks.points("x", stretched(9e-4), Sphere(2)),
    lambda: checks.points("x", 1e6 * ROWS, Euclidean(2)),
    lambda: checks.points("x", np.abs(ROWS), Torus(2)),
    lambda: checks.points("x", 7 * np.abs(ROWS), Torus(2, period=7.0)),
    lambda: checks.samples("data", Samples(ROWS), Sphere(2)),
    lambda: checks.samples("data", weighted(0, -np.inf, -5), Sphere(2)),
]


@pytest.mark.parametrize("call", ALLOWED)
def test_what_is_allowed_passes(call):
    assert call() is None


SIGNS = ("random", "half")
BARE_SAMPLES = inspect.unwrap(checks.samples)  # without the tests' own check of annotations, which comes first
NOT_INTEGER = "it must be an integer of at least"
NOT_SEED = "it must be an integer from 0 to 4294967295"
NORMALISE = "normalise them: x / np.linalg.norm(x, axis=1, keepdims=True)"
WEIGHTS = "data.log_weights has NaN or +inf or no finite value; they must be finite or -inf"
REFUSED = [
    (lambda: checks.choice("signs", "rndom", SIGNS), "signs is 'rndom'; did you mean 'random'? Allowed: 'random', 'ha"),
    (lambda: checks.choice("signs", "zzz", iter(SIGNS)), "signs is 'zzz'; Allowed: 'random', 'half'"),
    (lambda: checks.choice("signs", None, SIGNS), "signs is None;"),
    (lambda: checks.choice("bits", 33, (32, 64)), "bits is 33; Allowed: 32, 64"),
    (lambda: checks.count("n", 0), f"n is 0; {NOT_INTEGER} 1"),
    (lambda: checks.count("n", 4, 5), f"n is 4; {NOT_INTEGER} 5"),
    (lambda: checks.count("n", 2**31), "n is 2147483648; it must be an integer from 1 to 2147483647"),
    (lambda: checks.count("n", 2.0), f"n is 2.0; {NOT_INTEGER} 1"),
    (lambda: checks.count("n", True), f"n is True; {NOT_INTEGER} 1"),
    (lambda: checks.count("n", "3"), f"n is '3'; {NOT_INTEGER} 1"),
    (lambda: checks.count("n", None), f"n is None; {NOT_INTEGER} 1"),
    (lambda: checks.seed("seed", -1), f"seed is -1; {NOT_SEED}"),
    (lambda: checks.seed("seed", 2**32), f"seed is 4294967296; {NOT_SEED}"),
    (lambda: checks.seed("seed", 1.0), f"seed is 1.0; {NOT_SEED}"),
    (lambda: checks.seed("seed", False), f"seed is False; {NOT_SEED}"),
    (lambda: checks.seed("seed", None), f"seed is None; {NOT_SEED}"),
    (lambda: checks.number("h", -1e-9), "h is -1e-09; it must be a finite number, at least 0"),
    (lambda: checks.number("h", 0.0, positive=True), "h is 0.0; it must be a finite number, greater than 0"),
    (lambda: checks.number("h", np.nan), "h is nan; it must be a finite number, at least 0"),
    (lambda: checks.number("h", np.inf), "h is inf; it must be a finite number"),
    (lambda: checks.number("h", jnp.float32(jnp.nan)), "h is nan; it must be a finite number"),
    (lambda: checks.number("p", 1.5, largest=1), "p is 1.5; it must be a finite number, at least 0 and at most 1"),
    (lambda: checks.number("p", 0, positive=True, largest=0.25), "greater than 0 and at most 0.25"),
    (lambda: checks.number("h", [1.0]), "h is [1.0]; it must be a finite number"),
    (lambda: checks.number("h", np.ones(1)), "h is [1.]; it must be a finite number"),
    (lambda: checks.number("h", "1"), "h is '1'; it must be a finite number"),
    (lambda: checks.number("h", None), "h is None; it must be a finite number"),
    (lambda: checks.number("h", 1j), "h is 1j; it must be a finite number"),
    (lambda: checks.points("x", ROWS[0], Sphere(2)), "x has shape (2,); it must be (count, 2)"),
    (lambda: checks.points("x", ROWS[None], Sphere(2)), "x has shape (1, 3, 2); it must be (count, 2)"),
    (lambda: checks.points("x", ROWS.astype(int), Sphere(2)), "x has dtype int64; it must be float32 or float64"),
    (lambda: checks.points("x", ROWS.astype(np.float16), Sphere(2)), "x has dtype float16; it must be"),
    (lambda: checks.points("x", jnp.array(ROWS, jnp.bfloat16), Sphere(2)), "x has dtype bfloat16; it must be"),
    (lambda: checks.points("x", ROWS.astype(complex), Sphere(2)), "x has dtype complex128; it must be float32"),
    (
        lambda: checks.points("x", ROWS.astype(float), Sphere(2)),
        'x has dtype float64 and JAX would round it to float32: set JAX_ENABLE_X64=1, or pass astype("float32")',
    ),
    (lambda: checks.points("x", ROWS[:0], Sphere(2)), "x is empty, shape (0, 2); it must hold at least one point"),
    (lambda: checks.points("x", ROWS, Sphere(3)), "x has 2 components; it must have 3, as Sphere(dimension=3, base=Uniform())"),
    (lambda: checks.points("x", NAN, Sphere(2)), "x has NaN or infinite values (row 1 is [nan  1.]); they must"),
    (lambda: checks.points("x", INFINITE, Euclidean(2)), "x has NaN or infinite values (row 1 is"),
    (lambda: checks.points("x", stretched(2e-3), Sphere(2)), f"the unit sphere (row 1 has norm 1.002); {NORMALISE}"),
    (lambda: checks.points("x", 0 * ROWS, Sphere(2)), "x has rows off the unit sphere (row 0 has norm 0)"),
    (lambda: checks.points("x", ROWS, Torus(2)), "rows outside Torus(dimension=2, period=1.0, base=Uniform()) (row 1 is [ 0. -1.])"),
    (lambda: checks.points("x", 7 * np.abs(ROWS), Torus(2, period=6.0)), "(row 1 is [0. 7.]); wrap them into it"),
    (lambda: BARE_SAMPLES("data", ROWS, Sphere(2)), "data is a ndarray; it must be Samples(points)"),
    (lambda: checks.samples("data", Samples(ROWS), Sphere(3)), "data.points has 2 components; it must have 3"),
    (lambda: checks.samples("data", weighted(0, 0), Sphere(2)), "data.log_weights has shape (2,); it must be (3,)"),
    (lambda: checks.samples("data", weighted(0, np.nan, 0), Sphere(2)), WEIGHTS),
    (lambda: checks.samples("data", weighted(0, np.inf, 0), Sphere(2)), WEIGHTS),
    (lambda: checks.samples("data", weighted(-np.inf, -np.inf, -np.inf), Sphere(2)), WEIGHTS),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused_and_how(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_double_precision_passes_with_x64_and_names_the_row(x64):
    rows = ROWS / np.linalg.norm(ROWS.astype(float), axis=1, keepdims=True)
    assert rows.dtype == np.float64
    checks.points("x", rows, Sphere(2))
    with pytest.raises(ValueError, match="row 2 has norm 3"):
        checks.points("x", rows * np.array([[1.0], [1.0], [3.0]]), Sphere(2))


BEYOND = [
    (lambda: checks.points("x", [[0.6, 0.8]], Sphere(2)), "x is a list"),
    (lambda: checks.number("h", 10**400), "h is 1000"),
    (lambda: checks.samples("data", Samples(ROWS, np.zeros(3)), Sphere(2)), "data.log_weights has dtype float64"),
    (lambda: checks.samples("data", Samples(ROWS, np.array(["a"] * 3)), Sphere(2)), "data.log_weights has dtype"),
]


@pytest.mark.parametrize(("call", "message"), BEYOND, ids=[message for _, message in BEYOND])
def test_what_should_be_refused_too(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_allowed_seeds_give_different_keys_with_and_without_x64():
    seeds = (0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1)
    for seed in seeds:
        checks.seed("seed", seed)
    keys = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            keys.append([tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in seeds])
    assert keys[0] == keys[1] == [(0, seed) for seed in seeds]
