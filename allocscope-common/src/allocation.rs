//! Ring records about single allocations: a call with its stack, and what its memory cost afterwards.
//!
//! An allocation is named by its process' slot and the time at which its memory was filed. Records of calls come in
//! two sizes, by the kind of stack that they carry; whatever else is told of an allocation is an
//! [`AllocationRecord`] alone.

use crate::cause::CAUSES;
use crate::key::named;
use core::fmt;

/// Bytes of a thread's stack that a record holds at most, from the stack pointer upwards.
pub const MAX_STACK_BYTES: usize = 16_384;

/// Frames that a stack has at most where they are told apart by frame pointers (the kernel's own default limit).
pub const MAX_FRAMES: usize = 127;

/// What the kernel side records about single allocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Recording {
    /// Nothing.
    #[default]
    Off = 0,
    /// Those that are slow.
    Slow = 1,
    /// All, or a known share of them.
    All = 2,
}

/// Set in the word that names the allocator of a live range or object: a record has told its call, and another is to
/// tell what comes.
pub const MARKED: u64 = 1 << 8;

/// In [`Recording::Slow`], calls for so many bytes have their stack taken whatever they took: first touch of fewer
/// is rarely slow, and of more it takes a hundred times as long as taking a stack.
pub const STACK_BYTES: u64 = 1 << 20;

/// What a record tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AllocationEvent {
    /// Its call has ended.
    Call = 1,
    /// No more first touches of it are counted.
    Touch = 2,
    /// Its memory was given back.
    Release = 3,
    /// `mremap` moved it: `at_ns` is the time it was filed before.
    Move = 4,
}

named!(AllocationEvent { Call => "call", Touch => "touch", Release => "release", Move => "move" });

/// Something about an allocation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocationRecord {
    /// [`AllocationEvent`] as a number.
    pub event: u32,
    /// The process' slot.
    pub slot: u32,
    /// The process.
    pub tgid: u32,
    /// The thread that ran into the event.
    pub tid: u32,
    /// When its memory was filed, in nanoseconds since boot; with the slot, its name.
    pub filed_ns: u64,
    /// Bytes that were asked for.
    pub size: u64,
    /// When the event was over, in nanoseconds since boot.
    pub at_ns: u64,
    /// Time of the call, of all page faults or of the release, in nanoseconds.
    pub ns: u64,
    /// Page faults, for [`AllocationEvent::Touch`].
    pub faults: u64,
    /// The goroutine's number; 0 outside of Go.
    pub goroutine: u64,
    /// [`crate::key::Allocator`] as a number.
    pub allocator: u32,
    /// Calls that this one stands for, itself included.
    pub weight: u32,
    /// Where the time went, in nanoseconds, by [`crate::cause::Cause`]; all 0 where that was not told apart.
    pub causes: [u64; CAUSES],
}

/// Names an allocation: its process' slot, and when its memory was filed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AllocationKey {
    /// The slot.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
    /// Nanoseconds since boot.
    pub filed_ns: u64,
}

impl AllocationKey {
    /// Of what was filed at `filed_ns` in the process in `slot`.
    pub const fn new(slot: u32, filed_ns: u64) -> Self {
        Self { slot, reserved: 0, filed_ns }
    }
}

/// Allocations whose page faults are kept by cause: those with the latest fault that was anything but service. Of
/// another one they are told as service.
pub const TOUCH_CAUSES: u32 = 16_384;

/// Where a thread stood, and how much of its stack follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackHead {
    /// Bytes that follow and are valid.
    pub bytes: u64,
    /// The program counter.
    pub ip: u64,
    /// The stack pointer: the address of the first byte that follows a native call.
    pub sp: u64,
    /// The frame pointer, where the code keeps one.
    pub fp: u64,
}

/// A call whose frames were told apart by frame pointers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FramesRecord {
    /// The call.
    pub record: AllocationRecord,
    /// How many bytes of `frames` are valid.
    pub head: StackHead,
    /// Program counters, the innermost first.
    pub frames: [u64; MAX_FRAMES],
}

/// A call with a copy of its thread's stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackRecord {
    /// The call.
    pub record: AllocationRecord,
    /// How many bytes of `stack` are valid, and the registers.
    pub head: StackHead,
    /// The stack, from its pointer upwards.
    pub stack: [u8; MAX_STACK_BYTES],
}

const _: () = assert!(size_of::<AllocationRecord>() == 72 + 8 * CAUSES);
const _: () = assert!(size_of::<AllocationKey>() == 16);
const _: () = assert!(size_of::<StackHead>() == 32);
const _: () = assert!(size_of::<FramesRecord>() == size_of::<AllocationRecord>() + 32 + 127 * 8);
const _: () = assert!(size_of::<StackRecord>() == size_of::<AllocationRecord>() + 32 + MAX_STACK_BYTES);
const _: () = assert!(size_of::<FramesRecord>() != size_of::<StackRecord>());
