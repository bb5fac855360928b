"""`lit-jax`: what lit_jax does from a command line, one command a file."""

import signal
import sys
from collections.abc import Sequence

from lit_jax.command import (
  check,
  compress,
  data,
  export,
  import_,
  models,
  report,
  summary,
)
from lit_jax.command.parser import Parser
from lit_jax.errors import UserError
from lit_jax.training.interrupt import Interrupted

_BAD_INPUT = 2
_STOPPED = 128  # and the signal's number
# In the order in which --help lists them.
_COMMANDS = check, compress, summary, import_, export, report, models, data


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command, and exits where it does not end well.

  With 2 after bad input, which is told in a line, and with 128 and the signal's
  number where it was stopped.

  Args:
    argv: the arguments, by default those of the process.
  """
  try:
    options = parser().parse_args(argv)
    options.run(options)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(_BAD_INPUT)
  except Interrupted as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(_STOPPED + stopped.number)
  except KeyboardInterrupt:
    print('stopped at once; what is saved stands', file=sys.stderr)
    sys.exit(_STOPPED + signal.SIGINT)


def parser() -> Parser:
  """Of all commands; what it parses has `run`, which takes it."""
  result = Parser(prog='lit-jax', description='Shallower, faster networks.')
  commands = result.add_subparsers(
    title='commands', metavar='COMMAND', dest='command', required=True
  )
  for command in _COMMANDS:
    command.define(commands)
  return result
