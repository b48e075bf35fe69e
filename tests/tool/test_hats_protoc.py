"""Our ``.proto`` files and what is written by them, read by protoc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from recipes.hats import policy
from recipes.hats.proto_file import file_descriptor
from tests.support import ROOT, VECTORS, require_tool

pytestmark = pytest.mark.tool

FOLDER = ROOT / "recipes" / "hats"
FILES = sorted(path.name for path in FOLDER.glob("*.proto"))


def protoc(*arguments: str, given: bytes = b"") -> bytes:
    command = [require_tool("protoc"), f"-I{FOLDER}", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", FILES)
def test_both_read_the_same_fields(tmp_path: Path, name: str) -> None:
    target = tmp_path / "set"
    protoc(f"--descriptor_set_out={target}", name)
    found = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file[0]
    for message in found.message_type:
        for field in message.field:
            # The name that JSON would have, which protoc adds.
            field.ClearField("json_name")
        for entry in message.nested_type:
            for field in entry.field:
                field.ClearField("json_name")
    assert file_descriptor((FOLDER / name).read_text(), name) == found


@pytest.mark.parametrize("name", ["kv.txtpb", "kv-insecure.txtpb"])
def test_protoc_reads_the_binary_form(name: str) -> None:
    text = (VECTORS / "hats" / name).read_text()
    data = policy.dump_binary(policy.load_text(text, name))
    kind, file = "pcit.tvs.AppraisalPolicies", "appraisal_policies.proto"
    decoded = protoc(f"--decode={kind}", file, given=data).decode()
    assert policy.load_text(decoded, "decoded") == policy.load_text(text, name)
    assert protoc(f"--encode={kind}", file, given=text.encode()) == data
