"""The TRL user's path: an ordinary script, one import changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import make_dataset

SCRIPT = Path(__file__).parent.parent / "examples" / "train_grpo.py"
TRL_IMPORT = "from trl import GRPOConfig, GRPOTrainer"
OUR_IMPORT = "from dopr import DoPRConfig as GRPOConfig, DoPRTrainer as GRPOTrainer"


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_script_runs_with_one_import_changed(
    tmp_path: Path, tiny_model_dir: Path, chat: bool
) -> None:
    text = SCRIPT.read_text()
    assert TRL_IMPORT in text and OUR_IMPORT in text
    script = tmp_path / "train.py"
    script.write_text(text.replace(TRL_IMPORT, OUR_IMPORT))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in make_dataset(chat=chat).to_list()))
    output = tmp_path / "out"
    subprocess.run([sys.executable, script, tiny_model_dir, data, output], check=True, timeout=250)
    state = json.loads((output / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["global_step"] == 5
    assert (output / "final" / "model.safetensors").is_file()
