"""The figure of a fitted model has the density of the model in the units of the data, on every space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.data.preparation import Preparation, from_space
from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.model import Model
from dualebm.plotting import densities, projection, regions
from dualebm.spaces import Euclidean, Sphere, Torus
from tests.cases import heavy

LOG_Z = LogPartitionEstimate(0.0, 0.0, 1.0, 1, 0.0, "draws", 0.0, None)
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"ON_LINE": 400, "ON_PLANE": 60, "ON_MAP": 40, "SAMPLES": 300}.items():
        monkeypatch.setattr(densities, name, value)


def base_alone(space, **fields):
    """The model of the base measure of a space, whose log Z is 0."""
    return Model(Shallow(ReLU(), jnp.eye(space.dimension), jnp.zeros(space.dimension)), Preparation(space, **fields), LOG_Z, 0.1)


def rows_of(fitted, count=200):
    return from_space(fitted.preparation, fitted.preparation.space.sample_base(KEY, count, jnp.float32)).rows


def test_a_line_has_the_normal_density_in_the_units_of_the_data():
    fitted = base_alone(Euclidean(1), columns=("height",), mean=np.array([10.0]), scale=np.array([2.0]))
    drawn = densities.density(KEY, fitted, rows_of(fitted))
    (panel,) = drawn.figure.axes
    x, y = panel.lines[-1].get_data()
    np.testing.assert_allclose(y, np.exp(-(((x - 10) / 2) ** 2) / 2) / np.sqrt(8 * np.pi), rtol=1e-4)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("height", "density per unit of height") and "200 rows" in drawn.caption
    doubtful = fitted._replace(log_partition=LOG_Z._replace(doubt="few draws"))
    assert "not to be trusted" in densities.density(KEY, doubtful).caption and "rows" not in densities.density(KEY, doubtful).caption


def test_the_regions_of_a_plane_are_those_of_the_normal_distribution():
    """The region of share s of N(0, I) is the disc in which the density is at least (1 - s) / 2 pi."""
    fitted = base_alone(Euclidean(2), columns=("a", "b"), mean=np.zeros(2), scale=np.array([1.0, 100.0]))
    drawn = densities.density(KEY, fitted, 3.5 * np.array([[-1, -100], [1, 100.0]]))
    panel, bar = drawn.figure.axes
    levels = [float(label.get_text().split()[0]) for label in bar.get_yticklabels()]
    np.testing.assert_allclose(levels, [(1 - share) / (200 * np.pi) for share in regions.SHARES], rtol=0.06)
    assert panel.get_xlim()[1] < 5 and panel.get_ylim()[1] > 350 and panel.get_ylabel() == "b"


@pytest.mark.parametrize("latlon", [True, False])
def test_a_map_has_dots_at_the_rows_and_names_its_directions(latlon):
    energy = Shallow(ReLU(), jnp.array([[0.0, 0, 1.0]]), jnp.array([-3.0]))
    names = ("lat", "lon") if latlon else ("east", "north", "up")
    fitted = Model(energy, Preparation(Sphere(3), names, latlon=latlon), LOG_Z, 0.1)
    rows = np.array([[90.0, 0.0], [0.0, 90.0]]) if latlon else np.array([[0.0, 0, 1], [0, 1, 0]])
    drawn = densities.density(KEY, fitted, rows)
    panel = drawn.figure.axes[0]
    words = {text.get_text() for text in panel.texts}
    assert ({"60°N", "120°W", "0°"} if latlon else {"+east", "−up", "+north"}) <= words
    dots = panel.collections[-1].get_offsets()
    np.testing.assert_allclose(dots, projection.map_position(np.array([[0.0, 0, 1], [0, 1, 0]])), atol=1e-3)


def test_a_circle_is_in_degrees_and_integrates_to_one_over_radians():
    energy = Shallow(ReLU(), jnp.array([[0.0, 1.0]]), jnp.array([-2.0]))
    drawn = densities.density(KEY, Model(energy, Preparation(Sphere(2), ("x", "y")), LOG_Z, 0.1))
    x, y = drawn.figure.axes[0].lines[-1].get_data()
    assert abs(x[np.argmax(y)] - 90) < 1 and "from x towards y (degrees)" in drawn.figure.axes[0].get_xlabel()
    np.testing.assert_allclose(y, np.exp(2 * np.maximum(np.sin(np.radians(x)), 0)) / (2 * np.pi), rtol=1e-4)


def test_a_constant_density_on_a_torus_is_said_and_not_filled():
    fitted = base_alone(Torus(2, 360.0), columns=("phi", "psi"))
    drawn = densities.density(KEY, fitted, rows_of(fitted, 3000))
    assert "is constant, 7.72e-06, with 2000 of 3000 rows" in drawn.caption and len(drawn.figure.axes) == 1


@pytest.mark.parametrize("space", [heavy(Euclidean(7)), Sphere(4), heavy(Torus(3, 2.0))])
def test_more_dimensions_are_pairs_of_named_columns(space):
    names = tuple(f"column {i + 1}" for i in range(space.dimension))
    fitted = base_alone(space)
    drawn = densities.density(KEY, fitted, rows_of(fitted, 20))
    shown = min(space.dimension, 6)
    assert [panel.get_xlabel() for panel in drawn.figure.axes if panel.get_xlabel()] == list(names[:shown])
    assert len(drawn.figure.axes) == shown * (shown + 1) // 2 and ("column 7 are not drawn" in drawn.caption) == (space.dimension == 7)
