"""The paper's tables and figures, one command each.

`artifacts.py` says what each is made of, `scales.py` with which networks and
data, `plan.py` which runs that takes, `statistics.py` what may be concluded,
and `__main__.py` is the command line.
"""
