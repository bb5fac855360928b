"""Tests of lit_jax.errors."""

import sys

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
