"""What does a direction mean, and is it the unwanted concept? Cards in, verdicts out.

Read in this order; after the first four you know how a verdict comes to be:

1. `base.py`      what a judge is, and a card: all that one may see of a direction
2. `cards.py`     which windows are shown, which are held out, what is marked
3. `chat.py`      describe, verify, rate, rate the words alone: the calls about one direction
4. `verdicts.py`  from the replies to the verdict, with `schema.py` (what a reply must be), `odds.py` (numbers weighted
                  by the model's own probabilities) and `detection.py` (does the description tell windows apart?)
5. `stage.py`     the whole stage: makes the judge, keeps each verdict, goes on after a kill, writes the summary
6. `panel.py`     several judges on the same cards, and how far they agree
7. `files.py`     a judge that is somebody else: cards out, replies in
8. `offline.py`   a judge without a service: `offline_words.py` (peaks and words), `offline_encoder.py` (the models),
                  `offline_scale.py` (from distances to 0-100)

`options.py` has the settings, `prompts.py` fills the files in `prompts/`.
"""
