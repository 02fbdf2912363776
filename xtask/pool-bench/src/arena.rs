//! `arena-64`: a thousand objects of 64 bytes, each initialised, then all given up at once; an operation is one object.

use crate::Subject;
use crate::anchor::escape;
use crate::timing::{Sample, Settings, measure};
use allocscope::pool::region::RegionOptions;
use allocscope::pool::{Arena, Region, RegionError};
use anyhow::Result;
use std::hint::black_box;

/// Objects between two resets.
const OBJECTS: u64 = 1000;
/// Of them between two looks at the clock.
const CHUNK: u64 = 8 * OBJECTS;

type Object = [u64; 8];

/// What is measured.
pub fn subjects() -> Vec<Subject> {
    let subject = |name, run| Subject { case: "arena-64", name, threads: &[1, 2], run };
    vec![
        subject("allocscope", own),
        subject("allocscope, in a region", own_in_region),
        subject("floor: a pointer by hand", floor),
        subject("bumpalo", bumpalo),
        subject("typed-arena, a new one each time", typed_arena),
        subject("mimalloc malloc, later free", mimalloc),
        subject("glibc malloc, later free", glibc),
    ]
}

/// A block of memory, and how much of it is used.
struct Floor {
    memory: Vec<Object>,
    used: usize,
}

impl Floor {
    fn new() -> Self {
        Self { memory: vec![[0; 8]; OBJECTS as usize], used: 0 }
    }

    #[inline(always)]
    fn alloc(&mut self, object: Object) -> Option<&mut Object> {
        let place = self.memory.get_mut(self.used)?;
        *place = object;
        self.used += 1;
        Some(place)
    }
}

fn floor(settings: &Settings) -> Result<Sample> {
    measure(settings, CHUNK, || {
        let mut floor = Floor::new();
        move |ops| {
            for _ in 0..ops / OBJECTS {
                (0..OBJECTS)
                    .for_each(|seed| floor.alloc([seed; 8]).into_iter().for_each(|object| escape(object)));
                floor.used = 0;
            }
        }
    })
}

fn own(settings: &Settings) -> Result<Sample> {
    measure(settings, CHUNK, || fill(Arena::new()))
}

fn own_in_region(settings: &Settings) -> Result<Sample> {
    // Before threads are measured, so that there is somebody to tell that it cannot be had.
    drop(region()?);
    measure(settings, CHUNK, || fill(region().map(Arena::in_region).unwrap_or_default()))
}

fn region() -> Result<Region, RegionError> {
    let options = RegionOptions { prefault: true, ..RegionOptions::default() };
    let mut region = Region::reserve(OBJECTS as usize * size_of::<Object>(), options)?;
    region.commit(OBJECTS as usize * size_of::<Object>())?;
    Ok(region)
}

fn fill(mut arena: Arena) -> impl FnMut(u64) {
    move |ops| {
        for _ in 0..ops / OBJECTS {
            (0..OBJECTS).for_each(|seed| {
                escape(arena.alloc([seed; 8]));
            });
            arena.reset();
        }
    }
}

fn bumpalo(settings: &Settings) -> Result<Sample> {
    measure(settings, CHUNK, || {
        let mut bump = bumpalo::Bump::new();
        move |ops| {
            for _ in 0..ops / OBJECTS {
                (0..OBJECTS).for_each(|seed| {
                    escape(bump.alloc([seed; 8]));
                });
                bump.reset();
            }
        }
    })
}

fn typed_arena(settings: &Settings) -> Result<Sample> {
    measure(settings, CHUNK, || {
        |ops| {
            for _ in 0..ops / OBJECTS {
                let arena = typed_arena::Arena::with_capacity(OBJECTS as usize);
                (0..OBJECTS).for_each(|seed| {
                    escape(arena.alloc([seed; 8]));
                });
            }
        }
    })
}

fn mimalloc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let malloc = |bytes| unsafe { libmimalloc_sys::mi_malloc(bytes) };
    // SAFETY: `blocks` gives back what came from there, once.
    blocks(settings, malloc, |block| unsafe { libmimalloc_sys::mi_free(block) })
}

fn glibc(settings: &Settings) -> Result<Sample> {
    // SAFETY: malloc has no preconditions.
    let malloc = |bytes| unsafe { libc::malloc(bytes) };
    // SAFETY: `blocks` gives back what came from there, once.
    blocks(settings, malloc, |block| unsafe { libc::free(block) })
}

fn blocks(
    settings: &Settings,
    malloc: impl Fn(usize) -> *mut libc::c_void + Sync,
    free: impl Fn(*mut libc::c_void) + Sync,
) -> Result<Sample> {
    measure(settings, CHUNK, || {
        let mut live = Vec::with_capacity(OBJECTS as usize);
        let (malloc, free) = (&malloc, &free);
        move |ops| {
            for _ in 0..ops / OBJECTS {
                live.extend((0..OBJECTS).map(|seed| {
                    let block = malloc(black_box(size_of::<Object>()));
                    if let Some(object) = std::ptr::NonNull::new(block.cast::<Object>()) {
                        // SAFETY: a block of an object's size, aligned for any type, that nobody else has.
                        unsafe { object.write([seed; 8]) };
                    }
                    black_box(block)
                }));
                live.drain(..).for_each(free);
            }
        }
    })
}
