//! `inspect`: which allocator, which sites, what would be missed; nothing is attached.

use crate::allocator::{Examination, examine};
use crate::config::{Format, InspectConfig, Subject};
use crate::failure::{Exit, Failure};
use crate::session::read_binary;
use crate::site::Site;
use crate::target;
use allocscope_common::site_id::{ResultPlace, Role, StepClass};
use anyhow::Result;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Prints the plan for a process or a file.
///
/// # Errors
/// A process or file that cannot be read, with its [`Exit`] code.
pub fn run(config: InspectConfig) -> Result<u8> {
    let (subject, examination) = match &config.subject {
        Subject::Pid(pid) => inspect_process(*pid)?,
        Subject::File(path) => (path.display().to_string(), inspect_file(path)?),
    };
    let view = View::new(&subject, &examination);
    let mut out = std::io::stdout().lock();
    match config.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&view)?)?,
        Format::Table => write!(out, "{}", view.text())?,
    }
    Ok(0)
}

fn inspect_process(pid: u32) -> Result<(String, Examination)> {
    let info = target::describe(pid).map_err(Failure::from)?;
    let opened = target::executable(pid).map_err(Failure::from)?;
    let libraries: Vec<String> = target::mapped_files(pid)
        .map_err(Failure::from)?
        .iter()
        .map(|mapped| mapped.path.display().to_string())
        .collect();
    let bytes = read_binary(&opened).map_err(|error| unreadable(&opened.path, &error.to_string()))?;
    let examination =
        examine(&bytes, &libraries).map_err(|error| unreadable(&opened.path, &error.to_string()))?;
    Ok((format!("{} ({pid}): {}", info.comm, info.exe.display()), examination))
}

fn inspect_file(path: &Path) -> Result<Examination> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error.to_string()))?;
    examine(&bytes, &[]).map_err(|error| unreadable(path, &error.to_string()))
}

fn unreadable(path: &Path, why: &str) -> anyhow::Error {
    Failure::error(Exit::BadBinary, format!("{} cannot be examined: {why}", path.display()))
}

/// What is printed.
#[derive(Serialize)]
struct View {
    subject: String,
    allocator: String,
    tier: &'static str,
    stripped: bool,
    build_id: Option<String>,
    sites: Vec<SiteView>,
    misses: Vec<MissView>,
}

#[derive(Serialize)]
struct SiteView {
    function: String,
    role: &'static str,
    function_offset: u64,
    file_offset: u64,
    instruction: String,
    class: &'static str,
    result: &'static str,
}

#[derive(Serialize)]
struct MissView {
    reason: &'static str,
    detail: String,
}

impl View {
    fn new(subject: &str, examination: &Examination) -> Self {
        Self {
            subject: subject.to_owned(),
            allocator: examination.allocator.clone(),
            tier: examination.tier(),
            stripped: examination.stripped,
            build_id: examination.build_id.clone(),
            sites: examination.plan.sites.iter().map(SiteView::new).collect(),
            misses: examination
                .plan
                .misses
                .iter()
                .map(|miss| MissView { reason: miss.reason, detail: miss.detail.clone() })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let stripped = if self.stripped { ", stripped" } else { "" };
        let mut text =
            format!("{}\nallocator {}{stripped}, tier {}\n", self.subject, self.allocator, self.tier);
        if let Some(build_id) = &self.build_id {
            text += &format!("build id  {build_id}\n");
        }
        for site in &self.sites {
            text += &format!(
                "{:<9} {}+{:#x}  file {:#x}  {:<28} {}{}\n",
                site.role,
                site.function,
                site.function_offset,
                site.file_offset,
                site.instruction,
                site.class,
                if site.result.is_empty() { String::new() } else { format!(", result {}", site.result) },
            );
        }
        if self.sites.is_empty() {
            text += "sites     none; mmap, munmap, mremap, madvise, brk and page faults are traced\n";
        }
        for miss in &self.misses {
            text += &format!("missed    {}: {}\n", miss.reason, miss.detail);
        }
        text
    }
}

impl SiteView {
    fn new(site: &Site) -> Self {
        Self {
            function: site.function.clone(),
            role: match site.id.role {
                Role::Entry => "entry",
                Role::Exit => "exit",
                Role::GcStart => "gc start",
                Role::Zeroing => "zeroing",
            },
            function_offset: site.function_offset,
            file_offset: site.file_offset,
            instruction: site.instruction.clone(),
            class: match site.id.step {
                StepClass::Emulated => "emulated",
                StepClass::Stepped => "single-stepped",
            },
            result: match (site.id.role, site.id.result) {
                (Role::Exit, ResultPlace::Register) => "in a register",
                (Role::Exit, ResultPlace::Stack) => "on the stack",
                (Role::Exit, ResultPlace::Unknown) => "unknown",
                _ => "",
            },
        }
    }
}
