"""Checkpoints that are damaged, and such as are being written."""

import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import train_state

from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.training import devices
from lit_jax.training.checkpoint import Checkpoints, checksums
from lit_jax.training.task import Selection

STEPS = 10, 20


@pytest.fixture
def folder(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'phase')
  for step in STEPS:
    checkpoints.save(train_state(step), None)
  checkpoints.close()
  return tmp_path / 'phase'


def _restored(folder, selects=None):
  checkpoints = Checkpoints(folder, selects)
  try:
    return checkpoints.restore(devices.replicate(train_state(0)))
  finally:
    checkpoints.close()


def _assert_is(found, step):
  assert jax.tree.structure(found) == jax.tree.structure(train_state(step))
  for leaf, wanted in zip(
    *map(jax.tree.leaves, (found, train_state(step))), strict=True
  ):
    np.testing.assert_array_equal(leaf, wanted)


def _largest(folder: pathlib.Path) -> pathlib.Path:
  """The file that holds the arrays' bytes."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path, bit):
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


def test_the_newest_is_restored(folder, capsys):
  _assert_is(_restored(folder), 20)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('place', [0.3, 0.5, 0.7])
def test_one_flipped_bit_is_noticed(folder, place, capsys):
  path = _largest(folder / '20' / 'state')
  size = path.stat().st_size
  assert size > 5_000
  _flip(path, int(8 * size * place))
  _assert_is(_restored(folder), 10)
  damaged, going_on = capsys.readouterr().err.splitlines()
  assert f'checkpoint 20 in {folder} cannot be read' in damaged
  assert going_on == 'going on from checkpoint 10'
  assert (folder / '20.damaged').is_dir()


def test_a_changed_number_is_named(folder, capsys):
  """What a codec's own checks would let through."""
  path = folder / '20' / 'checksums' / 'metadata'
  text = path.read_text()
  wanted = checksums(train_state(20))
  (name,) = [key for key in wanted if 'kernel' in key]
  assert str(wanted[name]) in text
  path.write_text(text.replace(str(wanted[name]), str(wanted[name] ^ 1)))
  _assert_is(_restored(folder), 10)
  assert f'{name} is not as it was saved' in capsys.readouterr().err


@pytest.mark.parametrize('empty', [True, False])
def test_a_step_of_nothing_hides_no_good_ones(folder, empty, capsys):
  (folder / '30').mkdir()
  if not empty:
    (folder / '30' / 'state').mkdir()
  _assert_is(_restored(folder), 20)
  said = capsys.readouterr().err
  assert 'checkpoint 30' in said and 'going on from checkpoint 20' in said


def test_no_checkpoint_is_readable(folder):
  for step in STEPS:
    shutil.rmtree(folder / str(step) / 'state')
  with pytest.raises(UserError, match='no checkpoint in .* can be read'):
    _restored(folder)
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


def _waiting_threads():
  """Orbax's, each of which waits for what another one makes."""
  kinds = [type(thread).__name__ for thread in threading.enumerate()]
  return [kind for kind in kinds if 'Signaling' in kind]


def test_no_thread_outlives_a_folder_that_cannot_be_made(folder):
  """It would keep the process from its end for 20 minutes."""
  checkpoints = Checkpoints(folder)
  shutil.rmtree(folder)
  folder.write_text('in the way')
  with pytest.raises(OSError):
    checkpoints.save(train_state(30), None)
  checkpoints.close()
  assert not _waiting_threads()


def test_no_thread_outlives_a_network_that_cannot_be_saved(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(saved, '_ARRAYS', 'a' * 300)  # too long for a name
  facts = saved.Facts(None, 'noise', [], {}, 'fp32', '', {})
  with pytest.raises(OSError):
    saved.save(tmp_path / 'student', facts, train_state(1).student.params)
  assert not _waiting_threads()
  assert not (tmp_path / 'student').exists()


def test_who_cannot_write_says_that_the_folder_is_not_its_own(tmp_path):
  gone = []

  def check():
    if gone:
      raise UserError('removed')

  checkpoints = Checkpoints(tmp_path / 'phase', check_claim=check)
  checkpoints.save(train_state(10), None)
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path / 'phase', check_claim=check)
  gone.append(True)
  with pytest.raises(UserError, match='removed'):
    checkpoints.save(train_state(20), None)
  with pytest.raises(UserError, match='removed'):
    with checkpoints._writing():
      raise ValueError('NOT_FOUND: Error writing "step/0"')
  with pytest.raises(UserError, match='removed'):
    Checkpoints(tmp_path / 'phase', check_claim=check)
  checkpoints.close()
  assert [path.name for path in (tmp_path / 'phase').iterdir()] == ['10']


def test_a_damaged_best_is_not_replaced_by_another(tmp_path):
  """A run that asked for its best epoch does not end with the last unasked."""
  selects = Selection('accuracy', largest=True)
  checkpoints = Checkpoints(tmp_path, selects)
  for step, accuracy in ((10, 0.9), (20, 0.5), (30, 0.6)):
    checkpoints.save(train_state(step), {'accuracy': accuracy})
  template = devices.replicate(train_state(0))
  _assert_is(checkpoints.restore_best(template), 10)
  path = _largest(tmp_path / '10' / 'state')
  _flip(path, 4 * path.stat().st_size)
  with pytest.raises(UserError, match='the best checkpoint, 10 in') as caught:
    checkpoints.restore_best(template)
  assert '\n' not in str(caught.value)
  checkpoints.close()


def test_checksums_are_of_every_array():
  found = checksums(train_state(1))
  assert len(found) == len(jax.tree.leaves(train_state(1)))
  changed = jax.tree.map(jnp.array, train_state(1))
  own = changed.student
  kernel = own.params['head']['kernel'].at[0, 3, 4].add(1e-6)
  changed = changed.replace(
    learners={'student': own.replace(params={'head': {'kernel': kernel}})}
  )
  differing = [key for key in found if checksums(changed)[key] != found[key]]
  assert len(differing) == 1 and 'kernel' in differing[0]
