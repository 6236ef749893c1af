"""The main paths with the lowest and with the newest versions of all packages that `pyproject.toml` allows.

    python -m pip install -e '.[release]'
    python -m tests.bounds

For each of the two it makes a fresh virtual environment, installs the package in it with the packages of the extra `test`, and goes the
main paths: every module is imported; a fit on a file, its scores, samples and figures; a sweep that is interrupted and continued, and
ends with the numbers of one that was not; two processes that share particles; the estimator, a film and files of other kinds. The first
error ends it with exit code 1. `--folder` keeps the environments, whose packages are then installed once.
"""

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
"""The words of uv for the two sets of versions."""

FIT = shlex.split("--space euclidean --base normal --feature relu --neurons 4 --stages 3 --iterations 4 --draws 64 --paths 2")
SELECT = shlex.split(
    "--space euclidean --standardise --neurons 4 --particles 32 --steps 20 --every 2 --radius 1,5 --seed 0,1 --repeats 7,8"
)
SWEEP = shlex.split("--teacher s2_bimodal --n 64 --neurons 8 --test-points 50 --alpha 1 --every 20 --seed 0:2")


# -- The environments ----------------------------------------------------------------------------------


def install(folder: Path, resolution: str) -> Path:
    """The interpreter of a fresh environment with the package, installed as users install it."""
    python, uv = folder / "bin" / "python", [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--clear", "--quiet", "--python", sys.executable, folder], check=True)
    packages = ["--python", python, "--resolution", resolution, "--reinstall-package", "dualebm", f"dualebm[test] @ {ROOT.as_uri()}"]
    subprocess.run([*uv, "pip", "install", "--quiet", *packages], check=True)
    return python


def versions(python: Path) -> str:
    """The packages that `pyproject.toml` names, with their versions there."""
    words = re.findall(r'^\s+"([\w-]+)[><=!]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    program = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    return subprocess.run([python, "-c", program, *dict.fromkeys(words)], check=True, capture_output=True, text=True).stdout.strip()


# -- The main paths, in one of them --------------------------------------------------------------------


def dualebm(*words, expected: int = 0) -> str:
    """The output of the command, which must end with the expected exit code."""
    done = subprocess.run(command(*words), capture_output=True, text=True)
    assert done.returncode == expected, f"dualebm {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def command(*words) -> list[str]:
    return [sys.executable, "-m", "dualebm.cli.main", *map(str, words)]


def modules():
    """Every module can be imported."""
    import importlib
    import pkgutil

    import dualebm

    assert not Path(dualebm.__file__).is_relative_to(ROOT), "the package must be the one that was installed"
    for module in pkgutil.walk_packages(dualebm.__path__, "dualebm."):
        importlib.import_module(module.name)


def a_fit():
    """A fit on a CSV with its scores, samples and figures, and one on the rows that ship with the package."""
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((60, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    np.savetxt("rows.csv", rows, "%.9g", ",", header="a,b", comments="")
    dualebm("fit", "rows.csv", *FIT, "--out", "fit")
    dualebm("score", "fit", "rows.csv", "--out", "scores.csv")
    dualebm("sample", "fit", "--count", 100, "--out", "samples.csv")
    dualebm("show", "fit")
    assert np.isfinite(np.loadtxt("scores.csv", delimiter=",", skiprows=1)).all()
    assert np.loadtxt("samples.csv", delimiter=",", skiprows=1).shape == (100, 2)
    dualebm("example")
    words = shlex.split("--space sphere --latlon --method dual --steps 100 --every 20 --out volcanoes")
    dualebm("fit", "volcanoes.csv", *words)


def a_sweep():
    """A sweep, and the same one interrupted and continued."""
    import xarray

    from dualebm.sweeps.folder import open_sweep

    words = ["sweep", *SWEEP, "--steps", "20000", "--out"]
    dualebm(*words, "whole")
    process = subprocess.Popen(command(*words, "halves"), stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(Path("halves").glob("group-*/checkpoint-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "the sweep ended before it was interrupted"
    dualebm("sweep", "--resume", "--out", "halves")
    xarray.testing.assert_equal(open_sweep("whole").load(), open_sweep("halves").load())
    dualebm("show", "halves")
    dualebm("runs", "halves")
    dualebm("select", "rows.csv", *SELECT, "--out", "select")


def processes():
    """Two processes that share the particles of each run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["sweep", *SWEEP, "--steps", "40", "--out", "both", "--coordinator", place, "--process"]
    started = [subprocess.Popen(command(*words, f"{i}/2"), stderr=subprocess.PIPE, text=True) for i in range(2)]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)


def python():
    """The estimator, files of other kinds and the optional packages."""
    import jax
    import numpy as np
    import pandas
    from scipy.stats import norm

    import dualebm
    from dualebm.data import tables
    from dualebm.plotting import films

    frame = pandas.read_csv("rows.csv")
    estimator = dualebm.EnergyModel(space="euclidean", base="normal", feature="relu", neurons=4, stages=3, iterations=4, draws=64, paths=2)
    estimator.fit(frame)
    assert np.isfinite(estimator.score_samples(frame)).all() and norm.cdf(0) == 0.5
    estimator.to_arviz(40)
    frame.to_parquet("rows.parquet")
    frame.to_excel("rows.xlsx", index=False)
    for suffix in ("parquet", "xlsx"):
        np.testing.assert_array_equal(tables.read(f"rows.{suffix}").rows, frame)
    dualebm.to_netcdf("halves/group-0", "halves.nc")
    films.film("film.mp4", [films.Frame(step, lambda x, step=step: step * x[:, 0]) for step in (0, 10)])
    assert jax.device_count() == 1


PATHS = (modules, a_fit, a_sweep, processes, python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RESOLUTIONS, help="one of the two")
    parser.add_argument("--folder", type=Path, help="the folder of the environments; otherwise a temporary one")
    parser.add_argument("--here", action="store_true", help="go the main paths in this environment and this folder, which must be empty")
    given = parser.parse_args()
    if given.here:
        for path in PATHS:
            begun = time.perf_counter()
            path()
            print(f"  {path.__name__}: {time.perf_counter() - begun:.0f} s", flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in [given.only] if given.only else RESOLUTIONS:
            interpreter = install((given.folder or Path(temporary)).resolve() / name, RESOLUTIONS[name])
            print(f"{name}: {versions(interpreter)}", flush=True)
            place = Path(tempfile.mkdtemp(dir=temporary))
            apart = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
            done = subprocess.run([interpreter, __file__, "--here"], cwd=place, env={"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg", **apart})
            if done.returncode:
                sys.exit(f"error: the main paths failed with the {name} versions")


if __name__ == "__main__":
    main()
