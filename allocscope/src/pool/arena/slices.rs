//! Slices, texts and bytes into an arena.

use super::{AllocError, Arena, fail};
use std::alloc::Layout;
use std::mem::{self, MaybeUninit};
use std::ptr::NonNull;
use std::slice;

#[allow(clippy::mut_from_ref, reason = "each call returns memory that no other call has returned")]
impl Arena {
    /// Places a copy of a slice.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc_slice_copy<T: Copy>(&self, source: &[T]) -> &mut [T] {
        self.try_alloc_slice_copy(source).unwrap_or_else(|error| fail(error))
    }

    /// Places a copy of a slice.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn try_alloc_slice_copy<T: Copy>(&self, source: &[T]) -> Result<&mut [T], AllocError> {
        let place = self.place(Layout::for_value(source))?.cast::<T>();
        // SAFETY: room for the slice, aligned, and nobody else's while the arena is borrowed.
        unsafe {
            place.copy_from_nonoverlapping(NonNull::from(source).cast(), source.len());
            Ok(slice::from_raw_parts_mut(place.as_ptr(), source.len()))
        }
    }

    /// Places a clone of a slice. Where a clone panics, those before it are lost in the arena.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc_slice_clone<T: Clone>(&self, source: &[T]) -> &mut [T] {
        self.alloc_slice_fill_with(source.len(), |at| source[at].clone())
    }

    /// Places a clone of a slice.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn try_alloc_slice_clone<T: Clone>(&self, source: &[T]) -> Result<&mut [T], AllocError> {
        self.try_alloc_slice_fill_with(source.len(), |at| source[at].clone())
    }

    /// Places `len` values, the one at `i` being `make(i)`.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc_slice_fill_with<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> &mut [T] {
        self.try_alloc_slice_fill_with(len, make).unwrap_or_else(|error| fail(error))
    }

    /// Places `len` values, the one at `i` being `make(i)`.
    ///
    /// # Errors
    ///
    /// There is no memory; `make` is not called then.
    pub fn try_alloc_slice_fill_with<T>(
        &self,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&mut [T], AllocError> {
        const { assert!(!mem::needs_drop::<T>(), "an arena runs no destructors: use a DropArena") };
        let layout = Layout::array::<T>(len).map_err(|_| AllocError::Impossible)?;
        let place = self.place(layout)?.cast::<T>();
        for at in 0..len {
            // SAFETY: room for `len` values.
            unsafe { place.add(at).write(make(at)) };
        }
        // SAFETY: all are written; nobody else's while the arena is borrowed.
        Ok(unsafe { slice::from_raw_parts_mut(place.as_ptr(), len) })
    }

    /// Places a copy of a text.
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[inline]
    #[track_caller]
    pub fn alloc_str(&self, source: &str) -> &mut str {
        self.try_alloc_str(source).unwrap_or_else(|error| fail(error))
    }

    /// Places a copy of a text.
    ///
    /// # Errors
    ///
    /// There is no memory.
    #[inline]
    pub fn try_alloc_str(&self, source: &str) -> Result<&mut str, AllocError> {
        let bytes = self.try_alloc_slice_copy(source.as_bytes())?;
        // SAFETY: a copy of a text.
        Ok(unsafe { std::str::from_utf8_unchecked_mut(bytes) })
    }

    /// Memory of `len` bytes at a multiple of `align`, a power of two, holding nothing of meaning.
    ///
    /// # Panics
    ///
    /// There is no memory, or `align` is not a power of two. [`Arena::alloc_block`] finds that at compile time.
    #[inline]
    #[track_caller]
    pub fn alloc_bytes(&self, len: usize, align: usize) -> &mut [MaybeUninit<u8>] {
        self.try_alloc_bytes(len, align).unwrap_or_else(|error| fail(error))
    }

    /// Memory of `len` bytes at a multiple of `align`, a power of two, holding nothing of meaning.
    ///
    /// # Errors
    ///
    /// There is no memory, or `align` is not a power of two.
    #[inline]
    pub fn try_alloc_bytes(&self, len: usize, align: usize) -> Result<&mut [MaybeUninit<u8>], AllocError> {
        let layout = Layout::from_size_align(len, align).map_err(|_| AllocError::Impossible)?;
        let place = self.place(layout)?;
        // SAFETY: that many bytes, which need not be written, nobody else's while the arena is borrowed.
        Ok(unsafe { slice::from_raw_parts_mut(place.as_ptr().cast(), len) })
    }

    /// As [`Arena::alloc_bytes`], all zero.
    ///
    /// # Panics
    ///
    /// As [`Arena::alloc_bytes`].
    #[track_caller]
    pub fn alloc_zeroed(&self, len: usize, align: usize) -> &mut [u8] {
        self.try_alloc_zeroed(len, align).unwrap_or_else(|error| fail(error))
    }

    /// As [`Arena::try_alloc_bytes`], all zero.
    ///
    /// # Errors
    ///
    /// As [`Arena::try_alloc_bytes`].
    pub fn try_alloc_zeroed(&self, len: usize, align: usize) -> Result<&mut [u8], AllocError> {
        let bytes = self.try_alloc_bytes(len, align)?.as_mut_ptr().cast::<u8>();
        // SAFETY: that many bytes, all of which are written.
        unsafe {
            bytes.write_bytes(0, len);
            Ok(slice::from_raw_parts_mut(bytes, len))
        }
    }

    /// Memory of a size and an alignment that are checked at compile time, holding nothing of meaning.
    ///
    /// ```
    /// let arena = allocscope::pool::arena::Arena::new();
    /// assert_eq!(arena.alloc_block::<100, 4096>().as_ptr().addr() % 4096, 0);
    /// ```
    ///
    /// ```compile_fail,E0080
    /// let arena = allocscope::pool::arena::Arena::new();
    /// arena.alloc_block::<100, 4095>(); // no power of two
    /// ```
    ///
    /// ```compile_fail,E0080
    /// let arena = allocscope::pool::arena::Arena::new();
    /// arena.alloc_block::<0, 4096>(); // nothing
    /// ```
    ///
    /// # Panics
    ///
    /// There is no memory.
    #[track_caller]
    pub fn alloc_block<const LEN: usize, const ALIGN: usize>(&self) -> &mut [MaybeUninit<u8>; LEN] {
        self.try_alloc_block::<LEN, ALIGN>().unwrap_or_else(|error| fail(error))
    }

    /// As [`Arena::alloc_block`].
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn try_alloc_block<const LEN: usize, const ALIGN: usize>(
        &self,
    ) -> Result<&mut [MaybeUninit<u8>; LEN], AllocError> {
        let layout = const {
            assert!(LEN > 0, "a block of no bytes");
            assert!(ALIGN.is_power_of_two(), "an alignment is a power of two");
            match Layout::from_size_align(LEN, ALIGN) {
                Ok(layout) => layout,
                Err(_) => panic!("a block larger than the address space"),
            }
        };
        let place = self.place(layout)?.cast();
        // SAFETY: that many bytes, which need not be written, nobody else's while the arena is borrowed.
        Ok(unsafe { &mut *place.as_ptr() })
    }
}
