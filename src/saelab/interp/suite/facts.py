"""RAVEL's facts as a language model knows them: prompts read at the entity, kept where the model answers right.

The tables are those of the data set (explanare/ravel, MIT): attribute_to_prompts (templates with %s for the entity) and
entity_attributes, one pair of files per entity type. A prompt is kept where the most likely next token is the first
token of the value. One pass of the LM for all sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import numpy_generator
from saelab.interp.suite.data_sets import DataSet, Tensors
from saelab.lm.batching import pad_left
from saelab.lm.model import LanguageModel
from saelab.store.files import read_json
from saelab.store.references import fetch


class RavelConfig(Config):
    """Which facts are asked, and how the mask is trained."""

    entity: str = Field(default="city", description="Entity type of the tables.")
    attributes: tuple[str, ...] = Field(default=("Country", "Continent", "Language"), min_length=2)
    entities: int = Field(default=3552, ge=4, description="Entities, drawn at random.")
    templates: int = Field(default=90, ge=1, description="Prompts per attribute, drawn at random.")
    num_pairs_per_attribute: int = Field(default=5000, ge=8, description="Cause pairs, and as many others.")
    train_test_split: float = Field(default=0.7, gt=0, lt=1, description="Share of pairs that train the mask.")
    learning_rate: float = Field(default=1e-3, gt=0)
    num_epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=1, description="Pairs of a training step.")
    least_pairs: int = Field(default=24, ge=8, description="Pairs that an attribute needs.")


@dataclass(frozen=True)
class Facts:
    """Prompts that the model answers right. hidden: left-padded activations; position: of the entity's last token."""

    hidden: Float[Tensor, "N T D"]
    mask: Bool[Tensor, "N T"]
    position: Int[Tensor, " N"]
    answer: Int[Tensor, " N"]
    attribute: Int[Tensor, " N"]
    entity: Int[Tensor, " N"]


@dataclass(frozen=True)
class FactPrompt:
    """A question: token ids, where the entity ends, the first token of the value, and what it asks of whom."""

    ids: tuple[int, ...]
    position: int
    answer: int
    attribute: int
    entity: int


def read_facts(
    lm: LanguageModel,
    data: str,
    sites: Sequence[str],
    config: RavelConfig,
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> dict[str, Facts]:
    """The known facts, at every site. data: a reference to the folder with the tables."""
    prompts = prompts_of(lm, fetch(data), config, seed)
    prompts.sort(key=lambda p: len(p.ids))
    width = max(len(p.ids) for p in prompts)
    kept: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    masks, known = [], []
    last = max(sites, key=lambda site: lm.site(site).layer)
    with progress.task(f"asking {len(prompts)} facts", len(prompts), "prompts") as task, torch.inference_mode():
        for start in range(0, len(prompts), batch_size):
            part = prompts[start : start + batch_size]
            tokens, mask = pad_left([p.ids for p in part])
            hidden = lm.run_to(tokens, sites, mask=mask)
            said = lm.run_from(hidden[last], last, mask=mask, last=True)[:, -1].argmax(-1).cpu()
            right = said == torch.tensor([p.answer for p in part])
            missing = width - tokens.shape[1]
            real = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask
            masks.append(torch.nn.functional.pad(real, (missing, 0))[right])
            for site in sites:
                wide = torch.nn.functional.pad(hidden[site].to("cpu", torch.bfloat16), (0, 0, missing, 0))
                kept[site].append(wide[right])
            known += [p for p, ok in zip(part, right.tolist(), strict=True) if ok]
            task.advance(len(part), known=len(known))
    columns = {
        "position": [p.position + width - len(p.ids) for p in known],
        "answer": [p.answer for p in known],
        "attribute": [p.attribute for p in known],
        "entity": [p.entity for p in known],
    }
    numbers = {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()}
    return {site: Facts(hidden=torch.cat(kept[site]), mask=torch.cat(masks), **numbers) for site in sites}


class FactSet(DataSet):
    """RAVEL's facts that the model knows. data: a reference to the folder of its tables."""

    kind: Literal["facts"] = "facts"
    data: str
    config: RavelConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"facts.{self.config.entity}.{self.config.digest()[:12]}"

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of the prompts, by site."""
        found = read_facts(lm, self.data, sites, self.config, seed=seed, progress=progress)
        return {site: dict(vars(facts)) for site, facts in found.items()}


def prompts_of(lm: LanguageModel, folder: Path, config: RavelConfig, seed: int) -> list[FactPrompt]:
    """All questions, drawn by the config's counts; those whose tokens cannot be told apart are left out."""
    templates: dict[str, list[str]] = _table(folder, config, "attribute_to_prompts")
    entities: dict[str, dict[str, str]] = _table(folder, config, "entity_attributes")
    names = [str(n) for n in numpy_generator(seed, "ravel entities").permutation(sorted(entities))[: config.entities]]
    made: list[FactPrompt] = []
    for a, attribute in enumerate(config.attributes):
        if attribute not in templates:
            raise UserError(f"The RAVEL tables know no {attribute!r} of a {config.entity}.")
        order = numpy_generator(seed, "ravel templates", attribute).permutation(len(templates[attribute]))
        for template in [templates[attribute][i] for i in order[: config.templates]]:
            values = [entities[name].get(attribute, "") for name in names]
            found = _questions(lm, template, names, values)
            made += [FactPrompt(*q, a, e) for e, q in enumerate(found) if q is not None]
    if not made:
        raise UserError(f"No RAVEL prompt of {config.entity} can be read with this tokenizer.")
    return made


def _questions(
    lm: LanguageModel, template: str, names: Sequence[str], values: Sequence[str]
) -> list[tuple[tuple[int, ...], int, int] | None]:
    """(ids, end of the entity, first token of the value) of each entity; None where tokens do not line up."""
    before, after = template.split("%s", 1)
    gap = "" if template.endswith(('"', " ", "(")) else " "
    starts = lm.tokenize([before + name for name in names])
    whole = lm.tokenize([before + name + after for name in names])
    full = lm.tokenize([before + name + after + gap + v for name, v in zip(names, values, strict=True)])
    found: list[tuple[tuple[int, ...], int, int] | None] = []
    for start, ids, answered, value in zip(starts, whole, full, values, strict=True):
        lines_up = ids[: len(start)] == start and answered[: len(ids)] == ids and len(answered) > len(ids)
        found.append((tuple(ids), len(start) - 1, answered[len(ids)]) if lines_up and value else None)
    return found


def _table(folder: Path, config: RavelConfig, name: str) -> Any:
    path = folder / f"ravel_{config.entity}_{name}.json"
    if not path.exists():
        raise UserError(f"There is no {path}.", hint="Unpack RAVEL's data.tgz and name its folder: path:ravel/data")
    return read_json(path)
