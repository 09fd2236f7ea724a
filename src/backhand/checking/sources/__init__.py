"""The doors: whatever can be checked, as a pass."""
