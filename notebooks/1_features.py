"""One SAE on one text: train it, see what a feature fires on, and steer with it.

A notebook of plain cells (`# %%`): open it in VS Code, or in Jupyter through Jupytext, or run it as it is. Needs
`saelab[lm]`. The tiny model (`NOTEBOOK_LM=tiny`) runs in seconds and means nothing.
"""

# %% What is trained on what
import os

import torch

import saelab
from saelab.lm.edit import Add
from saelab.lm.tiny import tiny_lm

LM = os.environ.get("NOTEBOOK_LM", "smollm2-135m")
SITE, WIDTH, K, STEPS = ("resid_post.1", 64, 4, 40) if LM == "tiny" else ("resid_post.15", 1024, 32, 100)
TEXTS = [
    "The river runs past the old mill and under the bridge.",
    "She counted the coins twice and put them back into the jar.",
    "In 1897 the library was moved to the house beside the river.",
    "If the kettle boils, pour the water over the leaves and wait.",
] * 8

lm = tiny_lm() if LM == "tiny" else saelab.LanguageModel.load(LM)
print(lm)

# %% Activations: one row per token, special tokens left out
acts = lm.capture(TEXTS, sites=[SITE])[SITE].float()
print(f"{acts.shape[0]} tokens, width {acts.shape[1]}")

# %% Train. A real SAE sees millions of tokens: `saelab train --text` does that, and survives a kill.
draw = torch.Generator().manual_seed(0)
batches = [acts[torch.randint(len(acts), (256,), generator=draw)] for _ in range(STEPS)]
config = saelab.TopKConfig.parse({"d_in": acts.shape[1], "d_sae": WIDTH, "k": K})
(sae,) = saelab.train([config], batches, steps=STEPS, seed=0)
fvu = float((sae(acts) - acts).square().sum() / (acts - acts.mean(0)).square().sum())
print(f"{sae}: fraction of variance unexplained {fvu:.3f}")

# %% The feature that is largest on one token, and the tokens on which it is strongest
codes = sae.encode(acts)
tokens = [i for ids in lm.tokenize(TEXTS) for i in ids if i not in lm.special_ids]
feature = int(codes[3].argmax())
strongest = dict.fromkeys(lm.decode([tokens[i]]) for i in codes[:, feature].topk(20).indices.tolist())
print(f"feature {feature} fires on {[*strongest]}")

# %% What the model does with it: every feature's effect on the next token, and this one's
effects = saelab.feature_effects(lm, sae, site=SITE, positions="last")
print(effects.filter(effects["feature"] == feature).select("delta_confidence", "output_score", "kl"))

# %% Steer at shares of a typical activation's norm. A text that looks steered proves nothing by itself:
# a random direction of the same length stands beside it, and `saelab run` counts how often each can be told.
typical = float(acts.norm(dim=1).median())
noise = torch.nn.functional.normalize(torch.randn(acts.shape[1], generator=draw), dim=0)
for share in (0.2, 0.4, 0.8):
    for name, vector in {"feature": sae.W_dec[feature], "random": noise}.items():
        edit = Add(SITE, vector / vector.norm(), strength=share * typical)
        text = lm.generate(["I think that"], saelab.Sampling(16), edits=[edit])[0]
        print(f"{share:.1f} {name:7} I think that{' '.join(text.split())}")
