//! Values with destructors into an arena that runs them, last placed first, when it is reset or dropped.

use super::{AllocError, Arena, ArenaCounters, fail};
use std::alloc::Layout;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};
use std::slice;

/// A destructor to run; in the arena, beside its values.
struct Duty {
    earlier: Option<NonNull<Duty>>,
    values: NonNull<u8>,
    count: usize,
    /// Drops `count` values.
    drop: unsafe fn(NonNull<u8>, usize),
}

/// An [`Arena`] that runs destructors, in the reverse of the order in which values were placed, when it is reset or
/// dropped; those of a slice run from its first value to its last. Where one panics, the others still run; a second
/// panic among them aborts, as it does while anything is unwound.
///
/// What is placed may refer to what outlives the arena (`'v`), but not to what is in it:
///
/// ```
/// use allocscope::pool::arena::DropArena;
///
/// let name = String::from("outlives the arena");
/// let arena = DropArena::new();
/// let list = arena.alloc(vec![name.as_str()]);
/// list.push("x");
/// ```
///
/// ```compile_fail,E0597
/// use allocscope::pool::arena::DropArena;
///
/// let arena = DropArena::new();
/// let name = String::from("dies before the arena");
/// let list = arena.alloc(vec![name.as_str()]);
/// list.push("x");
/// ```
///
/// It can be sent to another thread, where destructors then run, and so takes only what can be sent:
///
/// ```compile_fail,E0277
/// allocscope::pool::arena::DropArena::new().alloc(std::rc::Rc::new(1));
/// ```
pub struct DropArena<'v> {
    arena: Arena,
    /// What to run, the last placed first.
    duties: Cell<Option<NonNull<Duty>>>,
    /// `'v` can neither grow nor shrink, or a value could be placed that dies before the arena.
    values: PhantomData<Cell<&'v ()>>,
}

// SAFETY: the arena owns all values, which nobody borrows when it is sent, and each of them can be sent.
unsafe impl Send for DropArena<'_> {}

#[allow(clippy::mut_from_ref, reason = "each call returns memory that no other call has returned")]
impl<'v> DropArena<'v> {
    /// An arena of the global allocator.
    pub fn new() -> DropArena<'v> {
        DropArena::over(Arena::new())
    }

    /// An arena that places values in `arena`, after whatever is there.
    pub fn over(arena: Arena) -> DropArena<'v> {
        DropArena { arena, duties: Cell::new(None), values: PhantomData }
    }

    /// Places a value.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc<T: Send + 'v>(&self, value: T) -> &mut T {
        self.try_alloc(value).unwrap_or_else(|error| fail(error))
    }

    /// Places a value.
    ///
    /// # Errors
    ///
    /// There is no memory; the value is dropped then.
    pub fn try_alloc<T: Send + 'v>(&self, value: T) -> Result<&mut T, AllocError> {
        let duty = self.reserve_duty::<T>()?;
        let place = self.arena.place(Layout::new::<T>())?.cast::<T>();
        // SAFETY: room for a `T`, aligned, nobody else's until the reset, which this borrow prevents.
        unsafe { place.write(value) };
        self.oblige(duty, place, 1);
        // SAFETY: as above.
        Ok(unsafe { &mut *place.as_ptr() })
    }

    /// Places `len` values, the one at `i` being `make(i)`.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc_slice_fill_with<T: Send + 'v>(&self, len: usize, make: impl FnMut(usize) -> T) -> &mut [T] {
        self.try_alloc_slice_fill_with(len, make).unwrap_or_else(|error| fail(error))
    }

    /// Places `len` values, the one at `i` being `make(i)`. Where `make` panics, those before are dropped at once.
    ///
    /// # Errors
    ///
    /// There is no memory; `make` is not called then.
    pub fn try_alloc_slice_fill_with<T: Send + 'v>(
        &self,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&mut [T], AllocError> {
        let duty = self.reserve_duty::<T>()?;
        let layout = Layout::array::<T>(len).map_err(|_| AllocError::Impossible)?;
        let mut made = Made { place: self.arena.place(layout)?.cast::<T>(), count: 0 };
        while made.count < len {
            // SAFETY: room for `len` values.
            unsafe { made.place.add(made.count).write(make(made.count)) };
            made.count += 1;
        }
        let place = made.place;
        mem::forget(made);
        self.oblige(duty, place, len);
        // SAFETY: all are written; nobody else's while the arena is borrowed.
        Ok(unsafe { slice::from_raw_parts_mut(place.as_ptr(), len) })
    }

    /// The arena beneath, for values without destructor.
    pub fn plain(&self) -> &Arena {
        &self.arena
    }

    /// Runs all destructors and frees all that was placed; see [`Arena::reset`].
    ///
    /// # Panics
    ///
    /// A destructor does; the others have run then, and the memory is freed by the next reset.
    pub fn reset(&mut self) {
        self.run_duties();
        self.arena.reset();
    }

    /// Sizes of now. Each value with a destructor takes four words more.
    pub fn counters(&self) -> ArenaCounters {
        self.arena.counters()
    }

    /// Room for the duty of dropping a `T`, taken before the value so that it cannot be missing after; none where
    /// nothing needs to be dropped.
    fn reserve_duty<T>(&self) -> Result<Option<NonNull<Duty>>, AllocError> {
        if !mem::needs_drop::<T>() {
            return Ok(None);
        }
        self.arena.place(Layout::new::<Duty>()).map(|place| Some(place.cast()))
    }

    fn oblige<T>(&self, duty: Option<NonNull<Duty>>, place: NonNull<T>, count: usize) {
        let Some(duty) = duty else {
            return;
        };
        let values = place.cast();
        // SAFETY: room that was reserved for it.
        unsafe { duty.write(Duty { earlier: self.duties.get(), values, count, drop: drop_values::<T> }) };
        self.duties.set(Some(duty));
    }

    fn run_duties(&mut self) {
        let rest = Rest(&self.duties);
        rest.run();
    }
}

/// The destructors that have not run yet; where one panics, the drop of this runs the others.
struct Rest<'a>(&'a Cell<Option<NonNull<Duty>>>);

impl Rest<'_> {
    fn run(&self) {
        while let Some(duty) = self.0.get() {
            // SAFETY: written by `oblige`; the arena is not reset before all have run.
            let Duty { earlier, values, count, drop } = unsafe { duty.read() };
            self.0.set(earlier);
            // SAFETY: that many values, which nobody borrows, and which are dropped only here.
            unsafe { drop(values, count) };
        }
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.run();
    }
}

/// # Safety
///
/// There are `count` values of type `T`, which nobody uses afterwards.
unsafe fn drop_values<T>(values: NonNull<u8>, count: usize) {
    let values = ptr::slice_from_raw_parts_mut(values.as_ptr().cast::<T>(), count);
    // SAFETY: the caller's.
    unsafe { values.drop_in_place() };
}

/// The values of a slice that is not full yet; dropped where the next one cannot be made.
struct Made<T> {
    place: NonNull<T>,
    count: usize,
}

impl<T> Drop for Made<T> {
    fn drop(&mut self) {
        // SAFETY: so many were written, and nobody has seen them.
        unsafe { drop_values::<T>(self.place.cast(), self.count) };
    }
}

impl Drop for DropArena<'_> {
    fn drop(&mut self) {
        self.run_duties();
    }
}

impl Default for DropArena<'_> {
    fn default() -> Self {
        DropArena::new()
    }
}

impl fmt::Debug for DropArena<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DropArena").field("counters", &self.counters()).finish_non_exhaustive()
    }
}
