"""The training methods, one file each. `dualebm.methods.base.Method` is their contract; docs/your_own_method.md builds a method."""
