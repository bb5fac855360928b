"""Text data sets, one file a source."""
