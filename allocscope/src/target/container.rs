//! /proc/PID/cgroup into a cgroup's path, and that path into a container's id.

/// The path of a process' cgroup: version 2's, unless that is the root and the memory controller of version
/// 1 knows better. Empty where there is neither. Bytes that are not UTF-8 are replaced.
pub fn cgroup_path(file: &[u8]) -> String {
    let mut unified = None;
    let mut memory = None;
    for line in file.split(|&byte| byte == b'\n') {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if hierarchy == b"0" && controllers.is_empty() {
            unified = Some(path);
        } else if controllers.split(|&byte| byte == b',').any(|controller| controller == b"memory") {
            memory = Some(path);
        }
    }
    let path = unified.filter(|path| *path != b"/").or(memory).or(unified).unwrap_or_default();
    String::from_utf8_lossy(path).into_owned()
}

/// The id or name of the innermost container that a cgroup's path tells of; else empty. Knows Docker,
/// containerd, CRI-O, Podman, LXC and systemd-nspawn.
pub fn container_id(cgroup: &str) -> String {
    let parts: Vec<&str> = cgroup.split('/').collect();
    let innermost = (0..parts.len()).rev().find_map(|at| {
        let parent = at.checked_sub(1).map_or("", |before| parts[before]);
        hex_id(parts[at]).map(str::to_owned).or_else(|| named(parent, parts[at]))
    });
    innermost.unwrap_or_default()
}

/// `<64 hex>`, `docker-<64 hex>.scope`, `cri-containerd-…`, `crio-…`, `libpod-…`, `…:cri-containerd:<64 hex>`.
/// conmon is the monitor that Podman and CRI-O run beside the container, under the container's id.
fn hex_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = part.rsplit_once(['-', ':']).unwrap_or(("", part));
    let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !prefix.contains("conmon")).then_some(id)
}

/// Containers that are told by name: LXC's and systemd-nspawn's.
fn named(parent: &str, part: &str) -> Option<String> {
    let lxc =
        part.strip_prefix("lxc.payload.").or_else(|| matches!(parent, "lxc" | "lxc.payload").then_some(part));
    let nspawn = || part.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    let machine = || part.strip_prefix("machine-")?.strip_suffix(".scope");
    lxc.or_else(nspawn).or_else(machine).filter(|name| !name.is_empty()).map(unescape)
}

/// systemd writes bytes that have a meaning in unit names as `\x2d`.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f2a9c0b7d1e3f5a6b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c";
    const OUTER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn paths() {
        assert_eq!(cgroup_path(b"0::/system.slice/nginx.service\n"), "/system.slice/nginx.service");
        assert_eq!(cgroup_path(b"9:name=systemd:/a\n4:cpu,memory:/b:c\n"), "/b:c");
        assert_eq!(cgroup_path(b"4:memory:/b\n0::/\n"), "/b");
        assert_eq!(cgroup_path(b"4:memory:/b\n0::/user.slice\n"), "/user.slice");
        assert_eq!(cgroup_path(b"0::/\n"), "/");
        assert_eq!(cgroup_path(b"3:cpuset:/x\n"), "");
        assert_eq!(cgroup_path(b""), "");
        assert_eq!(cgroup_path(b"nonsense\n:::::\n0:\n"), "");
        assert_eq!(cgroup_path(b"0::/\xff\n"), "/\u{fffd}");
    }

    #[test]
    fn containers_with_ids() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/docker/{ID}/init.scope"),
            format!("/kubepods/burstable/pod6f3c1d2e-0000-4000-8000-000000000000/{ID}"),
            format!("/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod1_2.slice/crio-{ID}.scope"),
            format!("/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/docker/{OUTER}/kubelet/kubepods/pod1/{ID}"),
        ] {
            assert_eq!(container_id(&path), ID, "{path}");
        }
    }

    #[test]
    fn containers_with_names() {
        for (path, name) in [
            ("/lxc/web1", "web1"),
            ("/lxc.payload.web1/system.slice/nginx.service", "web1"),
            ("/lxc.payload/web1", "web1"),
            ("/machine.slice/systemd-nspawn@build.service/payload", "build"),
            ("/machine.slice/machine-deb\\x2dian.scope", "deb-ian"),
            ("/machine.slice/machine-a\\xzz.scope", "a\\xzz"),
        ] {
            assert_eq!(container_id(path), name, "{path}");
        }
    }

    #[test]
    fn no_container() {
        for path in [
            String::new(),
            "/".to_owned(),
            "/user.slice/user-1000.slice/session-3.scope".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/docker/{}", &ID[1..]),
            format!("/docker/{}", ID.to_uppercase()),
            "/lxc".to_owned(),
            "/lxc.payload.".to_owned(),
            "/machine.slice/machine-.scope".to_owned(),
        ] {
            assert_eq!(container_id(&path), "", "{path}");
        }
    }
}
