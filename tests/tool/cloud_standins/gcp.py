"""A stand-in for gcloud, as of Google Cloud SDK 528: the commands of our script, as documented."""

from __future__ import annotations

import re
from typing import Any

from tests.tool.cloud_standins.program import (
    Arguments,
    Cloud,
    Command,
    Flag,
    RefusedError,
    State,
    optional,
)

REFERENCE = "https://cloud.google.com/sdk/gcloud/reference"
PROJECT = "tests-123456"
# https://cloud.google.com/compute/docs/regions-zones, some of them.
ZONES = ("asia-southeast1-a", "asia-southeast1-b", "us-central1-a")
# https://cloud.google.com/storage/docs/locations, some of them.
PLACES = ("asia-southeast1", "us-central1", "us", "eu", "asia")
# https://cloud.google.com/confidential-computing/confidential-vm/docs/supported-configurations, some of them.
MACHINES = {"TDX": ("c3-standard-4",), "SEV_SNP": ("n2d-standard-4",), "": ("n2-standard-4",)}

# https://cloud.google.com/compute/docs/naming-resources
LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
# https://cloud.google.com/compute/docs/labeling-resources#requirements
LABELS = r"[a-z][-_a-z0-9]{0,62}=[-_a-z0-9]{0,63}"
BUCKET = r"gs://[a-z0-9][-a-z0-9]{1,61}[a-z0-9]"
OBJECT = rf"{BUCKET}/[A-Za-z0-9._*-]+"
FEATURE = (
    "BARE_METAL_LINUX_COMPATIBLE|GVNIC|IDPF|MULTI_IP_SUBNET|SEV_CAPABLE|SEV_LIVE_MIGRATABLE|SEV_LIVE_MIGRATABLE_V2"
    "|SEV_SNP_CAPABLE|SNP_SVSM_CAPABLE|TDX_CAPABLE|UEFI_COMPATIBLE|VIRTIO_SCSI_MULTIQUEUE|WINDOWS"
)
FILES = r"[^,\s]+(,[^,\s]+)*"
SWITCH = Flag(switch=True, required=False)

COMMON = {"--project": Flag(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", required=False), "--quiet": SWITCH}
LISTING = {
    "--format": Flag(),
    "--filter": optional(Flag(r"name~\^[a-z0-9-]+\$|status:ACTIVE")),
    "--limit": optional(Flag("[0-9]+")),
}


def refused(message: str) -> RefusedError:
    return RefusedError(1, f"ERROR: {message}")


def check_project(arguments: Arguments) -> None:
    if arguments.get("--project") != PROJECT:
        raise refused(f"(gcloud) The project property is set to [{arguments.get('--project')}], not found.")


def listed(kind: str, **fixed: Any) -> Any:
    """A command that lists what has the name in its filter."""

    def run(state: State, arguments: Arguments) -> object:
        check_project(arguments)
        name = arguments.get("--filter").removeprefix("name~^").removesuffix("$")
        return [item for item in state.of(kind).values() if item["name"] == name]

    return run


def auth_list(state: State, arguments: Arguments) -> object:
    return [] if state.signed_out else [{"account": "tests@example.com", "status": "ACTIVE"}]


def get_value(state: State, arguments: Arguments) -> object:
    return PROJECT


def bucket_create(state: State, arguments: Arguments) -> object:
    check_project(arguments)
    name, place = arguments.words[0].removeprefix("gs://"), arguments["--location"]
    if place not in PLACES:
        raise refused("HTTPError 400: The specified location constraint is not valid.")
    if name in state.of("bucket") or name == "taken":
        raise refused("HTTPError 409: The requested bucket name is not available.")
    state.of("bucket")[name] = {"name": name, "location": place.upper()}
    return None


def bucket_delete(state: State, arguments: Arguments) -> object:
    name = arguments.words[0].removeprefix("gs://")
    if any(key.startswith(f"{name}/") for key in state.of("object")):
        raise refused("HTTPError 409: The bucket you tried to delete is not empty.")
    del state.of("bucket")[name]
    return None


def objects(state: State, arguments: Arguments) -> object:
    """Live and noncurrent ones, the latter where the bucket has versions.

    Spec: SDK 528, surface/storage/objects/list.py; https://cloud.google.com/storage/docs/object-versioning.
    """
    bucket, _, name = arguments.words[0].removeprefix("gs://").partition("/")
    if bucket not in state.of("bucket"):
        raise refused(f"(gcloud.storage.objects.list) gs://{bucket} not found: 404.")
    inside = [item for key, item in state.of("object").items() if key.startswith(f"{bucket}/")]
    found = inside if name == "**" else [item for item in inside if item["name"] == name]
    if arguments.has("--filter"):
        found = [item for item in found if "noncurrent_time" not in item]
    return found[: int(arguments.get("--limit", "1000"))]


def retire(state: State, key: str) -> None:
    """Makes the live object noncurrent, or removes it where the bucket keeps no versions."""
    gone = state.of("object").pop(key, None)
    if gone is not None and state.of("bucket")[key.partition("/")[0]].get("versioning"):
        generation = sum(name.startswith(f"{key}#") for name in state.of("object")) + 1
        state.of("object")[f"{key}#{generation}"] = {**gone, "noncurrent_time": "2026-01-01T00:00:00+0000"}


def copy(state: State, arguments: Arguments) -> object:
    source, target = arguments.words
    bucket, _, name = target.removeprefix("gs://").partition("/")
    if bucket not in state.of("bucket"):
        raise refused(f"gs://{bucket} not found: 404.")
    retire(state, f"{bucket}/{name}")
    state.of("object")[f"{bucket}/{name}"] = {
        "name": name,
        "size": arguments.path(source).stat().st_size,
        "custom_fields": dict([arguments["--custom-metadata"].split("=")]),
    }
    return None


def remove(state: State, arguments: Arguments) -> object:
    key = arguments.words[0].removeprefix("gs://")
    if key not in state.of("object"):
        raise refused(f"(gcloud.storage.rm) The following URLs matched no objects or files: gs://{key}")
    retire(state, key)
    return None


def images(state: State, arguments: Arguments) -> object:
    found = listed("image")(state, arguments)
    for item in found:
        item["looks"] = item.get("looks", 0) + 1
        if item["status"] == "PENDING" and item["looks"] > 1:
            item["status"] = "FAILED" if state.bad_disk else "READY"
    return found


def image_create(state: State, arguments: Arguments) -> object:
    check_project(arguments)
    name = arguments.words[0]
    if name in state.of("image"):
        raise refused(f"The resource 'projects/{PROJECT}/global/images/{name}' already exists")
    if arguments["--source-uri"].removeprefix("gs://") not in state.of("object"):
        raise refused("Could not find the source object")
    if arguments["--storage-location"] not in PLACES:
        raise refused("Invalid value for field 'resource.storageLocations'")
    files = [
        arguments.get(f"--{each}-file") for each in ("platform-key", "key-exchange-key", "signature-database")
    ]
    for path in [path for each in files if each for path in each.split(",")]:
        if not arguments.path(path).read_bytes().startswith(b"\x30\x82"):
            raise refused(f"Invalid value for field: {path} is no certificate")
    labels = dict(item.split("=") for item in arguments["--labels"].split(","))
    state.of("image")[name] = {
        "name": name,
        "status": "PENDING",
        "labels": labels,
        "description": arguments["--description"],
        "keys": [each for each in files if each],
    }
    return [{"name": name, "status": "READY"}]


def deleted(kind: str) -> Any:
    def run(state: State, arguments: Arguments) -> object:
        check_project(arguments)
        if arguments.words[0] not in state.of(kind):
            raise refused(f"The resource '{arguments.words[0]}' was not found")
        del state.of(kind)[arguments.words[0]]
        return None

    return run


def rule_create(state: State, arguments: Arguments) -> object:
    check_project(arguments)
    name = arguments.words[0]
    if name in state.of("rule"):
        raise refused(f"The resource '{name}' already exists")
    kept = {flag.lstrip("-"): values[0] for flag, values in arguments.values.items() if values}
    state.of("rule")[name] = {"name": name, **kept}
    return None


def instance_create(state: State, arguments: Arguments) -> object:
    check_project(arguments)
    name, kind = arguments.words[0], arguments.get("--confidential-compute-type")
    if name in state.of("instance"):
        raise refused(f"The resource '{name}' already exists")
    if arguments["--zone"] not in ZONES:
        raise refused(f"Invalid value for field 'zone': '{arguments['--zone']}'. Unknown zone.")
    if arguments["--machine-type"] not in MACHINES[kind]:
        raise refused(f"{kind} is not supported for machine type {arguments['--machine-type']}.")
    if kind == "SEV_SNP" and arguments.get("--min-cpu-platform") != "AMD Milan":
        raise refused("Confidential VM with SEV_SNP needs AMD Milan")
    if kind and arguments.get("--maintenance-policy") != "TERMINATE":
        raise refused("Live migration is not supported for confidential instances.")
    # SDK 528, command_lib/compute/instances/flags.py.
    size = int(arguments["--boot-disk-size"].removesuffix("GB"))
    if arguments["--boot-disk-type"].startswith("pd-") and size < 10:
        raise refused(
            "(gcloud.compute.instances.create) Invalid value for [--boot-disk-size]: "
            f"Value must be greater than or equal to 10 GB; received {size} GB"
        )
    if arguments["--image"] not in state.of("image"):
        raise refused(f"The resource '{arguments['--image']}' was not found")
    state.of("instance")[name] = {
        "name": name,
        "status": "RUNNING",
        "labels": dict(item.split("=") for item in arguments["--labels"].split(",")),
        "networkInterfaces": [{"accessConfigs": [{"natIP": "203.0.113.8"}]}],
        "switches": sorted(flag for flag in arguments.values if "shielded" in flag),
        "size": arguments["--boot-disk-size"],
    }
    return None


def _boolean(name: str) -> dict[str, Flag]:
    return {f"--{name}": SWITCH, f"--no-{name}": SWITCH}


TABLE: dict[str, Command] = {
    "auth list": Command(f"{REFERENCE}/auth/list", auth_list, LISTING),
    "config get-value": Command(f"{REFERENCE}/config/get-value", get_value, words=("project",)),
    "storage buckets list": Command(f"{REFERENCE}/storage/buckets/list", listed("bucket"), LISTING),
    "storage buckets create": Command(
        f"{REFERENCE}/storage/buckets/create",
        bucket_create,
        {
            "--location": Flag("[a-z0-9-]+"),
            "--uniform-bucket-level-access": Flag(switch=True),
            "--public-access-prevention": Flag(switch=True),
        },
        words=(BUCKET,),
        changes=True,
    ),
    "storage buckets delete": Command(
        f"{REFERENCE}/storage/buckets/delete", bucket_delete, words=(BUCKET,), changes=True
    ),
    "storage objects list": Command(
        f"{REFERENCE}/storage/objects/list",
        objects,
        # Whether a key is there cannot be asked of one that holds a time: SDK 528 fails at noncurrent_time:*.
        {**LISTING, "--filter": optional(Flag("NOT noncurrent_time>1970-01-01"))},
        words=(OBJECT,),
    ),
    "storage cp": Command(
        f"{REFERENCE}/storage/cp",
        copy,
        {"--custom-metadata": Flag("[a-z0-9]+=[^,=]+")},
        words=(r"[^\s]+", OBJECT),
        changes=True,
    ),
    "storage rm": Command(f"{REFERENCE}/storage/rm", remove, words=(OBJECT,), changes=True),
    "compute images list": Command(
        f"{REFERENCE}/compute/images/list", images, {**LISTING, "--no-standard-images": Flag(switch=True)}
    ),
    "compute images create": Command(
        f"{REFERENCE}/compute/images/create",
        image_create,
        {
            "--source-uri": Flag(rf"{OBJECT}\.tar\.gz"),
            "--family": Flag(LABEL),
            "--architecture": Flag("ARM64|X86_64"),
            "--storage-location": Flag("[a-z0-9-]+"),
            "--guest-os-features": Flag(f"({FEATURE})(,({FEATURE}))*"),
            "--labels": Flag(f"{LABELS}(,{LABELS})*"),
            "--description": Flag(),
            "--platform-key-file": optional(Flag(r"[^,\s]+")),
            "--key-exchange-key-file": optional(Flag(FILES)),
            "--signature-database-file": optional(Flag(FILES)),
        },
        words=(LABEL,),
        changes=True,
    ),
    "compute images delete": Command(
        f"{REFERENCE}/compute/images/delete", deleted("image"), words=(LABEL,), changes=True
    ),
    "compute firewall-rules list": Command(
        f"{REFERENCE}/compute/firewall-rules/list", listed("rule"), LISTING
    ),
    "compute firewall-rules create": Command(
        f"{REFERENCE}/compute/firewall-rules/create",
        rule_create,
        {
            "--network": Flag(LABEL),
            "--direction": Flag("INGRESS|EGRESS|IN|OUT"),
            "--action": Flag("ALLOW|DENY"),
            "--rules": Flag("tcp:[0-9]+(,tcp:[0-9]+)*"),
            "--source-ranges": Flag(r"[0-9a-f.:]+/[0-9]+"),
            "--target-tags": Flag(LABEL),
            "--description": Flag(),
        },
        words=(LABEL,),
        changes=True,
    ),
    "compute firewall-rules delete": Command(
        f"{REFERENCE}/compute/firewall-rules/delete", deleted("rule"), words=(LABEL,), changes=True
    ),
    "compute instances list": Command(
        f"{REFERENCE}/compute/instances/list", listed("instance"), {**LISTING, "--zones": Flag("[a-z0-9-]+")}
    ),
    "compute instances create": Command(
        f"{REFERENCE}/compute/instances/create",
        instance_create,
        {
            "--zone": Flag("[a-z0-9-]+"),
            "--machine-type": Flag("[a-z0-9-]+"),
            "--image": Flag(LABEL),
            "--image-project": Flag("[a-z0-9-]+"),
            "--confidential-compute-type": optional(Flag("SEV|SEV_SNP|TDX")),
            "--maintenance-policy": optional(Flag("MIGRATE|TERMINATE")),
            "--min-cpu-platform": optional(Flag()),
            **_boolean("shielded-secure-boot"),
            **_boolean("shielded-vtpm"),
            **_boolean("shielded-integrity-monitoring"),
            "--boot-disk-size": Flag("[1-9][0-9]*GB"),
            "--boot-disk-type": Flag("pd-[a-z]+|hyperdisk-[a-z]+"),
            "--network-interface": Flag(rf"network={LABEL},nic-type=(GVNIC|VIRTIO_NET)"),
            "--tags": Flag(LABEL),
            "--labels": Flag(f"{LABELS}(,{LABELS})*"),
            "--no-service-account": Flag(switch=True),
            "--no-scopes": Flag(switch=True),
        },
        words=(LABEL,),
        changes=True,
    ),
    "compute instances delete": Command(
        f"{REFERENCE}/compute/instances/delete",
        deleted("instance"),
        {"--zone": Flag("[a-z0-9-]+")},
        words=(LABEL,),
        changes=True,
    ),
}

# Spec: gcloud topic formats, value; gcloud topic projections.
_FORMAT = re.compile(r"value(\[separator='(?P<separator>[^']*)'\])?\((?P<keys>[A-Za-z0-9_.,\[\]]+)\)")


def text(format_: str, rows: list[dict[str, Any]]) -> str:
    """Rows as ``--format value(...)`` prints them.

    Raises:
        RefusedError: another format.
    """
    match = _FORMAT.fullmatch(format_)
    if match is None:
        raise RefusedError(1, f"ERROR: (gcloud) Format or projection: {format_}")
    separator = "\t" if match["separator"] is None else match["separator"]
    return "".join(
        separator.join(_value(row, key) for key in match["keys"].split(",")) + "\n" for row in rows
    )


def _value(row: Any, key: str) -> str:
    for part in re.findall(r"[A-Za-z0-9_]+", key):
        if isinstance(row, list):
            row = row[int(part)] if int(part) < len(row) else None
        else:
            row = row.get(part) if isinstance(row, dict) else None
    return "" if row is None else str(row)


def show_answer(arguments: Arguments, answer: object) -> str:
    """What gcloud prints."""
    if arguments.has("--format"):
        assert isinstance(answer, list)
        return text(arguments["--format"], answer)
    return f"{answer}\n" if isinstance(answer, str) else ""


def cloud() -> Cloud:
    """An empty one."""
    return Cloud("gcloud", TABLE, COMMON, 2, show_answer)
