"""Image data sets, one file a source."""
