"""The settings of arXiv 2107.05134: `Dual` as the paper's text and as its authors' program have it, and rates in either convention."""

from dualebm._internal import checks
from dualebm.geometry import Space
from dualebm.methods.dual import Dual, DualRates
from dualebm.settings import checked


def text(space: Space, **changes) -> Dual:
    """Return `Dual` with the settings of the paper's text: i.i.d. noise, random signs, projected steps.

    The weights are uniform in [0, 1) times the radius. The default number of particles is 2 n, at two copies of the
    data.

    Args:
        space: the space of the data and the particles.
        **changes: other fields of `Dual`, such as `particles`.

    >>> from dualebm.spaces import Sphere
    >>> text(Sphere(15), particles=200_000).noise
    'independent'
    """
    preset = dict(integrator="projected", noise="independent", signs="random", first_weights="uniform", weight_unit="radius")
    return Dual(space, **{**preset, **changes})


def program(space: Space, **changes) -> Dual:
    """Return `Dual` with the settings of the authors' program for arXiv 2107.05134: antithetic noise, two copies of
    the data, all signs -1, weights 1, projected steps.

    `program_rates` returns the rates of the archived runs.

    Args:
        space: the space of the data and the particles.
        **changes: other fields of `Dual`, such as `restart_every`.

    >>> from dualebm.spaces import Sphere
    >>> program(Sphere(15), restart_every=40).integrator
    'projected'
    """
    return Dual(space, **{**dict(integrator="projected", signs="all_negative"), **changes})


@checked
def rates_from_paper(
    step_size: float, ratio: float, beta: float, restart_probability: float = 0.0, scale: str = "fast"
) -> DualRates:
    """Return the rates for the step size s, the ratio alpha and the inverse temperature beta of the paper's text, whose
    ball has radius 1.

    They are particle_step s_x / beta, both neuron steps s_theta, and radius beta. Weights are beta times those of the
    text: use `weight_unit="radius"`.

    Args:
        step_size: s > 0.
        ratio: alpha >= 0, the ratio of the neurons' step to the particles' step.
        beta: the inverse temperature, > 0.
        restart_probability: p_R in [0, 1].
        scale: what s is: "particle", for s_x = s and s_theta = s alpha (Algorithm 1); or "fast", the step of the faster
            process, for s_x = s / max(alpha, 1) and s_theta = s min(alpha, 1) (Section 5).

    Returns:
        The rates in the convention of this package, where the temperature is 1.

    Raises:
        ValueError: an argument is not finite or out of its bounds.

    >>> rates_from_paper(0.2, 1.0, 10.0)
    DualRates(particle_step=0.02, transport_step=0.2, reaction_step=0.2, restart_probability=0.0, radius=10.0)
    """
    checks.number("step_size", step_size, positive=True)
    checks.number("ratio", ratio)
    checks.number("beta", beta, positive=True)
    checks.number("restart_probability", restart_probability, largest=1)
    checks.choice("scale", scale, ("fast", "particle"))
    shrink = max(ratio, 1) if scale == "fast" else 1
    particle, neuron = step_size / shrink, step_size * ratio / shrink
    return DualRates(particle / beta, neuron, neuron, restart_probability, beta)


@checked
def rates_from_program(hx: float, hz: float, hw: float, budget: float) -> DualRates:
    """Return the rates for the parameters of the authors' program for arXiv 2107.05134, which uses the convention of this package.

    Args:
        hx: the particle step, > 0.
        hz: the step of the neurons' positions, >= 0.
        hw: the step of the logarithms of the neurons' weights, >= 0.
        budget: the largest total variation, > 0.

    Returns:
        The rates, with restart probability 0.

    Raises:
        ValueError: an argument is not finite or out of its bounds.

    >>> rates_from_program(0.02, 0.2, 0.2, 10.0).transport_step
    0.2
    """
    checks.number("hx", hx, positive=True)
    checks.number("hz", hz)
    checks.number("hw", hw)
    checks.number("budget", budget, positive=True)
    return DualRates(hx, hz, hw, 0.0, budget)


def program_rates(restart_every: int | None = None, hz: float = 0.2, hw: float | None = None, hx: float = 0.02) -> DualRates:
    """Return the rates of the authors' archived runs, whose budget is 10.

    The neuron steps are hz and hw without restarts, and these times 1 + 0.1 / (k hx) for restarts in every k-th iteration.

    Args:
        restart_every: k. None for no restarts.
        hz: the step of the neurons' positions: 0.2 in the archived runs in 15 dimensions, and 0.04 in those in 3.
        hw: the step of the logarithms of the neurons' weights: 0.02 in the authors' script for one mode in 3 dimensions. None for hz, as
            in the other archived runs.
        hx: the particle step, > 0.

    Returns:
        The rates, with restart probability 0.

    >>> round(program_rates(restart_every=1).transport_step, 6)
    1.2
    >>> program_rates(hz=0.04, hw=0.02).reaction_step
    0.02
    """
    scale = 1 if restart_every is None else 1 + 0.1 / (restart_every * hx)
    return rates_from_program(hx, hz * scale, (hz if hw is None else hw) * scale, 10.0)


PRESETS = {"text": text, "program": program, "default": Dual}
"""The presets by name. "default" has the default settings of this package."""
