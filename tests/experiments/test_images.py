"""The experiment from end to end and again from its folders, what it tells of the digits, and its bad inputs."""

import dataclasses
import gzip
import struct
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dualebm.base_measures import Gaussian
from dualebm.energies.networks import Perceptron
from dualebm.measures import Samples
from dualebm.spaces import Euclidean
from experiments import idx_images as images
from experiments.digit_classifier import CLASSIFIER, Classifier, ClassMasses, accuracy, trained
from experiments.images import rivals
from experiments.images.__main__ import annealed, main
from experiments.images.reading import bits, errors_of
from experiments.images.sets import NETWORKS, Frame, data, normal_of, read, reduced
from experiments.images.training import (
    CD,
    JARZYNSKI,
    PCD,
    FramedStart,
    Settings,
    adam,
    checked,
    measured,
    methods,
    picture,
)

TOY = Settings(
    seeds=1, walkers=64, walker_batch=32, walker_batches=1, moves=2, data_noise=0.3, steps=12, records=6, temperatures=5, fresh=64,
    progress=False,
)  # fmt: skip


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


def test_the_methods_have_one_budget():
    settings = checked(dataclasses.replace(TOY, walkers=64, walker_batch=32, walker_batches=3, moves=2))
    images_of_seed = data(settings, 0)
    known = methods(settings, images_of_seed)
    (one, rates), (other, others), (third, thirds) = known[JARZYNSKI], known[PCD], known[CD]
    assert (one.walkers, one.moves, other.walkers, other.moves, other.begin) == (64, 2, 64, 3, "data")
    assert (third.walkers, third.moves, third.restart_every, other.restart_every) == (64, 3, 1, None) and thirds == others
    assert one.optimiser is other.optimiser is third.optimiser and one.start is other.start is third.start and one.space == third.space
    assert rates.particle_step == others.particle_step and rates.learning_rate == others.learning_rate == 1
    few = checked(dataclasses.replace(TOY, data_batch=99))
    assert one.data_batch is None and methods(few, images_of_seed)[PCD][0].data_batch == 99


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adam_has_its_momentum_and_falls_to_zero(momentum):
    optimiser = adam(0.1, momentum, 4)()
    state = optimiser.init(jnp.zeros(1))
    moves = []
    for g in (1.0, -2.0, 0.5, 1.0, 1.0):
        update, state = optimiser.update(jnp.array([g]), state)
        moves.append(float(update[0]))
    mean, square, expected = 0.0, 0.0, []
    for k, g in enumerate((1.0, -2.0, 0.5, 1.0, 1.0)):
        mean, square = momentum * mean + (1 - momentum) * g, 0.999 * square + 0.001 * g * g
        first = mean / (1 - momentum ** (k + 1))
        expected.append(-0.1 * max(1 - k / 4, 0) * first / np.sqrt(square / (1 - 0.999 ** (k + 1))))
    np.testing.assert_allclose(moves, expected, rtol=1e-3, atol=1e-6)


def test_images_are_reduced_to_means_of_blocks(tmp_path):
    found = reduced(np.arange(2 * 4 * 6).reshape(2, 4, 6), 2)
    assert found.tolist() == [[[(0 + 1 + 2 + 6 + 7 + 8) / 6, (3 + 4 + 5 + 9 + 10 + 11) / 6], [16, 19]], [[28, 31], [40, 43]]]
    folder = folder_of(tmp_path / "idx")
    whole, labels, _ = read(folder)
    small, same, shape = read(folder, 14)
    assert shape == (14, 14) and np.array_equal(labels, same)
    np.testing.assert_allclose(small[3].reshape(14, 14)[5, 2], whole[3].reshape(28, 28)[10:12, 4:6].mean(), atol=1e-6)


def test_the_fitted_coordinates_are_those_of_the_normal_distribution(tmp_path):
    folder = folder_of(tmp_path / "idx", each=60)
    settings = checked(dataclasses.replace(TOY, preset="medium", data=folder, walker_batch=None))
    found = data(settings, 3)
    clean, count = np.asarray(found.clean, np.float64), len(found.clean)
    assert found.fitted and found.train.points.shape == (8 * count, 196)
    noise = np.asarray(found.pixels(found.train.points)) - np.tile(clean, (8, 1))
    assert noise.std() == pytest.approx(0.3, rel=0.01) and len(np.unique(noise[::count, 0])) == 8  # each copy has noise of its own
    covariance = np.cov(clean.T, bias=True) + 0.09 * np.eye(196)
    np.testing.assert_allclose(found.normal.covariance, covariance, atol=1e-6)
    y = np.asarray(found.train.points, np.float64)
    np.testing.assert_allclose(y @ np.linalg.cholesky(covariance).T + clean.mean(0), found.pixels(found.train.points), atol=1e-4)
    assert found.log_volume == pytest.approx(0.5 * np.linalg.slogdet(covariance)[1], rel=1e-6)


def test_energy_and_classifier_of_coordinates_are_those_of_their_images():
    random = np.random.default_rng(0)
    normal = normal_of(random.standard_normal((50, 64)), 0.3)
    frame, y = Frame.of(normal), jnp.asarray(random.standard_normal((5, 64)), jnp.float32)
    space, key = Euclidean(64, Gaussian(1.0)), jax.random.key(1)
    framed, plain = FramedStart(NETWORKS[8, 8], normal)(key, space, jnp.float32), NETWORKS[8, 8](key, space, jnp.float32)
    last = jnp.asarray(random.standard_normal(plain.weights[-1].shape), jnp.float32)  # which is 0 at the start
    plain, framed = (eqx.tree_at(at, energy, last) for at, energy in (
        (lambda e: e.weights[-1], plain), (lambda e: e.of.weights[-1], framed),
    ))  # fmt: skip
    np.testing.assert_allclose(framed(y), plain(frame.pixels(y)), rtol=1e-4)
    classifier = Classifier(*(jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((64, 6), 6, (6, 3), 3)))
    np.testing.assert_allclose(frame.seen(classifier)(y), classifier(frame.pixels(y)), rtol=1e-3, atol=1e-3)


def test_simple_densities_beside_scipy():
    random = np.random.default_rng(0)
    clean, x = random.standard_normal((40, 3)), random.standard_normal((6, 3))
    kernels = rivals.Kernels(clean, 0.4, 1.5)
    each = np.stack([multivariate_normal(row, 0.36 * np.eye(3)).logpdf(x) for row in clean])
    np.testing.assert_allclose(kernels.log_density(x), logsumexp(each, axis=0) - np.log(40), rtol=1e-8)
    assert kernels.draws(random, 20_000).var(0) == pytest.approx(clean.var(0) + 0.36, rel=0.05)
    single = rivals.Single(SimpleNamespace(normal=normal_of(clean, 0.4)))
    expected = multivariate_normal(clean.mean(0), np.cov(clean.T, bias=True) + 0.16 * np.eye(3)).logpdf(x)
    np.testing.assert_allclose(single.log_density(x), expected, rtol=1e-6)
    mixture = rivals.Mixture(clean, 0.4, 1)
    np.testing.assert_allclose(mixture.log_density(x), expected, rtol=1e-5)
    assert mixture.draws(random, 20_000).var(0) == pytest.approx(clean.var(0) + 0.16, rel=0.05)
    best = rivals.best_of(rivals.Kernels, (0.01, 1.0, 50.0), clean, np.repeat([0, 1], 20), 0.4, 0)
    assert best.width == 0.4


def test_walkers_of_cd_begin_at_the_data_in_each_iteration(tmp_path):
    """Where moves are tiny, they are at training images at each record, and at others each time."""
    folder = folder_of(tmp_path / "idx", each=60)
    settings = checked(dataclasses.replace(
        TOY, preset="medium", data=folder, copies=1, walkers=16, walker_batch=None, moves=1, particle_step=1e-9, steps=4, records=2,
        out=tmp_path / "out",
    ))  # fmt: skip
    found = data(settings, 0)
    classifier = Classifier(jnp.zeros((196, 2)), jnp.zeros(2), jnp.zeros((2, 3)), jnp.zeros(3))
    method, rates = methods(settings, found)[CD]
    _, walkers, results, _ = measured(settings, CD, method, rates, 0, found, classifier)
    distances = np.linalg.norm(np.asarray(found.train.points)[None] - np.asarray(walkers.points)[:, None], axis=-1)
    assert distances.min(axis=1).max() < 0.1 < np.median(distances)
    ways = results.followed.values
    assert ways.shape == (3, 8, 196) and (np.abs(ways[2] - ways[1]).max(axis=1) > 0.1).any()


def test_bits_of_a_pixel_beside_a_normal_density():
    random = np.random.default_rng(0)
    x = (0.5 * random.standard_normal((50, 6))).astype(np.float32)
    log_density = -0.5 * (x.astype(float) ** 2).sum(1) / 0.49 - 3 * np.log(2 * np.pi * 0.49)
    expected = (-1.5 - log_density.mean()) / (6 * np.log(2))
    assert bits(-1.5, Euclidean(6, Gaussian(0.7)), x) == pytest.approx(expected, rel=1e-5)
    halved = 6 * np.log(0.5)  # pixels of half the length
    assert bits(-1.5, Euclidean(6, Gaussian(0.7)), x, halved) == pytest.approx(expected - 1, rel=1e-5)


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
        (dict(preset="medium"), "data is None; preset medium needs --data"),
        (dict(base="fited"), "did you mean 'fitted'"),
        (dict(momentum=1.0), "momentum is 1.0"),
        (dict(side=3), "side is 3; it must divide the size of the images, which is 8 x 8"),
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
    with pytest.raises(ValueError, match="data has images of 20 x 20; there are networks for 8 x 8, 14 x 14, 28 x 28"):
        main(dataclasses.replace(TOY, data=folder_of(tmp_path / "other", side=20)))
    mixed = folder_of(folder_of(tmp_path / "mixed", sets=("train",)), side=20, sets=("t10k",))
    with pytest.raises(ValueError, match="they must be of one shape"):
        main(dataclasses.replace(TOY, data=mixed))
