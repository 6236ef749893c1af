"""The experiment from end to end at toy size, its energy and closed forms beside NumPy, and its bad inputs."""

import json

from experiments import two_modes as experiment
from experiments.two_modes import Settings, main


def test_end_to_end_and_again_from_its_folders(tmp_path, capsys):
    settings = Settings(duration=4000.0, seeds=2, out=tmp_path)
    rows = main(settings)
    assert [row["run"] for row in rows] == [run for run in (*experiment.JARZYNSKI.values(), "PCD", "unweighted") for _ in range(2)]
    assert all(row["held"] and row["crossed"] == 0 for row in rows)
    report = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert set(report["figures"]) == {"two_modes.png"} and "--duration 4000.0 --seeds 2" in report["command"]
    assert main(settings) == rows
    assert "Jarzynski, exact 2 of 2" in capsys.readouterr().out
