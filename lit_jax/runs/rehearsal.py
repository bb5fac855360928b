"""A few steps of a pair before any run: what LIT takes of memory and time."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import AsIs
from lit_jax.networks import latency
from lit_jax.objectives import Objective
from lit_jax.runs import checks, train
from lit_jax.runs.compress import OBJECTIVE, STEPS_PER_CALL, usual_phases
from lit_jax.runs.phases import Method, Training
from lit_jax.tasks.classify import Classify
from lit_jax.training import devices, loop
from lit_jax.training.interrupt import Observer

_CALLS = 3


class Rehearsal(NamedTuple):
  """What the LIT phase of `compress` takes.

  Attributes:
    devices: that share a batch.
    steps_per_call: steps that one call of the compiled program makes.
    memory_bytes: of each device: what the call reads, computes with, and leaves
      behind, as XLA has planned it.
    step: milliseconds of a step, of few calls.
  """

  devices: int
  steps_per_call: int
  memory_bytes: int
  step: latency.Latency


def rehearse(
  teacher: BlockNet,
  student: BlockNet,
  batch_size: int,
  precision: str,
  objective: Objective = OBJECTIVE,
) -> Rehearsal:
  """Compiles the LIT phase of a pair of classifiers, and makes some steps.

  Of networks that are drawn, and of made-up examples; nothing is written.

  Args:
    teacher: in the precision that it computes in.
    student: likewise; the two fit.
    batch_size: examples a step, over all devices.
    precision: that scales the loss.
    objective: of the phase.

  Raises:
    UserError: a batch that does not go round among the devices, or norms whose
      statistics these would not share.
    jax.errors.JaxRuntimeError: the device cannot, for instance for want of
      memory.
  """
  devices.check_batch(batch_size)
  for net in (teacher, student):
    checks.check_statistics(net)
  phase, first = _phase(teacher, student, batch_size, precision, objective)
  program, constants, state = loop.prepared(phase, first)
  superbatch = devices.shard_superbatch(phase.feed.superbatch(0))
  phase.feed.close()
  rest = (constants.teacher, superbatch, constants.objectives, constants.keys)
  compiled = program.lower(state, *rest).compile()

  def call():
    nonlocal state
    state, metrics = compiled(state, *rest)
    jax.block_until_ready((state, metrics))

  (times,) = latency.interleaved([call], repeats=_CALLS)
  steps = int(superbatch.count)
  return Rehearsal(
    jax.device_count(),
    steps,
    _planned_bytes(compiled),
    latency.Latency(*(time / steps for time in times)),
  )


def _phase(teacher, student, batch_size, precision, objective):
  """The LIT phase as `compress` has it, and its first state."""
  (classes,) = blocks.cut_shapes(student)['head']
  split = _noise(student, classes, batch_size * STEPS_PER_CALL)
  preprocess = AsIs()
  context = train.Context(
    pathlib.Path(),
    Classify(classes),
    Dataset('noise', {'train': split, 'test': split}, classes, preprocess),
    Training(batch_size, 0, precision, STEPS_PER_CALL, 'last'),
    Observer(),
  )
  variables = blocks.init(teacher, jax.random.key(0))
  reader = train.Teacher(teacher, devices.replicate(variables), preprocess)
  phases = usual_phases(
    teacher, student, objective, epochs=2, learning_rate=0.1
  )
  method = Method('lit', phases)
  return train.first_phase(context, method, student, preprocess, reader)


def _noise(net, classes, count) -> Split:
  rng = np.random.default_rng(0)

  def draw(leaf):
    if np.issubdtype(leaf.dtype, np.integer):
      # Whatever integers stand for, these exist.
      return rng.integers(0, 32, leaf.shape, leaf.dtype)
    return rng.normal(size=leaf.shape).astype(leaf.dtype)

  inputs = jax.tree.map(draw, blocks.example(net, count))
  return Split(inputs, rng.integers(0, classes, count, np.int32))


def _planned_bytes(compiled) -> int:
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    - plan.alias_size_in_bytes
  )
