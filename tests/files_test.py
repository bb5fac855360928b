"""Files that are there whole or not at all."""

import errno
import json
import os
import stat

import pytest

from lit_jax import files


@pytest.fixture
def synced(monkeypatch):
  """What was put on the disk, as 'file' and 'folder', in order."""
  calls = []
  real = os.fsync

  def fsync(descriptor):
    mode = os.fstat(descriptor).st_mode
    calls.append('folder' if stat.S_ISDIR(mode) else 'file')
    real(descriptor)

  monkeypatch.setattr(os, 'fsync', fsync)
  return calls


def _refuse(monkeypatch, name, number=errno.ENOSPC):
  def fail(*args):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(os, name, fail)


def test_text_is_written_as_it_is(tmp_path):
  path = tmp_path / 'a.txt'
  files.write_text(path, 'one\r\ntwo ’\n')
  assert path.read_bytes() == 'one\r\ntwo ’\n'.encode()
  assert list(tmp_path.iterdir()) == [path]


def test_json_is_indented_and_ends_in_a_line_break(tmp_path):
  value = {'b': [1, 2.5], 'a': None}
  files.write_json(str(tmp_path / 'a.json'), value)
  text = (tmp_path / 'a.json').read_text()
  assert json.loads(text) == value
  assert text == json.dumps(value, indent=2) + '\n'


def test_the_file_and_then_its_folder_reach_the_disk(tmp_path, synced):
  files.write_text(tmp_path / 'a.txt', 'new')
  assert synced == ['file', 'folder']


def test_a_file_is_replaced_and_not_written_into(tmp_path, monkeypatch):
  path = tmp_path / 'a.txt'
  path.write_text('old, and longer')
  real, seen = os.replace, []

  def replace(part, target):
    seen.append((part.name, part.read_text(), target.read_text()))
    real(part, target)

  monkeypatch.setattr(os, 'replace', replace)
  with path.open() as reader:
    files.write_text(path, 'new')
    assert reader.read() == 'old, and longer'
  ((name, content, before),) = seen
  assert name.endswith('.part')
  assert (content, before) == ('new', 'old, and longer')
  assert path.read_text() == 'new'


@pytest.mark.parametrize('name', ['fsync', 'replace'])
def test_a_failure_leaves_what_was_there(name, tmp_path, monkeypatch):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  _refuse(monkeypatch, name)
  with pytest.raises(OSError, match='No space left'):
    files.write_text(path, 'new')
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('write', 'value', 'error'),
  [
    (files.write_json, {1, 2}, TypeError),
    (files.write_text, '\ud800', UnicodeEncodeError),
  ],
)
def test_what_cannot_be_written_touches_nothing(write, value, error, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('old')
  with pytest.raises(error):
    write(path, value)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_no_folder_is_made(tmp_path):
  with pytest.raises(FileNotFoundError):
    files.write_text(tmp_path / 'none' / 'a.txt', 'new')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(number, tmp_path, monkeypatch):
  """It is an error unless the file system knows no such thing."""
  real = os.fsync

  def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
      raise OSError(number, os.strerror(number))
    real(descriptor)

  monkeypatch.setattr(os, 'fsync', fsync)
  path = tmp_path / 'a.txt'
  if number == errno.EINVAL:
    files.write_text(path, 'new')
  else:
    with pytest.raises(OSError, match='Input/output'):
      files.write_text(path, 'new')
  assert [p.read_text() for p in tmp_path.iterdir()] == ['new']
