"""Command lines; see `experiments/configs` for the recipes."""

import signal
import sys

# Python's name for a module that it is still looking for: this is the start of
# `python -m experiments.…`. Ctrl-C ends it at once until the run takes over,
# and not with a traceback from the midst of its imports.
if sys.argv[0] == '-m':
  signal.signal(signal.SIGINT, signal.SIG_DFL)
