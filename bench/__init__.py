"""What is measured, and against whom: one command a file, `python bench/all.py` for all."""
