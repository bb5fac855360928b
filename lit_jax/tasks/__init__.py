"""What families of networks are trained for, one file each."""

from lit_jax.tasks.classify import Classify

TASKS = {'classify': Classify}
