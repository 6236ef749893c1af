"""Independent reference for the least loss over an F1 ball: sequential quadratic programs over atoms from a grid, in NumPy float64.

Nothing here imports the package. The measure is a set of nodes with weights, and parameters are rows.
"""

import numpy as np
from scipy.optimize import minimize


def relu(x, theta):
    """max(<theta, x>, 0) for all pairs."""
    return np.maximum(x @ theta.T, 0)


def circle(count):
    """Equally spaced points, (count, 2)."""
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def globe(heights):
    """A product rule of S^2: points, (2 heights^2, 3), and weights of sum 1."""
    z, weights = np.polynomial.legendre.leggauss(heights)
    turn = np.pi * (np.arange(2 * heights) + 0.37 * np.arange(heights)[:, None]) / heights
    across = np.sqrt(1 - z**2)[:, None]
    points = np.stack([across * np.cos(turn), across * np.sin(turn), np.broadcast_to(z[:, None], turn.shape)], axis=-1)
    weights = np.repeat(weights, 2 * heights)
    return points.reshape(-1, 3), weights / weights.sum()


def loss(energy, at_data, weights):
    """L = E_data g + log E exp(-g), from g at the nodes and its mean at the data."""
    low = energy.min()
    return at_data - low + np.log(weights @ np.exp(low - energy))


def least_loss(nodes, weights, data, radius, signs, grid, phi=relu, near=0.15, tolerance=1e-5, refined=None, rounds=80):
    """The least L over sum_j |a_j| <= radius, a_j of the given signs, and how far it is from the least at most, by its own duality gap.

    The supremum of the gap is over the grid, and, where `refined(theta, s, density)` is given, from its eight best points of each sign.
    Points of the grid nearer than `near` are not added together.
    """
    on_grid, seen = phi(nodes, grid), phi(data, grid).mean(0)
    theta, sign, a = grid[:0], np.zeros(0), np.zeros(0)
    best = np.inf, np.inf
    for _ in range(rounds):
        columns, means = phi(nodes, theta) * sign, phi(data, theta).mean(0) * sign

        def value(a, columns=columns, means=means):
            energy = columns @ a
            density = weights * np.exp(energy.min() - energy)
            return loss(energy, means @ a, weights), means - (density / density.sum()) @ columns

        if len(a):
            whole = dict(type="ineq", fun=lambda a: radius - a.sum(), jac=lambda a: -np.ones_like(a))
            bounds = [(0, None)] * len(a)
            a = minimize(value, a, jac=True, method="SLSQP", bounds=bounds, constraints=[whole], options=dict(maxiter=300, ftol=1e-13)).x
            a = np.maximum(a, 0) * min(1, radius / max(a.sum(), radius))
        energy = columns @ a
        density = weights * np.exp(energy.min() - energy)
        density /= density.sum()
        witness = density @ on_grid - seen
        added = []
        for s in signs:
            chosen = []
            for i in np.argsort(-s * witness)[:400]:
                if all(np.linalg.norm(grid[i] - grid[j]) > near for j in chosen) and len(chosen) < 8:
                    chosen.append(i)
            added += [(grid[i] if refined is None else refined(grid[i], s, density), s) for i in chosen]
        tops = [s * float(density @ phi(nodes, t[None])[:, 0] - phi(data, t[None]).mean()) for t, s in added]
        top = max(0, *tops, *(float((s * witness).max()) for s in signs))
        gap = radius * top + means @ a - density @ energy
        best = min(best, (gap, loss(energy, means @ a, weights)))
        if gap < tolerance:
            break
        kept = a > 1e-9
        theta, sign = np.concatenate([theta[kept], [t for t, _ in added]]), np.concatenate([sign[kept], [s for _, s in added]])
        a = np.concatenate([a[kept], np.zeros(len(added))])
    return best[1], best[0]


def ascended(nodes, data):
    """The function `refined` of `least_loss` for ReLUs on a sphere: ascent of s F along the sphere."""

    def refined(theta, s, density):
        def value(free):
            size = np.linalg.norm(free)
            t = free / size
            slope = (density * (nodes @ t > 0)) @ nodes - data[data @ t > 0].sum(0) / len(data)
            return -s * (slope @ t), -s * (slope - (slope @ t) * t) / size

        found = minimize(value, theta, jac=True, method="BFGS", options=dict(gtol=1e-9, maxiter=60)).x
        return found / np.linalg.norm(found)

    return refined
