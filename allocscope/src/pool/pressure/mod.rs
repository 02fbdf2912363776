//! Signals of scarce memory into how much of what pools hold idle is given back.
//!
//! What holds memory implements [`Release`]; what knows how scarce memory is implements [`Signal`].

/// Something that holds memory which nobody uses now and which it can give back.
pub trait Release {
    /// Bytes held idle.
    fn idle_bytes(&self) -> usize;

    /// Gives back about so many of them; says how many bytes it were. May give back more by less than one item (a
    /// buffer is given back whole).
    fn release(&self, bytes: usize) -> usize;

    /// The same with the way in which pages go back to the kernel, for what has pages of its own.
    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        let _ = advice;
        self.release(bytes)
    }
}

impl<R: Release + ?Sized> Release for &R {
    fn idle_bytes(&self) -> usize {
        (**self).idle_bytes()
    }

    fn release(&self, bytes: usize) -> usize {
        (**self).release(bytes)
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        (**self).release_with(bytes, advice)
    }
}

impl<R: Release + ?Sized> Release for std::sync::Arc<R> {
    fn idle_bytes(&self) -> usize {
        (**self).idle_bytes()
    }

    fn release(&self, bytes: usize) -> usize {
        (**self).release(bytes)
    }

    fn release_with(&self, bytes: usize, advice: Advice) -> usize {
        (**self).release_with(bytes, advice)
    }
}

/// How pages go back to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Advice {
    /// `MADV_FREE`: the kernel takes the pages when it needs them; until then they count as used, and using them
    /// again costs no fault.
    Free,
    /// `MADV_DONTNEED`: the pages are gone at once, as does the share of memory that they were.
    #[default]
    DontNeed,
}

/// What a signal is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The moment, since whatever moment the caller counts from.
    pub now: std::time::Duration,
    /// Bytes held idle by all that can give back.
    pub idle_bytes: usize,
    /// Bytes below which giving back is not worth it.
    pub least_bytes: usize,
}

/// How much of what is idle may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The signal knows nothing (the kernel does not tell, no reading yet, too old a reading), and why.
    Unknown(&'static str),
    /// All of it.
    All,
    /// At most so many bytes.
    Bytes(usize),
}

/// Something that knows how scarce memory is.
pub trait Signal: Send {
    /// Its name, as counters tell it.
    fn name(&self) -> &'static str;

    /// Takes a new reading; the only place where a signal touches the world.
    fn look(&mut self, now: std::time::Duration);

    /// What may stay by the last reading, and how the rest goes back.
    fn keep(&mut self, asked: &Asked) -> Keep;

    /// How pages should go back while this signal asks for it.
    fn advice(&self) -> Advice {
        Advice::DontNeed
    }
}
