"""Data of arrays and files come back as they are, and what is wrong with them is named with its place."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data.tables import as_samples, load
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


def test_load_reads_npy_npz_and_csv(tmp_path):
    np.save(tmp_path / "a.npy", UNIT)
    np.savez(tmp_path / "b.npz", whatever=UNIT)
    np.savez_compressed(tmp_path / "c.npz", labels=np.arange(2), points=UNIT)
    (tmp_path / "d.CSV").write_text("\ufeff# wind\n\n x , y\n0.6,8e-1 # first\n  \n 0 ,-1\n", encoding="utf-8")
    (tmp_path / "e.csv").write_text('"0.6","0.8"\r\n0,-1')
    for name in ("a.npy", "b.npz", "c.npz", "d.CSV", "e.csv"):
        points = load(tmp_path / name, Sphere(2)).points
        assert points.dtype == jnp.float32 and np.array_equal(points, UNIT), name
    assert np.array_equal(load(str(tmp_path / "a.npy"), Sphere(2)).points, UNIT)


def test_load_normalises_and_casts(tmp_path, x64):
    np.save(tmp_path / "a.npy", np.array([[3.0, 4.0], [0.0, -7.0]]))
    (tmp_path / "b.csv").write_text("3,4\n0,-7\n")
    for name, default in (("a.npy", "float64"), ("b.csv", "float32")):
        for dtype, expected in ((None, default), (jnp.float32, "float32"), (jnp.float64, "float64")):
            points = load(tmp_path / name, Sphere(2), normalise=True, dtype=dtype).points
            assert points.dtype == expected
            np.testing.assert_allclose(points, [[0.6, 0.8], [0, -1]], atol=1e-7 if expected == "float32" else 1e-16)


@pytest.mark.parametrize(
    "text,message",
    [
        ("1,0\n0,one\n", r"data.csv, line 2, column 2: found 'one'; it must be a finite number"),
        ("# a comment\n\nx,y\n1,0\n,1\n", "data.csv, line 5, column 1: found nothing"),
        ("1,0\n1,0,\n", "data.csv, line 2: found 3 values; it must have 2"),
        ("x,y,z\n1,0\n", "data.csv, line 2: found 2 values; it must have 3"),
        ("1,0\n0,nan\n", "data.csv, line 2, column 2: found 'nan'"),
        ("1,0\n-inf,0\n", "data.csv, line 2, column 1: found '-inf'"),
        ("x,y\nlow,high\n1,0\n", "data.csv, line 2, column 1: found 'low'"),
        ("x,1\n0,1\n", "data.csv, line 1, column 1: found 'x'"),
        ("x,\n0,1\n", "data.csv, line 1, column 1: found 'x'"),
        ("1 0\n0 1\n1,0\n", "data.csv, line 2, column 1: found '0 1'"),
        ("1_0,0\n", "data.csv, line 1, column 1: found '1_0'"),
        ("x,y\n# nothing\n", "data.csv holds no points"),
        ("", "data.csv holds no points"),
        ("1,0,0\n", "data.csv has 3 components; it must have 2"),
        ("3,4\n", r"data.csv has rows off the unit sphere \(row 0 has norm 5\)"),
    ],
)
def test_load_names_the_line_of_a_csv_file_and_what_was_found(tmp_path, text, message):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "data.csv", Sphere(2))


def test_load_refuses_other_files(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=UNIT, b=UNIT)
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "whole.npy", np.eye(2, dtype=int))
    np.save(tmp_path / "double.npy", np.eye(2))
    np.save(tmp_path / "cut.npy", np.eye(200))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:1000])
    (tmp_path / "text.npz").write_text("1,0")
    (tmp_path / "empty.npy").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.csv").mkdir()
    for name, message in {
        "objects.npy": "objects.npy holds no plain array .*allow_pickle=False",
        "two.npz": r"two.npz holds the arrays \['a', 'b'\]; it must hold one, or one named 'points'",
        "none.npz": r"none.npz holds the arrays \[\]",
        "whole.npy": "whole.npy has dtype int64; it must be float32 or float64",
        "double.npy": "double.npy has dtype float64 .*JAX_ENABLE_X64=1",
        "cut.npy": "cut.npy holds no plain array",
        "text.npz": "text.npz holds no plain array",
        "empty.npy": "empty.npy holds no plain array",
        "binary.csv": "binary.csv is not text .* in UTF-8",
        "data.cvs": "suffix of .*data.cvs is '.cvs'; did you mean '.csv'. Allowed: '.npy', '.npz', '.csv'",
        "data": "suffix of .*data is ''; Allowed: '.npy', '.npz', '.csv'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name, Sphere(2))
    for name in ("missing.npy", "folder.csv"):
        with pytest.raises(FileNotFoundError, match=f"path is '.*{name}'; there is no such file"):
            load(tmp_path / name, Sphere(2))
