//! `aya::Pod` for every type that crosses the boundary.

use crate::allocation::AllocationKey;
use crate::cell::{CountCell, TotalsCell};
use crate::config::{Image, Target};
use crate::counter::{LiveRange, ProcessCounters};
use crate::depth::{DepthCounts, DepthKey};
use crate::event::ProcessEvent;
use crate::go_runtime::GoStop;
use crate::key::{BucketKey, RangeKey, SeriesKey};
use crate::object::Object;
use crate::range::Granule;
use crate::touch::Touch;

macro_rules! pod {
    ($($type:ty),* $(,)?) => {
        // SAFETY: each type is repr(C), Copy, without padding (sizes asserted beside it), and every
        // bit pattern is a valid value of its integer fields.
        $(unsafe impl aya::Pod for $type {})*
    };
}

pod!(
    AllocationKey,
    BucketKey,
    CountCell,
    DepthCounts,
    DepthKey,
    GoStop,
    Granule,
    Image,
    LiveRange,
    Object,
    ProcessCounters,
    ProcessEvent,
    RangeKey,
    SeriesKey,
    Target,
    TotalsCell,
    Touch
);
