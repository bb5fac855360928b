"""A run's results as a table and a page; reads `results.json` alone."""
