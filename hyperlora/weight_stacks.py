"""Projections of one shape in one tensor, each module's weight a view of its row, beside a pristine copy.

The copy lies on the device beside them, or in host memory, from where each merge and restore copies it over them.

Shapes: N projections, O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hyperlora.errors import InvalidRequest
from hyperlora.host_memory import on_host


class WeightStack:
    """Projections that agree in shape, dtype and device: weights (N, O, I) that the modules look into, and a copy.

    The modules keep their parameters; what these point at is moved into the stack, so that `state_dict`, saving and
    `copy.deepcopy` (whose copies are on their own again) work as before. A second stack of the same modules shares
    the weights of the first. What looks at a parameter's storage or version sees more, or less, than one weight:
    `torch.save` of a single parameter writes its stack, and autograd does not notice that a weight was merged over.
    """

    def __init__(self, projections: Mapping[str, nn.Linear], *, pristine_on_host: bool = False) -> None:
        self.names = tuple(projections)
        self._modules = tuple(projections.values())
        # Written to for as long as the UNet lives, wherever that happens.
        with torch.inference_mode(False), torch.no_grad():
            self.weights_NOI = found = _stacked(self._modules)
            self.pristine_NOI = on_host(found, for_device=found.device) if pristine_on_host else found.clone()
        self._addresses = tuple(row.data_ptr() for row in found)
        self.changed: set[int] = set()
        """Rows that may differ from the pristine ones."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of every projection."""
        return self.pristine_NOI.shape[1], self.pristine_NOI.shape[2]

    def require_views(self) -> None:
        """Raise `InvalidRequest` naming a module whose weight is no longer a row of the stack."""
        if tuple(module.weight.data_ptr() for module in self._modules) == self._addresses:
            return
        for name, module, address in zip(self.names, self._modules, self._addresses, strict=True):
            if module.weight.data_ptr() != address:
                raise InvalidRequest(
                    f"the weight of {name} was moved, cast or replaced after the UNet's weights were stacked for "
                    "merging, so nothing merged would reach it; move and cast the UNet first, then make the merger"
                )

    def pristine_of(self, rows: list[int]) -> torch.Tensor:
        """A copy of the pristine weights of some rows, (M, O, I), where the weights are."""
        index = torch.tensor(rows, device=self.pristine_NOI.device)
        return self.pristine_NOI.index_select(0, index).to(self.weights_NOI.device)

    def restore(self) -> None:
        """Make all rows pristine, in one copy, if any was changed."""
        if self.changed:
            self.weights_NOI.copy_(self.pristine_NOI, non_blocking=True)
            self.changed.clear()


def stack_weights(projections: Mapping[str, nn.Linear], *, pristine_on_host: bool = False) -> tuple[WeightStack, ...]:
    """Stack projections by shape, dtype and device, in order of first appearance."""
    return tuple(WeightStack(members, pristine_on_host=pristine_on_host) for members in _alike(projections))


def move_stacked(unet: nn.Module, projections: Mapping[str, nn.Linear], device: torch.device) -> None:
    """Move a UNet with its projections in stacks, so that stacking them there takes no second copy of the largest.

    A merger that is made on it afterwards takes these stacks over.
    """
    with torch.inference_mode(False), torch.no_grad():
        for members in _alike(projections):
            moved_NOI = _stacked(list(members.values())).to(device)
            for module, row in zip(members.values(), moved_NOI, strict=True):
                module.weight.data = row
    unet.to(device)


def _alike(projections: Mapping[str, nn.Linear]) -> list[dict[str, nn.Linear]]:
    alike: dict[tuple[object, ...], dict[str, nn.Linear]] = {}
    for name, module in projections.items():
        weight = module.weight
        alike.setdefault((weight.shape, weight.dtype, weight.device), {})[name] = module
    return list(alike.values())


def _stacked(modules: Sequence[nn.Linear]) -> torch.Tensor:
    """The modules' weights as the rows of one tensor, (N, O, I), which they look into from now on."""
    weights = [module.weight.detach() for module in modules]
    found = _stacked_already(weights)
    if found is None:
        found = torch.stack(weights)
        weights.clear()
        for module, row in zip(modules, found, strict=True):
            module.weight.data = row
    return found


def _stacked_already(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The tensor that these weights are the consecutive rows of, None where they are not."""
    first, step = weights[0], weights[0].numel()
    place = (first.untyped_storage().data_ptr(), first.storage_offset())
    for row, weight in enumerate(weights):
        if not weight.is_contiguous():
            return None
        if (weight.untyped_storage().data_ptr(), weight.storage_offset()) != (place[0], place[1] + row * step):
            return None
    return first.as_strided((len(weights), *first.shape), (step, first.shape[1], 1))
