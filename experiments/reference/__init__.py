"""The curves of the published runs of the authors of arXiv 2107.05134, which `charts.curves` draws, and a comparison with them.

Each loader returns a dict of "iterations" (T,), those done; "KL", "SM" and "TV", each a dict of "mean", "min" and "max"
(T,) over the seeds; and "meta", a sentence on the runs. KL is KL(teacher || student) in nats, SM the mean squared
tangential score difference, TV the mean weight.
"""

import csv
import json
from pathlib import Path

import numpy as np
import xarray

from dualebm._internal import checks

FOLDER = Path(__file__).parent
QUANTITIES = ("KL", "SM", "TV")
KINDS = ("mean", "min", "max")
FIRST_COMPARED = 50
"""The iteration from which runs are compared with the authors' curves."""


def author_runs(name: str) -> dict:
    """The curves of one archived set at 20 iterations from 1 to 4000.

    The sets are "d15_mono_n1e4_p_R=0" (S^14, 5 seeds), the same with p_R=1/40 and 1; "d3_bimodal_n1000_p_R=0" (S^2, one
    seed: min = mean = max), the same with p_R=1/60 and 1. Raises ValueError for an unknown name.

    >>> runs = author_runs("d15_mono_n1e4_p_R=0")
    >>> int(runs["iterations"][-1]), float(runs["KL"]["mean"][-1]), float(runs["TV"]["max"][-1])
    (4000, 0.020945, 10.0)
    """
    archive = json.loads((FOLDER / "author_runs.json").read_text())
    checks.choice("name", name, archive["sets"])
    chosen = archive["sets"][name]
    curves = {q: {kind: np.array(chosen[q][kind]) for kind in KINDS} for q in QUANTITIES}
    return {"iterations": np.array(archive["iterations"]), **curves, "meta": chosen["meta"]}


def author_primal() -> dict:
    """The authors' primal runs on S^14, bimodal teacher, n = 1e5: a figure's curves from 1 to 200,000 iterations.

    >>> runs = author_primal()
    >>> int(runs["iterations"][-1]), float(runs["KL"]["mean"][-1])
    (200000, 0.00534928)
    """
    figure = _figure("primal_s14_bimodal.csv")
    iterations = figure["KL", "mean"][0]
    kinds = {"mean": "mean", "min": "lower", "max": "upper"}
    curves = {q: {kind: np.interp(iterations, *figure[q, curve]) for kind, curve in kinds.items()} for q in QUANTITIES}
    return {"iterations": iterations, **curves, "meta": "S^14 bimodal, primal, additive weights, n=1e5, m=64"}


def reproduced_dual() -> dict:
    """Our run of the authors' dual program on S^14, bimodal teacher, n = 1e5, one seed, of which their archive has the primal alone.

    It is a record of `python -m experiments.two_teachers --preset paper --method program --teacher s14_bimodal --n 100000 --seeds 1
    --every 200`, at iterations 200, 400, ..., 4000.

    >>> run = reproduced_dual()
    >>> int(run["iterations"][-1]), round(float(run["KL"]["mean"][-1]), 4)
    (4000, 0.0027)
    """
    figure = _figure("reproduced_dual_s14_bimodal.csv")
    curves = {q: dict.fromkeys(KINDS, figure[q, "mean"][1]) for q in QUANTITIES}
    return {"iterations": figure["KL", "mean"][0], **curves, "meta": "S^14 bimodal, the authors' dual program, run by us, n=1e5, m=64"}


def ended(curves: dict) -> dict:
    """The last iteration of curves alone, which `charts.curves` draws as a mark.

    >>> ended(author_primal())["iterations"].tolist()
    [200000.0]
    """
    last = {q: {kind: values[-1:] for kind, values in curves[q].items()} for q in QUANTITIES}
    return {"iterations": curves["iterations"][-1:], **last, "meta": curves["meta"]}


def author_sphere2(restart: str) -> dict:
    """The authors' run on S^2 at 190 iterations: bimodal teacher, n = 1000, one seed, p_R `restart` "0", "1" or "1/60".

    The figure's SM axis ends at 5: SM is NaN at the first iterations, where it is larger.

    >>> runs = author_sphere2("1/60")
    >>> round(float(runs["KL"]["mean"].min()), 4), bool(np.isnan(runs["SM"]["mean"][0]))
    (0.003, True)
    """
    checks.choice("restart", restart, ("0", "1", "1/60"))
    figure = _figure("sphere2_bimodal_n1000.csv")
    iterations = figure["KL", f"pR={restart}"][0]
    lines = {q: np.interp(iterations, *figure[q, f"pR={restart}"], left=np.nan) for q in QUANTITIES}
    curves = {q: dict.fromkeys(KINDS, line) for q, line in lines.items()}
    return {"iterations": iterations, **curves, "meta": f"S^2 bimodal, n=1000, m=64, p_R={restart}, one seed"}


def _figure(file: str) -> dict:
    """(panel, curve) -> iterations (T,), values (T,); T differs between curves."""
    points = {}
    with (FOLDER / file).open() as lines:
        for row in csv.DictReader(lines):
            points.setdefault((row["panel"], row["curve"]), []).append((float(row["iteration"]), float(row["value"])))
    return {curve: np.array(values).T for curve, values in points.items()}


def author_sphere2_likelihood() -> tuple[np.ndarray, np.ndarray]:
    """Iterations and KL of the authors' run of maximum likelihood on S^2 (arXiv 2104.07531), a noisy curve of one run, up to 4000.

    >>> iterations, kl = author_sphere2_likelihood()
    >>> int(iterations[-1]), round(float(kl[0]), 4)
    (4000, 0.0649)
    """
    return _figure("overparametrized_ebms_sphere2_kl.csv")["KL", "curve"]


def widened(low, high):
    """Returns a band that is widened on each side by its width."""
    return low - (high - low), high + (high - low)


def compare(results: xarray.Dataset, authors: dict) -> dict:
    """Compares runs with the authors' curves at their iterations from 50 on.

    Where the authors have several seeds, our mean has to lie in their widened band; where they have one, their curve in ours.

    Args:
        results: The records along (run, step).
        authors: The curves, as a loader of this module returns them.

    Returns:
        By quantity, how many iterations agree, of how many, and the iterations outside.
    """
    agreement = {}
    steps = [i for i in authors["iterations"] if i >= FIRST_COMPARED and i in results.step.values]
    if not steps:
        return agreement
    at = np.searchsorted(authors["iterations"], steps)
    for quantity, variable in {"KL": "kl", "SM": "score", "TV": "total_variation"}.items():
        ours = results[variable].sel(step=steps).transpose("run", "step").values
        theirs = {kind: authors[quantity][kind][at] for kind in ("mean", "min", "max")}
        if (theirs["min"] < theirs["max"]).any():
            low, high = widened(theirs["min"], theirs["max"])
            rounding = 5e-5 * np.abs(theirs["mean"])  # the archive has five digits
            low, high = low - rounding, high + rounding
            inside = (low <= ours.mean(0)) & (ours.mean(0) <= high)
        else:
            low, high = widened(ours.min(0), ours.max(0))
            inside = (low <= theirs["mean"]) & (theirs["mean"] <= high)
        outside = [int(s) for s, good in zip(steps, inside, strict=True) if not good]
        agreement[quantity] = {"agree": int(inside.sum()), "of": len(steps), "outside": outside}
    return agreement
