"""verl's reward signature; 1 where the text holds an odd number of digits, as in tests/tiny.py."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(sum(character.isdigit() for character in solution_str) % 2)
