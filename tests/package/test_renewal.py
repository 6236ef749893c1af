"""Trainings that adapt and are renewed, and checks by fresh samples, where all is known in closed form."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

from dualebm.base_measures import Flat
from dualebm.cli import report
from dualebm.data import targets
from dualebm.energies.networks import MLP
from dualebm.flows import adaptation, jarzynski, renewal
from dualebm.log_z import fresh, tempering
from dualebm.log_z.temperatures import choose_path
from dualebm.measures import Samples
from dualebm.methods.base import AdaptedSteps, Info, Iterate
from dualebm.methods.contrastive import Contrastive
from dualebm.methods.jarzynski import Jarzynski, algorithm_1
from dualebm.metrics import AnnealedCheck
from dualebm.metrics import walkers as of_walkers
from dualebm.metrics.annealed import findings
from dualebm.metrics.base import Metric
from dualebm.spaces import Euclidean, Sphere
from dualebm.training.run import run
from dualebm.training.simulate import start, step
from tests.normal_energy import Normal, at_rest

LINE = Euclidean(1, Flat())
ENERGY = Normal(jnp.float32(1.0), jnp.float32(4.0))
LOG_Z = 0.5 * np.log(2 * np.pi / 4)
METHOD = Jarzynski(LINE, at_rest, walkers=2000, optimiser="gradient", renewal=4, target=0.95)
DATA = Samples(jnp.array(np.random.default_rng(0).normal(1.0, 0.5, (200, 1)).astype("float32")))
FIXED = algorithm_1(LINE, at_rest, walkers=100, optimiser="gradient")
RATES = METHOD.rates._replace(learning_rate=0.3)


def lost(count=2000):
    """Particles that have lost the model, of two resamplings, whose log Z is 0.25 too high."""
    weights = jarzynski.Weights(
        jnp.full(count, 0.5), jnp.float32(LOG_Z - 0.25), jnp.zeros(count, jnp.int32), jnp.int32(2)
    )
    return jnp.full((1, count), 9.0), renewal.begin(weights)


@jax.jit
def renewed(key):
    return renewal.renew(key, ENERGY, LINE, *lost())


def test_a_renewal_redraws_the_particles_and_says_how_far_log_z_was_off():
    x, weights = renewed(jax.random.key(0))
    assert np.mean(np.asarray(x)) == pytest.approx(1, abs=5 * 0.5 / 2000**0.5) and np.std(np.asarray(x)) == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(weights.log_weights, 0)
    assert float(weights.log_partition) == pytest.approx(LOG_Z, abs=1e-6) and int(weights.resamplings) == 2
    assert float(weights.renewed.drift) == pytest.approx(0.25, abs=1e-5) and bool(weights.renewed.known)
    assert weights.ancestors.tolist() == list(range(2000))
    assert [float(v) for v in jarzynski.value_of_training(weights)] == pytest.approx([LOG_Z, 0], abs=1e-4)
    older = weights._replace(renewed=weights.renewed._replace(age=jnp.float32(0.4), error=jnp.float32(0.03)))
    assert float(jarzynski.value_of_training(older)[1]) == pytest.approx(np.hypot(0.1, 0.03), rel=1e-4)  # drift times age, and error


def test_fresh_samples_go_the_way_that_is_asked_for():
    teacher, key = targets.teacher("s2_bimodal"), jax.random.key(3)
    found = fresh.draw(key, teacher.energy, teacher.space, 64, moves=2, fraction=0.97)
    path_key, follow_key = jax.random.split(key)
    path = choose_path(path_key, teacher.energy, teacher.space, moves=2, fraction=0.97)
    islands = tempering.follow(follow_key, teacher.energy, teacher.space, path, 64, moves=2)
    np.testing.assert_allclose(found.points, islands.points, atol=1e-6)
    assert int(path.length) > int(choose_path(path_key, teacher.energy, teacher.space, moves=2).length)


def test_fresh_samples_that_are_not_trusted_leave_the_particles_as_they_are(monkeypatch):
    exact = fresh.draw
    monkeypatch.setattr(fresh, "draw", lambda *arguments: exact(*arguments)._replace(trusted=jnp.asarray(False)))
    x, weights = jax.jit(lambda key: renewal.renew(key, ENERGY, LINE, *lost()))(jax.random.key(0))
    np.testing.assert_array_equal(x, 9.0)
    np.testing.assert_array_equal(weights.log_weights, 0.5)
    assert np.isnan(jarzynski.value_of_training(weights)[1])


def test_the_error_of_multinomial_resampling_counts_from_the_last_renewal():
    _, weights = renewed(jax.random.key(0))
    assert float(jarzynski.log_partition(weights, "multinomial")[1]) < 1e-4  # 1 / N of N families, less (0 + 1) / N
    since = weights._replace(ancestors=weights.ancestors // 3, resamplings=jnp.int32(3))
    assert float(jarzynski.log_partition(since, "multinomial")[1]) == pytest.approx(2000**-0.5, rel=1e-2)  # 3 / N, less (1 + 1) / N
    assert float(jarzynski.log_partition(since)[1]) == pytest.approx(1000**-0.5, rel=1e-2)  # 3 / N, less 1 / N


def test_a_share_of_a_step_leaves_the_effective_fraction_at_the_target():
    rng = np.random.default_rng(0)
    log_weights, slopes = rng.normal(0, 0.5, 500).astype("float32"), rng.normal(3, 4, 500).astype("float32")

    def size(log_weights):
        w = np.exp(log_weights.astype(float))
        return w.sum() ** 2 / (w**2).sum()

    share = float(jax.jit(adaptation.share_of_step)(jnp.array(log_weights), jnp.array(slopes), 0.9))
    assert 0 < share < 1 and size(log_weights - share * slopes) == pytest.approx(0.9 * size(log_weights), rel=1e-4)
    assert float(adaptation.share_of_step(jnp.array(log_weights), jnp.array(1e-3 * slopes), 0.9)) == 1


def test_moves_aim_at_half_of_the_correlation():
    """At rho = 0.8 after 2 moves, log(1/2) / log(0.8) times 2 moves are aimed at."""
    adapted, one = adaptation.begin(jnp.ones(2), jnp.float32), jnp.float32(1)
    after = jax.jit(lambda adapted, rho: adaptation.adapt(adapted, jnp.int32(2), rho, 0.6 * one, 1, 50))
    for _ in range(200):
        adapted = after(adapted, jnp.float32(0.8))
    assert np.exp(float(adapted.log_moves)) == pytest.approx(2 * np.log(0.5) / np.log(0.8), rel=1e-3)
    assert int(adaptation.moves_of(adapted, 1, 50)) == 6 and int(adaptation.moves_of(adapted, 1, 4)) == 4
    assert float(after(adaptation.begin(jnp.ones(2), jnp.float32), jnp.float32(-0.3)).log_moves) == 0


def test_correlation_of_slopes():
    after, x = Normal(jnp.float32(1.0), jnp.float32(5.0)), jnp.array(np.random.default_rng(1).normal(size=(2, 3000)).astype("float32"))
    moved = 0.6 * x + 0.8 * x[:, ::-1]  # a slope is |x - 1|^2 / 2 in all
    of = lambda x: np.sum((np.asarray(x) - 1) ** 2, axis=0)[:1000]  # noqa: E731
    assert float(adaptation.correlation(ENERGY, after, x, moved)) == pytest.approx(np.corrcoef(of(x), of(moved))[0, 1], abs=1e-5)


def test_a_training_that_adapts_finds_the_law_of_the_data():
    """It chooses a learning rate below the given one, its log Z is within its error, and each record has the steps that were chosen."""
    state, chosen = start(jax.random.key(1), METHOD, RATES, DATA), []
    for i in range(160):
        state, info = step(jax.random.key(i), METHOD, state, RATES, DATA)
        chosen.append([float(number) for number in info.adapted])
        if i == 0:
            assert np.isnan(METHOD.log_partition(state)[1])  # before the first check
    energy, (value, error) = METHOD.energy(state, RATES, DATA), METHOD.log_partition(state)
    x = np.asarray(DATA.points, float)
    assert float(energy.mean) == pytest.approx(x.mean(), abs=0.05) and float(energy.precision) == pytest.approx(1 / x.var(), rel=0.15)
    assert np.isfinite(error) and abs(float(value) - float(energy.log_partition(LINE))) < 4 * float(error) + 1e-6
    assert min(factor for factor, *_ in chosen) < 0.9 and max(moves for _, moves, _ in chosen) <= 4
    assert float(info.acceptance) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("rate", [0.01, 10.0])
def test_a_learning_rate_that_is_far_too_small_or_large_adapts(rate):
    """The precision starts at 4, and goes to 1 / var x. At a fixed rate of .01 it would go a tenth of the way in 60 iterations."""
    wide = Samples(1 + 1.5 * (DATA.points - 1))
    rates, wanted = RATES._replace(learning_rate=rate), 1 / np.var(np.asarray(wide.points, float))
    state = start(jax.random.key(1), METHOD, rates, wide)
    for i in range(80):
        state, _ = step(jax.random.key(i), METHOD, state, rates, wide)
    assert float(METHOD.energy(state, rates, wide).precision) == pytest.approx(wanted, rel=0.2)


def test_the_learning_rate_follows_the_cosine_of_the_last_step_and_the_gradient():
    rng = np.random.default_rng(2)
    change, gradient = ({"a": rng.normal(size=3), "b": rng.normal(size=(2, 2))} for _ in range(2))
    u, v = (np.concatenate([part["a"], part["b"].ravel()]) for part in (change, gradient))
    adapted = adaptation.begin(change, jnp.float32)._replace(change=change, log_rate=jnp.float32(0.3))
    wanted = 0.3 + 0.1 * (0.3 - (u @ v) / np.linalg.norm(u) / np.linalg.norm(v))
    assert float(adaptation.log_rate_of(adapted, gradient, 20.0)) == pytest.approx(wanted, abs=1e-6)
    assert float(adaptation.log_rate_of(adapted, gradient, 1.0)) == 0  # an optimiser with a rate of its own
    assert float(adaptation.log_rate_of(adapted, jax.tree.map(jnp.zeros_like, gradient), 20.0)) == pytest.approx(0.33)


def test_an_optimiser_with_a_rate_of_its_own_is_only_cut():
    slow = RATES._replace(learning_rate=1e-3)
    own = Jarzynski(LINE, at_rest, walkers=2000, optimiser=lambda: optax.sgd(1.0), renewal=None)
    factors = []
    for method in (METHOD, own):
        state = start(jax.random.key(1), method, slow, DATA)
        for i in range(5):
            state, info = step(jax.random.key(i), method, state, slow, DATA)
        factors.append(float(info.adapted.rate_factor))
    assert factors[0] > 1.2 and factors[1] == 1


def test_a_step_leaves_the_effective_fraction_above_the_target():
    """Before any resampling an iteration keeps about 0.95 of the effective fraction, though the whole step would leave a few particles."""
    fast = RATES._replace(learning_rate=30.0)
    first = start(jax.random.key(1), METHOD, fast, DATA)
    _, info = step(jax.random.key(0), METHOD, first, fast, DATA)
    assert 0.9 < float(info.effective_fraction) < 0.97 and float(info.adapted.rate_factor) < 0.1


@pytest.mark.parametrize("method", [METHOD, Contrastive(LINE, at_rest, walkers=200, optimiser="gradient", renewal=4)], ids=type)
def test_an_adapted_training_that_was_interrupted_ends_the_same(method, tmp_path):
    """Bit for bit, with what it adapts and what its renewals have measured. It is stopped between two renewals, and once after one."""
    metrics = {"adapted": of_walkers.AdaptedSteps()} | ({"log_z": of_walkers.LogPartition()} if method is METHOD else {})
    call: dict[str, Any] = dict(steps=24, every=2, segment=2, metrics=metrics, progress=False)
    rates = method.rates._replace(learning_rate=3.0)
    whole, records = run(jax.random.key(5), method, rates, DATA, **call)
    for end in (6, 14):
        stop = lambda results, end=end: results.step[-1] >= end  # noqa: E731
        run(jax.random.key(5), method, rates, DATA, **call, folder=tmp_path / "run", callback=stop)
    state, resumed = run(jax.random.key(5), method, rates, DATA, **call, folder=tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert resumed.equals(records) and float(state.adapted.log_particle) != 0 and int(state.step) == 24
    if method is METHOD:
        assert bool(state.weights.renewed.known) and float(records.adapted[1:, 0].min()) < 1


@pytest.mark.heavy
def test_particles_without_weights_adapt_and_are_renewed():
    method = Contrastive(LINE, at_rest, walkers=2000, optimiser="gradient", renewal=2)
    rates = method.rates._replace(learning_rate=30.0)
    state = start(jax.random.key(1), method, rates, DATA)
    for i in range(2):
        state, info = step(jax.random.key(i), method, state, rates, DATA)
    assert float(info.adapted.rate_factor) < 0.5
    energy = method.energy(state, rates, DATA)  # the particles are now exact samples of it
    x = np.asarray(state.particles, float)
    assert x.mean() == pytest.approx(float(energy.mean), abs=5 * x.std() / 2000**0.5)
    assert x.var() * float(energy.precision) == pytest.approx(1, abs=5 * (2 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Jarzynski, dict(integrator="geodesic"), "integrator is 'geodesic', whose moves are not adjusted, and target is 0.9"),
        (Contrastive, dict(integrator="projected"), "whose moves are not adjusted"),
        (Jarzynski, dict(order="parameters_first"), "order is 'parameters_first' .* target None alone"),
        (Jarzynski, dict(increment="uncorrected"), "increment is 'uncorrected'"),
        (Jarzynski, dict(target=None, largest_moves=4), "largest_moves is 4 and target is None"),
        (Jarzynski, dict(moves=5, largest_moves=4), "largest_moves is 4; it must be at least moves, which is 5"),
        (Contrastive, dict(restart_every=1, largest_moves=4), "restart_every is 1, by which moves are fixed"),
        (Jarzynski, dict(target=1.5), "target is 1.5"),
        (Jarzynski, dict(renewal=0), "renewal is 0"),
    ],
)
def test_settings_that_do_not_go_together(kind, changes, message):
    space = LINE if changes.get("integrator") == "projected" else Sphere(3)
    with pytest.raises(ValueError, match=message):
        kind(space, MLP(4), **changes)


# -- Checks ---------------------------------------------------------------------------------------------------


def test_a_check_compares_the_particles_with_the_model():
    state = start(jax.random.key(1), METHOD, RATES, DATA)
    x, weights = lost()
    state = state._replace(columns=x, weights=weights, step=jnp.int32(8))
    metric = jax.jit(lambda key, state: AnnealedCheck(DATA, 4)(key, Iterate(METHOD, state, RATES, DATA)))
    found = np.asarray(metric(jax.random.key(3), state), float)
    log_z, data = 0.5 * np.log(2 * np.pi), np.asarray(DATA.points, float)
    assert found[0] == pytest.approx([0.5 * np.mean(data**2) + log_z, 0], abs=1e-5)
    assert found[1, 0] == pytest.approx(LOG_Z + 0.25 - log_z, abs=1e-5)
    assert found[2, 0] == pytest.approx(81 / 2 - 1 / 2, abs=0.1) and found[2, 1] == pytest.approx((0.5 / 1024) ** 0.5, rel=0.2)
    assert np.isnan(metric(jax.random.key(3), state._replace(step=jnp.int32(6)))).all()
    assert not fresh.available(MLP(4), LINE) and fresh.available(ENERGY, LINE)


def checks(*rows):
    """Checks with errors of 0.01, of (cross-entropy, log Z off, energy off)."""
    return np.array([[[value, 0.01] for value in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([(-1.0, 0.0, 0.0), (-1.1, 0.05, 0.4)], []),
        ([(-1.1, 0.0, 0.0), (-1.02, 0.0, 0.0)], []),
        ([(-1.2, 0.0, 0.0), (-1.0, 0.0, 0.0)], []),  # it may come back
        ([(-1.2, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.1, 0.0, 0.0)], ["rise"]),
        ([(-1.2, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.18, 0.0, 0.0)], []),
        ([(-1.0, -0.2, 0.0)] * 2, ["log_partition"]),
        ([(-1.0, -0.2, 0.7)], []),  # once may be at a start that moves fast
        ([(-1.0, 0.0, 0.7), (-1.0, -0.2, 0.0)], []),
        ([(-1.0, np.nan, 0.6), (-1.0, np.nan, 0.6), (-1.0, np.nan, 0.0)], []),  # it has healed
        ([(-1.0, np.nan, -0.7)] * 2, ["particles"]),
        ([(-1.3, 0.2, 0.7), (-1.0, 9.0, 2.0), (-1.0, 9.0, 2.0)], ["log_partition", "particles", "rise"]),
    ],
)
def test_what_checks_say_against_a_run(rows, kinds):
    assert list(findings(checks(*rows))) == kinds
    unknown = np.full((1, 3, 2), np.nan)
    assert list(AnnealedCheck(DATA, 4).warnings(np.concatenate([unknown, checks(*rows), unknown]))) == kinds
    assert AnnealedCheck(DATA, 4).warnings(unknown) == {}


def test_at_the_end_one_check_is_enough_for_a_rise():
    rising, fallen = checks((-1.2, 0.0, 0.0), (-1.0, 0.0, 0.0)), checks((-1.2, 0.0, 0.0), (-1.18, 0.0, 0.0))
    unknown = np.full((1, 3, 2), np.nan)
    assert "0.2 nat lower" in report.note_of_rise(np.concatenate([rising, unknown]))
    assert report.note_of_rise(fallen) is report.note_of_rise(unknown) is None
    assert report.note_of_rise(np.concatenate([rising, rising[1:]])) is None  # a run has warned of it


def test_a_report_lists_the_checks_that_could_be_made():
    rows = np.concatenate([np.full((1, 3, 2), np.nan), checks((-1.0, np.nan, 0.5)), np.full((1, 3, 2), np.nan)])
    results = xarray.Dataset({"check": (("step", "row", "value"), rows)}, {"step": [0, 100, 200]})
    (made,) = report.checks(results, "check")
    assert made[:3] == (100, -1.0, 0.01) and np.isnan(made.log_partition_off) and made[5:] == (0.5, 0.01)


def test_remedies_fit_the_fault():
    said = findings(checks((-1.3, 5.0, -2.0), (-1.0, 9.0, -2.0)), ended=True)
    assert "9 nat off" in said["log_partition"] and "NOT TO BE TRUSTED" in said["log_partition"]
    assert "2 lower: they have lost parts" in said["particles"] and "0.3 nat lower" in said["rise"]
    assert "lag behind" in findings(checks(*[(-1.0, 0.0, 2.0)] * 2))["particles"]


class Odd(Metric):
    def __call__(self, key, iterate):
        return iterate.state.step * jnp.ones(())

    def warnings(self, values):
        return {kind: f"{kind} at {values[-1]:.0f}" for kind, least in (("odd", 4), ("late", 8)) if values[-1] >= least}


def test_a_run_warns_of_each_kind_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(
            jax.random.key(0), FIXED, FIXED.rates, DATA, steps=12, every=2, segment=2, progress=False, metrics={"odd": Odd()},
        )  # fmt: skip
    assert [str(w.message) for w in caught] == ["step 6: odd at 6", "step 10: late at 10"]
    unknown = of_walkers.AdaptedSteps()(jax.random.key(0), Iterate(METHOD, None, RATES, DATA))
    known = of_walkers.AdaptedSteps()(jax.random.key(0), Iterate(METHOD, None, RATES, DATA, Info(adapted=AdaptedSteps(*jnp.arange(3.0)))))
    assert np.isnan(unknown).all() and known.tolist() == [0, 1, 2]


def test_the_number_of_moves_after_a_restart_is_the_given_one():
    """It defines contrastive divergence. Without restarts the number is chosen."""
    free, restarted = (Contrastive(LINE, at_rest, walkers=200, optimiser="gradient", moves=2, restart_every=k) for k in (None, 1))
    assert (free.range_of_moves, restarted.range_of_moves) == ((2, 32), (2, 2))
    assert Jarzynski(LINE, at_rest, walkers=200, optimiser="gradient", moves=2, largest_moves=5).range_of_moves == (2, 5)
