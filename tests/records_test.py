"""metrics.jsonl and TensorBoard's events: what is damaged, and what is full."""

import errno
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from lit_jax import records
from lit_jax.errors import UserError
from lit_jax.training import logs, tensorboard

GOOD = {
  'method': 'lit', 'phase': 'lit', 'split': 'train', 'step': 4, 'epoch': 0.5,
  'loss': 1.25, 'train_seconds': 2.0,
}  # fmt: skip
LATER = GOOD | {'step': 8, 'epoch': 1.0, 'train_seconds': 4.0}


@pytest.mark.parametrize(
  'line',
  [
    b'\xff\xfe', b'null', b'[1, 2]', b'{}', b'{"method": "lit"}',
    b'[' * 200_000,
    json.dumps(GOOD | {'step': 'four'}).encode(),
    json.dumps(GOOD | {'epoch': None}).encode(),
    json.dumps(GOOD | {'step': True}).encode(),
    json.dumps(GOOD | {'train_seconds': 'long'}).encode(),
    json.dumps(GOOD | {'epoch': float('nan')}).encode(),
  ],
)  # fmt: skip
def test_what_is_no_record_is_left_out_and_said_once(line, tmp_path, capsys):
  path = tmp_path / records.METRICS
  whole = [json.dumps(GOOD).encode(), line, json.dumps(LATER).encode(), b'']
  path.write_bytes(b'\n'.join(whole))
  assert records.read(path) == ([GOOD, LATER], 1)
  assert logs.drop_after(path, 'lit', 'lit', 4) == 2.0
  (said,) = capsys.readouterr().err.splitlines()
  assert str(path) in said and '1 lines are no records' in said
  assert records.read(path) == ([GOOD], 0)
  assert logs.drop_after(path, 'lit', 'lit', 4) == 2.0
  assert capsys.readouterr().err == ''


def test_a_line_cut_off_by_a_kill_is_no_damage(tmp_path, capsys):
  path = tmp_path / records.METRICS
  path.write_text(json.dumps(GOOD) + '\n' + json.dumps(LATER)[:20])
  assert records.read(path) == ([GOOD], 0)
  logs.drop_after(path, 'kd', 'kd', 0)
  assert path.read_text() == json.dumps(GOOD) + '\n'
  assert capsys.readouterr().err == ''


def test_metrics_that_are_a_folder(tmp_path):
  path = tmp_path / records.METRICS
  path.mkdir()
  with pytest.raises(UserError, match='cannot read .*; move it away') as caught:
    logs.drop_after(path, 'lit', 'lit', 0)
  assert '\n' not in str(caught.value)


def _events(folder):
  """Of the only file, whose frames are a length, its CRC, bytes, their CRC."""
  (path,) = folder.iterdir()
  content, found = path.read_bytes(), []
  while content:
    (size,) = struct.unpack('<Q', content[:8])
    event = event_pb2.Event()  # pyright: ignore[reportAttributeAccessIssue]
    event.ParseFromString(content[12 : 12 + size])
    found.append(event)
    content = content[16 + size :]
  return found


def test_events_are_on_the_disk_as_they_come(tmp_path):
  events = tensorboard.Events(tmp_path / 'a' / 'b', 5)
  events.scalars({'train/loss': 0.5, 'train/soft': 2.0}, 7)
  # Not closed: so a kill leaves them.
  found = _events(tmp_path / 'a' / 'b')
  assert [event.step for event in found[1:3]] == [5, 5]
  assert found[2].session_log.status == 1  # START
  values = [
    (e.step, v.tag, v.simple_value) for e in found for v in e.summary.value
  ]
  assert values == [(7, 'train/loss', 0.5), (7, 'train/soft', 2.0)]
  events.image('test/sheet', np.zeros((4, 6, 3), np.uint8), 7)
  picture = _events(tmp_path / 'a' / 'b')[-1].summary.value[0]
  assert (picture.tag, picture.image.height, picture.image.width) == (
    'test/sheet', 4, 6
  )  # fmt: skip
  events.close()


def test_a_file_in_the_place_of_the_events(tmp_path, capsys):
  (tmp_path / 'tensorboard').write_text('mine')
  log = logs.PhaseLog(tmp_path, 'lit', 'lit', 0)
  log.write('train', 4, 0.5, {'loss': 1.25})
  log.close()
  (said,) = capsys.readouterr().err.splitlines()
  assert 'TensorBoard events are left out' in said
  assert str(tmp_path / 'tensorboard') in said
  (found,) = records.read(tmp_path / records.METRICS).records
  assert (found['step'], found['loss']) == (4, 1.25)


def test_a_disk_that_fills_costs_the_events_alone(
  tmp_path, monkeypatch, capsys
):
  events = tensorboard.Events(tmp_path, 1)

  def full(event):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(events._writer, 'write_event', full)
  for step in range(30):  # more than a queue would have held
    events.scalars({'loss': 1.0}, step)
  events.close()
  (said,) = capsys.readouterr().err.splitlines()
  assert said.endswith('No space left on device')
