"""Which gradients are wrong, and which by their own fault: compare, localise, confirm by repair."""
