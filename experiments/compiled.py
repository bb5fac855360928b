"""Our program as XLA compiles it for a GPU, which need not be at hand.

XLA's CUDA plugin compiles without a GPU, CUDA or a driver. Kernels, bytes,
operations, memory, CUDA graphs and launches outside of them are counted in what
comes out. The time is a model: each kernel takes as long as the longest of its
launch, its bytes and its operations (`Target`). How good cuDNN's kernels are,
what stays in a cache and what runs at the same time is not in it.
"""

import collections
import functools
import importlib.util
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.box
import rich.table
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import hlo, ours
from experiments.process import Process
from lit_jax import layers
from lit_jax.data.feed import Superbatch
from lit_jax.errors import UserError
from lit_jax.training import devices, startup

# Of CUDA's thunks, those that launch nothing.
_CONTROL = {'While', 'Conditional', 'CommandBuffer', 'Sequential'}
_THUNK = re.compile(r'( *)\d+: k(\w+)')
_THUNKS = '*jit_{}.thunk_sequence_after_thunk_passes.txt'


class Target(NamedTuple):
  """A GPU to compile for, and what the model takes it to reach.

  Attributes:
    name: that people know it by.
    file: beside this one, what XLA is told of it.
    bytes_per_s: of large kernels; nine tenths of the data sheet's.
    flops_per_s: of convolutions, by precision; three fifths of the data sheet's
      (without sparsity; fp32 is TF32).
    launch_us: microseconds of a kernel that does nothing.
    graph_us: the same within a CUDA graph.
  """

  name: str
  file: str
  bytes_per_s: float
  flops_per_s: Mapping[str, float]
  launch_us: float
  graph_us: float


TARGETS = {
  'h100': Target(
    'NVIDIA H100 SXM',
    'h100.txtpb',
    3.0e12,
    {'bf16': 600e12, 'fp16': 600e12, 'fp32': 300e12},
    2.0,
    1.0,
  ),
}


def check_plugin() -> None:
  """Raises UserError where XLA's CUDA plugin is not installed."""
  if importlib.util.find_spec('jax_cuda12_plugin') is None:
    raise UserError(
      "XLA's CUDA plugin is not installed; pip install -e '.[h100]' (it needs "
      'no GPU)'
    )


def environment(folder: pathlib.Path) -> dict[str, str]:
  """Of a process that compiles: what XLA writes goes into the folder.

  Kernels are not tuned, for that would run them.
  """
  flags = (
    '--xla_gpu_autotune_level=0',
    f'--xla_dump_to={folder}',
    '--xla_dump_hlo_as_text',
    startup.GRAPHS,
  )
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
    'XLA_FLAGS': ' '.join(flags),
  }


class Launches(NamedTuple):
  """What the host does in one turn of a loop, or once.

  Attributes:
    bare: kernels that it launches one by one.
    graphs: CUDA graphs that it launches.
    within: kernels in those graphs.
    syncs: times that it waits for a number of the device.
  """

  bare: int
  graphs: int
  within: int
  syncs: int


class Counted(NamedTuple):
  """What one compiled call of many steps is made of.

  Attributes:
    teacher: kernels of what runs once a call: the teacher, and preparation.
    student: kernels of one step, of a mean one where steps differ.
    call: launches once a call.
    step: launches of a step; where steps differ, of one that does all.
    temporary: bytes beside arguments and results.
  """

  teacher: tuple[hlo.Kernel, ...]
  student: tuple[hlo.Kernel, ...]
  call: Launches
  step: Launches
  temporary: int


class Compiler:
  """Compiles for a target; of a process that began with `environment`."""

  def count(
    self, settings: Mapping[str, Any], target: str, folder: str
  ) -> Counted:
    """Compiles a call of so many steps, and counts.

    Args:
      settings: see `ours.job`.
      target: a key of TARGETS.
      folder: that of `environment`.

    Raises:
      UserError: the plugin is of another version than JAX.
    """
    compiled: Any = _compile(settings, TARGETS[target])
    # What not every step does, one in a cycle does.
    share = 1 / settings['cycle']
    known, loops = hlo.kernels(hlo.parse(compiled.as_text()), share)
    steps = max(loops, key=lambda loop: len(loop.kernels))
    (thunks,) = pathlib.Path(folder).glob(_THUNKS.format(_program.__name__))
    call, step = launches(thunks.read_text())
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Counted(known, steps.kernels, call, step, temporary)

  def all_reduces(
    self, settings: Mapping[str, Any], target: str, folder: str
  ) -> list[int]:
    """Bytes of each all-reduce of a step, compiled for two devices.

    Arguments and errors are those of `count`; the batch is a device's.
    """
    del folder
    compiled: Any = _compile(settings, TARGETS[target], 2)
    return hlo.all_reduces(compiled.as_text())


def call(method: str, settings: Mapping[str, Any], target: str) -> Any:
  """What a method of a Compiler answers, in a process of its own.

  Raises:
    UserError: it fails.
  """
  with (
    tempfile.TemporaryDirectory() as folder,
    Process(
      'XLA',
      'experiments.compiled:Compiler',
      environment=environment(pathlib.Path(folder)),
    ) as compiler,
  ):
    return compiler.call(method, settings, target, folder)


def _program(train, state, teacher, superbatch, objectives, keys):
  """One device's share, whose leading axis the mesh leaves at 1."""
  own = jax.tree.map(lambda x: x[0], superbatch[:2])
  superbatch = superbatch._replace(inputs=own[0], labels=own[1])
  return train(state, teacher, superbatch, objectives, keys)


def _compile(settings, target, count=1):
  config = (pathlib.Path(__file__).parent / target.file).read_text()
  try:
    topology = topologies.get_topology_desc(
      platform='cuda', target_config=config, topology=f'1x{count}x1'
    )
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise UserError(
      f"XLA's CUDA plugin does not load: {' '.join(str(error).split())[:200]}; "
      "pip install -e '.[h100]' takes the one of this jax"
    ) from None
  mesh = Mesh(np.asarray(topology.devices), (devices.AXIS,))
  # The default device is a CPU, whose forms are not the GPU's.
  with layers.plain_forms():
    train, arguments = ours.train_call(settings)
  everywhere, cut = PartitionSpec(), PartitionSpec(devices.AXIS)
  specs = (
    everywhere,
    everywhere,
    Superbatch._make((cut, cut, everywhere)),
    everywhere,
    everywhere,
  )
  program = jax.shard_map(
    functools.update_wrapper(functools.partial(_program, train), _program),
    mesh=mesh,
    in_specs=specs,
    out_specs=everywhere,
    check_vma=False,
  )

  def shapes(spec, tree):
    sharding = NamedSharding(mesh, spec)

    def shape(x):
      dims = (count, *x.shape[1:]) if spec == cut else x.shape
      return jax.ShapeDtypeStruct(dims, x.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)

  shaped = jax.tree.map(
    shapes, specs, arguments, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  with layers.plain_forms():
    lowered = jax.jit(program, donate_argnums=0).lower(*shaped)
  return lowered.compile()


def launches(thunks: str) -> tuple[Launches, Launches]:
  """Launches of a call, and of a step: a turn of its last loop.

  Loops before it, of the teacher's pieces, belong to the call.

  Args:
    thunks: XLA's dump of what the host runs, indented by nesting.
  """
  lines = [
    (len(found[1]), found[2])
    for line in thunks.splitlines()
    if (found := _THUNK.match(line))
  ]
  start = end = 0
  for place, (_, kind) in enumerate(lines):
    if kind == 'While' and place >= end:  # not within another
      start, end = place, _end(lines, place)
  step = _launches(lines[start + 1 : end])
  if _enclosed(lines, start):
    step = Launches(0, 0, step.bare + step.within, 0)
  else:
    step = step._replace(syncs=step.syncs + 1)
  return _launches([*lines[:start], *lines[end:]]), step


def _end(lines, start):
  """The place after all that is nested in a line."""
  depth = lines[start][0]
  return next(
    (i for i in range(start + 1, len(lines)) if lines[i][0] <= depth),
    len(lines),
  )


def _enclosed(lines, place):
  """Whether a line is within a CUDA graph."""
  return any(
    kind == 'CommandBuffer' and i < place < _end(lines, i)
    for i, (_, kind) in enumerate(lines[:place])
  )


def _launches(lines):
  found = collections.Counter()
  graph = -1  # of the graph that a line is in, its indentation
  for depth, kind in lines:
    if depth <= graph:
      graph = -1
    if graph >= 0:
      found['within'] += kind not in _CONTROL
    elif kind == 'CommandBuffer':
      found['graphs'] += 1
      graph = depth
    elif kind in ('While', 'Conditional'):
      found['syncs'] += 1
    else:
      found['bare'] += kind not in _CONTROL
  return Launches(*(found[name] for name in Launches._fields))


def model_us(
  kernels: Iterable[hlo.Kernel],
  launched: Launches,
  target: Target,
  precision: str,
) -> float:
  """Microseconds of kernels one after another, by the model.

  A launch takes the mean of those outside of graphs and those within.
  """
  count = max(1, launched.bare + launched.within)
  launch = (
    launched.bare * target.launch_us + launched.within * target.graph_us
  ) / count
  flops_per_s = target.flops_per_s[precision]
  return sum(
    k.times
    * max(
      launch,
      1e6 * k.bytes / target.bytes_per_s,
      1e6 * k.flops / flops_per_s,
    )
    for k in kernels
  )


def numbers(
  counted: Counted,
  settings: Mapping[str, Any],
  target: Target,
  eager_operators: int | None,
) -> dict[str, Any]:
  """A row, by the names of --json.

  Args:
    counted: what `Compiler.count` found.
    settings: of the same job.
    target: that it was compiled for.
    eager_operators: that PyTorch dispatches in a step, None where not counted.
  """
  precision, calls = settings['precision'], settings['steps_per_call']
  student = model_us(counted.student, counted.step, target, precision)
  teacher = model_us(counted.teacher, counted.call, target, precision)
  floors = ours.floors(settings)
  floor = max(
    floors['flops'] / target.flops_per_s[precision],
    floors['bytes'] / target.bytes_per_s,
  )
  return {
    'case': settings['case'],
    'phase': settings['phase'],
    'batch': settings['batch'],
    'precision': precision,
    'steps_per_call': calls,
    'members': settings['members'],
    'student_kernels': _count(counted.student),
    'teacher_kernels': _count(counted.teacher),
    'student_kinds': _kinds(counted.student),
    'teacher_kinds': _kinds(counted.teacher),
    'student_bytes': _sum(counted.student, 'bytes'),
    'teacher_bytes': _sum(counted.teacher, 'bytes'),
    'student_flops': _sum(counted.student, 'flops'),
    'teacher_flops': _sum(counted.teacher, 'flops'),
    'host_syncs_per_step': counted.step.syncs,
    'graphs': counted.step.graphs,
    'bare_launches': counted.step.bare,
    'temp_bytes': counted.temporary,
    'model_us': round(student + teacher / calls, 1),
    'model_student_us': round(student, 1),
    'floor_us': round(1e6 * floor, 1),
    'eager_operators': eager_operators,
  }


def _count(kernels):
  return round(sum(kernel.times for kernel in kernels))


def _sum(kernels, name):
  return round(sum(kernel.times * getattr(kernel, name) for kernel in kernels))


def _kinds(kernels):
  found = collections.Counter()
  for kernel in kernels:
    found[kernel.kind] += kernel.times
  return {kind: round(count, 1) for kind, count in found.most_common()}


def assumptions(target: Target, precision: str) -> str:
  """What the modelled times rest on, in a line."""
  return (
    f'modelled, not measured: {target.name}, '
    f'{target.bytes_per_s / 1e12:g} TB/s, '
    f'{target.flops_per_s[precision] / 1e12:g} TFLOP/s in {precision}, a '
    f'launch {target.launch_us:g} µs, in a CUDA graph {target.graph_us:g} µs'
  )


def table(rows: Iterable[Mapping[str, Any]], target: Target) -> Any:
  """All rows, for a terminal."""
  drawn = rich.table.Table(
    title=f'compiled for {target.name}', box=rich.box.SIMPLE
  )
  drawn.add_column('')
  for heading in (
    'kernels a step', 'a teacher call', 'MB a step', 'GB a teacher call',
    'syncs', 'graphs', 'bare', 'temp MB', 'model µs', 'floor µs', 'eager ops',
  ):  # fmt: skip
    drawn.add_column(heading, justify='right')
  for row in rows:
    eager = row['eager_operators']
    drawn.add_row(
      f'{row["case"]} {row["phase"]}, {row["batch"]}, {row["precision"]}',
      str(row['student_kernels']),
      str(row['teacher_kernels']),
      f'{row["student_bytes"] / 1e6:.0f}',
      f'{row["teacher_bytes"] / 1e9:.1f}',
      str(row['host_syncs_per_step']),
      str(row['graphs']),
      str(row['bare_launches']),
      f'{row["temp_bytes"] / 1e6:.0f}',
      f'{row["model_us"]:.0f}',
      f'{row["floor_us"]:.0f}',
      '' if eager is None else str(eager),
    )
  return drawn
