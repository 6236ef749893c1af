"""Strictness for every test: annotated shapes are checked at run time, warnings are errors, rank promotion raises."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of child processes too; set 0 for a suite that compiles as users do
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # One program is compiled once, whichever test, worker or child process asks for it first: compiling is most of the suite's time.
    cache = tempfile.mkdtemp(prefix="dualebm-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # each program that is loaded would else be a warning of the compiler's own preferences
    }

import pytest
from jaxtyping import install_import_hook

install_import_hook("dualebm", "strict.typecheck")

import jax  # noqa: E402, after the hook

from dualebm.sweep import drop_programs  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
compiles = {"quick": QUICK}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Tests marked `optimised` compile as users do (production sizes, the hot path), the others without most optimisations.

    That takes a quarter off the suite. Programs are dropped after a file, or its doctests, where they have become many; the cache on disk
    has them still.
    """
    quick = QUICK and item.get_closest_marker("optimised") is None
    if quick != compiles["quick"]:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()  # a program that is there would serve
        compiles["quick"] = quick
    result = yield
    if nextitem is None or nextitem.path != item.path:
        drop_programs()
    return result


@pytest.fixture
def x64():
    """float64 for the length of a test."""
    with jax.enable_x64(True):
        yield
