"""A run's results as a table and as one self-contained HTML page."""

import base64
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import rich.box
import rich.table
import rich.text

from lit_jax.errors import UserError

if TYPE_CHECKING:
  from lit_jax.report import plots

Results = Mapping[str, Any]

_NUMBER = (int, float)
_RUN_FIELDS = {'dataset': str, 'seed': int, 'rows': list}
_RUN_EXTRAS = {
  'versions': dict,
  'device': str,
  'command': str,
  'classes': list,
}
_ROW_FIELDS = {
  'method': str,
  'model': str,
  'depth': int,
  'parameters': int,
  'macs': int,
  'accuracy': _NUMBER,
  'epochs': _NUMBER,
  'train_seconds': _NUMBER,
  'latency_ms': dict,
}
# What a system from outside may not have.
_NULLABLE = ('depth', 'macs', 'epochs')
_ROW_EXTRAS = {'balanced_accuracy': _NUMBER, 'confusion': list}

_HEADINGS: tuple[str, ...] = (
  'Method',
  'Model',
  'Depth',
  'Params',
  'MACs',
  'Acc. %',
  'vs teacher',
  'Epochs',
  'Training',
  'ms, batch 1',
  'speed-up, 1',
  'ms, batch 128',
  'speed-up, 128',
)
_NARROW_HEADINGS: tuple[str, ...] = (
  'Depth',
  'Params',
  'MACs',
  'Acc.\n%',
  'vs\nteacher',
  'Epochs',
  'Trained',
  'ms at\n1',
  'ms at\n128',
)
_ACCURACY = _HEADINGS.index('Acc. %')
_BALANCED = 'Balanced %'
# Columns of words; all others hold numbers and are set flush right.
_WORDS = 2
_NONE = '-'

# Koratana et al., 'LIT: Learned Intermediate Representation Training for Model
# Compression', table 3: CIFAR10 accuracy in % by teacher and method, of the
# student that is named last.
_PUBLISHED = {
  'resnet-110': (
    {
      'lit': 93.25,
      'kd': 92.75,
      'one_ir': 92.74,
      'fitnets': 92.68,
      'several_irs': 90.42,
    },
    'resnet-20',
  ),
  'resnext-110 (32x4d)': (
    {
      'lit': 94.72,
      'kd': 94.42,
      'one_ir': 94.21,
      'fitnets': 94.18,
      'several_irs': 91.27,
    },
    'resnext-20 (32x4d)',
  ),
}


def table(results: Results) -> rich.table.Table:
  """The results as a table for the terminal, 80 columns wide.

  Each row has two lines: the model stands below the method, and the speed-up
  against the teacher below the latency.

  Args:
    results: what `results.json` holds.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  _check(results, 'results')
  out = rich.table.Table(
    box=rich.box.SIMPLE_HEAD, show_edge=False, padding=0, leading=1
  )
  out.add_column('Method\nmodel', min_width=11, overflow='fold')
  balanced = _has_balanced(results)
  for heading in _NARROW_HEADINGS:
    if balanced and heading.startswith('Acc.'):
      heading = 'Acc. %\nbalanced'
    out.add_column(heading, justify='right', overflow='fold')
  for row in _cells(results):
    method, model, *middle, ms_1, gain_1, ms_128, gain_128 = row
    texts = [rich.text.Text(cell) for cell in middle]
    if balanced:
      at = _ACCURACY - _WORDS
      texts[at : at + 2] = [_stack(*middle[at : at + 2])]
    pairs = (ms_1, gain_1), (ms_128, gain_128)
    latencies = [
      _stack(_NONE, '') if ms.startswith(_NONE) else _stack(ms, gain)
      for ms, gain in pairs
    ]
    out.add_row(_stack(method, model), *texts, *latencies)
  return out


def _stack(upper: str, lower: str) -> rich.text.Text:
  # Text, not str: a name in square brackets is no markup.
  return rich.text.Text.assemble(upper, '\n', (lower, 'dim'))


def markdown(results: Results) -> str:
  """The results as a Markdown table, ending in a line break.

  Args:
    results: what `results.json` holds.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  _check(results, 'results')
  headings = _headings(results)
  rule = ['---' if i < _WORDS else '---:' for i in range(len(headings))]
  lines = [headings, rule, *_cells(results)]
  return ''.join(
    '| ' + ' | '.join(map(_escape_markdown, line)) + ' |\n' for line in lines
  )


def write_html(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `report.html`, which loads nothing from anywhere else.

  Args:
    workdir: folder with `results.json` and, for the curves, `metrics.jsonl`.

  Returns:
    The path of the page.

  Raises:
    UserError: `results.json` cannot be read or is malformed, or the page
      cannot be written.
  """
  workdir = pathlib.Path(workdir)
  results = _read_results(workdir / 'results.json')
  metrics = _read_metrics(workdir / 'metrics.jsonl')
  path = workdir / 'report.html'
  _write(path, _html(results, metrics))
  return path


def _html(results: Results, metrics: Sequence[Mapping[str, Any]]) -> str:
  # Here, for matplotlib takes long to import, and a run's start needs no plot.
  from lit_jax.report import plots

  methods = [row['method'] for row in results['rows']]
  tracks = _tracks(metrics, methods)
  errors = {
    f'{row["method"]} ({row["model"]}){_against(row)}': row['ir_error']
    for row in results['rows']
    if row.get('ir_error')
  }
  limits = plots.ir_limits(list(errors.values()))
  folder = pathlib.Path(__file__).parent
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folder),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('report.html.j2').render(
    results=results,
    headings=_headings(results),
    words=_WORDS,
    accuracy=_ACCURACY,
    cells=_cells(results),
    published=_published(results),
    confusions={
      f'{row["method"]} ({row["model"]})': row['confusion']
      for row in results['rows']
      if row.get('confusion')
    },
    class_names=_class_names(results),
    overview=_image(svg) if (svg := plots.overview(tracks)) else None,
    curves={
      method: {
        metric: _image(svg)
        for metric in ('accuracy', 'loss')
        if (svg := plots.curve(phases, metric))
      }
      for method, phases in tracks.items()
    },
    bars={
      name: _image(plots.ir_bars(blocks, limits))
      for name, blocks in errors.items()
    },
  )


def _against(row: Mapping[str, Any]) -> str:
  """Whose IRs a row is compared with, where that is not the teacher."""
  teacher = row.get('teacher', 'teacher')
  return '' if teacher == 'teacher' else f', against {teacher}'


def _image(svg: bytes) -> str:
  """A data URI: inside an <img>, names in an SVG cannot clash."""
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg).decode()


def _write(path: pathlib.Path, text: str) -> None:
  """Writes the whole file or none of it."""
  draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    draft.write_text(text, encoding='utf-8', errors='replace')
    draft.replace(path)
  except OSError as error:
    raise UserError(f'{path}: cannot write: {error.strerror}') from error
  finally:
    draft.unlink(missing_ok=True)


# Reading.


def _read_results(path: pathlib.Path) -> Results:
  try:
    results = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise UserError(f'{path}: cannot read: {error.strerror}') from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON: {error}') from error
  _check(results, str(path))
  return results


def _read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The usable lines of the metrics; none where the file is missing.

  A run that was cut off leaves half a line, and one that went on from a
  checkpoint repeats steps: the later line is the one that counts.
  """
  try:
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
  except OSError:
    return []
  latest: dict[tuple[Any, ...], dict[str, Any]] = {}
  for line in lines:
    try:
      record = json.loads(line)
    except ValueError:
      continue
    names = ('method', 'phase', 'split')
    if (
      isinstance(record, dict)
      and all(isinstance(record.get(name), str) for name in names)
      and all(_is(record.get(name), _NUMBER) for name in ('step', 'epoch'))
      and math.isfinite(record['epoch'])
    ):
      key = (*(record[name] for name in names), record['step'])
      latest[key] = record
  return list(latest.values())


def _check(results: Any, where: str) -> None:
  """Raises UserError at the first field that is missing or mistyped."""
  if not isinstance(results, Mapping):
    raise UserError(f'{where}: expected a JSON object')
  _check_fields(results, _RUN_FIELDS, where)
  extras = {k: v for k, v in _RUN_EXTRAS.items() if k in results}
  _check_fields(results, extras, where)
  if not results['rows']:
    raise UserError(f'{where}: rows is empty')
  for i, row in enumerate(results['rows']):
    _check_row(row, f'{where}: rows[{i}]')


def _check_row(row: Any, where: str) -> None:
  if not isinstance(row, Mapping):
    raise UserError(f'{where}: expected a JSON object')
  fields = {
    name: kind
    for name, kind in _ROW_FIELDS.items()
    if not (name in _NULLABLE and name in row and row[name] is None)
  }
  extras = {k: v for k, v in _ROW_EXTRAS.items() if row.get(k) is not None}
  _check_fields(row, fields | extras, where)
  if not 0 <= row['accuracy'] <= 1:
    raise UserError(
      f'{where}: accuracy must be between 0 and 1, got {row["accuracy"]}'
    )
  latency = row['latency_ms']
  _check_fields(latency, dict.fromkeys(latency, _NUMBER), f'{where}.latency_ms')
  blocks = row.get('ir_error') or {}
  if not isinstance(blocks, Mapping):
    raise UserError(f'{where}: ir_error must be an object')
  for name, block in blocks.items():
    if not isinstance(block, Mapping):
      raise UserError(f'{where}.ir_error: {name} must be an object')
    _check_fields(
      block, dict.fromkeys(block, _NUMBER), f'{where}.ir_error.{name}'
    )


def _check_fields(
  record: Mapping[str, Any], fields: Mapping[str, Any], where: str
) -> None:
  words = {str: 'a string', int: 'an integer', list: 'a list'}
  words |= {dict: 'an object', _NUMBER: 'a number'}
  for name, kind in fields.items():
    if name not in record:
      raise UserError(f'{where}: {name} is missing')
    if not _is(record[name], kind):
      got = repr(record[name])
      got = got if len(got) <= 40 else got[:37] + '...'
      raise UserError(f'{where}: {name} must be {words[kind]}, got {got}')


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
  # To Python, true and false are integers.
  return isinstance(value, kind) and not isinstance(value, bool)


def _tracks(
  metrics: Sequence[Mapping[str, Any]], methods: Sequence[str]
) -> 'dict[str, list[plots.Phase]]':
  """Joins each method's phases, methods ordered as in the table."""
  from lit_jax.report import plots

  found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
  for record in metrics:
    phases = found.setdefault(record['method'], {})
    phases.setdefault(record['phase'], []).append(record)
  order = [m for m in dict.fromkeys(methods) if m in found]
  order += [m for m in found if m not in order]
  tracks: dict[str, list[plots.Phase]] = {}
  for method in order:
    start = 0.0
    tracks[method] = []
    for name, records in found[method].items():
      epochs = max(record['epoch'] for record in records)
      phase = plots.Phase(name, start, epochs, _points(records))
      tracks[method].append(phase)
      start += epochs
  return tracks


def _points(
  records: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[tuple[float, float]]]]:
  """Pairs of epoch and value, by split and then by metric."""
  points: dict[str, dict[str, list[tuple[float, float]]]] = {}
  for record in sorted(records, key=lambda record: record['epoch']):
    split = points.setdefault(record['split'], {})
    for metric in ('accuracy', 'loss'):
      if _is(record.get(metric), _NUMBER):
        pair = (record['epoch'], record[metric])
        split.setdefault(metric, []).append(pair)
  return points


# The table's cells.


def _cells(results: Results) -> list[list[str]]:
  """A row of text for each row of the results, as `_HEADINGS` has it."""
  rows = results['rows']
  teacher = next((row for row in rows if row['method'] == 'teacher'), None)
  cells = [_row_cells(row, teacher) for row in rows]
  if _has_balanced(results):
    for row, line in zip(rows, cells, strict=True):
      own = row.get('balanced_accuracy')
      line.insert(_ACCURACY + 1, _NONE if own is None else f'{100 * own:.2f}')
  return cells


def _has_balanced(results: Results) -> bool:
  """Whether it tells more than accuracy: the classes differ in size."""
  return any(
    row.get('balanced_accuracy') is not None
    and f'{row["balanced_accuracy"]:.4f}' != f'{row["accuracy"]:.4f}'
    for row in results['rows']
  )


def _headings(results: Results) -> list[str]:
  headings = list(_HEADINGS)
  if _has_balanced(results):
    headings.insert(_ACCURACY + 1, _BALANCED)
  return headings


def _class_names(results: Results) -> list[str]:
  """Those of the data set, or numbers."""
  matrices = (
    row['confusion'] for row in results['rows'] if row.get('confusion')
  )
  count = max(map(len, matrices), default=0)
  names = [str(name) for name in results.get('classes', ())]
  return names if len(names) == count else [str(i) for i in range(count)]


def _row_cells(
  row: Mapping[str, Any], teacher: Mapping[str, Any] | None
) -> list[str]:
  cells = [
    row['method'],
    row['model'],
    _NONE if row['depth'] is None else str(row['depth']),
    _count(row['parameters']),
    _NONE if row['macs'] is None else _count(row['macs']),
    f'{100 * row["accuracy"]:.2f}',
    _difference(row, teacher),
    _NONE if row['epochs'] is None else f'{row["epochs"]:g}',
    _duration(row['train_seconds']),
  ]
  for batch in ('1', '128'):
    own = row['latency_ms'].get(batch)
    theirs = teacher['latency_ms'].get(batch) if teacher else None
    cells.append(_NONE if own is None else _milliseconds(own))
    cells.append(f'{theirs / own:.2f}x' if own and theirs else _NONE)
  return cells


def _difference(
  row: Mapping[str, Any], teacher: Mapping[str, Any] | None
) -> str:
  """Percentage points above the teacher."""
  if teacher is None or row is teacher:
    return _NONE
  return f'{100 * (row["accuracy"] - teacher["accuracy"]):+.2f}'


def _count(number: int) -> str:
  """Three digits and a unit: 272474 is 0.272 M."""
  if number >= 999.5e6:
    return f'{number / 1e9:.3g} G'
  if number >= 1e5:
    return f'{number / 1e6:.3g} M'
  if number >= 1e3:
    return f'{number / 1e3:.3g} k'
  return str(number)


def _milliseconds(number: float) -> str:
  return f'{number:.3g}' if number < 999.5 else f'{number:.0f}'


def _duration(seconds: float) -> str:
  if seconds == 0:
    return 'given'
  if seconds < 99.5:
    return f'{seconds:.0f} s'
  if seconds < 99.5 * 60:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def _published(results: Results) -> list[str] | None:
  """The paper's accuracy for each row, in %.

  None unless this is a run the paper has: CIFAR10, a 110-deep teacher and a
  20-deep student of its family.
  """
  rows = results['rows']
  teachers = [row['model'] for row in rows if row['method'] == 'teacher']
  numbers, student = _PUBLISHED.get(teachers[0] if teachers else '', ({}, ''))
  compared = [row['model'] == student for row in rows]
  if results['dataset'] != 'cifar10' or not any(compared):
    return None
  found = [
    numbers.get(row['method']) if same else None
    for row, same in zip(rows, compared, strict=True)
  ]
  return [_NONE if number is None else f'{number:.2f}' for number in found]


def _escape_markdown(text: str) -> str:
  text = re.sub(r'([\\`*_\[\]<>|~])', r'\\\1', text)
  return ' '.join(text.split())
