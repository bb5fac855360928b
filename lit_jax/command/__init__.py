"""`lit-jax`: what lit_jax does from a command line, one command a file."""

import sys
from collections.abc import Sequence

from lit_jax.command import data, export, import_, models, summary
from lit_jax.command.parser import Parser
from lit_jax.errors import UserError

_BAD_INPUT = 2
# In the order in which --help lists them.
_COMMANDS = summary, import_, export, models, data


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command, and exits: with 2 after bad input, which is told in a line.

  Args:
    argv: the arguments, by default those of the process.
  """
  try:
    options = parser().parse_args(argv)
    options.run(options)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(_BAD_INPUT)


def parser() -> Parser:
  """Of all commands; what it parses has `run`, which takes it."""
  result = Parser(prog='lit-jax', description='Shallower, faster networks.')
  commands = result.add_subparsers(
    title='commands', metavar='COMMAND', required=True
  )
  for command in _COMMANDS:
    command.define(commands)
  return result
