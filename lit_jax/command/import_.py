"""`lit-jax import`: weights of PyTorch as a teacher of ours."""

import argparse
import pathlib
import shlex
from typing import Any

from lit_jax import models
from lit_jax.command.parser import several
from lit_jax.errors import UserError, names, reason
from lit_jax.networks import pytorch, saved
from lit_jax.networks.summary import summary

_DESCRIPTION = """\
Makes a teacher of ours from a ResNet for small images that PyTorch trained.

Depth, width, classes and the kind of shortcut are read from the file; a flag
that contradicts it is refused. Nothing in the file is executed. What no file
says, strides and poolings among it, is taken to be as in He et al. 2016:
compare the teacher's accuracy in the first table with PyTorch's.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'import', help='make a teacher of PyTorch weights', description=_DESCRIPTION
  )
  add = parser.add_argument
  add('weights', metavar='WEIGHTS', help='.pth, .pt or .safetensors')
  add(
    '--out', required=True, metavar='DIR', help='a new folder for the network'
  )
  colours = several(float, '.49,.48,.45')
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
    '--units', type=several(int, '3,4,3'), metavar='N,N,N',
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
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
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
