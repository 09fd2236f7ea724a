"""The course: exercises made from the textbook by blanking its backward passes, judged by the checker."""
