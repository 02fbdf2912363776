//! The version string of a Go toolchain into numbers that can be compared.

use std::fmt;

/// The oldest and newest minor versions whose runtime layout is known.
const SUPPORTED_MINORS: std::ops::RangeInclusive<u16> = 17..=27;

/// A Go release, such as 1.22.10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoVersion {
    /// 22 of 1.22.10.
    pub minor: u16,
    /// 10 of 1.22.10; 0 where the string has none.
    pub patch: u16,
    /// The release as one word without vendor suffixes and experiments: `go1.22.10`, `go1.27rc1`.
    pub name: String,
    /// Built from a development tree: the minor version is the one in development.
    pub development: bool,
}

impl GoVersion {
    /// Reads strings such as `go1.22.10`, `go1.27rc1`, `go1.21.3 X:arenas`, `go1.19.8-vendor` and
    /// `devel go1.23-1a2b3c4 Tue Mar 5`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let first = words.next()?;
        let development = first == "devel";
        let word = if development { words.next()? } else { first };
        let rest = word.strip_prefix("go1.")?;
        let (minor, rest) = number(rest)?;
        let (patch, rest) = match rest.strip_prefix('.').and_then(number) {
            Some(found) => found,
            None => (0, rest),
        };
        let name_len = word.len() - rest.len() + pre_release_len(rest);
        Some(Self { minor, patch, name: word.get(..name_len)?.to_owned(), development })
    }

    /// Offset of `m.curg`, in bytes, in a supported version: as the DWARF of programs of 1.17 to 1.24 and 1.25 to 1.27
    /// tells.
    pub fn curg_offset(&self) -> u16 {
        if self.minor >= 25 { 184 } else { 192 }
    }

    /// Offset of `g.goid`, in bytes, in a supported version: as the DWARF of programs of 1.17 to 1.27 tells.
    pub fn goid_offset(&self) -> u16 {
        if matches!(self.minor, 23 | 24) { 160 } else { 152 }
    }

    /// Whether the runtime's large-object path is known in this version.
    pub fn is_supported(&self) -> bool {
        SUPPORTED_MINORS.contains(&self.minor)
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text.get(..end)?.parse().ok()?, text.get(end..)?))
}

/// The length of a leading `rc1` or `beta2`.
fn pre_release_len(text: &str) -> usize {
    ["rc", "beta"]
        .iter()
        .find_map(|kind| {
            let digits = text.strip_prefix(kind)?;
            let (_, rest) = number(digits)?;
            Some(text.len() - rest.len())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_toolchains_write_them() {
        for (text, minor, patch, name) in [
            ("go1.22.10", 22, 10, "go1.22.10"),
            ("go1.22", 22, 0, "go1.22"),
            ("go1.27rc1", 27, 0, "go1.27rc1"),
            ("go1.21beta2", 21, 0, "go1.21beta2"),
            ("go1.21.3 X:arenas,noloopvar", 21, 3, "go1.21.3"),
            ("go1.25.5-X:nogreenteagc", 25, 5, "go1.25.5"),
            ("go1.19.8-vendor3", 19, 8, "go1.19.8"),
            ("go1.20.12 (Red Hat 1.20.12-1)", 20, 12, "go1.20.12"),
            ("devel go1.23-1a2b3c4 Tue Mar 5 10:00:00 2024", 23, 0, "go1.23"),
        ] {
            let version = GoVersion::parse(text).unwrap();
            assert_eq!((version.minor, version.patch, version.name.as_str()), (minor, patch, name), "{text}");
            assert_eq!(version.development, text.starts_with("devel"));
        }
    }

    #[test]
    fn other_strings_are_no_version() {
        for text in ["", "go", "go2.1", "go1.", "go1.x", "devel", "devel +1a2b3c4", "go1.99999999999", "1.22"]
        {
            assert_eq!(GoVersion::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_supported_range_is_1_17_to_1_27() {
        let supported = |text| GoVersion::parse(text).unwrap().is_supported();
        assert!(supported("go1.17") && supported("go1.27.3"));
        assert!(!supported("go1.16.15") && !supported("go1.28rc1"));
    }
}
