"""A stand-in for aws, version 2: the commands of our script, with options and values as documented."""

from __future__ import annotations

import json
import re
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

REFERENCE = "https://docs.aws.amazon.com/cli/latest/reference"
ACCOUNT = "123456789012"
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/sev-snp.html
SNP_REGIONS, SNP_FAMILIES = ("us-east-2", "eu-west-1"), ("m6a", "c6a", "r6a")
REGIONS = (*SNP_REGIONS, "us-east-1")
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RegisterImage.html, UefiData
MAX_UEFI_DATA = 64000

BUCKET = Flag(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
KEY = Flag(r"[A-Za-z0-9._-]{1,1024}")
FILTERS = Flag(r"Name=[a-z:.-]+[a-zA-Z0-9:.-]*,Values=[^\s]+", many=True)
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Tag.html
_TAG = r"\{Key=[A-Za-z0-9 +=._:/@-]{1,128},Value=[A-Za-z0-9 +=._:/@-]{0,256}\}"
_TAGS = rf"Tags=\[{_TAG}(,{_TAG})*\]"
_RANGES = r"(IpRanges=\[\{CidrIp=[0-9./]+\}\]|Ipv6Ranges=\[\{CidrIpv6=[0-9a-f:/]+\}\])"
_PERMISSION = rf"IpProtocol=tcp,FromPort=[0-9]+,ToPort=[0-9]+,{_RANGES}"

COMMON = {
    "--region": Flag(r"[a-z0-9-]+"),
    "--output": Flag("json"),
    "--query": Flag(required=False),
    "--profile": Flag(required=False),
}


def refused(operation: str, code: str, message: str) -> RefusedError:
    """Spec: https://docs.aws.amazon.com/cli/latest/userguide/cli-usage-returncodes.html, 254."""
    what = f"An error occurred ({code}) when calling the {operation} operation: {message}"
    return RefusedError(254, f"\n{what}")


def place(arguments: Arguments) -> str:
    region = arguments["--region"]
    if region not in REGIONS:
        raise RefusedError(
            255, f'Could not connect to the endpoint URL: "https://ec2.{region}.amazonaws.com/"'
        )
    return region


def tagged(text: str) -> list[Record]:
    return [
        {"Key": key, "Value": value} for key, value in re.findall(r"\{?Key=([^,}]+),Value=([^},]*)\}?", text)
    ]


def new_id(state: State, prefix: str) -> str:
    counter = state.of("counter").setdefault("next", {"value": 0})
    counter["value"] += 1
    return f"{prefix}-{counter['value']:017x}"


def matching(items: list[Record], arguments: Arguments, names: dict[str, Any]) -> list[Record]:
    """What all filters match; ``names`` says what a filter looks at."""
    for each in arguments.values.get("--filters", []):
        name, _, wanted = each.removeprefix("Name=").partition(",Values=")
        values = wanted.split(",")
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            items = [
                item
                for item in items
                if any(tag["Key"] == key and tag["Value"] in values for tag in item.get("Tags", []))
            ]
        elif name in names:
            items = [item for item in items if names[name](item) in values]
        else:
            raise refused("Describe", "InvalidParameterValue", f"The filter '{name}' is invalid")
    return items


def identity(state: State, arguments: Arguments) -> object:
    if state.signed_out:
        raise RefusedError(
            253, 'Unable to locate credentials. You can configure credentials by running "aws login".'
        )
    place(arguments)
    return {"UserId": "AIDA", "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/tests"}


def list_buckets(state: State, arguments: Arguments) -> object:
    return {"Buckets": [{"Name": name} for name in sorted(state.of("bucket"))], "Owner": {"ID": "x"}}


def create_bucket(state: State, arguments: Arguments) -> object:
    name, region = arguments["--bucket"], place(arguments)
    constraint = arguments.get("--create-bucket-configuration").removeprefix("LocationConstraint=")
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html, LocationConstraint
    if constraint != ("" if region == "us-east-1" else region):
        raise refused(
            "CreateBucket", "IllegalLocationConstraintException", "The location constraint is incompatible"
        )
    if name == "taken" or name in state.of("bucket"):
        raise refused("CreateBucket", "BucketAlreadyExists", "The requested bucket name is not available.")
    state.of("bucket")[name] = {"region": region}
    return {"Location": f"http://{name}.s3.amazonaws.com/"}


def delete_bucket(state: State, arguments: Arguments) -> object:
    name = arguments["--bucket"]
    if any(key.startswith(f"{name}/") for key in state.of("object")):
        raise refused("DeleteBucket", "BucketNotEmpty", "The bucket you tried to delete is not empty")
    del state.of("bucket")[name]
    return None


def list_objects(state: State, arguments: Arguments) -> object:
    name = arguments["--bucket"]
    if name not in state.of("bucket"):
        raise refused("ListObjectsV2", "NoSuchBucket", "The specified bucket does not exist")
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html: what was said of it is not listed.
    found = [
        {"Key": item["Key"], "Size": item["Size"]}
        for key, item in sorted(state.of("object").items())
        if key.startswith(f"{name}/{arguments.get('--prefix')}")
    ]
    return {"Contents": found} if found else {"RequestCharged": None}


def copy(state: State, arguments: Arguments) -> object:
    source, target = arguments.words
    bucket, _, key = target.removeprefix("s3://").partition("/")
    if bucket not in state.of("bucket"):
        raise RefusedError(1, f"upload failed: {source} to {target} An error occurred (NoSuchBucket)")
    state.of("object")[f"{bucket}/{key}"] = {
        "Key": key,
        "Size": arguments.path(source).stat().st_size,
        "metadata": dict([arguments["--metadata"].split("=")]),
    }
    return None


def head_object(state: State, arguments: Arguments) -> object:
    found = state.of("object").get(f"{arguments['--bucket']}/{arguments['--key']}")
    if found is None:
        raise refused("HeadObject", "404", "Not Found")
    return {"ContentLength": found["Size"], "Metadata": found["metadata"]}


def remove(state: State, arguments: Arguments) -> object:
    state.of("object").pop(arguments.words[0].removeprefix("s3://"), None)
    return None


def import_snapshot(state: State, arguments: Arguments) -> object:
    place(arguments)
    match = re.fullmatch(
        r"Description=[^,]+,Format=VMDK,UserBucket=\{S3Bucket=([^,]+),S3Key=([^}]+)\}",
        arguments["--disk-container"],
    )
    if match is None or f"{match[1]}/{match[2]}" not in state.of("object"):
        raise refused("ImportSnapshot", "InvalidParameter", "The S3 object does not exist")
    if arguments["--role-name"] != "vmimport":
        what = f"The service role {arguments['--role-name']} provided does not exist"
        raise refused("ImportSnapshot", "InvalidParameter", what)
    task = new_id(state, "import-snap")
    detail = {"Status": "active", "Progress": "0", "StatusMessage": "pending", "DiskImageSize": 0.0}
    state.of("task")[task] = {
        "ImportTaskId": task,
        "Description": arguments["--description"],
        "SnapshotTaskDetail": detail,
    }
    return state.of("task")[task]


def import_tasks(state: State, arguments: Arguments) -> object:
    found = list(state.of("task").values())
    if arguments.has("--import-task-ids"):
        found = [item for item in found if item["ImportTaskId"] == arguments["--import-task-ids"]]
        for item in found:
            _advance(state, item)
    return {"ImportSnapshotTasks": found}


def _advance(state: State, task: Record) -> None:
    """A task is done after three looks at it."""
    task["looks"] = task.get("looks", 0) + 1
    detail = task["SnapshotTaskDetail"]
    if detail["Status"] != "active" or task["looks"] < 3:
        return
    if state.bad_disk:
        detail |= {"Status": "deleted", "StatusMessage": "ClientError: Disk validation failed"}
        return
    snapshot = new_id(state, "snap")
    state.of("snapshot")[snapshot] = {
        "SnapshotId": snapshot,
        "State": "completed",
        "VolumeSize": 1,
        "Tags": [],
    }
    detail |= {"Status": "completed", "SnapshotId": snapshot}
    detail.pop("StatusMessage", None)


def snapshots(state: State, arguments: Arguments) -> object:
    names = {"snapshot-id": lambda item: item["SnapshotId"]}
    return {"Snapshots": matching(list(state.of("snapshot").values()), arguments, names)}


def delete_snapshot(state: State, arguments: Arguments) -> object:
    name = arguments["--snapshot-id"]
    if any(item["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == name for item in state.of("ami").values()):
        raise refused("DeleteSnapshot", "InvalidSnapshot.InUse", f"The snapshot {name} is currently in use")
    del state.of("snapshot")[name]
    return None


def create_tags(state: State, arguments: Arguments) -> object:
    state.of("snapshot")[arguments["--resources"]]["Tags"] = [
        tag for each in arguments.values["--tags"] for tag in tagged(each)
    ]
    return None


def register_image(state: State, arguments: Arguments) -> object:
    place(arguments)
    name = arguments["--name"]
    if any(item["Name"] == name for item in state.of("ami").values()):
        raise refused("RegisterImage", "InvalidAMIName.Duplicate", f"AMI name {name} is already in use")
    match = re.search(r"SnapshotId=(snap-[0-9a-f]+)", arguments["--block-device-mappings"])
    if match is None or match[1] not in state.of("snapshot"):
        raise refused("RegisterImage", "InvalidSnapshot.NotFound", "The snapshot does not exist")
    data = arguments.get("--uefi-data")
    if data:
        read = arguments.path(data.removeprefix("file://")).read_text()
        if len(read) > MAX_UEFI_DATA or re.fullmatch(r"[A-Za-z0-9+/]+=*", read) is None:
            raise refused("RegisterImage", "InvalidParameterValue", "UefiData")
    ami = new_id(state, "ami")
    state.of("ami")[ami] = {
        "ImageId": ami,
        "Name": name,
        "State": "pending",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": match[1]}}],
        "TpmSupport": arguments.get("--tpm-support"),
        "UefiData": bool(data),
        "Tags": tagged(arguments["--tag-specifications"]),
    }
    return {"ImageId": ami}


def images(state: State, arguments: Arguments) -> object:
    found = matching(list(state.of("ami").values()), arguments, {"name": lambda item: item["Name"]})
    for item in found:
        item["looks"] = item.get("looks", 0) + 1
        if item["State"] == "pending" and item["looks"] > 1:
            item["State"] = "available"
    return {"Images": found}


def deregister(state: State, arguments: Arguments) -> object:
    del state.of("ami")[arguments["--image-id"]]
    return None


def vpcs(state: State, arguments: Arguments) -> object:
    place(arguments)
    return {"Vpcs": [{"VpcId": "vpc-0a1b2c3d", "IsDefault": True}]}


def subnets(state: State, arguments: Arguments) -> object:
    return {"Subnets": [{"SubnetId": arguments["--subnet-ids"], "VpcId": "vpc-0a1b2c3d"}]}


def groups(state: State, arguments: Arguments) -> object:
    names = {"group-name": lambda item: item["GroupName"], "vpc-id": lambda item: item["VpcId"]}
    return {"SecurityGroups": matching(list(state.of("group").values()), arguments, names)}


def create_group(state: State, arguments: Arguments) -> object:
    name = arguments["--group-name"]
    if any(item["GroupName"] == name for item in state.of("group").values()):
        raise refused(
            "CreateSecurityGroup", "InvalidGroup.Duplicate", f"The security group '{name}' already exists"
        )
    group = new_id(state, "sg")
    tags = tagged(arguments["--tag-specifications"])
    state.of("group")[group] = {
        "GroupId": group,
        "GroupName": name,
        "VpcId": arguments["--vpc-id"],
        "Tags": tags,
    }
    return {"GroupId": group, "Tags": tags}


def delete_group(state: State, arguments: Arguments) -> object:
    group = arguments["--group-id"]
    if any(
        item["group"] == group and item["State"]["Name"] != "terminated"
        for item in state.of("instance").values()
    ):
        raise refused(
            "DeleteSecurityGroup", "DependencyViolation", f"resource {group} has a dependent object"
        )
    del state.of("group")[group]
    return {"Return": True}


def rules(state: State, arguments: Arguments) -> object:
    group = arguments["--filters"].removeprefix("Name=group-id,Values=")
    inward = state.of("group")[group].get("rules", [])
    outward = {
        "SecurityGroupRuleId": "sgr-0",
        "IsEgress": True,
        "FromPort": -1,
        "ToPort": -1,
        "CidrIpv4": "0.0.0.0/0",
    }
    return {"SecurityGroupRules": [outward, *inward]}


def _rule(arguments: Arguments) -> Record:
    text = arguments["--ip-permissions"]
    port = int(text.split("FromPort=")[1].split(",")[0])
    match = re.search(r"\{(CidrIp|CidrIpv6)=([^}]+)\}", text)
    assert match is not None
    key = "CidrIpv4" if match[1] == "CidrIp" else match[1]
    return {"IsEgress": False, "FromPort": port, "ToPort": port, key: match[2]}


def authorize(state: State, arguments: Arguments) -> object:
    kept = state.of("group")[arguments["--group-id"]].setdefault("rules", [])
    rule = _rule(arguments)
    if rule in kept:
        raise refused(
            "AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate", "the rule already exists"
        )
    kept.append(rule)
    return {"Return": True}


def revoke(state: State, arguments: Arguments) -> object:
    state.of("group")[arguments["--group-id"]]["rules"].remove(_rule(arguments))
    return {"Return": True}


def run_instances(state: State, arguments: Arguments) -> object:
    region, kind = place(arguments), arguments["--instance-type"]
    if arguments["--image-id"] not in state.of("ami"):
        raise refused("RunInstances", "InvalidAMIID.NotFound", "The image id does not exist")
    if arguments["--security-group-ids"] not in state.of("group"):
        raise refused("RunInstances", "InvalidGroup.NotFound", "The security group does not exist")
    if arguments.get("--cpu-options") and (
        region not in SNP_REGIONS or kind.split(".")[0] not in SNP_FAMILIES
    ):
        raise refused(
            "RunInstances", "Unsupported", "The requested configuration is not supported for AmdSevSnp"
        )
    instance = new_id(state, "i")
    state.of("instance")[instance] = {
        "InstanceId": instance,
        "ImageId": arguments["--image-id"],
        "State": {"Name": "running"},
        "PublicIpAddress": "203.0.113.9",
        "CpuOptions": arguments.get("--cpu-options"),
        "Tags": tagged(arguments["--tag-specifications"]),
        "group": arguments["--security-group-ids"],
    }
    return {"Instances": [state.of("instance")[instance]]}


def instances(state: State, arguments: Arguments) -> object:
    for item in state.of("instance").values():
        if item["State"]["Name"] == "shutting-down":
            item["looks"] = item.get("looks", 0) + 1
            if item["looks"] > 2:
                item["State"]["Name"] = "terminated"
    names = {
        "instance-state-name": lambda item: item["State"]["Name"],
        "instance.group-id": lambda item: item["group"],
    }
    found = matching(list(state.of("instance").values()), arguments, names)
    return {"Reservations": [{"Instances": [item]} for item in found]}


def terminate(state: State, arguments: Arguments) -> object:
    state.of("instance")[arguments["--instance-ids"]]["State"]["Name"] = "shutting-down"
    return {"TerminatingInstances": []}


_GROUP_ID = Flag("sg-[0-9a-f]+")
_PERMIT = {"--group-id": _GROUP_ID, "--ip-permissions": Flag(_PERMISSION)}
_FILTERED = {"--filters": FILTERS}
_SELF = {"--owner-ids": Flag("self|[0-9]{12}")}

TABLE: dict[str, Command] = {
    "sts get-caller-identity": Command(f"{REFERENCE}/sts/get-caller-identity.html", identity),
    "s3api list-buckets": Command(f"{REFERENCE}/s3api/list-buckets.html", list_buckets),
    "s3api create-bucket": Command(
        f"{REFERENCE}/s3api/create-bucket.html",
        create_bucket,
        {
            "--bucket": BUCKET,
            "--create-bucket-configuration": optional(Flag(r"LocationConstraint=[a-z0-9-]+")),
        },
        changes=True,
    ),
    "s3api delete-bucket": Command(
        f"{REFERENCE}/s3api/delete-bucket.html", delete_bucket, {"--bucket": BUCKET}, changes=True
    ),
    "s3api list-objects-v2": Command(
        f"{REFERENCE}/s3api/list-objects-v2.html",
        list_objects,
        {"--bucket": BUCKET, "--prefix": optional(KEY), "--max-keys": optional(Flag("[0-9]+"))},
    ),
    "s3api head-object": Command(
        f"{REFERENCE}/s3api/head-object.html", head_object, {"--bucket": BUCKET, "--key": KEY}
    ),
    "s3 cp": Command(
        f"{REFERENCE}/s3/cp.html",
        copy,
        {"--metadata": Flag("[a-z0-9]+=[^,=]+"), "--no-progress": Flag(switch=True)},
        words=(r"[^\s]+", r"s3://[a-z0-9.-]+/[A-Za-z0-9._-]+"),
        changes=True,
    ),
    "s3 rm": Command(
        f"{REFERENCE}/s3/rm.html", remove, words=(r"s3://[a-z0-9.-]+/[A-Za-z0-9._-]+",), changes=True
    ),
    "ec2 import-snapshot": Command(
        f"{REFERENCE}/ec2/import-snapshot.html",
        import_snapshot,
        {
            "--description": Flag(),
            "--role-name": Flag(r"[A-Za-z0-9_+=,.@-]{1,64}"),
            "--disk-container": Flag(),
        },
        changes=True,
    ),
    "ec2 describe-import-snapshot-tasks": Command(
        f"{REFERENCE}/ec2/describe-import-snapshot-tasks.html",
        import_tasks,
        {"--import-task-ids": optional(Flag("import-snap-[0-9a-f]+"))},
    ),
    "ec2 describe-snapshots": Command(
        f"{REFERENCE}/ec2/describe-snapshots.html", snapshots, {**_SELF, **_FILTERED}
    ),
    "ec2 delete-snapshot": Command(
        f"{REFERENCE}/ec2/delete-snapshot.html",
        delete_snapshot,
        {"--snapshot-id": Flag("snap-[0-9a-f]+")},
        changes=True,
    ),
    "ec2 create-tags": Command(
        f"{REFERENCE}/ec2/create-tags.html",
        create_tags,
        {
            "--resources": Flag("snap-[0-9a-f]+", many=True),
            "--tags": Flag(r"Key=[^,\s]+,Value=[^,\s]+", many=True),
        },
        changes=True,
    ),
    "ec2 describe-images": Command(
        f"{REFERENCE}/ec2/describe-images.html", images, {"--owners": Flag("self"), **_FILTERED}
    ),
    "ec2 register-image": Command(
        f"{REFERENCE}/ec2/register-image.html",
        register_image,
        {
            "--name": Flag(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}"),
            "--description": Flag(),
            "--architecture": Flag("i386|x86_64|arm64|x86_64_mac|arm64_mac"),
            "--root-device-name": Flag("/dev/xvda"),
            "--virtualization-type": Flag("hvm|paravirtual"),
            "--boot-mode": Flag("legacy-bios|uefi|uefi-preferred"),
            "--ena-support": Flag(switch=True),
            "--imds-support": Flag(r"v2\.0"),
            "--block-device-mappings": Flag(
                r"DeviceName=/dev/xvda,Ebs=\{SnapshotId=snap-[0-9a-f]+,VolumeType=(gp2|gp3),DeleteOnTermination=true\}"
            ),
            "--tag-specifications": Flag(f"ResourceType=image,{_TAGS}"),
            "--tpm-support": optional(Flag(r"v2\.0")),
            "--uefi-data": optional(Flag()),
        },
        changes=True,
    ),
    "ec2 deregister-image": Command(
        f"{REFERENCE}/ec2/deregister-image.html",
        deregister,
        {"--image-id": Flag("ami-[0-9a-f]+")},
        changes=True,
    ),
    "ec2 describe-vpcs": Command(
        f"{REFERENCE}/ec2/describe-vpcs.html", vpcs, {"--filters": Flag("Name=is-default,Values=true")}
    ),
    "ec2 describe-subnets": Command(
        f"{REFERENCE}/ec2/describe-subnets.html", subnets, {"--subnet-ids": Flag("subnet-[0-9a-f]+")}
    ),
    "ec2 describe-security-groups": Command(
        f"{REFERENCE}/ec2/describe-security-groups.html", groups, _FILTERED
    ),
    "ec2 create-security-group": Command(
        f"{REFERENCE}/ec2/create-security-group.html",
        create_group,
        {
            "--group-name": Flag(r"(?!sg-).{1,255}"),
            "--description": Flag(r".{1,255}"),
            "--vpc-id": Flag("vpc-[0-9a-f]+"),
            "--tag-specifications": Flag(f"ResourceType=security-group,{_TAGS}"),
        },
        changes=True,
    ),
    "ec2 delete-security-group": Command(
        f"{REFERENCE}/ec2/delete-security-group.html", delete_group, {"--group-id": _GROUP_ID}, changes=True
    ),
    "ec2 describe-security-group-rules": Command(
        f"{REFERENCE}/ec2/describe-security-group-rules.html",
        rules,
        {"--filters": Flag("Name=group-id,Values=sg-[0-9a-f]+")},
    ),
    "ec2 authorize-security-group-ingress": Command(
        f"{REFERENCE}/ec2/authorize-security-group-ingress.html", authorize, _PERMIT, changes=True
    ),
    "ec2 revoke-security-group-ingress": Command(
        f"{REFERENCE}/ec2/revoke-security-group-ingress.html", revoke, _PERMIT, changes=True
    ),
    "ec2 run-instances": Command(
        f"{REFERENCE}/ec2/run-instances.html",
        run_instances,
        {
            "--image-id": Flag("ami-[0-9a-f]+"),
            "--instance-type": Flag(r"[a-z0-9-]+\.[a-z0-9-]+"),
            "--security-group-ids": _GROUP_ID,
            "--metadata-options": Flag("HttpTokens=(required|optional)"),
            "--tag-specifications": Flag(f"ResourceType=instance,{_TAGS}"),
            "--cpu-options": optional(Flag("AmdSevSnp=(enabled|disabled)")),
            "--subnet-id": optional(Flag("subnet-[0-9a-f]+")),
            "--block-device-mappings": optional(Flag(r"DeviceName=/dev/xvda,Ebs=\{VolumeSize=[0-9]+\}")),
        },
        changes=True,
    ),
    "ec2 describe-instances": Command(f"{REFERENCE}/ec2/describe-instances.html", instances, _FILTERED),
    "ec2 terminate-instances": Command(
        f"{REFERENCE}/ec2/terminate-instances.html",
        terminate,
        {"--instance-ids": Flag("i-[0-9a-f]+")},
        changes=True,
    ),
}


def show_answer(arguments: Arguments, answer: object) -> str:
    """What aws prints with ``--output json``."""
    if arguments.has("--query"):
        answer = search(arguments["--query"], answer)
    return "" if answer is None and not arguments.has("--query") else json.dumps(answer, indent=4) + "\n"


def cloud() -> Cloud:
    """An empty one."""
    return Cloud("aws", TABLE, COMMON, 252, show_answer)
