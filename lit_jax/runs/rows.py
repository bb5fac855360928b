"""A row of the results: what one network is, costs and scores.

It is made in three steps: what is known when the network is trained (`made`),
what is then measured of it (`scored`), and last, for all networks of a run
together, how long they take (`timed`). What cannot be measured leaves a gap,
which is said.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lit_jax import hosts, models
from lit_jax.blocks import BlockNet
from lit_jax.errors import first_line
from lit_jax.networks import latency
from lit_jax.networks.summary import summary
from lit_jax.report import UNSCORED, Row
from lit_jax.training.precision import policy
from lit_jax.training.state import Variables

_LATENCY_BATCHES = (1, 128)

JsonRow = Mapping[str, Any]


def made(
  method: str,
  spec: models.Spec | BlockNet,
  *,
  epochs: float = 0,
  seconds: float = 0.0,
  **details: Any,
) -> JsonRow:
  """The row of a network that is not measured yet.

  Args:
    method: its name.
    spec: the network, as `models.build` takes it.
    epochs: of its training; 0 where it was given.
    seconds: of its training.
    **details: further JSON values.
  """
  facts = summary(models.build(spec))
  return Row(
    method=method,
    model=models.title(spec),
    depth=facts.depth,
    parameters=facts.parameters,
    macs=facts.macs,
    epochs=epochs,
    train_seconds=round(seconds, 3),
    latency_ms={},
    details={UNSCORED: True, **details},
  ).to_json()


def is_scored(row: JsonRow) -> bool:
  """Whether the row's network was measured."""
  return UNSCORED not in row


def scored(row: JsonRow, scores: Mapping[str, Any], **details: Any) -> JsonRow:
  """The row with the scores of its network in their place."""
  known = {key: value for key, value in row.items() if key != UNSCORED}
  cut = list(known).index('epochs')
  items = list(known.items())
  return dict([*items[:cut], *scores.items(), *items[cut:], *details.items()])


def measured(what: str, measure: Callable[[], Any]) -> Any:
  """What is measured, or None and a line on stderr where the device cannot.

  Args:
    what: is measured of what, for the line.
    measure: does it.
  """
  try:
    return measure()
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if hosts.count() > 1 and hosts.of_peer(error):
      raise
    print(f'{what} is left out: {first_line(error)}', file=sys.stderr)
    return None


class Timed(NamedTuple):
  """A row, and the network that it is of.

  Attributes:
    row: without times.
    spec: the network, as `models.build` takes it.
    variables: reads its own, on any devices.
  """

  row: JsonRow
  spec: models.Spec | BlockNet
  variables: Callable[[], Variables]


def timed(found: Iterable[Timed], precision: str) -> list[JsonRow]:
  """The rows with the time that each network's forward pass takes.

  What is the same network in several rows is timed once, with the values of the
  first, and all take turns.

  Args:
    found: the rows.
    precision: in which the networks compute.

  Returns:
    The rows, in order; each with 'latency_ms', medians by batch size, and
    'latency_quartiles_ms', without a batch size that could not be timed.
  """
  found = list(found)
  first: dict[Any, Timed] = {}
  for own in found:
    first.setdefault(_identity(own.spec), own)
  times = {batch: _times(first, precision, batch) for batch in _LATENCY_BATCHES}
  return [
    _with_times(
      own.row,
      {
        str(batch): by_network[key]
        for batch, by_network in times.items()
        if (key := _identity(own.spec)) in by_network
      },
    )
    for own in found
  ]


def _times(networks, precision, batch) -> dict[Any, latency.Latency]:
  """Of each network that can be timed at that batch size."""
  passes = {}
  for key, own in networks.items():
    made = measured(
      f'latency of {own.row["model"]} at batch {batch}',
      functools.partial(_pass, own, precision, batch),
    )
    if made is not None:
      passes[key] = made
  found = measured(
    f'latency at batch {batch}',
    lambda: latency.interleaved(list(passes.values())),
  )
  return dict(zip(passes, found, strict=True)) if found else {}


def _pass(own, precision, batch):
  net = models.build(own.spec, policy(precision).dtype)
  # On one device, which `forward_pass` takes.
  variables = jax.tree.map(jnp.asarray, jax.device_get(own.variables()))
  return latency.forward_pass(net, variables, batch)


def _identity(spec):
  """What tells networks apart: a specification's content, or the object."""
  if isinstance(spec, BlockNet):
    return id(spec)
  return json.dumps(spec, sort_keys=True)


def _with_times(row, times):
  medians = {batch: time.median for batch, time in times.items()}
  quartiles = {b: [time.lower, time.upper] for b, time in times.items()}
  return {**row, 'latency_ms': medians, 'latency_quartiles_ms': quartiles}
