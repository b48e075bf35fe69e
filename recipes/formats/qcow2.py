"""The header of a qcow2 file, which disks are written with and base images are known by."""

from __future__ import annotations

from ..binary import Struct, u8, u32, u64


class Qcow2Header(Struct, endian=">"):
    """Start of the file, version 3 with all fields up to the compression type and its padding.

    Spec: QEMU docs/interop/qcow2.txt, section Header.
    """

    magic: u32
    version: u32
    backing_file_offset: u64
    backing_file_size: u32
    cluster_bits: u32
    size: u64
    crypt_method: u32
    l1_size: u32
    l1_table_offset: u64
    refcount_table_offset: u64
    refcount_table_clusters: u32
    snapshots: u32
    snapshots_offset: u64
    incompatible_features: u64
    compatible_features: u64
    autoclear_features: u64
    refcount_order: u32
    header_length: u32
    compression_type: u8
    reserved_0x69: u8
    reserved_0x6a: u8
    reserved_0x6b: u8
    reserved_0x6c: u32
