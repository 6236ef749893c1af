"""The experiment on active and lazy training: its teachers beside quadratures, its reading beside loops, a small one from end to end."""

import json

import numpy as np
import pytest
import xarray

from dualebm.sweeps.selection import Selection
from experiments.active_lazy import runs
from experiments.active_lazy.__main__ import main
from experiments.active_lazy.runs import Settings, counts_of, teacher


def test_rows_and_figures_of_known_numbers(tmp_path, monkeypatch):
    """KL = 2 / n of F1 and 6 / n of F2, with a spread that parts them for the first loss alone."""

    def solve(settings, name, loss, regime):
        counts, over = counts_of(settings, loss), runs.OVER["quick"][loss, regime]
        n = np.repeat(counts, 2)
        kl = (2 if regime == "active" else 6) / n * np.tile([0.9, 1.1] if loss == "ksd" else [0.0, 2.0], len(counts))
        variables = {"kl": ("run", kl), "cross_entropy": (("run", "cross_entropy_0"), np.stack([kl - 1, kl], axis=1))}
        chosen = [dict(n=count, **{name: values[-1] for name, values in over.items()}) for count in counts]
        best = xarray.Dataset(variables, {"n": ("run", n)})
        return Selection(best, chosen, best, best)

    monkeypatch.setattr(runs, "solve", solve)
    monkeypatch.setattr(runs, "MOST", {"f1_sd": 20})
    main(Settings(teachers=("J1_w2", "J2_w5"), losses=("ksd", "f1_sd"), n=(20, 50), out=tmp_path))
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    cases = [("ksd", 15, 20), ("ksd", 15, 50), ("f1_sd", 10, 20)]
    told = [(row["teacher"], row["loss"], row["d"], row["n"]) for row in said["rows"]]
    assert told == [(name, *case) for name in ("J1_w2", "J2_w5") for case in cases]
    for row in said["rows"]:
        for label, scale in (("F1", 2), ("F2", 6)):
            mean, part = scale / row["n"], 0.1 if row["loss"] == "ksd" else 1.0
            assert row[f"{label}_KL"] == pytest.approx(mean) and row[f"{label}_CE"] == pytest.approx(mean - 1)
            assert [row[f"{label}_KL_std"], row[f"{label}_CE_std"]] == pytest.approx([mean * part * np.sqrt(2)] * 2)
        assert row["ratio"] == pytest.approx(3)
        assert row["teacher_CE"] == pytest.approx(-teacher(row["teacher"], row["d"]).kl_to_uniform)
        assert row["F1_chosen"] == ("0.5 0" if row["loss"] == "ksd" else "10 0")
    assert "in 4 of 6 rows" in said["summary"]
    assert list(said["figures"]) == ["active_lazy_J1_w2.png", "active_lazy_J2_w5.png"]
    for name in said["figures"]:
        assert (tmp_path / "quick" / name).stat().st_size > 10_000


def test_from_end_to_end(tmp_path, monkeypatch, capsys):
    losses = tuple(runs.LOSSES)
    for name, value in dict(NEURONS=8, CRITICS=4, DIMENSION=6, DIMENSION_F1_SD=5, TEST=200, DRAWS=500).items():
        monkeypatch.setattr(runs, name, value)
    monkeypatch.setattr(runs, "STEPS", {"quick": dict.fromkeys(losses, 20)})
    monkeypatch.setattr(runs, "VALIDATION", dict.fromkeys(losses, 50))
    main(Settings(n=(20,), out=tmp_path))
    said = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert [(row["loss"], row["d"], row["n"]) for row in said["rows"]] == [(loss, 5 if loss == "f1_sd" else 6, 20) for loss in losses]
    for row in said["rows"]:
        assert row["teacher_CE"] == pytest.approx(-teacher("J1_w10", row["d"]).kl_to_uniform)
        numbers = [value for name, value in row.items() if name not in ("teacher", "loss", "F1_chosen", "F2_chosen")]
        assert all(isinstance(value, (int, float)) and np.isfinite(value) for value in numbers)
        assert row["ratio"] == pytest.approx(row["F2_KL"] / row["F1_KL"])
        for label, regime in (("F1", "active"), ("F2", "lazy")):
            over = runs.OVER["quick"][row["loss"], regime]
            for value, allowed in zip(row[f"{label}_chosen"].split(), over.values(), strict=True):
                assert float(value) in allowed
            # the cross-entropy less that of the teacher is the KL, up to the noise of 200 points and 500 draws
            assert row[f"{label}_CE"] - row["teacher_CE"] == pytest.approx(row[f"{label}_KL"], abs=0.3)
    assert "--n 20" in said["command"] and "of 4 rows" in said["summary"]
    assert said["summary"] in capsys.readouterr().out
    assert list(said["figures"]) == ["active_lazy_J1_w10.png"]
    assert (tmp_path / "quick" / "active_lazy_J1_w10.png").stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "quick") == sorted(
        f"quick_J1_w10_{loss}_{regime}" for loss in losses for regime in runs.REGIMES
    )
