"""Reference tensors for Idefics3, Qwen2.5-VL and Qwen3-VL, and for LoRA adapters of every family, from transformers.

    pip install torch transformers "pillow<13" peft
    python tests/golden/families.py                  # every checkpoint, its references and its adapter
    python tests/golden/families.py qwen3-tiny       # only these
    python tests/golden/families.py --check          # what is there, against transformers
    python tests/golden/families.py qwen3-tiny --adapter DIR   # a folder written by `active-vlm export`, against PEFT

The checkpoints are random (fixed seeds) and small, in the layouts in which such models are published; weights are far
from their initialisation so that a swapped tensor shows. Sizes are odd on purpose: windows that images cut, sides that
end on .5 of a patch, heads that do not fill the hidden size, position tables smaller and larger than the grid. The
README beside this file lists the tensors. `templates/` holds the published chat templates, as the package `trl`
(Apache-2.0) distributes them.
"""

import argparse
import io
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (Idefics3ForConditionalGeneration, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration,
                          Qwen3VLForConditionalGeneration, SmolVLMForConditionalGeneration)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.vision_utils import get_vision_window_index

from make import CASES, HERE, picture

NEW_TOKENS = 64
REPLY = "7, and the sum is even."
QUESTIONS = ["How many 7s are there?", "Is the sum of row 2 even, and what is it?", "Which picture is larger?",
             "Größe? Ist das größer als 5 µm (cafe\u0301, 是)?"]
# What the tokenizers are trained on: the words of the prompts, so that these stay short.
CORPUS = ["system\nYou are a helpful assistant.", "user\n", "assistant\n", "User: Assistant: Answer:", "\n\n", *QUESTIONS[:3]]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_WORDS = QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
                "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
                "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
IDEFICS_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<fake_token_around_image>", "<image>",
                   "<end_of_utterance>", "<global-img>"] + [f"<row_{r}_col_{c}>" for r in (1, 2, 3) for c in (1, 2, 3)]


# --- Families --------------------------------------------------------------------------------------------------------


class Qwen:
    """Qwen2.5-VL and Qwen3-VL: one row of pixel_values per patch, a grid per image."""

    special, words = QWEN_SPECIAL, QWEN_WORDS

    def __init__(self, model_class, processor_class, template):
        self.model_class, self.processor_class = model_class, processor_class
        self.template = (HERE / "templates" / template).read_text()

    def finish_tokenizer(self, tokenizer):
        tokenizer.normalizer = normalizers.NFC()

    def prepare(self, settings, config, images):
        """The processor's tensors for the model, and each image's text in the prompt."""
        processor = Qwen2VLImageProcessorPil(**settings)
        made = processor(images, return_tensors="pt")
        stand_in = SimpleNamespace(image_processor=processor, image_token="<|image_pad|>")
        texts = [self.processor_class.replace_image_token(stand_in, {"image_grid_thw": made["image_grid_thw"].numpy()}, i)
                 for i in range(len(images))]
        return dict(made), "<|image_pad|>", texts

    def place(self, inputs, model):
        """What the model wants to know about its ids."""
        return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}

    def describe(self, model, inputs, keep):
        """Tensors of one case beyond those of every family."""
        keep("pixels", inputs["pixel_values"])
        keep("grid", inputs["image_grid_thw"])
        position_ids, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values"})
        keep("position_ids", position_ids[:, 0])
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        keep("visual", torch.cat(features.pooler_output))
        for level, parts in enumerate(getattr(features, "deepstack_features", None) or []):
            keep(f"deep.{level}", torch.cat(parts))

    def blocks(self, model):
        return model.model.visual.blocks


class Idefics:
    """Idefics3: tiles of one size."""

    special, words = IDEFICS_SPECIAL, LLAMA_WORDS
    model_class = Idefics3ForConditionalGeneration

    def __init__(self):
        self.template = (HERE / "templates" / "idefics3.jinja").read_text()

    def finish_tokenizer(self, tokenizer):
        start = tokenizer.token_to_id("<|begin_of_text|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
            special_tokens=[("<|begin_of_text|>", start)])

    def prepare(self, settings, config, images):
        made = Idefics3ImageProcessorPil(**settings)(images, return_tensors="pt", return_row_col_info=True)
        vision = config.vision_config
        stand_in = SimpleNamespace(fake_image_token="<fake_token_around_image>", image_token="<image>",
                                   global_image_tag="<global-img>",
                                   image_seq_len=(vision.image_size // vision.patch_size // config.scale_factor) ** 2)
        texts = [Idefics3Processor.replace_image_token(stand_in, made, i) for i in range(len(images))]
        return {name: made[name] for name in ("pixel_values", "pixel_attention_mask")}, "<image>", texts

    def place(self, inputs, model):
        return inputs

    def describe(self, model, inputs, keep):
        keep("pixels", inputs["pixel_values"][0])
        features = model.model.get_image_features(inputs["pixel_values"], inputs["pixel_attention_mask"])
        keep("visual", torch.cat(features.pooler_output))

    def blocks(self, model):
        return model.model.vision_model.encoder.layers


QWEN2_5 = Qwen(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, "qwen2_5_vl.jinja")
QWEN3 = Qwen(Qwen3VLForConditionalGeneration, Qwen3VLProcessor, "qwen3_vl.jinja")
IDEFICS3 = Idefics()


# --- Checkpoints -----------------------------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """A folder to make."""

    family: object
    seed: int
    config: object  # token ids -> config.json
    preprocessor: dict
    sizes: list  # of the pictures of each case, width first
    targets: dict  # LoraConfig's choice of modules
    dtype: torch.dtype = torch.float32
    sigma: float = 0.2
    vocab_size: int = 330  # of the tokenizer
    save: dict = field(default_factory=dict)  # save_pretrained's options
    saves_config: bool = False  # config.json as save_pretrained writes it


def qwen_preprocessor(patch, limits, mean, std, processor, image_processor):
    return {"do_convert_rgb": True, "image_mean": mean, "image_std": std, "image_processor_type": image_processor,
            "merge_size": 2, "patch_size": patch, "processor_class": processor, "temporal_patch_size": 2, **limits}


def qwen2_5_preprocessor(patch):
    limits = {"min_pixels": (4 * patch) ** 2, "max_pixels": (10 * patch) ** 2}
    return qwen_preprocessor(patch, limits, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711],
                             "Qwen2_5_VLProcessor", "Qwen2VLImageProcessor")


def qwen3_preprocessor(patch):
    limits = {"size": {"shortest_edge": (4 * patch) ** 2, "longest_edge": (10 * patch) ** 2}}
    return qwen_preprocessor(patch, limits, [0.5] * 3, [0.5] * 3, "Qwen3VLProcessor", "Qwen2VLImageProcessorFast")


def qwen_sizes(factor):
    """Pictures in units of a visual token's side: plain; sides of 4.5 and 3.5; narrow and too large; too small."""
    units = [[(5.25, 3.25)], [(4.5, 3.5)], [(2.5, 6.5), (8.75, 7.5)], [(0.9, 0.6)]]
    return [[(round(w * factor), round(h * factor)) for w, h in case] for case in units]


def qwen2_5_tiny(ids):
    return {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
            "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "tie_word_embeddings": True,
            "text_config": {"vocab_size": 330, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
                            "num_key_value_heads": 2, "intermediate_size": 32, "rms_norm_eps": 1e-6,
                            "max_position_embeddings": 1024, "bos_token_id": ids["<|endoftext|>"],
                            "eos_token_id": ids["<|im_end|>"],
                            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
            "vision_config": {"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 40,
                              "out_hidden_size": 48, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
                              "window_size": 16, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2}}


def qwen2_5_odd(ids):
    return {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
            "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"], "hidden_act": "silu", "hidden_size": 40, "initializer_range": 0.02,
            "intermediate_size": 44, "max_position_embeddings": 1024, "max_window_layers": 2,
            "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
            "rope_theta": 50000.0, "sliding_window": 1024, "tie_word_embeddings": False, "torch_dtype": "float32",
            "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
            "vision_config": {"depth": 3, "hidden_act": "silu", "hidden_size": 24, "intermediate_size": 28,
                              "num_heads": 3, "in_chans": 3, "out_hidden_size": 40, "patch_size": 5,
                              "spatial_merge_size": 2, "spatial_patch_size": 5, "window_size": 33,
                              "fullatt_block_indexes": [1], "tokens_per_second": 2, "temporal_patch_size": 2},
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 2]}, "vocab_size": 336}


def qwen3_config(ids, tied, dtype, text, vision):
    return {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "dtype": dtype,
            "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
            "tie_word_embeddings": tied, "transformers_version": "4.57.0.dev0",
            "text_config": {"model_type": "qwen3_vl_text", "attention_bias": False, "attention_dropout": 0.0,
                            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "dtype": dtype,
                            "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 1024,
                            "use_cache": True, **text},
            "vision_config": {"model_type": "qwen3_vl", "hidden_act": "gelu_pytorch_tanh", "in_channels": 3,
                              "initializer_range": 0.02, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision}}


def qwen3_tiny(ids):
    text = {"vocab_size": 330, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16,
            "num_key_value_heads": 2, "intermediate_size": 40, "rms_norm_eps": 1e-6, "rope_theta": 5000000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
            "tie_word_embeddings": True}
    vision = {"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 44, "out_hidden_size": 48,
              "patch_size": 4, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
    return qwen3_config(ids, True, "bfloat16", text, vision)


def qwen3_odd(ids):
    text = {"vocab_size": 336, "hidden_size": 40, "num_hidden_layers": 5, "num_attention_heads": 3, "head_dim": 20,
            "num_key_value_heads": 1, "intermediate_size": 52, "rms_norm_eps": 1e-5,
            "rope_parameters": {"mrope_interleaved": True, "mrope_section": [4, 3, 3], "rope_theta": 30000.0,
                                "rope_type": "default"}}
    vision = {"depth": 5, "hidden_size": 24, "num_heads": 2, "intermediate_size": 36, "out_hidden_size": 40,
              "patch_size": 5, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2, 3]}
    return qwen3_config(ids, False, "bfloat16", text, vision)


def idefics3_odd(ids):
    return {"architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3",
            "image_token_id": ids["<image>"], "scale_factor": 2, "tie_word_embeddings": False, "torch_dtype": "float32",
            "transformers_version": "4.45.0", "use_cache": True,
            "text_config": {"model_type": "llama", "architectures": ["VLlama3ForCausalLM"], "attention_bias": False,
                            "vocab_size": 330, "hidden_size": 36, "intermediate_size": 56, "num_hidden_layers": 3,
                            "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_act": "silu",
                            "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
                            "mlp_bias": False, "bos_token_id": ids["<|begin_of_text|>"],
                            "eos_token_id": ids["<|end_of_text|>"], "pad_token_id": ids["<|eot_id|>"],
                            "tie_word_embeddings": False},
            "vision_config": {"model_type": "idefics3", "hidden_size": 32, "intermediate_size": 44, "image_size": 32,
                              "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8, "num_channels": 3,
                              "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}}


IDEFICS3_PREPROCESSOR = {
    "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5] * 3, "image_processor_type": "Idefics3ImageProcessor", "image_std": [0.5] * 3,
    "max_image_size": {"longest_edge": 32}, "processor_class": "Idefics3Processor", "resample": 1,
    "rescale_factor": 1 / 255, "size": {"longest_edge": 64}}


def decoder_pattern(decoder):
    """Modules to adapt where the vision tower has projections of the same names: all families but Qwen3-VL."""
    return {"target_modules": rf".*{decoder}.*\.({'|'.join(PROJECTIONS)})"}


CHECKPOINTS = {
    "qwen2_5-tiny": Checkpoint(QWEN2_5, 128, qwen2_5_tiny, qwen2_5_preprocessor(4), qwen_sizes(8),
                               decoder_pattern("language_model"), saves_config=True, save={"save_original_format": False}),
    "qwen3-tiny": Checkpoint(QWEN3, 669, qwen3_tiny, qwen3_preprocessor(4), qwen_sizes(8), {"target_modules": PROJECTIONS},
                             dtype=torch.bfloat16),
    "qwen2_5-odd": Checkpoint(QWEN2_5, 407, qwen2_5_odd, qwen2_5_preprocessor(5), qwen_sizes(10),
                              decoder_pattern("language_model"), save={"max_shard_size": "150KB"}),
    "qwen3-odd": Checkpoint(QWEN3, 562, qwen3_odd, qwen3_preprocessor(5), qwen_sizes(10), {"target_modules": PROJECTIONS},
                            dtype=torch.bfloat16),
    "idefics3-odd": Checkpoint(IDEFICS3, 424, idefics3_odd, IDEFICS3_PREPROCESSOR,
                               [[(80, 60)], [(90, 40)], [(30, 100), (70, 30)], [(9, 4)]], decoder_pattern("text_model")),
}


def write(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def make_tokenizer(made: Checkpoint):
    """Byte pairs, then the special tokens, as in the families' own vocabularies."""
    family = made.family
    tokenizer = Tokenizer(models.BPE(ignore_merges=family is IDEFICS3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(family.words), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=made.vocab_size - len(family.special), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in family.special])
    family.finish_tokenizer(tokenizer)
    return tokenizer


def write_texts(folder: Path, made: Checkpoint, ids):
    """The files of a folder that are neither weights nor config.json."""
    write(folder / "chat_template.json", {"chat_template": made.family.template})
    write(folder / "preprocessor_config.json", made.preprocessor)
    if made.family is IDEFICS3:
        write(folder / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
            "pad_token": "<|eot_id|>", "clean_up_tokenization_spaces": True})
        write(folder / "generation_config.json", {
            "_from_model_config": True, "bos_token_id": ids["<|begin_of_text|>"],
            "eos_token_id": [ids["<|end_of_text|>"], ids["<end_of_utterance>"]], "pad_token_id": ids["<|eot_id|>"]})
        return
    write(folder / "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
        "clean_up_tokenization_spaces": False, "split_special_tokens": False})
    sampling = {"repetition_penalty": 1.05, "temperature": 1e-6} if made.family is QWEN2_5 else {
        "repetition_penalty": 1.0, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    write(folder / "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], **sampling})


def draw(model, made: Checkpoint):
    """Weights of standard deviation sigma around 1 (norms) and 0."""
    torch.manual_seed(made.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if ("norm" in name or "ln_q" in name) and name.endswith("weight") else 0.0
            weight.copy_((centre + made.sigma * torch.randn_like(weight)).to(made.dtype))


def make_folder(name):
    made, folder = CHECKPOINTS[name], HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = make_tokenizer(made)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in made.family.special}
    config = made.config(ids)
    write(folder / "config.json", config)
    model_class = made.family.model_class
    model = model_class(model_class.config_class.from_pretrained(folder))
    draw(model, made)
    model.to(made.dtype).save_pretrained(folder, **made.save)
    if not made.saves_config:
        write(folder / "config.json", config)
    write_texts(folder, made, ids)
    for file in folder.iterdir():
        file.chmod(0o644)
    again = load(name)
    same = all(torch.equal(weight, again.state_dict()[key]) for key, weight in model.float().state_dict().items())
    assert same, f"{name}: the folder does not load to the weights that were drawn"


def load(name):
    folder = HERE / name
    model_class = CHECKPOINTS[name].family.model_class if name in CHECKPOINTS else SmolVLMForConditionalGeneration
    return model_class.from_pretrained(folder, dtype=torch.float32).eval()


# --- References ------------------------------------------------------------------------------------------------------


def prompt_inputs(name, model, question, images):
    """The model's inputs for one user turn: its images, then the question."""
    folder, family = HERE / name, CHECKPOINTS[name].family
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    inputs, token, expanded = family.prepare(settings, model.config, images)
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], chat_template=template,
                                         add_generation_prompt=True, tokenize=False)
    before, *parts = text.split(token)
    assert len(parts) == len(images)
    text = before + "".join(image + part for image, part in zip(expanded, parts))
    inputs["input_ids"] = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return family.place(inputs, model)


def greedy(model, inputs):
    ids = inputs["input_ids"]
    whole = model.generate(**inputs, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
                           repetition_penalty=1.0, temperature=None, top_p=None, top_k=None)
    return whole[0, ids.shape[1]:]


def traced(blocks, forward):
    """What enters the first of some blocks, and what leaves each."""
    states = []
    hooks = [blocks[0].register_forward_pre_hook(lambda m, a: states.append(a[0]))]
    hooks += [block.register_forward_hook(lambda m, a, o: states.append(o[0] if isinstance(o, tuple) else o))
              for block in blocks]
    forward()
    for hook in hooks:
        hook.remove()
    return states


def extended(inputs, ids, model, family):
    """The inputs with more text after the prompt."""
    longer = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    return family.place({**inputs, "input_ids": longer}, model)


def keeper(tensors):
    def keep(name, value):
        assert not value.is_floating_point() or value.isfinite().all(), f"{name} is not finite"
        tensors[name] = value.detach().contiguous().clone()
    return keep


def png_tensor(png):
    return torch.frombuffer(bytearray(png), dtype=torch.uint8)


def case_pictures(name, case):
    return [picture(size, 10 * case + j) for j, size in enumerate(CHECKPOINTS[name].sizes[case])]


def case_inputs(name, model, case):
    images = [Image.open(io.BytesIO(png)) for png in case_pictures(name, case)]
    return prompt_inputs(name, model, QUESTIONS[case], images)


def reply_ids(name):
    """A reply as a user would teach it, with the token that ends a turn."""
    tokenizer = Tokenizer.from_file(str(HERE / name / "tokenizer.json"))
    end = "<|im_end|>" if name.startswith("qwen") else "<end_of_utterance>"
    return tokenizer.encode(REPLY, add_special_tokens=False).ids + [tokenizer.token_to_id(end)]


def in_image_order(model, inputs, state):
    """Patches in the order of the image: Qwen2.5-VL's blocks see them window by window."""
    vision = model.config.vision_config
    if not hasattr(vision, "fullatt_block_indexes"):
        return state
    unit = vision.spatial_merge_size**2
    order, _ = get_vision_window_index(inputs["image_grid_thw"], spatial_merge_size=vision.spatial_merge_size,
                                       window_size=vision.window_size, patch_size=vision.patch_size)
    return state.reshape(-1, unit, state.shape[-1])[order.argsort()].reshape(state.shape)


def reference(name):
    """Every case, without and (case 0) with the adapter."""
    family, model, tensors = CHECKPOINTS[name].family, load(name), {}
    keep = keeper(tensors)
    for case in range(len(QUESTIONS)):
        inputs = case_inputs(name, model, case)
        for j, png in enumerate(case_pictures(name, case)):
            keep(f"{case}.image.{j}", png_tensor(png))
        keep(f"{case}.input_ids", inputs["input_ids"][0])
        with torch.no_grad():
            family.describe(model, inputs, lambda key, value: keep(f"{case}.{key}", value))
            output = model(**inputs, output_hidden_states=True)
            keep(f"{case}.logits", output.logits[0])
            keep(f"{case}.greedy", greedy(model, inputs))
            if case == 0:
                for layer, state in enumerate(traced(family.blocks(model), lambda: model(**inputs))):
                    keep(f"0.tower.{layer}", in_image_order(model, inputs, state))
                for layer, state in enumerate(output.hidden_states):
                    keep(f"0.hidden.{layer}", state[0])
            if case == 2:
                keep(f"2.hidden.{len(output.hidden_states) - 1}", output.hidden_states[-1][0])
    inputs, reply = case_inputs(name, model, 0), reply_ids(name)
    adapt(name, model, inputs, extended(inputs, reply, model, family), len(reply), keep, CHECKPOINTS[name].targets)
    cases = [{"question": q, "images": len(s)} for q, s in zip(QUESTIONS, CHECKPOINTS[name].sizes)]
    save_references(tensors, HERE / f"{name}.safetensors",
                    {"cases": json.dumps(cases), "new_tokens": str(NEW_TOKENS), "reply": json.dumps(reply)})


def smolvlm_inputs(model):
    """Case 0 of make.py, as its reference file has it."""
    made = load_file(HERE / "smolvlm-tiny.safetensors")
    return {"input_ids": made["0.input_ids"][None], "pixel_values": made["0.pixels"][None]}, made["0.png"]


def smolvlm_reference():
    """The adapter of make.py's checkpoint."""
    name, tensors = "smolvlm-tiny", {}
    model, keep, reply = load(name), keeper(tensors), reply_ids(name)
    inputs, png = smolvlm_inputs(model)
    keep("png", png)
    keep("input_ids", inputs["input_ids"][0])
    longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([reply])], 1)}
    targets = {"target_modules": PROJECTIONS, "exclude_modules": r".*vision_model.*"}
    adapt(name, model, inputs, longer, len(reply), keep, targets)
    save_references(tensors, HERE / "smolvlm-tiny.lora.safetensors",
                    {"question": CASES[0][0], "reply": json.dumps(reply)})


def save_references(tensors, out: Path, metadata):
    save_file(tensors, out, metadata)
    out.chmod(0o644)
    print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")


# --- Adapters --------------------------------------------------------------------------------------------------------


def saved_name(name):
    """A parameter's name in adapter_model.safetensors."""
    return name.replace(".default.", ".")


def adapter_parameters(adapted):
    return {saved_name(name): weight for name, weight in adapted.named_parameters() if weight.requires_grad}


def reply_loss(adapted, longer, length):
    """Mean negative log-likelihood of the last `length` tokens."""
    logits = adapted(**longer).logits[0, -length - 1:-1]
    return torch.nn.functional.cross_entropy(logits, longer["input_ids"][0, -length:])


def adapt(name, model, inputs, longer, length, keep, targets):
    """Writes a random adapter; keeps its logits, its loss on a reply, the gradients and one step of AdamW."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", **targets)).eval()
    weights = adapter_parameters(adapted)
    assert weights and not any("vis" in key for key in weights), "the adapter is not the decoder's alone"
    torch.manual_seed(77)
    with torch.no_grad():
        for key in sorted(weights):
            weights[key].copy_((0.2 if "lora_A" in key else 0.05) * torch.randn_like(weights[key]))
    write_adapter(name, adapted)
    with torch.no_grad():
        keep("lora.logits", adapted(**inputs).logits[0])
    optimiser = torch.optim.AdamW(weights.values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    loss = reply_loss(adapted, longer, length)
    loss.backward()
    keep("lora.loss", loss)
    last = model.config.get_text_config().num_hidden_layers - 1
    kept = [key for key in sorted(weights) if ".layers.0." in key or f".layers.{last}." in key]
    for key in kept:
        keep(f"lora.grad.{key}", weights[key].grad)
    optimiser.step()
    for key in kept:
        keep(f"lora.step.{key}", weights[key])


def write_adapter(name, adapted):
    """A folder as PEFT saves it, without its README."""
    folder = HERE / f"{name}.lora"
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write(folder / "adapter_config.json", {**config, "base_model_name_or_path": name})
    for file in folder.iterdir():
        file.chmod(0o644)


# --- Checks ----------------------------------------------------------------------------------------------------------


def size(path: Path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1000


def margins(model, inputs, wanted, family):
    """How far the greedy choice is ahead at each step, from one uncached pass over prompt and answer."""
    with torch.no_grad():
        logits = model(**extended(inputs, wanted.tolist(), model, family)).logits[0]
    steps = logits[inputs["input_ids"].shape[1] - 1:-1]
    assert torch.equal(steps.argmax(-1), wanted), "cached and uncached greedy differ"
    best = steps.topk(2).values
    return best[:, 0] - best[:, 1]


def close(ours, wanted, what):
    distance = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    assert distance < 1e-5, f"{what}: {distance:e}"


def check_other_names(name, model, inputs, wanted):
    """The same weights under the other of Qwen2.5-VL's two naming schemes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=CHECKPOINTS[name].save.get("save_original_format") is False)
        again = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            close(again(**inputs).logits[0], wanted, "other names")


def check(name):
    """The files against transformers once more, and what they look like."""
    made, tensors = CHECKPOINTS[name], load_file(HERE / f"{name}.safetensors")
    model = load(name)
    print(f"{name}: folder {size(HERE / name):.0f} kB, references {size(HERE / f'{name}.safetensors'):.0f} kB, "
          f"adapter {size(HERE / f'{name}.lora'):.0f} kB")
    for case in range(len(QUESTIONS)):
        inputs, logits, ran = case_inputs(name, model, case), tensors[f"{case}.logits"], tensors[f"{case}.greedy"]
        with torch.no_grad():
            close(model(**inputs).logits[0], logits, f"logits of case {case}")
        gap = margins(model, inputs, ran, made.family)
        assert len(set(ran[:8].tolist())) > 1 or len(ran) == 1, f"case {case} repeats one token"
        grid = tensors.get(f"{case}.grid", torch.empty(0)).tolist()
        print(f"  case {case}: {logits.shape[0]} tokens, visual {tuple(tensors[f'{case}.visual'].shape)}, grid {grid}, "
              f"logits to {logits.abs().max():.1f}, greedy {len(ran)} tokens of {len(set(ran.tolist()))} kinds, "
              f"least margin {gap.min():.4f}")
    if made.family is QWEN2_5:
        check_other_names(name, model, case_inputs(name, model, 0), tensors["0.logits"])
    check_adapter(name, model, case_inputs(name, model, 0), tensors)


def check_smolvlm():
    tensors, model = load_file(HERE / "smolvlm-tiny.lora.safetensors"), load("smolvlm-tiny")
    inputs, _ = smolvlm_inputs(model)
    with torch.no_grad():
        close(model(**inputs).logits[0], load_file(HERE / "smolvlm-tiny.safetensors")["0.logits"], "logits of make.py")
    print(f"smolvlm-tiny: adapter references {size(HERE / 'smolvlm-tiny.lora.safetensors'):.0f} kB")
    check_adapter("smolvlm-tiny", model, inputs, tensors)


def check_adapter(name, model, inputs, tensors):
    adapted = PeftModel.from_pretrained(model, HERE / f"{name}.lora").eval()
    with torch.no_grad():
        close(adapted(**inputs).logits[0], tensors["lora.logits"], "logits with the adapter")
    with safe_open(HERE / f"{name}.lora" / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert all(key.removeprefix("lora.grad.") in names for key in tensors if key.startswith("lora.grad.")), "names"
    moved = (tensors["lora.logits"] - tensors.get("0.logits", tensors["lora.logits"])).abs().max()
    print(f"  adapter: {len(names)} tensors, loss {tensors['lora.loss'].item():.3f}, logits moved by {moved:.2f}")


def check_written(name, folder):
    """An adapter written elsewhere from `<name>.lora/`, loaded by PEFT: the same logits."""
    model = load(name)
    adapted = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        logits = adapted(**case_inputs(name, model, 0)).logits[0]
    close(logits, load_file(HERE / f"{name}.safetensors")["lora.logits"], "logits with the written adapter")
    print(f"{name}: PEFT reads {folder}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", help="checkpoints to make; without them all and smolvlm-tiny's adapter")
    arguments.add_argument("--check", action="store_true", help="make nothing")
    arguments.add_argument("--adapter", type=Path, help="only check this adapter of the one checkpoint named")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.adapter:
        check_written(given.names[0], given.adapter)
        raise SystemExit
    for chosen in given.names or [*CHECKPOINTS, "smolvlm-tiny"]:
        if not given.check and chosen == "smolvlm-tiny":
            smolvlm_reference()
        elif not given.check:
            make_folder(chosen)
            reference(chosen)
        if chosen == "smolvlm-tiny":
            check_smolvlm()
        else:
            check(chosen)
