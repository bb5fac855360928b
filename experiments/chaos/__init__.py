"""Shows that a training run survives faults: python -m experiments.chaos."""
