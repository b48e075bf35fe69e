"""How QEMU's options are written beside ``key=value``: as JSON objects, and with underscores in the keys."""

from __future__ import annotations

import string

from ..errors import FormatError, MeasureError
from .qemu_options import OptionValue, split_option

_INSTEAD = "write key=value,key=value"
# What QEMU takes for these where an object is written as JSON; key=value has one way for all.
# Spec: QEMU 10.0 qapi/qom.json SevCommonProperties, SevGuestProperties, SevSnpGuestProperties;
# hw/core/qdev-properties-system.c set_pci_devfn(): a number is slot and function in one, a text the slot.
_JSON_KINDS: dict[str, type] = {
    "addr": str,
    "debug-swap": bool,
    "kernel-hashes": bool,
    "policy": int,
    "secure-tsc": bool,
    "svsm": bool,
}
_JSON_WORDS = {bool: "true or false", int: "a number", str: "a text"}
# Names of settings, of devices and of objects; anything else could not be told from more settings.
_NAME = frozenset(string.ascii_letters + string.digits + "_.-")
_NAMED = ("driver", "qom-type")


def split_object(option: str, text: str, implied: str) -> OptionValue:
    """A value as settings, whether written as ``key=value`` or as a flat JSON object, as libvirt does.

    Raises:
        MeasureError: a setting is given twice, or is empty where it is written ``key=value``; the JSON is
            none, holds more than texts, whole numbers, true and false, or what no command line can.

    Spec: QEMU 10.0 qom/object_interfaces.c user_creatable_parse_str(), system/vl.c QEMU_OPTION_device.
    """
    if not text.startswith("{"):
        return split_option(option, text, implied)
    from ..document import parse_json

    where = f"{option} {text}"
    try:
        values = parse_json(text, where)
    except FormatError as error:
        raise MeasureError(f"{where}: {error.what}; {_INSTEAD}") from None
    if not isinstance(values, dict):
        raise MeasureError(f"{where}: no JSON object; {_INSTEAD}")
    return OptionValue(option, text, settings={key: _plain(where, key, item) for key, item in values.items()})


def _plain(where: str, key: str, value: object) -> str:
    kind = _JSON_KINDS.get(key)
    if not key or not _NAME.issuperset(key):
        raise MeasureError(f"{where}: {key!a} is not a setting's name; {_INSTEAD}")
    if kind is not None and type(value) is not kind:
        raise MeasureError(f"{where}: {key} is not {_JSON_WORDS[kind]}; write it so")
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        _check_text(where, key, value)
    if isinstance(value, str | int):
        return str(value)
    raise MeasureError(f"{where}: {key} is no text, whole number, true or false; {_INSTEAD}")


def _check_text(where: str, key: str, value: str) -> None:
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise MeasureError(f"{where}: {key} holds what no command line can; {_INSTEAD}")
    if key in _NAMED and not _NAME.issuperset(value):
        raise MeasureError(f"{where}: {key} {value!a} is not a name; {_INSTEAD}")


def split_machine(option: str, text: str) -> OptionValue:
    """The settings of ``-machine``, whose keys may be written with underscores.

    Raises:
        MeasureError: a setting is given twice or is empty.

    Spec: QEMU 10.0 system/vl.c keyval_dashify(); versions before 6.1 did the same in machine_set_property().
    """
    value = split_option(option, text, "type")
    settings: dict[str, str] = {}
    for key, content in value.settings.items():
        name = key.replace("_", "-")
        if name in settings:
            what = f"{name!r} is given twice, an underscore stands for the dash; write each setting once"
            raise MeasureError(f"{option} {text}: {what}")
        settings[name] = content
    value.settings = settings
    return value
