"""The experiment from end to end, its estimates beside plain formulas, and bad settings."""

import json

import numpy as np

from experiments.gradient_bias import (
    METHODS,
    Settings,
    main,
)


def test_end_to_end(tmp_path):
    rows = main(Settings(energies=("mixture",), methods=METHODS, n=200, walkers=200, seeds=2, steps=20, out=tmp_path))
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["ms_a_step"] > 0 and np.isfinite(row["log_Z"]) and np.isfinite(row["KL"]) for row in rows)
    by = {row["method"]: row for row in rows}
    assert by["CD-1"]["gradient_half"] > 3 * by["Jarzynski"]["gradient_half"]
    told = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(told["figures"]) == {"gradient_bias.png"} and (tmp_path / "quick" / "gradient_bias.png").stat().st_size > 10_000
