"""What becomes of features from one layer to the next: two SAEs, matched, with the proof that no matching is cheaper.

A notebook of plain cells (`# %%`): open it in VS Code, or in Jupyter through Jupytext, or run it as it is. Needs
`saelab[lm]`. The tiny model (`NOTEBOOK_LM=tiny`) runs in seconds and means nothing.
"""

# %% Two sites of one model, read in one pass
import os
from itertools import islice

import numpy as np
import torch

import saelab
from saelab.lm.tiny import tiny_lm
from saelab.text.corpora import CorpusConfig, iter_documents

LM = os.environ.get("NOTEBOOK_LM", "smollm2-135m")
SITES, WIDTH, L0, STEPS = (
    (["resid_post.0", "resid_post.1"], 64, 4, 60)
    if LM == "tiny"
    else (["resid_post.15", "resid_post.16"], 1024, 32, 120)
)
lm = tiny_lm() if LM == "tiny" else saelab.LanguageModel.load(LM)
if LM == "tiny":
    texts = [f"{a} {b} {c}." for a in ("river", "stone", "bread") for b in ("under", "over") for c in ("it", "us")] * 9
else:
    texts = [d.text[:1500] for d in islice(iter_documents(CorpusConfig()), 60)]
acts = {site: rows.float() for site, rows in lm.capture(texts, sites=SITES).items()}
for site, rows in acts.items():  # attention sinks would weigh more than all other tokens together
    norms = rows.norm(dim=1)
    acts[site] = rows[norms < 10 * norms.median()]

# %% One JumpReLU SAE at each; features are compared by their decoder directions (fold="theta", parts="all": the paper)
saes = []
for site in SITES:
    rows, draw = acts[site], torch.Generator().manual_seed(0)
    batches = [rows[torch.randint(len(rows), (512,), generator=draw)] for _ in range(STEPS)]
    config = saelab.JumpReluConfig.parse({"d_in": rows.shape[1], "d_sae": WIDTH, "target_l0": L0})
    saes += saelab.train([config], batches, steps=STEPS, seed=0)
    print(saes[-1])

# %% The matching, and its certificate: the bound is made of prices that anybody can check
matching = saelab.match(*saes)
proof = saelab.verify(matching, *saes)
print(matching)
print(f"proved again without the solver: cost {proof.cost:.6g}, bound {proof.lower_bound:.6g}, gap {proof.gap:.2g}")

# %% Is it better than chance? The same features in a random order
first, second = (torch.nn.functional.normalize(s.W_dec, dim=1).numpy() for s in saes)
cosines = first @ second.T
shuffled = np.random.default_rng(0).permutation(WIDTH)
print(
    f"median cosine: matched {np.median(matching.cosine):.2f}, random {np.median(cosines[range(WIDTH), shuffled]):.2f}"
)

# %% Not every feature carries on: above the cost at which 1 % of features would match an unrelated dictionary, none is
partial = saelab.match(*saes, reject="null")
print(partial)
