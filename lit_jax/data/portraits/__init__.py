"""Images to translate, each with its attributes, one file a source."""
