"""What would each of many data sets teach besides its task?  The screen: no training.

Read `options.py` (what is asked), `steps.py` (the order), then `rows.py`, `own.py`, `project.py`, `screen.py`,
`read.py` and `outcome.py`; `duplicates.py` stands by itself. A door like review/ and compare/: it uses the rooms below
and adds nothing to them.
"""
