# An image config -> the diff_ids, one a line. Takes $layers, the number of layers in the manifest.
# Spec: OCI image-spec 1.1, config.md.
include "common";

def texts: type == "array" and all(.[]; text);

only
| need(type == "object"; "is no JSON object")
| need(.os == "linux" and .architecture == "arm64"; "is not for linux on arm64")
| need((.rootfs | type) == "object" and .rootfs.type == "layers"; "rootfs.type is not layers")
| need((.rootfs.diff_ids | type) == "array" and all(.rootfs.diff_ids[]; digest); "rootfs.diff_ids are not all digests")
| need((.rootfs.diff_ids | length) == ($layers | tonumber);
       "has \(.rootfs.diff_ids | length) diff_ids, the manifest \($layers) layers")
| need((.config | type) == "object"; "has no runtime config")
| need(.config.Entrypoint | . == null or texts; "config.Entrypoint is no list of texts")
| need(.config.Cmd | . == null or texts; "config.Cmd is no list of texts")
| need(((.config.Entrypoint // []) + (.config.Cmd // [])) | length > 0 and .[0] != ""; "names no program to start")
| need(.config.Env | . == null or (texts and all(.[]; test("\\A[A-Za-z_][A-Za-z0-9_.-]*=")));
       "config.Env is no list of NAME=value")
# The loader would take these for the program that changes the root, before it does.
| need([.config.Env // [] | .[] | select(test("\\A(LD_|GLIBC_TUNABLES=)"))] | length == 0;
       "config.Env has a variable of the dynamic loader, which the stand-in does not pass on")
| need(.config.WorkingDir | . == null or . == "" or (text and startswith("/")); "config.WorkingDir is no absolute path")
| need(.config.User | . == null or . == "" or
       (type == "string" and test("\\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?\\z"));
       "config.User is no user or user:group")
# The command must be one run of xargs: it starts a second one when its buffer is full.
| need(([.config.Entrypoint, .config.Cmd, .config.Env | . // [] | .[] | utf8bytelength + 1] | add) <= 16384;
       "its command and environment are longer than 16 KiB")
| .rootfs.diff_ids[]
