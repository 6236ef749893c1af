"""Images come back from idx files as they were written, what is wrong with a file is named, and parts have exact proportions."""

import gzip
import struct
import sys
import types

import numpy as np
import pytest

from experiments.idx_images import check_range, chosen, digits, find_idx, load_idx, read_idx, split, to_unit

IMAGES = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5) * 8
LABELS = np.array([7, 2], np.uint8)


def idx(array, kind=0x08):
    """The bytes of an idx file, written independently of the reader."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 5), (2, 3, 5, 3), (300, 2, 1)])
def test_read_idx_gives_back_what_was_written(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "plain.gz").write_bytes(idx(array))  # the first bytes count, the suffix does not
    (tmp_path / "packed").write_bytes(gzip.compress(idx(array)))
    for path in (tmp_path / "plain.gz", str(tmp_path / "packed")):
        back = read_idx(path)
        assert back.dtype == np.uint8 and back.flags.writeable and np.array_equal(back, array)


WHOLE = idx(IMAGES)
PACKED = gzip.compress(np.random.default_rng(0).bytes(1000), mtime=0)  # the time would be in the names of the tests


@pytest.mark.parametrize(
    "contents,message",
    [
        (b"", "data is truncated in its header: it needs 4 bytes, found 0"),
        (WHOLE[:3], "data is truncated in its header: it needs 4 bytes, found 3"),
        (WHOLE[:15], "data is truncated in its header: it needs 16 bytes, found 15"),
        (WHOLE[:16], r"data is truncated: its sizes \(2, 3, 5\) need 30 bytes after the header, found 0"),
        (WHOLE[:-1], r"data is truncated: its sizes \(2, 3, 5\) need 30 bytes after the header, found 29"),
        (WHOLE + b"\0", r"data is too long: its sizes \(2, 3, 5\) need 30 bytes after the header, found 31"),
        (gzip.compress(WHOLE[:-1], mtime=0), "data is truncated: .* found 29"),
        (b"\x89PNG" + WHOLE, "data has the magic number 0x89504e47; it must be 0x00000803 for images, 0x00000801 for labels"),
        (b"\0\1\x08\3" + WHOLE[4:], "data has the magic number 0x00010803"),
        (b"\0\0\x0a\3" + WHOLE[4:], "data has the magic number 0x00000a03"),
        (b"\0\0\x08\0", "data has the magic number 0x00000800"),
        (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\0", "data has the magic number 0x00000841"),
        (idx(np.ones((2, 2), np.float32), 0x0D), r"data holds float32 \(type byte 0x0d\); it must hold unsigned bytes \(0x08\)"),
        (idx(np.ones(2, np.int32), 0x0C), r"data holds int32 \(type byte 0x0c\)"),
        (idx(IMAGES[:0]), r"data has the sizes \(0, 3, 5\) and holds no images or labels; each size must be at least 1"),
        (idx(IMAGES[:, :0]), r"data has the sizes \(2, 0, 5\)"),
        (b"\0\0\x08\3" + b"\xff" * 12 + b"\0", "data is truncated: .* need 79228162458924105385300197375 bytes .*, found 1"),
        (b"\0\0\x08\2\0\0\0\x80" + b"\x80\0\0\0\1", "data is truncated: .*need 274877906944 bytes"),
        (b"\0\0\x08\4" + b"\0\1\0\0" * 4, "data is truncated: .*need 18446744073709551616 bytes"),  # 2^64: zero if it wrapped
        (PACKED[:500], "data is damaged gzip .*; it must be a whole idx file"),
        (PACKED[:5], "data is damaged gzip"),
        (PACKED[:-2], "data is damaged gzip"),
        (PACKED[:-8] + bytes(8), "data is damaged gzip .*CRC"),
        (PACKED[:20] + b"\xff" * 40 + PACKED[60:], "data is damaged gzip"),
        (PACKED + b"rubbish", "data is damaged gzip"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, "data is damaged gzip .*invalid"),
    ],
)
def test_read_idx_names_the_file_and_what_is_wrong_with_it(tmp_path, contents, message):
    (tmp_path / "data").write_bytes(contents)
    with pytest.raises(ValueError, match=f"{tmp_path}/{message}"):
        read_idx(tmp_path / "data")


def test_read_idx_and_find_idx_name_what_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=f"path is '{path}'; there is no such file"):
            read_idx(path)
    with pytest.raises(FileNotFoundError, match=r"folder is '.*missing'; there is no such folder"):
        find_idx(tmp_path / "missing")


def test_load_idx_wants_one_label_per_image(tmp_path):
    for name, array in (("images", IMAGES), ("labels", LABELS), ("three", np.zeros(3, np.uint8))):
        (tmp_path / name).write_bytes(idx(array))
    images, labels = load_idx(tmp_path / "images", tmp_path / "labels")
    assert np.array_equal(images, IMAGES) and np.array_equal(labels, LABELS)
    with pytest.raises(ValueError, match=r"images holds 2 images and .*three holds 3 labels; there must be one label per image"):
        load_idx(tmp_path / "images", tmp_path / "three")
    with pytest.raises(ValueError, match=r"images is '.*labels', which holds an array of shape \(2,\); it must be \(n, h, w\)"):
        load_idx(tmp_path / "labels", tmp_path / "labels")
    with pytest.raises(ValueError, match=r"labels is '.*images', which holds an array of shape \(2, 3, 5\); it must be \(n,\)"):
        load_idx(tmp_path / "images", tmp_path / "images")


def test_find_idx_finds_the_pairs_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no idx files; it must hold train-images-idx3-ubyte and"):
        find_idx(tmp_path)
    test = tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "t10k-labels-idx1-ubyte.gz"
    train = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte.gz"
    for path in test:
        path.touch()
    assert find_idx(str(tmp_path)) == [test]
    train[1].touch()
    with pytest.raises(ValueError, match=f"{tmp_path} holds train-labels-idx1-ubyte and no train-images-idx3-ubyte; it must hold both"):
        find_idx(tmp_path)
    train[0].touch()
    assert find_idx(tmp_path) == [train, test]
    (tmp_path / "t10k-images-idx3-ubyte").touch()
    assert find_idx(tmp_path) == [train, (tmp_path / "t10k-images-idx3-ubyte", test[1])]
    test[1].unlink()
    with pytest.raises(ValueError, match="holds t10k-images-idx3-ubyte and no t10k-labels-idx1-ubyte"):
        find_idx(tmp_path)


def test_to_unit_maps_the_ends_to_the_ends():
    for highest, dtype in ((255, np.uint8), (16, np.float64), (0.3, np.float32), (7, np.int64)):
        x = np.array([[[0, highest], [highest, 0]], [[0, 0], [0, highest]]], dtype)
        unit = to_unit(x, highest)
        assert unit.dtype == np.float32 and unit.tolist() == [[-1, 1, 1, -1], [-1, -1, -1, 1]]
    every = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.testing.assert_allclose(to_unit(every, 255).ravel(), np.arange(256) / 127.5 - 1, atol=1e-7)
    check_range("x", to_unit(every, 255))


@pytest.mark.parametrize(
    "x,highest,message",
    [
        (IMAGES, 16, "images has values from 0 to 232; they must be from 0 to 16"),
        (IMAGES / 16 - 1, 16, "images has values from -1 to 13.5; they must be from 0 to 16"),
        (np.full((1, 2, 2), np.nan), 16, "images has NaN values; they must be from 0 to 16"),
        (np.full((1, 2, 2), np.inf), 16, "images has values from inf to inf"),
        (IMAGES[0], 255, r"images has shape \(3, 5\); it must be \(n, h, w\), each at least 1"),
        (IMAGES[:0], 255, r"images has shape \(0, 3, 5\)"),
        (IMAGES > 3, 255, "images has dtype bool; it must be of integers or floating"),
        (IMAGES.astype(complex), 255, "images has dtype complex128"),
        (IMAGES, 0, "highest is 0; it must be a finite number, greater than 0"),
    ],
)
def test_to_unit_refuses(x, highest, message):
    with pytest.raises(ValueError, match=message):
        to_unit(x, highest)


def test_check_range_tells_images_in_the_wrong_range():
    for x in (np.array([-1.0, 1.0]), np.array([[1 + 5e-7]], np.float32), np.array(-1 - 5e-7)):
        check_range("x", x)
    for x, message in (
        (IMAGES, r"x has values of dtype uint8, not floating; they must be in \[-1, 1\], as images.to_unit makes them"),
        (IMAGES.astype(np.float32), "x has values from 0 to 232: images in the wrong range; they must be in .* images.to_unit"),
        (np.array([0, -1.00001]), "x has values from -1.00001 to 0: images in the wrong range"),
        (np.array([0, 1.00001], np.float32), "x has values from 0 to 1.00001"),
        (np.array([0, np.nan]), "x has NaN or infinite values; they must be in"),
        (np.array([0, np.inf]), "x has NaN or infinite values"),
        (np.zeros((0, 4)), r"x is empty, shape \(0, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_range("x", x)


def test_chosen_has_exact_proportions_and_as_many_images_as_there_can_be():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]))
    images = np.stack([np.arange(10_000), labels], axis=1)
    kept, of = chosen(images, labels, (2, 3, 6), (4 / 7, 2 / 7, 1 / 7), key_seed=3)
    assert [np.sum(of == c) for c in (2, 3, 6)] == [1032, 516, 258] and len(of) == 1806
    assert np.array_equal(kept[:, 1], of) and len(np.unique(kept[:, 0])) == 1806 and (np.diff(kept[:, 0]) > 0).all()
    again, _ = chosen(images, labels, [2, 3, 6], [0.5714285714, 0.2857142857, 0.1428571429], key_seed=3)
    other, _ = chosen(images, labels, (2, 3, 6), (4 / 7, 2 / 7, 1 / 7), key_seed=4)
    assert np.array_equal(kept, again) and not np.array_equal(kept, other)
    for share in (0.25, 0.75):  # at random: not the first ones of the file
        rows = np.flatnonzero(labels == 6)
        assert abs(np.mean(kept[of == 6, 0] < rows[int(share * rows.size)]) - share) < 0.1
    _, of = chosen(images, labels, (1, 0), (0.3, 0.7), key_seed=0)
    assert [np.sum(of == c) for c in (1, 0)] == [420, 980]
    _, of = chosen(images, labels, (5,), (1,), key_seed=0)
    assert of.tolist() == [5] * 892


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(classes=(2, 4)), r"classes has 4, which no label is; allowed: \[2, 3\]"),
        (dict(classes=(2,)), r"classes is \(2,\) and masses is \(0.5, 0.5\); there must be one mass per class, each class once"),
        (dict(classes=(2, 2)), r"classes is \(2, 2\) .* each class once"),
        (dict(masses=(0.5, 0.6)), r"masses is \(0.5, 0.6\), of sum 1.1; the sum must be 1"),
        (dict(masses=()), r"masses is \(\), of sum 0; the sum must be 1"),
        (dict(masses=(1.5, -0.5)), "masses is -0.5; it must be a finite number, greater than 0"),
        (dict(masses=(1.0, 0.0)), "masses is 0.0; it must be a finite number, greater than 0"),
        (dict(masses=(np.nan, 0.5)), "masses is nan"),
        (dict(masses=(0.12345678, 0.87654322)), "masses has 0.12345678; it must be a fraction such as 4/7, of a denominator up to 1000"),
        (dict(masses=(1 - 1e-10, 1e-10)), "masses has 1e-10; it must be a fraction"),
        (dict(masses=(0.9, 0.1)), r"masses is \(0.9, 0.1\): class 2 must have at least 9 images to be in that proportion, found 3"),
        (dict(labels=LABELS), r"images has shape \(4,\) and labels \(2,\); they must be \(n, ...\) and \(n,\)"),
        (dict(labels=np.ones((4, 1))), r"images has shape \(4,\) and labels \(4, 1\)"),
        (dict(images=np.zeros(0), labels=np.zeros(0)), r"labels \(0,\); .* n at least 1"),
        (dict(key_seed=-1), "key_seed is -1; it must be an integer from 0 to 4294967295"),
    ],
)
def test_chosen_refuses(changes, message):
    whole = dict(images=np.arange(4), labels=np.array([2, 3, 2, 2]), classes=(2, 3), masses=(0.5, 0.5), key_seed=0)
    with pytest.raises(ValueError, match=message):
        chosen(**{**whole, **changes})


def test_split_holds_out_of_each_class_its_fraction():
    labels = np.random.default_rng(1).permutation(np.repeat([1, 4, 9], [100, 33, 7]))
    images = np.stack([np.arange(140), labels], axis=1)
    train, train_labels, held, held_labels = parts = split(images, labels, 0.2, seed=5)
    assert [np.sum(held_labels == c) for c in (1, 4, 9)] == [20, 7, 1] and len(train) == 112
    assert sorted([*train[:, 0], *held[:, 0]]) == list(range(140))
    assert np.array_equal(train[:, 1], train_labels) and np.array_equal(held[:, 1], held_labels)
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(images, labels, 0.2, seed=5), strict=True))
    assert not np.array_equal(held, split(images, labels, 0.2, seed=6)[2])
    assert held[held_labels == 1, 0].max() > np.flatnonzero(labels == 1)[20]  # not the first ones of the file


@pytest.mark.parametrize(
    "fraction,seed,message",
    [
        (0, 0, "fraction is 0; it must be a finite number, greater than 0 and at most 1"),
        (1.2, 0, "fraction is 1.2; .* at most 1"),
        (1, 0, "fraction is 1; of 4 images it holds out 4, and no part may be empty"),
        (0.1, 0, "fraction is 0.1; of 4 images it holds out 0"),
        (0.5, -1, "seed is -1; it must be an integer from 0 to 4294967295"),
    ],
)
def test_split_refuses(fraction, seed, message):
    with pytest.raises(ValueError, match=message):
        split(np.zeros((4, 2)), np.array([1, 1, 2, 2]), fraction, seed)
    with pytest.raises(ValueError, match=r"images has shape \(3, 2\) and labels \(4,\)"):
        split(np.zeros((3, 2)), np.array([1, 1, 2, 2]), 0.5, 0)


def test_digits_are_the_images_of_scikit_learn(monkeypatch):
    stored = types.SimpleNamespace(images=np.full((3, 8, 8), 16.0), target=np.arange(3))
    library = types.SimpleNamespace(load_digits=lambda: stored)
    monkeypatch.setitem(sys.modules, "sklearn", types.SimpleNamespace(datasets=library))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", library)
    images, labels = digits()
    assert images.shape == (3, 8, 8) and labels.tolist() == [0, 1, 2] and (to_unit(images, 16) == 1).all()


def test_digits_says_what_to_install_where_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"digits needs scikit-learn .*: pip install scikit-learn"):
        digits()


def test_digits_of_the_real_library():
    images, labels = digits()
    assert images.shape == (1797, 8, 8) and images.min() == 0 and images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
