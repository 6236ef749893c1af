"""How near samples of a model are to rows: of its own law, of another, and by the command."""

import jax
import jax.numpy as jnp

from dualebm import quality
from dualebm.spaces import Sphere
from tests.package.test_quality import STEPS, base, free, score


def test_more_rows_than_are_compared_are_drawn_from(monkeypatch):
    monkeypatch.setattr(quality, "ROWS", 400)
    space = Sphere(3)
    rows = base(space)
    rows = rows[jnp.argsort(rows[:, 0])]  # in an order that tells the first 400 from a draw
    found = quality.quality(jax.random.key(0), free(space), rows, 500, steps=STEPS)
    assert found["rows"] == 400 and found["energy_distance"] < 0.02


def test_the_seed_is_of_the_samples_and_the_scores_are_as_without(folder, capsys):
    runs = {
        flags: score(capsys, folder / "fit", folder / "own.csv", *flags)
        for flags in [(), ("--quality", 50), ("--quality", 50, "--seed", 0), ("--quality", 50, "--seed", 1)]
    }
    plain, zero, again, one = runs.values()
    assert plain[1] == zero[1] == one[1] and "samples of the model" not in plain[2]
    assert zero == again and zero[2].startswith(plain[2]) and zero[2] != one[2]
