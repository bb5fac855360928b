"""Times a training step, or a forward pass, beside PyTorch in the same run.

  python -m experiments.benchmark --cases=resnet --batches=32 --json=FILE
  python -m experiments.benchmark --inference
  python -m experiments.benchmark --compile_for=h100
  python -m experiments.benchmark --scaling=1,2 --cases=resnet
  python -m experiments.benchmark --compile_for=h100 --scaling=1,8,64,1024

The contestants are `ours`, which is what training runs, and the peers: `eager`
is PyTorch as most people write it, `best` the fastest of its other ways
(experiments/torch_peer.py, VARIANTS). All start from the same weights, and
before anything is timed each peer's first steps must give our losses. With
--members=8, `population` trains eight students in one program on the same
images; its steps are those of all members together. Every contestant lives in a
process of its own, idle while another has its turn.

A step is one of LIT; `stargan` has a second kind beside it, the adversarial
fine-tuning, whose turns are whole cycles: of every n_critic steps one also
updates the generator. The peers are given the labels and the mixing weights
that ours draws.

A share tells how much of the time a step's operations alone, or its reads and
writes alone, would have taken at the device's own measured speed
(experiments/ours.py, `step_macs` and `step_elements`). Peak memory is that of
the process, or on a GPU that of its arrays. Compiling lasts from a
contestant's start to the end of its first call, the comparison included.

--scaling times ours in so many processes, or with --compile_for models so many
GPUs (experiments/scaling.py); --batches are then those of a device.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import jax
import rich.box
import rich.table
from absl import app, flags
from rich.console import Console

from experiments import compiled, ours, scaling
from experiments.process import Process
from lit_jax import models
from lit_jax.errors import UserError, choose, names

_CASES = flags.DEFINE_string(
  'cases', ','.join(ours.CASES), 'Pairs of networks, separated by commas.'
)
_BATCHES = flags.DEFINE_string(
  'batches',
  '',
  'Batch sizes; by default the usual ones of each case (ours.CASES), and with '
  '--inference 1 and the largest of them.',
)
_PEERS = flags.DEFINE_string(
  'peers', 'eager,best', "Contestants beside ours; '' for none."
)
_VARIANTS = flags.DEFINE_string(
  'variants', '', "What 'best' is chosen from; all by default."
)
_INFERENCE = flags.DEFINE_bool(
  'inference', False, 'Times forward passes of teacher and student instead.'
)
_PRECISION = flags.DEFINE_string(
  'precision',
  '',
  'fp32 or bf16, of ours alone (--peers=) also fp16; by default bf16 on a GPU, '
  'else fp32.',
)
_TURNS = flags.DEFINE_integer('turns', 5, 'Turns of every contestant.')
_SECONDS = flags.DEFINE_float('seconds', 3.0, 'Length of a training turn.')
_MEMBERS = flags.DEFINE_integer(
  'members', 1, 'Also times so many students, trained as one population.'
)
_STEPS_PER_CALL = flags.DEFINE_integer(
  'steps_per_call', 0, 'Of our program; by default 64 on a GPU, else 8.'
)
_TEACHER_DEPTH = flags.DEFINE_integer(
  'teacher_depth', 0, "The teacher's, if not the configuration's."
)
_STUDENT_DEPTH = flags.DEFINE_integer(
  'student_depth', 0, "The student's, if not the configuration's."
)
_JSON = flags.DEFINE_string('json', '', 'File to write the numbers to.')
_COMPILE_FOR = flags.DEFINE_string(
  'compile_for',
  '',
  f'Counts what XLA compiles for a GPU ({", ".join(compiled.TARGETS)}), which '
  'need not be at hand, and times nothing; in all precisions by default.',
)

_SCALING = flags.DEFINE_string(
  'scaling', '', 'Numbers of processes to time, or of GPUs to model.'
)
_SYNC = flags.DEFINE_bool(
  'sync_batch_norm', True, 'As --config.sync_batch_norm; for --scaling.'
)

PEERS = ('eager', 'best')
_OURS = ('ours', 'population')
PRECISIONS = ('fp32', 'bf16')
_COMPILED_PRECISIONS = ('bf16', 'fp16', 'fp32')
# Of our program in a call.
_GPU_STEPS, _CPU_STEPS = 64, 8
# Relative, of losses. The first adversarial step agrees to 5e-7; later ones
# drift apart by rounding, of which Adam makes whole steps where a gradient is
# little else. That this is all is inferred; small networks are held to
# PyTorch's float64 in tests/stargan_test.py.
TOLERANCE, ADVERSARIAL_TOLERANCE = 1e-3, 1e-2
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
_BAD_INPUT = 2
# Other work on the machine costs PyTorch, whose threads spin while they wait,
# far more than its share.
_UNSTEADY = 1.5
# Of the table where there is no terminal, columns.
_WIDTH = 120

Record = dict[str, Any]


class Contestant(Protocol):
  """Runs for some seconds, and tells numbers by name."""

  def run(self, seconds: float) -> dict[str, float]: ...


def alternate(
  contestants: Mapping[str, Contestant], turns: int, seconds: float
) -> dict[str, list[dict[str, float]]]:
  """What each contestant's turns told, one contestant after another."""
  told: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
  for _ in range(turns):
    for name, contestant in contestants.items():
      told[name].append(contestant.run(seconds))
  return told


def unsteady(turns: Sequence[Mapping[str, float]]) -> float:
  """How many times the largest of a number's turns is its smallest."""
  return max(
    max(turn[name] for turn in turns) / min(turn[name] for turn in turns)
    for name in turns[0]
  )


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The median over the turns of each number."""
  return {
    name: statistics.median(turn[name] for turn in turns) for name in turns[0]
  }


def training_numbers(
  told: Mapping[str, Sequence[Mapping[str, float]]],
  floors: Mapping[str, float],
) -> Record:
  """Medians, ratios and shares of the floors, from the turns of a LIT step."""
  speed = {name: medians(turns)['steps_per_s'] for name, turns in told.items()}
  needed = {
    'flops': floors['flops'] / floors['peak_flops_per_s'],
    'bytes': floors['bytes'] / floors['peak_bytes_per_s'],
  }
  return {
    'ours_steps_per_s': _short(speed['ours']),
    'peers': {
      name: {
        'steps_per_s': _short(value),
        'ratio': _short(speed['ours'] / value),
      }
      for name, value in speed.items()
      if name not in _OURS
    },
    'population': {
      'steps_per_s': _short(speed['population']),
      'ratio': _short(speed['population'] / speed['ours']),
    }
    if 'population' in speed
    else None,
    'turns': {
      name: [_short(turn['steps_per_s']) for turn in turns]
      for name, turns in told.items()
    },
    'floors': {
      **{name: _short(value) for name, value in floors.items()},
      'seconds': {name: _short(value) for name, value in needed.items()},
      'shares': {
        name: {kind: _short(needed[kind] * value) for kind in needed}
        for name, value in speed.items()
        # Whose steps share the teacher's work.
        if name != 'population'
      },
    },
  }


def inference_numbers(
  told: Mapping[str, Sequence[Mapping[str, float]]],
) -> Record:
  """Median milliseconds, speed-ups and ratios, from the turns."""
  found = {name: medians(turns) for name, turns in told.items()}

  def numbers(name):
    times = found[name]
    result = {key: _short(value) for key, value in times.items()}
    result['speed_up'] = _short(times['teacher_ms'] / times['student_ms'])
    return result

  def ratios(name):
    return {
      f'{role}_ratio': _short(
        found[name][f'{role}_ms'] / found['ours'][f'{role}_ms']
      )
      for role in ('teacher', 'student')
    }

  return {
    'ours': numbers('ours'),
    'peers': {
      name: numbers(name) | ratios(name) for name in found if name != 'ours'
    },
    'turns': {
      name: [{k: _short(v) for k, v in turn.items()} for turn in turns]
      for name, turns in told.items()
    },
  }


def difference(
  a: Iterable[Sequence[float]], b: Iterable[Sequence[float]]
) -> float:
  """The largest relative difference of two lists of steps' losses."""
  pairs = [
    (x, y)
    for row, other in zip(a, b, strict=True)
    for x, y in zip(row, other, strict=True)
  ]
  # Not a number is no small difference.
  return max(
    d if (d := abs(x - y) / max(abs(x), abs(y), 1e-30)) >= 0 else float('inf')
    for x, y in pairs
  )


def _short(number: float) -> float:
  return float(f'{number:.5g}')


def check_same(name: str, found: float, allowed: float = TOLERANCE) -> None:
  """Raises UserError unless a peer's losses are ours."""
  print(f'{name}: losses differ from ours by {found:.1e}, relatively')
  if found > allowed:
    raise UserError(
      f"{name}'s losses differ from ours by {found:.1e}; more than "
      f'{allowed:.0e} is another computation, not another speed'
    )


def write_json(path: pathlib.Path, records: Sequence[Record]) -> None:
  """The whole file, or the old one."""
  part = path.with_name(path.name + '.part')
  try:
    part.write_text(json.dumps(records, indent=2) + '\n')
    part.replace(path)
  except OSError as error:
    raise UserError(
      f'cannot write {path}: {error.strerror}; choose another --json'
    ) from None


def training_table(record: Record) -> rich.table.Table:
  """One case's contestants, a row each."""
  table = _table(record)
  for heading in (
    'steps/s', 'min-max', 'ours', 'FLOPs', 'bytes', 'compile s', 'MB',
  ):  # fmt: skip
    table.add_column(heading, justify='right')
  floors = record['floors']
  for name, turns in record['turns'].items():
    peer = record['peers'].get(name)
    share = floors['shares'].get(name)
    shares = [
      f'{100 * share[kind]:.1f} %' if share else ''
      for kind in ('flops', 'bytes')
    ]
    table.add_row(
      _title(name, peer),
      f'{statistics.median(turns):.4g}',
      f'{min(turns):.4g}-{max(turns):.4g}',
      f'{peer["ratio"]:.2f}x' if peer else '',
      *shares,
      f'{record["compile_s"][name]:.1f}',
      f'{record["peak_memory_mb"][name]:.0f}',
    )
  seconds = floors['seconds']
  table.add_section()
  for kind, text in (('flops', 'FLOPs alone'), ('bytes', 'bytes alone')):
    table.add_row(text, f'{1 / seconds[kind]:.4g}', *[''] * 6)
  return table


def inference_table(record: Record) -> rich.table.Table:
  """One case's contestants, a row each."""
  table = _table(record)
  for heading in (
    'teacher ms', 'student ms', 'speed-up', 'ours, teacher',
    'ours, student', 'compile s', 'MB',
  ):  # fmt: skip
    table.add_column(heading, justify='right')
  for name in record['turns']:
    peer = record['peers'].get(name)
    numbers = peer or record['ours']
    table.add_row(
      _title(name, peer),
      f'{numbers["teacher_ms"]:.4g}',
      f'{numbers["student_ms"]:.4g}',
      f'{numbers["speed_up"]:.2f}x',
      f'{peer["teacher_ratio"]:.2f}x' if peer else '',
      f'{peer["student_ratio"]:.2f}x' if peer else '',
      f'{record["compile_s"][name]:.1f}',
      f'{record["peak_memory_mb"][name]:.0f}',
    )
  return table


def _table(record):
  kind = f', {record["phase"]}' if record['what'] == 'training' else ''
  title = (
    f'{record["teacher"]} → {record["student"]}{kind}, batch '
    f'{record["batch"]}, {record["precision"]}, {record["device"]}'
  )
  table = rich.table.Table(title=title, box=rich.box.SIMPLE)
  table.add_column('')
  return table


def _title(name, peer):
  variant = (peer or {}).get('variant')
  return f'{name} ({variant})' if variant else name


class _Started(NamedTuple):
  """A contestant after its warm-up, and what is known of it by then."""

  process: Process
  compile_s: float
  facts: Record


def _start(name, factory, *args) -> _Started:
  process = Process(name, factory, *args)
  try:
    return _Started(process, process.call('warm_up'), {})
  except BaseException:
    process.close()
    raise


def _start_peer(name, variant, job, proof) -> _Started:
  """A peer that has shown that its losses are ours."""
  if _INFERENCE.value:
    factory = 'experiments.torch_peer:Inference'
    return _start(name, factory, job, variant, proof['arrays'])
  process = Process(
    name,
    'experiments.torch_peer:training',
    job,
    variant,
    proof['arrays'],
    *proof['data'],
  )
  try:
    found = difference(process.call('check', *proof['given']), proof['losses'])
    allowed = ADVERSARIAL_TOLERANCE if job['adversarial'] else TOLERANCE
    check_same(variant or name, found, allowed)
    seconds = process.call('warm_up')
  except BaseException:
    process.close()
    raise
  return _Started(process, seconds, {'difference': _short(found)})


def _start_best(job, proof, variants) -> _Started:
  """The fastest of the variants, by the better of two turns; it stays alone."""
  best, speeds, fastest = None, {}, 0.0
  for variant in variants:
    try:
      one = _start_peer('best', variant, job, proof)
    except UserError as error:
      if len(variants) == 1 or 'another computation' in str(error):
        raise
      print(f'best: {variant} does not run here: {error}')
      speeds[variant] = None
      continue
    speed = max(_speed(one.process.run(_SECONDS.value)) for _ in range(2))
    speeds[variant] = _short(speed)
    print(f'best: {variant} makes {speed:.4g} a second')
    loser = one
    if speed > fastest:
      fact = {'variant': variant, 'variants': speeds}
      loser, best = best, one._replace(facts=one.facts | fact)
      fastest = speed
    if loser is not None:
      loser.process.close()
  if best is None:
    raise UserError('no variant of best runs here; see --verbosity=1, --peers=')
  return best


def _speed(told) -> float:
  """Steps, or the teacher's forward passes, a second."""
  return told.get('steps_per_s') or 1e3 / told['teacher_ms']


def _proof(job, peers) -> Record:
  """What the peers start from and are compared with, and the floors."""
  split = ours.data(job)
  batches = ours.check_batches(job)
  proof: Record = {'data': tuple(split)}
  with Process('ours', 'experiments.ours:Reference') as reference:
    if not _INFERENCE.value:
      proof['floors'] = reference.call('floors', job)
      if peers:
        proof['losses'] = reference.call('losses', job, *batches)
        proof['given'] = reference.call('given', job, *batches)
    if peers:
      proof['arrays'] = reference.call('arrays', job)
  return proof


def _contest(job, peers, variants) -> Record:
  """One case at one batch size: compares, warms up, takes turns."""
  proof = _proof(job, peers)
  with contextlib.ExitStack() as stack:
    if _INFERENCE.value:
      cache = stack.enter_context(tempfile.TemporaryDirectory())
      mine = 'experiments.ours:Inference', job, cache
    else:
      mine = 'experiments.ours:Training', job
    started: dict[str, _Started] = {}
    for name in peers:
      if name == 'best':
        started[name] = _start_best(job, proof, variants)
      else:
        started[name] = _start_peer(name, None, job, proof)
      stack.callback(started[name].process.close)
    if _MEMBERS.value > 1:
      many = job | {'members': _MEMBERS.value}
      started['population'] = _start('population', mine[0], many)
      stack.callback(started['population'].process.close)
    started = {'ours': _start('ours', *mine)} | started
    stack.callback(started['ours'].process.close)
    processes = {name: one.process for name, one in started.items()}
    told = alternate(processes, _TURNS.value, _SECONDS.value)
    for name, process in processes.items():
      if unsteady(told[name]) > _UNSTEADY:
        print(
          f'{name}: turns differ by {unsteady(told[name]):.1f}x; measure on a '
          'machine that does nothing else'
        )
      if not process.call('finite'):
        raise UserError(f"{name}'s loss is not finite; its speed means nothing")
    memory = {
      name: round(process.call('peak_memory_mb'), 1)
      for name, process in processes.items()
    }
  if _INFERENCE.value:
    numbers = inference_numbers(told)
  else:
    numbers = training_numbers(told, proof['floors'])
  for name in peers:
    numbers['peers'][name] |= started[name].facts
  return numbers | {
    'compile_s': {n: round(one.compile_s, 3) for n, one in started.items()},
    'peak_memory_mb': memory,
  }


def _names(text, choices, what) -> tuple[str, ...]:
  """The names of a comma list; UserError unless each is a choice, once."""
  return tuple(choose(what, n, choices) for n in names(text, f'--{what}s'))


def _sizes(text, case) -> tuple[int, ...]:
  usual = ours.CASES[case].batches
  if not text:
    return (1, max(usual)) if _INFERENCE.value else usual
  return _positive(text, 'batches')


def _positive(text, flag) -> tuple[int, ...]:
  try:
    numbers = tuple(int(number) for number in text.split(','))
  except ValueError:
    numbers = (0,)
  if min(numbers) < 1:
    raise UserError(
      f'--{flag}={text}; write positive numbers, separated by commas'
    )
  return numbers


def _check_flags() -> None:
  if _INFERENCE.value and _COMPILE_FOR.value:
    raise UserError('--compile_for counts training; leave out --inference')
  if _SCALING.value and (_INFERENCE.value or _MEMBERS.value != 1):
    raise UserError(
      '--scaling is of training one student; leave out --inference, --members'
    )
  if _INFERENCE.value and _MEMBERS.value != 1:
    raise UserError('--members is of training; leave it out with --inference')
  for flag in (
    _TURNS, _MEMBERS, _STEPS_PER_CALL, _TEACHER_DEPTH, _STUDENT_DEPTH,
  ):  # fmt: skip
    least = 1 if flag.name in ('turns', 'members') else 0
    if flag.value < least:
      raise UserError(f'--{flag.name}={flag.value}; at least {least}')
  if not 0 <= _SECONDS.value < float('inf'):
    raise UserError(f'--seconds={_SECONDS.value}; at least 0')
  if _PRECISION.value:
    known = _COMPILED_PRECISIONS
    if _PEERS.value and not _COMPILE_FOR.value:
      known = PRECISIONS  # that the peers compute in as well
    choose('precision', _PRECISION.value, known)
  folder = pathlib.Path(_JSON.value).expanduser().absolute().parent
  if _JSON.value and not os.access(folder, os.W_OK):
    raise UserError(f'cannot write into {folder}; choose another --json')


def _our_device() -> Record:
  with Process('ours', 'experiments.ours:Reference') as reference:
    facts = reference.call('facts')
  if facts['count'] > 1:
    one = 'CUDA_VISIBLE_DEVICES=0'
    if facts['backend'] == 'cpu':
      one = 'JAX_NUM_CPU_DEVICES=1'
    raise UserError(
      f'{facts["count"]} devices are in sight, and the peers use one; choose '
      f'it with {one}'
    )
  return facts


def _torch_facts(on_gpu: bool) -> Record:
  """PyTorch's versions and variants; UserError where it cannot run here."""
  with Process('torch', 'experiments.torch_peer:Facts') as facts:
    if on_gpu and not facts.call('has_cuda'):
      raise UserError(
        'JAX runs on the GPU, but this PyTorch has no CUDA; install one that '
        "has, or give --peers= ('' for none)"
      )
    device = 'cuda' if on_gpu else 'cpu'
    return {
      'torch_device': device,
      'versions': facts.call('versions'),
      'variants': facts.call('variants', device),
    }


def _has_torch() -> bool:
  return importlib.util.find_spec('torch') is not None


def _check_torch() -> None:
  if not _has_torch():
    raise UserError(
      "PyTorch is not installed; pip install -e '.[torch]', or give --peers= "
      'to time ours alone'
    )


def _target() -> compiled.Target:
  """What --compile_for names, for which all processes can compile then."""
  name = choose('target', _COMPILE_FOR.value, compiled.TARGETS)
  compiled.check_plugin()
  # Here and in the processes; the plugin would look for CUDA, and complain.
  jax.config.update('jax_platforms', 'cpu')
  os.environ['JAX_PLATFORMS'] = 'cpu'
  return compiled.TARGETS[name]


def _count(batches: Mapping[str, Sequence[int]]) -> None:
  """What is compiled for a GPU, by case, batch size and precision."""
  target = _target()
  precisions = _COMPILED_PRECISIONS
  if _PRECISION.value:
    precisions = (_PRECISION.value,)
  depths = _TEACHER_DEPTH.value, _STUDENT_DEPTH.value
  calls = _STEPS_PER_CALL.value or _GPU_STEPS
  jobs = [
    ours.job(case, batch, precision, calls, depths, _MEMBERS.value, phase)
    for case, sizes in batches.items()
    for phase in ours.CASES[case].phases
    for batch in sizes
    for precision in precisions
  ]
  if not _has_torch():
    print('PyTorch is not installed, so that its operators are not counted')
  rows: list[Record] = []
  operators: dict[Any, int | None] = {}
  try:
    for job in jobs:
      # They are as many in a batch of any size.
      kind = job['case'], job['phase'], job['precision']
      if kind not in operators:
        operators[kind] = _eager_operators(job) if _has_torch() else None
      eager = operators[kind]
      row = compiled.numbers(
        compiled.call('count', job, _COMPILE_FOR.value), job, target, eager
      )
      print(
        f'{row["case"]} {row["phase"]}, {row["batch"]}, {row["precision"]}: '
        f'{row["student_kernels"]} kernels a step',
        flush=True,
      )
      rows.append(row)
      if _JSON.value:
        write_json(pathlib.Path(_JSON.value).expanduser(), rows)
  finally:
    _console().print(compiled.table(rows, target))
  for precision in precisions:
    print(compiled.assumptions(target, precision))


def _scale(batches: Mapping[str, Sequence[int]]) -> None:
  """Over processes of this machine, or GPUs that need not be at hand."""
  counts = _positive(_SCALING.value, 'scaling')
  target = _target() if _COMPILE_FOR.value else None
  precision = _PRECISION.value or ('bf16' if target else 'fp32')
  calls = _STEPS_PER_CALL.value or (_GPU_STEPS if target else _CPU_STEPS)
  depths = _TEACHER_DEPTH.value, _STUDENT_DEPTH.value
  records: list[Record] = []
  for case, sizes in batches.items():
    for batch in sizes:
      job = ours.job(
        case, batch, precision, calls, depths, sync_batch_norm=_SYNC.value
      )
      pair = ' → '.join(models.title(job[r]) for r in ('teacher', 'student'))
      record: Record = {
        'case': case,
        'pair': pair,
        'batch': batch,
        'precision': precision,
        'sync_batch_norm': _SYNC.value,
        'versions': _versions(),
        'command': ['-m', 'experiments.benchmark', *sys.argv[1:]],
      }
      if target is None:
        rows = scaling.measured(job, counts, _TURNS.value)
        record |= {'measured': rows, 'cores': os.cpu_count()}
        title = f'measured: {pair}, {precision}, {os.cpu_count()} CPU cores'
      else:
        counted = compiled.call('count', job, _COMPILE_FOR.value)
        step_us = compiled.numbers(counted, job, target, None)['model_us']
        reduced = compiled.call('all_reduces', job, _COMPILE_FOR.value)
        rows = scaling.modelled(step_us, reduced, counts, batch)
        record |= {'modelled': rows, 'all_reduces': reduced}
        title = (
          f'modelled: {pair}, {batch} examples a GPU, {precision}; '
          f'{len(reduced)} all-reduces, {sum(reduced) / 1e6:.2f} MB a step'
        )
      _console().print(scaling.table(title, rows))
      records.append(record)
      if _JSON.value:
        write_json(pathlib.Path(_JSON.value).expanduser(), records)
  if target is not None:
    print(compiled.assumptions(target, precision))
    print(f'between GPUs: {scaling.LINKS}')


def _eager_operators(job) -> int:
  """They are as many of few examples and few channels, which are fast."""
  job = ours.narrowed({**job, 'torch_device': 'cpu', 'batch': 2})
  with Process('ours', 'experiments.ours:Reference') as reference:
    arrays = reference.call('arrays', job)
  split = ours.data(job)
  with Process(
    'eager', 'experiments.torch_peer:training', job, None, arrays, *split
  ) as eager:
    return round(eager.call('operators'))


def _versions() -> Record:
  return {'python': platform.python_version()} | {
    name: metadata.version(name) for name in _PACKAGES
  }


def _console() -> Console:
  console = Console()
  return console if console.is_terminal else Console(width=_WIDTH)


def _run() -> None:
  cases = _names(_CASES.value, ours.CASES, 'case')
  peers = _names(_PEERS.value, PEERS, 'peer')
  batches = {case: _sizes(_BATCHES.value, case) for case in cases}
  _check_flags()
  if _SCALING.value:
    _scale(batches)
    return
  if _COMPILE_FOR.value:
    _count(batches)
    return
  if _VARIANTS.value and 'best' not in peers:
    raise UserError("--variants are those of 'best'; name it in --peers")
  if peers:
    _check_torch()
  device = _our_device()
  on_gpu = device['backend'] != 'cpu'
  torch: Record = {'versions': {}, 'variants': ()}
  if peers:
    torch = _torch_facts(on_gpu)
  variants = _names(_VARIANTS.value, torch['variants'], 'variant')
  precision = _PRECISION.value or ('bf16' if on_gpu else 'fp32')
  depths = _TEACHER_DEPTH.value, _STUDENT_DEPTH.value
  calls = _STEPS_PER_CALL.value or (_GPU_STEPS if on_gpu else _CPU_STEPS)
  jobs = [
    ours.job(case, batch, precision, calls, depths, phase=phase)
    for case in cases
    for phase in ours.CASES[case].phases[: 1 if _INFERENCE.value else None]
    for batch in batches[case]
  ]
  for job in jobs:
    for role in ('teacher', 'student'):
      models.build(job[role])
  versions = _versions()
  records: list[Record] = []
  for job in jobs:
    job['torch_device'] = torch.get('torch_device')
    print(f'{job["case"]}, {job["phase"]}, batch {job["batch"]}', flush=True)
    record = {
      'what': 'inference' if _INFERENCE.value else 'training',
      'case': job['case'],
      'phase': job['phase'],
      'batch': job['batch'],
      'teacher': models.title(job['teacher']),
      'student': models.title(job['student']),
      'device': f'{device["kind"]}, {os.cpu_count()} CPU cores',
      'precision': precision,
      'steps_per_call': job['steps_per_call'],
      'members': _MEMBERS.value,
      **_contest(job, peers, variants or tuple(torch['variants'])),
      'versions': versions | torch['versions'],
      'command': ['-m', 'experiments.benchmark', *sys.argv[1:]],
    }
    draw = inference_table if _INFERENCE.value else training_table
    _console().print(draw(record))
    records.append(record)
    if _JSON.value:
      # After every case, so that a stopped run keeps what it has.
      write_json(pathlib.Path(_JSON.value).expanduser(), records)


def main(argv: Sequence[str]) -> int:
  """The exit code: 0 done, 2 bad input, 130 stopped."""
  try:
    if len(argv) > 1:
      raise UserError(f'unexpected argument {argv[1]!r}; see --help')
    _run()
    return 0
  except UserError as error:
    return _fail(str(error))
  except KeyboardInterrupt:
    print('stopped', file=sys.stderr)
    return 130


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(_fail(f'{" ".join(str(error).split())}; see --help'))


def _fail(message: str) -> int:
  print(f'error: {message}', file=sys.stderr)
  return _BAD_INPUT


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
