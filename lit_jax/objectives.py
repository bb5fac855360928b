"""Objective and lit_loss: scratch, KD, FitNets and LIT as one function.

LIT paper, with β = beta, α = alpha, τ = temperature:

    Eq. 1   loss = β·KD + (1 − β)·IR
    Eq. 2   KD   = α·H(y, p) + (1 − α)·τ²·H(q_τ, p_τ)
    Eq. 3   IR   = ℓ(S_1(x), T_1) + Σ_{i≥2} ℓ(S_i(T_{i−1}), T_i)

y are the labels, q and p the teacher's and the student's probabilities, T_i
and S_i their i-th blocks and what these put out. α weighs the hard term, which
other toolkits do not.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax import losses, passes
from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, choose, number, shown

TERMS = ('hard', 'soft', 'ir')
RUNNING_STATISTICS = ('student', 'both')
OUTPUT_LOSSES = ('kd', 'l2')

_LEAVES = ('alpha', 'beta', 'temperature')
_STATIC = (
  'ir_loss', 'blocks', 'teacher_input', 'anneal_input', 'running_statistics',
  'output_loss', 'terms',
)  # fmt: skip
# What decides which terms have weight.
_WEIGHTS = frozenset(('alpha', 'beta', 'blocks'))

Variables = dict[str, Any]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Objective:
  """What a student learns from.

  A pytree: α, β and τ are its leaves, so that other values do not compile
  again; everything else is static.

  Attributes:
    alpha: α, the weight of the **hard** term (other toolkits weigh the soft
      one).
    beta: β, the weight of KD against the IR loss; 1 is plain KD, 0 IRs alone.
    temperature: τ of the soft term.
    ir_loss: 'l2', 'l1' or 'smooth_l1'; mean over elements, summed over blocks.
    blocks: indices of the blocks that are compared, from 0; None is all.
    teacher_input: whether the compared blocks after the first are fed with the
      teacher's previous IR (LIT), or with the student's own (FitNets).
    anneal_input: whether in `teacher_input` the student's own IR takes the
      teacher's place little by little: the input is their mixture, whose share
      of the teacher falls from 1 to 0 over a phase, linearly by step.
    running_statistics: whose batches the running batch-norm statistics of a
      block follow where it runs twice in a step: 'student', the pass from the
      image alone, or 'both', first that one and then the teacher-fed one.
    output_loss: 'kd' is Eq. 2 of logits; 'l2' compares outputs that are no
      logits with labels and with the teacher's output by mean squared error.
    terms: which of 'hard', 'soft' and 'ir' are computed. By default those to
      which α and β give weight, and every one whose weight is not known before
      the program runs.

  Raises:
    UserError: α or β give weight to a term that `terms` leave out.
  """

  alpha: Any
  beta: Any
  temperature: Any
  ir_loss: str = 'l2'
  blocks: tuple[int, ...] | None = None
  teacher_input: bool = True
  anneal_input: bool = False
  running_statistics: str = 'student'
  output_loss: str = 'kd'
  terms: tuple[str, ...] | None = None

  def __post_init__(self):
    for name in _LEAVES:
      if isinstance(value := getattr(self, name), int):
        # JAX tells integers from floats, and would compile for each.
        object.__setattr__(self, name, float(value))
    if self.terms is None:
      object.__setattr__(self, 'terms', _weighed(self, unknown=True))
    elif missing := set(_weighed(self, unknown=False)) - set(self.terms):
      raise UserError(
        f'alpha {self.alpha} and beta {self.beta} give weight to the term '
        f'{missing.pop()!r}, which the terms {self.terms} leave out; change '
        'them by Objective.replace'
      )

  def tree_flatten_with_keys(self):
    leaves = [
      (jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _LEAVES
    ]
    return leaves, tuple(getattr(self, name) for name in _STATIC)

  @classmethod
  def tree_unflatten(cls, static, leaves):
    # Leaves may be anything that JAX puts there, which nothing must check.
    result = object.__new__(cls)
    values = zip((*_LEAVES, *_STATIC), (*leaves, *static), strict=True)
    for name, value in values:
      object.__setattr__(result, name, value)
    return result

  def replace(self, **changes: Any) -> 'Objective':
    """The same objective with changes; its terms follow new weights."""
    derived = {} if _WEIGHTS.isdisjoint(changes) else {'terms': None}
    return dataclasses.replace(self, **(derived | changes))

  @property
  def needs_teacher(self) -> bool:
    """Whether the teacher runs at all."""
    return self.computes('soft') or self.computes('ir')

  def computes(self, term: str) -> bool:
    """Whether 'hard', 'soft' or 'ir' is computed."""
    return term in (self.terms or ())

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
          f'objective compares block {shown(i)}, and the networks have blocks '
          f'0 to {count - 1}'
        )
    return self.blocks


def _weighed(objective: Objective, unknown: bool) -> tuple[str, ...]:
  """The terms that α and β give weight to; `unknown` for a traced weight."""

  def some(test, value):
    if isinstance(value, int | float | np.ndarray | np.generic):
      return bool(np.any(test(value)))
    return unknown

  kd = some(lambda beta: beta > 0, objective.beta)
  weighed = {
    'hard': kd and some(lambda alpha: alpha > 0, objective.alpha),
    'soft': kd and some(lambda alpha: alpha < 1, objective.alpha),
    'ir': some(lambda beta: beta < 1, objective.beta)
    and objective.blocks != (),
  }
  return tuple(term for term in TERMS if weighed[term])


def scratch(output_loss: str = 'kd') -> Objective:
  """The labels alone; no teacher is run."""
  return Objective(1.0, 1.0, 1.0, blocks=(), output_loss=output_loss)


def check(objective: Objective) -> Objective:
  """Returns the objective, or raises UserError naming what is out of range."""
  for name in ('alpha', 'beta'):
    number(
      name, getattr(objective, name), 'it must lie in [0, 1]',
      lambda value: 0 <= value <= 1,
    )  # fmt: skip
  number(
    'temperature', objective.temperature,
    'it must be greater than 0, and its square finite, also as float32',
    _is_temperature,
  )  # fmt: skip
  if objective.blocks and len(set(objective.blocks)) < len(objective.blocks):
    raise UserError(
      f'blocks are {shown(objective.blocks)}; each can be compared only once'
    )
  choose('ir_loss', objective.ir_loss, losses.IR_LOSSES)
  choose('running_statistics', objective.running_statistics, RUNNING_STATISTICS)
  choose('output_loss', objective.output_loss, OUTPUT_LOSSES)
  if objective.anneal_input and not objective.teacher_input:
    raise UserError(
      "anneal_input has the student's own IR take the place of the "
      "teacher's, and teacher_input is False; set one of them otherwise"
    )
  if not _weighed(objective, unknown=True):
    raise UserError(
      f'alpha {objective.alpha} and beta {objective.beta} give weight to '
      f'nothing, since the blocks that are compared are {objective.blocks}; '
      'raise beta, or compare blocks'
    )
  return objective


def _is_temperature(value):
  """Whether float32 has it, and τ² (Eq. 2)."""
  largest = float(np.finfo(np.float32).max)
  return bool(np.float32(value) > 0) and float(value) ** 2 <= largest


def lit_loss(
  objective: Objective,
  student: BlockNet,
  variables: Variables,
  inputs: Any,
  labels: Any,
  teacher_outputs: tuple[Any, tuple[jax.Array, ...]] | None,
  learns: Collection[str] | None = None,
  hard_term: Callable[[Any], tuple[Any, dict[str, Any]]] | None = None,
  same_stem: bool = False,
  teacher_share: jax.Array | float = 1.0,
) -> tuple[jax.Array, tuple[Variables, dict[str, jax.Array]]]:
  """Eq. 1 of one batch; pure, and the whole of what a LIT step minimises.

  The student runs from the input, giving its output and IRs; S_1(x) is taken
  from this pass, since block 1 has the same input in both. Every other
  compared block runs once more, on the teacher's IR and with batch statistics
  of its own. No gradient reaches the teacher. A term that is not among
  `objective.terms` is not computed, and what it needs may be None.

  Args:
    objective: the terms and their weights.
    student: the network that learns.
    variables: its 'params' and 'batch_stats', float32.
    inputs: a batch of the student's `example`, each leaf [n, …].
    labels: int32 [n] for 'kd', like the output for 'l2'; None without 'hard'.
    teacher_outputs: the teacher's output, and its IRs (T_0, …, T_k), in
      evaluation mode; None where no term needs them.
    learns: the parts ('stem', 'blocks_0' …, 'head') in training mode; all by
      default, others run by their running statistics. Gradients are those of
      whatever parameters the caller differentiates.
    hard_term: a task's own, where it is not that of `output_loss`: a function
      of the output that returns the mean over the batch, and further terms.
    same_stem: the student's stem is the teacher's, does not learn and keeps no
      statistics: T_0 is then taken from the teacher and not computed again.
    teacher_share: of the input of the compared blocks under `anneal_input`,
      float32 scalar from 1 (the teacher's IR) to 0 (the student's own).

  Returns:
    The loss, float32, and beside it the new batch statistics, and the terms by
    name, each a float32 mean over the batch: 'loss'; 'hard' and 'soft' of Eq.
    2; 'ir/blocks_0' … of Eq. 3; and 'accuracy' of logits that have labels.
  """
  learns = student.parts if learns is None else tuple(learns)
  output_q, irs_q = jax.lax.stop_gradient(teacher_outputs or (None, ()))
  compared = ()
  if objective.computes('ir'):
    compared = objective.compared(len(student.blocks))
  feeding = passes.Feeding(
    tuple(i for i in compared if i > 0 and objective.teacher_input),
    irs_q,
    objective.running_statistics == 'both',
    teacher_share if objective.anneal_input else None,
  )
  if same_stem and irs_q:
    found = passes.run(
      student, variables, learns, irs_q[0], feeding, 'after_stem'
    )
  else:
    found = passes.run(student, variables, learns, inputs, feeding)
  output = found.output
  terms, hard, soft, ir = {}, 0.0, 0.0, 0.0
  if objective.computes('hard'):
    if hard_term is not None:
      hard, terms = hard_term(output)
    else:
      hard = _hard(objective, output, labels)
    terms['hard'] = hard
  if objective.computes('soft'):
    terms['soft'] = soft = _soft(objective, output, output_q)
  ir_loss = losses.IR_LOSSES[objective.ir_loss]
  for i in compared:
    value = ir_loss(found.blocks[i], irs_q[i + 1]).mean()
    terms[f'ir/blocks_{i}'] = value
    ir = ir + value
  terms['loss'] = total_loss(objective, kd_loss(objective, hard, soft), ir)
  if objective.output_loss == 'kd' and labels is not None:
    terms['accuracy'] = jnp.mean(output.argmax(-1) == labels)
  return terms['loss'], (found.statistics, terms)


def _hard(objective, output, labels):
  if objective.output_loss == 'l2':
    return losses.l2(output, labels).mean()
  return losses.cross_entropy(output, labels).mean()


def _soft(objective, output, target):
  if objective.output_loss == 'l2':
    return losses.l2(output, target).mean()
  return losses.distillation(output, target, objective.temperature).mean()


def kd_loss(
  objective: Objective, hard: jax.Array | float, soft: jax.Array | float
) -> Any:
  """Eq. 2 from its two terms."""
  return objective.alpha * hard + (1 - objective.alpha) * soft


def total_loss(
  objective: Objective, kd: jax.Array | float, ir: jax.Array | float
) -> Any:
  """Eq. 1 from its two terms."""
  return objective.beta * kd + (1 - objective.beta) * ir
