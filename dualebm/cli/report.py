"""The lines and notes that `dualebm fit` and `dualebm score` print."""

import math
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray

from dualebm.base_mixtures import in_words
from dualebm.candidates import FOLDS
from dualebm.cli.flags import groups_of, spell
from dualebm.log_z.estimate import METHODS, LogPartitionEstimate
from dualebm.metrics.annealed import AGREEMENT, TOLERANCE, findings
from dualebm.model import Model, density_name, log_unit

LARGEST_SCALE = 3.0
"""The column mean, standard deviation or inverse of one above which `dualebm fit` suggests --standardise."""

ROUNDING = 1e-12
"""The relative error below which a standard error is printed as 0."""

SMALL_P = 0.05
"""The p-value below which rows differ from the model by more than chance."""

WORSE = -0.1
"""The held-out energy gap below which `dualebm fit` suggests a larger radius."""

LOG_DENSITIES = {
    "log_density_lebesgue": "log density in Lebesgue measure",
    "log_density_area": "log density in area measure",
    "log_density_base": "log density in the base measure",
}
"""The log densities of `model.log_densities` in words, in the order in which they are printed."""


def with_error(mean: float | None, error: float | None, digits: int = 6, sign: str = "") -> str:
    """Return a mean over rows and its standard error as text.

    Args:
        mean: the mean. None where it is infinite.
        error: the standard error. None for one row.
        digits: the number of digits of the mean.
        sign: "+" to show the sign of a positive mean.

    >>> with_error(1.5, 0.25)
    '1.5 +- 0.25'
    """
    if mean is None:
        return "infinite"
    text = f"{mean:{sign}.{digits}g}"
    if error is None:
        return f"{text} (one row: no standard error)"
    return f"{text} +- {error if error > ROUNDING * abs(mean) else 0:.2g}"  # the error of a constant is rounding


OFF = 0.1
"""The difference, in nats, from which on log Z by the particles of a training is of no use, whatever error it states."""

DOUBTFUL = " (NOT TO BE TRUSTED)"
"""The mark of a cross-entropy whose log Z is wrong."""


def last_records(results: xarray.Dataset, names: list[str], mark: str = "") -> str:
    """Return the last records of metrics as one line. A metric is a number, or a number and its standard error.

    Args:
        results: the records along `step`.
        names: the names of the metrics.
        mark: a text behind each cross-entropy.

    >>> last_records(xarray.Dataset({"kl": ("step", [0.5, 0.25])}), ["kl"])
    'kl 0.25'
    >>> last_records(xarray.Dataset({"fit_cross_entropy": (("step", "value"), [[-99.0, np.nan]])}), ["fit_cross_entropy"], DOUBTFUL)
    'fit_cross_entropy -99 (NOT TO BE TRUSTED)'
    """
    return ", ".join(f"{name} {_number(results[name].values[-1])}{mark if name.endswith('_cross_entropy') else ''}" for name in names)


class Check(NamedTuple):
    """A check of a run by fresh samples of its model (`metrics.AnnealedCheck`), with standard errors, in nats. Unknown numbers are NaN.

    Args:
        step: the number of iterations done.
        cross_entropy: the cross-entropy of the held-out points.
        cross_entropy_error: its error, which is that of log Z.
        log_partition_off: log Z by the particles less that by the fresh samples.
        log_partition_off_error: its error.
        energy_off: the mean energy of the particles less that of the model.
        energy_off_error: its error.
    """

    step: int
    cross_entropy: float
    cross_entropy_error: float
    log_partition_off: float
    log_partition_off_error: float
    energy_off: float
    energy_off_error: float


def checks(results: xarray.Dataset, name: str) -> list[Check]:
    """Return the checks of a run that could be made.

    Args:
        results: the records along `step`.
        name: the name of the metric.
    """
    made = zip(results.step.values, results[name].values.astype(float), strict=True)
    return [Check(int(step), *rows.ravel().tolist()) for step, rows in made if np.isfinite(rows[0, 0])]


def note_of_particles(by_particles: tuple[float, float] | None, estimate: LogPartitionEstimate) -> str | None:
    """Return a note when log Z by the particles of a training is wrong by an independent estimate, and None otherwise.

    It is wrong where the two differ by more than their errors. From `OFF` on it is of no use, whatever its own error.

    Args:
        by_particles: log Z and its standard error by the particles, in nats. The error may be NaN. None where the method knows none.
        estimate: the independent estimate.

    >>> known = LogPartitionEstimate(-30.66, 0.001, 900.0, 1000, 0.2, "draws", -30.66, None)
    >>> note_of_particles((-128.0, math.nan), known).split(":")[0]
    'log Z by the particles of the training is -128, and -30.66 +- 0.001 by importance sampling'
    >>> note_of_particles((-30.67, math.nan), known) is None, note_of_particles((-30.75, 0.2), known) is None
    (True, True)
    """
    if by_particles is None or not estimate.trusted:
        return None
    value, error = by_particles
    known = 0.0 if math.isnan(error) else error
    own, other = (AGREEMENT * error + TOLERANCE for error in (math.hypot(known, estimate.standard_error), estimate.standard_error))
    if abs(value - estimate.value) <= min(own, max(other, OFF)):
        return None
    return (
        f"log Z by the particles of the training is {with_error(value, known or None, 4).split(' (')[0]}, and "
        f"{with_error(estimate.value, estimate.standard_error, 4)} by {METHODS[estimate.method]}: the cross-entropies of the records are "
        "NOT TO BE TRUSTED, and the log densities of the model do not use them. Lower the steps of the training, or let --renewal redraw "
        "the particles more often"
    )


def note_of_rise(checks: Any) -> str | None:
    """Return a note when the last check of a run says that the cross-entropy was lower before, and no warning along the run did.

    Args:
        checks: the records of an `AnnealedCheck`, (k, 3, 2), with NaN where no check was made.

    >>> rows = np.array([[[value, 0.01]] * 3 for value in (-1.0, -1.2, -1.0)])
    >>> note_of_rise(rows)[:71]
    'the cross-entropy by fresh samples of the model has been 0.2 nat lower,'
    """
    made = checks[np.isfinite(checks[:, 0, 0])].astype(float)
    if not len(made) or any("rise" in findings(made[:count]) for count in range(1, len(made) + 1)):
        return None
    return findings(made, ended=True).get("rise")


def _number_or_none(error: float) -> str:
    return "" if math.isnan(error) else f" +- {error:.2g}"


def _number(value) -> str:
    return f"{float(value):.4g}" if np.ndim(value) == 0 else f"{float(value[0]):.4g}{_number_or_none(float(value[1]))}"


def lines(header: Mapping[str, Any], fitted: Model) -> list[str]:
    """Return the lines that state a fit: what was chosen and why, log Z, mean log densities, and how good the fit is.

    Args:
        header: `model.json` of the folder of the fit, as `dualebm fit` writes it.
        fitted: the model of this folder.

    Returns:
        The lines, in the order in which they are printed.
    """
    data = header["data"]
    first = f"{data['trained_on']} rows of {data['file']} on {data['space']}, {header['held_out']['rows']} held out"
    base = f"base measure: {in_words(fitted.preparation.space.base)}"
    chosen = [*choice(header), base, validation(header)] if "path" in header else []
    means = [line for rows in ("trained_on", "held_out") if rows in header for line in likelihood(rows, header[rows])]
    records = [*kept(header), header["records"]] if "records" in header else []
    gap = [header["duality_gap"]["summary"]] if header["duality_gap"] else []
    known = [*records, fitted.log_partition.summary(), *means, *beside(header, fitted), *gap, fit_test(header["test_of_fit"])]
    return [first, *chosen, *known, f"took {header['seconds']:.0f} s"]


def kept(header: Mapping[str, Any]) -> list[str]:
    """Return the line that says which energy of a training is kept by its checks, or nothing where none is.

    Args:
        header: `model.json` of the folder of the fit.

    >>> known = {"iteration": 1200, "done": 1800, "rows": 40, "cross_entropy": -0.5, "standard_error": 0.02, "halvings": None}
    >>> kept({"kept": known})
    ['kept iteration 1200 of 1800: least cross-entropy of 40 validation rows, -0.5 +- 0.02 nat against the base measure']
    >>> kept({"kept": known | {"rows": 0, "halvings": 2}})[0][:109]
    'kept iteration 1200 of 1800, after all steps were halved 2 times: least cross-entropy of the rows trained on,'
    """
    if not (known := header.get("kept")):
        return []
    value = with_error(known["cross_entropy"], known["standard_error"], 4).split(" (")[0]
    count = known["halvings"]
    times = f", after all steps were halved {'once' if count == 1 else f'{count} times'}" if count else ""
    where, rows = f"kept iteration {known['iteration']} of {known['done']}{times}", known["rows"]
    of = f"{rows} validation rows" if rows else "the rows trained on"
    return [f"{where}: least cross-entropy of {of}, {value} nat against the base measure"]


def counted(means: Mapping[str, Any]) -> str:
    """Return the number of rows of `evaluate.likelihood` in words.

    >>> counted({"rows": 20}), counted({"rows": 20, "effective_rows": 12.25})
    ('20 rows', '20 weighted rows (12.2 by effective number)')
    """
    if "effective_rows" not in means:
        return f"{means['rows']} rows"
    return f"{means['rows']} weighted rows ({means['effective_rows']:.3g} by effective number)"


def command(kind: type, flags: Mapping[str, Any]) -> str:
    """Return a command line without the flags that have their defaults.

    Args:
        kind: the class of settings of the command.
        flags: the values of all flags by name, of the command and of its method.

    >>> from dualebm.cli.commands import Sample
    >>> command(Sample, {"model": "results/a b", "count": 5, "seed": 0, "cache": False})
    "dualebm sample 'results/a b' --no-cache --count 5"
    """
    words = ["dualebm", kind.__name__.lower()]
    ordered = sorted((flag for group in groups_of(kind) for flag in group.flags), key=lambda flag: not flag.positional)
    known = {flag.name: flag for flag in ordered}
    for name in [*known, *(name for name in flags if name not in known)]:
        value, spelt = flags.get(name), "--" + name.replace("_", "-")
        if value is None or name == "config" or (name in known and value == known[name].default):
            continue
        if isinstance(value, bool):
            words.append(spelt if value else "--no-" + spelt[2:])
        else:
            text = shlex.quote(spell(value)) if not isinstance(value, tuple) else spell(value)
            words += [text] if name in known and known[name].positional else [spelt, text]
    return " ".join(words)


def likelihood(rows: str, means: Mapping[str, Any]) -> list[str]:
    """Return the lines of the mean log densities of a set of rows.

    Args:
        rows: the name of the rows, such as "held_out".
        means: what `evaluate.likelihood` returns.
    """
    texts = [(kind, with_error(means[kind]["mean"], means[kind]["standard_error"])) for kind in LOG_DENSITIES if kind in means]
    lines = [f"{rows.replace('_', ' ')}: mean {LOG_DENSITIES[kind]} of {counted(means)} = {text} nat" for kind, text in texts]
    return lines + ([errors(means["errors"])] if "errors" in means else [])


def errors(uncertain: Mapping[str, float]) -> str:
    """Return the line of what finite training rows leave uncertain.

    Args:
        uncertain: the `errors` of `evaluate.likelihood`.

    >>> errors({"mean": 0.02, "rows": 0.123})
    'error bars: other training rows would change this mean by about 0.02 nat, and the log density of one row by 0.12 nat (median)'
    """
    mean, row = (f"{uncertain[name]:.2g}" for name in ("mean", "rows"))
    change = f"this mean by about {mean} nat, and the log density of one row by {row} nat (median)"
    return f"error bars: other training rows would change {change}"


def choice(header: Mapping[str, Any]) -> list[str]:
    """Return the lines that state what was chosen by validation, and why.

    Args:
        header: `model.json` of an automatic fit.
    """
    chosen, tried = header["chosen"], len({stage["candidate"] for stage in header["path"]})
    gain = "no radius above 0 is better"
    if chosen["stage"]:
        gain = f"{chosen['gain']:+.3g} +- {chosen['gain_error']:.2g} nat over the base measure"
    first = f"chosen of {tried} candidates and {len(header['path'])} radii: {chosen['candidate']}, radius {header['radius']:.4g} ({gain})"
    return [first, "why: " + ("; ".join(why(lead) for lead in header["leads"]) or "it is the only candidate")]


def why(lead: Mapping[str, Any]) -> str:
    """Return in words how far the chosen candidate is above another one.

    Args:
        lead: the fields of an `auto.Lead`.

    >>> why({"candidate": "normal scaled_bump", "radius": 2.0, "difference": 0.25, "error": 0.1})
    '0.25 +- 0.1 nat better than normal scaled_bump of radius 2'
    >>> why({"candidate": "normal scaled_bump", "radius": 2.0, "difference": -0.01, "error": 0.1})
    'kept before normal scaled_bump of radius 2, which is better by 0.01 +- 0.1 nat, and so by less than one standard error'
    """
    other, difference, error = f"{lead['candidate']} of radius {lead['radius']:.3g}", lead["difference"], lead["error"]
    if difference is None:
        return f"{other} has rows of density 0"
    if difference > error:
        return f"{difference:.3g} +- {error:.2g} nat better than {other}"
    if difference >= 0:
        return f"as good as {other} within one standard error (better by {difference:.3g} +- {error:.2g} nat)"
    within = ", and so by less than one standard error" if -difference <= error else ""
    return f"kept before {other}, which is better by {-difference:.3g} +- {error:.2g} nat{within}"


def validation(header: Mapping[str, Any]) -> str:
    """Return the line of the mean log density of the rows that made the choice.

    Args:
        header: `model.json` of an automatic fit.
    """
    rows, of = header["validation"]["rows"], header["data"]["trained_on"]
    how = "cross-validation" if rows > of - FOLDS else "validation"  # equal folds leave out fewer rows than there are folds
    mean = with_error(header["validation"]["mean"], header["validation"]["standard_error"])
    kind = LOG_DENSITIES[header["validation"]["log_density"]]
    return f"{how}: mean {kind} of {rows} of {of} rows = {mean} nat; the choice was made on these rows"


def rival_cells(header: Mapping[str, Any], fitted: Model) -> list[tuple[str, str, str]]:
    """Return the lines of the table of rivals: names, mean log densities, and the model less each rival.

    Args:
        header: `model.json` of the folder of the fit.
        fitted: the model of this folder.
    """
    mean = header["held_out"][density_name(fitted.preparation.space)]
    cells = [("this model", with_error(mean["mean"], mean["standard_error"], 4), "")]
    for rival in header["rivals"]:
        if rival["reason"] is not None:
            cells.append((rival["name"], "cannot be fitted: " + rival["reason"], ""))
            continue
        difference = "infinite" if rival["difference"] is None else with_error(rival["difference"], rival["difference_error"], 3, "+")
        cells.append((rival["name"], with_error(rival["mean"], rival["standard_error"], 4), difference))
    return cells


def beside(header: Mapping[str, Any], fitted: Model) -> list[str]:
    """Return the lines of the table of rivals, or one that says why there is none."""
    if not header["held_out"]["rows"]:
        return ["no row is held out, so that the model cannot be compared with simple densities; leave out --holdout 0 to compare"]
    kind = LOG_DENSITIES[density_name(fitted.preparation.space)]
    head = f"simple densities of the same rows beside it, mean {kind} of the held-out rows in nat:"
    cells = [("", "mean", "model less it"), *rival_cells(header, fitted)]
    width = max(len(name) for name, *_ in cells), max(len(mean) for _, mean, last in cells if last or mean != cells[1][1])
    return [head, *(f"  {name:<{width[0]}}  {mean:<{width[1]}}  {last}".rstrip() for name, mean, last in cells)]


def fit_test(test: Mapping[str, Any]) -> str:
    """Return the line of the test that held-out rows are of the model.

    Args:
        test: what `evaluate.fit_test` returns.

    >>> fit_test({"rows": 0, "p_value": None, "reason": "no row is held out"})
    'test of fit: none, because no row is held out'
    >>> fit_test({"rows": 50, "p_value": 0.004, "reason": None})
    'test of fit: p = 0.004 for 50 held-out rows; below 0.05, they differ from the model by more than chance would make them'
    """
    if test["p_value"] is None:
        return f"test of fit: none, because {test['reason']}"
    means = "no difference from the model is seen"
    if test["p_value"] < SMALL_P:
        means = f"below {SMALL_P}, they differ from the model by more than chance would make them"
    return f"test of fit: p = {test['p_value']:.2g} for {test['rows']} held-out rows; {means}"


def radii(header: Mapping[str, Any], fitted: Model) -> list[str]:
    """Return the table of the radii of all candidates, or nothing for a fit by one method.

    Args:
        header: `model.json` of the folder of the fit.
        fitted: the model of this folder.
    """
    if "path" not in header:
        return []
    lines = [f"{'candidate':>24}  {'radius':>9}  {'log density':>12}  {'gain':>9}  {'error':>9}  {'counts':>6}"]
    for stage in header["path"]:
        mark = f"  chosen; {header['radius']:.4g} in the model, which all rows train" if stage == header["chosen"] else ""
        numbers = f"{stage['radius']:>9.4g}  {'log Z is not known':>34}"
        if stage["gain"] is not None:
            mean = stage["log_density"] - log_unit(fitted.preparation)
            numbers = f"{stage['radius']:>9.4g}  {mean:>12.5g}  {stage['gain']:>9.3g}  {stage['gain_error']:>9.2g}"
        lines.append(f"{stage['candidate']:>24}  {numbers}  {stage['effective_fraction']:>6.2f}{mark}")
    return lines


def note_of_scales(points: Any) -> str | None:
    """Return a note when columns of points (n, d) are far from mean 0 and standard deviation 1, and None otherwise.

    A column is far from them when the absolute value of its mean or its standard deviation is above 3, or its standard deviation is
    below 1/3.

    >>> note_of_scales(np.array([[-1.0], [1.0]])) is None
    True
    """
    x = np.asarray(points, np.float64)
    mean, scale = np.abs(np.mean(x, axis=0)).max(), np.std(x, axis=0)
    if mean <= LARGEST_SCALE and scale.max() <= LARGEST_SCALE and scale.min() >= 1 / LARGEST_SCALE:
        return None
    return (
        f"columns have means up to {mean:.3g} and standard deviations from {scale.min():.3g} to {scale.max():.3g}, and the "
        "base measure is the standard Gaussian; --standardise brings them to it"
    )


def note_of_validation(kept: Any) -> str | None:
    """Return a note when a training that is checked keeps none of its energies, and None otherwise.

    Args:
        kept: what `evaluate.kept_of` returns.
    """
    if kept is not None:
        return None
    return (
        "no check of the training could be made, as no fresh samples of the model were to be trusted: the model is the last energy. "
        "Lower the steps of the training"
    )


def note_of_radius(results: xarray.Dataset, rates: Any) -> str | None:
    """Return a note when the radius keeps the energy from fitting the held-out rows, and None otherwise.

    This is so when the last record of `held_out_gap` is below -0.1 and the last record of `total_variation` is above 99% of the radius.

    Args:
        results: The records of a run along `step`, with `total_variation` where the rates have a radius.
        rates: The rates of the method, a NamedTuple of scalars.

    Returns:
        The note or None.
    """
    radius = rates.radius if "radius" in rates._fields else math.inf
    held_out = float(results["held_out_gap"][-1]) if "held_out_gap" in results else 0.0
    if held_out >= WORSE or not float(results["total_variation"][-1]) > 0.99 * radius:  # no energy but a shallow one has a total variation
        return None
    return (
        f"the total variation is at the radius, {radius:g}, and held_out_gap is {held_out:.2g}: a stronger energy, "
        "of a larger --radius, would fit the held-out rows better"
    )
