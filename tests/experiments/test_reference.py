"""Curves hold the numbers they were given."""

import numpy as np
import pytest

from experiments.reference import author_primal, author_runs, author_sphere2


def test_the_authors_curves_are_the_published_numbers():
    """The archived values of the authors' runs, and the figure of S^2 against the archive of the same run."""
    mono = author_runs("d15_mono_n1e4_p_R=1/40")
    assert mono["KL"]["mean"][-1] == pytest.approx(0.0194, abs=1e-4)
    assert np.all(mono["SM"]["min"] <= mono["SM"]["mean"]) and np.all(mono["SM"]["mean"] <= mono["SM"]["max"])
    primal = author_primal()
    assert len(primal["iterations"]) < 200 and np.all(np.diff(primal["iterations"]) > 0)
    assert [round(float(primal["KL"][kind][-1]), 4) for kind in ("min", "mean", "max")] == [0.0045, 0.0053, 0.0063]
    archive, drawn = author_runs("d3_bimodal_n1000_p_R=1"), author_sphere2("1")
    late = archive["iterations"] >= 400
    for quantity in ("KL", "SM", "TV"):
        read = np.interp(archive["iterations"][late], drawn["iterations"], drawn[quantity]["mean"])
        np.testing.assert_allclose(read, archive[quantity]["mean"][late], rtol=0.05)
    with pytest.raises(ValueError, match="did you mean 'd3_bimodal_n1000_p_R=1/60'"):
        author_runs("d3_bimodal_n1000_p_R=1/6")
