"""How long a forward pass takes on the device at hand."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from lit_jax.blocks import BlockNet, example
from lit_jax.errors import UserError

_WARM_UP = 2
_SECONDS = 0.5
# Whatever integers stand for, a pixel or an entry of a table, these exist.
_INTEGERS = 32


def _noise(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Rather than zeros: a processor's clock may depend on the data."""
  key = jax.random.key(0)
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return jax.random.randint(key, leaf.shape, 0, _INTEGERS, leaf.dtype)
  return jax.random.normal(key, leaf.shape, leaf.dtype)


def latency_ms(
  net: BlockNet, variables: Any, batch: int, repeats: int = 5
) -> float:
  """Median wall time of one eval-mode forward pass, in milliseconds.

  The time runs from the call of the compiled function on the default device
  until its output is ready there; compilation and the copy of the variables
  and of the input to the device are left out.

  Args:
    net: an unbound `BlockNet`.
    variables: its collections ('params' and any others, such as
      'batch_stats').
    batch: examples a pass.
    repeats: the fewest passes to time; more are timed until about half a
      second has been spent.

  Returns:
    Milliseconds a pass (not an example).

  Raises:
    UserError: `batch` or `repeats` is less than 1.
  """
  if batch < 1:
    raise UserError(f'batch must be at least 1, got {batch}')
  if repeats < 1:
    raise UserError(f'repeats must be at least 1, got {repeats}')

  # Only the output leaves the function, so XLA drops the other results.
  @jax.jit
  def forward(variables: Any, x: jax.Array) -> Any:
    return net.apply(variables, x, train=False)[0]

  x = jax.tree.map(_noise, example(net, batch))
  variables, x = jax.block_until_ready(jax.device_put((variables, x)))
  for _ in range(_WARM_UP):
    jax.block_until_ready(forward(variables, x))

  times: list[float] = []
  start = time.perf_counter()
  while len(times) < repeats or time.perf_counter() - start < _SECONDS:
    before = time.perf_counter()
    jax.block_until_ready(forward(variables, x))
    times.append(time.perf_counter() - before)
  return 1e3 * statistics.median(times)
