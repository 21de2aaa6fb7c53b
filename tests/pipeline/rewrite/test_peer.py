"""A server that we did not write: `transformers serve` with a tiny model of random weights, whose
nonsense no row may hold.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.schema import read_mvc
from pipeline.rewrite.config import RewriteSection
from tests.pipeline.model_builds import NUM_PAIRS, built, coloured_balls

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")),
        reason="transformers serve needs more: pip install transformers[serving]",
    ),
]

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor"
    " %}assistant:"
)


def save_random_model(folder: Path) -> None:
    """A Llama of two narrow layers that was never trained, with a byte-level tokenizer and a chat
    template.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate([*letters, "<end>"])}, [])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=len(letters),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and model of a running `transformers serve`."""
    model = tmp_path / "random-llama"
    save_random_model(model)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline_s = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline_s, (
                        tmp_path / "serve.log"
                    ).read_text()
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/v1", str(model)
        finally:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_nonsense_of_a_server_that_we_did_not_write_is_caught_row_by_row(
    served: tuple[str, str], tmp_path: Path
) -> None:
    base_url, model = served
    endpoint = {
        "base_url": base_url,
        "model": model,
        "api_key_env": None,
        "max_tokens": 12,
        "max_in_flight": 4,
        "cache": str(tmp_path / "c"),
    }
    manifest = built(
        coloured_balls(tmp_path),
        RewriteSection(backend="openai", endpoint=endpoint),
        tmp_path / "out",
    )
    facts = manifest["rewrite"]
    assert facts["by_status"] == {"fallback": NUM_PAIRS} and manifest["rows"]["kept"] == NUM_PAIRS
    assert sum(facts["refused_by_reason"].values()) == facts["num_replies"] == 2 * NUM_PAIRS
    assert set(facts["refused_by_reason"]) <= {"reply_not_json", "reply_cut_off", "reply_empty"}
    assert facts["num_prompt_tokens"] > 1000 and facts["num_completion_tokens"] > 0
    for row in read_mvc(
        tmp_path / "out", "train", ["answer_a", "caption_a", "rewrite_model"]
    ).to_pylist():
        assert row["answer_a"] == row["caption_a"] and row["rewrite_model"] is None
