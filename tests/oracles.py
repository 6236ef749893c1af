"""Independent reference for the package's tests: plain NumPy, float64, loops that read as the formulas.

Core convention: temperature 1, so the model is exp(-U) times the uniform measure of the sphere S^{d-1}, d ambient.
Nothing here imports the package. [1] is Domingo-Enrich, Bietti, Gabrie, Bruna, Vanden-Eijnden, arXiv 2107.05134.
"""

import itertools

import numpy as np

# ---- features and energies -------------------------------------------------------------------------


def lift(x, bias):
    """(x, 1) with the bias, x without: what a neuron takes the inner product with. (N, d) -> (N, d + 1 or d)."""
    x = np.asarray(x, np.float64)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1) if bias else x


def relu_power(t, power):
    """relu(t)^power of a number; power 1 is the ReLU."""
    return t**power if t > 0 else 0.0


def relu_power_slope(t, power):
    """d/dt relu(t)^power of a number; 0 at t = 0, as in the authors' program (the indicator is strict)."""
    return power * t ** (power - 1) if t > 0 else 0.0


def energy(x, positions, coefficients, power=1, bias=False):
    """U(x) = (1/m) sum_j c_j relu(<theta_j, x>)^power, or <theta_j, (x, 1)> with bias: f of [1], eq. (9).

    x (N, d), positions (m, d or d + 1), coefficients (m,) -> (N,).
    """
    out = np.zeros(len(x))
    for i, point in enumerate(lift(x, bias)):
        for theta, c in zip(positions, coefficients, strict=True):
            out[i] += c * relu_power(theta @ point, power) / len(positions)
    return out


def energy_gradient(x, positions, coefficients, power=1, bias=False):
    """Ambient gradient in x alone: (1/m) sum_j c_j slope(<theta_j, x>) theta_j; the authors' program, g. -> (N, d)."""
    d = np.shape(x)[1]
    out = np.zeros((len(x), d))
    for i, point in enumerate(lift(x, bias)):
        for theta, c in zip(positions, coefficients, strict=True):
            out[i] += c * relu_power_slope(theta @ point, power) * theta[:d] / len(positions)
    return out


def witness(positions, particles, data, power=1, bias=False):
    """F(theta) = (1/N) sum_i phi(X_i, theta) - (1/n) sum_i phi(x_i, theta): [1], eq. (9). -> (m,)."""
    out = np.zeros(len(positions))
    for j, theta in enumerate(positions):
        for sign, points in ((1.0, particles), (-1.0, data)):
            for point in lift(points, bias):
                out[j] += sign * relu_power(theta @ point, power) / len(points)
    return out


def witness_gradient(positions, particles, data, power=1, bias=False):
    """Ambient gradient in theta of F, [1] eq. (9): mean over particles less mean over data of slope(<theta, x>) x."""
    out = np.zeros(np.shape(positions))
    for j, theta in enumerate(positions):
        for sign, points in ((1.0, particles), (-1.0, data)):
            for point in lift(points, bias):
                out[j] += sign * relu_power_slope(theta @ point, power) * point / len(points)
    return out


# ---- the sphere ------------------------------------------------------------------------------------


def normalise(x):
    """Every row over its Euclidean norm: the projection that ends each move in the authors' program."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tangent(x, v):
    """P_x v = v - <x, v> x, row by row: the projection on the tangent space of the unit sphere."""
    return v - np.sum(x * v, axis=-1, keepdims=True) * x


def sphere_exp(x, v):
    """Exp_x(v) = x cos|v| + v sin|v| / |v|, row by row: follow the great circle for the length |v|."""
    out = np.array(x, np.float64)
    for i in range(len(out)):
        length = np.linalg.norm(v[i])
        if length > 0:
            out[i] = x[i] * np.cos(length) + v[i] * np.sin(length) / length
    return out


def sphere_log(x, y):
    """Log_x(y): the shortest velocity at x whose exponential is y (length below pi), row by row."""
    out = np.zeros(np.shape(x))
    for i in range(len(out)):
        across = y[i] - (x[i] @ y[i]) * x[i]
        length = np.linalg.norm(across)
        if length > 0:
            out[i] = np.arctan2(length, x[i] @ y[i]) * across / length
    return out


# ---- Langevin moves --------------------------------------------------------------------------------


def mala_log_ratio_sphere(x, v, h, gradient, energy):
    """Geodesic MALA on the sphere, log acceptance ratio of y = Exp_x(v), v = -h P grad U(x) + sqrt(2h) P xi.

    U(x) - U(y) + (|v + h g(x)|^2 - |u + h g(y)|^2) / (4h), with g = P grad U and u = Log_y(x). The Jacobian of the
    exponential map, (sin|v| / |v|)^(d-2), is symmetric in x and y and cancels. -inf for |v| >= pi, where Log_y(x)
    is another velocity than the one that came. `gradient` (ambient) and `energy` map (N, d) -> (N, d), (N,).
    """
    y = sphere_exp(x, v)
    u = sphere_log(y, x)
    forward = np.sum((v + h * tangent(x, gradient(x))) ** 2, axis=1)
    backward = np.sum((u + h * tangent(y, gradient(y))) ** 2, axis=1)
    ratio = energy(x) - energy(y) + (forward - backward) / (4 * h)
    return np.where(np.linalg.norm(v, axis=1) < np.pi, ratio, -np.inf)


def mala_log_ratio_flat(x, v, h, gradient, energy):
    """Euclidean MALA (Roberts and Tweedie 1996), log acceptance ratio of y = x + v, v = -h grad V(x) + sqrt(2h) xi.

    The density is exp(-V) over Lebesgue: V = U - log tau for the model exp(-U) over the base density tau, and
    `gradient`, `energy` are those of V. V(x) - V(y) + (|v + h grad V(x)|^2 - |-v + h grad V(y)|^2) / (4h). -> (N,).
    """
    y = x + v
    forward = np.sum((y - x + h * gradient(x)) ** 2, axis=1)
    backward = np.sum((x - y + h * gradient(y)) ** 2, axis=1)
    return energy(x) - energy(y) + (forward - backward) / (4 * h)


def move(x, noise, h, integrator, gradient, energy, uniforms=None):
    """[1], Algorithm 1, step 2 with uniform base on the sphere, temperature 1. -> moved (N, d), accepted (N,) bool.

    "projected": normalise(x - h grad U + sqrt(2h) xi), gradient and noise ambient (the authors' program);
    "geodesic": Exp_x(-h P grad U + sqrt(2h) P xi); "mala": the same proposal, accepted when log u < log ratio.
    """
    g = gradient(x)
    everyone = np.ones(len(x), bool)
    if integrator == "projected":
        return normalise(x - h * g + np.sqrt(2 * h) * noise), everyone
    v = -h * tangent(x, g) + np.sqrt(2 * h) * tangent(x, noise)
    if integrator == "geodesic":
        return sphere_exp(x, v), everyone
    if integrator == "mala":
        with np.errstate(divide="ignore"):  # log 0 = -inf: a uniform of 0 accepts every possible proposal
            accepted = np.log(uniforms) < mala_log_ratio_sphere(x, v, h, gradient, energy)
        return np.where(accepted[:, None], sphere_exp(x, v), x), accepted
    raise ValueError(f"integrator = {integrator!r}; allowed: 'projected', 'geodesic', 'mala'")


# ---- Algorithm 1 -----------------------------------------------------------------------------------


def dual_step(particles, positions, weights, signs, data, noise, *, particle_step, transport_step, reaction_step,
              radius, integrator, witness_particles, weight_update, uniforms=None, restart_to=None, budget=True,
              power=1, bias=False):  # fmt: skip
    """One iteration of [1], Algorithm 1, at temperature 1 and total-variation budget `radius`, its noise given.

    1 rows of `restart_to` (N, d) without NaN replace the particles; 2 they move in the energy of the OLD atoms;
    3 theta <- normalise(theta + transport_step sign P_theta grad F); 4 w <- w exp(reaction_step sign F)
    ("multiplicative") or max(w + reaction_step sign F, 0) ("additive", the authors' program for the primal figures:
    a weight of 0 stays 0; `clipped` counts those that reach it); 5 w <- w radius / max(mean w, radius) if `budget`.
    F and grad F are taken at the OLD positions, and over the particles after step 2 ("moved", the authors' program)
    or as they came in, before step 1 ("current"). -> dict(particles, positions, weights, accepted, clipped).
    """
    particles, positions = np.array(particles, np.float64), np.array(positions, np.float64)
    weights, signs, data = (np.array(a, np.float64) for a in (weights, signs, data))
    shape = dict(power=power, bias=bias)
    stored = particles.copy()

    if restart_to is not None:
        for i, target in enumerate(restart_to):
            if not np.isnan(target).any():
                particles[i] = target

    particles, accepted = move(
        particles, np.asarray(noise, np.float64), particle_step, integrator,
        lambda x: energy_gradient(x, positions, signs * weights, **shape),
        lambda x: energy(x, positions, signs * weights, **shape), uniforms,
    )  # fmt: skip

    seen = {"moved": particles, "current": stored}[witness_particles]
    f = witness(positions, seen, data, **shape)
    grad_f = witness_gradient(positions, seen, data, **shape)

    new_positions = normalise(positions + transport_step * signs[:, None] * tangent(positions, grad_f))
    if weight_update == "multiplicative":
        new_weights, clipped = weights * np.exp(reaction_step * signs * f), 0
    elif weight_update == "additive":
        raw = weights + reaction_step * signs * f
        alive = weights > 0
        new_weights, clipped = np.where(alive, np.maximum(raw, 0.0), 0.0), int(np.sum(alive & (raw <= 0)))
    else:
        raise ValueError(f"weight_update = {weight_update!r}; allowed: 'multiplicative', 'additive'")
    if budget:
        new_weights = new_weights * radius / max(np.mean(new_weights), radius)
    return dict(particles=particles, positions=new_positions, weights=new_weights, accepted=accepted, clipped=clipped)


# ---- monitors --------------------------------------------------------------------------------------


def kl_and_score(points, teacher_positions, teacher_weights, positions, coefficients):
    """The two monitors of [1] and of the authors' program, at points from the teacher exp(-f*), temperature 1.

    KL(teacher || student) = log mean exp(f* - f) + mean(f - f*), and mean |grad_S f - grad_S f*|^2 (tangential, no
    1/2). Weights and coefficients are signed: f = mean over neurons of c relu(<theta, x>). -> (kl, score).
    """
    points = np.asarray(points, np.float64)
    gap = energy(points, teacher_positions, teacher_weights) - energy(points, positions, coefficients)
    top = gap.max()
    kl = top + np.log(np.mean(np.exp(gap - top))) - np.mean(gap)
    difference = energy_gradient(points, positions, coefficients)
    difference -= energy_gradient(points, teacher_positions, teacher_weights)
    return kl, np.mean(np.sum(tangent(points, difference) ** 2, axis=1))


# ---- exact references ------------------------------------------------------------------------------


def gauss_legendre(a, b, count):
    """Nodes and weights of the `count`-point rule on [a, b]."""
    t, w = np.polynomial.legendre.leggauss(count)
    return 0.5 * (b - a) * t + 0.5 * (a + b), 0.5 * (b - a) * w


def two_neuron_quadrature(angle, weights, dimension, radial_nodes=200, arc_nodes=200):
    """Teacher f*(x) = (w_1 relu(<theta_1, x>) + w_2 relu(<theta_2, x>)) / 2 on S^{d-1}, exact by quadrature; d >= 2.

    Only the projection of x on span(theta_1, theta_2), r (cos p, sin p), matters: p is uniform and r has density
    (d - 2) r (1 - r^2)^{(d-4)/2}, with r = sin t (d - 2) sin t cos^{d-3} t on [0, pi/2], regular from d = 3 on; on
    the circle r = 1. f* = r s(p), so |grad_S f*|^2 = |grad f*|^2(p) - (r s)^2. Gauss-Legendre, arcs split at kinks.
    -> dict(log_partition, kl_to_uniform, min_energy, squared_gradient): log E_uniform exp(-f*),
    KL(teacher || uniform), min f* and E_teacher |grad_S f*|^2.
    """
    w = np.asarray(weights, np.float64)
    if w.shape != (2,) or dimension < 2:
        raise ValueError(f"two weights and dimension >= 2, not {w.shape} and {dimension}")
    centres = np.array([0.0, angle])
    units = np.stack([np.cos(centres), np.sin(centres)], axis=1)

    def slope(p):  # s(p)
        return 0.5 * sum(w[j] * np.maximum(np.cos(p - centres[j]), 0.0) for j in range(2))

    def squared_ambient_gradient(p):
        vector = sum(0.5 * w[j] * (np.cos(p - centres[j]) > 0)[:, None] * units[j] for j in range(2))
        return np.sum(vector**2, axis=1)

    kinks = np.sort(np.concatenate([centres - np.pi / 2, centres + np.pi / 2]) % (2 * np.pi))
    ends = np.append(kinks, kinks[0] + 2 * np.pi)
    arcs = [gauss_legendre(a, b, arc_nodes) for a, b in itertools.pairwise(ends)]
    p, p_weight = (np.concatenate(part) for part in zip(*arcs, strict=True))
    p_weight = p_weight / (2 * np.pi)
    if dimension == 2:
        r, r_weight = np.ones(1), np.ones(1)
    else:
        t, t_weight = gauss_legendre(0.0, np.pi / 2, radial_nodes)
        r, r_weight = np.sin(t), t_weight * (dimension - 2) * np.sin(t) * np.cos(t) ** (dimension - 3)

    f = r[:, None] * slope(p)[None, :]
    shift = (-f).max()
    mass = r_weight[:, None] * p_weight[None, :] * np.exp(-f - shift)
    log_partition = shift + np.log(mass.sum())
    teacher = mass / mass.sum()

    # f* is least at a kink or where the sum of the active neurons points (or its opposite); at r = 0 it is 0.
    sums = [w[0] * units[0], w[1] * units[1], w[0] * units[0] + w[1] * units[1]]
    stationary = [np.arctan2(s * v[1], s * v[0]) for v in sums for s in (1, -1)]
    lowest = slope(np.concatenate([kinks, stationary])).min()
    return dict(
        log_partition=log_partition,
        kl_to_uniform=-np.sum(teacher * f) - log_partition,
        min_energy=lowest if dimension == 2 else min(lowest, 0.0),
        squared_gradient=np.sum(teacher * (squared_ambient_gradient(p)[None, :] - f**2)),
    )
