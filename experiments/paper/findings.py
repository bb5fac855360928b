"""What the runs of an artifact say: its rows, and the claims tested."""

from typing import Any

from experiments.paper import artifacts, plan, records, scales, statistics
from experiments.paper.artifacts import Artifact, Claim

_ROW = ('model', 'depth', 'parameters', 'macs', 'epochs', 'latency_ms')


def findings(
  scale: scales.Scale, artifact: Artifact, seeds: int, root: records.Root
) -> dict[str, Any] | None:
  """An artifact's numbers.

  Args:
    scale: of the runs.
    artifact: with a family that the scale has.
    seeds: runs of each number.
    root: of the runs.

  Returns:
    JSON values: 'title', 'family', 'axis', 'measure', 'dataset', 'device',
    'versions', 'finished' of how many runs, 'rows' and 'claims'. Rows without a
    finished run are left out; None where that is so of all.
  """
  measure = artifact.measure
  rows, scores, sources, wanted = [], {}, [], 0
  for entry in plan.entries(scale, artifact):
    runs = plan.runs_of(scale, artifact, entry, seeds)
    wanted += len(runs)
    own = [record for run in runs if (record := plan.record(scale, root, run))]
    if not own:
      continue
    sources += own
    values = [record['row'][measure.key] for record in own]
    scores[entry.label] = values
    first = own[0]['row']
    rows.append(
      {
        'label': entry.label,
        'method': entry.method,
        'series': entry.series,
        'published': list(entry.published) if scale.published else [],
        'scores': values,
        **statistics.summary(values)._asdict(),
        'train_seconds': _mean(r['row']['train_seconds'] for r in own),
        'x': _place(artifact, entry, first),
        **{key: first[key] for key in _ROW},
        **{key: first[key] for key in ('nonzeros', 'sparse_bytes')
           if key in first},
      }
    )  # fmt: skip
  if not rows:
    return None
  return {
    'title': artifact.title,
    'family': artifact.family,
    'axis': artifact.axis,
    'measure': measure._asdict(),
    'dataset': sources[0]['dataset'],
    'device': sorted({source['device'] for source in sources}),
    'versions': sources[0]['versions'],
    'finished': [len(sources), wanted],
    'rows': rows,
    'claims': [
      _tested(claim, scores, measure)
      for claim in artifact.claims
      if {claim.better, claim.than} <= set(scores)
    ],
  }


def headings(measure: dict[str, Any]) -> tuple[str, ...]:
  """Of what `cells` gives."""
  return (
    '', 'network', 'paper', measure['title'], 'std', 'n', 'epochs', 'min a run'
  )  # fmt: skip


def cells(row: dict[str, Any], measure: dict[str, Any]) -> list[str]:
  """What a table shows of a row: one text a heading."""
  scale = measure['scale']
  return [
    row['label'],
    row['model'],
    ' ± '.join(f'{scale * x:.2f}' for x in row['published']),
    f'{scale * row["mean"]:.2f}',
    '' if row['std'] is None else f'{scale * row["std"]:.2f}',
    str(row['n']),
    f'{row["epochs"]:g}',
    f'{row["train_seconds"] / 60:.1f}',
  ]


def savings(found: dict[str, Any]) -> list[str]:
  """How much less than the teacher's each of LIT's students costs, in lines.

  Args:
    found: of `findings`; without a row of the teacher there is nothing to say.
  """
  teacher = next((row for row in found['rows'] if not row['method']), None)
  if teacher is None:
    return []
  return [
    f'{row["label"]}, {row["model"]} of {teacher["model"]}: '
    f'{teacher["depth"] / row["depth"]:.2g} times fewer layers, '
    f'{teacher["parameters"] / row["parameters"]:.2g} times fewer parameters, '
    f'{teacher["macs"] / row["macs"]:.2g} times fewer multiply-accumulates, '
    f'{teacher["latency_ms"]["128"] / row["latency_ms"]["128"]:.2g} times as '
    'fast at batch 128'
    for row in found['rows']
    if row['method'] == 'lit' and row['depth'] < teacher['depth']
  ]


def _mean(values):
  values = list(values)
  return sum(values) / len(values)


def _place(artifact, entry, row):
  if artifact.axis == 'depth':
    return row['depth']
  if artifact.axis == 'nonzeros':
    return row.get('nonzeros', row['parameters'])
  return entry.x


def _tested(claim: Claim, scores, measure) -> dict[str, Any]:
  sign = 1 if measure.largest else -1
  better, than = (
    [sign * value for value in scores[name]]
    for name in (claim.better, claim.than)
  )
  if claim.kind == artifacts.EQUAL:
    found = statistics.compare_equal(better, than, measure.margin)
  elif claim.kind == artifacts.NO_LOSS:
    found = statistics.compare_no_loss(better, than, measure.margin)
  else:
    found = statistics.compare(better, than)
  found = found._replace(difference=sign * found.difference)
  power = statistics.detectable(
    statistics.summary(better), statistics.summary(than)
  )
  return (
    claim._asdict()
    | {'difference_printed': claim.difference}
    | found._asdict()
    | {'detectable': power}
  )


def sentence(claim: dict[str, Any], measure: dict[str, Any]) -> str:
  """What was found of a claim, in a line."""
  words = {
    artifacts.ABOVE: f'{claim["better"]} better than {claim["than"]}',
    artifacts.EQUAL: f'{claim["better"]} like {claim["than"]}',
    artifacts.NO_LOSS: f'{claim["better"]} no worse than {claim["than"]}',
  }[claim['kind']]
  if claim['words']:
    words += f' ({claim["words"]})'
  tested = 'not tested: too few runs'
  if claim['welch'] is not None:
    tested = f'Welch p = {claim["welch"]:.2g}'
    if claim['pooled'] is not None:
      tested += f', pooled {claim["pooled"]:.2g}'
  difference = f'{measure["scale"] * claim["difference"]:+.2f}'
  if claim['difference_printed'] is not None:
    printed = measure['scale'] * claim['difference_printed']
    tested += f'; the paper {printed:+.2f}'
  if claim['p'] is not None:
    tested += f'; the paper p = {claim["p"]:.2g}'
  power = ''
  undecided = claim['verdict'] == statistics.NOT_DECIDED
  # The power to find a difference says nothing of that to show none.
  if undecided and claim['detectable'] and claim['kind'] != artifacts.EQUAL:
    power = (
      f'; {measure["scale"] * claim["detectable"]:.2g} would be found in four '
      'of five such experiments'
    )
  return f'{words}: {claim["verdict"]} ({difference}; {tested}{power})'
