"""Rows become points of a space and come back in the units of the data, whatever the order of the columns; or they are refused."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from dualebm._internal import checks
from dualebm.data import tables
from dualebm.data.preparation import Preparation, from_space, prepare, to_space
from dualebm.data.tables import as_table
from dualebm.spaces import Euclidean, Sphere, Torus

ROWS = np.array([[100.0, -3.0], [104.0, 5.0], [108.0, 1.0]])


def frame(**columns):
    return pandas.DataFrame(columns)


def test_columns_are_standardised_in_float64_by_the_rows_that_are_trained_on():
    preparation = prepare(ROWS, "euclidean", standardise=True, rows=np.array([0, 1]))
    assert preparation.space == Euclidean(2) and preparation.columns is None
    assert preparation.mean.tolist() == [102.0, 1.0] and preparation.scale.tolist() == [2.0, 4.0]
    points = to_space(preparation, ROWS, "float32").points
    assert points.dtype == jnp.float32 and points.tolist() == [[-1, -1], [1, 1], [3, 0]]
    table = from_space(preparation, points)
    assert table.rows.dtype == np.float64 and np.array_equal(table.rows, ROWS) and table.columns is None
    plain = prepare(ROWS, "euclidean")
    assert plain == Preparation(Euclidean(2)) and to_space(plain, ROWS, "float32").points.tolist() == ROWS.tolist()


def test_time_stamps_stay_distinct_there_and_back():
    stamps = 1.7e9 + np.arange(1000.0)
    x = frame(t=stamps, y=np.sin(stamps))
    preparation = prepare(x, "euclidean", standardise=True)
    points = to_space(preparation, x, "float32").points  # under warnings as errors
    rows = from_space(preparation, points).rows
    assert len(np.unique(rows[:, 0])) == 1000 and np.abs(rows[:, 0] - stamps).max() < 1e-4
    with pytest.warns(UserWarning, match="x, column 1: 1000 different values become 9 in float32; standardise columns, or use float64"):
        to_space(prepare(x, "euclidean"), x, "float32")
    with jax.enable_x64(True):
        assert to_space(prepare(x, "euclidean"), x, "float64").points[:, 0].tolist() == stamps.tolist()


def test_a_few_values_that_merge_are_not_warned_of():
    x = np.random.default_rng(0).normal(size=(10_000, 1))
    x[1] = x[0] * (1 + 1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_space(prepare(x, "euclidean"), x, "float32")


def test_columns_are_matched_by_name_in_any_order():
    data = frame(a=ROWS[:, 0], b=ROWS[:, 1])
    preparation = prepare(data, "euclidean", standardise=True)
    assert preparation.columns == ("a", "b")
    expected = to_space(preparation, data, "float32").points
    moved = frame(note=["p", "q", "r"], b=ROWS[:, 1], c=[0.5, np.nan, 3.0], a=ROWS[:, 0])
    for x in (moved, moved[["b", "a"]], as_table(moved, ["b", "a"]), as_table(data), ROWS, data[["a", "b"]]):
        assert np.array_equal(to_space(preparation, x, "float32").points, expected)
    assert from_space(preparation, expected).columns == ("a", "b")
    nameless = prepare(ROWS, "euclidean", standardise=True)
    assert np.array_equal(to_space(nameless, data, "float32").points, expected)
    for x, message in (
        (data[["a"]], "x lacks the columns 'b'; it must have 'a', 'b'"),
        (ROWS[:, :1], "x has 1 column; it must have 2, as the data of the model"),
        (np.ones((1, 3)), "x has 3 columns; it must have 2, as the data of the model"),
    ):
        with pytest.raises(ValueError, match=message):
            to_space(preparation, x, "float32")


def test_columns_of_a_file_are_those_of_the_model(tmp_path):
    (tmp_path / "a.csv").write_text("place,id,b,a\nOslo,1,-3,100\nRoma,2,5,104\n")
    preparation = Preparation(Euclidean(2), ("a", "b"))
    table = tables.read(tmp_path / "a.csv", wanted=preparation.columns)
    assert to_space(preparation, table, "float32").points.tolist() == [[100, -3], [104, 5]]


def test_rows_are_normalised_and_wrap_nowhere():
    x = [[3.0, 4.0], [0.0, -7.0]]
    preparation = prepare(x, "sphere", normalise=True)
    assert preparation == Preparation(Sphere(2), normalise=True)
    np.testing.assert_allclose(to_space(preparation, x, "float32").points, [[0.6, 0.8], [0, -1]], atol=1e-7)
    assert from_space(preparation, jnp.array([[0.0, 1.0]])).rows.tolist() == [[0.0, 1.0]]
    torus = prepare(x[:1], "torus", period=5.0)
    assert torus == Preparation(Torus(2, 5.0)) and prepare([[0.5]], "torus").space == Torus(1)
    assert to_space(torus, x[:1], "float32").points.tolist() == x[:1]
    ends = [[-checks.ON_SPACE / 2, 5.0 + checks.ON_SPACE / 2]]
    np.testing.assert_allclose(to_space(torus, ends, "float32").points, ends, rtol=1e-6)
    named = frame(lat=[0.6], y=[0.8])  # a latitude alone is no pair of degrees
    assert prepare(named, "sphere") == Preparation(Sphere(2), ("lat", "y"))


# -- Latitude and longitude ------------------------------------------------------------------------

DEGREES = {"lat": [0.0, 90.0, -45.0, 10.0], "lon": [0.0, 0.0, 90.0, 270.0]}


def test_degrees_are_points_of_the_sphere_and_come_back():
    points = [[1, 0, 0], [0, 0, 1], [0, 0.5**0.5, -(0.5**0.5)], [0, -np.cos(np.radians(10)), np.sin(np.radians(10))]]
    for names in (("lat", "lon"), ("Latitude", "LNG"), ("LAT", "y"), ("x", "longitude"), ("x", "long")):
        for order in (1, -1):
            x = frame(**dict([*zip(names, DEGREES.values(), strict=True)][::order]))
            preparation = prepare(x, "sphere", latlon=True)
            assert preparation == Preparation(Sphere(3), names, latlon=True)
            np.testing.assert_allclose(to_space(preparation, x, "float32").points, points, atol=1e-6)
    chosen = as_table(np.stack([DEGREES["lon"], DEGREES["lat"]], axis=1), ["2", "1"])
    preparation = prepare(chosen, "sphere", latlon=True)
    assert preparation.columns is None
    np.testing.assert_allclose(to_space(preparation, chosen, "float32").points, points, atol=1e-6)
    named = as_table(frame(a=DEGREES["lat"], b=DEGREES["lon"]))
    assert prepare(as_table(named, ["a", "b"]), "sphere", latlon=True).columns == ("a", "b")  # chosen in the order of the table
    table = from_space(Preparation(Sphere(3), ("lat", "lon"), latlon=True), jnp.asarray(np.array(points), jnp.float32))
    np.testing.assert_allclose(table.rows, [[0, 0], [90, 0], [-45, 90], [10, -90]], atol=1e-5)
    assert table.columns == ("lat", "lon")


# -- What is refused -------------------------------------------------------------------------------


FAR = [[i, 1e30 if i == 6 else i] for i in range(7)]


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (ROWS, dict(space="shpere"), "space is 'shpere'; did you mean 'sphere'?"),
        (ROWS, dict(space="torus", normalise=True), "normalise is True and space is 'torus'; allowed: 'sphere'"),
        (ROWS, dict(space="sphere", standardise=True), "standardise is True and space is 'sphere'; allowed: 'euclidean'"),
        (ROWS, dict(space="euclidean", latlon=True), "latlon is True and space is 'euclidean'; allowed: 'sphere'"),
        (ROWS, dict(space="sphere", period=2.0), "period is 2.0 and space is 'sphere'; allowed: 'torus'"),
        (ROWS, dict(space="torus", period=-1.0), "period is -1.0"),
        (ROWS[:, :1], dict(space="sphere"), "x has 1 column; points of a sphere must have at least 2"),
        ([[1, 7], [2, 7]], dict(space="euclidean", standardise=True), "x has the one value 7 in column 2; a column must vary"),
        ([[1, 0.1], [2, 0.1], [4, 0.1]], dict(space="euclidean", standardise=True), "x has the one value 0.1 in column 2"),
        (as_table([[1, 5, 7], [2, 6, 7]], ["1", "3"]), dict(space="euclidean", standardise=True), "x has the one value 7 in column 3"),
        ([[1e200, 7], [-1e200, 8]], dict(space="euclidean", standardise=True), "x has values in column 1 that are too large"),
        (FAR, dict(space="euclidean"), "x, row 7, column 2: found 1e+30, which is 3.33e+29 interquartile ranges from the median"),
        (frame(**DEGREES), dict(space="sphere", latlon=True, normalise=True), "latlon and normalise are True"),
        (frame(**DEGREES), dict(space="sphere"), "x has the columns 'lat' and 'lon', which are degrees and no points of a sphere"),
        (frame(**DEGREES), dict(space="sphere", normalise=True), "x has the columns 'lat' and 'lon', which are degrees"),
        (frame(z=[1.0] * 4, **DEGREES), dict(space="sphere", normalise=True), "x has the columns 'lat' and 'lon', which are degrees"),
        (frame(z=[1.0] * 4, **DEGREES), dict(space="sphere", latlon=True), "latlon is True and x has 3 columns; columns must choose"),
        (frame(lat=[1.0], latitude=[2.0]), dict(space="sphere", latlon=True), "the columns 'lat' and 'latitude', each a latitude"),
        (frame(a=[1.0], b=[2.0]), dict(space="sphere", latlon=True), "give the latitude first, then the longitude, such as a,b"),
        ([[1.0, 2.0]], dict(space="sphere", latlon=True), "columns must give the latitude first, then the longitude, such as 1,2"),
    ],
)
def test_prepare_refuses(x, settings, message):
    with np.errstate(over="ignore"), pytest.raises(ValueError) as caught:
        prepare(x, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preparation", "x", "message"),
    [
        (Preparation(Sphere(2)), [[0.6, 0.8], [3.0, 4.0]], "x, row 2: found a row of norm 5 off the unit sphere; give latlon if"),
        (Preparation(Sphere(2)), [[200.0, 45.0]], "x, row 1: found a row of norm 205 off the unit sphere; give latlon if"),
        (Preparation(Sphere(2)), [[900.0, 4.0]], "x, row 1: found a row of norm 900.009 off the unit sphere; give normalise"),
        (Preparation(Sphere(3)), [[3.0, 4.0, 0.0]], "x, row 1: found a row of norm 5 off the unit sphere; give normalise"),
        (Preparation(Sphere(2), normalise=True), [[1.0, 2.0], [0.0, 0.0]], "x, row 2: found zeros; a row must have a direction"),
        (Preparation(Torus(2, 2.0)), [[0.5, 2.5]], "x, row 1, column 2: found 2.5; it must be from 0 to the period 2"),
        (Preparation(Torus(2, 2.0)), [[-0.5, 0.5]], "x, row 1, column 1: found -0.5; it must be from 0 to the period 2"),
        (Preparation(Sphere(3), latlon=True), [[0.0, 0.0], [90.5, 0.0]], "x, row 2, column 1: found the latitude 90.5; it must be"),
        (Preparation(Sphere(3), latlon=True), [[0.0, -181.0]], "x, row 1, column 2: found the longitude -181; it must be from -180 to 360"),
        (Preparation(Sphere(3), latlon=True), [[0.0, 0.0, 1.0]], "x has 3 columns; it must have 2"),
        (Preparation(Euclidean(1)), [[1e300]], "x, row 1, column 1: found 1e+300, whose square float32 does not hold; leave the row out"),
        (Preparation(Euclidean(1), mean=np.zeros(1), scale=np.array([1e-300])), [[7.0]], "found 7, 7e+300 standard deviations from"),
        (Preparation(Euclidean(1)), [[True]], "x has dtype bool"),
        (Preparation(Euclidean(1)), [[np.nan]], "x, row 1, column 1: found no value"),
    ],
)
def test_to_space_refuses(preparation, x, message):
    with pytest.raises(ValueError) as caught:
        to_space(preparation, x, "float32")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_dtype_is_stated():
    for dtype, message in (("float16", "dtype is 'float16'; it must be float32 or float64"), ("float64", "JAX_ENABLE_X64=1")):
        with pytest.raises(ValueError, match=message):
            to_space(Preparation(Euclidean(2)), ROWS, dtype)


def test_the_line_of_a_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("# stations\nheight,lon,lat\n3,10.5,60\n\n4,20,NA\n5,10,95\n")
    table = tables.read(tmp_path / "a.csv", ["lon", "lat"], drop_missing=True)
    preparation = prepare(table, "sphere", latlon=True)
    with pytest.raises(ValueError, match=r"a.csv, line 6, column 3 \('lat'\): found the latitude 95; it must be from -90 to 90"):
        to_space(preparation, table, "float32")
