"""Vision-language models small enough to train in a test, and prompts with pictures."""

from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tiny import make_tokenizer

_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# A picture is where its message says so, then the text.
_TEMPLATE = (
    "{{% for m in messages %}}{{% if m['content'] is string %}}{{{{ m['content'] }}}}{{% else %}}"
    "{{% for p in m['content'] %}}{{% if p['type'] == 'image' %}}{0}{{% else %}}{{{{ p['text'] }}}}"
    "{{% endif %}}{{% endfor %}}{{% endif %}}{{% endfor %}}"
)


def make_llava() -> tuple[Any, Any]:
    """Model and processor; a picture is four tokens, and one row of `pixel_values`."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.format("<image>"),
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=LlamaConfig(vocab_size=len(tokenizer), **_TEXT),
        vision_config=CLIPVisionConfig(**_VISION),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    return LlavaForConditionalGeneration(config), processor


def make_gemma() -> tuple[Any, Any]:
    """Model and processor; a picture is four tokens, told from text by `token_type_ids`."""
    tokenizer = make_tokenizer()
    names = {"image_token": "<soft>", "boi_token": "<begin>", "eoi_token": "<end>"}
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=_TEMPLATE.format("<begin>"),
        image_seq_length=4,
    )
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=_TEXT | {"vocab_size": len(tokenizer), "head_dim": 8},
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        pad_token_id=0,
        eos_token_id=1,
    )
    return Gemma3ForConditionalGeneration(config), processor


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (28, 28), (shade, shade, shade))


def make_pictures(rows: int = 12, column: str = "image") -> Dataset:
    """Prompt i has a picture of shade 20 * i; with the column `images`, one or two of it."""
    prompts = [
        [{"role": "user", "content": f"what is {'so ' * (i % 4)}grey?"}] for i in range(rows)
    ]
    shown: list[Any] = [picture(20 * i) for i in range(rows)]
    if column == "images":
        shown = [[image] * (1 + i % 2) for i, image in enumerate(shown)]
    return Dataset.from_dict({"prompt": prompts, column: shown})
