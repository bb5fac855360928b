"""How a LIT step scales: timed over processes here, modelled for GPUs.

Processes of this machine have one CPU device and one core each, and speak by
gloo; more of them than cores share the cores. Each trains by the production
path, once with the batch for each of them (weak scaling), and once with it for
all together (strong scaling).

For GPUs the step is compiled for one (experiments/compiled.py) and for two, and
the bytes of every all-reduce are counted. What each takes by a model (`Links`)
is added to the modelled time of the step, as if nothing ran beside it. Nothing
of it is measured.
"""

import contextlib
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import rich.box
import rich.table

from experiments import ours
from experiments.process import Process, free_address
from lit_jax import hosts
from lit_jax.errors import UserError

_SECONDS = 60  # for which processes wait for each other


class Links(NamedTuple):
  """What joins GPUs, and what the model takes an all-reduce to need.

  Attributes:
    node: GPUs of a node.
    node_bytes_per_s: of a GPU within a node, in one direction; four fifths of
      NVLink's 450 GB/s.
    bytes_per_s: of a node; four fifths of eight links of 400 Gbit/s.
    node_us: microseconds of an all-reduce of nothing within a node. Assumed.
    doubling_us: more for every doubling of the nodes. Assumed.
  """

  node: int = 8
  node_bytes_per_s: float = 360e9
  bytes_per_s: float = 320e9
  node_us: float = 15.0
  doubling_us: float = 15.0


LINKS = Links()


def all_reduce_us(size: int, count: int, links: Links = LINKS) -> float:
  """Modelled microseconds of an all-reduce.

  Args:
    size: bytes.
    count: GPUs; of several nodes all have as many.
    links: between them.
  """
  if count == 1:
    return 0.0
  nodes = math.ceil(count / links.node)
  speed = links.node_bytes_per_s
  if nodes > 1:
    speed = min(speed, links.bytes_per_s)
  # Rings that use all links of a node send all but a part of it twice.
  moved = 2 * (count - 1) / count * size
  return (
    links.node_us + links.doubling_us * math.log2(nodes) + 1e6 * moved / speed
  )


def modelled(
  step_us: float, sizes: Sequence[int], counts: Sequence[int], batch: int
) -> list[dict[str, float]]:
  """Rows by number of GPUs, each of which has a batch of that size.

  Args:
    step_us: of a GPU alone.
    sizes: bytes of each all-reduce of a step.
    counts: GPUs.
    batch: examples of a GPU.
  """
  rows = []
  for count in counts:
    reduces = sum(all_reduce_us(size, count) for size in sizes)
    time = step_us + reduces
    rows.append(
      {
        'gpus': count,
        'global_batch': batch * count,
        'step_us': round(time, 1),
        'all_reduce_us': round(reduces, 1),
        'examples_per_s': round(1e6 * batch * count / time),
        'efficiency': round(step_us / time, 4),
      }
    )
  return rows


class Worker:
  """One of several processes that train together."""

  def __init__(self, address: str, count: int, index: int, settings: Any):
    """Compiles, and runs a first call; the batch is that of all."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[index % len(cores)]})
    if count > 1:
      hosts.start(address, count, index, _SECONDS)
      hosts.meet(_SECONDS)
    self._training = ours.Training(settings)
    self._training.warm_up()

  def turn(self) -> float:
    """Steps a second of one call."""
    return self._training.run(0)['steps_per_s']


class Together:
  """Processes that take their turns at the same time."""

  def __init__(self, count: int, settings: Mapping[str, Any]):
    address = free_address()
    self._pool = futures.ThreadPoolExecutor(count)

    def start(index):
      return Process(
        f'process {index} of {count}', 'experiments.scaling:Worker', address,
        count, index, dict(settings),
        environment={'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'},
      )  # fmt: skip

    started = [self._pool.submit(start, i) for i in range(count)]
    futures.wait(started)
    self._processes = [s.result() for s in started if not s.exception()]
    if len(self._processes) < count:
      self.close()
      for one in started:
        one.result()

  def turn(self) -> float:
    """Steps a second, as the slowest of them has it."""
    told = self._pool.map(lambda one: one.call('turn'), self._processes)
    return min(told)

  def close(self) -> None:
    for process in self._processes:
      process.close()
    self._pool.shutdown()


def measured(
  settings: Mapping[str, Any], counts: Sequence[int], turns: int
) -> list[dict[str, Any]]:
  """Rows by kind of scaling and number of processes, whose turns alternate.

  Args:
    settings: of the job (`ours.job`), whose batch is that of a process where
      each has one, and of all where all have one.
    counts: of processes; the speed-up is that in examples a second, and beside
      the first of them.
    turns: of each.

  Raises:
    UserError: a batch that cannot be cut, or a process that fails.
  """
  batch = settings['batch']
  for count in counts:
    if batch % count:
      raise UserError(
        f'--batches: {batch} examples cannot be cut for {count} processes'
      )
  rows = []
  for kind in ('weak', 'strong'):
    sizes = {c: batch * c if kind == 'weak' else batch for c in counts}
    with contextlib.ExitStack() as stack:
      groups = {
        count: stack.enter_context(
          contextlib.closing(Together(count, {**settings, 'batch': size}))
        )
        for count, size in sizes.items()
      }
      told = [
        {c: own.turn() for c, own in groups.items()} for _ in range(turns)
      ]
    first = counts[0]
    for count in counts:
      speeds = [turn[count] for turn in told]
      grown = sizes[count] / sizes[first]
      rows.append(
        {
          'scaling': kind,
          'processes': count,
          'batch': sizes[count],
          'steps_per_s': statistics.median(speeds),
          'low': min(speeds),
          'high': max(speeds),
          'speedup': statistics.median(
            grown * turn[count] / turn[first] for turn in told
          ),
          'turns': turns,
        }
      )
  return rows


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """All rows, for a terminal."""
  drawn = rich.table.Table(title=title, box=rich.box.SIMPLE)
  for name in rows[0]:
    drawn.add_column(name.replace('_', ' '), justify='right')
  for row in rows:
    drawn.add_row(
      *(f'{v:.4g}' if isinstance(v, float) else str(v) for v in row.values())
    )
  return drawn
