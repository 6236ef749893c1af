"""The folder of a sweep:

    sweep.json           what all lanes have in common, and the lanes of each part
    part-K/              the lanes of one static structure: a folder as in `dualebm.training.run_folder`, with results along (lane, step)

and, where several processes share the lanes, one such folder for each: process-I-of-P/. Where several share the particles of each lane,
a folder shard-I-of-P/ of each beside the parts has its checkpoints, and says how far it has come (see `dualebm.training.multihost`).
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray

from dualebm._internal import checks
from dualebm.methods.base import Divergence
from dualebm.sweeps.grid import Lane, identity
from dualebm.sweeps.plan import Plan, batch_size_of, check_lane, like_of, stacked_shapes
from dualebm.training import checkpoints, run_folder, sharding
from dualebm.training.fingerprint import check_settings, describe

SWEEP = "sweep.json"

OWN = re.compile(rf"part-\d+$|shard-\d+-of-\d+$|process-|\.{SWEEP}\.")
"""What a sweep that was killed at its beginning may have left."""


class Part(NamedTuple):
    """Lanes of one static structure, in a folder of their own."""

    folder: Path
    lanes: list[Lane]
    batch_size: int


def begin(plan: Plan, folder: Path, note: Any) -> list[Part]:
    """The parts of the folder, and new ones for the lanes that it does not have. Raises ValueError for a folder of something else."""
    known: list[dict] = []
    if (folder / SWEEP).exists():
        found = read(folder)
        check_settings(f"folder {folder}", found["settings"], plan.settings)
        known = found["parts"]
    elif names := sorted(path.name for path in folder.iterdir() if not OWN.match(path.name)):
        raise ValueError(f"folder {folder} holds other files ({', '.join(names[:3])}); give a new or an empty folder")
    index, count = plan.process
    mine = {identity(lane.settings): lane for lane in plan.lanes[index::count]}
    old = []
    for number, part in enumerate(known):
        lanes = [mine.get(identity(lane)) or Lane(-1, lane, None, None, None, None) for lane in part["lanes"]]
        old.append(Part(folder / f"part-{number}", lanes, part["batch_size"]))
    there = {identity(lane) for part in known for lane in part["lanes"]}
    groups = plan.study.groups([lane for name, lane in mine.items() if name not in there])
    likes = [like_of(plan, group[0]) for group in groups]
    for group, like in zip(groups, likes, strict=True):
        for lane in group:
            check_lane(plan, lane, like.data)
        if plan.mesh is not None:
            shapes = stacked_shapes(group[0], like, plan.mesh.shape[sharding.RUNS], split=True)
            sharding.check(plan.mesh, group[0].method, shapes, like.data)
    new = [
        Part(folder / f"part-{number}", group, batch_size_of(plan, group, like))
        for number, (group, like) in enumerate(zip(groups, likes, strict=True), start=len(known))
    ]
    for part, like in zip(new, likes, strict=True):
        part.folder.mkdir(exist_ok=True)
        names = part.lanes[0].settings
        run_folder.create_results(
            part.folder, plan.step, like.variables, chunk=(part.batch_size, plan.segment), lanes=len(part.lanes),
            coordinates={name: column([lane.settings[name] for lane in part.lanes]) for name in names},
            attributes=plan.attributes,
        )  # fmt: skip
        write_manifest(plan, part, 0, 0, {})
    if new:
        parts = [*known, *({"batch_size": p.batch_size, "lanes": [describe(x.settings) for x in p.lanes]} for p in new)]
        said = {"kind": "sweep", "format": checkpoints.FORMAT, "settings": plan.settings, "parts": parts, "note": note}
        text = json.dumps(said, indent=1)
        checkpoints.commit(folder / SWEEP, lambda path: path.write_text(text))
    return old + new


def column(values: list) -> np.ndarray:
    """Values of a setting as a coordinate; what is no number and no text is told by its description."""
    if all(isinstance(value, (bool, int, float, np.number)) for value in values):
        return np.asarray(values)
    return np.asarray([value if isinstance(value, str) else json.dumps(describe(value)) for value in values])


def write_manifest(plan: Plan, part: Part, batch: int, done: int, failed: dict[str, str]) -> None:
    """`batch` batches are done, and `done` records of the next; failed: position of a lane in the part -> why."""
    over = batch * part.batch_size >= len(part.lanes)
    said = {name: plan.attributes[name] for name in ("versions", "git_revision")}
    run_folder.write_manifest(
        part.folder,
        {
            "status": "done" if over else "running",
            "lanes": len(part.lanes),
            "batch_size": part.batch_size,
            "batch": batch,
            "records": done,
            "of": len(plan.step),
            "checkpoint": f"checkpoint-{batch}-{done}.npz" if done else None,
            "failed": failed,
            **said,
        },
    )


def part_manifest(part: Part) -> dict:
    """What `write_manifest` wrote; raises ValueError where there is none."""
    manifest = run_folder.read_manifest(part.folder)
    if manifest is None:
        raise ValueError(f"folder {part.folder} has no manifest; the sweep cannot be continued: give another folder")
    return manifest


# -- Reading ---------------------------------------------------------------------------------------


def read(folder: checkpoints.PathLike) -> dict:
    """What a sweep's folder, or that of one of its processes, says of itself: `settings`, and `parts` with their lanes.

    Raises FileNotFoundError where there is no sweep, ValueError for a corrupt file and one of another format version.
    """
    path = Path(folder) / SWEEP
    if not path.exists():
        raise FileNotFoundError(2, f"folder {folder} holds no sweep ({SWEEP})")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or corrupt ({error}); give another folder") from error
    checkpoints.check_format(path, found, "sweep")
    return found


def folders_of(folder: Path) -> list[Path]:
    """Of the processes, or the folder itself."""
    found = sorted(folder.glob("process-*-of-*"), key=lambda path: int(path.name.split("-")[1]))
    return [path for path in found if (path / SWEEP).exists()] or [folder]


def parts_of(folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    """The folders of the parts, and the settings of their lanes."""
    for own in folders_of(folder):
        for number, part in enumerate(read(own)["parts"]):
            yield own / f"part-{number}", part["lanes"]


def open_sweep(folder: checkpoints.PathLike, wanted: list[dict] | None = None) -> xarray.Dataset:
    """The results of a sweep, finished or running: metrics along (lane, step), the lanes' settings as coordinates.

    wanted: the settings of the lanes to return, in their order; None for all. NaN where nothing is written, -1 for integers;
    array-valued metrics of different shapes are filled up with NaN. Raises FileNotFoundError where there is no sweep.
    """
    found, lanes = [], []
    for path, settings in parts_of(Path(folder)):
        found.append(run_folder.open_results(path).drop_vars("lane"))
        lanes += settings
    largest = {dim: max(part.sizes.get(dim, 0) for part in found) for part in found for dim in part.dims if dim != "lane"}
    for i, part in enumerate(found):
        wider = {dim: (0, largest[dim] - size) for dim, size in part.sizes.items() if dim != "lane" and size < largest[dim]}
        found[i] = part.drop_vars([name for name in part.coords if name != "step"]).pad(wider)
    results = xarray.concat(found, "lane", data_vars="all", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    names = list(dict.fromkeys(name for settings in lanes for name in settings))  # in the order of the grid
    columns = {name: ("lane", column([settings.get(name, math.nan) for settings in lanes])) for name in names}
    results = results.assign_coords(columns)
    if wanted is not None:
        position = {identity(settings): i for i, settings in enumerate(lanes)}
        results = results.isel(lane=[position[identity(lane)] for lane in wanted])
    return results.assign_coords(lane=np.arange(results.sizes["lane"]))


def by_setting(results: xarray.Dataset, names: Iterable[str] | None = None) -> xarray.Dataset:
    """Results along settings, one dimension each, in place of `lane`: those named, or None for all that vary.

    Raises ValueError where the lanes are not a product of these settings.
    """
    coordinates = [str(name) for name, values in results.coords.items() if values.dims == ("lane",) and name != "lane"]
    varied = [name for name in coordinates if len(np.unique(results[name])) > 1] or coordinates[-1:]
    varied = varied if names is None else list(names)
    for name in varied:
        checks.choice("names", name, coordinates)
    if math.prod(len(np.unique(results[name])) for name in varied) != results.sizes["lane"]:
        raise ValueError(f"the {results.sizes['lane']} lanes are not a product of {', '.join(varied)}; use them along lane")
    rest = [name for name in coordinates if name not in varied]
    found = results.drop_vars([*rest, "lane"]).set_index(lane=varied)
    if len(varied) == 1:
        return found.rename(lane=varied[0])
    return found.unstack("lane").transpose(*varied, ...)


def manifest(folder: checkpoints.PathLike) -> list[dict[str, Any]]:
    """The lanes of a sweep, a dict each: `settings`, `part`, `state`, `step` and `why`.

    state: "done"; "running"; "waiting"; "diverged", in the interval that ends at `step`, with the cause; "failed", with the
    error. Raises FileNotFoundError where there is no sweep.
    """
    told = []
    for path, lanes in parts_of(Path(folder)):
        there = run_folder.read_manifest(path)
        if there is None:
            raise FileNotFoundError(2, f"folder {path} has no manifest")
        results = run_folder.open_results(path)
        codes, steps = results["diverged"].values, results["step"].values
        for i, settings in enumerate(lanes):
            batch = i // there["batch_size"]
            records = there["of"] if batch < there["batch"] else there["records"] if batch == there["batch"] else 0
            step = int(steps[records - 1]) if records else 0
            state, why = "done" if records == there["of"] else "running" if records else "waiting", ""
            broken = np.flatnonzero(codes[i, :records] > 0)
            if str(i) in there["failed"]:
                state, why = "failed", there["failed"][str(i)]
            elif len(broken):
                state, step, why = "diverged", int(steps[broken[0]]), Divergence(codes[i, broken[0]]).cause
            told.append(dict(settings=settings, part=str(path), state=state, step=step, why=why))
    return told
