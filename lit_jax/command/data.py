"""`lit-jax data`: the data sets that have names."""

import argparse
from typing import Any

from lit_jax.data import sources
from lit_jax.data.dataset import home

_DESCRIPTION = """\
Lists the data sets: name, kind, and where each is read from.

Files are looked for in --data_dir, else in $LIT_JAX_DATA, else in
~/.cache/lit_jax. Data of your own need no name: `lit-jax compress` takes .npz
files.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'data', help='the data sets that have names', description=_DESCRIPTION
  )
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Prints a line for each."""
  del options
  width = max(map(len, sources.NAMES))
  for name in sources.NAMES:
    origin = sources.origin(name)
    there = 'comes with lit_jax' if origin.packaged else origin.place
    print(f'{name:{width}}  {origin.kind}: {there}')
  print(f'files are looked for in {home()}, or in --data_dir')
