"""From verdicts to decisions, and to the control sets that a selection has to beat."""
