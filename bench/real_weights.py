#!/usr/bin/env python3
"""The whole product once with published weights, on ten drawn pairs: for a machine with a GPU and
the Hugging Face Hub.

    python bench/real_weights.py                 # about 17 GB of downloads, a GPU of 40 GB
    python bench/real_weights.py --dry-run       # the commands, and nothing else

SigLIP and DINOv2-large score the pairs, LLaVA-1.5-7B gives the reference, is trained for 20 steps
of LoRA, and both are evaluated: each by the command that a user would type. It shows that real
checkpoints load, fit and learn; ten pairs say nothing about how well. At the end it prints what it
measured against what `svco plan` said, and checks that the loss fell.

This has not been run where it was written: there was no GPU and no Hub.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "llava-hf/llava-1.5-7b-hf"
NUM_PAIRS, NUM_HELD_OUT, NUM_STEPS = 10, 2, 20


def commands(out: Path, model: str) -> list[tuple[str, list[str]]]:
    """(what happens, arguments after `python`) of each step."""
    mvc, reference, tuned = out / "mvc", out / "reference", out / "model"
    recipe = ["--recipe", "recipes/svco_lora_llava_1_5_7b.yaml", f"model={model}", f"data={mvc}"]
    build = [
        "pipeline/build_mvc.py",
        "--recipe",
        "recipes/mvc_demo.yaml",
        f"out={mvc}",
        f"sources.0.num_pairs={NUM_PAIRS}",
        "encoders.clip.model=ViT-SO400M-14-SigLIP-384",
        "encoders.clip.pretrained=webli",
        "encoders.dinov2.model=facebook/dinov2-large",
        "encoders.dinov2.pooling=cls",
        "validation.fraction=0",
        f"validation.num_pairs={NUM_HELD_OUT}",
    ]
    short = [
        f"optim.max_steps={NUM_STEPS}",
        "optim.batch_pairs=4",
        "optim.micro_batch_pairs=1",
        "optim.lr=1e-4",
        "eval_every_steps=10",
    ]
    evaluation = [
        "eval/run_eval.py",
        "--recipe",
        "recipes/eval_contrast.yaml",
        f"model={tuned}",
        f"base={model}",
        f"data={mvc}",
    ]
    return [
        ("what will not work here", ["-m", "svco", "doctor"]),
        (f"{NUM_PAIRS} drawn pairs, scored by SigLIP and DINOv2-large", build),
        ("memory and time, before anything starts", ["-m", "svco", "plan", *recipe, *short]),
        (
            "log-probabilities of the reference, once",
            ["training/make_reference.py", *recipe, f"out={reference}"],
        ),
        (
            f"{NUM_STEPS} steps of S-VCO with LoRA",
            ["training/train_svco.py", *recipe, *short, f"reference={reference}", f"out={tuned}"],
        ),
        (
            "evaluation before and after",
            [
                *evaluation,
                f"out={out / 'eval'}",
                "dtype=bfloat16",
                "workers.use_gpu=true",
                "batch_pairs=2",
            ],
        ),
    ]


def check(out: Path) -> dict[str, float]:
    """What was measured; raises SystemExit if training did not do what it must."""
    lines = [
        json.loads(line) for line in (out / "model" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    # the first steps warm up
    speeds = [line["pairs_per_s"] for line in lines if line["split"] == "train"][2:]
    memory_gb = max((line.get("memory_gb", 0.0) for line in lines), default=0.0)
    if abs(losses[0] - 4 * 0.6931) > 0.05:
        raise SystemExit(
            f"error: the first loss is {losses[0]:.4f}, expected 4 ln 2 = 2.7726; the reference is"
            " not the model's own"
        )
    if losses[-1] >= losses[0]:
        raise SystemExit(
            f"error: the loss went from {losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} steps;"
            " expected it to fall"
        )
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "pairs_per_s": round(sum(speeds) / max(1, len(speeds)), 2),
        "memory_gb": memory_gb,
    }


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/real_weights"))
    parser.add_argument("--model", default=MODEL, help="another LLaVA-1.5 in Hugging Face format")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args()
    for title, command in commands(arguments.out, arguments.model):
        print(f"\n{title}\n$ python {shlex.join(command)}", flush=True)
        if arguments.dry_run:
            continue
        began_s = time.monotonic()
        done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(
                f"error: the command above ended with exit code {done.returncode}; its last lines"
                " say why"
            )
        print(f"took {time.monotonic() - began_s:.0f} s", flush=True)
    if not arguments.dry_run:
        print(
            "\nmeasured "
            + json.dumps(
                check(ROOT / arguments.out if not arguments.out.is_absolute() else arguments.out)
            )
        )


if __name__ == "__main__":
    main()
