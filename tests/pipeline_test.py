"""Whole runs in this process: teacher, students, stops, damage, results."""

import collections
import dataclasses
import json
import math
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import noise, noise_split, untimed
from flax.training.dynamic_scale import DynamicScale

from lit_jax import blocks, models
from lit_jax.data.feed import Feed
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.objectives import Objective, scratch
from lit_jax.report import sheets
from lit_jax.runs import jobs, phases, rows, runner
from lit_jax.tasks import Classify, classify
from lit_jax.training import (
  devices,
  evaluation,
  loop,
  optim,
  packing,
  population,
  precision,
  state,
)
from lit_jax.training.checkpoint import Checkpoints
from lit_jax.training.interrupt import Interrupted, Observer

# 100 examples are 6 steps an epoch; calls of 4 steps, so that every epoch ends
# within a call, after 2 steps.
BATCH, PER_CALL, PER_EPOCH = 16, 4, 6
SIGNAL = 15

DATASET = noise(100, 41)
PREPROCESS = DATASET.preprocess
COMMON = {
  'family': 'resnet',
  'depth': 8,
  'classes': 10,
  'input_shape': [8, 8, 3],
}
# The two differ, so that taking one for the other shows.
TEACHER = COMMON | {'shortcut': 'conv'}
STUDENT = COMMON | {'shortcut': 'pad'}

KD = Objective(alpha=0.9, beta=1.0, temperature=3.0)
LIT = Objective(alpha=0.9, beta=0.5, temperature=3.0)


def _phase(name, objective, epochs=1, **settings):
  return phases.Phase(name, objective, epochs, 0.1, **settings)


def _scratch(epochs, milestones=(100, 150), **settings):
  return phases.Method(
    'scratch',
    (_phase('scratch', scratch(), epochs, milestones=milestones, **settings),),
  )


ENDS = ('stem', 'head')
LIT_PHASES = (
  _phase('lit', LIT, 2, copy=ENDS, frozen=ENDS),
  _phase('finetune', KD, 2, schedule='cosine'),
)
METHODS = {
  'scratch': _scratch(1),
  'kd': phases.Method('kd', (_phase('kd', KD),)),
  'lit': phases.Method('lit', LIT_PHASES),
}


def _job(*methods, teacher='', dataset=DATASET, **training):
  settings = dict(
    batch_size=BATCH,
    seed=3,
    precision='fp32',
    steps_per_call=PER_CALL,
    select='last',
  )
  return jobs.Job(
    dataset=dataset,
    task=Classify(10),
    teacher=TEACHER,
    teacher_checkpoint=str(teacher),
    teacher_method=phases.Method(
      'teacher', (_phase('train_teacher', scratch()),)
    ),
    students=tuple(
      jobs.Student(STUDENT, METHODS[m] if isinstance(m, str) else m)
      for m in methods
    ),
    training=phases.Training(**(settings | training)),
    config={'name': 'a test', 'list': [1, 2]},
  )


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
  monkeypatch.setattr(rows, 'timed', untimed)


@pytest.fixture
def no_report(monkeypatch):
  """For tests that are not about the page, which takes seconds to draw."""
  monkeypatch.setattr(runner.report, 'write_html', lambda workdir: None)


@dataclasses.dataclass
class Finished:
  """A finished run, and every phase that ran: its first and last network."""

  job: jobs.Job
  workdir: pathlib.Path
  results: dict
  trained: dict


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished')
  job = dataclasses.replace(_job('scratch', 'kd', 'lit'), stitch=True)
  trained = {}
  train = loop.run

  def spy(phase, folder, first, observer, *more):
    names = phase.method, phase.name
    assert names not in trained
    (before,) = population.unstack(first.variables, 1)
    (result,) = train(phase, folder, first, observer, *more)
    trained[names] = tuple(
      own['student'] for own in (before, jax.device_get(result.learners))
    )
    return (result,)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rows, 'timed', untimed)
    patch.setattr(loop, 'run', spy)
    results = runner.run(job, workdir)
  return Finished(job, workdir, results, trained)


def _assert_same(a, b):
  """Equal structure and equal bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def _differ(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return any(not np.array_equal(x, y) for x, y in pairs)


def _parts(variables, names):
  return {
    collection: {part: tree[part] for part in names if part in tree}
    for collection, tree in variables.items()
  }


def _files(folder):
  """Every file and its bytes."""
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.is_file() and p.name != '.lock'
  }


def _records(workdir, split=None):
  """The records, without what a clock wrote."""
  records = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  for record in records:
    record.pop('train_seconds', None)
  return [r for r in records if split in (None, r['split'])]


def _rows(results):
  return [
    {k: v for k, v in row.items() if k != 'train_seconds'}
    for row in results['rows']
  ]


def _steps(folder):
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _logits(net, variables, split):
  """The plain network on the whole split at once."""
  x = split.inputs / np.float32(255)
  x = (x - np.float32(PREPROCESS.mean)) / np.float32(PREPROCESS.std)
  return jax.jit(net.apply)(jax.device_get(variables), x)


def _plain_evaluation(net, variables, split):
  logits = np.asarray(_logits(net, variables, split)[0], np.float64)
  shifted = logits - logits.max(1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  chosen = log_p[np.arange(len(split.labels)), split.labels]
  return -chosen.mean(), (logits.argmax(1) == split.labels).mean()


def _folder(workdir, method):
  """Where a trained network lies; the teacher's is named after it."""
  return workdir / method / ('teacher' if method == 'teacher' else 'student')


# What a run leaves.


def test_every_file_is_made(finished):
  workdir = finished.workdir
  config = json.loads((workdir / 'config.json').read_text())
  assert config == finished.job.config
  for (method, phase), _ in finished.trained.items():
    epochs = 2 if method == 'lit' else 1
    wanted = [PER_EPOCH * (i + 1) for i in range(epochs)]
    assert _steps(workdir / method / phase) == wanted
    assert list((workdir / 'tensorboard' / method / phase).iterdir())
  for method in ('teacher', 'scratch', 'kd', 'lit'):
    facts = saved.describe(_folder(workdir, method))
    assert facts.spec == (TEACHER if method == 'teacher' else STUDENT)
    assert (facts.dataset, facts.precision) == ('noise', 'fp32')
    assert facts.input == PREPROCESS.facts()
  page = (workdir / 'report.html').read_text()
  for method in ('teacher', 'scratch', 'kd', 'lit'):
    assert method in page
  assert not list(workdir.rglob('*.part'))


def test_records_of_every_phase(finished):
  seen = collections.Counter(
    (r['method'], r['phase'], r['split']) for r in _records(finished.workdir)
  )
  wanted = {
    (*names, split): 2 if names[0] == 'lit' else 1
    for names in finished.trained
    for split in ('train', 'test')
  }
  assert seen == wanted
  for record in _records(finished.workdir, 'train'):
    ir = {k for k in record if k.startswith('ir/')}
    in_lit = record['phase'] == 'lit'
    assert ir == {f'ir/blocks_{i}' for i in range(3) if in_lit}
    assert math.isfinite(record['loss'])


def test_results_have_the_documented_shape(finished):
  results = finished.results
  assert json.loads((finished.workdir / 'results.json').read_text()) == results
  assert results.keys() == {
    'dataset', 'classes', 'seed', 'columns', 'selects', 'selects_largest',
    'loss_name', 'notes', 'rows', 'device', 'versions', 'command'
  }  # fmt: skip
  assert (results['dataset'], results['seed']) == ('noise', 3)
  assert results['versions']['jax'] == jax.__version__
  assert results['device'].startswith('2 x cpu')
  epochs = {'teacher': 1, 'scratch': 1, 'kd': 1, 'lit': 4}
  assert [row['method'] for row in results['rows']] == list(epochs)
  for row in results['rows']:
    student = row['method'] != 'teacher'
    more = [
      'seed', 'data_seed', 'objectives', 'ir_error', 'disagreements',
      'disagreement_counts', 'disagreement_images',
    ]  # fmt: skip
    if row['method'] in ('kd', 'lit'):
      more.append('teacher')
    if row['method'] == 'lit':
      more.append('stitch')
    assert row.keys() == {
      'method', 'model', 'depth', 'parameters', 'macs', 'accuracy',
      'balanced_accuracy', 'confusion', 'epochs', 'train_seconds', 'latency_ms',
      'latency_quartiles_ms',
      *(more if student else []),
    }  # fmt: skip
    confusion = np.array(row['confusion'])
    labels = DATASET.splits['test'].labels
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels))
    right = np.diag(confusion)
    assert row['accuracy'] == pytest.approx(right.sum() / len(labels))
    balanced = (right / confusion.sum(1)).mean()
    assert row['balanced_accuracy'] == pytest.approx(balanced)
    assert (row['model'], row['depth']) == ('resnet-8', 8)
    assert row['epochs'] == epochs[row['method']]
    assert row['latency_ms'] == {'1': 0.25, '128': 32.0}
    assert row['train_seconds'] > 0
    if student:
      assert list(row['ir_error']) == [f'blocks_{i}' for i in range(3)]
      for kinds in row['ir_error'].values():
        assert kinds.keys() == {'teacher_input', 'own_input'}
        assert all(math.isfinite(v) and v > 0 for v in kinds.values())
  # Option B's 1x1 convolutions: the teacher's row is of the teacher.
  parameters = [row['parameters'] for row in results['rows']]
  assert parameters[0] > parameters[1] == parameters[2] == parameters[3]


def test_rows_tell_where_teacher_and_student_disagree(finished):
  split, said = DATASET.splits['test'], {}
  for method in ('teacher', 'lit'):
    facts, variables = saved.load(_folder(finished.workdir, method))
    logits = np.asarray(_logits(models.build(facts.spec), variables, split)[0])
    said[method] = logits.argmax(1)
  row = next(r for r in finished.results['rows'] if r['method'] == 'lit')
  teacher, student = said['teacher'], said['lit']
  differ = np.flatnonzero(teacher != student)
  assert row['disagreement_counts'] == {
    'examples': 41,
    'all': len(differ),
    'teacher_right': (teacher == split.labels)[differ].sum(),
    'student_right': (student == split.labels)[differ].sum(),
  }
  found = row['disagreements']
  assert len(found) == min(12, len(differ)) > 0
  indices = [own['index'] for own in found]
  assert set(indices) <= set(differ.tolist())
  for own in found:
    i = own['index']
    assert own['label'] == split.labels[i]
    assert (own['teacher'], own['student']) == (teacher[i], student[i])
  images = sheets.read(finished.workdir, row['disagreement_images'])
  assert images is not None
  np.testing.assert_array_equal(images[:, 0], split.inputs[indices])
  # All others have their own.
  assert all('disagreements' in r for r in finished.results['rows'][1:])


def test_the_blocks_of_a_student_that_compared_them_are_tried(finished):
  teacher, *_, lit = finished.results['rows']
  stitch, errors = lit['stitch'], lit['ir_error']
  assert list(stitch) == list(errors)
  for own in stitch.values():
    assert own.keys() == {'score', 'lost', 'input_shift'}
    assert own['score'] + own['lost'] == pytest.approx(teacher['accuracy'])
  # Fine-tuning has moved the copied stem.
  assert 0 < stitch['blocks_0']['input_shift'] < 1
  for i in (1, 2):
    before = errors[f'blocks_{i - 1}']['own_input']
    assert stitch[f'blocks_{i}']['input_shift'] == before


@pytest.mark.parametrize(
  'method, phase',
  [('teacher', 'train_teacher'), ('kd', 'kd'), ('lit', 'finetune')],
)
def test_student_alone_gives_its_accuracy(method, phase, finished):
  folder = _folder(finished.workdir, method)
  facts, variables = saved.load(folder)
  _, accuracy = _plain_evaluation(
    models.build(facts.spec), variables, DATASET.splits['test']
  )
  row = next(r for r in finished.results['rows'] if r['method'] == method)
  times = 'latency_ms', 'latency_quartiles_ms'
  assert {k: v for k, v in row.items() if k not in times} == {
    k: v for k, v in facts.row.items() if k not in times
  }
  assert row['accuracy'] == pytest.approx(accuracy, abs=1e-9)
  last = finished.trained[method, phase][1]
  _assert_same(jax.device_get(variables), last)


def test_the_teacher_is_trained_once(finished):
  assert list(finished.trained) == [
    ('teacher', 'train_teacher'),
    ('scratch', 'scratch'),
    ('kd', 'kd'),
    ('lit', 'lit'),
    ('lit', 'finetune'),
  ]


def test_students_start_from_the_same_network(finished):
  trained = finished.trained
  first = trained['scratch', 'scratch'][0]
  _assert_same(first, trained['kd', 'kd'][0])
  lit = trained['lit', 'lit'][0]
  blocks = ('blocks_0', 'blocks_1', 'blocks_2')
  _assert_same(_parts(first, blocks), _parts(lit, blocks))
  assert _differ(_parts(first, ENDS), _parts(lit, ENDS))


def test_frozen_parts_are_the_teachers_until_fine_tuning(finished):
  teacher = finished.trained['teacher', 'train_teacher'][1]
  first, after_lit = finished.trained['lit', 'lit']
  _assert_same(_parts(teacher, ENDS), _parts(first, ENDS))
  _assert_same(_parts(teacher, ENDS), _parts(after_lit, ENDS))
  for block in ('blocks_0', 'blocks_1', 'blocks_2'):
    for collection in ('params', 'batch_stats'):
      assert _differ(first[collection][block], after_lit[collection][block])
  first, last = finished.trained['lit', 'finetune']
  _assert_same(first, after_lit)
  for part in ENDS:
    assert _differ(teacher['params'][part], last['params'][part])
  assert _differ(teacher['batch_stats']['stem'], last['batch_stats']['stem'])


def _updates(before, after):
  """What a phase added to each of the parameters and statistics, by name."""
  flat = [jax.tree_util.tree_leaves_with_path(tree) for tree in (before, after)]
  return {
    jax.tree_util.keystr(path): np.float64(new) - np.float64(old)
    for (path, old), (_, new) in zip(*flat, strict=True)
  }


@pytest.mark.slow
def test_a_run_in_the_forms_of_accelerators(
  finished, accelerator_forms, tmp_path, no_report, monkeypatch
):
  seen, own = set(), loop.unpacked
  monkeypatch.setattr(
    loop, 'unpacked', lambda packed: seen.add(type(packed)) or own(packed)
  )
  results = runner.run(_job('lit'), tmp_path)
  assert seen == {packing.Packed}
  trained = finished.trained
  # Sums in another order, over 6 and 24 steps: 1e-5 of an update. Where one
  # turns the sign of an input of a ReLU, which may happen once in such a run,
  # one of 16,000 terms of a gradient goes: 1 / sqrt(16,000).
  for method, first, last in (
    ('teacher', 'train_teacher', 'train_teacher'),
    ('lit', 'lit', 'finetune'),
  ):
    start = trained[method, first][0]
    wanted = _updates(start, trained[method, last][1])
    found = _updates(start, saved.load(_folder(tmp_path, method))[1])
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
      distance = np.linalg.norm(found[name] - value)
      assert distance < 1e-2 * np.linalg.norm(value), (method, name)
  rows = {row['method']: row for row in finished.results['rows']}
  assert [row['method'] for row in results['rows']] == ['teacher', 'lit']
  for row in results['rows']:
    wanted = rows[row['method']]
    assert row['accuracy'] == pytest.approx(wanted['accuracy'], abs=1 / 41)
    for name, errors in row.get('ir_error', {}).items():
      assert errors == pytest.approx(wanted['ir_error'][name], rel=1e-2)


# The same run again.


def _no_training(*args, **kwargs):
  raise AssertionError('trained')


@pytest.mark.parametrize('damage', [None, 'lost', '', '{', '[]', '{"rows": 1}'])
def test_again_changes_nothing(damage, finished, monkeypatch, no_report):
  before = _files(finished.workdir)
  if damage == 'lost':
    (finished.workdir / 'results.json').unlink()
  elif damage is not None:
    (finished.workdir / 'results.json').write_text(damage)
  monkeypatch.setattr(loop, 'run', _no_training)
  monkeypatch.setattr(saved, 'save', _no_training)
  again = runner.run(finished.job, finished.workdir)
  assert again == finished.results
  assert _files(finished.workdir) == before


def test_one_more_method(finished, tmp_path, monkeypatch, no_report):
  shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
  trained = []

  def skip(phase, workdir, first, observer, *more):
    trained.append((phase.method, phase.name))
    (own,) = population.unstack(first.variables, 1)
    return (loop.PhaseResult(devices.replicate(own), 1.0),)

  monkeypatch.setattr(loop, 'run', skip)
  more = phases.Method('more', (_phase('more', KD),))
  results = runner.run(_job('kd', more), tmp_path)
  assert trained == [('more', 'more')]
  teacher, _, kd, _ = finished.results['rows']
  assert results['rows'][:2] == [teacher, kd]
  assert results['rows'][2]['method'] == 'more'


# A teacher that is given.


def test_a_folder_as_teacher(finished, tmp_path, monkeypatch, no_report):
  monkeypatch.setattr(loop, 'run', _no_training)
  folder = finished.workdir / 'teacher' / 'teacher'
  results = runner.run(_job(teacher=folder), tmp_path)
  (row,) = results['rows']
  trained = finished.results['rows'][0]
  assert row == trained | {'epochs': 0, 'train_seconds': 0.0}
  assert not (tmp_path / 'teacher').exists()


# Stopping and going on.


@dataclasses.dataclass
class Trace:
  """Everything the program computed, call by call and step by step."""

  calls: int = 0
  metrics: dict = dataclasses.field(default_factory=dict)


def _traced(patch):
  seen = Trace()
  map_train = devices.map_train

  def mapped(program):
    call = map_train(program)

    def record(current, teacher, superbatch, objectives, keys):
      # As bytes of the key: phases differ in it.
      phase = np.asarray(jax.random.key_data(keys)).tobytes()
      first, count = int(current.step[0]), int(superbatch.count)
      current, metrics = call(current, teacher, superbatch, objectives, keys)
      host = jax.device_get(metrics)
      for i in range(count):
        # A step that is taken again overwrites the first time's.
        seen.metrics[phase, first + i] = {k: v[i] for k, v in host.items()}
      seen.calls += 1
      return current, metrics

    return record

  patch.setattr(devices, 'map_train', mapped)
  return seen


@pytest.fixture
def trace(monkeypatch):
  return _traced(monkeypatch)


def _stop_at(monkeypatch, call):
  """A request that comes while that call's batches are being made."""
  observer = Observer()
  count = 0
  superbatch = Feed.superbatch

  def counting(feed, step):
    nonlocal count
    count += 1
    if count == call:
      observer.stop = SIGNAL
    return superbatch(feed, step)

  monkeypatch.setattr(Feed, 'superbatch', counting)
  return observer


@pytest.fixture(scope='module')
def through(finished, tmp_path_factory):
  """LIT without a stop, with the finished run's teacher."""
  workdir = tmp_path_factory.mktemp('through')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rows, 'timed', untimed)
    patch.setattr(runner.report, 'write_html', lambda workdir: None)
    seen = _traced(patch)
    results = runner.run(_job('lit', teacher=finished.workdir), workdir)
  return workdir, results, seen


def _interrupt(job, workdir, call):
  with pytest.MonkeyPatch.context() as patch:
    with pytest.raises(Interrupted, match='same command again') as caught:
      runner.run(job, workdir, _stop_at(patch, call))
  assert caught.value.number == SIGNAL
  assert not (workdir / 'results.json').exists()
  return str(caught.value)


def _assert_as_through(workdir, results, through):
  """Bit for bit what the run without a stop left."""
  reference, wanted, _ = through
  assert _rows(results) == _rows(wanted)
  student = pathlib.Path('lit', 'student')
  _assert_same(
    saved.load(workdir / student)[1],
    saved.load(reference / student)[1],
  )
  assert _records(workdir, 'test') == _records(reference, 'test')
  # A stop within an epoch cuts its record in two; they tell the same.
  assert _epoch_means(workdir) == pytest.approx(
    _epoch_means(reference), rel=1e-6
  )
  for phase in ('lit', 'finetune'):
    assert _steps(workdir / 'lit' / phase)[-1] == 2 * PER_EPOCH


def _epoch_means(workdir):
  """Means of the loss by phase and epoch; every step counts once."""
  sums, last = collections.defaultdict(float), collections.Counter()
  for r in _records(workdir, 'train'):
    phase, step = r['phase'], r['step']
    assert step > last[phase]
    epoch = math.ceil(r['epoch'])
    sums[phase, epoch] += r['loss'] * (step - last[phase]) / PER_EPOCH
    last[phase] = step
  assert last == {'lit': 2 * PER_EPOCH, 'finetune': 2 * PER_EPOCH}
  return dict(sums)


def test_a_workdir_as_teacher(finished, through):
  workdir, results, _ = through
  row, _ = results['rows']
  assert row == finished.results['rows'][0] | {
    'epochs': 0,
    'train_seconds': 0.0,
  }
  assert not (workdir / 'teacher').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  'calls, places',
  [
    ([1], ['lit/lit at step 4 of 12']),
    ([2], ['lit/lit at step 6 of 12']),
    # Every further run makes one call and is stopped again.
    (
      [3, 1, 1],
      [
        'lit/lit at step 10 of 12',
        'before lit/finetune',
        'lit/finetune at step 4 of 12',
      ],
    ),
  ],
)
def test_resumed_is_bit_identical(
  calls, places, finished, through, tmp_path, trace, no_report
):
  job = _job('lit', teacher=finished.workdir)
  for call, place in zip(calls, places, strict=True):
    assert place in _interrupt(job, tmp_path, call)
  results = runner.run(job, tmp_path)
  _assert_as_through(tmp_path, results, through)
  assert trace.metrics.keys() == through[2].metrics.keys()
  _assert_same(list(trace.metrics.values()), list(through[2].metrics.values()))
  # No step was made twice.
  assert trace.calls == through[2].calls


# Damaged checkpoints.


def _truncate(folder):
  """Cuts the largest file of a checkpoint in half."""
  files = [p for p in folder.rglob('*') if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def stopped_late(finished, tmp_path, trace, no_report):
  """Within the last epoch; the phase has checkpoints at steps 6 and 10."""
  job = _job('lit', teacher=finished.workdir)
  assert 'finetune at step 10' in _interrupt(job, tmp_path, 7)
  folder = tmp_path / 'lit' / 'finetune'
  assert _steps(folder) == [6, 10]
  return job, folder


def test_newest_checkpoint_damaged(
  stopped_late, through, tmp_path, trace, capsys
):
  job, folder = stopped_late
  _truncate(folder / '10')
  capsys.readouterr()
  results = runner.run(job, tmp_path)
  damaged, going_on = capsys.readouterr().err.splitlines()
  assert f'checkpoint 10 in {folder} cannot be read' in damaged
  assert 'from checkpoint 6' in going_on
  assert (folder / '10.damaged').is_dir()
  _assert_as_through(tmp_path, results, through)
  # Only the one call between the two was made again.
  assert trace.calls == through[2].calls + 1


@pytest.mark.slow
def test_every_checkpoint_damaged(stopped_late, through, tmp_path, trace):
  job, folder = stopped_late
  for step in (6, 10):
    _truncate(folder / str(step))
  before = _files(folder)
  with pytest.raises(UserError, match='no checkpoint in .* can be read') as e:
    runner.run(job, tmp_path)
  assert str(folder) in str(e.value) and 'remove' in str(e.value)
  assert '\n' not in str(e.value)
  assert _files(folder) == before
  shutil.rmtree(folder)
  results = runner.run(job, tmp_path)
  _assert_as_through(tmp_path, results, through)
  assert trace.calls == through[2].calls + 3


# Populations.


def _objectives(beta):
  return LIT.replace(beta=beta), KD


def _population(*members):
  """LIT by members (name, seed, data seed, β)."""
  return phases.Method(
    'lit',
    LIT_PHASES,
    tuple(
      phases.Member(name, seed, data_seed, _objectives(beta))
      for name, seed, data_seed, beta in members
    ),
  )


# The first is the member that `through` trained alone.
SHARED = _population(('lit-a', 3, 3, 0.5), ('lit-b', 4, 3, 0.2))
OWN_DATA = _population(('lit-a', 3, 3, 0.5), ('lit-c', 4, 4, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize('method', [SHARED, OWN_DATA], ids=['shared', 'own'])
def test_a_member_is_the_student_trained_alone(
  method, finished, through, tmp_path, no_report
):
  job = _job(method, teacher=finished.workdir)
  results = runner.run(job, tmp_path)
  assert [row['method'] for row in results['rows']] == [
    'teacher', *method.names
  ]  # fmt: skip
  reference, wanted, _ = through
  found = saved.load(tmp_path / 'lit-a' / 'student')[1]
  alone = saved.load(reference / 'lit' / 'student')[1]
  # 24 steps, whose sums may be taken in another order.
  chex.assert_trees_all_close(found, alone, rtol=1e-3, atol=1e-4)
  other = saved.load(tmp_path / method.names[1] / 'student')[1]
  distance = optax.tree.norm(optax.tree.sub(other['params'], found['params']))
  assert distance > 0.1
  for name in method.names:
    seen = collections.Counter(
      (r['phase'], r['split'])
      for r in _records(tmp_path)
      if r['method'] == name
    )
    assert seen == {
      (phase, split): 2
      for phase in ('lit', 'finetune')
      for split in ('train', 'test')
    }
  assert results['rows'][1]['accuracy'] == pytest.approx(
    wanted['rows'][1]['accuracy'], abs=1 / 41
  )
  # Finished: the same again needs no training.
  assert runner.run(job, tmp_path) == results


@pytest.mark.slow
@pytest.mark.parametrize('method', [SHARED, OWN_DATA], ids=['shared', 'own'])
def test_a_population_resumes_bit_for_bit(
  method, finished, tmp_path, no_report
):
  job = _job(method, teacher=finished.workdir)
  straight, stopped = tmp_path / 'straight', tmp_path / 'stopped'
  runner.run(job, straight)
  assert 'lit/lit at step 10 of 12' in _interrupt(job, stopped, 3)
  runner.run(job, stopped)
  for name in method.names:
    _assert_same(
      jax.device_get(saved.load(stopped / name / 'student')[1]),
      jax.device_get(saved.load(straight / name / 'student')[1]),
    )


@pytest.mark.slow
def test_a_diverging_member_is_named(finished, tmp_path, no_report):
  # Logits over so small a temperature are infinite.
  wild = LIT.replace(temperature=1e-38), KD
  members = SHARED.population
  spoiled = dataclasses.replace(members[1], objectives=wild)
  method = dataclasses.replace(SHARED, population=(members[0], spoiled))
  with pytest.raises(UserError, match=r'of lit-b/lit; the last good'):
    runner.run(_job(method, teacher=finished.workdir), tmp_path)


def test_a_population_and_a_student_of_one_name(tmp_path):
  with pytest.raises(UserError, match="'lit' is the folder of a population"):
    runner.run(_job(SHARED, 'lit'), tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'objectives': (LIT,)}, '1 objectives for 2 phases'),
    ({'data_seed': -1}, 'data_seed of lit-b is -1'),
    (
      {'objectives': (dataclasses.replace(LIT, ir_loss='l1'), KD)},
      'α, β and τ alone',
    ),
  ],
)
def test_members_that_do_not_fit(changes, words, tmp_path):
  first, second = SHARED.population
  spoiled = dataclasses.replace(second, **changes)
  method = dataclasses.replace(SHARED, population=(first, spoiled))
  with pytest.raises(UserError, match=words):
    runner.run(_job(method), tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_population_has_no_best_epoch(tmp_path):
  job = _job(SHARED, dataset=_with_validation(), select='best')
  with pytest.raises(UserError, match='select=best keeps one network'):
    runner.run(job, tmp_path)
  assert not list(tmp_path.iterdir())


# Which checkpoints are kept, and with which network a phase ends.


def _evaluation(loss, accuracy):
  """An evaluation of ten examples, or one that says it is."""
  made = classify.of_confusion(loss, np.eye(10))
  return made._replace(numbers=made.numbers | {'accuracy': accuracy})


def _with_validation():
  splits = DATASET.splits | {'validation': noise_split(30, 2)}
  return dataclasses.replace(DATASET, splits=splits)


@pytest.mark.parametrize(
  'select, kept, ends_with',
  [
    pytest.param('last', [18, 24], 3, marks=pytest.mark.slow),
    ('best', [12, 18, 24], 1),
  ],
)
def test_kept_checkpoints(
  select, kept, ends_with, tmp_path, monkeypatch, no_report
):
  dataset = _with_validation()
  networks_seen = []
  evaluator = Classify.evaluator

  def fake(task, net, preprocess, split):
    if split is not dataset.splits['validation']:
      return evaluator(task, net, preprocess, split)

    def evaluate(learners):
      networks_seen.append(jax.device_get(learners['student']))
      accuracy = (0.1, 0.9, 0.3, 0.2)[len(networks_seen) - 1]
      return _evaluation(1.0, accuracy)

    return evaluate

  monkeypatch.setattr(Classify, 'evaluator', fake)
  job = _job(_scratch(4), dataset=dataset, select=select)
  # A stop within epoch 3: its checkpoint has no accuracy.
  _interrupt(job, tmp_path, 5)
  folder = tmp_path / 'scratch' / 'scratch'
  assert _steps(folder) == [12, 16]
  results = runner.run(job, tmp_path)
  assert _steps(folder) == kept
  assert [r['accuracy'] for r in _records(tmp_path, 'validation')] == [
    0.1, 0.9, 0.3, 0.2
  ]  # fmt: skip
  student = tmp_path / 'scratch' / 'student'
  wanted = networks_seen[ends_with]
  _assert_same(jax.device_get(saved.load(student)[1]), dict(wanted))
  _, accuracy = _plain_evaluation(
    models.build(STUDENT), wanted, dataset.splits['test']
  )
  # No method needs the teacher here, and so none is trained.
  (row,) = results['rows']
  assert row['accuracy'] == pytest.approx(accuracy, abs=1e-9)
  assert not (tmp_path / 'teacher').exists()


# Numbers that are not finite.


def _restored(folder):
  """The newest checkpoint of a scratch phase."""
  net = models.build(STUDENT)
  rate = optim.schedule('steps', 0.1, PER_EPOCH, 2)
  own = state.begin_phase(
    {state.STUDENT: blocks.init(net, jax.random.key(0))},
    {state.STUDENT: optim.optimizer(optim.Sgd(), rate)},
    precision.policy('fp32'),
  )
  template = population.stack([own])
  checkpoints = Checkpoints(folder)
  try:
    return checkpoints.restore(template)
  finally:
    checkpoints.close()


def _assert_only_the_good_checkpoint(workdir):
  folder = workdir / 'scratch' / 'scratch'
  assert _steps(folder) == [PER_EPOCH]
  last = _restored(folder)
  assert int(last.step[0]) == PER_EPOCH
  for leaf in jax.tree.leaves(last):
    assert np.isfinite(leaf).all()
  assert not (workdir / 'scratch' / 'student').exists()
  assert not (workdir / 'results.json').exists()
  for record in _records(workdir):
    numbers = [v for v in record.values() if isinstance(v, float)]
    assert numbers and all(map(math.isfinite, numbers))
    # A train record tells of losses that were seen, and were finite.
    assert record['step'] <= PER_EPOCH or record['split'] == 'train'


def test_nan_stops_at_the_last_good_checkpoint(tmp_path, no_report):
  # From epoch 2 on the learning rate is 1e29.
  job = _job(_scratch(2, milestones=(1,), decay=1e30))
  for _ in range(2):  # the same command again meets the same end
    with pytest.raises(UserError) as caught:
      runner.run(job, tmp_path)
    message = str(caught.value)
    assert 'the loss is nan at step 8 of scratch/scratch' in message
    assert str(tmp_path / 'scratch' / 'scratch') in message
    assert '\n' not in message
    _assert_only_the_good_checkpoint(tmp_path)


def test_infinite_loss_within_a_call(tmp_path, monkeypatch, no_report):
  map_train = devices.map_train

  def mapped(program):
    call = map_train(program)

    def spoil(current, *rest):
      first = int(current.step[0])
      current, metrics = call(current, *rest)
      if first == PER_EPOCH:
        metrics |= {'loss': metrics['loss'].at[1, 0].set(jnp.inf)}
      return current, metrics

    return spoil

  monkeypatch.setattr(devices, 'map_train', mapped)
  with pytest.raises(UserError, match='loss is inf at step 8 of scratch/'):
    runner.run(_job(_scratch(2)), tmp_path)
  _assert_only_the_good_checkpoint(tmp_path)


def test_a_loss_beyond_the_last_step_of_a_call_is_not_read(
  tmp_path, monkeypatch, no_report
):
  map_train = devices.map_train

  def mapped(program):
    call = map_train(program)

    def spoil(current, teacher, superbatch, *rest):
      count = int(superbatch.count)
      current, metrics = call(current, teacher, superbatch, *rest)
      unused = (jnp.arange(PER_CALL) >= count)[:, None]
      loss = jnp.where(unused, jnp.nan, metrics['loss'])
      return current, metrics | {'loss': loss}

    return spoil

  monkeypatch.setattr(devices, 'map_train', mapped)
  runner.run(_job(_scratch(1)), tmp_path)
  (record,) = _records(tmp_path, 'train')
  assert math.isfinite(record['loss'])


def test_a_held_out_loss_that_is_not_finite(tmp_path, monkeypatch, no_report):
  losses = iter([1.0, math.nan])
  monkeypatch.setattr(
    Classify,
    'evaluator',
    lambda *args: lambda learners: _evaluation(next(losses), 0.2),
  )
  with pytest.raises(UserError, match='test loss is nan after epoch 2 of'):
    runner.run(_job(_scratch(2)), tmp_path)
  _assert_only_the_good_checkpoint(tmp_path)


def test_parameters_that_the_last_step_spoiled(
  tmp_path, monkeypatch, no_report
):
  map_train = devices.map_train

  def mapped(program):
    call = map_train(program)

    def spoil(current, *rest):
      current, metrics = call(current, *rest)
      if int(current.step[0]) == PER_EPOCH + PER_CALL:
        own = current.student
        head = jax.tree.map(lambda x: x + jnp.inf, own.params['head'])
        own = own.replace(params=own.params | {'head': head})
        current = current.replace(learners={state.STUDENT: own})
      return current, metrics

    return spoil

  monkeypatch.setattr(devices, 'map_train', mapped)
  with pytest.raises(UserError, match='after step 10 of scratch/scratch'):
    runner.run(_job(_scratch(2)), tmp_path, _stop_at(monkeypatch, call=3))
  assert _steps(tmp_path / 'scratch' / 'scratch') == [PER_EPOCH]
  assert int(_restored(tmp_path / 'scratch' / 'scratch').step[0]) == PER_EPOCH


@pytest.mark.slow
def test_skipped_steps_are_not_fatal(tmp_path, monkeypatch, no_report):
  # So large that the first gradients overflow; it halves at each such step.
  huge = DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2.0**24))
  monkeypatch.setattr(precision.Policy, 'initial_scale', lambda policy: huge)
  runner.run(_job(_scratch(2), precision='fp16'), tmp_path)
  first, last = _records(tmp_path, 'train')
  skipped = round(PER_EPOCH * (first['skipped'] + last['skipped']))
  assert 0 < skipped < 2 * PER_EPOCH
  _, variables = saved.load(tmp_path / 'scratch' / 'student')
  for leaf in jax.tree.leaves(variables):
    assert np.isfinite(leaf).all()
  # Some steps were taken: the network has left its start.
  start = blocks.init(models.build(STUDENT), jax.random.key(0))
  assert _differ(start['batch_stats'], variables['batch_stats'])


# Evaluation.


@pytest.fixture(scope='module')
def trained_pair(finished):
  def load(method):
    facts, variables = saved.load(_folder(finished.workdir, method))
    net = models.build(facts.spec)
    return evaluation.Reader(net, devices.replicate(variables), PREPROCESS)

  return load('teacher'), load('lit')


# Fewer than a batch, and one batch and a rest.
@pytest.mark.parametrize('count', [41, 503])
def test_every_example_counts_once(count, trained_pair):
  net, variables, *_ = trained_pair[0]
  split = noise_split(count, 5)
  evaluate = Classify(10).evaluator(net, PREPROCESS, split)
  values = evaluate({'student': variables}).numbers
  loss, accuracy = _plain_evaluation(net, variables, split)
  assert values['accuracy'] == pytest.approx(accuracy, abs=1e-9)
  assert values['loss'] == pytest.approx(loss, rel=1e-5)


def test_ir_errors_of_the_teacher_itself(trained_pair):
  teacher, _ = trained_pair
  errors = evaluation.ir_errors(teacher, teacher, noise_split(41, 5))
  assert list(errors) == ['stem', 'blocks_0', 'blocks_1', 'blocks_2']
  assert errors.pop('stem') == pytest.approx({'own_input': 0}, abs=1e-12)
  # Not quite 0: the same block is compiled twice, in two fusions.
  for kinds in errors.values():
    assert kinds == pytest.approx(
      {'teacher_input': 0, 'own_input': 0}, abs=1e-12
    )


def test_ir_errors_by_numpy(trained_pair):
  (teacher, teacher_variables, *_), (student, variables, *_) = trained_pair
  split = noise_split(503, 5)
  found = evaluation.ir_errors(*trained_pair, split)
  targets = [
    np.asarray(t) for t in _logits(teacher, teacher_variables, split)[1]
  ]
  own = _logits(student, variables, split)[1]
  stem = targets[0].astype(np.float64)
  shift = np.square(np.asarray(own[0]) - stem).mean() / stem.var()
  assert found['stem'] == pytest.approx({'own_input': shift}, rel=1e-4)
  block = jax.jit(
    lambda h, i: student.apply(
      jax.device_get(variables), h, i, method='block'
    ),
    static_argnums=1,
  )  # fmt: skip
  for i, target in enumerate(targets[1:]):
    wide = target.astype(np.float64)
    for kind, h in (
      ('own_input', own[i + 1]),
      ('teacher_input', block(targets[i], i)),
    ):
      wanted = np.square(np.asarray(h) - wide).mean() / wide.var()
      assert found[f'blocks_{i}'][kind] == pytest.approx(wanted, rel=1e-4)


def _with_train(**changes):
  splits = DATASET.splits
  train = splits['train']._replace(**changes)
  return dataclasses.replace(DATASET, splits=splits | {'train': train})


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'labels': DATASET.splits['train'].labels + 1}, r'labels from 1 to 10'),
    ({'labels': DATASET.splits['train'].labels - 1}, r'labels from -1 to 8'),
    ({'labels': DATASET.splits['test'].labels}, r'100 inputs and labels of'),
    (
      {'inputs': DATASET.splits['train'].inputs.astype(np.float32)},
      r'inputs are float32 \(100, 8, 8, 3\)',
    ),
    (
      {'inputs': DATASET.splits['train'].inputs[..., :1]},
      r'inputs are uint8 \(100, 8, 8, 1\)',
    ),
  ],
)
def test_data_of_ones_own_that_does_not_fit(tmp_path, changes, words):
  job = _job('scratch', dataset=_with_train(**changes))
  with pytest.raises(UserError, match=f'noise, split train: {words}'):
    runner.run(job, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
