"""How training scales: what is modelled by hand, and processes that train."""

import pytest

from experiments import hlo, ours, scaling
from lit_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('parsed_flags')


def test_all_reduces_of_a_program():
  text = """
  %a = f32[33]{0} all-reduce-start(%x), channel_id=1
  %b = f32[33]{0} all-reduce-done(%a)
  %c = (bf16[4,8]{1,0}, f32[2]{0}) all-reduce(%y, %z), channel_id=2
  %d = f32[9]{0} add(%b, %b)
"""
  assert hlo.all_reduces(text) == [4 * 33, 2 * 32 + 4 * 2]


def test_the_model_by_hand():
  links = scaling.Links(
    node=4, node_bytes_per_s=1e9, bytes_per_s=5e8, node_us=10, doubling_us=20
  )

  def time(count):
    return scaling.all_reduce_us(1000, count, links)

  assert time(1) == 0
  # 10 µs, and 3/2 kB at a kB a µs.
  assert time(4) == pytest.approx(10 + 1.5)
  # Four nodes are two doublings, and half as fast.
  assert time(16) == pytest.approx(10 + 2 * 20 + 2 * 2 * 15 / 16)


def test_rows_of_the_model():
  one, eight = scaling.modelled(1000.0, [0, 0, 360_000], [1, 8], 32)
  assert one == {
    'gpus': 1, 'global_batch': 32, 'step_us': 1000.0, 'all_reduce_us': 0.0,
    'examples_per_s': 32_000, 'efficiency': 1.0,
  }  # fmt: skip
  # Three of 15 µs, and 7/4 of 360 kB at 360 kB a µs.
  assert eight['all_reduce_us'] == pytest.approx(45 + 1.75, abs=0.1)
  assert eight['efficiency'] == pytest.approx(1000 / 1046.75, abs=1e-4)
  assert eight['examples_per_s'] == pytest.approx(8 * 32e6 / 1046.75, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train():
  job = ours.job('resnet', 8, 'fp32', 2, (8, 8))
  rows = scaling.measured(job, [1, 2], 1)
  assert [(r['scaling'], r['processes'], r['batch']) for r in rows] == [
    ('weak', 1, 8), ('weak', 2, 16), ('strong', 1, 8), ('strong', 2, 8)
  ]  # fmt: skip
  for row in rows:
    assert row['low'] == row['steps_per_s'] == row['high'] > 0
  for one, two, grown in ((*rows[:2], 2), (*rows[2:], 1)):
    ratio = grown * two['steps_per_s'] / one['steps_per_s']
    assert two['speedup'] == pytest.approx(ratio)


def test_a_batch_that_cannot_be_cut():
  job = ours.job('resnet', 8, 'fp32', 2, (8, 8))
  with pytest.raises(UserError, match='8 examples cannot be cut for 3'):
    scaling.measured(job, [1, 3], 1)
