"""BERT as a BlockNet, and its compression without labels."""

import json
import pathlib

import jax
import numpy as np
import pytest
from drawn import untimed
from fixtures.bert_weights import LENGTH, SIZES, ids, weights

import lit_jax
from experiments import cli
from experiments.minilm import __main__ as command
from experiments.minilm import bert, embed, texts
from lit_jax.data.preprocess import AsIs
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs import rows

numpy = pytest.importorskip(
  'safetensors.numpy', reason="needs pip install 'lit_jax[gan]'"
)
pytestmark = pytest.mark.usefixtures('quick')
FIXTURE = pathlib.Path(__file__).with_name('fixtures') / 'bert.npz'
BLOCKS, STUDENT = (2, 2), (1, 1)


@pytest.fixture
def write(tmp_path):
  """Writes a folder in the layout of Hugging Face, with changes."""

  def run(arrays=None, **sizes):
    own = weights() | (arrays or {})
    numpy.save_file(
      {k: v for k, v in own.items() if v is not None},
      tmp_path / 'model.safetensors',
    )
    config = {k: v for k, v in (SIZES | sizes).items() if v is not None}
    (tmp_path / 'config.json').write_text(json.dumps(config | {'more': 1}))
    return tmp_path

  return run


@pytest.fixture
def teacher(write):
  return bert.read(write(), BLOCKS, LENGTH)


def test_embeddings_are_those_of_pytorchs_encoder(teacher):
  net, variables = teacher
  found, irs = jax.jit(net.apply)(variables, ids())
  wanted = np.load(FIXTURE)['embeddings']
  np.testing.assert_allclose(found, wanted, atol=2e-6)
  # Padding is zero in every IR, and nothing else is.
  for ir in irs:
    np.testing.assert_array_equal((np.asarray(ir) != 0).any(-1), ids() != 0)


def test_padding_has_no_part_in_an_embedding(teacher):
  net, variables = teacher
  cut = bert.network(net.stem.sizes, BLOCKS, 3)
  short = ids()[3:]
  assert not short[:, 3:].any()
  run, _ = jax.jit(net.apply)(variables, short)
  less, _ = jax.jit(cut.apply)(variables, short[:, :3])
  np.testing.assert_allclose(run, less, atol=1e-6)


def test_every_second_layer_is_the_later_one(teacher):
  net, variables = teacher
  student = bert.network(net.stem.sizes, STUDENT, LENGTH)
  kept = bert.every_second(variables)
  _, irs = jax.jit(net.apply)(variables, ids())
  _, own = jax.jit(student.apply)(kept, ids())
  np.testing.assert_array_equal(irs[0], own[0])
  np.testing.assert_array_equal(
    kept['params']['blocks_1']['layers_0']['inner']['kernel'],
    weights()['encoder.layer.3.intermediate.dense.weight'].T,
  )


@pytest.mark.parametrize(
  'arrays, sizes, words',
  [
    ({'encoder.layer.1.output.dense.bias': None}, {}, 'has no encoder.layer.1'),
    ({'embeddings.LayerNorm.bias': np.zeros(3, np.float32)}, {}, '[3], where'),
    ({'embeddings.LayerNorm.bias': np.zeros(12, np.int32)}, {}, 'int32 [12]'),
    (
      {'encoder.layer.0.output.dense.bias': np.full(12, np.nan, np.float32)},
      {},
      'NaN',
    ),
    ({}, {'num_hidden_layers': 6}, '[2, 2] layers'),
    ({}, {'max_position_embeddings': 8}, 'reads 1 to 8 tokens'),
    ({}, {'hidden_size': None}, 'hidden_size'),
  ],
)
def test_another_bert_is_refused(write, arrays, sizes, words):
  with pytest.raises(UserError) as caught:
    bert.read(write(arrays, **sizes), BLOCKS, LENGTH)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


def test_retrieval_is_scored_by_the_rank_of_the_other_half():
  cosines = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.3, 0.3]])
  found = embed.of_similarities(cosines).numbers
  # Ranks 1, 2, and where all are equal the last.
  assert found['first'] == pytest.approx(1 / 3)
  assert found['reciprocal_rank'] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
  likely = np.exp(20 * cosines)
  loss = -np.log(np.diagonal(likely) / likely.sum(1)).mean()
  assert found['loss'] == pytest.approx(loss)


@pytest.fixture
def compress(teacher, monkeypatch):
  """Compresses the small BERT, by a method."""
  monkeypatch.setattr(rows, 'timed', untimed)
  rng = np.random.default_rng(0)
  inputs = rng.integers(1, 40, (16, LENGTH), np.int32)
  inputs[::3, 6:] = 0
  net, variables = teacher
  student = bert.network(net.stem.sizes, STUDENT, LENGTH)

  def run(workdir, method='lit', numbers=None, **changes):
    if numbers is None:
      numbers = np.tile(np.arange(8, dtype=np.int32), 2)
    settings = {
      'teacher_variables': variables,
      'student_variables': bert.every_second(variables),
      'batch_size': 8,
      'phases': command.phases(method, 3, 1, 3e-3),
      'preprocess': AsIs(),
      'task': embed.Embed(),
    }
    data = inputs, numbers
    lit_jax.compress(net, student, data, data, workdir, **settings | changes)
    content = json.loads((workdir / 'results.json').read_text())
    return content['rows'], saved.load(workdir / 'lit' / 'student', student)[1]

  return run


def _errors(workdir):
  """The IR error of the last block in each epoch of the first phase."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  told = [json.loads(line) for line in lines]
  return [row['ir/blocks_1'] for row in told if 'ir/blocks_1' in row]


@pytest.mark.slow
def test_lit_needs_no_labels(compress, teacher, tmp_path):
  found, own = compress(tmp_path / 'one')
  assert [row['method'] for row in found] == ['teacher', 'lit']
  assert [o['beta'] for o in found[1]['objectives']] == [0.0, 1.0]
  # The frozen embeddings are the teacher's, and the layers have learnt.
  stem = teacher[1]['params']['stem']
  jax.tree.map(np.testing.assert_array_equal, own['params']['stem'], stem)
  kept = bert.every_second(teacher[1])['params']
  before, after = (
    tree['blocks_1']['layers_0']['outer']['kernel']
    for tree in (kept, own['params'])
  )
  assert np.abs(before - after).max() > 1e-3
  errors = _errors(tmp_path / 'one')
  assert errors[-1] < 0.9 * errors[0]
  # Other labels, the same student.
  numbers = np.repeat(np.arange(8, dtype=np.int32), 2)
  _, other = compress(tmp_path / 'two', numbers=numbers)
  jax.tree.map(np.testing.assert_array_equal, own, other)


def test_what_is_no_pair_of_halves_is_refused(compress, tmp_path):
  with pytest.raises(UserError, match='two halves of each text'):
    compress(tmp_path / 'run', numbers=np.zeros(16, np.int32))


def test_reviews_are_halved_by_words(tmp_path):
  tokenizers = pytest.importorskip(
    'tokenizers', reason='needs pip install tokenizers'
  )
  words = {'[PAD]': 0, '[UNK]': 1} | {f'w{i}': i + 2 for i in range(20)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token='[UNK]')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  long = [' '.join(f'w{i}' for i in range(13)), 'too short', 'w9 ' * 12]
  found, numbers = texts.halves(long, tmp_path / 'tokenizer.json', 7)
  assert found.dtype == np.int32
  assert found.tolist() == [
    [2, 3, 4, 5, 6, 7, 0],
    [11] * 6 + [0],
    [8, 9, 10, 11, 12, 13, 14],
    [11] * 6 + [0],
  ]
  assert numbers.tolist() == [0, 1, 0, 1]
  with pytest.raises(UserError, match='none.json cannot be read'):
    texts.halves(long, tmp_path / 'none.json', 7)


def test_the_table_has_means_and_deviations():
  rows = [{'first': 0.1, 'reciprocal_rank': 0.25}] * 2
  text = command.table({'teacher': rows[:1], 'lit': rows})
  assert '| teacher | 10.0 | 0.250 | 1 |' in text
  assert '| lit | 10.0 ± 0.0 | 0.250 ± 0.000 | 2 |' in text


@pytest.mark.parametrize(
  'flags, words',
  [
    ((), '--workdir=DIR'),
    (('--workdir=x', '--weights=none'), 'none/config.json cannot be read'),
    (('--workdir=x', '--method=kd'), "'kd'"),
    (('--workdir=x', '--init_seeds=a'), "'a', which is no integer"),
    (('--workdir=x', '--length=0'), '--length'),
  ],
)
def test_bad_input_ends_in_a_line(
  flags, words, in_this_process, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  code, _, told = in_this_process(
    lambda: cli.run(command.main), 'minilm', *flags
  )
  assert code == 2
  assert words in told
  assert told.count('\n') == 1
  assert not list(tmp_path.iterdir())
