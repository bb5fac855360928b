"""Rows: what is measured of a network, in turns, and what leaves a gap."""

import jax
import pytest

from lit_jax import report
from lit_jax.networks import latency
from lit_jax.runs import rows

SMALL = {'family': 'resnet', 'depth': 8, 'input_shape': [8, 8, 3], 'classes': 3}
LARGE = SMALL | {'depth': 14}
COLUMN = {'key': 'accuracy', 'heading': 'Accuracy', 'format': 'percent'}


def _out_of_memory(*args):
  raise jax.errors.JaxRuntimeError(
    'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nand more'
  )


def _timed(*found):
  """Rows by (method, network), whose variables are their own number."""
  return [
    rows.Timed(rows.made(method, spec), spec, lambda number=number: number)
    for number, (method, spec) in enumerate(found)
  ]


@pytest.fixture
def passes(monkeypatch):
  """Counts passes by (variables, batch), and takes no time."""
  made = []

  def forward_pass(net, variables, batch):
    del net
    return lambda: made.append((int(variables), batch))

  monkeypatch.setattr(latency, 'forward_pass', forward_pass)
  monkeypatch.setattr(latency, '_SECONDS', 0.0)
  return made


def test_networks_take_turns():
  order = []
  found = latency.interleaved(
    [lambda: order.append('a'), lambda: order.append('b')], repeats=3
  )
  assert order[:6] == ['a', 'b'] * 3 and len(found) == 2
  for own in found:
    assert own.lower <= own.median <= own.upper


def test_median_and_quartiles(monkeypatch):
  monkeypatch.setattr(latency, '_SECONDS', 0.0)
  # Two readings a pass, whose differences are 1 to 5 seconds.
  ticks = iter(
    [0.0, *(t for i in range(5) for t in (10.0 * i, 11.0 * i + 1)), 0]
  )
  monkeypatch.setattr(latency.time, 'perf_counter', lambda: next(ticks, 0.0))
  (found,) = latency.interleaved([lambda: None], repeats=5)
  assert found == pytest.approx((3000.0, 2000.0, 4000.0))


def test_one_network_is_timed_once(passes):
  found = rows.timed(
    _timed(('teacher', LARGE), ('kd', SMALL), ('lit', dict(SMALL))), 'fp32'
  )
  # Turn by turn, with the values of the first of each.
  assert passes[:4] == [(0, 1), (1, 1)] * 2
  assert {number for number, _ in passes} == {0, 1}
  assert {batch for _, batch in passes} == {1, 128}
  teacher, kd, lit = found
  assert kd['latency_ms'] == lit['latency_ms'] != teacher['latency_ms']
  for row in found:
    assert row['latency_ms'].keys() == {'1', '128'}
    for batch, median in row['latency_ms'].items():
      lower, upper = row['latency_quartiles_ms'][batch]
      assert lower <= median <= upper


def test_a_batch_that_is_too_large_leaves_a_gap(passes, monkeypatch, capsys):
  usual = latency.forward_pass

  def forward_pass(net, variables, batch):
    if (int(variables), batch) == (0, 128):
      _out_of_memory()
    return usual(net, variables, batch)

  monkeypatch.setattr(latency, 'forward_pass', forward_pass)
  teacher, lit = rows.timed(_timed(('teacher', LARGE), ('lit', SMALL)), 'fp32')
  assert teacher['latency_ms'].keys() == {'1'}
  assert lit['latency_ms'].keys() == {'1', '128'}
  (said,) = capsys.readouterr().err.splitlines()
  assert said.startswith('latency of resnet-14 at batch 128 is left out: ')
  assert 'Out of memory' in said


def test_a_fault_of_the_program_is_no_gap():
  with pytest.raises(ZeroDivisionError):
    rows.measured('all', lambda: 1 / 0)


def test_scores_stand_where_they_always_did():
  row = rows.made('lit', SMALL, epochs=2, seconds=1.5, seed=3)
  assert not rows.is_scored(row)
  found = rows.scored(row, {'accuracy': 0.5}, ir_error={})
  assert rows.is_scored(found)
  assert list(found) == [
    'method', 'model', 'depth', 'parameters', 'macs', 'accuracy', 'epochs',
    'train_seconds', 'latency_ms', 'seed', 'ir_error',
  ]  # fmt: skip


def test_a_gap_is_shown_as_one():
  scored = rows.scored(rows.made('lit', SMALL), {'accuracy': 0.5})
  results = {
    'dataset': 'noise', 'seed': 0, 'columns': [COLUMN],
    'rows': [scored, rows.made('kd', SMALL)],
  }  # fmt: skip
  report.check(results)
  lines = report.markdown(results).splitlines()
  assert '50.00' in lines[2] and '50.00' not in lines[3]
  assert '| - |' in lines[3]
