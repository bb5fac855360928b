"""Two processes of two devices each: the same numbers, stops, errors."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import processes
import pytest

from lit_jax.training.interrupt import Observer

ROOT = pathlib.Path(__file__).parents[1]
LONG = pytest.mark.skipif(
  not os.environ.get('LIT_JAX_LONG'),
  reason='takes minutes; LIT_JAX_LONG=1 has it run, as .ci/long does',
)


def start(folder, task, stop):
  """Two processes that make a run together; `stop` as processes.py has it."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
    'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]),
    'XLA_FLAGS': '',
  }
  return [
    subprocess.Popen(
      [sys.executable, processes.__file__, folder, task]
      + [address, '2', str(i), str(stop)],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]


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


@pytest.mark.parametrize(
  'task',
  [
    'images',
    pytest.param('texts', marks=LONG),
    pytest.param('translations', marks=LONG),
  ],
)
def test_the_same_numbers(task, alone, tmp_path):
  """As one process of two devices, to the end and in all that is logged."""
  processes.write_texts(tmp_path / 'texts')
  for code, _, err in ended(start(tmp_path, task, 0)):
    assert code == 0, err
  assert_alike(alone(task) / task, tmp_path / task)


def test_all_stop_where_one_is_asked_and_one_process_goes_on(alone, tmp_path):
  # Within LIT, which is the second phase.
  first, second = ended(start(tmp_path, 'images', 2))
  for code, _, err in (first, second):
    assert code != 0 and 'Interrupted: stopped in lit/lit at step' in err
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


def test_what_the_first_refuses_ends_all(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  (folder / 'config.json').write_text('{"another": 1}')
  first, second = ended(start(tmp_path, 'images', 0))
  for code, _, err in (first, second):
    assert code != 0 and 'was made with another configuration' in err
  assert 'Elsewhere' in second[2] and 'Elsewhere' not in first[2]
