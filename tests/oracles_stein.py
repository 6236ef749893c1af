"""Independent reference for MATH.md part B (Stein discrepancies, maximum likelihood): plain NumPy, float64, loops.

Network f(x) = (1/m) sum_j w_j phi(<theta_j, x>), theta (m, d) not normalised; model exp(-f) tau / Z. `space` is
("sphere",): tau uniform on S^{d-1}, d ambient, rows of x unit vectors; ("flat", None): tau Lebesgue on R^d; or
("flat", s): tau = N(0, s^2 I). Nothing here imports the package. `python tests/oracles_stein.py` checks all of it.
"""

import itertools

import numpy as np

# ---- the network -----------------------------------------------------------------------------------


def relu(t):
    """max(t, 0) of a number."""
    return t if t > 0 else 0.0


def relu_slope(t):
    """1{t > 0} of a number, strict."""
    return 1.0 if t > 0 else 0.0


def softplus(t):
    """log(1 + e^t) of a number."""
    return np.logaddexp(0.0, t)


def softplus_slope(t):
    """1 / (1 + e^-t) of a number."""
    return 0.5 * (1 + np.tanh(0.5 * t))


def network(theta, w, x, profile=relu):
    """f(x) = (1/m) sum_j w_j phi(<theta_j, x>). -> (n,)."""
    out = np.zeros(len(x))
    for i in range(len(x)):
        for j in range(len(w)):
            out[i] += w[j] * profile(theta[j] @ x[i]) / len(w)
    return out


def projector(x, space):
    """P_x = I - x x^T on the sphere, I in flat space; x one point. -> (d, d)."""
    eye = np.eye(len(x))
    return eye - np.outer(x, x) if space[0] == "sphere" else eye


def score(theta, w, x, profile_slope, space):
    """s = -P_x grad f on the sphere; -grad f, and - x / s^2 for a Gaussian base, in flat space. -> (n, d)."""
    out = np.zeros(np.shape(x))
    for i in range(len(x)):
        gradient = np.zeros(len(x[i]))
        for j in range(len(w)):
            gradient += w[j] * profile_slope(theta[j] @ x[i]) * theta[j] / len(w)
        out[i] = -projector(x[i], space) @ gradient
        if space[0] == "flat" and space[1] is not None:
            out[i] -= x[i] / space[1] ** 2
    return out


def shifted_score(s, x, space):
    """stilde = s(x) - (d - 1) x on the sphere, s in flat space; one point: A h = stilde . h + sum_i (grad h_i)_i."""
    return s - (len(x) - 1) * x if space[0] == "sphere" else s


def average(values, weights=None):
    """Weighted mean along the first axis, the weights divided by their sum."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    total = 0.0
    for value, weight in zip(values, weights, strict=True):
        total = total + weight * np.asarray(value, np.float64)
    return total / weights.sum()


def central_gradient(function, a, step=1e-5):
    """Central finite differences of a number-valued function of an array, one entry at a time. -> a's shape."""
    a = np.asarray(a, np.float64)
    out = np.zeros(a.shape)
    for index in np.ndindex(*a.shape):
        up, down = a.copy(), a.copy()
        up[index] += step
        down[index] -= step
        out[index] = (function(up) - function(down)) / (2 * step)
    return out


# ---- kernel Stein discrepancy (B.2) ----------------------------------------------------------------


def kernel_terms(kernel, x, y):
    """k(x, y), d_x k, d_y k and H_ab = d_{x_a} d_{y_b} k at two points, all AMBIENT. -> k, (d,), (d,), (d, d).

    ("rbf", b): exp(-|x - y|^2 / (2 b^2)); ("arc_cosine",): |x||y| (sin o + (pi - o) cos o) / (2 pi d), o the angle,
    = E relu(<t, x>) relu(<t, y>) for t uniform on S^{d-1}, not differentiable at x = 0 or y = 0.
    """
    d = len(x)
    if kernel[0] == "rbf":
        b = kernel[1]
        r = x - y
        k = np.exp(-(r @ r) / (2 * b**2))
        return k, -k * r / b**2, k * r / b**2, k * (np.eye(d) / b**2 - np.outer(r, r) / b**4)
    if kernel[0] != "arc_cosine":
        raise ValueError(f"kernel = {kernel!r}; allowed: ('rbf', bandwidth), ('arc_cosine',)")
    norm_x, norm_y = np.sqrt(x @ x), np.sqrt(y @ y)
    if norm_x == 0 or norm_y == 0:
        raise ValueError("the arc-cosine kernel is not differentiable at 0")
    e, g = x / norm_x, y / norm_y
    o = 2 * np.arctan2(np.linalg.norm(e - g), np.linalg.norm(e + g))  # accurate near 0 and pi, unlike arccos
    c = 1 / (2 * np.pi * d)
    k = c * norm_x * norm_y * (np.sin(o) + (np.pi - o) * np.cos(o))
    # the d_o terms of d_x cancel: |x||y| cos o - <x, y> = 0
    k_x = c * ((np.pi - o) * y + norm_y * np.sin(o) * e)
    k_y = c * ((np.pi - o) * x + norm_x * np.sin(o) * g)
    # H = c [(pi - o) I + (g e^T + e g^T - cos o (e e^T + g g^T)) / sin o]; with g = e cos o + n sin o no division is
    # left: at o = 0, H = I / (2 d) = E 1{<t, x> > 0} t t^T; at o = pi, H = 0; n does not matter there.
    n = g - (e @ g) * e
    n = n / np.linalg.norm(n) if np.linalg.norm(n) > 0 else np.zeros(d)
    s, co = np.sin(o), np.cos(o)
    h = c * ((np.pi - o) * np.eye(d) + s * co * (np.outer(e, e) - np.outer(n, n))
             + s**2 * (np.outer(e, n) + np.outer(n, e)))  # fmt: skip
    return k, k_x, k_y, h


def stein_pair(kernel, x, y, score_x, score_y, space):
    """u(x, y) = sum_i A_x^i A_y^i k with A^i k = stilde_i k + (P grad k)_i; two points. The trace is tr(P_x H P_y)."""
    k, k_x, k_y, h = kernel_terms(kernel, x, y)
    p_x, p_y = projector(x, space), projector(y, space)
    a, b = shifted_score(score_x, x, space), shifted_score(score_y, y, space)
    return (a @ b) * k + b @ (p_x @ k_x) + a @ (p_y @ k_y) + np.trace(p_x @ h @ p_y)


def stein_matrix(kernel, x, y, score_x, score_y, space):
    """u(x_i, y_j), x_i = y_j included. The scores are s, without the -(d - 1) x. -> (len(x), len(y))."""
    out = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            out[i, j] = stein_pair(kernel, x[i], y[j], score_x[i], score_y[j], space)
    return out


def ksd(kernel, x, score, space, statistic):
    """SQUARED discrepancy: "U", sum_{i != j} u / (n (n - 1)), can be negative; "V", sum_{i, j} u / n^2."""
    u = stein_matrix(kernel, x, x, score, score, space)
    n = len(x)
    if statistic == "V":
        return sum(u[i, j] for i in range(n) for j in range(n)) / n**2
    if statistic == "U":
        return sum(u[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    raise ValueError(f"statistic = {statistic!r}; allowed: 'U', 'V'")


def ksd_parameter_gradient(kernel, theta, w, x, profile_slope, space, statistic, step=1e-5):
    """Gradient of the squared discrepancy in w and in theta, 1/m included: central differences. -> (m,), (m, d).

    Quadratic in w, so exact there up to rounding; for the ReLU also piecewise quadratic in theta: keep every
    <theta_j, x_i> farther than step |x_i| from 0.
    """

    def value(theta, w):
        return ksd(kernel, x, score(theta, w, x, profile_slope, space), space, statistic)

    in_w = central_gradient(lambda new: value(theta, new), w, step)
    in_theta = central_gradient(lambda new: value(new, w), theta, step)
    return in_w, in_theta


# ---- F1 Stein discrepancy (B.3) --------------------------------------------------------------------


def critic_objective(v, omega, x, score, space, weights=None):
    """D_i = mean_x [stilde_i h_i + (P_x grad h_i)_i], h_i = sum_j v_ij relu(<omega_ij, x>); no absolute value.

    v (d, m_c), omega (d, m_c, d), x and score (n, d), weights of the mean (n,) or None. -> (d,).
    """
    terms = np.zeros(np.shape(x))
    for n in range(len(x)):
        shifted = shifted_score(score[n], x[n], space)
        for i in range(len(v)):
            value, gradient = 0.0, np.zeros(len(x[n]))
            for j in range(len(v[i])):
                t = omega[i, j] @ x[n]
                value += v[i, j] * relu(t)
                gradient += v[i, j] * relu_slope(t) * omega[i, j]
            terms[n, i] = shifted[i] * value + (projector(x[n], space) @ gradient)[i]
    return average(terms, weights)


def critic_norm(v, omega):
    """sum_j |v_ij| |omega_ij| of each critic i. -> (d,)."""
    out = np.zeros(len(v))
    for i in range(len(v)):
        for j in range(len(v[i])):
            out[i] += abs(v[i, j]) * np.linalg.norm(omega[i, j])
    return out


def normalise_exact(v, omega):
    """v and omega both over sqrt(norm): every critic's norm becomes 1. -> v, omega."""
    root = np.sqrt(critic_norm(v, omega))
    return v / root[:, None], omega / root[:, None, None]


def normalise_as_program(v, omega):
    """v over sqrt(norm), then omega over the sqrt of the norm recomputed: leaves norm^(1/4), not 1. -> v, omega."""
    v = v / np.sqrt(critic_norm(v, omega))[:, None]
    return v, omega / np.sqrt(critic_norm(v, omega))[:, None, None]


def neuron_terms(x, score, space, i):
    """Rows b_n = stilde_i x_n + P_{x_n} e_i: a critic relu(<omega, x>) has D_i = mean_n 1{<omega, x_n> > 0} <b_n, omega>."""
    out = np.zeros(np.shape(x))
    for n in range(len(x)):
        out[n] = shifted_score(score[n], x[n], space)[i] * x[n] + projector(x[n], space)[i]
    return out


def neuron_value(omega, x, terms):
    """|D_i| of the critic relu(<omega, x>), terms of `neuron_terms`."""
    return abs(sum(terms[n] @ omega for n in range(len(x)) if omega @ x[n] > 0) / len(x))


def best_critic(x, score, space, i, count=20_000):
    """sup |D_i| over the F1 unit ball by brute force, d = 2 or 3: a lower bound, close. -> value, unit omega.

    D_i is linear in h_i, so one neuron of unit norm is best. d = 2: `count` equal angles. d = 3: a spiral of `count`
    points, then from its ten best, rings of shrinking radius. |D_i| jumps where some <omega, x_n> = 0 (the gradient
    of the ReLU does), so the supremum may be a one-sided limit that no omega reaches: see `best_critic_exact`.
    """
    terms = neuron_terms(x, score, space, i)
    if np.shape(x)[1] == 2:
        angles = 2 * np.pi * (np.arange(count) + 0.5) / count
        grid = [np.array([np.cos(p), np.sin(p)]) for p in angles]
    elif np.shape(x)[1] == 3:
        heights = 1 - (2 * np.arange(count) + 1) / count
        turns = np.pi * (1 + np.sqrt(5)) * np.arange(count)
        grid = [
            np.array([np.sqrt(1 - z**2) * np.cos(p), np.sqrt(1 - z**2) * np.sin(p), z])
            for z, p in zip(heights, turns, strict=True)
        ]
    else:
        raise ValueError(f"d = 2 or 3, not {np.shape(x)[1]}")
    values = [neuron_value(omega, x, terms) for omega in grid]
    order = np.argsort(values)[::-1]
    if np.shape(x)[1] == 2:
        return values[order[0]], grid[order[0]]
    best_value, best = -1.0, grid[0]
    for start in order[:10]:
        value, omega, radius = values[start], grid[start], 4 / np.sqrt(count)
        while radius > 1e-10:
            moved = False
            basis = tangent_basis(omega)
            for p in 2 * np.pi * np.arange(16) / 16:
                trial = omega + radius * (np.cos(p) * basis[0] + np.sin(p) * basis[1])
                trial = trial / np.linalg.norm(trial)
                trial_value = neuron_value(trial, x, terms)
                if trial_value > value:
                    value, omega, moved = trial_value, trial, True
                    break
            if not moved:
                radius /= 2
        if value > best_value:
            best_value, best = value, omega
    return best_value, best


def best_critic_exact(x, score, space, i):
    """The same supremum exactly, d = 2 or 3, by cells of constant {n: <omega, x_n> > 0}. -> value, omega on its closure.

    In a cell D_i = <a, omega>, whose extremes over the closed cell are +-a / |a| inside, their like on an edge
    (omega orthogonal to one x_n), or a vertex (to d - 1 of them). The points are to be in general position.
    """
    n, d = np.shape(x)
    terms = neuron_terms(x, score, space, i)
    vertices = []  # (unit vertex, the points orthogonal to it)
    if d == 2:
        for k in range(n):
            v = np.array([-x[k, 1], x[k, 0]]) / np.linalg.norm(x[k])
            vertices += [(v, (k,)), (-v, (k,))]
    elif d == 3:
        for k, j in itertools.combinations(range(n), 2):
            v = np.cross(x[k], x[j]) / np.linalg.norm(np.cross(x[k], x[j]))
            vertices += [(v, (k, j)), (-v, (k, j))]
    else:
        raise ValueError(f"d = 2 or 3, not {d}")
    best_value, best, cells = -1.0, None, set()
    for v, on in vertices:
        pattern = [bool(v @ x[k] > 0) for k in range(n)]
        if any(abs(v @ x[k]) < 1e-12 for k in range(n) if k not in on):
            raise ValueError("points not in general position")
        for sides in itertools.product((False, True), repeat=len(on)):
            for k, side in zip(on, sides, strict=True):
                pattern[k] = side
            cells.add(tuple(pattern))
            value = abs(sum((terms[k] @ v for k in range(n) if pattern[k]), 0.0)) / n
            if value > best_value:
                best_value, best = value, v
    for pattern in cells:
        a = sum((terms[k] for k in range(n) if pattern[k]), np.zeros(d)) / n
        candidates = [(a, None)]
        if d == 3:
            candidates += [(a - (a @ x[k]) * x[k] / (x[k] @ x[k]), k) for k in range(n)]
        for direction, edge in candidates:
            if np.linalg.norm(direction) == 0:
                continue
            for omega in (direction / np.linalg.norm(direction), -direction / np.linalg.norm(direction)):
                inside = all((omega @ x[k] >= 0) == pattern[k] for k in range(n) if k != edge)
                if inside and abs(a @ omega) > best_value:
                    best_value, best = abs(a @ omega), omega
    return best_value, best


def tangent_basis(x):
    """Orthonormal rows orthogonal to the vector x. -> (d - 1, d)."""
    return np.linalg.svd(np.asarray(x, np.float64)[None])[2][1:]


# ---- maximum likelihood (B.0, B.1) -----------------------------------------------------------------


def likelihood_gradient(theta, w, data, model, model_weights=None, profile=relu, profile_slope=relu_slope):
    """m times the gradient of L = E_data f + log Z, = E_data df - E_model df, in w and theta. -> (m,), (m, d).

    E_model is the mean with model_weights (n',), divided by their sum. Descent is minus this.
    """
    in_w, in_theta = np.zeros(np.shape(w)), np.zeros(np.shape(theta))
    for j in range(len(w)):
        in_w[j] = average([profile(theta[j] @ x) for x in data])
        in_w[j] -= average([profile(theta[j] @ x) for x in model], model_weights)
        in_theta[j] = w[j] * average([profile_slope(theta[j] @ x) * x for x in data])
        in_theta[j] -= w[j] * average([profile_slope(theta[j] @ x) * x for x in model], model_weights)
    return in_w, in_theta


def network_step(theta, w, gradients, lr, rho, decay):
    """w - lr (g_w + decay w), theta - rho lr (g_theta + decay theta). -> theta, w.

    gradients = (g_w, g_theta) carry B.0's factor m already; B.0's lambda, inside m (grad + lambda w), is decay / m.
    """
    g_w, g_theta = gradients
    return theta - rho * lr * (g_theta + decay * theta), w - lr * (g_w + decay * w)


def independence_metropolis(x, proposals, uniforms, energy):
    """One step of each chain: x' accepted when log u < f(x) - f(x'); x' uniform. -> moved (N, d), accepted (N,) bool."""
    moved, accepted = np.array(x, np.float64), np.zeros(len(x), bool)
    old, new = energy(np.asarray(x)), energy(np.asarray(proposals))
    for i in range(len(x)):
        log_u = np.log(uniforms[i]) if uniforms[i] > 0 else -np.inf
        if log_u < old[i] - new[i]:
            moved[i], accepted[i] = proposals[i], True
    return moved, accepted


# ---- the three-dimensional program (B.5) -----------------------------------------------------------

# What MATH.md B.5 leaves open, and the reading here:
# 1 dc, dz are not defined. dc_j = E_data relu(<z_j, x>) - E_model relu(<z_j, x>), dz_j the same of 1{<z_j, x> > 0} x:
#   no c_j, w_j or 1/m. With f = (1/m) sum w c relu, dL/dc_j = w_j dc_j / m, dL/dz_j = w_j c_j dz_j / m,
#   dL/dw_j = c_j dc_j / m, so all three updates descend L = E_data f + log Z while w > 0.
# 2 The order. Here all three use the OLD c, w, z; B.5 may equally be read one after the other as listed (c, z, w).
# 3 The factor of dz, sign(c) min(|w c|, 1), is the truth w c cut at 1 (signed by c, w > 0): a slower step for heavy
#   neurons. It is 0 at c = 0, so from c = 0 neither z nor w moves in the first step.
# 4 lambda decays c only: the exponent of w has no lambda c^2 / 2, so with lambda > 0 the step is not the flow of one
#   penalised objective.
# 5 Weights e^{-f}/Z: both means are divided by the sum of their weights here (Z* of the data the same, not exact).
# 6 P is I - z z^T at the old z; "renormalised to mean 1" divides by the arithmetic mean of the new w.
# 7 B.5's KL figures (.0055 at 100, .001 at 250, 2.7e-4 at 1000) do not fit its three updates: with them, m = 64 and
#   exact expectations, six seeds give .0020-.0026, .00014-.00019, 2.5e-5-3.1e-5, and the one-after-the-other order the
#   same. With w frozen at 1: .0050-.0061, .0007-.0011, 2.2e-4-3.7e-4. So they seem to be of a run without the w step.


def measure_differences(z, data, data_weights, model, model_weights):
    """dc_j = E_data phi_j - E_model phi_j and dz_j the same of its ambient gradient in z_j. -> (m,), (m, d)."""
    dc, dz = np.zeros(len(z)), np.zeros(np.shape(z))
    for j in range(len(z)):
        for sign, points, weights in ((1.0, data, data_weights), (-1.0, model, model_weights)):
            dc[j] += sign * average([relu(z[j] @ x) for x in points], weights)
            dz[j] += sign * average([relu_slope(z[j] @ x) * x for x in points], weights)
    return dc, dz


def measure_step(c, w, z, data, data_weights, model, model_weights, *, steps=(1.0, 1.0, 1.0), decay=0.0):
    """B.5's update of f = (1/m) sum_j w_j c_j relu(<z_j, x>), steps (h_c, h_z, h_w), decay lambda. -> c, w, z.

    c e^{-lambda h} - (1 - e^{-lambda h}) / lambda dc (c - h dc at 0); normalise(z - h P_z dz sign(c) min(|w c|, 1));
    w e^{-h c dc}, over its mean. All from the old state.
    """
    dc, dz = measure_differences(z, data, data_weights, model, model_weights)
    h_c, h_z, h_w = steps
    new_c, new_w, new_z = np.zeros(len(c)), np.zeros(len(c)), np.zeros(np.shape(z))
    for j in range(len(c)):
        gain = h_c if decay == 0 else -np.expm1(-decay * h_c) / decay
        new_c[j] = c[j] * np.exp(-decay * h_c) - gain * dc[j]
        across = dz[j] - (dz[j] @ z[j]) * z[j]
        new_z[j] = z[j] - h_z * np.sign(c[j]) * min(abs(w[j] * c[j]), 1.0) * across
        new_z[j] /= np.linalg.norm(new_z[j])
        new_w[j] = w[j] * np.exp(-h_w * c[j] * dc[j])
    return new_c, new_w / np.mean(new_w), new_z


# ---- checks of this file ---------------------------------------------------------------------------


def _report(name, error, bound):
    print(f"{'ok  ' if error <= bound else 'FAIL'} {name}: {error:.2e} (bound {bound:.0e})")
    return error <= bound


def _unit(rng, n, d):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _by_definition(kernel, x, y, score_x, score_y, space, t=3e-4):
    """u(x, y) from the kernel's VALUES alone: sum_i A_x^i A_y^i k by central differences along great circles/lines."""

    def move(point, direction, t):
        return np.cos(t) * point + np.sin(t) * direction if space[0] == "sphere" else point + t * direction

    def gradient(function, point):
        frame = tangent_basis(point) if space[0] == "sphere" else np.eye(len(point))
        return sum(e * (function(move(point, e, t)) - function(move(point, e, -t))) / (2 * t) for e in frame)

    def value(a, b):
        return kernel_terms(kernel, a, b)[0]

    total = 0.0
    a, b = shifted_score(score_x, x, space), shifted_score(score_y, y, space)
    for i in range(len(x)):

        def inner(p, i=i):
            return b[i] * value(p, y) + gradient(lambda q: value(p, q), y)[i]

        total += a[i] * inner(x) + gradient(inner, x)[i]
    return total


def _sphere_rule(heights, turns):
    """Product rule on S^2: Gauss-Legendre in x_3, equal angles. -> points, weights of sum 1."""
    z, weight = np.polynomial.legendre.leggauss(heights)
    points, weights = [], []
    for a, b in zip(z, weight, strict=True):
        for p in 2 * np.pi * (np.arange(turns) + 0.5) / turns:
            points.append([np.sqrt(1 - a**2) * np.cos(p), np.sqrt(1 - a**2) * np.sin(p), a])
            weights.append(b / 2 / turns)
    return np.array(points), np.array(weights)


def _arc_rule(kinks, radii=None):
    """Rule on S^1, or on R^2 in polar coordinates, exact across jumps at the angles `kinks`. -> points, weights."""
    ends = np.sort(np.asarray(kinks) % (2 * np.pi))
    ends = np.append(ends, ends[0] + 2 * np.pi)
    node, node_weight = np.polynomial.legendre.leggauss(16)
    points, weights = [], []
    for a, b in itertools.pairwise(ends):
        for t, q in zip(node, node_weight, strict=True):
            p = 0.5 * (a + b) + 0.5 * (b - a) * t
            for r, r_weight in [(1.0, 1.0)] if radii is None else radii:
                points.append([r * np.cos(p), r * np.sin(p)])
                weights.append(0.5 * (b - a) * q * r_weight * r)
    return np.array(points), np.array(weights)


def _check_derivatives(rng):
    good = []
    for kernel, d in itertools.product((("rbf", 0.7), ("rbf", 1.3), ("arc_cosine",)), (2, 3, 5)):
        first, second = 0.0, 0.0
        for _ in range(5):
            x, y = rng.normal(size=(2, d))
            _, k_x, k_y, h = kernel_terms(kernel, x, y)
            fd_x = central_gradient(lambda p, kernel=kernel, y=y: kernel_terms(kernel, p, y)[0], x)
            fd_y = central_gradient(lambda p, kernel=kernel, x=x: kernel_terms(kernel, x, p)[0], y)
            first = max(first, abs(fd_x - k_x).max(), abs(fd_y - k_y).max())
            for a in range(d):
                row = central_gradient(lambda p, kernel=kernel, x=x, a=a: kernel_terms(kernel, x, p)[1][a], y)
                second = max(second, abs(row - h[a]).max())
        good += [_report(f"{kernel} d={d} d_x k, d_y k against differences", first, 1e-8)]
        good += [_report(f"{kernel} d={d} H against differences of d_x k", second, 1e-8)]
    for space, d in itertools.product((("sphere",), ("flat", None), ("flat", 0.8)), (2, 3, 5)):
        for kernel in (("rbf", 0.7), ("rbf", 1.0), ("arc_cosine",)):
            x = _unit(rng, 6, d) if space[0] == "sphere" else rng.normal(size=(6, d))
            s = score(rng.normal(size=(4, d)), 3 * rng.normal(size=4), x, softplus_slope, space)
            u = stein_matrix(kernel, x, x, s, s, space)
            error = max(
                abs(u[i, j] - _by_definition(kernel, x[i], x[j], s[i], s[j], space))
                for i in range(6) for j in range(6) if i != j or kernel[0] == "rbf"
            )  # fmt: skip
            good += [_report(f"{kernel} {space} d={d} u against its definition", error, 1e-5)]
            good += [_report(f"{kernel} {space} d={d} u symmetric", abs(u - u.T).max(), 1e-12)]
            nearby = x + 1e-7 * rng.normal(size=x.shape)
            nearby = nearby / np.linalg.norm(nearby, axis=1, keepdims=True) if space[0] == "sphere" else nearby
            limit = max(
                abs(stein_pair(kernel, x[i], nearby[i], s[i], s[i], space) - u[i, i]) for i in range(6)
            )  # the difference is of the order of the distance
            good += [_report(f"{kernel} {space} d={d} diagonal is the limit", limit, 2e-5)]
            least = np.linalg.eigvalsh(u).min()
            good += [_report(f"{kernel} {space} d={d} u positive semi-definite", max(0.0, -least), 1e-10)]
        if space[0] == "sphere":  # MATH.md B.2's closed form, b = 1
            u = stein_matrix(("rbf", 1.0), x, x, s, s, space)
            error = 0.0
            for i, j in itertools.product(range(6), range(6)):
                t = x[i] @ x[j]
                k, p_x, p_y = np.exp(t - 1), x[j] - t * x[i], x[i] - t * x[j]
                a, b = s[i] - (d - 1) * x[i], s[j] - (d - 1) * x[j]
                closed = k * (a @ b + b @ p_x + a @ p_y + p_x @ p_y + d - 2 + t**2)
                error = max(error, abs(closed - u[i, j]))
            good += [_report(f"d={d} MATH.md B.2's closed form", error, 1e-12)]
    # score against differences of f along great circles or lines
    for space, profile, slope in itertools.product((("sphere",), ("flat", 0.8)), (softplus, relu), (None,)):
        slope = softplus_slope if profile is softplus else relu_slope
        theta, w = rng.normal(size=(4, 3)), 3 * rng.normal(size=4)
        x = _unit(rng, 5, 3)
        s = score(theta, w, x, slope, space)
        error = 0.0
        for i in range(5):
            for e in tangent_basis(x[i]) if space[0] == "sphere" else np.eye(3):
                ends = []
                for t in (1e-5, -1e-5):
                    p = np.cos(t) * x[i] + np.sin(t) * e if space[0] == "sphere" else x[i] + t * e
                    base = 0.0 if space[0] == "sphere" else p @ p / (2 * space[1] ** 2)
                    ends.append(-network(theta, w, p[None], profile)[0] - base)
                error = max(error, abs((ends[0] - ends[1]) / 2e-5 - s[i] @ e))
            if space[0] == "sphere":
                error = max(error, abs(s[i] @ x[i]))
        good += [_report(f"score {space} {profile.__name__} against differences", error, 1e-8)]
    return good


def _check_stein_identity(rng):
    good = []
    # quadrature, S^2 and R^2: E_model u(., y) = 0 for every y
    theta, w = 1.5 * rng.normal(size=(4, 3)), 3 * rng.normal(size=4)
    x, weights = _sphere_rule(24, 48)
    y = _unit(rng, 2, 3)
    for name, amount in (("f = 0", 0.0), ("softplus f", 1.0)):
        s, s_y = (score(theta, amount * w, p, softplus_slope, ("sphere",)) for p in (x, y))
        density = weights * np.exp(-network(theta, amount * w, x, softplus))
        for kernel, bound in ((("rbf", 1.0), 1e-9), (("rbf", 0.7), 1e-9), (("arc_cosine",), 2e-3)):
            u = stein_matrix(kernel, x, y, s, s_y, ("sphere",))
            error, scale = abs(density @ u).max() / density.sum(), abs(u).max()
            good += [_report(f"quadrature S^2 {name} {kernel} E u / max u", error / scale, bound)]
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(40)
    theta2, w2 = rng.normal(size=(4, 2)), 3 * rng.normal(size=4)
    x = 0.8 * np.array([[a, b] for a in nodes for b in nodes])
    weights = np.array([a * b for a in node_weights for b in node_weights])
    y = rng.normal(size=(2, 2))
    for name, amount in (("f = 0", 0.0), ("softplus f", 1.0)):
        s, s_y = (score(theta2, amount * w2, p, softplus_slope, ("flat", 0.8)) for p in (x, y))
        density = weights * np.exp(-network(theta2, amount * w2, x, softplus))
        u = stein_matrix(("rbf", 1.0), x, y, s, s_y, ("flat", 0.8))
        good += [_report(f"quadrature N(0, .8^2 I) R^2 {name} E u", abs(density @ u).max() / density.sum(), 1e-6)]
    # ReLU f and ReLU critics, S^1 and N(0, .8^2 I) in R^2, rules split at every kink: to rounding
    node, node_weight = np.polynomial.legendre.leggauss(60)
    radii = [(4 * (t + 1), 4 * q) for t, q in zip(node, node_weight, strict=True)]
    theta2, w2, y = rng.normal(size=(3, 2)), 3 * rng.normal(size=3), _unit(rng, 1, 2)
    v, omega = rng.normal(size=(2, 2)), rng.normal(size=(2, 2, 2))
    turns = [np.arctan2(a[1], a[0]) + q for a in (*theta2, *omega[0], *omega[1]) for q in (np.pi / 2, -np.pi / 2)]
    turns += [np.arctan2(y[0, 1], y[0, 0]) + q for q in (0, np.pi)]  # the arc-cosine kernel's own
    for space in (("sphere",), ("flat", 0.8)):
        x, weights = _arc_rule(turns, None if space[0] == "sphere" else radii)
        density = weights * np.exp(-network(theta2, w2, x))
        if space[0] == "flat":
            density = density * np.exp(-np.sum(x**2, axis=1) / (2 * 0.8**2))
        s, s_y = (score(theta2, w2, p, relu_slope, space) for p in (x, y))
        for kernel in (("rbf", 1.0), ("arc_cosine",)):
            u = stein_matrix(kernel, x, y, s, s_y, space)
            good += [
                _report(f"quadrature {space} d=2 relu f {kernel} E u", abs(density @ u).max() / density.sum(), 1e-9)
            ]
        error = abs(critic_objective(v, omega, x, s, space, density)).max()
        good += [_report(f"quadrature {space} d=2 relu f relu critics E", error, 1e-9)]
    # Monte Carlo, d = 5: mean / standard error for 3 points y; f is mild, so that exp(-f) has a useful variance
    theta, w = rng.normal(size=(4, 5)), 2 * rng.normal(size=4)
    count, y = 6000, _unit(rng, 3, 5)
    for space, name in itertools.product((("sphere",), ("flat", 0.8)), ("f = 0", "relu f")):
        x = _unit(rng, count, 5) if space[0] == "sphere" else 0.8 * rng.normal(size=(count, 5))
        amount = 1.0 if name == "relu f" else 0.0
        s, s_y = (score(theta, amount * w, p, relu_slope, space) for p in (x, y))
        density = np.exp(-network(theta, amount * w, x))
        print(f"     effective sample {density.sum() ** 2 / (density**2).sum():.0f} of {count}")
        for kernel in (("rbf", 1.0), ("arc_cosine",)):
            u = density[:, None] * stein_matrix(kernel, x, y, s, s_y, space)
            deviation = abs(u.mean(0)) / (u.std(0) / np.sqrt(count))
            print(f"     means {u.mean(0).round(4)}, standard errors {(u.std(0) / np.sqrt(count)).round(4)}")
            good += [_report(f"Monte Carlo {space} {name} {kernel} |mean| / error", deviation.max(), 4)]
        v, omega = rng.normal(size=(5, 3)), rng.normal(size=(5, 3, 5))
        blocks = np.array([
            critic_objective(v, omega, x[k::30], s[k::30], space, density[k::30]) * density[k::30].mean()
            for k in range(30)
        ])  # fmt: skip
        deviation = abs(blocks.mean(0)) / (blocks.std(0, ddof=1) / np.sqrt(30))
        good += [_report(f"Monte Carlo {space} {name} critics |mean| / error", deviation.max(), 4)]
    # wrong operator must fail: without -(d - 1) x
    x = _unit(rng, 3000, 5)
    zero = np.zeros(x.shape)
    u = stein_matrix(("rbf", 1.0), x, y[:1], zero + 4 * x, 4 * y[:1], ("sphere",))
    print(f"     without the -(d - 1) x: mean {u.mean():.3f}, standard error {u.std() / np.sqrt(3000):.3f}")
    return [*good, abs(u.mean()) > 20 * u.std() / np.sqrt(3000)]


def _check_discrepancies(rng):
    good = []
    for space, d in ((("sphere",), 3), (("sphere",), 4), (("flat", None), 3), (("flat", 0.8), 3)):
        x = _unit(rng, 7, d) if space[0] == "sphere" else rng.normal(size=(7, d))
        theta, w = rng.normal(size=(3, d)), 3 * rng.normal(size=3)
        for statistic, slope in itertools.product(("U", "V"), (softplus_slope, relu_slope)):
            kernel = ("rbf", 1.0) if statistic == "U" else ("arc_cosine",)
            if slope is relu_slope:
                assert abs(theta @ x.T).min() > 1e-4
            in_w, in_theta = ksd_parameter_gradient(kernel, theta, w, x, slope, space, statistic)
            # by hand: dKSD^2 = (2 / norm) sum_ij ds_i . (k stilde_j + P_y d_y k), at pairs of the statistic
            pull = np.zeros((7, d))
            for i, j in itertools.product(range(7), range(7)):
                if statistic == "V" or i != j:
                    k, _, k_y, _ = kernel_terms(kernel, x[i], x[j])
                    s_j = score(theta, w, x[j : j + 1], slope, space)[0]
                    pull[i] += 2 * (k * shifted_score(s_j, x[j], space) + projector(x[j], space) @ k_y)
            pull /= 49 if statistic == "V" else 42
            hand_w = np.zeros(3)
            for i, j in itertools.product(range(7), range(3)):
                hand_w[j] -= pull[i] @ projector(x[i], space) @ theta[j] * slope(theta[j] @ x[i]) / 3
            hand_theta = np.zeros((3, d))
            for i, j in itertools.product(range(7), range(3)):
                t, q = theta[j] @ x[i], projector(x[i], space) @ pull[i]
                curve = softplus_slope(t) * softplus_slope(-t) if slope is softplus_slope else 0.0
                hand_theta[j] -= w[j] * (slope(t) * q + curve * (q @ theta[j]) * x[i]) / 3
            error = max(abs(hand_w - in_w).max(), abs(hand_theta - in_theta).max())
            good += [_report(f"KSD gradient {space} d={d} {kernel} {statistic} {slope.__name__}", error, 1e-7)]
    # arc-cosine u is the mean over unit omega of the single-neuron critics, d = 2: links B.2 and B.3
    count = 20_000
    angles = 2 * np.pi * (np.arange(count) + 0.5) / count
    for space in (("sphere",), ("flat", 0.8)):
        x = _unit(rng, 4, 2) if space[0] == "sphere" else rng.normal(size=(4, 2))
        s = score(rng.normal(size=(3, 2)), 3 * rng.normal(size=3), x, softplus_slope, space)
        total = 0.0
        for p in angles:
            omega = np.array([np.cos(p), np.sin(p)])
            total += np.sum(critic_objective(np.ones((2, 1)), np.stack([omega[None]] * 2), x, s, space) ** 2) / count
        gap = abs(total - ksd(("arc_cosine",), x, s, space, "V"))
        good += [_report(f"KSD_V arc-cosine against mean over critics {space}", gap, 1e-3)]
    # norms
    v, omega = 4 * rng.normal(size=(3, 6)), 3 * rng.normal(size=(3, 6, 3))
    norm = critic_norm(v, omega)
    good += [_report("exact norm", abs(critic_norm(*normalise_exact(v, omega)) - 1).max(), 1e-12)]
    left = critic_norm(*normalise_as_program(v, omega))
    print(f"     norms {norm.round(2)} -> as the program {left.round(3)}; 30.3 -> {30.3**0.25:.3f}")
    good += [_report("as the program: norm^(1/4)", abs(left - norm**0.25).max(), 1e-12)]
    # best critic
    for space, d in itertools.product((("sphere",), ("flat", None), ("flat", 0.8)), (2, 3)):
        for n in (5, 12):
            x = _unit(rng, n, d) if space[0] == "sphere" else rng.normal(size=(n, d))
            s = score(rng.normal(size=(3, d)), 3 * rng.normal(size=3), x, relu_slope, space)
            for i in range(d):
                brute, _ = best_critic(x, s, space, i)
                exact, at = best_critic_exact(x, s, space, i)
                name = f"best critic {space} d={d} n={n} i={i} value {exact:.4f}"
                good += [_report(f"{name}, exact - brute", abs(exact - brute) / exact, 1e-3), brute <= exact + 1e-12]
                terms = neuron_terms(x, s, space, i)  # the exact value is a limit: it is reached next to its omega
                around = at + 1e-8 * rng.normal(size=(200, d))
                around = around / np.linalg.norm(around, axis=1, keepdims=True)
                near = max(neuron_value(p, x, terms) for p in around)
                good += [_report(f"{name}, exact - next to it", abs(exact - near) / exact, 1e-6)]
            best = max(best_critic_exact(x, s, space, i)[0] for i in range(d))
            v, omega = normalise_exact(rng.normal(size=(d, 4)), rng.normal(size=(d, 4, d)))
            good += [bool(abs(critic_objective(v, omega, x, s, space)).max() <= best + 1e-12)]
    return good


def _check_likelihood(rng):
    good = []
    pool, data = _unit(rng, 60, 3), _unit(rng, 9, 3)  # the model lives on the pool: log Z is an exact sum
    data_weights = rng.uniform(0.5, 2, 9)
    theta, w = rng.normal(size=(4, 3)), 2 * rng.normal(size=4)

    def loss(theta, w, profile=relu, weights=None):
        energies = network(theta, w, pool, profile)
        return average(network(theta, w, data, profile), weights) + np.log(np.mean(np.exp(-energies)))

    for profile, slope in ((relu, relu_slope), (softplus, softplus_slope)):
        weights = np.exp(-network(theta, w, pool, profile))
        g_w, g_theta = likelihood_gradient(theta, w, data, pool, weights, profile, slope)
        fd_w = 4 * central_gradient(lambda a, f=profile: loss(theta, a, f), w)
        fd_theta = 4 * central_gradient(lambda a, f=profile: loss(a, w, f), theta)
        error = max(abs(g_w - fd_w).max(), abs(g_theta - fd_theta).max())
        good += [_report(f"likelihood gradient {profile.__name__} against differences", error, 1e-7)]
        new = network_step(theta, w, (g_w, g_theta), 1e-2, 2.0, 0.0)
        fall = loss(*new, profile) - loss(theta, w, profile)
        good += [_report(f"loss after one step {profile.__name__} less before", fall, 0)]
    # independence Metropolis keeps exp(-f): chains from uniform, mean of f against importance sampling
    f_sharp = 3 * w
    x = _unit(rng, 4000, 3)
    for _ in range(25):
        proposals, uniforms = _unit(rng, 4000, 3), rng.uniform(size=4000)
        x, accepted = independence_metropolis(x, proposals, uniforms, lambda p: network(theta, f_sharp, p))
    rule, rule_weights = _sphere_rule(40, 80)
    energies = network(theta, f_sharp, rule)
    exact = average(energies, rule_weights * np.exp(-energies))
    seen = network(theta, f_sharp, x)
    print(f"     Metropolis E f {seen.mean():.4f} +- {seen.std() / np.sqrt(4000):.4f}, quadrature {exact:.4f}, "
          f"uniform {average(energies, rule_weights):.4f}, acceptance {accepted.mean():.2f}")  # fmt: skip
    deviation = abs(seen.mean() - exact) / (seen.std() / np.sqrt(4000))
    good += [_report("Metropolis |E f - quadrature| / error", deviation, 4)]
    # B.5: the three differences are gradients of L, and each update alone descends it
    c, u, z = rng.normal(size=5), rng.uniform(0.5, 1.5, 5), _unit(rng, 5, 3)
    u /= u.mean()

    def measure_loss(c, u, z):
        return loss(z, u * c, relu, data_weights)

    weights = np.exp(-network(z, u * c, pool))
    dc, dz = measure_differences(z, data, data_weights, pool, weights)
    error = abs(central_gradient(lambda a: measure_loss(a, u, z), c) - u * dc / 5).max()
    error = max(error, abs(central_gradient(lambda a: measure_loss(c, a, z), u) - c * dc / 5).max())
    error = max(error, abs(central_gradient(lambda a: measure_loss(c, u, a), z) - (u * c)[:, None] * dz / 5).max())
    good += [_report("B.5 dL/dc, dL/dw, dL/dz against differences", error, 1e-8)]
    start = measure_loss(c, u, z)
    for name, steps in (("c", (0.1, 0, 0)), ("z", (0, 0.05, 0)), ("w", (0, 0, 0.05)), ("all", (0.1, 0.05, 0.05))):
        new_c, new_u, new_z = measure_step(c, u, z, data, data_weights, pool, weights, steps=steps)
        fall = measure_loss(new_c, new_u, new_z) - start
        good += [_report(f"B.5 loss after the step of {name} less before", fall, 0)]
    near = [measure_step(c, u, z, data, data_weights, pool, weights, decay=a)[0] for a in (0.0, 1e-7)]
    good += [_report("B.5 decay -> 0", abs(near[0] - near[1]).max(), 1e-6)]
    # a short run of B.5 itself: S^2, two-neuron teacher, its points a rule weighted by exp(-f*)
    rule, rule_weights = _sphere_rule(12, 24)
    teacher = np.array([[1.0, 0, 0], [np.cos(2.552), np.sin(2.552), 0]])
    target = network(teacher, np.array([-2.5, -2.5]), rule)
    p = rule_weights * np.exp(-target)
    c, u, z = np.zeros(8), np.ones(8), _unit(rng, 8, 3)
    seen = []
    for k in range(61):
        energies = network(z, u * c, rule)
        q = rule_weights * np.exp(-energies)
        if k in (0, 10, 60):
            seen.append(average(energies - target, p) + np.log(q.sum() / p.sum()))
        c, u, z = measure_step(c, u, z, rule, p, rule, q, decay=1e-4)
    print(f"     B.5 run, m = 8, KL at 0, 10, 60: {np.round(seen, 4)} (MATH.md: .0649; m = 64: ~.055 at 10)")
    good += [_report("B.5 run: KL falls", max(seen[1] - seen[0], seen[2] - seen[1]), 0)]
    return good


if __name__ == "__main__":
    rng = np.random.default_rng(7)
    outcome = []
    for check in (_check_derivatives, _check_stein_identity, _check_discrepancies, _check_likelihood):
        print(f"---- {check.__name__}")
        outcome += check(rng)
    print(f"{sum(map(bool, outcome))} of {len(outcome)} pass")
    raise SystemExit(0 if all(outcome) else 1)
