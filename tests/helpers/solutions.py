"""Solutions of problems, and their scores by `code_reward`."""

from dopr.rewards import make_code_reward

SQUARE = "def f(x):\n    return x * x\n"
TESTS = ["assert f(2) == 4", "assert f(3) == 9"]
quick = make_code_reward(
    test_limit_s=2.0, check_limit_s=20.0, memory_mb=512, file_mb=1.0, workers=2
)
shares = make_code_reward(partial=True, test_limit_s=1.0, check_limit_s=20.0, workers=2)


def fenced(code):
    return f"Here it is:\n```python\n{code}\n```\nThat is all."


def score_codes(codes, reward=quick, **columns):
    """One score a code; a column is one row's value, the same for all codes."""
    completions = [fenced(code) for code in codes]
    lists = {name: [value] * len(codes) for name, value in columns.items()}
    return reward(prompts=["p"] * len(codes), completions=completions, **lists)
