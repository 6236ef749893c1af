"""Tables of files and arrays are read to exact values, or refused in one line that names the place of the fault."""

import itertools
import os
import warnings

import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from dualebm.data import columns as columns_of_tables
from dualebm.data.tables import Table, as_samples, as_table, read, where
from dualebm.measures import Samples
from dualebm.spaces import Euclidean, Sphere, Torus

UNIT = np.array([[0.6, 0.8], [0.0, -1.0]], np.float32)


def test_as_samples_keeps_the_values_and_the_dtype(x64):
    for array in (UNIT, jnp.asarray(UNIT), UNIT.astype(np.float64)):
        samples = as_samples(array, Sphere(2))
        assert isinstance(samples, Samples) and samples.points.dtype == array.dtype and samples.log_weights is None
        assert np.array_equal(samples.points, array)
    assert as_samples(UNIT, Sphere(2), dtype=jnp.float64).points.dtype == jnp.float64
    assert as_samples(5 * UNIT, Euclidean(2)).points[0, 0] == 3
    np.testing.assert_allclose(as_samples(5 * UNIT, Sphere(2), normalise=True).points, UNIT, atol=1e-7)


def test_as_samples_casts_double_precision_where_it_is_asked_to():
    samples = as_samples(np.array([[3.0, 4.0]]), Sphere(2), normalise=True, dtype=jnp.float32)
    assert samples.points.dtype == jnp.float32
    np.testing.assert_allclose(samples.points, [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    "x,changes,message",
    [
        (UNIT.astype(np.float64), {}, 'x has dtype float64 .*JAX_ENABLE_X64=1, or pass astype."float32"'),
        (UNIT, dict(dtype=jnp.float64), "dtype is float64 .*JAX_ENABLE_X64=1"),
        (UNIT, dict(dtype=jnp.int32), "dtype is .*int32.*; it must be float32 or float64"),
        (np.eye(2, dtype=int), {}, "x has dtype int64; it must be float32 or float64"),
        (np.eye(2, dtype=int), dict(dtype=jnp.float32, normalise=True), "x has dtype int64"),
        (np.eye(2, dtype=bool), {}, "x has dtype bool"),
        (np.eye(2, dtype=np.complex64), {}, "x has dtype complex64"),
        (np.eye(2, dtype=np.float16), {}, "x has dtype float16"),
        (np.array([["a", "b"]]), {}, "x has dtype <U1"),
        (UNIT[0], {}, r"x has shape \(2,\); it must be \(count, 2\)"),
        (UNIT[:0], {}, "x is empty"),
        (np.eye(3, dtype=np.float32), {}, "x has 3 components; it must have 2"),
        (np.array([[np.nan, 1]], np.float32), {}, r"x has NaN or infinite values \(row 0"),
        (np.array([[0, 1], [np.inf, 1]], np.float32), dict(normalise=True), r"x has NaN or infinite values \(row 1"),
        (np.array([[1e300, 1]]), dict(dtype=jnp.float32), r"x has NaN or infinite values \(row 0"),
        (2 * UNIT, {}, r"x has rows off the unit sphere \(row 0 has norm 2\); normalise them"),
        (0 * UNIT, dict(normalise=True), "x has zeros in row 0; rows must have a direction"),
        (UNIT, dict(normalise=True, space=Torus(2)), r"normalise is True and space is Torus\(.*; allowed: a Sphere"),
    ],
)
def test_as_samples_refuses(x, changes, message):
    with pytest.raises(ValueError, match=message):
        as_samples(x, **{"space": Sphere(2), **changes})


# -- Text ------------------------------------------------------------------------------------------

A, B, ONE, XY = [[1.5, 2.0], [-3.0, 0.25]], [[1.0, 2.0], [3.0, 4.0]], [[0.435], [1.25]], ("x", "y")
COUNT = "found values that count the rows, which may be no data; columns must choose those to read, such as"


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        pytest.param("x,y\n1.5,2\n-3,.25\n", A, XY, id="commas"),
        pytest.param("x;y\n1.5;2\n-3;0.25\n", A, XY, id="semicolons"),
        pytest.param("x\ty\n1.5\t2\n-3\t0.25\n", A, XY, id="tabs"),
        pytest.param("  x   y\n 1.5 2\n  -3 \t 0.25  \n", A, XY, id="blanks"),
        pytest.param("x , y\n1.5 , 2\n -3,  0.25 \n", A, XY, id="blanks beside commas"),
        pytest.param("1.5,2\n-3,0.25", A, None, id="no header and no last line end"),
        pytest.param("x;y\n1,5;2\n-3;0,25\n", A, XY, id="decimal commas between semicolons"),
        pytest.param("x\ty\n1,5\t2\n-3\t0,25\n", A, XY, id="decimal commas between tabs"),
        pytest.param("1,5 2,0\n-3 0,25\n", A, None, id="decimal commas between blanks"),
        pytest.param('x,y\n"1,5","2"\n"-3","0,25"\n', A, XY, id="decimal commas in quotation marks"),
        pytest.param("x\n0,435\n1,25\n", ONE, ("x",), id="one column of decimal commas under a name"),
        pytest.param("x\n0.435\n1.25\n", ONE, ("x",), id="one column"),
        pytest.param("x;y\n1,234.5;2\n12,345,678;0.5\n", [[1234.5, 2], [12345678, 0.5]], XY, id="thousands in commas"),
        pytest.param("x;y\n1.234,5;2\n12.345.678;0,5\n", [[1234.5, 2], [12345678, 0.5]], XY, id="thousands in points"),
        pytest.param("x;y\n1 234,5;2\n12\u00a0345;0,5\n".replace("\u00a0", " "), [[1234.5, 2], [12345, 0.5]], XY, id="thousands in blanks"),
        pytest.param("x;y\n1\u202f234,5;2\n12;0,5\n", [[1234.5, 2], [12, 0.5]], XY, id="thousands in narrow blanks"),
        pytest.param("x;y\n1'234.5;2\n12;0.5\n", [[1234.5, 2], [12, 0.5]], XY, id="thousands in apostrophes"),
        pytest.param('x,y\n"1,234",2\n"12,345,678",0\n', [[1234, 2], [12345678, 0]], XY, id="quoted thousands"),
        pytest.param("x;y\n1,234;0,5\n2,345;1\n", [[1.234, 0.5], [2.345, 1]], XY, id="a decimal comma tells what others are"),
        pytest.param("x;y\n" + "1.234;2\n" * 250 + "1.234,5;2\n", [[1234, 2]] * 250 + [[1234.5, 2]], XY, id="a late line tells"),
        pytest.param("\ufeffx,y\n1,2\n3,4\n", B, XY, id="a byte-order mark"),
        pytest.param("x,y\r\n1,2\r\n\r\n3,4\r\n", B, XY, id="CRLF and blank lines"),
        pytest.param("x,y\r1,2\r3,4", B, XY, id="CR"),
        pytest.param("# wind\n\nx,y # names\n1,2  # first\n  \n#,\n3,4#\n", B, XY, id="comments"),
        pytest.param('"x, in m","y # 2"\n"1",2\n3,"4"\n', B, ("x, in m", "y # 2"), id="quotation marks"),
        pytest.param('"x in m" "y"\n1 2\n3 4\n', B, ("x in m", "y"), id="quotation marks between blanks"),
        pytest.param("1;2;\n3;4;\n", B, None, id="trailing separators"),
        pytest.param("x,y,\n1,2,\n3,4,\n", B, XY, id="trailing separators and names"),
        pytest.param('"x, in m"\n0,435\n1,25\n', ONE, ("x, in m",), id="one column under a quoted name with a comma"),
        pytest.param("O'Neil\n1'234\n5\n", [[1234], [5]], ("O'Neil",), id="a name with a mark of thousands"),
        pytest.param("0,1\n1.5,2.0\n-3.0,0.25\n", A, ("0", "1"), id="a header of numbers"),
        pytest.param("0,1,2\n5,6,7\n", [[5, 6, 7]], ("0", "1", "2"), id="a header of three numbers"),
        pytest.param(",0,1\n0,1.5,2.0\n1,-3.0,0.25\n", A, ("0", "1"), id="an unnamed index and a header of numbers"),
        pytest.param(",x,y\n0,1,2\n1,3,4\n", B, XY, id="an unnamed index"),
        pytest.param(",0\n0,0.435\n1,1.25\n", ONE, ("0",), id="an unnamed index and one header of a number"),
        pytest.param('"","x","y"\n"1",1,2\n"2",3,4\n', B, XY, id="an unnamed index from 1"),
        pytest.param("Unnamed: 0,x,y\n0,1,2\n1,3,4\n", B, XY, id="an index that was read and written"),
        pytest.param("x,y\n1,2\n", [[1, 2]], XY, id="one row"),
        pytest.param("1e3,2E-3\n+1.,-.5\n", [[1000, 0.002], [1, -0.5]], None, id="exponents"),
        pytest.param("t\n1700000000.25\n1700000001.25\n", [[1700000000.25], [1700000001.25]], ("t",), id="time stamps"),
        pytest.param("id,x\n7,1\n3,2\n", [[7, 1], [3, 2]], ("id", "x"), id="a name of an index above other values"),
        pytest.param("id,x\n1,5\n", [[1, 5]], ("id", "x"), id="a name of an index above one row"),
    ],
)  # fmt: skip
def test_a_text_is_read_to_exact_values(tmp_path, text, rows, columns):
    (tmp_path / "a.csv").write_bytes(text.encode())
    table = read(tmp_path / "a.csv")
    assert table.rows.dtype == np.float64 and table.rows.flags.c_contiguous
    assert table.rows.tolist() == rows and table.columns == columns and table.dropped == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("0,435\n1,25\n", "line 1: found '0,435', which is 2 or 1 columns",
            id="one column of decimal commas or two of integers"),
        pytest.param("1 200\t3\n2 300\t4\n", "line 1: found '1 200\\t3', which is 2 or 3 columns", id="blanks beside tabs"),
        pytest.param("x;y\n1,234;2,345\n", "line 2: found '1,234', whose comma may stand before decimals or after",
            id="decimals or thousands"),
        pytest.param("0 1\n-1 2\n", "line 1: found '0 1', which may be names, as pandas writes them, or a point",
            id="0 and 1 above integers"),
        pytest.param("0,1\n" + "1.5,2.5\n" * 300 + "3,4\n", "line 1: found '0,1', which may be names", id="0 and 1 above a late integer"),
        pytest.param("x,y\n1 234,5\n2 345,6\n", "line 2, column 1 ('x'): found '1 234'", id="blanks within numbers between commas"),
        pytest.param("0\n0.1\n", "line 1: found '0', which may be names", id="one 0"),
        pytest.param("id,x\n1,5\n2,6\n", f"column 1 ('id'): {COUNT} x", id="an index under a name"),
        pytest.param("id\n1\n2\n", f"column 1 ('id'): {COUNT} id", id="an index alone"),
        pytest.param("x,Index\n1.5,0\n2,1\n", f"column 2 ('Index'): {COUNT} x", id="an index under a name in the last column"),
        pytest.param(",x\n3,1\n4,2\n", "column 1: found no name, and values that do not count rows", id="an unnamed column"),
        pytest.param("x,,y\n3,1,2\n4,2,3\n", "line 1, column 2: found no name; each column must have one", id="an unnamed column within"),
        pytest.param("x,y,x\n3,1,2\n", "line 1, column 3: found the name 'x' a second time", id="duplicate names"),
        pytest.param("x,y\nm,s\n1,2\n", "line 2, column 1 ('x'): found 'm'; it must be a finite number, and only one line may hold names",
            id="units"),
        pytest.param("t,y\n2020-01-31,2\n", "line 2, column 1 ('t'): found '2020-01-31', a date or a time", id="dates"),
        pytest.param("t,y\n12:30,2\n", "line 2, column 1 ('t'): found '12:30', a date or a time", id="times"),
        pytest.param("t,y\n1,2\n0.5,True\n", "line 3, column 2 ('y'): found 'True', a boolean; write 1 or 0", id="booleans"),
        pytest.param("x,y\na,2\nb,3\n", "line 2, column 1 ('x'): found 'a'; it must be a finite number, or columns must", id="text"),
        pytest.param("NA,NA\n1,2.5\n", "line 1, column 1: found no value, the first of 2 missing values in 1 of 2 rows",
            id="missing in the first row"),
        pytest.param("x,y\n1,\n,2\n3,4\n", "line 2, column 2 ('y'): found no value, the first of 2 missing values in 2 of 3 rows",
            id="missing"),
        pytest.param("x,y\n1,#N/A\n", "line 2, column 2 ('y'): found no value, the first of 1 missing value in 1 of 1 rows",
            id="missing as in Excel"),
        pytest.param("x\ty\n1\t\n2\t3\n", "line 2, column 2 ('y'): found no value", id="missing between tabs"),
        pytest.param("x,y\n1,2\n3\n", "line 3: found 1 values; it must have 2, as line 1", id="a short line"),
        pytest.param("x,y\n1,2\n3,4,5\n", "line 3: found 3 values; it must have 2, as line 1", id="a long line"),
        pytest.param("x,y\n1,2,\n3,4,\n", "line 2: found 3 values; it must have 2, as line 1", id="trailing separators below names"),
        pytest.param("x,1\n0,1\n", "line 1, column 1: found 'x'; it must be a finite number", id="a word and a number"),
        pytest.param("1,0.5\n-inf,0\n", "line 2, column 1: found '-inf'; it must be a finite number", id="infinite"),
        pytest.param("1e400,0\n", "line 1, column 1: found '1e400'; it must be a finite number", id="too large"),
        pytest.param("1_0,0.5\n", "line 1, column 1: found '1_0'", id="underscores"),
        pytest.param("x,y\n1.5,2\n1.5,3,5\n", "line 3: found 3 values", id="a stray comma"),
        pytest.param('x,y\n1,"2\n3",4\n', "line 2: found a quotation mark without a partner", id="a value over two lines"),
        pytest.param("x;y\n" + "1,5\n" * 300, "line 2: found 1 values; it must have 2, as line 1", id="two names above one column"),
        pytest.param('1,5" pipe\n', "line 1: found a quotation mark without a partner", id="a quotation mark within a value"),
        pytest.param("1, 2 3\n4, 5 6\n", "line 1, column 1: found '1,'", id="a comma beside no digit"),
        pytest.param("x,y\n# nothing\n", "holds no points below the names in line 1", id="no rows"),
        pytest.param("x y\n", "holds no points below the names in line 1", id="names between blanks alone"),
        pytest.param("1,5\n2\nx,y\n", "line 2: found 1 values; it must have 2, as line 1", id="a short line and words"),
        pytest.param("# nothing\n\n", "holds no points; it must have one per line", id="comments alone"),
        pytest.param("", "holds no points; it must have one per line", id="empty"),
        pytest.param(b"x,y\nH\xf6he,2\n", "line 2: found bytes that are no text in UTF-8", id="another encoding"),
        pytest.param(b"1,2\n\0\0\n", "line 2: found the control character '\\x00'; the file must be text", id="binary"),
        pytest.param(",".join(["1.5"] * 10**6), "line 1: found 1000000 columns; at most 16384 are allowed", id="a million columns"),
    ],
)  # fmt: skip
def test_a_text_is_refused_in_one_line_that_names_the_place(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as caught:
        read(path)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.5,x", "line 302, column 2 ('y'): found 'x'"),
        ("1.5,True", "line 302, column 2 ('y'): found 'True', a boolean"),
        ("-inf,2", "line 302, column 1 ('x'): found '-inf'"),
        ("1.5", "line 302: found 1 values; it must have 2, as line 1"),
        ("1.5,2,", "line 302: found 3 values; it must have 2, as line 1"),
        ("1.5,", "line 302, column 2 ('y'): found no value"),
    ],
)
@pytest.mark.parametrize("word", ["1.5", "NA"])
def test_a_late_fault_of_a_long_text_is_named(tmp_path, line, message, word):
    (tmp_path / "a.csv").write_text("x,y\n" + f"{word},2\n" * 300 + line + "\n1.5,2\n")
    if word == "NA" and "no value" in message:
        message = "line 2, column 1 ('x'): found no value, the first of 301 missing values"
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.csv")
    assert message in str(caught.value)


def test_booleans_below_missing_words_are_no_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "NA,2\n" * 300 + "True,2\n" * 10)
    with pytest.raises(ValueError, match=r"line 302, column 1 \('x'\): found 'True', a boolean"):
        read(tmp_path / "a.csv", drop_missing=True)


@pytest.mark.parametrize("count", [1, 300])
def test_zeros_keep_their_signs_and_integers_their_digits(tmp_path, count):
    (tmp_path / "a.csv").write_text("x,y\n" + "-0,123456789012345678901234567890\n" * count)
    rows = read(tmp_path / "a.csv").rows
    assert np.signbit(rows[:, 0]).all() and (rows[:, 1] == 123456789012345678901234567890.0).all()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["data.csv", "data.TSV", "Höhe über Normal.txt", "a b 'c'.csv"])
def test_encodings_suffixes_and_paths(tmp_path, encoding, name):
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    (tmp_path / name).write_bytes(f"{mark}Höhe;y\n1,5;2\n".encode(encoding))
    table = read(str(tmp_path / name))
    assert table.rows.tolist() == [[1.5, 2.0]] and table.columns == ("Höhe", "y")


@pytest.mark.parametrize(("separator", "decimal"), [*itertools.product("\t; ", ".,"), (",", ".")])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_what_pandas_writes_is_read_back(tmp_path, separator, decimal, header, width):
    """All bits of float64, with any separator and decimal mark."""
    bits = np.random.default_rng(width).integers(0, 2**64, (400, width), dtype=np.uint64).view(np.float64)
    rows = np.where(np.isfinite(bits), bits, -0.5)
    frame = pandas.DataFrame(rows, columns=[f"column {i}" for i in range(width)])
    frame.to_csv(tmp_path / "a.csv", sep=separator, decimal=decimal, header=header, index=False)
    if (width, decimal, header) == (1, ",", False):
        with pytest.raises(ValueError, match="which is 2 or 1 columns"):
            read(tmp_path / "a.csv")
        return
    table = read(tmp_path / "a.csv")
    assert table.rows.tobytes() == rows.tobytes() and table.columns == (tuple(frame.columns) if header else None)


def test_columns_are_chosen_by_name_or_position(tmp_path):
    (tmp_path / "a.csv").write_text("name,x,id,y,2020\nfoo,1,1,3,\nbar,5,2,7,\n")
    (tmp_path / "b.csv").write_text("foo,1,1,3\nbar,5,2,7\n")
    table = read(tmp_path / "a.csv", ["y", "x"])
    assert table.rows.tolist() == [[3, 1], [7, 5]] and table.columns == ("y", "x")
    assert where(table, 1, 0) == f"{tmp_path / 'a.csv'}, line 3, column 4 ('y')"
    assert read(tmp_path / "a.csv", ["id"]).rows.tolist() == [[1], [2]]
    assert read(tmp_path / "a.csv", wanted=["id", "x"]).rows.tolist() == [[1, 1], [2, 5]]
    assert read(tmp_path / "b.csv", ["4", "2"]).rows.tolist() == [[3, 1], [7, 5]]
    assert as_table(table, ["x"]).rows.tolist() == [[1], [5]] and as_table(table, ["x"]).origin.positions == (1,)
    for columns, message in (
        (["xx", "y"], "columns has 'xx', which .*a.csv lacks; did you mean 'x'. Allowed: 'name', 'x', 'id', 'y', '2020'"),
        (["x", "x"], r"columns is \['x', 'x'\]; it must give each column once"),
        ([], r"columns is \[\]; it must list names of columns, or positions as digits"),
        ("xy", "columns is 'xy'"),
        (["name"], r"line 2, column 1 \('name'\): found 'foo'"),
        (["2020"], r"line 2, column 5 \('2020'\): found no value"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.csv", columns)
    (tmp_path / "c.csv").write_text("0,7 3027\n1,2 6102\n")
    with pytest.raises(ValueError, match="line 1: found '0,7 3027', which is 2 columns, as commas or blanks may stand within numbers"):
        read(tmp_path / "c.csv", ["1"])
    (tmp_path / "wide.csv").write_text(",".join(f"x{i}" for i in range(21)) + "\n" + ",".join("1" * 21) + "\n")
    with pytest.raises(ValueError, match=r"lacks; Allowed: 'x0', .*'x19', \.\.\.$"):
        read(tmp_path / "wide.csv", ["y"])
    for columns in (["5"], ["0"], ["x"]):
        with pytest.raises(ValueError, match=r"and .*b.csv has no column names; columns must be positions from 1 to 4"):
            read(tmp_path / "b.csv", columns)


def test_rows_with_missing_values_are_dropped_on_demand(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,\nNA,4,\n5,null,\n7,8,-nan\n")
    table = read(tmp_path / "a.csv", ["x", "y"], drop_missing=True)
    assert table.rows.tolist() == [[1, 2], [7, 8]] and table.dropped == 2 and where(table, 1) == f"{tmp_path / 'a.csv'}, line 5"
    with pytest.raises(ValueError, match=r"a.csv has a missing value in each of 4 rows, first in line 2, column 3 \('z'\)"):
        read(tmp_path / "a.csv", drop_missing=True)


# -- Other files -----------------------------------------------------------------------------------


def test_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", UNIT)
    np.save(tmp_path / "whole.npy", np.eye(2, dtype=">i4"))
    np.savez(tmp_path / "b.npz", whatever=UNIT)
    np.savez_compressed(tmp_path / "c.npz", labels=np.arange(2), points=UNIT)
    for name in ("a.npy", "b.npz", "c.npz"):
        assert np.array_equal(read(tmp_path / name).rows, UNIT)
    assert read(tmp_path / "whole.npy", ["2"]).rows.tolist() == [[0.0], [1.0]]
    np.save(tmp_path / "nan.npy", np.array([[1, 2], [3, np.nan]]))
    with pytest.raises(ValueError, match=r"nan.npy, row 2, column 2: found no value, the first of 1 missing value"):
        read(tmp_path / "nan.npy")


def test_tables_of_parquet_and_excel(tmp_path):
    frame = pandas.DataFrame({"x": [1, 2, 3], "y": [0.1, None, -1e-300]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx")
    frame.to_excel(tmp_path / "b.xlsx", index=False, header=False, startrow=2)
    frame[["y"]].to_excel(tmp_path / "c.xlsx", index=False)
    pandas.DataFrame(np.eye(2) / 3).to_excel(tmp_path / "d.xlsx")
    pandas.DataFrame({"y, in 5\" m": np.arange(300.0)}).to_excel(tmp_path / "e.xlsx", index=False)
    for name, place, columns in (
        ("a.parquet", "row 2, column 2 ('y')", XY), ("a.xlsx", "row 3, column 3 ('y')", XY), ("b.xlsx", "row 4, column 2", None),
    ):  # fmt: skip
        table = read(tmp_path / name, drop_missing=True)
        assert table.rows.tolist() == [[1, 0.1], [3, -1e-300]] and table.columns == columns and table.dropped == 1
        with pytest.raises(ValueError) as caught:
            read(tmp_path / name)
        assert f"{name}, {place}: found no value" in str(caught.value)
    assert read(tmp_path / "c.xlsx", drop_missing=True).rows.tolist() == [[0.1], [-1e-300]]
    assert np.array_equal(read(tmp_path / "d.xlsx").rows, np.eye(2) / 3)
    assert read(tmp_path / "e.xlsx").rows[:, 0].tolist() == list(range(300)) and read(tmp_path / "e.xlsx").columns == ("y, in 5' m",)
    assert read(tmp_path / "a.parquet", ["x"]).rows.tolist() == [[1], [2], [3]]

    mixed = pandas.DataFrame({"b": [True, False], "t": pandas.to_datetime(["2020-01-01", "2021-01-01"]), "s": ["p", "q"], "x": [1.0, 2.0]})
    mixed.to_parquet(tmp_path / "mixed.parquet")
    mixed.to_excel(tmp_path / "mixed.xlsx", index=False)
    for column, position, found in (("b", 1, "'True', a boolean"), ("t", 2, "'2020-01-01 00:00:00', a date"), ("s", 3, "'p'")):
        for name, row in (("mixed.parquet", 1), ("mixed.xlsx", 2)):
            with pytest.raises(ValueError) as caught:
                read(tmp_path / name, ["x", column])
            assert f"{name}, row {row}, column {position} ({column!r}): found {found}" in str(caught.value)
        assert read(tmp_path / name, ["x"]).rows.tolist() == [[1], [2]]
    with pandas.ExcelWriter(tmp_path / "two.xlsx") as writer:
        for title in ("first", "second", "third"):
            (frame if title != "third" else frame[:0][[]]).to_excel(writer, sheet_name=title, index=False)
    with pytest.raises(ValueError, match=r"two.xlsx has the sheets \['first', 'second'\]; it must have one"):
        read(tmp_path / "two.xlsx")
    frame[:0][[]].to_excel(tmp_path / "empty.xlsx", index=False)
    with pytest.raises(ValueError, match=r"empty.xlsx holds no points; it must have one per row"):
        read(tmp_path / "empty.xlsx")


def test_files_that_are_no_tables(tmp_path, monkeypatch):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=UNIT, b=UNIT)
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "vector.npy", np.arange(4.0))
    np.save(tmp_path / "wide.npy", np.zeros((1, 10**6)))
    np.save(tmp_path / "cut.npy", np.eye(200))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:1000])
    for name in ("text.npz", "text.xlsx", "text.parquet"):
        (tmp_path / name).write_text("1,0")
    (tmp_path / "empty.npy").write_text("")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.csv")
    for name, message in {
        "objects.npy": "objects.npy holds no plain array .*allow_pickle=False",
        "two.npz": r"two.npz holds the arrays \['a', 'b'\]; it must hold one, or one named 'points'",
        "none.npz": r"none.npz holds the arrays \[\]",
        "vector.npy": r"vector.npy has shape \(4,\); it must be \(rows, columns\)",
        "wide.npy": "wide.npy has 1000000 columns; at most 16384 are allowed",
        "cut.npy": "cut.npy holds no plain array",
        "text.npz": "text.npz holds no plain array",
        "text.xlsx": "text.xlsx is no Excel file",
        "text.parquet": "text.parquet is no Parquet file",
        "empty.npy": "empty.npy holds no plain array",
        "folder.csv": "folder.csv is a folder; it must be a file that ends with .csv, ",
        "zero.csv": "zero.csv is a device or a pipe; it must be a file",
        "pipe.csv": "pipe.csv is a device or a pipe; it must be a file",
        "data.cvs": "suffix of .*data.cvs is '.cvs'; did you mean '.csv'. Allowed: '.csv', '.tsv', '.txt', '.npy', '.npz', ",
        "data.json": "suffix of .*data.json is '.json'; Allowed: '.csv', ",
        "data": "suffix of .*data is ''; Allowed: '.csv', ",
        "a\0.csv": "cannot be read: embedded null byte",
        "x" * 300 + ".csv": "cannot be read: .*File name too long",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name in ("missing.npy", "vector.npy/a.csv"):
        with pytest.raises(FileNotFoundError, match=f"path is '.*{name}'; there is no such file"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="/dev/zero is a device or a pipe"):
        read("/dev/zero")

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    (tmp_path / "secret.csv").write_text("1.5,2")
    with pytest.raises(ValueError, match=r"secret.csv cannot be read: Permission denied"):
        read(tmp_path / "secret.csv")


# -- Arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        np.array(B, np.int8), np.array(B, np.uint64), np.array(B, np.float16), np.array(B, ">f4"), np.array(B, ">i2"),
        np.array(B).T.copy().T,
        [[1, 2], [3, 4]], ((1.0, 2), (3, 4.0)), jnp.array(B, jnp.float32), jnp.array(B, jnp.bfloat16),
        np.ma.masked_array(B, np.zeros((2, 2))),
        pandas.DataFrame(B, columns=XY), pandas.DataFrame(np.array(B, int), columns=XY, dtype="Int64"),
        pandas.DataFrame(B, dtype="float32"),
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)  # fmt: skip
def test_arrays_of_any_numbers_are_tables(x):
    table = as_table(x)
    assert isinstance(table, Table) and table.rows.dtype == np.float64 and table.rows.tolist() == B
    assert table.columns == (tuple(str(column) for column in x.columns) if isinstance(x, pandas.DataFrame) else None)
    assert as_table(table) is not x and as_table(table).rows is table.rows


def test_tensors_are_tables():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        assert as_table(torch.tensor(B, dtype=dtype)).rows.tolist() == B
    assert as_table(torch.tensor(B, requires_grad=True)).rows.tolist() == B
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="x has dtype"):
            as_table(torch.ones(2, 2, dtype=dtype))


def test_columns_of_frames():
    frame = pandas.DataFrame({"a": ["p", "q"], "x": [1, 2], "y": [3.0, np.nan]}, index=[7, 5])
    assert as_table(frame, ["x"]).rows.tolist() == [[1], [2]]
    assert as_table(frame, ["y", "x"], drop_missing=True).rows.tolist() == [[3, 1]]
    assert as_table(frame, wanted=["x"]).columns == ("x",)
    assert as_table(frame["x"]).rows.tolist() == [[1], [2]] and as_table(frame["x"]).columns == ("x",)
    with pytest.raises(ValueError, match=r"data, row 2, column 3 \('y'\): found no value"):
        as_table(frame, ["y"], name="data")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.eye(2, dtype=bool), "x has dtype bool; it must hold integers or floating-point numbers"),
        (np.eye(2, dtype=complex), "x has dtype complex128"),
        (np.array([[None, 1]]), "x has dtype object"),
        ([["a", "b"]], "x has dtype <U1"),
        (np.array([["2020-01-01"]], "M8[D]"), "x has dtype datetime64"),
        (np.zeros((2, 1), [("x", "f8")]), "x has dtype"),
        ([[1, 2], [3]], "x has rows of different lengths"),
        (None, "x has dtype object"),
        ([1.0, 2.0], r"x has shape \(2,\); it must be \(rows, columns\); x\[:, None\] is a column of numbers, and x\[None\] one point"),
        (np.zeros((2, 2, 2)), r"x has shape \(2, 2, 2\); it must be \(rows, columns\)$"),
        (np.zeros((0, 2)), r"x is empty, shape \(0, 2\)"),
        (np.zeros((2, 0)), r"x is empty, shape \(2, 0\)"),
        (np.array([[1, 2], [3, -np.inf]]), "x, row 2, column 2: found -inf; it must be a finite number"),
        (np.ma.masked_array(B, [[False, True], [False, False]]), "x, row 1, column 2: found no value, the first of 1 missing value"),
        (pandas.DataFrame({"a": [1], "b": [True]}), r"x, row 1, column 2 \('b'\): found 'True', a boolean"),
        (pandas.DataFrame({"a": [None, "p"]}), r"x, row 2, column 1 \('a'\): found 'p', text or an object"),
        (pandas.DataFrame({"a": [1j]}), r"x, row 1, column 1 \('a'\): found '1j', a complex number"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "x, column 2: found the name 'a' a second time"),
        (pandas.DataFrame({"id": [0, 1], "x": [1.0, 2.0]}), rf"x, column 1 \('id'\): {COUNT} x"),
        (pandas.DataFrame({"Unnamed: 0": [0, 1]}), "x has one column, which counts the rows; it must have columns of numbers"),
        (pandas.DataFrame({"x": []}), "x is empty"),
        (np.zeros((1, columns_of_tables.COLUMNS + 1)), "x has 16385 columns; at most 16384 are allowed"),
    ],
)
def test_as_table_refuses(x, message):
    with pytest.raises(ValueError, match=message):
        as_table(x)


def test_integers_that_float64_merges_are_warned_of():
    stamps = 1_700_000_000_000_000_000 + np.arange(10)
    for x in (stamps[:, None], pandas.DataFrame({"t": stamps})):
        with pytest.warns(UserWarning, match="column 1.* has 10 different integers, of which 1 differ in float64; subtract an offset"):
            as_table(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_table(1000 * stamps[:, None] // 1000 * 0 + 1_700_000_000 + np.arange(10)[:, None])
