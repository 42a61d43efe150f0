"""The ControlNets of a profile: loaded when a batch first asks for one, and let go when others need the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperlora.control import ControlNet
from hyperlora.memory.facts import weight_bytes


class LoadedControls:
    """Those that are loaded, the one that was used last at the end; used by the thread that draws."""

    def __init__(self, load: Callable[[str], ControlNet]) -> None:
        """`load` loads the one of a name, or raises why it cannot."""
        self._load = load
        self._nets: dict[str, ControlNet] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What is loaded."""
        return tuple(self._nets)

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each; None for one that is not loaded."""
        loaded = [self._nets.get(name) for name in names]
        return [None if net is None else weight_bytes(net.model) for net in loaded]

    def for_batch(
        self, names: Sequence[str], fits: Callable[[Sequence[int | None]], bool] = lambda _sizes: True
    ) -> list[ControlNet]:
        """The nets of one batch.

        Before any is loaded, those that the batch does not use are let go, the longest unused first, until `fits` says
        that the batch has room beside nets of these `sizes`. Raises what `load` raises.
        """
        for name in [each for each in self._nets if each not in names]:
            if fits(self.sizes(list(dict.fromkeys([*self._nets, *names])))):
                break
            del self._nets[name]
        for name in dict.fromkeys(names):
            net = self._nets.pop(name) if name in self._nets else self._load(name)
            self._nets[name] = net
        return [self._nets[name] for name in names]

    def keep_only(self, names: Sequence[str]) -> None:
        """Let all others go: the device had too little memory."""
        self._nets = {name: net for name, net in self._nets.items() if name in names}
