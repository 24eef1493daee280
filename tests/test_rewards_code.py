"""Code is scored by its tests, however a data set writes them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.errors import UserError
from dopr.rewards import code_reward, load_reward, make_code_reward
from dopr.rewards.code import extract_code
from dopr.rewards.code_check import compare
from dopr.rewards.code_tests import find_tests
from solutions import SQUARE, TESTS, fenced, quick, score_codes, shares


def test_code_is_right_where_every_assertion_holds():
    codes = [SQUARE, "def f(x): return x + 2", "def f(x): return", "def g(x): return 4", "f(", ""]
    assert score_codes(codes, test_list=TESTS) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_share_of_tests_is_given_where_asked_for():
    tests = ["assert f(2) == 4", "assert f(0) == 0", "assert f(3) == 9", "assert f(-1) == 1"]
    hangs = "def f(x):\n    while x == 0: pass\n    return x * x"
    dies = "import os\ndef f(x):\n    if x == 0: os._exit(0)\n    return x * x"
    raises = "def f(x):\n    if x == 0: raise SystemExit\n    return x * x"
    codes = [SQUARE, "def f(x): return x + 2", hangs, dies, raises, "while True: pass"]
    assert score_codes(codes, shares, test_list=tests) == [1.0, 0.5, 0.75, 0.75, 0.75, 0.0]


def test_programs_read_and_print():
    info = {
        "language": "python",
        "test_cases": [
            {"input": "3\n", "output": "6\n", "type": "stdin_stdout", "fn_name": None},
            {"input": "4", "output": "8 \n\n", "type": "stdin_stdout", "fn_name": None},
        ],
    }
    double = "if __name__ == '__main__':\n    print(int(input()) * 2)"
    codes = [double, "print(6)", "print(int(input()) * 2)\nraise ValueError", "import sys\n"]
    assert score_codes(codes, verification_info=info) == [1.0, 0.0, 0.0, 0.0]
    assert score_codes([double], verification_info=json.dumps(info)) == [1.0]
    columns = {name: [case[name] for case in info["test_cases"]] for name in ("input", "output")}
    assert score_codes([double], verification_info={"test_cases": columns}) == [1.0]
    assert score_codes(codes[:2], shares, verification_info=info) == [1.0, 0.5]


def test_functions_are_called_as_each_data_set_writes_it():
    method = "class Solution:\n    def add(self, a: List[int], b: int):\n        return [*a, b]"
    verl = json.dumps({"inputs": ["[1, 2]\n3"], "outputs": ["[1, 2, 3]"], "fn_name": "add"})
    apps = {"inputs": [[[1, 2], 3]], "outputs": [[[1, 2, 3]]], "fn_name": "add"}
    open_r1 = {
        "test_cases": [
            {
                "input": "[[1, 2], 3]",
                "output": "[1, 2, 3]",
                "type": "function_call",
                "fn_name": "add",
            }
        ]
    }
    live = [{"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}]
    rows = [
        {"input_output": json.dumps(apps)},
        {"ground_truth": verl},
        {"answer": verl},
        {"reward_model": {"ground_truth": verl, "style": "rule"}},
        {"verification_info": open_r1},
        {"public_test_cases": json.dumps(live), "metadata": json.dumps({"func_name": "add"})},
        {"extra_info": json.dumps({"input_output": apps})},
        {"ground_truth": json.dumps({"assert_case": ["assert Solution().add([1], 2) == [1, 2]"]})},
    ]
    for row in rows:
        assert score_codes([method, method.replace("[*a, b]", "a")], **row) == [1.0, 0.0], row


def test_a_checked_function_may_continue_its_prompt():
    prompt = 'def f(x):\n    """The square of x."""\n'
    row = {
        "test": [
            "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9"
        ]
        * 3,
        "entry_point": ["f"] * 3,
    }
    completions = ["    return x * x", fenced(SQUARE), "    return 4"]
    assert quick(prompts=[prompt] * 3, completions=completions, **row) == [1.0, 1.0, 0.0]


def test_the_setup_of_a_row_runs_before_its_code():
    row = {"test_list": ["assert close(f(2), 4)"], "test_imports": ["import math as m"]}
    row["test_setup_code"] = "def close(a, b): return m.isclose(a, b)"
    assert score_codes([SQUARE, "def f(x): return 5"], **row) == [1.0, 0.0]


def test_rows_without_tests_and_in_other_languages_are_unscored(caplog):
    rows = {
        "test_list": [TESTS, None, None],
        "verification_info": [
            None,
            {"language": "cpp", "test_cases": [{"input": "", "output": ""}]},
            None,
        ],
    }
    completions = [fenced(SQUARE)] * 3
    reward = make_code_reward(workers=1)
    assert reward(prompts=["p"] * 3, completions=completions, **rows) == [1.0, None, None]
    assert reward(prompts=["p"], completions=completions[:1], answer=["42"]) == [None]
    assert "no row of a batch has tests" in caplog.text
    with pytest.raises(UserError, match="needs tests in one of the columns"):
        reward(prompts=["p"], completions=completions[:1], solution=["42"])
    with pytest.raises(UserError, match="'tests' holds tests in a form"):
        reward(prompts=["p"], completions=completions[:1], tests=[[1, 2]])
    with pytest.raises(UserError, match="2 inputs and 1 outputs"):
        reward(prompts=["p"], completions=["x"], input_output=[{"inputs": [1, 2], "outputs": [1]}])


def test_the_code_of_a_completion_is_its_last_python_block():
    text = "```python\na\n```\n```text\nb\n```\n```py\nc\n```\n```\nd\n```"
    assert extract_code(text) == "c\n"
    assert extract_code("```\nx\n```") == "x\n"
    assert extract_code("```python\nx = 1\n") == "x = 1\n"  # cut off, the tests decide
    assert extract_code("<think>```python\nno\n```</think>\n```python\nyes\n```") == "yes\n"
    assert extract_code("<answer>x = 1</answer>") == "x = 1"
    assert extract_code("print(1)") == "print(1)"


def test_tests_are_found_in_arrays_and_nested_columns():
    assert (
        find_tests({"test_list": np.array(TESTS, dtype=object)}).tests[0]["assertion"] == TESTS[0]
    )
    assert find_tests({"extra_info": {"test_list": TESTS}}).tests[1]["assertion"] == TESTS[1]
    assert find_tests({"answer": "42"}) is None and find_tests({"answer": "[1, 2]"}) is None


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3", "1 2 \n3\n\n", True),
        ("0.333333333", "0.3333333", True),
        ("0.33", "0.3333333", False),
        ("1000001", "1000000", False),
        ("1\n2", "1 2", False),
        ("yes", "YES", False),
        ("", "", True),
        ("nan", "1.0", False),
    ],
)
def test_outputs_are_compared_line_by_line_and_numbers_closely(printed, expected, same):
    assert compare.same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ((1, 2), [1, 2], True),
        ([1, 2], [[1, 2]], True),
        ([[1, 2]], [1, 2], False),
        (4, "4", True),
        ("4", "4", True),
        (True, 1, False),
        (0.1 + 0.2, 0.3, True),
        (2, 3, False),
        ({1: "a"}, {"1": "a"}, True),
        (None, "None", True),
        ({1, 2}, [2, 1], True),
        ("ab", ["ab"], True),
    ],
)
def test_results_are_compared_as_json_writes_them(found, wanted, same):
    assert compare.same_result(found, wanted) is same


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(values)
def test_a_value_survives_the_way_to_the_judge(value):
    from dopr.rewards.code_check.runner import encode

    assert compare.decode(json.loads(json.dumps(encode(value)))) == value


def test_an_assertion_keeps_its_literal_on_the_judges_side():
    assert compare.assertion("assert f(1) == [2, 'a']") == {
        "expression": "f(1)",
        "expected": [2, "a"],
    }
    assert compare.assertion("assert (1, 2) == f(1)") == {"expression": "f(1)", "expected": (1, 2)}
    assert compare.assertion("assert f(1) in g()")["truth"] is True
    assert "script" in compare.assertion("x = 1\nassert f(x) == 1")
    assert "script" in compare.assertion("assert (")


def test_the_reward_is_loaded_by_name_with_options():
    assert load_reward("code") is code_reward
    partial = load_reward("code?partial=true&test_limit_s=5&workers=1")
    assert score_codes(["def f(x): return 4"], partial, test_list=TESTS) == [0.5]
    first = load_reward("code?max_tests=1&workers=1")
    assert score_codes(["def f(x): return 4"], first, test_list=TESTS) == [1.0]
    with pytest.raises(UserError, match="did you mean 'partial'"):
        load_reward("code?partail=true")
    with pytest.raises(UserError, match="must be true or false"):
        load_reward("code?partial=3")
    with pytest.raises(UserError, match="test_s is not"):
        make_code_reward(test_limit_s=0)
