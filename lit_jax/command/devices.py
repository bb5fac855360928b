"""The devices of a command that trains, before JAX first computes."""

from lit_jax.training import startup

# Examples of a batch that a CPU core and a GPU get at the least, as in the
# configurations of images.
_CPU, _GPU = 16, 128


def use(batch_size: int) -> None:
  """Takes as many of the machine's devices as the batch goes round.

  What the user has told JAX stays as it is.

  Args:
    batch_size: examples of a batch.
  """
  startup.use_cores(batch_size, _CPU)
  startup.use_gpus(batch_size, _GPU)
  startup.use_graphs()
