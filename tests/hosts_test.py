"""Two processes of two devices each: the same numbers, stops, errors."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import processes
import pytest

from lit_jax.networks import saved
from lit_jax.training.interrupt import Observer

ROOT = pathlib.Path(__file__).parents[1]
TASKS = tuple(processes.SETTINGS)


def start(script, *arguments):
  """Two processes of a script, which is told their address, count and index."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
    'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]),
    'XLA_FLAGS': '',
  }
  folder, tasks, *rest = arguments
  return [
    subprocess.Popen(
      [sys.executable, str(script), str(folder), tasks, address, '2', str(i)]
      + [str(value) for value in rest],
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
  assert a.keys() == b.keys() and len(a) > 10
  for key, value in a.items():
    assert b[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The runs that this process makes with its two devices."""
  assert jax.device_count() == 2
  folder = tmp_path_factory.mktemp('alone')
  processes.write_texts(folder / 'texts')
  for task in TASKS:
    processes.run(task, folder, Observer())
  return folder


@pytest.fixture(scope='module')
def together(tmp_path_factory):
  """The same runs by two processes."""
  folder = tmp_path_factory.mktemp('together')
  processes.write_texts(folder / 'texts')
  children = start(processes.__file__, folder, ','.join(TASKS), 0)
  for code, _, err in ended(children):
    assert code == 0, err
  return folder


@pytest.mark.parametrize('task', TASKS)
def test_the_same_numbers(task, alone, together):
  assert_alike(alone / task, together / task)
  student = pathlib.Path(task, 'lit', 'student')
  one, other = (saved.load(folder / student)[1] for folder in (alone, together))
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
