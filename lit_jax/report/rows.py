"""What a row of `results.json` is, and what `results.json` must hold.

results = {
  'dataset': str, 'seed': int, 'rows': [row, ...],
  # All else may be absent.
  'columns': [column, ...],   # the task's own (columns.py)
  'selects': str,             # the score that the figures show
  'selects_largest': bool,    # whether more of it is better
  'loss_name': str,           # what the held-out loss is
  'classes': [str, ...],      # names for a row's `confusion`
  'notes': [str, ...],        # printed under the page's table
  'versions': {str: str}, 'device': str, 'command': str,
}
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from lit_jax.errors import UserError

Results = Mapping[str, Any]
Kind = type | tuple[type, ...]

NUMBER = (int, float)
_WORDS: dict[Kind, str] = {
  str: 'a string',
  bool: 'true or false',
  int: 'an integer',
  NUMBER: 'a number',
  list: 'a list',
  Mapping: 'an object',
}
_RUN_FIELDS = {'dataset': str, 'seed': int, 'rows': list}
_RUN_EXTRAS = {
  'versions': Mapping,
  'device': str,
  'command': str,
  'classes': list,
  'columns': list,
  'selects': str,
  'selects_largest': bool,
  'loss_name': str,
  'notes': list,
}
_FIELDS: dict[str, Kind] = {
  'method': str,
  'model': str,
  'depth': int,
  'parameters': int,
  'macs': int,
  'epochs': NUMBER,
  'train_seconds': NUMBER,
  'latency_ms': Mapping,
}
# What a system from outside may not have.
_NULLABLE = ('depth', 'macs', 'epochs')
# What the page draws where a row has it.
_PICTURES = {
  'confusion': list,
  'ir_error': Mapping,
  'sheets': Mapping,
  'stitch': Mapping,
  'disagreements': list,
  'disagreement_counts': Mapping,
  'disagreement_images': Mapping,
}
# Of a block in the teacher.
_STITCH = {'score': NUMBER, 'lost': NUMBER, 'input_shift': NUMBER}
_SHEET = {'file': str, 'columns': list, 'rows': int}
# Examples that a student takes for another class than its teacher does.
_DISAGREEMENT: dict[str, Kind] = {
  'index': int,
  'label': int,
  'teacher': int,
  'student': int,
}
_DISAGREEMENT_EXTRAS = {
  'teacher_probability': NUMBER,
  'student_probability': NUMBER,
  'text': str,
}
_COUNTS: dict[str, Kind] = {
  'examples': int,
  'all': int,
  'teacher_right': int,
  'student_right': int,
}
_LARGEST = 1e300  # integer that is computed with


@dataclasses.dataclass(frozen=True)
class Row:
  """A network, or a system from outside, and what was measured of it.

  Attributes:
    method: how it was trained; 'teacher' is what the others are compared with.
    model: its title.
    depth: layers; None where there are none to count, as all None below.
    parameters: how many numbers are trained.
    macs: multiply-accumulates of one example's forward pass.
    epochs: of all its phases.
    train_seconds: 0 for what was given.
    latency_ms: milliseconds of one forward pass by batch size, such as '128'.
    scores: the task's own numbers and pictures; JSON values.
    details: how it was made, and what else is known; JSON values.
  """

  method: str
  model: str
  depth: int | None
  parameters: int
  macs: int | None
  epochs: float | None
  train_seconds: float
  latency_ms: Mapping[str, float]
  scores: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    names = [*_FIELDS, *self.scores, *self.details]
    if len(set(names)) < len(names):
      twice = sorted({name for name in names if names.count(name) > 1})
      raise ValueError(f'a row has {", ".join(twice)} twice')

  def to_json(self) -> dict[str, Any]:
    """The row as one flat object: scores and details stand beside the rest."""
    return {
      'method': self.method,
      'model': self.model,
      'depth': self.depth,
      'parameters': self.parameters,
      'macs': self.macs,
      **self.scores,
      'epochs': self.epochs,
      'train_seconds': self.train_seconds,
      'latency_ms': dict(self.latency_ms),
      **self.details,
    }

  @classmethod
  def from_json(
    cls, content: Any, where: str, score_keys: Collection[str]
  ) -> 'Row':
    """The row that `to_json` made flat.

    Args:
      content: what JSON had there.
      where: how an error names the place.
      score_keys: what is a score; all else but the common fields is a detail.

    Raises:
      UserError: a common field is missing or of the wrong type, or a picture
        is malformed.
    """
    if not isinstance(content, Mapping):
      raise UserError(f'{where}: expected a JSON object')
    _check_row(content, where)
    rest = {k: v for k, v in content.items() if k not in _FIELDS}
    return cls(
      **{name: content[name] for name in _FIELDS},
      scores={k: v for k, v in rest.items() if k in score_keys},
      details={k: v for k, v in rest.items() if k not in score_keys},
    )

  def value(self, key: str, default: Any = None) -> Any:
    """What stands under a key of the flat object.

    Args:
      key: 'latency_ms.128' is what '128' is in 'latency_ms'.
      default: returned where there is no such thing.
    """
    found: Any = self.to_json()
    if key in found:
      return found[key]
    for part in key.split('.'):
      if not isinstance(found, Mapping) or part not in found:
        return default
      found = found[part]
    return found


def of(results: Any, where: str = 'results') -> list[Row]:
  """The rows of a run, after a look at all but the columns.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Returns:
    At least one row; what a column has as its key is a score.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  if not isinstance(results, Mapping):
    raise UserError(f'{where}: expected a JSON object')
  extras = {k: v for k, v in _RUN_EXTRAS.items() if k in results}
  check_fields(results, _RUN_FIELDS | extras, where)
  for i, note in enumerate(results.get('notes', ())):
    check_fields({'note': note}, {'note': str}, f'{where}: notes[{i}]')
  if not results['rows']:
    raise UserError(f'{where}: rows is empty')
  keys = [
    key
    for column in results.get('columns', ())
    if isinstance(column, Mapping) and isinstance(key := column.get('key'), str)
  ]
  return [
    Row.from_json(row, f'{where}: rows[{i}]', keys)
    for i, row in enumerate(results['rows'])
  ]


def check_fields(
  record: Mapping[str, Any], fields: Mapping[str, Kind], where: str
) -> None:
  """Raises UserError at the first field that is missing or mistyped."""
  for name, kind in fields.items():
    if name not in record:
      raise UserError(f'{where}: {name} is missing')
    if not is_a(record[name], kind):
      got = repr(record[name])
      got = got if len(got) <= 40 else got[:37] + '...'
      raise UserError(f'{where}: {name} must be {_WORDS[kind]}, got {got}')


def is_a(value: Any, kind: Kind) -> bool:
  """Whether JSON has the value as that kind."""
  if isinstance(value, int) and abs(value) > _LARGEST:
    return False
  # To Python, true and false are integers.
  return isinstance(value, kind) and (
    kind is bool or not isinstance(value, bool)
  )


def _check_row(row: Mapping[str, Any], where: str) -> None:
  fields = {
    name: kind
    for name, kind in _FIELDS.items()
    if not (name in _NULLABLE and name in row and row[name] is None)
  }
  pictures = {k: v for k, v in _PICTURES.items() if row.get(k) is not None}
  check_fields(row, fields | pictures, where)
  for i, line in enumerate(row.get('confusion') or ()):
    check_fields({'row': line}, {'row': list}, f'{where}.confusion[{i}]')
  _check_each(row['latency_ms'], NUMBER, f'{where}.latency_ms')
  blocks = row.get('ir_error') or {}
  _check_each(blocks, Mapping, f'{where}.ir_error')
  for name, block in blocks.items():
    _check_each(block, NUMBER, f'{where}.ir_error.{name}')
  stitches = row.get('stitch') or {}
  _check_each(stitches, Mapping, f'{where}.stitch')
  for name, block in stitches.items():
    check_fields(block, _STITCH, f'{where}.stitch.{name}')
  _check_sheets(row, where)
  _check_disagreements(row, where)


def _check_sheets(row: Mapping[str, Any], where: str) -> None:
  sheets = row.get('sheets') or {}
  _check_each(sheets, Mapping, f'{where}.sheets')
  for title, sheet in sheets.items():
    _check_sheet(sheet, f'{where}.sheets.{title}')
    # The joined sheet is written under that name.
    if '/' in title or not title.isprintable():
      raise UserError(f'{where}.sheets: {title!r} cannot be the name of a file')


def _check_sheet(sheet: Mapping[str, Any], where: str) -> None:
  truth = {'truth': str} if 'truth' in sheet else {}
  check_fields(sheet, _SHEET | truth, where)
  for name in ('file', 'truth'):
    parts = pathlib.PurePosixPath(sheet.get(name, '')).parts
    if '..' in parts or '/' in parts:
      raise UserError(f'{where}: {name} must be a path below the workdir')


def _check_disagreements(row: Mapping[str, Any], where: str) -> None:
  for i, own in enumerate(row.get('disagreements') or ()):
    place = f'{where}.disagreements[{i}]'
    check_fields({'example': own}, {'example': Mapping}, place)
    extras = {k: v for k, v in _DISAGREEMENT_EXTRAS.items() if k in own}
    check_fields(own, _DISAGREEMENT | extras, place)
  if row.get('disagreement_counts') is not None:
    place = f'{where}.disagreement_counts'
    check_fields(row['disagreement_counts'], _COUNTS, place)
  if row.get('disagreement_images') is not None:
    _check_sheet(row['disagreement_images'], f'{where}.disagreement_images')


def _check_each(record: Mapping[str, Any], kind: Kind, where: str) -> None:
  check_fields(record, dict.fromkeys(record, kind), where)
