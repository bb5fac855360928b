"""Students to take away: copies of small networks that come with the project.

They lie in `students/`, by name, each with its card; `networks.saved.load` and
`--config.teacher.checkpoint` take that name.
"""

import pathlib
import shutil

from experiments.paper import artifacts, cards, plan, records, scales
from experiments.paper.artifacts import ARTIFACTS, label
from lit_jax.files import write_text
from lit_jax.networks import saved

# By artifact, the entries whose student of the first seed is worth taking.
_WORTH = {
  'claims': (label('LIT', 0), 'LIT'),
  'fig2': (label('LIT', 1),),
}
_BYTES = 1_000_000
_HEAD = """# Students

Networks that LIT trained, to take away: `saved.load('NAME')` of
`lit_jax.networks`, `--config.student.checkpoint=NAME` or
`--config.teacher.checkpoint=NAME`. Each folder has a card, which says how it
was made. Written by `python -m experiments.paper --publish`.
"""


def publish(scale: scales.Scale, root: records.Root) -> None:
  """Copies the students of a scale that were trained here and are small."""
  for artifact, labels in _WORTH.items():
    for half in plan.halves(scale, artifact, ARTIFACTS[artifact]):
      for entry in plan.entries(scale, half):
        if entry.label in labels:
          _copy(root, plan.run_of(scale, half, entry, 0).name)
  _list()


def _copy(root, run):
  network = root.network(run)
  if network is None or _size(network) > _BYTES:
    return
  facts = saved.describe(network)
  name = f'{facts.row["model"]}-{facts.dataset}'.replace('_', '-')
  folder = saved.STUDENTS / name
  shutil.rmtree(folder, ignore_errors=True)
  # Who uses the network alone does not need those beside it.
  shutil.copytree(network, folder, ignore=shutil.ignore_patterns('others'))
  # Orbax tells where it wrote the arrays first, which is nobody's business.
  write_text(folder / 'arrays' / 'commit_success.txt', 'done')


def _size(folder: pathlib.Path) -> int:
  """Bytes of all files, without networks that are kept beside."""
  return sum(
    path.stat().st_size
    for path in folder.rglob('*')
    if path.is_file() and 'others' not in path.relative_to(folder).parts
  )


def _list():
  lines = [
    _HEAD,
    '| name | layers | parameters | score |',
    '| --- | ---: | ---: | ---: |',
  ]
  for path in sorted(saved.STUDENTS.glob('*/network.json')):
    folder = path.parent
    row = saved.describe(folder).row
    measure = next(m for m in artifacts.MEASURES if m.key in row)
    lines.append(
      f'| [{folder.name}]({folder.name}/{cards.FILE}) | {row["depth"]} | '
      f'{row["parameters"]:,} | {measure.title} '
      f'{measure.scale * row[measure.key]:.2f} |'
    )
  if len(lines) > 3:
    write_text(saved.STUDENTS / 'README.md', '\n'.join([*lines, '']))
