"""A stand-in for az, as of azure-cli 2.91: the commands of our script, with options and values as documented.

Answers have the shape of the service's own; what is long in Azure takes a few looks here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.tool.cloud_standins.program import (
    Arguments,
    Cloud,
    Command,
    Flag,
    Record,
    RefusedError,
    State,
    optional,
)
from tests.tool.cloud_standins.query import search

LEARN = "https://learn.microsoft.com/cli/azure"
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
# https://learn.microsoft.com/azure/reliability/regions-list, some of them.
LOCATIONS = ("eastus", "westeurope", "westus", "westus3")
# https://learn.microsoft.com/azure/virtual-machines/sizes/overview, some of them.
CONFIDENTIAL_SIZES = ("Standard_DC2es_v6", "Standard_DC4es_v6", "Standard_DC2as_v5")
SIZES = (*CONFIDENTIAL_SIZES, "Standard_D2s_v5")

# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
NAME = Flag(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
GROUP = Flag(r"[\w().-]{1,90}")
ACCOUNT = Flag(r"[a-z0-9]{3,24}")
CONTAINER = Flag(r"[a-z0-9](-?[a-z0-9]){2,62}")
BLOB = Flag(r"[A-Za-z0-9._-]{1,1024}")
GALLERY = Flag(r"[A-Za-z0-9][A-Za-z0-9.]{0,79}")
VERSION = Flag(r"[0-9]+\.[0-9]+\.[0-9]+")
PLACE = Flag(r"[a-z0-9]+")
TAGS = Flag(r"[^=\s]{1,512}=[^\s]{0,256}", many=True)
MODE = Flag("key|login")
BOOLEAN = Flag("true|false")

COMMON = {
    "--subscription": Flag(r"[0-9a-f-]{36}", required=False),
    "--output": Flag("json|jsonc|none|table|tsv|yaml|yamlc", required=False),
    "--query": Flag(required=False),
}


def resource_id(arguments: Arguments, kind: str, *names: str) -> str:
    """The id of a resource of the group that the command line names."""
    namespace, *types = kind.split("/")
    path = "/".join(f"{part}/{name}" for part, name in zip(types, names, strict=True))
    group = arguments.get("--resource-group")
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{namespace}/{path}"


def missing(what: str) -> RefusedError:
    """Spec: https://learn.microsoft.com/cli/azure/use-azure-cli-successfully, exit codes."""
    return RefusedError(3, f"ERROR: (ResourceNotFound) The Resource '{what}' was not found.")


def refused(code: str, message: str) -> RefusedError:
    return RefusedError(1, f"ERROR: ({code}) {message}")


def tags(arguments: Arguments) -> dict[str, str]:
    return dict(item.split("=", 1) for item in arguments.values.get("--tags", []))


def check_group(state: State, arguments: Arguments) -> None:
    if arguments["--resource-group"] not in state.of("group"):
        name = arguments["--resource-group"]
        raise RefusedError(3, f"ERROR: (ResourceGroupNotFound) Resource group '{name}' could not be found.")


def check_place(arguments: Arguments) -> str:
    place = arguments["--location"]
    if place not in LOCATIONS:
        raise refused(
            "LocationNotAvailableForResourceType", f"The provided location '{place}' is not available."
        )
    return place


def put(state: State, identifier: str, record: Record) -> Record:
    """Makes a resource, or changes it as ARM does."""
    name = identifier.rpartition("/")[2]
    state.of("resource")[identifier] = {"id": identifier, "name": name, **record}
    return state.of("resource")[identifier]


def show(state: State, identifier: str) -> Record:
    found = state.of("resource").get(identifier)
    if found is None:
        raise missing(identifier)
    return found


def made(kind: str, name_flag: str, **extra: Any) -> Any:
    """A command that makes a resource with a name, a place and tags."""

    def run(state: State, arguments: Arguments) -> object:
        check_group(state, arguments)
        identifier = resource_id(arguments, kind, arguments[name_flag])
        record = {"location": check_place(arguments), "tags": tags(arguments), "type": kind, **extra}
        return put(state, identifier, record)

    return run


def shown(kind: str, *name_flags: str) -> Any:
    """A command that shows a resource."""

    def run(state: State, arguments: Arguments) -> object:
        check_group(state, arguments)
        return show(state, resource_id(arguments, kind, *(arguments[flag] for flag in name_flags)))

    return run


def account_show(state: State, arguments: Arguments) -> object:
    if state.signed_out:
        raise RefusedError(1, "ERROR: Please run 'az login' to setup account.")
    if arguments.get("--subscription", SUBSCRIPTION) != SUBSCRIPTION:
        raise RefusedError(1, "ERROR: Subscription not found. Check the spelling and casing and try again.")
    return {"id": SUBSCRIPTION, "state": "Enabled", "isDefault": True, "name": "tests"}


def group_create(state: State, arguments: Arguments) -> object:
    name = arguments["--name"]
    record = {"name": name, "location": check_place(arguments), "tags": tags(arguments) or None}
    state.of("group")[name] = record
    return record


def group_show(state: State, arguments: Arguments) -> object:
    name = arguments["--name"]
    if name not in state.of("group"):
        raise RefusedError(3, f"ERROR: (ResourceGroupNotFound) Resource group '{name}' could not be found.")
    return state.of("group")[name]


def group_delete(state: State, arguments: Arguments) -> object:
    group_show(state, arguments)
    name = arguments["--name"]
    inside = f"/resourceGroups/{name}/"
    for identifier in [each for each in state.of("resource") if inside in each]:
        del state.of("resource")[identifier]
    del state.of("group")[name]
    return None


def account_create(state: State, arguments: Arguments) -> object:
    name = arguments["--name"]
    others = [each for each in state.of("resource") if each.endswith(f"/storageAccounts/{name}")]
    own = resource_id(arguments, "Microsoft.Storage/storageAccounts", name)
    if name == "taken" or others not in ([], [own]):
        raise refused("StorageAccountAlreadyTaken", f"The storage account named {name} is already taken.")
    return made("Microsoft.Storage/storageAccounts", "--name")(state, arguments)


def containers(state: State, arguments: Arguments) -> dict[str, Record]:
    """The containers of an account that is there."""
    name = arguments["--account-name"]
    if not any(each.endswith(f"/storageAccounts/{name}") for each in state.of("resource")):
        raise RefusedError(1, f"ERROR: The storage account '{name}' was not found.")
    return {key: item for key, item in state.of("container").items() if key.startswith(f"{name}/")}


def container_exists(state: State, arguments: Arguments) -> object:
    return {"exists": f"{arguments['--account-name']}/{arguments['--name']}" in containers(state, arguments)}


def container_create(state: State, arguments: Arguments) -> object:
    containers(state, arguments)
    key = f"{arguments['--account-name']}/{arguments['--name']}"
    before = key in state.of("container")
    state.of("container").setdefault(key, {})
    return {"created": not before}


def blob_key(state: State, arguments: Arguments) -> str:
    container = f"{arguments['--account-name']}/{arguments['--container-name']}"
    if container not in containers(state, arguments):
        raise RefusedError(3, "ERROR: The specified container does not exist.\nErrorCode:ContainerNotFound")
    return f"{container}/{arguments.get('--name')}"


def blob_show(state: State, arguments: Arguments) -> object:
    found = state.of("blob").get(blob_key(state, arguments))
    if found is None:
        raise RefusedError(3, "ERROR: The specified blob does not exist.\nErrorCode:BlobNotFound")
    return found


def blob_exists(state: State, arguments: Arguments) -> object:
    return {"exists": blob_key(state, arguments) in state.of("blob")}


def blob_upload(state: State, arguments: Arguments) -> object:
    key = blob_key(state, arguments)
    if key in state.of("blob") and arguments.get("--overwrite") != "true":
        raise RefusedError(1, "ERROR: The specified blob already exists.\nErrorCode:BlobAlreadyExists")
    data = arguments.path(arguments["--file"]).read_bytes()
    # https://learn.microsoft.com/rest/api/storageservices/put-blob: pages have 512 bytes.
    if len(data) % 512:
        raise RefusedError(1, "ERROR: The page blob size must be aligned to a 512-byte boundary.")
    state.of("blob")[key] = {
        "name": arguments["--name"],
        "properties": {"contentLength": len(data), "blobType": "PageBlob"},
        "metadata": {},
    }
    return {"etag": '"0x8D"', "lastModified": "2026-01-01T00:00:00+00:00"}


def blob_metadata(state: State, arguments: Arguments) -> object:
    found = blob_show(state, arguments)
    assert isinstance(found, dict)
    found["metadata"] = dict(item.split("=", 1) for item in arguments.values["--metadata"])
    return {"etag": '"0x8D"'}


def blob_delete(state: State, arguments: Arguments) -> object:
    blob_show(state, arguments)
    del state.of("blob")[blob_key(state, arguments)]
    return None


def blob_list(state: State, arguments: Arguments) -> object:
    inside = blob_key(state, arguments)
    return [item for key, item in sorted(state.of("blob").items()) if key.startswith(inside)]


def definition_create(state: State, arguments: Arguments) -> object:
    check_group(state, arguments)
    gallery = arguments["--gallery-name"]
    show(state, resource_id(arguments, "Microsoft.Compute/galleries", gallery))
    features = [item.split("=", 1) for item in arguments["--features"].split()]
    record = {
        "location": check_place(arguments),
        "tags": tags(arguments),
        "type": "Microsoft.Compute/galleries/images",
        "osState": arguments["--os-state"],
        "hyperVGeneration": arguments["--hyper-v-generation"],
        "features": [{"name": name, "value": value} for name, value in features],
        "identifier": {key: arguments[f"--{key}"] for key in ("publisher", "offer", "sku")},
    }
    name = arguments["--gallery-image-definition"]
    return put(state, resource_id(arguments, "Microsoft.Compute/galleries/images", gallery, name), record)


def version_show(state: State, arguments: Arguments) -> object:
    names = ("--gallery-name", "--gallery-image-definition", "--gallery-image-version")
    found = shown("Microsoft.Compute/galleries/images/versions", *names)(state, arguments)
    found["looks"] = found.get("looks", 0) + 1
    if found["provisioningState"] == "Creating" and found["looks"] > 2:
        found["provisioningState"] = "Failed" if state.bad_disk else "Succeeded"
    return {key: item for key, item in found.items() if key != "looks"}


_VERSION_URI = re.compile(
    r"(?P<id>/subscriptions/(?P<subscription>[0-9a-f-]{36})/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Compute/galleries/(?P<gallery>[^/]+)/images/(?P<image>[^/]+)"
    r"/versions/(?P<version>[0-9]+\.[0-9]+\.[0-9]+))\?api-version=2024-03-03"
)


def rest(state: State, arguments: Arguments) -> object:
    """PUT of an image version. Spec: https://learn.microsoft.com/rest/api/compute/gallery-image-versions."""
    match = _VERSION_URI.fullmatch(arguments["--uri"])
    if match is None or match["subscription"] != SUBSCRIPTION:
        raise refused("InvalidResourceType", f"The resource type could not be found: {arguments['--uri']}")
    definition = match["id"].partition("/versions/")[0]
    show(state, definition)
    body = json.loads(arguments["--body"])
    _same_keys(body, {"location", "tags", "properties"})
    properties = body["properties"]
    _same_keys(properties, {"publishingProfile", "storageProfile"}, {"securityProfile"})
    _same_keys(properties["publishingProfile"], {"targetRegions"})
    _same_keys(properties["storageProfile"], {"osDiskImage"})
    source = properties["storageProfile"]["osDiskImage"]["source"]
    _same_keys(source, {"storageAccountId", "uri"})
    show(state, source["storageAccountId"])
    _check_source(state, source["storageAccountId"].rpartition("/")[2], source["uri"])
    if "securityProfile" in properties:
        _check_profile(properties["securityProfile"])
    record = {"location": body["location"], "tags": body["tags"], "provisioningState": "Creating"}
    kind = {"type": "Microsoft.Compute/galleries/images/versions"}
    return put(state, match["id"], {**record, **kind, "securityProfile": properties.get("securityProfile")})


def _same_keys(value: Mapping[str, object], wanted: set[str], also: set[str] | None = None) -> None:
    if not wanted <= set(value) <= wanted | (also or set()):
        raise refused("InvalidRequestContent", f"Could not find member in {sorted(value)}")


def _check_source(state: State, account: str, uri: str) -> None:
    prefix = f"https://{account}.blob.core.windows.net/"
    if not uri.startswith(prefix) or f"{account}/{uri.removeprefix(prefix)}" not in state.of("blob"):
        raise refused("InvalidParameter", f"Cannot import source blob {uri} since it does not exist.")


def _check_profile(profile: Mapping[str, Any]) -> None:
    _same_keys(profile, {"uefiSettings"})
    settings = profile["uefiSettings"]
    _same_keys(settings, {"signatureTemplateNames", "additionalSignatures"})
    if settings["signatureTemplateNames"] != ["NoSignatureTemplate"]:
        raise refused("InvalidParameter", "signatureTemplateNames")
    keys = settings["additionalSignatures"]
    _same_keys(keys, {"pk", "kek", "db"})
    for key in (keys["pk"], *keys["kek"], *keys["db"]):
        if key["type"] != "x509" or not all(key["value"]):
            raise refused("InvalidParameter", "additionalSignatures")


def listed(kind: str, *name_flags: str) -> Any:
    """A command that lists what is in a resource."""

    def run(state: State, arguments: Arguments) -> object:
        check_group(state, arguments)
        *above, last = kind.split("/")
        inside = resource_id(arguments, "/".join(above), *(arguments[flag] for flag in name_flags))
        show(state, inside)
        return [
            item for key, item in sorted(state.of("resource").items()) if key.startswith(f"{inside}/{last}/")
        ]

    return run


def rule_create(state: State, arguments: Arguments) -> object:
    check_group(state, arguments)
    group = resource_id(arguments, "Microsoft.Network/networkSecurityGroups", arguments["--nsg-name"])
    show(state, group)
    ports = arguments.values["--destination-port-ranges"]
    record = {
        "sourceAddressPrefix": arguments["--source-address-prefixes"],
        "destinationPortRange": ports[0] if len(ports) == 1 else None,
        "destinationPortRanges": ports if len(ports) > 1 else [],
        "priority": int(arguments["--priority"]),
    }
    return put(state, f"{group}/securityRules/{arguments['--name']}", record)


def rule_delete(state: State, arguments: Arguments) -> object:
    kind = "Microsoft.Network/networkSecurityGroups/securityRules"
    identifier = resource_id(arguments, kind, arguments["--nsg-name"], arguments["--name"])
    state.of("resource").pop(identifier, None)
    return None


def shouted(identifier: str) -> str:
    """An id as Compute answers with it: https://github.com/MicrosoftDocs/azure-docs/issues/98457."""
    before, group, after = re.split("(?<=/resourceGroups/)([^/]+)", identifier)
    return f"{before}{group.upper()}{after}"


def check_security(state: State, arguments: Arguments) -> None:
    """What an image definition lets a machine be.

    Of ConfidentialVMSupported Gen2 and confidential machines are made; words from Azure/azure-cli#28005.
    Spec: https://learn.microsoft.com/azure/confidential-computing/create-confidential-vm-from-compute-gallery
    """
    definition = show(state, arguments["--image"].partition("/versions/")[0])
    features = {item["name"]: item["value"] for item in definition["features"]}
    kind = arguments["--security-type"]
    if kind == "TrustedLaunch" and not features["SecurityType"].startswith("TrustedLaunch"):
        raise refused("BadRequest", "Use of TrustedLaunch setting is not supported for the provided image.")


def vm_create(state: State, arguments: Arguments) -> object:
    check_group(state, arguments)
    check_place(arguments)
    if show(state, arguments["--image"])["provisioningState"] != "Succeeded":
        raise refused("InvalidParameter", "The image version is not ready.")
    size, confidential = arguments["--size"], arguments["--security-type"] == "ConfidentialVM"
    if size not in SIZES:
        raise refused("InvalidParameter", f"The value {size} provided for the VM size is not valid.")
    if confidential != (size in CONFIDENTIAL_SIZES):
        raise refused("BadRequest", f"The VM size '{size}' is not supported with security type.")
    check_security(state, arguments)
    if confidential and not arguments.has("--os-disk-security-encryption-type"):
        raise RefusedError(1, "ERROR: usage error: --os-disk-security-encryption-type is required")
    name = arguments["--name"]
    common = {"location": arguments["--location"], "tags": tags(arguments)}
    network = {
        "networkInterfaces": f"{name}VMNic",
        "publicIPAddresses": arguments["--public-ip-address"],
        "virtualNetworks": arguments["--vnet-name"],
    }
    for kind, each in network.items():
        whole = f"Microsoft.Network/{kind}"
        put(state, resource_id(arguments, whole, each), {**common, "type": whole, "ipAddress": "203.0.113.7"})
    show(state, resource_id(arguments, "Microsoft.Network/networkSecurityGroups", arguments["--nsg"]))
    record = {
        **common,
        "type": "Microsoft.Compute/virtualMachines",
        "provisioningState": "Succeeded",
        "storageProfile": {"imageReference": {"id": shouted(arguments["--image"])}},
        "diagnosticsProfile": None,
        "nic": resource_id(arguments, "Microsoft.Network/networkInterfaces", f"{name}VMNic"),
    }
    put(state, resource_id(arguments, "Microsoft.Compute/virtualMachines", name), record)
    return {"powerState": "VM running", "publicIpAddress": "203.0.113.7"}


def diagnostics(state: State, arguments: Arguments) -> object:
    found = shown("Microsoft.Compute/virtualMachines", "--name")(state, arguments)
    found["diagnosticsProfile"] = {"bootDiagnostics": {"enabled": True, "storageUri": None}}
    return found


def resource_show(state: State, arguments: Arguments) -> object:
    if f"/resourceGroups/{arguments['--ids'].split('/')[4]}/" not in arguments["--ids"]:
        raise missing(arguments["--ids"])
    return show(state, arguments["--ids"])


def resource_delete(state: State, arguments: Arguments) -> object:
    identifier = arguments["--ids"]
    found = show(state, identifier)
    inside = [key for key in state.of("resource") if key.startswith(f"{identifier}/")]
    if inside and "/galleries/" in identifier:
        raise refused(
            "CannotDeleteResource", f"Cannot delete resource while nested resources exist: {inside}"
        )
    for key in [identifier, *inside, *([found["nic"]] if "nic" in found else [])]:
        state.of("resource").pop(key, None)
    if "/storageAccounts/" in identifier:
        name = identifier.rpartition("/")[2]
        for kind in ("container", "blob"):
            for key in [each for each in state.of(kind) if each.startswith(f"{name}/")]:
                del state.of(kind)[key]
    return None


def resource_list(state: State, arguments: Arguments) -> object:
    check_group(state, arguments)
    inside = f"/resourceGroups/{arguments['--resource-group']}/"
    return [item for key, item in sorted(state.of("resource").items()) if inside in key]


_IN_GROUP = {"--resource-group": GROUP}
_NAMED = {"--name": NAME, "--resource-group": GROUP}
_NEW = {**_NAMED, "--location": PLACE, "--tags": TAGS}
_STORED = {"--account-name": ACCOUNT, "--auth-mode": MODE}
_BLOB = {**_STORED, "--name": BLOB, "--container-name": CONTAINER}
_GALLERY = {"--gallery-name": GALLERY, "--resource-group": GROUP}
_DEFINITION = {**_GALLERY, "--gallery-image-definition": NAME}
_SECURITY = "SecurityType=(ConfidentialVmSupported|TrustedLaunchAndConfidentialVmSupported)"
_FEATURE = f"({_SECURITY}|DiskControllerTypes=SCSI,NVMe)"
_RULE = {"--name": NAME, "--nsg-name": NAME, "--resource-group": GROUP}
_RESOURCE_ID = Flag(rf"/subscriptions/{SUBSCRIPTION}/resourceGroups/[^/\s]+/providers/[^\s]+")

TABLE: dict[str, Command] = {
    "account show": Command(f"{LEARN}/account#az-account-show", account_show),
    "group show": Command(f"{LEARN}/group#az-group-show", group_show, {"--name": GROUP}),
    "group create": Command(
        f"{LEARN}/group#az-group-create",
        group_create,
        {"--name": GROUP, "--location": PLACE, "--tags": TAGS},
        changes=True,
    ),
    "group delete": Command(
        f"{LEARN}/group#az-group-delete",
        group_delete,
        {"--name": GROUP, "--yes": Flag(switch=True)},
        changes=True,
    ),
    "storage account show": Command(
        f"{LEARN}/storage/account#az-storage-account-show",
        shown("Microsoft.Storage/storageAccounts", "--name"),
        {"--name": ACCOUNT, "--resource-group": GROUP},
    ),
    "storage account create": Command(
        f"{LEARN}/storage/account#az-storage-account-create",
        account_create,
        {
            **_NEW,
            "--name": ACCOUNT,
            "--sku": Flag("Standard_LRS"),
            "--kind": Flag("StorageV2"),
            "--https-only": BOOLEAN,
            "--min-tls-version": Flag("TLS1_2|TLS1_3"),
            "--allow-blob-public-access": BOOLEAN,
        },
        changes=True,
    ),
    "storage container exists": Command(
        f"{LEARN}/storage/container#az-storage-container-exists",
        container_exists,
        {**_STORED, "--name": CONTAINER},
    ),
    "storage container create": Command(
        f"{LEARN}/storage/container#az-storage-container-create",
        container_create,
        {**_STORED, "--name": CONTAINER},
        changes=True,
    ),
    "storage blob show": Command(f"{LEARN}/storage/blob#az-storage-blob-show", blob_show, _BLOB),
    "storage blob exists": Command(f"{LEARN}/storage/blob#az-storage-blob-exists", blob_exists, _BLOB),
    "storage blob list": Command(
        f"{LEARN}/storage/blob#az-storage-blob-list",
        blob_list,
        {**_STORED, "--container-name": CONTAINER, "--num-results": Flag("[0-9]+")},
    ),
    "storage blob upload": Command(
        f"{LEARN}/storage/blob#az-storage-blob-upload",
        blob_upload,
        {**_BLOB, "--type": Flag("page"), "--file": Flag(), "--overwrite": BOOLEAN},
        changes=True,
    ),
    "storage blob metadata update": Command(
        f"{LEARN}/storage/blob/metadata#az-storage-blob-metadata-update",
        blob_metadata,
        {**_BLOB, "--metadata": Flag(r"[A-Za-z_][A-Za-z0-9_]*=[^\s]+", many=True)},
        changes=True,
    ),
    "storage blob delete": Command(
        f"{LEARN}/storage/blob#az-storage-blob-delete", blob_delete, _BLOB, changes=True
    ),
    "sig show": Command(
        f"{LEARN}/sig#az-sig-show", shown("Microsoft.Compute/galleries", "--gallery-name"), _GALLERY
    ),
    "sig create": Command(
        f"{LEARN}/sig#az-sig-create",
        made("Microsoft.Compute/galleries", "--gallery-name"),
        {**_GALLERY, "--location": PLACE, "--tags": TAGS},
        changes=True,
    ),
    "sig image-definition show": Command(
        f"{LEARN}/sig/image-definition#az-sig-image-definition-show",
        shown("Microsoft.Compute/galleries/images", "--gallery-name", "--gallery-image-definition"),
        _DEFINITION,
    ),
    "sig image-definition create": Command(
        f"{LEARN}/sig/image-definition#az-sig-image-definition-create",
        definition_create,
        {
            **_DEFINITION,
            "--location": PLACE,
            "--tags": TAGS,
            "--publisher": NAME,
            "--offer": NAME,
            "--sku": NAME,
            "--os-type": Flag("Linux|Windows"),
            "--os-state": Flag("Generalized|Specialized"),
            "--hyper-v-generation": Flag("V1|V2"),
            "--architecture": Flag("Arm64|x64"),
            "--features": Flag(f"{_FEATURE}( {_FEATURE})*"),
        },
        changes=True,
    ),
    "sig image-definition list": Command(
        f"{LEARN}/sig/image-definition#az-sig-image-definition-list",
        listed("Microsoft.Compute/galleries/images", "--gallery-name"),
        _GALLERY,
    ),
    "sig image-version show": Command(
        f"{LEARN}/sig/image-version#az-sig-image-version-show",
        version_show,
        {**_DEFINITION, "--gallery-image-version": VERSION},
    ),
    "sig image-version list": Command(
        f"{LEARN}/sig/image-version#az-sig-image-version-list",
        listed("Microsoft.Compute/galleries/images/versions", "--gallery-name", "--gallery-image-definition"),
        _DEFINITION,
    ),
    "rest": Command(
        f"{LEARN}/reference-index#az-rest",
        rest,
        {"--method": Flag("put"), "--uri": Flag(), "--body": Flag()},
        changes=True,
    ),
    "network nsg show": Command(
        f"{LEARN}/network/nsg#az-network-nsg-show",
        shown("Microsoft.Network/networkSecurityGroups", "--name"),
        _NAMED,
    ),
    "network nsg create": Command(
        f"{LEARN}/network/nsg#az-network-nsg-create",
        made("Microsoft.Network/networkSecurityGroups", "--name"),
        _NEW,
        changes=True,
    ),
    "network nsg rule show": Command(
        f"{LEARN}/network/nsg/rule#az-network-nsg-rule-show",
        shown("Microsoft.Network/networkSecurityGroups/securityRules", "--nsg-name", "--name"),
        _RULE,
    ),
    "network nsg rule create": Command(
        f"{LEARN}/network/nsg/rule#az-network-nsg-rule-create",
        rule_create,
        {
            **_RULE,
            "--priority": Flag("[1-9][0-9]{2,3}"),
            "--direction": Flag("Inbound|Outbound"),
            "--access": Flag("Allow|Deny"),
            "--protocol": Flag(r"Tcp|Udp|\*"),
            "--source-address-prefixes": Flag(r"[0-9a-f.:/]+", many=True),
            "--destination-port-ranges": Flag("[0-9]+", many=True),
        },
        changes=True,
    ),
    "network nsg rule delete": Command(
        f"{LEARN}/network/nsg/rule#az-network-nsg-rule-delete", rule_delete, _RULE, changes=True
    ),
    "network public-ip show": Command(
        f"{LEARN}/network/public-ip#az-network-public-ip-show",
        shown("Microsoft.Network/publicIPAddresses", "--name"),
        _NAMED,
    ),
    "vm show": Command(
        f"{LEARN}/vm#az-vm-show", shown("Microsoft.Compute/virtualMachines", "--name"), _NAMED
    ),
    "vm create": Command(
        f"{LEARN}/vm#az-vm-create",
        vm_create,
        {
            **_NEW,
            "--image": _RESOURCE_ID,
            "--specialized": BOOLEAN,
            "--size": Flag("Standard_[A-Za-z0-9_]+"),
            "--enable-vtpm": BOOLEAN,
            "--enable-secure-boot": BOOLEAN,
            "--security-type": Flag("ConfidentialVM|Standard|TrustedLaunch"),
            "--os-disk-security-encryption-type": optional(
                Flag("DiskWithVMGuestState|NonPersistedTPM|VMGuestStateOnly")
            ),
            "--os-disk-size-gb": optional(Flag("[0-9]+")),
            "--nsg": NAME,
            "--vnet-name": NAME,
            "--subnet": NAME,
            "--public-ip-address": NAME,
            "--public-ip-sku": Flag("Basic|Standard"),
            "--nic-delete-option": Flag("Delete|Detach"),
            "--os-disk-delete-option": Flag("Delete|Detach"),
        },
        changes=True,
    ),
    "vm boot-diagnostics enable": Command(
        f"{LEARN}/vm/boot-diagnostics#az-vm-boot-diagnostics-enable", diagnostics, _NAMED, changes=True
    ),
    "resource show": Command(f"{LEARN}/resource#az-resource-show", resource_show, {"--ids": _RESOURCE_ID}),
    "resource delete": Command(
        f"{LEARN}/resource#az-resource-delete", resource_delete, {"--ids": _RESOURCE_ID}, changes=True
    ),
    "resource list": Command(f"{LEARN}/resource#az-resource-list", resource_list, _IN_GROUP),
}


def text(value: object) -> str:
    """An answer as ``--output tsv`` prints it. Spec: knack 0.12, knack/output.py, _TsvOutput."""
    rows = value if isinstance(value, list) else [value]
    return "".join(f"{_row(row)}\n" for row in rows)


def _row(row: object) -> str:
    if isinstance(row, bool):
        return str(row).lower()
    if isinstance(row, dict | list):
        items = [item for _, item in sorted(row.items())] if isinstance(row, dict) else row
        return "\t".join("" if isinstance(item, dict) else str(item) for item in items)
    return str(row)


def show_answer(arguments: Arguments, answer: object) -> str:
    """What az prints."""
    if arguments.has("--query"):
        answer = search(arguments["--query"], answer)
    kind = arguments.get("--output", "json")
    if answer is None or kind == "none":
        return ""
    return text(answer) if kind == "tsv" else json.dumps(answer, indent=2) + "\n"


def cloud() -> Cloud:
    """An empty one."""
    return Cloud("az", TABLE, COMMON, 2, show_answer)
