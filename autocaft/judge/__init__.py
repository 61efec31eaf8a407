"""What does a direction mean, and is it the unwanted concept? Cards in, verdicts out.

Read `base.py` (what a judge is), `cards.py` (what it sees), then one of `chat.py`, `files.py`, `offline.py`, how
replies become a verdict (`schema.py`, `odds.py`, `verdicts.py`), and `stage.py`; `panel.py` puts several judges
together.
"""
