"""Units of each block within a budget: what is tried, chosen and compared."""

import json
import pathlib

import numpy as np
import pytest
from drawn import noise, untimed

from experiments import allocate, cli, recipes
from experiments.configs import resnet
from lit_jax import blocks, models
from lit_jax.networks.summary import summary
from lit_jax.runs import rows, runner
from lit_jax.training import loop

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIGS = pathlib.Path(__file__).parents[1] / 'experiments' / 'configs'
# Networks of 8 layers and one epoch of each phase.
SMALL = (
  '--config.dataset=fashion_mnist_mini',
  '--config.teacher.depth=8',
  '--config.batch_size=16',
  '--config.steps_per_call=4',
  '--config.epochs_scale=0.001',
)
# By units, what each of three blocks loses.
LOST = {1: (0.05, 0.02, 0.125), 2: (0.03, 0.01, 0.0625), 3: (0.01, 0.01, 0.0)}


# The choice.


@pytest.mark.parametrize(
  'most, wanted',
  [
    # Of three units there is one choice, and .195 is lost.
    (3, (1, 1, 1)),
    # .1325 is less than the .175 of (2, 1, 1) and the .185 of (1, 2, 1).
    (4, (1, 1, 2)),
    # .07, of which (1, 2, 2) loses more, .1225.
    (5, (1, 1, 3)),
    # .05, less than .06 of (1, 2, 3).
    (6, (2, 1, 3)),
    (9, (3, 2, 3)),
  ],
)
def test_the_choice_within_a_number_of_units(most, wanted):
  found = allocate.choose(LOST, lambda units: sum(units) <= most, sum)
  assert found == wanted


def test_a_prediction_is_the_sum_of_its_blocks():
  assert allocate.predicted(LOST, (2, 1, 3)) == pytest.approx(0.03 + 0.02)


def test_of_equal_losses_the_cheaper_is_chosen():
  # .1 + .2 is more than .3 + 0 to a computer, by its rounding.
  lost = {1: (0.3, 0.2), 2: (0.1, 0.0)}
  assert lost[2][0] + lost[1][1] > lost[1][0] + lost[2][1]
  prices = {(2, 1): 3, (1, 2): 4, (1, 1): 1, (2, 2): 9}

  def fits(units):
    return units != (2, 2)

  assert allocate.choose(lost, fits, prices.__getitem__) == (2, 1)
  prices[2, 1] = 5
  assert allocate.choose(lost, fits, prices.__getitem__) == (1, 2)


def test_what_is_measured_is_asked_for_until_one_fits():
  asked = []

  def fits(units):
    asked.append(units)
    return len(asked) == 2

  found = allocate.choose(LOST, fits, sum)
  # The best one, and the next.
  assert asked == [(3, 2, 3), found] and found == (3, 3, 3)


def test_a_budget_that_nothing_fits():
  with pytest.raises(ValueError, match='no choice of units fits'):
    allocate.choose(LOST, lambda units: False, sum)


def test_the_deepest_uniform_network_that_fits():
  def most(count):
    return allocate.uniform((1, 2, 3), 3, lambda units: sum(units) <= count)

  assert (most(9), most(8), most(3)) == ((3, 3, 3), (2, 2, 2), (1, 1, 1))
  assert most(2) is None


# Costs.


@pytest.fixture(autouse=True)
def data(monkeypatch):
  """Noise in the place of every data set."""
  dataset = noise(100, 41)
  monkeypatch.setattr(recipes.sources, 'load', lambda *args: dataset)


def test_costs_are_those_of_the_network_of_these_units(monkeypatch):
  timed = []

  def latency_ms(net, variables, batch):
    assert variables == blocks.shapes(net)
    timed.append(batch)
    return 2.5

  monkeypatch.setattr(allocate.latency, 'latency_ms', latency_ms)
  monkeypatch.setattr(
    allocate.blocks, 'init', lambda net, key: blocks.shapes(net)
  )
  cost = allocate.costs(recipes.compression(resnet.get_config()), 16)
  spec = {'family': 'resnet', 'units': (1, 2, 1), 'input_shape': (8, 8, 3)}
  known = summary(models.build(spec))
  assert cost('parameters', (1, 2, 1)) == known.parameters
  assert cost('macs', (1, 2, 1)) == known.macs
  for _ in range(2):
    assert cost('latency_ms', (1, 2, 1)) == 2.5
  assert timed == [16]


# The command.


@pytest.fixture
def allocating(in_this_process, tmp_path):
  """The command line in this process: exit code, stdout, stderr."""

  def run(*args, config='resnet', flags=SMALL):
    return in_this_process(
      lambda: cli.run(allocate.make),
      'allocate', f'--config={CONFIGS / config}.py',
      f'--workdir={tmp_path / "run"}', *flags, *args,
    )  # fmt: skip

  return run


@pytest.fixture
def made_up(monkeypatch):
  """Runs that are not made: their folders and configurations, in order."""
  made = []

  def execute(config, folder, observer):
    del observer
    made.append((folder.name, config))
    folder.mkdir(parents=True, exist_ok=True)
    shared = {
      'selects': 'accuracy',
      'columns': [{'key': 'accuracy', 'format': 'percent'}],
    }
    rows = [{'method': 'teacher', 'accuracy': 0.99}]
    if config.population.seed:
      best = sum(config.student.units) / 100
      rows += [
        {'method': f'lit-seed{seed}', 'accuracy': 0.8 + best + seed / 100}
        for seed in (1, 2)
      ]
    elif config.method:
      lost = LOST[config.student.units[0]]
      stitch = {f'blocks_{i}': {'lost': own} for i, own in enumerate(lost)}
      rows.append({'method': 'lit', 'stitch': stitch})
    return shared | {'rows': rows}

  monkeypatch.setattr(allocate, 'execute', execute)
  monkeypatch.setattr(allocate.checks, 'check', lambda job: None)
  return made


# More than the 172,506 of (2, 2, 2), and less than the 177,178 of (3, 2, 2).
PARAMETERS = 175_000


def test_every_depth_is_tried_by_one_run_of_blocks_by_themselves(
  allocating, made_up, tmp_path
):
  code, out, err = allocating(
    f'--budget_parameters={PARAMETERS}', '--held_out=30', '--table_epochs=7'
  )
  assert (code, err) == (0, '')
  names, (teacher, *runs) = zip(*made_up, strict=True)
  assert names == ('teacher', 'units-1', 'units-2', 'units-3')
  assert (teacher.method, teacher.stitch) == ('', False)
  for depth, own in enumerate(runs, 1):
    assert own.student.units == (depth,) * 3
    assert (own.validation, own.score_on, own.stitch) == (
      30, 'validation', True,
    )  # fmt: skip
    assert own.teacher.checkpoint == str(tmp_path / 'run' / 'teacher')
    (student,) = recipes.compression(own).students
    (phase,) = student.method.phases
    assert phase.epochs == 7 and phase.objective.beta == 0
    assert phase.objective.compared(3) == (0, 1, 2)
    assert phase.objective.teacher_input
    assert phase.copy == phase.frozen == ('stem', 'head')
  found = json.loads((tmp_path / 'run' / 'allocated.json').read_text())
  chosen, same = found['choices'].values()
  # .0925 is less than the .1025 of (2, 2, 2).
  assert chosen['units'] == [3, 1, 2]
  assert chosen['predicted'] == pytest.approx(0.01 + 0.02 + 0.0625)
  assert chosen['parameters'] <= PARAMETERS
  assert same['units'] == [2, 2, 2]
  assert found['stitch']['2']['blocks_1'] == {'lost': 0.01}
  (line,) = [line for line in out.splitlines() if 'blocks_2' in line]
  assert line.split() == ['blocks_2', '12.50', '6.25*', '0.00']
  assert 'on n = 30 held-out training examples' in ' '.join(out.split())
  assert 'chosen: 3/1/2 units, ' in out and 'predicted to lose 9.25' in out


def test_a_latency_is_measured_of_what_may_be_chosen(
  allocating, made_up, monkeypatch, tmp_path
):
  timed = []

  def latency_ms(net, variables, batch):
    timed.append(batch)
    return 1.5 * sum(block.count for block in net.blocks)

  monkeypatch.setattr(allocate.latency, 'latency_ms', latency_ms)
  monkeypatch.setattr(allocate.blocks, 'init', lambda net, key: None)
  code, out, _ = allocating('--budget_latency_ms=9', '--depths=3,1,2')
  assert code == 0
  found = json.loads((tmp_path / 'run' / 'allocated.json').read_text())
  # Six units, at 1.5 ms each.
  assert found['choices']['chosen']['units'] == [2, 1, 3]
  assert found['choices']['chosen']['latency_ms'] == 9
  # Not all of the 27.
  assert len(timed) < 15
  assert '9 ms; predicted' in out


def test_the_chosen_network_beside_the_uniform_one(allocating, made_up):
  code, out, _ = allocating(
    f'--budget_parameters={PARAMETERS}', '--compare', '--compare_seeds=1,2',
    '--config.teacher.checkpoint=embedded',
  )  # fmt: skip
  assert code == 0
  (one, chosen), (two, same) = made_up[-2:]
  assert (one, two) == ('compare-3-1-2', 'compare-2-2-2')
  for own in (chosen, same):
    assert own.population.seed == '1,2'
    assert (own.method, own.methods.lit) == ('lit', 'lit,finetune')
    assert (own.validation, own.score_on) == (0, 'test')
    assert own.teacher.checkpoint == 'embedded'
    (student,) = recipes.compression(own).students
    assert student.method.names == ('lit-seed1', 'lit-seed2')
    assert student.network['units'] == own.student.units
  lines = out.splitlines()
  start = lines.index('| | units | params | MACs | score | n |')
  assert lines[start + 2].startswith('| chosen | 3/1/2 | 158,')
  # .8 + .06 and .01 or .02: 87.5, and a deviation of 1/√2.
  assert lines[start + 2].endswith(' | 87.5 ± 0.7 | 2 |')
  assert lines[start + 3].startswith('| uniform | 2/2/2 | 172,')


def test_one_network_is_trained_once(allocating, made_up):
  code, out, _ = allocating(
    '--budget_macs=10000000000', '--compare', '--depths=3'
  )
  assert code == 0
  assert [name for name, _ in made_up[-2:]] == ['units-3', 'compare-3-3-3']
  assert '| chosen | 3/3/3 |' in out and '| uniform |' not in out


@pytest.mark.parametrize(
  'flags, words',
  [
    ((), '0 budgets; give one of --budget_parameters, --budget_macs, --budget'),
    (('--budget_macs=5', '--budget_latency_ms=5'), '2 budgets; give one of'),
    (('--budget_macs=0',), '--budget_macs=0; give more than 0'),
    (('--budget_latency_ms=nan',), '--budget_latency_ms=nan; give more than'),
    (
      ('--budget_parameters=10000', '--depths=1'),
      '--budget_parameters=10,000 cannot be met: the least is 75,290, of 1/1/1 '
      'units; give as much, or fewer units in --depths',
    ),
    (
      ('--budget_parameters=100000', '--depths=2'),
      'the least is 172,506, of 2/2/2 units',
    ),
    (('--budget_macs=5', '--depths=1,x'), "--depths is '1,x'; write integers"),
    (('--budget_macs=5', '--depths=0'), "--depths is '0'; write integers from"),
    (('--budget_macs=5', '--depths='), "--depths is ''; write integers from 1"),
    (('--budget_macs=5', '--depths=1,1'), 'a repeated name'),
    (('--budget_macs=5', '--compare_seeds=-1'), "--compare_seeds is '-1'"),
    (('--budget_macs=5', '--held_out=100'), 'validation size 100 for noise'),
    (('--budget_macs=5', '--held_out=-1'), '--held_out=-1; give 1 or more'),
    (
      ('--budget_macs=5', '--config.population.seed=0,1'),
      "population.seed is '0,1'; an allocation trains one student",
    ),
    (
      ('--budget_macs=5', '--config.sequence=8', '--config.student.depth=8'),
      "sequence is '8'; an allocation trains one student",
    ),
    (('--budget_macs=5', '--config.select=best'), "select is 'best'"),
    (('--budget_macs=5', '--config.student.checkpoint=x'), 'leave it empty'),
    (('--budget_macs=5', '--config.methods.lit='), "method 'lit' has no phase"),
  ],
)
def test_bad_flags(flags, words, allocating, monkeypatch):
  monkeypatch.setattr(loop, 'run', None)
  code, out, err = allocating(*flags)
  assert code == 2, err
  assert (out, err.count('\n')) == ('', 1)
  assert err.startswith('error: ') and words in err


def test_a_family_without_units(allocating):
  code, _, err = allocating('--budget_macs=5', config='stargan', flags=())
  assert code == 2
  assert err.startswith("error: the family 'stargan' has no units to allocate")


@pytest.mark.slow
def test_an_allocation_at_its_smallest(allocating, monkeypatch, tmp_path):
  monkeypatch.setattr(rows, 'timed', untimed)
  monkeypatch.setattr(runner.report, 'write_html', lambda workdir: None)
  trained, train = [], loop.run

  def spy(phase, workdir, first, observer, *more):
    trained.append((workdir.name, phase.name))
    return train(phase, workdir, first, observer, *more)

  monkeypatch.setattr(loop, 'run', spy)
  flags = (
    f'--budget_parameters={PARAMETERS}', '--depths=1,2', '--held_out=30',
  )  # fmt: skip
  code, out, err = allocating(*flags)
  assert code == 0, err
  tables = [('units-1', 'lit'), ('units-2', 'lit')]
  assert trained == [('teacher', 'train_teacher'), *tables]
  folder = tmp_path / 'run'
  found = json.loads((folder / 'allocated.json').read_text())
  for depth in '12':
    results = json.loads((folder / f'units-{depth}/results.json').read_text())
    teacher, lit = results['rows']
    assert np.sum(lit['confusion']) == 30
    assert found['stitch'][depth] == lit['stitch']
    for own in lit['stitch'].values():
      assert own['score'] + own['lost'] == pytest.approx(teacher['accuracy'])
      # Stem and head are the teacher's.
      assert own.keys() == {'score', 'lost', 'input_shift'}
    assert lit['stitch']['blocks_0']['input_shift'] == pytest.approx(0)
  # Once more, nothing is trained, and the same is chosen.
  assert allocating(*flags)[0] == 0
  assert len(trained) == 3
  again = json.loads((folder / 'allocated.json').read_text())
  assert again == found
