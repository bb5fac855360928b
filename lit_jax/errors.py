"""The one error a user is meant to read, and checks that raise it."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
  """Bad input: one line that says what, where and what to do.

  Command lines print it without a traceback and exit with code 2.
  """


def reason(error: BaseException) -> str:
  """An error's own words, cut to one line."""
  words = getattr(error, 'strerror', None) or str(error)
  return next(iter(str(words).strip().splitlines()), type(error).__name__)


def choose(what: str, value: str, choices: Iterable[str]) -> str:
  """The value, where it is one of the choices.

  Args:
    what: the kind of thing that it names, for the message.
    value: what was asked for.
    choices: what there is.

  Raises:
    UserError: it is none of them; names all, and the nearest before.
  """
  known = tuple(choices)
  if value in known:
    return value
  raise UserError(
    f'unknown {what} {value!r}{_near(value, known)}; choose one of '
    f'{", ".join(known)}'
  )


def _near(value: Any, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(str(value), known, 1)
  return f'; perhaps {near[0]!r}' if near else ''


def names(text: str, what: str) -> tuple[str, ...]:
  """The names of a comma list, each once; none of an empty text.

  Args:
    text: names separated by commas, as flags and configurations have them.
    what: where the list stands, for the message.

  Raises:
    UserError: an empty or a repeated name.
  """
  found = tuple(name.strip() for name in text.split(',')) if text else ()
  if not all(found) or len(set(found)) < len(found):
    raise UserError(
      f'{what} {text!r} has an empty or a repeated name; write it as a,b,c'
    )
  return found


def require(what: str, extra: str, *packages: str) -> None:
  """Imports packages that an extra of lit_jax installs.

  Args:
    what: what they are needed for, for the message.
    extra: its name.
    packages: as they are imported.

  Raises:
    UserError: one cannot be imported.
  """
  for package in packages:
    try:
      importlib.import_module(package)
    except ImportError as e:
      raise UserError(
        f'{what} needs the extra {extra!r} ({reason(e)}): '
        f"pip install 'lit_jax[{extra}]', or in a checkout "
        f"pip install -e '.[{extra}]'"
      ) from e


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
      f'unknown {what} {name!r}{_near(name, known)}; choose one of '
      f'{", ".join(known)}, or the import path of your own, as '
      "'my_package.nets:plain'"
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
