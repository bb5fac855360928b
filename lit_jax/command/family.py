"""FAMILY,KEY=VALUE,… to what `models.build` takes.

A value is read as its function's annotation says. Several integers are joined
by `:` or `x`, which no shell takes for its own: units=18:3:3, or
input_shape=32x32x3.
"""

import collections.abc
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from lit_jax import models
from lit_jax.errors import UserError, choose, imported, shown

# What the data decide, and what a student has from its teacher.
SHARED = 'classes', 'input_shape', 'attributes', 'image_size'

_SEVERAL = re.compile(r'-?\d+([:x]-?\d+)+')
_BOOLEANS = {'True': True, 'False': False}


def spec(text: str, usual: Mapping[str, Any]) -> dict[str, Any]:
  """The specification that a text stands for.

  Of a family of lit_jax it holds the defaults of what is not said, too.

  Args:
    text: a key of FAMILIES or an import path, and options behind it.
    usual: of what is SHARED, where the text does not say.

  Raises:
    UserError: no such family or option, one that is given twice, or a value of
      another type.
  """
  family, *options = text.split(',')
  if ':' in family and os.getcwd() not in sys.path:
    # A script has its own folder there instead.
    sys.path.insert(0, os.getcwd())
  known = keys(imported('model', family, models.FAMILIES))
  result: dict[str, Any] = {'family': family}
  for option in options:
    key, equals, value = option.partition('=')
    if not equals or key in result:
      raise UserError(
        f'{family}: {shown(option)} is no option, or one that is given twice; '
        'write it as KEY=VALUE, such as depth=20'
      )
    if known is not None:
      choose(f'option of {family}', key, known)
    result[key] = _value(f'{family}: {key}', value, (known or {}).get(key))
  if known is None:
    return result
  result |= {k: usual[k] for k in SHARED if k in usual and k in known} | result
  if family in models.FAMILIES:
    return _whole(result, known)
  return result


def _whole(given, known) -> dict[str, Any]:
  """The options of a family of lit_jax with all that it takes by default.

  As configurations have them, so that they name the same network: the units of
  each block take a depth's place, and what is empty is left out.
  """
  result = {key: own.default for key, own in known.items()} | given
  if result.get('units'):
    result.pop('depth', None)
  return {k: v for k, v in result.items() if v not in ((), [])}


def keys(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
  """What a family's function takes by name; None where it takes anything."""
  try:
    found = inspect.signature(function).parameters
  except ValueError:  # As of some functions written in C.
    return None
  if any(own.kind is own.VAR_KEYWORD for own in found.values()):
    return None
  return {name: own for name, own in found.items() if name != 'dtype'}


def kind(parameter: inspect.Parameter | None) -> str:
  """The type of an option: 'int', 'float', 'bool', 'str', 'ints' or 'any'."""
  annotation = parameter.annotation if parameter else None
  if annotation in (int, float, bool, str):
    return annotation.__name__
  origin = typing.get_origin(annotation)
  of_integers = int in typing.get_args(annotation)
  if of_integers and origin in (tuple, list, collections.abc.Sequence):
    return 'ints'
  return 'any'


def written(value: Any) -> str:
  """A value as it stands in a name."""
  if isinstance(value, tuple | list):
    return 'x'.join(map(str, value))
  return str(value)


def _value(what, text, parameter) -> Any:
  wanted = kind(parameter)
  try:
    return _READERS[wanted](text)
  except (ValueError, KeyError):
    raise UserError(
      f'{what} is {shown(text)}; it must be {_WORDS[wanted]}'
    ) from None


def _integers(text):
  return [int(part) for part in re.split('[:x]', text)] if text else []


def _anything(text):
  """What the text looks like, for nothing says what it must be."""
  for read in (int, float, _BOOLEANS.__getitem__):
    try:
      return read(text)
    except (ValueError, KeyError):
      pass
  return _integers(text) if _SEVERAL.fullmatch(text) else text


_READERS = {
  'int': int,
  'float': float,
  'bool': _BOOLEANS.__getitem__,
  'str': str,
  'ints': _integers,
  'any': _anything,
}
_WORDS = {
  'int': 'an integer',
  'float': 'a number',
  'bool': 'True or False',
  'ints': 'integers such as 18:3:3 or 32x32x3',
}
