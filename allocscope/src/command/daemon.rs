//! `daemon`: many processes, as they come and go, for Prometheus.

use super::tell;
use super::trace::{self, Live, Server, Signals, Until};
use crate::config::{DaemonConfig, Selection};
use crate::preflight;
use crate::session::{AdviceOn, Session, SessionOptions, Sink};
use anyhow::Result;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Each with its [`crate::failure::Exit`] code.
pub fn run(config: DaemonConfig) -> Result<u8> {
    trace::block_on(serve(config))
}

async fn serve(config: DaemonConfig) -> Result<u8> {
    preflight::check()?;
    let mut signals = Signals::install()?;
    let server = Server::start(config.listen).await?;
    let by_pid = matches!(config.selection, Selection::Pids(_));
    let mut session = Session::start(SessionOptions {
        min_size_bytes: config.min_size_bytes,
        max_processes: config.max_processes,
        follow_children: !by_pid,
        one_process: false,
        attach_via: config.probe.attach_via,
        page_faults: config.probe.page_faults,
        examiner: super::attach::examiner(&config.probe, config.min_size_bytes),
        max_overhead_percent: config.probe.max_overhead_percent,
        off_cpu: config.probe.off_cpu,
        selection: (!by_pid).then(|| config.selection.clone()),
        sink: config.slow.slow.map(Sink::Slowest),
        stack_depth: config.slow.stack_depth,
        log: log::log_enabled!(log::Level::Info),
        advice: AdviceOn::Recent,
    })?;
    match &config.selection {
        Selection::Pids(pids) => {
            for &pid in pids {
                session.trace(pid)?;
            }
        }
        _ => session.trace_selected()?,
    }
    preflight::drop_privileges()?;
    super::attach::tell_small_cost(&session);
    server.set_ready(true);
    tell(format_args!(
        "tracing {} processes, page faults by {}; metrics at http://{}/metrics",
        session.running(),
        session.fault_rung().name(),
        server.address
    ));
    let mut server = Some(server);
    trace::run(&mut session, &mut signals, Until::default(), Live::silent(), &mut server).await?;
    if let Some(server) = server {
        server.stop(&mut session).await;
    }
    Ok(0)
}
