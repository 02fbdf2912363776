//! allocscope itself: the daemon, and the bundled workloads as processes to trace.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::child::{Running, within};
use crate::http::{get, get_ok};

fn program(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allocscope"));
    command.args(line.split_whitespace());
    command
}

/// A daemon that traces.
pub struct Daemon {
    pub running: Running,
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts `allocscope daemon` with this selection and waits until it is ready.
    pub fn start(selection: &str, listen: SocketAddr) -> Self {
        let mut running = Running::start(&mut program(&format!("daemon {selection} --listen {listen}")));
        within("the daemon is ready", || {
            assert!(!running.has_ended(), "the daemon ended: {}", running.stderr());
            get(listen, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(())
        });
        Self { running, address: listen }
    }

    /// What is scraped, as text.
    pub fn metrics(&self) -> String {
        get_ok(self.address, "/metrics")
    }

    /// Waits until a process is traced.
    pub fn wait_for_process(&self, pid: u32) {
        let start = format!("allocscope_process_up{{pid=\"{pid}\",");
        within("the process is traced", || self.metrics().contains(&start).then_some(()));
    }
}

/// The sum of a family's samples whose labels contain all of these.
pub fn sum(metrics: &str, family: &str, labels: &[&str]) -> f64 {
    let of_family = metrics.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix('{'));
    let samples = of_family.filter_map(|line| line.rsplit_once("} "));
    let wanted = samples.filter(|(found, _)| labels.iter().all(|label| found.contains(label)));
    wanted.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// A workload that begins when told to.
pub struct Workload {
    pub running: Running,
}

impl Workload {
    pub fn start(line: &str) -> Self {
        let mut command = program(&format!("workload {line} --wait-stdin"));
        Self { running: Running::start(command.stdin(Stdio::piped())) }
    }

    pub fn begin(&mut self) {
        self.running.close_stdin();
    }

    /// What it says of itself, when it has ended.
    pub fn truth(&mut self) -> Value {
        assert!(self.running.wait().success(), "{}", self.running.stderr());
        serde_json::from_str(&self.running.stdout()).unwrap()
    }
}
