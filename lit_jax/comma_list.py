"""Names separated by commas, as flags and configurations have them."""

from lit_jax.errors import UserError


def names(text: str, what: str) -> tuple[str, ...]:
  """The names of a comma list, each once; none of an empty text.

  Raises:
    UserError: an empty or a repeated name.
  """
  found = tuple(name.strip() for name in text.split(',')) if text else ()
  if not all(found) or len(set(found)) < len(found):
    raise UserError(
      f'{what} {text!r} has an empty or a repeated name; write it as a,b,c'
    )
  return found
