"""A column of weights in tables: how it is named, what it leaves out, what is refused, and weighted preparation."""

import numpy as np
import pandas as pd
import pytest

from dualebm.data.preparation import prepare, to_space
from dualebm.data.tables import as_table, read, where

TEXT = "x,w,y\n1,2,5\n3,0,6\n4,0.5,7\n"
ROWS = np.array([[1.0, 2.0, 5.0], [3.0, 0.0, 6.0], [4.0, 0.5, 7.0]])


def sources(folder):
    """The same table as a text, a Parquet file, an array in a file, a DataFrame, and by position."""
    (folder / "a.csv").write_text(TEXT)
    (folder / "plain.csv").write_text(TEXT.split("\n", 1)[1])
    np.save(folder / "a.npy", ROWS)
    frame = pd.DataFrame(ROWS, columns=["x", "w", "y"])
    return [
        read(folder / "a.csv", weights="w"), read(folder / "a.csv", ["x", "y"], weights="w"), read(folder / "plain.csv", weights="2"),
        read(folder / "plain.csv", ["1", "3"], weights="2"), read(folder / "a.npy", weights="2"), as_table(frame, weights="w"),
        as_table(frame[["x", "y"]], weights=ROWS[:, 1]), as_table(as_table(frame), weights="w"),
        as_table(as_table(frame[["x", "y"]]), weights=[2, 0, 0.5]), as_table(as_table(frame, weights="w")),
    ]  # fmt: skip


def test_the_weights_are_no_coordinate_and_rows_of_weight_zero_are_left_out(tmp_path):
    for table in sources(tmp_path):
        assert table.rows.tolist() == [[1.0, 5.0], [4.0, 7.0]] and table.weights.tolist() == [2.0, 0.5]
        assert (table.dropped, table.weightless) == (0, 1) and table.columns in (None, ("x", "y"))
        assert where(table, 1, 1).endswith(f"{table.origin.unit} {4 if table.origin.unit == 'line' and table.columns else 3}, column "
                                           f"{table.origin.positions[1] + 1}" + (" ('y')" if table.columns else ""))  # fmt: skip
    chosen = as_table(sources(tmp_path)[0], ["y"])
    assert chosen.rows.tolist() == [[5.0], [7.0]] and chosen.weights.tolist() == [2.0, 0.5]
    assert read(tmp_path / "a.csv").weights is None and read(tmp_path / "a.csv").rows.shape == (3, 3)
    wanted = read(tmp_path / "a.csv", wanted=["y"], weights="w")
    assert wanted.rows.tolist() == [[5.0], [7.0]] and wanted.columns == ("y",)


def test_missing_values_and_an_index_beside_weights(tmp_path):
    (tmp_path / "a.csv").write_text(",w,x\n0,1,2\n1,,3\n2,0,4\n3,5,NA\n4,3,6\n")
    table = read(tmp_path / "a.csv", drop_missing=True, weights="w")
    assert table.rows.tolist() == [[2.0], [6.0]] and table.columns == ("x",) and table.weights.tolist() == [1.0, 3.0]
    assert (table.dropped, table.weightless) == (2, 1)
    (tmp_path / "b.csv").write_text("id,x\n1,2\n2,3\n")
    assert read(tmp_path / "b.csv", weights="id").weights.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, dict(weights="v"), "weights is 'v', which .*a.csv lacks; Allowed: 'x', 'w', 'y'"),
        (TEXT, dict(weights="w", columns=["x", "w"]), "weights is 'w', which is among the columns 'x', 'w'; the weights must be another"),
        (TEXT, dict(weights="w", wanted=["w"]), "weights is 'w', which is among the columns 'w'"),
        (TEXT, dict(weights=""), "weights is ''; it must name a column, or give its position as digits"),
        ("1.5;2\n3;4\n", dict(weights="3"), r"weights is '3', and .*a.csv has no column names; it must be a position from 1 to 2"),
        ("w\n3\n4\n", dict(weights="w"), "weights is 'w', the only column of .*a.csv; it must have columns of coordinates too"),
        ("x,w\n3,1\n4,-1\n", dict(weights="w"), r"a.csv, line 3, column 2 \('w'\): found the weight -1; weights must not be negative"),
        ("x,w\n3,1\n4,inf\n", dict(weights="w"), r"a.csv, line 3, column 2 \('w'\): found 'inf'; it must be a finite number"),
        ("x,w\n3,1\n4,\n", dict(weights="w"), r"a.csv, line 3, column 2 \('w'\): found no value, the first of 1 missing value"),
        ("x,w\n3,0\n4,0\n", dict(weights="w"), "a.csv has no positive weight in 2 rows; at least one weight must be positive"),
        ("x,w\n3,0\n,1\n", dict(weights="w", drop_missing=True), "a.csv has no positive weight in 1 row;"),
    ],
)
def test_weights_in_files_that_are_refused(tmp_path, text, options, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", **options)


def test_weights_of_arrays_that_are_refused():
    for weights, message in (
        ([1.0, 2.0], r"weights has shape \(2,\)"), ([1.0, -2.0, 0.0], "weights has -2 at row 2"),
        ([0, 0, 0], "weights is zero at all 3 rows"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            as_table(ROWS, weights=weights)
    with pytest.raises(ValueError, match="weights is given, and x has weights already; give them once"):
        as_table(as_table(ROWS, weights="2"), weights="1")


def test_columns_are_standardised_by_weighted_moments():
    rows, counts = np.random.default_rng(0).normal(size=(30, 2)), np.random.default_rng(1).integers(1, 5, 30)
    weighted, repeated = (prepare(table, "euclidean", standardise=True) for table in (
        as_table(rows, weights=counts), as_table(np.repeat(rows, counts, axis=0)),
    ))  # fmt: skip
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)
    some = np.arange(10)
    part = prepare(as_table(rows, weights=counts), "euclidean", standardise=True, rows=some)
    np.testing.assert_allclose(part.mean, np.average(rows[some], axis=0, weights=counts[some]), rtol=1e-12)


def test_points_have_the_weights_of_their_rows():
    table = as_table(ROWS[:, [0, 2]], weights=[1.0, 0.0, 3.0])
    samples = to_space(prepare(table, "euclidean"), table, "float32")
    assert samples.points.tolist() == [[1.0, 5.0], [4.0, 7.0]] and samples.log_weights.dtype == np.float32
    np.testing.assert_allclose(samples.weights, [0.25, 0.75], rtol=1e-6)
    for weights in (None, np.full(3, 0.2)):
        table = as_table(ROWS, weights=weights)
        assert to_space(prepare(table, "euclidean"), table, "float32").log_weights is None
