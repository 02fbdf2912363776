//! What a thread does inside of a window, one thing after the other, into how long it did each: the arithmetic
//! behind [`Cause`].
//!
//! A window is an allocator's call, a memory system call or a page fault. The rules:
//!
//! 1. Time belongs to the innermost open phase; outside of any phase to the window's base: `alloc` for a call,
//!    `page_fault` for a fault.
//! 2. Off the CPU and ready to run is `runnable`, wherever it happens.
//! 3. Off the CPU and waiting stays with a phase that works by waiting ([`Cause::waits`]); else it is `blocked`.
//! 4. A fault inside of a call is split as a window of its own; the call takes its split over when it ends.
//! 5. The base is what remains, so a split sums to its window's time exactly. Where the phases sum to more (a
//!    program of the kernel side was interrupted in the middle of an addition), all of the window is `other`.

use crate::cause::{CAUSES, Cause};

/// The time of a window by [`Cause`], in nanoseconds.
pub type Split = [u64; CAUSES];

/// Phases that may be open in a window, one inside of the other. What begins beyond counts with the innermost.
pub const MAX_PHASES: u16 = 4;

/// A thread's time off the CPU, as it is known when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It was ready to run all the time.
    Runnable,
    /// It waited, and was woken at this time in nanoseconds; 0 where that was not seen.
    Waiting(u64),
}

/// A window that is open, or the split of one that was closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// When it was opened, in nanoseconds; 0 where none is open.
    pub start_ns: u64,
    /// The time before this is accounted for.
    since_ns: u64,
    /// The causes of the open phases, a byte each, the innermost in the lowest.
    stack: u32,
    /// Open phases in `stack`.
    depth: u16,
    /// Open phases for which it had no room.
    beyond: u16,
    /// Time by cause; the base's is set when the window is closed.
    pub ns: Split,
}

impl Phases {
    /// Opens a window.
    #[inline(always)]
    pub fn open(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
        self.since_ns = start_ns;
        (self.stack, self.depth, self.beyond) = (0, 0, 0);
        self.ns = [0; CAUSES];
    }

    /// Begins a phase; `false` where there is no room for it.
    #[inline(always)]
    pub fn enter(&mut self, cause: Cause, now_ns: u64) -> bool {
        self.settle(now_ns);
        if self.depth >= MAX_PHASES {
            self.beyond += 1;
            return false;
        }
        self.stack = self.stack << 8 | cause as u32;
        self.depth += 1;
        true
    }

    /// Ends the innermost phase of that cause and those inside of it, whose end was not seen. Nothing where there is
    /// none. A last stretch shorter than `least_ns` counts with the phase around it.
    #[inline(always)]
    pub fn leave(&mut self, cause: Cause, now_ns: u64, least_ns: u64) {
        if self.beyond > 0 {
            self.beyond -= 1;
            return;
        }
        if !self.is_in(cause) {
            return;
        }
        if now_ns.saturating_sub(self.since_ns) >= least_ns {
            self.settle(now_ns);
        }
        for _ in 0..MAX_PHASES {
            let ended = self.stack as u8;
            self.stack >>= 8;
            self.depth = self.depth.saturating_sub(1);
            if ended == cause as u8 {
                break;
            }
        }
        self.settle(now_ns);
    }

    /// The thread leaves the CPU.
    #[inline(always)]
    pub fn pause(&mut self, now_ns: u64) {
        self.settle(now_ns);
    }

    /// The thread is back since `now_ns`; it left with [`Self::pause`].
    #[inline(always)]
    pub fn resume(&mut self, away: Away, now_ns: u64) {
        let left_ns = self.since_ns;
        let ready_ns = match away {
            Away::Runnable => left_ns,
            Away::Waiting(woken_ns) if woken_ns >= left_ns && woken_ns <= now_ns => woken_ns,
            Away::Waiting(_) => now_ns,
        };
        self.add(self.waits_for(), ready_ns.saturating_sub(left_ns));
        self.add(Cause::Runnable as u8, now_ns.saturating_sub(ready_ns));
        self.since_ns = now_ns;
    }

    /// The window goes on elsewhere (a goroutine on another thread), after a time in which nobody saw it.
    #[inline(always)]
    pub fn moved(&mut self, now_ns: u64) {
        let cause = if self.depth > 0 { self.stack as u8 } else { Cause::Blocked as u8 };
        self.add(cause, now_ns.saturating_sub(self.since_ns));
        self.since_ns = self.since_ns.max(now_ns);
    }

    /// A fault inside of the window took from `start_ns` to `end_ns`, all of it for one cause.
    #[inline(always)]
    pub fn take_plain_fault(&mut self, start_ns: u64, end_ns: u64, cause: Cause) {
        self.settle(start_ns);
        self.add(cause as u8, end_ns.saturating_sub(start_ns));
        self.since_ns = end_ns;
    }

    /// The same with what the fault's time went to.
    #[inline(always)]
    pub fn take_fault(&mut self, start_ns: u64, end_ns: u64, split: &Split) {
        self.settle(start_ns);
        for (total, ns) in self.ns.iter_mut().zip(split) {
            *total += ns;
        }
        self.since_ns = end_ns;
    }

    /// Gives up to `ns` of a closed window another name: of what it was blocked, else of what it was likeliest to be
    /// held up in.
    #[inline(always)]
    pub fn rename(&mut self, to: Cause, ns: u64) {
        let mut left_ns = ns;
        for from in [Cause::Blocked, Cause::GcStart, Cause::Zeroing, Cause::Alloc] {
            let from = from as usize & (CAUSES - 1);
            let taken_ns = left_ns.min(self.ns[from]);
            self.ns[from] -= taken_ns;
            left_ns -= taken_ns;
        }
        self.ns[to as usize] += ns - left_ns;
    }

    /// Closes the window: `ns` is then its split. `false` where the causes summed to more than its time.
    #[inline(always)]
    pub fn close(&mut self, base: Cause, now_ns: u64) -> bool {
        self.settle(now_ns);
        let all_ns = now_ns.saturating_sub(self.start_ns);
        self.start_ns = 0;
        self.ns[base as usize] = 0;
        let named_ns = self.ns.iter().fold(0u64, |sum, ns| sum.wrapping_add(*ns));
        if named_ns > all_ns {
            self.ns = [0; CAUSES];
            self.ns[Cause::Other as usize] = all_ns;
            return false;
        }
        self.ns[base as usize] = all_ns - named_ns;
        true
    }

    /// Of a closed fault that read its page from swap: what it did not spend otherwise is that.
    #[inline(always)]
    pub fn name_swap_in(&mut self) {
        self.ns[Cause::SwapIn as usize] +=
            self.ns[Cause::Blocked as usize] + self.ns[Cause::PageFault as usize];
        self.ns[Cause::Blocked as usize] = 0;
        self.ns[Cause::PageFault as usize] = 0;
    }

    #[inline(always)]
    fn settle(&mut self, now_ns: u64) {
        if self.depth > 0 {
            self.add(self.stack as u8, now_ns.saturating_sub(self.since_ns));
        }
        // A thread that its goroutine has left may have seen a later time.
        self.since_ns = self.since_ns.max(now_ns);
    }

    #[inline(always)]
    fn add(&mut self, cause: u8, ns: u64) {
        // The mask tells the verifier that the index is below the array's length.
        self.ns[cause as usize & (CAUSES - 1)] += ns;
    }

    #[inline(always)]
    fn waits_for(&self) -> u8 {
        let innermost = self.stack as u8;
        if self.depth > 0 && WAITING >> innermost & 1 != 0 { innermost } else { Cause::Blocked as u8 }
    }

    #[inline(always)]
    fn is_in(&self, cause: Cause) -> bool {
        let mut found = false;
        for place in 0..MAX_PHASES {
            found |= place < self.depth && (self.stack >> (8 * place)) as u8 == cause as u8;
        }
        found
    }
}

/// A bit for each cause that [`Cause::waits`].
const WAITING: u32 = {
    let (mut bits, mut index) = (0, 0);
    while index < CAUSES {
        if Cause::ALL[index].waits() {
            bits |= 1 << Cause::ALL[index] as u32;
        }
        index += 1;
    }
    bits
};

const _: () = assert!(size_of::<Phases>() == 152);

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn opened(start_ns: u64) -> Phases {
        let mut phases = Phases::default();
        phases.open(start_ns);
        phases
    }

    fn split(parts: &[(Cause, u64)]) -> Split {
        let mut split = [0; CAUSES];
        parts.iter().for_each(|&(cause, ns)| split[cause as usize] += ns);
        split
    }

    #[test]
    fn time_belongs_to_the_innermost_phase() {
        let mut phases = opened(100);
        assert!(phases.enter(Cause::Reclaim, 110));
        assert!(phases.enter(Cause::MmapLock, 130));
        phases.leave(Cause::MmapLock, 135, 0);
        phases.leave(Cause::Reclaim, 150, 0);
        assert!(phases.close(Cause::PageFault, 157));
        let told = [(Cause::PageFault, 17), (Cause::Reclaim, 35), (Cause::MmapLock, 5)];
        assert_eq!(phases.ns, split(&told));
        assert_eq!(phases.start_ns, 0);
    }

    #[test]
    fn ready_to_run_is_runnable_everywhere() {
        for cause in [Cause::Reclaim, Cause::Zeroing] {
            let mut phases = opened(0);
            phases.enter(cause, 10);
            phases.pause(20);
            phases.resume(Away::Runnable, 50);
            assert!(phases.close(Cause::Alloc, 60));
            assert_eq!(phases.ns, split(&[(Cause::Alloc, 10), (cause, 20), (Cause::Runnable, 30)]));
        }
    }

    #[test]
    fn waiting_stays_with_what_works_by_waiting() {
        let told = [(Cause::MmapLock, Cause::MmapLock), (Cause::Zeroing, Cause::Blocked)];
        for (cause, waited_for) in told {
            let mut phases = opened(0);
            phases.enter(cause, 10);
            phases.pause(20);
            phases.resume(Away::Waiting(45), 50);
            assert!(phases.close(Cause::Alloc, 60));
            let parts = [(Cause::Alloc, 10), (cause, 20), (waited_for, 25), (Cause::Runnable, 5)];
            assert_eq!(phases.ns, split(&parts));
        }
    }

    #[test]
    fn a_waking_that_was_not_seen_or_is_of_another_time_leaves_all_as_waiting() {
        for woken_ns in [0, 19, 51] {
            let mut phases = opened(0);
            phases.pause(20);
            phases.resume(Away::Waiting(woken_ns), 50);
            assert!(phases.close(Cause::Alloc, 60));
            assert_eq!(phases.ns, split(&[(Cause::Alloc, 30), (Cause::Blocked, 30)]));
        }
    }

    #[test]
    fn a_lock_that_was_free_counts_with_what_took_it() {
        let mut phases = opened(0);
        phases.enter(Cause::Zeroing, 0);
        phases.enter(Cause::MmapLock, 10);
        phases.leave(Cause::MmapLock, 10 + 999, 1000);
        phases.enter(Cause::MmapLock, 2000);
        phases.leave(Cause::MmapLock, 2000 + 1000, 1000);
        assert!(phases.close(Cause::Alloc, 3000));
        assert_eq!(phases.ns, split(&[(Cause::Zeroing, 2000), (Cause::MmapLock, 1000)]));
    }

    #[test]
    fn an_end_without_a_beginning_is_nothing_and_one_outside_ends_what_is_inside() {
        let mut phases = opened(0);
        phases.leave(Cause::Compaction, 5, 0);
        phases.enter(Cause::Reclaim, 10);
        phases.enter(Cause::Compaction, 20);
        phases.leave(Cause::Reclaim, 30, 0);
        phases.leave(Cause::Compaction, 35, 0);
        assert!(phases.close(Cause::PageFault, 40));
        assert_eq!(
            phases.ns,
            split(&[(Cause::PageFault, 20), (Cause::Reclaim, 10), (Cause::Compaction, 10)])
        );
    }

    #[test]
    fn what_is_too_deep_counts_with_the_innermost_there_is_room_for() {
        let mut phases = opened(0);
        for depth in 0..MAX_PHASES {
            assert!(phases.enter(Cause::Reclaim, u64::from(depth)));
        }
        assert!(!phases.enter(Cause::Compaction, 10));
        assert!(!phases.enter(Cause::Compaction, 20));
        phases.leave(Cause::Compaction, 30, 0);
        phases.leave(Cause::Compaction, 40, 0);
        for _ in 0..MAX_PHASES {
            phases.leave(Cause::Reclaim, 50, 0);
        }
        assert!(phases.close(Cause::Alloc, 60));
        assert_eq!(phases.ns, split(&[(Cause::Reclaim, 50), (Cause::Alloc, 10)]));
    }

    #[test]
    fn a_fault_in_a_call_counts_as_what_it_was() {
        let mut fault = opened(30);
        fault.enter(Cause::MemcgReclaim, 32);
        fault.leave(Cause::MemcgReclaim, 38, 0);
        assert!(fault.close(Cause::PageFault, 40));
        let mut call = opened(0);
        call.enter(Cause::Zeroing, 10);
        call.take_fault(30, 40, &fault.ns);
        call.take_plain_fault(50, 55, Cause::PageFault);
        assert!(call.close(Cause::Alloc, 60));
        let parts =
            [(Cause::Alloc, 10), (Cause::Zeroing, 35), (Cause::MemcgReclaim, 6), (Cause::PageFault, 9)];
        assert_eq!(call.ns, split(&parts));
    }

    #[test]
    fn a_page_from_swap_is_neither_blocked_nor_plain_service() {
        let mut fault = opened(0);
        fault.enter(Cause::MmapLock, 0);
        fault.leave(Cause::MmapLock, 5, 0);
        fault.pause(10);
        fault.resume(Away::Waiting(80), 90);
        assert!(fault.close(Cause::PageFault, 100));
        fault.name_swap_in();
        assert_eq!(fault.ns, split(&[(Cause::MmapLock, 5), (Cause::SwapIn, 85), (Cause::Runnable, 10)]));
    }

    #[test]
    fn a_goroutine_that_was_out_of_sight_was_blocked_unless_a_phase_says_more() {
        let mut phases = opened(0);
        phases.moved(10);
        phases.enter(Cause::GcStart, 20);
        phases.moved(50);
        assert!(phases.close(Cause::Alloc, 60));
        assert_eq!(phases.ns, split(&[(Cause::Blocked, 10), (Cause::Alloc, 10), (Cause::GcStart, 40)]));
    }

    #[test]
    fn what_a_thread_says_late_counts_nothing_twice() {
        let mut phases = opened(0);
        phases.enter(Cause::GcAssist, 10);
        phases.moved(50);
        phases.moved(40);
        phases.leave(Cause::GcAssist, 45, 0);
        assert!(phases.close(Cause::Alloc, 60));
        assert_eq!(phases.ns, split(&[(Cause::Alloc, 20), (Cause::GcAssist, 40)]));
    }

    #[test]
    fn more_than_the_window_is_told_as_other() {
        let mut phases = opened(0);
        phases.take_plain_fault(0, 90, Cause::PageFault);
        phases.take_plain_fault(0, 90, Cause::PageFault);
        assert!(!phases.close(Cause::Alloc, 100));
        assert_eq!(phases.ns, split(&[(Cause::Other, 100)]));
    }

    /// Something that happens to a window.
    #[derive(Clone, Debug)]
    enum Step {
        Enter(Cause),
        Leave(Cause, u64),
        Away(bool, u64, u64),
        Moved,
        Fault(u64, Vec<Step>),
    }

    fn cause() -> impl Strategy<Value = Cause> {
        (0..CAUSES).prop_map(|index| Cause::ALL[index])
    }

    fn step(faults: bool) -> BoxedStrategy<(u64, Step)> {
        let plain = prop_oneof![
            cause().prop_map(Step::Enter),
            (cause(), 0..50u64).prop_map(|(cause, least_ns)| Step::Leave(cause, least_ns)),
            (any::<bool>(), 0..200u64, 0..200u64).prop_map(|(ran, woken, ns)| Step::Away(ran, woken, ns)),
            Just(Step::Moved),
        ];
        let steps = if faults {
            let inside = prop::collection::vec(step(false), 0..6);
            let fault = (0..50u64, inside).prop_map(|(tail_ns, steps)| {
                Step::Fault(tail_ns, steps.into_iter().map(|(_, step)| step).collect())
            });
            prop_oneof![4 => plain, 1 => fault].boxed()
        } else {
            plain.boxed()
        };
        (0..100u64, steps).boxed()
    }

    /// Runs a step at `now_ns` and returns when it is over.
    fn run(phases: &mut Phases, step: &Step, now_ns: u64) -> u64 {
        match step {
            Step::Enter(cause) => drop(phases.enter(*cause, now_ns)),
            Step::Leave(cause, least_ns) => phases.leave(*cause, now_ns, *least_ns),
            Step::Away(ran, woken, ns) => {
                phases.pause(now_ns);
                let away = if *ran { Away::Runnable } else { Away::Waiting(now_ns + woken) };
                phases.resume(away, now_ns + ns);
                return now_ns + ns;
            }
            Step::Moved => phases.moved(now_ns),
            Step::Fault(tail_ns, steps) => {
                let mut fault = opened(now_ns);
                let end_ns = steps.iter().fold(now_ns, |now_ns, step| run(&mut fault, step, now_ns + 3));
                assert!(fault.close(Cause::PageFault, end_ns + tail_ns));
                phases.take_fault(now_ns, end_ns + tail_ns, &fault.ns);
                return end_ns + tail_ns;
            }
        }
        now_ns
    }

    proptest! {
        #[test]
        fn a_split_sums_to_its_window(
            start_ns in 1..1000u64,
            steps in prop::collection::vec(step(true), 0..40),
            base in cause(),
        ) {
            let mut phases = opened(start_ns);
            let mut now_ns = start_ns;
            for (pause_ns, step) in &steps {
                now_ns = run(&mut phases, step, now_ns + pause_ns);
            }
            prop_assert!(phases.close(base, now_ns));
            prop_assert_eq!(phases.ns.iter().sum::<u64>(), now_ns - start_ns);
        }
    }
}
