"""What is counted in a program that XLA compiled for a GPU."""

import importlib.util
import pathlib
import textwrap

import jax
import pytest

from experiments import compiled, hlo, ours
from experiments.process import Process

TARGET = compiled.TARGETS['h100']


pytestmark = pytest.mark.usefixtures('parsed_flags')


def test_kernels_of_a_module_by_hand():
  # It has a loop of known length, one that is not, and a condition.
  path = pathlib.Path(__file__).parent / 'fixtures' / 'gpu_program.hlo.txt'
  known, loops = hlo.kernels(hlo.parse(path.read_text()))
  copy = ('copy', 2 * 8 * 4 * 4, 0.0)
  assert known == (
    # 32 floats in, one more, 32 out.
    hlo.Kernel('elementwise', 4 * (32 + 1 + 32), 0.0, 1),
    # A row is read, and written twice; the table stays where it is. The index
    # is read.
    hlo.Kernel('elementwise', 3 * 16 + 4, 0.0, 1),
    hlo.Kernel(*copy, 3),
    hlo.Kernel(*copy, 1),
    hlo.Kernel(*copy, 1),
  )
  (loop,) = loops
  assert loop.name == 'open_body'
  x, y, w = 2 * 8 * 8 * 3, 2 * 8 * 8 * 5, 5 * 3 * 3 * 3
  flops = 2.0 * 2 * 8 * 8 * w
  assert loop.kernels == (
    hlo.Kernel('convolution', 2 * (x + w + y), flops, 1),
    hlo.Kernel('kernel gradient', 2 * (x + y + w), flops, 1),
    # Of a loop in a loop, that makes one turn or none.
    hlo.Kernel(*copy, 1),
  )
  # Both branches of the condition, and that loop, at a mean.
  known, (loop,) = hlo.kernels(hlo.parse(path.read_text()), 0.25)
  assert [k.times for k in known] == [1, 1, 3, 0.75, 0.25, 0.25]
  assert [k.times for k in loop.kernels] == [1, 1, 0.25]


def test_a_program_without_an_entry_is_no_program():
  with pytest.raises(ValueError, match='entry'):
    hlo.parse('HloModule nothing')


THUNKS = textwrap.dedent("""\
  000: kCommandBuffer [source | next=003]
      001: kCustomKernel [source | next=002] a grid: [1, 1, 1]
      002: kConvolution [prev=001 | sink] kConvolution
  003: kCopy [prev=000] kCopy
  004: kWhile [prev=003]
  condition:
    005: kCustomKernel [source | sink] compare
    body:
      006: kConvolution [source] kConvolution
      007: kCommandBuffer [prev=006]
          008: kCustomKernel [source] b
          009: kCustomKernel [source] c
      010: kCustomKernel [prev=007] d
""")


def test_launches_by_hand():
  call, step = compiled.launches(THUNKS)
  assert call == compiled.Launches(bare=1, graphs=1, within=2, syncs=0)
  # The condition's kernel is launched as well, and its answer waited for.
  assert step == compiled.Launches(bare=3, graphs=1, within=2, syncs=1)


def test_a_step_is_the_last_loop_whatever_its_size():
  step = textwrap.dedent("""\
    011: kCommandBuffer [prev=004]
        012: kWhile [source]
        condition:
          013: kCustomKernel [source | sink] compare
          body:
            014: kCustomKernel [source] e
            015: kWhile [source]
            condition:
              016: kCustomKernel [source | sink] compare
              body:
                017: kCustomKernel [source] f
  """)
  call, found = compiled.launches(THUNKS + step)
  assert found == compiled.Launches(bare=0, graphs=0, within=4, syncs=0)
  # The other loop's turn is the call's, once.
  assert call == compiled.Launches(bare=4, graphs=3, within=4, syncs=1)


def test_a_loop_within_a_graph_is_no_launch():
  inner = textwrap.indent(THUNKS, '    ')
  call, step = compiled.launches(f'000: kCommandBuffer [source]\n{inner}')
  assert step == compiled.Launches(bare=0, graphs=0, within=5, syncs=0)
  assert call == compiled.Launches(bare=0, graphs=1, within=3, syncs=0)


def test_the_model_by_hand():
  kernels = (
    hlo.Kernel('elementwise', 8, 0.0, 3),  # a launch each
    hlo.Kernel('elementwise', 30_000_000, 0.0, 1),  # 10 µs of bytes
    hlo.Kernel('convolution', 8, 12e9, 2),  # 20 µs of operations each
  )
  launched = compiled.Launches(bare=1, graphs=1, within=3, syncs=1)
  found = compiled.model_us(kernels, launched, TARGET, 'bf16')
  assert found == pytest.approx(3 * (2 + 3 * 1) / 4 + 10 + 2 * 20)
  found = compiled.model_us(kernels, launched, TARGET, 'fp32')
  assert found == pytest.approx(3 * (2 + 3 * 1) / 4 + 10 + 2 * 40)


# Counted by jax 0.10.2 in the cases' usual networks, 64 steps a call. Another
# jax compiles another program: take its numbers over when the project moves to
# it. Numbers that fall with a change of our own are taken over with it, and
# numbers that rise need a reason in docs/performance.md.
PINNED_JAX = '0.10.2'
PINNED = {
  ('resnet', 32, 'bf16'): {
    'student_kernels': 221,
    'teacher_kernels': 130,
    'host_syncs_per_step': 0,
    'graphs': 0,
    'bare_launches': 0,
  },
}


@pytest.mark.skipif(
  importlib.util.find_spec('jax_cuda12_plugin') is None,
  reason="needs XLA's CUDA plugin: pip install -e '.[h100]'",
)
@pytest.mark.skipif(
  jax.__version__ != PINNED_JAX, reason=f'is pinned for jax {PINNED_JAX}'
)
@pytest.mark.parametrize('key', PINNED)
def test_counts_are_the_pinned_ones(key, tmp_path):
  case, batch, precision = key
  job = ours.job(case, batch, precision, 64)
  with Process(
    'XLA',
    'experiments.compiled:Compiler',
    environment=compiled.environment(tmp_path),
  ) as compiler:
    counted = compiler.call('count', job, 'h100', str(tmp_path))
  row = compiled.numbers(counted, job, TARGET, None)
  assert {name: row[name] for name in PINNED[key]} == PINNED[key]
  # Never less than what the step must do.
  assert row['model_us'] > row['floor_us']
