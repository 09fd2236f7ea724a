"""Right layers over NumPy, in the styles of the courses, for `numpy_pairs.py` to make wrong."""
