"""Command lines; see `experiments/configs` for the recipes."""
