"""The numbers and the figure of the twelve tables, from the files of their cases."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments import _common
from experiments.densities import (
    OURS,
    best_rival,
    costs,
    difference,
    energy_adds,
    means,
    signed_logarithmic,
    spelled,
    verdict,
)

Cases = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""The cases by table and method, one a split."""


def rows_of(cases: Cases) -> list[dict[str, Any]]:
    """Returns a row for each table: mean log densities, the difference to the best rival, and what the automatic fit chose."""
    rows = []
    for table, each in cases.items():
        rival, ours = best_rival(each), each[OURS]
        lag = difference(ours, each[rival])
        base, times = Counter(case["chosen"] for case in ours).most_common(1)[0]
        radii = [case["radius"] for case in ours]
        rows.append(
            {"table": table, "rows": ours[0]["rows"], "columns": ours[0]["columns"], "splits": len(ours)}
            | {method: spelled(means(of)) for method, of in each.items()}
            | {"best rival": rival, "difference": lag.mean, "error": lag.error, "least": lag.least, "largest": lag.largest}
            | {"chosen": f"{base}, {times} of {len(ours)}", "radius": f"{min(radii):.3g} to {max(radii):.3g}"}
            | {"energy adds": energy_adds(ours)}
        )
    return rows


def outcome(cases: Cases) -> str:
    """Returns sentences on who wins where, and on the cost of each method."""

    verdicts = {table: verdict(difference(each[OURS], each[best_rival(each)])) for table, each in cases.items()}
    above, below = ([table for table, each in verdicts.items() if each == wanted] for wanted in ("above", "below"))
    beaten = {m: sum(means(e[OURS]).mean() > means(e[m]).mean() for e in cases.values()) for m in next(iter(cases.values())) if m != OURS}
    return (
        f"The automatic fit is above the best of the rivals by more than two standard errors on {len(above)} of {len(cases)} tables "
        f"({', '.join(above) or 'none'}), and below it on {len(below)} ({', '.join(below) or 'none'}). Its mean is above that of "
        f"{', '.join(f'{name} on {count}' for name, count in beaten.items())}. Median seconds of the processor: "
        f"{costs(cases.values())}."
    )


def figure_of(cases: Cases) -> Figure:
    """Draws the differences of the automatic fit to the best rival of each table, and to each rival, near 0 in proportion."""
    figure, ((near, far),) = _common.panels_of(1, 2, 1.2 + 0.25 * len(cases), sharey=True)
    names = list(cases)
    for y, name in enumerate(names):
        each = cases[name]
        rival = best_rival(each)
        lag = difference(each[OURS], each[rival])
        near.plot([lag.least, lag.largest], [y, y], color="0.6", linewidth=1, solid_capstyle="butt", zorder=1)
        near.plot([lag.mean - lag.error, lag.mean + lag.error], [y, y], color="black", linewidth=3, solid_capstyle="butt", zorder=2)
        near.plot([lag.mean], [y], "o", color="white", markeredgecolor="black", markersize=4.5, zorder=3)
        for i, method in enumerate(method for method in each if method != OURS):
            lag, form = difference(each[OURS], each[method]), _common.look(i)
            place = y + 0.15 * (i - 1.5)
            far.plot([lag.least, lag.largest], [place, place], color=form["color"], linewidth=1)
            far.plot([lag.mean], [place], linestyle="", markersize=3.5, markeredgecolor="black", markeredgewidth=0.4, label=method, **form)
    for panel in (near, far):
        panel.axvline(0, color="black", linewidth=0.8, zorder=0)
        signed_logarithmic(panel)
    labels = [f"{name} ({best_rival(cases[name])})" for name in names]
    near.set(yticks=range(len(names)), yticklabels=labels, xlabel="automatic − best rival (nat)", ylim=(len(names) - 0.4, -0.6))
    near.set_title("thick: standard error; thin: least to largest")
    far.set(xlabel="automatic − each rival (nat)", title="mean, and least to largest over splits")
    _common.legend(figure, [far], 4)
    return figure
