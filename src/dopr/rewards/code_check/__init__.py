"""The execution of model-written code against tests, in checking processes (see handler.py)."""
