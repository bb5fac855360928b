"""`lit-jax check`: a pair's cuts, cost and gain, before any training."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from lit_jax import blocks, models
from lit_jax.blocks import BlockNet, Cut
from lit_jax.command import network, pair, pair_text
from lit_jax.errors import UserError
from lit_jax.networks.latency import Latency
from lit_jax.networks.summary import summary
from lit_jax.runs import rehearsal
from lit_jax.training import loop, state

SIZE = 'input_shape=8x8x3'
TEACHER, STUDENT = f'resnet,depth=14,{SIZE}', f'resnet,depth=8,{SIZE}'
KEYS = {
  'fits', 'cuts', 'copied', 'teacher', 'student', 'ratios',
  'predicted_speedup', 'predicted_by', 'training', 'inference',
}  # fmt: skip


@pytest.fixture
def check(lit_jax_command):
  """The object that `lit-jax check --json` prints."""

  def run(*args, code=0):
    found, out, err = lit_jax_command('check', *args, '--json')
    assert found == code, err
    return json.loads(out)

  return run


def test_counts_are_those_of_the_networks(check):
  found = check(TEACHER, STUDENT, '--no_measure')
  assert set(found) == KEYS
  for role, text in (('teacher', TEACHER), ('student', STUDENT)):
    cost = summary(network.find(text).build())
    assert found[role] == {
      'network': network.find(text).title, 'depth': cost.depth,
      'parameters': cost.parameters, 'macs': cost.macs,
    }  # fmt: skip
  ratios = found['ratios']
  assert ratios['depth'] == 14 / 8
  assert found['predicted_speedup'] == ratios['macs']
  assert ratios['macs'] == pytest.approx(
    found['teacher']['macs'] / found['student']['macs'], abs=1e-4
  )
  assert (found['training'], found['inference']) == (None, None)


def test_the_ratio_of_the_papers_pair(check):
  found = check('resnet,depth=110', 'resnet,depth=20', '--no_measure')
  # 1.7 M and 0.27 M parameters of He et al. 2016.
  assert found['teacher']['parameters'] == 1727962
  assert found['student']['parameters'] == 269722
  assert found['ratios']['macs'] == pytest.approx(6.236, abs=1e-3)
  assert found['copied'] == ['stem', 'head']


def test_blocks_that_are_equal_can_be_copied(check):
  found = check(
    f'resnet,units=2:1:3,{SIZE}', 'resnet,units=2:1:1', '--no_measure'
  )
  assert found['fits']
  assert found['copied'] == ['stem', 'blocks_0', 'blocks_1', 'head']


def test_a_student_has_its_teachers_input_and_classes(check):
  found = check(
    'resnet,units=1:1:1,classes=3,input_shape=8x8x1', 'resnet,units=1:1:1',
    '--no_measure',
  )  # fmt: skip
  assert found['fits']
  cuts = {cut['part']: cut['student'] for cut in found['cuts']}
  assert cuts['head'] == [3] and cuts['input'] == '(8, 8, 1) float32'


def test_all_cuts_that_differ_are_told(check, lit_jax_command):
  args = TEACHER, f'resnext,units=1:1:1,base_width=1,{SIZE}'
  found = check(*args, code=2)
  assert not found['fits'] and found['training'] is None
  fits = {cut['part']: cut['fits'] for cut in found['cuts']}
  assert fits == {
    'input': True, 'stem': False, 'blocks_0': False, 'blocks_1': False,
    'blocks_2': False, 'head': True,
  }  # fmt: skip
  code, out, err = lit_jax_command('check', *args)
  assert code == 2 and out.count(' NO\n') == 4
  assert err.startswith('error: stem returns shape (8, 8, 16) in the teacher')
  assert err.count('\n') == 1


def test_another_number_of_blocks(lit_jax_command):
  code, out, err = lit_jax_command(
    'check', 'vdcnn,depth=9,input_shape=64,k=2', f'resnet,depth=8,{SIZE}'
  )
  assert code == 2
  assert 'read different inputs' in err and err.count('\n') == 1
  (line,) = (line for line in out.splitlines() if 'blocks_3' in line)
  assert line.split()[-2:] == ['–', 'NO']


class Part(nn.Module):
  """A part without parameters."""

  @nn.compact
  def __call__(self, h, train=False):
    return h


def test_cuts_of_any_networks():
  example = jax.ShapeDtypeStruct((4,), np.float32)
  one = BlockNet(Part(), (Part(),), Part(), example)
  two = BlockNet(Part(), (Part(), Part()), Part(), example)
  assert blocks.cuts(one, two) == (
    Cut('input', '(4,) float32', '(4,) float32'),
    Cut('stem', (4,), (4,)),
    Cut('blocks_0', (4,), (4,)),
    Cut('blocks_1', None, (4,)),
    Cut('head', (4,), (4,)),
  )
  shapes = blocks.shapes(two)
  assert state.equal_parts(shapes, shapes, two.parts) == ()


# What is measured.


@pytest.fixture(scope='module')
def nets():
  size = {'input_shape': (8, 8, 3), 'family': 'resnet'}
  spec = {'teacher': {'units': (1, 1, 2)}, 'student': {'units': (1, 1, 1)}}
  return {role: models.build(size | own) for role, own in spec.items()}


@pytest.mark.slow
def test_a_step_is_that_of_compress(nets, monkeypatch):
  seen = []
  prepare = loop.prepared

  def spy(phase, first):
    seen.append(phase)
    return prepare(phase, first)

  monkeypatch.setattr(loop, 'prepared', spy)
  found = pair.trained(nets, 16, 'fp32', 1000)
  (phase,) = seen
  assert (phase.method, phase.name) == ('lit', 'lit')
  assert phase.plan.frozen == phase.plan.shared == ('stem', 'head')
  (beta,) = phase.constants.objectives.beta
  assert beta == 0.75
  assert found['devices'] == 2 and found['steps_per_call'] == 8
  lower, upper = found['step_seconds_quartiles']
  assert 0 < lower <= found['step_seconds'] <= upper
  # 62 whole batches of 16.
  assert found['epoch_seconds'] == pytest.approx(62 * found['step_seconds'])
  assert found['compiled_for'] == 'cpu'
  # It holds at least the teacher, the student and their momentum.
  teacher, student = (summary(nets[r]).parameters for r in nets)
  assert found['memory_bytes'] > 4 * (teacher + 2 * student)
  text = pair_text.trained(found)
  assert 'a LIT step of 16 examples, fp32, on 2 devices (cpu)' in text
  assert "compiled for this machine's cpu" in text


def test_speed_up_is_of_medians(nets, monkeypatch):
  times = iter((8.0, 2.0, 90.0, 30.0))

  def interleaved(passes):
    return [Latency(t, t / 2, 2 * t) for t in (next(times) for _ in passes)]

  monkeypatch.setattr(pair.latency, 'interleaved', interleaved)
  built = []
  monkeypatch.setattr(
    pair.latency, 'forward_pass', lambda net, v, n: built.append((net, n))
  )
  monkeypatch.setattr(pair.blocks, 'init', lambda net, key: {})
  found = pair.inferred(nets, 16)
  assert built == [(net, n) for n in (1, 16) for net in nets.values()]
  one, many = found['batches']
  assert (one['batch_size'], one['speedup']) == (1, 4.0)
  assert (many['batch_size'], many['speedup']) == (16, 3.0)
  assert many['student_quartiles_ms'] == [15.0, 60.0]
  assert '30 (15 to 60)      3.00x' in pair_text.inferred(found)


def test_what_the_device_cannot_is_left_out(nets, monkeypatch, capsys):
  def refuse(*args):
    raise MemoryError('too large')

  monkeypatch.setattr(pair, 'rehearse', refuse)
  monkeypatch.setattr(pair.latency, 'forward_pass', refuse)
  monkeypatch.setattr(pair.blocks, 'init', lambda net, key: {})
  assert pair.trained(nets, 16, 'fp32', 1000) is None
  assert pair.inferred(nets, 16) is None
  err = capsys.readouterr().err
  assert 'the training step is left out: too large' in err
  assert 'inference of 16 is left out: too large' in err


def test_everything_is_printed(lit_jax_command, monkeypatch):
  quick = rehearsal.Rehearsal(2, 8, 3_500_000, Latency(250.0, 200.0, 300.0))
  monkeypatch.setattr(pair, 'rehearse', lambda *args: quick)
  monkeypatch.setattr(
    pair, '_times',
    lambda nets, n: {
      'batch_size': n, 'teacher_ms': 6.0, 'student_ms': 2.0,
      'teacher_quartiles_ms': [5, 7], 'student_quartiles_ms': [1, 3],
      'speedup': 3.0,
    },
  )  # fmt: skip
  code, out, err = lit_jax_command(
    'check', TEACHER, STUDENT, '--batch_size=32', '--examples=640'
  )
  assert code == 0 and err.startswith('measuring; ')
  assert 'can be copied: stem, head' in out
  assert 'predicted speed-up of inference: 2.' in out
  assert 'memory 3.5 MB of each device' in out
  assert 'time 0.25 s (quartiles 0.2 to 0.3), so 5 s an epoch of 640' in out
  assert '6 (5 to 7)' in out and '3.00x' in out
  assert all(len(line) <= 80 for line in out.splitlines())


class Broken(nn.Module):
  """A part that cannot be trained."""

  @nn.compact
  def __call__(self, h, train=False):
    if train:
      raise ValueError('the moon is\nfull')
    return nn.Dense(3)(h)


class OwnNorm(nn.Module):
  """A part whose batch statistics the devices do not share."""

  @nn.compact
  def __call__(self, h, train=False):
    mean = self.variable('batch_stats', 'mean', np.zeros, h.shape[-1:])
    return nn.Dense(3)(h - mean.value[None])


@pytest.mark.parametrize(
  'part, fault',
  [
    (Broken(), 'a training step of the two cannot be made (the moon is)'),
    (OwnNorm(), 'the 2 devices would not share'),
  ],
)
def test_networks_that_cannot_be_trained(part, fault):
  example = jax.ShapeDtypeStruct((4,), np.float32)
  net = BlockNet(Part(), (part,), Broken(), example)
  with pytest.raises(UserError) as caught:
    pair.trained({'teacher': net, 'student': net}, 4, 'fp32', 100)
  assert fault in str(caught.value)


def test_networks_that_tell_no_classes(check, monkeypatch, capsys):
  monkeypatch.setattr(pair, 'inferred', lambda *args: None)
  small = 'width=4,image_size=16'
  found = check(f'stargan,depth=10,{small}', 'stargan,depth=8,width=4')
  assert found['fits'] and found['training'] is None


@pytest.mark.parametrize(
  'args, fault',
  [
    ((), 'TEACHER, STUDENT'),
    ((TEACHER,), 'STUDENT'),
    ((TEACHER, 'resnat'), "perhaps 'resnet'"),
    ((TEACHER, STUDENT, '--batch_size=x'), 'invalid int value'),
    ((TEACHER, STUDENT, '--batch_size=0'), 'batch size 0'),
    ((TEACHER, STUDENT, '--batch_size=3'), 'batch size 3 is not divisible'),
    ((TEACHER, STUDENT, '--examples=0'), '--examples is 0, fewer than the 128'),
    ((TEACHER, STUDENT, '--precision=fp8'), "unknown precision 'fp8'"),
  ],
)
def test_bad_input_is_a_line_and_code_2(args, fault, lit_jax_command):
  code, out, err = lit_jax_command('check', *args)
  assert (code, out) == (2, '')
  assert fault in err and err.count('\n') == 1


def test_help_tells_every_key(lit_jax_command):
  _, out, _ = lit_jax_command('check', '--help')
  keys = KEYS | {
    'memory_bytes', 'epoch_seconds', 'step_seconds_quartiles', 'speedup',
    'teacher_quartiles_ms', 'devices', 'compiled_for',
  }  # fmt: skip
  assert [key for key in keys if key not in out] == []
