"""The benchmark of flags: its law, its draws of settings, its shares, and bad inputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flags
from benchmarks.flags import DIMENSIONS, MAKE, Settings, configuration, law, log_law, main, summary
from dualebm.spaces import Euclidean


def test_the_law_is_that_of_its_draws():
    """Masses and moments of the draws, and E (q / p) = 1 for a wider normal q."""
    x, log_density = law(jax.random.key(0), 20_000, 3)
    assert np.mean(x[:, 0] < 0) == pytest.approx(0.3 * 0.952 + 0.7 * 0.048, abs=0.02)
    assert x.mean(axis=0) == pytest.approx([0.4, 0, 0], abs=0.03) and x[:, 1].std() == pytest.approx(0.6, rel=0.03)
    z = np.random.default_rng(0).normal(size=(200_000, 3)) * 1.3
    log_q = -0.5 * np.sum((z / 1.3) ** 2, axis=1) - 3 * np.log(1.3 * np.sqrt(2 * np.pi))
    assert np.mean(np.exp(log_law(z) - log_q)) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(log_density, log_law(x))
    base = Euclidean(3).log_base(jnp.zeros((1, 3)))  # a normalised density, as the benchmark needs
    assert float(base[0]) == pytest.approx(-1.5 * np.log(2 * np.pi))


def test_settings_span_two_decades_and_every_method():
    drawn = [configuration(Settings(), number) for number in range(200)]
    assert {one["method"] for one in drawn} == set(MAKE) and {one["dimension"] for one in drawn} == set(DIMENSIONS)
    factors = np.log10([factor for one in drawn for factor in one["factors"].values()])
    assert factors.min() > -1 and factors.max() < 1 and factors.min() < -0.95 and factors.max() > 0.95
    named = {one["method"]: set(one["factors"]) for one in drawn}
    assert named["jarzynski"] == {"particle_step", "learning_rate"} and "reaction_step" in named["dual"] & named["weighted_dual"]


def test_shares_and_continuation(tmp_path, monkeypatch, capsys):
    """Runs that are in the file are not run again, and a part runs its own."""
    made = []

    def outcome(settings, number):
        made.append(number)
        bad = number % 2 == 0
        return dict(method="jarzynski", dimension=1, bad=bad, flags=["x"] * (number % 4 == 0), true=0.02 * number)

    monkeypatch.setattr(flags, "outcome", outcome)
    file = tmp_path / "flags.json"
    main(Settings(count=8, part="1/2", json=file))
    assert made == [1, 3, 5, 7]
    main(Settings(count=8, json=file))
    assert made == [1, 3, 5, 7, 0, 2, 4, 6] and len(json.loads(file.read_text())["runs"]) == 8
    out = capsys.readouterr().out
    assert "8 runs, 4 bad: 2 of them flagged (50%)" in out and "4 good: 0 of them flagged" in out and "jarzynski 3 of 8" in out
    with pytest.raises(ValueError, match="give a new file"):
        main(Settings(count=8, seed=1, json=file))
    assert "no runs" not in summary([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(part="4/4"), "part is '4/4'"),
        (dict(part="all"), "part is 'all'"),
        (dict(steps=150), "steps is 150"),
        (dict(count=0), "count is 0"),
        (dict(methods=("jarzinski",)), "did you mean 'jarzynski'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        main(Settings(**changes))


@pytest.mark.heavy
def test_one_configuration_end_to_end():
    """The true log Z by the law and by an estimate agree, and what a short training of a good configuration says is true."""
    drawn = [configuration(Settings(), i) for i in range(100)]
    number = next(i for i, one in enumerate(drawn) if (one["method"], one["dimension"]) == ("contrastive", 2))
    found = flags.outcome(Settings(steps=200), number)
    assert found["by_law"] == pytest.approx(found["estimate"], abs=0.1) and abs(found["says"] - found["true"]) < 0.1
