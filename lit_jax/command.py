"""`lit-jax`: what lit_jax does from a command line, one command a function."""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lit_jax import models
from lit_jax.errors import UserError, names, reason, shown
from lit_jax.networks import export, pytorch, saved
from lit_jax.networks.summary import summary

_BAD_INPUT = 2
_IMPORT = """\
Makes a teacher of ours from a ResNet for small images that PyTorch trained.

Depth, width, classes and the kind of shortcut are read from the file; a flag
that contradicts it is refused. Nothing in the file is executed. What no file
says, strides and poolings among it, is taken to be as in He et al. 2016:
compare the teacher's accuracy in the first table with PyTorch's.
"""
_EXPORT = f"""\
Writes a trained classifier as other programs read it.

The new file is read again by the program that it is for, and is kept only
where that gives the network's class on every input, and its logits to
{export.TOLERANCE:.0e}. A JSON file beside it says what it must be fed with.
"""


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command, and exits: with 2 after bad input, which is told in a line.

  Args:
    argv: the arguments, by default those of the process.
  """
  try:
    options = _parser().parse_args(argv)
    options.run(options)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(_BAD_INPUT)


class _Parser(argparse.ArgumentParser):
  """Refuses in one line, as all of lit_jax does."""

  def __init__(self, **options):
    super().__init__(
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **options,
    )

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{self.prog}: {message}; {self.prog} --help says more')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(prog='lit-jax', description='Shallower, faster networks.')
  commands = parser.add_subparsers(
    title='commands', metavar='COMMAND', required=True
  )
  _add_import(commands)
  _add_export(commands)
  return parser


def _add_import(commands) -> None:
  parser = commands.add_parser(
    'import', help='make a teacher of PyTorch weights', description=_IMPORT
  )
  add = parser.add_argument
  add('weights', metavar='WEIGHTS', help='.pth, .pt or .safetensors')
  add(
    '--out', required=True, metavar='DIR', help='a new folder for the network'
  )
  colours = _several(float, '.49,.48,.45')
  add(
    '--mean', type=colours, metavar='.49,.48,.45',
    help='of each channel in training, of pixels from 0 to 1',
  )  # fmt: skip
  add('--std', type=colours, metavar='.25,.24,.26', help='likewise')
  add(
    '--family', default='resnet',
    help=f'{" or ".join(pytorch.FAMILIES)}: 16 or 64 wide (default: resnet)',
  )  # fmt: skip
  add('--depth', type=int, metavar='N', help='6n+2')
  add(
    '--units', type=_several(int, '3,4,3'), metavar='N,N,N',
    help='of each block, where these are not equally many',
  )  # fmt: skip
  add('--classes', type=int, metavar='N', help='how many')
  add('--shortcut', metavar='A|B', help='zero channels, or convolutions')
  add(
    '--padding',
    metavar='both|end',
    help='where option A has its zero channels, which no file says',
  )
  add(
    '--class_names', default='', metavar='A,B,…',
    help='in the order of the logits; data of other classes are then refused',
  )  # fmt: skip
  add(
    '--size', type=int, default=32, metavar='N',
    help='height and width of the images (default: 32)',
  )  # fmt: skip
  add('--dataset', default='', metavar='NAME', help='that it was trained on')
  add(
    '--names', metavar='FILE',
    help="JSON: the file's own module names, and what they are called here",
  )  # fmt: skip
  parser.set_defaults(run=_import)


def _add_export(commands) -> None:
  parser = commands.add_parser(
    'export', help='write a student for other programs', description=_EXPORT
  )
  add = parser.add_argument
  add(
    'network',
    metavar='NETWORK',
    help='a folder such as WORKDIR/lit/student, or the name of a student',
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
  parser.set_defaults(run=_export)


def _several(kind: Callable[[str], Any], example: str) -> Callable[[str], Any]:
  """What reads numbers of a kind, separated by commas, as in the example."""

  def read(text):
    try:
      return tuple(kind(part) for part in text.split(','))
    except ValueError:
      raise argparse.ArgumentTypeError(
        f'{shown(text)} are no numbers; write them as {example}'
      ) from None

  return read


def _import(options: argparse.Namespace) -> None:
  """Writes a network of ours, and says how a run takes it.

  Raises:
    UserError: as `pytorch.load`; the folder is there already or cannot be
      written; or as many class names as there are no classes.
  """
  folder = pathlib.Path(options.out).expanduser()
  if folder.exists():
    raise UserError(f'{folder} is there already; name a new folder by --out')
  told = pytorch.Told(
    depth=options.depth,
    units=options.units,
    classes=options.classes,
    shortcut=options.shortcut,
    padding=options.padding,
    mean=options.mean,
    std=options.std,
    size=options.size,
  )
  layout = pytorch.NAMES
  if options.names is not None:
    layout = pytorch.read_names(options.names)
  network = pytorch.load(options.weights, options.family, told, layout)
  facts = saved.Facts(
    spec=network.spec,
    dataset=options.dataset,
    classes=_class_names(options.class_names, network.spec['classes']),
    input=network.preprocess.facts(),
    precision='fp32',
    digest='',
    row={},
  )
  try:
    saved.save(folder, facts, network.variables)
  except OSError as error:
    raise UserError(
      f'{folder} cannot be written ({reason(error)}); name another by --out'
    ) from None
  print(_told(folder, facts))


def _export(options: argparse.Namespace) -> None:
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
  print(
    f'{found.path}: {models.title(spec)}, {spec["classes"]} classes, {size} '
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


def _class_names(text: str, count: int) -> list[str]:
  found = names(text, '--class_names')
  if found and len(found) != count:
    raise UserError(
      f'--class_names has {len(found)} names, and the network {count} classes; '
      'give one a class, in the order of the logits'
    )
  return list(found)


def _told(folder: pathlib.Path, facts: saved.Facts) -> str:
  """What was imported, and the flags that take it as a teacher."""
  spec: dict[str, Any] = dict(facts.spec or {})
  parameters = summary(models.build(spec)).parameters
  given = {k: v for k, v in spec.items() if k not in ('classes', 'input_shape')}
  given = {'checkpoint': str(folder), **given}
  flags = [f'--config.teacher.{k}={_flag(v)}' for k, v in given.items()]
  size = 'x'.join(map(str, spec['input_shape']))
  lines = [
    f'{folder}: {models.title(spec)}, {parameters} parameters, '
    f'{spec["classes"]} classes, images {size}, mean {facts.input["mean"]}, '
    f'std {facts.input["std"]}',
    # A shell takes brackets and spaces for its own.
    f'take it by {" ".join(map(shlex.quote, flags))}',
  ]
  if not facts.classes:
    lines.append(
      'no --class_names: that the data number the classes alike is not checked'
    )
  return '\n'.join(lines)


def _flag(value: Any) -> str:
  return (
    str(tuple(value)).replace(' ', '') if isinstance(value, list) else value
  )


if __name__ == '__main__':
  main()
