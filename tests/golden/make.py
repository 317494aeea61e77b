"""Reference tensors for tests/golden/smolvlm.rs, from transformers' SmolVLM.

    pip install torch transformers "pillow<13"
    python tests/golden/make.py                      # the tiny checkpoint, then its references
    python tests/golden/make.py --folder models/toy-base --out tests/golden/toy-base.safetensors

The tiny checkpoint is random (fixed seed) and deliberately odd: grouped heads, tied head, weights far from their
initialisation, norms and biases that are not 1 and 0, so that a swapped tensor shows. Each reference file holds its
own inputs (PNG bytes, question), so the test needs nothing else.
"""

import argparse
import io
import json
import shutil
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

HERE = Path(__file__).parent
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>",
           "<image>", "<global-img>"] + [f"<row_{r}_col_{c}>" for r in (1, 2, 3) for c in (1, 2, 3)]
# Question and size of the picture: the tower's own size, larger, smaller and wide.
CASES = [("How many 7s are there?", (64, 64)), ("Is the sum of row 2 even, and what is it?", (90, 70)), ("Größe?", (40, 20))]
SPLIT = ("What is in the corner?", (150, 100))
NEW_TOKENS = 32


def make_tiny(folder: Path):
    """A random checkpoint in the layout of SmolVLM-256M-Instruct's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(["User: Assistant: Answer: how many are there in the row? even odd yes no"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>",
                                    "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"})
    write("chat_template.json", {"chat_template": TEMPLATE})
    write("preprocessor_config.json", {
        "image_processor_type": "SmolVLMImageProcessor", "do_convert_rgb": True, "do_image_splitting": False,
        "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "max_image_size": {"longest_edge": 64}, "resample": 1, "rescale_factor": 1 / 255,
        "size": {"longest_edge": 128}})

    config = SmolVLMConfig(
        image_token_id=ids["<image>"], scale_factor=2, tie_word_embeddings=True, pad_token_id=ids["<|im_end|>"],
        vision_config=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                           image_size=64, patch_size=8),
        text_config=dict(model_type="llama", vocab_size=tokenizer.get_vocab_size(), hidden_size=48,
                         intermediate_size=72, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
                         max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=20000.0,
                         bos_token_id=ids["<|im_start|>"], eos_token_id=ids["<end_of_utterance>"],
                         pad_token_id=ids["<|im_end|>"]))
    torch.manual_seed(20)
    model = SmolVLMForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.2 * torch.randn_like(weight))
    model.generation_config.eos_token_id = ids["<end_of_utterance>"]
    model.generation_config.pad_token_id = ids["<|im_end|>"]
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def picture(size, seed):
    """Smooth colours with noise, as PNG bytes."""
    rng = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0 : size[1], 0 : size[0]]
    waves = [128 + 90 * numpy.sin(x / (5 + c) + c) * numpy.cos(y / (7 - c)) for c in range(3)]
    noisy = numpy.stack(waves, -1) + rng.normal(0, 15, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8)).save(file, "PNG")
    return file.getvalue()


def levels(pixels, processor):
    """Un-normalised values as the 8-bit levels that they are."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    return ((pixels * std + mean) * 255).round().to(torch.uint8)


def reference(folder: Path, out: Path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = SmolVLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    jinja = folder / "chat_template.jinja"
    template = jinja.read_text() if jinja.exists() else json.loads((folder / "chat_template.json").read_text())["chat_template"]
    vision = model.config.vision_config
    visual_tokens = (vision.image_size // vision.patch_size // model.config.scale_factor) ** 2

    def prepare(question, shape, seed, **changed):
        png = picture(shape, seed)
        processor = SmolVLMImageProcessorPil(**{**settings, **changed})
        made = processor([Image.open(io.BytesIO(png))], return_tensors="pt", return_row_col_info=True)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = tokenizer.apply_chat_template([message], chat_template=template, add_generation_prompt=True, tokenize=False)
        image = get_image_prompt_string(made["rows"][0][0], made["cols"][0][0], visual_tokens,
                                        "<fake_token_around_image>", "<image>", "<global-img>")
        ids = tokenizer(text.replace("<image>", image), add_special_tokens=False, return_tensors="pt")["input_ids"]
        return png, made["pixel_values"], levels(made["pixel_values"][0], processor), ids

    tensors, questions = {}, []

    def keep(name, value):
        tensors[name] = value.detach().contiguous().clone()

    for i, (question, size) in enumerate(CASES):
        png, pixels, level, ids = prepare(question, size, i)
        questions.append(question)
        states = []
        hooks = [module.register_forward_hook(lambda m, a, o: states.append(o[0] if isinstance(o, tuple) else o))
                 for module in [model.model.vision_model.embeddings, *model.model.vision_model.encoder.layers,
                                model.model.vision_model.post_layernorm, model.model.connector]]
        with torch.no_grad():
            output = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels,
                                   max_new_tokens=NEW_TOKENS, do_sample=False)
        keep(f"{i}.png", torch.frombuffer(bytearray(png), dtype=torch.uint8))
        keep(f"{i}.levels", level)
        keep(f"{i}.input_ids", ids[0])
        keep(f"{i}.logits", output.logits[0])
        keep(f"{i}.greedy", whole[0, ids.shape[1]:])
        if i == 0:
            keep("0.pixels", pixels[0])
            for name, state in zip([f"vision.{n}" for n in range(len(states) - 1)] + ["visual"], states):
                keep(f"0.{name}", state)
            for layer, state in enumerate(output.hidden_states):
                keep(f"0.hidden.{layer}", state[0])

    edge = settings["max_image_size"]["longest_edge"]
    png, pixels, level, ids = prepare(*SPLIT, 9, do_image_splitting=True, size={"longest_edge": 2 * edge})
    keep("split.png", torch.frombuffer(bytearray(png), dtype=torch.uint8))
    keep("split.levels", level)
    keep("split.input_ids", ids[0])
    save_file(tensors, out, {"questions": json.dumps(questions), "split_question": SPLIT[0],
                             "new_tokens": str(NEW_TOKENS)})
    out.chmod(0o644)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, help="an existing checkpoint; without it the tiny one is made")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.folder is None:
        make_tiny(HERE / "smolvlm-tiny")
    reference(given.folder or HERE / "smolvlm-tiny", given.out or HERE / "smolvlm-tiny.safetensors")
