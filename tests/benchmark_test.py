"""The benchmark's arithmetic, its messages, and its contestants.

Speeds are never asserted, only that they are told.
"""

import functools
import importlib.util
import json
import math

import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import benchmark, ours, worker
from experiments.process import Process
from lit_jax import models
from lit_jax.errors import UserError

# Units of one block, and channels, of ResNet-8 on 32x32 images.
WIDTHS, SIZES = (16, 32, 64), (32, 16, 8)
STEM_MACS = 32 * 32 * 16 * 27
BLOCK_MACS = (
  32 * 32 * 16 * 9 * (16 + 16),
  16 * 16 * 32 * 9 * (16 + 32),
  8 * 8 * 64 * 9 * (32 + 64),
)
HEAD_MACS = 640
BLOCK_ELEMENTS = tuple(
  2 * size * size * width for size, width in zip(SIZES, WIDTHS, strict=True)
)
STEM_ELEMENTS = 32 * 32 * 16

TOLD = {
  'ours': [{'steps_per_s': v} for v in (10.0, 12.0, 11.0)],
  'eager': [{'steps_per_s': v} for v in (5.0, 5.5, 7.0)],
}
FLOORS = {
  'flops': 2e9,
  'bytes': 1e8,
  'peak_flops_per_s': 1e11,
  'peak_bytes_per_s': 1e10,
}


pytestmark = pytest.mark.usefixtures('parsed_flags')


@functools.cache
def _job(**settings):
  defaults = dict(
    case='resnet', batch=4, precision='fp32', steps_per_call=2, depths=(8, 8)
  )
  return ours.job(**(defaults | settings))


def _translation_job(phase, **settings):
  """StarGAN's, of narrow networks on small images."""
  job = _job(case='stargan', depths=(10, 8), phase=phase, **settings)
  small = {'width': 4, 'image_size': 16}
  for role in ('teacher', 'student'):
    job[role] = job[role] | small
  job['translate'] = job['translate'] | {'discriminator_width': 4}
  return job


def _command(**settings):
  """The exit code of a command line."""
  with flagsaver.flagsaver(**settings):
    return benchmark.main(['benchmark'])


def test_convolution_outputs_are_counted_by_part():
  found = ours.conv_outputs(models.build(_job()['student']))
  assert found == {
    'stem': STEM_ELEMENTS,
    'blocks_0': BLOCK_ELEMENTS[0],
    'blocks_1': BLOCK_ELEMENTS[1],
    'blocks_2': BLOCK_ELEMENTS[2],
    'head': 0,
  }


def test_floors_of_a_small_pair_by_hand():
  forward = STEM_MACS + sum(BLOCK_MACS) + HEAD_MACS
  student = STEM_MACS + 2 * HEAD_MACS + 3 * BLOCK_MACS[0]
  student += 6 * (BLOCK_MACS[1] + BLOCK_MACS[2])
  assert ours.step_macs(_job()) == forward + student
  elements = 2.5 * (STEM_ELEMENTS + sum(BLOCK_ELEMENTS)) + 2.5 * STEM_ELEMENTS
  elements += 14 * (BLOCK_ELEMENTS[0] + 2 * sum(BLOCK_ELEMENTS[1:]))
  assert ours.step_elements(_job()) == elements
  # A batch of 4; two operations, four bytes.
  assert ours.floors(_job()) == {
    'flops': 2 * 4 * (forward + student),
    'bytes': 4 * 4 * elements,
  }
  half = ours.floors(_job(precision='bf16'))
  assert half['bytes'] == 2 * 4 * elements


def test_floors_of_translation_by_hand():
  lit, adversarial = map(_translation_job, ('lit', 'finetune'))
  # Of width 4 on 16x16 images with 5 attributes; up-sampling computes one more
  # row and column than it keeps.
  first = 256 * 4 * 49 * 8
  stem = first + 64 * 8 * 16 * 4 + 16 * 16 * 16 * 8
  unit = 2 * 16 * 16 * 9 * 16
  head = 25 * 32 * 4 * 16 + 81 * 16 * 4 * 8 + 256 * 3 * 49 * 4
  # The teacher has two units, the student one on T_0, and no head runs.
  assert ours.step_macs(lit) == (stem + 2 * unit) + 3 * unit
  stem_out, unit_out = 256 * 4 + 64 * 8 + 16 * 16, 2 * 16 * 16
  elements = 2.5 * (stem_out + 2 * unit_out) + 14 * unit_out
  assert ours.step_elements(lit) == elements
  generator, edge = stem + unit + head, 64 * 4 * 16 * 3
  critic = edge + 16 * 8 * 16 * 4 + 4 * 16 * 16 * 8 + 4 * 9 * 16 + 4 * 16 * 5
  update = generator + 10 * critic - 2 * edge
  turn = 6 * generator - first + 2 * critic
  assert ours.step_macs(adversarial) == update + turn / 5
  generator_out = stem_out + unit_out + 25 * 32 + 81 * 16 + 256 * 3
  critic_out = 64 * 4 + 16 * 8 + 4 * 16 + 4 + 5
  elements = 2.5 * generator_out + (2 * 11 + 20) * critic_out
  elements += (28 * generator_out + 9 * critic_out) / 5
  assert ours.step_elements(adversarial) == pytest.approx(elements)
  weights = 16 * (3 * 4 + 4 * 8 + 8 * 16) + 4 + 8 + 16 + 9 * 16 + 4 * 16 * 5
  assert ours.floors(adversarial)['bytes'] == pytest.approx(
    4 * 4 * elements + 4 * 17 * weights
  )


@pytest.mark.parametrize(('calls', 'found'), [(1, 5), (5, 5), (8, 10)])
def test_calls_of_adversarial_steps_are_whole_cycles(calls, found):
  job = _translation_job('finetune', steps_per_call=calls)
  assert (job['cycle'], job['steps_per_call']) == (5, found)
  job = _translation_job('lit', steps_per_call=calls)
  assert (job['cycle'], job['steps_per_call']) == (1, calls)


def test_batches_are_the_usual_ones_of_a_case():
  assert benchmark._sizes('', 'resnet') == (32, 128)
  assert benchmark._sizes('', 'stargan') == (16,)
  assert benchmark._sizes('1,4', 'stargan') == (1, 4)
  with flagsaver.flagsaver(inference=True):
    assert benchmark._sizes('', 'stargan') == (1, 16)


def test_job_is_the_lit_phase_of_the_configuration():
  job = _job(case='resnext', depths=(0, 0))
  assert job['teacher']['depth'] == 110
  assert job['student']['depth'] == 20
  assert job['student']['cardinality'] == 32
  assert (job['alpha'], job['beta'], job['temperature']) == (0.95, 0.5, 6.0)
  assert job['frozen'] == ('stem', 'head')


@pytest.mark.parametrize(('batch', 'calls'), [(32, 8), (128, 64), (6, 5)])
def test_epochs_are_made_of_full_calls(batch, calls):
  split = ours.data(_job(batch=batch, steps_per_call=calls))
  assert len(split.labels) >= 2048
  assert len(split.labels) % (batch * calls) == 0


def test_contestants_take_turns():
  order = []

  class Fake:
    def __init__(self, name):
      self.name = name

    def run(self, seconds):
      order.append((self.name, seconds))
      return {'steps_per_s': float(len(order))}

  told = benchmark.alternate({n: Fake(n) for n in ('ours', 'eager')}, 2, 3.0)
  assert [name for name, _ in order] == ['ours', 'eager', 'ours', 'eager']
  assert {seconds for _, seconds in order} == {3.0}
  assert [turn['steps_per_s'] for turn in told['eager']] == [2.0, 4.0]


def test_training_numbers():
  found = benchmark.training_numbers(TOLD, FLOORS)
  assert found['ours_steps_per_s'] == 11
  assert found['peers'] == {'eager': {'steps_per_s': 5.5, 'ratio': 2.0}}
  assert found['turns']['ours'] == [10, 12, 11]
  assert found['floors']['seconds'] == {'flops': 0.02, 'bytes': 0.01}
  assert found['floors']['shares'] == {
    'ours': {'flops': 0.22, 'bytes': 0.11},
    'eager': {'flops': 0.11, 'bytes': 0.055},
  }


def test_a_population_is_beside_ours_and_no_peer():
  told = TOLD | {'population': [{'steps_per_s': 33.0}]}
  found = benchmark.training_numbers(told, FLOORS)
  assert found['population'] == {'steps_per_s': 33, 'ratio': 3.0}
  assert set(found['peers']) == set(found['floors']['shares']) - {'ours'}


def test_unsteady_turns_are_seen():
  assert benchmark.unsteady(TOLD['ours']) == pytest.approx(1.2)
  assert benchmark.unsteady([{'a': 1.0, 'b': 1.0}, {'a': 1.0, 'b': 9.0}]) == 9


def test_inference_numbers():
  told = {
    'ours': [{'teacher_ms': 8.0, 'student_ms': 2.0}],
    'best': [{'teacher_ms': 12.0, 'student_ms': 4.0}],
  }
  found = benchmark.inference_numbers(told)
  assert found['ours']['speed_up'] == 4
  assert found['peers']['best']['speed_up'] == 3
  assert found['peers']['best']['teacher_ratio'] == 1.5
  assert found['peers']['best']['student_ratio'] == 2


def test_difference_is_relative_and_nan_is_no_small_one():
  assert benchmark.difference([[1.0, 2.0]], [[1.0, 2.5]]) == pytest.approx(0.2)
  assert benchmark.difference([[0.0]], [[0.0]]) == 0
  assert benchmark.difference([[1.0]], [[math.nan]]) == math.inf


def test_another_computation_is_an_error(capsys):
  benchmark.check_same('eager', 1e-6)
  assert 'eager' in capsys.readouterr().out
  with pytest.raises(UserError, match='another computation'):
    benchmark.check_same('eager', 2e-3)


def test_our_contestant_steps():
  job = _job()
  contestant = ours.Training(job)
  assert contestant.warm_up() > 0
  told = contestant.run(0.0)
  assert set(told) == {'steps_per_s'}
  assert told['steps_per_s'] > 0
  assert contestant.finite()
  assert contestant.peak_memory_mb() > 1


@pytest.mark.slow
def test_ours_alone_through_processes(tmp_path, capsys):
  file = tmp_path / 'numbers.json'
  code = _command(
    cases='resnet',
    batches='4',
    peers='',
    turns=1,
    members=3,
    seconds=0.0,
    steps_per_call=2,
    teacher_depth=8,
    student_depth=8,
    json=str(file),
  )
  out, err = capsys.readouterr()
  assert (code, err) == (0, '')
  assert 'resnet-8' in out
  (record,) = json.loads(file.read_text())
  assert record['case'] == 'resnet'
  assert record['batch'] == 4
  assert record['precision'] == 'fp32'
  assert record['peers'] == {}
  assert record['ours_steps_per_s'] > 0
  assert set(record['floors']['shares']) == {'ours'}
  assert record['members'] == 3
  assert record['population']['steps_per_s'] > 0
  together = {'ours', 'population'}
  assert set(record['compile_s']) == set(record['peak_memory_mb']) == together
  assert record['versions']['jax']
  assert record['command'][:2] == ['-m', 'experiments.benchmark']
  assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
  ('flag', 'value', 'message'),
  [
    ('cases', 'vgg', "unknown case 'vgg'; choose one of resnet, resnext"),
    ('peers', 'eager,slow', "unknown peer 'slow'"),
    ('turns', 0, '--turns=0; at least 1'),
    ('members', 0, '--members=0; at least 1'),
    ('seconds', -1.0, '--seconds=-1.0'),
    ('batches', '0', '--batches=0; write positive numbers'),
    ('batches', '32,x', '--batches=32,x'),
    ('precision', 'fp8', "unknown precision 'fp8'"),
    ('compile_for', 'h1000', "unknown target 'h1000'"),
    ('scaling', '1,x', '--scaling=1,x; write positive numbers'),
    ('json', '/no/such/folder/x.json', 'cannot write into /no/such/folder'),
  ],
)
def test_bad_flags_are_one_line(flag, value, message, capsys):
  assert _command(**{'peers': '', flag: value}) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert message in err
  assert err.count('\n') == 1


def test_without_pytorch_it_says_what_to_do(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert _command(cases='resnet') == 2
  error = capsys.readouterr().err
  assert "pip install -e '.[torch]'" in error
  assert '--peers=' in error
  assert error.count('\n') == 1


def test_without_the_cuda_plugin_it_says_what_to_do(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert _command(cases='resnet', compile_for='h100', precision='fp16') == 2
  error = capsys.readouterr().err
  assert "pip install -e '.[h100]'" in error
  assert error.count('\n') == 1


def test_a_dead_contestant_is_one_line():
  with Process('eager', 'builtins:dict') as process:
    with pytest.raises(UserError, match='eager failed: AttributeError'):
      process.call('fly')
    process._process.kill()
    with pytest.raises(UserError, match='exit code'):
      process.call('keys')


def test_the_most_memory_of_a_process():
  before = worker.peak_rss_mb()
  held = np.ones(25_000_000)
  assert worker.peak_rss_mb() >= before
  assert worker.peak_rss_mb() > held.nbytes / 1e6


def _torch_peer():
  reason = "needs PyTorch: pip install -e '.[torch]'"
  pytest.importorskip('torch', reason=reason)
  from experiments import torch_peer

  return torch_peer


def _peer(job, variant):
  torch_peer = _torch_peer()
  split = ours.data(job)
  arrays = ours.Reference().arrays(job)
  job = job | {'torch_device': 'cpu'}
  return torch_peer.training(job, variant, arrays, *split)


@pytest.mark.parametrize('variant', [None, 'channels-last'])
@pytest.mark.parametrize(
  ('case', 'depths'),
  [('resnet', (14, 8)), ('resnext', (8, 8)), ('vdcnn', (17, 9))],
)
def test_pytorch_takes_the_same_steps(case, depths, variant):
  _torch_peer()
  job = _job(case=case, depths=depths)
  peer = _peer(job, variant)
  batches = ours.check_batches(job)
  reference = ours.Reference()
  wanted = reference.losses(job, *batches)
  given = reference.given(job, *batches)
  assert benchmark.difference(peer.check(*given), wanted) < 1e-4
  # The comparison leaves no trace.
  assert benchmark.difference(peer.check(*given), wanted) < 1e-4
  assert peer.warm_up() > 0
  assert peer.run(0.0)['steps_per_s'] > 0
  assert peer.finite()


@pytest.mark.parametrize('variant', [None, 'channels-last'])
@pytest.mark.parametrize(('phase', 'steps'), [('lit', 2), ('finetune', 6)])
def test_pytorch_translates_in_the_same_steps(phase, steps, variant):
  _torch_peer()
  job = _translation_job(phase)
  peer = _peer(job, variant)
  batches = ours.check_batches(job)
  reference = ours.Reference()
  wanted = reference.losses(job, *batches)
  # In every fifth step the generator learns too.
  adversarial = [2, 2, 2, 2, 5, 2]
  assert list(map(len, wanted)) == (
    [2] * steps if phase == 'lit' else adversarial
  )
  given = reference.given(job, *batches)
  assert benchmark.difference(peer.check(*given), wanted) < 1e-4
  # The comparison leaves no trace.
  assert benchmark.difference(peer.check(*given), wanted) < 1e-4
  assert peer.warm_up() > 0
  assert peer.run(0.0)['steps_per_s'] > 0
  assert peer.finite()


def test_pytorch_augmentation_shifts_and_mirrors():
  torch_peer = _torch_peer()
  torch = torch_peer.torch
  torch.manual_seed(0)
  images = torch.arange(1, 8 * 8 * 3 + 1, dtype=torch.uint8)
  images = images.view(1, 8, 8, 3).expand(64, -1, -1, -1)
  padded = torch.nn.functional.pad(images[0], (0, 0, 4, 4, 4, 4))
  views = {
    (y, x, flip): padded[y : y + 8, x : x + 8].flip(1)
    if flip
    else padded[y : y + 8, x : x + 8]
    for y in range(9)
    for x in range(9)
    for flip in (False, True)
  }
  drawn = set()
  for image in torch_peer.augment(images):
    found = [k for k, view in views.items() if torch.equal(view, image)]
    assert len(found) == 1
    drawn.add(found[0])
  assert len(drawn) > 40
  assert {flip for *_, flip in drawn} == {False, True}


def test_pytorch_absent_cuda_is_one_line(capsys):
  torch_peer = _torch_peer()
  if torch_peer.torch.cuda.is_available():
    pytest.skip('this PyTorch has CUDA')
  with pytest.raises(UserError, match='no CUDA'):
    benchmark._torch_facts(on_gpu=True)


@pytest.mark.parametrize('case', ['resnet', 'stargan'])
def test_forward_passes_beside_pytorch(case):
  torch_peer = _torch_peer()
  job = _job() if case == 'resnet' else _translation_job('lit')
  job = job | {'torch_device': 'cpu'}
  arrays = ours.Reference().arrays(job)
  for variant in (None, 'channels-last'):
    contestant = torch_peer.Inference(job, variant, arrays)
    contestant.warm_up()
    told = contestant.run(0.0)
    assert set(told) == {'teacher_ms', 'student_ms'}
    assert min(told.values()) > 0
