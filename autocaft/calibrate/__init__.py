"""Does a judge know what it reads? Directions of known meaning in the real model, judged as in a run.

Read `planted.py` (the concepts and their sentences), `directions.py` (directions and mined windows), `questions.py`
(who is asked about what, and the right answers), `score.py` (the figures), then `run.py`.
"""
