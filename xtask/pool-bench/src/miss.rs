//! `miss`: a get that finds nothing and makes an item, which is taken out: the shortest path that has a probe.

use crate::Subject;
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::{Limits, Pool, Recipe};
use anyhow::Result;
use std::hint::black_box;

const CHUNK: u64 = 4096;

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    vec![Subject { case: "miss", name: "allocscope", threads: &[1, 2], run: own }]
}

/// Costs nothing to make, so that the way to it is all there is.
pub struct Number;

impl Recipe<u64> for Number {
    fn make(&self) -> u64 {
        1
    }

    fn weighs(&self) -> bool {
        true
    }

    fn bytes(&self, _: &u64) -> usize {
        super::buffer::BYTES
    }
}

/// A pool of them.
pub fn pool() -> Pool<u64, Number> {
    Pool::with_recipe(Number, Limits::default())
}

/// Takes one out, which was not there.
#[inline(always)]
pub fn once(pool: &Pool<u64, Number>) {
    black_box(pool.get().take());
}

fn own(settings: &Settings) -> Result<Sample> {
    let pool = pool();
    measure(settings, CHUNK, || |ops| (0..ops).for_each(|_| once(&pool)))
}
