"""Systems from outside, as rows to compare a run's networks with."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lit_jax.data.dataset import Dataset
from lit_jax.data.texts.characters import decode
from lit_jax.errors import UserError, choose, require
from lit_jax.report import Row
from lit_jax.tasks.classify import of_confusion

# Of 3 million texts a list of all words and pairs would fill the memory, and so
# would the texts as strings: words go by their hash, and texts by the chunk.
_FEATURES = 2**22
_CHUNK = 50_000


def tfidf(dataset: Dataset) -> Row:
  """TF-IDF of words and pairs of words, and logistic regression.

  scikit-learn's, with sublinear counts, words and pairs told apart by a hash of
  22 bits, C = 10, and otherwise its own settings. It reads the same characters
  of the same splits as the networks.

  Args:
    dataset: of texts.

  Returns:
    Its row, whose parameters are the regression's coefficients.

  Raises:
    UserError: all texts have one label.
  """
  # Here, since only this row needs the package, which takes a second to load.
  from sklearn.feature_extraction.text import TfidfTransformer
  from sklearn.linear_model import LogisticRegression

  train, test = dataset.splits['train'], dataset.splits[dataset.scored]
  if len(np.unique(train.labels)) < 2:
    raise UserError('all training texts have one label')
  start = time.monotonic()
  counts = _counts(train)
  # What no training text has is no coefficient.
  used = np.flatnonzero(counts.getnnz(axis=0))
  weights: Any = TfidfTransformer(sublinear_tf=True)
  regression = LogisticRegression(C=10.0, max_iter=1000)
  regression.fit(weights.fit_transform(counts[:, used]), train.labels)
  seconds = time.monotonic() - start
  found = regression.predict(weights.transform(_counts(test)[:, used]))
  confusion = np.zeros((dataset.classes, dataset.classes), np.int64)
  np.add.at(confusion, (test.labels, found), 1)
  return Row(
    method='tfidf',
    model='logistic regression',
    depth=None,
    parameters=np.size(regression.coef_) + np.size(regression.intercept_),
    macs=None,
    epochs=None,
    train_seconds=round(seconds, 3),
    latency_ms={},
    scores=of_confusion(float('nan'), confusion).scores,
  )


def _counts(split) -> Any:
  """How often each hash of a word or a pair is in each text, sparse."""
  import scipy.sparse
  from sklearn.feature_extraction.text import HashingVectorizer

  options: dict[str, Any] = dict(norm=None, alternate_sign=False)
  words = HashingVectorizer(ngram_range=(1, 2), n_features=_FEATURES, **options)
  starts = range(0, split.examples, _CHUNK)
  return scipy.sparse.vstack(
    [words.transform(decode(split.inputs[i : i + _CHUNK])) for i in starts],
    format='csr',
  )


def find(name: str) -> Callable[[Dataset], Row]:
  """The baseline of that name, whose packages are there.

  Raises:
    UserError: no such baseline, or a package is missing.
  """
  choose('baseline', name, BASELINES)
  require(f'baseline {name}', 'text', *_PACKAGES[name])
  return BASELINES[name]


BASELINES = {'tfidf': tfidf}
_PACKAGES = {'tfidf': ('sklearn',)}
