"""Activations of several sites from one pass of the language model over packed text, written shard by shard.

A shard is a fixed range of contexts, so a harvest that was killed goes on at the first shard that is missing or damaged
and ends with the same bytes. Left out and counted: special positions, and attention sinks, positions where |x| exceeds
`sink_ratio` times the site's median |x| over the first shard. A sink at one site is left out at all, so row i is the
same token at every site. Nothing here knows SAEs.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from saelab.activations.moments import MomentsFitter
from saelab.activations.passes import TOGETHER, ReadsSites, norms, passes
from saelab.activations.shards import ActivationShards, Manifest, ShardRecord, read_shard, write_moments
from saelab.activations.site import SINK_RATIO, sink_bound
from saelab.core.config import Config, digest_of
from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress, Task
from saelab.core.sites import parse_site
from saelab.store.files import sha256_of
from saelab.store.folders import MOMENTS, SHARDS, shard_name
from saelab.store.tensors import write_tensors
from saelab.text.pack import PackedText


class HarvestConfig(Config):
    """How activations are harvested."""

    batch_contexts: int = Field(default=16, ge=1, description="Contexts per pass of the LM.")
    shard_contexts: int = Field(
        default=256, ge=1, description="Contexts per shard: what a killed harvest loses at most."
    )
    sink_ratio: float = Field(
        default=SINK_RATIO, gt=1, description="A position whose norm exceeds this many medians is a sink."
    )
    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="Type of the rows.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the rows."""
        return getattr(torch, self.dtype)


def harvest(
    lm: ReadsSites,
    packed: PackedText,
    sites: Sequence[str],
    folder: str | Path,
    *,
    config: HarvestConfig | None = None,
    progress: Progress = SILENT,
) -> dict[str, ActivationShards]:
    """Harvest `sites` into `folder/<site>/`, going on where an earlier harvest of the same work stopped.

    Returns the opened shards of each site. A harvest of other work in the folder is replaced. Raises `UserError` for an
    unknown site or a text in which no position counts, `ArtefactError` where the LM gives NaN or infinite activations
    (naming context and position), `ResourceError` on a full disk; finished shards are kept.
    """
    work = _Work(lm, packed, sites, Path(folder), config or HarvestConfig())
    done = work.resume()
    tokens = packed.tokens.numel()
    with progress.task(f"harvesting {', '.join(work.sites)}", tokens, "tokens") as task:
        task.found(sum(work.size(k) for k in done))
        for k in work.shards:
            if k not in done:
                work.write(k, task)
    work.finish()
    return {site: ActivationShards(work.folders[site]) for site in work.sites}


class _Work:
    """One harvest: which shards there are, and how one is made."""

    def __init__(self, lm: ReadsSites, packed: PackedText, sites: Sequence[str], folder: Path, config: HarvestConfig):
        self.lm, self.packed, self.config = lm, packed, config
        self.sites = [str(parse_site(s)) for s in sites]
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise UserError(f"A harvest needs one or more different sites, not {', '.join(self.sites) or 'none'}.")
        self.counts = packed.counts
        if not bool(self.counts.any()):
            raise UserError("No position of the text counts: it holds only special tokens.", hint="Give more text.")
        self.folders = {site: folder / site for site in self.sites}
        self.shards = range(-(-packed.n_contexts // config.shard_contexts))
        self.key = digest_of(
            {
                "lm": lm.reference,
                "dtype": str(lm.dtype),
                "text": packed.digest(),
                "sites": self.sites,
                "config": config.model_dump(mode="json"),
            }
        )
        self.manifests: dict[str, Manifest] = {}

    def size(self, k: int) -> int:
        """Tokens of shard k."""
        first, stop = self._range(k)
        return (stop - first) * self.packed.context

    def _range(self, k: int) -> tuple[int, int]:
        size = self.config.shard_contexts
        return k * size, min((k + 1) * size, self.packed.n_contexts)

    def resume(self) -> set[int]:
        """Take over what is whole of an earlier harvest of the same work, clear away the rest; the shards done."""
        done = set(self.shards)
        for site, folder in self.folders.items():
            kept: dict[str, ShardRecord] = {}
            if (manifest := _earlier(folder, self.key)) is not None:
                kept = {r.file: r for r in manifest.shards if _same(folder / r.file, r.sha256)}
                whole = len(kept) == len(self.shards) and _same(folder / MOMENTS, manifest.moments)
                moments = manifest.moments if whole else None
                self.manifests[site] = replace(manifest, shards=tuple(kept.values()), moments=moments)
            # Hidden files are what a killed writer (ours, or the safetensors library) left half-written.
            for path in [*folder.glob(SHARDS), *folder.glob(".*")]:
                if path.name not in kept:
                    path.unlink()
            done &= {k for k in self.shards if shard_name(k) in kept}
        return done

    def write(self, k: int, task: Task) -> None:
        """Run the LM over shard k's contexts and write its rows at every site, also where they were whole.

        So the sites agree on the sinks to the last one, even if the LM's arithmetic is no longer quite the same.
        """
        first, stop = self._range(k)
        rows, lengths = self._run(first, stop, task)
        if len(self.manifests) < len(self.sites):
            self._begin(rows, lengths)
        over = {site: lengths[site] > self.manifests[site].sink_threshold for site in self.sites}
        sink = torch.stack(list(over.values())).any(dim=0)
        where = self.counts[first:stop].nonzero().int()
        for site in self.sites:
            tensors = {
                "rows": rows[site][~sink],
                "context": where[~sink, 0] + first,
                "position": where[~sink, 1].contiguous(),
            }
            path = self.folders[site] / shard_name(k)
            write_tensors(path, tensors)
            record = ShardRecord(
                file=path.name,
                rows=len(tensors["rows"]),
                bytes=path.stat().st_size,
                sha256=sha256_of(path),
                first=first,
                stop=stop,
                special=self.size(k) - len(where),
                sinks=int(sink.sum()),
                sinks_here=int(over[site].sum()),
                largest_norm=float(lengths[site].max()) if len(where) else 0.0,
            )
            others = [r for r in self.manifests[site].shards if r.file != record.file]
            ordered = sorted([*others, record], key=lambda r: r.first)
            self.manifests[site] = replace(self.manifests[site], shards=tuple(ordered), moments=None)
            self.manifests[site].save(self.folders[site])

    def _run(self, first: int, stop: int, task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The rows [n, D] of the positions that count and their norms [n], for each site."""
        rows: dict[str, list[Tensor]] = {site: [] for site in self.sites}
        size = self.config.batch_contexts
        batches = [slice(at, min(at + size, stop)) for at in range(first, stop, size)]
        began, done = time.perf_counter(), 0
        found = passes(self.lm, self.packed, batches, self.sites, self.config.torch_dtype, torch.device("cpu"))
        for counts, made in found:
            for site in self.sites:
                rows[site].append(made[site])
            done += counts.numel()
            task.advance(counts.numel(), **{"tokens/s": done / (time.perf_counter() - began)})
        joined = {site: torch.cat(parts) for site, parts in rows.items()}
        return joined, {site: norms(x) for site, x in joined.items()}

    def _begin(self, rows: dict[str, Tensor], lengths: dict[str, Tensor]) -> None:
        """Start the manifests: the first shard's median decides what a sink is."""
        for site in self.sites:
            if not len(lengths[site]):
                raise UserError("No position of the first shard counts.", hint="Give more text or longer contexts.")
            self.manifests[site] = Manifest(
                key=self.key,
                site=site,
                lm=self.lm.reference,
                d=rows[site].shape[1],
                dtype=self.config.dtype,
                context=self.packed.context,
                median_norm=float(lengths[site].median()),
                sink_threshold=sink_bound(lengths[site], self.config.sink_ratio),
            )

    def finish(self) -> None:
        """Read every shard back, take the moments, and so declare the harvest finished."""
        for site, folder in self.folders.items():
            manifest = self.manifests[site]
            if manifest.moments is not None:
                continue
            fitter = MomentsFitter(manifest.d)
            for record in manifest.shards:
                for piece in read_shard(folder, record).rows.split(TOGETHER):
                    fitter.update(piece)
            write_moments(folder / MOMENTS, fitter.finish())
            replace(manifest, moments=sha256_of(folder / MOMENTS)).save(folder)


def _earlier(folder: Path, key: str) -> Manifest | None:
    """The manifest of an earlier harvest of the same work; a damaged one vouches for nothing."""
    try:
        manifest = Manifest.load(folder)
    except ArtefactError:
        return None
    return manifest if manifest.key == key else None


def _same(path: Path, sha256: str | None) -> bool:
    return path.exists() and sha256_of(path) == sha256
