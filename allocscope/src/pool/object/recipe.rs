//! What a pool knows of its items: how one is made, made clean and weighed.

use std::fmt;

/// What a pool knows of its items. Written as a type of its own it costs no indirect call; [`Hooks`] is the one that
/// [`Pool::builder`](crate::pool::Pool::builder) makes of closures.
///
/// A pool calls none of these while it is at work on its own memory: they may panic, and may use the pool.
pub trait Recipe<T>: Send + Sync {
    /// Whether [`reset`](Self::reset) is too much to have where each guard is dropped.
    const CALLED: bool = false;

    /// Makes an item.
    fn make(&self) -> T;

    /// Makes an item or says why it cannot.
    ///
    /// # Errors
    ///
    /// [`PoolError::Factory`] or [`PoolError::Memory`].
    fn try_make(&self) -> Result<T, PoolError> {
        Ok(self.make())
    }

    /// Makes an item that comes back as good as new; `false` where that cannot be, and it is dropped.
    #[inline(always)]
    fn reset(&self, item: &mut T) -> bool {
        let _ = item;
        true
    }

    /// Whether [`reset`](Self::reset) does nothing and items do not differ in size, as can be told where
    /// [`CALLED`](Self::CALLED).
    #[inline(always)]
    fn is_plain(&self) -> bool {
        false
    }

    /// Whether items differ in size: only then is [`bytes`](Self::bytes) asked of each.
    #[inline(always)]
    fn weighs(&self) -> bool {
        false
    }

    /// Bytes that an idle item holds, where they do not differ.
    #[inline(always)]
    fn usual_bytes(&self) -> usize {
        size_of::<T>()
    }

    /// Bytes that an idle item holds. Must be the same from `put` to `get`.
    #[inline(always)]
    fn bytes(&self, item: &T) -> usize {
        let _ = item;
        self.usual_bytes()
    }
}

/// A recipe of closures.
pub struct Hooks<T> {
    pub(super) make: Box<dyn Fn() -> T + Send + Sync>,
    pub(super) try_make: Option<TryMake<T>>,
    pub(super) reset: Option<fn(&mut T) -> bool>,
    pub(super) bytes: Option<fn(&T) -> usize>,
    /// Neither of the two is there.
    pub(super) plain: bool,
}

pub(super) type TryMake<T> = Box<dyn Fn() -> Result<T, PoolError> + Send + Sync>;

impl<T> Recipe<T> for Hooks<T> {
    const CALLED: bool = true;

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.plain
    }

    fn make(&self) -> T {
        (self.make)()
    }

    fn try_make(&self) -> Result<T, PoolError> {
        self.try_make.as_ref().map_or_else(|| Ok(self.make()), |make| make())
    }

    #[inline(always)]
    fn reset(&self, item: &mut T) -> bool {
        self.reset.is_none_or(|reset| reset(item))
    }

    #[inline(always)]
    fn weighs(&self) -> bool {
        self.bytes.is_some()
    }

    #[inline(always)]
    fn bytes(&self, item: &T) -> usize {
        self.bytes.map_or(size_of::<T>(), |bytes| bytes(item))
    }
}

/// Why a pool has no item to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// `max_total` items are out, and none came back within `max_wait`.
    Exhausted,
    /// There is no memory for so many bytes.
    Memory(usize),
    /// The factory cannot make one, for this reason.
    Factory(&'static str),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("as many items are in use as the pool may have"),
            Self::Memory(bytes) => write!(f, "no memory for {bytes} bytes"),
            Self::Factory(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for PoolError {}
