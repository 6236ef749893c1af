"""The settings of arXiv 2107.05134: `Dual` as its text and as its authors' program have it, and rates in either convention."""

from dualebm._internal import checks
from dualebm.methods.dual import Dual, DualRates
from dualebm.spaces import Space


def text(space: Space, **changes) -> Dual:
    """The preset of the paper's text: i.i.d. noise, random signs, weights uniform in [0, 1) times the radius, projected steps.

    N = 2n particles need `particles=2 * n`; the default is two copies of the data. `changes` replace fields of `Dual`.

    >>> from dualebm.spaces import Sphere
    >>> text(Sphere(15), particles=200_000).noise
    'independent'
    """
    preset = dict(integrator="projected", noise="independent", signs="random", weights="uniform", weight_unit="radius")
    return Dual(space, **{**preset, **changes})


def program(space: Space, **changes) -> Dual:
    """The preset of the authors' program: antithetic noise, two copies of the data, all signs -1, weights 1, projected steps.

    `changes` replace fields of `Dual`; the rates of the archived runs are `program_rates`.

    >>> from dualebm.spaces import Sphere
    >>> program(Sphere(15), restart_every=40).integrator
    'projected'
    """
    return Dual(space, **{**dict(integrator="projected", signs="all_negative"), **changes})


def rates_from_paper(
    step_size: float, ratio: float, beta: float, restart_probability: float = 0.0, scale: str = "fast"
) -> DualRates:
    """Rates from the text's s, alpha, beta (unit ball): particle_step s_x / beta, neuron steps s_theta, radius beta.

    With scale="particle" s_x = s and s_theta = s alpha (Algorithm 1). With scale="fast" s is the step of the faster process (Section 5):
    s_x = s / max(alpha, 1), s_theta = s min(alpha, 1). Weights are beta times the text's: use `weight_unit="radius"`.
    Raises ValueError for s <= 0, alpha < 0, beta <= 0 or not finite.

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


def rates_from_program(hx: float, hz: float, hw: float, budget: float) -> DualRates:
    """Rates from the program's hx, hz, hw and budget, which is the core convention itself.

    Raises ValueError for hx <= 0, hz < 0, hw < 0, budget <= 0 or not finite.

    >>> rates_from_program(0.02, 0.2, 0.2, 10.0).transport_step
    0.2
    """
    checks.number("hx", hx, positive=True)
    checks.number("hz", hz)
    checks.number("hw", hw)
    checks.number("budget", budget, positive=True)
    return DualRates(hx, hz, hw, 0.0, budget)


def program_rates(restart_every: int | None = None, neuron_step: float = 0.2, hx: float = 0.02) -> DualRates:
    """The rates of the archived runs: hz = hw = neuron_step (1 + 0.1 / (k hx)) with k = `restart_every`, budget 10.

    `neuron_step` is 0.2 in 15 dimensions and 0.04 in 3.

    >>> round(program_rates(restart_every=1).transport_step, 6)
    1.2
    """
    scale = 1 if restart_every is None else 1 + 0.1 / (restart_every * hx)
    return rates_from_program(hx, neuron_step * scale, neuron_step * scale, 10.0)


PRESETS = {"text": text, "program": program, "default": Dual}
"""The presets by name; "default" is our own."""
