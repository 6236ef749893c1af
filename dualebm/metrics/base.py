"""The base class of a metric with labels."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Key

from dualebm.methods.base import Iterate


class Metric(eqx.Module):
    """A number or an array that a run records: an equinox module, whose arrays are arguments of the compiled program.

    A subclass defines `__call__`. It may set the class variables `long_name` and `units`, which label the results and
    the figures. A plain function `(key, iterate) -> array` is a metric too, without labels.

    >>> class Particles(Metric):
    ...     long_name, units = "number of particles", "1"
    ...     def __call__(self, key, iterate):
    ...         return iterate.samples.points.shape[0] + 0 * iterate.state.step
    >>> Particles().labels
    {'units': '1', 'long_name': 'number of particles'}
    """

    long_name: ClassVar[str | None] = None
    units: ClassVar[str | None] = None

    @abc.abstractmethod
    def __call__(self, key: Key[Array, ""], iterate: Iterate) -> Any:
        """Return the value of the metric, an array.

        Args:
            key: a random key for draws of the metric.
            iterate: the state of the run, with its method, rates, data and diagnostics.
        """

    def warnings(self, values: np.ndarray) -> dict[str, str]:
        """Return what the records of a run say against it. `run` warns of each kind once. It is called on the host.

        Args:
            values: the records so far, (records, ...).

        Returns:
            Sentences for the user by kinds, which are words. The default is none.
        """
        del values
        return {}

    @property
    def labels(self) -> dict[str, str]:
        """The labels that are set, by their names "units" and "long_name"."""
        return {name: label for name, label in (("units", self.units), ("long_name", self.long_name)) if label is not None}
