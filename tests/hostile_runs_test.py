"""Networks and checkpoints, damaged or made up: right, or one line."""

import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
from cases import SCALARS, cases, files, json_values, outcome
from drawn import train_state
from hypothesis import example, given
from hypothesis import strategies as st

from lit_jax import blocks, models
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs import starts
from lit_jax.training import devices
from lit_jax.training.checkpoint import Checkpoints
from lit_jax.training.task import Selection

SPEC = {
  'family': 'resnet', 'depth': 8, 'classes': 3, 'input_shape': [8, 8, 3],
  'shortcut': 'pad',
}  # fmt: skip
STEPS = 10, 20


# Damage to the files of a folder.

HARMS = st.lists(
  st.tuples(
    st.integers(0, 1000),
    st.sampled_from(['flip', 'cut', 'empty', 'delete', 'folder', 'swap']),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
  ),
  min_size=1,
  max_size=3,
)


def harm(folder, harms):
  """Does it, and returns the paths of the files."""
  harmed = []
  for which, kind, where, bit in harms:
    paths = sorted(p for p in folder.rglob('*') if p.is_file())
    path = paths[which % len(paths)]
    content = path.read_bytes()
    at = int(where * len(content))
    if kind == 'flip' and content:
      content = bytearray(content)
      content[at] ^= 1 << bit
      path.write_bytes(content)
    elif kind == 'cut':
      path.write_bytes(content[:at])
    elif kind == 'empty':
      path.write_bytes(b'')
    elif kind == 'swap':
      other = paths[(which + 1 + bit) % len(paths)]
      path.write_bytes(other.read_bytes())
      other.write_bytes(content)
      harmed.append(other)
    elif kind in ('delete', 'folder'):
      path.unlink()
      if kind == 'folder':
        path.mkdir()
    harmed.append(path)
  return [path.relative_to(folder) for path in harmed]


def assert_equal(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype and one.shape == other.shape
    assert one.tobytes() == other.tobytes()


# Saved networks.


def _drawn_network(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
    blocks.shapes(models.build(SPEC)),
  )


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """A folder, and the variables that lie in it."""
  folder = tmp_path_factory.mktemp('network') / 'student'
  facts = saved.Facts(
    SPEC, 'noise', ['a', 'b', 'c'], {'mean': [0.5]}, 'fp32', '', {'depth': 8}
  )
  beside = {'judge': {'params': {'a': np.ones((2, 3), np.float32)}}}
  saved.save(folder, facts, _drawn_network(0), beside)
  return folder, _drawn_network(0), beside['judge']


@cases(0.1)
@given(HARMS, st.booleans())
def test_damaged_networks(network, harms, known):
  whole, variables, judge = network
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name) / 'student'
    shutil.copytree(whole, folder)
    harm(folder, harms)
    found = outcome(lambda: saved.load(folder, SPEC if known else None))
    if found is not None:
      assert_equal(found[1], variables)
    facts = outcome(lambda: saved.check(folder))
    # Other spellings of the description may describe the same network.
    assert facts is None or found is not None or facts.spec != SPEC
    template = {'judge': jax.eval_shape(lambda: judge)}
    others = outcome(lambda: saved.load_others(folder, template))
    for own in (others or {}).values():
      assert_equal(own, judge)


WORDS = st.sampled_from([
  'resnet', 'resnext', 'vdcnn', 'stargan', 'pad', 'conv', 'os:mkdir',
  'builtins:exec',
])  # fmt: skip
KEYS = [*SPEC, 'units', 'inner', 'judge', '..', 'path']
JSON = json_values(KEYS, SCALARS | WORDS)
FACTS = [field.name for field in dataclasses.fields(saved.Facts)]
PLACES = st.one_of(
  st.tuples(st.sampled_from(FACTS)),
  st.tuples(
    st.just('spec'), st.sampled_from([*SPEC, 'units', 'inner', 'dtype', 'x'])
  ),
  st.tuples(st.just('others'), st.sampled_from(['judge', '..', '/', '\0'])),
)


@cases(0.15)
@example([(('spec',), 5)], False)
@example([(('others',), [])], False)
@example([(('spec', 'depth'), '8')], False)
@example([(('spec', 'depth'), 6 * 10**6 + 2)], False)
@example([(('spec', 'classes'), -1)], False)
@given(st.lists(st.tuples(PLACES, JSON), min_size=1, max_size=3), st.booleans())
def test_networks_that_say_something_else(network, changes, known):
  whole, variables, judge = network
  content = json.loads((whole / 'network.json').read_text())
  for (*sheets, key), value in changes:
    inner = content
    for sheet in sheets:
      inner = inner[sheet] if isinstance(inner.get(sheet), dict) else {}
    inner[key] = value
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name) / 'student'
    shutil.copytree(whole, folder)
    (folder / 'network.json').write_text(json.dumps(content))
    before = files(pathlib.Path(name))
    found = outcome(lambda: saved.load(folder, SPEC if known else None))
    outcome(lambda: saved.check(folder))
    template = {'judge': jax.eval_shape(lambda: judge)}
    outcome(lambda: saved.load_others(folder, template))
    assert files(pathlib.Path(name)) == before
  if found is not None:
    facts, own = found
    assert_equal(own, variables)
    built = blocks.shapes(models.build(facts.spec))
    assert jax.tree.map(np.shape, built) == jax.tree.map(np.shape, own)


def test_no_code_is_run_because_a_network_names_it(network, tmp_path):
  folder, made = tmp_path / 'student', tmp_path / 'made'
  shutil.copytree(network[0], folder)
  content = json.loads((folder / 'network.json').read_text())
  content['spec'] = {'family': 'os:mkdir', 'path': str(made)}
  (folder / 'network.json').write_text(json.dumps(content))
  with pytest.raises(UserError, match='which is no part of lit_jax'):
    saved.load(folder)
  assert not made.exists()


@pytest.mark.parametrize('theirs', [5, 'abc', ['a', 1, 2], {'a': 1}])
def test_widths_that_are_none(theirs):
  student = SPEC | {'inner': [8, 16, 32]}
  found = starts._wanted(student, student['inner'], SPEC | {'inner': theirs})
  assert found == student


# Checkpoints.


BEST = Selection('accuracy', largest=True)


@pytest.fixture(scope='module')
def phases(tmp_path_factory):
  """Folders of two checkpoints, without and with a selection."""
  root = tmp_path_factory.mktemp('phases')
  for name, selects in (('last', None), ('best', BEST)):
    checkpoints = Checkpoints(root / name, selects)
    for step in STEPS:
      checkpoints.save(train_state(step), {'accuracy': 1 / step})
    checkpoints.close()
  return root


@cases(0.15)
@example([(304, 'folder', 0.0, 0)], 'best')
@given(HARMS, st.sampled_from(['last', 'best']))
def test_damaged_checkpoints(phases, harms, name):
  selects = BEST if name == 'best' else None
  with tempfile.TemporaryDirectory() as root:
    folder = pathlib.Path(root) / 'phase'
    shutil.copytree(phases / name, folder)
    harmed = harm(folder, harms)
    template = devices.replicate(train_state(0))

    def restored(best=False):
      checkpoints = Checkpoints(folder, selects)
      try:
        if best:
          return checkpoints.restore_best(template)
        return checkpoints.restore(template)
      finally:
        checkpoints.close()

    best = outcome(lambda: restored(best=True)) if selects else None
    if best is not None:
      assert_equal(best, train_state(10))
    found = outcome(restored)
    if found is not None:
      step = int(found.step[0])
      assert step in STEPS
      assert_equal(found, train_state(step))
    untouched = [s for s in STEPS if all(p.parts[0] != str(s) for p in harmed)]
    # Of a lost number nobody knows whether it was the best.
    if untouched and not any('metrics' in path.parts for path in harmed):
      assert found is not None and step >= max(untouched)


@pytest.mark.parametrize('damage', ['', '{', '{"accuracy": 0.9}', None])
@pytest.mark.parametrize('step', STEPS)
def test_checkpoints_without_their_numbers(
  phases, step, damage, tmp_path, capsys
):
  """The newest is put aside; of an older one nobody knows if it was best."""
  folder = tmp_path / 'phase'
  shutil.copytree(phases / 'best', folder)
  path = folder / str(step) / 'metrics' / 'metrics'
  path.unlink() if damage is None else path.write_text(damage)
  if step == 10:
    with pytest.raises(UserError, match='numbers of checkpoint 10 in'):
      Checkpoints(folder, BEST)
    assert sorted(p.name for p in folder.iterdir()) == ['10', '20']
    return
  checkpoints = Checkpoints(folder, BEST)
  found = checkpoints.restore(devices.replicate(train_state(0)))
  checkpoints.close()
  assert_equal(found, train_state(10))
  assert 'checkpoint 20' in capsys.readouterr().err
  assert (folder / '20.damaged').is_dir()
