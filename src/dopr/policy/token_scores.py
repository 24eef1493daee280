"""Log-probabilities and entropies of given tokens from all logits at once.

TRL goes through the logits tile by tile, so that a large vocabulary does not fill the memory, and
computes every tile again for the gradient. Its tiles have 32768 columns however small the
vocabulary is, which on a CPU puts each token's logits on pages of their own. Where the logits are
few they are kept instead, and what is made of them is the same up to rounding.
"""

import torch
from torch import Tensor
from torch.nn import functional

# 64 MB in float32, of which some four copies exist at once.
_MOST_LOGITS = 2**24


def are_few(hidden: Tensor, weight: Tensor) -> bool:
    """Whether `token_scores` is the better way: on a CPU, in full precision, with few logits.

    Args:
        hidden: shape (N, width).
        weight: of the head, shape (vocabulary, width).
    """
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and len(hidden) * len(weight) <= _MOST_LOGITS
    )


def token_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The log-probability of each target and the entropy in nats of what it was drawn from.

    Both carry gradients, and cost nothing on the way back where nothing comes of them.

    Args:
        hidden: shape (N, width).
        weight, bias: of the head, shapes (vocabulary, width) and (vocabulary,).
        targets: shape (N,).
        scale: factor of the logits, such as one over the temperature.
    """
    logits = functional.linear(hidden, weight, bias)
    known = torch.log_softmax(logits if scale == 1 else logits * scale, dim=-1)
    scores = known.gather(-1, targets[:, None])[:, 0]
    return scores, -(known.exp() * known).sum(-1)
