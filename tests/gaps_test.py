"""How much of a trace a GPU was at work."""

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
