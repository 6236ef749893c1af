"""Rows that have no density are refused, and what would make a fit go wrong is noted by name, number and remedy; clean data are quiet."""

import numpy as np
import pandas
import pytest
from sklearn import datasets

from dualebm.data import dependence
from dualebm.data.advice import advise, check_rows
from dualebm.data.tables import as_table


def frame(**columns):
    return as_table(pandas.DataFrame(columns))


def normal(n=300, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def advice(x, space="euclidean", rows=None):
    return advise(as_table(x), space, rows)


# -- Errors ----------------------------------------------------------------------------------------

U, V, W = normal(40).T


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (frame(a=[1.0], b=[2.0]), "x has 1 row; a density of 2 columns needs at least 4 rows"),
        (frame(a=U[:3], b=V[:3]), "x has 3 rows; a density of 2 columns needs at least 4 rows"),
        (frame(a=[2.0, 2.0, 2.0]), "x has 3 rows, which are all equal; a density needs rows that differ"),
        (frame(a=U, b=0 * U + 7), "x has the one value 7 in column 'b'; a density needs columns that vary, so columns must leave it out"),
        (frame(a=0 * U, b=U, c=0 * U + 1e9 + 1e-4 * U), "x has the one value 0 in column 'a', and one value in column 'c'; a density"),
        (as_table(np.c_[U * 0, U, U * 0, U * 0, U * 0, U * 0]), "0 in column 1, and one value in each of columns 3, 4, 5 and 1 more;"),
        (frame(a=U, b=V, c=U), "x has equal values in columns 'a' and 'c'; such rows lie in a plane and have no density, so columns must"),
        (frame(a=np.maximum(U, 0.0), b=V, c=np.where(U > 0, U, -0.0)), "x has equal values in columns 'a' and 'c';"),
        (frame(a=U, b=V, c=W, d=3 * U - 20 * W + 5), "column 'd', which is a linear function of columns 'a' and 'c' up to "),
        (frame(a=U, b=1e-9 * U + 4e-9), "column 'b', which is a linear function of column 'a' up to "),
        (frame(a=U, b=U + 1e-5 * V), "column 'b', which is a linear function of column 'a' up to 5e-11 of its variance; such rows lie"),
        (frame(a=1e307 * U, b=-2e307 * U), "column 'b', which is a linear function of column 'a' up to "),
    ],
)
def test_rows_without_a_density_are_refused_by_name(table, message):
    for refuse in (check_rows, advise):
        with pytest.raises(ValueError) as error:
            refuse(table, "euclidean")
        assert message in str(error.value)


def test_the_columns_are_those_of_the_file():
    table = as_table(np.c_[U, V, U], ["3", "1"])
    with pytest.raises(ValueError, match="x has equal values in columns 3 and 1;"):
        check_rows(table, "euclidean")


def test_rows_that_are_held_out_do_not_count():
    x = np.c_[U, np.where(np.arange(40) < 30, 7.0, V)]
    check_rows(as_table(x), "euclidean")
    with pytest.raises(ValueError, match="x has the one value 7 in column 2;"):
        check_rows(as_table(x), "euclidean", np.arange(30))
    with pytest.raises(ValueError, match="x has 2 rows to train on; a density of 2 columns needs at least 4 rows"):
        check_rows(as_table(x), "euclidean", np.arange(2))
    assert advice(np.r_[x[30:], np.repeat(x[:1], 9, 0)], rows=np.arange(10)) == []


@pytest.mark.parametrize("space", ["sphere", "torus"])
def test_on_compact_spaces_only_equal_rows_are_refused(space):
    for rows, message in (([[0.6, 0.8]], "x has 1 row; a density needs at least 2"), ([[0.6, 0.8]] * 3, "3 rows, which are all equal")):
        with pytest.raises(ValueError, match=message):
            check_rows(as_table(rows), space)
    check_rows(as_table([[0.6, 0.8], [0.8, 0.6]]), space)
    check_rows(as_table(np.c_[U**2 % 1, 0 * U, U**2 % 1]), space)


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="space is 'plane'"):
        check_rows(as_table([[1.0], [2.0], [3.0]]), "plane")


def test_nearly_linear_columns_are_noted_and_not_refused():
    (note,) = advise(frame(a=normal()[:, 0], b=normal()[:, 1], c=normal()[:, 0] + normal()[:, 1] + 3e-3 * normal()[:, 2]), "euclidean")
    assert note.startswith("column 'c' (a linear function of 'a' and 'b' to 0.002 of its spread) is nearly a function of other columns, ")
    assert note.endswith("leave it out, or fit its difference from that function")
    (note,) = advice(normal()[:, [0, 0]] + [0, 3e-3] * normal(seed=1)[:, :2])
    assert note.startswith("column 2 (a linear function of 1 to 0.003 of its spread)")
    assert advice(np.c_[normal()[:, 0], normal()[:, 0] + 0.1 * normal()[:, 1]]) == []


# -- Notes on rows and single columns --------------------------------------------------------------


@pytest.mark.parametrize("space", ["sphere", "euclidean", "torus"])
def test_repeated_rows_are_counted(space):
    x = normal(100)
    x[95:] = x[:5]
    (note,) = advice(x, space)
    assert note.startswith("5 of 100 rows repeat an earlier row, and a density may grow without bound at repeated rows, so that its ")
    assert note.endswith("depend on the smallest width allowed; leave the repeats out")
    x[95] = 0.5
    assert advice(x, space) == []


def test_repeats_of_rounded_rows_are_to_be_blurred_and_not_left_out():
    (note,) = advice(np.round(10 * normal(500, 1) + 40))
    assert "of 500 rows repeat" in note
    assert note.endswith("keep widths above the steps to which the columns are rounded, or add uniform noise within them")
    signed = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 2.0], [3.0, 3.0]])
    assert advice(signed)[0].startswith("1 of 4 rows repeats an earlier row")


def test_categories_are_noted():
    rng = np.random.default_rng(1)
    kind, x, half = rng.integers(0, 3, 200), rng.normal(size=200), np.round(rng.standard_t(3, 200))
    (note,) = advise(frame(kind=kind, x=x), "euclidean")
    assert note == (
        "column 'kind' (3 values) takes few values, so that it is a category or coarsely rounded and has probabilities in place of a "
        "density; leave it out, or fit the rows of each value alone"
    )
    many = frame(a=kind, b=half, c=rng.integers(0, 2, 200), d=rng.integers(0, 9, 200), x=x)
    assert len(np.unique(half)) >= 10  # but the step is wide
    (note,) = advise(many, "torus")
    assert note.startswith(f"columns 'a' (3 values), 'b' ({len(np.unique(half))} values), 'c' (2 values) and 1 more take few values, so")
    assert advise(many, "sphere") == []


def test_columns_with_a_fine_step_or_few_rows_are_no_categories():
    assert advice(np.c_[np.round(normal(), 1), normal(seed=1)]) == []
    assert advice(np.round(9 * normal(12, 2))) == []


def test_piles_of_rows_at_one_value_are_counted():
    x, y, z = normal(500).T
    (note,) = advise(frame(a=np.maximum(x, -1.2), b=np.minimum(y, 1.0), c=np.where(np.arange(500) < 40, 0.123, z)), "euclidean")
    low, high = (x <= -1.2).sum(), (y >= 1).sum()
    assert note == (
        f"columns 'a' ({low} of 500 rows at its smallest value -1.2), 'b' ({high} of 500 rows at its largest value 1) and "
        "'c' (40 of 500 rows at the value 0.123) have many rows at one value, which has a probability and no density; "
        "fit the other rows alone, or leave the columns out"
    )
    z[:41] = [0.123] * 40 + [np.nextafter(0.123, 1)]  # a step that is too fine for a rounding
    assert advice(np.c_[z, x])[0].startswith("column 1 (40 of 500 rows at the value 0.123) has many rows")
    few = np.where(np.arange(500) < 4, -9.0, x)
    assert advice(np.c_[few, y]) == []
    assert advice(np.c_[np.random.default_rng(0).geometric(0.15, 500), y])[0].startswith("column 1 (skewness")  # 1 is the most frequent


def test_positive_skewed_columns_have_logarithms():
    x, y, _ = normal(1000).T
    (note,) = advise(frame(a=np.exp(x), b=y), "euclidean")
    skewness = [np.mean((v - v.mean()) ** 3) / v.std() ** 3 for v in (np.exp(x), x)]
    assert note == (
        f"column 'a' (skewness {skewness[0]:.2f}, {skewness[1]:.2f} after a logarithm) is positive and skewed; "
        "its logarithm is easier to fit"
    )
    (note,) = advise(frame(a=1e300 * np.exp(x), b=1e-300 * np.exp(y)), "euclidean")
    assert note.endswith(" are positive and skewed; their logarithms are easier to fit")
    for quiet in (-np.exp(x), np.exp(x) - 1, 1000 + np.exp(x), np.exp(0.1 * x)):
        assert advice(np.c_[quiet, y]) == []
    assert advice(np.c_[np.exp(x) % 1, y], "torus") == []


def test_proportions_have_logits():
    p = 1 / (1 + np.exp(-3 * normal(300, 2)))
    assert advise(frame(p=p[:, 0], x=normal(seed=1)[:, 0]), "euclidean") == [
        f"column 'p' (from {p[:, 0].min():.2g} to 1 - {1 - p[:, 0].max():.2g}) comes near both ends of [0, 1]; its logit, "
        "log(x / (1 - x)), is easier to fit, as it has no bounds"
    ]
    assert advice(p)[0].endswith("their logits, log(x / (1 - x)), are easier to fit, as they have no bounds")
    scaled = dependence.unit_range(normal())  # one row at 0 and one at 1, where the logit is infinite
    assert advice(scaled) == [] and advice(0.98 * scaled + 0.01001) == []
    assert advice(0.995 * scaled) == [] and advice(1 - 0.995 * scaled) == []


# -- Functions of other columns --------------------------------------------------------------------


def test_a_function_of_another_column_is_noted():
    x, y, z = normal().T
    for columns in (dict(y=y, f=x**2, x=x), dict(y=y, x=x, f=x**2), dict(x=x, f=x**2)):
        (note,) = [note for note in advise(frame(**columns), "euclidean") if "function" in note]
        assert note.startswith("column 'f' (a function of 'x' to 0.00")
        assert note.endswith(
            " of its spread) is nearly a function of other columns, and the density may grow without bound near its graph; "
            "leave it out, or fit its difference from that function"
        )
    (note,) = advise(frame(x=x, y=x**3 + x, z=np.arctan(x), u=y), "euclidean")
    assert note.startswith("columns 'y' (a function of 'x' to ") and " and 'z' (a function of 'x' to " in note
    for noise, noted in ((0.01, True), (0.3, False)):
        assert bool(advice(np.c_[x, np.sin(x) + noise * z])) is noted
    assert advise(frame(x=x, f=x**2), "torus") == []
    assert advise(frame(x=x[:49], f=np.sinh(x[:49])), "euclidean") == []  # too few rows to tell
    assert advise(frame(x=x[:50], f=np.sinh(x[:50])), "euclidean") != []


def test_rounding_makes_no_functions():
    x, y, _ = normal(1000).T
    x = np.sort(x)  # as in a file in the order of a column
    assert advice(np.c_[0.4 * np.round(x / 0.4), 0.3 * np.round(x / 0.3), y]) == []


def test_the_spread_about_a_function_is_that_of_the_noise():
    x, noise = np.linspace(0, 1, 2000), normal(2000, 1)[:, 0]
    scores = np.c_[normal(2000, 1, 5), x, np.sin(9 * x) + 0.02 * noise]
    ((j, i, spread),) = dependence.functions_of_one(scores)
    assert (j, i) == (2, 1) and spread == pytest.approx(0.02, rel=0.1)


def test_rows_near_a_curve_or_a_surface_are_noted():
    rng = np.random.default_rng(0)
    angle, height = rng.uniform(1.5 * np.pi, 4.5 * np.pi, 2000), rng.uniform(0, 21, 2000)
    circle, roll = dict(x=np.cos(angle), y=np.sin(angle)), dict(x=angle * np.cos(angle), h=height, z=angle * np.sin(angle))
    for columns, names in ((circle, "'x' and 'y'"), (roll, "'x' and 'z'")):
        (note,) = advise(frame(**columns), "euclidean")
        assert note.startswith(f"rows lie near a curve or a surface in columns {names} (to 0.0")
        assert note.endswith("leave one of the columns out, or fit coordinates along the curve or surface")
    x, y = normal(2000, 2).T
    assert "in columns 1, 2 and 3 (to 0.0" in advice(np.c_[x, y, x * y])[0]
    plane = normal(1000, 2) @ normal(2, 31)
    assert dependence.surface(plane[:, :30]) is not None and dependence.surface(plane) is None  # it would take long
    assert advice(np.c_[roll["x"], height, roll["z"]] + 0.5 * normal(2000)) == []


def test_linear_functions_beside_regressions():
    a, b, c, e, f = normal(50, 5).T
    x = np.c_[a, b, a + 2 * b + 1e-3 * e, c, c - b + 2e-3 * f]
    functions = dependence.linear_functions(x, 1e-4)
    assert [(j, others) for j, others, _ in functions] == [(2, [0, 1]), (4, [1, 3])]
    for j, before, share in ((2, [0, 1], functions[0][2]), (4, [0, 1, 3], functions[1][2])):
        design = np.c_[np.ones(50), x[:, before]]
        residual = x[:, j] - design @ np.linalg.lstsq(design, x[:, j])[0]
        assert share == pytest.approx(residual.var() / x[:, j].var(), rel=1e-6)
    assert dependence.linear_functions(x, 1e-8) == []


# -- Quiet on clean data ---------------------------------------------------------------------------


def moons(noise, n=1000):
    angle = np.random.default_rng(0).uniform(0, np.pi, n)
    side = np.arange(n) % 2
    x = np.where(side, np.cos(angle), 1 - np.cos(angle)), np.where(side, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack(x, axis=1) + noise * normal(n, 2, 1)


def test_clean_data_are_quiet():
    rng = np.random.default_rng(3)
    corners = 2 * np.exp(2j * np.pi * rng.integers(0, 8, 1000) / 8)
    ring = np.stack([corners.real, corners.imag], axis=1) + 0.05 * normal(1000, 2)
    angle, radius = rng.uniform(0, 2 * np.pi, 1000), rng.choice([0.5, 1.0], 1000)
    circles = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + 0.05 * normal(1000, 2, 2)
    tight = rng.multivariate_normal([0, 0], [[1, 0.999], [0.999, 1]], 1000)
    heavy, flat = rng.standard_cauchy((1000, 3)), rng.uniform(-1, 1, (500, 2))
    for rows in (tight, moons(0.05), ring, circles, heavy, flat, normal(50), normal(400, 40)):
        assert advice(rows) == []
    for d in (1, 2, 5, 10, 30):
        for n in (d + 2, 50, 500):
            assert advice(normal(n, d)) == []


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("iris", []),  # rounded to 0.1, which is fine beside its spread; one row repeats another
        ("wine", ["column 'malic_acid' (skewness 1.03, 0.27 after a logarithm) is positive and skewed"]),
        (
            "diabetes",
            ["column 'sex' (2 values) takes few values", "column 's4' (28 of 442 rows at its smallest value -0.0763945) has many rows"],
        ),
        (
            "breast_cancer",  # tumours without concavity, and the area of a tumour is nearly pi times its radius squared
            [
                "columns 'mean concavity' (13 of 569 rows at its smallest value 0), 'mean concave points' (13 of 569 rows",
                "columns 'mean area' (skewness 1.64, 0.28 after a logarithm), 'mean compactness' (skewness 1.19, -0.03 after",
                "column 'mean area' (a function of 'mean radius' to 0.02 of its spread) is nearly a function",
            ],
        ),
    ],
)
def test_notes_on_well_known_tables(name, starts):
    table = as_table(getattr(datasets, f"load_{name}")(as_frame=True).data)
    notes = advise(table, "euclidean")
    assert [note[: len(start)] for note, start in zip(notes, starts, strict=True)] == starts
