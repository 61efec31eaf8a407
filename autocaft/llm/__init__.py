"""One door to every language model that is asked something: `client.LanguageClient.ask`.

A question goes down this list and its answer comes back up; read it in this order:

1. `outcomes.py`  what is asked, what comes back, and the kinds of failure
2. `client.py`    the door: stored answer or a bought one, kept before it is read
3. `budget.py`    what may be spent, held before each question; `prices.py` says what tokens cost
4. `traffic.py`   when a request may go out, how many at once, when it is tried again
5. `vendors.py`   the two wire formats through the official SDKs; `deadline.py` ends a request by the wall clock,
                  `faults.py` says what an exception means
6. `replies.py`   from the text of a reply to a checked object; `odds.py`: the mean over the numbers it might have had

Two other ways in at step 5: `batch.py` (the vendors' batch APIs) and `local.py` (a model in this process) over
`gather.py`, which turns many waiting threads into one list. `doors.py` makes a client from a name such as
`openai:MODEL`, `address.py` checks what a config may say of a server.
"""
