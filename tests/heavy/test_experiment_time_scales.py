"""The experiment on time scales: its runs, its numbers on known curves, and a small study from end to end."""

import json

from experiments.time_scales.__main__ import Settings, main


def test_a_study_from_end_to_end(tmp_path, capsys):
    settings = Settings(only=("radius",), steps=20, seeds=1, test_points=100, out=tmp_path)
    main(settings)
    for name in settings.only:
        folder = tmp_path / f"quick_{name}"
        rows = json.loads((folder / "report.json").read_text())["rows"]
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert len(rows) == 27
        assert all(row["least"] <= row["final"] <= row["largest"] for row in rows if isinstance(row["final"], float))
    assert ": python -m experiments.time_scales --preset quick --only radius --seeds 1" in capsys.readouterr().out
