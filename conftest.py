"""What every test runs under: warnings are errors, rank promotion raises, and a run compiles in one way.

Each folder of `tests` is a run, which imports only what it needs. `package`, with the examples in docstrings, is what `python -m pytest`
runs: it compiles quickly, without most optimisations, as compiling is nearly all of its time. `optimised` compiles as users do: production
sizes, the hot path. `experiments` guards the experiments and the benchmarks. `site` builds the pages of `docs` and guards the docstrings.
`heavy` is minutes of work; `-m heavy` collects all folders, and compiles as users do.
"""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has one core, and threads that wait for each other would take both
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # One program is compiled once, whichever test, worker or child process asks for it first.
    cache = tempfile.mkdtemp(prefix="dualebm-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # each program that is loaded would else be a warning of the compiler's own preferences
    }

import jax
import pytest
from jaxtyping import install_import_hook

import tests.strict  # noqa: F401, which the hook names

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 100)  # tracing makes many objects that live on: to look through them often costs 6% of the time
TESTS = Path(__file__).parent / "tests"
QUICKLY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_multi_thread_eigen=false"


def names(config, folder) -> bool:
    """Whether an argument of the command lies in a folder of the tests."""
    return any(Path(argument.partition("::")[0]).resolve().is_relative_to(TESTS / folder) for argument in config.args)


def pytest_configure(config):
    """Sets how this process and its children compile; checks annotations at run time in the run of the package alone."""
    if names(config, "heavy") and config.option.markexpr == "not heavy":
        config.option.markexpr = "heavy"
    if names(config, "optimised") or names(config, "site") or config.option.markexpr != "not heavy":
        return
    if not names(config, "experiments"):
        install_import_hook("dualebm", "tests.strict.typecheck")
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "0":
        return
    jax.config.update("jax_disable_most_optimizations", True)
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:  # here are no workers yet
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}"
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        if subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0:  # XLA knows them
            os.environ["XLA_FLAGS"] = flags


def pytest_ignore_collect(collection_path, config):
    """Skips folders that are runs of their own, unless an argument names them or `-m` selects other tests than the default."""
    if collection_path.parent != TESTS or config.option.markexpr != "not heavy":
        return None
    unasked = collection_path.name in ("optimised", "experiments", "site", "heavy") and not names(config, collection_path.name)
    return True if unasked else None


def pytest_collection_modifyitems(items):
    """Marks every test in the folder `heavy` as heavy."""
    for item in items:
        if item.path.is_relative_to(TESTS / "heavy"):
            item.add_marker("heavy")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Drops compiled programs after each file once they hold many memory maps; the cache on disk keeps them."""
    from dualebm.sweeps.engine import drop_programs

    result = yield
    if nextitem is None or nextitem.path != item.path:
        drop_programs()
    return result


@pytest.fixture(autouse=True, scope="session")
def powered(request):
    """Flushes nothing to the disk in the quick run, whose machine keeps its power: a flush takes milliseconds. The heavy run flushes."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.option.markexpr == "not heavy":
            patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def x64():
    """float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The name of each precision, that of JAX for the length of a test."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
