"""The textbook: one hand-written forward and backward a file.

Each module is a *pass*: `forward` and `backward` are plain functions over torch tensors that return their
`locals()`, and `backward` asks by parameter name for the tensors that it needs. `inputs` draws one set of
arguments.
"""
