"""The attack's loss and gradient are those of the stock `trl.SFTTrainer`, on batches that supervise the answers."""

import pytest
import torch
from datasets import Dataset
from trl.trainer.sft_trainer import SFTTrainer

from boostershot import AttackArguments
from boostershot.attacks.finetune import TrieSFTTrainer
from boostershot.data.format import Format
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer


def trainer_of(kind, model, folder):
    """A trainer and the rows that it was given, as `attack` builds it."""
    tokenizer = tiny_tokenizer(True)
    form = Format.choose(tokenizer)
    rows = [form.tokenize(row["prompt"], row["rejected"], name="row", max_length=128) for row in preference_rows(6)]
    args = AttackArguments(
        output_dir=str(folder),
        per_device_train_batch_size=6,
        max_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    data = Dataset.from_list([{"input_ids": r.input_ids, "labels": r.labels} for r in rows])
    return kind(model=model, args=args, train_dataset=data, processing_class=tokenizer), rows


def loss_and_gradient(kind, build, folder, tokens):
    trainer, _ = trainer_of(kind, build(320), folder)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}, batch


@pytest.mark.parametrize("tokens", [None, torch.tensor(100)], ids=["mean", "given count"])
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_loss_and_gradient_are_the_stock_trainers(tmp_path, build, tokens):
    loss, gradient, _ = loss_and_gradient(TrieSFTTrainer, build, tmp_path, tokens)
    stock_loss, stock, batch = loss_and_gradient(SFTTrainer, build, tmp_path, tokens)
    assert loss == pytest.approx(stock_loss, rel=1e-6)
    norm = torch.stack([g.norm() for g in stock.values()]).norm().item()
    for name in stock:
        torch.testing.assert_close(gradient[name], stock[name], rtol=0, atol=1e-6 * norm)

    # Both against the definition, so that they cannot be wrong alike.
    logits = build(320)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum")
    assert loss == pytest.approx(losses.item() / (100 if tokens is not None else (labels != -100).sum().item()))


def test_batches_supervise_exactly_the_answers(tmp_path):
    trainer, rows = trainer_of(TrieSFTTrainer, tiny_llama(320), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    found = {tuple(ids[mask == 1].tolist()): tuple(labels[labels != -100].tolist()) for ids, mask, labels in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)}  # fmt: skip
    assert found == {tuple(row.input_ids): row.answer for row in rows}


def test_loss_that_is_not_finite_stops(tmp_path):
    model = tiny_llama(320)
    trainer, _ = trainer_of(TrieSFTTrainer, model, tmp_path)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        trainer.train()
