"""Whole runs that prune, and students that begin as a saved network."""

import dataclasses
import json
import pathlib
import shutil
import zlib

import chex
import jax
import numpy as np
import pytest
from drawn import noise, untimed

from lit_jax import blocks, models
from lit_jax.data.images import sources
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError
from lit_jax.networks import filters, saved, sparse
from lit_jax.objectives import Objective, scratch
from lit_jax.runs import checks, jobs, phases, rows, runner
from lit_jax.tasks import Classify
from lit_jax.training import loop, population
from lit_jax.training.interrupt import Interrupted, Observer

# How ml_collections loads a configuration file.
pytestmark = [
  pytest.mark.filterwarnings(
    r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
  ),
  pytest.mark.usefixtures('quick'),
]

CONFIG = pathlib.Path(__file__).parents[1] / 'experiments/configs/resnet.py'
# 48 examples are 6 steps an epoch, in calls of 4 steps.
BATCH, PER_CALL = 8, 4
SPEC = {
  'family': 'resnet',
  'depth': 8,
  'shortcut': 'pad',
  'classes': 10,
  'input_shape': [8, 8, 3],
}

DATASET = noise(48, 20)
# That of the saved network differs, so that taking one for the other shows.
READS = ImagePreprocess((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


def _phase(name, epochs=1, **settings):
  return phases.Phase(name, scratch(), epochs, 0.01, **settings)


PRUNE = _phase('prune', 2, sparsity=0.5)


def _job(*phases_, start='', network=SPEC, **changes):
  return jobs.Job(
    dataset=DATASET,
    task=Classify(10),
    teacher=SPEC,
    teacher_checkpoint='',
    teacher_method=phases.Method('teacher', (_phase('train'),)),
    students=(
      jobs.Student(network, phases.Method('pruned', phases_), start=str(start)),
    ),
    training=phases.Training(BATCH, 3, 'fp32', PER_CALL, 'last'),
    config={'name': 'a test'},
    **changes,
  )


def _variables(spec=SPEC, seed=0):
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    if path[-1].key == 'kernel':
      values = rng.normal(size=leaf.shape) * 0.2
    else:
      values = rng.uniform(0.5, 1.5, leaf.shape)
    return values.astype(leaf.dtype)

  shapes = blocks.shapes(models.build(spec))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def _save(folder, spec=SPEC, seed=0, classes=()):
  facts = saved.Facts(
    dict(spec), 'noise', list(classes), READS.facts(), 'fp32', '', {}
  )
  saved.save(folder, facts, _variables(spec, seed))
  return folder


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  return _save(tmp_path_factory.mktemp('start') / 'student')


def _kernels(variables):
  leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in leaves
    if path[-1].key == 'kernel'
  }


def _zeros(variables):
  return {name: own == 0 for name, own in _kernels(variables).items()}


def _student(workdir, name='pruned'):
  return jax.device_get(saved.load(workdir / name / 'student')[1])


def _spied(patch):
  """By phase: every member's student as it begins and ends."""
  seen = {}
  train = loop.run

  def spy(phase, folder, first, observer, *more):
    before = population.unstack(first.variables, len(phase.members))
    results = train(phase, folder, first, observer, *more)
    seen[phase.name] = [
      (own['student'], jax.device_get(result.learners['student']))
      for own, result in zip(before, results, strict=True)
    ]
    return results

  patch.setattr(loop, 'run', spy)
  return seen


@pytest.fixture(scope='module')
def through(start, tmp_path_factory):
  """Pruned, fine-tuned with the zeros, and then without; without a stop."""
  workdir = tmp_path_factory.mktemp('through')
  job = _job(PRUNE, _phase('again', sparsity=0.5), _phase('dense'), start=start)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rows, 'timed', untimed)
    patch.setattr(runner.report, 'write_html', lambda workdir: None)
    seen = _spied(patch)
    results = runner.run(job, workdir)
  return job, workdir, results, seen


def test_half_of_the_weights_go_and_stay_away(through):
  _, _, _, seen = through
  ((begun, ended),) = seen['prune']
  wanted = _kernels(_variables())
  size = sum(own.size for own in wanted.values())
  assert sum(own.sum() for own in _zeros(begun).values()) == round(size / 2)
  # It is the saved network but for the smallest weights.
  limit = max(
    np.abs(wanted[name][gone]).max() for name, gone in _zeros(begun).items()
  )
  for name, own in _kernels(begun).items():
    kept = own != 0
    np.testing.assert_array_equal(own[kept], wanted[name][kept])
    assert (np.abs(own[kept]) >= limit).all()
  chex.assert_trees_all_equal(_zeros(ended), _zeros(begun))
  for name, own in _kernels(ended).items():
    assert (own != _kernels(begun)[name]).any(), name


def test_a_later_phase_keeps_the_zeros_and_a_dense_one_does_not(through):
  _, workdir, _, seen = through
  ((begun, ended),) = seen['again']
  chex.assert_trees_all_equal(begun, seen['prune'][0][1])
  chex.assert_trees_all_equal(_zeros(ended), _zeros(begun))
  ((begun, ended),) = seen['dense']
  chex.assert_trees_all_equal(_zeros(begun), _zeros(seen['prune'][0][0]))
  assert not any(own.any() for own in _zeros(ended).values())
  chex.assert_trees_all_equal(_student(workdir), ended)


def test_the_row_tells_what_is_left(through, start):
  _, workdir, results, _ = through
  (row,) = results['rows']
  variables = _student(workdir)
  assert row['nonzeros'] == sparse.nonzeros(variables['params'])
  assert row['sparse_bytes'] == sparse.stored_bytes(variables)
  assert type(row['nonzeros']) is type(row['sparse_bytes']) is int
  assert row['start'] == str(start)
  columns = {c.key for c in runner.report.columns.of(results)}
  assert {'nonzeros', 'sparse_bytes'} <= columns


def test_a_student_reads_what_its_start_did(through):
  _, workdir, _, _ = through
  facts = saved.describe(workdir / 'pruned' / 'student')
  assert facts.input == READS.facts()
  assert facts.spec == SPEC


def test_a_workdir_is_bound_to_its_start(through, start, tmp_path):
  job, workdir, results, _ = through
  # The same again, and another network in the start's place.
  assert runner.run(job, workdir) == results
  data = json.loads((workdir / 'data.json').read_text())
  assert data['start of pruned'] == saved.describe(start).digest
  copied = tmp_path / 'run'
  shutil.copytree(workdir, copied)
  own = _save(tmp_path / 'start', seed=1)
  (student,) = job.students
  job = dataclasses.replace(
    job, students=(dataclasses.replace(student, start=str(own)),)
  )
  for lost in (False, True):
    if lost:
      (copied / 'results.json').unlink()
    with pytest.raises(UserError, match='start of pruned was .*, is '):
      runner.run(job, copied)


# Stops.


class _Stopping(Observer):
  """Asks for a stop as the phase's first call returns."""

  def first_call(self, count):
    self.stop = 15


def test_stopped_in_the_middle_and_gone_on_with(through, start, tmp_path):
  _, _, _, seen = through
  job = _job(PRUNE, start=start)
  with pytest.raises(Interrupted, match='pruned/prune at step 4 of 12'):
    runner.run(job, tmp_path, _Stopping())
  runner.run(job, tmp_path)
  ((begun, wanted),) = seen['prune']
  found = _student(tmp_path)
  chex.assert_trees_all_equal(found, wanted)
  chex.assert_trees_all_equal(_zeros(found), _zeros(begun))


# Populations.


@pytest.mark.slow
def test_members_have_zeros_of_their_own(monkeypatch, tmp_path):
  first, then = _phase('scratch'), PRUNE
  seen = _spied(monkeypatch)
  members = tuple(
    phases.Member(f'pruned-{seed}', seed, 3, (scratch(), scratch()))
    for seed in (3, 4)
  )
  job = _job(first, then)
  (student,) = job.students
  method = dataclasses.replace(student.method, population=members)
  student = dataclasses.replace(student, method=method)
  results = runner.run(dataclasses.replace(job, students=(student,)), tmp_path)
  zeros = []
  for begun, ended in seen['prune']:
    chex.assert_trees_all_equal(_zeros(ended), _zeros(begun))
    zeros.append(_zeros(begun))
  counts = [sum(own.sum() for own in each.values()) for each in zeros]
  assert counts[0] == counts[1]
  assert any((a != b).any() for a, b in zip(
    zeros[0].values(), zeros[1].values(), strict=True
  ))  # fmt: skip
  for row, member in zip(results['rows'], members, strict=True):
    params = _student(tmp_path, member.name)['params']
    assert row['nonzeros'] == sparse.nonzeros(params)


# Narrower students.

INNER = [8, 16, 32]
NARROW = SPEC | {'inner': INNER}


@pytest.mark.slow
def test_a_narrower_student_begins_with_the_largest_filters(
  start, monkeypatch, tmp_path
):
  seen = _spied(monkeypatch)
  job = _job(_phase('finetune'), start=start, network=NARROW)
  (row,) = runner.run(job, tmp_path)['rows']
  ((begun, _),) = seen['finetune']
  chex.assert_trees_all_equal(begun, filters.narrow(_variables(), INNER))
  assert row['model'] == 'resnet-8 (inner 8/16/32)'
  assert 'nonzeros' not in row
  # What was narrowed is another one's start as it is.
  folder = tmp_path / 'pruned' / 'student'
  again = _job(_phase('finetune'), start=folder, network=NARROW)
  begins = checks.starts.read(again, again.students[0])
  assert begins is not None
  chex.assert_trees_all_equal(begins.variables, _student(tmp_path))
  # And the start of a narrower one yet, but of no wider one.
  narrower = _job(start=folder, network=SPEC | {'inner': [4, 16, 32]})
  begins = checks.starts.read(narrower, narrower.students[0])
  assert begins is not None
  kernel = begins.variables['params']['blocks_0']['units_0']['conv1']['kernel']
  assert kernel.shape == (3, 3, 16, 4)
  for network, words in (
    (SPEC | {'inner': [9, 16, 32]}, '9 filters of the 8 that there are'),
    (SPEC, r'inner \[8, 16, 32\] \(wanted None\)'),
  ):
    with pytest.raises(UserError, match=words):
      checks.check(_job(_phase('finetune'), start=folder, network=network))


# What is found wrong before anything is trained.


def test_without_a_start_the_values_are_drawn(monkeypatch, tmp_path):
  seen = []

  def stop(phase, folder, first, observer, *more):
    seen.append(first.student.params)
    raise Interrupted('stopped', 15)

  monkeypatch.setattr(loop, 'run', stop)
  with pytest.raises(Interrupted):
    runner.run(_job(_phase('scratch')), tmp_path)
  key = jax.random.fold_in(jax.random.key(3), zlib.crc32(b'student'))
  wanted = blocks.init(models.build(SPEC), key)['params']
  chex.assert_trees_all_equal(
    jax.tree.map(lambda x: x[0], seen[0]), jax.device_get(wanted)
  )


@pytest.mark.parametrize(
  'phase, words',
  [
    (_phase('prune', sparsity=1.0), 'pruned/prune: sparsity is 1.0'),
    (_phase('prune', sparsity=-0.5), 'sparsity is -0.5; .* at least 0'),
    (_phase('prune', sparsity=float('nan')), 'sparsity is nan'),
    (
      _phase('prune', sparsity=0.5, prune_by='filter'),
      "pruned/prune: unknown prune_by 'filter'; .* global, layer",
    ),
  ],
)
def test_phases_that_cannot_prune(phase, words):
  with pytest.raises(UserError, match=words) as caught:
    checks.check(_job(phase))
  assert '\n' not in str(caught.value)


def test_a_teacher_is_not_pruned():
  kd = dataclasses.replace(PRUNE, objective=Objective(0.9, 1.0, 3.0))
  job = _job(kd)
  job = dataclasses.replace(
    job, teacher_method=phases.Method('teacher', (PRUNE,))
  )
  with pytest.raises(UserError, match='the teacher is not pruned'):
    checks.check(job)


def test_starts_that_do_not_fit(start, tmp_path):
  for network, words in (
    (SPEC | {'depth': 14}, r'the start of pruned: .* depth 8 \(wanted 14\)'),
    (SPEC | {'depth': 14, 'inner': INNER}, r'depth 8 \(wanted 14\)'),
    (SPEC | {'shortcut': 'conv'}, r'shortcut pad \(wanted conv\)'),
  ):
    with pytest.raises(UserError, match=words) as caught:
      runner.run(_job(PRUNE, start=start, network=network), tmp_path / 'run')
    assert '\n' not in str(caught.value)
  with pytest.raises(UserError, match='start of pruned: no readable network'):
    runner.run(_job(PRUNE, start=tmp_path / 'no'), tmp_path / 'run')
  own = _save(tmp_path / 'cats', classes=('cat', 'dog'))
  named = dataclasses.replace(DATASET, classes=0, class_names=('a', 'b'))
  job = dataclasses.replace(_job(PRUNE, start=own), dataset=named)
  with pytest.raises(UserError, match='tells the classes cat, dog apart'):
    checks.starts.read(job, job.students[0])
  assert not (tmp_path / 'run').exists()


# The command line.


@pytest.mark.slow
def test_a_pruned_network_by_flags(main, monkeypatch, start, tmp_path):
  monkeypatch.setattr(sources, 'load', lambda *args: DATASET)
  keys = {
    'dataset': 'fashion_mnist_mini',
    'method': 'pruned',
    'teacher.depth': 14,
    'student.depth': 8,
    'student.checkpoint': start,
    'student.inner': '(8,16,32)',
    'prune.epochs': 1,
    'prune.sparsity': 0.75,
    'prune.prune_by': 'layer',
    'batch_size': BATCH,
  }
  flags = [f'--config.{key}={value}' for key, value in keys.items()]
  command = (f'--config={CONFIG}', f'--workdir={tmp_path / "run"}', *flags)
  code, out, err = main(*command)
  assert code == 0, err
  for word in ('pruned', 'inner', 'non-zero', 'bytes'):
    assert word in out
  for name, own in _zeros(_student(tmp_path / 'run')).items():
    assert own.sum() == round(0.75 * own.size), name
  # Finished: again it only reports, and another start is refused.
  monkeypatch.setattr(loop, 'run', None)
  assert main(*command)[0] == 0
  own = _save(tmp_path / 'start', seed=1)
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  config['student']['checkpoint'] = str(own)
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
  other = f'--config.student.checkpoint={own}'
  code, _, err = main(*command, other)
  assert code == 2 and 'start of pruned was' in err
  code, _, err = main(*command, '--config.sequence=8')
  assert code == 2 and 'leave one of them empty' in err
