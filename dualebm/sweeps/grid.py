"""Grids of settings, and the run that each combination of settings defines.

A grid is a dictionary from the name of a setting to its values, one for each run. A setting is `seed`, a field of the
method's rates, a field of the method, or an argument of the functions that make a run's rates, method, data or metrics.
"""

import dataclasses
import difflib
import inspect
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from dualebm._internal import checks
from dualebm._internal.keys import key_of_seed
from dualebm.settings import Count, Seed, checked, described
from dualebm.sweeps.identity import identity, in_words, scalar, without_seed
from dualebm.training.descriptions import describe

Grid = dict[str, list]
"""For each setting its value in each run."""

RESERVED = ("run", "step", "key")
"""Names that a setting may not have."""


class Uniform(NamedTuple):
    """A uniform distribution of a setting, for `draws`.

    Args:
        low: The lower end.
        high: The upper end.
        log: Whether the logarithm of the setting is uniform, rather than the setting.
    """

    low: float
    high: float
    log: bool = False


def product(**values: Iterable) -> Grid:
    """Return the grid of every combination of the values. The last setting varies fastest.

    Args:
        values: the values of each setting, by name.

    Returns:
        The grid: a list of values, one for each run, by the name of the setting.

    Raises:
        ValueError: a setting has no values.

    >>> product(particle_step=[0.01, 0.02], seed=range(2))
    {'particle_step': [0.01, 0.01, 0.02, 0.02], 'seed': [0, 1, 0, 1]}
    """
    lists = _lists(values)
    runs = list(itertools.product(*lists.values()))
    return {name: [run[i] for run in runs] for i, name in enumerate(lists)}


def zipped(**values: Iterable) -> Grid:
    """Return the grid whose run i has the value i of each setting.

    Args:
        values: the values of each setting, by name.

    Returns:
        The grid: a list of values, one for each run, by the name of the setting.

    Raises:
        ValueError: the settings have different numbers of values.

    >>> zipped(transport_step=[1.0, 2.0], reaction_step=[0.5, 1.0])
    {'transport_step': [1.0, 2.0], 'reaction_step': [0.5, 1.0]}
    """
    lists = _lists(values)
    if len({len(listed) for listed in lists.values()}) > 1:
        counts = ", ".join(f"{name} {len(listed)}" for name, listed in lists.items())
        raise ValueError(f"the settings have different numbers of values ({counts}); they must have the same")
    return lists


@checked
def draws(seed: Seed, count: Count, **values: Uniform | Iterable) -> Grid:
    """Return a grid of random runs, whose settings are drawn independently.

    Args:
        seed: The seed of the draws.
        count: The number of runs.
        values: For each setting a `Uniform` distribution, or a list of equally likely values.

    Returns:
        The grid.

    Raises:
        ValueError: When `seed` is no seed, `count` is less than 1, the ends of a distribution are not allowed, or a list is empty.

    >>> draws(0, 3, transport_step=Uniform(0.1, 10.0, log=True), integrator=["mala"])["integrator"]
    ['mala', 'mala', 'mala']
    """
    generator = np.random.default_rng(seed)
    grid = {}
    for name, choice in values.items():
        if isinstance(choice, Uniform):
            for end in ("low", "high"):
                checks.number(f"{name}.{end}", getattr(choice, end), signed=True)
            if not choice.low < choice.high or (choice.log and choice.low <= 0):
                raise ValueError(f"{name} is {choice}; it must have {'0 < low < high' if choice.log else 'low < high'}")
            low, high = (math.log(x) if choice.log else x for x in choice[:2])
            drawn = generator.uniform(low, high, count)
            grid[name] = [float(math.exp(x) if choice.log else x) for x in drawn]
        else:
            listed = _lists({name: choice})[name]
            grid[name] = [listed[i] for i in generator.integers(len(listed), size=count)]
    return grid


def cross(*grids: Grid) -> Grid:
    """Return the grid of every run of one grid combined with every run of the others.

    For example `cross(draws(0, 100, ...), product(seed=range(4)))`.

    Args:
        grids: the grids.

    Returns:
        The grid.

    Raises:
        ValueError: a setting is in two of the grids.

    >>> cross(zipped(a=[1, 2], b=[3, 4]), product(seed=range(2)))
    {'a': [1, 1, 2, 2], 'b': [3, 3, 4, 4], 'seed': [0, 1, 0, 1]}
    """
    listed = [settings_of(grid) for grid in grids]
    names = [name for grid in grids for name in grid]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is in two of the grids; each setting must be in one")
    runs = [{k: v for settings in chosen for k, v in settings.items()} for chosen in itertools.product(*listed)]
    return {name: [settings[name] for settings in runs] for name in names}


def _lists(values) -> Grid:
    for name, given in values.items():
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise ValueError(f"{name} is {given!r:.200}; it must be values, such as a list")
    lists = {name: list(given) for name, given in values.items()}
    if not lists:
        raise ValueError("the grid is empty; give at least one setting with its values")
    for name, listed in lists.items():
        if not listed:
            raise ValueError(f"{name} has no values; it must have at least one")
    return lists


@checked
def settings_of(grid: Grid) -> list[dict[str, Any]]:
    """Return the settings of each run.

    Args:
        grid: the grid.

    Returns:
        A dictionary of settings for each run.

    Raises:
        ValueError: the grid is empty, has different numbers of values, or has a name that is reserved or no identifier.

    >>> settings_of(product(seed=range(2)))
    [{'seed': 0}, {'seed': 1}]
    """
    lists = zipped(**grid)
    for name in lists:
        if name in RESERVED or not name.isidentifier():
            raise ValueError(f"the grid has the setting {name!r}; it must be an identifier other than {', '.join(RESERVED)}")
    return [dict(zip(lists, map(scalar, values), strict=True)) for values in zip(*lists.values(), strict=True)]


class Replica(NamedTuple):
    """One run of a sweep before it runs. Its data and metrics are made when they are needed.

    Args:
        index: Its index in the grid. It is -1 for a run that is stored in the folder of the sweep but is not in the grid of this
            call. Such a run cannot be continued, and has None in all other fields but `settings`.
        settings: Its settings by name.
        key: Its random key, of `jax.random`.
        method: Its training method.
        rates: Its rates, a NamedTuple of scalars.
        schedule: Pure, hashable function `(step, rates) -> rates`, or None. It is static in the compiled program.
    """

    index: int
    settings: dict[str, Any]
    key: Any
    method: Any
    rates: Any
    schedule: Callable | None


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What the runs of a sweep have in common.

    Each of `method`, `rates`, `data` and `metrics` is a value, or a function whose arguments name the settings of the
    run that it takes. The functions of data and metrics may also take an argument `key`, which depends on the seed
    alone.

    Args:
        method: A `Method`, or a function.
        rates: The rates, or a function; None for `method.rates`.
        data: The data, or a function.
        metrics: The metrics by name, or a function.
        schedule: Pure, hashable function `(step, rates) -> rates`, or None. It is static in the compiled program.
        common: Whether runs of one seed have the same noise and the same start. Otherwise each run has its own.

    >>> from dualebm.methods.dual import Dual; from dualebm.spaces import Sphere
    >>> study = Study(Dual(Sphere(3)), None, lambda key, n: None, {})
    >>> study.replica(0, {"seed": 1, "n": 100, "radius": 5.0}).rates.radius
    5.0
    """

    method: Any
    rates: Any
    data: Any
    metrics: Any
    schedule: Callable | None = None
    common: bool = False

    def check(self, runs: list[dict[str, Any]]) -> None:
        """Check the settings of all runs.

        Args:
            runs: the settings of each run.

        Raises:
            ValueError: two runs have the same settings, or the first run is not allowed (see `replica`).
        """
        known: dict[str, int] = {}
        for index, settings in enumerate(runs):
            first = known.setdefault(identity(settings), index)
            if first != index:
                raise ValueError(f"runs {first} and {index} are the same: {in_words(settings)}; all runs must differ")
        self.replica(0, runs[0])

    def _sources(self):
        return {name: getattr(self, name) for name in ("method", "rates", "data", "metrics")}

    def _arguments(self, name: str) -> list[str]:
        source = self._sources()[name]
        return list(inspect.signature(source).parameters) if callable(source) else []

    def _call(self, name: str, settings, **more) -> Any:
        """Return the value of a source for a run: the source itself, or what its function returns."""
        source = self._sources()[name]
        if not callable(source):
            return source
        given = {**settings, **more}
        parameters = inspect.signature(source).parameters.values()
        missing = [p.name for p in parameters if p.name not in given and p.default is p.empty]
        if missing:
            raise ValueError(f"{name} takes {missing[0]!r}, which is no setting of the grid; the settings are {', '.join(settings)}")
        return source(**{p.name: given[p.name] for p in parameters if p.name in given})

    def replica(self, index: int, settings: dict[str, Any]) -> Replica:
        """Return the run with these settings.

        Args:
            index: the number of the run.
            settings: the settings by name.

        Returns:
            The run.

        Raises:
            ValueError: neither the method, the rates nor a function has a setting (the message has the nearest name); a number is not
                finite; the rates are those of another method; or a function has an argument that is no setting.
        """
        for name, value in settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value} in run {index}; it must be finite")
        method = self._call("method", settings)
        fields = {f.name for f in dataclasses.fields(method)} & set(settings)
        method = dataclasses.replace(method, **{name: settings[name] for name in fields}) if fields else method
        rates = self._call("rates", settings)
        rates = method.rates if rates is None else rates
        if type(rates) is not type(method.rates):
            raise ValueError(f"rates is {rates!r}; it must be a {type(method.rates).__name__}, such as {method.rates}")
        of_rates = set(rates._fields) & set(settings)
        rates = rates._replace(**{name: settings[name] for name in of_rates})
        asked = {argument for name in self._sources() for argument in self._arguments(name)}
        allowed = {"seed", *asked, *rates._fields, *(f.name for f in dataclasses.fields(method))} - {"key"}
        for name in settings:
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, 1)
                nearest = f"; the nearest is {near[0]!r}" if near else ""
                raise ValueError(f"the grid has the setting {name!r}; allowed: {', '.join(sorted(allowed))}{nearest}")
        checks.seed("seed", settings.get("seed", 0))
        return Replica(index, settings, self._key_of_run(settings, method), method, rates, self.schedule)

    def _key_of_run(self, settings, method):
        key = _keys(settings)[0]
        if self.common:
            return key
        ours = type(method).__module__.startswith("dualebm.")
        floats = {name for name, field in described(type(method)).items() if float in field.kinds} if ours else set()
        return jax.random.fold_in(key, zlib.crc32(without_seed(settings, {*floats, *method.rates._fields}).encode()))

    def make(self, name: str, settings: dict[str, Any], known: MutableMapping) -> Any:
        """Return the data or the metrics of a run.

        Args:
            name: "data" or "metrics".
            settings: The settings of the run.
            known: Data and metrics that have been made, by the settings that they depend on. New ones are added.

        Returns:
            What `known` holds for these settings, else what the function makes.
        """
        arguments = self._arguments(name)
        used = {argument: settings[argument] for argument in arguments if argument in settings}
        seed = settings.get("seed", 0) if "key" in arguments else None
        identifier = name, seed, identity(used)
        if identifier not in known:
            key = _keys(settings)[1 if name == "data" else 2]
            known[identifier] = self._call(name, settings, key=key)
        return known[identifier]

    def varies(self, name: str) -> bool:
        """Return whether each run has separate data or metrics.

        Args:
            name: "data" or "metrics".

        Returns:
            True where the study has a function for them.
        """
        return callable(self._sources()[name])

    def groups(self, replicas: list[Replica]) -> list[list[Replica]]:
        """Return the runs in groups of one static structure (method, schedule, shapes), in order of appearance.

        Each group compiles once. Data and metrics are made once for each combination of the settings that they depend
        on, other than the seed. The seed is assumed to leave shapes as they are.

        Args:
            replicas: the runs.

        Returns:
            The groups of runs.
        """
        groups: dict[Any, list[Replica]] = {}
        shapes: dict[str, Any] = {}
        for replica in replicas:
            asked = {*self._arguments("data"), *self._arguments("metrics")} - {"seed"}
            choice = identity({name: value for name, value in replica.settings.items() if name in asked})
            if choice not in shapes:
                shapes[choice] = signature(tuple(self.make(name, replica.settings, {}) for name in ("data", "metrics")))
            groups.setdefault((replica.method, replica.schedule, shapes[choice]), []).append(replica)
        return list(groups.values())


def _keys(settings):
    """Return the keys of a seed for the run, for its data and for its metrics."""
    return jax.random.split(key_of_seed(settings.get("seed", 0)), 3)


def signature(tree: Any) -> str:
    """Return the static values of a pytree, and the shapes and dtypes of its arrays, as text.

    Args:
        tree: the pytree.

    Returns:
        The text, which is equal for two pytrees that one compiled program serves.

    >>> signature((np.zeros(2), 1)) == signature((np.ones(2), 1)), signature(np.zeros(2)) == signature(np.zeros(3))
    (True, False)
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arrays)]
    return json.dumps([shapes, describe(jax.tree.leaves(rest)), str(jax.tree.structure(tree))])
