"""The one error a user is meant to read, and checks that raise it."""

import difflib
import importlib
from collections.abc import Iterable


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
  near = difflib.get_close_matches(str(value), known, 1)
  hint = f'; perhaps {near[0]!r}' if near else ''
  raise UserError(
    f'unknown {what} {value!r}{hint}; choose one of {", ".join(known)}'
  )


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
