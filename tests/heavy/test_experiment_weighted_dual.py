"""The experiment from end to end, its estimate beside quadrature, and bad settings."""

import json

from experiments.weighted_dual import Settings, main


def test_end_to_end(tmp_path):
    rows = main(Settings(teachers=("s2_bimodal",), ratios=(10.0,), n=200, particles=2000, seeds=2, steps=40, out=tmp_path))
    by = {row["particles"]: row for row in rows}
    assert list(by) == ["weighted", "unweighted", "unweighted, audited"]
    audited = by["unweighted, audited"]
    assert abs(audited["off_at_end"]) < 5 * audited["error"] < 0.5 and by["unweighted"]["least_effective"] is None
    told = json.loads((tmp_path / "quick" / "report.json").read_text())
    assert (tmp_path / "quick" / "weighted_dual.png").stat().st_size > 10_000 and "off by at most" in told["summary"]
