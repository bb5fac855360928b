"""Objective: scratch, KD, FitNets and LIT as settings of one dataclass.

LIT paper, with β = beta, α = alpha, τ = temperature:

    Eq. 1   loss = β·KD + (1 − β)·IR
    Eq. 2   KD   = α·H(y, p) + (1 − α)·τ²·H(q_τ, p_τ)
    Eq. 3   IR   = ℓ(S_1(x), T_1) + Σ_{i≥2} ℓ(S_i(T_{i−1}), T_i)
"""

import dataclasses
import functools
import math

import jax

from lit_jax import losses
from lit_jax.errors import UserError

RUNNING_STATISTICS = ('student', 'both')


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['alpha', 'beta', 'temperature'],
  meta_fields=['ir_loss', 'blocks', 'teacher_input', 'running_statistics'],
)
@dataclasses.dataclass(frozen=True)
class Objective:
  """What a student learns from.

  α, β and τ are traced: another value does not compile again.

  Attributes:
    alpha: α, the weight of the **hard** term (other toolkits weigh the soft
      one).
    beta: β, the weight of KD against the IR loss; 1 is plain KD, 0 IRs alone.
    temperature: τ of the soft term.
    ir_loss: 'l2', 'l1' or 'smooth_l1'; mean over elements, summed over blocks.
    blocks: indices of the blocks that are compared, from 0; None is all.
    teacher_input: whether the compared blocks after the first are fed with the
      teacher's previous IR (LIT), or with the student's own (FitNets).
    running_statistics: whose batches the running batch-norm statistics of a
      block follow where it runs twice in a step: 'student', the pass from the
      image alone, or 'both', first that one and then the teacher-fed one.
  """

  alpha: float
  beta: float
  temperature: float
  ir_loss: str = 'l2'
  blocks: tuple[int, ...] | None = None
  teacher_input: bool = True
  running_statistics: str = 'student'

  @property
  def needs_teacher(self) -> bool:
    """Whether the teacher runs at all; needs concrete α and β."""
    return self.needs_soft_labels or self.needs_irs

  @property
  def needs_soft_labels(self) -> bool:
    return self.beta > 0 and self.alpha < 1

  @property
  def needs_irs(self) -> bool:
    return self.beta < 1 and self.blocks != ()

  def compared(self, count: int) -> tuple[int, ...]:
    """Indices of the compared blocks among `count`.

    Raises:
      UserError: an index that does not exist.
    """
    if self.blocks is None:
      return tuple(range(count))
    for i in self.blocks:
      if not 0 <= i < count:
        raise UserError(
          f'objective compares block {i}, and the networks have blocks 0 to '
          f'{count - 1}'
        )
    return self.blocks


def scratch() -> Objective:
  """Cross-entropy alone; no teacher is run."""
  return Objective(alpha=1.0, beta=1.0, temperature=1.0, blocks=())


def check(objective: Objective) -> Objective:
  """Returns the objective, or raises UserError naming what is out of range."""
  for name in ('alpha', 'beta'):
    value = getattr(objective, name)
    if not 0 <= value <= 1:
      raise UserError(f'{name} is {value}; it must lie in [0, 1]')
  if not 0 < objective.temperature < math.inf:
    raise UserError(
      f'temperature is {objective.temperature}; it must be greater than 0'
    )
  if objective.blocks and len(set(objective.blocks)) < len(objective.blocks):
    raise UserError(
      f'blocks are {objective.blocks}; each can be compared only once'
    )
  _check_choice('ir_loss', objective.ir_loss, tuple(losses.IR_LOSSES))
  _check_choice(
    'running_statistics', objective.running_statistics, RUNNING_STATISTICS
  )
  return objective


def _check_choice(name, value, choices):
  if value not in choices:
    raise UserError(
      f'unknown {name} {value!r}; choose one of {", ".join(choices)}'
    )


def kd_loss(
  objective: Objective, hard: jax.Array, soft: jax.Array | float
) -> jax.Array:
  """Eq. 2 from its two terms."""
  return objective.alpha * hard + (1 - objective.alpha) * soft


def total_loss(
  objective: Objective, kd: jax.Array, ir: jax.Array | float
) -> jax.Array:
  """Eq. 1 from its two terms."""
  return objective.beta * kd + (1 - objective.beta) * ir
