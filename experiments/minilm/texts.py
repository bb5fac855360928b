"""Halves of real reviews, as token ids."""

import pathlib
from typing import Any

import numpy as np

from experiments.minilm.bert import PADDING
from lit_jax.data.texts import fine_foods
from lit_jax.errors import UserError, reason

# Of a review that is shorter one half alone says too little.
_LEAST_WORDS = 12


def load(tokens: pathlib.Path, length: int) -> dict[str, Any]:
  """Train and test halves of the reviews of `fine_foods`.

  Args:
    tokens: a `tokenizer.json`, as the package tokenizers reads it.
    length: tokens of a half; longer ones are cut.

  Returns:
    Of each split ids int32 [2n, length], first halves before second ones, and
    the number of the review, int32 [2n].

  Raises:
    UserError: a package or the file is missing or damaged.
  """
  return {
    split: halves(texts, tokens, length)
    for split, (texts, _) in fine_foods.tables().items()
  }


def halves(
  texts: list[str], tokens: pathlib.Path, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ids int32 [2n, length] of both halves, and whose they are, int32 [2n]."""
  words = [own.split() for own in texts]
  words = [own for own in words if len(own) >= _LEAST_WORDS]
  first = [' '.join(own[: len(own) // 2]) for own in words]
  second = [' '.join(own[len(own) // 2 :]) for own in words]
  numbers = np.arange(len(words), dtype=np.int32)
  return _encoded([*first, *second], tokens, length), np.tile(numbers, 2)


def _encoded(texts, path, length) -> np.ndarray:
  try:
    import tokenizers  # pyright: ignore[reportMissingImports]

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # It raises Exception itself for a bad file.
    raise UserError(
      f'{path} cannot be read ({reason(error)}); it is read by the package '
      'tokenizers'
    ) from None
  tokenizer.enable_truncation(length)
  tokenizer.enable_padding(length=length, pad_id=PADDING)
  found = tokenizer.encode_batch(texts)
  return np.array([own.ids for own in found], np.int32)
