"""Strictness for every test: annotated shapes are checked at run time, warnings are errors, rank promotion raises."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from jaxtyping import install_import_hook

install_import_hook("dualebm", "strict.typecheck")

import jax  # noqa: E402, after the hook

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """float64 for the length of a test."""
    with jax.enable_x64(True):
        yield
