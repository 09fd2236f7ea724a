"""Right Functions in the styles of the libraries that ship them, for the benchmark of kernels."""
