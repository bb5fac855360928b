"""Sums over a whole split, and the IR errors of a pair.

Every example counts exactly once: the last batch is padded, and the padding
weighs nothing.
"""

import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_jax import hosts, losses
from lit_jax.blocks import BlockNet, infer
from lit_jax.data.dataset import Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.training import devices
from lit_jax.training.state import STUDENT, Variables

# Large enough to be fast, small enough for any device's memory: examples on a
# device, and numbers that these have together where each is large.
_MOST_PER_DEVICE, _NUMBERS_PER_DEVICE = 250, 1_000_000

Program = Callable[..., dict[str, jax.Array]]
Sums = dict[str, np.ndarray]


def summed(program: Program, split: Split) -> Callable[..., Sums]:
  """A function that adds a program's sums up over a split.

  Args:
    program: pure; of whatever the function is called with, a batch's inputs
      and labels, and `valid`, float32 [n], 0 for the padding of the last batch.
      Returns float32 sums over the valid examples, by name.
    split: whose leaves [N, …] make the batches.

  Returns:
    A function of the same leading arguments that gives the sums over the split
    and all devices, float64.
  """
  mapped = over_devices(program)

  def run(*arguments: Any) -> Sums:
    return _total(mapped(arguments, *batch) for batch in _batches(split))

  return run


def outputs(program: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
  """A function that runs a program over splits.

  Args:
    program: pure; of whatever the function is called with after the split, and
      a batch's inputs and labels. Returns leaves [n, …].

  Returns:
    A function of a split, whose leaves [N, …] make the batches, and of those
    arguments, that gives the program's outputs batch by batch, on the host,
    without padding. It compiles once for batches of one shape.
  """

  def batch(arguments, batch, valid):
    del valid
    return program(*arguments, *batch)

  mapped = devices.map_outputs(batch)

  def run(split: Split, *arguments: Any) -> Iterator[Any]:
    done = 0
    for batch, valid in _batches(split):
      out = jax.device_get(mapped(arguments, batch, valid))
      size = valid.size * hosts.count()
      kept = min(size, split.examples - done)
      done += kept
      yield jax.tree.map(
        lambda x, size=size, kept=kept: x.reshape((size, *x.shape[2:]))[:kept],
        out,
      )

  return run


def over_devices(program: Program) -> Program:
  """A program's sums over all devices.

  Returns:
    A function of the leading arguments, a batch and `valid`, the last two cut
    by `devices.shard`.
  """

  def total(arguments, batch, valid):
    return lax.psum(program(*arguments, *batch, valid), devices.AXIS)

  return devices.map_evaluation(total)


def _batches(split: Split) -> Iterator[tuple[Split, np.ndarray]]:
  """This process's share of each batch, cut by its devices, and `valid`."""
  count = jax.device_count()
  batches = math.ceil(split.examples / (_most_per_device(split) * count))
  # As equal as can be: padding costs as much as examples.
  size = math.ceil(split.examples / (batches * count)) * count
  for start in range(0, split.examples, size):
    rows = hosts.share(np.arange(start, start + size), 0)
    valid = (rows < split.examples).astype(np.float32)
    batch = split.take(np.minimum(rows, split.examples - 1))
    yield devices.shard(batch), devices.shard(valid)


def _most_per_device(split):
  """Examples that have at most _NUMBERS_PER_DEVICE inputs together."""
  leaves = jax.tree.leaves(split.inputs)
  numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
  return min(_MOST_PER_DEVICE, max(1, _NUMBERS_PER_DEVICE // numbers))


def _total(parts) -> Sums:
  # float64 on the host: float32 sums of a large split lose digits.
  rows = [
    {name: np.asarray(value, np.float64) for name, value in part.items()}
    for part in parts
  ]
  return {name: np.sum([row[name] for row in rows], 0) for name in rows[0]}


class Reader(NamedTuple):
  """A network with what it needs to run.

  Attributes:
    net: the network.
    variables: its own, on all devices.
    preprocess: what makes its inputs.
    others: the variables of the networks that its task trained beside it.
  """

  net: BlockNet
  variables: Variables
  preprocess: Preprocess
  others: Mapping[str, Variables] = types.MappingProxyType({})

  @property
  def learners(self) -> dict[str, Variables]:
    """All of them by name."""
    return {STUDENT: self.variables, **self.others}


def ir_errors(
  teacher: Reader, student: Reader, split: Split
) -> dict[str, dict[str, float]]:
  """The student's error at every cut, relative to the teacher's variance.

  Returns:
    For every block 'teacher_input' (fed with the teacher's previous IR) and
    'own_input' (with the student's own): mean squared difference to the
    teacher's IR, divided by that IR's variance over examples and elements. 0
    is the teacher's own block, 1 is a constant. Before them the 'stem', which
    has its own input alone.
  """
  program = ir_error_program(
    teacher.net, teacher.preprocess, student.net, student.preprocess
  )
  # Labels have no part in it.
  sums = summed(program, Split(split.inputs, None))(
    teacher.variables, student.variables
  )
  means = {name: value / sums['examples'] for name, value in sums.items()}
  variance = means['square'] - means['sum'] ** 2
  own = means['own_input'] / variance
  fed = means['teacher_input'] / variance[1:]
  return {'stem': {'own_input': float(own[0])}} | {
    name: {'teacher_input': float(fed[i]), 'own_input': float(own[i + 1])}
    for i, name in enumerate(student.net.block_names)
  }


def ir_error_program(
  teacher: BlockNet,
  teacher_preprocess: Preprocess,
  student: BlockNet,
  preprocess: Preprocess,
) -> Program:
  """The pure program (teacher's, student's variables, a batch, valid) → sums.

  Returns float32 sums over the valid examples, each of a mean over the elements
  of an example: by block, [k], the squared error of the student's block against
  the teacher's IR where it is fed with the teacher's previous IR
  ('teacher_input'); by cut, T_0 to T_k, [k + 1], that of the student's own IR
  ('own_input'), the teacher's IR ('sum') and its square ('square'); and
  'examples', their number.
  """

  def program(teacher_variables, variables, inputs, labels, valid):
    del labels
    x = teacher_preprocess.normalize(inputs)
    _, targets = infer(teacher, teacher_variables, x)
    _, own = infer(student, variables, preprocess.normalize(inputs))
    rows = {'teacher_input': [], 'own_input': [], 'sum': [], 'square': []}
    for i in range(len(student.blocks)):
      fed = infer(student, variables, targets[i], i, method='block')
      rows['teacher_input'].append(losses.l2(fed, targets[i + 1]))
    for ir, target in zip(own, targets, strict=True):
      target = target.astype(jnp.float32)
      rows['own_input'].append(losses.l2(ir, target))
      axes = tuple(range(1, target.ndim))
      rows['sum'].append(target.mean(axes))
      rows['square'].append(jnp.square(target).mean(axes))
    sums = {
      name: (jnp.stack(v) * valid[None]).sum(-1) for name, v in rows.items()
    }
    return sums | {'examples': valid.sum()}

  return program
