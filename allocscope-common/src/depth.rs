//! Frames of a stack to the bucket of a small histogram.

/// Upper bounds of the buckets, inclusive; one more bucket holds what is above (no stack: the kernel stops there).
pub const DEPTH_BOUNDS: [u64; 7] = [2, 4, 8, 15, 32, 64, 127];

/// Number of buckets.
pub const DEPTH_BUCKETS: usize = DEPTH_BOUNDS.len() + 1;

/// Names the histogram of a process' allocator.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DepthKey {
    /// The process' slot.
    pub slot: u32,
    /// [`crate::key::Allocator`] as a number.
    pub allocator: u32,
}

/// Calls by frames at their entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DepthCounts {
    /// Calls by bucket.
    pub buckets: [u64; DEPTH_BUCKETS],
    /// Frames, summed.
    pub frames: u64,
}

impl DepthCounts {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, count)| *sum += count);
        self.frames += other.frames;
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The bucket of so many frames.
#[inline(always)]
pub const fn depth_bucket(frames: u64) -> usize {
    let mut bucket = 0;
    while bucket < DEPTH_BOUNDS.len() && frames > DEPTH_BOUNDS[bucket] {
        bucket += 1;
    }
    bucket
}

const _: () = assert!(size_of::<DepthKey>() == 8);
const _: () = assert!(size_of::<DepthCounts>() == 72);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (bucket, &bound) in DEPTH_BOUNDS.iter().enumerate() {
            assert_eq!((depth_bucket(bound), depth_bucket(bound + 1)), (bucket, bucket + 1));
        }
        assert_eq!(depth_bucket(0), 0);
    }

    #[test]
    fn counts_add_up() {
        let mut sum = DepthCounts { buckets: [1; DEPTH_BUCKETS], frames: 5 };
        sum.add(&DepthCounts { buckets: [2; DEPTH_BUCKETS], frames: 7 });
        assert_eq!((sum.calls(), sum.frames), (24, 12));
    }
}
