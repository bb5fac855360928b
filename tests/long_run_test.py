"""A long run: its memory stays flat, and its folder small."""

import os
import pathlib

import pytest
from drawn import noise

from lit_jax import records
from lit_jax.objectives import scratch
from lit_jax.runs import jobs, phases, runner
from lit_jax.tasks import Classify
from lit_jax.training.checkpoint import Checkpoints

SPEC = {'family': 'resnet', 'depth': 8, 'input_shape': [8, 8, 3], 'classes': 10}
EPOCHS, STEPS = 50, 200  # 10,000 steps
_PAGE = os.sysconf('SC_PAGE_SIZE')


def _resident() -> int:
  """Bytes of this process that lie in memory."""
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * _PAGE


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_steps(
  quick, tmp_path, monkeypatch
):
  seen = []
  save = Checkpoints.save

  def spy(self, state, numbers):
    save(self, state, numbers)
    seen.append(_resident())

  monkeypatch.setattr(Checkpoints, 'save', spy)
  phase = phases.Phase('scratch', scratch(), EPOCHS, 0.01)
  job = jobs.Job(
    dataset=noise(8 * STEPS, 20),
    task=Classify(10),
    teacher=SPEC,
    teacher_checkpoint='',
    teacher_method=phases.Method('teacher', (phase,)),
    students=(jobs.Student(SPEC, phases.Method('scratch', (phase,))),),
    training=phases.Training(8, 0, 'fp32', 20, 'last'),
    config={},
  )
  runner.run(job, tmp_path)
  assert len(seen) == EPOCHS
  # What is kept of a step would be kept 4,000 times; the allocator settles over
  # the first epochs.
  early, late = max(seen[20:30]), max(seen[-10:])
  assert late - early < 4_000 * 2_000, [n >> 20 for n in seen]
  folder = tmp_path / 'scratch' / 'scratch'
  steps = sorted(int(path.name) for path in folder.iterdir())
  assert steps == [STEPS * (EPOCHS - 1), STEPS * EPOCHS]
  found = records.read(tmp_path / records.METRICS).records
  assert len(found) <= EPOCHS * (STEPS // 100 + 1)
