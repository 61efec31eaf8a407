"""How far the judge's choice is a person's: in names, in the span that is ablated, and in the model that comes out."""
