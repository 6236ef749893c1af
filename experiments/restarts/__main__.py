"""From maximum likelihood to score matching by restarts of the particles, and restarts that are annealed (arXiv 2107.05134, Section 4).

    python -m experiments.restarts --preset quick
    python -m experiments.restarts --preset paper
    python -m experiments.restarts --preset paper --only annealed --teachers s14_monomodal

The restart probability p_R moves Algorithm 1 from maximum likelihood (p_R = 0) to score matching (p_R = 1, Proposition 3). A restart
is either of each particle by itself, at a data point drawn at random, with probability p_R (Bernoulli, the text), or of all particles
at once, at two copies of the data in order, every k = 1 / p_R iterations (periodic, the authors' program). Three studies, each a folder
under `--out` that survives a kill:

    noise       the witness F = E_particles phi - E_data phi one step after each kind of restart at p_R = 1: signal and noise
    continuum   KL, score error and total variation against p_R, by both restarts, for the authors' program and the same with MALA
    annealed    p_R from high to low over a warm-up (the paper's future work): shapes and lengths are chosen on some seeds and compared
                on others
"""

import dataclasses

from experiments import report
from experiments.restarts import annealed, continuum, noise
from experiments.restarts.problem import STUDIES, Settings, problems


def main(settings: Settings) -> None:
    """Runs the studies; each writes its figures and numbers into a folder of its own."""
    for name in STUDIES:
        problems(settings, name)  # raises what is not allowed before anything is computed
    studies = {"noise": noise.study, "continuum": continuum.study, "annealed": annealed.study}
    for name in settings.only:
        folder = settings.out / f"{settings.preset}_{name}"
        one = dataclasses.replace(settings, only=(name,))
        report.run("restarts", one, folder, lambda study=studies[name], folder=folder: study(settings, folder))


if __name__ == "__main__":
    report.script(main, Settings, __doc__)
