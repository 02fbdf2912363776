//! A plan into live links. What could not be attached is data, not an error.
//!
//! Every link is owned by a file descriptor of this process: dropping it detaches, and so does the
//! kernel when the process is killed.

mod batch;
mod btf;
mod faults;
mod ladder;
mod load;
mod perf_link;
mod raw;
mod sites;
mod system;
mod tracefs;

pub use batch::WholeMap;
pub use faults::FaultRung;
pub use load::{LoadOptions, Loaded, load};
pub use raw::data_of;
pub use sites::{AttachedSites, Returns, Scope};
pub use system::SystemProbes;
pub use tracefs::Tracefs;

/// Drops links that each take the kernel a grace period, from a thread each: they wait together.
fn close_together<T: Send>(links: Vec<T>) {
    if links.len() < 2 {
        return drop(links);
    }
    std::thread::scope(|scope| {
        for link in links {
            scope.spawn(move || drop(link));
        }
    });
}
