"""These tests need verl in an environment of its own (`make test-verl`); others leave them out."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("transfer_queue") else ["test_*.py"]
