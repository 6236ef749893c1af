"""The folder of a sweep.

The folder holds

    sweep.json      the common settings of all runs, and the runs of each group
    group-K/        the runs of one static structure: a folder as in `dualebm.training.run_folder`, along (run, step)

Where several processes share the runs, each has such a folder, process-I-of-P/. Where several processes share the
particles of each run, each has a folder shard-I-of-P/ beside the groups, with its checkpoints and its status (see
`dualebm.training.multihost`).
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray

from dualebm._internal import checks, files, folders
from dualebm.methods.base import Divergence
from dualebm.settings import checked
from dualebm.sweeps.grid import Replica
from dualebm.sweeps.identity import identity, in_words
from dualebm.sweeps.plan import Plan, batch_size_of, check, like_of, shapes_of
from dualebm.training import run_folder, segments, sharding
from dualebm.training.descriptions import describe
from dualebm.training.fingerprint import check_settings, differences

SWEEP = "sweep.json"

UNFINISHED = re.compile(rf"group-\d+|shard-\d+-of-\d+|{folders.TEMPORARY.pattern}")
"""Names of the files that a sweep may have left that was killed before it wrote its header."""

class Group(NamedTuple):
    """Runs of one static structure, in a folder.

    Args:
        folder: The folder.
        replicas: The runs.
        batch_size: The number of runs in a batch.
    """

    folder: Path
    replicas: list[Replica]
    batch_size: int


def begin(plan: Plan, folder: Path, note: Any) -> list[Group]:
    """Return the groups of the folder, and new groups for the runs that it lacks.

    Args:
        plan: The plan of the sweep.
        folder: The folder of the sweep, which may be empty.
        note: JSON to store in the header.

    Returns:
        The groups.

    Raises:
        ValueError: When the folder holds something else or another sweep, or a run is not allowed.
    """
    stored: list[dict] = []
    begun = os.path.lexists(folder / SWEEP)
    if begun:
        header = read(folder)
        check_settings(f"folder {folder}", header["settings"], plan.each.settings)
        stored = header["groups"]
    elif names := [name for name in folders.names(folder) if not UNFINISHED.fullmatch(name)]:
        raise ValueError(f"folder {folder} holds other files ({', '.join(names[:3])}); give a new or an empty folder")
    required = {identity(replica.settings): replica for replica in plan.placement.share(plan.replicas)}
    old = []
    for number, group in enumerate(stored):
        replicas = [required.pop(identity(settings), Replica(-1, settings, None, None, None, None)) for settings in group["runs"]]
        old.append(Group(folder / f"group-{number}", replicas, group["batch_size"]))
    new = _new_groups(plan, folder, list(required.values()), len(stored))
    if new or not begun:
        groups = [*stored, *({"batch_size": g.batch_size, "runs": [describe(r.settings) for r in g.replicas]} for g in new)]
        files.write_json(folder / SWEEP, "sweep", {"settings": plan.each.settings, "groups": groups, "note": note})
    return old + new


def _new_groups(plan: Plan, folder: Path, replicas: list[Replica], first: int) -> list[Group]:
    """Return groups of runs that the folder lacks, numbered from `first` on, and create their folders.

    All errors are raised before anything is written.
    """
    structures = plan.study.groups(replicas)
    likes = [like_of(plan, members[0]) for members in structures]
    for members, like in zip(structures, likes, strict=True):
        for replica in members:
            check(plan, replica, like.data)
        if plan.mesh is not None:
            shapes = shapes_of(plan, members[0], like, plan.mesh.shape[sharding.RUNS])
            sharding.check(plan.mesh, members[0].method, shapes, like.data)
    groups = [
        Group(folder / f"group-{number}", members, batch_size_of(plan, members, like))
        for number, (members, like) in enumerate(zip(structures, likes, strict=True), start=first)
    ]
    for group in groups:
        if run_folder.has_records(group.folder):
            raise ValueError(
                f"{group.folder} holds records, and {folder / SWEEP} does not name it; restore that file, or give a new or an empty folder"
            )
    for group, like in zip(groups, likes, strict=True):
        folders.make(group.folder)
        names = group.replicas[0].settings
        run_folder.create_results(
            group.folder, plan.each.step, like.variables, chunk=(group.batch_size, plan.each.segment), runs=len(group.replicas),
            coordinates={name: column([replica.settings[name] for replica in group.replicas]) for name in names},
            attributes=plan.each.attributes,
        )  # fmt: skip
        write_manifest(plan, group, 0, 0, {})
    return groups


def column(values: list) -> np.ndarray:
    """Return the values of a setting as a coordinate. A value that is no number or text is described as JSON.

    Args:
        values: the values of the setting, one for each run.

    Returns:
        The coordinate, (runs,).
    """
    if all(isinstance(value, (bool, int, float, np.number)) for value in values):
        return np.asarray(values)
    return np.asarray([value if isinstance(value, str) else json.dumps(describe(value)) for value in values])


def write_manifest(plan: Plan, group: Group, batch: int, done: int, failed: dict[str, str]) -> None:
    """Replace the manifest of a group.

    Args:
        plan: The plan of the sweep.
        group: The group.
        batch: The number of batches done.
        done: The number of records done of the next batch.
        failed: For each position of a failed run in the group the reason.

    Raises:
        OSError: When the manifest cannot be written.
    """
    status = "done" if batch * group.batch_size >= len(group.replicas) else "running"
    segments.write_manifest(
        group.folder, "group", plan.each, status, done, checkpoint_name(batch, done) if done else None,
        runs=len(group.replicas), batch_size=group.batch_size, batch=batch, failed=failed,
    )  # fmt: skip


def checkpoint_name(batch: int, done: int) -> str:
    """Return the name of the file of the states of a batch.

    Args:
        batch: the number of the batch.
        done: the number of records that are done.

    Returns:
        The name.
    """
    return f"checkpoint-{batch}-{done}.npz"


def group_manifest(group: Group) -> dict:
    """Return the manifest of a group.

    Args:
        group: the group.

    Returns:
        The manifest.

    Raises:
        ValueError: the group has no manifest.
    """
    manifest = run_folder.read_manifest(group.folder, "group")
    if manifest is None:
        raise ValueError(f"folder {group.folder} has no manifest; the sweep cannot be continued: give another folder")
    return manifest


# -- Reading ---------------------------------------------------------------------------------------


@checked
def read(folder: files.PathLike) -> dict:
    """Return the header of a sweep's folder, or of the folder of one of its processes.

    Args:
        folder: the folder.

    Returns:
        The header, with the keys `settings`, `groups` and `note`.

    Raises:
        FileNotFoundError: the folder holds no sweep.
        ValueError: the file is damaged or of another format version.
    """
    path = Path(folder) / SWEEP
    if not os.path.lexists(path):
        raise FileNotFoundError(2, f"folder {folder} holds no sweep ({SWEEP})")
    return files.read_json(path, "sweep")


def folders_of(folder: Path) -> list[Path]:
    """Return the folders of the processes that share the runs, or the folder itself.

    Args:
        folder: the folder of a sweep.

    Returns:
        The folders.
    """
    folders = sorted(folder.glob("process-*-of-*"), key=lambda path: int(path.name.split("-")[1]))
    return [path for path in folders if (path / SWEEP).exists()] or [folder]


def groups_of(folder: Path) -> Iterator[tuple[Path, list[dict]]]:
    """Yield the folder of each group and the settings of its runs.

    Args:
        folder: the folder of a sweep.

    Yields:
        The folder of a group, and the settings of each of its runs.

    Raises:
        FileNotFoundError: the folder holds no sweep.
        ValueError: a file is damaged or of another format version, the processes had different settings, or a run is there twice.
    """
    places: dict[str, Path] = {}
    first, *_ = headers = {path: read(path) for path in folders_of(folder)}
    for path, header in headers.items():
        names = (f"in {first.name}", f"in {path.name}")
        if differing := differences(headers[first]["settings"], header["settings"], places=names):
            raise ValueError(f"folder {folder} has parts of different sweeps: {'; '.join(differing[:4])}; move one of them away")
        for number, group in enumerate(header["groups"]):
            place = path / f"group-{number}"
            for settings in group["runs"]:
                name = identity(settings)
                if name in places:
                    twice = f"{places[name].relative_to(folder)} and in {place.relative_to(folder)}"
                    raise ValueError(f"folder {folder} has the run {in_words(settings)} twice, in {twice}; move one of them away")
                places[name] = place
            yield place, group["runs"]


@checked
def open_sweep(folder: files.PathLike, wanted: list[dict] | None = None) -> xarray.Dataset:
    """Return the results of a sweep, finished or running: metrics along (run, step), with settings as coordinates.

    Values that are not written yet are NaN, or -1 in integer variables. Array-valued metrics of different shapes are
    padded with NaN to the largest.

    Args:
        folder: The folder of the sweep.
        wanted: The settings of the runs to return, in their order; None for all.

    Returns:
        The results.

    Raises:
        FileNotFoundError: When the folder holds no sweep.
        ValueError: When a file is damaged or of another format version, records that are done are missing, a run is there twice,
            or a wanted run is not there.
    """
    groups, runs = [], []
    for path, settings in groups_of(Path(folder)):
        groups.append(run_folder.open_results(path).drop_vars("run"))
        runs += settings
    if not groups:  # the folder of a process that has none of the runs
        return xarray.Dataset(coords={"run": np.arange(0)})
    largest = {dim: max(group.sizes.get(dim, 0) for group in groups) for group in groups for dim in group.dims if dim != "run"}
    for i, group in enumerate(groups):
        wider = {dim: (0, largest[dim] - size) for dim, size in group.sizes.items() if dim != "run" and size < largest[dim]}
        groups[i] = group.drop_vars([name for name in group.coords if name != "step"]).pad(wider)
    options: dict = dict(data_vars="all", coords="minimal", compat="override", join="exact", combine_attrs="drop_conflicts")
    results = xarray.concat(groups, "run", **options)
    names = list(dict.fromkeys(name for settings in runs for name in settings))  # in the order of the grid
    columns = {name: ("run", column([settings.get(name, math.nan) for settings in runs])) for name in names}
    results = results.assign_coords(columns)
    if wanted is not None:
        position = {identity(settings): i for i, settings in enumerate(runs)}
        if absent := [settings for settings in wanted if identity(settings) not in position]:
            raise ValueError(f"folder {folder} lacks the run {in_words(absent[0])}; wanted must name runs of the sweep")
        results = results.isel(run=[position[identity(settings)] for settings in wanted])
    return results.assign_coords(run=np.arange(results.sizes["run"]))


@checked
def by_setting(results: xarray.Dataset, names: Iterable[str] | None = None) -> xarray.Dataset:
    """Return results with settings as dimensions in place of `run`.

    Args:
        results: The results of a sweep, along (run, step).
        names: The settings that become dimensions; None for all settings that vary.

    Returns:
        The results along these settings and `step`.

    Raises:
        ValueError: When a name is not a setting, or the runs are not a product of these settings.
    """
    coordinates = [str(name) for name, values in results.coords.items() if values.dims == ("run",) and name != "run"]
    varied = [name for name in coordinates if len(np.unique(results[name])) > 1] or coordinates[-1:]
    varied = varied if names is None else list(names)
    for name in varied:
        checks.choice("names", name, coordinates)
    if math.prod(len(np.unique(results[name])) for name in varied) != results.sizes["run"]:
        raise ValueError(f"names is {varied}; the {results.sizes['run']} runs are not a product of these: use the results along run")
    rest = [name for name in coordinates if name not in varied]
    indexed = results.drop_vars([*rest, "run"]).set_index(run=varied)
    if len(varied) == 1:
        return indexed.rename(run=varied[0])
    return indexed.unstack("run").transpose(*varied, ...)


@checked
def manifest(folder: files.PathLike) -> list[dict[str, Any]]:
    """Return the state of each run of a sweep.

    The state is "waiting", "running", "done", "diverged" or "failed". A diverged run has the end of the interval in which it diverged as
    its `step`, and the cause as `why`. A failed run has the error as `why`.

    Args:
        folder: the folder of a sweep.

    Returns:
        The runs, each a dictionary with the keys `settings`, `group`, `state`, `step` and `why`.

    Raises:
        FileNotFoundError: the folder holds no sweep, or a group has no manifest.
        ValueError: a file is damaged or of another format version, or records that are done are missing.
    """
    runs = []
    for path, members in groups_of(Path(folder)):
        stored = run_folder.read_manifest(path, "group")
        if stored is None:
            raise FileNotFoundError(2, f"folder {path} has no manifest")
        results = run_folder.open_results(path)
        codes, steps = results["diverged"].values, results["step"].values
        for i, settings in enumerate(members):
            batch = i // stored["batch_size"]
            records = stored["of"] if batch < stored["batch"] else stored["records"] if batch == stored["batch"] else 0
            step = int(steps[records - 1]) if records else 0
            state, why = "done" if records == stored["of"] else "running" if records else "waiting", ""
            broken = np.flatnonzero(codes[i, :records] > 0)
            if str(i) in stored["failed"]:
                state, why = "failed", stored["failed"][str(i)]
            elif len(broken):
                state, step, why = "diverged", int(steps[broken[0]]), Divergence(codes[i, broken[0]]).cause
            runs.append(dict(settings=settings, group=str(path), state=state, step=step, why=why))
    return runs
