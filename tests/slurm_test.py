"""The batch script, with stand-ins for Slurm's commands."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'experiments/slurm/run.sbatch'
# Notes what it is called with; as srun it also ends as it is asked to.
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$LOG"
[ "$(basename "$0")" = srun ] || exit 0
if [ -n "$CODE" ]; then exit "$CODE"; fi
trap 'sleep 0.3; echo "srun stopped" >> "$LOG"; exit 143' TERM
echo "srun waits" >> "$LOG"
while :; do sleep 0.05; done
"""


@pytest.fixture
def batch(tmp_path):
  """Starts the script; what its commands note lies in the file 'log'."""
  for name in ('srun', 'scontrol'):
    path = tmp_path / name
    path.write_text(STAND_IN)
    path.chmod(0o755)

  def start(code='', **variables):
    environment = os.environ | {
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'LOG': str(tmp_path / 'log'),
      'SLURM_JOB_ID': '7',
      'CODE': code,
      **variables,
    }
    return subprocess.Popen(
      ['bash', str(SCRIPT), '--config=a b.py'], env=environment
    )

  return start


@pytest.mark.parametrize(
  'code, again',
  [(0, False), (1, False), (2, False), (75, True), (134, True), (137, True)],
)
def test_how_the_run_ends_decides_what_follows(code, again, batch, tmp_path):
  assert batch(str(code), COMMAND='experiments.amazon').wait(60) == code
  first, *rest = (tmp_path / 'log').read_text().splitlines()
  assert first.endswith('python -m experiments.amazon --config=a b.py')
  assert rest == (['scontrol requeue 7'] if again else [])


def test_not_for_ever(batch, tmp_path):
  assert batch('75', SLURM_RESTART_COUNT='3', RESTARTS='3').wait(60) == 75
  assert 'requeue' not in (tmp_path / 'log').read_text()


def test_the_time_is_up(batch, tmp_path):
  """The run is asked to stop, waited for, and then queued again."""
  job, log = batch(), tmp_path / 'log'
  while not (log.exists() and 'waits' in log.read_text()):
    assert job.poll() is None
    time.sleep(0.02)
  job.send_signal(signal.SIGTERM)
  assert job.wait(60) == 143
  assert log.read_text().splitlines()[1:] == [
    'srun waits', 'srun stopped', 'scontrol requeue 7'
  ]  # fmt: skip
