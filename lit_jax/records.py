"""What a run told while it trained: the records of `metrics.jsonl`.

A record is a line, a JSON object: 'method', 'phase', 'split', 'step' within the
phase, 'epoch', and what was measured by name.
"""

import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lit_jax.files import parse_json, write_text

METRICS = 'metrics.jsonl'
_WORDS = 'method', 'phase', 'split'
_NUMBERS = 'step', 'epoch'
_SECONDS = 'train_seconds'

Record = dict[str, Any]


class Found(NamedTuple):
  """What a file holds.

  Attributes:
    records: in its order.
    damaged: how many lines are no records. A last one that was cut off while it
      was written is not among them.
  """

  records: list[Record]
  damaged: int


def read(path: pathlib.Path) -> Found:
  """The records of a file; none where there is no such file.

  Raises:
    OSError: it is there and cannot be read.
  """
  try:
    lines = path.read_bytes().split(b'\n')
  except FileNotFoundError:
    return Found([], 0)
  found = [_record(line) for line in lines]
  records = [record for record in found if record is not None]
  return Found(records, sum(map(bool, lines[:-1])) - _whole(found[:-1]))


def write(path: pathlib.Path, found: Iterable[Mapping[str, Any]]) -> None:
  """Writes a file of these records, whole or not at all."""
  write_text(path, ''.join(map(line, found)))


def line(record: Mapping[str, Any]) -> str:
  """A record as it stands in a file."""
  return json.dumps(record) + '\n'


def _whole(found):
  return sum(record is not None for record in found)


def _record(text: bytes) -> Record | None:
  try:
    content = parse_json(text)
  except ValueError:
    return None
  if not isinstance(content, dict):
    return None
  known = all(isinstance(content.get(name), str) for name in _WORDS) and all(
    _is_number(content.get(name)) for name in _NUMBERS
  )
  return content if known and _is_number(content.get(_SECONDS, 0.0)) else None


def _is_number(value):
  # To Python, true and false are integers.
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    # And not NaN; to `math` an integer can be too large to ask.
    and abs(value) <= sys.float_info.max
  )
