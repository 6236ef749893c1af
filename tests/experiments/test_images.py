"""The experiment from end to end and again from its folders, what it tells of the digits, and its bad inputs."""

import dataclasses
import gzip
import struct
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.base_measures import Gaussian
from dualebm.energies.networks import Perceptron
from dualebm.measures import Samples
from dualebm.spaces import Euclidean
from experiments import idx_images as images
from experiments.digit_classifier import CLASSIFIER, Classifier, ClassMasses, accuracy, trained
from experiments.images.__main__ import annealed, main
from experiments.images.reading import bits, errors_of
from experiments.images.training import JARZYNSKI, PCD, Settings, adam, checked, data, methods, picture, read

TOY = Settings(
    seeds=1, walkers=64, walker_batch=32, walker_batches=1, moves=2, data_noise=0.3, steps=12, records=6, temperatures=5, progress=False
)


def idx(path, array):
    """Writes an idx file of bytes, gzipped."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def folder_of(path, side=28, sets=("train", "t10k"), each=30):
    """A folder of idx files: of the digits 2, 3 and 6, a bar at another place for each."""
    path.mkdir(exist_ok=True)
    for k, name in enumerate(sets):
        random = np.random.default_rng(k)
        labels = np.repeat([2, 3, 6], each)
        x = random.integers(0, 40, (len(labels), side, side))
        for row, label in zip(x, labels, strict=True):
            row[label * side // 8 :][:4] = 255
        idx(path / f"{name}-images-idx3-ubyte.gz", x)
        idx(path / f"{name}-labels-idx1-ubyte.gz", labels)
    return path








@pytest.mark.parametrize("weighted", [True, False])
def test_masses_of_the_classes_beside_numpy(weighted):
    random = np.random.default_rng(3)
    x = random.standard_normal((40, 5)).astype(np.float32)
    a, b, c, e = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 6), 6, (6, 3), 3))
    log_weights = (3 * random.standard_normal(40)).astype(np.float32) if weighted else None
    samples = Samples(jnp.asarray(x), None if log_weights is None else jnp.asarray(log_weights))
    found = ClassMasses(Classifier(*map(jnp.asarray, (a, b, c, e))))(None, SimpleNamespace(samples=samples))
    classes = np.argmax(np.maximum(x @ a + b, 0) @ c + e, axis=1)
    p = np.exp(log_weights.astype(float)) if weighted else np.ones(40)
    expected = [p[classes == k].sum() / p.sum() for k in range(3)]
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)
    assert len(set(classes.tolist())) == 3


def test_the_classifier_tells_held_out_digits_apart():
    settings = checked(Settings())
    found = data(settings, 3)
    classifier = trained(jax.random.key(0), found.clean, found.labels, jnp.float32(settings.data_noise), 3, **CLASSIFIER)
    assert accuracy(classifier, found.held_out.points, found.held_out_labels) > 0.97
    places = np.argmax(np.asarray(classifier(found.train.points)), axis=1)
    assert (places == np.asarray(found.labels)).mean() > 0.97


def test_the_data_have_their_masses_their_noise_and_no_image_twice():
    settings = checked(dataclasses.replace(TOY, data_noise=0.25))
    found = data(settings, 3)
    assert np.bincount(found.labels).tolist() == [141, 70, 35] and np.bincount(found.held_out_labels).tolist() == [35, 18, 9]
    noise = np.asarray(found.train.points - found.clean)
    assert noise.std() == pytest.approx(0.25, rel=0.02) and abs(noise.mean()) < 0.01
    x, labels, shape = read(None)
    assert found.shape == shape == (8, 8) and np.abs(np.asarray(found.clean)).max() <= 1
    rows = {row.tobytes(): label for row, label in zip(x, labels, strict=True)}
    assert [rows[row.tobytes()] for row in np.asarray(found.clean)] == [(2, 3, 6)[i] for i in np.asarray(found.labels)]
    held, held_labels = images.split(*images.chosen(x, labels, settings.classes, settings.masses, 3), 0.2, 3)[2:]
    assert np.asarray(found.held_out.points - held).std() == pytest.approx(0.25, rel=0.05)
    assert [(2, 3, 6)[i] for i in np.asarray(found.held_out_labels)] == held_labels.tolist()
    assert not {row.tobytes() for row in held} & {row.tobytes() for row in np.asarray(found.clean)}
    same = data(settings, 3)
    assert (same.train.points == found.train.points).all() and not np.array_equal(data(settings, 4).clean, found.clean)


def test_the_two_methods_have_one_budget():
    settings = checked(dataclasses.replace(TOY, walkers=64, walker_batch=32, walker_batches=3, moves=2))
    known = methods(settings, (8, 8), 100)
    (one, rates), (other, others) = known[JARZYNSKI], known[PCD]
    assert (one.walkers, one.moves, other.walkers, other.moves, other.begin) == (64, 2, 64, 3, "data")
    assert one.optimiser is other.optimiser and one.start is other.start and one.space == other.space
    assert rates.particle_step == others.particle_step and rates.learning_rate == others.learning_rate == 1
    assert one.data_batch is None and methods(checked(dataclasses.replace(TOY, data_batch=99)), (8, 8), 100)[PCD][0].data_batch == 99


def test_adam_is_without_momentum_and_falls_to_zero():
    optimiser = adam(0.1, 4)()
    state = optimiser.init(jnp.zeros(1))
    moves = []
    for g in (1.0, -2.0, 0.5, 1.0, 1.0):
        update, state = optimiser.update(jnp.array([g]), state)
        moves.append(float(update[0]))
    square, expected = 0.0, []
    for k, g in enumerate((1.0, -2.0, 0.5, 1.0, 1.0)):
        square = 0.999 * square + 0.001 * g * g
        expected.append(-0.1 * max(1 - k / 4, 0) * g / np.sqrt(square / (1 - 0.999 ** (k + 1))))
    np.testing.assert_allclose(moves, expected, rtol=1e-3, atol=1e-6)


def test_bits_of_a_pixel_beside_a_normal_density():
    random = np.random.default_rng(0)
    x = (0.5 * random.standard_normal((50, 6))).astype(np.float32)
    log_density = -0.5 * (x.astype(float) ** 2).sum(1) / 0.49 - 3 * np.log(2 * np.pi * 0.49)
    assert bits(-1.5, Euclidean(6, Gaussian(0.7)), x) == pytest.approx((-1.5 - log_density.mean()) / (6 * np.log(2)), rel=1e-5)


def test_annealing_beside_a_known_log_partition():
    space = Euclidean(2, Gaussian(0.8))
    energy = Perceptron([jnp.array([[1.0], [0.5]])], [jnp.array([0.3])], "relu")  # U = a x + 0.3, so log Z = s^2 a^2 / 2 - 0.3
    samples = Samples(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
    log_z, error, means = annealed(jax.random.key(1), energy, space, 4096, 20, jnp.float32(0.1), (samples,))
    assert float(log_z) == pytest.approx(0.64 * 1.25 / 2 - 0.3, abs=4 * float(error)) and 0 < float(error) < 0.02
    assert [float(mean) for mean in means] == pytest.approx([1.3])


def test_a_picture_has_its_images_in_their_places():
    rows = np.array([[0.1, 0.2, 0.3, 0.4], [-5.0, 5.0, 0.0, 0.6], [0.7, 0.8, 0.9, 1.0]])
    made = picture(rows, (2, 2), columns=2)
    assert made.shape == (7, 7) and made[1:3, 4:6].tolist() == [[-1, 1], [0, 0.6]] and made[4:6, 1:3].tolist() == [[0.7, 0.8], [0.9, 1.0]]
    assert not made[3].any() and not made[:, 3].any() and not made[4:6, 4:6].any()
    assert errors_of(np.array([[0.5, 0.3, 0.2]]), [0.6, 0.3, 0.1]) == pytest.approx([0.1])


def test_images_of_a_folder_are_both_sets(tmp_path):
    folder = folder_of(tmp_path / "idx")
    x, labels, shape = read(folder)
    assert x.shape == (180, 784) and shape == (28, 28) and x.min() >= -1 and x.max() == 1
    first, second = (images.load_idx(*pair) for pair in images.find_idx(folder))
    np.testing.assert_array_equal(x, images.to_unit(np.concatenate([first[0], second[0]]), 255))
    np.testing.assert_array_equal(labels, np.concatenate([first[1], second[1]]))
    found = data(checked(dataclasses.replace(TOY, data=folder)), 0)
    assert found.shape == (28, 28) and np.bincount(found.labels).tolist() == [48, 24, 12]




@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(preset="papr"), "did you mean 'paper'"),
        (dict(preset="paper"), "data is None; preset paper needs --data"),
        (dict(steps=13), "steps is 13; it must be a multiple of records, which is 6"),
        (dict(steps=6), "steps is 6; .* at least twice it"),
        (dict(walkers=0), "walkers is 0"),
        (dict(walkers=63), "walkers is 63"),
        (dict(walker_batch=40), "walker_batch is 40; it must be even and divide walkers"),
        (dict(data_noise=0.0), "data_noise is 0.0"),
        (dict(scale=-1.0), "scale is -1.0"),
        (dict(threshold=1.5), "threshold is 1.5"),
        (dict(begin="datum"), "did you mean 'data'"),
        (dict(integrator="malla"), "did you mean 'mala'"),
        (dict(particle_step=-0.1), "particle_step is -0.1"),
        (dict(learning_rate=-0.1), "learning_rate is -0.1"),
        (dict(classes=(2,), masses=(1.0,)), "classes is .2,.; it must have at least two"),
        (dict(classes=(2, 3)), "there must be one mass per class"),
        (dict(classes=(2, 3, 11)), "classes has 11, which no label is"),
        (dict(masses=(0.5, 0.3, 0.1)), "the sum must be 1"),
        (dict(data_noise=20.0, walkers=32), "data_noise is 20.0; the classifier is right on"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(dataclasses.replace(TOY, **{"out": tmp_path, **changes}))
    assert not any(tmp_path.iterdir())


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        main(dataclasses.replace(TOY, data=tmp_path / "none"))
    with pytest.raises(ValueError, match="holds no idx files"):
        main(dataclasses.replace(TOY, data=tmp_path))
    with pytest.raises(ValueError, match="data has images of 20 x 20; there are networks for 8 x 8, 28 x 28"):
        main(dataclasses.replace(TOY, data=folder_of(tmp_path / "other", side=20)))
    mixed = folder_of(folder_of(tmp_path / "mixed", sets=("train",)), side=20, sets=("t10k",))
    with pytest.raises(ValueError, match="they must be of one shape"):
        main(dataclasses.replace(TOY, data=mixed))
