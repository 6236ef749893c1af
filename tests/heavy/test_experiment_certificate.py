"""The certificate of a run beside its loss, found by another way."""

import json

import jax
import jax.numpy as jnp
import pytest

from dualebm.energies.shallow import Shallow
from dualebm.features import ReLU
from dualebm.log_z.quadrature import log_partition
from dualebm.measures import Samples
from dualebm.methods.base import Iterate
from dualebm.methods.dual import Dual
from experiments.certificate import runs
from experiments.certificate.__main__ import main
from experiments.certificate.reading import read
from experiments.certificate.recorded import Excess
from experiments.certificate.runs import LINES, Settings, checked, lines, scene_of, trained


@pytest.fixture
def few(monkeypatch):
    """Two methods, a coarse quadrature and few iterations."""
    monkeypatch.setattr(runs, "NODES", 24)
    monkeypatch.setitem(runs.CERTIFIED, "quick", 2)
    return LINES[:2]


def test_end_to_end_and_again_from_its_folders(tmp_path, capsys, few):
    settings = Settings(teachers=("s2_bimodal",), methods=few, steps=40, chains=100, final_chains=100, out=tmp_path, first_seed=3)
    rows = main(settings)
    assert {row["method"] for row in rows} == {*few} and {row["end"] for row in rows} == {"last", "before"}
    for row in rows:
        assert row["error"] is None and 0 <= row["distance"] < row["bound"] + 1e-3 and row["bound"] < row["gap"]  # weak duality
        assert row["gain"] < row["distance"] + 1e-3
    found = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(found["figures"]) == {"certificate_s2_bimodal.png", "certificate_particles.png"}
    assert "within(0.02)" in found["summary"] and "--teachers s2_bimodal" in found["command"]
    again = main(settings)
    seconds = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert seconds == [{k: v for k, v in row.items() if k != "seconds"} for row in again]
    assert "does not end early" in capsys.readouterr().out


def test_the_excess_is_the_difference_of_losses_by_quadrature(x64):
    """And from samples of the teacher within 5 of its errors."""
    found = scene_of(checked(Settings()), "s2_bimodal", 0)
    target, nodes = found.target, found.target.quadrature(nodes=60)
    theta = jax.random.normal(jax.random.key(0), (5, 3))
    energy = Shallow(ReLU(), theta / jnp.linalg.norm(theta, axis=1, keepdims=True), jnp.linspace(-4, 2, 5))

    class Fixed:
        energy = staticmethod(lambda state, rates, data: energy)

    losses = [float(e(found.data.points).mean() + log_partition(e, nodes)) for e in (energy, target.energy)]
    value, error = Excess(target.energy, found.test)(None, Iterate(Fixed, None, None, found.data))
    assert float(value) == pytest.approx(losses[0] - losses[1], abs=1e-4) and float(error) == 0
    base = target.space.sample_base(jax.random.key(1), 200_000, jnp.float32)
    kept = jax.random.uniform(jax.random.key(2), (200_000,)) < jnp.exp(-target.energy(base) + target.min_energy)
    value, error = Excess(target.energy, Samples(base[kept]))(None, Iterate(Fixed, None, None, found.data))
    assert abs(float(value) - (losses[0] - losses[1])) < 5 * float(error) < 0.1


def test_a_run_on_s14_is_certified_by_samples(tmp_path):
    """Its bound is at least what the polished energy gains on test points of the teacher, and below the gap without a polish."""
    settings = checked(Settings(steps=20, n=100, chains=500, final_chains=500, test_points=4000, out=tmp_path))
    found = scene_of(settings, "s14_monomodal", 0)
    line = lines(settings, "s14_monomodal")[LINES[0]]
    made = trained(settings, "s14_monomodal", found, LINES[0], line._replace(method=Dual(found.target.space, neurons=8)), 0)
    bound, error, _ = made.gaps["bound"][-1]
    gained = made.excess[-1, 0] - made.gaps["polished"][0]
    assert bound > gained - 4 * error and bound < made.gaps["gap"][-1, 0] and made.gaps["particles"].shape == (1, 3)
    reading = read({(LINES[0], 0): made})[LINES[0]]
    assert reading.distance.min() >= 0 and reading.gaps["gap"].shape == (1, 1, 2)
