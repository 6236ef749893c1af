"""The authors' program (arXiv 2107.05134), one iteration on whole arrays: NumPy, plain JAX and PyTorch.

Walkers X (N, d), neurons z (m, d) with weights w (m,), all signs c = -1, data x (n, d), noise R (N/2, d):

    g     = (1/m) sum_j w_j c_j 1{z_j.X > 0} z_j
    X    <- X - hx g + sqrt(2 hx) [R, -R];  X <- X / |X|
    dz_j  = c_j (mean_data 1{z_j.x > 0} x - mean_walkers 1{z_j.X > 0} X), tangential at z_j; X moved, z old
    dF_j  = mean_data (z_j.x)_+ - mean_walkers (z_j.X)_+
    z    <- z - hz dz;  z <- z / |z|
    w    <- w exp(-hw c dF);  w <- 10 w / mean w where mean w > 10

Each port is a deterministic function of its noise and keeps the precision of its arguments.
"""

import numpy as np

HX, HZ, HW, BUDGET = 0.02, 0.2, 0.2, 10.0
"""The settings of the archived runs in 15 dimensions without restarts."""


def array_step(xp, particles, positions, weights, data, noise):
    """One iteration in the array library `xp`, `numpy` or `jax.numpy`; -> particles, positions, weights."""
    x, z, w = particles, positions, weights
    gradient = -((x @ z.T > 0) * w[None]) @ z / len(z)
    x = x - HX * gradient + (2 * HX) ** 0.5 * xp.concatenate([noise, -noise])
    x = x / xp.linalg.norm(x, axis=1, keepdims=True)
    walkers, observed = x @ z.T, data @ z.T
    value = xp.maximum(observed, 0).mean(0) - xp.maximum(walkers, 0).mean(0)
    # The comparison takes the precision of x: a product with booleans would not go to BLAS.
    slope = (walkers > 0).astype(x.dtype).T @ x / len(x) - (observed > 0).astype(x.dtype).T @ data / len(data)
    z = z - HZ * (slope - (slope * z).sum(1, keepdims=True) * z)
    w = w * xp.exp(HW * value)
    return x, z / xp.linalg.norm(z, axis=1, keepdims=True), w * BUDGET / xp.maximum(w.mean(), BUDGET)


def torch_step(particles, positions, weights, data, noise):
    """One iteration on tensors, eager or under `torch.compile`; -> particles, positions, weights."""
    import torch  # an optional peer

    x, z, w = particles, positions, weights
    gradient = -((x @ z.T > 0) * w) @ z / len(z)
    x = x - HX * gradient + (2 * HX) ** 0.5 * torch.cat([noise, -noise])
    x = x / torch.linalg.norm(x, dim=1, keepdim=True)
    walkers, observed = x @ z.T, data @ z.T
    value = observed.clamp(min=0).mean(0) - walkers.clamp(min=0).mean(0)
    slope = (walkers > 0).to(x.dtype).T @ x / len(x) - (observed > 0).to(x.dtype).T @ data / len(data)
    z = z - HZ * (slope - (slope * z).sum(1, keepdim=True) * z)
    w = w * torch.exp(HW * value)
    return x, z / torch.linalg.norm(z, dim=1, keepdim=True), w * BUDGET / w.mean().clamp(min=BUDGET)


def divergence(points, reference, positions, weights):
    """KL(teacher || student) = log mean exp(f* - f) + mean (f - f*), in nats, in NumPy float64.

    `points` are draws of the teacher, `reference` is f* at them, f = -(1/m) sum_j w_j (z_j.x)_+: all signs -1.
    """
    points, reference, z, w = (np.asarray(a, np.float64) for a in (points, reference, positions, weights))
    gap = reference + np.maximum(points @ z.T, 0) @ w / len(w)
    return float(np.log(np.mean(np.exp(gap - gap.max()))) + gap.max() - gap.mean())
