//! Addresses of code into the names that people know, and stacks into such addresses.

mod callers;
mod demangle;
mod functions;
mod lines;
mod module;
mod place;
mod unwind;

pub use callers::{PlaceNames, callers};
pub use module::{Module, Names};
pub use place::{Mapped, ModuleId, NO_MODULE, Place, StackId, Stacks, places};
pub use unwind::{UnwindTables, Unwinder};
