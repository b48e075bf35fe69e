from __future__ import annotations

from recipes.vmm.pci import Bar64, Function, functions


class Bus:
    """Bus 0 behind the two ports; a base address keeps only the bits above its size."""

    def __init__(self) -> None:
        self.address = 0
        self.spaces: dict[tuple[int, int], dict[int, int]] = {}
        self.masks: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}

    def add(self, device: int, function: int = 0, *, header: int = 0) -> dict[int, int]:
        space = {0: 0x10011AF4, 4: 0x00100000, 0x0C: header << 16}
        self.spaces[device, function] = space
        return space

    def add_bar(self, device: int, register: int, size: int, flags: int) -> None:
        space, masks = self.spaces[device, 0], self.masks.setdefault((device, 0), {})
        mask = (1 << 64) - size
        space[register] = flags
        masks[register] = (mask & 0xFFFFFFFF & ~0xF, flags)
        if flags & 6 == 4:
            masks[register + 4] = (mask >> 32, 0)

    def outl(self, port: int, value: int) -> None:
        if port == 0xCF8:
            self.address = value
            return
        assert port == 0xCFC
        place, register = self._place()
        mask, flags = self.masks.get(place, {}).get(register, (0xFFFFFFFF, 0))
        self.spaces[place][register] = value & mask | flags

    def inl(self, port: int) -> int:
        assert port == 0xCFC
        place, register = self._place()
        return self.spaces[place].get(register, 0) if place in self.spaces else 0xFFFFFFFF

    def _place(self) -> tuple[tuple[int, int], int]:
        assert self.address >> 31 == 1
        return (self.address >> 11 & 31, self.address >> 8 & 7), self.address & 0xFC


def test_functions_in_order_and_only_where_there_are_any() -> None:
    bus = Bus()
    bus.add(31, 3)
    bus.add(31, 0, header=0x80)
    bus.add(0)
    bus.add(2, 1)  # not seen: function 0 is missing
    bus.add(5, header=0x01)
    found = [(function.device, function.function, function.is_bridge) for function in functions(bus)]
    assert found == [(0, 0, False), (5, 0, True), (31, 0, False), (31, 3, False)]


def test_regions_of_a_virtio_disk() -> None:
    bus = Bus()
    bus.add(1)
    bus.add_bar(1, 0x10, 0x80, 0x1)
    bus.add_bar(1, 0x14, 0x1000, 0x0)
    bus.add_bar(1, 0x20, 0x4000, 0xC)
    before = dict(bus.spaces[1, 0])
    assert Function(bus, 1, 0).bars64() == [Bar64(0x20, 0x4000, prefetchable=True)]
    assert {key: value for key, value in bus.spaces[1, 0].items() if value} == {
        key: value for key, value in before.items() if value
    }


def test_a_region_of_more_than_4_gib_that_is_not_prefetchable() -> None:
    bus = Bus()
    bus.add(1)
    bus.add_bar(1, 0x10, 1 << 35, 0x4)
    assert Function(bus, 1, 0).bars64() == [Bar64(0x10, 1 << 35, prefetchable=False)]


def test_placing_and_enabling() -> None:
    bus = Bus()
    space = bus.add(1)
    bus.add_bar(1, 0x20, 0x4000, 0xC)
    function = Function(bus, 1, 0)
    function.place(Bar64(0x20, 0x4000, prefetchable=True), 0xC000000000)
    function.enable()
    assert (space[0x20], space[0x24], space[4]) == (0xC, 0xC0, 7)


def test_setting_bits_keeps_the_others() -> None:
    bus = Bus()
    bus.add(31)[0x44] = 0x12
    Function(bus, 31, 0).set_bits(0x44, 0x80)
    assert bus.spaces[31, 0][0x44] == 0x92
