//! (allocator, where the size is, what is returned, price) of a native probe site to the 64-bit BPF cookie and back.

use crate::cookie::Field;
use crate::key::Allocator;
use crate::site_id::StepClass;

/// An argument of the C calling convention, by position from 0: rdi, rsi, rdx, rcx, r8 on x86-64, x0 to x7 on AArch64.
pub type Argument = u8;

/// In place of an argument: there is none.
pub const NO_ARGUMENT: Argument = 0xf;

/// What a probed function returns.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NativeResult {
    /// The address of the allocated bytes, or null.
    Pointer = 1,
    /// The same, behind the header of a glibc chunk (malloc.c, `struct malloc_chunk`), which tells whether
    /// the chunk is a mapping of its own.
    GlibcChunk = 2,
    /// A gperftools `Span *`: its first two words are the first page and the number of pages.
    TcmallocSpan = 3,
    /// The same, of a function that aligns nothing: a mapping of its own begins right at the header.
    GlibcNewChunk = 5,
    /// 0, with the address stored where the first argument points (`posix_memalign`).
    Status = 4,
    /// Nothing: the argument in the size's place is the address of what is given back.
    FreedPointer = 6,
    /// Nothing: that argument is a jemalloc `edata_t *` (`extent_t *` before 5.3), whose second word is the address.
    FreedExtent = 7,
    /// Nothing: that argument is a gperftools `Span *`.
    FreedSpan = 8,
}

impl NativeResult {
    /// Whether the function gives memory back.
    pub const fn is_release(self) -> bool {
        releases(self as u8)
    }
}

/// Whether a function with this kind of result gives memory back.
#[inline(always)]
pub const fn releases(result: u8) -> bool {
    result >= NativeResult::FreedPointer as u8
}

/// The identity of a probe at a native allocator's function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NativeId {
    /// The allocator.
    pub allocator: Allocator,
    /// How the kernel runs the instruction.
    pub step: StepClass,
    /// The argument that holds the size.
    pub size: Argument,
    /// The argument that the size is to be multiplied with (`calloc`), or [`NO_ARGUMENT`].
    pub times: Argument,
    /// The size is in units of 2^shift bytes, 0 to 63.
    pub shift: u8,
    /// Whether its first argument is memory that the call may move (`realloc`).
    pub resizes: bool,
    /// Whether it may end in a jump to another function, which then returns in its place.
    pub hands_on: bool,
    /// What is returned.
    pub result: NativeResult,
    /// Smaller sizes are none of this function's objects, in KiB, below 2^24.
    pub min_kib: u32,
}

// Where a cookie has what.
const ALLOCATOR: Field = Field::new(0, 8);
const STEP: Field = Field::new(8, 8);
const SIZE: Field = Field::new(16, 4);
const TIMES: Field = Field::new(20, 4);
const SHIFT: Field = Field::new(24, 6);
const RESIZES: Field = Field::new(30, 1);
const HANDS_ON: Field = Field::new(31, 1);
const RESULT: Field = Field::new(32, 7);
/// 1 where the call's return is seen by plain probes at its callers, not by a return probe.
const AT_CALLERS: Field = Field::new(39, 1);
const MIN_KIB: Field = Field::new(40, 24);

impl NativeId {
    /// The attach cookie.
    pub const fn to_cookie(self) -> u64 {
        ALLOCATOR.put(self.allocator as u64)
            | STEP.put(self.step as u64)
            | SIZE.put(self.size as u64)
            | TIMES.put(self.times as u64)
            | SHIFT.put(self.shift as u64)
            | RESIZES.put(self.resizes as u64)
            | HANDS_ON.put(self.hands_on as u64)
            | RESULT.put(self.result as u64)
            | MIN_KIB.put(self.min_kib as u64)
    }

    /// The attach cookie where returns are seen by plain probes at the callers.
    pub const fn to_cookie_at_callers(self) -> u64 {
        self.to_cookie() | AT_CALLERS.put(1)
    }
}

/// Whether the call's return is seen at its callers.
#[inline(always)]
pub const fn is_at_callers(cookie: u64) -> bool {
    AT_CALLERS.get(cookie) != 0
}

/// The allocator in a cookie, as a number.
#[inline(always)]
pub const fn allocator_of(cookie: u64) -> u8 {
    ALLOCATOR.get(cookie) as u8
}

/// The step class in a cookie, as a number.
#[inline(always)]
pub const fn step_of(cookie: u64) -> u8 {
    STEP.get(cookie) as u8
}

/// The argument with the size.
#[inline(always)]
pub const fn size_of(cookie: u64) -> Argument {
    SIZE.get(cookie) as Argument
}

/// The argument to multiply with, or [`NO_ARGUMENT`].
#[inline(always)]
pub const fn times_of(cookie: u64) -> Argument {
    TIMES.get(cookie) as Argument
}

/// The size's unit, as a power of two.
#[inline(always)]
pub const fn shift_of(cookie: u64) -> u32 {
    SHIFT.get(cookie) as u32
}

/// Whether the first argument is memory that the call may move.
#[inline(always)]
pub const fn resizes(cookie: u64) -> bool {
    RESIZES.get(cookie) != 0
}

/// Whether the function may end in a jump to another one.
#[inline(always)]
pub const fn hands_on(cookie: u64) -> bool {
    HANDS_ON.get(cookie) != 0
}

/// The kind of result, as a number.
#[inline(always)]
pub const fn result_of(cookie: u64) -> u8 {
    RESULT.get(cookie) as u8
}

/// The smallest size in bytes.
#[inline(always)]
pub const fn min_bytes_of(cookie: u64) -> u64 {
    MIN_KIB.get(cookie) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_carries_every_field() {
        let id = NativeId {
            allocator: Allocator::Tcmalloc,
            step: StepClass::Stepped,
            size: 1,
            times: NO_ARGUMENT,
            shift: 13,
            resizes: true,
            hands_on: true,
            result: NativeResult::TcmallocSpan,
            min_kib: 0xab_cdef,
        };
        let cookie = id.to_cookie();
        assert_eq!(allocator_of(cookie), Allocator::Tcmalloc as u8);
        assert_eq!(step_of(cookie), StepClass::Stepped as u8);
        assert_eq!((size_of(cookie), times_of(cookie), shift_of(cookie)), (1, NO_ARGUMENT, 13));
        assert!(resizes(cookie) && !resizes(NativeId { resizes: false, ..id }.to_cookie()));
        assert!(hands_on(cookie) && !hands_on(NativeId { hands_on: false, ..id }.to_cookie()));
        assert_eq!(result_of(cookie), NativeResult::TcmallocSpan as u8);
        assert_eq!(min_bytes_of(cookie), 0xab_cdef * 1024);
        assert!(!id.result.is_release() && NativeResult::FreedExtent.is_release());
        assert!(!is_at_callers(cookie) && is_at_callers(id.to_cookie_at_callers()));
        assert_eq!(result_of(id.to_cookie_at_callers()), NativeResult::TcmallocSpan as u8);
    }
}
