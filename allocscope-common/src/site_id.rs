//! (function, role, price, where the result is) to the 64-bit BPF cookie of a probe and back.

use crate::cookie::Field;

/// A probed function of an allocator's large-object path.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Function {
    /// Go's `runtime.(*mcache).allocLarge(size uintptr, noscan bool) *mspan`, and the code in its caller.
    GoAllocLarge = 1,
    /// Go's `runtime.mallocgcLarge(size uintptr, typ *_type, needzero bool) (unsafe.Pointer, uintptr)`.
    GoMallocLarge = 2,
    /// Go's `runtime.newUserArenaChunk() (unsafe.Pointer, *mspan)`.
    GoArenaChunk = 3,
    /// A function of Go's runtime or of `sync.Pool` beside the large-object path: its role tells what it means.
    GoRuntime = 4,
    /// allocscope's own, called to learn what a hit costs.
    Own = 255,
}

/// What a probe does when it fires.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Opens a call.
    Entry = 1,
    /// Closes a call.
    Exit = 2,
    /// The call has begun to start a collection.
    GcStart = 3,
    /// The call has begun to clear the object's memory: its address is known now.
    Zeroing = 4,
    /// A goroutine begins to mark in return for memory (`gcAssistAlloc`). `frame_bytes` reach to the entry of the
    /// `mallocgc` that it does so for.
    Assist = 5,
    /// It has done so where the probed jump goes as the argument says.
    AssistEnd = 6,
    /// The heap is asked to grow; on the thread's own stack, as all whose argument is the place of `m.curg`.
    Grow = 7,
    /// Pages are swept in return for pages; likewise.
    Reclaim = 8,
    /// The heap has grown; likewise.
    Grown = 22,
    /// The pages are swept; likewise.
    Reclaimed = 9,
    /// Spans are swept in return for a large object's pages, on the goroutine's own stack.
    Sweep = 10,
    /// That is over.
    Swept = 11,
    /// The world is told to stop; the argument is the place of `m.curg`, and 1 more where rax holds what for.
    StopBegin = 12,
    /// It has stopped; the argument is the place of `m.curg`.
    Stopped = 13,
    /// It is told to run again; likewise.
    Restart = 14,
    /// It runs again.
    Started = 15,
    /// A collection's marking ends.
    Cycle = 21,
    /// Memory goes back to the system: rbx bytes.
    Scavenge = 16,
    /// `sync.Pool.getSlow` begins.
    PoolSlowGet = 17,
    /// `sync.Pool.Get` calls `New` where the probed jump goes as the argument says.
    PoolNew = 18,
    /// All pools are cleaned: rcx pools have something.
    PoolCleanup = 19,
    /// `sync.Pool.Get` begins.
    PoolGet = 20,
}

/// How the kernel runs the probed instruction, which decides what a hit costs.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepClass {
    /// The kernel emulates it: one trap.
    Emulated = 1,
    /// The kernel single-steps a copy of it: two traps, some twenty times dearer in a VM.
    Stepped = 2,
    /// It makes a call of it (a 5-byte `nop`, Linux 6.18): no trap.
    Called = 3,
}

/// Where the function's result is when an exit probe fires.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResultPlace {
    /// Not known at this site: the call is timed, its address is not learned.
    Unknown = 0,
    /// In the first result register (rax; x0 on AArch64).
    Register = 1,
    /// In memory, `offset` bytes above the stack pointer.
    Stack = 2,
}

/// The identity of one probe, as the kernel side gets it from the attach cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SiteId {
    /// The probed function.
    pub function: Function,
    /// What the probe does.
    pub role: Role,
    /// How the kernel runs the instruction.
    pub step: StepClass,
    /// Where the result is, for an exit.
    pub result: ResultPlace,
    /// Bytes from the stack pointer at the site to the stack pointer at function entry: what the
    /// prologue has taken so far. Makes the stack depth at entry and exit the same number.
    pub frame_bytes: u16,
    /// Bytes above the stack pointer at the site, for [`ResultPlace::Stack`]; at a place of Go's runtime what its
    /// [`Role`] says, its argument.
    pub result_offset: u16,
}

// Where a cookie has what.
const FUNCTION: Field = Field::new(0, 8);
const ROLE: Field = Field::new(8, 8);
const STEP: Field = Field::new(16, 8);
const RESULT: Field = Field::new(24, 8);
const FRAME_BYTES: Field = Field::new(32, 16);
const RESULT_OFFSET: Field = Field::new(48, 16);

impl SiteId {
    /// The attach cookie.
    pub const fn to_cookie(self) -> u64 {
        FUNCTION.put(self.function as u64)
            | ROLE.put(self.role as u64)
            | STEP.put(self.step as u64)
            | RESULT.put(self.result as u64)
            | FRAME_BYTES.put(self.frame_bytes as u64)
            | RESULT_OFFSET.put(self.result_offset as u64)
    }
}

/// The function in a cookie, as a raw number.
#[inline(always)]
pub const fn function_of(cookie: u64) -> u8 {
    FUNCTION.get(cookie) as u8
}

/// The role in a cookie, as a raw number.
#[inline(always)]
pub const fn role_of(cookie: u64) -> u8 {
    ROLE.get(cookie) as u8
}

/// The step class in a cookie, as a raw number.
#[inline(always)]
pub const fn step_of(cookie: u64) -> u8 {
    STEP.get(cookie) as u8
}

/// The result place in a cookie, as a raw number.
#[inline(always)]
pub const fn result_of(cookie: u64) -> u8 {
    RESULT.get(cookie) as u8
}

/// Bytes from the stack pointer at the site to the stack pointer at function entry.
#[inline(always)]
pub const fn frame_bytes_of(cookie: u64) -> u64 {
    FRAME_BYTES.get(cookie)
}

/// Bytes above the stack pointer where the result is kept.
#[inline(always)]
pub const fn result_offset_of(cookie: u64) -> u64 {
    RESULT_OFFSET.get(cookie)
}

/// The argument of a conditional jump's site: it means something where the jump is taken, or where it is not.
#[inline(always)]
pub const fn jump_argument(code: u8, taken: bool) -> u16 {
    (code & 0xf) as u16 | (taken as u16) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_carries_every_field() {
        let id = SiteId {
            function: Function::GoAllocLarge,
            role: Role::Exit,
            step: StepClass::Stepped,
            result: ResultPlace::Stack,
            frame_bytes: 0x1234,
            result_offset: 0xfff8,
        };
        let cookie = id.to_cookie();
        assert_eq!(function_of(cookie), Function::GoAllocLarge as u8);
        assert_eq!(role_of(cookie), Role::Exit as u8);
        assert_eq!(step_of(cookie), StepClass::Stepped as u8);
        assert_eq!(result_of(cookie), ResultPlace::Stack as u8);
        assert_eq!(frame_bytes_of(cookie), 0x1234);
        assert_eq!(result_offset_of(cookie), 0xfff8);
    }
}
