//! A Go binary into its version and the probe sites of its large-object path.

pub mod buildinfo;
pub mod pclntab;
pub mod version;
