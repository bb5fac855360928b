"""`lit-jax check`: what a pair will cost and gain, before any training."""

import argparse
import json
import sys
from typing import Any

from lit_jax import blocks
from lit_jax.blocks import BlockNet, check_pair
from lit_jax.command import devices, network, pair, pair_text
from lit_jax.errors import UserError
from lit_jax.training.devices import check_batch

_DESCRIPTION = """\
Says whether TEACHER and STUDENT fit, and what LIT will cost and gain.

Every cut with both shapes; the parts that can be copied, being of the same
arrays in both; depth, parameters and MACs; and, measured on this machine with
drawn weights, a training step's memory and time and the speed-up of inference.
Classes and sizes that a student's name does not say are the
teacher's. Exit code 0 where the two fit, else 2.

--json prints one object instead:
  fits                  whether every cut fits
  cuts                  of each: part, teacher, student (shapes), fits
  copied                parts of the same arrays in both
  teacher, student      of each: network, depth, parameters, macs
  ratios                teacher's over student's: depth, parameters, macs
  predicted_speedup     of inference; predicted_by says from what
  training              of a LIT step; null where it is not measured:
    batch_size, precision, devices, device_kind, steps_per_call
    memory_bytes        of each device, as XLA plans it; compiled_for
    step_seconds        median; step_seconds_quartiles
    examples            of an epoch, which takes epoch_seconds
  inference             of one device; null where it is not measured:
    device_kind, and in batches of each: batch_size, teacher_ms, student_ms,
    teacher_quartiles_ms, student_quartiles_ms, speedup (of the medians)
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'check', help='whether a pair fits, its cost and gain',
    description=_DESCRIPTION,
  )  # fmt: skip
  network.add_pair(parser)
  add = parser.add_argument
  add(
    '--batch_size', type=int, default=128, metavar='N',
    help='of a training step, and of inference beside 1 (default: 128)',
  )  # fmt: skip
  add(
    '--examples', type=int, default=50000, metavar='N',
    help='of an epoch (default: 50000)',
  )  # fmt: skip
  add(
    '--no_measure', action='store_true',
    help='compiles and runs nothing: shapes and counts alone',
  )  # fmt: skip
  add('--json', action='store_true', help='prints one JSON object')
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Prints what is found.

  Raises:
    UserError: the two do not fit, which is told after the table; or a wrong
      name or number.
  """
  # First, for a saved network is read by JAX.
  devices.use(options.batch_size)
  check_batch(options.batch_size)
  if options.examples < options.batch_size:
    raise UserError(
      f'--examples is {options.examples}, fewer than the {options.batch_size} '
      'of a batch; give those of an epoch'
    )
  teacher = network.find(options.teacher)
  student = network.find(options.student, teacher.shared)
  named = {'teacher': teacher, 'student': student}
  nets = {role: own.build(options.precision) for role, own in named.items()}
  found = pair.counted(named, nets)
  if not options.json:
    print(pair_text.counted(found), flush=True)
  if found['fits'] and not options.no_measure:
    found |= _measured(nets, options)
  if options.json:
    print(json.dumps(found, indent=2))
  if not found['fits']:
    check_pair(nets['teacher'], nets['student'])


def _measured(nets: dict[str, BlockNet], options) -> dict[str, Any]:
  """What is measured, which is printed as soon as it is known."""
  print('measuring; --no_measure leaves it out', file=sys.stderr, flush=True)
  found: dict[str, Any] = {'training': None}
  output = blocks.cut_shapes(nets['student'])['head']
  if isinstance(output, tuple) and len(output) == 1:
    found['training'] = pair.trained(
      nets, options.batch_size, options.precision, options.examples
    )
  else:
    print('a training step is measured of classifiers alone', file=sys.stderr)
  if found['training'] and not options.json:
    print(pair_text.trained(found['training']), flush=True)
  found['inference'] = pair.inferred(nets, options.batch_size)
  if found['inference'] and not options.json:
    print(pair_text.inferred(found['inference']))
  return found
