//! The `.go.buildinfo` blob of a Go binary into its toolchain version and build settings.

use std::ops::ControlFlow;

use crate::allocator::elf::Image;
use crate::allocator::source::Part;

/// Starts the blob; see `debug/buildinfo` in the Go tree.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The linker aligns the blob so.
const ALIGNMENT: u64 = 16;
/// Magic, pointer size, flags and padding come before the inline strings.
const HEADER_BYTES: usize = 32;
const FLAGS_OFFSET: usize = 15;
/// In place of inline strings: where the version's header is.
const VERSION_POINTER: u64 = 16;
/// Set since Go 1.18: strings follow inline, each after its length as a varint.
const FLAG_INLINE: u8 = 2;
/// Module data is framed by two 16-byte sentinels.
const SENTINEL_BYTES: usize = 16;
/// Bounds on hostile input, far above what toolchains write.
const MAX_VERSION_BYTES: usize = 256;
const MAX_MODULE_BYTES: usize = 1024 * 1024;
const MAX_BLOB_BYTES: u64 = (HEADER_BYTES + MAX_VERSION_BYTES + MAX_MODULE_BYTES + 32) as u64;
const MAX_SCAN_BYTES: u64 = 256 << 20;
const MAX_CANDIDATES: u64 = 64;

/// What the Go linker wrote about a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildInfo {
    /// The toolchain's version string, not parsed. Empty where it was not found.
    pub version: String,
    settings: Vec<(String, String)>,
}

impl BuildInfo {
    /// Finds the blob by its section, or by its magic in the data of a binary without sections.
    pub fn find(image: &Image<'_>) -> Option<Self> {
        match image.section_part(".go.buildinfo") {
            Some((address, part)) => Self::parse(image, address, &part.prefix(MAX_BLOB_BYTES)?),
            None => Self::scan(image),
        }
    }

    fn scan(image: &Image<'_>) -> Option<Self> {
        let (mut left, mut candidates) = (MAX_SCAN_BYTES, MAX_CANDIDATES);
        image.data_segments().find_map(|(address, data)| {
            let part = data.first(left);
            left -= part.len();
            part.search(&[MAGIC], |at, _| {
                if !at.is_multiple_of(ALIGNMENT) {
                    return ControlFlow::Continue(());
                }
                let found = Self::candidate(image, address, part, at);
                candidates = candidates.saturating_sub(1);
                if found.is_some() || candidates == 0 {
                    ControlFlow::Break(found)
                } else {
                    ControlFlow::Continue(())
                }
            })?
        })
    }

    /// A blob with a version: the bare magic also stands in programs that look for it.
    fn candidate(image: &Image<'_>, address: u64, part: Part<'_>, at: u64) -> Option<Self> {
        let blob = part.tail(at)?.prefix(MAX_BLOB_BYTES)?;
        let info = Self::parse(image, address.checked_add(at)?, &blob)?;
        (info.version.starts_with("go") || info.version.starts_with("devel")).then_some(info)
    }

    /// Reads a blob at `address` that starts with the magic.
    fn parse(image: &Image<'_>, address: u64, bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        if bytes.get(FLAGS_OFFSET)? & FLAG_INLINE == 0 {
            return Some(Self::pointed_to(image, address).unwrap_or_default());
        }
        let (version, rest) = inline_string(bytes.get(HEADER_BYTES..)?, MAX_VERSION_BYTES)?;
        let version = std::str::from_utf8(version).ok()?.to_owned();
        let module = inline_string(rest, MAX_MODULE_BYTES).map_or(&[][..], |(module, _)| module);
        Some(Self { version, settings: settings(module) })
    }

    /// Before Go 1.18 the blob points to the strings' headers: address and length, of 8 bytes each on the
    /// machines that are supported, which are little-endian.
    fn pointed_to(image: &Image<'_>, address: u64) -> Option<Self> {
        let header = image.pointer_at(address.checked_add(VERSION_POINTER)?)?;
        let (start, len) = (image.pointer_at(header)?, image.pointer_at(header.checked_add(8)?)?);
        let part = image.loaded(start)?.first(len);
        let bytes = part.prefix(MAX_VERSION_BYTES as u64).filter(|bytes| bytes.len() as u64 == len)?;
        let version = String::from_utf8(bytes).ok()?;
        Some(Self { version, settings: Vec::new() })
    }

    /// A build setting such as `GOARCH`, `-buildmode` or `CGO_ENABLED`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Lines `build\tKEY=VALUE` of the module data.
fn settings(module: &[u8]) -> Vec<(String, String)> {
    let text = module
        .get(SENTINEL_BYTES..module.len().saturating_sub(SENTINEL_BYTES))
        .map(String::from_utf8_lossy)
        .unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("build\t")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn inline_string(bytes: &[u8], max_len: usize) -> Option<(&[u8], &[u8])> {
    let (len, rest) = uvarint(bytes)?;
    rest.split_at_checked(usize::try_from(len).ok().filter(|&len| len <= max_len)?)
}

fn uvarint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    // 9 groups of 7 bits: longer strings than 2^63 bytes do not fit a file.
    for (index, &byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::allocator::elf::tests::image_of;
    use proptest::prelude::*;

    pub(crate) fn blob(version: &str, module: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, FLAG_INLINE]);
        bytes.resize(HEADER_BYTES, 0);
        bytes.push(version.len() as u8);
        bytes.extend(version.as_bytes());
        let framed = format!("{}{module}{}", "s".repeat(SENTINEL_BYTES), "e".repeat(SENTINEL_BYTES));
        bytes.extend([framed.len() as u8 | 0x80, (framed.len() >> 7) as u8]);
        bytes.extend(framed.as_bytes());
        bytes
    }

    pub(crate) const ADDRESS: u64 = 0x50_0000;

    fn find(bytes: &[u8]) -> Option<BuildInfo> {
        BuildInfo::find(&Image::parse(&image_of(&[(ADDRESS, 6, bytes)])).unwrap())
    }

    #[test]
    fn version_and_settings_are_read() {
        let module = "path\tcommand-line-arguments\nbuild\t-buildmode=pie\nbuild\tCGO_ENABLED=0\nbuild\tGOARCH=amd64\n";
        let info = find(&blob("go1.22.10", module)).unwrap();
        assert_eq!(info.version, "go1.22.10");
        assert_eq!(info.setting("-buildmode"), Some("pie"));
        assert_eq!(info.setting("CGO_ENABLED"), Some("0"));
        assert_eq!(info.setting("GOARCH"), Some("amd64"));
        assert_eq!(info.setting("GOOS"), None);
    }

    /// The blob, the version's header behind it, and the version behind that.
    pub(crate) fn old_blob(version: &str, header: u64) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, 0]].concat();
        bytes.extend([header, 0, ADDRESS + 48, version.len() as u64].iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(version.as_bytes());
        bytes
    }

    #[test]
    fn before_1_18_the_version_is_pointed_to() {
        assert_eq!(find(&old_blob("go1.17.13", ADDRESS + 32)).unwrap().version, "go1.17.13");
    }

    #[test]
    fn pointers_that_lead_nowhere_give_no_version() {
        for header in [0, ADDRESS + 40, ADDRESS + 1000, u64::MAX] {
            assert_eq!(find(&old_blob("go1.17.13", header)), None);
        }
    }

    proptest! {
        #[test]
        fn hostile_blobs_do_not_panic(
            old: bool, cut in 0usize..120, tail in proptest::collection::vec(any::<u8>(), 0..64), header: u64
        ) {
            let mut bytes =
                if old { old_blob("go1.17", header) } else { blob("go1.22.10", "build\tGOARCH=amd64\n") };
            bytes.truncate(cut);
            bytes.extend(tail);
            let _ = find(&bytes);
        }
    }
}
