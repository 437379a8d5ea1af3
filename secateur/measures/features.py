"""Which pixels a network decides by: BackSelect, exactly and by gradients, and what one network's pixels tell another.

Carter et al., "What made you do this? Understanding black-box decisions with sufficient input subsets" (arXiv
1810.03805), as Liebenwein et al. (arXiv 2103.03014) use it: from the whole image, the pixel is hidden again and again
whose hiding leaves the confidence in the predicted class highest. A pixel is hidden in all channels at once, by 0, the
mean colour of normalised inputs. The order tells pixels from the least to the most informative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from secateur.errors import InputError

Network = Callable[[Tensor], Tensor]
BATCH = 256


@torch.no_grad()
def backselect(network: Network, image: Tensor, label: int | None = None, *, batch: int = BATCH) -> Tensor:
    """All pixels of a normalised image [channels, height, width], int64 [height * width], the most informative last.

    `label` is the class whose confidence counts; the predicted one if left out. Of equal pixels the first leaves. This
    is exact: about n²/2 evaluations for n pixels, half a million for 32x32.

    >>> backselect(network, image)[-1]  # the place of the pixel that matters most
    """
    _check(image)
    label = int(network(image.unsqueeze(0)).argmax()) if label is None else label
    visible = torch.ones(image[0].numel(), dtype=torch.bool, device=image.device)
    order = []
    for _ in range(len(visible)):
        left = torch.nonzero(visible).flatten()
        sure = [_confidences(network, image, visible, part, label) for part in left.split(batch)]
        chosen = left[torch.cat(sure).argmax()]  # argmax takes the first of equals
        visible[chosen] = False
        order.append(chosen)
    return torch.stack(order)


def _confidences(network: Network, image: Tensor, visible: Tensor, hidden: Tensor, label: int) -> Tensor:
    """The confidence in `label` with one more pixel hidden, for each of `hidden`."""
    masks = visible.repeat(len(hidden), 1)
    masks[torch.arange(len(hidden)), hidden] = False
    outputs = network(image * masks.view(-1, 1, *image.shape[1:]))
    return outputs.double().softmax(dim=1)[:, label]


def backselect_by_gradient(
    network: Network, images: Tensor, labels: Tensor | None = None, *, at_once: int = 16
) -> Tensor:
    """An order like that of `backselect` for many images [images, channels, height, width] at once, by first order.

    Each step hides the `at_once` pixels whose hiding raises the log-confidence most by the gradient, in that order:
    pixels / `at_once` evaluations with a gradient for the whole batch. int64 [images, height * width].
    """
    _check(images[0])
    number, places = len(images), images[0, 0].numel()
    if at_once < 1:
        raise InputError(f"The 'at_once' parameter must be a positive int. Got {at_once!r} instead.")
    if labels is None:
        with torch.no_grad():
            labels = network(images).argmax(dim=1)
    visible = torch.ones(number, places, dtype=torch.bool, device=images.device)
    rows = torch.arange(number, device=images.device).unsqueeze(1)
    order: list[Tensor] = []
    while sum(part.shape[1] for part in order) < places:
        shown = (images * visible.view(number, 1, *images.shape[2:])).requires_grad_()
        with torch.enable_grad():
            sure = network(shown).log_softmax(dim=1).gather(1, labels.view(-1, 1)).sum()
            (gradient,) = torch.autograd.grad(sure, shown)
        gain = (-gradient * shown.detach()).sum(dim=1).flatten(1).masked_fill(~visible, -torch.inf)
        left = int(visible[0].sum())
        chosen = gain.sort(dim=1, descending=True, stable=True).indices[:, : min(at_once, left)]
        visible[rows, chosen] = False
        order.append(chosen)
    return torch.cat(order, dim=1)


@torch.no_grad()
def cross_confidence(
    networks: Sequence[Network], images: Tensor, orders: Sequence[Tensor], labels: Tensor, *, share: float = 0.1
) -> Tensor:
    """Confidence in the true label, [from, on]: `networks[on]` sees only the pixels that network `from` ranks highest.

    `images` are [images, channels, height, width], `orders` one [images, pixels] a network, `share` of the pixels stay.
    """
    if not 0 < share <= 1 or len(orders) != len(networks):
        raise InputError(
            "Cross-confidence needs a share in (0, 1] and one order a network. "
            f"Got {share!r}, {len(orders)} orders and {len(networks)} networks."
        )
    kept = max(1, round(share * images[0, 0].numel()))
    table = torch.zeros(len(networks), len(networks), dtype=torch.float64)
    for row, order in enumerate(orders):
        mask = torch.zeros_like(order, dtype=torch.bool)
        mask[torch.arange(len(order), device=order.device).unsqueeze(1), order[:, -kept:]] = True
        shown = images * mask.view(len(images), 1, *images.shape[2:])
        for column, network in enumerate(networks):
            sure = network(shown).double().softmax(dim=1).gather(1, labels.view(-1, 1))
            table[row, column] = sure.mean().cpu()
    return table


def _check(image: Tensor) -> None:
    if image.dim() != 3 or not image.is_floating_point():
        raise InputError(
            "BackSelect needs normalised images of shape [channels, height, width]. "
            f"Got {image.dtype} of shape {list(image.shape)}."
        )
