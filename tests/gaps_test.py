"""What is measured on a GPU: the share of time at work, and the script."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import gaps
from lit_jax.errors import UserError


def trace(process, thread, *spans):
  return [
    {'ph': 'M', 'pid': 1, 'name': 'process_name', 'args': {'name': process}},
    {
      'ph': 'M', 'pid': 1, 'tid': 0, 'name': 'thread_name',
      'args': {'name': thread},
    },
    {'ph': 'M', 'pid': 1, 'tid': 0, 'name': 'thread_sort_index', 'args': {}},
    *(
      {'ph': 'X', 'pid': 1, 'tid': 0, 'name': 'k', 'ts': start, 'dur': length}
      for start, length in spans
    ),
  ]  # fmt: skip


def test_overlaps_count_once():
  # At work from 10 to 30 and from 50 to 60, the second kernel within the first.
  events = trace('/device:GPU:0', 'Stream #1', (50, 10), (10, 20), (15, 5))
  host = trace('/host:CPU', 'python', (0, 1000))
  for event in host:
    event['pid'] = 2
  found = gaps.busy(events + host)
  assert found.kernels == 3
  assert found.seconds == pytest.approx(30e-6)
  assert found.span == pytest.approx(50e-6)


def test_a_cpus_trace_has_none():
  with pytest.raises(UserError, match='no kernel of a GPU'):
    gaps.busy(trace('/host:CPU', 'Stream', (0, 10)))


SCRIPT = pathlib.Path(__file__).parent.parent / 'experiments' / 'gpu.sh'
# Stands in for Python: notes what it is called with, and fails as asked.
FAKE = """#!/usr/bin/env bash
case "$*" in
  *torch*) exit 1 ;;
  *"gaps --case"*) [ ! -e "$0.fails" ] || { echo no such luck; exit 7; } ;;
esac
echo "$*" >> "$0.calls"
echo "measured"
"""


@pytest.fixture
def measure(tmp_path):
  fake, out = tmp_path / 'fake', tmp_path / 'out'
  fake.write_text(FAKE)
  fake.chmod(0o755)

  def run(*arguments, fails=False):
    mark, calls = tmp_path / 'fake.fails', tmp_path / 'fake.calls'
    mark.write_text('') if fails else mark.unlink(missing_ok=True)
    calls.write_text('')
    done = subprocess.run(
      ['bash', SCRIPT, *(arguments or (out,))],
      env=os.environ | {'PYTHON': str(fake), 'DATA': ''},
      capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done, calls.read_text().splitlines()

  return out, run


def test_measurements_go_on_where_they_were(measure):
  out, run = measure
  done, first = run(fails=True)
  assert done.returncode == 3
  assert 'no such luck' in done.stdout
  assert 'not done yet: gaps; run the same command again' in done.stdout
  # Without PyTorch there are no peers.
  assert 'beside' not in ' '.join(first) and '--peers=eager' not in first
  page = (out / 'gpu.md').read_text()
  assert '## gaps (not finished)' in page
  assert page.count('measured') == len(first) > 8
  facts = '-m experiments.gaps --facts'

  done, second = run()
  assert done.returncode == 0
  assert second == [facts, '-m experiments.gaps --case=resnet --batch=32']
  assert '(not finished)' not in (out / 'gpu.md').read_text()
  assert run()[1] == [facts]


def test_no_measurement_begins_that_does_not_fit(measure):
  out, run = measure
  done, calls = run(out, '0')
  assert done.returncode == 3
  assert calls == ['-m experiments.gaps --facts']
  assert 'not done yet: resnet-bf16 gaps' in done.stdout


def test_the_script_says_how_it_is_called(measure):
  done, _ = measure[1]('/dev/null/x')
  assert done.returncode == 2


def test_without_a_gpu_nothing_is_measured(tmp_path):
  done = subprocess.run(
    ['bash', SCRIPT, tmp_path],
    env=os.environ | {'PYTHON': sys.executable, 'DATA': ''},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    'error: JAX sees no GPU; this measures nothing else'
  )
