"""Films of runs on S^2."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter

from dualebm._internal import checks, files
from dualebm.plotting import maps
from dualebm.plotting.charts import STYLE
from dualebm.plotting.maps import EnergyFunction, Frame
from dualebm.settings import Count, CountFrom2, checked


@checked
def film(
    path: str | os.PathLike,
    frames: Iterable[Frame],
    *,
    teacher: EnergyFunction | None = None,
    view: np.ndarray | None = None,
    fps: Count = 12,
    rows: CountFrom2 = 120,
) -> Path:
    """Write a film of a run on S^2: the model's density, neurons and particles, the iteration and KL, beside the teacher.

    The film is made by the ffmpeg of imageio-ffmpeg. The file appears whole or not at all.

    Args:
        path: the file, .mp4 (H.264) or .gif.
        frames: at least one `Frame`. The scales of colours and markers are those of all frames together.
        teacher: the energy of the teacher, drawn on the left of each frame. None for none.
        view: the orientation of the map, (3, 3), as `view_of` returns it. None puts the x axis in the centre and the z
            axis in the north.
        fps: the number of frames per second, at least 1.
        rows: the number of pixels of a map from south to north.

    Returns:
        The path.

    Raises:
        ValueError: the suffix is not allowed, the folder does not exist, there is no frame, `fps` is below 1, particles
            or neurons are not in R^3, or an energy is not finite.
        ImportError: the package imageio-ffmpeg is not installed.

    >>> import tempfile
    >>> frames = [Frame(step, lambda x, step=step: step * x[:, 0]) for step in (0, 10)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     film(Path(folder) / "run.gif", frames).name
    'run.gif'
    """
    checks.package("imageio_ffmpeg", "a film", "imageio-ffmpeg")
    import imageio_ffmpeg

    path, frames = Path(path), list(frames)
    checks.choice("the suffix of path", path.suffix, (".mp4", ".gif"))
    if not path.parent.is_dir():
        raise ValueError(f"path is {str(path)!r}; its folder must exist")
    if not frames:
        raise ValueError("frames is empty; it must hold at least one Frame")
    for frame in frames:
        maps.check_particles(frame.particles)
    densities = [maps.density_map(frame.energy, rows, view).astype("float32") for frame in frames]
    neurons = [maps.neurons_of(frame.energy, frame.atoms) for frame in frames]
    first = {} if teacher is None else {"teacher": maps.density_map(teacher, rows, view)}
    taught = {} if teacher is None else {"teacher": maps.neurons_of(teacher, None)}
    largest = max(density.max() for density in [*first.values(), *densities])
    everyone = tuple(np.concatenate(parts) for parts in zip(*neurons, strict=True))
    with_particles = any(frame.particles is not None for frame in frames)
    named = {**first, "student": densities[0]}
    shown = {**taught, "student": everyone}
    figure, panels = maps.empty_maps(named, shown, "double", largest, with_particles, maps.caption_of(frames[0]))
    if teacher is not None:
        panels["teacher"].show(first["teacher"], taught["teacher"], None, view)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # all frames keep the layout of the first
    with matplotlib.rc_context({**STYLE, "animation.ffmpeg_path": imageio_ffmpeg.get_ffmpeg_exe()}):
        writer, dpi = FFMpegWriter(fps=fps), 160 if path.suffix == ".mp4" else 100
        with tempfile.TemporaryDirectory() as temporary:  # ffmpeg opens the file by its name
            made = Path(temporary) / path.name
            with writer.saving(figure, str(made), dpi=dpi):
                for frame, density, atoms in zip(frames, densities, neurons, strict=True):
                    panels["student"].show(density, atoms, frame.particles, view)
                    figure.suptitle(maps.caption_of(frame), fontsize=9)
                    writer.grab_frame()
            with made.open("rb") as whole:
                files.commit(path, lambda file: shutil.copyfileobj(whole, file))
    return path
