"""Tests of lit_jax.errors."""

import sys

import numpy as np
import pytest

from lit_jax import errors
from lit_jax.errors import UserError


def message(call, *args):
  with pytest.raises(UserError) as caught:
    call(*args)
  return str(caught.value)


def test_choose():
  assert errors.choose('colour', 'red', ['red', 'blue']) == 'red'
  assert errors.choose('colour', 'red', (c for c in ('blue', 'red'))) == 'red'
  choices = {'red': 1, 'blue': 2}
  assert (
    message(errors.choose, 'colour', 'rde', choices)
    == "unknown colour 'rde'; perhaps 'red'; choose one of red, blue"
  )
  assert (
    message(errors.choose, 'colour', 'x', choices)
    == "unknown colour 'x'; choose one of red, blue"
  )


@pytest.mark.parametrize('value', [True, 3, None, ['red']])
def test_choose_refuses_what_is_no_name(value):
  words = f'unknown colour {value!r}; '
  assert message(errors.choose, 'colour', value, ['red']).startswith(words)


def test_names():
  assert errors.names('', 'list') == ()
  assert errors.names('a', 'list') == ('a',)
  assert errors.names(' a, b c,d ', 'list') == ('a', 'b c', 'd')
  for text in ('a,', ',', 'a,,b', 'a,b, a'):
    words = f'list {text!r} has an empty or a repeated name'
    assert message(errors.names, text, 'list').startswith(words)


def test_require(monkeypatch):
  errors.require('this', 'text', 'json', 'csv')
  monkeypatch.setitem(sys.modules, 'csv', None)
  words = message(errors.require, 'this', 'text', 'json', 'csv')
  assert words.startswith("this needs the extra 'text' (import of csv halted")
  assert "pip install 'lit_jax[text]'" in words
  assert "pip install -e '.[text]'" in words
  assert '\n' not in words


def test_reason():
  assert errors.reason(OSError(2, 'No such file')) == 'No such file'
  assert errors.reason(ValueError(' one\ntwo')) == 'one'
  assert errors.reason(KeyError()) == 'KeyError'


def test_a_value_is_shown_in_one_short_line():
  assert errors.shown('a\nb') == r"'a\nb'"
  assert errors.shown((1, 'x')) == "(1, 'x')"
  assert errors.shown(np.zeros((2, 2))) == 'array([[0., 0.], [0., 0.]])'
  assert errors.shown('x' * 80).endswith('x…')
  assert len(errors.shown('x' * 10**6)) == 80
  # Python refuses to write it.
  assert errors.shown(10**5000) == 'a very large int'


def test_number():
  def at_least_one(value):
    errors.number('size', value, 'at least 1', lambda own: own >= 1)

  for value in (1, 2.5, np.float32(1), np.int64(3), np.array(2.0), 1e38):
    at_least_one(value)
  for value in (
    0,
    -1.5,
    float('nan'),
    float('inf'),
    1e39,
    True,
    '2',
    None,
    [3],
  ):
    words = f'size is {value!r}; at least 1'
    assert message(at_least_one, value) == words


def test_integer():
  errors.integer('size', 3, '3 to 5', 3, 6)
  errors.integer('size', np.int32(5), '3 to 5', 3, 6)
  for value in (2, 6, 4.0, True, '4', None, 10**400):
    words = message(errors.integer, 'size', value, '3 to 5', 3, 6)
    assert words.startswith('size is ') and words.endswith('; 3 to 5')


def test_near():
  assert errors.near('rde', ['red', 'blue']) == "; perhaps 'red'"
  assert errors.near('x', ['red']) == errors.near(3, ['red']) == ''
