//! How long something must live into which arena holds it, and into what may be moved where.
//!
//! There are three lifetimes: that of a [`Request`], of a [`Session`] with many requests, and of the process
//! ([`Static`]). Each has a [`Tier`] of its own, and what a tier holds can be promoted, which copies it, only into one
//! that lives longer:
//!
//! ```
//! use allocscope::pool::tier::{Request, Session, Tier};
//!
//! let session = Tier::<Session>::new();
//! let mut request = Tier::<Request>::new();
//! let name = request.hold_str("kept");
//! let kept = session.promote(&name);
//! request.end();
//! assert_eq!(&*kept, "kept");
//! ```
//!
//! What is not promoted cannot be held past its request:
//!
//! ```compile_fail,E0502
//! use allocscope::pool::tier::{Request, Tier};
//!
//! let mut request = Tier::<Request>::new();
//! let name = request.hold_str("lost");
//! request.end();
//! assert_eq!(&*name, "lost");
//! ```
//!
//! and nothing goes backward, nor sideways:
//!
//! ```compile_fail,E0277
//! use allocscope::pool::tier::{Request, Session, Tier};
//!
//! let session = Tier::<Session>::new();
//! let request = Tier::<Request>::new();
//! let name = session.hold_str("of the session");
//! request.promote(&name);
//! ```
//!
//! ```compile_fail,E0308
//! use allocscope::pool::tier::{Session, Static, Tier};
//!
//! let session = Tier::<Session>::new();
//! let name = Tier::<Static>::leak().hold_str("of the process");
//! session.promote(&name);
//! ```
//!
//! ```compile_fail,E0277
//! use allocscope::pool::tier::{Request, Tier};
//!
//! let (one, other) = (Tier::<Request>::new(), Tier::<Request>::new());
//! other.promote(&one.hold(1));
//! ```
//!
//! What refers to a shorter lived tier is not promoted, as the copy would refer to it still:
//!
//! ```compile_fail,E0597
//! use allocscope::pool::tier::{Request, Session, Tier};
//!
//! let session = Tier::<Session>::new();
//! let number = 1;
//! let request = Tier::<Request>::new();
//! session.promote(&request.hold(&number));
//! ```
//!
//! The process's tier never ends:
//!
//! ```compile_fail,E0599
//! use allocscope::pool::tier::{Static, Tier};
//!
//! let mut tier = Tier::<Static>::new();
//! tier.end();
//! ```

use super::arena::{AllocError, Arena, ArenaCounters};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// The lifetime of one request.
#[derive(Clone, Copy, Debug)]
pub enum Request {}

/// The lifetime of a session: many requests.
#[derive(Clone, Copy, Debug)]
pub enum Session {}

/// The lifetime of the process.
#[derive(Clone, Copy, Debug)]
pub enum Static {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Request {}
    impl Sealed for super::Session {}
    impl Sealed for super::Static {}
}

/// A lifetime that ends before the process does.
pub trait Ends: sealed::Sealed {}

impl Ends for Request {}
impl Ends for Session {}

/// A lifetime that is longer than `Shorter`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not outlive `{Shorter}`: promotion goes only forward"
)]
pub trait Outlives<Shorter>: sealed::Sealed {}

impl Outlives<Request> for Session {}
impl Outlives<Request> for Static {}
impl Outlives<Session> for Static {}

/// What can be copied from one arena to another: plain values, slices of them, and texts.
pub trait Promote: sealed_promote::Sealed {
    /// Copies this into `arena`.
    ///
    /// # Errors
    ///
    /// There is no memory.
    fn copy_into<'a>(&self, arena: &'a Arena) -> Result<&'a Self, AllocError>;
}

mod sealed_promote {
    pub trait Sealed {}
    impl<T: Copy + 'static> Sealed for T {}
    impl<T: Copy + 'static> Sealed for [T] {}
    impl Sealed for str {}
}

impl<T: Copy + 'static> Promote for T {
    fn copy_into<'a>(&self, arena: &'a Arena) -> Result<&'a T, AllocError> {
        arena.try_alloc(*self).map(|copy| &*copy)
    }
}

impl<T: Copy + 'static> Promote for [T] {
    fn copy_into<'a>(&self, arena: &'a Arena) -> Result<&'a [T], AllocError> {
        arena.try_alloc_slice_copy(self).map(|copy| &*copy)
    }
}

impl Promote for str {
    fn copy_into<'a>(&self, arena: &'a Arena) -> Result<&'a str, AllocError> {
        arena.try_alloc_str(self).map(|copy| &*copy)
    }
}

/// The arena of a lifetime.
#[derive(Debug)]
pub struct Tier<L> {
    arena: Arena,
    lifetime: PhantomData<L>,
}

/// Something in the tier of lifetime `L`.
pub struct Held<'t, T: ?Sized, L> {
    value: &'t T,
    lifetime: PhantomData<L>,
}

impl<L: sealed::Sealed> Tier<L> {
    /// A tier over the global allocator.
    pub fn new() -> Tier<L> {
        Tier::over(Arena::new())
    }

    /// A tier over an arena, such as one in a region.
    pub fn over(arena: Arena) -> Tier<L> {
        Tier { arena, lifetime: PhantomData }
    }

    /// Places a value.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[inline]
    #[track_caller]
    pub fn hold<T>(&self, value: T) -> Held<'_, T, L> {
        Held { value: self.arena.alloc(value), lifetime: PhantomData }
    }

    /// Places a copy of a text.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn hold_str(&self, text: &str) -> Held<'_, str, L> {
        Held { value: self.arena.alloc_str(text), lifetime: PhantomData }
    }

    /// Places a copy of a slice.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn hold_slice<T: Copy>(&self, slice: &[T]) -> Held<'_, [T], L> {
        Held { value: self.arena.alloc_slice_copy(slice), lifetime: PhantomData }
    }

    /// Copies what a shorter lived tier holds into this one.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn promote<T: Promote + ?Sized, From>(&self, held: &Held<'_, T, From>) -> Held<'_, T, L>
    where
        L: Outlives<From>,
    {
        self.try_promote(held).unwrap_or_else(|error| panic!("tier: {error}"))
    }

    /// Copies what a shorter lived tier holds into this one.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn try_promote<T: Promote + ?Sized, From>(
        &self,
        held: &Held<'_, T, From>,
    ) -> Result<Held<'_, T, L>, AllocError>
    where
        L: Outlives<From>,
    {
        Ok(Held { value: held.value.copy_into(&self.arena)?, lifetime: PhantomData })
    }

    /// Sizes of now.
    pub fn counters(&self) -> ArenaCounters {
        self.arena.counters()
    }

    /// The arena beneath.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}

impl<L: Ends> Tier<L> {
    /// Ends the lifetime and frees all that it held; the memory is kept for the next one, see [`Arena::reset`].
    pub fn end(&mut self) {
        self.arena.reset();
    }
}

impl Tier<Static> {
    /// The calling thread's tier for the rest of the process: whatever it holds is `'static`.
    pub fn leak() -> &'static Tier<Static> {
        Box::leak(Box::new(Tier::new()))
    }
}

impl<L: sealed::Sealed> Default for Tier<L> {
    fn default() -> Tier<L> {
        Tier::new()
    }
}

impl<'t, T: ?Sized> Held<'t, T, Static> {
    /// What is held, for as long as its tier is there: of a leaked tier, for ever.
    pub fn get(&self) -> &'t T {
        self.value
    }
}

impl<T: ?Sized, L> Deref for Held<'_, T, L> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T: ?Sized, L> Clone for Held<'_, T, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized, L> Copy for Held<'_, T, L> {}

impl<T: fmt::Debug + ?Sized, L> fmt::Debug for Held<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

    #[test]
    fn what_is_promoted_survives_its_request() {
        let session = Tier::<Session>::new();
        let process = Tier::<Static>::over(Arena::new());
        let mut request = Tier::<Request>::new();
        let (text, numbers) = (request.hold_str("abc"), request.hold_slice(&[1_u64, 2, 3]));
        let (text, numbers) = (session.promote(&text), session.promote(&numbers));
        let number = process.promote(&request.hold(7_u32));
        let kept = process.promote(&text);
        request.end();
        // Writes over what the request held.
        request.hold([0xFF_u8; 64]);
        drop(request);
        assert_eq!((&*text, &*numbers, *number, kept.get()), ("abc", [1, 2, 3].as_slice(), 7, "abc"));
    }

    #[test]
    fn an_ended_tier_keeps_its_memory() {
        let mut request = Tier::<Request>::new();
        request.hold([1_u8; 1000]);
        let before = request.counters();
        request.end();
        let after = request.counters();
        assert_eq!((before.used, after.used, after.reserved), (1000, 0, before.reserved));
        assert_eq!(after.idle, after.reserved);
    }

    #[test]
    fn no_memory_is_an_error() {
        let session = Tier::<Session>::over(Arena::with_options(crate::pool::arena::ArenaOptions {
            limit: 0,
            ..Default::default()
        }));
        let request = Tier::<Request>::new();
        let error = session.try_promote(&request.hold_str("abc")).unwrap_err();
        assert_eq!(error, AllocError::Exhausted(8));
        assert_eq!(session.counters().used, 0);
    }

    #[test]
    fn a_leaked_tier_holds_for_ever() {
        fn for_ever(held: Held<'static, str, Static>) -> &'static str {
            held.get()
        }
        // Where leak checkers find it.
        static LEAKED: AtomicPtr<Tier<Static>> = AtomicPtr::new(std::ptr::null_mut());
        let tier = Tier::<Static>::leak();
        LEAKED.store(std::ptr::from_ref(tier).cast_mut(), Relaxed);
        let text = for_ever(tier.hold_str("abc"));
        assert_eq!(std::thread::spawn(move || text.len()).join().unwrap(), 3);
    }
}
