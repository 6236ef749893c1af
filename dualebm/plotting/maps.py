"""Figures of runs on S^2: densities, neurons and particles on equal-area maps. `dualebm.plotting.charts` has their style."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from dualebm._internal import checks
from dualebm.energies.shallow import Shallow
from dualebm.measures import Atoms, Samples, coefficients
from dualebm.methods.base import Method
from dualebm.plotting.charts import STYLE, WIDTHS
from dualebm.plotting.projection import Points, draw_graticule, map_points, map_position
from dualebm.plotting.regions import DENSITY_COLOURS
from dualebm.settings import CountFrom2, checked

NEURONS = (  # sign, label, marker, colour
    (-1, "negative neurons", "o", "#D55E00"),
    (1, "positive neurons", "^", "#F0E442"),
)
NEURON_EDGES: dict[str, Any] = dict(edgecolors="black", linewidths=0.4)
LARGEST_MARKER = 70.0  # points^2, for the neuron of largest weight
SMALLEST_MARKER = 5.0  # keeps a neuron visible among the particles where another neuron holds most of the weight
PARTICLES_DRAWN = 1500
MAPS_IN_A_ROW = 3

EnergyFunction = Callable[..., Array]


class Frame(NamedTuple):
    """One picture of a run on S^2, which `snapshot` makes from the state of a method.

    Args:
        step: the number of iterations done.
        energy: the energy, a function from points (N, 3) to values (N,), in units of temperature.
        particles: the particles to draw, (N, 3), or None.
        atoms: the neurons to draw, with positions (m, 3), or None for those of a `Shallow` energy.
        kl: the KL divergence of the teacher to the model for the caption, in nats, or None.

    >>> Frame(0, lambda x: x[:, 0]).kl is None
    True
    """

    step: int
    energy: EnergyFunction
    particles: Points | None = None
    atoms: Atoms | None = None
    kl: float | None = None


@checked
def snapshot(method: Method, state: Any, rates: Any, data: Samples, kl: Any = None) -> Frame:
    """Return the `Frame` of a method's state, with its particles and neurons where it has them.

    Args:
        method: the training method, on `Sphere(3)`.
        state: a state of the method.
        rates: the rates of the run.
        data: the training data, points (n, 3).
        kl: the KL divergence of the teacher to the model for the caption, in nats. None for no such caption.

    Returns:
        The frame.

    >>> import jax
    >>> from dualebm.measures import Samples; from dualebm.methods.dual import Dual
    >>> from dualebm.training.simulate import start; from dualebm.spaces import Sphere
    >>> method, data = Dual(Sphere(3), neurons=8), Samples(jnp.eye(3))
    >>> snapshot(method, start(jax.random.key(0), method, method.rates, data), method.rates, data).particles.shape
    (6, 3)
    """
    energy, samples = method.energy(state, rates, data), method.samples(state)
    return Frame(int(state.step), energy, None if samples is None else samples.points, method.atoms(state), kl)


@eqx.filter_jit
def _evaluate(energy, x):
    return energy(x)


@checked
def density_map(energy: EnergyFunction, rows: CountFrom2 = 200, view: np.ndarray | None = None) -> np.ndarray:
    """Return the density exp(-U) / Z with respect to the uniform measure at the points of `map_points`. Its mean over the map is 1.

    The energy is evaluated once, for all points.

    Args:
        energy: U, a function from points (N, 3) to values (N,), in units of temperature.
        rows: the number of pixels from south to north, at least 2.
        view: the orientation of the map, (3, 3), as `view_of` returns it. None puts the x axis in the centre and the z
            axis in the north.

    Returns:
        The density, (rows, 2 rows).

    Raises:
        ValueError: the energy is not finite or has another shape.

    >>> density_map(lambda x: 0 * x[:, 0], rows=4)[0, :2].tolist()
    [1.0, 1.0]
    """
    points, inside = map_points(rows, view)
    energies = np.asarray(_evaluate(energy, jnp.asarray(points.reshape(-1, 3))), float)
    if energies.shape != (inside.size,) or not np.isfinite(energies).all():
        raise ValueError(
            f"energy has shape {energies.shape} and {int((~np.isfinite(energies)).sum())} values that are not finite "
            f"on the map; it must be finite, of shape ({inside.size},) for points ({inside.size}, 3)"
        )
    density = np.exp(energies.min() - energies).reshape(inside.shape)
    return density / density[inside].mean()


@checked
def sphere_density(
    energy: EnergyFunction,
    atoms: Atoms | None = None,
    particles: Points | None = None,
    *,
    teacher: EnergyFunction | None = None,
    view: np.ndarray | None = None,
    width: str = "double",
    rows: CountFrom2 = 300,
    title: str = "student",
) -> Figure:
    """Draw the density of exp(-U) on S^2 as an equal-area (Mollweide) map, with neurons and particles, beside the teacher's.

    Args:
        energy: U, a function from points (N, 3) to values (N,), in units of temperature.
        atoms: the neurons to mark, by sign. The area of a mark is proportional to the weight, but for a smallest area.
            None marks those of a `Shallow` energy.
        particles: the particles to draw as dots, (N, 3). Of more than 1500, every k-th is drawn. None for none.
        teacher: a second energy, drawn first and on the same colour scale. None for none.
        view: the orientation of the map, (3, 3), as `view_of` returns it. None puts the x axis in the centre and the z
            axis in the north.
        width: the width of the figure: "single" (one column, with the teacher above the student) or "double".
        rows: the number of pixels of a map from south to north.
        title: the title of the map beside the teacher's.

    Returns:
        The figure.

    Raises:
        ValueError: the width is unknown, particles or neurons are not in R^3, or an energy is not finite.

    >>> from dualebm.features import ReLU
    >>> figure = sphere_density(Shallow(ReLU(), jnp.eye(3), jnp.array([-4.0, -2.0, 3.0])), rows=20)
    >>> round(float(figure.axes[0].images[0].get_array()[map_points(20)[1]].mean()), 6)
    1.0
    """
    checks.choice("width", width, WIDTHS)
    check_particles(particles)
    energies = {title: energy} if teacher is None else {"teacher": teacher, title: energy}
    densities = {name: density_map(each, rows, view) for name, each in energies.items()}
    neurons = {name: neurons_of(each, atoms if name == title else None) for name, each in energies.items()}
    largest = max(density.max() for density in densities.values())
    figure, maps = empty_maps(densities, neurons, width, largest, particles is not None)
    for name, each in maps.items():
        each.show(densities[name], neurons[name], particles if name == title else None, view)
    return figure


@checked
def snapshots(
    frames: Iterable[Frame],
    *,
    teacher: EnergyFunction | None = None,
    view: np.ndarray | None = None,
    width: str = "double",
    rows: CountFrom2 = 200,
    caption: str | None = None,
) -> Figure:
    """Draw a run on S^2 as maps in the order of its frames: densities, neurons and particles, on one scale, after the teacher's.

    Args:
        frames: at least one `Frame`, each of another iteration. Its title is its iteration and its KL.
        teacher: the energy of the teacher, drawn first. None for none.
        view: the orientation of the map, (3, 3), as `view_of` returns it. None puts the x axis in the centre and the z
            axis in the north.
        width: the width of the figure: "single" (one map in a row) or "double" (up to three).
        rows: the number of pixels of a map from south to north.
        caption: a title of the whole figure. None for none.

    Returns:
        The figure.

    Raises:
        ValueError: there is no frame, two frames are of one iteration, the width is unknown, particles or neurons are
            not in R^3, or an energy is not finite.

    >>> frames = [Frame(step, lambda x, step=step: step * x[:, 0]) for step in (0, 10)]
    >>> [panel.get_title() for panel in snapshots(frames, teacher=lambda x: x[:, 1], rows=20).axes[:3]]
    ['teacher', 'iteration 0', 'iteration 10']
    """
    frames = list(frames)
    checks.choice("width", width, WIDTHS)
    steps = [frame.step for frame in frames]
    if not frames or len(set(steps)) < len(steps):
        raise ValueError(f"frames has the iterations {steps}; it must hold at least one Frame, each of another iteration")
    for frame in frames:
        check_particles(frame.particles)
    shown = {caption_of(frame): frame for frame in frames}
    if teacher is not None:
        shown = {"teacher": Frame(0, teacher), **shown}
    densities = {name: density_map(frame.energy, rows, view) for name, frame in shown.items()}
    neurons = {name: neurons_of(frame.energy, frame.atoms) for name, frame in shown.items()}
    largest = max(density.max() for density in densities.values())
    figure, maps = empty_maps(densities, neurons, width, largest, any(frame.particles is not None for frame in frames), caption)
    for name, each in maps.items():
        each.show(densities[name], neurons[name], shown[name].particles, view)
    return figure


def check_particles(particles) -> None:
    """Check that particles lie in R^3.

    Args:
        particles: the particles, (N, 3), or None for no particles.

    Raises:
        ValueError: they have another shape.
    """
    if particles is not None and (np.ndim(particles) != 2 or particles.shape[1] != 3):
        raise ValueError(f"particles has shape {np.shape(particles)}; it must be (N, 3) to be drawn on S^2")


def neurons_of(energy, atoms):
    """Return the positions and coefficients of the neurons to draw.

    Args:
        energy: the energy, whose neurons are drawn where it is `Shallow` in R^3 and there are no atoms.
        atoms: the atoms to draw, or None.

    Returns:
        Positions (m, 3) and coefficients (m,), with m = 0 where there is nothing to draw.

    Raises:
        ValueError: the atoms do not lie in R^3.
    """
    if atoms is not None:
        if atoms.positions.shape[1] != 3:
            raise ValueError(f"atoms.positions has shape {atoms.positions.shape}; it must be (m, 3) to be drawn on S^2")
        return np.asarray(atoms.positions), np.asarray(coefficients(atoms))
    if isinstance(energy, Shallow) and energy.positions.shape[1] == 3:
        return np.asarray(energy.positions), np.asarray(energy.coefficients)
    return np.zeros((0, 3)), np.zeros(0)


class _Map:
    """One map. Its artists are made once and `show` gives them new numbers, so that a film redraws little."""

    def __init__(self, panel, title, norm, largest_weight):
        self.largest_weight = largest_weight
        edge = Ellipse((0, 0), 4, 2, facecolor="none", edgecolor="0.3", linewidth=0.8, zorder=3, clip_on=False)
        form: dict[str, Any] = dict(origin="lower", extent=(-2, 2, -1, 1), interpolation="bilinear")
        self.image = panel.imshow(np.zeros((2, 4)), norm=norm, cmap=DENSITY_COLOURS, **form)
        panel.add_patch(edge)
        self.image.set_clip_path(edge)
        draw_graticule(panel)
        self.dots = panel.scatter([], [], s=1.2, c="black", alpha=0.4, linewidths=0, rasterized=True, zorder=2)
        self.neurons = [
            panel.scatter([], [], s=[], marker=marker, c=colour, zorder=4, clip_on=False, **NEURON_EDGES)
            for _, _, marker, colour in NEURONS
        ]
        panel.set(title=title, xlim=(-2.02, 2.02), ylim=(-1.02, 1.02), aspect="equal")
        panel.set_axis_off()

    def show(self, density, neurons, particles, view):
        """Draw a density (rows, 2 rows), neurons and particles."""
        self.image.set_data(density)
        if particles is not None:
            particles = np.asarray(particles)
            stride = -(-len(particles) // PARTICLES_DRAWN)
            self.dots.set_offsets(map_position(particles[::stride], view))
        positions, coefficients = neurons
        directions = positions / np.linalg.norm(positions, axis=1, keepdims=True)
        for (sign, *_), marks in zip(NEURONS, self.neurons, strict=True):
            chosen = np.sign(coefficients) == sign
            marks.set_offsets(map_position(directions[chosen], view))
            marks.set_sizes(np.maximum(LARGEST_MARKER * np.abs(coefficients[chosen]) / self.largest_weight, SMALLEST_MARKER))


def empty_maps(densities, neurons, width, largest_density, with_particles, caption=None):
    """Return a figure with one empty map per name, a colour bar and a legend.

    Args:
        densities: the densities to draw later, by name. Only their names are used.
        neurons: positions and coefficients of neurons, by name. The largest coefficient sets the size of the marks.
        width: "single" or "double", the width of the figure.
        largest_density: the density at the upper end of the colour bar, relative to the uniform density.
        with_particles: whether the legend shows particles.
        caption: the title of the figure, or None.

    Returns:
        The figure, and the map of each name.
    """
    weights = np.concatenate([np.abs(c) for _, c in neurons.values()] + [np.zeros(1)])
    largest_weight = weights.max() or 1.0
    columns = min(len(densities), MAPS_IN_A_ROW) if width == "double" else 1
    rows = -(-len(densities) // columns)
    map_height = (WIDTHS[width] - 0.7) / columns / 2
    signs = np.concatenate([np.sign(c) for _, c in neurons.values()])
    with matplotlib.rc_context(STYLE):
        height = rows * (map_height + 0.25) + (0.4 if caption is None else 0.75)
        figure = Figure(figsize=(WIDTHS[width], height), layout="compressed")
        if caption is not None:
            figure.suptitle(caption, fontsize=9)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        norm, maps = Normalize(0, largest_density), {}
        for panel, name in zip(panels, densities, strict=False):
            maps[name] = _Map(panel, name if len(densities) > 1 else "", norm, largest_weight)
        spare = panels[len(densities) :]
        for panel in spare:
            panel.set_axis_off()
        image = next(iter(maps.values())).image
        bar = figure.colorbar(image, ax=figure.axes, location="right", shrink=0.9, aspect=15 * rows, pad=0.02)
        bar.set_label("density (uniform = 1)")
        bar.outline.set_linewidth(0.5)
        form: dict[str, Any] = dict(linestyle="", markersize=5, markeredgecolor="black", markeredgewidth=0.4)
        handles = [
            Line2D([], [], marker=marker, markerfacecolor=colour, label=f"{label}, area: weight", **form)
            for sign, label, marker, colour in NEURONS
            if (signs == sign).any()
        ]
        if with_particles:
            handles += [Line2D([], [], linestyle="", marker=".", markersize=2, color="black", label="particles")]
        if handles and spare:
            spare[0].legend(handles=handles, loc="center")
        elif handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=3 if width == "double" else 2)
    return figure, maps


def caption_of(frame: Frame) -> str:
    """Return the caption of a frame: its iteration, and its KL where it has one.

    Args:
        frame: the frame.

    Returns:
        The text, with the KL in nats.
    """
    return f"iteration {frame.step}" + ("" if frame.kl is None else f", KL = {frame.kl:.2g} nat")
