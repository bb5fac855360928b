"""A phase's learning-rate schedule and optimiser."""

import dataclasses
from typing import Any

import jax
import optax

from lit_jax.errors import UserError, choose, number
from lit_jax.training import pruning

SCHEDULES = ('steps', 'cosine', 'linear')
LEARNS, FROZEN = 'learns', 'frozen'


def schedule(
  kind: str,
  learning_rate: float,
  steps_per_epoch: int,
  epochs: int,
  milestones: tuple[float, ...] = (),
  decay: float = 0.1,
  warmup_epochs: float = 0.0,
) -> optax.Schedule:
  """Learning rate by step.

  Args:
    kind: 'steps' (times `decay` at each milestone), 'cosine' (to 0 at the
      end) or 'linear' (to 0 at the end, from the first milestone on).
    learning_rate: the highest value.
    steps_per_epoch: steps in an epoch.
    epochs: length of the phase.
    milestones: epochs at which 'steps' decays, those after the phase's end
      never.
    decay: factor at each milestone.
    warmup_epochs: length of a linear rise from 0, before either kind.

  Raises:
    UserError: an unknown kind.
  """
  warmup = round(warmup_epochs * steps_per_epoch)
  total = epochs * steps_per_epoch
  # Steps are counted in int32, beyond which a milestone may lie.
  milestones = tuple(min(milestone, epochs) for milestone in milestones)
  if choose('schedule', kind, SCHEDULES) == 'steps':
    after = optax.piecewise_constant_schedule(
      learning_rate, _factors(milestones, decay, steps_per_epoch, warmup)
    )
  elif kind == 'linear':
    begin = round(min(milestones, default=0) * steps_per_epoch) - warmup
    after = optax.linear_schedule(
      learning_rate, 0.0, max(1, total - warmup - begin), max(0, begin)
    )
  else:
    after = optax.cosine_decay_schedule(learning_rate, max(1, total - warmup))
  if not warmup:
    return after
  rise = optax.linear_schedule(0.0, learning_rate, warmup)
  return optax.join_schedules([rise, after], [warmup])


def _factors(milestones, decay, steps_per_epoch, warmup):
  """Factor by step after the warm-up; milestones may fall on one step."""
  factors = {}
  for milestone in milestones:
    step = round(milestone * steps_per_epoch) - warmup
    factors[step] = factors.get(step, 1.0) * decay
  return factors


def labels(params: dict[str, Any], frozen: tuple[str, ...]) -> dict[str, Any]:
  """'learns' or 'frozen' for every parameter, by its top-level part.

  Raises:
    UserError: a frozen part that the network does not have.
  """
  for part in frozen:
    if part not in params:
      raise UserError(
        f'cannot freeze {part!r}: the network has the parts '
        f'{", ".join(sorted(params))}'
      )

  def label(part):
    return FROZEN if part in frozen else LEARNS

  return {
    part: jax.tree.map(lambda _, part=part: label(part), tree)
    for part, tree in params.items()
  }


@dataclasses.dataclass(frozen=True)
class Sgd:
  """SGD with momentum; weight decay is added to the gradient, as in PyTorch.

  Attributes:
    momentum: 0 is none.
    weight_decay: times the parameters, added to the gradient.
  """

  momentum: float = 0.9
  weight_decay: float = 1e-4

  def check(self) -> None:
    """Raises UserError naming what is out of range."""
    _check_average('momentum', self.momentum)
    number(
      'weight_decay', self.weight_decay, 'at least 0 and finite',
      lambda value: value >= 0,
    )  # fmt: skip

  @property
  def decays(self) -> bool:
    """Whether a parameter shrinks that gets no gradient."""
    return self.weight_decay > 0

  def rule(self, rate: optax.Schedule) -> optax.GradientTransformation:
    """The update at that learning rate, of all parameters."""
    return optax.chain(
      optax.add_decayed_weights(self.weight_decay),
      optax.sgd(rate, momentum=self.momentum),
    )


@dataclasses.dataclass(frozen=True)
class Adam:
  """Adam (Kingma & Ba 2015).

  Attributes:
    b1: decay of the first moment.
    b2: decay of the second moment.
    epsilon: added to the second moment's root.
  """

  b1: float = 0.9
  b2: float = 0.999
  epsilon: float = 1e-8

  decays = False

  def check(self) -> None:
    """Raises UserError naming what is out of range."""
    _check_average("Adam's b1", self.b1)
    _check_average("Adam's b2", self.b2)
    number(
      "Adam's epsilon", self.epsilon, 'greater than 0 and finite',
      lambda value: value > 0,
    )  # fmt: skip

  def rule(self, rate: optax.Schedule) -> optax.GradientTransformation:
    """The update at that learning rate, of all parameters."""
    return optax.adam(rate, b1=self.b1, b2=self.b2, eps=self.epsilon)


def _check_average(name, value):
  number(name, value, 'at least 0 and less than 1', lambda own: 0 <= own < 1)


Optimizer = Sgd | Adam


def optimizer(
  settings: Optimizer,
  rate: optax.Schedule,
  frozen: tuple[str, ...] = (),
  keeps_zeros: bool = False,
) -> optax.GradientTransformation:
  """An optimiser of the parts that learn.

  Frozen parts get no update and take no optimiser state.

  Args:
    settings: which one.
    rate: learning rate by step.
    frozen: top-level parts that do not learn.
    keeps_zeros: whether weights that are zero at the start stay zero
      (`pruning.keep_zeros`).
  """
  rule = settings.rule(rate)
  if keeps_zeros:
    rule = pruning.keep_zeros(rule)
  return optax.multi_transform(
    {LEARNS: rule, FROZEN: optax.set_to_zero()},
    lambda params: labels(params, frozen),
  )
