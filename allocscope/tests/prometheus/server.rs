//! Debian's Prometheus: started with a configuration of its own, asked through its HTTP interface.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::child::{Folder, Running, within};
use crate::http::{encode, free_address, get, get_ok};

/// A program of the `prometheus` package that the set-up has unpacked.
pub fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("ALLOCSCOPE_TOOLS").map_or_else(default_tools, PathBuf::from);
    let path = tools.join("prometheus/usr/bin").join(name);
    assert!(path.is_file(), "there is no {}: run `cargo xtask setup`", path.display());
    path
}

/// `tools` in the target folder, which holds the profile's folder, which holds the program.
fn default_tools() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_allocscope"));
    program.ancestors().nth(2).unwrap().join("tools")
}

/// The repository's `dashboards` folder.
pub fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards").canonicalize().unwrap()
}

/// A Prometheus that scrapes allocscope and itself every second.
pub struct Prometheus {
    pub running: Running,
    pub address: SocketAddr,
    _folder: Folder,
}

impl Prometheus {
    /// Starts one that scrapes an allocscope and waits until it is ready.
    pub fn start(allocscope: SocketAddr, flags: &[&str]) -> Self {
        let (folder, address) = (Folder::new(), free_address());
        let config = folder.0.join("prometheus.yml");
        fs::write(&config, configuration(allocscope, address)).unwrap();
        let mut command = Command::new(tool("prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.0.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).args(flags);
        let mut running = Running::start(command.current_dir(&folder.0));
        within("Prometheus is ready", || {
            assert!(!running.has_ended(), "Prometheus ended: {}", running.stderr());
            get(address, "/-/ready").is_ok_and(|(status, _)| status == 200).then_some(())
        });
        Self { running, address, _folder: folder }
    }

    /// The `data` of an answer.
    pub fn ask(&self, path: &str) -> Value {
        let answer: Value = serde_json::from_str(&get_ok(self.address, path)).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The samples of an instant query.
    pub fn query(&self, expr: &str) -> Vec<Sample> {
        let data = self.ask(&format!("/api/v1/query?query={}", encode(expr)));
        assert_eq!(data["resultType"], "vector", "{expr}");
        data["result"].as_array().unwrap().iter().map(Sample::of).collect()
    }

    /// The value of a query whose result is one sample.
    pub fn value(&self, expr: &str) -> f64 {
        let samples = self.query(expr);
        assert_eq!(samples.len(), 1, "{expr}: {samples:?}");
        samples[0].value
    }

    /// Waits until a query has a result that is as wanted.
    pub fn wait_for(&self, expr: &str, wanted: impl Fn(f64) -> bool) {
        within(expr, || self.query(expr).iter().any(|sample| wanted(sample.value)).then_some(()));
    }

    /// The values of a label in the series of a selector.
    pub fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let data = self.ask(&format!("/api/v1/label/{label}/values?match[]={}", encode(selector)));
        data.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    }
}

/// One element of an instant vector; of a native histogram the value is NaN.
#[derive(Debug)]
pub struct Sample {
    pub labels: Value,
    pub value: f64,
}

impl Sample {
    fn of(result: &Value) -> Self {
        let value = result["value"][1].as_str().map_or(f64::NAN, |text| text.parse().unwrap());
        Self { labels: result["metric"].clone(), value }
    }
}

fn configuration(allocscope: SocketAddr, own: SocketAddr) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n\
         - job_name: allocscope\n  static_configs: [{{targets: ['{allocscope}']}}]\n\
         - job_name: prometheus\n  static_configs: [{{targets: ['{own}']}}]\n",
        dashboards().join("rules.yml").display()
    )
}
