"""Maps of S^2 preserve areas and hold the numbers they were given; films can be decoded."""

import subprocess

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.measures import Atoms, Samples
from dualebm.methods.dual import Dual
from dualebm.plotting import films, maps, projection
from dualebm.spaces import Sphere
from dualebm.training.simulate import start
from tests import oracles
from tests.cases import heavy


def teacher(dtype=jnp.float32):
    positions = jnp.array([[1.0, 0, 0], [0, 0.6, 0.8]], dtype)
    return Shallow(ReLU(), positions, jnp.array([-9.0, 5.0], dtype))


def particles_of(count, seed=0):
    return oracles.normalise(np.random.default_rng(seed).normal(size=(count, 3))).astype(np.float32)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_map_preserves_areas_and_positions_invert_it():
    view = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    points, inside = projection.map_points(120, view)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, rtol=1e-12)
    x = points[inside]
    np.testing.assert_allclose(np.einsum("ni,nj->ij", x, x) / len(x), np.eye(3) / 3, atol=5e-4)
    cap = np.array([0.48, 0.6, 0.64])
    assert np.mean(x @ cap > 0.7) == pytest.approx(0.15, abs=1e-3)
    position = projection.map_position(x, view)
    row, column = np.nonzero(inside)
    np.testing.assert_allclose(position, np.stack([(2 * column + 1) / 120 - 2, (2 * row + 1) / 120 - 1], 1), atol=2e-3)


def test_the_view_puts_the_mean_in_the_centre_and_two_neurons_on_the_equator():
    x = particles_of(2, 1)
    view = projection.view_of(x)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(view) == pytest.approx(1)
    mean, both = projection.map_position(x.mean(0, keepdims=True), view), projection.map_position(x, view)
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(both[:, 1], 0, atol=1e-3)
    np.testing.assert_allclose(both[0], -both[1], atol=1e-3)
    assert projection.view_of(np.array([[0, 0, 2.0]]))[0].tolist() == [0, 0, 1]
    assert projection.view_of(np.array([[0, 1.0, 0], [0, -1.0, 0]]))[0].tolist() == [0, 1, 0]


def test_the_density_integrates_to_one_and_matches_the_closed_form():
    """exp(a relu(<x, n>)) has Z = (1 + (e^a - 1) / a) / 2: the law of <x, n> is uniform on [-1, 1]."""
    strength, direction = 6.0, np.array([0.6, 0.0, 0.8])
    energy = Shallow(ReLU(), jnp.asarray(direction[None], jnp.float32), jnp.array([-strength], jnp.float32))
    image = maps.sphere_density(energy, rows=200).axes[0].images[0].get_array()
    points, inside = projection.map_points(200)
    assert image[inside].mean() == pytest.approx(1, abs=1e-6)
    partition = (1 + (np.exp(strength) - 1) / strength) / 2
    exact = np.exp(strength * np.maximum(points @ direction, 0)) / partition
    np.testing.assert_allclose(image[inside], exact[inside], rtol=1e-3)
    row, column = 2 * (np.unravel_index(np.argmax(image), image.shape) + np.array([0.5, 0.5])) / 200 - 1
    np.testing.assert_allclose([column - 1, row], projection.map_position(direction[None])[0], atol=0.02)


def test_a_density_in_float64_with_large_energies(x64):
    density = maps.density_map(lambda x: 2000.0 * x[:, 0] + 1e4, rows=60)
    assert np.isfinite(density).all() and density[projection.map_points(60)[1]].mean() == pytest.approx(1)


def test_neurons_are_marked_by_sign_and_weight_and_particles_are_dots():
    weights = np.float32([4, 1, 2, 0])
    positions = np.float32([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    with np.errstate(divide="ignore"):
        atoms = Atoms(jnp.array(positions), jnp.array(np.log(weights)), jnp.array([-1.0, 1, -1, 1]))
    particles = particles_of(4000)
    figure = maps.sphere_density(teacher(), atoms, particles, teacher=teacher(), rows=20)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["teacher", "student"]
    assert figure.axes[2].get_ylabel() == "density (uniform = 1)"
    assert legend(figure) == ["negative neurons, area: weight", "positive neurons, area: weight", "particles"]
    dots, negative, positive = figure.axes[1].collections
    np.testing.assert_allclose(negative.get_offsets(), projection.map_position(positions[::2]), atol=1e-6)
    np.testing.assert_allclose(positive.get_offsets(), projection.map_position(positions[1:2]), atol=1e-6)
    sizes = np.concatenate([negative.get_sizes(), positive.get_sizes()])
    areas = np.array([4, 2, 1]) / 9 * maps.LARGEST_MARKER  # 9: the teacher's
    np.testing.assert_allclose(sizes, areas, rtol=1e-6)
    np.testing.assert_allclose(dots.get_offsets(), projection.map_position(particles[::3]), atol=1e-6)
    of_teacher = figure.axes[0].collections
    assert [len(marks.get_offsets()) for marks in of_teacher] == [0, 1, 1]
    assert figure.axes[0].images[0].norm is figure.axes[1].images[0].norm, "teacher and student share a scale"
    only = maps.sphere_density(lambda x: x[:, 0], rows=20, width="single")
    assert not only.legends and len(only.axes) == 2


def test_maps_that_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"particles has shape \(5, 4\)"):
        maps.sphere_density(teacher(), particles=np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"atoms.positions has shape \(2, 2\)"):
        maps.sphere_density(teacher(), Atoms(np.eye(2), np.zeros(2), np.ones(2)))
    with pytest.raises(ValueError, match="800 values that are not finite"):
        maps.density_map(lambda x: jnp.nan * x[:, 0], rows=20)
    with pytest.raises(ValueError, match=r"of shape \(800,\)"):
        maps.density_map(lambda x: x, rows=20)
    with pytest.raises(ValueError, match="orthonormal"):
        maps.density_map(teacher(), rows=20, view=2 * np.eye(3))


def frames(count):
    particles, eye = particles_of(200), jnp.array(np.eye(3), jnp.float32)
    for i in range(count):
        atoms = Atoms(eye, jnp.array(np.full(3, i / count), jnp.float32), jnp.array([-1.0, -1.0, 1.0]))
        energy = Shallow(ReLU(), eye, jnp.array([-2.0 * i, -2.0 * i, 1.0 * i]))
        yield maps.Frame(10 * i, energy, particles, atoms, 1.0 / (i + 1) if i else None)


def test_snapshots_are_one_map_each_on_one_scale():
    chosen = list(frames(4))
    figure = maps.snapshots(chosen, teacher=teacher(), rows=20)
    titles = ["teacher", "iteration 0", "iteration 10, KL = 0.5 nat", "iteration 20, KL = 0.33 nat", "iteration 30, KL = 0.25 nat"]
    assert [panel.get_title() for panel in figure.axes[:5]] == titles
    assert not figure.legends and len(figure.axes[5].get_legend().get_texts()) == 3, "the sixth place is the legend's"
    assert len({id(panel.images[0].norm) for panel in figure.axes[:5]}) == 1
    inside = projection.map_points(20)[1]
    for panel, frame in zip(figure.axes[1:5], chosen, strict=True):
        np.testing.assert_allclose(panel.images[0].get_array(), maps.density_map(frame.energy, 20), rtol=1e-6)
        assert panel.images[0].get_array()[inside].max() <= panel.images[0].norm.vmax
        assert panel.collections[0].get_offsets().shape == (200, 2)
    weights = figure.axes[4].collections[1].get_sizes()
    np.testing.assert_allclose(weights, np.exp(0.75) / 9 * maps.LARGEST_MARKER, rtol=1e-6)  # 9: the teacher's
    single = maps.snapshots(chosen[:3], width="single", rows=20)
    assert single.axes[3].get_ylabel() == "density (uniform = 1)" and len(single.legends) == 1
    for wrong, message in ((chosen[:1] * 2, r"iterations \[0, 0\]"), ([], r"iterations \[\]")):
        with pytest.raises(ValueError, match=message):
            maps.snapshots(wrong)


def decode(path):
    """(frames, height, width, 3), decoded by ffmpeg. (imageio_ffmpeg.read_frames forks, which JAX warns of.)"""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-vf", "scale=320:120"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 120, 320, 3).astype(int)


@pytest.mark.parametrize("suffix", [heavy(".mp4"), ".gif"])
def test_a_film_has_all_its_frames(suffix, tmp_path):
    path = films.film(tmp_path / f"run{suffix}", frames(7), teacher=teacher(), fps=5, rows=40)
    assert path == tmp_path / f"run{suffix}" and [file.name for file in tmp_path.iterdir()] == [path.name]
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 7 and seconds == pytest.approx(7 / 5, abs=0.05)
    pictures = decode(path)
    assert len(pictures) == 7 and np.all(np.abs(np.diff(pictures, axis=0)).max(axis=(1, 2, 3)) > 50)


def test_a_gif_opens_elsewhere_and_keeps_the_colours_of_the_markers(tmp_path):
    with Image.open(films.film(tmp_path / "run.gif", frames(5), fps=5, rows=40)) as film:
        assert film.n_frames == 5 and film.info["duration"] == 200 and film.info["loop"] == 0
        film.seek(4)
        pixels = np.asarray(film.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in (maps.NEURONS[0][3], maps.NEURONS[1][3]):
        assert np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=1).min() < 24


def test_a_film_of_a_method(tmp_path):
    method = Dual(Sphere(3), neurons=8)
    data = Samples(jnp.array(particles_of(50)))
    state = start(jax.random.key(1), method, method.rates, data)
    frame = maps.snapshot(method, state, method.rates, data, kl=0.5)
    assert frame.step == 0 and frame.kl == 0.5 and frame.particles.shape == (100, 3) and frame.atoms is state.atoms
    view = projection.view_of(state.atoms.positions)
    assert films.film(tmp_path / "run.gif", [frame], view=view, rows=30).exists()


def test_films_that_cannot_be_made_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"suffix of path is '.avi'.*Allowed: '.mp4', '.gif'"):
        films.film(tmp_path / "run.avi", frames(1))
    with pytest.raises(ValueError, match="its folder must exist"):
        films.film(tmp_path / "none" / "run.gif", frames(1))
    with pytest.raises(ValueError, match="frames is empty"):
        films.film(tmp_path / "run.gif", [])
    with pytest.raises(ValueError, match="fps is 0"):
        films.film(tmp_path / "run.gif", frames(1), fps=0)
    with pytest.raises(ValueError, match="not finite"):
        films.film(tmp_path / "run.gif", [maps.Frame(0, lambda x: jnp.inf * x[:, 0])])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_film_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(maps, "caption_of", lambda frame: "" if frame.step < 20 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        films.film(path, frames(4), rows=20)
    assert [file.name for file in tmp_path.iterdir()] == ["run.gif"] and path.read_bytes() == b"old"
