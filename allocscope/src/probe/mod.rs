//! A plan into live links. What could not be attached is data, not an error.
//!
//! Every link is owned by a file descriptor of this process, its own or that of a file system that holds it:
//! dropping it detaches, and so does the kernel when the process is killed.

mod batch;
mod called;
mod calls;
mod causes;
mod detached;
mod faults;
pub mod fd_info;
mod held;
mod kernel_types;
mod ladder;
mod load;
mod mapped;
mod perf_link;
mod raw;
mod sites;
mod system;
mod tracefs;

pub use batch::WholeMap;
pub use called::{makes_calls, own_place};
pub use calls::CallRung;
pub use faults::FaultRung;
pub use load::{LoadOptions, Loaded, load};
pub use mapped::MappedArray;
pub use raw::data_of;
pub use sites::{AttachedSites, PoolProbes, PoolSites, Returns, Scope};
pub use system::SystemProbes;
pub use tracefs::Tracefs;
