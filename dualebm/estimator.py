"""The automatic fit of a density as an estimator in the form of scikit-learn."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray
from jaxtyping import Array, Float
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from dualebm import auto, bootstrap, model, model_files, optimality, row_weights, sampling
from dualebm._internal import checks, files, folders
from dualebm._internal.keys import key_of_seed
from dualebm.candidates import FOLDS, Auto
from dualebm.data import preparation, tables
from dualebm.data.advice import advise
from dualebm.energies.shallow import Shallow
from dualebm.training.descriptions import describe

SETTINGS = tuple(field.name for field in dataclasses.fields(Auto))
"""The parameters of an estimator that are settings of `candidates.Auto`."""

UNKNOWN = {"log_density": -math.inf, "gain": -math.inf, "gain_error": math.inf, "effective_fraction": math.nan, "log_z_error": math.inf}
"""The numbers of a stage that a file holds as null, because its log Z is not known."""

CHAINS = 4
"""The number of chains to which independent samples are dealt for ArviZ."""

LARGEST_SEED = 2**31 - 1
"""The number below which a RandomState draws a seed."""


class EnergyModel(DensityMixin, BaseEstimator):
    """The density p = exp(-U) tau / Z, whose base measure tau, energy U and radius are chosen by validation (`auto.fit`).

    Args:
        space: the space of the rows: "euclidean", "sphere" (rows of norm 1) or "torus" (coordinates in [0, period)). On Euclidean space
            columns are standardised for the fit. Samples and densities are in the units of the data all the same.
        latlon: whether the two columns are latitude and longitude in degrees (sphere). Column names such as lat and lon tell which is
            which. Otherwise the first is the latitude.
        normalise: whether rows are divided by their norms (sphere).
        period: the period of the coordinates (torus). None for 1.
        base: the base measure, as for `candidates.Auto`: "auto", "stacked", "normal", "uniform", or a base measure.
        feature: the feature: "auto", "scaled_bump" or "relu".
        neurons: the number of neurons. None for a number that suits the rows, as for the four that follow.
        stages: the largest number of radii of a path.
        iterations: the number of iterations at each radius.
        draws: the number of draws of the base measure that train the energy.
        paths: the number of folds, of 5, on which each path is validated.
        replicates: the number of replicates of a bootstrap, for the errors of log densities (`score_samples`), at least 2. They are
            fitted at their first use.
        precision: the bits of all numbers, 32 or 64.
        random_state: the seed of all random numbers. None is the seed 0, so that a fit repeats itself. A RandomState draws the seed.
        folder: the folder in which the same fit continues after an interruption. None writes nothing.
        callback: function of a dictionary of plain numbers, called after each segment of a path (see `auto.fit`), such as a logger. Its
            log density is in the units of the data.
        progress: whether to show a bar on standard error.

    Attributes:
        model_: the fitted `model.Model`.
        log_partition_: the estimate of log Z. `log_partition_.trusted` tells whether its error can be trusted.
        base_: the fitted base measure.
        radius_: the radius of the energy, its total variation.
        path_: the radii of all candidates, each an `auto.Stage`. Its log density is in the units of the data.
        notes_: sentences about the rows and about what has not converged, with remedies.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, where X is a DataFrame whose column names are strings.

    >>> rows = np.random.default_rng(0).normal([5.0, 0.0], [2.0, 1.0], (40, 2))
    >>> estimator = EnergyModel(base="normal", neurons=2, stages=1, iterations=2, draws=64, paths=1).fit(rows)
    >>> estimator.score_samples(rows[:3]).shape, estimator.sample(2).shape, estimator.score(rows) > -5
    ((3,), (2, 2), True)
    """

    model_: model.Model
    radius_: float
    path_: tuple[auto.Stage, ...]
    notes_: tuple[str, ...]
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self, space="euclidean", *, latlon=False, normalise=False, period=None, base="auto", feature="auto", neurons=None, stages=None,
        iterations=None, draws=None, paths=None, replicates=20, precision=32, random_state=None, folder=None, callback=None,
        progress=False,
    ):  # fmt: skip
        self.space = space
        self.latlon = latlon
        self.normalise = normalise
        self.period = period
        self.base = base
        self.feature = feature
        self.neurons = neurons
        self.stages = stages
        self.iterations = iterations
        self.draws = draws
        self.paths = paths
        self.replicates = replicates
        self.precision = precision
        self.random_state = random_state
        self.folder = folder
        self.callback = callback
        self.progress = progress

    # -- The fit -----------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "EnergyModel":
        """Fit the density to rows.

        Args:
            X: the rows in the units of the data, (n, d): an array, a list of lists or a DataFrame, with at least 10 rows.
            y: ignored.
            sample_weight: the non-negative weights of the rows, (n,), of which only ratios matter. None for equal weights. Rows of weight
                0 are left out.

        Returns:
            The estimator.

        Raises:
            ValueError: a setting is not allowed, there are fewer than 10 rows, a value is no finite number, a weight is not allowed, or
                the rows are no points of the space or have no density.
        """
        del y
        settings, seed = self._settings(), seed_of(self.random_state)
        rows: Any = validate_data(self, X, dtype=np.float64, ensure_min_samples=2 * FOLDS)
        weights = None if sample_weight is None else row_weights.check("sample_weight", sample_weight, len(rows))
        _, key, gap_key = jax.random.split(key_of_seed(seed), 3)  # the keys of `dualebm fit`
        with jax.enable_x64(self.precision == 64):
            table = self._table(rows, weights)
            notes = advise(table, self.space)
            prepared = preparation.prepare(
                table, self.space, normalise=self.normalise, latlon=self.latlon, period=self.period, standardise=self.space == "euclidean"
            )
            data = preparation.to_space(prepared, table, f"float{self.precision}")
            unit = model.log_unit(prepared)
            call = self.callback and functools.partial(_in_units_of_data, self.callback, unit)
            options: dict[str, Any] = dict(weights=table.weights, folder=self.folder, progress=self.progress, callback=call)
            fit = auto.fit(key, data.points, prepared.space, settings, **options)
            step = model.resolving_step(fit.energy, fit.space)
        fitted = model.Model(fit.energy, prepared._replace(space=fit.space), fit.log_partition, step)
        self._set(fitted, fit.radius, fit.path, (*notes, *fit.notes))
        self._of_fit, self._seed = (gap_key, fit, data), seed
        if not fit.log_partition.trusted:
            warnings.warn(fit.log_partition.summary(), stacklevel=2)
        return self

    def _settings(self) -> Auto:
        """Return the settings of the fit. Raise ValueError for parameters that are not allowed."""
        checks.choice("space", self.space, preparation.SPACES)
        checks.choice("precision", self.precision, (32, 64))
        for name in ("latlon", "normalise", "progress"):
            checks.choice(name, getattr(self, name), (True, False))
        checks.count("replicates", self.replicates, 2)
        if self.period is not None:
            checks.number("period", self.period, positive=True)
        if not (self.callback is None or callable(self.callback)):
            raise ValueError(f"callback is {self.callback!r}; it must be a function or None")
        return Auto(**{name: getattr(self, name) for name in SETTINGS})

    def _set(self, fitted: model.Model, radius: float, path: tuple[auto.Stage, ...], notes: tuple[str, ...]) -> None:
        """Set the attributes of a fit. The log densities of the path are with respect to the coordinates of the points."""
        unit = model.log_unit(fitted.preparation)
        self.__dict__.pop("gap_", None)
        self.model_, self.radius_, self.notes_ = fitted, radius, notes
        self.log_partition_, self.base_ = fitted.log_partition, fitted.preparation.space.base
        self.path_ = tuple(stage._replace(log_density=stage.log_density - unit) for stage in path)

    def _table(self, rows: Float[np.ndarray, "n d"], weights: Any = None) -> tables.Table:
        """Return rows that scikit-learn has checked as a table, with the names of the columns of the fit and with weights."""
        import pandas

        names = getattr(self, "feature_names_in_", None)
        columns = [str(position + 1) for position in range(rows.shape[1])] if names is None else list(names)
        frame = rows if names is None else pandas.DataFrame(rows, columns=columns)
        return tables.as_table(frame, columns if self.latlon else None, name="X", weights=weights)

    # -- The density -------------------------------------------------------------------------------

    def score_samples(self, X: Any, return_std: bool = False) -> Any:
        """Return the log density of each row, in nats: with respect to Lebesgue measure, or on a sphere to its area measure.

        Args:
            X: the rows in the units of the data, (n, d). Rows that were standardised by hand are not told from rows of the data.
            return_std: whether to return errors too. They are what finite data leave uncertain (`dualebm.bootstrap`), without the error
                of log Z, which all rows share, and without the bias of the base measure.

        Returns:
            The log densities, (n,), and with `return_std` a pair of them and of their errors, (n,).

        Raises:
            ValueError: the columns are not those of the fit, a row is no point of the space, or errors are wanted of a loaded model
                without replicates.
        """
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=np.float64, reset=False)
        space = self.model_.preparation.space
        with self._precision():
            points = preparation.to_space(self.model_.preparation, self._table(rows), model.precision(self.model_)).points
            values = model.log_densities_at(self.model_, points)[model.density_name(space)]
            if not return_std:
                return values
            self._replicate()
            errors = model.errors_at(self.model_, points)
        if errors is None:
            raise ValueError("return_std is True, and the folder of this model holds no replicates; fit the rows again for errors")
        return values, errors.rows

    def _replicate(self) -> None:
        """Fit the replicates of the model where it has none and its rows are known."""
        if self.model_.replicates is None and self._of_fit is not None:
            key, fit, data = self._of_fit
            weights = None if data.log_weights is None else np.asarray(data.weights, np.float64)
            key = jax.random.fold_in(key, 2)
            replicates = bootstrap.replicate(key, fit.energy, fit.space, data.points, weights, self.replicates)
            self.model_ = self.model_._replace(replicates=replicates)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log density of rows, in nats. A larger one is better.

        Args:
            X: rows, (n, d), or a DataFrame with the columns of the fit.
            y: ignored. scikit-learn passes it.

        Returns:
            The mean of `score_samples`, in nats per row.

        Raises:
            ValueError: the rows are not allowed (see `score_samples`).
        """
        del y
        return float(np.mean(self.score_samples(X)))

    @property
    def log_density(self) -> Callable[[Any], Array]:
        """Return the log density as a JAX function of one row in the units of the data, (d,), or of an array of rows, (..., d).

        It may be compiled, differentiated and mapped, and is what samplers of other packages take. With `latlon` a row is a latitude
        and a longitude in degrees. The density is then still with respect to area, and not to degrees. A model of 64 bits needs
        `jax.enable_x64(True)` around every use.

        Raises:
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        return model.log_density_function(self.model_)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw samples of the density (`sampling.draw`).

        Args:
            n_samples: the number of samples.
            random_state: the seed. None is the seed 0, so that the same call returns the same samples. A RandomState draws the seed.

        Returns:
            The samples in the units of the data, (n_samples, d). They are a DataFrame where the rows of the fit were one.

        Raises:
            ValueError: a number is not allowed, or the samples do not fit into memory.
        """
        import pandas

        check_is_fitted(self)
        checks.count("n_samples", n_samples)
        sampling.check_memory("n_samples", n_samples, self.model_.preparation.space.dimension)
        with self._precision():
            drawn = sampling.draw(key_of_seed(seed_of(random_state)), self.model_, n_samples)
        table = preparation.from_space(self.model_.preparation, drawn.points)
        if table.columns is None:
            return table.rows
        frame = pandas.DataFrame(table.rows, columns=list(table.columns))
        return frame[[name for name in self.feature_names_in_ if name in table.columns]]  # latitudes may come second in X

    def _precision(self) -> Any:
        """Return the context in which numbers have the precision of the model."""
        return jax.enable_x64(model.precision(self.model_).itemsize == 8)

    # -- What is known of the fit ------------------------------------------------------------------

    @functools.cached_property
    def gap_(self) -> optimality.Gap:
        """Return how far the energy is from the best of its ball, in nats (`optimality.gap_of_fit`). It is computed at the first use."""
        check_is_fitted(self)
        if self._of_fit is None:
            return optimality.Gap(None, None, self.radius_, "the rows of the fit are not stored with the model")
        with self._precision():
            return optimality.gap_of_fit(*self._of_fit)

    @property
    def history_(self) -> xarray.Dataset:
        """Return the numbers of `path_` along (candidate, stage). They are NaN at stages that a path has not reached."""
        check_is_fitted(self)
        names = list(dict.fromkeys(stage.candidate for stage in self.path_))
        shape = len(names), 1 + max((stage.stage for stage in self.path_), default=-1)
        values = {name: np.full(shape, math.nan) for name in auto.Stage._fields if name not in ("candidate", "stage")}
        for stage in self.path_:
            for name, array in values.items():
                array[names.index(stage.candidate), stage.stage] = getattr(stage, name)
        coordinates = {"candidate": names, "stage": np.arange(shape[1])}
        return xarray.Dataset({name: (("candidate", "stage"), array) for name, array in values.items()}, coordinates)

    def to_pandas(self) -> Any:
        """Return `path_` as a DataFrame, one row for each radius of each candidate."""
        import pandas

        check_is_fitted(self)
        return pandas.DataFrame(self.path_, columns=list(auto.Stage._fields))

    def to_arviz(self, n_samples: int = 4000, random_state: Any = None) -> Any:
        """Return samples as InferenceData of ArviZ, with a variable for each column and the log densities as `sample_stats.lp`.

        The samples are independent (see `sample`). They are dealt to 4 chains, which the diagnostics of ArviZ compare.

        Args:
            n_samples: the number of samples, a multiple of 4.
            random_state: the seed, as for `sample`.

        Returns:
            The InferenceData. Columns without names are called x1, x2, ...

        Raises:
            ValueError: a number is not allowed.
            ImportError: the package arviz is not installed.
        """
        check_is_fitted(self)
        checks.count("n_samples", n_samples)
        if n_samples % CHAINS:
            raise ValueError(f"n_samples is {n_samples}; it must be a multiple of {CHAINS}, the number of chains")
        checks.package("arviz", "to_arviz", "'arviz<1'")
        import arviz  # pyright: ignore[reportMissingImports]

        drawn = self.sample(n_samples, random_state)
        rows = np.asarray(drawn)
        names = list(getattr(drawn, "columns", (f"x{i + 1}" for i in range(rows.shape[1]))))
        posterior = {name: column.reshape(CHAINS, -1) for name, column in zip(names, rows.T, strict=True)}
        return arviz.from_dict(posterior, sample_stats={"lp": self.score_samples(drawn).reshape(CHAINS, -1)})

    # -- Files -------------------------------------------------------------------------------------

    def save(self, folder: files.PathLike) -> None:
        """Write the fitted model to a folder, which `load`, `dualebm score` and `dualebm sample` read. No file holds code.

        The replicates are fitted first where they have not been used.

        Args:
            folder: the folder, which is made where there is none.

        Raises:
            ValueError: the base measure is a `CustomBase`, whose functions no file holds.
            OSError: the folder cannot be written.
        """
        check_is_fitted(self)
        with self._precision():
            self._replicate()
        folders.make(Path(folder))
        unit = model.log_unit(self.model_.preparation)
        about = {
            "path": [files.finite(stage._replace(log_density=stage.log_density + unit)) for stage in self.path_],
            "notes": list(self.notes_),
            "automatic": describe(self._settings()),
            "seed": self._seed,
            "feature_names": None if self.model_.preparation.columns is None else list(self.feature_names_in_),
        }
        model_files.save(folder, self.model_, about)

    @classmethod
    def load(cls, folder: files.PathLike) -> "EnergyModel":
        """Return the fitted estimator of a folder that `save` or `dualebm fit` wrote.

        Its parameters are those of the fit, but for `folder`, `callback` and `progress`. `path_` and `notes_` are empty where the folder
        holds none. `gap_` is not known, because the rows of the fit are not stored.

        Args:
            folder: the folder.

        Returns:
            The estimator.

        Raises:
            FileNotFoundError: the folder holds no model.
            ValueError: a file is damaged, or of another version.
        """
        header = model_files.read(folder)
        with jax.enable_x64(header["precision"] == 64):
            fitted = model_files.load(folder)
        prepared, space = fitted.preparation, fitted.preparation.space
        given = {name: value for name, value in header.get("automatic", {}).items() if name in SETTINGS}
        if not isinstance(given.get("base", "auto"), str):
            given["base"] = space.base  # a base measure that was given is not changed by the fit
        self = cls(
            type(space).__name__.lower(), latlon=prepared.latlon, normalise=prepared.normalise, precision=header["precision"],
            period=getattr(space, "period", None), replicates=header.get("replicates") or bootstrap.REPLICATES,
            random_state=header.get("seed"), **given,
        )  # fmt: skip
        energy = fitted.energy
        radius = float(np.mean(np.abs(energy.coefficients))) if isinstance(energy, Shallow) else math.nan
        self._set(fitted, radius, _path_of(header), tuple(header.get("notes", ())))
        names = header.get("feature_names", prepared.columns)
        self.n_features_in_ = len(names) if names else 2 if prepared.latlon else space.dimension
        if names:
            self.feature_names_in_ = np.array(names, object)
        self._of_fit, self._seed = None, header.get("seed")
        return self


def _path_of(header: dict[str, Any]) -> tuple[auto.Stage, ...]:
    """Return the stages that `model.json` holds, where null stands for a number that is not known."""
    stages: list[Any] = header.get("path", [])
    spelt: list[dict[str, Any]] = [{name: UNKNOWN[name] if v is None else v for name, v in stage.items()} for stage in stages]
    return tuple(auto.Stage(**stage) for stage in spelt)


def seed_of(random_state: Any) -> int:
    """Return the seed of a `random_state`.

    Args:
        random_state: None for 0, an integer for itself, or a RandomState of NumPy, which draws the seed.

    Returns:
        The seed.

    Raises:
        ValueError: the value is another, such as a Generator of NumPy.

    >>> seed_of(None), seed_of(7)
    (0, 7)
    """
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(LARGEST_SEED))
    if isinstance(random_state, np.random.Generator):
        raise ValueError(f"random_state is {random_state!r}; it must be None, an integer or a numpy.random.RandomState")
    checks.seed("random_state", random_state)
    return int(random_state)


def _in_units_of_data(callback: Callable[[dict[str, Any]], Any], unit: float, numbers: dict[str, Any]) -> Any:
    """Call a function with the numbers of `auto.fit`, of which the log density is in the units of the data."""
    value = numbers["log_density"]
    return callback({**numbers, "log_density": None if value is None else value - unit})
