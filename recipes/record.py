"""Dataclasses for the modules that a short command reads: the same to write and to check, cheap to define.

The standard library compiles the methods of each class from text, and reading the module that does takes as
long as all of a small measurement. The classes here share a few methods that are written once. What asks a
class for its fields (:func:`dataclasses.fields`, ``replace``, ``asdict``) takes them for dataclasses, which
type checkers see in them as well. There is what this package uses: ``frozen``, ``kw_only``, ``eq`` and
``order`` of a class, and ``default_factory``, ``default``, ``compare`` and ``repr`` of a field. Dataclasses
can be derived from such a class, not the other way around.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

# True for type checkers, which know it by its name; reading :mod:`typing` for it has its price as well.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["TYPE_CHECKING", "dataclass", "field", "items_of", "names_of", "replace"]

_LAYOUT, _FIELDS = "_record_layout", "__dataclass_fields__"


_NONE = object()


class _Said:
    """What is said of a field beside its type."""

    def __init__(
        self,
        *,
        default: object = _NONE,
        default_factory: Callable[[], object] | None = None,
        compare: bool = True,
        repr: bool = True,  # noqa: A002 - the name that dataclasses have for it
    ) -> None:
        self.default, self.make, self.compare, self.repr = default, default_factory, compare, repr


class _Layout:
    """The fields of a class.

    Attributes:
        frozen: values cannot be changed; dataclasses that are derived from this one ask for it.
        names: all of them, in order.
        places: those that are given by place.
        defaults: values of those that can be left out.
        made: what makes the values of others.
        shown: those that ``repr()`` shows.
        values: gives the values of an instance that are compared.
    """

    def __init__(self, cls: type, *, frozen: bool, kw_only: bool) -> None:
        self.frozen = frozen
        base: _Layout | None = getattr(cls, _LAYOUT, None)
        self.types: dict[str, str] = dict(base.types) if base else {}
        self.places: tuple[str, ...] = base.places if base else ()
        self.defaults: dict[str, object] = dict(base.defaults) if base else {}
        self.made: dict[str, Callable[[], object]] = dict(base.made) if base else {}
        self.quiet: frozenset[str] = base.quiet if base else frozenset()
        self.apart: frozenset[str] = base.apart if base else frozenset()
        own = cls.__dict__
        if base is None and hasattr(cls, _FIELDS):
            raise TypeError(f"{cls.__name__}: derived from a class that dataclasses made; use one for both")
        for name, kind in own.get("__annotations__", {}).items():
            if kind.startswith("ClassVar"):
                continue
            self.types[name] = kind
            if not kw_only and name not in self.places:
                self.places += (name,)
            if name in own:
                self._take(cls, name, own[name])
        self.names = tuple(self.types)
        self.known = frozenset(self.names)
        self.shown = tuple([name for name in self.names if name not in self.quiet])
        self.values = operator.attrgetter(*[name for name in self.names if name not in self.apart])

    def _take(self, cls: type, name: str, value: object) -> None:
        """Takes in what stands behind the type of a field."""
        if not isinstance(value, _Said):
            if value.__hash__ is None:
                raise TypeError(f"{cls.__name__}.{name}: values would share {value!r}; use default_factory")
            self.defaults[name] = value
            return
        if not value.repr:
            self.quiet |= {name}
        if not value.compare:
            self.apart |= {name}
        if value.make is not None:
            self.made[name] = value.make
        if value.default is _NONE:
            delattr(cls, name)
        else:
            self.defaults[name] = value.default
            setattr(cls, name, value.default)

    def takes(self, given: tuple[object, ...], named: dict[str, object]) -> bool:
        """Whether there is a place for each value, and no second value for it."""
        return len(given) <= len(self.places) and named.keys().isdisjoint(self.places[: len(given)])

    def misuse(self, cls: type, given: tuple[object, ...], named: dict[str, object]) -> TypeError:
        """What is wrong with the arguments of a call."""
        placed = self.places[: len(given)]
        if len(given) > len(placed):
            return TypeError(f"{cls.__name__}: takes {len(placed)} values by place, {len(given)} given")
        missing = self.known.difference(placed, named, self.defaults, self.made)
        wrong = sorted({name for name in named if name not in self.known or name in placed} | missing)
        return TypeError(f"{cls.__name__}: given twice, unknown or missing: {', '.join(wrong)}")


class _Fields:
    """Makes the ``__dataclass_fields__`` of a class for the first who asks."""

    def __get__(self, value: object, cls: type) -> dict[str, Any]:
        import dataclasses

        layout: _Layout = getattr(cls, _LAYOUT)
        rows = []
        for name, kind in layout.types.items():
            said: dict[str, Any] = {"kw_only": name not in layout.places, "repr": name in layout.shown}
            said["compare"] = name not in layout.apart
            if name in layout.made:
                said["default_factory"] = layout.made[name]
            elif name in layout.defaults:
                said["default"] = layout.defaults[name]
            rows.append((name, kind, dataclasses.field(**said)))
        # Without words of its own a class would be described by a signature that takes long to find.
        words = {"__doc__": cls.__doc__}
        made = dataclasses.make_dataclass(
            cls.__name__, rows, namespace=words, init=False, repr=False, eq=False
        )
        found: dict[str, Any] = made.__dict__[_FIELDS]
        setattr(cls, _FIELDS, found)
        return found


def _init(self: object, /, *given: object, **named: object) -> None:
    layout: _Layout = getattr(self, _LAYOUT)
    values = self.__dict__
    values.update(layout.defaults)
    values.update(zip(layout.places, given, strict=False))
    values.update(named)
    for name, make in layout.made.items():
        if name not in values:
            values[name] = make()
    if values.keys() != layout.known or (given and not layout.takes(given, named)):
        raise layout.misuse(type(self), given, named)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _repr(self: object) -> str:
    layout: _Layout = getattr(self, _LAYOUT)
    fields = ", ".join([f"{name}={getattr(self, name)!r}" for name in layout.shown])
    return f"{type(self).__qualname__}({fields})"


def _eq(self: object, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    values = getattr(self, _LAYOUT).values
    return values(self) == values(other)


def _hash(self: object) -> int:
    return hash(getattr(self, _LAYOUT).values(self))


def _ordering(test: Callable[[Any, Any], bool]) -> Callable[[object, object], Any]:
    def method(self: object, other: object) -> Any:
        if type(self) is not type(other):
            return NotImplemented
        values = getattr(self, _LAYOUT).values
        return test(values(self), values(other))

    return method


def _setattr(self: object, name: str, value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: object, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _dataclass(
    cls: type | None = None,
    /,
    *,
    frozen: bool = False,
    kw_only: bool = False,
    eq: bool = True,
    order: bool = False,
) -> Any:
    if cls is None:
        return lambda cls: _dataclass(cls, frozen=frozen, kw_only=kw_only, eq=eq, order=order)
    layout = _Layout(cls, frozen=frozen, kw_only=kw_only)
    methods: dict[str, object] = {"__init__": _init, "__repr__": _repr}
    if eq:
        methods |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
    if order:
        tests = {"__lt__": operator.lt, "__le__": operator.le, "__gt__": operator.gt, "__ge__": operator.ge}
        methods |= {name: _ordering(test) for name, test in tests.items()}
    if frozen:
        methods |= {"__setattr__": _setattr, "__delattr__": _delattr}
    own = cls.__dict__
    for name, method in methods.items():
        # Python puts a __hash__ of None beside an __eq__ that is written.
        if own.get(name) is None:
            setattr(cls, name, method)
    setattr(cls, _LAYOUT, layout)
    setattr(cls, "__match_args__", layout.places)  # noqa: B010 - it is no attribute of `type`
    setattr(cls, _FIELDS, _Fields())
    setattr(cls, "__dataclass_params__", layout)  # noqa: B010 - it is no attribute of `type`
    return cls


def names_of(kind: type) -> tuple[str, ...]:
    """The fields of a class that was made here, in order."""
    layout: _Layout = getattr(kind, _LAYOUT)
    return layout.names


def items_of(value: Any) -> list[tuple[str, Any]] | None:
    """Fields and values of a dataclass, in order; None of anything else."""
    kind = type(value)
    if kind.__init__ is _init:
        names = names_of(kind)
    elif hasattr(kind, _FIELDS):
        import dataclasses

        names = tuple([item.name for item in dataclasses.fields(value)])
    else:
        return None
    return [(name, getattr(value, name)) for name in names]


def _replace(value: Any, /, **changes: object) -> Any:
    items = items_of(value)
    if items is None:
        raise TypeError(f"{type(value).__name__}: is no dataclass, nothing of it can be replaced")
    return type(value)(**dict(items) | changes)


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _dataclass, _Said, _replace
