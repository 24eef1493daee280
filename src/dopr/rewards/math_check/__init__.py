"""The comparison of mathematical answers, run in checking processes (see handler.py)."""
