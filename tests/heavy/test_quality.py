"""How near samples of a model are to rows: of its own law, of another, and by the command."""

import jax
import jax.numpy as jnp

from dualebm import quality
from dualebm.spaces import Sphere
from tests.package.test_quality import STEPS, base, free


def test_more_rows_than_are_compared_are_drawn_from(monkeypatch):
    monkeypatch.setattr(quality, "ROWS", 400)
    space = Sphere(3)
    rows = base(space)
    rows = rows[jnp.argsort(rows[:, 0])]  # in an order that tells the first 400 from a draw
    found = quality.quality(jax.random.key(0), free(space), rows, 500, steps=STEPS)
    assert found["rows"] == 400 and found["energy_distance"] < 0.02
