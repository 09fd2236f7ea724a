"""The checker: is the backward right, which line is wrong, and what is the mistake.

It knows torch and the pass protocol, and nothing of the language model.
"""
