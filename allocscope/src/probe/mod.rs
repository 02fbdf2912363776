//! A plan into live links. What could not be attached is data, not an error.
//!
//! Every link is owned by a file descriptor of this process: dropping it detaches, and so does the
//! kernel when the process is killed.

mod faults;
mod load;
mod perf_link;
mod sites;
mod system;
mod tracefs;

pub use faults::FaultRung;
pub use load::{LoadOptions, Loaded, load};
pub use sites::{AttachedSites, Scope};
pub use system::SystemProbes;
pub use tracefs::Tracefs;
