"""The one error a user is meant to read, and other errors in its words."""

import importlib
from collections.abc import Mapping
from typing import Any


class UserError(Exception):
  """Bad input: one line that says what, where and what to do.

  Command lines print it without a traceback and exit with code 2.
  """


def reason(error: BaseException) -> str:
  """An error's own words, cut to one line."""
  words = getattr(error, 'strerror', None) or str(error)
  return next(iter(str(words).strip().splitlines()), type(error).__name__)


def first_line(error: BaseException) -> str:
  """The first line of an error's text, shortened, for one-line messages."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  # TensorStore ends its messages with where to find more.
  return lines[0].split('. See full')[0][:160]


def imported(what: str, name: str, known: Mapping[str, Any]) -> Any:
  """What a name or an import path stands for.

  Args:
    what: a word for it in messages, such as 'model'.
    name: a key of `known`, or a path 'my_package.nets:plain' to a function or
      class of the user's own.
    known: what has a name.

  Raises:
    UserError: an unknown name, or a path that cannot be imported or called.
  """
  module, colon, attribute = name.partition(':')
  if not colon:
    if name in known:
      return known[name]
    raise UserError(
      f'unknown {what} {name!r}; choose one of {", ".join(known)}, or the '
      "import path of your own, as 'my_package.nets:plain'"
    )
  try:
    found = getattr(importlib.import_module(module), attribute)
  except Exception as error:  # The user's module may raise anything.
    raise UserError(
      f'{what} {name!r} cannot be imported ({reason(error)}); name a module on '
      "the Python path and what is in it, as 'my_package.nets:plain'"
    ) from error
  if not callable(found):
    raise UserError(f'{what} {name!r} is a {type(found).__name__}, no function')
  return found
