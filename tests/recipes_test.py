"""The configurations against the recipes that the LIT paper prints."""

import dataclasses

import pytest

from experiments import recipes
from experiments.configs import (
  cifar10_hours,
  demo,
  demo_gan,
  demo_text,
  fashion_mnist,
  resnet,
  resnext,
  stargan,
  vdcnn,
)
from lit_jax.objectives import Objective
from lit_jax.runs.phases import Phase
from lit_jax.training.optim import Sgd

CONFIGS = {'resnet': resnet, 'resnext': resnext, 'vdcnn': vdcnn}
ENDS = ('stem', 'head')
SCRATCH = Objective(1.0, 1.0, 6.0)

# Koratana et al., appendix A. By network and phase: epochs, learning rate,
# milestones, the factor at each, the objective.
KD = Objective(0.95, 1.0, 6.0)
KD_TEXT = Objective(0.98, 1.0, 6.0)
PRINTED = {
  ('resnet', 'train_teacher'): (200, 0.1, (100, 150), 0.1, SCRATCH),
  ('resnet', 'scratch'): (200, 0.1, (100, 150), 0.1, SCRATCH),
  ('resnet', 'kd'): (250, 0.1, (100, 175), 0.1, KD),
  ('resnet', 'lit'): (
    175, 0.1, (60, 100, 125), 0.1, Objective(0.95, 0.75, 6.0)
  ),
  ('resnet', 'finetune'): (75, 0.01, (35, 55), 0.1, KD),
  ('resnext', 'train_teacher'): (300, 0.1, (150, 225), 0.1, SCRATCH),
  ('resnext', 'scratch'): (300, 0.1, (150, 225), 0.1, SCRATCH),
  ('resnext', 'kd'): (300, 0.1, (100, 175, 225), 0.1, KD),
  ('resnext', 'lit'): (
    200, 0.1, (100, 145, 175), 0.1, Objective(0.95, 0.5, 6.0)
  ),
  ('resnext', 'finetune'): (125, 0.01, (65, 95, 110), 0.1, KD),
  ('vdcnn', 'train_teacher'): (15, 0.01, (3, 6, 9, 12, 15), 0.1, SCRATCH),
  ('vdcnn', 'scratch'): (15, 0.01, (3, 6, 9, 12, 15), 0.1, SCRATCH),
  ('vdcnn', 'kd'): (18, 0.01, (3, 6, 9, 12, 15), 0.1, KD_TEXT),
  ('vdcnn', 'lit'): (
    15, 0.01, (3, 6, 9, 12), 0.5, Objective(0.98, 0.02, 6.0)
  ),
  # Its factor is not printed; that of LIT goes on.
  ('vdcnn', 'finetune'): (10, 6.25e-4, (4, 8), 0.5, KD_TEXT),
}  # fmt: skip


def _config(network):
  return CONFIGS[network].get_config()


def test_what_else_is_measured_binds_no_workdir():
  config: recipes.Config = demo.get_config()
  found = []
  for wanted in (True, False):
    config.stitch = wanted
    job = recipes.compression(config)
    assert job.stitch is wanted
    found.append(job.config)
  assert found[0] == found[1]


@pytest.mark.parametrize(('network', 'name'), PRINTED)
def test_a_phase_is_the_printed_one(network, name):
  epochs, rate, milestones, factor, objective = PRINTED[network, name]
  frozen = ENDS if name == 'lit' else ()
  phase = recipes.phase(_config(network), name)
  assert phase == Phase(
    name,
    objective,
    epochs,
    rate,
    Sgd(momentum=0.9, weight_decay=1e-4),
    'steps',
    milestones,
    factor,
    warmup_epochs=0.0,
    copy=frozen,
    frozen=frozen,
  )
  # What the schedule makes of it, at 10 steps an epoch.
  schedule = phase.rate(10)
  for passed, milestone in enumerate(milestones, start=1):
    before, after = (float(schedule(10 * milestone + i)) for i in (-1, 0))
    assert before == pytest.approx(rate * factor ** (passed - 1))
    assert after == pytest.approx(rate * factor**passed)
  assert float(schedule(0)) == pytest.approx(rate)


@pytest.mark.parametrize(
  ('network', 'batch', 'teacher', 'student'),
  [
    ('resnet', 32, 110, 20),
    ('resnext', 32, 110, 20),
    ('vdcnn', 128, 29, 9),
  ],
)
def test_what_the_phases_share(network, batch, teacher, student):
  config = _config(network)
  assert config.batch_size == batch
  assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
  assert (config.teacher.depth, config.student.depth) == (teacher, student)
  assert config.epochs_scale == 1.0
  assert (config.precision, config.select) == ('fp32', 'last')


# Table 3, and FitNets in two stages: what a method's first phase compares.
TABLE_3 = {
  'lit': dict(blocks=None, teacher_input=True),
  'one_ir': dict(blocks=(1,), teacher_input=True),
  'fitnets': dict(blocks=(1,), teacher_input=False),
  'several_irs': dict(blocks=None, teacher_input=False),
  'fitnets_two_stage': dict(blocks=(1,), teacher_input=False, beta=0.0),
}


@pytest.mark.parametrize('network', CONFIGS)
@pytest.mark.parametrize('method', TABLE_3)
def test_methods_of_table_3(network, method):
  config = _config(network)
  first, second = (
    recipes.phase(config, name) for name in config.methods[method].split(',')
  )
  assert second == recipes.phase(config, 'finetune')
  lit = recipes.phase(config, 'lit')
  objective = lit.objective.replace(**TABLE_3[method])
  frozen = ENDS
  if method == 'fitnets_two_stage':
    # What lies behind the hint learns nothing from it.
    frozen = {
      'resnet': (*ENDS, 'blocks_2'),
      'resnext': (*ENDS, 'blocks_2'),
      'vdcnn': (*ENDS, 'blocks_2', 'blocks_3'),
    }[network]
  assert first == dataclasses.replace(
    lit, name=first.name, objective=objective, copy=ENDS, frozen=frozen
  )


@pytest.mark.parametrize('network', CONFIGS)
def test_annealing_is_lit_with_another_input(network):
  config = _config(network)
  first, lit = (recipes.phase(config, name) for name in ('annealed', 'lit'))
  assert config.methods.annealed == 'annealed,finetune'
  assert first == dataclasses.replace(
    lit, name='annealed', objective=lit.objective.replace(anneal_input=True)
  )


@pytest.mark.parametrize('network', CONFIGS)
def test_methods_of_one_phase(network):
  methods = _config(network).methods
  assert (methods.scratch, methods.kd) == ('scratch', 'kd')


# Pruning: at a tenth of the rate, from the labels alone.


@pytest.mark.parametrize('network', CONFIGS)
def test_a_pruned_network_is_trained_at_a_tenth_of_the_rate(network):
  config = _config(network)
  assert config.methods.pruned == 'prune'
  prune, usual = (recipes.phase(config, n) for n in ('prune', 'scratch'))
  assert prune == dataclasses.replace(
    recipes.phase(config, 'finetune'),
    name='prune',
    objective=SCRATCH,
    learning_rate=prune.learning_rate,
    sparsity=0.5,
    prune_by='global',
  )
  assert prune.learning_rate == pytest.approx(usual.learning_rate / 10)


@pytest.mark.parametrize(
  'config, epochs', [(fashion_mnist, 4), (demo, 4), (cifar10_hours, 2)]
)
def test_a_short_retraining(config, epochs):
  phase = recipes.phase(config.get_config(), 'prune')
  assert (phase.epochs, phase.schedule) == (epochs, 'cosine')
  assert (phase.learning_rate, phase.sparsity) == (0.01, 0.5)


def test_no_phase_but_one_prunes():
  config = demo.get_config()
  for name in ('train_teacher', 'scratch', 'kd', 'lit', 'finetune'):
    assert recipes.phase(config, name).sparsity == 0


def test_what_a_student_begins_as():
  config = demo.get_config()
  config.method = 'pruned,scratch,kd'
  config.full_depth = 'kd'
  assert recipes.starts(config) == {}
  config.student.checkpoint = 'runs/demo/lit/student'
  # A student of the teacher's depth is another network.
  assert recipes.starts(config) == {
    'pruned': 'runs/demo/lit/student', 'scratch': 'runs/demo/lit/student'
  }  # fmt: skip
  assert recipes.spec(config.student) == {
    'family': 'resnet', 'depth': 8, 'shortcut': 'pad'
  }  # fmt: skip
  config.student.inner = (8, 16, 32)
  assert recipes.spec(config.student)['inner'] == (8, 16, 32)


@pytest.mark.parametrize(
  'config',
  [resnet, resnext, vdcnn, stargan, demo, demo_text, demo_gan],
  ids=lambda module: module.__name__.rpartition('.')[2],
)
def test_every_student_can_begin_as_a_saved_one(config):
  config = config.get_config()
  for sheet in (config.teacher, config.student):
    assert 'checkpoint' in sheet
    assert 'checkpoint' not in recipes.spec(sheet)
