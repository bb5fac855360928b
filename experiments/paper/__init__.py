"""The paper's tables and figures, one command each.

`artifacts.py` says what each is made of, `scales.py` with which networks and
data, `plan.py` which runs that takes, and `workers.py` makes them side by side.
`records.py` keeps what a run found and `cards.py` describes its network;
`statistics.py` and `findings.py` say what may be concluded, `figures.py` and
`document.py` show it, and `students.py` keeps what is worth taking.
`finished/` holds the rows behind docs/paper.md. `__main__.py` is the command
line.
"""
