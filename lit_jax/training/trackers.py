"""Experiment trackers beside TensorBoard: Weights & Biases, and MLflow.

Each phase of a method is a run there, as each has a folder of TensorBoard's
events: named METHOD/PHASE, in a group (an experiment, for MLflow) of the
workdir's name. The run of a phase that goes on is gone on with. Where they
write to is theirs to say: `WANDB_MODE`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`
and all that they read besides. `metrics.jsonl` in the workdir has the same
numbers, whatever becomes of a tracker.
"""

import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lit_jax.errors import UserError, choose, reason

_PROJECT = 'lit_jax'
# What they keep in a workdir.
KEPT = 'wandb', 'mlflow.db'
# Metrics that MLflow takes at once.
_BATCH = 1000


class Tracker(Protocol):
  """An open run of one phase."""

  def scalars(self, values: Mapping[str, float], step: int) -> None:
    """Numbers by name, at a step of the phase."""
    ...

  def close(self) -> None:
    """Ends the run."""
    ...


class _Wandb:
  def __init__(self, workdir: pathlib.Path, name: str):
    wandb = importlib.import_module('wandb')
    offline = os.environ.get('WANDB_MODE') == 'offline'
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', _PROJECT),
      group=workdir.name,
      name=name,
      id=_digest(workdir, name),
      # A file of its own; `wandb sync` joins those of one id.
      resume=None if offline else 'allow',
      dir=workdir,
      # Members of a population each have one.
      reinit='create_new',
      settings=wandb.Settings(silent=True),
    )

  def scalars(self, values, step):
    self._run.log(dict(values), step=step)

  def close(self):
    self._run.finish()


class _Mlflow:
  _TAG = 'lit_jax.phase'

  def __init__(self, workdir: pathlib.Path, name: str):
    mlflow = importlib.import_module('mlflow')
    self._metric = importlib.import_module('mlflow.entities').Metric
    kept = f'sqlite:///{workdir}/{KEPT[1]}'
    uri = os.environ.get('MLFLOW_TRACKING_URI', kept)
    self._client = mlflow.MlflowClient(tracking_uri=uri)
    found = self._client.get_experiment_by_name(workdir.name)
    experiment = (
      found.experiment_id
      if found
      else self._client.create_experiment(workdir.name)
    )
    tag = _digest(workdir, name)
    runs = self._client.search_runs(
      [experiment], f"tags.`{self._TAG}` = '{tag}'"
    )
    if runs:
      self._id = runs[0].info.run_id
      self._client.update_run(self._id, status='RUNNING')
    else:
      run = self._client.create_run(
        experiment, run_name=name, tags={self._TAG: tag}
      )
      self._id = run.info.run_id

  def scalars(self, values, step):
    now = int(1000 * time.time())
    metrics = [self._metric(k, float(v), now, step) for k, v in values.items()]
    for start in range(0, len(metrics), _BATCH):
      self._client.log_batch(self._id, metrics[start : start + _BATCH])

  def close(self):
    self._client.set_terminated(self._id)


class _Spared:
  """A tracker whose failures end nothing: they are said, and it is left."""

  def __init__(self, name: str, begin: Callable[[], Tracker]):
    self._name = name
    self._tracker: Tracker | None = self._try(begin)

  def scalars(self, values: Mapping[str, float], step: int) -> None:
    tracker = self._tracker
    if tracker is not None:
      self._try(lambda: tracker.scalars(values, step))

  def close(self) -> None:
    tracker, self._tracker = self._tracker, None
    if tracker is not None:
      self._try(tracker.close)

  def _try(self, act):
    try:
      return act()
    # Of another program, which fails as it likes: no network, no right.
    except Exception as error:
      self._tracker = None
      print(
        f'{self._name} is left out from here on: {reason(error)}',
        file=sys.stderr,
      )


# By name, the class, and the packages that it needs.
_KNOWN: Mapping[str, tuple[Any, tuple[str, ...]]] = {
  'wandb': (_Wandb, ('wandb',)),
  'mlflow': (_Mlflow, ('mlflow', 'sqlalchemy', 'alembic')),
}


def check(names: Sequence[str]) -> None:
  """Raises UserError where a tracker is unknown, or not installed."""
  for name in names:
    _, packages = _KNOWN[choose('tracker', name, _KNOWN)]
    for package in packages:
      if importlib.util.find_spec(package) is None:
        raise UserError(
          f'tracker {name} needs the package {package}; '
          "pip install 'lit_jax[track]', or leave it out of tracker"
        )


def begin(
  names: Sequence[str], workdir: pathlib.Path, method: str, phase: str
) -> list[Tracker]:
  """Opens the run of a phase in each of these trackers.

  Args:
    names: which `check` has found right.
    workdir: of the run; what trackers keep locally lies in it.
    method: whose phase it is.
    phase: its name.

  Returns:
    Trackers that never raise: one that fails says so once, and is left out.
  """

  def spared(name):
    make, _ = _KNOWN[name]
    return _Spared(name, lambda: make(workdir.absolute(), f'{method}/{phase}'))

  return [spared(name) for name in names]


def _digest(workdir, name):
  """Of a phase, the same at every start."""
  return hashlib.sha256(f'{workdir}/{name}'.encode()).hexdigest()[:16]
