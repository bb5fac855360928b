"""docs/paper.md: what of the paper was made again, at which scale, and held."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.paper import (
  artifacts,
  figures,
  findings,
  plan,
  records,
  scales,
)
from experiments.paper.artifacts import ARTIFACTS, Artifact
from lit_jax import models
from lit_jax.files import write_bytes, write_text
from lit_jax.networks.summary import summary
from lit_jax.report import sheets
from lit_jax.report.rows import Row
from lit_jax.runs import workdir

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
# Artifacts that are images, and how many examples each shows.
IMAGES = {'fig5': 4, 'fig9': 8}
# On the page, and in this order.
_SCALES = 'mid', 'mini', 'full'

# Multiply-accumulates a second of LIT's step on an H100 in bf16, modelled from
# the compiled program (docs/performance.md), batch 32 of ResNet and ResNeXt and
# 128 of VDCNN, as `plan.work` counts them.
_MODELLED = {'resnet': 55e12, 'resnext': 87e12, 'vdcnn': 133e12}
# The same of StarGAN: seconds of a step of 16 images, LIT's and adversarial.
_STARGAN = 1319e-6, 3099e-6
# Where nothing was trained.
_NOWHERE = pathlib.Path(__file__).parent / 'finished' / 'none'
_HEAD = """# The paper's tables and figures, made again

Koratana et al., 'LIT: Learned Intermediate Representation Training for Model
Compression'. This page is written by `python -m experiments.paper`, from the
records of finished runs in `experiments/paper/finished/`. What is claimed:

- *A better than B* held, or is contradicted, where Welch's two-sided p is below
  .05.
- *A like B* held where the difference lies within half a point of accuracy, by
  one-sided tests of both bounds at .05; that no difference was found shows
  nothing.
- *A no worse than B* held where A lies above B less half a point, one-sided at
  .05, and is contradicted where it lies below B. A teacher of one training is
  taken as it is.

Everything else is not decided. The spread is the sample's standard deviation
over n seeds, which share a given teacher and the test examples. Published
numbers stand beside ours only where networks, data and recipes are the paper's.
Times are of processes side by side, one a core, and latencies rough for that.
KD has the paper's α of .95 unless said otherwise; figure 7 has LIT beside KD of
other α.
"""


class Section(NamedTuple):
  """What was found of an artifact at a scale.

  Attributes:
    name: of the artifact.
    scale: its name.
    found: of each half, by `findings`.
  """

  name: str
  scale: str
  found: Sequence[dict[str, Any]]


def section(
  scale: scales.Scale,
  name: str,
  halves: Iterable[Artifact],
  seeds: int,
  root: records.Root,
) -> Section:
  """What is known of an artifact at a scale."""
  found = (findings.findings(scale, half, seeds, root) for half in halves)
  return Section(name, root.scale, [numbers for numbers in found if numbers])


def write(path: pathlib.Path, sections: Iterable[Section], end: str) -> None:
  """Writes the page, and its figures into a folder of its name beside it.

  Args:
    path: of the page.
    sections: in order.
    end: what stands below them.
  """
  folder = path.with_suffix('')
  folder.mkdir(parents=True, exist_ok=True)
  parts = [_HEAD]
  for section in sections:
    if not any(len(found['rows']) > 1 for found in section.found):
      # Another artifact's run alone.
      continue
    parts.append(_heading(section))
    name = f'{section.scale}-{section.name}'
    for i, found in enumerate(section.found):
      if section.name in IMAGES:
        files = sorted(folder.glob(f'{name}-*.png'))
      else:
        files = [folder / f'{name}-{i + 1}.svg']
        write_text(files[0], figures.draw(found))
      picture = '\n'.join(
        f'![{found["title"]}]({folder.name}/{file.name})\n' for file in files
      )
      parts.append(_half(section.scale, found, picture))
  write_text(path, '\n'.join([*parts, end]))


def write_page(path: pathlib.Path) -> None:
  """Writes docs/paper.md, of the rows that come with the project alone."""
  sections = []
  for name in _SCALES:
    scale = scales.find(name)
    root = records.root(_NOWHERE, name)
    sections += [
      section(scale, own, plan.halves(scale, own, halves), scale.seeds, root)
      for own, halves in ARTIFACTS.items()
    ]
  write(path, sections, '\n'.join([networks(), missing()]))


def _heading(section):
  return (
    f'## {section.name} at `{section.scale}`\n\n'
    f'```\npython -m experiments.paper --artifact={section.name} '
    f'--scale={section.scale}\n```\n'
  )


def _half(scale, found, picture):
  title = ' '.join(figures.title(found).split('\n'))
  sentences = [
    findings.sentence(claim, found['measure']) for claim in found['claims']
  ]
  claims = '\n'.join(f'- {s}.' for s in sentences + findings.savings(found))
  pair = scales.find(scale).pairs[found['family']]
  done, wanted = found['finished']
  missing = '' if done == wanted else f' **{done} of {wanted} runs are made.**'
  return (
    f'### {found["title"]}\n\n**{title}** — {pair.title}; '
    f'{", ".join(found["device"])}; jax {found["versions"]["jax"]}.{missing}'
    f'\n\n{table(found)}\n\n{claims}\n\n{picture}'
  )


def table(found: dict[str, Any]) -> str:
  """The rows, in Markdown."""
  measure = found['measure']
  pruned = any('nonzeros' in row for row in found['rows'])
  published = any(row['published'] for row in found['rows'])
  headings = [*findings.headings(measure)]
  if not published:
    headings.remove('paper')
  if pruned:
    headings += ['non-zeros', 'kB', 'ms at 128']
  lines = [headings, ['---', '---', *['---:'] * (len(headings) - 2)]]
  for row in found['rows']:
    cells = findings.cells(row, measure)
    if not published:
      del cells[findings.headings(measure).index('paper')]
    if pruned:
      cells += [
        f'{row["nonzeros"]:,}'
        if 'nonzeros' in row
        else f'{row["parameters"]:,}',
        f'{row["sparse_bytes"] / 1000:.0f}' if 'sparse_bytes' in row else '',
        f'{row["latency_ms"]["128"]:.1f}',
      ]
    lines.append(cells)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def networks() -> str:
  """Table 6 with what our networks cost, in Markdown."""
  lines = [
    '## table6\n\n```\npython -m experiments.paper --artifact=table6\n```\n',
    'Parameterisation as published; depth, parameters and multiply-accumulates '
    'of an image of 32x32 pixels counted in our networks.\n',
    '| network | units | layers | parameters | MACs |',
    '| --- | --- | ---: | ---: | ---: |',
  ]
  for family in ('resnet', 'resnext'):
    for depth in (*scales.PAPERS_DEPTHS, 110):
      spec = {'family': family, 'depth': depth}
      facts = summary(models.build(spec))
      units = ', '.join([str((depth - 2) // 6)] * 3)
      lines.append(
        f'| {family}-{depth} | [{units}] | {facts.depth} | '
        f'{facts.parameters:,} | {facts.macs / 1e6:,.1f} M |'
      )
  lines.append('')
  return '\n'.join(lines)


def missing() -> str:
  """What nobody has run at `full`, with what it would cost, in Markdown."""
  scale = scales.find('full')
  root = records.root(_NOWHERE, 'full')
  lines = [
    '## What is missing at `full`\n',
    'GPU hours are modelled, not measured: multiply-accumulates of the '
    'training over those that the compiled step makes in a second by the '
    'model of docs/performance.md (one H100, bf16).\n',
    '| artifact | runs missing | GPU hours |', '| --- | ---: | ---: |',
  ]  # fmt: skip
  every: dict[plan.Run, float] = {}
  for name, halves in ARTIFACTS.items():
    runs = plan.todo(scale, plan.runs(scale, halves, scale.seeds), root)
    for run in runs:
      if run not in every:
        every[run] = _hours(scale, run)
    if runs:
      hours = sum(every[run] for run in runs)
      lines.append(f'| {name} | {len(runs)} | {hours:,.1f} |')
  lines.append(
    f'| all, each run once | {len(every)} | {sum(every.values()):,.1f} |\n'
  )
  return '\n'.join(lines)


def _hours(scale, run):
  if run.family == 'stargan':
    steps = scale.pairs[run.family].examples / 16
    seconds = sum(
      phase.epochs * steps * _STARGAN[not phase.objective.needs_teacher]
      for phase in plan.phases(scale, run)
    )
  else:
    rate = _MODELLED[run.family.partition('_')[0]]
    seconds = plan.work(scale, run) / rate
  return seconds / 3600


def draw_images(
  scale: scales.Scale, name: str, root: records.Root, folder: pathlib.Path
) -> None:
  """Draws what the networks of the first seed make of the same images.

  Args:
    scale: of the runs.
    name: of an artifact of images.
    root: of the runs; of networks that are not there nothing is drawn.
    folder: of the page's figures.
  """
  for half in plan.halves(scale, name, ARTIFACTS[name]):
    run = plan.run_of(scale, half, artifacts.entry(half, 'LIT'), 0)
    network = root.network(run.name)
    if network is None:
      continue
    own = network.parents[1]
    content = workdir.read_results(own) or {'rows': []}
    rows = [Row.from_json(row, str(own), ()) for row in content['rows']]
    folder.mkdir(parents=True, exist_ok=True)
    for title, png in sheets.draw(own, rows, IMAGES[name]).items():
      write_bytes(folder / f'{root.scale}-{name}-{title}.png', png)
