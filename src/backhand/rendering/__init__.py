"""A report in other forms: as text for a terminal."""
