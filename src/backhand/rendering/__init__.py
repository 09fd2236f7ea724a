"""What people see: results as tables and progress on a terminal."""
