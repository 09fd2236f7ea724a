"""The checker: is the backward right, which line is wrong, and what is the mistake.

It knows torch and the pass protocol, and nothing of the language model.
"""

from backhand.renderers import register

register("row.rule", "backhand.checking.explaining:explain")
