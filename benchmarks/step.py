"""One step of Algorithm 1, streamed, against the same update in plain JAX on whole arrays, in one run.

    python -m benchmarks.step --n 100000 --neurons 64

Prints milliseconds a step (the best of alternating repetitions), their ratio, and each implementation's answer beside its time.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import tyro

from dualebm import targets
from dualebm.measures import total_variation
from dualebm.methods import dual

STEPS = 20


def plain(key, particles, positions, weights, data):
    """The authors' update (projected, all signs -1, antithetic) on whole (N, d) and (N, m) arrays."""

    def step(state, key):
        x, z, w = state
        half = jax.random.normal(key, (x.shape[0] // 2, x.shape[1]), x.dtype)
        gradient = -((x @ z.T > 0) * w[None]) @ z / len(z)
        x = x - 0.02 * gradient + 0.04**0.5 * jnp.concatenate([half, -half])
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        near, far = x @ z.T, data @ z.T
        value = jnp.maximum(near, 0).mean(0) - jnp.maximum(far, 0).mean(0)
        slope = (near > 0).astype(x.dtype).T @ x / len(x) - (far > 0).astype(x.dtype).T @ data / len(data)
        z = z - 0.2 * (slope - jnp.sum(slope * z, 1, keepdims=True) * z)
        w = w * jnp.exp(-0.2 * value)
        return (x, z / jnp.linalg.norm(z, axis=1, keepdims=True), w * 10 / jnp.maximum(w.mean(), 10)), None

    return jax.lax.scan(step, (particles, positions, weights), jax.random.split(key, STEPS))[0]


def main(n: int = 100_000, neurons: int = 64, repetitions: int = 5) -> None:
    """Times both implementations and our default integrator on the monomodal teacher of S^14."""
    target = targets.teacher("s14_monomodal")
    data, _ = targets.sample(jax.random.key(0), target, n)
    rates = jax.tree.map(jnp.float32, dual.program_rates())

    def streamed(method):
        def run(key, state, data):
            step = lambda state, i: (method.step(jax.random.fold_in(key, i), state, rates, data), None)  # noqa: E731
            return jax.lax.scan(step, state, jnp.arange(STEPS))[0]

        return jax.jit(run)

    methods = {name: dual.program(target.space, neurons=neurons, integrator=name) for name in ("projected", "mala")}
    state = methods["projected"].init(jax.random.key(1), rates, data)
    whole = jax.jit(plain)
    start = (state.particles, state.atoms.positions, jnp.exp(state.atoms.log_weights), data.points)
    compiled = {f"streamed, {name}": streamed(method) for name, method in methods.items()}
    programs = {name: partial(run, jax.random.key(2), state, data) for name, run in compiled.items()}
    programs["plain, projected"] = lambda: whole(jax.random.key(2), *start)
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(repetitions + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program())
            best[name] = min(best[name], time.perf_counter() - begin)
    for name, program in programs.items():
        end = program()
        variation = float(end[2].mean()) if name.startswith("plain") else float(total_variation(end.atoms))
        ratio = best["plain, projected"] / best[name]
        print(
            f"{name:20s} {1e3 * best[name] / STEPS:8.2f} ms a step   plain / this {ratio:5.2f}   total variation {variation:.4f}"
        )


if __name__ == "__main__":
    tyro.cli(main)
