"""Figures hold the numbers they were given; maps of S^2 preserve areas; films can be decoded."""

import subprocess

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from dualebm import plot
from dualebm.energy import Shallow
from dualebm.features import ReLU
from dualebm.measures import Atoms
from dualebm.spaces import Sphere
from experiments.reference import author_primal, author_runs, author_sphere2

STEPS = np.array([0, 10, 100, 1000])
LABELS = {"kl": ("KL(teacher || student)", "nats"), "score": ("score error", "1"), "total_variation": ("TV", "")}


def runs(seed=0, lanes=3):
    """Positive curves, (lane, step), as a store holds them."""
    draw = np.random.default_rng(seed)
    variables = {
        name: (("lane", "step"), draw.lognormal(size=(lanes, len(STEPS))), {"long_name": long, "units": unit})
        for name, (long, unit) in LABELS.items()
    }
    return xarray.Dataset(variables, {"step": STEPS, "lane": np.arange(lanes)})


def teacher(dtype=jnp.float32):
    positions = jnp.array([[1.0, 0, 0], [0, 0.6, 0.8]], dtype)
    return Shallow(ReLU(), positions, jnp.array([-9.0, 5.0], dtype))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def band_at(band, step):
    """(lowest, highest) point of a band at a step."""
    vertices = np.concatenate([path.vertices for path in band.get_paths()])
    heights = vertices[vertices[:, 0] == step, 1]
    return heights.min(), heights.max()


@pytest.mark.parametrize("width", ["single", "double"])
def test_curves_hold_the_means_and_the_bands_of_the_runs(width, tmp_path):
    results, before = runs(), dict(matplotlib.rcParams)
    figure = plot.curves(results, author_runs("d15_mono_n1e4_p_R=0"), width=width)
    assert figure.get_figwidth() == plot.WIDTHS[width]
    assert [panel.get_ylabel().replace("\n", " ") for panel in figure.axes] == [
        "KL(teacher || student) (nats)", "score error", "TV"
    ]  # fmt: skip
    assert legend(figure) == ["dualebm (3 runs)", "authors"]
    for panel, name in zip(figure.axes, LABELS, strict=True):
        line, authors = panel.get_lines()
        assert line.get_xdata().tolist() == STEPS[1:].tolist()
        np.testing.assert_allclose(line.get_ydata(), results[name].values[:, 1:].mean(0), rtol=1e-12)
        for i, step in enumerate(STEPS[1:], start=1):
            values = results[name].values[:, i]
            np.testing.assert_allclose(band_at(panel.collections[0], step), (values.min(), values.max()), rtol=1e-12)
        assert panel.get_xscale() == "log" and panel.get_yscale() == ("linear" if name == "total_variation" else "log")
        curve = author_runs("d15_mono_n1e4_p_R=0")[plot.QUANTITIES[name][0]]
        np.testing.assert_array_equal(authors.get_ydata(), curve["mean"])
        assert authors.get_linestyle() == "--" and to_hex(authors.get_color()) != to_hex(line.get_color())
        np.testing.assert_array_equal(band_at(panel.collections[1], 400), [curve[k][10] for k in ("min", "max")])
    assert figure.axes[-1].get_xlabel() == "iteration"
    figure.savefig(tmp_path / "curves.pdf")
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.pdf").stat().st_size > 5000
    assert dict(matplotlib.rcParams) == before, "a global setting was changed"


def test_settings_and_references_share_colours_and_a_column_of_the_legend():
    settings = {"p_R = 0": runs(1), "p_R = 1": runs(2, lanes=1)}
    published = {
        "p_R = 1": author_runs("d15_mono_n1e4_p_R=1"), "p_R = 0": author_runs("d15_mono_n1e4_p_R=0"),
        "primal": author_primal(),
    }  # fmt: skip
    figure = plot.curves(settings, published, variables=["kl"])
    assert legend(figure) == ["p_R = 0 (3 runs)", "p_R = 0, authors", "p_R = 1 (1 run)", "p_R = 1, authors", "primal"]
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 5
    assert [line.get_xdata()[-1] for line in lines] == [1000, 1000, 4000, 4000, 200_000]
    for own, authors in ((lines[0], lines[3]), (lines[1], lines[2])):  # darker, and so the same hue
        np.testing.assert_allclose(authors.get_color(), 0.55 * np.array(to_rgb(own.get_color())))
    assert len(figure.axes[0].collections) == 4, "one run has no band"


def test_a_diverged_run_is_counted_and_unwritten_records_are_not_drawn():
    results = runs(lanes=4)
    results.kl[0, 2:] = np.nan
    results.kl[1, 2] = np.inf
    line = plot.curves(results, variables=["kl"]).axes[0].get_lines()[0]
    assert line.get_label() == "dualebm (4 runs, 1 diverged)"
    expected = [results.kl[:, 1].mean(), results.kl[2:, 2].mean(), results.kl[1:, 3].mean()]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    results.kl[:, 3] = np.nan
    assert plot.curves(results, variables=["kl"]).axes[0].get_lines()[0].get_xdata().tolist() == [10, 100]


def test_a_negative_estimate_does_not_set_the_axis(tmp_path):
    results = runs()
    results.kl[:, 3] = -1e-5
    figure = plot.curves(results)
    figure.savefig(tmp_path / "negative.png")
    positive = results.kl.values[:, 1:3]
    low, high = figure.axes[0].get_ylim()
    assert low > positive.min() / 2 and high < positive.max() * 2


def test_other_dimensions_are_runs_and_labels_have_defaults():
    kl = xarray.DataArray(np.arange(1.0, 13).reshape(2, 3, 2), dims=("seed", "step", "ratio"))
    figure = plot.curves(xarray.Dataset({"kl": kl}, {"step": [1, 2, 4]}), variables=["kl"])
    assert legend(figure) == ["dualebm (4 runs)"] and "nats" in figure.axes[0].get_ylabel()
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
        plot.curves(**{"results": runs(), **change})


def test_the_authors_curves_are_the_published_numbers():
    """The archived values of MATH.md A.9's table, and the figure of S^2 against the archive of the same run."""
    mono = author_runs("d15_mono_n1e4_p_R=1/40")
    assert mono["KL"]["mean"][-1] == pytest.approx(0.0194, abs=1e-4)
    assert np.all(mono["SM"]["min"] <= mono["SM"]["mean"]) and np.all(mono["SM"]["mean"] <= mono["SM"]["max"])
    primal = author_primal()
    assert len(primal["iterations"]) < 200 and np.all(np.diff(primal["iterations"]) > 0)
    assert [round(float(primal["KL"][kind][-1]), 4) for kind in ("min", "mean", "max")] == [0.0045, 0.0053, 0.0063]
    archive, drawn = author_runs("d3_bimodal_n1000_p_R=1"), author_sphere2("1")
    late = archive["iterations"] >= 400
    for quantity in ("KL", "SM", "TV"):
        read = np.interp(archive["iterations"][late], drawn["iterations"], drawn[quantity]["mean"])
        np.testing.assert_allclose(read, archive[quantity]["mean"][late], rtol=0.05)
    with pytest.raises(ValueError, match="did you mean 'd3_bimodal_n1000_p_R=1/60'"):
        author_runs("d3_bimodal_n1000_p_R=1/6")


def test_the_map_preserves_areas_and_positions_invert_it():
    view = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    points, inside = plot.map_points(120, view)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, rtol=1e-12)
    x = points[inside]
    np.testing.assert_allclose(np.einsum("ni,nj->ij", x, x) / len(x), np.eye(3) / 3, atol=5e-4)
    cap = np.array([0.48, 0.6, 0.64])
    assert np.mean(x @ cap > 0.7) == pytest.approx(0.15, abs=1e-3)
    position = plot.map_position(x, view)
    row, column = np.nonzero(inside)
    np.testing.assert_allclose(position, np.stack([(2 * column + 1) / 120 - 2, (2 * row + 1) / 120 - 1], 1), atol=2e-3)


def test_the_view_puts_the_mean_in_the_centre_and_two_neurons_on_the_equator():
    x = Sphere(3).sample_base(jax.random.key(1), 2, jnp.float32)
    view = plot.view_of(x)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(view) == pytest.approx(1)
    mean, both = plot.map_position(np.asarray(x).mean(0, keepdims=True), view), plot.map_position(x, view)
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(both[:, 1], 0, atol=1e-3)
    np.testing.assert_allclose(both[0], -both[1], atol=1e-3)
    assert plot.view_of(np.array([[0, 0, 2.0]]))[0].tolist() == [0, 0, 1]
    assert plot.view_of(np.array([[0, 1.0, 0], [0, -1.0, 0]]))[0].tolist() == [0, 1, 0]


def test_the_density_integrates_to_one_and_matches_the_closed_form():
    """exp(a relu(<x, n>)) has Z = (1 + (e^a - 1) / a) / 2: the law of <x, n> is uniform on [-1, 1]."""
    strength, direction = 6.0, np.array([0.6, 0.0, 0.8])
    energy = Shallow(ReLU(), jnp.asarray(direction[None], jnp.float32), jnp.array([-strength], jnp.float32))
    image = plot.sphere_density(energy, rows=200).axes[0].images[0].get_array()
    points, inside = plot.map_points(200)
    assert image[inside].mean() == pytest.approx(1, abs=1e-6)
    partition = (1 + (np.exp(strength) - 1) / strength) / 2
    exact = np.exp(strength * np.maximum(points @ direction, 0)) / partition
    np.testing.assert_allclose(image[inside], exact[inside], rtol=1e-3)
    row, column = 2 * (np.unravel_index(np.argmax(image), image.shape) + np.array([0.5, 0.5])) / 200 - 1
    np.testing.assert_allclose([column - 1, row], plot.map_position(direction[None])[0], atol=0.02)


def test_a_density_in_float64_with_large_energies(x64):
    density = plot.density_map(lambda x: 2000.0 * x[:, 0] + 1e4, rows=60)
    assert np.isfinite(density).all() and density[plot.map_points(60)[1]].mean() == pytest.approx(1)


def test_neurons_are_marked_by_sign_and_weight_and_particles_are_dots():
    weights = jnp.array([4.0, 1.0, 2.0, 0.0])
    positions = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    atoms = Atoms(positions, jnp.log(weights), jnp.array([-1.0, 1, -1, 1]))
    particles = Sphere(3).sample_base(jax.random.key(0), 4000, jnp.float32)
    figure = plot.sphere_density(teacher(), atoms, particles, teacher=teacher(), rows=20)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["teacher", "student"]
    assert figure.axes[2].get_ylabel() == "density (uniform = 1)"
    assert legend(figure) == ["negative neurons, area: weight", "positive neurons, area: weight", "particles"]
    dots, negative, positive = figure.axes[1].collections
    np.testing.assert_allclose(negative.get_offsets(), plot.map_position(positions[::2]), atol=1e-6)
    np.testing.assert_allclose(positive.get_offsets(), plot.map_position(positions[1:2]), atol=1e-6)
    sizes = np.concatenate([negative.get_sizes(), positive.get_sizes()])
    np.testing.assert_allclose(sizes, np.array([4, 2, 1]) / 9 * plot.LARGEST_MARKER, rtol=1e-6)  # 9: the teacher's
    np.testing.assert_allclose(dots.get_offsets(), plot.map_position(particles[::3]), atol=1e-6)
    of_teacher = figure.axes[0].collections
    assert [len(marks.get_offsets()) for marks in of_teacher] == [0, 1, 1]
    assert figure.axes[0].images[0].norm is figure.axes[1].images[0].norm, "teacher and student share a scale"
    only = plot.sphere_density(lambda x: x[:, 0], rows=20, width="single")
    assert not only.legends and len(only.axes) == 2


def test_maps_that_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"particles has shape \(5, 4\)"):
        plot.sphere_density(teacher(), particles=np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"atoms.positions has shape \(2, 2\)"):
        plot.sphere_density(teacher(), Atoms(jnp.eye(2), jnp.zeros(2), jnp.ones(2)))
    with pytest.raises(ValueError, match="800 values that are not finite"):
        plot.density_map(lambda x: jnp.nan * x[:, 0], rows=20)
    with pytest.raises(ValueError, match=r"of shape \(800,\)"):
        plot.density_map(lambda x: x, rows=20)
    with pytest.raises(ValueError, match="orthonormal"):
        plot.density_map(teacher(), rows=20, view=2 * np.eye(3))


def frames(count):
    particles = np.asarray(Sphere(3).sample_base(jax.random.key(0), 200, jnp.float32))
    for i in range(count):
        atoms = Atoms(jnp.eye(3), jnp.full(3, i / count), jnp.array([-1.0, -1.0, 1.0]))
        energy = Shallow(ReLU(), jnp.eye(3), jnp.array([-2.0, -2.0, 1.0]) * i)
        yield plot.Frame(10 * i, energy, particles, atoms, 1.0 / (i + 1) if i else None)


def decode(path):
    """(frames, height, width, 3), decoded by ffmpeg. (imageio_ffmpeg.read_frames forks, which JAX warns of.)"""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-vf", "scale=320:120"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 120, 320, 3).astype(int)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_has_all_its_frames(suffix, tmp_path):
    path = plot.film(tmp_path / f"run{suffix}", frames(7), teacher=teacher(), fps=5, rows=40)
    assert path == tmp_path / f"run{suffix}" and [file.name for file in tmp_path.iterdir()] == [path.name]
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 7 and seconds == pytest.approx(7 / 5, abs=0.05)
    pictures = decode(path)
    assert len(pictures) == 7 and np.all(np.abs(np.diff(pictures, axis=0)).max(axis=(1, 2, 3)) > 50)


def test_a_gif_opens_elsewhere_and_keeps_the_colours_of_the_markers(tmp_path):
    with Image.open(plot.film(tmp_path / "run.gif", frames(5), fps=5, rows=40)) as film:
        assert film.n_frames == 5 and film.info["duration"] == 200 and film.info["loop"] == 0
        film.seek(4)
        pixels = np.asarray(film.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in (plot.NEURONS[0][3], plot.NEURONS[1][3]):
        assert np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=1).min() < 24


def test_a_film_of_a_method(tmp_path):
    from dualebm.measures import Samples
    from dualebm.methods.dual import Dual

    method = Dual(Sphere(3), neurons=8)
    data = Samples(Sphere(3).sample_base(jax.random.key(0), 50, jnp.float32))
    state = method.init(jax.random.key(1), method.rates, data)
    frame = plot.snapshot(method, state, method.rates, data, kl=0.5)
    assert frame.step == 0 and frame.kl == 0.5 and frame.particles.shape == (100, 3) and frame.atoms is state.atoms
    assert plot.film(tmp_path / "run.gif", [frame], view=plot.view_of(state.atoms.positions), rows=30).exists()


def test_films_that_cannot_be_made_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"suffix of path is '.avi'.*Allowed: '.mp4', '.gif'"):
        plot.film(tmp_path / "run.avi", frames(1))
    with pytest.raises(ValueError, match="its folder must exist"):
        plot.film(tmp_path / "none" / "run.gif", frames(1))
    with pytest.raises(ValueError, match="frames is empty"):
        plot.film(tmp_path / "run.gif", [])
    with pytest.raises(ValueError, match="fps is 0"):
        plot.film(tmp_path / "run.gif", frames(1), fps=0)
    with pytest.raises(ValueError, match="not finite"):
        plot.film(tmp_path / "run.gif", [plot.Frame(0, lambda x: jnp.inf * x[:, 0])])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_film_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr(plot, "_caption", lambda frame: "" if frame.step < 20 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.film(path, frames(4), rows=20)
    assert [file.name for file in tmp_path.iterdir()] == ["run.gif"] and path.read_bytes() == b"old"
