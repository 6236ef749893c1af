"""The compilation cache of the command line: what is kept and dropped. No entry and no folder stops a command or changes a number."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as of_jax

from dualebm.cli import cache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the cache is used on Linux")

HITS = []
jax.monitoring.register_event_listener(lambda name, **_: HITS.append(1) if name == "/jax/compilation_cache/cache_hits" else None)
X = np.linspace(0.1, 1.2, 7, dtype=np.float32)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's cache folder is empty, and JAX has no cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache, "SECONDS", 0.0)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    of_jax.reset_cache()
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)
    of_jax.reset_cache()


def number(factor=2.0):
    """A number of a program that is compiled anew, and how many programs were loaded instead."""
    HITS.clear()
    value = float(jax.jit(lambda x: jnp.sum(jnp.sin(factor * x) @ jnp.outer(x, x)))(X))
    return value, len(HITS)


def command(factor=2.0):
    with cache.compilation_cache(enabled=True):
        return number(factor)


def folder_of(home):
    (folder,) = (home / "dualebm").iterdir()
    return folder


def entries(home):
    return {path.name: path.read_bytes() for path in folder_of(home).glob("*-cache")}


def test_a_program_is_stored_once_and_loaded_with_the_same_number(home, capfd):
    expected = number()[0]
    settings = {name: value for name, value in jax.config.values.items() if "cache" in name}
    assert command() == (expected, 0)
    stored = entries(home)
    assert len(stored) == 1 and command() == (expected, 1) and entries(home) == stored
    assert settings == {name: value for name, value in jax.config.values.items() if "cache" in name}
    assert number() == (expected, 0)
    assert [path.stat().st_mode & 0o777 for path in (home / "dualebm", folder_of(home))] == [0o700, 0o700]
    assert capfd.readouterr() == ("", "")


def flip(folder, entry):
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0x55
    entry.write_bytes(content)


SPOILT = {
    "flipped": flip,
    "truncated": lambda folder, entry: entry.write_bytes(entry.read_bytes()[:-20]),
    "empty": lambda folder, entry: entry.write_bytes(b""),
    "without a digest": lambda folder, entry: (folder / cache.DIGESTS).write_text("{}"),
    "no digests": lambda folder, entry: (folder / cache.DIGESTS).unlink(),
    "digests of a killed command": lambda folder, entry: (folder / cache.DIGESTS).write_text('{"jit'),
    "digests of another kind": lambda folder, entry: (folder / cache.DIGESTS).write_text("[1]"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_entry_is_compiled_and_stored_again(home, capfd, spoil):
    expected = command()
    folder = folder_of(home)
    (entry,) = folder.glob("*-cache")
    spoil(folder, entry)
    assert command() == expected and command() == (expected[0], 1)
    assert capfd.readouterr() == ("", "")


def test_an_entry_that_jax_cannot_load_is_named_and_the_next_command_starts_anew(home, capfd):
    expected = command()
    with cache.compilation_cache(enabled=True):
        flip(folder_of(home), next(folder_of(home).glob("*-cache")))
        assert number() == expected
    error = capfd.readouterr().err
    assert error.startswith(f"note: the compilation cache in {folder_of(home)} failed: Error reading persistent") and error.count("\n") == 1
    assert json.loads((folder_of(home) / cache.DIGESTS).read_text()) == {}
    assert command() == expected and command() == (expected[0], 1) and capfd.readouterr().err == ""


def test_an_entry_that_changes_while_a_command_runs_is_compiled_again(home, capfd):
    expected = command()
    with cache.compilation_cache(enabled=True):
        flip(folder_of(home), next(folder_of(home).glob("*-cache")))
    assert command() == expected and command() == (expected[0], 1)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_removed_or_cannot_be_written_stops_nothing(home, capfd):
    expected = number()
    with cache.compilation_cache(enabled=True):
        number(3.0)
        folder = folder_of(home)
        shutil.rmtree(home)
        assert number() == expected
    error = capfd.readouterr().err
    assert error.startswith(f"note: the compilation cache in {folder} failed: ") and error.count("\n") == 1


def link(folder):
    other = folder.rename(folder.with_name("other"))
    folder.symlink_to(other)


REFUSED = {
    "is no folder, or is a link": link,
    "other users can write to": lambda folder: folder.chmod(0o770),
    "chmod 700": lambda folder: folder.chmod(0o702),
    "is no folder": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("level", ["parent", "folder"])
@pytest.mark.parametrize(("message", "change"), REFUSED.items(), ids=REFUSED)
def test_a_folder_that_others_could_change_is_not_used(home, capfd, message, change, level):
    expected = command()
    folder = folder_of(home)
    change(folder if level == "folder" else folder.parent)
    assert command() == expected and command() == expected
    lines = capfd.readouterr().err.splitlines()
    start = f"note: the compilation cache in {home / 'dualebm'} is not used: "
    assert len(lines) == 2 and all(line.startswith(start) and message in line for line in lines)


def test_a_folder_of_another_user_is_not_used(home, capfd, monkeypatch):
    expected = command()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert command() == expected
    assert "belongs to another user" in capfd.readouterr().err


@pytest.mark.parametrize("bound", ["ENTRIES", "BYTES"])
def test_the_entries_unused_for_longest_are_dropped_beyond_the_bounds(home, monkeypatch, bound):
    for index, factor in enumerate((2.0, 3.0, 4.0)):
        command(factor)
        for path in set(folder_of(home).glob("*-cache")):
            if path.stat().st_mtime > 1e9:  # a new one
                os.utime(path, (1e8 + index, 1e8 + index))
    sizes = sorted(path.stat().st_size for path in folder_of(home).glob("*-cache"))  # to read an entry is to use it
    monkeypatch.setattr(cache, bound, 2 if bound == "ENTRIES" else sizes[-1] + sizes[-2])
    with cache.compilation_cache(enabled=True):
        pass
    assert len(entries(home)) == 2 == len(json.loads((folder_of(home) / cache.DIGESTS).read_text()))
    assert [command(factor)[1] for factor in (3.0, 4.0, 2.0)] == [1, 1, 0]


def test_nothing_is_done_without_leave_or_where_jax_has_a_cache(home, tmp_path, monkeypatch):
    with cache.compilation_cache(enabled=False):
        number()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    command()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "darwin")
    command()
    assert not home.exists()
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        with cache.compilation_cache(enabled=True):
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")


def test_the_loader_is_silent_and_messages_of_python_are_shown(home):
    program = (
        "import jax, logging; from dualebm.cli import cache; cache.SECONDS = 0.0; log = logging.getLogger('jax._src.xla_bridge')\n"
        "with cache.compilation_cache(True):\n print(float(jax.jit(lambda x: x + 1)(1.0))); log.warning('no GPU'); log.info('more')\n"
        "assert jax.config.values['jax_logging_level'] == 'NOTSET' and log.parent.level == logging.NOTSET"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
        assert run.stdout == "2.0\n" and run.stderr.endswith("no GPU\n") and run.stderr.count("\n") == 1
    assert entries(home)
