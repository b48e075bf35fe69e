# An image config that has passed config.jq -> variables, then the program that changes root and user, then the
# application's own words; each ends with a NUL, so that no text of the config is ever read by a shell.
# Takes $root, $uid and $gid.
include "common";

only
| .config
| (.Env // []) as $env
| (.WorkingDir // "" | if . == "" then "/" else . end) as $directory
| [
    # What the image says itself comes last and wins.
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", $env[],
    "/usr/bin/unshare", "--root=\($root)", "--wd=\($directory)", "--setgid=\($gid)", "--setuid=\($uid)", "--",
    (.Entrypoint // [])[], (.Cmd // [])[]
  ]
| .[] | . + "\u0000"
