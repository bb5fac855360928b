"""`lit-jax export`: a student for other programs."""

import argparse
from typing import Any

from lit_jax import blocks, models
from lit_jax.networks import export

_DESCRIPTION = f"""\
Writes a trained classifier as other programs read it.

The new file is read again by the program that it is for, and is kept only
where that gives the network's class on every input, and its logits to
{export.TOLERANCE:.0e}. A JSON file beside it says what it must be fed with.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'export',
    help='write a student for other programs',
    description=_DESCRIPTION,
  )
  add = parser.add_argument
  add(
    'network',
    metavar='NETWORK',
    help='a folder such as WORKDIR/lit/student, the name of a student, or '
    'embedded/DATA',
  )
  add('--to', required=True, metavar='FORMAT', help=', '.join(export.FORMATS))
  suffixes = sorted({kind.suffix for kind in export.FORMATS.values()})
  add(
    '--out', required=True, metavar='PATH',
    help=f'a new file: {", ".join(suffixes)}, as the format has it',
  )  # fmt: skip
  add(
    '--preprocess',
    action='store_true',
    help='images go in as uint8, and are normalised by the file itself',
  )
  add(
    '--int8', action='store_true',
    help='weights of 8 bits, a quarter of the size; says what they cost',
  )  # fmt: skip
  add(
    '--against', metavar='NETWORK',
    help='such as the teacher: exported likewise, timed beside, not kept',
  )  # fmt: skip
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Writes a file, and says how near it is to the network.

  Raises:
    UserError: as `export.export`.
  """
  found = export.export(
    options.network,
    options.to,
    options.out,
    options.preprocess,
    options.int8,
    options.against,
  )
  spec = dict(found.facts.spec or {})
  size = found.path.stat().st_size
  # A specification need not say what is the family's usual number.
  (classes,) = blocks.cut_shapes(models.build(spec))['head']
  print(
    f'{found.path}: {models.title(spec)}, {classes} classes, {size} '
    f'bytes; read again by {found.reader}\n'
    f'all classes equal, logits to {found.largest:.1e}, of {found.examples} '
    f'{found.inputs}'
  )
  if found.rounded:
    print(_told_of_rounding(found.rounded, found.examples))
  for times in found.times:
    print(_told_of_times(times, options.against))
  print(f'{found.beside}: architecture, normalisation, class names, digest')


def _told_of_rounding(rounded: export.Rounded, examples: int) -> str:
  line = (
    f'that is the student of 8 bits; the class is that of float32 for '
    f'{rounded.equal} of {examples}'
  )
  if rounded.accuracy:
    own, exact = (100 * share for share in rounded.accuracy)
    line += f', and {own:.1f} % are right, {exact:.1f} % of float32'
  return line


def _told_of_times(times: export.Times, other: str) -> str:
  own, theirs = (
    f'{time.median:.3g} ms ({time.lower:.3g} to {time.upper:.3g})'
    for time in (times.student, times.teacher)
  )
  faster = times.teacher.median / times.student.median
  return (
    f'batch of {times.batch}: {own}, {other} {theirs}: {faster:.2f} times as '
    'fast (medians and quartiles, taking turns)'
  )
