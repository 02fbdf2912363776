//! What `advice` has to say of a process, as data that every exporter can tell.

use allocscope_common::key::Allocator;

/// A kind of finding. Bounded: these are metric label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingKind {
    /// The same memory is given back and faulted in again and again.
    ThresholdChurn,
    /// First touch by 4 KiB pages where huge ones would be cheaper.
    HugePages,
    /// Far more is asked for than is ever touched.
    OverAllocation,
    /// Giving memory back takes a lot of time, or holds other threads up.
    ReleaseStorm,
}

impl FindingKind {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::ThresholdChurn, Self::HugePages, Self::OverAllocation, Self::ReleaseStorm];

    /// The name in metrics, JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThresholdChurn => "threshold_churn",
            Self::HugePages => "huge_pages",
            Self::OverAllocation => "over_allocation",
            Self::ReleaseStorm => "release_storm",
        }
    }
}

/// Something that a process could save, what that rests on, and how to get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// Whose memory it is about.
    pub allocator: Allocator,
    /// The size classes it is about (log2 of the size, rounded down), in order.
    pub size_classes: Vec<u8>,
    /// Time that the process would save, in seconds per second; `None` where no time is claimed. Findings of
    /// one process overlap: what one saves another cannot save again.
    pub recoverable: Option<f64>,
    /// What happens, in a sentence.
    pub summary: String,
    /// The numbers it rests on.
    pub figures: Vec<Figure>,
    /// What ends it.
    pub setting: Setting,
    /// What may become worse.
    pub risk: String,
    /// How to see whether it helped.
    pub check: String,
}

/// A number under a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its name, with the unit.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

/// What to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Environment variables that do it, with their values; none where the program itself has to change.
    pub environment: Vec<(&'static str, String)>,
    /// The same in words, with what to mind.
    pub text: String,
}
