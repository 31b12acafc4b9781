"""The model card of an immunised model: how it was made, so that whoever finds it can repeat and doubt it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CARD = """---
library_name: {library}
base_model: {base}
tags: [boostershot, safety, harmful-fine-tuning-defense]
---

# {base}, immunised with {method}

Aligned with boostershot against harmful fine-tuning.

| | |
|---|---|
| defence | `{defense}` |
| seed | {seed} |
| steps | {steps}, {passes} forward-backward passes each |
| trainable weights | {weights:,} |
| template | {template} |

## Training settings

```yaml
{settings}```

## Limits

Immunisation raises the cost of harmful fine-tuning; it does not prevent it. An attacker who tunes learning rate, batch
and steps can undo it. Measure before you rely on it: `boostershot evaluate`.
"""


def write_card(folder: Path, recipe: Any, defense: Mapping[str, Any], seed: int, facts: Mapping[str, Any]) -> None:
    """Write `README.md` beside the weights that an immunize stage saved in `folder`."""
    weights = folder / ("adapter" if (folder / "adapter").exists() else "model")
    text = CARD.format(
        library="peft" if weights.name == "adapter" else "transformers",
        base=recipe.model.id,
        method=defense["method"],
        defense=yaml.safe_dump(dict(defense), default_flow_style=True, width=10_000).strip(),
        seed=seed,
        steps=facts["steps"],
        passes=f"{facts['passes_per_step']:.4g}",
        weights=facts["trainable_parameters"],
        template=recipe.model.template,
        settings=yaml.safe_dump(recipe.immunize.model_dump(mode="json"), sort_keys=False),
    )
    (weights / "README.md").write_text(text, encoding="utf-8")
