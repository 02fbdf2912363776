//! Texts of `/proc/self/cgroup` and `/proc/self/mountinfo` into the folders whose memory limits bind this process.

use super::text::lines;
use std::path::{Component, Path, PathBuf};

/// Cgroups from the process' own up to the root that are looked at.
pub const MAX_LEVELS: usize = 32;
/// Bytes of a path, the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Which of the kernel's two interfaces a cgroup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of the memory controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A cgroup's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// How it names its files.
    pub version: Version,
}

/// The process' cgroups that may limit memory, its own first, then those above it.
pub fn folders(cgroup: &str, mountinfo: &str) -> Vec<Folder> {
    let of = |version| move |path| Folder { path, version };
    let v1 = placed(cgroup, mountinfo, Version::V1).into_iter().map(of(Version::V1));
    let v2 = placed(cgroup, mountinfo, Version::V2).into_iter().map(of(Version::V2));
    v1.chain(v2).collect()
}

/// The folders of one hierarchy.
fn placed(cgroup: &str, mountinfo: &str, version: Version) -> Vec<PathBuf> {
    let own = lines(cgroup).find_map(|line| path_in(line, version));
    let mount = lines(mountinfo).find_map(|line| Mount::of(line, version));
    let (Some(own), Some(mount)) = (own, mount) else { return Vec::new() };
    mount.up_from(own)
}

/// The path of `0::/path` or `4:cpu,memory:/path`.
fn path_in(line: &str, version: Version) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_it = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "memory"),
        Version::V2 => number == "0" && controllers.is_empty(),
    };
    (is_it && path.starts_with('/') && path.len() <= MAX_PATH).then_some(path)
}

/// Where a hierarchy is mounted, and which cgroup is at its top there.
struct Mount {
    root: String,
    point: PathBuf,
}

impl Mount {
    /// Of a line such as `36 25 0:31 /root /mount/point rw shared:1 - cgroup2 cgroup2 rw,memory`.
    fn of(line: &str, version: Version) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let is_it = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            Version::V2 => kind == "cgroup2",
        };
        let mut left = left.split(' ').skip(3);
        let (root, point) = (unescaped(left.next()?)?, unescaped(left.next()?)?);
        (is_it && point.starts_with('/')).then(|| Self { root, point: PathBuf::from(point) })
    }

    /// The folders from a cgroup up to the mount. A cgroup that is not below the mount's root, as in a container
    /// whose host is not to be seen, is at the mount itself.
    fn up_from(&self, own: &str) -> Vec<PathBuf> {
        let below = Path::new(own).strip_prefix(&self.root).unwrap_or(Path::new(""));
        if below.components().any(|part| part == Component::ParentDir) {
            return vec![self.point.clone()];
        }
        let levels = (below.components().count() + 1).min(MAX_LEVELS);
        let own: PathBuf = self.point.components().chain(below.components()).collect();
        own.ancestors().take(levels).map(Path::to_path_buf).collect()
    }
}

/// A path of mountinfo, in which blanks and the like are octal: `\040`.
fn unescaped(path: &str) -> Option<String> {
    if path.len() > MAX_PATH {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOUNTS: &str = "\
25 1 0:22 / /proc rw - proc proc rw
30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 25 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    fn paths(cgroup: &str, mountinfo: &str) -> Vec<(String, Version)> {
        let folders = folders(cgroup, mountinfo);
        folders.into_iter().map(|found| (found.path.display().to_string(), found.version)).collect()
    }

    #[test]
    fn both_hierarchies_are_climbed() {
        let found = paths("9:name=systemd:/\n4:memory:/a/b\n0::/x\n", MOUNTS);
        let v1 = |path: &str| (format!("/sys/fs/cgroup/memory{path}"), Version::V1);
        let v2 = |path: &str| (format!("/sys/fs/cgroup/unified{path}"), Version::V2);
        assert_eq!(found, [v1("/a/b"), v1("/a"), v1(""), v2("/x"), v2("")]);
    }

    #[test]
    fn a_containers_root_is_where_it_is_mounted() {
        let mounts = "9 1 0:28 /docker/abc /sys/fs/my\\040cgroup rw - cgroup2 cgroup rw\n";
        let at = |own: &str| paths(&format!("0::{own}"), mounts);
        let v2 = |path: &str| (format!("/sys/fs/my cgroup{path}"), Version::V2);
        assert_eq!(at("/docker/abc/in"), [v2("/in"), v2("")]);
        for elsewhere in ["/docker/abc", "/docker/abcd", "/", "/other", "/docker/abc/../../../etc"] {
            assert_eq!(at(elsewhere), [v2("")], "{elsewhere}");
        }
    }

    #[test]
    fn without_a_mount_or_a_cgroup_there_is_none() {
        assert_eq!(paths("", MOUNTS), []);
        assert_eq!(paths("0::/x", ""), []);
        assert_eq!(paths("0::relative\n4:memory\n", MOUNTS), []);
    }

    #[test]
    fn a_deep_tree_is_bounded() {
        let own = format!("0::{}", "/a".repeat(if cfg!(miri) { 40 } else { 2000 }));
        assert_eq!(folders(&own, MOUNTS).len(), MAX_LEVELS);
        assert_eq!(folders(&format!("0::{}", "/a".repeat(3000)), MOUNTS).len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

        /// Not in Miri, where patterns of text are slow to make.
        #[cfg(not(miri))]
        #[test]
        fn no_text_panics_or_leaves_the_mount(
            own in "[a0:/.,memory\\\\ \n]{0,60}",
            mounts in "[a0:/.,memorycgup2\\\\ \n-]{0,120}",
        ) {
            folders(&own, &mounts);
            let found = folders(&format!("0::{own}"), MOUNTS);
            prop_assert!(found.len() <= 2 * MAX_LEVELS);
            for folder in found {
                prop_assert!(folder.path.starts_with("/sys/fs/cgroup"));
                prop_assert!(!folder.path.components().any(|part| part.as_os_str() == ".."));
            }
        }
    }
}
