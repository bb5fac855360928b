"""Whole runs: teacher, students by phases, what a workdir holds."""
