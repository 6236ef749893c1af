"""The figures of the Gaussian mixture."""

from typing import Any

import numpy as np
import xarray
from matplotlib.figure import Figure

from dualebm.plotting import charts
from experiments import _common
from experiments.gaussian_mixture.mixture import FIRST, MASS, METHODS, SECOND, THRESHOLD
from experiments.gaussian_mixture.sweeps import accumulated

RECOMMENDED = "Jarzynski, resampled below 1/1.05"
"""The variant of the threshold that the paper recommends."""


def draw_methods(by_method: dict[str, xarray.Dataset]) -> Figure:
    """Draws masses, means and KL against iterations, of all methods; a name that is none of `METHODS` is the variant `RECOMMENDED`."""
    figure, (panels,) = _common.panels_of(1, 3, 2.8)
    masses, means, kls = panels
    count = max(results.sizes["run"] for results in by_method.values())
    for i, (name, results) in enumerate(by_method.items()):
        step, label = results.step.values, METHODS.get(name, RECOMMENDED)
        label += ", 1 seed" if results.sizes["run"] == 1 < count else ""
        marks: dict[str, Any] = dict(markevery=(5 * i, 25))
        _common.band(masses, step, results.mass.values, i, label=label, **marks)
        for component in range(2):
            _common.band(means, step, results.means.values[:, :, component], i, **marks)
        positive = np.where(results.kl_fresh.values[:, 1:] > 1e-4, results.kl_fresh.values[:, 1:], 1e-4)
        _common.band(kls, step[1:], positive, i, **marks)
    masses.axhline(MASS, color="black", linestyle=":", linewidth=0.8, label="teacher")
    for mean in (FIRST, SECOND):
        means.axhline(mean, color="black", linestyle=":", linewidth=0.8)
    masses.set(ylabel="mass of the first mode", ylim=(0, None))
    means.set_ylabel("first coordinates of the means")
    kls.set_ylabel("KL, fresh data (nat)")
    charts.log_axis(kls.yaxis)
    for panel in panels:
        panel.set_xlabel("iteration")
    _common.legend(figure, [masses], 4, title=_common.of_seeds(count))
    return figure


def draw_weights(by_method: dict[str, xarray.Dataset]) -> Figure:
    """Draws the effective fraction and the error of log Z, beside the error that finite walkers are expected to have."""
    figure, (panels,) = _common.panels_of(1, 2, 2.8)
    fractions, errors = panels
    for name, results in by_method.items():
        step, i = results.step.values, list(METHODS).index(name)
        marks: dict[str, Any] = dict(markevery=(10 * i + 5, 25))
        _common.band(fractions, step, results.ess.values, i, label=METHODS[name], **marks)
        _common.band(errors, step, results.partition_error.values[:, :, 0], i, **marks)
        expected = -accumulated(step, results.drift.values)
        errors.plot(step, expected.mean(0), color=charts.COLOURS[i], linestyle="--", linewidth=1)
    errors.plot([], [], color="black", linestyle="--", linewidth=1, label="expected of finite walkers")
    fractions.axhline(THRESHOLD, color="black", linestyle=":", linewidth=0.8, label="threshold")
    fractions.set_ylabel("effective fraction, mean since\nthe last record")
    errors.set_ylabel("error of log Z (nat)")
    for panel in panels:
        panel.set_xlabel("iteration")
    count = next(iter(by_method.values())).sizes["run"]
    _common.legend(figure, [fractions, errors], 4, title=_common.of_seeds(count))
    return figure


def draw_counts(by_count: dict[int, dict[str, np.ndarray]]) -> Figure:
    """Draws the error of log Z and the mass at the end against the number of walkers, a mark for each run."""
    figure, ((errors, masses),) = _common.panels_of(1, 2, 3.0)
    form: dict[str, Any] = _common.look(0) | dict(linestyle="", fillstyle="none")
    counts = np.array(list(by_count))
    x = np.repeat(counts, [len(one["error"]) for one in by_count.values()])
    loss = -np.concatenate([one["error"] for one in by_count.values()])
    errors.plot(x[loss > 0], loss[loss > 0], label="a run", **form)  # what noise has above 0 is in the rows
    masses.plot(x, np.concatenate([one["mass"] for one in by_count.values()]), **form)
    errors.plot(counts, [-one["predicted"].mean() for one in by_count.values()], color="black", linestyle="--", label="expected")
    masses.axhline(MASS, color="black", linestyle=":", linewidth=0.8, label="teacher")
    charts.log_axis(errors.yaxis)
    errors.set_ylabel("less than log Z by (nat)")
    masses.set_ylabel("mass of the first mode at the end")
    for panel in (errors, masses):
        charts.log_axis(panel.xaxis, counts.tolist())
        panel.set_xlim(counts.min() / 1.5, counts.max() * 1.5)
        panel.set_xlabel("walkers N")
    _common.legend(figure, [errors, masses], 3)
    return figure
