"""Pure numbers from numbers."""
