"""Right backwards in the styles that people write, for the benchmark of mutants: most go through time."""
