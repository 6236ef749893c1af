"""Folders of models that are damaged or hostile, and what the command line says of them.

    python -m tests.heavy.hostile --models 300 --flips 100 --seed 0

A damaged folder has other bytes than those that were written. A hostile folder is one that somebody made: its digests are right, and its
values are not allowed. `dualebm score` and `dualebm sample` must refuse each of them in one line. The script counts what they did.
"""

import argparse
import collections
import contextlib
import copy
import functools
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dualebm import model, model_files
from dualebm._internal import files
from dualebm.base_families import Normal
from dualebm.base_kernels import KernelBase
from dualebm.base_mixtures import MixtureBase
from dualebm.bootstrap import Replicates
from dualebm.cli.main import main
from dualebm.data.preparation import Preparation
from dualebm.energies.boltzmann import BoltzmannMachine
from dualebm.energies.mixture import GaussianMixture
from dualebm.energies.networks import Perceptron
from dualebm.energies.shallow import Shallow
from dualebm.energies.tabulated import Tabulated
from dualebm.features import Bump, ReLU, ScaledBump
from dualebm.kernels import RBF, Embedding
from dualebm.log_z.estimate import LogPartitionEstimate
from dualebm.spaces import Euclidean, Sphere, Torus

ESTIMATE = LogPartitionEstimate(0.5, 0.01, 900.0, 1000, 0.3, "draws", 0.51, None)
NUMBERS = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(0.3 * NUMBERS.normal(size=shape), jnp.float32)


def models() -> dict[str, model.Model]:
    """One model of each kind of energy, on each space."""
    plane = Euclidean(2)
    kernels = KernelBase([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], [4.0, 1.0, 2.0])
    stacked = Euclidean(2, MixtureBase([0.5, 0.5], [Normal([0.0, 0.0], [[1.0, 0.2], [0.2, 2.0]]), kernels]))
    standardised = Preparation(stacked, ("a", "b"), mean=np.array([1.0, 2.0]), scale=np.array([2.0, 3.0]))
    bumps = ScaledBump(Euclidean(2), 0.5, 30.0)
    many = Shallow(bumps, jnp.concatenate([_normal(2, 3, 2), jnp.ones((2, 3, 1))], axis=2), _normal(2, 3))
    replicates = Replicates(many, (stacked.base, stacked.base), np.array([0.1, 0.2]))
    sphere = Sphere(3)
    return {
        "bumps": model.Model(Shallow(bumps, many.positions[0], many.coefficients[0]), standardised, ESTIMATE, 0.1, replicates),
        "ridges": model.Model(Shallow(ReLU(), jnp.eye(3), _normal(3)), Preparation(sphere, normalise=True), ESTIMATE, 0.1),
        "centres": model.Model(Shallow(Bump(Torus(2), 3.0), jnp.ones((2, 2)) / 3, _normal(2)), Preparation(Torus(2)), ESTIMATE, 0.001),
        "perceptron": model.Model(
            Perceptron([_normal(2, 4), _normal(4, 1)], [_normal(4), _normal(1)], "softplus"), Preparation(plane), ESTIMATE, 0.1
        ),
        "mixture": model.Model(
            GaussianMixture(_normal(2, 2), _normal(1), jnp.stack([jnp.eye(2)] * 2)), Preparation(plane), ESTIMATE, 0.1
        ),
        "machine": model.Model(BoltzmannMachine(_normal(3, 2), _normal(2), _normal(3)), Preparation(plane), ESTIMATE, 0.1),
        "table": model.Model(Tabulated(Torus(1), _normal(5)), Preparation(Torus(1)), ESTIMATE, 0.001),
        "embedding": model.Model(Embedding(RBF(), _normal(4, 2), _normal(4)), Preparation(plane), ESTIMATE, 0.1),
    }


ROWS = {"ridges": [[1.0, 0.5, 0.2], [0.1, -0.3, 0.4]], "centres": [[0.1, 0.9], [0.4, 0.5]], "table": [[0.1], [0.7]]}
"""Rows to score, by the name of the model."""


# -- Damage ----------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit of a file."""
    content, place = bytearray(path.read_bytes()), rng.randrange(8 * path.stat().st_size)
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return f"bit {place % 8} of byte {place // 8} of {path.name} flipped"


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, members: Iterator[tuple[str, bytes]] | Any, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def _bytes(array: Any, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def _poked(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def poke(array):
        array = array.copy()
        if array.size and array.dtype.kind == "f":
            array.reshape(-1)[array.size // 2] = value
        elif array.size:
            array = array.astype(float) * value
        return array

    return poke


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": _poked(math.nan), "infinite": _poked(math.inf), "minus infinite": _poked(-math.inf),
    "one shorter": lambda a: a[1:], "one longer": lambda a: np.concatenate([a, a[:1]]), "empty": lambda a: a[:0],
    "flat": lambda a: a.reshape(-1)[None, None], "a scalar": lambda a: a.reshape(-1)[0] if a.size else np.float32(0),
    "turned": lambda a: a.reshape(*a.shape[::-1], 1), "float16": lambda a: a.astype(np.float16),
    "of the other precision": lambda a: a.astype(np.float64 if a.dtype != np.float64 else np.float32),
    "integers": lambda a: a.astype(np.int32) + 1, "booleans": lambda a: a != 0, "text": lambda a: a.astype(str),
    "long integers": lambda a: a.astype(np.int64) + 1 if a.dtype != np.int64 else a.astype(np.int8),
    "complex": lambda a: a.astype(np.complex64), "objects": lambda a: a.astype(object),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")), "records": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "i4")]),
}  # fmt: skip
"""Changes of an array."""


def _altered(path: Path, name: str, change: str) -> None:
    members = _members(path)
    array = ARRAYS[change](np.load(io.BytesIO(members[name])))
    members[name] = _bytes(array, pickled=True)
    _write(path, members.items())


def _bomb(path: Path, name: str, compression: int) -> None:
    """Write an array of 200 MB that takes 200 kB, in place of a member."""
    members = _members(path)
    members[name] = _bytes(np.zeros(50_000_000, np.float32))
    _write(path, members.items(), compression)


def _overlapping(path: Path, name: str) -> None:
    """List one member many times, so that the archive says that it holds more than it has bytes."""
    members = list(_members(path).items())
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members:
            archive.writestr(each, content)
        for i in range(2000):
            info = copy.copy(archive.getinfo(name))
            info.filename = info.orig_filename = f"{name[:-4]}{i}.npy"
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info


def _lying(path: Path, name: str) -> None:
    """Let the header of an array claim 10^12 numbers."""
    members = _members(path)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    members[name] = head.getvalue() + bytes(64)
    _write(path, members.items())


ARCHIVES: dict[str, Callable[[Path, str], None]] = {
    "missing": lambda path, name: _write(path, ((n, c) for n, c in _members(path).items() if n != name)),
    "twice": lambda path, name: _write(path, [*_members(path).items(), (name, _bytes(np.ones(3, np.float32)))]),
    "a stranger beside": lambda path, name: _write(path, [*_members(path).items(), ("leaf.other.npy", _bytes(np.ones(3, np.float32)))]),
    "a path": lambda path, name: _write(path, [*_members(path).items(), ("../../escaped.npy", _bytes(np.ones(3)))]),
    "not an array": lambda path, name: _write(path, [*((n, c) for n, c in _members(path).items() if n != name), (name, b"hello")]),
    "a bomb": lambda path, name: _bomb(path, name, zipfile.ZIP_DEFLATED),
    "large": lambda path, name: _bomb(path, name, zipfile.ZIP_LZMA),
    "overlapping": _overlapping,
    "a lying header": _lying,
}


def _text(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _linked(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WHOLE: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: _text(path, path.read_bytes()[: path.stat().st_size // 2]), "empty": lambda path: _text(path, b""),
    "noise": lambda path: _text(path, random.Random(1).randbytes(3000)), "longer": lambda path: _text(path, path.read_bytes() + b"x"),
    "no file": lambda path: path.unlink(), "a folder": _folder, "a link": _linked,
    "a pipe": _pipe, "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name))[0],
    "a number": lambda path: _text(path, b"3"), "nothing": lambda path: _text(path, b"null"), "a list": lambda path: _text(path, b"[1]"),
    "nested": lambda path: _text(path, b"[" * 100_000 + b"]" * 100_000), "Latin": lambda path: _text(path, b'{"kind": "\xff"}'),
    "a long number": lambda path: _text(path, b'{"kind": ' + b"9" * 10_000 + b"}"),
}  # fmt: skip

VALUES: dict[str, Any] = {
    "missing": ..., "null": None, "true": True, "-1": -1, "0": 0, "3.5": 3.5, "NaN": math.nan, "infinity": math.inf,
    "minus infinity": -math.inf, "1e39": 1e39, "1e-320": 1e-320, "long": 10**400, "text": "x", "an empty list": [], "an empty object": {},
    "nested": [[[1.0]]], "many": [1.0] * 7, "a list of texts": ["x", "y"], "NaNs": [math.nan, math.nan], "negative": [-1.0, 1.0],
    "zeros": [0.0, 0.0], "an unknown class": {"name": "Klein", "fields": {}}, "no fields": {"name": "Sphere"},
    "foreign fields": {"name": "Sphere", "fields": {"code": "x"}}, "another class": {"name": "ReLU", "fields": {}},
    "a name that is a list": {"name": ["Sphere"], "fields": {}}, "fields that are a list": {"name": "Sphere", "fields": [3]},
}  # fmt: skip
"""Values that take the place of a value of a JSON file."""


def _places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """The places of all values in JSON, but of lists the first element alone."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for name, item in items:
        yield from _places(item, (*place, name))


def _set(content: Any, place: tuple, value: Any) -> Any:
    holder = content
    for name in place[:-1]:
        holder = holder[name]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return content


def _json(path: Path, place: tuple, value: Any) -> None:
    path.write_text(json.dumps(_set(json.loads(path.read_text()), place, value)))


def _header(path: Path, place: tuple, value: Any) -> None:
    members = _members(path)
    header = json.loads(str(np.load(io.BytesIO(members["header.npy"]))))
    members["header.npy"] = _bytes(np.array(json.dumps(_set(header, place, value))))
    _write(path, members.items())


def changes(folder: Path) -> list[tuple[str, Callable[[], Any]]]:
    """All changes of the folder of a model: what is said of each, and the function that makes it."""
    found: list[tuple[str, Callable[[], Any]]] = []

    def add(what, change, *arguments):
        found.append((what, functools.partial(change, *arguments)))

    for path in sorted(folder.glob("*.*")):
        for what, change in WHOLE.items():
            add(f"{path.name} is {what}", change, path)
        if path.suffix == ".json":
            for place, (what, value) in itertools.product(_places(json.loads(path.read_text())), VALUES.items()):
                add(f"{path.name} {place} is {what}", _json, path, place, value)
            continue
        for name, content in _members(path).items():
            for what, change in ARCHIVES.items():
                add(f"{path.name} {name} is {what}", change, path, name)
            if name == "header.npy":
                places = _places(json.loads(str(np.load(io.BytesIO(content)))))
                for place, (what, value) in itertools.product(places, VALUES.items()):
                    add(f"{path.name} header {place} is {what}", _header, path, place, value)
                continue
            for what in ARRAYS:
                add(f"{path.name} {name} is {what}", _altered, path, name, what)
    return found


# -- What becomes of it ----------------------------------------------------------------------------

SEALED = 0.5
"""The share of the changed folders whose digests are made right, so that the values alone can tell what is wrong."""

LONGEST = 200
"""The seconds after which a command counts as one that hangs."""


class Hang(BaseException):
    """A command takes too long."""


def _hang(number, frame):
    raise Hang


def call(*words: Any) -> tuple[str, str]:
    """Run a command. Return what it did: "refused" in one line, "traceback", "several lines" or "accepted"; and the text."""
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
    except Hang:
        return "hangs", ""
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    if code:
        lines = [line for line in err.getvalue().splitlines() if not line.startswith("note:")]
        return ("refused" if code == 2 and len(lines) == 1 and len(lines[0]) < 1200 else "several lines"), "\n".join(lines)
    return "accepted", out.getvalue()


def numbers(folder: Path, rows: Path) -> tuple[str, str, bytes]:
    """Score rows and draw samples. Return what the commands did, the text of the first that did not accept, and their numbers."""
    made = b""
    for words in (("score", folder, rows), ("sample", folder, "--count", 3)):
        path = rows.with_name(f"{words[0]}.npy")
        path.unlink(missing_ok=True)
        outcome, text = call(*words, "--out", path)
        if outcome != "accepted":
            if path.exists():
                return "half-written", text, b""
            return outcome, text, b""
        values = np.load(path)
        if not np.isfinite(values).all():
            return "not finite", f"{words[0]}: {values}", b""
        made += values.tobytes()
    return "accepted", "", made


def reseal(folder: Path) -> None:
    """Write the digests of `model.json` anew, as somebody would who makes the folder by intent."""
    path = folder / model_files.MODEL
    with contextlib.suppress(ValueError, OSError, AttributeError, TypeError, RecursionError):
        header = json.loads(path.read_text())
        header["files"] = {name: files.digest_of(folder / name) for name in header["files"]}
        header.pop(files.DIGEST)
        path.write_text(json.dumps({**header, files.DIGEST: files.digest(header)}))


def trial(count: int, flips: int, seed: int) -> tuple[collections.Counter, list[str]]:
    """Try so many changed models and so many bit flips. Return how many had each outcome, and in words those that were not refused."""
    rng, outcomes, bad = random.Random(seed), collections.Counter(), []
    with tempfile.TemporaryDirectory() as name:
        home, kinds = Path(name), models()
        whole, rows, expected = {}, {}, {}
        for kind, fitted in kinds.items():
            whole[kind], rows[kind] = home / "whole" / kind, home / f"{kind}.csv"
            whole[kind].mkdir(parents=True)
            model_files.save(whole[kind], fitted, {"data": {"file": "a.csv"}})
            np.savetxt(rows[kind], np.array(ROWS.get(kind, [[0.5, 0.2], [-1.0, 0.3]])), delimiter=",", comments="",
                       header="a,b" if kind == "bumps" else "")  # fmt: skip
            outcome, text, expected[kind] = numbers(whole[kind], rows[kind])
            assert outcome == "accepted", (kind, text)

        def one(kind: str, change: Callable[[Path], str], sealed: bool) -> None:
            folder = home / "model"
            shutil.copytree(whole[kind], folder)
            what = change(folder)
            if sealed:
                reseal(folder)
            outcome, text, made = numbers(folder, rows[kind])
            if outcome == "accepted":
                outcome = "the same numbers" if made == expected[kind] else "another model" if sealed else "other numbers"
            outcomes[outcome] += 1
            if outcome not in ("refused", "the same numbers"):
                bad.append(f"{kind}: {what}: {outcome} {' '.join(text.split())[:200]}")
            shutil.rmtree(folder)

        def changed(i: int, folder: Path) -> str:
            what, change = changes(folder)[i]
            change()
            return what

        def flipped(folder: Path) -> str:
            return flip(rng.choice(sorted(folder.iterdir())), rng)

        every = [(kind, i) for kind in kinds for i in range(len(changes(whole[kind])))]
        for kind, i in rng.sample(every, min(count, len(every))):
            one(kind, functools.partial(changed, i), rng.random() < SEALED)
        for _ in range(flips):
            one(rng.choice(list(kinds)), flipped, False)
    return outcomes, bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcomes, bad = trial(given.models, given.flips, given.seed)
    print("\n".join(bad))
    print(dict(outcomes))
