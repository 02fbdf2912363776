//! Ring records about single allocations into values that are checked.

use allocscope_common::allocation::{
    AllocationEvent, AllocationKey, AllocationRecord, FramesRecord, MAX_FRAMES, MAX_STACK_BYTES, StackRecord,
};
use allocscope_common::cause::CAUSES;
use allocscope_common::key::Allocator;
use allocscope_common::phases::Split;
use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, RingBuf};

/// The ring of single allocations.
pub type Allocations = RingBuf<MapData>;

/// What page faults of single allocations spent on causes other than their service.
pub struct TouchCauses(HashMap<MapData, AllocationKey, Split>);

impl TouchCauses {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// Where the object lacks it.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf.take_map("TOUCH_CAUSES").context("the object has no map TOUCH_CAUSES")?;
        Ok(Self(HashMap::try_from(map)?))
    }

    /// Those of one allocation, in nanoseconds by [`allocscope_common::cause::Cause`]; `None` where there are none.
    pub fn of(&self, name: Name) -> Option<Split> {
        self.0.get(&AllocationKey::new(name.slot, name.filed_ns), 0).ok()
    }
}

/// Something about an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which allocation.
    pub name: Name,
    /// What happened to it.
    pub event: AllocationEvent,
    /// The process.
    pub pid: u32,
    /// The thread that ran into the event.
    pub tid: u32,
    /// The goroutine's number; 0 outside of Go.
    pub goroutine: u64,
    /// Who allocated.
    pub allocator: Allocator,
    /// Bytes that were asked for.
    pub size: u64,
    /// When the event was over, in nanoseconds since boot; of a move, when it was filed before.
    pub at_ns: u64,
    /// Time of the stage, in nanoseconds.
    pub ns: u64,
    /// Page faults.
    pub faults: u64,
    /// Calls that this one stands for, at least 1.
    pub weight: u64,
    /// Where the time went, by [`allocscope_common::cause::Cause`]; all 0 where that is not known.
    pub causes: [u64; CAUSES],
    /// The stack of a call.
    pub stack: Option<Stack>,
}

/// Names an allocation: its process' slot, and when its memory was filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The slot.
    pub slot: u32,
    /// Nanoseconds since boot.
    pub filed_ns: u64,
}

/// A thread's stack as the kernel side took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Program counters that frame pointers led to, the innermost first.
    Frames(Vec<u64>),
    /// Registers and bytes, to be unwound.
    Copy(StackCopy),
}

/// A piece of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackCopy {
    /// The program counter.
    pub ip: u64,
    /// The stack pointer: where `bytes` begin.
    pub sp: u64,
    /// The frame pointer, if the code keeps one.
    pub fp: u64,
    /// The stack from its pointer upwards.
    pub bytes: Vec<u8>,
}

impl StackCopy {
    /// The word at an address, if it was copied.
    pub fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.sp)?).ok()?;
        word(&self.bytes, at)
    }
}

/// Where the head of a stack begins: behind the record.
const HEAD: usize = size_of::<AllocationRecord>();
/// Where the stack itself begins: behind `bytes`, `ip`, `sp` and `fp`.
const STACK: usize = HEAD + 32;

/// A record out of the ring; `None` where it has another size or names nothing known.
pub fn decode_told(record: &[u8]) -> Option<Told> {
    let sizes = [size_of::<AllocationRecord>(), size_of::<FramesRecord>(), size_of::<StackRecord>()];
    if !sizes.contains(&record.len()) {
        return None;
    }
    let number = |at: usize| half(record, at);
    let value = |index: usize| word(record, 16 + 8 * index);
    let mut causes = [0; CAUSES];
    for (cause, ns) in causes.iter_mut().enumerate() {
        *ns = word(record, 72 + 8 * cause)?;
    }
    Some(Told {
        event: AllocationEvent::from_number(u8::try_from(number(0)?).ok()?)?,
        name: Name { slot: number(4)?, filed_ns: value(0)? },
        pid: number(8)?,
        tid: number(12)?,
        size: value(1)?,
        at_ns: value(2)?,
        ns: value(3)?,
        faults: value(4)?,
        goroutine: value(5)?,
        allocator: Allocator::from_number(u8::try_from(number(64)?).ok()?)?,
        weight: u64::from(number(68)?.max(1)),
        causes,
        stack: stack(record),
    })
}

fn stack(record: &[u8]) -> Option<Stack> {
    let bytes = usize::try_from(word(record, HEAD)?).ok()?;
    if record.len() == size_of::<FramesRecord>() {
        let frames = record.get(STACK..STACK + bytes.min(MAX_FRAMES * 8))?;
        return Some(Stack::Frames((0..frames.len() / 8).filter_map(|at| word(frames, at * 8)).collect()));
    }
    let copied = record.get(STACK..STACK + bytes.min(MAX_STACK_BYTES))?;
    let [ip, sp, fp] = [8, 16, 24].map(|at| word(record, HEAD + at).unwrap_or(0));
    Some(Stack::Copy(StackCopy { ip, sp, fp, bytes: copied.to_vec() }))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocscope_common::cause::Cause;
    use std::mem::offset_of;

    /// A record in which each word is another number.
    fn record(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(AllocationRecord, event), &2u32.to_ne_bytes());
        put(offset_of!(AllocationRecord, slot), &3u32.to_ne_bytes());
        put(offset_of!(AllocationRecord, tgid), &4u32.to_ne_bytes());
        put(offset_of!(AllocationRecord, tid), &5u32.to_ne_bytes());
        put(offset_of!(AllocationRecord, filed_ns), &6u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, size), &7u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, at_ns), &8u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, ns), &9u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, faults), &10u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, goroutine), &11u64.to_ne_bytes());
        put(offset_of!(AllocationRecord, allocator), &(Allocator::Glibc as u32).to_ne_bytes());
        put(offset_of!(AllocationRecord, weight), &13u32.to_ne_bytes());
        let cause = offset_of!(AllocationRecord, causes) + 8 * Cause::Reclaim as usize;
        put(cause, &14u64.to_ne_bytes());
        if len > HEAD {
            for (index, value) in [20u64, 30, 40, 50, 60, 70].iter().enumerate() {
                put(HEAD + 8 * index, &value.to_ne_bytes());
            }
        }
        bytes
    }

    #[test]
    fn every_field_is_where_it_is_written() {
        let told = decode_told(&record(HEAD)).unwrap();
        assert_eq!((told.event, told.allocator), (AllocationEvent::Touch, Allocator::Glibc));
        assert_eq!((told.name, told.pid, told.tid), (Name { slot: 3, filed_ns: 6 }, 4, 5));
        assert_eq!((told.size, told.at_ns, told.ns, told.faults), (7, 8, 9, 10));
        assert_eq!((told.goroutine, told.weight, told.causes[Cause::Reclaim as usize]), (11, 13, 14));
        assert_eq!(told.stack, None);
    }

    #[test]
    fn a_stack_is_as_long_as_its_head_tells() {
        let told = decode_told(&record(size_of::<FramesRecord>())).unwrap();
        assert_eq!(told.stack, Some(Stack::Frames(vec![60, 70])));
        let told = decode_told(&record(size_of::<StackRecord>())).unwrap();
        let Some(Stack::Copy(copy)) = told.stack else { panic!("no copy") };
        assert_eq!((copy.ip, copy.sp, copy.fp, copy.bytes.len()), (30, 40, 50, 20));
        assert_eq!(
            (copy.word(40), copy.word(48), copy.word(53), copy.word(39)),
            (Some(60), Some(70), None, None)
        );
    }

    #[test]
    fn what_is_odd_is_refused_or_cut() {
        for len in [0, 71, HEAD - 1, HEAD + 1] {
            assert_eq!(decode_told(&vec![1; len]), None);
        }
        let mut long = record(size_of::<StackRecord>());
        long[HEAD..HEAD + 8].copy_from_slice(&u64::MAX.to_ne_bytes());
        let Some(Stack::Copy(copy)) = decode_told(&long).unwrap().stack else { panic!("no copy") };
        assert_eq!(copy.bytes.len(), MAX_STACK_BYTES);
    }
}
