"""Prompts are rendered alike wherever the policy reads them, and completions end alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from cli_tools import rows_of, train, words, write
from dopr import DoPRConfig, DoPRTrainer
from dopr.core.errors import UserError
from dopr.core.strategy import Measure
from dopr.policy import prompts as policy_prompts
from dopr.policy.ends import Ends
from dopr.policy.measuring import measure
from dopr.policy.models import load_model
from dopr.policy.prompts import prompt_lengths, prompt_texts, within_context
from dopr.policy.sampling import Sampling, generate
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}.{% else %}(think){% endif %}"
)


def thinker() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


# -- chat templates ------------------------------------------------------------------------------


def test_template_options_reach_texts_and_lengths() -> None:
    chat = make_dataset(3, chat=True)
    quiet = {"enable_thinking": False}
    assert prompt_texts(thinker(), chat["prompt"][:], quiet) == ["0+1=?.", "1+2=?.", "2+3=?."]
    assert prompt_lengths(chat, thinker(), quiet).tolist() == [6, 6, 6]
    assert prompt_lengths(chat, thinker()).tolist() == [12, 12, 12]


def test_template_options_reach_rollouts_evaluation_lengths_and_measurements(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        {"prompt": [{"role": "user", "content": f"{i}+{i}="}], "answer": str(2 * i)}
        for i in range(12)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rw.py").write_text(
        "def odd(completions, **columns):\n"
        "    return [float(len(c[0]['content']) % 2) for c in completions]\n"
    )
    from transformers import PreTrainedTokenizerBase

    original, seen = PreTrainedTokenizerBase.apply_chat_template, []

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs.get("enable_thinking", "not given"))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", spy)
    chosen = words(tmp_path, model, steps=2, eval_dataset=data, strategy="pcl", **{
        "trl.chat_template_kwargs": "{enable_thinking: false}",
        "strategy_args.candidates": None,
        "eval.every_steps": 1,
    })  # fmt: skip
    assert train(*chosen) == 0
    assert len(seen) >= 6 and set(seen) == {False}


def test_measurements_read_the_same_prompt() -> None:
    pool, tokenizer = make_dataset(2, chat=True), thinker()
    asked = Measure((0, 1), "perplexity")
    read = [
        measure(asked, make_model(), tokenizer, pool, [], [], Sampling(template_options=options))[1]
        for options in (None, {"enable_thinking": False})
    ]
    assert read == [24, 12]


def test_chats_for_a_model_without_template_get_one_sentence(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "chat_template.jinja").unlink()
    assert train(*words(tmp_path, model, chat="true")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no chat template" in error and "chat: false" in error


def test_a_template_that_refuses_a_prompt_is_told() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="roles must alternate"):
        prompt_texts(tokenizer, make_dataset(1, chat=True)["prompt"][:])


# -- lengths ---------------------------------------------------------------------------------------


def test_lengths_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["1" * (i % 7 + 1) for i in range(50)]
    data = Dataset.from_dict({"prompt": texts})
    sizes: list[int] = []
    whole = policy_prompts.prompt_token_ids

    def spy(tokenizer: Any, prompts: Any, options: Any = None) -> Any:
        sizes.append(len(prompts))
        return whole(tokenizer, prompts, options)

    monkeypatch.setattr(policy_prompts, "_AT_ONCE", 8)
    monkeypatch.setattr(policy_prompts, "prompt_token_ids", spy)
    assert prompt_lengths(data, make_tokenizer()).tolist() == [len(text) for text in texts]
    assert max(sizes) == 8 and sum(sizes) == 50


def long_and_short() -> Dataset:
    return Dataset.from_dict({"id": ["a", "b", "c"], "prompt": ["12=", "123456789=", "1234="]})


def test_a_longest_prompt_can_be_set() -> None:
    def within(how: str, most: int | None = 5) -> Any:
        data, tokenizer = long_and_short(), make_tokenizer()
        return within_context(data, make_model(), tokenizer, 8, how, max_prompt_length=most)

    assert within("error", None)["id"][:] == ["a", "b", "c"]
    assert within("drop")["id"][:] == ["a", "c"]
    assert within("truncate")["prompt"][:] == ["12=", "6789=", "1234="]
    assert within("truncate").column_names == ["id", "prompt"]
    with pytest.raises(UserError, match=r"1 of 3 .*'b' has 10 tokens.*max_prompt_length 5"):
        within("error")
    with pytest.raises(UserError, match="no prompt fits max_prompt_length 2"):
        within("drop", 2)


def test_chats_are_not_cut_in_the_middle_of_their_template() -> None:
    chat = make_dataset(2, chat=True)
    with pytest.raises(UserError, match="chats are not cut"):
        within_context(chat, make_model(), make_tokenizer(), 8, "truncate", max_prompt_length=3)


# -- ends ------------------------------------------------------------------------------------------


def test_evaluation_ends_where_training_does(tmp_path: Path, tiny_model_dir: Path) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model_dir)
    tokenizer = make_tokenizer()
    second = tokenizer.convert_tokens_to_ids("=")
    write(model_dir / "generation_config.json", {"eos_token_id": [1, second], "pad_token_id": 0})
    seen: list[list[int]] = []

    def spy(completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        seen.extend(completion_ids)
        return digits_reward(completions)

    model, tokenizer = load_model(str(model_dir))
    args = DoPRConfig(**settings(tmp_path / "run", max_steps=2, max_completion_length=30))
    DoPRTrainer(model, spy, args, make_dataset(), processing_class=tokenizer).train()
    model, tokenizer = load_model(str(model_dir))
    assert Ends.of(model, tokenizer).marks == (1, second)
    ids = generate(model, tokenizer, make_dataset()["prompt"][:], 2, Sampling(max_new_tokens=30))
    for rollouts in (seen, ids):
        assert any(row[-1] == second for row in rollouts)
        assert not any({1, second} & set(row[:-1]) for row in rollouts)


def test_stop_strings_and_end_marks_of_generation_kwargs_are_heeded() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    four = tokenizer.convert_tokens_to_ids("4")
    texts = make_dataset()["prompt"][:]
    for options in ({"stop_strings": ["7", "ab"]}, {"stop": "7"}):
        ids = generate(model, tokenizer, texts, 4, Sampling(30, generation_options=options))
        found = tokenizer.batch_decode(ids)
        assert any("7" in text for text in found)
        assert all("7" not in text[:-1] or text.endswith("7") for text in found)
        assert all(text.index("7") == len(text) - 1 for text in found if "7" in text)
    options_: dict[str, Any] = {"stop_token_ids": [four]}
    ids = generate(model, tokenizer, texts, 4, Sampling(30, generation_options=options_))
    assert any(row[-1] == four for row in ids) and not any(four in row[:-1] for row in ids)
    assert Ends.of(model, tokenizer, {"eos_token_id": 9}).marks == (9,)


@pytest.mark.parametrize(("pad", "kept"), [(0, [5, 6]), (1, [5, 6])])
def test_padding_after_a_stop_string_is_no_token(pad: int, kept: list[int]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token_id = pad
    stop = tokenizer.decode([6])
    ends = Ends((1,), (stop,))
    assert ends.cut([5, 6, pad, pad], tokenizer) == kept
    assert ends.cut([5, 1, pad, pad], tokenizer) == [5, 1]
    assert ends.cut([5, 5, 5], tokenizer) == [5, 5, 5]


# -- evaluation sets -------------------------------------------------------------------------------


def test_each_evaluation_set_is_scored_by_itself(tmp_path: Path, tiny_model_dir: Path) -> None:
    files = []
    for name, answers in (("odd", [1, 3]), ("even", [2, 4, 6])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(
            "".join(json.dumps({"prompt": f"{a}=", "answer": str(a)}) + "\n" for a in answers)
        )
        files.append(str(file))
    (tmp_path / "rw.py").write_text(
        "def odd(completions, answer, **columns):\n    return [float(int(a) % 2) for a in answer]\n"
    )
    write_rows = [{"prompt": f"{i}=", "answer": str(i)} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in write_rows))
    chosen = words(tmp_path, tiny_model_dir, steps=1, eval_dataset=f"[{files[0]}, {files[1]}]")
    assert train(*chosen) == 0
    last = rows_of(tmp_path / "run/eval.jsonl")[-1]
    assert last["avg@k"] == pytest.approx(2 / 5)
    assert {name: part["avg@k"] for name, part in last["sets"].items()} == {
        files[0]: 1,
        files[1]: 0,
    }
    assert [part["num_prompts"] for part in last["sets"].values()] == [2, 3]
    lengths = [part["mean_length"] for part in last["sets"].values()]
    assert last["mean_length"] == pytest.approx((2 * lengths[0] + 3 * lengths[1]) / 5)


def test_tool_calls_in_a_history_reach_the_template(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    # Fails on a call whose arguments were filled up with those of other calls.
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    calls = [
        {"type": "function", "function": {"name": "f", "arguments": arguments}}
        for arguments in ({"a": 1}, {"b": 2})
    ]
    rows = [
        {
            "prompt": [
                {"role": "user", "content": f"{i}+1="},
                {"role": "assistant", "content": "", "tool_calls": [calls[i % 2]]},
                {"role": "tool", "content": "2", "name": "f"},
            ],
            "answer": "2",
        }
        for i in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rw.py").write_text(
        "def odd(prompts, completions, **columns):\n"
        "    for prompt in prompts:\n"
        "        [call] = prompt[1]['tool_calls']\n"
        "        assert call['function']['arguments'] in ({'a': 1}, {'b': 2}), call\n"
        "        assert list(prompt[0]) == ['role', 'content'], prompt\n"
        "    return [float(len(c[0]['content']) % 2) for c in completions]\n"
    )
    data = tmp_path / "rows.jsonl"
    chosen = words(tmp_path, model, steps=1, eval_dataset=data, **{"strategy_args.candidates": 4})
    assert train(*chosen) == 0
