"""Every public function that draws by a key refuses all but one typed threefry key, first of all and by one sentence."""

import dis
import importlib
import inspect
import pkgutil
import re

import jax
import jax.numpy as jnp
import pytest

import dualebm
from dualebm._internal.keys import check_key, key_of_seed
from dualebm.measures import Samples
from dualebm.metrics import CrossEntropy
from dualebm.spaces import Sphere

REFUSED = {
    "0": 0,
    "None": None,
    "uint32 of shape (2,)": jax.random.PRNGKey(0),
    "key<rbg> of shape ()": jax.random.key(0, impl="rbg"),
    "key<urbg> of shape ()": jax.random.key(0, impl="unsafe_rbg"),
    "key<fry> of shape (2,)": jax.random.split(jax.random.key(0)),
}
SENTENCE = 'key is {}; it must be one typed threefry key, as jax.random.key(seed, impl="threefry2x32")'


def public():
    """The public functions and methods of the package with a parameter that is a key, by their place."""
    names = [module.name for module in pkgutil.walk_packages(dualebm.__path__, "dualebm.")]
    found = {}
    for name in names:
        if name.startswith(("dualebm._internal", "dualebm.cli")):
            continue
        module = importlib.import_module(name)
        for owner in (module, *(kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name)):
            for member, thing in vars(owner).items():
                function = inspect.unwrap(getattr(thing, "method", thing))  # equinox wraps the methods of its modules
                named = member == "__call__" or member[0] != "_"
                if named and inspect.isfunction(function) and {"key", "keys"} & set(inspect.signature(function).parameters):
                    found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


PUBLIC = public()


def uses(function):
    """Whether a function reads its key. Some have it because others of their kind need it, and some only describe a contract."""
    return any(each.argval == "key" and each.opname.startswith("LOAD") for each in dis.get_instructions(function))


def refusal(function, key):
    """The error of a function under a key, with nothing else."""
    arguments = {name: None for name, each in inspect.signature(function).parameters.items() if each.default is each.empty}
    arguments = {name: value for name, value in arguments.items() if name != "options"} | {"key": key}
    try:
        result = function(**arguments)
        if inspect.isgenerator(result):
            next(result)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("place", [place for place, function in PUBLIC.items() if uses(function) and not place.endswith(".population")])
def test_every_public_function_refuses_other_keys(place):
    assert {shown: refusal(PUBLIC[place], key) for shown, key in REFUSED.items()} == {shown: SENTENCE.format(shown) for shown in REFUSED}


def test_the_search_finds_functions_methods_and_metrics():
    assert len(PUBLIC) > 100 and sum(map(uses, PUBLIC.values())) > 80
    for place in ("flows.langevin.sample", "methods.dual.Dual.step", "metrics.monitors.CrossEntropy.__call__", "training.simulate.step"):
        assert uses(PUBLIC[f"dualebm.{place}"])


def test_several_keys_and_the_key_of_a_metric_are_checked():
    population = PUBLIC["dualebm.flows.wfr.population"]
    keys = (jax.random.key(0), jax.random.key(1), jax.random.PRNGKey(2))
    with pytest.raises(ValueError, match=r"keys\[2\] is uint32 of shape \(2,\); it must be one typed threefry key"):
        population(keys, *[None] * 7)
    with pytest.raises(ValueError, match="key is uint32"):
        CrossEntropy(Samples(jnp.eye(3)), Sphere(3), draws=4, key=jax.random.PRNGKey(0))


def test_threefry_keys_are_taken_also_where_they_are_traced():
    for key in (jax.random.key(0), jax.random.split(jax.random.key(0))[1], jax.random.key(0, impl="threefry2x32")):
        check_key(key)
    with pytest.raises(ValueError, match=re.escape(SENTENCE.format("uint32 of shape (2,)"))):
        jax.eval_shape(lambda key: check_key(key), jax.random.PRNGKey(0))
    jax.eval_shape(jax.vmap(lambda key: check_key(key)), jax.random.split(jax.random.key(0)))


def test_the_key_of_a_seed_is_threefry_whatever_the_default():
    words = jax.random.key_data(jax.random.key(3)).tolist()
    with jax.default_prng_impl("rbg"):
        key = key_of_seed(3)
        check_key(key)
        assert jax.random.key_data(key).tolist() == words
