"""Folders that are held, the files in them, checksums, and what is not followed, replaced or removed."""

import errno
import fcntl
import json
import os
import runpy
import shutil
import sys
import warnings

import numpy as np
import pytest
import xarray
from matplotlib.figure import Figure

from dualebm._internal import files, folders
from dualebm.training import run_folder
from tests.package.test_run_folder import a_store, some_records


def one_line(error) -> str:
    text = error.value.strerror if isinstance(error.value, OSError) and error.value.strerror else str(error.value)
    assert "\n" not in text
    return text


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def put(path, content=b"new"):
    files.commit(path, lambda file: file.write(content))


# -- Held folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [False, True])
def test_a_folder_that_was_removed_or_begun_anew_gets_no_file_of_the_old_run(tmp_path, anew):
    folder = tmp_path / "run"
    with folders.hold(folder):
        put(folder / "a")
        shutil.rmtree(folder)
        if anew:
            folder.mkdir()
        for write in (lambda: put(folder / "b"), lambda: folders.make(folder / "inner")):
            with pytest.raises(OSError) as error:
                write()
            assert f"folder {folder} was removed, moved or replaced" in one_line(error) and error.value.errno == errno.ESTALE
    assert not anew or not list(folder.iterdir())
    put(tmp_path / "c")  # a folder that nobody holds


def test_a_folder_that_is_replaced_before_the_lock_is_not_held(tmp_path, monkeypatch):
    def slow(descriptor, operation):
        (tmp_path / "run").rename(tmp_path / "moved")

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(OSError, match="was removed, moved or replaced"), folders.hold(tmp_path / "run"):
        pass
    assert not folders._held


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_what_to_do(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError) as error, folders.hold(tmp_path):
        pass
    assert error.value.errno == number
    text = one_line(error)
    assert f"folder {tmp_path} cannot be locked ({os.strerror(number)})" in text and "give a folder on a local disk" in text


def test_windows_is_told_of_in_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match="dualebm runs on Linux and macOS; on Windows install it in WSL"):
        runpy.run_path(folders.__file__)


def test_the_next_holder_removes_temporary_files_and_no_others(tmp_path):
    """In the folder and in its results."""
    a_store(tmp_path)
    kept = [tmp_path / ".mine.tmp", tmp_path / ".dualebm-mine.tmp", tmp_path / "results.zarr" / "kl" / "c.9.partial"]
    left = [place / folders.temporary_name() for place in (tmp_path, tmp_path / "results.zarr", tmp_path / "results.zarr" / "kl")]
    for path in (*kept, *left):
        path.touch()
    with folders.hold(tmp_path):
        run_folder.clean(tmp_path)
    assert [path.exists() for path in (*kept, *left)] == [True] * 3 + [False] * 3


# -- Links ---------------------------------------------------------------------------------------------


def test_links_within_a_held_folder_are_not_followed(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "manifest.json").write_text("mine")
    folder.mkdir()
    (folder / "results.zarr").symlink_to(outside)
    (folder / "manifest.json").symlink_to(outside / "manifest.json")
    (tmp_path / "named").symlink_to(folder)  # the folder that the user names may be a link
    with folders.hold(tmp_path / "named"):
        here = tmp_path / "named" / "results.zarr"
        for touch in (
            lambda: put(here / "a"), lambda: folders.make(here / "kl"), lambda: folders.names(here), lambda: folders.remove_temporary(here),
            lambda: a_store(tmp_path / "named"), lambda: folders.read(folder / "manifest.json"), lambda: folders.refuse_link(here),
            lambda: run_folder.read_manifest(folder),
        ):  # fmt: skip
            with pytest.raises(OSError) as error:
                touch()
            assert "is a symbolic link, and links within a folder of runs are not followed" in one_line(error), touch
        put(folder / "manifest.json")  # takes the place of the link
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"manifest.json": "mine"}
    assert (folder / "manifest.json").read_bytes() == b"new" and not (folder / "manifest.json").is_symlink()


def test_a_temporary_name_that_is_taken_is_not_opened(tmp_path, monkeypatch):
    names = {folders.temporary_name() for _ in range(50)}
    assert len(names) == 50 and all(folders.TEMPORARY.fullmatch(name) for name in names)
    monkeypatch.setattr(folders, "temporary_name", lambda: "taken")
    (tmp_path / "taken").symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError):
        put(tmp_path / "a")
    assert not (tmp_path / "outside").exists()


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(ValueError, match="is no file of bytes"):
            folders.read(tmp_path / name)


# -- The disk --------------------------------------------------------------------------------------------


def test_every_file_and_folder_is_flushed(tmp_path, monkeypatch):
    """In the order in which they are needed: what lies in a folder before its name, and `zarr.json` of the store last."""
    flushed = []
    monkeypatch.setattr(folders, "flush", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    folder = tmp_path / "a" / "b"
    with folders.hold(folder):
        a_store(folder)
        store = folder / "results.zarr"
        inside = [path for path in store.rglob("*") if path.is_file() and path.parent != store]
        last = flushed.index((store / "zarr.json").stat().st_ino)
        assert all(flushed.index(path.stat().st_ino) < last for path in inside)
        run_folder.write_results(folder, {name: v[:2, :3] for name, v in some_records(5, 3).items()})
        run_folder.write_manifest(folder, {"checkpoint": None})
    assert not [path for path in (tmp_path, *tmp_path.rglob("*")) if path.stat().st_ino not in flushed]


def test_a_figure_that_cannot_be_drawn_or_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_text("old")
    for broken in (lambda self, file, **_: file.write(b"half") and 1 / 0, None):
        with monkeypatch.context() as patch:
            if broken:
                patch.setattr(Figure, "savefig", broken)
            else:
                patch.setattr(folders, "create", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises((ZeroDivisionError, OSError)):
                files.commit_figure(path, Figure())
        assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    files.commit_figure(path, Figure())
    assert path.read_bytes()[1:4] == b"PNG"


# -- Checksums -------------------------------------------------------------------------------------------


def test_no_byte_of_a_json_file_changes_unnoticed(tmp_path):
    path = tmp_path / "note.json"
    files.write_json(path, "note", {"records": 12, "why": "é", "none": None})
    whole, content = files.read_json(path, "note"), path.read_bytes()
    assert whole["records"] == 12
    for place in range(0, len(content), 3):
        path.write_bytes(flipped(content, place))
        try:
            assert files.read_json(path, "note") == whole
        except ValueError as error:
            assert str(path) in str(error)
    path.write_text(json.dumps({"kind": "note", "format": files.FORMAT}))
    with pytest.raises(ValueError, match="states no SHA-256, as files of earlier versions"):
        files.read_json(path, "note")


def test_damage_of_results_names_the_file(tmp_path):
    a_store(tmp_path)
    run_folder.write_results(tmp_path, {name: v[:2, :3] for name, v in some_records(5, 3).items()})
    run_folder.write_manifest(tmp_path, {"checkpoint": None, "records": 3, "of": 7, "batch": 0}, "group")
    whole = run_folder.open_results(tmp_path).load()
    store = tmp_path / "results.zarr"
    chunk, coordinate, root = (store / name for name in ("kl/c.0.0", "radius/c.0", "zarr.json"))
    for path in (chunk, coordinate, root):
        content = path.read_bytes()
        for damaged in (content[:-1], content[:3], b"", flipped(content, len(content) // 2)):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"^{path} is (truncated or corrupt|not as dualebm wrote it)[^\n]*$"):
                run_folder.open_results(tmp_path).load()
        path.unlink()
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            run_folder.open_results(tmp_path)
        assert str(path) in str(error.value)
        path.write_bytes(content)
    late = run_folder.open_results(tmp_path)
    chunk.unlink()
    with pytest.raises(ValueError, match=f"^{chunk} is missing, although its records were written"):
        late.load()
    run_folder.write_manifest(tmp_path, {"checkpoint": None, "records": 0, "of": 7, "batch": 0}, "group")
    assert np.isnan(run_folder.open_results(tmp_path).kl).all() and not np.isnan(whole.kl).all()


def test_records_of_no_numbers_are_not_missed(tmp_path):
    run_folder.create_results(tmp_path, np.arange(2), {"none": run_folder.Variable((0,), "float32", {})}, chunk=(1, 2))
    run_folder.write_results(tmp_path, {"none": np.zeros((1, 2, 0), "float32")})
    run_folder.write_manifest(tmp_path, {"checkpoint": None, "records": 2, "of": 2})
    assert run_folder.open_results(tmp_path).load().none.shape == (1, 2, 0)


def test_xarray_alone_reads_the_same_without_a_warning(tmp_path):
    a_store(tmp_path, coordinates={"radius": np.linspace(1, 2, 5), "name": np.array(list("abcde"))})
    run_folder.write_results(tmp_path, {name: v[:2, :3] for name, v in some_records(5, 3).items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_zarr(tmp_path / "results.zarr", chunks=None) as found:
            xarray.testing.assert_equal(found.load(), run_folder.open_results(tmp_path).load())
            assert set(found.coords) == {"run", "step", "radius", "name"}


# -- What is replaced or removed -----------------------------------------------------------------------------


def test_only_files_that_are_named_here_are_removed(tmp_path):
    for name in ("checkpoint-3.npz", "checkpoint-0-3.npz", "checkpoint-6.npz", "checkpoint-best.npz", ".mine.tmp"):
        (tmp_path / name).touch()
    run_folder.write_manifest(tmp_path, {"checkpoint": "checkpoint-6.npz"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.tmp", "checkpoint-6.npz", "checkpoint-best.npz", "manifest.json"]


@pytest.mark.parametrize("name", ["notes.txt", "kl/notes.txt", "kl/c.0.0.bak"])
def test_a_store_with_other_files_is_not_replaced(tmp_path, name):
    a_store(tmp_path)
    (tmp_path / "results.zarr" / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"{name} is no file of dualebm"):
        a_store(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "results.zarr" / name).unlink()
    a_store(tmp_path)


def test_an_error_before_anything_is_written_leaves_no_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    for out, left in (("new/run", ["mine"]), ("mine", ["mine"])):
        with pytest.raises(ValueError, match="too many"), folders.hold(tmp_path / out):
            raise ValueError("too many")
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    with pytest.raises(ValueError, match="later"), folders.hold(tmp_path / "begun"):
        (tmp_path / "begun" / "manifest.json").touch()
        raise ValueError("later")
    assert (tmp_path / "begun" / "manifest.json").exists()


def test_an_error_removes_no_folder_of_another_run(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="stop"), folders.hold(folder):
        folder.rename(tmp_path / "old")
        folder.mkdir()
        raise ValueError("stop")
    assert folder.exists()
