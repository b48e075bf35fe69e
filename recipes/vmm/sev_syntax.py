"""How QEMU's options are written beside ``key=value``: as JSON objects, and with underscores in the keys."""

from __future__ import annotations

from ..errors import FormatError, MeasureError
from .qemu_options import OptionValue, split_option

_INSTEAD = "write key=value,key=value"
# What QEMU takes for these where an object is written as JSON; key=value has one way for all.
# Spec: QEMU 10.0 qapi/qom.json SevCommonProperties, SevGuestProperties, SevSnpGuestProperties.
_JSON_KINDS: dict[str, type] = {
    "debug-swap": bool,
    "kernel-hashes": bool,
    "policy": int,
    "secure-tsc": bool,
    "svsm": bool,
}
_JSON_WORDS = {bool: "true or false", int: "a number"}


def split_object(option: str, text: str, implied: str) -> OptionValue:
    """A value as settings, whether written as ``key=value`` or as a flat JSON object, as libvirt does.

    Raises:
        MeasureError: a setting is given twice or is empty, or the JSON is none or holds more than texts,
            whole numbers, true and false.

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
    if kind is not None and type(value) is not kind:
        raise MeasureError(f"{where}: {key} is not {_JSON_WORDS[kind]}, so QEMU does not start; write one")
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str | int):
        return str(value)
    raise MeasureError(f"{where}: {key} is no text, whole number, true or false; {_INSTEAD}")


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
