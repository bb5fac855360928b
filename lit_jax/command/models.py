"""`lit-jax models`: the families of networks, and their options."""

import argparse
import inspect
from typing import Any

from lit_jax import models
from lit_jax.command import family

_DESCRIPTION = """\
Lists the families of networks: name, and KEY:TYPE=DEFAULT of each option.

`int` is an integer, `ints` are several (18:3:3 or 32x32x3; none is the
default of the family), `str` is a word, `bool` is True or False. A network is
named FAMILY,KEY=VALUE,… such as resnet,depth=20,input_shape=28x28x1.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'models', help='the families of networks', description=_DESCRIPTION
  )
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Prints a line for each."""
  del options
  for name, function in models.FAMILIES.items():
    known = family.keys(function) or {}
    print(name, *(_described(key, own) for key, own in known.items()))


def _described(key: str, own: inspect.Parameter) -> str:
  return f'{key}:{family.kind(own)}={family.written(own.default)}'
