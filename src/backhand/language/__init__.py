"""Words in, names out: the lecture's character-level language model, from a list of words to new ones."""
