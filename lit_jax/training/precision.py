"""Precision policies: what the networks compute in.

Parameters, batch statistics, losses and the optimiser are float32 under every
policy. float16 alone needs a loss scale: it doubles after 2,000 good steps and
halves at a step whose gradients are not finite. That step is skipped and
counted; it belongs to the phase's length, but the schedule does not move.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale

from lit_jax.errors import choose


@dataclasses.dataclass(frozen=True)
class Policy:
  """Attributes: dtype of the computation, and whether the loss is scaled."""

  dtype: Any
  scales_loss: bool

  def initial_scale(self) -> DynamicScale | None:
    if not self.scales_loss:
      return None
    # Arrays, as the program returns them: it then compiles once.
    return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2**16))


POLICIES = {
  'fp32': Policy(jnp.float32, False),
  'bf16': Policy(jnp.bfloat16, False),
  'fp16': Policy(jnp.float16, True),
}


def policy(name: str) -> Policy:
  """The policy of that name; UserError when there is none."""
  return POLICIES[choose('precision', name, POLICIES)]
