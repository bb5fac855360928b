"""A row of the results: what one network costs and scores, measured."""

from typing import Any

import jax
import jax.numpy as jnp

from lit_jax import models
from lit_jax.blocks import BlockNet
from lit_jax.networks.latency import latency_ms
from lit_jax.networks.summary import summary
from lit_jax.report import Row
from lit_jax.training.precision import policy
from lit_jax.training.state import Variables
from lit_jax.training.task import Evaluation

_LATENCY_BATCHES = (1, 128)


def measured(
  method: str,
  spec: models.Spec | BlockNet,
  variables: Variables,
  precision: str,
  found: Evaluation,
  *,
  epochs: float = 0,
  seconds: float = 0.0,
  **details: Any,
) -> Row:
  """The row of a network.

  Args:
    method: its name.
    spec: the network, as `models.build` takes it.
    variables: its own, on any devices.
    precision: in which latency is measured.
    found: its evaluation on the split that is scored.
    epochs: of its training; 0 where it was given.
    seconds: of its training.
    **details: further JSON values.
  """
  facts = summary(models.build(spec))
  net = models.build(spec, policy(precision).dtype)
  one_device = jax.tree.map(jnp.asarray, jax.device_get(variables))
  return Row(
    method=method,
    model=models.title(spec),
    depth=facts.depth,
    parameters=facts.parameters,
    macs=facts.macs,
    scores=found.scores,
    epochs=epochs,
    train_seconds=round(seconds, 3),
    latency_ms={
      str(batch): latency_ms(net, one_device, batch)
      for batch in _LATENCY_BATCHES
    },
    details=details,
  )
