//! Slow paths of pool and arena into statically defined probes that a tracer can listen to.
//!
//! Each probe is a module of two functions: `begin` before the work and `end` after it.

macro_rules! probes {
    ($($name:ident)*) => { $(
        #[doc = concat!("The probe `", stringify!($name), "`.")]
        #[allow(dead_code)]
        pub(crate) mod $name {
            /// When the work begins, in nanoseconds of the monotonic clock; 0 where nobody listens.
            #[inline(always)]
            pub(crate) fn begin() -> u64 {
                0
            }

            /// Tells that work on `size` bytes at `pointer` is done; nothing where `began` is 0.
            #[inline(always)]
            pub(crate) fn end(_began: u64, _size: usize, _pointer: usize) {}
        }
    )* };
}

probes! { pool_miss pool_steal pool_evict arena_grow region_map region_release breaker }
