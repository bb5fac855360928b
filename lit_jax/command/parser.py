"""Flags that are refused in one line, and values that several commands take."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from lit_jax.errors import UserError, shown


class Parser(argparse.ArgumentParser):
  """Refuses a wrong flag in one line, as all of lit_jax does."""

  def __init__(self, **options):
    super().__init__(
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      **options,
    )

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{self.prog}: {message}; {self.prog} --help says more')


def several(kind: Callable[[str], Any], example: str) -> Callable[[str], Any]:
  """What reads numbers of a kind, separated by commas, as in the example."""

  def read(text):
    try:
      return tuple(kind(part) for part in text.split(','))
    except ValueError:
      raise argparse.ArgumentTypeError(
        f'{shown(text)} are no numbers; write them as {example}'
      ) from None

  return read
