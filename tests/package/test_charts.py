"""Curves hold the numbers they were given."""

import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.colors import to_hex, to_rgb

from dualebm.plotting import charts

STEPS = np.array([0, 10, 100, 1000])
LABELS = {"kl": ("KL(teacher || student)", "nats"), "score": ("score error", "1"), "total_variation": ("TV", "")}


def runs(seed=0, count=3):
    """Positive curves, (run, step), as a store holds them."""
    draw = np.random.default_rng(seed)
    variables = {
        name: (("run", "step"), draw.lognormal(size=(count, len(STEPS))), {"long_name": long, "units": unit})
        for name, (long, unit) in LABELS.items()
    }
    return xarray.Dataset(variables, {"step": STEPS, "run": np.arange(count)})


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def band_at(band, step):
    """(lowest, highest) point of a band at a step."""
    vertices = np.concatenate([path.vertices for path in band.get_paths()])
    heights = vertices[vertices[:, 0] == step, 1]
    return heights.min(), heights.max()


def published(last=4000):
    """Curves of somebody else's runs at 20 iterations, in the form that `charts.curves` takes."""
    middle = np.geomspace(1, 0.01, 20)
    kinds = {"mean": middle, "min": 0.8 * middle, "max": 1.5 * middle}
    return {"iterations": np.geomspace(1, last, 20).round(), "KL": kinds, "SM": kinds, "TV": kinds, "meta": "made up"}


@pytest.mark.parametrize("width", ["single", "double"])
def test_curves_hold_the_means_and_the_bands_of_the_runs(width, tmp_path):
    results, before = runs(), dict(matplotlib.rcParams)
    figure = charts.curves(results, published(), width=width)
    assert figure.get_figwidth() == charts.WIDTHS[width]
    assert [panel.get_ylabel().replace("\n", " ") for panel in figure.axes] == [
        "KL(teacher ∥ student) (nat)", "score error", "TV"
    ]  # fmt: skip
    assert legend(figure) == ["dualebm (3 runs)", "authors"]
    for panel, name in zip(figure.axes, LABELS, strict=True):
        line, authors = panel.get_lines()
        assert line.get_xdata().tolist() == STEPS.tolist()
        np.testing.assert_allclose(line.get_ydata(), results[name].values.mean(0), rtol=1e-12)
        for i, step in enumerate(STEPS):
            values = results[name].values[:, i]
            np.testing.assert_allclose(band_at(panel.collections[0], step), (values.min(), values.max()), rtol=1e-12)
        assert panel.get_xscale() == "symlog" and panel.get_xticklabels()[0].get_text() == "0", "a place for step 0"
        assert panel.get_yscale() == ("linear" if name == "total_variation" else "log")
        curve = published()[charts.QUANTITIES[name][0]]
        np.testing.assert_array_equal(authors.get_ydata(), curve["mean"])
        assert authors.get_linestyle() == "--" and to_hex(authors.get_color()) != to_hex(line.get_color())
        np.testing.assert_array_equal(band_at(panel.collections[1], published()["iterations"][10]), [curve[k][10] for k in ("min", "max")])
    assert figure.axes[-1].get_xlabel() == "iteration"
    figure.savefig(tmp_path / "curves.pdf")
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.pdf").stat().st_size > 5000
    assert dict(matplotlib.rcParams) == before, "a global setting was changed"


def test_settings_and_references_share_colours_and_a_column_of_the_legend():
    settings = {"p_R = 0": runs(1), "p_R = 1": runs(2, count=1)}
    references = {"p_R = 1": published(), "p_R = 0": published(), "primal": published(200_000)}
    figure = charts.curves(settings, references, variables=["kl"])
    assert legend(figure) == ["p_R = 0 (3 runs)", "p_R = 0, authors", "p_R = 1 (1 run)", "p_R = 1, authors", "primal"]
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 5
    assert [line.get_xdata()[-1] for line in lines] == [1000, 1000, 4000, 4000, 200_000]
    for own, authors in ((lines[0], lines[3]), (lines[1], lines[2])):  # darker, and so the same hue
        np.testing.assert_allclose(authors.get_color(), 0.55 * np.array(to_rgb(own.get_color())))
    assert len(figure.axes[0].collections) == 4, "one run has no band"


def test_a_diverged_run_is_counted_and_unwritten_records_are_not_drawn():
    results = runs(count=4)
    results.kl[0, 2:] = np.nan
    results.kl[1, 2] = np.inf
    line = charts.curves(results, variables=["kl"]).axes[0].get_lines()[0]
    assert line.get_label() == "dualebm (4 runs, 1 diverged)"
    expected = [results.kl[:, 0].mean(), results.kl[:, 1].mean(), results.kl[2:, 2].mean(), results.kl[1:, 3].mean()]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    results.kl[:, 3] = np.nan
    assert charts.curves(results, variables=["kl"]).axes[0].get_lines()[0].get_xdata().tolist() == [0, 10, 100]


def test_a_reference_of_one_iteration_is_a_mark_with_its_range():
    mark = {"iterations": np.array([4000]), "meta": "made up"}
    mark |= {name: {"mean": np.array([0.2]), "min": np.array([0.1]), "max": np.array([0.4])} for name in ("KL", "SM", "TV")}
    figure = charts.curves(runs(), {"theirs": mark}, variables=["kl"])
    assert legend(figure) == ["dualebm (3 runs)", "theirs"]
    panel = figure.axes[0]
    star = next(line for line in panel.get_lines() if line.get_label() == "theirs")
    assert (star.get_marker(), star.get_linestyle(), star.get_xydata().tolist()) == ("*", "None", [[4000, 0.2]])
    (low, high), *_ = [path.vertices[:, 1] for path in panel.collections[-1].get_paths()]
    assert (low, high) == pytest.approx((0.1, 0.4))


def test_markers_are_at_the_same_iterations_in_each_panel():
    results = {"a": runs(1), "b": runs(2)}
    results["a"].kl[:, -1] = np.nan  # a curve that ends earlier
    figure = charts.curves(results)
    for line in figure.axes[1].get_lines():
        other = next(one for one in figure.axes[2].get_lines() if one.get_label() == line.get_label())
        assert line.get_markevery() == other.get_markevery() and 0 in line.get_markevery()


def test_a_negative_estimate_does_not_set_the_axis(tmp_path):
    results = runs()
    results.kl[:, 3] = -1e-5
    figure = charts.curves(results)
    figure.savefig(tmp_path / "negative.png")
    positive = results.kl.values[:, :3]
    low, high = figure.axes[0].get_ylim()
    assert low > positive.min() / 2 and high < positive.max() * 2


def test_other_dimensions_are_runs_and_labels_have_defaults():
    kl = xarray.DataArray(np.arange(1.0, 13).reshape(2, 3, 2), dims=("seed", "step", "ratio"))
    figure = charts.curves(xarray.Dataset({"kl": kl}, {"step": [1, 2, 4]}), variables=["kl"])
    assert legend(figure) == ["dualebm (4 runs)"] and "nat" in figure.axes[0].get_ylabel()
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), kl.mean(("seed", "ratio")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(width="triple"), "width is 'triple'"),
        (dict(variables=["KL"]), "variables is 'KL'.*Allowed: 'kl'"),
        (dict(variables=[]), "variables 0 names"),
        (dict(results={}), "results has 0 settings"),
        (dict(results=runs()[["score"]]), "the results of 'dualebm', is 'kl'"),
        (dict(results=runs().isel(step=[0])), "no finite 'kl' at a step > 0"),
    ],
)
def test_curves_that_cannot_be_drawn(change, message):
    with pytest.raises(ValueError, match=message):
        charts.curves(**{"results": runs(), **change})


def test_a_logarithmic_axis_has_the_ticks_that_are_given():
    axes = matplotlib.figure.Figure().subplots()
    axes.plot([1, 5000], [1, 2])
    charts.log_axis(axes.xaxis, (30, 1000))
    assert axes.get_xscale() == "log" and [label.get_text() for label in axes.get_xticklabels()] == ["30", "1000"]
