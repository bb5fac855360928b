"""Which device a computation is for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_plain = contextvars.ContextVar('plain', default=False)


def on_cpu() -> bool:
  """Whether a computation is for the CPU, which has fast forms of its own."""
  return jax.default_backend() == 'cpu' and not _plain.get()


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """What is traced within is the network as it is defined, on any device.

  For counting what it costs: a CPU's fast form may multiply by zeros.
  """
  token = _plain.set(True)
  try:
    yield
  finally:
    _plain.reset(token)
