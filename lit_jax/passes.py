"""The student's passes in a LIT step: from the input, and on the teacher's IRs.

In place of the teacher's IR alone, a block can be fed with a mixture of it and
the student's own.

Blocks that a step runs on both the student's own IR and the teacher's run once,
on both batches in one, where that is faster and where their examples meet
nowhere but in a batch norm that can tell the two apart. The numbers are those
of two runs up to rounding.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lit_jax.blocks import BlockNet, in_training
from lit_jax.layers import on_cpu, two_batches

Variables = dict[str, Any]


class Passes(NamedTuple):
  """What the student makes of a batch.

  Attributes:
    output: of the pass from the input.
    blocks: what each block puts out: fed by the teacher where that was asked
      for, else in the pass from the input.
    statistics: the new 'batch_stats'.
  """

  output: Any
  blocks: tuple[jax.Array, ...]
  statistics: Variables


class Feeding(NamedTuple):
  """Which blocks run on the teacher's IRs as well.

  Attributes:
    blocks: their indices, from 1.
    irs: the teacher's (T_0, …, T_k).
    in_statistics: whether running statistics follow that second run too, after
      the first.
    share: of the teacher in what they are fed with, the rest being the
      student's own IR; None is all.
  """

  blocks: tuple[int, ...]
  irs: tuple[jax.Array, ...]
  in_statistics: bool
  share: jax.Array | float | None = None

  def input(self, i: int, own: jax.Array) -> jax.Array:
    """What block i is fed with in the second run; `own` is the student's."""
    if self.share is None:
      return self.irs[i]
    mixed = self.share * self.irs[i] + (1 - self.share) * own
    return mixed.astype(own.dtype)


def run(
  student: BlockNet,
  variables: Variables,
  learns: Collection[str],
  inputs: Any,
  feeding: Feeding,
  method: str = '__call__',
) -> Passes:
  """All passes of a batch.

  Args:
    student: the network.
    variables: its 'params' and 'batch_stats'.
    learns: the parts that run in training mode.
    inputs: what the first pass starts from.
    feeding: of the second.
    method: 'after_stem' where `inputs` is T_0.
  """
  mergeable = feeding.blocks and all(
    getattr(student.blocks[i], 'takes_two_batches', False)
    for i in feeding.blocks
  )
  # A CPU is slower with both in one (docs/performance.md).
  passes = _in_one if mergeable and not on_cpu() else _one_after_another
  return passes(student, variables, learns, inputs, feeding, method)


def _apply(net, variables, learns, *args, **kwargs) -> tuple[Any, Variables]:
  """The network with these parts in training mode; the new statistics."""
  result, new = net.apply(
    variables, *args, train=learns, mutable=['batch_stats'], **kwargs
  )
  # A block run alone leaves the other parts' statistics out.
  statistics = variables.get('batch_stats', {}) | new.get('batch_stats', {})
  return result, statistics


def _one_after_another(student, variables, learns, inputs, feeding, method):
  (output, irs), statistics = _apply(
    student, variables, learns, inputs, method=method
  )
  outputs = list(irs[1:])
  for i in feeding.blocks:
    given = variables
    if feeding.in_statistics:
      given = variables | {'batch_stats': statistics}
    outputs[i], new = _apply(
      student, given, learns, feeding.input(i, irs[i]), i, method='block'
    )
    statistics = new if feeding.in_statistics else statistics
  return Passes(output, tuple(outputs), statistics)


def _in_one(student, variables, learns, inputs, feeding, method):
  follow = (0, 1) if feeding.in_statistics else (0,)

  def both(net, h, i, train):
    """A block on the student's IR h and the teacher's: both outputs."""
    given = feeding.input(i, h).astype(h.dtype)
    with two_batches(follow):
      h = net.block(jnp.concatenate([h, given]), i, train)
    return jnp.split(h, 2)

  def passes(net, inputs, train):
    h, outputs = inputs, []
    if method == '__call__':
      h = net.stem(inputs, in_training(train, 'stem'))
    for i in range(len(net.blocks)):
      if i in feeding.blocks:
        h, fed = both(net, h, i, train)
        outputs.append(fed)
      else:
        h = net.block(h, i, train)
        outputs.append(h)
    return net.head(h, in_training(train, 'head')), tuple(outputs)

  (output, outputs), statistics = _apply(
    student, variables, learns, inputs, method=passes
  )
  return Passes(output, outputs, statistics)
