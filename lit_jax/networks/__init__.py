"""One network at a time: saved, summed up, timed."""
