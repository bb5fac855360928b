"""What of a method is refused, whoever made it, before anything is trained."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax import models
from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError
from lit_jax.models.resnet import Head
from lit_jax.objectives import Objective, scratch
from lit_jax.runs import checks, phases, workdir
from lit_jax.runs.phases import Member, Method, Phase, Training
from lit_jax.training import devices, optim

NET = models.build({'family': 'resnet', 'depth': 8})
TRAINING = Training(16, 0, 'fp32', 8, 'last')
IRS = Objective(1.0, 0.0, 1.0)


def method_of(objective=IRS, *frozen, **settings):
  phase = Phase('p', objective, 2, 0.1, frozen=frozen)
  return Method('m', (dataclasses.replace(phase, **settings),))


def refused(check, *args):
  with pytest.raises(UserError) as caught:
    check(*args)
  line = str(caught.value)
  assert len(line.splitlines()) == 1
  return line


# Numbers, of other kinds too.


NAN, INF = float('nan'), float('inf')
NUMBERS = [
  ('epochs', [2.0, '2', None, True, 2**31, 10**5000], 'at least 1, and an'),
  ('learning_rate', ['high', None, INF, -0.1, 1e-60], 'greater than 0'),
  ('warmup_epochs', [NAN, INF, -1.0, 2.5, None], 'at most the 2 epochs'),
  ('decay', [NAN, INF, -0.1, 0.0, '0.1'], 'greater than 0 and finite'),
  ('milestones', [(NAN,), (-1,), (1, None), ('1',)], 'each must be at least'),
  ('sparsity', [1.0, NAN, -0.1, 'half', None], 'less than 1'),
  ('optimizer', [optim.Sgd(m) for m in (NAN, 1.0, -1, None)], 'momentum is'),
  ('optimizer', [optim.Sgd(weight_decay=-1.0)], 'weight_decay is -1.0'),
  ('optimizer', [optim.Adam(1.0), optim.Adam(b2=-0.1)], "Adam's b"),
  ('optimizer', [optim.Adam(epsilon=0.0)], "Adam's epsilon is 0.0"),
]


@pytest.mark.parametrize('name, values, words', NUMBERS)
def test_a_number_out_of_range(name, values, words):
  for value in values:
    line = refused(phases.check_phases, method_of(**{name: value}))
    assert line.startswith('m/p: ') and words in line


@pytest.mark.parametrize('name', ['alpha', 'beta', 'temperature'])
@pytest.mark.parametrize('value', ['high', None, NAN, INF, -1.0])
def test_a_weight_of_an_objective(name, value):
  objective = dataclasses.replace(Objective(0.5, 0.5, 2.0), **{name: value})
  assert f'm/p: {name} is ' in refused(
    phases.check_phases, method_of(objective)
  )


def test_numbers_of_other_libraries_are_numbers():
  objective = Objective(np.float32(0.5), jnp.float32(0.5), np.array(2.0))
  phases.check_phases(
    method_of(objective, epochs=np.int64(3), learning_rate=np.float32(0.1))
  )


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'seed': 0.5}, 'seed is 0.5; it must lie in'),
    ({'data_seed': -1}, 'data_seed is -1; it must lie in'),
    ({'steps_per_call': 8.0}, 'steps_per_call is 8.0; at least 1, and an int'),
    ({'precision': 'fp23'}, "precision 'fp23'"),
    ({'select': 'first'}, "select 'first'"),
  ],
)
def test_settings_of_a_run(changes, words):
  phases.check_settings(TRAINING)
  changed = dataclasses.replace(TRAINING, **changes)
  assert words in refused(phases.check_settings, changed)


@pytest.mark.parametrize('size', [16.0, '16', None, True])
def test_a_batch_of_another_kind(size):
  assert 'an integer' in refused(devices.check_batch, size)


def test_more_steps_than_can_be_counted():
  lasting = method_of(scratch(), epochs=10**6)
  phases.check_method(lasting, NET, (), 2000)
  line = refused(phases.check_method, lasting, NET, (), 3000)
  assert 'm/p: 1000000 epochs of 3000 steps' in line
  assert 'take fewer than 715827 epochs' in line


def test_a_milestone_behind_every_step():
  for kind in ('steps', 'linear', 'cosine'):
    far, none = (
      optim.schedule(kind, 0.1, 10, 4, milestones=milestones)
      for milestones in ((1e30,), (4.0,))
    )
    assert [float(far(i)) for i in (0, 20, 39)] == [
      float(none(i)) for i in (0, 20, 39)
    ]


# What learns. Which parts a loss reaches is measured in objectives_test.py.


@pytest.mark.parametrize(
  'blocks, fed, frozen, idle',
  [
    # All blocks: the first one's input is the stem's.
    (None, True, ('head',), ''),
    (None, True, (), 'head'),
    (None, False, (), 'head'),
    ((1,), True, ('stem', 'head'), 'blocks_0,blocks_2'),
    ((1,), True, ('stem', 'head', 'blocks_0', 'blocks_2'), ''),
    ((0, 2), True, ('head',), 'blocks_1'),
    # The student's own chain learns up to the last that is compared.
    ((1,), False, ('head',), 'blocks_2'),
    ((1,), False, ('head', 'blocks_2'), ''),
    ((2,), False, ('stem', 'head'), ''),
  ],
)
def test_what_no_loss_reaches_must_be_frozen(blocks, fed, frozen, idle):
  objective = IRS.replace(blocks=blocks, teacher_input=fed)
  method = method_of(objective, *frozen)
  if idle:
    line = refused(phases.check_method, method, NET)
    assert (
      f'm/p: with beta 0 no loss reaches {idle.replace(",", ", ")}, ' in line
    )
    assert f'add {idle} to frozen' in line
  else:
    phases.check_method(method, NET)
  # Where weights do not decay, and where the output is learned, all is well.
  for other in (optim.Sgd(0.9, 0.0), optim.Adam()):
    phases.check_method(method_of(objective, *frozen, optimizer=other), NET)
  phases.check_method(method_of(objective.replace(beta=0.5), *frozen), NET)


@pytest.mark.parametrize(
  'objective, frozen',
  [
    (scratch(), NET.parts),
    (IRS, NET.parts[:-1]),
    (IRS.replace(blocks=(1,)), ('stem', 'blocks_1')),
    (IRS.replace(blocks=(1,), teacher_input=False), NET.parts[:3]),
    (IRS.replace(blocks=(1,), anneal_input=True), NET.parts[:3]),
    # A term without weight teaches nothing, though it is computed.
    (IRS.replace(terms=('hard', 'ir')), NET.parts[:-1]),
  ],
)
def test_something_must_learn(objective, frozen):
  line = refused(phases.check_method, method_of(objective, *frozen), NET)
  assert 'm/p: nothing learns: ' in line and 'leave one out of frozen' in line


def test_weight_that_is_given_to_nothing():
  for objective in (
    IRS.replace(blocks=()),
    Objective(1.0, 0.0, 1.0, blocks=(), terms=('hard',)),
  ):
    line = refused(phases.check_method, method_of(objective), NET)
    assert 'give weight to nothing' in line


def test_every_member_of_a_population_must_learn():
  members = [
    Member(f'm-beta{beta}', 0, 0, (IRS.replace(blocks=(1,), beta=beta),))
    for beta in (0.5, 0.0)
  ]
  alone = method_of(members[0].objectives[0], 'stem', 'head')
  phases.check_method(alone, NET)
  both = dataclasses.replace(alone, population=tuple(members))
  assert 'm/p: with beta 0' in refused(phases.check_method, both, NET)
  # What is trained are they, and not the phase's own objective.
  own = dataclasses.replace(
    method_of(members[1].objectives[0], 'stem', 'head'),
    population=tuple(members[:1]),
  )
  phases.check_method(own, NET)


class Pass(nn.Module):
  """A part without parameters."""

  @nn.compact
  def __call__(self, h, train=False):
    return h


def test_a_part_without_parameters_does_not_shrink():
  net = BlockNet(Pass(), NET.blocks[:2], Head(3, jnp.float32))
  objective = IRS.replace(blocks=(1,))
  line = refused(phases.check_method, method_of(objective, 'head'), net)
  assert 'no loss reaches blocks_0, which' in line
  phases.check_method(method_of(objective, 'head', 'blocks_0'), net)


# Names.


@pytest.mark.parametrize(
  'name', ['', 'a/b', '..', '.hidden', 'a\nb', 'x' * 201]
)
def test_names_that_no_folder_has(name):
  method = method_of()
  for wrong in (
    dataclasses.replace(method, name=name),
    method_of(name=name),
    dataclasses.replace(method, population=(Member(name, 0, 0, (IRS,)),)),
  ):
    assert 'is no name for a folder' in refused(phases.check_phases, wrong)


def test_names_of_what_a_workdir_holds(tmp_path):
  for name in ('teacher', 'cache', 'tensorboard', 'pictures', 'config.json'):
    assert name in workdir.TAKEN
  for name in workdir.TAKEN:
    methods = [method_of(), Method(name, ())]
    line = refused(checks.check_names, methods, [], 'last')
    assert f'{name!r} is no name for a method' in line
  checks.check_names([method_of()], ['tfidf'], 'last')
  # What a run writes is what is taken, but for folders of methods.
  with workdir.claimed(tmp_path / 'run', {}):
    workdir.compare_data(tmp_path / 'run', {})
    workdir.write_results(tmp_path / 'run', {})
  for path in (tmp_path / 'run').iterdir():
    assert path.name in workdir.TAKEN
