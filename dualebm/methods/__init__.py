"""The training methods, one file each. Their contract is `dualebm.methods.base.Method`; the guide's "Your own method" builds one."""
