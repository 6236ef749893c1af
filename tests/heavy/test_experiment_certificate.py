"""The certificate of a run beside its loss, found by another way; the descent that finds the least loss; bad inputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
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
from experiments.certificate.recorded import Descent, Excess
from experiments.certificate.runs import LEAST, LINES, Settings, checked, lines, scene_of, trained


@pytest.fixture
def few(monkeypatch):
    """Two methods, a coarse quadrature and few iterations."""
    monkeypatch.setitem(runs.METHODS, "quick", 2)
    monkeypatch.setitem(runs.NODES, "quick", 16)
    monkeypatch.setitem(runs.CERTIFIED, "quick", 2)
    return LINES[:2]


def test_end_to_end_and_again_from_its_folders(tmp_path, capsys, few):
    settings = Settings(teachers=("s2_bimodal",), steps=40, chains=100, final_chains=100, out=tmp_path, first_seed=3)
    rows = main(settings)
    exact = [row for row in rows if row["samples"] == "quadrature" and row["ball"] == "full"]
    assert {row["method"] for row in exact} >= {*few, LEAST, "default, half, stop within 0.1"}
    for row in exact:
        assert row["error"] == 0 and (row["distance"] is None or 0 <= row["distance"] < row["gap"] + 1e-3)  # weak duality
    found = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(found["figures"]) == {"certificate.png", "certificate_particles.png"}
    assert "(by quadrature)" in found["summary"] and "--teachers s2_bimodal" in found["command"]
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


def test_the_descent_falls_in_every_step(tmp_path):
    settings = checked(Settings(out=tmp_path))
    found = scene_of(settings, "s2_bimodal", 0)
    method = Descent(found.target.space, neurons=16, particles=2, teacher="s2_bimodal")
    rates = method.rates._replace(transport_step=0.1, reaction_step=0.1)
    state = Dual(found.target.space, neurons=16, particles=2).init(jax.random.key(0), rates, found.data)
    excess, step, values = Excess(found.target.energy, found.test), jax.jit(method.step), []
    for _ in range(10):
        values.append(float(excess(None, Iterate(method, state, rates, found.data))[0]))
        state, _ = step(jax.random.key(0), state, rates, found.data)
    assert all(np.diff(values) < 0) and values[0] - values[-1] > 0.03


def test_a_run_on_s14_is_certified_by_samples_of_two_kinds(tmp_path):
    """Annealed, and of the teacher reweighted: within 5 of their errors at their own theta*."""
    settings = checked(Settings(steps=20, n=100, chains=500, final_chains=500, test_points=4000, out=tmp_path))
    found = scene_of(settings, "s14_monomodal", 0)
    line = lines(settings, "s14_monomodal")[LINES[0]]
    _, made = trained(settings, "s14_monomodal", found, LINES[0], line._replace(method=Dual(found.target.space, neurons=8)), 0)
    (gap, error), (known, known_error) = made.gaps["gap"][-1], made.gaps["known"]
    assert abs(gap - known) < 5 * np.hypot(error, known_error) and made.gaps["particles"].shape == (1, 3)
    reading = read({(LINES[0], 0): made})[LINES[0]]
    assert reading.distance.min() == 0 and reading.gaps["gap"].shape == (1, 1, 2)
