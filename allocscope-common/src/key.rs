//! Keys of the kernel maps.

use crate::go_runtime::RuntimeEvent;
use crate::provider::ProviderEvent;
use core::fmt;

/// Which allocator served a call. Bounded: these are metric label values.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Allocator {
    /// Go's large-object path.
    Go = 1,
    /// An anonymous `mmap` with access, and its `munmap`.
    Mmap = 2,
    /// An anonymous `mmap` without access (`PROT_NONE`): address space, no memory yet.
    Reserve = 3,
    /// An anonymous `mmap` for a thread's stack (`MAP_STACK`).
    Stack = 4,
    /// `mremap` that grows or moves.
    Mremap = 5,
    /// `brk`, growing or shrinking.
    Brk = 6,
    /// `madvise(MADV_DONTNEED | MADV_FREE)`: memory given back, addresses kept.
    Madvise = 7,
    /// A file's mapping: no allocation, so nothing is counted for it. Its range is known all the same, so
    /// that its release is not taken for one of memory.
    File = 8,
    /// GNU libc's malloc and its family, whether served from its heap or by a mapping of its own.
    Glibc = 9,
    /// jemalloc's large path.
    Jemalloc = 10,
    /// mimalloc's generic path.
    Mimalloc = 11,
    /// tcmalloc's page heap.
    Tcmalloc = 12,
    /// musl's malloc.
    Musl = 13,
    /// A chunk of a Go arena (`GOEXPERIMENT=arenas`): 8 MiB that the arena's objects share.
    GoArena = 14,
    /// A program's own pools, arenas and regions, of which it tells by probes.
    Pool = 15,
    /// The malloc of a library or program that is none of these.
    Other = 16,
}

/// A stage of what an allocation costs.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The allocator's call or the system call.
    Call = 1,
    /// All page faults in the range, from the call to the release. Of an object in a heap, whose release is not
    /// seen, until its addresses serve again, and only where there were any.
    Touch = 2,
    /// The call that gives the memory back.
    Release = 3,
}

/// How a page fault was served.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// Without I/O.
    Minor = 0,
    /// With I/O (swap, file).
    Major = 1,
}

/// Whether a page fault's address lies in a live large range.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultScope {
    /// It does.
    Large = 0,
    /// It does not.
    Other = 1,
}

macro_rules! named {
    ($type:ty { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $type {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in metrics, JSON and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The value with this number; `None` where no value has it.
            pub const fn from_number(number: u8) -> Option<Self> {
                $(if number == Self::$variant as u8 { return Some(Self::$variant); })*
                None
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use named;

named!(Allocator {
    Go => "go", Mmap => "mmap", Reserve => "reserve", Stack => "stack", Mremap => "mremap",
    Brk => "brk", Madvise => "madvise", File => "file", Glibc => "glibc",
    Jemalloc => "jemalloc", Mimalloc => "mimalloc", Tcmalloc => "tcmalloc", Musl => "musl",
    GoArena => "go_arena", Pool => "pool", Other => "other",
});
named!(Stage { Call => "call", Touch => "touch", Release => "release" });
named!(FaultKind { Minor => "minor", Major => "major" });
named!(FaultScope { Large => "large", Other => "other" });

/// Log2 of an allocation's size, rounded down: class `c` holds 2^c to 2^(c+1)-1 bytes. 0 bytes is class 0.
#[inline(always)]
pub const fn size_class(bytes: u64) -> u8 {
    if bytes == 0 { 0 } else { 63 - bytes.leading_zeros() as u8 }
}

/// Names one series of a process: a stage of an allocator's size class, or a kind of page fault.
/// Made by [`SeriesKey::stage`] and [`SeriesKey::fault`], read by [`SeriesKey::decode`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The process' slot.
    pub slot: u32,
    stage: u8,
    allocator_or_kind: u8,
    size_class_or_scope: u8,
    reserved: u8,
}

/// A decoded [`SeriesKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Series {
    /// A stage of an allocator's size class.
    Stage {
        /// The allocator.
        allocator: Allocator,
        /// The stage.
        stage: Stage,
        /// Log2 of the size, rounded down, 0 to 63.
        size_class: u8,
    },
    /// Page faults of a kind and scope.
    Fault {
        /// Minor or major.
        kind: FaultKind,
        /// In a large range or not.
        scope: FaultScope,
    },
    /// Something that Go's runtime does.
    Runtime(RuntimeEvent),
    /// What a program tells of its own memory by a probe.
    Provider(ProviderEvent),
}

/// In place of a stage: this series counts page faults.
const FAULT: u8 = 0;
/// Likewise: this one counts what Go's runtime does.
const RUNTIME: u8 = 255;
/// Likewise: this one counts what a program tells of its own memory.
const PROVIDER: u8 = 254;

impl SeriesKey {
    /// The key of a stage.
    #[inline(always)]
    pub const fn stage(slot: u32, allocator: Allocator, stage: Stage, size_class: u8) -> Self {
        Self {
            slot,
            stage: stage as u8,
            allocator_or_kind: allocator as u8,
            size_class_or_scope: size_class,
            reserved: 0,
        }
    }

    /// The key of a stage whose allocator is known by number only, as a range keeps it.
    #[inline(always)]
    pub const fn stage_numbered(slot: u32, allocator: u8, stage: Stage, size_class: u8) -> Self {
        Self {
            slot,
            stage: stage as u8,
            allocator_or_kind: allocator,
            size_class_or_scope: size_class,
            reserved: 0,
        }
    }

    /// The key of a kind of page fault.
    #[inline(always)]
    pub const fn fault(slot: u32, kind: FaultKind, scope: FaultScope) -> Self {
        Self {
            slot,
            stage: FAULT,
            allocator_or_kind: kind as u8,
            size_class_or_scope: scope as u8,
            reserved: 0,
        }
    }

    /// The key as one word, for functions that take nothing else.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.slot as u64
            | (self.stage as u64) << 32
            | (self.allocator_or_kind as u64) << 40
            | (self.size_class_or_scope as u64) << 48
    }

    /// The key of a [`SeriesKey::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            slot: word as u32,
            stage: (word >> 32) as u8,
            allocator_or_kind: (word >> 40) as u8,
            size_class_or_scope: (word >> 48) as u8,
            reserved: 0,
        }
    }

    /// The key of what Go's runtime does.
    #[inline(always)]
    pub const fn runtime(slot: u32, event: u8) -> Self {
        Self { slot, stage: RUNTIME, allocator_or_kind: event, size_class_or_scope: 0, reserved: 0 }
    }

    /// The key of what a program tells of its own memory.
    #[inline(always)]
    pub const fn provider(slot: u32, event: u8) -> Self {
        Self { slot, stage: PROVIDER, allocator_or_kind: event, size_class_or_scope: 0, reserved: 0 }
    }

    /// What the key names; `None` where a field holds no known value.
    pub fn decode(&self) -> Option<Series> {
        if self.stage == FAULT {
            return Some(Series::Fault {
                kind: FaultKind::from_number(self.allocator_or_kind)?,
                scope: FaultScope::from_number(self.size_class_or_scope)?,
            });
        }
        if self.stage == RUNTIME {
            return RuntimeEvent::from_number(self.allocator_or_kind).map(Series::Runtime);
        }
        if self.stage == PROVIDER {
            return ProviderEvent::from_number(self.allocator_or_kind).map(Series::Provider);
        }
        Some(Series::Stage {
            allocator: Allocator::from_number(self.allocator_or_kind)?,
            stage: Stage::from_number(self.stage)?,
            size_class: (self.size_class_or_scope < 64).then_some(self.size_class_or_scope)?,
        })
    }
}

/// Names one histogram bucket of a series.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey {
    /// The series.
    pub series: SeriesKey,
    /// The bucket, see [`crate::bucket`].
    pub bucket: u32,
}

/// An address space: a process' slot and the number of its image (see [`crate::config::Image`]). Ranges of an old
/// image can never be taken for ranges of a new one.
#[inline(always)]
pub const fn space(slot: u32, image: u32) -> u32 {
    slot << 16 | image & 0xffff
}

/// The slot of an address space made by [`space`].
#[inline(always)]
pub const fn slot_of_space(space: u32) -> u32 {
    space >> 16
}

/// Names a granule of an address space (class 12 to 43), or with class 0 a live range by its start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeKey {
    /// See [`space`].
    pub space: u32,
    /// The granule's class, or 0.
    pub class: u32,
    /// The granule's index, or the range's first address.
    pub index: u64,
}

const _: () = assert!(size_of::<SeriesKey>() == 8);
const _: () = assert!(size_of::<BucketKey>() == 12);
const _: () = assert!(size_of::<RangeKey>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_decode_to_what_made_them() {
        for &allocator in Allocator::ALL {
            for &stage in Stage::ALL {
                let key = SeriesKey::stage(7, allocator, stage, 26);
                assert_eq!(key.decode(), Some(Series::Stage { allocator, stage, size_class: 26 }));
                assert_eq!(SeriesKey::from_word(key.word()), key);
            }
        }
        for &kind in FaultKind::ALL {
            for &scope in FaultScope::ALL {
                assert_eq!(SeriesKey::fault(7, kind, scope).decode(), Some(Series::Fault { kind, scope }));
            }
        }
        for &event in RuntimeEvent::ALL {
            assert_eq!(SeriesKey::runtime(7, event as u8).decode(), Some(Series::Runtime(event)));
        }
        for &event in ProviderEvent::ALL {
            assert_eq!(SeriesKey::provider(7, event as u8).decode(), Some(Series::Provider(event)));
        }
        assert_eq!(SeriesKey::stage_numbered(0, 200, Stage::Call, 1).decode(), None);
        assert_eq!(SeriesKey::stage_numbered(0, 1, Stage::Call, 64).decode(), None);
    }

    #[test]
    fn size_classes_round_down() {
        assert_eq!(size_class(0), 0);
        assert_eq!(size_class(1), 0);
        assert_eq!(size_class(65_535), 15);
        assert_eq!(size_class(65_536), 16);
        assert_eq!(size_class(u64::MAX), 63);
    }

    #[test]
    fn a_space_keeps_its_slot() {
        assert_eq!(slot_of_space(space(65_535, 70_000)), 65_535);
        assert_ne!(space(1, 0), space(1, 1));
    }
}
