//! Slow paths of pool and arena into statically defined probes that a tracer can listen to.
//!
//! Each probe is a module of two functions: `begin` before the work and `end` after it. What a tracer needs is in
//! notes of the binary (`.note.stapsdt`, provider `allocscope`) of the form that systemtap's `sys/sdt.h` has set:
//! where the probe is, where its semaphore, and in which registers its arguments are: the size in bytes, the duration
//! in nanoseconds, the address.
//!
//! While nobody listens the semaphore is 0, and then `begin` is one load and a jump that is not taken, on paths that
//! are slow anyway; no clock is read. Whoever attaches has the kernel raise it, for as long as it is attached.
//!
//! On x86-64 the probe is two instructions, a `nop` of one byte and one of five, and the note names the first: every
//! kernel emulates it. The second is dearer up to Linux 6.17, which single-steps it, and a quarter cheaper since,
//! where the kernel makes a call of it: a tracer that knows its kernel takes that one instead, as libbpf does, and
//! allocscope where it has seen a child made by `fork` survive that (on Linux 6.18.44 it does not: what is called is not
//! copied with the code). The call writes below the stack pointer. So each probe has a function of its own, whose assembly
//! is not `nostack`: the compiler keeps nothing there.

/// When it is, in nanoseconds of the monotonic clock; never 0, which says that nobody listens.
#[cold]
fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is live and of the type that the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64).max(1)
}

macro_rules! probes {
    ($($name:ident)*) => { $(
        #[doc = concat!("The probe `", stringify!($name), "`.")]
        pub(crate) mod $name {
            /// When the work begins, in nanoseconds of the monotonic clock; 0 where nobody listens.
            #[inline(always)]
            pub(crate) fn begin() -> u64 {
                if is_heard() { super::now_ns() } else { 0 }
            }

            /// Tells that work on `size` bytes at `pointer` is done; nothing where `began` is 0.
            #[inline(always)]
            pub(crate) fn end(began: u64, size: usize, pointer: usize) {
                if began != 0 {
                    tell(super::now_ns().saturating_sub(began), size, pointer);
                }
            }

            place! { $name }
        }
    )* };
}

/// Where there is no assembly for it, in Miri, which runs none, and where the price of the others is measured: nobody
/// ever listens.
#[cfg(any(
    miri,
    allocscope_no_probes,
    not(target_os = "linux"),
    not(target_pointer_width = "64"),
    not(any(target_arch = "x86_64", target_arch = "aarch64"))
))]
macro_rules! place {
    ($name:ident) => {
        #[inline(always)]
        fn is_heard() -> bool {
            false
        }

        fn tell(_took_ns: u64, _size: usize, _pointer: usize) {}
    };
}

#[cfg(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, allocscope_no_probes))
))]
macro_rules! place {
    ($name:ident) => {
        use core::sync::atomic::{AtomicU16, Ordering};

        /// How many listen. The kernel counts here, in whatever process has mapped this part of the file.
        #[unsafe(link_section = ".probes")]
        static SEMAPHORE: AtomicU16 = AtomicU16::new(0);

        #[inline(always)]
        fn is_heard() -> bool {
            SEMAPHORE.load(Ordering::Relaxed) != 0
        }

        #[cold]
        #[inline(never)]
        fn tell(took_ns: u64, size: usize, pointer: usize) {
            // SAFETY: instructions that do nothing, and directives for other sections. A probe leaves all registers as
            // they are, and uses the stack, as assembly without `nostack` may.
            unsafe { place_instructions!($name, SEMAPHORE, size, took_ns, pointer) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! place_instructions {
    ($name:ident, $semaphore:ident, $size:ident, $took_ns:ident, $pointer:ident) => {
        core::arch::asm!(
            // Of an instruction that spans two pages the kernel would not make a call.
            ".balign 8",
            "990: nop",
            ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
            note!($name, "8@%rdi 8@%rsi 8@%rdx"),
            semaphore = sym $semaphore,
            in("rdi") $size,
            in("rsi") $took_ns,
            in("rdx") $pointer,
            options(preserves_flags)
        )
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! place_instructions {
    ($name:ident, $semaphore:ident, $size:ident, $took_ns:ident, $pointer:ident) => {
        core::arch::asm!(
            "990: nop",
            note!($name, "8@x0 8@x1 8@x2"),
            semaphore = sym $semaphore,
            in("x0") $size,
            in("x1") $took_ns,
            in("x2") $pointer,
            options(preserves_flags)
        )
    };
}

/// The note of the probe at label 990, and the byte by whose address a reader sees how far a file was moved after it
/// was linked. The note is not loaded, so nothing has to be relocated where the file is; a linker that drops the
/// function leaves a note for an address close to 0.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! note {
    ($name:ident, $arguments:literal) => {
        concat!(
            ".pushsection .note.stapsdt, \"\", \"note\"\n",
            ".balign 4\n",
            ".4byte 992f - 991f, 994f - 993f, 3\n",
            "991: .asciz \"stapsdt\"\n",
            "992: .balign 4\n",
            "993: .8byte 990b, _.stapsdt.base, {semaphore}\n",
            ".asciz \"allocscope\"\n",
            ".asciz \"",
            stringify!($name),
            "\"\n",
            ".asciz \"",
            $arguments,
            "\"\n",
            "994: .balign 4\n",
            ".popsection\n",
            ".ifndef _.stapsdt.base\n",
            ".pushsection .stapsdt.base, \"aGR\", \"progbits\", .stapsdt.base, comdat\n",
            ".weak _.stapsdt.base\n",
            ".hidden _.stapsdt.base\n",
            "_.stapsdt.base: .space 1\n",
            ".size _.stapsdt.base, 1\n",
            ".popsection\n",
            ".endif\n",
        )
    };
}

probes! { pool_miss pool_steal pool_evict arena_grow region_map region_release breaker }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_to_a_test() {
        let began = region_map::begin();
        assert_eq!(began, 0);
        region_map::end(began, 1 << 20, 0x1000);
    }

    #[test]
    fn a_probe_tells_what_it_is_told_to() {
        // As a tracer that came between the two: nothing is read from where nothing is.
        assert_eq!(region_release::begin(), 0);
        region_release::end(now_ns(), usize::MAX, usize::MAX);
        region_release::end(u64::MAX, 0, 0);
    }
}
