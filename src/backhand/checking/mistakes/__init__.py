"""Name a culprit's mistake: explanations, simplest first; each must reproduce the user's tensor."""
