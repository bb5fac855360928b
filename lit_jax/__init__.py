"""lit_jax: shallower, faster networks by block-wise training (LIT)."""

from lit_jax.blocks import BlockNet, check_pair
from lit_jax.networks.cut import cut, cut_variables, join_variables
from lit_jax.networks.summary import summary
from lit_jax.objectives import Objective, lit_loss
from lit_jax.runs.compress import compress
from lit_jax.training.task import Task

__all__ = [
  'BlockNet',
  'Objective',
  'Task',
  'check_pair',
  'compress',
  'cut',
  'cut_variables',
  'join_variables',
  'lit_loss',
  'summary',
]
