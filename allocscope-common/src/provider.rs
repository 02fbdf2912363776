//! Statically defined probes of programs that tell of their own memory: which ones, and the attach cookie of each.
//!
//! The provider `allocscope` (`pool/probe.rs`) tells what took time when it is over: bytes in the first argument
//! register, nanoseconds in the second, an address in the third.
//!
//! The provider `otel_memory` is OpenTelemetry's contract for allocators (memory profiling of opentelemetry-ebpf-profiler):
//! `alloc(pointer, size, weight)` for each allocation that the program samples, where the weight is the bytes of all
//! allocations that the sample stands for, and `free(pointer)` for each of those that is freed.

use crate::cookie::Field;
use crate::key::named;
use crate::operand::Operand;
use crate::site_id::StepClass;
use core::fmt;

/// What a probe of the provider tells. Each is a series of its process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProviderEvent {
    /// A pool had nothing to give and made a value.
    PoolMiss = 0,
    /// A pool gave what another thread had put back.
    PoolSteal = 1,
    /// A pool let values go.
    PoolEvict = 2,
    /// An arena got one more chunk.
    ArenaGrow = 3,
    /// A region's memory became usable.
    RegionMap = 4,
    /// It was given back.
    RegionRelease = 5,
    /// A circuit breaker changed its state, which is in the size's place.
    Breaker = 6,
    /// `otel_memory:alloc`: an allocation was sampled. Its size is what the sample stands for.
    OtelAlloc = 7,
    /// `otel_memory:free`: one that was sampled is freed.
    OtelFree = 8,
}

named!(ProviderEvent {
    PoolMiss => "pool_miss", PoolSteal => "pool_steal", PoolEvict => "pool_evict", ArenaGrow => "arena_grow",
    RegionMap => "region_map", RegionRelease => "region_release", Breaker => "breaker",
    OtelAlloc => "otel_alloc", OtelFree => "otel_free",
});

impl ProviderEvent {
    /// Whether it stands for memory that was got. What a pool makes gets its memory from an allocator or an arena,
    /// where it is counted; the address that is told is the pool's.
    #[inline(always)]
    pub const fn is_allocation(event: u8) -> bool {
        event == Self::ArenaGrow as u8 || event == Self::RegionMap as u8
    }

    /// Whether it is of the provider `otel_memory`: something that a program sampled, which takes no time.
    pub const fn is_sample(self) -> bool {
        matches!(self, Self::OtelAlloc | Self::OtelFree)
    }

    /// Whether it tells of bytes.
    pub const fn has_bytes(self) -> bool {
        !matches!(self, Self::Breaker | Self::OtelFree)
    }
}

/// The identity of a provider's probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProviderId {
    /// What it tells.
    pub event: ProviderEvent,
    /// How the kernel runs the instruction.
    pub step: StepClass,
    /// Where its bytes are, for [`ProviderEvent::OtelAlloc`]: what the sample stands for.
    pub weight: Option<Operand>,
}

// Where a cookie has what.
const EVENT: Field = Field::new(0, 8);
const STEP: Field = Field::new(8, 8);

impl ProviderId {
    /// The attach cookie.
    pub const fn to_cookie(self) -> u64 {
        let weight = match self.weight {
            Some(operand) => operand.to_cookie(),
            None => 0,
        };
        EVENT.put(self.event as u64) | STEP.put(self.step as u64) | weight
    }
}

/// The event in a cookie, as a number.
#[inline(always)]
pub const fn event_of(cookie: u64) -> u8 {
    EVENT.get(cookie) as u8
}

/// The step class in a cookie, as a number.
#[inline(always)]
pub const fn step_of(cookie: u64) -> u8 {
    STEP.get(cookie) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operand::{self, Register, Scalar, Width};

    #[test]
    fn a_cookie_carries_every_field() {
        for &event in ProviderEvent::ALL {
            let scalar = Scalar { width: Width::Word, signed: false };
            let weight = Operand::Memory { base: Register::R15, displacement: -1, scalar };
            let id = ProviderId { event, step: StepClass::Called, weight: Some(weight) };
            let cookie = id.to_cookie();
            assert_eq!(operand::displacement_of(cookie), u64::MAX);
            assert_eq!(operand::kind_of(ProviderId { weight: None, ..id }.to_cookie()), operand::NONE);
            assert_eq!((event_of(cookie), step_of(cookie)), (event as u8, StepClass::Called as u8));
            assert_eq!(ProviderEvent::from_number(event_of(cookie)), Some(event));
        }
    }
}
