"""The textbook over NumPy: each module has `forward`, which hands a cache on, and `backward(dout, cache)`.

That is the form of CS231n and of many courses after it. The gradients are held to those of the passes over
torch, or to torch's own functions, by a test.
"""
