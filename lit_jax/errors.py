"""The one error a user is meant to read, and checks that raise it."""

import difflib
import importlib
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# What programs compute in; Python's own numbers go far beyond it.
_FLOAT32_MAX = 3.4028234663852886e38
_SHOWN = 80  # characters of a value in a message
_REASON = 300  # characters of another error's words, of which a path has many


class UserError(Exception):
  """Bad input: one line that says what, where and what to do.

  Command lines print it without a traceback and exit with code 2.
  """

  def __init__(self, message: str):
    """What cannot be printed in a line, as in foreign names, is escaped."""
    super().__init__(printable(message))


def printable(text: str) -> str:
  """The text in one line, with escapes for what does not print."""
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def reason(error: BaseException) -> str:
  """An error's own words, cut to one line and not too long."""
  words = getattr(error, 'strerror', None) or str(error)
  line = next(iter(str(words).strip().splitlines()), type(error).__name__)
  return shortened(line, _REASON)


def shown(value: Any) -> str:
  """A value in a message: as Python writes it, in one line and not too long."""
  try:
    text = ' '.join(repr(value).split())
  except ValueError:  # Python writes no integer of thousands of digits.
    text = f'a very large {type(value).__name__}'
  return shortened(text, _SHOWN)


def shortened(text: str, most: int) -> str:
  """The text in so many characters, the last one … where some are left out."""
  return text if len(text) <= most else f'{text[: most - 1]}…'


def number(
  what: str, value: Any, wanted: str, fits: Callable[[Any], bool]
) -> None:
  """Raises UserError unless the value is a number that fits.

  Args:
    what: has that value, for the message.
    value: anything. True and False are no numbers, nor is what is infinite,
      also as float32, or NaN.
    wanted: the range in words.
    fits: whether a finite number lies in it.
  """
  kinds: Any = numbers.Real
  is_number = isinstance(value, kinds) and not isinstance(value, bool)
  # An array of no axes is one, too.
  is_number = is_number or getattr(value, 'shape', None) == ()
  if not (is_number and abs(value) <= _FLOAT32_MAX and fits(value)):
    raise UserError(f'{what} is {shown(value)}; {wanted}')


def integer(what: str, value: Any, wanted: str, least: int, below: int) -> None:
  """Raises UserError unless the value is an integer, `least` <= it < `below`.

  Args:
    what: has that value, for the message.
    value: anything; True and False are no integers.
    wanted: the range in words.
    least: the smallest.
    below: the smallest that is too large.
  """
  kinds: Any = numbers.Integral
  number(
    what, value, wanted,
    lambda own: isinstance(own, kinds) and least <= own < below,
  )  # fmt: skip


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
    f'unknown {what} {shown(value)}{near(value, known)}; choose one of '
    f'{", ".join(known)}'
  )


def near(value: Any, known: Iterable[str]) -> str:
  """A hint at the name that was meant, such as "; perhaps 'lit'", or ''."""
  if not isinstance(value, str):
    return ''
  found = difflib.get_close_matches(value[:_SHOWN], known, 1)
  return f'; perhaps {found[0]!r}' if found else ''


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
      f'{what} {shown(text)} has an empty or a repeated name; write it as a,b,c'
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
      f'unknown {what} {shown(name)}{near(name, known)}; choose one of '
      f'{", ".join(known)}, or the import path of your own, as '
      "'my_package.nets:plain'"
    )
  try:
    found = getattr(importlib.import_module(module), attribute)
  except Exception as error:  # The user's module may raise anything.
    raise UserError(
      f'{what} {shown(name)} cannot be imported ({first_line(error)}); name a '
      "module on the Python path and what is in it, as 'my_package.nets:plain'"
    ) from error
  if not callable(found):
    raise UserError(
      f'{what} {shown(name)} is a {type(found).__name__}, no function'
    )
  return found
