"""How long a forward pass takes on the device at hand."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lit_jax.blocks import BlockNet, example
from lit_jax.errors import UserError

_WARM_UP = 2
_SECONDS = 0.5
# Whatever integers stand for, a pixel or an entry of a table, these exist.
_INTEGERS = 32


class Latency(NamedTuple):
  """Wall times of many passes, in milliseconds: their median and quartiles."""

  median: float
  lower: float
  upper: float


def forward_pass(
  net: BlockNet, variables: Any, batch: int
) -> Callable[[], None]:
  """A function that makes one eval-mode forward pass and waits for its end.

  It is compiled, and variables and input lie on the default device.

  Args:
    net: an unbound `BlockNet`.
    variables: its collections ('params' and any others, such as
      'batch_stats').
    batch: examples a pass.

  Raises:
    UserError: `batch` is less than 1.
    jax.errors.JaxRuntimeError: the device cannot, for instance for want of
      memory.
  """
  _check_count('batch', batch)

  # Only the output leaves the function, so XLA drops the other results.
  @jax.jit
  def forward(variables: Any, x: jax.Array) -> Any:
    return net.apply(variables, x, train=False)[0]

  x = jax.tree.map(_noise, example(net, batch))
  variables, x = jax.block_until_ready(jax.device_put((variables, x)))

  def run() -> None:
    jax.block_until_ready(forward(variables, x))

  for _ in range(_WARM_UP):
    run()
  return run


def interleaved(
  passes: Sequence[Callable[[], None]], repeats: int = 5
) -> list[Latency]:
  """The time of each pass, where they take turns.

  What else the machine does, and how warm it is, then falls on all alike, so
  that their ratios can be trusted further than their times.

  Args:
    passes: as `forward_pass` makes them.
    repeats: the fewest turns; there are more until about half a second has been
      spent on each pass.

  Raises:
    UserError: `repeats` is less than 1.
  """
  _check_count('repeats', repeats)
  times: list[list[float]] = [[] for _ in passes]
  start = time.perf_counter()
  turns = 0
  while turns < repeats or (
    time.perf_counter() - start < _SECONDS * len(passes)
  ):
    for run, own in zip(passes, times, strict=True):
      before = time.perf_counter()
      run()
      own.append(1e3 * (time.perf_counter() - before))
    turns += 1
  return [_latency(own) for own in times]


def latency_ms(
  net: BlockNet, variables: Any, batch: int, repeats: int = 5
) -> float:
  """The median of one network alone, in milliseconds a pass (not an example).

  Args:
    net: as `forward_pass` takes it.
    variables: its own.
    batch: examples a pass.
    repeats: as `interleaved` takes them.

  Raises:
    UserError: `batch` or `repeats` is less than 1.
  """
  _check_count('repeats', repeats)
  return interleaved([forward_pass(net, variables, batch)], repeats)[0].median


def _check_count(name, count):
  if count < 1:
    raise UserError(f'{name} must be at least 1, got {count}')


def _latency(times):
  if len(times) == 1:
    return Latency(times[0], times[0], times[0])
  lower, median, upper = statistics.quantiles(times, n=4, method='inclusive')
  return Latency(median, lower, upper)


def _noise(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Rather than zeros: a processor's clock may depend on the data."""
  key = jax.random.key(0)
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return jax.random.randint(key, leaf.shape, 0, _INTEGERS, leaf.dtype)
  return jax.random.normal(key, leaf.shape, leaf.dtype)
