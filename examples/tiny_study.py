"""The whole question in one file: train, interpret, select, steer, match, on a real language model, in about a minute.

Run it with `python examples/tiny_study.py`. The complete, resumable form with error bars and a report is
`saelab demo`; this file only shows the pieces and how they fit together.
"""

from itertools import islice

import polars as pl
import torch

import saelab
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.text.corpora import CorpusConfig, iter_documents

SITE = "resid_post.15"
ARCHITECTURES = (saelab.ReluConfig, saelab.TopKConfig, saelab.JumpReluConfig)
WIDTH, L0, STEPS, BATCH, CONTEXT = 1024, 32, 60, 1024, 96


def activations(lm: saelab.LanguageModel, contexts: int) -> tuple[torch.Tensor, list[int]]:
    """Activations at the site for real text, special tokens and attention sinks left out, and each row's token."""
    ids = [i for d in islice(iter_documents(CorpusConfig()), 200) for i in lm.tokenize([d.text], bos=False)[0]]
    rows = [[lm.bos_id, *ids[k * CONTEXT : (k + 1) * CONTEXT]] for k in range(contexts)]
    acts = lm.capture(rows, sites=[SITE])[SITE].float()
    tokens = [i for row in rows for i in row if i not in lm.special_ids]
    norms = acts.norm(dim=1)
    kept = norms < 10 * norms.median()
    return acts[kept], [t for t, k in zip(tokens, kept.tolist(), strict=True) if k]


def fvu(sae: torch.nn.Module, x: torch.Tensor) -> float:
    """Fraction of variance unexplained."""
    return float((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum())


def describe(lm: saelab.LanguageModel, sae: torch.nn.Module, acts: torch.Tensor, tokens: list[int], index: int) -> str:
    """The tokens on which a feature is strongest."""
    best = sae.encode(acts)[:, index].topk(12).indices.tolist()
    return " | ".join(dict.fromkeys(lm.decode([tokens[i]]) for i in best))


def main() -> pl.DataFrame:
    """Train one SAE of each architecture, see which features move the model, steer with one, match two SAEs."""
    lm = saelab.LanguageModel.load("smollm2-135m", dtype="auto")
    acts, tokens = activations(lm, contexts=340)
    train, held_out = acts[:-4096], acts[-4096:]
    generator = torch.Generator().manual_seed(0)
    batches = [train[torch.randint(len(train), (BATCH,), generator=generator)] for _ in range(STEPS)]
    configs = [kind.parse({"d_in": acts.shape[1], "d_sae": WIDTH, _level(kind): L0}) for kind in ARCHITECTURES]
    saes = dict(zip(("relu", "topk", "jumprelu"), saelab.train(configs, batches, steps=STEPS, seed=0), strict=True))

    rows = []
    for name, sae in saes.items():
        effects = saelab.feature_effects(lm, sae, site=SITE, positions="last")
        active = (sae.encode(held_out) > 0).float()
        strongest = effects.sort(pl.col("delta_confidence").abs(), descending=True).row(0, named=True)
        rows.append(
            {
                "sae": name,
                "fvu": fvu(sae, held_out),
                "l0": float(active.sum(1).mean()),
                "feature": strongest["feature"],
                "delta_confidence": strongest["delta_confidence"],
                "responds to": describe(lm, sae, acts, tokens, strongest["feature"]),
            }
        )

    chosen = rows[1]["feature"]
    sae, prompt = saes["topk"], lm.chat("Describe a walk in a park.")
    peak = float(sae.encode(acts)[:, chosen].max())
    edit = Add(SITE, sae.W_dec[chosen], strength=peak)
    plain, steered = (lm.generate([prompt], edits=e, sampling=Sampling(32))[0] for e in ((), (edit,)))
    print(f"unsteered: {plain!r}\nsteered with feature {chosen}: {steered!r}")

    matching = saelab.match(saes["relu"], saes["topk"], fold="none")
    print(f"relu -> topk: median cosine {float(pl.Series(matching.cosine).median()):.2f}, gap {matching.gap:.1e}")
    return pl.DataFrame(rows)


def _level(kind: type) -> str:
    return "k" if "k" in kind.model_fields else "target_l0"


if __name__ == "__main__":
    with pl.Config(tbl_width_chars=160, fmt_str_lengths=60):
        print(main())
