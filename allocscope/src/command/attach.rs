//! `attach`: one running process, a live table, a final report.

use super::observed::Observed;
use super::tell;
use super::trace::{self, Live, Signals, Stop, Until};
use crate::allocator::native::Depth;
use crate::config::{AttachConfig, ProbeOptions, TraceOptions};
use crate::failure::{Exit, Failure};
use crate::preflight;
use crate::session::examine::Examiner;
use crate::session::{AdviceOn, Session, SessionOptions, Sink};
use crate::target;
use anyhow::Result;

/// The most processes at once where children are followed.
const MAX_FOLLOWED: u32 = 4096;

/// Traces until the process ends, `--duration` is over or a signal comes, then reports.
///
/// # Errors
/// Each with its [`Exit`] code.
pub fn run(config: AttachConfig) -> Result<u8> {
    trace::block_on(attach(config))
}

async fn attach(config: AttachConfig) -> Result<u8> {
    let mut observed = observe(&config, Live::new(&config.trace)).await?;
    observed.report(config.trace.format).await?;
    let early = observed.end == Stop::ProcessEnded && config.duration.is_some();
    Ok(if early { Exit::EndedEarly as u8 } else { 0 })
}

/// Traces until the process ends, the time is over or a signal comes.
pub(super) async fn observe(config: &AttachConfig, live: Live) -> Result<Observed<Stop>> {
    preflight::check()?;
    // Before anything is loaded, so that a wrong pid is told at once.
    let info = target::describe(config.pid).map_err(Failure::from)?;
    let mut signals = Signals::install()?;
    let mut server = trace::serve(config.trace.listen).await?;
    let mut session = Session::start(session_options(&config.trace))?;
    session.trace(config.pid)?;
    preflight::drop_privileges()?;
    tell_start(&info.comm, config.pid, &session);
    tell_small_cost(&session);
    if let Some(server) = &server {
        server.set_ready(true);
    }
    let until = Until { duration: config.duration, process: Some(config.pid), ignore_signals: false };
    let stop = trace::run(&mut session, &mut signals, until, live, &mut server).await?;
    trace::end_at_the_next_signal();
    if stop == Stop::ProcessEnded {
        let seconds = session.elapsed().as_secs_f64();
        tell(format_args!("process {} ended after {seconds:.1} s", config.pid));
    }
    Ok(Observed { session, server, end: stop })
}

/// A session of one process and, where they are followed, its children.
pub(super) fn session_options(trace: &TraceOptions) -> SessionOptions {
    SessionOptions {
        min_size_bytes: trace.min_size_bytes,
        max_processes: if trace.follow_children { MAX_FOLLOWED } else { 8 },
        follow_children: trace.follow_children,
        one_process: !trace.follow_children,
        selection: None,
        attach_via: trace.probe.attach_via,
        page_faults: trace.probe.page_faults,
        examiner: examiner(&trace.probe, trace.min_size_bytes),
        max_overhead_percent: trace.probe.max_overhead_percent,
        off_cpu: trace.probe.off_cpu,
        sink: trace.slow.slow.map(Sink::Slowest),
        stack_depth: trace.slow.stack_depth,
        log: log::log_enabled!(log::Level::Info),
        advice: AdviceOn::Run,
    }
}

/// The price of `--allow-small-cost`.
pub(super) fn tell_small_cost(session: &Session) {
    if let Some(ns) = session.small_cost_ns() {
        tell(format_args!(
            "each call of a probed function, of small blocks too, takes up to {ns:.0} ns longer: `allocscope inspect \
             --allow-small-cost` lists them"
        ));
    }
}

/// How files are examined.
pub(super) fn examiner(probe: &ProbeOptions, min_bytes: u64) -> Examiner {
    let depth = if probe.allow_small_cost { Depth::Filtered { min_bytes } } else { Depth::LargePath };
    Examiner { debug_dirs: probe.debug_dirs.clone(), depth, go_runtime: probe.go_runtime }
}

fn tell_start(comm: &str, pid: u32, session: &Session) {
    let rung = session.fault_rung().name();
    tell(format_args!("tracing {comm} ({pid}), page faults by {rung}; Ctrl-C ends it with a report"));
    if let Ok(binary) = target::executable(pid)
        && (binary.deleted || binary.replaced)
    {
        tell(format_args!(
            "{} was deleted or replaced since the process started; the image that runs is traced",
            binary.path.display()
        ));
    }
}
