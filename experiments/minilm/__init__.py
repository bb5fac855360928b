"""MiniLM-L6: label-free compression of a transformer that embeds texts."""
