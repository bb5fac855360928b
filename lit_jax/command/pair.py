"""What is known of a teacher and a student before any training, as JSON."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.command.network import Named
from lit_jax.errors import UserError, reason
from lit_jax.networks import latency
from lit_jax.networks.summary import summary
from lit_jax.runs.rehearsal import rehearse
from lit_jax.runs.rows import measured
from lit_jax.training import state

_ROLES = 'teacher', 'student'
_COUNTS = 'depth', 'parameters', 'macs'


def counted(
  named: Mapping[str, Named], nets: Mapping[str, BlockNet]
) -> dict[str, Any]:
  """What needs no computing: cuts, what can be copied, counts and ratios.

  Args:
    named: 'teacher' and 'student'.
    nets: the same, built.
  """
  teacher, student = (nets[role] for role in _ROLES)
  cuts = blocks.cuts(teacher, student)
  costs = {role: summary(nets[role]) for role in _ROLES}
  counts = {
    role: {key: getattr(cost, key) for key in _COUNTS}
    for role, cost in costs.items()
  }
  ratios = {
    key: _ratio(*(counts[role][key] for role in _ROLES)) for key in _COUNTS
  }
  return {
    'fits': all(cut.fits for cut in cuts),
    'cuts': [cut._asdict() | {'fits': cut.fits} for cut in cuts],
    'copied': state.equal_parts(
      blocks.shapes(teacher), blocks.shapes(student), student.parts
    ),
    **{role: {'network': named[role].title, **counts[role]} for role in _ROLES},
    'ratios': ratios,
    'predicted_speedup': ratios['macs'],
    'predicted_by': 'ratio of MACs',
    'training': None,
    'inference': None,
  }


def _ratio(a, b):
  return round(a / b, 4) if b else None


def trained(
  nets: Mapping[str, BlockNet], batch_size: int, precision: str, examples: int
) -> dict[str, Any] | None:
  """Memory and time of a LIT step; None, and a line, where the device cannot.

  Args:
    nets: 'teacher' and 'student', which fit.
    batch_size: of a step.
    precision: that the networks compute in.
    examples: of an epoch, whose last part batch is left out.

  Raises:
    UserError: as `rehearse`, or a network that cannot be trained.
  """

  def step():
    try:
      return rehearse(nets['teacher'], nets['student'], batch_size, precision)
    except (UserError, jax.errors.JaxRuntimeError, MemoryError):
      raise
    except Exception as error:  # Modules of one's own may raise anything.
      raise UserError(
        f'a training step of the two cannot be made ({reason(error)}); their '
        'parts are called as part(h, train)'
      ) from error

  found = measured('the training step', step)
  if found is None:
    return None
  median, *quartiles = (time / 1e3 for time in found.step)
  return {
    'batch_size': batch_size,
    'precision': precision,
    'devices': found.devices,
    'device_kind': _kind(),
    'steps_per_call': found.steps_per_call,
    'memory_bytes': found.memory_bytes,
    'compiled_for': jax.default_backend(),
    'step_seconds': median,
    'step_seconds_quartiles': quartiles,
    'examples': examples,
    'epoch_seconds': median * (examples // batch_size),
  }


def inferred(
  nets: Mapping[str, BlockNet], batch_size: int
) -> dict[str, Any] | None:
  """Times of both networks in turns; None, and a line, where it cannot be.

  Args:
    nets: 'teacher' and 'student'.
    batch_size: of a pass, beside passes of one example.
  """
  found = [
    measured(f'inference of {batch}', functools.partial(_times, nets, batch))
    for batch in sorted({1, batch_size})
  ]
  batches = [times for times in found if times is not None]
  return {'device_kind': _kind(), 'batches': batches} if batches else None


def _times(nets, batch):
  passes = [
    latency.forward_pass(
      nets[role], blocks.init(nets[role], jax.random.key(0)), batch
    )
    for role in _ROLES
  ]
  times = dict(zip(_ROLES, latency.interleaved(passes), strict=True))
  return {
    'batch_size': batch,
    **{f'{role}_ms': time.median for role, time in times.items()},
    **{
      f'{role}_quartiles_ms': [time.lower, time.upper]
      for role, time in times.items()
    },
    'speedup': times['teacher'].median / times['student'].median,
  }


def _kind():
  return jax.local_devices()[0].device_kind
