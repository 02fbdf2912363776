//! Prometheus and promtool under `tools/prometheus`: unpacked, since installed it would start a service.

use super::folder::{WorkFolder, replace};
use super::{Item, debian};
use crate::run;
use anyhow::{Result, bail};
use std::process::Command;

/// Prometheus and its promtool.
pub struct Prometheus;

impl Item for Prometheus {
    fn name(&self) -> String {
        "Prometheus".into()
    }

    fn present(&self) -> Option<String> {
        let programs = run::tools_dir().ok()?.join("prometheus/usr/bin");
        run::prints(Command::new(programs.join("promtool")).arg("--version"))?;
        let said = run::prints(Command::new(programs.join("prometheus")).arg("--version"))?;
        let version = said.split_whitespace().nth(2)?;
        Some(format!("{version}, with promtool"))
    }

    fn install(&self) -> Result<()> {
        let place = run::tools_dir()?.join("prometheus");
        let work = WorkFolder::new("prometheus")?;
        let by_hand = format!("put prometheus and promtool into {}/usr/bin by hand", place.display());
        debian::unpack(&["prometheus"], &work.0, &by_hand)?;
        if !work.0.join("usr/bin/promtool").is_file() {
            bail!("this system's package has no promtool: {by_hand}");
        }
        replace(&work.0, &place)
    }
}
