"""Descriptions tell settings apart in every process, and provenance what the numbers come from."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualebm.features import Custom
from dualebm.spaces import Sphere, Torus
from dualebm.training import fingerprint


def test_descriptions_tell_settings_apart():
    class Metric(eqx.Module):
        points: jax.Array
        units: str = eqx.field(static=True, default="nat")

    def scaled(factor):
        return lambda step, rates: factor * step

    pairs = [
        (Sphere(3), Sphere(4)),
        (Sphere(3), Torus(3)),
        (Metric(jnp.zeros(2)), Metric(jnp.ones(2))),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2, np.float32), np.zeros(2)),
        (scaled(0.1), scaled(0.2)),
        (jax.jit(scaled(0.1)), jax.jit(scaled(0.2))),
        (lambda x: 0.5 * x, lambda x: 0.25 * x),
        (jax.tree_util.Partial(scaled, 0.1), jax.tree_util.Partial(scaled, 0.2)),
        (jax.random.key(0), jax.random.key(1)),
        (Custom(jnp.dot, Sphere(3)), Custom(jnp.vdot, Sphere(3))),
    ]
    for a, b in pairs:
        described = fingerprint.describe({"it": a}), fingerprint.describe({"it": b})
        assert json.loads(json.dumps(described[0])) == described[0] == fingerprint.describe({"it": a})
        assert "0x" not in json.dumps(described)
        assert fingerprint.differences(*described) != []
        assert fingerprint.differences(described[0], described[0]) == []


def test_differences_are_counted_beyond_four():
    stored, current = dict.fromkeys("abcdef", 0), dict.fromkeys("abcdef", 1)
    with pytest.raises(ValueError, match=r"a is 0 on disk and 1 in this call; .*; d is 0 on disk and 1 in this call; and 2 more; give"):
        fingerprint.check_settings("folder x", stored, current)


def test_provenance_names_versions_and_revision():
    found = fingerprint.provenance()
    assert found["versions"]["jax"] == jax.__version__ and found["versions"]["python"].startswith("3.")
    assert found["backend"] == jax.default_backend() and found["device_count"] == jax.device_count()


def test_provenance_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "settings.py"))
    assert fingerprint.provenance()["git_revision"] is None
    monkeypatch.setenv("PATH", "")
    assert fingerprint.provenance()["git_revision"] is None
