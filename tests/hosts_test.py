"""Two processes of two devices each: the same numbers, stops, errors."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import processes
import pytest

from experiments.process import free_address
from lit_jax.networks import saved
from lit_jax.training.interrupt import Observer

ROOT = pathlib.Path(__file__).parents[1]
LONG = pytest.mark.skipif(
  not os.environ.get('LIT_JAX_LONG'),
  reason='takes minutes; LIT_JAX_LONG=1 has it run, as .ci/long does',
)


GONE = 75
SECONDS = 60  # for which a silent process is waited for


def start(folder, task, fault='', seconds=SECONDS):
  """Two processes that make a run together; `fault` as processes.py has it."""
  address = free_address()
  return [
    begun(
      folder,
      [processes.__file__, folder, task, address, '2', str(i), str(seconds)]
      + [fault],
      JAX_NUM_CPU_DEVICES='2',
    )
    for i in range(2)
  ]


def begun(folder, arguments, **variables):
  """One of several processes."""
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]),
    'XLA_FLAGS': '',
    # Of all of them, for each compiles the same programs.
    'JAX_COMPILATION_CACHE_DIR': str(folder.parent / 'programs-of-processes'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    **variables,
  }
  return subprocess.Popen(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(children, seconds=400):
  """Exit codes and what was said, once all are over."""
  try:
    said = [child.communicate(timeout=seconds) for child in children]
  finally:
    for child in children:
      child.kill()
      child.wait()
  return [
    (c.returncode, *words) for c, words in zip(children, said, strict=True)
  ]


def losses(workdir):
  """Of every record by what it is of; and steps."""
  found = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    record = json.loads(line)
    key = tuple(record[k] for k in ('method', 'phase', 'split', 'step'))
    found[key] = record['loss']
  return found


def assert_alike(one, other):
  a, b = losses(one), losses(other)
  assert a.keys() == b.keys() and len(a) >= 10
  for key, value in a.items():
    assert b[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The folder of a task's run by this process, with its two devices."""

  @functools.cache
  def run(task):
    assert jax.device_count() == 2
    folder = tmp_path_factory.mktemp('alone')
    processes.write_texts(folder / 'texts')
    processes.run(task, folder, Observer())
    return folder

  return run


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """The folder of a task's run by two processes."""

  @functools.cache
  def run(task):
    folder = tmp_path_factory.mktemp('together')
    processes.write_texts(folder / 'texts')
    for code, _, err in ended(start(folder, task)):
      assert code == 0, err
    return folder

  return run


@pytest.mark.parametrize(
  'task',
  [
    'images',
    pytest.param('texts', marks=LONG),
    pytest.param('translations', marks=LONG),
  ],
)
def test_the_same_numbers(task, alone, together):
  """As one process of two devices, to the end and in all that is logged."""
  assert_alike(alone(task) / task, together(task) / task)


@pytest.mark.slow
def test_all_stop_where_one_is_asked_and_one_process_goes_on(alone, tmp_path):
  # Within LIT, which is the second phase.
  first, second = ended(start(tmp_path, 'images', '1:2:SIGTERM'))
  for code, _, err in (first, second):
    assert code == 128 + signal.SIGTERM and 'stopped in lit/lit at step' in err
  step = int(first[2].rpartition('at step ')[2].split()[0])
  assert 0 < step < 20 and f'at step {step} of 20' in second[2]
  # Here there are two devices, and there were four.
  processes.run('images', tmp_path, Observer())
  ends = [
    {key: value for key, value in losses(folder / 'images').items()
     if key[2] == 'validation'}
    for folder in (alone('images'), tmp_path)
  ]  # fmt: skip
  assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_a_handler_hears_of_sigterm_once_processes_have_met(tmp_path):
  """JAX has a handler of its own, which tells nobody."""
  code = """
import os, signal, sys
from lit_jax import hosts

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append('heard'))
assert hosts.start(sys.argv[1], 1, 0, 20) == 1
os.kill(os.getpid(), signal.SIGTERM)
print(heard)
"""
  ((code, out, err),) = ended([begun(tmp_path, ['-c', code, free_address()])])
  assert (code, out) == (0, "['heard']\n"), err


@pytest.mark.slow
def test_what_the_first_refuses_ends_all(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  (folder / 'config.json').write_text('{"another": 1}')
  first, second = ended(start(tmp_path, 'images'))
  assert [code for code, _, _ in (first, second)] == [2, 2]
  # Which the others need not repeat.
  assert 'was made with another configuration' in first[2]
  assert 'error' not in second[2]


@pytest.mark.parametrize('victim', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_one_refuses_ends_all(victim, tmp_path):
  """As the command line has it, which says how many devices there are."""
  address = free_address()
  wrong = [f'--config.teacher.checkpoint={tmp_path}/none']
  children = [
    begun(
      tmp_path,
      ['-m', 'experiments.cifar', '--config=experiments/configs/demo.py']
      + [f'--workdir={tmp_path}/run', '--config.batch_size=64']
      + [f'--coordinator_address={address}', '--num_processes=2']
      + [f'--process_id={i}', '--peer_seconds=20']
      + (wrong if i == victim else []),
    )
    for i in range(2)
  ]
  told = ended(children)
  assert [code for code, _, _ in told] == [2, 2], told
  (cause,), (other,) = (told[i][2].splitlines() for i in (victim, 1 - victim))
  assert f'{tmp_path}/none' in cause
  if other != cause:
    assert f'process {victim} has ended with exit code 2' in other


@pytest.mark.parametrize(
  'victim, name, goes_on',
  [
    pytest.param(1, 'SIGKILL', True, marks=pytest.mark.slow),
    pytest.param(1, 'SIGSTOP', False, marks=LONG),
    pytest.param(0, 'SIGSTOP', False, marks=LONG),
    pytest.param(0, 'SIGKILL', True, marks=LONG),
  ],
)
def test_where_one_is_gone_the_other_ends(
  victim, name, goes_on, together, tmp_path
):
  seconds = 10
  children = start(tmp_path, 'images', f'{victim}:2:{name}', seconds)
  other = children[1 - victim]
  try:
    _, err = other.communicate(timeout=400)
  finally:
    for child in children:
      child.kill()
      child.communicate()
  if name == 'SIGKILL' and victim == 0 and other.returncode != GONE:
    # JAX was faster.
    assert other.returncode == -signal.SIGABRT and 'another task died' in err
  else:
    assert other.returncode == GONE
    assert 'error: another process of this run is gone' in err
    assert 'Traceback' not in err
  if name == 'SIGSTOP':
    assert f'process {victim} is not heard of for {seconds} s' in err
  if goes_on:
    for code, _, err in ended(start(tmp_path, 'images')):
      assert code == 0, err
    assert network(tmp_path) == network(together('images'))


def network(folder):
  """What is saved of the student, with digests of all its arrays."""
  facts = vars(saved.check(folder / 'images' / 'lit' / 'student'))
  return {key: value for key, value in facts.items() if key != 'row'}
