"""The training methods, one file each, all with one contract: see `dualebm.methods.dual.Dual`.

A method is a frozen dataclass of what is static; it holds no arrays. It has

    rates                                its default rates, a NamedTuple of scalars; a sweep varies these
    check(rates, data)                   raises ValueError on bad input; on the host, before anything compiles
    init(key, rates, data) -> state      a NamedTuple of arrays with the fields `step` and `acceptance`
    step(key, state, rates, data)        one iteration, deterministic in its arguments
    energy(state, rates, data) -> U      the model is exp(-U) times the base measure
    diverged(state) -> code              0, or the index of a cause in `dualebm.training.simulate.DIVERGENCE`

where it knows log Z of its energy by weighted walkers

    log_partition(state) -> value, error
    caution(state) -> words or None      what a run warns of, on the host: weights that have collapsed

and, where its particles can be split over devices (see `dualebm.training.sharding`), `paired(state)`, which arrays are
of the particles, and a last argument `axis` of `step`.
"""
