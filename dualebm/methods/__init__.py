"""The training methods, one file each. `dualebm.methods.base.Method` is their contract."""
