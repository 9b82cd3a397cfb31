"""A language model that has learnt nothing, of the same statistics: the entries of each weight tensor change places.

Interpretability pipelines give features of such a model scores near those of a trained one (arXiv 2501.17727), so it is
a control of language models as frozen SAEs are of training. Each tensor keeps its values, so its mean, its spread and
its shape; a tensor that two parts share stays shared. Knows no SAE and no file.
"""

import torch
from torch import nn

from saelab.core.seeds import seed_of


@torch.no_grad()
def shuffle_weights(model: nn.Module, seed: int = 0) -> None:
    """Permute the entries of every parameter, in place, each by a generator of its own name."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(seed_of(seed, "shuffled weights", name))
        order = torch.randperm(parameter.numel(), generator=generator)
        flat = parameter.detach().cpu().flatten()
        parameter.copy_(flat[order].view_as(parameter))
