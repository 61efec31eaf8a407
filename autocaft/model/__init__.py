"""Everything that touches the language model: load it, find its blocks, record or ablate inside it, sample from it."""
