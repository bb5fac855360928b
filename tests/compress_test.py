"""Networks of the user's own, and what a saved network must be fed with."""

import dataclasses
import json
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import untimed
from flax import linen as nn

import lit_jax
from lit_jax import BlockNet, Objective, blocks, models, tasks
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.objectives import scratch
from lit_jax.runs import jobs, phases, rows, runner, teachers
from lit_jax.tasks import Classify, classify
from lit_jax.training import loop

CLASSES, SHAPE = 3, (4, 4, 2)


class Plain(nn.Module):
  """A part as a user writes one, with Flax's own layers and norms."""

  count: int

  @nn.compact
  def __call__(self, h, train=False):
    for _ in range(self.count):
      h = nn.BatchNorm(use_running_average=not train)(nn.Conv(3, (3, 3))(h))
      h = nn.relu(h)
    return h


class Head(nn.Module):
  @nn.compact
  def __call__(self, h, train=False):
    return nn.Dense(CLASSES)(h.mean((1, 2)))


def plain(depth, part=Plain, shape=SHAPE):
  parts = tuple(part(depth) for _ in range(2))
  example = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return BlockNet(Plain(1), parts, Head(), example)


def examples(count, seed=0):
  rng = np.random.default_rng(seed)
  return (
    rng.integers(0, 256, (count, *SHAPE), np.uint8),
    rng.integers(0, CLASSES, count, np.int32),
  )


pytestmark = pytest.mark.usefixtures('quick')
TRAIN, TEST = examples(40), examples(10, seed=1)
SHORT = dict(epochs=2, batch_size=8, steps_per_call=4)


def run(workdir, **changes):
  settings = SHORT | changes
  return lit_jax.compress(plain(2), plain(1), TRAIN, TEST, workdir, **settings)


@pytest.fixture(scope='module')
def compressed(tmp_path_factory):
  """A workdir, and the results of the call that made it."""
  workdir = tmp_path_factory.mktemp('compressed')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rows, 'timed', untimed)
    results = run(workdir)
  return workdir, results


def test_the_promised_names():
  assert set(lit_jax.__all__) == {
    'BlockNet', 'Objective', 'Task', 'check_pair', 'compress', 'cut',
    'cut_variables', 'join_variables', 'lit_loss', 'summary',
  }  # fmt: skip


def test_a_network_of_ones_own_is_compressed(compressed):
  workdir, results = compressed
  teacher, lit = results['rows']
  assert (teacher['method'], lit['method']) == ('teacher', 'lit')
  # Stem, two blocks, head.
  assert (teacher['depth'], lit['depth']) == (1 + 4 + 1, 1 + 2 + 1)
  assert [o['phase'] for o in lit['objectives']] == ['lit', 'finetune']
  assert lit['objectives'][0]['beta'] == 0.75
  assert (workdir / 'report.html').exists()


def test_the_saved_student_has_the_rows_accuracy(compressed):
  workdir, results = compressed
  facts, variables = saved.load(workdir / 'lit' / 'student', plain(1))
  inputs, labels = TEST
  # By hand, with the normalisation that it says it needs.
  mean, std = (np.float32(facts.input[k]) * 255 for k in ('mean', 'std'))
  pixels = TRAIN[0].reshape(-1, SHAPE[-1])
  np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-5)
  np.testing.assert_allclose(std, pixels.std(0), rtol=1e-5)
  logits, _ = plain(1).apply(variables, (inputs - mean) / std)
  accuracy = (logits.argmax(-1) == labels).mean()
  assert results['rows'][1]['accuracy'] == pytest.approx(accuracy)


def test_the_teacher_with_a_block_of_the_saved_student(compressed):
  workdir, results = compressed
  facts, own = saved.load(workdir / 'lit' / 'student', plain(1))
  _, theirs = saved.load(workdir / 'teacher' / 'teacher', plain(2))
  inputs, labels = TEST
  mean, std = (np.float32(facts.input[k]) * 255 for k in ('mean', 'std'))
  _, irs = plain(2).apply(theirs, (inputs - mean) / std)
  found = results['rows'][1]['stitch']
  h = plain(1).apply(own, irs[1], 1, method='block')
  logits = blocks.part_function(plain(2), 'head')(theirs, h)
  accuracy = (logits.argmax(-1) == labels).mean()
  assert found['blocks_1']['score'] == pytest.approx(accuracy)


@pytest.fixture
def begun(monkeypatch):
  """What the student is as each phase begins, by method and phase."""
  first = {}
  train = loop.run

  def spy(phase, workdir, state, observer, *more):
    first[phase.method, phase.name] = state.variables['student']
    return train(phase, workdir, state, observer, *more)

  monkeypatch.setattr(loop, 'run', spy)
  return first


def _assert_equal(found, wanted):
  """Of arrays with a leading axis of devices, to arrays without."""
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x[0], y), found, wanted
  )


def test_stem_and_head_start_as_the_teachers(compressed, begun, tmp_path):
  workdir, _ = compressed
  _, teacher = saved.load(workdir / 'teacher' / 'teacher', plain(2))
  run(tmp_path, teacher_variables=teacher)
  # The given teacher is not trained.
  assert list(begun) == [('lit', 'lit'), ('lit', 'finetune')]
  for part in ('stem', 'head'):
    _assert_equal(begun['lit', 'lit']['params'][part], teacher['params'][part])


@pytest.mark.slow
def test_a_student_begins_as_it_is_given(compressed, begun, tmp_path):
  workdir, _ = compressed
  _, teacher = saved.load(workdir / 'teacher' / 'teacher', plain(2))
  start = blocks.init(plain(1), jax.random.key(9))
  given = dict(teacher_variables=teacher, student_variables=start)
  results = run(tmp_path, **given)
  assert results['rows'][1]['start'] == 'given'
  own = begun['lit', 'lit']
  for part in ('blocks_0', 'blocks_1'):
    for kind in ('params', 'batch_stats'):
      _assert_equal(own[kind][part], start[kind][part])
  # What is copied is the teacher's nevertheless.
  _assert_equal(own['params']['head'], teacher['params']['head'])
  # The workdir is bound to it.
  given['student_variables'] = blocks.init(plain(1), jax.random.key(8))
  with pytest.raises(UserError, match='start of lit'):
    run(tmp_path, **given)


def test_the_same_call_again_only_reports(compressed, monkeypatch):
  workdir, results = compressed
  monkeypatch.setattr(loop, 'run', None)
  for call in ({}, {'stitch': False}):
    assert run(workdir, **call) == results


def test_another_call_in_the_same_workdir_is_refused(compressed):
  workdir, _ = compressed
  with pytest.raises(UserError, match='another configuration: phases was'):
    run(workdir, epochs=3)


class OtherTask(Classify):
  """Another task, though nothing about it differs."""


@pytest.mark.parametrize(
  'change',
  [
    {'preprocess': ImagePreprocess((0.5, 0.5), (0.2, 0.2), flip=False)},
    {'task': OtherTask(CLASSES)},
    {'phases': (phases.Phase('kd', Objective(0.5, 1.0, 2.0), 1, 0.1),)},
  ],
  ids=['preprocess', 'task', 'phases'],
)
def test_a_call_that_differs_is_refused(change, compressed):
  workdir, _ = compressed
  with pytest.raises(UserError, match='made with another configuration'):
    run(workdir, **change)


def test_a_trained_teacher_does_not_become_a_given_one(compressed):
  workdir, _ = compressed
  given = blocks.init(plain(2), jax.random.key(0))
  with pytest.raises(UserError, match='teacher was trained in this workdir'):
    run(workdir, teacher_variables=given)


def test_damaged_facts_of_the_data_are_refused(compressed, tmp_path):
  workdir, _ = compressed
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'data.json'
  path.write_text('{"a":')
  with pytest.raises(UserError, match='data.json is damaged'):
    run(tmp_path)
  assert path.read_text() == '{"a":'


def test_networks_that_are_none(tmp_path):
  spec = {'family': 'resnet', 'depth': 8, 'input_shape': [4, 4, 2]}
  facts = saved.Facts(spec, 'mine', [], {'kind': 'as is'}, 'fp32', '', {})
  variables = jax.tree.map(
    lambda leaf: np.ones(leaf.shape, leaf.dtype),
    blocks.shapes(models.build(spec)),
  )
  saved.save(tmp_path / 'net', facts, variables)
  for teacher, student, given, words in (
    ({'depth': 8}, plain(1), None, 'a network of the family None'),
    (plain(2), [plain(1)], None, 'student: a list is no BlockNet'),
    (tmp_path / 'none', plain(1), None, 'no readable network in'),
    (tmp_path / 'net', plain(1), variables, 'leave teacher_variables out'),
    (tmp_path / 'net', plain(1), None, 'has the shape (10,), and own has 3'),
  ):
    with pytest.raises(UserError, match=re.escape(words)):
      lit_jax.compress(
        teacher, student, TRAIN, TEST, tmp_path / 'run',
        teacher_variables=given, class_names=('a', 'b', 'c'),
      )  # fmt: skip
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'train, words',
  [
    ((TRAIN[0], TRAIN[1], TRAIN[1]), 'train is no pair'),
    ((TRAIN[0], TRAIN[1][:, None]), r'labels are int32 \(40, 1\)'),
    ((TRAIN[0], np.float32(TRAIN[1])), r'labels are float32 \(40,\)'),
    ((TRAIN[0], TRAIN[1] + 1), 'labels from 1 to 3'),
  ],
)
def test_arrays_that_do_not_suit(train, words, tmp_path):
  with pytest.raises(UserError, match=words) as caught:
    lit_jax.compress(plain(2), plain(1), train, TEST, tmp_path, **SHORT)
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('which', ['inputs', 'labels', 'teacher'])
def test_other_data_in_the_same_workdir_are_refused(which, tmp_path):
  teacher = blocks.init(plain(2), jax.random.key(0))
  call = dict(epochs=1, teacher_variables=teacher, **{
    key: value for key, value in SHORT.items() if key != 'epochs'
  })  # fmt: skip
  lit_jax.compress(plain(2), plain(1), TRAIN, TEST, tmp_path, **call)
  inputs, labels = TRAIN
  if which == 'inputs':
    inputs = inputs[::-1].copy()
  elif which == 'labels':
    labels = labels[::-1].copy()
  else:
    call['teacher_variables'] = jax.tree.map(lambda x: x + 1, teacher)
  with pytest.raises(UserError, match='was begun with other data'):
    lit_jax.compress(
      plain(2), plain(1), (inputs, labels), TEST, tmp_path, **call
    )


class NoTrain(nn.Module):
  """A part that lacks an argument."""

  @nn.compact
  def __call__(self, h):
    return h


class OwnNorm(nn.Module):
  """Keeps a statistic of its own that devices would not share."""

  count: int

  @nn.compact
  def __call__(self, h, train=False):
    mean = self.variable('batch_stats', 'mean', jnp.zeros, h.shape[-1:])
    if train:
      mean.value = h.mean((0, 1, 2))
    return nn.Conv(3, (1, 1))(h - mean.value[None, None, None])


@pytest.mark.parametrize(
  'teacher, student, words',
  [
    (plain(2), plain(1, OwnNorm), ['blocks_0 is a OwnNorm', 'one device']),
    (plain(2, OwnNorm), plain(1), ['blocks_0 is a OwnNorm', '2 devices']),
    (nn.Dense(3), plain(1), ['a Dense is no BlockNet', 'stem, blocks, head']),
    (
      BlockNet(NoTrain(), (), Head(), plain(1).example),
      plain(1),
      ['teacher: the network cannot read', 'part(h, train)'],
    ),
    (plain(2), plain(1, shape=(4, 4, 1)), ['different inputs', '(4, 4, 1)']),
  ],
)
def test_networks_that_do_not_fit(teacher, student, words, tmp_path):
  with pytest.raises(UserError) as caught:
    lit_jax.compress(teacher, student, TRAIN, TEST, tmp_path / 'run', **SHORT)
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('whose, depth', [('teacher', 1), ('student', 2)])
def test_variables_of_another_network(whose, depth, tmp_path):
  other = blocks.init(plain(depth), jax.random.key(0))
  with pytest.raises(UserError, match='not those of its network'):
    run(tmp_path, **{f'{whose}_variables': other})
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_several_inputs(tmp_path):
  """An image and a number: any pytree of arrays."""

  class Stem(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Conv(3, (3, 3))(x['image']) + x['number'][:, None, None, None]

  def net(depth):
    example = {
      'image': jax.ShapeDtypeStruct(SHAPE, jnp.float32),
      'number': jax.ShapeDtypeStruct((), jnp.float32),
    }
    blocks_ = (Plain(depth), Plain(depth))
    return BlockNet(Stem(), blocks_, Head(), example)

  def of(pair):
    images, labels = pair
    numbers = labels.astype(np.float32)
    return {'image': np.float32(images) / 255, 'number': numbers}, labels

  assert lit_jax.summary(net(1)).depth == 4
  results = lit_jax.compress(
    net(2), net(1), of(TRAIN), of(TEST), tmp_path, **SHORT
  )
  assert [row['method'] for row in results['rows']] == ['teacher', 'lit']


# Families by import path.


@pytest.fixture
def nets(tmp_path, monkeypatch):
  """A module of the user's own on the Python path."""
  (tmp_path / 'users_nets.py').write_text(
    'from compress_test import plain as _plain\n'
    'def plain(depth, classes, input_shape):\n'
    '  return _plain(depth, shape=input_shape)\n'
    'def none(depth):\n'
    '  return depth\n'
    'number = 3\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  yield 'users_nets'
  sys.modules.pop('users_nets', None)


def test_a_family_by_import_path(nets):
  spec = {'family': f'{nets}:plain', 'depth': 2, 'classes': 3}
  net = models.build(spec | {'input_shape': list(SHAPE)})
  assert lit_jax.summary(net).depth == 6
  assert models.title(spec) == 'plain-2'


@pytest.mark.parametrize(
  'family, words',
  [
    ('nowhere_at_all:plain', "'nowhere_at_all:plain' cannot be imported"),
    ('users_nets:missing', "'users_nets:missing' cannot be imported"),
    ('users_nets:number', "'users_nets:number' is a int, no function"),
    ('users_nets:none', 'it returns a int, not a BlockNet'),
  ],
)
def test_import_paths_that_lead_nowhere(nets, family, words):
  with pytest.raises(UserError, match=words) as caught:
    models.build({'family': family, 'depth': 2})
  assert '\n' not in str(caught.value)


# What a saved network must be fed with.


IMAGES = ImagePreprocess((0.5, 0.4), (0.2, 0.3))
DATASET = Dataset(
  'own',
  {'train': Split(*TRAIN), 'test': Split(*TEST)},
  CLASSES,
  IMAGES,
  ('a', 'b', 'c'),
)


def job(checkpoint, *copy, dataset=DATASET):
  phase = phases.Phase('lit', Objective(0.9, 0.5, 3.0), 1, 0.1, copy=copy)
  return jobs.Job(
    dataset=dataset,
    task=Classify(CLASSES),
    teacher=plain(2),
    teacher_checkpoint=str(checkpoint),
    teacher_method=phases.Method('teacher', (phase,)),
    students=(jobs.Student(plain(1), phases.Method('lit', (phase,))),),
    training=phases.Training(8, 0, 'fp32', 4, 'last'),
    config={},
  )


def save(folder, preprocess=IMAGES, classes=('a', 'b', 'c'), seed=0):
  facts = saved.Facts(
    None, 'own', list(classes), preprocess.facts(), 'fp32', '', {}
  )
  variables = blocks.init(plain(2), jax.random.key(seed))
  return saved.save(folder, facts, variables)


def test_a_teacher_is_fed_by_its_own_normalisation(tmp_path, monkeypatch):
  other = ImagePreprocess((0.1, 0.2), (0.5, 0.6))
  save(tmp_path / 'teacher', other)
  seen = {}
  train = loop.run

  def spy(phase, *args):
    seen['plan'] = phase.plan
    return train(phase, *args)

  monkeypatch.setattr(loop, 'run', spy)
  runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
  plan = seen['plan']
  assert (plan.preprocess.mean, plan.teacher_preprocess.mean) == (
    IMAGES.mean, other.mean,
  )  # fmt: skip
  # The accuracy in the teacher's row is under its own as well.
  _, variables = saved.load(tmp_path / 'teacher', plain(2))
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  evaluate = Classify(CLASSES).evaluator(
    plain(2), other, DATASET.splits['test']
  )
  found = evaluate({'student': variables})
  assert results['rows'][0]['confusion'] == found.pictures['confusion']
  assert saved.describe(tmp_path / 'run/lit/student').input == IMAGES.facts()


def test_a_copied_stem_reads_what_the_teachers_does(tmp_path):
  other = ImagePreprocess((0.1, 0.2), (0.5, 0.6))
  save(tmp_path / 'teacher', other)
  runner.run(job(tmp_path / 'teacher', 'stem'), tmp_path / 'run')
  found = saved.describe(tmp_path / 'run/lit/student').input
  assert found == other.facts()


@pytest.mark.slow
def test_another_teacher_at_the_same_path_is_refused(tmp_path):
  save(tmp_path / 'teacher')
  done = runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
  assert runner.run(job(tmp_path / 'teacher'), tmp_path / 'run') == done
  save(tmp_path / 'teacher', seed=1)
  for _ in range(2):
    with pytest.raises(UserError, match='other data: teacher was '):
      runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
    # Also where it must train again.
    (tmp_path / 'run' / 'results.json').unlink(missing_ok=True)


@pytest.mark.slow
def test_a_workdir_without_a_teacher_is_bound_to_the_first(tmp_path):
  save(tmp_path / 'teacher')
  alone = phases.Phase('scratch', scratch(), 1, 0.1)
  without = dataclasses.replace(
    job(tmp_path / 'teacher'),
    students=(jobs.Student(plain(1), phases.Method('scratch', (alone,))),),
  )
  data = tmp_path / 'run' / 'data.json'
  runner.run(without, tmp_path / 'run')
  assert 'teacher' not in json.loads(data.read_text())
  runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
  assert 'teacher' in json.loads(data.read_text())
  runner.run(without, tmp_path / 'run')
  assert 'teacher' in json.loads(data.read_text())


def test_another_class_list_is_refused(tmp_path):
  save(tmp_path / 'teacher', classes=('a', 'c', 'b'))
  with pytest.raises(UserError, match='a, c, b apart, and own has a, b, c'):
    runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'class_names': ('a', 'b', 'd')}, 'classes was'),
    ({'preprocess': ImagePreprocess((0.5, 0.5), (0.2, 0.3))}, 'input.mean was'),
  ],
)
def test_a_workdir_is_bound_to_its_data(changes, words, tmp_path, monkeypatch):
  monkeypatch.setattr(runner, '_students', lambda *args: [])
  save(tmp_path / 'teacher', classes=())
  runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
  other = dataclasses.replace(DATASET, **changes)
  with pytest.raises(UserError, match=f'begun with other data: .*{words}'):
    runner.run(job(tmp_path / 'teacher', dataset=other), tmp_path / 'run')


def test_a_teacher_of_texts_is_refused(tmp_path):
  save(tmp_path / 'teacher')
  path = tmp_path / 'teacher' / 'network.json'
  content = json.loads(path.read_text())
  content['input'] = {'kind': 'characters', 'symbols': 'abc'}
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match='it reads characters, and the data are'):
    teachers.read(tmp_path / 'teacher', DATASET, 'fp32', plain(2))


@pytest.mark.parametrize('fact', ['input', 'classes', 'digest', 'precision'])
def test_a_network_without_its_facts_is_refused(fact, tmp_path):
  save(tmp_path / 'teacher')
  path = tmp_path / 'teacher' / 'network.json'
  content = json.loads(path.read_text())
  del content[fact]
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=f'does not say {fact}: .*earlier') as e:
    runner.run(job(tmp_path / 'teacher'), tmp_path / 'run')
  assert '\n' not in str(e.value)


def test_arrays_that_are_not_those_that_were_saved(tmp_path):
  facts = save(tmp_path / 'teacher')
  path = tmp_path / 'teacher' / 'network.json'
  path.write_text(path.read_text().replace(facts.digest, '0' * 64))
  with pytest.raises(UserError, match='not those that were saved'):
    saved.load(tmp_path / 'teacher', plain(2))


def test_a_digest_tells_values_and_names_apart():
  tree = {'params': {'a': np.float32([1, 2]), 'b': np.float32([3])}}
  first = saved.digest(tree)
  backwards = dict(reversed(tree['params'].items()))
  assert saved.digest({'params': backwards}) == first
  for other in (
    {'params': {'a': np.float32([1, 2]), 'b': np.float32([4])}},
    {'params': {'a': np.float32([1, 2]), 'c': np.float32([3])}},
    {'params': {'a': np.float32([[1, 2]]), 'b': np.float32([3])}},
  ):
    assert saved.digest(other) != first


def test_a_blocknet_is_needed_to_load_one(tmp_path):
  save(tmp_path / 'teacher')
  with pytest.raises(UserError, match='give that BlockNet'):
    saved.load(tmp_path / 'teacher')


def test_evaluations_of_a_few_classes_have_a_picture():
  assert classify.of_confusion(1.0, np.eye(20)).pictures['confusion']
  assert classify.of_confusion(1.0, np.eye(21)).pictures['confusion'] is None


@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_networks_of_other_classes_are_refused(role, tmp_path):
  """Also in a run that needs no teacher."""
  alone = phases.Phase('scratch', scratch(), 1, 0.1)
  other = BlockNet(Plain(1), (Plain(1), Plain(1)), Plain(1), plain(1).example)
  student = other if role == 'student' else plain(1)
  run_ = dataclasses.replace(
    job('', dataset=DATASET),
    teacher=other if role == 'teacher' else plain(2),
    students=(jobs.Student(student, phases.Method('scratch', (alone,))),),
  )
  with pytest.raises(UserError, match=r'output has the shape .* has 3 classes'):
    runner.run(run_, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_student_of_ones_own_teaches_the_next(tmp_path):
  phase = phases.Phase('kd', Objective(0.9, 1.0, 3.0), 1, 0.1)
  save(tmp_path / 'teacher')
  chain = dataclasses.replace(
    job(tmp_path / 'teacher'),
    students=(
      jobs.Student(plain(2), phases.Method('first', (phase,))),
      jobs.Student(plain(1), phases.Method('second', (phase,)), 'first'),
    ),
  )
  results = runner.run(chain, tmp_path / 'run')
  assert [row['method'] for row in results['rows']] == [
    'teacher', 'first', 'second'
  ]  # fmt: skip
  assert results['rows'][2]['teacher'] == 'first'


def test_a_frozen_part_may_have_no_parameters(tmp_path):
  class Mean(nn.Module):
    @nn.compact
    def __call__(self, h, train=False):
      return h.mean((1, 2))

  net = BlockNet(Plain(1), (Plain(1),), Mean(), plain(1).example)
  phase = phases.Phase('scratch', scratch(), 1, 0.1, frozen=('head',))
  alone = dataclasses.replace(
    job(''),
    teacher=net,
    students=(jobs.Student(net, phases.Method('scratch', (phase,))),),
  )
  (row,) = runner.run(alone, tmp_path / 'run')['rows']
  assert row['method'] == 'scratch'


def test_tasks_that_cannot_be_made():
  with pytest.raises(UserError, match="'os:getcwd' has no `of`"):
    tasks.build('os:getcwd', DATASET)
  assert tasks.build('classify', DATASET) == Classify(CLASSES)
