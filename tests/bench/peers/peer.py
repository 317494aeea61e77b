"""What is benchmarked beside the service: the same work as a user of transformers and peft writes it.

    make bench-python
    .venv-bench/bin/python tests/bench/peers/peer.py prefill   --model DIR --threads N --inputs FILE [--batch B]
    .venv-bench/bin/python tests/bench/peers/peer.py generate  --model DIR --threads N --inputs FILE --new-tokens 64
    .venv-bench/bin/python tests/bench/peers/peer.py chains    --model DIR --threads N --inputs FILE --new-tokens 64 --chains 8
    .venv-bench/bin/python tests/bench/peers/peer.py answers   --model DIR --threads N --inputs FILE --answers FILE
    .venv-bench/bin/python tests/bench/peers/peer.py lora_step --model DIR --threads N --inputs FILE --learn L [--checkpointing]
    .venv-bench/bin/python tests/bench/peers/peer.py load      --model DIR --threads N [--dtype bfloat16]

On the CPU, or all but `load` on `--device cuda:0`.

The inputs are tensors of a safetensors file, so that both sides get the same: `input_ids` and `attention_mask` [B, T]
(rows padded on the left), `pixel_values` as the model's class takes them, `image_grid_thw` where it wants one; any
other tensor is handed on by its name. `--batch` repeats a file of one row, one value of each image made its own. The
answers are a JSON list of lists of token ids. One call warms up, `--repeats` are measured. Standard output is one
line of JSON:

    work, model, threads, dtype, batch
    seconds     of each repeat; cpu_seconds: of all threads, which a busy machine disturbs less
    tokens      of one repeat: of the prompts (prefill, lora_step), new ones (generate, chains), prompts and answers
                (answers), 0 (load)
    peak_bytes  the process's peak resident memory while measured, on CUDA the peak in tensors; resident_bytes: what it
                held before
    ids         prefill: the likeliest next token of each row; generate: the new tokens of each row
    values      answers: each one's log-probability
    losses      lora_step: before each step, the warm-up's first
    mapped_seconds  load: when the last from_pretrained returned; `seconds` ends when all weights are in memory

Cargo's settings for the service's threads (OMP_WAIT_POLICY) are inherited when the benchmark starts it.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

# The decoder's, and not those of the vision tower, whose attention has projections of the same names.
PROJECTIONS = r".*\.(text_model|language_model)\..*\.(q|k|v|o|gate|up|down)_proj"


def load(args):
    return AutoModelForImageTextToText.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa", local_files_only=True).eval().to(args.device)


def read_inputs(args, config):
    inputs = load_file(args.inputs)
    if args.batch and args.batch != len(inputs["input_ids"]):
        assert len(inputs["input_ids"]) == 1, "--batch repeats a file of one row"
        inputs = {name: tensor.repeat(args.batch, *[1] * (tensor.dim() - 1)) for name, tensor in inputs.items()}
        for row, pixels in enumerate(inputs["pixel_values"].chunk(args.batch)):
            pixels.view(-1)[row] += 1 / 255
    inputs["pixel_values"] = inputs["pixel_values"].to(getattr(torch, args.dtype))
    if "image_grid_thw" in inputs and "mm_token_type_ids" not in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).int()
    return {name: tensor.to(args.device) for name, tensor in inputs.items()}


def prefill(model, inputs, args):
    """What generate does before its first token."""
    def work():
        with torch.inference_mode():
            logits = model(**inputs, use_cache=True, logits_to_keep=1).logits
        return {"ids": logits[:, -1].argmax(-1).tolist()}
    return work, inputs["input_ids"].numel()


def generate(model, inputs, args, rows=1, **how):
    length = inputs["input_ids"].shape[1]

    def work():
        with torch.inference_mode():
            whole = model.generate(**inputs, min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens,
                                   **(how or {"do_sample": False}))
        new = whole[:, length:]
        assert new.shape == (rows * len(inputs["input_ids"]), args.new_tokens)
        return {} if how else {"ids": new.tolist()}
    return work, rows * len(inputs["input_ids"]) * args.new_tokens


def chains(model, inputs, args):
    torch.manual_seed(args.seed)
    return generate(model, inputs, args, rows=args.chains, do_sample=True, temperature=0.9, top_p=0.95, top_k=0,
                    num_return_sequences=args.chains)


def answers(model, inputs, args):
    """One forward pass of prompt, image and answer for each answer."""
    assert len(inputs["input_ids"]) == 1, "answers are scored for one prompt"
    lists = [torch.tensor([ids], device=args.device) for ids in json.loads(args.answers.read_text())]
    fill = {"attention_mask": 1, "mm_token_type_ids": 0}

    def score(answer):
        extended = dict(inputs, input_ids=torch.cat([inputs["input_ids"], answer], 1))
        for name in fill.keys() & inputs.keys():
            extended[name] = torch.cat([inputs[name], torch.full_like(answer, fill[name]).to(inputs[name].dtype)], 1)
        logits = model(**extended, use_cache=False, logits_to_keep=answer.shape[1] + 1).logits[:, :-1]
        return logits.float().log_softmax(-1).gather(-1, answer[..., None]).sum().item()

    def work():
        with torch.inference_mode():
            return {"values": [score(answer) for answer in lists]}
    return work, sum(inputs["input_ids"].numel() + answer.numel() for answer in lists)


def lora_step(model, inputs, args):
    """A step as transformers' Trainer takes it, with labels for the last tokens of each row."""
    torch.manual_seed(args.seed)
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS))
    model.train()
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.01)
    mask = inputs["attention_mask"]
    last = mask.bool() & (mask.flip(1).cumsum(1).flip(1) <= args.learn)
    labels = inputs["input_ids"].where(last, -100)
    losses = []

    def work():
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        return {"losses": losses, "trained_weights": sum(weight.numel() for weight in learned)}
    return work, mask.numel()


def status(field):
    """A field of /proc/self/status that is a number of kB, in bytes; none elsewhere than on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def forget_peak():
    """From here on VmHWM is the peak; where that is not possible, it stays the whole process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure(work, args):
    """Seconds of each call after the first, and what the last one gave."""
    on_cuda = args.device != "cpu"
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    work()
    wait()
    gc.collect()
    forget_peak()
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    measured = {"resident_bytes": status("VmRSS"), "seconds": [], "cpu_seconds": []}
    for _ in range(args.repeats):
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        given = work()
        wait()
        measured["seconds"].append(time.perf_counter() - start)
        measured["cpu_seconds"].append(time.process_time() - cpu)
    peak = status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if on_cuda:
        peak = torch.cuda.max_memory_allocated()
    return {**measured, "peak_bytes": peak, **given}


def run(args):
    if args.work == "load":
        def work():
            start = time.perf_counter()
            model = load(args)
            mapped = time.perf_counter() - start
            # Weights that need no conversion are still in the file: each page is looked at, as the first call would.
            for weight in model.state_dict().values():
                weight.view(-1)[::4096 // weight.element_size()].sum()
            return {"mapped_seconds": mapped}
        return {"tokens": 0, "batch": 0, **measure(work, args)}
    model = load(args)
    inputs = read_inputs(args, model.config)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = 0  # no row is padded: all have the same number of new tokens
    work, tokens = WORKS[args.work](model, inputs, args)
    return {"tokens": tokens, "batch": len(inputs["input_ids"]), **measure(work, args)}


WORKS = {"prefill": prefill, "generate": generate, "chains": chains, "answers": answers, "lora_step": lora_step,
         "load": None}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--inputs", type=Path, help="all works but load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--batch", type=int, help="repeat a file of one row; as many rows as the file has, unless given")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--learn", type=int, default=8, help="tokens of each row's end that are learned")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.work != "load" and args.inputs is None:
        parser.error(f"{args.work} needs --inputs")
    if args.work == "answers" and args.answers is None:
        parser.error("answers needs --answers")
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
        measured = run(args)
    told = {"work": args.work, "model": str(args.model), "threads": args.threads, "dtype": args.dtype}
    print(json.dumps({**told, **measured}))
