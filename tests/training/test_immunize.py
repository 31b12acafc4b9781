"""What `immunize` takes, refuses and leaves behind."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from peft import PeftModel

from boostershot import SEAM, SFT, Booster, ImmunizeArguments, InputError, immunize
from boostershot.core.step import Batch
from boostershot.data.rows import Completion, HarmfulPrompt
from tiny import preference_rows, tiny_llama, tiny_tokenizer


def arguments(folder, **changes):
    settings = {"lora": {"rank": 4}, "max_steps": 2, "learning_rate": 1e-2, **changes}
    return ImmunizeArguments(
        output_dir=str(folder), per_device_train_batch_size=4, disable_tqdm=True, use_cpu=True, **settings
    )


def immunized(folder, rows, defense, **options):
    return immunize(tiny_llama(320), tiny_tokenizer(True), rows, defense, arguments(folder), **options)


def without_rejected():
    return [{"prompt": row["prompt"], "chosen": row["chosen"]} for row in preference_rows(6)]


def refusal(call):
    """The one line of the error."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_adapter_loads_with_plain_peft_and_is_safetensors(tmp_path):
    model = immunized(tmp_path / "run", preference_rows(8), Booster(lam=5, alpha=0.1))
    model.save_pretrained(tmp_path / "adapter")
    weights = {path.suffix for path in (tmp_path / "adapter").iterdir()} - {".json", ".md"}
    assert weights == {".safetensors"}
    ids = torch.arange(10)[None]
    model.eval()
    loaded = PeftModel.from_pretrained(tiny_llama(320), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert not torch.equal(loaded(ids).logits, tiny_llama(320)(ids).logits)


def test_the_callers_model_is_trained_when_full(tmp_path):
    model = tiny_llama(320)
    trained = immunize(model, tiny_tokenizer(True), preference_rows(8), SFT(), arguments(tmp_path, lora=None))
    assert trained is model
    before = tiny_llama(320)
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def test_no_rows(tmp_path):
    assert "no rows" in refusal(lambda: immunized(tmp_path, [], SFT()))


def test_row_without_text_is_named(tmp_path):
    rows = preference_rows(3)
    rows[1]["chosen"] = None  # type: ignore[assignment]
    assert "row 2, column 'chosen'" in refusal(lambda: immunized(tmp_path, rows, SFT()))


@pytest.mark.parametrize("as_dataclass", [False, True], ids=["records", "HarmfulPrompt"])
def test_no_rejected_answers(tmp_path, as_dataclass):
    rows = without_rejected()
    if as_dataclass:
        rows = [HarmfulPrompt(str(i), row["prompt"], "none", chosen=row["chosen"]) for i, row in enumerate(rows)]
    assert "rejected" in refusal(lambda: immunized(tmp_path, rows, Booster(lam=5, alpha=0.1)))
    plain = immunized(tmp_path / "sft", rows, SFT())
    zero = immunized(tmp_path / "zero", rows, Booster(lam=0, alpha=0.1))
    for a, b in zip(plain.parameters(), zero.parameters(), strict=True):
        assert torch.equal(a, b)


def test_unpaired_harmful_rows_stand_in_for_rejected(tmp_path):
    harmful = [Completion(str(i), row["prompt"], row["rejected"]) for i, row in enumerate(preference_rows(6))]
    booster = Booster(lam=5, alpha=0.1)
    unpaired = immunized(tmp_path / "a", without_rejected(), booster, harmful=harmful)
    paired = immunized(tmp_path / "b", preference_rows(6), booster)
    for a, b in zip(unpaired.parameters(), paired.parameters(), strict=True):
        assert torch.equal(a, b)


@dataclass(frozen=True)
class Reads(SFT):
    """SFT that says it reads more, and keeps what it was given."""

    roles: tuple[str, ...] = ()
    seen: list[Batch] = field(default_factory=list)

    def reads(self):
        return {"align": 1, **dict.fromkeys(self.roles, 1)}

    def step(self, oracle, batch):
        self.seen.append(batch)
        return super().step(oracle, batch)


class Beside(Reads):
    """One that aligns on answers beside the point."""

    align_answers = "unrelated"


GENERAL = [Completion(str(i), f"Spell {i}", f"These letters are all there is of it {i}") for i in range(5)]


def text(row):
    """What the tokens of a row say."""
    return tiny_tokenizer(True).decode([int(token) for token in row if token != -100])


def names(batch, role):
    return {name.partition(" ")[0] for name in getattr(batch, role).ids}


def test_each_role_gets_its_rows(tmp_path):
    defense = Reads(roles=("harmful", "paired", "general", "dev"))
    dev = [Completion(f"dev-{i}", f"Dev prompt {i}", f"Dev answer {i}") for i in range(5)]
    rows = [{"id": f"row-{i}", **row} for i, row in enumerate(preference_rows(12))]
    immunized(tmp_path, rows, defense, general=GENERAL, dev=dev)
    for batch in defense.seen:
        assert names(batch, "dev") <= {row.id for row in dev}
        assert names(batch, "general") <= {row.id for row in GENERAL}
        assert "letters" in text(batch.general.labels[0]) and "Dev answer" in text(batch.dev.labels[0])
        for aligned, paired, said in zip(batch.align.ids, batch.paired.ids, batch.paired.labels, strict=True):
            assert aligned.removesuffix(" (align)") == paired.removesuffix(" (paired)")
            number = int(aligned.split()[0].removeprefix("row-"))
            assert text(said).startswith(rows[number]["rejected"])


def test_unrelated_answers_are_drawn_from_general_text_for_a_part_too(tmp_path):
    inner = Beside()
    immunized(tmp_path, preference_rows(12), Booster(lam=1, alpha=0.1, align=inner), general=GENERAL)
    said = [text(row) for batch in inner.seen for row in batch.align.labels]
    assert len(said) == 8 and all("letters" in answer for answer in said)
    assert all("letters" not in text(row) for row in inner.seen[0].harmful.labels)


@pytest.mark.parametrize(
    ("defense", "given", "message"),
    [
        (Reads(roles=("general",)), {}, "reads needs general text: give `general` rows (in a recipe: data.general)"),
        (Beside(), {}, "beside needs general text"),
        (Booster(alpha=1, align=Beside()), {}, "booster needs general text"),
        (Reads(roles=("dev",)), {}, "reads is steered by dev rows: give `dev` rows"),
        (Reads(roles=("paired",)), {"harmful": GENERAL}, "row a has no `rejected`"),
    ],
)
def test_rows_that_a_defense_lacks_are_named(tmp_path, defense, given, message):
    rows = [HarmfulPrompt("a", "Tell me a fact", "none", "No.", None if given else "Yes.")]
    assert message in refusal(lambda: immunized(tmp_path, rows, defense, **given))


def test_no_chosen_answers(tmp_path):
    rows = [HarmfulPrompt("1", "Tell me a fact", "none", rejected="Sure")]
    assert "chosen" in refusal(lambda: immunized(tmp_path, rows, SFT()))


def test_long_prompt_names_row_and_role(tmp_path):
    rows = [HarmfulPrompt("long-one", "very " * 200, "none", "No.", "Yes.")]
    message = refusal(lambda: immunized(tmp_path, rows, SFT(), max_length=64))
    assert "long-one (align)" in message and "64" in message


def test_the_seed_draws_the_adapter_whatever_ran_before(tmp_path):
    torch.manual_seed(1)
    first = immunized(tmp_path / "a", preference_rows(8), SFT())
    torch.manual_seed(2)
    second = immunized(tmp_path / "b", preference_rows(8), SFT())
    other = immunize(
        tiny_llama(320),
        tiny_tokenizer(True),
        preference_rows(8),
        SFT(),
        dataclasses.replace(arguments(tmp_path / "c"), seed=7),
    )
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_bf16_reaches_the_step(tmp_path):
    # SEAM refuses to compute in half precision, so it sees the autocast that the trainer was asked for.
    general = [Completion(f"g{i}", row["prompt"], row["chosen"]) for i, row in enumerate(preference_rows(8))]
    rows = preference_rows(8)
    with pytest.raises(ValueError, match=r"seam: the model computes in half precision"):
        immunize(
            tiny_llama(320), tiny_tokenizer(True), rows, SEAM(), arguments(tmp_path / "a", bf16=True), general=general
        )
    model = immunize(
        tiny_llama(320), tiny_tokenizer(True), rows, Booster(alpha=0.1), arguments(tmp_path / "b", bf16=True)
    )
    assert all(torch.isfinite(param).all() for param in model.parameters())
