//! allocscope with Debian's real Prometheus: as what scrapes it, as what reads its rules, and as what it traces.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod allocscope;
mod child;
mod dashboard;
mod exemplars;
mod files;
mod http;
mod scrape;
mod server;
mod target;
