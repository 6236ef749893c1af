"""Figure 1 of arXiv 2107.05134 (Section 5): how much faster is the dual algorithm than the primal one?

    python -m experiments.figure1 --preset quick
    python -m experiments.figure1 --preset paper --n 10000 --seeds 3
    python -m experiments.figure1 --preset paper

KL, score error and total variation along the primal (neurons slow) and the dual (neurons fast) algorithm on S^14, m = 64, N = 2n, p_R = 0,
for both teachers, in two readings, because the text's settings do not give the curves that the authors archived:

    archived    what reproduces the archived curves: h_x = 0.02 for both, all signs -1, weights from 1. Primal: additive weights,
                h_theta = h_w = 0.005. Dual: multiplicative weights, h_theta = h_w = 0.2.
    text        Section 5: s = 0.02 is the step of the faster process, alpha = 0.05 against 20, so (h_x, h_theta) = (0.02, 0.001) against
                (0.001, 0.02); multiplicative weights, uniform in [0, 1) at the start, random signs, independent noise. Temperature 1 and
                a ball of radius 10, which the teachers' weights need: in the text's ball of radius 1 neither could be learnt.

An iteration costs the same in all of them. A primal run ends at its last iteration, or when it has passed every threshold (`--no-stop` lets
it go on); a dual run goes to its last iteration. Each run has a folder under `--out`, and the same command continues what was interrupted.
"""

from typing import Any

import numpy as np
import xarray

from experiments import _common, report
from experiments.figure1.figures import CLAIM, draw, draw_speed_ups
from experiments.figure1.runs import ALGORITHMS, Scale, Settings, iterations, rows_of, scale_of, speed_ups, train

CAPTIONS = {
    "archived": "Figure 1 with the settings that reproduce the authors' archived curves.",
    "text": "Figure 1 with the settings that the text of the paper gives.",
}
LINES = (
    "KL(teacher || student), score error and total variation against the iteration, on logarithmic axes, a row for each teacher. "
    "Solid lines are means over {} seeds, bands their least and largest. In the archived settings dashed lines and crosses are the "
    "authors' curves of the same n, and a star is the last value of a curve of another n. Grey horizontal lines are the thresholds at "
    "which the speed-up is read."
)
SPEED_UPS = (
    "Iterations of the primal over those of the dual algorithm, to each threshold of KL (nat) or total variation (TV). Marks are "
    "means over {} seeds, bars their least and largest. The grey band is the paper's statement, 10 to 20."
)


def published_of(ratios: dict[tuple[str, str], np.ndarray]) -> list[report.Published]:
    """Returns the speed-up over all thresholds and seeds, in each reading and on each teacher, beside the paper's statement."""
    pairs = []
    for (reading, teacher), ratio in ratios.items():
        if np.isfinite(ratio).any():
            quantity = f"speed-up of the dual algorithm, {teacher}, settings of the {'archive' if reading == 'archived' else 'text'}"
            numbers = _common.spread(ratio[np.isfinite(ratio)], "ours")
            claim = dict(published=CLAIM[0], published_to=CLAIM[1], less_is_better=None, source="caption of Figure 1")
            pairs.append(report.Published(quantity, **numbers, **claim))  # pyright: ignore[reportArgumentType]
    return pairs


def content_of(settings: Settings, scale: Scale) -> dict[str, Any]:
    """Trains all pairs of runs, and returns the content of the report."""
    by_case: dict[tuple[str, str, str], list[xarray.Dataset]] = {}
    for seed in _common.seeds_of(settings, scale.seeds):
        for reading in settings.readings:
            for teacher in settings.teachers:
                for algorithm in ALGORITHMS:
                    results = train(settings, scale, teacher, reading, algorithm, seed)
                    by_case.setdefault((reading, teacher, algorithm), []).append(results)
                    end = f"KL {float(results.kl[-1]):.4g} at iteration {int(results.step[-1])}"
                    print(f"{teacher}, {reading}, {algorithm}, seed {seed}: {end}", flush=True)
    rows: list[dict] = []
    ratios = {}
    for reading in settings.readings:
        for teacher in settings.teachers:
            primal, fast = (np.array([iterations(r, teacher) for r in by_case[reading, teacher, a]]) for a in ALGORITHMS)
            ratios[reading, teacher] = speed_ups(primal, fast)
            rows += rows_of(teacher, reading, primal, fast)
    figures = {
        f"figure1_{reading}": (draw(settings.teachers, scale.n, reading, by_case), f"{CAPTIONS[reading]} {LINES.format(scale.seeds)}")
        for reading in settings.readings
    }
    figures["figure1_speed_up"] = (draw_speed_ups(settings.teachers, scale.n, ratios), SPEED_UPS.format(scale.seeds))
    ends = []
    for (reading, teacher, algorithm), runs in by_case.items():
        last = [int(r.step[-1]) for r in runs]
        kl = np.mean([float(r.kl[-1]) for r in runs])
        at = f"{last[0]}" if len(set(last)) == 1 else f"{min(last)} to {max(last)}"
        ends.append(f"{teacher}, {reading}, {algorithm}: {kl:.4g} at {at}")
    return dict(
        title="Figure 1: the primal and the dual algorithm",
        about=f"S^14, m = 64, n = {scale.n}, N = {2 * scale.n}, p_R = 0; bands are the least to the largest of {scale.seeds} seeds. "
        "Two readings: archived, the settings that reproduce the authors' archived curves (h_x 0.02, neuron steps 0.005 additive against "
        "0.2); text, s = 0.02 for the faster process, alpha 0.05 against 20, random signs, weights in [0, 1), radius 10.",
        rows=rows, figures=figures, summary=f"Mean KL where the runs end, and the iteration: {'; '.join(ends)}.",
        paper="the dual algorithm is about 10 to 20 times faster than the primal one (caption of Figure 1).",
        published=published_of(ratios), seeds=_common.seeds_of(settings, scale.seeds),
    )  # fmt: skip


def main(settings: Settings) -> list[dict]:
    """Runs the study, writes its report and returns the rows."""
    scale = scale_of(settings)
    return report.run("figure1", settings, settings.out, lambda: content_of(settings, scale))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
