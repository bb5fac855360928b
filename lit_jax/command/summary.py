"""`lit-jax summary`: what a network costs, part by part."""

import argparse
from typing import Any

from lit_jax.command import network
from lit_jax.networks.summary import summary

_DESCRIPTION = """\
Shows depth, parameters and multiply-accumulates (MACs) of a network's parts.

Depth is that of convolutions and matrix products, and MACs are those of one
example's forward pass. Nothing is trained, and no array is computed.
"""


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'summary', help='what a network costs', description=_DESCRIPTION
  )
  parser.add_argument('network', metavar='NETWORK', help=network.HELP)
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Prints the table.

  Raises:
    UserError: as `network.find` and `Named.build`.
  """
  named = network.find(options.network)
  net = named.build()
  print(named.title)
  print(summary(net))
