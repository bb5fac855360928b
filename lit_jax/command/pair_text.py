"""What `pair.py` found, in words."""

import io
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

_MISSING = '–'
_COUNTS = (('depth', 'depth'), ('parameters', 'parameters'), ('macs', 'MACs'))


def counted(found: dict[str, Any]) -> str:
  """The tables of cuts and of costs.

  Args:
    found: by `pair.counted`.
  """
  cuts = [
    (
      cut['part'],
      _shape(cut['teacher']),
      _shape(cut['student']),
      'yes' if cut['fits'] else 'NO',
    )
    for cut in found['cuts']
  ]
  costs = [
    (
      words,
      f'{found["teacher"][key]:,}',
      f'{found["student"][key]:,}',
      _times(found['ratios'][key]),
    )
    for key, words in _COUNTS
  ]
  names = [
    f'{role}: {found[role]["network"]}' for role in ('teacher', 'student')
  ]
  lines = [
    ', '.join(names),
    _table(('Output of', 'Teacher', 'Student', 'Fits'), cuts),
    _table(('', 'Teacher', 'Student', 'Ratio'), costs),
  ]
  if found['fits']:
    lines += [
      f'can be copied: {", ".join(found["copied"]) or "nothing"}',
      f'predicted speed-up of inference: {_times(found["predicted_speedup"])}, '
      'the ratio of MACs: as if each took\nthe same time and nothing else took '
      'any. What is measured is nearer.',
    ]
  return '\n'.join(lines)


def trained(found: dict[str, Any]) -> str:
  """Memory and time of a step.

  Args:
    found: by `pair.trained`.
  """
  count = found['devices']
  lower, upper = found['step_seconds_quartiles']
  devices = 'one device' if count == 1 else f'{count} devices'
  return (
    f'a LIT step of {found["batch_size"]} examples, {found["precision"]}, on '
    f'{devices} ({found["device_kind"]}):\n'
    f'  memory {found["memory_bytes"] / 1e6:,.1f} MB of each device, compiled '
    f"for this machine's {found['compiled_for']},\n"
    f'    {found["steps_per_call"]} steps a call\n'
    f'  time {found["step_seconds"]:.3g} s (quartiles {lower:.3g} to '
    f'{upper:.3g}), so {_duration(found["epoch_seconds"])} an epoch of '
    f'{found["examples"]:,}'
  )


def inferred(found: dict[str, Any]) -> str:
  """Times of inference, and the speed-up.

  Args:
    found: by `pair.inferred`.
  """
  rows = [
    (
      str(own['batch_size']),
      *(
        f'{own[f"{role}_ms"]:.3g} ({lower:.3g} to {upper:.3g})'
        for role in ('teacher', 'student')
        for lower, upper in [own[f'{role}_quartiles_ms']]
      ),
      _times(own['speedup']),
    )
    for own in found['batches']
  ]
  heading = 'Batch', 'Teacher, ms', 'Student, ms', 'Speed-up'
  return (
    f'speed-up of inference, measured in turns on one {found["device_kind"]} '
    '(median, quartiles):\n' + _table(heading, rows)
  )


def _shape(shape: Any) -> str:
  if shape is None:
    return _MISSING
  if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
    return ' x '.join(map(str, shape))
  return str(shape)


def _times(ratio: float | None) -> str:
  return _MISSING if ratio is None else f'{ratio:.2f}x'


def _duration(seconds: float) -> str:
  for unit, size in (('h', 3600), ('min', 60)):
    if seconds >= 2 * size:
      return f'{seconds / size:.1f} {unit}'
  return f'{seconds:.3g} s'


def _table(heading, rows) -> str:
  table = rich.table.Table(box=rich.box.SIMPLE)
  for i, words in enumerate(heading):
    table.add_column(words, justify='left' if i == 0 else 'right')
  for row in rows:
    table.add_row(*map(rich.text.Text, row))
  out = io.StringIO()
  rich.console.Console(file=out, width=80, color_system=None).print(table)
  lines = (line.rstrip() for line in out.getvalue().splitlines())
  return '\n'.join(line for line in lines if line)
