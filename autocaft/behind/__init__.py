"""Two looks behind a finished run: is the cue still in there, and was the judge right about causes?"""
