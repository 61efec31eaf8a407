"""A person reads the directions: a local page, blind to the judge, whose answers a run can use and `compare` reads."""
