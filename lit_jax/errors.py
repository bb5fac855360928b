"""The one error a user is meant to read, and other errors in its words."""


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
