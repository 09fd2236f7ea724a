"""What people see: a report, and the results of the language model, as text for a terminal."""
