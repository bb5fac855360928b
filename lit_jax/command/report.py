"""`lit-jax report`: a run's table and page once more."""

import argparse
import pathlib
from typing import Any

from lit_jax import report

_DESCRIPTION = """\
Makes report.html of a run's folder again, and prints its table.

Nothing but results.json, metrics.jsonl and the pictures in the folder is read:
no data and no network are needed.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'report', help='the table and page of a run', description=_DESCRIPTION
  )
  parser.add_argument('workdir', metavar='WORKDIR', help='the folder of a run')
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Writes the page, and prints the table.

  Raises:
    UserError: as `report.write_html`.
  """
  workdir = pathlib.Path(options.workdir).expanduser()
  report.show(report.read_results(workdir), report.write_html(workdir))
